"""Heads whose part of the loss is always empty: a mask leaves nothing of it, in any step of an epoch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.record.loss_graph import PRODUCTS, nodes, weights
from lightning_recipe.record.step import Need
from lightning_recipe.record.tensors import dense
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lightning_recipe.record.loss_graph import Node
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

STEPS = 1000
"""Steps that stand for an epoch where that is longer."""
FEW = 1024
"""Elements of a weight that stand for all."""
MASKING = {"mul", "rmul", "mul_", "imul", "where", "masked_fill", "masked_fill_", "getitem", "masked_select"}
MASKING |= {"index_select"}
"""Functions that a mask goes into."""
ATTENDING = {"Bmm", "Mm", "UnsafeView"}
"""Operations in which shares weigh what is attended to."""


class Emptied:
    """Follows parameters whose gradient is exactly 0, and that no step between two looks has changed either."""

    def __init__(self) -> None:
        self._kept, self._since = dict[str, Tensor](), dict[str, int]()
        self._trained, self._asked = set[str](), set[str]()
        self._found: dict[str, tuple[Outcome, set[str]]] = {}

    def look(self, run: Run, step: Step, parameters: Mapping[str, Tensor]) -> Iterator[tuple[Outcome, str]]:
        """Those that have stayed so for an epoch, if the step run again on a copy shows an empty mask behind them."""
        for name in (step.gradients.keys() & parameters.keys()) - self._trained:
            values = parameters[name].detach().flatten()[:FEW]
            self._since.setdefault(name, run.step)
            if step.gradients[name] != 0 or not _is_same(self._kept.setdefault(name, values.clone()), values):
                self._trained.add(name)
                self._kept.pop(name, None)
        epoch = min(run.batches_per_epoch, STEPS)
        still = {name for name in self._kept if run.step - self._since[name] >= epoch}
        if still - self._asked:
            self._asked |= still
            self._found |= _found(run, step, still)
        for subject, (outcome, names) in self._found.items():
            if names <= still:
                yield outcome, subject


def _is_same(before: Tensor, now: Tensor) -> bool:
    """Whether values are what they were, at most decayed."""
    size = before.norm()
    return torch.allclose(now * (size / now.norm().clamp(min=1e-12)), before, rtol=1e-3, atol=1e-3 * float(size))


def _found(run: Run, step: Step, names: set[str]) -> dict[str, tuple[Outcome, set[str]]]:
    try:
        with (
            torch.enable_grad(),
            rehearsal(run) as again,
            torch.autograd.set_detect_anomaly(mode=True, check_nan=False),
        ):
            once_more = again.step(step.batch, needs=Need.WIRING)
            return dict(
                [*_shares_of_one(again.module, once_more, names), *_empty_masks(again.module, once_more, names)]
            )
    except CannotRehearseError:
        return {}


def _shares_of_one(root: nn.Module, step: Step, names: set[str]) -> Iterator[tuple[str, tuple[Outcome, set[str]]]]:
    """A softmax over one thing gives 1, whatever it is: as over the one expert that is left, or the one place there is.

    Attention to one place, as to a single token that says what is wanted, has no other way.
    """
    known = {id(p): name for name, p in root.named_parameters()}
    every = [] if step.loss is None else list(nodes(step.loss, through_layers=True))
    attending = {node.source(i) for node in every if node.kind in ATTENDING for i in (0, 1)}
    for node in every:
        if node.kind != "Softmax" or node.dim is None or node.shape[node.dim] != 1:
            continue
        heads = {known[leaf] for leaf in _ends(node, through_layers=True) if leaf in known} & names
        if heads:
            subject = ", ".join(modules := sorted({name.rpartition(".")[0] or name for name in heads}))
            outcome = Outcome(
                Status.ADVICE if node in attending else Status.WARNING,
                "no_gradient",
                f"{listed(modules)} gets a gradient of 0 and has learnt nothing in an epoch: the softmax behind it"
                f"{f' ({node.where})' if node.where else ''} is over one number, dimension {node.dim} of {node.shape}: "
                "it is always 1",
                "take the softmax over all before one is chosen, or a sigmoid; or over the dimension of the classes",
                {"parameters": sum(root.get_parameter(name).numel() for name in heads)},
            )
            yield subject, (outcome, heads)


def _empty_masks(root: nn.Module, step: Step, names: set[str]) -> Iterator[tuple[str, tuple[Outcome, set[str]]]]:
    if step.loss is None:
        return
    known = {id(p): name for name, p in root.named_parameters()}
    for node in nodes(step.loss):
        if not _leaves_nothing(node) or not _counts(step.loss, node):
            continue
        heads = {known[leaf] for leaf in _ends(node) if leaf in known}
        if not heads or not heads <= names or _is_of_network(step, node.where) or _has_twin(root, heads, names):
            continue
        subject = ", ".join(modules := sorted({name.rpartition(".")[0] or name for name in heads}))
        missing = any(t.numel() > 1 and _is_constant(t) for _, t in dense(step.batch))
        yield (
            subject,
            (
                Outcome(
                    Status.ADVICE if missing else Status.WARNING,
                    "no_gradient",
                    f"{listed(modules)} gets a gradient of 0 and has learnt nothing in an epoch: its part of the loss "
                    f"is 0, since the mask in {node.where or 'it'} leaves nothing of it",
                    "leave it out while the data have nothing for it"
                    if missing
                    else "see how many elements the mask keeps: > may stand for >=, or a label for another one",
                    {"parameters": sum(root.get_parameter(name).numel() for name in heads)},
                ),
                heads,
            ),
        )


def _is_constant(entry: Tensor) -> bool:
    """Whether an entry of the batch is one value, as where labels are missing, or filled in."""
    return bool(entry.isnan().all() | (entry == entry.flatten()[0]).all())


def _leaves_nothing(node: Node) -> bool:
    """Whether a mask in which nothing is left stands before what a node gives; a single number is a weight."""
    if not math.prod(node.shape):
        return False
    if any(parent is not None and not math.prod(parent.shape or (1,)) for parent in node.parents):
        return True
    kept: Any = None
    if node.kind == "Mul" and None in node.parents:
        kept = next((t for t in (node.saved("self"), node.saved("other")) if isinstance(t, Tensor)), None)
    elif node.kind == "Where" and None in node.parents:
        condition = node.saved("condition")
        kept = condition if node.parents[0] is not None else ~condition
    elif node.kind == "MaskedFill":
        kept = ~node.saved("mask")
    else:
        kept = node.saved("weight")
    return isinstance(kept, Tensor) and kept.numel() > 1 and not bool(kept.any())


def _counts(loss: Tensor, node: Node) -> bool:
    """Whether what a node gives counts in the loss, whose weight is not 0, as at the beginning of annealing."""
    weight = weights(loss, node)
    return weight is not None and bool(weight.any())


def _ends(node: Node, *, through_layers: bool = False) -> Iterator[int]:
    """The parameters of the last layers behind a node, or of all."""
    waiting, seen = [node], {node}
    while waiting:
        at = waiting.pop()
        if at.kind == "AccumulateGrad":
            yield id(at.raw.variable)
        for parent in at.parents:
            last = (
                at.kind in PRODUCTS and parent is not None and parent.kind not in {"AccumulateGrad", "T", "Transpose"}
            )
            if parent is not None and parent not in seen and (through_layers or not last):
                seen.add(parent)
                waiting.append(parent)


def _is_of_network(step: Step, where: str) -> bool:
    """Whether the mask is made of what a network puts out, as of predictions that are sure enough."""
    masking = [event for event in step.events if event.name in MASKING and event.where == where]
    return any(sum(step.producer(number) is not None for number in set(e.inputs)) > 1 for e in masking)


def _has_twin(root: nn.Module, heads: set[str], names: set[str]) -> bool:
    """Whether it is one of several in a list, of which others are trained: an expert, or the head of another task."""
    for path in heads:
        parts = path.split(".")
        for i, part in enumerate(parts[:-1]):
            parent = root.get_submodule(prefix := ".".join(parts[:i]))
            if not isinstance(parent, nn.ModuleList | nn.ModuleDict):
                continue
            shapes = [p.shape for p in parent.get_submodule(part).parameters()]
            for other, twin in parent.named_children():
                own = {f"{prefix}.{other}.{name}": p.shape for name, p in twin.named_parameters()}
                if list(own.values()) == shapes and not own.keys() & names:
                    return True
    return False
