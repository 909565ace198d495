"""Whether what the training data keep becomes something else from epoch to epoch: rows of it, as they lie there."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.tensors import children

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray

OBJECTS, ARRAYS = 20_000, 64
"""That are looked through, and arrays, or members of a list, that are watched."""
OTHERS = (nn.Module, Optimizer, Trainer, LightningDataModule, ModuleType, FunctionType, MethodType, type)
"""What is trained, and code, is not looked into, as it leads everywhere."""
ROWS, VALUES = 16, 256
"""Of an array, evenly spaced."""
SHARE = 0.25
"""Of the rows, that must have changed each time: a run may end amid an epoch."""
ITSELF = 0.5
"""Correlation of a row with what it was, at least: one that was replaced has none."""
FEWEST = 8
"""Numbers in a row, more than which tell that it is like what it was."""
ROUNDING = 1e-5
"""Difference of two sums, over their size, that is rounding; what is only moved about keeps its sum."""


class Kept:
    """Some rows of what a data set, or a loader of a user's own, holds; nothing is read through it.

    Args:
        loader: Of training.

    Example:
        >>> x = torch.arange(40.0).view(4, 10)
        >>> kept = Kept([x])
        >>> for _ in range(2):
        ...     _ = x.mul_(0.5)
        ...     kept.look()
        >>> [(path, outcome.code) for outcome, path in kept.drifts({10})]
        [('[0]', 'drifts')]

    """

    def __init__(self, loader: Any) -> None:
        source = loader.dataset if isinstance(loader, DataLoader) else loader
        self._arrays = dict(_arrays(source))
        self._times = [self._now()]

    def look(self) -> None:
        """See what is there now."""
        if self._arrays:
            self._times.append(self._now())

    def _now(self) -> dict[str, NDArray[np.float64]]:
        return {path: _rows(array) for path, array in self._arrays.items()}

    def drifts(self, sizes: Collection[int]) -> Iterator[tuple[Outcome, str]]:
        """A `warning` if rows of the first array went on changing, from look to look, into something like themselves.

        Args:
            sizes: Numbers in a row of what enters the network; a few are not judged.

        """
        if len(self._times) < 3:  # noqa: PLR2004 - as it was, and two changes
            return
        sizes = {size for size in sizes if size > FEWEST}
        for path, array in self._arrays.items():
            times = [time[path] for time in self._times]
            if int(np.prod(array.shape[1:])) not in sizes:
                continue
            if any(rows.shape != times[0].shape for rows in times):
                continue
            changed = np.all([_goes_on(a, b) for a, b in pairwise(times)], axis=0)
            if changed.mean() >= SHARE:
                spread = max(float(times[0].std()), 1e-30)
                apart = [float(np.sqrt(((rows - times[0])[changed] ** 2).mean())) / spread for rows in times]
                yield (
                    Outcome(
                        Status.WARNING,
                        "drifts",
                        f"rows that the training data keep in {path or 'their list'} change while they are trained on, "
                        f"again in each epoch: now they are {apart[-1]:.2g} standard deviations from what they were",
                        "change a copy: x = x.clone() before +=, mul_(), div_() and the like, in the data set and in "
                        "the step: slices of a tensor are views of it",
                        {"apart": apart[-1], "looks": len(times)},
                    ),
                    path,
                )
                return


def _arrays(source: Any) -> Iterator[tuple[str, Any]]:
    """Arrays of real numbers, or bytes, with rows, that nobody trains."""
    waiting, seen, found = deque([("", source)]), set[int](), 0
    while waiting and len(seen) < OBJECTS and found < ARRAYS:
        path, value = waiting.popleft()
        if id(value) in seen or isinstance(value, OTHERS):
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            real = value.is_floating_point() or value.dtype is torch.uint8
            rows = real and value.layout is torch.strided and value.ndim > 1 and not value.requires_grad
        else:
            rows = isinstance(value, np.ndarray) and (value.dtype.kind == "f" or value.dtype == np.uint8)
            rows = rows and value.ndim > 1
        if rows and len(value):
            found += 1
            yield path, value
        elif not isinstance(value, Tensor | np.ndarray):
            inside = _inside(value)
            if isinstance(value, list | tuple):
                inside = inside[:: -(-len(inside) // ARRAYS) or 1]
            for name, child in inside:
                step = f"[{name}]" if isinstance(name, int) else f".{name}"
                waiting.append(((path + step).removeprefix("."), child))


def _inside(value: Any) -> list[tuple[Any, Any]]:
    try:
        return children(value)
    except Exception:  # noqa: BLE001 - an object that makes its attributes when they are asked for
        return []


def _rows(array: Any) -> NDArray[np.float64]:
    chosen = sorted({i * len(array) // ROWS for i in range(ROWS)})
    rows = array[chosen]
    rows = rows.detach().float().cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
    rows = rows.reshape(len(chosen), -1)
    return np.nan_to_num(rows[:, :: -(-rows.shape[1] // VALUES)].astype(np.float64))


def _goes_on(before: NDArray[np.float64], now: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows are others than they were, but like those, and not only moved about."""
    sums = abs(before.sum(1) - now.sum(1)) > ROUNDING * np.maximum(abs(before).sum(1), abs(now).sum(1))
    a, b = (rows - rows.mean(1, keepdims=True) for rows in (before, now))
    alike = (a * b).sum(1) >= ITSELF * np.sqrt((a**2).sum(1) * (b**2).sum(1))
    goes_on: NDArray[np.bool_] = sums & alike & before.any(1)
    return goes_on
