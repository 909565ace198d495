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
        is more than sums, means, positive factors, absolute values and powers.

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
            return [clip for gate, of_magnitude in gates.items() if (clip := _clip(gate, of_magnitude)) is not None]
    return []


def _kind(node: Any) -> str:
    return re.sub(r"Backward\d*$", "", type(node).__name__)


def _gates(root: Tensor) -> dict[Any, bool]:
    """Nodes that clamp, and whether it is the magnitude of what they give that counts."""
    gates: dict[Any, bool] = {}
    waiting, seen = [(root.grad_fn, False)], set()
    while waiting:
        node, of_magnitude = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        kind = _kind(node)
        if kind in _UPPER:
            gates[node] = of_magnitude
        elif kind in _ONWARD | _MAGNITUDE or (kind in _SCALING and _is_positive_factor(node)):
            waiting += [(parent, of_magnitude or kind in _MAGNITUDE) for parent, _ in node.next_functions]
    return gates


def _is_positive_factor(node: Any) -> bool:
    factor = node._saved_other  # noqa: SLF001 - how autograd shows it
    return node._saved_self is None and factor is not None and factor.numel() == 1 and bool(factor > 0)  # noqa: SLF001


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


def _clip(node: Any, of_magnitude: bool) -> Clip | None:  # noqa: FBT001
    """What a clamp has done; None if it has no upper bound, or values below the lower one are no smaller losses."""
    kind, values = _kind(node), node._saved_self  # noqa: SLF001
    upper = getattr(node, f"_saved_{_UPPER[kind]}")
    if not values.requires_grad:  # minimum(bound, loss)
        values, upper = upper, values
    if upper is None or (isinstance(upper, Tensor) and upper.requires_grad):
        return None
    outside, clamped = values > upper, values.clamp(max=upper)
    if of_magnitude:
        lower = getattr(node, f"_saved_{_LOWER[kind]}") if kind in _LOWER else None
        if lower is not None:
            outside, clamped = outside | (values < lower), clamped.clamp(min=lower)
        kept = torch.where(outside, 0, clamped).abs().max()
        if bool((torch.where(outside, clamped.abs(), torch.inf).min()) < kept):
            return None
    return Clip(outside.float().mean(), outside.numel())
