"""Recipe, section 3: "do not trust learning rate decay defaults"."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from lightning_recipe.callback import Check
from lightning_recipe.callbacks._group_rates import GroupRates
from lightning_recipe.callbacks._schedule_followed import Followed, plateau_mode
from lightning_recipe.callbacks._schedule_plan import plan_of, unknown
from lightning_recipe.callbacks._schedule_verdict import factor, judge
from lightning_recipe.figures.canvas import pixels
from lightning_recipe.figures.schedules import rates_over_steps
from lightning_recipe.finding import Section
from lightning_recipe.record.step import Need
from lightning_recipe.show import loggers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.finding import Finding, Outcome
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run
    from lightning_recipe.schedule import Schedule


class LRScheduleCheck(Check):
    """Judges each learning rate schedule before the run, to its planned end, and then whether it is followed.

    Schedulers are stepped on a copy, as Lightning will step them. A rate is compared with its own peak.

    - ``practically_zero``: below 0.001 of the peak before 75 % of the run, and to its end; in manual optimisation, so
      since a look before that, and for 5 % of the run; or so, and still falling, in some parameter groups whose rates
      the module or the optimiser sets, against the schedule if there is one;
    - ``wrong_interval``: made for steps and stepped by epochs, Lightning's default, or the reverse. The run ends at
      90 % of the peak or more, or a cosine rises again, where the other interval would arrive at 10 % or less, in a
      smooth fall that ends just there;
    - ``length_mismatch``: it raises before the end, as OneCycleLR after its last step (`failed`); CosineAnnealingLR is
      stepped 1.1 times ``T_max`` or more, and rises again; or (`advice`) the run ends before 90 % of a known length,
      above 10 % of the peak;
    - ``warmup_longer_than_run``: the rate rises to the end, and would go on to;
    - ``never_changes`` (`advice`): it would, within four lengths of the run;
    - ``never_stepped``: in manual optimisation, in an epoch or more, asked in the second half of the run;
    - ``stepped_twice``: as often as Lightning does it, in automatic optimisation;
    - ``plateau_mode``: contradicts the name of what ReduceLROnPlateau monitors, as "min" with ``val_acc``;
    - ``cut_while_improving``: by ReduceLROnPlateau, although the metric is more than 1 % better, since its threshold
      passes over that.

    All are a `warning` where nothing else is said. Where EarlyStopping or ``max_time`` may end the run earlier, a rate
    that falls too early or rises again is `advice`. `skipped` is what can't be stepped on a copy, or has no known end.
    A run that is resumed is judged from there on, without its interval and warm-up.

    Args:
        strict: Stop the run when something failed.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "if you are re-purposing code from some other domain
        always be very careful with learning rate decay ... in a typical implementation the schedule will be based on
        current epoch number, which can vary widely simply depending on the size of your dataset."
        Of usual schedules a cosine to 0 is below 0.001 of its peak for the last 2 % of its length, a cubic for the last
        10 %, an exponential decay to 0.0001 for the last 25 %, one tenth after each of 30, 60 and 80 % never.

    Legitimate:
        - A short trial run of a long configuration: its schedule hardly begins, which is at most `advice`.
        - A rate that is meant to be tiny for a quarter of the run or more, as to average weights at the end.

    Cost:
        Before the run each schedule is simulated at most three times, for 10,000 steps at most on a copy, each a
        quarter of a second; then counters only.

    Pictures:
        - `rate`: The learning rate over the steps of the run, whose planned end is marked by a line.

    Example:
        >>> import contextlib, io, torch
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe.demo import DigitsNet, loaders
        >>> check, module = LRScheduleCheck(), DigitsNet()
        >>> optimizer = torch.optim.Adam(module.parameters())
        >>> scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=500)  # steps, stepped by epochs
        >>> module.configure_optimizers = lambda: ([optimizer], [scheduler])
        >>> trainer = Trainer(callbacks=[check], barebones=True, max_steps=500)
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     trainer.fit(module, *loaders())
        >>> check.findings[0].code
        'LRScheduleCheck/wrong_interval'

    """

    section = Section.OVERFIT
    sentence = 3
    needs = Need(0)
    explains: ClassVar = {"practically_zero": ("PredictionDynamicsLogger/frozen", "Baselines/*")}
    why = (
        "a decay chosen for another data set, another length or another unit of time ends training early or never "
        "begins, and is easily taken for a model that can do no better"
    )

    def __init__(self, *, strict: bool = False) -> None:
        super().__init__(strict=strict)
        self._followed: list[Followed] = []
        self._groups: list[GroupRates] = []

    def before_training(self, run: Run) -> Iterator[Finding]:
        """Judge what is planned, and draw it."""
        self._followed = [Followed(run, i, config) for i, config in enumerate(run.trainer.lr_scheduler_configs)]
        if run.trainer.fast_dev_run:  # type: ignore[attr-defined]
            yield self._unscheduled(run)
            self.done = True
            return
        schedules = run.schedules(reach=1.25)
        groups = [GroupRates(run, schedule) for schedule in schedules]
        self._groups = [one for one in groups if not one.is_settled(run)]
        if self._followed:
            yield from self._planned(run, schedules)
        else:
            yield self._unscheduled(run)
            self.done = not self._groups

    def _planned(self, run: Run, schedules: list[Schedule]) -> Iterator[Finding]:
        drawn = {}
        for one in self._followed:
            if one.plateau and not one.by_hand and (verdict := plateau_mode(one.scheduler.mode, one.config.monitor)):
                yield self._say(one.name, verdict)
            if one.is_foreseen and not any(one.config is config for s in schedules for config in s.configs):
                yield self.skipped(f"{one.name} has none of the optimisers", subject=one.name)
        for schedule in schedules:
            own = [one for one in self._followed if any(one.config is config for config in schedule.configs)]
            name = ", ".join(one.name for one in own)
            if schedule.known and len(schedule.steps) > 1:
                drawn[name] = schedule.steps, np.nan_to_num(schedule.rates).max(axis=1)
            if own and all(one.is_foreseen for one in own):  # of others the end will tell
                if reason := unknown(run, schedule):
                    yield self.skipped(f"{name}: {reason}", subject=name)
                else:
                    plan = plan_of(run, schedule, own)
                    yield self._say(name, factor(plan) or judge(plan))
        if drawn and loggers.is_written(run.trainer):
            self.draw(run, "rate", pixels(rates_over_steps(drawn, run.horizon)))

    def _unscheduled(self, run: Run) -> Finding:
        if self._followed:
            return self.skipped("fast_dev_run is too short to judge a schedule")
        if math.isnan(run.rate):
            return self.skipped("no scheduler is configured, and no optimiser has a rate")
        return self.passed(f"no scheduler is configured: the rate is {run.rate:.3g}", rate=run.rate)

    def sampled_step(self, run: Run, step: Step) -> Iterator[Finding]:  # noqa: ARG002 - counters tell
        """Watch whether schedulers are stepped as planned, until that is clear."""
        for one in self._followed:
            if verdict := one.look(run):
                yield self._say(one.name, verdict)
        for groups in list(self._groups):
            if verdict := groups.look(run):
                yield self._say(groups.name, verdict)
                self._groups.remove(groups)
        self._followed = [one for one in self._followed if not one.is_settled(run)]
        self._groups = [groups for groups in self._groups if not groups.is_settled(run)]
        self.done = not self._followed and not self._groups

    def end(self, run: Run) -> Iterator[Finding]:
        """Say what no plan could tell."""
        for one in self._followed:
            if verdict := one.look(run, last=True):
                yield self._say(one.name, verdict)
            elif not one.is_foreseen:
                way = f"the rate has gone from {one.first:.3g} to {one.rate:.3g}"
                yield self.passed(f"{one.name}: {way}", subject=one.name, first=one.first, last=one.rate)
        self._followed, self._groups = [], []  # schedulers can't always be pickled

    def _say(self, name: str, verdict: Outcome) -> Finding:
        return self.found(replace(verdict, message=f"{name} {verdict.message}"), subject=name)
