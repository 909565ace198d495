"""Columns of numbers by their spread, and any numbers as a histogram."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from lightning_recipe.figures.axes import Axes, Axis, around, axes, short
from lightning_recipe.figures.canvas import COLOURS, GREY, LINE, PAPER, WRONG, rgb, text_width
from lightning_recipe.figures.picture import BODY, Box
from lightning_recipe.figures.scale import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lightning_recipe.figures.picture import Picture
    from lightning_recipe.losses.targets import Answers

MAX_NAMED = 11
"""Columns that get a row with their name; of more, each is a bar."""
MAX_BARS = 300
"""Columns drawn as bars; of more, every second, third, ..."""
MAX_DOTS = 256
"""Examples drawn as ticks."""
FEW = 2
"""Different values of a target up to which a column may equal it by chance."""
BINS = 32
MAX_COUNTED = 2**18
"""Elements in a histogram; of more, every second, third, ... is taken."""


def table(
    picture: Picture, tensor: Tensor, answers: Answers, span: tuple[float, float], names: Sequence[str] = ()
) -> None:
    """How the columns of a table are spread, on one scale: a row of ticks for each, or a bar if there are many.

    A column that is not scaled like the others makes them all narrow, one that never changes is a single tick.
    The target, if it is a number for each example, is a column, too; a column that equals it is marked.

    Args:
        picture: To draw on.
        tensor: Shape (example, feature).
        answers: What belongs to the examples.
        span: The values at the ends of the scale.
        names: Of the columns; their numbers without.

    Example:
        >>> from lightning_recipe.losses.targets import Answers
        >>> from lightning_recipe.figures.picture import Picture
        >>> picture = Picture("train x")
        >>> table(picture, torch.rand(40, 2), Answers(torch.rand(40)), (0.0, 1.0), ["age", "income"])
        >>> picture.words[:4]
        ['age', 'income', 'true', '0']

    """
    values = plain(tensor)
    columns = [values[:, i].cpu().double().numpy() for i in range(min(values.shape[1], MAX_NAMED + 1))]
    labels = [*names, *map(str, range(len(names), len(columns)))]
    if len(columns) > MAX_NAMED:
        bars(picture, values, span)
        return
    target = answers.target
    if target is not None and target.numel() == len(values) and not target.is_complex():
        true = target.detach().flatten().cpu().double().numpy()
        leaks = [len(np.unique(true)) > FEW and np.allclose(column, true) for column in columns]
        labels = [f"{label} = true" if leak else label for label, leak in zip(labels, leaks, strict=True)] + ["true"]
        columns.append(true)
        finite = columns[-1][np.isfinite(columns[-1])]
        span = (min(span[0], *finite, span[1]), max(span[1], *finite, span[0])) if finite.size else span
    left = min(0.35 * BODY.width, max(map(text_width, labels)) + 10)
    scale = Axis(*span) if span[1] > span[0] else around(span)
    inner = Box(BODY.left + left, BODY.top, BODY.right - 8, BODY.bottom - LINE)
    frame = Axes(inner, scale, Axis(0, 1))
    height = inner.height / len(columns)
    for i, (label, column) in enumerate(zip(labels, columns, strict=True)):
        top = inner.top + i * height
        picture.fill(Box(inner.left, top + 2, inner.right, top + height - 2), PAPER)
        colour = "black" if label == "true" else WRONG if label.endswith("= true") else COLOURS[0]
        picture.write(BODY.left, top + height / 2 + 7, label, WRONG if colour == WRONG else "black", width=left - 8)
        finite = np.unique(column[np.isfinite(column)][:MAX_DOTS])
        for x in frame.points(finite, 0)[:, 0]:
            picture.draw([(x, top + 5), (x, top + height - 5)], colour, 2)
        if len(finite) == 1:
            picture.write(inner.right - 4, top + height / 2 + 7, f"always {short(finite[0])}", WRONG, anchor="rs")
        if share := float((~np.isfinite(column)).mean()):
            picture.cross(inner.left + 14, top + height / 2)
            picture.write(inner.left + 28, top + height / 2 + 7, f"{share:.0%} NaN", WRONG)
    for value in scale.ticks():
        x = float(frame.points(value, 0)[0])
        picture.write(x, BODY.bottom - 2, short(value), GREY, anchor="ms")


def bars(picture: Picture, values: Tensor, span: tuple[float, float]) -> None:
    """A bar from the least to the largest value of each of many columns, its middle half darker."""
    every = math.ceil(values.shape[1] / MAX_BARS)
    sample = values[:, ::every].cpu().double()
    quantiles = np.nanquantile(
        torch.where(sample.isfinite(), sample, torch.nan).nan_to_num(nan=float(np.mean(span))).numpy(),
        [0, 0.25, 0.75, 1], axis=0,
    )  # fmt: skip
    frame = axes(picture, Axis(0, max(1, values.shape[1])), Axis(*span), names=("feature", ""))
    wide = frame.box.width / sample.shape[1]
    for part, colour in (((0, 3), (153, 199, 224)), ((1, 2), tuple(rgb(COLOURS[0])))):
        low, high = (frame.points(0, quantiles[i])[:, 1] for i in part)
        for i in range(sample.shape[1]):
            x = frame.box.left + i * wide
            picture.fill(Box(x, high[i] - 1, max(x + 1, x + wide - 1), low[i] + 1), colour)


def histogram(picture: Picture, tensor: Tensor) -> None:
    """How often values occur, for whatever has no picture of its own.

    Example:
        >>> from lightning_recipe.figures.picture import Picture
        >>> picture = Picture("train x")
        >>> histogram(picture, torch.tensor([1.0, 1.0, 2.0]))
        >>> picture.note
        '3 values'

    """
    values = plain(tensor).flatten()
    every = max(1, math.ceil(values.numel() / MAX_COUNTED))
    sample = values[::every].cpu().double().numpy()
    sample = sample[np.isfinite(sample)]
    picture.note = (
        f"{short(values.numel())} values" if sample.size else "no finite value" if tensor.numel() else "empty"
    )
    if not sample.size:
        return
    low, high = float(sample.min()), float(sample.max())
    x = Axis(low, high) if high > low else around([low])
    counts, edges = np.histogram(sample, BINS, (x.low, x.high))
    frame = axes(picture, x, Axis(0, float(counts.max()) * 1.05))
    for i, count in enumerate(counts):
        (left, top), (right, bottom) = frame.points([edges[i], edges[i + 1]], [count, 0])
        if count:
            picture.fill(Box(left, min(top, bottom - 2), right - 1, bottom), rgb(COLOURS[0]))
