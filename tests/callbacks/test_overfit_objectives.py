"""OverfitOneBatch where several optimisers have a loss each."""

import itertools

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe import OverfitOneBatch, Status


def judged(fit, module, **settings):
    check = OverfitOneBatch(max_seconds=600, max_steps=400)
    fit(module, [check], max_steps=1, limit_val_batches=0, logger=False, **settings)
    return {finding.subject: finding for finding in check.findings}


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mlp(*sizes):
    layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
    return nn.Sequential(*layers[:-1])


def bce(logits, real):
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


class ByHand(L.LightningModule):
    rate = 2e-4

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.build()

    def build(self):
        self.g, self.d = mlp(4, 64, 6), mlp(6, 64, 64, 1)

    def update(self, optimizer, loss):
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.Adam(m.parameters(), self.rate, betas=(0.5, 0.999)) for m in (self.g, self.d)]

    def train_dataloader(self):
        return DataLoader(TensorDataset(self.data()), 16)

    def data(self):
        return rows(64, 6) * 0.5 + 1

    def noise(self, x):
        return torch.randn(len(x), 4)


class GAN(ByHand):
    def training_step(self, batch, batch_idx):
        (x,), (opt_g, opt_d) = batch, self.optimizers()
        self.toggle_optimizer(opt_g)
        self.update(opt_g, self.g_loss(self.d(self.g(self.noise(x)))))
        self.untoggle_optimizer(opt_g)
        self.toggle_optimizer(opt_d)
        self.update(opt_d, self.d_loss(x, self.g(self.noise(x)).detach()))
        self.untoggle_optimizer(opt_d)

    def g_loss(self, fake):
        return bce(fake, real=True)

    def d_loss(self, x, fake):
        return (bce(self.d(x), real=True) + bce(self.d(fake), real=False)) / 2


class DCGAN(ByHand):
    """As in PyTorch's tutorial: two backward calls for one step, gradients cleared by module."""

    def build(self):
        self.g = nn.Sequential(
            nn.ConvTranspose2d(8, 16, 4, 1, 0, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 4, 2, 1, bias=False), nn.Tanh(),
        )  # fmt: skip
        self.d = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1, bias=False), nn.LeakyReLU(0.2), nn.Conv2d(16, 32, 4, 2, 1, bias=False),
            nn.BatchNorm2d(32), nn.LeakyReLU(0.2), nn.Conv2d(32, 1, 2, bias=False), nn.Flatten(), nn.Sigmoid(),
        )  # fmt: skip

    def data(self):
        return rows(64, 1, 8, 8).cumsum(-1).tanh()

    def training_step(self, batch, batch_idx):
        (x,), (opt_g, opt_d) = batch, self.optimizers()
        ones, zeros = torch.ones(len(x), 1), torch.zeros(len(x), 1)
        self.d.zero_grad()
        self.manual_backward(F.binary_cross_entropy(self.d(x), ones))
        fake = self.g(torch.randn(len(x), 8, 1, 1))
        self.manual_backward(F.binary_cross_entropy(self.d(fake.detach()), zeros))
        opt_d.step()
        self.g.zero_grad()
        self.manual_backward(F.binary_cross_entropy(self.d(fake), ones))
        opt_g.step()


class LSGAN(GAN):
    def g_loss(self, fake):
        return (fake - 1).square().mean()

    def d_loss(self, x, fake):
        return (self.d(x) - 1).square().mean() + self.d(fake).square().mean()


class Hinge(GAN):
    def build(self):
        super().build()
        spectral_norm = nn.utils.parametrizations.spectral_norm
        self.d = nn.Sequential(*[spectral_norm(m) if isinstance(m, nn.Linear) else m for m in self.d])

    def g_loss(self, fake):
        return -fake.mean()

    def d_loss(self, x, fake):
        return (1 - self.d(x)).relu().mean() + (1 + self.d(fake)).relu().mean()


class WGANGP(Hinge):
    def build(self):
        GAN.build(self)

    def d_loss(self, x, fake):
        between = torch.lerp(fake, x, torch.rand(len(x), 1)).requires_grad_()
        (slope,) = torch.autograd.grad(self.d(between).sum(), between, create_graph=True)
        return self.d(fake).mean() - self.d(x).mean() + 10 * (slope.norm(dim=1) - 1).square().mean()


