"""The worst examples of validation: programs of many kinds in which some labels are wrong, found by their index."""

import re
from dataclasses import dataclass

import lightning.pytorch as L
import pytest
import torch
from patients import Healthy
from torch import nn
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from lightning_recipe import HardExamples, Status
from lightning_recipe.callbacks import hard_examples
from lightning_recipe.callbacks._example_scores import losses_of, mistakes_of, oddness
from lightning_recipe.callbacks._hard_examples import Example, Worst
from lightning_recipe.figures.canvas import pixels
from lightning_recipe.figures.examples import examples_card
from lightning_recipe.figures.kinds import recognise
from lightning_recipe.losses.targets import Answers
from lightning_recipe.record.probe import Probe
from lightning_recipe.record.step import LossCall
from lightning_recipe.trial.fetched import noted
from lightning_recipe.trial.stored import index_of

N, BATCH, CLASSES = 100, 16, 3
WRONG = {5, 40, 77, 99}
"""Indices of the validation examples whose labels are wrong."""


def examples(seed=0):
    """Features that hold their class, one-hot, and a little noise."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (N,), generator=rng)
    return 4.0 * F.one_hot(y, CLASSES) + 0.1 * torch.randn(N, CLASSES, generator=rng), y


def mislabelled(y):
    return torch.where(torch.tensor([i in WRONG for i in range(len(y))]), (y + 1) % CLASSES, y)


class Program(L.LightningModule):
    """Knows its classes already, and stays as it is."""

    def __init__(self, loader=None):
        super().__init__()
        self.net = nn.Linear(CLASSES, CLASSES)
        nn.init.eye_(self.net.weight)
        self.loader = loader or (lambda data: DataLoader(data, BATCH))

    def loss(self, x, y):
        return F.cross_entropy(self.net(x), y)

    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(*batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def train_dataloader(self):
        return DataLoader(TensorDataset(*examples()), 50)

    def data(self):
        x, y = examples(1)
        return TensorDataset(x, mislabelled(y))

    def val_dataloader(self):
        return self.loader(self.data())


def found(fit, module, check=None, **settings):
    check = check or HardExamples()
    fit(module, [check], **{"logger": False, "max_epochs": 1, **settings})
    (finding,) = check.findings
    assert finding.status in {Status.PASSED, Status.SKIPPED}, finding
    assert not finding.code.endswith("internal_error"), finding
    return finding


def indices(finding):
    return {int(value) for name, value in finding.evidence.items() if name.startswith("index")}


# -- programs of many kinds


class Dicts(Program):
    def data(self):
        x, y = super().data().tensors
        return [{"x": x[i], "y": y[i], "name": str(i)} for i in range(N)]

    def validation_step(self, batch, batch_idx):
        return {"loss": self.loss(batch["x"], batch["y"])}


@dataclass
class Pair:
    x: torch.Tensor
    y: torch.Tensor


class Dataclasses(Program):
    def val_dataloader(self):
        return DataLoader(self.data(), BATCH, collate_fn=lambda rows: Pair(*map(torch.stack, zip(*rows, strict=True))))

    def validation_step(self, batch, batch_idx):
        self.loss(batch.x, batch.y)


class LogProbabilities(Program):
    def loss(self, x, y):
        return F.nll_loss(self.net(x).log_softmax(1), y, weight=torch.ones(CLASSES))


class Smoothed(Program):
    def loss(self, x, y):
        return F.cross_entropy(self.net(x), y, label_smoothing=0.1, reduction="none").mean()


class OneHot(Program):
    def loss(self, x, y):
        return F.binary_cross_entropy_with_logits(self.net(x), F.one_hot(y, CLASSES).float())


class Squares(Program):
    def loss(self, x, y):
        return F.mse_loss(F.one_hot(y, CLASSES).float() * 4, self.net(x))  # the wrong way round, as many do


class ByHand(Program):
    def loss(self, x, y):
        return -self.net(x).log_softmax(1)[torch.arange(len(y)), y].mean()


class OnlyAccuracy(Program):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_acc", (self.net(x).argmax(1) == y).float().mean())


class ByHandTwice(ByHand):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.manual_backward(super().training_step(batch, batch_idx))
        self.optimizers().step()


class Sequences(Program):
    """Classes at six positions, two of them ignored."""

    def data(self):
        x, y = super().data().tensors
        ignored = torch.full((N, 2), -100)
        return TensorDataset(x[:, None].repeat(1, 6, 1), torch.cat([y[:, None].repeat(1, 4), ignored], 1))

    def loss(self, x, y):
        return F.cross_entropy(self.net(x).flatten(0, 1), y.flatten())


class Maps(Program):
    """A class for each pixel."""

    def data(self):
        x, y = super().data().tensors
        return TensorDataset(x[:, None, None].repeat(1, 8, 8, 1), y[:, None, None].repeat(1, 8, 8))

    def loss(self, x, y):
        return F.cross_entropy(self.net(x).movedim(-1, 1), y)


class Sparse(Program):
    """Bags of words, which enter as a sparse matrix."""

    def loss(self, x, y):
        return F.cross_entropy(torch.sparse.mm(x.to_sparse(), self.net.weight.T), y)


class SparseInput(Program):
    """The same, by a module of its own."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.eye(CLASSES))

        def forward(self, x):
            return torch.sparse.mm(x, self.weight)

    def __init__(self, loader=None):
        super().__init__(loader)
        self.words = self.Net()

    def loss(self, x, y):
        return F.cross_entropy(self.words(x.to_sparse()), y)


