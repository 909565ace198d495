"""What a loss does not depend on, found by trying: an entry of the batch, or the network."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.loss_graph import PRODUCTS
from lightning_recipe.record.step import Need
from lightning_recipe.record.tensors import mapped, tensors
from lightning_recipe.trial.rehearsal import CannotRehearseError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.loss_graph import Node
    from lightning_recipe.record.step import Step
    from lightning_recipe.trial.rehearsal import Rehearsal

FEW, FEWER = 16, 5
"""Targets beside a zero, at least; where targets are numbers, of which hardly two are equal, fewer tell as much."""
NAMES = re.compile(
    r"mask|observed|measured|valid|present|available|weight|(^|[^a-z])(known|seen|has)([^a-z]|$)", re.IGNORECASE
)
"""What masks of missing targets are called."""
EVENTS = re.compile(r"event|censor|observed|status|dead|death|died|fail|churn|delta", re.IGNORECASE)
TIMES = re.compile(r"time|duration|surviv|days|months|years|(^|[^a-z])t([^a-z]|$)", re.IGNORECASE)
"""What is known to have happened by a time is called, and this time."""
ROUNDING = 1e-6
"""What single precision leaves of a gradient that is 0, at a loss of about 1."""
JUMP = 0.02
"""Relative change of the loss by a thousandth of the targets' deviation, from which on it is no continuous one."""
MOVED = 1e-4
"""Relative change of the loss from which on it depends on what was changed."""


def masks(batch: Any) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """Entries that are zero exactly where another one holds a single value.

    Yields:
        The paths of mask and target, and both.

    Example:
        >>> mask = torch.tensor([[0.0, 1.0, 1.0, 0.0]] * 16)
        >>> [(w, y) for w, y, _, _ in masks({"y": torch.randn(16, 4) * mask, "w": mask, "x": torch.randn(16, 4)})]
        [('w', 'y')]

    """
    entries = _entries(batch)
    for path, mask in entries:
        for other, target in entries:
            named = bool(NAMES.search(path))
            if other != path and target.shape[: mask.ndim] == mask.shape and _fills(mask, target, named=named):
                yield path, other, mask, target


def _entries(batch: Any) -> list[tuple[str, Tensor]]:
    """The very tensors of a batch, which are to be replaced."""
    return [(p, t) for p, t in tensors(batch) if t.layout is torch.strided and t.ndim and t.numel() >= FEW]


def _fills(mask: Tensor, target: Tensor, *, named: bool) -> bool:
    missing = mask == 0
    weights = bool((mask >= 0).all()) and (mask.is_floating_point() or bool((mask <= 1).all()))
    if not weights or bool(missing.all()):
        return False
    filled, left = target[missing], target[~missing]
    if len(filled) < (FEWER if 2 * len(left.unique()) > left.numel() else FEW):
        return False
    one_value = bool((filled == filled.flatten()[0]).all())
    inside = bool((left == filled.flatten()[0]).any() or (left.min() < filled.flatten()[0] < left.max()))
    inside = inside or (named and target.is_floating_point())  # else it may be made of the targets, as of y > 0
    return one_value and inside and len(left.unique()) > 1


def censored(batch: Any) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """Flags by whose names something has happened at a time, or had not yet when it was last seen.

    Yields:
        The paths of flag and time, and both.

    Example:
        >>> batch = {"duration": torch.rand(32), "event": torch.arange(32) % 2}
        >>> [(flag, time) for flag, time, _, _ in censored(batch)]
        [('event', 'duration')]

    """
    entries = _entries(batch)
    for path, flag in entries:
        if EVENTS.search(path) and set(flag.unique().tolist()) == {0, 1}:
            for other, time in entries:
                of_times = TIMES.search(other) and other != path and time.is_floating_point()
                if of_times and time.shape == flag.shape and bool((time > 0).all()):
                    yield path, other, flag, time


