"""Losses by hand, asked for what they are: `trial/answers.py`, and what InitLossCheck makes of it."""

import math

import pytest
import torch
from handwritten import LOSSES, ByHand, dice, elbo, gaussian, info_nce, iou, log_cosh, quantile, triplet
from patients import FEATURES, Healthy
from torch import nn

from lightning_recipe import Check, InitLossCheck, Section, Status
from lightning_recipe.callbacks._init_loss_diagnosis import band
from lightning_recipe.trial.answers import Answers
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

BOUNDED = (dice, iou)
by_each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)


def judged(fit, module, **settings):
    check = InitLossCheck()
    fit(module, [check], max_steps=1, limit_val_batches=0, logger=False, **settings)
    (finding,) = check.findings
    return finding


class Asking(Check):
    """Keeps what a function makes of the answers."""

    section, why = Section.SKELETON, "a test"

    def __init__(self, question):
        super().__init__()
        self.question = question
        self.answer = None

    def first_step(self, run, step):
        with rehearsal(run) as again:
            self.answer = self.question(Answers(again, step.batch))
        return ()


def asked(fit, module, question):
    check = Asking(question)
    fit(module, [check], max_steps=1, limit_val_batches=0, logger=False)
    return check.answer


# -- healthy


def test_a_density_has_no_ratios_whatever_they_are(fit):
    module, check = ByHand(gaussian), InitLossCheck(warn_ratio=1.2, fail_ratio=1.25)
    nn.init.zeros_(module.net[-1].weight)
    module.net[-1].bias.data = torch.tensor([2.3, 0.0, 0.0])
    fit(module, [check], max_steps=1, limit_val_batches=0, logger=False)
    (finding,) = check.findings
    ratio = finding.evidence["measured"] / finding.evidence["know_nothing"] / band(module.batch_size)
    assert 1.25 < ratio < 1.5
    assert finding.status is Status.PASSED, finding


@by_each_loss
@pytest.mark.parametrize("batch_size", [2, 32])
def test_healthy_by_hand_passes_with_numbers(fit, loss, batch_size):
    module = ByHand(loss)
    module.batch_size = batch_size
    finding = judged(fit, module, seed=batch_size)
    assert finding.status is Status.PASSED, finding
    assert finding.evidence.keys() == {"measured", "know_nothing", "best_constant"}
    assert finding.evidence["best_constant"] <= finding.evidence["know_nothing"]


def test_a_temperature_is_no_mistake(fit):
    class Contrastive(ByHand):
        def training_step(self, batch, batch_idx):
            x, _ = batch
            first, second = (nn.functional.normalize(self.net(v), dim=1) for v in (x, x + torch.randn_like(x)))
            similarity = first @ second.T / 0.02
            return (torch.logsumexp(similarity, 1) - similarity.diagonal()).mean()

    finding = judged(fit, Contrastive(None))
    assert finding.status is Status.PASSED
    assert finding.evidence["measured"] > 2 * math.log(32)


def test_where_zeros_are_right_there_is_no_scale(fit):
    def residual(out, x, y):
        return (out**2).mean()

    module = ByHand(residual)
    module.net[-1].weight.data.mul_(100)
    assert judged(fit, module).status is Status.PASSED


def test_a_policy_gradient_has_no_scale_either(fit):
    def policy(out, x, y):
        action = (y[:, 0] > 0).long()
        advantage = (x[:, 0] - x[:, 0].mean()) / x[:, 0].std()
        return -(advantage * out.log_softmax(1)[torch.arange(len(x)), action]).mean()

    for seed in range(5):
        assert judged(fit, ByHand(policy), seed=seed).status is Status.PASSED


# -- the disease: outputs far off before any step


@by_each_loss
@pytest.mark.parametrize("way", ["scale", "shift"])
def test_outputs_far_off(fit, loss, way):
    module = ByHand(loss)
    if way == "scale":
        module.net[-1].weight.data.mul_(30)
    else:
        module.net[-1].bias.data.copy_(torch.tensor([20.0, -20.0, 15.0]))
    finding = judged(fit, module)
    if loss in BOUNDED or (loss, way) == (triplet, "shift"):  # whatever the outputs, or wherever they lie
        assert finding.status is Status.PASSED
    else:
        assert finding.code == "InitLossCheck/too_high"
        assert finding.status is (Status.WARNING if loss is gaussian else finding.status)
        assert finding.evidence["measured"] > 3 * finding.evidence["know_nothing"]
        assert "net.2" in finding.fix


def test_targets_far_from_zero(fit):
    def far(out, x, y):
        return log_cosh(out, x, y + 50)

    finding = judged(fit, ByHand(far))
    assert finding.code == "InitLossCheck/output_bias"
    assert finding.evidence["best_constant"] < finding.evidence["measured"] / 20


# -- what is asked, and how


def test_the_best_constants_of_quantiles(fit):
    def at(answers):
        return answers.constant()

    module = ByHand(quantile)
    _, y = module.train_dataloader().dataset[:32]
    best = torch.quantile(y, torch.tensor([0.1, 0.5, 0.9]))
    assert asked(fit, module, at) == pytest.approx(float(quantile(best, None, y)), rel=0.02)


