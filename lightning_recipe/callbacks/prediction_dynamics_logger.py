"""Recipe, section 2: "visualize prediction dynamics"."""

from __future__ import annotations

import math
from collections.abc import Callable  # noqa: TC003 - LightningCLI reads the types of arguments at run time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lightning_recipe.callback import RecipeCallback
from lightning_recipe.callbacks._dynamics_verdict import LATE_LOOKS, curves, outcome
from lightning_recipe.callbacks._fixed_outputs import candidates
from lightning_recipe.figures import dynamics
from lightning_recipe.figures.canvas import pixels
from lightning_recipe.finding import Finding, Section
from lightning_recipe.looks import LONG, frames, next_step
from lightning_recipe.record.step import Need
from lightning_recipe.show import loggers
from lightning_recipe.trial.replay import CannotReplayError
from lightning_recipe.trial.time_budget import TimeBudget

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from lightning_recipe.callbacks._fixed_batch import FixedBatch
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run


class PredictionDynamicsLogger(RecipeCallback):
    """Shows how the predictions on one fixed batch move as training goes on, and says so when they do not, or jump.

    The batch is the first one of the sanity check's validation. Without a sanity check, or if no loss tells what its
    predictions should be, it is the first training batch; then the first look comes after the first step. Its
    predictions come from running the network's call of that step again, in eval mode, without gradients, and without
    a trace in the training; where there is code between modules, from running the step again on a copy. That is at
    steps 0, 1, 2, 4, 8, ..., every `every_n_steps`, later 4 times whenever the number of steps doubles, and at the end.
    The loss function that was given the network's output tells what it is: classes, yes or no, numbers, tokens, or maps
    of these. Pictures that a module makes of rows of noise, as a generator does, are of the same noise at each look.

    Curves: ``jitter``, the mean share of probability that moved since the look before, per step (total variation;
    for numbers, in standard deviations of the target); ``flips``, the share of answers that changed since; ``right``,
    the share of answers that are, or ``error``, the mean absolute one. Pictures: at most five, of all looks so far or
    of four moments, evenly spaced in the logarithm of the step; what would take more than `max_share` of the run's time
    is drawn at its end.

    The verdict at the end is about held-out predictions that have learnt nothing while the training loss has not
    fallen (error of at least 0.9 of an uninformed guess's, loss at least 0.95 of the first); all else `passed`:

    - from the first to the last look they moved by less than `min_moved`: frozen, `warning`;
    - in the second half they move by more than `max_jitter` between looks, and 3 of 10 answers flip: `warning`;
    - all examples have got the same prediction, with a spread below 0.001: `warning`;
    - they are all NaN or infinite, and were not at first: `warning`.

    Runs shorter than `min_steps`, with less than 4 looks in their second half, whose learning rate still rises, or
    whose target is unknown, are never accused.

    Args:
        max_examples: Examples looked at, from the front of the batch.
        every_n_steps: Batches between looks after the first ones; twice as many from 8 times that number on, and so on,
            in the first half of a long run sooner.
        min_steps: Batches from which on predictions should have moved.
        min_moved: Share of probability, 0 to 1; for numbers, standard deviations of the target; less in a shorter run.
        max_jitter: The same unit, from one look to the next; for numbers four times as much.
        max_share: Share of the run's time, 0 to 1, that pictures may take before its end; 1 is no limit.
        keep_examples: Whether a batch is kept and its predictions drawn; without, there is nothing to look at.
        predict: ``predict(pl_module, batch)``, for modules whose network can't be run again on its own. Returns a
            tensor like the loss function's input. Called in eval mode, without gradients.
        decode: Makes text of a list of token ids, such as the ``decode`` of a tokenizer; it gets one at a time.

    Raises:
        ValueError: If a number is not positive.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "visualize model predictions on a fixed test batch
        during the course of training. The 'dynamics' of how these predictions move will give you incredibly good
        intuition for how the training progresses ... very low or very high learning rates are also easily noticeable
        in the amount of jitter."
        Thresholds from 288 runs of 300 steps (``benchmarks/prediction_dynamics.py``: nine programs, Adam and SGD, rates
        from 1e-6 to 10). All 78 that got below an error of 0.7 passed, and had moved by 0.26 at least; random labels at
        sane rates moved by 0.027 at least, between late looks by 0.10 at most (numbers 0.54). Called frozen were rates
        up to 1e-5 (SGD 1e-4), jumping those of 1 and 10, collapsed or not finite those from 0.1 on.

    Legitimate:
        - A rate that is low on purpose, to fine-tune: ``PredictionDynamicsLogger(min_steps=2000, min_moved=0.001)``.
        - A fixed batch of another domain, on which predictions may jump while training is fine: raise `max_jitter`.
        - A loss that does not fall by design, as in reinforcement learning; the score of an adversary, which may be no
          better than a guess: with several optimisers only what is not finite is told.

    Cost:
        Once, a forward on a copy of the module; each look is a forward pass of at most `max_examples` examples, with
        pictures one more for each other output that the step compares, at most two; or a step on a copy of the module.

    Pictures:
        - `predictions`: A row for each of the fixed examples, a column for each look, bright where the true class is
          probable; squares mark answers that changed, crosses those that are wrong now. When training goes well it gets
          bright, and the squares end.

    Example:
        >>> import contextlib, io
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe.demo import DigitsNet, loaders
        >>> logger = PredictionDynamicsLogger(every_n_steps=10)
        >>> trainer = Trainer(callbacks=[logger], barebones=True, max_steps=60)
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     trainer.fit(DigitsNet(), *loaders())
        >>> logger.findings[0].status
        <Status.PASSED: 'passed'>

    """

    section = Section.SKELETON
    sentence = 11
    every_n_epochs = None
    why = (
        "how predictions on a fixed batch move tells how training goes: they settle when all is well, stand still when "
        "the learning rate is too low, and jitter when it is too high"
    )

    def __init__(  # noqa: PLR0913 - three say what to look at, three when to worry, two are escape hatches
        self,
        *,
        max_examples: int = 16,
        every_n_steps: int = 25,
        min_steps: int = 200,
        min_moved: float = 0.01,
        max_jitter: float = 0.15,
        max_share: float = 0.0003,
        keep_examples: bool = True,
        predict: Callable[..., Any] | None = None,
        decode: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__()
        if min(max_examples, every_n_steps, min_steps, min_moved, max_jitter) <= 0 or not 0 <= max_share <= 1:
            numbers = "max_examples, every_n_steps, min_steps, min_moved and max_jitter"
            msg = f"positive {numbers}, and a max_share between 0 and 1 expected"
            raise ValueError(msg)
        self.max_examples, self.every_n_steps, self.max_share = max_examples, every_n_steps, max_share
        self.min_steps, self.min_moved, self.max_jitter = min_steps, min_moved, max_jitter
        self.keep_examples, self.predict, self.decode = keep_examples, predict, decode
        self._forget()

    def _forget(self) -> None:
        self._steps: list[Step] = []  # watched, in which the fixed batch may be found
        self._fixed: FixedBatch | None = None
        self._adversaries = False
        self._others: list[FixedBatch] = []  # what else the step compares: drawn, not judged
        self.needs = type(self).needs  # until there is a batch
        self._frames: list[int] = []  # steps since the first look, from which on the next pictures are due
        self._undrawn: list[list[FixedBatch]] = []  # as it was when pictures were due, for which there was no time yet
        self._time = TimeBudget(self.max_share)

    # -- when

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew with each fit."""
        super().setup(trainer, pl_module, stage)
        self._forget()

    def validation(self, run: Run, step: Step) -> Iterator[Finding]:  # noqa: ARG002
        """Keep the first validation step of the sanity check."""
        if self.keep_examples and not self._steps:
            self._steps.append(step)
        yield from ()

    def before_training(self, run: Run) -> Iterator[Finding]:
        """Look for the first time."""
        if not self.keep_examples:
            self.done = True
            yield self.skipped("no batch may be kept")
            return
        yield from self._trying(self._begin, run, last=False)

    def sampled_step(self, run: Run, step: Step) -> Iterator[Finding]:
        """Look again; in the first training step if the sanity check gave no batch."""
        if self._fixed is None:
            self._steps.append(step)
            yield from self._trying(self._begin, run, last=True)
        else:
            yield from self._trying(self._look, run, self._fixed)

    def end(self, run: Run) -> Iterator[Finding]:
        """Look for a last time, judge, and draw."""
        if not run.interrupted:
            yield from self._conclude(run)
        while self._undrawn:
            self._show(run, self._undrawn.pop(0))
        if not run.interrupted and self._fixed is not None:
            self._show(run, [self._fixed, *self._others])
        self._forget()

    def next_look(self, run: Run) -> float:
        """Ever rarer, since a look takes as long as half a step of a small network; the verdict needs the late ones."""
        if self._fixed is None:
            return run.step + 1
        begun, every, half = self._fixed.begun, self.every_n_steps or 1, run.horizon / 2
        if LONG <= run.horizon < math.inf and run.step < half and not run.may_end_earlier:
            return min(begun + next_step(run.step - begun, every, run.horizon), math.ceil(half))
        return begun + next_step(run.step - begun, every, dense=LATE_LOOKS)

    def _trying(self, look: Callable[..., None], run: Run, *args: Any, **more: Any) -> Iterator[Finding]:
        """What can't be done is said once, and ends it."""
        try:
            look(run, *args, **more)
        except CannotReplayError as error:
            self.done = True
            self._forget()
            yield self.skipped(f"the predictions can't be looked at again: {error}")

    def _begin(self, run: Run, *, last: bool) -> None:
        """Choose the first watched batch whose target is known, and look; unless another is to come.

        Raises:
            CannotReplayError: If no watched batch can be looked at again.

        """
        found, reasons = candidates(self._steps, run, self.max_examples, self.predict, last=last)
        if found and (last or (found[0][0].how.target is not None and found[0][0].how.sure)):
            self._fixed, *others = found[0]
            self._steps, self.needs = [], Need(0)
            if loggers.is_written(run.trainer):
                self._others, self._frames = others, frames(run.horizon)
            self._look(run, self._fixed)
        elif last:
            hint = "" if self.predict else ". predict= can give them: a function of the module and the batch"
            raise CannotReplayError(reasons[-1] + hint)

    # -- looking

    def _look(self, run: Run, fixed: FixedBatch) -> None:
        values = _read(run, fixed)
        shown = dynamics.keep(fixed, values) if loggers.is_written(run.trainer) else None
        numbers = fixed.look(run.step, values, shown, loss=run.loss, rate=run.rate)
        for other in self._others:
            values = _read(run, other)
            other.look(run.step, values, dynamics.keep(other, values))
        self.plot(run, curves(numbers, of_numbers=fixed.how.of_numbers))
        if self._frames and self._frames[0] <= run.step - fixed.begun and run.step < run.horizon:  # the last is drawn
            self._frames = [frame for frame in self._frames if frame > run.step - fixed.begun]
            self._undrawn.append([replace(one, looks=[*one.looks]) for one in (fixed, *self._others)])
        if self._undrawn and self._time.is_enough():
            self._show(run, self._undrawn.pop(0))

    def _show(self, run: Run, outputs: list[FixedBatch]) -> None:
        if loggers.is_written(run.trainer):
            with self._time.spent():
                for fixed in outputs:
                    picture = dynamics.draw(fixed, self.decode)
                    self.draw(run, f"predictions {fixed.name}".rstrip(), pixels(picture), fixed.latest)

    # -- judging

    def _conclude(self, run: Run) -> Iterator[Finding]:
        if (fixed := self._fixed) is None:
            yield from self._trying(self._begin, run, last=True)
        elif run.step > fixed.latest:
            self._frames = []
            yield from self._trying(self._look, run, fixed)
        if (fixed := self._fixed) is not None:
            self._adversaries = len(run.trainer.optimizers) > 1
            yield self.judge(fixed)  # before pictures, in which the user's own `decode` may raise

    def judge(self, fixed: FixedBatch) -> Finding:
        """The verdict on all looks together."""
        limits = self.min_steps, self.min_moved, self.max_jitter
        return self.found(outcome(fixed, *limits, adversaries=self._adversaries))


def _read(run: Run, fixed: FixedBatch) -> Tensor:
    """The predictions on a fixed batch, as they are now.

    Raises:
        CannotReplayError: If there are none, or not as many as at the first look, as of a step that draws its examples.

    """
    said, values = fixed.again(run.trainer, run.module), None
    with suppress(KeyError, RuntimeError):
        values = fixed.how.read(said)
    if values is None or (fixed.first is not None and values.shape != fixed.first.shape):
        msg = "the same batch gives outputs of other shapes at each look"
        raise CannotReplayError(msg)
    return values
