"""Whether the last operation can give what the targets ask for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.loss_graph import CLAMPS
from lightning_recipe.record.tensors import dense

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.loss_graph import Node, WeightsOf

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
OF_SHARES = {"BinaryCrossEntropy", "BinaryCrossEntropyWithLogits"}
STUCK = 0.3
"""Share of the error, from which on a clamp keeps a network from learning: at first half of all answers lie below 0,
also where something else is asked for; of a clamp that is there for rare answers it is a few hundredths."""
TOLERANCE = 1e-3
"""Of rounding in half precision."""
SHARE = 0.1
"""Of the targets that may lie outside, and of the best constant's loss that may be out of reach: what is left of normal
numbers that were scaled to be within a bound at 1.3 standard deviations."""
MANY, HALF = 0.2, 0.05
"""The same from which on somebody is warned: of a bound at one standard deviation a batch may show no more."""


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


def out_of_range(weights_of: WeightsOf, graph: list[Node], batch: Any = None) -> Iterator[tuple[Node, Outcome]]:
    """Losses that stay above what free answers would reach, because of the range of the operation before them.

    Args:
        weights_of: How much each element of what a node gave counts in the loss.
        graph: The nodes of the loss, from what the last layers put out.
        batch: What the step was given.

    Yields:
        The node of the loss, and the verdict.

    """
    for node in graph:
        if node.kind in OF_SHARES and (found := _no_shares(weights_of, node)) is not None:
            yield node, found
        made_by, target = node.source(), node.saved("target")
        several = node.kind == "BinaryCrossEntropy" and made_by is not None and made_by.kind == "Softmax"
        if several and made_by is not None and isinstance(target, Tensor) and target.shape == made_by.shape:
            labels = target.sum(made_by.dim)[_counts(weights_of, node, target).any(made_by.dim)]
            share = float(((labels - 1).abs() > 0.5).double().mean())  # noqa: PLR2004 - smoothing adds a little
            if share > SHARE:
                yield node, _several(share)
        if (counts := _of_rates(weights_of, node)) is not None:
            yield node, counts
    for pair in pairs(graph, batch):
        if (outcome := _out_of_reach(weights_of, pair) or _at_bounds(weights_of, pair)) is not None:
            yield pair.node, outcome


def _out_of_reach(weights_of: WeightsOf, pair: Pair) -> Outcome | None:
    """Targets that a prediction can't come near, because of the operation that makes it."""
    low, high = pair.answer.bounds
    target = _counted(weights_of, pair.node, pair.target)
    if (math.isinf(low) and math.isinf(high)) or target.numel() < 2 or not target.isfinite().all():  # noqa: PLR2004
        return None
    held = target.clamp(low, high)
    outside = float((held != target).double().mean())
    best = float((target - held).abs().pow(pair.power).mean())
    constant = float((target - target.mean()).abs().pow(pair.power).mean())
    hard = outside > SHARE and best > SHARE * constant > 0 and pair.sure
    if not (hard or (outside > MANY and best > HALF * constant > 0)):
        return None
    function = pair.answer.made_by.kind.lower()
    return Outcome(
        Status.FAILED if hard else Status.WARNING,
        "out_of_range",
        f"{pair.answer.said} gives {_interval(low, high)}, while {outside:.0%} of the targets lie outside, "
        f"from {float(target.min()):.3g} to {float(target.max()):.3g}: {_errors(pair)} can't fall below "
        f"{best:.3g}, a constant alone reaches {constant:.3g}",
        f"another scale and shift of the {function}, or none of it"
        if pair.answer.moved
        else f"take the {function} off the output, or scale the targets to its range",
        {"outside": outside, "lowest": best, "constant": constant},
    )


def _at_bounds(weights_of: WeightsOf, pair: Pair) -> Outcome | None:
    """`advice` where much of the error is where a clamp gives its bounds, and is asked for something else."""
    node, target, given = pair.answer.made_by, pair.target, pair.answer.made_by.saved("self")
    values = pair.answer.values if node.kind in CLAMPS else None
    if values is None or not isinstance(given, Tensor) or given.numel() != target.numel():
        return None
    low, high = range_of(node)
    counts = _counts(weights_of, pair.node, target).flatten()
    errors = (values.flatten() + (pair.answer.shift or 0.0) - target.flatten()).abs().double().pow(pair.power)[counts]
    beyond = ((given < low) | (given > high)).flatten()[counts]
    share = float(errors[beyond].sum() / errors.sum()) if bool(errors.any()) else 0.0
    if share <= STUCK:
        return None
    return Outcome(
        Status.ADVICE,
        "stuck_at_bounds",
        f"{pair.answer.said} lets no gradient through beyond {_interval(low, high)}, and {share:.0%} of the error is "
        "there: what is most wrong is not learnt",
        "no clamp in training, only of what is reported; or a sigmoid",
        {"share": share},
    )


