"""Dropout that is written by hand and does not divide by the share that is kept, found by what layers are given."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_recipe.record.compiled import is_traced
from lightning_recipe.record.modules import observable
from lightning_recipe.trial.calming import without_dropout
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from torch import nn

    from lightning_recipe.run import Run
    from lightning_recipe.trial.rehearsal import Rehearsal

DROPPED = (0.05, 0.95)
"""Shares of zeros that are those of dropout."""
MIXED = 0.5
"""Share of the vectors with anything dropped, of which something is kept: what masks whole places, as of speech, is no
dropout, and need not be scaled."""


def unscaled(run: Run, batch: Any) -> tuple[str, float] | None:
    """The first layer that is given something else in training than in eval mode, if it is the same but for zeros.

    The dropout modules of torch are off, and BatchNorms take the statistics of the batch in both.

    Args:
        run: The run; its step is run on a copy.
        batch: As the step receives it.

    Returns:
        The layer's name, and the share that is kept; None if there is no such layer, or that can't be tried.

    """
    try:
        with rehearsal(run) as again:
            without_dropout(again.module)
            training = _given(again, batch)
            again.module.eval()
            for module in again.module.modules():
                module.training = isinstance(module, _BatchNorm)
            evaluated = _given(again, batch)
    except CannotRehearseError:
        return None
    for name, values in training.items():
        other = evaluated.get(name)
        if other is None or other.shape != values.shape:
            return None
        if not torch.equal(values, other):
            kept = share_kept(values, other)
            return (name, kept) if kept else None
    return None


def share_kept(masked: Tensor, whole: Tensor) -> float:
    """The share of numbers that are the same, where all others are 0 in the one; 0 if that is not so.

    Args:
        masked: Of shape (N, ..., D).
        whole: Likewise.

    Example:
        >>> x, generator = torch.ones(100, 10), torch.Generator().manual_seed(0)
        >>> mask = torch.rand(x.shape, generator=generator) < 0.5
        >>> round(share_kept(x * mask, x), 1), share_kept(2 * x * mask, x), share_kept(x * mask[:, :1], x)
        (0.5, 0.0, 0.0)

    """
    there = whole != 0
    dropped = (masked == 0) & there
    if masked.ndim < 2 or not bool(there.any()) or not torch.equal(masked[~dropped], whole[~dropped]):  # noqa: PLR2004
        return 0.0
    share = float(dropped.sum() / there.sum())
    some, left = dropped.flatten(0, -2).any(1), (there & ~dropped).flatten(0, -2).any(1)
    mixed = float((some & left).sum() / some.sum().clamp(min=1))
    return 1 - share if DROPPED[0] < share < DROPPED[1] and mixed > MIXED else 0.0


def _given(again: Rehearsal, batch: Any) -> dict[str, Tensor]:
    """What each layer is given first that was computed by another one."""
    seen: dict[str, Tensor] = {}

    def see(name: str, _: nn.Module, args: tuple[Any, ...]) -> None:
        values = args[0] if args else None
        if not isinstance(values, Tensor) or is_traced():  # by vmap: what enters stands for one example
            return
        if (
            values.layout is torch.strided
            and not values.is_nested
            and values.is_floating_point()
            and values.requires_grad
        ):
            seen.setdefault(name, values.detach())

    layers = [
        (name, m)
        for name, m, leaf, _ in observable(again.module, inside_fast=False)
        if leaf and next(m.parameters(), None) is not None
    ]
    handles = [module.register_forward_pre_hook(partial(see, name)) for name, module in layers]
    try:
        again.step(batch)
    finally:
        for handle in handles:
            handle.remove()
    return seen
