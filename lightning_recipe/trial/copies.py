"""Experiments that leave no trace: everything that must change something works on a copy, on borrowed randomness."""

from __future__ import annotations

import copy
import functools
import gc
import sys
from contextlib import contextmanager
from types import CellType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, Dataset
from torchmetrics import Metric

from lightning_recipe.record.copies import cloned
from lightning_recipe.record.probe import original
from lightning_recipe.record.tensors import tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lightning.pytorch import LightningModule, Trainer
    from torch.optim import Optimizer

M = TypeVar("M", bound=nn.Module)
_STEPS = ("forward", "training_step", "validation_step", "test_step", "predict_step")
_SHARDED = ("FSDP", "DeepSpeed", "ModelParallel")
_DEEP = 3  # containers, objects or functions within each other


@contextmanager
def isolated() -> Iterator[None]:
    """Run an experiment on borrowed randomness, and alone.

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


# -- copies


def copied(pl_module: LightningModule) -> LightningModule:
    """A deep copy that belongs to no trainer and shares no tensor; data sets are shared, since nothing reads them.

    Raises:
        RuntimeError: If the module can't be copied, or the copy would share code that works on the original.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> module = BoringModel()
        >>> copied(module).layer.weight is module.layer.weight
        False

    """
    return _copied(pl_module, {})


def copied_with(
    pl_module: LightningModule, optimizers: Sequence[Optimizer], schedulers: Sequence[Any] = ()
) -> tuple[LightningModule, list[Optimizer], list[Any]]:
    """A deep copy of a module, and of optimisers and schedulers that work on the copy.

    Raises:
        RuntimeError: As :func:`copied`.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> module = BoringModel()
        >>> duplicate, (optimizer,), _ = copied_with(module, [torch.optim.SGD(module.parameters(), lr=0.1)])
        >>> optimizer.param_groups[0]["params"][0] is duplicate.layer.weight
        True

    """
    memo: dict[int, Any] = {}
    duplicate = _copied(pl_module, memo)
    if shares_code(duplicate):
        msg = "the module holds a hook or another function that a copy would share"
        raise RuntimeError(msg)
    duplicates = [copied_optimizer(optimizer, memo) for optimizer in optimizers]
    return duplicate, duplicates, [copy.deepcopy(scheduler, memo) for scheduler in schedulers]


def copied_optimizer(optimizer: Optimizer, memo: dict[int, Any]) -> Optimizer:
    """A copy of an optimiser, all attributes included; its parameters are those that `memo` has for the original's.

    ``copy.deepcopy`` keeps three attributes only, without which LBFGS and others can't step.
    """
    duplicate: Optimizer = object.__new__(type(optimizer))
    memo[id(optimizer)] = duplicate
    kept = {name: value for name, value in vars(optimizer).items() if name != "step"}  # schedulers wrap it, and count
    duplicate.__dict__.update(copy.deepcopy(kept, memo))
    return duplicate


def _copied(pl_module: LightningModule, memo: dict[int, Any]) -> LightningModule:
    if any(isinstance(module, torch.jit.ScriptModule) for module in pl_module.modules()):
        msg = "the module holds TorchScript, whose compiled code a copy would share"
        raise RuntimeError(msg)
    for name, module in pl_module.named_modules():
        for attribute, value in vars(module).items():
            if isinstance(value, Dataset | DataLoader):
                memo[id(value)] = value
            elif isinstance(value, Tensor | list | tuple | dict):  # torch refuses to copy results of computations
                memo |= {id(t): cloned(t) for _, t in tensors(value) if t.grad_fn is not None}
            elif attribute in _STEPS and not _is_made_anew(pl_module, module, value):
                of = name or type(pl_module).__name__
                msg = f"{of}.{attribute} was replaced by a function that a copy would share"
                raise RuntimeError(msg)
    trainer, pl_module._trainer = pl_module._trainer, None  # noqa: SLF001 - deepcopy would follow it to the data
    known = dict(memo)
    try:
        duplicate = copy.deepcopy(pl_module, memo)
    except RuntimeError:  # results of computations in objects, such as distributions; searching these may take long
        values = (value for module in pl_module.modules() for value in vars(module).values())
        results = {id(t): t for value in values for _, t in tensors(value) if t.grad_fn is not None}
        memo.clear()
        memo |= known | {key: cloned(t) for key, t in results.items()}
        duplicate = copy.deepcopy(pl_module, memo)
    finally:
        pl_module._trainer = trainer  # noqa: SLF001
    duplicate._metric_attributes = None  # noqa: SLF001 - Lightning's cache holds the ids of the original's metrics
    duplicate._compiler_ctx = None  # noqa: SLF001
    for name in _STEPS:  # compiled ones work on the original
        if isinstance(vars(duplicate).get(name), FunctionType):
            del duplicate.__dict__[name]
    return duplicate


def _is_made_anew(pl_module: LightningModule, module: nn.Module, step: Any) -> bool:
    """Whether a copy does without `step`, since its class's own method does the same, or compiles it again."""
    if not isinstance(original(step), FunctionType):
        return True
    compiled = "_orig_mod" in module._modules  # noqa: SLF001 - ``torch.compile(net)``
    return compiled or (module is pl_module and pl_module._compiler_ctx is not None)  # noqa: SLF001


