"""Draws that a network decides on and another one goes on with, while no gradient comes back through them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_recipe.callbacks._cuts import CUTS
from lightning_recipe.finding import Outcome, Status, listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.events import Event
    from lightning_recipe.record.step import Step

DRAWS = {"normal"}
"""What ``Normal.sample`` calls; ``rsample`` calls another one."""


def sampled(step: Step) -> Iterator[tuple[Outcome, str]]:
    """Normal numbers whose mean a trained module gives, and that enter another one that is trained.

    Nothing else is made of a draw and of what it was drawn by, as the likelihood of an action is.
    """
    trained = {name for name, norm in step.gradients.items() if norm > 0}
    decides: set[int] = set()
    for event in step.events:
        if _is_trained(event, trained) or (event.name not in CUTS | DRAWS and decides.intersection(event.inputs)):
            decides.update(event.outputs)
        if event.name in DRAWS and decides.intersection(event.inputs):
            users, others = _users(step, event, decides, trained)
            if users and not others:
                yield (
                    Outcome(
                        Status.WARNING,
                        "drawn_without_gradient",
                        f"{listed(users)} goes on with what was drawn ({event.where}), and no gradient comes back "
                        "through it to the network that gives its mean",
                        "rsample() in place of sample(), or mean + std * torch.randn_like(std)",
                        {"modules": len(users)},
                    ),
                    event.where,
                )


def _is_trained(event: Event, trained: set[str]) -> bool:
    """Whether a module was called with gradients, and one of its parameters has got one."""
    if event.module is None or event.where:
        return False
    return any(f"{event.name}.{name}" in trained for name, _ in event.module.named_parameters())


def _users(step: Step, draw: Event, decides: set[int], trained: set[str]) -> tuple[list[str], bool]:
    """The trained modules that a draw enters, and whether it meets anything that it was drawn by."""
    made, users = set(draw.outputs), dict[str, None]()
    own = decides - made
    for event in step.events:
        if event is draw or not made.intersection(event.inputs):
            continue
        if event.module is not None:
            users |= dict.fromkeys([event.name] * _is_trained(event, trained))
            continue
        if own.intersection(event.inputs):
            return [], True
        made.update(event.outputs)
    return list(users), False
