"""A loss that is a mean over the examples already, and is divided by their number once more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from lightning_recipe.callbacks._update_ratios import ADAMS
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.optim import Optimizer

    from lightning_recipe.record.step import Step

FEWEST = 8
"""Examples of a batch, fewer than which may be the number of batches whose gradients are added up."""
ROUNDING = 1e-3
"""Relative, of losses in half precision."""


def divided_again(step: Step, optimizers: Sequence[Optimizer]) -> Outcome | None:
    """What to say of a step with a single loss, whose mean it divides by as many as there are examples.

    `advice` with Adam, whose steps are as long whatever the size of gradients.

    Args:
        step: The first, with its losses.
        optimizers: All of the run.

    """
    if len(step.loss_calls) != 1 or step.loss is None or step.loss.numel() != 1:
        return None
    (call,) = step.loss_calls
    value, loss = call.value, float(step.loss.detach())
    if call.times != 1 or value.numel() != 1 or call.examples < FEWEST or not loss:
        return None
    mean = call.arguments.get("reduction") == "mean" and not isinstance(call.arguments.get("weight"), Tensor)
    if not (mean and abs(float(value) / loss / call.examples - 1) <= ROUNDING):
        return None
    return Outcome(
        Status.ADVICE if all(type(one).__name__ in ADAMS for one in optimizers) else Status.WARNING,
        "divided_again",
        f"the loss is {loss:.3g}, which is the mean {float(value):.3g} of {call.name} ({call.where}) divided by the "
        f"{call.examples} examples of the batch again: gradients, and the steps of SGD, are as many times too small",
        'take away the division; or reduction="sum" where the number that divides is another one',
        {"loss": loss, "mean": float(value), "examples": call.examples},
    )
