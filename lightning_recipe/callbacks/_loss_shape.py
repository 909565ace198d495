"""Whether classes lie in the dimension of classes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.loss_graph import Node

_COPIES = {"Clone", "ToCopy", "Alias"}
_VIEWS = {"View", "UnsafeView", "ReshapeAlias"} | _COPIES
"""Leave all numbers in their order."""


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
            elif not direct and (viewed := _viewed(node, behind, picked[1])) is not None:
                yield node, viewed
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


def _viewed(node: Node, behind: Node, picked: int) -> Outcome | None:
    """Whether a view of what log_softmax gave has others than its classes in the dimension that the loss picks from."""
    entered = view = node.parents[0]
    while view is not None and view.kind in _VIEWS:
        view = view.parents[0]
    if entered is None or view != behind or behind.dim is None:
        return None
    old, new = behind.shape, entered.shape
    if math.prod(old[behind.dim + 1 :]) == math.prod(new[picked % len(new) + 1 :]):  # from one class to the next
        return None
    return Outcome(
        Status.FAILED,
        "classes_in_wrong_dimension",
        f"log_softmax is taken over dimension {behind.dim} of {old}, which is then viewed as {new}: the loss picks its "
        f"class among {new[picked % len(new)]} numbers that belong to several positions",
        f"bring the classes to the end before the view: movedim({behind.dim}, -1)",
        {"classes": old[behind.dim]},
    )


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
    while view is not None and view.kind in _COPIES:
        view = view.parents[0]
    before = view.parents[0] if view is not None and view.kind in _VIEWS - _COPIES else None
    if view is None or before is None or node.dim != 1:
        return None
    old, new = before.shape, view.shape
    while before is not None and before.kind in _VIEWS:
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
