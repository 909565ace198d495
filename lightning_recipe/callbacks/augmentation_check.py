"""Recipe, section 2: "you forgot to flip your labels when you left-right flipped the image"."""

from __future__ import annotations

import math
import random
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from lightning_recipe.callback import Check
from lightning_recipe.callbacks import _augmentation as draws_of
from lightning_recipe.callbacks import _augmented_in_step as in_step
from lightning_recipe.callbacks import _flips as flips
from lightning_recipe.callbacks import _mixed_before as mixed_before
from lightning_recipe.callbacks import _mixing as mixing
from lightning_recipe.callbacks import _moved as moved
from lightning_recipe.callbacks import _sides as sides
from lightning_recipe.callbacks import _swapped as swapped
from lightning_recipe.callbacks._constant_seed import seeded_alike
from lightning_recipe.callbacks._coordinates import left_behind, moves_along
from lightning_recipe.callbacks._lost_transform import lost
from lightning_recipe.finding import Section
from lightning_recipe.record.step import Need
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal
from lightning_recipe.trial.reread import CannotRereadError, read_again, rewritten
from lightning_recipe.trial.stored import parts_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from lightning_recipe.finding import Finding, Outcome
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

TIMES = 6
"""Draws of each example: one that is mirrored half of the time is both ways with a chance of 97 %."""
PROBED = 150
"""Validation examples that tell whether a number has a place."""
MORE = 16
"""Training examples that tell whether a label stays while inputs change places: four may all have the same."""
LOOKS = 6
"""Steps at which it is looked at how inputs and labels are mixed; of a run that mixes none, two."""


