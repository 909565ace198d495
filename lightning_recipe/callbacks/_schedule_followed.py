"""Decisions on schedulers while they run: who steps them, and what ReduceLROnPlateau makes of its metric."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from lightning_recipe.callbacks._metric_names import better
from lightning_recipe.callbacks._schedule_verdict import EARLY, ZERO
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.schedule import highest, rates_of

if TYPE_CHECKING:
    from lightning_recipe.run import Run

TWICE = (1.9, 2.1)
"""Times as many steps as planned."""
ENOUGH = 4
"""Planned steps from which on steps are compared."""
SETTLED = 16
"""Planned steps after which a scheduler that is stepped as planned is not looked at any more: twice as many may be 31,
where the module takes its own after the look."""
STAYS = 0.05
"""Share of the run for which the rate must have been practically zero: the low points of a cosine that is restarted ten
times are shorter."""
BETTER = 0.01
"""Share by which a metric has improved without doubt."""


class Followed:
    """A scheduler of the run, and where it stood when training began.

    Attributes:
        config: Lightning's: scheduler, interval, frequency, monitor.
        scheduler: The scheduler.
        name: Its class, and its index among those of the module.
        by_hand: Whether the module steps it.
        plateau: Whether it waits for a metric.
        begins: How often it had been stepped; None if it does not say, or ``lr_scheduler_step`` is overridden.
        planned: The steps after which Lightning steps it.
        rate: The highest rate of its parameter groups at the latest look.
        first: The highest rate when training began.
        peak: The highest rate at any look.

    """

    def __init__(self, run: Run, index: int, config: Any) -> None:
        self.config, self.scheduler = config, config.scheduler
        self.name = f"{type(self.scheduler).__name__} {index}"
        self.by_hand, self.plateau = not run.module.automatic_optimization, bool(config.reduce_on_plateau)
        own = run.overrides("lr_scheduler_step")
        self.begins: int | None = None if own else getattr(self.scheduler, "last_epoch", None)
        self.planned = run.planned_steps(config)
        self.first = self.rate = self.peak = self._rate()
        self._since = run.step
        self._gone: int | None = None  # the step of the look since which the rate is practically zero

    @property
    def is_foreseen(self) -> bool:
        """Whether its rates are known before the run."""
        return not (self.by_hand or self.plateau)

    def look(self, run: Run, *, last: bool = False) -> Outcome | None:
        """Decide on what has become of it; None if all is well so far.

        Args:
            run: Its present step.
            last: Whether training is over.

        """
        before, self.rate = self.rate, self._rate()
        self.peak = max(self.peak, self.rate)
        replaced = all(config.scheduler is not self.scheduler for config in run.trainer.lr_scheduler_configs)
        if self.begins is None or replaced:  # as where weights are averaged from some epoch on
            return None
        stepped, done = self.scheduler.last_epoch - self.begins, run.step - self._since
        if self.by_hand:
            waited = done >= run.steps_per_epoch and (last or run.step > run.horizon / 2)
            return never_stepped(done, self.rate) if waited and not stepped else self._ended_early(run)
        if self.is_foreseen:
            return stepped_twice(stepped, bisect_right(self.planned, run.step))
        value, plateau = run.trainer.callback_metrics.get(self.config.monitor), self.scheduler
        if value is None or self.rate >= before:
            return None
        threshold = plateau.threshold * (abs(plateau.best) if plateau.threshold_mode == "rel" else 1)
        return cut_while_improving(plateau.mode, float(value), float(plateau.best), threshold)

    def _ended_early(self, run: Run) -> Outcome | None:
        """Decide on a rate that the module lets fall: one that is to rise again is near zero for a moment only."""
        if self.plateau or not self.rate < ZERO * self.peak:
            self._gone = None
            return None
        self._gone = run.step if self._gone is None else self._gone
        stays = run.step - self._gone >= STAYS * run.horizon
        return (
            gone(self._gone, run.horizon, self.rate, self.peak) if stays and self._gone < EARLY * run.horizon else None
        )

    def is_settled(self, run: Run) -> bool:
        """Whether it has been stepped as planned for so long that it will be."""
        return self.is_foreseen and (self.begins is None or bisect_right(self.planned, run.step) >= SETTLED)

    def _rate(self) -> float:
        optimizer = getattr(self.scheduler, "optimizer", None)
        return highest(rates_of(optimizer) if optimizer is not None else ())


def never_stepped(done: int, rate: float) -> Outcome:
    """Of a scheduler that was not stepped in `done` steps.

    Example:
        >>> never_stepped(100, 0.1).status
        <Status.WARNING: 'warning'>

    """
    return Outcome(
        Status.WARNING,
        "never_stepped",
        f"has not been stepped in {done} steps, and the rate stays at {rate:.3g}: in manual optimisation Lightning "
        "steps none",
        "call self.lr_schedulers().step(), as in on_train_epoch_end",
        {"done": done, "rate": rate},
    )


def gone(step: int, horizon: float, rate: float, peak: float) -> Outcome:
    """Of a scheduler that the module steps, and whose rate is practically zero long before the end.

    Example:
        >>> gone(50, 1000, 1e-9, 0.1).code
        'practically_zero'

    """
    return Outcome(
        Status.WARNING,
        "practically_zero",
        f"has brought the rate from {peak:.3g} to {rate:.3g} since step {step} of {horizon:.0f}: nothing is learnt "
        "any more",
        "call self.lr_schedulers().step() in on_train_epoch_end if it counts epochs; or choose a length and a decay "
        "that end with the run",
        {"step": step, "rate": rate, "peak": peak},
    )


def stepped_twice(stepped: int, planned: int) -> Outcome | None:
    """Of a scheduler that Lightning steps.

    Example:
        >>> stepped_twice(20, 10).evidence["stepped"], stepped_twice(10, 10)
        (20, None)

    """
    if planned < ENOUGH or not TWICE[0] <= stepped / planned <= TWICE[1]:
        return None
    return Outcome(
        Status.WARNING,
        "stepped_twice",
        f"has been stepped {stepped} times, {planned} of them by Lightning",
        "remove scheduler.step() from the module: in automatic optimisation Lightning calls it",
        {"stepped": stepped, "planned": planned},
    )


def cut_while_improving(mode: str, value: float, best: float, threshold: float) -> Outcome | None:
    """Of a ReduceLROnPlateau that has just cut the rate.

    Args:
        mode: "min" or "max".
        value: Of the metric.
        best: What the scheduler compares it with.
        threshold: By how much it must be better to count.

    Example:
        >>> cut_while_improving("min", 0.9, best=1.0, threshold=0.5).code, cut_while_improving("min", 0.9, 1.0, 1e-4)
        ('cut_while_improving', None)

    """
    gain = best - value if mode == "min" else value - best
    if not (math.isfinite(gain) and BETTER * abs(best) < gain <= threshold):
        return None
    return Outcome(
        Status.WARNING,
        "cut_while_improving",
        f"has cut the rate although its metric improves, from {best:.4g} to {value:.4g}: by less than {threshold:.3g}, "
        "which is its threshold",
        "choose a lower threshold, or another threshold_mode",
        {"best": best, "value": value, "threshold": threshold},
    )


def plateau_mode(mode: str, monitor: str) -> Outcome | None:
    """Of a ReduceLROnPlateau whose metric has a name that says which way is better; None where that leaves a doubt.

    Args:
        mode: "min" or "max".
        monitor: Name of the metric.

    Example:
        >>> plateau_mode("min", "val_acc").code, plateau_mode("max", "val_acc"), plateau_mode("min", "neg_f1")
        ('plateau_mode', None, None)

    """
    right = better(monitor)
    if right in {mode, ""}:
        return None
    return Outcome(
        Status.WARNING,
        "plateau_mode",
        f'has mode="{mode}" and monitors {monitor}: it cuts the rate while that gets better',
        f'ReduceLROnPlateau(optimizer, mode="{right}")',
    )
