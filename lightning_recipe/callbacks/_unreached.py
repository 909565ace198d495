"""Parameters that the loss depends on while no gradient reaches them: beside the layers, or of layers not called."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from lightning_recipe.callbacks._cuts import CUTS, NUMBERS
from lightning_recipe.callbacks._numbers import LEAVING, dependence
from lightning_recipe.callbacks._untrained import is_as_drawn
from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.record.step import Need
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from lightning_recipe.callbacks._untrained import Marks
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

LOOKS = 4
"""Looks at which none had a gradient, before the step is run again: some are trained in every second step only."""
STEPS = 1000
"""Steps that stand for an epoch where that is longer."""
MOST = 8
"""Parameters that this is tried for, one by one; each takes a step on a copy."""


class Unreached:
    """Follows them over looks. No module's call tells of them: their owner computes with them itself."""

    def __init__(self) -> None:
        self._times, self._since, self._depends = dict[str, int](), dict[str, int](), dict[str, bool]()
        self._places = dict[str, list[str]]()

    def look(
        self, run: Run, step: Step, parameters: Mapping[str, Tensor], marks: Marks
    ) -> Iterator[tuple[Outcome, str]]:
        """Those an optimiser steps without a gradient for an epoch; `failed` if they are as they were drawn."""
        if not step.gradients:  # they are accumulated
            return
        waiting = {n for n, norm in step.gradients.items() if math.isnan(norm) and n in parameters}
        found = {name: p for name, p in _beside_trained(run.module, step) if name in waiting}
        ever = {id(p) for optimizer in run.trainer.optimizers for p, state in optimizer.state.items() if state}
        found = {n: p for n, p in found.items() if id(p) not in ever and marks.stay({n: p})}
        self._times = {name: self._times.get(name, 0) + 1 for name in found}
        self._since = {name: self._since.get(name, run.step) for name in found}
        several = run.horizon > run.batches_per_epoch  # some are set by hand after each epoch
        epoch = min(run.batches_per_epoch, STEPS) if several else 0
        due = [n for n, times in self._times.items() if times >= LOOKS and run.step - self._since[n] >= epoch]
        if asked := [name for name in due if name not in self._depends]:
            if len(asked) == 1 or dependence(run, step, [set(asked)], ["all"])["all"]:
                self._depends |= dependence(run, step, [{name} for name in asked[:MOST]], asked[:MOST])
            self._depends |= dict.fromkeys(asked, False) | self._depends
        for name in due:
            if self._depends.get(name):
                if name not in self._places:
                    self._places[name] = _leaves(run, step, name)
                yield _outcome(name, found[name], self._places[name]), name


def _beside_trained(root: nn.Module, step: Step) -> Iterator[tuple[str, Tensor]]:
    """Parameters that are not in the graph, of modules that others are trained in: of a frozen network, none is.

    Or of a module that is not called, in such a one or in none: others compute with its parameters, if anybody does.
    """
    trained = {id(leaf) for leaf in step.leaves}
    called = {event.name for event in step.events if event.kind == "module"}
    trains: dict[str, bool] = {}
    for path, module in root.named_modules():
        around = next((name for name in _ancestors(path) if name in called), "")
        trains[path] = any(id(p) in trained for p in module.parameters())
        if trains[path] or (path not in called and trains[around]):
            own = module.named_parameters(path, recurse=False)
            yield from ((n, p) for n, p in own if p.requires_grad and id(p) not in trained)


def _ancestors(path: str) -> Iterator[str]:
    """Names of the modules around one, from inside.

    Example:
        >>> list(_ancestors("net.0.conv"))
        ['net.0', 'net']

    """
    while path := path.rpartition(".")[0]:
        yield path


def _leaves(run: Run, step: Step, name: str) -> list[str]:
    """The functions that take a parameter out of the graph, and their lines, of the step run again on a copy."""
    try:
        with torch.enable_grad(), rehearsal(run) as again:
            events = again.step(step.batch, needs=Need.WIRING | Need.PARAMETERS | Need.INSIDE).events
    except CannotRehearseError:
        return []
    made: set[int] = set()
    found: list[str] = []
    for event in events:
        if event.kind == "function" and (name in event.parameters or made.intersection(event.inputs)):
            if event.name in CUTS | NUMBERS | LEAVING and event.where:
                found.append(f"{event.name} ({event.where})")
            else:
                made.update(event.outputs)
    return list(dict.fromkeys(found))


def _outcome(name: str, parameter: Tensor, places: list[str]) -> Outcome:
    values = parameter.detach()
    drawn = is_as_drawn(parameter) and (values.ndim > 1 or bool((values == values.flatten()[0]).all()))
    return Outcome(
        Status.FAILED if drawn else Status.ADVICE,
        "no_gradient",
        f"the loss depends on {listed([name])}, which an optimiser has, and no gradient reaches it: "
        f"{f'it leaves the graph by {listed(places)}' if places else 'it stays as it is'}",
        "no item, float, detach, data, no_grad or comparison between it and the loss; if it is to stay as it is, "
        "requires_grad_(False) says so",
        {"parameters": values.numel()},
    )