class AugmentationCheck(Check):
    """Judges random augmentation, by reading a few examples again and again.

    They are read from a copy of the data set, in random streams of their own. Where the module itself may augment
    images, in ``on_after_batch_transfer`` or its step, the first step is run again on a copy. `warning` if:

    - images are mirrored or turned in some draws of an example, and a target with a place is the same in all: a mask
      of the image's size, boxes, points by their name, or a number that what changes its sign in the mirror predicts,
      on validation examples, with a correlation above ``flips.PREDICTED``;
    - boxes of two corners are inside out once their image is mirrored;
    - two inputs of an example, or its two halves, change places in some draws, and a label is the same in all that,
      on validation examples, is predicted by what changes its sign with that, with a correlation above
      ``_swapped.ODD``;
    - images or spectrograms are moved between draws, and a mask of their size, or labels of their frames, are not;
    - validation examples differ each time, with the very transform of training;
    - each reading of a training example gives the same seeds, and the numbers drawn then change it in the same way: all
      examples get the same noise, flip or crop;
    - a step mixes inputs with those of other examples, as mixup and CutMix do, and labels by another share, in another
      order or not at all;
    - what a `transform` of the data set returns is in no example, or nothing in the program calls it;
    - reading an example changes what the data set keeps of it, in place, again each time; `advice` where workers read,
      whose copies end with the epoch.

    `advice` if validation examples differ for another reason, if training examples are augmented when they are first
    read and kept like that, and if points are mirrored in place, of which one is always left of another in validation:
    a left ear becomes a right one. `skipped` where the data set is a stream, too large to copy, or can't be.

    Args:
        examples: Read of training and of validation.
        strict: Stop the run when something failed.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "Perhaps you forgot to flip your labels when you
        left-right flipped the image during data augmentation".

    Legitimate:
        - Classes, ages and other targets that a mirror does not change; targets that were changed with the image.
        - Sides that are exchanged as they are mirrored; points without an order. Pairs whose order does not matter, as
          of the same and of different things.
        - Crops of what has one class, colours and noise; coordinates that all examples share; the image as its target.
        - Permutations, projections and masks that are the same for all examples, and drawn each time by a generator of
          their own; seeds made of the index.
        - Denoising and masked tokens in validation, whose inputs are random by design.
        - Another example as noise in the background, up to a share of 0.3, whose label is left out.

    Cost:
        24 examples each of training and validation are read, of training 4 more, and 16 more each where it has a
        transform and where it gives seeds, and 150 of validation where images are mirrored and the target is a number
        that is not, or points that go with them. Where inputs change places, 96 of training and 150 of
        validation. Of images that the module may augment, 3 more steps on a copy, 6 if it does. At two steps, of those
        that mix at six, up to 256 examples are compared.

    Example:
        >>> import contextlib, io
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe.demo import DigitsNet, loaders
        >>> check = AugmentationCheck()
        >>> trainer = Trainer(callbacks=[check], barebones=True, max_steps=2)
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     trainer.fit(DigitsNet(), *loaders())
        >>> check.findings[0].status
        <Status.PASSED: 'passed'>

    """

    section = Section.SKELETON
    sentence = 9
    why = "a target that does not move with its image tells the network to predict the middle"
    needs = Need.INPUTS | Need.LOSSES
    explains: ClassVar = {"written_into": ("DataProfile/drifts",)}

    def __init__(self, *, examples: int = 4, strict: bool = False) -> None:
        super().__init__(strict=strict)
        self.examples = examples

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew with each fit."""
        super().setup(trainer, pl_module, stage)
        self.needs = type(self).needs
        self._read, self._looks = False, 0
        self._shares: list[mixing.Share] = []
        self._clean: Finding | None = None

    def before_training(self, run: Run) -> Iterator[Finding]:
        """Read, if validation has a loader by now or never will: after the sanity check."""
        if run.val_loaders or not run.trainer.enable_validation:
            yield from self._judge(run)

    def validation(self, run: Run, step: Step) -> Iterator[Finding]:  # noqa: ARG002
        """Read once both loaders are known."""
        if run.loaders and not self._read:
            yield from self._judge(run)

    def first_step(self, run: Run, step: Step) -> Iterator[Finding]:
        """See whether the module turns or moves images by itself, and their targets with them."""
        if in_step.may_be_augmented(run, step):
            with suppress(CannotRehearseError), rehearsal(run) as again:
                for outcome in in_step.left_behind(again, run, step.batch):
                    self._clean = None
                    yield self.found(outcome)

    def sampled_step(self, run: Run, step: Step) -> Iterator[Finding]:
        """See how inputs and labels were mixed."""
        if self._looks == LOOKS:
            return
        self._looks += 1
        share = mixing.share_of(step)
        if share is not None and math.isnan(share.labels):
            share = self._again(run, step) or share
        if share is not None:
            self._shares.append(share)
        outcome = mixing.verdict(self._shares)
        if outcome:
            self._clean = None
            yield self.found(outcome)
        if outcome or self._looks == LOOKS or (self._looks > 1 and not self._shares):
            self._looks, self.needs = LOOKS, Need(0)
            yield from self._concluded()

    def _again(self, run: Run, step: Step) -> mixing.Share | None:
        """How a step mixes when it is run again, and what counts how much in its loss can be read from its graph."""
        with suppress(CannotRehearseError), rehearsal(run) as again:
            return mixing.share_of(again.step(step.batch, needs=self.needs))
        return None

    def end(self, run: Run) -> Iterator[Finding]:
        """There is no silence."""
        self._looks = LOOKS
        yield from self._concluded() if self._read else self._judge(run)

    def _concluded(self) -> Iterator[Finding]:
        """Say that all is well, once examples were read and steps were looked at."""
        if self._read and self._looks == LOOKS:
            self.done = True
            yield from [self._clean] if self._clean else []

    def _judge(self, run: Run) -> Iterator[Finding]:
        self._read = True
        yield from self._of_reading(run)
        yield from self._concluded()

    def _of_reading(self, run: Run) -> Iterator[Finding]:
        train, val = ([getattr(one, "dataset", None) for one in loaders] for loaders in (run.loaders, run.val_loaders))
        try:
            draws = self._draws(train[0] if train else None)
        except CannotRereadError as error:
            self._clean = self.skipped(str(error))
            return
        try:
            held_out = self._draws(val[0] if val else None)
        except CannotRereadError:
            held_out = []
        found: list[Finding] = []
        calm = bool(held_out) and not draws_of.differing(held_out)
        if image := draws_of.turned(draws):
            turn = image  # for the closure

            def probe(name: str) -> float:
                return _turns_sign(val[0], turn, name) if calm else 0.0

            found += [self.found(outcome) for outcome in draws_of.left_behind(draws, image, probe)]
        found += map(self.found, _of_sides(draws, val[0] if calm else None))
        if calm:
            found += map(self.found, _of_order(draws, train[0], val[0]))
        found += map(self.found, moved.left_where_they_are(draws))
        found += map(self.found, moved.moved_otherwise(draws))

        def follows(name: str, target: str, by: moved.Shift) -> bool:
            known = _told_apart(val[0], name, target) if calm else None
            return known is not None and any(moves_along(known[0], column, by) for column in known[1].T)

        found += map(self.found, left_behind(draws, follows))
        if held_out and (outcome := draws_of.of_validation(held_out, shared=_same_transform(run))):
            found.append(self.found(outcome))
        others = (run.module, getattr(run.trainer, "datamodule", None))
        with suppress(CannotRereadError):  # what was read once may raise when it is read in another way
            found += self._rewritten(run, train[0])
            found += [self.found(outcome) for outcome in seeded_alike(train[0], self._chosen(train[0]))]
            found += [self.found(outcome, name) for outcome, name in lost(train[0], self._chosen(train[0]), *others)]
        if outcome := mixing.verdict(mixed_before.shares(run)):
            found.append(self.found(outcome))
        differing = draws_of.differing(draws)
        with suppress(CannotRereadError):
            elsewhere = [] if found or differing else self._draws(train[0], 1, _other_streams())
            if elsewhere and (outcome := draws_of.drawn_once(draws, elsewhere)):
                found.append(self.found(outcome))
        same = "come out the same each time" if not differing else "are augmented"
        told = any(finding.code == "AugmentationCheck/labels_not_mixed" for finding in self.findings)
        if not found and not told:
            self._clean = self.passed(f"training examples {same}, and targets go with them", random=len(differing))
        yield from found

    def _rewritten(self, run: Run, source: Any) -> Iterator[Finding]:
        for path in rewritten(source, self._chosen(source)):
            loader = run.loaders[0]
            ends = getattr(loader, "num_workers", 0) and not getattr(loader, "persistent_workers", False)
            yield (self.advice if ends else self.warning)(
                f"reading an example changes what {type(source).__name__}.{path} keeps of it, each time anew: the next "
                "epoch sees another data set",
                code="written_into",
                subject=path,
                fix="change a copy: x = x.clone() or x.copy() before +=, mul_() and the like; an index gives a view",
            )

    def _chosen(self, source: Any) -> list[int]:
        size = len(source) if hasattr(source, "__len__") else 0
        return _evenly(size, self.examples)

    def _draws(
        self, source: Any, times: int = TIMES, within: AbstractContextManager[None] | None = None
    ) -> draws_of.Draws:
        if source is None:
            msg = "there is no data set of the map style"
            raise CannotRereadError(msg)
        read = [[flips.leaves(one) for one in each] for each in read_again(source, self._chosen(source), times, within)]
        if not read or not read[0][0]:
            msg = "examples hold no numbers before they are put into a batch"
            raise CannotRereadError(msg)
        return read


@contextmanager
def _other_streams() -> Iterator[None]:
    """Go on from elsewhere in the borrowed streams."""
    torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002 - it is these that data sets draw from
    yield


def _turns_sign(source: Any, image: draws_of.Turned, name: str) -> float:
    """How well what changes its sign in the mirror predicts a target, on validation examples as they are."""
    known = _told_apart(source, image.name, name)
    return 0.0 if known is None else max(flips.turns_sign(known[0], column, image.how) for column in known[1].T)


def _of_sides(draws: draws_of.Draws, source: Any) -> Iterator[Outcome]:
    """Left and right of targets that are mirrored with their image."""
    if image := draws_of.turned(draws, sides.SIDEWAYS):

        def examples(name: str) -> Tensor | None:
            known = None if source is None else _told_apart(source, image.name, name)
            return None if known is None else known[1]

        yield from sides.not_exchanged(draws, image, examples)


def _of_order(draws: draws_of.Draws, train: Any, val: Any) -> Iterator[Outcome]:
    """Inputs that change places, and labels that should know: of more examples, as four may have one label."""
    if swapped.swapped(draws):
        with suppress(CannotRereadError):
            more = [
                [flips.leaves(one) for one in times] for times in read_again(train, _evenly(len(train), MORE), TIMES)
            ]
            if swap := swapped.swapped(more):
                yield from swapped.left_as_it_was(more, swap, partial(swapped.predicts, _held_out(val), swap))


def _held_out(source: Any) -> list[dict[str, Tensor]]:
    """Validation examples as they are; none where they can't be read."""
    try:
        return [flips.leaves(one) for (one,) in read_again(source, _evenly(len(source), PROBED))]
    except CannotRereadError:
        return []


def _evenly(size: int, count: int) -> list[int]:
    """Indices of so many examples at most."""
    return sorted({i * size // count for i in range(count)})


def _told_apart(source: Any, name: str, target: str) -> tuple[Tensor, Tensor] | None:
    """Images of validation, of shape (N, C, H, W), and a target of each, of shape (N, D); None if they are too few."""
    examples = _held_out(source)
    both = [(flips.as_image(one[name]), one[target].flatten()) for one in examples if name in one and target in one]
    images, targets = [x for x, _ in both if x is not None], [y for _, y in both]
    if len(images) < flips.ENOUGH or len(images) < len(targets):
        return None
    if any(x.shape != images[0].shape for x in images) or any(y.shape != targets[0].shape for y in targets):
        return None
    return torch.stack(images), torch.stack(targets)


def _same_transform(run: Run) -> bool:
    """Whether the data sets of training and validation have a transform in common."""
    train, val = (
        [
            getattr(part.source, name, None)
            for loader in loaders
            for part in parts_of(loader) or []
            for name in ("transform", "transforms")
        ]
        for loaders in (run.loaders, run.val_loaders)
    )
    return any(a is b and a is not None for a in train for b in val)
