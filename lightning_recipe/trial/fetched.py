"""Which examples a DataLoader fetches, whatever its sampler: their indices are noted as they pass."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.utils.data import IterableDataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter, _SingleProcessDataLoaderIter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SPARE = 8
"""Batches noted beyond those that workers fetch ahead: Lightning asks for one or two before it runs their step."""


class Fetched:
    """The indices of batches, handed on as they come, when they are asked for: nothing is drawn earlier or twice.

    Args:
        indices: The batches of a sampler.
        first: The number of the batch that comes next.

    Example:
        >>> fetched = Fetched(iter([[3, 1], [2]]), first=4)
        >>> list(fetched), fetched.of(4), fetched.of(6)
        ([[3, 1], [2]], (3, 1), None)

    """

    def __init__(self, indices: Iterator[Any], first: int) -> None:
        self._indices, self._next = indices, first
        self._noted: deque[tuple[int, Sequence[Any] | None]] = deque(maxlen=first + SPARE)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        batch = next(self._indices)
        known = isinstance(batch, (list, tuple, Tensor, np.ndarray))  # what may be gone through twice
        self._noted.append((self._next, tuple(batch) if known else None))
        self._next += 1
        return batch

    def of(self, batch: int) -> Sequence[Any] | None:
        """The indices of a batch; None if they were not seen, or are forgotten."""
        return next((indices for number, indices in self._noted if number == batch), None)


def noted(loader: Any, iterator: Any) -> Fetched | None:
    """Note what an iterator of a DataLoader fetches from here on.

    Args:
        loader: The DataLoader.
        iterator: One that has just begun. Workers have been sent their first batches already, two for each by default.

    Returns:
        None of streams, of data sets that make batches themselves, and of iterators that are not PyTorch's own.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> loader = DataLoader([10, 20, 30], 2, sampler=[2, 0, 1])
        >>> iterator = iter(loader)
        >>> fetched = noted(loader, iterator)
        >>> list(iterator), fetched.of(0)
        ([tensor([30, 10]), tensor([20])], (2, 0))

    """
    if type(iterator) is _SingleProcessDataLoaderIter:
        first = iterator._num_yielded  # noqa: SLF001 - there is no public one
    elif type(iterator) is _MultiProcessingDataLoaderIter and getattr(loader, "in_order", True):
        first = iterator._send_idx  # noqa: SLF001
    else:
        return None
    if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
        return None
    iterator._sampler_iter = fetched = Fetched(iterator._sampler_iter, first)  # noqa: SLF001 - this iterator's alone
    return fetched
