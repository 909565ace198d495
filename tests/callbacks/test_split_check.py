"""How training and validation were split: legitimate ways first, then the mistakes."""

import copy
from threading import Lock

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from ends import process, traces
from patients import CLASSES, FEATURES, Healthy, Noisy
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

from lightning_recipe import SplitCheck, Status
from lightning_recipe.callbacks import _came_by, _overlap
from lightning_recipe.callbacks._came_by import CameBy, common
from lightning_recipe.callbacks._matches import Match, Place, card
from lightning_recipe.callbacks._overlap import overlap
from lightning_recipe.callbacks._scaled_apart import scaled_apart
from lightning_recipe.trial.stored import Part, columns, parts_of

X, Y = Healthy().data(256, 1).tensors
DATA = TensorDataset(X, Y)
NEW = Healthy().data(64, 2)


def found(fit, train=None, val=None, module=None, **settings):
    check = SplitCheck()
    fit(module or Healthy(), [check], train=train, val=val, logger=False, max_steps=2, **settings)
    assert not [f for f in check.findings if f.code.endswith("internal_error")], check.findings
    return check.findings


def statuses(findings):
    return {f.status for f in findings}


class Two(Healthy):
    """Validates on two loaders."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch, batch_idx)


class Columns(Dataset):
    """Holds what it is given."""

    def __init__(self, size, **stored):
        self.size = size
        vars(self).update(stored)

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return X[index], Y[index]


class Half(Dataset):
    """Chooses among the same tensors by itself."""

    def __init__(self, x, y, *, odd):
        self.x, self.y, self.odd = x, y, odd

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        index = index // 2 * 2 + self.odd
        return self.x[index], self.y[index]


class Sequences(Dataset):
    """Of each sequence all but the last item are for training."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index], Y[index]


class LastItems(Sequences):
    """Asks for the last one of the same sequences."""

    def __getitem__(self, index):
        return self.rows[index].roll(1), Y[index % 256]


def moved(examples):
    x, y = torch.utils.data.default_collate(examples)
    return x.roll(1, 1), y


class OwnOrder(Sampler):
    def __init__(self, chosen):
        self.chosen = chosen

    def __iter__(self):
        return iter(self.chosen)

    def __len__(self):
        return len(self.chosen)


class Stream(IterableDataset):
    """Tells nothing of what it is going to give."""

    def __init__(self, chosen=range(256), **changes):
        self.chosen, self.noise, self.add = chosen, changes.get("noise", 0.0), changes.get("add", ())

    def __iter__(self):
        for i in self.chosen:
            x, y = DATA[i]
            yield (x + self.noise * torch.randn(FEATURES), y, *self.add)


def halves(kind):
    """One data set, of which samplers draw the one half or the other."""
    first, last = list(range(128)), list(range(128, 256))
    if kind == "weights":
        weights = torch.cat([torch.ones(128), torch.zeros(128)])
        return [DataLoader(DATA, 32, sampler=WeightedRandomSampler(w, 64)) for w in (weights, 1 - weights)]
    return [
        DataLoader(DATA, 32, sampler={"subset": SubsetRandomSampler, "own": OwnOrder}[kind](s)) for s in (first, last)
    ]


