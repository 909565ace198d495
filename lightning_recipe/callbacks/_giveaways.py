"""Input columns that give the target away."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_recipe.callbacks._inputs_verdict import TELLS, most
from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.record.tensors import dense

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lightning_recipe.callbacks._interchanged import Trial

BITS = 40.0
"""Of the orders that the targets of a batch can have, to the base 2: from here on no column has theirs by chance."""
WRONG, ENOUGH = 0.1, 10
"""Share of what one class for all gets wrong that is left if the ids of a column are known, at most, and how many that
are, at least. Of passengers of the Titanic, by their sex, it is 0.6; of mushrooms, by their odour, 0.03."""
SPIKE, HALF, FEW = 0.3, 0.5, 2
"""Share of the examples in which a column has one and the same value, at least; of a class's that have another one, at
least; and columns of a table of which that is so, at most: of words, and of pixels, it is so of many by nature."""
IDS, CLASSES, COLUMNS = 4, 100, 64
"""Examples for each id and classes that are told apart, and columns of ids: there are more in texts."""

FEWEST, SPARSE, OFF = 30, 100, 0.05
"""Examples by which it is told whether a column counts rows, rows for each example at most, and how far a value may be
off the grid, in its steps: of a million rows in float32, standardised, that is rounding."""


class Giveaway(NamedTuple):
    """A column of a table that orders the examples as their target does: equal where it is equal, and nowhere else.

    Or a column of ids that tells the class, of examples by the others.

    Attributes:
        path: Where the table is in the batch.
        column: Its place; -1 of an entry that is a column by itself.
        target: Where the target is.
        examples: How many there are.
        by_ids: Share of the examples that have the most frequent class of all others with their id; 1 of numbers.
        constant: Share of the most frequent class; 0 of numbers.
        counts: Whether the column counts the rows of a file: then `by_ids` is the share of the examples that have the
            class of the one before, in its order.
        filled: Examples in which the column has not the value that it has elsewhere, all of one class, of which they
            are the share `by_ids`; 0 of other columns.

    """

    path: str
    column: int
    target: str
    examples: int
    by_ids: float = 1.0
    constant: float = 0.0
    counts: bool = False
    filled: int = 0

    @property
    def key(self) -> tuple[str, int, str]:
        """What it is at any look."""
        return self.path, self.column, self.target

    @property
    def subject(self) -> str:
        """Where it is."""
        return f"{self.path}[:, {self.column}]" if self.column >= 0 else self.path

    @property
    def outcome(self) -> Outcome:
        """`advice`: where data are made by a formula, this may be meant, and some ids are honest."""
        numbers: dict[str, float] = {"column": self.column, "examples": self.examples}
        which = f"column {self.column} of {self.path}" if self.column >= 0 else self.path
        if self.counts:
            return Outcome(
                Status.ADVICE,
                "target_given_away",
                f"{which} counts the rows of a table that is sorted by {self.target}: in its order {self.by_ids:.1%} "
                f"of {self.examples} examples have the class of the one before, {self.constant:.1%} that of most",
                "leave it out: it is the number of a row, which came along as a column",
                {**numbers, "right": self.by_ids, "constant": self.constant},
            )
        if self.filled:
            return Outcome(
                Status.ADVICE,
                "target_given_away",
                f"{which} is filled in, and not one and the same value, in {self.filled} of {self.examples} examples, "
                f"all of one class of {self.target}, {self.by_ids:.0%} of it, which {self.constant:.0%} of all have",
                "see when it is filled in: leave it out if it is known only after the target, or made from it",
                {**numbers, "filled": self.filled, "constant": self.constant},
            )
        if self.constant:
            return Outcome(
                Status.ADVICE,
                "target_given_away",
                f"{which} tells {self.target} by itself: {self.by_ids:.1%} of {self.examples} examples have the most "
                f"frequent class of the others with their id, {self.constant:.1%} that of all",
                "see when it is filled in: leave it out if it is known only after the target, or made from it",
                {**numbers, "right": self.by_ids, "constant": self.constant},
            )
        return Outcome(
            Status.ADVICE,
            "target_given_away",
            f"{which} orders {self.examples} examples exactly as {self.target} does: a "
            "network needs nothing else to be right",
            "leave it out if it is computed from the target, or known only after it",
            numbers,
        )


def told(found: Iterable[Giveaway]) -> list[tuple[Outcome, str]]:
    """One finding, and its subject, for all columns of a table that give a target away in the same way.

    Example:
        >>> ids = [Giveaway("batch.words", column, "batch.spam", 100, 0.98, 0.5) for column in (2, 7, 13)]
        >>> [(subject, outcome.message.split("; ")[1]) for outcome, subject in told(ids)]
        [('batch.words[:, 2]', 'so do columns 7, 13')]

    """
    alike: dict[tuple[str, str, bool, bool, bool], list[Giveaway]] = {}
    for one in sorted(found):
        alike.setdefault((one.path, one.target, one.counts, one.constant > 0, one.filled > 0), []).append(one)
    result = []
    for first, *others in alike.values():
        outcome = first.outcome
        if others:
            so_do = f"so do columns {listed(str(other.column) for other in others)}"
            outcome = replace(outcome, message=f"{outcome.message}; {so_do}")
        result.append((outcome, first.subject))
    return result


def giveaways(batch: Any, trial: Trial) -> Iterator[Giveaway]:
    """Columns of tables that enter the network and order the examples as a target does, or the other way round.

    Targets are single numbers or classes that do not enter, and to which the loss answers. A label that enters by
    itself, as of a conditional model or a margin loss, is no column of a table; a number beside other inputs is, unless
    it is the target.

    Args:
        batch: As the step receives it.
        trial: What was tried with it.

    """
    entries = dict(dense(batch, "batch"))
    entering = {name: entries[name] for name in trial.inputs.keys() & entries.keys()}
    entering = {name: entry for name, entry in entering.items() if entry.dtype is not torch.bool}
    tables = {name: entry for name, entry in entering.items() if entry.ndim == 2 and entry.shape[1] > 1}  # noqa: PLR2004
    numbers = {name: entry for name, entry in entering.items() if entry.is_floating_point() and entry.ndim}
    beside = {name: entry[:, None] for name, entry in numbers.items() if entry.ndim == 1 and len(entering) > 1}
    ids = {name: entry for name, entry in entering.items() if not entry.is_floating_point()}
    for path, effects in trial.targets.items():
        target = entries.get(path)
        if target is None or target.numel() != len(target) or most([effects]) < TELLS or not target.isfinite().all():
            continue
        target = target.flatten()
        if _bits(target) < BITS:
            continue
        told = set[tuple[str, int]]()
        alone = {
            name: entry for name, entry in beside.items() if target.is_floating_point() and _differs(entry, target)
        }
        found = [one._replace(column=-1) for one in _ordering(alone, path, target)]
        found += (*_ordering(tables, path, target), *_counting(tables, path, target), *_telling(ids, path, target))
        for one in (*found, *_filled_in(tables, path, target)):
            if (one.path, one.column) not in told:
                told.add((one.path, one.column))
                yield one


def _differs(entry: Tensor, target: Tensor) -> bool:
    """Whether a number is another one than the target: this may be given on purpose."""
    return not torch.equal(entry.flatten().to(target), target)


def _ordering(tables: dict[str, Tensor], path: str, target: Tensor) -> Iterator[Giveaway]:
    order = target.argsort()
    apart = target[order].diff() != 0
    for name, table in tables.items():
        rises = table[order].diff(dim=0)
        equal = (rises[~apart] == 0).all(0)
        found = equal & ((rises[apart] > 0).all(0) | (rises[apart] < 0).all(0))
        yield from (Giveaway(name, column, path, len(target)) for column in found.nonzero()[:, 0].tolist())


def _counting(tables: dict[str, Tensor], path: str, target: Tensor) -> Iterator[Giveaway]:
    for name, table in tables.items():
        for column, values in enumerate(table.T[:COLUMNS]):
            if (shares := told_by_row_numbers(values, target)) is not None:
                yield Giveaway(name, column, path, len(target), *shares, counts=True)


def _telling(ids: dict[str, Tensor], path: str, target: Tensor) -> Iterator[Giveaway]:
    for name, entry in ids.items():
        columns = entry[:, None] if entry.ndim == 1 else entry
        if columns.ndim > 2 or columns.shape[1] > COLUMNS:  # noqa: PLR2004
            continue
        for column, values in enumerate(columns.T):
            shares = None if torch.equal(values, target.to(values)) else told_by_ids(values, target)
            if shares is not None:
                yield Giveaway(name, column if entry.ndim > 1 else -1, path, len(target), *shares)


def _filled_in(tables: dict[str, Tensor], path: str, target: Tensor) -> Iterator[Giveaway]:
    for name, table in tables.items():
        found = []
        for column, values in enumerate(table.T[:COLUMNS]):
            if (of_one := filled_in_for_one(values, target)) is not None:
                filled, share, constant = of_one
                found.append(Giveaway(name, column, path, len(target), share, constant, filled=filled))
        if len(found) <= FEW < table.shape[1]:
            yield from found


def filled_in_for_one(column: Tensor, target: Tensor) -> tuple[int, float, float] | None:
    """Whether a column is one and the same value, but in examples of one class, as what is entered after a default.

    Returns:
        How many have another value, the share of their class that has, and that class's share of all; None if this may
        be by chance, or they are less than half of the class.

    Example:
        >>> y, x = torch.arange(200) % 4 == 0, torch.rand(200, generator=torch.Generator().manual_seed(0))
        >>> filled_in_for_one(torch.where(y & (x > 0.2), x, 0), y), filled_in_for_one(torch.where(x > 0.8, x, 0), y)
        ((37, 0.74, 0.25), None)

    """
    values, counts = column.unique(return_counts=True)
    classes, label = target.unique(return_inverse=True)
    if len(values) < 3 or not 1 < len(classes) <= CLASSES or int(counts.max()) < SPIKE * len(column):  # noqa: PLR2004
        return None
    filled = label[column != values[counts.argmax()]]
    of_one = int((label == filled[0]).sum()) if len(filled) and bool((filled == filled[0]).all()) else 0
    if not of_one or len(filled) < HALF * of_one or len(filled) * math.log2(len(label) / of_one) < BITS:
        return None
    return len(filled), float(len(filled) / of_one), of_one / len(label)


def told_by_ids(ids: Tensor, target: Tensor) -> tuple[float, float] | None:
    """How many classes are told right by the most frequent one of all others with the same id, and by that of all.

    Returns:
        Both as shares of the examples; None if too many are told wrong, or there is nothing to tell.

    Example:
        >>> y = torch.arange(100) % 2
        >>> codes = torch.where(torch.arange(100) % 50 == 1, 0, y * (1 + torch.arange(100) % 3))  # forgotten in two
        >>> told_by_ids(codes, y), told_by_ids(torch.arange(100) % 5, y), told_by_ids(torch.arange(100), y)
        ((0.98, 0.5), None, None)

    """
    values, which = ids.unique(return_inverse=True)
    classes, label = target.unique(return_inverse=True)
    if len(values) * IDS > len(ids) or not 1 < len(classes) <= CLASSES:
        return None
    own = F.one_hot(label, len(classes)).float()
    of_id = torch.zeros(len(values), len(classes), device=own.device).index_add_(0, which, own)
    most, at_first = float(own.sum(0).max()), own.sum(0) / len(own) / 2  # which decides between equals
    right = float(((of_id[which] - own + at_first).argmax(1) == label).sum())
    wrong, constant = len(ids) - right, len(ids) - most
    return (right / len(ids), most / len(ids)) if constant >= ENOUGH and wrong <= WRONG * constant else None


def told_by_row_numbers(column: Tensor, target: Tensor) -> tuple[float, float] | None:
    """Like `told_by_ids`, of what counts rows, standardised or not: no value comes twice, and all lie on a grid.

    Returns:
        How many examples have the class of the one before, in the order of the column, and the share of the most
        frequent class; None if the column counts nothing, or does not tell the class.

    Example:
        >>> rows = torch.randperm(300, generator=torch.Generator().manual_seed(0))[:100]
        >>> told_by_row_numbers((rows - 150) / 87, rows // 150), told_by_row_numbers(rows.float(), rows % 2)
        ((0.99, 0.53), None)

    """
    classes, label = target.unique(return_inverse=True)
    if not 1 < len(classes) <= CLASSES or len(column) < FEWEST:
        return None
    values, order = column.double().sort()
    gaps = values.diff()
    steps = gaps / gaps.min()
    if not gaps.min() > 0 or steps.mean() > SPARSE or (steps - steps.round()).abs().max() > OFF:
        return None
    wrong = float((label[order].diff() != 0).sum())
    constant = len(label) - float(label.bincount().max())
    told = constant >= ENOUGH and wrong - (len(classes) - 1) <= WRONG * constant  # each class but one begins somewhere
    return (1 - wrong / len(label), 1 - constant / len(label)) if told else None


def _bits(target: Tensor) -> float:
    """Of the number of orders in which these values can come.

    Example:
        >>> round(_bits(torch.tensor([0, 0, 1, 1])), 2), round(_bits(torch.arange(4)), 2)  # 6 and 24
        (2.58, 4.58)

    """
    counts = target.unique(return_counts=True)[1].tolist()
    return (math.lgamma(len(target) + 1) - sum(math.lgamma(count + 1) for count in counts)) / math.log(2)
