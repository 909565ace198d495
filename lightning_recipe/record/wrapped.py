"""What a step computes in integers that are too small for it, where it wraps around, and reaches the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_recipe.record.caller import line
from lightning_recipe.record.compiled import is_traced
from lightning_recipe.record.tensors import mapped, tensors

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = {torch.uint8, torch.int8, torch.int16}
MOST = 2**24
"""Numbers that are computed once more, which takes 8 bytes for each: a hundred colour images of ImageNet's size."""
ARITHMETIC = {
    *("add", "iadd", "radd", "sub", "isub", "rsub", "subtract", "mul", "imul", "rmul", "multiply", "neg", "negative"),
    *("abs", "absolute", "square", "pow", "ipow", "rpow", "diff", "matmul", "mm", "bmm", "floor_divide", "floordiv"),
}
"""Functions whose result may be too large, or too small, by name; those of bits are meant to drop some."""
ALIKE = {
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "movedim", "flip"),
    *("expand", "repeat", "contiguous", "clone", "detach", "getitem", "select", "narrow", "index_select", "gather"),
    *("chunk", "split", "unbind", "roll", "cat", "concat", "concatenate", "stack", "hstack", "vstack"),
    *("clamp", "clip", "where", "sum", "cumsum", "div", "true_divide", "truediv", "itruediv", "divide"),
    *("masked_fill", "setitem", "fill", "copy"),
}
"""Functions that compute the same of numbers whether they wrapped around or not."""
CASTS = {"to", "type", "type_as", "char", "short", "int", "long", "cuda", "cpu"}
"""Functions after which integers are what they were, if they fit."""
TO_FLOAT = {"float", "half", "double", "bfloat16", "mean"}
INDEXED = {"getitem", "select", "narrow", "index_select", "gather", "setitem"}
"""Functions that take other integers for places."""


class Wrapped(NamedTuple):
    """Numbers that wrapped around.

    Attributes:
        where: The line that computed them.
        kind: Their type, such as ``"uint8"``.
        share: Of all numbers that became floating-point ones.

    """

    where: str
    kind: str
    share: float


class _Followed(NamedTuple):
    """A tensor that is followed; it is kept, and so its id.

    Attributes:
        tensor: Integers, or floating-point numbers that were made of them.
        truth: What the integers would be had they room; None of floating-point numbers.
        found: Where they wrapped around.

    """

    tensor: Tensor
    truth: Tensor | None
    found: Wrapped


class Wrapping(TorchFunctionMode):
    """Computes once more, in 64 bits, what is computed in 8 or 16, and follows what differs.

    It is found once floating-point numbers that were made of it meet some that have a gradient, as those of a layer or
    of a loss have. What is used as an index or in a comparison, or loses bits on purpose, is not followed; nor is one
    value that a number makes of others, as 0 - 1 may mark labels that are to be ignored.

    Attributes:
        found: By the line that computed them.

    Example:
        >>> a, b = torch.tensor([[9, 5], [7, 3]], dtype=torch.uint8)
        >>> weight = torch.ones(2, requires_grad=True)
        >>> with Wrapping() as wrapping:
        ...     _ = (b - a).float() @ weight, (a - b).float() @ weight, (b - a) + a
        >>> [(wrapped.kind, wrapped.share) for wrapped in wrapping.found.values()]
        [('uint8', 1.0)]

    """

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Wrapped] = {}
        self._known: dict[int, _Followed] = {}

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._known.clear()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "").strip("_")
        if is_traced() or not (given := self._given(name, args, kwargs)):
            return func(*args, **kwargs)
        known = [self._known[id(tensor)] for tensor in given if id(tensor) in self._known]
        again = self._in_64_bits(name, args, kwargs)  # before one of them is written into
        output = func(*args, **kwargs)
        made = [tensor for _, tensor in tensors(output if name != "setitem" else args[0])]
        if known and any(tensor.is_floating_point() for tensor in made):
            self._made(name, known, made)
            return output
        for tensor in made:  # written into, too, it is no longer what it was
            self._known.pop(id(tensor), None)
        if made and again is not None:
            try:
                right = func(*again[0], **again[1]) if name not in CASTS else again[0][0]
            except (RuntimeError, TypeError, IndexError, ValueError):  # there is no such function in 64 bits
                return output
            truth = [tensor for _, tensor in tensors(right if name != "setitem" else again[0][0])]
            self._compare(given, known, made, truth)
        return output

    def _given(self, name: str, args: Any, kwargs: Any) -> list[Tensor]:
        """The tensors that a function is given, if there is anything to see."""
        if not self._known and name not in ARITHMETIC:
            return []
        given = [tensor for _, tensor in tensors((args[:1], args[2:]) if name in INDEXED else (args, kwargs))]
        if any(id(tensor) in self._known for tensor in given):
            return given
        small = any(tensor.dtype in SMALL and tensor.layout is torch.strided for tensor in given)
        return given if small and name in ARITHMETIC and max(tensor.numel() for tensor in given) <= MOST else []

    def _in_64_bits(self, name: str, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """What to give the function instead."""
        if name not in ARITHMETIC | ALIKE | CASTS:
            return None

        def truth(tensor: Tensor) -> Tensor:
            one = self._known.get(id(tensor))
            if one is not None and one.truth is not None:
                return one.truth.clone()
            return tensor.long() if tensor.dtype in SMALL else tensor

        if name in INDEXED:
            return (truth(args[0]), *args[1:2], *mapped(args[2:], Tensor, truth)), kwargs
        return mapped(args, Tensor, truth), mapped(kwargs, Tensor, truth)

    def _made(self, name: str, known: list[_Followed], made: list[Tensor]) -> None:
        """Floating-point numbers were made of what is followed: by a cast or in a sum, not by a look into a table."""
        known = [one for one in known if one.truth is None or name in ARITHMETIC | ALIKE | CASTS | TO_FLOAT]
        if not known or name.endswith("_like") or name.startswith("new_"):
            return
        one = known[0]
        found = one.found
        if one.truth is not None:
            found = found._replace(share=float((one.tensor != one.truth).float().mean()))
        for tensor in made:
            if tensor.is_floating_point() and tensor.requires_grad:
                self.found.setdefault(found.where, found)
            elif tensor.is_floating_point():
                self._known[id(tensor)] = _Followed(tensor, None, found)

    def _compare(self, given: list[Tensor], known: list[_Followed], made: list[Tensor], truth: list[Tensor]) -> None:
        """Follow what is not what it would be in 64 bits."""
        for tensor, right in zip(made, truth, strict=False):
            right = right.to(tensor.device)  # noqa: PLW2901
            if right.shape != tensor.shape or not tensor.numel() or tensor.dtype is torch.bool:
                continue
            wrong = tensor != right
            mark = not known and len([t for t in given if t.ndim]) == 1 and len(tensor[wrong].unique()) == 1
            if bool(wrong.any()) and not mark:
                kind = str(tensor.dtype).removeprefix("torch.")
                found = known[0].found if known else Wrapped(line(), kind, 0.0)
                self._known[id(tensor)] = _Followed(tensor, right, found)
