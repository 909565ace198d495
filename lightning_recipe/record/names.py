"""What a batch says about its own tensors: the names of columns, the rate of sounds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_recipe.record.tensors import children, dense

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_COLUMNS = 64
"""Columns of a table that are looked for in the batch."""
RATE = re.compile(r"(^|_)(sample_?rate|sampling_?rate|sr|fs)$", re.IGNORECASE)
RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000)
"""Samples per second in common use; a bare number like these beside a sound is its rate, as in torchaudio's data."""


def column_names(batch: Any, table: Tensor) -> list[str]:
    """The entries of a batch that columns of (N, F) are equal to; their numbers for those that are none.

    Example:
        >>> batch = {"age": torch.tensor([30, 40]), "height": torch.tensor([1.8, 1.7])}
        >>> column_names(batch, torch.tensor([[1.8, 30.0, 5.0], [1.7, 40.0, 6.0]]))
        ['height', 'age', '2']

    """
    names = [str(i) for i in range(min(table.shape[1], MAX_COLUMNS))]
    entries = {
        path.rpartition(".")[2]: tensor.detach().flatten().to(table)
        for path, tensor in dense(batch)
        if tensor.numel() == len(table) and not path.endswith("]") and not tensor.is_complex()
    }
    for i, column in enumerate(table.T[: len(names)]):
        names[i] = next((name for name, entry in entries.items() if torch.equal(entry, column)), names[i])
    return names


def sample_rate(batch: Any) -> float | None:
    """The samples per second that a batch tells of: under that name, or a number in common use.

    Example:
        >>> sample_rate({"audio": torch.zeros(2, 8000), "sample_rate": 16000})
        16000.0
        >>> sample_rate((torch.zeros(2, 8000), torch.tensor([44100, 44100])))
        44100.0

    """
    return next((rate for rate in _rates(batch)), None)


def _rates(batch: Any, depth: int = 0) -> Iterator[float]:
    for name, value in children(batch) if depth < 3 else ():  # noqa: PLR2004
        if isinstance(value, Tensor):
            whole = not value.is_floating_point() and value.ndim <= 1
            numbers = [float(value.max())] if whole and value.numel() and len(value.unique()) == 1 else []
        else:
            numbers = [float(value)] if isinstance(value, (int, float)) and not isinstance(value, bool) else []
        for number in numbers:
            if number in RATES or (RATE.search(str(name)) and number > 1):
                yield number
        yield from _rates(value, depth + 1)