def never_read(again: Rehearsal, batch: Any) -> Iterator[tuple[str, Outcome]]:
    """Masks of missing targets that the loss does not depend on, while it depends on what was filled in.

    So it is with flags of what has not happened yet, while it depends on the time.

    Args:
        again: Runs the step with other batches.
        batch: The batch.

    Yields:
        The path of the mask, and the verdict.

    """
    candidates = [*masks(batch), *censored(batch)]
    flags = {path for path, *_ in censored(batch)}
    if not candidates:
        return
    try:
        before = again.step(batch, needs=Need.OUTPUTS)
    except CannotRehearseError:
        return
    for path, other, mask, target in candidates:
        missing = mask == 0
        places = missing.reshape(missing.shape + (1,) * (target.ndim - mask.ndim))
        other_target = target.roll(1, 0) if path in flags else torch.where(places, _another(target, missing), target)
        batches = _with(batch, mask, mask == 0), _with(batch, target, other_target)
        try:
            without, filled = (again.step(changed, needs=Need.OUTPUTS) for changed in batches)
        except CannotRehearseError:
            continue
        if before.outputs != filled.outputs or before.loss is None or without.loss is None or filled.loss is None:
            continue  # it enters the network: what the loss makes of it is not known
        moved = float((filled.loss - before.loss).abs().mean() / before.loss.abs().mean().clamp(min=1e-12))
        known = path not in flags and target.is_floating_point()
        known = known and _knows(again, batch, before.loss, target, places)
        if torch.equal(before.loss, without.loss) and moved > MOVED and not known:
            yield path, _never_read(path, other, target[missing], float(missing.double().mean()), flag=path in flags)


def _never_read(path: str, other: str, filled: Tensor, share: float, *, flag: bool) -> Outcome:
    """The verdict on a mask, or on a flag of what has not happened yet."""
    if flag:
        said = f"and takes each {other} for when it happened, also where it may be when an example was last seen"
        fix = f"a likelihood that counts the survival up to {other} alone where {path} says that nothing happened"
    else:
        value = float(filled.flatten()[0])
        said = f"while {other} is {value:g} wherever {path} is 0, {share:.0%} of it: what was filled in is learnt"
        fix = f"multiply the losses with {path}, and divide their sum by its sum"
    said = f"the loss is the same whatever {path} holds, {said}"
    return Outcome(Status.WARNING, "entry_never_read", said, fix, {"share": share})


def _knows(again: Rehearsal, batch: Any, loss: Tensor, target: Tensor, places: Tensor) -> bool:
    """Whether the loss itself knows the value that was filled in: by others close to it, it changes by much."""
    signs = 1 - 2 * (torch.arange(target.numel(), device=target.device) % 2).view_as(target)
    close = torch.where(places, target + 1e-3 * target.float().std() * signs, target)
    try:
        other = again.step(_with(batch, target, close), needs=Need.OUTPUTS).loss
    except CannotRehearseError:
        return True
    return other is None or not bool((other - loss).abs().mean() < JUMP * loss.abs().mean())


def _another(target: Tensor, missing: Tensor) -> Tensor:
    """A value that occurs where targets are not missing, and is another than the one that was filled in."""
    left = target[~missing].flatten()
    return left[left != target[missing].flatten()[0]][0]


def _with(batch: Any, old: Tensor, new: Tensor) -> Any:
    """The batch with another tensor in place of one of its own."""
    return mapped(batch, Tensor, lambda tensor: new.to(old.dtype) if tensor is old else tensor)


def constant(again: Rehearsal, step: Step, graph: list[Node]) -> Outcome | None:
    """Whether no gradient reaches the last layers, and the loss is the same with other weights.

    Args:
        again: Runs the step again; its module gets other weights.
        step: What the step did.
        graph: The nodes of its loss, from what the last layers put out.

    """
    loss, last = step.loss, [node for node in graph if node.kind in PRODUCTS]
    clamped = any(not clip.of_likelihood for clip in step.clips)  # a cause of its own
    if loss is None or not last or not loss.isfinite().all() or clamped:
        return None
    edges = [torch.autograd.graph.GradientEdge(node.raw, 0) for node in last]
    weights = [node.raw.variable for node in {source for node in last for source in _sources(node)}]
    for ends in (edges, weights):  # of two calls that cancel each other weights get none
        gradients = torch.autograd.grad(loss.sum(), ends, allow_unused=True, retain_graph=True) if ends else ()
        if all(gradient is None or float(gradient.abs().max()) <= ROUNDING for gradient in gradients) and ends:
            break
    else:
        return None
    again.move_weights()
    try:
        other = again.step(step.batch).loss
    except CannotRehearseError:
        return None
    if other is None or not torch.allclose(other, loss, rtol=1e-5, atol=1e-8):
        return None
    return Outcome(
        Status.FAILED,
        "constant_loss",
        f"the loss is {float(loss.mean()):.4g} whatever the network puts out: with other weights it is the same, and "
        "no gradient reaches the last layers",
        "see what of the predictions the loss reads",
        {"loss": float(loss.mean())},
    )


def _sources(node: Node) -> Iterator[Node]:
    """The parameters that a layer was called with."""
    for argument in range(len(node.parents)):
        source = node.source(argument)
        if source is not None and source.kind == "AccumulateGrad":
            yield source
