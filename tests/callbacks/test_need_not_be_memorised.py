"""What need not be able to memorise a batch: usual networks first, then other gradients, and state that goes on."""

import pytest
import torch
from patients import CLASSES, Healthy
from torch import nn
from torch.nn import functional as F

from lightning_recipe import OverfitOneBatch, Status
from lightning_recipe.callback import Check
from lightning_recipe.callbacks._carried import goes_on
from lightning_recipe.callbacks._other_gradient import has_other_gradient
from lightning_recipe.finding import Section
from lightning_recipe.record.step import Need


class Asks(Check):
    section, why, needs = Section.SKELETON, "", Need(0)

    def before_training(self, run):
        self.answers = has_other_gradient(run, run.batch), goes_on(run, run.batch)
        yield from ()


class Recurrent(Healthy):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(1, 16, batch_first=True), nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head(self.rnn(x[..., None])[0][:, -1])


class GoesOn(Recurrent):
    """From the state that the batch before left."""

    state = None

    def forward(self, x):
        if self.state is not None and self.state.shape[1] != len(x):
            self.state = None
        h, state = self.rnn(x[..., None], self.state)
        self.state = state.detach()
        return self.head(h.mean(1))


class Counts(Healthy):
    """Anneals by a count of its own, and keeps what it put out."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.outputs = []

    def training_step(self, batch, batch_idx):
        self.count += 1
        out = self(batch[0])
        self.outputs.append(out.detach())
        return self.loss(out, batch[1]) + 1e-3 * self.count * out.square().mean()


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


@pytest.mark.parametrize(
    ("module", "answers"),
    [
        *((module, (False, False)) for module in (Healthy, Draws, Recurrent, Counts)),
        *((module, (True, False)) for module in (Adversary, StraightThrough)),
        (GoesOn, (False, True)),
    ],
)
def test_whether_the_gradient_is_another_and_the_step_goes_on(fit, module, answers):
    check = Asks()
    fit(module(), [check], logger=False, max_steps=1)
    assert check.answers == answers


@pytest.mark.parametrize(("module", "code"), [(Adversary, "other_gradient"), (GoesOn, "goes_on")])
def test_what_need_not_be_memorised(fit, module, code):
    check = OverfitOneBatch(max_steps=150)
    fit(module(), [check], logger=False, max_steps=1)
    (finding,) = check.findings
    assert (finding.status, finding.code) == (Status.SKIPPED, f"OverfitOneBatch/{code}")
