"""Backprop with binary codes against the full Jacobian, on random networks with mixing planted in random places."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_recipe.dependencies.backprop import (
    Dependencies,
    UndecidedError,
    halves,
    layouts,
)
from lightning_recipe.dependencies.operations import attention_over_batch, softmax_over_batch
from lightning_recipe.dependencies.rerun import Rerun, calm
from lightning_recipe.dependencies.traces import first_mixed

FEATURES = 6
QUICK = settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck), derandomize=True)


class Swap(nn.Module):
    """Adds example `source` to example `target`, and nothing else."""

    def __init__(self, target, source):
        super().__init__()
        self.target, self.source = target, source

    def forward(self, x):
        y = x.clone()
        y[self.target] = y[self.target] + 0.01 * x[self.source]
        return y


class Leak(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        b = len(x)
        if self.kind == "view":
            return x.t().reshape(b, -1) if x.shape[1] != b else x.t()
        if self.kind == "mean":
            return x - x.mean(0)
        if self.kind == "softmax":
            return x.softmax(0)
        if self.kind == "cumsum":
            return x.cumsum(0)
        if self.kind == "roll":
            return x.roll(1, 0)
        if self.kind == "sort":
            return x.sort(0).values
        return torch.softmax(x @ x.t(), -1) @ x


@st.composite
def networks(draw):
    """Layers, and where mixing was planted among them, if at all."""
    torch.manual_seed(draw(st.integers(0, 10**6)))
    batch_size = draw(st.integers(2, 19))
    layers = []
    for _ in range(draw(st.integers(1, 4))):
        layer = draw(st.sampled_from(["linear", "norm", "relu", "batchnorm", "dropout", "softmax"]))
        layers.append(
            {
                "linear": lambda: nn.Linear(FEATURES, FEATURES),
                "norm": lambda: nn.LayerNorm(FEATURES),
                "relu": nn.ReLU,
                "batchnorm": lambda: nn.BatchNorm1d(FEATURES, track_running_stats=draw(st.booleans())),
                "dropout": nn.Dropout,
                "softmax": lambda: nn.Softmax(-1),
            }[layer]()
        )
    for _ in range(draw(st.integers(0, 2))):
        if draw(st.booleans()):
            target, source = draw(st.permutations(range(batch_size)))[:2]
            leak = Swap(target, source)
        else:
            leak = Leak(draw(st.sampled_from(["view", "mean", "softmax", "cumsum", "roll", "sort", "attention"])))
        layers.insert(draw(st.integers(0, len(layers))), leak)
    return nn.Sequential(*layers), batch_size


def jacobian(net, x):
    """Whether output i depends on input j, pair by pair."""
    full = torch.autograd.functional.jacobian(net, x)  # (B, F, B, F)
    return full.abs().amax((1, 3)) > 0


@QUICK
@given(networks())
def test_no_miss_and_no_false_alarm_against_the_full_jacobian(case):
    net, batch_size = case
    calm(net)
    x = torch.randn(batch_size, FEATURES, requires_grad=True)
    y = net(x)
    expected = jacobian(net, x.detach())
    chart = Dependencies([(y, layouts(y.shape, batch_size)[0])], [(x, layouts(x.shape, batch_size)[0])], batch_size)
    _, leaks = chart.spread()
    others = expected & ~torch.eye(batch_size, dtype=torch.bool)
    assert torch.equal(leaks > 0, others.any(0))
    assert torch.equal(chart.matrix(range(batch_size)) > 0, expected)
    for victim in range(batch_size):
        if leaks[victim] > 0:
            assert others[chart.source(victim), victim]
    if not leaks.any():
        assert torch.equal(chart.spread()[0] > 0, expected.diagonal())


@QUICK
@given(networks())
def test_changing_inputs_agrees_with_backprop_and_names_the_place(case):
    net, batch_size = case
    calm(net)
    x = torch.randn(batch_size, FEATURES)
    rerun = Rerun(net, "net", (x,), {}, batch_size)
    leaves, [(_, y)] = rerun.run()
    leaks = Dependencies([(y, layouts(y.shape, batch_size)[0])], leaves, batch_size).spread()[1]
    rerun.convert(torch.float64)
    event = first_mixed(rerun, leaves)
    if event is None or not leaks.any():  # a gradient below rounding, or inputs too close to a kink
        assert event is None or leaks.any() or any(isinstance(m, nn.ReLU) for m in net)
        assert event is not None or leaks.max() < 1e-6
        return
    planted = [i for i, layer in enumerate(net) if isinstance(layer, Swap | Leak)]
    assert event.name == f"net.{planted[0]}"


@pytest.mark.parametrize("batch_size", [0, 1, 2, 3, 8, 100, 257])
def test_halves_separate_every_pair_both_ways(batch_size):
    masks = list(halves(batch_size))
    assert len(masks) == (2 * math.ceil(math.log2(batch_size)) if batch_size > 1 else 0)
    separated = torch.eye(batch_size, dtype=torch.bool)
    for mask in masks:
        separated |= mask[:, None] & ~mask[None]
    assert separated.all()


def test_layouts_prefer_a_dimension_of_the_size_of_the_batch():
    assert [rows.dim for rows in layouts((4, 3, 4), 4)] == [0, 2]
    assert layouts((), 4) == []
    assert layouts((0, 3), 4) == []


def test_a_sum_of_softmaxed_or_normed_outputs_still_sends_gradient():
    x = torch.randn(4, 5, requires_grad=True)
    for y in (x.softmax(-1), nn.functional.layer_norm(x, (5,))):
        own, leaks = Dependencies([(y, layouts(y.shape, 4)[0])], [(x, layouts(x.shape, 4)[0])], 4).spread()
        assert own.min() > 1e-3
        assert leaks.max() == 0


def test_gradients_that_are_no_numbers_decide_nothing():
    x = torch.zeros(4, 5, requires_grad=True)
    y = (x.sum(1, keepdim=True) * 0).sqrt() + x
    chart = Dependencies([(y, layouts(y.shape, 4)[0])], [(x, layouts(x.shape, 4)[0])], 4)
    with pytest.raises(UndecidedError, match="NaN"):
        chart.spread()


def test_deadline():
    x = torch.randn(4, 5, requires_grad=True)
    y = x * 2
    chart = Dependencies([(y, layouts(y.shape, 4)[0])], [(x, layouts(x.shape, 4)[0])], 4, deadline=0)
    with pytest.raises(TimeoutError):
        chart.spread()


def test_operations_along_the_batch_are_recognised():
    x = torch.randn(4, 3, 2, requires_grad=True)
    assert softmax_over_batch([x.log_softmax(0)], 4)
    assert not softmax_over_batch([x.log_softmax(-1), x.softmax(1)], 4)
    flat = x.flatten(1)
    assert attention_over_batch([(flat @ flat.t()).softmax(-1) @ flat], 4) == (True, False)
    assert not softmax_over_batch([(flat @ flat.t()).softmax(0) @ flat], 4)
    y = x.unsqueeze(1)
    assert attention_over_batch([nn.functional.scaled_dot_product_attention(y, y, y)], 4) == (False, False)


def test_complex_numbers_and_integers_and_positions():
    net = nn.Module()
    net.tokens, net.positions = nn.Embedding(9, 3), nn.Embedding(4, 3)
    net.forward = lambda ids: net.tokens(ids) + net.positions(torch.arange(4))
    ids = torch.arange(16).view(4, 4) % 9  # as many positions as examples
    leaves, [(_, y)] = Rerun(net, "net", (ids,), {}, 4).run()
    assert [leaf.shape for leaf, _ in leaves] == [(4, 4, 3)]
    assert not Dependencies([(y, layouts(y.shape, 4)[0])], leaves, 4).spread()[1].any()
    z = torch.randn(4, 3, dtype=torch.complex64)
    leaves, [(_, y)] = Rerun(nn.Identity(), "net", (z,), {}, 4).run()
    own, leaks = Dependencies([(y, layouts(y.shape, 4)[0])], leaves, 4).spread()
    assert own.min() > 0
    assert not leaks.any()
