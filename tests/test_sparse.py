"""Batches in which something is sparse, nested or quantised: the adjacency of a graph, counts of words, ragged sets."""

import lightning.pytorch as L
import pytest
import torch
from conftest import QUIET
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import lightning_recipe
from lightning_recipe import InputIndependenceCheck, Status

NODES, CLASSES, WORDS = 120, 3, 40
SPARSE = {"coo": torch.Tensor.to_sparse, "csr": torch.Tensor.to_sparse_csr, "csc": torch.Tensor.to_sparse_csc}


class Program(L.LightningModule):
    def training_step(self, batch, batch_idx):
        *inputs, y = batch.values()
        return F.cross_entropy(self(*inputs), y)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx), batch_size=len(batch["y"]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class Graph(Program):
    """All nodes are one batch."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.one, self.two = kind, nn.Linear(8, 16), nn.Linear(16, CLASSES)

    def forward(self, adjacency, x):
        return torch.sparse.mm(adjacency, self.two(torch.sparse.mm(adjacency, self.one(x)).relu()))

    def train_dataloader(self):
        g = torch.Generator().manual_seed(0)
        y = torch.randint(CLASSES, (NODES,), generator=g)
        edges = (torch.rand(NODES, NODES, generator=g) < torch.where(y[:, None] == y, 0.2, 0.03)).float()
        x = torch.randn(NODES, 8, generator=g) + F.one_hot(y, 8)
        return DataLoader(
            [{"adjacency": SPARSE[self.kind](edges / edges.sum(1, keepdim=True)), "x": x, "y": y}] * 4, None
        )

    val_dataloader = train_dataloader


class Words(Program):
    """Counts of words of texts."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.words = kind, nn.Parameter(0.1 * torch.randn(WORDS, 16))
        self.net = nn.Sequential(nn.ReLU(), nn.Linear(16, CLASSES))

    def forward(self, x):
        return self.net(torch.sparse.mm(x, self.words))

    def batched(self, rows):
        x, y = map(torch.stack, zip(*rows, strict=True))
        return {"x": SPARSE[self.kind](x), "y": y}

    def train_dataloader(self):
        g = torch.Generator().manual_seed(0)
        y = torch.randint(CLASSES, (192,), generator=g)
        x = torch.poisson(torch.where(torch.arange(WORDS) % CLASSES == y[:, None], 0.4, 0.1), generator=g)
        return DataLoader(list(zip(x, y, strict=True)), 32, collate_fn=self.batched)

    val_dataloader = train_dataloader


class Amounts(Words):
    """A number that is to be told from counts of words."""

    def forward(self, x):
        return super().forward(x)[:, 0]

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch["x"]), batch["y"])

    def batched(self, rows):
        batch = super().batched(rows)
        return batch | {"y": batch["y"] - 1.0}


class Sets(Words):
    """Ragged sets of vectors."""

    def __init__(self, kind):
        super().__init__(kind)
        self.net = nn.Linear(WORDS, CLASSES)

    def forward(self, x):
        return self.net(x.to_padded_tensor(0.0).sum(1) if x.is_nested else x.dequantize())

    def batched(self, rows):
        x, y = map(torch.stack, zip(*rows, strict=True))
        if self.kind == "quantised":
            return {"x": torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "y": y}
        ragged = [row.expand(2 + i % 3, WORDS) for i, row in enumerate(x)]
        return {"x": torch.nested.nested_tensor(ragged, layout=getattr(torch, self.kind)), "y": y}


PROGRAMS = [(Graph, "coo"), (Graph, "csr"), (Words, "coo"), (Words, "csc"), (Amounts, "coo"), (Amounts, "csr")]
PROGRAMS += [(Sets, "strided"), (Sets, "jagged"), (Sets, "quantised")]


@pytest.mark.parametrize(("program", "kind"), PROGRAMS)
def test_nothing_breaks(program, kind, tmp_path):
    suite = lightning_recipe.recipe()
    trainer = L.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_epochs=4, callbacks=suite, logger=False, **QUIET
    )
    L.seed_everything(0, verbose=False)
    trainer.fit(program(kind))
    found = {f.code: f for callback in suite for f in callback.findings}
    assert not {code: f.message for code, f in found.items() if "internal_error" in code or "Error" in f.message}
    assert not {code: f.message for code, f in found.items() if f.is_alarm}


@pytest.mark.parametrize("kind", SPARSE)
def test_sparse_inputs_are_interchanged_like_others(fit, kind):
    check = InputIndependenceCheck()
    fit(Words(kind), [check], logger=False, max_epochs=2)
    assert [f.status for f in check.findings] == [Status.PASSED]
    assert check.findings[0].evidence["worth batch.x"] > 0

    class Deaf(Words):
        def forward(self, x):
            return super().forward(0 * x)

    check = InputIndependenceCheck()
    fit(Deaf(kind), [check], logger=False, max_epochs=2)
    assert [f.code for f in check.findings] == ["InputIndependenceCheck/input_ignored"]
