"""Pairs of validation that are in training the other way round: legitimate pairs first, then those."""

import pytest
import torch
from patients import SplitByDirection
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_recipe import SplitCheck, Status
from lightning_recipe.callbacks import _reversed
from lightning_recipe.callbacks._pairs import pairs_in
from lightning_recipe.callbacks._reversed import Reversed

CODE = SplitByDirection.code
PEOPLE = 2000


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(n, ids=PEOPLE, seed=0):
    return torch.randint(ids, (n, 2), generator=rng(seed))


def both_directions(pairs):
    rows = torch.cat([pairs, pairs.flip(1)])
    return rows[torch.randperm(len(rows), generator=rng(9))]


def split(pairs, val=0.2):
    held_out = int(val * len(pairs))
    return pairs[held_out:], pairs[:held_out]


def batches(pairs, label=None, size=128):
    for i in range(0, len(pairs), size):
        rows = pairs[i : i + size]
        yield {"pair": rows, "label": torch.ones(len(rows)) if label is None else label[i : i + size]}


def judged(train, val, target="batch.label"):
    """What is said of batches of training and of validation."""
    seen = Reversed()
    for batch in train:
        seen.note("train", batch, 0)
        seen.target = target
    for batch in val:
        seen.note("validation", batch, 5)
    return seen.verdict()


# -- false alarms first


def directed(returned):
    """Relations of which so many are returned."""
    pairs = drawn(2000)
    rows = torch.cat([pairs, pairs[: int(len(pairs) * returned / (2 - returned))].flip(1)])
    return split(rows[torch.randperm(len(rows), generator=rng(1))])


def users_and_items():
    """Two spaces of ids with the same numbers, of which the first are popular in both."""
    u, i = (torch.rand(6000, 2, generator=rng()).pow(2) * torch.tensor([300, 200])).long().unbind(1)
    return split(torch.stack([u, i], 1))


def every_sum():
    """All pairs of numbers below 60, of which half are held out."""
    grid = torch.cartesian_prod(torch.arange(60), torch.arange(60))
    return split(grid[torch.randperm(len(grid), generator=rng())], 0.5)


PAIRS = {
    "directed": lambda: directed(0.0),
    "directed, of which a fifth is returned": lambda: directed(0.2),
    "listed in both directions after the split": lambda: [both_directions(part) for part in split(drawn(2000))],
    "with themselves": lambda: split(torch.arange(900)[:, None].repeat(1, 2)),
    "users and items": users_and_items,
    "random among few": lambda: [drawn(3000, 60, seed) for seed in (1, 2)],
    "in both as they are": lambda: [both_directions(drawn(900)), both_directions(drawn(900))],
    "every sum": every_sum,
    "few": lambda: split(both_directions(drawn(100)), 0.2),
}


@pytest.mark.parametrize("name", PAIRS)
def test_legitimate_pairs(name):
    train, val = PAIRS[name]()
    assert judged(batches(train), batches(val)) is None


def test_the_sum_of_two_is_no_relation():
    train, val = every_sum()
    assert judged(batches(train, train.sum(1) % 59), batches(val, val.sum(1) % 59)) is None


def test_the_other_way_round_is_another_label():
    pairs = both_directions(drawn(1000))
    label = (pairs[:, 0] > pairs[:, 1]).long()
    (train, val), (of_train, of_val) = split(pairs), split(label)
    assert judged(batches(train, of_train), batches(val, of_val)) is None


def test_siamese_pairs_of_other_items():
    def pairs(seed):
        items = torch.rand(60, 16, generator=rng(seed))
        a, b = drawn(600, 60, seed).unbind(1)
        return [{"a": items[a], "b": items[b], "label": (a % 3 == b % 3).long()}]

    assert judged(pairs(1), pairs(2)) is None


@pytest.mark.parametrize(
    "batch",
    [
        (torch.rand(8, 3, 4, 4), torch.arange(8)),
        {"x": torch.rand(8, 2), "y": torch.rand(8)},
        {"x": torch.rand(8, 5), "y": torch.rand(8, 5), "label": torch.arange(8)},
        torch.rand(8, 3),
        {"x": torch.rand(8, 0, 3), "z": torch.rand(8, 2, 3).to(torch.complex64)},
        {"edge_index": torch.zeros(2, 2), "words": ["a", "b"]},
        None,
    ],
)
def test_batches_without_pairs_are_looked_at_no_more(batch):
    seen = Reversed()
    seen.target = "batch.y"
    seen.note("train", batch, 0)
    assert not seen.open
    assert seen.is_complete
    assert seen.verdict() is None


def test_many_entries_are_no_pairs():
    assert pairs_in(list(torch.ones(9, 4).long())) == {}


def test_relations_that_are_mostly_returned_are_advice():
    train, val = directed(0.75)
    outcome = judged(batches(train), batches(val))
    assert outcome.status is Status.ADVICE
    assert 0.5 < outcome.evidence["share"] < 0.7


# -- patients


def items(pairs, *shape):
    """Something of this shape for each id."""
    return torch.rand(PEOPLE, *shape, generator=rng(5))[pairs]


