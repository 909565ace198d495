import json
import pickle
from dataclasses import dataclass, replace

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from patients import CLASSES, FEATURES, Healthy
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_recipe.callbacks.batch_mixing_detector import BatchMixingDetector
from lightning_recipe.record.probe import Probe
from lightning_recipe.watch import _WATCHES

B, T, D = 12, 5, 8


class Net(Healthy):
    """Healthy's data and loss on a network of the test's own: `layers` are applied to the patterns in turn."""

    def __init__(self, *layers, batch_size=B, shuffle=True):
        super().__init__()
        self.net = nn.Sequential(*layers)
        self.batch_size, self.shuffle = batch_size, shuffle

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self(x), y)

    def train_dataloader(self):
        return DataLoader(self.data(3 * self.batch_size, 1), self.batch_size, shuffle=self.shuffle)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-2)


class Do(nn.Module):
    """A function as a layer."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function, self.inner = function, nn.ModuleList(modules)

    def forward(self, x):
        return self.function(x, *self.inner)


def examined(fit, module, **settings):
    check = BatchMixingDetector()
    fit(module, [check], max_steps=1, **{"limit_val_batches": 0} | settings)
    assert len(check.findings) == 1, check.findings
    return check.findings[0]


def up(features=T * D):
    return nn.Linear(FEATURES, features)


def down(features=D):
    return nn.Linear(features, CLASSES)


def sequence(x):
    return x.unflatten(1, (T, D))


def lstm(x, rnn, head):
    h, _ = rnn(sequence(x).permute(1, 0, 2))
    return head(h.reshape(len(x), -1))


def attention(x, attend, head):
    h = sequence(x)
    return head(attend(h, h, h, need_weights=False)[0].mean(1))


def by_hand(x, head):
    return head(torch.softmax(x @ x.t(), -1) @ x)


def memory(x, bank, head):
    return head(torch.softmax(x @ bank.weight.t(), -1) @ bank.weight)


# -- examples mix


DISEASES = {
    "view for permute": (Do(lstm, nn.LSTM(D, D), down(T * D)), "net.1"),
    "softmax over the batch": (Do(lambda x, head: head(x.softmax(0)), down(T * D)), "net.1"),
    "softmax module": (nn.Sequential(nn.Softmax(0), down(T * D)), "net.1.0"),
    "softmax of outputs": (nn.Sequential(down(T * D), nn.LogSoftmax(0)), "net.1.1"),
    "attention swapped": (Do(attention, nn.MultiheadAttention(D, 2), down()), "net.1.inner.0"),
    "encoder swapped": (
        Do(
            lambda x, e, head: head(e(sequence(x)).mean(1)),
            nn.TransformerEncoder(nn.TransformerEncoderLayer(D, 2, 9), 2),
            down(),
        ),
        "net.1.inner.0.layers.0.self_attn",
    ),
    "batch_first forgotten": (
        Do(lambda x, rnn, head: head(rnn(sequence(x))[0][:, -1]), nn.GRU(D, D), down()),
        "net.1.inner.0",
    ),
    "both ways": (
        Do(lambda x, rnn, head: head(rnn(sequence(x))[0][:, -1]), nn.LSTM(D, D, bidirectional=True), down(2 * D)),
        "net.1.inner.0",
    ),
    "no batch in a LSTM": (
        Do(lambda x, rnn, head: head(rnn(x)[0]), nn.LSTM(T * D, D), down()),
        "net.1.inner.0",
    ),
    "neighbours": (Do(lambda x, head: head(x + 1e-3 * x.roll(1, 0)), down(T * D)), "net.1"),
    "one pair": (
        Do(lambda x, head: head(torch.cat([x[:-1], x[-1:] + x[:1]])), down(T * D)),
        "net.1",
    ),
}


@pytest.mark.parametrize("name", DISEASES)
def test_examples_that_mix_are_failed_where_they_begin_to(fit, events, name):
    layer, where = DISEASES[name]
    finding = examined(fit, Net(up(), layer))
    assert (finding.status, finding.code) == ("failed", "BatchMixingDetector/mixes"), finding
    assert finding.subject == where
    assert finding.evidence["leak"] > 0
    assert finding.evidence["examples"] == B


def test_picture_of_the_matrix(fit, events):
    check = BatchMixingDetector(max_examples=4)
    trainer = fit(Net(up(), nn.Softmax(0), down(T * D)), [check], max_steps=1)
    [image] = events(trainer).Images("2.12 BatchMixingDetector/dependencies")
    assert (image.width, image.height) == (640, 360)


@pytest.mark.parametrize(
    "layer",
    [
        Do(lambda x, head: head(x - x.mean(0)), down(T * D)),
        Do(lambda x, head: head(F.normalize(x, dim=0)), down(T * D)),
        Do(lambda x, head: head(x / x.norm()), down(T * D)),
    ],
)
def test_statistics_over_the_batch_may_be_meant_and_are_a_warning(fit, layer):
    finding = examined(fit, Net(up(), layer))
    assert (finding.status, finding.code) == ("warning", "BatchMixingDetector/mixes")


def test_strict_stops_the_run(fit):
    with pytest.raises(Exception, match="leak"):
        fit(Net(up(), nn.Softmax(0), down(T * D)), [BatchMixingDetector(strict=True)])


def test_mixing_of_tokens_is_found_through_their_embedding(fit):
    def mix(ids, embedding, head):
        return head(embedding(ids).permute(1, 0, 2).reshape(len(ids), -1))

    class Tokens(Net):
        def data(self, n, seed):
            return TensorDataset(torch.randint(9, (n, T)), torch.arange(n) % CLASSES)

    finding = examined(fit, Tokens(Do(mix, nn.Embedding(9, D), down(T * D))))
    assert (finding.status, finding.subject) == ("failed", "net.0")


class TimeFirst(Net):
    def data(self, n, seed):
        return TensorDataset(torch.randn(n, T, D), torch.randn(n, T, D))

    def loss(self, out, y):
        return F.mse_loss(out, y)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self(x.transpose(0, 1)), y.transpose(0, 1))


def test_packed_sequences_have_steps_in_time_for_rows(fit):
    class Packed(Net):
        """With as many features as examples."""

        def training_step(self, batch, batch_idx):
            x, y = batch
            rows = torch.nn.utils.rnn.pack_padded_sequence(
                x.reshape(B, -1, B), torch.arange(B).fmod(3) + 1, batch_first=True, enforce_sorted=False
            )
            return self.loss(self.net[0](rows)[1][0].flatten(1), y)

        def data(self, n, seed):
            return TensorDataset(torch.randn(n, 3 * B), torch.arange(n) % CLASSES)

    finding = examined(fit, Packed(nn.GRU(B, CLASSES)))
    assert finding.status == "skipped", finding
    assert "PackedSequence" in finding.message


def test_examples_that_the_module_sorts_before_their_embedding(fit):
    def by_length(x, embed, rnn, head):
        lengths, order = (x > 0).sum(1).sort(descending=True)
        rows = torch.nn.utils.rnn.pack_padded_sequence(embed(x[order]), lengths, batch_first=True)
        return head(rnn(rows)[1][-1])[order.argsort()]

    class Tokens(Net):
        def data(self, n, seed):
            padded = torch.arange(T) > torch.randint(T, (n, 1))
            return TensorDataset(torch.randint(1, 9, (n, T)).masked_fill(padded, 0), torch.arange(n) % CLASSES)

    finding = examined(fit, Tokens(Do(by_length, nn.Embedding(9, D), nn.GRU(D, D, batch_first=True), down())))
    assert finding.status == "skipped", finding


@pytest.mark.parametrize("size", [B, T])
def test_time_first_takes_dimension_1_as_the_batch(fit, size):
    finding = examined(fit, TimeFirst(nn.TransformerEncoder(nn.TransformerEncoderLayer(D, 2, 9), 1), batch_size=size))
    assert finding.status == "passed", finding
    assert finding.evidence["out_of_place"] < 1e-6


def test_time_first_that_should_not_be_is_failed(fit):
    layer = nn.TransformerEncoderLayer(D, 2, 9, batch_first=True)
    finding = examined(fit, TimeFirst(nn.TransformerEncoder(layer, 1)))
    assert finding.status == "failed", finding
    assert finding.subject.endswith("self_attn")


# -- they do not


def test_healthy_passes(fit):
    finding = examined(fit, Healthy())
    assert finding.status == "passed"
    assert finding.evidence == {"leak": 0, "out_of_place": 0}


class ResidualZero(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = down(T * D)
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        x -= 1  # in place
        return self.head(x)


HEALTHY = {
    "norms": nn.Sequential(
        nn.BatchNorm1d(T * D, track_running_stats=False), nn.LayerNorm(T * D), nn.Dropout(), down(T * D)
    ),
    "lstm": Do(
        lambda x, rnn, head: head(rnn(sequence(x))[0][:, -1]), nn.LSTM(D, D, 2, batch_first=True, dropout=0.3), down()
    ),
    "permuted": Do(
        lambda x, rnn, head: head(rnn(sequence(x).permute(1, 0, 2))[0].permute(1, 0, 2).flatten(1)),
        nn.LSTM(D, D),
        down(T * D),
    ),
    "attention": Do(attention, nn.MultiheadAttention(D, 2, dropout=0.2, batch_first=True), down()),
    "conv": nn.Sequential(
        nn.Unflatten(1, (5, 8)), nn.Conv1d(5, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(inplace=True), nn.Flatten(), down(36)
    ),
    "noise": Do(lambda x, head: head(x + torch.randn_like(x)), down(T * D)),
    "memory": Do(memory, nn.Embedding(B, T * D), down(T * D)),
    "zero at first": ResidualZero(),
    "rows flattened": Do(lambda x, f, head: head(f(x.view(-1, D)).view(len(x), -1)), nn.Linear(D, D), down(T * D)),
    "steps": Do(lambda x, cell, head: head(cell(x, x)), nn.GRUCell(T * D, T * D), down(T * D)),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_networks_pass(fit, name):
    finding = examined(fit, Net(up(), HEALTHY[name]))
    assert finding.status == "passed", finding


def test_a_head_at_zero_under_a_warm_up_from_zero_is_not_dead(fit):
    class WarmUp(Net):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    assert examined(fit, WarmUp(up(), ResidualZero())).status == "passed"


def test_dead_network_is_a_warning(fit):
    finding = examined(fit, Net(up(), Do(lambda x, head: head(x.detach() * 0), down(T * D))))
    assert finding.status == "warning"
    assert "same for any input" in finding.message


class Atoms(Net):
    """Energies of molecules, as of SchNet: what has a row for each molecule takes no part."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        energy = self(x.repeat(2, 1)[1:], cell=torch.randn(len(x), 3))
        return self.loss(energy.repeat(1, CLASSES), y)

    def forward(self, atoms, cell):
        owner = torch.arange(len(atoms)) % len(cell)
        energies = self.net(atoms).sum(1, keepdim=True)
        return energies.new_zeros(len(cell), 1).index_add(0, owner, energies) + 0 * cell.detach().sum()


