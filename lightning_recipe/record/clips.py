"""Losses that were clamped from above, read off the autograd graph while it holds its tensors."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.record.bounds import Bounds
from lightning_recipe.record.graph import kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_UPPER = {"Clamp": "max", "ClampMax": "max", "Hardtanh": "max_val", "Minimum": "other", "Fmin": "other"}
_LOWER = {"Clamp": "min", "ClampMin": "min", "Hardtanh": "min_val", "Maximum": "other", "Fmax": "other"}
"""The nodes that clamp, and the attribute that holds the bound."""
_MASKS = {"Where": "condition", "MaskedSelect": "mask", "MaskedFill": "mask", "Index": "indices", "IndexPut": "indices"}
"""The nodes that leave elements out, and the attribute that tells which."""
_ONWARD = {"Mean", "Sum", "Nansum", "Add", "Stack", "Cat", "View", "Squeeze", "Unsqueeze", "Expand", "ToCopy", "Clone"}
_ONWARD |= {"Sqrt", "Log1P", "UnsafeView", "Select", "Slice", "Permute", "Transpose", "T"}
_JOINS = {"Mean", "Sum", "Nansum", "Add", "Stack", "Cat"}
"""Those that put several together, but for a number that is added."""
_LOGARITHMS = {"Log", "Log2", "Log10"}
_MAGNITUDE = {"Pow", "Abs", "LinalgVectorNorm"}
_OF_DIFFERENCE = {"MseLoss", "SmoothL1Loss", "HuberLoss"}
_SCALING = {"Mul", "Div"}
"""Nodes through which a larger value stays a larger one."""


class Clip(NamedTuple):
    """A clamp from above between a loss and what it was computed from.

    Attributes:
        share: Share of its elements that were above the bound, 0 to 1, as a tensor without dimensions. They get no
            gradient.
        elements: Their number, 1 where the loss itself was clamped.
        bound: The constant that elements were compared with to leave out the larger ones; None for a clamp.
        where: The line that compared them.
        of_likelihood: Whether a likelihood was clamped, before its logarithm was taken.
        cap: The largest loss of an element that has a gradient, infinite if only infinite ones have none; None if
            elements are no losses themselves, but errors or likelihoods, or each has another bound.
        guess: The cross entropy of a uniform guess, in nats, if elements are cross entropies without weights.

    Example:
        >>> Clip(torch.tensor(0.5), 32).elements
        32

    """

    share: Tensor
    elements: int
    bound: float | None = None
    where: str = ""
    of_likelihood: bool = False
    cap: float | None = None
    guess: float | None = None


def clips(root: Tensor, bounds: Bounds | None = None) -> list[Clip]:
    """The clamps from above that all of a loss has come through, and the masks that leave out what is above a constant.

    Args:
        root: The loss, before backward.
        bounds: The comparisons that were made on the way.

    Returns:
        None of them if a part of the loss has come another way, as of Huber's, or if between a clamp and the loss there
        is more than sums, means, weights, absolute values, powers, and the logarithm of a likelihood. What has the
        weight 0, or is of another class, is not counted.

    Example:
        >>> weight = torch.ones(1, requires_grad=True)
        >>> errors = (weight * torch.tensor([1.0, 2.0, 3.0, 4.0])) ** 2
        >>> [(float(clip.share), clip.elements) for clip in clips(errors.clamp(max=5).mean())]
        [(0.5, 4)]
        >>> clips(errors.clamp(min=5).mean()), clips((errors + errors.clamp(max=5)).mean())
        ([], [])
        >>> losses = torch.nn.functional.cross_entropy(weight * torch.eye(4), torch.arange(4), reduction="none")
        >>> clip = clips(losses.clamp(max=2).mean())[0]
        >>> clip.cap, round(clip.guess, 3)
        (2.0, 1.386)

    """
    with suppress(Exception), torch.no_grad(), torch._C.DisableTorchFunction():  # noqa: SLF001 - no event of the step
        factor_of = functools.cache(_factor)
        gates = _gates(root, factor_of)
        clamps = {gate: paths for gate, paths in gates.items() if kind_of(gate) not in {*_MASKS, *_SCALING}}
        each = {gate: [clip for path in paths if (clip := _clip(gate, path))] for gate, paths in clamps.items()}
        found = {gate: those for gate, those in each.items() if those}
        first = {gate: paths[0] for gate, paths in gates.items()}
        found |= {gate: [clip] for gate, clip in _left_out(root, first, bounds or Bounds(), factor_of).items()}
        if found and not _goes_another_way(root, set(found), factor_of):
            return [clip for those in found.values() for clip in those]
    return []


_Weights = Tensor | Callable[[], Tensor] | None


class _Path(NamedTuple):
    """What lies between a node and the loss.

    Attributes:
        of_magnitude: Whether only magnitudes count.
        falls: Whether the loss falls where values rise.
        weights: Of the elements, or what makes them.
        logged: Whether the logarithm is taken of each: they are likelihoods, and none of them is below zero.

    """

    of_magnitude: bool = False
    falls: bool = False
    weights: _Weights = None
    logged: bool = False


def _gates(root: Tensor, factor_of: Callable[[Any], Tensor | None]) -> dict[Any, list[_Path]]:
    """Nodes that may hold the loss back, with their ways to it, several of the clamped probability of a yes or no."""
    gates: dict[Any, list[_Path]] = {}
    waiting, seen = [(root.grad_fn, _Path())], set()
    while waiting:
        node, path = waiting.pop()
        if node in gates:
            gates[node].append(path)
        elif node is not None and node not in seen:
            seen.add(node)
            if _may_hold_back(node, factor_of):
                gates[node] = [path]
            waiting += _further(node, path, factor_of)
    return gates


def _may_hold_back(node: Any, factor_of: Callable[[Any], Tensor | None]) -> bool:
    kind = kind_of(node)
    if kind == "Mul":
        return (factor := factor_of(node)) is not None and factor.numel() > 1 and not bool(factor.all())
    return kind in _UPPER or kind in _LOWER or kind == "NanToNum" or (kind in _MASKS and not _picks(node))


def _further(node: Any, path: _Path, factor_of: Callable[[Any], Tensor | None]) -> list[tuple[Any, _Path]]:
    """What a node was given, with its way to the loss; nothing behind what is none of a larger loss for larger values.

    Of likelihoods that are put together before their logarithm is taken nothing either: a mixture of several is likely
    if one of them is.
    """
    kind, parents = kind_of(node), [parent for parent, _ in node.next_functions]
    if _picks(node):
        picked = functools.partial(_picked, node, path.weights)  # as large as logits: only if a clamp comes
        return [(parents[0], path._replace(weights=picked, falls=path.falls ^ (kind == "NllLoss")))]
    if kind in _MAGNITUDE or (kind == "Mul" and parents[0] is parents[1] is not None) or _of_zero(node, kind):
        return [(parents[0], path._replace(of_magnitude=True))]
    if kind in _LOGARITHMS:
        return [(parents[0], path._replace(logged=True))]
    if kind in _SCALING and (factor := factor_of(node)) is not None:
        path = path if factor.numel() == 1 else path._replace(weights=factor)
    elif kind in {"Neg", "Sub", "Rsub"}:
        turned = path._replace(falls=not path.falls)
        return list(zip(parents, {"Neg": [turned], "Sub": [path, turned], "Rsub": [turned, path]}[kind], strict=False))
    elif kind not in _ONWARD or (path.logged and kind in _JOINS and None not in parents):
        return []
    return [(parent, path) for parent in parents]


def _picks(node: Any) -> bool:
    """Whether a node picks of each row the element of its class."""
    kind = kind_of(node)
    indices = node._saved_indices if kind == "Index" else ()  # noqa: SLF001
    whole = bool(indices) and all(index is not None and index.dtype is torch.long for index in indices)
    return whole or kind in {"Gather", "NllLoss"}


def _picked(node: Any, weights: _Weights) -> Tensor:
    """Which elements it picks; of those that were picked, what each counts."""
    kind, counts = kind_of(node), weights() if callable(weights) else weights
    if kind == "NllLoss":
        target, given = node._saved_target[..., None], node._saved_self  # noqa: SLF001
        there = (target >= 0) & (target < given.shape[-1])  # others stand for what is left out
        return torch.zeros_like(given).scatter(-1, target.where(there, 0), there.to(given))
    indices = (node._saved_index,) if kind == "Gather" else node._saved_indices  # noqa: SLF001
    zeros = torch.zeros(node.next_functions[0][0]._input_metadata[0].shape, device=indices[0].device)  # noqa: SLF001
    if kind == "Index":
        return zeros.index_put(indices, zeros.new_ones(()))
    ones = torch.ones(indices[0].shape, device=zeros.device)
    if counts is not None and counts.numel() == ones.numel():
        ones = (counts > 0).reshape(ones.shape).to(zeros)
    return zeros.scatter(_signed(node._saved_dim), indices[0], ones)  # noqa: SLF001


def _signed(dim: int) -> int:
    """Autograd keeps negative dimensions as huge ones."""
    return dim - 2**64 if dim >= 2**63 else dim


def _other(node: Any) -> Tensor | None:
    """What a loss is multiplied with or divided by, if it is no loss itself."""
    factors = [node._saved_self, node._saved_other]  # noqa: SLF001 - how autograd shows it
    known = [f for (parent, _), f in zip(node.next_functions, reversed(factors), strict=True) if parent is not None]
    return known[0] if len(known) == 1 else None


def _factor(node: Any) -> Tensor | None:
    """The same, if it is nowhere negative."""
    factor = _other(node)
    return factor if factor is not None and bool((factor >= 0).all() and (factor > 0).any()) else None


def _of_zero(node: Any, kind: str) -> bool:
    """Whether it is a loss of an error, which is to be zero."""
    return kind in _OF_DIFFERENCE and not bool(node._saved_target.any())  # noqa: SLF001


def _nodes(root: Tensor, stop: set[Any]) -> Iterator[Any]:
    """The autograd graph, but for what lies behind some of its nodes."""
    waiting, seen = [root.grad_fn], set(stop)
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            yield node
            seen.add(node)
            waiting += [parent for parent, _ in node.next_functions]


def _goes_another_way(root: Tensor, gates: set[Any], factor_of: Callable[[Any], Tensor | None]) -> bool:
    """Whether a gradient of the loss reaches leaves past the gates, but for that of a penalty on the weights alone."""
    waiting, seen = [(root.grad_fn, True)], set(gates)
    while waiting:
        node, penalty = waiting.pop()
        if node is None or (node in seen and (penalty or node in gates)):
            continue
        seen.add(node)
        kind = kind_of(node)
        if kind == "AccumulateGrad":
            if not penalty:
                return True
            continue
        scaled = kind in _SCALING and (factor := factor_of(node)) is not None and factor.numel() == 1
        penalty = penalty and (scaled or kind in _ONWARD or kind in _MAGNITUDE)
        waiting += [(parent, penalty) for parent, _ in node.next_functions]
    return False


def _left_out(
    root: Tensor, gates: dict[Any, _Path], bounds: Bounds, factor_of: Callable[[Any], Tensor | None]
) -> dict[Any, Clip]:
    """The nodes that leave out what is above a constant: of the loss's own elements, or of errors."""
    found, shapes = {}, bounds.shapes
    for node in _nodes(root, set()) if shapes else ():
        kept, path = _kept(node, shapes, factor_of), gates.get(node)
        if kept is None:
            continue
        falls = path is not None and path.falls
        bound = bounds.matching(~kept if falls else kept)
        if bound is None or (falls and bound.value >= 0):
            continue
        own = path is not None and any(parent is bound.node for parent, _ in node.next_functions)
        if own or (bound.of_error and not falls):
            clip = Clip((~kept).float().mean(), kept.numel(), bound.value, bound.where)
            capped = own and path is not None and not (path.of_magnitude or path.logged)
            found[node] = _of_losses(clip, node, -bound.value if falls else bound.value) if capped else clip
    return found


