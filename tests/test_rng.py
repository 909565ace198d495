"""RNG objects are found wherever they are global, also those that were not there when somebody looked last."""

import random
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from ends import quick
from patients import Healthy

from lightning_recipe.trial.rng import named, restore, state, untouched_generators

INSTALLED = np.__file__.replace("__init__", "somebody")
OURS = "/home/somebody/train.py"


@pytest.fixture
def module(monkeypatch):
    module = ModuleType("somebody")
    monkeypatch.setitem(sys.modules, "somebody", module)
    return module


@pytest.mark.parametrize("file", [INSTALLED, OURS, None])
def test_found_when_it_comes_later(module, file):
    module.__file__, module.rng, module.count = file, None, 1
    named()
    module.rng = np.random.default_rng(1)
    assert module.rng in named()
    module.rng = np.random.default_rng(2)  # seeded again
    assert module.rng in named()
    module.noise = np.random.default_rng(3)
    assert {id(module.rng), id(module.noise)} <= {id(generator) for generator in named()}


def test_a_script_may_call_anything_by_that_name_before(module):
    module.__file__, module.rng = OURS, np.random
    named()
    module.rng = random.Random(1)
    assert module.rng in named()


def test_a_module_that_is_loaded_again_is_searched_again(module, monkeypatch):
    module.__file__, module.rng = INSTALLED, 1
    named()
    again = ModuleType("somebody")
    again.__file__, again.rng = INSTALLED, random.Random(1)
    monkeypatch.setitem(sys.modules, "somebody", again)
    assert again.rng in named()


KINDS = {
    "python": (random.Random(1), lambda generator: generator.random()),
    "torch": (torch.Generator(), lambda generator: torch.rand(3, generator=generator).tolist()),
    "legacy": (np.random.RandomState(1), lambda generator: generator.normal()),
    "pcg": (np.random.default_rng(1), lambda generator: generator.random()),
    "philox": (np.random.Generator(np.random.Philox(1)), lambda generator: generator.random()),
    "mersenne": (np.random.Generator(np.random.MT19937(1)), lambda generator: generator.integers(9)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_put_back_and_said(kind):
    generator, draw = KINDS[kind]
    before = state(generator)
    with untouched_generators([generator]) as drawn:
        first = draw(generator)
        assert state(generator) != before
    assert drawn == [generator]
    assert state(generator) == before
    assert draw(generator) == first
    restore(generator, before)
    with untouched_generators([generator]) as drawn:
        pass
    assert drawn == []


def test_accelerators_that_are_not_in_use_yet_will_be_seeded_as_the_user_said(fit):
    noted = []

    class Noting(Healthy):
        def on_train_start(self):
            noted.append(torch.cuda._lazy_seed_tracker.get_calls())

        on_train_end = on_train_start

    fit(Noting(), quick(), logger=False)
    assert noted[0] == noted[1]
