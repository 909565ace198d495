"""What a loss would be for someone who knows nothing, and for someone who knows only the distribution of the targets.

Both are found by calling the same loss function with the same options on other predictions, so that weights, masks,
smoothing and reductions are right by construction. Everything is computed in double precision on the CPU, on the
examples that the probe kept.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lightning_recipe.record.step import LossCall

CLASSES = {"cross_entropy", "nll_loss", "kl_div"}
LOGITS = {"binary_cross_entropy_with_logits", "multilabel_soft_margin_loss", "soft_margin_loss"}
NUMBERS = {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"}
MARGINS = {"multi_margin_loss", "multilabel_margin_loss"}
CERTAIN = CLASSES | LOGITS | MARGINS | {"binary_cross_entropy"}  # knowing nothing costs the same whatever the targets
SUPPORTED = CLASSES | LOGITS | NUMBERS | MARGINS | {"binary_cross_entropy", "poisson_nll_loss", "gaussian_nll_loss"}

_BISECTIONS = 60  # halvings of the range: beyond single precision
_MARGIN_STEPS = 300  # subgradient steps: within a few percent, then rounded to the exact vertex
_TINY = 1e-30  # probability of a class that never occurs


class NotComparableError(Exception):
    """The loss has no reference; the message says why."""


@dataclass(frozen=True)
class References:
    """The measured loss and what to compare it with.

    Attributes:
        measured: The loss of the network's own predictions.
        know_nothing: The loss of equal logits, or of a zero output.
        best_constant: The lowest loss of any prediction that is the same for all examples.
        constant: That prediction: one value for each output (class logits, or the value of each column).
        floor: The loss of perfect predictions, where differences begin to count (0 for most functions).
        examples: Targets that count: those that are not ignored.
        dense: More than one target for each example (pixels, positions, columns).
        classes: Number of classes, 0 where there are none.
        has_prior: Whether the batch tells anything about the distribution of the targets: they differ, there are at
            least as many as classes, and the classes are not the examples themselves (contrastive losses).

    """

    measured: float
    know_nothing: float
    best_constant: float
    constant: Tensor
    floor: float
    examples: int
    dense: bool
    classes: int
    has_prior: bool

    @property
    def evidence(self) -> dict[str, Any]:
        """The three losses, as the evidence is called."""
        return {"measured": self.measured, "know_nothing": self.know_nothing, "best_constant": self.best_constant}


def references(call: LossCall, batch_size: int | None = None) -> References:
    """Compute the references of one loss call.

    Args:
        call: What the probe saw.
        batch_size: Examples in the batch, to tell whether each has one target or many. By default the size of
            dimension 0 of the prediction.

    Raises:
        NotComparableError: If the function is not supported, or its input is not what it asks for.

    Example:
        >>> import torch.nn.functional as F
        >>> from lightning_recipe.record.step import LossCall
        >>> arguments = {"input": torch.zeros(4, 2), "target": torch.tensor([0, 0, 0, 1]), "ignore_index": -100}
        >>> call = LossCall("cross_entropy", F.cross_entropy, arguments, torch.tensor(0.0), 4, "model.py:1", False)
        >>> found = references(call)
        >>> round(found.know_nothing, 4), round(found.best_constant, 4)  # ln 2, entropy of (3/4, 1/4)
        (0.6931, 0.5623)

    """
    if call.name not in SUPPORTED:
        msg = f"a constant prediction has no meaning for {call.name}"
        raise NotComparableError(msg)
    arguments = {name: _double(value) for name, value in call.arguments.items()}
    prediction, target = arguments["input"], arguments["target"]
    if not isinstance(prediction, Tensor) or not isinstance(target, Tensor) or not prediction.numel():
        msg = f"{call.name} was called without examples"
        raise NotComparableError(msg)

    def loss(prediction: Tensor, **others: Tensor) -> Tensor:
        return call.function(**{**arguments, "input": prediction, **others}).mean()

    with torch.inference_mode(mode=False), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the user has been told about legacy options and broadcasts
        measured = float(loss(prediction))
        classes, floor = 0, 0.0
        if call.name in CLASSES:
            dim = _class_dim(call.name, prediction)
            classes = prediction.shape[dim]
            know_nothing, best, constant = _of_classes(call.name, loss, prediction, dim)
        elif call.name in MARGINS:
            classes = prediction.shape[-1]
            know_nothing, best, constant = _of_margins(arguments, loss, prediction)
        elif call.name == "gaussian_nll_loss":
            know_nothing, best, constant = _of_gaussian(arguments, loss)
            floor = best - 1.0  # a density has no floor: one nat below the best constant serves as the unit
        else:
            zero, low, high = _range(call.name, arguments)
            know_nothing = float(loss(torch.full_like(prediction, zero)))
            constant = _bisect(loss, prediction, low, high)
            best = float(loss(_spread(constant, prediction)))
            if call.name == "poisson_nll_loss":
                perfect = target.clamp(min=_TINY)
                floor = float(loss(_spread(perfect.log() if arguments["log_input"] else perfect, prediction)))
    counted = _counted(call.name, arguments)
    if not counted:
        msg = f"all targets of {call.name} are its ignore_index"
        raise NotComparableError(msg)
    rows = prediction.shape[0] if prediction.ndim else 1
    of_batch = batch_size if batch_size and call.examples == rows else rows  # after a cut only rows are known
    width = classes or 1
    dense = prediction.numel() // width > of_batch
    varied = best - floor > 1e-6 * abs(know_nothing - floor)  # else all targets are the same, as those of a GAN
    has_prior = varied and counted >= classes and not _contrastive(call)
    return References(measured, know_nothing, best, constant.detach(), floor, counted, dense, classes, has_prior)


# -- predictions of one class out of several


def _class_dim(name: str, prediction: Tensor) -> int:
    """The dimension of the classes; log-probabilities are checked to be some."""
    if name == "cross_entropy":
        return 1 if prediction.ndim > 1 else 0
    candidates = [1 if prediction.ndim > 1 else 0] if name == "nll_loss" else range(prediction.ndim - 1, -1, -1)
    sums = [float(prediction.exp().sum(dim).mean()) for dim in candidates]
    for dim, total in zip(candidates, sums, strict=True):
        if math.isclose(total, 1, abs_tol=0.01):
            return dim
    msg = f"{name} expects log-probabilities, but their exponentials sum to {sums[0]:.3g} instead of 1"
    raise NotComparableError(msg)


def _of_classes(name: str, loss: Any, prediction: Tensor, dim: int) -> tuple[float, float, Tensor]:
    """The loss is linear in the log-probabilities, so its gradient holds the weight of each class.

    With loss = -sum_c a_c log p_c the best constant is p_c = a_c / sum(a) (Gibbs' inequality).
    """
    classes = prediction.shape[dim]
    start = 0.0 if name == "cross_entropy" else -math.log(classes)
    equal = torch.full_like(prediction, start).requires_grad_()
    know_nothing = loss(equal)
    (gradient,) = torch.autograd.grad(know_nothing, equal)
    weights = -gradient.movedim(dim, 0).flatten(1).sum(1)
    if name == "cross_entropy" and classes > 1:  # through log_softmax the gradient lacks its mean, sum(a) / classes
        weights = weights + know_nothing.detach() / math.log(classes) / classes
    weights = weights.where(weights > 1e-12 * weights.sum(), 0)  # rounding
    constant = (weights / weights.sum()).clamp(min=_TINY).log()
    shape = [1] * prediction.ndim
    shape[dim] = classes
    best = loss(constant.view(shape).expand_as(prediction))
    return float(know_nothing), float(best), constant


def _of_margins(arguments: dict[str, Any], loss: Any, prediction: Tensor) -> tuple[float, float, Tensor]:
    """Piecewise linear and convex: descend, then round to the grid of the margin, where the corners lie."""
    margin = float(arguments.get("margin", 1.0))
    constant = torch.zeros(prediction.shape[-1], dtype=prediction.dtype, requires_grad=True)
    optimizer = torch.optim.Adam([constant], lr=0.1 * margin)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, _MARGIN_STEPS)
    for _ in range(_MARGIN_STEPS):
        optimizer.zero_grad()
        loss(constant.expand_as(prediction)).backward()
        optimizer.step()
        schedule.step()
    know_nothing = float(loss(torch.zeros_like(prediction)))
    found = constant.detach()
    candidates = [found, ((found - found.max()) / margin).round() * margin, torch.zeros_like(found)]
    values = [float(loss(candidate.expand_as(prediction))) for candidate in candidates]
    best = min(range(len(values)), key=values.__getitem__)
    return know_nothing, values[best], candidates[best]


# -- predictions of numbers


def _range(name: str, arguments: dict[str, Any]) -> tuple[float, float, float]:
    """What a know-nothing output is, and between which values the best constant lies."""
    target = arguments["target"]
    if name in LOGITS:
        return 0.0, -30.0, 30.0
    if name == "binary_cross_entropy":
        return 0.5, 0.0, 1.0
    finite = target[target.isfinite()]
    low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 0.0)
    if name == "poisson_nll_loss":  # a log-rate of 0 is a rate of 1
        return (0.0, -30.0, math.log(max(high, 1.0)) + 1) if arguments["log_input"] else (1.0, 1e-6, max(high, 1.0))
    return 0.0, low, high


def _bisect(loss: Any, prediction: Tensor, low: float, high: float, **others: Tensor) -> Tensor:
    """The constant at which the gradient of a convex loss changes sign, for all columns at once."""
    columns = prediction.shape[_channel_dim(prediction)] if prediction.ndim > 1 else 1
    lows, highs = (torch.full((columns,), value, dtype=prediction.dtype) for value in (low, high))
    for _ in range(_BISECTIONS):
        middle = ((lows + highs) / 2).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(_spread(middle, prediction), **others), middle)
        rising = gradient > 0
        highs = torch.where(rising, middle.detach(), highs)
        lows = torch.where(rising, lows, middle.detach())
    return (lows + highs) / 2


def _of_gaussian(arguments: dict[str, Any], loss: Any) -> tuple[float, float, Tensor]:
    prediction, target, variance = arguments["input"], arguments["target"], arguments["var"]
    known = {} if isinstance(variance, (int, float)) else {"var": torch.ones_like(variance)}
    know_nothing = float(loss(torch.zeros_like(prediction), **known))
    mean = _bisect(loss, prediction, float(target.min()), float(target.max()), **known)
    best = _spread(mean, prediction)
    if known:
        spread = (target - best).square().mean().clamp(min=float(arguments["eps"]))
        known = {"var": spread.expand_as(variance)}
    return know_nothing, float(loss(best, **known)), mean


def _channel_dim(prediction: Tensor) -> int:
    """Where an output bias sits: columns of a matrix; of more dimensions the smaller of the second and the last."""
    last = prediction.ndim - 1
    return 1 if prediction.shape[1] <= prediction.shape[last] else last


def _spread(constant: Tensor, prediction: Tensor) -> Tensor:
    """The constant, as the prediction for every example."""
    if constant.shape == prediction.shape or prediction.ndim <= 1:
        return constant.expand_as(prediction)
    shape = [1] * prediction.ndim
    shape[_channel_dim(prediction)] = -1
    return constant.reshape(shape).expand_as(prediction) if constant.ndim == 1 else constant.expand_as(prediction)


# -- small things


def _double(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.cpu().double() if value.is_floating_point() else value.cpu()


def _counted(name: str, arguments: dict[str, Any]) -> int:
    """Rows of the target, less those that are ignored."""
    target = arguments["target"]
    if name in {"cross_entropy", "nll_loss"} and not target.is_floating_point():
        return int((target != arguments["ignore_index"]).sum())
    return int(target.shape[0]) if target.ndim else 1


def _contrastive(call: LossCall) -> bool:
    """Whether the classes are the examples of the batch: square logits, no two examples of one class."""
    logits, target = call.arguments["input"], call.arguments["target"]
    if call.name not in CLASSES or logits.ndim != 2 or logits.shape[0] != logits.shape[1]:  # noqa: PLR2004
        return False
    return bool(target.is_floating_point()) or len(set(target.tolist())) == target.numel()