class Forces(Net):
    """Takes gradients in its forward."""

    def __init__(self, layer):
        super().__init__(nn.Linear(FEATURES, D), layer, nn.Linear(D, D))

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0], batch[1]), batch[1])

    def forward(self, x, kinds):  # integers are looked at without gradients
        x = x.requires_grad_()
        (force,) = torch.autograd.grad(self.net(x).square().sum(), x, create_graph=True)
        return force[:, :CLASSES]


def test_an_output_of_what_was_not_varied_is_not_called_dead(fit):
    finding = examined(fit, Atoms(down(FEATURES), batch_size=9))
    assert finding.status == "skipped"
    assert "as nodes" in finding.message


@pytest.mark.parametrize(("layer", "status"), [(nn.Tanh(), "passed"), (nn.Softmax(0), "failed")])
def test_a_network_that_takes_gradients_itself(fit, layer, status):
    assert examined(fit, Forces(layer)).status == status


def test_inputs_without_gradient_are_skipped_not_called_dead(fit):
    finding = examined(fit, Net(up(), Do(lambda x, head: head(x.detach().sign()), down(T * D))))
    assert finding.status == "skipped"
    assert "no gradient flows" in finding.message


def test_as_many_positions_as_examples(fit):
    class Tokens(Net):
        def data(self, n, seed):
            return TensorDataset(torch.randint(9, (n, T)), torch.arange(n) % CLASSES)

    def body(ids, tokens, positions, layer, head):
        return head(layer(tokens(ids) + positions(torch.arange(T)), torch.zeros(T, T)).mean(1))

    layer = nn.TransformerEncoderLayer(D, 2, 9, batch_first=True)
    net = Do(body, nn.Embedding(9, D), nn.Embedding(T, D), layer, down())
    assert examined(fit, Tokens(net, batch_size=T)).status == "passed"


