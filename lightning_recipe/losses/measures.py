"""How far predictions moved, how much they differ, and how right they are, each in the unit of their kind."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torchmetrics.functional.classification import binary_accuracy
from torchmetrics.functional.regression import mean_absolute_error

from lightning_recipe.losses.table import Family

if TYPE_CHECKING:
    from torch import Tensor

CLASSES, YES_NO, NUMBERS = Family.CLASSES.value, Family.YES_NO.value, Family.NUMBERS.value
TOKENS = "tokens"
CLASS_MAPS, YES_NO_MAPS, NUMBER_MAPS = "maps of classes", "maps of yes or no", "maps of numbers"
MAPS = {CLASSES: CLASS_MAPS, YES_NO: YES_NO_MAPS, NUMBERS: NUMBER_MAPS}
ALIKE = 0.001
"""Spread of predictions between examples, in the unit of their kind, below which they are the same."""
YES = 0.5
"""The probability above which the answer is yes."""


class Measures:
    """Predictions of one kind, measured.

    Attributes:
        kind: ``"classes"`` (one of many for each example), ``"tokens"`` (one of many at each position),
            ``"yes or no"`` (probabilities of one or several labels), ``"numbers"``, or maps of these.
        target: What should come out: (B,), (B, T), (B, K) or (B, H, W[, C]); None without a known loss function.
            Classes to ignore are negative.

    """

    kind: str
    target: Tensor | None

    @property
    def of_classes(self) -> bool:
        """Whether the last dimension is a distribution over classes."""
        return self.kind in {CLASSES, TOKENS, CLASS_MAPS}

    @property
    def of_maps(self) -> bool:
        """Whether an example is a map."""
        return self.kind in MAPS.values()

    @property
    def of_numbers(self) -> bool:
        """Whether predictions are numbers without bounds, not probabilities."""
        return self.kind in {NUMBERS, NUMBER_MAPS}

    def distance(self, before: Tensor, after: Tensor) -> float:
        """How far predictions moved, on average over examples (positions, labels, pixels).

        Returns:
            The share of probability that moved (total variation, 0 to 1); for numbers, the mean absolute change in
            standard deviations of the target (of `after` without one).

        """
        change = (after - before).abs()
        if self.of_classes:
            return float(self._counted(change.sum(-1) / 2).mean())
        return float(change.mean()) / (self._unit(after) if self.of_numbers else 1.0)

    def spread(self, values: Tensor) -> float:
        """How much predictions differ between examples: the mean `distance` from the mean prediction."""
        return self.distance(values.mean(0, keepdim=True).expand_as(values), values)

    def alike(self, values: Tensor) -> bool:
        """Whether different examples get the same prediction, although their targets differ if these are known."""
        same_target = self.target is not None and bool((self.target == self.target[:1]).all())
        return len(values) > 1 and not same_target and self.spread(values) < ALIKE

    def answers(self, values: Tensor) -> Tensor | None:
        """The class predicted, or whether yes is; None for numbers."""
        if self.of_numbers:
            return None
        return values.argmax(-1) if self.of_classes else values > YES

    def flips(self, before: Tensor, after: Tensor) -> float:
        """The share of answers that changed; NaN for numbers."""
        a, b = self.answers(before), self.answers(after)
        return math.nan if a is None or b is None else float(self._counted(a != b).float().mean())

    def of_the_truth(self, values: Tensor) -> Tensor | None:
        """The probability of what is true; None for numbers, and without a target."""
        if self.target is None or self.of_numbers:
            return None
        if self.of_classes:
            index = self.target.clamp(0, values.shape[-1] - 1).unsqueeze(-1)
            return values.gather(-1, index).squeeze(-1)
        return torch.where(self.target > YES, values, 1 - values)

    def score(self, values: Tensor) -> dict[str, float]:
        """``{"share_right": ...}``, or ``{"mean_absolute_error": ...}`` for numbers; empty without a target."""
        if self.target is None:
            return {}
        if self.of_numbers:
            return {"mean_absolute_error": float(mean_absolute_error(values, self.target.to(values.dtype)))}
        if self.of_classes:
            return {"share_right": float(self._counted(values.argmax(-1) == self.target).float().mean())}
        return {"share_right": float(binary_accuracy(values, (self.target > YES).long(), validate_args=False))}

    def error(self, values: Tensor) -> float:
        """The error in units of that of knowing nothing: 1 is as good as that; NaN without a target.

        The cross-entropy in units of ln C (ln 2 for yes or no); for numbers the squared error in units of the
        target's variance, which needs targets that differ.
        """
        if self.target is None:
            return math.nan
        true = self.of_the_truth(values)
        if true is not None:
            surprise = float(self._counted(-true.clamp_min(torch.finfo(true.dtype).tiny).log()).mean())
            return surprise / math.log(max(2, values.shape[-1] if self.of_classes else 2))
        variance = float(self.target.float().var(0, correction=0).mean())
        return float((values - self.target).square().mean()) / variance if variance > 0 else math.nan

    def _counted(self, values: Tensor) -> Tensor:
        """Those that have a target: of classes only, where it is not negative."""
        return values[self.target >= 0] if self.target is not None and self.of_classes else values

    def _unit(self, values: Tensor) -> float:
        reference = (values if self.target is None else self.target).float()
        spread = float(reference.std(correction=0))
        return spread or float(reference.abs().mean()) or 1.0
