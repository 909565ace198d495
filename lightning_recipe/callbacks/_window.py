"""Whether the window of a forecast, or a context, already holds the value to forecast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lightning_recipe.losses.table import TABLE
from lightning_recipe.record.tensors import dense, same

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_recipe.record.step import Step

EXAMPLES = {True: 8, False: 32}
"""Examples that have to agree, of numbers and of tokens."""
VARIED = 0.75
"""Share of them, at most, with one and the same target, or whose window ends with two equal values."""
SERIES = 0.6
"""Correlation of neighbours, at least, on average, by which a row of numbers is taken for a window over time: a random
walk has 0.9 and more, the columns of scikit-learn's tables 0.3 to 0.5."""


@dataclass(frozen=True)
class Held:
    """Targets that entered the network.

    Attributes:
        name: Where the window enters.
        steps: How many of the steps to forecast are the last ones of the window.
        horizon: How many steps there are to forecast.
        length: Of the window.
        examples: How many agree, all of them.

    """

    name: str
    steps: int
    horizon: int
    length: int
    examples: int


def held_value(step: Step) -> Held | None:
    """The target as the end of a window that entered; None if it isn't, or the window as a whole is to be restored.

    What is cut from the whole input within the step is not judged: to restore the last value of a window is a task.

    Args:
        step: Its inputs, losses and batch are read.

    Example:
        >>> from torch import nn
        >>> from lightning_recipe.record.step import NetCall, Step
        >>> series = torch.randn(32, 9).cumsum(1)
        >>> call = NetCall("net", nn.Linear(8, 1), (), {}, {"net.input": series[:, :8]})
        >>> held_value(Step([series[:, :8], series[:, 7]], net_calls=[call])).steps
        1
        >>> held_value(Step([series[:, :8], series[:, 8]], net_calls=[call])) is None
        True

    """
    batch = [tensor for _, tensor in dense(step.batch) if tensor.ndim]
    for name, window in dense(step.inputs):
        if window.ndim not in {2, 3} or len(window) < EXAMPLES[window.is_floating_point()]:
            continue
        whole = any(_equal(window, tensor) for tensor in batch)
        for target in targets_of(step):
            separate = any(_equal(target, tensor) for tensor in batch)
            fits = len(target) == len(window) and (separate or not whole)
            if fits and (held := _overlap(window, target)) and (held[1] > 1 or not is_table(window)):
                return Held(name, *held, window.shape[1], len(window))
    return None


def targets_of(step: Step) -> list[Tensor]:
    """The targets of losses of numbers and classes; of others what in the batch did not enter, one for each example."""
    calls = [call for call in step.loss_calls if TABLE[call.name].answers and not call.target_from_net]
    if step.loss_calls:
        found = [call.arguments.get("target") for call in calls]
        return [target for target in found if isinstance(target, torch.Tensor) and target.ndim]
    inputs = list(step.inputs.values())
    batch = [tensor for _, tensor in dense(step.batch) if tensor.ndim]
    return [t for t in batch if t.numel() == len(t) and not any(_equal(t, entered) for entered in inputs)]


def _overlap(window: Tensor, target: Tensor) -> tuple[int, int] | None:
    """How many steps of the target, of how many, are the last of the window, of shape (N, L) or (N, L, C)."""
    series = window.unsqueeze(-1) if window.ndim == 2 else window  # noqa: PLR2004
    future = target.reshape(len(target), -1, 1) if target.ndim < 3 else target  # noqa: PLR2004
    horizon, length = future.shape[1], series.shape[1]
    alike = series.is_floating_point() == future.is_floating_point()
    if not alike or future.ndim != 3 or horizon >= length - 1:  # noqa: PLR2004 - a target for each step of the window
        return None
    first = future[:, 0].flatten(1)[:, 0]
    if (first == first.mode().values).float().mean() > VARIED:
        return None
    for channel in range(series.shape[2]) if future.shape[2] == 1 else [slice(None)]:
        values = series[..., channel].reshape(len(series), length, -1)
        if values.shape[2] != future.shape[2] or (values[:, -1] == values[:, -2]).float().mean() > VARIED:
            continue
        for steps in {*range(1, horizon - 1), horizon}:  # all but one is what a target of each step is
            if torch.equal(values[:, -steps:].to(future), future[:, :steps]):
                return steps, horizon
    return None


def is_table(rows: Tensor) -> bool:
    """Whether the columns of (N, L) numbers are not the steps of a series: InputIndependenceCheck knows of tables."""
    if rows.ndim > 2 or not rows.is_floating_point():  # noqa: PLR2004
        return False
    return not float(torch.corrcoef(rows.T.double()).diagonal(1).abs().nan_to_num().mean()) >= SERIES


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same values, in whatever shape."""
    dense = a.layout is b.layout is torch.strided and a.numel() == b.numel()
    return dense and same(a.flatten(), b.flatten().to(a.dtype))