class Views(Net):
    def training_step(self, batch, batch_idx):
        x, _ = batch
        z = F.normalize(self.head(self.net(torch.cat([x, x + 0.1]))), dim=1)
        return F.cross_entropy(z[: len(x)] @ z[len(x) :].t(), torch.arange(len(x)))


def test_two_views_and_chained_calls(fit):
    module = Views(up(D), nn.ReLU())
    module.head = nn.Linear(D, D)
    finding = examined(fit, module)
    assert finding.status == "passed"
    assert finding.evidence["out_of_place"] < 1e-6


@dataclass
class Output:
    logits: torch.Tensor
    loss: torch.Tensor
    hidden: list


class Structured(Net):
    """Dictionaries in, a dataclass out."""

    def __init__(self, mix):
        super().__init__(up(D), nn.ReLU(), down())
        self.mix = mix

    def forward(self, *, inputs, labels):
        x = inputs["x"] + inputs["scale"]
        out = self.net(x.roll(1, 0) if self.mix else x)
        return Output(out, F.cross_entropy(out, labels), [out.sum(), out])

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self(inputs={"x": x, "scale": torch.ones(())}, labels=y).loss


@pytest.mark.parametrize(("mix", "status"), [(False, "passed"), (True, "failed")])
def test_dictionaries_and_dataclasses(fit, mix, status):
    assert examined(fit, Structured(mix)).status == status


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
@pytest.mark.parametrize(("layers", "status"), [((), "passed"), ((nn.Softmax(0),), "failed")])
def test_precisions(fit, precision, layers, status):
    assert examined(fit, Net(up(D), *layers, down()), precision=precision).status == status


