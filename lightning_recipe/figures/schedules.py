"""Learning rates over a run, with its end marked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_recipe.figures.axes import Axis, axes
from lightning_recipe.figures.canvas import COLOURS, FAINT, LINE
from lightning_recipe.figures.experiments import key
from lightning_recipe.figures.picture import BODY, Box, Picture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RANGE = 100
"""Largest by smallest rate from which on the axis is logarithmic."""
PALE = {"#0072B2": "#A6CDE3", "#E69F00": "#F6DCA6", "#009E73": "#A6DBCD"}
"""Lighter shades of the colours."""


def rates_over_steps(curves: Mapping[str, tuple[Sequence[int], Sequence[float]]], end: float) -> Picture:
    """The learning rates to the end of the run and, lightly, behind it.

    Args:
        curves: By name: the steps from which on the rates hold, and the rates.
        end: The step at which the run ends; infinity if nobody knows.

    Example:
        >>> rates_over_steps({"Adam": ([0, 50, 100, 120], [0.1, 0.05, 0.01, 0.0])}, end=100).title
        'learning rate: Adam'

    """
    one = len(curves) == 1
    picture = Picture(f"learning rate: {next(iter(curves))}" if one else "learning rates")
    rates = np.concatenate([np.asarray(rates, np.float64) for _, rates in curves.values()])
    rates = rates[np.isfinite(rates)]
    high = float(rates.max()) if rates.size and rates.max() > 0 else 1.0
    logarithmic = bool(rates.size and rates.min() > 0 and high / rates.min() > RANGE)
    y = Axis(float(rates.min()) / 1.5, 1.5 * high, "log") if logarithmic else Axis(0.0, 1.08 * high)
    last = max([float(steps[-1]) for steps, _ in curves.values()] + ([end] if np.isfinite(end) else []))
    x = Axis(min(float(steps[0]) for steps, _ in curves.values()), last)
    box = Box(BODY.left, BODY.top, BODY.right, BODY.bottom - (0 if one else LINE * min(len(curves), 3)))
    frame = axes(picture, x, y, box=box, names=("step", ""))
    for (steps, values), colour in zip(curves.values(), COLOURS, strict=False):
        stairs = np.repeat(np.asarray(steps, np.float64), 2)[1:], np.repeat(np.asarray(values, np.float64), 2)[:-1]
        points, inside = frame.points(*stairs), int((stairs[0] <= end).sum())
        picture.draw(points[max(0, inside - 1) :], PALE.get(colour, FAINT), 4)
        picture.draw(points[:inside], colour, 4)
    if np.isfinite(end):
        (across, top), (_, bottom) = frame.points([end, end], [y.high, y.low])
        picture.draw([(across, top), (across, bottom)], "black", 2, dashed=True)
        picture.write(across - 8, frame.box.top + 20, "end of the run", anchor="rs")
    if not one:
        key(picture, list(zip(curves, COLOURS, strict=False))[:3], box.bottom)
    return picture
