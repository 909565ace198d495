"""How far the short fits on one batch came towards the lowest loss that is possible."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lightning_recipe.callbacks._overfit_terms import has_only_known_terms, weights
from lightning_recipe.losses.floor import Floor, floor

if TYPE_CHECKING:
    from lightning_recipe.trial.short_fit import Fit

NOISE = 1e-4
"""Share of the loss by which two steps with equal weights may differ by rounding."""
STUCK = 0.02
"""Still improving: each later quarter of a fit is at least 2 % nearer than the one before. At less, a fit of 600 steps
would have to be ten times as long to get rid of two thirds of what is left."""
NEARLY = 0.25
"""Share of the way that may be left where the rest is a matter of more steps."""
HALF = 0.5
"""Share of the way that may be left to a fit that is still falling for more steps to be worth while: it gets them, and
where Adam gets there, the user's optimiser is not accused."""
NEAR = 0.1
"""Share of the way that may be left, in all of the last quarter, to a fit that only hovers: a constant rate of Adam
keeps an absolute error, whose gradient does not fall with it, at 0.02 to 0.08 of the first."""
UNDER_WAY = 2 / 3
"""Share of the way that may be left to a fit that is still falling when its work is over: what does not look at its
inputs can't know more than a constant."""
CONSTANT = 0.9
"""Share of the way that is left to a fit which knows hardly more than a constant."""
FEW_STEPS = 100
"""Steps that tell too little when no more were allowed: 20 go by until the learning rate is at its peak, and
healthy small nets need 50 to 150 to memorise 8 examples at 1e-3."""
DRAWS = 8
"""Probed steps over which losses with random numbers in them are averaged."""
_QUARTERS = 8  # probed steps from which on a fit is looked at by quarters


