"""A class of which validation holds what was made of rows of training: oversampled with noise, or as SMOTE does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_recipe.callbacks._near_copies import (
    AGREE,
    NEAR,
    are_compared,
    comparable,
    gathered,
    largest_input,
    nearest,
)
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightning_recipe.trial.stored import Part

CLASSES = 20
"""At most: what has more values is no class."""
PROBES, FEWEST = 64, 20
"""Validation examples of a class that are looked at, at most and at least."""
NEIGHBOURS = 64
"""Of training, among which copies are looked for; more than most factors by which a rare class is multiplied."""
COPIES, GAP = 3, 2.0
"""Copies, at least, and how much further the next example is than the last of them: of points on a line, which are
spread as unevenly as none of more dimensions, a quarter have that by chance."""
GROUPS = 8
"""Examples of a class that copies were made of, at least: fewer are kinds within the class."""
ALONG = 1e-7
"""How little the cosine of two directions may differ from 1: they lie on one line, but for rounding."""
LINES = 0.2
"""Pairs of neighbours on a line with an example, from which on the class itself is one, as of flat signals."""
MADE, OTHERS = 0.5, 0.1
"""Share of a class that is made of others, at least; and of any other class, at most: what all data are like is no
mistake of one class."""


def oversampled(train: list[Part], val: list[Part]) -> Outcome | None:
    """Look for a class of copies, or of points between two examples, among what data sets store.

    Returns:
        None if there are no classes, all of them have such neighbours, or none has.

    Example:
        >>> from lightning_recipe.trial.stored import Part
        >>> rng = np.random.default_rng(0)
        >>> y = np.repeat([0, 1], 500)
        >>> x = rng.normal(size=(1000, 12))
        >>> x[500:] = x[500 + np.arange(500) % 25] + 0.05 * rng.normal(size=(500, 12))  # 20 copies of 25
        >>> class Data:
        ...     __len__ = lambda self: 1000
        >>> data, order = Data(), rng.permutation(1000)
        >>> data.x, data.y = x, y
        >>> oversampled([Part(data, order[:800])], [Part(data, order[800:])]).evidence["share"]
        1.0

    """
    if not are_compared(train, val):
        return None
    one, other = gathered(train), gathered(val)
    name = largest_input(one, other)
    if name is None:
        return None
    for label in one.keys() & other.keys():
        known, own = one[label], other[label]
        if label == name or known.ndim != 1 or known.dtype.kind not in "iub" or len(np.unique(known)) > CLASSES:
            continue
        made = {}
        for kind in np.unique(own):
            rows = np.flatnonzero(own == kind)
            if len(rows) >= FEWEST and (known == kind).sum() > NEIGHBOURS:
                probes = rows[np.linspace(0, len(rows) - 1, min(PROBES, len(rows))).astype(int)]
                pair = comparable(one[name], other[name][probes])
                if pair is None:
                    return None
                made[kind] = _made_of_others(*pair, known == kind)
        if len(made) > 1 and max(made.values()) >= MADE and min(made.values()) <= OTHERS:
            kind = max(made, key=made.__getitem__)
            return Outcome(
                Status.WARNING,
                "oversampled_before_split",
                f"{made[kind]:.0%} of the validation examples of class {kind} lie beside copies in training, or on a "
                f"line between two examples of it; {min(made.values()):.0%} of another class: rows were multiplied "
                "before the split",
                "split first, then oversample training alone",
                {"share": float(made[kind]), "others": float(min(made.values()))},
            )
    return None


def _made_of_others(train: NDArray[Any], probes: NDArray[Any], same: NDArray[np.bool_]) -> float:
    """Share of examples of one class that lie in a group of copies, or on a line between two of training."""
    near, apart, median = nearest(train, probes, NEIGHBOURS + 1)
    gap = (apart[:, 1:] >= GAP * apart[:, :-1]) & (apart[:, :-1] <= NEAR * median[:, None]) & (apart[:, :-1] > 0)
    gap[:, : COPIES - 1] = False
    count = np.where(gap.any(1), gap.argmax(1) + 1, 0)
    of_class = np.array([same[row[: max(n, 1)]].mean() for row, n in zip(near, count, strict=True)])
    copies = (count > 0) & (of_class >= AGREE) & (count * GROUPS <= same.sum())
    lines = np.array([_on_a_line(train[row], probe) for row, probe in zip(near, probes, strict=True)])
    return float((copies | lines).mean())


def _on_a_line(neighbours: NDArray[Any], probe: NDArray[Any]) -> bool:
    """Whether an example and some two of its neighbours lie on one line, and not all of them do.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(20, 8))
        >>> _on_a_line(x[1:], x[0]), _on_a_line(x[1:], 0.3 * x[1] + 0.7 * x[2])
        (False, True)

    """
    ways = neighbours.astype(float) - probe.astype(float)
    lengths = np.linalg.norm(ways, axis=1)
    ways = ways[lengths > 0] / lengths[lengths > 0, None]
    _, first = np.unique(neighbours[lengths > 0], axis=0, return_index=True)  # the same twice is no line
    ways = ways[first]
    along = np.abs(ways @ ways.T)[np.triu_indices(len(ways), 1)] > 1 - ALONG
    return bool(along.any()) and float(along.mean()) < LINES
