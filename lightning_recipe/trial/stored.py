"""Which examples a DataLoader draws, and what its data set stores of them: read from its attributes, none is drawn."""

from __future__ import annotations

import operator
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.fabric.utilities.data import sized_len
from torch import Tensor
from torch.utils.data import BatchSampler, ConcatDataset, IterableDataset, SequentialSampler, Subset

from lightning_recipe.record.tensors import children

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

_ALL = {"SequentialSampler", "RandomSampler", "DistributedSampler"}
"""Samplers that draw every example."""


@dataclass
class Part:
    """Examples of one data set.

    Attributes:
        source: The data set, no ``Subset`` of another.
        indices: Those that are drawn.

    """

    source: Any
    indices: Sequence[int]


def parts_of(loader: Any) -> list[Part] | None:
    """The examples that a DataLoader draws in an epoch, through any ``Subset`` and ``ConcatDataset``.

    Returns:
        None if nobody knows: of streams, and of samplers that choose in a way of their own.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> (part,) = parts_of(DataLoader(Subset(["a", "b", "c"], [0, 2])))
        >>> part.source, part.indices
        (['a', 'b', 'c'], [0, 2])

    """
    data = getattr(loader, "dataset", None)
    size = None if isinstance(data, IterableDataset) else sized_len(data)
    if not size or type(getattr(loader, "batch_sampler", None)) not in {BatchSampler, type(None)}:
        return None
    chosen = _chosen(getattr(loader, "sampler", None), size)
    return None if chosen is None else list(_parts(data, chosen))


def _chosen(sampler: Any, size: int) -> Sequence[int] | None:
    if type(sampler).__name__ in _ALL:
        return range(size)
    if isinstance(weights := getattr(sampler, "weights", None), Tensor):  # of a WeightedRandomSampler
        return weights.nonzero().flatten().tolist() if len(weights) == size else None
    indices = getattr(sampler, "indices", None)  # of a SubsetRandomSampler
    return None if sized_len(indices) is None else [int(index) for index in indices]  # type: ignore[union-attr]


def _parts(data: Any, indices: Sequence[int]) -> Iterator[Part]:
    if type(data) is Subset:
        if isinstance(data.indices, range) and indices == range(len(data.indices)):
            yield from _parts(data.dataset, data.indices)
        else:
            yield from _parts(data.dataset, [int(data.indices[index]) for index in indices])
    elif type(data) is ConcatDataset:
        for child, inside in zip(data.datasets, _divided(data.cumulative_sizes, indices), strict=True):
            yield from _parts(child, inside)
    else:
        yield Part(data, indices)


def _divided(ends: list[int], indices: Sequence[int]) -> list[Sequence[int]]:
    """The indices of each child of a ``ConcatDataset``."""
    begins = [0, *ends]
    if indices == range(ends[-1]):
        return [range(end - begin) for begin, end in zip(begins, ends, strict=False)]
    children: list[list[int]] = [[] for _ in ends]
    for index in indices:
        child = bisect_right(ends, index)
        children[child].append(index - begins[child])
    return list(children)


def index_of(loader: Any, batch: int, row: int, fetched: Sequence[Any] | None = None) -> int | None:
    """Where an example stands in the data set of its DataLoader, below any ``Subset``.

    Args:
        loader: The DataLoader.
        batch: Index of its batch.
        row: Row in the batch.
        fetched: The indices of the batch, if they were seen; else its place in the epoch tells them.

    Returns:
        None if the sampler alone knows.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> loader = DataLoader(range(9), 4, shuffle=True)
        >>> index_of(DataLoader(range(9), 4), 2, 0), index_of(loader, 2, 0), index_of(loader, 2, 0, [7])
        (8, None, 7)
        >>> index_of(DataLoader(Subset(range(9), [2, 5, 6]), 4), 0, 1)
        5

    """
    together, sampler = (getattr(loader, name, None) for name in ("batch_sampler", "sampler"))
    if fetched is not None:
        index = fetched[row] if row < len(fetched) else None
    elif type(together) is not BatchSampler:
        return None
    else:
        place = batch * together.batch_size + row
        index = place if type(sampler) is SequentialSampler else None
        if type(sampler).__name__ == "DistributedSampler" and not sampler.shuffle:  # type: ignore[union-attr]
            index = (place * sampler.num_replicas + sampler.rank) % len(sampler.dataset)  # type: ignore[union-attr]
    data = loader.dataset
    with suppress(TypeError):  # a sampler's index may be anything that its data set takes
        index = None if index is None else operator.index(index)
        while index is not None and type(data) is Subset:
            index, data = int(data.indices[index]), data.dataset
        return index
    return None


def by_source(parts: Iterable[Part]) -> dict[int, list[Part]]:
    """The parts of each data set, by its ``id``.

    Example:
        >>> data = ["a", "b"]
        >>> list(map(len, by_source([Part(data, [0]), Part(data, [1]), Part(["a", "b"], [0])]).values()))
        [2, 1]

    """
    found: dict[int, list[Part]] = {}
    for part in parts:
        found.setdefault(id(part.source), []).append(part)
    return found


def distinct(parts: list[Part]) -> range | NDArray[np.int64]:
    """The indices of parts of one data set, each once; a range stays one, which takes no memory.

    Example:
        >>> distinct([Part("abc", range(3)), Part("abc", range(3))]), distinct([Part("abc", [2, 0]), Part("abc", [2])])
        (range(0, 3), array([0, 2]))

    """
    first = parts[0].indices
    if isinstance(first, range) and all(part.indices == first for part in parts):
        return first
    return np.unique(np.concatenate([np.asarray(part.indices, dtype=np.int64) for part in parts]))


