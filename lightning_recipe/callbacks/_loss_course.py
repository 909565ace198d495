"""How the training loss went, as far as looks saw it: whether it fell, stands still, or rose."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

FIRST = 16
"""Batches whose loss is that of the beginning."""
PATIENCE = 100
"""Batches after which a loss that did not move stands still."""
SAME = 0.02
"""Difference to the first loss, in those, below which it is the same: the loss of a few batches varies by as much."""
FALLS, BOTH = 0.04, 0.1
"""Of the loss, by which it falls if it goes on falling: within some batches, and within twice as many."""
LATEST = 3
"""Looks whose mean is compared with that."""


@dataclass
class Course:
    """The training loss at each look, the mean of up to 25 batches before it.

    Example:
        >>> course = Course()
        >>> for step, loss in [(1, 2.3), (50, 2.31), (100, 2.29)]:
        ...     course.enter(step, loss)
        >>> course.stands_still, course.is_below(0.9), str(course)
        (True, False, '2.3, then 2.29')

    """

    points: list[tuple[int, float]] = field(default_factory=list)

    def look(self, run: Run, step: Step) -> None:
        """Go on with a look; where the step returns no loss, with what backward was called on, if that is recorded."""
        known = step.loss if step.loss is not None and step.loss.numel() == 1 else None
        self.enter(run.step, float(known) if math.isnan(run.loss) and known is not None else run.loss)

    def enter(self, step: int, loss: float) -> None:
        """Go on; a loss that nobody knows is left out."""
        if math.isfinite(loss):
            self.points.append((step, loss))

    @property
    def first(self) -> float:
        """The loss of the first look; NaN if none is known."""
        return self.points[0][1] if self.points else math.nan

    @property
    def last(self) -> float:
        """The loss of the latest look; NaN if none is known."""
        return self.points[-1][1] if self.points else math.nan

    @property
    def early(self) -> float:
        """The mean loss of the first batches; NaN if none is known."""
        points = [point for point in self.points if point[0] <= FIRST] or self.points[:1]
        since = [0, *(step for step, _ in points)]
        weights = [step - before for (step, _), before in zip(points, since, strict=False)]
        return fmean((loss for _, loss in points), weights) if points else math.nan

    @property
    def stands_still(self) -> bool:
        """Whether it is where it was, after enough batches."""
        if not self.points or self.points[-1][0] - self.points[0][0] < PATIENCE - 1:
            return False
        return abs(fmean(loss for _, loss in self.points[-LATEST:]) - self.early) <= SAME * abs(self.early)

    def fell_to(self, share: float) -> bool:
        """Whether it is below a share of the mean of the first batches, of which one alone may be far off."""
        return self.last < self.early - (1 - share) * abs(self.early)

    def is_below(self, share: float) -> bool:
        """Whether it has fallen below a share of the first loss; false if none is known."""
        return self.last < self.first - (1 - share) * abs(self.first)

    def was_above(self, times: float) -> bool:
        """Whether it ever was above that many times the first loss."""
        return any(loss > self.first + (times - 1) * abs(self.first) for _, loss in self.points)

    def falls(self, since: int) -> bool:
        """Whether it goes on falling: in the latest so many batches, in as many before those, and in both together.

        The first batches are left out: a network that was changed in some way, as to other precision, is soon what it
        was.

        Example:
            >>> Course([(1, 5.0), (50, 4.0), (100, 3.0), (150, 2.0)]).falls(50)
            True
            >>> Course([(1, 5.0), (50, 2.0), (100, 2.0), (150, 2.0)]).falls(50)
            False

        """
        points = [point for point in self.points if point[0] >= FIRST]
        if not since or not points or points[-1][0] - points[0][0] < 2 * since - 1:
            return False
        now = points[-1][0]
        then, before = (min(points, key=lambda point: abs(point[0] - now + n * since))[1] for n in (1, 2))
        margin = FALLS * abs(before)
        return self.last < then - margin and then < before - margin and self.last < before - BOTH * abs(before)

    @property
    def evidence(self) -> dict[str, float]:
        """Both numbers."""
        return {"loss_first": self.first, "loss": self.last}

    def __str__(self) -> str:
        return f"{self.first:.3g}, then {self.last:.3g}"
