"""Why examples of a batch mix, judged from what is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from lightning_recipe.dependencies.backprop import UndecidedError

if TYPE_CHECKING:
    from lightning_recipe.dependencies.judgement import Mixing

DENSE = 0.9
"""Share of the pairs depending on each other from which on the whole batch enters, not what a wrong view() picks."""
NAMED = ("batch", "std")
"""Parts of the names of modules that take statistics of the batch on purpose, in lower case."""


@dataclass(frozen=True)
class Cause:
    """The likeliest cause of mixing.

    Attributes:
        what: The cause, to follow "likely ".
        fix: What to change.
        certain: Whether nobody would want it.

    """

    what: str
    fix: str
    certain: bool


def likely_cause(found: Mixing) -> Cause:
    """The likeliest cause; the operations on the way from input to output tell it, and whether places matter.

    Raises:
        UndecidedError: If it may be meant.

    """
    module, where = found.event.module, found.event.where
    sequence = any(v.ndim == 3 and min(v.shape[:2]) > 1 for v in found.event.values)  # noqa: PLR2004 - batch, time, features
    attends, swapped = found.attention
    if found.softmax:
        fix = "give softmax the dimension of classes or positions"
        return Cause("a softmax over the batch dimension", fix, certain=True)
    if found.batch.owners:
        what = "nodes pooled or normalised without their `batch` vector, or edges without the offset of their graph"
        fix = "hand `batch` to what pools and normalises; add the number of nodes before a graph to its edges"
        return Cause(what, fix, certain=False)
    if isinstance(module, nn.RNNBase):
        if not sequence and not found.batch.shuffled:
            msg = f"the batch is read as a sequence {where}, and may be one: it is not shuffled"
            raise UndecidedError(msg)
        what = "recurrence along the batch, which is read as the sequence"
        return Cause(what, "batch_first=True, or an input of (time, batch, features)", certain=True)
    if swapped or (isinstance(module, nn.MultiheadAttention) and sequence):
        what = "attention along the batch where the sequence was meant"
        return Cause(what, "batch_first=True, or an input of (sequence, batch, features)", certain=True)
    if attends and not found.order_matters:
        msg = f"examples attend to each other {where}, which may be meant"
        raise UndecidedError(msg)
    if found.batch_norm or any(word in type(module).__name__.lower() for word in NAMED):
        msg = f"statistics of the batch are taken {where}, which seems to be meant"
        raise UndecidedError(msg)
    if found.order_matters or (found.order_matters is None and found.density < DENSE):
        what = "view or reshape where permute was needed"
        return Cause(what, "permute or transpose before view and reshape; take nothing from other rows", certain=True)
    what = "a mean, norm or standard deviation over the batch dimension"
    fix = "reduce over the dimensions of features or positions; if the batch is meant, nothing"
    return Cause(what, fix, certain=False)
