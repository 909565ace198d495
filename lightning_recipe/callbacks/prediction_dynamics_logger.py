"""Recipe, section 2: "visualize prediction dynamics"."""

from __future__ import annotations

import math
from collections.abc import Callable  # noqa: TC003 - LightningCLI reads the types of arguments at run time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_recipe.callback import STEP_HOOKS, RecipeCallback
from lightning_recipe.callbacks._fixed_batch import FixedBatch, predicted, replayed
from lightning_recipe.figures import dynamics
from lightning_recipe.finding import Finding, Section
from lightning_recipe.record.probe import Probe
from lightning_recipe.show import loggers
from lightning_recipe.trial.compiled import with_unseen_losses
from lightning_recipe.trial.replay import CannotReplayError
from lightning_recipe.trial.time_budget import Allowance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import LightningModule, Trainer

    from lightning_recipe.record.step import Step

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
DENSE = 4  # looks, at least, whenever the number of steps doubles
AT_EACH_STEP = "on_train_batch_end"  # the one hook that is always entered
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
    fallen (error of at least 0.9 of that of knowing nothing, loss at least 0.95 of the first); all else `passed`:

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

    def _forget(self, *, over: bool = False) -> None:
        self._over = over
        self._probe: Probe | None = None
        self._steps: list[Step] = []  # watched, in which the fixed batch may be found
        self._asked_training = False
        self._fixed: FixedBatch | None = None
        self._due = 0  # step of the next look
        self._resting = 0  # batches until its hooks are entered again
        self._unwaited = False  # TensorBoard's thread writes the latest numbers
        self._frames: list[int] = []  # steps since the first look, from which on the next pictures are due
        self._undrawn: list[FixedBatch] = []  # as it was when pictures were due, for which there was no time yet
        self._time = Allowance(self.max_share)
        self._loss: Tensor | None = None  # of training shortly before the next look, added up on the device
        self._count = 0

    # -- when

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew with each fit."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._forget()

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Watch the first validation step of the sanity check."""
        if trainer.sanity_checking and not self._over and not self._steps:
            with self._once(trainer):
                self._probe = Probe.attach(pl_module, "validation_step", complete=with_unseen_losses)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:  # noqa: ARG002
        """Keep what was watched."""
        self._keep_step(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Look at the predictions when it is time to, before the step."""
        if self._over or loggers.batches_that_stepped(trainer) < self._due:
            return
        with self._once(trainer):
            if self._fixed is None:
                self._begin(trainer, pl_module)
            if self._fixed is not None:
                self._look(trainer, pl_module, self._fixed)
                self._due = self._fixed.begun + self._next(self._fixed.latest - self._fixed.begun)
                self._resting = self._due - self._fixed.latest
                self.rest(trainer, PredictionDynamicsLogger, *(hook for hook in STEP_HOOKS if hook != AT_EACH_STEP))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:  # noqa: ARG002
        """Keep what was watched, count steps, and add up the loss of the last `every_n_steps` before a look."""
        if self._fixed is None or self._unwaited:
            self._catch_up(trainer)
        self._resting -= 1
        if self._resting >= self.every_n_steps:
            return
        if self._resting == 0:
            self.wake()
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if self._fixed is not None and isinstance(loss, Tensor) and loss.numel() == 1:  # a manual step returns anything
            try:
                self._add(loss.detach().reshape(()))
            except Exception:
                with self._once(trainer):
                    raise

    def _add(self, loss: Tensor) -> None:
        """Keep no losses: they would lie among the activations, and break up the memory that the next step uses."""
        if self._loss is None:
            self._loss = loss.float().clone()  # halves would overflow
        else:
            self._loss += loss
        self._count += 1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for a last time, draw, and judge."""
        if not self._over:
            with self._once(trainer):
                if self._fixed is None:
                    self._begin(trainer, pl_module, at_the_end=True)
                self._conclude(trainer, pl_module)
        self._let_go()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draw what there was no time for, and let go of the batch."""
        with self._once(trainer):
            self._show_all(trainer)
        self._let_go()
        super().on_exception(trainer, pl_module, exception)

    def _let_go(self) -> None:
        if self._probe is not None:
            self._probe.detach()  # waits for a step that never came
        self._forget(over=True)

    @contextmanager
    def _once(self, trainer: Trainer) -> Iterator[None]:
        """What goes wrong is said once, and ends it."""
        before = len(self.findings)
        with self.guarded(trainer):
            try:
                yield
            except CannotReplayError as error:
                self.publish(trainer, self.skipped(f"the predictions can't be looked at again: {error}"))
        if len(self.findings) > before:
            self._forget(over=True)
            self.rest(trainer, PredictionDynamicsLogger)

    def _catch_up(self, trainer: Trainer) -> None:
        if self._unwaited:
            self._unwaited = False
            with self._reporting(trainer), loggers.writing(trainer):
                pass
        self._keep_step(trainer)

    def _keep_step(self, trainer: Trainer) -> None:
        if self._probe is not None:
            probe, self._probe = self._probe, None
            with self._once(trainer):
                self._steps += [step] if (step := probe.result()) is not None else []

    # -- which batch

    def _begin(self, trainer: Trainer, pl_module: LightningModule, *, at_the_end: bool = False) -> None:
        """Choose the first watched batch whose target is known; if there is none, watch a training step, too.

        Raises:
            CannotReplayError: If no watched batch can be looked at again.

        """
        if self._probe is not None and not at_the_end:
            return  # the step was left out
        found, reasons = [], ["no step was run"]
        for step in self._steps:
            try:
                if self.predict is None:
                    found.append(replayed(step, trainer, pl_module, self.max_examples))
                else:
                    found.append(predicted(step, trainer, pl_module, self.max_examples, self.predict))
            except CannotReplayError as error:
                reasons.append(str(error))
        found.sort(key=lambda fixed: fixed.how.target is None)
        asked = self._asked_training or at_the_end
        if found and (asked or found[0].how.target is not None):
            self._fixed, self._steps = found[0], []
            self._frames = frames(_expected_steps(trainer))
        elif not asked:
            self._asked_training = True
            self._probe = Probe.attach(pl_module, "training_step", complete=with_unseen_losses)
        else:
            hint = "" if self.predict else ". predict= can give them: a function of the module and the batch"
            raise CannotReplayError(reasons[-1] + hint)

    # -- looking

    def _next(self, steps: int) -> int:
        """Steps since the first look until the one after `steps`."""
        if steps < self.every_n_steps:
            return min(1 << steps.bit_length(), self.every_n_steps)
        times = steps // (DENSE * self.every_n_steps)
        interval = self.every_n_steps << max(0, times.bit_length() - 1)  # doubles whenever the steps have
        return (steps // interval + 1) * interval

    def _look(self, trainer: Trainer, pl_module: LightningModule, fixed: FixedBatch) -> None:
        step = loggers.batches_that_stepped(trainer)
        values = fixed.how.read(fixed.again(trainer, pl_module))
        loss = math.nan
        if self._loss is not None:
            loss = float(self._loss) / self._count * trainer.accumulate_grad_batches
            self._loss, self._count = None, 0
        picture = dynamics.keep(fixed.how, values)
        numbers = fixed.look(step, values, picture, loss=loss, rate=_learning_rate(trainer))
        self._unwaited = True
        with self._reporting(trainer), loggers.writing(trainer, wait=False) as writers:
            for name, curve in CURVES.items():
                if math.isfinite(value := numbers.get(name, math.nan)):
                    tag = self.tag(curve.format("std" if fixed.how.of_numbers else "share"))
                    for writer in writers:
                        writer.add_scalar(tag, value, step)
        if self._frames and step - fixed.begun >= self._frames[0]:
            self._frames = [frame for frame in self._frames if frame > step - fixed.begun]
            self._undrawn.append(replace(fixed, looks=[*fixed.looks]))
        if self._undrawn and self._time.is_enough():
            self._show(trainer, self._undrawn.pop(0))

    def _show(self, trainer: Trainer, fixed: FixedBatch, *, last: bool = False) -> None:
        if loggers.is_written(trainer):
            with self._time.spent():
                for name, figure in dynamics.draw(fixed, self.decode, last=last).items():
                    self.draw(trainer, name, figure, fixed.latest)

    def _show_all(self, trainer: Trainer) -> None:
        while self._undrawn:
            self._show(trainer, self._undrawn.pop(0))

    # -- judging

    def _conclude(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (fixed := self._fixed) is None:
            return
        if loggers.batches_that_stepped(trainer) > fixed.latest:
            self._frames = []
            self._look(trainer, pl_module, fixed)
        self.publish(trainer, self.judge(fixed))  # before pictures, in which the user's own `decode` may raise
        self._show_all(trainer)
        self._show(trainer, fixed, last=True)

    def judge(self, fixed: FixedBatch) -> Finding:
        """The verdict on all looks together."""
        if len(fixed.looks) == 1:
            return self.skipped(f"only one look at the predictions, at step {fixed.latest}: the run was too short")
        m, how = fixed.measure(), fixed.how
        evidence = {name: m[name] for name in EVIDENCE if math.isfinite(m[name])}
        unit = "standard deviations" if how.of_numbers else "of the probability"
        what = f"predictions on {how.examples} fixed example" + ("s" if how.examples > 1 else "")
        steps = f"{m['steps']:,.0f} steps"
        moved = f"{what} moved by {m['moved']:.3g} {unit} in {steps}"
        if m["finite_start"] == 1 and m["finite"] == 0:
            fix = "lower the learning rate; Trainer(detect_anomaly=True) names the operation where it begins"
            return self.warning(f"{what} are all NaN or infinite after {steps}", fix=fix, **evidence)
        fell, known = m["loss_late"] < FELL * m["loss_start"], not math.isnan(m["error"])
        early = m["steps"] < self.min_steps or m["late_looks"] < LATE_LOOKS
        if m["error"] < LEARNT or (m["moved"] >= self.min_moved and (fell or early or not known)):
            late = f", late in the run by {m['late_moved']:.3g} from look to look" if m["late_looks"] else ""
            return self.passed(moved + late, **evidence)
        if fell or early or not known:
            reason = "too few to expect more" if early else "though the training loss fell"
            reason = reason if known else "no loss tells what they should be"
            return self.skipped(f"{moved}, {self.min_moved:g} needed for a verdict; {reason}")
        nothing = f"they know no more than nothing (error {m['error']:.3g} of that, below {LEARNT} expected)"
        if not math.isnan(m["loss_late"]):
            nothing += f", and the training loss has not fallen ({m['loss_start']:.3g}, then {m['loss_late']:.3g})"
        if m["late_moved"] > self.max_jitter * (NUMBERS if how.of_numbers else 1) and not m["late_flips"] < FLIPS:
            return self.warning(
                f"{what} keep jumping, by {m['late_moved']:.3g} {unit} from look to look in the second half of {steps} "
                f"(at most {self.max_jitter * (NUMBERS if how.of_numbers else 1):g} expected); {nothing}",
                fix=f"lower the learning rate ({m['rate']:.2g}) tenfold and see whether they settle",
                **evidence,
            )
        if m["spread"] < min(COLLAPSED, m["spread_start"] / 10):
            return self.warning(
                f"{what} have become all the same: their spread fell from {m['spread_start']:.2g} to {m['spread']:.2g} "
                f"{unit} in {steps} (at least {COLLAPSED} expected); {nothing}",
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


def _expected_steps(trainer: Trainer) -> float:
    """How many batches will have been trained on at the end; infinity if nobody knows."""
    epochs = math.inf if trainer.max_epochs in {None, -1} else float(trainer.max_epochs or 0)
    steps = trainer.max_steps if trainer.max_steps > 0 else math.inf
    return min(steps, epochs * trainer.num_training_batches / trainer.accumulate_grad_batches)


def _learning_rate(trainer: Trainer) -> float:
    """The largest of any parameter group."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return max((float(group["lr"]) for group in groups if group.get("lr") is not None), default=math.nan)
