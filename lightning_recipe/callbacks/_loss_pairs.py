"""Whether examples meet one another: (N, 1) against (N,) is (N, N)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from lightning_recipe.callbacks._cuts import layers_behind
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.losses.table import TABLE
from lightning_recipe.record.tensors import tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.events import Event
    from lightning_recipe.record.loss_graph import Node
    from lightning_recipe.record.step import LossCall, Step

Shape = tuple[int, ...]
ON_PURPOSE = {"Unsqueeze", "Expand", "Repeat"}
"""Operations by which somebody makes ready to compare all with all."""
WEIGHS = {"mul", "mul_", "imul", "rmul"}
DIVIDES = {"div", "truediv", "divide", "true_divide"}
ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Pow", "Rsub"}
DIFFERENCES = {"sub", "rsub", "subtract"}
ERRORS = {"pow", "square", "abs", "mul"}
"""What is made of a difference that is an error; ``mul`` with itself."""
EACH = {"add", "radd", "sub", "rsub", "mul", "rmul", "div", "truediv", "neg", "exp", "log", "sigmoid", "tanh", "relu"}
EACH |= {"softplus", "clamp", "clip", "square", "pow", "abs"}
"""What is done to each number by itself."""


def pairs_of_call(call: LossCall) -> Outcome | None:
    """Whether a loss function compares each prediction with the targets of all examples."""
    shapes = [tuple(v.shape) for name in ("input", "target") if isinstance(v := call.arguments.get(name), Tensor)]
    if len(shapes) < 2 or call.target_from_net or TABLE[call.name].has_classes or not across(*shapes):  # noqa: PLR2004
        return None
    return _broadcast(*shapes)


def pairs_by_hand(step: Step, graph: list[Node]) -> Iterator[tuple[str, Outcome]]:
    """The same of arithmetic on what came out of the network.

    Args:
        step: What a step did, with its wiring.
        graph: The nodes of its loss, from what the last layers put out.

    Yields:
        The line of the code, and the verdict.

    """
    shapes = {tuple(tensor.shape) for _, tensor in tensors(step.batch)}
    wanted = {n.shape for n in graph if n.kind in ARITHMETIC and any(p and p.kind in ON_PURPOSE for p in n.parents)}
    for event in step.events:
        if event.kind == "function" and event.spread and across(*event.spread) and len(event.inputs) == 2:  # noqa: PLR2004
            made = [step.producer(number) for number in event.inputs]
            given = [shape for shape, maker in zip(event.spread, made, strict=True) if maker is None]
            short = min(event.spread, key=len)
            one = len(given) == 1 and not event.parameters  # of thresholds there may be as many
            of_batch = one and (given[0] == short or given[0] in shapes)  # one of two columns may be made of it
            of_net = not given and _is_target(step, *event.inputs)
            if (short[0], *short) in wanted:
                continue
            if not given and not of_net and (outcome := _together(step, event)) is not None:
                yield event.where, outcome
            if of_batch or of_net:
                weighted = event.name in WEIGHS and any(maker and _is_loss(maker) for maker in made)
                outcome = _broadcast(*event.spread, weights=weighted)
                yield event.where, replace(outcome, status=Status.WARNING) if of_net else outcome


def _is_target(step: Step, one: int, other: int) -> bool:
    """Whether one of two tensors is a target that the network had a part in: by what was drawn, or without gradients.

    They come from different calls of layers: else all are compared with all of the same, as for a ranking.
    """
    (layers, cut), (others, other_cut) = layers_behind(step, one), layers_behind(step, other)
    return cut != other_cut and layers.isdisjoint(others)


def _together(step: Step, event: Event) -> Outcome | None:
    """Two outputs of the network of which each example of the one meets all of the other, and that have one target.

    They come from different calls of layers, and are compared with a number for each example: later on, as the sum of
    two terms, or one of them already is, as an error that is divided by its spread.
    """
    (one, _), (other, _) = (layers_behind(step, number) for number in event.inputs)
    if not one.isdisjoint(other):  # the differences of all pairs
        return None
    short, long = sorted(event.spread, key=len)
    size, seen = short[0], set(event.outputs)
    told = f"{event.spread[0]} and {event.spread[1]} are broadcast: what belongs to each of {size} examples meets what "
    told += f"belongs to all {size}"
    fix = "give both the same shape: squeeze(-1) the one, or unsqueeze(-1) the other"
    if event.name in WEIGHS | DIVIDES and any(_has_error(step, number) for number in event.inputs):
        told += ", one of the two being an error"
        return Outcome(Status.WARNING, "broadcast", told, fix, {"examples": size})
    makers = [step.producer(number) for number in event.inputs]
    if any(maker and _to_batch(step, maker) for maker in makers) and _is_error(step, event):
        return Outcome(Status.FAILED, "broadcast", f"{told}, one of the two being an error", fix, {"examples": size})
    for later in step.events:  # in order: what it is made of has come before
        if not seen.intersection(later.inputs):
            continue
        outside = len(later.inputs) == 2 and any(step.producer(n) is None for n in later.inputs)  # noqa: PLR2004
        if outside and not later.parameters and set(later.spread) & {short, long}:
            taken = later.kind == "loss" and not TABLE[later.name].has_classes
            if taken or (later.name in DIFFERENCES and _is_error(step, later)):
                told += f", and is compared with the targets in {later.where}"
                return Outcome(Status.FAILED, "broadcast", told, fix, {"examples": size})
        elif later.name in EACH or (later.module is not None and type(later.module).__name__.lower() in EACH):
            seen.update(later.outputs)
    return None


def _is_error(step: Step, difference: Event) -> bool:
    """Whether a difference is squared or its absolute value taken, and nothing else is done to it."""
    takers = [taker for number in difference.outputs for taker in step.consumers(number)]
    squared = (taker.name != "mul" or len({*taker.inputs}) == 1 for taker in takers if taker.name in ERRORS)
    return bool(takers) and all(taker.name in ERRORS for taker in takers) and all(squared)


def _has_error(step: Step, number: int) -> bool:
    """Whether a tensor is a difference to something of the batch, or made of each number of one."""
    maker = step.producer(number)
    while maker is not None and maker.name in EACH:
        if _to_batch(step, maker):
            return True
        made = (step.producer(n) for n in maker.inputs)
        maker = next((before for before in made if before is not None), None)
    return False


def _to_batch(step: Step, maker: Event) -> bool:
    """Whether it is the difference of an output of the network and something of the same shape of the batch."""
    outside = len(maker.inputs) == 2 and sum(step.producer(n) is None for n in maker.inputs) == 1  # noqa: PLR2004
    return outside and maker.name in DIFFERENCES and not maker.spread and not maker.parameters


def _is_loss(maker: Event) -> bool:
    return maker.kind == "loss" or maker.name in {"pow", "square", "abs"}


def across(one: Shape, other: Shape) -> bool:
    """Whether two shapes are broadcast so that each example of the one meets all examples of the other.

    Example:
        >>> across((8, 1), (8,)), across((8,), (8, 1)), across((8, 1, 5, 5), (8, 5, 5)), across((8, 1), (8, 1))
        (True, True, True, False)
        >>> across((8, 1), (1, 8))  # somebody means to
        False

    """
    short, long = sorted((one, other), key=len)
    same = len(short) + 1 == len(long) and short[:1] == long[:1] and long[1] == 1
    return same and short[0] > 1 and short[1:] == long[2:]


def _broadcast(one: Shape, other: Shape, *, weights: bool = False) -> Outcome:
    size = one[0]
    told = f"each of {size} predictions is compared with the targets of all {size} examples"
    fix = "squeeze(-1) the prediction, or unsqueeze(-1) the target"
    if weights:
        told = f"the loss of each of {size} examples is weighted with the weights of all, which is their mean weight"
        fix = "unsqueeze(-1) the weights, or squeeze(-1) the losses"
    return Outcome(
        Status.FAILED,
        "broadcast",
        f"{one} against {other} is broadcast: {told}",
        f"give both the same shape: {fix}",
        {"examples": size},
    )
