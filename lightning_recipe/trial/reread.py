"""Examples of a data set read again, one index several times, without trace: on a copy, in borrowed random streams."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import chain
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_recipe.finding import in_short
from lightning_recipe.record.tensors import children, is_compressed
from lightning_recipe.trial.inner_trainer import quiet
from lightning_recipe.trial.isolation import isolated
from lightning_recipe.trial.rng import GENERATORS, state, untouched_generators

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

BYTES = 2**28
"""Arrays in a data set that are copied at most: a tenth of a second."""
OBJECTS = 20_000
"""Objects in it, those of long plain lists left out."""
ROUNDING = 1e-5
"""Difference of two sums, over their size, that is rounding."""
_COLUMNS = 8
"""Arrays in a list at most that hold a row of each example; more are one for each."""
_ROWS, _FARTHER = 32, 1.5
"""Rows by which it is told whether the square of a distance grows from reading to reading, and at least how many times:
it is the same of numbers drawn anew, twice as large of those that are added up."""
_LONG = 200  # from here on a list of plain values is copied without looking at each
_PLAIN = {str, bytes, int, float, bool, type(None), tuple}
_SHARED = (type, ModuleType, BuiltinFunctionType, torch.dtype, torch.device, str, bytes, int, float, PurePath, range)


class CannotRereadError(Exception):
    """The data set can't be read again without trace; the message says why.

    Example:
        >>> raise CannotRereadError("the data set is a stream")
        Traceback (most recent call last):
        lightning_recipe.trial.reread.CannotRereadError: the data set is a stream

    """


def read_again(
    source: Any, indices: Sequence[int], times: int = 1, within: AbstractContextManager[Any] | None = None
) -> list[list[Any]]:
    """Read examples of a copy of a data set: reading may fill caches, count, and draw random numbers.

    Args:
        source: A data set of the map style.
        indices: Of the examples.
        times: How often each is read, in random streams that go on.
        within: Entered for the time of reading.

    Returns:
        The examples, by index and time.

    Raises:
        CannotRereadError: If it is a stream, can't be copied, is too large to be, or raises.

    Example:
        >>> read_again(["a", "b"], [1], times=2)
        [['b', 'b']]

    """
    with _copied(source) as duplicate, within or nullcontext():
        return [[duplicate[index] for _ in range(times)] for index in indices]


def rewritten(source: Any, indices: Sequence[int]) -> list[str]:
    """What a data set keeps of its examples that becomes something else each time they are read.

    A cache that is filled, or something that is the same once it was done, is none of it; nor is what is moved about.

    Args:
        source: A data set of the map style.
        indices: Of the examples that are read.

    Returns:
        Paths in the data set, of tensors and arrays of floating point numbers, or of lists of them.

    Raises:
        CannotRereadError: As of :func:`read_again`.

    Example:
        >>> class Data(torch.utils.data.TensorDataset):
        ...     def __getitem__(self, index):
        ...         return self.tensors[0][index].mul_(0.5)
        >>> data = Data(torch.ones(2, 3))
        >>> rewritten(data, [0]), data.tensors[0].mean()
        (['tensors.0'], tensor(1.))

    """
    with _copied(source) as duplicate:
        sums = [_sums(duplicate)]
        for _ in range(3):
            for index in indices:
                duplicate[index]
            sums.append(_sums(duplicate))
    before, once, twice, thrice = sums
    again = [key for key in before if _differs_each_time(*(one.get(key) for one in (before, once, twice)))]
    filled = [key for key in once if key not in before]
    again += [key for key in filled if _differs_each_time(*(one.get(key) for one in (once, twice, thrice)))]
    return list(dict.fromkeys(path for path, _ in again if _stays(path, again, once, twice, thrice)))


def drawn_from(source: Any, index: int) -> list[str]:
    """The generators of its own that a data set draws from when it is read, and does not set back.

    Args:
        source: A data set of the map style.
        index: Of an example, which is read twice.

    Returns:
        Their paths in the data set.

    Raises:
        CannotRereadError: As of :func:`read_again`.

    Example:
        >>> class Data(torch.utils.data.TensorDataset):
        ...     rng = None
        ...     def __getitem__(self, index):
        ...         return self.tensors[0][index] + self.rng.random()
        >>> data = Data(torch.ones(2, 3))
        >>> data.rng = random.Random(1)
        >>> drawn_from(data, 0)
        ['rng']

    """
    with _copied(source) as duplicate:
        held = generators_of(duplicate)
        states = [[state(generator) for generator in held.values()]]
        for _ in range(2):
            duplicate[index]
            states.append([state(generator) for generator in held.values()])
    return [path for path, *seen in zip(held, *states, strict=True) if len(set(seen)) == len(seen)]


def generators_of(source: Any) -> dict[str, Any]:
    """The generators that a data set holds, by their paths in it.

    Example:
        >>> list(generators_of({"rng": random.Random(1), "x": [1.0]}))
        ['rng']

    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    waiting = [("", source)]
    while waiting:
        path, value = waiting.pop()
        if id(value) in seen or isinstance(value, _SHARED) or value is None or len(seen) > OBJECTS:
            continue
        seen.add(id(value))
        if type(value) in GENERATORS:
            found[path] = value
        elif not isinstance(value, Tensor | np.ndarray):
            inside = vars(value).items() if isinstance(value, torch.nn.Module) else children(value)
            waiting += [(f"{path}.{name}".strip("."), child) for name, child in inside]
    return found


