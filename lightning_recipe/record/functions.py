"""The function mode: sees every call of a torch function in a step, backward among them."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._C import _get_function_stack_at as _mode_at  # the modes that are entered have no public reader
from torch._C import _len_torch_function_stack as _modes
from torch._C import _pop_torch_function_stack as _pop_mode
from torch._C import _push_on_torch_function_stack as _push_mode
from torch.overrides import TorchFunctionMode

from lightning_recipe.losses.table import LOSSES
from lightning_recipe.record.compiled import is_traced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightning_recipe.record.calls import Calls
    from lightning_recipe.record.loss_calls import LossCalls
    from lightning_recipe.record.wiring import Wiring


class Functions(TorchFunctionMode):
    """Sees functions, and passes them on to those who record: `losses`, `calls` and `wiring`, where they are wanted.

    Attributes:
        before_backward: Is called when backward is about to begin.
        in_backward: Whether backward is running; what it calls again, for activation checkpointing, is no event.
        in_step: Whether an optimiser steps; what it computes, without gradients, is its own: a hundred functions.
        roots: What ``backward`` was called on.
        traced: Losses called in code that was compiled on its own, with their arguments.

    Example:
        >>> functions = Functions(print)
        >>> with functions.watching():
        ...     torch.ones(1, requires_grad=True).sum().backward()
        >>> functions.roots
        [tensor(1., grad_fn=<SumBackward0>)]

    """

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        super().__init__()
        self._failed = failed
        self.losses: LossCalls | None = None
        self.calls: Calls | None = None
        self.wiring: Wiring | None = None
        self.before_backward: Callable[[], None] = lambda: None
        self.in_backward = self.in_step = False
        self.roots: list[Tensor] = []
        self.traced: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]] = []
        self._pauses = 0
        self._left = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch functions, and ``torch.autograd.backward``, which no mode sees."""
        original = torch.autograd.backward

        @functools.wraps(original)
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if self.in_backward or not self._is_innermost():
                return original(tensors, *args, **kwargs)
            return self._backward(original, (tensors, *args), kwargs)

        torch.autograd.backward = backward
        self.__enter__()
        try:
            yield
        finally:
            if not self._left:
                self.__exit__(None, None, None)
            if torch.autograd.backward is backward:
                torch.autograd.backward = original

    @property
    def blind(self) -> bool:
        """Whether calls of modules and functions are not those of the step: in backward, in compiled code, in vmap."""
        return self.in_backward or is_traced()

    def pause(self) -> None:
        """See nothing until :meth:`resume` was called as often as this."""
        self._pauses += 1
        if self._pauses == 1 and (modes := _modes()) and _mode_at(modes - 1) is self:
            _pop_mode()
            self._left = True

    def resume(self) -> None:
        """See again."""
        self._pauses -= 1
        if not self._pauses and self._left:
            _push_mode(self)
            self._left = False

    def _is_innermost(self) -> bool:
        modes = _modes()
        return modes > 0 and _mode_at(modes - 1) is self

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():  # a compiled function, outside of any compiled module
            output = func(*args, **kwargs)
            if func in LOSSES:
                self.traced.append((func, args, kwargs, output))
            return output
        if self._pauses or self.in_backward or (self.in_step and not torch.is_grad_enabled()):
            return func(*args, **kwargs)
        if func is Tensor.backward:
            return self._backward(func, args, kwargs)
        if func is torch.autograd.grad:
            with self._going_back():
                return self._watched(func, args, kwargs)
        return self._watched(func, args, kwargs)

    def _watched(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = None
        if self.wiring is not None:
            try:
                given = self.wiring.before(func, args, kwargs)
            except Exception as error:  # noqa: BLE001 - the user's step must go on
                self._failed(error)
        output = func(*args, **kwargs)
        try:
            if given is not None and self.wiring is not None:
                self.wiring.after(func, given, output, kwargs, args)
            if not is_traced():
                if self.losses is not None and func in LOSSES and isinstance(output, Tensor):
                    self.losses.record(func, args, kwargs, output)
                if self.calls is not None:
                    self.calls.follow(func, args, kwargs, output)
        except Exception as error:  # noqa: BLE001
            self._failed(error)
        return output

    def _backward(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        roots = [args[0]] if isinstance(args[0], Tensor) else list(args[0])
        self.roots += roots
        self.before_backward()
        if self.wiring is not None:
            self.wiring.backward(roots)
        with self._going_back():
            return func(*args, **kwargs)

    @contextmanager
    def _going_back(self) -> Iterator[None]:
        self.in_backward = True
        try:
            yield
        finally:
            self.in_backward = False
