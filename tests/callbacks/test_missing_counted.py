"""Targets of which some are NaN: left out, in several ways, first; then taken for 0."""

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe import LossInputCheck, Status

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(64, 6, generator=DRAW)
Y = (X @ torch.randn(6, 3, generator=DRAW)).masked_fill(torch.rand(64, 3, generator=DRAW) < 0.3, torch.nan)


class Properties(L.LightningModule):
    """Three numbers for each example.

    Args:
        loss: Of predictions, targets and a third entry.
        data: Inputs, targets and that entry.

    """

    def __init__(self, loss, *data):
        super().__init__()
        self.net, self.loss, self.rows = nn.Linear(6, 3), loss, data

    def training_step(self, batch, batch_idx):
        x, y, known = batch
        return self.loss(self.net(torch.nan_to_num(x)), y, known)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-2)

    def train_dataloader(self):
        return DataLoader(TensorDataset(*self.rows), 16)


def by_isnan(p, y, _):
    return (p - y)[~y.isnan()].square().mean()


def by_nanmean(p, y, _):
    return torch.nanmean((p.detach() - y).square()) * 0 + by_isnan(p, y, _)


def by_entry(p, y, known):
    return (F.mse_loss(p, torch.nan_to_num(y), reduction="none") * known).sum() / known.sum()


def as_0(p, y, _):
    return F.mse_loss(p, torch.nan_to_num(y))


def as_0_by_hand(p, y, _):
    return (p - torch.where(y.isnan(), 0, y)).abs().mean()


def found(fit, loss, x=X, y=Y):
    check = LossInputCheck()
    fit(Properties(loss, x, y, (~Y.isnan()).float()), [check], logger=False, max_steps=4)
    return [f for f in check.findings if f.code == "LossInputCheck/missing_counted"]


HOLES = X.masked_fill(torch.rand(64, 6, generator=DRAW) < 0.1, torch.nan)


@pytest.mark.parametrize(
    ("loss", "x", "y"),
    [
        (by_isnan, X, Y),
        (by_nanmean, X, Y),
        (by_entry, X, Y),
        (as_0, X, torch.nan_to_num(Y)),
        (as_0, HOLES, torch.nan_to_num(Y)),
    ],
    ids=["isnan", "nanmean", "a mask in the batch", "nothing missing", "inputs that are filled in"],
)
def test_what_is_missing_is_left_out(fit, loss, x, y):
    assert not found(fit, loss, x, y)


@pytest.mark.parametrize("loss", [as_0, as_0_by_hand])
def test_what_is_missing_is_taken_for_0(fit, loss):
    (finding,) = found(fit, loss)
    assert (finding.status, finding.subject) == (Status.WARNING, "batch[1]")
