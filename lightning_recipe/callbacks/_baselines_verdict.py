"""Whether a model beats dumb baselines on the same examples: paired differences and their standard errors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from lightning_recipe.callbacks._measured import NAMES, Estimate
from lightning_recipe.callbacks._simple_models import PREVIOUS
from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.losses.table import Family

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning_recipe.callbacks._measured import Look

FEWEST = 20
"""Validation examples, at least."""
EPOCHS = 2
"""Epochs of training before which nobody is accused."""
STEPS = 50
"""Steps of training before which nothing is told."""
LONGER = 3
"""Epochs from which on it is told that something simple is better."""
CLOSES = 0.1
"""Share of what a simple model is ahead that the second half of the steps makes up for: nothing is told then."""
FAR = 0.3
"""Share of the answers that a simple model is ahead at the end, from which on it is told even if that becomes less."""
TIMES = 50
"""Times the loss of a simple model from which on it is told even if that becomes less: it is not about to end there."""
LEARNS = 0.005
"""Share of what the constant is ahead, likewise: steps may be small, and of one size."""
EXACT = 0.1
"""Standard error, as a share of the constant's loss, from which on nobody can say that nothing is gained."""
BEYOND_CHANCE = 10
"""Standard errors that a simple model is ahead by, from which on a loss that falls must come nearer to it, too."""
CREEPS = 0.02
"""Share of its lead that the second half of the steps must make up for then, fifty of which would do."""
OVER = 0.05
"""Share of the highest learning rate below which a schedule has come to its end, and more steps would change little."""
MANY = 200
"""Steps before which any that falls is on its way."""
CONSTANTS = {
    Family.CLASSES: "the class frequencies of training for every example",
    Family.YES_NO: "the share of positives in training for every example",
    Family.NUMBERS: "one number for every example",
}


def judge(looks: Sequence[Look], *, weighted: bool = False, trial: bool = False) -> Outcome:
    """What the latest looks come to at the end of training.

    Args:
        looks: In order, at least one.
        weighted: Whether the loss weighs answers, as simple models do not.
        trial: Whether the run was cut short: nothing is judged.

    """
    now = looks[-1]
    if now.examples < FEWEST:
        return Outcome(Status.SKIPPED, "", f"{now.examples} validation examples are too few to compare with baselines")
    numbers = evidence(now)
    if not all(map(math.isfinite, numbers.values())):
        return Outcome(Status.SKIPPED, "", "the validation loss is not finite")
    if trial:
        return Outcome(Status.SKIPPED, "", f"the run was cut short; {described(now)}", evidence=numbers)
    if now.is_other:
        behind = behind_the_previous(looks) if len(looks) > 1 and not weighted else None  # it was fitted on nothing
        if behind is not None:
            return behind
        said = (
            f"the targets of {now.examples} validation examples are distributed otherwise than those of "
            f"training (a constant has a loss of {now.loss('constant'):.4g} there, and {now.easy.mean:.4g} in training)"
        )
        return Outcome(Status.SKIPPED, "", said, evidence=numbers)
    if len(looks) > 1:
        found = worse(looks)
        found += [] if found or now.epochs < LONGER or now.step < STEPS else no_better(looks, weighted=weighted)
        if found:
            return found[0]
    return Outcome(Status.PASSED, "", f"{described(now)} ({now.examples} validation examples)", evidence=numbers)


def worse(looks: Sequence[Look]) -> list[Outcome]:
    """What there is to tell where the loss is worse than the constant's at two looks in a row, and stays behind."""
    now, earlier = looks[-1], [*looks[-2:], half_way(looks)]
    if now.epochs < EPOCHS or now.step < STEPS or now.examples < FEWEST or any(look.is_other for look in earlier):
        return []
    behind = now.behind("constant", loss=True)
    if _learns(looks) or not all(look.behind("constant", loss=True).is_worse for look in earlier):
        return []
    said = (
        f"after {now.epochs} epochs the loss on {now.examples} validation examples is {now.loss('model'):.4g}, worse "
        f"than the {now.loss('constant'):.4g} of {CONSTANTS[now.kind]}, by {behind.mean:.2g} ± {behind.error:.1g}"
    )
    if now.is_informed:
        said += "; its answers have to do with the targets, but are too sure of themselves, or of another scale"
        fix = "stop earlier or regularise, if the loss was better before; or see to the scale of the targets"
        return [Outcome(Status.ADVICE, "informed_but_worse", said, fix, evidence(now))]
    classes, share = now.renumbered()
    if moved := [f"{said} is {true}" for said, true in sorted(classes.items()) if said != true]:
        said += f"; {share:.0%} of its answers were right if classes were renumbered: what it calls {listed(moved)}"
        fix = "number the classes of validation as those of training: by one list of names, or one encoder"
        return [Outcome(Status.WARNING, "worse_than_constant", said, fix, evidence(now))]
    fix = (
        "see whether training itself does better: if it does, look for what differs in validation, such as the "
        "preprocessing, the numbering of the classes, the unit of the target, or regularise; if not, look at the "
        "learning rate and what the loss is given"
    )
    return [Outcome(Status.WARNING, "worse_than_constant", said, fix, evidence(now))]


