"""What all cards share: size, letters, colours, and the way to pixels, by Pillow, in a tenth of the time of axes."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightning_recipe.figures.picture import Line, Picture

WIDTH, HEIGHT = 640, 360
"""Pixels of a card: 16:9, as TensorBoard's cards are, and sharp at half the size."""
SIZE = 20
"""Pixels of a letter's height on the card: 10 where it is drawn 185 pixels high."""
LINE = 26
"""Pixels from one line of text to the next."""
TOP = 34
"""Pixels down to where the picture begins, below its title."""
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
"""Okabe and Ito (2008), Color Universal Design: told apart with any kind of colour vision."""
WRONG = COLOURS[3]
"""What marks mistakes, with a cross or hatching beside it."""
GREY = "#666666"
FAINT = "#CCCCCC"
PAPER = 245
"""The shade of what lies behind lines."""
CIVIDIS = np.array(
    [
        (0, 34, 78), (18, 53, 112), (59, 73, 108), (87, 93, 109), (112, 113, 115),
        (138, 134, 120), (165, 156, 116), (195, 180, 105), (225, 204, 85), (254, 232, 56),
    ],
    np.float64,
)  # fmt: skip
"""Nunez, Anderton and Renslow (2018): dark blue to yellow, told apart with any kind of colour vision."""


def pixels(picture: Picture) -> NDArray[np.uint8]:
    """The card as an image, for TensorBoard.

    Returns:
        Array of shape (`HEIGHT`, `WIDTH`, 3), 0 to 255; white behind, so that it reads on a dark page, too.

    """
    image = Image.fromarray(picture.raster)
    draw = ImageDraw.Draw(image)
    for line in picture.lines:
        for piece in _pieces(line):
            draw.line(piece.ravel().tolist(), fill=line.colour, width=line.width, joint="curve")
    for text in picture.texts:
        draw.text((text.x, text.y), written(text.text), fill=text.colour, font=font(), anchor=text.anchor)
    note = shortened(picture.note, WIDTH * 0.7)
    title = shortened(picture.title, WIDTH - 8 - (text_width(note) + 16 if note else 0))
    draw.text((4, TOP - 12), written(title), fill="black", font=font(), anchor="ls")
    draw.text((WIDTH - 4, TOP - 12), written(note), fill=GREY, font=font(), anchor="rs")
    return np.asarray(image).copy()


def _pieces(line: Line) -> list[NDArray[np.float64]]:
    """The parts of a line that are drawn: between gaps, and dashes of 8 pixels."""
    finite = np.isfinite(line.points).all(axis=1)
    ends = np.flatnonzero(~finite)
    runs = [run[np.isfinite(run).all(axis=1)] for run in np.split(line.points.clip(-2 * WIDTH, 2 * WIDTH), ends)]
    if line.dashed:
        runs = [dash for run in runs for dash in _dashes(run)]
    return [run for run in runs if len(run) > 1]


def _dashes(points: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    if len(points) < 2:  # noqa: PLR2004
        return []
    along = np.concatenate([[0], np.hypot(*np.diff(points, axis=0).T).cumsum()])
    starts = np.arange(0, along[-1], 14)
    at = np.linspace(starts, np.minimum(starts + 8, along[-1]), 4, axis=1)
    return list(np.stack([np.interp(at, along, points[:, i]) for i in (0, 1)], axis=-1))


# -- colours


def rgb(colour: str) -> NDArray[np.uint8]:
    """A colour such as ``#0072B2`` as three numbers, 0 to 255.

    Example:
        >>> rgb("#0072B2").tolist()
        [0, 114, 178]

    """
    return np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)


def heat(values: Any, span: tuple[float, float]) -> NDArray[np.uint8]:
    """Numbers as colours from dark blue to yellow, shape (..., 3); NaN in orange.

    Example:
        >>> heat([[0.0, 1.0]], (0.0, 1.0)).tolist()
        [[[0, 34, 78], [254, 232, 56]]]

    """
    array = np.asarray(values, np.float64)
    low, high = span
    scaled = np.clip(np.nan_to_num((array - low) / ((high - low) or 1.0), nan=0.0, posinf=1.0, neginf=0.0), 0, 1)
    places = np.linspace(0, 1, len(CIVIDIS))
    colours = np.stack([np.interp(scaled, places, CIVIDIS[:, i]) for i in range(3)], axis=-1).round().astype(np.uint8)
    colours[np.isnan(array)] = rgb(COLOURS[3])
    return colours


# -- letters


def shortened(text: str, width: float, end: str = "..") -> str:
    """As much of `text` as fits `width` pixels, at least one character of it.

    Example:
        >>> shortened("a long label", width=80)
        'a long ..'
        >>> shortened("short", width=80)
        'short'

    """
    text = text[:500]
    if text_width(text) <= width:
        return text
    low, high = 1, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if text_width(text[:middle] + end) <= width else (low, middle)
    return text[:low] + end


def wrapped(text: str, width: float, lines: int) -> list[str]:
    """`text` in at most so many lines of `width` pixels, broken at spaces where there are some.

    Example:
        >>> wrapped("a text of several words", width=120, lines=2)
        ['a text of', 'several wo..']

    """
    made: list[str] = []
    while text and len(made) < lines - 1 and text_width(text[:500]) > width:
        head = shortened(text, width, end="")
        head = head[: head.rindex(" ") + 1] if " " in head[1:] else head
        made.append(head.rstrip())
        text = text[len(head) :]
    return [*made, shortened(text, width)] if text else made


def text_width(text: str) -> float:
    """How wide `text` is, in pixels, without kerning.

    Example:
        >>> text_width("mmm") > text_width("iii")
        True

    """
    return sum(map(_advance, written(text)))


def written(text: str) -> str:
    """`text` on one line; characters that the font lacks as in Python's source."""
    return "".join(map(_known, text))


@functools.lru_cache(maxsize=4096)
def _known(character: str) -> str:
    if character.isascii() and character.isprintable():
        return character
    lacks = not character.isprintable() or bytes(font().getmask(character)) == bytes(font().getmask("\U0010fffe"))
    return character.encode("unicode_escape").decode() if lacks else character


@functools.lru_cache(maxsize=4096)
def _advance(character: str) -> float:
    return float(font().getlength(character))


@functools.lru_cache(maxsize=1)
def font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib, whose import would take a tenth of a second, and knows many scripts."""
    found = importlib.util.find_spec("matplotlib")
    path = Path(found.origin or "").parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf" if found else Path()
    return ImageFont.truetype(path, SIZE, layout_engine=ImageFont.Layout.BASIC)
