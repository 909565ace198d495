"""One batch whose predictions are looked at again and again, and what the looks say together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from lightning_recipe.losses.reading import Reading

KEPT = 64
"""Looks kept; when there are more, every second one is forgotten."""


@dataclass(frozen=True)
class Look:
    """One look at the predictions.

    Attributes:
        step: Batches that had been trained on.
        numbers: What was measured, under short names.
        picture: What pictures need of it.

    """

    step: int
    numbers: dict[str, float]
    picture: Any


@dataclass
class FixedBatch:
    """A batch, how to have its predictions again, and the looks at them so far.

    Attributes:
        how: How to read the predictions.
        again: Gives the network's output tensors by path, as it is now.
        name: What is predicted, where a step compares several outputs with targets.
        inputs: What entered the network: the first tensor.
        looks: At most `KEPT`, evenly spaced after the first few, and the latest.
        stride: One in how many looks is kept.
        begun: Step of the first look.
        latest: Step of the last look.
        first: The predictions at the first look.
        last: Those at the last look.

    """

    how: Reading
    again: Callable[[Trainer, LightningModule], dict[str, Tensor]]
    inputs: Tensor | None = None
    name: str = ""
    looks: list[Look] = field(default_factory=list)
    stride: int = 1
    begun: int = 0
    latest: int = -1
    first: Tensor | None = None
    last: Tensor | None = None
    count: int = 0

    def look(self, step: int, values: Tensor, picture: Any, **more: float) -> dict[str, float]:
        """Measure predictions against those of the look before.

        Args:
            step: Batches that have been trained on.
            values: What :meth:`Reading.read` gives.
            picture: To be kept with the numbers.
            more: Numbers to be kept with them.

        Returns:
            ``moved`` since the look before, ``jitter`` (the same per step), ``flip_rate``, ``error``, and what
            :meth:`Reading.score` gives. NaN for what there is not.

        """
        how, before = self.how, self.last
        numbers = {"error": how.error(values), **how.score(values), **more}
        if before is None:
            self.first, self.begun = values, step
        else:
            moved = how.distance(before, values)
            jitter = moved / max(1, step - self.latest)
            numbers |= {"moved": moved, "jitter": jitter, "flip_rate": how.flips(before, values)}
        if (self.count - 1) % self.stride and self.looks:
            self.looks.pop()  # was kept for being the latest
        self.looks.append(Look(step, numbers, picture))
        if len(self.looks) > KEPT:
            self.looks, self.stride = self.looks[::2], 2 * self.stride
        self.count, self.latest, self.last = self.count + 1, step, values
        return numbers

    def measure(self) -> dict[str, float]:
        """What the looks say together, with `late` for the second half of the run.

        Returns:
            ``steps`` from the first look to the last; ``moved`` from the first to the last, and ``late_moved`` from
            one to the next, see :meth:`Reading.distance`; ``late_flips``, the share of answers changed from one to
            the next; ``late_looks``, their number; ``spread_start`` and ``spread`` between examples;
            ``finite_start`` and ``finite``, shares of the predictions; ``error``, late, see :meth:`Reading.error`;
            ``loss_start`` and ``loss_late``, the training loss at first and late; ``rate_early`` and ``rate``, the
            learning rate in the first half and at the end. NaN for what there is not.

        Raises:
            ValueError: If there was no look.

        """
        if self.first is None or self.last is None:
            msg = "no look at the predictions"
            raise ValueError(msg)
        how, steps = self.how, self.latest - self.begun
        late = [look for look in self.looks if look.step - self.begun > steps / 2]
        early = [look for look in self.looks if look.step - self.begun <= steps / 2]
        return {
            "steps": steps,
            "moved": how.distance(self.first, self.last),
            "late_looks": len(late),
            "late_moved": _mean(late, "moved"),
            "late_flips": _mean(late, "flip_rate"),
            "spread_start": how.spread(self.first),
            "spread": how.spread(self.last),
            "finite_start": float(self.first.isfinite().float().mean()),
            "finite": float(self.last.isfinite().float().mean()),
            "error": _mean(late, "error"),
            "loss_start": next(iter(_known(self.looks, "loss")), math.nan),
            "loss_late": _mean(late, "loss"),
            "rate_early": _mean(early, "rate"),
            "rate": _mean(self.looks[-1:], "rate"),
        }


def _known(looks: list[Look], name: str) -> list[float]:
    return [value for look in looks if not math.isnan(value := look.numbers.get(name, math.nan))]


def _mean(looks: list[Look], name: str) -> float:
    values = _known(looks, name)
    return sum(values) / len(values) if values else math.nan
