"""Errors that validation logs in two units: the prediction scaled back, the target not."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.callbacks._averaged import rehearsed, scalars
from lightning_recipe.callbacks._baselines import minimised
from lightning_recipe.callbacks._bias_wiring import giver
from lightning_recipe.callbacks._metric_names import words
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.losses.table import TABLE, Family
from lightning_recipe.record.tensors import dense
from lightning_recipe.trial.rehearsal import CannotRehearseError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchmetrics import Metric

    from lightning_recipe.callbacks._averaged import Seen
    from lightning_recipe.record.step import Step
    from lightning_recipe.trial.rehearsal import Rehearsal

FEWEST = 8
"""Examples by which distributions of targets are compared."""
SPREADS = {"mae": 1, "rmse": 1, "mse": 2}
"""Names of errors, with the power of the target's unit that they are in."""
SAME = 1e-3
"""Standard deviations by which a target may be off what is made of an entry: of halves more is rounding."""
FAR = 3.0
"""Standard deviations of the target, from which on an error is none of a right answer."""


class Unit(NamedTuple):
    """In which unit training wants its answers.

    Attributes:
        module: Whose output it compares with an entry of the batch, each as it is but for its shape, or the entry once
            it was standardised, or scaled otherwise.
        path: Of that entry.
        mean: Of each of its K columns in the first batch.
        std: Likewise.
        scale: What a column is multiplied with before it is compared.
        shift: What is then added to it.

    """

    module: str
    path: str
    mean: Tensor
    std: Tensor
    scale: Tensor
    shift: Tensor

    @classmethod
    def of(cls, step: Step) -> Unit | None:
        """What the loss of a training step compares; None if it is not an output and an entry, scaled at most."""
        call = minimised(step)
        if isinstance(call, str) or TABLE[call.name].answers is not Family.NUMBERS:
            return None
        target = call.arguments["target"]
        event = next((event for event in step.events if event.kind == "loss" and event.name == call.name), None)
        modules = {made.name for number in (event.inputs if event else ()) if (made := giver(step, number)) is not None}
        entries = {
            path: way for path, tensor in dense(step.batch, "batch") if (way := _way(tensor, target)) is not None
        }
        if len(modules) != 1 or len(entries) != 1 or len(target) < FEWEST:
            return None
        ((path, way),) = entries.items()
        return cls(modules.pop(), path, *way)

    def is_that_of(self, entry: Tensor) -> bool:
        """Whether targets are distributed as in training: those of a data set that was not scaled are not."""
        columns = entry.detach().cpu().double().reshape(-1, len(self.mean))
        mean, std = columns.mean(0), columns.std(0)
        alike = (mean - self.mean).abs() < self.std
        return len(entry) >= FEWEST and bool((alike & (std > self.std / 2) & (std < self.std * 2)).all())

    def right_answer(self, entry: Tensor, output: Tensor) -> Tensor:
        """What an output should be, in its shape."""
        columns = entry.detach().cpu().double().reshape(-1, len(self.mean))
        return (columns * self.scale + self.shift).to(output).reshape(output.shape)

    @property
    def spread(self) -> float:
        """The largest standard deviation of a column, in either unit."""
        return float(torch.cat([self.std, self.std * self.scale.abs()]).max())


def _way(entry: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Mean and standard deviation of an entry's columns, and what makes a target of them; None if nothing does."""
    if entry.numel() != target.numel() or not entry.is_floating_point() or not target.numel():
        return None
    width = target.shape[-1] if target.ndim > 1 else 1
    x, y = (tensor.detach().cpu().double().reshape(-1, width) for tensor in (entry, target))
    std = x.std(0)
    if torch.equal(x, y):
        return x.mean(0), std, torch.ones(width).double(), torch.zeros(width).double()
    scale = y.std(0) / std
    shift = y.mean(0) - scale * x.mean(0)
    if bool((std > 0).all()) and bool(((x * scale + shift - y).abs() <= SAME * y.std(0)).all()):
        return x.mean(0), std, scale, shift
    return None


def mixed_units(again: Rehearsal, batch: Any, seen: Seen, unit: Unit) -> Iterator[tuple[Outcome, str]]:
    """A `warning` for each error that right answers do not bring down, with its name.

    Args:
        again: The copy, on which the step is run with the targets in place of what the module puts out.
        batch: Of validation.
        seen: The same step with the network's own answers.
        unit: Of training.

    """
    target = dict(dense(batch, "batch")).get(unit.path)
    own = {name: value for name, value in _values(seen).items() if not SPREADS.keys().isdisjoint(words(name))}
    calls = [event for event in seen.step.events if event.kind == "module" and event.name == unit.module]
    if target is None or not own or len(calls) != 1 or not unit.is_that_of(target):
        return
    try:
        right = _values(rehearsed(again, batch, {unit.module: partial(unit.right_answer, target)}))
    except CannotRehearseError:  # such as if a module puts out more than is compared
        return
    for name in own.keys() & right.keys():
        power = max(SPREADS[word] for word in words(name) if word in SPREADS)
        if right[name] > (FAR * unit.spread) ** power and right[name] > own[name] / 2:
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
