"""Rows of a data set that a sampler never draws."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.fabric.utilities.data import sized_len
from torch.utils.data import BatchSampler, SequentialSampler, SubsetRandomSampler

from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

SMALL = 0.5
"""Share of the rows in an epoch, at most: others must be missed in the next one."""
DISTINCT = 0.9
"""Share of the examples of an epoch that are different ones, at least: where few values are, all may come at once."""
ENOUGH = 32
"""Examples of the second epoch. Of a sampler that draws anew, all of them are in the first by chance of 0.5 to that."""


def never_drawn(
    loader: Any, batches: float, first: Sequence[NDArray[np.int64]], second: Sequence[NDArray[np.int64]]
) -> Iterator[Outcome]:
    """`advice` if an epoch draws a part of a data set, and the next one nothing but the same rows.

    A Subset, and a SubsetRandomSampler, were asked for just these; who has a ``set_epoch`` may go on to others.

    Args:
        loader: Of training.
        batches: In an epoch.
        first: A fingerprint of each example, by batch of the first epoch.
        second: The same of the second epoch, of its first batches at least.

    Example:
        >>> from torch.utils.data import DataLoader, RandomSampler, Sampler
        >>> class Own(Sampler):
        ...     def __iter__(self):
        ...         return iter(range(64))
        >>> loader, batches = DataLoader(range(1000), 16, sampler=Own()), [np.arange(16) + 16 * i for i in range(8)]
        >>> [outcome.code for outcome in never_drawn(loader, 4, batches[:4], batches[:4])]
        ['never_drawn']
        >>> [outcome.code for outcome in never_drawn(loader, 4, batches[:4], batches[4:])]
        []

    """
    sampler, rows = getattr(loader, "sampler", None), sized_len(getattr(loader, "dataset", None))
    by_batch = getattr(loader, "batch_sampler", None)
    asked = type(by_batch) is BatchSampler and isinstance(sampler, SequentialSampler | SubsetRandomSampler)
    grows = hasattr(sampler, "set_epoch") or hasattr(by_batch, "set_epoch")
    if rows is None or asked or grows or not second or not math.isfinite(batches) or len(first) != batches:
        return
    seen, again = np.concatenate(first), np.concatenate(second)
    if len(again) < ENOUGH or len(seen) > SMALL * rows or len(np.unique(seen)) < DISTINCT * len(seen):
        return
    if np.isin(again, seen).all():
        yield Outcome(
            Status.ADVICE,
            "never_drawn",
            f"the first epoch draws {len(seen)} of {rows} rows, and the second none but these, and never others?",
            "draw anew in the sampler's __iter__, from a generator that goes on; a Subset, if they are to be left out",
            {"drawn": len(seen), "rows": rows},
        )
