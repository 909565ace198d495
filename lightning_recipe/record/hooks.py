"""Stands by calls of modules with hooks, and in front of those that must see none; all is taken back."""

from __future__ import annotations

import copy
import functools
import weakref
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch.utils.hooks import RemovableHandle

from lightning_recipe.record.modules import FAST, Observable

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


class Hook:
    """A hook that never raises, and that copies of its module, also pickled ones, do not get.

    A step may make a copy that lives for long.

    Example:
        >>> from torch import nn
        >>> errors = []
        >>> Hook(lambda module: 1 / 0, errors.append)(nn.ReLU())
        >>> errors, copy.deepcopy(Hook(print, print))
        ([ZeroDivisionError('division by zero')], <lightning_recipe.record.hooks.NoHook object at ...>)

    """

    def __init__(self, record: Callable[..., None], failed: Callable[[Exception], None]) -> None:
        self._record, self._failed = record, failed

    def __call__(self, *args: Any) -> None:  # noqa: D102
        try:
            self._record(*args)
        except Exception as error:  # noqa: BLE001 - the user's step must go on
            self._failed(error)

    def __reduce__(self) -> tuple[Any, ...]:
        return NoHook, ()


class NoHook:
    """What they get instead.

    Example:
        >>> from torch import nn
        >>> NoHook()(nn.ReLU())

    """

    def __call__(self, *args: Any) -> None:  # noqa: D102
        pass


@dataclass(frozen=True)
class Watch:
    """What to do before and after the calls of modules.

    Attributes:
        before: Is called with the module, its arguments, and its keyword arguments.
        after: Is called with the module, its arguments, and its output; None if it raised.
        inner: Next to the forward: what the user's hooks do with an output is not part of the call.
        key: Of the hooks, among those of a module.

    Example:
        >>> watch = Watch(Hook(print, print), Hook(print, print), inner=True)
        >>> isinstance(watch.key, int)
        True

    """

    before: Hook
    after: Hook
    inner: bool
    key: int = field(default_factory=lambda: RemovableHandle(OrderedDict()).id)


class Hooks:
    """The hooks of one step.

    Attributes:
        over: Whether the step is.
        names: Names of the modules watched, by id.

    Example:
        >>> from torch import nn
        >>> hooks, net = Hooks(), nn.Identity()
        >>> hooks.lay(Observable("net", net, leaf=True, inside_fast=False), [
        ...     Watch(Hook(lambda *_: print("called"), print), Hook(lambda *_: None, print), inner=True)
        ... ])
        >>> net(1)
        called
        1
        >>> hooks.remove()
        >>> net(1)
        1

    """

    def __init__(self) -> None:
        self.over = False
        self.names: dict[int, str] = {}
        self._hooked: list[tuple[nn.Module, Watch]] = []
        self._undo: list[Callable[[], None]] = []

    def lay(self, seen: Observable, watches: list[Watch]) -> None:
        """Watch the calls of a module."""
        module = seen.module
        self.names[id(module)] = seen.name
        compiled_in_place = getattr(module, "_compiled_call_impl", None)
        if compiled_in_place is not None:  # hooks would be traced into the compiled code: stand in front of it
            observed = functools.wraps(compiled_in_place)(
                lambda *args, **kwargs: _watched(module, watches, compiled_in_place, args, kwargs)
            )
            module.__dict__["_compiled_call_impl"] = observed
            self._undo.append(lambda: module.__dict__.update(_compiled_call_impl=compiled_in_place))
        elif (seen.inside_fast or isinstance(module, FAST)) and "forward" not in vars(module):
            module.__dict__["forward"] = _Forward(self, watches, module)
            self._undo.append(lambda: module.__dict__.pop("forward", None))
        else:
            for watch in watches:
                _hook(module, watch)
                self._hooked.append((module, watch))

    def remove(self) -> None:
        """Take everything away."""
        self.over = True
        for module, watch in self._hooked:
            _unhook(module, watch)
        for undo in reversed(self._undo):
            undo()


def _hook(module: nn.Module, watch: Watch) -> None:
    """Register hooks as torch does, whose own method takes as long for a small layer as half its forward."""
    key = watch.key
    module._forward_pre_hooks[key] = watch.before  # noqa: SLF001
    module._forward_pre_hooks_with_kwargs[key] = True  # noqa: SLF001
    module._forward_hooks[key] = watch.after  # noqa: SLF001
    module._forward_hooks_always_called[key] = True  # noqa: SLF001
    if watch.inner and len(module._forward_hooks) > 1:  # noqa: SLF001
        module._forward_hooks.move_to_end(key, last=False)  # type: ignore[attr-defined] # noqa: SLF001


def _unhook(module: nn.Module, watch: Watch) -> None:
    for hooks in (
        module._forward_pre_hooks,  # noqa: SLF001
        module._forward_pre_hooks_with_kwargs,  # noqa: SLF001
        module._forward_hooks,  # noqa: SLF001
        module._forward_hooks_always_called,  # noqa: SLF001
    ):
        hooks.pop(watch.key, None)


def _watched(
    module: nn.Module, watches: list[Watch], call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    output = None
    for watch in watches:
        watch.before(module, args, kwargs)
    try:
        output = call(*args, **kwargs)
    finally:
        for watch in reversed(watches):
            watch.after(module, args, output)
    return output


class _Forward:
    """Stands in for the forward of a module, and of its copies while the step lasts; pickled ones get their own."""

    def __init__(self, hooks: Hooks, watches: list[Watch], module: nn.Module) -> None:
        functools.update_wrapper(self, type(module).forward)
        self._hooks, self._watches, self._module = weakref.ref(hooks), watches, module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        hooks, forward = self._hooks(), functools.partial(type(self._module).forward, self._module)
        if hooks is None or hooks.over:
            return forward(*args, **kwargs)
        return _watched(self._module, self._watches, forward, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        hooks, module = self._hooks(), copy.deepcopy(self._module, memo)
        if hooks is None or hooks.over:
            return module.forward
        hooks.names[id(module)] = hooks.names[id(self._module)]
        return _Forward(hooks, self._watches, module)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._module, "forward")
