"""Embeddings that are frozen for a reason, and words that something else tells apart, first."""

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe import GradientFlowCheck, Status
from lightning_recipe.callbacks._same_rows import shared_row

WORDS, LONG, DIM = 80, 6, 5
RNG = torch.Generator().manual_seed(0)
VECTORS = torch.randn(WORDS, DIM, generator=RNG)
UNKNOWN = torch.arange(WORDS) % 2 == 1

ATTRIBUTES = (torch.arange(WORDS)[:, None] // 2 ** torch.arange(DIM) // 4 % 2).float()


def vectors(row=0.0, which=UNKNOWN):
    return torch.where(which[:, None], torch.full_like(VECTORS, row), VECTORS)


def frozen(table, **settings):
    return nn.Embedding.from_pretrained(table, **settings)


class Words(L.LightningModule):
    """Says of each sentence whether its first word is one of the first half."""

    def __init__(self, words, lowest=0, highest=WORDS):
        super().__init__()
        self.words, self.head = words, nn.Linear(DIM, 2)
        rng = torch.Generator().manual_seed(1)
        self.ids = torch.randint(lowest, highest, (64, LONG), generator=rng)

    def embedded(self, ids):
        return self.words(ids).mean(1)

    def training_step(self, batch, batch_idx):
        ids, y = batch
        return F.cross_entropy(self.head(self.embedded(ids)), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)

    def train_dataloader(self):
        return DataLoader(TensorDataset(self.ids, (self.ids[:, 0] < WORDS // 2).long()), 16)


def found(fit, module):
    check = GradientFlowCheck()
    fit(module, [check], logger=False, max_epochs=8)
    assert not any("internal error" in f.message for f in check.findings)
    return [(f.status, f.subject) for f in check.findings if f.code.endswith("/ids_share_a_row")]


class Beside(Words):
    """The letters of each word are known, too."""

    def __init__(self):
        super().__init__(frozen(vectors()))
        self.letters = nn.Embedding(9, DIM)

    def embedded(self, ids):
        letters = torch.stack([ids // 9, ids % 9], 2)
        return self.words(ids).mean(1) + self.letters(letters).mean((1, 2))


class TwoChannels(Words):
    """As Y. Kim's: one embedding stays, the other one learns."""

    def __init__(self):
        super().__init__(frozen(vectors()))
        self.learnt = nn.Embedding(WORDS, DIM)

    def embedded(self, ids):
        return self.words(ids).mean(1) + self.learnt(ids).mean(1)


class Padded(Words):
    """Most of what is looked up is padding; words without a vector are few."""

    def __init__(self, **settings):
        super().__init__(frozen(vectors(which=torch.arange(WORDS) < 9), **settings), lowest=5)
        lengths = torch.arange(64) % 5 + 1
        self.ids[torch.arange(LONG) >= lengths[:, None]] = 0


class Unfrozen(Words):
    def __init__(self):
        super().__init__(frozen(vectors()))

    def on_train_epoch_start(self):
        self.words.weight.requires_grad = self.current_epoch > 0


HEALTHY = {
    "all have a vector": lambda: Words(frozen(VECTORS)),
    "random features": lambda: Words(frozen(torch.rand(WORDS, DIM))),
    "zeros that are trained": lambda: Words(frozen(vectors(), freeze=False)),
    "all zeros, trained": lambda: Words(frozen(0 * VECTORS, freeze=False)),
    "switched off": lambda: Words(frozen(0 * VECTORS)),
    "one for what is unknown": lambda: Words(frozen(vectors(which=torch.arange(WORDS) == 3))),
    "a row that is padding, often": lambda: Padded(padding_idx=0),
    "padding that nobody names": Padded,
    "rows that are never looked up": lambda: Words(frozen(vectors(which=torch.arange(WORDS) > 50)), highest=50),
    "attributes, which half have none of": lambda: Words(frozen(ATTRIBUTES * ~UNKNOWN[:, None])),
    "hashed": lambda: Words(frozen(VECTORS[torch.arange(WORDS) * 7 % 40])),
    "letters": Beside,
    "two channels": TwoChannels,
    "frozen for an epoch": Unfrozen,
}


@pytest.mark.parametrize("name", HEALTHY)
def test_says_nothing_against(fit, name):
    assert not found(fit, HEALTHY[name]())


def test_one_word_for_all_that_is_unknown_does_not_count():
    """As often as all others; it shares its row of zeros with few rare ones."""
    ids = torch.cat([torch.arange(WORDS).repeat(2), torch.full((160,), 1)])
    table = vectors(which=torch.arange(WORDS) < 9)
    assert shared_row(torch.cat([ids, torch.arange(9, WORDS).repeat(4)]), table, torch.zeros(604) > 0) is None
    assert shared_row(ids, table, torch.zeros(320) > 0).share == pytest.approx(16 / 158)


def test_padding_does_not_count():
    ids = torch.cat([torch.arange(WORDS), torch.zeros(900).long()])
    assert shared_row(ids, vectors(), ids == 0).share == pytest.approx(39 / 78)
    assert shared_row(ids, vectors(), ids < 0) is None


class LeftOut(Words):
    """What the optimiser is given is the head."""

    def configure_optimizers(self):
        return torch.optim.Adam(self.head.parameters(), 1e-2)


class Bag(Words):
    def embedded(self, ids):
        return self.words(ids)


class Held(Words):
    """Frozen by hand, in an encoder, beside places that are learnt."""

    def __init__(self):
        super().__init__(None)
        self.encoder = nn.ModuleDict({"words": nn.Embedding(WORDS, DIM), "places": nn.Embedding(LONG, DIM)})
        self.encoder["words"].weight.data = vectors()
        self.encoder["words"].requires_grad_(requires_grad=False)

    def embedded(self, ids):
        places = torch.arange(LONG).expand_as(ids)
        return (self.encoder["words"](ids) * self.encoder["places"](places)).mean(1)


FEW = torch.arange(WORDS) % 6 == 1
DISEASED = {
    "from_pretrained": (lambda: Words(frozen(vectors())), Status.WARNING),
    "one row that is drawn": (lambda: Words(frozen(vectors(0.3))), Status.WARNING),
    "with padding": (lambda: Words(frozen(vectors(), padding_idx=0)), Status.WARNING),
    "left out of the optimiser": (lambda: LeftOut(frozen(vectors(), freeze=False)), Status.WARNING),
    "a bag": (lambda: Bag(nn.EmbeddingBag.from_pretrained(vectors())), Status.WARNING),
    "by hand": (Held, Status.WARNING),
    "few": (lambda: Words(frozen(vectors(which=FEW))), Status.ADVICE),
}


@pytest.mark.parametrize("name", DISEASED)
def test_finds(fit, name):
    module, status = DISEASED[name]
    module = module()
    assert found(fit, module) == [(status, "encoder.words" if isinstance(module, Held) else "words")]
