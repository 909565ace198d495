"""Where in a step numbers stop being finite: the first function, forward or backward, with its module and line."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_recipe.record.caller import line
from lightning_recipe.record.graph import kind_of
from lightning_recipe.record.tensors import tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch.utils.hooks import RemovableHandle

_ON_PURPOSE = {"masked_fill", "masked_fill_", "where", "full", "full_like", "new_full", "fill_", "setitem", "tensor"}
_ON_PURPOSE |= {"as_tensor", "triu", "tril", "get", "zeros", "ones", "empty", "empty_like", "new_empty", "clone"}
_ON_PURPOSE |= {"cat", "stack", "pad", "view", "reshape", "expand", "to", "detach", "getitem", "empty_strided"}
"""Functions that put an infinity, or what lies in memory, where somebody wants it, as the mask of attention."""

INVERSES = {"acos", "asin", "arccos", "arcsin", "atanh", "arctanh"}
_FROM_ZERO = {"log", "log2", "log10", "sqrt", "rsqrt", "reciprocal", "div", "truediv", "true_divide", "divide"}
_HELD_OFF = {"AddBackward0", "ClampBackward0", "ClampMinBackward0", "MaximumBackward0", "ClampBackward1"}
"""What somebody has put between a number and 0, such as an epsilon."""
_DIFFERENCES = {"SubBackward0", "RsubBackward1"}
ATTENTION = {"softmax", "log_softmax", "scaled_dot_product_attention", "multi_head_attention_forward"}


@dataclass(frozen=True)
class Origin:
    """A function whose output is not finite, while what went in is.

    Attributes:
        function: Its name, such as ``"log"``; of backward that of the function that is gone back through.
        module: Name of the module within which it was called, ``""`` for the LightningModule.
        where: The line that called it.
        backward: Whether its gradient is meant.
        zeros: Whether a zero went in.
        negative: Whether something negative went in.
        empty: Whether a tensor without elements went in.
        infinite: Whether an infinity went in.
        by_norm: Whether what is divided by is a norm.
        half: Whether it computed in half precision.
        unused: Whether a gradient is not finite only where the value counts for nothing: 0 times infinity.

    Example:
        >>> Origin("log", "net", "model.py:3", zeros=True).backward
        False

    """

    function: str
    module: str
    where: str
    backward: bool = False
    zeros: bool = False
    negative: bool = False
    empty: bool = False
    infinite: bool = False
    by_norm: bool = False
    half: bool = False
    unused: bool = False

    def __str__(self) -> str:
        of = "the gradient of " if self.backward else ""
        return f"{of}{self.function} in {self.module or 'the LightningModule'} ({self.where})"


class Tracing(TorchFunctionMode):
    """Sees the functions of one step, of a copy: it waits for the device at each.

    Attributes:
        nan: The first function that gave NaN.
        infinite: The first that gave an infinity, but for those that do on purpose.
        exponential: The exponential of the largest number, and this number.
        nearest: The function that is given a number next to where its value or its slope is infinite, how near, and how
            near it may be but for rounding.

    """

    def __init__(self) -> None:
        super().__init__()
        self.nan: Origin | None = None
        self.infinite: Origin | None = None
        self.exponential: tuple[Origin, float] | None = None
        self.nearest: tuple[Origin, float, float] | None = None
        self.within: list[str] = []
        self._made: dict[Any, Origin] = {}  # by node of the autograd graph

    @property
    def first(self) -> Origin | None:
        """Where it began going forward: where NaN came of an infinity, there; masks of attention are no beginning."""
        if self.nan is None or (self.nan.infinite and self.infinite is not None and self.nan.function not in ATTENTION):
            return self.infinite
        return self.nan

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = _floating((args, kwargs or {}))
        was = [_state(tensor) for tensor in given] if self.nan is None else []
        zeros = self.nan is None and any(bool((t == 0).any()) for _, t in tensors(args) if t.layout is torch.strided)
        output = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "").strip("_")
        made = _floating(output)
        if not made:
            return output
        place = Origin(name, self.within[-1] if self.within else "", line())
        if name == "exp" and given and given[0].numel():
            largest = float(given[0].max())
            if largest > (self.exponential[1] if self.exponential else 0.0):
                self.exponential = place, largest
        elif (margin := _margin(name, given))[1] < (self.nearest[2] if self.nearest else math.inf):
            self.nearest = place, *margin
        self._made |= {tensor.grad_fn: place for tensor in made if tensor.grad_fn is not None}
        given_infinite = any(isinstance(value, float) and math.isinf(value) for value in args)
        if not (self.nan or name in _ON_PURPOSE or given_infinite or any(state.nan for state in was)):
            now = [_state(tensor) for tensor in made]
            facts = {
                "zeros": zeros,
                "negative": any(state.negative for state in was),
                "empty": any(not tensor.numel() for tensor in given),
                "infinite": any(state.infinite for state in was),
                "by_norm": bool(given) and type(given[-1].grad_fn).__name__.startswith(("Norm", "LinalgVectorNorm")),
                "half": any(tensor.dtype in {torch.float16, torch.bfloat16} for tensor in made),
            }
            if any(state.nan for state in now):
                self.nan = Origin(place.function, place.module, place.where, **facts)
            elif any(state.infinite for state in now) and not any(state.infinite for state in was):
                self.infinite = self.infinite or Origin(place.function, place.module, place.where, **facts)
        return output

    def backward(self, loss: Tensor) -> Origin | None:
        """Go back from a loss that is finite: the first function whose gradient is not, while what came to it is."""
        found: list[Origin] = []
        handles: list[RemovableHandle] = []
        waiting, seen = [(loss.grad_fn, Origin("", "", ""))], set()
        leaves = []
        while waiting:
            node, consumer = waiting.pop(0)
            if node is None or node in seen:
                continue
            seen.add(node)
            place = self._made.get(node, consumer)
            if isinstance(leaf := getattr(node, "variable", None), Tensor):
                leaves.append(leaf)
                continue
            handles.append(node.register_hook(_Going(node, place, found)))
            waiting += [(parent, place) for parent, _ in node.next_functions]
        try:
            gradients = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
        finally:
            for handle in handles:
                handle.remove()
        bad = any(g is not None and not bool(torch.isfinite(g).all()) for g in gradients)
        return found[0] if found and bad else None


@dataclass(frozen=True)
class _Going:
    """A hook of a node of the autograd graph."""

    node: Any
    place: Origin
    found: list[Origin]

    def __call__(self, gone: tuple[Any, ...], came: tuple[Any, ...]) -> None:
        if self.found or not all(_state(g).finite for g in came if isinstance(g, Tensor)):
            return
        if not all(_state(g).finite for g in gone if isinstance(g, Tensor)):
            kind = kind_of(self.node).lower()
            half = any(g.dtype in {torch.float16, torch.bfloat16} for g in gone if isinstance(g, Tensor))
            unused = _is_unused(gone, came)
            at = self.place
            self.found.append(Origin(kind, at.module, at.where, backward=True, half=half, unused=unused))


def _is_unused(gone: tuple[Any, ...], came: tuple[Any, ...]) -> bool:
    of = [(g, c) for g in gone for c in came if isinstance(g, Tensor) and isinstance(c, Tensor) and g.shape == c.shape]
    return bool(of) and all(bool((c[~torch.isfinite(g)] == 0).all()) for g, c in of)


@dataclass(frozen=True)
class _State:
    nan: bool = False
    infinite: bool = False
    negative: bool = False

    @property
    def finite(self) -> bool:
        return not (self.nan or self.infinite)


def _state(tensor: Tensor) -> _State:
    if tensor.layout is not torch.strided or not tensor.numel() or tensor.is_complex():
        return _State()
    tensor = tensor.detach()
    checks = torch.stack([tensor.isnan().any(), tensor.isinf().any(), (tensor < 0).any()])
    return _State(*checks.tolist())


def _floating(structure: Any) -> list[Tensor]:
    return [tensor for _, tensor in tensors(structure) if tensor.is_floating_point()]


def _margin(name: str, given: list[Tensor]) -> tuple[float, float]:
    """How near what a function is given comes to where its value or its slope is infinite, and may but for rounding.

    A difference to 1 in bfloat16 is 0 or at least 0.004.

    Example:
        >>> _margin("acos", [torch.tensor([0.5, -0.75])])[0], _margin("div", [torch.ones(2), torch.tensor([0.5, 3.0])])
        (0.25, (0.5, 0.5))
        >>> _margin("log", [1 - torch.tensor([0.992], dtype=torch.bfloat16, requires_grad=True)])
        (0.0078125, 0.0)
        >>> _margin("exp", [torch.zeros(2)])
        (inf, inf)

    """
    if not given or not given[-1].numel():
        return math.inf, math.inf
    values, made_by = given[-1].detach(), type(given[-1].grad_fn).__name__
    if name in INVERSES:
        margin = max(1 - float(values.abs().max()), 0.0)
    elif name in _FROM_ZERO and made_by not in _HELD_OFF:
        margin = float(values.abs().min())
    else:
        return math.inf, math.inf
    rounded = name in INVERSES or made_by in _DIFFERENCES
    return margin, max(margin - torch.finfo(values.dtype).eps, 0.0) if rounded else margin


@contextmanager
def tracing(module: nn.Module) -> Iterator[Tracing]:
    """See the functions that a step of a copy calls.

    Args:
        module: The copy, whose modules tell by hooks when they are called.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> with tracing(net) as trace:
        ...     _ = net(torch.ones(1, 1)).mul(0).log()
        >>> trace.first.function, trace.first.zeros
        ('log', True)

    """
    trace, handles = Tracing(), []
    for name, part in module.named_modules():
        handles.append(part.register_forward_pre_hook(lambda *_, name=name: trace.within.append(name)))
        handles.append(part.register_forward_hook(lambda *_: (trace.within.pop(), None)[1], always_call=True))
    try:
        with trace:
            yield trace
    finally:
        for handle in handles:
            handle.remove()