@dataclass
class Trial:
    """The fits of one batch: by the user's optimiser first, then by Adam.

    Example:
        >>> from lightning_recipe.trial.short_fit import Fit
        >>> by_hand = Fit("SGD (lr 0.1)", losses=[2.0, 0.5, 0.02], calls={0: [], 1: [], 2: []})
        >>> Trial(0.02).distances(by_hand)
        [1.0, 0.25, 0.01]

    Attributes:
        tolerance: Share of the way to the floor that may be left.
        fits: In their order.
        warms_up: Whether the learning rate of the run begins far below its peak.
        examples: How many there are to memorise; None if that isn't known.
        asked: The floor of the step's whole loss, where that is written by hand and has been asked.
        unknown: Why that has been asked in vain.
        slower: A fit by the user's optimiser at a smaller rate, if its own was too high.
        exempt: Why it need not be able to memorise a batch: the code of a text, if any; asked of those that are stuck.
        alone: Whether there was no work left for Adam.
        held: Whether each step found the state that the first did.

    """

    tolerance: float
    fits: list[Fit] = field(default_factory=list)
    warms_up: bool = False
    examples: int | None = None
    asked: Floor | None = None
    unknown: str = ""
    slower: Fit | None = None
    exempt: str = ""
    alone: bool = False
    held: bool = False
    _floors: list[Floor] | None = None

    def floors(self, fit: Fit) -> list[Floor]:
        """The floor of each loss function in the step; empty if one isn't known, or if there is none."""
        if self.asked is not None:
            return [self.asked]
        if self._floors is None:
            first = fit.first
            calls = [] if first is None else first.loss_calls
            found = [floor(call, first.inputs) if first and call.times == 1 else None for call in calls]
            self._floors = [f for f in found if f is not None] if all(f is not None for f in found) else []
        return self._floors

    @property
    def size(self) -> int | None:
        """How many examples there are to memorise, also if only the step knows."""
        first = self.fits[0].first
        return self.examples or (first.batch_size if first is not None else None)

    def work_left(self, allowed: float) -> float:
        """Nominal seconds that are left of those allowed to all fits."""
        return max(0.0, allowed - sum(fit.work * len(fit.losses) for fit in self.fits))

    def distances(self, fit: Fit) -> list[float]:
        """At each probed step what is left of the way to the floor: 1 for knowing the targets only, 0 at the floor.

        Of several losses, that of the one that has most left. Where the floor isn't known, the loss itself, in units
        of the first.
        """
        floors = self.floors(fit)
        if not floors:
            start = fit.losses[0] if fit.losses and fit.losses[0] > 0 else math.nan
            return [fit.losses[step] / start for step in fit.calls]
        left = [max(one) for one in self._parts(fit)]
        return _averaged(left) if self.is_noisy(fit) else left

    def _parts(self, fit: Fit) -> list[list[float]]:
        """What is left of each loss, by probed step."""
        floors, calls = self.floors(fit), self._values(fit)
        scales = self._scales(next(iter(calls.values())))
        return [
            [(v - f.value) / scale for v, f, scale in zip(values, floors, scales, strict=True)]
            if len(values) == len(floors) and all(map(math.isfinite, values))
            else [math.inf] * len(floors)
            for values in calls.values()
        ]

    def held_back_by(self, fit: Fit) -> tuple[int, list[float]]:
        """Which of several losses has most left at the end, and its own distances."""
        parts = self._parts(fit)
        most = max(range(len(parts[-1])), key=parts[-1].__getitem__)
        return most, [one[most] for one in parts]

    def lowest(self, fit: Fit) -> float | None:
        """The floor in the units of the step's own loss, if that is known."""
        floors = self.floors(fit)
        if self.asked is not None:
            return self.asked.value
        if floors and not any(f.value for f in floors) and has_only_known_terms(fit):
            return 0.0
        found = weights(fit)
        return sum(w * f.value for w, f in zip(found, floors, strict=True)) if found and floors else None

    def _scales(self, starts: list[float]) -> list[float]:
        """The way of each loss, from knowing the targets only to the floor."""
        if self.asked is not None:
            way, whole = self.asked.ignorant - self.asked.value, starts[0] - self.asked.value
            return [way if way > 0.01 * whole else whole]
        return [_scale(f, start) for f, start in zip(self._floors or [], starts, strict=True)]

    def _values(self, fit: Fit) -> dict[int, list[float]]:
        """What is to reach the floors, by probed step: the loss functions, or the loss itself."""
        return {step: [fit.losses[step]] for step in fit.calls} if self.asked is not None else fit.calls

    def is_noisy(self, fit: Fit) -> bool:
        """Whether two steps with equal weights differed by more than what may be left of the way."""
        floors, values = self.floors(fit), next(iter(self._values(fit).values()), [])
        noise = _rounding(fit)
        if floors and len(values) == len(floors):
            noise = max(noise, self.tolerance * min(self._scales(values)))
        return fit.noise > noise

    def has_only_known_terms(self, fit: Fit) -> bool:
        """Whether the loss is asked for as a whole, or a sum of the loss functions seen."""
        return self.asked is not None or has_only_known_terms(fit)

    def left(self, fit: Fit) -> float:
        """What is left of the way at the end."""
        return self.distances(fit)[-1]

    def is_reached(self, fit: Fit) -> bool:
        """Whether the last two probed steps were at the floor."""
        left, noisy = self.distances(fit), self.is_noisy(fit)
        if (noisy and len(left) < DRAWS) or (self.asked is not None and left and left[0] <= self.tolerance):
            return False  # by chance, or nothing was left to memorise
        last = left[-2:]
        enough = HALF if noisy else self.tolerance  # new draws are never memorised
        at_floor = all(distance <= enough for distance in last)
        return at_floor and (bool(self.floors(fit)) or min(last, default=-1) >= 0)

    def is_falling(self, fit: Fit) -> bool:
        """Whether the fit was still getting nearer when it ended."""
        left = self.distances(fit)
        if not all(map(math.isfinite, left)):
            return False
        if len(left) < _QUARTERS:
            return left[-1] < left[0]
        quarter = len(left) // 4
        second, third, fourth = (sum(left[-(i + 1) * quarter : len(left) - i * quarter]) / quarter for i in (2, 1, 0))
        return fourth < (1 - STUCK) * third < (1 - STUCK) * second and fourth < left[0]

    def is_nearly_there(self, fit: Fit) -> bool:
        """Whether the fit was still getting nearer, with little left; if it went on, with as many steps again to go.

        Pykeen's MuRE, which gets there, was 1.2 times its steps away after 600 of them, and 0.5 after 1,800; two
        hidden units for ten classes, which do not, 1.4 to 1.9 and 1.4 to 4.8.
        """
        left = self.distances(fit)
        if fit.longer:
            quarter = max(1, len(left) // 4)
            return self.is_falling(fit) and left[-1] <= (left[-1 - quarter] - left[-1]) * len(left) / quarter
        above = fit.cut_short and left[-1] > CONSTANT
        return self.is_falling(fit) and left[-1] <= NEARLY * left[0] and not above

    def is_under_way(self, fit: Fit) -> bool:
        """Whether the fit has left a constant behind, and was still getting nearer when its work was over."""
        known = fit.cut_short and bool(self.floors(fit)) and not self.is_noisy(fit)
        return known and self.is_falling(fit) and self.left(fit) <= UNDER_WAY

    def is_too_short(self, fit: Fit) -> bool:
        """Whether the fit had too few steps to tell anything."""
        few = len(fit.losses) < FEW_STEPS and math.isfinite(fit.losses[-1])
        there = self.is_nearly_there(fit) or self.is_under_way(fit)
        return few and not there and (fit.cut_short or not self.is_falling(fit))


def keeps_a_state(fit: Fit) -> bool:
    """Whether the loss depends on what earlier steps left, such as a queue of negatives, which bounds it then."""
    return fit.state_moved and fit.noise > _rounding(fit)


def _rounding(fit: Fit) -> float:
    return NOISE * max(abs(fit.losses[0]), 1e-12)


def _averaged(left: list[float]) -> list[float]:
    """Each with up to `DRAWS` - 1 before it."""
    return [sum(left[max(0, i - DRAWS + 1) : i + 1]) / min(DRAWS, i + 1) for i in range(len(left))]


def _scale(found: Floor, start: float) -> float:
    """The way from knowing the targets only to the floor; where there is none (all targets are equal), from the start.

    Never less than a hundredth of the way from the start: targets may be all but equal.
    """
    way = found.ignorant - found.value
    whole = max(start - found.value, 1e-12)
    return max(way, 0.01 * whole) if way > 1e-9 else whole  # noqa: PLR2004 - what rounding leaves


def pace(fit: Fit) -> tuple[float, int]:
    """By how much the loss is less over the last quarter of the fit than over the one before, and their steps."""
    quarter = max(1, len(fit.losses) // 4)
    last, before = fit.losses[-quarter:], fit.losses[-2 * quarter : -quarter]
    return (sum(before) / len(before) - sum(last) / len(last) if before else 0.0), quarter


def has_begun(fit: Fit) -> bool:
    """Whether there was a step, and its loss was finite."""
    return bool(fit.losses) and math.isfinite(fit.losses[0])


def has_no_gradient(fit: Fit) -> bool:
    """Whether no parameter got any gradient, from the first step to the last."""
    return bool(fit.grads) and not any(fit.grads.values()) and not fit.weights_moved
