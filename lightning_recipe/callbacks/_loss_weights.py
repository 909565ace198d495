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


def of_positives(call: LossCall, counts: Counter[float]) -> Outcome | None:
    """A ``pos_weight`` that is the ratio the other way round."""
    weight = call.arguments.get("pos_weight")
    if not isinstance(weight, Tensor) or weight.numel() != 1 or not set(counts) <= {0.0, 1.0}:
        return None
    if min(counts[0.0], counts[1.0]) < 5 or sum(counts.values()) < TARGETS:  # noqa: PLR2004
        return None
    odds, given = math.log(counts[1.0] / counts[0.0]), math.log(max(float(weight), 1e-12))
    if abs(odds) < WITHIN or abs(given) < WITHIN / 2 or abs(given - odds) > WITHIN:
        return None
    return Outcome(
        Status.WARNING,
        "weights_grow_with_frequency",
        f"pos_weight is {float(weight):.3g}, while there are {math.exp(-odds):.3g} negatives for each positive",
        f"pos_weight={math.exp(-odds):.3g}: negatives by positives",
        {"given": float(weight), "balanced": math.exp(-odds)},
    )
