"""A card as a value: a raster with texts and lines on it, which can be read back.

Landscape, with large letters: TensorBoard's Time Series draws images about 185 pixels high whatever their width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lightning_recipe.figures.canvas import HEIGHT, TOP, WIDTH, WRONG, shortened

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Box(NamedTuple):
    """A part of a card, in pixels from its top left corner; `right` and `bottom` are outside."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Pixels."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Pixels."""
        return self.bottom - self.top


BODY = Box(4, TOP, WIDTH - 4, HEIGHT - 4)
"""What lies below the title."""


@dataclass(frozen=True)
class Text:
    """Text on a card: `anchor` is Pillow's, "ls" for the left end on the baseline."""

    x: float
    y: float
    text: str
    colour: str = "black"
    anchor: str = "ls"


@dataclass(frozen=True)
class Line:
    """A line through points of shape (n, 2); where they are NaN is a gap."""

    points: NDArray[np.float64]
    colour: str
    width: int = 2
    dashed: bool = False


@dataclass
class Picture:
    """A card.

    Attributes:
        title: What it is, in one line.
        note: How to read it, such as what black and white stand for: right of the title.
        raster: Array of shape (`HEIGHT`, `WIDTH`, 3), 0 to 255.
        texts: What is written on it.
        lines: What is drawn on it.

    Example:
        >>> from lightning_recipe.figures.canvas import pixels
        >>> picture = Picture("train image", "black 0, white 1")
        >>> picture.write(4, 60, "label 3")
        >>> pixels(picture).shape
        (360, 640, 3)

    """

    title: str
    note: str = ""
    raster: NDArray[np.uint8] = field(default_factory=lambda: np.full((HEIGHT, WIDTH, 3), 255, np.uint8))
    texts: list[Text] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    def write(  # noqa: PLR0913
        self, x: float, y: float, text: str, colour: str = "black", *, anchor: str = "ls", width: float = 0
    ) -> None:
        """Write `text`, as much of it as `width` allows."""
        if text:
            self.texts.append(Text(x, y, shortened(text, width) if width else text, colour, anchor))

    def draw(self, points: Any, colour: str, width: int = 2, *, dashed: bool = False) -> None:
        """Draw a line through points of shape (n, 2)."""
        self.lines.append(Line(np.asarray(points, np.float64), colour, width, dashed))

    def frame(self, box: Box, colour: str, width: int = 2, *, dashed: bool = False) -> None:
        """Draw a rectangle."""
        left, top, right, bottom = box
        corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
        self.draw(corners, colour, width, dashed=dashed)

    def cross(self, x: float, y: float, colour: str = WRONG, arm: float = 7, width: int = 3) -> None:
        """Draw a cross around a point."""
        self.draw([(x - arm, y - arm), (x + arm, y + arm)], colour, width)
        self.draw([(x - arm, y + arm), (x + arm, y - arm)], colour, width)

    def mistake(self, box: Box) -> None:
        """Mark a part as wrong: a frame, and a cross in its corner, on white so that it is seen on any ground."""
        self.frame(box, WRONG, 4)
        self.fill(Box(box.right - 26, box.top, box.right, box.top + 26), (255, 255, 255))
        self.cross(box.right - 13, box.top + 13)

    def fill(self, box: Box, colour: Any) -> None:
        """Fill a part of the raster with a shade or a colour, 0 to 255."""
        left, top, right, bottom = (max(0, round(edge)) for edge in box)
        self.raster[top:bottom, left:right] = colour

    def paste(self, left: float, top: float, part: NDArray[np.uint8]) -> Box:
        """Lay pixels of shape (h, w, 3) on the raster, what is too large is cut; where they lie."""
        x, y = round(left), round(top)
        place = self.raster[y : y + part.shape[0], x : x + part.shape[1]]
        place[...] = part[: place.shape[0], : place.shape[1]]
        return Box(x, y, x + place.shape[1], y + place.shape[0])

    @property
    def words(self) -> list[str]:
        """All that is written on it, but for title and note."""
        return [text.text for text in self.texts]
