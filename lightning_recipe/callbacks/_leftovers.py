"""Which gradients outlive the optimiser's step that used them, and become part of the next one's."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.step import Step

Moment = tuple[str, tuple[str, ...], dict[str, float]]
"""What begins, for which parameters, and the norms of all gradients that are there."""


class Leftovers:
    """Follows the gradients of each parameter over steps in a row, by their norms.

    Attributes:
        in_a_row: How many steps in a row, up to the last, used what the step before them had used already.
        steps: How many steps each parameter took, those without a backward in between counted once.
        emptied: How many of them found no gradient in any parameter of their optimiser, some of which had one until
            they were cleared after backward.

    Example:
        >>> leftovers = Leftovers()
        >>> for moment in [("backward", (), {}), ("optimizer step", ("w",), {"w": 1.5})]:
        ...     leftovers.enter(*moment)
        >>> for moment in [("backward", (), {"w": 1.5}), ("optimizer step", ("w",), {"w": 2.5})]:
        ...     leftovers.enter(*moment)
        >>> leftovers.in_a_row["w"], leftovers.steps["w"]
        (1, 2)

    """

    def __init__(self) -> None:
        self.in_a_row: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self.emptied: Counter[str] = Counter()
        self._cleared: set[str] = set()  # since the latest backward
        self._used: dict[str, float] = {}  # by the latest step, with no backward since
        self._kept: set[str] = set()  # was still there, unchanged, when the first backward since began

    def look(self, step: Step) -> None:
        """Go on with another step, the next one."""
        for moment in moments(step):
            self.enter(*moment)

    def enter(self, kind: str, parameters: tuple[str, ...], norms: dict[str, float]) -> None:
        """Go on with another moment."""
        if kind == "optimizer step":
            emptied = self._cleared & set(parameters) and not any(norms.get(name, 0) for name in parameters)
            for name in parameters:
                if name not in self._used:  # else an optimiser steps within another's step
                    self.steps[name] += 1
                    self.emptied[name] += bool(emptied)
                    kept = name in self._kept and norms.get(name, 0) > 0
                    self.in_a_row[name] = self.in_a_row[name] + 1 if kept else 0
            self._kept -= set(parameters)
            self._used |= {name: norms.get(name, 0) for name in parameters}
        elif kind == "backward":
            self._kept = {name for name in self._kept if norms.get(name, 0) > 0}
            self._kept |= {name for name, norm in self._used.items() if 0 < norm == norms.get(name)}
            self._used, self._cleared = {}, set()
        elif kind == "zero_grad":
            self._cleared |= set(parameters)
        else:  # clipped, after Lightning had told that the step begins; or cleared
            self._used = {name: norms.get(name, 0) for name in self._used}


def moments(step: Step) -> Iterator[Moment]:
    """Each backward, optimiser's step and clearing, and the end."""
    held = iter(step.held)
    for event in step.events:
        if event.kind in {"backward", "optimizer step"}:
            yield event.kind, event.parameters, next(held)
        elif event.kind == "zero_grad":
            yield event.kind, event.parameters, {}
    yield "end", (), next(held)
