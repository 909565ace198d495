"""Graphs in one batch whose edges were not moved along with their nodes, and all lie in the first graphs."""

from __future__ import annotations

from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.record.tensors import mapped, tensors
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

GRAPHS = 3
"""In a batch, at least: edges of two may well lie in both of them."""
STEADY = 0.02
"""Change of the loss when edges are put into another order, over that when they join other nodes: rounding."""
REPEATED = 0.05
"""Share of edges that occur several times, where all graphs have as many nodes: one graph for all has each once."""
Leaf = tuple[str, Tensor]


class Local(NamedTuple):
    """Edges that stay within the nodes of the first graphs.

    Attributes:
        leaves: The tensor that holds them, or the two, with their paths.
        sizes: Nodes of each graph.

    """

    leaves: tuple[Leaf, ...]
    sizes: Tensor

    @property
    def rows(self) -> Tensor:
        """The two ends of each edge, of shape (2, E)."""
        return _rows(self.leaves)


def without_offset(run: Run, step: Step) -> Outcome | None:
    """What to say of edges that all join nodes of the first graphs; None if there are none, or they may be right.

    A step may add what is missing by itself, to the edges of each graph. Then their order tells whose they are. So it
    is run again on a copy: on edges in another order, which must change nothing, and on edges that join other nodes,
    which must.

    Args:
        run: Whose module is copied.
        step: That is run again.

    """
    local = local_edges(step.batch)
    if local is None or not _read_as_they_are(run, step, local):
        return None
    nodes, graphs, last = int(local.sizes.sum()), len(local.sizes), int(local.rows.max())
    reached = int((local.sizes.cumsum(0) <= last).sum()) + 1
    named = listed(f"`{path}`" for path, _ in local.leaves if path)
    return Outcome(
        Status.FAILED if len(local.sizes.unique()) > 1 else Status.WARNING,
        "edges_without_offset",
        f"the edges {named} of {graphs} graphs join no others than the first {last + 1} of {nodes} nodes, which are "
        f"those of the first {reached}: each graph counts its nodes from 0",
        "add to the edges of each graph the number of nodes that come before it in the batch",
        {"graphs": graphs, "nodes": nodes, "largest": last, "reached": reached},
    )


def local_edges(content: Any) -> Local | None:
    """Edges in a batch of graphs that begin again with node 0 in each graph; None if there are none.

    Nodes are known by a vector with the graph of each, by one of where graphs begin, as PyTorch Geometric's ``ptr``,
    or by their number in each graph. Edges are two rows or columns, or two vectors. Where other edges are right, these
    may count something else.

    Example:
        >>> edges = torch.tensor([[0, 1, 2, 0, 1, 2, 0, 1, 2], [1, 2, 0, 1, 2, 0, 1, 2, 0]])
        >>> batch = {"x": torch.zeros(10, 4), "edges": edges, "of": torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])}
        >>> local_edges(batch).sizes
        tensor([3, 3, 4])
        >>> offset = torch.arange(3).repeat_interleave(3) * 3
        >>> local_edges({**batch, "edges": edges + offset})

    """
    leaves = [(path, t) for path, t in tensors(content) if t.layout is torch.strided and t.ndim and t.numel()]
    whole = [(path, t.cpu()) for path, t in leaves if t.dtype in {torch.int64, torch.int32}]
    found = [
        (sizes, pair)
        for path, sizes in _sizes(whole, [(p, len(t)) for p, t in leaves])
        for pair in _pairs([leaf for leaf in whole if leaf[0] != path])
    ]
    if any(_is_right(_rows(pair), sizes) for sizes, pair in found):
        return None
    for sizes, pair in found:
        if _is_local(_rows(pair), sizes):
            own = dict(leaves)
            return Local(tuple((path, own[path]) for path, _ in pair), sizes)
    return None


def _sizes(whole: list[Leaf], lengths: list[tuple[str, int]]) -> Iterator[tuple[str, Tensor]]:
    """How many nodes each graph of a batch may have, by what tells it."""
    for path, t in whole:
        rows = {length for other, length in lengths if other != path}
        if t.ndim != 1 or len(t) < GRAPHS:
            continue
        steps = t.diff()
        if t[0] == 0 and len(t) in rows and steps.min() >= 0 and steps.max() == 1 and GRAPHS <= int(t[-1]) + 1 < len(t):
            yield path, t.bincount()
        elif t[0] == 0 and len(t) > GRAPHS and steps.min() > 0 and int(t[-1]) in rows:
            yield path, steps
        elif t.min() > 0 and int(t.sum()) in rows:
            yield path, t


