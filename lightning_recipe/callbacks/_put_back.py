"""Whether training goes on after a validation with the weights with which it stopped before."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning_recipe.callbacks._evaluated_weights import sampled
from lightning_recipe.finding import Outcome, Status, listed, owners

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_recipe.run import Run

MOST = 0.5
"""Share of the parameters that must have changed; fewer may be normalised or projected on purpose."""

_Sample = dict[str, "Tensor"]


class PutBack:
    """A sample of the weights before a validation, within it and after it; only the verdict waits for the device.

    Args:
        run: The run, as a validation begins.

    Attributes:
        open: Whether there is more to see of this validation.

    """

    def __init__(self, run: Run) -> None:
        module = run.module
        optimised = {id(p) for one in run.trainer.optimizers for group in one.param_groups for p in group["params"]}
        self._names = [name for name, p in module.named_parameters() if id(p) in optimised]
        self._step, self._before = run.batches_that_stepped, sampled(module)
        self._within: list[_Sample] = []  # as its first two batches begin
        self._after: list[_Sample] = []  # as the next two of training begin
        self.open = bool(self._names)

    def note(self, run: Run, stage: str) -> None:
        """See what the weights are as a batch begins."""
        if not self.open:
            return
        if stage == "validation":
            self.open = run.batches_that_stepped == self._step
            kept = self._within
        else:
            kept = self._after
        if self.open and len(kept) < 2:  # noqa: PLR2004
            kept.append(sampled(run.module))
        self.open &= len(self._after) < 2  # noqa: PLR2004

    def verdict(self) -> Outcome | None:
        """`failed` if validation's own weights stayed, `warning` if a few did, or if validation trains.

        Weights that are put back as late as in the hooks of the next step are near those of before, once it is over.
        """
        if len(self._after) < 2 or not self._within:  # noqa: PLR2004
            return None
        within, after, later = self._within[0], *self._after
        everywhere = [self._before, *self._within, *self._after]
        names = [n for n in self._names if all(n in one for one in everywhere)]
        names = [n for n in names if len({one[n].shape for one in everywhere}) == 1]
        changed = [n for n in names if apart(self._before[n], after[n])]
        to_after, to_before = (math.hypot(*(apart(later[n], one[n]) for n in changed)) for one in (after, self._before))
        if to_after >= to_before:
            return None
        stayed = [n for n in changed if not apart(after[n], within[n])]
        trained = [n for n in changed if len(self._within) > 1 and apart(within[n], self._within[1][n])]
        return judge(stayed, trained, len(names), self._step)


def apart(one: Tensor, other: Tensor) -> float:
    """How far samples are apart; 0 if they are equal, or are no numbers.

    Example:
        >>> import torch
        >>> apart(torch.ones(4), torch.zeros(4)), apart(torch.ones(4), torch.full((4,), torch.nan))
        (2.0, 0.0)

    """
    distance = float((one - other).norm())
    return distance if distance == distance else 0.0  # noqa: PLR0124 - no NaN


def judge(stayed: list[str], trained: list[str], count: int, step: int) -> Outcome | None:
    """What changed weights come to.

    Args:
        stayed: Parameters that are after validation what they were within it, and not what they were before.
        trained: Those that changed from batch to batch of validation, and are not what they were before.
        count: Parameters that are trained.
        step: Of training, at which validation began.

    Example:
        >>> judge(["net.0.weight", "net.0.bias"], [], 2, 100).status
        <Status.FAILED: 'failed'>
        >>> judge([], [], 2, 100)

    """
    if stayed:
        message = (
            f"validation changes what is trained: after that at step {step} training goes on with other values of "
            f"{len(stayed)} of its {count} parameters ({listed(owners(stayed))}), those that validation ran with"
        )
        fix = "keep a copy of the weights before the average is put in their place, and put it back afterwards"
        status = Status.FAILED if len(stayed) >= MOST * count else Status.WARNING
    elif trained:
        message = (
            f"validation trains: in that at step {step} {len(trained)} of {count} parameters "
            f"({listed(owners(trained))}) change from batch to batch, and training goes on with them"
        )
        fix = "take no step of an optimiser in validation, or put the weights of before back afterwards"
        status = Status.WARNING
    else:
        return None
    evidence: dict[str, float] = {"parameters": len(stayed or trained), "of": count, "step": step}
    return Outcome(status, "weights_not_put_back", message, fix, evidence)
