"""Recipe, section 2: "visualize prediction dynamics"."""

from __future__ import annotations

import math
from collections.abc import Callable  # noqa: TC003 - LightningCLI reads the types of arguments at run time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lightning_recipe.callback import RecipeCallback
from lightning_recipe.callbacks._fixed_batch import FixedBatch, predicted, replayed
from lightning_recipe.figures import dynamics
from lightning_recipe.figures.canvas import pixels
from lightning_recipe.finding import Finding, Section
from lightning_recipe.looks import next_step
from lightning_recipe.record.step import Need
from lightning_recipe.show import loggers
from lightning_recipe.trial.replay import CannotReplayError
from lightning_recipe.trial.time_budget import TimeBudget

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import LightningModule, Trainer

    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

FRAMES = 9  # pictures before the last one: TensorBoard keeps ten images of a tag
CURVES = {  # of what is measured at each look
    "jitter": "jitter ({} per step)",
    "flip_rate": "flips (share per look)",
    "share_right": "right (share)",
    "mean_absolute_error": "error (target units)",
}
EVIDENCE = ("moved", "late_moved", "late_flips", "spread", "error", "loss_start", "loss_late")  # of what is measured
LATE_LOOKS = 4  # looks in the second half of the run without which nothing is called frozen or jumping
LEARNT = 0.9  # error on the fixed batch, in units of that of knowing nothing, below which something was learnt
FELL = 0.95  # of the first training loss; below, the loss has fallen
FLIPS = 0.3  # share of answers that must change from one look to the next to speak of jumping
NUMBERS = 4.0  # times max_jitter, in standard deviations of the target, for numbers, which have no bounds
COLLAPSED = 1e-3  # mean distance from the mean prediction below which all examples are predicted the same
RISING = 1.5  # times the mean learning rate of the first half: above, the rate is still rising at the end


