"""Recipe, section 2: "you forgot to flip your labels when you left-right flipped the image"."""

from __future__ import annotations

import math
from collections.abc import Callable  # noqa: TC003 - LightningCLI reads the types of arguments at run time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_recipe.callback import Check
from lightning_recipe.callbacks import _augmented_in_step as in_step
from lightning_recipe.callbacks import _mixed_before as mixed_before
from lightning_recipe.callbacks import _mixing as mixing
from lightning_recipe.callbacks._read_again import Reading
from lightning_recipe.callbacks._several_draws import card
from lightning_recipe.figures.canvas import pixels
from lightning_recipe.finding import Section
from lightning_recipe.record.step import Need
from lightning_recipe.show import loggers
from lightning_recipe.trial.isolation import isolated
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal
from lightning_recipe.trial.reread import CannotRereadError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import LightningModule, Trainer

    from lightning_recipe.finding import Finding
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

LOOKS = 6
"""Steps at which it is looked at how inputs and labels are mixed; of a run that mixes none, two."""


class AugmentationCheck(Check):
    """Judges random augmentation, by reading a few examples again and again.

    They are read from a copy of the data set, in random streams of their own, and where nothing is found there they go
    through the ``collate_fn``, each as a batch of its own. Where the module itself may augment
    images, in ``on_after_batch_transfer`` or its step, the first step is run again on a copy. `warning` if:

    - images are mirrored or turned in some draws of an example, and a target with a place is the same in all: a mask
      of the image's size, boxes, points by their name, or a number that what changes its sign in the mirror predicts,
      on validation examples, with a correlation above ``flips.PREDICTED``;
    - images are mirrored or turned in some draws, their class stays, and in validation the mirrored examples of one
      class look like another one and the other way round, as left and right hands do;
    - boxes of two corners are inside out once their image is mirrored;
    - two inputs of an example, or its two halves, change places in some draws, and a label is the same in all that,
      on validation examples, is predicted by what changes its sign with that, with a correlation above
      ``_swapped.ODD``;
    - images or spectrograms are moved between draws, and a mask of their size, or labels of their frames, are not; or
      numbers of a place are, along their other side or the other way, as a linear model of validation's images tells;
    - a mask lies in another way than its image, as each is turned by a draw of its own; points are turned, and vectors
      that turn with them in validation are not;
    - validation examples differ each time, with the very transform or ``collate_fn`` of training;
    - each reading of a training example gives the same seeds, and the numbers drawn then change it in the same way: all
      examples get the same noise, flip or crop;
    - a step mixes inputs with those of other examples, as mixup and CutMix do, and labels by another share, in another
      order or not at all;
    - what a `transform` of the data set returns is in no example, or nothing in the program calls it;
    - reading an example changes what the data set keeps of it, in place, again each time; `advice` where workers read,
      whose copies end with the epoch.

    `advice` if validation examples differ for another reason, or by what a hook of the module draws for them, if
    training examples are augmented when they are first read and kept like that, and if points are mirrored in place, of
    which one is always left of another in validation, or is told to be by what a mirror leaves as it is, or of which
    two are counterparts and a third one is always on the same side of the way between them, whichever way an object
    lies: a left ear becomes a right one. `skipped` where the data set is a stream, too large to copy, or can't be.

    Args:
        examples: Read of training and of validation.
        keep_examples: Whether an example is drawn.
        decode: Makes text of a list of token ids, such as the ``decode`` of a tokenizer.
        strict: Stop the run when something failed.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "Perhaps you forgot to flip your labels when you
        left-right flipped the image during data augmentation".

    Legitimate:
        - Classes, ages and other targets that a mirror does not change; targets that were changed with the image.
        - Sides that are exchanged as they are mirrored; points without an order, or without counterparts, as of a hand.
          Pairs whose order does not matter, as of the same and of different things.
        - Crops of what has one class, colours and noise; coordinates that all examples share; the image as its target.
        - Permutations, projections and masks that are the same for all examples, and drawn each time by a generator of
          their own; seeds made of the index.
        - Denoising and masked tokens in validation, whose inputs are random by design.
        - Another example as noise in the background, up to a share of 0.3, whose label is left out.

    Cost:
        24 examples each of training and validation are read, as many again where there is a ``collate_fn``, of training
        4 more, and 16 more each where it has a transform and where it gives seeds, and 150 of validation where images
        are mirrored and the target is a class or number that is not, or points that go with them. Where inputs change
        places, 96 of training and 150 of validation. Of images that the module may augment, 3 more steps on a copy, 6
        if it does; of validation three where hooks change a batch. At two steps, of those that mix at six, up to 256
        examples are compared.

    Pictures:
        - `draws`: A training example that is not the same each time, as it was read first and as it was least like
          that, each with its target: does it move with its image, and can you still tell what it is?

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
    explains: ClassVar = {
        "written_into": ("DataProfile/drifts",),
        "labels_not_mixed": ("ActivationMonitor/*", "PredictionDynamicsLogger/*", "Baselines/*"),
    }

    def __init__(
        self,
        *,
        examples: int = 4,
        keep_examples: bool = True,
        decode: Callable[..., Any] | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__(strict=strict)
        self.examples, self.keep_examples, self.decode = examples, keep_examples, decode

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew with each fit."""
        super().setup(trainer, pl_module, stage)
        self.needs = type(self).needs
        self._read, self._looks, self._validated = False, 0, True
        self._shares: list[mixing.Share] = []
        self._clean: Finding | None = None

    def before_training(self, run: Run) -> Iterator[Finding]:
        """Read, if validation has a loader by now or never will: after the sanity check."""
        self._validated = not (run.trainer.enable_validation and in_step.has_hooks(run))
        if run.val_loaders or not run.trainer.enable_validation:
            yield from self._judge(run)

    def validation(self, run: Run, step: Step) -> Iterator[Finding]:
        """Read once both loaders are known; see whether hooks augment what is validated."""
        if run.loaders and not self._read:
            yield from self._judge(run)
        if not (self._validated or run.trainer.sanity_checking):
            self._validated = True
            self.needs = Need(0) if self._looks == LOOKS else self.needs
            if outcome := in_step.in_validation(run, step.batch):
                self._clean = None
                yield self.found(outcome)
            yield from self._concluded()

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
            self._looks, self.needs = LOOKS, Need(0) if self._validated else Need.INPUTS
            yield from self._concluded()

    def _again(self, run: Run, step: Step) -> mixing.Share | None:
        """How a step mixes when it is run again, and what counts how much in its loss can be read from its graph."""
        with suppress(CannotRehearseError), rehearsal(run) as again:
            return mixing.share_of(again.step(step.batch, needs=self.needs))
        return None

    def end(self, run: Run) -> Iterator[Finding]:
        """There is no silence."""
        self._looks, self._validated = LOOKS, True
        yield from self._concluded() if self._read else self._judge(run)

    def _concluded(self) -> Iterator[Finding]:
        """Say that all is well, once examples were read and steps were looked at."""
        if self._read and self._looks == LOOKS and self._validated:
            self.done = True
            yield from [self._clean] if self._clean else []

    def _judge(self, run: Run) -> Iterator[Finding]:
        self._read = True
        yield from self._of_reading(run)
        yield from self._concluded()

    def _of_reading(self, run: Run) -> Iterator[Finding]:
        try:
            reading = Reading.of(run, self.examples)
        except CannotRereadError as error:
            self._clean = self.skipped(str(error))
            return
        found = [self.found(*one) for one in reading.outcomes(run)]
        if outcome := mixing.verdict(mixed_before.shares(run)):
            found.append(self.found(outcome))
        told = any(finding.code == "AugmentationCheck/labels_not_mixed" for finding in self.findings)
        if not found and not told:
            same = "are augmented" if reading.random else "come out the same each time"
            self._clean = self.passed(f"training examples {same}, and targets go with them", random=len(reading.random))
        yield from found
        if self.keep_examples and loggers.is_written(run.trainer):
            with isolated():
                picture = card(reading.chosen, reading.draws, self.decode)
            if picture is not None:
                self.draw(run, "draws", pixels(picture))
