"""Whether a step's gradient is that of its loss: usual networks first, then what is turned around or made up."""

import pytest
import torch
from patients import CLASSES, Healthy
from torch import nn
from torch.nn import functional as F

from lightning_recipe import OverfitOneBatch, Status
from lightning_recipe.callback import Check
from lightning_recipe.callbacks._other_gradient import has_other_gradient
from lightning_recipe.finding import Section
from lightning_recipe.record.step import Need


class Asks(Check):
    section, why, needs = Section.SKELETON, "", Need(0)

    def before_training(self, run):
        self.answer = has_other_gradient(run, run.batch)
        yield from ()


class Recurrent(Healthy):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(1, 16, batch_first=True), nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head(self.rnn(x[..., None])[0][:, -1])


class Draws(Healthy):
    """Noise that is drawn in each step."""

    def forward(self, x):
        return super().forward(x + torch.randn_like(x))


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Adversary(Healthy):
    """Features must not tell whether the first input is positive: the gradient is turned around."""

    def __init__(self):
        super().__init__()
        self.adversary = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

    def training_step(self, batch, batch_idx):
        h = self.net[:3](batch[0])
        told = self.adversary(Reversal.apply(h))[:, 0]
        return self.loss(self.net[3:](h), batch[1]) + F.binary_cross_entropy_with_logits(
            told, (batch[0][:, 0] > 0).float()
        )


class StraightThrough(Healthy):
    """Units that are 0 or 1, with the gradient of a sigmoid."""

    def forward(self, x):
        soft = self.net[:2](x).sigmoid()
        return self.net[4]((soft > 0.5).float() + soft - soft.detach())


@pytest.mark.parametrize("module", [Healthy, Draws, Recurrent])
def test_the_gradient_is_that_of_the_loss(fit, module):
    check = Asks()
    fit(module(), [check], logger=False, max_steps=1)
    assert check.answer is False


@pytest.mark.parametrize("module", [Adversary, StraightThrough])
def test_the_gradient_is_another_one(fit, module):
    check = Asks()
    fit(module(), [check], logger=False, max_steps=1)
    assert check.answer is True


def test_an_adversary_need_not_be_beaten(fit):
    check = OverfitOneBatch(max_steps=150)
    fit(Adversary(), [check], logger=False, max_steps=1)
    (finding,) = check.findings
    assert (finding.status, finding.code) == (Status.SKIPPED, "OverfitOneBatch/other_gradient")
