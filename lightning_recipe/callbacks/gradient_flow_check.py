"""Common mistakes: parameters that are never trained, or not as what they seem, though everything looks as if."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lightning_recipe.callback import Check
from lightning_recipe.callbacks._affine import affine
from lightning_recipe.callbacks._copies import Units, same_modules, stepped_twice
from lightning_recipe.callbacks._cuts import disconnected
from lightning_recipe.callbacks._emptied import Emptied
from lightning_recipe.callbacks._left_out import MadeAnew, without_optimiser
from lightning_recipe.callbacks._numbers import Numbers
from lightning_recipe.callbacks._same_rows import SameRows
from lightning_recipe.callbacks._sampled import sampled
from lightning_recipe.callbacks._straight_through import StraightThrough
from lightning_recipe.callbacks._thrown_away import thrown_away
from lightning_recipe.callbacks._unreached import Unreached
from lightning_recipe.callbacks._untrained import Marks
from lightning_recipe.callbacks._zero_products import ZeroProducts
from lightning_recipe.finding import Section
from lightning_recipe.record.step import Need

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.finding import Finding, Outcome
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

EARLY = 16
"""Steps up to which units are compared: those that are drawn as copies show it at once."""

_UNABLE = tuple(f"OverfitOneBatch/{code}" for code in ("parameters_left_out", "stuck", "too_slow", "no_gradient"))


class GradientFlowCheck(Check):
    """Judges which parameters the loss gives a gradient to, which of them an optimiser steps, and whether they differ.

    - `not_in_optimiser`: parameters that get a gradient and are in no optimiser, although others are, and stay as they
      are. `warning` if they are not registered, as modules in a plain list or tensors of a plain object, or were frozen
      when training began. Else `warning` if they are used after others that are trained, and are few, as learnt weights
      of losses, or the optimiser holds others that are no more, as after a head was replaced; else `advice`, as for a
      part that was frozen by leaving it out.
    - `made_anew`: modules that are made in each step, get a gradient, and are gone: `warning`.
    - `no_gradient`: modules that were called, and that modules which get a gradient build on, while none reaches their
      own parameters, which an optimiser steps, or zeros only, behind a mask or ``round``: `warning` if these are as
      they were drawn, and `advice` if they have learnt something before, as for a frozen part. If all that is made of
      them becomes numbers, as by ``numpy``, `failed` where they are as they were drawn, and the loss, of the step run
      again on a copy, is another one with other parameters; else `advice`. So it is of parameters that a module itself
      computes with, such as a temperature that is read with ``item``, or of a layer that is not called, such as a table
      that is read by ``weight.data[ids]``, after four looks and an epoch. `warning`, too, if the loss has no gradient
      for any of them, or if a mask that is empty in each step of an epoch is all that a head gets its gradient through;
      `advice` where an entry of the batch is one value, as labels are that nobody has.
    - `drawn_without_gradient`: normal numbers are drawn by what one module puts out, as by ``sample`` in place of
      ``rsample``, and another one goes on with them, without their likelihood: `warning`.
    - `straight_through`: a code e that z chose, as by ``argmin`` or ``round``, is written z + (e - z), with a detach
      around all of it, or none: z cancels, and gets no gradient: `failed`.
    - `zeros_multiplied`: parameters that are all 0 and are multiplied with each other, as both factors of an adapter,
      so that gradients stay exactly 0, while one of them at other values gives the others a gradient: `warning`.
    - `ids_share_a_row`: an embedding that is not trained has one row, such as zeros, for many ids, as of words without
      a pretrained vector, and they are 5 % of the tokens or more: `advice`, or from 20 % on `warning`. Seen in a batch
      after an epoch; padding and the commonest of these ids are left out.
    - `result_thrown_away`: a statement in the code of a module is nothing but a function that returns a new tensor, as
      ``out.index_add(0, i, x)`` in place of ``index_add_``: `warning`.
    - `in_two_optimisers`: parameters that two optimisers step for one backward, or that one holds twice: `warning`;
      that two step, each for its own loss: `advice`.
    - `one_module_many_times`: one module that is several entries of a list: `warning` if all are called with the same
      input, and give the same output; `advice` if not, since sharing over the depth of a network is a practice.
    - `identical_units`: half of the units of a layer have equal weights, and stay equal while they change; or all
      units of a recurrent layer begin with equal weights: `warning`.
    - `affine`: all layers from the first to the last are one affine map: `warning`; `advice` if one between is narrower
      than both ends, several side by side come before the last, or other modules do. Two layers with a
      narrow one between are a factorisation.

    Warnings only when they were seen at three looks in a row.

    Args:
        strict: Stop the run when something failed.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "it will train but silently work a bit worse".
        PyTorch forums and issues are full of modules in plain lists, and of ``[layer] * n``.

    Legitimate:
        - Frozen backbones, also those that were only left out of the optimiser, or are called without gradients.
        - Teachers that follow by averaging, networks that take turns, heads and poolers that are not used.
        - A weight of 0 that grows later, experts and heads of other tasks that nothing is sent to, masks of what the
          network is sure of, and masks that keep something now and then.
        - Weights shared on purpose: tied embeddings, one layer called many times.
        - Zeros that layers and adapters start from, where what they are multiplied with is not 0.
        - Tables of attributes, one row for unknown words, and words that another embedding or their letters tell apart.
        - Affine models that are wide in no place, or side by side: factorisations, autoencoders of two layers, DLinear.

    Cost:
        The order of calls and the graph at each look, less than a second step takes. At most four steps on a copy,
        once, where outputs become numbers, or a head has got a gradient of 0 for an epoch; up to 21 where parameters
        beside the layers, or of layers that are not called, have never got one; one where a module without others
        chooses something, as a codebook does, or throws a result away, or an embedding with equal rows is not trained;
        up to nine where parameters are 0 and stay so.

    Example:
        >>> GradientFlowCheck().patience
        3

    """

    section = Section.MISTAKES
    sentence = 11
    why = "what gets no gradient, or has no optimiser, stays as it was drawn, and the rest learns to live with it"
    needs = Need.WIRING | Need.GRAPH | Need.GRADIENTS
    explains: ClassVar = dict.fromkeys(
        ("not_in_optimiser", "no_gradient", "one_module_many_times", "identical_units", "affine"), _UNABLE
    ) | {
        "made_anew": (*_UNABLE, "ModeCheck/noise_in_validation"),
        "result_thrown_away": (*_UNABLE, "GradientFlowCheck/affine", "InputIndependenceCheck/*", "Baselines/*"),
        "zeros_multiplied": ("OverfitOneBatch/*", "Baselines/*", "InputIndependenceCheck/one_input_ignored"),
        "straight_through": (*_UNABLE, "GradientFlowCheck/no_gradient", "InputIndependenceCheck/*"),
    }
    patience = 3

    def before_training(self, run: Run) -> Iterator[Finding]:
        """Begin anew with each fit."""
        self._marks, self._units, self._made_anew = Marks(), Units(run.module), MadeAnew()
        self._numbers, self._unreached, self._emptied = Numbers(self.patience), Unreached(), Emptied()
        self._straight, self._zeros, self._rows = StraightThrough(), ZeroProducts(), SameRows()
        self._frozen = {name for name, p in run.module.named_parameters() if not p.requires_grad}
        self._seen, self._thrown_away = False, list[tuple["Outcome", str]]()
        yield from ()

    def sampled_step(self, run: Run, step: Step) -> Iterator[Finding]:
        """Look for each of them."""
        if not self._seen:
            self._thrown_away = list(thrown_away(run, step))
        self._seen = self._seen or bool(step.leaves)
        for outcome, subject in self._outcomes(run, step):
            yield self.found(outcome, subject)

    def _outcomes(self, run: Run, step: Step) -> Iterator[tuple[Outcome, str]]:
        parameters = dict(run.module.named_parameters())
        registered = {id(p): name for name, p in parameters.items()}
        held = {id(p) for o in run.trainer.optimizers for group in o.param_groups for p in group["params"]}
        stepped = {name for event in step.events if event.kind == "optimizer step" for name in event.parameters}
        held |= {key for key, name in registered.items() if name in stepped}
        if any(id(leaf) in held for leaf in step.leaves):
            yield from without_optimiser(run.module, step, registered, held, self._marks, self._frozen)
            yield from self._made_anew.look(run.module, step, held)
            yield from affine(step, registered, held)
            if run.step <= EARLY:
                yield from self._units.look(step, {name: p for name, p in parameters.items() if id(p) in held})
        cuts = list(disconnected(step, parameters, self._marks))
        cuts = cuts or list(self._numbers.look(run, step, parameters, self._marks))
        yield from cuts or self._unreached.look(run, step, parameters, self._marks)
        yield from () if cuts else self._emptied.look(run, step, parameters)
        yield from sampled(step)
        yield from self._rows.look(run, step, held)
        yield from self._thrown_away
        yield from self._zeros.look(run, step, parameters)
        yield from self._straight.look(run, step)
        yield from same_modules(run.module, step)
        yield from stepped_twice(run.trainer.optimizers, step, registered)

    def end(self, run: Run) -> Iterator[Finding]:
        """There is no silence."""
        if not self._seen:
            yield self.skipped("no gradient was seen to reach a parameter")
        elif not self.findings:
            yield self.passed(f"what was trained for {run.step} steps gets a gradient, and is in an optimiser")
