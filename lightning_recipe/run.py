"""How many examples the training DataLoaders put into a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.fabric.utilities.data import sized_len

from lightning_recipe.record.tensors import leading_size, tensors

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def training_loaders(trainer: Trainer) -> list[Any]:
    """The training DataLoaders of a fit that has begun; several where batches are combined."""
    return list(getattr(trainer.fit_loop._combined_loader, "flattened", []))  # noqa: SLF001 - train_dataloader may be nested


def batch_sizes(trainer: Trainer) -> list[int]:
    """How many examples each training DataLoader puts into a batch, of those that decide it themselves."""
    return [size for loader in training_loaders(trainer) if (size := _batch_size(loader)) is not None]


def examples_in(trainer: Trainer, batch: Any) -> int | None:
    """How many examples a batch holds: by the DataLoader if a tensor agrees, else the size that most tensors share.

    Of graphs and molecules the most tensors have a row for each node; those of the targets agree with the DataLoader.
    """
    shapes = [tensor.shape for _, tensor in tensors(batch)]
    agreed = [size for size in batch_sizes(trainer) if any(size in shape[:2] for shape in shapes)]
    return agreed[0] if agreed else leading_size(batch)


def _batch_size(loader: Any) -> int | None:
    size = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    if not isinstance(size, int):
        return None
    return min(size, sized_len(getattr(loader, "dataset", None)) or size)
