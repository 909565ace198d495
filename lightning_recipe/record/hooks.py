"""Stands by the calls of modules; all is taken back, and no copy of a module keeps any of it."""

from __future__ import annotations

import copy
import functools
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from lightning_recipe.record.compiled import is_compiled_network
from lightning_recipe.record.modules import FAST, Observable

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


class Watch(NamedTuple):
    """What to do before and after the calls of modules; errors are reported, and harmless.

    Attributes:
        before: Is called with the module, its arguments, and its keyword arguments.
        after: Is called with the module, its arguments, and its output; None if it raised.
        closed: What to do in place of both, in less time, where a closed leaf is given one tensor: before, with the
            tensor, which gives its version or None, if the two others are to be called; and after, with the module,
            the tensor, its version, and the output.

    Example:
        >>> Watch(lambda module, args, kwargs: None, lambda module, args, output: print(output)).after(None, (), 3)
        3

    """

    before: Callable[..., None]
    after: Callable[..., None]
    closed: tuple[Callable[..., Any], ...] = ()


class Hooks:
    """All that stands by modules in one step.

    Args:
        failed: Is told of errors.

    Attributes:
        failed: Likewise.
        names: Names of the modules watched, by id.
        networks: Those that are compiled networks, by id.
        closed: Those that can't be looked into, or in which there is nothing to see: they use only what they are given,
            and call no loss.
        over: Whether the step is.

    Example:
        >>> from torch import nn
        >>> hooks, net = Hooks(print), nn.Identity()
        >>> watch = Watch(lambda *_: print("called"), lambda *_: None)
        >>> hooks.lay(Observable("net", net, leaf=True, inside_fast=False), None, watch)
        >>> net(1)
        called
        1
        >>> hooks.remove()
        >>> net(1)
        1

    """

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self.names: dict[int, str] = {}
        self.networks: set[int] = set()
        self.closed: set[int] = set()
        self.over = False
        self.failed = failed
        self._kinds: dict[type, tuple[bool, bool]] = {}  # whether in eval mode they see no hooks, whether torch's own
        self._in_place: list[_StandIn] = []
        self._undo: list[Callable[[], None]] = []

    def lay(self, seen: Observable, outer: Watch | None, inner: Watch | None) -> None:
        """Watch the calls of a module.

        Args:
            seen: The module.
            outer: Watches its calls with the user's hooks on it.
            inner: Watches, of leaves and of what must see no hooks, the call without: what a hook does with the output
                is no part of it.

        """
        name, module, leaf, inside_fast = seen
        own, key, kind = module.__dict__, id(module), type(module)
        if (told := self._kinds.get(kind)) is None:
            told = self._kinds[kind] = issubclass(kind, FAST), kind.__module__.startswith("torch.nn.modules.")
        fast, of_torch = told
        self.names[key] = name
        compiled = own.get("_compiled_call_impl")
        if (compiled is not None or "_orig_mod" in own["_modules"]) and is_compiled_network(module):
            self.networks.add(key)
            self.closed.add(key)
        elif fast or (leaf and of_torch):
            self.closed.add(key)
        if inside_fast:
            outer = None
        if not leaf and not fast:
            inner = None
        if fast and compiled is None and "forward" not in own:
            own["forward"] = _Forward(self, [watch for watch in (inner, outer) if watch is not None], module)
            self._undo.append(lambda: own.pop("forward", None))
            return
        if inner is not None and (own["_forward_hooks"] or own["_forward_pre_hooks"]):
            self._hook(module, inner)
        elif inner is not None:
            self._stand_in(inner, module, closed=of_torch and bool(inner.closed))
        if outer is not None:
            self._stand_in(outer, module)

    def _stand_in(self, watch: Watch, module: nn.Module, *, closed: bool = False) -> None:
        """Stand where torch looks first for what to call: calling hooks takes as long as a small layer's forward.

        Compiled in place, a module has its compiled code there, into which hooks would be traced.
        """
        own = module.__dict__
        kind = _Closed if closed else _StandIn
        own["_compiled_call_impl"] = stand_in = kind(self.failed, watch, module, own.get("_compiled_call_impl"))
        self._in_place.append(stand_in)

    def _hook(self, module: nn.Module, watch: Watch) -> None:
        hooks = [
            module.register_forward_pre_hook(_Hook(self, watch.before), with_kwargs=True),
            module.register_forward_hook(_Hook(self, watch.after), prepend=True, always_call=True),
        ]
        self._undo.extend(hook.remove for hook in hooks)

    def remove(self) -> None:
        """Take everything away."""
        self.over = True
        for stand_in in reversed(self._in_place):
            stand_in.leave()
        for undo in reversed(self._undo):
            undo()
        self._in_place.clear()  # those who watch are known to the hooks that they know
        self._undo.clear()


