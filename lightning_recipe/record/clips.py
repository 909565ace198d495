"""Losses that were clamped from above, read off the autograd graph while it holds its tensors."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

_UPPER = {"Clamp": "max", "ClampMax": "max", "Hardtanh": "max_val", "Minimum": "other", "Fmin": "other"}
_LOWER = {"Clamp": "min", "Hardtanh": "min_val"}
"""The nodes that clamp, and the attribute that holds the bound."""
_ONWARD = {"Mean", "Sum", "Add", "Stack", "Cat", "View", "Squeeze", "Unsqueeze", "Expand", "ToCopy", "Clone"}
_MAGNITUDE = {"Pow", "Abs"}
_SCALING = {"Mul", "Div"}
"""Nodes through which a larger value stays a larger one."""


class Clip(NamedTuple):
    """A clamp from above between a loss and what it was computed from.

    Attributes:
        share: Share of its elements that were above the bound, 0 to 1, as a tensor without dimensions. They get no
            gradient.
        elements: Their number, 1 where the loss itself was clamped.

    Example:
        >>> Clip(torch.tensor(0.5), 32).elements
        32

    """

    share: Tensor
    elements: int


def clips(root: Tensor) -> list[Clip]:
    """The clamps from above that all of a loss has come through.

    Args:
        root: The loss, before backward.

    Returns:
        None of them if a part of the loss has come another way, as of Huber's, or if between a clamp and the loss there
        is more than sums, means, weights, absolute values and powers. What has the weight 0 is not counted.

    Example:
        >>> errors = torch.tensor([1.0, 4.0, 9.0, 16.0], requires_grad=True)
        >>> [(float(clip.share), clip.elements) for clip in clips(errors.clamp(max=5).mean())]
        [(0.5, 4)]
        >>> clips(errors.clamp(min=5).mean()), clips((errors + errors.clamp(max=5)).mean())
        ([], [])

    """
    with suppress(Exception), torch.no_grad(), torch._C.DisableTorchFunction():  # noqa: SLF001 - no event of the step
        gates = _gates(root)
        if gates and not _reaches_leaves(root, set(gates)):
            return [clip for gate, path in gates.items() if (clip := _clip(gate, path)) is not None]
    return []


def _kind(node: Any) -> str:
    return re.sub(r"Backward\d*$", "", type(node).__name__)


class _Path(NamedTuple):
    """What lies between a clamp and the loss: whether only magnitudes count, and the weights of the elements."""

    of_magnitude: bool = False
    weights: Tensor | None = None


def _gates(root: Tensor) -> dict[Any, _Path]:
    """Nodes that clamp, with their ways to the loss."""
    gates: dict[Any, _Path] = {}
    waiting, seen = [(root.grad_fn, _Path())], set()
    while waiting:
        node, path = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        kind = _kind(node)
        parents = [parent for parent, _ in node.next_functions]
        if kind in _UPPER:
            gates[node] = path
        elif kind in _MAGNITUDE or (kind == "Mul" and parents[0] is parents[1] is not None):
            waiting.append((parents[0], path._replace(of_magnitude=True)))
        elif kind in _SCALING and (factor := _factor(node)) is not None:
            path = path if factor.numel() == 1 else path._replace(weights=factor)
            waiting += [(parent, path) for parent in parents]
        elif kind in _ONWARD:
            waiting += [(parent, path) for parent in parents]
    return gates


def _factor(node: Any) -> Tensor | None:
    """What a loss is multiplied with or divided by, if it is no loss itself and nowhere negative."""
    factors = [node._saved_self, node._saved_other]  # noqa: SLF001 - how autograd shows it
    known = [f for (parent, _), f in zip(node.next_functions, reversed(factors), strict=True) if parent is not None]
    factor = known[0] if len(known) == 1 else None
    return factor if factor is not None and bool((factor >= 0).all() and (factor > 0).any()) else None


def _reaches_leaves(root: Tensor, gates: set[Any]) -> bool:
    waiting, seen = [root.grad_fn], set(gates)
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            if type(node).__name__ == "AccumulateGrad":
                return True
            seen.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    return False


def _clip(node: Any, path: _Path) -> Clip | None:
    """What a clamp has done; None if it has no upper bound, or values below the lower one are no smaller losses."""
    kind, values = _kind(node), node._saved_self  # noqa: SLF001
    upper = getattr(node, f"_saved_{_UPPER[kind]}")
    if not values.requires_grad:  # minimum(bound, loss)
        values, upper = upper, values
    if upper is None or (isinstance(upper, Tensor) and upper.requires_grad):
        return None
    outside, clamped = values > upper, values.clamp(max=upper)
    if path.of_magnitude:
        lower = getattr(node, f"_saved_{_LOWER[kind]}") if kind in _LOWER else None
        if lower is not None:
            outside, clamped = outside | (values < lower), clamped.clamp(min=lower)
        kept = torch.where(outside, 0, clamped).abs().max()
        if bool((torch.where(outside, clamped.abs(), torch.inf).min()) < kept):
            return None
    if path.weights is not None:
        outside = outside[(path.weights > 0).expand_as(outside)]
    return Clip(outside.float().mean(), outside.numel())
