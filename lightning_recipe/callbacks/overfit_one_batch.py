"""Recipe, section 2: "overfit one batch"."""

from __future__ import annotations

import functools
import itertools
import time
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_recipe.callback import Check
from lightning_recipe.callbacks import _overfit_obstacles as obstacles
from lightning_recipe.callbacks._carried import goes_on
from lightning_recipe.callbacks._other_gradient import has_other_gradient
from lightning_recipe.callbacks._overfit_fits import Allowed, Fits
from lightning_recipe.callbacks._overfit_objectives import each_of, judged
from lightning_recipe.callbacks._overfit_pictures import pictures
from lightning_recipe.callbacks._overfit_progress import has_begun
from lightning_recipe.callbacks._overfit_symptoms import is_affine
from lightning_recipe.callbacks._overfit_verdict import outcome
from lightning_recipe.figures import experiments
from lightning_recipe.figures.canvas import pixels
from lightning_recipe.finding import Outcome, Section, Status
from lightning_recipe.record.tensors import leading_size
from lightning_recipe.show import loggers, terminal
from lightning_recipe.trial.course import LONGER
from lightning_recipe.trial.first_examples import first_examples
from lightning_recipe.trial.isolation import is_out_of_memory, memory_given_back
from lightning_recipe.trial.rehearsal import CannotRehearseError
from lightning_recipe.trial.short_fit import short_fit
from lightning_recipe.trial.work import NET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.callbacks._overfit_progress import Trial
    from lightning_recipe.finding import Finding
    from lightning_recipe.run import Run
    from lightning_recipe.trial.objectives import Objective

ADAM = (3e-4, 1e-3)
"""Learning rates of the second arm. "Adam is safe ... with a learning rate of 3e-4" (the recipe, section 3)."""
FEWEST_EXAMPLES = 2
"""Examples where steps are expensive: "as little as two" (section 2)."""


