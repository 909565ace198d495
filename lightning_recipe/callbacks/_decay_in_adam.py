"""A weight decay that was meant for AdamW, in an optimiser that adds it to the gradient and divides by its size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_recipe.callbacks._update_ratios import OFTEN
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.optim import Optimizer

    from lightning_recipe.callbacks._loss_course import Course
    from lightning_recipe.callbacks._update_ratios import Look

ADAPTIVE = {"Adam", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop"}
"""Optimisers of PyTorch that divide a gradient by how large it usually is, and the decay in it, too."""
MEANT = 0.01
"""Weight decay from which on it is one for AdamW, whose default this is; in Adam 1e-5 to 5e-4 are usual."""
SHRUNK = 0.5
"""Norm of the weights, in that of the first look, below which decay has shrunk them."""
SHARE = 0.3
"""Of decay in the gradient, at `OFTEN` looks."""


def decay_in_adam(looks: Sequence[Look], course: Course, optimizers: Sequence[Optimizer]) -> Outcome | None:
    """`advice` if the weights shrank by it while something was learnt; what is lost is another finding's.

    Args:
        looks: All until now.
        course: Of the loss.
        optimizers: Of the trainer.

    Source:
        I. Loshchilov and F. Hutter, Decoupled Weight Decay Regularization (2019).

    """
    strengths = [
        (float(group.get("weight_decay") or 0), type(optimizer).__name__)
        for optimizer in optimizers
        if type(optimizer).__name__ in ADAPTIVE
        for group in optimizer.param_groups
        if not group.get("decoupled_weight_decay")
    ]
    strength, name = max(strengths, default=(0.0, ""))
    first, last = looks[0].norm, looks[-1].norm
    strong = sum(look.decay > SHARE for look in looks)
    if strength < MEANT or strong < OFTEN or not last < SHRUNK * first:
        return None
    return Outcome(
        Status.ADVICE,
        "decay_in_adam",
        f"{name} adds a weight decay of {strength:g} to the gradient and divides it by the gradient's size: the norm "
        f"of the weights shrank from {first:.3g} to {last:.3g} (loss {course})",
        f"AdamW, which takes it off the weights by itself; or {name} with a hundredth of it",
        {"weight_decay": strength, "norm_first": first, "norm": last},
    )