class TwoLoaders(Program):
    def val_dataloader(self):
        return [super().val_dataloader(), DataLoader(TensorDataset(*examples(2)), BATCH)]

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.loss(*batch)


class Halves(Program):
    def loss(self, x, y):
        return F.cross_entropy(self.net(x).bfloat16(), y)


KINDS = (
    *(Program, Dicts, Dataclasses, LogProbabilities, Smoothed, OneHot, Squares, ByHand, OnlyAccuracy, ByHandTwice),
    *(Sequences, Maps, TwoLoaders, Halves, Sparse, SparseInput),
)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_labels_have_the_highest_losses(fit, kind):
    finding = found(fit, kind())
    assert indices(finding) == WRONG
    assert finding.evidence["examples"] == N
    assert finding.evidence["loss_4"] > 2 * finding.evidence["mean_loss"]


def test_what_was_right_and_said_is_in_the_evidence(fit):
    evidence = found(fit, Program()).evidence
    _, y = examples(1)
    for i in range(1, 5):
        assert evidence[f"said_{i}"] == y[int(evidence[f"index_{i}"])]
        assert evidence[f"target_{i}"] == (evidence[f"said_{i}"] + 1) % CLASSES


# -- which example it is


def distributed(data):
    return DataLoader(data, BATCH, sampler=DistributedSampler(data, num_replicas=2, rank=1, shuffle=False))


class Drawn(BatchSampler):
    def __iter__(self):
        yield from reversed(list(super().__iter__()))


class Lengths:
    """Batches of several sizes, each of which it empties and fills anew, drawn from a generator of its own."""

    def __init__(self):
        self.rng = torch.Generator().manual_seed(1)

    def __len__(self):
        return 8

    def __iter__(self):
        order, batch = torch.randperm(N, generator=self.rng).tolist(), []
        for size in (1, 2, 5, 12, 20, 20, 20, 20):
            batch[:] = [order.pop() for _ in range(size)]
            yield batch


