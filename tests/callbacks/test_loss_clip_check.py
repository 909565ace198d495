import numpy as np
import pytest
import torch
from patients import CLASSES, Clipped, ClippedExamples, Healthy
from programs import ByHand
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe import LossClipCheck, OverfitOneBatch, Status
from lightning_recipe.record.clips import clips

CODE = ClippedExamples.code


def judged(fit, module, **settings):
    check = LossClipCheck()
    fit(module, [check], limit_val_batches=0, logger=False, **{"max_steps": 8, **settings})
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


def huber_by_where(logits, y):
    error = far(logits, y)
    return torch.where(error.abs() < 1, 0.5 * error**2, error.abs() - 0.5).mean()


def huber_by_masks(logits, y):
    error = far(logits, y)
    near = error.abs() < 1
    return (0.5 * error[near] ** 2).sum() + (error[~near].abs() - 0.5).sum()


def huber_in_place(logits, y):
    size = far(logits, y).abs()
    loss = 0.5 * size**2
    loss[size > 1] = size[size > 1] - 0.5
    return loss.mean()


def hinge_by_where(logits, y):
    missing = 1 - logits[:, 0] * (2 * (y > 1) - 1)
    return torch.where(missing > 0, missing, 0.0).mean()


def quantile_of_numpy(logits, y):
    losses = each(logits, y)
    return losses[losses < float(np.quantile(losses.detach().numpy(), 0.6))].mean()


def hard_examples(logits, y):
    losses = each(logits, y)
    return losses[losses > 1.2].sum() / len(y)


def confident(logits, y):
    """Pseudo-labels where the network is sure, as in FixMatch."""
    sure, goal = logits.detach().softmax(1).max(1)
    return (each(logits + 0.1, goal) * (sure > 0.3)).mean() + each(logits, y).mean()


def sure_only(logits, y):
    sure, goal = logits.detach().softmax(1).max(1)
    return (each(logits + 0.1, goal) * (sure > 0.5)).sum() / len(y)


def missing_targets(logits, y):
    target = torch.where(y > 1, torch.nan, 1.0)
    return torch.nan_to_num(F.mse_loss(logits[:, 0], target, reduction="none")).mean()


def vicreg(logits, y):
    return F.relu(3 - logits.std(0)).mean() - logits.square().mean().clamp(max=4)


def likelihoods(logits, y):
    return logits.softmax(1).gather(1, y[:, None])


def likely(logits, y):
    """Probabilities of which that of the right class is large, and all others are small."""
    return (logits + 9 * F.one_hot(y, CLASSES)).softmax(1)


def mixture(logits, y):
    """Of which most parts are far away from each example."""
    near = torch.eye(CLASSES)[y] * logits.softmax(1) + 1e-9 * logits.sigmoid()
    return -near.clamp(min=1e-6).sum(1).log().mean()


def gaussian(logits, y):
    """Its variance is bounded from below, and is what it is there for."""
    variance = logits[:, 1].exp().clamp(min=1)
    return 0.5 * (variance.log() + (logits[:, 0] - y).square() / variance).mean()


