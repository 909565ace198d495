"""What the network's output means, told by the loss function that it entered in a real step.

Nothing is configured. The output is found again in the argument of a loss function by comparing values, which also
tells how it was rearranged on the way (flattened, transposed, a softmax taken); the loss function tells the kind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_recipe.losses.measures import CLASSES, MAPS, NUMBERS, TOKENS, YES_NO, Measures
from lightning_recipe.losses.table import TABLE, Takes
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
_MAP = 2  # dimensions of its pixels
_SEQUENCE = 3  # dimensions from which on an output may have been rearranged on its way to the loss
AS_IT_IS = "as it is"
ARRANGEMENTS: dict[str, Callable[[Tensor], Tensor]] = {
    AS_IT_IS: lambda t: t,
    "classes last": lambda t: t.movedim(1, -1),  # (B, C, T) to (B, T, C)
    "classes second": lambda t: t.movedim(-1, 1),
    "batch first": lambda t: t.transpose(0, 1),  # was time first
    "all positions but the last": lambda t: t[:, :-1],  # a language model's outputs
    "last position": lambda t: t[:, -1],
    "first position": lambda t: t[:, 0],
}
SCALINGS: dict[str, Callable[[Tensor], Tensor]] = {
    AS_IT_IS: lambda t: t,
    "log_softmax": lambda t: t.log_softmax(1) if t.ndim > 1 else t,
    "softmax": lambda t: t.softmax(1) if t.ndim > 1 else t,
    "sigmoid": torch.sigmoid,
}
COMPARED = 256
"""Rows compared to tell whether a tensor is what a loss function was given."""


@dataclass(frozen=True)
class Reading(Measures):
    """How to read predictions off the tensors that a network returns.

    Attributes:
        examples: How many examples are looked at.
        path: Which of the output tensors it is, ``""`` for a plain tensor.
        takes: What the loss function takes that was given this output; numbers if none of the known ones was.
        arrangement: The name of what was done to the output's dimensions on its way there.
        scaling: Likewise, of what was done to its values.
        row: Shape of what the loss function was given, after dimension 0.
        positions: Shape of an example, without classes.
        sure: Whether a loss function was seen to compare it with `target`; if not, it is drawn, and never judged.

    """

    kind: str
    examples: int
    path: str
    target: Tensor | None = None
    takes: Takes = Takes.NUMBERS
    arrangement: str = AS_IT_IS
    scaling: str = AS_IT_IS
    row: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()
    sure: bool = True

    def error(self, values: Tensor) -> float:
        """The error in units of that of knowing nothing; NaN if nobody knows what it should be."""
        return super().error(values) if self.sure else math.nan

    def read(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """The predictions for the first examples: probabilities or numbers as float32.

        Returns:
            Shape (B, C) for classes, (B, T, C) for tokens, (B, K) for yes or no and numbers, (B, H, W, C) for maps.

        Raises:
            KeyError: If the output no longer has that tensor.
            RuntimeError: If it no longer has that shape.

        """
        output = ARRANGEMENTS[self.arrangement](outputs[self.path].detach())[: self.examples]
        if self.of_classes:
            rows = output.reshape(-1, *self.row).movedim(1, -1)
            values = _cut(self._shaped(rows.reshape(len(output), *self.positions, -1))).float()
            logarithms = self.takes is Takes.LOG_PROBABILITIES and self.scaling == AS_IT_IS
            return values.exp() if logarithms else values.softmax(-1)
        values = _cut(self._shaped(output.reshape(len(output), *self.positions))).float()
        return values.sigmoid() if self.takes is Takes.LOGITS or self.scaling == "sigmoid" else values

    def _shaped(self, values: Tensor) -> Tensor:
        """Maps as (B, H, W, C) of at most `SIDE` pixels a side, of volumes the middle slice; numbers as (B, K)."""
        if self.kind in {YES_NO, NUMBERS}:
            return values.flatten(1) if values.ndim > 1 else values.unsqueeze(1)
        if not self.of_maps:
            return values
        depth = len(self.positions)
        if not self.of_classes:  # (B, H, W) or (B, C, [D,] H, W)
            values, depth = (values.movedim(1, -1), depth - 1) if depth > _MAP else (values.unsqueeze(-1), depth)
        if depth > _MAP:
            values = values[:, values.shape[1] // 2]
        down, across = (max(1, math.ceil(size / SIDE)) for size in values.shape[1:3])
        return values[:, ::down, ::across]


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
    known = TABLE[loss.name]
    kind = None if known.answers is None or known.takes is Takes.SCORES else known.answers.value
    if kind is None or loss.target_from_net or not isinstance(given, Tensor) or not isinstance(target, Tensor):
        return None
    if given.ndim < (2 if kind == CLASSES else 1) or not given.numel():
        return None
    row = tuple(given.shape[1:])
    for path, tensor in tensors(output):
        way = (AS_IT_IS, AS_IT_IS) if by_shape and tensor.shape == given.shape else _way(tensor, given, kind)
        if way is None:
            continue
        arranged = ARRANGEMENTS[way[0]](tensor)
        positions = _positions(arranged, row, kind)
        seen = min(examples, len(arranged), len(given) * math.prod(row) // arranged[:1].numel())
        found = Reading(_with_shape(kind, positions), seen, path, None, known.takes, *way, row, positions)
        return _with_target(found, target, given, found.read({path: tensor})) if seen else None
    return None


def unread(output: object, batch_size: int | None, examples: int) -> Reading | None:
    """Numbers without a target: the largest floating point tensor with a row for each example, if there is one."""
    found = {path: t for path, t in tensors(output) if t.is_floating_point() and t.ndim and t.numel()}
    fitting = [path for path, tensor in found.items() if batch_size in {None, len(tensor)}]
    if not fitting:
        return None
    path = max(fitting, key=lambda path: found[path].numel())
    tensor, positions = found[path], tuple(found[path].shape[1:])
    return Reading(_with_shape(NUMBERS, positions), min(examples, len(tensor)), path, positions=positions)


def _way(output: Tensor, given: Tensor, kind: str) -> tuple[str, str] | None:
    """Which arrangement and which scaling make of `output` what the loss was given."""
    if not output.is_floating_point() or not output.ndim or not output.numel():
        return None
    ways = []
    for arrangement, arrange in ARRANGEMENTS.items():
        arranged = arrange(output) if arrangement == AS_IT_IS or output.ndim >= _SEQUENCE else output[:0]
        if arranged.numel() and arranged[:1].numel() % math.prod(given.shape[1:]) == 0:
            ways.append((arranged.shape != given.shape, arrangement, arranged.reshape(-1, *given.shape[1:])))
    for _, arrangement, rows in sorted(ways, key=lambda way: way[0]):  # those that needn't be reshaped first
        n = min(len(rows), len(given), COMPARED)
        for scaling, scaled in SCALINGS.items():
            possible = kind == CLASSES or scaling in {AS_IT_IS, "sigmoid"}
            if possible and scaled(rows[:n].float()).allclose(given[:n].float(), rtol=1e-3, atol=1e-5, equal_nan=True):
                return arrangement, scaling
    return None


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
        return {0: CLASSES, 1: TOKENS}.get(len(positions), MAPS[CLASSES])
    return MAPS[kind] if len(positions) > 1 and min(positions[-2:]) >= MAP_SIDE else kind


def _with_target(found: Reading, target: Tensor, given: Tensor, values: Tensor) -> Reading | None:
    """`found` with the target for the same examples."""
    if found.of_classes:
        target = target.argmax(1) if target.is_floating_point() else target  # probabilities
    elif target.numel() == given.numel():
        target = target.reshape(given.shape)
    else:
        return None
    each = math.prod(given.shape[2 if found.of_classes else 1 :])
    rows = found.examples * max(1, math.prod(found.positions) // each)
    target = target[:rows].reshape(found.examples, *found.positions)
    shaped = found._shaped(target)  # noqa: SLF001 - of this file
    shaped = shaped[: len(values)] if found.kind != TOKENS else shaped[: len(values), : values.shape[1]]
    return replace(found, target=shaped.detach().clone(memory_format=torch.contiguous_format), examples=len(values))
