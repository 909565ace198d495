"""Common mistakes: "you passed softmaxed outputs to a loss that expects raw logits"."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from lightning_recipe.callback import Check
from lightning_recipe.callbacks import (
    _counted,
    _logit_range,
    _loss_by_hand,
    _loss_pairs,
    _loss_range,
    _loss_scale,
    _loss_shape,
    _loss_targets,
    _loss_terms,
    _loss_trials,
    _masked_targets,
)
from lightning_recipe.callbacks._generated import beyond_what_is_made
from lightning_recipe.callbacks._loss_of_itself import of_itself
from lightning_recipe.callbacks._missing_counted import missing_counted
from lightning_recipe.finding import Outcome, Section, Status
from lightning_recipe.record.loss_graph import nodes, weights
from lightning_recipe.record.step import Need
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.finding import Finding
    from lightning_recipe.record.loss_graph import Node
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run
    from lightning_recipe.trial.rehearsal import Rehearsal

LOOKS = 4
"""Looks at targets before anybody is told what they have in common, unless the run is over earlier."""
_KIND = (
    *(f"OverfitOneBatch/{code}" for code in ("cannot_tell_examples_apart", "stuck", "too_slow")),
    *("InitLossCheck/too_high", "InitLossCheck/output_bias", "PredictionDynamicsLogger/*", "Baselines/*"),
)
"""What others see of predictions of the wrong kind."""


class LossInputCheck(Check):
    """Judges what entered the loss: of the network, and of the batch.

    The first step is run again on a copy, and the graph of its loss is read from the end up to the last layers, so that
    it makes no difference whether a function of torch or a line of the module's own computes the loss. `failed`:

    - probabilities, or their mean or maximum, enter a loss that applies a softmax or a sigmoid itself, or wants their
      logarithms; a softmax or sigmoid is applied to them once more before they are compared; what a layer puts out
      enters a loss that wants log-probabilities, or is clamped to be taken for probabilities; the arguments of
      ``kl_div`` stand in each other's place;
    - predictions of shape (N, 1) are compared with targets of shape (N,), or the other way round, so that each of them
      meets all targets; two terms of a prediction are broadcast like that, and then compared with the targets;
    - the loss is the same whatever the network puts out: a softmax over one output, labels of 0 where signs are wanted,
      or no gradient at the last layers, and the same value with other weights;
    - a softmax is taken over another dimension than that of the classes, or ``view`` stands for ``permute`` before it
      or after;
    - the last operation (sigmoid, tanh, ReLU, a clamp), also times a constant and with one added, can't give more than
      a tenth of the targets, and what it can give leaves more than a tenth of the loss that a constant would have;
    - logits are bounded, as cosines that were multiplied with a temperature in place of divided by it: even as far
      apart as can be, they leave the loss within a tenth of that of a uniform guess. `warning` from a tenth of this way
      on that is out of reach, as for tanh, or cosines with the weights of classes;
    - no gradient gets past a mask to any of the logits that are to be largest: `warning` where that shows by their
      values only, or by pairs of two views of which the true ones have no gradient.

    `warning`: errors of shape (N,) are divided by or weighted with outputs of shape (N, 1); more than a quarter of the
    targets that count are one value at the ends of rows; a class is left out by ``ignore_index``, also of words amid
    others; class weights grow with their frequency; the weight of each target is 0 wherever it is; all targets are the
    same; the number of a class is compared with several outputs; a term of the loss has no gradient, although it is
    computed from what the network puts out, or compares the batch or a frozen network with itself, or the network, both
    views being the same; the loss is the same whatever an entry of the batch holds that is 0 where targets are filled
    in, or tells whether something has happened by a time; a network judges what another one makes, which ends in a tanh
    or sigmoid, beside data of which a twentieth lie outside of its range; targets that are NaN count as 0. `advice`:
    integers that may be names of classes are taken for numbers; none of many pixels has a class that the network can
    say.

    Args:
        strict: Stop the run when something failed.

    Source:
        A. Karpathy, most common neural net mistakes (2018): "you passed softmaxed outputs to a loss that expects raw
        logits".

    Legitimate:
        - Whatever stands between the two: a temperature, a cap, a logarithm, an epsilon. log_softmax into cross entropy
          changes nothing.
        - Soft targets, and targets that the network computes. Losses that compare all with all on purpose: somebody
          makes ready for it, with ``unsqueeze`` or ``None``.
        - Targets that a mask or a weight leaves out.
        - Cosines divided by a temperature, also by a large one, or times a scale that is learnt. True pairs that only
          the denominator leaves out.

    Cost:
        The first step once more, and two or three times more where an entry may be a mask. Then the targets of four
        looks are counted.

    Example:
        >>> import contextlib, io
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe.demo import DigitsNet, loaders
        >>> check = LossInputCheck()
        >>> trainer = Trainer(callbacks=[check], barebones=True, max_steps=1)
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     trainer.fit(DigitsNet(), *loaders())
        >>> check.findings[0].status
        <Status.PASSED: 'passed'>

    """

    section = Section.MISTAKES
    sentence = 3
    why = "a loss computes something whatever it is given: nothing raises when it is not what it was made for"
    needs = Need.LOSSES
    explains: ClassVar = (
        dict.fromkeys(("probabilities", "broadcast", "out_of_range", "logits_too_close"), _KIND)
        | {"target_masked": ("FirstNonFinite/*", "InitLossCheck/not_finite", "OverfitOneBatch/*", *_KIND)}
        | {"logits_as_probabilities": ("FirstNonFinite/*", *_KIND)}
        | dict.fromkeys(("classes_in_wrong_dimension", "labels_as_numbers"), _KIND)
        | {"compared_with_itself": ("LossInputCheck/constant_loss", "OverfitOneBatch/*", *_KIND)}
        | {"constant_loss": ("OverfitOneBatch/*", "InputIndependenceCheck/*", "LossInputCheck/target_constant", *_KIND)}
        | dict.fromkeys(
            ("logarithms_as_target", "kl_arguments_interchanged"),
            ("InitLossCheck/not_finite", "FirstNonFinite/*", "OverfitOneBatch/*", "PredictionDynamicsLogger/*"),
        )
        | dict.fromkeys(
            ("weights_grow_with_frequency", "entry_never_read", "padding_scored", "negatives_left_out"),
            ("PredictionDynamicsLogger/collapsed", "InputIndependenceCheck/*"),
        )
        | {"target_constant": ("OverfitOneBatch/*", "InputIndependenceCheck/*", "DataProfile/*", *_KIND)}
    )

    def before_training(self, run: Run) -> Iterator[Finding]:
        """Run the first step on a copy, before it changes its batch, and read what its loss is made of."""
        self._targets = _counted.Targets()
        self._written: list[_loss_by_hand.Written] = []
        self._looks, self._judged = 0, False
        self._why_not = "no loss was seen that the network has a part in"
        try:
            with torch.enable_grad(), rehearsal(run) as again:  # a generator of batches may have left it off
                found = self._tried(again, run.batch)
            yield from self._told(found)
        except CannotRehearseError as reason:
            self._why_not = str(reason)

    def _tried(self, again: Rehearsal, batch: Any) -> list[tuple[str, Outcome]]:
        graph, step = _rehearsed(again, batch)
        self._judged = bool(graph)
        held = {id(p) for o in again.optimizers for group in o.param_groups for p in group["params"]}
        left = {id(p) for p in again.module.parameters()} - held if held else set()
        read = functools.partial(_of_graph, left=left, alone=len(again.optimizers) == 1)
        found, self._written = read(graph, step)
        if found or self._written:
            found, self._written = read(*_rehearsed(again, batch, lines=True))
        found += [*_of_calls(step), *_loss_trials.never_read(again, batch)]
        terms = (*_loss_terms.of_frozen(step), *_loss_terms.of_batch(again, batch, step))
        found += [_placed(*verdict) for verdict in terms]
        found += beyond_what_is_made(step)
        found += [told] if (told := missing_counted(again, batch)) is not None else []
        if not found and (outcome := _loss_trials.constant(again, step, graph)) is not None:
            found.append(("", outcome))
        found += [_placed(*verdict) for verdict in of_itself(again, batch, step)]  # the last: weights are moved
        return found

    def first_step(self, run: Run, step: Step) -> Iterator[Finding]:  # noqa: ARG002
        """What the step itself shows, where it can't be run again."""
        if not self._judged:
            yield from self._told(_of_calls(step))

    def sampled_step(self, run: Run, step: Step) -> Iterator[Finding]:  # noqa: ARG002
        """Count the targets of a few looks."""
        self._looks += 1
        for call in step.loss_calls:
            self._targets.look(call, step.batch)
        for target in self._written:
            target.look(step.batch)
        if self._looks == LOOKS:
            yield from self._verdict()
            self.done = True

    def end(self, run: Run) -> Iterator[Finding]:  # noqa: ARG002
        """There is no silence."""
        yield from self._verdict()

    def _verdict(self) -> Iterator[Finding]:
        by_hand = [(target.where, outcome) for target in self._written for outcome in target.verdicts()]
        told = list(self._told(_placed(*verdict) for verdict in [*self._targets.verdicts(), *by_hand]))
        yield from told
        if not told and not self.findings:
            looks = f"the first step and the targets of {self._looks} looks"
            yield (
                self.passed(f"what enters the loss is what it wants: {looks}")
                if self._judged
                else self.skipped(self._why_not)
            )

    def _told(self, found: Any) -> Iterator[Finding]:
        worst_last = sorted(found, key=lambda one: one[1].status is Status.FAILED)
        for (where, _), outcome in {(where, outcome.code): outcome for where, outcome in worst_last}.items():
            yield self.found(outcome, where)


