"""Tensors inside nested arguments and batches: tuples, dicts, dataclasses, graphs, objects."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

MAX_DEPTH = 6  # containers within containers; cyclic objects end here


@runtime_checkable
class _Cloneable(Protocol):
    """Tensors, and containers of tensors that copy themselves: PyTorch Geometric's batches, TensorDicts."""

    def clone(self) -> Any: ...


def tensors(structure: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in `structure` with the path to it.

    Args:
        structure: Anything. Tuples, lists, mappings, dataclasses, objects with ``to_dict`` (graphs) and
            plain objects with attributes are entered; all else holds no tensors.
        path: What the paths start with.
        depth: How deep `structure` itself lies.

    Yields:
        Pairs of path and tensor, in the order of the containers.

    Example:
        >>> batch = {"image": torch.zeros(2, 3), "meta": ["a", (torch.ones(2),)]}
        >>> [path for path, _ in tensors(batch, "batch")]
        ['batch.image', 'batch.meta[1][0]']

    """
    if isinstance(structure, Tensor):
        yield path, structure
    elif depth < MAX_DEPTH:
        for key, value in _children(structure):
            step = f"[{key}]" if isinstance(key, int) else f".{key}" if path else str(key)
            yield from tensors(value, path + step, depth + 1)


def _children(structure: Any) -> list[tuple[Any, Any]]:
    if isinstance(structure, Mapping):
        return list(structure.items())
    if isinstance(structure, (list, tuple)):
        return list(zip(getattr(structure, "_fields", range(len(structure))), structure, strict=True))
    if isinstance(structure, type | nn.Module) or not hasattr(structure, "__dict__"):
        return []
    if is_dataclass(structure):
        return [(f.name, getattr(structure, f.name, None)) for f in fields(structure)]
    if callable(getattr(structure, "to_dict", None)) and hasattr(structure, "clone"):
        return list(structure.to_dict().items())
    return list(vars(structure).items())


def snapshot(structure: Any) -> Any:
    """A copy whose tensors are detached clones, so that nothing done later changes it.

    Objects of unknown kinds are kept by reference.

    Example:
        >>> batch = [torch.zeros(2), "label"]
        >>> copy = snapshot(batch)
        >>> _ = batch[0].add_(1)
        >>> copy
        [tensor([0., 0.]), 'label']

    """
    return apply_to_collection(structure, (Tensor, _Cloneable), _clone)


def _clone(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value.clone() if not isinstance(value, type) else value
    with torch.inference_mode(mode=False):  # a tensor cloned in inference mode could never take part in autograd
        return value.detach().clone()


def leading_size(structure: Any) -> int | None:
    """The size that most tensors have in dimension 0: as a rule, the number of examples.

    Example:
        >>> leading_size({"x": torch.zeros(8, 3), "y": torch.zeros(8), "scale": torch.tensor(1.0)})
        8
        >>> leading_size("no tensors") is None
        True

    """
    sizes = Counter(tensor.shape[0] for _, tensor in tensors(structure) if tensor.ndim)
    return sizes.most_common(1)[0][0] if sizes else None


def by_parameter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of `module` under the names of forward's parameters.

    Example:
        >>> list(by_parameter(nn.Linear(2, 1), (torch.ones(2),), {}))
        ['input']

    """
    try:
        forward = getattr(module, "_orig_mod", module).forward
        bound = inspect.signature(forward).bind(*args, **kwargs)
    except (TypeError, ValueError, AttributeError):
        return {**{f"arg{i}": value for i, value in enumerate(args)}, **kwargs}
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        else:
            named[name] = value
    return named
