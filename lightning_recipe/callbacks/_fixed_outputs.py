"""Which outputs of a step are looked at again and again, and how to have them again: by calls, or by the whole step."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from lightning_recipe.callbacks._fixed_batch import FixedBatch
from lightning_recipe.finding import in_short
from lightning_recipe.losses.reading import Reading, reading, unread
from lightning_recipe.losses.targets import pairs_by_hand
from lightning_recipe.record.copies import first_rows, snapshot
from lightning_recipe.record.outputs import returned
from lightning_recipe.record.tensors import same, tensors
from lightning_recipe.run import Run
from lightning_recipe.trial.calming import without_dropout
from lightning_recipe.trial.isolation import memory_given_back
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal
from lightning_recipe.trial.replay import WATCHED, CannotReplayError, Replay, undisturbed
from lightning_recipe.trial.rng import named, restore, state, untouched_generators
from lightning_recipe.trial.side_effects import refuse_side_effects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from lightning_recipe.record.step import NetCall, Step

MORE = 2
"""Outputs besides the first that are looked at, of a step that compares several with targets."""


def candidates(
    steps: list[Step], run: Run, examples: int, predict: Callable[..., Any] | None, *, last: bool
) -> tuple[list[list[FixedBatch]], list[str]]:
    """The batches of `steps` that can be looked at again, those with a sure target first; and why others can't.

    Args:
        steps: That were watched.
        run: The run they are of.
        examples: How many to look at, at most.
        predict: The user's own way to have predictions.
        last: Whether no other step is to come: if no call of the network can be run again, the last one is, a training
            step, as a whole.

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
    if last and not found and steps and predict is None:
        with suppress(CannotReplayError):
            found.append([rehearsed(steps[-1], run, examples)])
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


def rehearsed(step: Step, run: Run, examples: int) -> FixedBatch:
    """A training step, run again as a whole on a copy at each look: always with the same random numbers, no dropout.

    Looked at is what a loss compares; where nobody knows that, what was put out last and has a gradient.

    Raises:
        CannotReplayError: If the step can't be run again, or copies are large.

    """
    if sum(parameter.numel() for parameter in run.module.parameters()) > WATCHED:
        msg = f"copies of more than {WATCHED:.2g} parameters are not made at each look"
        raise CannotReplayError(msg)
    batch, names = snapshot(step.batch), {call.name for call in step.net_calls}
    streams = [(generator, state(generator)) for generator in named()]

    def outputs(trainer: Trainer) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []

        def keeping(name: str) -> Callable[[Any], Any]:
            def kept(output: Any) -> Any:
                found.append((name, output))
                return output

            return kept

        try:
            with untouched_generators([generator for generator, _ in streams]), ExitStack() as stack:
                for generator, before in streams:
                    restore(generator, before)
                again = stack.enter_context(rehearsal(Run(trainer)))
                without_dropout(again.module)
                again.step(batch, answers={name: keeping(name) for name in names})
        except CannotRehearseError as error:
            raise CannotReplayError(str(error)) from error
        return found

    made = outputs(run.trainer)
    how, number = _of_outputs(step, made, examples)

    def again(trainer: Trainer, pl_module: LightningModule) -> dict[str, Tensor]:  # noqa: ARG001 - as of others
        return {path: tensor.detach() for path, tensor in returned(outputs(trainer)[number][1]).items()}

    inputs = next((tensor for tensor in step.inputs.values() if tensor.ndim), None)
    name = how.path.strip(".[]") or made[number][0].rpartition(".")[2]
    return FixedBatch(how, again, None if inputs is None else first_rows(inputs, how.examples).clone(), name)


def _of_outputs(step: Step, made: list[tuple[str, Any]], examples: int) -> tuple[Reading, int]:
    """How to read what a step puts out, and which of its calls that is."""
    with suppress(CannotReplayError):
        how, call = _read_off(step, examples)[0]
        before = [other.name for other in step.net_calls[: next(i for i, c in enumerate(step.net_calls) if c is call)]]
        numbers = [i for i, (name, _) in enumerate(made) if name == call.name]
        number = numbers[before.count(call.name)] if len(numbers) > before.count(call.name) else -1
        if number >= 0 and how.path in returned(made[number][1]):
            return how, number
    for number in reversed(range(len(made))):
        output = {path: t for path, t in returned(made[number][1]).items() if t.requires_grad}
        if (reading := unread(output, step.batch_size, examples)) is not None:
            return reading, number
    msg = "nothing that a module puts out has a gradient and a row for each example"
    raise CannotReplayError(msg)


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
