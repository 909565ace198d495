"""Decisions about a learning rate over a planned run, whatever the run's length and the schedule's unit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, PolynomialLR, SequentialLR

from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

ZERO = 1e-3
"""Share of its peak below which a rate is practically zero."""
EARLY = 0.75
"""Share of the run before which it should not be."""
UNCHANGED = 0.9
"""Share of its peak that a rate still has at the end which has hardly begun to fall."""
FINISHED = 0.1
"""Share of its peak that a rate which was to fall to the end has at most there."""
BEYOND = 1.1
"""Times its last rate to which a rate would rise behind the end of the run."""
STEPS = 200
"""Steps that a run must have if a schedule is made for steps: of fewer it may be epochs, and the run a short trial."""
SAME, SMALL = (0.3, 3.0), 0.05
"""What the factor of a LambdaLR is of the optimiser's rate if it is the rate itself, and how small it is then."""
LONGER = 1.1
"""Lengths of a cosine up to which the run may go on: it has risen to 2 % of its peak again."""
SHORTER = 0.9
"""Length of a schedule that a run should reach."""


@dataclass(frozen=True)
class Path:
    """A learning rate over a run.

    Attributes:
        steps: From which on the rates hold; shape (N,), rising.
        rates: In shares of the peak within the run; shape (N,).
        end: The step at which the run ends; some of `steps` may lie behind it.
        first: The first rate, of the parameter group with the highest.
        peak: Its highest rate within the run.
        last: The rate at which it arrives.

    Example:
        >>> path = Path.of([0, 50, 150], [[0.2], [0.1], [0.0]], end=100)
        >>> path.at(0.49), path.at(1.0), path.at(1.5)
        (1.0, 0.5, 0.0)

    """

    steps: NDArray[np.float64]
    rates: NDArray[np.float64]
    end: float
    first: float
    peak: float
    last: float

    @classmethod
    def of(cls, steps: Sequence[int], rates: Sequence[Sequence[float]], end: float) -> Path:
        """Of the rates of several parameter groups, each in shares of its own peak, the largest.

        Args:
            steps: From which on the rates hold.
            rates: Of each group, at each of the steps.
            end: Of the run.

        """
        at, groups = np.array(steps, float), np.nan_to_num(np.array(rates, float))
        within = groups[at <= max(end, at[0])]
        peaks = within.max(axis=0)
        moving = peaks > 0  # not of a frozen group, nor of an optimiser without a rate
        relative = (groups[:, moving] / peaks[moving]).max(axis=1) if moving.any() else np.zeros(len(at))
        highest = within[:, int(np.argmax(peaks))]
        return cls(at, relative, end, float(highest[0]), float(highest.max()), float(highest[-1]))

    @property
    def within(self) -> NDArray[np.float64]:
        """The rates to the end of the run."""
        return self.rates[self.steps <= self.end]

    def at(self, share: float) -> float:
        """The rate at a share of the run."""
        return float(self.rates[max(0, int(np.searchsorted(self.steps, share * self.end, side="right")) - 1)])


@dataclass(frozen=True)
class Plan:
    """What is known of a schedule before the run.

    Attributes:
        path: The rate, as it is stepped.
        other: The rate if it were stepped by the other interval, from the beginning; None where nobody knows.
        farther: The rate some lengths of the run ahead; None where it falls before.
        by: "epoch" or "step".
        count: How often the scheduler will have been stepped at the end.
        length: How often it is made to be stepped; None if it does not say.
        restarts: Whether it rises again after that.
        fails: The step at which it raises; infinity if it doesn't.
        error: What it raises.
        may_end_earlier: Whether something other than its length may end the run.
        limited: Whether the run is shorter than an epoch of its data, for a trial.
        base: The rate that the factor of a LambdaLR is multiplied with; 0 for others.

    """

    path: Path
    other: Path | None = None
    farther: Path | None = None
    by: str = "epoch"
    count: int = 0
    length: int | None = None
    restarts: bool = False
    fails: float = math.inf
    error: str = ""
    may_end_earlier: bool = False
    limited: bool = False
    base: float = 0.0


