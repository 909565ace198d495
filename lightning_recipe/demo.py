"""The recipe on real data: ``python -m lightning_recipe.demo [--broken]``.

A small convolutional net learns scikit-learn's handwritten digits. ``--broken`` trains it with classic mistakes.
"""

from __future__ import annotations

import argparse
import warnings
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split
from torchmetrics.classification import MulticlassAccuracy

from lightning_recipe import recipe

if TYPE_CHECKING:
    from torch.optim import Optimizer

CLASSES, CHANNELS = 10, 32


class DigitsNet(LightningModule):
    """Images (N, 1, 8, 8) to logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, CHANNELS, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.head = nn.Linear(4 * CHANNELS, CLASSES)
        self.val_accuracy = MulticlassAccuracy(CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Images to logits."""
        logits: Tensor = self.head(self.features(image).flatten(1))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        """Cross entropy of a batch of images and labels."""
        image, label = batch
        loss = F.cross_entropy(self(image), label)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        """Accuracy and loss."""
        image, label = batch
        logits = self(image)
        self.val_accuracy(logits, label)
        self.log("val_loss", F.cross_entropy(logits, label), prog_bar=True)
        self.log("val_accuracy", self.val_accuracy, prog_bar=True)

    def configure_optimizers(self) -> Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class BrokenDigitsNet(DigitsNet):
    """The same net with mistakes that raise no error."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.normal_(self.head.weight)  # a standard deviation of 1 whatever the width

    def forward(self, image: Tensor) -> Tensor:
        """Images to logits that mix the examples of the batch."""
        features = self.features(255 * image).movedim(0, -1)  # bytes, not normalised
        logits: Tensor = self.head(features.reshape(len(image), -1))  # reshape where a permutation was meant
        return logits

    def configure_optimizers(self) -> Optimizer:
        """Adam, a thousand times too slow."""
        return torch.optim.Adam(self.parameters(), lr=1e-6)


def loaders() -> tuple[DataLoader[tuple[Tensor, ...]], DataLoader[tuple[Tensor, ...]]]:
    """Training and validation batches: standardised images (N, 1, 8, 8) and labels (N,)."""
    digits = load_digits()
    images = torch.as_tensor(digits.images, dtype=torch.float32).unsqueeze(1)
    images = (images - images.mean()) / images.std()
    dataset = TensorDataset(images, torch.as_tensor(digits.target))
    train, val = random_split(dataset, [1397, 400], generator=torch.Generator().manual_seed(0))
    return DataLoader(train, 64, shuffle=True), DataLoader(val, 200)


def main() -> None:
    """Train, and print what the recipe says."""
    parser = argparse.ArgumentParser(prog="python -m lightning_recipe.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--broken", action="store_true", help="train the same net with classic mistakes")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--dir", default=".", help="where the event files go")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*(does not have many workers|LeafSpec).*")  # not what this is about
    torch.set_num_threads(1)  # for a net this small, threads that wait for each other cost more than they gain
    seed_everything(0, verbose=False)
    trainer = Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        callbacks=recipe(),
        logger=TensorBoardLogger(options.dir, name="recipe_demo", version=None),
        log_every_n_steps=5,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(BrokenDigitsNet() if options.broken else DigitsNet(), *loaders())


if __name__ == "__main__":
    main()
