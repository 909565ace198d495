"""How many examples of validation are in training: by their indices in one data set, or by what is stored of them."""

from __future__ import annotations

import zlib
from collections import Counter
from itertools import islice
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lightning_recipe.callbacks._matches import Match, OfMatches, Place, place, some
from lightning_recipe.finding import Status
from lightning_recipe.record.tensors import holds
from lightning_recipe.trial.stored import Part, by_source, columns, digest, distinct, row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

BYTES = 2**27
"""Stored examples that are looked at, of training and of validation each: the first, up to this size."""
ROWS = 100_000
"""And up to this number."""
SAMPLE = 50
"""Validation examples whose information is measured."""
FEW = 20
"""Validation examples below which nobody is worried: a trial."""
INFORMATION = 24
"""Bytes, compressed, from which on two examples are not equal by chance; 8 of them are zlib's own."""
SHORT = 32
"""Integers, or letters, in an example up to which it may be a common phrase, which comes again in any text."""
BY_CHANCE = 0.1
"""Of shorter ones: the share of validation found in training must be so many times that of repeats within training."""


_Stored = dict[int, dict[str, Any]]  # what each data set stores, by its id


class Overlap(NamedTuple):
    """What two sets have in common.

    Attributes:
        common: Examples of validation that are in training.
        looked: Examples of validation that were looked at.
        same: Whether both are the same examples, all of them.
        matches: Some of those in common, if it is known which they are.

    """

    common: int
    looked: int
    same: bool
    matches: tuple[Match, ...] = ()


def way(loader: Any) -> Any:
    """The code that makes batches of examples."""
    collate = getattr(loader, "collate_fn", None)
    return getattr(collate, "__code__", type(collate))


def overlap(train: list[Part], val: list[Part], *, alike: bool = True) -> Overlap | None:
    """Compare examples, each with all that is stored of it.

    Args:
        train: What training draws.
        val: What validation draws.
        alike: Whether both make the same of an example. If not, or if data sets of another class do, validation that
            lies in training as a whole may ask for another part of it: the last item of each sequence, a masked word.

    Returns:
        None if nothing is known of them.

    Example:
        >>> import torch
        >>> data, other = torch.utils.data.TensorDataset(torch.rand(9, 9)), ["a b"]
        >>> overlap([Part(data, range(6))], [Part(data, range(4, 9))])[:3]
        (2, 5, False)

    """
    own, wanted = by_source(train), by_source(val)
    pairs = [(distinct(own[key]), distinct(parts)) for key, parts in wanted.items() if key in own]
    others = sum(len(part.indices) for key, parts in wanted.items() if key not in own for part in parts)
    looked = others + sum(len(last) for _, last in pairs)
    alike = alike and {type(part.source) for part in val} <= {type(part.source) for part in train}
    shared = [_common(*pair) for pair in pairs]
    if common := sum(map(len, shared)):
        if common == looked and not alike:
            return None
        every = all(len(both) == len(a) == len(b) for both, (a, b) in zip(shared, pairs, strict=True))
        sources = [parts[0].source for key, parts in wanted.items() if key in own]
        places = [Place(source, int(i)) for source, both in zip(sources, shared, strict=True) for i in some(both)]
        matches = tuple(Match(one, one) for one in some(places))
        return Overlap(common, looked, own.keys() == wanted.keys() and every, matches)
    nothing = None if others else Overlap(0, looked, same=False)
    stored = {key: columns(parts[0].source) for key, parts in (own | wanted).items()}
    if not all(stored.values()) or _differ_elsewhere(own, wanted, stored):
        return nothing
    first, last = (list(map(digest, rows_of(parts, stored))) for parts in (train, val))
    seen = Counter(first)
    both = [i for i, one in enumerate(last) if one in seen]
    common = len(both)
    repeats = 1 - len(seen) / seen.total()
    unsure = common == len(last) and not alike
    if unsure or not _tell(stored, list(islice(rows_of(val, stored), SAMPLE)), repeats, common / len(last)):
        return nothing
    matches = tuple(Match(place(train, first.index(last[i])), place(val, i)) for i in some(both))
    return Overlap(common, len(last), len(last) == looked and seen == Counter(last), matches)


def _common(one: range | NDArray[np.int64], other: range | NDArray[np.int64]) -> range | NDArray[np.int64]:
    """The indices that two selections have in common, each of which has none twice."""
    if not isinstance(one, range) or one.step != 1:
        one, other = other, one
    if not isinstance(one, range) or one.step != 1:
        return np.intersect1d(one, other, assume_unique=True)
    if isinstance(other, range) and other.step == 1:
        return range(max(one.start, other.start), min(one.stop, other.stop))
    indices = np.asarray(other)
    return indices[(one.start <= indices) & (indices < one.stop)]


