"""What the fits of one batch say together: a status and a code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_recipe.callbacks import _overfit_progress as progress
from lightning_recipe.callbacks import _overfit_symptoms as symptoms
from lightning_recipe.callbacks._overfit_texts import TEXTS, phrases
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from torch import nn

    from lightning_recipe.callbacks._overfit_progress import Trial
    from lightning_recipe.trial.short_fit import Fit


def outcome(trial: Trial, pl_module: nn.Module) -> Outcome:
    """The verdict on the fits of `trial`: by the user's optimiser, and by Adam as far as it was needed.

    Args:
        trial: It has one fit at least.
        pl_module: What was fitted; its parameters are counted.

    Example:
        >>> from torch import nn
        >>> from lightning_recipe.trial.short_fit import Fit
        >>> outcome(progress.Trial(0.02, [Fit("Adam (lr 0.001)")]), nn.Linear(1, 1)).code
        'no_step'

    """
    losses = trial.fits[0].losses
    if not losses:
        return Outcome(Status.SKIPPED, "no_step", "no step was run", evidence={"steps": 0})
    if not progress.has_begun(trial.fits[0]):
        return Outcome(
            Status.SKIPPED,
            "no_finite_loss",
            f"there is no loss to begin with: {losses[0]:g}",
            evidence={"steps": len(losses)},
        )
    status, code, fit = _decided(trial, pl_module)
    message, fix = TEXTS[code]
    said = phrases(trial, fit)
    if "{symptoms}" in message:
        said["symptoms"] = ", ".join(symptoms.symptoms(fit, pl_module))
        said["cause"] = symptoms.cause(fit, pl_module)
    return Outcome(status, code, message.format(**said), fix.format(**said), _evidence(trial))


def _decided(trial: Trial, pl_module: nn.Module) -> tuple[Status, str, Fit]:
    """Status and code, and the fit that they are about; what no optimiser could make good comes first."""
    own, best = trial.fits[0], trial.fits[-1]
    if shown := _shown(trial):
        return Status.PASSED, shown, own
    if mistake := _certain(trial):
        return *mistake, own
    if code := _why_unknown(trial):
        return Status.SKIPPED, code, own
    noisy = trial.is_noisy(own)
    nearest = min(trial.fits, key=trial.left)
    ahead = trial.left(nearest) < progress.HALF * trial.left(own)
    above = own.cut_short and trial.is_falling(own) and trial.left(nearest) > progress.UNDER_WAY
    if (trial.is_reached(best) or (ahead and trial.is_nearly_there(nearest))) and not above:
        return *_of_the_optimiser(trial), nearest
    if noisy or progress.keeps_a_state(own):
        return Status.SKIPPED, "noisy", own
    if code := _need_not(trial, pl_module):
        return Status.SKIPPED, code, own
    if trial.asked is not None and trial.left(nearest) < progress.CONSTANT:
        return *_of_free_answers(trial), own
    if trial.asked is None and not symptoms.knows_examples(own) and not trial.is_falling(nearest):
        return Status.SKIPPED, "examples_unknown", own
    if falling := list(filter(trial.is_falling, trial.fits)):
        fit = min(falling, key=trial.left)
        return *_of_more_steps(trial, fit), fit
    soft = trial.asked is not None or symptoms.has_many_targets(own)
    return Status.WARNING if soft else Status.FAILED, _held_back(nearest) or "stuck", nearest


def _shown(trial: Trial) -> str:
    """The code for what the user's optimiser has shown that it can, or nothing."""
    own = trial.fits[0]
    if trial.is_reached(own):
        return "memorised"
    if own.out_of_time or not trial.floors(own):
        return ""
    if not trial.has_only_known_terms(own):
        return "beside_other_terms" if trial.left(own) <= progress.HALF else ""
    return "still_falling" if trial.is_under_way(own) else ""


def _certain(trial: Trial) -> tuple[Status, str] | None:
    """Mistakes that no optimiser could make good."""
    own, known = trial.fits[0], bool(trial.floors(trial.fits[0]))
    if progress.has_no_gradient(own) and (known or own.losses[-1] != 0):
        return Status.FAILED if known else Status.WARNING, "no_gradient"
    if known and (trial.asked or symptoms.knows_examples(own)) and all(map(symptoms.is_constant, trial.fits)):
        return Status.FAILED, "cannot_tell_examples_apart"
    return None


