"""Which gradients outlive the optimiser's step that used them, and become part of the next one's."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from lightning_recipe.finding import Outcome, Status, listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.callbacks._moments import Moment
    from lightning_recipe.run import Run

OFTEN = 4
"""Steps, all of which have to miss a gradient that others have: a part may be trained now and then."""
IN_A_ROW = 2
"""Steps in a row that have to use an old gradient: who clears at every second step means to."""


class Leftovers:
    """Follows the gradients of each parameter over steps in a row, by their norms.

    Attributes:
        in_a_row: How many steps in a row, up to the last, used what the step before them had used already.
        steps: How many steps each parameter took, those without a backward in between counted once.
        emptied: How many of them found no gradient in any parameter of their optimiser, some of which had one until
            they were cleared after backward.
        lost: How many of them found no gradient in it, though one had come since the step before, and was cleared.

    Example:
        >>> from lightning_recipe.callbacks._moments import Moment
        >>> leftovers = Leftovers()
        >>> for moment in [("backward", (), {}), ("optimizer step", ("w",), {"w": 1.5})]:
        ...     leftovers.enter(Moment(*moment))
        >>> for moment in [("backward", (), {"w": 1.5}), ("optimizer step", ("w",), {"w": 2.5})]:
        ...     leftovers.enter(Moment(*moment))
        >>> leftovers.in_a_row["w"], leftovers.steps["w"]
        (1, 2)

    """

    def __init__(self) -> None:
        self.in_a_row: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self.emptied: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self._unused: set[str] = set()  # cleared between two backwards, before a step used it
        self._between: set[str] = set()  # cleared after a backward, until another one comes
        self._went_back = False  # since the latest step
        self._cleared: set[str] = set()  # since the latest backward
        self._used: dict[str, float] = {}  # by the latest step, with no backward since
        self._kept: set[str] = set()  # was still there, unchanged, when the first backward since began

    def enter(self, moment: Moment) -> None:
        """Go on with another moment."""
        kind, parameters, norms, _ = moment
        if kind == "optimizer step":
            emptied = self._cleared & set(parameters) and not any(norms.get(name, 0) for name in parameters)
            for name in parameters:
                if name not in self._used:  # else an optimiser steps within another's step
                    self.steps[name] += 1
                    self.emptied[name] += bool(emptied)
                    self.lost[name] += name in self._unused and not norms.get(name, 0)
                    kept = name in self._kept and norms.get(name, 0) > 0
                    self.in_a_row[name] = self.in_a_row[name] + 1 if kept else 0
            self._kept -= set(parameters)
            self._unused -= set(parameters)
            self._between, self._went_back = set(), False
            self._used |= {name: norms.get(name, 0) for name in parameters}
        elif kind == "backward":
            self._kept = {name for name in self._kept if norms.get(name, 0) > 0}
            self._kept |= {name for name, norm in self._used.items() if 0 < norm == norms.get(name)}
            self._unused |= self._between
            self._used, self._cleared, self._between, self._went_back = {}, set(), set(), True
        elif kind == "zero_grad":
            self._cleared |= set(parameters)
            self._between |= {name for name in parameters if self._went_back and not self._used.get(name)}
        else:  # clipped, after Lightning had told that the step begins; or cleared
            self._used = {name: norms.get(name, 0) for name in self._used}


def never_cleared(leftovers: Leftovers, run: Run) -> Iterator[Outcome]:
    """Gradients that survive the step which used them."""
    stale = [name for name, count in leftovers.in_a_row.items() if count >= IN_A_ROW]
    if stale:
        yield Outcome(
            Status.FAILED,
            "missing_zero_grad",
            f"gradients are not cleared: {listed(stale)} had those of the step before when the "
            f"next backward began, at {IN_A_ROW} steps in a row",
            "clear the gradients in optimizer_zero_grad, or leave it to Lightning"
            if run.module.automatic_optimization
            else "call zero_grad() of each optimiser that steps, before backward or after its step",
            {"parameters": len(stale)},
        )


def cleared_too_soon(leftovers: Leftovers) -> Iterator[Outcome]:
    """Gradients that are cleared between backward and the step."""
    emptied = [n for n, count in leftovers.emptied.items() if count == leftovers.steps[n] >= IN_A_ROW]
    if emptied:
        yield Outcome(
            Status.FAILED,
            "cleared_before_step",
            f"gradients are cleared before they are used: all {leftovers.steps[emptied[0]]} steps of the optimiser "
            f"of {listed(emptied)} found none",
            "call zero_grad() before backward or after the step, not between the two",
            {"parameters": len(emptied)},
        )
        return
    lost = [name for name, count in leftovers.lost.items() if count == leftovers.steps[name] >= OFTEN]
    if lost:
        yield Outcome(
            Status.WARNING,
            "cleared_before_step",
            f"gradients of {listed(lost)} are cleared before they are used, between two backwards: all "
            f"{leftovers.steps[lost[0]]} steps found none",
            "call zero_grad() once, before the first backward",
            {"parameters": len(lost)},
        )
