"""The predictions with the lowest loss where some have to be equal: found by asking the loss function itself.

Weights, masks, smoothing and reductions are right by construction. Everything is in double precision on the CPU.
"""

from __future__ import annotations

import math
import warnings
from contextlib import contextmanager
from functools import cached_property
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


@contextmanager
def _asking() -> Iterator[None]:
    with torch.inference_mode(mode=False), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the user has been told about legacy options and broadcasts
        yield


class Question:
    """What other predictions would cost in a loss call.

    Args:
        call: Its prediction and its target are tensors, and it has a best constant in the table.
        others: Arguments that take the place of its own.

    Example:
        >>> from torch.nn import functional as F
        >>> from lightning_recipe.record.step import LossCall
        >>> arguments = {"input": torch.zeros(3), "target": torch.tensor([0.0, 0.0, 9.0]), "delta": 1.0}
        >>> call = LossCall("huber_loss", F.huber_loss, arguments, torch.tensor(0.0), 3, "model.py:1", False)
        >>> question = Question(call)
        >>> question.best(question.same_for_all())  # neither the median, 0, nor the mean, 3
        tensor([0.5000, 0.5000, 0.5000], dtype=torch.float64)

    """

    def __init__(self, call: LossCall, **others: Any) -> None:
        self.loss, self._function = TABLE[call.name], call.function
        self.arguments = {name: _double(value) for name, value in {**call.arguments, **others}.items()}
        self.prediction: Tensor = self.arguments["input"]
        self.target: Tensor = self.arguments["target"]
        self.logarithmic = self.loss.takes is Takes.RATES and self.arguments.get("log_input", True)

    @_asking()
    def cost(self, prediction: Tensor, **others: Tensor) -> float:
        """The loss of another prediction, averaged where the call is not reduced."""
        return float(self._cost(prediction, **others))

    @_asking()
    def best(self, shared: Tensor | None = None) -> Tensor:
        """The prediction with the lowest loss among those that are equal where `shared` is.

        Args:
            shared: Integers from 0 on, of the prediction's shape without classes; None if nothing has to be equal.

        Returns:
            Of the prediction's shape; logarithms of probabilities for classes.

        """
        if self.loss.of_classes:
            return self._prior(shared)
        if self.loss.has_classes:
            free = torch.arange(math.prod(self._places)).view(self._places)
            return self._corner(free if shared is None else shared)
        direct = self.loss.takes in {Takes.NUMBERS, Takes.PROBABILITIES} and self.target.shape == self.prediction.shape
        return self.target.to(self.prediction.dtype) if direct and shared is None else self._bisected(shared)

    def same_for_all(self) -> Tensor:
        """What is `shared` by predictions that only an output bias tells: one value for each output."""
        if self.loss.has_classes or self.prediction.ndim <= 1:
            return torch.zeros(self._places, dtype=torch.long)
        outputs = torch.arange(self.prediction.shape[self.dim]).view(-1, *[1] * (self.prediction.ndim - 1))
        return outputs.movedim(0, self.dim).expand(self._places).contiguous()

    def same_for_examples(self, alike: Tensor) -> Tensor:
        """What is `shared` by examples with equal numbers in `alike`, of shape (examples,): one value at each place."""
        each = math.prod(self._places[1:])
        return (alike[:, None] * each + torch.arange(each)).view(self._places)

    @cached_property
    def dim(self) -> int:
        """The dimension of the prediction that an output bias runs along.

        That of the classes; else the columns of a matrix, and of more dimensions the smaller of the second and last.
        """
        shape, last = self.prediction.shape, self.prediction.ndim - 1
        second = min(1, last)
        if self.loss.family is Family.DISTRIBUTIONS:  # the last dimension in which probabilities sum to 1
            return next((d for d in range(last, -1, -1) if math.isclose(self.total(d), 1, abs_tol=0.01)), second)
        if self.loss.has_classes:
            return second if self.loss.of_classes else last
        return second if last < 1 or shape[1] <= shape[last] else last

    def total(self, dim: int) -> float:
        """What the exponentials of the prediction sum to along a dimension: 1 for logarithms of probabilities."""
        return float(self.prediction.exp().sum(dim).mean())

    @property
    def is_right_kind(self) -> bool:
        """Whether the prediction is logarithms of probabilities, where the loss takes such."""
        takes_logarithms = self.loss.takes is Takes.LOG_PROBABILITIES
        return not takes_logarithms or math.isclose(self.total(self.dim), 1, abs_tol=0.01)

    @property
    def _places(self) -> tuple[int, ...]:
        """The prediction's shape, without its classes."""
        without = self.dim if self.loss.has_classes else None
        return tuple(size for d, size in enumerate(self.prediction.shape) if d != without)

    def _cost(self, prediction: Tensor, **others: Tensor) -> Tensor:
        return self._function(**{**self.arguments, "input": prediction, **others}).mean()

    def _gradient(self, prediction: Tensor) -> Tensor:
        prediction = prediction.detach().requires_grad_()
        return torch.autograd.grad(self._cost(prediction), prediction)[0]

    def _prior(self, shared: Tensor | None) -> Tensor:
        """The loss is -sum_c a_c log p_c, linear in the logarithms: p_c = a_c / sum(a) is best (Gibbs' inequality).

        Its gradient holds -a_c. Through the softmax of logits it holds p_c sum(a) - a_c: the same where p_c is 0.
        """
        points = [torch.zeros_like(self.prediction) for _ in range(2)]
        if self.loss.takes is Takes.LOGITS:
            points[0].select(self.dim, 0).fill_(_PEAK)
            points[1].select(self.dim, -1).fill_(_PEAK)
        weights, last = (-self._gradient(point).movedim(self.dim, -1) for point in points)
        weights[..., 0] = last[..., 0]
        if shared is not None:
            weights = _summed(weights.flatten(0, -2), shared)[shared]
        shares = weights / weights.sum(-1, keepdim=True).clamp(min=TINY)
        return shares.clamp(min=TINY).log().movedim(-1, self.dim)

    def _bisected(self, shared: Tensor | None) -> Tensor:
        """The values at which the gradient of a convex loss changes sign, for all groups at once."""
        low, high = self._bounds()
        shape = self.prediction.shape if shared is None else (int(shared.max()) + 1,)
        lows, highs = (self.prediction.new_full(shape, value) for value in (low, high))

        def slope(values: Tensor) -> Tensor:
            gradient = self._gradient(_spread(values, shared))
            return gradient if shared is None else _summed(gradient.flatten(), shared)

        highs, lows = torch.where(slope(lows) >= 0, lows, highs), torch.where(slope(highs) <= 0, highs, lows)
        for _ in range(_HALVINGS):
            if torch.equal(lows, highs):  # all at an end, as with hard labels
                break
            middle = (lows + highs) / 2
            rising = slope(middle) > 0
            highs, lows = torch.where(rising, middle, highs), torch.where(rising, lows, middle)
        return _spread((lows + highs) / 2, shared)

    def _bounds(self) -> tuple[float, float]:
        """Between which values the best constant lies."""
        if self.loss.takes in {Takes.LOGITS, Takes.PROBABILITIES}:
            return (0.0, 1.0) if self.loss.takes is Takes.PROBABILITIES else (-SATURATED, SATURATED)
        finite = self.target[self.target.isfinite()]
        low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 0.0)
        if self.loss.takes is Takes.RATES:
            return (-SATURATED, math.log(max(high, 1.0)) + 1) if self.logarithmic else (0.0, max(high, 1.0))
        return low, high

    def _corner(self, shared: Tensor) -> Tensor:
        """Piecewise linear and convex: descend, then round to the grid of the margin, where the corners lie."""
        margin = float(self.arguments.get("margin", 1.0))
        scores = self.prediction.new_zeros(int(shared.max()) + 1, self.prediction.shape[-1]).requires_grad_()
        optimizer = torch.optim.Adam([scores], lr=0.1 * margin)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, _DESCENT)
        for _ in range(_DESCENT):
            optimizer.zero_grad()
            self._cost(scores[shared]).backward()
            optimizer.step()
            schedule.step()
        found = scores.detach()
        rounded = ((found - found.amax(1, keepdim=True)) / margin).round() * margin
        return min((made[shared] for made in (found, rounded, torch.zeros_like(found))), key=self.cost)


def is_contrastive(call: LossCall) -> bool:
    """Whether the classes are the examples of the batch: a square of similarities, without or with the diagonal.

    Each row's partner is another row, so that no two have the same; similarities may be bounded.
    """
    prediction, target = call.arguments["input"], call.arguments["target"]
    n, classes = prediction.shape if TABLE[call.name].of_classes and prediction.ndim == 2 else (0, 0)  # noqa: PLR2004
    if n <= 2 or classes not in {n, n - 1}:  # noqa: PLR2004 - of two, it may be by chance
        return False
    return classes == n if target.is_floating_point() else len(target.unique()) == n


def _double(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.cpu().double() if value.is_floating_point() else value.cpu()


def _spread(values: Tensor, shared: Tensor | None) -> Tensor:
    """One value of each group to where the group is; several times as fast as an index."""
    return values if shared is None else values.index_select(0, shared.flatten()).view(shared.shape)


def _summed(values: Tensor, shared: Tensor) -> Tensor:
    """The sums over what has to be equal: (places, ...) to (groups, ...)."""
    groups = values.new_zeros(int(shared.max()) + 1, *values.shape[1:])
    return groups.index_add_(0, shared.flatten(), values)
