"""Columns of a series' features that are the target of the same step."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.callbacks._causality_verdict import sight
from lightning_recipe.callbacks._next_step import STATES, WIDE, as_sequences
from lightning_recipe.callbacks._reads_on import are_same, compared_of, gradients_of, is_said, passed_at
from lightning_recipe.dependencies.over_time import Chart
from lightning_recipe.dependencies.sequences import Layout, layouts
from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.losses.table import TABLE, Family
from lightning_recipe.record.tensors import dense, same

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightning_recipe.dependencies.sequences import Passage
    from lightning_recipe.record.step import Step

EXAMPLES, STEPS = 8, 6
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


class Said(NamedTuple):
    """What some outputs are to say.

    Attributes:
        target: Shape (N, T), or of the first series only.
        out: Where series and steps lie in the outputs.
        read: From a passage to all of which that may be wanted, or to their errors.

    """

    target: Tensor
    out: Layout
    read: Callable[[Passage], list[Tensor]]


def lag_zero(look: Callable[..., Passage], base: Passage, step: Step) -> tuple[Outcome, str] | None:
    """Whether outputs see the number that they are to say in a column of the same step, beside other columns.

    What entered as a whole is restored by an autoencoder, which may be given covariates, too. A forecast is told by
    other columns that are the target of steps before, by a network that sees nothing later, and by a batch that holds
    the target by itself as well: `failed` with all three of these, `warning` with two, else `advice`.

    Args:
        look: Runs the step with other values of some leaves, and with another ``seed``.
        base: The step as it is.
        step: Its losses, inputs and batch are read.

    Returns:
        The verdict, and where the column is; None if there is nothing to tell.

    """
    for said in _said(base, step):
        target = said.target
        columns = list(_columns(base, target))
        equal = [column for column in columns if torch.equal(column.values, target)]
        if not equal or len(equal) == len(columns):
            continue
        found = _seen(look, base, equal[0], said)
        if found is not None:
            outputs, causal = found
            late = sorted({lag for column in columns if (lag := steps_late(column.values, target))})
            copies = sum(any(torch.equal(c, target) for c in _series(t, target)) for _, t in dense(step.batch))
            return _told(equal[0], _name(base, equal[0], step), late, outputs, causal=causal, twice=copies > 1)
    return None


def _told(  # noqa: PLR0913 - what is known of it
    column: Column, name: str, late: list[int], outputs: int, *, causal: bool, twice: bool
) -> tuple[Outcome, str]:
    status = (Status.ADVICE, Status.ADVICE, Status.WARNING, Status.FAILED)[bool(late) + causal + twice]
    steps = listed([str(lag) for lag in late])
    beside = f", beside columns of {steps} step{'s' * (late[-1] > 1)} before" if late else ""
    text = (
        f"column {column.number} of {name} is what is to be said at the same step{beside}: all of {outputs} outputs "
        "depend on it (expected: what was known before)"
    )
    fix = (
        "count lags from the step before: the first is series.shift(1)"
        if late
        else "shift it by one step, or leave it out, unless it is to be restored"
    )
    evidence = {"column": float(column.number), "outputs": float(outputs), "lags": float(len(late))}
    return Outcome(status, "input_is_target", text, fix, evidence), f"{name}[..., {column.number}]"


def _name(base: Passage, column: Column, step: Step) -> str:
    given = base.entered[column.entered].given
    return next((name for name, tensor in dense(step.inputs) if same(tensor, given)), "what enters")


def _seen(look: Callable[..., Passage], base: Passage, column: Column, said: Said) -> tuple[int, bool] | None:
    """How many outputs depend on a column at their own step, all of them, and whether on nothing later; or None."""
    results, leaf = said.read(base), base.entered[column.entered].leaf
    gradients = gradients_of(base, results)
    asked, causal = 0, True
    for result, gradient in zip(results, gradients, strict=True):
        if gradient is None:
            return None
        counted = (said.out.of(gradient) != 0).any(-1)
        chart = Chart(leaf, column.into, result, said.out)
        if counted.double().mean() < COUNTED or not chart.keeps_apart(*counted.nonzero()[0].tolist()):
            return None
        own = sight(*replace(chart, features=slice(column.number, column.number + 1)).rows(counted), 0)
        if own.target < own.outputs:
            return None
        every = sight(*chart.rows(counted), 0)
        asked, causal = asked or own.outputs, causal and not every.later and every.earlier > 0
    return (asked, causal) if results and _changes(look, results, column, said, leaf) else None


def _changes(look: Callable[..., Passage], results: list[Tensor], column: Column, said: Said, leaf: Tensor) -> bool:
    """Whether outputs change with what is in a column, and not by themselves, as where something is drawn."""
    changed = leaf.detach().clone()
    values = column.into.of(changed)[..., column.number]
    values.copy_(values.roll(1, 0))
    passages = look({}), look({}, seed=1), look({column.entered: changed})
    return [are_same(said.read(passage), results) for passage in passages] == [True, True, False]


def _said(base: Passage, step: Step) -> Iterator[Said]:
    """Outputs, and (n, T) numbers that they are to say: targets of losses, or what in the batch did not enter."""
    calls = [call for call in step.loss_calls if TABLE[call.name].answers]
    numbers = [call for call in calls if TABLE[call.name].answers is Family.NUMBERS and not call.target_from_net]
    for target in [call.arguments.get("target") for call in numbers]:
        if isinstance(target, Tensor) and (rows := _rows(target)) is not None:
            shape = (step.batch_size or len(rows), *target.shape[1:])
            out = Layout((shape[0], rows.shape[1], 1), (0, 1, 2))
            yield Said(rows, out, partial(compared_of, shape=shape))
    entered = list(step.inputs.values())
    for _, target in dense(step.batch) if not calls else ():
        rows = _rows(target)
        if rows is None or any(same(target, other) for other in entered):
            continue
        fits = [
            (i, out)
            for i, p in enumerate(base.passed)
            if p.leaves
            for out in layouts(tuple(p.value.shape), *rows.shape)
        ]
        gradients = gradients_of(base, [base.passed[i].value for i, _ in fits[-STATES:]])
        said = [
            (i, out)
            for (i, out), gradient in zip(fits[-STATES:], gradients, strict=True)
            if gradient is not None
            and is_said(out.of(base.passed[i].value.detach()), out.of(gradient), rows[..., None])
        ]
        same_way = [i for i, out in said if out == said[-1][1]]
        if said:
            yield Said(rows, said[-1][1], partial(passed_at, numbers=same_way))


def _rows(target: Tensor) -> Tensor | None:
    """The target as (N, T) numbers that differ from step to step; None if it is no series, or several."""
    if not target.is_floating_point() or target.ndim not in {2, 3}:
        return None
    sizes = [size for size in target.shape[1:] if size > 1]
    if len(sizes) != 1 or sizes[0] < STEPS or len(target) < EXAMPLES:
        return None
    rows = target.detach().reshape(len(target), -1)
    return rows if float((rows.diff(dim=1) != 0).double().mean()) >= VARIED else None


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
