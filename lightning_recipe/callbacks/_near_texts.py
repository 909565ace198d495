"""Validation texts of which training holds a copy with a few words changed, as after augmenting before the split."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_recipe.callbacks._matches import Match, OfMatches, place, some
from lightning_recipe.callbacks._near_copies import PROBES, are_compared, gathered
from lightning_recipe.finding import Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightning_recipe.trial.stored import Part

GRAM = 3
"""Words in a row that are compared: a changed word leaves all others of a text."""
FEWEST = 8
"""Different ones of a text, without which it may be a common phrase."""
WIDE = 512
"""Words of a text that are read."""
VALUES = 2**24
"""Words of training that are compared, at most; of more texts fewer, evenly spaced."""
RARE = 16
"""Times that training has the same words in a row, at most: what comes more often is the language."""
COPIES = 8
"""Copies of a text in training, at most."""
ALIKE = 0.3
"""Share of a text that a copy has: of 20 words, 4 may be changed."""
GAP = 3.0
"""Times as much as the next text has."""
MOST = 0.3
"""Validation texts that have copies, from which on it is no chance: the web has them, up to one in ten."""


def near_texts(train: list[Part], val: list[Part]) -> OfMatches | None:
    """Look for copies among what data sets store, as rows of words' numbers.

    A text that goes on where one of training ends, or shares its beginning, is none: words within are changed.

    Example:
        >>> from lightning_recipe.trial.stored import Part
        >>> rng = np.random.default_rng(0)
        >>> x = rng.integers(1, 500, (300, 24)).repeat(3, 0)  # three of each, of which two words are others
        >>> x[np.arange(900)[:, None], rng.integers(24, size=(900, 2))] = rng.integers(1, 500, (900, 2))
        >>> class Data:
        ...     x = x
        ...     __len__ = lambda self: 900
        >>> data, order = Data(), rng.permutation(900)
        >>> data.x = x
        >>> near_texts([Part(data, order[:700])], [Part(data, order[700:])]).code
        'near_copies'

    """
    if not are_compared(train, val):
        return None
    one, other = gathered(train), gathered(val)
    names = [name for name in one.keys() & other.keys() if _is_text(one[name], other[name])]
    if not names:
        return None
    name = max(names, key=lambda name: one[name].shape[1])
    chosen = np.linspace(0, len(other[name]) - 1, min(PROBES, len(other[name]))).astype(int)
    of_each = zip(chosen, _grams(other[name][chosen]), strict=True)
    grams = {int(i): row for i, row in of_each if len(np.unique(row[row != 0])) >= FEWEST}
    if len(grams) < PROBES // 4:
        return None
    every = -(-one[name].size // VALUES)
    texts = one[name][::every]
    holding = _holding(np.unique(np.concatenate([*grams.values()])), texts)
    told = {i: _copies(row, holding, texts) for i, row in grams.items()}
    copied = {i: copies for i, copies in told.items() if copies}
    share = len(copied) / len(told)
    if share < MOST:
        return None
    matches = [Match(place(train, copied[i][0] * every), place(val, i)) for i in some([*copied])]
    return OfMatches(
        Status.WARNING,
        "near_copies",
        f"{share:.0%} of {len(told)} validation texts have a copy in training in which a few words are others (for "
        f"example validation {matches[0].val.index} has training {matches[0].train.index})",
        "split before you augment or oversample, and keep the versions of one text on one side",
        {"share": share, "copies": float(np.median([len(copies) for copies in copied.values()]))},
        tuple(matches),
    )


def _is_text(one: NDArray[Any], other: NDArray[Any]) -> bool:
    words = one.dtype.kind in "iu" and one.dtype.itemsize > 1 and one.ndim == other.ndim == 2  # noqa: PLR2004
    return words and min(one.shape[1], other.shape[1]) >= FEWEST + GRAM


def _grams(words: NDArray[Any]) -> NDArray[np.uint64]:
    """A number for each `GRAM` words in a row, shape (N, T - GRAM + 1); 0 where they are all the same, as padding is.

    Example:
        >>> a, b = _grams(np.array([[1, 2, 3, 4, 0, 0, 0], [9, 2, 3, 4, 0, 0, 0]]))
        >>> (a == b).tolist(), int(a[-1])
        ([False, True, True, True, True], 0)

    """
    words = words[:, :WIDE].astype(np.uint64)
    size = words.shape[1] - GRAM + 1
    made, same = np.zeros((len(words), size), np.uint64), np.ones((len(words), size), bool)
    for i in range(GRAM):
        made = (made ^ (words[:, i : i + size] + np.uint64(1))) * np.uint64(0x9E3779B97F4A7C15)
        made ^= made >> np.uint64(29)
        same &= words[:, i : i + size] == words[:, :size]
    return np.where(same, np.uint64(0), made)


def _holding(grams: NDArray[np.uint64], texts: NDArray[Any]) -> dict[int, list[int]]:
    """The training texts that hold each of some words in a row, of those that are rare."""
    of_all = _grams(texts)
    rows, places = np.nonzero(np.isin(of_all, grams[grams != 0]))
    values = of_all[rows, places]
    _, which, times = np.unique(values, return_inverse=True, return_counts=True)
    rare = times[which.ravel()] <= RARE
    found: dict[int, list[int]] = defaultdict(list)
    for gram, row in {*zip(values[rare].tolist(), rows[rare].tolist(), strict=True)}:
        found[gram].append(row)
    return found


def _copies(grams: NDArray[np.uint64], holding: dict[int, list[int]], texts: NDArray[Any]) -> list[int]:
    """The texts of training that are this one with other words within, before the first gap, the nearest first."""
    own = set(grams.tolist()) - {0}
    count = Counter(text for gram in own for text in holding.get(gram, ()))
    most = count.most_common(COPIES + 1)
    shares = [held / len(own) for _, held in most] + [0.0]
    copies = next((i + 1 for i in range(min(COPIES, len(most))) if shares[i] >= GAP * shares[i + 1]), 0)
    if not copies or shares[copies - 1] < ALIKE:
        return []
    (nearest,) = _grams(texts[[most[0][0]]])
    held = np.isin(grams, nearest[nearest != 0])
    where = np.flatnonzero(held)
    changed = (~held & (grams != 0))[where[0] : where[-1]].any()
    return [text for text, _ in most[:copies]] if changed else []