def _kept(node: Any, shapes: set[tuple[int, ...]], factor_of: Callable[[Any], Tensor | None]) -> Tensor | None:
    """Which elements a node lets through; None if it is none that leaves any out, or has another shape than these."""
    kind = kind_of(node)
    if kind == "Mul":
        other = _other(node)
        factor = factor_of(node) if other is not None and tuple(other.shape) in shapes else None
        return None if factor is None or factor.numel() == 1 else factor > 0
    if kind not in _MASKS:
        return None
    saved = getattr(node, f"_saved_{_MASKS[kind]}")
    masks = [saved] if isinstance(saved, Tensor) else [index for index in saved if index is not None]
    if len(masks) != 1 or masks[0].dtype is not torch.bool:
        return None
    ways = [parent is not None for parent, _ in node.next_functions]
    if kind in {"Where", "IndexPut"} and all(ways):  # something else stands in the place of what is left out
        return None
    if kind == "Where":
        return masks[0] if ways[0] else ~masks[0]
    return ~masks[0] if kind in {"MaskedFill", "IndexPut"} else masks[0]


def _clip(node: Any, path: _Path) -> Clip | None:
    """What a clamp has done; None if it has no upper bound, or values below the lower one are no smaller losses.

    Where the loss falls as values rise, a lower bound below zero is what cuts off: that of a log-likelihood. That of a
    likelihood lies above.
    """
    kind = kind_of(node)
    if path.of_magnitude and path.falls:
        return None
    if kind == "NanToNum":
        values = node._saved_self  # noqa: SLF001
        outside = values.isinf() if path.of_magnitude else values == (-torch.inf if path.falls else torch.inf)
        return _counted(outside, path, node, torch.inf)
    values, bound = _bounded(node, _LOWER if path.falls else _UPPER)
    if bound is None or (isinstance(bound, Tensor) and bound.requires_grad):
        return None
    if path.falls:
        above_zero = bool(torch.as_tensor(bound >= 0).any())
        return None if above_zero and not path.logged else _counted(values < bound, path, node, _constant(-bound))
    outside, clamped = values > bound, values.clamp(max=bound)
    if path.of_magnitude:
        _, lower = _bounded(node, _LOWER)
        if lower is not None:
            outside, clamped = outside | (values < lower), clamped.clamp(min=lower)
        kept = torch.where(outside, 0, clamped).abs().max()
        if bool((torch.where(outside, clamped.abs(), torch.inf).min()) < kept):
            return None
    return _counted(outside, path, node, _constant(bound))


