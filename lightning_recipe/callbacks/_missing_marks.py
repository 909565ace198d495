"""Numbers that stand for what is missing, such as -999, among the values of a feature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_recipe.finding import Outcome, Status, listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

FEWEST = 64
"""Rows, at least."""
OFTEN, TIMES = 0.005, 5
"""Share of the rows with the same number, at least, and how many these are, at least."""
FAR = 2.0
"""Times the range of all other values that it lies away from them: no outlier comes again to the last digit."""
OTHERS = 10
"""Different values besides, at least: of a feature with fewer, one is as good as another."""


def marks(rows: NDArray[np.float64], path: str) -> Iterator[Outcome]:
    """`advice` on the columns of a table, standardised or not, that hold such numbers.

    Args:
        rows: Of shape (N, F).
        path: Of the table in the batch.

    Example:
        >>> x = np.random.default_rng(0).normal(20, 5, (200, 2))
        >>> x[::20, 1] = -999
        >>> [(outcome.code, outcome.evidence["share"]) for outcome in marks(x, "batch.x")]
        [('missing_as_number', 0.05)]

    """
    found = {}
    for column, all_values in enumerate(rows.T if len(rows) >= FEWEST else ()):
        values = all_values[np.isfinite(all_values)]
        for end in (values.min(), values.max()) if len(values) else ():
            others, share = values[values != end], float((values == end).mean())
            often = OFTEN <= share < 1 and len(values) - len(others) >= TIMES
            if often and len(np.unique(others)) >= OTHERS:
                away = float(np.abs(others - end).min() / np.ptp(others))
                if away > FAR:
                    found[column] = end, share, away
    if found:
        column, (end, share, away) = next(iter(found.items()))
        more = f"; likewise {listed(str(other) for other in [*found][1:])}" if len(found) > 1 else ""
        yield Outcome(
            Status.ADVICE,
            "missing_as_number",
            f"column {column} of {path} is {end:.3g} in {share:.1%} of {len(rows)} rows, {away:.3g} times the "
            f"range of all other values away from these: a mark for what is missing, taken for a number{more}",
            "fill in what is missing before mean and standard deviation are computed, and say where in another column",
            {"columns": len(found), "share": share, "away": away},
        )
