"""What enters the first layers: after all that the step and the network's forward did to the batch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_recipe.record.compiled import is_traced
from lightning_recipe.record.modules import observable
from lightning_recipe.record.step import Need
from lightning_recipe.record.tensors import tensors

if TYPE_CHECKING:
    from lightning_recipe.record.step import Step
    from lightning_recipe.trial.rehearsal import Rehearsal


class Entry(NamedTuple):
    """A call of a layer with something that no layer with parameters had computed.

    Attributes:
        name: The layer's name in the LightningModule.
        module: The layer, of the copy.
        values: What went in, detached, as its first floating-point argument.

    Example:
        >>> Entry("net.0", nn.Linear(2, 1), torch.zeros(3, 2)).values.shape
        torch.Size([3, 2])

    """

    name: str
    module: nn.Module
    values: Tensor


class Entered(NamedTuple):
    """What one step let in.

    Attributes:
        entries: By layer, the first call of each, in order.
        norms: The same of BatchNorms with running statistics, wherever they stand.
        indices: The same of embeddings, whose values are integers.
        step: What else was recorded, with its wiring and losses.

    """

    entries: list[Entry]
    norms: list[Entry]
    indices: list[Entry]
    step: Step


def entered(again: Rehearsal, batch: Any, method: str = "training_step", seed: int = 0) -> Entered:
    """Run a step on the copy, and see what enters its first layers.

    What no layer with parameters has computed needs no gradient, once all parameters of the copy do. Where a network
    is called without gradients, as a teacher is, only the first layer is known to be one.

    Args:
        again: The copy; its parameters all require gradients afterwards.
        batch: As the step receives it.
        method: Such as ``"validation_step"``.
        seed: Of what the step draws.

    Raises:
        CannotRehearseError: As :meth:`Rehearsal.step`.

    """
    seen = _Seen()
    for parameter in again.module.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad = True
    handles = []
    for name, module, leaf, _ in observable(again.module, inside_fast=True):
        if leaf and (isinstance(module, _BatchNorm) or next(module.parameters(), None) is not None):
            handles.append(module.register_forward_pre_hook(partial(seen.see, name), with_kwargs=True))
        if leaf and isinstance(module, _BatchNorm):
            handles.append(module.register_forward_hook(_computed))
    try:
        step = again.step(batch, needs=Need.WIRING | Need.LOSSES, method=method, seed=seed)
    finally:
        for handle in handles:
            handle.remove()
    entries = list(seen.entries.values()) or seen.first
    indices = list(seen.indices.values())
    return Entered(entries, list(seen.norms.values()), indices, replace(step, loss=None))  # the graph is not kept


def _computed(_: nn.Module, __: Any, output: Any) -> Any:
    """What a BatchNorm without parameters puts out enters nothing: it depends on the mode, and on other examples."""
    if not torch.is_grad_enabled() or not isinstance(output, Tensor) or output.requires_grad:
        return output
    return output.detach().requires_grad_().clone()  # code that works in place may do so on a clone


class _Seen:
    """Takes note of what enters layers."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self.norms: dict[int, Entry] = {}
        self.indices: dict[int, Entry] = {}
        self.first: list[Entry] = []

    def see(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - what we do with it is no event of the step
            if is_traced():  # by vmap: what enters stands for one example
                return
            every = [t for _, t in tensors((args, kwargs)) if t.layout is torch.strided]
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and every:
                self.indices.setdefault(id(module), Entry(name, module, every[0].detach()))
                return
            given = [t for t in every if t.is_floating_point()]
            if not given or not given[0].ndim or not given[0].numel():
                return
            entry = Entry(name, module, given[0].detach())
            self.first = self.first or [entry]
            if isinstance(module, _BatchNorm) and module.track_running_stats:
                self.norms.setdefault(id(module), entry)
            if torch.is_grad_enabled() and not given[0].requires_grad:
                self.entries.setdefault(id(module), entry)
