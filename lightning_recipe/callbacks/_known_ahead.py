"""Features of the steps to forecast that are computed of what is to be forecast, as a rolling mean up to its day."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lightning_recipe.callbacks._looks_ahead import APART, EXACT, FEATURES, MATTERS, MOST, ROWS, fitted, goes_on
from lightning_recipe.callbacks._window import targets_of
from lightning_recipe.record.tensors import dense

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from lightning_recipe.record.step import Step

AROUND = ((0, 0), (1, 0), (2, 0), (3, 0), (6, 0), (1, 1), (2, 2), (3, 3))
"""Steps before and after its own that are tried: means of a week that end with its day, or have it in the middle."""


@dataclass(frozen=True)
class Known:
    """A feature of the steps to forecast that tells what comes.

    Attributes:
        name: Where it enters.
        feature: Its place among the features.
        before: Where the window with the values before enters.
        steps: How many steps later than its own it looks; 0 for its own.
        examples: By which this is told.

    """

    name: str
    feature: int
    before: str
    steps: int
    examples: int


def known_ahead(step: Step) -> Known | None:
    """A feature that is the same weighted sum of values around its step, that to forecast or later ones among them.

    That it is no sum of earlier values alone leaves out what is known of the past; that the values to forecast go on
    where a window of the same inputs ends, what is to be restored, such as a sharp signal from its moving average.

    Args:
        step: Its inputs, losses and batch are read.

    Example:
        >>> from torch import nn
        >>> from lightning_recipe.record.step import NetCall, Step
        >>> y = torch.randn(64, 30, generator=torch.Generator().manual_seed(0)).cumsum(1)
        >>> mean, target = y.unfold(1, 3, 1).mean(-1), y[:, 24:, None]
        >>> for late in (0, 1):
        ...     ahead = torch.stack([mean[:, 22 - late : 28 - late], torch.randn(64, 6)], 2)
        ...     call = NetCall("net", nn.Linear(2, 1), (), {}, {"net.past": y[:, :24], "net.ahead": ahead})
        ...     known = known_ahead(Step([y[:, :24], ahead, target[..., 0]], net_calls=[call]))
        ...     print(known and (known.name, known.feature))
        ('net.ahead', 0)
        None

    """
    numbers = {name: t for name, t in dense(step.inputs) if t.is_floating_point() and t.ndim in {2, 3}}
    for target in _horizons(step):
        for name, ahead in numbers.items():
            if ahead.ndim != 3 or ahead.shape[:2] != target.shape:  # noqa: PLR2004 - (N, T, F)
                continue
            for before, series in _series(numbers, target, but=name):
                for feature in range(min(ahead.shape[2], FEATURES)):
                    steps = _looks(ahead[..., feature].detach().double().cpu(), series, target.shape[1])
                    if steps is not None:
                        return Known(name, feature, before, steps, len(target))
    return None


def _horizons(step: Step) -> Iterator[Tensor]:
    """Targets of several steps, of shape (N, T)."""
    batch = [t for _, t in dense(step.batch) if t.is_floating_point() and t.ndim == 2]  # noqa: PLR2004 - no loss is seen
    for target in (*targets_of(step), *(batch if not step.loss_calls else ())):
        several = target.flatten(1) if target.ndim in {2, 3} else target
        if target.is_floating_point() and several.ndim == 2 and several.shape[1] > 1 and bool(several.isfinite().all()):  # noqa: PLR2004
            yield several.detach().double().cpu()


def _series(numbers: dict[str, Tensor], target: Tensor, *, but: str) -> Iterator[tuple[str, Tensor]]:
    """What came before, and goes on with the target: windows with it, of shape (N, L + T)."""
    for name, window in numbers.items():
        if name == but or len(window) != len(target) or not bool(window.isfinite().all()):
            continue
        for values in (window.unsqueeze(-1) if window.ndim == 2 else window[..., :FEATURES]).unbind(-1):  # noqa: PLR2004
            past = values.detach().double().cpu()
            if goes_on(past, target[:, 0]):
                yield name, torch.cat([past, target], 1)


def _looks(feature: Tensor, series: Tensor, horizon: int) -> int | None:
    """How many steps after its own a feature of shape (N, T) looks; None if it tells nothing of what comes."""
    first = series.shape[1] - horizon
    for before, after in AROUND:
        if before > first or after >= horizon:
            continue
        around = series[:, first - before :].unfold(1, before + 1 + after, 1)
        wanted, rows = feature[:, : around.shape[1]].flatten()[:MOST], around.flatten(0, 1)[:MOST]
        if len(rows) < ROWS * rows.shape[1] or not float(wanted.std()) > 0:
            continue
        weights, left = fitted(rows, wanted)
        sizes = weights[:-1].abs() / weights[:-1].abs().sum().clamp(min=1e-30)
        later = sizes[before:] > MATTERS
        if left < EXACT and bool(later.any()) and (not before or fitted(rows[:, :before], wanted)[1] > APART):
            return int(later.nonzero().max())
    return None
