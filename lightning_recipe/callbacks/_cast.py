"""Numbers between 0 and 1 that are cut to integers, ids or shades of grey: nearly all of them are 0."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lightning_recipe.callbacks._normalization import IMAGES
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
SHADES = 2**10
"""Values of images that are looked at for whether there are but two, before all are."""
GREY = 0.95
"""Of the variance that numbers have which are 0 or 1, below which numbers are grey; 0.5 and 0.5 are nobody's own."""
LEFT = 0.5
"""Of the mean brightness that is subtracted, up to which that of the images is too low for grey that was rounded."""


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


def shades_cut(train: Entered) -> Iterator[tuple[Outcome, str]]:
    """Images of two values, those of 0 and 1 once a mean and a standard deviation are taken out which are not theirs.

    With these the larger value would be more frequent than it is: shades of grey were cut, and 0.99 became 0. It is
    `advice`, since a mask may be scaled like the images that it comes with.

    Args:
        train: What entered.

    """
    for entry in train.entries:
        values = entry.values.float()
        if values.ndim < IMAGES or len(values.flatten()[:SHADES].unique()) > 2:  # noqa: PLR2004
            continue
        two = values.unique().tolist()
        if len(two) != 2 or not all(map(math.isfinite, two)):  # noqa: PLR2004
            continue
        low, high = two
        std = 1 / (high - low)
        mean, bright = -low * std, float((values == high).double().mean())
        if 0 < mean < 1 and std < 1 and std**2 < GREY * mean * (1 - mean) and bright < LEFT * mean:
            yield (
                Outcome(
                    Status.ADVICE,
                    "shades_cut_off",
                    f"images enter {entry.name} with two values, {low:.3g} and {high:.3g}: they are 0 and 1 with a "
                    f"mean of {mean:.3g} taken out and divided by {std:.3g}, but only {bright:.1%} are 1",
                    "see where shades between 0 and 1 become integers, as in torch.tensor(image / 255, "
                    "dtype=torch.uint8); masks are not scaled like images",
                    {"mean": mean, "std": std, "share": bright},
                ),
                entry.name,
            )


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
