"""Columns that were made from the labels: for each category the mean of its labels, those of validation included."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lightning_recipe.callbacks._near_copies import gathered
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightning_recipe.trial.stored import Part

COLUMNS, ROWS = 16, 200_000
"""Of a table that are looked at, at most."""
GROUPS = 30
"""Values of a column that examples of both sides have, with different labels, at least."""
EXACT = 1e-3
"""What is left of a column where the labels explain it, over what is left without them: rounding."""
MOST = 0.8
"""Share of the values that are the means of their labels, at least: two categories may have the same."""
LARGEST = 12
"""Examples of a category up to which several have the same mean of labels of two classes."""
SHARES, GOES_WITH = 5, 0.8
"""Different shares of a class, at least, and their correlation with the values."""
BITS = 40.0
"""Of the numbers of labels that values can have, to the base 2: from here on none are means of so few by chance."""
REPEATED = 0.9
"""Values of a column, for each example, up to which they are those of categories."""
SHARED = 0.2
"""Share of the values of validation that training has, too, from which on both were scaled alike."""
APART, NEAR = 0.1, 2e-5
"""How far values may be apart that were standardised by other examples, in standard deviations; and rounding."""
TRIES, SOME, CLOSEST = 8, 200, 80
"""Pairs of values of validation that are tried, with how many of training each, and how many are then compared."""


class Groups(NamedTuple):
    """The examples with the same value, one entry for each value.

    Attributes:
        value: Of the column.
        size: Examples.
        total: The sum of their labels.

    """

    value: NDArray[np.float64]
    size: NDArray[np.float64]
    total: NDArray[np.float64]


def target_encoded(train: list[Part], val: list[Part]) -> Outcome | None:
    """A `warning` for a column of which each value is the mean of the labels of all examples with it, on both sides.

    The mean may be drawn to that of all labels, as by smoothing, and scaled. Means over training alone, or over other
    folds, are what target encoding should be, and not what is found.

    Args:
        train: What training draws.
        val: What validation draws.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from lightning_recipe.trial.stored import Part
        >>> rng = np.random.default_rng(0)
        >>> street, price = rng.integers(0, 200, 800), rng.normal(size=800)
        >>> code = np.bincount(street, price)[street] / np.bincount(street)[street]
        >>> data = TensorDataset(torch.tensor(code)[:, None], torch.tensor(price))
        >>> target_encoded([Part(data, range(600))], [Part(data, range(600, 800))]).code
        'labels_in_column'

    """
    one, other = gathered(train), gathered(val)
    names = [name for name in one if name in other and len(one[name]) + len(other[name]) <= ROWS]
    labels = [name for name in names if one[name].ndim == 1 and one[name].dtype.kind in "fiub"]
    tables = [name for name in names if one[name].ndim == 2 and one[name].dtype.kind == "f"]  # noqa: PLR2004
    if not labels:
        return None
    for name in tables:
        for column in range(min(COLUMNS, one[name].shape[1])):
            x = aligned(one[name][:, column], other[name][:, column])
            for target in labels:
                y = np.concatenate([one[target], other[target]]).astype(np.float64)
                if y.std() > 0 and np.isfinite(y).all() and _is_made_of(x, y, len(one[name])):
                    return _told(name, column, target)
    return None


def aligned(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """A column of both sides, as one: where these have no values in common, each may have been standardised by itself.

    Then a scale and a shift, by which two values of the one become two of the other, bring many together.

    Example:
        >>> codes = np.random.default_rng(0).normal(size=400)[np.arange(1200) % 400]
        >>> one, other = codes[:900], (codes[900:] - 0.1) / 0.9
        >>> bool(np.isin(aligned(one, other)[900:], aligned(one, other)[:900]).all())
        True

    """
    a, b = np.unique(one), np.unique(other)
    shared = min(len(a), len(b)) < GROUPS or len(a) > REPEATED * len(one) or np.isin(b, a).mean() > SHARED
    if shared or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return np.concatenate([one, other]).astype(np.float64)
    x, y = ((side.astype(np.float64) - side.mean()) / side.std() for side in (one, other))
    a, b = np.unique(x), np.unique(y)
    some, tried = b[:: max(1, len(b) // SOME)], np.linspace(0.1, 0.3, TRIES)
    best, scale, shift = SHARED, 1.0, 0.0
    for low, high in zip(
        np.quantile(b, tried, method="nearest"), np.quantile(b, 1 - tried, method="nearest"), strict=True
    ):
        for mine, last in product(_around(a, low), _around(a, high)):
            by = (last - mine) / (high - low)
            met = float((_nearest(a, by * (some - low) + mine)[1] < NEAR).mean())
            if met > best:
                best, scale, shift = met, by, mine - by * low
        if best > SHARED:
            break
    moved = scale * y + shift
    at, apart = _nearest(a, moved)
    return np.concatenate([x, np.where(apart < NEAR, a[at], moved)])


def _around(known: NDArray[np.float64], value: float) -> NDArray[np.float64]:
    """The values that may be this one, the nearest of them, so that no column takes a second."""
    near = known[np.abs(known - value) < APART]
    return near[np.argsort(np.abs(near - value))[:CLOSEST]]


def _nearest(known: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The place of the nearest of some sorted numbers, and how far it is away."""
    at = np.searchsorted(known, values).clip(1, len(known) - 1)
    at = at - (np.abs(known[at - 1] - values) < np.abs(known[at] - values))
    return at, np.abs(known[at] - values)


