"""Which rows of the tensors that enter the network are examples, and which may be something else."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lightning_recipe.dependencies.backprop import UndecidedError, layouts
from lightning_recipe.record.tensors import dense, leading_size, mapped, same, tensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lightning_recipe.record.step import NetCall
    from lightning_recipe.run import Run

FEW = 4
"""Rows for each example up to which they may be taken for views of it, rather than for nodes of its graph."""


@dataclass(frozen=True)
class Batch:
    """What is known about the rows that enter a call.

    Attributes:
        size: How many there are.
        examples: Whether they are examples for certain: what the DataLoader put into the batch.
        agreed: Whether every tensor of the batch, and there are several, has as many in dimension 0.
        shuffled: Whether neighbours have nothing to do with each other.
        content: The tensors of the batch.
        owners: Of a batch of graphs, the graph of each node, and of each edge.

    """

    size: int
    examples: bool
    agreed: bool
    shuffled: bool
    content: list[Tensor]
    owners: tuple[Tensor, ...] = ()

    def owns(self, tensor: Tensor) -> bool:
        """Whether `tensor` is one of the batch, as the DataLoader made it: rows are examples, if there are any."""
        alike = [t for t in self.content if t.shape == tensor.shape and t.device == tensor.device]
        return any(same(t, tensor.to(t.dtype)) for t in alike)


def batch_of(run: Run, content: Any, call: NetCall) -> Batch:
    """The rows of a call: the DataLoader's batch size, else a size that all tensors of the batch share.

    Args:
        run: Its training DataLoaders are asked for their batch size.
        content: The batch.
        call: The call; one of its arguments must have as many rows.

    Raises:
        UndecidedError: If there are fewer than two rows, all arguments are empty, or one is packed or not a number.

    """
    arguments = [(path, t) for path, t in tensors((call.args, call.kwargs))]
    _refuse_unusable(call, arguments)
    sizes = run.batch_sizes
    shuffled = run.shuffled is not False
    shapes = [t.shape for _, t in arguments]
    batch = [t for _, t in tensors(content) if t.ndim]
    if owners := graphs_of(content):
        size = int(owners[0].max()) + 1
        return Batch(size, examples=True, agreed=True, shuffled=shuffled, content=batch, owners=owners)
    for size in sizes:
        if size > 1 and any(layouts(shape, size) for shape in shapes) and not are_beside(shapes, size):
            return Batch(size, examples=True, agreed=True, shuffled=shuffled, content=batch)
    shared = set.intersection(*({s for s in t.shape if s > 1} for t in batch)) if len(batch) > 1 else set()
    shared = {size for size in shared if any(size in shape for shape in shapes)}
    size = next(iter(shared)) if len(shared) == 1 else leading_size([t for _, t in arguments]) or 0
    if size < 2:  # noqa: PLR2004 - a pair
        msg = f"a batch of {size} has no pair of examples"
        raise UndecidedError(msg)
    agreed = not sizes and len(batch) > 1 and all(t.shape[0] == size or shared == {size} for t in batch)
    return Batch(size, examples=False, agreed=agreed, shuffled=shuffled, content=batch)


def are_beside(shapes: Iterable[Sequence[int]], size: int) -> bool:
    """Whether examples lie beside each other in the last dimension, as the variables of one multivariate series.

    Args:
        shapes: Of what enters a network.
        size: How many examples there are.

    Example:
        >>> are_beside([(32, 12, 8), (32, 12, 8)], 8), are_beside([(8, 12, 8)], 8), are_beside([(12, 8, 3)], 8)
        (True, False, False)

    """
    found = [tuple(shape) for shape in shapes if size in shape]
    return bool(found) and all(len(shape) > 2 and shape.index(size) == len(shape) - 1 for shape in found)  # noqa: PLR2004


def graphs_of(content: Any) -> tuple[Tensor, ...]:
    """The graph of each node, and of each edge, of a batch of graphs; empty for others.

    It has a vector ``batch`` like PyTorch Geometric's: for each node the index of its graph, in order. Without that
    name it is known by edges, pairs of indices that never lead from one graph to another, in one tensor or in two; or,
    where nodes are more than graphs, by a tensor with a row for each graph.

    Example:
        >>> graphs_of({"x": torch.zeros(4, 2), "batch": torch.tensor([0, 0, 1, 1])})
        (tensor([0, 0, 1, 1]),)
        >>> graphs_of((torch.zeros(4, 2), torch.tensor([[0, 1, 2], [1, 0, 3]]), torch.tensor([0, 0, 1, 1])))
        (tensor([0, 0, 1, 1]), tensor([0, 0, 1]))
        >>> graphs_of({"R": torch.zeros(5, 3), "of": torch.tensor([0, 0, 0, 1, 1]), "energy": torch.zeros(2)})
        (tensor([0, 0, 0, 1, 1]),)

    """
    found = [(path, t.cpu()) for path, t in dense(content)]
    lengths = {len(t) for _, t in found if t.is_floating_point() and t.ndim}
    pairs = [t for _, t in found if t.dtype == torch.int64 and t.ndim == 2 and len(t) == 2 and t.numel()]  # noqa: PLR2004
    vectors = [t for _, t in found if t.dtype == torch.int64 and t.ndim == 1 and t.numel()]
    pairs += [torch.stack(two) for two in itertools.combinations(vectors, 2) if len(two[0]) == len(two[1])]
    for path, owner in found:
        if owner.dtype != torch.int64 or owner.ndim != 1 or len(owner) not in lengths or len(owner) < 2:  # noqa: PLR2004
            continue
        jumps = owner.diff()
        if owner[0] != 0 or jumps.min() < 0 or jumps.max() > 1 or int(jumps.sum()) in {0, len(owner) - 1}:
            continue
        edges = [p for p in pairs if p.min() >= 0 and p.max() < len(owner) and torch.equal(owner[p[0]], owner[p[1]])]
        edges = [p for p in edges if not torch.equal(*p) and not any(torch.equal(owner, end) for end in p)]
        graphs = int(owner[-1]) + 1
        if edges or path.rpartition(".")[2] == "batch" or (graphs < len(owner) / 2 and graphs in lengths):
            return owner, *(owner[p[0]] for p in edges[:1])
    return ()


def _refuse_unusable(call: NetCall, arguments: list[tuple[str, Tensor]]) -> None:
    if not arguments:
        msg = "it is called with no tensors of one shape"
        raise UndecidedError(msg)
    if any(isinstance(value, PackedSequence) for value in (*call.args, *call.kwargs.values())):
        msg = "it receives a PackedSequence, whose rows are steps in time of examples of different length"
        raise UndecidedError(msg)
    if not any(tensor.numel() for _, tensor in arguments):
        msg = "it is called with empty tensors"
        raise UndecidedError(msg)
    for path, tensor in arguments:
        where = next((name for name, value in call.inputs.items() if value is tensor), path)
        if tensor.is_floating_point() and tensor.layout is torch.strided and tensor.isnan().any():
            msg = f"{where} holds NaN"
            raise UndecidedError(msg)


def why_not_examples(module: nn.Module, call: NetCall, batch: Batch, dims: Sequence[int]) -> str:
    """Why rows that mix may be something else: nodes of a graph, points of a set, steps in time; empty if they aren't.

    Args:
        module: The module called.
        call: The call.
        batch: What is known of its rows.
        dims: The dimensions of its inputs along which rows were counted.

    """
    if batch.owners:
        return ""
    size = batch.size
    arguments = [t for _, t in tensors((call.args, call.kwargs))]
    rows = max((t.shape[0] for t in arguments if t.ndim), default=0)
    lists = [value for value in (*call.args, *call.kwargs.values()) if isinstance(value, list)]
    if any(tuple(t.shape) == (size, size) and not (batch.examples and batch.owns(t)) for t in arguments):
        return f"an input of {size} by {size} may relate rows to each other, as the edges of a graph do"
    if not any(size in t.shape for t in batch.content if t.is_floating_point()) and (bound := why_bound(batch)):
        return bound
    if _keeps_edges(module, size):
        return f"its {size} rows may be the nodes of a graph that it keeps"
    if any(len(value) == size for value in lists):
        return f"a list of {size} may hold an example in each entry"
    if not any(size in t.shape for t in arguments):
        if rows > FEW * size or not all(t.is_floating_point() for t in arguments):
            return f"its {rows} rows may be nodes or points, several for each of {size} examples"
    elif not batch.examples and not batch.agreed:
        return f"its {size} rows depend on each other, but may be nodes, points or steps in time, not examples"
    if set(dims) != {0} and not any(t.numel() == o.numel() for t in arguments for o in batch.content):
        return f"a dimension other than the first, of size {size}, may be the batch by chance only"
    return ""


def why_bound(batch: Batch) -> str:
    """Why rows may belong together by what else is in the batch, as nodes do by their edges; empty if nothing says so.

    Edges are pairs of the numbers of rows, in one tensor or in two, which reach into the later half of the rows.

    Example:
        >>> x, edges = torch.zeros(8, 3), torch.tensor([[0, 1, 2, 7, 5], [1, 2, 3, 6, 4]])
        >>> why_bound(Batch(4, True, True, True, [x, edges]))
        'its 8 rows may be the nodes of graphs, whose edges the batch holds'
        >>> why_bound(Batch(8, True, True, True, [x, torch.arange(8)]))
        ''

    """
    content = [t for t in batch.content if t.numel()]
    found = set()
    for rows in {len(t) for t in content if t.is_floating_point() and len(t) % batch.size == 0}:
        if any(rows / 2 < int(ends.max()) < rows and int(ends.min()) >= 0 for ends in _pairs_in(content, batch)):
            found.add(rows)
    return f"its {max(found)} rows may be the nodes of graphs, whose edges the batch holds" if found else ""


def _pairs_in(content: list[Tensor], batch: Batch) -> list[Tensor]:
    """What may be edges: whole numbers in two rows or columns, or two vectors, with no row for each example."""
    whole = [t for t in content if t.dtype in {torch.int64, torch.int32} and t.layout is torch.strided]
    vectors = [t for t in whole if t.ndim == 1 and len(t) != batch.size]
    found = [t for t in whole if t.ndim == 2 and 2 in t.shape and batch.size not in t.shape]  # noqa: PLR2004
    two = (pair for pair in itertools.combinations(vectors, 2) if len(pair[0]) == len(pair[1]))
    return found + [torch.stack(pair) for pair in two]


def why_no_rows(args: Sequence[Any], kwargs: dict[str, Any], size: int) -> str:
    """Why no input of a call can be varied for one of `size` examples alone.

    Example:
        >>> why_no_rows((torch.zeros(67, 4), torch.zeros(8).long()), {}, 8)
        'no floating-point input, and no embedding of what differs, has a row for each of 8 examples'

    """
    for value in (*args, *kwargs.values()):
        reached: list[Tensor] = []
        mapped(value, Tensor, reached.append)
        if not reached and next(tensors(value), None) is not None:
            return f"its inputs lie inside an object, {type(value).__name__}, where they can't be varied one by one"
        if any(tensor.layout is not torch.strided for tensor in reached):
            return "an input is sparse: its rows can't be varied one by one"
    return f"no floating-point input, and no embedding of what differs, has a row for each of {size} examples"


def _keeps_edges(module: nn.Module, size: int) -> bool:
    """Whether the module keeps what may be the edges of a graph: pairs of indices, or a square matrix."""
    kept = [
        t for m in module.modules() for t in (*m.buffers(recurse=False), *vars(m).values()) if isinstance(t, Tensor)
    ]
    pairs = any(t.ndim == 2 and 2 in t.shape and not t.is_floating_point() for t in kept)  # noqa: PLR2004
    return pairs or any(tuple(t.shape) == (size, size) for t in kept)
