"""What a human reaches, beside what the model does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def scores(human: Any) -> dict[str, float]:
    """Scores of a human as they are to be given: numbers by the names of metrics.

    Raises:
        TypeError: If they are anything else.
        ValueError: If one is not finite.

    Example:
        >>> scores({"val_acc": 1})
        {'val_acc': 1.0}

    """
    for name, score in human.items() if isinstance(human, dict) else [("", None)]:
        if not isinstance(name, str) or isinstance(score, bool) or not isinstance(score, int | float):
            msg = f"numbers by the names of metrics expected, such as {{'val_acc': 0.98}}, got {human!r}"
            raise TypeError(msg)
        if not math.isfinite(score):
            msg = f"a finite score of a human expected for {name}, got {score}"
            raise ValueError(msg)
    return {name: float(score) for name, score in human.items()}


def beside(human: Mapping[str, float], logged: Mapping[str, Any]) -> Iterator[tuple[str, Outcome]]:
    """What there is to say of each score, with its metric.

    Args:
        human: Its scores.
        logged: All metrics of the run.

    Example:
        >>> [outcome.evidence for _, outcome in beside({"val_acc": 0.98}, {"val_acc": 0.75})]
        [{'model': 0.75, 'human': 0.98}]

    """
    for name, score in human.items():
        if name in logged:
            reached = float(logged[name])
            said = f"{name} is {reached:.4g}, and {score:.4g} of a human"
            yield name, Outcome(Status.PASSED, "human", said, evidence={"model": reached, "human": score})
        else:
            said = f"nothing logs {name}, of which a human's score was given"
            yield name, Outcome(Status.SKIPPED, "human", said, evidence={"human": score})
