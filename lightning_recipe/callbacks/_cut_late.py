"""Losses of examples that a constant cuts to the end of a run, although they are few: those of rare classes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from lightning_recipe.record.clips import Clip

BEGINNING = 0.2
"""Share of a run's steps in which large losses are usual: what is cut in them only has done no harm."""
LOOKS = 4
"""Looks after that, at least, at which something was cut."""
MOSTLY = 0.5
"""Share of these looks, at least: a single outlier is what the bound may be there for."""
NEAR = 1.25
"""Times the loss of a uniform guess up to which a bound cuts what the network has not yet begun to learn: a class that
is half as frequent as the average costs ln 2 more as soon as the frequencies are learnt."""
SOME = 0.02
"""Share of examples that are cut, from which on a bound near a uniform guess worries."""


class Cut(NamedTuple):
    """What a constant has cut at a look.

    Attributes:
        step: Of the run.
        share: Of the losses that were above, 0 to 1.
        cap: The largest loss that has a gradient.
        guess: The loss of a uniform guess, in nats; None if it is not known.
        where: The line, as it is told.

    """

    step: int
    share: float
    cap: float
    guess: float | None
    where: str


def cut(clips: list[Clip], step: int, where: str) -> list[Cut]:
    """What was cut of the losses of examples; nothing unless all have the same bound.

    Args:
        clips: All clamps of a step.
        step: Of the run.
        where: The line, as it is told.

    Example:
        >>> import torch
        >>> from lightning_recipe.record.clips import Clip
        >>> cut([Clip(torch.tensor(0.5), 8, cap=2.0)], 3, "")
        [Cut(step=3, share=0.5, cap=2.0, guess=None, where='')]

    """
    caps = {clip.cap for clip in clips}
    elements = sum(clip.elements for clip in clips)
    cap = caps.pop() if len(caps) == 1 else None
    if cap is None or any(clip.elements == 1 for clip in clips):
        return []
    guesses = [clip.guess for clip in clips]
    guess = None if None in guesses else min(filter(None, guesses))
    return [Cut(step, sum(float(clip.share) * clip.elements for clip in clips) / elements, cap, guess, where)]


def verdict(cuts: list[Cut], steps: int) -> Outcome | None:
    """What to say of losses that are cut after the beginning of a run, each time or mostly.

    Args:
        cuts: What was cut at each look.
        steps: Of the run.

    Returns:
        `warning` if it goes on to the end and the bound is near a uniform guess, `advice` if it is above or nothing is
        known of it; None if little is cut, or the bound moves with the losses.

    Example:
        >>> cuts = [Cut(step, 0.1, 2.0, 1.79, "") for step in (100, 200, 300, 400)]
        >>> verdict(cuts, 450).status, verdict([one._replace(cap=5.0) for one in cuts], 450).status
        (<Status.WARNING: 'warning'>, <Status.ADVICE: 'advice'>)
        >>> verdict([*cuts, *(Cut(step, 0.0, 2.0, 1.79, "") for step in range(400, 450, 10))], 450)

    """
    late = [one for one in cuts if one.step > BEGINNING * steps]
    hit = [one for one in late if one.share]
    if len(hit) < max(LOOKS, MOSTLY * len(late)) or len({one.cap for one in cuts}) > 1:
        return None
    last, share = late[-1], sum(one.share for one in late) / len(late)
    near = last.guess is not None and last.cap <= NEAR * last.guess
    goes_on = all(one.share for one in late[-LOOKS:])
    what = f"losses of examples above {last.cap:.3g}" if last.cap < math.inf else "infinite losses of examples"
    guess = f", where a uniform guess has {last.guess:.3g}" if near else ""
    return Outcome(
        Status.WARNING if near and goes_on and share >= SOME else Status.ADVICE,
        "clipped",
        f"{what} are cut{last.where}{guess}: {share:.1%} of them at {len(hit)} of the "
        f"last {len(late)} looks, which have no gradient; what is rare or hard is given up",
        "take the bound away, or raise it; Trainer(gradient_clip_val=...) clips gradients, and HardExamples shows "
        "whether the labels of these examples are wrong",
        {"share": share, "looks": len(hit), "cap": last.cap},
    )
