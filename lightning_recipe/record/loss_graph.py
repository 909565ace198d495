"""The autograd graph of a loss: what each of its nodes did, to what, and the values that it keeps for backward."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.record.caller import place
from lightning_recipe.record.graph import kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator

RESHAPES = {
    *("View", "UnsafeView", "ReshapeAlias", "Transpose", "Permute", "T", "Mt", "Squeeze", "Unsqueeze", "Expand"),
    *("Slice", "Select", "Index", "IndexSelect", "MaskedSelect", "Split", "SplitWithSizes", "Unbind", "Cat", "Stack"),
    *("Clone", "Alias", "ToCopy", "AsStrided", "Narrow", "Repeat", "Flip", "Roll"),
}
"""Hand values on as they are: in another shape or type, only some of them, or several together."""
JOINS = {"Cat", "Stack"}
"""Of them, those that put several together."""
PRODUCTS = {
    *("Addmm", "Mm", "Bmm", "Baddbmm", "Linear", "Mv", "Dot", "Addmv", "Convolution", "ConvolutionOverrideable"),
    *("MkldnnConvolution", "CudnnConvolution"),
}
"""Products with weights: they give any number, of either sign."""
CLAMPS = {"Clamp": ("min", "max"), "Hardtanh": ("min_val", "max_val")}
"""The names under which they keep their bounds."""
ACTIVATIONS = {"Relu", "LeakyRelu", "Gelu", "Elu", "Silu"}
_FOREIGN = tuple(str(Path(path).parent) + os.sep for path in (torch.__file__, __file__))
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


class Node(NamedTuple):
    """One operation.

    Attributes:
        raw: Autograd's own node.

    Example:
        >>> x = torch.zeros(2, 3, requires_grad=True)
        >>> node = Node(x.softmax(1).flatten().grad_fn)
        >>> node.kind, node.shape, node.source().kind, node.source().dim, node.source().saved("result").shape
        ('View', (6,), 'Softmax', 1, torch.Size([2, 3]))

    """

    raw: Any

    @property
    def kind(self) -> str:
        """Its name, without what autograd adds: ``"Softmax"``, ``"Addmm"``."""
        return kind_of(self.raw)

    @property
    def parents(self) -> list[Node | None]:
        """What it was applied to, in the order of its arguments; None for what has no gradient."""
        return [None if parent is None else Node(parent) for parent, _ in self.raw.next_functions]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what came out, the first of several."""
        metadata = self.raw._input_metadata  # noqa: SLF001 - there is no public reader
        return tuple(int(size) for size in metadata[0].shape) if metadata else ()

    @property
    def dim(self) -> int | None:
        """The dimension that it worked along, from 0 on."""
        dim = self.saved("dim")
        return dim % len(self.shape) if isinstance(dim, int) and self.shape else None

    def saved(self, name: str) -> Any:
        """What it keeps for backward under a name; None for what it does not keep, or what has been overwritten."""
        try:
            value = getattr(self.raw, f"_saved_{name}", None)
        except RuntimeError:
            return None
        if isinstance(value, tuple):
            return tuple(map(_signed, value))
        return value.detach() if isinstance(value, Tensor) else _signed(value)

    def source(self, argument: int = 0) -> Node | None:
        """What made its argument, past everything that hands values on as they are; None if it has no gradient.

        Example:
            >>> x = torch.zeros(3, requires_grad=True)
            >>> for parts in ((x.exp(), x.exp()), (x.exp(), x.sin())):
            ...     print(Node(torch.cat(parts).sum().grad_fn).source().kind)
            Exp
            Cat

        """
        node = self.parents[argument] if argument < len(self.parents) else None
        return None if node is None else node.origin

    @property
    def origin(self) -> Node | None:
        """It, or what it hands on; of several things that one operation made, the first, of others what joins them."""
        node: Node | None = self
        while node is not None and node.kind in RESHAPES:
            parents = node.parents
            if node.kind in JOINS and len(parents) > 1:
                made = [None if parent is None else parent.origin for parent in parents]
                return made[0] if len({None if one is None else one.kind for one in made}) == 1 else node
            node = next((parent for parent in parents if parent is not None), None)
        return node

    @property
    def picked(self) -> tuple[Tensor, int] | None:
        """The classes of which it takes one for each row, and their dimension: nll_loss, gather, ``x[arange, y]``.

        Example:
            >>> x, y = torch.zeros(2, 3, requires_grad=True), torch.tensor([2, 0])
            >>> Node(x[torch.arange(2), y].grad_fn).picked, Node(x[:, 0].grad_fn).picked
            ((tensor([2, 0]), 1), None)

        """
        index = self.saved("indices") if self.kind == "Index" else None
        if isinstance(index, tuple) and len(index) == 2:  # noqa: PLR2004
            rows, classes = index
            whole = all(i is not None and i.ndim == 1 and i.dtype is torch.long for i in index)
            in_order = whole and torch.equal(rows, torch.arange(len(rows), device=rows.device))
            return (classes, 1) if in_order else None
        if self.kind == "Gather":
            dim = self.dim
            return None if dim is None else (self.saved("index"), dim)
        target = self.saved("target") if self.kind.startswith("NllLoss") else None
        return (target, 1) if isinstance(target, Tensor) else None

    @property
    def is_raw(self) -> bool:
        """Whether it is what a layer puts out, its bias added, at most after an activation."""
        if self.kind in ACTIVATIONS:
            return (made_by := self.source()) is not None and made_by.is_raw
        if self.kind == "Add":
            return any((made_by := self.source(i)) is not None and made_by.kind in PRODUCTS for i in range(2))
        return self.kind in PRODUCTS

    @property
    def where(self) -> str:
        """The line that called it, such as ``"model.py:42"``: of a step in ``torch.autograd.set_detect_anomaly``."""
        for frame in reversed(self.raw.metadata.get("traceback_", [])):
            found = _FRAME.search(frame)
            if found and not found["file"].startswith(_FOREIGN):
                return place(found["file"], int(found["line"]))
        return ""


