"""What enters in validation, as many times as large or small as in training, as after another logarithm."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.step import Need
from lightning_recipe.trial.rehearsal import CannotRehearseError, Rehearsal, rehearsal

if TYPE_CHECKING:
    from lightning_recipe.run import Run

FEW = 16
"""Examples, at least, of both."""
APART = 1.7
"""Times as large a standard deviation, from which on a factor is tried: augmentation and mixup leave less."""
AROUND = 0.25
"""A mean, in standard deviations, from which on it tells whether it has the same factor: what varies around 0 may be
louder, or another season."""
TOGETHER = 1.8
"""Times that both factors may differ, by chance: of 32 sounds whose levels differ by 20 decibels they do by 1.5."""
BETTER = 0.5
"""Share of the loss that is left once the factor is undone, up to which it is the cause."""
USUAL = {
    "log10 and log": math.log(10),
    "decibels (10 log10) and log": 10 / math.log(10),
    "decibels (20 log10) and log": 20 / math.log(10),
    "log10 and log2": math.log2(10),
    "20 log10 and 10 log10": 2.0,
    "inches and centimetres": 2.54,
}
"""What a factor may come from."""
NEAR = 1.12
"""Times that it may differ from this, since it is estimated from two batches."""


def times(train: Tensor, val: Tensor) -> float:
    """How many times as large all is in validation, mean and standard deviation; 1 where nothing speaks for a factor.

    What has no negative numbers may be darker, or quieter; what varies around 0 as well.

    Example:
        >>> import torch
        >>> x = torch.randn(64, 20, generator=torch.Generator().manual_seed(0)) - 1
        >>> round(times(x, x / 2), 2), times(x, x + 1), times(x, x / 2 - 1), times(x + 1, x / 2 + 1)
        (0.5, 1.0, 1.0, 1.0)

    """
    if min(len(train), len(val)) < FEW:
        return 1.0
    before, now = train.double(), val.double()
    signed = min(float(before.max()), float(now.max())) > 0 or max(float(before.max()), float(now.max())) < 0
    if not signed or max(float(before.min()), float(now.min())) >= 0:
        return 1.0
    spread, mean = float(before.std()), float(before.mean())
    ratio = float(now.std()) / max(spread, 1e-12)
    same = abs(mean) > AROUND * spread and 1 / TOGETHER < float(now.mean()) / mean / max(ratio, 1e-12) < TOGETHER
    return ratio if same and max(ratio, 1 / max(ratio, 1e-12)) > APART else 1.0


def undone(run: Run, batch: Any, name: str, ratio: float) -> tuple[float, float] | None:
    """The loss of validation as it is, and with what enters a layer divided by `ratio`; None if nobody knows."""
    try:
        with rehearsal(run) as again:
            again.module.requires_grad_(requires_grad=False)  # validation takes its results to numpy
            before = loss_of(again, batch)
            layer = again.module.get_submodule(name)
            handle = layer.register_forward_pre_hook(lambda _, args: _divided(args, ratio))
            try:
                return None if before is None or (after := loss_of(again, batch)) is None else (before, after)
            finally:
                handle.remove()
    except CannotRehearseError:
        return None


def _divided(args: tuple[Any, ...], ratio: float) -> tuple[Any, ...]:
    numbers = bool(args) and isinstance(args[0], Tensor) and args[0].is_floating_point()
    return (args[0] / ratio, *args[1:]) if numbers else args


def loss_of(again: Rehearsal, batch: Any) -> float | None:
    """What a loss function gives, what the step returns, or logs as a loss."""
    step = again.step(batch, needs=Need.LOSSES, method="validation_step")
    logged = [one.value for one in again.logged if "loss" in one.name]
    found = [*(call.value for call in step.loss_calls[:1]), step.loss, *logged]
    return next((float(value.detach().mean()) for value in found if isinstance(value, Tensor) and value.numel()), None)


def of_factor(name: str, ratio: float, before: float, after: float) -> Outcome | None:
    """What is to be said of a factor, if little of the loss is left without it.

    Example:
        >>> of_factor("net.0", 0.43, 1.3, 0.2).evidence["ratio"], of_factor("net.0", 0.5, 1.3, 1.0)
        (0.43, None)

    """
    if not 0 < after < BETTER * before:
        return None
    apart = max(ratio, 1 / ratio)
    near = {which: abs(math.log(factor / apart)) for which, factor in USUAL.items()}
    usual = sorted((which for which in near if near[which] < math.log(NEAR)), key=near.__getitem__)
    told = [f"{which} ({USUAL[which] if ratio > 1 else 1 / USUAL[which]:.3g})" for which in usual]
    why = f", about as there are between {', or '.join(told)}" if told else ""
    return Outcome(
        Status.WARNING,
        "validation_differs",
        f"{name} gets {ratio:.3g}x as large numbers in validation as in training, in their mean and their standard "
        f"deviation{why}: divided by that, the loss of validation falls from {before:.3g} to {after:.3g}",
        "see how both are made, to which unit, logarithm or scale; use one function for both",
        {"ratio": ratio, "loss": before, "undone": after},
    )