def judge(plan: Plan) -> Outcome:
    """Decide on a schedule before the run.

    Example:
        >>> decays = Path.of([0, 30, 60], [[1.0], [0.1], [0.0]], end=100)
        >>> judge(Plan(decays)).code, judge(Plan(decays)).evidence["share"]
        ('practically_zero', 0.6)

    """
    path, other, farther, length, count = plan.path, plan.other, plan.farther, plan.length, plan.count
    switched = {"epoch": "step", "step": "epoch"}[plan.by]
    switch = f'return {{"scheduler": ..., "interval": "{switched}"}} from configure_optimizers'
    fits = other is not None and is_complete(other) and (plan.by == "step" or path.end >= STEPS)
    ends_at = path.at(1.0)
    again = plan.restarts and length is not None and count > LONGER * length
    heuristic = Status.ADVICE if plan.may_end_earlier else Status.WARNING
    seen = {"first": path.first, "peak": path.peak, "last": path.last}
    if plan.fails <= path.end:
        return Outcome(
            Status.FAILED,
            "length_mismatch",
            f"will stop the run of {path.end:.0f} steps at step {plan.fails:.0f}: {plan.error}",
            switch if fits else "make it as long as the run, as by total_steps=self.trainer.estimated_stepping_batches",
            seen | {"fails": plan.fails, "end": path.end},
        )
    if other is not None and fits and (again or ends_at >= UNCHANGED):
        wrong = f"it rises again after {length} of {count}" if again else f"it ends at {path.last:.3g}"
        return Outcome(
            Status.WARNING,
            "wrong_interval",
            f"is stepped by {plan.by}s, but made for {switched}s: it begins at {path.first:.3g}, and {wrong}; stepped "
            f"by {switched}s it would reach {other.peak:.3g} and end at {other.last:.3g}",
            switch,
            seen | {"ends_at": ends_at, "would_end_at": other.at(1.0)},
        )
    if (share := zero_from(path)) < EARLY:
        mends = other is not None and plan.by == "step" and zero_from(other) >= EARLY and other.at(1.0) < UNCHANGED
        return Outcome(
            heuristic,
            "practically_zero",
            f"is practically zero, below {ZERO:g} of its peak of {path.peak:.3g}, from {share:.0%} of the run on",
            f"{switch}, or let it decay more slowly" if mends else "let it decay more slowly",
            seen | {"share": share},
        )
    if again:
        return Outcome(
            heuristic,
            "length_mismatch",
            f"is made for {length} {plan.by}s and stepped {count} times, so that it rises again",
            f"set T_max to the length of the run, {count}; where restarts are meant take CosineAnnealingWarmRestarts",
            seen | {"length": length or 0, "count": count},
        )
    if farther is not None and not plan.limited and only_rises(path) and farther.rates.max() > BEYOND * ends_at:
        made_for_steps = plan.by == "epoch" and other is not None and other.at(0.9) >= other.at(1.0)
        return Outcome(
            Status.WARNING,
            "warmup_longer_than_run",
            f"warms up for longer than the run: stepped {count} times, once each {plan.by}, it rises from "
            f"{path.first:.3g} to {path.last:.3g}, and would go on",
            f"{switch}: by steps, the warm-up is over within the run"
            if made_for_steps
            else "warm up for a few per cent of the run",
            seen | {"would_reach": float(farther.rates.max()) / ends_at},
        )
    if length and count < SHORTER * length and ends_at > FINISHED and not plan.limited:
        return Outcome(
            Status.ADVICE,
            "length_mismatch",
            f"is made for {length} {plan.by}s, and the run has {count}: it ends at {ends_at:.0%} of its peak",
            f"let it fall to the end of the run, {count} {plan.by}s",
            seen | {"length": length, "count": count},
        )
    if farther is not None and np.ptp(path.within) == 0 and np.ptp(farther.rates) > 0 and not plan.limited:
        change = float(farther.steps[np.flatnonzero(farther.rates != farther.rates[0])[0]])
        return Outcome(
            Status.ADVICE,
            "never_changes",
            f"stays at {path.last:.3g}: it would change at step {change:.0f}, and the run ends at {path.end:.0f}",
            "choose milestones for the length of the run",
            seen | {"change": change, "end": path.end},
        )
    way = f"goes from {path.first:.3g} to {path.last:.3g}"
    if path.peak > max(path.first, path.last):
        way = f"rises from {path.first:.3g} to {path.peak:.3g} and falls to {path.last:.3g}"
    elif np.ptp(path.within) == 0:
        way = f"stays at {path.last:.3g}"
    return Outcome(Status.PASSED, "passed", f"{way} in {path.end:.0f} steps", evidence=seen)


