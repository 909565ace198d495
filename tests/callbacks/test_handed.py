"""Classes that become one another in a mirror."""

import pytest
import torch
from sklearn.datasets import load_digits
from test_sides import WIDTH, N, found

from lightning_recipe import Status
from lightning_recipe.callbacks._flips import MIRRORED
from lightning_recipe.callbacks._handed import partners

RNG = torch.Generator().manual_seed(0)
CLASS = torch.arange(N) // 2 % 3
NOISE = 0.1 * torch.randn(N, 1, WIDTH, WIDTH, generator=RNG)
HANDS = NOISE.clone()
HANDS[CLASS == 0, :, :, 1:4] += 1
HANDS[CLASS == 1, :, :, -4:-1] += 1
HANDS[CLASS == 2, :, :, 5:7] += 1  # neither left nor right
SHAPES = NOISE.clone()
SHAPES[CLASS == 0, :, 2:4, 1:4] += 1  # all look the same way
SHAPES[CLASS == 1, :, 8:10, 1:4] += 1
SHAPES[CLASS == 2, :, 2:9, 1:4] += 1


def drawn(images, label):
    return lambda i, coin: {"image": images[i].flip(-1) if coin else images[i], "label": label(i, coin)}


def exchanged(i, coin):
    return torch.tensor([1, 0, 2])[CLASS[i]] if coin else CLASS[i]


@pytest.mark.parametrize(
    "draw", [drawn(HANDS, exchanged), drawn(SHAPES, lambda i, coin: CLASS[i])], ids=["exchanged", "one way"]
)
def test_classes_that_are_right_after_a_mirror(fit, draw):
    assert [f.code for f in found(fit, draw) if f.is_alarm] == []


@pytest.mark.parametrize("how", ["mirrored left to right", "turned by 90 degrees"])
def test_digits_are_no_pairs(how):
    digits = load_digits()
    images, classes = torch.tensor(digits.images)[:, None], torch.tensor(digits.target)[:, None]
    assert partners(images, classes, how) == {}


def test_a_class_that_the_other_does_not_become():
    y = torch.arange(100) // 2 % 2
    images = torch.rand(100, 1, 8, 8, generator=RNG) + y[:, None, None, None] * torch.linspace(-1, 1, 8)
    assert partners(images, y[:, None], "mirrored left to right") == {}


def test_hands_that_keep_their_class(fit):
    (finding,) = found(fit, drawn(HANDS, lambda i, coin: CLASS[i]))
    assert (finding.status, finding.code) == (Status.WARNING, "AugmentationCheck/class_not_exchanged")
    assert finding.evidence["classes"] == 2
    assert finding.message.endswith("of class 0 look like class 1 then, and the other way round")


def test_arrows_go_round_in_a_circle():
    arrows = torch.zeros(4, 1, 8, 8)
    arrows[0, :, :3, 2:6] = 1
    for i in range(1, 4):
        arrows[i] = MIRRORED["turned by 90 degrees"](arrows[i - 1])
    y = torch.arange(80) // 2 % 4
    images = arrows[y] + 0.1 * torch.randn(80, 1, 8, 8, generator=RNG)
    becomes = partners(images, y[:, None], "turned by 90 degrees")
    assert {one: other for one, (other, _) in becomes.items()} == {0: 1, 1: 2, 2: 3, 3: 0}
