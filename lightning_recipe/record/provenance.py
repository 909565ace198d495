"""Identities of tensors: marks that a tensor keeps while it lives, and what came out of the network."""

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


class Numbers:
    """A serial number for every tensor; another one once something was written into it.

    Tensors are known by their identity while they live: weak references tell when an id is used again.

    Example:
        >>> import torch
        >>> numbers, x = Numbers(), torch.ones(1)
        >>> numbers.of(x), numbers.of(torch.ones(1)), numbers.of(x)
        (1, 2, 1)
        >>> numbers.of(x.add_(1))
        3

    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], int, int, bool]] = {}  # version, number, from a module
        self._last = 0

    def of(self, tensor: Tensor, *, made: bool = False, anew: bool = False) -> int:
        """The number of `tensor`.

        Args:
            tensor: Also one whose values can't be read, such as a sparse one.
            made: It has come out of a module, from now on.
            anew: Something was written into it, which tensors made in inference mode don't tell.

        """
        version = 0 if tensor.is_inference() else tensor._version  # noqa: SLF001 - there is no other way to tell
        known = self._known.get(id(tensor))
        if known is not None and known[0]() is tensor:
            if known[1] == version and not anew:
                if made and not known[3]:
                    self._known[id(tensor)] = (*known[:3], True)
                return known[2]
            made |= known[3]
        self._last += 1
        self._known[id(tensor)] = (weakref.ref(tensor), version, self._last, made)
        return self._last

    def came_from_module(self, tensor: Tensor) -> bool:
        """Whether `tensor` came out of a module, changed in place or not."""
        known = self._known.get(id(tensor))
        return known is not None and known[3] and known[0]() is tensor


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
