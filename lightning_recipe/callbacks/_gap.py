"""What dropout and running statistics add to the loss of a batch, tried on a copy."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from lightning_recipe.callbacks._modes import matters
from lightning_recipe.trial.calming import without_dropout
from lightning_recipe.trial.rehearsal import CannotRehearseError, Rehearsal, rehearsal

if TYPE_CHECKING:
    from typing import Any

    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

LATE = (0.5, 0.66)
"""Shares of a run, or of the first `LONG` steps of a longer one, at which to compare: looks are as near as 2:3."""
YOUNG, LONG = 50, 2000
"""Running statistics have followed after the former."""
STRONG = 0.75
"""Probability of a dropout that is no mistake yet (N. Srivastava et al., Dropout, 2014: 0.5 for hidden units; up to 0.7
is seen in graph networks)."""
DROPPED, MISTAKEN = 0.15, 0.5
"""Shares of what was learnt that strong dropout, and running statistics, may take away; from small networks dropout of
0.5 takes 0.05 to 0.1, and 0.9 takes 0.2."""
LEARNT = 0.1
"""Share of the first loss that must have been learnt."""
DRAWS = 3
STEPS, RATE = 60, 1e-3
"""Of fits of one batch with dropout and without, by Adam, of a network that has learnt nothing."""
HALF = 0.3
"""Share of the loss that the fit without dropout has to learn, for its part."""
PREVENTED = 0.2
"""Share of what the fit without dropout learns that the one with it may reach, if it is dropout that prevents it."""


class Gap(NamedTuple):
    """Mean losses of one batch, by the same weights.

    Attributes:
        calm: Without dropout, by the statistics of the batch.
        dropping: With dropout.
        running: Without dropout, by running statistics.

    """

    calm: float
    dropping: float
    running: float

    def lost(self, first: float) -> tuple[float, float]:
        """Shares of what was learnt since the `first` loss that dropout, and running statistics, take away.

        Returns:
            0 for both if hardly anything was learnt.

        Example:
            >>> Gap(calm=1.0, dropping=1.8, running=1.0).lost(2.0)
            (0.8, 0.0)

        """
        if not self.learnt(first):
            return 0.0, 0.0
        return tuple(round((loss - self.calm) / (first - self.calm), 6) for loss in (self.dropping, self.running))  # type: ignore[return-value]

    def learnt(self, first: float) -> bool:
        """Whether more than `LEARNT` of the `first` loss was learnt since.

        Example:
            >>> Gap(calm=1.0, dropping=1.8, running=1.0).learnt(1.05)
            False

        """
        return first - self.calm > LEARNT * abs(first)


def due(run: Run, compared: int) -> bool:
    """Whether to compare now, after so many times."""
    return compared < len(LATE) and run.step >= max(YOUNG, LATE[compared] * min(run.horizon, LONG))


def strong_dropouts(step: Step) -> list[str]:
    """Names of the dropouts called in training mode that drop more than `STRONG` of what a network has computed."""
    dropping = [event for event in step.events if isinstance(event.module, _DropoutNd) and event.training]
    hidden = [event for event in dropping if event.inputs and step.producer(event.inputs[0]) is not None]
    return [event.name for event in hidden if event.module.p > STRONG]  # type: ignore[union-attr, operator]


def norms_called_once(step: Step) -> list[str]:
    """Names of the BatchNorms that take statistics, all of them once; of several calls each would see a mixture."""
    names = [e.name for e in step.events if isinstance(e.module, _BatchNorm) and e.training and matters(e.module)]
    return names if names and max(Counter(names).values()) == 1 else []


def gap(run: Run, batch: Any) -> Gap | None:
    """Run the step again on a copy, with dropout, without, and by running statistics; None if that can't be done."""
    try:
        with rehearsal(run) as again:
            dropping = sum(_loss(again, batch, seed) for seed in range(DRAWS)) / DRAWS
            without_dropout(again.module)
            calm = _loss(again, batch)
            for module in again.module.modules():
                if isinstance(module, _BatchNorm):
                    module.training = False
            return Gap(calm, dropping, _loss(again, batch))
    except CannotRehearseError:
        return None


def prevented(run: Run, batch: Any) -> tuple[float, float, float] | None:
    """Fit a copy to one batch with dropout, and another one without: whether it is dropout that lets it learn nothing.

    Returns:
        The loss before, after the fit with dropout, and after the one without, all of them measured without. None if
        dropout does not prevent learning, or that can't be tried.

    """
    if not run.module.automatic_optimization:
        return None
    fitted = []
    try:
        for drops in (True, False):
            with rehearsal(run) as again:
                if not drops:
                    without_dropout(again.module)
                fitted.append(_fitted(again, batch))
    except CannotRehearseError:
        return None
    (before, dropping), (_, calm) = fitted
    learnt = before - calm
    if learnt > HALF * abs(before) and before - dropping < PREVENTED * learnt:
        return before, dropping, calm
    return None


def _fitted(again: Rehearsal, batch: Any) -> tuple[float, float]:
    """The loss before and after a few steps on the batch, without dropout."""
    weights = [p for optimizer in again.optimizers for group in optimizer.param_groups for p in group["params"]]
    weights = [p for p in weights if p.requires_grad]
    adam, dropouts = (
        torch.optim.Adam(weights, lr=RATE),
        [m for m in again.module.modules() if isinstance(m, _DropoutNd)],
    )
    before = _calm(again, batch, dropouts)
    for seed in range(STEPS):
        with torch.inference_mode(mode=False), torch.enable_grad():
            loss = again.step(batch, seed=seed).loss
            if loss is None or not loss.requires_grad:
                return before, before
            for p, gradient in zip(weights, torch.autograd.grad(loss.sum(), weights, allow_unused=True), strict=True):
                p.grad = gradient
        adam.step()
    return before, _calm(again, batch, dropouts)


def _calm(again: Rehearsal, batch: Any, dropouts: list[_DropoutNd]) -> float:
    kept = [dropout.p for dropout in dropouts]
    for dropout in dropouts:
        dropout.p = 0.0
    loss = _loss(again, batch)
    for dropout, p in zip(dropouts, kept, strict=True):
        dropout.p = p
    return loss


def _loss(again: Rehearsal, batch: Any, seed: int = 0) -> float:
    loss = again.step(batch, seed=seed).loss
    return math.nan if loss is None else float(loss.mean())
