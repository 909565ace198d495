"""Masks that leave the scores of a softmax about 0 where they are to hide something, in place of very negative."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_recipe.dependencies.operations import operations
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.loss_graph import Node
from lightning_recipe.record.tensors import tensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SPENT = 0.5
"""Weight at places that are masked, in what it would be were all places alike, from which on a mask hides nothing."""
PASSED_ON = {"Add", "Sub", "Mul", "Div"}
"""What may come between a mask and the softmax: positions, a temperature."""
DEEPEST = 4
"""Of these, at most."""


def without_effect(loss: Tensor, batch: Any, pads: Iterable[Tensor]) -> Outcome | None:
    """A mask that the batch holds, or a causal one, whose places get as much weight of a softmax as others.

    Only masks that are known: another may stand for a threshold, or for scores that are to be 0.

    Args:
        loss: That was computed by it.
        batch: Whose entries of two values may be masks.
        pads: Where sequences of the batch are padded.

    Example:
        >>> valid = torch.arange(5) < torch.tensor([[2], [3], [5], [4]])
        >>> h = torch.zeros(4, 5, requires_grad=True)
        >>> loss = (h.masked_fill(~valid, -1e-9).softmax(1) * torch.arange(5)).sum()
        >>> without_effect(loss, {"valid": valid}, []).code
        'mask_without_effect'
        >>> loss = (h.masked_fill(~valid, -1e9).softmax(1) * torch.arange(5)).sum()
        >>> without_effect(loss, {"valid": valid}, [])

    """
    known = [t for _, t in tensors(batch) if t.ndim > 1 and t.layout is torch.strided and _is_mask(t)]
    known = [t.bool() for t in known] + list(pads)
    shares = [
        share
        for node in (Node(raw) for raw in operations([loss]))
        if node.kind in {"Softmax", "SafeSoftmax"} and (hidden := _hidden(node.source())) is not None
        if _is_known(hidden, known) and (share := _share(node, hidden)) is not None
    ]
    spent, alike = max(shares, default=(0.0, 1.0), key=lambda share: share[0] / share[1])
    if not spent > SPENT * alike:  # nor if it is NaN, as of a row that is masked entirely
        return None
    return Outcome(
        Status.WARNING,
        "mask_without_effect",
        f"places that a mask is to hide get {spent:.0%} of the weight of a softmax, and would get {alike:.0%} without "
        "the mask: it leaves their scores near 0, which is no small score",
        "fill masked scores with minus infinity, or -1e9: not 0, nor -1e-9, nor a product with the mask",
        {"spent": spent, "alike": alike},
    )


def _is_mask(t: Tensor) -> bool:
    return t.dtype is torch.bool or (bool(((t == 0) | (t == 1)).all()) and bool(t.any()) and not bool(t.all()))


def _hidden(node: Node | None, depth: int = 0) -> Tensor | None:
    """Where scores are masked before a softmax, by the last mask that they go through; None without one."""
    if node is None or depth > DEEPEST:
        return None
    if node.kind == "MaskedFill":
        mask: Tensor | None = node.saved("mask")
        return mask
    if node.kind == "Where" and None in node.parents:
        condition: Tensor = node.saved("condition")
        return condition if node.parents[0] is None else ~condition
    if node.kind == "Mul":
        factor = next((t for t in (node.saved("self"), node.saved("other")) if isinstance(t, Tensor)), None)
        if factor is not None and factor.ndim > 1 and _is_mask(factor):
            return ~factor.bool()
    if node.kind not in PASSED_ON:
        return None
    return next((m for i in range(len(node.parents)) if (m := _hidden(node.source(i), depth + 1)) is not None), None)


def _is_known(hidden: Tensor, known: list[Tensor]) -> bool:
    """Whether a mask is one of those, the right way round or not, for all that look; or leaves out what is later."""
    for mask in _reduced(hidden):
        square = mask.ndim == 2 and mask.shape[0] == mask.shape[1] > 1  # noqa: PLR2004
        if square and torch.equal(mask, torch.ones_like(mask).triu(1)):
            return True
        for one in known:
            other = one.to(mask.device).squeeze()
            if (
                other.shape == mask.shape
                and bool(mask.any())
                and (torch.equal(other, mask) or torch.equal(~other, mask))
            ):
                return True
    return False


def _reduced(hidden: Tensor) -> Iterator[Tensor]:
    """A mask without dimensions of size 1, and the row of it that is the same for all that look."""
    yield hidden.squeeze()
    if hidden.ndim > 2:  # noqa: PLR2004
        rows = hidden.flatten(1, -2)
        if torch.equal(rows, rows[:, :1].expand_as(rows)):
            yield rows[:, 0]


def _share(node: Node, hidden: Tensor) -> tuple[float, float] | None:
    """The weight of what is hidden, on average over rows of which a part is, and what it would be of all alike."""
    result, dim = node.saved("result"), node.dim
    if result is None or dim is None:
        return None
    try:
        mask = hidden.expand(result.shape)
    except RuntimeError:
        return None
    part = mask.float().mean(dim)
    rows = (part > 0) & (part < 1)
    if not bool(rows.any()):
        return None
    spent = (result.float() * mask).sum(dim)
    return float(spent[rows].mean()), float(part[rows].mean())
