"""What a forward leaves behind that can't be put back is found on a copy; then the predictions are not looked at."""

import copy
import itertools
import random
from collections import Counter, deque

import numpy as np
import pytest
import torch
from ends import assert_same, traces
from patients import CLASSES, FEATURES, Healthy
from torch import nn

from lightning_recipe import PredictionDynamicsLogger, Status, recipe
from lightning_recipe.trial.side_effects import differences

RNG = np.random.default_rng(1)
SEEN = []


class Stateful(Healthy):
    """Each forward depends on how many there were before, in any mode."""

    kept = staticmethod(int)  # makes what is kept
    used = staticmethod(lambda kept: 0.0)  # and uses it

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, CLASSES))
        self.memory = self.kept()

    def forward(self, x):
        return self.net(x + 0.1 * self.used(self.memory))


def hidden():
    return [nn.BatchNorm1d(1)]


KINDS = {
    "deque": (deque, lambda kept: kept.append(1) or len(kept) % 3),
    "Counter": (Counter, lambda kept: kept.update("a") or kept["a"] % 3),
    "lists in a dictionary": (lambda: {"a": []}, lambda kept: kept["a"].append(1) or len(kept["a"]) % 3),
    "array": (lambda: np.zeros(1), lambda kept: float(kept.__iadd__(1)[0]) % 3),
    "tensors in a list": (lambda: [torch.zeros(1)], lambda kept: float(kept[0].add_(1)) % 3),
    "generator of torch": (
        lambda: torch.Generator().manual_seed(1),
        lambda kept: float(torch.rand(1, generator=kept)),
    ),
    "generator of NumPy": (lambda: np.random.default_rng(1), lambda kept: kept.random()),
    "generator of Python": (lambda: random.Random(1), lambda kept: kept.random()),
    "count": (itertools.count, lambda kept: next(kept) % 3),
    "hidden network": (hidden, lambda kept: float(kept[0](torch.randn(4, 1)).mean() + kept[0].running_mean)),
    "generator of a script": (int, lambda kept: RNG.random()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_a_look_would_change(fit, kind):
    ends, callbacks = [], recipe()
    kept, used = KINDS[kind]
    make = type("Kind", (Stateful,), {"kept": staticmethod(kept), "used": staticmethod(used)})
    for attached in ([], callbacks):
        torch.manual_seed(1)
        RNG.bit_generator.state = np.random.default_rng(1).bit_generator.state
        module = make()
        ends.append(traces(fit(module, attached), module))
    assert_same(*ends)
    (finding,) = next(c for c in callbacks if isinstance(c, PredictionDynamicsLogger)).findings
    assert finding.status is Status.PASSED  # the step is run again on a copy in place of the forward


def test_hooks_of_the_user_see_no_more_calls(fit):
    counts = []
    for callbacks in ([], recipe()):
        SEEN.clear()
        module = Healthy()
        module.net[0].register_forward_hook(lambda *_: SEEN.append(1))
        fit(module, callbacks)
        counts.append(len(SEEN))
    assert counts[0] == counts[1]


def test_pure_networks_are_looked_at(fit):
    logger = PredictionDynamicsLogger()
    fit(Healthy(), [logger])
    assert logger.findings[0].status is Status.PASSED


def test_equal_copies_do_not_differ():
    module = Healthy()
    module.things = {"a": [np.arange(3.0), {1, 2}, float("nan")], "b": random.Random(1), "c": iter("abc")}
    twin = copy.deepcopy(module)
    assert differences(module, twin) == set()
    twin.things["b"].random()
    assert differences(module, twin) == {"things.b"}
