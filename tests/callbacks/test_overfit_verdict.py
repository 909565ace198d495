"""The decisions of OverfitOneBatch: fits made by hand in, outcomes out."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_recipe.callbacks._overfit_progress import Trial
from lightning_recipe.callbacks._overfit_symptoms import cause
from lightning_recipe.callbacks._overfit_texts import TEXTS
from lightning_recipe.callbacks._overfit_verdict import outcome
from lightning_recipe.losses.floor import Floor
from lightning_recipe.record.step import LossCall, NetCall, Step
from lightning_recipe.trial.short_fit import Fit

NET = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 4))
X = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
Y = torch.arange(8) % 4
START = math.log(4)  # what it takes to know the labels of Y only, from where the way goes down to 0
LOGITS = torch.randn(8, 4, generator=torch.Generator().manual_seed(2))
SEVERAL = (torch.arange(32).reshape(8, 4) % 3 > 0).float()  # two or three labels for each example
REACHED = [START * 0.95**i for i in range(150)]
FLAT = [START] * 150
JUMPING = [START * (1 + i % 2) for i in range(150)]


def falling(share):
    """Down in equal steps, until this share of the way is left."""
    return [START * (1 - (1 - share) * i / 149) for i in range(150)]


HOVERING = [*falling(0.05)[::2], *(START * (0.06 + 0.02 * (i % 2)) for i in range(75))]


def loss_call(function, prediction, target):
    arguments = {"input": prediction, "target": target}
    return LossCall(
        function.__name__, function, arguments, function(prediction, target), 8, "model.py:1", target_from_net=False
    )


def step(*calls, inputs=X):
    return Step(None, net_calls=[NetCall("net", NET, (), {}, {"net.x": inputs})], loss_calls=list(calls))


def fit(losses, *calls, inputs=X, optimizer="SGD (lr 0.1)", **facts):
    """Every step was probed."""
    seen = step(*(calls or [loss_call(F.cross_entropy, LOGITS, Y)]), inputs=inputs)
    facts = {"weights_moved": True, "grads": {"0.weight": 1.0}, **facts}
    values = {i: [loss] * len(seen.loss_calls) for i, loss in enumerate(losses)}
    return Fit(optimizer, losses, values, seen, seen, **facts)


def by_hand(losses, **facts):
    """The loss is none of torch's."""
    unseen = {"weights_moved": True, "grads": {"0.weight": 1.0}, **facts}
    return Fit("SGD (lr 0.1)", losses, {i: [] for i in range(len(losses))}, step(), step(), **unseen)


ADAM = fit(REACHED, optimizer="Adam (lr 0.0003)")
STUCK = fit(FLAT, optimizer="Adam (lr 0.001)")
NO_GRADIENT = {"weights_moved": False, "grads": {"0.weight": 0.0}}
SAME = loss_call(F.cross_entropy, torch.ones(8, 4), Y)
MANY = loss_call(F.mse_loss, LOGITS.flip(0), LOGITS)
PENALISED = fit(FLAT)
PENALISED.losses = [loss + i / 10 for i, loss in enumerate(FLAT)]
LESS_PENALISED = fit(falling(0.3))
LESS_PENALISED.losses = PENALISED.losses
HARDLY_A_CONSTANT = fit([4 * loss for loss in falling(0.2)], cut_short=True)

