"""Input columns that give the target away."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_recipe.callbacks._inputs_verdict import TELLS, most
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.tensors import dense

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.callbacks._interchanged import Trial

BITS = 40.0
"""Of the orders that the targets of a batch can have, to the base 2: from here on no column has theirs by chance."""
WRONG, ENOUGH = 0.1, 10
"""Share of what one class for all gets wrong that is left if the ids of a column are known, at most, and how many that
are, at least. Of passengers of the Titanic, by their sex, it is 0.6; of mushrooms, by their odour, 0.03."""
IDS, CLASSES, COLUMNS = 4, 100, 64
"""Examples for each id and classes that are told apart, and columns of ids: there are more in texts."""


class Giveaway(NamedTuple):
    """A column of a table that orders the examples as their target does: equal where it is equal, and nowhere else.

    Or a column of ids that tells the class, of examples by the others.

    Attributes:
        path: Where the table is in the batch.
        column: Its place; -1 of an entry that is a column of ids by itself.
        target: Where the target is.
        examples: How many there are.
        by_ids: Share of the examples that have the most frequent class of all others with their id; 1 of numbers.
        constant: Share of the most frequent class; 0 of numbers.

    """

    path: str
    column: int
    target: str
    examples: int
    by_ids: float = 1.0
    constant: float = 0.0

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


def giveaways(batch: Any, trial: Trial) -> Iterator[Giveaway]:
    """Columns of tables that enter the network and order the examples as a target does, or the other way round.

    Targets are single numbers or classes that do not enter, and to which the loss answers. A label that enters by
    itself, as of a conditional model or a margin loss, is no column of a table.

    Args:
        batch: As the step receives it.
        trial: What was tried with it.

    """
    entries = dict(dense(batch, "batch"))
    entering = {name: entries[name] for name in trial.inputs.keys() & entries.keys()}
    entering = {name: entry for name, entry in entering.items() if entry.dtype is not torch.bool}
    tables = {name: entry for name, entry in entering.items() if entry.ndim == 2 and entry.shape[1] > 1}  # noqa: PLR2004
    ids = {name: entry for name, entry in entering.items() if not entry.is_floating_point()}
    for path, effects in trial.targets.items():
        target = entries.get(path)
        if target is None or target.numel() != len(target) or most([effects]) < TELLS or not target.isfinite().all():
            continue
        target = target.flatten()
        if _bits(target) < BITS:
            continue
        order = target.argsort()
        apart = target[order].diff() != 0
        told = set[tuple[str, int]]()
        for name, table in tables.items():
            rises = table[order].diff(dim=0)
            equal = (rises[~apart] == 0).all(0)
            found = equal & ((rises[apart] > 0).all(0) | (rises[apart] < 0).all(0))
            told |= {(name, column) for column in found.nonzero()[:, 0].tolist()}
        yield from (Giveaway(name, column, path, len(target)) for name, column in sorted(told))
        for name, entry in ids.items():
            columns = entry[:, None] if entry.ndim == 1 else entry
            if columns.ndim > 2 or columns.shape[1] > COLUMNS:  # noqa: PLR2004
                continue
            for column, values in enumerate(columns.T):
                right = None if torch.equal(values, target.to(values)) else told_by_ids(values, target)
                if right is not None and (name, column) not in told:
                    yield Giveaway(name, column if entry.ndim > 1 else -1, path, len(target), *right)


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


def _bits(target: Tensor) -> float:
    """Of the number of orders in which these values can come.

    Example:
        >>> round(_bits(torch.tensor([0, 0, 1, 1])), 2), round(_bits(torch.arange(4)), 2)  # 6 and 24
        (2.58, 4.58)

    """
    counts = target.unique(return_counts=True)[1].tolist()
    return (math.lgamma(len(target) + 1) - sum(math.lgamma(count + 1) for count in counts)) / math.log(2)
