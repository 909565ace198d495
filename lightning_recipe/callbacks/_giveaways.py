"""Input columns that give the target away."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.callbacks._inputs_verdict import TELLS, most
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.tensors import dense

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.callbacks._interchanged import Trial

BITS = 40.0
"""Of the orders that the targets of a batch can have, to the base 2: from here on no column has theirs by chance."""


class Giveaway(NamedTuple):
    """A column of a table that orders the examples as their target does: equal where it is equal, and nowhere else.

    Attributes:
        path: Where the table is in the batch.
        column: Its place.
        target: Where the target is.
        examples: How many there are.

    """

    path: str
    column: int
    target: str
    examples: int

    @property
    def subject(self) -> str:
        """The column, as it is written in code."""
        return f"{self.path}[:, {self.column}]"

    @property
    def outcome(self) -> Outcome:
        """`advice`: where data are made by a formula, this may be meant."""
        return Outcome(
            Status.ADVICE,
            "target_given_away",
            f"column {self.column} of {self.path} orders {self.examples} examples exactly as {self.target} does: a "
            "network needs nothing else to be right",
            "leave it out if it is computed from the target, or known only after it",
            {"column": self.column, "examples": self.examples},
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
    for path, effects in trial.targets.items():
        target = entries.get(path)
        if target is None or target.numel() != len(target) or most([effects]) < TELLS or not target.isfinite().all():
            continue
        target = target.flatten()
        if _bits(target) < BITS:
            continue
        order = target.argsort()
        apart = target[order].diff() != 0
        for name in trial.inputs.keys() & entries.keys():
            table = entries[name]
            if table.ndim != 2 or table.shape[1] < 2 or table.dtype is torch.bool:  # noqa: PLR2004
                continue
            rises = table[order].diff(dim=0)
            equal = (rises[~apart] == 0).all(0)
            found = equal & ((rises[apart] > 0).all(0) | (rises[apart] < 0).all(0))
            yield from (Giveaway(name, column, path, len(target)) for column in found.nonzero()[:, 0].tolist())


def _bits(target: Tensor) -> float:
    """Of the number of orders in which these values can come.

    Example:
        >>> round(_bits(torch.tensor([0, 0, 1, 1])), 2), round(_bits(torch.arange(4)), 2)  # 6 and 24
        (2.58, 4.58)

    """
    counts = target.unique(return_counts=True)[1].tolist()
    return (math.lgamma(len(target) + 1) - sum(math.lgamma(count + 1) for count in counts)) / math.log(2)
