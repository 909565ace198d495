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


# -- learning rate schedules


class Scheduled(Healthy):
    """With another schedule; `code` names what is wrong with it."""

    code: str

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=3e-3)
        return [optimizer], [self.schedule(optimizer)]


class DecaysToNothing(Scheduled):
    code = "LRScheduleCheck/practically_zero"

    def schedule(self, optimizer):
        return {"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.4), "interval": "step"}


class SteppedByEpochs(Scheduled):
    """As many steps as ``get_linear_schedule_with_warmup`` is told, and Lightning's default interval."""

    code = "LRScheduleCheck/wrong_interval"

    def data(self, n, seed):
        return super().data(8 * n, seed)

    def train_dataloader(self):
        return DataLoader(self.data(256, 1), 16, shuffle=True)

    def schedule(self, optimizer):
        total = self.trainer.estimated_stepping_batches
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step / 10, 1 - step / total))


class RisesAgain(Scheduled):
    code = "LRScheduleCheck/length_mismatch"

    def schedule(self, optimizer):
        return {"scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10), "interval": "step"}


class WarmsUpForever(Scheduled):
    code = "LRScheduleCheck/warmup_longer_than_run"

    def schedule(self, optimizer):
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=40)
        return {"scheduler": schedule, "interval": "step"}


class NeverStepped(Scheduled):
    """Manual optimisation, and nobody steps the scheduler."""

    code = "LRScheduleCheck/never_stepped"

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        optimizer.step()
        return loss

    def schedule(self, optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.9)


class SteppedTwice(Scheduled):
    """By hand, and by Lightning."""

    code = "LRScheduleCheck/stepped_twice"

    def schedule(self, optimizer):
        return {"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99), "interval": "step"}

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.lr_schedulers().step()


class PlateauUpsideDown(Scheduled):
    code = "LRScheduleCheck/plateau_mode"

    def schedule(self, optimizer):
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="min")
        return {"scheduler": schedule, "monitor": "train_accuracy"}


class CutWhileImproving(Scheduled):
    """The threshold is in units of the metric, as if a loss fell by tens."""

    code = "LRScheduleCheck/cut_while_improving"

    def schedule(self, optimizer):
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=0.5, patience=0, threshold=10.0, threshold_mode="abs"
        )
        return {"scheduler": schedule, "monitor": "val_loss"}
