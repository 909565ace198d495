"""Deep copies of a module, of its optimisers and schedulers, that share no tensor with the original."""

from __future__ import annotations

import copy
from collections import defaultdict
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_recipe.record.copies import cloned
from lightning_recipe.record.probe import original
from lightning_recipe.record.tensors import is_compressed, tensors
from lightning_recipe.run import copied_optimizer
from lightning_recipe.trial.shared_code import functions_copied, shares_code

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lightning.pytorch import LightningModule
    from torch import nn
    from torch.optim import Optimizer

_STEPS = ("forward", "training_step", "validation_step", "test_step", "predict_step")


def copied(pl_module: LightningModule, memo: dict[int, Any] | None = None) -> LightningModule:
    """A deep copy that belongs to no trainer and shares no tensor; data sets are shared, since nothing reads them.

    Args:
        pl_module: The original.
        memo: As of ``copy.deepcopy``; holds what was copied afterwards.

    Raises:
        RuntimeError: If the module can't be copied, or the copy would share code that works on the original.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> module = BoringModel()
        >>> copied(module).layer.weight is module.layer.weight
        False

    """
    memo = {} if memo is None else memo
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
        with functions_copied(pl_module, memo):
            duplicate = copy.deepcopy(pl_module, memo)
    except RuntimeError:  # results of computations in objects, such as distributions; searching these may take long
        values = (value for module in pl_module.modules() for value in vars(module).values())
        results = {id(t): t for value in values for _, t in tensors(value) if t.grad_fn is not None or is_compressed(t)}
        memo.clear()
        memo |= known | {key: cloned(t) for key, t in results.items()}
        with functions_copied(pl_module, memo):
            duplicate = copy.deepcopy(pl_module, memo)
    finally:
        pl_module._trainer = trainer  # noqa: SLF001
    duplicate._metric_attributes = None  # noqa: SLF001 - Lightning's cache holds the ids of the original's metrics
    duplicate._compiler_ctx = None  # noqa: SLF001
    for name in _STEPS:  # compiled ones work on the original
        if isinstance(vars(duplicate).get(name), FunctionType):
            del duplicate.__dict__[name]
    return duplicate


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
    memo: dict[int, Any] = {id(optimizer): object.__new__(type(optimizer)) for optimizer in optimizers}
    duplicate = copied(pl_module, memo)  # which may hold them, or schedules that work on them
    if shares_code(duplicate, memo):
        msg = "the module holds a hook or another function that a copy would share"
        raise RuntimeError(msg)
    for optimizer in optimizers:
        if type(optimizer.state) is defaultdict:
            memo[id(optimizer.state)] = _StateOnDemand(optimizer, memo)
    duplicates = [copied_optimizer(optimizer, memo) for optimizer in optimizers]
    return duplicate, duplicates, [copy.deepcopy(scheduler, memo) for scheduler in schedulers]


def without_steps(schedulers: Sequence[Any]) -> None:
    """Have a step of copied schedulers do nothing: a trial has rates of its own, and may be longer than the run.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=1)
        >>> without_steps([schedule])
        >>> schedule.step(), schedule.step()
        (None, None)

    """
    for scheduler in schedulers:
        scheduler.step = _nothing


def _nothing(*_: Any, **__: Any) -> None:
    """In the place of a scheduler's step."""


class _StateOnDemand(defaultdict[Any, Any]):
    """An optimiser's state, copied when somebody asks: few do, and it may be twice as large as the weights."""

    def __init__(self, optimizer: Optimizer, memo: dict[int, Any]) -> None:
        super().__init__(dict)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._of: dict[Any, Any] = optimizer.state
        self._memo = {id(p): memo[id(p)] for p in parameters if id(p) in memo}  # not all, or it would keep itself alive

    def _copied(self) -> defaultdict[Any, Any]:
        if self._of:
            with torch._C.DisableTorchFunction():  # noqa: SLF001 - is no function of the step
                self.update(copy.deepcopy(dict(self._of), self._memo))
            self._of, self._memo = {}, {}
        return super()  # type: ignore[return-value]

    def __missing__(self, key: Any) -> Any:
        return self._copied().setdefault(key, {})

    def __contains__(self, key: Any) -> bool:
        return self._copied().__contains__(key)

    def __iter__(self) -> Iterator[Any]:
        return self._copied().__iter__()

    def __len__(self) -> int:
        return self._copied().__len__()

    def get(self, *key: Any) -> Any:
        return self._copied().get(*key)

    def setdefault(self, *key: Any) -> Any:
        return self._copied().setdefault(*key)

    def keys(self) -> Any:
        return self._copied().keys()

    def values(self) -> Any:
        return self._copied().values()

    def items(self) -> Any:
        return self._copied().items()

    def pop(self, *key: Any) -> Any:
        return self._copied().pop(*key)

    def clear(self) -> None:
        self._of = {}
        super().clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return defaultdict, (dict, dict(self.items()))


def _is_made_anew(pl_module: LightningModule, module: nn.Module, step: Any) -> bool:
    """Whether a copy does without `step`, since its class's own method does the same, or compiles it again."""
    if not isinstance(original(step), FunctionType):
        return True
    compiled = "_orig_mod" in module._modules  # noqa: SLF001 - ``torch.compile(net)``
    return compiled or (module is pl_module and pl_module._compiler_ctx is not None)  # noqa: SLF001
