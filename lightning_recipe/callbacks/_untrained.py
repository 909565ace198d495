"""Whether parameters are as they were drawn, and stay as they are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_recipe.record.reductions import SHORT

if TYPE_CHECKING:
    from collections.abc import Mapping

ENOUGH = 4096
"""Elements of a weight whose share stands for that of all, to a hundredth."""
STANDS_OUT = 1.2
"""Largest singular value of a weight, in those of random numbers, from which on it has learnt something. That of an
(m, n) matrix of random numbers tends to std * (sqrt(m) + sqrt(n)), Y. Q. Yin, Z. D. Bai and P. R. Krishnaiah, On the
limit of the largest eigenvalue of the large dimensional sample covariance matrix (1988)."""


class Marks:
    """Knows parameters again that nothing has changed, such as an optimiser of the user's, or averaging.

    Example:
        >>> marks, weight = Marks(), torch.ones(2)
        >>> marks.stay({"weight": weight}), marks.stay({"weight": weight.add_(1)})
        (True, False)

    """

    def __init__(self) -> None:
        self._marks: dict[str, tuple[int, int, float]] = {}

    def stay(self, parameters: Mapping[str, Tensor]) -> bool:
        """Whether all are as they were when this was asked last, as far as it was."""
        marks = {name: (id(p), p._version, float(p.detach().sum())) for name, p in parameters.items()}  # noqa: SLF001
        stay = all(self._marks.get(name, mark) == mark for name, mark in marks.items())
        self._marks |= marks
        return stay


class Unmoved:
    """Knows which elements of weights in 16 bits are exactly what they were some steps ago: a few thousand of each.

    Only elements that have a gradient at the second look, where there is one.

    Args:
        steps: How long ago, at least.

    Attributes:
        since: Steps from the look that elements were kept at to the latest that compared them.
        shares: Of elements that are the same, by name of the weight, as of then; empty before that.
        beyond: Share of elements that are so large that to add or take off a whole step makes no difference, of weights
            of which it is known how large that is.
        elements: How many there are with a gradient, about.

    Example:
        >>> unmoved, weight = Unmoved(steps=50), torch.ones(4, dtype=torch.bfloat16)
        >>> unmoved.look(1, {"weight": weight})
        >>> weight[0] += 1
        >>> weight[1] += 1e-4
        >>> unmoved.look(60, {"weight": weight})
        >>> unmoved.since, unmoved.shares
        (59, {'weight': 0.75})

    """

    def __init__(self, steps: int) -> None:
        self.steps, self.since = steps, 0
        self.shares, self.beyond, self.elements = dict[str, float](), dict[str, float](), dict[str, float]()
        self._kept, self._at = dict[str, Tensor](), 0

    @property
    def watches(self) -> bool:
        """Whether there are weights in 16 bits."""
        return bool(self._kept)

    def look(self, step: int, parameters: Mapping[str, Tensor], sizes: Mapping[str, float] | None = None) -> None:
        """Compare if it is time to, and keep what is there.

        Args:
            step: Number of the look.
            parameters: By name.
            sizes: How far the largest steps of the run move an element, by name, where that is known.

        """
        if self._kept and step - self._at < self.steps:
            return
        short = {n: p for n, p in parameters.items() if p.is_floating_point() and p.dtype.itemsize < SHORT}
        now = {name: _few(p.detach()) for name, p in short.items()}
        known = {name: _has_gradient(p) for name, p in short.items() if name in self._kept}
        sizes = {name: size for name, size in (sizes or {}).items() if name in known}
        same = {name: _share(now[name] == self._kept[name], of) for name, of in known.items()}
        beyond = {n: _share((now[n] + s == now[n]) & (now[n] - s == now[n]), known[n]) for n, s in sizes.items()}
        self.since = step - self._at
        self.shares = {name: float(share) for name, share in same.items()}
        self.beyond = {name: float(share) for name, share in beyond.items()}
        self.elements = {name: float(of.double().mean()) * short[name].numel() for name, of in known.items()}
        self._kept, self._at = {name: values.clone() for name, values in now.items()}, step


def _has_gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None or parameter.grad.layout is not torch.strided:
        return torch.ones_like(_few(parameter.detach()), dtype=torch.bool)
    return _few(parameter.grad) != 0


def _share(which: Tensor, of: Tensor) -> Tensor:
    return (which & of).sum() / of.sum().clamp(min=1)


def _few(values: Tensor) -> Tensor:
    return values.flatten()[:: max(1, values.numel() // ENOUGH)]


def is_as_drawn(parameter: Tensor) -> bool:
    """Whether a parameter may be as it was initialised: constant, or random numbers of which no direction stands out.

    They may have a mean, as those of ``nn.init.uniform_``, which are from 0 to 1.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> drawn, learnt = torch.randn(64, 32), torch.randn(64, 1) @ torch.randn(1, 32)
        >>> is_as_drawn(drawn), is_as_drawn(torch.ones(4)), is_as_drawn(drawn + 0.5 * learnt)
        (True, True, False)
        >>> is_as_drawn(torch.rand(64, 32)), is_as_drawn(torch.rand(64, 32) + 0.5 * learnt)
        (True, False)

    """
    values = parameter.detach()
    if (
        values.ndim <= 1
        or not values.numel()
        or not values.is_floating_point()
        or bool((values == values.flatten()[0]).all())
    ):
        return True
    matrix = values.flatten(1).float()
    matrix = matrix - matrix.mean()
    rows, columns = matrix.shape
    direction = torch.randn(columns, generator=torch.Generator().manual_seed(0)).to(matrix.device)
    for _ in range(10):
        direction = torch.nn.functional.normalize(matrix.T @ (matrix @ direction), dim=0)
    largest, std = float((matrix @ direction).norm()), float(matrix.square().mean().sqrt())
    return largest <= STANDS_OUT * std * (math.sqrt(rows) + math.sqrt(columns))
