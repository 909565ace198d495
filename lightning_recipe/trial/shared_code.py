"""Functions that a deep copy shares with its original, such as hooks: run by the copy, they may change the original."""

from __future__ import annotations

import functools
from types import CellType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

_DEEP = 3  # containers, objects or functions within each other


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
