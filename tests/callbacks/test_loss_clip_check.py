import pytest
import torch
from patients import Clipped, ClippedExamples, Healthy
from torch.nn import functional as F

from lightning_recipe import LossClipCheck, OverfitOneBatch, Status

CODE = ClippedExamples.code


def judged(fit, module, **settings):
    check = LossClipCheck()
    fit(module, [check], limit_val_batches=0, logger=False, **{"max_steps": 16, **settings})
    return check.findings


def module(of_loss):
    """A module whose loss is computed from logits and labels."""

    class Module(Healthy):
        def loss(self, logits, y):
            return of_loss(logits, y)

    return Module()


def each(logits, y):
    return F.cross_entropy(logits, y, reduction="none")


def far(logits, y):
    """Errors of numbers, mostly larger than 1."""
    return logits[:, 0] - 3.0 * y - 2


# -- false alarms first


def huber(logits, y):
    size = far(logits, y).abs()
    near = size.clamp(max=1)
    return (0.5 * near**2 + size - near).mean()


def hinge_gan(logits, y):
    real, fake = logits[:16, 0], logits[16:, 0]
    return -torch.minimum(real - 1, torch.zeros(16)).mean() - torch.minimum(-fake - 1, torch.zeros(16)).mean()


def ppo(logits, y):
    ratio, advantage = (logits[:, 0] - logits[:, 0].detach() + 0.5).exp(), torch.linspace(-1, 1, len(y))
    return -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()


def ppo_with_losses(logits, y):
    ratio, advantage = (logits[:, 0] - logits[:, 0].detach() + 0.5).exp(), torch.linspace(-1, 1, len(y))
    return torch.max(-ratio * advantage, -ratio.clamp(0.8, 1.2) * advantage).mean()


def focal(logits, y):
    ce = each(logits, y)
    return ((1 - torch.exp(-ce).clamp(1e-4, 0.3)) ** 2 * ce).mean()


def by_hand(logits, y):
    p = logits.sigmoid()[:, 0].clamp(1e-7, 0.6)
    return -(p.log() * (y > 1) + (1 - p).log() * (y <= 1)).mean() + each(logits, y).mean()


def censored(logits, y):
    error = far(logits, y)
    return torch.where(y > 2, error.clamp(max=0) ** 2, error**2).mean()


def small_losses(logits, y):
    losses = each(logits, y)
    return losses[losses < losses.detach().median()].mean()


FINE = {
    "hinge": lambda logits, y: (1 - logits[:, 0] * (2 * (y > 1) - 1)).clamp(min=0).mean(),
    "squared hinge": lambda logits, y: (logits[:, 0] + 5).clamp(max=9, min=0).pow(2).mean(),
    "squared hinge from above": lambda logits, y: (logits[:, 0] - 1).clamp(max=0).pow(2).mean(),
    "margin": F.multi_margin_loss,
    "huber": huber,
    "hinge gan": hinge_gan,
    "ppo": ppo,
    "ppo with losses": ppo_with_losses,
    "focal": focal,
    "probabilities": by_hand,
    "mask": lambda logits, y: torch.where(y > 0, each(logits, y), 0.0).mean(),
    "mask of rare examples": lambda logits, y: ((2 * y + 4 * each(logits, y)).clamp(max=6) * (y == 0)).sum() / 8,
    "negative weights": lambda logits, y: (logits[:, 0].clamp(max=-1) * (0.5 - y)).mean(),
    "trimmed": lambda logits, y: each(logits, y).topk(16, largest=False).values.mean(),
    "small losses": small_losses,
    "censored": censored,
    "free bits": lambda logits, y: each(logits, y).mean() + logits.square().mean(1).clamp(min=2).mean(),
    "flooding": lambda logits, y: each(logits, y).mean().clamp(min=2.0),
    "never binds": lambda logits, y: each(logits, y).clamp(max=1e4).mean(),
    "rare": lambda logits, y: torch.cat([each(logits, y)[:3].clamp(max=0.1), each(logits, y)[3:].clamp(max=50)]).mean(),
    "a smoothing term": lambda logits, y: each(logits, y).mean() + far(logits, y).square().clamp(max=1).mean(),
    "range of outputs": lambda logits, y: F.mse_loss(logits[:, 0].clamp(0, 0.01), (y > 1).float()),
}  # fmt: skip


