"""The lowest loss that any predictions could reach on the given targets; seldom zero."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning_recipe.record.step import LossCall

TINY = 1e-30
"""Stands for a probability of zero: its logarithm is large, and finite."""
SATURATED = 50.0
"""A logit whose probability is 1 in double precision."""


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

    """

    value: float
    ignorant: float
    reason: str = ""
    trap: float = math.nan
    trap_reason: str = ""


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
    best = BEST.get(call.name)
    target = call.arguments.get("target")
    prediction = call.arguments.get("input")
    if best is None or call.target_from_net or not isinstance(target, Tensor) or not isinstance(prediction, Tensor):
        return None
    if prediction.numel() == 0 or target.requires_grad or _pairs_with_itself(prediction, target):
        return None
    examples = prediction.shape[0] if prediction.ndim else 1
    alike = indistinguishable(inputs or {}, examples) if examples == call.examples else None
    try:
        value = _value(call, best(call.arguments, alike))
        apart = value if alike is None else _value(call, best(call.arguments, None))
        ignorant = _value(call, best(call.arguments, torch.zeros(examples, dtype=torch.long)))
        trap, trap_reason = _trap(call)
    except (RuntimeError, IndexError, ValueError):  # targets that only this call's own code understands
        return None
    if not math.isfinite(value):
        return None
    together = _broadcast(prediction, target) if best in {_mean, _median} else target.shape
    if math.prod(together) > max(prediction.numel(), target.numel()):  # every prediction is held to every target
        shapes = f"{tuple(prediction.shape)} and targets {tuple(target.shape)} broadcast to {tuple(together)}"
        return Floor(0.0, ignorant, "", value, f"predictions {shapes}, where each is compared with all")
    reason = _reason(call, value, apart)
    return Floor(value, max(value, ignorant), reason, trap, trap_reason)


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
    rows = [t.detach().cpu().flatten(1) for t in inputs.values() if t.ndim > 1 and t.shape[0] == examples]
    rows += [t.detach().cpu()[:, None] for t in inputs.values() if t.ndim == 1 and t.shape[0] == examples]
    if rows:
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


def _value(call: LossCall, prediction: Tensor) -> float:
    arguments = {k: v.double() if _is_float(v) else v for k, v in call.arguments.items()}
    arguments["input"] = prediction.to(arguments["input"].device)
    with torch.no_grad():
        return float(call.function(**arguments).mean())


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _reason(call: LossCall, value: float, apart: float) -> str:
    if value < 1e-6:  # noqa: PLR2004 - what rounding leaves
        return ""
    reasons = []
    target, smoothing = call.arguments["target"], call.arguments.get("label_smoothing")
    if smoothing:
        reasons.append(f"label smoothing {smoothing:g}")
    elif apart > 1e-6:  # noqa: PLR2004
        broadcast = call.arguments["input"].shape != target.shape and call.name in {"mse_loss", "l1_loss"}
        reasons.append("shapes that broadcast" if broadcast else "soft targets")
    if value > apart + 1e-6:
        reasons.append("equal inputs with different targets")
    return " and ".join(reasons)


def _pairs_with_itself(prediction: Tensor, target: Tensor) -> bool:
    """In-batch contrastive losses: each row's partner is another row, and similarities may be bounded."""
    n = prediction.shape[0]
    square = prediction.ndim == 2 and prediction.shape[1] in {n, n - 1} and target.ndim == 1  # noqa: PLR2004
    return square and not target.is_floating_point() and len(target.unique()) == n > 2  # noqa: PLR2004


# -- the best predictions, by loss; `alike` says which examples must share one


def _shared(best: Tensor, alike: Tensor | None, *, median: bool = False) -> Tensor:
    """Average `best` over examples that are alike. Shape (examples, ...) in and out."""
    if alike is None:
        return best
    alike = alike.to(best.device)
    flat = best.flatten(1) if best.ndim > 1 else best[:, None]
    if median:
        means = torch.stack([flat[alike == i].median(0).values for i in range(int(alike.max()) + 1)])
    else:
        sums = flat.new_zeros(int(alike.max()) + 1, flat.shape[1]).index_add_(0, alike, flat)
        means = sums / alike.bincount()[:, None]
    return means[alike].view_as(best)


def _cross_entropy(arguments: dict[str, Any], alike: Tensor | None) -> Tensor:
    prediction, target = arguments["input"], arguments["target"]
    classes = prediction.shape[1 if prediction.ndim > 1 else 0]
    ignored = torch.zeros((), dtype=torch.bool)
    if target.is_floating_point():
        q = target.double().movedim(1 if prediction.ndim > 1 else 0, -1)
    else:
        ignored = target == arguments.get("ignore_index", -100)
        q = torch.nn.functional.one_hot(target.masked_fill(ignored, 0), classes).double()
    smoothing = arguments.get("label_smoothing", 0.0)
    q = q * (1 - smoothing) + smoothing / classes
    if arguments.get("weight") is not None:
        q = q * arguments["weight"].double()
    q = q.masked_fill(ignored[..., None], 0.0) if ignored.ndim else q
    if alike is not None:
        shape = q.shape
        positions = math.prod(shape[1:-1])
        if q.ndim > 2 and int(alike.max()):  # noqa: PLR2004 - the positions of an example are not alike
            alike = (alike[:, None] * positions + torch.arange(positions)).flatten()
            alike = torch.unique(alike, return_inverse=True)[1]
        if len(alike) != q[..., 0].numel():  # one prediction for all positions
            alike = torch.zeros(q[..., 0].numel(), dtype=torch.long)
        q = _shared(q.reshape(-1, classes), alike).reshape(shape)
    q = q / q.sum(-1, keepdim=True).clamp(min=TINY)
    logits: Tensor = q.clamp(min=TINY).log().movedim(-1, 1 if prediction.ndim > 1 else 0)
    return logits