FINE = {
    "huber by where": huber_by_where,
    "huber by masks": huber_by_masks,
    "huber in place": huber_in_place,
    "hinge by where": hinge_by_where,
    "trimmed at the median": small_losses,
    "trimmed at a quantile": quantile_of_numpy,
    "hard examples": hard_examples,
    "confident": confident,
    "confident only": sure_only,
    "missing targets": missing_targets,
    "spread": vicreg,
    "log of probabilities": lambda logits, y: -logits.softmax(1).clamp(1e-3, 1).log().gather(1, y[:, None]).mean(),
    "of the class of each": lambda logits, y: -likelihoods(logits, y).clamp(min=1e-3).log().mean(),
    "other classes": lambda logits, y: F.nll_loss(likely(logits, y).clamp(min=0.05).log(), y),
    "other classes, of which none is picked": lambda logits, y: -(
        F.one_hot(y, CLASSES) * likely(logits, y).clamp(min=0.05).log()
    ).sum(1).mean(),
    "a mixture": mixture,
    "a mixture of two": lambda logits, y: -(
        likelihoods(logits, y).clamp(min=0.9) + likelihoods(2 * logits, y)
    ).log().mean(),
    "a scale": gaussian,
    "mask of labels": lambda logits, y: (each(logits, y) * (y < 2)).sum() / (y < 2).sum(),
    "labelled rows": lambda logits, y: F.cross_entropy(logits[y < 2], y[y < 2]),
    "a score that is pushed up": lambda logits, y: -logits[:, 0].clamp(min=0).mean(),
    "nothing infinite": lambda logits, y: torch.nan_to_num(each(logits, y)).mean(),
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


def with_rare(of_loss):
    """Two of 32 examples are of a class that is never told from another one: what it costs grows with time."""

    class Rare(Healthy):
        def loss(self, logits, y):
            return of_loss(logits, y)

        def train_dataloader(self):
            x, y = self.data(256, 1).tensors
            return DataLoader(TensorDataset(x, torch.where(torch.arange(256) % 16 == 1, 3, y % 2)), 32, shuffle=True)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    rare = Rare()
    torch.nn.init.zeros_(rare.net[-1].weight)  # begins with a uniform guess, below the bounds
    return rare


def late(fit, of_loss):
    return judged(fit, with_rare(of_loss), max_epochs=20, max_steps=-1)


RARE_AND_FINE = {
    "far above": lambda logits, y: each(logits, y).clamp(max=50).mean(),
    "a bound that moves": lambda logits, y: each(logits, y).clamp(max=float(each(logits, y).quantile(0.9))).mean(),
    "small losses": lambda logits, y: each(logits, y).topk(28, largest=False).values.mean(),
    "likelihoods": lambda logits, y: -likelihoods(logits, y).clamp(min=1e-7).log().mean(),
    "free bits": lambda logits, y: each(logits, y).clamp(min=1.5).mean(),
    "margin": F.multi_margin_loss,
}


@pytest.mark.parametrize("name", RARE_AND_FINE)
def test_rare_examples_and_bounds_that_are_there_on_purpose(fit, name):
    findings = late(fit, RARE_AND_FINE[name])
    assert [f.status for f in findings] == [Status.PASSED], findings


def test_outliers_that_are_cut_are_advice(fit):
    """A bound far above a uniform guess may be meant for wrong labels."""
    (finding,) = late(fit, lambda logits, y: each(logits, y).clamp(max=2.2).mean())
    assert (finding.status, finding.code) == (Status.ADVICE, CODE)
    assert finding.evidence["cap"] == pytest.approx(2.2)


# -- patients


def squared_by_hand(logits, y):
    error = far(logits, y).clamp(-1, 1)
    return (error * error).mean()


def of_losses(mean):
    return lambda logits, y: mean(each(logits, y))


def in_place(logits, y):
    losses = each(logits, y)
    losses[losses > 1.2] = 0
    return losses.mean()


def without_gradient(logits, y):
    losses = each(logits, y)
    with torch.no_grad():
        weights = (losses < 1.2).float()
    return (weights * losses).sum() / weights.sum().clamp(min=1)


def without_outliers(logits, y):
    """The outlying predictions and their targets are left out."""
    target = 3.0 * y + 2
    near = (logits[:, 0] - target).abs() < 4
    return F.mse_loss(logits[near, 0], target[near]) if near.any() else 0 * logits.sum()


def own_nll(logits, y):
    nll = -logits.log_softmax(1).gather(1, y[:, None]).squeeze(1)
    return torch.where(nll > 1.2, torch.full_like(nll, 1.2), nll).mean()


def infinite(logits, y):
    p = (logits.softmax(1).gather(1, y[:, None]) - 0.25).clamp(min=0)
    return torch.nan_to_num(-p.log(), posinf=10.0).mean()


def binary(logits, y):
    """A cross entropy of a yes or no, by hand."""
    p, yes = (logits[:, 0] - 2).sigmoid().clamp(0.3, 0.7), (y > 1).float()
    return -(yes * p.log() + (1 - yes) * (1 - p).log()).mean()


CLIPPED = {
    "a likelihood": lambda logits, y: -likelihoods(logits, y).clamp(min=0.25).log().mean(),
    "of all classes": lambda logits, y: -logits.softmax(1).clamp(min=0.25).log().gather(1, y[:, None]).mean(),
    "of all classes, by index": lambda logits, y: (
        -logits.softmax(1).clamp(0.25, 1)[torch.arange(len(y)), y].log().mean()
    ),
    "of all classes, nll_loss": lambda logits, y: F.nll_loss(logits.softmax(1).clamp(0.25).log(), y),
    "of all classes, one-hot": lambda logits, y: (
        -(F.one_hot(y, CLASSES) * logits.softmax(1).clamp(min=0.25).log()).sum(1).mean()
    ),
    "yes or no": binary,
    "where": lambda logits, y: torch.where(each(logits, y) < 1.2, each(logits, y), 1.2).mean(),
    "where that zeroes": own_nll,
    "times a mask": of_losses(lambda losses: (losses * ~(losses > 1.2)).mean()),
    "masked_fill": of_losses(lambda losses: losses.masked_fill(losses.ge(1.2), 1.2).mean()),
    "masked_select": of_losses(lambda losses: losses.masked_select(losses <= 1.2).sum() / 32),
    "indexing": of_losses(lambda losses: losses[losses < 1.2].sum() / 32),
    "in place by index": in_place,
    "without gradient": without_gradient,
    "outliers": without_outliers,
    "nan_to_num": infinite,
    "log-likelihood": lambda logits, y: -(-each(logits, y)).clamp(min=-1.2).mean(),
    "maximum": lambda logits, y: -torch.maximum(-each(logits, y), torch.tensor(-1.2)).mean(),
    "root": lambda logits, y: far(logits, y).clamp(-1, 1).square().mean().sqrt(),
    "norm": lambda logits, y: far(logits, y).clamp(-1, 1).norm(),
    "mse of errors": lambda logits, y: F.mse_loss(far(logits, y).clamp(-1, 1), torch.zeros(len(y))),
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


def own_log_likelihood(logits, y):
    return -logits.log_softmax(1)[torch.arange(len(y)), y].clamp(min=-1.5).mean()


RARE_AND_CUT = {
    "clamp": of_losses(lambda losses: losses.clamp(max=1.5).mean()),
    "minimum": of_losses(lambda losses: torch.minimum(losses, torch.tensor(1.5)).sum() / 32),
    "log-likelihood": own_log_likelihood,
    "by hand": lambda logits, y: -logits.softmax(1).log().gather(1, y[:, None]).clamp(min=-1.5).mean(),
}


OTHERWISE = {
    "soft targets": lambda logits, y: (
        F.cross_entropy(logits, F.one_hot(y, 4) * 1.0, reduction="none").clamp(max=1.5).mean()
    ),
    "smoothed": lambda logits, y: (
        F.cross_entropy(logits, y, reduction="none", label_smoothing=0.1).clamp(max=1.5).mean()
    ),
    "weighted classes": lambda logits, y: (
        F.cross_entropy(logits, y, torch.ones(4), reduction="none").clamp(max=1.5).mean()
    ),
    "no cross entropy": lambda logits, y: (logits[:, 0] - y).square().clamp(max=1.5).mean(),
    "sums": lambda logits, y: each(logits, y).view(-1, 2).sum(1).clamp(max=1.5).mean(),
}
NONE = {
    "each its own": lambda logits, y: each(logits, y).clamp(max=torch.arange(1, 33) * 1.0).mean(),
    "errors": lambda logits, y: (logits[:, 0] - y).clamp(-1.5, 1.5).square().mean(),
    "likelihoods": lambda logits, y: -likelihoods(logits, y).clamp(min=0.2).log().mean(),
}


@pytest.mark.parametrize("name", RARE_AND_CUT | OTHERWISE | NONE)
def test_what_is_known_of_a_bound(name):
    logits = torch.randn(32, CLASSES, generator=torch.Generator().manual_seed(0)).mul(3).requires_grad_()
    (clip,) = clips((RARE_AND_CUT | OTHERWISE | NONE)[name](logits, torch.arange(32) % CLASSES))
    assert clip.cap == (None if name in NONE else 1.5)
    assert clip.guess == (pytest.approx(np.log(CLASSES)) if name in RARE_AND_CUT else None)


@pytest.mark.parametrize(
    "mean",
    [
        lambda losses: losses.clamp(max=1.5).mean(),
        lambda losses: (losses * (losses < 1.5)).mean(),
        lambda losses: torch.where(losses > 1.5, torch.full_like(losses, 1.5), losses).mean(),
    ],
)
def test_rare_examples_that_are_cut_to_the_end(fit, mean):
    (finding,) = late(fit, of_losses(mean))
    assert (finding.status, finding.code) == (Status.WARNING, CODE), finding
    assert 0.02 < finding.evidence["share"] < 0.2
    assert finding.evidence["cap"] == 1.5
    assert "test_loss_clip_check.py:" in finding.message


def test_infinite_losses_to_the_end_are_advice(fit):
    def loss(logits, y):
        return torch.nan_to_num(each(logits.masked_fill(torch.arange(CLASSES) == 3, -torch.inf), y), posinf=0).mean()

    (finding,) = late(fit, loss)
    assert (finding.status, finding.code) == (Status.ADVICE, CODE)


class Penalised(Healthy):
    """A penalty on the weights has a gradient at each step."""

    bounded = staticmethod(lambda losses: losses.clamp(max=1.2))

    def loss(self, logits, y):
        penalty = sum(weight.square().sum() for weight in self.net.parameters()) + self.net[0].weight.norm()
        return self.bounded(each(logits, y)).mean() + 1e-4 * penalty


def test_a_penalty_on_the_weights_is_no_other_way(fit):
    assert [f.code for f in judged(fit, Penalised())] == [CODE]


def test_a_model_that_is_a_product_has_another_way(fit):
    class Scaled(Healthy):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(CLASSES))

        def forward(self, x):
            return x[:, :CLASSES] * self.scale

        def loss(self, logits, y):
            return huber(logits, y)

    assert [f.status for f in judged(fit, Scaled())] == [Status.PASSED]


def test_in_manual_optimisation(fit):
    class Module(ByHand, ClippedExamples):
        """The same disease."""

    assert [f.code for f in judged(fit, Module())] == [CODE]


def test_it_explains_what_the_trial_shows(fit, capsys):
    fit(Clipped(), [OverfitOneBatch(max_steps=50), LossClipCheck()], limit_val_batches=0)
    table = capsys.readouterr().out.partition("lightning_recipe: ")[2]
    assert "explains: OverfitOneBatch (failed)" in " ".join(table.split())


def test_a_loss_that_is_clamped_now_and_then_is_advice(fit):
    steps = iter(range(1000))
    spiking = module(lambda logits, y: (each(logits, y).mean() * (1 if next(steps) % 8 else 9)).clamp(max=3))
    (finding,) = judged(fit, spiking, max_epochs=8, max_steps=-1)
    assert (finding.status, finding.code) == (Status.ADVICE, CODE)
    assert "the loss itself" in finding.message


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
