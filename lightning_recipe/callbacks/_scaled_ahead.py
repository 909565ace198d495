"""Windows that were scaled by statistics of themselves and of what is to be forecast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lightning_recipe.callbacks._window import targets_of
from lightning_recipe.record.tensors import dense

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from lightning_recipe.record.step import Step

EXAMPLES, LENGTH = 8, 4
"""Examples, and steps of a window, without which nothing is said."""
EXACT = 1e-3
"""Difference to 0 and 1 that is rounding, or a small number that was added to what was divided by."""
APART = 0.02
"""Difference to 0, on average, that a mean of the window alone has at least."""
HIDDEN = 0.1
"""Share of examples, at least, whose highest or lowest value is among those to forecast."""
ONCE = 0.9
"""Share of examples, at least, that are highest and lowest once: others are on and off, or filled up."""


@dataclass(frozen=True)
class Scaled:
    """How a window and its target were scaled together.

    Attributes:
        name: Where the window enters.
        how: In words, what they are together.
        alone: The mean of a window alone, on average of its absolute value; or the share of windows that lack a bound.
        examples: By which this is told, all that there are.

    """

    name: str
    how: str
    alone: float
    examples: int


def scaled_ahead(step: Step) -> Scaled | None:
    """A window that is standardised, or brought to a range, together with its target, and not by itself.

    Args:
        step: Its inputs, losses and batch are read.

    Example:
        >>> from torch import nn
        >>> from lightning_recipe.record.step import NetCall, Step
        >>> series = torch.randn(32, 9, generator=torch.Generator().manual_seed(0)).cumsum(1)
        >>> for seen in (series, series[:, :8]):
        ...     x = (series - seen.mean(1, keepdim=True)) / seen.std(1, keepdim=True)
        ...     call = NetCall("net", nn.Linear(8, 1), (), {}, {"net.x": x[:, :8]})
        ...     found = scaled_ahead(Step([x[:, :8], x[:, 8]], net_calls=[call]))
        ...     print(found and found.how)
        mean 0 and standard deviation 1
        None

    """
    for name, window in dense(step.inputs):
        if window.ndim not in {2, 3} or not window.is_floating_point() or len(window) < EXAMPLES:
            continue
        for target in targets_of(step):
            if not target.is_floating_point() or len(target) != len(window):
                continue
            for series, future in _series(window.detach().double(), target.detach().double().to(window.device)):
                told = _standardised(series, future) or _in_range(series, future)
                if told:
                    return Scaled(name, *told, len(window))
    return None


def _series(window: Tensor, target: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each series of the window, of shape (N, L), with what may be its future, of shape (N, H)."""
    if window.ndim == 2:  # noqa: PLR2004
        yield window, target.reshape(len(target), -1)
        return
    for times in (window, window.mT):  # (N, L, C) and (N, C, L)
        channels = times.shape[2]
        for channel in range(min(channels, 32)):
            if target[0].numel() == target[0].numel() // channels * channels and target.ndim == 3:  # noqa: PLR2004
                for futures in (target, target.mT):
                    if futures.shape[2] == channels:
                        yield times[..., channel], futures[..., channel]
            if target[0].squeeze().ndim <= 1:
                yield times[..., channel], target.reshape(len(target), -1)


def _standardised(series: Tensor, future: Tensor) -> tuple[str, float] | None:
    both = torch.cat([series, future], 1)
    if series.shape[1] < LENGTH or not both.isfinite().all() or not both.mean(1).abs().max() < EXACT:
        return None
    one = any(bool((both.std(1, correction=by) - 1).abs().max() < EXACT) for by in (0, 1))
    alone = float(series.mean(1).abs().mean())
    return ("mean 0 and standard deviation 1", alone) if one and alone > APART else None


def _in_range(series: Tensor, future: Tensor) -> tuple[str, float] | None:
    both = torch.cat([series, future], 1)
    if series.shape[1] < LENGTH or not both.isfinite().all():
        return None
    low, high = both.amin(1, keepdim=True), both.amax(1, keepdim=True)
    for lowest in (0.0, -1.0):
        if (low - lowest).abs().max() < EXACT and (high - 1).abs().max() < EXACT:
            once = ((both == low).sum(1) == 1) & ((both == high).sum(1) == 1)
            lacks = (series.amin(1) > lowest + EXACT) | (series.amax(1) < 1 - EXACT)
            if once.double().mean() >= ONCE and lacks.double().mean() >= HIDDEN:
                return f"a lowest value of {lowest:g} and a highest of 1", float(lacks.double().mean())
    return None
