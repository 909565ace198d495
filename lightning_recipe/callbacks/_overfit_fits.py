"""Which fits are made of one batch: by which optimisers, of how many examples, and with how much work."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_recipe.callbacks._overfit_by_hand import asked
from lightning_recipe.callbacks._overfit_progress import (
    CONSTANT,
    FEW_STEPS,
    HALF,
    Trial,
    has_begun,
    has_no_gradient,
    keeps_a_state,
)
from lightning_recipe.callbacks._overfit_verdict import outcome
from lightning_recipe.finding import Status
from lightning_recipe.trial.course import COUNTED, Budget

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning_recipe.run import Run
    from lightning_recipe.trial.short_fit import Fit

ENOUGH_STEPS = 50
"""Steps in which a fit may show that it gets there, though not that it does not."""
WANTED_STEPS = 200
"""Steps for which there should be work, or else fewer examples are taken."""
UNKNOWN_STEPS = 300
"""Steps for a loss whose floor isn't known: enough to see whether it all but vanishes."""
FAST = 1e-3
"""Rate from which on Adam is not expected to get there later than with another one."""
FALLING = 2
"""Times the work that is allowed, for a fit that is still falling, and would not fall faster by Adam."""
SLOWER = 3.0
"""Times smaller a rate is that tells one at its edge from one that is too high."""
FASTER, FASTEST = 3.0, 10.0
"""Times larger a rate is that tells what a fit would do that falls slowly; the second where it is above a constant yet,
as while the output moves to targets that are far from 0."""


class Allowed(NamedTuple):
    """What the fits may take.

    Attributes:
        steps: Of each fit.
        work: Nominal seconds of all, see ``trial/work.py``.
        ends: Value of ``time.monotonic()`` after which they end in any case.
        tolerance: Share of the way that may be left.
        adam: Learning rates of Adam's fits.

    """

    steps: int
    work: float
    ends: float
    tolerance: float
    adam: tuple[float, ...]