def _errors(pair: Pair) -> str:
    if pair.node.kind in LOSSES:
        return "the loss"
    return "the absolute error" if pair.power == 1 else "the squared error"


def _counts(weights_of: WeightsOf, node: Node, target: Tensor) -> Tensor:
    """Which of the targets count in the loss."""
    weight = weights_of(node)
    if weight is None or not weight.any():
        return torch.zeros_like(target, dtype=torch.bool)
    own = node.saved("weight")
    if isinstance(own, Tensor) and own.ndim <= target.ndim:
        weight = own.expand_as(target)
    return weight != 0 if weight.shape == target.shape else torch.ones_like(target, dtype=torch.bool)


def _counted(weights_of: WeightsOf, node: Node, target: Tensor) -> Tensor:
    """Their values."""
    return target[_counts(weights_of, node, target)].double()


def _no_shares(weights_of: WeightsOf, node: Node) -> Outcome | None:
    """Targets of a yes or no that are neither, such as -1 and 1, or 0 and 255."""
    saved = node.saved("target")
    target = _counted(weights_of, node, saved) if isinstance(saved, Tensor) else torch.zeros(0)
    outside = float(((target < -TOLERANCE) | (target > 1 + TOLERANCE)).double().mean()) if target.numel() else 0.0
    if not outside:
        return None
    low, high = float(target.min()), float(target.max())
    return Outcome(
        Status.FAILED,
        "out_of_range",
        f"targets of a binary cross entropy lie between 0 and 1, these go from {low:.3g} to {high:.3g}: the loss falls "
        "without end",
        "scale them to 0 and 1, or leave those that mean something else out with a mask",
        {"outside": outside, "low": low, "high": high},
    )


def _of_rates(weights_of: WeightsOf, node: Node) -> Outcome | None:
    """Rates of counts that are taken for their logarithms, ``exp(rate) - count * rate``: none is below 1."""
    grown, times = node.parents if node.kind == "Sub" and len(node.parents) == 2 else (None, None)  # noqa: PLR2004
    if grown is None or times is None or grown.kind != "Exp" or times.kind != "Mul":
        return None
    sides = [i for i, parent in enumerate(times.parents) if parent is not None]
    rate = grown.source()
    if rate is None or len(sides) != 1 or times.source(sides[0]) != rate or RANGES.get(rate.kind, (-1.0,))[0] < 0:
        return None
    saved = times.saved("other" if sides == [0] else "self")
    counts = _counted(weights_of, node, saved) if isinstance(saved, Tensor) else torch.zeros(0)
    if counts.numel() < 2 or float(counts.min()) < 0:  # noqa: PLR2004
        return None
    free, mean = float((counts - torch.xlogy(counts, counts)).mean()), float(counts.mean())
    small = counts.clamp(min=1)
    held, constant = float((small - counts * small.log()).mean()), mean - mean * math.log(max(mean, 1e-12))
    outside = float((counts < 1).double().mean())
    if held - free <= SHARE * (constant - free) or outside <= SHARE:
        return None
    function = rate.kind.lower()
    return Outcome(
        Status.FAILED,
        "out_of_range",
        f"what {function} gives is taken for the logarithm of a rate, which is then never below 1, while {outside:.0%} "
        f"of the counts are: the loss can't fall below {held:.3g}, a constant alone reaches {constant:.3g}",
        f"log_input=False, or take the {function} off the output",
        {"outside": outside, "lowest": held, "constant": constant},
    )


def _several(share: float) -> Outcome:
    return Outcome(
        Status.FAILED,
        "out_of_range",
        f"probabilities of an example sum to 1 after a softmax, but {share:.0%} of them have several labels, or none",
        "a sigmoid in place of the softmax: a probability for each label",
        {"outside": share},
    )


def range_of(node: Node) -> tuple[float, float]:
    """What comes out of an operation, whatever goes in."""
    if node.kind in CLAMPS:
        low, high = (node.saved(name) for name in CLAMPS[node.kind])
        return -math.inf if low is None else float(low), math.inf if high is None else float(high)
    return RANGES.get(node.kind, (-math.inf, math.inf))


def _interval(low: float, high: float) -> str:
    if math.isinf(high):
        return f"nothing below {low:g}"
    return f"nothing above {high:g}" if math.isinf(low) else f"{low:g} to {high:g}"
