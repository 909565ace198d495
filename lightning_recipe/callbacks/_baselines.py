"""What is to be predicted, and from what: read off the steps that are looked at, and kept in bounded memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_recipe.losses.by_hand import likely, pairs
from lightning_recipe.losses.constants import is_contrastive
from lightning_recipe.losses.table import TABLE, Family, Takes
from lightning_recipe.losses.targets import is_target
from lightning_recipe.record.tensors import same

if TYPE_CHECKING:
    from collections.abc import Collection

    from lightning_recipe.record.step import LossCall, Step

EXAMPLES = 1000
"""Training examples that are kept."""
WIDE = 256
"""Features of an example that are kept; of more, means of neighbours."""
COLUMNS = 64
"""Numbers to predict for each example up to which each has a constant, and simple models, of its own."""
SPREAD = 2**14
"""Targets of a batch that are kept, evenly spaced."""
PART = 0.1
"""Share of the loss that may come from something else than the loss function, such as a small penalty."""
WINDOW = 4
"""Time steps of a window, at least."""
KINDS = (Family.CLASSES, Family.YES_NO, Family.NUMBERS)


class Pairs(NamedTuple):
    """What simple models are fitted on: features of shape (N, D), last values (N, F) or none, targets (N, K)."""

    features: Tensor
    last: Tensor
    targets: Tensor


@dataclass
class Known:
    """What is known of the training examples that were looked at, in bounded memory.

    Attributes:
        total: Sum of the targets by output; of classes how many there were of each.
        count: How many there were.
        first: The first of them.
        varied: Whether others differ from it, unlike those of a GAN, of a contrastive loss, or of a residual.
        rows: The targets themselves, where they are numbers.
        pairs: Features and targets.
        seen: Examples looked at.
        kept: Of these, those whose features are looked at.
        names: Of the inputs that these are: validation may give the network something else, too.

    """

    total: Tensor = field(default_factory=lambda: torch.zeros(0))
    count: int = 0
    first: Tensor | None = None
    varied: bool = False
    rows: list[Tensor] = field(default_factory=list)
    pairs: list[Pairs] = field(default_factory=list)
    seen: int = 0
    kept: int = 0
    names: tuple[str, ...] = ()

    def add(self, call: LossCall, examples: int) -> None:
        """Count the targets of a batch."""
        found = targets_of(call)
        if not len(found):
            return
        total, self.first = found.sum(0), found[0] if self.first is None else self.first
        if TABLE[call.name].answers is Family.CLASSES:
            classes = call.arguments["input"].shape[1]
            total = torch.bincount(found[:, 0].long().clamp(0, classes - 1), minlength=classes).double()
        if not self.count or total.shape == self.total.shape:  # else sequences of other lengths
            self.total, self.count = self.total + total if self.count else total, self.count + len(found)
            self.seen += examples
            self.varied = self.varied or bool((found != self.first).any())

    def keep(self, call: LossCall, step: Step, examples: int) -> None:
        """Keep examples of a batch, as many as there is room for."""
        room, found = EXAMPLES - self.kept, targets_of(call)
        if room > 0:
            self.rows += [found] if TABLE[call.name].answers is Family.NUMBERS else []
            self.names = self.names or tuple(step.inputs)
            features, last = features_of(step, examples, room)
            if features.shape[1] and len(found) == examples:
                self.pairs.append(Pairs(features, last, found[:room].float()))
            self.kept += min(room, examples)

    def is_like(self, targets: Tensor) -> bool:
        """Whether numbers are distributed as those of training are, roughly: in the same unit."""
        if not self.rows:
            return False
        own = torch.cat([rows.flatten() for rows in self.rows])
        mean, std = float(own.mean()), float(own.std())
        return abs(float(targets.mean()) - mean) <= std and std / 2 <= float(targets.std()) <= 2 * std

    def together(self) -> Pairs | None:
        """All pairs, where they have one shape."""
        shapes = {tuple(part.shape[1:] for part in pair) for pair in self.pairs}
        return Pairs(*map(torch.cat, zip(*self.pairs, strict=True))) if len(shapes) == 1 else None


def minimised(step: Step) -> LossCall | str:
    """The call of a loss function that a training step minimises, or why there is no such thing to compare."""
    if not step.loss_calls:
        by_hand = likely(step)
        if by_hand is not None and not not_comparable(by_hand):
            return by_hand
        return f"the loss lies in compiled code ({step.compiled[0]})" if step.compiled else "the loss is made by hand"
    call, loss = step.loss_calls[0], step.loss
    if len(step.loss_calls) > 1 or call.times > 1:
        return "the loss has several parts"
    value = float(call.value.double().mean())
    if loss is None or abs(float(loss.detach().double().mean()) - value) > PART * abs(value):
        return f"the loss is not {call.name} alone"
    return reason if (reason := not_comparable(call)) else call


def validated(step: Step, name: str, known: Known, *, by_hand: bool = False) -> LossCall | str:
    """The call of the same function with as many classes or outputs in a validation step, or why there is none.

    Args:
        step: Of validation.
        name: Of the function.
        known: Of training.
        by_hand: Whether what a step likely compares was what training did compare.

    """
    calls = [call for call in step.loss_calls if call.name == name]
    if not calls and by_hand:
        calls = [call for call in pairs(step) if call.name == name][:1]
        if calls and TABLE[name].answers is Family.NUMBERS and not known.is_like(targets_of(calls[0])):
            return "the targets of validation are distributed otherwise than those of training"
    if len(calls) != 1 or calls[0].times > 1:
        return f"validation does not compute {name} as training does"
    if reason := not_comparable(calls[0]):
        return reason
    found = calls[0].arguments["input"] if TABLE[name].answers is Family.CLASSES else targets_of(calls[0])
    if found.shape[1] != len(known.total):
        return "the targets of validation have another shape than those of training"
    return calls[0]


def not_comparable(call: LossCall) -> str:
    """Why a constant or a simple model says nothing in a loss call; empty if it does."""
    loss, given, target = TABLE[call.name], call.arguments.get("input"), call.arguments.get("target")
    if call.target_from_net:
        return "the target is computed by the network"
    if loss.answers not in KINDS or loss.takes is Takes.SCORES or "var" in call.arguments:
        return f"{call.name} has no baseline"
    if not isinstance(given, Tensor) or not isinstance(target, Tensor) or not given.numel() or not target.ndim:
        return f"{call.name} was called without examples"
    if loss.answers is Family.CLASSES:
        if given.ndim == 1 or is_contrastive(call):
            return "each example is a class of its own"
    elif given.shape != target.shape:
        return f"{call.name} compares {tuple(given.shape)} with {tuple(target.shape)}"
    return ""


def targets_of(call: LossCall) -> Tensor:
    """The targets as rows (N, K), class ids as one column; where there are many for each example, as one column, too.

    Example:
        >>> from lightning_recipe.record.step import LossCall
        >>> arguments = {"input": torch.zeros(2, 5, 3), "target": torch.tensor([[0, 1, -100], [2, 2, 2]])}
        >>> call = LossCall("cross_entropy", F.cross_entropy, arguments, torch.tensor(2.0), 2, "a.py:1", False)
        >>> targets_of(call)[:, 0].tolist()
        [0.0, 1.0, 2.0, 2.0, 2.0]

    """
    target = call.arguments["target"].detach()
    of_classes = TABLE[call.name].answers is Family.CLASSES
    if of_classes:
        target = target.argmax(1) if target.is_floating_point() else target
    rows = target.reshape(len(target), -1)
    if rows.shape[1] > COLUMNS or of_classes:
        rows = target.reshape(-1, 1)
    rows = rows[:: max(1, math.ceil(len(rows) / SPREAD))]
    if of_classes:
        rows = rows[(rows[:, 0] >= 0) & (rows[:, 0] != call.arguments.get("ignore_index", -100))]
    found: Tensor = rows.double().cpu()
    return found


def features_of(step: Step, examples: int, most: int, names: Collection[str] = ()) -> tuple[Tensor, Tensor]:
    """What enters the network in the first `most` examples, as features, and what windows end with.

    Args:
        step: Its inputs are read.
        examples: In its batch.
        most: Of these, at most.
        names: Of the inputs, where all of these enter; else of all that do.

    Returns:
        Shapes (N, D) and (N, F), without columns if there are none. Targets are left out, as what an autoencoder is to
        give back.

    """
    features, last = [torch.zeros(min(most, examples), 0)], torch.zeros(min(most, examples), 0)
    aims = [t for call in step.loss_calls if isinstance(t := call.arguments.get("target"), Tensor)]
    known = names and step.inputs.keys() >= set(names)
    for name, entered in [(n, t) for n, t in step.inputs.items() if not known or n in names]:
        dense = entered.layout is torch.strided and entered.is_floating_point() and entered.ndim and entered.numel()
        if not dense or len(entered) != examples or is_target(name, entered, step):
            continue
        if any(aim.numel() == entered.numel() and same(aim.reshape(entered.shape), entered) for aim in aims):
            continue
        value = entered[:most].detach().float()
        window = value.unsqueeze(-1) if value.ndim == 2 else value  # noqa: PLR2004
        if window.ndim == 3 and window.shape[1] >= WINDOW and not last.shape[1]:  # noqa: PLR2004 - time steps, features
            last = window[:, -1, :COLUMNS].cpu()
        features.append(narrow(value).cpu())
    return torch.cat(features, 1)[:, :WIDE].nan_to_num(0, 0, 0), last.nan_to_num(0, 0, 0)


def narrow(value: Tensor) -> Tensor:
    """Means of neighbours: of images in both directions, else along the numbers of an example."""
    if value[0].numel() <= WIDE:
        return value.reshape(len(value), -1)
    if value.ndim == 4 and value.shape[1] <= 4:  # noqa: PLR2004 - images
        return F.adaptive_avg_pool2d(value, max(1, math.isqrt(WIDE // value.shape[1]))).flatten(1)
    return F.adaptive_avg_pool1d(value.flatten(1).unsqueeze(1), WIDE).squeeze(1)