def _bounded(node: Any, names: dict[str, str]) -> tuple[Tensor, Any]:
    """What goes into a clamp, and its bound of this kind, if it has one."""
    kind, values = kind_of(node), node._saved_self  # noqa: SLF001
    bound = getattr(node, f"_saved_{names[kind]}") if kind in names else None
    return (bound, values) if isinstance(bound, Tensor) and not values.requires_grad else (values, bound)


def _constant(bound: Any) -> float | None:
    """A bound that is the same for all."""
    each = torch.as_tensor(bound).unique()
    return float(each) if len(each) == 1 else None


def _counted(outside: Tensor, path: _Path, node: Any, cap: float | None) -> Clip:
    weights = path.weights() if callable(path.weights) else path.weights
    if weights is not None:
        outside = outside[(weights > 0).expand_as(outside)]
    clip = Clip(outside.float().mean(), outside.numel(), of_likelihood=path.logged)
    return clip if path.of_magnitude or path.logged or cap is None else _of_losses(clip, node, cap)


def _of_losses(clip: Clip, node: Any, cap: float) -> Clip:
    return clip._replace(cap=cap, guess=_guess(node, clip.elements))


def _guess(node: Any, elements: int) -> float | None:
    """The loss of a uniform guess, of what a node holds back; None unless it is one cross entropy for each element."""
    waiting = [parent for parent, _ in node.next_functions]
    while waiting:
        current = waiting.pop()
        kind = kind_of(current) if current is not None else ""
        if kind in {"LogSoftmax", "Softmax"}:
            result, dim = current._saved_result, _signed(current._saved_dim)  # noqa: SLF001
            classes = result.shape[dim]
            return math.log(classes) if result.numel() == classes * elements else None
        if kind.startswith("BinaryCrossEntropy"):
            weights = current._saved_weight, getattr(current, "_saved_pos_weight", None)  # noqa: SLF001
            plain = weights == (None, None) and current._saved_self.numel() == elements  # noqa: SLF001
            return math.log(2) if plain else None
        if kind.startswith("NllLoss") and current._saved_weight is not None:  # noqa: SLF001
            return None
        if kind in _ONWARD | _LOGARITHMS or kind == "Neg" or kind.startswith("NllLoss") or (kind and _picks(current)):
            waiting += [parent for parent, _ in current.next_functions]
    return None
