"""What the rows of an attention, of torch or by hand, look at from the beginning: one place, or padding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from lightning_recipe.callbacks._attention_scale import EXACT, factor_of, multiplied
from lightning_recipe.callbacks._masked_scores import without_effect
from lightning_recipe.callbacks._padding import on_padding, padding
from lightning_recipe.dependencies.operations import operations
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.loss_graph import Node
from lightning_recipe.trial.calming import without_dropout
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

PLACES = 4
"""That a row may look at, at least: others are hidden by a mask."""
ROWS = 64
"""That are looked at, at least."""
SHARP = 0.9
"""Largest weight of a row, on average, from which on the softmax hands next to no gradient on. With weights as they are
drawn that of transformers is 0.1 to 0.6."""
SOFTMAX, WHOLE = {"Softmax", "SafeSoftmax"}, "ScaledDotProduct"
CALLED = {"softmax", "scaled_dot_product_attention"}
EXAMPLES = 8
"""Whose weights are computed where torch keeps none."""
BETWEEN = {"NativeDropout", "Mul", "Where"}
"""What may come between the softmax and the product: dropout, a mask."""


class Weights(NamedTuple):
    """Of an attention, or of some examples and rows of one.

    Attributes:
        rows: Shape (N, ..., R, K): of rows that look, how much at each place.
        looking: The places of those that look, shape (R,).
        length: How many there are in all.
        sequences: How many there are in all, times the number of heads if those are no dimension of their own.
        whole: Whether nothing comes between these and what they weigh.
        factor: By what scores are multiplied before the softmax; NaN where that is not known.
        size: Of a head, in numbers; 0 likewise.

    """

    rows: Tensor
    looking: Tensor
    length: int
    sequences: int
    whole: bool
    factor: float = math.nan
    size: int = 0


def weights_of(loss: Tensor) -> list[Weights]:
    """Those of each attention that the loss was computed by."""
    nodes = (Node(raw) for raw in operations([loss]))
    found = (_of_torch(node) if node.kind.startswith(WHOLE) else _by_hand(node) for node in nodes)
    return [weights for weights in found if weights is not None]


def pooling(loss: Tensor, places: int) -> list[Weights]:
    """The weights of a softmax over so many places that what stands there is multiplied with, to be summed up.

    Args:
        loss: That was computed by it.
        places: Of a sequence.

    Example:
        >>> h = torch.ones(8, 5, 4, requires_grad=True)
        >>> [w.rows.shape for w in pooling((h[..., :1].softmax(1) * h).sum(1).sum(), 5)]
        [torch.Size([8, 1, 5])]

    """
    found = []
    for node in (Node(raw) for raw in operations([loss])):
        of_vectors = node.kind == "Bmm" or (node.kind == "Mul" and len(node.shape) == 3)  # noqa: PLR2004
        for one in [node.source(i) for i in (0, 1)] if of_vectors else []:
            rows = one.saved("result") if one is not None and one.kind in SOFTMAX and one.dim == 1 else None
            if rows is not None and rows.ndim in {2, 3} and rows.shape[1] == places:
                rows = rows.unsqueeze(1) if rows.ndim == 2 else rows.mT  # noqa: PLR2004
                found.append(Weights(rows, torch.arange(rows.shape[1], device=rows.device), 1, len(rows), whole=True))
    return found


def largest_weights(attentions: Iterable[Weights]) -> list[float]:
    """The largest weight of a row, on average, of each attention that has enough rows.

    Example:
        >>> q, own = torch.ones(2, 64, 8, requires_grad=True), 20 * torch.eye(64)
        >>> [round(one, 1) for one in largest_weights(weights_of(((q @ q.mT + own).softmax(-1) @ q).sum()))]
        [1.0]

    """
    return [float(rows.amax(1).float().mean()) for rows in map(_rows_of, attentions) if len(rows) >= ROWS]


def _rows_of(attention: Weights) -> Tensor:
    """The rows that may look at several places."""
    rows = attention.rows.flatten(0, -2)
    return rows[(rows > 0).sum(1) >= PLACES]


def _by_hand(node: Node) -> Weights | None:
    """The weights of a softmax that goes into a product."""
    weights, whole = node.source() if node.kind == "Bmm" else None, True
    while weights is not None and weights.kind in BETWEEN:
        weights, whole = weights.source(), False
    if weights is None or weights.kind not in SOFTMAX or weights.dim != len(weights.shape) - 1:
        return None
    rows = weights.saved("result")
    if rows is None or rows.ndim < 3:  # noqa: PLR2004
        return None
    places = torch.arange(rows.shape[-2], device=rows.device)
    return Weights(rows, places, rows.shape[-2], len(rows), whole, *(factor_of(weights.source()) or ()))


@torch.no_grad()
def _of_torch(node: Node) -> Weights | None:
    """Those of ``scaled_dot_product_attention``, of some examples, computed of what it keeps."""
    query, key, scale = node.saved("query"), node.saved("key"), node.saved("scale")
    if query is None or key is None or query.ndim != key.ndim or query.shape[:-2] != key.shape[:-2]:
        return None
    length, keys = query.shape[-2], key.shape[-2]
    looking = torch.arange(0, length, -(-length // ROWS), device=query.device)  # all of a long text take gigabytes
    scores = query[:EXAMPLES, ..., looking, :] @ key[:EXAMPLES].mT
    size = query.shape[-1]
    factor = size**-0.5 if scale is None else float(scale)
    scores = scores * factor
    mask = node.saved("attn_mask")
    mask = node.saved("attn_bias") if mask is None else mask
    if node.saved("is_causal"):
        scores = scores.masked_fill(torch.arange(keys, device=query.device) > looking[:, None], -torch.inf)
    elif mask is not None:
        mask = mask.expand(*query.shape[:-1], keys)[:EXAMPLES, ..., looking, :]
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else scores + mask
    return Weights(scores.softmax(-1).nan_to_num(), looking, length, len(query), True, factor, size)  # noqa: FBT003


def attended(run: Run, step: Step, *, drawn: bool) -> list[Outcome]:
    """Attentions that look at one place with weights that have learnt nothing yet, or at padding.

    Args:
        run: Of which the step is run again on a copy.
        step: One of its first.
        drawn: Whether weights are as they were drawn.

    """
    modules = (nn.Softmax, nn.MultiheadAttention)
    pads = list(padding(step.batch, run.module))[:1]
    attends = any(event.name in CALLED or isinstance(event.module, modules) for event in step.events)
    if not attends or not (drawn or pads):
        return []
    try:
        with rehearsal(run) as again:
            without_dropout(again.module)
            loss = again.step(step.batch).loss
            attentions = [] if loss is None else weights_of(loss)
    except CannotRehearseError:
        return []
    found: list[Outcome | None] = []
    if drawn:
        many = [attention for attention in attentions if len(_rows_of(attention)) >= ROWS]
        largest = largest_weights(many)
        found = [multiplied(many, largest) or at_one_place(many, largest)]
    if loss is not None and (masked := without_effect(loss, step.batch, pads)) is not None:
        return [*filter(None, found), masked]
    found += [on_padding([*attentions, *([] if loss is None else pooling(loss, pad.shape[1]))], pad) for pad in pads]
    return [outcome for outcome in found if outcome is not None]


def at_one_place(attentions: Iterable[Weights], largest: Iterable[float]) -> Outcome | None:
    """Whether half of the attentions do, by the largest weights of their rows.

    `advice` if scores are divided as they should be: then what enters is large, as embeddings that are drawn with a
    standard deviation of 1 and multiplied by the root of their size, which networks with norms behind them stand.
    """
    seen = list(zip(attentions, largest, strict=True))
    sharp = [(one, most) for one, most in seen if most > SHARP]
    if not sharp or 2 * len(sharp) < len(seen):
        return None
    divided = all(one.size and math.isclose(one.factor, one.size**-0.5, rel_tol=EXACT) for one, _ in sharp)
    most = max(most for _, most in sharp)
    return Outcome(
        Status.ADVICE if divided else Status.WARNING,
        "attention_at_one_place",
        f"rows of {len(sharp)} of {len(seen)} attentions look at one place from the beginning: their largest weight "
        f"is {most:.2f} on average, and its softmax hands next to no gradient on",
        "normalise what enters, or draw embeddings smaller: scores are divided by the root of the size of a head"
        if divided
        else "divide the scores by the square root of the size of a head before the softmax; normalise what enters",
        {"largest": most, "attentions": len(sharp)},
    )
