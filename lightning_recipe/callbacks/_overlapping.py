"""Windows of one series that were dealt out to training and validation, though neighbours overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lightning_recipe.finding import Outcome, Status
from lightning_recipe.trial.reread import CannotRereadError, read_again
from lightning_recipe.trial.stored import Part, columns, leaves

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

SHORTEST = 6
"""Steps of a window; shorter ones may be equal by chance, but for those of `DISTINCT` numbers each."""
LARGEST = 2**16
"""Values of a window that are compared, at most."""
FIRST, PROBES = 3, 16
"""Validation windows that are read to see whether these are windows at all, and how many overlap."""
MOST = 0.5
"""Validation windows, and the part of each, from which on validation is on what training has seen: a split by time
shares what lies at its borders."""
EQUAL = 1e-3
"""Difference of windows, over their standard deviation, that is rounding."""
DISTINCT = 4
"""Values in the shared part of a window that is no silence."""
ROWS = 2**20
"""Examples that are put in order, at most."""
STORED = 2**24
"""Values of stored windows that are searched for those of validation, at most: a second."""


class Neighbours(NamedTuple):
    """Validation examples beside the nearest of training, by their place.

    Attributes:
        train: The data set of training.
        val: That of validation.
        pairs: Index in the one, and in the other, shape (N, 2).

    """

    train: Any
    val: Any
    pairs: NDArray[np.int64]


def neighbours(train: list[Part], val: list[Part]) -> Neighbours | None:
    """What lies side by side in one data set, by integers that two keep of their examples, or by values they share.

    Returns:
        None if most of validation has no neighbour in training, as after a split by time, or no place is known.

    Example:
        >>> found = neighbours([Part("abcdefghi", [0, 2, 4, 6])], [Part("abcdefghi", [1, 3, 5, 8])])
        >>> found.pairs.tolist()
        [[0, 1], [2, 3], [4, 5], [6, 8]]

    """
    one, other = max(train, key=lambda part: len(part.indices)), max(val, key=lambda part: len(part.indices))
    same = [(a, b) for a in train for b in val if a.source is b.source]
    if same:
        one, other = max(same, key=lambda pair: len(pair[1].indices))
    elif type(one.source) is not type(other.source):
        return None
    if min(len(one.indices), len(other.indices)) <= FIRST or len(one.indices) + len(other.indices) > ROWS:
        return None
    indices, held_out = np.asarray(one.indices), np.asarray(other.indices)
    places = (
        [(indices, held_out)] if same else [(a[indices], b[held_out]) for a, b in _places(one.source, other.source)]
    )
    for at, wanted in places:
        nearest, close = _nearest(at, wanted)
        if close.mean() >= MOST:
            return Neighbours(one.source, other.source, np.stack([indices[nearest], held_out], 1))
    return None if same else _searched(one, other)


def _nearest(at: NDArray[Any], wanted: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Of places in training the nearest to each of validation, and whether they are side by side."""
    order = np.argsort(at, kind="stable")
    right = np.searchsorted(at[order], wanted).clip(1, len(at) - 1)
    left = right - 1
    nearest = order[np.where(abs(at[order][left] - wanted) <= abs(at[order][right] - wanted), left, right)]
    apart, each = abs(at[nearest] - wanted), np.diff(np.unique(np.concatenate([at, wanted])))
    return nearest, (apart > 0) & (apart <= max(1, np.median(each)))


