"""Whether layers that take an input, and nothing else does, learn nothing from it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_recipe.callbacks._interchanged import differing, interchanged, swapped
from lightning_recipe.record.tensors import mapped, same
from lightning_recipe.trial.entries import entered
from lightning_recipe.trial.rehearsal import CannotRehearseError

if TYPE_CHECKING:
    from collections.abc import Collection

    from lightning_recipe.trial.rehearsal import Rehearsal

TRIES = 4
"""Random streams and numbers of the batch in which the step is tried: one may leave an input out now and then."""
NOTHING = 1e-6
"""Of the largest gradient of a parameter: less is rounding."""


def in_vain(again: Rehearsal, batch: Any, path: str, trained: Collection[str]) -> list[str]:
    """The layers that an entry of the batch enters, if the loss has no gradient with respect to any of their weights.

    Args:
        again: The copy; its parameters all require gradients afterwards.
        batch: As the step receives it.
        path: Of the entry, which has no effect on the loss.
        trained: Names of the parameters that are to learn; of other layers nothing is said.

    Returns:
        Their names; none where they learn, or nobody knows.

    """
    entries, before = differing(batch), again.index
    if path not in entries:  # features of nodes or edges
        return []
    other = mapped(batch, Tensor, partial(swapped, {id(entries[path]): interchanged(entries[path])}))
    try:
        with torch.inference_mode(mode=False), torch.enable_grad():  # in validation both are otherwise
            seen, then = (entered(again, one) for one in (batch, other))
            others = {one.name: one.values for one in (*then.entries, *then.indices)}
            taking = [
                one.name
                for one in (*seen.entries, *seen.indices)
                if one.name in others and not same(one.values, others[one.name])
            ]
            for again.index in range(TRIES):
                if not taking or _learn(again, batch, taking, trained):
                    return []
    except CannotRehearseError:
        return []
    finally:
        again.index = before
    return taking


def _learn(again: Rehearsal, batch: Any, layers: list[str], trained: Collection[str]) -> bool:
    """Whether one of the layers is to learn and gets a gradient, or nobody knows."""
    weights = {name: p for name, p in again.module.named_parameters() if p.is_floating_point() and name in trained}
    own = {name for name in weights if name.rpartition(".")[0] in layers}
    loss = again.step(batch, seed=again.index).loss
    if not own or loss is None or not loss.requires_grad:
        return True
    gradients = torch.autograd.grad(loss.sum(), list(weights.values()), allow_unused=True)
    sizes = {
        name: 0.0 if gradient is None else float(gradient.abs().max())
        for name, gradient in zip(weights, gradients, strict=True)
    }
    return not max(sizes[name] for name in own) <= NOTHING * max(sizes.values())
