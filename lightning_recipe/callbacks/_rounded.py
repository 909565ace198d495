"""Numbers far from 0 that 32 bits round to multiples of more than 1, such as time stamps and ids."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.tensors import dense

if TYPE_CHECKING:
    from collections.abc import Iterator

OFFSET = 50.0
"""Times their standard deviation that numbers lie away from 0, from which on it is what they have in common that takes
the digits; of amounts, which begin near 0, none do."""
FEW = 8
"""Different numbers, at least."""
COLUMNS, ROWS = 64, 1024
"""That are looked at."""


def rounded(batch: Any) -> Iterator[tuple[str, Outcome]]:
    """An `advice` on entries of a batch in 32 bits or fewer that have no room for whole numbers any more.

    Args:
        batch: As it comes out of the loader.

    Yields:
        The path, and the verdict.

    Example:
        >>> stamps = 1_769_904_000 + 61 * torch.arange(64)
        >>> [outcome.evidence["multiple"] for _, outcome in rounded([stamps.float(), stamps.double(), stamps])]
        [128.0]

    """
    for path, tensor in dense(batch, "batch"):
        if not tensor.is_floating_point() or tensor.dtype is torch.float64 or not tensor.ndim or not tensor.numel():
            continue
        rows = tensor.detach()[:, :COLUMNS] if tensor.ndim == 2 else tensor.detach().reshape(-1, 1)  # noqa: PLR2004
        columns = rows[:: max(1, len(rows) // ROWS)].T
        for column, values in enumerate(columns.double()):
            known = values[values.isfinite()]
            if len(known) < FEW:
                continue
            mean, deviation = float(known.mean()), float(known.std())
            step = 2.0 ** math.floor(math.log2(abs(mean) or 1.0)) * torch.finfo(tensor.dtype).eps
            if step > 1 and 0 < OFFSET * deviation < abs(mean) and len(known.unique()) >= FEW:
                which = f"column {column} of {path}" if len(columns) > 1 else path
                yield (
                    path,
                    Outcome(
                        Status.ADVICE,
                        "rounded",
                        f"{which} holds numbers around {mean:.4g} in {str(tensor.dtype).removeprefix('torch.')}, which "
                        f"rounds them to multiples of {step:g}: what lies between is lost",
                        "subtract what they have in common, such as the first time stamp, before they become floats; "
                        "or float64 until then",
                        {"multiple": step, "mean": mean, "std": deviation},
                    ),
                )
                break
