"""What a loss written by hand, of which only the step knows what it is, should start at."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from lightning_recipe.callbacks._init_loss_diagnosis import MILD, band
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.losses.references import DENSE_SHARE, FAR

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_recipe.trial.answers import Answers

SMALL, SMALLER = 1e-3, 1e-6
"""Factors by which the network's own outputs are made small: as good as zeros, which normalisation can't bear."""
_SAME = 0.01  # relative difference within which the size of outputs makes no difference to a loss


class Asked(NamedTuple):
    """What the step's own loss is for answers in place of the network's.

    Attributes:
        measured: What the first step had.
        own: Of the network's own outputs, averaged over draws where the step draws random numbers; without dropout
            where the start is too high with it.
        small: Of its outputs made small: of an output layer that knows nothing.
        smaller: Of its outputs made a thousand times smaller.
        constant: Of the best row for all examples that was found.
        lowest: Of the best free answers that were found; NaN where nobody asked.
        examples: How many the batch has.

    Example:
        >>> decided(Asked(52.0, 52.0, 2.3, 2.3, 2.2, 0.0, 32), warn_ratio=2, fail_ratio=10, bias_share=0.45)
        'far too high'

    """

    measured: float
    own: float
    small: float
    smaller: float
    constant: float
    lowest: float
    examples: int

    @property
    def evidence(self) -> dict[str, float]:
        """As the evidence of other losses is called."""
        return {"measured": self.measured, "know_nothing": self.small, "best_constant": self.constant}


def ask(answers: Answers, measured: float, examples: int, **ratios: float) -> Asked:
    """Ask the step, for what is lowest only where it matters.

    Args:
        answers: Of the step.
        measured: The loss of the first step.
        examples: How many the batch has.
        **ratios: Those of `decided`.

    """
    small, smaller = answers.cost(lambda _, own: own * SMALL), answers.cost(lambda _, own: own * SMALLER)
    own = answers.cost(lambda _, own: own) if len(answers.draws) > 1 else measured
    constant = min(small, answers.constant())
    asked = Asked(measured, own, small, smaller, constant, math.nan, examples)
    doubtful = decided(asked, **ratios) != "good"
    return asked._replace(lowest=answers.lowest()) if doubtful else asked


def decided(asked: Asked, *, warn_ratio: float, fail_ratio: float, bias_share: float) -> str:
    """The decision, see `InitLossCheck`; ratios have a meaning only for losses that are never negative.

    Returns:
        "far too high", "too high", "mildly too high", "far off", "needs bias", or "good".

    """
    small, constant, n = asked.small, asked.constant, asked.examples
    measured = min(asked.measured, asked.own)  # by chance the first step may have drawn what costs much
    if not all(map(math.isfinite, (measured, small, constant))) or abs(measured - small) <= _SAME * abs(small):
        of_size = False  # or the loss does not depend on the size of the outputs
    else:
        of_size = asked.smaller > small / 10  # else zeros are what it wants: a residual compared with 0
    unbounded = min(measured, small, constant, 0.0 if math.isnan(asked.lowest) else asked.lowest) < -_SAME * abs(small)
    if of_size and unbounded:
        return "too high" if measured - small > fail_ratio * band(n) * (1 + abs(small)) else "good"
    if of_size and measured > warn_ratio * band(n) * small:
        if measured <= min(MILD, fail_ratio) * band(n) * small:
            return "mildly too high"
        return "far too high" if measured > fail_ratio * band(n) * small else "too high"
    needed = max(bias_share, DENSE_SHARE) + 3 / n
    varied = constant > 1e-5 * small  # else all targets are the same, or there are none
    if unbounded or not varied or constant >= (1 - needed) * small or measured <= (small + constant) / 2:
        return "good"
    return "far off" if small > (1 + FAR**2) * constant else "needs bias"


def outcome(asked: Asked, answers: Answers, *, warn_ratio: float, fail_ratio: float, bias_share: float) -> Outcome:
    """The verdict in words.

    Args:
        asked: What the step said.
        answers: Know the layers that the loss is computed from.
        warn_ratio: As of `InitLossCheck`.
        fail_ratio: Likewise.
        bias_share: Likewise.

    """
    layers = ", ".join(answers.modules[:3]) + (" and others" if len(answers.modules) > 3 else "")  # noqa: PLR2004
    start = f"the loss starts at {asked.measured:.4g}"
    reference = f"with outputs of {layers} near zero it is {asked.small:.4g}"
    reached = f"a constant output reaches {asked.constant:.4g}"
    what = decided(asked, warn_ratio=warn_ratio, fail_ratio=fail_ratio, bias_share=bias_share)
    if "too high" in what:
        status = {"far too high": Status.FAILED, "too high": Status.WARNING}.get(what, Status.ADVICE)
        fix = f"{_sizes(answers)}: bring inputs and targets to about 1, and initialise {layers} smaller"
        return Outcome(status, "too_high", f"{start}; {reference}, and {reached}", fix, asked.evidence)
    if what != "good":
        status = Status.WARNING if what == "far off" else Status.ADVICE
        message = (
            f"{start}, but {reached.replace('output', f'output of {layers}')}: the first steps go into learning it"
        )
        fix = f"set the bias of {layers} to the best constant, or scale the targets to a mean of 0 and a deviation of 1"
        return Outcome(status, "output_bias", message, fix, asked.evidence)
    calm = f", on average or without dropout at {asked.own:.4g}" * (asked.own < (1 - _SAME) * asked.measured)
    return Outcome(Status.PASSED, "", f"{start}{calm}; {reference}, and {reached}", "", asked.evidence)


def _sizes(answers: Answers) -> str:
    """How large the outputs are that the loss is computed from, by layer."""
    outputs: dict[str, list[Tensor]] = {}
    for place, own in answers.own.items():
        outputs.setdefault(place.module, []).append(own.double().flatten())
    found = {name: torch.cat(values) for name, values in list(outputs.items())[:3]}
    return ", ".join(
        f"outputs of {name} have a standard deviation of {float(values.std(correction=0)):.3g} around "
        f"{float(values.mean()):.3g}"
        for name, values in found.items()
    )
