"""Dependency matrices: whose output depends on whose input, over the batch or over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_recipe.figures.canvas import COLOURS, FAINT, GREY, LINE, WRONG, rgb, text_width, wrapped
from lightning_recipe.figures.picture import BODY, Box, Picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

DECADES = 6
"""Powers of ten that the colours span; a single precision number has about seven digits."""
SIDE = 0.5
"""Share of the card's width that the matrix takes at most; what it shows is said beside it."""


def dependency_matrix(
    matrix: NDArray[np.float64], examples: Sequence[int], title: str, told: str = "", *, over_time: bool = False
) -> Picture:
    """Own dependence on the diagonal in blue, dependence on others in vermilion with a cross, none in white.

    Args:
        matrix: Entry (i, j): strength with which the output of example i depends on the input of example j, shape
            (n, n), any unit, not negative. Drawn relative to the largest, on a logarithmic scale.
        examples: The index in the batch of each row and column.
        title: What it is.
        told: What it shows, written beside it.
        over_time: They are positions of one sequence; dependence on those before is right, too.

    Example:
        >>> picture = dependency_matrix(np.eye(3), [0, 1, 2], "net: no mixing")
        >>> picture.words[:2]
        ['0', '0']

    """
    n, which = len(examples), "at position" if over_time else "of example"
    with np.errstate(divide="ignore"):
        share = 1 + np.log10(matrix / (matrix.max() or 1)) / DECADES
    share = np.where(matrix > 0, np.clip(share, 0.15, 1), 0)  # the weakest is still seen
    picture = Picture(title)
    left = text_width(str(max(examples))) + 8
    side = int(min(BODY.height - 2 * LINE, SIDE * BODY.width) // n)
    inner = Box(BODY.left + LINE + left, BODY.top, BODY.left + LINE + left + n * side, BODY.top + n * side)
    every = max(1, round(2 * LINE / 2 / side)) if text_width(str(max(examples))) + 6 > side or side < LINE else 1
    for i in range(n):
        middle = (i + 0.5) * side
        if i % every == 0:
            picture.write(inner.left - 6, inner.top + middle + 7, str(examples[i]), GREY, anchor="rs")
            picture.write(inner.left + middle, inner.bottom + 20, str(examples[i]), GREY, anchor="ms")
        for j in range(n):
            cell = Box(
                inner.left + j * side, inner.top + i * side, inner.left + (j + 1) * side, inner.top + (i + 1) * side
            )
            wrong = j > i if over_time else j != i
            colour = rgb(WRONG if wrong else COLOURS[0])
            picture.fill(cell, (255 + share[i, j] * (colour.astype(float) - 255)).round().astype(np.uint8))
            if wrong and matrix[i, j] > 0 and side >= 12:  # noqa: PLR2004 - room for a cross
                picture.cross((cell.left + cell.right) / 2, (cell.top + cell.bottom) / 2, "white", side / 5, 2)
    for k in range(n + 1):
        picture.draw([(inner.left + k * side, inner.top), (inner.left + k * side, inner.bottom)], FAINT, 1)
        picture.draw([(inner.left, inner.top + k * side), (inner.right, inner.top + k * side)], FAINT, 1)
    picture.write(inner.left, inner.bottom + 2 * LINE - 8, f"input {which}", GREY)
    x = inner.right + 24
    lines = ["rows: output", which, *(wrapped(told, BODY.right - x, 9) if told else [])]
    for i, line in enumerate(lines):
        picture.write(x, BODY.top + (i + 1) * LINE, line, GREY if i < 2 else "black")  # noqa: PLR2004
    return picture
