"""Whether parameters are as they were drawn, and stay as they are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

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


def is_as_drawn(parameter: Tensor) -> bool:
    """Whether a parameter may be as it was initialised: constant, or random numbers of which no direction stands out.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> drawn, learnt = torch.randn(64, 32), torch.randn(64, 1) @ torch.randn(1, 32)
        >>> is_as_drawn(drawn), is_as_drawn(torch.ones(4)), is_as_drawn(drawn + 0.5 * learnt)
        (True, True, False)

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
    rows, columns = matrix.shape
    direction = torch.randn(columns, generator=torch.Generator().manual_seed(0)).to(matrix.device)
    for _ in range(10):
        direction = torch.nn.functional.normalize(matrix.T @ (matrix @ direction), dim=0)
    largest, std = float((matrix @ direction).norm()), float(matrix.square().mean().sqrt())
    return largest <= STANDS_OUT * std * (math.sqrt(rows) + math.sqrt(columns))
