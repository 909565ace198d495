"""Whether what is made again of an input is the same for all examples, as of an autoencoder whose code is empty."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.callbacks._interchanged import differing, interchanged
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.tensors import mapped, same
from lightning_recipe.trial.entries import entered

if TYPE_CHECKING:
    from torch import nn

    from lightning_recipe.callbacks._interchanged import Trial
    from lightning_recipe.trial.rehearsal import Rehearsal

ALIKE = 0.05
"""Change of what is made of an input, as a share of that of the input itself, that is next to nothing."""
TELLS = 1e-3
"""Change of a loss, over its size, that rounding can't hide."""
WORTH = 0.01
"""Change of the loss, as a share of it, from which on the network gains something by its input."""
GROWS = 1.5
"""Times as large a change at the second look, from which on the network is about to learn it."""


class Made(NamedTuple):
    """What is made of an input, and how much it depends on it.

    Attributes:
        path: Of the entry of the batch.
        share: Change of what is made of it, as a share of its own, when it is another example's.
        worth: Change of the loss, as a share of it, when only what enters the network is another example's; infinite
            where that can't be told, or need not be.

    """

    path: str
    share: float
    worth: float


def made_of(again: Rehearsal, batch: Any, trial: Trial) -> Made | None:
    """What becomes of the input that the loss compares with what is made of it; nothing if there is none.

    As the input is the target, too, only what enters the network is interchanged between examples for this.

    Args:
        again: The copy; in eval mode.
        batch: As the step receives it.
        trial: What became of it when its entries were interchanged.

    Raises:
        CannotRehearseError: If the step can't be run.

    """
    for path, entry in differing(batch).items():
        effects = trial.inputs.get(path, [])
        if len(effects) < 2 or entry.layout is not torch.strided or not entry.is_floating_point():  # noqa: PLR2004
            continue
        if not effects[1].loss > TELLS:
            continue
        share = effects[0].remade / float((entry - interchanged(entry)).double().square().mean().sqrt())
        if not share > 0:  # nothing has as many numbers, or it is made of something else, as of a generator's noise
            continue
        worth = _worth(again, batch, entry) if share < ALIKE else None
        return Made(path, share, math.inf if worth is None else worth)
    return None


def judge(before: Made | None, now: Made | None) -> Outcome | None:
    """`warning` if at two looks all examples get the same.

    Example:
        >>> judge(Made("batch[0]", 0.001, 0.0), Made("batch[0]", 0.001, 0.0)).code
        'same_for_all'
        >>> judge(Made("batch[0]", 0.001, 0.0), Made("batch[0]", 0.02, 0.0)) is None
        True

    """
    if before is None or now is None or before.path != now.path:
        return None
    if max(before.share, now.share) > ALIKE or max(before.worth, now.worth) > WORTH:
        return None
    if now.share > max(GROWS * before.share, ALIKE / 4):
        return None
    return Outcome(
        Status.WARNING,
        "same_for_all",
        f"what is made of {now.path} is the same for all examples: it changes {now.share:.2g}x as much as the input "
        f"when another one enters, and the loss by {now.worth:.1g} of it",
        "where a code is drawn, its posterior has collapsed: see whether the KL term is a sum and the error a mean, "
        "give it a smaller weight, or one that grows from 0; else follow the input through the network",
        {"share": now.share, "worth": now.worth},
    )


def _worth(again: Rehearsal, batch: Any, entry: Tensor) -> float | None:
    """How much the loss changes when its first layers are given other examples; nothing if they can't be."""
    loss = again.step(batch).loss
    variant = mapped(batch, Tensor, partial(_swapped, entry))
    before, after = ({one.name: one.values for one in entered(again, b).entries} for b in (batch, variant))
    layers = [name for name, values in before.items() if name in after and not same(values, after[name])]
    if loss is None or not layers or any(len(before[name]) != len(entry) for name in layers):
        return None
    handles = [
        again.module.get_submodule(name).register_forward_pre_hook(partial(_give_others, len(entry)), with_kwargs=True)
        for name in layers
    ]
    try:
        other = again.step(batch).loss
    finally:
        for handle in handles:
            handle.remove()
    value = float(loss.detach().sum())
    return abs(float(other.detach().sum()) - value) / abs(value) if other is not None and value else None


def _give_others(
    size: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What no layer has computed is that of other examples."""

    def other(tensor: Tensor) -> Tensor:
        own = tensor.ndim > 0 and len(tensor) == size and not tensor.requires_grad
        return interchanged(tensor) if own else tensor

    return mapped(args, Tensor, other), mapped(kwargs, Tensor, other)


def _swapped(entry: Tensor, value: Tensor) -> Tensor:
    return interchanged(value) if value is entry else value
