"""Errors that validation logs in two units: the prediction scaled back, the target not."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.callbacks._at_the_end import reported
from lightning_recipe.callbacks._averaged import ROUNDING, differ, rehearsed, scalars
from lightning_recipe.callbacks._baselines import minimised
from lightning_recipe.callbacks._bias_wiring import giver
from lightning_recipe.callbacks._metric_names import words
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.losses.table import TABLE, Family
from lightning_recipe.record.tensors import dense
from lightning_recipe.trial.rehearsal import CannotRehearseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torchmetrics import Metric

    from lightning_recipe.callbacks._averaged import Seen
    from lightning_recipe.record.step import Step
    from lightning_recipe.trial.rehearsal import Answer, Rehearsal

FEWEST = 8
"""Examples by which distributions of targets are compared."""
POWERS = {
    **dict.fromkeys(("mae", "rmse", "l1", "absolute", "abs", "root"), (1,)),
    **dict.fromkeys(("mse", "squared"), (2,)),
    **dict.fromkeys(("error", "errors", "err"), (1, 2)),
}
"""Words for errors, with the powers of the target's unit that they may be in; the first that is in a name counts."""
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "": torch.clone,
    "log": torch.log,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
}
"""What training may make of an entry, before it scales it, to compare with it."""
SAME = 1e-3
"""Standard deviations by which a target may be off what is made of an entry: of halves more is rounding."""
FAR = 3.0
"""Standard deviations of the target, from which on an error is none of a right answer."""


class Way(NamedTuple):
    """How training makes its target of an entry of the batch, each of K columns by itself.

    Attributes:
        form: Of `FORMS`, such as a logarithm.
        scale: What a column is then multiplied with.
        shift: What is added to it.
        mean: Of each column of the entry in the first batch.
        std: Likewise.
        std_of_target: Of what is made of it.

    """

    form: str
    scale: Tensor
    shift: Tensor
    mean: Tensor
    std: Tensor
    std_of_target: Tensor

    @property
    def is_none(self) -> bool:
        """Whether the entry is the target."""
        return not self.form and bool((self.scale == 1).all() and (self.shift == 0).all())


class Unit(NamedTuple):
    """In which unit training wants its answers.

    Attributes:
        module: Whose output it compares with an entry of the batch, each as it is but for its shape, or the entry once
            it was standardised, or scaled otherwise.
        path: Of that entry.
        way: From the entry to what is compared.

    """

    module: str
    path: str
    way: Way

    @classmethod
    def of(cls, step: Step) -> Unit | None:
        """What the loss of a training step compares; None if it is not an output and an entry, scaled at most."""
        call = minimised(step)
        if isinstance(call, str) or TABLE[call.name].answers is not Family.NUMBERS:
            return None
        target = call.arguments["target"]
        event = next((event for event in step.events if event.kind == "loss" and event.name == call.name), None)
        modules = {made.name for number in (event.inputs if event else ()) if (made := giver(step, number)) is not None}
        ways = {path: way for path, tensor in dense(step.batch, "batch") if (way := _way(tensor, target)) is not None}
        as_they_are = {path: way for path, way in ways.items() if way.is_none}
        ways = as_they_are or ways
        if len(modules) != 1 or len(ways) != 1 or len(target) < FEWEST:
            return None
        return cls(modules.pop(), *ways.popitem())

    def is_asked_once(self, step: Step) -> bool:
        """Whether the module is called a single time in a step."""
        return sum(event.kind == "module" and event.name == self.module for event in step.events) == 1

    def right_answers(self, batch: Any) -> dict[str, Answer] | None:
        """What the module should put out; None if targets are distributed otherwise, as those that were not scaled."""
        entry = dict(dense(batch, "batch")).get(self.path)
        if entry is None or len(entry) < FEWEST or entry.numel() % len(self.way.mean):
            return None
        columns = entry.detach().cpu().double().reshape(-1, len(self.way.mean))
        mean, std = columns.mean(0), columns.std(0)
        alike = (mean - self.way.mean).abs() < self.way.std
        if not (alike & (std > self.way.std / 2) & (std < self.way.std * 2)).all():
            return None
        right = FORMS[self.way.form](columns) * self.way.scale + self.way.shift
        return {self.module: lambda output: right.to(output).reshape(output.shape)}

    @property
    def spread(self) -> float:
        """The largest standard deviation of a column, in either unit."""
        return float(torch.cat([self.way.std, self.way.std_of_target]).max())


