"""Whether logits, probabilities or their logarithms enter a loss that wants something else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_recipe.callbacks import _loss_scale_texts as tell
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.losses.table import CROSS_ENTROPY, KL, NLL, OF_SIGNS
from lightning_recipe.record.loss_graph import CLAMPS
from lightning_recipe.record.tensors import dense

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from lightning_recipe.record.loss_graph import Node
    from lightning_recipe.record.step import LossCall

PROBABILITIES = {"Softmax": "softmax", "Sigmoid": "sigmoid", "Hardsigmoid": "hardsigmoid"}
WANT_LOGITS = {
    "LogSoftmax": "a softmax",
    "BinaryCrossEntropyWithLogits": "a sigmoid",
    "LogSigmoid": "a sigmoid",
    "SoftMarginLoss": "a sigmoid",
    "Softplus": "a sigmoid",
}
"""The nodes of losses that take logits, and what they apply to them. By hand, -log(sigmoid(x)) is softplus(-x)."""
OF_BOTH_SIGNS = {"Softplus", "LogSigmoid"}
"""Those that are applied to logits and to negative ones."""
OF_MARGINS = {"Relu": {"Rsub", "Sub", "Add"}, "ClampMin": {"Rsub", "Sub", "Add"}, "Clamp": {"Rsub", "Sub", "Add"}}
OF_MARGINS |= {"LogSigmoid": set(), "Softplus": {"Neg"}, "Exp": {"Neg"}}
"""Losses of a margin, and what may stand between them and the product with the target's sign."""
POOLS = {"Mean", "Max", "Amax", "Min", "Amin", "AvgPool2D", "AdaptiveAvgPool2D", "MaxPool2DWithIndices"}
"""What leaves probabilities between 0 and 1."""
SHIFTS = {"Add", "Sub", "Rsub", "Clamp", "ClampMin", "ClampMax"}
"""What may stand between a probability, or its complement, and the logarithm."""
WANT_LOGARITHMS = {"NllLoss": "self", "NllLoss2D": "self", "NllLossNd": "self", "CtcLoss": "log_probs"}
"""Those that take log-probabilities, and the name under which these are kept."""
COMPARED = {"BinaryCrossEntropy", "BinaryCrossEntropyWithLogits", "MseLoss", "SmoothL1Loss", "HuberLoss", "Sub", "Log"}
ALONE = 1e-3
"""How far the sum of probabilities may be from 1: half precision."""
CLOSE = 0.02
"""Between probabilities and those that were smoothed before their logarithm was taken."""
FEW = 8
"""Rows that are looked at, at least, where their values alone say what they are."""


def of_graph(graph: list[Node]) -> Iterator[tuple[Node, Outcome]]:
    """What the operations that made it say about the input of each loss, also of one written by hand.

    A temperature, a cap, an epsilon or a logarithm between the two is an operation of its own: nothing is said then.

    Args:
        graph: The nodes of a loss, from what the last layers put out.

    Yields:
        The node of the loss, and the verdict.

    """
    for node in graph:
        if (outcome := _of_squashes(node) or _of_node(node)) is not None:
            yield node, outcome


def _of_squashes(node: Node) -> Outcome | None:
    """Whether a softmax or a sigmoid was applied to what came out of another one, by the loss or before it."""
    past = POOLS | {"Neg"} if node.kind in OF_BOTH_SIGNS else POOLS
    if node.kind in WANT_LOGITS and (function := _squash(_behind(node, past))):
        return tell.twice(node, WANT_LOGITS[node.kind], function)
    if node.kind == "Logsumexp" and (made_by := node.source()) is not None and _is_normaliser(node, made_by):
        return tell.twice(made_by, "a softmax", "softmax")
    compared = node.kind in COMPARED or _is_overlap(node)
    again = _behind(node, SHIFTS if node.kind == "Log" else ()) if compared else None
    if again is not None and _squash(again) and (function := _squash(again.source())):
        return tell.twice(again, f"a {_squash(again)}", function)
    return None