def test_free_answers_show_what_is_never_negative(fit):
    assert asked(fit, ByHand(quantile), Answers.lowest) == pytest.approx(0, abs=0.01)
    assert asked(fit, ByHand(gaussian), Answers.lowest) < 0


def test_a_loss_computed_inside_of_the_network(fit):
    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh())
            self.mean, self.spread = nn.Linear(8, 1), nn.Linear(8, 1)
            self.temperature = nn.Parameter(torch.ones(()))  # it holds parameters around others

        def forward(self, x, y):
            h = self.body(x)
            return gaussian(torch.cat([self.mean(h), self.spread(h)], 1) * self.temperature, x, y)

    class Module(ByHand):
        def __init__(self):
            super().__init__(None)
            self.net = Inside()

        def training_step(self, batch, batch_idx):
            return {"loss": self.net(*batch)}

    assert asked(fit, Module(), lambda answers: answers.modules) == ["net.mean", "net.spread"]
    assert judged(fit, Module()).status is Status.PASSED


def test_a_convolution_answers_by_channel_and_two_views_alike(fit):
    class Views(ByHand):
        def __init__(self):
            super().__init__(None)
            self.net = nn.Conv1d(1, 2, 3, padding=1)

        def training_step(self, batch, batch_idx):
            first, second = self.net(batch[0][:, None]), self.net(-batch[0][:, None])
            return ((first - 3) ** 2 + (second - 5) ** 2).mean()

    assert asked(fit, Views(), Answers.constant) == pytest.approx(2, rel=1e-3)  # 4 for both, not 3 and 5


def test_random_steps_are_averaged(fit):
    assert asked(fit, ByHand(elbo), lambda answers: len(answers.draws)) == 3
    assert asked(fit, ByHand(info_nce), lambda answers: len(answers.draws)) == 1


def test_what_the_trunk_leaves_behind_is_not_lost(fit):
    class Penalty(ByHand):
        def __init__(self):
            super().__init__(log_cosh)
            self.body = Remembering()

        def training_step(self, batch, batch_idx):
            x, y = batch
            return super().training_step((self.body(x), y), batch_idx) + self.body.seen

    class Remembering(nn.Linear):
        def __init__(self):
            super().__init__(FEATURES, FEATURES)
            self.seen = 0.0

        def forward(self, x):
            self.seen = x.abs().mean()
            return super().forward(x)

    finding = judged(fit, Penalty())
    assert finding.evidence["know_nothing"] > 0.5 + finding.evidence["best_constant"] * 0.1
    assert finding.status is Status.PASSED


@pytest.mark.parametrize("kind", ["without modules", "raises"])
def test_where_nothing_can_be_asked_it_says_why(fit, kind):
    class Module(ByHand):
        def __init__(self):
            super().__init__(None)
            self.weight = nn.Parameter(torch.zeros(FEATURES, 1))
            self.times = []  # shared by none, and counted

        def training_step(self, batch, batch_idx):
            x, y = batch
            if kind == "raises":
                x.requires_grad_()
                out = self.net(x)
                (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
                return (slope**2).mean() + (out - y).abs().mean()
            return ((x @ self.weight - y) ** 2).mean()

    finding = judged(fit, Module())
    assert (finding.status, finding.code) == (Status.SKIPPED, "InitLossCheck/cannot_ask")
    assert finding.evidence["measured"] > 0


def test_the_run_goes_on_as_without(fit):
    def run(callbacks):
        torch.manual_seed(1)
        module = ByHand(elbo)
        fit(module, callbacks, max_steps=3, limit_val_batches=0, logger=False)
        return {name: value.tolist() for name, value in module.state_dict().items()} | {"next": torch.rand(1).item()}

    assert run([]) == run([InitLossCheck()])


def test_no_copy_no_answers(fit):
    class Generator(Healthy):
        def __init__(self):
            super().__init__()
            self.stream = (i for i in range(3))

        def training_step(self, batch, batch_idx):
            return (self.net(batch[0]) ** 2).mean()

    assert judged(fit, Generator()).code == "InitLossCheck/cannot_ask"
    assert issubclass(CannotRehearseError, Exception)


def test_what_lies_between_two_frontiers_follows_the_answers(fit):
    class Coder(ByHand):
        """The code is held by its size, too, so that encoder and decoder are at the frontier."""

        def __init__(self):
            super().__init__(None)
            self.encoder, self.decoder = nn.Linear(FEATURES, 2), nn.Sequential(nn.Linear(2, 8), nn.Linear(8, 1))

        def training_step(self, batch, batch_idx):
            code = self.encoder(batch[0])
            middle = self.decoder[0](code)
            return (code**2).mean() + (middle**2).mean() + ((self.decoder[1](middle) - batch[1]) ** 2).mean()

    def known(answers):
        answers.lowest()
        return answers.modules, {name for name, *_ in answers._trunk._known}

    modules, remembered = asked(fit, Coder(), known)
    assert modules == ["encoder", "decoder.0", "decoder.1"]
    assert not remembered
