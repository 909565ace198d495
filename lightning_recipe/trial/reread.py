"""Examples of a data set read again, one index several times, without trace: on a copy, in borrowed random streams."""

from __future__ import annotations

import copy
import random
from functools import partial
from itertools import chain
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_recipe.finding import in_short
from lightning_recipe.record.tensors import children
from lightning_recipe.trial.inner_trainer import quiet
from lightning_recipe.trial.isolation import isolated
from lightning_recipe.trial.rng import GENERATORS, untouched_generators

if TYPE_CHECKING:
    from collections.abc import Sequence

BYTES = 2**28
"""Arrays in a data set that are copied at most: a tenth of a second."""
OBJECTS = 20_000
"""Objects in it, those of long plain lists left out."""
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


def read_again(source: Any, indices: Sequence[int], times: int = 1) -> list[list[Any]]:
    """Read examples of a copy of a data set: reading may fill caches, count, and draw random numbers.

    Args:
        source: A data set of the map style.
        indices: Of the examples.
        times: How often each is read, in random streams that go on.

    Returns:
        The examples, by index and time.

    Raises:
        CannotRereadError: If it is a stream, can't be copied, is too large to be, or raises.

    Example:
        >>> read_again(["a", "b"], [1], times=2)
        [['b', 'b']]

    """
    if isinstance(source, IterableDataset) or sized_len(source) is None or not hasattr(source, "__getitem__"):
        msg = "the data set is a stream, which can't be read twice"
        raise CannotRereadError(msg)
    memo = _prepared(source)
    try:
        with isolated(), untouched_generators(), quiet():
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002 - the stream that data sets draw from
            torch.default_generator.manual_seed(0)
            duplicate = copy.deepcopy(source, memo)
            return [[duplicate[index] for _ in range(times)] for index in indices]
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
        size += int(getattr(value, "nbytes", 0)) if isinstance(value, Tensor | np.ndarray) else 0
        if size > BYTES or len(seen) > OBJECTS:
            msg = f"the data set is too large to copy (over {BYTES >> 20} MB or {OBJECTS} objects)"
            raise CannotRereadError(msg)
        if isinstance(value, Trainer | LightningModule | LightningDataModule | DataLoader):
            msg = f"the data set holds the {type(value).__name__}"
            raise CannotRereadError(msg)
        if isinstance(value, (list, dict)) and len(value) > _LONG and _is_plain(value):
            memo[id(value)] = copy.copy(value)
        else:
            waiting += _inside(value)
    return memo


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
