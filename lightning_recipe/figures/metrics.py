"""A metric over a run, with its standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_recipe.figures.axes import around, axes, short
from lightning_recipe.figures.canvas import COLOURS
from lightning_recipe.figures.picture import Picture
from lightning_recipe.figures.schedules import PALE

if TYPE_CHECKING:
    from collections.abc import Sequence

CAP = 5
"""Pixels by which the ends of a bar stand out at each side."""


def metric_over_steps(name: str, points: Sequence[tuple[int, float, float]]) -> Picture:
    """The metric, with a bar from one standard error below to one above at each validation.

    Args:
        name: Of the metric.
        points: Steps, values and standard errors, at least one, by step.

    Example:
        >>> metric_over_steps("val_acc", [(100, 0.8, 0.03), (200, 0.9, 0.02)]).title
        'val_acc: 0.9 ± 0.02'

    """
    steps, values, errors = np.array(points, np.float64).T
    picture = Picture(f"{name}: {short(values[-1])} ± {errors[-1]:.1g}", "bars: one standard error")
    frame = axes(picture, around(steps), around([values - errors, values + errors]), names=("step", ""))
    for step, value, error in points:
        (x, low), (_, high) = frame.points([step, step], [value - error, value + error])
        picture.draw([(x, low), (x, high)], PALE[COLOURS[0]], 4)
        for end in (low, high):
            picture.draw([(x - CAP, end), (x + CAP, end)], PALE[COLOURS[0]], 4)
    line = frame.points(steps, values)
    picture.draw(line, COLOURS[0], 4)
    for x, y in line:
        picture.draw([(x - 3, y), (x + 3, y)], COLOURS[0], 6)
    return picture
