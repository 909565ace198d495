"""The number that Adam and RMSprop add to what they divide by, where it is most of that."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.callbacks._update_ratios import AT_LEAST, HALF, SHORT
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch.optim import Optimizer

    from lightning_recipe.callbacks._loss_course import Course
    from lightning_recipe.callbacks._update_ratios import Look

EPS = 1e-6
"""Numbers up to which none is worth a look."""
ELEMENTS = 1024
"""Of a weight that are looked at."""
SHARE, TIMES = 0.9, 10.0
"""Share of the elements, and times that it makes updates smaller, from which on it is what an optimiser divides by.
1e-3 with gradients of 1e-3, as of published RMSprops and Adams, makes them half as large."""


class Damped(NamedTuple):
    """An optimiser that divides by the root of its own second moments, plus a number.

    Attributes:
        eps: The number.
        root: The median root of the second moments, of the weights that they are of.
        share: Of the elements whose root is below a tenth of the number.
        slower: Times as large as updates would be without the number.

    """

    eps: float
    root: float
    share: float
    slower: float


def damped(  # noqa: PLR0913, PLR0917 - the circumstances
    looks: Sequence[Look],
    course: Course,
    by: Damped | None,
    smallest: float,
    horizon: float,
    is_as_drawn: Callable[[], bool],
) -> Outcome | None:
    """A number that was to keep a division finite is what updates are divided by, and hardly moves the weights.

    Args:
        looks: All until now.
        course: Of the loss.
        by: What the optimiser divides by.
        smallest: See :class:`UpdateRatioMonitor`.
        horizon: Steps of the run.
        is_as_drawn: Whether no weight had learnt something before; asked last.

    """
    look = looks[-1]
    if by is None or by.share < SHARE or by.slower < TIMES or look.step < AT_LEAST or not course.points:
        return None
    hardly = look.ratio * max(horizon, look.step) < SHORT
    little = hardly or (course.stands_still and look.ratio < smallest)
    if course.is_below(HALF) or not little or not is_as_drawn():
        return None
    return Outcome(
        Status.WARNING,
        "eps_outweighs",
        f"eps={by.eps:g} outweighs what the optimiser divides updates by, the root of the squared gradients "
        f"({by.root:.1g}): an update is {look.ratio:.1g}x the weights, {by.slower:.2g} times less than its rate asks "
        f"for (loss {course})",
        "eps=1e-8, which only keeps the division finite",
        {"eps": by.eps, "root": by.root, "slower": by.slower, "ratio": look.ratio, **course.evidence},
    )


def damping(optimizers: Iterable[Optimizer]) -> Damped | None:
    """What Adams and RMSprops divide updates by, of the weights with two dimensions or more; None without one.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> adam = torch.optim.Adam([weight], eps=1.0)
        >>> weight.grad = torch.full((2, 2), 1e-3)
        >>> _ = adam.step()
        >>> found = damping([adam])
        >>> round(found.root, 6), found.share, round(found.slower)
        (0.001, 1.0, 1001)

    """
    roots, largest = [], 0.0
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            eps = group.get("eps")
            if not isinstance(eps, float | int) or eps <= EPS:
                continue
            for parameter in group["params"]:
                state = optimizer.state.get(parameter, {})
                moment = state.get("exp_avg_sq", state.get("square_avg"))
                if parameter.ndim > 1 and type(moment) is Tensor and moment.shape == parameter.shape:
                    count = float(state.get("step", math.inf)) if "exp_avg_sq" in state else math.inf
                    known = 1 - group["betas"][1] ** count if "betas" in group else 1.0
                    few = moment.detach().flatten()[:: -(-moment.numel() // ELEMENTS)]
                    roots.append((few.float() / max(known, 1e-12)).sqrt())
                    largest = max(largest, eps)
    if not roots:
        return None
    every = torch.cat([one.to(roots[0].device) for one in roots]).cpu()
    root = float(every.median())
    return Damped(largest, root, float((every < largest / 10).float().mean()), (root + largest) / max(root, 1e-30))
