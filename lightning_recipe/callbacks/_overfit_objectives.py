"""Several optimisers, each with an objective of its own: which can be judged, and how far each comes alone."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from lightning_recipe.callbacks._overfit_by_hand import way
from lightning_recipe.callbacks._overfit_fits import Fits
from lightning_recipe.callbacks._overfit_progress import Trial
from lightning_recipe.callbacks._overfit_verdict import outcome
from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.trial.answers import Answers
from lightning_recipe.trial.calming import without_dropout
from lightning_recipe.trial.objectives import Alone, objectives
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from lightning_recipe.callbacks._overfit_fits import Allowed
    from lightning_recipe.losses.floor import Floor
    from lightning_recipe.run import Run
    from lightning_recipe.trial.objectives import Objective

OF_ITS_OWN = {"memorised", "still_falling", "on_its_way", "learning_rate_too_low", "weights_do_not_change"}
"""What is told of an objective: what one set of weights reaches while the others are held is a proof, what it does not
reach is none. A discriminator may be slow, small, or bounded on purpose, so that the generator keeps up."""


def each_of(run: Run, few: Any) -> tuple[list[Objective], Any]:
    """What each optimiser minimises, and the examples that showed it: all of the batch if its first alone raise."""
    try:
        found, examples = objectives(run, few), few
    except CannotRehearseError:
        if few is run.batch:
            raise
        found, examples = objectives(run, run.batch), run.batch
    if not found:
        msg = "none is seen to step in the first batch, or to get a gradient"
        raise CannotRehearseError(msg)
    return found, examples


def judged(
    run: Run, batch: Any, of: Objective, allowed: Allowed, advance: Callable[[], object]
) -> tuple[Outcome, Trial | None]:
    """The verdict on one objective, and its fits if there were any.

    Args:
        run: The run that is about to begin.
        batch: What is to be memorised.
        of: The objective.
        allowed: What its fits may take.
        advance: Called after each step.

    """
    if not of.losses:
        return _not_reached(of), None
    try:
        floor = _way(run, batch, of)
        if isinstance(floor, Outcome):
            return floor, None
        trial = Trial(allowed.tolerance, asked=floor, examples=run.examples_in(batch))
        with rehearsal(run) as again:
            make = functools.partial(Alone(again, of, run.peak_rates).fit, advance=advance)
            fits = Fits(run, allowed, make, batch)
            fits.fit(trial)
            fits.others(trial)
    except CannotRehearseError as reason:
        return _skipped("unknown_floor", f"{of.subject}: the lowest loss is not known: {reason}"), None
    return careful(outcome(trial, run.module)), trial


def _not_reached(of: Objective) -> Outcome:
    """An optimiser that steps, while no loss gives what it holds a gradient."""
    if not of.reached:
        return _skipped(
            "no_loss", f"{of.subject}: backward is not called before its optimiser steps in the first batch"
        )
    return Outcome(
        Status.WARNING,
        "no_gradient",
        f"the optimiser of {of.subject} steps, and nothing that it holds has a gradient: those before it reach "
        f"{of.reached} only",
        f"hand the optimiser the parameters that its loss trains, or let the loss reach {of.subject}: without detach()",
        {"optimiser": of.optimizers[0]},
    )


def _skipped(code: str, message: str) -> Outcome:
    return Outcome(Status.SKIPPED, code, message, evidence={"fits": 0})


def _way(run: Run, batch: Any, of: Objective) -> Floor | Outcome:
    """The way to go, of an objective whose last layers are its own: only these can be answered for."""
    with rehearsal(run) as again:
        again.of = of.losses
        without_dropout(again.module)
        held = {id(p) for i in of.optimizers for group in again.optimizers[i].param_groups for p in group["params"]}
        answers = Answers(again, batch)
        answers.draws = range(1)  # its fits repeat one draw
        foreign = [name for name in answers.modules if not held & _parameters(again.module.get_submodule(name))]
        if foreign:
            trains = f"reaches its loss through {listed(foreign)}, which it does not train"
            return _skipped("judged_by_another", f"{of.subject} {trains}: no lowest loss is known for it alone")
        known = way(answers.lowest(), answers.constant())
    return _skipped("unknown_floor", f"{of.subject}: {known}") if isinstance(known, str) else known


def _parameters(module: nn.Module) -> set[int]:
    return set(map(id, module.parameters()))


def careful(found: Outcome) -> Outcome:
    """What may be told of an objective whose surroundings were held.

    Example:
        >>> careful(Outcome(Status.WARNING, "stuck", "no optimiser overfits 8 examples")).status
        <Status.SKIPPED: 'skipped'>

    """
    if found.code in OF_ITS_OWN or found.status is Status.SKIPPED:
        return found
    message = f"{found.message}; where optimisers work against each other, that need not be wrong"
    return Outcome(Status.SKIPPED, found.code, message, evidence=found.evidence)
