"""Whether the last operation can give what the targets ask for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_recipe.callbacks._compared import LOSSES, RANGES, TOLERANCE, Pair, pairs, range_of
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.loss_graph import CLAMPS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.loss_graph import Node, WeightsOf

OF_SHARES = {"BinaryCrossEntropy", "BinaryCrossEntropyWithLogits"}
STUCK = 0.3
"""Share of the error, from which on a clamp keeps a network from learning: at first half of all answers lie below 0,
also where something else is asked for; of a clamp that is there for rare answers it is a few hundredths."""
SHARE = 0.1
"""Of the targets that may lie outside, and of the best constant's loss that may be out of reach: what is left of normal
numbers that were scaled to be within a bound at 1.3 standard deviations."""
MANY, HALF = 0.2, 0.05
"""The same from which on somebody is warned: of a bound at one standard deviation a batch may show no more."""


def out_of_range(weights_of: WeightsOf, graph: list[Node], batch: Any = None) -> Iterator[tuple[Node, Outcome]]:
    """Losses that stay above what free answers would reach, because of the range of the operation before them.

    Args:
        weights_of: How much each element of what a node gave counts in the loss.
        graph: The nodes of the loss, from what the last layers put out.
        batch: What the step was given.

    Yields:
        The node of the loss, and the verdict.

    """
    for node in graph:
        if node.kind in OF_SHARES and (found := _no_shares(weights_of, node)) is not None:
            yield node, found
        made_by, target = node.source(), node.saved("target")
        several = node.kind == "BinaryCrossEntropy" and made_by is not None and made_by.kind == "Softmax"
        if several and made_by is not None and isinstance(target, Tensor) and target.shape == made_by.shape:
            labels = target.sum(made_by.dim)[_counts(weights_of, node, target).any(made_by.dim)]
            share = float(((labels - 1).abs() > 0.5).double().mean())  # noqa: PLR2004 - smoothing adds a little
            if share > SHARE:
                yield node, _several(share)
        if (counts := _of_rates(weights_of, node)) is not None:
            yield node, counts
    for pair in pairs(graph, batch):
        if (outcome := _out_of_reach(weights_of, pair) or _at_bounds(weights_of, pair)) is not None:
            yield pair.node, outcome


def _out_of_reach(weights_of: WeightsOf, pair: Pair) -> Outcome | None:
    """Targets that a prediction can't come near, because of the operation that makes it."""
    low, high = pair.answer.bounds
    target = _counted(weights_of, pair.node, pair.target)
    if (math.isinf(low) and math.isinf(high)) or target.numel() < 2 or not target.isfinite().all():  # noqa: PLR2004
        return None
    held = target.clamp(low, high)
    outside = float((held != target).double().mean())
    best = float((target - held).abs().pow(pair.power).mean())
    constant = float((target - target.mean()).abs().pow(pair.power).mean())
    hard = outside > SHARE and best > SHARE * constant > 0 and pair.sure
    if not (hard or (outside > MANY and best > HALF * constant > 0)):
        return None
    function = pair.answer.made_by.kind.lower()
    return Outcome(
        Status.FAILED if hard else Status.WARNING,
        "out_of_range",
        f"{pair.answer.said} gives {_interval(low, high)}, while {outside:.0%} of the targets lie outside, "
        f"from {float(target.min()):.3g} to {float(target.max()):.3g}: {_errors(pair)} can't fall below "
        f"{best:.3g}, a constant alone reaches {constant:.3g}",
        f"another scale and shift of the {function}, or none of it"
        if pair.answer.moved
        else f"take the {function} off the output, or scale the targets to its range",
        {"outside": outside, "lowest": best, "constant": constant},
    )


def _at_bounds(weights_of: WeightsOf, pair: Pair) -> Outcome | None:
    """`advice` where much of the error is where a clamp gives its bounds, and is asked for something else."""
    node, target, given = pair.answer.made_by, pair.target, pair.answer.made_by.saved("self")
    values = pair.answer.values if node.kind in CLAMPS else None
    if values is None or not isinstance(given, Tensor) or given.numel() != target.numel():
        return None
    low, high = range_of(node)
    counts = _counts(weights_of, pair.node, target).flatten()
    errors = (values.flatten() + (pair.answer.shift or 0.0) - target.flatten()).abs().double().pow(pair.power)[counts]
    beyond = ((given < low) | (given > high)).flatten()[counts]
    share = float(errors[beyond].sum() / errors.sum()) if bool(errors.any()) else 0.0
    if share <= STUCK:
        return None
    return Outcome(
        Status.ADVICE,
        "stuck_at_bounds",
        f"{pair.answer.said} lets no gradient through beyond {_interval(low, high)}, and {share:.0%} of the error is "
        "there: what is most wrong is not learnt",
        "no clamp in training, only of what is reported; or a sigmoid",
        {"share": share},
    )


