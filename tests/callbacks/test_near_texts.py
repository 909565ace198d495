"""Texts that were changed a little before they were split; what legitimate texts have in common first."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_recipe import SplitCheck, Status
from lightning_recipe.callbacks._near_texts import near_texts
from lightning_recipe.trial.stored import Part

RNG = np.random.default_rng(0)
WORDS = 400


class Data:
    """Texts, as rows of numbers."""

    def __init__(self, texts):
        self.texts = np.asarray(texts)

    def __len__(self):
        return len(self.texts)


def sentences(n=600, length=24):
    """A few words are most of a text, as in a language."""
    return np.minimum(RNG.zipf(1.3, (n, length)), WORDS)


def changed(texts, words=2):
    other, places = texts.copy(), RNG.integers(texts.shape[1], size=(len(texts), words))
    other[np.arange(len(texts))[:, None], places] = RNG.integers(1, WORDS, (len(texts), words))
    return other


def series(n=3000):
    return np.minimum(RNG.zipf(1.3, n), WORDS)


def split(texts, share=0.8):
    data, order, count = Data(texts), RNG.permutation(len(texts)), int(share * len(texts))
    return [Part(data, order[:count])], [Part(data, order[count:])]


def two(train, val):
    return [Part(Data(train), range(len(train)))], [Part(Data(val), range(len(val)))]


def shifted(texts):
    """What users did, and one thing more: the next one is asked for."""
    return two(texts[:, :-1], texts[:, 1:])


def questions(n=400):
    """Several about one passage, in the same words."""
    passages = sentences(n // 4, 40).repeat(4, 0)
    return np.concatenate([passages, sentences(n, 8)], 1)


def grammar(n=600):
    """Few rules, by which each text is made."""
    words = RNG.integers(1, 50, (n, 24))
    for t in range(1, 24):
        follows = RNG.random(n) < 0.9
        words[:, t] = np.where(follows, (2 * words[:, t - 1] + 1) % 50, words[:, t])
    return words


def templates(n=600):
    """One form, filled in."""
    form = np.arange(100, 120)
    return np.concatenate([np.tile(form, (n, 1)), sentences(n, 8)], 1)[:, RNG.permutation(28)]


def few_copies(n=600):
    texts = sentences(n)
    texts[::10] = changed(texts[1::10])
    return texts


def histories(n=600):
    """What came by then, and what has come since."""
    texts = sentences(n)
    return two(np.pad(texts[:, :20], ((0, 0), (0, 4))), texts)


def copies_within_training():
    texts = sentences()
    return two(np.concatenate([texts[:400], changed(texts[:400])]), texts[400:])


LEGITIMATE = {
    "a language": lambda: split(sentences()),
    "one thing more": lambda: shifted(sentences()),
    "a longer history": histories,
    "windows of a series": lambda: split(np.lib.stride_tricks.sliding_window_view(series(), 24)),
    "several questions": lambda: split(questions()),
    "a grammar": lambda: split(grammar()),
    "templates": lambda: split(templates()),
    "few copies, as in the web": lambda: split(few_copies()),
    "copies within training": copies_within_training,
    "short": lambda: split(np.concatenate([sentences(300, 6), changed(sentences(300, 6), 1)])),
}


@pytest.mark.parametrize("name", LEGITIMATE)
def test_nothing_is_said_against(name):
    assert near_texts(*LEGITIMATE[name]()) is None


@pytest.mark.parametrize("length", [16, 24, 120])
@pytest.mark.parametrize("copies", [1, 3])
def test_texts_with_a_few_other_words(length, copies):
    texts = sentences(300, length)
    outcome = near_texts(*split(np.concatenate([texts, *(changed(texts) for _ in range(copies))])))
    assert (outcome.status, outcome.code) == (Status.WARNING, "near_copies")
    assert outcome.evidence["share"] > 0.4
    assert len(outcome.matches) == 3
    assert all((match.train.index - match.val.index) % 300 == 0 for match in outcome.matches)


def test_padded_texts_of_which_a_word_was_left_out():
    texts = sentences(300)
    texts[np.arange(24) >= RNG.integers(14, 24, (300, 1))] = 0
    shorter = np.stack([np.append(np.delete(text, RNG.integers(3, 10)), 0) for text in texts])
    assert near_texts(*split(np.concatenate([texts, shorter]))).evidence["share"] > 0.5


class Texts(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(WORDS + 1, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.out(self.words(x).mean(1))


def test_a_fit_is_warned(fit):
    import lightning.pytorch as L  # noqa: PLC0415

    class Program(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Texts()

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch, batch_idx):
            self.log("val", self.training_step(batch, batch_idx))

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    texts = sentences(200)
    texts = torch.tensor(np.concatenate([texts, changed(texts), changed(texts)]))
    data = TensorDataset(texts, torch.arange(600) % 200 % 2)
    order, check = torch.randperm(600).tolist(), SplitCheck()
    loaders = [DataLoader(Subset(data, part), 50) for part in (order[:450], order[450:])]
    fit(Program(), [check], train=loaders[0], val=loaders[1], max_epochs=2, logger=False)
    assert [finding.code for finding in check.findings] == ["SplitCheck/near_copies"]