def test_single_precision_inside_is_confirmed_in_single_precision(fit):
    layer = Do(lambda x, head: head(x.roll(1, 0).to(torch.float32) @ torch.ones(D, D)), down())
    assert examined(fit, Net(up(D), layer)).status == "failed"


# -- it can't be told, or it is meant


class MixStyle(nn.Module):
    def forward(self, x):
        return 0.5 * (x + x[torch.randperm(len(x))]) if self.training else x


class MinibatchStd(nn.Module):
    def forward(self, x):
        return x * x.std(0).mean()


class Whitened(nn.Module):
    """A batch normalisation of one's own."""

    def forward(self, x):
        return (x - x.mean(0)) / x.std(0) if self.training else x


def info_nce(x):
    similarity = F.normalize(x) @ F.normalize(x).t()
    return similarity[~torch.eye(len(x), dtype=torch.bool)].view(len(x), -1)


def attention_map(x):
    return (x @ x.t()).softmax(-1)


MEANT = {
    "mixed in training": (MixStyle(), down(T * D)),
    "statistics by name": (MinibatchStd(), down(T * D)),
    "normalised by hand": (Whitened(), down(T * D)),
    "normalised by function": (Do(lambda x: F.batch_norm(x, None, None, training=True)), down(T * D)),
    "logits of others": (Do(info_nce),),
    "similarities": (Do(lambda x: x @ x.t()),),
    "attention map": (Do(attention_map),),
}


@pytest.mark.parametrize("name", MEANT)
@pytest.mark.parametrize("size", [9, B])
def test_what_is_meant_is_not_accused(fit, name, size):
    class Meant(Net):
        def loss(self, out, y):
            return out.square().mean()

    finding = examined(fit, Meant(up(), *MEANT[name], batch_size=size))
    assert finding.status in {"passed", "skipped"}, finding


def test_images_one_at_a_time_with_as_many_channels_as_examples(fit):
    class Single(Net):
        def training_step(self, batch, batch_idx):
            x, _ = batch
            return sum(self.net(image.view(1, 3, 2, 2)).square().mean() for image in x)

    layer = nn.Conv2d(3, 3, 3, padding=1)
    assert examined(fit, Single(layer, batch_size=3)).status == "skipped"