def in_words(parts: list[Part]) -> bool:
    """Whether texts or names of files are stored: what differs in these may be the same once it enters the network.

    Example:
        >>> in_words([Part([("Hello", 1), ("hello", 1)], range(2))]), in_words([Part([(0.5, 1)], range(1))])
        (True, False)

    """
    stored = (values for part in parts for values in columns(part.source).values())
    return any(
        values.dtype.kind in "UO" if isinstance(values, np.ndarray) else holds(values[:1], str, PurePath)
        for values in stored
    )


def rows_of(parts: list[Part], stored: _Stored) -> Iterator[bytes]:
    """All that is stored of each example, within bounds."""
    read = rows = 0
    for part in parts:
        for index in part.indices:
            content = row(stored[id(part.source)], index)
            read, rows = read + len(content), rows + 1
            if rows > 1 and (read > BYTES or rows > ROWS):
                return
            yield content


def _tell(stored: _Stored, rows: list[bytes], repeats: float, share: float) -> bool:
    """Whether equal rows are equal examples: numbers from 0 on are not."""
    information = float(np.median([len(zlib.compress(content)) for content in rows]))
    values = [value for of_source in stored.values() for value in of_source.values()]
    arrays = [value for value in values if isinstance(value, np.ndarray)]
    if arrays and all(array.dtype.kind in "iub" and np.prod(array.shape[1:]) <= SHORT for array in arrays):
        return information >= INFORMATION and repeats <= BY_CHANCE * share
    if not arrays and not any(b"/" in content for content in rows) and np.median([len(c) for c in rows]) <= SHORT:
        return information >= INFORMATION and repeats <= BY_CHANCE * share  # phrases, dates, sums
    if information >= INFORMATION:
        return any(map(_holds_numbers, arrays)) or any(b" " in content or b"/" in content for content in rows)
    several = any(array.dtype.kind == "f" and np.prod(array.shape[1:]) > 1 for array in arrays)
    return several and repeats <= BY_CHANCE * share


def _holds_numbers(array: np.ndarray) -> bool:
    if array.dtype != object:
        return True
    return array.ndim > 1 and any(isinstance(value, float) for value in array[0])


def _differ_elsewhere(own: dict[int, list[Part]], wanted: dict[int, list[Part]], stored: _Stored) -> bool:
    """Whether what two data sets store may be equal, while their examples are not.

    They hold the very same tensors, of which another attribute tells which are theirs; or names of files in two
    folders.
    """
    return any(
        _differs(train[0].source, val[0].source, stored[i], stored[j])
        for i, train in own.items()
        for j, val in wanted.items()
    )


def _differs(one: Any, other: Any, a: dict[str, Any], b: dict[str, Any]) -> bool:
    names = not any(isinstance(value, np.ndarray) for value in a.values())
    if not a or a.keys() != b.keys() or not (names or all(_is_same(a[name], b[name]) for name in a)):
        return False
    plain = (str, int, float, range, PurePath)
    return any(
        isinstance(value, plain) and value != getattr(other, name, value)
        for name, value in getattr(one, "__dict__", {}).items()
    )


def _is_same(one: Any, other: Any) -> bool:
    arrays = isinstance(one, np.ndarray) and isinstance(other, np.ndarray)
    return (one.shape == other.shape and np.may_share_memory(one, other)) if arrays else one is other


def verdict(found: Overlap, share: float, *, only: bool, what: str = "validation") -> OfMatches | None:
    """What to say of it.

    Args:
        found: What they have in common.
        share: Of validation, from which on it is a warning.
        only: Whether no other validation loader has examples of its own.
        what: Those that training is not to see.

    Returns:
        None if they have nothing in common, or are one and the same graph.

    Example:
        >>> verdict(Overlap(50, 100, same=False), 0.05, only=True).status
        <Status.WARNING: 'warning'>

    """
    if not found.common or (found.same and found.looked == 1):  # one graph, whose nodes are split
        return None
    part = found.common / found.looked
    if found.same:
        message = f"{what} is on all {found.looked} training examples, and on no others"
    else:
        message = f"{found.common} of {found.looked} {what} examples ({part:.0%}) are in training, too"
        for train, val in found.matches[:1]:
            message += f" (for example {what} {val.index} is training {train.index})"
    worried = part > share and found.looked >= FEW and only and not found.same
    return OfMatches(
        Status.WARNING if worried else Status.ADVICE,
        "examples_in_both",
        message,
        "evaluate on examples that training never sees: remove duplicates, and split before you oversample or augment",
        {"share": part, "common": found.common, "looked_at": found.looked},
        () if found.same else found.matches,
    )