class Clipped(Hinge):
    """The first WGAN: small steps, small weights, which no critic gets far with."""

    def build(self):
        GAN.build(self)

    def d_loss(self, x, fake):
        return self.d(fake).mean() - self.d(x).mean()

    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        for parameter in self.d.parameters():
            parameter.data.clamp_(-0.01, 0.01)

    def configure_optimizers(self):
        return [torch.optim.RMSprop(m.parameters(), 5e-5) for m in (self.g, self.d)]


class AdversarialAutoencoder(ByHand):
    rate = 1e-3

    def build(self):
        self.encoder, self.decoder, self.critic = mlp(6, 64, 4), mlp(4, 64, 6), mlp(4, 64, 1)

    def training_step(self, batch, batch_idx):
        (x,), (opt, opt_critic, opt_encoder) = batch, self.optimizers()
        self.update(opt, F.mse_loss(self.decoder(self.encoder(x)), x))
        code = self.encoder(x).detach()
        self.update(opt_critic, bce(self.critic(self.noise(x)), real=True) + bce(self.critic(code), real=False))
        self.update(opt_encoder, bce(self.critic(self.encoder(x)), real=True))

    def configure_optimizers(self):
        both = [*self.encoder.parameters(), *self.decoder.parameters()]
        return [torch.optim.Adam(p, self.rate) for p in (both, self.critic.parameters(), self.encoder.parameters())]


class ActorCritic(ByHand):
    """Soft actor-critic: two critics, targets that follow, a temperature."""

    rate = 3e-4

    def build(self):
        self.actor, self.q1, self.q2 = mlp(6, 64, 64, 4), mlp(8, 64, 64, 1), mlp(8, 64, 64, 1)
        self.target = mlp(8, 64, 64, 1).requires_grad_(requires_grad=False)
        self.log_alpha = nn.Parameter(torch.zeros(1))

    def act(self, state):
        mean, log_std = self.actor(state).chunk(2, 1)
        law = torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())
        action = law.rsample()
        return action.tanh(), (law.log_prob(action) - 2 * (0.69 - action - F.softplus(-2 * action))).sum(
            1, keepdim=True
        )

    def training_step(self, batch, batch_idx):
        (x,), (opt_actor, opt_critic, opt_alpha) = batch, self.optimizers()
        action, reward, follows = x[:, :2].tanh(), x[:, 2:3], x.roll(1, 0)
        with torch.no_grad():
            then, log_p = self.act(follows)
            value = reward + 0.99 * (self.target(torch.cat([follows, then], 1)) - self.log_alpha.exp() * log_p)
        sa = torch.cat([x, action], 1)
        self.update(opt_critic, F.mse_loss(self.q1(sa), value) + F.mse_loss(self.q2(sa), value))
        mine, log_p = self.act(x)
        q = torch.minimum(self.q1(torch.cat([x, mine], 1)), self.q2(torch.cat([x, mine], 1)))
        self.update(opt_actor, (self.log_alpha.exp().detach() * log_p - q).mean())
        self.update(opt_alpha, -(self.log_alpha * (log_p.detach() - 2)).mean())
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.q1.parameters(), strict=True):
                slow.lerp_(fast, 0.005)

    def configure_optimizers(self):
        critics = [*self.q1.parameters(), *self.q2.parameters()]
        return [torch.optim.Adam(p, self.rate) for p in (self.actor.parameters(), critics, [self.log_alpha])]


class Two(ByHand):
    """Two networks that have nothing to do with each other."""

    rate = 1e-3

    def build(self):
        self.a, self.b = mlp(6, 64, 1), mlp(6, 64, 3)

    def training_step(self, batch, batch_idx):
        (x,), (opt_a, opt_b) = batch, self.optimizers()
        self.update(opt_a, F.mse_loss(self.a(x), x.sum(1, keepdim=True)))
        self.update(opt_b, F.cross_entropy(self.b(x), x[:, :3].argmax(1)))

    def configure_optimizers(self):
        return [torch.optim.Adam(m.parameters(), self.rate) for m in (self.a, self.b)]


class Turns(GAN):
    """One half a batch."""

    def training_step(self, batch, batch_idx):
        (x,), (opt_g, opt_d) = batch, self.optimizers()
        if batch_idx % 2:
            self.update(opt_g, self.g_loss(self.d(self.g(self.noise(x)))))
        else:
            self.update(opt_d, self.d_loss(x, self.g(self.noise(x)).detach()))


