"""What each optimiser of a step minimises, and a short fit of one objective with all that it does not train held."""

from __future__ import annotations

import itertools
import math
import operator
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from lightning_recipe.finding import listed
from lightning_recipe.record.graph import graph
from lightning_recipe.trial.calming import without_dropout
from lightning_recipe.trial.course import LONGER, LOOP, Ramp, Stopping
from lightning_recipe.trial.rehearsal import CannotRehearseError, Rehearsal, rehearsal
from lightning_recipe.trial.short_fit import PROBE_EVERY, Fit, adam_like, in_words
from lightning_recipe.trial.stand_ins import Heard
from lightning_recipe.trial.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from lightning_recipe.run import Run
    from lightning_recipe.trial.course import Budget

_EQUAL = 1e-6  # relative difference of the same loss, computed twice


class Objective(NamedTuple):
    """What some of the optimisers minimise: the losses whose gradients are there when they step.

    Attributes:
        optimizers: Their indices: several where they share it.
        losses: Which of the losses that backward is called on; empty if none reaches a parameter of theirs.
        value: Its value at the start; NaN if there is none.
        subject: The modules that they train.
        reached: The modules that its gradients reach, or those of any loss before the step where none are theirs.

    Example:
        >>> Objective((1,), (0,), 1.39, "d").subject
        'd'

    """

    optimizers: tuple[int, ...]
    losses: tuple[int, ...]
    value: float
    subject: str
    reached: str = ""


def objectives(run: Run, batch: Any) -> list[Objective]:
    """The objectives of a step in manual optimisation; those of optimisers that do not step in it are left out.

    Args:
        run: The run that is about to begin.
        batch: As ``training_step`` receives it.

    Raises:
        CannotRehearseError: If the step can't be run again on a copy.

    """
    with rehearsal(run) as again:
        without_dropout(again.module)
        clears: dict[Heard, frozenset[int]] = {}
        for number, part in enumerate(again.module.modules(), len(again.optimizers)):  # zero_grad of a module
            cleared = Heard("zero_grad", number)
            clears[cleared] = frozenset(map(id, part.parameters()))
            vars(part)["zero_grad"] = partial(_heard, again.heard, cleared)
        again.step(batch)
        reached = [{id(node.leaf) for node in graph([loss]) if node.leaf is not None} for loss in again.losses]
        values = [float(loss.detach().float().mean()) for loss in again.losses]
        found: list[Objective] = []
        for i, optimizer in enumerate(again.optimizers):
            held = {id(p) for group in optimizer.param_groups for p in group["params"]}
            clears[Heard("zero_grad", i)] = frozenset(held)
            taken = losses_taken(again.heard, i, held, reached, clears)
            if taken is None:
                continue
            value = sum(values[k] for k in taken) if taken else math.nan
            before = itertools.takewhile(partial(operator.ne, Heard("step", i)), again.heard)
            ids = set().union(*(reached[k] for k in taken or [e.number for e in before if e.kind == "backward"]))
            mine = Objective((i,), taken, value, trained(again.module, held), trained(again.module, ids))
            same = next((o for o in found if taken and math.isclose(o.value, value, rel_tol=_EQUAL)), None)
            if same is None:
                found.append(mine)
            else:
                subject = f"{same.subject}, {mine.subject}"
                found[found.index(same)] = same._replace(optimizers=(*same.optimizers, i), subject=subject)
        return found


def _heard(heard: list[Heard], what: Heard, *_: Any, **__: Any) -> None:
    heard.append(what)


def losses_taken(
    heard: Sequence[Heard],
    optimizer: int,
    held: set[int],
    reached: Sequence[set[int]],
    clears: dict[Heard, frozenset[int]],
) -> tuple[int, ...] | None:
    """Which losses' gradients an optimiser takes in its last step; None if it takes no step, and others do.

    Where none does, as in a batch whose gradients are accumulated, it would take those that are left.

    Args:
        heard: What the step did to gradients.
        optimizer: The optimiser's index.
        held: Its parameters.
        reached: The parameters that each loss reaches.
        clears: Those whose gradients each ``zero_grad`` clears.

    Example:
        >>> heard = [Heard("backward", 0), Heard("step", 0), Heard("backward", 1), Heard("step", 1)]
        >>> losses_taken(heard, 1, {7}, [{7}, {7, 8}], {})  # nothing has cleared those of the first
        (0, 1)
        >>> clear = Heard("zero_grad", 1)
        >>> losses_taken([*heard[:2], clear, *heard[2:]], 1, {7}, [{7}, {7, 8}], {clear: frozenset({7})})
        (1,)

    """
    waiting: list[int] = []
    taken = None
    for event in heard:
        if event.kind == "backward" and held & reached[event.number]:
            waiting.append(event.number)
        elif event.kind == "zero_grad" and clears.get(event, frozenset()) >= held:
            waiting = []
        elif event.kind == "step" and event.number == optimizer:
            taken = tuple(waiting)
    none_steps = not any(event.kind == "step" for event in heard)
    return tuple(waiting) if none_steps and waiting else taken


