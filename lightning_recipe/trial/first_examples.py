"""A few examples of a batch, to be memorised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from torch import Tensor

from lightning_recipe.record.copies import first_rows
from lightning_recipe.record.tensors import Cloneable, children, leading_size, mapped, tensors


def first_examples(batch: Any, count: int) -> Any:
    """The first `count` examples of a batch, or the batch itself if it can't be told where examples lie.

    Sliced are nested tuples, lists, mappings and dataclasses in which every tensor has the examples in dimension 0, and
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
    size = leading_size(batch)
    if size is None or size <= count or not _has_examples(batch, size):
        return batch
    try:
        return _sliced(batch, size, count)
    except Exception:  # noqa: BLE001 - a container of a class of its own
        return batch


def _has_examples(structure: Any, size: int) -> bool:
    if isinstance(structure, Tensor):
        return structure.ndim == 0 or structure.shape[0] == size
    if isinstance(structure, list | tuple):
        return all(_has_examples(value, size) for value in structure) or len(structure) == size
    if isinstance(structure, Mapping) or is_dataclass(structure):
        return all(_has_examples(value, size) for _, value in children(structure))
    counts = type(structure) is int and structure == size  # of examples, which would be fewer
    return not counts and next(tensors(structure), None) is None


def _sliced(structure: Any, size: int, count: int) -> Any:
    if isinstance(structure, Tensor):
        return first_rows(structure, count) if structure.ndim else structure
    if isinstance(structure, Cloneable):  # TensorDicts
        return structure[:count]  # type: ignore[index]
    if isinstance(structure, list | tuple) and len(structure) == size:
        return structure[:count]
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(_sliced(value, size, count) for value in structure))
    if isinstance(structure, list | tuple):
        return type(structure)(_sliced(value, size, count) for value in structure)
    return mapped(structure, (Cloneable, list, tuple), lambda value: _sliced(value, size, count))
