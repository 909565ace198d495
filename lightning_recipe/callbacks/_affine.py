"""Whether a network of several layers is affine as a whole, read off the autograd graph of its loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.record.loss_graph import PRODUCTS, RESHAPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from lightning_recipe.record.graph import Node
    from lightning_recipe.record.step import Step

FACTORS = PRODUCTS | {"Mul", "Div"}
"""Are affine if no more than one of the factors was computed from what came in."""
_TURNS = {"Transpose", "Permute", "T", "Mt", "AsStrided"}
"""No way on: linear layers along two axes, such as time and channels, are a model of their own, fewer numbers than one
layer over both would have."""
AFFINE = (RESHAPES - _TURNS - {"MaskedSelect"}) | {  # a mask may be computed from the values
    *("Add", "Sub", "Rsub", "Neg", "Sum", "Mean", "ConstantPadNd", "Embedding", "EmbeddingBag"),
    *("NativeBatchNorm", "CudnnBatchNorm", "NativeDropout", "FusedDropout", "AvgPool2D", "AdaptiveAvgPool2D"),
    *("AvgPool3D", "AdaptiveAvgPool3D", "UpsampleNearest2D", "UpsampleBilinear2D"),
}
"""Kinds of nodes that a sum or a multiple goes through unchanged; a BatchNorm, when its statistics stand."""
HANDED_ON = {"T", "Transpose", "Permute", "ToCopy", "View", "Unsqueeze", "Squeeze", "Expand"}
DEEP = 3
"""Layers from which on one that is narrower than both ends is told of, too; two of them are a factorisation."""


class Layer(NamedTuple):
    """A product with a parameter.

    Attributes:
        weight: The parameter.
        inputs: Numbers that each output is computed from.
        outputs: Numbers that are computed, channels of a convolution.

    """

    weight: Tensor
    inputs: int
    outputs: int


def layers(graph: Sequence[Node]) -> tuple[list[Layer], list[Layer], list[Layer]] | None:
    """The layers that a loss was computed by, if everything from the first to the last of them is affine.

    Returns:
        Those nothing but the loss comes after, those in between, and those that the data enters; None if anything in
        between is not affine or not known, or if a layer's output goes back into it.

    Example:
        >>> import torch
        >>> from lightning_recipe.record.graph import graph
        >>> a, b = torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)
        >>> last, between, first = layers(graph([b(a(torch.ones(3, 4))).relu().sum()]))
        >>> last[0].weight is b.weight, between, first[0]._replace(weight=None)
        (True, [], Layer(weight=None, inputs=4, outputs=8))
        >>> layers(graph([b(a(torch.ones(3, 4)).relu()).sum()])) is None
        True

    """
    own = {place: layer for place in range(len(graph)) if (layer := _layer(graph, place)) is not None}
    lasts = _first_met(graph, range(len(graph))[:1], own)
    below: dict[int, set[int]] = {}  # layers that the data of a layer comes from
    waiting = list(lasts)
    while waiting:
        place = waiting.pop()
        if place not in below:
            found = _affine_below(graph, place, own)
            if found is None:
                return None
            below[place] = found
            waiting += found
    if any(own[a].weight is own[b].weight for a, found in below.items() for b in _all_below(a, below)):
        return None
    first = [own[place] for place, found in below.items() if not found]
    between = [own[place] for place, found in below.items() if found and place not in lasts]
    return [own[place] for place in lasts if below[place]], between, first


def _layer(graph: Sequence[Node], place: int) -> Layer | None:
    node = graph[place]
    if node.kind in PRODUCTS:
        for below in node.below:
            turned = graph[below].kind in {"T", "Transpose", "Permute"}
            weight = _leaf(graph, below)
            if weight is not None and weight.ndim > 1:
                rows, columns = len(weight), weight[0].numel()
                straight = node.kind.endswith("Convolution") or turned
                return Layer(weight, columns, rows) if straight else Layer(weight, rows, columns)
    return None


def _leaf(graph: Sequence[Node], place: int) -> Tensor | None:
    """The parameter that a place is, but for its shape."""
    while graph[place].kind in HANDED_ON and len(graph[place].below) == 1:
        place = graph[place].below[0]
    return graph[place].leaf


def _first_met(graph: Sequence[Node], roots: Sequence[int], own: dict[int, Layer]) -> set[int]:
    met, seen, waiting = set(), set(roots), list(roots)
    while waiting:
        place = waiting.pop()
        if place in own:
            met.add(place)
            continue
        waiting += [below for below in graph[place].below if below not in seen]
        seen.update(graph[place].below)
    return met


def _affine_below(graph: Sequence[Node], top: int, own: dict[int, Layer]) -> set[int] | None:
    met, seen, waiting = set(), {top}, [top]
    while waiting:
        place = waiting.pop()
        node = graph[place]
        if place in own and place != top:
            met.add(place)
            continue
        computed = [below for below in node.below if _leaf(graph, below) is None]
        if node.kind in FACTORS:
            if len(computed) > 1:
                return None
        elif node.kind not in AFFINE and node.leaf is None:
            return None
        waiting += [below for below in computed if below not in seen]
        seen.update(computed)
    return met


def _all_below(place: int, below: dict[int, set[int]]) -> set[int]:
    found: set[int] = set()
    waiting = list(below[place])
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += below[one]
    return found


def affine(step: Step, names: dict[int, str], held: set[int]) -> Iterator[tuple[Outcome, str]]:
    """A network without a nonlinearity, as long as its layers are not narrower than both of its ends."""
    found = layers(step.graph)
    if found is None or not found[0]:
        return
    last, between, first = found
    every = list({id(layer.weight): layer for layer in (*first, *between, *last)}.values())
    known = [names[id(layer.weight)].removesuffix(".weight") for layer in every if id(layer.weight) in names]
    if len(known) < len(every) or not {id(layer.weight) for layer in every} <= held:
        return
    ends = min(*(layer.inputs for layer in first), *(layer.outputs for layer in last))
    narrow = min(layer.outputs for layer in (*first, *between)) < ends
    if narrow and len(every) < DEEP:
        return
    reached = {id(leaf) for leaf in step.leaves}
    modules = [event.module for event in step.events if event.module is not None]
    others = any(reached.isdisjoint(own) for m in modules if (own := {id(p) for p in m.parameters()}))
    yield (
        Outcome(
            Status.ADVICE if narrow or others or (len(first) > 1 and not between) else Status.WARNING,
            "affine",
            f"{len(every)} layers, {listed(known)}, are one affine map: there is no nonlinearity between them",
            "an activation, such as ReLU, between the layers; see that what it returns is used",
            {"layers": len(every)},
        ),
        ", ".join(known),
    )
