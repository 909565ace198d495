"""Two views that are compared: legitimate pairs that are equal, or nearly so, first; then one view for both."""

import copy

import pytest
import torch
from patients import FEATURES, Healthy
from torch import nn
from torch.nn import functional as F

from lightning_recipe import LossInputCheck, Status

CODE = "LossInputCheck/compared_with_itself"


class Views(Healthy):
    """Aligns two views of each example, and keeps all apart."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 8))

    def views(self, x):
        return x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x)

    def aligned(self, a, b):
        return (a - b).square().sum(1).mean()

    def training_step(self, batch, batch_idx):
        first, second = (F.normalize(self(view), dim=1) for view in self.views(batch[0]))
        return self.aligned(first, second) + torch.pdist(first).square().mul(-2).exp().mean().log()

    def validation_step(self, batch, batch_idx):
        pass


class Surrogate(Views):
    """A value of 0 with a gradient."""

    def aligned(self, a, b):
        return ((a - a.detach()).exp() * b.detach()).sum(1).mean()


class StraightThrough(Views):
    def aligned(self, a, b):
        return (a + (a.round() - a).detach() - b).square().mean()


class AmongAll(Views):
    """All are compared with all, themselves included."""

    def aligned(self, a, b):
        return -torch.cdist(a, a).mean() - (a[:, None] - a[None]).square().mean() + (a - b).square().mean()


class Teacher(Views):
    """Begins as a copy of the network."""

    def __init__(self):
        super().__init__()
        self.teacher = copy.deepcopy(self.net).requires_grad_(requires_grad=False)

    def training_step(self, batch, batch_idx):
        return (self.net(batch[0]) - self.teacher(batch[0])).square().mean() + self.net(batch[0]).var(0).sub(
            1
        ).abs().mean()


class OldPolicy(Views):
    """The ratio to what the network said before this step is 1 at first."""

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            old = self(batch[0]).log_softmax(1)
        return -((self(batch[0]).log_softmax(1) - old).exp() * torch.randn(len(old), 1)).mean()


class TwoDropouts(Views):
    """R-Drop: the same examples, dropped twice."""

    def __init__(self):
        super().__init__()
        self.net.append(nn.Dropout(0.2))

    def views(self, x):
        return x, x


class FromZero(Views):
    """The head begins with zeros, and puts out the same for both."""

    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.net[3].weight)


@pytest.fixture
def found(fit):
    def codes(module):
        check = LossInputCheck()
        fit(module, [check], logger=False, max_steps=8)
        assert not [f for f in check.findings if f.code.endswith("internal_error")], check.findings
        return [(f.status, f.code) for f in check.findings if f.status in {Status.WARNING, Status.FAILED}]

    return codes


@pytest.mark.parametrize(
    "program", [Views, Surrogate, StraightThrough, AmongAll, Teacher, OldPolicy, TwoDropouts, FromZero]
)
def test_views_that_differ_or_are_meant_to_be_equal(found, program):
    assert found(program()) == []


class OneView(Views):
    def views(self, x):
        return x, x


class OneViewByFunction(OneView):
    def aligned(self, a, b):
        return F.mse_loss(a, b)


class OneOutput(Views):
    """The second output is never used."""

    def aligned(self, a, b):
        return F.mse_loss(a, a)


class OneViewByCosine(OneView):
    def aligned(self, a, b):
        return -F.cosine_similarity(a, b).mean()


@pytest.mark.parametrize("program", [OneView, OneViewByFunction, OneOutput, OneViewByCosine])
def test_one_view_for_both(found, program):
    assert found(program()) == [(Status.WARNING, CODE)]
