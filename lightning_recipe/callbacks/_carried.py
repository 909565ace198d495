"""State that a network keeps for each example, and goes on from with the examples of the next batch."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_recipe.callbacks._interchanged import interchanged
from lightning_recipe.record.tensors import leading_size, mapped, same, tensors
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.run import Run
    from lightning_recipe.trial.rehearsal import Rehearsal

ROUNDING = 1e-5
"""Change of a number, over its size, that another order of the examples may make."""
TELLS = 10.0
"""Times that, from which on a change is none of rounding."""
_OWN = vars(nn.Module()).keys()
"""What all modules keep."""

Kept = dict[tuple[str, str], Any]
"""What modules keep, by module and attribute."""


def carried(again: Rehearsal, batch: Any) -> list[str]:
    """Names of what goes on, for each example, from what another example left there.

    Three steps tell: with rows that other examples left, the loss is another one; with the examples in the same other
    order, it is as before, and so are the rows that the step leaves. A queue or a codebook answers to no order, a table
    to its own. A fourth one, by other weights, tells a state from what is stored of the batch for the next.
    """
    size = leading_size(batch)
    kept = {place: value for place, value in _kept(again.module) if _has_rows(value, size)}
    floating = [t for value in kept.values() for t in _in(value) if t.is_floating_point() and t.ndim > 1]
    if not size or size < 2 or not floating:  # noqa: PLR2004
        return []
    try:
        before, left = _step(again, batch, kept, size)
        other, _ = _step(again, batch, _ordered(kept, size), size)
        both, left_then = _step(again, _ordered(batch, size), _ordered(kept, size), size)
        answers = abs(other - before) > TELLS * ROUNDING * abs(before)
        if not answers or not abs(both - before) <= ROUNDING * abs(before):
            return []
        with _other_weights(again.module):
            _, by_others = _step(again, batch, kept, size)
    except CannotRehearseError:
        return []
    finally:
        for place, value in kept.items():
            _put(again.module, place, value)
    found = []
    for place, value in left.items():
        now, then, ordered = _in(value), _in(left_then.get(place)), _in(_ordered(value, size))
        made = any(not same(*pair) for pair in zip(now, _in(by_others.get(place)), strict=False))
        changed = any(not same(*pair) for pair in zip(now, _in(kept[place]), strict=False))
        if made and changed and len(then) == len(ordered) and all(map(_close, ordered, then)):
            found.append(".".join(filter(None, place)))
    return found


def goes_on(run: Run, batch: Any) -> bool:
    """Whether a batch has another loss where the step goes on from the state that it left of each example, on a copy.

    So it is in truncated backpropagation through time.
    """
    size = leading_size(batch)
    try:
        with rehearsal(run) as again, torch.enable_grad():
            before, left = _left(again, batch)
            for place, value in left.items():
                if size and _has_rows(value, size):
                    _put(again.module, place, value)
            after, _ = _left(again, batch)
    except CannotRehearseError:
        return False
    return abs(after - before) > TELLS * ROUNDING * abs(before)


@contextmanager
def _other_weights(root: nn.Module) -> Iterator[None]:
    """Weights of which no graph of an earlier step gets to know."""
    kept = [(p, p.data) for p in root.parameters() if p.is_floating_point()]
    for parameter, values in kept:
        parameter.data = values + torch.randn_like(values)
    try:
        yield
    finally:
        for parameter, values in kept:
            parameter.data = values


def _kept(root: nn.Module) -> Iterator[tuple[tuple[str, str], Any]]:
    for name, module in root.named_modules():
        for key, value in (*vars(module).items(), *module._buffers.items()):  # noqa: SLF001 - also those not saved
            if key not in _OWN and key != "_trainer" and isinstance(value, Tensor | tuple | list | dict):
                yield (name, key), value


def _in(value: Any) -> list[Tensor]:
    return [tensor for _, tensor in tensors(value)]


def _has_rows(value: Any, size: int | None) -> bool:
    """Whether something in it has a row for each example; not of lists of parameters, as recurrent layers keep."""
    inside = _in(value)
    return not any(isinstance(t, nn.Parameter) for t in inside) and any(_rows(t, size) is not None for t in inside)


def _rows(tensor: Tensor, size: int | None) -> int | None:
    """The dimension of the examples: the first, or of three the second, after layers; None if none or both."""
    found = [dim for dim in range(min(max(tensor.ndim - 1, 1), 2)) if tensor.shape[dim : dim + 1] == (size,)]
    return found[0] if len(found) == 1 and tensor.layout is torch.strided else None


def _row_order(tensor: Tensor, size: int) -> Tensor:
    dim = _rows(tensor, size)
    return tensor if dim is None else interchanged(tensor.detach().movedim(dim, 0)).movedim(0, dim)


def _ordered(structure: Any, size: int) -> Any:
    return mapped(structure, Tensor, functools.partial(_row_order, size=size))


def _step(again: Rehearsal, batch: Any, kept: Kept, size: int) -> tuple[float, Kept]:
    """The loss of a step that begins with this state, and what it leaves of it."""
    for place, value in kept.items():
        _put(again.module, place, mapped(value, Tensor, _frozen))  # which the step may write into
    loss, left = _left(again, batch)
    return loss, {place: value for place, value in left.items() if place in kept and _has_rows(value, size)}


def _left(again: Rehearsal, batch: Any) -> tuple[float, Kept]:
    """The loss of a step, and what modules keep after it that is not what they kept before."""
    module, left = again.module, Kept()
    original = module.training_step
    before = {place: _identity(value) for place, value in _kept(module)}

    @functools.wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        changed = [(place, value) for place, value in _kept(module) if before.get(place) != _identity(value)]
        left.update((place, mapped(value, Tensor, _frozen)) for place, value in changed)
        return output

    module.__dict__["training_step"] = watched
    try:
        again.index = 1  # with the first batch of an epoch a state may begin anew
        loss = again.step(batch).loss
    finally:
        again.index = 0
        del module.__dict__["training_step"]
    return (float("nan") if loss is None else float(loss.detach().sum())), left


def _identity(value: Any) -> list[tuple[int, int]]:
    return [(id(tensor), tensor._version) for tensor in _in(value)]  # noqa: SLF001


def _put(root: nn.Module, place: tuple[str, str], value: Any) -> None:
    module = root.get_submodule(place[0])
    (module._buffers if place[1] in module._buffers else module.__dict__)[place[1]] = value  # noqa: SLF001


def _frozen(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-3, atol=ROUNDING)