class Fits:
    """The fits of one batch.

    Args:
        run: The run that is about to begin.
        allowed: What they may take.
        make: Makes one, as ``trial.short_fit.short_fit`` from its third argument on.
        examples: What is memorised.

    Attributes:
        examples: The same, or fewer where steps are expensive.

    """

    def __init__(self, run: Run, allowed: Allowed, make: Callable[..., Fit], examples: Any) -> None:
        self._run, self._allowed, self._make, self.examples = run, allowed, make, examples

    def own(self, fewer: Any) -> Trial:
        """Fit by the user's optimiser: `fewer` where steps are expensive, and again once the floor is known."""
        work = self._allowed.work
        wanted = min(WANTED_STEPS, self._allowed.steps)

        def is_expensive(fit: Fit) -> bool:
            return self.examples is not fewer and wanted * fit.work > work

        trial = Trial(self._allowed.tolerance)
        fit = self.fit(trial, lambda one: is_expensive(one) or _is_over(trial, one))
        if is_expensive(fit):
            trial, self.examples = Trial(self._allowed.tolerance), fewer
            fit = self.fit(trial)
        fit.cut_short |= ENOUGH_STEPS * fit.work > FALLING * work
        if has_begun(fit) and not trial.floors(fit) and not fit.cut_short:
            known = asked(self._run, self.examples, fit.first)  # the fit ended at once
            trial = Trial(self._allowed.tolerance)
            if isinstance(known, str):
                trial.unknown = known
            else:
                trial.asked = known
            self.fit(trial)
        try:
            return self._acquitted(trial) or trial
        except Exception:  # noqa: BLE001 - then the first look stands
            return trial

    def others(self, trial: Trial) -> None:
        """Fit by Adam: where the user's optimiser was falling when its work was over, with a larger rate only."""
        own, few = trial.fits[0], min(FEW_STEPS, self._allowed.steps)
        left = max(self._allowed.work / 2, trial.work_left(self._allowed.work))
        rates = self._allowed.adam
        if own.cut_short and trial.is_falling(own):
            left = max(left, trial.work_left(1.5 * self._allowed.work))
            faster = FASTEST if trial.left(own) > 1 else FASTER
            rates = (max(FAST, faster * own.rate if "Adam" in own.optimizer else 0.0),)
        for number, rate in enumerate(rates):
            if _is_settled(trial):
                return
            if trial.alone or few * own.work > left:
                trial.alone = True
                return
            fit = self.fit(trial, work=left / (len(rates) - number), most=left, fewest=FEW_STEPS, adam=rate)
            left -= fit.work * len(fit.losses)
            if fit.cut_short and len(fit.losses) < few:  # an update costs more than the user's
                trial.fits.pop()
                trial.alone = True

    def slower(self, trial: Trial) -> Fit:
        """Fit by the user's optimiser at a smaller rate: few examples may be too steep for one that suits many."""
        half = self._allowed.work / 2
        return self.fit(Trial(trial.tolerance, asked=trial.asked), most=half, slower=SLOWER)

    def fit(
        self,
        trial: Trial,
        over: Callable[[Fit], bool] | None = None,
        *,
        work: float | None = None,
        most: float | None = None,
        fewest: int = ENOUGH_STEPS,
        **how: Any,
    ) -> Fit:
        """One more of `trial`."""
        steps, allowed = self._allowed.steps, self._allowed.work
        lent: list[Fit] = []

        def falls(fit: Fit) -> bool:
            more = _falls(trial, fit)
            lent.extend([fit] * (more and trial.left(fit) >= CONSTANT))
            return more

        budget = Budget(
            steps,
            allowed / 2 if work is None else work,
            FALLING * allowed if most is None else most,
            self._allowed.ends,
            min(fewest, steps),
            min(FEW_STEPS, steps),
            over or partial(_is_over, trial),
            partial(_goes_on, trial),
            falls,
        )
        fit = self._make(self.examples, budget, **how)
        fit.cut_short |= bool(lent)  # what knows no more than a constant had no more than a share of it
        trial.fits.append(fit)
        return fit

    def _acquitted(self, trial: Trial) -> Trial | None:
        """Another look at a fit that has not got there, which may find that it has."""
        own = trial.fits[0]
        if not trial.floors(own) or trial.is_too_short(own) or has_no_gradient(own) or self._passes(trial):
            return None
        moved = keeps_a_state(own)
        if trial.has_only_known_terms(own) and not moved:
            return None
        known = trial.asked or asked(self._run, self.examples, own.first)
        if isinstance(known, str):
            return None
        again = Trial(trial.tolerance, [own], asked=known)
        if moved or not self._passes(again):
            again = Trial(trial.tolerance, asked=known, held=moved)
            self.fit(again, most=self._allowed.work, held=moved)
        return again if self._passes(again) else None

    def _passes(self, trial: Trial) -> bool:
        return outcome(trial, self._run.module).status is Status.PASSED


def _is_over(trial: Trial, fit: Fit) -> bool:
    """Whether more steps could tell nothing more: the floor is reached, or not known and not near either.

    A fit whose floor isn't known ends while nobody has asked for it, as soon as it is known what a step costs.
    """
    steps, left = len(fit.losses), trial.distances(fit)[-1]
    enough = COUNTED + 1 if not trial.unknown else UNKNOWN_STEPS if left < HALF else FEW_STEPS
    return trial.is_reached(fit) or (steps >= enough and not trial.floors(fit))


def _goes_on(trial: Trial, fit: Fit) -> bool:
    """Whether the fit is on its way, and needs more steps to tell whether it gets there."""
    left = trial.distances(fit)
    near = trial.is_reached(fit) if fit.longer else trial.is_nearly_there(fit)
    return bool(trial.floors(fit)) and trial.is_falling(fit) and not near and left[-1] < HALF * left[0]


def _falls(trial: Trial, fit: Fit) -> bool:
    """Whether the fit needs more work to tell whether it gets there, and others would not come further by it."""
    left, fast = trial.left(fit), "Adam" in fit.optimizer and fit.rate >= FAST
    return left > HALF and (fast or left < CONSTANT) and bool(trial.floors(fit)) and trial.is_falling(fit)


def _is_settled(trial: Trial) -> bool:
    """Whether another optimiser could tell nothing more."""
    fit = trial.fits[-1]
    return (
        not has_begun(fit)
        or trial.is_reached(fit)
        or (len(trial.fits) == 1 and (trial.is_nearly_there(fit) or trial.is_under_way(fit)))
        or not trial.floors(fit)
        or has_no_gradient(fit)
        or not trial.has_only_known_terms(fit)
        or trial.is_too_short(fit)
        or fit.out_of_time
    )
