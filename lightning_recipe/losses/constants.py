"""The predictions with the lowest loss where some have to be equal: found by asking the loss function itself.

Weights, masks, smoothing and reductions are right by construction. Everything here is in double precision on the CPU.
"""

from __future__ import annotations

import math
import warnings
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_recipe.losses.table import TABLE, Family, Takes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.step import LossCall

TINY = 1e-30
"""Stands for a probability of zero: its logarithm is large, and finite."""
SATURATED = 30.0
"""A logit whose probability is 1 but for 1e-13."""
_PEAK = 1e3  # a logit beside which those of 0 have a probability of 0, in double precision
_HALVINGS = 60  # of the range in which a constant lies: beyond double precision
_DESCENT = 300  # subgradient steps: within a few percent, then rounded to the exact corner


def in_double(call: LossCall) -> LossCall:
    """The same call in double precision on the CPU."""

    def double(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.cpu().double() if value.is_floating_point() else value.cpu()

    return replace(call, arguments={name: double(value) for name, value in call.arguments.items()})


@contextmanager
def asking() -> Iterator[None]:
    """Calls of loss functions within can be differentiated, and warn of nothing: the user has been told already."""
    with torch.inference_mode(mode=False), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def loss_of(call: LossCall, prediction: Tensor, **others: Tensor) -> Tensor:
    """What the call gives for another prediction: a scalar, the mean where the call is not reduced."""
    return call.function(**{**call.arguments, "input": prediction, **others}).mean()


def best(call: LossCall, shared: Tensor | None = None) -> Tensor:
    """The prediction with the lowest loss among those that are equal where `shared` is.

    Args:
        call: With a best constant in the table, and :func:`in_double`; call it within :func:`asking`.
        shared: Integers from 0 on, of the prediction's shape, for classes and margins without their dimension; None
            if nothing has to be equal.

    Returns:
        Of the prediction's shape; logarithms of probabilities for classes.

    Example:
        >>> from torch.nn import functional as F
        >>> from lightning_recipe.record.step import LossCall
        >>> arguments = {"input": torch.zeros(3), "target": torch.tensor([0.0, 0.0, 9.0]), "delta": 1.0}
        >>> call = LossCall("huber_loss", F.huber_loss, arguments, torch.tensor(0.0), 3, "model.py:1", False)
        >>> best(in_double(call), torch.zeros(3).long())  # 2 x = 1
        tensor([0.5000, 0.5000, 0.5000], dtype=torch.float64)

    """
    loss, prediction, target = TABLE[call.name], call.arguments["input"], call.arguments["target"]
    if shared is None:
        if loss.takes in {Takes.NUMBERS, Takes.PROBABILITIES} and target.shape == prediction.shape:
            exact: Tensor = target.to(prediction.dtype)
            return exact
        shape = _places(call)
        shared = torch.arange(math.prod(shape)).view(shape)
    if loss.has_classes:
        return _prior(call, shared) if loss.of_classes else _corner(call, shared)
    return _bisected(call, shared)


def same_for_all(call: LossCall) -> Tensor:
    """Which predictions are equal if only an output bias tells them: one for each output, see :func:`best`."""
    places = _places(call)
    if TABLE[call.name].has_classes or len(places) <= 1:
        return torch.zeros(places, dtype=torch.long)
    dim = output_dim(call)
    outputs = torch.arange(places[dim]).view([-1 if d == dim else 1 for d in range(len(places))])
    return outputs.expand(places).contiguous()


def same_for_examples(call: LossCall, alike: Tensor) -> Tensor:
    """Which predictions are equal where examples are: at each place those of examples with equal numbers.

    Args:
        call: The call of the loss function.
        alike: Integers from 0 on, of shape (examples,).

    Returns:
        As `shared` of :func:`best`.

    """
    places = _places(call)
    each = math.prod(places[1:])
    return (alike[:, None] * each + torch.arange(each)).view(places)


def output_dim(call: LossCall) -> int:
    """The dimension of the prediction that an output bias runs along.

    That of the classes; else the columns of a matrix, and of more dimensions the smaller of the second and the last.
    """
    loss, prediction = TABLE[call.name], call.arguments["input"]
    last: int = prediction.ndim - 1
    second = min(1, last)
    if loss.family is Family.DISTRIBUTIONS:  # the last dimension in which probabilities sum to 1
        return next((d for d in range(last, -1, -1) if is_distribution(prediction, d)), second)
    if loss.has_classes:
        return second if loss.of_classes else last
    return second if last < 1 or prediction.shape[1] <= prediction.shape[last] else last


def is_distribution(prediction: Tensor, dim: int) -> bool:
    """Whether these are the logarithms of probabilities that sum to 1 along `dim`."""
    return math.isclose(float(prediction.exp().sum(dim).mean()), 1, abs_tol=0.01)


def is_contrastive(call: LossCall) -> bool:
    """Whether the classes are the examples of the batch: a square of similarities, without or with the diagonal.

    Each row's partner is another row, so that no two have the same; similarities may be bounded.
    """
    prediction, target = call.arguments["input"], call.arguments["target"]
    if not TABLE[call.name].of_classes or prediction.ndim != 2:  # noqa: PLR2004
        return False
    n, classes = map(int, prediction.shape)
    if n <= 2 or classes not in {n, n - 1}:  # noqa: PLR2004 - of two, it may be by chance
        return False
    return classes == n if target.is_floating_point() else len(target.unique()) == n


def _places(call: LossCall) -> tuple[int, ...]:
    """The prediction's shape, without its classes."""
    shape = list(call.arguments["input"].shape)
    if TABLE[call.name].has_classes:
        del shape[output_dim(call)]
    return tuple(shape)


def _gradient(call: LossCall, prediction: Tensor) -> Tensor:
    prediction = prediction.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(call, prediction), prediction)
    return gradient


