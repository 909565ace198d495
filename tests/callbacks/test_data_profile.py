"""What passes as training data: legitimate ways to draw and repeat them first, then the mistakes."""

from dataclasses import dataclass

import numpy as np
import patients
import pytest
import torch
from patients import CLASSES, FEATURES, Healthy
from torch import nn
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from lightning_recipe import DataProfile, Status
from lightning_recipe.callbacks import _data_order as order
from lightning_recipe.callbacks import _data_verdict as verdict
from lightning_recipe.callbacks._data_seen import Seen, add, fingerprints, glance
from lightning_recipe.callbacks._rounded import rounded


def data(n=256):
    return Healthy().data(n, 1)


def by_label(n=512):
    x, y = data(n).tensors
    order = y.argsort()
    return TensorDataset(x[order], y[order])


def found(fit, train, module=None, *, keep_examples=True, **settings):
    check = DataProfile(keep_examples=keep_examples)
    fit(module or Healthy(), [check], train=train, logger=False, limit_val_batches=0, **settings)
    return {finding.code.partition("/")[2]: finding for finding in check.findings}


# -- legitimate


class Stream(IterableDataset):
    """Few examples, again and again, by label or shuffled each time."""

    def __init__(self, examples, *, shuffle=False):
        self.examples, self.shuffle = examples, shuffle

    def __iter__(self):
        for _ in range(4):
            order = torch.randperm(len(self.examples)) if self.shuffle else range(len(self.examples))
            yield from (self.examples[int(i)] for i in order)


class Drawn(IterableDataset):
    """Drawn by each worker from the generator that it is given, or from a copy of the same one."""

    def __init__(self, generator=None):
        self.generator = generator

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        generator = self.generator or torch.Generator().manual_seed(worker.seed)
        for _ in range(256 // worker.num_workers):
            x = torch.randn(DATA.tensors[0].shape[1], generator=generator)
            yield x, int(x[:CLASSES].argmax())


class Bootstrap(Dataset):
    """Draws with replacement by itself."""

    def __len__(self):
        return 256

    def __getitem__(self, _):
        return DATA[int(torch.randint(256, ()))]


class OneClassABatch:
    """Batches of one class, of other examples each time, or of the same ones, in order or not."""

    def __init__(self, *, same=False, shuffle=False):
        self.same, self.shuffle = same, shuffle

    def __iter__(self):
        for i in torch.randperm(16) if self.shuffle else torch.arange(16):
            first = 32 * i if self.same else 64 * (i // 2)
            yield (first + (torch.arange(32) if self.same else torch.randperm(64)[:32])).tolist()

    def __len__(self):
        return 16


DATA = data()
WEIGHTS = torch.linspace(0.1, 3, 256)
DRAWN = {
    "shuffled": lambda: DataLoader(DATA, 32, shuffle=True),
    "weighted": lambda: DataLoader(DATA, 32, sampler=WeightedRandomSampler(WEIGHTS, 512)),
    "with replacement": lambda: DataLoader(DATA, 32, sampler=RandomSampler(DATA, replacement=True)),
    "oversampled": lambda: DataLoader(ConcatDataset([DATA, DATA]), 32, shuffle=True),
    "overlapping parts": lambda: DataLoader(
        ConcatDataset([Subset(DATA, range(200)), Subset(DATA, range(100, 256))]), 32, shuffle=True
    ),
    "some taken twice": lambda: DataLoader(Subset(DATA, [*range(256), *range(60)]), 32, shuffle=True),
    "a stream": lambda: DataLoader(Stream(by_label(), shuffle=True), 32),
    "a stream in parts": lambda: DataLoader(Drawn(), 16, num_workers=2),
    "batches of one class": lambda: DataLoader(by_label(), batch_sampler=OneClassABatch()),
    "one class": lambda: DataLoader(TensorDataset(DATA.tensors[0], torch.zeros(256).long()), 32, shuffle=True),
    "a single batch": lambda: DataLoader(DATA, 256),
}


@pytest.mark.parametrize("name", DRAWN)
def test_ways_to_draw_data_are_no_mistake(fit, name):
    codes = found(fit, DRAWN[name]())
    assert codes["passed"].evidence["examples"] >= 256
    assert set(codes) - {"passed", "label_never_occurs"} == set(), codes
    assert not alarms(codes)


def test_a_data_set_that_draws_by_itself_is_not_accused(fit):
    assert not any(finding.is_alarm for finding in found(fit, DataLoader(Bootstrap(), 32, shuffle=True)).values())


def test_a_trial_on_a_few_batches_is_no_order(fit):
    assert set(found(fit, DataLoader(by_label(), 32), overfit_batches=8)) == {"passed"}


def test_short_and_discrete_features_are_equal_by_chance(fit):
    class Discrete(Healthy):
        def forward(self, x):
            return super().forward(F.pad(x.float(), (0, 12 - x.shape[1])))

    rng = torch.Generator().manual_seed(0)
    for x in (torch.randint(2, (256, 12), generator=rng).float(), torch.rand(128, 2, generator=rng).repeat(2, 1)):
        y = torch.randint(CLASSES, (256,), generator=rng)
        assert set(found(fit, DataLoader(TensorDataset(x, y), 32, shuffle=True), Discrete())) == {"passed"}


def test_blank_tiles_among_images_are_no_duplicates(fit):
    class Images(Healthy):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))

    x, y = torch.rand(256, 1, 8, 8), torch.arange(256) % CLASSES
    x[::3] = 0
    assert set(found(fit, DataLoader(TensorDataset(x, y), 32, shuffle=True), Images())) == {"passed"}


