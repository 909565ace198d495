"""The losses inside compiled networks, seen by running a copy of the network once more, not compiled."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import torch

from lightning_recipe.record.observers import Observers, was_compiled
from lightning_recipe.record.structure import snapshot
from lightning_recipe.trial.copies import copied
from lightning_recipe.trial.isolation import eager, isolated
from lightning_recipe.trial.shared_code import shares_code

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule
    from torch import nn

    from lightning_recipe.record.step import LossCall, NetCall


def losses_inside(net_calls: list[NetCall]) -> list[LossCall]:
    """Loss functions that compiled modules called in a step, in order.

    Observers in compiled code would have it compiled twice. Instead each call is repeated on a copy that is not
    compiled, with the weights of now, without gradients and on borrowed randomness.

    Raises:
        RuntimeError: If a module can't be copied, or the copy would share a hook.

    """
    found: list[LossCall] = []
    for call in net_calls:
        if was_compiled(call.module):
            module = copy.deepcopy(getattr(call.module, "_orig_mod", call.module))
            for part in module.modules():
                part.__dict__.pop("_compiled_call_impl", None)
            _refuse_shared_code(module)
            observers = Observers(module)
            with isolated(), torch.no_grad(), observers:
                module(*call.args, **call.kwargs)
            found += observers.conclude(None, None, training=False).loss_calls
    return found


def losses_in_step(
    pl_module: LightningModule, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[LossCall]:
    """Loss functions that a step of a module compiled as a whole called, in order; likewise on a copy.

    Args:
        pl_module: What ``torch.compile(LightningModule)`` was given.
        method: Such as ``"training_step"``.
        args: What it was called with.
        kwargs: Likewise.

    Raises:
        RuntimeError: As :func:`losses_inside`.
        Exception: Whatever the step raises without a trainer, as it does when it optimises by hand.

    """
    with isolated(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # self.log says that it does nothing
        module = copied(pl_module)
        _refuse_shared_code(module)
        observers = Observers(module)
        with torch.set_grad_enabled(method == "training_step"), eager(module), observers:
            output = getattr(module, method)(*snapshot(args), **snapshot(kwargs))
    return observers.conclude(None, output, training=method == "training_step").loss_calls


def _refuse_shared_code(module: nn.Module) -> None:
    if shares_code(module):
        msg = "a copy would run a hook that works on what belongs to the user"
        raise RuntimeError(msg)
