"""What becomes of the gradients of batches after which no optimiser steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.optim import SGD

from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lightning_recipe.callbacks._moments import Moment
    from lightning_recipe.record.graph import Node
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

TIMES = 2
"""Steps that have to show the same."""

MANY = 4
"""Batches in a step, at least, whose sum is far from their mean."""
SCALED = {"Div", "Mul"}
"""What a loss was computed by last, if it was divided by a number of batches."""
SCALES = {"mul", "imul", "mul_", "rmul", "div", "truediv", "itruediv", "div_"}
"""Functions by which it is."""


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

    def enter(self, moments: Sequence[Moment], graph: Sequence[Node], parts: int = 1) -> None:
        """Go on with another batch, of which so many parts, see `parts_of`, go into one step."""
        kinds = [moment.kind for moment in moments if moment.kind in {"backward", "optimizer step"}]
        if not kinds:
            return
        first = next(moment for moment in moments if moment.kind == kinds[0])
        if self._waiting and kinds[0] == "backward" and not any(first.norms.values()):
            self._lost, self._waiting = self._lost + self._waiting, 0
        self._seen += 1
        self._waiting += 1
        self._scaled |= (kinds.count("backward") > 1 and parts < MANY) or (bool(graph) and graph[0].kind in SCALED)
        if "optimizer step" in kinds:
            self.thrown, self.batches = self.thrown + self._lost, self._seen
            self.kept += self._waiting > 1
            if self._waiting * parts > 1 and not self._scaled:
                self.summed.append(self._waiting * parts)
            self._waiting, self._lost, self._scaled = 0, 0, False


def parts_of(step: Step) -> int:
    """How many losses of one line, not divided by anything, backward is called on before the only step of an optimiser.

    Example:
        >>> from lightning_recipe.record.step import Step
        >>> parts_of(Step(None))
        1

    """
    kinds = [event.kind for event in step.events if event.kind in {"backward", "optimizer step", "zero_grad", "clip"}]
    while kinds and kinds[0] == "zero_grad":
        kinds.pop(0)
    if kinds.count("optimizer step") != 1 or kinds.index("optimizer step") != kinds.count("backward"):
        return 1  # else something is done to the gradients in between
    made = [step.producer(event.inputs[0]) for event in step.events if event.kind == "backward" and event.inputs]
    lines = {(one.name, one.where) for one in made if one is not None}
    scaled = any(one is None or one.kind == "module" or one.name in SCALES for one in made)
    return 1 if len(lines) != 1 or scaled else len(made)


def uneven(accumulation: Accumulation, run: Run, course: str = "") -> Iterator[Outcome]:
    """Batches that count for nothing, or steps that are larger the more batches they take.

    Args:
        accumulation: What was seen.
        run: With its optimisers.
        course: How the loss went, if it has not fallen.

    """
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
            Status.WARNING if course and summed[-1] >= MANY else Status.ADVICE,
            "summed_batches",
            f"a step takes the sum of {summed[-1]} batches' gradients: SGD's steps are {summed[-1]} times as large as "
            f"with their mean{course}",
            "divide the loss by the number of batches, or leave it to Trainer(accumulate_grad_batches=...)",
            {"batches": summed[-1]},
        )
