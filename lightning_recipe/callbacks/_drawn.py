"""Whether what a step draws and gives to the network, such as the time of a diffusion, has an effect on its outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lightning_recipe.callbacks._interchanged import Interchanging, compared, firsts
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.step import Need
from lightning_recipe.record.tensors import same

if TYPE_CHECKING:
    from lightning_recipe.trial.rehearsal import Rehearsal


def idle_draw(again: Rehearsal, batch: Any) -> tuple[Outcome, str] | None:
    """The first argument of the network's first call that differs between examples and draws, and changes nothing.

    Another argument has an effect, if all the others are the same. What is drawn and masks or selects within the step
    only, and does not enter a module, is not judged.

    Args:
        again: The copy, in eval mode.
        batch: As the step receives it.

    Returns:
        An `advice`, and where it enters.

    """
    step = again.step(batch, needs=Need.INPUTS)
    if not step.net_calls or len(step.net_calls[0].inputs) < 2:  # noqa: PLR2004
        return None
    redrawn = again.step(batch, needs=Need.INPUTS, seed=1)
    if not redrawn.net_calls:
        return None
    size = step.batch_size
    call, others = step.net_calls[0], redrawn.net_calls[0].inputs
    for name, tensor in call.inputs.items():
        each = tensor.layout is torch.strided and tensor.ndim and len(tensor) == size
        if not each or name not in others or same(tensor, firsts(tensor)) or same(tensor, others[name]):
            continue
        with Interchanging(again.module, call, name) as interchanging:
            effect = compared(step, again.step(batch, needs=Need.INPUTS))
        if effect.outputs == 0 and interchanging.done:
            outcome = Outcome(
                Status.ADVICE,
                "one_input_ignored",
                f"the outputs stay the same when {name}, which the step draws, is interchanged between examples",
                "see what becomes of it in the forward pass: an integer division, an embedding that is not added",
                {"examples": len(tensor)},
            )
            return outcome, name
    return None
