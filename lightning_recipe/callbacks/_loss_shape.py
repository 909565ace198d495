"""Whether the shapes in a loss fit: predictions against targets, and classes in the dimension of classes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from lightning_recipe.callbacks._cuts import CUTS
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.losses.table import TABLE
from lightning_recipe.record.tensors import tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.events import Event
    from lightning_recipe.record.loss_graph import Node
    from lightning_recipe.record.step import LossCall, Step

Shape = tuple[int, ...]
ON_PURPOSE = {"Unsqueeze", "Expand", "Repeat"}
"""Operations by which somebody makes ready to compare all with all."""
WEIGHS = {"mul", "mul_", "imul", "rmul"}
ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Pow", "Rsub"}


def pairs_of_call(call: LossCall) -> Outcome | None:
    """Whether a loss function compares each prediction with the targets of all examples."""
    shapes = [tuple(v.shape) for name in ("input", "target") if isinstance(v := call.arguments.get(name), Tensor)]
    if len(shapes) < 2 or call.target_from_net or TABLE[call.name].has_classes or not across(*shapes):  # noqa: PLR2004
        return None
    return _broadcast(*shapes)


def pairs_by_hand(step: Step, graph: list[Node]) -> Iterator[tuple[str, Outcome]]:
    """The same of arithmetic on what came out of the network.

    Args:
        step: What a step did, with its wiring.
        graph: The nodes of its loss, from what the last layers put out.

    Yields:
        The line of the code, and the verdict.

    """
    shapes = {tuple(tensor.shape) for _, tensor in tensors(step.batch)}
    wanted = {n.shape for n in graph if n.kind in ARITHMETIC and any(p and p.kind in ON_PURPOSE for p in n.parents)}
    for event in step.events:
        if event.spread and across(*event.spread) and len(event.inputs) == 2:  # noqa: PLR2004
            made = [step.producer(number) for number in event.inputs]
            given = [shape for shape, maker in zip(event.spread, made, strict=True) if maker is None]
            short = min(event.spread, key=len)
            of_batch = len(given) == 1 and (
                given[0] == short or given[0] in shapes
            )  # one of two columns may be made of it
            of_net = not given and _is_target(step, *event.inputs)
            if (of_batch or of_net) and (short[0], *short) not in wanted:
                weighted = event.name in WEIGHS and any(maker and _is_loss(maker) for maker in made)
                outcome = _broadcast(*event.spread, weights=weighted)
                yield event.where, replace(outcome, status=Status.WARNING) if of_net else outcome


def _is_target(step: Step, one: int, other: int) -> bool:
    """Whether one of two tensors is a target that the network had a part in: by what was drawn, or without gradients.

    They come from different calls of layers: else all are compared with all of the same, as for a ranking.
    """
    (layers, cut), (others, other_cut) = _layers(step, one), _layers(step, other)
    return cut != other_cut and layers.isdisjoint(others)


def _layers(step: Step, number: int) -> tuple[set[int], bool]:
    """The last calls of layers with parameters behind a tensor, and whether no gradient goes back to any of them."""
    found: set[int] = set()
    waiting, seen, open_ = [(number, False)], set(), False
    while waiting:
        current, cut = waiting.pop()
        maker = step.producer(current)
        if maker is None or (current, cut) in seen:
            continue
        seen.add((current, cut))
        cut = cut or maker.name in CUTS or (maker.kind == "module" and bool(maker.where))
        if maker.module is not None and next(maker.module.parameters(), None) is not None:
            found.add(current)
            open_ = open_ or not cut
        else:
            waiting += [(given, cut) for given in maker.inputs]
    return found, not open_


def _is_loss(maker: Event) -> bool:
    return maker.kind == "loss" or maker.name in {"pow", "square", "abs"}


def across(one: Shape, other: Shape) -> bool:
    """Whether two shapes are broadcast so that each example of the one meets all examples of the other.

    Example:
        >>> across((8, 1), (8,)), across((8,), (8, 1)), across((8, 1, 5, 5), (8, 5, 5)), across((8, 1), (8, 1))
        (True, True, True, False)
        >>> across((8, 1), (1, 8))  # somebody means to
        False

    """
    short, long = sorted((one, other), key=len)
    same = len(short) + 1 == len(long) and short[:1] == long[:1] and long[1] == 1
    return same and short[0] > 1 and short[1:] == long[2:]


def classes_of_graph(graph: list[Node]) -> Iterator[tuple[Node, Outcome]]:
    """Whether classes lie in the dimension that a softmax normalises, and that the loss picks its class from.

    Args:
        graph: The nodes of a loss, from what the last layers put out.

    Yields:
        The node, and the verdict.

    """
    for node in graph:
        behind = node.source()
        if (picked := node.picked) is not None and behind is not None and behind.kind == "LogSoftmax":
            direct = node.parents[0] == behind
            if direct and len(behind.shape) > 1 and behind.dim != picked[1] % len(behind.shape):
                yield node, _normalised(behind, f"picks classes along dimension {picked[1]}")
        elif node.kind == "Mul" and behind is None:
            behind = node.source(1)
        if node.kind == "Mul" and behind is not None and behind.kind == "LogSoftmax" and len(behind.shape) > 1:
            dim = _one_hot(node, behind)
            if dim == 0 and behind.dim:
                yield node, _over_examples(behind)
            elif dim is not None and dim != behind.dim:
                yield node, _normalised(behind, f"is multiplied with targets whose classes are dimension {dim}")
        elif node.kind == "LogSoftmax" and (mixed := _mixed(node)) is not None:
            yield node, mixed


def _one_hot(node: Node, behind: Node) -> int | None:
    """The one dimension along which what is multiplied with has sums of 1."""
    others = [v for name in ("self", "other") if isinstance(v := node.saved(name), Tensor)]
    for other in others:
        if other.shape == behind.shape and other.is_floating_point() and bool((other >= 0).all()):
            dims = [d for d in range(other.ndim) if bool(((other.sum(d) - 1).abs() < 1e-3).all())]  # noqa: PLR2004
            if len(dims) == 1:
                return dims[0]
    return None


def _mixed(node: Node) -> Outcome | None:
    """Whether view stood for permute between the last layer and the loss.

    Of (N, C, ...) a view as (N * ..., C), of (N, T, C) one as (N, C, T): the rows hold what belongs to several classes.
    """
    view = node.parents[0]
    while view is not None and view.kind in {"Clone", "ToCopy", "Alias"}:
        view = view.parents[0]
    before = view.parents[0] if view is not None and view.kind in {"View", "UnsafeView", "ReshapeAlias"} else None
    if view is None or before is None or node.dim != 1:
        return None
    old, new = before.shape, view.shape
    while before is not None and before.kind in {"View", "UnsafeView", "ReshapeAlias", "Clone"}:
        before = before.parents[0]
    if before is None or not before.is_raw or len(old) < 3 or 1 in old[1:]:  # noqa: PLR2004
        return None
    convolved = "Convolution" in before.kind
    flattened = convolved and len(new) == 2 and new[1] == old[1] != old[-1]  # noqa: PLR2004
    swapped = not convolved and len(new) == len(old) == 3 and new == (old[0], old[2], old[1]) and old[1] != old[2]  # noqa: PLR2004
    if not (flattened or swapped):
        return None
    right = f"permute(0, {', '.join(str(d) for d in range(2, len(old)))}, 1)" if flattened else "transpose(1, 2)"
    return Outcome(
        Status.FAILED,
        "classes_in_wrong_dimension",
        f"what the last layer puts out, {old}, is viewed as {new}: the rows that a softmax is taken of mix positions "
        "with classes",
        f"{right} before the view" if flattened else f"{right} in place of the view",
        {"classes": new[1]},
    )


def _broadcast(one: Shape, other: Shape, *, weights: bool = False) -> Outcome:
    size = one[0]
    told = f"each of {size} predictions is compared with the targets of all {size} examples"
    fix = "squeeze(-1) the prediction, or unsqueeze(-1) the target"
    if weights:
        told = f"the loss of each of {size} examples is weighted with the weights of all, which is their mean weight"
        fix = "unsqueeze(-1) the weights, or squeeze(-1) the losses"
    return Outcome(
        Status.FAILED,
        "broadcast",
        f"{one} against {other} is broadcast: {told}",
        f"give both the same shape: {fix}",
        {"examples": size},
    )


def _over_examples(behind: Node) -> Outcome:
    return Outcome(
        Status.FAILED,
        "classes_in_wrong_dimension",
        f"the targets of {behind.shape} sum to 1 over dimension 0, the examples, while log_softmax is taken over "
        f"dimension {behind.dim}, the classes",
        f"take the softmax of the targets over dimension {behind.dim}",
        {"dim": 0.0},
    )


def _normalised(behind: Node, picked: str) -> Outcome:
    return Outcome(
        Status.FAILED,
        "classes_in_wrong_dimension",
        f"log_softmax is taken over dimension {behind.dim} of {behind.shape}, while the loss {picked}",
        "take log_softmax over the classes",
        {"dim": float(behind.dim or 0)},
    )