FORMS = {
    "ids": lambda p: p,
    "two ids": lambda p: tuple(p.unbind(1)),
    "two columns": lambda p: {"from": p[:, :1], "to": p[:, 1:]},
    "two kinds of integers": lambda p: {"from": p[:, 0].int(), "to": p[:, 1]},
    "rows of tokens": lambda p: [(17 * one[:, None] + torch.arange(6)) % 9973 for one in p.unbind(1)],
    "images": lambda p: {"left": items(p[:, 0], 3, 4, 4), "right": items(p[:, 1], 3, 4, 4)},
    "images in one": lambda p: items(p, 3, 4, 4),
    "texts": lambda p: {name: [f"text {i}" for i in one] for name, one in zip("ab", p.T.tolist(), strict=True)},
    "edges": lambda p: {"edge_label_index": p.T},
}


@pytest.mark.parametrize("form", FORMS)
def test_pairs_the_other_way_round(form):
    train, val = (
        [{"x": FORMS[form](batch["pair"]), "label": batch["label"]} for batch in batches(part)]
        for part in split(both_directions(drawn(600)))
    )
    outcome = judged(train, val)
    assert (outcome.status, outcome.code) == (Status.WARNING, "pairs_reversed")
    assert outcome.evidence["share"] > 0.7
    assert outcome.evidence["as_they_are"] < 0.02


def test_pairs_whose_label_is_a_number():
    pairs = both_directions(drawn(600))
    (train, val), (of_train, of_val) = split(pairs), split(pairs.prod(1) / 7)
    assert judged(batches(train, of_train), batches(val, of_val)).status is Status.WARNING


def test_pairs_of_one_label_among_random_ones():
    (train, val), random = split(both_directions(drawn(600))), drawn(4000, seed=3)
    train, val = (
        [{"pair": torch.cat([part, other]), "label": torch.arange(len(part) + len(other)) < len(part)}]
        for part, other in ((train, random[:3000]), (val, random[3000:]))
    )
    outcome = judged(train, val)
    assert outcome.status is Status.WARNING
    assert "with one label" in outcome.message


def test_most_of_all_pairs_that_there_are():
    """Of 60 people two thirds of all pairs are listed, each in both directions before the split."""
    pairs = torch.stack(torch.triu_indices(60, 60, 1).unbind(), 1)
    pairs = pairs[torch.randperm(len(pairs), generator=rng())[: len(pairs) * 2 // 3]]
    label = torch.randint(2, (len(pairs),), generator=rng(1))
    order = torch.randperm(2 * len(pairs), generator=rng(2))
    both, labels = torch.cat([pairs, pairs.flip(1)])[order], label.repeat(2)[order]
    cut = len(both) // 5
    found = judged(batches(both[cut:], labels[cut:]), batches(both[:cut], labels[:cut]))
    assert found.status is Status.WARNING
    assert judged(batches(pairs[cut:], label[cut:]), batches(pairs[:cut], label[:cut])) is None


def test_without_a_label():
    train, val = split(both_directions(drawn(600)))
    assert judged(batches(train), batches(val), "").status is Status.WARNING


def test_many_pairs_in_constant_memory(monkeypatch):
    monkeypatch.setattr(_reversed, "KEPT", 500)
    train, val = split(both_directions(drawn(6000)))
    seen = Reversed()
    seen.target = "batch.label"
    for stage, part in (("train", train), ("validation", val)):
        for batch in batches(part):
            seen.note(stage, batch, 0)
    outcome = seen.verdict()
    assert outcome.status is Status.WARNING
    assert outcome.evidence["share"] > 0.7
    assert all(len(kept.rows) <= 500 for of_stage in seen._kept.values() for kept in of_stage.values())


# -- in a run


class Drawn(Dataset):
    """Nothing is stored under a name that tells."""

    def __init__(self, pairs):
        self.pairs = {"all": pairs}

    def __len__(self):
        return len(self.pairs["all"])

    def __getitem__(self, index):
        pair = self.pairs["all"][index]
        return pair, pair.sum() % 4


def run(fit, train, val, **settings):
    check, module = SplitCheck(), SplitByDirection()
    module.people = torch.nn.Embedding(PEOPLE, 12)
    fit(module, [check], train=DataLoader(train, 128), val=DataLoader(val, 128), logger=False, max_epochs=2, **settings)
    return [(f.status, f.code) for f in check.findings]


def stored(pairs):
    return TensorDataset(pairs, pairs.sum(1) % 4)


@pytest.mark.parametrize("kind", [Drawn, stored])
def test_in_a_run(fit, kind):
    one, other = split(drawn(600))
    assert (Status.WARNING, CODE) not in run(fit, kind(both_directions(one)), kind(both_directions(other)))
    train, val = split(both_directions(drawn(600)))
    assert run(fit, kind(train), kind(val)) == [(Status.WARNING, CODE)]


def test_a_trial_is_not_judged(fit):
    train, val = split(both_directions(drawn(600)))
    assert CODE not in [code for _, code in run(fit, Drawn(train), Drawn(val), limit_train_batches=4)]
