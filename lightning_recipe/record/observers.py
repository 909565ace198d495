"""Three observers that live for the length of one step.

Forward hooks see the calls of modules, a torch function mode sees the calls of loss functions, and the wrapper around
the step sees its loss. They run nothing of their own, so that the step computes exactly what it would without them.
Compiled modules are observed from outside only: code that was compiled with an observer in it would be compiled once
more without.
"""

from __future__ import annotations

import copy
import functools
import inspect
import os
import sys
import warnings
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchmetrics import Metric

from lightning_recipe.losses.table import LOSSES, TABLE
from lightning_recipe.record.step import LossCall, NetCall, Step
from lightning_recipe.record.structure import (
    by_parameter,
    cloned,
    cut,
    cut_arguments,
    snapshot,
    storage,
    switches,
    tensors,
)

if TYPE_CHECKING:
    from types import FrameType, TracebackType

_CASTS = ("to", "type_as")
"""Take only the type and the device of their second argument."""
_FAST = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
"""In eval mode they run other code, which rounds differently and zeroes what is padded, unless they see a hook on
themselves or a function mode: they must see neither."""
_TORCH = str(Path(torch.__file__).parent) + os.sep
_WRAPPER = str(Path(__file__).with_name("probe.py"))


class Observers:
    """The hooks and the function mode of one step, entered and left together, last in, first out."""

    def __init__(self, pl_module: nn.Module) -> None:
        self.error: Exception | None = None
        self.over = False
        self._net_calls: list[NetCall] = []
        self._losses: list[tuple[LossCall, Tensor]] = []
        self._stacks: list[tuple[Any, ...]] = []  # of each loss, where it was called from
        self._roots: list[Tensor] = []
        self._from_net: dict[int, weakref.ref[Tensor]] = {}
        self._compiled: list[str] = []
        self._depth = 0
        self._entered: dict[int, Tensor] = {}  # arguments of the outermost module being called, by place
        self._recording = False  # the outermost module being called has parameters
        self._continues = False  # the outermost module being called works on what came out of the network
        self._in_backward = False
        self._paused_at = 0  # the depth of the module within which the function mode is left
        self._pl_module = pl_module
        self._mode = _LossMode(self)
        self._entered_mode = False
        self._undo: list[Callable[[], None]] = []

    # -- entering and leaving

    def __enter__(self) -> None:
        if getattr(self._pl_module, "_compiler_ctx", None) is not None:
            self._compiled.append("the LightningModule")  # hooks and the mode would become part of the compiled step
            return
        for name, module in _observable(self._pl_module):
            self._safely(self._hook, name, module)
        self._mode.__enter__()
        self._entered_mode = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over = True
        if self._entered_mode and not self._paused_at:
            self._mode.__exit__(kind, error, trace)
        for undo in reversed(self._undo):
            undo()

    def _hook(self, name: str, module: nn.Module) -> None:
        compiled_in_place = getattr(module, "_compiled_call_impl", None)
        if compiled_in_place is not None:  # hooks would be traced into the compiled code: stand in front of it

            @functools.wraps(compiled_in_place)
            def observed(*args: Any, **kwargs: Any) -> Any:
                output = None
                self._before(name, module, args, kwargs)
                try:
                    output = compiled_in_place(*args, **kwargs)
                finally:
                    self._after(output)
                return output

            module.__dict__["_compiled_call_impl"] = observed
            self._undo.append(lambda: module.__dict__.update(_compiled_call_impl=compiled_in_place))
            return

        if isinstance(module, _FAST) and "forward" not in vars(module):
            module.__dict__["forward"] = _Forward(self, name, module)
            self._undo.append(lambda: module.__dict__.pop("forward", None))
            return

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._before(name, module, args, kwargs)

        def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:  # noqa: ARG001
            self._after(output)

        self._undo.append(module.register_forward_pre_hook(_Hook(before), with_kwargs=True).remove)
        self._undo.append(module.register_forward_hook(_Hook(after), with_kwargs=True, always_call=True).remove)

    # -- calls of modules

    def _before(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._in_backward or _is_traced():  # activation checkpointing calls modules again
            return
        self._depth += 1
        if self._depth == 1:
            self._safely(self._enter, name, module, args, kwargs)
        if _is_compiled(module):
            self._compiled.append(name or "the LightningModule")
        if _is_compiled(module) or isinstance(module, _FAST):
            entered = torch.overrides._get_current_function_mode() is self._mode  # noqa: SLF001 - no public reader
            if entered:
                self._mode.__exit__(None, None, None)
                self._paused_at = self._depth

    def _after(self, output: Any) -> None:
        if self._in_backward or _is_traced():
            return
        if self._paused_at == self._depth:
            self._mode.__enter__()
            self._paused_at = 0
        self._depth -= 1
        if self._depth == 0:
            self._safely(self._leave, output)

    def _enter(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._entered = {storage(tensor): tensor for _, tensor in tensors((args, kwargs))}  # kept, or the module
        # could let go of one, and what it returns could be stored in its place
        self._continues = any(self._is_from_net(tensor) for _, tensor in tensors((args, kwargs)))
        self._recording = _has_parameters(module)
        if self._recording:
            self._record_call(name, module, args, kwargs)

    def _leave(self, output: Any) -> None:
        if self._recording or self._continues:
            passed_through = self._entered if not self._continues else {}  # labels handed on, in graph networks
            self._mark_from_net(output, passed_through)
        self._entered = {}
        if self._recording:
            self._record_output(output)

    def _record_call(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        frozen_args, frozen_kwargs = snapshot(args), snapshot(kwargs)
        copies = dict(tensors(by_parameter(module, frozen_args, frozen_kwargs)))
        inputs = {
            (f"{name}.{path}" if name else path): copies[path]
            for path, tensor in tensors(by_parameter(module, args, kwargs))
            if path in copies and not self._is_from_net(tensor)
        }
        self._net_calls.append(NetCall(name, module, frozen_args, frozen_kwargs, inputs))

    def _record_output(self, output: Any) -> None:
        kept = {path: cut(tensor) for path, tensor in tensors(output)}
        call = self._net_calls[-1]
        output = kept.get("", kept) if kept else output
        self._net_calls[-1] = replace(call, output=output, switches=switches(call.module))

    # -- calls of functions, from the mode

    def see(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Take note of one call of a torch function."""
        if _is_traced():
            return
        if function in LOSSES and isinstance(output, Tensor):
            self._safely(self._record_loss, function, args, kwargs, output)
        if self._depth == 0:
            self._safely(self._follow, function, args, kwargs, output)

    def _follow(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        name = getattr(function, "__name__", "")
        if name.endswith("_like") or name.startswith("new_"):  # takes only the shape of its argument
            return
        given = [tensor for _, tensor in tensors(args[:1] if name in _CASTS else (args, kwargs))]
        outside = [tensor for tensor in given if not self._is_from_net(tensor)]
        if len(outside) < len(given):
            views = [] if name.endswith("_") else [storage(tensor) for tensor in outside]  # as of y.view_as(logits)
            self._mark_from_net(output, views)

    def backward(self, loss: Tensor) -> None:
        """Take note of what backward was called on."""
        self._roots.append(loss)

    def _record_loss(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], value: Tensor
    ) -> None:
        if any(value is known for _, known in self._losses):  # seen twice: by the tracer, and by an eager backend
            return
        where, stack = _caller()
        if stack in self._stacks:  # a loop
            i = self._stacks.index(stack)
            call, first = self._losses[i]
            self._losses[i] = (replace(call, times=call.times + 1), first)
            return
        self._stacks.append(stack)
        bound = inspect.signature(function).bind(*args, **kwargs)
        bound.apply_defaults()
        prediction, target = bound.arguments.get("input"), bound.arguments.get("target")
        if TABLE[LOSSES[function]].symmetric and self._is_learnt(target) and not self._is_learnt(prediction):
            prediction, target = target, prediction
            bound.arguments |= {"input": prediction, "target": target}
        examples = prediction.shape[0] if isinstance(prediction, Tensor) and prediction.ndim else 1
        call = LossCall(
            LOSSES[function],
            function,
            cut_arguments(bound.arguments),
            cut(value),
            examples,
            where,
            self._is_learnt(target),
        )
        self._losses.append((call, value))

    # -- what came out of the network

    def _mark_from_net(self, output: Any, passed_through: Collection[int] = ()) -> None:
        for _, tensor in tensors(output):
            if tensor.requires_grad or storage(tensor) not in passed_through:
                self._from_net[id(tensor)] = weakref.ref(tensor)

    def _is_learnt(self, value: Any) -> bool:
        return isinstance(value, Tensor) and (value.requires_grad or self._is_from_net(value))

    def _is_from_net(self, tensor: Tensor) -> bool:
        known = self._from_net.get(id(tensor))
        return known is not None and known() is tensor

    # -- the end of the step

    def conclude(self, batch: Any, output: Any, *, training: bool) -> Step:
        """What the step did; in training without the losses that it did not learn from."""
        for call in self._mode.traced:
            self._safely(self._record_loss, *call)
        returned = output.get("loss") if isinstance(output, Mapping) else output
        roots = [*self._roots, *([returned] if isinstance(returned, Tensor) else [])]
        losses = self._losses
        if training:
            reached = _ancestors(roots)
            losses = [(call, value) for call, value in losses if value.grad_fn in reached]
        loss = cloned(roots[0]) if roots else None
        return Step(batch, loss, self._net_calls, [call for call, _ in losses], self._compiled)

    def _safely(self, record: Callable[..., None], *args: Any) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                record(*args)
        except Exception as error:  # noqa: BLE001 - the user's step must go on
            self.error = self.error or error


class _LossMode(TorchFunctionMode):
    """Sees every call of a torch function, the losses of ``torch.nn.functional`` among them."""

    def __init__(self, observers: Observers) -> None:
        super().__init__()
        self._observers = observers
        self.traced: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.backward:
            self._observers.backward(args[0])
            self._observers._in_backward = True  # noqa: SLF001
            try:
                return func(*args, **kwargs)
            finally:
                self._observers._in_backward = False  # noqa: SLF001
        output = func(*args, **kwargs)
        if torch.compiler.is_compiling():  # a compiled function, outside of any compiled module
            if func in LOSSES:
                self.traced.append((func, args, kwargs, output))
        else:
            self._observers.see(func, args, kwargs, output)
        return output


class _Hook:
    """A hook that copies of its module, also pickled ones, do not get: a step may make a copy that lives for long."""

    def __init__(self, hook: Callable[..., None]) -> None:
        self._hook = hook

    def __call__(self, *args: Any) -> None:
        self._hook(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return _NoHook, ()


class _NoHook:
    """What they get instead."""

    def __call__(self, *args: Any) -> None:
        pass


class _Forward:
    """Stands in for the forward of a module, and of its copies while the step lasts; pickled ones get their own."""

    def __init__(self, observers: Observers, name: str, module: nn.Module) -> None:
        functools.update_wrapper(self, type(module).forward)
        self._observers, self._name, self._module = weakref.ref(observers), name, module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        observers, forward = self._observers(), functools.partial(type(self._module).forward, self._module)
        if observers is None or observers.over:
            return forward(*args, **kwargs)
        output = None
        observers._before(self._name, self._module, args, kwargs)  # noqa: SLF001 - of this file
        try:
            output = forward(*args, **kwargs)
        finally:
            observers._after(output)  # noqa: SLF001
        return output

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        observers, module = self._observers(), copy.deepcopy(self._module, memo)
        return module.forward if observers is None else _Forward(observers, self._name, module)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._module, "forward")


def _observable(module: nn.Module, name: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, nn.Module]]:
    """Modules whose calls can be seen: no scripted ones, nothing in compiled and fast ones, no metrics or losses."""
    seen = set() if seen is None else seen
    if id(module) in seen or isinstance(module, Metric | nn.modules.loss._Loss):  # noqa: SLF001 - their only common base
        return
    seen.add(id(module))
    if isinstance(module, torch.jit.ScriptModule):  # takes no hooks
        return
    yield name, module
    if not was_compiled(module) and not isinstance(module, _FAST[1:]):
        for child_name, child in module.named_children():
            yield from _observable(child, f"{name}.{child_name}" if name else child_name, seen)


def _is_traced() -> bool:
    """Whether tensors stand for others: in ``torch.compile``, and in ``vmap`` and ``grad`` of ``torch.func``."""
    return torch.compiler.is_compiling() or torch._C._functorch.maybe_current_level() is not None  # noqa: SLF001


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _is_compiled(module: nn.Module) -> bool:
    """Whether `module` is a compiled network; compiled losses have no weights, and are looked into."""
    return _has_parameters(module) and was_compiled(module)


def was_compiled(module: nn.Module) -> bool:
    """Whether `module` is what ``torch.compile`` returned, or was compiled in place."""
    return isinstance(module.__dict__.get("_modules", {}).get("_orig_mod"), nn.Module) or (
        getattr(module, "_compiled_call_impl", None) is not None
    )


def _ancestors(roots: list[Tensor]) -> set[Any]:
    """All nodes of the autograd graph that `roots` were computed from."""
    reached: set[Any] = set()
    waiting = [root.grad_fn for root in roots if root.grad_fn is not None]
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting.extend(parent for parent, _ in node.next_functions if parent is not None)
    return reached


def _caller() -> tuple[str, tuple[Any, ...]]:
    """File and line of the innermost code that is not torch's, and the calls that led there from the step."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - inspect.stack() reads source files
    where, stack = "", []
    while frame is not None and frame.f_code.co_filename != _WRAPPER:
        if not frame.f_code.co_filename.startswith((_TORCH, __file__)):
            where = where or _place(frame)
            stack.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return where or "compiled code", tuple(stack)


def _place(frame: FrameType) -> str:
    """``file.py:3``; in a notebook, whose cells are files with a number for a name, ``In[2], line 3``."""
    file = frame.f_code.co_filename
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    named = getattr(getattr(shell, "compile", None), "format_code_name", lambda _: None)(file)  # from IPython 8 on
    return f"{named[1]}, line {frame.f_lineno}" if named else f"{Path(file).name}:{frame.f_lineno}"
