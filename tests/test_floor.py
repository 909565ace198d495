import math

import pytest
import torch
from torch.nn import functional as F

from lightning_recipe.losses.floor import floor, indistinguishable
from lightning_recipe.record.step import LossCall


def call(function, prediction, target, **options):
    arguments = {"input": prediction, "target": target, **options}
    return LossCall(
        function.__name__, function, arguments, function(**arguments), len(prediction), "a:1", target_from_net=False
    )


def descended(loss_call, group=None):
    """The oracle: the lowest value that LBFGS finds for free predictions (one for each group)."""
    prediction = loss_call.arguments["input"]
    groups = torch.arange(len(prediction)) if group is None else group
    free = torch.zeros(int(groups.max()) + 1, *prediction.shape[1:], dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([free], max_iter=300, line_search_fn="strong_wolfe", tolerance_change=1e-14)
    arguments = {
        k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in loss_call.arguments.items()
    }

    def value():
        made = free[groups]
        if loss_call.name in {"kl_div", "nll_loss"}:
            made = made.log_softmax(1)
        elif loss_call.name == "binary_cross_entropy":
            made = made.sigmoid()
        return loss_call.function(**arguments | {"input": made}).mean()

    def closure():
        optimizer.zero_grad()
        loss = value()
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    return float(value())


torch.manual_seed(0)
labels, many = torch.tensor([0, 2, 1, 2, 0, 2]), torch.randint(3, (6, 4, 5))
weight = torch.tensor([1.0, 3.0, 0.5])
CALLS = {
    "labels": call(F.cross_entropy, torch.randn(6, 3), labels),
    "smoothed": call(F.cross_entropy, torch.randn(6, 3), labels, label_smoothing=0.1),
    "smoothed and weighted": call(F.cross_entropy, torch.randn(6, 3), labels, label_smoothing=0.1, weight=weight),
    "soft": call(F.cross_entropy, torch.randn(6, 3), torch.rand(6, 3).softmax(1), weight=weight),
    "summed": call(F.cross_entropy, torch.randn(6, 3), torch.rand(6, 3).softmax(1), reduction="sum"),
    "unreduced": call(F.cross_entropy, torch.randn(6, 3), torch.rand(6, 3).softmax(1), reduction="none"),
    "ignoring": call(F.cross_entropy, torch.randn(6, 3), labels, ignore_index=1, label_smoothing=0.2),
    "pixels": call(F.cross_entropy, torch.randn(6, 3, 4, 5), many, label_smoothing=0.1),
    "log probabilities": call(F.nll_loss, torch.randn(6, 3).log_softmax(1), labels),
    "bce": call(F.binary_cross_entropy, torch.rand(6, 2), torch.rand(6, 2)),
    "bce with logits": call(F.binary_cross_entropy_with_logits, torch.randn(6, 2), torch.rand(6, 2)),
    "positives weighted": call(
        F.binary_cross_entropy_with_logits, torch.randn(6, 2), torch.rand(6, 2), pos_weight=torch.tensor([5.0, 0.2])
    ),
    "mse": call(F.mse_loss, torch.randn(6, 2), torch.randn(6, 2)),
    "l1": call(F.l1_loss, torch.randn(6), torch.randn(6)),
    "huber": call(F.huber_loss, torch.randn(6), torch.randn(6)),
    "kl": call(F.kl_div, torch.randn(6, 3).log_softmax(1), torch.rand(6, 3).softmax(1), reduction="batchmean"),
    "poisson": call(F.poisson_nll_loss, torch.randn(6), torch.tensor([1.0, 2, 3, 1, 5, 2])),
}


@pytest.mark.parametrize("kind", CALLS)
def test_it_is_the_lowest_value_that_descent_finds(kind):
    found = floor(CALLS[kind])
    assert found.value == pytest.approx(descended(CALLS[kind]), abs=2e-4)
    if kind != "pixels":  # where each position may have a constant of its own
        constant = descended(CALLS[kind], torch.zeros(6, dtype=torch.long))
        assert found.ignorant == pytest.approx(constant, abs=0.05 if kind == "l1" else 2e-4)


def test_equal_inputs_share_a_prediction():
    x = torch.randn(3, 4).repeat(2, 1)
    for kind in ("labels", "smoothed and weighted", "bce with logits", "mse", "kl", "poisson"):
        found = floor(CALLS[kind], {"x": x})
        assert found.value == pytest.approx(descended(CALLS[kind], torch.arange(3).repeat(2)), abs=2e-4), kind
        assert "equal inputs with different targets" in found.reason


def searched(function, targets, **options):
    """The oracle: for each column the lowest mean loss of any constant on a fine grid."""
    grid = torch.linspace(float(targets.min()), float(targets.max()), 20_001, dtype=torch.double)
    best = []
    for column in targets.double().unbind(1):
        held = column.expand(len(grid), -1)
        losses = function(grid[:, None].expand_as(held), held, reduction="none", **options)
        best.append(float(losses.mean(1).min()))
    return sum(best) / len(best)


@pytest.mark.parametrize("width", [0.1, 0.5, 1.0, 3.0, 100.0])
@pytest.mark.parametrize(("function", "option"), [(F.huber_loss, "delta"), (F.smooth_l1_loss, "beta")])
def test_the_best_constant_between_median_and_mean_is_found(function, option, width):
    y = torch.tensor([[0.0, 1.0], [0.2, -4.0], [0.1, 1.5], [3.0, 1.2], [0.0, 1.0], [1.0, 0.0], [0.6, 9.0], [0.5, 0.0]])
    loss_call = call(function, torch.zeros(8, 2), y, **{option: width})
    assert floor(loss_call).ignorant == pytest.approx(searched(function, y, **{option: width}), abs=1e-6)
    alike = torch.tensor([0, 1, 0, 1, 0, 0, 1, 1])
    found = floor(loss_call, {"x": alike.float()[:, None]})
    expected = [searched(function, y[alike == i], **{option: width}) for i in (0, 1)]
    assert found.value == pytest.approx(sum(expected) / 2, abs=1e-6)
    assert found.reason == "equal inputs with different targets"


def test_the_reason_is_named():
    assert floor(CALLS["smoothed"]).reason == "label smoothing 0.1"
    assert floor(CALLS["bce"]).reason == "soft targets"
    assert not floor(CALLS["mse"]).reason


def test_equal_pasts_of_sequences_share_a_prediction():
    tokens = torch.tensor([[1, 5, 2], [1, 6, 2], [3, 5, 2]])
    assert indistinguishable({"ids": tokens}, 9).tolist() == [0, 2, 5, 0, 3, 6, 1, 4, 7]
    target = torch.tensor([[5, 2, 2], [6, 2, 2], [5, 2, 2]]).flatten()
    found = floor(call(F.cross_entropy, torch.randn(9, 7), target), {"ids": tokens})
    assert found.value == pytest.approx(2 * math.log(2) / 9, abs=1e-6)


def test_different_inputs_can_be_told_apart():
    assert indistinguishable({"x": torch.randn(5, 3)}, 5) is None
    assert indistinguishable({"x": torch.zeros(5, 3), "id": torch.arange(5)}, 5) is None
    assert indistinguishable({}, 5) is None


def test_equal_inputs_do_not_make_their_positions_equal():
    target = torch.tensor([[0, 1, 2], [0, 1, 2], [2, 2, 2]])
    found = floor(call(F.cross_entropy, torch.randn(3, 4, 3), target), {"x": torch.tensor([[1.0], [1.0], [2.0]])})
    assert found.value == pytest.approx(0, abs=1e-6)
    assert found.ignorant > 0.5


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_shapes_that_broadcast_are_no_reason_for_a_floor():
    y = torch.randn(6)
    found = floor(call(F.mse_loss, torch.randn(6, 1), y))
    assert (found.value, found.ignorant) == (0, pytest.approx(float(y.var(correction=0))))


@pytest.mark.parametrize(
    "unknown",
    [
        call(F.binary_cross_entropy_with_logits, torch.randn(4), torch.tensor([0.0, 2.0, 1.0, 0.0])),
        call(F.cross_entropy, torch.randn(4, 4), torch.arange(4)),  # pairs of one batch
        call(F.nll_loss, torch.randn(8, 10), torch.arange(8)),
        call(F.nll_loss, torch.randn(8, 10).softmax(1), torch.arange(8)),
        call(F.cross_entropy, torch.randn(4, 3), torch.full((4,), -100)),
        call(F.soft_margin_loss, torch.randn(4), torch.ones(4)),
        call(F.mse_loss, torch.randn(4), torch.full((4,), math.nan)),
    ],
)
def test_what_is_not_known_is_none(unknown):
    assert floor(unknown) is None
    made = LossCall(**vars(CALLS["mse"]) | {"target_from_net": True})
    assert floor(made) is None