def _why_unknown(trial: Trial) -> str:
    """The code for why it is not known what the loss should have reached, or nothing."""
    own = trial.fits[0]
    if any(fit.out_of_time for fit in (*trial.fits, trial.slower or own)):  # a fact about the machine
        return "time_over"
    if own.cut_short and trial.is_too_short(own):
        return "too_expensive"
    if not trial.floors(own):
        return "unknown_floor"
    if not trial.has_only_known_terms(own):
        return "other_terms"
    if symptoms.held(own, trial.asked):
        return "layer_held"
    if trial.alone and not trial.is_falling(own) and (trial.asked is None or trial.left(own) > progress.HALF):
        return "too_expensive"
    return "too_few_steps" if any(map(trial.is_too_short, trial.fits)) else ""


def _need_not(trial: Trial, pl_module: nn.Module) -> str:
    """The code for what need not be able to memorise a batch, or does not minimise its loss, or nothing."""
    if trial.exempt:
        return trial.exempt
    return "single_layer" if symptoms.is_linear(pl_module, trial.fits[0].left_out) else ""


def _of_the_optimiser(trial: Trial) -> tuple[Status, str]:
    """The model can memorise the batch with this loss: Adam has shown it."""
    own = trial.fits[0]
    left = trial.distances(own)
    if own.lr_overridden:
        return Status.PASSED, "rates_of_its_own"
    if trial.is_falling(own):
        near = left[-1] < progress.HALF * left[0] or own.cut_short
        return (Status.PASSED, "on_its_way") if near else (Status.WARNING, "optimiser_slow")
    if max(left[-len(left) // 4 :]) <= progress.NEAR:
        return Status.PASSED, "hovers"
    _, path = trial.held_back_by(own)
    below = min(path[0], 1.0) if len(trial.floors(own)) > 1 else path[0]  # of several, one stays with its constant
    still = path[-1] > progress.CONSTANT * below and max(path) < 1.1 * path[0]
    code = _held_back(own) or ("learning_rate_too_low" if still else "optimiser_unstable")
    if code == "optimiser_unstable" and trial.slower is not None and trial.is_reached(trial.slower):
        return Status.ADVICE, "optimiser_at_its_edge"
    return Status.WARNING if trial.warms_up else Status.FAILED, code


def _of_free_answers(trial: Trial) -> tuple[Status, str]:
    """Some fit knows more than a constant, and none comes as far as free answers, which nobody promised."""
    own = trial.fits[0]
    if trial.is_nearly_there(own):
        return Status.PASSED, "still_falling"
    return Status.PASSED if trial.left(own) <= progress.HALF else Status.SKIPPED, "free_answers_only"


def _of_more_steps(trial: Trial, fit: Fit) -> tuple[Status, str]:
    """No fit is there yet, and `fit` is the nearest of those that were getting nearer."""
    own = trial.fits[0]
    if trial.is_nearly_there(own):
        return Status.PASSED, "still_falling"
    if fit.cut_short or own.cut_short:
        return Status.SKIPPED, "work_over"
    return Status.WARNING, _held_back(fit) or "too_slow"


def _held_back(fit: Fit) -> str:
    """The code for weights that the optimiser does not change, or nothing."""
    return "parameters_left_out" if fit.left_out else "" if fit.weights_moved else "weights_do_not_change"


def _evidence(trial: Trial) -> dict[str, float]:
    own, *others = trial.fits
    floors = trial.floors(own)
    evidence = {"start": own.losses[0], "measured": own.losses[-1], "steps": len(own.losses)}
    evidence |= {"examples": trial.size} if trial.size else {}
    lowest = trial.lowest(own)
    evidence |= {"floor": lowest} if lowest is not None else {}
    evidence |= {"constant": trial.asked.ignorant} if trial.asked is not None else {}
    evidence |= {"left": trial.left(own)} if floors else {}
    evidence |= {"step_seconds": own.work} if own.cut_short else {}
    for fit in others[-1:]:
        evidence |= {"measured_with_adam": fit.losses[-1], "steps_with_adam": len(fit.losses)}
    return evidence
