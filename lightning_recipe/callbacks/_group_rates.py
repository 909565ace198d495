"""Rates that no schedule lets fall: what the module or the optimiser makes of those of single parameter groups."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from lightning_recipe.callbacks._schedule_followed import STAYS
from lightning_recipe.callbacks._schedule_verdict import EARLY, ZERO
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.schedule import rates_of

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from lightning_recipe.run import Run
    from lightning_recipe.schedule import Schedule

FALLS = 0.5
"""Times its share of what is expected to which a rate has fallen since it was practically zero: one that was set to be
tiny stays."""
UNDERFLOWS = 1e-30
"""Share of the expected rate from which it arrives at zero by rounding only: no cosine or power falls as low before."""


class Gone(NamedTuple):
    """A parameter group whose rate is practically zero.

    Attributes:
        group: Its index.
        step: Of the look at which it was first.
        expected: The rate that the schedule has for it; without a schedule the highest that was seen.
        rate: The present rate.
        then: The share of what was expected that it had at that look.
        falls: Whether that share has fallen since the look before, too.

    """

    group: int
    step: int
    expected: float
    rate: float
    then: float
    falls: bool = False

    @property
    def share(self) -> float:
        """The rate as a share of what is expected."""
        return self.rate / self.expected


class GroupRates:
    """The rates of an optimiser's parameter groups, look by look.

    Attributes:
        name: The optimiser's class, and its index among those of the module.

    Args:
        run: At its first step.
        schedule: Of the optimiser.

    """

    def __init__(self, run: Run, schedule: Schedule) -> None:
        self._optimizer: Optimizer = run.trainer.optimizers[schedule.optimizer]
        self.name = f"{type(self._optimizer).__name__} {schedule.optimizer}"
        self._scheduled = bool(schedule.configs)
        planned = self._scheduled and schedule.known and schedule.complete and not run.overrides("lr_scheduler_step")
        self._plan = (schedule.steps, schedule.rates) if planned else None
        self._peaks: dict[int, float] = {}
        self._gone: dict[int, Gone] = {}
        self._note(run)

    def is_settled(self, run: Run) -> bool:
        """Whether nothing will be said any more."""
        unforeseen = self._scheduled and self._plan is None  # on a plateau or by hand, which is judged as a whole
        late = run.step > (EARLY + STAYS) * run.horizon and not self._gone
        return unforeseen or math.isinf(run.horizon) or late

    def look(self, run: Run) -> Outcome | None:
        """Decide on the rates of now; None if all is well so far."""
        rates = self._note(run)
        gone = [one for one in self._gone.values() if one.step < EARLY * run.horizon]
        stays = all(run.step - one.step >= STAYS * run.horizon for one in self._gone.values())
        if not gone or not stays or not all(one.falls and one.share < FALLS * one.then for one in gone):
            return None
        return fallen(gone, len(rates), run.horizon)

    def _note(self, run: Run) -> list[float]:
        """Take note of the groups whose rate is practically zero; one of exactly zero is frozen on purpose."""
        rates, before, self._gone = rates_of(self._optimizer), self._gone, {}
        planned: list[float] = []
        if self._plan is not None:
            steps, paths = self._plan
            planned = paths[max(0, bisect_right(steps, run.step) - 1)]
        for i, rate in enumerate(rates):
            self._peaks[i] = max(self._peaks.get(i, 0.0), 0.0 if math.isnan(rate) else rate)
            expected = self._peaks[i] if self._plan is None else planned[i] if i < len(planned) else math.nan
            last = before.get(i)
            if 0 < rate < ZERO * expected:
                last = last or Gone(i, run.step, expected, rate, then=rate / expected)
                self._gone[i] = last._replace(
                    expected=expected, rate=rate, falls=rate / expected < max(last.share, UNDERFLOWS)
                )
            elif last and rate == 0 and last.share < UNDERFLOWS:
                self._gone[i] = last._replace(falls=True)
        return rates


def fallen(gone: list[Gone], groups: int, horizon: float) -> Outcome:
    """Of parameter groups whose rates go on falling, long before the end.

    Args:
        gone: Those groups, at least one.
        groups: How many there are.
        horizon: Steps of the run.

    Example:
        >>> fallen([Gone(1, 50, 0.1, 1e-9, 9e-4)], 2, 1000).code
        'practically_zero'

    """
    worst = min(gone, key=lambda one: one.share)
    return Outcome(
        Status.WARNING,
        "practically_zero",
        f"has brought the rate of {len(gone)} of {groups} parameter groups to nothing: that of group {worst.group} "
        f"from {worst.expected:.3g} to {worst.rate:.3g} since step {worst.step} of {horizon:.0f}",
        "multiply a rate by the factor of its group once, when the groups are made, or begin from "
        'group["initial_lr"] each time, not from what the last step left',
        {"groups": len(gone), "of": groups, "step": worst.step, "rate": worst.rate, "expected": worst.expected},
    )
