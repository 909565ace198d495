"""Some examples of a batch: fewer to memorise, or to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_recipe.record.copies import first_rows
from lightning_recipe.record.tensors import Cloneable, children, leading_size, mapped, tensors, with_rows

_CUT = (Cloneable, list, tuple)  # the first are tensors and TensorDicts


def first_examples(batch: Any, count: int) -> Any:
    """The first `count` examples of a batch, or the batch itself if it can't be told where examples lie.

    Cut are nested tuples, lists, mappings and dataclasses in which every tensor has the examples in dimension 0, and
    lists with an entry per example.

    Args:
        batch: What a data loader gives.
        count: Examples to keep.

    Example:
        >>> import torch
        >>> first_examples({"x": torch.zeros(32, 3), "id": ["a"] * 32, "epoch": 1}, 2)
        {'x': tensor([[0., 0., 0.],
                [0., 0., 0.]]), 'id': ['a', 'a'], 'epoch': 1}
        >>> nodes = (torch.zeros(30, 3), torch.zeros(2, 64))  # a graph and its edges: no common dimension
        >>> first_examples(nodes, 2) is nodes
        True

    """
    return examples_between(batch, 0, count)


def examples_between(batch: Any, start: int, stop: int) -> Any:
    """The examples from `start` to before `stop`, or the batch itself, as :func:`first_examples`.

    Example:
        >>> import torch
        >>> examples_between([torch.arange(8), list("abcdefgh")], 2, 4)
        [tensor([2, 3]), ['c', 'd']]

    """
    size = leading_size(batch)
    if size is None or (start, size) <= (0, stop) or not _has_examples(batch, size):
        return batch

    def between(value: Any) -> Any:
        if isinstance(value, Tensor):
            kept = first_of(value, stop, size)
            if not start or kept is value:
                return kept
            dense = kept.layout is torch.strided and not kept.is_nested
            return kept[start:] if dense else with_rows(kept, torch.arange(start, kept.size(0)))
        if isinstance(value, Cloneable) or len(value) == size:
            return value[start:stop]
        values = [mapped(inside, _CUT, between) for inside in value]
        return type(value)(*values) if hasattr(value, "_fields") else type(value)(values)

    try:
        return mapped(batch, _CUT, between)
    except Exception:  # noqa: BLE001 - a container of a class of its own
        return batch


def first_of(tensor: Tensor, count: int, size: int) -> Tensor:
    """The first `count` rows of a tensor with `size` of them, one for each example; any other tensor as it is.

    Example:
        >>> import torch
        >>> first_of(torch.zeros(8, 3), 2, 8).shape, first_of(torch.zeros(3), 2, 8).shape
        (torch.Size([2, 3]), torch.Size([3]))

    """
    return first_rows(tensor, count) if tensor.ndim and tensor.size(0) == size else tensor


def _has_examples(structure: Any, size: int) -> bool:
    if isinstance(structure, Tensor):
        return structure.ndim == 0 or structure.size(0) == size
    if isinstance(structure, list | tuple):
        return all(_has_examples(value, size) for value in structure) or len(structure) == size
    if isinstance(structure, Mapping) or is_dataclass(structure):
        return all(_has_examples(value, size) for _, value in children(structure))
    counts = type(structure) is int and structure == size  # of examples, which would be fewer
    return not counts and next(tensors(structure), None) is None
