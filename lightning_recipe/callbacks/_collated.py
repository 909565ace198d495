"""Examples as they come out of a ``collate_fn``, one by one: what augments there, augments training and validation."""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import default_collate, default_convert

from lightning_recipe.callbacks import _augmentation as draws_of
from lightning_recipe.callbacks import _flips as flips
from lightning_recipe.record.tensors import mapped

if TYPE_CHECKING:
    from lightning_recipe.callbacks._augmentation import Draws


class Collated:
    """A data set whose examples went through a ``collate_fn``, each as a batch of its own.

    Args:
        data: Of the map style.
        collate: Of its loader.

    Example:
        >>> from torch import ones
        >>> Collated([1.0, 2.0], lambda examples: ones(1, 3) * examples[0])[1]
        tensor([2., 2., 2.])

    """

    def __init__(self, data: Any, collate: Any) -> None:
        self.data, self.collate = data, collate

    @classmethod
    def of(cls, loader: Any) -> Collated | None:
        """What a loader gives; None if it has no function of its own, or no batches."""
        collate, data = getattr(loader, "collate_fn", None), getattr(loader, "dataset", None)
        plain = (
            any(collate is known for known in (None, default_collate, default_convert))
            or getattr(loader, "batch_sampler", None) is None
        )
        return None if plain or data is None else cls(data, collate)

    def calls_the_same(self, other: Collated) -> bool:
        """Whether both have the very same function, or method of one object."""
        one, two = self.collate, other.collate
        return one is two or (isinstance(one, MethodType) and one == two)

    def __len__(self) -> int:
        """As many as before."""
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        """The only one of its batch."""
        batch = self.collate([self.data[index]])
        if isinstance(batch, list) and len(batch) == 1:
            return batch[0]
        return mapped(batch, Tensor, lambda one: one[0] if one.shape[:1] == (1,) else one)


def is_augmented(draws: Draws) -> bool:
    """Whether an input becomes another one each time, which looks like it: noise of its own and negatives do not.

    Args:
        draws: Examples of a data set.

    """
    changed = draws_of.differing(draws)
    alike = [
        one[name].is_floating_point()
        and one[name].numel() > draws_of.LEAST
        and one[name].shape == other[name].shape
        and (torch.equal(one[name], other[name]) or flips.correlation(one[name], other[name]) > draws_of.ALIKE)
        for name in changed
        for one, *others in draws
        for other in others
        if name in one and name in other
    ]
    return bool(alike) and sum(alike) > len(alike) / 2
