"""Examples side by side: each a block of thumbnails below each other, with its caption."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from lightning_recipe.figures.canvas import GREY, LINE, text_width
from lightning_recipe.figures.picture import BODY, Box

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from lightning_recipe.figures.captions import Caption
    from lightning_recipe.figures.picture import Picture

GAP = 6
"""Pixels between thumbnails."""
WHOLE = 4
"""Pixels of a card for one of an image from which on only whole ones are used: blocks of different sizes are seen."""
LEFT = 0.2
"""Share of the width that names of the thumbnails take at most."""


def layout(  # noqa: PLR0913
    count: int,
    height: int,
    width: int,
    parts: int = 1,
    *,
    room: tuple[float, float] = (BODY.width, BODY.height),
    lines: int = 1,
) -> tuple[int, tuple[int, int]]:
    """Columns of examples, and the pixels (height, width) of a thumbnail: as large as fits.

    Args:
        count: Examples.
        height: Pixels of one.
        width: Pixels of one.
        parts: Thumbnails of an example, below each other.
        room: Width and height of what they are to fit in.
        lines: Of the caption below them.

    Example:
        >>> layout(4, 28, 28)
        (4, (140, 140))

    """
    best = (0.0, 1)
    for columns in range(1, max(1, count) + 1):
        room_x = (room[0] + GAP) / columns - GAP
        room_y = (room[1] / math.ceil(max(1, count) / columns) - lines * LINE) / parts - GAP
        zoom = min(room_x / max(1, width), room_y / max(1, height))
        best = max(best, (math.floor(zoom) if zoom >= WHOLE else zoom, columns))
    zoom, columns = best
    return columns, (max(1, int(height * zoom)), max(1, int(width * zoom)))


def lines_of(captions: Sequence[Caption]) -> int:
    """How many lines are left for captions: two if something is noted besides."""
    return 2 if any(caption.text and caption.note for caption in captions) else 1


def names_width(names: Sequence[str]) -> float:
    """Pixels that the names of thumbnails take."""
    return min(LEFT * BODY.width, max(map(text_width, names), default=0) + 8) if any(names) else 0


def resized(stack: Tensor, cell: tuple[int, int]) -> Tensor:
    """Dimensions 1 and 2 at the size of `cell`, by picking and repeating values: none is made up."""
    rows, columns = (
        (torch.arange(new, device=stack.device) * old).div(new, rounding_mode="floor")
        for new, old in zip(cell, stack.shape[1:3], strict=True)
    )
    return stack[:, rows[:, None], columns]


def mosaic(
    picture: Picture, strips: Sequence[tuple[str, NDArray[np.uint8]]], columns: int, captions: Sequence[Caption]
) -> list[list[Box]]:
    """Lay thumbnails on a card.

    Args:
        picture: To draw on.
        strips: A name, and a thumbnail of each example, shape (n, h, w, 3), that lies below those before.
        columns: Examples side by side.
        captions: One for each example, below its thumbnails; those that are wrong are framed and crossed.

    Returns:
        Where the thumbnails of each example lie.

    """
    left = names_width([name for name, _ in strips])
    height, width = strips[0][1].shape[1:3]
    rows = math.ceil(len(captions) / columns)
    lines = lines_of(captions)
    block = len(strips) * (height + GAP) + (lines * LINE if any(caption.line for caption in captions) else 0)
    free = max(0.0, BODY.width - left - columns * (width + GAP) + GAP)
    gap = GAP + min(free / max(1, columns), 3 * GAP)
    top = BODY.top + max(0.0, min(BODY.height - rows * block, 2 * LINE) / 2)
    boxes: list[list[Box]] = []
    for i, caption in enumerate(captions):
        x, y = BODY.left + left + (i % columns) * (width + gap), top + (i // columns) * block
        boxes.append([])
        for part, (name, cells) in enumerate(strips):
            place = picture.paste(x, y + part * (height + GAP), cells[i])
            boxes[-1].append(place)
            if i % columns == 0:
                picture.write(BODY.left, (place.top + place.bottom) / 2 + 7, name, GREY, width=left)
        if caption.wrong:
            picture.mistake(boxes[-1][-1])
        below, room = y + block - 6, max(width + gap - GAP, 40)
        if lines == 1:
            picture.write(x, below, caption.line, caption.colour, width=room)
        else:
            picture.write(x, below - LINE, caption.text, caption.colour, width=room)
            picture.write(x, below, caption.note, width=room)
    return boxes