def _pairs(whole: list[Leaf]) -> Iterator[tuple[Leaf, ...]]:
    """What may be edges."""
    for path, t in whole:
        if t.ndim == 2 and 2 in t.shape:  # noqa: PLR2004
            yield ((path, t),)
    vectors = [leaf for leaf in whole if leaf[1].ndim == 1]
    yield from ((a, b) for a, b in combinations(vectors, 2) if len(a[1]) == len(b[1]))


def _rows(pair: tuple[Leaf, ...]) -> Tensor:
    if len(pair) > 1:
        return torch.stack([t.long() for _, t in pair])
    edges = pair[0][1].long()
    return edges if len(edges) == 2 else edges.T  # noqa: PLR2004


def _is_right(edges: Tensor, sizes: Tensor) -> bool:
    """Whether edges stay within their graph, and reach others than the first ones."""
    owner = torch.arange(len(sizes)).repeat_interleave(sizes)
    if edges.min() < 0 or not sizes.max() <= edges.max() < len(owner):
        return False
    return torch.equal(*owner[edges])


def _is_local(edges: Tensor, sizes: Tensor) -> bool:
    """Whether edges count the nodes of each graph from 0, and those of several graphs are there."""
    graphs, nodes, largest = len(sizes), int(sizes.sum()), int(sizes.max())
    count = edges.shape[1]
    if count <= graphs or count == nodes or nodes <= 2 * largest or edges.min() < 0 or edges.max() >= largest:
        return False
    if bool((edges.amax(1) + 1 < sizes.double().median()).any()) or torch.equal(*edges):  # categories are fewer
        return False
    if bool(((edges.diff(dim=1) < 0).sum(1) < graphs / 2).any()):  # they begin again with each graph
        return False
    repeated = 1 - len((edges[0] * largest + edges[1]).unique()) / count
    return len(sizes.unique()) > 1 or repeated > REPEATED


def _read_as_they_are(run: Run, step: Step, local: Local) -> bool:
    """Whether the loss stays when edges come in another order, and changes when they join other nodes."""
    edges, graphs = local.rows, len(local.sizes)
    order = within_reach(edges)
    own = {id(t) for _, t in local.leaves}
    along = [t for _, t in tensors(step.batch) if id(t) in own or _goes_along(t, edges.shape[1], graphs)]
    moved = {id(t): t.index_select(list(t.shape).index(len(order)), order.to(t.device)) for t in along}
    ends = edges.amax(0)
    source = torch.zeros(int(ends.max()) + 1, dtype=edges.dtype)
    source[ends[order]] = edges[0, order]  # one of those with the same largest end, for all of them
    joined = torch.stack([source[ends], edges[1]])
    rewired = {id(t): _like(t, joined if len(own) == 1 else joined[i]) for i, (_, t) in enumerate(local.leaves)}
    losses = []
    try:
        with torch.enable_grad(), rehearsal(run) as again:
            again.module.eval()  # dropout of edges goes by their place
            for others in ({}, moved, rewired):
                loss = again.step(mapped(step.batch, Tensor, partial(_replaced, others))).loss
                if loss is None:
                    return False
                losses.append(float(loss))
    except CannotRehearseError:
        return False
    before, same, other = losses
    return abs(other - before) > 0 and abs(same - before) <= STEADY * abs(other - before)


def within_reach(edges: Tensor) -> Tensor:
    """An order of edges in which each takes the place of one with the same largest end, so that none is out of range.

    Example:
        >>> edges = torch.tensor([[0, 1, 2, 0], [1, 2, 0, 1]])
        >>> torch.equal(edges.amax(0)[within_reach(edges)], edges.amax(0))
        True

    """
    ends = edges.amax(0)
    drawn = torch.randperm(len(ends), generator=torch.Generator().manual_seed(0))
    order = torch.empty_like(drawn)
    order[ends.argsort(stable=True)] = drawn[ends[drawn].argsort(stable=True)]
    return order


def _goes_along(t: Tensor, count: int, graphs: int) -> bool:
    """Whether a tensor tells something of each edge, other than its graph, which a step may take the offset from."""
    if t.layout is not torch.strided or not t.ndim or count not in t.shape:
        return False
    return t.is_floating_point() or t.ndim > 1 or len(t.unique()) != graphs or int(t.min()) != 0


def _like(t: Tensor, rows: Tensor) -> Tensor:
    """Two rows of ends, or one, in the form in which the batch has them."""
    return (rows if rows.shape == t.shape else rows.T).to(t)


def _replaced(others: dict[int, Tensor], t: Tensor) -> Tensor:
    return others.get(id(t), t)
