"""Learning rates over a run, with its end marked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import EngFormatter, MaxNLocator, NullLocator

from lightning_recipe.figures.canvas import CARD, COLOURS, FONT_SIZE, card

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

TICKS = 9
"""Points of the numbers at the axes."""
RANGE = 100
"""Largest by smallest rate from which on the axis is logarithmic."""


def rates_over_steps(curves: Mapping[str, tuple[Sequence[int], Sequence[float]]], end: float) -> Figure:
    """The learning rates to the end of the run and, lightly, behind it, on a card of about 16:9.

    Args:
        curves: By name: the steps from which on the rates hold, and the rates.
        end: The step at which the run ends; infinity if nobody knows.

    Example:
        >>> rates_over_steps({"Adam": ([0, 50, 100, 120], [0.1, 0.05, 0.01, 0.0])}, end=100).axes[0].get_yscale()
        'linear'

    """
    title = f"Learning rate: {next(iter(curves))}" if len(curves) == 1 else "Learning rates"
    figure = card(title, height=CARD * 9 / 16)
    axes = figure.add_axes((0.13, 0.25, 0.83, 0.53))  # to find its place takes as long as to draw it
    shown = []
    for (name, (steps, rates)), colour in zip(curves.items(), COLOURS, strict=False):
        x, y = np.asarray(steps, dtype=float), np.asarray(rates, dtype=float)
        inside = x <= end
        axes.plot(x[inside], y[inside], color=colour, label=name, drawstyle="steps-post", linewidth=2)
        if not inside.all():
            behind = np.flatnonzero(~inside)[0] - 1
            axes.plot(x[behind:], y[behind:], color=colour, alpha=0.35, drawstyle="steps-post", linewidth=2)
        shown.append(y[np.isfinite(y)])
    values = np.concatenate(shown)
    if len(values) and values.min() > 0 and values.max() / values.min() > RANGE:
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    if np.isfinite(end):
        axes.axvline(end, color="black", linestyle="--", linewidth=1)
        axes.text(
            end, 0.95, "end of the run ", transform=axes.get_xaxis_transform(), ha="right", va="top", fontsize=TICKS
        )
    axes.set_xlim(left=min(float(steps[0]) for steps, _ in curves.values()))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("step", fontsize=FONT_SIZE)
    axes.tick_params(labelsize=TICKS)
    if len(curves) > 1:
        axes.legend(fontsize=TICKS, frameon=False)
    return figure
