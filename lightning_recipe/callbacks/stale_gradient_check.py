"""Common mistakes: "you forgot to .zero_grad() (in pytorch) before .backward()"."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lightning_recipe.callback import Check
from lightning_recipe.callbacks._leftovers import Leftovers
from lightning_recipe.finding import Section, listed
from lightning_recipe.record.modules import parameters_of
from lightning_recipe.record.step import Need

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.finding import Finding
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

IN_A_ROW = 2
"""Steps in a row that have to use an old gradient: who clears at every second step means to."""
ENOUGH = 4
"""Steps of a parameter that are followed; of those with a closure the first shows nothing."""
LONGEST = 16
"""Batches looked at, at most, until each parameter has taken enough steps: accumulation by hand takes several."""


class StaleGradientCheck(Check):
    """Judges whether gradients survive the optimiser's step that used them, and are used by the next one again.

    `failed` if a gradient is still there, the same by its norm, when the next backward begins, is not cleared after
    that, and its optimiser steps again: at two steps in a row, so that each step takes the gradients of all before.
    It makes no difference who forgets to clear: a step by hand, one that clears those of another optimiser, or an
    ``optimizer_zero_grad`` that does nothing. Gradients that another's backward leaves in a network are not judged.

    `failed`, too, if zero_grad comes between backward and the step, by hand, so that no step finds a gradient.

    Args:
        strict: Stop the run when something failed.

    Source:
        A. Karpathy, most common neural net mistakes (2018): "you forgot to .zero_grad() (in pytorch) before
        .backward()".

    Legitimate:
        - Accumulation, by Lightning or by hand: no optimiser steps in between. Several calls of backward for one step.
        - Gradients that another network's backward changes, and that are cleared before they are used, as in a GAN.

    Cost:
        The order of calls and the norms of the gradients in the first four steps; in up to 16 batches where an
        optimiser does not step at each.

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
    needs = Need.WIRING | Need.HELD
    explains: ClassVar = {
        "missing_zero_grad": ("OverfitOneBatch/optimiser_unstable", "PredictionDynamicsLogger/jumping"),
        "cleared_before_step": ("OverfitOneBatch/no_gradient", "OverfitOneBatch/weights_do_not_change"),
    }

    def before_training(self, run: Run) -> Iterator[Finding]:
        """Begin anew with each fit; where Lightning's own order is not known, there is nothing to see."""
        self._leftovers = Leftovers()
        if run.module.automatic_optimization:
            hooks = ["on_before_backward", *["optimizer_zero_grad"] * (run.trainer.accumulate_grad_batches > 1)]
            if hook := next((hook for hook in hooks if run.overrides(hook)), None):
                self.done = True
                yield self.skipped(f"{hook} is the module's own: what it clears between two looks is not known")

    def next_look(self, run: Run) -> float:
        """At every step."""
        return run.step + 1

    def sampled_step(self, run: Run, step: Step) -> Iterator[Finding]:
        """Follow the gradients of a few steps in a row."""
        leftovers = self._leftovers
        leftovers.look(step)
        stale = [name for name, count in leftovers.in_a_row.items() if count >= IN_A_ROW]
        held = {name: p for o in run.trainer.optimizers for name, p in parameters_of(o, run.module).items()}
        left = [name for name, p in held.items() if p.requires_grad and leftovers.steps[name] < ENOUGH]
        emptied = [n for n, count in leftovers.emptied.items() if count == leftovers.steps[n] >= IN_A_ROW]
        self.done = bool(stale or emptied) or not left or run.step >= LONGEST
        if stale:
            automatic = run.module.automatic_optimization
            yield self.failed(
                f"gradients are not cleared: {listed(stale)} had those of the step before when the "
                f"next backward began, at {IN_A_ROW} steps in a row",
                code="missing_zero_grad",
                fix="clear the gradients in optimizer_zero_grad, or leave it to Lightning"
                if automatic
                else "call zero_grad() of each optimiser that steps, before backward or after its step",
                parameters=len(stale),
            )
        if emptied:
            yield self.failed(
                f"gradients are cleared before they are used: all {leftovers.steps[emptied[0]]} steps of the optimiser "
                f"of {listed(emptied)} found none",
                code="cleared_before_step",
                fix="call zero_grad() before backward or after the step, not between the two",
                parameters=len(emptied),
            )
        if self.done and not (stale or emptied):
            yield from self._verdict()

    def end(self, run: Run) -> Iterator[Finding]:  # noqa: ARG002
        """There is no silence."""
        if not self.findings:
            yield from self._verdict()

    def _verdict(self) -> Iterator[Finding]:
        steps = max(self._leftovers.steps.values(), default=0)
        if steps > 1:
            yield self.passed(f"no gradient was used by two steps, of {steps} steps in a row")
        else:
            yield self.skipped(f"{steps or 'no'} step of an optimiser was seen: at least two are needed")
