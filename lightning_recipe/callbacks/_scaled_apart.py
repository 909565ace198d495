"""Inputs of validation that were standardised by themselves: ``fit_transform`` in place of ``transform``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_recipe.callbacks._near_copies import gathered, largest_input
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightning_recipe.trial.stored import Part

FEW = 20
"""Examples of either side, at least."""
EXACT = 1e-4
"""How little a mean may differ from 0, and a variance from 1, in standard deviations. Of 1,000 examples that others
were standardised with, a mean differs by 0.03, and one in 400 columns by less than this; in both, one in 200,000."""
VALUES = 2**26
"""Numbers that are read, at most: a fifth of a second."""


def scaled_apart(train: list[Part], val: list[Part]) -> Outcome | None:
    """Look for a mean of exactly 0 and a variance of exactly 1 on either side, of each column or of all numbers.

    `advice`, since what is right for one side may be meant for each, as for a subject or a recording.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from lightning_recipe.trial.stored import Part
        >>> def part(x):
        ...     return [Part(TensorDataset(x, torch.zeros(len(x))), range(len(x)))]
        >>> one, other = torch.rand(400, 3), 5 + torch.rand(200, 3)
        >>> (mean, std), own = (one.mean(0), one.std(0)), (other - other.mean(0)) / other.std(0)
        >>> scaled_apart(part((one - mean) / std), part(own)).code
        'scaled_apart'
        >>> scaled_apart(part((one - mean) / std), part((other - mean) / std))

    """
    one, other = gathered(train), gathered(val)
    name = largest_input(one, other)
    if name is None or min(len(one[name]), len(other[name])) < FEW or one[name].size + other[name].size > VALUES:
        return None
    if not (_standardised(one[name]) and _standardised(other[name])):
        return None
    return Outcome(
        Status.ADVICE,
        "scaled_apart",
        f"`{name}` of training has a mean of exactly 0 and a standard deviation of exactly 1, and so has that of "
        "validation: each was standardised by itself, and the same value enters as two different numbers",
        "scaler.transform(...) in place of fit_transform for validation: mean and standard deviation of training for "
        "both; nothing if each subject or recording is meant to be scaled by itself",
        {"training": len(one[name]), "validation": len(other[name])},
    )


def _standardised(values: NDArray[Any]) -> bool:
    """Whether each column of a table is, but for constant ones, or all numbers together."""
    if values.dtype.kind != "f":
        return False
    table = values.reshape(len(values), -1).astype(np.float64)
    whole = table.reshape(-1, 1)
    return any(_exactly(columns) for columns in ([table, whole] if values.ndim == 2 else [whole]))  # noqa: PLR2004


def _exactly(columns: NDArray[np.float64]) -> bool:
    mean, variance, count = columns.mean(0), columns.var(0), len(columns)
    varied = variance > 0
    by_count = np.abs(variance - 1) < EXACT
    unbiased = np.abs(variance * count / max(1, count - 1) - 1) < EXACT
    return bool(varied.any()) and bool((~varied | ((np.abs(mean) < EXACT) & (by_count | unbiased))).all())
