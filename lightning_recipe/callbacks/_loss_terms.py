"""Terms of the loss that train nothing, cut off from what the network puts out, or without any of it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from lightning_recipe.callbacks._cuts import CUTS
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.calls import takes_shape_only
from lightning_recipe.record.loss_graph import RESHAPES as NODES
from lightning_recipe.record.loss_graph import Node
from lightning_recipe.record.step import Need
from lightning_recipe.trial.rehearsal import CannotRehearseError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lightning_recipe.record.events import Event
    from lightning_recipe.record.step import Step
    from lightning_recipe.trial.rehearsal import Rehearsal

SUMS = {"add", "iadd", "add_", "radd", "sub", "rsub", "isub", "sub_", "stack", "hstack", "cat", "lerp"}
"""What puts terms together; of those stacked, the sum or mean is taken."""
DIFFERENCES = {"sub", "rsub", "subtract", "sub_", "isub", "cosine_similarity", "pairwise_distance", "dist", "cdist"}
SCALES = {"mul", "imul", "mul_", "rmul", "div", "truediv", "itruediv", "neg", "sum", "mean", "dot", "matmul"}
PARTS = {"getitem", "narrow", "roll", "select"}
"""Functions that give a part of a tensor."""
RESHAPES = {"reshape", "view", "squeeze", "unsqueeze", "getitem", "flatten"}
"""What a term, or several that were stacked, may go through."""


class Terms(NamedTuple):
    """What a loss is the sum of.

    Attributes:
        made: The event that made each tensor.
        whole: The terms that train something.
        without: Those that do not, and whether they have a gradient, for what no optimiser holds.

    """

    made: dict[int, Event]
    whole: list[int]
    without: dict[int, bool]


def untrained(step: Step, left: set[int]) -> Iterator[tuple[str, Outcome]]:
    """Terms that have no gradient, beside others that have.

    A term that is made of another one as well, as in ``surrogate + (value - surrogate).detach()``, shows another value
    on purpose.

    Args:
        step: Its events, and the loss with its graph.
        left: The ids of the parameters that no optimiser holds.

    Yields:
        The line that cuts the term off, and the verdict.

    """
    made, whole, without = _of(step, left)
    for term, has_gradient in without.items():
        path = list(before(made, [term]))
        cut = _cut(made, path) or (None if has_gradient else _switched_off(path))
        if cut is not None and not any(set(event.outputs) & set(whole) for event in path):
            name, where = cut
            yield (
                where,
                Outcome(
                    Status.WARNING,
                    "term_without_gradient",
                    f"a term of the loss trains nothing: {name} cuts it off from the network",
                    "compute it from what the network puts out, such as probabilities in place of argmax or of a "
                    "threshold, and without detach or no_grad; or leave it out of the loss, and log it",
                    {"terms": len(whole) + len(without)},
                ),
            )


def of_frozen(step: Step) -> Iterator[tuple[str, Outcome]]:
    """Terms that compare what frozen modules put out with itself: the prediction was forgotten.

    What these put out meets the network nowhere, as it does where it is a target, and its entropy is a term, too.

    Args:
        step: Its events, and the loss with its graph.

    Yields:
        The line that made the term, and the verdict.

    """
    made, whole, without = _of(step, set())
    for term in without:
        path = list(before(made, [term]))
        frozen = [event.name for event in path if event.module is not None and [*event.module.parameters()]]
        twice = any(len(event.inputs) > 1 and event.name not in SUMS for event in path)
        if frozen and twice and not any(map(_is_trained, path)) and not _meet(made, frozen):
            yield (
                next((event.where for event in path if event.where and event.module is None), ""),
                Outcome(
                    Status.WARNING,
                    "term_without_gradient",
                    f"a term of the loss trains nothing: it compares what {frozen[0]} puts out, which is frozen, with "
                    "itself",
                    "compare what the network puts out with it",
                    {"terms": len(whole) + len(without)},
                ),
            )


def _meet(made: dict[int, Event], frozen: list[str]) -> bool:
    """Whether what frozen modules put out is set against what is trained, by more than a sum."""
    for event in {id(event): event for event in made.values()}.values():
        paths = [list(before(made, [given])) for given in event.inputs]
        of_net = [any(map(_is_trained, path)) for path in paths]
        of_frozen = [any(e.name in frozen and e.module is not None for e in path) for path in paths]
        if any(of_net) and any(of_frozen) and event.name not in SUMS:
            return True
    return False


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
    made, _, without = _of(step, set())
    if all(term in made for term in without):
        return
    try:
        made, _, without = _of(step := again.step(batch, needs=Need.WIRING | Need.BATCH), set())
    except CannotRehearseError:
        return
    taken = {event.inputs[-1] for event in step.events if event.name in {"sub", "sub_", "isub"} and event.inputs}
    for term in without:
        path = [] if term in taken else list(before(made, [term]))
        compared = next((event for event in path if _compares(event) or _is_of_neighbours(made, event)), None)
        if compared is not None and not any(map(_is_trained, path)):
            yield (
                compared.where or next(event.where for event in path if event.where),
                Outcome(
                    Status.WARNING,
                    "term_without_gradient",
                    f"a term of the loss trains nothing: {compared.name or 'it'} compares "
                    + ("the same numbers of the batch with each other" if compared.same else "the batch with itself"),
                    "compare what the network puts out with the target, or take the differences of that",
                    {"terms": len(without)},
                ),
            )


def _compares(event: Event) -> bool:
    of_same = event.same and (event.kind == "module" or event.name in DIFFERENCES)
    return len(event.inputs) > 1 and (event.kind == "loss" or of_same)


def _is_of_neighbours(made: dict[int, Event], event: Event) -> bool:
    """Whether it is the difference of two parts of one tensor, as in a total variation."""
    parts = [part for number in event.inputs if (part := made.get(number)) is not None and part.name in PARTS]
    apart = event.name in DIFFERENCES and len(parts) == len(event.inputs) == 2  # noqa: PLR2004
    return event.name == "diff" or (apart and parts[0].inputs[:1] == parts[1].inputs[:1])


def _of(step: Step, left: set[int]) -> Terms:
    """The terms of a step's loss; a gradient for nothing but these leaves counts for nothing."""
    made: dict[int, Event] = {}  # by what came out: to ask the step for each takes its length each time
    for event in step.events:
        for number in set(event.outputs) - set(event.inputs):
            made.setdefault(number, event)
    last = next((event for event in step.events if event.kind in {"backward", "returned"} and event.inputs), None)
    if last is None or step.loss is None or step.loss.grad_fn is None:
        return Terms(made, [], {})
    whole: list[int] = []
    without: dict[int, bool] = {}
    for number, node in _terms(made, last.inputs[0], Node(step.loss.grad_fn)):
        if node is not None and not _leaves(node) <= left and not _is_new(node):
            whole.append(number)
        else:
            without[number] = node is not None
    return Terms(made, whole, without)


