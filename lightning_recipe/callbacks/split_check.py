"""Recipe, section 1: validation is on examples that training never sees, and as they are."""

from __future__ import annotations

from collections.abc import Callable  # noqa: TC003 - LightningCLI reads the types of arguments at run time
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lightning_recipe.callback import Check
from lightning_recipe.callbacks import _groups as groups
from lightning_recipe.callbacks import _matches as matches
from lightning_recipe.callbacks import _near_copies as copies
from lightning_recipe.callbacks import _overlap as examples
from lightning_recipe.callbacks import _overlapping as windows
from lightning_recipe.callbacks import _shared_transform as transforms
from lightning_recipe.callbacks._data_source import target_of
from lightning_recipe.callbacks._in_between import in_between
from lightning_recipe.callbacks._near_by import near_stored
from lightning_recipe.callbacks._near_texts import near_texts
from lightning_recipe.callbacks._numbered_apart import numbered_apart
from lightning_recipe.callbacks._oversampled import oversampled
from lightning_recipe.callbacks._passed_by import PassedBy
from lightning_recipe.callbacks._scaled_apart import scaled_apart
from lightning_recipe.callbacks._shifted_copies import shifted_copies
from lightning_recipe.callbacks._split_again import split_again
from lightning_recipe.callbacks._target_encoded import target_encoded
from lightning_recipe.figures.canvas import pixels
from lightning_recipe.finding import Section
from lightning_recipe.record.step import Need
from lightning_recipe.show import loggers
from lightning_recipe.trial.isolation import isolated
from lightning_recipe.trial.stored import Part, distinct, parts_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import LightningModule, Trainer

    from lightning_recipe.finding import Finding
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run


