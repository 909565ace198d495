"""What becomes of the gradients of batches after which no optimiser steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.optim import SGD

from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lightning_recipe.callbacks._moments import Moment
    from lightning_recipe.record.graph import Node
    from lightning_recipe.run import Run

TIMES = 2
"""Steps that have to show the same."""

SCALED = {"Div", "Mul"}
"""What a loss was computed by last, if it was divided by a number of batches."""


class Accumulation:
    """Follows batch by batch a program with one optimiser, whose steps are its own.

    Attributes:
        summed: Of each step that took the sum of several batches, how many, where no loss was divided by anything.
        kept: How many steps took the gradients of several batches.
        thrown: How many batches' gradients were cleared before any step, though steps go on.
        batches: Batches with a backward up to the last step.

    Example:
        >>> from lightning_recipe.callbacks._moments import Moment
        >>> accumulation = Accumulation()
        >>> step = Moment("optimizer step", ("w",), {"w": 2.0})
        >>> accumulation.enter([Moment("backward", (), {})], [])
        >>> accumulation.enter([Moment("backward", (), {"w": 1.0}), step], [])
        >>> accumulation.summed
        [2]

    """

    def __init__(self) -> None:
        self.summed: list[int] = []
        self.kept = self.thrown = self.batches = 0
        self._waiting = self._lost = self._seen = 0
        self._scaled = False

    def enter(self, moments: Sequence[Moment], graph: Sequence[Node]) -> None:
        """Go on with another batch."""
        kinds = [moment.kind for moment in moments if moment.kind in {"backward", "optimizer step"}]
        if not kinds:
            return
        first = next(moment for moment in moments if moment.kind == kinds[0])
        if self._waiting and kinds[0] == "backward" and not any(first.norms.values()):
            self._lost, self._waiting = self._lost + self._waiting, 0
        self._seen += 1
        self._waiting += 1
        self._scaled |= kinds.count("backward") > 1 or (bool(graph) and graph[0].kind in SCALED)
        if "optimizer step" in kinds:
            self.thrown, self.batches = self.thrown + self._lost, self._seen
            self.kept += self._waiting > 1
            if self._waiting > 1 and not self._scaled:
                self.summed.append(self._waiting)
            self._waiting, self._lost, self._scaled = 0, 0, False


def uneven(accumulation: Accumulation, run: Run) -> Iterator[Outcome]:
    """Batches that count for nothing, or steps that are larger the more batches they take."""
    optimizers = run.trainer.optimizers
    if len(optimizers) != 1:
        return
    thrown, batches, summed = accumulation.thrown, accumulation.batches, accumulation.summed
    if thrown >= TIMES and not accumulation.kept:
        yield Outcome(
            Status.WARNING,
            "batches_thrown_away",
            f"the gradients of {thrown} of {batches} batches are cleared before a step uses them",
            "call zero_grad() after the optimiser's step only, not at every batch",
            {"thrown": thrown, "batches": batches},
        )
    elif len(summed) >= TIMES and isinstance(optimizers[0], SGD):
        yield Outcome(
            Status.ADVICE,
            "summed_batches",
            f"a step takes the sum of {summed[-1]} batches' gradients: SGD's steps are {summed[-1]} times as large as "
            "with their mean",
            "divide the loss by the number of batches, or leave it to Trainer(accumulate_grad_batches=...)",
            {"batches": summed[-1]},
        )
