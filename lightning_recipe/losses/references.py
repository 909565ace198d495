"""What a loss would be for someone who knows nothing, and for someone who knows only the distribution of the targets.

Both are found by calling the same loss function with the same options on other predictions, so that weights, masks,
smoothing and reductions are right by construction. Everything is computed in double precision on the CPU, on the
examples that the probe kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_recipe.losses.constants import (
    asking,
    best,
    in_double,
    is_contrastive,
    is_distribution,
    is_logarithmic,
    loss_of,
    output_dim,
    same_for_all,
)
from lightning_recipe.losses.table import TABLE, Constant, Family, Takes

if TYPE_CHECKING:
    from lightning_recipe.record.step import LossCall


class NotComparableError(Exception):
    """The loss has no reference; the message says why."""


@dataclass(frozen=True)
class References:
    """The measured loss and what to compare it with.

    Attributes:
        measured: The loss of the network's own predictions.
        know_nothing: The loss of equal logits, or of a zero output.
        best_constant: The lowest loss that an output bias alone can reach: one value for each output, the same for
            all examples, pixels and positions.
        constant: That prediction: one value for each output (class logits, or the value of each column).
        floor: The loss of perfect predictions, where differences begin to count (0 for most functions).
        examples: Targets that count: those that are not ignored.
        dense: More than one target for each example (pixels, positions, columns).
        classes: Number of classes, 0 where there are none.
        has_prior: Whether the batch tells anything about the distribution of the targets: they differ, there are at
            least as many as classes, and the classes are not the examples themselves (contrastive losses).

    """

    measured: float
    know_nothing: float
    best_constant: float
    constant: Tensor
    floor: float
    examples: int
    dense: bool
    classes: int
    has_prior: bool

    @property
    def evidence(self) -> dict[str, float]:
        """The three losses, as the evidence is called."""
        return {"measured": self.measured, "know_nothing": self.know_nothing, "best_constant": self.best_constant}


def references(call: LossCall, batch_size: int | None = None) -> References:
    """Compute the references of one loss call.

    Args:
        call: What the probe saw.
        batch_size: Examples in the batch, to tell whether each has one target or many. By default the size of
            dimension 0 of the prediction.

    Raises:
        NotComparableError: If the function is not supported, or its input is not what it asks for.

    Example:
        >>> import torch.nn.functional as F
        >>> from lightning_recipe.record.step import LossCall
        >>> arguments = {"input": torch.zeros(4, 2), "target": torch.tensor([0, 0, 0, 1]), "ignore_index": -100}
        >>> call = LossCall("cross_entropy", F.cross_entropy, arguments, torch.tensor(0.0), 4, "model.py:1", False)
        >>> found = references(call)
        >>> round(found.know_nothing, 4), round(found.best_constant, 4)  # ln 2, entropy of (3/4, 1/4)
        (0.6931, 0.5623)

    """
    loss = TABLE[call.name]
    if loss.constant is Constant.NONE:
        msg = f"a constant prediction has no meaning for {call.name}"
        raise NotComparableError(msg)
    call = in_double(call)
    prediction, target = call.arguments["input"], call.arguments["target"]
    if not isinstance(prediction, Tensor) or not isinstance(target, Tensor) or not prediction.numel():
        msg = f"{call.name} was called without examples"
        raise NotComparableError(msg)
    with asking():
        dim = output_dim(call)
        if loss.takes is Takes.LOG_PROBABILITIES and not is_distribution(prediction, dim):
            total = float(prediction.exp().sum(dim).mean())
            msg = f"{call.name} expects log-probabilities, but their exponentials sum to {total:.3g} instead of 1"
            raise NotComparableError(msg)
        classes = prediction.shape[dim] if loss.has_classes else 0
        ignorant = replace(call, arguments={**call.arguments, **_variance(call)})
        know_nothing = float(loss_of(ignorant, torch.full_like(prediction, _nothing(call, classes))))
        constant = best(ignorant, same_for_all(call))
        lowest = float(loss_of(call, constant, **_variance(call, constant)))
        measured, floor = float(loss_of(call, prediction)), 0.0
        if loss.family is Family.COUNTS:
            floor = float(loss_of(call, best(call)))
        elif "var" in call.arguments:
            floor = lowest - 1.0  # a density has no floor: one nat below the best constant serves as the unit
    counted = _counted(call)
    if not counted:
        msg = f"all targets of {call.name} are its ignore_index"
        raise NotComparableError(msg)
    rows = prediction.shape[0] if prediction.ndim else 1
    of_batch = batch_size if batch_size and call.examples == rows else rows  # after a cut only rows are known
    dense = prediction.numel() // (classes or 1) > of_batch
    varied = lowest - floor > 1e-6 * abs(know_nothing - floor)  # else all targets are the same, as those of a GAN
    has_prior = varied and counted >= classes and not is_contrastive(call)
    width = prediction.shape[dim] if classes or prediction.ndim > 1 else 1
    outputs = constant.movedim(dim, 0).reshape(width, -1)[:, 0]
    return References(measured, know_nothing, lowest, outputs, floor, counted, dense, classes, has_prior)


def _nothing(call: LossCall, classes: int) -> float:
    """What an output is that knows nothing: a log-rate of 0 is a rate of 1."""
    match TABLE[call.name].takes:
        case Takes.LOG_PROBABILITIES:
            return -math.log(classes)
        case Takes.PROBABILITIES:
            return 0.5
        case Takes.RATES:
            return 0.0 if is_logarithmic(call) else 1.0
    return 0.0


def _variance(call: LossCall, constant: Tensor | None = None) -> dict[str, Tensor]:
    """Where it is predicted, too: 1 for who knows nothing, or the best one beside `constant`."""
    variance = call.arguments.get("var")
    if not isinstance(variance, Tensor):
        return {}
    if constant is None:
        return {"var": torch.ones_like(variance)}
    spread = (call.arguments["target"] - constant).square().mean().clamp(min=float(call.arguments["eps"]))
    return {"var": spread.expand_as(variance)}


def _counted(call: LossCall) -> int:
    """Rows of the target, less those that are ignored."""
    target = call.arguments["target"]
    if "ignore_index" in call.arguments and not target.is_floating_point():
        return int((target != call.arguments["ignore_index"]).sum())
    return int(target.shape[0]) if target.ndim else 1
