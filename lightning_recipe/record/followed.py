"""What a step makes of the entries of its batch before any layer sees them, and where it becomes constant."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_recipe.record.caller import line
from lightning_recipe.record.compiled import is_traced
from lightning_recipe.record.modules import observable
from lightning_recipe.record.tensors import same, tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MERGE = {"cat", "concat", "concatenate", "hstack", "column_stack", "stack", "__setitem__"}
"""They put side by side what stays what it is."""


class Constant(NamedTuple):
    """What is made of an entry, and is the same for all examples.

    Attributes:
        where: The line that made it so.
        row: What each example has after that line.
        layer: Name of the layer that it enters; empty as long as it enters none.

    """

    where: str
    row: Tensor
    layer: str = ""


class Followed(TorchFunctionMode):
    """Follows entries of a batch up to the first layers with parameters.

    What is made of an entry and of numbers that are the same for all examples is followed. What is mixed with anything
    else that has a row for each example, with parameters or random numbers, is not, but for what is put side by side;
    nor are truth values, such as masks, and what has but the shape of an entry.

    Args:
        root: The module, whose layers are watched.

    Attributes:
        constants: By path of an entry, what enters a layer and is the same for all examples; of an entry of which
            nothing else enters any layer.

    Example:
        >>> net, hour = nn.Linear(1, 2), torch.arange(8)
        >>> with Followed(net) as followed:
        ...     followed.start({"hour": hour})
        ...     _ = net((hour // 24)[:, None].float())
        >>> followed.constants["hour"].row
        tensor(0)

    """

    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        self._root, self._size = root, 0
        self._known: dict[int, tuple[Tensor, dict[str, Constant | None]]] = {}  # the tensor is kept, and so its id
        self._found: dict[str, Constant] = {}
        self._vary: set[str] = set()

    @property
    def constants(self) -> dict[str, Constant]:
        """See above."""
        return {path: one for path, one in self._found.items() if path not in self._vary}

    def start(self, entries: Mapping[str, Tensor]) -> None:
        """Follow these from now on; all of them have a row for each example, and differ between them."""
        self._size = max((len(tensor) for tensor in entries.values()), default=0)
        self._known = {id(tensor): (tensor, {path: None}) for path, tensor in entries.items()}

    def __enter__(self) -> Self:
        self._hooks = [
            module.register_forward_pre_hook(partial(self._enters, name), with_kwargs=True)
            for name, module, leaf, _ in observable(self._root, inside_fast=True)
            if leaf and next(module.parameters(), None) is not None
        ]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()
        self._known.clear()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if self._known and not is_traced():
            given = [t for _, t in tensors((args, kwargs or {}))]
            if any(id(t) in self._known for t in given):
                self._made(getattr(func, "__name__", ""), given, output)
        return output

    def _made(self, name: str, given: list[Tensor], output: Any) -> None:
        own: dict[str, Constant | None] = {}
        for tensor in given:
            for path, constant in self._known.get(id(tensor), (tensor, {}))[1].items():
                own[path] = own[path] and constant if path in own else constant
        if name.endswith("_like") or name.startswith("new_"):
            return
        others = [t for t in given if id(t) not in self._known]
        into = given[:1] if name == "__setitem__" else [t for _, t in tensors(output)]
        free = name in MERGE or not any(isinstance(t, nn.Parameter) or self._has_own_rows(t) for t in others)
        for tensor in into:
            self._known.pop(id(tensor), None)  # what is written into is no longer what it was
            if not free or tensor.dtype is torch.bool or tensor.requires_grad or not self._has_rows(tensor):
                continue
            made = own
            if None in own.values() and name not in MERGE and not self._has_own_rows(tensor):
                here = Constant(line(), tensor[0].detach().clone())
                made = {path: constant or here for path, constant in own.items()}
            self._known[id(tensor)] = (tensor, made)

    def _has_rows(self, tensor: Tensor) -> bool:
        return tensor.layout is torch.strided and tensor.ndim > 0 and len(tensor) == self._size and tensor.numel() > 0

    def _has_own_rows(self, tensor: Tensor) -> bool:
        """Whether examples have rows of their own, that are not all the same."""
        return self._has_rows(tensor) and not same(tensor, tensor[:1].expand_as(tensor))

    def _enters(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if is_traced():
            return
        whole = isinstance(module, nn.Embedding | nn.EmbeddingBag)
        entering = [t for _, t in tensors((args, kwargs)) if whole or t.is_floating_point()]
        for tensor in entering:
            for path, constant in self._known.get(id(tensor), (tensor, {}))[1].items():
                if constant is None or tensor is not entering[0]:  # what else a layer takes, such as a mask, may be so
                    self._vary.add(path)
                else:
                    self._found.setdefault(path, constant._replace(layer=name))