class PredictionDynamicsLogger(RecipeCallback):
    """Shows how the predictions on one fixed batch move as training goes on, and says so when they do not, or jump.

    The batch is the first one of the sanity check's validation. Without a sanity check, or if no loss tells what its
    predictions should be, it is the first training batch; then the first look comes after the first step. Its
    predictions come from running the network's call of that step again, in eval mode, without gradients, and without
    a trace in the training: at steps 0, 1, 2, 4, 8, ..., every `every_n_steps`, later 4 times whenever the number of
    steps doubles, and at the end. The loss function that was given the network's output tells what it is: classes, yes
    or no, numbers, tokens, or maps of these.

    Curves: ``jitter``, the mean share of probability that moved since the look before, per step (total variation;
    for numbers, in standard deviations of the target); ``flips``, the share of answers that changed since; ``right``,
    the share of answers that are, or ``error``, the mean absolute one. Pictures: at most ten, evenly spaced in the
    logarithm of the step; what would take more than `max_share` of the run's time is drawn at its end.

    The verdict at the end is about held-out predictions that have learnt nothing while the training loss has not
    fallen (error of at least 0.9 of an uninformed guess's, loss at least 0.95 of the first); all else `passed`:

    - from the first to the last look they moved by less than `min_moved`: frozen, `warning`;
    - in the second half they move by more than `max_jitter` between looks, and 3 of 10 answers flip: `warning`;
    - all examples have got the same prediction, with a spread below 0.001: `warning`;
    - they are all NaN or infinite, and were not at first: `warning`.

    Runs shorter than `min_steps`, with less than 4 looks in their second half, whose learning rate still rises,
    or whose target is unknown, are never accused. `skipped`, with the reason, if nothing can be said, as when a forward
    leaves something behind that can't be put back: it is tried on a copy first.

    Args:
        max_examples: Examples looked at, from the front of the batch.
        every_n_steps: Batches between looks after the first ones; twice as many from 8 times that number on, and so
            forth: a look takes about as long as half a step of a small network, and the whole should cost nothing.
        min_steps: Batches from which on predictions should have moved.
        min_moved: Share of probability, 0 to 1; for numbers, standard deviations of the target.
        max_jitter: The same unit, from one look to the next; for numbers four times as much.
        max_share: Share of the run's time, 0 to 1, that pictures after the first may take before its end; 1 is no
            limit.
        predict: ``predict(pl_module, batch)``, for modules whose network can't be run again on its own. Returns a
            tensor like the loss function's input, such as logits. Called in eval mode, without gradients.
        decode: Makes text of a list of token ids, such as the ``decode`` of a tokenizer; it gets one at a time.

    Raises:
        ValueError: If a number is not positive.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "visualize model predictions on a fixed test batch
        during the course of training. The 'dynamics' of how these predictions move will give you incredibly good
        intuition for how the training progresses ... very low or very high learning rates are also easily noticeable
        in the amount of jitter."
        Thresholds from 288 runs of 300 steps (``benchmarks/prediction_dynamics.py``: nine programs on digits,
        diabetes, tokens, masks and random labels; Adam, and SGD with momentum; learning rates 1e-6 to 10). All 78
        that got below an error of 0.7 passed; they had moved by 0.26 at least. Random labels at sane rates moved by
        0.027 at least, between late looks by 0.10 at most (numbers 0.54). Called frozen were rates up to 1e-5 (SGD
        1e-4), called jumping rates of 1 and 10, collapsed or not finite rates from 0.1 (random labels) on. Moving
        running statistics of BatchNorm hide a frozen network.

    Legitimate:
        - A rate that is low on purpose, to fine-tune: predictions hardly move in a few hundred steps. Wait longer,
          ``PredictionDynamicsLogger(min_steps=2000)``, or be content with less, ``min_moved=0.001``. While a warm-up
          still raises the rate, nothing is accused.
        - A fixed batch that is not what you train for, such as a validation set of another domain: predictions on it
          may jump while training is fine; raise `max_jitter`.
        - A task without a right answer yet, such as reinforcement learning, where the loss does not fall by design.

    Cost:
        Once, the forward runs on a copy of the module. Each look is a forward pass of at most `max_examples` examples,
        after 1, 2, 4, 8, ... steps, then every `every_n_steps`, and ever more rarely as the run gets longer; at most
        ten pictures a run. Any other step is only counted; the last 25 before a look add up their loss, too, without
        waiting for the device.

    Pictures:
        - `predictions`: A row for each of the fixed examples, a column for each look, bright where the true class is
          probable; dots mark answers that changed since the look before. When training goes well it gets bright from
          left to right, and the dots end.

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
        max_share: float = 0.0025,
        predict: Callable[..., Any] | None = None,
        decode: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__()
        if min(max_examples, every_n_steps, min_steps, min_moved, max_jitter) <= 0 or not 0 <= max_share <= 1:
            msg = (
                "positive max_examples, every_n_steps, min_steps, min_moved and max_jitter, and a max_share between 0 "
                "and 1 expected"
            )
            raise ValueError(msg)
        self.max_examples = max_examples
        self.every_n_steps = every_n_steps
        self.min_steps = min_steps
        self.min_moved = min_moved
        self.max_jitter = max_jitter
        self.max_share = max_share
        self.predict = predict
        self.decode = decode
        self._forget()

    def _forget(self) -> None:
        self._steps: list[Step] = []  # watched, in which the fixed batch may be found
        self._fixed: FixedBatch | None = None
        self.needs = type(self).needs  # until there is a batch
        self._frames: list[int] = []  # steps since the first look, from which on the next pictures are due
        self._undrawn: list[FixedBatch] = []  # as it was when pictures were due, for which there was no time yet
        self._time = TimeBudget(self.max_share)

    # -- when

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew with each fit."""
        super().setup(trainer, pl_module, stage)
        self._forget()

    def validation(self, run: Run, step: Step) -> Iterator[Finding]:  # noqa: ARG002
        """Keep the first validation step of the sanity check."""
        if not self._steps:
            self._steps.append(step)
        yield from ()

    def before_training(self, run: Run) -> Iterator[Finding]:
        """Look for the first time."""
        yield from self._trying(self._begin, run, last=False)

    def sampled_step(self, run: Run, step: Step) -> Iterator[Finding]:
        """Look again; in the first training step if the sanity check gave no batch."""
        if self._fixed is None:
            self._steps.append(step)
            yield from self._trying(self._begin, run, last=True)
        else:
            yield from self._trying(self._look, run, self._fixed)

    def end(self, run: Run) -> Iterator[Finding]:
        """Look for a last time, draw, and judge."""
        if run.interrupted:
            self._show_all(run)
        else:
            yield from self._conclude(run)
        self._forget()

    def next_look(self, run: Run) -> float:
        """Like that of others, but ever rarer: a look takes about as long as half a step of a small network."""
        if self._fixed is None:
            return run.step + 1
        begun = self._fixed.begun
        return begun + next_step(run.step - begun, self.every_n_steps or 1)

    def _trying(self, look: Callable[..., None], run: Run, *args: Any, **more: Any) -> Iterator[Finding]:
        """What can't be done is said once, and ends it."""
        try:
            look(run, *args, **more)
        except CannotReplayError as error:
            self.done = True
            self._forget()
            yield self.skipped(f"the predictions can't be looked at again: {error}")

    # -- which batch

    def _begin(self, run: Run, *, last: bool) -> None:
        """Choose the first watched batch whose target is known, and look; unless another is to come.

        Raises:
            CannotReplayError: If no watched batch can be looked at again.

        """
        found, reasons = [], ["no step was run"]
        for step in self._steps:
            try:
                if self.predict is None:
                    found.append(replayed(step, run.trainer, run.module, self.max_examples))
                else:
                    found.append(predicted(step, run.trainer, run.module, self.max_examples, self.predict))
            except CannotReplayError as error:
                reasons.append(str(error))
        found.sort(key=lambda fixed: fixed.how.target is None)
        if found and (last or found[0].how.target is not None):
            self._fixed, self._steps, self.needs = found[0], [], Need(0)
            self._frames = frames(run.horizon)
            self._look(run, self._fixed)
        elif last:
            hint = "" if self.predict else ". predict= can give them: a function of the module and the batch"
            raise CannotReplayError(reasons[-1] + hint)

    # -- looking

    def _look(self, run: Run, fixed: FixedBatch) -> None:
        values = fixed.how.read(fixed.again(run.trainer, run.module))
        picture = dynamics.keep(fixed.how, values)
        numbers = fixed.look(run.step, values, picture, loss=run.loss, rate=run.rate)
        unit = "std" if fixed.how.of_numbers else "share"
        curves = {curve.format(unit): numbers.get(name, math.nan) for name, curve in CURVES.items()}
        self.plot(run, {name: value for name, value in curves.items() if math.isfinite(value)})
        if self._frames and self._frames[0] <= run.step - fixed.begun and run.step < run.horizon:  # the last is drawn
            self._frames = [frame for frame in self._frames if frame > run.step - fixed.begun]
            self._undrawn.append(replace(fixed, looks=[*fixed.looks]))
        if self._undrawn and self._time.is_enough():
            self._show(run, self._undrawn.pop(0))

    def _show(self, run: Run, fixed: FixedBatch, *, last: bool = False) -> None:
        if loggers.is_written(run.trainer):
            with self._time.spent():
                for name, figure in dynamics.draw(fixed, self.decode, last=last).items():
                    self.draw(run, name, pixels(figure), fixed.latest)

    def _show_all(self, run: Run) -> None:
        while self._undrawn:
            self._show(run, self._undrawn.pop(0))

    # -- judging

    def _conclude(self, run: Run) -> Iterator[Finding]:
        if (fixed := self._fixed) is None:
            yield from self._trying(self._begin, run, last=True)
        elif run.step > fixed.latest:
            self._frames = []
            yield from self._trying(self._look, run, fixed)
        if (fixed := self._fixed) is not None:
            yield self.judge(fixed)  # before pictures, in which the user's own `decode` may raise
            self._show_all(run)
            self._show(run, fixed, last=True)

    def judge(self, fixed: FixedBatch) -> Finding:
        """The verdict on all looks together."""
        if len(fixed.looks) == 1:
            return self.skipped(f"only one look at the predictions, at step {fixed.latest}: the run was too short")
        m, how = fixed.measure(), fixed.how
        evidence: dict[str, Any] = {name: m[name] for name in EVIDENCE if math.isfinite(m[name])}
        unit = "standard deviations" if how.of_numbers else "of the probability"
        what = f"predictions on {how.examples} fixed example" + ("s" if how.examples > 1 else "")
        steps = f"{m['steps']:,.0f} steps"
        moved = f"{what} moved by {m['moved']:.3g} {unit} in {steps}"
        if m["finite_start"] == 1 and m["finite"] == 0:
            fix = "lower the learning rate; Trainer(detect_anomaly=True) names the operation where it begins"
            said = f"{what} are all NaN or infinite after {steps}"
            return self.warning(said, code="not_finite", fix=fix, **evidence)
        fell, known = m["loss_late"] < FELL * m["loss_start"], not math.isnan(m["error"])
        early = m["steps"] < self.min_steps or m["late_looks"] < LATE_LOOKS
        if m["error"] < LEARNT or (m["moved"] >= self.min_moved and (fell or early or not known)):
            late = f", late in the run by {m['late_moved']:.3g} from look to look" if m["late_looks"] else ""
            return self.passed(moved + late, **evidence)
        if fell or early or not known:
            reason = "too few to expect more" if early else "though the training loss fell"
            reason = reason if known else "no loss tells what they should be"
            return self.skipped(f"{moved}, {self.min_moved:g} needed for a verdict; {reason}")
        nothing = f"no better than an uninformed guess (relative error {m['error']:.3g}, expected below {LEARNT})"
        if not math.isnan(m["loss_late"]):
            nothing += f", and the training loss has not fallen ({m['loss_start']:.3g}, then {m['loss_late']:.3g})"
        if m["late_moved"] > self.max_jitter * (NUMBERS if how.of_numbers else 1) and not m["late_flips"] < FLIPS:
            return self.warning(
                f"{what} keep jumping, by {m['late_moved']:.3g} {unit} from look to look in the second half of {steps} "
                f"(at most {self.max_jitter * (NUMBERS if how.of_numbers else 1):g} expected); {nothing}",
                code="jumping",
                fix=f"lower the learning rate ({m['rate']:.2g}) tenfold and see whether they settle",
                **evidence,
            )
        if m["spread"] < min(COLLAPSED, m["spread_start"] / 10):
            return self.warning(
                f"{what} have become all the same: their spread fell from {m['spread_start']:.2g} to {m['spread']:.2g} "
                f"{unit} in {steps} (at least {COLLAPSED} expected); {nothing}",
                code="collapsed",
                fix=f"lower the weight decay (vanishing weights) or the learning rate ({m['rate']:.2g}; dead units)",
                **evidence,
            )
        if m["moved"] >= self.min_moved:
            return self.skipped(f"{moved} without jumping; no verdict, since {nothing}")
        if m["rate"] > RISING * m["rate_early"]:
            return self.skipped(
                f"{moved}, but the learning rate still rises ({m['rate_early']:.2g} to {m['rate']:.2g})"
            )
        return self.warning(
            f"{moved} (at least {self.min_moved:g} expected); {nothing}",
            code="frozen",
            fix=f"raise the learning rate ({m['rate']:.2g}) tenfold; if that changes nothing, see that the parameters "
            "require gradients, get some, and are in the optimiser",
            **evidence,
        )


def frames(expected: float) -> list[int]:
    """Steps at which to draw, evenly on a logarithmic scale; the last step is not among them.

    Example:
        >>> frames(250)
        [0, 1, 2, 4, 8, 16, 32, 63, 125]

    """
    ratio = 4.0 if math.isinf(expected) else max(1.0, expected) ** (1 / (FRAMES - 1))
    return sorted({0, *(round(ratio**i) for i in range(FRAMES - 1))})