def test_nodes_that_a_loader_collates_are_no_examples_where_the_module_keeps_their_edges(fit):
    class Nodes(Net):
        def __init__(self):
            super().__init__(up(D), nn.ReLU(), down())
            self.register_buffer("adjacency", torch.rand(B, B))

        def forward(self, x):
            return self.net(self.adjacency @ x)

    assert examined(fit, Nodes()).status == "skipped"


class Items(Dataset):
    """Whole graphs or sets, one at a time."""

    def __init__(self, *tensors):
        self.tensors = tensors

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.tensors


class Endless:
    """Not a DataLoader: has no batch size."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return iter([self.data[0]] * 3)


class Graph(Net):
    def __init__(self, batch_size=None):
        super().__init__(up(D), nn.ReLU(), down())
        self.size = batch_size
        self.edges = torch.randint(B, (2, 40))

    def forward(self, x):
        return self.net(torch.zeros_like(x).index_add(0, self.edges[0], x[self.edges[1]]))

    def train_dataloader(self):
        data = Items(torch.randn(B, FEATURES), torch.arange(B) % CLASSES)
        if self.size is None:
            return Endless(data)
        return DataLoader(data, self.size, collate_fn=lambda items: items[0])


class Dense(Graph):
    def training_step(self, batch, batch_idx):
        (x, y), adjacency = batch, torch.rand(B, B)
        return self.loss(self.net(adjacency @ x) + self(x, adjacency), y)

    def forward(self, x, adjacency):
        return self.net(adjacency @ x)


@pytest.mark.parametrize("kind", [Graph, Dense])
@pytest.mark.parametrize("size", [None, 1, 2])
def test_nodes_of_a_graph_are_no_examples(fit, kind, size):
    assert examined(fit, kind(size)).status in {"skipped", "passed"}


class Nodes:
    """Copies itself, as the batches of PyTorch Geometric do, and nobody else knows how to."""

    def __init__(self):
        self.x = torch.randn(9, FEATURES)

    def clone(self):
        return self


@pytest.mark.parametrize(
    ("enters", "reason"),
    [
        (lambda x, y: (torch.randn(20, FEATURES), y), "no floating-point input"),
        (lambda x, y: (Nodes(), y), "inside an object, Nodes,"),
    ],
)
def test_what_cannot_be_judged_is_said_as_it_is(fit, enters, reason):
    class Elsewhere(Net):
        def training_step(self, batch, batch_idx):
            out = self(*enters(*batch))
            return self.loss(out[:9], batch[1])

        def forward(self, x, y):
            return self.net(getattr(x, "x", x))

    finding = examined(fit, Elsewhere(down(FEATURES), batch_size=9))
    assert finding.status == "skipped"
    assert reason in finding.message


@pytest.mark.parametrize("sparse", [torch.Tensor.to_sparse_csr, torch.Tensor.to_sparse])
def test_sparse_rows_are_followed_from_the_batch(fit, sparse):
    class Sparse(Net):
        def forward(self, x):
            return self.net(torch.sparse.mm(sparse(x), torch.eye(FEATURES)))

    assert examined(fit, Sparse(down(FEATURES), batch_size=9)).status == "passed"


def test_a_set_is_no_batch(fit):
    class Points(Net):
        def train_dataloader(self):
            return DataLoader(Items(torch.randn(B, FEATURES), torch.arange(B) % CLASSES), batch_size=None)

    finding = examined(fit, Points(up(D), Do(lambda x, head: head(x + x.amax(0)), down())))
    assert finding.status != "failed"


@pytest.mark.parametrize(
    "layer",
    [
        Do(by_hand, down(T * D)),
        Do(
            lambda x, attend, head: head(attend(x[None], x[None], x[None])[0][0]),
            nn.MultiheadAttention(T * D, 2, batch_first=True),
            down(T * D),
        ),
        Do(lambda x, attend, head: head(attend(x, x, x)[0]), nn.MultiheadAttention(T * D, 2), down(T * D)),
        Do(lambda x, e, head: head(e(x[:, None])[:, 0]), nn.TransformerEncoderLayer(T * D, 2, 9), down(T * D)),
    ],
)
def test_attention_between_examples_may_be_meant(fit, layer):
    finding = examined(fit, Net(up(), layer))
    assert finding.status == "skipped"
    assert "attend to each other" in finding.message


def test_similarities_may_be_meant(fit):
    class Similar(Net):
        def forward(self, x):
            z = self.net(x)
            return z @ z.t()

        def loss(self, out, y):
            return F.cross_entropy(out, torch.arange(len(out)))

    finding = examined(fit, Similar(up(D)))
    assert finding.status == "skipped"
    assert "relates" in finding.message


def test_rows_in_order_may_be_a_sequence(fit):
    layer = Do(lambda x, rnn, head: head(rnn(x)[0]), nn.LSTM(T * D, D), down())
    assert examined(fit, Net(up(), layer, shuffle=False)).status == "skipped"


class Broken(Net):
    def __init__(self, values):
        super().__init__(up(D), down())
        self.values = values

    def data(self, n, seed):
        return TensorDataset(torch.full((n, FEATURES), self.values), torch.arange(n) % CLASSES)


def test_not_a_number(fit):
    finding = examined(fit, Broken(float("nan")))
    assert finding.status == "skipped"
    assert "net.0.x" not in finding.message
    assert "x holds NaN" in finding.message


@pytest.mark.parametrize(("layer", "status"), [(nn.ReLU(), "passed"), (nn.Softmax(0), "failed")])
def test_an_empty_input_beside_others_is_no_hindrance(fit, layer, status):
    class Covariates(Net):
        def training_step(self, batch, batch_idx):
            x, y = batch
            return self.loss(self(x, covariates=torch.zeros(len(x), T, 0)), y)

        def forward(self, x, covariates):
            return self.net(torch.cat([x, covariates.flatten(1)], 1))

    assert examined(fit, Covariates(up(D), layer, down())).status == status


@pytest.mark.parametrize("mix", [False, True])
def test_a_network_that_scales_its_input_in_place(fit, mix):
    class Scales(Net):
        def forward(self, x):
            x = x - x.mean(1, keepdim=True)
            deviation = x.square().mean(1, keepdim=True).sqrt()
            x /= deviation
            return self.net(x).softmax(0) if mix else self.net(x)

    finding = examined(fit, Scales(up(D), nn.ReLU(), down()))
    assert finding.status == ("failed" if mix else "passed"), finding.message


def test_noise_from_a_seed_that_the_step_sets_belongs_to_no_place(fit):
    class SeedsByNumber(Net):
        def training_step(self, batch, batch_idx):
            torch.manual_seed(self.global_step)
            x, y = batch
            return self.loss(self(x + 0.3 * torch.randn_like(x)), y)

    finding = examined(fit, SeedsByNumber(up(D), nn.ReLU(), down()))
    assert finding.status == "passed", finding.message
    assert "from a seed that the step sets" in finding.message


def test_infinite_inputs_are_not_a_verdict(fit):
    assert examined(fit, Broken(float("inf"))).status in {"skipped", "passed"}


def test_batch_of_one(fit):
    finding = examined(fit, Net(up(D), down(), batch_size=1))
    assert finding.status == "skipped"
    assert "no pair" in finding.message


def test_nothing_is_called(fit):
    class Alone(Net):
        def training_step(self, batch, batch_idx):
            return self.net[0].weight.square().sum()

    assert examined(fit, Alone(up(D))).status == "skipped"


def test_results_of_computations_kept_on_the_module_are_no_hindrance(fit):
    class Keeps(Net):
        def forward(self, x):
            self.last = self.net(x)
            return self.last

    assert examined(fit, Keeps(up(D), down())).status == "passed"


@pytest.mark.parametrize(("layer", "status"), [(nn.ReLU(), "passed"), (nn.Softmax(0), "failed")])
def test_compiled(fit, layer, status):
    module = Net(up(D), layer, down())
    module.net.compile(backend="eager")
    assert examined(fit, module).status == status


SEEN = []


def test_hooks_that_would_change_the_original_are_not_run(fit):
    class Hooked(Net):
        def __init__(self):
            super().__init__(up(D), down())
            self.features = []
            self.net[0].register_forward_hook(lambda module, args, output: self.features.append(output.detach()))

    module = Hooked()
    assert examined(fit, module).status == "passed"
    assert len(module.features) == 1


def test_hooks_that_would_change_what_belongs_to_no_module_are_not_run(fit):
    class Hooked(Net):
        def __init__(self):
            super().__init__(up(D), down())
            self.net[0].register_forward_hook(lambda module, args, output: SEEN.append(output.detach()))

    assert examined(fit, Hooked()).status == "skipped"
    assert len(SEEN) == 1


def test_scripted(fit):
    finding = examined(fit, Net(torch.jit.script(up(D)), down()))
    assert finding.status == "skipped"
    assert "TorchScript" in finding.message


def test_manual_optimisation(fit):
    class Manual(Net):
        def __init__(self, *layers):
            super().__init__(*layers)
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.manual_backward(loss)
            self.optimizers().step()

    assert examined(fit, Manual(up(D), down())).status == "passed"


def test_two_processes(fit, tmp_path):
    check = BatchMixingDetector()
    module = Net(up(D), nn.Softmax(0), down())
    fit(module, [check], max_steps=1, strategy="ddp_fork", devices=2, limit_val_batches=0)
    [path] = tmp_path.rglob("recipe.json")
    report = json.loads(path.read_text(encoding="utf-8"))
    assert [f["status"] for f in report["findings"]] == ["failed"]


def test_time_limit_and_errors_are_reasons(fit):
    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls, self.head = 0, down(D)

        def forward(self, x):
            self.calls += 1
            if self.calls > 1:
                msg = "once only"
                raise ValueError(msg)
            return self.head(x)

    finding = examined(fit, Net(up(D), Moody()))
    assert finding.status == "skipped"
    assert "once only" in finding.message
    check = BatchMixingDetector(max_seconds=1e-9)
    fit(Healthy(), [check], max_steps=1)
    assert [f.status for f in check.findings] == ["skipped"]
    assert "not decided within" in check.findings[0].message


def test_state_kept_between_calls_is_not_mixing(fit):
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.head = torch.zeros(B, D), down(D)

        def forward(self, x):
            x = x + self.last
            self.last = x.detach().roll(1, 0)
            return self.head(x)

    assert examined(fit, Net(up(D), Stateful())).status == "passed"


def test_resumed_run_is_skipped(fit, tmp_path):
    trainer = fit(Healthy(), max_steps=3)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    check = BatchMixingDetector()
    module = Healthy()
    L.Trainer(max_steps=5, logger=False, callbacks=[check], enable_checkpointing=False, enable_progress_bar=False).fit(
        module, ckpt_path=tmp_path / "x.ckpt"
    )
    assert [f.status for f in check.findings] == ["skipped"]
    assert "resumes" in check.findings[0].message


# -- no trace


class Random(Healthy):
    """Draws random numbers everywhere, so that a single one drawn too many shows."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return super().training_step((x + torch.randn_like(x) + float(np.random.rand()), y), batch_idx)  # noqa: NPY002


