"""Parameters that are all 0 and multiply each other: each hands the other a gradient of 0, and they stay so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run
    from lightning_recipe.trial.rehearsal import Rehearsal

LOOKS = 4
"""Looks at which they were 0, and their gradients too, before the step is run again."""
MOST = 8
"""Parameters that are tried; each takes a step on a copy."""


class ZeroProducts:
    """Follows parameters that are 0 and get gradients of 0, over looks."""

    def __init__(self) -> None:
        self._times = dict[str, int]()
        self._asked = set[str]()
        self._found = dict[str, list[str]]()

    def look(self, run: Run, step: Step, parameters: Mapping[str, Tensor]) -> Iterator[tuple[Outcome, str]]:
        """Those that an optimiser steps in vain, if one of them alone at other values would give another a gradient."""
        if not step.gradients:  # they are accumulated
            return
        without = [name for name, norm in step.gradients.items() if norm == 0 and name in parameters]
        zero = [name for name in without if not bool(parameters[name].detach().any())]
        self._times = {name: self._times.get(name, 0) + 1 for name in zero}
        due = [name for name in zero if self._times[name] >= LOOKS]
        if asked := [name for name in due if name not in self._asked][: MOST - len(self._asked)]:
            self._asked.update(asked)
            self._found |= _partners(run, step, asked, due)
        found = {name: others for name, others in self._found.items() if {name, *others} <= set(due)}
        if found:
            yield _outcome(found), next(iter(found))


def _partners(run: Run, step: Step, asked: list[str], zero: list[str]) -> dict[str, list[str]]:
    """Of some parameters, those others that get a gradient once this one alone is not 0; each pair once."""
    found: dict[str, list[str]] = {}
    try:
        with torch.enable_grad(), rehearsal(run) as again:
            if _reached(again, step, zero):
                return {}
            for name in asked:
                if any(name in others for others in found.values()):
                    continue
                parameter = again.module.get_parameter(name)
                with torch.no_grad():
                    parameter.normal_()
                if others := [other for other in _reached(again, step, zero) if other != name]:
                    found[name] = others
                with torch.no_grad():
                    parameter.zero_()
    except CannotRehearseError:
        return {}
    return found


def _reached(again: Rehearsal, step: Step, names: list[str]) -> list[str]:
    """Those of some parameters that the loss of the step has a gradient for that is not 0."""
    loss, own = again.step(step.batch).loss, [again.module.get_parameter(name) for name in names]
    if loss is None or not loss.requires_grad:
        return []
    gradients = torch.autograd.grad(loss.sum(), own, allow_unused=True)
    return [name for name, one in zip(names, gradients, strict=True) if one is not None and bool(one.any())]


def _outcome(found: dict[str, list[str]]) -> Outcome:
    names = list(dict.fromkeys(name for one, others in found.items() for name in (one, *others)))
    return Outcome(
        Status.WARNING,
        "zeros_multiplied",
        f"{listed(names)} are all 0 and multiply each other, so that each gets a gradient of exactly 0: they stay 0 "
        "for ever",
        f"start one side at random numbers, and the other at 0: {next(iter(found))}, or what it is multiplied with",
        {"parameters": len(names)},
    )