def _way(entry: Tensor, target: Tensor) -> Way | None:
    """What makes a target of an entry; None if nothing does."""
    if entry.numel() != target.numel() or not entry.is_floating_point() or not target.numel():
        return None
    width = target.shape[-1] if target.ndim > 1 else 1
    x, y = (tensor.detach().cpu().double().reshape(-1, width) for tensor in (entry, target))
    mean, std, aim = x.mean(0), x.std(0), y.std(0)
    if torch.equal(x, y):
        return Way("", torch.ones(width).double(), torch.zeros(width).double(), mean, std, aim)
    for form, of in FORMS.items():
        made = of(x)
        scale = aim / made.std(0)
        shift = y.mean(0) - scale * made.mean(0)
        if bool(torch.isfinite(scale).all()) and bool(((made * scale + shift - y).abs() <= SAME * aim).all()):
            return Way(form, scale, shift, mean, std, aim)
    return None


def of_a_step(again: Rehearsal, batch: Any, seen: Seen, unit: Unit) -> Iterator[tuple[Outcome, str]]:
    """A `warning` for each error that a step logs, and that right answers do not bring down, with its name.

    Args:
        again: The copy, on which the step is run with the targets in place of what the module puts out.
        batch: Of validation.
        seen: The same step with the network's own answers.
        unit: Of training.

    """
    own, right = _values(seen), unit.right_answers(batch)
    if right is None or not any(map(_powers, own)):
        return
    try:
        yield from _mixed(own, _values(rehearsed(again, batch, right)), unit)
    except CannotRehearseError:  # such as if a module puts out more than is compared
        return


def at_the_end(again: Rehearsal, batch: Any, unit: Unit) -> Iterator[tuple[Outcome, str]]:
    """The same of errors that are logged at the end of validation, of this batch alone."""
    right = unit.right_answers(batch)
    if right is None:
        return
    try:
        yield from _mixed(reported(again, [batch]), reported(again, [batch], right), unit)
    except CannotRehearseError:
        return


def _mixed(own: dict[str, float], right: dict[str, float], unit: Unit) -> Iterator[tuple[Outcome, str]]:
    for name in own.keys() & right.keys():
        far = max(((FAR * unit.spread) ** power for power in _powers(name)), default=math.inf)
        depends = differ(own[name], right[name]) > ROUNDING  # or it is that of a naive forecast
        if depends and right[name] > far and right[name] > own[name] / 2:
            yield (
                Outcome(
                    Status.WARNING,
                    "mixed_units",
                    f'"{name}" of a batch is {own[name]:.3g}, and {right[name]:.3g} where {unit.module} puts out the '
                    f"very targets that training compares it with, whose standard deviation is {unit.spread:.3g}",
                    "scale prediction and target back, or neither of them",
                    {"value": own[name], "of_right_answers": right[name], "std": unit.spread},
                ),
                name,
            )


def _powers(name: str) -> tuple[int, ...]:
    said = words(name)
    return next((powers for word, powers in POWERS.items() if word in said), ())


def _values(seen: Seen) -> dict[str, float]:
    """What a step logged, metrics by their value for the batch alone."""
    found = scalars(seen.logged)
    for use in seen.uses.values():
        for one in seen.logged:
            if one.value is use.metric and use.args:
                metric: Metric = copy.deepcopy(use.metric)
                metric.reset()
                metric.update(*use.args)
                value = metric.compute()
                if isinstance(value, Tensor) and value.numel() == 1:
                    found[one.name] = float(value)
    return found
