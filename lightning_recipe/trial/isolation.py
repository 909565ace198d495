"""Experiments leave no trace: random states saved and restored, other processes out of sight, the original guarded."""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states
from torch import distributed, nn
from torch.nn.parameter import is_lazy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import LightningModule, Trainer

SHARDED = ("FSDP", "DeepSpeed", "ModelParallel")
"""Parts of the names of Lightning's strategies under which no process holds all parameters."""


def obstacle(trainer: Trainer) -> str | None:
    """Why one process can't run the module, or a copy of it, by itself in this run, or None.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> obstacle(Trainer(accelerator="cpu", logger=False, barebones=True)) is None
        True

    """
    strategy = type(trainer.strategy).__name__
    if any(name in strategy for name in SHARDED):
        return f"the parameters are sharded ({strategy}), and a shard can't be run alone"
    return None


@contextmanager
def isolated() -> Iterator[None]:
    """Run an experiment alone, and restore the random states afterwards.

    The random states of torch, CUDA, numpy and Python are put back at the end, also when the body raises (Lightning's
    ``isolate_rng`` does not then). Meanwhile the other processes of a distributed run are out of sight: ranks do not
    experiment in step with each other, and one that waits for another would wait for ever. What insists on talking to
    them raises instead.

    Example:
        >>> import torch
        >>> before = torch.get_rng_state()
        >>> with isolated():
        ...     _ = torch.rand(3)
        >>> torch.equal(before, torch.get_rng_state())
        True

    """
    states = _collect_rng_states()
    group = distributed.GroupMember.WORLD if distributed.is_available() else None
    try:
        if group is not None:
            distributed.GroupMember.WORLD = None
        yield
    finally:
        if group is not None:
            distributed.GroupMember.WORLD = group
        _set_rng_states(states)


@contextmanager
def untouched(pl_module: LightningModule) -> Iterator[None]:
    """Make sure that what runs on a copy leaves the original alone; if it did not, gradients and buffers are put back.

    A copy may reach the original by ways that ``copy.deepcopy`` does not know, such as a weak reference.

    Raises:
        RuntimeError: If the original was written to.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> with untouched(net):
        ...     net(torch.ones(1, 1)).sum().backward()
        Traceback (most recent call last):
        RuntimeError: a copy of the module works on the weights of the original
        >>> net.weight.grad is None
        True

    """
    gradients = [(p, p.grad) for p in pl_module.parameters() if not is_lazy(p)]
    watched = [*(p for p, _ in gradients), *(g for _, g in gradients if g is not None)]
    versions = [(t, t._version) for t in watched if not t.is_inference()]  # noqa: SLF001 - there is no other way to tell
    buffers = [(b, b.detach().clone()) for b in pl_module.buffers() if b.layout is torch.strided and not is_lazy(b)]
    try:
        yield
    finally:
        strayed = any(p.grad is not gradient for p, gradient in gradients)
        strayed |= any(t._version != version for t, version in versions)  # noqa: SLF001
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for buffer, before in buffers:
            if not torch.equal(buffer, before) and not before.isnan().any():
                buffer.copy_(before)
                strayed = True
    if strayed:
        msg = "a copy of the module works on the weights of the original"
        raise RuntimeError(msg)


@contextmanager
def eager(module: nn.Module) -> Iterator[None]:
    """Run the compiled modules within `module` uncompiled: compiling a copy takes longer than the experiment."""
    compiled = (m for m in module.modules() if "_orig_mod" in m._modules or m._compiled_call_impl is not None)  # noqa: SLF001
    if "torch._dynamo" in sys.modules or any(compiled):  # else don't import it, which takes seconds
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield


def mute(pl_module: LightningModule) -> None:
    """Make ``self.log`` and ``self.log_dict`` of this object do nothing; the caller puts back, unless it is a copy.

    Nobody would see what an experiment logs, and in a short fit logging takes a third of the time.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> module = BoringModel()
        >>> mute(module)
        >>> module.log("loss", 1.0)

    """
    pl_module.__dict__ |= {"log": _nothing, "log_dict": _nothing}


def _nothing(*_: Any, **__: Any) -> None:
    """In the place of ``self.log``."""


@contextmanager
def memory_given_back(device: torch.device) -> Iterator[None]:
    """Free what an experiment leaves behind in reference cycles, on the GPU too, also after running out of memory.

    What was there before is left alone: to search all objects of a process takes a quarter of a second.
    """
    freezes = not gc.get_freeze_count()  # else the user has frozen what there was, and all of it would be thawed
    if freezes:
        gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        if freezes:
            gc.unfreeze()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, of the CPU or of an accelerator.

    Example:
        >>> is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")), is_out_of_memory(KeyError())
        (True, False)

    """
    said = "out of memory" in str(error) or "can't allocate memory" in str(error)
    return said or isinstance(error, MemoryError | torch.OutOfMemoryError)