class _StandIn:
    """Stands in for the call of a module; copies get None, as they have of torch itself."""

    __slots__ = ("_after", "_before", "_call", "_closed", "_compiled", "_failed", "_module")

    def __init__(
        self,
        failed: Callable[[Exception], None],
        watch: Watch,
        module: nn.Module,
        compiled: Callable[..., Any] | None = None,
        call: Callable[..., Any] | None = None,
    ) -> None:
        self._before, self._after, self._closed = watch
        self._failed, self._module, self._compiled = failed, module, compiled
        self._call = call or compiled or module._call_impl  # noqa: SLF001

    def leave(self) -> None:
        """Put back what was in its place."""
        own = self._module.__dict__
        if own.get("_compiled_call_impl") is self:
            del own["_compiled_call_impl"]
            if self._compiled is not None:
                own["_compiled_call_impl"] = self._compiled

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = None
        try:
            self._before(self._module, args, kwargs)
        except Exception as error:  # noqa: BLE001 - the user's step must go on
            self._failed(error)
        try:
            output = self._call(*args, **kwargs)
        finally:
            try:
                self._after(self._module, args, output)
            except Exception as error:  # noqa: BLE001
                self._failed(error)
        return output

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()


class _Closed(_StandIn):
    """Of a leaf in which there is nothing to see: most calls of it are given one tensor."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        before, after = self._closed
        version = None
        if not kwargs and len(args) == 1 and type(args[0]) is Tensor:
            try:
                version = before(args[0])
            except Exception as error:  # noqa: BLE001 - the user's step must go on
                self._failed(error)
        if version is None:
            return super().__call__(*args, **kwargs)
        output = None
        try:
            output = self._call(*args)
        finally:
            try:
                after(self._module, args[0], version, output)
            except Exception as error:  # noqa: BLE001
                self._failed(error)
        return output


class _Hook:
    """A hook; copies of its module, also pickled ones, get one that does nothing: a step may make some that last."""

    def __init__(self, hooks: Hooks, record: Callable[..., None]) -> None:
        self._hooks, self._record = hooks, record

    def __call__(self, *args: Any) -> None:
        try:
            self._record(*args)
        except Exception as error:  # noqa: BLE001
            self._hooks.failed(error)

    def __reduce__(self) -> tuple[Any, ...]:
        return _NoHook, ()


class _NoHook:
    def __call__(self, *args: Any) -> None:
        pass


class _Forward:
    """Stands in for the forward of a module, and of its copies while the step lasts; pickled ones get their own."""

    def __init__(self, hooks: Hooks, watches: list[Watch], module: nn.Module) -> None:
        functools.update_wrapper(self, type(module).forward)
        self._hooks, self._watches, self._module = weakref.ref(hooks), watches, module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        hooks, forward = self._hooks(), functools.partial(type(self._module).forward, self._module)
        if hooks is None or hooks.over:
            return forward(*args, **kwargs)
        call: Callable[..., Any] = forward
        for watch in self._watches:  # the innermost first
            call = _StandIn(hooks.failed, watch, self._module, call=call)
        return call(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        hooks, module = self._hooks(), copy.deepcopy(self._module, memo)
        if hooks is None or hooks.over:
            return module.forward
        hooks.names[id(module)] = hooks.names[id(self._module)]
        hooks.closed.add(id(module))
        return _Forward(hooks, self._watches, module)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._module, "forward")
