"""Tensors inside nested arguments and batches: tuples, dicts, dataclasses, graphs, objects."""

from __future__ import annotations

import copy
import re
from abc import ABC
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

MAX_DEPTH = 6  # containers within containers; cyclic objects end here
FEW = 5
"""Items of a list that may be those of a batch."""


class Cloneable(ABC):  # noqa: B024 - told by its method alone, and remembered for each class, unlike of a protocol
    """Tensors, and containers of tensors that copy themselves: PyTorch Geometric's batches, TensorDicts.

    Example:
        >>> import torch
        >>> isinstance(torch.ones(1), Cloneable), isinstance([1], Cloneable)
        (True, False)

    """

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return callable(getattr(other, "clone", None))


COPIED = (Tensor, Cloneable, np.ndarray)
"""What has values that code may change in place."""


_INDEX = re.compile(r"\[\d+\]")


def tensors(structure: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in `structure` with the path to it.

    Args:
        structure: Anything. Tuples, lists, mappings, dataclasses, objects with ``to_dict`` (graphs) and
            plain objects with attributes are entered; all else holds no tensors. Nested tensors, whose examples have
            shapes of their own, and quantised ones, with which next to nothing can be computed, are left out.
        path: What the paths start with.
        depth: How deep `structure` itself lies.

    Yields:
        Pairs of path and tensor, in the order of the containers.

    Example:
        >>> import torch
        >>> batch = {"image": torch.zeros(2, 3), "meta": ["a", (torch.ones(2),)]}
        >>> [path for path, _ in tensors(batch, "batch")]
        ['batch.image', 'batch.meta[1][0]']

    """
    if isinstance(structure, Tensor):
        if not structure.is_nested and not structure.is_quantized:
            yield path, structure
    elif depth < MAX_DEPTH:
        for key, value in children(structure):
            step = f"[{key}]" if isinstance(key, int) else f".{key}" if path else str(key)
            yield from tensors(value, path + step, depth + 1)


def dense(structure: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The same without the sparse ones, with which half of the functions can't compute, and `plain`.

    Example:
        >>> import torch
        >>> [path for path, _ in dense({"x": torch.eye(2), "edges": torch.eye(2).to_sparse()}, "batch")]
        ['batch.x']

    """
    return ((name, plain(tensor)) for name, tensor in tensors(structure, path) if tensor.layout is torch.strided)


def children(structure: Any) -> list[tuple[Any, Any]]:
    """What lies directly in `structure`, under its name or index: items, entries, fields, attributes.

    Example:
        >>> children({"x": 1}), children(["a"]), children("text")
        ([('x', 1)], [(0, 'a')], [])

    """
    if structure is None or isinstance(structure, str | bytes | int | float | type | nn.Module):
        return []
    if isinstance(structure, Mapping):
        return list(structure.items())
    if isinstance(structure, (list, tuple)):
        return list(zip(getattr(structure, "_fields", range(len(structure))), structure, strict=True))
    if is_dataclass(structure):
        return [(f.name, getattr(structure, f.name, None)) for f in fields(structure)]
    if callable(getattr(structure, "to_dict", None)) and hasattr(structure, "clone"):
        return list(structure.to_dict().items())
    return _attributes(structure)


def _attributes(structure: Any) -> list[tuple[str, Any]]:
    slots = [getattr(kind, "__slots__", ()) for kind in type(structure).__mro__]
    names = [name for group in slots for name in ([group] if isinstance(group, str) else group)]
    names = [name for name in names if name not in {"__dict__", "__weakref__"} and hasattr(structure, name)]
    return [*getattr(structure, "__dict__", {}).items(), *((name, getattr(structure, name)) for name in names)]


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same shape and values, in the same layout, on the same device.

    Example:
        >>> import torch
        >>> same(torch.ones(2), torch.ones(2)), same(torch.ones(2), torch.ones(2, 1))
        (True, False)
        >>> same(torch.eye(2).to_sparse(), torch.eye(2).to_sparse()), same(torch.eye(2).to_sparse(), torch.eye(2))
        (True, False)

    """
    if a.layout is not b.layout or a.device != b.device or a.shape != b.shape:
        return False
    parts = zip(_parts(a), _parts(b), strict=True)
    return all(one.shape == other.shape and torch.equal(one, other) for one, other in parts)


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """What a tensor consists of: a sparse one has dense values and indices."""
    if tensor.layout is torch.strided:
        return (tensor,)
    if tensor.layout is torch.sparse_coo:
        coalesced = tensor.detach().coalesce()
        return coalesced.indices(), coalesced.values()
    if tensor.layout in {torch.sparse_csr, torch.sparse_bsr}:
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    return tensor.ccol_indices(), tensor.row_indices(), tensor.values()


def is_compressed(tensor: Tensor) -> bool:
    """Whether a sparse tensor is of a layout that ``copy.deepcopy`` can't copy, as by rows; it can be cloned.

    Example:
        >>> import torch
        >>> is_compressed(torch.eye(2).to_sparse_csr()), is_compressed(torch.eye(2).to_sparse())
        (True, False)

    """
    return tensor.layout in {torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc}


def with_rows(tensor: Tensor, rows: Tensor) -> Tensor:
    """The rows of these numbers, of a sparse or nested tensor, too, in its layout.

    Example:
        >>> import torch
        >>> with_rows(torch.eye(2).to_sparse(), torch.tensor([1, 0])).to_dense()
        tensor([[0., 1.],
                [1., 0.]])

    """
    if tensor.is_nested:
        parts = tensor.unbind()
        return torch.nested.as_nested_tensor([parts[i] for i in rows.tolist()], layout=tensor.layout)
    rows = rows.to(tensor.device)
    if tensor.layout is torch.strided:
        return tensor[rows]
    if tensor.layout is torch.sparse_coo:
        return tensor.index_select(0, rows)
    taken: Tensor = tensor.to_sparse_coo().index_select(0, rows)
    return taken.to_sparse(layout=tensor.layout)


def plain(tensor: Tensor) -> Tensor:
    """The same numbers without a class of their own, with which not all functions work.

    Tensors that only stand for others, such as those of several devices or nested ones, stay.

    Example:
        >>> import torch
        >>> class Labelled(torch.Tensor):
        ...     pass
        >>> type(plain(torch.ones(2).as_subclass(Labelled)))
        <class 'torch.Tensor'>

    """
    if type(tensor) is Tensor or is_traceable_wrapper_subclass(tensor):
        return tensor
    return tensor.as_subclass(Tensor)


def mapped(structure: Any, kinds: type | tuple[type, ...], function: Callable[[Any], Any]) -> Any:
    """A copy of `structure` in which `function` was applied to everything of some kinds.

    Lightning's ``apply_to_collection``, which leaves objects as they are, as well as frozen dataclasses and fields that
    ``__init__`` does not take. Here they are copied, as far as `tensors` enters them.

    Args:
        structure: Anything. What holds nothing of these kinds is kept by reference, as is what can't be copied.
        kinds: Types.
        function: From a value to what takes its place.

    Example:
        >>> import torch
        >>> class Pair:
        ...     def __init__(self, x, y):
        ...         self.x, self.y = x, y
        >>> pair = Pair(torch.ones(2), "label")
        >>> twice = mapped([pair], Tensor, lambda x: 2 * x)
        >>> twice[0].x, twice[0].y, pair.x
        (tensor([2., 2.]), 'label', tensor([1., 1.]))

    """
    return _mapped(structure, kinds if isinstance(kinds, tuple) else (kinds,), function, {})


def _mapped(structure: Any, kinds: tuple[type, ...], function: Callable[[Any], Any], done: dict[int, Any]) -> Any:
    def apply(value: Any) -> Any:
        if isinstance(value, kinds):
            return function(value)
        if id(value) not in done:
            try:
                done[id(value)] = duplicate = copy.copy(value)
                # another mapping keeps its items in an attribute, which a shallow copy shares
                own = isinstance(value, Mapping) and not isinstance(value, dict)
                inside = _attributes(value) if own else children(value)
                for name, child in inside:
                    changed = _mapped(child, kinds, function, done)
                    if isinstance(value, dict):
                        duplicate[name] = changed
                    else:
                        object.__setattr__(duplicate, name, changed)  # frozen or not
            except (TypeError, AttributeError):  # it holds an open file, or is made by a constructor only
                done[id(value)] = value
        return done[id(value)]

    objects = {type(found) for found in _objects(structure, kinds)}
    return apply_to_collection(structure, (*kinds, *objects), apply, allow_frozen=True)


def _objects(structure: Any, kinds: tuple[type, ...], depth: int = 0) -> Iterator[Any]:
    """The objects nearest to the root in which something of `kinds` lies, except graphs that copy themselves.

    Dataclasses are objects, and so is any mapping of a class of its own, whose constructor may ask for something else.
    """
    own = isinstance(structure, MutableMapping) and type(structure) not in {dict, OrderedDict, defaultdict}
    if isinstance(structure, kinds) or (isinstance(structure, Cloneable) and not own) or depth > MAX_DEPTH:
        return
    inside = [value for _, value in children(structure)]
    if isinstance(structure, Mapping | list | tuple) and not own:
        for value in inside:
            yield from _objects(value, kinds, depth + 1)
    elif own or any(_holds(value, kinds, depth + 1) for value in inside):
        yield structure


def holds(structure: Any, *kinds: type) -> bool:
    """Whether something of these kinds lies in `structure`, as far as `tensors` enters it.

    Example:
        >>> holds({"x": [iter("ab")]}, Iterator)
        True

    """
    return _holds(structure, kinds, 0)


def _holds(structure: Any, kinds: tuple[type, ...], depth: int) -> bool:
    if isinstance(structure, kinds):
        return True
    if depth == MAX_DEPTH or isinstance(structure, Tensor):  # whose attributes are many
        return False
    return any(_holds(value, kinds, depth + 1) for _, value in children(structure))


def leading_size(structure: Any) -> int | None:
    """The size that most tensors have in dimension 0: as a rule, the number of examples.

    Where a list holds a tensor of its own length for each example, as of boxes or points, the list's length counts.

    Example:
        >>> import torch
        >>> leading_size({"x": torch.zeros(8, 3), "y": torch.zeros(8), "scale": torch.tensor(1.0)})
        8
        >>> leading_size([torch.zeros(4, 3, 9, 9), [torch.zeros(k, 4) for k in (2, 2, 1, 2)]])
        4
        >>> leading_size("no tensors") is None
        True

    """
    found = {path: tensor for path, tensor in tensors(structure, "batch") if tensor.ndim}
    sizes = Counter(len(tensor) for tensor in found.values())
    if len(sizes) > 1 and (listed := _one_each(found)):
        of_lists = {path for paths in listed for path in paths}
        sizes = Counter(len(tensor) for path, tensor in found.items() if path not in of_lists)
        sizes.update(len(paths) for paths in listed)
    return sizes.most_common(1)[0][0] if sizes else None


def _one_each(found: dict[str, Tensor]) -> list[list[str]]:
    """Paths of tensors that lie in the same place of each item of a list, where there is one for each example.

    A batch may be a list itself, of ids and where they begin: of few items something else must tell their number, too.
    """
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path in found:
        for index in _INDEX.finditer(path):
            places[path[: index.start()], path[index.end() :]].append(path)
    alike = [p for p in places.values() if len(p) > 1 and len({(found[q].dtype, found[q].shape[1:]) for q in p}) == 1]
    told = Counter(len(paths) for paths in alike)
    lengths = set()
    for paths in alike:
        elsewhere = told[len(paths)] > 1 or any(len(found[q]) == len(paths) for q in found.keys() - set(paths))
        if len({len(found[path]) for path in paths}) > 1 and (elsewhere or len(paths) > FEW):
            lengths.add(len(paths))
    return [paths for paths in alike if len(paths) in lengths]


def storage(tensor: Tensor) -> int:
    """Where the values lie: the same for views of one tensor."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse and wrapped tensors have none
        return id(tensor)
