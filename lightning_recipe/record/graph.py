"""The autograd graph of a loss, as it is before backward lets go of it: kinds of nodes, and the tensors at its ends."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Node(NamedTuple):
    """One operation that gradients go back through.

    Attributes:
        kind: Its name in autograd: ``"Addmm"``, ``"Relu"``; ``"AccumulateGrad"`` where gradients end up.
        below: Places in the list of what gradients go on to.
        leaf: The tensor in which gradients end up, such as a parameter; None of all others.

    Example:
        >>> Node("Relu", (1,)).leaf is None
        True

    """

    kind: str
    below: tuple[int, ...] = ()
    leaf: Tensor | None = None


def graph(roots: list[Tensor]) -> list[Node]:
    """All nodes that `roots` were computed by, those of the roots first. No tensor but the leaves is held.

    What is inside of a reentrant checkpoint is not seen.

    Example:
        >>> import torch
        >>> w = torch.ones(1, requires_grad=True)
        >>> graph([w * 2 + 1])
        [Node(kind='Add', below=(1,), leaf=None), Node(kind='Mul', below=(2,), leaf=None), Node(kind='Accumulate...

    """
    places: dict[Any, int] = {}
    waiting: list[Any] = []
    loose = []
    for root in roots:
        if root.grad_fn is not None:
            _placed(root.grad_fn, places, waiting)
        elif root.requires_grad:
            loose.append(root)
    found = []
    for node in waiting:  # it grows
        below = tuple(_placed(parent, places, waiting) for parent, _ in node.next_functions if parent is not None)
        found.append(Node(kind_of(node), below, getattr(node, "variable", None)))
    return found + [Node("AccumulateGrad", (), root) for root in loose]


def kind_of(node: Any) -> str:
    """The name of a node of autograd's, without what autograd adds.

    Example:
        >>> import torch
        >>> kind_of((torch.ones(1, requires_grad=True) * 2).grad_fn)
        'Mul'

    """
    return re.sub(r"Backward\d*$", "", type(node).__name__)


def _placed(node: Any, places: dict[Any, int], waiting: list[Any]) -> int:
    if node not in places:
        places[node] = len(waiting)
        waiting.append(node)
    return places[node]