KNOWN = {
    "in order": (lambda data: DataLoader(data, BATCH), WRONG),
    "an incomplete batch left out": (lambda data: DataLoader(data, BATCH, drop_last=True), WRONG - {99}),
    "a batch sampler": (
        lambda data: DataLoader(data, batch_sampler=BatchSampler(SequentialSampler(data), 8, drop_last=False)), WRONG,
    ),
    "a subset, by the indices of what it is of": (lambda data: DataLoader(Subset(data, range(30, N)), BATCH),
                                                  {i for i in WRONG if i >= 30}),
    "a subset of a subset, shuffled": (
        lambda data: DataLoader(Subset(Subset(data, torch.arange(N).flip(0)), range(50)), BATCH, shuffle=True),
        {i for i in WRONG if i >= 50},
    ),
    "the second of two ranks": (distributed, {i for i in WRONG if i % 2}),
    "workers": (lambda data: DataLoader(data, BATCH, num_workers=1), WRONG),
    "shuffled": (lambda data: DataLoader(data, BATCH, sampler=RandomSampler(data)), WRONG),
    "shuffled by a generator": (
        lambda data: DataLoader(data, BATCH, shuffle=True, generator=torch.Generator()), WRONG,
    ),
    "a random subset": (lambda data: DataLoader(data, BATCH, sampler=SubsetRandomSampler(range(N))), WRONG),
    "by weights": (
        lambda data: DataLoader(data, BATCH, sampler=WeightedRandomSampler(torch.ones(N), N, replacement=False)), WRONG,
    ),
    "two ranks, shuffled": (
        lambda data: DataLoader(data, BATCH, sampler=DistributedSampler(data, num_replicas=1, rank=0)), WRONG,
    ),
    "a batch sampler of its own": (
        lambda data: DataLoader(data, batch_sampler=Drawn(range(N), BATCH, drop_last=False)), WRONG,
    ),
    "batches of several sizes": (lambda data: DataLoader(data, batch_sampler=Lengths()), WRONG),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_the_index_follows_from_the_place(fit, name):
    loader, expected = KNOWN[name]
    finding = found(fit, Program(loader), max_epochs=2)
    assert expected <= indices(finding)
    assert len(indices(finding)) == 4
    assert ("below its Subset" in finding.message) == ("subset, by" in name or "subset of a" in name)


def test_what_workers_are_sent_before_validation_is_not_known(fit):
    """Of seven batches the first two."""
    finding = found(fit, Program(lambda data: DataLoader(data, BATCH, shuffle=True, num_workers=1)))
    assert indices(finding) <= WRONG
    places = re.findall(r"(\d+):\d+ \(", finding.message)
    assert len(places) + len(indices(finding)) == 4
    assert {int(batch) for batch in places} <= {0, 1}


@pytest.mark.parametrize("workers", [0, 2])
def test_noting_changes_neither_the_order_nor_random_streams(workers):
    def order(*, noting):
        torch.manual_seed(1)
        loader = DataLoader(range(100), 8, shuffle=True, num_workers=workers)
        iterator = iter(loader)
        fetched = noted(loader, iterator) if noting else None
        read = []
        for i, batch in enumerate(iterator):
            read.append(batch.tolist())
            if noting:
                assert fetched.of(i) == (tuple(read[-1]) if i >= 2 * workers else None)
        return read, torch.rand(1)

    assert order(noting=True) == order(noting=False)


def test_indices_that_are_no_numbers():
    loader = DataLoader({"a": 1, "b": 2}, sampler=["a", "b"])
    assert index_of(loader, 0, 0, ["a"]) is None


class Stream(IterableDataset):
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return iter(self.data)


UNKNOWN = {
    "a stream": lambda data: DataLoader(Stream(data), BATCH),
    "batches that the data set makes": lambda data: DataLoader(
        TensorDataset(*(t[:96].unflatten(0, (6, 16)) for t in data.tensors)), batch_size=None
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_where_nobody_knows_the_index_it_is_said(fit, name):
    finding = found(fit, Program(UNKNOWN[name]))
    assert finding.status is Status.PASSED
    assert not indices(finding)
    assert finding.evidence["loss_3"] > 3
    assert "batch:row" in finding.message


# -- nothing to tell


class TimeFirst(Program):
    """Twenty steps of an example in a batch that has no dimension of examples in front."""

    def val_dataloader(self):
        x, y = self.data().tensors
        rows = [(x[i].repeat(20, 1), y[i].repeat(20)) for i in range(N)]
        return DataLoader(rows, BATCH, collate_fn=lambda r: [torch.stack(part, 1) for part in zip(*r, strict=True)])

    def loss(self, x, y):
        return F.cross_entropy(self.net(x).flatten(0, 1), y.flatten())


class NoTarget(Program):
    def loss(self, x, y):
        return self.net(x).square().mean() + self.net(x).exp().mean()

    def data(self):
        return TensorDataset(super().data().tensors[0], torch.zeros(N, 0))


@pytest.mark.parametrize("kind", [TimeFirst, NoTarget])
def test_what_has_no_loss_for_each_example_is_skipped(fit, kind):
    assert found(fit, kind()).status is Status.SKIPPED


def test_no_validation_is_skipped(fit):
    assert found(fit, Program(), limit_val_batches=0).status is Status.SKIPPED


def test_the_sanity_check_is_before_training(fit):
    assert found(fit, Program(), max_steps=1, num_sanity_val_steps=-1, val_check_interval=2).status is Status.SKIPPED


# -- when


class Looking(HardExamples):
    def __init__(self):
        super().__init__()
        self.looked = []

    def validation(self, run, step):
        self.looked.append((run.trainer.current_epoch, run.val_batch))
        return super().validation(run, step)


def test_batches_lie_evenly_over_the_set_and_in_the_end_are_more(fit, monkeypatch):
    monkeypatch.setattr(hard_examples, "FEW", 2)
    monkeypatch.setattr(hard_examples, "ALL", 4)
    check = Looking()
    finding = found(fit, Program(), check, num_sanity_val_steps=0, max_epochs=3)  # of 7 batches
    assert check.looked == [(0, 0), (0, 4), (1, 0), (1, 4), *[(2, i) for i in (0, 2, 4, 6)]]
    assert finding.evidence["examples"] == 3 * BATCH + 4


def test_validations_in_between_are_not_watched(fit, monkeypatch):
    watched = []
    attach = Probe.attach
    monkeypatch.setattr(Probe, "attach", lambda *given: watched.append(given[1]) or attach(*given))
    check = Looking()
    found(fit, Program(), check, max_epochs=40, num_sanity_val_steps=0)
    epochs = sorted({epoch for epoch, _ in check.looked})
    assert len(epochs) <= 9
    assert epochs[-1] == 39
    assert watched == ["validation_step"] * 7 * len(epochs)


# -- what is drawn, and kept


def test_the_first_and_the_last_look_are_drawn(fit, events):
    check = HardExamples(max_share=0)
    read = events(fit(Program(), [check], max_epochs=4))
    tags = {tag.partition("/")[2]: [event.step for event in read.Images(tag)] for tag in read.Tags()["images"]}
    assert tags == {"highest loss": [1, 7], "surest mistakes": [1, 7], "oddest inputs": [1, 7]}


def test_nothing_but_numbers_is_kept_if_asked(fit, events):
    class Asked(HardExamples):
        def end(self, run):
            self.kept = [one for worst in self._look.worst.values() for one in worst.examples]
            return super().end(run)

    check = Asked(keep_examples=False)
    trainer = fit(Maps(), [check], max_epochs=1)
    assert check.kept
    assert all(one.entered is one.target is one.said is None for one in check.kept)
    assert not events(trainer).Tags()["images"]
    assert indices(check.findings[0]) == WRONG


def test_without_mistakes_there_is_no_card_of_them(fit, events):
    class Right(Program):
        def data(self):
            return TensorDataset(*examples(1))

    read = events(fit(Right(), [HardExamples()], max_epochs=1))
    assert {tag.partition("/")[2] for tag in read.Tags()["images"]} == {"highest loss", "oddest inputs"}


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (3, 32, 32), (3, 8, 16, 16), (6,), (50, 2), (4000,), (7, 7, 7, 7, 7)], ids=str
)
def test_notes_are_on_every_card(shape):
    entered, notes = torch.rand(8, *shape), tuple(f"#{i}: 2.5" for i in range(8))
    entered = entered.cumsum(1) if shape == (50, 2) else entered
    answers = Answers(torch.arange(8), torch.arange(8), notes=notes)
    picture = examples_card("val", entered, recognise(entered), answers, None)
    assert sum("#2: 2.5" in word for word in picture.words) == 1, picture.words
    assert pixels(picture).std() > 0


def test_maps_and_tokens_have_notes_too():
    maps, notes = torch.randint(3, (4, 32, 32)), tuple(f"#{i}: 2.5" for i in range(4))
    for entered, answers in (
        (torch.rand(4, 3, 32, 32), Answers(maps, maps, notes=notes)),
        (torch.randint(5, 90, (4, 12)), Answers(torch.arange(4), torch.arange(4), notes=notes)),
        (torch.randint(5, 90, (4, 12)), Answers(*torch.randint(5, 90, (2, 4, 12)), notes=notes)),
    ):
        assert any("#1: 2.5" in word for word in examples_card("val", entered, recognise(entered), answers, None).words)


# -- scores


def call(name, **arguments):
    function = getattr(F, name)
    return LossCall(name, function, arguments, torch.tensor(0.0), len(arguments["input"]), "", target_from_net=False)


def test_losses_are_those_of_each_example_alone():
    logits, y = torch.randn(6, 5, 4), torch.randint(4, (6, 5))
    y[0, 3:] = -100
    options = {"weight": None, "ignore_index": -100, "reduction": "sum", "label_smoothing": 0.0}
    losses = losses_of(call("cross_entropy", input=logits.flatten(0, 1), target=y.flatten(), **options), 6)
    alone = torch.stack([F.cross_entropy(logits[i], y[i]) for i in range(6)])
    assert losses.tolist() == pytest.approx(alone.tolist())


def test_how_sure_a_mistake_is():
    logits = torch.tensor([[4.0, -4.0], [-1.0, 1.0], [3.0, 3.0]])
    y = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    sure = mistakes_of(call("binary_cross_entropy_with_logits", input=logits, target=y))
    assert sure[:2].tolist() == pytest.approx([0.982, 0.731], abs=1e-3)
    assert sure[2] == -torch.inf
    assert mistakes_of(call("mse_loss", input=logits, target=y)) is None


def test_odd_inputs():
    x = torch.randn(16, 50, generator=torch.Generator().manual_seed(0))
    x[3, 7], x[:, 9] = 40.0, 1.0
    assert int(oddness(x).argmax()) == 3
    x[5, 1], x[:, 11] = torch.nan, torch.nan
    worst = Worst(2)
    worst.offer(oddness(x), lambda score, row: Example(score, 0.0, 0, row, None))
    assert [one.row for one in worst.examples] == [5, 3]
    assert not oddness(torch.full((16, 5), 1e30).cumsum(0)).isnan().any()
    assert oddness(x[:4]) is None
    assert oddness(x[:, :0]) is None
    assert oddness(torch.ones(16, 5).long()) is None


def test_a_healthy_program_passes(fit):
    finding = found(fit, Healthy(), logger=True)
    assert finding.status is Status.PASSED
    assert len(indices(finding)) == 4
