import lightning.pytorch as L
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from patients import CLASSES, FEATURES, Healthy
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_recipe import OverfitOneBatch
from lightning_recipe.run import Run


class Molecules(Healthy):
    """Each example is a graph of two or three nodes; more tensors have a row for each node than for each example."""

    def training_step(self, batch, batch_idx):
        x, owner, _, y = batch
        nodes = self.net(x)
        return F.cross_entropy(nodes.new_zeros(len(y), CLASSES).index_add(0, owner, nodes), y)

    def train_dataloader(self):
        graphs = [(torch.randn(2 + i % 2, FEATURES), torch.tensor(i % CLASSES)) for i in range(12)]
        return DataLoader(graphs, 6, collate_fn=collated)


def collated(graphs):
    x = torch.cat([nodes for nodes, _ in graphs])
    owner = torch.cat([torch.full((len(nodes),), i) for i, (nodes, _) in enumerate(graphs)])
    return x, owner, torch.ones(len(x)), torch.stack([y for _, y in graphs])


def test_examples_are_counted_by_the_loader_where_nodes_outnumber_them(fit):
    check = OverfitOneBatch(max_steps=5, max_seconds=60)
    trainer = fit(Molecules(), [check], max_steps=1, limit_val_batches=0, logger=False)
    batch = next(iter(Molecules().train_dataloader()))
    assert len(batch[0]) == 15
    assert Run(trainer).batch_sizes == [6]
    assert Run(trainer).examples_in(batch) == 6
    assert check.findings[0].evidence["examples"] == 6


def test_a_stream_whose_length_raises_has_a_batch_size(fit):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(Healthy().data(32, 1))

        def __len__(self):
            return len(iter(self))

    trainer = fit(Healthy(), train=DataLoader(Stream(), 8), max_steps=1, limit_val_batches=0, logger=False)
    assert Run(trainer).batch_sizes == [8]


def test_a_loader_that_no_tensor_agrees_with_is_not_believed(fit):
    class Whole(Molecules):
        def train_dataloader(self):
            return DataLoader([collated(list(super().train_dataloader().dataset))], 1, collate_fn=only)

    def only(items):
        return items[0]

    trainer = fit(Whole(), max_steps=1, limit_val_batches=0, logger=False)
    assert Run(trainer).batch_sizes == [1]
    assert Run(trainer).examples_in(next(iter(trainer.train_dataloader))) == 30


def test_batches_without_tensors_have_no_size(fit):
    trainer = fit(Healthy(), max_steps=1, limit_val_batches=0, logger=False)
    assert Run(trainer).batch_sizes == [32]
    assert Run(trainer).examples_in(["text"]) is None


def test_a_last_batch_with_as_many_features_as_others_have_examples():
    data = TensorDataset(torch.zeros(40, 16), torch.zeros(40))
    trainer = L.Trainer(barebones=True, max_epochs=1)
    trainer.fit(BoringModel(), DataLoader(torch.zeros(32, 32), 16))
    assert Run(trainer).batch_sizes == [16]
    assert [Run(trainer).examples_in(batch) for batch in DataLoader(data, 16)] == [16, 16, 8]
