"""Functions of a module, such as hooks, and what they work on: a deep copy would share them with its original."""

from __future__ import annotations

import copy
import functools
from contextlib import contextmanager
from types import CellType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

if TYPE_CHECKING:
    from collections.abc import Iterator

_DEEP = 3  # containers, objects or functions within each other


@contextmanager
def functions_copied(module: nn.Module, memo: dict[int, Any]) -> Iterator[None]:
    """Have a deep copy of a module, made within, hold copies of its functions, which work on what was copied.

    What they close over is the copy's own: what belongs to the module, and lists and dictionaries that hooks write to.

    Args:
        module: The original.
        memo: As of ``copy.deepcopy``.

    Example:
        >>> net, memo = nn.Linear(3, 2), {}
        >>> net.seen = []
        >>> _ = net.register_forward_hook(lambda module, args, output, kept=net.seen: kept.append(output))
        >>> with functions_copied(net, memo):
        ...     duplicate = copy.deepcopy(net, memo)
        >>> _ = duplicate(torch.ones(1, 3))
        >>> len(net.seen), len(duplicate.seen)
        (0, 1)

    """
    both = [pair for function in _functions_of(module) if (pair := _twin(function, memo)) is not None]
    yield
    for function, twin in both:
        _bind(function, twin, memo)


def _functions_of(module: nn.Module) -> Iterator[FunctionType]:
    for child in module.modules():
        for name, value in vars(child).items():
            if not name.startswith("_compile"):
                yield from _functions_in(value)


def _functions_in(value: Any, depth: int = 0) -> Iterator[FunctionType]:
    if isinstance(value, FunctionType):
        yield value
    elif depth < _DEEP and isinstance(value, functools.partial | dict | list | tuple):
        if isinstance(value, functools.partial):
            value = value.func, *value.args, *value.keywords.values()
        for content in value.values() if isinstance(value, dict) else value:
            yield from _functions_in(content, depth + 1)


def _twin(function: FunctionType, memo: dict[int, Any]) -> tuple[FunctionType, FunctionType] | None:
    """A function with its copy, which closes over nothing yet; None where it needs none, or has one."""
    closed = function.__closure__ or ()
    works_on = closed or function.__defaults__ or function.__kwdefaults__
    if id(function) in memo or not works_on or "_torchdynamo_orig_callable" in vars(function):  # compiled once
        return None
    cells = tuple(CellType() for _ in closed)
    twin = FunctionType(function.__code__, function.__globals__, function.__name__, None, cells)
    twin.__dict__ |= vars(function)
    memo[id(function)] = twin
    return function, twin


def _bind(function: FunctionType, twin: FunctionType, memo: dict[int, Any]) -> None:
    for cell, own in zip(function.__closure__ or (), twin.__closure__ or (), strict=True):
        if cell != CellType():
            own.cell_contents = _of_copy(cell.cell_contents, memo)
    defaults, named = function.__defaults__, function.__kwdefaults__
    twin.__defaults__ = None if defaults is None else tuple(_of_copy(value, memo) for value in defaults)
    twin.__kwdefaults__ = None if named is None else {name: _of_copy(value, memo) for name, value in named.items()}


def _of_copy(value: Any, memo: dict[int, Any]) -> Any:
    """What the copy has in the place of something that a function works on; the same where it has nothing."""
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, FunctionType):
        if (both := _twin(value, memo)) is None:
            return value
        _bind(*both, memo)
        return both[1]
    if isinstance(value, MethodType) and id(value.__self__) in memo:
        return MethodType(value.__func__, memo[id(value.__self__)])
    if isinstance(value, dict | list | set):
        try:
            return copy.deepcopy(value, memo)
        except Exception:  # noqa: BLE001 - it may hold anything; the copy is then known to share it
            return value
    return value


def shares_code(module: nn.Module, memo: dict[int, Any] | None = None) -> bool:
    """Whether a copy holds functions, such as hooks, that work on what does not belong to it: they would change that.

    Args:
        module: The copy.
        memo: As of ``copy.deepcopy``; what was copied with it belongs to it.

    Example:
        >>> net, seen = nn.Linear(3, 2), []
        >>> shares_code(net)
        False
        >>> _ = net.register_forward_hook(lambda *values: seen.append(values))
        >>> shares_code(net)
        True

    """
    own = {id(child) for child in module.modules()} | {id(value) for value in (memo or {}).values()}
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
