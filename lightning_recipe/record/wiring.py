"""The events of a step in order, and the numbers of the tensors that went in and came out."""

from __future__ import annotations

from types import EllipsisType, MethodWrapperType, NoneType
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_recipe.losses.table import LOSSES
from lightning_recipe.record.bounds import NAMES, Bounds
from lightning_recipe.record.caller import by_lightning, line, method_of, running
from lightning_recipe.record.clips import clips
from lightning_recipe.record.events import Event, Kind
from lightning_recipe.record.modules import within_unseen
from lightning_recipe.record.tensors import same, tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence

    from lightning_recipe.record.clips import Clip
    from lightning_recipe.record.reductions import Reductions

Given = list[tuple[Tensor, int]]
"""What goes into a call, with its versions: -1 if it was made in inference mode, where none are counted."""
Spread = tuple[tuple[int, ...], ...]

_PLAIN = {int, float, bool, str, NoneType, EllipsisType, slice, torch.dtype, torch.device, torch.Size}
_READERS = {
    *("size", "dim", "ndimension", "numel", "nelement", "element_size", "stride", "storage_offset", "len", "hash"),
    *("is_contiguous", "is_floating_point", "is_complex", "is_signed", "is_inference", "get_device"),
}
"""Tell of a tensor's shape and kind, not of its values."""
_CLIPPING = (nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_)
_LAYERS = {*("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")}
_LAYERS |= {"embedding", "bilinear", "lstm", "gru", "layer_norm"}
"""Functions that modules with parameters call."""
_ARITHMETIC = {
    *("add", "sub", "mul", "div", "radd", "rsub", "rmul", "rdiv", "truediv", "rtruediv", "pow", "rpow"),
    *("subtract", "multiply", "divide", "true_divide"),
}
"""Of two tensors that are broadcast to one shape, as in a loss."""
CHOICES = {"argmax", "argmin", "argsort", "round", "floor", "ceil", "sign", "trunc", "multinomial", "bernoulli"}
CHOICES |= {"gt", "lt", "ge", "le"}
"""Functions by whose result something is chosen: no gradient comes back from them."""
_BOUNDED = {"tanh", "sigmoid"}
"""Functions of which numbers are taken where those of modules are."""
_event = tuple.__new__  # takes a third as long as naming the fields
_functorch = torch._C._functorch  # noqa: SLF001 - vmap and grad have no public reader of what they wrap