def test_several_annotators_and_texts_beside_an_input():
    x, rich = np.arange(300) // 3, np.ones(300, bool)
    annotated = np.where(np.arange(300) % 10 == 0, 1, x % 4)
    (outcome,) = verdict.other_label(verdict.Examples(x, annotated, x, rich))
    assert outcome.status is Status.ADVICE
    asked = {"x": torch.rand(4, 12), "question": ["what", "who", "why", "how"]}
    assert not (seen := glance(asked, 4, 0, measured=False)).apart
    assert len(seen.prints["batch.question"].unique()) == 4
    assert glance(asked | {"answers": [["a", "b"]] * 4}, 4, 0, measured=False).apart
    assert glance({"x": torch.rand(4, 12), "edge_index": torch.zeros(2, 9).long()}, 4, 0, measured=False).apart


def test_rare_classes_fill_batches_by_chance():
    labels, batch = np.zeros(512, int), np.arange(512) // 8
    labels[::100] = 1
    assert not list(order.in_order(verdict.Examples(labels, labels, batch, labels == 0)))


UNUSED = {
    "for padding": [0, 20, 20, 20, 20, 20],
    "for what is unknown": [20, 20, 20, 20, 20, 0],
    "most give five stars": [0, 8, 13, 18, 25, 50],
    "a large class beside few": [0, 40, 40, 80],
    "a large class in the middle": [40, 40, 80, 40, 40, 0],
    "two are kept free": [0, 0, 40, 20, 20, 20],
    "a long tail": [0, 160, 80, 40, 20, 10],
}


