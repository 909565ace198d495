"""Copies of tensors that nothing done later changes, cut to whole examples so that memory stays bounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_recipe.record.tensors import COPIED, mapped, plain

MAX_ELEMENTS = 2**20
"""Elements kept of a prediction and its target (whole examples from the front), so that memory stays bounded."""


def snapshot(structure: Any) -> Any:
    """A copy whose tensors are detached clones, and arrays copies, so that nothing done later changes it.

    Example:
        >>> batch = [torch.zeros(2), "label"]
        >>> kept = snapshot(batch)
        >>> _ = batch[0].add_(1)
        >>> kept
        [tensor([0., 0.]), 'label']

    """
    return mapped(structure, COPIED, cloned)


def cloned(value: Any) -> Any:
    """A copy of a tensor, detached, of an array, or of a container that copies itself.

    Example:
        >>> cloned(torch.ones(1, requires_grad=True) * 2)
        tensor([2.])

    """
    if not isinstance(value, Tensor):
        return value.copy() if isinstance(value, np.ndarray) else value.clone()
    with torch.inference_mode(mode=False):  # a tensor cloned in inference mode could never take part in autograd
        try:
            return value.detach().clone()
        except Exception:  # noqa: BLE001 - of a class of its own, which lacks what the operation before did not hand on
            return value.detach().as_subclass(Tensor).clone()


def cut(tensor: Tensor, keep: int | None = None) -> Tensor:
    """A detached, plain clone of the first `keep` examples, by default of as many as `MAX_ELEMENTS` allow.

    Example:
        >>> cut(torch.zeros(4, 2**19)).shape
        torch.Size([2, 524288])

    """
    if keep is None and tensor.ndim and tensor.numel() > MAX_ELEMENTS:
        keep = max(1, MAX_ELEMENTS * tensor.shape[0] // tensor.numel())
    return plain(snapshot(tensor if keep is None else first_rows(tensor, keep)))


def first_rows(tensor: Tensor, count: int) -> Tensor:
    """The first `count` rows, also of sparse and nested tensors, which can't be sliced.

    Example:
        >>> first_rows(torch.eye(4).to_sparse(), 2).shape
        torch.Size([2, 4])

    """
    if tensor.is_nested:
        return torch.nested.as_nested_tensor(list(tensor.unbind()[:count]), layout=tensor.layout)
    if not str(tensor.layout).startswith("torch.sparse"):
        return tensor[:count]
    first: Tensor = tensor.to_sparse_coo().narrow_copy(0, 0, min(count, len(tensor)))
    return first if tensor.layout is torch.sparse_coo else first.to_sparse(layout=tensor.layout)


def cut_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a loss, those with a value per example cut to the same examples."""
    prediction = arguments.get("input")
    if not (isinstance(prediction, Tensor) and prediction.ndim and prediction.numel() > MAX_ELEMENTS):
        return {name: cut(value) if isinstance(value, Tensor) else value for name, value in arguments.items()}
    keep = max(1, MAX_ELEMENTS * prediction.shape[0] // prediction.numel())
    kept = {}
    for name, value in arguments.items():
        per_example = (
            isinstance(value, Tensor)
            and value.ndim > 0
            and value.shape[0] == prediction.shape[0]
            and (name in {"input", "target", "var"} or value.ndim == prediction.ndim)
        )
        kept[name] = cut(value, keep if per_example else None) if isinstance(value, Tensor) else value
    return kept