class Accumulated(Two):
    def training_step(self, batch, batch_idx):
        (x,), optimizers = batch, self.optimizers()
        self.manual_backward(F.mse_loss(self.a(x), x.sum(1, keepdim=True)))
        self.manual_backward(F.cross_entropy(self.b(x), x[:, :3].argmax(1)))
        if batch_idx % 2:
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()


GENERATOR = "which it does not train"


@pytest.mark.parametrize(
    ("kind", "can", "cannot"),
    [
        (GAN, {"d"}, {"g": GENERATOR}),
        (DCGAN, {"d"}, {"g": GENERATOR}),
        (LSGAN, {"d"}, {"g": GENERATOR}),
        (Hinge, {"d"}, {"g": GENERATOR}),
        (WGANGP, {"d"}, {"g": GENERATOR}),
        (Clipped, set(), {"g": GENERATOR, "d": ""}),
        (AdversarialAutoencoder, {"encoder, decoder", "critic"}, {"encoder": GENERATOR}),
        (ActorCritic, {"q1, q2"}, {"actor": "not known", "log_alpha": "not known"}),
        (Two, {"a", "b"}, {}),
        (Accumulated, {"a", "b"}, {}),
        (Turns, {"d"}, {}),
    ],
)
def test_healthy_modules(fit, kind, can, cannot):
    found = judged(fit, kind())
    assert {subject for subject, finding in found.items() if finding.status is Status.PASSED} == can
    assert {subject for subject, finding in found.items() if finding.status is Status.SKIPPED} == set(cannot)
    for subject, why in cannot.items():
        assert why in found[subject].message


# -- patients


class Wrong(GAN):
    """The discriminator's optimiser was given the generator's parameters."""

    def configure_optimizers(self):
        return [torch.optim.Adam(self.g.parameters(), 2e-4) for _ in range(2)]


class Swapped(GAN):
    def training_step(self, batch, batch_idx):
        (x,), (opt_g, opt_d) = batch, self.optimizers()
        fake = self.g(self.noise(x))
        self.update(opt_d, self.d_loss(x, fake.detach()))
        self.update(opt_g, self.g_loss(self.d(fake)))

    def configure_optimizers(self):
        return super().configure_optimizers()[::-1]


class Detached(GAN):
    """The generator's step takes the fakes that were made for the discriminator's."""

    def training_step(self, batch, batch_idx):
        (x,), (opt_g, opt_d) = batch, self.optimizers()
        fake = self.g(self.noise(x)).detach()
        self.update(opt_d, self.d_loss(x, fake))
        self.update(opt_g, self.g_loss(self.d(fake)))


class Frozen(GAN):
    def configure_optimizers(self):
        optimizers = super().configure_optimizers()
        optimizers[1].param_groups[0]["lr"] = 1e-8
        return optimizers


class StandsStill(GAN):
    def configure_optimizers(self):
        optimizers = super().configure_optimizers()
        optimizers[1].param_groups[0]["lr"] = 0.0
        return optimizers


@pytest.mark.parametrize(
    ("kind", "subject", "code", "status"),
    [
        (Detached, "g", "no_gradient", Status.WARNING),
        (Wrong, "g", "no_gradient", Status.WARNING),
        (Swapped, "g", "no_gradient", Status.WARNING),
        (Frozen, "d", "learning_rate_too_low", Status.FAILED),
        (StandsStill, "d", "weights_do_not_change", Status.FAILED),
    ],
)
def test_faults_of_one_half_are_found(fit, kind, subject, code, status):
    finding = judged(fit, kind())[subject]
    assert (finding.code, finding.status) == (f"OverfitOneBatch/{code}", status), finding


def test_it_changes_nothing(fit):
    """Neither the weights, the targets that follow, nor the numbers drawn next."""
    ends = []
    for callbacks in ([], [OverfitOneBatch(max_steps=30)]):
        torch.manual_seed(0)
        module = ActorCritic()
        fit(module, callbacks, max_steps=9, limit_val_batches=0, logger=False)
        ends.append([*(p.detach().clone() for p in module.parameters()), torch.rand(3)])
    assert all(map(torch.equal, *ends))
