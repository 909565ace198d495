"""A few input columns whose weighted sum is the target, as a rolling mean that takes in the day to be forecast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.callbacks._inputs_verdict import TELLS, most
from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.record.tensors import dense

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.callbacks._interchanged import Trial

EXACT = 1e-3
"""What a fit leaves, as a share of the target's standard deviation: columns and target are rounded."""
SPARE = 16
"""Examples more than columns, by which the fit is put to the test."""
WIDEST = 128
"""Columns of a table, at most."""
FEW = 0.5
"""Share of the columns, at most: of all of them, where data are made by a formula, the target may be meant as a sum."""
RELATED = 0.3
"""Correlation of two of them, at least: that of an aggregate and its parts. A formula adds what is independent."""


class Summed(NamedTuple):
    """Columns of a table that give the target by a weighted sum.

    Attributes:
        path: Where the table is in the batch.
        columns: Their places.
        target: Where the target is.
        examples: How many there are.

    """

    path: str
    columns: tuple[int, ...]
    target: str
    examples: int

    @property
    def key(self) -> Summed:
        """What it is at any look."""
        return self

    @property
    def subject(self) -> str:
        """The columns, as they are written in code."""
        return f"{self.path}[:, {list(self.columns)}]"

    @property
    def outcome(self) -> Outcome:
        """`advice`: where data are made by a formula, this may be meant."""
        return Outcome(
            Status.ADVICE,
            "target_given_away",
            f"columns {listed(map(str, self.columns))} of {self.path}, each times a number, add up to {self.target} in "
            f"all {self.examples} examples",
            "see whether one of them is computed from the target, as a rolling mean that ends a step too late",
            {"columns": len(self.columns), "examples": self.examples},
        )


def summed(batch: Any, trial: Trial) -> Iterator[Summed]:
    """Tables that enter the network and of which a few related columns add up to a target.

    Args:
        batch: As the step receives it.
        trial: What was tried with it.

    """
    entries = dict(dense(batch, "batch"))
    for path, effects in trial.targets.items():
        target = entries.get(path)
        if target is None or target.numel() != len(target) or not target.is_floating_point() or most([effects]) < TELLS:
            continue
        for name in trial.inputs.keys() & entries.keys():
            table = entries[name]
            if table.ndim == 2 and 2 < table.shape[1] <= min(WIDEST, len(table) - SPARE):  # noqa: PLR2004
                x = table.detach().double().cpu()
                columns = columns_of(x, target.detach().double().cpu().flatten())
                if 1 < len(columns) <= FEW * table.shape[1] and _are_related(x[:, columns]):
                    yield Summed(name, tuple(columns), path, len(target))


def columns_of(table: Tensor, target: Tensor) -> list[int]:
    """The columns that are needed for the target as a weighted sum; none if there is no such sum.

    Args:
        table: Of shape (N, D), N > D.
        target: Of shape (N,).

    Example:
        >>> x = torch.randn(99, 6, generator=torch.Generator().manual_seed(0)).double()
        >>> columns_of(x, 3 * x[:, 1] - x[:, 4] + 7), columns_of(x, x[:, 1] * x[:, 4])
        ([1, 4], [])

    """
    spread = float(target.std())
    if not (table.isfinite().all() and target.isfinite().all() and spread > 0):
        return []
    columns = [i for i, std in enumerate(table.std(0).tolist()) if std > 0]
    if _left(table[:, columns], target) > EXACT * spread:
        return []
    for column in list(columns):
        without = [other for other in columns if other != column]
        if _left(table[:, without], target) <= EXACT * spread:
            columns = without
    return columns


def _are_related(table: Tensor) -> bool:
    """Whether some two columns are correlated."""
    return float(torch.corrcoef(table.T).fill_diagonal_(0).abs().max()) > RELATED


def _left(table: Tensor, target: Tensor) -> float:
    """The root mean square that is left of a target by the best weighted sum of columns and a constant."""
    given = torch.cat([table / table.std(0), torch.ones(len(table), 1, dtype=table.dtype)], 1)
    weights: Tensor = torch.linalg.lstsq(given, target[:, None], driver="gelsd").solution[:, 0]
    return float((given @ weights - target).square().mean().sqrt())
