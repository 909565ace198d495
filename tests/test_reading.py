import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lightning_recipe.losses.reading import reading, unread
from lightning_recipe.record.step import LossCall


def loss_call(function, given, target, **more):
    arguments = {"input": given, "target": target, **more}
    return LossCall(
        function.__name__, function, arguments, torch.tensor(0.0), len(given), "a.py:1", target_from_net=False
    )


def classes(*shape, of=5):
    return torch.randint(of, shape)


FLOAT = torch.randn(6, 5)
SEQUENCE, TIME_FIRST = torch.randn(6, 9, 5), torch.randn(9, 6, 5)
MAPS = torch.randn(6, 5, 12, 16)
ORDER = torch.arange(54).view(6, 9) % 5

READINGS = {
    # network's output, what the loss was given, its function, its target; kind, shape read, target read
    "logits": (FLOAT, FLOAT, F.cross_entropy, ORDER[:, 0], "classes", (4, 5), ORDER[:4, 0]),
    "log-probabilities": (
        FLOAT.log_softmax(1), FLOAT.log_softmax(1), F.nll_loss, ORDER[:, 0], "classes", (4, 5), ORDER[:4, 0],
    ),
    "log_softmax outside": (FLOAT, FLOAT.log_softmax(1), F.nll_loss, ORDER[:, 0], "classes", (4, 5), ORDER[:4, 0]),
    "soft targets": (
        FLOAT, FLOAT, F.cross_entropy, F.one_hot(ORDER[:, 0], 5).float(), "classes", (4, 5), ORDER[:4, 0],
    ),
    "flattened tokens": (
        SEQUENCE, SEQUENCE.flatten(0, 1), F.cross_entropy, ORDER.flatten(), "tokens", (4, 9, 5), ORDER[:4],
    ),
    "transposed tokens": (SEQUENCE, SEQUENCE.mT, F.cross_entropy, ORDER, "tokens", (4, 9, 5), ORDER[:4]),
    "tokens as they are": (SEQUENCE.mT, SEQUENCE.mT, F.cross_entropy, ORDER, "tokens", (4, 9, 5), ORDER[:4]),
    "time first": (
        TIME_FIRST, TIME_FIRST.transpose(0, 1).flatten(0, 1), F.cross_entropy, ORDER.flatten(), "tokens", (4, 9, 5),
        ORDER[:4],
    ),
    "shifted language model": (
        SEQUENCE, SEQUENCE[:, :-1].flatten(0, 1), F.cross_entropy, ORDER[:, 1:].flatten(), "tokens", (4, 8, 5),
        ORDER[:4, 1:],
    ),
    "last of a sequence": (SEQUENCE, SEQUENCE[:, -1], F.cross_entropy, ORDER[:, 0], "classes", (4, 5), ORDER[:4, 0]),
    "segmentation": (
        MAPS, MAPS, F.cross_entropy, classes(6, 12, 16), "maps of classes", (4, 12, 16, 5), None,
    ),
    "flattened segmentation": (
        MAPS, MAPS.permute(0, 2, 3, 1).reshape(-1, 5), F.cross_entropy, classes(6 * 12 * 16), "maps of classes",
        (4, 12, 16, 5), None,
    ),
    "binary, squeezed": (
        FLOAT[:, :1], FLOAT[:, 0], F.binary_cross_entropy_with_logits, torch.ones(6), "yes or no", (4, 1),
        torch.ones(4, 1),
    ),
    "sigmoid outside": (
        FLOAT[:, :1], FLOAT[:, :1].sigmoid(), F.binary_cross_entropy, torch.ones(6, 1), "yes or no", (4, 1),
        torch.ones(4, 1),
    ),
    "several labels, soft margin": (
        FLOAT, FLOAT, F.multilabel_soft_margin_loss, torch.ones(6, 5), "yes or no", (4, 5), torch.ones(4, 5),
    ),
    "several labels": (
        FLOAT, FLOAT, F.binary_cross_entropy_with_logits, torch.ones(6, 5), "yes or no", (4, 5), torch.ones(4, 5),
    ),
    "mask": (
        MAPS[:, :1], MAPS[:, 0], F.binary_cross_entropy_with_logits, torch.ones(6, 12, 16), "maps of yes or no",
        (4, 12, 16, 1), torch.ones(4, 12, 16, 1),
    ),
    "number": (FLOAT[:, :1], FLOAT[:, 0], F.mse_loss, FLOAT[:, 1], "numbers", (4, 1), FLOAT[:4, 1:2]),
    "short sequence of numbers": (
        FLOAT[..., None], FLOAT[..., None], F.l1_loss, FLOAT[..., None], "numbers", (4, 5), FLOAT[:4],
    ),
    "images": (
        MAPS[:, :3], MAPS[:, :3], F.mse_loss, MAPS[:, 1:4], "maps of numbers", (4, 12, 16, 3),
        MAPS[:4, 1:4].movedim(1, -1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READINGS)
def test_reads_what_the_loss_was_given(name):
    output, given, function, target, kind, shape, expected = READINGS[name]
    how = reading(output, loss_call(function, given, target), 4)
    assert how is not None
    values = how.read({"": output})
    assert how.kind == kind
    assert values.shape == shape
    assert how.target.shape == shape[: how.target.ndim]
    if expected is not None:
        assert torch.equal(how.target, expected)
    if how.of_classes:
        assert torch.allclose(values.sum(-1), torch.ones(shape[:-1]))
    if "entropy" in function.__name__ or function is F.nll_loss:
        flat = math.prod(how.positions) * 4
        first = (given if given.shape[0] == 6 else given[:flat], target if given.shape[0] == 6 else target[:flat])
        mean = function(*(part[:4] if part.shape[0] == 6 else part for part in first))
        unit = math.log(5) if how.of_classes else math.log(2)
        if "log" not in name or function is F.nll_loss:
            assert how.error(values) == pytest.approx(float(mean) / unit, rel=1e-3)


def test_finds_the_tensor_in_a_nested_output():
    output = {"hidden": torch.randn(6, 7), "heads": [FLOAT * 2, FLOAT]}
    how = reading(output, loss_call(F.cross_entropy, FLOAT, ORDER[:, 0]), 4)
    assert how.path == "heads[1]"


@pytest.mark.parametrize(
    ("output", "loss"),
    [
        (torch.randn(6, 5), loss_call(F.cross_entropy, FLOAT, ORDER[:, 0])),  # other values
        (FLOAT, loss_call(F.triplet_margin_loss, FLOAT, FLOAT)),  # a loss without a target
        (FLOAT, loss_call(F.mse_loss, FLOAT, torch.zeros(1))),  # a target that is broadcast
        (FLOAT, loss_call(F.cross_entropy, FLOAT[0], torch.tensor(1))),  # no batch
        (FLOAT[:0], loss_call(F.mse_loss, FLOAT[:0], FLOAT[:0])),
        ("nothing", loss_call(F.mse_loss, FLOAT, FLOAT)),
        (None, loss_call(F.mse_loss, FLOAT, FLOAT)),
    ],
)
def test_doubt_is_none(output, loss):
    assert reading(output, loss, 4) is None


def test_a_target_that_the_network_computed_is_none():
    loss = LossCall(
        "mse_loss", F.mse_loss, {"input": FLOAT, "target": FLOAT}, torch.tensor(0.0), 6, "", target_from_net=True
    )
    assert reading(FLOAT, loss, 4) is None


def test_by_shape_takes_other_values():
    how = reading({"": torch.zeros(6, 5)}, loss_call(F.cross_entropy, FLOAT, ORDER[:, 0]), 4, by_shape=True)
    assert how.read({"": torch.zeros(6, 5)}).tolist() == [[pytest.approx(0.2)] * 5] * 4


def test_without_a_loss_numbers_with_a_row_for_each_example():
    how = unread({"a": torch.randn(6, 2), "b": torch.randn(7, 20), "c": torch.ones(6, 90).int()}, 6, 4)
    assert (how.kind, how.path, how.target) == ("numbers", "a", None)
    assert unread([torch.tensor(1.0)], None, 4) is None


def test_numbers_stay_bounded():
    wide = torch.randn(16, 10**6)
    how = reading(wide, loss_call(F.cross_entropy, wide, classes(16)), 16)
    assert how.read({"": wide}).shape == (2, 10**6)
    assert how.target.shape == (2,)
    long = torch.randn(4, 5000, 1000)
    how = reading(long, loss_call(F.cross_entropy, long.flatten(0, 1), classes(20000)), 4)
    assert how.read({"": long}).shape == (4, 524, 1000)
    assert how.target.shape == (4, 524)
    large = torch.randn(2, 3, 1000, 500)
    how = reading(large, loss_call(F.mse_loss, large, large), 2)
    assert torch.equal(how.read({"": large}), large[:, :, ::16, ::8].movedim(1, -1))


def test_of_volumes_the_middle_slice():
    volume = torch.randn(2, 1, 8, 16, 16)
    how = reading(volume, loss_call(F.mse_loss, volume, volume), 2)
    assert torch.equal(how.read({"": volume})[..., 0], volume[:, 0, 4])


# -- numbers


def read_classes(target, before, after, **more):
    logits = torch.tensor(before).log()
    how = reading(logits, loss_call(F.cross_entropy, logits, torch.tensor(target), **more), 9)
    return how, how.read({"": logits}), how.read({"": torch.tensor(after).log()})


def test_distance_is_total_variation():
    how, before, after = read_classes([0, 1], [[0.8, 0.1, 0.1], [0.2, 0.6, 0.2]], [[0.3, 0.6, 0.1], [0.2, 0.6, 0.2]])
    assert how.distance(before, after) == pytest.approx((0.5 + 0) / 2)
    assert how.flips(before, after) == 0.5
    assert how.score(before) == {"share_right": 1.0}
    assert how.score(after) == {"share_right": 0.5}
    assert how.of_the_truth(after).tolist() == pytest.approx([0.3, 0.6])
    assert how.error(after) == pytest.approx(-(math.log(0.3) + math.log(0.6)) / 2 / math.log(3))


@given(st.integers(2, 20), st.integers(2, 9))
@settings(max_examples=20, deadline=None)
def test_knowing_nothing_has_error_one(count, classes_):
    logits = torch.zeros(count, classes_)
    how = reading(logits, loss_call(F.cross_entropy, logits, classes(count, of=classes_)), 99)
    assert how.error(how.read({"": logits})) == pytest.approx(1, rel=1e-5)
    assert how.spread(how.read({"": logits})) == pytest.approx(0, abs=1e-6)


def test_positions_without_a_target_do_not_count():
    logits = torch.tensor([[[9.0, 0], [9, 0]], [[0, 9], [9, 0]]])
    how = reading(logits, loss_call(F.cross_entropy, logits.mT, torch.tensor([[0, -100], [1, -100]])), 9)
    values = how.read({"": logits})
    assert how.score(values) == {"share_right": 1.0}
    moved = how.read({"": logits * torch.tensor([1.0, -1.0])[:, None]})
    assert how.flips(values, moved) == 0.0
    assert how.error(values) < 0.01


def test_numbers_are_measured_in_standard_deviations_of_the_target():
    target = torch.tensor([10.0, 30.0])  # standard deviation 10
    output = torch.tensor([[20.0], [20.0]])
    how = reading(output, loss_call(F.mse_loss, output[:, 0], target), 9)
    values = how.read({"": output})
    assert how.error(values) == pytest.approx(1)
    assert how.distance(values, values + 5) == pytest.approx(0.5)
    assert math.isnan(how.flips(values, values))
    assert how.score(values) == {"mean_absolute_error": 10.0}


def test_constant_targets_have_no_unit_of_error():
    output = torch.zeros(2, 1)
    how = reading(output, loss_call(F.mse_loss, output, torch.full((2, 1), 3.0)), 9)
    assert math.isnan(how.error(output))
    assert how.distance(output, output + 3) == pytest.approx(1)
