"""Experiments that leave no trace: everything that must change something works on a copy, on borrowed randomness."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import LightningModule


@contextmanager
def isolated_rng() -> Iterator[None]:
    """Put back the random states of torch, CUDA, numpy and Python at the end, also when the body raises.

    Lightning's ``isolate_rng`` does not when the body raises.

    Example:
        >>> import torch
        >>> before = torch.get_rng_state()
        >>> with isolated_rng():
        ...     _ = torch.rand(3)
        >>> torch.equal(before, torch.get_rng_state())
        True

    """
    states = _collect_rng_states()
    try:
        yield
    finally:
        _set_rng_states(states)


def copied(pl_module: LightningModule) -> LightningModule:
    """A deep copy that belongs to no trainer.

    Raises:
        RuntimeError: If the module can't be copied; torch can't copy tensors that are the result of a computation.

    """
    trainer, pl_module._trainer = pl_module._trainer, None  # noqa: SLF001 - deepcopy would follow it to the data
    try:
        duplicate = copy.deepcopy(pl_module)
    finally:
        pl_module._trainer = trainer  # noqa: SLF001
    duplicate._metric_attributes = None  # noqa: SLF001 - Lightning's cache holds the ids of the original's metrics
    return duplicate
