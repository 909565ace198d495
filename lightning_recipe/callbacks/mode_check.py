"""Common mistakes: "you forgot to toggle train/eval mode for the net"."""

from __future__ import annotations

import functools
import math
from collections import Counter
from typing import TYPE_CHECKING, ClassVar

from lightning_recipe.callback import Check
from lightning_recipe.callbacks import _gap as gaps
from lightning_recipe.callbacks import _modes as modes
from lightning_recipe.callbacks._between_epochs import BetweenEpochs
from lightning_recipe.callbacks._noise import noise
from lightning_recipe.callbacks._statistics import Statistics, is_untouched, of_last_batch
from lightning_recipe.callbacks._unscaled import unscaled
from lightning_recipe.finding import Section, listed
from lightning_recipe.record.step import Need

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import LightningModule, Trainer

    from lightning_recipe.finding import Finding
    from lightning_recipe.record.events import Event
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

IN_A_ROW = 2
"""Looks at which a network has to be in eval mode before anybody is told."""
SETTLED = 8
"""Steps before the statistics of BatchNorms are judged in training."""


class ModeCheck(Check):
    """Judges in which mode modules are when they are called, where it makes a difference: dropout and BatchNorm.

    - A network learns in eval mode: `warning` if the whole LightningModule is in eval mode, or if one of its networks
      is that was in training mode when the fit was set up. All of it has to be, at all of its calls, at two looks in a
      row; of BatchNorms only those count that had no statistics when training began.
    - Validation in training mode: `warning`, if dropout is active or BatchNorm learns from the validation data.
    - Between epochs, three or more batches go through BatchNorms in training mode, the same number twice in a run with
      one optimiser: `warning`. It is an evaluation by hand that forgot eval().
    - Dropout as a function that is told nothing of the mode, and so drops in validation, too: `warning`.
    - Dropout by hand that does not divide by the share that is kept: `warning`, tried on a copy.
    - Validation that draws other random numbers, without dropout, moves what it logs by more than 1 %: `advice`, since
      a VAE or a diffusion model may do so on purpose. Tried on a copy.
    - A BatchNorm is used in eval mode that never was given statistics, while its weights change: `failed`; `warning`,
      if they are older ones and the weights are an average. Seen in copies that the LightningModule doesn't list, too.
    - BatchNorms take statistics with a momentum of 0.9 or more, which leaves those of the last batch: `warning`.
    - With dropout of more than 0.75 a network loses 15 % of what it has learnt, or by running statistics 50 %, at two
      late looks, on the same batch: `warning`. Tried on a copy. So is a network with such dropout that has learnt
      nothing: `warning`, if it can be fitted to one batch without dropout, and not with it.
    - Running means move by 0.1 standard deviations in a frozen network that had statistics: `advice`.

    Args:
        strict: Stop the run when something failed.

    Source:
        A. Karpathy, most common neural net mistakes (2018): "you forgot to toggle train/eval mode for the net".

    Legitimate:
        - BatchNorms in eval mode in a network that is in training mode, networks without gradients such as teachers,
          pretrained ones that were in eval mode from the beginning, a mode that is switched for a call and back.
        - Dropouts alone in training mode in validation, or many calls, as for Monte Carlo dropout; BatchNorms alone,
          to adapt them; a generator in training mode beside a discriminator in eval mode.

    Cost:
        The order of calls at each look, less than a second step takes; two steps on a copy after the first one, and
        twice in a run five, where there is BatchNorm or strong dropout.

    Example:
        >>> import contextlib, io
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe.demo import DigitsNet, loaders
        >>> check = ModeCheck()
        >>> trainer = Trainer(callbacks=[check], barebones=True, max_steps=2)
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     trainer.fit(DigitsNet(), *loaders())
        >>> check.findings[0].message
        'no module was called in a wrong mode'

    """

    section = Section.MISTAKES
    sentence = 1
    why = "dropout and BatchNorm do something else in training than in use, and each needs its mode"
    needs = Need.WIRING | Need.GRADIENTS
    explains: ClassVar = dict.fromkeys(
        ("dropout_too_strong", "dropout_not_scaled"), ("Baselines/*", "PredictionDynamicsLogger/*")
    )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See which modules are in training mode before any hook of a user's could have changed it."""
        super().setup(trainer, pl_module, stage)
        self._at_start = {name for name, module in pl_module.named_modules() if module.training}
        self._fresh: set[str] = set()
        self._in_eval: Counter[str] = Counter()
        self._statistics, self._between = Statistics(), BetweenEpochs()
        self._first_loss = math.nan
        self._lost: list[tuple[float, float]] = []
        self._idle = 0  # times that nothing had been learnt
        self._seen = self._drawn = False

    def before_training(self, run: Run) -> Iterator[Finding]:
        """See which BatchNorms have no statistics yet, and what is optimised."""
        self._fresh = {name for name, module in run.module.named_modules() if is_untouched(module)}
        self._statistics.begin(run.module, run.trainer.optimizers)
        yield from ()

    def sampled_step(self, run: Run, step: Step) -> Iterator[Finding]:
        """Judge the modes of networks that learn."""
        self._seen = self._seen or any(modes.matters(event.module) for event in step.events)
        found = modes.eval_in_training(step, run.module, self._fresh, self._at_start)
        self._in_eval = Counter({name: self._in_eval[name] + 1 for name in found})
        for name, felt in found.items():
            if self._in_eval[name] >= IN_A_ROW:
                yield self.warning(
                    f"{name or 'the LightningModule'} is in eval mode in training: {listed(felt)} "
                    f"{'do' if len(felt) > 1 else 'does'} not what training needs",
                    code="eval_in_training",
                    subject=name,
                    fix=f"call {'self.' + name if name else 'self'}.train() after what calls eval(), for a preview or "
                    "when a model is loaded; Lightning doesn't when a fit begins",
                    modules=len(felt),
                )
        yield from self._evaluated(run, step)
        self._statistics.note(step)
        if run.step >= SETTLED:
            yield from self._left_behind(run, step)
            yield from self._taken_in_training(run, step)
        if run.step == 1 and step.loss is not None:
            calm = gaps.gap(run, step.batch) if gaps.strong_dropouts(step) else None  # which makes the loss larger
            self._first_loss = min(float(step.loss.mean()), math.inf if calm is None else calm.calm)
        if run.step == 1 and run.module.training:
            yield from self._by_hand(run, step)
        elif gaps.due(run, len(self._lost)) and run.module.training:
            yield from self._compare(run, step)

    def _evaluated(self, run: Run, step: Step) -> Iterator[Finding]:
        """Judge what is called between epochs, which is not watched, by what BatchNorms count."""
        if len(run.trainer.optimizers) == 1 and (batches := self._between.note(run, step)):
            yield self.warning(
                f"between epochs {batches:.0f} batches go through {self._between.name or 'a BatchNorm'} in training "
                "mode: it takes their statistics, too, and any dropout is active",
                code="train_between_epochs",
                subject=self._between.name,
                fix="self.eval() before an evaluation in on_train_epoch_end or another hook, and self.train() after "
                "it; or evaluate in validation_step, for which Lightning sets the mode",
                batches=batches,
            )

    def _by_hand(self, run: Run, step: Step) -> Iterator[Finding]:
        if (found := unscaled(run, step.batch)) is not None:
            name, kept = found
            yield self.warning(
                f"what enters {name} is multiplied by a mask that keeps {kept:.0%} in training, and by nothing in "
                f"evaluation, where it is {1 / kept:.2g}x as large on average",
                code="dropout_not_scaled",
                subject=name,
                fix="divide by the share that is kept, as nn.Dropout does, in training",
                kept=kept,
            )

    def _compare(self, run: Run, step: Step) -> Iterator[Finding]:
        """Try what dropout and running statistics do to the loss of a batch, twice in a run."""
        dropouts, norms = gaps.strong_dropouts(step), gaps.norms_called_once(step)
        gap = gaps.gap(run, step.batch) if (dropouts or norms) and not self._in_eval else None
        self._lost.append((0.0, 0.0) if gap is None else gap.lost(self._first_loss))
        self._idle += gap is not None and not gap.learnt(self._first_loss)
        by_dropout, by_statistics = map(min, zip(*self._lost, strict=True))
        if gap is None or len(self._lost) < len(gaps.LATE):
            return
        too_strong = functools.partial(
            self.warning,
            code="dropout_too_strong",
            subject=", ".join(dropouts),
            fix="a smaller p: it is the share that is dropped, not the one that is kept",
        )
        if dropouts and by_dropout > gaps.DROPPED:
            yield too_strong(
                f"dropout takes away {by_dropout:.0%} of what was learnt: the loss is {gap.dropping:.4g} with it, and "
                f"{gap.calm:.4g} without, on the same batch",
                lost=by_dropout,
            )
        elif dropouts and self._idle == len(gaps.LATE) and (fits := gaps.prevented(run, step.batch)) is not None:
            before, dropping, calm = fits
            yield too_strong(
                f"nothing was learnt in {run.step} steps, and dropout prevents it: in {gaps.STEPS} steps on one batch "
                f"the loss goes {before:.4g} -> {dropping:.4g} with it, and -> {calm:.4g} without",
                dropping=dropping,
                calm=calm,
            )
        if norms and by_statistics > gaps.MISTAKEN:
            yield self.warning(
                f"running statistics take away {by_statistics:.0%} of what was learnt: in eval mode the loss is "
                f"{gap.running:.4g}, by the statistics of the batch {gap.calm:.4g}, on the same batch",
                code="statistics_do_not_fit",
                fix="shuffle, so that batches are alike; larger batches, or momentum=0.1; or GroupNorm",
                lost=by_statistics,
            )

    def _taken_in_training(self, run: Run, step: Step) -> Iterator[Finding]:
        for name, (drift, noisy) in self._statistics.adrift(step, run.module, self._fresh).items():
            yield self.advice(
                f"the running statistics of {name} have moved by {drift:.2g} standard deviations, while the network "
                f"around it is frozen{', and dropout is active in it' if noisy else ''}",
                code="frozen_drifts",
                subject=name,
                fix="put a frozen network into eval mode, in on_train_epoch_start: weights that stay do not stop it",
                drift=drift,
            )
        if run.batches_per_epoch > 1 and (hasty := of_last_batch(step)):
            momentum = max(hasty.values())
            yield self.warning(
                f"the running statistics of {listed(hasty)} are those of the last batch: momentum {momentum:.3g}",
                code="momentum_too_high",
                fix=f"momentum={1 - momentum:.2g}: torch's is the share of the new batch, not of what is kept"
                if momentum < 1
                else "momentum=0.1, the default",
                momentum=momentum,
            )

    def validation(self, run: Run, step: Step) -> Iterator[Finding]:
        """Judge the modes in validation, and the statistics of BatchNorms."""
        self._seen = self._seen or any(modes.matters(event.module) for event in step.events)
        if active := modes.train_in_validation(step, run.module):
            yield self.warning(
                f"validation runs in training mode: {listed(active)} called in it",
                code="train_in_validation",
                fix="let Lightning set the mode: no train() in validation hooks or steps, or eval() after it",
                modules=len(active),
            )
        dropping = modes.dropping_functions(step, run.module)
        for where in dropping:
            yield self.warning(
                f"dropout is active in validation: the function called in {where} is not told of the mode",
                code="dropout_in_validation",
                subject=where,
                fix="dropout(..., training=self.training), or nn.Dropout as a module",
            )
        self._statistics.note(step)
        self._between.leave(step)
        yield from self._left_behind(run, step)
        if not (self._drawn or dropping or run.trainer.sanity_checking or modes.drops(step)):
            self._drawn = True
            yield from self._draws(run, step)

    def _draws(self, run: Run, step: Step) -> Iterator[Finding]:
        if (found := noise(run, step.batch)) is not None:
            yield self.advice(
                f"validation draws random numbers: {found.name} of one batch is {found.one:.4g}, and {found.other:.4g} "
                "by other draws",
                code="noise_in_validation",
                fix="if the noise is for training only, add it only if self.training; if it is meant, draw the same "
                "in each validation, so that epochs can be compared",
                share=found.share,
            )

    def _left_behind(self, run: Run, step: Step) -> Iterator[Finding]:
        if self._in_eval:
            return
        fix = "copy the buffers to an averaged model, too, not only its parameters; or train in training mode"
        never, old = self._statistics.left_behind(step)
        if never and all(getattr(event.module, "momentum", None) == 0 for event in never):
            fix = "momentum=0.1, the default: torch's is the share of the new batch, and 0 keeps them as they are"
        if never:
            yield self.failed(
                f"the statistics of {len(never)} BatchNorms are still the initial ones after {run.step} steps, while "
                f"their weights change: {_named(never)}; they are used in eval mode",
                code="statistics_never_updated",
                fix=fix,
                modules=len(never),
            )
        elif old:
            yield self.warning(
                f"the statistics of {len(old)} BatchNorms in eval mode stay as they were, while their weights follow "
                f"others: {_named(old)}",
                code="statistics_never_updated",
                fix=fix,
                modules=len(old),
            )

    def end(self, run: Run) -> Iterator[Finding]:
        """There is no silence."""
        self._statistics = Statistics()
        if not self.findings:
            if not self._seen and any(modes.matters(module) for module in run.module.modules()):
                yield self.skipped("no call of a dropout or a BatchNorm was seen")
            else:
                yield self.passed("no module was called in a wrong mode")


def _named(events: list[Event]) -> str:
    return listed(dict.fromkeys(event.name or f"one called in {event.where}" for event in events))
