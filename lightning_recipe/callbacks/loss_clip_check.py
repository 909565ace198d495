"""Recipe, section 2: "you tried to clip your gradients but instead clipped the loss"."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lightning_recipe.callback import Check
from lightning_recipe.callbacks import _cut_late as late
from lightning_recipe.finding import Section
from lightning_recipe.record.step import Need

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.finding import Finding
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

CLAMPS = {"clamp", "clamp_", "clamp_max", "clamp_min", "clip", "clip_", "minimum", "min", "fmin", "hardtanh"}
CLAMPS |= {"maximum", "max", "fmax", "nan_to_num", "nan_to_num_"}
LOOKS = 4
"""Looks with clamped losses before anybody is told: errors are large at first, and a loss that is robust on purpose has
learnt something after a few steps."""
LIKELIHOOD = 0.1
"""Share of likelihoods below their bound. It is there to keep the logarithm finite, and is 1e-7 in Keras, and 1e-3 at
most: hardly any is below, at no time."""


class LossClipCheck(Check):
    """Judges whether the loss is clamped from above, so that the examples with the largest errors are not learnt.

    Between backward and the errors it looks for ``clamp``, ``clip``, ``minimum`` and the like, of the loss, of the
    losses of examples, or of errors that are squared afterwards; for ``nan_to_num`` of infinite losses; and for masks,
    ``where`` and indexing that leave out what is above a constant. It counts what lies above their bounds: there is no
    gradient. `warning` if at four looks, and on average over all looks, more than `share` of it does; or if fewer do,
    but to the end, and the bound of cross entropies is hardly above the loss of a uniform guess: rare classes are given
    up. `advice` if losses of examples are cut to the end by any bound, or the loss itself is now and then.

    Args:
        share: Share of a batch's losses, or of steps if the loss itself is clamped, above the bound, 0 to 1. The
            default is what robust statistics trims as a rule (R. R. Wilcox, Introduction to Robust Estimation and
            Hypothesis Testing: 20 % trimmed means).
        strict: Stop the run when something failed.

    Raises:
        ValueError: If `share` is not between 0 and 1.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "you tried to clip your gradients but instead clipped
        the loss". A. Karpathy, Yes you should understand backprop (2016), about a clipped error in DQN: "if the delta
        is outside of the min/max range, the gradient becomes exactly zero".

    Legitimate:
        - Trimmed losses and small-loss selection, whose bound moves with the losses; masks by labels or confidence.
        - Hinges and margins, free bits: bounds from below. Huber's loss, PPO's ratio: the gradient goes on another way.
        - A bound that is never reached, or in the first steps only.

    Cost:
        The order of calls at each look, less than a second step takes.

    Example:
        >>> LossClipCheck().share
        0.2

    """

    section = Section.MISTAKES
    sentence = 7
    why = "a clamped loss has no gradient: what is most wrong is not learnt"
    needs = Need.WIRING | Need.GRAPH
    explains: ClassVar = {
        "clipped": (
            *("OverfitOneBatch/no_gradient", "OverfitOneBatch/stuck", "OverfitOneBatch/too_slow"),
            *("PredictionDynamicsLogger/frozen", "Baselines/*"),
        )
    }

    def __init__(self, *, share: float = 0.2, strict: bool = False) -> None:
        super().__init__(strict=strict)
        if not 0 < share < 1:
            msg = f"share must lie between 0 and 1, got {share}"
            raise ValueError(msg)
        self.share = share

    def before_training(self, run: Run) -> Iterator[Finding]:  # noqa: ARG002
        """Begin anew with each fit."""
        self._shares: list[float] = []
        self._bounds: set[tuple[float, ...]] = set()  # several are no constants: losses are trimmed
        self._cuts: list[late.Cut] = []  # of losses of examples, by one constant
        self._seen, self._stopped = False, list[str]()  # lines that clamped the loss itself, at single looks
        yield from ()

    def sampled_step(self, run: Run, step: Step) -> Iterator[Finding]:
        """Add up what was clamped."""
        self._seen = self._seen or bool(step.leaves)
        clipped = sum(float(clip.share) * clip.elements for clip in step.clips)
        self._shares.append(clipped / max(1, sum(clip.elements for clip in step.clips)))
        if bounds := tuple(clip.bound for clip in step.clips if clip.bound is not None):
            self._bounds.add(bounds)
        most = min(self.share, LIKELIHOOD if any(clip.of_likelihood for clip in step.clips) else 1)
        looks, mean = sum(share > most for share in self._shares), sum(self._shares) / len(self._shares)
        lines = [clip.where for clip in step.clips if clip.where]
        lines += [event.where for event in reversed(step.events) if event.name in CLAMPS]
        where = f" ({lines[0]})" if lines else ""
        whole = all(clip.elements == 1 for clip in step.clips)
        self._cuts += late.cut(step.clips, run.step, where)
        if whole and clipped and not bounds:
            self._stopped.append(where)
        if looks < LOOKS or mean <= most or not step.clips or len(self._bounds) > 1:
            return
        did = "left out" if bounds else "clamped"
        what = f"the loss itself is {did}" if whole else f"{mean:.0%} of what the loss is the mean of is {did}"
        yield self.warning(
            f"{what}{where} at {looks} of {len(self._shares)} looks: {'these steps' if whole else 'the largest errors'}"
            " have no gradient",
            code="clipped",
            fix="take the bound away; Trainer(gradient_clip_val=...) clips gradients, Huber's loss heeds outliers less",
            share=mean,
            looks=looks,
        )

    def end(self, run: Run) -> Iterator[Finding]:
        """There is no silence."""
        outcome = None if self.findings or len(self._bounds) > 1 else late.verdict(self._cuts, run.step)
        if not self._seen:
            yield self.skipped("no gradient was seen to reach a parameter")
        elif outcome:
            yield self.found(outcome)
        elif not self.findings and self._stopped and len(self._bounds) <= 1:
            yield self.advice(
                f"the loss itself is clamped{self._stopped[-1]}, and had no gradient at {len(self._stopped)} of "
                f"{len(self._shares)} looks: these steps were for nothing",
                code="clipped",
                fix="Trainer(gradient_clip_val=...), or clip_gradients before the step, which keeps their direction",
                looks=len(self._stopped),
            )
        elif not self.findings:
            yield self.passed(f"no loss was clamped at more than {self.share:.0%} in {run.step} steps")
