"""Common mistakes: pretrained weights without the normalisation of their inputs."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from lightning_recipe.callback import Check
from lightning_recipe.callbacks import _normalization as scale
from lightning_recipe.callbacks import _normalization_verdict as verdict
from lightning_recipe.callbacks._alone import each_alone, has_no_statistics, of_alone
from lightning_recipe.callbacks._cast import lost_by_cast, shades_cut
from lightning_recipe.callbacks._channels import Channels
from lightning_recipe.callbacks._factor import of_factor, times, undone
from lightning_recipe.callbacks._places import of_one_id, of_places
from lightning_recipe.callbacks._pretrained_inputs import would_fit
from lightning_recipe.callbacks._standardised import of_features
from lightning_recipe.callbacks._wraps import wraps
from lightning_recipe.finding import Section, Status
from lightning_recipe.losses.by_hand import likely
from lightning_recipe.record.step import Need
from lightning_recipe.record.wrapped import Wrapping
from lightning_recipe.trial.entries import Entered, entered
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from lightning_recipe.finding import Finding
    from lightning_recipe.record.step import LossCall, Step
    from lightning_recipe.run import Run


STEPS = 200
"""Steps of training before which it is not said that predictions have not come near large targets."""


class NormalizationCheck(Check):
    """Judges what enters the first layers, after all that was done to the batch, against what they expect.

    A step is run once more on a copy, with the first training batch, and once with a validation batch. `warning` if:

    - images enter as raw bytes, or divided once too often, and the next layer is no norm;
    - a BatchNorm that was trained before gets another input: a variance `scale.VARIANCE` times that of its statistics;
      or as many times smaller, by images between 0 and 1, which are not normalised, or by what would be the same as
      then with a factor and an offset, as decibels and logarithms;
    - such images enter a trained network that is known to expect another mean: by what it says, as those of timm do;
      without BatchNorms also by its class in torchvision, or by the name that transformers loaded it by;
    - what enters has a standard deviation above 1,000, and the layer's weights are as they were drawn; `advice` above
      100 in most features, as of raw coordinates;
    - numbers between 0 and 1 become the ids of an embedding, so that nearly all are 0;
    - integers of 8 or 16 bits are added, subtracted or multiplied by the step, wrap around, and become floating-point
      numbers that meet weights, or a loss;
    - features of a table have standard deviations that differ by a factor of 100, the larger above 100;
    - training and validation are normalised differently: standard deviations that differ by a factor of 10, or of 2
      where the one has negative numbers and the other goes from 0 to 1, or to 255; or a feature is standardised in one
      of them, and in the other 10 times as wide, or twice as wide and far from 0;
    - images of validation have the first and the third channel in each other's place, as BGR and RGB; or a BatchNorm
      that was trained before gets what it knows once they are exchanged, and else doesn't;
    - each batch has mean 0 and standard deviation 1 by itself: single examples then depend on the others; so they do by
      BatchNorms without running statistics, which is `advice` unless the loss of validation doubles once each of its
      examples comes alone;
    - `advice` if all that enters, or one feature of a table, lies in a narrow band far from 0, as years do;
    - `advice` if images have two values, 0 and 1 by a mean that the few that are 1 do not come to;
    - all examples of a batch are the same, or all tokens have the same place when places are embedded; `advice` if all
      ids that are embedded are one and the same.

    Targets of a squared or absolute error, also by hand: `warning` if what the network puts out at first is 1,000 times
    as large as they vary, or they have a standard deviation above 100 and leave nothing to other losses of the sum, or
    predictions are still twice as far off at the end as their mean would be; `advice` if they only have this deviation.

    Args:
        strict: Stop the run when something failed.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "you initialized your weights from a pretrained
        checkpoint but didn't use the original mean". Y. LeCun et al., Efficient BackProp (1998): inputs of mean 0 and
        equal variance.

    Legitimate:
        - Networks that normalise by themselves, embeddings, counts whose logarithm is taken inside, one-hot and sparse
          features, examples that are each standardised by themselves.
        - Integers that wrap around to be ids, to be compared, or as a mark, such as 255 for what is to be ignored,
          and those that are put right again.
        - Augmentation in training only, also noise that is most of what enters. Images of another kind than those that
          the weights were trained on, dark ones.

    Cost:
        A copy of the module and one step on it, twice; a third time where training and validation differ, and two more
        at each validation that is looked at where they may by a factor, or where a BatchNorm has no running statistics.
        Up to the first BatchNorm, six more at most where a pretrained network gets inputs of another kind.
        At looks, 4,096 pixels of each image of three channels, until 256 were seen.

    Example:
        >>> import contextlib, io
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe.demo import DigitsNet, loaders
        >>> check = NormalizationCheck()
        >>> trainer = Trainer(callbacks=[check], barebones=True, max_steps=2)
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     trainer.fit(DigitsNet(), *loaders())
        >>> check.findings[0].status
        <Status.PASSED: 'passed'>

    """

    section = Section.MISTAKES
    sentence = 8
    why = "layers are initialised, or were trained, for inputs around 0 with a standard deviation of about 1"
    needs = Need.INPUTS | Need.LOSSES
    explains: ClassVar = {
        **dict.fromkeys(
            ("raw_bytes", "scaled_twice", "unlike_pretraining", "scales_differ", "unscaled", "integers_wrap"),
            (
                *("InitLossCheck/too_high", "OverfitOneBatch/*", "ActivationMonitor/*", "PredictionDynamicsLogger/*"),
                *("UpdateRatioMonitor/too_large", "InputIndependenceCheck/input_ignored", "Baselines/*"),
                "BatchMixingDetector/constant_output",
            ),
        ),
        "channel_order": ("Baselines/*",),
        "target_scale": (
            *("InitLossCheck/*", "OverfitOneBatch/*", "PredictionDynamicsLogger/*", "Baselines/*"),
            "ActivationMonitor/*",
        ),
        "all_alike": (
            *("OverfitOneBatch/*", "BatchMixingDetector/constant_output", "PredictionDynamicsLogger/*"),
            "InputIndependenceCheck/input_ignored",
        ),
    }

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew with each fit; the sanity check comes before training."""
        super().setup(trainer, pl_module, stage)
        self._train: dict[str, Tensor] | None = None  # what entered, by layer; the copy is not kept
        self._val: dict[str, Tensor] | None = None
        self._channels, self._compared, self._largest = Channels(), False, 0.0
        self._targets, self._left = scale.Targets(), list[float]()
        self._by_batch = False  # whether there are BatchNorms without running statistics, still to be judged
        self._factors = dict[str, float]()  # by layer, where validation may be larger or smaller by one

    def before_training(self, run: Run) -> Iterator[Finding]:
        """Look at what enters of the first batch, with the weights that training begins with."""
        if run.resumed:
            self.done = True
            yield self.skipped("the run goes on from a checkpoint: its statistics are those of its own inputs")
            return
        try:
            with Wrapping() as wrapping:
                train = self._entered(run, run.batch, "training_step")
        except CannotRehearseError as error:
            self.done = True
            yield self.skipped(str(error))
            return
        of_integers = (*of_places(train), *of_one_id(train), *lost_by_cast(train, run.batch), *wraps(wrapping))
        of_integers += tuple(shades_cut(train))
        places = [self.found(*pair) for pair in of_integers]
        yield from places
        if not train.entries:
            self.done = True
            yield from () if places else [self.skipped("no numbers enter a layer with parameters, only tokens")]
            return
        self._train = _values(train)
        self._by_batch = bool(run.val_loaders) and any(map(has_no_statistics, run.module.modules()))
        pairs = list(verdict.of_scale(train, run.batch)) or list(verdict.of_published(train, run.module))
        yield from [self.found(*pair) for pair in pairs]
        if not pairs:
            yield from self._of_pretrained(run, train)
        self._largest = max((float(values.abs().max()) for values in self._train.values()), default=0.0)
        yield from self._compare(run)

    def _of_pretrained(self, run: Run, train: Entered) -> Iterator[Finding]:
        with suppress(CannotRehearseError):
            if found := would_fit(run, train):
                yield self.found(found[1], found[0])

    def first_step(self, run: Run, step: Step) -> Iterator[Finding]:  # noqa: ARG002
        """Look at the targets beside what the network puts out."""
        calls = _calls(step)
        self._targets = scale.target_scale(calls)
        drowned = scale.drowned(calls, self._targets.where, step.loss)
        for outcome, where in verdict.of_targets(self._targets, drowned):
            yield self.found(outcome, where)

    def sampled_step(self, run: Run, step: Step) -> Iterator[Finding]:
        """Look at the channels of more images, until there are enough, and at what is left of large targets."""
        self._channels.look(step.inputs, training=True)
        yield from self._of_channels()
        far = self._targets.std > scale.LARGE
        if far:
            self._left = [*self._left[-1:], scale.target_scale(_calls(step)).left]
        if self._compared and not (self._channels.waits or far or self._factors or self._by_batch):
            self.done = True
            yield from self.end(run)

    def validation(self, run: Run, step: Step) -> Iterator[Finding]:
        """Look at what enters in validation, once, and at the order of channels."""
        self._channels.look(step.inputs, training=False)
        yield from self._of_channels()
        if self._val is None:
            try:
                self._val = _values(self._entered(run, step.batch, "validation_step"))
            except CannotRehearseError:
                self._val = {}
            yield from self._compare(run)
        elif run.step and not run.loader:
            for name, ratio in list(self._factors.items()):
                losses = undone(run, step.batch, name, ratio)
                if losses is not None and (outcome := of_factor(name, ratio, *losses)) is not None:
                    yield self.found(outcome, name)
                    del self._factors[name]
        if self._by_batch and run.step and not run.loader:
            alone = each_alone(run, step.batch)
            outcome = None if alone is None else of_alone(alone)
            if alone is not None and outcome is not None:
                yield self.found(outcome, ", ".join(alone.norms))
            self._by_batch = outcome is not None and outcome.status is Status.ADVICE

    def _of_channels(self) -> Iterator[Finding]:
        for name, outcome in self._channels.verdicts():
            yield self.found(outcome, name)

    def _compare(self, run: Run) -> Iterator[Finding]:
        """Compare training and validation once both are known."""
        if self._train is not None and self._val is not None:
            for name in [name for name in self._train if name in self._val]:
                both = self._train[name], self._val[name]
                outcomes = list(verdict.of_both(name, *both, whole=run.batches_per_epoch == 1))
                if not any(outcome.code == "validation_differs" for outcome in outcomes):
                    features = of_features(name, *both, run.module.get_submodule(name))
                    outcomes = outcomes if features is None else [features]
                ratio = 1.0 if outcomes else times(*both)
                if ratio != 1 and not self._is_noise(run, name, both[0]):
                    self._factors[name] = ratio
                if outcomes and not self._is_noise(run, name, both[0]):
                    yield from [self.found(outcome, name) for outcome in outcomes]
            self._train = self._val = None
            self._compared = True

    def _is_noise(self, run: Run, name: str, values: Tensor) -> bool:
        """Whether most of what enters in training is drawn by the step, as of what is to be freed of noise."""
        try:
            other = self._entered(run, run.batch, "training_step", seed=1)
        except CannotRehearseError:
            return False
        return any(entry.name == name and scale.is_drawn(values, entry.values) for entry in other.entries)

    def end(self, run: Run) -> Iterator[Finding]:
        """There is no silence; a run without validation has nothing to compare with."""
        if run.step >= STEPS and len(self._left) > 1 and min(self._left) > scale.LEFT:
            for outcome, where in verdict.of_targets(self._targets, left=min(self._left)):
                yield self.found(outcome, where)
        if not self.findings:
            yield self.passed("what enters has the scale that the first layers expect", largest=self._largest)
        self._train = self._val = None

    def _entered(self, run: Run, batch: Any, method: str, seed: int = 0) -> Entered:
        with rehearsal(run) as again:
            return entered(again, batch, method, seed)


def _calls(step: Step) -> list[LossCall]:
    by_hand = None if step.loss_calls else likely(step)
    return step.loss_calls if by_hand is None else [by_hand]


def _values(seen: Entered) -> dict[str, Tensor]:
    """What entered each layer, where there is anything to judge."""
    return {entry.name: entry.values for entry in seen.entries if scale.is_finite(entry.values)}
