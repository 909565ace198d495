"""BatchMixingDetector on what only the whole step shows: code between modules, places in the batch, graphs."""

import lightning.pytorch as L
import pytest
import torch
from patients import CLASSES, FEATURES, Healthy, PositionsAlongBatch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe.callbacks.batch_mixing_detector import BatchMixingDetector

B, T, D = 10, 5, 8
N = 6


class Encoded(Healthy):
    """An encoder, code of the step's own, and a head, for (batch, time, features)."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(FEATURES, T * D), nn.Linear(T * D, CLASSES)

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(x[torch.randperm(n)], y)

    def train_dataloader(self):
        return DataLoader(self.data(3 * B, 1), B, shuffle=True)

    def validation_step(self, batch, batch_idx):
        pass

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self.encoder(x).view(-1, T, D)
        return F.cross_entropy(self.between(z, len(x)), y)

    def between(self, z, b):
        return self.decoder(z.flatten(1))


def examined(fit, module):
    check = BatchMixingDetector()
    fit(module, [check], max_steps=1, limit_val_batches=0)
    assert len(check.findings) == 1, check.findings
    return check.findings[0]


def step(between):
    """An `Encoded` with other code between its modules; `self` is its first argument."""
    return type("Own", (Encoded,), {"between": between})()


class Halves(Encoded):
    """A step of the optimiser for each half of a batch, whose size is that of the channels by chance."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        layers = [nn.Conv1d(1, B, 3, padding=1), nn.Conv1d(B, B, 3, padding=1)]
        self.net = nn.Sequential(*map(nn.utils.parametrizations.spectral_norm, layers), nn.Flatten())
        self.head = nn.LazyLinear(CLASSES)
        self.head(self.net(torch.zeros(1, 1, FEATURES)))

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        for x, y in zip(*(t.chunk(2) for t in batch), strict=True):
            loss = F.cross_entropy(self.head(self.net(x[:, None])), y)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()


def test_as_many_channels_as_examples_are_no_examples(fit):
    assert examined(fit, Halves()).status.value in {"passed", "skipped"}


# -- what may be meant: code of the step that mixes on purpose


def contrast(self, z, b):
    z = F.normalize(z.flatten(1), dim=1)
    return self.decoder(z) + (z @ z.T).logsumexp(1, keepdim=True)


def negatives(self, z, b):
    z = z.flatten(1)
    return self.decoder(z) - self.decoder(z.roll(1, 0))


def swapped_styles(self, z, b):
    return self.decoder(torch.cat([z[:, :3], z[:, 3:].flip(0)], 1).flatten(1))


def mixed_up(self, z, b):
    share = torch.rand(())
    return self.decoder((share * z + (1 - share) * z[torch.randperm(b)]).flatten(1))


def pairs(self, z, b):
    z = z.flatten(1)
    both = (z[:, None] * z[None]).flatten(0, 1)  # each with each, as relation networks have it
    return self.decoder(both).view(b, b, -1).mean(1)


def centred(self, z, b):
    return self.decoder((z - z.mean(0)).flatten(1))


def two_views(self, z, b):
    views = self.decoder(torch.cat([z, z + torch.randn_like(z)]).flatten(1))
    return views[:b] + views[b:]


def sorted_first(self, z, b):
    order = z.sum((1, 2)).argsort()
    return self.decoder(z[order].flatten(1))[order.argsort()]