def columns(source: Any) -> dict[str, Any]:
    """What a data set stores for each of its examples, by attribute: arrays (also for tensors) and lists of its length.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> list(columns(TensorDataset(torch.zeros(4, 2), torch.arange(4))))
        ['tensors.0', 'tensors.1']

    """
    size = sized_len(source)
    if isinstance(source, list):
        return {"": source} if source and _content(source[0]) else {}
    stored: dict[str, Any] = {}
    for name, value in getattr(source, "__dict__", {}).items():
        stored[name] = value
        if isinstance(value, (list, tuple)) and len(value) < _FEW and len(value) != size:
            stored |= {f"{name}.{i}": inner for i, inner in enumerate(value)}
        elif isinstance(value, dict) and len(value) < _FEW:
            stored |= {f"{name}.{key}": inner for key, inner in value.items()}
    arrays = {name: _array(value, size) for name, value in stored.items()}
    return {name: array for name, array in arrays.items() if _has_rows(array, size)}


def arrays(source: Any) -> dict[str, NDArray[Any]]:
    """What a data set stores as arrays; of a list of examples one for each entry that all have, in one shape.

    Example:
        >>> rows = [{"x": torch.zeros(2), "name": "a", "y": 1}, {"x": torch.ones(2), "name": "b", "y": 0}]
        >>> {name: values.tolist() for name, values in arrays(rows).items()}
        {'x': [[0.0, 0.0], [1.0, 1.0]], 'y': [1, 0]}

    """
    found: dict[str, NDArray[Any]] = {}
    for name, values in columns(source).items():
        if isinstance(values, np.ndarray):
            found |= {name: values} if values.ndim else {}
        elif len(values) <= _EXAMPLES and sum(x.numel() for x in leaves(values[0]).values()) <= _UNPACKED / len(values):
            found |= {f"{name}.{path}".strip("."): value for path, value in _unpacked(values).items()}
    return found


def _unpacked(examples: Sequence[Any]) -> dict[str, NDArray[Any]]:
    each = [leaves(one) for one in examples]
    shapes = {path: leaf.shape for path, leaf in each[0].items()}
    same = [path for path, shape in shapes.items() if all(path in one and one[path].shape == shape for one in each)]
    stacked = {path: torch.stack([one[path] for one in each]) for path in same}
    return {path: _array(x.float() if x.dtype is torch.bfloat16 else x, None) for path, x in stacked.items()}


def leaves(example: Any, path: str = "", depth: int = 0) -> dict[str, Tensor]:
    """Tensors, arrays, pictures and numbers in an example, as tensors, by their path.

    Example:
        >>> leaves({"image": np.zeros((2, 2)), "label": 3})
        {'image': tensor([[0., 0.],
                [0., 0.]], dtype=torch.float64), 'label': tensor(3)}

    """
    if isinstance(example, Tensor):
        return {path: example.detach().cpu()} if example.layout is torch.strided and not example.is_nested else {}
    if isinstance(example, (bool, int, float)):
        return {path: torch.tensor(example)}
    if hasattr(example, "__array__") or hasattr(example, "__array_interface__"):  # PIL has one of them
        array = np.asarray(example)
        return {path: torch.from_numpy(array.astype("float64"))} if array.dtype.kind in "biuf" else {}
    found: dict[str, Tensor] = {}
    for key, value in children(example) if depth < _DEEP else ():
        found |= leaves(value, f"{path}.{key}" if path else str(key), depth + 1)
    return found


def _has_rows(array: Any, size: int | None) -> bool:
    if isinstance(array, np.ndarray):
        return bool(array.ndim) and len(array) == size
    return isinstance(array, list) and len(array) == size and bool(_content(array[0]))


def _array(value: Any, size: int | None) -> Any:
    if isinstance(value, Tensor) and value.layout is torch.strided:
        if not value.is_cpu and value.nbytes > _COPIED:
            return None
        value = value.detach().cpu().resolve_conj().resolve_neg()
        return (value.view(torch.int16) if value.dtype is torch.bfloat16 else value).numpy()
    return value.to_numpy() if hasattr(value, "to_numpy") and sized_len(value) == size else value


_FEW = 20  # tensors in a tuple or dict
_COPIED = 2**26  # bytes up to which a tensor is copied from a device
_EXAMPLES, _UNPACKED = 2**14, 2**22  # in a list, and numbers of all, up to which they are put into arrays: 0.3 seconds
_DEEP = 4


def row(stored: dict[str, Any], index: int) -> bytes:
    r"""All that is stored for one example, as bytes; equal for equal examples.

    Args:
        stored: As :func:`columns` gives it.
        index: Of the example.

    Example:
        >>> row({"text": ["hello", "bye"], "label": np.zeros(2, dtype="int8")}, 0)
        b'hello\x00'

    """
    return b"".join(_content(values[index]) for values in stored.values())


def digest(content: bytes) -> bytes:
    """A fingerprint of 8 bytes: among 10^6 examples, two differing ones share it with a chance of 10^-7.

    Example:
        >>> digest(b"a") == digest(b"b")
        False

    """
    return blake2b(content, digest_size=8).digest()


def _content(value: Any) -> bytes:
    """The bytes of a value; none of what has no values that tell it."""
    if isinstance(value, Tensor):
        return _content(_array(value, None)) if value.layout is torch.strided else b""
    if isinstance(value, np.ndarray) and value.dtype == object:
        return b"".join(_content(one) for one in value.tolist())
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tobytes()
    if isinstance(value, (list, tuple)):
        return b"".join(_content(one) for one in value)
    if isinstance(value, dict):
        return b"".join(_content(one) for one in value.values())
    if isinstance(value, bytes):
        return value
    return str(value).encode() if isinstance(value, (str, int, float, PurePath)) else b""
