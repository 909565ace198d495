"""Recipe, section 1: "thoroughly inspecting your data", as they pass."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from lightning_recipe.callback import Check
from lightning_recipe.callbacks import _data_order as order
from lightning_recipe.callbacks import _data_ranks as ranks
from lightning_recipe.callbacks import _data_verdict as verdict
from lightning_recipe.callbacks._data_counted import Passing
from lightning_recipe.callbacks._data_described import describe
from lightning_recipe.callbacks._data_examples import combined, examples_of, numbers_of
from lightning_recipe.callbacks._data_repeated import repeated as repeats
from lightning_recipe.callbacks._data_seen import VALUES, Glance, Seen, add, glance
from lightning_recipe.callbacks._data_source import (
    by_index,
    class_names,
    drawn,
    entered,
    is_stream,
    label_of,
    number_of,
)
from lightning_recipe.callbacks._kept_data import Kept
from lightning_recipe.callbacks._missing_marks import marks
from lightning_recipe.callbacks._never_drawn import never_drawn
from lightning_recipe.callbacks._rounded import rounded
from lightning_recipe.figures.canvas import pixels
from lightning_recipe.finding import Section, Status
from lightning_recipe.record.step import Need
from lightning_recipe.record.tensors import mapped, tensors
from lightning_recipe.show import loggers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import LightningModule, Trainer

    from lightning_recipe.callbacks._data_described import Said
    from lightning_recipe.callbacks._data_verdict import Examples
    from lightning_recipe.finding import Finding, Outcome
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

DENSE = 64
"""Batches at the beginning of which each is looked at; then every 8th, 16th, ... whenever there are twice as many."""
MEASURED = 16
"""Batches whose ranges are measured."""
SOME = 32
"""Batches from which on what is found is told before the epoch is over."""
EPOCHS = 3
"""Epochs over which it is watched whether what the data set keeps stays what it was."""
AGAIN = 16
"""Batches of the second epoch that are compared with those of the first."""
MOST = 2**26
"""Numbers read in a run, which takes about a second."""
KEPT = 2**20
"""Examples of which a fingerprint of each entry is kept, 8 bytes."""


class DataProfile(Check):
    """Describes the training data that pass through the first epoch, and judges what makes them hard to learn from.

    Of each example a fingerprint of 64 bits, also of its texts, and the label are kept, of each feature or channel its
    range; of all ranks, but for the order of examples, which is each rank's own. The label is what the loss compares
    with, as far as it is an integer for each example; other targets, such as several labels, masks and numbers, are
    described only. `warning` if:

    - identical inputs have different labels, from 1 % of the examples on, below it is `advice`;
    - more than 5 % of the examples are exact duplicates though each index is drawn once; `advice` if most examples come
      more than once, as in a data set that says it is longer than it is, or only those of rare classes do;
    - examples come class by class, or in the order of the numbers that are to be predicted, and no sampler put them
      together, or one that does so in each epoch, or as a stream, also if a shuffle buffer mixes a few classes at a
      time; `advice` if classes come again, or along a series;
    - batches of one class each are the same groups in each epoch, in another order; `advice` in the same order;
    - the workers of a stream all give the same batches;
    - a WeightedRandomSampler has fewer weights than there are examples, as one for each class;
    - the first or last class that the network can say never occurs, and of all others, which are of one size, the first
      or last is twice as large: labels that are off by one were held to their range;
    - rows that the data set keeps, or batches that a list holds, change in each epoch into something else that is like
      what they were: what is done to them, in the data set or the step, is done in place, and adds up.

    `advice` if inputs are so few that they can't tell the labels, other classes never occur, in a whole epoch or among
    examples that are drawn at random, examples come in the same order in each epoch, or the same batches again and
    again within one, a sampler draws the same part of the rows in both of the first epochs, features that the network
    is given never change, or hold a number such as -999 for what is missing, or values are NaN or infinite, or so far
    from 0 that 32 bits have no room for whole numbers, as for time stamps.

    Args:
        keep_examples: Whether some rows of tables, and of what the data set keeps, are kept in memory for up to three
            epochs; without, neither what changes from epoch to epoch nor a number for what is missing is seen. Of all
            else there are fingerprints, labels and ranges.
        strict: Stop the run when something failed.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "The first step to training a neural net is to not
        touch any neural net code at all and instead begin by thoroughly inspecting your data". Means and variances by
        T. Chan, G. Golub and R. LeVeque, Updating Formulae (1979).

    Legitimate:
        - Samplers that draw with replacement, weigh classes or build batches; data sets that are concatenated with
          themselves, streams: their duplicates and order are meant.
        - Short or discrete features, blank images and silence: these are equal by chance, and not compared.
        - Data that are replaced, moved about, changed once, or trained; arrays of other sizes than what enters.
        - Classes that one rank has and another has not; examples that come twice so that all ranks have as many.
        - Soft labels, graphs, values that are missing and masked; classes that are kept for padding or what is unknown.

    Cost:
        A pass over the numbers of a batch where they are, of the first 64 and then of ever fewer, of large images some;
        8 bytes for each entry of an example, of a million examples at most; of targets 16,384 values of such a batch,
        counted in 1,024 cells. A search for arrays among 20,000 objects of
        the data set, at most, and 16 rows of each are kept.

    Pictures:
        - `data`: How many examples each class has, how often each label holds, which share of the pixels each class
          has, or how the numbers are distributed that are to be predicted; and the range, mean, standard deviation and
          share of NaN of each feature or channel.
        - `lengths`: How long sequences of tokens are, without their padding, where they differ.

    Example:
        >>> import contextlib, io
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe.demo import DigitsNet, loaders
        >>> check = DataProfile()
        >>> trainer = Trainer(callbacks=[check], barebones=True, max_epochs=1)
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     trainer.fit(DigitsNet(), *loaders())
        >>> check.findings[-1].evidence["classes"]
        10.0

    """

    section = Section.DATA
    sentence = 1
    why = "a network finds what is wrong with the data, too, and learns it"
    needs = Need.INPUTS | Need.LOSSES
    explains: ClassVar = {
        "same_input_other_label": ("OverfitOneBatch/*",),
        "sorted": (
            *("PredictionDynamicsLogger/*", "DataProfile/same_order", "ActivationMonitor/*", "Baselines/*"),
            *("InputIndependenceCheck/input_ignored", "UpdateRatioMonitor/too_large", "InitLossCheck/output_bias"),
            "LossInputCheck/target_constant",
            "InitLossCheck/too_high",
        ),
    }

    def __init__(self, *, keep_examples: bool = True, strict: bool = False) -> None:
        super().__init__(strict=strict)
        self.keep_examples = keep_examples

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew with each fit."""
        super().setup(trainer, pl_module, stage)
        self.needs = type(self).needs
        self._seen, self._waiting, self._passing = Seen(), list[Glance](), Passing()
        self._put_together: Examples | None = None  # of what was seen
        self._label: str | None = None
        self._target: str | None = None
        self._entered: set[str] = set()
        self._kept_data: Kept | None = None
        self._first_batch: Any = None
        self._sizes: set[int] = set()
        self._epoch, self._said, self._drawn = trainer.current_epoch, False, False
        self._classes = 0
        self._spent = self._kept = self._judged = 0
        self._first, self._passed = trainer.current_epoch, [0, 0]  # batches of the first two epochs that passed by

    def before_training(self, run: Run) -> Iterator[Finding]:
        """A resumed run has seen its data, and may begin amid an epoch."""
        if run.resumed:
            self.done = True
            yield self.skipped("the run goes on from a checkpoint: its first epoch has passed")
            return
        self._kept_data = Kept(run.loaders[0]) if self.keep_examples and len(run.loaders) == 1 else None
        yield from (self.found(outcome) for loader in run.loaders for outcome in order.too_few_weights(loader))

    def every_batch(self, run: Run, stage: str, batch: Any) -> None:
        """Look at a batch if it is time to; what comes out stays on its device until the next look."""
        if stage != "train":
            return
        if self._passed == [0, 0]:
            self._first_batch = mapped(batch, Tensor, lambda tensor: tensor)  # a step may take its labels out
        epoch, index = run.trainer.current_epoch - self._first, run.trainer.fit_loop.epoch_loop.batch_idx
        if epoch > 1:
            self.next_batch = math.inf
            return
        self._passed[epoch] = index + 1
        gap = 1 if index < DENSE else 4 << (index // DENSE).bit_length()
        enough = (epoch and index >= AGAIN) or self._spent >= MOST or self._kept >= KEPT
        self.next_batch = math.inf if enough else (index // gap + 1) * gap
        if enough or index % gap:
            return
        examples = run.examples_in(batch)
        if examples:
            measured = epoch == 0 and index < MEASURED
            self._waiting.append(glance(batch, examples, epoch, measured=measured))
            if epoch == 0:
                self._passing.note(batch)
            self._spent += sum(min(tensor.numel(), VALUES * examples) for _, tensor in tensors(batch))
            self._kept += examples

    def first_step(self, run: Run, step: Step) -> Iterator[Finding]:
        """Find the label, and what the network is given."""
        if self._first_batch is not None:
            step, self._first_batch = replace(step, batch=self._first_batch), None
        self.needs, examples = Need(0), run.examples_in(step.batch) or 0
        self._label, self._classes = label_of(step, examples)
        self._target = number_of(step, examples)
        self._entered = entered(step, examples)
        self._passing.begin(step, examples, run.module, self._label)
        self._sizes = {t[0].numel() for path, t in tensors(step.batch, "batch") if path in self._entered}
        yield from (self.found(outcome, path) for path, outcome in rounded(step.batch))

    def next_look(self, run: Run) -> float:
        """As all others, and at the last step of the first epoch."""
        due, last = super().next_look(run), run.steps_per_epoch
        return min(due, last) if run.step < last else due

    def sampled_step(self, run: Run, step: Step) -> Iterator[Finding]:  # noqa: ARG002
        """Fetch what waits; judge whenever there is twice as much, and once for all in the second epoch."""
        self._fetch()
        epoch = run.trainer.current_epoch - self._first
        if epoch == 0 and run.step >= run.steps_per_epoch and run.shard[1] == 1 and self._seen.sizes:
            self._draw(run, self._share(run))
        if self._said:
            pass
        elif epoch > 1 or (epoch == 1 and self._passed[1] >= AGAIN):
            yield from self._told(run)
        elif len(self._seen.sizes) >= max(SOME, 2 * self._judged):
            self._judged = len(self._seen.sizes)
            yield from (finding for finding in self._judge(run, self._share(run)) if finding.is_alarm)
        if run.trainer.current_epoch > self._epoch:
            self._epoch = run.trainer.current_epoch
            yield from self._drifts()
        self.streams, self.done = not self._said, self._said and epoch >= EPOCHS

    def end(self, run: Run) -> Iterator[Finding]:
        """Say what there is to say, at the end of a short run."""
        self._fetch()
        yield from self._drifts()
        if not self._said:
            yield from self._told(run)

    def _drifts(self) -> Iterator[Finding]:
        """Look at what the data set keeps, once an epoch."""
        if self._kept_data is not None:
            self._kept_data.look()
            yield from (self.found(outcome, path) for outcome, path in self._kept_data.drifts(self._sizes))

    def _fetch(self) -> None:
        for one in self._waiting:
            add(self._seen, one)
            self._put_together = None
        if not self.keep_examples:
            self._seen.rows.clear()
        self._waiting.clear()
        self._passing.fetch()

    def _told(self, run: Run) -> Iterator[Finding]:
        share, (_, count) = self._share(run), run.shard
        share = share.bounded(KEPT // count, count) if count > 1 else share
        shares = run.gather(type(self).__name__, share)
        seen = ranks.together(shares)
        found = list(self._judge(run, seen, all_seen=len(shares) == count))
        yield from found
        self._said, self._seen, self._put_together = True, Seen(), None
        if not len(seen.examples.inputs):
            yield self.skipped("no batch holds a row for each example")
            return
        said = self._draw(run, seen)
        if not any(finding.is_alarm for finding in found):
            yield self.passed(said.text, code="", subject="", **said.numbers)

    def _draw(self, run: Run, seen: ranks.Share) -> Said:
        """Put what was seen into words, and once on cards."""
        names = class_names(run.loaders[0]) if len(run.loaders) == 1 else []
        drawn = loggers.is_written(run.trainer) and not self._drawn and len(seen.examples.inputs) > 0
        said = describe(seen.examples, seen.counted, seen.ranges, names, drawn=drawn)
        self._drawn = self._drawn or drawn
        for name, card in said.cards.items():
            self.draw(run, name, pixels(card))
        return said

    def _share(self, run: Run) -> ranks.Share:
        over = run.trainer.current_epoch > self._first  # of a stream nobody knows before how long it is
        whole = self._seen.epochs.count(0) == (self._passed[0] if over else run.batches_per_epoch)
        return ranks.share_of(self._examples(), self._seen, self._passing.counted, run.loaders, whole=whole)

    def _examples(self) -> Examples:
        if self._put_together is None:
            self._put_together = examples_of(self._seen, self._label, self._target)
        return self._put_together

    def _judge(self, run: Run, of_all: ranks.Share, *, all_seen: bool = False) -> Iterator[Finding]:
        """Judge what was seen on all ranks, and in which order examples come on this one.

        Args:
            run: The run.
            of_all: What was seen; early on, of this rank.
            all_seen: Whether it is of all ranks.

        """
        seen = self._seen
        examples = self._examples()
        if not len(examples.inputs):
            return
        stored, once, unshuffled, each = drawn(run)
        found = list(verdict.other_target(of_all.examples)) if stored and not of_all.apart else []
        if once and not of_all.apart:
            apart = of_all.examples if of_all.dealt or run.shard[1] == 1 else examples
            found += verdict.duplicates(apart, sure=by_index(run.loaders[0].dataset))
        first = np.split(examples.inputs, np.flatnonzero(np.diff(examples.batch)) + 1)
        second = combined(seen, 1, self._label or self._target)[:AGAIN]
        numbers, alike = numbers_of(seen, self._target, self._entered)
        repeated = list(order.again(first[:AGAIN], second))
        if (unshuffled or (each and repeated)) and not run.limited:
            by = list(order.in_order(examples)) or list(order.by_number(numbers, alike))
            found += by or order.drifting(examples, alike)
        elif stored and not run.limited:
            found += order.in_groups(examples, first, second)
        found += repeated if stored and not run.limited else []
        if not run.limited:
            workers = getattr(run.loaders[0], "num_workers", 0) if is_stream(run) else 0
            found += (
                never_drawn(run.loaders[0], run.batches_per_epoch, first, second)
                if stored and run.shard[1] == 1
                else []
            )
            found += repeats(first[:DENSE], seen.rich[: min(DENSE, len(first))], workers)
        if is_stream(run) and run.trainer.current_epoch > self._first and not run.limited:
            warned = (o for o in order.drifting(examples, alike) if o.status is Status.WARNING)
            found += list(order.by_class(examples)) or warned
        found += self._never(run, of_all, shuffled=once and not unshuffled) if all_seen or run.shard[1] == 1 else []
        for outcome in found:
            yield self.found(outcome)
        for outcome, path in verdict.of_ranges(of_all.ranges, self._entered):
            yield self.found(outcome, path)
        for path in sorted(self._entered & of_all.rows.keys()):
            yield from (self.found(outcome, path) for outcome in marks(of_all.rows[path], path))

    def _never(self, run: Run, of_all: ranks.Share, *, shuffled: bool) -> Iterator[Outcome]:
        """Classes that never occur on any rank; if examples are shuffled, some batches of an epoch tell of the others.

        Those that are missing on one rank may all be on another.
        """
        labels = of_all.examples.labels
        if (of_all.whole or shuffled) and not run.limited and self._classes and labels is not None:
            yield from verdict.never(labels, self._classes, whole=of_all.whole)
