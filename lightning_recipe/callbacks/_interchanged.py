"""What a step makes of a batch in which one entry is another example's."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor

from lightning_recipe.losses.targets import is_target
from lightning_recipe.record.modules import by_parameter
from lightning_recipe.record.step import Need
from lightning_recipe.record.tensors import leading_size, mapped, plain, same, tensors, with_rows
from lightning_recipe.trial.rehearsal import CannotRehearseError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from lightning_recipe.record.step import NetCall, Step
    from lightning_recipe.trial.rehearsal import Rehearsal

FEWEST = 4
"""Examples in a batch, at least."""
MOST = 6
"""Entries of a batch that are tried."""
NEEDS = Need.INPUTS | Need.LOSSES


class Effect(NamedTuple):
    """What became of a step when an entry of its batch was changed.

    Attributes:
        loss: Change of the loss, over its size; NaN without a loss.
        outputs: Largest change of what outermost modules put out, over the largest of these numbers; NaN if all of it
            is zero, or in 16 bits, which round.
        last: The same of the last of them alone.
        enters: Whether something else entered a module than before.
        worth: How much higher the loss became.
        remade: Root mean square of the change of the last output with as many numbers as the input; NaN without one.

    """

    loss: float
    outputs: float
    last: float
    enters: bool
    worth: float = math.nan
    remade: float = math.nan


class Trial(NamedTuple):
    """What was tried with one batch.

    Attributes:
        inputs: Of each entry that enters a module, the effects of other values.
        targets: Of each other entry, likewise.
        together: The effects of other values of all inputs at once.
        redrawn: The effect of other random numbers in place of other inputs, where an input is made again.
        zeroed: How much higher the loss became with zeros in place of each input.
        whole: Whether there is nothing else that may enter and differ: neither entries that could not be interchanged
            nor words or edges of all examples in one row.

    """

    inputs: dict[str, list[Effect]]
    targets: dict[str, list[Effect]]
    together: list[Effect]
    redrawn: Effect | None = None
    zeroed: dict[str, float] = {}  # noqa: RUF012 - of a tuple, and never written to
    whole: bool = True


def tried(again: Rehearsal, batch: Any) -> Trial:
    """Run the step on the batch, and on batches in which entries are those of other examples, in eval mode.

    An entry is once interchanged between examples, and once the first example's in all of them. What is the same in
    all examples anyway is left out.

    Args:
        again: The copy.
        batch: As the step receives it.

    Raises:
        CannotRehearseError: If the step can't be run on the batch itself.

    """
    again.module.eval()
    try:
        method, step = "training_step", again.step(batch, needs=NEEDS)
    except CannotRehearseError:  # a batch of validation may be another one
        method, step = "validation_step", again.step(batch, needs=NEEDS, method="validation_step")
    entries = differing(batch)
    targets = {path for path, tensor in entries.items() if _is_target(tensor, step)}

    def effects(
        paths: list[str], changes: Sequence[Callable[[Tensor], Tensor]] = (interchanged, firsts)
    ) -> list[Effect]:
        found = []
        for change in changes:
            swaps = {id(entries[path]): change(entries[path]) for path in paths}
            variant = mapped(batch, Tensor, partial(swapped, swaps))
            try:
                size = entries[paths[0]].numel()
                found.append(compared(step, again.step(variant, needs=NEEDS, method=method), size))
            except CannotRehearseError:  # lengths that do not go with the rest
                return []
        return found

    alone = {path: effects([path]) for path in list(entries)[:MOST]}
    entering = {p: e for p, e in alone.items() if e and any(one.enters for one in e) and p not in targets}
    others = {path: effect for path, effect in alone.items() if effect and path not in entering}
    together = effects(list(entering)) if entering else []
    numbers = [path for path in entering if entries[path].is_floating_point()]  # 0 is an id, or a class, like any other
    zeroed = {path: effect.worth for path in numbers for effect in effects([path], [torch.zeros_like])}
    entries |= (of_others := _of_others(batch))
    for path in of_others:  # they are not interchanged together with the rest, since they go with places in it
        effect = effects([path], [interchanged])
        entering |= {path: effect} if any(one.enters for one in effect) else {}
    redrawn = None
    if len(entering) == 1 and together and together[0].remade > 0:
        redrawn = compared(
            step, again.step(batch, needs=NEEDS, method=method, seed=1), entries[next(iter(entering))].numel()
        )
    left = entries.keys() - entering.keys() - others.keys() - of_others.keys()
    return Trial(entering, others, together, redrawn, zeroed, whole=not left and not _has_others(batch))


def differing(batch: Any) -> dict[str, Tensor]:
    """The entries of a batch that are not the same in all examples, by path.

    Example:
        >>> list(differing({"x": torch.arange(8.0), "mask": torch.ones(8), "scale": torch.tensor(2.0)}))
        ['batch.x']

    """
    size = leading_size(batch) or 0
    return {
        path: tensor
        for path, tensor in tensors(batch, "batch")
        if size >= FEWEST and tensor.ndim and len(tensor) == size and not same(tensor, firsts(tensor))
    }


def _of_others(batch: Any) -> dict[str, Tensor]:
    """Features that have no row for each example, but one for each node or edge."""
    size = leading_size(batch) or 0
    return {
        path: tensor
        for path, tensor in list(tensors(batch, "batch"))[: 2 * MOST]
        if size >= FEWEST and tensor.ndim == 2 and len(tensor) > size  # noqa: PLR2004
        if tensor.is_floating_point() and tensor.layout is torch.strided and not same(tensor, firsts(tensor))
    }


def _has_others(batch: Any) -> bool:
    """Whether a batch holds much that has no row for each example."""
    size = leading_size(batch) or 0
    return any(tensor.ndim and len(tensor) != size and tensor.numel() >= size for _, tensor in tensors(batch))


def interchanged(tensor: Tensor) -> Tensor:
    """Each example has the values of another; which is always the same.

    Example:
        >>> sorted(interchanged(torch.arange(5)).tolist())
        [0, 1, 2, 3, 4]

    """
    order = torch.randperm(len(tensor), generator=torch.Generator().manual_seed(0))
    places = torch.empty_like(order)
    places[order] = order.roll(1)  # a single cycle: none keeps its own
    return with_rows(tensor, places)


def firsts(tensor: Tensor) -> Tensor:
    """All examples have the values of the first: this also shows where a sum goes over all of them."""
    if tensor.layout is torch.strided:
        return plain(tensor)[:1].expand(tensor.shape).clone()
    return with_rows(tensor, torch.zeros(len(tensor), dtype=torch.long))


class Interchanging:
    """Interchanges an argument of a module between examples, or changes it otherwise, at each of its calls.

    Attributes:
        done: Whether it was there.

    """

    def __init__(
        self, root: nn.Module, call: NetCall, name: str, change: Callable[[Tensor], Tensor] = interchanged
    ) -> None:
        self._module, self._path = root.get_submodule(call.name), name.removeprefix(f"{call.name}.")
        self._made_of = change
        self.done = False

    def __enter__(self) -> Self:
        self._handle = self._module.register_forward_pre_hook(self._change, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _change(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        chosen = dict(tensors(by_parameter(module, args, kwargs))).get(self._path)

        def other(tensor: Tensor) -> Tensor:
            self.done |= tensor is chosen
            return self._made_of(tensor) if tensor is chosen else tensor

        return mapped((args, kwargs), Tensor, other)


def compared(before: Step, after: Step, size: int = 0) -> Effect:
    """The effect that is seen in two records of a step, on the making of an input of so many numbers."""
    old, new = _number(before.loss), _number(after.loss)
    changed = abs(new - old) / abs(old) if old else math.nan
    as_many = len(before.net_calls) == len(after.net_calls)
    pairs = zip(before.net_calls, after.net_calls, strict=True) if as_many else ()
    outputs = [_change(a.output, b.output) for a, b in pairs] or [math.nan]
    largest = max((one for one in outputs if not math.isnan(one)), default=math.nan)
    enters = before.inputs.keys() != after.inputs.keys() or any(
        not same(tensor, after.inputs[name]) for name, tensor in before.inputs.items()
    )
    return Effect(changed, largest, outputs[-1], enters, new - old, _remade(before, after, size))


def swapped(swaps: dict[int, Tensor], value: Tensor) -> Tensor:
    """What takes the place of a tensor, by its id."""
    return swaps.get(id(value), value)


def _change(before: Any, after: Any) -> float:
    """Of the numbers that a call put out; NaN if there are none."""
    pairs = zip(_numbers(before), _numbers(after), strict=False)
    changes = [(a.double() - b.double()).abs().max() / a.double().abs().max() for a, b in pairs if a.shape == b.shape]
    return max(map(float, changes), default=math.nan)


def _remade(before: Step, after: Step, size: int) -> float:
    last = [
        next(
            (t.double() for call in reversed(step.net_calls) for t in _numbers(call.output) if t.numel() == size), None
        )
        for step in (before, after)
    ]
    if last[0] is None or last[1] is None or last[0].shape != last[1].shape:
        return math.nan
    return float((last[0] - last[1]).square().mean().sqrt())


def _numbers(output: Any) -> list[Tensor]:
    return [t for _, t in tensors(output) if t.dtype in {torch.float32, torch.float64} and t.ndim and t.any()]


def _number(loss: Tensor | None) -> float:
    return float(loss.detach().sum()) if loss is not None else math.nan


def _is_target(tensor: Tensor, step: Step) -> bool:
    entered = (name for name, value in step.inputs.items() if same(value, tensor))
    return any(is_target(name, tensor, step) for name in entered)


def worth(trial: Trial) -> dict[str, float]:
    """How much the loss rises when an input is interchanged between examples, or zero, by the name of the evidence."""
    numbers = {f"worth {path}": effects[0].worth for path, effects in trial.inputs.items()}
    numbers |= {f"zeros {path}": more for path, more in trial.zeroed.items()}
    return {name: value for name, value in numbers.items() if not math.isnan(value)}
