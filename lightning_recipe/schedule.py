"""What a learning rate will be: schedulers stepped to the end of a run."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, bisect_right
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR, OneCycleLR, SequentialLR

from lightning_recipe.finding import in_short

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch.optim import Optimizer

LONGEST = 10_000
"""Steps of a schedule that are taken one by one, about a quarter of a second; more are not known, unless by leaps."""
FIRST = 200
"""Steps of a long schedule that are taken one by one, to see whether leaps arrive at the same rates."""
POINTS = 400
"""Points of a long schedule at which its rates are computed by leaps."""


@dataclass
class Schedule:
    """The learning rates that one optimiser will have.

    Attributes:
        optimizer: Its index.
        configs: Lightning's, of its schedulers: scheduler, interval, frequency, monitor.
        steps: Batches trained on from which on the rates hold; the present first.
        rates: The rate of each parameter group from then on.
        known: Whether that is all: not where schedulers are stepped by hand, or on a plateau, which nobody foresees, or
            can't be copied.
        complete: Whether it goes to the end of the run.
        error: What a scheduler raises when it is stepped after `fails` batches; empty if nothing.
        fails: See `error`; infinity if nothing is raised.

    """

    optimizer: int
    configs: list[Any]
    steps: list[int]
    rates: list[list[float]]
    known: bool = True
    complete: bool = True
    error: str = ""
    fails: float = math.inf


def foresee(
    schedule: Schedule, copies: Callable[[], tuple[Optimizer, list[Any]]], stepped: Sequence[Sequence[int]]
) -> None:
    """Enter into a schedule what stepping its schedulers makes of the rates.

    Up to `LONGEST` steps are taken. Most of torch's schedulers know the rate after any number of steps; those of a
    longer run are asked for it at `POINTS` of them.

    Args:
        schedule: Holds the present rates.
        copies: Makes the optimiser, and its schedulers, that are stepped.
        stepped: After how many batches each scheduler is stepped.

    """
    optimizer, schedulers = copies()
    order = heapq.merge(*(zip(steps, repeat(i)) for i, steps in enumerate(stepped)))
    leaps = len(stepped) == 1 and len(stepped[0]) > FIRST + POINTS and _knows_all(schedulers[0])
    _walk(schedule, optimizer, schedulers, islice(order, FIRST if leaps else LONGEST))
    if leaps and not schedule.error:
        if _leaps_agree(schedule, *copies()):
            _leap_on(schedule, *copies(), stepped[0])
            return
        _walk(schedule, optimizer, schedulers, islice(order, LONGEST - FIRST))
    schedule.complete = schedule.complete and (bool(schedule.error) or next(order, None) is None)


def _walk(schedule: Schedule, optimizer: Optimizer, schedulers: list[Any], order: Iterator[tuple[int, int]]) -> None:
    vars(optimizer)["_opt_called"] = True  # or it warns that nothing was trained
    for step, i in order:
        try:
            schedulers[i].step()
        except Exception as error:  # noqa: BLE001 - it takes arguments, or was stepped past its end
            schedule.error, schedule.fails = in_short(error), step
            return
        schedule.steps.append(step)
        schedule.rates.append(rates_of(optimizer))


def _knows_all(scheduler: Any) -> bool:
    """Whether the rate depends on the number of steps alone."""
    if isinstance(scheduler, SequentialLR):
        return all(map(_knows_all, scheduler._schedulers))  # noqa: SLF001 - no public name
    known = isinstance(scheduler, LambdaLR | OneCycleLR | CosineAnnealingWarmRestarts)
    return known or hasattr(scheduler, "_get_closed_form_lr")


def _leap(scheduler: Any, count: int) -> None:
    if isinstance(scheduler, SequentialLR):
        begins = [0, *scheduler._milestones]  # noqa: SLF001
        i = bisect_right(begins, count) - 1
        _leap(scheduler._schedulers[i], count - begins[i])  # noqa: SLF001
    else:
        scheduler.step(count)


def _leaps_agree(schedule: Schedule, optimizer: Optimizer, schedulers: list[Any]) -> bool:
    (scheduler,) = schedulers
    start = scheduler.last_epoch
    with suppress(Exception):
        for count in (FIRST, FIRST // 2, FIRST // 8, 1):
            _leap(scheduler, start + count)
            if not np.allclose(rates_of(optimizer), schedule.rates[count], rtol=1e-6, atol=0, equal_nan=True):
                return False
        return True
    return False


def _leap_on(schedule: Schedule, optimizer: Optimizer, schedulers: list[Any], steps: Sequence[int]) -> None:
    (scheduler,) = schedulers
    start, done = scheduler.last_epoch, FIRST

    def raises(count: int) -> str:
        try:
            _leap(scheduler, start + count)
        except Exception as error:  # noqa: BLE001 - past its end
            return in_short(error)
        return ""

    for count in map(int, np.unique(np.linspace(FIRST + 1, len(steps), POINTS, dtype=int))):
        if raises(count):
            first = done + 1 + bisect_left(range(done + 1, count), True, key=lambda c: bool(raises(c)))  # noqa: FBT003
            schedule.error, schedule.fails = raises(first), steps[first - 1]
            return
        schedule.steps.append(steps[count - 1])
        schedule.rates.append(rates_of(optimizer))
        done = count


def rates_of(optimizer: Optimizer) -> list[float]:
    """The present learning rate of each parameter group; NaN where there is none, as in Adafactor.

    Example:
        >>> import torch
        >>> rates_of(torch.optim.SGD([torch.ones(1)], lr=0.5))
        [0.5]

    """
    return [rate(group) for group in optimizer.param_groups]


def rate(group: dict[str, Any]) -> float:
    """The learning rate of a parameter group; NaN where there is none.

    Example:
        >>> rate({"lr": 0.1}), rate({})
        (0.1, nan)

    """
    with suppress(KeyError, TypeError):  # relative steps, as of Adafactor
        return float(group["lr"])
    return math.nan


def highest(rates: Iterable[float]) -> float:
    """The highest of the rates that are known; NaN if none is.

    Example:
        >>> highest([0.1, math.nan, 0.2]), highest([])
        (0.2, nan)

    """
    return max((one for one in rates if not math.isnan(one)), default=math.nan)