def factor(plan: Plan) -> Outcome | None:
    """A `warning` if a LambdaLR is given the rate itself, which it multiplies with that of the optimiser.

    Example:
        >>> path = Path.of([0, 100], [[9e-6], [8e-6]], end=100)
        >>> factor(Plan(path, base=3e-3)).code, factor(Plan(path, base=1.0))
        ('practically_zero', None)

    """
    path, base = plan.path, plan.base
    if not base or not SAME[0] < path.peak / base**2 < SAME[1] or path.peak > SMALL * base:
        return None
    return Outcome(
        Status.WARNING,
        "practically_zero",
        f"never lets the rate exceed {path.peak:.3g}, {path.peak / base:.2g} of the {base:g} that the optimiser was "
        "given: LambdaLR multiplies the two",
        f"have its function return a factor of {base:g}, 1 at its peak, and not the rate",
        {"first": path.first, "peak": path.peak, "last": path.last, "base": base},
    )


def zero_from(path: Path) -> float:
    """The share of the run from which on the rate is practically zero, to the end; infinity if it is not.

    Example:
        >>> zero_from(Path.of([0, 30, 60], [[1.0], [0.1], [0.0]], end=100))
        0.6

    """
    alive = np.flatnonzero(path.within >= ZERO * (1 - 1e-6))
    if not len(alive) or alive[-1] + 1 == len(path.within):
        return math.inf
    return float(path.steps[alive[-1] + 1] / path.end)


def is_complete(path: Path) -> bool:
    """Whether the rate is made for a run of this length: it has fallen, smoothly, and arrives just now.

    An exponential decay falls by the same ratio everywhere, so it is made for no length; one to zero falls faster and
    faster, in ratios.

    Example:
        >>> steps, linear = range(101), [[1 - step / 100] for step in range(101)]
        >>> is_complete(Path.of(steps, linear, 100)), is_complete(Path.of(steps, linear, 50))
        (True, False)

    """
    before, near = path.at(0.7), path.at(0.85)
    tail = path.within[int(np.searchsorted(path.steps, 0.7 * path.end, side="right")) - 1 :]
    last, changes = float(tail[-2:].min()), np.diff(tail)  # OneCycleLR is lowest at its last step but one
    falls = (changes[:-1] <= 0).all() and (changes < 0).sum() >= len(changes) / 2  # not in a few jumps
    arrives = tail[-1] <= FINISHED and near > 2 * last and near * near > 1.25 * before * last
    return bool(len(changes) and falls and arrives and zero_from(path) >= EARLY)


def only_rises(path: Path) -> bool:
    """Whether the whole run is a warm-up.

    Example:
        >>> only_rises(Path.of([0, 50, 100], [[0.0], [0.5], [0.5]], 100))
        True

    """
    changes = np.diff(path.within)
    return bool(len(changes) and (changes >= 0).all() and changes.sum() > 1 - UNCHANGED)


def length_of(scheduler: Any) -> tuple[int | None, bool]:
    """How many steps a scheduler is made for, if it says so, and whether it rises again after them.

    Example:
        >>> import torch
        >>> length_of(CosineAnnealingLR(torch.optim.SGD([torch.ones(1)], lr=0.1), T_max=10))
        (10, True)

    """
    match scheduler:
        case SequentialLR():
            length, rises = length_of(scheduler._schedulers[-1])  # noqa: SLF001 - no public name
            return (None if length is None else scheduler._milestones[-1] + length), rises  # noqa: SLF001
        case CosineAnnealingLR():
            return int(scheduler.T_max), True
        case OneCycleLR():
            return int(scheduler.total_steps), False
        case PolynomialLR():
            return int(scheduler.total_iters), False
    return None, False
