"""Common mistakes: "you forgot to .zero_grad() (in pytorch) before .backward()"."""

from __future__ import annotations

import math
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar

from torch.optim import SGD

from lightning_recipe.callback import Check
from lightning_recipe.callbacks._accumulation import MANY, TIMES, Accumulation, parts_of, uneven
from lightning_recipe.callbacks._clipping import Clippings, idle, is_tight, too_tight
from lightning_recipe.callbacks._contributions import Contributions, of_others
from lightning_recipe.callbacks._leftovers import Leftovers, cleared_too_soon, never_cleared
from lightning_recipe.callbacks._moments import moments
from lightning_recipe.finding import Section, Status
from lightning_recipe.record.modules import parameters_of
from lightning_recipe.record.step import Need

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.finding import Finding, Outcome
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

ENOUGH = 4
"""Steps of a parameter that are followed; of those with a closure the first shows nothing."""
LONGEST, RARELY = 16, 64
"""Batches looked at, at most, until each parameter has taken enough steps, which accumulation by hand delays; where
several optimisers take turns, all of them are looked at. The latter where a step takes more than a few batches."""
LATE = 0.9
"""Share of the run after which a loss is looked at again that sums or clipping may have kept from falling."""
FELL = 0.8
"""Share of the first losses, below which it has."""


