"""What a loss would be for someone who knows nothing, and for someone who knows only the distribution of the targets.

Both are found by calling the same loss function with the same options on other predictions, so that weights, masks,
smoothing and reductions are right by construction. Everything is computed in double precision on the CPU, on the
examples that the probe kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_recipe.losses.constants import Question, is_contrastive
from lightning_recipe.losses.table import TABLE, Constant, Family, Takes

if TYPE_CHECKING:
    from lightning_recipe.record.step import LossCall


class NotComparableError(Exception):
    """The loss has no reference; the message says why."""


FAR = 10.0
"""Standard deviations of the targets between 0 and their mean from which on training does not make up for a bias. Of
an MLP of two hidden layers, with Adam at 1e-3 and 3e-3, 5 of them cost at most 0.10 of its R2 after 2,000 steps and
0.05 to 0.45 after 500; 10 cost 0.06 to 0.12 and up to 2; 20 up to 0.23 and 8."""
DENSE_SHARE = 2 / 3
"""Share of the loss without knowledge that a constant must remove where there are many targets for each example."""


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

    def needs_bias(self, share: float) -> bool:
        """Whether a constant bias alone would remove more than `share` of the loss, and has not been given yet.

        A bias shared by many targets is learnt within a few steps, so that dense ones need `DENSE_SHARE`; the best
        constant is fitted to the batch, and one suggested by few targets is not trusted.

        Args:
            share: Of the loss without knowledge, 0 to 1.

        """
        measured, know_nothing, best = (v - self.floor for v in (self.measured, self.know_nothing, self.best_constant))
        needed = (max(share, DENSE_SHARE) if self.dense else share) + 3 / self.examples
        return self.has_prior and best < (1 - needed) * know_nothing and measured > (know_nothing + best) / 2

    @property
    def ratio(self) -> float:
        """The loss, in units of that without knowledge, both above the lowest possible one."""
        return (self.measured - self.floor) / (self.know_nothing - self.floor)

    @property
    def evidence(self) -> dict[str, Any]:
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
    loss, prediction, target = TABLE[call.name], call.arguments.get("input"), call.arguments.get("target")
    if loss.constant is Constant.NONE:
        msg = f"a constant prediction has no meaning for {call.name}"
        raise NotComparableError(msg)
    if not isinstance(prediction, Tensor) or not isinstance(target, Tensor) or not prediction.numel():
        msg = f"{call.name} was called without examples"
        raise NotComparableError(msg)
    own = Question(call)
    if not own.is_right_kind:
        sums = f"{own.total(own.dim):.3g} instead of 1"
        msg = f"{call.name} expects log-probabilities, but their exponentials sum to {sums}"
        raise NotComparableError(msg)
    classes = prediction.shape[own.dim] if loss.has_classes else 0
    plain = Question(call, **_variance(own))
    constant = plain.best(plain.same_for_all())
    know_nothing = plain.cost(torch.full_like(own.prediction, _nothing(own, classes)))
    lowest, floor = own.cost(constant, **_variance(own, constant)), 0.0
    if loss.family is Family.COUNTS:
        floor = own.cost(own.best())
    elif "var" in own.arguments:
        floor = lowest - 1.0  # a density has no floor: one nat below the best constant serves as the unit
    counted = _counted(target, call.arguments.get("ignore_index"))
    if not counted:
        msg = f"all targets of {call.name} are its ignore_index"
        raise NotComparableError(msg)
    rows = prediction.shape[0] if prediction.ndim else 1
    of_batch = batch_size if batch_size and call.examples == rows else rows  # after a cut only rows are known
    dense = prediction.numel() // (classes or 1) > of_batch
    varied = lowest - floor > 1e-6 * abs(know_nothing - floor)  # else all targets are the same, as those of a GAN
    has_prior = varied and counted >= classes and not is_contrastive(call)
    width = prediction.shape[own.dim] if classes or prediction.ndim > 1 else 1
    outputs = constant.movedim(own.dim, 0).reshape(width, -1)[:, 0]
    measured = own.cost(own.prediction)
    return References(measured, know_nothing, lowest, outputs, floor, counted, dense, classes, has_prior)


def _nothing(own: Question, classes: int) -> float:
    """What an output is that knows nothing."""
    return {
        Takes.LOG_PROBABILITIES: -math.log(max(1, classes)),
        Takes.PROBABILITIES: 0.5,
        Takes.RATES: 0.0 if own.logarithmic else 1.0,
    }.get(own.loss.takes, 0.0)


def _variance(own: Question, constant: Tensor | None = None) -> dict[str, Tensor]:
    """Where it is predicted, too: 1 for who knows nothing, or the best one beside `constant`."""
    variance = own.arguments.get("var")
    if not isinstance(variance, Tensor):
        return {}
    if constant is None:
        return {"var": torch.ones_like(variance)}
    spread = (own.target - constant).square().mean().clamp(min=float(own.arguments["eps"]))
    return {"var": spread.expand_as(variance)}


def _counted(target: Tensor, ignored: int | None) -> int:
    """Rows of the target, less those that are ignored."""
    if ignored is not None and not target.is_floating_point():
        return int((target != ignored).sum())
    return len(target) if target.ndim else 1


def offset(call: LossCall, found: References) -> float:
    """How far the best constant lies from 0, in standard deviations of the targets; 0 for anything but numbers."""
    if TABLE[call.name].family is not Family.NUMBERS:
        return 0.0
    spread = float(call.arguments["target"].double().std(correction=0))
    return float(found.constant.abs().max()) / max(spread, 1e-12)
