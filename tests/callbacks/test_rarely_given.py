"""Conditions that are left out now and then, clamped or marked, first; then one that is kept now and then."""

import pytest
import torch
from patients import CLASSES, FEATURES, Healthy
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_recipe import InputIndependenceCheck, Status


class Conditional(Healthy):
    """Frees examples of noise, given their class, which is left out of some: the last row says that there is none."""

    left_out = 0.1

    def __init__(self):
        super().__init__()
        self.classes = nn.Embedding(CLASSES + 1, 16)
        self.net = nn.Sequential(nn.Linear(FEATURES + 16, 32), nn.ReLU(), nn.Linear(32, FEATURES))

    def train_dataloader(self):
        return DataLoader(self.data(256, 1), 64, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.data(64, 2), 64)

    def given(self, y):
        return y.where(torch.rand(len(y)) >= self.left_out, CLASSES)

    def training_step(self, batch, batch_idx):
        x, y = batch
        noisy = x + torch.randn_like(x)
        return F.mse_loss(self.net(torch.cat([noisy, self.classes(self.given(y))], 1)), x)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))


class HalfLeftOut(Conditional):
    left_out = 0.5


class Clamped(Conditional):
    """Nearly all classes become one."""

    def given(self, y):
        return y.clamp(max=1)


class InOnesPlace(Conditional):
    """What class it is of the others is one: nothing is left of it."""

    def given(self, y):
        return (y == 1).long()


def found(fit, module):
    check = InputIndependenceCheck()
    fit(module, [check], logger=False, max_epochs=4)
    return [(f.status, f.code, f.subject) for f in check.findings if f.code.endswith("/rarely_given")]


@pytest.mark.parametrize("module", [Conditional, HalfLeftOut, Clamped, InOnesPlace])
def test_what_is_left_out_on_purpose(fit, module):
    assert not found(fit, module())


class Exchanged(Conditional):
    def given(self, y):
        return y.where(torch.rand(len(y)) < self.left_out, CLASSES)


def test_a_condition_that_is_kept_where_it_was_to_be_left_out(fit):
    assert found(fit, Exchanged()) == [(Status.ADVICE, "InputIndependenceCheck/rarely_given", "batch[1]")]
