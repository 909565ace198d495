"""Straight-through estimators that let nothing through: z + (e - z) with its detach around all of it, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lightning_recipe.callbacks._cuts import CUTS, layers_behind
from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.record.step import Need
from lightning_recipe.record.wiring import CHOICES
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.events import Event
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run


class StraightThrough:
    """Looks for them; within modules that have no others in them, once, by a step of a copy."""

    def __init__(self) -> None:
        self._tried = False

    def look(self, run: Run, step: Step) -> Iterator[tuple[Outcome, str]]:
        """In all steps in which something was chosen, as by ``argmin``."""
        chosen = [event for event in step.events if event.name in CHOICES and event.kind == "function"]
        if not chosen:
            return
        yield from cancelled(step)
        if not self._tried and any(not event.inputs for event in chosen):
            self._tried = True
            try:
                with torch.enable_grad(), rehearsal(run) as again:
                    found = list(cancelled(again.step(step.batch, needs=Need.WIRING | Need.INSIDE)))
            except CannotRehearseError:
                return
            yield from found


def cancelled(step: Step) -> Iterator[tuple[Outcome, str]]:
    """Sums z + (e - z) of the very same z, where e depends on z by a choice only, such as ``argmin`` or ``round``.

    The sum is e, and z has no gradient by it, whatever is detached afterwards: it would be written for nothing else.

    Args:
        step: What was recorded.

    Example:
        >>> from torch import nn
        >>> from lightning_recipe.record.events import Event
        >>> def of(*names):
        ...     numbers = iter(range(3, 9))
        ...     made = {"sub": (3, 2), "detach": (4,), "add": (2, 4 + names.index("add") - 1)}
        ...     layer = Event("module", "encoder", (1,), (2,), nn.Linear(1, 1))
        ...     chain = [Event("function", name, made[name], (4 + i,), where="a.py:1") for i, name in enumerate(names)]
        ...     return Step(None, events=[layer, Event("function", "round", (2,), (3,)), *chain])
        >>> from lightning_recipe.record.step import Step
        >>> [[where for _, where in cancelled(of(*names))] for names in (("sub", "add"), ("sub", "detach", "add"))]
        [['a.py:1'], []]

    """
    differences = {
        e.outputs[0]: e.inputs for e in step.events if e.name == "sub" and len(e.inputs) == len(e.outputs) + 1
    }
    makers: dict[int, Event] = {}
    told = set[str]()
    for event in step.events:
        for number in event.outputs:
            if number not in event.inputs:
                makers.setdefault(number, event)
        if event.name not in {"add", "radd"} or len(event.inputs) != 2 or event.where in told:  # noqa: PLR2004
            continue
        for z, difference in (event.inputs, event.inputs[::-1]):
            e, taken = differences.get(difference, (0, 0))
            if taken != z or not _chosen_by(makers, e, z):
                continue
            layers, cut = layers_behind(step, z)
            trained = [maker for number in layers if (maker := step.producer(number)) is not None and _learns(maker)]
            if trained and not cut:
                told.add(event.where)
                yield _outcome(event.where, list(dict.fromkeys(maker.name for maker in trained))), event.where


def _chosen_by(makers: dict[int, Event], e: int, z: int) -> bool:
    """Whether a tensor is made of another one, and by choices only."""
    waiting, seen, found = [(e, False, False)], set(), False
    while waiting:
        state = waiting.pop()
        number, cut, choice = state
        if number == z:
            if not cut:
                return False
            found = found or choice
        elif state not in seen and (maker := makers.get(number)) is not None:
            seen.add(state)
            cut, choice = cut or maker.name in CUTS, choice or maker.name in CHOICES
            waiting += [(given, cut, choice) for given in maker.inputs]
    return found


def _learns(maker: Event) -> bool:
    return maker.module is not None and any(parameter.requires_grad for parameter in maker.module.parameters())


def _outcome(where: str, layers: list[str]) -> Outcome:
    return Outcome(
        Status.FAILED,
        "straight_through",
        f"z + (e - z) in {where} is no straight-through estimator: z cancels, and no gradient of what is made of it "
        f"reaches {listed(layers)} (expected: a detach of e - z alone)",
        "z + (e - z).detach()",
        {"layers": len(layers)},
    )