CASES = [
    ("no_step", "skipped", [fit([])]),
    ("no_finite_loss", "skipped", [fit([math.nan] * 3)]),
    ("memorised", "passed", [fit(REACHED)]),
    ("memorised", "passed", [by_hand(REACHED)]),
    ("no_gradient", "failed", [fit(FLAT, **NO_GRADIENT)]),
    ("no_gradient", "warning", [by_hand(FLAT, **NO_GRADIENT)]),
    ("unknown_floor", "skipped", [by_hand([0.0] * 150, **NO_GRADIENT, noise=1.0)]),
    ("cannot_tell_examples_apart", "failed", [fit(FLAT, SAME), fit(FLAT, SAME)]),
    ("unknown_floor", "skipped", [by_hand(FLAT)]),
    ("noisy", "skipped", [fit(FLAT, noise=0.5)]),
    ("other_terms", "skipped", [PENALISED]),
    ("beside_other_terms", "passed", [LESS_PENALISED]),
    ("still_falling", "passed", [fit(falling(0.6), cut_short=True)]),
    ("still_falling", "passed", [fit(falling(0.6)[::3], cut_short=True)]),
    ("too_expensive", "skipped", [fit(falling(0.8)[::3], cut_short=True)]),
    ("on_its_way", "passed", [fit(falling(0.8), cut_short=True), ADAM]),
    ("work_over", "skipped", [fit([3 * loss for loss in falling(0.8)], cut_short=True), HARDLY_A_CONSTANT]),
    ("too_few_steps", "skipped", [fit(FLAT[:50])]),
    ("rates_of_its_own", "passed", [fit(FLAT, lr_overridden=True), ADAM]),
    ("on_its_way", "passed", [fit(falling(0.4)), ADAM]),
    ("optimiser_slow", "warning", [fit(falling(0.6)), ADAM]),
    ("learning_rate_too_low", "failed", [fit(FLAT), ADAM]),
    ("learning_rate_too_low", "failed", [fit(FLAT), fit(falling(0.2))]),  # Adam nearly gets there
    ("optimiser_unstable", "failed", [fit(JUMPING), ADAM]),
    ("hovers", "passed", [fit(HOVERING), ADAM]),
    ("parameters_left_out", "failed", [fit(FLAT, left_out=["0.weight"]), ADAM]),
    ("weights_do_not_change", "failed", [fit(FLAT, weights_moved=False), ADAM]),
    ("examples_unknown", "skipped", [fit(FLAT, inputs=torch.randn(30, 3)), STUCK]),
    ("still_falling", "passed", [fit(falling(0.2))]),
    ("work_over", "skipped", [fit(falling(0.8), cut_short=True), STUCK]),
    ("work_over", "skipped", [fit([5 * loss for loss in falling(0.22)], cut_short=True), STUCK]),  # above a constant
    ("time_over", "skipped", [fit(falling(0.6), out_of_time=True), STUCK]),
    ("time_over", "skipped", [fit(FLAT), fit(FLAT, out_of_time=True)]),
    ("too_expensive", "skipped", [fit(FLAT[:4], cut_short=True, work=0.2)]),
    ("too_slow", "warning", [fit(falling(0.6)), STUCK]),
    ("too_slow", "warning", [fit(FLAT), fit(falling(0.6))]),
    ("parameters_left_out", "warning", [fit(falling(0.6), left_out=["0.bias"]), STUCK]),
    ("single_layer", "skipped", [fit(falling(0.6), left_out=["0.weight", "0.bias"]), STUCK]),
    ("stuck", "failed", [fit(FLAT), STUCK]),
    ("stuck", "warning", [fit(FLAT, MANY), fit(FLAT, MANY)]),
    ("parameters_left_out", "failed", [fit(FLAT, left_out=["0.bias"]), STUCK]),
    ("weights_do_not_change", "failed", [fit(FLAT, weights_moved=False), fit(FLAT, weights_moved=False)]),
]


@pytest.mark.parametrize(("code", "status", "fits"), CASES, ids=[f"{code}-{status}" for code, status, _ in CASES])
def test_fits_and_what_is_made_of_them(code, status, fits):
    found = outcome(Trial(0.02, fits, examples=8), NET)
    assert (found.code, found.status) == (code, status), found.message
    assert bool(found.fix) == (status in {"failed", "warning"})
    assert found.message
    if fits[0].losses and math.isfinite(fits[0].losses[0]):
        assert found.evidence["steps"] == len(fits[0].losses)
        assert found.evidence["examples"] == 8
        assert ("measured_with_adam" in found.evidence) == (len(fits) > 1)


AT_ITS_EDGE = "optimiser_at_its_edge"
EXEMPT = ("other_gradient", "goes_on", "affine")


def test_a_fit_at_a_smaller_rate_tells_an_edge():
    unstable = next(fits for code, _, fits in CASES if code == "optimiser_unstable")
    for slower, code in ((fit(REACHED), AT_ITS_EDGE), (unstable[0], "optimiser_unstable")):
        assert outcome(Trial(0.02, unstable, examples=8, slower=slower), NET).code == code


@pytest.mark.parametrize("code", EXEMPT)
def test_what_need_not_be_memorised(code):
    stuck = next(fits for code, _, fits in CASES if code == "stuck")
    assert outcome(Trial(0.02, stuck, examples=8, exempt=code), NET).code == code


def test_every_code_has_a_case():
    assert {code for code, *_ in CASES} | {
        *EXEMPT,
        "single_layer",
        "free_answers_only",
        "layer_held",
        AT_ITS_EDGE,
    } == {
        *TEXTS,
        "no_step",
        "no_finite_loss",
    }


def test_of_a_loss_by_hand_only_what_knows_no_more_than_a_constant_is_accused():
    def found(*fits):
        return outcome(Trial(0.02, list(fits), examples=8, asked=Floor(0.0, FLAT[0])), NET)

    assert found(by_hand(REACHED)).code == "memorised"
    for share, status in ((0.6, "skipped"), (0.4, "passed")):
        some = by_hand([FLAT[0] * share] * len(FLAT))
        assert (found(some, some).code, found(some, some).status) == ("free_answers_only", status)
    assert found(some, by_hand(REACHED)).status == "failed"
    assert (found(by_hand(FLAT), by_hand(FLAT)).code, found(by_hand(FLAT), by_hand(FLAT)).status) == (
        "stuck",
        "warning",
    )
    assert found(by_hand(FLAT), by_hand(REACHED)).code == "learning_rate_too_low"


