"""What validation logs, with its standard error: how much it would be another on other examples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
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


class Spread(NamedTuple):
    """What tells how far the batches of a validation lie apart: sums over them, which add up over ranks.

    Attributes:
        batches: How many there are.
        weights: Of what they weigh.
        logged: Of what was logged, times what its batch weighs.
        weights_squared: Of the squares of the first.
        products: Of the products of both.
        logged_squared: Of the squares of the second.

    """

    batches: float
    weights: float
    logged: float
    weights_squared: float
    products: float
    logged_squared: float

    @classmethod
    def of(cls, sums: Sequence[tuple[Tensor, Tensor]]) -> Spread | None:
        """From what was logged, times what the batch weighs, and from these weights, added up after each batch.

        The last batch is not among them. None where there are few.
        """
        values, weights = [0.0, *(float(v) for v, _ in sums)], [0.0, *(float(w) for _, w in sums)]
        w, v = (np.diff(of) for of in (weights, values))
        if len(w) < FEWEST - 1 or w.min() <= 0:
            return None
        return cls(len(w), *(float(of.sum()) for of in (w, v, w * w, w * v, v * v)))

    @property
    def error(self) -> float:
        """The standard error of the weighted mean.

        Example:
            >>> import torch
            >>> steps = torch.arange(1, 101)
            >>> sums = [(torch.tensor(0.5) * n + (n % 2), n) for n in steps]  # 1.5, -0.5, 1.5, ...
            >>> round(Spread.of(sums).error, 3), Spread.of(sums[:4])
            (0.101, None)

        """
        mean = self.logged / self.weights
        apart = self.logged_squared - 2 * mean * self.products + mean**2 * self.weights_squared
        return math.sqrt(max(apart, 0.0) * self.batches / (self.batches - 1)) / self.weights


class Logged(NamedTuple):
    """A number that one validation came to on a rank, and how far its batches lie apart."""

    step: int
    value: float
    spread: Spread | None


class ErrorBars:
    """Takes note of the sums that Lightning keeps of what a validation logs, batch by batch.

    Two estimates, of which the smaller is taken: over the batches, from how far each is from the mean of all, which is
    what resampling them would give (B. Efron, 1979); and of an accuracy that of a binomial share, which is what
    resampling the examples would give.

    Attributes:
        logged: By name, in the order of the validations looked at.

    """

    def __init__(self) -> None:
        self.logged: dict[str, list[Logged]] = {}
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

    def close(self, run: Run) -> None:
        """The validation is over: what it has logged is there."""
        step, self._step = self._step, None
        if step is None:
            return
        for name, logged in run.trainer.callback_metrics.items():
            value, series = float(logged), self._sums.get(name)
            of_validation = name in self._names or "".join(words(name)[:1]).startswith("val")
            if of_validation and math.isfinite(value):
                spread = None if series is None else Spread.of(series)
                self.logged.setdefault(name, []).append(Logged(step, value, spread))
        self._sums = {}


def of_all(
    own: dict[str, list[Logged]], ranks: Sequence[dict[str, list[Logged]]], examples: int
) -> dict[str, list[Point]]:
    """The numbers of a rank with their errors, by name, where these are known.

    Args:
        own: What was logged on this rank.
        ranks: What was logged on each; what is the same on all is of the examples of all, such as by ``sync_dist``.
        examples: Of validation, of all ranks.

    Example:
        >>> one, same, other = ({"val_acc": [Logged(9, value, None)]} for value in (0.5, 0.5, 0.6))
        >>> [round(of_all(one, ranks, 100)["val_acc"][0].error, 3) for ranks in ([one, same], [one, other])]
        [0.05, 0.071]

    """
    points: dict[str, list[Point]] = {}
    for name, series in own.items():
        for i, (step, value, spread) in enumerate(series):
            others = [of[name][i] if len(of.get(name, ())) > i else None for of in ranks]
            same = all(other is not None and other[:2] == (step, value) for other in others)
            spreads = [other.spread for other in others if other is not None] if same else [spread]
            errors = [Spread(*map(sum, zip(*known, strict=True))).error] if (known := [*filter(None, spreads)]) else []
            count = examples if same else examples // len(ranks)
            if is_a_share(name) and count and 0 <= value <= 1:
                errors.append(math.sqrt(value * (1 - value) / count))
            if errors:
                points.setdefault(name, []).append(Point(step, value, min(errors)))
    return points