def _summed(values: Tensor, shared: Tensor) -> Tensor:
    """The sums over what has to be equal: (places, ...) to (groups, ...)."""
    groups = values.new_zeros(int(shared.max()) + 1, *values.shape[1:])
    return groups.index_add_(0, shared.flatten(), values)


def _prior(call: LossCall, shared: Tensor) -> Tensor:
    """The loss is -sum_c a_c log p_c, linear in the logarithms, so that p_c = a_c / sum(a) is best (Gibbs' inequality).

    Its gradient holds -a_c. Through the softmax of logits it holds p_c sum(a) - a_c: the same where p_c is 0.
    """
    dim = output_dim(call)
    points = [torch.zeros_like(call.arguments["input"])]
    if TABLE[call.name].takes is Takes.LOGITS:
        points += [points[0].clone()]
        points[0].select(dim, 0).fill_(_PEAK)
        points[1].select(dim, -1).fill_(_PEAK)
    weights = -_gradient(call, points[0]).movedim(dim, -1)
    weights[..., :1] = -_gradient(call, points[-1]).movedim(dim, -1)[..., :1]
    sums = _summed(weights.reshape(-1, weights.shape[-1]), shared)
    shares = sums / sums.sum(1, keepdim=True).clamp(min=TINY)
    logarithms: Tensor = shares.clamp(min=TINY).log()
    return logarithms[shared].movedim(-1, dim)


def _bisected(call: LossCall, shared: Tensor) -> Tensor:
    """The values at which the gradient of a convex loss changes sign, for all groups at once."""
    low, high = _bounds(call)
    lows = call.arguments["input"].new_full((int(shared.max()) + 1,), low)
    highs = torch.full_like(lows, high)
    for _ in range(_HALVINGS):
        middle = (lows + highs) / 2
        rising = _summed(_gradient(call, middle[shared]).flatten(), shared) > 0
        highs, lows = torch.where(rising, middle, highs), torch.where(rising, lows, middle)
    values: Tensor = (lows + highs) / 2
    return values[shared]


def _bounds(call: LossCall) -> tuple[float, float]:
    """Between which values the best constant lies."""
    takes, target = TABLE[call.name].takes, call.arguments["target"]
    if takes is Takes.LOGITS:
        return -SATURATED, SATURATED
    if takes is Takes.PROBABILITIES:
        return 0.0, 1.0
    finite = target[target.isfinite()]
    low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 0.0)
    if takes is Takes.RATES:
        return (-SATURATED, math.log(max(high, 1.0)) + 1) if is_logarithmic(call) else (0.0, max(high, 1.0))
    return low, high


def is_logarithmic(call: LossCall) -> bool:
    """Whether the rates that a loss takes are logarithms."""
    return TABLE[call.name].takes is Takes.RATES and bool(call.arguments.get("log_input", True))


def _corner(call: LossCall, shared: Tensor) -> Tensor:
    """Piecewise linear and convex: descend, then round to the grid of the margin, where the corners lie."""
    prediction, margin = call.arguments["input"], float(call.arguments.get("margin", 1.0))
    scores = prediction.new_zeros(int(shared.max()) + 1, prediction.shape[-1]).requires_grad_()
    optimizer = torch.optim.Adam([scores], lr=0.1 * margin)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, _DESCENT)
    for _ in range(_DESCENT):
        optimizer.zero_grad()
        loss_of(call, scores[shared]).backward()
        optimizer.step()
        schedule.step()
    found = scores.detach()
    rounded = ((found - found.amax(1, keepdim=True)) / margin).round() * margin
    candidates = [made[shared] for made in (found, rounded, torch.zeros_like(found))]
    return min(candidates, key=lambda made: float(loss_of(call, made)))
