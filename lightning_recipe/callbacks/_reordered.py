"""What becomes of a step if the places of all its sequences are in another order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_recipe.record.tensors import leading_size, mapped, tensors

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning_recipe.record.step import Step

FEWEST = 4
"""Places of a sequence, at least."""
SAME = 1e-5
"""Change of the loss and of outputs, over the largest of them, that is rounding: of sums in another order."""


def sequences(batch: Any, size: int | None) -> list[Tensor]:
    """Tokens, and vectors, of each example: integers in two dimensions, numbers in three.

    Example:
        >>> [t.shape for t in sequences([torch.zeros(8, 5).long(), torch.zeros(8, 5), torch.zeros(8, 6, 3)], 8)]
        [torch.Size([8, 5]), torch.Size([8, 6, 3])]

    """
    return [
        tensor
        for _, tensor in tensors(batch)
        if tensor.layout is torch.strided
        and tensor.ndim == 2 + tensor.is_floating_point()
        and tensor.shape[0] == size
        and tensor.shape[1] >= FEWEST
    ]


def reordering(places: int) -> Callable[[Tensor], Tensor]:
    """Puts the places of tensors that have as many in another order, and leaves others as they are.

    Example:
        >>> reorder = reordering(4)
        >>> reorder(torch.arange(4)[None]), reorder(torch.arange(5)[None])
        (tensor([[0, 1, 3, 2]]), tensor([[0, 1, 2, 3, 4]]))

    """
    order = torch.randperm(places, generator=torch.Generator().manual_seed(0))

    def reordered(tensor: Tensor) -> Tensor:
        if tensor.ndim > 1 and tensor.shape[1] == places and tensor.layout is torch.strided:
            return tensor.index_select(1, order.to(tensor.device))
        return tensor

    return reordered


def reordered(batch: Any, places: int) -> Any | None:
    """The batch with its places in another order; None if that makes no other sequences.

    Example:
        >>> reordered(torch.zeros(8, 4).long(), 4) is None
        True

    """
    other, size = mapped(batch, Tensor, reordering(places)), leading_size(batch)
    pairs = zip(sequences(batch, size), sequences(other, size), strict=True)
    return other if any(bool((a != b).any()) for a, b in pairs) else None


def change(before: Step, after: Step, reorder: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> float:
    """Change of the last outputs and of the loss, the largest, over the largest of them.

    Args:
        before: A step.
        after: Another.
        reorder: What is made of outputs of the first before they are compared.

    Returns:
        NaN if there is no loss, or no output that answers to what it sees: nothing is known then.

    """
    if before.loss is None or after.loss is None or not before.net_calls or not after.net_calls:
        return math.nan
    outputs = [
        [t.detach().double() for _, t in tensors(step.net_calls[-1].output) if t.is_floating_point() and t.ndim]
        for step in (before, after)
    ]
    pairs = [(reorder(a), b) for a, b in zip(*outputs, strict=False) if a.numel()]
    if not any(bool((a != a[:1]).any()) for a, _ in pairs):
        return math.nan
    if any(a.shape != b.shape for a, b in pairs):
        return math.inf
    pairs.append((before.loss.detach().double().sum(), after.loss.detach().double().sum()))
    changes = [_over(float((a - b).abs().max()), float(a.abs().max())) for a, b in pairs]
    return max(changes) if all(map(math.isfinite, changes)) else math.inf


def _over(difference: float, size: float) -> float:
    """A difference over a size, of which neither may be 0."""
    return difference / size if size else math.inf if difference else 0.0
