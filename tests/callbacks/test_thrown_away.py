"""GradientFlowCheck on functions whose result a step throws away."""

import pytest
import torch
from patients import CLASSES, FEATURES, Healthy
from torch import nn
from torch.nn import functional as F

from lightning_recipe import GradientFlowCheck


def codes(fit, module):
    check = GradientFlowCheck()
    fit(module, [check], limit_val_batches=0, logger=False, max_steps=8)
    return {(finding.code, finding.status.value, finding.subject.partition(" ")[0]) for finding in check.findings}


class Net(Healthy):
    def __init__(self):
        super().__init__()
        self.net = None
        self.body = nn.Sequential(nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.head = nn.Linear(64, CLASSES)

    def between(self, x):
        return x

    def forward(self, x):
        return self.head(self.body(self.between(x)))


class Assigned(Net):
    def between(self, x):
        x = x.clamp(-3, 3)
        F.relu(y := x.clone(), inplace=True)
        y.clamp_(max=2)
        F.dropout(y, 0.1, self.training, True)  # noqa: FBT003
        names = set()
        names.add(x + 1)
        x.mean()
        return x + 0.0 * y


class NeverCalled(Net):
    def between(self, x):
        if len(x) > 10_000:
            x.clamp(-3, 3)
        return x


@pytest.mark.parametrize("module", [Assigned, NeverCalled])
def test_what_is_used_or_done_in_place_passes(fit, module):
    assert codes(fit, module()) == {("GradientFlowCheck/passed", "passed", "")}


class OfTheBatch(Net):
    def between(self, x):
        out = torch.zeros_like(x)
        out.index_add(
            0,
            torch.arange(len(x)),
            x,
        )
        return x + out


class OfALayer(Net):
    def forward(self, x):
        h = self.body(x)
        F.dropout(h, 0.5, training=self.training)
        return self.head(h)


class OnASubmodule(nn.Module):
    def forward(self, x):
        x.masked_fill(x < 0, 0.0)
        return x


class Inside(Net):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(FEATURES, 64), OnASubmodule(), nn.Tanh())


@pytest.mark.parametrize(
    ("module", "name"), [(OfTheBatch, "index_add"), (OfALayer, "dropout"), (Inside, "masked_fill")]
)
def test_what_is_thrown_away(fit, module, name):
    assert codes(fit, module()) == {("GradientFlowCheck/result_thrown_away", "warning", name)}
