"""Common mistakes: parameters that are never trained, though everything looks as if they were."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from lightning_recipe.callback import Check
from lightning_recipe.callbacks._gradient_flow import copies, cut_off, hidden, is_as_drawn, is_called_after
from lightning_recipe.finding import Section, listed
from lightning_recipe.record.step import Need

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lightning_recipe.finding import Finding
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

FEW = 0.1
"""Share of what gets a gradient up to which parameters without optimiser were forgotten rather than frozen: heads,
tokens, positions and weights of losses are less in the usual architectures, frozen backbones are more."""


class GradientFlowCheck(Check):
    """Judges which parameters the loss gives a gradient to, and which of them an optimiser steps.

    - Parameters that get a gradient and are in no optimiser, although others are, and stay as they are: `warning` if
      they are not registered, as modules in a plain list. If they are registered, `warning` if they are used after
      others that are trained, and are few, as learnt weights of losses, or the optimiser holds others that are no
      more, as after a head was replaced; else `advice`, as for a part that was frozen by leaving it out.
    - Modules that were called, and that modules which get a gradient build on, while none reaches their own parameters,
      which an optimiser steps: `warning` if these are as they were drawn, and `advice` if they have learnt
      something before, as for a frozen part.
    - One module that is several entries of a list: `warning` if all are called with the same input, and give the same
      output; `advice` if not, since sharing over the depth of a network is a practice.

    Each only when it was seen at three looks in a row.

    Args:
        strict: Stop the run when something failed.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "it will train but silently work a bit worse".
        PyTorch forums and issues are full of modules in plain lists, and of ``[layer] * n``.

    Legitimate:
        - Frozen backbones, also those that were only left out of the optimiser, or are called without gradients.
        - Teachers that follow by averaging, networks that take turns, heads and poolers that are not used.
        - Weights shared on purpose: tied embeddings, one layer called many times.

    Cost:
        The order of calls at each look, less than a second step takes.

    Example:
        >>> GradientFlowCheck().patience
        3

    """

    section = Section.MISTAKES
    sentence = 11
    why = "what gets no gradient, or has no optimiser, stays as it was drawn, and the rest learns to live with it"
    needs = Need.WIRING | Need.GRADIENTS
    explains: ClassVar = dict.fromkeys(
        ("not_in_optimiser", "no_gradient", "one_module_many_times"),
        ("OverfitOneBatch/parameters_left_out", "OverfitOneBatch/stuck", "OverfitOneBatch/too_slow"),
    )
    patience = 3

    def before_training(self, run: Run) -> Iterator[Finding]:  # noqa: ARG002
        """Begin anew with each fit."""
        self._marks: dict[str, tuple[int, int, float]] = {}
        self._seen = False
        yield from ()

    def sampled_step(self, run: Run, step: Step) -> Iterator[Finding]:
        """Look for each of the three."""
        registered = {id(p): name for name, p in run.module.named_parameters()}
        held = {id(p) for o in run.trainer.optimizers for group in o.param_groups for p in group["params"]}
        stepped = {name for event in step.events if event.kind == "optimizer step" for name in event.parameters}
        held |= {key for key, name in registered.items() if name in stepped}
        self._seen = self._seen or bool(step.leaves)
        if any(id(leaf) in held for leaf in step.leaves):
            yield from self._without_optimiser(run, step, registered, held)
            yield from self._without_gradient(run, step)
        for name, keys, same in copies(run.module, step):
            yield self._repeated(name, keys, same=same)

    def _without_optimiser(self, run: Run, step: Step, registered: dict[int, str], held: set[int]) -> Iterator[Finding]:
        left = {id(p): p for p in step.leaves if id(p) not in held and isinstance(p, nn.Parameter) and _has_gradient(p)}
        modes = {name: module.training for name, module in run.module.named_modules()}
        known = {name: left[key] for key, name in registered.items() if key in left}
        lists = hidden(run.module, left.keys() - registered.keys())
        lists = {name: found for name, found in lists.items() if found[1]}
        if lists and self._stay({name: p for name, (p, _) in lists.items()}):
            yield self.warning(
                f"{listed(lists)} get a gradient, and are parameters of no module and no optimiser",
                code="not_in_optimiser",
                subject=", ".join(lists),
                fix="nn.ModuleList, nn.ModuleDict or nn.ParameterList in place of the plain container",
                parameters=sum(p.numel() for p, _ in lists.values()),
            )
        if not known or not self._stay(known):
            return
        size = sum(p.numel() for p in known.values())
        total = sum(leaf.numel() for leaf in step.leaves if id(leaf) in registered)
        replaced = held - registered.keys() - {id(leaf) for leaf in step.leaves}  # parameters that are no more
        forgotten = (size < FEW * total or replaced) and all(
            modes.get(name.rpartition(".")[0], True) and is_called_after(step, p, held) and is_as_drawn(p)
            for name, p in known.items()
        )
        yield (self.warning if forgotten else self.advice)(
            f"{listed(known)} get a gradient, and no optimiser holds them: {size} parameters that stay as they are",
            code="not_in_optimiser",
            subject=", ".join(known),
            fix="give them to the optimiser in configure_optimizers, after the last module was replaced; "
            "if they are to stay, requires_grad_(False) saves their gradients",
            parameters=size,
            share=size / total,
        )

    def _without_gradient(self, run: Run, step: Step) -> Iterator[Finding]:
        parameters = dict(run.module.named_parameters())
        waiting = {id(parameters[name]) for name, norm in step.gradients.items() if math.isnan(norm)}
        calls, where = cut_off(step, waiting) if waiting else ([], "")
        own = {f"{call.name}.{key}": p for call in calls if call.module for key, p in call.module.named_parameters()}
        if not own or not self._stay(own):
            return
        names = list(dict.fromkeys(call.name for call in calls))
        place = f"{where} cuts the graph behind them" if where else "they are called without gradients"
        drawn = all(is_as_drawn(p) for p in own.values())
        yield (self.warning if drawn else self.advice)(
            f"no gradient reaches {listed(names)}, although others are trained on what they put out: {place}",
            code="no_gradient",
            subject=", ".join(names),
            fix="take away the detach, no_grad, argmax or data between them and the loss; "
            "if they are to stay, requires_grad_(False) says so",
            parameters=sum(p.numel() for p in own.values()),
        )

    def _repeated(self, name: str, keys: list[str], *, same: bool) -> Finding:
        return (self.warning if same else self.advice)(
            f"the entries {', '.join(keys)} of {name} are one and the same module"
            + (", called with the same input: what they put out is equal" if same else ", with one set of weights"),
            code="one_module_many_times",
            subject=name,
            fix="nn.ModuleList(make_layer() for _ in range(n)): [layer] * n is one layer n times; "
            "if it is to be shared, one attribute that is called n times says so",
            entries=len(keys),
        )

    def _stay(self, parameters: Mapping[str, Tensor]) -> bool:
        """Whether nothing has changed them since the last look, such as an optimiser of the user's, or averaging."""
        marks = {name: (id(p), p._version, float(p.detach().sum())) for name, p in parameters.items()}  # noqa: SLF001
        stay = all(self._marks.get(name, mark) == mark for name, mark in marks.items())
        self._marks |= marks
        return stay

    def end(self, run: Run) -> Iterator[Finding]:
        """There is no silence."""
        if not self._seen:
            yield self.skipped("no gradient was seen to reach a parameter")
        elif not self.findings:
            yield self.passed(f"what was trained for {run.step} steps gets a gradient, and is in an optimiser")


def _has_gradient(parameter: Tensor) -> bool:
    return parameter.grad is not None and bool(parameter.grad.detach().abs().sum() > 0)
