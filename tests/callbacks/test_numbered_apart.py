"""Codes of training and validation: numbered once, or sorted, or in turns, first; then anew for each side."""

import pytest
import torch
from patients import Healthy
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_recipe import SplitCheck, Status

NAMES = 12


def drawn(n, seed, names=NAMES, columns=2):
    return torch.randint(names, (n, columns), generator=torch.Generator().manual_seed(seed))


def numbered(rows, reserved=0):
    """Codes in the order in which names come, of each column."""
    codes = torch.empty_like(rows)
    for column in range(rows.shape[1]):
        own = {}
        for row, name in enumerate(rows[:, column].tolist()):
            codes[row, column] = own.setdefault(name, len(own) + reserved)
    return codes


def words(rows, known, reserved=1):
    """Of all rows, and padding behind each."""
    codes = torch.tensor([[known.setdefault(w, len(known) + reserved) for w in row] for row in rows.tolist()])
    return torch.cat([codes, torch.zeros(len(codes), 2, dtype=torch.long)], 1)


class Names(Healthy):
    """Embeds what it is given.

    Args:
        train: Codes of shape (N, columns).
        val: Of validation.

    """

    def __init__(self, train, val):
        super().__init__()
        self.embed, self.sides = nn.Embedding(200, 4), (train, val)
        self.head = nn.Linear(4, 2)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.head(self.embed(batch[0]).mean(1)), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def loader(self, side):
        codes = self.sides[side]
        noise = torch.rand(len(codes), generator=torch.Generator().manual_seed(side))
        return DataLoader(TensorDataset(codes, (noise > 0.5).long(), noise), 32, shuffle=not side)

    def train_dataloader(self):
        return self.loader(0)

    def val_dataloader(self):
        return self.loader(1)


def codes(fit, module):
    check = SplitCheck()
    fit(module, [check], logger=False, max_epochs=1)
    return {f.code.partition("/")[2]: f for f in check.findings}


def once():
    both = numbered(torch.cat([drawn(400, 0), drawn(200, 1)]))
    return both[:400], both[400:]


def of_a_dictionary():
    known = {}
    return words(drawn(400, 0, 100, 6), known), words(drawn(200, 1, 100, 6), known)


LEGITIMATE = {
    "numbered once": once,
    "by the alphabet": lambda: (drawn(400, 0), drawn(200, 1)),
    "sorted": lambda: (drawn(400, 0).sort(0).values, drawn(200, 1).sort(0).values),
    "in turns": lambda: tuple(torch.arange(n)[:, None].expand(n, 2) % NAMES for n in (400, 200)),
    "groups in turns": lambda: tuple(torch.arange(n)[:, None].expand(n, 2) // 5 % NAMES for n in (400, 200)),
    "few names": lambda: (numbered(drawn(400, 0, 3)), numbered(drawn(200, 1, 3))),
    "one vocabulary": of_a_dictionary,
    "rows drawn from one table": lambda: (numbered(drawn(400, 0))[torch.randperm(400)], numbered(drawn(200, 1))),
}


@pytest.mark.parametrize("sides", LEGITIMATE)
def test_codes_that_mean_the_same(fit, sides):
    assert "numbered_apart" not in codes(fit, Names(*LEGITIMATE[sides]()))


class OneTable(Names):
    """Both sides are drawn from one data set."""

    def loader(self, side):
        data = super().loader(0).dataset
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(3)).tolist()
        return DataLoader(Subset(data, order[:100] if side else order[100:]), 32)


def test_a_split_of_one_table(fit):
    assert "numbered_apart" not in codes(fit, OneTable(numbered(drawn(400, 0)), None))


@pytest.mark.parametrize(
    "sides",
    [
        lambda: (numbered(drawn(400, 0)), numbered(drawn(200, 1))),
        lambda: (numbered(drawn(400, 0), reserved=1), numbered(drawn(200, 1), reserved=1)),
        lambda: (words(drawn(400, 0, 100, 6), {}), words(drawn(200, 1, 100, 6), {})),
    ],
    ids=["columns", "one number reserved", "vocabularies"],
)
def test_codes_that_are_numbered_anew(fit, sides):
    assert codes(fit, Names(*sides()))["numbered_apart"].status is Status.ADVICE
