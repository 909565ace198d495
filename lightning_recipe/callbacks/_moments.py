"""What happens to gradients in a step, in order: backward, clipping, the optimiser's step, zero_grad."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.step import Step

HELD = {"backward", "clip", "optimizer step"}
"""Kinds of events before which gradients are measured."""


class Moment(NamedTuple):
    """Something begins.

    Attributes:
        kind: As of an event; ``"end"`` at the end of the step.
        parameters: Names of those it is about.
        norms: Norm of each gradient that is there, by parameter; none of a zero_grad.
        where: The line that called it, where that is known.

    Example:
        >>> Moment("backward", (), {"w": 1.5}).where
        ''

    """

    kind: str
    parameters: tuple[str, ...]
    norms: dict[str, float]
    where: str = ""


def moments(step: Step) -> Iterator[Moment]:
    """Each of them, and the end."""
    held = iter(step.held)
    for event in step.events:
        if event.kind in HELD:
            yield Moment(event.kind, event.parameters, next(held), event.where)
        elif event.kind == "zero_grad":
            yield Moment(event.kind, event.parameters, {})
    yield Moment("end", (), next(held))
