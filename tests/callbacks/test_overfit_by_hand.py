"""OverfitOneBatch on losses written by hand."""

import pytest
import torch
from handwritten import LOSSES, ByHand, elbo, gaussian, info_nce, log_cosh
from patients import Healthy
from torch.distributions import Categorical, Normal

from lightning_recipe import OverfitOneBatch, Status
from lightning_recipe.callbacks import _overfit_fits


def judged(fit, module, **settings):
    check = OverfitOneBatch(max_seconds=600)
    fit(module, [check], max_steps=1, limit_val_batches=0, logger=False, **settings)
    (finding,) = check.findings
    return finding


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_healthy_by_hand_is_memorised(fit, loss):
    finding = judged(fit, ByHand(loss))
    assert (finding.code, finding.status) == ("OverfitOneBatch/memorised", Status.PASSED), finding
    assert finding.evidence["measured"] < finding.evidence["constant"]
    assert finding.evidence["floor"] < finding.evidence["constant"]


@pytest.mark.parametrize("loss", [log_cosh, gaussian, info_nce], ids=lambda loss: loss.__name__)
def test_a_rate_that_is_too_low(fit, loss):
    class Slow(ByHand):
        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-7)

    finding = judged(fit, Slow(loss))
    assert (finding.code, finding.status) == ("OverfitOneBatch/learning_rate_too_low", Status.FAILED), finding


def test_inputs_that_are_overwritten(fit):
    class Blind(ByHand):
        def training_step(self, batch, batch_idx):
            x, y = batch
            return self.loss(self.net(x * 0), x, y)

    finding = judged(fit, Blind(log_cosh))
    assert finding.status in {Status.FAILED, Status.WARNING, Status.SKIPPED}
    assert finding.code != "OverfitOneBatch/memorised"


def test_new_draws_need_not_be_memorised(fit):
    finding = judged(fit, ByHand(elbo))
    assert finding.status is Status.PASSED
    assert finding.evidence["left"] > 0.02


@pytest.mark.parametrize(("module", "times"), [(Healthy(), 0), (ByHand(log_cosh), 1)])
def test_only_a_step_whose_floor_is_not_known_is_asked(fit, monkeypatch, module, times):
    asked = []
    monkeypatch.setattr(_overfit_fits, "asked", lambda *_: asked.append(1) or "nobody knows")
    judged(fit, module)
    assert len(asked) == times


def test_a_last_layer_that_is_held_for_now(fit):
    class Held(ByHand):
        """For an epoch, as DINO's is."""

        def on_after_backward(self):
            for parameter in self.net[-1].parameters():
                parameter.grad = None

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-5)  # the rest is hardly moved

    finding = judged(fit, Held(log_cosh))
    assert (finding.status, finding.code) == (Status.SKIPPED, "OverfitOneBatch/layer_held"), finding


def test_a_policy_gradient_has_no_lowest_loss(fit):
    def advantage_actor_critic(out, x, y):
        log_p = out[:, :2].log_softmax(1)
        advantage = (x[:, 0] - x[:, 0].mean()) / x[:, 0].std()
        chosen = log_p[torch.arange(len(x)), (y[:, 0] > 0).long()]
        entropy = -(log_p.exp() * log_p).sum(1).mean()
        return -(advantage * chosen).mean() + 0.5 * (out[:, 2] - y[:, 0]).square().mean() - 0.01 * entropy

    class Slowly(ByHand):
        def configure_optimizers(self):
            return torch.optim.RMSprop(self.parameters(), 2e-3)

    finding = judged(fit, Slowly(advantage_actor_critic))
    assert finding.status in {Status.SKIPPED, Status.PASSED}, finding


@pytest.mark.parametrize("distribution", [Categorical, lambda logits: Normal(logits, 1.0)])
def test_a_policy_that_acts_within_the_step_has_none(fit, distribution):
    def reinforce(out, x, y):
        policy = distribution(logits=out) if distribution is Categorical else distribution(out)
        action = policy.sample()
        reward = torch.cos(action.reshape(len(x), -1).float().sum(1) + x[:, 0])
        return -((reward - reward.mean()) * policy.log_prob(action).reshape(len(x), -1).sum(1)).mean()

    finding = judged(fit, ByHand(reinforce))
    assert finding.status is Status.SKIPPED, finding
    assert "as from a policy" in finding.message