class Wiring:
    """Writes down events. Holds no tensor longer than the call that it goes into.

    Args:
        root: The LightningModule, for the names of its parameters.
        watched: Modules whose calls are seen, by id.
        clips: Whether clamps are looked for in the graph.

    Attributes:
        clips: The clamps that were seen when backward began.
        unlisted: Modules with parameters that the LightningModule doesn't list, with the line that called each.
        before_clipping: Is called when gradients are about to be clipped.
        reductions: Reduces what comes out of bounded functions, if that is wanted.

    Example:
        >>> net, x = nn.Linear(2, 1), torch.ones(3, 2)
        >>> wiring = Wiring(net)
        >>> wiring.enter([x])
        >>> y = net(x)
        >>> wiring.leave("net", net, y)
        >>> wiring.after(torch.relu, wiring.before(torch.relu, (y,), {}), y.relu())
        >>> [(e.kind, e.name, e.inputs, e.outputs) for e in wiring.events()]
        [('module', 'net', (1,), (2,)), ('function', 'relu', (2,), (3,))]

    """

    def __init__(self, root: nn.Module, watched: Container[int] = (), *, clips: bool = False) -> None:
        self.clips: list[Clip] = []
        self.unlisted: list[tuple[nn.Module, str]] = []
        self.before_clipping: Callable[[], None] = lambda: None
        self.reductions: Reductions | None = None
        self._bounds = Bounds() if clips else None
        self._within: Given | None = None  # what went into the leaf that is being called
        self._root = root
        self._watched = watched
        self._off = ""  # the line that switched gradients off
        self._events: list[Event] = []
        self._numbers: dict[tuple[int, int], int] = {}  # by id of the tensor's reference, and its version
        self._references: list[ref[Tensor]] = []  # as long as they are kept, no other has their id
        self._made: set[int] = set()  # references to what came out of modules, by id
        self._follows = False
        self._parameters: dict[int, str] | None = None
        self._gradients: dict[int, tuple[ref[Tensor], str]] = {}

    def events(self) -> list[Event]:
        """What happened since this was last called, as events."""
        events, self._events = self._events, []
        return events

    def follow(self, given: Any) -> None:
        """Take what functions make of a batch, or of parameters, for events, too, before any module was called."""
        self._follows = True
        for tensor, _ in _given((given,)):
            self._references.append(ref(tensor))
            self._made.add(id(self._references[-1]))

    # -- modules

    def enter(self, arguments: Iterable[Any]) -> None:
        """A leaf is called; until it returns, functions are no events."""
        self._within = _given(arguments)

    def leave(self, name: str, module: nn.Module, output: Any) -> None:
        """It returned."""
        given, self._within = self._within or [], None
        off = self._off if self._off and not torch.is_grad_enabled() else ""
        self._note("module", name, given, output, module, off, training=module.training)

    def passed(self, name: str, module: nn.Module, given: Tensor, version: int, output: Any) -> None:
        """A leaf was given one tensor of this version; in less time if it neither wrote into it nor put out several."""
        off = self._off if self._off and not torch.is_grad_enabled() else ""
        plain = type(output) is Tensor and not output.is_inference()
        if not plain or output is given or given._version != version:  # noqa: SLF001
            self._note("module", name, [(given, version)], output, module, off, training=module.training)
            return
        numbers = self._numbers
        key = (id(seen := ref(given)), version)
        went_in = numbers.get(key) or self._new(key, seen)
        key = (id(seen := ref(output)), output._version)  # noqa: SLF001
        came_out = numbers.get(key) or self._new(key, seen)
        self._made.add(key[0])
        event = ("module", name, (went_in,), (came_out,), module, off, (), module.training, (), False)
        self._events.append(_event(Event, event))

    def _note(  # noqa: PLR0913, PLR0917
        self,
        kind: Kind,
        name: str,
        given: Given,
        output: Any,
        module: nn.Module | None = None,
        where: str = "",
        *,
        training: bool = False,
        spread: Spread = (),
        own: Sequence[str] = (),
    ) -> None:
        """Take note of an event, of what came out and what was written into.

        A tensor gets another number once something was written into it. Those made in inference mode do not tell
        whether; they get another one from each event that puts them out.
        """
        numbers, went_in, came_out, puts_out = self._numbers, [], [], _given((output,))
        for tensor, version in given:
            key = (id(seen := ref(tensor)), version)
            went_in.append(numbers.get(key) or self._new(key, seen))
            if version >= 0 and tensor._version != version:  # noqa: SLF001
                puts_out.append((tensor, tensor._version))  # noqa: SLF001
        for tensor, version in puts_out:
            key = (id(seen := ref(tensor)), version)
            number = (version >= 0 and numbers.get(key)) or self._new(key, seen)
            if number not in came_out:
                came_out.append(number)
            self._made.add(key[0])
        equal = self._follows and len(given) > 1 and same(given[0][0], given[1][0])
        event = (kind, name, tuple(went_in), tuple(came_out), module, where, tuple(own), training, spread, equal)
        self._events.append(_event(Event, event))

    def _new(self, key: tuple[int, int], seen: ref[Tensor]) -> int:
        self._references.append(seen)
        self._numbers[key] = number = len(self._references)
        return number

    # -- functions

    def before(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given | None:
        """What goes into a function; None if that is no event."""
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - a mode of the user's would see what we read
            found = _found((*args, *kwargs.values()))
            if _functorch.maybe_current_level() is not None:
                self._transformed(found)
                return None
            known = self._from_modules(found)
            if self._within is not None:  # a leaf may use what it was not given, such as one of its attributes
                if _drops(kwargs) or _name(function) in CHOICES:
                    self._note("function", _name(function), [], None, where=line(), training=_drops(kwargs))
                self._within += _given(t for t in known if not any(t is given for given, _ in self._within))
                return None
            name = _name(function)
            if name in {"grad", "zero_", "_foreach_zero_"}:
                self._cleared(function, name, args)
            if name in {"grad", "tensor"} and running(*_CLIPPING):
                self._clipped(args[0] if name == "grad" else None)
            elif name == "_set_grad_enabled":
                self._off = "" if args[0] else line()
            elif name in _LAYERS and (layer := method_of(nn.Module)) is not None:
                self._outside(layer)
            if function is F.batch_norm and (norm := method_of(_BatchNorm)) is not None:
                self._note("module", "", [], None, norm, line(), training=norm.training)  # of a copy kept in a list
            if name == "detach" and by_lightning():  # of what is logged
                return None
            return _given(found) if known else None

    def after(
        self,
        function: Callable[..., Any],
        given: Given,
        output: Any,
        kwargs: dict[str, Any] | None = None,
        args: tuple[Any, ...] = (),
    ) -> None:
        """Take note of a function that was called."""
        with torch._C.DisableTorchFunction():  # noqa: SLF001
            name = _name(function)
            reads = name in _READERS or function.__name__ == "__get__"
            if not reads or _found((output,)):
                kind: Kind = "loss" if function in LOSSES else "function"
                place = line()
                spread = _spread(given) if name in _ARITHMETIC or kind == "loss" else ()
                own = [owner for t, _ in given if type(t) is nn.Parameter and (owner := self._named(t))]
                self._note(kind, name, given, output, where=place, training=_drops(kwargs), spread=spread, own=own)
                if self.reductions is not None and name in _BOUNDED:
                    self.reductions.output(f"{name} ({place})", output, recurs=True)
            if self._bounds is not None and args and (name in NAMES or function in LOSSES):
                self._bounds.note(function, name, args, output, self._from_modules([tensor for tensor, _ in given]))

    def _from_modules(self, found: list[Tensor]) -> list[Tensor]:
        return [tensor for tensor in found if id(ref(tensor)) in self._made]

    def _transformed(self, found: list[Tensor]) -> None:
        """What goes into ``vmap`` and ``grad`` is known; what happens there is not."""
        known = self._from_modules([_unwrapped(tensor) for tensor in found])
        if known:
            self._note("function", "functorch", _given(known), None)

    # -- backward, optimisers, gradients

    def backward(self, roots: list[Tensor]) -> None:
        """Backward begins: the last moment at which the graph holds its tensors."""
        self.clips += self.clips_of(roots)
        with torch._C.DisableTorchFunction():  # noqa: SLF001
            self._note("backward", "backward", _given(roots), None)

    def returned(self, loss: Tensor) -> None:
        """The step is over, and this is the loss that it returned."""
        with torch._C.DisableTorchFunction():  # noqa: SLF001
            self._note("returned", "return", _given([loss]), None)

    def clips_of(self, roots: list[Tensor]) -> list[Clip]:
        """How losses were clamped; while the graph holds its tensors."""
        return [clip for root in roots for clip in clips(root, self._bounds)] if self._bounds is not None else []

    def note(self, kind: Kind, name: str, parameters: Iterable[str]) -> None:
        """Something happened that no function tells of, as to these parameters."""
        self._events.append(Event(kind, name, parameters=tuple(parameters)))

    def _named(self, parameter: Tensor) -> str | None:
        if self._parameters is None:
            self._parameters = {id(p): name for name, p in self._root.named_parameters()}
        return self._parameters.get(id(parameter))

    def _outside(self, layer: nn.Module) -> None:
        """A layer that nobody watches is none of the LightningModule's, unless it lies within a metric or a loss."""
        known = id(layer) in self._watched or any(module is layer for module, _ in self.unlisted)
        if not known and next(layer.parameters(), None) is not None and not within_unseen(layer, self._root):
            self.unlisted.append((layer, line()))

    def _clipped(self, parameter: Tensor | None) -> None:
        """The gradient of a parameter is read by a function that clips, which may be given none."""
        clipped = [owner] if parameter is not None and (owner := self._named(parameter)) is not None else []
        if self._events and self._events[-1].kind == "clip":
            clipped = [*self._events.pop().parameters, *clipped]
        else:
            self.before_clipping()
        self._events.append(Event("clip", "clip", where=line(), parameters=tuple(dict.fromkeys(clipped))))

    def _cleared(self, function: Callable[..., Any], name: str, args: tuple[Any, ...]) -> None:
        """Gradients set to None, or to zero: by ``zero_`` of a tensor that was read as a gradient, or many at once."""
        if name == "grad" and isinstance(args[0], nn.Parameter):
            owner, gradient = self._named(args[0]), args[0].grad
            if owner is None or gradient is None:  # foreign, or nothing to clear
                return
            self._gradients[id(gradient)] = (ref(gradient), owner)
            cleared = [owner] if function.__name__ == "__set__" and args[1] is None else []
        elif name != "grad":
            known = [(tensor, self._gradients.get(id(tensor))) for tensor in _found(args)]
            cleared = [entry[1] for tensor, entry in known if entry is not None and entry[0]() is tensor]
        else:
            return
        if cleared and self._events and self._events[-1].kind == "zero_grad":
            cleared = [*self._events.pop().parameters, *cleared]
        if cleared:
            self.note("zero_grad", "zero_grad", cleared)


def _found(arguments: Iterable[Any]) -> list[Tensor]:
    return [tensor for tensor, _ in _given(arguments)]


def _given(arguments: Iterable[Any]) -> Given:
    """The tensors in arguments, with their versions; most arguments are tensors or numbers."""
    given: Given = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            try:
                given.append((argument, argument._version))  # noqa: SLF001 - there is no other way to tell
            except RuntimeError:  # made in inference mode
                given.append((argument, -1))
        elif type(argument) not in _PLAIN:
            given += _given(tensor for _, tensor in tensors(argument))
    return given


def _spread(given: Given) -> Spread:
    """The shapes of two operands that are not of the same shape."""
    shapes = tuple(tuple(tensor.shape) for tensor, _ in given)
    return shapes if len(shapes) == 2 and shapes[0] != shapes[1] else ()  # noqa: PLR2004


def _unwrapped(tensor: Tensor) -> Tensor:
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor


def _drops(kwargs: dict[str, Any] | None) -> bool:
    """Whether a function is told to drop something."""
    return bool(kwargs and (kwargs.get("dropout_p") or (kwargs.get("training") and kwargs.get("p"))))


def _name(function: Callable[..., Any]) -> str:
    """``"add"``, and of an attribute its name, not ``__get__``."""
    owner = function.__self__ if isinstance(function, MethodWrapperType) else function
    name: str = getattr(owner, "__name__", "")
    return name.removeprefix("__").removesuffix("__") if name.startswith("__") else name
