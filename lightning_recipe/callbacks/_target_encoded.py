"""Columns that were made from the labels: the mean of those of a category, with the example's own or validation's."""

from __future__ import annotations

import re
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_recipe.callbacks._means_of_labels import GROUPS, LARGEST, OWN, Column, are_means, are_means_of_few
from lightning_recipe.callbacks._near_copies import gathered
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from lightning_recipe.trial.stored import Part

COLUMNS, ROWS = 16, 200_000
"""Of a table that are looked at, at most."""
LABELS = {"y", "label", "labels", "target", "targets"}
"""Words in the names of what is to be predicted."""
CLASSES = 10
"""Up to which the labels are taken for one number for each class, too."""
REPEATED = 0.9
"""Values of a column, for each example, up to which they are those of categories."""
SHARED = 0.2
"""Share of the values of validation that training has, too, from which on both were scaled alike."""
APART, NEAR = 0.1, 2e-5
"""How far values may be apart that were standardised by other examples, in standard deviations; and rounding."""
TRIES, SOME, CLOSEST = 8, 200, 80
"""Pairs of values of validation that are tried, with how many of training each, and how many are then compared."""


def target_encoded(train: list[Part], val: list[Part]) -> Outcome | None:
    """A `warning` for a column of which each value is the mean of the labels of all examples with it, on both sides.

    Or of the examples of training with it, each itself included, where these are few: then the column tells the label
    of an example of training, and not that of others. The mean may be drawn to that of all labels, as by smoothing, and
    scaled. Means over other folds are what target encoding should be, and not what is found, nor are means over many.

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
    names = [name for name in names if one[name].ndim in {1, 2} and one[name].dtype.kind in "fiub"]
    labels = [name for name in names if one[name][:1].size == 1]
    likely = _likely(labels)
    for name in names if labels else ():
        if one[name].dtype.kind != "f":
            continue
        tables = [side[name].reshape(len(side[name]), -1) for side in (one, other)]
        for number in range(min(COLUMNS, tables[0].shape[1])):
            column = Column(aligned(*(table[:, number] for table in tables)), len(tables[0]))
            for label in labels if column.repeated else ():
                if label == name or (label not in likely and one[name].ndim == 1):
                    continue
                for y in _numbers(one[label].reshape(-1), other[label].reshape(-1)):
                    if _is_made_of(column, y):
                        return _told(name, number, label)
                    if label in likely and (size := _is_made_of_training(column, y)):
                        return _told_of_training(name, number, label, size)
    return None


def _likely(labels: list[str]) -> list[str]:
    """Those arrays of one number for each example that are the labels, by name or, without one, as they come last."""
    named = [name for name in labels if not LABELS.isdisjoint(re.split("[^a-z]+", name.lower()))]
    return named or (labels[-1:] if all(name.split(".")[-1].isdigit() for name in labels) else labels)


def _numbers(one: NDArray[Any], other: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """Labels of both sides, and of each of several classes whether it is that."""
    y = np.concatenate([one, other]).astype(np.float64)
    if not np.isfinite(y).all():
        return
    if y[: len(one)].std() > 0:
        yield y
    classes = np.unique(y) if one.dtype.kind in "iu" else ()
    if 2 < len(classes) <= CLASSES:  # noqa: PLR2004 - of two each is the other one
        yield from ((y == k).astype(np.float64) for k in classes if 0 < (one == k).mean() < 1)


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


def _is_made_of(column: Column, y: NDArray[np.float64]) -> bool:
    """Whether a column is made of the labels of all examples."""
    found = column.grouped(y)
    return found is not None and (are_means(found) or (_are_two(y) and are_means_of_few(found, y)))


def _is_made_of_training(column: Column, y: NDArray[np.float64]) -> float:
    """How many examples of training a value is the mean of, if it is, and they are few; else 0.

    Of groups of one size it may be a total that is known beforehand, and the labels its parts: then their examples are
    on one side.
    """
    found = column.grouped(y, training_alone=True)
    if found is None:
        return 0.0
    if column.own_part >= OWN and are_means(found):
        total = len(np.unique(found.size)) == 1 and not column.on_both.any()
        return 0.0 if total else 1 / column.own_part
    return float(LARGEST) if _are_two(y) and are_means_of_few(found, y) else 0.0


def _are_two(y: NDArray[np.float64]) -> bool:
    return len(np.unique(y)) == 2  # noqa: PLR2004


def _told(name: str, column: int, target: str) -> Outcome:
    return Outcome(
        Status.WARNING,
        "labels_in_column",
        f"column {column} of `{name}` is made of `{target}`: each of its values is the mean of the labels of all "
        "examples with it, those of validation included",
        "compute it from training alone, and for training from the other folds; validation gets the means of training",
        {"column": column},
    )


def _told_of_training(name: str, column: int, target: str, size: float) -> Outcome:
    size = round(size, 1)
    many = f"at most {size:.0f}" if size == LARGEST else f"{size:g}, on average,"
    return Outcome(
        Status.WARNING,
        "own_label_in_column",
        f"column {column} of `{name}` is made of `{target}`: in training each of its values is the mean of the labels "
        f"of the examples with it, {many} of a category, and so tells an example its own label",
        "give each example of training a mean of others: of the other folds (KFold, or fit_transform of scikit-learn's "
        "TargetEncoder, not fit and then transform); validation gets the means of training",
        {"column": column, "examples": size},
    )
