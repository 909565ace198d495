"""What a loss asks for and a mask leaves out: the logits of targets, or the true pairs of a contrastive loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_recipe.finding import Outcome, Status
from lightning_recipe.losses.table import CROSS_ENTROPY
from lightning_recipe.record.loss_graph import PRODUCTS
from lightning_recipe.record.scalar_products import is_weight, sides
from lightning_recipe.record.tensors import dense

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.loss_graph import Node, WeightsOf
    from lightning_recipe.record.step import LossCall

ROWS = 8
"""Rows, at least, in all of which it is so."""
LITTLE = 1e-3
"""Of the gradient of a target: what is less is left of one that is as good as right, by rounding."""
PUSHED = 0.5
"""Share of the other pairs, at least, that get a gradient."""
MEET = {"Mul", "Sub", "Mm", "Bmm"}
"""Operations in which the two sides of a pair may be compared."""


def masked(weights_of: WeightsOf, graph: list[Node]) -> Iterator[tuple[Node, Outcome]]:
    """Losses whose targets get no gradient before a mask, though all others do, or whose true pairs get none.

    Args:
        weights_of: How much each element of what a node gave counts in the loss.
        graph: The nodes of the loss, from what the last layers put out.

    Yields:
        The node that picks the targets, or that gives all pairs, and the verdict.

    """
    for node in graph:
        asked = _asked(node)
        if asked is not None and _is_cut(weights_of, node, asked):
            yield node, _outcome("no gradient gets past a mask to the logit of any target", Status.FAILED, len(asked))
            return
    pairs = [node for node in graph if _is_of_pairs(node) and _has_no_diagonal(weights_of(node))]
    if pairs and not any(_meet(pairs[0], other) for other in graph if other not in pairs):
        what = "of all pairs those of the same place, which belong together, have no gradient, as if behind a mask"
        yield pairs[0], _outcome(what, Status.WARNING, max(pairs[0].shape))


def same_for_all(call: LossCall, batch: object) -> Outcome | None:
    """Whether the logits of targets that the step has made are one number, while others differ: of what with itself."""
    logits, target = call.arguments.get("input"), call.arguments.get("target")
    if call.name != CROSS_ENTROPY or not isinstance(logits, Tensor) or not isinstance(target, Tensor):
        return None
    if target.is_floating_point() or logits.ndim != 2 or len(logits) < ROWS:  # noqa: PLR2004
        return None
    if any(torch.equal(t, target) for _, t in dense(batch)) or not 0 <= target.min() <= target.max() < logits.shape[1]:
        return None
    asked = torch.zeros_like(logits, dtype=torch.bool).scatter(1, target[:, None], value=True)
    own, others = logits[asked].double(), logits.masked_fill(asked, -torch.inf).amax(1).double()
    if not own.isfinite().all() or float(own.std()) > LITTLE * float(own.abs().mean()) or float(others.std()) == 0:
        return None
    if float(others.std()) <= LITTLE * float(others.abs().mean()):
        return None
    return _outcome(f"the logits of all targets are {float(own[0]):.4g}, whatever the input", Status.WARNING, len(own))


def _outcome(what: str, status: Status, rows: int) -> Outcome:
    return Outcome(
        status,
        "target_masked",
        f"{what}: the loss only learns what is wrong",
        "mask what is compared with itself, as in the products of all with all; where two views meet, the diagonal "
        "holds the true pairs; and see that targets count what a mask leaves",
        {"rows": rows},
    )


def _asked(node: Node) -> Tensor | None:
    """Which elements of rows a node picks: those of nll_loss, gather, a diagonal, or one-hot targets."""
    above = node.parents[0] if node.parents else None
    if above is None or len(shape := above.shape) != 2 or shape[0] < ROWS:  # noqa: PLR2004
        return None
    if node.kind.startswith("Diagonal"):
        return torch.eye(*shape, dtype=torch.bool)
    if node.kind == "Mul":
        other = node.saved("other")
        one_hot = isinstance(other, Tensor) and other.shape == shape and bool(((other == 0) | (other == 1)).all())
        return other.bool() if one_hot and bool((other.sum(1) == 1).all()) else None
    if (picked := node.picked) is None or picked[1] != 1:
        return None
    target = picked[0].reshape(len(picked[0]), -1)
    if len(target) != shape[0] or target.shape[1] != 1:
        return None
    counts = (target >= 0) & (target < shape[1]) & (target != node.saved("ignore_index"))
    found = torch.zeros(shape, dtype=torch.bool, device=target.device)
    return found.scatter(1, target.where(counts, 0), counts)


def _is_cut(weights_of: WeightsOf, node: Node, asked: Tensor) -> bool:
    """Whether, on the way back from where targets are picked, there is no gradient for any of them at some place."""
    at, shape, most = node.parents[0], tuple(asked.shape), 0.0
    rows = asked.any(1)
    if int(rows.sum()) < ROWS:
        return False
    while at is not None and at.shape == shape and (weight := weights_of(at)) is not None:
        own, others = weight[rows][asked[rows]].abs(), weight.masked_fill(asked, 0)[rows].abs().sum(1)
        most = max(most, float(own.max()))
        if most and not own.any() and bool((others > LITTLE * most).all()):
            return True
        parents = [parent for parent in at.parents if parent is not None and parent.shape == shape]
        at = parents[0] if len(parents) == 1 and at.kind not in PRODUCTS else None
    return False


def _is_of_pairs(node: Node) -> bool:
    """Whether it gives the products of all with all, of two sides that come out of different calls of layers."""
    shape = [size for size in node.shape if size != 1]
    square = node.kind in {"Mm", "Bmm", "Sum"} and len(shape) == 2 and shape[0] == shape[1] >= ROWS  # noqa: PLR2004
    made_by = sides(node)[0] if square else []
    if len(made_by) < 2 or None in made_by or any(map(is_weight, made_by)):  # noqa: PLR2004
        return False
    return _layers(made_by[0]).isdisjoint(_layers(made_by[1]))


def _has_no_diagonal(weight: Tensor | None) -> bool:
    if weight is None:
        return False
    weight = weight.squeeze()
    others = weight[~torch.eye(len(weight), dtype=torch.bool, device=weight.device)]
    return not weight.diag().any() and float((others != 0).double().mean()) > PUSHED


def _meet(pairs: Node, other: Node) -> bool:
    """Whether the two sides of pairs are compared in another place, too."""
    if other.kind not in MEET or len(other.parents) != 2 or None in other.parents:  # noqa: PLR2004
        return False
    one, two = (_layers(side) for side in sides(pairs)[0])
    return {frozenset(_layers(parent)) for parent in other.parents} == {frozenset(one), frozenset(two)}


def _layers(node: Node | None) -> set[Node]:
    """The last layers behind something."""
    found: set[Node] = set()
    waiting, seen = [node], {node}
    while waiting:
        if (at := waiting.pop()) is None:
            continue
        if at.kind in PRODUCTS:
            found.add(at)
            continue
        parents = set(at.parents) - seen
        waiting += parents
        seen |= parents
    return found