def _is_made_of(x: NDArray[Any], y: NDArray[np.float64], split: int) -> bool:
    """Whether a column is made of the labels of all examples, of which the first are those of training."""
    found = _grouped(x, y, split)
    if found is None:
        return False
    return _are_means(found, float(y.mean())) or (len(np.unique(y)) == 2 and _are_means_of_few(found, y))  # noqa: PLR2004


def _grouped(x: NDArray[Any], y: NDArray[np.float64], split: int) -> Groups | None:
    """Those with examples on both sides, and labels that differ; None if there are few."""
    values, which, count = np.unique(x, return_inverse=True, return_counts=True)
    trained = np.bincount(which[:split], minlength=len(values))
    total, squares = np.bincount(which, y), np.bincount(which, (y - y.mean()) ** 2)
    differ = squares - (total - count * y.mean()) ** 2 / count > 1e-6 * y.var()
    kept = (trained > 0) & (trained < count) & differ & np.isfinite(values)
    if kept.sum() < SHARES:
        return None
    return Groups(values[kept].astype(np.float64), count[kept].astype(np.float64), total[kept])


def _are_means(found: Groups, prior: float) -> bool:
    """Whether values are a + b (s - n p) / (n + c), with any a, b and c, of sums s of n labels with a mean p.

    That is linear in all three once both sides are multiplied by n + c.
    """
    v, n = (found.value - found.value.mean()) / (found.value.std() + 1e-12), found.size
    if len(v) < GROUPS:
        return False
    above = found.total - n * prior
    smoothed = np.stack([n, np.ones_like(n), v, above], 1), v * n
    plain = np.stack([np.ones_like(n), above / n], 1), v
    return any(_explains(*equation) for equation in (smoothed, plain))


def _explains(known: NDArray[np.float64], wanted: NDArray[np.float64]) -> bool:
    """Whether the last column of what is known explains to the last digit what the others do not."""

    def left(columns: NDArray[np.float64], rows: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.abs(columns @ np.linalg.lstsq(columns[rows], wanted[rows], rcond=None)[0] - wanted)

    rows = np.ones(len(wanted), dtype=bool)
    for _ in range(4):  # without those that are several categories
        rest = left(known, rows)
        rows = rest <= np.quantile(rest, MOST)
    without = left(known[:, :-1], np.ones_like(rows))
    return bool(np.quantile(left(known, rows), MOST) < EXACT * np.median(without))


def _are_means_of_few(found: Groups, y: NDArray[np.float64]) -> bool:
    """Whether in each group the share of a class is that of a few examples, as where many categories have the same.

    Values go with the shares, and these differ: in data that were balanced they are all one half.
    """
    share = found.total / found.size
    if len(np.unique(share)) < SHARES or abs(np.corrcoef(found.value, share)[0, 1]) < GOES_WITH:
        return False
    positive = np.rint((found.total - found.size * y.min()) / (y.max() - y.min())).astype(int)
    bits = 0.0
    for n, k in zip(found.size.astype(int), positive, strict=True):
        if n // math.gcd(n, k) > LARGEST:
            return False
        bits -= math.log2(sum(n // math.gcd(n, other) <= LARGEST for other in range(1, n)) / (n - 1))
    return bits >= BITS


def _told(name: str, column: int, target: str) -> Outcome:
    return Outcome(
        Status.WARNING,
        "labels_in_column",
        f"column {column} of `{name}` is made of `{target}`: each of its values is the mean of the labels of all "
        "examples with it, those of validation included",
        "compute it from training alone, and for training from the other folds; validation gets the means of training",
        {"column": column},
    )
