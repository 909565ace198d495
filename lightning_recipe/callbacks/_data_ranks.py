"""What all ranks have seen of the data, put together: each is given a share of the examples."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import DistributedSampler

from lightning_recipe.callbacks._data_counted import Counted
from lightning_recipe.callbacks._data_verdict import Examples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lightning_recipe.callbacks._data_seen import Range, Seen

ROWS = 2**10
"""Rows of a table that ranks tell each other, in all."""


@dataclass(frozen=True)
class Share:
    """What a rank has seen of the first epoch.

    Attributes:
        examples: Those that were looked at.
        ranges: Of each entry, by path.
        rows: Of tables, some rows, by path.
        apart: Whether a batch held anything besides rows of its examples.
        whole: Whether all examples of the epoch were looked at.
        dealt: Whether no other rank is given the same examples: each index goes to one of them.
        counted: How targets and lengths are distributed.

    """

    examples: Examples
    ranges: dict[str, Range] = field(default_factory=dict)
    rows: dict[str, NDArray[Any]] = field(default_factory=dict)
    apart: bool = False
    whole: bool = False
    dealt: bool = True
    counted: Counted = field(default_factory=Counted)

    def bounded(self, most: int, ranks: int) -> Share:
        """At most so many examples of it, to be told to others.

        Example:
            >>> x = np.arange(4)
            >>> share = Share(Examples(x, x, x, x > 0), whole=True).bounded(3, 2)
            >>> share.examples.inputs.tolist(), share.whole
            ([0, 1, 2], False)

        """
        rows = {path: values[: -(-ROWS // ranks)] for path, values in self.rows.items()}
        whole = self.whole and len(self.examples.inputs) <= most
        return replace(self, examples=first(self.examples, most), rows=rows, whole=whole)


def share_of(examples: Examples, seen: Seen, counted: Counted, loaders: Sequence[Any], *, whole: bool) -> Share:
    """What this rank has seen, but for the example that another has, too, so that all have as many."""
    loader = loaders[0] if loaders else None
    if whole and (own := drawn_by_one(loader)) is not None:
        examples = first(examples, own)
    rows = {path: np.concatenate(parts) for path, parts in seen.rows.items()}
    return Share(examples, seen.ranges, rows, seen.apart, whole, is_dealt(loader), counted)


def together(shares: Sequence[Share]) -> Share:
    """Those of all ranks as one.

    Example:
        >>> x = np.arange(4)
        >>> share = Share(Examples(x, x % 2, x, x > 0), whole=True)
        >>> both = together([share, Share(Examples(x + 4, None, x, x > 0))])
        >>> both.examples.inputs.tolist(), both.examples.labels, both.whole
        ([0, 1, 2, 3, 4, 5, 6, 7], None, False)

    """
    if len(shares) == 1:
        return shares[0]
    parts = [share.examples for share in shares if len(share.examples.inputs)] or [shares[0].examples]
    labels = [part.labels for part in parts if part.labels is not None]
    numbers = [part.numbers for part in parts if part.numbers is not None]
    examples = Examples(
        np.concatenate([part.inputs for part in parts]),
        np.concatenate(labels) if len(labels) == len(parts) else None,
        np.concatenate([part.batch for part in parts]),
        np.concatenate([part.rich for part in parts]),
        np.concatenate(numbers) if len(numbers) == len(parts) else None,
    )
    ranges, rows, counted = dict[str, "Range"](), dict[str, list[Any]](), Counted()
    for share in shares:
        counted.add(copy.deepcopy(share.counted))
        for path, seen in share.ranges.items():
            if path not in ranges:
                ranges[path] = copy.deepcopy(seen)
            elif ranges[path].mean.shape == seen.mean.shape:
                ranges[path].add(seen)
        for path, values in share.rows.items():
            rows.setdefault(path, []).append(values)
    alike = {path: np.concatenate(some) for path, some in rows.items() if len({one.shape[1] for one in some}) == 1}
    return Share(
        examples,
        ranges,
        alike,
        any(share.apart for share in shares),
        all(share.whole for share in shares),
        all(share.dealt for share in shares),
        counted,
    )


def first(examples: Examples, count: int) -> Examples:
    """The first of them."""
    labels = None if examples.labels is None else examples.labels[:count]
    numbers = None if examples.numbers is None else examples.numbers[:count]
    return Examples(examples.inputs[:count], labels, examples.batch[:count], examples.rich[:count], numbers)


def is_dealt(loader: Any) -> bool:
    """Whether its sampler deals out each index to one rank."""
    return type(getattr(loader, "sampler", None)) is DistributedSampler


def drawn_by_one(loader: Any) -> int | None:
    """How many examples of an epoch a rank draws that no other rank has; None where nobody knows.

    A ``DistributedSampler`` begins again where some ranks would have one example less.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> samplers = [DistributedSampler(range(5), 2, rank) for rank in (0, 1)]
        >>> [drawn_by_one(DataLoader(range(5), sampler=sampler)) for sampler in samplers], drawn_by_one(DataLoader([0]))
        ([3, 2], None)

    """
    if not is_dealt(loader):
        return None
    sampler = loader.sampler
    return min(int(sampler.num_samples), len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas)))