def _rehearsed(again: Rehearsal, batch: Any, *, lines: bool = False) -> tuple[list[Node], Step]:
    """The graph of the loss of a step, and the step; with `lines`, which take time, each node knows who called it."""
    with torch.autograd.set_detect_anomaly(mode=lines, check_nan=False):
        step = again.step(batch, needs=Need.WIRING | Need.GRAPH | Need.INPUTS | Need.LOSSES)
    return list(nodes(step.loss)) if step.loss is not None and step.loss.requires_grad else [], step


def _of_graph(
    graph: list[Node], step: Step, *, left: set[int], alone: bool
) -> tuple[list[tuple[str, Outcome]], list[_loss_by_hand.Written]]:
    """Verdicts by the line of the loss that they are about, and targets that are to be followed."""
    if step.loss is None or not graph:
        return [], []
    weights_of = functools.cache(functools.partial(weights, step.loss))  # each goes back through the graph
    found = [*_loss_scale.of_graph(graph), *_loss_shape.classes_of_graph(graph)]
    found += [*_loss_range.out_of_range(weights_of, graph, step.batch), *_loss_targets.left_out(graph, step)]
    found += _loss_targets.padding(weights_of, graph, step)
    found += [*_logit_range.too_close(weights_of, graph), *_masked_targets.masked(weights_of, graph)]
    if alone:  # else it may be the score that an adversary gives
        found += _loss_by_hand.without_end(weights_of, graph, step)
    placed = [(node.where, outcome) for node, outcome in found]
    placed += [*_loss_pairs.pairs_by_hand(step, graph), *_loss_terms.untrained(step, left)]
    return [_placed(*verdict) for verdict in placed], list(_loss_by_hand.written(weights_of, graph, step))


def _of_calls(step: Step) -> Iterator[tuple[str, Outcome]]:
    for call in step.loss_calls:
        of_shape, of_scale = _loss_pairs.pairs_of_call(call), _loss_scale.of_call(call, step.batch)
        for outcome in (of_shape, of_scale, _masked_targets.same_for_all(call, step.batch)):
            if outcome is not None:
                yield _placed(call.where, outcome)


def _placed(where: str, outcome: Outcome) -> tuple[str, Outcome]:
    return where, replace(outcome, message=f"in {where}, {outcome.message}")