def _terms(made: dict[int, Event], number: int, node: Node | None) -> Iterator[tuple[int, Node | None]]:
    """The tensors that a loss is the sum of, with their nodes; None for those that have no gradient."""
    waiting = [(number, node)]
    while waiting:
        number, node = waiting.pop()
        event, parents = made.get(number), [] if node is None else node.parents
        known = [parent for parent in parents if parent is not None]
        given = () if event is None or event.kind != "function" else event.inputs
        name = "" if event is None else event.name
        if name in SUMS | SCALES | RESHAPES and len(given) == len(known) == 1:
            waiting.append((given[0], known[0]))
        elif name in SUMS and len(given) == len(parents) and known:
            waiting += reversed(list(zip(given, parents, strict=True)))
        elif name in SCALES and len(given) == len(parents) == 2:  # noqa: PLR2004
            term = _scaled(made, list(zip(given, parents, strict=True)))
            if term is None:
                yield number, node
            else:
                waiting.append(term)
        else:
            yield number, node


def _scaled(made: dict[int, Event], factors: list[tuple[int, Node | None]]) -> tuple[int, Node | None] | None:
    """The factor of a product that is a term, or several, if the other one is a weight, fixed or learnt."""
    of_net = [any(map(_is_trained, before(made, [factor]))) for factor, _ in factors]
    fixed = [parent is None for _, parent in factors]
    for this, other in ((0, 1), (1, 0)):
        if of_net[this] and not of_net[other] and (not fixed[this] or _is_comparison(made, factors[this][0])):
            return factors[this]
    for this, other in ((0, 1), (1, 0)):
        if fixed[other] and not fixed[this]:
            return factors[this]
    return None


def _is_comparison(made: dict[int, Event], number: int) -> bool:
    """Whether a loss function had a part in a tensor: then it is no weight."""
    return any(event.kind == "loss" for event in before(made, [number]))


def _leaves(node: Node) -> set[int]:
    """The ids of the tensors that a gradient goes back to."""
    waiting, seen, found = [node.raw], {node.raw}, set[int]()
    while waiting:
        raw = waiting.pop()
        if hasattr(raw, "variable"):
            found.add(id(raw.variable))
        parents = {parent for parent, _ in raw.next_functions if parent is not None} - seen
        waiting += parents
        seen |= parents
    return found


def _is_new(node: Node) -> bool:
    """Whether a term is nothing but a tensor that is no parameter, of numbers that were computed before."""
    while (
        node.kind in {"Mean", "Sum", "Mul", "Div", "Neg"} | NODES and len(node.parents) - node.parents.count(None) == 1
    ):
        node = next(parent for parent in node.parents if parent is not None)
    leaf = getattr(node.raw, "variable", None)
    return leaf is not None and not isinstance(leaf, nn.Parameter)


def before(made: dict[int, Event], numbers: Iterable[int]) -> Iterator[Event]:
    """All events that tensors were computed by, the last first."""
    waiting = deque(numbers)
    seen = set(waiting)
    while waiting:
        event = made.get(waiting.popleft())
        if event is not None and not takes_shape_only(event.name):
            yield event
            waiting.extend(given for given in event.inputs if given not in seen)
            seen.update(event.inputs)


def _cut(made: dict[int, Event], path: list[Event]) -> tuple[str, str] | None:
    """The last event that no gradient comes back from, behind modules that are trained, and its line."""
    for event in path:
        off = event.kind == "module" and event.where
        if (event.name in CUTS or off) and any(map(_is_trained, [event, *before(made, event.inputs)])):
            return event.name, event.where
    return None


def _switched_off(path: list[Event]) -> tuple[str, str] | None:
    """Where functions were called without gradients on what modules put out that are trained."""
    of_net = any(_is_trained(event) and event.training for event in path)
    where = next((event.where for event in path if event.where and event.kind != "module"), "")
    return ("no_grad", where) if of_net and where else None


def _is_trained(event: Event) -> bool:
    return event.module is not None and any(parameter.requires_grad for parameter in event.module.parameters())
