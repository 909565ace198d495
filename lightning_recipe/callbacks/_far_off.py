"""Numbers that enter a network in a narrow band far from 0, so that examples look alike to weights that were drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from torch import Tensor

BAND = 0.2
"""Width of the band, from the smallest to the largest value, as a share of their mean: that of years is 0.01, of
temperatures in kelvin 0.1, of digits that were divided by 255 in place of 16 and normalised to [-1, 1] 0.13."""
SPREAD = 0.05
"""Standard deviation as a share of the mean, likewise, whatever the extremes: pictures of a thermal camera whose counts
were divided by the largest that 14 bits hold have 0.04; photographs between 0 and 1 have 0.5."""
FAR = 0.25
"""Mean from which on it is far from 0."""
ENOUGH = 16
"""Values that show how wide it is."""
KINDS = 2
"""Different values, more than which are numbers, and no marks."""


class Band(NamedTuple):
    """Where values lie.

    Attributes:
        column: The feature; None for all values together.
        low: The smallest of them.
        high: The largest.
        times: Their mean, in standard deviations.

    """

    column: int | None
    low: float
    high: float
    times: float


def far_off(values: Tensor, *, by_feature: bool) -> Band | None:
    """The band in which all values lie, or those of one feature; None where they are spread, or constant.

    Args:
        values: What enters a layer, of shape (N, ...).
        by_feature: Whether the last dimension holds features with a weight each.

    Example:
        >>> import torch
        >>> x = torch.rand(64, 3, generator=torch.Generator().manual_seed(0))
        >>> far_off(x, by_feature=True), far_off(x / 16 - 1, by_feature=False).column
        (None, None)
        >>> far_off(x * torch.tensor([1, 20, 1]) + torch.tensor([0, 280, 0]), by_feature=True).column
        1

    """
    tables: list[tuple[int | None, Tensor]] = [(None, values.flatten())]
    if by_feature:
        tables += enumerate(values.flatten(0, -2).T)
    for column, numbers in tables:
        low, high = float(numbers.min()), float(numbers.max())
        middle = abs(float(numbers.double().mean()))
        deviation = float(numbers.double().std()) if len(numbers) > 1 else 0.0
        narrow = low < high and min((high - low) / BAND, deviation / SPREAD) <= middle
        if middle >= FAR and narrow and numbers.numel() >= ENOUGH and len(numbers.unique()) > KINDS:
            return Band(column, low, high, middle / deviation)
    return None


def told(band: Band, layer: str) -> Outcome:
    """What to say of it."""
    which = "all numbers" if band.column is None else f"all numbers of feature {band.column}"
    return Outcome(
        Status.ADVICE,
        "far_off",
        f"{which} that enter {layer} lie between {band.low:.4g} and {band.high:.4g}: what they have in common is "
        f"{band.times:.0f} times as large as what tells them apart",
        "subtract the mean of the training data and divide by their standard deviation; if images were divided by 255, "
        "see that their largest value was that",
        {"low": band.low, "high": band.high, "times": band.times},
    )
