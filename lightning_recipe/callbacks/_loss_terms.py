"""Terms of the loss that train nothing, cut off from what the network puts out, or without any of it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from lightning_recipe.callbacks._cuts import CUTS
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.loss_graph import Node
from lightning_recipe.record.step import Need
from lightning_recipe.trial.rehearsal import CannotRehearseError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lightning_recipe.record.events import Event
    from lightning_recipe.record.step import Step
    from lightning_recipe.trial.rehearsal import Rehearsal

SUMS = {"add", "iadd", "add_", "radd", "sub", "rsub", "isub", "sub_", "stack"}
"""What puts terms together; of those stacked, the sum or mean is taken."""
DIFFERENCES = {"sub", "rsub", "subtract", "sub_", "isub", "cosine_similarity", "pairwise_distance", "dist", "cdist"}
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
    made, whole, without = _of(step)
    for term in without:
        before = list(_before(made, [term]))
        if (cut := _cut(made, before)) is not None and not any(set(event.outputs) & set(whole) for event in before):
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


def of_batch(again: Rehearsal, batch: Any, step: Step) -> Iterator[tuple[str, Outcome]]:
    """Terms that compare what the batch holds, as a target with itself: the prediction was forgotten.

    What is taken from another term, as the error of a reference, may be meant.

    Args:
        again: Runs the step once more where a term comes from nothing that is known.
        batch: The batch.
        step: What the step did.

    Yields:
        The line that compares them, and the verdict.

    """
    made, _, without = _of(step)
    if all(term in made for term in without):
        return
    try:
        made, _, without = _of(step := again.step(batch, needs=Need.WIRING | Need.BATCH))
    except CannotRehearseError:
        return
    taken = {event.inputs[-1] for event in step.events if event.name in {"sub", "sub_", "isub"} and event.inputs}
    for term in without:
        before = [] if term in taken else list(_before(made, [term]))
        compared = next((event for event in before if len(event.inputs) > 1 and _compares(event)), None)
        if compared is not None and not any(map(_is_trained, before)):
            yield (
                compared.where or next(event.where for event in before if event.where),
                Outcome(
                    Status.WARNING,
                    "term_without_gradient",
                    f"a term of the loss trains nothing: {compared.name or 'it'} compares "
                    + ("the same numbers of the batch with each other" if compared.same else "the batch with itself"),
                    "compare what the network puts out with the target",
                    {"terms": len(without)},
                ),
            )


def _compares(event: Event) -> bool:
    return event.kind == "loss" or (event.same and (event.kind == "module" or event.name in DIFFERENCES))


def _of(step: Step) -> tuple[dict[int, Event], list[int], list[int]]:
    """The event that made each tensor, and the terms of the loss: with a gradient, and without."""
    made: dict[int, Event] = {}  # by what came out: to ask the step for each takes its length each time
    for event in step.events:
        for number in set(event.outputs) - set(event.inputs):
            made.setdefault(number, event)
    last = next((event for event in step.events if event.kind in {"backward", "returned"} and event.inputs), None)
    if last is None or step.loss is None or step.loss.grad_fn is None:
        return made, [], []
    return made, *_terms(made, last.inputs[0], Node(step.loss.grad_fn))


def _terms(made: dict[int, Event], number: int, node: Node) -> tuple[list[int], list[int]]:
    """The tensors that a loss is the sum of: those with a gradient, and those without."""
    event, parents = made.get(number), node.parents
    if event is None or event.kind != "function" or event.name not in SUMS | SCALES:
        return [number], []
    if len(event.inputs) == 1 and len(parents) - parents.count(None) == 1:
        return _terms(made, event.inputs[0], next(parent for parent in parents if parent is not None))
    if event.name not in SUMS or len(event.inputs) != len(parents):
        return [number], []
    whole: list[int] = []
    without: list[int] = []
    for given, parent in zip(event.inputs, parents, strict=True):
        inside = ([], [given]) if parent is None else _terms(made, given, parent)
        whole, without = whole + inside[0], without + inside[1]
    return whole, without


def _before(made: dict[int, Event], numbers: Iterable[int]) -> Iterator[Event]:
    """All events that tensors were computed by, the last first."""
    waiting = deque(numbers)
    seen = set(waiting)
    while waiting:
        if (event := made.get(waiting.popleft())) is not None:
            yield event
            waiting.extend(given for given in event.inputs if given not in seen)
            seen.update(event.inputs)


def _cut(made: dict[int, Event], before: list[Event]) -> Event | None:
    """The last event that no gradient comes back from, behind modules that are trained."""
    for event in before:
        off = event.kind == "module" and event.where
        if (event.name in CUTS or off) and any(map(_is_trained, [event, *_before(made, event.inputs)])):
            return event
    return None


def _is_trained(event: Event) -> bool:
    return event.module is not None and any(parameter.requires_grad for parameter in event.module.parameters())
