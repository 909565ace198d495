"""The scale of a tensor: its statistics, and the values that black and white are to stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lightning_recipe.figures.kinds import Kind

if TYPE_CHECKING:
    from torch import Tensor

MAX_MEASURED = 2**23
"""Elements that statistics are computed of; of larger tensors every second, third, ... is taken."""
RAW_PIXELS = 127
"""Non-negative values above this, and up to 255, are taken for pixels of 8 bits that were never scaled."""
PICTURED = {Kind.IMAGE, Kind.BANDS, Kind.VOLUME}
"""Kinds that are drawn from black to white."""


@dataclass(frozen=True)
class Statistics:
    """Of all values of a tensor; mean to max of the finite ones, NaN where there is none.

    Attributes:
        mean: Their mean.
        std: Their standard deviation.
        low: The smallest.
        high: The largest.
        nan: Share of NaN among all values.
        inf: Share of infinities among all values.

    """

    mean: float = math.nan
    std: float = math.nan
    low: float = math.nan
    high: float = math.nan
    nan: float = 0.0
    inf: float = 0.0


def share(part: float) -> str:
    """A share in percent, never rounded to none.

    Example:
        >>> share(0.0), share(0.001), share(0.25)
        ('0%', 'below 1%', '25%')

    """
    return f"{part:.0%}" if part == 0 or part >= 0.01 else "below 1%"  # noqa: PLR2004


def statistics(tensor: Tensor) -> Statistics:
    """Of all values, or of every second, third, ... of many; computed where the tensor is.

    Example:
        >>> found = statistics(torch.tensor([0.0, 2.0, float("nan"), 1.0]))
        >>> found.mean, found.low, found.high, found.nan
        (1.0, 0.0, 2.0, 0.25)

    """
    values = plain(tensor).flatten()
    if values.numel() == 0:
        return Statistics()
    every = math.ceil(values.numel() / MAX_MEASURED)
    values = values[::every]
    values = values.double()  # masks of -3e38 have a sum
    low, high = (float(value) for value in values.aminmax())
    nan = inf = 0.0
    if not (math.isfinite(low) and math.isfinite(high)):
        nan, inf = float(values.isnan().float().mean()), float(values.isinf().float().mean())
        values = values[values.isfinite()]
        if values.numel() == 0:
            return Statistics(nan=nan, inf=inf)
        low, high = (float(value) for value in values.aminmax())
    mean = values.mean()
    return Statistics(float(mean), float((values - mean).norm() / values.numel() ** 0.5), low, high, nan, inf)


def plain(tensor: Tensor) -> Tensor:
    """The values of any tensor as a strided, real, unquantised one: magnitudes if complex, what is stored if sparse.

    Example:
        >>> plain(torch.tensor([3 + 4j]))
        tensor([5.])

    """
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.is_nested or tensor.layout is not torch.strided:
        tensor = tensor.coalesce() if tensor.layout is torch.sparse_coo else tensor
        tensor = tensor.values()
    return tensor.abs() if tensor.is_complex() else tensor


def span_of(values: Statistics, dtype: torch.dtype, kind: Kind) -> tuple[float, float]:
    """The values that black and white are to stand for: the usual range that holds all, else their own, rounded out.

    Example:
        >>> span_of(Statistics(0.1, 0.1, 0.0, 0.4), torch.float32, Kind.IMAGE)
        (0.0, 1.0)
        >>> span_of(Statistics(0.1, 1.0, -2.117, 2.64), torch.float32, Kind.IMAGE)
        (-2.2, 2.7)

    """
    low, high = values.low, values.high
    if math.isnan(low):
        return (0.0, 1.0)
    if kind in PICTURED and low >= 0 and high <= 255 and (dtype is torch.uint8 or high > RAW_PIXELS):  # noqa: PLR2004
        return (0.0, 255.0) if high > 1 else (0.0, 1.0)
    if kind in {*PICTURED, Kind.AUDIO} and low >= -1 and high <= 1:
        return (-1.0 if low < 0 or kind is Kind.AUDIO else 0.0, 1.0)
    unit = 10.0 ** (math.floor(math.log10(max(abs(low), abs(high)) or 1.0)) - 1)  # of the second digit
    return (math.floor(round(low / unit, 6)) * unit, math.ceil(round(high / unit, 6)) * unit)
