"""Whether the gradient of a step is that of its loss: not where it is turned around, or made up, on purpose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_recipe.run import Run
    from lightning_recipe.trial.rehearsal import Rehearsal

MOST = 6
"""Parameters that are tried, the largest."""
TRIES = 4
"""Directions for each."""
MOVED = 2.0
"""Of a parameter's root mean square, by which it is moved before."""
STEP = 1e-3
"""Of the norm of a parameter, by which it is moved."""
OTHER = 0.15
"""Root mean square of what the loss rises otherwise than its gradient says, over that of the rise: of eleven networks,
transformers among them, it was 0.04 at most."""
COUNTS = 0.1
"""Of the largest rise by a parameter, at least: of less rounding tells nothing."""


def has_other_gradient(run: Run, batch: Any) -> bool:
    """Whether the loss changes otherwise than its gradient says when a parameter moves a little, on a copy.

    So it is with gradient reversal, where a sum of losses is not what all parameters minimise, with straight-through
    estimators, and with surrogates of steps.

    Args:
        run: The run.
        batch: As the step receives it.

    """
    try:
        with rehearsal(run) as again, torch.enable_grad():
            with torch.no_grad():
                for weight in again.module.parameters():  # an adversary that knows nothing yet hardly turns anything
                    if weight.is_floating_point():
                        weight.add_(torch.randn_like(weight) * MOVED * weight.square().mean().sqrt())
            return _is_other(again, batch)
    except CannotRehearseError:
        return False


def _is_other(again: Rehearsal, batch: Any) -> bool:
    loss = again.step(batch).loss
    weights = [p for p in again.module.parameters() if p.requires_grad and p.is_floating_point() and p.norm() > 0]
    weights = sorted(weights, key=lambda p: p.numel())[-MOST:]
    if loss is None or not loss.requires_grad or not weights:
        return False
    gradients = torch.autograd.grad(loss.sum(), weights, allow_unused=True)
    generator = torch.Generator().manual_seed(0)
    rises = []
    for weight, gradient in zip(weights, gradients, strict=True):
        tried = []
        for _ in range(TRIES):
            direction = torch.randn(weight.shape, generator=generator).to(weight)
            direction *= STEP * weight.detach().norm() / direction.norm()
            said = 0.0 if gradient is None else float((gradient * direction).sum())
            tried.append((_rise(again, batch, weight, direction), said))
        rises.append(torch.tensor(tried))
    sizes = torch.stack([rise[:, 0].square().mean().sqrt() for rise in rises])
    apart = torch.stack([(rise[:, 0] - rise[:, 1]).square().mean().sqrt() for rise in rises])
    return bool(((apart > OTHER * sizes) & (sizes > COUNTS * sizes.max())).any())


@torch.no_grad()
def _rise(again: Rehearsal, batch: Any, weight: Tensor, direction: Tensor) -> float:
    """Half of the difference of the losses by a weight that is moved forth and back."""
    losses = []
    for sign in (1, -2):
        weight.add_(direction, alpha=sign)
        loss = again.step(batch).loss
        losses.append(0.0 if loss is None else float(loss.detach().double().sum()))
    weight.add_(direction)
    return (losses[0] - losses[1]) / 2
