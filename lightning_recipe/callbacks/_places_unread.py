"""Places of a sequence from which the network computes something, and of which nothing comes out.

A recurrent or causal network has seen the whole of a sequence at its last place only: an answer that is taken at the
first one knows nothing of the rest, and is learnt all the same.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_recipe.callbacks._interchanged import NEEDS, Interchanging, compared, interchanged, swapped
from lightning_recipe.dependencies.sequences import layouts
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.modules import is_leaf
from lightning_recipe.record.tensors import dense, leading_size, mapped, same, tensors
from lightning_recipe.trial.rehearsal import CannotRehearseError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning_recipe.record.step import NetCall, Step
    from lightning_recipe.trial.rehearsal import Rehearsal

FEWEST = 6
"""Places of a sequence, at least."""
DIFFER = 0.5
"""Share of the examples that hold something else at a place than another example, from which on it counts: padding does
not."""
TELLS = 1e-3
"""Change of the loss or of outputs, over their size, without which nothing was learnt from the sequence yet."""


def unread(again: Rehearsal, batch: Any) -> tuple[Outcome, str] | None:
    """Most places of a sequence have no effect: what they hold may as well be another example's, to the last bit.

    Layers must have computed something for all places: what is cut off before is left out on purpose. So is what a mask
    or a length in the batch leaves out.

    Args:
        again: The copy, in eval mode.
        batch: As the step receives it.

    Returns:
        A `warning` if it is the later places, an `advice` if it is the earlier ones; and what they are places of.

    """
    shapes: list[tuple[int, ...]] = []
    cells: list[int] = []
    with ExitStack() as stack:
        for module in again.module.modules():
            if is_leaf(module):
                stack.callback(module.register_forward_hook(_noting(shapes, cells)).remove)
        try:
            method, before = "training_step", again.step(batch, needs=NEEDS)
        except CannotRehearseError:
            before = again.step(batch, needs=NEEDS, method=(method := "validation_step"))
    size = leading_size(batch) or before.batch_size
    for call in before.net_calls:
        for name, tensor in call.inputs.items():
            axis = _axis(tensor, size)
            if axis is None or not (cells or _passed(shapes, tensor.shape[1 - axis], tensor.shape[axis])):
                continue
            if (found := _judged(again, batch, before, method, (call, name, axis))) is not None:
                return found, name
    return None


def _noting(shapes: list[tuple[int, ...]], cells: list[int]) -> Callable[..., None]:
    def note(module: nn.Module, args: Any, output: Any) -> None:
        shapes.extend(tuple(t.shape) for _, t in tensors((args, output)) if t.is_floating_point())
        cells.extend([1] * isinstance(module, nn.RNNCellBase))  # a loop over the places, which may end too early

    return note


def _passed(shapes: list[tuple[int, ...]], size: int, places: int) -> bool:
    """Whether vectors of all places went through a layer, side by side or one after the other.

    Example:
        >>> _passed([(8, 20, 3)], 8, 20), _passed([(160, 3, 32, 32)], 8, 20), _passed([(8, 3)] * 20, 8, 20)
        (True, True, True)
        >>> _passed([(8, 20), (8, 1, 3)], 8, 20)
        False

    """
    side_by_side = any(shape[0] == size * places and len(shape) > 1 for shape in shapes if shape)
    along = any(layouts(shape, size, places) for shape in shapes if len(shape) == 3)  # noqa: PLR2004
    return along or side_by_side or any(shapes.count(shape) >= places for shape in set(shapes) if len(shape) > 1)


def _axis(tensor: Tensor, size: int | None) -> int | None:
    """Where the places of a sequence lie in what enters; examples may come first, or second."""
    if tensor.layout is not torch.strided or tensor.is_complex() or tensor.dtype is torch.bool or tensor.ndim < 2:  # noqa: PLR2004
        return None
    axis = 1 if tensor.shape[0] == size else 0 if tensor.shape[1] == size else None
    return axis if axis is not None and tensor.shape[axis] >= FEWEST and tensor.shape[1 - axis] > 1 else None


def _judged(again: Rehearsal, batch: Any, before: Step, method: str, which: tuple[NetCall, str, int]) -> Outcome | None:
    call, name, axis = which
    rows = call.inputs[name].transpose(0, 1) if axis == 0 else call.inputs[name]
    differ = (rows != interchanged(rows)).reshape(*rows.shape[:2], -1).any(2)
    counted = (differ.double().mean(0) >= DIFFER).nonzero().flatten().tolist()
    if len(counted) < FEWEST:
        return None

    def has_effect(places: slice, least: float = 0.0) -> bool:
        """Whether these places of other examples lead to something else; doubt is an effect."""
        try:
            with Interchanging(again.module, call, name, partial(_others_there, axis=axis, places=places)):
                effect = compared(before, again.step(batch, needs=NEEDS, method=method))
        except CannotRehearseError:
            return not least
        return effect.loss > least or effect.last > least if least else not (effect.loss == 0 == effect.last)

    half = counted[len(counted) // 2]
    late = not has_effect(slice(half, None))
    if not late and has_effect(slice(half)):
        return None
    if not has_effect(slice(None), TELLS):
        return None
    used, unused = (0, half) if late else (rows.shape[1], half)
    while abs(used - unused) > 1:  # from where on, or up to where, nothing has an effect
        middle = (used + unused) // 2
        if has_effect(slice(middle, None) if late else slice(middle)):
            used = middle
        else:
            unused = middle
    places = slice(unused, None) if late else slice(unused)
    changed = [
        mapped(batch, Tensor, partial(swapped, {id(entry): _others_there(entry, axis, places)}))
        for _, entry in tensors(batch)
        if same(entry, call.inputs[name])
    ]
    try:  # they may be what is to be said: those of a forecast, of which the network is given what came before
        asked = [compared(before, again.step(other, needs=NEEDS, method=method)).loss > 0 for other in changed]
    except CannotRehearseError:
        return None
    if any(asked) or _left_out(rows, call, batch, places):
        return None
    return _told(name, unused, rows.shape[1], late=late)


def _others_there(tensor: Tensor, axis: int, places: slice) -> Tensor:
    """The same with what other examples hold at some places."""
    made, theirs = tensor.clone(), interchanged(tensor.transpose(0, 1) if axis == 0 else tensor)
    (made.transpose(0, 1) if axis == 0 else made)[:, places] = theirs[:, places]
    return made


def _left_out(rows: Tensor, call: NetCall, batch: Any, places: slice) -> bool:
    """Whether a mask of the places, which may be a channel of theirs, or their number in the batch, says so."""
    size, length = rows.shape[:2]
    for _, tensor in [*dense(batch), *call.inputs.items()]:
        shape = tuple(tensor.shape)
        if tensor.layout is not torch.strided or not tensor.numel():
            continue
        if shape == (size,) and not tensor.is_floating_point() and FEWEST <= int(tensor.max()) <= (places.start or 0):
            return True
        if len(shape) in {2, 3} and shape[:2] in {(size, length), (length, size)}:
            first = tensor if shape[0] == size else tensor.transpose(0, 1)
            if any(_is_mask(channel, places) for channel in first.reshape(size, length, -1).unbind(2)):
                return True
    return False


def _is_mask(values: Tensor, places: slice) -> bool:
    """Whether there are two values, of which one stands at all of some places, and the other somewhere else.

    Example:
        >>> _is_mask(torch.tensor([[1, 1, 0], [1, 0, 0]]), slice(2, None)), _is_mask(torch.ones(2, 3), slice(2, None))
        (True, False)

    """
    return len(values[:, places].unique()) == 1 and len(values.unique()) == 2  # noqa: PLR2004


def _told(name: str, at: int, length: int, *, late: bool) -> Outcome:
    idle = length - at if late else at
    which = f"the last {idle} of the {length} places of {name}" if late else f"the first {idle} of its {length} places"
    said = (
        f"{which} have no effect: with those of other examples in their place, the loss and the last output stay the "
        "same to the last bit, although the network computes with them"
    )
    evidence: dict[str, float] = {"places": length, "without_effect": idle}
    if late:
        fix = (
            "a recurrent or causal network has seen all of a sequence at its last place: take out[:, -1], or the place "
            "before each one's length; see that the places lie where the layers look for them (batch_first)"
        )
        return Outcome(Status.WARNING, "places_unread", said, fix, evidence)
    fix = (
        "if they should matter: more layers, dilation, stride or attention, to look back further; else shorter windows"
    )
    return Outcome(Status.ADVICE, "places_out_of_reach", said, fix, evidence)
