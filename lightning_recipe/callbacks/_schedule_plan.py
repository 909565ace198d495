"""What is known of a schedule before the run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from torch.optim.lr_scheduler import LambdaLR

from lightning_recipe.callbacks._schedule_verdict import Path, Plan, length_of
from lightning_recipe.schedule import LONGEST

if TYPE_CHECKING:
    from lightning_recipe.callbacks._schedule_followed import Followed
    from lightning_recipe.run import Run
    from lightning_recipe.schedule import Schedule


def unknown(run: Run, schedule: Schedule) -> str:
    """Why a schedule can't be judged; empty if it can."""
    if run.overrides("lr_scheduler_step"):
        return "lr_scheduler_step is overridden"
    if math.isinf(run.horizon):
        return "the end of the run is not known"
    if not schedule.known or (schedule.error and len(schedule.steps) == 1):
        return f"it can't be stepped on a copy {schedule.error}".rstrip()
    return "" if schedule.complete else f"its first {LONGEST} steps do not reach the end of the run"


def plan_of(run: Run, schedule: Schedule, own: list[Followed]) -> Plan:
    """What `judge` asks for; the schedule is simulated once more where that can matter."""
    path, other, farther, (length, restarts) = _path(run, schedule), None, None, (None, False)
    by, index = own[0].config.interval, schedule.optimizer
    if len(own) == 1:
        length, restarts = length_of(own[0].scheduler)
    if len(own) == 1 and not run.resumed:
        stepped = run.schedule_of(index, "step" if by == "epoch" else "epoch")
        other = _path(run, stepped) if stepped.complete and stepped.fails > run.horizon else None
        if (np.diff(path.within) >= 0).all():
            farther = _path(run, run.schedule_of(index, reach=4))
    return Plan(
        path,
        other,
        farther,
        by=by,
        count=(own[0].begins or 0) + len(own[0].planned),
        length=length,
        restarts=restarts,
        fails=schedule.fails,
        error=schedule.error,
        may_end_earlier=run.may_end_earlier,
        limited=run.limited,
        base=float(max(own[0].scheduler.base_lrs)) if len(own) == 1 and isinstance(own[0].scheduler, LambdaLR) else 0.0,
    )


def _path(run: Run, schedule: Schedule) -> Path:
    return Path.of(schedule.steps, schedule.rates, run.horizon)
