"""The lowest value of a cost that is found by going down, without a learning rate."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_recipe.trial.rehearsal import CannotRehearseError
from lightning_recipe.trial.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable


SECONDS = 10.0
"""Nominal seconds for the steps of one descent, see ``trial/work.py``; 60 of a small network take a tenth of one."""
_AT_REST, _HARDLY = 15, 1e-3  # a descent is over after as many steps in which it hardly fell
_COUNTED = 1  # the step whose work is counted: by then, what depends on no answer is known
_THERE_AND_BACK = 3  # times the work of a forward pass, with backward
_FASTER, _SLOWER = 1.3, 0.5  # 1.2 in the paper, which has more steps


def descended(
    cost: Callable[[dict[Any, Tensor]], Tensor], start: dict[Any, Tensor], steps: int, fewest: int | None = None
) -> tuple[float, dict[Any, Tensor]]:
    """The lowest cost found by iRprop-, and the values there.

    Each value has a step size of its own, which grows while its gradient keeps its sign: it needs no learning rate.
    Where a cost can't be computed, as outside of a distribution's domain, it goes back, and on with smaller steps.

    Args:
        cost: Of values; always the same for the same.
        start: The first values.
        steps: How often the cost is asked, unless it is at rest earlier.
        fewest: How often if that is too expensive.

    Raises:
        CannotRehearseError: If the cost of the first values raises it, or steps are expensive.

    Source:
        C. Igel and M. Husken, Improving the Rprop Learning Algorithm (2000).

    Example:
        >>> best, values = descended(lambda v: (v["x"] - 300).abs().sum(), {"x": torch.zeros(1)}, 80)
        >>> round(best, 2)
        0.0

    """
    values = {key: value.detach().float().requires_grad_() for key, value in start.items()}
    sizes = {
        key: torch.full_like(v, 0.1 * max(float(v.detach().abs().mean()), 0.1)).detach() for key, v in values.items()
    }
    before = {key: torch.zeros_like(value).detach() for key, value in values.items()}
    best, at = math.inf, values
    affordable, lowest = math.inf, list[float]()  # so far
    for step in range(steps):
        work = Work()
        try:
            with work if step == _COUNTED else nullcontext():
                loss = cost(values)
        except CannotRehearseError:
            if best == math.inf:
                raise
            loss = torch.tensor(math.nan)
        affordable = min(affordable, SECONDS / max(_THERE_AND_BACK * work.seconds, 1e-9))
        if affordable < (fewest or steps):
            msg = f"its steps are too expensive to be run again {steps} times: {work.seconds:.2g} s of work, counted"
            raise CannotRehearseError(msg)
        if not (loss.isfinite() and loss.requires_grad):  # code that mends a loss puts a number in its place
            values, sizes = at, {key: size * 0.1 for key, size in sizes.items()}
            before = {key: torch.zeros_like(size) for key, size in sizes.items()}
            if best == math.inf:
                break
            continue
        if float(loss) < best:
            best, at = float(loss), values
        lowest.append(best)
        if step >= affordable or _rests(lowest):
            break
        gradients = torch.autograd.grad(loss, list(values.values()), allow_unused=True)
        moved = {}
        for (key, value), gradient in zip(values.items(), gradients, strict=True):
            slope = torch.zeros_like(sizes[key]) if gradient is None else gradient.nan_to_num()
            agree = (slope * before[key]).sign()
            sizes[key] = sizes[key] * torch.where(agree > 0, _FASTER, torch.where(agree < 0, _SLOWER, 1.0))
            before[key] = slope * (agree >= 0)
            moved[key] = (value.detach() - sizes[key] * before[key].sign()).requires_grad_()
        values = moved
    return best, {key: value.detach() for key, value in at.items()}


def _rests(lowest: list[float]) -> bool:
    return len(lowest) > 2 * _AT_REST and lowest[-1 - _AT_REST] - lowest[-1] < _HARDLY * abs(lowest[-1])
