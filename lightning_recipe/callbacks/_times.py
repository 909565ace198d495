"""Rows with a time: dealt out to both sides by chance, though neighbours in time tell the target, or held out first."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lightning_recipe.callbacks._groups import MIXED, is_timed
from lightning_recipe.callbacks._looks_ahead import FEATURES, goes_on
from lightning_recipe.callbacks._window import is_table
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.tensors import tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from lightning_recipe.callbacks._groups import Ids
    from lightning_recipe.record.step import Step

FEWEST = 50
"""Validation examples, at least."""
OWN = 0.9
"""Examples with a time of their own: others are of a calendar, such as an hour of the day."""
ALIKE = 0.5
"""Correlation of validation targets with those of training that are nearest in time, from which on these tell them."""

_COUNTDOWN = re.compile("ago|until|left|remain|before|to_", re.IGNORECASE)  # what runs backwards
AHEAD = 2
"""Times the error, at most, with which what is to be forecast goes on as the series does: of a few steps, too."""


def numbers(batch: Any) -> dict[str, Any]:
    """What a batch has one number of for each example, by path; nothing if none is called a time."""
    flat = {
        path: tensor.detach().flatten().clone()
        for path, tensor in tensors(batch, "batch")
        if tensor.ndim and tensor.numel() == len(tensor) and not tensor.is_complex() and _is_dense(tensor)
    }
    return flat if any(is_timed(_last(path)) for path in flat) else {}


def is_forecast(step: Step, target: str) -> bool:
    """Whether a target of the batch goes on from a series in the batch, as the values of this follow one another.

    Example:
        >>> import torch
        >>> from lightning_recipe.record.step import Step
        >>> series = torch.randn(64, 12, generator=torch.Generator().manual_seed(0)).cumsum(1)
        >>> batch = {"past": series[:, :9], "next": series[:, 9:], "other": series[:, 9].flip(0)}
        >>> is_forecast(Step(batch), "batch.next"), is_forecast(Step(batch), "batch.other")
        (True, False)

    """
    numbers = {path: t.detach().double().cpu() for path, t in tensors(step.batch, "batch") if _is_row(t)}
    aims = numbers.pop(target, None)
    if aims is None:
        return False
    first = (aims if aims.ndim < 3 else aims[:, 0]).reshape(len(aims), -1)  # noqa: PLR2004
    for rows in numbers.values():
        if rows.ndim < 2 or len(rows) != len(aims):  # noqa: PLR2004
            continue
        series = rows[..., None] if rows.ndim == 2 else rows[..., :FEATURES]  # noqa: PLR2004
        for channel in series.unbind(2):
            wanted = [first[:, 0]] if aims.ndim < 3 else first[:, :FEATURES].unbind(1)  # noqa: PLR2004
            if channel.shape[1] > 1 and not is_table(channel) and any(goes_on(channel, one, AHEAD) for one in wanted):
                return True
    return False


def verdict(found: Mapping[str, Ids], target: str, *, forecast: bool = False) -> Outcome | None:
    """`advice` where validation lies among training in time, and gets its targets from there, or is to forecast.

    And where it is to forecast, and all of it lies before training.

    Args:
        found: The numbers of training and of validation, by path.
        target: The path of what is to be said.
        forecast: Whether this goes on from a series that the network is given.

    Example:
        >>> from lightning_recipe.callbacks._groups import Ids
        >>> time = np.random.default_rng(0).permutation(400)
        >>> by_path = {"batch.time": Ids(time[:300], time[300:], None)}
        >>> by_path["batch.load"] = Ids(*(np.sin(part / 50) for part in by_path["batch.time"][:2]), None)
        >>> verdict(by_path, "batch.load").code
        'between_in_time'
        >>> by_path["batch.time"] = Ids(np.arange(300) + 100, np.arange(100), None)
        >>> verdict(by_path, "batch.load", forecast=True).code, verdict(by_path, "batch.load")
        ('before_in_time', None)

    """
    if is_timed(_last(target)) or not (forecast or target in found):
        return None
    for path, times in found.items():
        both = np.concatenate([times.train, times.val]).astype(float)
        calendar = len(np.unique(both)) < OWN * len(both)
        if not is_timed(_last(path)) or calendar or len(times.val) < FEWEST or not np.isfinite(both).all():
            continue
        if forecast and times.val.max() < times.train.min() and not _COUNTDOWN.search(_last(path)):
            return _before(_last(path), len(times.val))
        held_out = np.arange(len(both)) >= len(times.train)
        order = np.argsort(both, kind="stable")
        share = held_out.mean()
        mixed = (np.diff(held_out[order].astype(int)) != 0).mean() / (2 * share * (1 - share))
        correlation = _with_neighbours(times, found[target]) if target in found else 0.0
        if mixed >= MIXED and (correlation >= ALIKE or forecast):
            told = (
                f"and the nearest there tells their target (correlation {correlation:.2f})"
                if correlation >= ALIKE
                else "while the task is to forecast what comes next"
            )
            return Outcome(
                Status.ADVICE,
                "between_in_time",
                f"validation lies between examples of training by `{_last(path)}`, {told}: the score is that of "
                "gaps, not of a time to come",
                "if it is to be used on what comes later, split by time, and leave a gap",
                {"correlation": correlation, "mixed": mixed},
            )
    return None


def _before(name: str, count: int) -> Outcome:
    return Outcome(
        Status.ADVICE,
        "before_in_time",
        f"all of validation lies before training by `{name}`, while the task is to forecast what comes next: what is "
        "known of the time between is used to foretell it",
        "validate on the last stretch of time, as it will be used; nothing if this is one of several folds",
        {"validation": float(count)},
    )


def _with_neighbours(times: Ids, aims: Ids) -> float:
    """Correlation of validation targets with those of training that are nearest in time."""
    order = np.argsort(times.train)
    right = np.searchsorted(times.train[order], times.val).clip(1, len(order) - 1)
    left = right - 1
    nearer = abs(times.train[order][left] - times.val) <= abs(times.train[order][right] - times.val)
    near = aims.train[order[np.where(nearer, left, right)]].astype(float)
    own: NDArray[Any] = aims.val.astype(float)
    if near.std() == 0 or own.std() == 0:
        return 0.0
    return float(np.corrcoef(near, own)[0, 1])


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _is_row(tensor: Tensor) -> bool:
    dense = tensor.layout is torch.strided and not tensor.is_quantized
    return dense and tensor.is_floating_point() and 0 < tensor.ndim < 4 and bool(tensor.isfinite().all())  # noqa: PLR2004


def _is_dense(tensor: Tensor) -> bool:
    return not tensor.is_sparse and not tensor.is_quantized