@pytest.mark.parametrize(
    ("gradients", "code"), [((1.0, 0.0), "layer_held"), ((0.0, 1.0), "stuck"), ((1.0, 1.0), "stuck")]
)
def test_a_last_layer_without_a_gradient_is_held(gradients, code):
    stuck = by_hand(FLAT, grads=dict(zip(("body.weight", "head.weight"), gradients, strict=True)))
    asked = Floor(0.0, FLAT[0], layers=("head",))
    assert outcome(Trial(0.02, [stuck, stuck], examples=8, asked=asked), NET).code == code


def test_a_single_layer_is_not_accused():
    assert outcome(Trial(0.02, [fit(FLAT), STUCK]), nn.Linear(3, 4)).code == "single_layer"
    assert outcome(Trial(0.02, [fit(FLAT), ADAM]), nn.Linear(3, 4)).code == "learning_rate_too_low"


def test_a_rate_that_warms_up_is_doubted_only():
    found = outcome(Trial(0.02, [fit(FLAT), ADAM], warms_up=True), NET)
    assert (found.code, found.status) == ("learning_rate_too_low", "warning")


def test_the_optimiser_is_named_with_what_it_did_and_what_adam_can():
    found = outcome(Trial(0.02, [fit(FLAT), ADAM], examples=8), NET)
    assert "your SGD (lr 0.1) cannot overfit 8 examples (1.386 -> 1.386 in 150 steps)" in found.message
    assert "Adam (lr 0.0003) can (-> " in found.message
    assert found.evidence["left"] == pytest.approx(1)


def test_what_could_not_change_is_said_before_the_rest():
    """Code that steps by hand, and never calls step(), gets gradients nobody uses; a copy's parameters get none."""
    left_out = fit(FLAT, left_out=["0.weight", "0.bias", "2.weight"], weights_moved=False)
    found = outcome(Trial(0.02, [left_out, left_out]), NET)
    assert found.message.startswith("the optimiser does not hold the parameters of 0, 2")


def test_a_fit_that_went_on_is_taken_at_its_pace():
    slow = fit(falling(0.45), longer=True)  # it would need as many steps again, and fewer
    assert outcome(Trial(0.02, [slow]), NET).code == "still_falling"
    assert outcome(Trial(0.02, [fit(falling(0.6), longer=True), STUCK]), NET).code == "too_slow"


def in_parts(*weighted, **facts):
    """A fit that minimised the sum of several losses, each of a weight, a call and its values."""
    calls = [call for _, call, _ in weighted]
    values = {i: list(one) for i, one in enumerate(zip(*(found for *_, found in weighted), strict=True))}
    made = fit([sum(w * one for (w, *_), one in zip(weighted, v, strict=True)) for v in values.values()], *calls)
    made.calls = values
    return made


def test_of_several_losses_the_one_that_stayed_is_named_with_its_weight():
    mse = loss_call(F.mse_loss, LOGITS + 1, LOGITS)
    bce = loss_call(F.binary_cross_entropy_with_logits, torch.zeros(8), (Y > 1).float())
    fell, stayed = [9 * 0.9**i for i in range(150)], [math.log(2) + 0.4 * 0.5**i for i in range(150)]
    own = in_parts((1.0, mse, fell), (0.01, bce, stayed))
    adam = in_parts((1.0, mse, fell), (0.01, bce, fell))
    found = outcome(Trial(0.02, [own, adam], examples=8), NET)
    assert found.code == "learning_rate_too_low"
    assert "binary_cross_entropy_with_logits, of weight 0.01" in found.message


def test_the_floor_is_in_the_units_of_the_steps_own_loss():
    soft = loss_call(F.cross_entropy, LOGITS, torch.full((8, 4), 0.25) + 0.2 * LOGITS.softmax(1) - 0.05)
    values = [9 * 0.9**i + 2 for i in range(150)]
    own = in_parts((3.0, soft, values))
    trial = Trial(0.02, [own])
    assert trial.lowest(own) == pytest.approx(3 * trial.floors(own)[0].value)
    own.losses = [loss + i % 7 for i, loss in enumerate(own.losses)]  # other terms
    assert trial.lowest(own) is None
    assert "floor" not in outcome(trial, NET).evidence


@pytest.mark.parametrize(
    ("stuck", "net", "named"),
    [
        (fit(FLAT, grads={"0.weight": 0.0, "2.weight": 1.0}, inputs=1000 * X), NET, "no gradient reaches 0"),
        (fit(FLAT, inputs=1000 * X), NET, "scale the input net.x"),
        (fit(FLAT, inputs=X / 1000), NET, "scale the input net.x"),
        (fit(FLAT, loss_call(F.mse_loss, LOGITS, 1000 * LOGITS)), NET, "scale the target of mse_loss"),
        (fit(FLAT), nn.Linear(3, 1), "4 trainable parameters for 8 targets"),
        (fit(FLAT, inputs=torch.zeros(8, 3)), NET, "enlarge the model"),
        (fit(FLAT, inputs=torch.arange(24).reshape(8, 3)), NET, "enlarge the model"),  # such as tokens
    ],
)
def test_what_is_stuck_has_one_cause(stuck, net, named):
    assert named in cause(stuck, net)