def trained(root: nn.Module, held: set[int]) -> str:
    """The outermost modules all of whose parameters are among these, and parameters of no such module.

    Example:
        >>> net = torch.nn.ModuleDict({"g": torch.nn.Linear(1, 1), "d": torch.nn.Linear(1, 1)})
        >>> trained(net, set(map(id, net["d"].parameters()))), trained(net, {id(net["g"].bias)})
        ('d', 'g.bias')

    """
    names: list[str] = []
    for name, module in root.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in names)
        if name and not inside and (ids := set(map(id, module.parameters()))) and ids <= held:
            names.append(name)
    loose = [n for n, p in root.named_parameters() if id(p) in held and not n.startswith(tuple(f"{o}." for o in names))]
    return listed([*names, *loose])


class Alone:
    """Fits one objective on a copy: only what its optimisers hold is changed, and each step draws the same numbers.

    Args:
        again: Runs the step.
        objective: The objective.
        peaks: The highest learning rate of each parameter group, by optimiser.

    """

    def __init__(self, again: Rehearsal, objective: Objective, peaks: list[list[float]]) -> None:
        self._again, self._objective = again, objective
        self._optimizers = [again.optimizers[i] for i in objective.optimizers]
        self._peaks = [peaks[i] for i in objective.optimizers]
        again.of, again.puts_back = objective.losses, False
        without_dropout(again.module)
        own = [p for optimizer in self._optimizers for group in optimizer.param_groups for p in group["params"]]
        held = set(map(id, own))
        self._own = [(n, p) for n, p in again.module.named_parameters() if id(p) in held]
        others = [p for p in again.module.parameters() if id(p) not in held]
        self._others = [(p, p.detach().clone()) for p in others]

    def fit(
        self, batch: Any, budget: Budget, *, adam: float | None = None, advance: Callable[[], object] = lambda: None
    ) -> Fit:
        """Fit by the user's optimisers, or by Adam with this learning rate; see ``short_fit``.

        Raises:
            CannotRehearseError: If the step raises.

        """
        optimizers, peaks = self._optimizers, self._peaks
        fit = Fit(f"{in_words(optimizers[0], peaks[0])} of {self._objective.subject}")
        if adam is not None:
            optimizers = [adam_like(optimizer, adam) for optimizer in optimizers]
            peaks = [[adam] * len(optimizer.param_groups) for optimizer in optimizers]
            fit = Fit(in_words(optimizers[0], peaks[0]))
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            if isinstance(group.get("weight_decay"), int | float):
                group["weight_decay"] = 0.0
        ramp, stopping = Ramp(optimizers, peaks, budget.steps, force=True), Stopping(fit, budget)
        before = [parameter.detach().clone() for _, parameter in self._own]
        for number in range(LONGER * budget.steps):
            ramp.begin(number)
            with Work() if stopping.counts(number) else nullcontext() as work:
                loss = self._step(batch, optimizers)
            fit.work = LOOP + work.seconds if work is not None else fit.work
            fit.losses.append(loss)
            if probed := stopping.looks_at(number) or number % PROBE_EVERY == 0:
                fit.calls[number] = []
                fit.grads = {n: 0.0 if p.grad is None else float(p.grad.abs().max()) for n, p in self._own if p.numel()}
            advance()
            if stopping.is_over(number, probed=probed):
                break
        pairs = zip(before, self._own, strict=True)
        fit.weights_moved = any(not torch.equal(old, new) for old, (_, new) in pairs)
        with torch.no_grad():
            for old, (_, parameter) in zip(before, self._own, strict=True):  # the next fit starts where this one did
                parameter.copy_(old)
        return fit

    def _step(self, batch: Any, optimizers: Sequence[torch.optim.Optimizer]) -> float:
        parameters = [parameter for _, parameter in self._own]
        for parameter in parameters:
            parameter.grad = None
        loss = self._again.step(batch).loss
        if loss is None or not loss.requires_grad:
            msg = "the step, run again on a copy, has no such loss"
            raise CannotRehearseError(msg)
        trainable = [parameter.requires_grad for parameter in parameters]
        for parameter in parameters:  # steps leave those frozen that the next objective does not train
            parameter.requires_grad_()
        gradients = torch.autograd.grad(loss.mean(), parameters, allow_unused=True)
        for parameter, gradient, before in zip(parameters, gradients, trainable, strict=True):
            parameter.grad = gradient
            parameter.requires_grad_(before)
        for optimizer in optimizers:
            type(optimizer).step(optimizer)  # that of the copy is at rest
        with torch.no_grad():
            for parameter, kept in self._others:  # targets that follow, weights that are clipped
                if not torch.equal(parameter, kept):
                    parameter.copy_(kept)
        return float(loss.detach().float().mean())