class SplitCheck(Check):
    """Judges how training and validation were split.

    The indices of subsets and samplers are compared, else what the data sets store of their examples, as fingerprints,
    and where that does not tell, such as for streams, what comes by in the batches of the first epoch and of
    validation, on all ranks; and the program's own code is read. No example is drawn, but a few of what may be windows
    of a series, from a copy of the data set. After a fit, ``trainer.test`` and ``trainer.validate`` are watched, too.
    `warning` if:

    - more than a share of the validation or test examples are in training, with the same inputs and targets;
    - the examples of a subject, patient or session were dealt out to both by chance, where their ids are stored under
      such a name, as a column, a key or an attribute of the data set, or come by in the batch;
    - training holds slightly changed copies of most validation examples, in stored arrays of numbers, or, of
      images, copies that were shifted by a pixel or two, mirrored or turned; or of a third of its texts, in stored
      arrays of tokens; or copies with the same label of more than a share of them, of images, texts or rows of numbers
      as they are stored or come by, and many more than by chance;
    - a column of a stored table is made of the labels of validation, too: each of its values is the mean of the labels
      of all examples with it, as of target encoding before the split;
    - or of the labels of training, the example's own included, where categories have few examples: it tells training
      what validation will not know;
    - validation examples of one class lie beside copies in training, or on lines between two examples of it, as SMOTE
      makes them, and those of another class do not: rows were multiplied before the split;
    - most pairs of validation, of ids, texts or images, are in training the other way round with the same label;
      `advice` of fewer, as directed relations are often returned;
    - most windows of a series lie between windows of training that share most of their values; `advice` of tokens;
    - validation examples of a later epoch were trained on before, as the split is drawn anew with reloaded loaders;
    - an attribute such as `transform` is set through the validation subset, while the training subset is one of the
      same data set, which then has lost its augmentation.

    `advice` if inputs of validation were standardised by themselves, not as those of training, or both were scaled
    together, before the split; if validation lies before all training in time and is to be forecast, or it lies between
    examples of training in time, by a column of the batch or as rows of a slow series, and their targets tell its own,
    or what follows a series is to be forecast; if names or words were numbered in the order in which they come, on both
    sides anew; if fewer examples are in both, validation is on the training set itself, or the attribute was not known
    to be another before. `skipped` where batches do not tell examples apart, as of graphs, or a run that is cut short
    has examples in both.

    Args:
        share: Of the validation examples, from which on it is a warning if they are in training. Well-known data sets
            have 3 % in both (B. Barz, J. Denzler, Do We Train on Test Data?, 2020).
        keep_examples: Whether examples that are in both are drawn, and ids, times and pairs that come by in batches are
            kept in memory until the first epoch is over; without, these are looked for in what is stored only, of other
            examples fingerprints are kept.
        decode: Makes text of a list of token ids, such as the ``decode`` of a tokenizer.
        strict: Stop the run when something failed.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "One time I discovered that the data contained
        duplicate examples". The two subsets that share a transform: PyTorch's ``random_split`` refers to the data set,
        it does not copy it.

    Legitimate:
        - A few examples that are to be memorised, or a trial that is cut short.
        - A loader more, of training examples, beside one of others.
        - Repeated examples within training, labels or short rows that are equal by chance, names of files that are the
          same in two folders.
        - One data set for both that is given a transform once.
        - Windows that overlap within training, or where a split by time has its borders.
        - Images, templates or frames that are as near to one another within training, or within validation.
        - A few shapes, glyphs or patterns, at other places in each image.
        - Pairs whose direction matters, of users and items, and random ones that meet by chance.
        - Inputs that were scaled by published numbers, by medians, one mean of all pixels, or to their unit's range.
        - Means of the labels of other folds, or of a category with many examples; totals whose parts are predicted.
        - Ids that the network is given or is to recognise, as of users in a recommender; subjects that were split by
          time, by session or evenly.

    Cost:
        One pass over what is stored in memory, 256 MB or 200,000 examples at most, and the parsing of the program's own
        files; once. Where most of validation lies between examples of training, 3 pairs are read, of windows 16.
        Where loaders are reloaded, another, and what was trained on first is kept until then.
        Where batches are looked at, a sum over at most 8,192 values of each example, in the first epoch, and up to a
        millisecond for fingerprints that small changes leave as they are.

    Pictures:
        - `pairs`: Up to three validation examples below those of training that they are, or are copies of. ``#17`` is
          the index in the data set itself, behind any ``Subset``.

    Example:
        >>> import contextlib, io
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe.demo import DigitsNet, loaders
        >>> check = SplitCheck()
        >>> trainer = Trainer(callbacks=[check], barebones=True, max_steps=2)
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     trainer.fit(DigitsNet(), *loaders())
        >>> check.findings[0].status
        <Status.PASSED: 'passed'>

    """

    section = Section.DATA
    sentence = 3
    why = "a validation score tells about new examples only if they are new, and are read as they will be"
    needs = Need.INPUTS | Need.LOSSES
    explains: ClassVar = {"shared_transform": ("AugmentationCheck/*",)}

    def __init__(
        self,
        *,
        share: float = 0.05,
        keep_examples: bool = True,
        decode: Callable[..., Any] | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__(strict=strict)
        self.share, self.keep_examples, self.decode = share, keep_examples, decode
        self._trained: tuple[list[Part], set[Any]] | None = None  # the examples, and how batches are made of them

    def __getstate__(self) -> dict[str, Any]:
        """All but the data that were trained on."""
        return super().__getstate__() | {"_trained": None}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew with each fit."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":  # what was trained on is compared with what is tested
            return
        self.needs = type(self).needs
        self._trained = None
        self._passed_by = PassedBy(keep=self.keep_examples)
        self._first, self._compared = trainer.current_epoch, False
        self._known: groups.Known | None = None
        self._parts: tuple[list[Part], list[list[Part] | None]] | None = None
        self._clean: Finding | None = None
        self._kept: list[Part] | None = None  # what was trained on first, until loaders were reloaded
        self._every = 0  # how many epochs
        self._settled = False  # by what is stored

    def before_training(self, run: Run) -> Iterator[Finding]:
        """Compare the loaders, if validation has one by now: after the sanity check."""
        parts = [parts_of(loader) for loader in run.loaders]
        if parts and None not in parts:
            train = [part for of_loader in parts for part in of_loader or []]
            self._trained = train, {examples.way(loader) for loader in run.loaders}
        yield from self._judge(run)
        if not run.trainer.enable_validation:
            self.done = True
            yield self.skipped("there is no validation")

    def every_batch(self, run: Run, stage: str, batch: Any) -> None:
        """Look at what comes by, until it is known which examples are the same."""
        if stage == "validation" or run.trainer.current_epoch == self._first:
            self._passed_by.exact = not self._settled
            self._passed_by.note(run, stage, batch)

    def validation(self, run: Run, step: Step) -> Iterator[Finding]:  # noqa: ARG002
        """Compare them once both are known."""
        if not self._compared:
            yield from self._judge(run)
            yield from self._of_ids(run)
        elif self._kept is not None and run.trainer.current_epoch > self._first:
            yield from self._of_reloaded(run, self._kept)

    def sampled_step(self, run: Run, step: Step) -> Iterator[Finding]:
        """Look at ids at the first; compare what came by once an epoch and a validation are over, and look no more."""
        if self._known is None:
            self._known, self.needs = groups.Known.of(run.module, step), Need(0)
            self._passed_by.know(step, target_of(step))
            yield from self._of_ids(run)
            return
        over = self._compared and run.trainer.current_epoch > self._first and self._kept is None
        if over and self._passed_by.is_complete and (self._settled or self._passed_by.counts[1]):
            yield from self._of_batches(run)

    def end(self, run: Run) -> Iterator[Finding]:
        """There is no silence."""
        if self._settled or all(self._passed_by.counts):
            yield from self._of_batches(run)
        elif not self.findings:
            yield self._clean or self.skipped("there was no validation")

    def evaluation(self, run: Run, stage: str, loaders: list[Any]) -> Iterator[Finding]:
        """Compare what is stored with what was trained on; whoever validates may want to know of both."""
        if self._trained is None or run.limited:
            return
        train, ways = self._trained
        for i, loader in enumerate(loaders):
            parts, alike = parts_of(loader), {examples.way(loader)} == ways
            found = examples.overlap(train, parts, alike=alike) if parts else None
            subject = f"{stage} loader {i}" if len(loaders) > 1 else stage
            if found and not found.common:
                message = f"none of {found.looked} {stage} examples is in training"
                yield self.passed(message, code="apart", subject=subject, looked_at=found.looked)
            elif found and (outcome := examples.verdict(found, self.share, only=stage == "test", what=stage)):
                yield self.found(outcome, subject)
                self._draw(run, [outcome])

    def _of_batches(self, run: Run) -> Iterator[Finding]:
        self.done, self._kept = True, None
        self._passed_by.unite(run, type(self).__name__)
        found, (count, _) = self._passed_by.common(), self._passed_by.counts
        known = None if run.limited else self._known
        told = [] if known is None else [self.found(*one) for one in self._passed_by.outcomes(known)]
        exact = found is not None and found.common > self.share * found.looked
        near = None if told or exact or run.limited else self._passed_by.near(self.share)
        told += [self.found(near)] if near else []
        if self._settled:
            yield from told or ([self._clean] if self._clean else [])
            return
        yield from told
        if found is None and not told:
            yield self._clean or self.skipped(
                "what is stored, and what comes by, does not tell which examples are the same"
            )
        elif found is not None and not found.common and not told:
            yield self.passed(
                f"none of {found.looked} validation examples came by among {count} of training",
                looked_at=found.looked,
                training=count,
            )
        elif found is None or not found.common or near:
            return
        elif run.limited or run.trainer.sanity_checking:
            yield self.skipped(f"{found.common} of {found.looked} validation examples are in training, in a trial")
        elif outcome := examples.verdict(found, self.share, only=len(run.val_loaders) == 1):
            yield self.found(outcome)

    def _judge(self, run: Run) -> Iterator[Finding]:
        if not run.loaders or not run.val_loaders:
            return
        self._compared = True
        vals = [parts_of(loader) for loader in run.val_loaders]
        if self._trained is None or not any(vals):  # known to the sampler or the stream only
            return
        train, ways = self._trained
        found, told = [*self._transforms(run, train, vals)], list[Any]()
        overlaps = [
            None if val is None or run.limited else examples.overlap(train, val, alike={examples.way(loader)} == ways)
            for val, loader in zip(vals, run.val_loaders, strict=True)
        ]
        own = [overlap is not None and not overlap.common for overlap in overlaps]
        for i, overlap in enumerate(overlaps):
            if overlap and (outcome := examples.verdict(overlap, self.share, only=not any(own))):
                found.append(self.found(outcome, f"validation loader {i}" if len(vals) > 1 else ""))
                told.append(outcome)
        if not found and not run.limited:
            pairs = filter(None, (windows.neighbours(train, val) for val in vals if val))
            told = list(filter(None, map(windows.overlapping, pairs)))
            for look in (
                copies.near_copies,
                oversampled,
                near_texts,
                near_stored,
                shifted_copies,
                target_encoded,
                scaled_apart,
                numbered_apart,
                in_between,
            ):
                told = told or list(filter(None, (look(train, val) for val in vals if val)))
            found += map(self.found, told)
        yield from found
        self._draw(run, told)
        if any(own) and not found:
            looked = sum(overlap.looked for overlap in overlaps if overlap)
            self._clean = self.passed(f"none of {looked} validation examples is in training", looked_at=looked)
        self._settled = bool(found) or (any(own) and not examples.in_words(train))
        self._parts = None if run.limited else (train, vals)
        self._every = getattr(run.trainer, "reload_dataloaders_every_n_epochs", 0)
        self._kept = train if self._every and not (found or run.limited) and len(vals) == 1 else None

    def _draw(self, run: Run, told: list[Any]) -> None:
        """Draw the first pairs that are known."""
        pairs = next((one.matches for one in told if isinstance(one, matches.OfMatches) and one.matches), ())
        if pairs and self.keep_examples and loggers.is_written(run.trainer):
            with isolated():
                picture = matches.card(pairs, self.decode)
            if picture is not None:
                self.draw(run, "pairs", pixels(picture))

    def _of_reloaded(self, run: Run, first: list[Part]) -> Iterator[Finding]:
        """Compare validation with what was trained on before its loaders were reloaded, once."""
        epoch = run.trainer.current_epoch
        if (epoch - self._first) % self._every:
            return
        self._kept = None
        parts, val = [parts_of(loader) for loader in run.loaders], parts_of(run.val_loaders[0])
        if val is None or None in parts:
            return
        now = [part for of_loader in parts for part in of_loader or []]
        if outcome := split_again(first, now, val, began=self._first, epoch=epoch):
            self.done = True
            yield self.found(outcome)

    def _of_ids(self, run: Run) -> Iterator[Finding]:
        """Judge whose examples are on both sides, once it is known what the network is given.

        And come to an end, unless ids are to be seen in the batches only.
        """
        if self._known is None or not self._compared:
            return
        train, vals = self._parts or ([], [])
        found = []
        for val in filter(None, vals):
            for name, ids in groups.shared(train, val).items():
                if outcome := groups.verdict(ids, name, self._known):
                    found.append(self.found(outcome, name))
        stored = any(groups.has_ids(parts) for parts in (train, *filter(None, vals)))
        several = len(run.loaders) != 1 or len(run.val_loaders) != 1
        told = bool(found) or (self._settled and self._clean is None)
        near = self._settled and copies.are_stored(train)
        self._passed_by.close(ids=stored, others=several or told, near=near)
        waits = self._passed_by.waits or self._kept is not None
        self._parts, self.done = None, bool(found) or (self._settled and not waits)
        yield from found or ([self._clean] if self._clean and self.done else [])

    def _transforms(self, run: Run, train: list[Part], vals: list[Any]) -> Iterator[Finding]:
        """Judge the data set that subsets of both share."""
        for val in (part for parts in vals for part in parts or []):
            if any(part.source is val.source and _differ(part, val) for part in train):
                code = transforms.trees(val.source, run.module, getattr(run.trainer, "datamodule", None))
                lines = [line for tree in code for line in transforms.assigned(tree)]
                given = {
                    line.name: before
                    for tree in code
                    for line in lines
                    if (before := transforms.constructed(tree, val.source, line.name))
                }
                if outcome := transforms.verdict(lines, val.source, given):
                    yield self.found(outcome, type(val.source).__name__)
                return


def _differ(one: Part, other: Part) -> bool:
    """Whether two parts of one data set are made of different examples."""
    a, b = distinct([one]), distinct([other])
    if isinstance(a, range) and isinstance(b, range):
        return a != b
    return len(a) != len(b) or not np.array_equal(a, b)
