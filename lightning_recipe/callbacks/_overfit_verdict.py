"""What the fits of one batch say together: a status and a code; and by code, what is told."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from lightning_recipe.callbacks import _overfit_progress as progress
from lightning_recipe.callbacks import _overfit_symptoms as symptoms
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.trial.work import NET

if TYPE_CHECKING:
    from torch import nn

    from lightning_recipe.callbacks._overfit_progress import Trial
    from lightning_recipe.trial.short_fit import Fit


class _Text(NamedTuple):
    message: str
    fix: str = ""


_SLOW = "{own} is slow to overfit {examples} ({path}, still falling, by {rate}); {other}"
_CANNOT = "{own} cannot overfit {examples} ({path}{stayed}); {other}. The model is fine, the optimiser settings are not"
_SAFE = "Adam with 3e-4 is a safe start"
TEXTS = {
    "memorised": _Text("{own} overfits {examples} ({path}){reached}"),
    "no_gradient": _Text(
        "no parameter gets any gradient: {went}{lowest}",
        "LossClipCheck, GradientFlowCheck and StaleGradientCheck tell what comes between the loss and the weights",
    ),
    "cannot_tell_examples_apart": _Text(
        "no optimiser can tell the examples apart: {went}; {symptoms}",
        "look for inputs that are equal or overwritten, dead activations, and reductions over all inputs; "
        "LossInputCheck tells whether the loss compares each example with all",
    ),
    "unknown_floor": _Text("{unknown}; {went}"),
    "free_answers_only": _Text("{went}{lowest}; a network that knows more than a constant need not reach them"),
    "layer_held": _Text(
        "{held} gets no gradient in this step, without which no fit shows what it can learn; {went}{lowest}"
    ),
    "noisy": _Text("two equal steps differ by {noise}: the step draws random numbers or keeps a state; {went}{lowest}"),
    "other_terms": _Text("other terms in the loss may keep its {losses} from the lowest possible; {went}{lowest}"),
    "too_expensive": _Text(
        "a step is too expensive to be repeated: {work} s of work, counted; {max_seconds} max_seconds allow for enough"
    ),
    "too_few_steps": _Text("too few steps to judge, when max_steps were over: {went}"),
    "rates_of_its_own": _Text("{own} overfits {examples} slowly ({path}) at rates that its own code sets; {other}"),
    "on_its_way": _Text(_SLOW),
    "optimiser_slow": _Text(_SLOW, "a larger learning rate, or Adam to begin with"),
    "learning_rate_too_low": _Text(_CANNOT, f"the loss hardly moves: raise the learning rate; {_SAFE}"),
    "optimiser_unstable": _Text(_CANNOT, f"lower the learning rate; {_SAFE}"),
    "optimiser_at_its_edge": _Text(
        "{own} cannot overfit {examples} ({path}), and can at a third of its rate; few may be steeper than many",
        "if the loss of the run jumps, lower the learning rate",
    ),
    "parameters_left_out": _Text(
        "the optimiser does not hold the parameters of {left_out}: {went}{lowest}",
        "hand the optimiser all parameters that should learn: those of this module, not of a copy",
    ),
    "weights_do_not_change": _Text(
        "the optimiser changes no weight: {went}{lowest}",
        "is its learning rate 0; where you optimise by hand, is step() called?",
    ),
    "single_layer": _Text("training one layer at most need not be able to overfit {examples}: {went}; {symptoms}"),
    "affine": _Text("all layers together are one affine map, which need not overfit {examples}: {went}; {symptoms}"),
    "examples_unknown": _Text(
        "inputs can't be told by example, and there may be equal ones with different targets: {went}{lowest}"
    ),
    "still_falling": _Text("{fell}{lowest}"),
    "work_over": _Text("{fell}{lowest}; more max_seconds will tell"),
    "time_over": _Text("max_seconds were over, on a busy machine: {went}"),
    "too_slow": _Text(
        "{fell}{lowest}; {symptoms}",
        "give it more max_steps; if that does not help: {cause}",
    ),
    "stuck": _Text(
        "no optimiser overfits {examples}: {went}{others}{lowest}; {symptoms}",
        "{cause}",
    ),
}
"""By code, the message and the fix; `_phrases` fills them in."""


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
    phrases = _phrases(trial, fit)
    if "{symptoms}" in message:
        phrases["symptoms"] = ", ".join(symptoms.symptoms(fit, pl_module))
        phrases["cause"] = symptoms.cause(fit, pl_module)
    return Outcome(status, code, message.format(**phrases), fix.format(**phrases), _evidence(trial))


def _decided(trial: Trial, pl_module: nn.Module) -> tuple[Status, str, Fit]:
    """Status and code, and the fit that they are about; what no optimiser could make good comes first."""
    own, best = trial.fits[0], trial.fits[-1]
    if trial.is_reached(own):
        return Status.PASSED, "memorised", own
    if mistake := _certain(trial):
        return *mistake, own
    if code := _why_unknown(trial):
        return Status.SKIPPED, code, own
    noisy = trial.is_noisy(own)
    nearest = min(trial.fits, key=trial.left)
    ahead = trial.left(nearest) < progress.HALF * trial.left(own)
    if trial.is_reached(best) or (ahead and trial.is_nearly_there(nearest)):
        return *_of_the_optimiser(trial), nearest
    if noisy:
        return Status.SKIPPED, "noisy", own
    if trial.affine or symptoms.is_linear(pl_module, own.left_out):
        return Status.SKIPPED, "affine" if trial.affine else "single_layer", own
    if trial.asked is not None and trial.left(nearest) < progress.CONSTANT:
        near = trial.is_nearly_there(own)
        return (Status.PASSED, "still_falling", own) if near else (Status.SKIPPED, "free_answers_only", nearest)
    if trial.asked is None and not symptoms.knows_examples(own) and not trial.is_falling(nearest):
        return Status.SKIPPED, "examples_unknown", own
    if falling := list(filter(trial.is_falling, trial.fits)):
        fit = min(falling, key=trial.left)
        return *_of_more_steps(trial, fit), fit
    soft = trial.asked is not None or symptoms.has_many_targets(own)
    return Status.WARNING if soft else Status.FAILED, _held_back(nearest) or "stuck", nearest


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
    if any(fit.out_of_time for fit in trial.fits):  # a fact about the machine
        return "time_over"
    if any(fit.cut_short and len(fit.losses) < progress.FEW_STEPS for fit in trial.fits):
        return "too_expensive"
    if not trial.floors(own):
        return "unknown_floor"
    if not trial.has_only_known_terms(own):
        return "other_terms"
    if _held(trial):
        return "layer_held"
    return "too_few_steps" if any(map(trial.is_too_short, trial.fits)) else ""


def _of_the_optimiser(trial: Trial) -> tuple[Status, str]:
    """The model can memorise the batch with this loss: Adam has shown it."""
    own = trial.fits[0]
    left = trial.distances(own)
    if own.lr_overridden:
        return Status.PASSED, "rates_of_its_own"
    if trial.is_falling(own):
        near = left[-1] < progress.HALF * left[0]
        return (Status.PASSED, "on_its_way") if near else (Status.WARNING, "optimiser_slow")
    _, path = trial.held_back_by(own)
    below = min(path[0], 1.0) if len(trial.floors(own)) > 1 else path[0]  # of several, one stays with its constant
    still = path[-1] > progress.CONSTANT * below and max(path) < 1.1 * path[0]
    code = _held_back(own) or ("learning_rate_too_low" if still else "optimiser_unstable")
    if code == "optimiser_unstable" and trial.slower is not None and trial.is_reached(trial.slower):
        return Status.ADVICE, "optimiser_at_its_edge"
    return Status.WARNING if trial.warms_up else Status.FAILED, code


def _of_more_steps(trial: Trial, fit: Fit) -> tuple[Status, str]:
    """No fit is there yet, and `fit` is the nearest of those that were getting nearer."""
    if trial.is_nearly_there(trial.fits[0]):
        return Status.PASSED, "still_falling"
    if fit.cut_short:
        return Status.SKIPPED, "work_over"
    return Status.WARNING, _held_back(fit) or "too_slow"


def _held_back(fit: Fit) -> str:
    """The code for weights that the optimiser does not change, or nothing."""
    return "parameters_left_out" if fit.left_out else "" if fit.weights_moved else "weights_do_not_change"


def _held(trial: Trial) -> str:
    """A layer that the loss comes from, and that the module's own code keeps as it is for now, as DINO's last one."""
    grads = trial.fits[0].grads
    for layer in trial.asked.layers if trial.asked is not None else ():
        own = [gradient for name, gradient in grads.items() if name.startswith(f"{layer}.")]
        if own and not any(own) and any(grads.values()):
            return layer
    return ""


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


def _phrases(trial: Trial, fit: Fit) -> dict[str, str]:
    """What `TEXTS` are filled in with; the outcome is about `fit`."""
    first, *others = trial.fits
    own, floors = f"your {first.optimizer}", trial.floors(first)
    examples = f"{trial.size} example{'s' * (trial.size > 1)}" if trial.size else "one batch"
    lowest_value = trial.lowest(first)
    value = "" if lowest_value is None else f"{round(lowest_value, 9):.4g}"
    why = " and ".join(dict.fromkeys(f.reason for f in floors if f.reason))
    lowest = f"; the lowest possible is {value}" + (f" ({why})" if why else "") if value else ""
    if trial.asked is not None:
        lowest = f"; from the {trial.asked.ignorant:.4g} of a constant to {value} counts ({why})"
    losses = " and ".join(call.name for call in first.last.loss_calls) if first.last else "loss"
    over = "work allowed was done" if fit.cut_short else "steps were over"
    fell = f"still falling, by {_pace(fit)}, when the {over}"
    most = max(one.work for one in trial.fits)
    return {
        "own": own,
        "examples": examples,
        "path": _path(first),
        "went": f"on {examples} the loss went {_path(first)} with {own}",
        "fell": f"on {examples} the loss went {_path(fit)} with {own if fit is first else fit.optimizer}, {fell}",
        "rate": _pace(first),
        "stayed": _stayed(trial),
        "work": f"{most:.2g}",
        "max_seconds": f"{math.ceil(4 * progress.FEW_STEPS * most * NET):.2g}",
        "other": f"{fit.optimizer} {'can' if trial.is_reached(fit) else 'nearly can'} (-> {fit.losses[-1]:.4g})",
        "others": "".join(f", -> {one.losses[-1]:.4g} with {one.optimizer}" for one in others),
        "lowest": lowest,
        "reached": lowest if trial.has_only_known_terms(first) else "",
        "losses": losses,
        "noise": f"{first.noise:.2g}",
        "left_out": symptoms.modules(first.left_out),
        "unknown": trial.unknown,
        "held": _held(trial),
    }


def _pace(fit: Fit) -> str:
    fall, steps = progress.pace(fit)
    return f"{fall:.3g} in the last {steps} steps"


def _stayed(trial: Trial) -> str:
    """Which of several losses was not learned by the user's optimiser, and its weight."""
    own = trial.fits[0]
    calls = own.first.loss_calls if own.first is not None else []
    if trial.asked is not None or len(calls) < 2 or len(trial.floors(own)) != len(calls):  # noqa: PLR2004 - several
        return ""
    most, _ = trial.held_back_by(own)
    values, found = [one[most] for one in own.calls.values()], progress.weights(own)
    weight = f", of weight {found[most]:.3g}" if found else ""
    return f"; {calls[most].name}{weight}: {values[0]:.4g} -> {values[-1]:.4g}"


def _path(fit: Fit) -> str:
    return f"{fit.losses[0]:.4g} -> {fit.losses[-1]:.4g} in {len(fit.losses)} steps"
