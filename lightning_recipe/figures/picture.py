"""A card that is exact to the pixel: a title that is never clipped, below it a raster with texts and lines on it.

One image on one pair of axes is ten times faster than axes for each example, and what is drawn can be read back.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.collections import LineCollection
from matplotlib.font_manager import FontProperties

from lightning_recipe.figures.canvas import DPI, FONT_SIZE, card

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

SMALL = 9
"""Points; for labels of single examples."""
WIDTH = 350
"""Pixels of a card in TensorBoard's Images tab: there a picture this wide is shown pixel by pixel."""
MARGIN = 4
"""Pixels above, between and below title and picture."""
LINE = 19
"""Pixels from one line of a title to the next."""


@dataclass(frozen=True)
class Text:
    """Text in a picture: its left end on the baseline, in pixels from the top left corner."""

    x: float
    y: float
    text: str
    colour: str = "black"
    size: float = SMALL


@dataclass
class Picture:
    """What a card shows below its title, in pixels from the top left corner of that part.

    Attributes:
        raster: Array of shape (height, width, 3), 0 to 255, at most `WIDTH` wide.
        texts: What is written on it.
        lines: Points of shape (n, 2), and a colour, each.
        notes: What a reader must know of it, for the title.

    """

    raster: NDArray[np.uint8]
    texts: list[Text] = field(default_factory=list)
    lines: list[tuple[NDArray[np.float64], str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def blank(height: int, width: int = WIDTH) -> NDArray[np.uint8]:
    """A white raster.

    Example:
        >>> blank(2, 3).shape
        (2, 3, 3)

    """
    return np.full((height, width, 3), 255, np.uint8)


def shown(title: list[str], picture: Picture) -> Figure:
    """`picture` below a title.

    Args:
        title: Paragraphs, each wrapped to the width of the card.
        picture: The picture.

    Example:
        >>> figure = shown(["net.x (2, 3) float32"], Picture(blank(100)))
        >>> figure.axes[0].images[0].get_array().shape
        (100, 350, 3)

    """
    lines = [line for paragraph in title for line in wrapped(paragraph, WIDTH - 4)]
    height, width = picture.raster.shape[:2]
    total = MARGIN + LINE * len(lines) + MARGIN + height + MARGIN
    figure = card("", width=WIDTH / DPI, height=total / DPI)
    figure.set_layout_engine("none")
    for i, line in enumerate(lines):
        y = 1 - (MARGIN + LINE * (i + 0.8)) / total
        figure.text(2 / WIDTH, y, line, fontsize=FONT_SIZE, va="baseline", parse_math=False)
    axes = figure.add_axes((0, MARGIN / total, width / WIDTH, height / total))
    axes.axis("off")
    axes.imshow(picture.raster, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")
    if picture.lines:
        points, colours = zip(*picture.lines, strict=True)
        axes.add_collection(LineCollection(points, colors=colours, linewidths=1.0), autolim=False)
    axes.set(xlim=(0, width), ylim=(height, 0))
    for text in picture.texts:
        axes.text(text.x, text.y, text.text, color=text.colour, fontsize=text.size, parse_math=False)
    return figure


def title_of(figure: Figure) -> str:
    """The title of a figure made by :func:`shown`, on one line.

    Example:
        >>> title_of(shown(["net.x (2, 3) float32, and more than would fit on one line"], Picture(blank(9))))
        'net.x (2, 3) float32, and more than would fit on one line'

    """
    return " ".join(text.get_text() for text in figure.texts if text.get_text()).replace("\N{NO-BREAK SPACE}", " ")


def wrapped(text: str, width: float = WIDTH, size: float = FONT_SIZE) -> list[str]:
    """`text` in lines of at most `width` pixels, broken at spaces (not no-break ones) and in words that are longer.

    Example:
        >>> wrapped("mean 0.25, std 1.00", width=100)
        ['mean 0.25,', 'std 1.00']

    """
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        if line and text_width(f"{line} {word}", size) <= width:
            line = f"{line} {word}"
            continue
        lines += [line] if line else []
        line = word
        while text_width(line, size) > width and len(line) > 1:
            head = shortened(line, width, size, end="")
            lines.append(head)
            line = line[len(head) :]
    return [*lines, line]


def shortened(text: str, width: float, size: float = SMALL, end: str = "..") -> str:
    """As much of `text` as fits `width` pixels, at least one character of it.

    Example:
        >>> shortened("a long label", width=60)
        'a long l..'
        >>> shortened("short", width=60)
        'short'

    """
    if text_width(text, size) <= width:
        return text
    low, high = 1, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if text_width(text[:middle] + end, size) <= width else (low, middle)
    return text[:low] + end


def text_width(text: str, size: float = SMALL) -> float:
    """How wide `text` is, in pixels, without kerning.

    Example:
        >>> text_width("mmm") > text_width("iii")
        True

    """
    return sum(_advance(character, size) for character in text)


@functools.lru_cache(maxsize=4096)
def _advance(character: str, size: float) -> float:
    """Measured in tens, since the ink of one letter says nothing of the space around it."""
    width = _ruler().get_text_width_height_descent(character * 10, FontProperties(size=size), ismath=False)[0]
    return float(width) / 10


@functools.lru_cache(maxsize=1)
def _ruler() -> RendererAgg:
    return RendererAgg(1, 1, DPI)
