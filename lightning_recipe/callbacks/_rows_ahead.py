"""Columns of a table in the order of time that are computed of the target of their own row, or of later ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lightning_recipe.trial.stored import arrays, parts_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

REACH = 24
"""Rows to both sides that are tried: a mean of up to 49, or a day of hours."""
ROWS, COLUMNS = 4096, 64
"""That are looked at."""
EXACT, APART = 1e-4, 1e-2
"""What a fit leaves, over the standard deviation: of a column that is computed of these values, in 32 bits; and at
least, with what was before alone, of one that is not."""
MATTERS = 0.02
"""Share of a weight in all, at least, to be one."""


class Ahead(NamedTuple):
    """A column that knows the target of its row.

    Attributes:
        table: Its name in the data set.
        column: Its place.
        target: The name of the target.
        steps: How many rows ahead it looks; 0 for its own.
        rows: By which this is told.

    """

    table: str
    column: int
    target: str
    steps: int
    rows: int


def rows_ahead(loader: Any) -> Ahead | None:
    """A column that is the same weighted sum, in all rows, of targets among which are that of the row or later ones.

    That it is no sum of earlier targets alone leaves out series that the past tells. A column that is the target of its
    row is left to who looks at the columns of a batch. Where values of as many rows before and after are columns, each
    by itself, a gap is to be filled.

    Args:
        loader: Of training.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> y = torch.randn(400, generator=torch.Generator().manual_seed(0)).cumsum(0)
        >>> before, centred = y.roll(1), (y.roll(1) + y + y.roll(-1)) / 3
        >>> rows_ahead(DataLoader(TensorDataset(torch.stack([before, centred], 1), y))).column
        1
        >>> rows_ahead(DataLoader(TensorDataset(torch.stack([before, before.roll(1)], 1), y)))

    """
    for source in {id(part.source): part.source for part in parts_of(loader) or []}.values():
        stored = {name: one[:ROWS] for name, one in arrays(source).items() if one.dtype.kind == "f"}
        targets = {name: one.reshape(-1).astype(np.float64) for name, one in stored.items() if one[:1].size == 1}
        tables = {name: one[:, :COLUMNS].astype(np.float64) for name, one in stored.items() if one.ndim == 2}  # noqa: PLR2004
        for target, y in targets.items():
            for name, table in tables.items():
                if name != target and (found := _found(table, y)) is not None:
                    return Ahead(name, found[0], target, found[1], len(y))
    return None


def _found(table: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[int, int] | None:
    """The column that looks furthest ahead, and how far."""
    width = 2 * REACH + 1
    inner = table[REACH : len(table) - REACH]
    if len(inner) < 4 * width or not (np.isfinite(inner).all() and np.isfinite(y).all() and y.std() > 0):
        return None
    around = np.lib.stride_tricks.sliding_window_view((y - y.mean()) / y.std(), width)
    varied = np.flatnonzero(inner.std(0) > 0)
    columns = (inner[:, varied] - inner[:, varied].mean(0)) / inner[:, varied].std(0)
    weights, left = _fit(around, columns)
    known = (left < EXACT) & (_fit(around[:, :REACH], columns)[1] > APART)
    used = np.abs(weights) > MATTERS * np.abs(weights).sum(0)
    alone = {int(np.flatnonzero(used[:, i])[0]) - REACH for i in np.flatnonzero((left < EXACT) & (used.sum(0) == 1))}
    found = []
    for i in np.flatnonzero(known):
        ahead = int(np.flatnonzero(used[:, i]).max(initial=0)) - REACH
        to_be_filled = used[:, i].sum() == 1 and (ahead == 0 or -ahead in alone)
        if ahead >= 0 and not to_be_filled:
            found.append((ahead, int(varied[i])))
    return max(found)[::-1] if found else None


def _fit(given: NDArray[Any], wanted: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights of a linear fit of each column, and what it leaves, over the standard deviation."""
    rows = np.concatenate([given, np.ones((len(given), 1))], 1)
    weights = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    return weights[:-1], np.sqrt(np.square(rows @ weights - wanted).mean(0))
