"""The dependency matrix: whose output depends on whose input."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from lightning_recipe.figures.canvas import COLOURS, FONT_SIZE, card

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

DECADES = 6
"""Powers of ten that the colours span; a single precision number has about seven digits."""


def dependency_matrix(matrix: NDArray[np.float64], examples: Sequence[int], title: str) -> Figure:
    """Own dependence on the diagonal in blue, dependence on others in vermilion, none in white.

    Args:
        matrix: Entry (i, j): strength with which the output of example i depends on the input of example j, shape
            (n, n), any unit, not negative. Drawn relative to the largest, on a logarithmic scale.
        examples: The index in the batch of each row and column.
        title: Is wrapped to the width of the card.

    Example:
        >>> figure = dependency_matrix(np.eye(3), [0, 1, 2], "no mixing")
        >>> figure.axes[0].get_xlabel()
        'input of example'

    """
    n = len(examples)
    with np.errstate(divide="ignore"):
        share = 1 + np.log10(matrix / (matrix.max() or 1)) / DECADES
    share = np.where(matrix > 0, np.clip(share, 0.15, 1), np.nan)  # the weakest is still seen
    figure = card(textwrap.fill(title, 42))
    axes = figure.add_subplot()
    own = np.eye(n, dtype=bool)
    for part, colour in ((own, COLOURS[0]), (~own, COLOURS[3])):
        shades = LinearSegmentedColormap.from_list("", ["white", colour])
        axes.imshow(np.where(part, share, np.nan), cmap=shades, vmin=0, vmax=1)
    axes.set_xlabel("input of example", fontsize=FONT_SIZE)
    axes.set_ylabel("output of example", fontsize=FONT_SIZE)
    size = 8 if n > 8 else FONT_SIZE  # noqa: PLR2004 - sixteen fit below each other
    upright = n * len(str(max(examples))) <= 20  # noqa: PLR2004 - digits that fit side by side
    axes.set_xticks(range(n), [str(i) for i in examples], fontsize=size, rotation=0 if upright else 90)
    axes.set_yticks(range(n), [str(i) for i in examples], fontsize=size)
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.85", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    return figure
