"""Where tensors come from: what came out of the network, and what a loss was computed from."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_recipe.record.tensors import storage, tensors

if TYPE_CHECKING:
    from collections.abc import Collection


class FromNet:
    """The tensors that came out of the network, known while they live.

    Example:
        >>> import torch
        >>> known, x = FromNet(), torch.ones(1)
        >>> known.mark({"output": x})
        >>> x in known, torch.ones(1) in known
        (True, False)

    """

    def __init__(self) -> None:
        self._marked: dict[int, weakref.ref[Tensor]] = {}

    def __contains__(self, tensor: Tensor) -> bool:
        known = self._marked.get(id(tensor))
        return known is not None and known() is tensor

    def mark(self, output: Any, passed_through: Collection[int] = ()) -> None:
        """Mark the tensors in `output`.

        Args:
            output: Anything, see :func:`~lightning_recipe.record.tensors.tensors`.
            passed_through: Storages of tensors that the network did not compute; what has no gradient and lies
                there, such as labels handed on, is left out.

        """
        for _, tensor in tensors(output):
            if tensor.requires_grad or storage(tensor) not in passed_through:
                self._marked[id(tensor)] = weakref.ref(tensor)

    def is_learnt(self, value: Any) -> bool:
        """Whether `value` is a tensor that has a gradient, or came out of the network."""
        return isinstance(value, Tensor) and (value.requires_grad or value in self)


def ancestors(roots: list[Tensor]) -> set[Any]:
    """All nodes of the autograd graph that `roots` were computed from.

    Example:
        >>> import torch
        >>> x = torch.ones(1, requires_grad=True)
        >>> y = x * 2
        >>> y.grad_fn in ancestors([y + 1])
        True

    """
    reached: set[Any] = set()
    waiting = [root.grad_fn for root in roots if root.grad_fn is not None]
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting.extend(parent for parent, _ in node.next_functions if parent is not None)
    return reached