def windows(self, z, b):
    """In an order of their own: (time, batch, two halves)."""
    rows = z.view(b, T, 2, D // 2).permute(1, 0, 2, 3).reshape(-1, D // 2)
    return self.decoder(F.pad(rows, (0, T * D - D // 2))).view(T, b, 2, -1).mean((0, 2))


MEANT = [contrast, negatives, swapped_styles, mixed_up, pairs, centred, two_views, sorted_first, windows]


@pytest.mark.parametrize("between", MEANT)
def test_what_a_step_mixes_on_purpose_is_not_accused(fit, between):
    assert examined(fit, step(between)).status in {"passed", "skipped"}


# -- what may be meant: places


def halves(self, z, b):
    """Two domains, one after the other, each with a head of its own."""
    out = self.decoder(z.flatten(1))
    return torch.cat([out[: b // 2], 2 * out[b // 2 :]])


def noise_levels(self, z, b):
    """As many as examples, evenly spaced."""
    return self.decoder(z.flatten(1) * torch.linspace(0, 1, b)[:, None])


def masked(self, z, b):
    return self.decoder(F.dropout(z, 0.5).flatten(1))


def by_time(self, z, b):
    z = z.transpose(0, 1) + torch.arange(T).view(T, 1, 1)
    return self.decoder(z.transpose(0, 1).flatten(1))


@pytest.mark.parametrize("between", [halves, masked, by_time])
def test_places_that_may_be_treated_apart_are_not_accused(fit, between):
    assert examined(fit, step(between)).status == "passed"


class NoiseLevels(Encoded):
    """Each place has a level of its own, which the network is told."""

    def between(self, z, b):
        level = torch.linspace(0, 1, b)[:, None].expand(b, D)
        return self.decoder(torch.cat([z[:, 1:].flatten(1), level], 1))


class Remembers(Encoded):
    """A hidden state for each place, kept from batch to batch."""

    def __init__(self):
        super().__init__()
        self.hidden = torch.randn(B, T * D)

    def between(self, z, b):
        out = self.decoder(z.flatten(1) + self.hidden)
        self.hidden = z.flatten(1).detach()
        return out


class Rows(Encoded):
    """Rows in their order, which may be time."""

    def train_dataloader(self):
        return DataLoader(self.data(3 * B, 1), B)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.decoder(self.encoder(x + torch.arange(len(x))[:, None])), y)


class Table(nn.Module):
    """Positions, of which there are as many as examples."""

    def __init__(self):
        super().__init__()
        self.values = nn.Parameter(torch.randn(B, D))

    def forward(self):
        return 1 * self.values


class Tokens(Encoded):
    """As many positions as examples, embedded by a module that the step calls."""

    def __init__(self):
        super().__init__()
        self.tokens, self.positions, self.decoder = nn.Embedding(9, D), Table(), nn.Linear(D, CLASSES)

    def data(self, n, seed):
        return TensorDataset(torch.randint(9, (n, B)), torch.arange(n) % CLASSES)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.decoder((self.tokens(x) + self.positions()).mean(1)), y)


@pytest.mark.parametrize("module", [Remembers, Rows, NoiseLevels, Tokens])
def test_what_is_kept_or_ordered_has_places(fit, module):
    assert examined(fit, module()).status == "passed"


# -- mistakes


def viewed(self, z, b):
    return self.decoder(z.transpose(0, 1).reshape(b, T * D))


def softmax_over_batch(self, z, b):
    return self.decoder(z.flatten(1).softmax(0))


def viewed_after_dropout(self, z, b):
    return viewed(self, F.dropout(z, 0.2, self.training), b)


@pytest.mark.parametrize("between", [viewed, softmax_over_batch, viewed_after_dropout])
def test_code_between_two_modules_that_mixes_is_failed(fit, between):
    module = step(between)
    finding = examined(fit, module)
    assert (finding.status, finding.code) == ("failed", "BatchMixingDetector/mixes"), finding
    assert finding.subject == "Own"


def test_code_before_the_first_module_and_by_hand(fit):
    class Before(Encoded):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            x, y = batch
            loss = F.cross_entropy(self.decoder(self.encoder(x.T.reshape(len(x), -1))), y)
            self.manual_backward(loss)
            self.optimizers().step()

    assert examined(fit, Before()).code == "BatchMixingDetector/mixes"


def along(self, z, b):
    return self.decoder((z + torch.linspace(0, 1, 512)[:b].view(b, 1, 1)).flatten(1))


class Learnt(Encoded):
    """Embeddings of positions, counted along the wrong dimension; with dropout by a function."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Embedding(99, D)
        self.net = nn.Sequential(nn.Flatten(), self.decoder)

    def forward(self, x):
        z = self.encoder(x).view(-1, T, D)
        z = z + self.positions(torch.arange(z.size(0))).unsqueeze(1)
        return self.net(F.dropout(z, 0.1, training=self.training))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])


@pytest.mark.parametrize(
    ("module", "where"),
    [(lambda: step(along), "Own"), (Learnt, "Learnt"), (PositionsAlongBatch, "positions")],
)
def test_positions_along_the_batch_are_failed(fit, module, where):
    finding = examined(fit, module())
    assert (finding.status, finding.code) == ("failed", "BatchMixingDetector/depends_on_place"), finding
    assert finding.subject == where
    assert finding.evidence["answers"] == finding.evidence["examples"]


# -- graphs


class Graphs(Healthy):
    """Graphs of 2 to 5 nodes, collated like PyTorch Geometric's: (nodes, edges, graph of each node, labels)."""

    def __init__(self):
        super().__init__()
        self.message, self.head = nn.Linear(FEATURES, D), nn.Linear(D, CLASSES)

    def pool(self, h, owner, count):
        return h.new_zeros(count, D).index_add(0, owner, h)

    def forward(self, x, edges, owner, count):
        h = self.message(x.index_add(0, edges[1], x[edges[0]])).relu()
        return self.head(self.pool(h, owner, count))

    def training_step(self, batch, batch_idx):
        x, edges, owner, y = batch
        return F.cross_entropy(self(x, edges, owner, len(y)), y)

    def train_dataloader(self):
        def collate(graphs):
            sizes = torch.tensor([len(x) for x, _ in graphs])
            starts = (sizes.cumsum(0) - sizes).tolist()
            rings = [
                torch.stack([torch.arange(n), (torch.arange(n) + 1) % n]) + s
                for n, s in zip(sizes, starts, strict=True)
            ]
            owner = torch.arange(len(graphs)).repeat_interleave(sizes)
            return torch.cat([x for x, _ in graphs]), torch.cat(rings, 1), owner, torch.tensor([y for _, y in graphs])

        data = [(torch.randn(2 + i % 4, FEATURES), i % CLASSES) for i in range(36)]
        return DataLoader(data, B, shuffle=True, collate_fn=collate)

    def validation_step(self, batch, batch_idx):
        pass


class PooledTogether(Graphs):
    def pool(self, h, owner, count):
        return super().pool(h - h.mean(0), owner, count)


class NextEdges(Graphs):
    """The last node of a graph has an edge to the first of the next."""

    def forward(self, x, edges, owner, count):
        return super().forward(x + x.roll(1, 0), edges, owner, count)


class Molecules(Graphs):
    """Collated like SchNetPack's: a dictionary, edges in two vectors; 20 atoms could be 2 rows for each of 10."""

    def training_step(self, batch, batch_idx):
        edges = torch.stack([batch["_idx_i"], batch["_idx_j"]])
        return F.mse_loss(self(batch["x"], edges, batch["_idx_m"], len(batch["energy"]))[:, 0], batch["energy"])

    def train_dataloader(self):
        graphs = super().train_dataloader()

        def collate(items):
            x, edges, owner, y = graphs.collate_fn(items)
            return {"energy": y.float(), "_idx_m": owner, "x": x, "_idx_i": edges[0], "_idx_j": edges[1]}

        data = [(torch.randn(1 + 2 * (i % 2), FEATURES), i % CLASSES) for i in range(36)]  # 2 atoms on average
        return DataLoader(data, B, collate_fn=collate)


class MoleculesPooledTogether(Molecules, PooledTogether):
    pass


class Unowned(Graphs):
    """Graphs of as many nodes each, in a batch that does not tell whose a node is; neighbours are averaged."""

    labels = "nodes"

    def train_dataloader(self):
        def collate(graphs):
            drawn = torch.Generator().manual_seed(graphs[0])
            edges = torch.cat([torch.randint(N, (2, 12), generator=drawn) + N * k for k in range(len(graphs))], 1)
            x = torch.randn(N * len(graphs), FEATURES, generator=drawn)
            y = torch.arange(len(x) if self.labels == "nodes" else len(graphs)) % CLASSES
            return x, torch.cat([edges, edges.new_full((2, 1), len(x) - 1)], 1), y

        return DataLoader(range(36), B, shuffle=True, collate_fn=collate)

    def training_step(self, batch, batch_idx):
        x, edges, y = batch
        h = self.message(x.index_add(0, edges[1], x[edges[0]])).relu()
        return F.cross_entropy(self.head(h if len(h) == len(y) else h.view(len(y), N, -1).mean(1)), y)


class UnownedLabels(Unowned):
    labels = "graphs"


@pytest.mark.parametrize("module", [Unowned, UnownedLabels])
def test_nodes_with_edges_are_bound_to_their_places(fit, module):
    finding = examined(fit, module())
    assert finding.status in {"passed", "skipped"}, finding


def test_molecules_are_judged_by_the_molecule_of_each_atom(fit):
    finding = examined(fit, Molecules())
    assert finding.status == "passed", finding
    assert examined(fit, MoleculesPooledTogether()).code == "BatchMixingDetector/mixes"


class Multivariate(Encoded):
    """All series are one batch; the step makes windows of them, in which they are variables beside each other."""

    window = 6

    def __init__(self):
        super().__init__()
        self.mixer = nn.Sequential(nn.Linear(B, 16), nn.ReLU(), nn.Linear(16, B))

    def train_dataloader(self):
        return DataLoader(torch.randn(B, 40, generator=torch.Generator().manual_seed(1)).cumsum(1), B)

    def training_step(self, batch, batch_idx):
        windows = batch.unfold(1, self.window + 1, 1).permute(1, 2, 0)  # (windows, time, series)
        return F.mse_loss(self.mixer(windows[:, :-1])[:, -1], windows[:, -1])


def test_variables_of_one_multivariate_series_may_mix(fit):
    finding = examined(fit, Multivariate())
    assert finding.status == "passed", finding
    assert "34 examples" in finding.message  # windows


class WindowsMix(Multivariate):
    def training_step(self, batch, batch_idx):
        windows = batch.unfold(1, self.window + 1, 1).permute(1, 2, 0)
        return F.mse_loss(self(windows[:, :-1])[:, -1], windows[:, -1])

    def forward(self, windows):
        return self.mixer(windows - windows.mean(0))


def test_windows_that_mix_do_not_pass(fit):
    assert examined(fit, WindowsMix()).status == "skipped", "they may be steps in time"


def test_graphs_are_judged_by_the_graph_of_each_node(fit):
    finding = examined(fit, Graphs())
    assert finding.status == "passed"
    assert finding.evidence["leak"] == 0


def test_nodes_of_one_graph_that_reach_another_are_a_warning(fit):
    finding = examined(fit, PooledTogether())
    assert (finding.status, finding.code) == ("warning", "BatchMixingDetector/mixes"), finding
    assert finding.evidence["examples"] == B


class Discriminator(nn.Module):
    """Looks at how much a batch varies, as that of StyleGAN."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(6, 16), nn.Linear(17, 1)

    def forward(self, x):
        h = self.hidden(x).relu()
        return self.out(torch.cat([h, h.std(0).mean().expand(len(h), 1)], 1))


class Adversaries(L.LightningModule):
    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.generator, self.discriminator = nn.Linear(4, 6), Discriminator()

    def training_step(self, batch, batch_idx):
        of_generator, of_discriminator = self.optimizers()
        of_generator.zero_grad()
        self.manual_backward(F.softplus(-self.discriminator(self.generator(torch.randn(16, 4)))).mean())
        of_generator.step()
        of_discriminator.zero_grad()
        self.manual_backward(F.softplus(-self.discriminator(batch[0])).mean())
        of_discriminator.step()

    def configure_optimizers(self):
        return [torch.optim.Adam(part.parameters(), 1e-3) for part in (self.generator, self.discriminator)]

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(32, 6)), 16, shuffle=True)


def test_discriminators_look_at_the_batch(fit):
    check = BatchMixingDetector()
    fit(Adversaries(), [check], logger=False, max_epochs=1)
    assert [(f.status, f.code) for f in check.findings] == [("advice", "BatchMixingDetector/mixes")]
