"""Whether logits can be far enough apart, as cosines are not that are multiplied with a temperature."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.callbacks._compared import RANGES, range_of
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.loss_graph import CLAMPS, PRODUCTS, RESHAPES
from lightning_recipe.record.scalar_products import is_unit, is_weight, sides

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from lightning_recipe.record.loss_graph import Node, WeightsOf

Range = tuple[float, float]

FREE: Range = (-math.inf, math.inf)
BOUNDED = {"Tanh", "Relu", "Softplus", "Exp"}
"""Operations that logits come out of; what is said of probabilities is said elsewhere."""
NOTHING = 0.9
"""Share of the way from a uniform guess to the right answers that is out of reach: nothing can be learnt."""
SHARE = 0.1
"""The same, from which on it is told, as it is of other predictions whose range is too small."""
PAIRS = 0.5
"""The same of cosines of what two networks put out, told where they are made smaller than they are: with the usual
temperature of 0.5, T. Chen and others, A Simple Framework for Contrastive Learning of Visual Representations (2020), a
third of the way is out of reach among 256 pairs, and with 1 more than half of it."""
AS_THEY_ARE = 2.0
"""How far cosines are apart at most."""
INTO = {
    "LogSoftmax": set[str](),
    "Softmax": {"Log"},
    "Logsumexp": {"Sub"},
    "Sum": {"Log", "Div"},
}
"""What takes a softmax, or a part of one, and what that goes into if it is one of a loss, if not anything."""
SATURATED = 50.0
"""Logit from which on a sigmoid is 0 or 1."""
STEPS = 50
"""By which logits between bounds are found."""
FAR = -1e3
"""What lies below is left out by a mask."""
EXPONENTIALS = {"Mul", "MaskedFill", "Sub"}
"""What may leave some of the exponentials out before their sum is taken."""


class Softmax(NamedTuple):
    """Where a softmax is taken, by a function or by hand.

    Attributes:
        logits: What it is taken of.
        shape: Of these.
        dim: Along which.

    """

    logits: Node
    shape: tuple[int, ...]
    dim: int


def too_close(weights_of: WeightsOf, graph: list[Node]) -> Iterator[tuple[Node, Outcome]]:
    """Losses of logits that are bounded, and stay close to that of a guess even if these are as far apart as can be.

    Args:
        weights_of: How much each element of what a node gave counts in the loss.
        graph: The nodes of the loss, from what the last layers put out.

    Yields:
        The node that takes a softmax or a sigmoid of them, and the verdict.

    """
    after: defaultdict[Node, list[Node]] = defaultdict(list)
    for node in graph:
        for parent in node.parents:
            if parent is not None:
                after[parent].append(node)
    for node in graph:
        found = _of_classes(weights_of, after, node) or _of_yes_no(weights_of, node)
        if found is not None:
            yield node, found


def _of_classes(weights_of: WeightsOf, after: dict[Node, list[Node]], node: Node) -> Outcome | None:
    taken = softmax(node)
    low, high = FREE if taken is None else bounds(taken.logits)
    if taken is None or math.isinf(high - low) or not _is_of_loss(after, node):
        return None
    classes, values = taken.shape[taken.dim] - _masked(node, taken), _values(node)
    if classes < 2 or values is None:  # noqa: PLR2004
        return None
    spread = values.masked_fill(values < FAR, math.inf).amin(taken.dim)
    if float((values.amax(taken.dim) - spread).max()) > 1.01 * (high - low):  # what was added differs
        return None
    free, lowest = 0.0, math.log1p((classes - 1) * math.exp(low - high))
    if node.kind == "LogSoftmax":
        weight = weights_of(node)
        if weight is None or not weight.any() or bool((weight > 0).any()):
            return None
        free, lowest = of_targets(-weight.double().movedim(taken.dim, -1).flatten(0, -2), high - low, lowest)
    return _verdict(taken.logits, (low, high), (free, lowest, math.log(classes)), f"over {classes} classes")


def of_targets(weight: Tensor, apart: float, sure: float) -> tuple[float, float]:
    """The lowest cross entropies: with any logits, and with logits that are so far apart at most.

    Args:
        weight: How much each class counts in each row, which is its share in the target times the weight of the row.
        apart: The largest difference of two logits.
        sure: The lowest of a target that is one class.

    Example:
        >>> free, held = of_targets(torch.tensor([[0.9, 0.1]]), 1.0, 0.3)
        >>> round(free, 3), round(held, 3)
        (0.325, 0.413)

    """
    counted = weight.sum(1)
    target = weight[counted > 0] / counted[counted > 0, None]
    counted = counted[counted > 0] / counted.sum()
    if bool((target.amax(1) == 1).all()):
        return 0.0, sure
    shift = torch.zeros(len(target), 1, dtype=target.dtype, device=target.device)
    for _ in range(STEPS):  # what lies between the bounds has the probability of its target
        logits = (target.log() + shift).clamp(0, apart)
        shift = logits.logsumexp(1, keepdim=True)
    held = -(target * (logits - shift)).sum(1)
    return float(torch.special.entr(target).sum(1) @ counted), float(held @ counted)


def _of_yes_no(weights_of: WeightsOf, node: Node) -> Outcome | None:
    logits, target = node.parents[0] if node.parents else None, node.saved("target")
    if node.kind != "BinaryCrossEntropyWithLogits" or logits is None or not isinstance(target, Tensor):
        return None
    low, high = bounds(logits)
    shifted = _past(logits, {"Mul", "Div", "Neg", "Clamp"} | RESHAPES)  # by a constant: then they have no bounds
    free = math.isinf(low) and math.isinf(high)
    weight = weights_of(node) if not free and shifted and shifted.kind not in {"Add", "Sub"} else None
    if weight is None:
        return None
    counts = weight != 0 if weight.shape == target.shape else torch.ones_like(target, dtype=torch.bool)
    target = target[counts].double()
    if not target.numel() or bool(((target < 0) | (target > 1)).any()):
        return None
    best = torch.logit(target).clamp(max(low, -SATURATED), min(high, SATURATED))
    lowest = float((torch.nn.functional.softplus(best) - target * best).mean())
    reached = float((torch.special.entr(target) + torch.special.entr(1 - target)).mean())
    return _verdict(logits, (low, high), (reached, lowest, math.log(2)), "of a yes or no")


def _verdict(logits: Node, between: Range, losses: tuple[float, float, float], over: str) -> Outcome | None:
    free, lowest, guess = losses
    width, share = between[1] - between[0], (lowest - free) / (guess - free) if guess > free else 0.0
    if share <= (SHARE if not _of_two_networks(logits) else PAIRS if width < AS_THEY_ARE else math.inf):
        return None
    end = f"below {between[0]:g}" if math.isinf(between[1]) else f"above {between[1]:g}"
    said = f"never {end}" if math.isinf(width) else f"at most {width:.3g} apart"
    return Outcome(
        Status.FAILED if share > NOTHING else Status.WARNING,
        "logits_too_close",
        f"logits are {said}, whatever the network puts out: {over} the loss can't fall below {lowest:.3g}, where a "
        f"uniform guess has {guess:.3g}",
        "take the last activation off the output"
        if math.isinf(width)
        else "divide by the temperature in place of multiplying with it; cosines and tanh want a scale of 10 to 100, "
        "or one that is learnt",
        {"share": share, "lowest": lowest, "guess": guess} | ({} if math.isinf(width) else {"apart": width}),
    )


def softmax(node: Node) -> Softmax | None:
    """Whether a node may be the logarithm of a softmax, or its denominator, and of what."""
    logits = node.parents[0] if node.kind in INTO else None
    if logits is None:
        return None
    if node.kind in {"LogSoftmax", "Softmax"}:
        return Softmax(logits, node.shape, node.dim or 0)
    shape, dims = logits.shape, node.saved("dim")
    if node.kind == "Sum":
        each = _past(logits, EXPONENTIALS)
        logits = each.parents[0] if each is not None and each.kind == "Exp" else None
    return Softmax(logits, shape, dims[0] % len(shape)) if logits is not None and dims and len(dims) == 1 else None


def _is_of_loss(after: dict[Node, list[Node]], node: Node) -> bool:
    """Whether what a node gave goes into what belongs to a loss, past reshapes and epsilons."""
    waiting = list(after.get(node, ()))
    for other in waiting:  # it grows
        if other.kind in INTO[node.kind]:
            return True
        if other.kind in RESHAPES | {"Clamp", "ClampMin", "Add"}:
            waiting += [further for further in after.get(other, ()) if further not in waiting]
    return not INTO[node.kind]


def _past(node: Node | None, kinds: Collection[str]) -> Node | None:
    """What made something, past operations of some kinds with a constant."""
    while node is not None and node.kind in kinds and len(known := [p for p in node.parents if p is not None]) == 1:
        node = known[0]
    return node


def _values(node: Node) -> Tensor | None:
    """The logits that a softmax was taken of, each row but for a constant."""
    if node.kind == "Logsumexp":
        value = node.saved("self")
    else:
        each = node if node.kind != "Sum" else _past(node.parents[0], EXPONENTIALS)
        value = each.saved("result") if each is not None else None
    if not isinstance(value, Tensor):
        return None
    return value.double() if node.kind in {"LogSoftmax", "Logsumexp"} else value.double().log()


def _masked(node: Node, taken: Softmax) -> int:
    """How many of the classes are left out of a softmax at most, by a mask before or after their exponentials."""
    most, at = 0, node.parents[0] if node.kind == "Sum" else taken.logits
    while at is not None and at.shape == taken.shape:
        mask = at.saved("mask") if at.kind == "MaskedFill" else None
        if at.kind == "Mul" and isinstance(factor := at.saved("other" if at.parents[-1] is None else "self"), Tensor):
            mask = factor == 0 if factor.ndim else None
        if isinstance(mask, Tensor):
            most += int(mask.expand(taken.shape).sum(taken.dim).max())
        known = [parent for parent in at.parents if parent is not None]
        at = known[0] if len(known) == 1 else None
    return most


def bounds(node: Node | None) -> Range:
    """Between which numbers lies what a node gives, whatever the parameters are, but for constants that are added.

    Example:
        >>> from lightning_recipe.record.loss_graph import Node
        >>> layer = torch.nn.Linear(2, 3)
        >>> bounds(Node((30 * layer(torch.ones(1, 2)).tanh()).grad_fn))
        (-30.0, 30.0)

    """
    if node is None or node.kind in PRODUCTS - {"Mm", "Bmm"}:
        return FREE
    known = [parent for parent in node.parents if parent is not None]
    if node.kind == "Div" and is_unit(node):
        return -1.0, 1.0
    if node.kind in BOUNDED:
        return RANGES[node.kind]
    if node.kind in {"Mm", "Bmm", "Sum"}:
        length = _of_cosines(node)
        return -length, length
    if node.kind == "Neg":
        low, high = bounds(known[0])
        return -high, -low
    if node.kind in CLAMPS:
        least, most = bounds(known[0])
        low, high = range_of(node)
        return max(low, least), min(high, most)
    if node.kind in RESHAPES and len(known) == len(node.parents):
        ranges = [bounds(parent) for parent in known]
        return min(low for low, _ in ranges), max(high for _, high in ranges)
    if node.kind in {"MaskedFill", "Add", "Sub"} and len(known) == 1 and node.parents[0] is not None:
        return bounds(known[0])
    if node.kind in {"Mul", "Div"} and len(known) == 1:
        return _scaled(node, bounds(known[0]))
    return FREE


def _scaled(node: Node, of: Range) -> Range:
    """After a product with a constant, or a quotient by one."""
    second = node.parents[-1] is None
    factor = node.saved("other" if second else "self")
    if not isinstance(factor, Tensor) or not factor.numel() or (node.kind == "Div" and not second):
        return FREE
    factor = 1 / factor.double() if node.kind == "Div" else factor.double()
    ends = [end * float(by) for end in of for by in (factor.min(), factor.max()) if end and by]
    return (min([0.0, *ends]), max([0.0, *ends])) if math.isfinite(of[1] - of[0]) else FREE


def _of_cosines(node: Node) -> float:
    """How large a product of vectors can be that have a length of their own; infinite if they have none."""
    made_by, values = sides(node)
    length = 1.0 if made_by else math.inf
    for side, value in zip(made_by, values, strict=True):
        if side is not None and not is_unit(side):
            return math.inf
        if value is None or not value.numel():  # not kept, as of what is multiplied with a constant
            length *= 1.0 if side is not None and side.kind == "Div" else math.inf
            continue
        lengths = value.double().norm(dim=-1)
        even = side is None or float(lengths.max()) <= 1.01 * float(lengths.min())
        length *= float(lengths.max()) if even else math.inf
    return length


def _of_two_networks(logits: Node) -> bool:
    """Whether logits are cosines of what networks put out, and none of the sides is a weight."""
    waiting, seen = [logits], {logits}
    while waiting:
        node = waiting.pop()
        if node.kind in {"Mm", "Bmm", "Sum"} and (made_by := sides(node)[0]):
            return not any(map(is_weight, made_by))
        parents = {parent for parent in node.parents if parent is not None} - seen
        waiting += parents
        seen |= parents
    return False
