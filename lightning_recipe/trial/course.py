"""The course of a short fit: its learning rates, and its end."""

from __future__ import annotations

import itertools
import math
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_recipe.schedule import rate

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from lightning_recipe.trial.short_fit import Budget, Fit

RAMP = 20
"""Steps in which the learning rate rises to its peak. The first is taken at 0: two equal steps tell about noise."""
LONGER = 3
"""Times as many steps as were allowed, for a fit that is on its way."""
COUNTED = 2
"""The step whose work is counted: the first makes the optimiser's state, and the first two are looked into."""
LOOP = 1e-3
"""Nominal seconds that Lightning's loop takes for a step."""


class Ramp:
    """Learning rates that rise from 0 to their `peaks`, and are then held there against schedules.

    Args:
        optimizers: Whose rates are set.
        peaks: For each optimiser and parameter group; NaN for those without a learning rate.
        steps: Length of the fit; the rates rise in the first `RAMP` steps, or a quarter of all if that is less.
        force: Set them again before each update, whatever the module's own code has set.

    """

    def __init__(self, optimizers: list[Optimizer], peaks: list[list[float]], steps: int, *, force: bool) -> None:
        self._optimizers, self._peaks, self._force = optimizers, list(itertools.chain.from_iterable(peaks)), force
        searches = any(kind.__name__ == "LBFGS" for o in optimizers for kind in type(o).__mro__)
        self._length = 0 if searches else min(RAMP, max(1, steps // 4))  # a line search from 0 fails
        self._factor = 1.0
        self.overridden = False  # by the module's own code

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters that the optimisers hold."""
        return [parameter for group in self._groups() for parameter in group["params"]]

    def begin(self, step: int) -> None:
        """Set the rates for a step."""
        self._factor = min(1.0, step / self._length) if self._length else 1.0
        self._set()

    def before_update(self) -> None:
        """Set the rates again, or note that they have been changed since `begin`."""
        if self._force or self._factor == 0:
            self._set()
        elif self._factor == 1.0:
            pairs = zip(self._groups(), self._peaks, strict=True)
            self.overridden |= any(abs(rate(group) - peak) > 1e-6 * abs(peak) for group, peak in pairs)

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    def _set(self) -> None:
        for group, peak in zip(self._groups(), self._peaks, strict=True):
            if not math.isnan(peak):
                lr, new = group["lr"], peak * self._factor
                group["lr"] = torch.full_like(lr, new) if isinstance(lr, Tensor) else new


class Stopping:
    """Says when a fit ends: by its steps and by their work. The clock is a safety net."""

    def __init__(self, fit: Fit, budget: Budget) -> None:
        self._fit, self._budget = fit, budget
        self._work = budget.work
        self._ending = False

    def looks_at(self, number: int) -> bool:
        """Whether to probe the step that begins: it may be the last."""
        return self._ending or number + 1 in {self._budget.steps, LONGER * self._budget.steps}

    def counts(self, number: int) -> bool:
        """Whether to count the work of the step that begins."""
        return number == COUNTED

    def is_over(self, number: int, *, probed: bool) -> bool:
        """Whether the step that ends was the last."""
        fit, budget = self._fit, self._budget
        if number == COUNTED:
            enough = max(budget.fewest, budget.wanted) * fit.work <= budget.most
            self._work = max(self._work, budget.fewest * fit.work) if enough else 0.0
        if self._ending and 0 < self._work < budget.most and not fit.out_of_time and budget.falls(fit):
            self._work, self._ending, fit.cut_short = budget.most, False, False
        over = self._ending
        if probed:
            over |= budget.over(fit) or not math.isfinite(fit.losses[-1])
        if probed and number + 1 >= budget.steps:
            over |= number + 1 == LONGER * budget.steps or not budget.goes_on(fit)
            if not over:
                fit.longer, self._work = True, budget.most
        too_long, too_late = (number + 1) * fit.work > self._work, time.monotonic() > budget.ends
        fit.cut_short |= too_long and not over
        fit.out_of_time |= too_late and not over
        self._ending = too_long or too_late
        return over