class _Sum(NamedTuple):
    """What lies in a data set: the sum of each row, and the very array, if it lies in a cache."""

    rows: NDArray[np.float64]
    array: Any = None


_Sums = dict[tuple[str, Any], _Sum]
"""By the path of what something lies in, and its place there if that is a cache."""


def _sums(source: Any) -> _Sums:
    """The sum of each row of what has several dimensions; of each array, of those in a list; of all in a cache."""
    found: _Sums = {}
    seen: set[int] = set()
    waiting: list[tuple[str, Any, Any]] = [("", None, source)]
    while waiting:
        path, place, value = waiting.pop()
        if id(value) in seen or isinstance(value, _SHARED) or value is None:
            continue
        seen.add(id(value))
        if isinstance(value, list | tuple) and len(value) > _COLUMNS and all(map(_is_real, value)):
            found[path, None] = _Sum(np.array([float(np.asarray(one, np.float64).sum()) for one in value]))
        elif _is_real(value):
            if value.ndim > 1 or (place is not None and len(value) > _COLUMNS):
                rows = value.reshape(len(value), -1) if place is None else value.reshape(-1, value.shape[-1])
                summed = rows.sum(1) if value.ndim > 1 else value
                found[path, place] = _Sum(np.array(summed, np.float64), None if place is None else value)
        elif place is not None or _is_cache(value):
            waiting += [(path, (place, name), child) for name, child in children(value)]
        else:
            waiting += [(f"{path}.{name}".strip("."), None, child) for name, child in children(value)]
    return found


def _is_cache(value: Any) -> bool:
    """Whether examples are kept there by their index, maybe only those that were read by now."""
    if isinstance(value, Mapping):
        return any(isinstance(key, int) for key in value)
    return isinstance(value, list) and len(value) > _COLUMNS


def _differs_each_time(first: _Sum | None, then: _Sum | None, later: _Sum | None) -> bool:
    """Whether some rows that are not 0 become others, and others again."""
    if first is None or then is None or later is None or not first.rows.shape == then.rows.shape == later.rows.shape:
        return False
    a, b, c = first.rows, then.rows, later.rows
    return bool((_differ(a, b) & _differ(b, c) & (a != 0)).any())


def _stays(path: str, changed: Sequence[tuple[str, Any]], *times: _Sums) -> bool:
    """Whether what changes in a cache goes on from what was there: the same arrays, or others ever farther away.

    What was read last, which is kept for people to look at, goes nowhere.
    """
    kept = [[one[key] for one in times] for key in changed if key[0] == path and all(key in one for one in times)]
    if all(first.array is then.array for first, then, _ in kept):
        return True
    moved = [sum(float(((one[i].rows - one[0].rows) ** 2).sum()) for one in kept) for i in (1, 2)]
    return sum(len(first.rows) for first, *_ in kept) >= _ROWS and moved[1] > _FARTHER * moved[0]


