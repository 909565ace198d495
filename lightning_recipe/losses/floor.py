"""The lowest loss that any predictions could reach on the given targets; seldom zero."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_recipe.losses.constants import Question, is_contrastive
from lightning_recipe.losses.table import TABLE, Constant, Family

if TYPE_CHECKING:
    from lightning_recipe.record.step import LossCall

ROUNDING = 1e-6
"""Loss that rounding leaves."""


@dataclass(frozen=True)
class Floor:
    """What a loss can and can't reach.

    Attributes:
        value: The lowest value that the call could have, with the predictions that are best for its targets.
        ignorant: The lowest value with one prediction for all examples: what it takes to know the labels, not the
            inputs. From here to `value` is the way that memorising goes.
        reason: Why `value` is not zero; empty if it is.
        layers: Names of the modules whose answers it is of, where the step was asked.

    """

    value: float
    ignorant: float
    reason: str = ""
    layers: tuple[str, ...] = ()


def floor(call: LossCall, inputs: dict[str, Tensor] | None = None) -> Floor | None:
    """The floor of a loss call, or None if it isn't known for this loss and these targets.

    Examples with equal inputs get equal predictions. Where the targets belong to the positions of integer sequences,
    so do positions with equal pasts, as in a causal language model: the first token tells little about the second.

    Args:
        call: A loss call of a probed step.
        inputs: The tensors that entered the network, to find examples that can't be told apart.

    Example:
        >>> from torch.nn import functional as F
        >>> from lightning_recipe.record.step import LossCall
        >>> arguments = {"input": torch.zeros(2, 10), "target": torch.tensor([3, 7]), "label_smoothing": 0.1}
        >>> value = F.cross_entropy(**arguments)
        >>> found = floor(LossCall("cross_entropy", F.cross_entropy, arguments, value, 2, "model.py:1", False))
        >>> round(found.value, 4), found.reason
        (0.5003, 'label smoothing 0.1')

    """
    loss, prediction, target = TABLE[call.name], call.arguments.get("input"), call.arguments.get("target")
    if loss.constant is Constant.NONE or loss.family is Family.MARGINS or "var" in call.arguments:
        return None  # a margin is no aim, and a density has no floor
    if call.target_from_net or not isinstance(target, Tensor) or not isinstance(prediction, Tensor):
        return None
    if prediction.numel() == 0 or target.requires_grad or is_contrastive(call):
        return None
    examples = prediction.shape[0] if prediction.ndim else 1
    alike = indistinguishable(inputs or {}, examples) if examples == call.examples else None
    try:
        if loss.family is Family.YES_NO and not 0 <= float(target.min()) <= float(target.max()) <= 1:
            return None
        own = Question(call)
        if not own.is_right_kind:
            return None
        apart = own.cost(own.best())
        value = apart if alike is None else own.cost(own.best(own.same_for_examples(alike)))
        equal = torch.zeros(examples, dtype=torch.long)  # of positions, often flattened into the examples, too
        ignorant = own.cost(own.best(own.same_for_all() if loss.of_classes else own.same_for_examples(equal)))
        together = torch.broadcast_shapes(prediction.shape, target.shape) if loss.family is Family.NUMBERS else ()
    except (RuntimeError, IndexError, ValueError):  # targets that only this call's own code understands
        return None
    if not math.isfinite(value):
        return None
    if math.prod(together) > max(prediction.numel(), target.numel()):  # every prediction is held to every target
        return Floor(0.0, ignorant)
    return Floor(value, max(value, ignorant), _reason(own, value, apart))


def indistinguishable(inputs: dict[str, Tensor], examples: int) -> Tensor | None:
    """For each of `examples` a number, equal for those that no network could tell apart; None if all differ.

    Sparse inputs are taken to differ.

    Returns:
        Integers of shape (examples,).

    Example:
        >>> indistinguishable({"x": torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]])}, 3)
        tensor([0, 1, 0])

    """
    if any(t.layout is not torch.strided for t in inputs.values()):
        return None
    inputs = {name: torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for name, t in inputs.items()}
    each = [t.detach().cpu() for t in inputs.values() if t.ndim and t.shape[0] == examples]
    if rows := [t.flatten(1) if t.ndim > 1 else t[:, None] for t in each]:
        numbers = [torch.unique(row, dim=0, return_inverse=True)[1] for row in rows]
        alike = torch.unique(torch.stack(numbers, 1), dim=0, return_inverse=True)[1]
    else:
        sequences = [
            t.detach().cpu()
            for t in inputs.values()
            if t.ndim == 2 and not t.is_floating_point() and t.numel() == examples  # noqa: PLR2004 - example, position
        ]
        if not sequences:
            return None
        past = torch.zeros(len(sequences[0]), dtype=torch.long)
        pasts: list[Tensor] = []
        for tokens in torch.stack(sequences, 2).unbind(1):
            past = torch.unique(torch.cat([past[:, None], tokens], 1), dim=0, return_inverse=True)[1]
            pasts.append(past + examples * len(pasts))
        alike = torch.unique(torch.stack(pasts, 1).flatten(), return_inverse=True)[1]
    return alike if int(alike.max()) + 1 < examples else None


def _reason(own: Question, value: float, apart: float) -> str:
    if value < ROUNDING:
        return ""
    reasons = []
    if smoothing := own.arguments.get("label_smoothing"):
        reasons.append(f"label smoothing {smoothing:g}")
    elif apart > ROUNDING:
        broadcast = own.loss.family is Family.NUMBERS and own.prediction.shape != own.target.shape
        reasons.append("shapes that broadcast" if broadcast else "soft targets")
    if value > apart + ROUNDING:
        reasons.append("equal inputs with different targets")
    return " and ".join(reasons)