@pytest.mark.parametrize("name", FINE)
def test_bounds_that_are_there_on_purpose_pass(fit, name):
    findings = judged(fit, module(FINE[name]))
    assert [f.status for f in findings] == [Status.PASSED], findings


def test_a_bound_that_is_soon_left_behind(fit):
    """Robust on purpose: after its first steps most errors are below it."""
    findings = judged(fit, module(lambda logits, y: each(logits, y).clamp(max=1.8).mean()), max_epochs=8, max_steps=-1)
    assert [f.status for f in findings] == [Status.PASSED]


# -- patients


def squared_by_hand(logits, y):
    error = far(logits, y).clamp(-1, 1)
    return (error * error).mean()


CLIPPED = {
    "examples": lambda logits, y: each(logits, y).clamp(max=1.2).mean(),
    "mean": lambda logits, y: torch.clamp(each(logits, y).mean(), 0, 0.5),
    "in place": lambda logits, y: each(logits, y).mean().clip_(max=0.5),
    "minimum": lambda logits, y: 2 * torch.minimum(each(logits, y), torch.tensor(1.0)).sum() / len(y),
    "minimum the other way": lambda logits, y: torch.min(torch.tensor(0.5), each(logits, y).mean()),
    "a tensor of bounds": lambda logits, y: each(logits, y).clamp(max=torch.full((len(y),), 1.0)).mean(),
    "hardtanh": lambda logits, y: F.hardtanh(each(logits, y), 0, 1).mean(),
    "errors": lambda logits, y: far(logits, y).clamp(-1, 1).pow(2).mean(),
    "absolute errors": lambda logits, y: far(logits, y).clamp(-1, 1).abs().mean(),
    "squared by hand": squared_by_hand,
    "weighted": lambda logits, y: (torch.linspace(0, 2, len(y)) * each(logits, y).clamp(max=1)).sum() / (y + 1).sum(),
    "two losses": lambda logits, y: each(logits, y).mean().clamp(max=0.5) + far(logits, y).abs().mean().clamp(max=0.5),
}
WHOLE = {"mean", "in place", "minimum the other way", "two losses"}


@pytest.mark.parametrize("name", CLIPPED)
def test_a_clamped_loss(fit, name):
    (finding,) = judged(fit, module(CLIPPED[name]))
    assert (finding.status, finding.code) == (Status.WARNING, CODE)
    assert finding.evidence["share"] > 0.2
    assert ("the loss itself" in finding.message) == (name in WHOLE)
    assert "test_loss_clip_check.py:" in finding.message


def test_in_manual_optimisation(fit):
    class ByHand(ClippedExamples):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    assert [f.code for f in judged(fit, ByHand())] == [CODE]


def test_it_explains_what_the_trial_shows(fit, capsys):
    fit(Clipped(), [OverfitOneBatch(max_steps=50), LossClipCheck()], limit_val_batches=0)
    table = capsys.readouterr().out.partition("lightning_recipe: ")[2]
    assert "explains: OverfitOneBatch (failed)" in " ".join(table.split())


def test_three_looks_are_not_enough(fit):
    assert [f.status for f in judged(fit, ClippedExamples(), max_steps=7)] == [Status.PASSED]


def test_without_a_loss_there_is_nothing_to_see(fit):
    class Lossless(Healthy):
        def training_step(self, batch, batch_idx):
            return None

    assert [f.status for f in judged(fit, Lossless())] == [Status.SKIPPED]


@pytest.mark.parametrize("share", [0, 1, -0.5])
def test_a_share_lies_between_0_and_1(share):
    with pytest.raises(ValueError, match="share"):
        LossClipCheck(share=share)