def no_better(looks: Sequence[Look], *, weighted: bool) -> list[Outcome]:
    """What there is to tell where nothing is gained over a constant, or a simple model is better and stays so."""
    now, before = looks[-1], looks[-2]
    behind, constant = now.behind("constant", loss=True), now.loss("constant")
    gains = any(look.is_informed or look.is_ahead for look in (before, now))
    if behind.error < EXACT * constant and not gains and not _learns(looks):
        said = (
            f"after {now.epochs} epochs the loss on {now.examples} validation examples, {now.loss('model'):.4g}, is no "
            f"better than the {constant:.4g} of {CONSTANTS[now.kind]} ({behind.mean:.2g} ± {behind.error:.1g})"
        )
        fix = (
            "see whether inputs and targets belong together, read in the same order, whether the inputs can tell the "
            "target at all, and whether a few examples can be memorised"
        )
        return [Outcome(Status.ADVICE, "no_better_than_constant", said, fix, evidence(now))]
    if not weighted and (found := behind_the_previous(looks)) is not None:
        return [found]
    name = "" if weighted else now.best_simple
    if name not in half_way(looks).shown or _may_yet_win(looks, name):
        return []
    fitted = f", and was fitted on {now.simple.fitted_on if now.simple else 0} of training"
    fix = "see to the optimiser, the capacity and the inputs of the network, or take the simple model"
    return [Outcome(Status.ADVICE, "worse_than_simple_model", _is_better(now, name) + fitted, fix, evidence(now))]


def behind_the_previous(looks: Sequence[Look]) -> Outcome | None:
    """`advice` if the value before is a better forecast: nobody has to fit it, and the end of a run is late enough."""
    now = looks[-1]
    if now.epochs < LONGER or now.step < STEPS or not now.is_behind(PREVIOUS) or PREVIOUS not in half_way(looks).shown:
        return None
    fix = "forecast the change from the last value, add it to what the network puts out, or train for longer"
    return Outcome(Status.ADVICE, "worse_than_simple_model", _is_better(now, PREVIOUS), fix, evidence(now))


def _is_better(now: Look, name: str) -> str:
    lead = now.behind(name)
    size = f"{lead.mean:.2g} ± {lead.error:.1g}"
    if now.of_answers:
        size = f"{100 * lead.mean:.2g} ± {100 * lead.error:.1g} points"
    return (
        f"after {now.epochs} epochs: {described(now)}; the {name} is better by {size} on {now.examples} validation "
        "examples"
    )


def _may_yet_win(looks: Sequence[Look], name: str) -> bool:
    """Whether the model comes closer to a simple one that is ahead of it, so that more steps may do."""
    now = looks[-1]
    if now.step >= MANY and now.rate < OVER * max(look.rate for look in looks):
        return False
    lead = now.behind(name)
    sure = now.step >= MANY and lead.mean > BEYOND_CHANCE * lead.error
    times = sure and not now.of_answers and now.score("model") > TIMES * now.score(name)
    if _closes(looks, name) and not times and not (now.of_answers and lead.mean > FAR):
        return True
    gained = half_way(looks).behind(name).mean - lead.mean
    return _learns(looks) and not now.of_answers and not times and not (sure and gained < CREEPS * lead.mean)


def evidence(look: Look) -> dict[str, float]:
    """The numbers under short names."""
    ahead = look.behind("constant", loss=True)
    return {
        "examples": look.examples,
        "loss": look.loss("model"),
        "constant_loss": look.loss("constant"),
        "difference": ahead.mean,
        "error": ahead.error,
        **{name.replace(" ", "_"): look.score(name) for name in look.shown},
    }


def described(look: Look) -> str:
    """The model and its baselines in one line."""
    names = NAMES[look.kind]
    scores = ", ".join(f"{names.get(name, name)} {look.written(name)}" for name in look.shown)
    return f"{'answers right' if look.of_answers else 'loss'}: {scores}"


def half_way(looks: Sequence[Look]) -> Look:
    """The latest look from when half as many steps had been trained; else the first."""
    return next((look for look in reversed(looks) if look.step <= looks[-1].step / 2), looks[0])


def _closes(looks: Sequence[Look], name: str) -> bool:
    """Whether the second half of the steps brought the model closer to a simple one."""
    before, now = (look.behind(name).mean for look in (half_way(looks), looks[-1]))
    return now < (1 - CLOSES) * before


def _learns(looks: Sequence[Look]) -> bool:
    """Whether the loss has fallen in the second half of the steps, by more than a standard error and a little."""
    before, now = (torch.cat(look.losses["model"]) for look in (half_way(looks), looks[-1]))
    if len(before) != len(now):
        return float(now.mean()) < float(before.mean())
    fallen = Estimate.of(before - now)
    return fallen.mean > fallen.error and fallen.mean > LEARNS * looks[-1].behind("constant", loss=True).mean
