"""Terms of the loss that compare what the network puts out with itself: both views are the same one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_recipe.callbacks._cuts import CUTS
from lightning_recipe.callbacks._loss_terms import DIFFERENCES, before
from lightning_recipe.callbacks._modes import has_parameters
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.step import Need
from lightning_recipe.trial.rehearsal import CannotRehearseError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.events import Event
    from lightning_recipe.record.step import Step
    from lightning_recipe.trial.rehearsal import Rehearsal

AMONG = {"cdist"}
"""What compares all with all, on purpose."""


def of_itself(again: Rehearsal, batch: Any, step: Step) -> Iterator[tuple[str, Outcome]]:
    """Differences of two outputs of the same modules that are 0 everywhere, whatever the weights.

    What goes through ``detach`` on one side has a value of 0 and a gradient on purpose.

    Args:
        again: Runs the step once more where outputs of the same modules are compared, with other weights.
        batch: The batch.
        step: What the step did.

    Yields:
        The line that compares them, and the verdict.

    """
    pairs = _pairs(step)
    if not pairs:
        return
    try:
        again.move_weights()  # a head that begins with zeros puts out zeros for both
        moved = again.step(batch, needs=Need.WIRING | Need.LOSSES | Need.BATCH)
    except CannotRehearseError:
        return
    same = {(event.name, event.where) for event in moved.events if event.same or event.inputs[:1] == event.inputs[1:2]}
    for event in pairs:
        if (event.name, event.where) in same:
            yield (
                event.where,
                Outcome(
                    Status.WARNING,
                    "compared_with_itself",
                    f"{event.name} compares what the network puts out with itself: equal, whatever its weights",
                    "give the network the other view, or the other output; and see whether augmentation is off",
                    {"terms": len(pairs)},
                ),
            )


def _pairs(step: Step) -> list[Event]:
    """What compares outputs of the same modules, both of which have a gradient."""
    made = {number: event for event in reversed(step.events) for number in set(event.outputs) - set(event.inputs)}
    found = []
    for event in step.events:
        compares = event.kind == "loss" or event.name in DIFFERENCES - AMONG
        sides = [list(before(made, [number])) for number in event.inputs[:2]] if compares else []
        called = [[e.name for e in side if e.kind == "module" and has_parameters(e.module)] for side in sides]
        if len(sides) == 2 and called[0] and called[0] == called[1] and not any(map(_is_cut, sides)):  # noqa: PLR2004
            found.append(event)
    return found


def _is_cut(side: list[Event]) -> bool:
    return any(event.name in CUTS or (event.kind == "module" and event.where) for event in side)
