"""Predictions, and the numbers that a loss compares them with, as its graph tells."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_recipe.record.loss_graph import CLAMPS
from lightning_recipe.record.tensors import dense

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.loss_graph import Node

LOSSES = {"MseLoss": 2.0, "SmoothL1Loss": 2.0, "HuberLoss": 2.0}
RANGES = {
    "Sigmoid": (0.0, 1.0),
    "Hardsigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
    "Relu": (0.0, math.inf),
    "Softplus": (0.0, math.inf),
    "Exp": (0.0, math.inf),
}
"""What comes out of operations, whatever goes in."""
SQUARES = {"Pow", "Abs", "Mul", *LOSSES}
ABSOLUTE = {"Abs", "Maximum"}
SCALED = {"Mul", "Div", "Neg"}
LINEAR = {"Mul", "Div", "Add", "Sub"}
SHIFTED = {"Add", "Sub", "Rsub"}
OF_NUMBERS = {torch.int64, torch.float64}
"""As what autograd keeps numbers that are no tensors."""
TOLERANCE = 1e-3
"""Of rounding in half precision."""


class Answer(NamedTuple):
    """What makes a prediction, at most times a constant, and with a constant added: ``1 + 4 * score.sigmoid()``.

    Attributes:
        made_by: The operation.
        scale: The first constant.
        shift: The other one; None where nobody knows.

    """

    made_by: Node
    scale: float = 1.0
    shift: float | None = 0.0

    @property
    def values(self) -> Tensor | None:
        """What it gave, but for the shift."""
        result = _result(self.made_by)
        return None if result is None else self.scale * result.float()

    @property
    def bounds(self) -> tuple[float, float]:
        """What it gives, whatever goes in."""
        ends = [self.scale * end + (self.shift or 0.0) for end in range_of(self.made_by)]
        return min(ends), max(ends)

    @property
    def said(self) -> str:
        """The operation and the constants."""
        name = self.made_by.kind.lower()
        name += f" times {self.scale:g}" if self.scale != 1 else ""
        return f"{name}, plus {self.shift:g}," if self.shift else name

    @property
    def moved(self) -> bool:
        """Whether there are such constants."""
        return (self.scale, self.shift) != (1.0, 0.0)

    def giving(self, prediction: Tensor) -> Answer | None:
        """The same with its shift, if a constant is all that is between its values and a prediction."""
        values = self.values
        if self.shift is not None or values is None or values.numel() != prediction.numel():
            return self if self.shift is not None else None
        apart = prediction.flatten().sort().values.float() - values.flatten().sort().values  # in any order
        shift = float(apart.mean())
        same = float((apart - shift).abs().max()) <= TOLERANCE * max(1.0, abs(shift), abs(self.scale))
        return self._replace(shift=round(shift, 4)) if same else None


class Pair(NamedTuple):
    """A prediction that is compared with numbers.

    Attributes:
        node: The loss.
        answer: What made the prediction, past reshapes.
        target: What it is compared with.
        power: That of the error in the loss.
        sure: Whether it is known to be that.

    """

    node: Node
    answer: Answer
    target: Tensor
    power: float
    sure: bool = True


def pairs(graph: list[Node], batch: Any = None) -> Iterator[Pair]:
    """Predictions and what they are compared with: by a loss function, or by hand as differences.

    Args:
        graph: The nodes of the loss, from what the last layers put out.
        batch: Where targets are looked for that the graph does not tell.

    """
    for node in graph:
        if node.kind in LOSSES:
            sides = [i for i, parent in enumerate(node.parents) if parent is not None]
            answer = _answer(node, sides[0]) if len(sides) == 1 else None
            given, target = node.saved("self"), node.saved("target")
            if answer is None or not isinstance(given, Tensor) or not isinstance(target, Tensor):
                continue
            given, target = (given, target) if sides == [0] else (target, given)
            if (known := answer.giving(given)) is not None:
                yield Pair(node, known, target, LOSSES[node.kind])
            continue
        for error, difference in _differences(node):
            sides = [i for i, parent in enumerate(error.parents) if parent is not None]
            answer = _answer(error, sides[0]) if len(sides) == 1 else None
            values = answer.values if answer is not None else None
            if answer is None or values is None or values.numel() != difference.numel():
                continue
            direct = error.parents[sides[0]] == answer.made_by or values.ndim <= difference.ndim + 1
            sign = 1 if sides[0] == 0 else -1
            power = 1.0 if node.kind in ABSOLUTE else 2.0
            if answer.shift is None:
                entries = [t for _, t in dense(batch) if t.numel() == difference.numel() and not t.is_complex()]
                targets = [entry.reshape(difference.shape) for entry in entries]
            else:
                targets = [values.reshape(difference.shape) - sign * difference] if direct else []
            for target in targets:
                if (known := answer.giving(target + sign * difference)) is not None:
                    yield Pair(node, known, target, power, sure=node.kind in SQUARES)
                    break


def _answer(node: Node, argument: int) -> Answer | None:
    """What made an argument of a node, past constants that are one number; tensors may be statistics that move on."""
    made_by, scale, shift = node.source(argument), 1.0, False
    while made_by is not None and made_by.kind in SCALED | SHIFTED:
        sides = [i for i, parent in enumerate(made_by.parents) if parent is not None]
        if len(sides) != 1:
            break
        if made_by.kind in SCALED:
            by, constant = _factor(made_by), _constant(made_by)
            is_tensor = constant is not None and constant.dtype not in OF_NUMBERS
            if not by or is_tensor or (made_by.kind == "Div" and sides != [0]):
                break
            scale *= by
        else:
            shift = True
            scale *= -1 if made_by.kind == "Rsub" or (made_by.kind == "Sub" and sides == [1]) else 1
        made_by = made_by.source(sides[0])
    return None if made_by is None else Answer(made_by, scale, None if shift else 0.0)


def _constant(node: Node) -> Tensor | None:
    """The one number that a node multiplies with or divides by, as autograd keeps it."""
    known = [node.saved(kept) for kept in ("self", "other")]
    return next((t for t in known if isinstance(t, Tensor) and t.numel() == 1), None)


def _factor(node: Node) -> float | None:
    """What a node multiplies with, if that is one number other than 0."""
    constant = _constant(node)
    by = -1.0 if node.kind == "Neg" else 0.0 if constant is None else float(constant)
    return (1 / by if node.kind == "Div" else by) if by else None


def _differences(node: Node) -> Iterator[tuple[Node, Tensor]]:
    """Subtractions whose results a node was given, at most times a number, with these results.

    Whatever is made of an error by hand, such as its hyperbolic cosine, is given the error, and keeps it.
    """
    if node.kind in LINEAR and len({*node.parents}) > 1:
        return
    for argument, name in enumerate(("self", "other")[: len(node.parents)]):
        error, given, scale = node.parents[argument], node.saved(name), 1.0
        if not isinstance(given, Tensor):
            continue
        while error is not None and error.kind in SCALED:
            by = _factor(error)
            if not by:
                break
            scale *= by
            error = next((parent for parent in error.parents if parent is not None), None)
        if error is not None and error.kind == "Sub":
            yield error, given / scale


def _result(node: Node) -> Tensor | None:
    """What came out of an operation, which may keep what went in instead."""
    result, given = node.saved("result"), node.saved("self")
    if isinstance(result, Tensor) or not isinstance(given, Tensor):
        return result if isinstance(result, Tensor) else None
    if node.kind == "Softplus":
        return F.softplus(given, float(node.saved("beta")), float(node.saved("threshold")))
    if node.kind == "Hardsigmoid":
        return F.hardsigmoid(given)
    low, high = range_of(node)
    return given.clamp(low, high) if node.kind in CLAMPS and low <= high else None


def range_of(node: Node) -> tuple[float, float]:
    """What comes out of an operation, whatever goes in."""
    if node.kind in CLAMPS:
        low, high = (node.saved(name) for name in CLAMPS[node.kind])
        return -math.inf if low is None else float(low), math.inf if high is None else float(high)
    return RANGES.get(node.kind, (-math.inf, math.inf))
