"""Gradients that vanish on their way back at the beginning, while the loss stands still: a plateau, as of sigmoids.

A network may come off it, and its gradients are as they should be by then; the steps are lost all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_recipe.callbacks._loss_course import SAME
from lightning_recipe.callbacks._signal import LONG, NOTHING, vanishing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning_recipe.callbacks._loss_course import Course
    from lightning_recipe.callbacks._signal import Depth
    from lightning_recipe.finding import Outcome

LOOKS = 3
"""In a row at which gradients vanish, at least."""
HALFWAY = 0.1
"""The gradient of the first layer in that of the middle one, below which they vanish from layer to layer."""


class Plateau:
    """Goes from look to look.

    Example:
        >>> from lightning_recipe.callbacks._loss_course import Course
        >>> from lightning_recipe.callbacks._signal import Depth
        >>> plateau, course = Plateau(), Course([(1, 1.8)])
        >>> layers = [Depth(f"net.{i}", 0.5, 10.0**i) for i in range(-5, 0)]
        >>> for step in (25, 50, 75, 100, 150):
        ...     course.enter(step, 1.79)
        ...     print(step, plateau.look(layers, course, 1000.0) is not None)
        25 False
        50 False
        75 False
        100 True
        150 True

    """

    def __init__(self) -> None:
        self._times = 0
        self._told: Outcome | None = None

    def look(self, layers: Sequence[Depth], course: Course, factor: float) -> Outcome | None:
        """What is told, once the loss stands still after many steps, and from then on until it has fallen.

        Args:
            layers: At this look.
            course: The loss.
            factor: Between the gradients of the first layer and the last.

        """
        outcome = vanishing(layers, course, factor)
        steady = outcome is not None and layers[0].gradient < HALFWAY * layers[len(layers) // 2].gradient
        self._times = self._times + 1 if steady else 0  # not by the last layer alone, which may be drawn near zero
        if self._times >= LOOKS and stands_still(course):
            self._told = outcome
        if self._told is not None and course.fell_to(NOTHING):
            self._told = None
        return self._told


def stands_still(course: Course) -> bool:
    """Whether the loss is the same at the latest looks, after many steps; the first ones may find the constant.

    Example:
        >>> from lightning_recipe.callbacks._loss_course import Course
        >>> stands_still(Course([(1, 1.5), (50, 1.4), (75, 1.39), (100, 1.39)]))
        True
        >>> stands_still(Course([(1, 1.5), (50, 1.45), (75, 1.4), (100, 1.39)]))
        False

    """
    latest = [loss for _, loss in course.points[-LOOKS:]]
    late = course.points[-1][0] - course.points[0][0] >= LONG - 1
    return late and max(latest) - min(latest) <= SAME * abs(latest[-1])
