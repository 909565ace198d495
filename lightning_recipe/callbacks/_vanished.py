"""Embeddings that weight decay takes back to 0, with all that tells one row from another."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lightning_recipe.callbacks._update_ratios import AT_LEAST, HALF
from lightning_recipe.finding import Outcome, Status, listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lightning_recipe.callbacks._loss_course import Course

LEFT = 0.01
"""Of its first norm, below which nothing is left of a table. Rows that no batch asks for decay as well, so that it may
fall to a tenth where a hundredth of a vocabulary occurs."""
LARGER = 0.5
"""Share of decay in what moves a table, above which it is larger than the gradient."""


class Table(NamedTuple):
    """An embedding at one look.

    Attributes:
        norm: Of all rows.
        decay: Share of weight decay in what moves it, 0 to 1.

    """

    norm: float
    decay: float


def vanished(looks: Sequence[tuple[int, Mapping[str, Table]]], course: Course) -> Outcome | None:
    """A `warning` for tables of which nothing is left, while decay is larger than the gradient.

    Args:
        looks: Steps, and the tables at each by name.
        course: Of the loss: where it fell to half of the first, the rest was enough.

    Example:
        >>> from lightning_recipe.callbacks._loss_course import Course
        >>> course = Course([(1, 1.0), (100, 0.9)])
        >>> vanished([(1, {"users": Table(10.0, 0.6)}), (100, {"users": Table(0.01, 0.55)})], course).code
        'weight_decay_outweighs'
        >>> vanished([(1, {"users": Table(10.0, 0.6)}), (100, {"users": Table(8.0, 0.55)})], course)

    """
    (_, first), (step, last) = looks[0], looks[-1]
    gone = {
        name: table
        for name, table in last.items()
        if name in first and table.norm < LEFT * first[name].norm and table.decay > LARGER
    }
    if step < AT_LEAST or not gone or not course.points or course.is_below(HALF):
        return None
    name = min(gone, key=lambda name: gone[name].norm / first[name].norm)
    return Outcome(
        Status.WARNING,
        "weight_decay_outweighs",
        f"nothing is left of {listed(gone)}: by weight decay, {gone[name].decay:.0%} of what moves it, the norm of "
        f"{name} fell from {first[name].norm:.3g} to {gone[name].norm:.1g} (loss {course})",
        "lower weight_decay a hundredfold for embeddings, or leave them out of it by a parameter group of their own",
        {"share": gone[name].decay, "norm_first": first[name].norm, "norm": gone[name].norm, **course.evidence},
    )
