"""Which target belongs to each example of a step, and what the network said."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_recipe.losses.table import TABLE, Family, Takes
from lightning_recipe.record.tensors import tensors

if TYPE_CHECKING:
    from lightning_recipe.record.step import LossCall, Step

NAMES = re.compile(r"(^|[^a-z])(y|labels?|targets?)($|[^a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Answers:
    """The right answer for each example and the one that the network gave, both in the units of the target.

    Attributes:
        target: Tensor whose dimension 0 is the examples: class ids, values, a map, a sequence. None if there is none.
        prediction: Likewise. It may hold fewer examples.
        ignored: The class that the loss leaves out.

    """

    target: Tensor | None = None
    prediction: Tensor | None = None
    ignored: int | None = None


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
        Answers(target=None, prediction=None, ignored=None)

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
    same = (t for t in targets if isinstance(t, Tensor) and t.shape == tensor.shape and t.dtype == tensor.dtype)
    return bool(NAMES.search(last)) and any(torch.equal(t.to(tensor.device), tensor) for t in same)


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
    """The tensor of the batch that is called a target, or that alone did not enter the network."""
    inputs = step.inputs.values()
    others = {
        path: tensor
        for path, tensor in tensors(step.batch)
        if tensor.ndim
        and tensor.shape[0] == examples
        and tensor.grad_fn is None  # not put there by the step
        and not any(tensor.shape == entered.shape and torch.equal(tensor, entered) for entered in inputs)
    }
    named = [tensor for path, tensor in others.items() if NAMES.search(path)]
    alone = [tensor for tensor in others.values() if all(tensor.shape != entered.shape for entered in inputs)]
    target = named[0] if named else alone[0] if len(alone) == 1 else None
    output = step.net_calls[-1].output if step.net_calls else None
    if target is None or target.numel() == 0 or not isinstance(output, Tensor) or output.ndim == 0:
        return Answers(target.detach() if target is not None else None)
    is_class = not target.is_floating_point() and target.ndim == 1 and output.ndim == 2  # noqa: PLR2004
    if is_class and output.shape[1] > int(target.max()) and output.shape[1] > 1:
        return Answers(target.detach(), output.argmax(1))
    same = target.is_floating_point() and target.shape[1:] == output.shape[1:]
    return Answers(target.detach(), output if same else None)
