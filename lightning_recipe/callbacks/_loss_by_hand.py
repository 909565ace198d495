"""Targets of losses that are written by hand: found in the graph of the first step, and followed in the batches."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from lightning_recipe.callbacks import _counted, _loss_scale_texts, _loss_weights
from lightning_recipe.record.loss_graph import PRODUCTS, RESHAPES
from lightning_recipe.record.tensors import dense

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.finding import Outcome
    from lightning_recipe.record.loss_graph import Node, WeightsOf
    from lightning_recipe.record.step import Step

MOST = 100
"""Classes, at most: what has more values are numbers."""
LINEAR = {"Neg", "Mean", "Sum", "Mul", "Div"}
"""What a mean over examples, weighted or not, is made of."""
SHARES = {"LogSoftmax", "Softmax", "Logsumexp"}
"""What classes are picked from; places in time are picked from anything."""


@dataclass
class Written:
    """A target that a line of the module's own picks classes by, or takes from what the network puts out.

    Attributes:
        where: The line.
        entry: Where in the batch it is; empty if it is not found there as it is.
        weights: By class, what its losses count.
        name: Of the error that it is squared in, or taken the absolute value of; empty where classes are picked.
        width: Outputs that each target is compared with.
        integers: Whether it may be the number of a class.
        counts: How often each value was seen.
        looks: At so many batches.

    """

    where: str
    entry: str
    weights: dict[float, float] = field(default_factory=dict)
    name: str = ""
    width: int = 0
    integers: bool = True
    counts: Counter[float] = field(default_factory=Counter)
    looks: int = 0

    def look(self, batch: object) -> None:
        """Count the values of another batch."""
        for path, entry in dense(batch):
            if path == self.entry:
                self.counts.update(_counted.counted(entry))
                self.looks += 1

    def verdicts(self) -> Iterator[Outcome]:
        """What is worth telling."""
        if (growing := _loss_weights.growing(self.weights, self.counts)) is not None:
            yield growing
        if self.name and self.integers and (ids := _counted.ids(self.name, self.width, self.counts)) is not None:
            yield ids
        if self.looks and len(self.counts) == 1 and self.counts.total() >= _loss_weights.TARGETS:
            yield _counted.constant(next(iter(self.counts)), self.looks)


def written(weights_of: WeightsOf, graph: list[Node], step: Step) -> Iterator[Written]:
    """Targets by which classes are picked, or that are subtracted from what the network puts out.

    Args:
        weights_of: How much each element of what a node gave counts in the loss.
        graph: The nodes of the loss, from what the last layers put out.
        step: What the step did.

    """
    entries, outputs = _entries(step), _outputs(step)
    shares = any(node.kind in SHARES for node in graph)
    for node in graph:
        picked = node.picked if shares else None
        target = picked[0] if picked is not None else node.saved("target")
        if isinstance(target, Tensor) and target.ndim and node.shape == tuple(target.shape):
            weights, entry = _of_classes(weights_of(node), target), _entry(entries, target)
            if entry or weights:
                yield Written(node.where, entry, weights, counts=Counter() if entry else _counted.counted(target))
        else:
            yield from _errors(node, entries, outputs)


def _entries(step: Step) -> list[tuple[str, Tensor]]:
    return [(path, t) for path, t in dense(step.batch) if t.numel() and t.ndim and not t.is_complex()]


def _outputs(step: Step) -> list[Tensor]:
    return [t.detach() for call in step.net_calls for _, t in dense(call.output) if t.is_floating_point()]


def _entry(entries: list[tuple[str, Tensor]], target: Tensor) -> str:
    same = (path for path, t in entries if t.numel() == target.numel() and _counted.equal(t, target))
    return next(same, "")


def _of_classes(weight: Tensor | None, target: Tensor) -> dict[float, float]:
    """What the losses of each class count, if all of a class count the same, and classes differ."""
    if weight is None or weight.shape != target.shape or len(classes := target.unique()) > MOST:
        return {}
    each = {float(c): weight[target == c].abs() for c in classes.tolist()}
    alike = all(float(w.std(correction=0)) <= 1e-4 * float(w.mean()) for w in each.values())
    return {c: float(w[0]) for c, w in each.items()} if len(each) > 1 and alike else {}


def _errors(node: Node, entries: list[tuple[str, Tensor]], outputs: list[Tensor]) -> Iterator[Written]:
    """The target of an error that is squared, or whose absolute value is taken."""
    squared = node.kind == "Pow" or (node.kind == "Mul" and len({*node.parents}) == 1)
    error, difference = node.source(), node.saved("self")
    if not (squared or node.kind == "Abs") or error is None or error.kind != "Sub" or difference is None:
        return
    for path, target in entries:
        width, left = divmod(difference.numel(), target.numel())
        if left or not width or (width > 1 and difference.shape[:1] != target.shape[:1]):
            continue
        taken = target.flatten()[:, None].float()
        sums = [(sign * difference.reshape(-1, width) + taken) for sign in (1, -1)]
        if any(_counted.equal(one, t) for one in sums for t in outputs if t.numel() == one.numel()):
            name = "the squared error" if squared else "the absolute error"
            yield Written(node.where, path, name=name, width=width, integers=not target.is_floating_point())


def without_end(weights_of: WeightsOf, graph: list[Node], step: Step) -> Iterator[tuple[Node, Outcome]]:
    """A likelihood by hand that picks from what a layer puts out, and is nothing but that: log_softmax is missing."""
    picking = [node for node in graph if node.kind in {"Gather", "Index"} and node.picked is not None]
    if len(picking) != 1 or (picked := picking[0].picked) is None:
        return
    made_by = picking[0].source()
    linear = all(node.kind in LINEAR | RESHAPES | PRODUCTS or node in (*picking, made_by) for node in graph)
    if made_by is None or not made_by.is_raw or not linear or not _entry(_entries(step), picked[0]):
        return
    weight = weights_of(picking[0])
    largest = max((float(t.max()) for t in _outputs(step) if tuple(t.shape) == made_by.shape), default=0.0)
    if weight is not None and bool((weight <= 0).all() and weight.any()) and largest > 0:
        yield picking[0], _loss_scale_texts.logits(largest, "log-probabilities, which are never above 0", "log_softmax")
