"""The first step, run again and again on a copy from the same state, and what makes it come out otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_recipe.callbacks._seeds import apart, streams
from lightning_recipe.callbacks._unseeded import by_chance
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal
from lightning_recipe.trial.rng import held_by, named, untouched_generators
from lightning_recipe.trial.seeding import at_another_time

if TYPE_CHECKING:
    from lightning_recipe.run import Run
    from lightning_recipe.trial.rehearsal import Rehearsal

MOST = 8
"""Steps at most, before losses that differ by little are taken for rounding: of noise, two may agree by chance."""


class Repeated(NamedTuple):
    """What a step does when it is repeated.

    Attributes:
        first: Its loss.
        second: Its loss from the same state and in the same random streams.
        later: The same if the clock said something else; the first where that makes no difference.
        by_chance: Whether it draws from a generator of its own that has no seed.
        seeds: Names of the random streams that it sets.

    """

    first: float
    second: float
    later: float
    by_chance: bool
    seeds: set[str]


def repeated(run: Run, batch: Any, rounding: float) -> Repeated:
    """Repeat the step.

    Args:
        run: The run.
        batch: Of the step.
        rounding: Relative difference of losses that the order of sums may make.

    Raises:
        CannotRehearseError: If it can't be repeated, or has no loss.

    """
    with rehearsal(run) as again:
        with untouched_generators(list(filter(by_chance, (*held_by(again.module), *named())))) as drawn:
            losses = [_loss(again, batch)]
        before = streams()
        _loss(again, batch, seed=1)
        seeds = {name for name, state in streams().items() if state == before[name]}
        losses.append(_loss(again, batch))
        later = _later(again, batch, losses[0], rounding) if losses[0] == losses[1] else losses[0]
        while 0 < apart(*losses[-2:]) <= rounding and len(losses) < MOST:
            losses.append(_loss(again, batch))
    if apart(*losses[-2:]) > rounding:  # or an object of the module's own has kept something
        del losses[1:]
        while len(losses) == 1 or (0 < apart(losses[0], losses[-1]) <= rounding and len(losses) < MOST):
            with rehearsal(run) as fresh:
                losses.append(_loss(fresh, batch))
        losses = [losses[0], losses[-1]]
    return Repeated(losses[-2], losses[-1], later, bool(drawn), seeds)


def _later(again: Rehearsal, batch: Any, loss: float, rounding: float) -> float:
    """The loss by another clock, if it is another one then, and by that alone."""
    with at_another_time():
        later = _loss(again, batch)
    return later if apart(later, loss) > rounding and _loss(again, batch) == loss else loss


def _loss(again: Rehearsal, batch: Any, seed: int = 0) -> float:
    loss = again.step(batch, seed=seed).loss
    if loss is None:
        msg = "the step has no loss"
        raise CannotRehearseError(msg)
    return float(loss.detach().sum())
