"""What the looks at a fixed batch say: the curves of each, and the decision of PredictionDynamicsLogger on all."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning_recipe.finding import Outcome, Status
from lightning_recipe.losses.measures import ALIKE

if TYPE_CHECKING:
    from lightning_recipe.callbacks._fixed_batch import FixedBatch

EVIDENCE = ("moved", "late_moved", "late_flips", "spread", "error", "loss_start", "loss_late")  # of what is measured
LATE_LOOKS = 4  # looks in the second half of the run without which nothing is called frozen or jumping
LEARNT = 0.9  # error on the fixed batch, in units of that of knowing nothing, below which something was learnt
FELL = 0.95  # of the first training loss; below, the loss has fallen
FLIPS = 0.3  # share of answers that must change from one look to the next to speak of jumping
NUMBERS = 4.0  # times max_jitter, in standard deviations of the target, for numbers, which have no bounds
CURVES = {
    "jitter": "jitter ({} per step)",
    "flip_rate": "flips (share per look)",
    "share_right": "right (share)",
    "mean_absolute_error": "error (target units)",
}  # of what is measured at each look
RISING = 1.5  # times the mean learning rate of the first half: above, the rate is still rising at the end


def curves(numbers: dict[str, float], *, of_numbers: bool) -> dict[str, float]:
    """What is drawn of one look, by the name of the curve.

    Args:
        numbers: What :meth:`FixedBatch.look` gives.
        of_numbers: Whether the predictions are numbers.

    Example:
        >>> curves({"jitter": 0.25, "flip_rate": math.nan}, of_numbers=True)
        {'jitter (std per step)': 0.25}

    """
    unit = "std" if of_numbers else "share"
    drawn = {curve.format(unit): numbers.get(name, math.nan) for name, curve in CURVES.items()}
    return {name: value for name, value in drawn.items() if math.isfinite(value)}


def outcome(  # noqa: C901 - decisions in their order
    fixed: FixedBatch, min_steps: int, min_moved: float, max_jitter: float, *, adversaries: bool = False
) -> Outcome:
    """The verdict; for the limits see :class:`PredictionDynamicsLogger`.

    Of `adversaries` one that is no better than a guess, and changes its mind, may be well matched.
    """
    if len(fixed.looks) == 1:
        said = f"only one look at the predictions, at step {fixed.latest}: the run was too short"
        return Outcome(Status.SKIPPED, "one_look", said)
    m, how = fixed.measure(), fixed.how
    evidence = {name: m[name] for name in EVIDENCE if math.isfinite(m[name])}
    unit = "standard deviations" if how.of_numbers else "of the probability"
    what = f"predictions on {how.examples} fixed example" + ("s" if how.examples > 1 else "")
    steps = f"{m['steps']:,.0f} steps"
    same = ", the same for all of them" if fixed.last is not None and how.alike(fixed.last) else ""
    moved = f"{what} moved by {m['moved']:.3g} {unit} in {steps}{same}"
    most = max_jitter * (NUMBERS if how.of_numbers else 1)

    def say(status: Status, code: str, message: str, fix: str = "") -> Outcome:
        return Outcome(status, code, message, fix, evidence)

    if m["finite_start"] == 1 and m["finite"] == 0:
        fix = "lower the learning rate; Trainer(detect_anomaly=True) names the operation where it begins"
        return say(Status.WARNING, "not_finite", f"{what} are all NaN or infinite after {steps}", fix)
    fell, known = m["loss_late"] < FELL * m["loss_start"], not math.isnan(m["error"])
    early = m["steps"] < min_steps or m["late_looks"] < LATE_LOOKS
    needed = min_moved * min(1.0, m["steps"] / min_steps)  # at the same pace, in a run that ends sooner
    if m["error"] < LEARNT or (m["moved"] >= needed and (fell or early or not known)):
        if same and not early:  # as of an image that is made again: better than a guess, but not told apart
            return say(Status.SKIPPED, "moves_alike", f"{moved}: no verdict")
        late = f", late in the run by {m['late_moved']:.3g} from look to look" if m["late_looks"] else ""
        return say(Status.PASSED, "moves", moved + late)
    if fell or early or not known:
        reason = "too few to expect more" if early else "though the training loss fell"
        reason = reason if known else "no loss tells what they should be"
        return say(Status.SKIPPED, "too_little_known", f"{moved}, {needed:.3g} needed for a verdict; {reason}")
    nothing = f"no better than an uninformed guess (relative error {m['error']:.3g}, expected below {LEARNT})"
    if not math.isnan(m["loss_late"]):
        nothing += f", and the training loss has not fallen ({m['loss_start']:.3g}, then {m['loss_late']:.3g})"
    if adversaries:
        return say(
            Status.SKIPPED, "adversaries", f"{moved}; several optimisers, and a well-matched adversary can't tell"
        )
    if m["late_moved"] > most and not m["late_flips"] < FLIPS:
        return say(
            Status.WARNING,
            "jumping",
            f"{what} keep jumping, by {m['late_moved']:.3g} {unit} from look to look in the second half of {steps} "
            f"(at most {most:g} expected); {nothing}",
            f"lower the learning rate ({m['rate']:.2g}) tenfold and see whether they settle",
        )
    if m["spread"] < min(ALIKE, m["spread_start"] / 10):
        return say(
            Status.WARNING,
            "collapsed",
            f"{what} have become all the same: their spread fell from {m['spread_start']:.2g} to {m['spread']:.2g} "
            f"{unit} in {steps} (at least {ALIKE} expected); {nothing}",
            f"lower the weight decay (vanishing weights) or the learning rate ({m['rate']:.2g}; dead units)",
        )
    if m["moved"] >= min_moved:
        return say(Status.SKIPPED, "moves_unlearnt", f"{moved} without jumping; no verdict, since {nothing}")
    if m["rate"] > RISING * m["rate_early"]:
        rises = f"the learning rate still rises ({m['rate_early']:.2g} to {m['rate']:.2g})"
        return say(Status.SKIPPED, "rate_rises", f"{moved}, but {rises}")
    return say(
        Status.WARNING,
        "frozen",
        f"{moved} (at least {min_moved:g} expected); {nothing}",
        f"raise the learning rate ({m['rate']:.2g}) tenfold; if that changes nothing, see that the parameters require "
        "gradients, get some, and are in the optimiser",
    )
