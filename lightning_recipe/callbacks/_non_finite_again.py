"""A batch run again, on a copy with finite weights, to see where numbers stop being finite; and whether weights are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_recipe.callbacks._non_finite import EXPONENTIALS
from lightning_recipe.record.origin import INVERSES, Origin, Tracing, tracing
from lightning_recipe.record.tensors import mapped

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

    from lightning_recipe.trial.rehearsal import Rehearsal

OVERFLOW = math.log(torch.finfo(torch.float32).max)
"""Of what the exponential is infinite."""
EDGE = 1e-3
"""Distance from 0, or of arc functions from 1, from which down the next steps may well get there."""
NEAR = 0.5
"""Share of it, from which on it is what will overflow as the network becomes surer: softmax and sigmoid by hand begin
with a few units, weights that diverge go through any number at once."""


class Traced:
    """What running a batch again has shown.

    Attributes:
        loss: By the weights kept.
        origin: Where numbers stopped being finite, if they did.
        by_inputs: Whether they stay finite once what is not finite in the batch is 0.
        about_to: A function that is about to give what is not finite, and what it is given, if they stay finite: an
            exponential of a large number, or what is infinite at 0 or 1 and comes next to it.

    """

    def __init__(
        self,
        loss: float,
        origin: Origin | None,
        *,
        by_inputs: bool,
        about_to: tuple[Origin, str] | None = None,
    ) -> None:
        self.loss, self.origin, self.by_inputs, self.about_to = loss, origin, by_inputs, about_to


def traced(again: Rehearsal, batch: Any, weights: dict[str, Tensor], *, cleaned: bool) -> Traced:
    """Run a batch on a copy with weights that are finite, going forward and back."""
    state = again.module.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, tensor in weights.items():
            state[name].copy_(tensor)
    if cleaned:
        filled = mapped(batch, Tensor, lambda t: torch.nan_to_num(t, 0, 0, 0) if t.is_floating_point() else t)
        loss, origin, _ = _once(again, filled)
        if origin is None and math.isfinite(loss):
            return Traced(loss, None, by_inputs=True)
    loss, origin, trace = _once(again, batch)
    return Traced(loss, origin, by_inputs=False, about_to=_about_to(trace) if origin is None else None)


def _about_to(trace: Tracing) -> tuple[Origin, str] | None:
    if trace.exponential is not None and trace.exponential[1] > NEAR * OVERFLOW:
        return trace.exponential[0], f"an exponential is of {trace.exponential[1]:.3g}"
    if trace.nearest is not None and trace.nearest[2] < EDGE:
        place, margin, _ = trace.nearest
        return place, f"{place.function} is given a number {margin:.2g} from {1 if place.function in INVERSES else 0}"
    return None


def _once(again: Rehearsal, batch: Any) -> tuple[float, Origin | None, Tracing]:
    with tracing(again.module) as trace:
        loss = again.step(batch).loss
    if loss is None:
        return math.nan, trace.first, trace
    value = float(loss.sum())
    if not math.isfinite(value) or not loss.requires_grad:
        return value, trace.first, trace
    origin = trace.backward(loss)
    overflown = trace.infinite  # what is divided by it is 0 going forward, and NaN going back
    hidden = origin is not None and overflown is not None and overflown.function in EXPONENTIALS
    return value, overflown if hidden else origin, trace


@torch.no_grad()
def not_finite(module: LightningModule) -> list[str]:
    """Names of the parameters that learn and are not finite; waits for the device once.

    Example:
        >>> net = torch.nn.Linear(1, 1)
        >>> net.bias.data.fill_(torch.nan)
        tensor([nan])
        >>> not_finite(net)
        ['bias']

    """
    learning = learned(module)
    if not learning:
        return []
    norms = [torch.linalg.vector_norm(parameter.detach(), math.inf).float() for parameter in learning.values()]
    values = torch.stack([norm.to(norms[0].device) for norm in norms]).tolist()
    return [name for name, norm in zip(learning, values, strict=True) if not math.isfinite(norm)]


def learned(module: LightningModule) -> dict[str, Tensor]:
    """The parameters that learn, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad and not is_lazy(p) and p.numel()}
