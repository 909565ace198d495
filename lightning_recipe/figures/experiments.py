"""Pictures of experiments: loss curves with the floor drawn in; labels and predictions side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_recipe.figures.axes import Axis, around, axes, short
from lightning_recipe.figures.canvas import COLOURS, GREY, LINE, WRONG, heat, text_width
from lightning_recipe.figures.picture import BODY, Box, Picture
from lightning_recipe.losses.table import TABLE, Family, Takes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

MOST_CLASSES = 20
"""Classes that are drawn as columns; of more, the label's own probability is drawn."""
MOST_ROWS = 8
"""Rows of a picture that can be read on a card."""
MOST_POINTS = 400
"""Points that can be told apart."""


def loss_curves(curves: Mapping[str, Sequence[float]], floor: float | None = None) -> Picture:
    """The losses of short fits on one batch, step by step, with the lowest possible loss as a line.

    Args:
        curves: Losses by name.
        floor: The lowest possible loss, if known.

    Example:
        >>> loss_curves({"Adam (lr 0.001)": [2.3, 1.1, 0.2]}, floor=0.0).words[-2:]
        ['Adam (lr 0.001): 0.2', 'lowest possible: 0']

    """
    longest = max(map(len, curves.values()))
    picture = Picture(f"loss on one batch, again and again: {longest} steps")
    starts = [losses[0] for losses in curves.values() if np.isfinite(losses[0])]
    finite = np.concatenate([np.asarray(losses)[np.isfinite(losses)] for losses in curves.values()])
    names = [
        (f"{name}: {short(losses[-1])}", colour)
        for (name, losses), colour in zip(curves.items(), COLOURS, strict=False)
    ]
    names += [] if floor is None else [(f"lowest possible: {short(floor)}", "black")]
    y = around(finite)
    if len(finite) and starts:  # a fit that explodes leaves the picture
        low = min(finite.min(), finite.min() if floor is None else floor)
        y = around([low, min(finite.max(), low + 2 * (max(starts) - low)) if max(starts) > low else finite.max()])
    box = Box(BODY.left, BODY.top, BODY.right, BODY.bottom - LINE * len(names))
    frame = axes(picture, Axis(0, max(1, longest - 1)), y, box=box, names=("step", ""))
    for losses, (_, colour) in zip(curves.values(), names, strict=False):
        picture.draw(frame.points(np.arange(len(losses)), losses), colour, 3)
    if floor is not None:
        picture.draw(frame.points([0, longest - 1], floor), "black", 2, dashed=True)
    key(picture, names, box.bottom)
    return picture


def key(picture: Picture, names: Sequence[tuple[str, str]], top: float) -> None:
    """A line for each curve: its colour and its name; black ones are dashed."""
    for i, (name, colour) in enumerate(names):
        y = top + (i + 1) * LINE - 4
        picture.draw([(BODY.left + 8, y - 7), (BODY.left + 42, y - 7)], colour, 4, dashed=colour == "black")
        picture.write(BODY.left + 50, y, name, width=BODY.width - 60)


def labels_and_predictions(name: str, arguments: Mapping[str, Any]) -> Picture:
    """What a loss compared: for classes, probabilities with the label framed; else points, aligned on a diagonal.

    Args:
        name: The loss function.
        arguments: Its arguments, of which ``input`` and ``target`` are drawn: the first rows of up to 8, or up to
            400 numbers.

    Example:
        >>> import torch
        >>> arguments = {"input": torch.eye(3), "target": torch.tensor([0, 1, 2])}
        >>> labels_and_predictions("cross_entropy", arguments).title
        'labels and predictions: 3 of 3 aligned'

    """
    prediction, target = arguments["input"].detach().cpu().double(), arguments["target"].detach().cpu()
    loss = TABLE[name]
    if Family.CLASSES in {loss.family, loss.answers} and prediction.ndim > 1:
        raw = loss.takes in {Takes.LOGITS, Takes.SCORES}
        probabilities = (prediction.softmax(1) if raw else prediction.exp()).movedim(1, -1)
        probabilities = probabilities.reshape(-1, probabilities.shape[-1])
        labels = target.movedim(1, -1).flatten(0, -2).argmax(-1) if target.is_floating_point() else target.flatten()
        kept = (labels >= 0) & (labels < probabilities.shape[1])
        return _classes(probabilities[kept].numpy(), labels[kept].numpy())
    if loss.family is Family.YES_NO and loss.takes is Takes.LOGITS:
        prediction = prediction.sigmoid()
    return _points(prediction, target.double())


def _classes(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> Picture:
    said = probabilities.argmax(1) if len(labels) else labels
    picture = Picture(f"labels and predictions: {(said == labels).sum()} of {len(labels)} aligned")
    p, labels, said = probabilities[:MOST_ROWS], labels[:MOST_ROWS], said[:MOST_ROWS]
    if not len(labels):
        return picture
    few = p.shape[1] <= MOST_CLASSES
    left = text_width(str(labels.max())) + 10 if not few else text_width("8") + 10
    inner = Box(round(BODY.left + left), BODY.top, BODY.right - 30, BODY.bottom - LINE)
    row, column = inner.height / len(p), inner.width / (p.shape[1] if few else 1)
    picture.note = "frame: label" if few else "bar: p of label"
    for i, label in enumerate(labels):
        top = inner.top + i * row
        if few:
            for j in range(p.shape[1]):
                cell = Box(inner.left + j * column, top, inner.left + (j + 1) * column - 2, top + row - 2)
                picture.fill(cell, heat(p[i, j], (0, 1)))
                if j == label:
                    picture.frame(Box(cell.left + 2, cell.top + 2, cell.right - 2, cell.bottom - 3), COLOURS[1], 4)
        else:
            picture.fill(
                Box(inner.left, top, inner.left + max(1, p[i, label] * inner.width), top + row - 2),
                heat(p[i, label], (0, 1)),
            )
        picture.write(BODY.left, top + row / 2 + 7, str(i if few else label), GREY)
        if said[i] != label:
            picture.cross(BODY.right - 14, top + row / 2)
    ticks = range(p.shape[1]) if few else (0, 0.5, 1)
    for tick in ticks:
        x = inner.left + (tick + (0.5 if few else 0)) * column
        picture.write(x, BODY.bottom - 4, short(tick), GREY, anchor="ms")
    return picture


def _points(prediction: Tensor, target: Tensor) -> Picture:
    import torch  # noqa: PLC0415 - needed only here

    x, y = (t.flatten()[:MOST_POINTS].numpy() for t in torch.broadcast_tensors(target, prediction))
    picture = Picture(f"labels and predictions: at most {short(float(np.abs(x - y).max()))} apart")
    axis = around([*x, *y])
    frame = axes(picture, axis, axis, names=("label", "prediction"))
    picture.draw(frame.points([axis.low, axis.high], [axis.low, axis.high]), "black", 2, dashed=True)
    far = np.abs(x - y) > 0.1 * (axis.high - axis.low)
    for (across, up), apart in zip(frame.points(x, y), far, strict=True):
        if apart:
            picture.cross(across, up, WRONG, arm=5, width=2)
        elif np.isfinite([across, up]).all():
            picture.frame(Box(across - 3, up - 3, across + 3, up + 3), COLOURS[0], 3)
    return picture
