"""Parameters that no gradient reaches, although others are trained on what their modules put out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning_recipe.callbacks._untrained import is_as_drawn
from lightning_recipe.finding import Outcome, Status, listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from lightning_recipe.callbacks._untrained import Marks
    from lightning_recipe.record.events import Event
    from lightning_recipe.record.step import Step

CUTS = {"detach", "detach_", "data", "argmax", "argmin", "argsort", "round", "floor", "ceil", "sign", "tensor", "long"}
CUTS |= {"int", "gt", "lt", "ge", "le", "eq", "bool", "multinomial", "bernoulli"}
"""Functions that no gradient comes back from."""
NUMBERS = {"item", "tolist", "numpy", "detach", "data", "tensor", "float", "cpu"}
"""Functions by which a loss leaves the graph."""
MASKS = {"mul", "mul_", "imul", "rmul", "masked_fill", "masked_fill_", "where"}
"""Functions that may put zeros in the place of everything."""
FLAT = {"round", "floor", "ceil", "sign", "trunc"}
"""Functions whose derivative is 0."""
SHAPED = {"view_as", "reshape_as", "expand_as", "type_as"}
"""Functions that take the shape of their second argument, or its type."""
PRODUCTS = {"mul", "rmul", "matmul", "mm", "bmm", "einsum", "dot", "cosine_similarity"}
"""Functions in which two networks answer together, as in a score of a user and an item; a target is subtracted."""
TOGETHER = {"add", "iadd", "radd", "stack", "cat"}
"""Functions that put together what several networks answer, before it is compared with anything."""
PICKS = {"getitem", "gather", "index_select", "take_along_dim", "where"}
"""Functions in which one network chooses among what another one puts out."""


def disconnected(step: Step, parameters: Mapping[str, Tensor], marks: Marks) -> Iterator[tuple[Outcome, str]]:
    """Modules cut off from the loss, or the loss from all of them."""
    names = {id(p): name for name, p in parameters.items()}
    stepped = {name: parameters[name] for name in step.gradients if name in parameters}
    if stepped and all(map(math.isnan, step.gradients.values())) and step.leaves:
        if not any(id(leaf) in names for leaf in step.leaves) and _calls(step, stepped) and marks.stay(stepped):
            yield _nothing_learns(step, len(stepped))
        return
    waiting = {id(p) for name, p in stepped.items() if math.isnan(step.gradients[name])}
    calls, where = cut_off(step, waiting) if waiting else ([], "")
    how, zeros = f"{where} cuts the graph behind them", not calls
    if zeros:
        zero = {id(p) for name, p in stepped.items() if step.gradients[name] == 0}
        calls, where = all_masked(step, zero) if zero else ([], "")
        how = f"{where} leaves nothing of what they put out"
    own = {f"{call.name}.{key}": p for call in calls if call.module for key, p in call.module.named_parameters()}
    if not own or not (zeros or marks.stay(own)):
        return
    modules = list(dict.fromkeys(call.name for call in calls))
    off = next((call.where for call in calls if call.where), "")
    how = how if where else f"they are called without gradients ({off})" if off else "they are called without gradients"
    yield (
        Outcome(
            Status.WARNING if all(map(is_as_drawn, own.values())) else Status.ADVICE,
            "no_gradient",
            f"no gradient reaches {listed(modules)}, although others are trained on what they put out: {how}",
            "take away the detach, no_grad, argmax, data or mask between them and the loss; "
            "if they are to stay, requires_grad_(False) says so",
            {"parameters": sum(p.numel() for p in own.values())},
        ),
        ", ".join(modules),
    )


def _calls(step: Step, parameters: dict[str, Tensor]) -> bool:
    """Whether something was computed with them to learn from, not only to act or to collect."""
    own = {id(p) for p in parameters.values()}
    calls = [event.module for event in step.events if event.module is not None and not event.where]
    return any(own & {id(p) for p in module.parameters()} for module in calls)


def _nothing_learns(step: Step, count: int) -> tuple[Outcome, str]:
    last = max((place for place, event in enumerate(step.events) if event.kind in {"module", "loss"}), default=0)
    cut = next((event for event in step.events[last:] if event.name in NUMBERS and event.where), None)
    how = f": {cut.name} ({cut.where}) takes it out of the graph" if cut is not None else ""
    return (
        Outcome(
            Status.WARNING,
            "no_gradient",
            f"the loss has no gradient for any of the {count} parameters that are stepped{how}",
            "return the loss as it was computed: no item, detach, data or new tensor in between",
            {"parameters": count},
        ),
        "loss",
    )


def cut_off(step: Step, waiting: set[int]) -> tuple[list[Event], str]:
    """Calls of modules that a module which gets a gradient builds on, while all of their own parameters get none.

    Args:
        step: What was recorded.
        waiting: The ids of the parameters that an optimiser stepped without a gradient.

    Returns:
        The first call of each such module, and the function that cuts the graph behind them, with its line.

    """
    reached = {id(leaf) for leaf in step.leaves}
    calls: dict[int, Event] = {}
    for event in step.events:
        own = [id(p) for p in event.module.parameters() if p.requires_grad] if event.module is not None else []
        if own and waiting.issuperset(own) and reached.isdisjoint(own):
            calls.setdefault(id(event.module), event)
    return _before(step, list(calls.values()), reached, CUTS)


def _before(step: Step, calls: list[Event], trained: set[int], cuts: set[str]) -> tuple[list[Event], str]:
    """Of some calls those that others with trained parameters build on, and the first function of `cuts` on the way.

    They build on what goes into them, and, behind a cut, as is the call itself without gradients, on what theirs is
    multiplied with or added to, or what it chooses; a parameter that is no module's builds on what a function is given
    beside it, unless that has been compared with something before.
    """
    carried = _made_of(step, trained)
    after = _consumers(step)
    found, where = [], ""
    for call in calls:
        behind = dict.fromkeys(call.outputs, "")  # and the first function of `cuts` on the way there
        queue, compared = list(call.outputs), False
        while queue:
            number = queue.pop()
            for event in after.get(number, ()):
                compared = compared or event.kind == "loss" or event.name in {"sub", "rsub"}
                cut = behind[number] or (f"{event.name} ({event.where})" if event.name in cuts else "")
                met = (
                    (behind[number] or call.where)
                    and event.name in PRODUCTS | PICKS | (set() if compared else TOGETHER)
                    and any(n in carried and n not in behind for n in event.inputs)
                )
                if event.name in PRODUCTS and not compared:
                    met = met or any(step.gradients.get(name, 0) > 0 for name in event.parameters)
                if met or (event.module is not None and trained & {id(p) for p in event.module.parameters()}):
                    found.append(call)
                    where = where or behind[number]
                    queue = []
                    break
                queue += [output for output in event.outputs if output not in behind]
                behind.update({output: cut for output in event.outputs if output not in behind})
    return found, where


def layers_behind(step: Step, number: int) -> tuple[set[int], bool]:
    """The last calls of layers with parameters behind a tensor, and whether no gradient goes back to any of them."""
    found: set[int] = set()
    waiting, seen, open_ = [(number, False)], set(), False
    while waiting:
        current, cut = waiting.pop()
        maker = step.producer(current)
        if maker is None or (current, cut) in seen:
            continue
        seen.add((current, cut))
        cut = cut or maker.name in CUTS or (maker.kind == "module" and bool(maker.where))
        if maker.module is not None and next(maker.module.parameters(), None) is not None:
            found.add(current)
            open_ = open_ or not cut
        else:
            waiting += [(given, cut) for given in maker.inputs]
    return found, not open_


def _consumers(step: Step) -> dict[int, list[Event]]:
    """The events that each tensor went into."""
    after: dict[int, list[Event]] = {}
    for event in step.events:
        for number in event.inputs[: 1 if event.name in SHAPED else None]:
            after.setdefault(number, []).append(event)
    return after


def _made_of(step: Step, trained: set[int]) -> set[int]:
    """The tensors that come out of modules with trained parameters, and what is made of them, up to a cut."""
    made: set[int] = set()
    for event in step.events:
        own = event.module is not None and not event.where and trained & {id(p) for p in event.module.parameters()}
        if own or (event.name not in CUTS and made.intersection(event.inputs)):
            made.update(event.outputs)
    return made


def all_masked(step: Step, zero: set[int]) -> tuple[list[Event], str]:
    """Calls before a mask that leaves nothing, or before what is flat, such as ``round``.

    All before a module with a gradient that isn't zero have one of zeros.

    Args:
        step: What was recorded.
        zero: The ids of the parameters whose gradient is exactly 0.

    """
    trained = {id(leaf) for leaf in step.leaves} - zero
    calls = [e for e in step.events if e.module is not None and any(p.requires_grad for p in e.module.parameters())]
    without = [call for call in calls if call.module is not None and zero.issuperset(map(id, call.module.parameters()))]
    flat = [(call, cut) for call in without if (cut := _before(step, [call], trained, FLAT)[1])]
    if flat:
        return [call for call, _ in flat], flat[0][1]
    found, where = _before(step, without, trained, MASKS)
    others, _ = _before(step, [call for call in calls if call not in without], trained, MASKS)
    return (found, where) if where and not others else ([], "")
