"""Positions that turn vectors by angles, and have no effect: as where they count the heads and not the places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_recipe.callbacks._interchanged import NEEDS
from lightning_recipe.callbacks._reordered import SAME, change, reordered, reordering, sequences
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.multiplied import Multiplied, angles, same_numbers
from lightning_recipe.record.tensors import leading_size, mapped
from lightning_recipe.trial.rehearsal import CannotRehearseError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning_recipe.record.step import Step
    from lightning_recipe.trial.rehearsal import Rehearsal

SEEN = 30
"""Times what is rounding, by which the order changes outputs where it has an effect that can't be missed."""
FAINT = 300
"""Times what the order changes by rounding: attention that is nearly the same everywhere, as it begins, hides most of
what tells an order, and rounding is not to be taken for that."""


def idle_angles(
    again: Rehearsal, batch: Any, before: Step, method: str, multiplied: Multiplied
) -> tuple[Outcome, str] | None:
    """A `warning` for tables of angles without effect, with the line that multiplies.

    Cosines and sines of angles that are the same for all examples, and in all random streams, are those of positions
    if nothing depends on which row is whose, neither on the order of places: and would, if what is multiplied was told
    its place by a sign.

    Args:
        again: The copy, in eval mode.
        batch: As the step receives it.
        before: The step.
        method: Which.
        multiplied: By what, in that step.

    """
    found = angles((where, table) for where, tables in multiplied.tables.items() for table in tables)
    size = leading_size(batch)
    for places in sorted({sequence.shape[1] for sequence in sequences(batch, size)}) if found else ():
        at = [where for where in found if any({places, places + 1} & {*shape} for shape in multiplied.shapes[where])]
        if at and (other := reordered(batch, places)) is not None:
            try:
                idle = _is_idle(again, (batch, other), before, method, places, found)
            except CannotRehearseError:
                return None
            if idle:
                return _told(at[0], rows(found[at[0]]), places), at[0]
    return None


def _is_idle(  # noqa: PLR0913, PLR0917 - what the one caller knows
    again: Rehearsal, batches: tuple[Any, Any], before: Step, method: str, places: int, found: Mapping[str, Tensor]
) -> bool:
    batch, other = batches

    def step(given: Any, seed: int = 0) -> Step:
        return again.step(given, needs=NEEDS, method=method, seed=seed)

    moved = change(before, step(other), reordering(places))
    if not moved <= SAME:
        return False
    with Multiplied(found, table_as=_mixed):
        mixed = step(batch)
    if not change(before, mixed) <= SAME:
        return False
    with Multiplied(found, product_as=lambda product: _signed(product, places)):
        told = change(step(batch), step(other), reordering(places))
    if not told >= max(SEEN * SAME, FAINT * moved):
        return False
    size = leading_size(batch)
    turned = mapped(batch, Tensor, lambda tensor: tensor.roll(1, 0) if tensor.shape[:1] == (size,) else tensor)
    with Multiplied() as then:
        step(turned, seed=1)
    return all(any(same_numbers(table, now) for now in then.tables.get(where, ())) for where, table in found.items())


def rows(table: Tensor) -> int:
    """For how many places a table is; its last dimension is that of frequencies.

    Example:
        >>> rows(torch.zeros(1, 4, 8)), rows(torch.zeros(4, 1, 8, 1))
        (4, 4)

    """
    return int(torch.tensor([size for size in table.shape if size > 1][:-1]).prod())


def _mixed(table: Tensor) -> Tensor:
    """A table whose rows are others'."""
    dimensions = [d for d, size in enumerate(table.shape) if size > 1][:-1]
    for d in dimensions:
        order = torch.randperm(table.shape[d], generator=torch.Generator().manual_seed(0))
        order = order if bool((order.diff() != 1).any()) else order.flip(0)
        table = table.index_select(d, order.to(table.device))
    return table


def _signed(product: Tensor, places: int) -> Tensor:
    """The numbers of some places with the other sign, in all dimensions that may be those of places."""
    for d, size in enumerate(product.shape):
        if size in {places, places + 1}:
            signs = torch.randint(2, (size,), generator=torch.Generator().manual_seed(0)) * 2 - 1
            product = product * signs.to(product.device).view(-1, *(1,) * (product.ndim - d - 1))
    return product


def _told(where: str, rows: int, places: int) -> Outcome:
    return Outcome(
        Status.WARNING,
        "positions_without_effect",
        f"positions have no effect: in {where} vectors are multiplied with the cosines or sines of a table of {rows} "
        f"rows, for sequences of {places} places, and the order of the places makes no difference to what is put out",
        "see that the table has a row for each place, and lies along the places of queries and keys, not along their "
        "heads or examples: (N, heads, places, width), transposed before they are turned",
        {"places": float(places), "rows": float(rows)},
    )
