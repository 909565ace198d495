"""Batches whose examples are pairs of the same kind of thing: ids, texts, images."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_recipe.callbacks._data_seen import ENTRIES, fingerprints
from lightning_recipe.record.tensors import MAX_DEPTH, children, tensors
from lightning_recipe.trial.stored import digest

if TYPE_CHECKING:
    from collections.abc import Iterator

VALUES = 2**13
"""Values of an entry of an example that are read, evenly spaced."""
SHORT = 32
"""Values of a label, at most."""
WAYS = 6
"""Pairs of entries that are looked at: of four ids."""


def pairs_in(batch: Any, target: str | None = None) -> dict[str, tuple[Tensor, Tensor]]:
    """A number for either of the two that each example is made of, by path: of one entry, or of two that are alike.

    Args:
        batch: Any.
        target: The path of the label, which is none of them.

    Example:
        >>> pairs_in({"user": torch.arange(3), "item": torch.ones(3).int()})
        {'batch.user, batch.item': (tensor([0, 1, 2]), tensor([1, 1, 1]))}
        >>> list(pairs_in((torch.rand(3, 8), torch.arange(3))))
        []

    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    alike: dict[Any, dict[str, Any]] = {}
    entries = _entries(batch)
    for path, tensor in entries.items() if len(entries) <= ENTRIES else ():
        if path == target:
            continue
        whole = not tensor.is_floating_point()
        if whole and tensor.ndim == 2 and len(tensor) == 2 < tensor.shape[1] and "edge" in path:  # noqa: PLR2004
            found[path] = (_numbers(tensor[0]), _numbers(tensor[1]))
        elif tensor.ndim > 1 and tensor.shape[1] == 2 and (whole or tensor.ndim > 2):  # noqa: PLR2004
            found[path] = (_numbers(tensor[:, 0]), _numbers(tensor[:, 1]))
        elif (whole and tensor.dtype is not torch.bool) or tensor.ndim > 1:
            alike.setdefault((tensor.shape, tensor.dtype if tensor.ndim > 1 else int), {})[path] = tensor
    for path, words in _texts(batch, "batch"):
        alike.setdefault(len(words), {})[path] = words
    two = [pair for paths in alike.values() if len(paths) <= ENTRIES for pair in combinations(paths, 2)][:WAYS]
    chosen = {path for pair in two for path in pair}
    numbers = {path: _numbers(value) for paths in alike.values() for path, value in paths.items() if path in chosen}
    return found | {f"{one}, {other}": (numbers[one], numbers[other]) for one, other in two}


def _texts(structure: Any, path: str, depth: int = 0) -> Iterator[tuple[str, list[str]]]:
    if isinstance(structure, (list, tuple)) and structure and all(isinstance(one, str) for one in structure):
        yield path, list(structure)
    elif depth < MAX_DEPTH and not isinstance(structure, Tensor):
        for key, value in children(structure):
            yield from _texts(value, f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}", depth + 1)


def _numbers(values: Any) -> Tensor:
    """A number for each example, equal for equal ones."""
    if not isinstance(values, Tensor):
        return torch.tensor([int.from_bytes(digest(one.encode()), "little", signed=True) for one in values])
    flat = values.detach().reshape(len(values), -1)
    if flat.shape[1] == 1 and not flat.is_floating_point():
        return flat[:, 0].long()
    return fingerprints(flat[:, :: math.ceil(flat.shape[1] / VALUES)])


def labels_in(batch: Any) -> dict[str, Tensor]:
    """A number for what may be the label of each example, by path.

    Example:
        >>> labels_in({"pair": torch.tensor([[3, 5]]), "label": torch.tensor([1])})["batch.label"]
        tensor([1])

    """
    return {path: _numbers(t) for path, t in _entries(batch).items() if t.numel() <= SHORT * len(t)}


def _entries(batch: Any) -> dict[str, Tensor]:
    found = ((path, t) for path, t in tensors(batch, "batch") if t.ndim and t.numel() and not t.is_complex())
    return {path: t for path, t in found if t.layout is torch.strided}