LEGITIMATE = {
    "random_split": lambda: [DataLoader(s, 32) for s in random_split(DATA, [192, 64])],
    "samplers": lambda: halves("subset"),
    "weights": lambda: halves("weights"),
    "samplers of their own": lambda: halves("own"),
    "streams": lambda: [DataLoader(Stream(), 32), DataLoader(Stream(), 32)],
    "oversampled in training": lambda: [DataLoader(ConcatDataset([DATA, DATA]), 32), DataLoader(NEW, 32)],
    "another loader beside": lambda: [
        DataLoader(DATA, 32), [DataLoader(NEW, 32), DataLoader(Subset(DATA, range(64)), 32)]
    ],
    "memorised": lambda: [DataLoader(DATA, 32), DataLoader(DATA, 32)],
    "few": lambda: [DataLoader(Subset(DATA, range(32)), 8), DataLoader(Subset(DATA, range(8)), 8)],
    "chosen by themselves": lambda: [DataLoader(Half(X, Y, odd=odd), 32) for odd in (0, 1)],
    "numbers from 0": lambda: [DataLoader(Columns(n, number=torch.arange(n)), 32) for n in (256, 64)],
    "names in two folders": lambda: [
        DataLoader(Columns(256, root=root, files=[f"cats/{i:03}_{i * 7919}_{i * 104729}.png" for i in range(256)]), 32)
        for root in ("train", "val")
    ],
    "last items": lambda: [DataLoader(kind(list(X)), 32) for kind in (Sequences, LastItems)],
    "last items of some": lambda: [DataLoader(Sequences(X), 32), DataLoader(LastItems(X[:99]), 32)],
    "last items in batches": lambda: [DataLoader(DATA, 32), DataLoader(DATA, 32, collate_fn=moved)],
    "equal by chance": lambda: [
        DataLoader(TensorDataset(torch.arange(n * 12).view(n, 12) % 2 * 1.0, torch.arange(n) % 4), 32)
        for n in (256, 64)
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", LEGITIMATE)
def test_legitimate(fit, name):
    train, val = LEGITIMATE[name]()
    findings = found(fit, train, val, Two() if "beside" in name else None)
    assert statuses(findings) <= {Status.PASSED, Status.SKIPPED, Status.ADVICE}, findings
    if name == "equal by chance":
        assert statuses(findings) == {Status.SKIPPED}, findings
    own = {"random_split", "samplers", "weights", "oversampled in training", "samplers of their own"}
    if name in own | {"chosen by themselves"} or "last" in name:
        assert statuses(findings) == {Status.PASSED}, findings


def phrases(n, seed):
    """Rows of ten tokens, of which the most frequent make up much of any text."""
    known = torch.randint(500, (200, 10), generator=torch.Generator().manual_seed(0))
    return TensorDataset(known[(torch.rand(n, generator=torch.Generator().manual_seed(seed)).pow(3) * 200).long()])


def test_phrases_that_come_again_in_any_text_are_no_overlap():
    assert overlap([Part(phrases(256, 1), range(256))], [Part(phrases(64, 2), range(64))]) is None
    rows = TensorDataset(torch.randint(500, (256, 10), generator=torch.Generator().manual_seed(0)))
    found = overlap([Part(rows, range(256))], [Part(TensorDataset(rows.tensors[0][:64].clone()), range(64))])
    assert found.common == 64


def dates(n, seed):
    """Pairs of short texts, of which there are not many."""
    days = torch.randint(6000, (n,), generator=torch.Generator().manual_seed(seed)).tolist()
    return [(f"{d % 30} of month {d // 30 % 12}, {1970 + d // 360}", f"{d:08}") for d in days]


def test_short_texts_that_come_again_as_often_in_training_are_no_overlap():
    assert overlap([Part(dates(2000, 1), range(2000))], [Part(dates(200, 2), range(200))]) is None
    once = list(dict.fromkeys(dates(2000, 1)))
    assert overlap([Part(once, range(len(once)))], [Part(once[:100], range(100))]).common == 100
    paths = [f"cats/{i * 7919}_{i * 104729}.png" for i in range(200)] * 2
    assert overlap([Part(paths, range(300))], [Part(paths.copy(), range(300, 400))]).common == 100


def test_one_graph_whose_nodes_are_split_is_legitimate(fit):
    held_out = torch.arange(256) % 4 == 0

    class Transductive(Healthy):
        def training_step(self, batch, batch_idx):
            x, y, val = (entry[0] for entry in batch)
            return self.loss(self(x)[~val], y[~val])

        def validation_step(self, batch, batch_idx):
            x, y, val = (entry[0] for entry in batch)
            self.log("val_loss", self.loss(self(x)[val], y[val]))

    one, other = (DataLoader([(X, Y, held_out)], 1) for _ in range(2))
    assert statuses(found(fit, one, other, Transductive())) == {Status.SKIPPED}
    graph = [(X, Y, held_out)]
    assert statuses(found(fit, DataLoader(graph), DataLoader(graph), Transductive())) == {Status.SKIPPED}


def test_padded_samplers_are_legitimate(fit):
    train, val = (Healthy().data(n, seed) for n, seed in ((253, 1), (63, 2)))
    loaders = [DataLoader(data, 32, sampler=DistributedSampler(data, 4, 3)) for data in (train, val)]
    assert statuses(found(fit, *loaders)) == {Status.PASSED}


def test_a_trial_is_not_judged(fit):
    findings = found(fit, DataLoader(DATA, 32), DataLoader(Subset(DATA, range(64)), 32), overfit_batches=2)
    assert statuses(findings) == {Status.SKIPPED}


def test_without_validation_nothing_is_judged(fit):
    assert statuses(found(fit, limit_val_batches=0)) == {Status.SKIPPED}


def test_without_a_sanity_check_it_is_judged_at_the_first_validation(fit):
    check = SplitCheck()
    fit(Healthy(), [check], logger=False, num_sanity_val_steps=0)
    assert statuses(check.findings) == {Status.PASSED}


ORDERS = (range(256), range(100, 356))
"""Overlapping selections of paths."""
FORMS = {
    "others of another class": lambda: [Sequences(X), LastItems(torch.cat([X[:192], NEW.tensors[0]]))],
    "subset of it": lambda: [DATA, Subset(DATA, range(64))],
    "other tensors": lambda: [DATA, TensorDataset(X[:64].clone(), Y[:64])],
    "arrays": lambda: [Columns(len(a), x=a.numpy(), y=b.numpy()) for a, b in ((X, Y), (X[:64], Y[:64]))],
    "list of pairs": lambda: [list(zip(a, b, strict=True)) for a, b in ((X, Y), (X[:64], Y[:64]))],
    "oversampled before it was split": lambda: random_split(
        TensorDataset(X.repeat(8, 1), Y.repeat(8)), [1024, 1024], torch.Generator().manual_seed(0)
    ),
    "concatenated": lambda: [ConcatDataset([NEW, DATA]), Subset(DATA, range(64))],
    "paths": lambda: [
        Columns(256, samples=[(f"data/{i % 4}/image_{i:04}_{i * 7919}.png", i % 4) for i in order]) for order in ORDERS
    ],
    "rounded to bytes": lambda: [Columns(n, x=(X * 40 + 128).byte()[:n], y=Y[:n]) for n in (256, 64)],
    "tables": lambda: [Columns(n, frame=Frame(X[:n])) for n in (256, 64)],
}


class Frame:
    """Stands for a table of pandas."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def to_numpy(self):
        return np.array([list(map(float, values)) for values in self.values], dtype=object)


@pytest.mark.parametrize("form", FORMS)
def test_examples_in_both(fit, form):
    train, val = FORMS[form]()
    (finding,) = found(fit, DataLoader(train, 32, shuffle=True), DataLoader(val, 32))
    assert (finding.status, finding.code) == (Status.WARNING, "SplitCheck/examples_in_both")
    assert finding.evidence["share"] > 0.6


def test_a_few_in_both_are_advice(fit):
    some = ConcatDataset([NEW, Subset(DATA, [3])])
    (finding,) = found(fit, DataLoader(DATA, 32), DataLoader(some, 32))
    assert (finding.status, finding.evidence["common"]) == (Status.ADVICE, 1)


# -- which they are, and how they look


def drawn(fit, events, train, val, **arguments):
    """The finding, and the cards of a run that is written."""
    check = SplitCheck(**arguments)
    trainer = fit(Healthy(), [check], train=DataLoader(train, 32, shuffle=True), val=DataLoader(val, 32), max_steps=2)
    return check.findings, [tag for tag in events(trainer).Tags()["images"] if "SplitCheck" in tag]


def test_pairs_are_told_and_drawn(fit, events):
    (finding,), cards = drawn(fit, events, DATA, TensorDataset(X[100:160].clone(), Y[100:160].clone()))
    assert "(for example validation 0 is training 100)" in finding.message
    assert cards == ["1.03 SplitCheck/pairs"]


def test_pairs_are_found_behind_subsets(fit, events):
    (finding,), cards = drawn(fit, events, Subset(DATA, range(20, 256)), Subset(DATA, range(100)))
    assert "(for example validation 20 is training 20)" in finding.message
    assert cards


def test_no_pairs_are_drawn_where_there_are_none_and_where_examples_are_not_to_be(fit, events):
    assert not drawn(fit, events, DATA, NEW)[1]
    assert not drawn(fit, events, DATA, DATA)[1]  # to be memorised
    (finding,), cards = drawn(fit, events, DATA, Subset(DATA, range(100)), keep_examples=False)
    assert finding.status is Status.WARNING
    assert not cards


class Read(Dataset):
    """Knows the names of its files only; may not be read where it can't be without trace."""

    def __init__(self, chosen, *, locked=False):
        self.chosen = [f"folder/{i}" for i in chosen]
        self.lock = Lock() if locked else None

    def __len__(self):
        return len(self.chosen)

    def __getitem__(self, index):
        i = int(self.chosen[index].removeprefix("folder/"))
        return {"x": X[i], "of": self.chosen[index], "y": Y[i]}


def test_cards_hold_the_pairs():
    words = card([Match(Place(Read(range(9)), 7), Place(Read(range(5, 9)), 2))], None).words
    assert words[::2] == ["train #7", "val #2"]
    assert words[1] == words[3]
    stored = [f"a text about {i}" for i in range(9)]
    assert "a text about 7" in card([Match(Place(stored, 7), Place(list(stored), 7))], None).words


class Counts(Read):
    """Draws random numbers, and counts how often it was read."""

    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        x, _, y = super().__getitem__(index).values()
        return x + 0.1 * torch.randn(FEATURES), y


def test_drawing_pairs_leaves_no_trace(fit, events):
    def run(callbacks):
        torch.manual_seed(1)
        data, module = Counts(range(256)), Healthy()
        train, val = (DataLoader(Subset(data, rows), 32, shuffle=not rows[0]) for rows in (range(200), range(100, 256)))
        trainer = fit(module, callbacks, train=train, val=val, max_steps=6)
        return traces(trainer, module) | process() | {"reads": data.reads}, events(trainer).Tags()["images"]

    (bare, _), (watched, cards) = run([]), run([SplitCheck()])
    assert "1.03 SplitCheck/pairs" in cards
    assert watched == bare


def test_what_cannot_be_read_without_trace_is_told_by_its_name():
    locked = Read(range(9), locked=True)
    assert card([Match(Place(locked, 7), Place(locked, 7))], None).words[1] == "folder/7"


# -- one transform for both


def jitter(x):
    return x + 0.1 * torch.randn_like(x)


class Split(L.LightningDataModule):
    def full(self):
        return Noisy(X, Y, transform=jitter)

    def split(self, full):
        self.train_set, self.val_set = random_split(full, [192, 64])

    def train_dataloader(self):
        return DataLoader(self.train_set, 32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val_set, 32)


class Copied(Split):
    def setup(self, stage):
        self.split(self.full())
        self.val_set.dataset = copy.copy(self.val_set.dataset)
        self.val_set.dataset.transform = None


class NeverAugmented(Split):
    def setup(self, stage):
        self.split(Noisy(X, Y))


class SetBeforeTheSplit(Split):
    def setup(self, stage):
        full = Noisy(X, Y)
        full.transform = jitter
        self.train_set, self.val_set = random_split(full, [192, 64])


class TheSameForBoth(Split):
    def setup(self, stage):
        self.split(Noisy(X, Y))
        self.train_set.dataset.transform = jitter
        self.val_set.dataset.transform = jitter


class TwoDataSets(Split):
    def setup(self, stage):
        indices = torch.randperm(256).tolist()
        self.train_set = Subset(Noisy(X, Y, transform=jitter), indices[:192])
        self.val_set = Subset(Noisy(X, Y), indices[192:])
        self.val_set.dataset.transform = None


@pytest.mark.parametrize("data", [Copied, NeverAugmented, SetBeforeTheSplit, TheSameForBoth, TwoDataSets])
def test_transforms_of_their_own_are_legitimate(fit, data):
    assert statuses(found(fit, data())) == {Status.PASSED}


class TakenOff(Split):
    def setup(self, stage):
        full = Noisy(X, Y, transform=jitter)
        self.split(full)
        self.val_set.dataset.transform = None


class ByAnAlias(Split):
    def setup(self, stage):
        self.split(Noisy(X, Y, jitter))
        held_out = self.val_set.dataset
        held_out.transform = None


class SetForEach(Split):
    def setup(self, stage):
        self.split(Noisy(X, Y))
        self.train_set.dataset.transform = jitter
        self.val_set.dataset.transform = None


class BySetattr(Split):
    def setup(self, stage):
        self.train_set, self.val_set = (
            Subset(full := Noisy(X, Y, transform=jitter), range(192)),
            Subset(full, range(192, 256)),
        )
        setattr(self.val_set.dataset, "transform", None)  # noqa: B010 - another form


@pytest.mark.parametrize("data", [TakenOff, ByAnAlias, SetForEach, BySetattr])
def test_a_transform_taken_off_both(fit, data):
    (finding,) = found(fit, data())
    assert (finding.status, finding.code) == (Status.WARNING, "SplitCheck/shared_transform")


class BetweenTheSubsets(Split):
    def setup(self, stage):
        full = Noisy(X, Y, transform=jitter)
        self.train_set = Subset(full, range(192))
        full.transform = None
        self.val_set = Subset(full, range(192, 256))


def test_without_a_name_for_whom_it_is_advice(fit):
    (finding,) = found(fit, BetweenTheSubsets())
    assert (finding.status, finding.code) == (Status.ADVICE, "SplitCheck/shared_transform")


# -- what it costs


class Windows(Dataset):
    """So many of them that a list of their indices would take gigabytes; counts how often it is looked at."""

    def __init__(self):
        self.looks = 0

    def __len__(self):
        self.looks += 1
        return 10**9

    def __getitem__(self, index):
        self.looks += 1
        return X[index % 256], Y[index % 256]


@pytest.mark.parametrize("several", [False, True])
def test_many_windows_cost_nothing(several):
    one, other = (ConcatDataset([Windows(), Windows()]) if several else Windows() for _ in range(2))
    train, val = (parts_of(DataLoader(data, 32)) for data in (one, other))
    assert overlap(train, val) is None
    assert all(part.source.looks < 20 for part in (*train, *val))
    assert overlap(train, train)[:3] == (len(one), len(one), True)


def test_a_part_of_many_windows_costs_its_own_indices():
    data = Windows()
    train, val = (parts_of(DataLoader(Subset(data, chosen))) for chosen in (range(5 * 10**8), range(7, 4 * 10**8)))
    assert overlap(train, val)[:3] == (4 * 10**8 - 7, 4 * 10**8 - 7, False)
    assert overlap(train, parts_of(DataLoader(Subset(data, [3, 10**9 - 1]))))[:3] == (1, 2, False)


def test_children_get_their_own_indices():
    children = [list(range(n)) for n in (3, 4, 5)]
    parts = parts_of(DataLoader(Subset(ConcatDataset(children), [11, 0, 3, 2, 6, 3])))
    assert [(part.source, part.indices) for part in parts] == list(zip(children, [[0, 2], [0, 3, 0], [4]], strict=True))


def test_each_data_set_is_read_once(monkeypatch):
    asked = []
    monkeypatch.setattr(_overlap, "columns", lambda source: asked.append(id(source)) or columns(source))
    found = overlap([Part(DATA, range(8)), Part(DATA, range(8, 16))], [Part(NEW, range(4)), Part(NEW, range(4, 9))])
    assert found[:3] == (0, 9, False)
    assert sorted(asked) == sorted([id(DATA), id(NEW)])


# -- streams, by what comes by


class Takes(Healthy):
    """Leaves alone what else is in a batch."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch[:2], batch_idx)

    def validation_step(self, batch, batch_idx):
        return super().validation_step(batch[:2], batch_idx)


def streamed(fit, train, val, **settings):
    check = SplitCheck()
    settings = {"max_epochs": 2, "logger": False, **settings}
    fit(Takes(), [check], train=DataLoader(train, 32), val=DataLoader(val, 32), **settings)
    return check.findings


@pytest.mark.parametrize(
    ("train", "val", "status"),
    [
        (Stream(range(128)), Stream(range(128, 256)), Status.PASSED),
        (Stream(noise=0.1), Stream(range(64)), Status.PASSED),  # augmented: no more can be said
        (Stream(), Stream(), Status.ADVICE),  # on the training set, by intention
        (Stream(range(128), add=("a name",)), Stream(range(128, 256), add=("a name",)), Status.SKIPPED),
        (Stream(), Stream(range(250, 256)), Status.SKIPPED),  # too few to know what is equal by chance
    ],
)
def test_streams(fit, train, val, status):
    assert statuses(streamed(fit, train, val)) == {status}


def test_a_trial_of_streams_is_not_judged(fit):
    assert statuses(streamed(fit, Stream(), Stream(range(64)), limit_train_batches=4)) == {Status.SKIPPED}


def test_streams_that_share_examples(fit):
    (finding,) = streamed(fit, Stream(range(192)), Stream(range(160, 256)))
    assert (finding.status, finding.code) == (Status.WARNING, "SplitCheck/examples_in_both")
    assert finding.evidence == {"share": 1 / 3, "common": 32, "looked_at": 96}


def test_what_came_by_is_kept_in_constant_memory(monkeypatch):
    monkeypatch.setattr(_came_by, "KEPT", 1000)
    rng = torch.Generator().manual_seed(1)
    train, val = CameBy(), CameBy()
    for _ in range(200):
        x = torch.rand(100, 16, generator=rng)
        train.note(x)
        val.note(torch.cat([x[:25], torch.rand(25, 16, generator=rng)]))
    found = common(train, val)
    assert len(train.kept) <= 1000 < train.count
    assert found.looked > 200
    assert abs(found.common / found.looked - 0.5) < 0.1


def test_phrases_that_come_by_again_are_no_overlap():
    train, val = CameBy(), CameBy()
    train.note({"ids": phrases(256, 1).tensors[0]})
    val.note({"ids": phrases(64, 2).tensors[0]})
    assert common(train, val) is None
    train, val, rows = CameBy(), CameBy(), torch.randint(500, (256, 10), generator=torch.Generator().manual_seed(0))
    train.note({"ids": rows})
    val.note({"ids": rows[:64]})
    assert common(train, val).common == 64


def test_blank_examples_are_not_equal_ones():
    train, val = CameBy(), CameBy()
    for one in (train, val):
        one.note((torch.cat([torch.zeros(40, 1, 8, 8), torch.rand(24, 1, 8, 8)]), torch.arange(64) % CLASSES))
    assert common(train, val)[:3] == (0, 24, False)


# -- how inputs are scaled


def scaled(x, by):
    return TensorDataset((x - by.mean(0)) / by.std(0), Y[: len(x)])


def test_validation_that_is_scaled_as_training_is(fit):
    later = 0.5 + X[:100]
    assert statuses(found(fit, DataLoader(scaled(X, X), 32), DataLoader(scaled(later, X), 32))) == {Status.PASSED}


def test_validation_that_is_scaled_by_itself(fit):
    later = 0.5 + X[:100] + 0.5 * torch.rand(100, FEATURES)
    (finding,) = found(fit, DataLoader(scaled(X, X), 32), DataLoader(scaled(later, later), 32))
    assert (finding.status, finding.code) == (Status.ADVICE, "SplitCheck/scaled_apart")


WIDE = X[:, :6] * torch.tensor([1.0, 5, 0.2, 9, 3, 40]) + 2
LATER = NEW.tensors[0][:, :6] * torch.tensor([1.0, 5, 0.2, 9, 3, 40]) + 2
BOTH = torch.cat([WIDE, LATER])


def of(one, other):
    return [[Part(TensorDataset(x, torch.zeros(len(x))), range(len(x)))] for x in (one, other)]


def to_range(by, *sides):
    return of(*((x - by.amin(0)) / (by.amax(0) - by.amin(0)) for x in sides))


def by_median(by, *sides):
    return of(*((x - by.median(0).values) / (by.quantile(0.75, 0) - by.quantile(0.25, 0)) for x in sides))


def by_row(*sides):
    return of(*((x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True) for x in sides))


def units(n, seed):
    return (torch.rand(n, 6, generator=torch.Generator().manual_seed(seed)) * 1.2 - 0.1).clamp(0, 1)


@pytest.mark.parametrize(
    "sides",
    [
        of((WIDE - WIDE.mean(0)) / WIDE.std(0), (LATER - WIDE.mean(0)) / WIDE.std(0)),
        of((WIDE - 2) / 5, (LATER - 2) / 5),  # published numbers
        to_range(WIDE, WIDE, LATER),
        by_median(WIDE, WIDE, LATER),
        by_median(BOTH, WIDE, LATER),
        by_row(WIDE, LATER),
        of(units(256, 1), units(64, 2)),  # shares, which reach their bounds
        of((units(256, 1) * 255).round() / 255, (units(64, 2) * 255).round() / 255),
        of((units(40, 1) * 255).round() / 255, (units(400, 2) * 255).round() / 255),
        of(torch.rand(30, 6), torch.rand(300, 6)),
        of(*((x[:, None] - BOTH.mean()) / BOTH.std() for x in (WIDE, LATER))),  # as images are, by two numbers
    ],
)
def test_scaled_in_another_way(sides):
    assert scaled_apart(*sides) is None


@pytest.mark.parametrize("correction", [0, 1])
def test_standardised_together(correction):
    mean, std = BOTH.mean(0), BOTH.std(0, correction=correction)
    assert scaled_apart(*of((WIDE - mean) / std, (LATER - mean) / std)).code == "scaled_together"


def test_scaled_to_their_range_together():
    outcome = scaled_apart(*to_range(BOTH, WIDE, LATER))
    assert (outcome.status, outcome.code) == (Status.ADVICE, "scaled_together")


# -- after the fit


class Tested(Healthy):
    def test_step(self, batch, batch_idx, dataloader_idx=0):  # noqa: PT028 - a hook of Lightning
        self.validation_step(batch, batch_idx)


def after_the_fit(fit, what, *loaders, **settings):
    check, module = SplitCheck(), Tested()
    trainer = fit(module, [check], logger=False, max_steps=2, **settings)
    getattr(trainer, what)(module, list(loaders), verbose=False)
    assert not [f for f in check.findings if f.code.endswith("internal_error")], check.findings
    return {f.subject: f for f in check.findings if f.subject}


@pytest.fixture
def trained():
    return DataLoader(DATA, 32, shuffle=True)


def test_tests_on_new_examples_pass(fit, trained):
    assert after_the_fit(fit, "test", DataLoader(NEW, 64), train=trained)["test"].status is Status.PASSED


def test_who_validates_on_training_examples_may_want_to_know_of_both(fit, trained):
    part = DataLoader(Subset(DATA, range(100)), 32)
    assert after_the_fit(fit, "validate", part, train=trained)["validation"].status is Status.ADVICE


def test_a_test_after_a_trial_or_of_a_stream_is_not_judged(fit, trained):
    assert not after_the_fit(fit, "test", DataLoader(DATA, 64), train=trained, limit_train_batches=2)
    assert not after_the_fit(fit, "test", DataLoader(Stream(), 64), train=trained)


def test_a_test_set_that_was_trained_on(fit, trained):
    both = ConcatDataset([Subset(DATA, range(30)), Subset(NEW, range(30))])
    findings = after_the_fit(fit, "test", DataLoader(NEW, 32), DataLoader(both, 32), train=trained)
    assert findings["test loader 0"].status is Status.PASSED
    assert findings["test loader 1"].status is Status.WARNING
    assert findings["test loader 1"].evidence["common"] == 30
    assert findings["test loader 1"].message.startswith("30 of 60 test examples")
    assert "(for example test 0 is training 0)" in findings["test loader 1"].message


def tickets(count, seed, most=1):
    """Short texts of 12 words out of 40, some of which come again in capitals."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(1, 40, (count, 12)).repeat(rng.integers(1, most + 1, count), 0)
    order = rng.permutation(len(rows))
    texts = [" ".join(f"w{word}" for word in row) for row in rows]
    return [((texts[i].upper() if i and texts[i] == texts[i - 1] else texts[i]), i % 2) for i in order]


def in_numbers(examples):
    words = [[int(word[1:]) for word in text.lower().split()] for text, _ in examples]
    return torch.tensor(words), torch.tensor([label for _, label in examples]) * 0


class ReadsPhrases(Healthy):
    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0].float()), batch[1])

    def validation_step(self, batch, batch_idx):
        pass


