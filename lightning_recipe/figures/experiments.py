"""Pictures of experiments: loss curves with the floor drawn in; labels and predictions side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from lightning_recipe.figures.canvas import COLOURS, FONT_SIZE, card
from lightning_recipe.losses.table import TABLE, Family, Takes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

TICKS = 9
"""Points of the numbers at the axes."""
MOST_CLASSES = 20
"""Classes that are drawn as columns; of more, the label's own probability is drawn."""
MOST_ROWS = 16
"""Rows of a picture that can be read on a card."""
MOST_POINTS = 400
"""Points that can be told apart."""


def loss_curves(curves: Mapping[str, Sequence[float]], floor: float | None = None) -> Figure:
    """The losses of short fits on one batch, step by step, with the lowest possible loss as a line.

    Args:
        curves: Losses by name.
        floor: The lowest possible loss, if known.

    Example:
        >>> loss_curves({"Adam (lr 0.001)": [2.3, 1.1, 0.2]}, floor=0.0).axes[0].get_xlabel()
        'step'

    """
    longest = max(map(len, curves.values()))
    figure = card(f"One batch, again and again: {longest} steps")
    axes = figure.add_subplot()
    for (name, losses), colour in zip(curves.items(), COLOURS, strict=False):
        axes.plot(losses, label=f"{name}: {losses[-1]:.3g}", color=colour)
    if floor is not None:
        axes.axhline(floor, color="black", linestyle="--", label=f"lowest possible: {floor:.3g}")
    starts = [losses[0] for losses in curves.values() if np.isfinite(losses[0])]
    finite = np.concatenate([np.asarray(losses)[np.isfinite(losses)] for losses in curves.values()])
    if len(finite) and starts:
        low = min(finite.min(), finite.min() if floor is None else floor)
        high = min(finite.max(), low + 2 * (max(starts) - low)) if max(starts) > low else finite.max()
        margin = 0.05 * (high - low) or 1.0
        axes.set_ylim(low - margin, high + margin)  # a fit that explodes leaves the picture
    _label(axes, "step", "loss")
    figure.legend(loc="outside lower center", fontsize=TICKS, frameon=False)
    return figure


def labels_and_predictions(name: str, arguments: Mapping[str, Any]) -> Figure:
    """What a loss compared: for classes, probabilities with the label framed; else points, aligned on a diagonal.

    Args:
        name: The loss function.
        arguments: Its arguments, of which ``input`` and ``target`` are drawn: the first rows of up to 16, or up to
            400 numbers.

    Example:
        >>> import torch
        >>> arguments = {"input": torch.eye(3), "target": torch.tensor([0, 1, 2])}
        >>> labels_and_predictions("cross_entropy", arguments).axes[0].get_xlabel()
        'class'

    """
    prediction, target = arguments["input"].detach().cpu().double(), arguments["target"].detach().cpu()
    loss = TABLE[name]
    if loss.family is Family.CLASSES and prediction.ndim > 1:
        probabilities = (prediction.softmax(1) if loss.takes is Takes.LOGITS else prediction.exp()).movedim(1, -1)
        probabilities = probabilities.reshape(-1, probabilities.shape[-1])
        labels = target.movedim(1, -1).flatten(0, -2).argmax(-1) if target.is_floating_point() else target.flatten()
        kept = (labels >= 0) & (labels < probabilities.shape[1])
        return _classes(probabilities[kept].numpy(), labels[kept].numpy())
    if loss.family is Family.YES_NO and loss.takes is Takes.LOGITS:
        prediction = prediction.sigmoid()
    return _points(prediction, target.double())


def _classes(probabilities: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Figure:
    right = (probabilities.argmax(1) == labels).sum()
    figure = card(f"Labels and predictions: {right} of {len(labels)} aligned")
    axes = figure.add_subplot()
    p, labels = probabilities[:MOST_ROWS], labels[:MOST_ROWS]
    if p.shape[1] > MOST_CLASSES:
        axes.barh(np.arange(len(p)), p[np.arange(len(p)), labels], color=COLOURS[0])
        axes.set_xlim(0, 1)
        axes.invert_yaxis()
        _label(axes, "probability of the label", "example")
        return figure
    shown = axes.imshow(p, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.plot(labels, np.arange(len(p)), "s", markersize=9, markerfacecolor="none", markeredgewidth=2, color=COLOURS[1])
    _label(axes, "class", "example")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    bar = figure.colorbar(shown, location="bottom", ticks=[0, 0.5, 1])
    bar.set_label("probability; squares: the labels", fontsize=FONT_SIZE)
    bar.ax.tick_params(labelsize=TICKS)
    return figure


def _points(prediction: Tensor, target: Tensor) -> Figure:
    import torch  # noqa: PLC0415 - needed only here

    x, y = (t.flatten()[:MOST_POINTS].numpy() for t in torch.broadcast_tensors(target, prediction))
    figure = card(f"Labels and predictions: at most {np.abs(x - y).max():.2g} apart")
    axes = figure.add_subplot()
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    margin = 0.05 * (high - low) or 0.5
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color="black", linestyle="--", linewidth=1)
    axes.plot(x, y, "o", color=COLOURS[0], markersize=5, alpha=0.7)
    axes.set_xlim(limits)
    axes.set_ylim(limits)
    _label(axes, "label", "prediction")
    return figure


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=FONT_SIZE)
    axes.set_ylabel(y, fontsize=FONT_SIZE)
    axes.tick_params(labelsize=TICKS)
