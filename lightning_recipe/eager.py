"""The losses inside compiled networks, seen by running a copy of the network once more, not compiled."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from lightning_recipe.observers import Observers, was_compiled
from lightning_recipe.trial import isolated

if TYPE_CHECKING:
    from lightning_recipe.step import LossCall, NetCall


def losses_inside(net_calls: list[NetCall]) -> list[LossCall]:
    """Loss functions that compiled modules called in a step, in order.

    Observers in compiled code would have it compiled twice. Instead each call is repeated on a copy that is not
    compiled, with the weights of now, without gradients and on borrowed randomness.

    Raises:
        RuntimeError: If a module can't be copied.

    """
    found: list[LossCall] = []
    for call in net_calls:
        if was_compiled(call.module):
            module = copy.deepcopy(getattr(call.module, "_orig_mod", call.module))
            for part in module.modules():
                part.__dict__.pop("_compiled_call_impl", None)
            observers = Observers(module)
            with isolated(), torch.no_grad(), observers:
                module(*call.args, **call.kwargs)
            found += observers.conclude(None, None, training=False).loss_calls
    return found