def _searched(train: Part, val: Part) -> Neighbours | None:
    """Windows that two data sets store: some of validation, and those of training that hold their middle elsewhere."""
    stored, held_out = columns(train.source), columns(val.source)
    for name in stored.keys() & held_out.keys():
        one, other = stored[name], held_out[name]
        arrays = isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and one.shape[1:] == other.shape[1:]
        if not arrays or one.dtype.kind != "f" or one.ndim not in {2, 3} or one.size > STORED:
            continue
        chosen = np.asarray(val.indices)[:: max(1, len(val.indices) // PROBES)][:PROBES]
        for axis in range(1, one.ndim):
            if one.shape[axis] >= SHORTEST:
                x, y = (
                    np.moveaxis(array, axis, 1).reshape(len(array), array.shape[axis], -1) for array in (one, other)
                )
                x = x[np.asarray(train.indices)]
                at = [_holding(x, window) for window in y[chosen]]
                if np.mean([place is not None for place in at]) >= MOST:
                    places = np.asarray(train.indices)[[place or 0 for place in at]]
                    return Neighbours(train.source, val.source, np.stack([places, chosen], 1))
    return None


def _holding(windows: NDArray[Any], window: NDArray[Any]) -> int | None:
    """Of windows of shape (N, steps, C) the one that holds the middle of another, moved by the fewest steps."""
    middle = len(window) // 2
    channel = max(range(window.shape[1]), key=lambda c: len(np.unique(window[:, c])))
    equal = windows[..., channel] == window[middle, channel]
    equal[:, middle] = False
    if not 0 < np.count_nonzero(equal) <= len(window) ** 2:
        return None
    where, step = np.nonzero(equal)
    return int(where[np.argmin(abs(step - middle))])


def _places(train: Any, val: Any) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Integers that both data sets keep of each example, each once."""
    one, other = columns(train), columns(val)
    found = []
    for name in one.keys() & other.keys():
        if all(isinstance(values[name][0], (int, np.integer)) for values in (one, other)):
            a, b = np.asarray(one[name]), np.asarray(other[name])
            if a.ndim == b.ndim == 1 and len(np.unique(np.concatenate([a, b]))) == len(a) + len(b):
                found.append((a, b))
    return found


def overlapping(found: Neighbours) -> Outcome | None:
    """Read a few pairs, on a copy, and say how much of validation lies in windows of training.

    Example:
        >>> import torch
        >>> series = torch.randn(300, generator=torch.Generator().manual_seed(0))
        >>> windows = list(series.unfold(0, 24, 1))
        >>> val = list(range(0, 277, 5))
        >>> train = sorted(set(range(277)) - set(val))
        >>> overlapping(neighbours([Part(windows, train)], [Part(windows, val)])).evidence
        {'share': 1.0, 'overlap': 0.9583333333333334}

    """
    chosen = found.pairs[:: max(1, len(found.pairs) // PROBES)][:PROBES]
    try:
        shifts = _shifts(found, chosen[:FIRST])
        if len(shifts) < FIRST or not any(shifts):
            return None
        shifts += _shifts(found, chosen[FIRST:])
    except CannotRereadError:
        return None
    told = [shift for shift in shifts if shift is not None and shift.share >= MOST]
    share = len(told) / len(shifts)
    if share < MOST or len({shift.name for shift in told}) > 1:
        return None
    overlap = float(np.median([shift.share for shift in told]))
    return Outcome(
        Status.ADVICE if any(shift.whole for shift in told) else Status.WARNING,
        "overlapping_windows",
        f"validation windows lie between windows of training that share {overlap:.0%} of their values: {share:.0%} of "
        f"{len(shifts)} that were read",
        "split the series by time, or by series, before it is cut into windows, and leave a gap of one window",
        {"share": share, "overlap": overlap},
    )


class Shift(NamedTuple):
    """How one window is another one, moved.

    Attributes:
        name: Of the entry, and its axis.
        share: Of the window that both have.
        whole: Whether values are integers, such as tokens.

    """

    name: tuple[str, int]
    share: float
    whole: bool


def _shifts(found: Neighbours, pairs: NDArray[np.int64]) -> list[Shift | None]:
    """For each pair how the one is the other, moved; None if it is not."""
    one = [leaves(example) for (example,) in read_again(found.train, pairs[:, 0].tolist())]
    other = [leaves(example) for (example,) in read_again(found.val, pairs[:, 1].tolist())]
    return [_shift(a, b) for a, b in zip(one, other, strict=True)]


def _shift(one: dict[str, Tensor], other: dict[str, Tensor]) -> Shift | None:
    for name in sorted(one.keys() & other.keys(), key=lambda name: -one[name].numel()):
        a, b = one[name], other[name]
        if a.shape != b.shape or not 0 < a.ndim < 4 or a.numel() > LARGEST or a.is_complex():  # noqa: PLR2004
            continue
        for axis, size in enumerate(a.shape):
            enough = size >= SHORTEST or (axis == 0 and a.ndim == 2 and size > 1 and a.shape[1] >= DISTINCT)  # noqa: PLR2004
            if enough and (moved := _moved(a.movedim(axis, 0).double(), b.movedim(axis, 0).double())):
                return Shift((name, axis), 1 - moved / size, bool((a == a.round()).all()))
    return None


def _moved(one: Tensor, other: Tensor) -> int:
    """By how many steps of dimension 0 the one is the other, in either direction; 0 if by none, or by several.

    Each shared part is standardised: windows may have been, by themselves. Lines and what repeats are alike by any.
    """
    size = len(one)
    alike = [
        abs(step)
        for step in range(-size // 2, size // 2 + 1)
        if _alike(*(x[max(0, s) : size + min(0, s)] for x, s in ((one, step), (other, -step))))
    ]
    return alike[0] if len(alike) == 1 else 0


def _alike(one: Tensor, other: Tensor) -> bool:
    if len(one[:1].flatten()) and len(one.unique()) < DISTINCT:
        return False
    a, b = ((x - x.mean()) / (x.std() + 1e-12) for x in (one, other))
    return bool((a - b).abs().max() < EQUAL)
