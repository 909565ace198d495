"""Rows of one series that were dealt out to training and validation one by one, so that neighbours tell each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_recipe.callbacks._overlapping import neighbours
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.trial.stored import arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightning_recipe.trial.stored import Part

ALIKE = 0.9
"""Correlation of numbers with those of the next row, of the target and of most inputs, from which on rows are steps of
a slow series: the row before then tells four fifths of the variance."""
TURNS = 0.05
"""Share of the steps at which a series goes the other way, at least: a table that is sorted does not."""
ROWS = 500
"""Without which the correlation may be chance, or that of a few classes one after another."""
WIDE = 64
"""Columns that are looked at."""
VARIED = 0.5
"""Share of the rows that have a value of their own, at least, of what is a number and no category."""


def in_between(train: list[Part], val: list[Part]) -> Outcome | None:
    """`advice` where most of validation lies beside rows of training, and these are nearly the same.

    Returns:
        None where rows are no series, or validation is a part of it by itself.

    Example:
        >>> from lightning_recipe.trial.stored import Part
        >>> steps = np.random.default_rng(0).normal(size=(1000, 4))
        >>> class Record:
        ...     __len__ = lambda self: 1000
        >>> record = Record()
        >>> for i in range(1, 1000):
        ...     steps[i] = 0.98 * steps[i - 1] + 0.2 * steps[i]
        >>> record.sensors, record.level = steps[:, 1:], steps[:, 0]
        >>> dealt = np.random.default_rng(1).permutation(1000)
        >>> in_between([Part(record, dealt[:800])], [Part(record, dealt[800:])]).code
        'between_in_time'
        >>> in_between([Part(record, range(800))], [Part(record, range(800, 1000))]) is None
        True

    """
    found = neighbours(train, val)
    if found is None or found.train is not found.val:
        return None
    stored = {name: values for name, values in arrays(found.train).items() if values.dtype.kind == "f"}
    last = int(max(np.asarray(part.indices).max() for part in (*train, *val) if part.source is found.train)) + 1
    one = [v[:last].reshape(last, -1) for v in stored.values() if len(v) >= last >= ROWS and v[0].size == 1]
    rows = [v[:last].reshape(last, -1) for v in stored.values() if len(v) >= last >= ROWS and v[0].size > 1]
    if len(one) != 1 or not rows:
        return None
    target = _series(one[0])
    inputs = _series(max(rows, key=lambda values: values.shape[1]))
    if not target or not inputs or min(target[0], float(np.median(inputs))) < ALIKE:
        return None
    return Outcome(
        Status.ADVICE,
        "between_in_time",
        f"rows of validation lie between rows of training, one by one, and are nearly the same: numbers correlate with "
        f"those of the row before, targets by {target[0]:.2f} and inputs by {np.median(inputs):.2f}",
        "split the series by time, and leave a gap, if the model is to tell what comes later; else its error is that "
        "of filling in single rows",
        {"target": target[0], "inputs": float(np.median(inputs))},
    )


def _series(values: NDArray[Any]) -> list[float]:
    """Of columns of numbers, the correlation with the next row; nothing if one is sorted, or half are no numbers.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> slow, noise = rng.normal(size=(2, 2000, 1))
        >>> [round(one, 1) for one in _series(slow.cumsum(0))], [abs(one) < 0.1 for one in _series(noise)]
        ([1.0], [True])
        >>> _series(np.sort(noise, axis=0)), _series(noise.round())
        ([], [])

    """
    columns = values[:, :: max(1, -(-values.shape[1] // WIDE))].astype(np.float64).T
    numbers = [c for c in columns if np.isfinite(c).all() and len(np.unique(c)) > VARIED * len(c)]
    if 2 * len(numbers) < len(columns):
        return []
    steps = [np.sign(np.diff(column)) for column in numbers]
    if any(float((step[1:] != step[:-1]).mean()) < TURNS for step in steps):
        return []
    return [float(np.corrcoef(column[1:], column[:-1])[0, 1]) for column in numbers]
