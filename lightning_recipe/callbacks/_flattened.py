"""Whether something is made of an entry of the batch that is the same for all examples, before a layer sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lightning_recipe.callbacks._inputs_verdict import SAME_LOSS, SAME_OUTPUT
from lightning_recipe.callbacks._interchanged import FEWEST, differing
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.followed import Constant, Followed
from lightning_recipe.record.tensors import same
from lightning_recipe.trial.rehearsal import CannotRehearseError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lightning_recipe.callbacks._interchanged import Trial
    from lightning_recipe.trial.rehearsal import Rehearsal


def flattened(again: Rehearsal, batch: Any) -> dict[str, Constant]:
    """What enters a layer the same for all examples, by path of the entry that it is made of.

    Args:
        again: The copy, in eval mode.
        batch: As the step receives it.

    Returns:
        Of entries that have several different values, at least.

    """
    entries = {path: tensor for path, tensor in differing(batch).items() if tensor.layout is torch.strided}
    for method in ("training_step", "validation_step") if entries else ():
        with Followed(again.module) as followed:
            try:
                again.step(batch, method=method, given=lambda copy: followed.start(_chosen(copy, entries)))
            except CannotRehearseError:  # a batch of validation may be another one
                continue
        return {p: one for p, one in followed.constants.items() if _distinct(entries[p]) >= FEWEST}
    return {}


def _chosen(batch: Any, entries: dict[str, Tensor]) -> dict[str, Tensor]:
    return {path: tensor for path, tensor in differing(batch).items() if path in entries}


def _distinct(entry: Tensor) -> int:
    return len(entry.reshape(len(entry), -1).unique(dim=0))


def judge(looks: Sequence[dict[str, Constant]], trials: Sequence[Trial]) -> list[tuple[str, Outcome]]:
    """`warning` for each entry of which the same was made at all looks, and that has no effect on the loss.

    What is the same within each batch and differs from batch to batch, such as the weekday of data in order, is well.

    Args:
        looks: What was made of entries, in different batches.
        trials: What became of steps when entries were interchanged.

    Example:
        >>> judge([{"batch.hour": Constant("model.py:3", torch.zeros(1), "clock")}, {}], [])
        []

    """
    told = []
    for path, now in looks[-1].items():
        alike = all(path in look and same(look[path].row, now.row) for look in looks)
        effects = [effect for trial in trials for effect in trial.inputs.get(path, trial.targets.get(path, []))]
        idle = all(effect.loss < SAME_LOSS and not effect.outputs > SAME_OUTPUT for effect in effects)
        if not alike or not effects or not idle:
            continue
        outcome = Outcome(
            Status.WARNING,
            "one_input_ignored",
            f"{now.layer} is given the same for all examples, though it is made of {path}, which differs between them: "
            f"what becomes of it in {now.where} is constant, in each of {len(looks)} batches, and the loss stays the "
            f"same when {path} is interchanged between examples",
            f"see {now.where}: // where / was meant, a cast to whole numbers, a clamp or argmax that gives one value",
            {"looks": len(looks), "loss_change": max(effect.loss for effect in effects)},
        )
        told.append((path, outcome))
    return told