@pytest.mark.parametrize("counts", UNUSED.values(), ids=UNUSED)
def test_outputs_without_a_label_are_advice(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    assert [outcome.status for outcome in verdict.never(labels, len(counts))] == [Status.ADVICE]


def test_classes_that_are_missing_by_chance():
    tail = np.repeat(np.arange(6), [200, 100, 50, 20, 9, 0])
    assert not list(verdict.never(tail, 6, whole=False))
    assert not list(verdict.never(np.arange(50) % 5, 6))  # few
    assert not list(verdict.never(np.arange(200) % 5, 1000))  # a head that came with its weights


def test_labels_that_do_not_count():
    labels = np.where(np.arange(300) % 3 == 0, -100, np.arange(300) % CLASSES)
    assert not list(verdict.never(labels, CLASSES))


def test_states_that_come_again_in_time_are_advice():
    labels = np.arange(512) // 40 % 3
    (outcome,) = order.in_order(verdict.Examples(labels, labels, np.arange(512) // 8, labels == 0))
    assert outcome.status is Status.ADVICE


def test_a_longer_length_than_there_are_data_is_advice():
    x = np.arange(400) % 100
    (outcome,) = verdict.duplicates(verdict.Examples(x, None, x, np.ones(400, bool)), sure=True)
    assert outcome.status is Status.ADVICE


class StopTokens(Healthy):
    """When each sequence ends is said by the network, by hand; what is filled up does not count."""

    def __init__(self):
        super().__init__()
        self.ends = nn.Linear(CLASSES, 5)

    def training_step(self, batch, batch_idx):
        x, y, ends, mask = batch
        logits = self((x - x.mean(0)) / x.std(0))
        said = (self.ends(logits) - ends).square().mul(mask).mean()
        return F.cross_entropy(logits, y) + said


@pytest.mark.parametrize("lost", [False, True])
def test_targets_and_masks_are_no_features(fit, lost):
    (x, y), at = data(256).tensors, torch.arange(256) % 3
    x[:, 3] *= not lost
    ends = F.one_hot(at + 2, 5).float()
    mask = (torch.arange(5) <= at[:, None] + 2).float()
    told = found(fit, DataLoader(TensorDataset(x, y, ends, 1 - mask), 32), StopTokens())
    assert ("constant_features" in told) == lost
    assert not lost or told["constant_features"].subject == "batch[0]"


class YesOrNo(Healthy):
    """A binary cross entropy with labels as floating-point numbers."""

    def loss(self, logits, y):
        return F.binary_cross_entropy_with_logits(logits[:, 0], y)


def test_copies_of_the_rarer_class_are_advice(fit):
    x, y = DATA.tensors
    rare = x[y == 3].repeat(2, 1)
    both = torch.cat([x, rare]), torch.cat([(y == 3).float(), torch.ones(len(rare))])
    codes = found(fit, DataLoader(TensorDataset(*both), 32, shuffle=True), YesOrNo())
    assert codes["duplicates"].status is Status.ADVICE
    both = torch.cat([x, x[y != 3][:128]]), torch.cat([(y == 3).float(), torch.zeros(128)])
    assert alarms(found(fit, DataLoader(TensorDataset(*both), 32, shuffle=True), YesOrNo())) == {"duplicates"}


def test_reading_changes_nothing():
    x = torch.rand(8, 3, 4, 4, requires_grad=True)
    before, state = x.detach().clone(), torch.get_rng_state()
    glance((x, torch.arange(8)), 8, 0, measured=True)
    assert torch.equal(x, before)
    assert x.grad_fn is None
    assert torch.equal(torch.get_rng_state(), state)


class Numbers(Healthy):
    """Predicts a number."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self(x)[:, 0], y.float())


class InOrder(Sampler):
    """Written by hand: in the order of the data, or in another one that is the same in each epoch."""

    def __init__(self, n, *, shuffle=False):
        self.n, self.shuffle = n, shuffle

    def __len__(self):
        return self.n

    def __iter__(self):
        order = torch.randperm(self.n, generator=torch.Generator().manual_seed(0)) if self.shuffle else range(self.n)
        return iter([int(i) for i in order])


def by_number(n=512):
    x = DATA.tensors[0].repeat(2, 1) + 0.1 * torch.randn(n, DATA.tensors[0].shape[1])
    return TensorDataset(x, torch.linspace(-1, 1, n) ** 3)


def test_numbers_along_a_series_are_advice(fit):
    x = torch.randn(512, DATA.tensors[0].shape[1]).cumsum(0)
    codes = found(fit, DataLoader(TensorDataset(x, torch.linspace(1, 0, 512)), 32), Numbers())
    assert codes["sorted"].status is Status.ADVICE


def test_numbers_in_no_order(fit):
    x, y = by_number().tensors
    loaders = [
        DataLoader(by_number(), 32, sampler=InOrder(512, shuffle=True)),
        DataLoader(TensorDataset(x, y + 0.01 * torch.randn(512)), 32, shuffle=True),
        DataLoader(TensorDataset(x, y.abs()), 32),
    ]
    for loader in loaders:
        assert not alarms(found(fit, loader, Numbers()))


class Buffered(Stream):
    """Examples in their order, out of a shuffle buffer, as WebDataset and tf.data have it."""

    def __init__(self, examples, buffer):
        super().__init__(examples)
        self.buffer = buffer

    def __iter__(self):
        draw, held = np.random.default_rng(0), []
        for example in self.examples:
            held.append(example)
            if len(held) >= self.buffer:
                yield held.pop(draw.integers(len(held)))
        draw.shuffle(held)
        yield from held


class Labelled(Stream):
    """A stream of examples with these labels."""

    def __init__(self, labels):
        y = torch.as_tensor(labels).long() % CLASSES
        super().__init__(TensorDataset(torch.randn(len(y), DATA.tensors[0].shape[1]), y))

    def __iter__(self):
        yield from self.examples


def slowly(n=640, states=24):
    """States that change every 30 examples, and come again."""
    return np.repeat(np.random.default_rng(0).integers(0, CLASSES, states), -(-n // states))[:n]


def by_twos(n=40, size=16):
    """Batches of two classes, drawn anew each time, as for a loss of pairs."""
    draw = np.random.default_rng(0)
    return np.concatenate([draw.permutation(np.repeat(draw.permutation(CLASSES)[:2], size // 2)) for _ in range(n)])


def harder(n=640):
    """A curriculum: each class is added to those before."""
    draw = np.random.default_rng(0)
    return np.concatenate([draw.integers(0, c + 1, n // CLASSES) for c in range(CLASSES)])


LABELS = {
    "shuffled": np.random.default_rng(0).integers(0, CLASSES, 640),
    "in turn": np.arange(640),
    "of two classes": by_twos(),
    "a class is added": harder(),
    "states": slowly(),
    "two classes": np.random.default_rng(0).random(640) < np.linspace(0, 1, 640),
    "few": np.sort(np.random.default_rng(0).integers(0, CLASSES, 60)),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_streams_whose_classes_come_again(fit, labels):
    assert not alarms(found(fit, DataLoader(Labelled(labels), 16), max_epochs=3))


@pytest.mark.parametrize("classes", [CLASSES, CLASSES - 1])
def test_a_class_that_a_stream_never_has(fit, classes):
    labels = torch.randint(classes, (640,), generator=torch.Generator().manual_seed(0))
    assert ("label_never_occurs" in found(fit, DataLoader(Labelled(labels), 16), max_epochs=3)) == (classes < CLASSES)


def test_shuffle_buffers_that_are_large_enough(fit):
    assert not alarms(found(fit, DataLoader(Buffered(by_label(), 400), 16), max_epochs=3))


def test_classes_that_drift_along_a_series_are_advice(fit):
    x = torch.randn(640, DATA.tensors[0].shape[1]).cumsum(0)
    y = (torch.linspace(0, CLASSES - 1, 640) + 0.4 * torch.randn(640)).round().long().clamp(0, CLASSES - 1)
    codes = found(fit, DataLoader(TensorDataset(x, y), 16), max_epochs=2)
    assert codes["sorted"].status is Status.ADVICE
    assert not alarms(found(fit, DataLoader(Buffered(TensorDataset(x, y), 1), 16), max_epochs=2))


def test_shuffled_labels_do_not_drift():
    draw = np.random.default_rng(0)
    for examples, classes, size in ((256, 3, 16), (640, 40, 40), (2000, 600, 32)) * 100:
        x = np.arange(examples)
        seen = verdict.Examples(x, draw.integers(0, classes, examples), x // size, x > 0)
        assert order.explained(seen)[0] < order.DRIFT / 2
        assert not list(order.drifting(seen, 0.0))


def test_an_own_sampler_with_the_same_order_each_time(fit):
    codes = found(fit, DataLoader(by_label(), 32, sampler=InOrder(512, shuffle=True)))
    assert {code: finding.status for code, finding in codes.items() if code != "passed"} == {
        "same_order": Status.ADVICE
    }


class Part(Sampler):
    """Draws 128 rows in each epoch.

    Args:
        order: From the epoch to an order of all rows.

    """

    def __init__(self, order):
        self.order, self.epoch = order, 0

    def __iter__(self):
        self.epoch += 1
        return iter(self.order(self.epoch)[:128].tolist())

    def __len__(self):
        return 128


class Easy(Part):
    """Begins with what is easy."""

    def set_epoch(self, epoch):
        self.epoch = epoch


def drawn_anew(epoch):
    return torch.randperm(512, generator=torch.Generator().manual_seed(epoch))


def drawn_again(_):
    return torch.randperm(512, generator=torch.Generator().manual_seed(7))


def shuffled_part(epoch):
    return drawn_again(epoch)[:128][torch.randperm(128, generator=torch.Generator().manual_seed(epoch))]


@pytest.mark.parametrize(
    "loader",
    [
        lambda: DataLoader(data(512), 32, sampler=Part(drawn_anew)),
        lambda: DataLoader(data(512), 32, sampler=Easy(drawn_again)),
        lambda: DataLoader(Subset(data(512), range(128)), 32, shuffle=True),
        lambda: DataLoader(data(512), 32, sampler=SubsetRandomSampler(range(128))),
        lambda: DataLoader(data(512), 32, sampler=RandomSampler(data(512), num_samples=128)),
        lambda: DataLoader(ConcatDataset([data(128)] * 4), 32, sampler=Part(drawn_anew)),
        lambda: DataLoader(
            TensorDataset(*(x[:32].repeat(16, *[1] * (x.ndim - 1)) for x in data().tensors)),
            32,
            sampler=Part(drawn_anew),
        ),
    ],
    ids=["drawn anew", "with epochs", "subset", "subset sampler", "random", "rows that repeat", "few rows"],
)
def test_parts_of_a_data_set_that_are_meant(fit, loader):
    assert "never_drawn" not in found(fit, loader(), max_epochs=3)


@pytest.mark.parametrize("order", [drawn_again, shuffled_part])
def test_rows_that_are_never_drawn(fit, order):
    finding = found(fit, DataLoader(data(512), 32, sampler=Part(order)), max_epochs=3)["never_drawn"]
    assert finding.status is Status.ADVICE
    assert (finding.evidence["drawn"], finding.evidence["rows"]) == (128, 512)


def with_column(values):
    x, y = data(512).tensors
    return DataLoader(TensorDataset(torch.cat([values[:, None], x[:, 1:]], 1), y), 32, shuffle=True)


MEASURED = 20 + torch.randn(512, generator=torch.Generator().manual_seed(5))
HONEST = {
    "counts with many zeros": torch.poisson(torch.full((512,), 0.7), generator=torch.Generator().manual_seed(5)),
    "one outlier": MEASURED.clone().index_fill(0, torch.tensor([7]), -999.0),
    "yes or no": (MEASURED > 20) * 100.0,
    "a ceiling": MEASURED.clamp(max=20.5),
}


@pytest.mark.parametrize("values", HONEST.values(), ids=HONEST)
def test_numbers_that_come_often_and_mean_what_they_say(fit, values):
    assert "missing_as_number" not in found(fit, with_column(values))


@pytest.mark.parametrize("scaled", [False, True])
def test_a_number_for_what_is_missing(fit, scaled):
    values = MEASURED.clone().index_fill(0, torch.arange(0, 512, 25), -999.0)
    values = (values - values.mean()) / values.std() if scaled else values
    codes = found(fit, with_column(values))
    assert (codes["missing_as_number"].status, alarms(codes)) == (Status.ADVICE, set())


class Recurrent(Healthy):
    """Sees series (N, T, F)."""

    def __init__(self, features):
        super().__init__()
        self.rnn, self.head = nn.GRU(features, 8, batch_first=True), nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def series(features=3):
    return 20 + torch.randn(512, 12, features, generator=torch.Generator().manual_seed(6))


def padded(x):
    """Each with another length."""
    return x * (torch.arange(12) < 4 + torch.arange(512)[:, None] % 9)[..., None]


def missing(x):
    """In one of the features, now and then."""
    x = x.clone()
    x[torch.arange(0, 512, 3), 5, 1] = -200.0
    return x


@pytest.mark.parametrize(
    ("x", "told"),
    [
        (series(), False),
        (padded(series()), False),
        (padded(series(1)), False),
        (missing(series()), True),
        (missing(padded(series())), True),
        ((missing(series()) - 18) / 20, True),
    ],
    ids=["measured", "padded", "padded, one feature", "missing", "padded and missing", "missing, standardised"],
)
def test_a_number_for_what_is_missing_in_series(fit, x, told):
    loader = DataLoader(TensorDataset(x, data(512).tensors[1]), 32, shuffle=True)
    assert ("missing_as_number" in found(fit, loader, Recurrent(x.shape[2]))) == told


STAMPS = 1_769_904_000 + 61 * torch.arange(64)


@pytest.mark.parametrize(
    "entry",
    [
        STAMPS.double(),
        STAMPS,
        (STAMPS - STAMPS[0]).float(),
        torch.randn(64).mul(2).exp() * 1e9,
        torch.full((64,), 3e8),
        1000 + torch.randn(64, 3),
        torch.stack([torch.randn(64), 3e9 * torch.rand(64)], 1),
        torch.full((64,), torch.nan),
        torch.full((64, 2), torch.inf),
    ],
    ids=["64 bits", "integers", "from the first", "amounts", "constant", "small", "a column of amounts", "nan", "inf"],
)
def test_large_numbers_that_lose_nothing(entry):
    assert not list(rounded([entry, torch.zeros(64)]))


@pytest.mark.parametrize(
    "entry", [STAMPS.float(), torch.stack([torch.randn(64), STAMPS.float()], 1), STAMPS[:, None].float()]
)
def test_time_stamps_in_32_bits(entry):
    ((path, outcome),) = rounded({"time": entry})
    assert (path, outcome.code, outcome.evidence["multiple"]) == ("batch.time", "rounded", 128)


def test_texts_that_were_cut_to_what_all_begin_with(fit):
    class Words(Healthy):
        def forward(self, x):
            return super().forward(torch.cat([x.float(), torch.zeros(len(x), FEATURES - x.shape[1])], 1))

        def training_step(self, batch, batch_idx):
            labels = batch.pop("y")
            return self.loss(self(batch["x"]), labels)

    draw = torch.Generator().manual_seed(0)
    x, y = torch.randint(2, (512, 4), generator=draw), torch.randint(CLASSES, (512,), generator=draw)
    told = {}
    for name, labels in {"by chance": y, "by the first word": x[:, 0]}.items():
        rows = [{"x": a, "y": b} for a, b in zip(x, labels, strict=True)]
        told[name] = found(fit, DataLoader(rows, 32, shuffle=True), Words()).get("same_input_other_label")
    assert told["by the first word"] is None
    assert told["by chance"].status is Status.ADVICE


@pytest.mark.parametrize("rows", [16, 40])
def test_workers_that_all_give_the_same(fit, rows):
    codes = found(fit, DataLoader(Drawn(torch.Generator().manual_seed(0)), rows, num_workers=2))
    assert alarms(codes) == {"workers_alike"}


def test_batches_that_come_again_and_again_within_an_epoch(fit):
    codes = found(fit, DataLoader(Stream(DATA), 32))
    assert {code: f.status for code, f in codes.items() if code != "passed"} == {"same_batches": Status.ADVICE}


def test_batches_of_one_class_that_are_the_same_in_each_epoch(fit):
    batched = DataLoader(by_label(), batch_size=None, sampler=BatchSampler(range(512), 32, drop_last=False))
    in_order = DataLoader(by_label(), batch_sampler=OneClassABatch(same=True))
    shuffled = DataLoader(by_label(), batch_sampler=OneClassABatch(same=True, shuffle=True))
    loaders = {batched: Status.ADVICE, in_order: Status.ADVICE, shuffled: Status.WARNING}
    assert {loader: found(fit, loader)["sorted"].status for loader in loaders} == loaders


# -- mistakes


HELD = {  # labels from 0 taken for such from 1, or the other way, and then held to the range
    "minus one": lambda y: (y - 1).clamp(min=0),
    "plus one": lambda y: (y + 1).clamp(max=7),
    "cut off": lambda y: y.clamp(max=6),
}


@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
@pytest.mark.parametrize("n", [400, 3200])
def test_labels_that_are_held_to_their_range(fit, held, n):
    class Eight(Healthy):
        def __init__(self):
            super().__init__()
            self.net[-1] = nn.Linear(32, 8)

        def training_step(self, batch, batch_idx):
            return F.nll_loss(self(batch[0]).log_softmax(1), batch[1])

    x, y = data(n).tensors[0], held(torch.randint(8, (n,), generator=torch.Generator().manual_seed(0)))
    codes = found(fit, DataLoader(TensorDataset(x, y), 32, shuffle=True), Eight(), max_epochs=1)
    assert alarms(codes) == {"label_never_occurs"}


@pytest.mark.parametrize("sampler", [None, InOrder(512)], ids=["unshuffled", "own sampler"])
@pytest.mark.parametrize("module", [Healthy, Numbers])
def test_sorted_by_any_sampler_that_keeps_the_order(fit, sampler, module):
    train = by_label() if module is Healthy else by_number()
    assert alarms(found(fit, DataLoader(train, 32, sampler=sampler), module())) == {"sorted"}


def test_a_weight_for_each_class(fit):
    sampler = WeightedRandomSampler(torch.ones(CLASSES), 256)
    assert "weights_of_classes" in alarms(found(fit, DataLoader(DATA, 32, sampler=sampler)))


class Shards(Stream):
    """A file for each class, drawn in another order in each epoch, and read to its end."""

    def __iter__(self):
        x, y = self.examples.tensors
        for label in torch.randperm(CLASSES):
            yield from zip(x[y == label], y[y == label], strict=True)


def test_sorted_files_of_a_stream(fit):
    assert alarms(found(fit, DataLoader(Shards(data(512)), 16), max_epochs=2)) == {"sorted"}
    assert not alarms(found(fit, DataLoader(Shards(data(512)), 16), max_steps=16))  # no whole epoch: nobody knows


@pytest.mark.parametrize("buffer", [4, 16, 40, 80])
def test_sorted_files_behind_a_small_shuffle_buffer(fit, buffer):
    codes = found(fit, DataLoader(Buffered(by_label(640), buffer), 16), max_epochs=2)
    assert alarms(codes) == {"sorted"}


def test_sorted_by_whole_numbers(fit):
    x, y = by_number().tensors
    assert alarms(found(fit, DataLoader(TensorDataset(x, (100 * y).long()), 32), Numbers())) == {"sorted"}


class Batches:
    """Batches that lie ready, or are made of rows of a tensor; something is done to what is kept at each epoch."""

    def __init__(self, change=lambda x: None):
        self.x, self.y = (t.clone() for t in data(512).tensors)
        self.change = change

    def __len__(self):
        return 16

    def __iter__(self):
        self.change(self.x)
        return iter(list(zip(self.x.split(32), self.y.split(32), strict=True)))


LEFT_ALONE = {
    "nothing": lambda x: None,
    "made anew": lambda x: x.normal_(),
    "shuffled": lambda x: x.copy_(x[torch.randperm(len(x))]),
    "mirrored": lambda x: x.copy_(x.flip(1)),
    "clamped": lambda x: x.clamp_(-1, 1),
}


@pytest.mark.parametrize("change", LEFT_ALONE)
def test_what_data_may_do_from_epoch_to_epoch(fit, change):
    assert alarms(found(fit, Batches(LEFT_ALONE[change]), max_epochs=5)) == set()


class MakesItsAttributes:
    def __getattr__(self, name):
        raise OSError(name)


def test_a_data_set_that_holds_all_kinds_of_things(fit):
    train = data(64)
    train.rng, train.library, train.function = np.random, MakesItsAttributes(), found
    assert "internal_error" not in found(fit, DataLoader(train, 32, shuffle=True))


class Harder(Dataset):
    """Random augmentation, that grows from epoch to epoch by plan."""

    def __init__(self):
        self.x, self.y = data(512).tensors
        self.drawn = 0

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        self.drawn += 1
        return self.x[index] + 1e-3 * self.drawn * torch.randn(self.x.shape[1]), self.y[index]


def test_a_curriculum_is_no_drift(fit):
    assert alarms(found(fit, DataLoader(Harder(), 32, shuffle=True), max_epochs=5)) == set()


class Centres(Healthy):
    """Takes the mean off in place, of a copy that the DataLoader has made."""

    def training_step(self, batch, batch_idx):
        batch[0].sub_(0.1)
        return super().training_step(batch, batch_idx)


def test_a_step_may_change_its_own_batch(fit):
    assert alarms(found(fit, DataLoader(data(512), 32, shuffle=True), Centres(), max_epochs=5)) == set()


ADDING_UP = {
    "noise": lambda x: x.add_(0.1 * torch.randn_like(x)),
    "shift": lambda x: x.add_(0.1),
    "scale": lambda x: x.mul_(0.9),
    "all together": lambda x: x.sub_(x.mean()).div_(3),
}


@pytest.mark.parametrize("change", ADDING_UP)
def test_what_is_done_in_place_adds_up(fit, change):
    codes = found(fit, Batches(ADDING_UP[change]), max_epochs=5)
    assert alarms(codes) == {"drifts"}
    assert codes["drifts"].evidence["apart"] > 0


def test_no_rows_are_kept_if_none_are_to_be(fit):
    values = MEASURED.clone().index_fill(0, torch.arange(0, 512, 25), -999.0)
    codes = found(fit, with_column(values), keep_examples=False)
    assert "missing_as_number" not in codes
    assert codes["passed"].evidence["examples"] == 512
    assert alarms(found(fit, Batches(ADDING_UP["shift"]), keep_examples=False, max_epochs=5)) == set()


def test_a_step_that_changes_batches_that_are_kept(fit):
    assert alarms(found(fit, Batches(), Centres(), max_epochs=5)) == {"drifts"}


def alarms(codes):
    return {code for code, finding in codes.items() if finding.is_alarm}


@pytest.mark.parametrize(
    "patient", [patients.TwinsWithAnotherLabel, patients.Duplicates, patients.SortedByLabel], ids=lambda p: p.__name__
)
def test_alarms(fit, patient):
    codes = found(fit, patient().train_dataloader())
    assert alarms(codes) == {patient.code.partition("/")[2]}


@dataclass
class Item:
    pixels: torch.Tensor
    kind: torch.Tensor


class Photos(Dataset):
    """A data set of its own, images as bytes, that gives objects; every tenth file lies there twice."""

    def __init__(self, *, copies, sort=False):
        rng = torch.Generator().manual_seed(0)
        self.samples = list(torch.randint(256, (200, 3, 6, 6), generator=rng, dtype=torch.uint8))
        self.kinds = [i // 50 if sort else i % 4 for i in range(200)]
        self.samples += self.samples[:copies]
        self.kinds += self.kinds[:copies]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index], self.kinds[index]

    def loader(self, **how):
        def collate(items):
            return Item(torch.stack([x for x, _ in items]), torch.tensor([y for _, y in items]))

        return DataLoader(self, 16, collate_fn=collate, **how)


class ByHand(Healthy):
    """A loss by hand and manual optimisation."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(108, 4))

    def training_step(self, batch, batch_idx):
        scores = self.net(batch.pixels / 255).log_softmax(-1)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(-scores[torch.arange(len(scores)), batch.kind].mean())
        optimizer.step()


def test_duplicates_of_a_data_set_of_its_own(fit):
    codes = found(fit, Photos(copies=20).loader(shuffle=True), ByHand())
    assert alarms(codes) == {"duplicates"}
    assert codes["duplicates"].evidence["share"] == pytest.approx(20 / 220)


def test_sorted_objects_with_a_loss_by_hand(fit):
    codes = found(fit, Photos(copies=0, sort=True).loader(), ByHand())
    assert alarms(codes) == {"sorted"}
    assert "same_order" in codes


def test_sorted_by_label_is_told_before_a_long_epoch_is_over(fit):
    assert alarms(found(fit, DataLoader(by_label(2048), 16), max_steps=70, max_epochs=1)) == {"sorted"}


def test_sorted_answers_of_yes_or_no(fit):
    x, y = DATA.tensors
    order = (y > 1).long().argsort()
    assert alarms(found(fit, DataLoader(TensorDataset(x[order], (y[order] > 1).float()), 16), YesOrNo())) == {"sorted"}


def test_half_of_the_labels_are_those_of_others(fit):
    x, y = DATA.tensors
    twins = TensorDataset(torch.cat([x, x[:64]]), torch.cat([y, y[:64].flip(0)]))
    codes = found(fit, DataLoader(twins, 32, shuffle=True))
    assert alarms(codes) == {"same_input_other_label"}
    assert codes["same_input_other_label"].evidence["contradicting"] == 128


# -- numbers


class Reviews(Dataset):
    """Texts and their classes; some are the same as others."""

    def __init__(self, texts, labels):
        self.texts, self.labels = texts, labels

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        return {"text": self.texts[index], "label": self.labels[index]}


class Words(Healthy):
    """Counts letters."""

    def training_step(self, batch, batch_idx):
        x = torch.tensor([[text.count(letter) for letter in "abcdefghijkl"] for text in batch["text"]]).float()
        return F.cross_entropy(self(x), batch["label"])


def reviews(n, words, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join("".join(rng.choice(list("abcdefghijklmn"), 5)) for _ in range(words)) for _ in range(n)]


def of_texts(fit, texts, labels):
    return found(fit, DataLoader(Reviews(texts, labels), 32, shuffle=True), Words())


def test_short_texts_come_again(fit):
    assert not alarms(
        of_texts(fit, ["thank you", "not good", "yes", "no"] * 64, [i // 4 % CLASSES for i in range(256)])
    )


def test_texts_that_differ(fit):
    codes = of_texts(fit, reviews(256, 12), [i % CLASSES for i in range(256)])
    assert alarms(codes) == set()
    assert codes["passed"].evidence["duplicates"] == 0


class Amount(Healthy):
    def forward(self, x):
        return super().forward(F.pad(x, (0, FEATURES - x.shape[1])))

    def loss(self, logits, y):
        return F.mse_loss(logits[:, 0], y)

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])


def amounts(noise, columns=FEATURES):
    """Three measurements of each of 100 rows, that differ by noise, or are of other rows."""
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(100, columns, generator=rng).repeat(3, 1), torch.randn(100, generator=rng).repeat(3)
    y = y[torch.randperm(300, generator=rng)] if noise is None else y + noise * torch.randn(300, generator=rng)
    return DataLoader(TensorDataset(x, y), 32, shuffle=True)


@pytest.mark.parametrize("columns", [FEATURES, 8])
def test_numbers_of_others(fit, columns):
    told = found(fit, amounts(None, columns), Amount())["same_input_other_label"]
    assert told.status is Status.WARNING
    assert told.evidence["spread"] > 0.6


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_measurements_that_were_repeated(fit, noise):
    assert "same_input_other_label" not in found(fit, amounts(noise), Amount())


def test_texts_that_come_again(fit):
    texts = reviews(200, 12)
    codes = of_texts(fit, texts + texts[:50], [i % CLASSES for i in range(200)] + [i % CLASSES for i in range(50)])
    assert alarms(codes) == {"duplicates"}


def test_texts_with_two_labels(fit):
    texts = reviews(200, 12)
    codes = of_texts(
        fit, texts + texts[:50], [i % CLASSES for i in range(200)] + [(i + 1) % CLASSES for i in range(50)]
    )
    assert "same_input_other_label" in alarms(codes)


def test_numbers_are_those_of_all_examples(fit):
    x, y = DATA.tensors
    codes = found(fit, DataLoader(TensorDataset(x, (y > 0).long()), 32, shuffle=True))
    assert codes["passed"].evidence == {"examples": 256, "classes": 2, "largest": 0.75, "smallest": 64, "duplicates": 0}


def test_ranges_are_added_up_batch_by_batch():
    x, seen = 5 + 3 * torch.randn(100, 4, generator=torch.Generator().manual_seed(0)), Seen()
    x[3, 1] = torch.nan
    for part in x.split(30):
        add(seen, glance([part], len(part), 0, measured=True))
    (measured,) = seen.ranges.values()
    wanted = x.double().numpy()
    np.testing.assert_allclose(measured.mean, np.nanmean(wanted, 0), rtol=1e-5)
    np.testing.assert_allclose(measured.std, np.nanstd(wanted, 0), rtol=1e-5)
    np.testing.assert_array_equal(measured.high, np.nanmax(wanted, 0))
    assert measured.missing == 1


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.bool]
)
def test_fingerprints_are_equal_for_equal_rows_only(dtype):
    rows = torch.randint(2 if dtype is torch.bool else 100, (200, 40)).to(dtype)
    prints = fingerprints(torch.cat([rows, rows.roll(1, dims=1), rows]))
    assert torch.equal(prints[:200], prints[400:])
    assert len(prints.unique()) == 400


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.uint8, torch.int64])
def test_fingerprints_tell_zeros_and_ones_apart(dtype):
    rows = (torch.arange(2**14)[:, None] >> torch.arange(40) % 14) & 1
    assert len(fingerprints(rows.to(dtype)).unique()) == 2**14
    assert len(fingerprints(rows.flip(1).to(dtype) * 128).unique()) == 2**14


