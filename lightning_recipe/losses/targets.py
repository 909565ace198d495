"""Which target belongs to each example of a step, and what the network said."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_recipe.losses.table import BCE_WITH_LOGITS, CROSS_ENTROPY, MSE, TABLE, Family, Takes
from lightning_recipe.record.outputs import without_parameters
from lightning_recipe.record.step import LossCall
from lightning_recipe.record.tensors import dense, same

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.step import Step

SHAPES = re.compile(r"box|keypoint", re.IGNORECASE)
"""What lists of boxes and keypoints are called in a batch."""
NORMALISED = 0.01
"""What sums of probabilities lie within of 1."""
NAMES = re.compile(r"(^|[^a-z])(y|labels?|targets?)($|[^a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Answers:
    """The right answer for each example and the one that the network gave, both in the units of the target.

    Attributes:
        target: Tensor whose dimension 0 is the examples: class ids, values, a map, a sequence. None if there is none.
        prediction: Likewise. It may hold fewer examples.
        ignored: The class that the loss leaves out.
        notes: A few words on each example, such as its index.

    """

    target: Tensor | None = None
    prediction: Tensor | None = None
    ignored: int | None = None
    notes: tuple[str, ...] = ()


def answers(step: Step, examples: int) -> Answers:
    """Target and prediction of each example, from the loss; from the batch if no known loss function was called.

    Args:
        step: What a step did.
        examples: Size of dimension 0 of the network's inputs.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import DemoModel
        >>> from lightning_recipe.record.probe import Probe
        >>> module = DemoModel()
        >>> probe = Probe.attach(module, "training_step")
        >>> _ = module.training_step(torch.ones(4, 32), 0)
        >>> answers(probe.result(), 4)
        Answers(target=None, prediction=None, ignored=None, notes=())

    """
    with contextlib.suppress(Exception):  # a picture without answers is better than none
        for call in step.loss_calls:
            found = of_loss(call, examples)
            if found is not None:
                return found
        return _of_batch(step, examples)
    return Answers()


def is_target(name: str, tensor: Tensor, step: Step) -> bool:
    """Whether what entered the network as `name` is what a loss compares with, not what it is computed from.

    Transformers that compute their own loss are called with their labels.

    Example:
        >>> from lightning_recipe.record.step import Step
        >>> is_target("model.labels", torch.zeros(3), Step(None)), is_target("model.image", torch.zeros(3), Step(None))
        (True, False)

    """
    last = name.rpartition(".")[2]
    if re.fullmatch(r"(labels?|targets?)(, call \d+)?", last):
        return True
    targets = [call.arguments.get("target") for call in step.loss_calls]
    alike = (t for t in targets if isinstance(t, Tensor) and t.shape == tensor.shape and t.dtype == tensor.dtype)
    return bool(NAMES.search(last)) and any(same(t.to(tensor.device), tensor) for t in alike)


def of_loss(call: LossCall, examples: int) -> Answers | None:
    """Target and prediction of a call of a loss function in the units of the target, or None if it has no such pair."""
    prediction, target = call.arguments.get("input"), call.arguments.get("target")
    if not (isinstance(prediction, Tensor) and isinstance(target, Tensor)) or target.ndim == 0 or call.target_from_net:
        return None
    if not examples or call.examples % examples or prediction.ndim == 0:
        return None
    said: Tensor | None = None
    loss = TABLE[call.name]
    if loss.answers is Family.CLASSES:
        said = prediction.argmax(1) if prediction.ndim > 1 else None
        target = target.argmax(1) if target.is_floating_point() and target.shape == prediction.shape else target
    elif loss.answers is Family.YES_NO:
        probability = prediction.sigmoid() if loss.takes is Takes.LOGITS else prediction
        hard = bool(((target == 0) | (target == 1)).all())
        said, target = ((probability > 0.5).long(), target.long()) if hard else (probability, target)  # noqa: PLR2004
    elif loss.answers is Family.NUMBERS:
        said = prediction
    each = call.examples // examples  # more than one if time or pixels were flattened into the examples
    if each > 1:
        target, said = _unflattened(target, each), None if said is None else _unflattened(said, each)
    ignored = call.arguments.get("ignore_index")
    return Answers(target, said, ignored if isinstance(ignored, int) else None)


def _unflattened(tensor: Tensor, each: int) -> Tensor:
    whole = len(tensor) // each
    return tensor[: whole * each].reshape(whole, each, *tensor.shape[1:])


def _of_batch(step: Step, examples: int) -> Answers:
    """The target of the batch, and what the last module said of it, told by their shapes."""
    outputs = outputs_of(step)
    target = target_of_batch(step, examples)
    if target is None:  # a reconstruction?
        return Answers(None, next((o for o, entered in _reconstructed(step, outputs)), None))
    said = (prediction_of(target, output.detach()) for output in outputs if target.numel())
    return Answers(target.detach(), next((found for found in said if found is not None), None))


def outputs_of(step: Step) -> list[Tensor]:
    """What the last module put out; of distributions, what they say."""
    return [tensor for call in step.net_calls[-1:] for tensor in without_parameters(call.output) if tensor.ndim]


def target_of_batch(step: Step, examples: int) -> Tensor | None:
    """The tensor of the batch that is called a target, or that alone did not enter the network.

    None if that may be an input from before an augmentation: one of its shape, where no tensor of the batch entered as
    it was; and where there is nothing but what entered.
    """
    inputs = list(step.inputs.values())
    listed = _filled(step.batch, examples)
    if listed is not None:
        return listed
    whole = {path: tensor for path, tensor in dense(step.batch) if tensor.ndim and len(tensor) == examples}
    others = {
        path: tensor
        for path, tensor in whole.items()
        if tensor.grad_fn is None  # not put there by the step
        and not any(same(tensor, entered) for entered in inputs)
    }
    named = [tensor for path, tensor in others.items() if NAMES.search(path)]
    as_it_was = len(others) < len(whole)
    alone = [t for t in others.values() if as_it_was or all(t.shape != entered.shape for entered in inputs)]
    return named[0] if named else alone[0] if len(alone) == 1 else None


def _reconstructed(step: Step, outputs: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs of the shape of an input, of at least three dimensions, and that input."""
    for output in outputs:
        for entered in step.inputs.values():
            if output.ndim > 2 and output.shape == entered.shape and output.is_floating_point():  # noqa: PLR2004
                yield output.detach(), entered


