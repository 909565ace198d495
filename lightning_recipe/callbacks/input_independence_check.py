"""Recipe, section 2: "train an input-independent baseline"; section 3: "complexify only one at a time"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from lightning_recipe.callback import Check
from lightning_recipe.callbacks import _inputs_verdict as verdict
from lightning_recipe.callbacks._collapsed import judge as on_made
from lightning_recipe.callbacks._collapsed import made_of
from lightning_recipe.callbacks._drawn import idle_draw
from lightning_recipe.callbacks._flattened import flattened
from lightning_recipe.callbacks._flattened import judge as on_flattened
from lightning_recipe.callbacks._giveaways import Giveaway, giveaways, told
from lightning_recipe.callbacks._in_vain import in_vain
from lightning_recipe.callbacks._interchanged import tried, worth
from lightning_recipe.callbacks._masks import inverted, takers
from lightning_recipe.callbacks._only_penalised import only_penalised
from lightning_recipe.callbacks._places_unread import unread
from lightning_recipe.callbacks._positions import idle as idle_positions
from lightning_recipe.callbacks._rarely_given import rarely_given
from lightning_recipe.callbacks._same_for_most import same_for_most
from lightning_recipe.callbacks._summed import summed
from lightning_recipe.callbacks._unused_code import code_of
from lightning_recipe.callbacks._zeros import fitted
from lightning_recipe.callbacks._zeros import judge as on_zeros
from lightning_recipe.figures.canvas import pixels
from lightning_recipe.figures.experiments import loss_curves
from lightning_recipe.finding import Outcome, Section, Status
from lightning_recipe.record.step import Need
from lightning_recipe.show import loggers
from lightning_recipe.trial.entries import entered
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import LightningModule, Trainer

    from lightning_recipe.callbacks._collapsed import Made
    from lightning_recipe.callbacks._interchanged import Trial
    from lightning_recipe.callbacks._summed import Summed
    from lightning_recipe.callbacks._unused_code import Code
    from lightning_recipe.finding import Finding
    from lightning_recipe.record.followed import Constant
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run
    from lightning_recipe.trial.rehearsal import Rehearsal


LOOKS = 2
"""Validations at which the step is tried."""
EARLY = 0.5
"""Share of the run before which a network may not see its input yet, as a codebook that gives all the same code."""
YOUNG = 50
"""Steps in which it is not told, either, that what is made of the input is the same: weights were drawn small."""


class InputIndependenceCheck(Check):
    """Judges whether the network makes use of what it sees, and tells how much each input is worth.

    At two validations, or the one that there is, the step is run again on a copy in eval mode, in the same random
    streams: on the batch, and on batches in which one input, or all of them, are those of other examples. Inputs are
    the entries of the batch that enter a module; the others are targets, and stay.

    - `failed` if nothing that enters has an effect at two looks, neither on the loss, which answers to the target,
      nor, where the input is the target, on anything that a module puts out. Where the first layers learn from it, or
      other weights would see it, only in the second half of the run.
    - `failed` if a mask of padding, as nn.MultiheadAttention and the models of transformers take it, keeps places that
      all hold the same value, and leaves out those that don't.
    - `warning` if the input is the target, too, and what is made of it is the same for all examples at two looks, the
      latest in the second half of the run: only what enters the network is interchanged then.
    - `warning` if positions are embedded, of places or by mistake of examples, or one of them for all places, or turn
      vectors by angles, as by mistake of their heads, and the order of the places makes no difference.
    - `warning` if layers compute with all places of a sequence, and the later half or more of them has no effect, as
      where the first output of a recurrent network is taken for the last; `advice` if it is the earlier half.
    - `warning` if at least half of the examples, and not all, get the same output to the last bit, as where the last
      place of padded sequences is picked, which is padding for all but the longest.
    - `warning` for one input of several without effect at two looks, the latest in the second half of the run, if it
      enters layers of its own that are to learn and can't, for they get no gradient; `advice` in other cases.
    - `warning` for an entry of which the step makes something that is the same for all examples, as by
      `//` in place of `/`, before any layer sees it, in batches of training and of validation, the latest in the second
      half of the run.
    - `advice` if the code of a variational autoencoder may be that of another example, as where its decoder sees what
      it is to say up to its own place, in the second half of the run.
    - `advice` if what is made of the input depends on random numbers far more than on the input, at both looks.
    - `advice` for what the step draws and the network is given, such as the time of a diffusion, likewise.
    - `advice` for an input that the step keeps in a quarter of the examples at most, and replaces by one and the same
      value in all others, as where a condition is left out, and the branches of ``torch.where`` are exchanged.
    - `advice` for a head that only a penalty sees, as the mean of a code that is not added, while another head that is
      given the same is used.
    - `advice` for a column of a table that orders the examples exactly as their target does, or whose ids tell its
      class, and leave a tenth of what one class for all gets wrong; or for a few related columns whose weighted sum the
      target is: they give it away.

    The evidence is by how much the loss rises when an input is interchanged between examples, and when it is zero; this
    judges nothing, since zeros may be like no input there is.

    With `fit_steps` the recipe's own form, too: two copies are fitted to the first batch, one of them with zeros in
    place of what enters, `warning` if it gets as far.

    Args:
        fit_steps: Steps of these two fits; 0 for none. 100 tell most networks.
        strict: Stop the run when something failed.

    Raises:
        ValueError: If `fit_steps` is negative.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "the easiest is to just set all your inputs to zero.
        This should perform worse than when you actually plug in your data". L. Breiman, Random Forests (2001):
        importance by permutation.

    Legitimate:
        - Unconditional models, contrastive pairs, autoencoders, language models.
        - Outputs that begin at zero, inputs that are the same in all examples.
        - Lengths and ids that only select, sort or mask; what is the same within a batch and not in others.
        - Places that are cut off, masked, or padding; inputs of which a step takes one or the other by chance, and such
          as come into play later.

    Cost:
        A copy of the module and at most 30 steps on it, without backward, at two validations, and one before training.

    Pictures:
        - `zeros`: The loss of both fits, with `fit_steps`.

    Example:
        >>> import contextlib, io
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe.demo import DigitsNet, loaders
        >>> check = InputIndependenceCheck()
        >>> trainer = Trainer(callbacks=[check], barebones=True, max_epochs=2, limit_train_batches=2)
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     trainer.fit(DigitsNet(), *loaders())
        >>> check.findings[0].status
        <Status.PASSED: 'passed'>

    """

    section = Section.SKELETON
    sentence = 7
    why = "a network that sees its input does better than one that does not: anything else is not wired up"
    needs = Need.INPUTS
    explains: ClassVar = {
        "one_input_ignored": (
            *("OverfitOneBatch/stuck", "OverfitOneBatch/too_slow", "OverfitOneBatch/cannot_tell_examples_apart"),
            *("ActivationMonitor/vanishing", "ActivationMonitor/cut", "PredictionDynamicsLogger/*", "Baselines/*"),
            *("UpdateRatioMonitor/too_small", "GradientFlowCheck/no_gradient"),
        ),
        "same_for_all": ("OverfitOneBatch/*", "PredictionDynamicsLogger/*", "Baselines/*"),
        "positions_without_effect": ("OverfitOneBatch/too_slow", "OverfitOneBatch/stuck", "Baselines/*"),
        "places_unread": ("OverfitOneBatch/*", "Baselines/*", "PredictionDynamicsLogger/*"),
        "same_for_most": ("OverfitOneBatch/*", "Baselines/*", "PredictionDynamicsLogger/*"),
        "mask_inverted": (
            *("OverfitOneBatch/*", "PredictionDynamicsLogger/*", "Baselines/*", "InputIndependenceCheck/*"),
            "ActivationMonitor/attention_on_padding",
        ),
        "input_ignored": (
            "OverfitOneBatch/*",
            "BatchMixingDetector/constant_output",
            "PredictionDynamicsLogger/*",
            "ActivationMonitor/cut",
            "ActivationMonitor/attention_on_padding",
            "Baselines/*",
        ),
    }

    def __init__(self, *, fit_steps: int = 0, strict: bool = False) -> None:
        super().__init__(strict=strict)
        if fit_steps < 0:
            msg = f"fit_steps must be 0 or more, got {fit_steps}"
            raise ValueError(msg)
        self.fit_steps = fit_steps

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew with each fit."""
        super().setup(trainer, pl_module, stage)
        self._trials: list[Trial] = []
        self._given_away: list[set[Giveaway | Summed]] = []
        self._idle: list[tuple[Outcome, str] | None] = []
        self._made: list[Made | None] = []
        self._in_vain: list[dict[str, list[str]]] = []
        self._flat: list[dict[str, Constant]] = []
        self._flat_at_first: dict[str, Constant] = {}
        self._is_early = True
        self._code: Code | None = None  # of the latest look, if that was late
        self._reason = "there was no validation after training began"

    def before_training(self, run: Run) -> Iterator[Finding]:
        """Look at masks of padding, where a module takes one, and at what enters; fit on zeros, if asked to."""
        if self.fit_steps and not run.resumed:
            yield from self._fit_on_zeros(run)
        found = None
        try:
            with rehearsal(run) as again:
                if takers(run.module):
                    found = inverted(again, run.batch)
                again.module.eval()
                self._flat_at_first = flattened(again, run.batch)
        except CannotRehearseError:
            return
        if found is not None:
            self.done = True
            yield self.found(found[1], found[0])

    def _fit_on_zeros(self, run: Run) -> Iterator[Finding]:
        try:
            pair = fitted(run, self.fit_steps)
        except CannotRehearseError as error:
            yield self.skipped(f"no fit on zeros: {error}", subject="zeros")
            return
        if pair is None:
            yield self.skipped(
                "no fit on zeros: nothing is seen to enter the network, or it takes minutes", subject="zeros"
            )
            return
        yield self.found(on_zeros(pair), "zeros")
        if loggers.is_written(run.trainer):
            curves = {"your inputs": pair.inputs, "zeros": pair.zeros}
            self.draw(run, "zeros", pixels(loss_curves(curves)))

    def validation(self, run: Run, step: Step) -> Iterator[Finding]:
        """Try the batch; the second time, judge."""
        if run.trainer.sanity_checking or run.loader:
            return
        try:
            with rehearsal(run) as again:
                trial = tried(again, step.batch)
                positions = (
                    idle_positions(again, step.batch)
                    or same_for_most(again, step.batch, trial.inputs)
                    or unread(again, step.batch)
                    or idle_draw(again, step.batch)
                    or only_penalised(again, step.batch)
                    or rarely_given(again, step.batch)
                )
                code = None if positions else code_of(again, step.batch)
                early = verdict.of_all(trial) is not None and run.step < EARLY * run.horizon
                if early and _may_come_to_see(again, step.batch):
                    self._reason = f"at step {run.step} nothing that enters had an effect, which is early"
                    return
                made = made_of(again, step.batch, trial)
                idle = verdict.of_each(trial, by_hand=not run.module.automatic_optimization)
                trained = {name for name, p in run.module.named_parameters() if p.requires_grad}
                flat = flattened(again, step.batch) if self._flat_at_first else {}
                vain = {path: layers for path, _ in idle if (layers := in_vain(again, step.batch, path, trained))}
        except CannotRehearseError as error:
            self._reason = str(error)
            return
        if not trial.inputs:
            self._reason = "nothing of the batch that differs between examples is seen to enter the network"
            if not flat:
                return
        if not trial.whole and verdict.of_all(trial._replace(whole=True)):
            self._reason = "not all that may enter the network has a row for each example, to be interchanged"
            return
        self._trials.append(trial)
        self._idle.append(positions)
        self._code = None if early or run.step < YOUNG else code
        self._given_away.append({*giveaways(step.batch, trial), *summed(step.batch, trial)})
        self._made.append(made)
        early = run.step < EARLY * run.horizon
        self._in_vain.append({} if early else vain)
        self._flat.append(flat)
        self._is_early = early
        unsure = made is not None and (early or run.step < YOUNG)  # it may yet come to tell them apart, or no longer do
        if unsure or (early and (vain or flat or code)):  # nor is a code of use from the beginning
            for kept in (self._trials, self._idle, self._given_away, self._made, self._in_vain, self._flat):
                del kept[:-1]
            return
        if len(self._trials) == LOOKS:
            self.done = True
            yield from self._judged(*self._trials, by_hand=not run.module.automatic_optimization)

    def _judged(self, before: Trial, now: Trial, *, by_hand: bool) -> Iterator[Finding]:
        ignored = verdict.of_all(now)
        if ignored is not None and verdict.of_all(before) is not None:
            yield self.found(ignored)
            return
        if len(self._made) > 1 and (same := on_made(*self._made)) is not None:
            yield self.found(same)
            return
        if len(self._trials) > 1 and (lost := verdict.drowned(before, now)) is not None:
            yield self.found(lost)
            return
        earlier = dict(verdict.of_each(before, by_hand=by_hand))
        vain = self._in_vain[-1]
        idle = [(p, outcome) for p, outcome in verdict.of_each(now, by_hand=by_hand, in_vain=vain) if p in earlier]
        if len({told[1] if told is not None else None for told in self._idle}) == 1 and self._idle[-1] is not None:
            idle.append((self._idle[-1][1], self._idle[-1][0]))
        if self._code is not None and self._code.unused is not None:
            idle.append(self._code.unused[::-1])
        if not self._is_early and self._flat:
            flat = on_flattened([self._flat_at_first, *self._flat], [before, now])
            idle = [*flat, *((path, outcome) for path, outcome in idle if path not in dict(flat))]
        at_each = set.intersection(*({one.key for one in found} for found in self._given_away))
        given_away = {one for one in self._given_away[-1] if one.key in at_each}
        yield from (self.found(outcome, path) for path, outcome in idle)
        columns = told(one for one in given_away if isinstance(one, Giveaway))
        sums = [(one.outcome, one.subject) for one in sorted(given_away, key=str) if not isinstance(one, Giveaway)]
        yield from (self.found(*one) for one in (*columns, *sums))
        if not idle and not given_away and not now.inputs:
            yield self.skipped(self._reason)
        elif not idle and not given_away:
            yield self.found(Outcome(Status.PASSED, "", "what enters has an effect on the loss", evidence=worth(now)))

    def end(self, run: Run) -> Iterator[Finding]:
        """Where there was a single validation, judge by it; there is no silence."""
        if any(finding.subject != "zeros" for finding in self.findings):
            return
        if self._trials and not run.interrupted:
            yield from self._judged(*self._trials * 2, by_hand=not run.module.automatic_optimization)
        else:
            yield self.skipped(self._reason)


def _may_come_to_see(again: Rehearsal, batch: Any) -> bool:
    """Whether the layers that inputs enter learn from them, as past a codebook, or other weights would see them."""
    layers = [again.module.get_submodule(entry.name) for entry in entered(again, batch).entries]
    weights = [p for layer in layers for p in layer.parameters() if p.ndim > 1 and p.is_floating_point()]
    with torch.inference_mode(mode=False), torch.enable_grad():  # in validation both are otherwise
        loss = again.step(batch).loss
        if weights and loss is not None and loss.requires_grad:
            gradients = torch.autograd.grad(loss.sum(), weights, allow_unused=True)
            if any(gradient is not None and bool(gradient.any()) for gradient in gradients):
                return True
    again.move_weights()
    return verdict.of_all(tried(again, batch)) is None
