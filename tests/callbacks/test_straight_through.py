"""Gradients that are to go past what is chosen."""

import pytest
import torch
from patients import FEATURES, Healthy, StraightThroughDetached
from torch import nn
from torch.nn import functional as F

from lightning_recipe import GradientFlowCheck, Status

WIDTH = 8


class Autoencoder(Healthy):
    """A function between encoder and decoder, in the model's own forward or in a module without others."""

    def __init__(self, through, *, inside=False):
        super().__init__()
        self.net, self.accuracy = None, None
        self.encoder, self.decoder = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, FEATURES)
        self.codes, self.through = nn.Embedding(16, WIDTH), through
        self.bottleneck = Bottleneck(through) if inside else None

    def nearest(self, z):
        return self.codes(torch.cdist(z.detach(), self.codes.weight).argmin(-1))

    def forward(self, x):
        z = self.encoder(x)
        if self.bottleneck is not None:
            return self.decoder(self.bottleneck(z)), z
        return self.decoder(self.through(self, z)), z

    def training_step(self, batch, batch_idx):
        out, z = self(batch[0])
        return F.mse_loss(out, batch[0]) + F.mse_loss(z, self.nearest(z)) + 0.1 * z.square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Bottleneck(nn.Module):
    def __init__(self, through):
        super().__init__()
        self.table, self.through = nn.Parameter(torch.randn(16, WIDTH)), through

    def nearest(self, z):
        return self.table[torch.cdist(z, self.table).argmin(-1)]

    def forward(self, z):
        return self.through(self, z)


def judged(fit, through, *, inside=False):
    check = GradientFlowCheck()
    fit(Autoencoder(through, inside=inside), [check], limit_val_batches=0, logger=False, max_steps=8)
    return [(f.code, f.status) for f in check.findings if f.is_alarm]


def gumbel(z, hard):
    soft = z.softmax(-1)
    return hard(F.one_hot(soft.argmax(-1), WIDTH).float(), soft)


def residual(m, z, through):
    """Codes of what is left by codes."""
    left, said = z, 0.0
    for _ in range(2):
        code = m.nearest(left)
        left, said = left - code.detach(), said + code
    return through(z, said)


def without_gradients(m, z):
    with torch.no_grad():
        y = m.encoder(torch.zeros(4, FEATURES))
        told = y + (m.nearest(y) - y)
    return z + (m.nearest(z) - z).detach() + 0 * told.mean()


LEGITIMATE = {
    "a codebook": lambda m, z: z + (m.nearest(z) - z).detach(),
    "the other way round": lambda m, z: (m.nearest(z) - z).detach() + z,
    "a difference to what is detached": lambda m, z: m.nearest(z) - z.detach() + z,
    "codes of codes": lambda m, z: residual(m, z, lambda z, e: z + (e - z).detach()),
    "rounded": lambda m, z: (t := z.tanh() * 3) + (t.round() - t).detach(),
    "signs": lambda m, z: z.tanh() + (z.sign() - z.tanh()).detach(),
    "one of several": lambda m, z: gumbel(z, lambda hard, soft: hard - soft.detach() + soft),
    "on the way to a code": lambda m, z: z + 0.3 * (m.nearest(z).detach() - z),
    "lerp": lambda m, z: z.lerp(m.nearest(z).detach(), 0.5),
    "without a gradient on purpose": lambda m, z: (y := z.detach()) + (m.nearest(y) - y),
    "a change that has a gradient": lambda m, z: z + (z.tanh() - z),
    "a change that has none": lambda m, z: z + (z.tanh() - z).detach(),
    "moved to its mean": lambda m, z: z + (z.mean(0) - z),
    "of one part of all": lambda m, z: (whole := z.floor()) + (z - whole),
    "just the code": lambda m, z: m.nearest(z),
    "without gradients": without_gradients,
}


@pytest.mark.parametrize(
    ("name", "inside"),
    [(name, inside) for name in LEGITIMATE for inside in (False, True) if not (inside and name == "without gradients")],
)  # which calls the encoder
def test_gradients_that_go_where_they_are_meant_to(fit, name, inside):
    assert [told for told in judged(fit, LEGITIMATE[name], inside=inside) if "straight" in told[0]] == []


DISEASES = {
    "all of it": lambda m, z: (z + (m.nearest(z) - z)).detach(),
    "nothing": lambda m, z: z + (m.nearest(z) - z),
    "the code only": lambda m, z: z + (m.nearest(z).detach() - z),
    "a function": lambda m, z: torch.add(torch.sub(m.nearest(z), z), z).data,
    "rounded": lambda m, z: (t := z.tanh() * 3) + (t.round() - t),
    "one of several": lambda m, z: gumbel(z, lambda hard, soft: hard - soft + soft),
    "codes of codes": lambda m, z: residual(m, z, lambda z, e: (z + (e - z)).detach()),
}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", DISEASES)
def test_detached_in_the_wrong_place(fit, name, inside):
    found = judged(fit, DISEASES[name], inside=inside)
    assert (StraightThroughDetached.code, Status.FAILED) in found