def pairs_by_hand(step: Step, examples: int) -> Iterator[LossCall]:
    """What a loss written by hand likely compares, as the call of the function that would: none is sure.

    The prediction is what the last module put out; the target is the entry of the batch of its shape, or what is
    reconstructed.
    """
    target, outputs = target_of_batch(step, examples), outputs_of(step)
    pairs = _reconstructed(step, outputs) if target is None else ((output.detach(), target) for output in outputs)
    for output, wanted in pairs:
        compared = _compared(output, wanted.detach()) if output.numel() and wanted.numel() else None
        if compared is not None:
            name, given, aim = compared
            arguments = {"input": given, "target": aim}
            value = output.new_zeros(())
            yield LossCall(name, getattr(F, name), arguments, value, len(output), where="", target_from_net=False)


def _compared(output: Tensor, target: Tensor) -> tuple[str, Tensor, Tensor] | None:
    """The function that would compare these, and its arguments; None for what does not fit, and for probabilities."""
    if not output.is_floating_point():
        return None
    if not target.is_floating_point() and output.ndim == target.ndim + 1:
        if prediction_of(target, output) is None:
            return None
        given = output if output.shape[:1] + output.shape[2:] == target.shape else output.movedim(-1, 1)
        sums = given.exp().sum(1) if bool((given <= 0).all()) else given.sum(1)
        return None if bool((sums - 1).abs().max() < NORMALISED) else (CROSS_ENTROPY, given, target)
    if output.ndim == target.ndim + 1 > 2 and output.shape[:-1] == target.shape:  # noqa: PLR2004 - quantiles
        return MSE, output, target[..., None].expand_as(output)
    if output.numel() != target.numel() or output.ndim < target.ndim:
        return None
    aim = target.reshape(output.shape)
    within = bool((output >= 0).all() and (output <= 1).all())  # probabilities, or logits by chance: numbers
    if bool(((aim == 0) | (aim == 1)).all()) and not within:
        return BCE_WITH_LOGITS, output, aim.to(output)
    return MSE, output, aim.to(output)


def prediction_of(target: Tensor, output: Tensor) -> Tensor | None:
    """What `output` says of `target`, in its units, told by their shapes; None if it may be something else.

    Example:
        >>> scores = torch.tensor([[0.1, 2.0, 0.3]])
        >>> prediction_of(torch.tensor([2]), scores), prediction_of(torch.tensor([[1.5, 2.0]]), scores)
        (tensor([1]), None)
        >>> prediction_of(torch.zeros(1, 5), torch.zeros(1, 5, 3)).shape  # quantiles
        torch.Size([1, 5, 3])

    """
    if not output.is_floating_point():
        return None
    if not target.is_floating_point():
        for place in {1, output.ndim - 1} if output.ndim == target.ndim + 1 else ():
            shape = output.shape[:place] + output.shape[place + 1 :]
            if shape == target.shape and output.shape[place] > max(1, int(target.max())):
                return output.argmax(place)
    same = output.shape == target.shape or output.squeeze(-1).shape == target.squeeze(-1).shape
    same = same or (output.ndim == 4 and output.squeeze(1).shape == target.squeeze(1).shape)  # noqa: PLR2004 - a map
    if same and bool(((target == 0) | (target == 1)).all()):
        logits = bool((output < 0).any() or (output > 1).any())
        return (output.reshape(target.shape) > (0 if logits else 0.5)).to(target.dtype)
    if not target.is_floating_point():
        return None
    if same:
        return output.reshape(target.shape)
    quantiles = output.ndim == target.ndim + 1 and output.shape[:-1] == target.shape and target.ndim > 1
    return output if quantiles else None


def _filled(batch: object, examples: int) -> Tensor | None:
    """Lists of boxes or keypoints, one for each example, as a tensor filled up with NaN."""
    found = [t.detach().float() for path, t in dense(batch) if SHAPES.search(path) and t.ndim == 2]  # noqa: PLR2004
    most = max(map(len, found), default=0)
    if len(found) != examples or len({t.shape[1] for t in found}) != 1 or not most:
        return None
    return torch.stack([torch.cat([t, t.new_full((most - len(t), t.shape[1]), torch.nan)]) for t in found])