class StaleGradientCheck(Check):
    """Judges which gradients each optimiser's step uses: those of its own batches, once, and clipped in time.

    - Gradients that are still there, the same by their norm, when the next backward begins, are not cleared after that,
      and are used again: `failed` at two steps in a row. It makes no difference who forgets to clear: a step by hand,
      one that clears those of another optimiser, or an ``optimizer_zero_grad`` that does nothing.
    - zero_grad between backward and the step, by hand, so that no step finds a gradient: `failed`.
    - Steps of a network that take what the backward of its adversary has left in it, for which another optimiser has
      stepped already: `warning` at three of them, if it is so of all gradients of its optimiser.
    - Clipping that never has a gradient to clip, before backward, after the step, or of parameters that have none:
      `failed`. Clipping that cuts each step a hundredfold, so that SGD moves the weights by less than 3 % of their norm
      in the whole run: `warning`.
    - Accumulation by hand, whose losses are added up under SGD and not divided: `advice`. Batches whose gradients are
      cleared before any step, while steps wait for several batches: `warning`.

    Args:
        strict: Stop the run when something failed.

    Source:
        A. Karpathy, most common neural net mistakes (2018): "you forgot to .zero_grad() (in pytorch) before
        .backward()".

    Legitimate:
        - Accumulation, by Lightning or by hand: no optimiser steps in between. Several calls of backward for one step.
        - Gradients that another network's backward changes, and that are cleared before they are used, as in DCGAN.
        - A loss of two optimisers that both step after it, also if one of them does so at every fourth batch only.
        - Tight clipping as for LSTMs, and any under Adam, whose steps are as large as before.

    Cost:
        The order of calls and the norms of the gradients in the first four steps; in up to 16 batches where an
        optimiser does not step at each, or several take turns.

    Example:
        >>> import contextlib, io
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe.demo import DigitsNet, loaders
        >>> check = StaleGradientCheck()
        >>> trainer = Trainer(callbacks=[check], barebones=True, max_steps=5)
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     trainer.fit(DigitsNet(), *loaders())
        >>> check.findings[0].message
        'no gradient was used by two steps, of 4 steps in a row'

    """

    section = Section.MISTAKES
    sentence = 2
    why = "backward adds to the gradients that are there, so that a step takes those of all batches before it again"
    needs = Need.WIRING | Need.GRAPH | Need.HELD
    explains: ClassVar = {
        "missing_zero_grad": (
            "OverfitOneBatch/optimiser_unstable",
            *("PredictionDynamicsLogger/*", "ActivationMonitor/*", "InputIndependenceCheck/input_ignored"),
            "Baselines/*",
        ),
        "cleared_before_step": tuple(
            f"OverfitOneBatch/{code}" for code in ("no_gradient", "weights_do_not_change", "stuck")
        ),
        "foreign_gradient": ("OverfitOneBatch/optimiser_unstable", "OverfitOneBatch/stuck", "OverfitOneBatch/too_slow"),
        "summed_batches": (
            *("OverfitOneBatch/*", "PredictionDynamicsLogger/*", "ActivationMonitor/dead", "FirstNonFinite/diverged"),
            *("UpdateRatioMonitor/too_large", "Baselines/*"),
        ),
        "clipped_to_nothing": ("OverfitOneBatch/*", "PredictionDynamicsLogger/frozen", "UpdateRatioMonitor/too_small"),
        "clips_nothing": (
            *("OverfitOneBatch/optimiser_unstable", "PredictionDynamicsLogger/*", "UpdateRatioMonitor/too_large"),
            *("ActivationMonitor/*", "InputIndependenceCheck/input_ignored"),
        ),
    }

    def before_training(self, run: Run) -> Iterator[Finding]:
        """Begin anew with each fit; where Lightning's own order is not known, there is nothing to see."""
        self._leftovers, self._clippings = Leftovers(), Clippings()
        self._contributions, self._accumulation = Contributions(), Accumulation()
        self._losses: list[float] = []
        self._late: list[float] | None = None  # losses at the end of the run, if these are to be known
        if run.module.automatic_optimization:
            hooks = ["on_before_backward", *["optimizer_zero_grad"] * (run.trainer.accumulate_grad_batches > 1)]
            if hook := next((hook for hook in hooks if run.overrides(hook)), None):
                self.done = True
                yield self.skipped(f"{hook} is the module's own: what it clears between two looks is not known")

    def next_look(self, run: Run) -> float:
        """At every step of a few."""
        return max(run.step + 1, math.ceil(LATE * run.horizon) if self._late is not None else 0)

    def sampled_step(self, run: Run, step: Step) -> Iterator[Finding]:
        """Follow the gradients of a few steps in a row."""
        losses = self._losses if self._late is None else self._late
        losses += [float(step.loss.mean())] if step.loss is not None else []
        if self._late is not None:
            self.done = len(self._late) >= LONGEST or run.step >= run.horizon
            yield from self._verdict(run) if self.done else ()
            return
        found = list(moments(step))
        for moment in found:
            for follower in (self._leftovers, self._clippings, self._contributions):
                follower.enter(moment)
        self._accumulation.enter(found, step.graph, parts_of(step))
        told = [*never_cleared(self._leftovers, run), *cleared_too_soon(self._leftovers)]
        yield from map(self.found, told)
        self.done = bool(told) or self._has_seen_enough(run)
        if self.done and not told:
            told = [*self._outcomes(run)]
            if not any(outcome.status is not Status.ADVICE for outcome in told) and self._may_keep_from_learning(run):
                self.done, self._late = False, []
            else:
                yield from self._verdict(run)

    def _has_seen_enough(self, run: Run) -> bool:
        held = {name: p for o in run.trainer.optimizers for name, p in parameters_of(o, run.module).items()}
        left = [name for name, p in held.items() if p.requires_grad and self._leftovers.steps[name] < ENOUGH]
        rarely = max(self._leftovers.steps.values(), default=0) < TIMES
        most = RARELY if rarely and not run.module.automatic_optimization else LONGEST
        return run.step >= most or not (left or len(run.trainer.optimizers) > 1)

    def _may_keep_from_learning(self, run: Run) -> bool:
        """Whether it depends on the loss at the end of the run what there is to say."""
        summed = [batches for batches in self._accumulation.summed if batches >= MANY]
        by_sgd = all(isinstance(optimizer, SGD) for optimizer in run.trainer.optimizers)
        return by_sgd and (len(summed) >= TIMES or is_tight(self._clippings)) and RARELY < run.horizon < math.inf

    def _outcomes(self, run: Run) -> Iterator[Outcome]:
        first, last = (fmean(losses) if losses else math.nan for losses in (self._losses[:LONGEST], self._late))
        stays = bool(self._late) and not last < first - (1 - FELL) * abs(first)
        course = f", and the loss has not fallen far ({first:.3g}, then {last:.3g})" if stays else ""
        yield from idle(self._clippings, run)
        yield from too_tight(self._clippings, run, course)
        if not run.module.automatic_optimization:
            yield from of_others(self._contributions, run)
            yield from uneven(self._accumulation, run, course)

    def end(self, run: Run) -> Iterator[Finding]:
        """There is no silence."""
        if not self.findings:
            yield from self._verdict(run)

    def _verdict(self, run: Run) -> Iterator[Finding]:
        told = list(self._outcomes(run))
        steps = max(self._leftovers.steps.values(), default=0)
        if told:
            yield from map(self.found, told)
        elif steps > 1:
            yield self.passed(f"no gradient was used by two steps, of {steps} steps in a row")
        else:
            yield self.skipped(f"{steps or 'no'} step of an optimiser was seen: at least two are needed")
