"""Recipe, section 2: "set up ... dumb baselines", "human baseline"."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch

from lightning_recipe.callback import Check
from lightning_recipe.callbacks._baselines import EXAMPLES, KINDS, Known, features_of, minimised, validated
from lightning_recipe.callbacks._baselines_ranks import Share, together
from lightning_recipe.callbacks._baselines_verdict import judge, worse
from lightning_recipe.callbacks._human import beside, scores
from lightning_recipe.callbacks._measured import Estimate, Look, measured
from lightning_recipe.callbacks._other_order import in_other_order, no_labels_from, stored
from lightning_recipe.callbacks._simple_models import WEIGHTS, constant, is_weighted, simple_models
from lightning_recipe.figures.baselines import baselines_card
from lightning_recipe.figures.canvas import pixels
from lightning_recipe.finding import Section, Status
from lightning_recipe.looks import epochs
from lightning_recipe.losses.by_hand import likely
from lightning_recipe.losses.table import TABLE, Family
from lightning_recipe.show import loggers
from lightning_recipe.trial.stored import parts_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import LightningModule, Trainer

    from lightning_recipe.callbacks._simple_models import Simple
    from lightning_recipe.finding import Finding, Outcome
    from lightning_recipe.record.step import LossCall, Step
    from lightning_recipe.run import Run

GROWN = 1.5
"""Times as many training examples as simple models were fitted on, from which on they are fitted again."""
LOOKS = 8
"""Training steps looked at, at least."""
LATEST = 8
"""Of them, the last ones, at which the constant was known well."""
EARLY = 0.2
"""Share of the planned run before which nobody is accused: rates are warmed up until then."""


class Baselines(Check):
    """Compares the model with dumb baselines on the same validation examples: a constant, and simple models.

    What the loss is to be given is known from the steps that are looked at. From their targets comes the constant that
    costs least: the frequencies of the classes, the share of positives, the mean or median of numbers. On up to 1,000
    of their examples the 5 nearest neighbours and a linear model (ridge regression, its penalty by leaving one out) are
    fitted, where an example has one target and its input is of numbers; and the previous value is tried where targets
    go on where windows end. The model is compared with all of them on 8 batches of validations, of each rank: all judge
    what they saw together.

    - `warning` if at two validations in a row, from the second epoch on, its loss is worse than the constant's by more
      than 3 standard errors of the paired difference, the gap does not close, and its answers have nothing to do with
      the targets.
    - `warning` if neither it nor a simple model is better than the constant, and one is once the labels that the data
      set keeps in its rows are put into the order of numbers sorted as text, are reversed, or moved by a row or two:
      they stand beside the inputs of others.
    - `advice` if its answers have to do with the targets, and it is too sure of itself; if simple models tell labels
      of one part of the rows that the data set keeps in memory, and none of the rest; if after three epochs it is no
      better than the constant, or behind a simple model that is not.

    The evidence holds the share of right answers, or the loss of numbers, of the model and of each baseline.

    Args:
        human: What people reach, by the name of a logged metric, such as ``{"val_acc": 0.98}``.
        keep_examples: Whether inputs and targets of training are kept in memory until the end, for simple models.
        strict: Stop the run when something failed.

    Raises:
        TypeError: If `human` is no dictionary from names to numbers.
        ValueError: If one of its numbers is not finite.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "train your model on ... dumb baselines"; "human
        baseline: monitor metrics other than loss that are human interpretable and checkable".

    Legitimate:
        - Weighted classes and balanced samplers: the constant knows them, and simple models are left out.
        - Losses by hand that no function of torch has the value of, of several parts, against targets of the network:
          `skipped`.
        - Labels that nobody can tell, rows of a series, whose neighbours may tell the label of another time.
        - First epochs, warm-up, trials with ``limit_train_batches``, models that are still getting better.

    Cost:
        Watching up to 8 batches of at most 10 validations; some milliseconds for each fit, with the features of an
        example brought down to 256. Two fits for each order of the labels, where nothing was learnt.

    Pictures:
        - `baselines`: The model beside each baseline, and beside a human if a score is given.

    Example:
        >>> import contextlib, io
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe.demo import DigitsNet, loaders
        >>> check = Baselines()
        >>> trainer = Trainer(callbacks=[check], barebones=True, max_epochs=2)
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     trainer.fit(DigitsNet(), *loaders())
        >>> check.findings[0].evidence["model"] > check.findings[0].evidence["constant"]
        True

    """

    section = Section.SKELETON
    sentence = 6
    why = "a model that does not beat a constant, or a linear model, has learnt less than it seems"
    val_batches = 8
    explains: ClassVar = {"labels_of_others": ("Baselines/*",)}

    def __init__(
        self, *, human: dict[str, float] | None = None, keep_examples: bool = True, strict: bool = False
    ) -> None:
        super().__init__(strict=strict)
        self.human, self.keep_examples = scores(human or {}), keep_examples

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew with each fit."""
        super().setup(trainer, pl_module, stage)
        self._known, self._of_all = Known(), Share()  # of this rank's training, and of all, as of the latest look
        self._look: Look | None = None  # of this rank, until the others know it
        self._looks = list[Look]()  # of all
        self._call: LossCall | None = None  # of training, without its examples
        self._epoch: int | None = None  # in which ranks told each other what they saw
        self._name, self._weighted, self._by_hand = "", False, False
        self._costs: list[float] = []  # of the constant in training
        self._constant = torch.zeros(0)
        self._simple: Simple | None = None
        self._reason = "no validation was looked at after training began"

    def before_training(self, run: Run) -> Iterator[Finding]:
        """Nobody waits for a rank that is given no batch of validation: it never comes there."""
        batches = run.trainer.num_val_batches
        if run.shard[1] > 1 and batches and not sum(batches):
            self.done = True
            yield self.skipped("this rank has no validation examples")

    def next_look(self, run: Run) -> float:
        """There is no more to see once enough training examples are known."""
        enough = self._known.seen >= EXAMPLES and len(self._costs) >= LOOKS
        return math.inf if enough else super().next_look(run)

    def sampled_step(self, run: Run, step: Step) -> Iterator[Finding]:
        """Take in the targets of a training step, and its inputs."""
        call = minimised(step) if len(run.trainer.optimizers) == 1 else "several optimisers take turns"
        examples = run.examples_in(step.batch)
        if isinstance(call, str) or not examples:
            self.done = True
            yield self.skipped(f"not compared: {call if isinstance(call, str) else 'the batch holds no examples'}")
            return
        self._name, self._weighted = call.name, is_weighted(call)
        weights = {name: call.arguments[name] for name in WEIGHTS if name in call.arguments}
        self._call = replace(call, arguments=weights, value=torch.zeros(()))
        self._by_hand = (compared := likely(step)) is not None and compared.name == call.name
        if self._known.count:
            self._costs.append(float(measured(call, self._constant, examples).loss.mean()))
        self._known.add(call, examples)
        if self.keep_examples:
            self._known.keep(call, step, examples)
        if self._known.count:
            self._constant = constant(self._known, call)

    def before_validation(self, run: Run) -> Iterator[Finding]:
        """Where one may be looked at, put together what all ranks have seen, and judge the looks before.

        All ranks come here, whatever they see in it.
        """
        epoch, last = run.trainer.current_epoch, self._epoch
        if epoch == last or (
            last is not None and epoch not in epochs(self.every_n_epochs or 1, run.trainer.max_epochs)
        ):
            return
        self._epoch, before = epoch, len(self._looks)
        self._unite(run)
        if len(self._looks) > max(before, 1) and run.step >= EARLY * run.horizon and not run.limited:
            yield from map(self.found, worse(self._looks))

    def _unite(self, run: Run) -> None:
        own, (_, count) = Share(self._known, self._costs[-LATEST:], self._look), run.shard
        shares = run.gather(type(self).__name__, own.bounded(count)) if count > 1 else [own]
        self._of_all, self._look = together(shares) if len(shares) > 1 else own, None
        self._looks += [self._of_all.look] if self._of_all.look else []

    def validation(self, run: Run, step: Step) -> Iterator[Finding]:
        """Measure the model and the baselines on a batch."""
        examples, known = step.batch_size, self._of_all.known
        if run.trainer.sanity_checking or run.loader or not self._of_all.costs or not examples:
            return
        if not known.varied:
            self._reason = "all targets of training are the same"
            return
        call = validated(step, self._name, known, by_hand=self._by_hand)
        if isinstance(call, str):
            self._reason = call
            return
        if self._look is None:
            self._look = self._begun(run, call)
        self._look.add(call, *features_of(step, examples, examples, self._known.names), examples)
        yield from ()

    def _begun(self, run: Run, call: LossCall) -> Look:
        known, before = self._of_all.known, self._simple.fitted_on if self._simple else 0
        if known.kept > GROWN * before:
            self._simple = simple_models(known.together(), call)
        easy = Estimate.of(torch.tensor(self._of_all.costs))
        best, shares = constant(known, self._call or call), known.total / known.count
        return Look(run.step, run.trainer.current_epoch + 1, best, easy, shares, self._simple, run.rate)

    def end(self, run: Run) -> Iterator[Finding]:
        """Judge the last look, and draw it."""
        logged = run.trainer.callback_metrics
        yield from (self.found(outcome, name) for name, outcome in beside(self.human, logged))
        self._unite(run)
        if not self._looks:
            yield self.skipped(f"not compared: {self._reason}")
            return
        look = self._looks[-1]
        outcome = judge(self._looks, weighted=self._weighted, trial=run.limited or run.interrupted)
        in_doubt = not (look.is_informed or look.is_ahead)
        others = self._of_others(run, in_doubt=in_doubt) if outcome.status is not Status.SKIPPED else None
        yield self.found(others or outcome)
        if loggers.is_written(run.trainer):
            humans = {name: (float(logged[name]), score) for name, score in self.human.items() if name in logged}
            what = f"{'answers right' if look.of_answers else self._name}, {look.examples} validation examples"
            card = baselines_card(what, look.rows, humans, share=look.of_answers)
            self.draw(run, "baselines", pixels(card))
        self._looks, self._known, self._of_all, self._simple, self._call = [], Known(), Share(), None, None

    def _of_others(self, run: Run, *, in_doubt: bool) -> Outcome | None:
        """Whether inputs and labels that are kept in memory do not belong together, in a part; in doubt, in all."""
        known = self._of_all.known
        parts, kind = parts_of(run.loaders[0]) if len(run.loaders) == 1 else None, TABLE[self._name].answers
        sources = {id(part.source): part.source for part in parts or []}
        if len(sources) != 1 or kind not in KINDS or not known.count:
            return None
        shares, numbers = known.total / known.count, kind is Family.NUMBERS
        if kind is Family.YES_NO and len(shares) > 1:
            return None
        shares = torch.cat([1 - shares, shares]) if kind is Family.YES_NO else shares
        (source,) = sources.values()
        rows = stored(source, shares, classes=not numbers, read=in_doubt)
        if rows is None:
            return None
        classes = len(shares) * (not numbers)
        return in_other_order(rows, classes=classes) if in_doubt else no_labels_from(rows, classes=classes)
