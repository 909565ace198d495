"""Nothing in here knows the recipe: the callbacks come from the configuration."""

from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader

from lightning_recipe.demo import DigitsNet, loaders


class Digits(LightningDataModule):
    """Your data."""

    def train_dataloader(self) -> DataLoader:
        """Images (N, 1, 8, 8) and labels (N,)."""
        return loaders()[0]

    def val_dataloader(self) -> DataLoader:
        """The same, held out."""
        return loaders()[1]


if __name__ == "__main__":
    LightningCLI(DigitsNet, Digits)  # your model in the place of DigitsNet
