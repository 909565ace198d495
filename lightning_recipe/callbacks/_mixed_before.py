"""Examples that are mixed on their way into the step, by the function that puts them into a batch or by a hook."""

from __future__ import annotations

import functools
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from lightning_recipe.callbacks._mixing import Share, share_of
from lightning_recipe.record.step import Need
from lightning_recipe.record.tensors import mapped
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal
from lightning_recipe.trial.reread import CannotRereadError, read_again

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning.pytorch import LightningModule

    from lightning_recipe.run import Run

EXAMPLES = 32
"""That are read again, at most."""
DRAWS, TELLING = 16, 3
"""Draws of the mixing, until so many could tell whether labels go with it: of shares that are mostly near 0 or 1, as
with CutMix and a Beta distribution of 0.3, few do."""
FEW = 4
"""Draws after which nobody mixes, if none of them was mixed."""
HOOKS = ("on_before_batch_transfer", "on_after_batch_transfer")


def shares(run: Run) -> list[Share]:
    """How a few examples, put together as they are, are mixed before the step gets them, by different draws.

    Returns:
        Nothing if nobody may have mixed them, or that can't be tried.

    """
    loader = run.loaders[0] if len(run.loaders) == 1 else None
    source, collate = (getattr(loader, name, None) for name in ("dataset", "collate_fn"))
    hooks = [hook for hook in HOOKS if run.overrides(hook)]
    if (
        source is None
        or collate is None
        or not hasattr(source, "__len__")
        or not (hooks or collate is not default_collate)
    ):
        return []
    some = torch.rand(EXAMPLES, generator=torch.Generator().manual_seed(0))  # evenly spaced ones may be of one class
    chosen = sorted({int(place * len(source)) for place in some.tolist()})
    try:
        examples = [example for (example,) in read_again(source, chosen)]
        plain = _there(run, default_collate(examples))
        with rehearsal(run) as again:
            given = hooks_first(again.module, run, lambda: collate(examples), hooks)
            found: list[Share] = []
            for seed in range(DRAWS):
                share = share_of(again.step(plain, needs=Need.INPUTS | Need.LOSSES, seed=seed), given[0])
                found += [share] if share is not None else []
                if sum(share.tells for share in found) == TELLING or (seed + 1 == FEW and not found):
                    break
            return found
    except (CannotRereadError, CannotRehearseError, TypeError, RuntimeError, KeyError):
        return []


def hooks_first(
    module: LightningModule, run: Run, collate: Callable[[], Any], hooks: list[str], method: str = "training_step"
) -> list[Any]:
    """Let the step of a copy do what is done to a batch before it.

    Args:
        module: The copy, whose own hooks are Lightning's.
        run: Of the module.
        collate: Makes the batch that hooks are given, in place of the step's own.
        hooks: Names of the module's.
        method: Name of the step.

    Returns:
        What the step was given last.

    """
    step, given = getattr(module, method), [None]

    @functools.wraps(step)
    def with_hooks(_: Any, *args: Any) -> Any:
        batch = _there(run, collate())
        for hook in hooks:
            batch = MethodType(getattr(type(run.module), hook), module)(batch, 0)
        given[0] = batch
        return step(batch, *args)

    setattr(module, method, with_hooks)
    return given


def _there(run: Run, batch: Any) -> Any:
    return mapped(batch, Tensor, lambda tensor: tensor.to(run.module.device))
