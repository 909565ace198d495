"""What is the same for most examples, and may be so, first."""

import pytest
import torch
from patients import CLASSES, FEATURES, PaddingForLast
from torch import nn
from torch.utils.data import TensorDataset

from lightning_recipe import InputIndependenceCheck, Status

PASSED = [(Status.PASSED, "InputIndependenceCheck/passed", "")]


def found(fit, module, **settings):
    check = InputIndependenceCheck()
    fit(module, [check], logger=False, **{"max_epochs": 2, **settings})
    return [(f.status, f.code, f.subject) for f in check.findings]


class Last(PaddingForLast):
    """The last place of each."""

    def forward(self, x, lengths):
        return self.net(self.states(x, lengths)[torch.arange(len(x)), lengths - 1])


class Mean(PaddingForLast):
    def forward(self, x, lengths):
        return self.net(self.states(x, lengths).sum(1) / lengths[:, None])


class AllAsLong(PaddingForLast):
    """But for two: what is picked differs between most."""

    def data(self, n, seed):
        x, _, y = super().data(n, seed).tensors
        return TensorDataset(x, FEATURES - (torch.arange(n) % 16 == 0).long(), y)


class Nothing(Last):
    """Most sequences are empty, but for a place that is the same in all."""

    def data(self, n, seed):
        x, lengths, y = super().data(n, seed).tensors
        empty = (torch.arange(n) % 4 > 0)[:, None, None]
        return TensorDataset(x.masked_fill(empty, 0.0), lengths.masked_fill(empty[:, 0, 0], FEATURES), y)


class Plain(PaddingForLast):
    """No sequence: what enters is cut to the mean of its places."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(1, 16)

    def forward(self, x, lengths):
        return self.net(self.code(x.mean(1)))

    def code(self, x):
        return self.enter(x)


class Off(Plain):
    """Few units, which are off for most examples; and the first of them is taken."""

    def code(self, x):
        return (x - 0.3 + 0 * self.enter(x)).relu()[:, :1].expand(-1, 16) * 1.0


class Taken(Off):
    """Of what is off for most."""

    def forward(self, x, lengths):
        units = (self.enter(x) - 3 + 9 * (x > 2)).relu()  # for each place
        return self.net(units[:, 0])


class Saturated(Off):
    """A gate that is open for most."""

    def code(self, x):
        return (self.enter(x) + 200 * (x < 0.3)).tanh()[:, :16]


class Rounded(Off):
    """Two classes of examples, of which most are in one."""

    def code(self, x):
        return self.table[(x[:, 0] > 0.3).long()]

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(2, 16))


@pytest.mark.parametrize("program", [Last, Mean, AllAsLong, Nothing, Off, Taken, Saturated, Rounded])
def test_no_mistake(fit, program):
    assert "InputIndependenceCheck/same_for_most" not in {code for _, code, _ in found(fit, program())}


def test_frozen_features_are_not_judged(fit):
    module = Last()
    module.rnn.requires_grad_(requires_grad=False)
    assert found(fit, module) == PASSED


# -- mistakes


class TokensOfPadding(PaddingForLast):
    """Convolutions over tokens see nothing but padding at the last place."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.Sequential(nn.Conv1d(1, 16, 3, padding=1), nn.ReLU())

    def states(self, x, lengths):
        return self.rnn(x.transpose(1, 2)).transpose(1, 2)


class Unbound(PaddingForLast):
    """Picked by its number, with the places first."""

    def forward(self, x, lengths):
        return self.net(self.states(x, lengths).transpose(0, 1)[torch.tensor(FEATURES - 1)])


class MaskedByHand(PaddingForLast):
    def states(self, x, lengths):
        return self.rnn(x)[0] * (torch.arange(FEATURES) < lengths[:, None])[..., None]


class OneNumber(PaddingForLast):
    """A number is said of each."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(16, 1)

    def loss(self, out, y):
        return (out[:, 0] - y / CLASSES).square().mean()


@pytest.mark.parametrize("program", [TokensOfPadding, Unbound, MaskedByHand, OneNumber, PaddingForLast])
def test_the_last_place_is_padding(fit, program):
    told = [one for one in found(fit, program()) if one[0] is not Status.ADVICE]  # lengths may be in vain, too
    assert told == [(Status.WARNING, "InputIndependenceCheck/same_for_most", "net")]


def test_a_batch_of_few_examples_is_no_evidence(fit):
    class Few(PaddingForLast):
        def data(self, n, seed):
            return torch.utils.data.Subset(super().data(n, seed), range(7))

    assert found(fit, Few()) == PASSED
