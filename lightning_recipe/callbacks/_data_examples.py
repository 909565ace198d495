"""Examples in the order in which they came, from what was kept of each entry of theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_recipe.callbacks._data_targets import IDS
from lightning_recipe.callbacks._data_verdict import Examples

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from lightning_recipe.callbacks._data_seen import Seen


def combined(seen: Seen, epoch: int, label: str | None) -> list[NDArray[np.int64]]:
    """A fingerprint of each example without its label, or number, by batch of an epoch."""
    made = []
    for of, prints, size in zip(seen.epochs, seen.prints, seen.sizes, strict=True):
        if of != epoch:
            continue
        total = np.zeros(size, np.int64)
        for path, values in prints.items():
            if path != label:
                total = total * 6364136223846793005 + values
        made.append(total)
    return made


def examples_of(seen: Seen, label: str | None, target: str | None = None) -> Examples:
    """Those of the first epoch, with their classes if `label` is the path of some, else with their numbers.

    Example:
        >>> import torch
        >>> from lightning_recipe.callbacks._data_seen import Seen, add, glance
        >>> seen = Seen()
        >>> add(seen, glance({"x": torch.ones(4, 3), "y": torch.arange(4)}, 4, 0, measured=True))
        >>> examples_of(seen, "batch.y").labels.tolist(), examples_of(seen, None).batch.tolist()
        ([0, 1, 2, 3], [0, 0, 0, 0])

    """
    inputs = combined(seen, 0, label or target)
    count = len(inputs)  # batches of the first epoch come first
    if not count:
        return Examples(*(np.zeros(0, np.int64),) * 3, np.zeros(0, bool))
    labels = None
    if label is not None and all(label in values for values in seen.values[:count]):
        labels = np.concatenate([values[label] for values in seen.values[:count]]).astype(np.int64)
        labels = labels if len(np.unique(labels)) <= IDS else None
    numbers = None
    if label is None and target is not None and all(target in values for values in seen.values[:count]):
        numbers = np.concatenate([values[target] for values in seen.values[:count]]).astype(np.float64)
    batch = np.repeat(np.arange(count), seen.sizes[:count])
    return Examples(np.concatenate(inputs), labels, batch, np.concatenate(seen.rich[:count]), numbers)


def numbers_of(seen: Seen, target: str | None, entered: Collection[str]) -> tuple[list[NDArray[Any]], float]:
    """What is to be predicted of each example, by batch, and how alike neighbours are that the network is given."""
    count = seen.epochs.count(0)
    given = [alike for path, alike in seen.alike.items() if path in entered] or list(seen.alike.values())
    numbers = [values[target] for values in seen.values[:count] if target in values]
    return numbers, max((float(np.mean(alike)) for alike in given), default=0.0)
