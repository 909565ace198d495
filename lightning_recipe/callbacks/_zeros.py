"""The recipe's own form of an input-independent baseline: a short fit on zeros, beside one on the inputs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.callbacks._interchanged import differing, tried
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.tensors import mapped
from lightning_recipe.trial.course import Budget
from lightning_recipe.trial.rehearsal import rehearsal
from lightning_recipe.trial.short_fit import short_fit

if TYPE_CHECKING:
    from typing import Any

    from lightning_recipe.run import Run

LATEST = 5
"""Steps at the end whose mean loss counts."""
BETTER = 0.05
"""Share of what a fit on zeros leaves that inputs have to take away at least: less is done by draws and rounding."""
NET = 600.0
"""Seconds after which a fit ends in any case, and nothing is said."""


class Pair(NamedTuple):
    """The losses of two fits of the same steps.

    Attributes:
        inputs: On the batch, by step.
        zeros: On the batch with zeros in place of what enters the network.

    """

    inputs: list[float]
    zeros: list[float]


def fitted(run: Run, steps: int) -> Pair | None:
    """Fit the first batch twice; None if time ran out, or nothing is seen to enter the network.

    Raises:
        CannotRehearseError: If the step can't be run on a copy.

    """
    with rehearsal(run) as again:
        entering = tried(again, run.batch).inputs
    own = {id(tensor) for path, tensor in differing(run.batch).items() if path in entering}
    if not own:
        return None
    zeroed = mapped(run.batch, Tensor, lambda tensor: torch.zeros_like(tensor) if id(tensor) in own else tensor)
    budget = Budget(steps, float("inf"), float("inf"), time.monotonic() + NET)
    fits = [short_fit(run.trainer, run.module, batch, budget) for batch in (run.batch, zeroed)]
    return None if any(fit.out_of_time or not fit.losses for fit in fits) else Pair(*(fit.losses for fit in fits))


def judge(pair: Pair) -> Outcome:
    """Whether inputs are worth anything: a `warning` if a fit on zeros gets as far.

    Example:
        >>> judge(Pair([2.3, 0.1], [2.3, 2.2])).status, judge(Pair([2.3, 2.2], [2.3, 2.2])).status
        (<Status.PASSED: 'passed'>, <Status.WARNING: 'warning'>)

    """
    inputs, zeros = (sum(losses[-LATEST:]) / len(losses[-LATEST:]) for losses in pair)
    evidence: dict[str, Any] = {"inputs": inputs, "zeros": zeros, "steps": len(pair.inputs)}
    told = (
        f"after {len(pair.inputs)} steps on one batch the loss is {inputs:.4g}, and {zeros:.4g} on zeros in its place"
    )
    if zeros - inputs > BETTER * abs(zeros):
        return Outcome(Status.PASSED, "", told, evidence=evidence)
    fix = (
        "see what becomes of the inputs in the forward pass, and whether more steps, or a higher rate, tell them apart"
    )
    return Outcome(Status.WARNING, "no_better_than_zeros", told, fix, evidence)