def test_the_run_is_bit_identical(fit):
    ends = []
    for callbacks in ([], [BatchMixingDetector()]):
        torch.manual_seed(0)
        module = Random()
        trainer = fit(module, callbacks)
        optimizer = [v for s in trainer.optimizers[0].state_dict()["state"].values() for v in s.values()]
        modes = torch.tensor([m.training for m in module.modules()])
        ends.append([*module.state_dict().values(), *optimizer, torch.get_rng_state(), torch.rand(1), modes])
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(*ends, strict=True))


def test_holds_nothing_and_pickles(fit):
    check = BatchMixingDetector()
    module = Healthy()
    fit(module, [check], max_steps=2)
    assert not _WATCHES
    pickle.dumps(check)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_runs_once_for_each_fit(fit):
    check = BatchMixingDetector()
    fit(Healthy(), [check])
    fit(Healthy(), [check])
    assert [f.status for f in check.findings] == ["passed"]


@pytest.mark.parametrize("arguments", [{"max_examples": 1}, {"max_seconds": 0}])
def test_arguments_are_checked(arguments):
    with pytest.raises(ValueError, match="expected"):
        BatchMixingDetector(**arguments)


@pytest.mark.parametrize(("seconds", "lines"), [(0.001, 0), (0.5, 1)])
def test_slow_networks_are_announced(fit, capsys, monkeypatch, seconds, lines):
    result = Probe.result
    monkeypatch.setattr(Probe, "result", lambda probe: replace(result(probe), seconds=seconds))
    fit(Healthy(), [BatchMixingDetector()], max_steps=1, limit_val_batches=0)
    assert capsys.readouterr().out.count("repeats the first step") == lines