class OverfitOneBatch(Check):
    """Judges whether the module can memorise a few examples, on a copy, before the first step of the run.

    A copy of the module is fitted on repeats of the first examples of the first batch, with the user's own optimiser
    and peak learning rate; dropout, weight decay and schedules are off. If that does not reach the lowest loss that
    the targets allow, Adam tries, with 3e-4 and then 1e-3. The run is bit-identical with and without.

    What counts is the way from the best constant prediction, which knows the targets only, to that floor:

    - the user's optimiser reaches it: `passed`;
    - no parameter ever gets a gradient: `failed`; `warning` where the floor isn't known;
    - only Adam reaches it: `failed`; `warning` where the user's optimiser was getting there, or warms up for long;
      `advice` where it gets there at a third of its rate;
    - falling when the steps were over: `passed` with less than a quarter of the way left. With less than half, the fit
      goes on for up to three times the steps, and passes if at its pace as many again would do. Else `warning`, with
      the rate;
    - falling when its work was over: `passed` with less than two thirds of the way left, which takes more than a
      constant, or where Adam gets there by as much work at three times the rate. Else `skipped`;
    - stuck: `failed`, with what is known about why; `warning` where there are several targets for each example,
      which not every good model can tell apart.

    A loss written by hand is asked: the step says what it is for answers in place of those of the last layers, with one
    row for all examples (the constant) and with one for each (the floor, found in 100 steps; half of ``1 + |constant|``
    below the constant where there is none, as of a density). Only fits that hardly get below the constant are told, as
    a `warning`, or `failed` where Adam gets there. Of steps that draw random numbers a mean over 8 counts, and half of
    the way is enough. Where steps keep a state that the loss depends on, as a queue of negatives, a fit in which each
    step finds the state of the first may show what is possible; where there are other terms in the loss, half of the
    way of the loss functions seen, or the whole step, asked.

    Where several optimisers have a loss each, each is fitted by itself, with what the others train held, and random
    numbers, too: of a GAN the discriminator, which can tell real examples from fakes that stay the same. A generator's
    loss comes through the discriminator, and is `skipped`; so is all that a fit does not reach, unless the learning
    rate is the reason.

    `skipped` are resumed runs, sharded parameters, modules that can't be copied, and fits that don't get there of one
    affine map, whose gradient is not that of the loss, or whose floor isn't known: the loss has other terms, or can't
    be asked.

    Args:
        max_examples: Examples of the first batch to memorise.
        max_steps: Steps for each optimiser and learning rate; up to three times as many for a fit that has half of the
            way behind it, and is still falling.
        max_seconds: A safety net, after which all is `skipped` that isn't decided. A twentieth of it bounds the work of
            all fits, in seconds of a nominal machine: a step is counted, not timed, so that a verdict does not depend
            on how busy the machine is. Half of the work is for the user's optimiser, and up to twice all of it while it
            is falling. `skipped` is a module of which 50 steps are more work than that.
        tolerance: Share of the way that may be left, 0 to 1: 0.02 is a cross entropy of 0.05 over ten classes,
            or an R2 of 0.98.
        strict: Stop the run when it failed.

    Raises:
        ValueError: If a number is not positive, or `tolerance` not between 0 and 1.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "overfit a single batch of only a few examples
        (e.g. as little as two) ... verify that we can reach the lowest achievable loss".

    Legitimate:
        - A model that is small on purpose can't tell many examples apart. Ask for fewer:
          ``OverfitOneBatch(max_examples=2)``. A single linear layer is `skipped`.
        - A rate that is low on purpose, to fine-tune: ``OverfitOneBatch(max_steps=3000, max_seconds=500)``.
        - Targets that contradict each other: equal inputs with different labels are accounted for, nearly equal ones
          are not. Allow for them with `tolerance`.

    Cost:
        About a twentieth of `max_seconds` on an idle machine, once, before the first step, and up to three times that
        where steps are expensive and the loss is still falling; less as soon as it is there. A second copy of the
        module and of its optimiser's state is in memory for as long.
        The trial's steps are the module's own: a step that writes files writes them in the trial, too, and one that
        counts in a global variable, a class attribute or the data module counts the trial's steps. Leave the check out
        of such runs.

    Pictures:
        - `loss`: The loss over the steps on one batch, a curve for each optimiser that tried; the dashed line is the
          lowest possible loss, which a curve should reach.
        - `labels and predictions`: What the better optimiser made of each example: predictions and labels side by
          side, which should be the same.

    Example:
        >>> import contextlib, io
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe.demo import DigitsNet, loaders
        >>> check = OverfitOneBatch()
        >>> trainer = Trainer(callbacks=[check], barebones=True, max_steps=1)
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     trainer.fit(DigitsNet(), *loaders())
        >>> check.findings[0].status
        <Status.PASSED: 'passed'>

    """

    section = Section.SKELETON
    sentence = 8
    why = (
        "a model that can't memorise a few examples won't learn from many: overfit a single batch, and verify that it "
        "reaches the lowest achievable loss"
    )

    explains: ClassVar = dict.fromkeys(
        ("no_gradient", "learning_rate_too_low", "optimiser_slow", "parameters_left_out", "weights_do_not_change"),
        ("PredictionDynamicsLogger/frozen", "Baselines/*"),
    ) | {"optimiser_unstable": ("PredictionDynamicsLogger/*", "Baselines/*")}

    def __init__(
        self,
        *,
        max_examples: int = 8,
        max_steps: int = 600,
        max_seconds: float = 100.0,
        tolerance: float = 0.02,
        strict: bool = False,
    ) -> None:
        super().__init__(strict=strict)
        if min(max_examples, max_steps, max_seconds) <= 0 or not 0 < tolerance < 1:
            given = f"{max_examples}, {max_steps}, {max_seconds} and {tolerance}"
            msg = f"positive max_examples, max_steps, max_seconds, and a tolerance in (0, 1) expected, got {given}"
            raise ValueError(msg)
        self.max_examples, self.max_steps = max_examples, max_steps
        self.max_seconds, self.tolerance = max_seconds, tolerance

    def before_training(self, run: Run) -> Iterator[Finding]:
        """Try to memorise the first batch, and judge."""
        if run.resumed and self.findings:
            return
        if reason := obstacles.known_before(run):
            yield self.found(Outcome(Status.SKIPPED, *reason, evidence={"optimisers": len(run.trainer.optimizers)}))
            return
        with memory_given_back(run.trainer.strategy.root_device):  # of the copy, to which a trial's steps refer
            yield from self._examine(run)

    def _examine(self, run: Run) -> Iterator[Finding]:
        try:
            optimizers = len(run.trainer.optimizers)
            if optimizers > 1:
                each, examples = each_of(run, first_examples(run.batch, self.max_examples))
                if len(each) != 1 or len(each[0].optimizers) < optimizers or not each[0].losses:
                    yield from self._examine_each(run, each, examples)
                    return
            trial = self.attempt(run)
        except CannotRehearseError as reason:
            text = f"{optimizers} optimisers may work against each other, and then reach no floor: {reason}"
            yield self.found(Outcome(Status.SKIPPED, "several_optimisers", text, evidence={"optimisers": optimizers}))
            return
        except Exception as error:  # noqa: BLE001 - those that nobody expects are passed on
            yield self.found(Outcome(Status.SKIPPED, *obstacles.of_error(error)))
            return
        if (found := outcome(trial, run.module)).code in {"stuck", "too_slow"}:
            trial.exempt = _exempt(run)
            found = outcome(trial, run.module)
        yield self.found(found)
        if has_begun(trial.fits[0]) and loggers.is_written(run.trainer):
            for name, picture in pictures(trial).items():
                self.draw(run, name, pixels(picture))

    def _examine_each(self, run: Run, each: list[Objective], examples: Any) -> Iterator[Finding]:
        """The objectives of several optimisers, each by itself."""
        curves: dict[str, list[float]] = {}
        allowed = self._allowed(len(each))
        with terminal.progress(run.trainer, "OverfitOneBatch", LONGER * self.max_steps * len(each)) as advance:
            for one in each:
                try:
                    found, trial = judged(run, examples, one, allowed, advance)
                except Exception as error:  # noqa: BLE001 - those that nobody expects are passed on
                    found, trial = Outcome(Status.SKIPPED, *obstacles.of_error(error), evidence={"fits": 0}), None
                yield self.found(found, one.subject)
                curves |= {fit.optimizer: fit.losses for fit in (trial.fits[:1] if trial is not None else ())}
        if curves and loggers.is_written(run.trainer):
            self.draw(run, "loss", pixels(experiments.loss_curves(curves, None)))

    def attempt(self, run: Run) -> Trial:
        """Fit by as many optimisers as are needed; on the whole batch if its first examples alone raise."""
        batch, few = run.batch, first_examples(run.batch, self.max_examples)
        with terminal.progress(run.trainer, "OverfitOneBatch", LONGER * self.max_steps * (1 + len(ADAM))) as advance:
            make = functools.partial(short_fit, run.trainer, run.module, advance=advance)
            try:
                fits = Fits(run, self._allowed(), make, few)
                trial = fits.own(first_examples(few, FEWEST_EXAMPLES))
            except Exception as error:
                if few is batch or is_out_of_memory(error):
                    raise
                fits = Fits(run, self._allowed(), make, batch)  # the module's code relies on the size of its batches
                trial = fits.own(batch)
            whole = fits.examples is batch
            trial.examples = run.examples_in(batch) if whole else leading_size(fits.examples)
            fits.others(trial)
            now, peaks = (itertools.chain.from_iterable(rates) for rates in (run.rates, run.peak_rates))
            trial.warms_up = any(rate < peak / 2 for rate, peak in zip(now, peaks, strict=True))
            if outcome(trial, run.module).code == "optimiser_unstable":
                trial.slower = fits.slower(trial)
        return trial

    def _allowed(self, parts: int = 1) -> Allowed:
        ends = time.monotonic() + self.max_seconds
        return Allowed(self.max_steps, self.max_seconds / NET / parts, ends, self.tolerance, ADAM)


def _exempt(run: Run) -> str:
    """Why it may be unable to memorise a batch though nothing is wrong; nothing if it should."""
    if has_other_gradient(run, run.batch):
        return "other_gradient"
    if goes_on(run, run.batch):
        return "goes_on"
    return "affine" if is_affine(run) else ""
