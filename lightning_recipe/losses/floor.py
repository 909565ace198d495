"""The lowest loss that any predictions could reach on the given targets; seldom zero."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_recipe.losses.constants import Question, is_contrastive
from lightning_recipe.losses.table import TABLE, Constant, Family, Takes

if TYPE_CHECKING:
    from lightning_recipe.record.step import LossCall

ROUNDING = 1e-6
"""Loss that rounding leaves."""


NO_LOGARITHMS = "no_logarithms_into_nll_loss"


@dataclass(frozen=True)
class Floor:
    """What a loss can and can't reach.

    Attributes:
        value: The lowest value that the call could have, with the predictions that are best for its targets.
        ignorant: The lowest value with one prediction for all examples: what it takes to know the labels, not the
            inputs. From here to `value` is the way that memorising goes.
        reason: Why `value` is not zero; empty if it is.
        trap: The lowest value with predictions of the kind that was handed over, where that is the wrong kind.
        trap_reason: What is wrong with the predictions; empty if nothing is known to be.
        trap_code: The same in a word.

    """

    value: float
    ignorant: float
    reason: str = ""
    trap: float = math.nan
    trap_reason: str = ""
    trap_code: str = ""


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
        apart = own.cost(own.best())
        value = apart if alike is None else own.cost(own.best(own.same_for_examples(alike)))
        equal = torch.zeros(examples, dtype=torch.long)  # of positions, often flattened into the examples, too
        ignorant = own.cost(own.best(own.same_for_all() if loss.of_classes else own.same_for_examples(equal)))
        trap = _trap(call, own)
        together = torch.broadcast_shapes(prediction.shape, target.shape) if loss.family is Family.NUMBERS else ()
    except (RuntimeError, IndexError, ValueError):  # targets that only this call's own code understands
        return None
    if not math.isfinite(value):
        return None
    if math.prod(together) > max(prediction.numel(), target.numel()):  # every prediction is held to every target
        shapes = f"{tuple(prediction.shape)} and targets {tuple(target.shape)} broadcast to {tuple(together)}"
        why = f"predictions {shapes}, where each is compared with all"
        return Floor(0.0, ignorant, "", value, why, "shapes_broadcast")
    return Floor(value, max(value, ignorant), _reason(own, value, apart), *trap)


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


# -- predictions of the wrong kind


def _trap(call: LossCall, own: Question) -> tuple[float, str, str]:
    """The floor for predictions of the wrong kind, such as probabilities in the place of logits, if they came in."""
    prediction, target = own.prediction, own.target
    inside = bool(((prediction >= 0) & (prediction <= 1)).all())
    dim = 1 if prediction.ndim > 1 else 0
    classes = prediction.shape[dim] if prediction.ndim else 1
    sums = prediction.sum(dim) if prediction.ndim else prediction
    distributions = inside and classes > 1 and bool(((sums - 1).abs() < 1e-3).all())  # noqa: PLR2004 - half precision
    match own.loss.family, own.loss.takes:
        case Family.YES_NO, Takes.LOGITS if inside:
            ends = (target > 0.5).double()  # noqa: PLR2004
            why = "they lie between 0 and 1, and the loss applies a sigmoid of its own"
            return own.cost(ends), why, "probabilities_into_bce_with_logits"
        case Family.YES_NO, Takes.PROBABILITIES if distributions and prediction.ndim > 1:
            several = target.sum(1)  # 0.5: not the labels of one class, smoothed
            equal = float(prediction.max() - prediction.min()) < 1e-3  # noqa: PLR2004 - sigmoids of an output of zeros
            if not equal and float((several - 1).abs().max()) > 0.5:  # noqa: PLR2004
                value = own.cost(target / several[:, None].clamp(min=1))
                why = "they sum to 1 for each example, as after a softmax, and its targets do not"
                return value, why, "softmax_into_binary_cross_entropy"
        case Family.CLASSES, _ if distributions:
            plain = {"label_smoothing": 0.0} if "label_smoothing" in call.arguments else {}
            value = own.cost(Question(call, weight=None, **plain).best().exp())
            if own.loss.takes is Takes.LOG_PROBABILITIES:
                return value, f"they are probabilities, and {call.name} expects their logarithms", NO_LOGARITHMS
            limit = f"ln(1 + {classes - 1}/e) = {math.log(1 + (classes - 1) / math.e):.4f}"
            what = "they are probabilities, and the loss applies a softmax of its own, which can't bring it below"
            return value, f"{what} {limit}", "probabilities_into_cross_entropy"
        case Family.CLASSES, Takes.LOG_PROBABILITIES if float(prediction.max()) > 0.01:  # noqa: PLR2004 - log(p + eps)
            why = f"{call.name} expects logarithms of probabilities, which are never above 0"
            return -math.inf, why, NO_LOGARITHMS
    return math.nan, "", ""
