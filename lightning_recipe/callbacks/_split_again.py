"""Whether the split into training and validation is drawn anew when the loaders are reloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_recipe.callbacks._overlap import FEW, rows_of
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.trial.stored import columns, digest, distinct

if TYPE_CHECKING:
    from collections.abc import Hashable

    from lightning_recipe.trial.stored import Part

MOVED = 0.1
"""Share of the validation examples of a later epoch that were trained on in an earlier one."""
BY_CHANCE = 0.1
"""Of that share, at most: how many are in the training examples of the same epoch, as short examples are by chance."""


def split_again(first: list[Part], now: list[Part], val: list[Part], *, began: int, epoch: int) -> Outcome | None:
    """A `warning` if validation was trained on in an earlier epoch, and is not in this one.

    The training examples of this epoch are the control: what is equal by chance, or is stored for both and told apart
    by something else, is equal to some of them, too.

    Args:
        first: What training drew in the earlier epoch.
        now: What it draws in this one.
        val: What validation draws in this one.
        began: The earlier epoch.
        epoch: This one.

    Example:
        >>> from lightning_recipe.trial.stored import Part
        >>> data = list(range(100))
        >>> first, now, val = [Part(data, range(80))], [Part(data, range(20, 100))], [Part(data, range(20))]
        >>> split_again(first, now, val, began=0, epoch=1).evidence
        {'share': 1.0, 'common': 20, 'looked_at': 20, 'epoch': 1}

    """
    by_index = len({id(part.source) for part in (*first, *now, *val)}) == 1
    earlier, same, own = (_indices(parts) if by_index else _stored(parts) for parts in (first, now, val))
    before, control = len(own & earlier), len(own & same)
    if len(own) < FEW or before < MOVED * len(own) or control > BY_CHANCE * before:
        return None
    share = before / len(own)
    return Outcome(
        Status.WARNING,
        "split_again",
        f"{before} of {len(own)} validation examples of epoch {epoch} ({share:.0%}) were trained on in epoch {began}; "
        f"{control} are in the training examples of epoch {epoch}: the split changes when the loaders are reloaded",
        "split once, in setup() or by a fixed seed, and let train_dataloader() and val_dataloader() use that split",
        {"share": share, "common": before, "looked_at": len(own), "epoch": epoch},
    )


def _indices(parts: list[Part]) -> set[Hashable]:
    return set(np.asarray(distinct(parts)).tolist())


def _stored(parts: list[Part]) -> set[Hashable]:
    """What is stored of each example; nothing if one data set does not show it."""
    stored = {id(part.source): columns(part.source) for part in parts}
    return set(map(digest, rows_of(parts, stored))) if all(stored.values()) else set()
