"""The losses inside compiled networks, seen by running a copy of the network once more, not compiled."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from lightning_recipe.record.compiled import was_compiled
from lightning_recipe.record.copies import snapshot
from lightning_recipe.record.observers import Observers
from lightning_recipe.trial.copies import copied
from lightning_recipe.trial.isolation import eager, isolated
from lightning_recipe.trial.shared_code import shares_code

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule
    from torch import nn

    from lightning_recipe.record.step import LossCall, NetCall, Step


def with_unseen_losses(
    step: Step, pl_module: LightningModule, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Step:
    """`step` with the losses inside of compiled code, where none were seen and something was compiled.

    For ``Probe.attach(..., complete=with_unseen_losses)``: right after the step the weights are still those it ran on.

    Args:
        step: What was observed.
        pl_module: The module whose step it was.
        method: Such as ``"training_step"``.
        args: What it was called with.
        kwargs: Likewise.

    Raises:
        RuntimeError: As :func:`losses_inside`.
        Exception: As :func:`losses_in_step`.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> from lightning_recipe.record.probe import Probe
        >>> module = BoringModel()
        >>> module.layer = torch.compile(module.layer, backend="eager")
        >>> probe = Probe.attach(module, "training_step", complete=with_unseen_losses)
        >>> _ = module.training_step(torch.ones(4, 32), 0)
        >>> [call.name for call in probe.result().loss_calls]
        ['mse_loss']

    """
    if not step.compiled or step.loss_calls:
        return step
    if getattr(pl_module, "_compiler_ctx", None) is not None:
        return replace(step, loss_calls=losses_in_step(pl_module, method, args, kwargs))
    return replace(step, loss_calls=losses_inside(step.net_calls))


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
