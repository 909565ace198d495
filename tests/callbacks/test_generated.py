"""Data beside what a network makes: in its range, or of no range, first; then data that it can never make."""

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe import LossInputCheck, Status

RAW = torch.randint(17, (64, 6), generator=torch.Generator().manual_seed(0)).float()


class Adversaries(L.LightningModule):
    """Takes turns by hand.

    Args:
        data: Rows of 6 numbers.
        ends: What the generator ends with.

    """

    def __init__(self, data, *ends):
        super().__init__()
        self.automatic_optimization = False
        self.rows = data
        self.generator = nn.Sequential(nn.Linear(4, 6), *ends)
        self.discriminator = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(), nn.Linear(8, 1))

    def made(self, count):
        return self.generator(torch.randn(count, 4))

    def training_step(self, batch, batch_idx):
        (real,), (of_made, of_real) = batch, self.optimizers()
        fake = self.made(len(real))
        for optimizer, loss in (
            (of_real, lambda: F.softplus(-self.discriminator(real)) + F.softplus(self.discriminator(fake.detach()))),
            (of_made, lambda: F.softplus(-self.discriminator(fake))),
        ):
            optimizer.zero_grad()
            self.manual_backward(loss().mean())
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.Adam(net.parameters(), 1e-3) for net in (self.generator, self.discriminator)]

    def train_dataloader(self):
        return DataLoader(TensorDataset(self.rows), 16, shuffle=True)


class ByFunction(Adversaries):
    def made(self, count):
        return torch.tanh(super().made(count)).view(count, 6)


class OneBlock(Adversaries):
    """The same layers again and again, whose own answers are bounded."""

    def __init__(self):
        super().__init__(RAW)
        self.generator, self.discriminator = nn.Linear(6, 6), nn.Linear(6, 1)

    def training_step(self, batch, batch_idx):
        h = batch[0]
        for _ in range(3):
            h = torch.tanh(self.generator(h))
        optimizer = self.optimizers()[0]
        optimizer.zero_grad()
        self.manual_backward(self.discriminator(h).square().mean())
        optimizer.step()


def found(fit, module):
    check = LossInputCheck()
    fit(module, [check], logger=False, max_steps=4)
    return [f for f in check.findings if f.code == "LossInputCheck/out_of_range"]


@pytest.mark.parametrize(
    "module",
    [
        Adversaries(RAW / 8 - 1, nn.Tanh()),
        Adversaries(RAW / 16, nn.Sigmoid()),
        Adversaries(RAW),
        Adversaries(RAW, nn.ReLU()),
        Adversaries((RAW / 8 - 1) * 1.03, nn.Tanh()),
        *(Adversaries(torch.where(torch.rand_like(RAW) < 0.02, 5.0, RAW / 16), nn.Tanh()) for _ in range(9)),
        ByFunction(RAW / 8 - 1),
        OneBlock(),
    ],
    ids=["scaled", "0 to 1", "linear", "without end", "nearly scaled", *9 * ["outliers"], "function", "one block"],
)
def test_data_that_can_be_made(fit, module):
    assert not found(fit, module)


@pytest.mark.parametrize(
    "module",
    [
        Adversaries(RAW, nn.Tanh()),
        Adversaries(RAW, nn.Tanh(), nn.Unflatten(1, (6,))),
        Adversaries((RAW - 8) / 5, nn.Sigmoid()),
        ByFunction(RAW),
    ],
    ids=["raw", "reshaped", "standardised", "function"],
)
def test_data_that_can_not_be_made(fit, module):
    (finding,) = found(fit, module)
    assert (finding.status, finding.subject) == (Status.WARNING, "discriminator")