def _nll(arguments: dict[str, Any], alike: Tensor | None) -> Tensor:
    return _cross_entropy({**arguments, "label_smoothing": 0.0}, alike).clamp(min=-SATURATED * 2)


def _logits(arguments: dict[str, Any], alike: Tensor | None) -> Tensor:
    target = arguments["target"].double()
    if target.min() < 0 or target.max() > 1:
        msg = "not probabilities"
        raise ValueError(msg)
    target = _shared(target, alike)
    weight = arguments.get("pos_weight")
    positive = target if weight is None else target * weight.double()
    return (positive.clamp(min=TINY) / (1 - target).clamp(min=TINY)).log().clamp(-SATURATED, SATURATED)


def _probabilities(arguments: dict[str, Any], alike: Tensor | None) -> Tensor:
    return _logits({**arguments, "pos_weight": None}, alike).sigmoid()


def _mean(arguments: dict[str, Any], alike: Tensor | None) -> Tensor:
    return _shared(_aligned(arguments), alike)


def _median(arguments: dict[str, Any], alike: Tensor | None) -> Tensor:
    return _shared(_aligned(arguments), alike, median=True)


def _aligned(arguments: dict[str, Any]) -> Tensor:
    """The target in the prediction's shape; where torch broadcasts the prediction, the mean of what it is held to."""
    prediction, target = arguments["input"], arguments["target"].double()
    together = _broadcast(prediction, target)
    target = target.expand(together)
    held_to = [
        d for d, (a, b) in enumerate(zip(_padded(prediction.shape, len(together)), together, strict=True)) if a < b
    ]
    target = target.mean(held_to, keepdim=True) if held_to else target
    aligned: Tensor = target.reshape(prediction.shape)
    return aligned


def _broadcast(prediction: Tensor, target: Tensor) -> torch.Size:
    together: torch.Size = torch.broadcast_shapes(prediction.shape, target.shape)
    return together


def _padded(shape: torch.Size, ndim: int) -> tuple[int, ...]:
    return (1,) * (ndim - len(shape)) + tuple(shape)


def _log_probabilities(arguments: dict[str, Any], alike: Tensor | None) -> Tensor:
    target = arguments["target"].double()
    target = target.exp() if arguments.get("log_target") else target
    return _shared(target, alike).clamp(min=TINY).log()


def _rate(arguments: dict[str, Any], alike: Tensor | None) -> Tensor:
    rate = _shared(arguments["target"].double(), alike)
    return rate.clamp(min=TINY).log() if arguments.get("log_input", True) else rate


BEST: dict[str, Callable[[dict[str, Any], Tensor | None], Tensor]] = {
    "binary_cross_entropy": _probabilities,
    "binary_cross_entropy_with_logits": _logits,
    "cross_entropy": _cross_entropy,
    "huber_loss": _median,
    "kl_div": _log_probabilities,
    "l1_loss": _median,
    "mse_loss": _mean,
    "nll_loss": _nll,
    "poisson_nll_loss": _rate,
    "smooth_l1_loss": _median,
}


# -- predictions of the wrong kind


def _trap(call: LossCall) -> tuple[float, str]:
    """The floor for predictions of the wrong kind, such as probabilities in the place of logits, if they came in."""
    prediction, target = call.arguments["input"].double(), call.arguments["target"]
    inside = bool(((prediction >= 0) & (prediction <= 1)).all())
    dim = 1 if prediction.ndim > 1 else 0
    classes = prediction.shape[dim] if prediction.ndim else 1
    sums = prediction.sum(dim) if prediction.ndim else prediction
    distributions = inside and classes > 1 and bool(((sums - 1).abs() < 1e-3).all())  # noqa: PLR2004 - half precision
    if call.name == "binary_cross_entropy_with_logits" and inside:
        value = _value(call, (target > 0.5).double())  # noqa: PLR2004
        return value, "they lie between 0 and 1, and the loss applies a sigmoid of its own"
    if call.name == "binary_cross_entropy" and distributions and prediction.ndim > 1:
        several = target.sum(1)  # 0.5: not the labels of one class, smoothed
        equal = float(prediction.max() - prediction.min()) < 1e-3  # noqa: PLR2004 - sigmoids of an output layer of zeros
        if not equal and float((several - 1).abs().max()) > 0.5:  # noqa: PLR2004
            best = target.double() / several[:, None].clamp(min=1)
            return _value(call, best), "they sum to 1 for each example, as after a softmax, and its targets do not"
    if call.name in {"cross_entropy", "nll_loss"} and distributions:
        best = _cross_entropy({**call.arguments, "label_smoothing": 0.0, "weight": None}, None).exp()
        if call.name == "nll_loss":
            return _value(call, best), "they are probabilities, and nll_loss expects their logarithms"
        formula = f", which can't bring it below ln(1 + {classes - 1}/e) = {math.log(1 + (classes - 1) / math.e):.4f}"
        return _value(call, best), f"they are probabilities, and the loss applies a softmax of its own{formula}"
    if call.name == "nll_loss" and float(prediction.max()) > 0.01:  # noqa: PLR2004 - rounding, log(p + eps)
        return -math.inf, "nll_loss expects logarithms of probabilities, which are never above 0"
    return math.nan, ""
