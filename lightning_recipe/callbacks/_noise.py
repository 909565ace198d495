"""Whether validation draws random numbers: its step run twice on a copy, with other streams."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from lightning_recipe.run import Run
    from lightning_recipe.trial.rehearsal import Rehearsal

MATTERS = 0.01
"""Relative difference of a logged number by other draws that hides what an epoch gains."""
ROUNDING = 1e-5
"""Of a number that is computed twice from the same draws."""


class Noise(NamedTuple):
    """A number that other draws change, on the same batch, by the same weights.

    Attributes:
        name: Its key in the log, or "the loss".
        one: With one seed.
        other: With another.

    """

    name: str
    one: float
    other: float

    @property
    def share(self) -> float:
        """The difference over the larger of both.

        Example:
            >>> Noise("val_loss", 1.0, 0.9).share
            0.1

        """
        return round(abs(self.one - self.other) / max(abs(self.one), abs(self.other), 1e-12), 6)


def noise(run: Run, batch: Any) -> Noise | None:
    """The number of a validation step that moves most by other draws; None if none does, or that can't be tried."""
    try:
        with rehearsal(run) as again:
            again.module.requires_grad_(requires_grad=False)  # validation takes its results to numpy
            one, same, other = (_numbers(again, batch, seed) for seed in (0, 0, 1))
    except CannotRehearseError:
        return None
    moved = [Noise(name, one[name], other[name]) for name in one.keys() & other.keys()]
    steady = [n for n in moved if math.isclose(n.one, same.get(n.name, math.nan), rel_tol=ROUNDING, abs_tol=1e-8)]
    most = max(sorted(steady), key=lambda n: n.share, default=None)
    return most if most is not None and most.share > MATTERS else None


def _numbers(again: Rehearsal, batch: Any, seed: int) -> dict[str, float]:
    loss = again.step(batch, method="validation_step", seed=seed).loss
    logged = [(one.name, one.value) for one in again.logged]
    values = {name: value for name, value in [("the loss", loss), *logged] if isinstance(value, Tensor | float)}
    numbers = {name: torch.as_tensor(value).detach() for name, value in values.items()}
    return {name: float(value) for name, value in numbers.items() if value.numel() == 1 and value.isfinite().all()}
