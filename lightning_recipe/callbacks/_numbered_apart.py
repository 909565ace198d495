"""Names that were numbered in the order in which they come, in training and anew in validation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_recipe.callbacks._near_copies import gathered
from lightning_recipe.finding import Outcome, Status, listed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightning_recipe.trial.stored import Part

BITS = 20.0
"""Of the orders in which so many names may come first, to the base 2, on either side: 10 names, or 6 and 5 and 4."""
RESERVED = 4
"""Lowest numbers, at most, that are for padding and what is not known."""
GAPS = 2
"""Numbers up to the highest, for each that comes, at most: some may have been of words that were cut off since."""
COLUMNS, VALUES = 64, 2**22
"""Columns of a table of codes; numbers that are read: 30 ms."""


def numbered_apart(train: list[Part], val: list[Part]) -> Outcome | None:
    """Look for codes, or words, that come for the first time in the order of their numbers, on both sides.

    That is no chance, nor of what is sorted or takes turns, since some come again before others come at all. `advice`,
    since numbers may be there only to tell groups apart.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from lightning_recipe.trial.stored import Part
        >>> def numbered(names, known):
        ...     codes = torch.tensor([known.setdefault(name, len(known)) for name in names])
        ...     return [Part(TensorDataset(codes, torch.zeros(len(codes))), range(len(codes)))]
        >>> one, other = torch.randint(12, (2, 400), generator=torch.Generator().manual_seed(0)).tolist()
        >>> numbered_apart(numbered(one, {}), numbered(other, {})).code
        'numbered_apart'
        >>> known = {}
        >>> numbered_apart(numbered(one, known), numbered(other, known))

    """
    one, other = gathered(train), gathered(val)
    told: dict[str, tuple[int, int]] = {}
    for name in one.keys() & other.keys():
        both = one[name], other[name]
        if all(values.dtype.kind in "iu" and values.size <= VALUES for values in both) and both[0].ndim == both[1].ndim:
            told |= _of(name, *both)
    bits = [sum(math.lgamma(names[side] + 1) / math.log(2) for names in told.values()) for side in (0, 1)]
    if not told or min(bits) < BITS:
        return None
    counts = listed(f"{name} ({of_train} and {of_val})" for name, (of_train, of_val) in sorted(told.items()))
    return Outcome(
        Status.ADVICE,
        "numbered_apart",
        f"what {counts} of training and of validation hold is numbered in the order in which it comes, on both sides "
        "from the beginning: the same number stands for another name in validation",
        "number the names of training once, and look those of validation up in that; nothing if they only tell groups "
        "apart",
        {"names": sum(of_train for of_train, _ in told.values()), "in_validation": sum(v for _, v in told.values())},
    )


def _of(name: str, train: NDArray[Any], val: NDArray[Any]) -> dict[str, tuple[int, int]]:
    """How many names each column has on both sides, else the rows of texts together, where they are numbered so."""
    pairs = {} if _has_sorted(train) or _has_sorted(val) else {name: (train.reshape(-1), val.reshape(-1))}
    if train.ndim == 2 and train.shape[1] == val.shape[1] <= COLUMNS:  # noqa: PLR2004
        pairs |= {f"{name}[:, {i}]": (train[:, i], val[:, i]) for i in range(train.shape[1])}
    found = {}
    for place, sides in pairs.items():
        names = [as_they_come(side) for side in sides]
        if all(names):
            found[place] = names[0], names[1]
    of_columns = {place: names for place, names in found.items() if place != name}
    return of_columns or found


def _has_sorted(rows: NDArray[Any]) -> bool:
    steps = np.diff(rows.reshape(len(rows), -1), axis=0)
    return rows.ndim > 1 and bool(((steps >= 0).all(0) & (steps > 0).any(0)).any())  # padding is the same in all


def as_they_come(codes: NDArray[Any]) -> int:
    """How many numbers there are, if they come for the first time one after the other, and some again in between.

    Args:
        codes: Integers, in the order of the rows.

    Returns:
        0 if they come in another order.

    Example:
        >>> [as_they_come(np.array(codes)) for codes in ([1, 2, 1, 3], [2, 1, 3, 1], [1, 1, 2, 3], [1, 2, 3, 1])]
        [3, 0, 0, 0]

    """
    codes = codes.astype(np.int64)  # else sums of bytes are out of range
    values, places = np.unique(codes, return_index=True)
    first = values[places.argsort()]
    first = first[first >= first[0]] if len(first) else first
    if len(first) < 2 or first[0] > RESERVED or first.max() >= first[0] + GAPS * len(first):  # noqa: PLR2004
        return 0
    if (np.diff(first) < 0).any():
        return 0
    until = codes[: places.max() + 1]
    until = until[until >= first[0]]
    return len(first) if bool((np.diff(until) < 0).any()) else 0
