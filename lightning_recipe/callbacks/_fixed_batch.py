"""One batch whose predictions are looked at again and again, and what the looks say together."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from lightning_recipe.finding import in_short
from lightning_recipe.losses.reading import Reading, reading, unread
from lightning_recipe.losses.targets import pairs_by_hand
from lightning_recipe.record.copies import first_rows, snapshot
from lightning_recipe.record.outputs import returned
from lightning_recipe.record.tensors import same, tensors
from lightning_recipe.trial.isolation import memory_given_back
from lightning_recipe.trial.replay import CannotReplayError, Replay, undisturbed
from lightning_recipe.trial.side_effects import refuse_side_effects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from lightning_recipe.record.step import NetCall, Step
    from lightning_recipe.run import Run

MORE = 2
"""Outputs besides the first that are looked at, of a step that compares several with targets."""
KEPT = 64
"""Looks kept; when there are more, every second one is forgotten."""


@dataclass(frozen=True)
class Look:
    """One look at the predictions.

    Attributes:
        step: Batches that had been trained on.
        numbers: What was measured, under short names.
        picture: What pictures need of it.

    """

    step: int
    numbers: dict[str, float]
    picture: Any


@dataclass
class FixedBatch:
    """A batch, how to have its predictions again, and the looks at them so far.

    Attributes:
        how: How to read the predictions.
        again: Gives the network's output tensors by path, as it is now.
        name: What is predicted, where a step compares several outputs with targets.
        inputs: What entered the network: the first tensor.
        looks: At most `KEPT`, evenly spaced after the first few, and the latest.
        stride: One in how many looks is kept.
        begun: Step of the first look.
        latest: Step of the last look.
        first: The predictions at the first look.
        last: Those at the last look.

    """

    how: Reading
    again: Callable[[Trainer, LightningModule], dict[str, Tensor]]
    inputs: Tensor | None = None
    name: str = ""
    looks: list[Look] = field(default_factory=list)
    stride: int = 1
    begun: int = 0
    latest: int = -1
    first: Tensor | None = None
    last: Tensor | None = None
    count: int = 0

    def look(self, step: int, values: Tensor, picture: Any, **more: float) -> dict[str, float]:
        """Measure predictions against those of the look before.

        Args:
            step: Batches that have been trained on.
            values: What :meth:`Reading.read` gives.
            picture: To be kept with the numbers.
            more: Numbers to be kept with them.

        Returns:
            ``moved`` since the look before, ``jitter`` (the same per step), ``flip_rate``, ``error``, and what
            :meth:`Reading.score` gives. NaN for what there is not.

        """
        how, before = self.how, self.last
        numbers = {"error": how.error(values), **how.score(values), **more}
        if before is None:
            self.first, self.begun = values, step
        else:
            moved = how.distance(before, values)
            jitter = moved / max(1, step - self.latest)
            numbers |= {"moved": moved, "jitter": jitter, "flip_rate": how.flips(before, values)}
        if (self.count - 1) % self.stride and self.looks:
            self.looks.pop()  # was kept for being the latest
        self.looks.append(Look(step, numbers, picture))
        if len(self.looks) > KEPT:
            self.looks, self.stride = self.looks[::2], 2 * self.stride
        self.count, self.latest, self.last = self.count + 1, step, values
        return numbers

    def measure(self) -> dict[str, float]:
        """What the looks say together, with `late` for the second half of the run.

        Returns:
            ``steps`` from the first look to the last; ``moved`` from the first to the last, and ``late_moved`` from
            one to the next, see :meth:`Reading.distance`; ``late_flips``, the share of answers changed from one to
            the next; ``late_looks``, their number; ``spread_start`` and ``spread`` between examples;
            ``finite_start`` and ``finite``, shares of the predictions; ``error``, late, see :meth:`Reading.error`;
            ``loss_start`` and ``loss_late``, the training loss at first and late; ``rate_early`` and ``rate``, the
            learning rate in the first half and at the end. NaN for what there is not.

        Raises:
            ValueError: If there was no look.

        """
        if self.first is None or self.last is None:
            msg = "no look at the predictions"
            raise ValueError(msg)
        how, steps = self.how, self.latest - self.begun
        late = [look for look in self.looks if look.step - self.begun > steps / 2]
        early = [look for look in self.looks if look.step - self.begun <= steps / 2]
        return {
            "steps": steps,
            "moved": how.distance(self.first, self.last),
            "late_looks": len(late),
            "late_moved": _mean(late, "moved"),
            "late_flips": _mean(late, "flip_rate"),
            "spread_start": how.spread(self.first),
            "spread": how.spread(self.last),
            "finite_start": float(self.first.isfinite().float().mean()),
            "finite": float(self.last.isfinite().float().mean()),
            "error": _mean(late, "error"),
            "loss_start": next(iter(_known(self.looks, "loss")), math.nan),
            "loss_late": _mean(late, "loss"),
            "rate_early": _mean(early, "rate"),
            "rate": _mean(self.looks[-1:], "rate"),
        }


def _known(looks: list[Look], name: str) -> list[float]:
    return [value for look in looks if not math.isnan(value := look.numbers.get(name, math.nan))]


def _mean(looks: list[Look], name: str) -> float:
    values = _known(looks, name)
    return sum(values) / len(values) if values else math.nan


# -- choosing what to run


def candidates(
    steps: list[Step], run: Run, examples: int, predict: Callable[..., Any] | None
) -> tuple[list[list[FixedBatch]], list[str]]:
    """The batches of `steps` that can be looked at again, those with a sure target first; and why others can't.

    Returns:
        For each batch, the output that a loss compares first, and up to `MORE` others.

    """
    found, reasons = [], ["no step was run"]
    for step in steps:
        try:
            if predict is None:
                found.append(_named(_of_step(step, run, examples)))
            else:
                found.append([predicted(step, run.trainer, run.module, examples, predict)])
        except CannotReplayError as error:
            reasons.append(str(error))
    return sorted(found, key=lambda outputs: (outputs[0].how.target is None, not outputs[0].how.sure)), reasons


def _of_step(step: Step, run: Run, examples: int) -> list[FixedBatch]:
    """What a step compares with targets, and what it makes of noise.

    Raises:
        CannotReplayError: If there is nothing of the first kind that can be looked at again, and nothing of the other.

    """
    samples = []
    for how, call in list(_generated(step, examples))[:1]:
        with suppress(CannotReplayError):
            samples.append(replayed(step, run, how, call))
    try:
        first, *more = _read_off(step, examples)
        outputs = [replayed(step, run, *first)]
    except CannotReplayError:
        if not samples:
            raise
        return samples
    for other in more[:MORE]:
        with suppress(CannotReplayError):
            outputs.append(replayed(step, run, *other))
    return outputs + samples


def _named(outputs: list[FixedBatch]) -> list[FixedBatch]:
    """Several outputs under different names."""
    ends = [other.name for other in outputs]
    for i, fixed in enumerate(outputs):
        fixed.name = "" if len(outputs) == 1 else fixed.name if ends.count(fixed.name) == 1 else f"{fixed.name} {i}"
    return outputs


def replayed(step: Step, run: Run, how: Reading, call: NetCall) -> FixedBatch:
    """The first examples of the batch of a step, their predictions from running the network's calls again.

    Raises:
        CannotReplayError: If that can't be done; see :class:`lightning_recipe.trial.replay.Replay`.

    """
    trainer, pl_module = run.trainer, run.module
    replay = Replay.of(step, call)
    with memory_given_back(trainer.strategy.root_device):  # of the copy that is tried
        refuse_side_effects(replay, trainer, pl_module)
    outputs = replay.run(trainer, pl_module, watch_parameters=True)
    try:
        values = how.read(outputs)
    except (KeyError, RuntimeError) as error:
        name = call.name or type(call.module).__name__
        msg = f"{name} returns something of another shape in eval mode than in the step, so that it can't be read"
        raise CannotReplayError(msg) from error
    if step.batch_size is not None and how.examples < step.batch_size:
        fewer = replay.first(how.examples, of=step.batch_size)
        with suppress(CannotReplayError, RuntimeError, KeyError):  # such as graphs: examples can't be taken apart
            alone = how.read(fewer.run(trainer, pl_module))
            if alone.shape == values.shape and alone.allclose(values, rtol=1e-3, atol=1e-4, equal_nan=True):
                replay = fewer
    inputs = next((tensor for tensor in step.inputs.values() if tensor.ndim), None)
    inputs = None if inputs is None else first_rows(inputs, how.examples).clone()
    return FixedBatch(how, replay.run, inputs, how.path.strip(".[]") or call.name.rpartition(".")[2])


def predicted(
    step: Step, trainer: Trainer, pl_module: LightningModule, examples: int, predict: Callable[..., Any]
) -> FixedBatch:
    """The batch of a step, its predictions from ``predict(pl_module, batch)``.

    Raises:
        CannotReplayError: If `predict` raises, or returns no tensor of floating point numbers.

    """
    batch = snapshot(step.batch)

    def again(trainer: Trainer, pl_module: LightningModule) -> dict[str, Tensor]:
        with undisturbed(pl_module), trainer.precision_plugin.forward_context():
            try:
                return returned(predict(pl_module, snapshot(batch)))
            except Exception as error:
                msg = f"predict raised {in_short(error)}"
                raise CannotReplayError(msg) from error

    outputs = again(trainer, pl_module)
    known = (reading(outputs, loss, examples, by_shape=True) for loss in step.loss_calls)
    how = next(filter(None, known), None) or unread(outputs, None, examples)
    if how is None:
        msg = "predict returned no tensor of floating point numbers"
        raise CannotReplayError(msg)
    inputs = next((tensor for _, tensor in tensors(batch) if tensor.ndim), None)
    return FixedBatch(how, again, None if inputs is None else first_rows(inputs, how.examples))


def _generated(step: Step, examples: int) -> Iterator[tuple[Reading, NetCall]]:
    """Calls that make pictures of a row of numbers for each that is not in the batch: a generator's noise."""
    batch = [tensor for _, tensor in tensors(step.batch)]
    for call in step.net_calls:
        drawn = [tensor for tensor in call.inputs.values() if not any(same(tensor, other) for other in batch)]
        dense = len(drawn) == 1 and drawn[0].layout is torch.strided
        if dense and drawn[0].is_floating_point() and drawn[0].squeeze().ndim == 2:  # noqa: PLR2004
            how = unread(call.output, len(drawn[0]), examples)
            if how is not None and how.of_maps:
                yield how, call