def _of_node(node: Node) -> Outcome | None:
    if (share := _no_signs_by_hand(node)) > 0:
        return tell.no_signs("a loss of margins", share)
    made_by = _behind(node)
    kind = made_by.kind if made_by is not None else ""
    if node.kind in COMPARED and _is_one(made_by):
        return tell.of_one()
    if node.kind in WANT_LOGARITHMS and kind in PROBABILITIES:
        return tell.no_logarithm(PROBABILITIES[kind])
    if node.kind in WANT_LOGARITHMS and made_by is not None and made_by.is_raw:
        values = node.saved(WANT_LOGARITHMS[node.kind])
        if isinstance(values, Tensor) and values.numel() and float(values.max()) > ALONE:
            return tell.logits(float(values.max()), "log-probabilities, which are never above 0", "log_softmax")
    elif node.kind == "Sub" and kind == "Xlogy" and _is_reversed(node):
        what = "the logarithm of fixed probabilities, its target what the network puts out"
        return replace(tell.interchanged(what), status=Status.ADVICE)  # the reverse divergence may be meant
    if node.kind == "Log":
        made_by = _behind(node, {"Add"})  # an epsilon
        kind = made_by.kind if made_by is not None else ""
    if node.kind in {"BinaryCrossEntropy", "Log"} and kind in CLAMPS and made_by is not None:
        low, high = (made_by.saved(name) for name in CLAMPS[kind])
        behind, values = made_by.source(), made_by.saved("self")
        of_probabilities = low is not None and high is not None and float(low) >= 0 and 1 / 2 < float(high) <= 1
        if of_probabilities and behind is not None and behind.is_raw and isinstance(values, Tensor):
            return tell.clamped(float(((values < 0) | (values > 1)).float().mean()))
    return None


def _no_signs_by_hand(node: Node) -> float:
    """Share of zeros in targets that a margin is multiplied with: ``relu(1 - y * x)``, ``logsigmoid(y * x)``."""
    past = OF_MARGINS.get(node.kind)
    product = _behind(node, past) if past is not None else None
    if product is None or product.kind != "Mul" or product.parents.count(None) != 1:
        return 0.0
    if past and (above := node.source()) is not None and above == product:  # a mask, before an activation
        return 0.0
    side = product.parents.index(None)
    target, made_by = product.saved("other" if side else "self"), product.source(1 - side)
    if not isinstance(target, Tensor) or target.numel() < FEW or made_by is None or not made_by.is_raw:
        return 0.0
    of_yes_no = bool(((target == 0) | (target == 1)).all()) and bool((target == 1).any())
    return float((target == 0).double().mean()) if of_yes_no else 0.0


def of_call(call: LossCall, batch: Any = None) -> Outcome | None:
    """What values say about the input of a loss function, also where operations are not seen: in compiled code.

    Args:
        call: The call.
        batch: What the step was given.

    """
    prediction, target = call.arguments.get("input"), call.arguments.get("target")
    if call.name in OF_SIGNS and isinstance(target, Tensor) and bool(((target == 0) | (target == 1)).all()):
        share = float((target == 0).double().mean())
        return tell.no_signs(call.name, share) if share else None
    if not isinstance(prediction, Tensor) or prediction.ndim < 2 or not prediction.is_floating_point():  # noqa: PLR2004
        return None
    if call.name == CROSS_ENTROPY and prediction.shape[1] == 1:
        return tell.of_one()
    dim = -1 if call.name == KL else 1
    if call.name in {CROSS_ENTROPY, NLL, KL} and are_probabilities(prediction, dim):
        if call.name == KL and isinstance(target, Tensor) and _are_logarithms(target):
            return tell.interchanged("probabilities, its target logarithms")
        return (
            tell.no_logarithm("softmax")
            if call.name != CROSS_ENTROPY
            else tell.equal_to_probabilities(call, prediction)
        )
    of_shares = call.name in {CROSS_ENTROPY, KL} and not call.arguments.get("log_target")
    if of_shares and isinstance(target, Tensor) and target.is_floating_point() and target.numel():
        least = float(target.min())
        if least < -ALONE and not _are_logarithms(target, dim):
            return tell.no_probabilities(call.name, least)
    if call.name == KL and isinstance(target, Tensor):
        given = [t for _, t in dense(batch) if t.shape == prediction.shape and t.is_floating_point()]
        if call.target_from_net and any(torch.allclose(prediction.exp(), t.float(), atol=CLOSE) for t in given):
            what = "the logarithm of an entry of the batch, its target what the network puts out"
            return replace(tell.interchanged(what), status=Status.WARNING)  # the reverse divergence, if it is meant
        return _divergence(call, prediction, target)
    return None


def _behind(node: Node, kinds: Collection[str] = ()) -> Node | None:
    """What made what a node was applied to, past operations of some kinds that were applied to nothing else."""
    given = [i for i, parent in enumerate(node.parents) if parent is not None]
    made_by = node.source(given[0]) if given else None
    past = made_by is not None and made_by.kind in kinds and made_by.parents.count(None) == len(made_by.parents) - 1
    return _behind(made_by, kinds) if made_by is not None and past else made_by


