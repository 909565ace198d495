"""By code, what OverfitOneBatch tells."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from lightning_recipe.callbacks import _overfit_progress as progress
from lightning_recipe.callbacks import _overfit_symptoms as symptoms
from lightning_recipe.callbacks._overfit_terms import weights
from lightning_recipe.trial.work import NET

if TYPE_CHECKING:
    from lightning_recipe.callbacks._overfit_progress import Trial
    from lightning_recipe.trial.short_fit import Fit


class _Text(NamedTuple):
    message: str
    fix: str = ""


_SLOW = "{own} is slow to overfit {examples} ({path}, still falling, by {rate}); {other}"
_CANNOT = "{own} cannot overfit {examples} ({path}{stayed}); {other}. The model is fine, the optimiser settings are not"
_SAFE = "Adam with 3e-4 is a safe start"
TEXTS = {
    "memorised": _Text("{own} overfits {examples} ({path}){held_state}{reached}"),
    "beside_other_terms": _Text(
        "{own} overfits {examples} ({path}): beside other terms, its {losses} has {left} of the way from a constant to "
        "the lowest possible left"
    ),
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
    "free_answers_only": _Text(
        "{went}, with {left} of the way left{lowest}; a network that knows more than a constant need not reach them"
    ),
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
    "hovers": _Text("{own} comes near to overfitting {examples} ({path}), and stays there; {other}"),
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
    "other_gradient": _Text(
        "the gradient is not that of the loss, as where it is turned around for an adversary: {went}; {symptoms}"
    ),
    "goes_on": _Text(
        "each step goes on from the state that the one before left, so that one batch again and again is another task "
        "each time: {went}; {symptoms}"
    ),
    "affine": _Text("all layers together are one affine map, which need not overfit {examples}: {went}; {symptoms}"),
    "examples_unknown": _Text(
        "inputs can't be told by example, and there may be equal ones with different targets: {went}{lowest}"
    ),
    "still_falling": _Text("{fell}, with {left} of the way left{lowest}"),
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
"""By code, the message and the fix; `phrases` fills them in."""


def phrases(trial: Trial, fit: Fit) -> dict[str, str]:
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
        "left": f"{trial.left(first):.2g}",
        "noise": f"{first.noise:.2g}",
        "left_out": symptoms.modules(first.left_out),
        "unknown": trial.unknown,
        "held": symptoms.held(first, trial.asked),
        "held_state": ", where each step finds the state that the first did" if trial.held else "",
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
    values, found = [one[most] for one in own.calls.values()], weights(own)
    weight = f", of weight {found[most]:.3g}" if found else ""
    return f"; {calls[most].name}{weight}: {values[0]:.4g} -> {values[-1]:.4g}"


def _path(fit: Fit) -> str:
    return f"{fit.losses[0]:.4g} -> {fit.losses[-1]:.4g} in {len(fit.losses)} steps"
