"""What validation logs, with its standard error: how much it would be another on other examples."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from lightning_recipe.callbacks._metric_names import is_a_share, words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning_recipe.run import Run

BATCHES = 256
"""Of a validation that are looked at."""
FEWEST = 8
"""Batches from which on the spread of a number over them tells its standard error."""
OF_STEPS = "validation_step."
"""With which Lightning names what a validation step logs."""


class Point(NamedTuple):
    """A number that one validation came to.

    Attributes:
        step: Batches trained on before it.
        value: The number.
        error: Its standard error.

    """

    step: int
    value: float
    error: float


class ErrorBars:
    """Takes note of the sums that Lightning keeps of what a validation logs, batch by batch.

    Two estimates, of which the smaller is taken: over the batches, from how far each is from the mean of all, which is
    what resampling them would give (B. Efron, 1979); and of an accuracy that of a binomial share, which is what
    resampling the examples would give.

    Attributes:
        points: By name, in the order of the validations looked at.

    """

    def __init__(self) -> None:
        self.points: dict[str, list[Point]] = {}
        self._step: int | None = None  # of the validation that is looked at
        self._sums: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._names: set[str] = set()  # of what validation steps log
        self._batches = 0

    def begin(self, run: Run) -> None:
        """A validation is looked at, from its first batch on."""
        self._step, self._sums, self._batches = run.batches_that_stepped, {}, 0

    def note(self, run: Run) -> bool:
        """See what the batches before have added up to: Lightning makes new tensors of its sums, and those are kept.

        Returns:
            Whether there is more to see.

        """
        if self._step != run.batches_that_stepped:
            return False
        self._batches += 1
        results: Any = run.trainer._results or {}  # noqa: SLF001 - they are nowhere else, batch by batch
        for key, sums in results.items() if self._batches > 1 else ():
            if not key.startswith(OF_STEPS):
                continue
            self._names.add(sums.meta.name)
            if sums.meta.is_mean_reduction and isinstance(sums.value, Tensor):
                self._sums.setdefault(sums.meta.name, []).append((sums.value, sums.cumulated_batch_size))
        return self._batches < BATCHES

    def close(self, run: Run, examples: int) -> None:
        """The validation is over: what it has logged is there."""
        step, self._step = self._step, None
        if step is None:
            return
        for name, logged in run.trainer.callback_metrics.items():
            value, series = float(logged), self._sums.get(name)
            of_validation = name in self._names or "".join(words(name)[:1]).startswith("val")
            if not (of_validation and math.isfinite(value)):
                continue
            errors = [] if series is None else [of_batches(series)]
            if is_a_share(name) and examples and 0 <= value <= 1:
                errors.append(math.sqrt(value * (1 - value) / examples))
            if known := [error for error in errors if math.isfinite(error)]:
                self.points.setdefault(name, []).append(Point(step, value, min(known)))
        self._sums = {}


def of_batches(sums: Sequence[tuple[Tensor, Tensor]]) -> float:
    """The standard error of a weighted mean over batches; NaN if there are few.

    Args:
        sums: Of what was logged, times what the batch weighs, and of these weights, after each batch.

    Example:
        >>> import torch
        >>> steps = torch.arange(1, 101)
        >>> sums = [(torch.tensor(0.5) * n + (n % 2), n) for n in steps]  # 1.5, -0.5, 1.5, ...
        >>> round(of_batches(sums), 3), of_batches(sums[:4])
        (0.101, nan)

    """
    values, weights = [0.0, *(float(v) for v, _ in sums)], [0.0, *(float(w) for _, w in sums)]
    each, added = ([b - a for a, b in pairwise(of)] for of in (weights, values))
    if len(each) < FEWEST - 1 or min(each) <= 0:  # the last batch is not among them
        return math.nan
    mean, batches = sum(added) / sum(each), len(each)
    apart = sum((v - mean * w) ** 2 for v, w in zip(added, each, strict=True))
    return math.sqrt(apart * batches / (batches - 1)) / sum(each)
