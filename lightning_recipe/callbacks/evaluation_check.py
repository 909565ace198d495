"""Set up the skeleton: metrics, monitors and settings of validation that can be trusted."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from lightning.fabric.utilities.data import sized_len
from torch import nn

from lightning_recipe.callback import Check
from lightning_recipe.callbacks import _at_the_end as at_the_end
from lightning_recipe.callbacks import _averaged as averaged
from lightning_recipe.callbacks import _kept_metrics as kept
from lightning_recipe.callbacks import _monitored as settings
from lightning_recipe.callbacks import _outside_of_fit as outside
from lightning_recipe.callbacks import _thresholds as thresholds
from lightning_recipe.callbacks import _units as units
from lightning_recipe.callbacks._batch_weights import Weighed
from lightning_recipe.callbacks._error_bars import ErrorBars, Logged, of_all
from lightning_recipe.callbacks._evaluated_weights import Weights
from lightning_recipe.callbacks._kept_by_reference import by_reference
from lightning_recipe.callbacks._metric_names import is_a_share, is_of_training, words
from lightning_recipe.callbacks._put_back import PutBack
from lightning_recipe.callbacks._short_batch import Short, counted_alike, mean_at_the_end, mean_of_means, of_one_weight
from lightning_recipe.figures.canvas import pixels
from lightning_recipe.figures.metrics import metric_over_steps
from lightning_recipe.finding import Section
from lightning_recipe.record.step import Need
from lightning_recipe.show import loggers
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import LightningModule, Trainer

    from lightning_recipe.callbacks._averaged import Seen
    from lightning_recipe.finding import Finding
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

AROUND = 2
"""Validations around which the weights are compared."""
DRAWN = 3
"""Metrics that are drawn, at most: those that somebody chooses by, accuracies, then the others."""


class EvaluationCheck(Check):
    """Judges whether what validation reports can be trusted.

    The first validation batch after training began is run once more on a copy, where it is seen what the step logs; if
    that is a metric that can't be averaged, the batch is run in parts, too. `failed` if:

    - validation logs a torchmetrics object that still holds updates of training;
    - training goes on after a validation with the weights of validation, such as an average, and not with its own.

    `warning` if:

    - a number that is averaged over the batches, by Lightning or by hand at the end of validation, is no mean: F1,
      AUROC, R2, IoU, a correlation and the like;
    - a metric that is computed by hand, or a list that one is computed of, is never emptied, and mixes the epochs;
    - a mean over the batches weighs them by something else than their number of examples, as by their length in time;
    - one metric gets the examples of several validation sets, each of which it is reported for;
    - an accuracy is monitored with ``mode="min"``, or a loss with ``mode="max"``, by a callback; or a score with
      ``mode="min"`` that rises while a loss of validation falls, over five epochs or more;
    - a callback monitors what is never logged;
    - logits, as the loss takes them, are rounded or compared with 0.5, or a number that is logged changes as they pass
      0.5, and stays the same on either side;
    - an error of numbers compares a prediction that was scaled back with a target that was not, or the other way round,
      in the step or at the end of validation;
    - validation trains, or changes a few weights that are not put back afterwards;
    - validation runs with weights that have not changed since training began, as of an average that is never updated,
      or ``trainer.test`` with a module that ``trainer.fit`` was given a copy of;
    - a metric holds updates from before as ``trainer.test`` begins, which logs or computes it as a whole;
    - a state of the best weights is kept without a copy, and goes on with the weights;
    - a tenth of the examples or more is left out by ``drop_last``, `advice` from 2 % on;
    - ``overfit_batches`` is on while a callback chooses by what is monitored.

    `advice` if a root, a perplexity or a macro accuracy is averaged and little is lost; if ``overfit_batches`` is on;
    if validation or a test is cut short, or a DistributedSampler has one example in a hundred count twice; if the
    training loss is monitored though validation logs one, or what goes the other way than a loss, and says nothing by
    its name; if an accuracy that is monitored has improved by less than its standard error, or one is of few examples
    though training has many; if a short last batch weighs as much as the others, of few, in a mean that is taken by
    hand, or by a ``batch_size=`` that is none; if validation runs with an average of the weights that is still near the
    initialisation.

    Args:
        strict: Stop the run when something failed.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "run the evaluation over the entire (large) test set.
        Do not just plot test losses over batches and then rely on smoothing".

    Legitimate:
        - Metric objects that are logged as objects, means, sums and running metrics, values of single steps.
        - Losses that are not additive, as contrastive ones are: only what is proved, or named, to be no mean is judged.
        - A validation set of one batch, single examples that are scored each by itself.
        - Names that say nothing of their direction.
        - Errors in another unit than the loss, and those of a naive forecast.
        - Averages that are put into the module for validation, and taken out again before the next step.
        - Means over tokens or nodes, a ``batch_size=`` that says what a batch weighs.
        - Tests before training, of a checkpoint, or of what training began with after what it has come to.

    Cost:
        A copy of the module and a validation step on it; two steps' time more for a metric that may be no mean, half a
        step's where numbers are logged with a ``batch_size``. Three steps' where a number that is no mean is logged at
        the end of validation, or any number where the last batch is short, and eight where the loss takes logits, with
        what the module does at the end. A sample of the weights, five times around each of the first two validations,
        at the end, and where a test begins. A hook at the first 256 batches of at most 10 validations, where pictures
        are written.

    Pictures:
        - `val_acc` and the like: A metric over the run, with its standard error at each validation that was looked at;
            three of them at most, where it is known: of accuracies, and of means over eight batches or more.

    Example:
        >>> import contextlib, io
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe.demo import DigitsNet, loaders
        >>> check = EvaluationCheck()
        >>> trainer = Trainer(callbacks=[check], logger=False, enable_checkpointing=False, max_epochs=1)
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     trainer.fit(DigitsNet(), *loaders())
        >>> check.findings[0].status
        <Status.PASSED: 'passed'>

    """

    section = Section.SKELETON
    sentence = 3
    why = "every decision about a model rests on the numbers of its evaluation"
    needs = Need.INPUTS | Need.WIRING | Need.LOSSES
    explains: ClassVar = {
        "weights_not_put_back": ("Baselines/*",),
        "weights_of_the_beginning": ("Baselines/*",),
        "weights_far_behind": ("Baselines/worse_than_simple_model", "Baselines/no_better_than_constant"),
    }

    def __init__(self, *, strict: bool = False) -> None:
        super().__init__(strict=strict)
        self._weights, self._fitted = Weights(nn.Module()), False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew with each fit."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":  # what was trained is compared with what is tested
            return
        self._weights, self._fitted = Weights(nn.Module()), True
        self.needs, self._logits = type(self).needs, set[str]()
        self.streams = False  # but for one validation, to its end
        self._weighed: Weighed | None = None
        self._weighing = False
        self._weighed_at = 0
        self._put_back: PutBack | None = None
        self._bars, self._bars_open = ErrorBars(), False
        self._validations = 0
        self._used: set[str] = set()  # modules in validation
        self._unit: units.Unit | None = None  # of what training compares
        self._seen: Seen | None = None
        self._alike: dict[str, int] = {}  # numbers for which all batches weigh as much
        self._alike_at_the_end: list[str] = []  # the same, of those that are logged at the end of validation
        self._reason = "no validation while the model was trained"
        self._open = True  # whether the logged numbers are still to be judged
        self._of_steps: set[str] = set()  # names of numbers that a step logs
        self._ends_open = True  # whether those that are logged at the end of validation are still to be judged
        self._before: dict[str, int] = {}
        self._trained: set[str] = set()
        self._mixed: dict[str, int] = {}
        self._lists: tuple[dict[str, kept.Kept], dict[str, kept.Kept]] | None = None  # at the first and the latest look
        self._values: dict[str, list[float]] = {}  # of accuracies
        self._course: list[dict[str, float]] = []  # what was logged, by looks at validation

    def before_training(self, run: Run) -> Iterator[Finding]:
        """Read the settings."""
        self._before, self._weights = kept.updates(run.module), Weights(run.module)
        yield from map(self.found, settings.left_on(run.trainer))
        for one in settings.monitored(run.trainer):
            if outcome := settings.wrong_mode(one):
                yield self.found(outcome, one.who)

    def first_step(self, run: Run, step: Step) -> Iterator[Finding]:
        """Take note of the metrics that training updates, and of what gives logits to its loss."""
        self.needs, self._logits, self._unit = Need.INPUTS, thresholds.givers(step), units.Unit.of(step)
        self._trained = {name for name, count in kept.updates(run.module).items() if count > self._before.get(name, 0)}
        yield from ()

    def before_validation(self, run: Run) -> Iterator[Finding]:
        """Keep a sample of the weights, twice; see whether they came back the last time."""
        self._bars.close(run)
        yield from self._of_weights()
        self._validations += 1
        self._put_back = PutBack(run) if self._validations <= AROUND and run.step else None
        self.streams = self._put_back is not None and self._put_back.open

    def _of_weights(self) -> Iterator[Finding]:
        if self._put_back is not None and (outcome := self._put_back.verdict()):
            self._validations = AROUND
            yield self.found(outcome)
        self._put_back = None

    def every_batch(self, run: Run, stage: str, batch: Any) -> None:
        """See what batches weigh and add up to in a validation that is looked at, and around it the weights."""
        if self._weighing and self._weighed is not None:
            same = stage == "validation" and run.batches_that_stepped == self._weighed_at
            self._weighing = same and self._weighed.note(run, batch)
        if self._put_back is not None:
            self._put_back.note(run, stage)
        self._bars_open = self._bars_open and stage == "validation" and self._bars.note(run)
        self.streams = self._weighing or self._bars_open or (self._put_back is not None and self._put_back.open)

    def validation(self, run: Run, step: Step) -> Iterator[Finding]:
        """Run the step again on a copy until its numbers are judged; see what its metrics hold from before."""
        if run.trainer.sanity_checking:
            return
        if run.loader:
            yield from (self.found(kept.two_loaders(name), name) for name in kept.of_two_loaders(run))
            return
        if len(run.val_loaders) == 1 and loggers.take_pictures(run.trainer):
            self._bars.begin(run)
            self.streams = self._bars_open = True
        first, lists = self._seen is None, kept.lists(run.module)
        self._lists = (lists if self._lists is None else self._lists[0], lists)
        if self._open:
            yield from self._look_at_numbers(run, step)
        if not first and self._ends_open:
            yield from self._look_at_the_end(run, step)
        self._weights.validated(run, self._used or {call.name for call in step.net_calls})
        self._note_values(run)
        if self._seen is not None:
            yield from self._of_metrics(run, self._seen, first=first)

    def _of_metrics(self, run: Run, seen: Seen, *, first: bool) -> Iterator[Finding]:
        """See what metrics hold from before."""
        counts = kept.updates(run.module)
        for name, use in seen.uses.items():
            if (before := counts.get(name, 0) - use.updates) > 0 and use.updates:
                if name in self._trained:
                    if seen.in_the_object(use.metric) or kept.computes(run.module, name):
                        yield self.found(kept.two_stages(name, before), name)
                elif not first and kept.is_of_an_epoch(use.metric):
                    self._mixed[name] = before

    def _look_at_numbers(self, run: Run, step: Step) -> Iterator[Finding]:
        read = run.trainer.num_val_batches[0]
        cut_short = settings.cut_short(run.val_loaders[0], read) if not settings.overfitted(run.trainer) else None
        others = (outside.padded(run.val_loaders[0], "validation"), settings.left_out(run.val_loaders[0]))
        yield from map(self.found, filter(None, (cut_short, *others)))
        try:
            with rehearsal(run) as again:
                self._seen = seen = averaged.rehearsed(again, step.batch)
                loader = run.val_loaders[0]
                alone = 1 in {run.trainer.num_val_batches[0], step.batch_size} or settings.of_one_example(loader)
                suspects = [] if alone else list(averaged.suspects(seen))
                suspects = [one for one in suspects if not kept.computes(run.module, one.owner)]
                if Short.of(run) is not None and not alone:
                    self._alike = of_one_weight(again, step.batch, seen)
                parts = averaged.in_parts(again, step.batch, seen) if suspects else {}
                self._weigh(run, step, seen)
                told = thresholds.on_logits(seen.step, run.module, self._logits)
                givers = self._logits if not told and any("loss" not in words(one.name) for one in seen.logged) else ()
                cut = thresholds.by_trial(partial(averaged.logged, again, step.batch), givers)
                if self._unit is not None and not self._unit.is_asked_once(seen.step):
                    self._unit = None
                mixed = list(units.of_a_step(again, step.batch, seen, self._unit)) if self._unit else []
        except CannotRehearseError as error:
            self._open, self._reason = False, str(error)
            return
        self._used = {event.name for event in seen.step.events if event.kind == "module"}
        self._of_steps = {one.name for one in seen.logged}
        self._logits = set() if told else self._logits
        yield from [self.found(told)] if told else []
        yield from (self.found(thresholds.cut_at_a_half(name), name) for name in cut)
        yield from (self.found(outcome, name) for outcome, name in mixed)
        outcomes = [(averaged.judge(one, parts.get(one.name)), one.name) for one in suspects]
        seen.release()
        self._open = any(outcome is None for outcome, _ in outcomes)  # such as an F1 of 0 while nothing is predicted
        yield from (self.found(outcome, name) for outcome, name in outcomes if outcome)

    def _look_at_the_end(self, run: Run, step: Step) -> Iterator[Finding]:
        """Have a copy conclude a validation of the batch, whole, in parts, and of logits on both sides of a half."""
        values = {*run.trainer.callback_metrics} - self._of_steps
        several = (step.batch_size or 0) > 1 and run.trainer.num_val_batches[0] > 1
        names = at_the_end.suspects(values, self._of_steps) if several else []
        short = Short.of(run) if several and values else None
        if not at_the_end.can_be_asked(run) or not (names or short or (values and (self._logits or self._unit))):
            self._ends_open = bool(not values and self._validations <= AROUND)
            return
        self._ends_open = False
        try:
            with rehearsal(run) as again:
                again.module.requires_grad_(requires_grad=False)
                parts = at_the_end.in_parts(again, step.batch, names) if names else {}
                alike = counted_alike(again, step.batch, short) if short else []
                cut = thresholds.by_trial(partial(at_the_end.reported, again, [step.batch]), self._logits)
                mixed = list(units.at_the_end(again, step.batch, self._unit)) if self._unit else []
        except CannotRehearseError:
            return
        outcomes = {one.name: averaged.judge(one, of) for one, of in parts.items()}
        outcomes |= {name: thresholds.cut_at_a_half(name) for name in cut if name in values}
        outcomes |= {name: outcome for outcome, name in mixed if name in values}
        self._alike_at_the_end = [name for name in alike if name in values and not outcomes.get(name)]
        yield from (self.found(outcome, name) for name, outcome in outcomes.items() if outcome)

    def _weigh(self, run: Run, step: Step, seen: Seen) -> None:
        if self._weighed is None and len(run.val_loaders) == 1:
            self._weighed, self._weighed_at = Weighed(seen), run.batches_that_stepped
            self._weighing = bool(self._weighed.names) and self._weighed.note(run, step.batch)
            self.streams |= self._weighing

    def _note_values(self, run: Run) -> None:
        logged = {name: float(value) for name, value in run.trainer.callback_metrics.items()}
        self._course.append(logged if math.isnan(run.loss) else {**logged, settings.TRAINING: run.loss})
        for name, value in logged.items():
            if is_a_share(name) and not is_of_training(name):
                self._values.setdefault(name, []).append(value)

    def end(self, run: Run) -> Iterator[Finding]:
        """See what was never logged or reset; there is no silence."""
        metrics = averaged.metrics_of(run.module)
        found = [
            self.found(kept.never_reset(name, before), name)
            for name, before in self._mixed.items()
            if name in metrics and kept.was_computed(metrics[name])
        ]
        if self._lists is not None:
            held = kept.grown(*self._lists, run.module)
            found += [self.found(kept.never_reset(name, more, metric=False), name) for name, more in held.items()]
        self._weights.ended(run)
        if not run.interrupted:
            self._bars.close(run)
            self._note_values(run)
        own = self._bars.logged, self._values
        ranks = [own] if run.interrupted else run.gather(type(self).__name__, own)
        if self._seen is not None and not run.interrupted:
            found += [self.found(outcome, place) for outcome, place in by_reference(run)]
            found += self._of_choices(run, [values for _, values in ranks])
            behind = None if run.limited else self._weights.behind(run)
            if outcome := self._weights.verdict(run) or behind:
                found.append(self.found(outcome))
            found += self._of_batches(run)
        found += self._of_weights()
        self._draw_metrics(run, [logged for logged, _ in ranks])
        yield from found
        if not found and not self.findings:
            yield self.passed("what validation reports can be trusted") if self._seen else self.skipped(self._reason)
        self._seen = None

    def _draw_metrics(self, run: Run, ranks: list[dict[str, list[Logged]]]) -> None:
        """Draw those of which two validations are known."""
        points = of_all(self._bars.logged, ranks, _examples(next(iter(run.val_loaders), None)))
        chosen_by = {one.name for one in settings.monitored(run.trainer)}
        known = [name for name in points if len(points[name]) > 1]
        known.sort(key=lambda name: (name not in chosen_by, not is_a_share(name), name))
        for name in known[:DRAWN] if loggers.is_written(run.trainer) else ():
            self.draw(run, name, pixels(metric_over_steps(name, points[name])))
        self._bars = ErrorBars()

    def evaluation(self, run: Run, stage: str, loaders: list[Any]) -> Iterator[Finding]:
        """See what a test begins with; of a validation, the fit before it has seen all but its weights."""
        if run.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if stage == "test" or not self._fitted:
            yield from (self.found(outcome, subject) for outcome, subject in outside.found(run, stage, loaders))
        if outcome := self._weights.tested(run, stage):
            yield self.found(outcome, stage)

    def _of_choices(self, run: Run, ranks: list[dict[str, list[float]]]) -> Iterator[Finding]:
        """By what the run is steered, and how few examples tell: all, of a value that is the same on all ranks."""
        logged = {*run.trainer.callback_metrics, *run.trainer.logged_metrics}
        for one in settings.monitored(run.trainer):
            if outcome := settings.at_the_end(one, logged) or settings.against_the_loss(one, self._course):
                yield self.found(outcome, one.who)
        examples, in_training = (_examples(next(iter(of), None)) for of in (run.val_loaders, run.loaders))
        chosen_by = {one.name for one in settings.monitored(run.trainer)}
        for name, values in self._values.items():
            count = examples if all(of.get(name) == values for of in ranks) else examples // len(ranks)
            improved = settings.too_few(name, values, count) if count and name in chosen_by else None
            if outcome := improved or (settings.of_few(name, values[-1], count, in_training) if count else None):
                yield self.found(outcome, name)

    def _of_batches(self, run: Run) -> Iterator[Finding]:
        """Judge what batches weigh in a mean."""
        if self._weighed is not None and (outcome := self._weighed.verdict()):
            yield self.found(outcome)
        if (short := Short.of(run)) is not None:
            by_hand = kept.unweighted(self._lists[0], run.module) if self._lists else []
            if names := self._alike_at_the_end:  # what they are is surer than what lists are for
                by_hand = []
                yield self.found(mean_at_the_end(names, short), names[0])
            yield from (self.found(mean_of_means(name, short), name) for name in by_hand)
            yield from (self.found(mean_of_means(name, short, by), name) for name, by in self._alike.items())


def _examples(loader: object) -> int:
    """How many examples a loader has; 0 if nobody knows, as of a data set that gives whole batches.

    Those of all ranks, as its sampler deals out the whole data set; of one that is divided by hand, this rank's.
    """
    whole = getattr(loader, "batch_sampler", ...) is None
    return 0 if whole else sized_len(getattr(loader, "dataset", None)) or 0
