"""What the network's output means, told by the loss function that it entered in a real step.

Nothing is configured. The output is found again in the argument of a loss function by comparing values, which also
tells how it was rearranged on the way (flattened, transposed, a softmax taken); the loss function tells the kind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_accuracy
from torchmetrics.functional.regression import mean_absolute_error

from lightning_recipe.record.tensors import tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lightning_recipe.record.step import LossCall

BUDGET = 2**21
"""Numbers in one look at the predictions (first examples, first positions), so that memory and time stay bounded."""
SIDE = 64
"""Pixels of each side of a map at most; of larger ones every second, third, ... pixel is looked at."""
MAP_SIDE = 8
"""Outputs of at least this many rows and columns are maps, smaller ones lists of numbers."""
CLASSES, TOKENS, YES_NO, NUMBERS = "classes", "tokens", "yes or no", "numbers"
CLASS_MAPS, YES_NO_MAPS, NUMBER_MAPS = "maps of classes", "maps of yes or no", "maps of numbers"
KINDS = {
    "cross_entropy": CLASSES,
    "nll_loss": CLASSES,
    "binary_cross_entropy": YES_NO,
    "binary_cross_entropy_with_logits": YES_NO,
    "gaussian_nll_loss": NUMBERS,
    "huber_loss": NUMBERS,
    "l1_loss": NUMBERS,
    "mse_loss": NUMBERS,
    "smooth_l1_loss": NUMBERS,
}
_MAPS = {CLASSES: CLASS_MAPS, YES_NO: YES_NO_MAPS, NUMBERS: NUMBER_MAPS}
_SEQUENCE = 3  # dimensions from which on an output may have been rearranged on its way to the loss
_ARRANGED: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda t: t,
    lambda t: t.movedim(1, -1),  # (B, C, T) to (B, T, C)
    lambda t: t.movedim(-1, 1),
    lambda t: t.transpose(0, 1),  # time first to batch first
    lambda t: t[:, :-1],  # a language model's outputs but the last
    lambda t: t[:, -1],  # the last of a sequence
    lambda t: t[:, 0],  # the first of a sequence
)
_SCALED: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda t: t,
    lambda t: t.log_softmax(1) if t.ndim > 1 else t,
    lambda t: t.softmax(1) if t.ndim > 1 else t,
    torch.sigmoid,
)

_SIGMOID = len(_SCALED) - 1
COMPARED = 256
"""Rows compared to tell whether a tensor is what a loss function was given."""


@dataclass(frozen=True)
class Reading:
    """How to read predictions off the tensors that a network returns.

    Attributes:
        kind: ``"classes"`` (one of many for each example), ``"tokens"`` (one of many at each position),
            ``"yes or no"`` (probabilities of one or several labels), ``"numbers"``, or maps of these.
        examples: How many examples are looked at.
        path: Which of the output tensors it is, ``""`` for a plain tensor.
        loss: Name of the loss function, ``""`` if none of the known ones was given this output.
        target: What should come out: (B,), (B, T), (B, K) or (B, H, W[, C]); None without a known loss function.
            Classes to ignore are negative.

    """

    kind: str
    examples: int
    path: str
    loss: str = ""
    target: Tensor | None = None
    arrangement: int = 0
    scale: int = 0
    row: tuple[int, ...] = ()  # shape of the loss's input after dimension 0
    positions: tuple[int, ...] = ()  # shape of an example, without classes

    @property
    def of_classes(self) -> bool:
        """Whether the last dimension is a distribution over classes."""
        return self.kind in {CLASSES, TOKENS, CLASS_MAPS}

    @property
    def of_maps(self) -> bool:
        """Whether an example is a map."""
        return self.kind in _MAPS.values()

    @property
    def of_numbers(self) -> bool:
        """Whether predictions are numbers without bounds, not probabilities."""
        return self.kind in {NUMBERS, NUMBER_MAPS}

    def read(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """The predictions for the first examples: probabilities or numbers as float32.

        Returns:
            Shape (B, C) for classes, (B, T, C) for tokens, (B, K) for yes or no and numbers, (B, H, W, C) for maps.

        Raises:
            KeyError: If the output no longer has that tensor.
            RuntimeError: If it no longer has that shape.

        """
        output = _ARRANGED[self.arrangement](outputs[self.path].detach())[: self.examples]
        if self.of_classes:
            rows = output.reshape(-1, *self.row).movedim(1, -1)
            values = _cut(self._shaped(rows.reshape(len(output), *self.positions, -1))).float()
            if self.loss == "nll_loss":
                return values.exp() if self.scale == 0 else values.softmax(-1)
            return values.softmax(-1)
        values = _cut(self._shaped(output.reshape(len(output), *self.positions))).float()
        return values.sigmoid() if self.loss.endswith("with_logits") or self.scale == _SIGMOID else values

    def _shaped(self, values: Tensor) -> Tensor:
        """Maps as (B, H, W, C) of at most `SIDE` pixels a side, of volumes the middle slice; numbers as (B, K)."""
        if self.kind in {YES_NO, NUMBERS}:
            return values.flatten(1) if values.ndim > 1 else values.unsqueeze(1)
        if not self.of_maps:
            return values
        depth = len(self.positions)
        if not self.of_classes and depth > 2:  # noqa: PLR2004 - (B, C, [D,] H, W)
            values = values.movedim(1, -1)
            depth -= 1
        if depth > 2:  # noqa: PLR2004
            values = values[:, values.shape[1] // 2]
        values = values if self.of_classes or len(self.positions) > 2 else values.unsqueeze(-1)  # noqa: PLR2004
        down, across = (max(1, math.ceil(size / SIDE)) for size in values.shape[1:3])
        return values[:, ::down, ::across]

    # -- numbers

    def distance(self, before: Tensor, after: Tensor) -> float:
        """How far predictions moved, on average over examples (positions, labels, pixels).

        Returns:
            The share of probability that moved (total variation, 0 to 1); for numbers, the mean absolute change in
            standard deviations of the target (of `after` without one).

        """
        change = (after - before).abs()
        if self.of_classes:
            return float(self._counted(change.sum(-1) / 2).mean())
        if self.kind in {YES_NO, YES_NO_MAPS}:
            return float(change.mean())
        return float(change.mean()) / self._unit(after)

    def spread(self, values: Tensor) -> float:
        """How much predictions differ between examples: the mean `distance` from the mean prediction."""
        return self.distance(values.mean(0, keepdim=True).expand_as(values), values)

    def answers(self, values: Tensor) -> Tensor | None:
        """The class predicted, or whether yes is; None for numbers."""
        if self.of_classes:
            return values.argmax(-1)
        return values > 0.5 if self.kind in {YES_NO, YES_NO_MAPS} else None  # noqa: PLR2004

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
        return torch.where(self.target > 0.5, values, 1 - values)  # noqa: PLR2004

    def score(self, values: Tensor) -> dict[str, float]:
        """``{"share_right": ...}``, or ``{"mean_absolute_error": ...}`` for numbers; empty without a target."""
        if self.target is None:
            return {}
        if self.of_classes:
            return {"share_right": float(self._counted(values.argmax(-1) == self.target).float().mean())}
        if self.kind in {YES_NO, YES_NO_MAPS}:
            return {"share_right": float(binary_accuracy(values, (self.target > 0.5).long(), validate_args=False))}  # noqa: PLR2004
        return {"mean_absolute_error": float(mean_absolute_error(values, self.target.to(values.dtype)))}

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
        """Those that have a target."""
        return values if self._has_target is None else values[self._has_target]

    @cached_property
    def _has_target(self) -> Tensor | None:
        """Which positions have one; None if all do, or nobody knows."""
        if self.target is None or not self.of_classes:
            return None
        has = self.target >= 0
        return None if bool(has.all()) else has

    def _unit(self, values: Tensor) -> float:
        reference = (values if self.target is None else self.target).float()
        spread = float(reference.std(correction=0))
        return spread or float(reference.abs().mean()) or 1.0


def _cut(values: Tensor) -> Tensor:
    """At most `BUDGET` numbers: of sequences fewer positions, of anything else fewer examples."""
    if values.ndim == _SEQUENCE:
        values = values[:, : max(1, BUDGET // max(1, len(values) * values.shape[-1]))]
    return values[: max(1, BUDGET // max(1, values[:1].numel()))].contiguous()


# -- finding out


def reading(output: object, loss: LossCall, examples: int, *, by_shape: bool = False) -> Reading | None:
    """How `loss` read `output`, or None if it was given something else.

    Args:
        output: What the network returned in that step.
        loss: What the loss function was given.
        examples: How many to look at, at most.
        by_shape: Take what has the same shape for the same; for predictions that were not computed in that step.

    Example:
        >>> import torch.nn.functional as F
        >>> from lightning_recipe.record.step import LossCall
        >>> logits, y = torch.randn(4, 9, 5), torch.zeros(36).long()
        >>> flat = {"input": logits.flatten(0, 1), "target": y}
        >>> loss = LossCall("cross_entropy", F.cross_entropy, flat, torch.tensor(1.6), 36, "a.py:1", False)
        >>> how = reading(logits, loss, examples=2)
        >>> how.kind, how.read({"": logits}).shape, how.target.shape
        ('tokens', torch.Size([2, 9, 5]), torch.Size([2, 9]))

    """
    given, target = loss.arguments.get("input"), loss.arguments.get("target")
    kind = KINDS.get(loss.name)
    if kind is None or loss.target_from_net or not isinstance(given, Tensor) or not isinstance(target, Tensor):
        return None
    if given.ndim < (2 if kind == CLASSES else 1) or not given.numel():
        return None
    row = tuple(given.shape[1:])
    for path, tensor in tensors(output):
        way = (0, 0) if by_shape and tensor.shape == given.shape else _way(tensor, given, kind)
        if way is not None:
            arranged = _ARRANGED[way[0]](tensor)
            positions = _positions(arranged, row, kind)
            known = min(examples, len(arranged), len(given) * math.prod(row) // arranged[:1].numel())
            found = Reading(_with_shape(kind, positions), known, path, loss.name, None, *way, row, positions)
            return _with_target(found, target, given, found.read({path: tensor})) if known else None
    return None


def unread(output: object, batch_size: int | None, examples: int) -> Reading | None:
    """Numbers without a target: the largest floating point tensor with a row for each example, if there is one."""
    fitting = [
        (tensor.numel(), path, tensor)
        for path, tensor in tensors(output)
        if tensor.is_floating_point() and tensor.ndim and tensor.numel() and batch_size in {None, len(tensor)}
    ]
    if not fitting:
        return None
    _, path, tensor = max(fitting, key=lambda entry: entry[0])
    positions = tuple(tensor.shape[1:])
    return Reading(_with_shape(NUMBERS, positions), min(examples, len(tensor)), path, positions=positions)


def _way(output: Tensor, given: Tensor, kind: str) -> tuple[int, int] | None:
    """Which arrangement and which scaling make of `output` what the loss was given."""
    if not output.is_floating_point() or not output.ndim or not output.numel():
        return None
    ways = []
    for i, arrange in enumerate(_ARRANGED if output.ndim >= _SEQUENCE else _ARRANGED[:1]):
        arranged = arrange(output)
        if arranged.numel() and arranged[:1].numel() % math.prod(given.shape[1:]) == 0:
            ways.append((arranged.shape != given.shape, i, arranged.reshape(-1, *given.shape[1:])))
    for _, i, rows in sorted(ways, key=lambda way: way[:2]):  # those that needn't be reshaped first
        n = min(len(rows), len(given), COMPARED)
        for j, scaled in enumerate(_SCALED):
            possible = kind == CLASSES or j in {0, _SIGMOID}
            if possible and _equal(scaled(rows[:n].float()), given[:n].float()):
                return i, j
    return None


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True)


def _positions(arranged: Tensor, row: tuple[int, ...], kind: str) -> tuple[int, ...]:
    """The shape of an example without classes: () for one class, (T,) for tokens, (H, W) for maps."""
    if kind != CLASSES:
        return tuple(arranged.shape[1:])
    per_example = arranged[:1].numel() // math.prod(row)
    if per_example == 1:
        return row[1:]
    inner = tuple(arranged.shape[1:-1])
    return inner if math.prod(inner) == per_example and len(row) == 1 else (per_example * math.prod(row[1:]),)


def _with_shape(kind: str, positions: tuple[int, ...]) -> str:
    if kind == CLASSES:
        return {0: CLASSES, 1: TOKENS}.get(len(positions), CLASS_MAPS)
    return _MAPS[kind] if len(positions) > 1 and min(positions[-2:]) >= MAP_SIDE else kind


def _with_target(found: Reading, target: Tensor, given: Tensor, values: Tensor) -> Reading | None:
    """`found` with the target for the same examples."""
    if found.of_classes:
        if target.is_floating_point():  # probabilities
            target = target.argmax(1)
        rows = found.examples * max(1, math.prod(found.positions) // math.prod(given.shape[2:]))
    else:
        if target.numel() != given.numel():
            return None
        target = target.reshape(given.shape)
        rows = found.examples * max(1, math.prod(found.positions) // math.prod(given.shape[1:]))
    target = target[:rows].reshape(found.examples, *found.positions)
    shaped = found._shaped(target)  # noqa: SLF001 - of this file
    shaped = shaped[: len(values)] if found.kind != TOKENS else shaped[: len(values), : values.shape[1]]
    return replace(found, target=shaped.detach().clone(memory_format=torch.contiguous_format), examples=len(values))
