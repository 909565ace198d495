"""What is to be predicted, however it comes: labels of which several hold, classes of pixels or tokens, numbers."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lightning_recipe.callbacks._histogram import Histogram
from lightning_recipe.losses.by_hand import likely
from lightning_recipe.losses.table import TABLE, Family
from lightning_recipe.losses.targets import target_of_batch
from lightning_recipe.record.tensors import dense, same

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightning_recipe.record.step import LossCall, Step

READ = 2**14
"""Values of a batch's targets that are read, evenly spaced: of 64 batches a million, which tell the share of a class of
one pixel in a thousand to 3 %."""
IDS = 2**12
"""Different integers from which on they are ids, not classes."""
APART = 12
"""Columns of numbers that are told apart by their ranges; what has more is a map or a series, whose values are one
distribution."""
SMOOTHED = 4
"""Different values of labels that are yes or no, at most, also if these are smoothed, or -1 where nobody knows."""
IMAGES = 4
"""Dimensions of maps with a channel for each label."""


class Kind(StrEnum):
    """How a target is summed up."""

    LABELS = "labels"
    CLASSES = "classes"
    NUMBERS = "numbers"


@dataclass(frozen=True)
class Target:
    """Where in a batch the target is, and what.

    Attributes:
        path: Of the entry.
        kind: What is to be counted of it.
        ignored: The class that the loss leaves out.

    """

    path: str
    kind: Kind
    ignored: int | None = None

    def look(self, tensor: Tensor) -> Tensor:
        """What is needed of a batch's, where it is: nothing waits for an accelerator.

        Example:
            >>> y = torch.tensor([[1.0, 0.0], [1.0, torch.nan]])
            >>> Target("y", Kind.LABELS).look(y).tolist(), Target("y", Kind.NUMBERS).look(y[:, :1]).tolist()
            ([[2.0, 0.0], [2.0, 1.0]], [1.0, 1.0])

        """
        if self.kind is not Kind.LABELS:
            read = spaced(tensor.detach().flatten())
            return read.to(torch.int64 if self.kind is Kind.CLASSES else read.dtype, copy=True)
        rows = spaced(tensor.detach().flatten(2)).movedim(1, 2).flatten(0, 1) if tensor.ndim == IMAGES else tensor
        rows = rows.detach().float()
        known = rows.isfinite() & (rows >= 0)  # -1 and NaN stand for what nobody knows
        return torch.stack([rows.where(known, rows.new_zeros(())).sum(0), known.sum(0).float()])

    def counts(self, *, whole: bool) -> Counts:
        """What such looks are added up in."""
        if self.kind is Kind.LABELS:
            return Positives()
        return Tally(self.ignored) if self.kind is Kind.CLASSES else Histogram(whole)


@dataclass
class Positives:
    """How often each of several labels holds.

    Attributes:
        positive: The examples or places where it does, shape (C,); of soft labels, their sum.
        known: Where it is known.

    """

    positive: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    known: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def take(self, look: NDArray[np.float64]) -> None:
        """Take in a batch."""
        self.add(Positives(*look.astype(np.float64)))

    def add(self, other: Positives) -> None:
        """Take in what another one has counted; of as many labels."""
        if not len(self.known):
            self.positive, self.known = other.positive.copy(), other.known.copy()
        elif len(other.known) == len(self.known):
            self.positive, self.known = self.positive + other.positive, self.known + other.known

    @property
    def shares(self) -> NDArray[np.float64]:
        """Of each label."""
        return self.positive / np.maximum(self.known, 1)


@dataclass
class Tally:
    """How often each class occurs, such as among pixels.

    Attributes:
        ignored: The class that the loss leaves out.
        counts: Of the others.
        left_out: How often the first occurs.

    """

    ignored: int | None = None
    counts: Counter[int] = field(default_factory=Counter)
    left_out: int = 0

    def take(self, look: NDArray[np.int64]) -> None:
        """Take in a batch."""
        classes, counts = np.unique(look, return_counts=True)
        self.add(Tally(None, Counter(dict(zip(classes.tolist(), counts.tolist(), strict=True)))))

    def add(self, other: Tally) -> None:
        """Take in what another one has counted, of no more than are classes."""
        if len(self.counts) <= IDS:
            self.counts.update(other.counts)
        self.left_out += other.left_out + (self.counts.pop(self.ignored, 0) if self.ignored is not None else 0)

    @property
    def shares(self) -> dict[int, float]:
        """Of each class, in their order; none of ids."""
        total = self.counts.total()
        return {c: n / total for c, n in sorted(self.counts.items())} if len(self.counts) <= IDS else {}


Counts = Positives | Tally | Histogram


def target(step: Step, examples: int) -> Target | None:
    """The entry of the batch that a loss compares with, if it did not enter the network as well.

    Example:
        >>> from torch import nn
        >>> from torch.nn import functional as F
        >>> from lightning_recipe.record.step import LossCall, NetCall, Step
        >>> x, y = torch.rand(8, 3), torch.rand(8, 1)
        >>> call = LossCall("mse_loss", F.mse_loss, {"input": x[:, :1], "target": y}, y.mean(), 8, "", False)
        >>> target(Step({"x": x, "y": y}, None, [NetCall("net", nn.Linear(3, 1), (), {}, {"x": x})], [call]), 8)
        Target(path='batch.y', kind=<Kind.NUMBERS: 'numbers'>, ignored=None)

    """
    entered = [tensor.flatten() for _, tensor in dense(step.inputs)]
    entries = {
        path: tensor.detach()
        for path, tensor in dense(step.batch, "batch")
        if tensor.ndim and len(tensor) == examples and tensor.numel() and not tensor.is_complex()
        if not any(same(tensor.detach().flatten(), one) for one in entered)
    }
    compared = likely(step) if entries else None
    calls = step.loss_calls or ([compared] if compared else [])
    wanted = [(call.arguments.get("target"), call) for call in calls if not call.target_from_net]
    for values, call in [*wanted, (target_of_batch(step, examples), None)]:
        for path, tensor in entries.items():
            if isinstance(values, Tensor) and values.ndim and _holds(tensor, values, call):
                kind = _kind(tensor, call)
                ignored = None if call is None else call.arguments.get("ignore_index")
                return Target(path, kind, ignored if isinstance(ignored, int) else None) if kind else None
    return None


def _holds(tensor: Tensor, values: Tensor, call: LossCall | None) -> bool:
    """Whether these are a tensor's values, as they are but for dtype and shape; the first of them if much was cut."""
    count = values.numel()
    cut = call is not None and len(values) < call.examples
    if not (count == tensor.numel() or (cut and 0 < count < tensor.numel())):
        return False
    return torch.equal(tensor.flatten()[:count].float(), values.detach().flatten().to(tensor.device).float())


