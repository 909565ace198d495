"""What a step says of each of its examples: its loss, how sure a mistake of it is, and how odd its input."""

from __future__ import annotations

import math
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.losses.each import by_example, unreduced
from lightning_recipe.losses.table import TABLE, Family, Takes
from lightning_recipe.losses.targets import Answers, of_loss, pairs_by_hand

if TYPE_CHECKING:
    from lightning_recipe.record.step import LossCall, Step

FEW = 8
"""Examples that a batch must have to tell which of them is odd."""
FEATURES = 4096
"""Of an example that are looked at, evenly spaced."""
_SHORT = 4  # bytes; numbers of fewer are short


class Scores(NamedTuple):
    """What a step says of each of its examples.

    Attributes:
        losses: Of shape (N,), means over what an example consists of; fewer where not all were recorded.
        mistakes: The probability that the network gives what it says, where that is wrong; minus infinity elsewhere.
            None where an example has no single answer.
        answers: What is right and what was said.

    """

    losses: Tensor
    mistakes: Tensor | None
    answers: Answers


def scored(step: Step, examples: int) -> Scores | None:
    """The losses of a step's examples, by the first function that compares them with a target.

    Where none of ``torch.nn.functional`` is called, by the one that compares such an output with such a target.

    Returns:
        None if no output is compared with a target, a row for each example.

    """
    for call in chain(step.loss_calls, pairs_by_hand(step, examples)):
        with suppress(Exception):  # a function of its own kind
            if (answers := of_loss(call, examples)) is not None and len(losses := losses_of(call, examples)):
                return Scores(losses, mistakes_of(call) if call.examples == examples else None, answers)
    return None


@torch.no_grad()
def losses_of(call: LossCall, examples: int) -> Tensor:
    """The loss of each example, in the units of the function.

    Raises:
        ValueError: If the function has none for each.

    Example:
        >>> from torch.nn import functional as F
        >>> from lightning_recipe.record.step import LossCall
        >>> arguments = {"input": torch.tensor([[1.0], [4.0]]), "target": torch.zeros(2, 1), "reduction": "mean"}
        >>> losses_of(LossCall("mse_loss", F.mse_loss, arguments, torch.tensor(8.5), 2, "a.py:1", False), 2)
        tensor([ 1., 16.])

    """
    arguments = {name: _long(value) for name, value in call.arguments.items()}
    values, counted = unreduced(call, arguments)
    if not values.ndim or len(values) != len(arguments["input"]):
        msg = f"{call.name} has no loss of each example"
        raise ValueError(msg)
    total, count = by_example(values, counted, call, examples)
    return total / count.clamp(min=1)


@torch.no_grad()
def mistakes_of(call: LossCall) -> Tensor | None:
    """How sure each example's mistake is, see :class:`Scores`.

    Example:
        >>> from torch.nn import functional as F
        >>> from lightning_recipe.record.step import LossCall
        >>> p = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
        >>> arguments = {"input": p.log(), "target": torch.tensor([1, 1])}
        >>> mistakes_of(LossCall("nll_loss", F.nll_loss, arguments, torch.tensor(1.0), 2, "a.py:1", False))
        tensor([0.9000,   -inf])

    """
    loss, prediction, target = TABLE[call.name], _long(call.arguments["input"]), call.arguments["target"]
    if loss.answers is Family.CLASSES and loss.of_classes and prediction.ndim == 2 and target.ndim == 1:  # noqa: PLR2004
        logits = loss.takes is Takes.LOGITS
        sure, said = (prediction.softmax(1) if logits else prediction.exp()).max(1)
        wrong = (said != target) & (target != call.arguments.get("ignore_index", -1))
    elif loss.answers is Family.YES_NO and bool(((target == 0) | (target == 1)).all()):
        yes = prediction.sigmoid() if loss.takes is Takes.LOGITS else prediction
        sure, wrong = torch.maximum(yes, 1 - yes), (yes > 1 / 2) != (target > 1 / 2)
    else:
        return None
    found = torch.where(wrong, sure, -math.inf)
    return found.flatten(1).amax(1) if found.ndim > 1 else found


@torch.no_grad()
def oddness(entered: Tensor) -> Tensor | None:
    """How far each example is from the others of its batch, in standard deviations of each feature.

    The fourth root of the mean fourth power: one feature of many counts, and a single pixel does not.

    Args:
        entered: Of shape (N, ...).

    Returns:
        Of shape (N,), infinite where a number is missing that others have; None of what has no distances, such as
        tokens, and of few examples.

    Example:
        >>> x = torch.zeros(8, 4)
        >>> x[3] = 1.0
        >>> oddness(x).argmax()
        tensor(3)

    """
    if not entered.is_floating_point() or entered.ndim < 2 or len(entered) < FEW or not entered.numel():  # noqa: PLR2004
        return None
    values = _long(entered).flatten(1)
    values = values[:, :: math.ceil(values.shape[1] / FEATURES)]
    squares = (values - values.mean(0)).square()
    variance = squares.mean(0)
    odd: Tensor = squares.div(variance.where(variance > 0, 1)).square().mean(1).pow(1 / 4)
    if bool(odd.isfinite().all()):
        return odd
    there = values.isfinite()
    if bool(there.all()):  # too large to be squared
        return odd.nan_to_num(math.inf)
    mean = values.where(there, torch.nan).nanmean(0)
    others = oddness(values.where(there, mean.nan_to_num()))
    return None if others is None else others.where(there.logical_or(mean.isnan()).all(1), math.inf)


def _long(value: Any) -> Any:
    """Numbers that are short, at full length."""
    short = isinstance(value, Tensor) and value.is_floating_point() and value.dtype.itemsize < _SHORT
    return value.float() if short else value
