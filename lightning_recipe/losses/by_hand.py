"""Losses written by hand that are the same as a function of PyTorch."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from torch.nn import functional as F

from lightning_recipe.losses.table import L1, MSE, TABLE, Family
from lightning_recipe.losses.targets import pairs_by_hand

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.step import LossCall, Step

EQUAL = 1e-3
"""Relative difference of a loss by hand and of a function that is the same."""


def likely(step: Step) -> LossCall | None:
    """What a step's loss compares, as the call of the function that has its value, or whose outputs it sums up.

    Returns:
        None if it has the value of none that could compare an output with a target.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lightning_recipe.record.step import NetCall, Step
        >>> x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([4.0, 7.0])
        >>> call = NetCall("net", nn.Linear(1, 1), (x,), {}, {"net.x": x}, output=2 * x)
        >>> likely(Step({"x": x, "y": y}, torch.tensor(2.5), [call])).function is torch.nn.functional.l1_loss
        True

    """
    if step.loss is None:
        return None
    loss = float(step.loss.detach().double().mean())
    for call in pairs(step):
        with suppress(Exception):  # of another kind
            value, target = call.function(**call.arguments), call.arguments["target"]
            each = target.numel() / len(target) if TABLE[call.name].answers is Family.NUMBERS else 1.0
            if any(math.isclose(loss, times * float(value), rel_tol=EQUAL) for times in (1.0, each)):
                return replace(call, value=value)
    return None


def pairs(step: Step) -> Iterator[LossCall]:
    """What a loss by hand may compare, as the calls of functions that would; of numbers, by squares and absolutely."""
    for call in pairs_by_hand(step, step.batch_size or 0):
        yield call
        if call.name == MSE:
            yield replace(call, name=L1, function=F.l1_loss)
