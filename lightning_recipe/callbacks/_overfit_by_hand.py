"""How low a loss can come that is written by hand: the step itself says it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lightning_recipe.losses.floor import Floor
from lightning_recipe.record.step import Need
from lightning_recipe.trial.answers import Answers
from lightning_recipe.trial.calming import without_dropout
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

MARGIN = 0.5
"""What counts as far below a constant where nothing is the lowest: this share of ``1 + |its loss|``. For a density's
likelihood of standardised numbers that is 1.2 nats, an R2 of 0.9."""
ENDLESS = 100.0
"""Times ``1 + |the first loss|`` that a constant lies below 0 only where the loss falls in proportion to outputs; a
likelihood falls by their logarithm."""
DRAWN = {"multinomial", "bernoulli", "binomial", "normal", "poisson"}
"""Functions by which ``torch.distributions`` draw what no gradient goes through, by parameters that a network gives."""
_LESS = 1e-3  # relative difference from which on free answers are better than a constant


def asked(run: Run, batch: Any, step: Step | None) -> Floor | str:
    """What free answers reach, and what a constant does; or in words why that isn't known.

    Args:
        run: The run that is about to begin.
        batch: As ``training_step`` receives it.
        step: What the step did with it, if that was seen.

    """
    if step is not None and any(call.target_from_net for call in step.loss_calls):
        return "the lowest loss is not known: the network computes its target"
    try:
        with rehearsal(run) as again:
            without_dropout(again.module)
            if any(event.name in DRAWN for event in again.step(batch, needs=Need.WIRING).events):
                return "no lowest loss is known: the step draws from what the network puts out, as from a policy"
            answers = Answers(again, batch)
            constant = answers.constant()
            if step is not None and step.loss is not None and constant < -ENDLESS * (1 + abs(float(step.loss.mean()))):
                return f"there is no lowest loss: a constant goes below {constant:.3g}, as of a policy gradient"
            found = way(answers.lowest(), constant)
            return found if isinstance(found, str) else replace(found, layers=tuple(answers.modules))
    except CannotRehearseError as reason:
        return f"the lowest loss is not known: {reason}"


def way(lowest: float, constant: float) -> Floor | str:
    """The way that memorising goes, from a constant to free answers.

    Args:
        lowest: The loss that free answers reach, or pass by.
        constant: The loss of the best constant found.

    Example:
        >>> way(0.005, 0.69).value
        0.005
        >>> way(-30.0, 1.4).value  # a density
        0.2

    """
    if not math.isfinite(constant + lowest) or lowest > constant - _LESS * max(abs(constant), 1e-6):
        return f"the lowest loss is not known: free answers reach {lowest:.4g}, and a constant {constant:.4g}"
    margin = MARGIN * (1 + abs(constant))
    if lowest < min(0.0, constant - margin):
        return Floor(round(constant - margin, 9), constant, f"free answers go on below {lowest:.3g}")
    return Floor(lowest, constant, "of free answers")