def _signed(value: Any) -> Any:
    """Autograd keeps negative dimensions as huge ones."""
    return value - 2**64 if isinstance(value, int) and value >= 2**63 else value


def nodes(loss: Tensor, *, through_layers: bool = False) -> Iterator[Node]:
    """All that a loss was computed by from what the last layers put out, these included, the last first.

    Args:
        loss: With its graph.
        through_layers: Go on to the parameters.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> [node.kind for node in nodes((layer(torch.ones(3, 2).relu()).exp() - 1).mean())]
        ['Mean', 'Sub', 'Exp', 'Addmm']

    """
    waiting, seen = deque([loss.grad_fn] if loss.grad_fn is not None else []), set()
    while waiting:
        raw = waiting.popleft()
        if raw not in seen:
            seen.add(raw)
            yield (node := Node(raw))
            if through_layers or node.kind not in PRODUCTS:
                waiting.extend(parent for parent, _ in raw.next_functions if parent is not None)


WeightsOf = Callable[[Node], Tensor | None]
"""`weights`, of a known loss."""


def weights(loss: Tensor, node: Node) -> Tensor | None:
    """How much each element of what a node gave counts in the loss: its derivative, 0 where a mask leaves it out.

    Returns:
        Of the node's shape; None if that can't be found out.

    Example:
        >>> layer, mask = torch.nn.Linear(2, 3), torch.tensor([1.0, 0.0, 1.0])
        >>> loss = ((layer(torch.ones(1, 2)) - 5).pow(2) * mask).sum()
        >>> weights(loss, next(node for node in nodes(loss) if node.kind == "Pow"))
        tensor([[1., 0., 1.]])

    """
    try:
        edge = torch.autograd.graph.GradientEdge(node.raw, 0)
        (gradient,) = torch.autograd.grad(loss.sum(), [edge], retain_graph=True)
    except RuntimeError:
        return None
    return gradient
