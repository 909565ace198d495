"""Targets that nobody has measured, and that count as 0 in the loss."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_recipe.callbacks._interchanged import NEEDS, compared
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.tensors import dense, mapped
from lightning_recipe.trial.rehearsal import CannotRehearseError

if TYPE_CHECKING:
    from lightning_recipe.trial.rehearsal import Rehearsal

SAME = 1e-6
"""Difference of two losses, over their size, that is rounding."""
OTHER = 3.0
"""A number in the place of NaN that no loss takes for 0."""


def missing_counted(again: Rehearsal, batch: Any) -> tuple[str, Outcome] | None:
    """A `warning` if the loss is the same with 0 in the place of NaN, and another one with other numbers there.

    A loss that leaves out what is NaN is another one with 0 there, and one that knows by a mask is the same with both.
    What changes the outputs of the network is an input, which may be filled in.

    Args:
        again: The copy.
        batch: As the step receives it.

    Returns:
        The path of the entry, and the verdict; None if nothing is missing, or what there is does not count.

    """
    for path, tensor in dense(batch, "batch"):
        missing = int(tensor.isnan().sum()) if tensor.is_floating_point() else 0
        if not 0 < missing < tensor.numel():
            continue
        try:
            step, zeros, others = (
                again.step(mapped(batch, Tensor, partial(_filled, tensor, by)), needs=NEEDS)
                for by in (math.nan, 0.0, OTHER)
            )
        except CannotRehearseError:
            continue
        losses = [math.nan if one.loss is None else float(one.loss.detach().sum()) for one in (step, zeros, others)]
        if not all(map(math.isfinite, losses)) or compared(zeros, others).outputs != 0:
            continue
        as_given, with_zeros, with_others = losses
        if abs(as_given - with_zeros) <= SAME * abs(as_given) < abs(as_given - with_others):
            return path, Outcome(
                Status.WARNING,
                "missing_counted",
                f"{missing} of {tensor.numel()} targets in {path} are NaN, for nobody has measured them, and the loss "
                "takes them for 0: predictions are drawn there",
                "leave them out: known = ~y.isnan(); loss(prediction[known], y[known])",
                {"missing": missing, "targets": tensor.numel()},
            )
    return None


def _filled(chosen: Tensor, by: float, tensor: Tensor) -> Tensor:
    return tensor.where(~tensor.isnan(), by) if tensor is chosen else tensor
