"""Heads whose output is used, or penalised with good reason, first."""

import pytest
import torch
from patients import FEATURES, MeanNotAdded
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from lightning_recipe import InputIndependenceCheck, Status


def found(fit, module):
    check = InputIndependenceCheck()
    fit(module, [check], logger=False, max_epochs=2)
    return [(f.status, f.subject) for f in check.findings if f.code == MeanNotAdded.code]


class Added(MeanNotAdded):
    def drawn(self, mean, log_var):
        return mean + super().drawn(mean, log_var)


class NotYetDecoded(Added):
    """The decoder is drawn so small that the code hardly matters."""

    def __init__(self):
        super().__init__()
        nn.init.normal_(self.net[0].weight, std=1e-6)


class Detached(MeanNotAdded):
    """It is used without a gradient."""

    def drawn(self, mean, log_var):
        return mean.detach() + super().drawn(mean, log_var)


class WithoutWeight(MeanNotAdded):
    """Nothing depends on the mean, which is not penalised either: other heads may be for later."""

    def code_of(self, x):
        mean, log_var = super().code_of(x)
        return 0 * mean, log_var


class Labelled(MeanNotAdded):
    """A head says what is rare, and does not occur in these data."""

    def training_step(self, batch, batch_idx):
        rare, code = self.code_of(batch[0])
        return F.mse_loss(self.net(code), batch[0]) + F.mse_loss(rare[:, 0], batch[1])

    def data(self, n, seed):
        x, _ = super().data(n, seed).tensors
        return TensorDataset(x, torch.zeros(n))


class Critics(MeanNotAdded):
    """Two heads whose output is made small or large, whatever the example is."""

    def training_step(self, batch, batch_idx):
        one, other = self.code_of(batch[0])
        return one.mean() - other.mean() + one.square().mean() + other.square().mean()


class Surest(MeanNotAdded):
    """Logits of a head have an entropy beside the loss."""

    def training_step(self, batch, batch_idx):
        logits, code = self.code_of(batch[0])
        entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
        return F.mse_loss(self.net(code), batch[0]) + F.cross_entropy(logits, batch[1]) - 0.1 * entropy


class Twice(MeanNotAdded):
    """A head is called on several batches."""

    def training_step(self, batch, batch_idx):
        self.mean(self.encoder(batch[0].flip(0)))
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("program", [Added, NotYetDecoded, Detached, WithoutWeight, Labelled, Critics, Surest, Twice])
def test_no_mistake(fit, program):
    assert found(fit, program()) == []


# -- mistakes


class InTrainingOnly(MeanNotAdded):
    """In validation the mean is decoded."""

    def drawn(self, mean, log_var):
        return super().drawn(mean, log_var) if self.training else mean


class Halves(MeanNotAdded):
    """Of one layer."""

    def __init__(self):
        super().__init__()
        self.both = nn.Linear(32, 8)

    def code_of(self, x):
        return self.both(self.encoder(x)).chunk(2, 1)


class Dropping(MeanNotAdded):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(FEATURES, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1))


@pytest.mark.parametrize(
    ("program", "subject"),
    [
        (MeanNotAdded, "mean"),
        (InTrainingOnly, "mean"),
        (Halves, "the first half of both"),
        (Dropping, "mean"),
    ],
)
def test_the_mean_is_not_added(fit, program, subject):
    assert found(fit, program()) == [(Status.ADVICE, subject)]
