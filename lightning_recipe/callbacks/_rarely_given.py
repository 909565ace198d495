"""An input that the step replaces by a mark for none in nearly all examples: the branches of a choice are exchanged.

Conditions of generative models are left out in a tenth of the examples, so that the network learns to do without them.
Where keeping and leaving out are mixed up, they are kept in a tenth, and in validation never.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lightning_recipe.callbacks._interchanged import NEEDS, differing
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.tensors import dense
from lightning_recipe.trial.rehearsal import CannotRehearseError

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_recipe.trial.rehearsal import Rehearsal

RARELY = 0.25
"""Share of the examples that keep an input, up to which it is left out more often than anybody means to: of text and
labels a tenth to a half is left out."""
FEWEST = 24
"""Examples in which it is left out, at least: of as many at least a quarter is kept, if half are by chance."""


def rarely_given(again: Rehearsal, batch: Any) -> tuple[Outcome, str] | None:
    """`advice` if an input enters as it is in some examples, and as one and the same value in nearly all others.

    Args:
        again: The copy, in eval mode.
        batch: As the training step receives it.

    Returns:
        The verdict, and the entry of the batch.

    """
    try:
        step = again.step(batch, needs=NEEDS)
    except CannotRehearseError:
        return None
    for path, entry in differing(batch).items():
        for _, given in dense(step.inputs):
            share = kept(entry, given) if entry.layout is torch.strided else None
            if share is not None and 0 < share <= RARELY:
                return (
                    Outcome(
                        Status.ADVICE,
                        "rarely_given",
                        f"{path} enters the network in {share:.0%} of {len(entry)} examples, and one and the same "
                        "value in its place in all others",
                        "see whether keeping and leaving out are exchanged, such as the branches of torch.where, or a "
                        "mask that says what is to be left out",
                        {"share": share, "examples": len(entry)},
                    ),
                    path,
                )
    return None


def kept(entry: Tensor, given: Tensor) -> float | None:
    """The share of rows that are as they were, where all others are one value; None if it is not such a choice.

    Example:
        >>> labels = torch.arange(40) % 10
        >>> kept(labels, labels.where(torch.arange(40) < 4, 10)), kept(labels, labels), kept(labels, labels.clamp(0, 2))
        (0.1, None, None)

    """
    if given.shape != entry.shape or given.is_complex() or entry.is_complex():
        return None
    rows, own = given.detach().reshape(len(given), -1), entry.to(given).reshape(len(given), -1)
    same = (rows == own).all(1)
    others = rows[~same]
    if len(others) < FEWEST or not bool((others == others[:1]).all()):
        return None
    bound, left, cut = others[:1], own[same], own[~same]
    for less in (torch.le, torch.ge):
        if bool(less(left, bound).all()) and bool(less(bound, cut).all()):  # by clamp, not by choice
            return None
    count = int((left != bound).any(1).sum())  # of those that were to be another one
    return count / (count + len(others)) if len(left.unique(dim=0)) > 1 else None
