"""Ids that were scaled with the other columns, and are cut to integers again: nearly all of them are 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.tensors import dense

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.trial.entries import Entered

ROWS = 8
"""Of the embedding, at least: one for yes and no has two."""
EXAMPLES = 16
WIDEST = 1024
"""Columns of a table, at most."""
FEW = 4
"""Times as many different values as are left."""


def lost_by_cast(train: Entered, batch: Any) -> Iterator[tuple[Outcome, str]]:
    """Embeddings whose ids are what is left of a column between 0 and 1 when it becomes an integer.

    Args:
        train: What entered.
        batch: What the step was given.

    """
    tables = [entry for entry in train.indices if isinstance(entry.module, nn.Embedding) and entry.values.ndim]
    tables = [entry for entry in tables if getattr(entry.module, "num_embeddings", 0) >= ROWS]
    columns = list(_scaled_columns(batch)) if tables else []
    for entry in tables if columns else []:
        rows = getattr(entry.module, "num_embeddings", 0)
        for ids in entry.values.reshape(len(entry.values), -1).unbind(1):
            cut = [column for column in columns if len(column) == len(ids) and _is_cut(column.to(ids.device), ids)]
            if cut:
                before, left = len(cut[0].unique()), len(ids.unique())
                yield (
                    Outcome(
                        Status.WARNING,
                        "ids_cut_off",
                        f"{entry.name} with {rows} rows is given {left} different id{'s' * (left > 1)} in a batch, cut "
                        f"off {before} different numbers between 0 and 1",
                        "leave ids out of what is scaled; they are names, not amounts",
                        {"before": before, "left": left},
                    ),
                    entry.name,
                )
                break


def _scaled_columns(batch: Any) -> Iterator[Tensor]:
    """Columns of tables whose numbers lie between 0 and 1, and are not just yes and no; images are no tables."""
    for _, tensor in dense(batch):
        if tensor.is_floating_point() and tensor.ndim and len(tensor) >= EXAMPLES:
            table = tensor.detach().reshape(len(tensor), -1)
            if table.shape[1] <= WIDEST:
                scaled = (table.amin(0) >= 0) & (table.amax(0) <= 1) & (table != table.round()).any(0)
                yield from table[:, scaled].unbind(1)


def _is_cut(column: Tensor, ids: Tensor) -> bool:
    same = bool((column.long() == ids).all())
    return same and len(column.unique()) >= FEW * len(ids.unique())
