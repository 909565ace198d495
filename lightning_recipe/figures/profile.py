"""A data set at a glance: how many examples each class has, and the range of each feature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_recipe.figures.axes import ends, short
from lightning_recipe.figures.canvas import COLOURS, FAINT, GREY, LINE, PAPER, rgb, text_width
from lightning_recipe.figures.picture import BODY, Box, Picture

if TYPE_CHECKING:
    from collections.abc import Mapping

ROWS = 11
"""Classes, and features, that get a row of their own."""


def profile_card(values: Any, counts: Any, ranges: Mapping[str, Any]) -> Picture:
    """Classes as bars at the left, features at the right: from lowest to highest, mean and standard deviation.

    Args:
        values: The classes, shape (C,).
        counts: Examples of each, shape (C,).
        ranges: By the name of an entry of the batch: `low`, `high`, `mean` and `std` of its features, shape (D,).

    Example:
        >>> profile_card([0, 1], [30, 10], {}).words
        ['0', '30', '1', '10']

    """
    rows = [
        (
            name if len(r.mean) == 1 else str(i) if len(ranges) == 1 else f"{name} {i}",
            r.low[i],
            r.high[i],
            r.mean[i],
            r.std[i],
        )
        for name, r in ranges.items()
        for i in range(len(r.mean))
        if np.isfinite(r.low[i]) and np.isfinite(r.high[i])
    ]
    picture = Picture("data", f"{int(np.sum(counts))} labels" if len(counts) else "")
    middle = BODY.left + (0.45 * BODY.width if rows and len(counts) else BODY.width if len(counts) else 0)
    if len(counts):
        _classes(picture, Box(BODY.left, BODY.top, middle - 16, BODY.bottom), np.asarray(values), np.asarray(counts))
    if rows:
        _features(picture, Box(middle, BODY.top, BODY.right, BODY.bottom), rows)
    return picture


def _classes(picture: Picture, box: Box, values: Any, counts: Any) -> None:
    """A bar for each class; of many those in the order of their counts, without names."""
    if len(values) > ROWS:
        counts = np.sort(counts)[::-1]
        across = np.linspace(box.left, box.right, len(counts) + 1)
        for left, right, count in zip(across, across[1:], counts, strict=False):
            top = box.bottom - LINE - (box.height - 2 * LINE) * count / counts[0]
            picture.fill(Box(left, top, max(left + 1, right - 1), box.bottom - LINE), rgb(COLOURS[0]))
        picture.write(box.left, box.bottom - 4, f"{len(values)} classes", GREY)
        picture.write(box.right, box.top + 18, f"{short(counts[0])} to {short(counts[-1])}", GREY, anchor="rs")
        return
    left = box.left + max(text_width(str(value)) for value in values) + 10
    wide = max(text_width(short(count)) for count in counts) + 10
    height = min(box.height / len(values), 2 * LINE)
    for i, (value, count) in enumerate(zip(values, counts, strict=True)):
        top = box.top + i * height
        right = left + (box.right - wide - left) * count / counts.max()
        picture.write(box.left, top + height / 2 + 7, str(value))
        picture.fill(Box(left, top + 3, max(left + 2, right), top + height - 3), rgb(COLOURS[0]))
        picture.write(right + 8, top + height / 2 + 7, short(count), GREY)


def _features(picture: Picture, box: Box, rows: list[tuple[str, float, float, float, float]]) -> None:
    """A grey bar from lowest to highest on one scale, the mean as a black tick, a standard deviation around it blue."""
    low, high = min(row[1] for row in rows), max(row[2] for row in rows)
    shown = rows if len(rows) <= ROWS else rows[: ROWS - 1]
    left = box.left + min(0.4 * box.width, max(text_width(row[0]) for row in shown) + 10)
    right, apart = box.right - 8, (high - low) or 1.0
    height = min((box.height - LINE) / ROWS, 2 * LINE)

    def place(value: float) -> float:
        return left + (right - left) * min(1.0, max(0.0, (value - low) / apart))

    for i, (name, least, most, mean, std) in enumerate(shown):
        top = box.top + i * height
        picture.write(box.left, top + height / 2 + 7, name, width=left - box.left - 8)
        picture.fill(Box(left, top + 3, right, top + height - 3), PAPER)
        picture.fill(Box(place(least), top + 3, place(most) + 1, top + height - 3), rgb(FAINT))
        picture.fill(Box(place(mean - std), top + 8, place(mean + std) + 1, top + height - 8), rgb(COLOURS[0]))
        picture.draw([(place(mean), top + 4), (place(mean), top + height - 4)], "black", 3)
    if len(shown) < len(rows):
        picture.write(box.left, box.top + len(shown) * height + 20, f"and {len(rows) - len(shown)} more", GREY)
    first, last = ends(low, high)
    picture.write(left, box.bottom - 4, first, GREY)
    picture.write(right, box.bottom - 4, last, GREY, anchor="rs")
