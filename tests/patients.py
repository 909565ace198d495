"""A healthy module, and one subclass for each disease."""

import lightning.pytorch as L
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

CLASSES, FEATURES = 4, 12


class Healthy(L.LightningModule):
    """Classifies noisy patterns; has what disturbs easily: dropout, BatchNorm, a metric, a scheduler, shuffling."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(FEATURES, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, CLASSES)
        )
        self.accuracy = MulticlassAccuracy(CLASSES)

    def forward(self, x):
        return self.net(x)

    def loss(self, logits, y):
        return F.cross_entropy(logits, y)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        loss = self.loss(logits, y)
        self.accuracy(logits, y)
        self.log("train_loss", loss)
        self.log("train_accuracy", self.accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", self.loss(self(x), y))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=3e-3)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.9)]

    def data(self, n, seed):
        rng = torch.Generator().manual_seed(seed)
        centres = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(0))
        y = torch.arange(n) % CLASSES
        return TensorDataset(centres[y] + 0.7 * torch.randn(n, FEATURES, generator=rng), y)

    def train_dataloader(self):
        return DataLoader(self.data(256, 1), 32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.data(64, 2), 32)


class InitTooLarge(Healthy):
    def __init__(self):
        super().__init__()
        nn.init.normal_(self.net[-1].weight, std=30)


def healthy_for(check):
    """A healthy module of the kind that a check is about."""
    return KINDS.get(check.__name__, Healthy)()


KINDS = {}
"""By the name of a check to which `Healthy` is not of that kind."""