def _is_real(value: Any) -> bool:
    """Whether it is a dense array of floating point numbers, of one dimension at least."""
    if isinstance(value, Tensor) and value.layout is not torch.strided:
        return False
    array = isinstance(value, np.ndarray) and value.dtype.kind == "f"
    return (array or (isinstance(value, Tensor) and value.is_floating_point())) and value.ndim > 0 and len(value) > 0


def _differ(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.isfinite(one) & np.isfinite(other) & (np.abs(one - other) > ROUNDING * np.maximum(abs(one), abs(other)))


@contextmanager
def _copied(source: Any) -> Iterator[Any]:
    """A copy of a data set, to be read in random streams of its own."""
    if isinstance(source, IterableDataset) or sized_len(source) is None or not hasattr(source, "__getitem__"):
        msg = "the data set is a stream, which can't be read twice"
        raise CannotRereadError(msg)
    memo = _prepared(source)
    try:
        with isolated(), untouched_generators(), quiet():
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002 - the stream that data sets draw from
            torch.default_generator.manual_seed(0)
            yield copy.deepcopy(source, memo)
    except Exception as error:
        msg = f"the data set can't be copied and read again: {in_short(error)}"
        raise CannotRereadError(msg) from error


def _prepared(source: Any) -> dict[int, Any]:
    """What ``copy.deepcopy`` is told beforehand: long lists of plain values, copied at once.

    Raises:
        CannotRereadError: If there is too much to copy, or something that a copy would share.

    """
    memo: dict[int, Any] = {}
    seen: set[int] = set()
    size, waiting = 0, [source]
    while waiting:
        value = waiting.pop()
        if id(value) in seen or value is None or isinstance(value, _SHARED):
            continue
        seen.add(id(value))
        size += _bytes(value)
        if size > BYTES or len(seen) > OBJECTS:
            msg = f"the data set is too large to copy (over {BYTES >> 20} MB or {OBJECTS} objects)"
            raise CannotRereadError(msg)
        if isinstance(value, Trainer | LightningModule | LightningDataModule | DataLoader):
            msg = f"the data set holds the {type(value).__name__}"
            raise CannotRereadError(msg)
        if isinstance(value, Tensor) and is_compressed(value):
            memo[id(value)] = value.clone()
        elif isinstance(value, (list, dict)) and len(value) > _LONG and _is_plain(value):
            memo[id(value)] = copy.copy(value)
        else:
            waiting += _inside(value)
    return memo


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor) and value.layout is not torch.strided:
        return value._nnz() * value.element_size()  # noqa: SLF001 - of all layouts; there is no public one
    return int(value.nbytes) if isinstance(value, Tensor | np.ndarray) else 0


def _inside(value: Any) -> list[Any]:
    """What a value holds.

    Raises:
        CannotRereadError: If a copy of a function would share what it may change.

    """
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell is not None]
        if any(isinstance(cell, (list, dict, set)) or type(cell) in GENERATORS for cell in cells):
            msg = f"a copy of the data set would share what {value.__qualname__} works on"
            raise CannotRereadError(msg)
        return cells
    if isinstance(value, MethodType):
        return [value.__self__]
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, Tensor | np.ndarray) or type(value) in GENERATORS:
        return []
    if isinstance(value, (set, frozenset)):
        return list(value)
    inside = [child for _, child in children(value)]
    return inside + (list(vars(value).values()) if isinstance(value, torch.nn.Module) else [])


def _is_plain(values: list[Any] | dict[Any, Any]) -> bool:
    """Whether all values, and those in tuples, are strings and numbers."""
    flat = list(values.values()) if isinstance(values, dict) else values
    if set(map(type, flat)) - _PLAIN:
        return False
    return not set(map(type, chain.from_iterable(v for v in flat if isinstance(v, tuple)))) - (_PLAIN - {tuple})
