"""The course of a short fit: its learning rates, the state that its steps find, and its end."""

from __future__ import annotations

import itertools
import math
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from lightning_recipe.schedule import rate
from lightning_recipe.trial.replay import put_back

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn
    from torch.optim import Optimizer

    from lightning_recipe.trial.short_fit import Fit

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


class State:
    """What a module keeps from step to step besides what it learns: a queue, hidden states, weights that follow.

    Args:
        module: The module.
        learnt: The parameters that are optimised.
        held: Whether each step is to find what the first one found.

    Example:
        >>> norm = torch.nn.BatchNorm1d(2)
        >>> state = State(norm, list(norm.parameters()), held=True)
        >>> state.put_back()
        >>> _ = norm(torch.ones(3, 2))
        >>> state.put_back()
        >>> norm.num_batches_tracked.item()
        0

    """

    def __init__(self, module: nn.Module, learnt: Sequence[Tensor], *, held: bool) -> None:
        self._module, self._held, self._stack = module, held, ExitStack()
        ids = set(map(id, learnt))
        following = [p for p in module.parameters() if id(p) not in ids]
        self._following = [(p, p.detach().clone()) for p in following] if held else []
        # running statistics take no part in training's loss
        kept = [b for part in module.modules() if not isinstance(part, _NormBase) for b in part.buffers(recurse=False)]
        self._before = [(t, t._version) for t in (*following, *kept) if not t.is_inference()]  # noqa: SLF001
        self._buffers = set(map(id, module.buffers()))

    def end(self) -> bool:
        """The last step is over: whether any has changed it."""
        self._stack.close()
        anew = set(map(id, self._module.buffers())) != self._buffers
        return anew or any(tensor._version != version for tensor, version in self._before)  # noqa: SLF001

    def put_back(self) -> None:
        """Begin a step: if `held`, with the state that the first one began with."""
        if self._held:
            self._stack.close()
            for parameter, before in self._following:
                if not torch.equal(parameter, before):
                    parameter.data.copy_(before)
            self._stack.enter_context(put_back(*self._module.modules()))


def _no(_: Fit) -> bool:
    return False


@dataclass(frozen=True)
class Budget:
    """When a short fit ends.

    Attributes:
        steps: How many it may take; `LONGER` times as many if it goes on.
        work: Nominal seconds that its steps may take together, see ``trial/work.py``.
        most: Nominal seconds if it goes on, or if the steps that are `wanted` need them.
        ends: Value of ``time.monotonic()`` after which it ends in any case: a safety net.
        fewest: Steps below which it tells nothing: it ends at once if there is no work for as many.
        wanted: Steps below which it does not tell all.
        over: Asked after each probed step, and when the work of one is known, whether to stop.
        goes_on: Asked when the steps are over, and after each probed step from then on, whether to go on.
        falls: Asked when `work` is done, and after each probed step from then on, whether it deserves `most`.

    """

    steps: int
    work: float
    most: float
    ends: float = math.inf
    fewest: int = 0
    wanted: int = 0
    over: Callable[[Fit], bool] = _no
    goes_on: Callable[[Fit], bool] = _no
    falls: Callable[[Fit], bool] = _no


class Stopping:
    """Says when a fit ends: by its steps and by their work. The clock is a safety net."""

    def __init__(self, fit: Fit, budget: Budget) -> None:
        self._fit, self._budget = fit, budget
        self._work = budget.work
        self._ending = self._beyond = False

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
            enough = budget.fewest * fit.work <= budget.most
            self._work = max(self._work, min(budget.wanted * fit.work, budget.most)) if enough else 0.0
        if self._ending and 0 < self._work < budget.most and not fit.out_of_time and budget.falls(fit):
            self._work, self._ending, self._beyond, fit.cut_short = budget.most, False, True, False
        over = self._ending
        if probed or number == COUNTED:
            over |= budget.over(fit) or not math.isfinite(fit.losses[-1])
        if self._beyond and probed and not (over or fit.longer or budget.falls(fit)):
            over = fit.cut_short = True
        if probed and number + 1 >= budget.steps:
            over |= number + 1 == LONGER * budget.steps or not budget.goes_on(fit)
            if not over:
                fit.longer, self._work = True, budget.most
        too_long, too_late = (number + 1) * fit.work > self._work, time.monotonic() > budget.ends
        fit.cut_short |= too_long and not over
        fit.out_of_time |= too_late and not over
        self._ending = too_long or too_late
        return over
