"""Whether the values of a column are means of labels, for each category that of its examples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

GROUPS = 30
"""Values of a column that several examples have, with different labels, at least."""
EXACT = 1e-3
"""What is left of a column where the labels explain it, over what is left without them: rounding."""
ROUNDING = 1e-5
"""Of a column, in its standard deviations, that is explained without labels, as by sizes that are all the same."""
SOMEWHAT = 0.3
"""Correlation of the values with the means of their labels, however they are smoothed, at least."""
ENOUGH, SIZES = 2000, 24
"""Values that are compared with their labels, evenly spaced, and of how many sizes each by itself."""
MOST = 0.8
"""Share of the values that are the means of their labels, at least: two categories may have the same."""
LARGEST = 12
"""Examples of a category up to which several have the same mean of labels of two classes."""
SHARES, GOES_WITH = 5, 0.8
"""Different shares of a class, at least, and their correlation with the values."""
BITS = 20.0
"""Of evidence, to the base 2, that shares are those of few examples: 23 to 47 where they were, below -10 elsewhere."""
FEW = 0.9
"""Values that are means of so few examples, where categories are small."""
OWN = 0.1
"""Part of a mean that is the label of an example itself, on average, from which on the mean gives it away."""


class Groups(NamedTuple):
    """The examples with the same value, one entry for each value.

    Attributes:
        value: Of the column.
        size: Examples.
        total: The sum of their labels.
        spread: The variance of their labels, over that of all.
        prior: The mean of all labels.

    """

    value: NDArray[np.float64]
    size: NDArray[np.float64]
    total: NDArray[np.float64]
    spread: NDArray[np.float64]
    prior: float

    @property
    def goes_with_means(self) -> float:
        """How the values correlate with the means of their labels, in either direction."""
        mean = self.total / self.size
        return float(abs(np.corrcoef(self.value, mean)[0, 1])) if mean.std() > 0 else 0.0


class Column:
    """A column of a table, by its values.

    Args:
        x: The column, with that of training first.
        split: Where it ends.

    Example:
        >>> column = Column(np.repeat(np.arange(40) % 7 * 1.0, 5), 120)
        >>> column.grouped(np.arange(200.0)).size.tolist()
        [30.0, 30.0, 30.0, 30.0, 30.0, 25.0, 25.0]

    """

    def __init__(self, x: NDArray[Any], split: int) -> None:
        self.values, self.which, count = np.unique(x, return_inverse=True, return_counts=True)
        trained = np.bincount(self.which[:split], minlength=len(self.values))
        self.split = split
        self.on_both = (trained > 0) & (trained < count)
        self.repeated = bool(max((trained > 1).sum(), self.on_both.sum()) >= SHARES)
        self.own_part = float((trained > 0).sum()) / split  # of the mean of a group, on average over training

    def grouped(self, y: NDArray[np.float64], *, training_alone: bool = False) -> Groups | None:
        """Those with examples on both sides, or in training, and labels that differ; None if there are few."""
        rows = slice(self.split if training_alone else None)
        which, y = self.which[rows], y[rows]
        count = np.bincount(which, minlength=len(self.values))
        kept = (count > 1) if training_alone else self.on_both
        total = np.bincount(which, y, len(count))
        squares = np.bincount(which, (y - y.mean()) ** 2, len(count))
        within = squares - (total - count * y.mean()) ** 2 / np.maximum(count, 1)
        kept &= (within > 1e-6 * y.var()) & np.isfinite(self.values)
        if kept.sum() < SHARES:
            return None
        value, sums, sizes = (one[kept].astype(np.float64) for one in (self.values, total, count))
        return Groups(value, sizes, sums, within[kept] / sizes / y.var(), float(y.mean()))


def are_means(found: Groups) -> bool:
    """Whether values are a + b (s - n p) / (n + c), with any a, b and c, of sums s of n labels with a mean p.

    That is linear in all three once both sides are multiplied by n + c. Or c is the variance of the group's labels over
    that of all, as scikit-learn has it, or the mean counts for more by any rule as a group is larger.
    """
    if len(found.size) < GROUPS:
        return False
    if found.goes_with_means < SOMEWHAT:
        return False
    each = slice(None, None, -(-len(found.size) // ENOUGH))
    v, n, above = found.value[each], found.size[each], (found.total - found.size * found.prior)[each]
    v, ones, by_spread = (v - v.mean()) / (v.std() + 1e-12), np.ones_like(n), n + found.spread[each]
    sizes = np.unique(n)
    equations = [
        (np.stack([n, ones, v], 1), above[:, None], v * n),
        (by_spread[:, None], above[:, None], v * by_spread),
        (ones[:, None], (above / n)[:, None], v),
    ]
    if len(sizes) <= min(SIZES, len(n) / SHARES):
        equations.append((ones[:, None], (above / n)[:, None] * (n[:, None] == sizes), v))
    return any(_explains(*equation) for equation in equations)


def _explains(known: NDArray[np.float64], by_labels: NDArray[np.float64], wanted: NDArray[np.float64]) -> bool:
    """Whether what the labels say explains to the last digit what the rest does not."""

    def left(columns: NDArray[np.float64]) -> NDArray[np.float64]:
        rows = np.ones(len(wanted), dtype=bool)
        for _ in range(5):  # then without those that are several categories
            rest = np.abs(columns @ np.linalg.lstsq(columns[rows], wanted[rows], rcond=None)[0] - wanted)
            rows = rest <= np.quantile(rest, MOST)
        return rest

    apart = float(np.median(left(known)))
    if apart < ROUNDING * wanted.std():
        return False
    return bool(np.quantile(left(np.concatenate([known, by_labels], 1)), MOST) < EXACT * apart)


def are_means_of_few(found: Groups, y: NDArray[np.float64]) -> bool:
    """Whether shares of a class are mostly those of few examples, as where many categories have the same value.

    Values go with the shares, and these differ: in data that were balanced they are all one half.
    """
    if len(np.unique(found.total / found.size)) < SHARES or found.goes_with_means < GOES_WITH:
        return False
    positive = np.rint((found.total - found.size * y.min()) / (y.max() - y.min())).astype(int)
    bits = 0.0
    for n, k in zip(found.size.astype(int), positive, strict=True):
        if n <= LARGEST:
            continue
        by_chance = np.mean(n // np.gcd(n, np.arange(1, n)) <= LARGEST)
        of_few = n // math.gcd(n, k) <= LARGEST
        bits += math.log2(FEW / by_chance) if of_few else math.log2((1 - FEW) / (1 - by_chance))
    return bits >= BITS
