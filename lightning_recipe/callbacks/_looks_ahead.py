"""Features of a window that hold later values of the series to forecast: centred means, central differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_recipe.callbacks._window import targets_of
from lightning_recipe.record.tensors import dense

if TYPE_CHECKING:
    from lightning_recipe.record.step import Step

REACHES = (1, 2, 3, 6, 12)
"""Steps to both sides that are tried: a mean of up to 25 steps, a Gaussian of a width of 3."""
ROWS, MOST = 4, 4096
"""Equations for each weight that is fitted, at least, and in all, at most."""
FEATURES = 32
"""That are looked at."""
EXACT, APART = 1e-4, 1e-2
"""What a fit leaves, over the standard deviation: of a feature that is computed of these values, in 32 bits; and at
least of one that is not."""
MATTERS = 0.05
"""Share of the weights that later values have, at least."""
OWN = 1.25
"""Times the error, at most, with which the target goes on as the series in the window does; 1.4 of a random walk is two
steps ahead."""
LAGS = 3


@dataclass(frozen=True)
class Ahead:
    """A feature that knows what comes.

    Attributes:
        name: Where the window enters.
        feature: Its place among the features.
        of: The place of the series to forecast.
        steps: How far it looks ahead.
        examples: By which this is told.

    """

    name: str
    feature: int
    of: int
    steps: int
    examples: int


def looks_ahead(step: Step) -> Ahead | None:
    """A feature that is the same weighted sum of values before and after its time, in all windows of a batch.

    These are numbers of shape (N, L, C), or (N, C, L) where there are fewer features than steps.

    That it is no sum of earlier values alone leaves out smooth series, of which the past tells everything; that the
    target goes on as the series does, features that come later than it, such as lags.

    Args:
        step: Its inputs, losses and batch are read.

    Example:
        >>> from torch import nn
        >>> from lightning_recipe.record.step import NetCall, Step
        >>> y = torch.randn(64, 21, generator=torch.Generator().manual_seed(0)).cumsum(1)
        >>> centred, late = y.unfold(1, 3, 1).mean(-1), y.unfold(1, 3, 1).mean(-1)[:, :-1]
        >>> for features in ((y[:, 1:-1], centred), (y[:, 2:-1], late)):
        ...     x = torch.stack(features, 2)
        ...     call = NetCall("net", nn.Linear(2, 1), (), {}, {"net.x": x})
        ...     ahead = looks_ahead(Step([x, y[:, -1]], net_calls=[call]))
        ...     print(ahead and ahead.feature)
        1
        None

    """
    for name, window in dense(step.inputs):
        if window.ndim != 3 or not window.is_floating_point() or min(window.shape[1:]) < 2:  # noqa: PLR2004
            continue
        in_rows = window.shape[1] < window.shape[2] and window.shape[1] <= FEATURES  # as of convolutions
        for values in (window, window.mT) if in_rows else (window,):
            found = _of_any(step, values[..., :FEATURES].detach().double().cpu())
            if found is not None:
                return Ahead(name, *found, len(window))
    return None


def _of_any(step: Step, values: Tensor) -> tuple[int, int, int] | None:
    """What is found with one of the step's targets."""
    for target in targets_of(step) if values.isfinite().all() else ():
        if len(target) == len(values) and target.is_floating_point() and target[0].numel() == 1:
            found = _found(values, target.detach().double().cpu().reshape(-1))
            if found is not None:
                return found
    return None


def _found(values: Tensor, target: Tensor) -> tuple[int, int, int] | None:
    series = list(values.unbind(2))
    changes = [_changes(one, target) for one in series]
    for own in range(len(series)):
        itself = goes_on(series[own], target)
        if not (itself or goes_on(changes[own], target)):
            continue
        for feature in range(len(series)):
            for reach in REACHES if feature != own else ():
                if _is_ahead(series[feature], series[own], reach):
                    if itself or not _is_lag(series[own], series[feature], reach):
                        return feature, own, reach
                    break
    return None


def _is_lag(series: Tensor, feature: Tensor, reach: int) -> bool:
    """Whether a series is another one, some steps late, so that this is none of its features."""
    ways = [(feature[:, :-late].flatten(), series[:, late:].flatten()) for late in range(1, reach + 1)]
    return any(float(torch.corrcoef(torch.stack(way))[0, 1].abs()) > 1 - EXACT for way in ways)


def goes_on(series: Tensor, target: Tensor, most: float = OWN) -> bool:
    """Whether the target follows on a series as its own values do, up to so many times their error."""
    if series.shape[1] <= LAGS + 1:
        return False
    weights, left = told_by_what_was(series)
    told = torch.cat([series[:, -LAGS:], torch.ones(len(series), 1)], 1) @ weights
    error, spread = float((told - target).square().mean().sqrt()), float(target.std())
    return bool(spread > 0 and left > EXACT and error < most * left * float(series.std()) and error < spread)


def _changes(series: Tensor, target: Tensor) -> Tensor:
    """From value to value, in the target's unit, as where the next change is to be forecast."""
    changes = series.diff(dim=1)
    return changes * (target.std() / changes.std().clamp(min=1e-30))


def told_by_what_was(series: Tensor) -> tuple[Tensor, float]:
    """Weights of `LAGS` values, and a constant, that tell the next, and the error over its standard deviation.

    Args:
        series: Of shape (N, L), longer than `LAGS`.

    Example:
        >>> noise = torch.randn(99, 20, generator=torch.Generator().manual_seed(0)).double()
        >>> told_by_what_was(noise)[1] > 0.9, told_by_what_was(noise.cumsum(1))[1] < 0.5
        (True, True)

    """
    rows = series.unfold(1, LAGS + 1, 1)
    return fitted(rows[..., :-1].reshape(-1, LAGS), rows[..., -1].flatten())


def _is_ahead(feature: Tensor, series: Tensor, reach: int) -> bool:
    if series.shape[1] <= 2 * reach:
        return False
    inner = feature[:, reach : feature.shape[1] - reach].flatten()[:MOST]
    rows = series.unfold(1, 2 * reach + 1, 1).reshape(-1, 2 * reach + 1)[:MOST]
    if len(rows) < ROWS * (2 * reach + 1) or not float(inner.std()) > 0:
        return False
    weights, left = fitted(rows, inner)
    later = weights[reach + 1 : -1].abs().sum() / weights[:-1].abs().sum().clamp(min=1e-30)
    return left < EXACT and float(later) > MATTERS and fitted(rows[:, : reach + 1], inner)[1] > APART


def fitted(rows: Tensor, values: Tensor) -> tuple[Tensor, float]:
    """Weights of a linear fit, the last of them a constant, and what it leaves, over the standard deviation.

    Args:
        rows: Of shape (N, D), N > D.
        values: Of shape (N,).

    Example:
        >>> x = torch.randn(9, 2, generator=torch.Generator().manual_seed(0)).double()
        >>> weights, left = fitted(x, 3 * x[:, 0] + 7)
        >>> [round(weight) for weight in weights.tolist()], left < 1e-9
        ([3, 0, 7], True)

    """
    given = torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], 1)
    weights: Tensor = torch.linalg.lstsq(given, values[:, None], driver="gelsd").solution[:, 0]
    return weights, float((given @ weights - values).square().mean().sqrt() / values.std().clamp(min=1e-30))