def _read_off(step: Step, examples: int) -> list[tuple[Reading, NetCall]]:
    """What the network's predictions in `step` are, and the call that returned each.

    Those that a loss function was seen to compare; else those that a loss by hand likely compares; else one that nobody
    knows the target of.
    """
    for losses in (step.loss_calls, list(pairs_by_hand(step, step.batch_size or 0))):
        found: dict[tuple[int, str], tuple[Reading, NetCall]] = {}
        for loss in losses:
            for call in reversed(step.net_calls):
                how = reading(call.output, loss, examples)
                if how is not None:
                    how = how if losses is step.loss_calls else replace(how, sure=False)
                    found.setdefault((id(call), how.path), (how, call))
                    break
        if found:
            return list(found.values())
    names = ", ".join(dict.fromkeys(call.name or type(call.module).__name__ for call in step.net_calls))
    if len(step.net_calls) == 1:
        how = unread(step.net_calls[0].output, step.batch_size, examples)
        if how is not None:
            return [(how, step.net_calls[0])]
        msg = f"{names} returned no tensor of floating point numbers with a row for each example"
    elif step.net_calls:
        functions = ", ".join(dict.fromkeys(loss.name for loss in step.loss_calls))
        msg = f"the step calls {names}, and " + (
            f"what comes out is not the prediction that {functions} compares with a target"
            if functions
            else "no loss of torch.nn.functional is given what comes out"
        )
    elif step.compiled:
        msg = f"{step.compiled[0]} is compiled as a whole, so that no call of the network was seen"
    else:
        msg = "no call of a module with parameters was seen"
    raise CannotReplayError(msg)
