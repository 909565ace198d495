"""Weights of classes and of targets in a loss: the other way round, or of nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_recipe.finding import Outcome, Status
from lightning_recipe.losses.table import TABLE, Family

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping

    from lightning_recipe.record.step import LossCall

TARGETS = 50
"""Seen, at least."""
EACH = 5
"""Targets of yes and of no, at least, that are compared with their weights."""
ERRORS = 3
"""Standard errors by which frequencies have to differ."""
WITHIN = math.log(2.5)
"""How far weights may be from the frequencies, or a ratio from 1, to be taken for them."""


def of_classes(call: LossCall, counts: Counter[float]) -> Outcome | None:
    """Weights of classes that are given to a loss function, see `growing`."""
    weight, ignored = call.arguments.get("weight"), float(call.arguments.get("ignore_index", -100))
    if not isinstance(weight, Tensor) or call.arguments["target"].is_floating_point():
        return None
    return growing({float(c): w for c, w in enumerate(weight.tolist()) if c != ignored}, counts)


def growing(weight: dict[float, float], counts: Mapping[float, int]) -> Outcome | None:
    """Weights of classes that follow their frequencies in place of the inverse."""
    seen = [c for c in weight if counts.get(c) and weight[c] > 0]
    if len(seen) < 2 or sum(counts.values()) < TARGETS:  # noqa: PLR2004
        return None
    by_weight = torch.tensor([math.log(weight[c]) for c in seen], dtype=torch.float64)
    by_count = torch.tensor([math.log(counts[c]) for c in seen], dtype=torch.float64)
    by_weight, by_count = by_weight - by_weight.mean(), by_count - by_count.mean()
    most, least = max(seen, key=lambda c: counts[c]), min(seen, key=lambda c: counts[c])
    error = math.sqrt(1 / counts[most] + 1 / counts[least])  # of the logarithm of their ratio
    uneven = min(float(by_weight.max() - by_weight.min()), float(by_count.max() - by_count.min()) - ERRORS * error)
    if uneven < math.log(1.5):
        return None
    correlation = float(by_weight @ by_count / (by_weight.norm() * by_count.norm()))
    slope = float(by_weight @ by_count / by_count.square().sum())
    if correlation < 0.8 or slope < 1 / 4:  # noqa: PLR2004
        return None
    share = counts[most] / sum(counts[c] for c in seen)
    return Outcome(
        Status.WARNING,
        "weights_grow_with_frequency",
        f"the more frequent a class, the larger its weight: class {most:g}, {share:.0%} of the targets, has "
        f"{weight[most] / weight[least]:.3g}x that of class {least:g}",
        "weights that fall with the frequency, such as total / (classes * counts), in the order of the classes",
        {"correlation": correlation, "slope": slope},
    )


def negatives_left_out(call: LossCall) -> Outcome | None:
    """Weights of a binary cross entropy that are 0 wherever the target is, as the target itself is."""
    weight, target = call.arguments.get("weight"), call.arguments.get("target")
    if not isinstance(weight, Tensor) or not isinstance(target, Tensor) or weight.shape != target.shape:
        return None
    no, yes, counts = target == 0, target == 1, weight != 0
    enough = min(int(no.sum()), int(yes.sum())) >= EACH and TABLE[call.name].answers is Family.YES_NO
    if not enough or bool((counts & no).any()) or not bool(counts.any()):
        return None
    return Outcome(
        Status.WARNING,
        "negatives_left_out",
        f"the weight is 0 wherever the target is, at {int(no.sum())} of {target.numel()}: yes to all has no loss",
        "pos_weight=, if positives are to count more; the third argument of the function is the weight",
        {"left_out": int(no.sum()), "targets": target.numel()},
    )


def positives(call: LossCall) -> tuple[Tensor, int] | None:
    """How many positives there are for each number of a ``pos_weight``, and how many targets; None without one.

    Example:
        >>> from torch.nn import functional as F
        >>> from lightning_recipe.record.step import LossCall
        >>> arguments = {"target": torch.tensor([[0.0, 1.0], [1.0, 1.0]]), "pos_weight": torch.tensor([1.0, 2.0])}
        >>> call = LossCall("", F.binary_cross_entropy_with_logits, arguments, torch.tensor(0.0), 2, "", False)
        >>> positives(call)
        (tensor([1., 2.]), 2)

    """
    weight, target = call.arguments.get("pos_weight"), call.arguments.get("target")
    if (
        not isinstance(weight, Tensor)
        or not isinstance(target, Tensor)
        or not bool(((target == 0) | (target == 1)).all())
    ):
        return None
    sizes = (1,) * (target.ndim - weight.ndim) + tuple(weight.shape)
    others = [dim for dim, size in enumerate(sizes) if size == 1]
    yes = target.detach().float().sum(others) if others else target.detach().float()
    return yes.flatten().cpu(), target.numel() // weight.numel()


def of_positives(call: LossCall, yes: Tensor, targets: int) -> Outcome | None:
    """A ``pos_weight`` that is the ratio the other way round, for all labels of which there is enough of both.

    Args:
        call: The latest.
        yes: How many positives there were at all looks, for each number of it.
        targets: How many targets, for each.

    """
    enough = (yes >= EACH) & (targets - yes >= EACH)
    if targets < TARGETS or int(enough.sum()) <= len(yes) / 2:
        return None
    weight = call.arguments["pos_weight"].detach().flatten().cpu()[enough]
    odds, given = (yes / (targets - yes))[enough].log(), weight.clamp(min=1e-12).log()
    uneven = (odds.abs() >= WITHIN) & (given.abs() >= WITHIN / 2)
    if not bool(uneven.any()) or float((given - odds).abs().max()) > WITHIN:
        return None
    worst = int((odds.abs() * uneven).argmax())
    balanced = math.exp(-float(odds[worst]))
    label = f" of label {int(enough.nonzero()[worst])}" if len(yes) > 1 else ""
    return Outcome(
        Status.WARNING,
        "weights_grow_with_frequency",
        f"pos_weight{label} is {float(weight[worst]):.3g}, while there are {balanced:.3g} negatives for each positive",
        f"pos_weight={balanced:.3g}: negatives by positives",
        {"given": float(weight[worst]), "balanced": balanced},
    )
