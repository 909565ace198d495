"""Whether an example's output depends on its place in the batch, which no gradient shows: answered by reordering it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightning_recipe.dependencies.backprop import SEED, Rows, UndecidedError
from lightning_recipe.dependencies.examples import why_bound
from lightning_recipe.dependencies.traces import Event, trace
from lightning_recipe.record.tensors import mapped

if TYPE_CHECKING:
    from lightning_recipe.dependencies.examples import Batch
    from lightning_recipe.dependencies.rerun import Rerun

FEWEST = 4
"""Examples from which on treating each place apart differs from treating a few groups apart, such as two views."""
_PARTS = {"_parameters", "_buffers", "_modules"}


@dataclass(frozen=True)
class Placed:
    """Outputs depend on the place of an example.

    Attributes:
        batch: The rows.
        event: Where it begins.
        answers: How many different outputs copies of one example have, one at each place.

    """

    batch: Batch
    event: Event
    answers: int


def judge_places(rerun: Rerun, batch: Batch) -> Placed | float:
    """Reorder the examples: the outputs must follow. Where they don't, put one example at all places.

    Only what treats most places apart is reported: halves, pairs and groups may be meant, and so may be a value that
    the step itself gives to each place, such as a noise level.

    Args:
        rerun: A step in which no examples mix, on a copy; this changes it.
        batch: What is known of its rows.

    Returns:
        Where it begins; or how far the outputs are from following, as a share of the largest.

    Raises:
        UndecidedError: If it can't be told; says why.

    """
    if batch.owners or batch.size < FEWEST:
        msg = "graphs have none" if batch.owners else f"{batch.size} are too few"
        raise UndecidedError(msg)
    rerun.be_precise()
    away = rerun.out_of_order()
    if away is None:
        msg = "random numbers are drawn"
        raise UndecidedError(msg)
    if away < rerun.tolerance:
        return away
    if bound := why_bound(batch):
        raise UndecidedError(bound)
    if rerun.seeds_itself():
        msg = "random numbers are drawn, from a seed that the step sets"
        raise UndecidedError(msg)
    if not batch.examples:
        msg = "outputs depend on the order of the rows, which may be nodes, points or steps in time"
        raise UndecidedError(msg)
    for module in rerun.module.modules():
        module.training = False
        _level(module, rerun)
    return _treated_apart(rerun, batch)


def _treated_apart(rerun: Rerun, batch: Batch) -> Placed:
    """Where copies of one example, one at each place, begin to differ.

    Raises:
        UndecidedError: If they don't at most places, or this may be meant.

    """

    def many(values: list[Tensor]) -> bool:
        return max((_different(value, rerun) for value in values), default=0) > batch.size / 2

    first, second = (trace(rerun, order=torch.full((batch.size,), i)) for i in (0, 1))
    answers = [
        a.where(a != b, 0) for a, b in zip(first[-1].values, second[-1].values, strict=True)
    ]  # not mere positions
    if not many(answers):
        msg = "outputs depend on the order of the batch by a state that is kept, or as those of two views may"
        raise UndecidedError(msg)
    for event, other in zip(first[:-1], second, strict=False):
        given = [a.where(a == b, 0) for a, b in zip(event.values, other.values, strict=True)]  # whatever the example
        if event.in_step and many(given):
            msg = f"each place in the batch gets a value of its own {event.where}, which may be meant"
            raise UndecidedError(msg)
    begins = next(event for event in first if many(event.values))
    if not batch.shuffled and all(value.ndim < 3 for value in begins.values):  # noqa: PLR2004 - batch, time, features
        msg = f"rows of the batch may be steps in time, which have positions {begins.where}: it is not shuffled"
        raise UndecidedError(msg)
    return Placed(batch, begins, max(_different(value, rerun) for value in answers))


def _different(value: Tensor, rerun: Rerun) -> int:
    """How many examples have different values, in the layout in which fewest have."""

    def count(rows: Rows) -> int:
        order = torch.argsort(rows.owner, stable=True).to(value.device)
        each = value.index_select(rows.dim, order).movedim(rows.dim, 0).reshape(rerun.batch_size, -1).double().cpu()
        line = each @ torch.randn(each.shape[1], generator=torch.Generator().manual_seed(SEED), dtype=each.dtype)
        return 1 + int((line.sort().values.diff() > rerun.tolerance * each.norm(dim=1).max()).sum())

    return min(map(count, rerun.layouts(value.shape)))


def _level(module: nn.Module, rerun: Rerun) -> None:
    """What a module keeps for each place, such as a hidden state, is made the same for all."""
    places = torch.zeros(rerun.batch_size, dtype=torch.int64)

    def levelled(tensor: Tensor) -> Tensor:
        for rows in rerun.layouts(tensor.shape):
            if tensor.shape[rows.dim] == rerun.batch_size and not isinstance(tensor, nn.Parameter):
                tensor = rows.reordered(tensor, places, rerun.batch_size)
        return tensor

    kept = {name: value for name, value in vars(module).items() if name not in _PARTS}
    kept = {name: value for name, value in kept.items() if isinstance(value, Tensor | tuple | list | dict)}
    vars(module).update(mapped(kept, Tensor, levelled))
    module._buffers.update(mapped(dict(module._buffers), Tensor, levelled))  # noqa: SLF001
