"""Validation examples of which training holds slightly changed copies, as after augmenting before the split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_recipe.callbacks._matches import Match, OfMatches, place, some
from lightning_recipe.finding import Status
from lightning_recipe.trial.stored import Part, arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROBES = 128
"""Validation examples whose nearest neighbours are looked for."""
ROWS = 2**17
"""Training examples among which, at most."""
VALUES = 2**23
"""Numbers of training that are compared, at most; of larger examples fewer, evenly spaced."""
WIDE = 256
"""Numbers of an example, at most."""
FEWEST = 8
"""Numbers without which neighbours may be near by chance."""
VARIED = 16
"""Different values of a number among the validation examples, without which it is a category."""
COPIES = 8
"""Copies of an example in training, at most; larger groups are classes."""
GAP = 4.0
"""How much further the next example is than the last copy. Places on a line, equally spaced, are 3 apart at most; at
random, 30 % are further; what has more dimensions, fewer."""
NEAR = 0.25
"""Distance of a copy, over the median distance of any example."""
MOST = 0.5
"""Validation examples that have copies, from which on it is no chance."""
RARE = 0.01
"""Share of training, at most, that has the target of an example."""
DISTINCT = 100
"""Different targets, at least."""
AGREE = 0.9
"""Copies that have the same class."""
FIX = "split before you augment or oversample, and keep the copies, frames and views of one example on one side"


def near_copies(train: list[Part], val: list[Part]) -> OfMatches | None:
    """Look for copies among what data sets store, as arrays of numbers.

    Returns:
        None if most of validation has none, or there are no such arrays.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(200, 1, 12)) + 0.01 * rng.normal(size=(200, 4, 12))  # four copies each
        >>> rows, order = list(x.reshape(800, 12)), rng.permutation(800)
        >>> class Data:
        ...     x = None
        ...     __len__ = lambda self: 800
        >>> data = Data()
        >>> data.x = np.stack(rows)
        >>> near_copies([Part(data, order[:600])], [Part(data, order[600:])]).status
        <Status.WARNING: 'warning'>

    """
    if not are_compared(train, val):
        return None
    one, other = gathered(train), gathered(val)
    name = largest_input(one, other)
    if name is None:
        return None
    chosen = np.linspace(0, len(other[name]) - 1, min(PROBES, len(other[name]))).astype(int)
    rows = comparable(one[name], other[name][chosen])
    if rows is None:
        return None
    near, apart, median = nearest(*rows)
    count = of_a_class(before_a_gap(apart, median), near, one, other, chosen)
    told = f"a slightly changed copy in training, at least {GAP:g}x nearer than any other example"
    if (count > 0).mean() < MOST:
        count = _with_one_number(near[:, 0], one, other, chosen)
        told = "one and the same number to predict as the training example that is most like them, to the last digit"
    share = float((count > 0).mean())
    if share < MOST:
        return None
    matches = [Match(place(train, near[i, 0]), place(val, chosen[i])) for i in some(np.flatnonzero(count))]
    return OfMatches(
        Status.WARNING,
        "near_copies",
        f"{share:.0%} of {len(chosen)} validation examples have {told} (for example validation "
        f"{matches[0].val.index} has training {matches[0].train.index})",
        FIX,
        {"share": share, "copies": float(np.median(count[count > 0]))},
        tuple(matches),
    )


def are_compared(train: list[Part], val: list[Part]) -> bool:
    """Whether there are enough examples of validation, and not too many of training."""
    size, held_out = (sum(len(part.indices) for part in parts) for parts in (train, val))
    return 0 < size <= ROWS and held_out >= PROBES // 4


def are_stored(parts: list[Part]) -> bool:
    """Whether data sets keep their examples as arrays of several numbers each."""
    return any(
        isinstance(array, np.ndarray) and array.ndim > 1 and array.dtype.kind in "fiu"
        for part in parts
        for array in arrays(part.source).values()
    )


def gathered(parts: list[Part]) -> dict[str, NDArray[Any]]:
    """Arrays of what is stored, of all parts, by name."""
    each = [{name: values[np.asarray(part.indices)] for name, values in arrays(part.source).items()} for part in parts]
    shapes = {name: [one[name].shape[1:] for one in each if name in one] for name in each[0]}
    same = [name for name, of in shapes.items() if len(of) == len(each) and len(set(of)) == 1]
    return {name: np.concatenate([one[name] for one in each]) if len(each) > 1 else each[0][name] for name in same}


def largest_input(one: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]]) -> str | None:
    """The name of the array of inputs, of training and of validation, that has most numbers for each example."""
    inputs = [name for name in one.keys() & other.keys() if _is_input(one[name], other[name])]
    return max(inputs, key=lambda name: one[name][0].size, default=None)


def _is_input(one: NDArray[Any], other: NDArray[Any]) -> bool:
    numbers = one.dtype.kind == "f" or one.dtype == np.uint8
    return numbers and one.dtype == other.dtype and one.ndim > 1 and one.shape[1:] == other.shape[1:]


def comparable(one: NDArray[Any], other: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Some numbers of each example, those that vary, standardised."""
    a, b = one.reshape(len(one), -1), other.reshape(len(other), -1)
    kept = varied(b, max(FEWEST, min(WIDE, VALUES // len(a))))
    if len(kept) < FEWEST:
        return None
    a, b = a[:, kept].astype(np.float32), b[:, kept].astype(np.float32)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    mean, std = a.mean(0), (a.std(0) if one.ndim == 2 else a.std()) + 1e-12  # noqa: PLR2004 - pixels have one unit
    return (a - mean) / std, (b - mean) / std


def varied(rows: NDArray[Any], wide: int) -> NDArray[np.int64]:
    """Columns that are no categories, evenly spaced, so many at most.

    Example:
        >>> varied(np.stack([np.arange(128), np.arange(128) % 2], axis=1), 8)
        array([0])

    """
    columns = np.arange(0, rows.shape[1], max(1, rows.shape[1] // (4 * wide)))
    columns = columns[[len(np.unique(rows[:, i])) >= VARIED for i in columns]]
    return columns[:: max(1, len(columns) // wide)][:wide]


def nearest(
    train: NDArray[np.float32], val: NDArray[np.float32], count: int = COPIES + 1
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Of each validation example the nearest of training, their distances, in order, and the median distance of all."""
    squares = (val**2).sum(1)[:, None] + (train**2).sum(1) - 2 * val @ train.T
    size = min(count, len(train))
    found = np.argpartition(squares, size - 1, axis=1)[:, :size]
    exact = np.linalg.norm(train[found].astype(float) - val[:, None].astype(float), axis=2)  # without cancellation
    order = np.argsort(exact, axis=1)
    median = np.sqrt(np.median(squares, axis=1).clip(0))
    return np.take_along_axis(found, order, 1), np.take_along_axis(exact, order, 1), median


def before_a_gap(apart: NDArray[np.float64], median: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many copies each example has: as many as lie before the first gap; none of what is the same.

    Example:
        >>> before_a_gap(np.array([[0.1, 0.1, 2.0], [1.0, 1.5, 2.0], [0.0, 0.0, 2.0]]), np.array([4.0, 4.0, 4.0]))
        array([2, 0, 0])

    """
    gap = (apart[:, 1:] >= GAP * apart[:, :-1]) & (apart[:, :-1] <= NEAR * median[:, None]) & (apart[:, :-1] > 0)
    return np.where(gap.any(1) & (apart[:, 0] > 0), gap.argmax(1) + 1, 0)


def _with_one_number(
    near: NDArray[np.int64], one: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]], chosen: NDArray[np.int64]
) -> NDArray[np.int64]:
    """How many examples of training have the target of each, if the one that is most like it has.

    Asked of targets that may be any number, which two examples do not have in common by chance; and where there is but
    one number for each example, since others are none to predict.
    """
    numbers = [name for name in one.keys() & other.keys() if one[name].dtype.kind == "f" and one[name][0].size == 1]
    if len(numbers) == 1 and other[numbers[0]][0].size == 1:
        a, b = one[numbers[0]].ravel(), other[numbers[0]].ravel()[chosen]
        held = (a == b[:, None]).sum(1)
        if _are_any_numbers(a) and held.mean() <= RARE * len(a):
            return np.where(a[near] == b, held, 0)
    return np.zeros(len(chosen), np.int64)


def _are_any_numbers(values: NDArray[Any]) -> bool:
    """Whether numbers are on no grid, as counts, ratings and prices are.

    Example:
        >>> x = np.random.default_rng(0).normal(size=500)
        >>> _are_any_numbers(x), _are_any_numbers(x.round(1)), _are_any_numbers(np.arange(500) / 3)
        (True, False, False)

    """
    distinct = np.unique(values)
    gaps = np.diff(distinct)
    steps = np.unique((gaps / max(float(np.median(gaps)), 1e-12) * 1e3).round()) if len(gaps) else gaps
    return len(distinct) >= DISTINCT and len(steps) > len(gaps) / 2


def of_a_class(
    count: NDArray[np.int64],
    near: NDArray[np.int64],
    one: dict[str, NDArray[Any]],
    other: dict[str, NDArray[Any]],
    chosen: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Copies that share their class, by each array of classes, where they are not all there is of it."""
    for label in one.keys() & other.keys():
        a, b = one[label], other[label][chosen]
        if a.ndim == 1 and a.dtype.kind in "iub" and len(np.unique(a)) < len(a) / 2 and (has := count > 0).any():
            agree = (a[near[has, 0]] == b[has]).mean() >= AGREE
            size = np.array([(a == value).sum() for value in b])
            count = np.where(agree & (size >= 2 * count + 1), count, 0)
    return count