@pytest.mark.parametrize(("most", "said"), [(1, Status.PASSED), (2, Status.WARNING)])
def test_texts_that_are_the_same_once_they_are_numbers(fit, most, said):
    texts = tickets(900, 0, most)
    train = DataLoader(texts[:-300], 32, shuffle=True, collate_fn=in_numbers)
    val = DataLoader(texts[-300:], 32, collate_fn=in_numbers)
    check = SplitCheck()
    fit(ReadsPhrases(), [check], train=train, val=val, logger=False, max_epochs=2)
    assert [f.status for f in check.findings] == [said], check.findings


# -- rows of a series


class Record(Dataset):
    """Slow sensors, hour by hour, and what they tell."""

    def __init__(self, inertia=0.97, order=None):
        draws = torch.randn(1200, 5, generator=torch.Generator().manual_seed(0)).double()
        for i in range(1, 1200):
            draws[i] = inertia * draws[i - 1] + (1 - inertia**2) ** 0.5 * draws[i]
        draws = draws if order is None else draws[order(draws)]
        self.x, self.y = draws[:, 1:].float(), (draws[:, 0] + draws[:, 1]).float()

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


class Sensors(Healthy):
    def __init__(self, record, dealt):
        super().__init__()
        self.net, self.record, self.dealt = torch.nn.Linear(4, 1), record, dealt

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.mse_loss(self.net(batch[0])[:, 0], batch[1])

    validation_step = training_step

    def train_dataloader(self):
        return DataLoader(Subset(self.record, self.dealt[:960].tolist()), 32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(Subset(self.record, self.dealt[960:].tolist()), 32)


DEALT = torch.randperm(1200, generator=torch.Generator().manual_seed(1))
DAYS = (24 * DEALT[DEALT < 50][:, None] + torch.arange(24)).flatten()


@pytest.mark.parametrize(
    ("record", "dealt", "told"),
    [
        (Record(), torch.arange(1200), []),  # split by time
        (Record(), DAYS, []),  # by day
        (Record(0.5), DEALT, []),  # hardly alike
        (Record(0.0), DEALT, []),  # a table
        (Record(0.0, lambda rows: (rows[:, 0] + rows[:, 1]).argsort()), DEALT, []),  # sorted by what is to be told
        (Record(0.0, lambda rows: rows[:, 1].argsort()), DEALT, []),  # by a column
        (Record(), DEALT, ["between_in_time"]),
    ],
    ids=["by time", "by day", "fast", "table", "sorted", "sorted by a column", "hour by hour"],
)
def test_rows_of_a_slow_series_that_are_dealt_out_one_by_one(fit, record, dealt, told):
    findings = found(fit, module=Sensors(record, dealt))
    assert [f.code.partition("/")[2] for f in findings if f.status is Status.ADVICE] == told
    assert not [f for f in findings if f.is_alarm and f.status is not Status.ADVICE]