def _is_overlap(node: Node) -> bool:
    """Whether it is a product with zeros and ones, as with the target of Dice."""
    other = node.saved("self" if node.parents[0] is None else "other") if node.kind == "Mul" else None
    return isinstance(other, Tensor) and other.numel() >= FEW and bool(((other == 0) | (other == 1)).all())


def _squash(node: Node | None) -> str:
    """The name of what gives probabilities, or nothing."""
    return (PROBABILITIES.get(node.kind, "") or _by_hand(node)) if node is not None else ""


def _by_hand(node: Node) -> str:
    """Whether it is 1 / (1 + exp(-x)), or exp(x) over its sum along a dimension."""
    made_by = [node.source(i) for i in range(len(node.parents))]
    if node.kind == "Mul" and node.parents.count(None) == 1:  # how torch divides a number by a tensor
        return next((_by_hand(source) for source in made_by if source and source.kind == "Reciprocal"), "")
    if node.kind == "Reciprocal" or (node.kind == "Div" and made_by[0] is None):
        below = made_by[-1]
        grown = [below.source(i) for i in range(2)] if below is not None and below.kind == "Add" else []
        ones = len(grown) == 2 and None in grown  # noqa: PLR2004
        return "sigmoid" if ones and any(part and part.kind == "Exp" for part in grown) else ""
    if node.kind == "Div" and None not in made_by:
        above, below = made_by
        summed = below.source() if below is not None and below.kind in {"Sum", "Add"} else None
        if above is None or summed is None or {above.kind, summed.kind} != {"Exp"} or above.source() != summed.source():
            return ""
        return "softmax" if below is not None and below.kind == "Sum" else "sigmoid"
    return ""


def _is_normaliser(node: Node, made_by: Node) -> bool:
    """Whether a logsumexp goes over the classes of a softmax, as in a log_softmax by hand: x - logsumexp(x)."""
    values, dims = node.saved("self"), node.saved("dim")
    over_one = isinstance(values, Tensor) and len(dims) == 1
    return over_one and made_by.kind == "Softmax" and are_probabilities(values, dims[0])


def _is_reversed(node: Node) -> bool:
    """Whether target * (log target - input), as kl_div computes it, has the network's as target, and a teacher's input.

    A prior, which is the same for all examples, is none.
    """
    product = node.parents[1]
    if product is None or product.kind != "Mul" or product.parents[1] is not None:
        return False
    fixed = product.saved("other")
    return isinstance(fixed, Tensor) and fixed.ndim > 1 and _are_logarithms(fixed) and bool((fixed != fixed[:1]).any())


def _is_one(node: Node | None) -> bool:
    """Whether what comes out of a node is a softmax over one output, clamped or not."""
    if node is not None and node.kind in CLAMPS:
        node = node.source()
    return node is not None and node.kind == "Softmax" and node.dim is not None and node.shape[node.dim] == 1


def are_probabilities(values: Tensor, dim: int) -> bool:
    """Whether numbers are probabilities over a dimension: at least `FEW` rows of them, not all the same.

    Example:
        >>> import torch
        >>> x = torch.randn(8, 3)
        >>> are_probabilities(x.softmax(1), 1), are_probabilities(x, 1), are_probabilities(x.softmax(1), 0)
        (True, False, False)

    """
    classes = values.shape[dim]
    if classes < 2 or values.numel() < FEW * classes or not values.isfinite().all():  # noqa: PLR2004
        return False
    sums = values.double().sum(dim)
    return bool(values.min() >= 0 and (sums - 1).abs().max() < ALONE and values.max() > values.min())


def _are_logarithms(values: Tensor, dim: int = -1) -> bool:
    return are_probabilities(values.double().exp(), dim)


def _divergence(call: LossCall, prediction: Tensor, target: Tensor) -> Outcome | None:
    logarithmic = bool(call.arguments.get("log_target"))
    if not logarithmic and _are_logarithms(target):
        return Outcome(
            Status.FAILED,
            "logarithms_as_target",
            "the targets of kl_div are logarithms, but log_target is False: it takes the logarithm of negative numbers",
            "log_target=True",
            {"largest_target": float(target.max())},
        )
    if logarithmic and are_probabilities(target, -1):
        return Outcome(
            Status.FAILED,
            "probabilities",
            "the targets of kl_div are probabilities, but log_target is True: it takes them for logarithms",
            "log_target=False, or the logarithm of the targets",
            {"largest_target": float(target.max())},
        )
    if float(prediction.max()) > ALONE and not _are_logarithms(prediction):
        return tell.logits(float(prediction.max()), "log-probabilities, which are never above 0", "log_softmax")
    return None
