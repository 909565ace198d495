"""What a head puts out reaches the loss by a penalty of its own alone, as the mean of a code that is not added to it.

Two heads that are given the same, or the halves of one layer, are compared: what one puts out is used for something
that differs between examples, while the loss draws the other to 0, whatever the example is.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.callbacks._interchanged import differing, interchanged
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.step import Need
from lightning_recipe.record.tensors import dense, leading_size
from lightning_recipe.trial.rehearsal import CannotRehearseError

if TYPE_CHECKING:
    from lightning_recipe.trial.rehearsal import Rehearsal

SAME = 1e-5
"""Difference of losses, or of gradients, over their size, that may be rounding."""
SPLIT = {"chunk", "split", "tensor_split"}
"""Functions that take the halves of what a layer puts out."""
MOST = 4
"""Heads that are tried."""


class Head(NamedTuple):
    """A layer, or half of what it puts out.

    Attributes:
        name: Of the layer.
        half: 0 or 1, of dimension 1; None for all of it.

    """

    name: str
    half: int | None = None

    def __str__(self) -> str:
        return self.name if self.half is None else f"the {('first', 'second')[self.half]} half of {self.name}"


def only_penalised(again: Rehearsal, batch: Any) -> tuple[Outcome, str] | None:
    """An `advice` on a head whose output only a penalty of its own sees, and the head's name.

    Args:
        again: The copy; in eval mode, to which it is put back: a code may be drawn in training only.
        batch: As the training step receives it.

    """
    size = leading_size(batch) or 0
    if size < MOST or len(differing(batch)) < sum(len(t) == size for _, t in dense(batch) if t.ndim):
        return None  # a target that is the same for all examples at hand looks alike
    again.module.train()
    try:
        with torch.inference_mode(mode=False), torch.enable_grad():
            for pair in pairs(again, batch, size)[:MOST]:
                drawn = [head for head in pair if _is_drawn_to_0(again, batch, head)]
                others = [head for head in pair if head not in drawn]
                if len(drawn) == 1 and _can_be_interchanged(again, batch, others[0]) is False:
                    return _told(*drawn), str(drawn[0])
    except CannotRehearseError:
        return None
    finally:
        again.module.eval()
    return None


def pairs(again: Rehearsal, batch: Any, size: int) -> list[tuple[Head, Head]]:
    """Layers that are called once, with the same, and put out a row for each example; or the halves of such a one."""
    shapes: dict[str, list[torch.Size]] = {}
    with ExitStack() as stack:
        for name, module in again.module.named_modules():
            if next(module.parameters(recurse=False), None) is not None:
                stack.callback(module.register_forward_hook(partial(_noting, shapes, name)).remove)
        events = again.step(batch, needs=Need.WIRING).events
    layers = [e for e in events if e.kind == "module" and len(shapes.get(e.name, ())) == 1 and len(e.outputs) == 1]
    layers = [e for e in layers if len(shapes[e.name][0]) > 1 and shapes[e.name][0][0] == size]
    halved = {number for event in events if event.name in SPLIT for number in event.inputs}
    found = [(Head(e.name, 0), Head(e.name, 1)) for e in layers if e.outputs[0] in halved]
    given = {e.inputs: [one for one in layers if one.inputs == e.inputs] for e in layers}
    found += [(Head(pair[0].name), Head(pair[1].name)) for pair in given.values() if len(pair) == 2]  # noqa: PLR2004
    return [pair for pair in found if pair[0].half is None or shapes[pair[0].name][0][1] % 2 == 0]


def _noting(shapes: dict[str, list[torch.Size]], name: str, _: Any, __: Any, output: Any) -> None:
    if isinstance(output, Tensor) and output.is_floating_point() and output.requires_grad:
        shapes.setdefault(name, []).append(output.shape)


def _answer(head: Head, made: list[Tensor], fill: Any, output: Tensor) -> Tensor:
    """The output with other values for the head, which are kept."""
    own = output.detach() if head.half is None else output.detach().chunk(2, 1)[head.half]
    values: Tensor = fill(own).requires_grad_()
    made.append(values)
    if head.half is None:
        return values
    parts = list(output.chunk(2, 1))
    parts[head.half] = values
    return torch.cat(parts, 1)


def _tried(again: Rehearsal, batch: Any, head: Head, fill: Any) -> tuple[Tensor, Tensor | None] | None:
    """The loss, and its gradient for the head's values, if these are others."""
    made: list[Tensor] = []
    loss = again.step(batch, answers={head.name: partial(_answer, head, made, fill)}).loss
    if loss is None or not loss.requires_grad or len(made) != 1:
        return None
    (gradient,) = torch.autograd.grad(loss.sum(), made, allow_unused=True)
    return loss.detach().sum(), gradient


def _is_drawn_to_0(again: Rehearsal, batch: Any, head: Head) -> bool:
    """Whether zeros get no gradient at all, ones the same in all examples, and examples can be interchanged."""
    at_0 = _tried(again, batch, head, torch.zeros_like)
    if at_0 is None or at_0[1] is None or at_0[1].any():
        return False
    at_1 = _tried(again, batch, head, torch.ones_like)
    if at_1 is None or at_1[1] is None or not at_1[1].any() or not at_1[0] > at_0[0]:
        return False
    gradient = at_1[1]
    alike = bool(((gradient - gradient[:1]).abs() <= SAME * gradient.abs().max()).all())
    return alike and _can_be_interchanged(again, batch, head) is True


def _can_be_interchanged(again: Rehearsal, batch: Any, head: Head) -> bool | None:
    """Whether the loss is the same if examples get random values of others; None if nobody knows."""
    tried = [_tried(again, batch, head, fill) for fill in (_random, lambda own: interchanged(_random(own)))]
    one, other = (math.nan if found is None else float(found[0]) for found in tried)
    return abs(one - other) <= SAME * abs(one) if math.isfinite(one) and math.isfinite(other) else None


def _random(own: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(own.shape, generator=generator).to(own)


def _told(head: Head) -> Outcome:
    return Outcome(
        Status.ADVICE,
        "only_penalised",
        f"what {head} puts out reaches the loss by a penalty only, which draws it to 0 for each example alike: with "
        "that of other examples in its place the loss is the same, and it is used for nothing else",
        "use it: the mean of a code that is drawn is added, mean + std * noise",
        {},
    )
