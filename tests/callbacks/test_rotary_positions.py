"""Positions by which vectors are turned: InputIndependenceCheck tells of those without effect."""

import math

import pytest
import torch
import torch.nn.functional as F
from patients import PositionsInVain
from torch import nn
from torch.utils.data import TensorDataset

from lightning_recipe.callbacks.input_independence_check import InputIndependenceCheck
from lightning_recipe.finding import Status

FREQUENCIES = 10.0 ** -torch.arange(0, 1, 0.25)


def half_split(x, angles):
    """As NeoX and transformers have it: the first half of the numbers with the second."""
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def interleaved(x, angles):
    """As GPT-J has it: each number with its neighbour."""
    a, b = x[..., ::2], x[..., 1::2]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def as_complex(x, angles):
    """As Llama has it."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


class Turned(PositionsInVain):
    """Attention between places, and a mean over them: nothing but the angles tells an order."""

    heads, layout = 2, staticmethod(interleaved)

    def __init__(self):
        super().__init__()
        del self.positions
        self.embed = nn.Sequential(nn.Linear(1, 16), nn.Tanh())
        self.qkv, self.leave = nn.Linear(16, 48), nn.Linear(16, 16)
        del self.enter

    def forward(self, x):
        h = self.embed(x)
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).unbind(2)  # (N, places, heads, width)
        y = F.scaled_dot_product_attention(*self.turned(q, k), v.transpose(1, 2))
        return self.net(self.pooled(h + self.leave(y.transpose(1, 2).flatten(2))))

    def turned(self, q, k):
        return self.turn(q.transpose(1, 2)), self.turn(k.transpose(1, 2))

    def turn(self, x):
        return self.layout(x, self.angles(x.shape[-2]))

    def angles(self, places):
        return torch.arange(places)[:, None] * FREQUENCIES

    def pooled(self, h):
        return h.mean(1)


class HalfSplit(Turned):
    layout = staticmethod(half_split)


class Complex(Turned):
    layout = staticmethod(as_complex)


class Kept(Turned):
    """Made once for more places than there are."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.arange(64)[:, None] * FREQUENCIES)

    def angles(self, places):
        return self.table[:places]


class OnAGrid(Turned):
    """Rows and columns of an image, half of the angles each."""

    def angles(self, places):
        place = torch.arange(places)
        return torch.cat([(place // 2)[:, None] * FREQUENCIES[:2], (place % 2)[:, None] * FREQUENCIES[:2]], 1)


class Faint(Turned):
    """Attention begins as nearly the same everywhere, and has not moved."""

    def __init__(self):
        super().__init__()
        nn.init.normal_(self.qkv.weight, std=0.01)
        nn.init.normal_(self.leave.weight, std=0.01)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class NoPositions(Turned):
    """A set."""

    def turned(self, q, k):
        return q.transpose(1, 2), k.transpose(1, 2)


class PooledByAttention(NoPositions):
    def __init__(self):
        super().__init__()
        self.score = nn.Linear(16, 1)

    def pooled(self, h):
        return (self.score(h).softmax(1) * h).sum(1)


class TimeStamps(NoPositions):
    """Events in no order, that say when they were."""

    def pooled(self, h):
        angle = self.when * FREQUENCIES.repeat(4)
        return (h * angle.cos() + h.roll(1, -1) * angle.sin()).mean(1)

    def forward(self, x):
        self.when = x
        return super().forward(x)


class NoiseLevels(NoPositions):
    """A cosine schedule of a diffusion, drawn in the step, for each example and feature."""

    def pooled(self, h):
        angle = torch.rand(len(h), 1, 16) * math.pi / 2
        return (h * angle.cos() + h.roll(1, -1) * angle.sin()).mean(1)


class TurnedByChance(Turned):
    """Queries and keys of an example by the same angles, which leaves attention as it is, as augmentation would."""

    def turned(self, q, k):
        angle = 2 * math.pi * torch.rand(len(q), 1, 1, 4)
        return self.layout(q.transpose(1, 2), angle), self.layout(k.transpose(1, 2), angle)


class TurnedByTheExample(Turned):
    def turned(self, q, k):
        angle = self.first[:, None] * FREQUENCIES
        return self.layout(q.transpose(1, 2), angle), self.layout(k.transpose(1, 2), angle)

    def forward(self, x):
        self.first = x.sum(1, keepdim=True)
        return super().forward(x)


class Channels(PositionsInVain):
    """Channels are a set, and of each the steps are in order."""

    def __init__(self):
        super().__init__()
        del self.positions, self.enter
        self.qkv, self.out = nn.Linear(1, 24), nn.Linear(8, 16)

    def forward(self, x):
        q, k, v = self.qkv(x[..., None]).chunk(3, -1)  # (N, channels, steps, width)
        angle = torch.arange(x.shape[2])[:, None] * FREQUENCIES
        y = F.scaled_dot_product_attention(interleaved(q, angle), interleaved(k, angle), v)
        return self.net(torch.tanh(self.out(y)).mean((1, 2)))

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        steps = torch.randn(*x.shape[:2], 6, generator=torch.Generator().manual_seed(seed))
        return TensorDataset(steps + x, y)


class Windowed(PositionsInVain):
    """Power of frames, in no order, each under windows of several widths and phases."""

    def __init__(self):
        super().__init__()
        del self.positions
        self.enter = nn.Linear(1, 16)

    def forward(self, x):
        frames = self.enter(x)
        wave = 2 * math.pi * torch.arange(1, 5)[:, None] * torch.arange(16) / 16
        power = (frames[..., None, :] * wave.cos()).sum(-1) ** 2 + (frames[..., None, :] * wave.sin()).sum(-1) ** 2
        return self.net(torch.cat([power, frames[..., :12]], -1).mean(1))


@pytest.mark.parametrize(
    "program",
    [
        *(Turned, HalfSplit, Complex, Kept, OnAGrid, Faint, NoPositions, PooledByAttention, TimeStamps, NoiseLevels),
        *(TurnedByChance, TurnedByTheExample, Channels, Windowed),
    ],
)
def test_angles_that_tell_an_order_or_are_meant_for_something_else(fit, program):
    check = InputIndependenceCheck()
    fit(program(), [check], logger=False, max_epochs=2)
    assert check.findings
    assert PositionsInVain.code not in {f.code for f in check.findings}


class ByHead(Turned):
    """Turned before heads and places change places."""

    def turned(self, q, k):
        return self.turn(q).transpose(1, 2), self.turn(k).transpose(1, 2)


class ByHeadHalfSplit(ByHead):
    layout = staticmethod(half_split)


class ByHeadComplex(ByHead):
    layout = staticmethod(as_complex)


class ByHeadKept(ByHead, Kept):
    pass


class ByExample(Turned):
    """The table is laid as for places in the first dimension."""

    def turn(self, x):
        return self.layout(x, self.angles(len(x))[:, None, None])


class TheSameForAll(Turned):
    """The number of places for that of the place."""

    def angles(self, places):
        return torch.full((places, 1), places) * FREQUENCIES


@pytest.mark.parametrize("program", [ByHead, ByHeadHalfSplit, ByHeadComplex, ByHeadKept, ByExample, TheSameForAll])
def test_angles_that_have_no_effect(fit, program):
    check = InputIndependenceCheck()
    fit(program(), [check], logger=False, max_epochs=2)
    alarms = [f for f in check.findings if f.is_alarm]
    assert [(f.status, f.code) for f in alarms] == [(Status.WARNING, PositionsInVain.code)], check.findings
    assert alarms[0].subject.startswith("test_rotary_positions.py:")