def shares_code(module: nn.Module) -> bool:
    """Whether a copy holds functions, such as hooks, that work on what does not belong to it: they would change that.

    Example:
        >>> net, seen = nn.Linear(3, 2), []
        >>> shares_code(net)
        False
        >>> _ = net.register_forward_hook(lambda *values: seen.append(values))
        >>> shares_code(net)
        True

    """
    own = {id(child) for child in module.modules()}
    return any(  # all but how to compile it: experiments run uncompiled
        _holds_shared(value, own)
        for child in module.modules()
        for name, value in vars(child).items()
        if not name.startswith("_compile")
    )


def foreign_hooks(module: nn.Module) -> bool:
    """Whether hooks on the forward of a module, or on that of any, work on what does not belong to it.

    Example:
        >>> net, seen = nn.Linear(3, 2), []
        >>> _ = net.register_forward_hook(lambda *values: seen.append(values))
        >>> foreign_hooks(net)
        True

    """
    own = {id(child) for child in module.modules()}
    everywhere = torch.nn.modules.module
    hooks = [*everywhere._global_forward_hooks.values(), *everywhere._global_forward_pre_hooks.values()]  # noqa: SLF001
    for child in module.modules():
        hooks += [*child._forward_hooks.values(), *child._forward_pre_hooks.values()]  # noqa: SLF001
    return any(_holds_shared(hook, own) for hook in hooks)


def _holds_shared(value: Any, own: set[int], depth: int = 0, *, by_name: bool = True) -> bool:
    """Whether something that was copied holds a function, which was not, that works on anything not in `own`."""
    if isinstance(value, FunctionType):
        return any(_is_foreign(used, own, depth) for used in _used(value, by_name=by_name))
    if depth == _DEEP or isinstance(value, nn.Module | type | ModuleType):
        return False
    wrapped = getattr(value, "__wrapped__", None)  # of functools.cache
    if isinstance(wrapped, FunctionType):
        return _holds_shared(wrapped, own, depth + 1)
    inside: list[Any] = []
    if isinstance(value, functools.partial):
        inside = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, dict):
        inside = list(value.values())
    elif isinstance(value, list | tuple):
        inside = list(value)
    elif hasattr(value, "__dict__") and not isinstance(value, Tensor | Dataset | DataLoader):
        inside, by_name = list(vars(value).values()), False  # libraries' objects hold functions of their own
    return any(_holds_shared(content, own, depth + 1, by_name=by_name) for content in inside)


def _used(function: FunctionType, *, by_name: bool) -> list[Any]:
    """What a function closes over, has as defaults, and finds `by_name` in its file."""
    used = [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]
    used += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return used + ([function.__globals__.get(name) for name in function.__code__.co_names] if by_name else [])


def _is_foreign(value: Any, own: set[int], depth: int) -> bool:
    """Whether a function that uses `value` works on something that is not in `own`."""
    value = getattr(value, "__self__", value)  # of a bound method
    if isinstance(value, nn.Module | list | dict | set):
        return id(value) not in own
    if depth == _DEEP or isinstance(value, type | ModuleType):
        return False
    if isinstance(value, FunctionType):
        return any(_is_foreign(used, own, depth + 1) for used in _used(value, by_name=False))
    return any(
        isinstance(content, nn.Module) and id(content) not in own for content in getattr(value, "__dict__", {}).values()
    )


# -- what can be tried, and on what


def obstacle(trainer: Trainer) -> str | None:
    """Why no copy of the module can be tried in this run, or None.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> obstacle(Trainer(accelerator="cpu", logger=False, barebones=True)) is None
        True

    """
    strategy = type(trainer.strategy).__name__
    if any(name in strategy for name in _SHARDED):
        return f"{strategy} shards the parameters, and a shard can't be trained alone"
    return None


@contextmanager
def memory_given_back(device: torch.device) -> Iterator[None]:
    """Free what an experiment leaves behind in reference cycles, on the GPU too, also after running out of memory."""
    try:
        yield
    finally:
        gc.collect()
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


def calmed(pl_module: M) -> M:
    """`pl_module` itself, with dropout off and statistics of this process only. For copies.

    Known dropout modules get probability 0, whatever mode they are in: those of torch, the dropout inside of
    attention and recurrent layers, and the stochastic depth of torchvision and timm.

    Example:
        >>> calmed(nn.Sequential(nn.Dropout(0.5)))[0].p
        0.0

    """
    for module in pl_module.modules():
        kind = type(module).__name__
        if isinstance(module, _DropoutNd) or kind in {"StochasticDepth", "DropPath", "StableDropout"}:
            for name in {"p", "drop_prob"} & vars(module).keys():
                setattr(module, name, 0.0)
        elif isinstance(module, nn.MultiheadAttention | nn.RNNBase):
            module.dropout = 0.0
        elif isinstance(module, nn.SyncBatchNorm):  # ranks do not try the same number of steps
            module.__class__ = _LocalBatchNorm  # type: ignore[assignment]
        elif isinstance(module, Metric):
            module.distributed_available_fn = _never
    return pl_module


class _LocalBatchNorm(_BatchNorm):
    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        """Any number of dimensions, as ``SyncBatchNorm`` takes."""


def _never() -> bool:
    return False


@contextmanager
def eager(module: nn.Module) -> Iterator[None]:
    """Run the compiled modules within `module` uncompiled: compiling a copy takes longer than the experiment."""
    compiled = any("_orig_mod" in m._modules or m._compiled_call_impl is not None for m in module.modules())  # noqa: SLF001
    if compiled or "torch._dynamo" in sys.modules:
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield
