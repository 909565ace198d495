"""Whether a trial with interchanged inputs shows that some of them have no effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_recipe.callbacks._groups import is_named, is_timed
from lightning_recipe.callbacks._interchanged import worth
from lightning_recipe.finding import Outcome, Status, listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lightning_recipe.callbacks._interchanged import Effect, Trial

SAME_LOSS = 1e-6
"""Change of a loss, over its size, that is rounding."""
SAME_OUTPUT = 1e-5
"""Change of outputs, over the largest of them, that is rounding."""
DROWNED = 0.05
"""Effect of an input, in that of random numbers, below which it is lost in them; at its beginning a variational
autoencoder has 0.2 to 1."""
TELLS = 1e-3
"""Change of a loss, over its size, that rounding can't hide."""


def of_all(trial: Trial) -> Outcome | None:
    """`failed` if nothing that enters has an effect, on the loss or on what the network puts out.

    That the loss shows it asks for a target to which it answers, and for numbers of the last module that stay the same,
    too: next to small outputs the loss is mostly that of the target. Otherwise, as where the input is the target, only
    what all modules put out can show it.
    """
    effects = [*trial.together, *(effect for found in trial.inputs.values() for effect in found)]
    if not trial.together or not trial.whole:
        return None
    same = all(e.loss < SAME_LOSS and e.last < SAME_OUTPUT for e in effects)
    by_loss = same and most(trial.targets.values()) > TELLS
    by_outputs = all(e.outputs < SAME_OUTPUT for e in effects)
    if not by_loss and not by_outputs:
        return None
    names = listed(trial.inputs)
    what = "the loss" if by_loss else "no output"
    return Outcome(
        Status.FAILED,
        "input_ignored",
        f"{what} {'stays the same' if by_loss else 'changes'} when the inputs ({names}) are interchanged between "
        "examples: the network answers the same, whatever it sees",
        "follow the input through the forward pass: look for a mask the wrong way round, a variable that is "
        "overwritten, units that are all off",
        {"loss_change": max(e.loss for e in effects), "output_change": max(e.last for e in effects)},
    )


def drowned(before: Trial, now: Trial) -> Outcome | None:
    """`advice` if what is made of the only input hardly depends on it, and on random numbers much, and ever less so.

    Args:
        before: What was tried at one look.
        now: At the next.

    """
    shares = []
    for trial in (before, now):
        redrawn = trial.redrawn.remade if trial.redrawn is not None else 0.0
        if not redrawn > 0 or not trial.together:
            return None
        shares.append(trial.together[0].remade / redrawn)
    if max(shares) > DROWNED or shares[1] > shares[0]:
        return None
    return Outcome(
        Status.ADVICE,
        "input_ignored",
        f"what is made of {listed(now.inputs)} changes {shares[1]:.2g}x as much with another input as with other "
        "random numbers: the code that is drawn holds next to nothing of the input (posterior collapse)",
        "a smaller weight of the KL term, or one that grows from 0; see whether it is a sum and the error a mean",
        {"share": shares[1], "share_before": shares[0]},
    )


def of_each(
    trial: Trial, *, by_hand: bool, in_vain: Mapping[str, list[str]] | None = None
) -> list[tuple[str, Outcome]]:
    """`advice` for each input without effect, by its path, where another one has an effect on the loss, or on outputs.

    Of captions, which enter and are to be said, those of other examples have the same loss on the whole.

    `warning` if layers take it that are to learn, and can't. What is called an id or a time may be in a batch to tell
    whose it is.

    Args:
        trial: What was tried.
        by_hand: In manual optimisation the loss is the first of several: an input must have no effect on outputs, too.
        in_vain: By path, the layers that take it and learn nothing.

    """
    answers = most(trial.inputs.values()) >= TELLS
    moved = not by_hand and any(e.last > TELLS for effects in trial.inputs.values() for e in effects)
    if not answers and not moved:
        return []
    by_outputs = by_hand or not answers
    in_vain = in_vain or {}
    return [
        (
            path,
            Outcome(
                Status.WARNING if path in in_vain else Status.ADVICE,
                "one_input_ignored",
                f"the loss stays the same when {path} is interchanged between examples, while it enters the network "
                "and differs between them"
                + (f": {listed(in_vain[path])} can learn nothing from it" if path in in_vain else ""),
                "see what becomes of it in the forward pass, or leave it out",
                worth(trial),
            ),
        )
        for path, effects in trial.inputs.items()
        if not is_named(name := path.rpartition(".")[2]) and not is_timed(name)
        if all(e.loss < SAME_LOSS and (not by_outputs or e.outputs < SAME_OUTPUT) for e in effects)
    ]


def most(found: Iterable[list[Effect]]) -> float:
    """The largest change of the loss.

    Example:
        >>> from lightning_recipe.callbacks._interchanged import Effect
        >>> most([[Effect(0.5, 0.0, 0.0, enters=True)], []])
        0.5

    """
    return max((effect.loss for effects in found for effect in effects), default=0.0)
