"""Inputs of validation that were scaled by themselves, or together with training: by what ``fit`` has seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_recipe.callbacks._near_copies import gathered, largest_input
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightning_recipe.trial.stored import Part

FEW = 20
"""Examples of either side, at least."""
EXACT = 1e-4
"""How little a mean may differ from 0, and a variance from 1, in standard deviations. Of 1,000 examples that others
were standardised with, a mean differs by 0.03, and one in 400 columns by less than this; in both, one in 200,000."""
BOUND = 1e-6
"""How little a lowest or highest value may differ from 0 or 1: by rounding."""
DISTINCT = 0.9
"""Different values of a column, of its examples, from which on it has no grid, and meets its bounds once."""
ROUNDED, MOST = 0.01, 0.5
"""How little mean and variance of an example differ from 0 and 1 if it was scaled by itself, and how many were."""
DRAWN = 2000
"""Examples that are looked at one by one, at most."""
COLUMNS = 3
"""Columns scaled together, at least: one or two may be what has bounds by itself, such as a rank."""
VALUES = 2**26
"""Numbers that are read, at most: a fifth of a second."""


def scaled_apart(train: list[Part], val: list[Part]) -> Outcome | None:
    """Look for a mean of exactly 0 and a variance of exactly 1, of each column or of all numbers.

    On either side, or of each column of both together and not of training alone. Or for columns from 0 to 1, as the
    latter.

    `advice`, since what is right for one side may be meant for each, as for a subject or a recording, and since what
    validation tells of two numbers is little.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from lightning_recipe.trial.stored import Part
        >>> def part(x):
        ...     return [Part(TensorDataset(x, torch.zeros(len(x))), range(len(x)))]
        >>> one, other = torch.rand(400, 3), 5 + torch.rand(200, 3)
        >>> (mean, std), own = (one.mean(0), one.std(0)), (other - other.mean(0)) / other.std(0)
        >>> scaled_apart(part((one - mean) / std), part(own)).code
        'scaled_apart'
        >>> scaled_apart(part((one - mean) / std), part((other - mean) / std))
        >>> both = torch.cat([one, other])
        >>> one, other = ((side - both.mean(0)) / both.std(0) for side in (one, other))
        >>> scaled_apart(part(one), part(other)).code
        'scaled_together'

    """
    one, other = gathered(train), gathered(val)
    name = largest_input(one, other)
    if name is None or min(len(one[name]), len(other[name])) < FEW or one[name].size + other[name].size > VALUES:
        return None
    if one[name].dtype.kind != "f" or _by_example(one[name][:DRAWN]):
        return None
    counts = {"training": float(len(one[name])), "validation": float(len(other[name]))}
    of_train, of_val = _moments(one[name]), _moments(other[name])
    if not any(map(_exactly, of_train)):
        return _together(name, _told(one[name], other[name], of_train, of_val), counts)
    if not any(map(_exactly, of_val)):
        return None
    return Outcome(
        Status.ADVICE,
        "scaled_apart",
        f"`{name}` of training has a mean of exactly 0 and a standard deviation of exactly 1, and so has that of "
        "validation: each was standardised by itself, and the same value enters as two different numbers",
        "scaler.transform(...) in place of fit_transform for validation: mean and standard deviation of training for "
        "both; nothing if each subject or recording is meant to be scaled by itself",
        counts,
    )


def _by_example(values: NDArray[Any]) -> bool:
    """Whether most examples have a mean of 0 and a variance of 1 of their own, and so have all together."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    return bool(((np.abs(rows.mean(1)) < ROUNDED) & (np.abs(rows.var(1) - 1) < ROUNDED)).mean() > MOST)


def _told(train: NDArray[Any], val: NDArray[Any], of_train: list[_Moments], of_val: list[_Moments]) -> str:
    """What is exact of both together, and not of training; nothing if that is not so."""
    if train.ndim != 2 or train.shape[1:] != val.shape[1:]:  # noqa: PLR2004 - one mean of all pixels tells hardly anything
        return ""
    together = _joined(of_train[0], of_val[0])
    if (together[2] > 0).sum() >= COLUMNS and _exactly(together):
        return "a mean of exactly 0 and a standard deviation of exactly 1 in each column"
    return "columns from exactly 0 to exactly 1" if _to_range(train, val) else ""


def _together(name: str, told: str, counts: dict[str, float]) -> Outcome | None:
    if not told:
        return None
    return Outcome(
        Status.ADVICE,
        "scaled_together",
        f"`{name}` of training and validation together has {told}, and that of training alone has not: the scaler was "
        "fitted on both, and has seen what is to be held out",
        "scaler.fit(...) on training, after the split, and transform for both",
        counts,
    )


def _to_range(train: NDArray[Any], val: NDArray[Any]) -> bool:
    """Whether each column of numbers without a grid goes from 0 to 1, meets either once, and in validation at times."""
    low, high = train.min(0), train.max(0)
    spanned = (np.abs(np.minimum(low, val.min(0))) < BOUND) & (np.abs(np.maximum(high, val.max(0)) - 1) < BOUND)
    missed = (low > BOUND) | (high < 1 - BOUND)
    if spanned.sum() < COLUMNS or not (missed & spanned).any():
        return False
    some = train[:DRAWN]
    continuous = np.array([len(np.unique(column)) >= DISTINCT * len(some) for column in some.T])
    if continuous.sum() < COLUMNS or not spanned[continuous].all() or not missed[continuous].any():
        return False
    sides = train[:, continuous], val[:, continuous]
    ends = (sum((np.abs(side - end) < BOUND).sum(0) for side in sides) for end in (0, 1))
    return all(bool((count == 1).all()) for count in ends)


_Moments = tuple[int, "NDArray[np.float64]", "NDArray[np.float64]"]  # how many, mean, variance


def _moments(values: NDArray[Any]) -> list[_Moments]:
    """Of each column of a table, and of all numbers together."""
    table = values.reshape(len(values), -1).astype(np.float64)
    whole = table.reshape(-1, 1)
    return [(len(of), of.mean(0), of.var(0)) for of in ([table, whole] if values.ndim == 2 else [whole])]  # noqa: PLR2004


def _joined(one: _Moments, other: _Moments) -> _Moments:
    (n, mean, variance), (m, its_mean, its_variance) = one, other
    apart = its_mean - mean
    squares = variance * n + its_variance * m + apart**2 * n * m / (n + m)
    return n + m, mean + apart * m / (n + m), squares / (n + m)


def _exactly(moments: _Moments) -> bool:
    """Whether each column is standardised, but for constant ones."""
    count, mean, variance = moments
    varied = variance > 0
    by_count = np.abs(variance - 1) < EXACT
    unbiased = np.abs(variance * count / max(1, count - 1) - 1) < EXACT
    return bool(varied.any()) and bool((~varied | ((np.abs(mean) < EXACT) & (by_count | unbiased))).all())
