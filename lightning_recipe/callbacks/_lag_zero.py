"""Columns of a series' features that are the target of the same step."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.callbacks._causality_verdict import sight
from lightning_recipe.callbacks._next_step import WIDE, as_sequences
from lightning_recipe.dependencies.over_time import Chart
from lightning_recipe.dependencies.sequences import layouts
from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.losses.table import TABLE, Family
from lightning_recipe.record.tensors import dense, same

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightning_recipe.dependencies.sequences import Layout, Passage
    from lightning_recipe.record.step import Step

EXAMPLES, STEPS = 4, 6
"""Series and their steps, at least, that have to agree."""
VARIED = 0.25
"""Share of steps, at least, that differ from the one before."""
MOST = 64
"""Steps up to which a column may be late."""
COUNTED = 0.5
"""Share of outputs, at least, to which the loss answers."""


class Column(NamedTuple):
    """One number at each step of some series that entered.

    Attributes:
        entered: Its place in ``Passage.entered``.
        into: Where sequences and steps lie in that.
        number: Its place among the features.
        values: Shape (N, T).

    """

    entered: int
    into: Layout
    number: int
    values: Tensor


def lag_zero(look: Callable[..., Passage], base: Passage, step: Step) -> tuple[Outcome, str] | None:
    """Whether outputs see the number that they are to say in a column of the same step, beside other columns.

    What entered as a whole is restored by an autoencoder, which may be given covariates, too. A forecast is told by
    columns that are the target of steps before, by a network that sees nothing later, and by a batch that holds the
    target twice.

    Args:
        look: Runs the step with other values of some leaves, and with another ``seed``.
        base: The step as it is.
        step: Its losses, inputs and batch are read.

    Returns:
        The verdict, and where the column is; None if there is nothing to tell.

    """
    for target in _targets(step):
        columns = list(_columns(base, target))
        equal = [column for column in columns if torch.equal(column.values, target)]
        if not equal or len(equal) == len(columns):
            continue
        found = _seen(look, base, equal[0])
        if found is not None:
            outputs, causal = found
            late = sorted({lag for column in columns if (lag := steps_late(column.values, target))})
            copies = sum(any(torch.equal(c, target) for c in _series(t, target)) for _, t in dense(step.batch))
            return _told(equal[0], _name(base, equal[0], step), late, outputs, causal=causal, twice=copies > 1)
    return None


def _told(  # noqa: PLR0913 - what is known of it
    column: Column, name: str, late: list[int], outputs: int, *, causal: bool, twice: bool
) -> tuple[Outcome, str]:
    known = [bool(late), causal, twice]
    likely = (bool(late) and (causal or twice)) or (causal and twice)
    status = Status.FAILED if all(known) else Status.WARNING if likely else Status.ADVICE
    steps = listed([str(lag) for lag in late])
    beside = f", beside columns of {steps} step{'s' * (late[-1] > 1)} before" if late else ""
    text = (
        f"column {column.number} of {name} is what is to be said at the same step{beside}: all of {outputs} outputs "
        "depend on it (expected: what was known before)"
    )
    fix = "count lags from the step before: the first is series.shift(1)" if late else (
        "shift it by one step, or leave it out, unless it is to be restored"
    )
    evidence = {"column": float(column.number), "outputs": float(outputs), "lags": float(len(late))}
    return Outcome(status, "input_is_target", text, fix, evidence), f"{name}[..., {column.number}]"


def _name(base: Passage, column: Column, step: Step) -> str:
    given = base.entered[column.entered].given
    return next((name for name, tensor in dense(step.inputs) if same(tensor, given)), "what enters")


def _seen(look: Callable[..., Passage], base: Passage, column: Column) -> tuple[int, bool] | None:
    """How many outputs depend on a column at their own step, all of them, and whether on nothing later; or None."""
    window, leaf = column.values.shape, base.entered[column.entered].leaf
    fits = [i for i, p in enumerate(base.passed) if p.leaves and layouts(tuple(p.value.shape), *window)]
    if base.loss is None or not base.loss.requires_grad or not fits:
        return None
    values = [base.passed[i].value for i in fits]
    gradients = torch.autograd.grad(base.loss.sum(), values, retain_graph=True, allow_unused=True)
    for i, value, gradient in reversed(list(zip(fits, values, gradients, strict=True))):
        for out in layouts(tuple(value.shape), *window) if gradient is not None else ():
            counted = (out.of(gradient) != 0).any(-1)
            chart = Chart(leaf, column.into, value, out)
            if counted.double().mean() < COUNTED or not chart.keeps_apart(0, int(counted[0].long().argmax())):
                continue
            own = sight(*replace(chart, features=slice(column.number, column.number + 1)).rows(counted), 0)
            every = sight(*chart.rows(counted), 0)
            if own.target < own.outputs or not _changes(look, base, column, i):
                return None
            return own.outputs, not every.later and every.earlier > 0
    return None


def _changes(look: Callable[..., Passage], base: Passage, column: Column, output: int) -> bool:
    """Whether an output is another where the column is that of other series, and the same where nothing is, or drawn."""
    changed = base.entered[column.entered].leaf.detach().clone()
    values = column.into.of(changed)[..., column.number]
    values.copy_(values.roll(1, 0))
    passages = [look({}), look({}, seed=1), look({column.entered: changed})]
    if any(len(passage.passed) != len(base.passed) for passage in passages):
        return False
    as_is, redrawn, other = (torch.equal(p.passed[output].value, base.passed[output].value) for p in passages)
    return as_is and redrawn and not other


def _targets(step: Step) -> Iterator[Tensor]:
    """Of losses of numbers, or what in the batch did not enter, as (n, T) numbers that differ from step to step."""
    calls = [call for call in step.loss_calls if TABLE[call.name].answers]
    if calls:
        numbers = [call for call in calls if TABLE[call.name].answers is Family.NUMBERS and not call.target_from_net]
        found = [call.arguments.get("target") for call in numbers]
    else:
        entered = list(step.inputs.values())
        found = [t for _, t in dense(step.batch) if not any(same(t, other) for other in entered)]
    for target in found:
        if isinstance(target, Tensor) and target.is_floating_point() and target.ndim in {2, 3}:
            rows = target.detach().squeeze(-1) if target.ndim == 3 and target.shape[2] == 1 else target.detach()  # noqa: PLR2004
            rows = rows.squeeze(1) if rows.ndim == 3 and rows.shape[1] == 1 else rows  # noqa: PLR2004
            if rows.ndim == 2 and len(rows) >= EXAMPLES and rows.shape[1] >= STEPS:  # noqa: PLR2004
                if (rows.diff(dim=1) != 0).double().mean() >= VARIED:
                    yield rows


def _columns(base: Passage, target: Tensor) -> Iterator[Column]:
    """The columns of what entered that have as many steps, of as many series or, of a target that was cut, of more."""
    for number, entered in enumerate(base.entered):
        for into, values in as_sequences(entered.given) if entered.given.is_floating_point() else ():
            if values.ndim == 3 and len(values) >= len(target) and values.shape[1] == target.shape[1]:  # noqa: PLR2004
                for c in range(min(values.shape[2], WIDE)):
                    yield Column(number, into, c, values[: len(target), :, c].to(target))


def _series(tensor: Tensor, target: Tensor) -> Iterator[Tensor]:
    """The columns of an entry of the batch."""
    whole = tensor.unsqueeze(-1) if tensor.ndim == 2 else tensor  # noqa: PLR2004
    for values in (whole, whole.mT) if whole.ndim == 3 and whole.is_floating_point() else ():  # noqa: PLR2004
        if len(values) >= len(target) and values.shape[1] == target.shape[1]:
            yield from (values[: len(target), :, c].to(target) for c in range(min(values.shape[2], WIDE)))


def steps_late(values: Tensor, target: Tensor) -> int | None:
    """By how many steps some series are late, of shape (N, T); None where they are not, or are other series.

    Example:
        >>> x = torch.randn(4, 9)
        >>> steps_late(x.roll(2, 1), x), steps_late(x, x), steps_late(x.roll(-1, 1), x)
        (2, None, None)

    """
    lags = range(1, min(MOST, values.shape[1] // 2) + 1)
    return next((lag for lag in lags if torch.equal(values[:, lag:], target[:, :-lag])), None)