def _kind(tensor: Tensor, call: LossCall | None) -> Kind | None:
    """What is to be counted; None for what other columns than these tell."""
    family = None if call is None else TABLE[call.name].family
    real, hard = tensor.is_floating_point(), bool(((tensor == 0) | (tensor == 1)).all())
    some = spaced(tensor.flatten())
    yes_no = hard or (family is Family.YES_NO and len(some[some.isfinite()].unique()) <= SMOOTHED)
    columns = tensor.ndim in {2, IMAGES} and tensor.shape[1] > 1
    if columns and (real or family is not Family.CLASSES) and (yes_no or family is Family.CLASSES):
        return Kind.LABELS
    if family not in {Family.NUMBERS, Family.COUNTS} and (not real or yes_no):
        return Kind.CLASSES if not real or hard else Kind.NUMBERS
    many = math.prod(tensor.shape[1:])
    return Kind.NUMBERS if many == 1 or many > APART else None


def spaced(tensor: Tensor) -> Tensor:
    """Some of the last dimension, so that `READ` values are left, in steps that no length of a row is a multiple of.

    Example:
        >>> spaced(torch.zeros(4, 3, 2**16)).shape
        torch.Size([4, 3, 1338])

    """
    gap, length = math.ceil(tensor.numel() / READ), tensor.shape[-1]
    while gap > 1 and math.gcd(gap, length) > 1:
        gap += 1
    return tensor[..., ::gap]