def _errors(pair: Pair) -> str:
    if pair.node.kind in LOSSES:
        return "the loss"
    return "the absolute error" if pair.power == 1 else "the squared error"


def _counts(weights_of: WeightsOf, node: Node, target: Tensor) -> Tensor:
    """Which of the targets count in the loss."""
    weight = weights_of(node)
    if weight is None or not weight.any():
        return torch.zeros_like(target, dtype=torch.bool)
    own = node.saved("weight")
    if isinstance(own, Tensor) and own.ndim <= target.ndim:
        weight = own.expand_as(target)
    return weight != 0 if weight.shape == target.shape else torch.ones_like(target, dtype=torch.bool)


def _counted(weights_of: WeightsOf, node: Node, target: Tensor) -> Tensor:
    """Their values."""
    return target[_counts(weights_of, node, target)].double()


def _no_shares(weights_of: WeightsOf, node: Node) -> Outcome | None:
    """Targets of a yes or no that are neither, such as -1 and 1, or 0 and 255."""
    saved = node.saved("target")
    target = _counted(weights_of, node, saved) if isinstance(saved, Tensor) else torch.zeros(0)
    outside = float(((target < -TOLERANCE) | (target > 1 + TOLERANCE)).double().mean()) if target.numel() else 0.0
    if not outside:
        return None
    low, high = float(target.min()), float(target.max())
    return Outcome(
        Status.FAILED,
        "out_of_range",
        f"targets of a binary cross entropy lie between 0 and 1, these go from {low:.3g} to {high:.3g}: the loss falls "
        "without end",
        "scale them to 0 and 1, or leave those that mean something else out with a mask",
        {"outside": outside, "low": low, "high": high},
    )


def _of_rates(weights_of: WeightsOf, node: Node) -> Outcome | None:
    """Rates of counts that are taken for their logarithms, ``exp(rate) - count * rate``: none is below 1."""
    grown, times = node.parents if node.kind == "Sub" and len(node.parents) == 2 else (None, None)  # noqa: PLR2004
    if grown is None or times is None or grown.kind != "Exp" or times.kind != "Mul":
        return None
    sides = [i for i, parent in enumerate(times.parents) if parent is not None]
    rate = grown.source()
    if rate is None or len(sides) != 1 or times.source(sides[0]) != rate or RANGES.get(rate.kind, (-1.0,))[0] < 0:
        return None
    saved = times.saved("other" if sides == [0] else "self")
    counts = _counted(weights_of, node, saved) if isinstance(saved, Tensor) else torch.zeros(0)
    if counts.numel() < 2 or float(counts.min()) < 0:  # noqa: PLR2004
        return None
    free, mean = float((counts - torch.xlogy(counts, counts)).mean()), float(counts.mean())
    small = counts.clamp(min=1)
    held, constant = float((small - counts * small.log()).mean()), mean - mean * math.log(max(mean, 1e-12))
    outside = float((counts < 1).double().mean())
    if held - free <= SHARE * (constant - free) or outside <= SHARE:
        return None
    function = rate.kind.lower()
    return Outcome(
        Status.FAILED,
        "out_of_range",
        f"what {function} gives is taken for the logarithm of a rate, which is then never below 1, while {outside:.0%} "
        f"of the counts are: the loss can't fall below {held:.3g}, a constant alone reaches {constant:.3g}",
        f"log_input=False, or take the {function} off the output",
        {"outside": outside, "lowest": held, "constant": constant},
    )


def _several(share: float) -> Outcome:
    return Outcome(
        Status.FAILED,
        "out_of_range",
        f"probabilities of an example sum to 1 after a softmax, but {share:.0%} of them have several labels, or none",
        "a sigmoid in place of the softmax: a probability for each label",
        {"outside": share},
    )


def _interval(low: float, high: float) -> str:
    if math.isinf(high):
        return f"nothing below {low:g}"
    return f"nothing above {high:g}" if math.isinf(low) else f"{low:g} to {high:g}"
