"""The events of a step in order, and the numbers of the tensors that went in and came out."""

from __future__ import annotations

import weakref
from types import EllipsisType, MethodWrapperType, NoneType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_recipe.record.caller import line
from lightning_recipe.record.events import Event, Kind
from lightning_recipe.record.loss_calls import LOSSES
from lightning_recipe.record.provenance import Numbers
from lightning_recipe.record.tensors import tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Given = list[tuple[Tensor, int]]
"""What goes into a call, and the numbers it had then."""

_PLAIN = {int, float, bool, str, NoneType, EllipsisType, slice, torch.dtype, torch.device, torch.Size}
_READERS = {
    *("size", "dim", "ndimension", "numel", "nelement", "element_size", "stride", "storage_offset", "len", "hash"),
    *("is_contiguous", "is_floating_point", "is_complex", "is_signed", "is_inference", "get_device"),
}
"""Tell of a tensor's shape and kind, not of its values."""
_functorch = torch._C._functorch  # noqa: SLF001 - vmap and grad have no public reader of what they wrap


class Wiring:
    """Writes down events. Holds no tensor longer than the call that it goes into.

    Args:
        root: The LightningModule, for the names of its parameters.

    Attributes:
        events: See :class:`~lightning_recipe.record.step.Event`.
        within: Leaves that are being called, one within the other; functions in them are no events.

    Example:
        >>> net, x = nn.Linear(2, 1), torch.ones(3, 2)
        >>> wiring = Wiring(net)
        >>> given = wiring.given((x,))
        >>> y = net(x)
        >>> wiring.module("net", net, given, y)
        >>> wiring.after(torch.relu, wiring.before(torch.relu, (y,), {}), y.relu())
        >>> [(e.kind, e.name, e.inputs, e.outputs) for e in wiring.events]
        [('module', 'net', (1,), (2,)), ('function', 'relu', (2,), (3,))]

    """

    def __init__(self, root: nn.Module) -> None:
        self.events: list[Event] = []
        self.within: list[nn.Module] = []
        self._root = root
        self._numbers = Numbers()
        self._parameters: dict[int, str] | None = None
        self._gradients: dict[int, tuple[weakref.ref[Tensor], str]] = {}

    # -- modules

    def given(self, arguments: Iterable[Any]) -> Given:
        """Number what goes into a call."""
        return [(tensor, self._numbers.of(tensor)) for tensor in _found(arguments)]

    def module(self, name: str, module: nn.Module, given: Given, output: Any) -> None:
        """A leaf was called."""
        self.events.append(Event("module", name, _numbers(given), self._out((output,), given), module))

    def _out(self, output: tuple[Any, ...], given: Given) -> tuple[int, ...]:
        """Numbers of what came out, and of what was written into."""
        outputs: dict[int, None] = {}
        for tensor in _found(output):
            written = tensor.is_inference() and any(tensor is other for other, _ in given)  # can't be told: maybe
            outputs[self._numbers.of(tensor, made=True, anew=written)] = None
        for tensor, before in given:
            if not tensor.is_inference() and self._numbers.of(tensor) != before:
                outputs[self._numbers.of(tensor, made=True)] = None
        return tuple(outputs)

    # -- functions

    def before(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given | None:
        """What goes into a function; None if that is no event."""
        if self.within:
            return None
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - a mode of the user's would see what we read
            found = _found((*args, *kwargs.values()))
            if _functorch.maybe_current_level() is not None:
                self._transformed(found)
                return None
            name = _name(function)
            if name in {"grad", "zero_", "_foreach_zero_"}:
                self._cleared(function, name, args)
            if not any(map(self._numbers.came_from_module, found)):
                return None
            return self.given(found)

    def after(self, function: Callable[..., Any], given: Given, output: Any) -> None:
        """Take note of a function that was called."""
        with torch._C.DisableTorchFunction():  # noqa: SLF001
            outputs = self._out((output,), given)
            name = _name(function)
            if not outputs and (type(function) is MethodWrapperType or name in _READERS):
                return
            kind: Kind = "loss" if function in LOSSES else "function"
            self.events.append(Event(kind, name, _numbers(given), outputs, None, line()))

    def _transformed(self, found: list[Tensor]) -> None:
        """What goes into ``vmap`` and ``grad`` is known; what happens there is not."""
        inner = [_unwrapped(tensor) for tensor in found]
        given = [(tensor, self._numbers.of(tensor)) for tensor in inner if self._numbers.came_from_module(tensor)]
        event = Event("function", "functorch", _numbers(given))
        if given and event not in self.events[-1:]:
            self.events.append(event)

    # -- backward, optimisers, gradients

    def backward(self, roots: list[Tensor]) -> None:
        """Backward begins."""
        with torch._C.DisableTorchFunction():  # noqa: SLF001
            self.events.append(Event("backward", "backward", _numbers(self.given(roots))))

    def note(self, kind: Kind, name: str, parameters: Iterable[str]) -> None:
        """Something happened that no function tells of, as to these parameters."""
        self.events.append(Event(kind, name, parameters=tuple(parameters)))

    def _named(self, parameter: Tensor) -> str | None:
        if self._parameters is None:
            self._parameters = {id(p): name for name, p in self._root.named_parameters()}
        return self._parameters.get(id(parameter))

    def _cleared(self, function: Callable[..., Any], name: str, args: tuple[Any, ...]) -> None:
        """Gradients set to None, or to zero: by ``zero_`` of a tensor that was read as a gradient, or many at once."""
        if name == "grad" and isinstance(args[0], nn.Parameter):
            owner, gradient = self._named(args[0]), args[0].grad
            if owner is None or gradient is None:  # foreign, or nothing to clear
                return
            self._gradients[id(gradient)] = (weakref.ref(gradient), owner)
            cleared = [owner] if function.__name__ == "__set__" and args[1] is None else []
        elif name != "grad":
            known = [(tensor, self._gradients.get(id(tensor))) for tensor in _found(args)]
            cleared = [entry[1] for tensor, entry in known if entry is not None and entry[0]() is tensor]
        else:
            return
        if cleared and self.events and self.events[-1].kind == "zero_grad":
            last = self.events.pop()
            cleared = [*last.parameters, *cleared]
        if cleared:
            self.events.append(Event("zero_grad", "zero_grad", parameters=tuple(cleared)))


def _found(arguments: Iterable[Any]) -> list[Tensor]:
    """The tensors in arguments; most of these are tensors or numbers."""
    found: list[Tensor] = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            found.append(argument)
        elif type(argument) not in _PLAIN:
            found += [tensor for _, tensor in tensors(argument)]
    return found


def _numbers(given: Given) -> tuple[int, ...]:
    return tuple([number for _, number in given])


def _unwrapped(tensor: Tensor) -> Tensor:
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor


def _name(function: Callable[..., Any]) -> str:
    """``"add"``, and of an attribute its name, not ``__get__``."""
    owner = function.__self__ if isinstance(function, MethodWrapperType) else function
    name: str = getattr(owner, "__name__", "")
    return name.removeprefix("__").removesuffix("__") if name.startswith("__") else name