def test_fingerprints_tell_inverted_images_and_left_out_tokens_apart():
    images, tokens = torch.randint(256, (100, 64), dtype=torch.uint8), torch.randint(-1, 1, (2**10, 40))
    assert len(fingerprints(torch.cat([images, 255 - images])).unique()) == 200
    assert len(fingerprints(tokens).unique()) == len(tokens.unique(dim=0))


def test_what_is_kept_is_bounded(fit, monkeypatch):
    monkeypatch.setattr("lightning_recipe.callbacks.data_profile.KEPT", 100)
    assert found(fit, DataLoader(DATA, 32, shuffle=True))["passed"].evidence["examples"] == 128


def test_a_picture_is_drawn_once(fit, events):
    trainer = fit(Healthy(), [DataProfile()])
    assert len(events(trainer).Images("1.01 DataProfile/data")) == 1


def test_rows_that_are_as_wide_as_their_batch(fit):
    """As adjacency matrices of graphs, which have as many columns as nodes."""

    class Graphs(Healthy):
        def forward(self, x):
            return super().forward(x[:, :FEATURES])

    def widened(rows):
        x, y = default_collate(rows)
        return torch.cat([x, torch.randn(len(x), int(y.sum()) % 5)], 1), y

    codes = found(fit, DataLoader(DATA, 16, shuffle=True, collate_fn=widened), Graphs())
    assert not alarms(codes)
    assert "internal_error" not in codes
