"""Weights that a penalty in the loss takes back to 0, while others, such as biases, go on learning."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from lightning_recipe.callbacks._update_ratios import AT_LEAST
from lightning_recipe.callbacks._vanished import LARGER, LEFT
from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.record.tensors import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from lightning_recipe.callbacks._loss_course import Course
    from lightning_recipe.callbacks._update_ratios import Layer

REAL = 1e-4
"""Root mean square of what was drawn, below which it is next to nothing already."""
FIRST = 0.25
"""Cosine of a weight and its gradient at first, from which on a penalty is a real part of that: of factorised ratings
under sums over tables, embeddings vanish at 0.6, at 0.3 they shrink to a sixth and come back."""
DATA = 1e-5
"""One less the cosine, above which the data have a part in the gradient; of a layer that nothing uses they have none.
The weight is that after the step, which may turn it as well, by the square of the update ratio at most."""
ROWS = 0.1
"""Size of the largest row, in that of all at first, up to which no row is left: a group lasso keeps some of them."""
HALF = 0.5
"""Of the first size, above which it is still the beginning."""
NORM = 10.0
"""Growth of the gradient over the weight, above which it is not that of a square: a norm, as of a group lasso, takes
weights to 0 on purpose, and what data ask for does not become less with the weight, either."""
SOLVED = 1e-3
"""Of the first loss, below which zeros are the answer."""
LATE = 0.25
"""Of the run, before which nothing is said; with three looks in a row, each half as far again, the last is in the
second half."""


class Pull(NamedTuple):
    """What a gradient does to the size of a weight.

    Attributes:
        along: Cosine of the two; 1 if all of it makes the weight smaller.
        factor: Norm of the gradient in that of the weight: of a penalty alone, what it multiplies it by.

    """

    along: float
    factor: float


class Penalties:
    """Knows what weights were when they were first seen, and who pulls them down.

    Of a weight whose size is what it was, nothing is computed after the first look.

    Example:
        >>> from lightning_recipe.callbacks._loss_course import Course
        >>> from lightning_recipe.callbacks._update_ratios import Layer
        >>> def look(penalties, step, weight, data):
        ...     weight.grad = weight.detach() + data
        ...     layers = {"users": Layer(0.01, float(weight.detach().norm()), 1.0, 1.0, 0.1, 0.0, 0.0, True)}
        ...     return penalties.look(step, layers, {"users": weight}, 200, Course([(1, 2.0), (step, 1.0)]))
        >>> penalties, weight = Penalties(), torch.nn.Parameter(torch.ones(4, 2))
        >>> look(penalties, 1, weight, torch.tensor([1.0, -1.0]))
        >>> look(penalties, 100, torch.nn.Parameter(weight.detach() / 1000), 0.0).code
        'weight_decay_outweighs'

    """

    def __init__(self) -> None:
        self._sizes: dict[str, float] = {}
        self._pulls: dict[str, Pull] = {}
        self._used: set[str] = set()

    def look(
        self, step: int, layers: Mapping[str, Layer], parameters: Mapping[str, Tensor], horizon: float, course: Course
    ) -> Outcome | None:
        """Go on with a look, and tell of what has vanished: a `warning`.

        Args:
            step: Batches trained on.
            layers: Weights at this look, by name.
            parameters: All of the module; their gradients as the step left them.
            horizon: Steps of the run.
            course: Of the loss.

        """
        shapes = {name: parameters[name].shape for name in layers}
        sizes = {n: layer.weight / math.sqrt(max(shapes[n].numel(), 1)) for n, layer in layers.items()}
        gone = []
        for name, size in sizes.items():
            first = self._sizes.setdefault(name, size)
            if not first >= REAL or shapes[name][1:].numel() < 2:  # noqa: PLR2004 - gains, or biases in a table
                continue
            if name not in self._used:
                self._begin(name, parameters[name], layers[name].ratio, early=size >= HALF * first)
            if size < LEFT * first and name in self._pulls and layers[name].decay <= LARGER:
                pull, before = pull_of(parameters[name]), self._pulls[name]
                drawn = pull is not None and before.along > FIRST and pull.factor < NORM * before.factor
                if drawn and _largest_row(parameters[name]) <= ROWS * first:
                    gone.append(name)
        early = step < max(AT_LEAST, LATE * horizon if math.isfinite(horizon) else 0)
        if early or self._used.isdisjoint(gone) or course.is_below(SOLVED):
            return None
        name = min(gone, key=lambda name: sizes[name] / self._sizes[name])
        share = sum(shapes[n].numel() for n in gone) / sum(shape.numel() for shape in shapes.values())
        return Outcome(
            Status.WARNING,
            "weight_decay_outweighs",
            f"nothing is left of {listed(gone)}, {share:.0%} of all weights: the root mean square of {name} fell from "
            f"{self._sizes[name]:.2g} to {sizes[name]:.1g}, and not by the optimiser's weight decay; its gradient at "
            f"first was along the weights themselves (cosine {self._pulls[name].along:.2f}), as that of a penalty in "
            f"the loss is, which outweighs the data (loss {course})",
            "a smaller factor of the penalty, a hundredth; a penalty on what a batch uses, as its mean, and not on "
            "whole tables at each batch; or weight_decay of AdamW in its place",
            {"share": share, "along": self._pulls[name].along, "size_first": self._sizes[name], "size": sizes[name]}
            | course.evidence,
        )

    def _begin(self, name: str, parameter: Tensor, ratio: float, *, early: bool) -> None:
        """Keep the first pull, or the first in which data have a part, which a layer before zeros gets a step later."""
        if (pull := pull_of(parameter)) is None:
            return
        if 1 - pull.along > max(DATA, ratio**2):
            self._used.add(name)
            self._pulls |= {name: pull} if early else {}
        self._pulls.setdefault(name, pull)


def pull_of(parameter: Tensor) -> Pull | None:
    """What its gradient does to the size of a weight; None without one, and of sparse ones.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
        >>> weight.square().sum().backward()
        >>> pull_of(weight)
        Pull(along=1.0, factor=2.0)

    """
    if parameter.grad is None or parameter.grad.layout is not torch.strided:
        return None
    weight, gradient = (plain(x.detach()).flatten().float() for x in (parameter, parameter.grad))
    norms = [torch.linalg.vector_norm(x) for x in (weight, gradient)]
    unit, other = (x / norm for x, norm in zip((weight, gradient), norms, strict=True))  # their squares may be 0
    along, weights, gradients = torch.stack([unit @ other, *norms]).tolist()
    return Pull(along, gradients / weights) if math.isfinite(along) else None


def _largest_row(parameter: Tensor) -> float:
    rows = plain(parameter.detach()).flatten(1).float()
    return float(torch.linalg.vector_norm(rows, dim=1).max()) / math.sqrt(rows.shape[1])
