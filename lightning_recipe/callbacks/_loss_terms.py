"""Terms of the loss that train nothing, although they are computed from what the network puts out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_recipe.callbacks._cuts import CUTS
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.loss_graph import Node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.events import Event
    from lightning_recipe.record.step import Step

SUMS = {"add", "iadd", "add_", "radd", "sub", "rsub", "isub", "sub_", "stack"}
"""What puts terms together; of those stacked, the sum or mean is taken."""
SCALES = {"mul", "imul", "mul_", "rmul", "div", "truediv", "itruediv", "neg", "sum", "mean"}


def untrained(step: Step) -> Iterator[tuple[str, Outcome]]:
    """Terms that have no gradient, beside others that have.

    A term that is made of another one as well, as in ``surrogate + (value - surrogate).detach()``, shows another value
    on purpose.

    Args:
        step: Its events, and the loss with its graph.

    Yields:
        The line that cuts the term off, and the verdict.

    """
    last = next((event for event in step.events if event.kind in {"backward", "returned"} and event.inputs), None)
    if last is None or step.loss is None or step.loss.grad_fn is None:
        return
    whole, without = _terms(step, last.inputs[0], Node(step.loss.grad_fn))
    for term in without:
        before = list(_before(step, term))
        if (cut := _cut(step, before)) is not None and not any(set(event.outputs) & set(whole) for event in before):
            yield (
                cut.where,
                Outcome(
                    Status.WARNING,
                    "term_without_gradient",
                    f"a term of the loss trains nothing: {cut.name} cuts it off from the network",
                    "compute it from what the network puts out, such as probabilities in place of argmax or of a "
                    "threshold, and without detach or no_grad; or leave it out of the loss, and log it",
                    {"terms": len(whole) + len(without)},
                ),
            )


def _terms(step: Step, number: int, node: Node) -> tuple[list[int], list[int]]:
    """The tensors that a loss is the sum of: those with a gradient, and those without."""
    made = step.producer(number)
    parents = node.parents
    if made is None or made.kind != "function" or made.name not in SUMS | SCALES:
        return [number], []
    if len(made.inputs) == 1 and len(parents) - parents.count(None) == 1:
        return _terms(step, made.inputs[0], next(parent for parent in parents if parent is not None))
    if made.name not in SUMS or len(made.inputs) != len(parents):
        return [number], []
    whole: list[int] = []
    without: list[int] = []
    for given, parent in zip(made.inputs, parents, strict=True):
        inside = ([], [given]) if parent is None else _terms(step, given, parent)
        whole, without = whole + inside[0], without + inside[1]
    return whole, without


def _before(step: Step, number: int) -> Iterator[Event]:
    """All events that a tensor was computed by, the last first."""
    waiting, seen = [number], {number}
    while waiting:
        made = step.producer(waiting.pop(0))
        if made is not None:
            yield made
            waiting += [given for given in made.inputs if given not in seen]
            seen.update(made.inputs)


def _cut(step: Step, before: list[Event]) -> Event | None:
    """The last event that no gradient comes back from, behind modules that are trained."""
    for event in before:
        off = event.kind == "module" and event.where
        if (event.name in CUTS or off) and any(map(_is_trained, [event, *_behind(step, event)])):
            return event
    return None


def _behind(step: Step, event: Event) -> Iterator[Event]:
    for number in event.inputs:
        yield from _before(step, number)


def _is_trained(event: Event) -> bool:
    return event.module is not None and any(parameter.requires_grad for parameter in event.module.parameters())
