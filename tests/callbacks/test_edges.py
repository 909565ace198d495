"""Graphs in one batch whose edges count the nodes of each graph from 0: ways in which that is right, then mistakes."""

from dataclasses import dataclass

import pytest
import torch
from patients import FEATURES, EdgesWithoutOffset

from lightning_recipe import BatchMixingDetector
from lightning_recipe.callbacks._edges import local_edges

CODE = "BatchMixingDetector/edges_without_offset"


def judged(fit, module):
    check = BatchMixingDetector()
    fit(module, [check], logger=False, max_steps=1, limit_val_batches=0)
    assert not [f for f in check.findings if f.code.endswith("internal_error")], check.findings
    return check.findings


class WithOffset(EdgesWithoutOffset):
    offset = True


class InTheStep(EdgesWithoutOffset):
    """Its graphs have 2 edges for each node, in order, to which the step adds what is missing."""

    def forward(self, x, edges, owner):
        sizes = owner.bincount()
        starts = (sizes.cumsum(0) - sizes).repeat_interleave(2 * sizes)
        return super().forward(x, edges + starts, owner)


class InTheStepByOwner(EdgesWithoutOffset):
    """The graph of each edge is in the batch, too."""

    def forward(self, x, both, owner):
        edges, graph = both
        sizes = owner.bincount()
        return super().forward(x, edges + (sizes.cumsum(0) - sizes)[graph], owner)

    def together(self, graphs):
        x, edges, owner, y = super().together(graphs)
        count = torch.tensor([edges.shape[1] for _, edges, _ in graphs])
        return x, (edges, torch.arange(len(graphs)).repeat_interleave(count)), owner, y


class Unread(EdgesWithoutOffset):
    """The network does not look at edges."""

    def forward(self, x, edges, owner):
        return super().forward(x, edges[:, :0], owner)


class Bonds(WithOffset):
    """Two categories of each edge, beside edges that are right."""

    def forward(self, x, both, owner):
        edges, bonds = both
        return super().forward(x * (1 + bonds.double().mean().float()), edges, owner)

    def together(self, graphs):
        x, edges, owner, y = super().together(graphs)
        return (
            x,
            (edges, torch.stack([torch.arange(edges.shape[1]) % 9, torch.arange(edges.shape[1]) % 8], 1)),
            owner,
            y,
        )


class OneForAll(EdgesWithoutOffset):
    """All graphs have the same nodes and edges, as the joints of a hand."""

    def graphs(self, n, seed):
        return [
            (x[:5], torch.tensor([[0, 1, 2, 3, 4, 2], [1, 2, 3, 4, 0, 0]]), i) for x, _, i in super().graphs(n, seed)
        ]

    def forward(self, x, edges, owner):
        x = x.view(-1, 5, FEATURES)
        return self.net((x + x[:, edges[0]].sum(1, keepdim=True)).mean(1))

    def together(self, graphs):
        x, _, owner, y = super().together(graphs)
        return x, graphs[0][1], owner, y


@pytest.mark.parametrize("module", [WithOffset, InTheStep, InTheStepByOwner, Unread, Bonds, OneForAll])
def test_edges_that_are_right(fit, module):
    assert CODE not in {f.code for f in judged(fit, module())}


def batch(sizes, *, offset):
    sizes = torch.tensor(sizes)
    rings = [torch.stack([torch.arange(n), (torch.arange(n) + 1) % n]) for n in sizes.tolist()]
    edges = torch.cat(
        [ring.repeat(1, 2) + s * offset for ring, s in zip(rings, sizes.cumsum(0) - sizes, strict=True)], 1
    )
    owner = torch.arange(len(sizes)).repeat_interleave(sizes)
    return {"x": torch.zeros(len(owner), 3), "edge_index": edges, "batch": owner}


@pytest.mark.parametrize("sizes", [[4, 5, 6, 4], [5, 5, 5, 5]])
def test_which_edges_are_local(sizes):
    local, right = (batch(sizes, offset=offset) for offset in (False, True))
    assert local_edges(right) is None
    assert local_edges(local).sizes.tolist() == sizes
    assert local_edges(local | {"others": right["edge_index"]}) is None, "these may count something else"
    assert local_edges({name: t for name, t in local.items() if name != "batch"}) is None
    assert local_edges({**local, "edge_index": local["edge_index"] % 2}) is None, "categories"


def test_one_graph_for_all_has_each_edge_once():
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    one = torch.combinations(torch.arange(10), 2).T
    batch = {"x": torch.zeros(50, 3), "edges": torch.cat([one, one.flip(0)], 1)[:, order]}
    assert local_edges(batch | {"of": torch.arange(5).repeat_interleave(10)}) is None


def test_two_graphs_are_not_enough():
    assert local_edges(batch([5, 6], offset=False)) is None


# -- mistakes


@dataclass
class Graphs:
    """Like PyTorch Geometric's."""

    x: torch.Tensor
    edge_index: torch.Tensor
    ptr: torch.Tensor
    y: torch.Tensor


class AsObjects(EdgesWithoutOffset):
    """Where graphs begin, as PyTorch Geometric's batches have it, too."""

    def training_step(self, batch, batch_idx):
        owner = torch.arange(len(batch.y)).repeat_interleave(batch.ptr.diff())
        return self.loss(self(batch.x, batch.edge_index, owner), batch.y)

    def together(self, graphs):
        x, edges, owner, y = super().together(graphs)
        return Graphs(x, edges, torch.cat([torch.zeros(1).long(), owner.bincount().cumsum(0)]), y)


class InColumns(EdgesWithoutOffset):
    """How many nodes each graph has, and edges of shape (E, 2)."""

    def training_step(self, batch, batch_idx):
        owner = torch.arange(len(batch["y"])).repeat_interleave(batch["nodes"])
        return self.loss(self(batch["x"], batch["edges"].T, owner), batch["y"])

    def together(self, graphs):
        x, edges, owner, y = super().together(graphs)
        return {"x": x, "edges": edges.T, "nodes": owner.bincount(), "y": y}


class InTwoVectors(EdgesWithoutOffset):
    """With a weight for each edge."""

    def training_step(self, batch, batch_idx):
        x, source, target, weight, owner, y = batch
        h = x.index_add(0, target, x[source] * weight[:, None])
        return self.loss(self(h, torch.stack([source, target])[:, :0], owner), y)

    def together(self, graphs):
        x, edges, owner, y = super().together(graphs)
        return x, edges[0].int(), edges[1].int(), torch.linspace(0, 1, edges.shape[1]), owner, y


class WithDropout(EdgesWithoutOffset):
    """Drops edges."""

    def forward(self, x, edges, owner):
        kept = torch.nn.functional.dropout(torch.ones(edges.shape[1]), 0.3, self.training) > 0
        return super().forward(x, edges[:, kept], owner)


@pytest.mark.parametrize("module", [EdgesWithoutOffset, AsObjects, InColumns, InTwoVectors, WithDropout])
def test_edges_that_all_lie_in_the_first_graphs(fit, module):
    (finding,) = judged(fit, module())
    assert (finding.status, finding.code) == ("failed", CODE)
    assert finding.evidence["graphs"] == 32
    assert finding.evidence["largest"] == 8


class OfOneSize(EdgesWithoutOffset):
    def graphs(self, n, seed):
        return [(x[:5], edges[:, edges.amax(0) < 5], i) for x, edges, i in super().graphs(n, seed)]


def test_graphs_of_one_size_are_a_warning(fit):
    (finding,) = judged(fit, OfOneSize())
    assert (finding.status, finding.code) == ("warning", CODE)
