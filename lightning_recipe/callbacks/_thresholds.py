"""Logits that are compared by hand with what is meant for probabilities."""

from __future__ import annotations

import inspect
import linecache
import math
import re
import sys
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_recipe.callbacks._bias_wiring import RESHAPED, giver
from lightning_recipe.callbacks._modes import COMPARISONS
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.losses.table import BCE_WITH_LOGITS
from lightning_recipe.trial.rehearsal import CannotRehearseError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from torch import nn

    from lightning_recipe.record.step import Step
    from lightning_recipe.trial.rehearsal import Answer

BELOW, ABOVE = (-0.9, -0.2, 0.1, 0.45), (0.55, 0.9, 2.0)
"""Logits on either side of a half; a network's own threshold lies elsewhere, and 0 is where probabilities are cut."""
STRONG = 5.0
"""Logits between which these stand, so that nobody takes all of them for probabilities."""

_HALF = r"(?<![\w.])0?\.50*(?!\w)"
_SIGN, _CALL = r"(?<![-<>=])[<>]=?(?![<>=])", r"\b(?:gt|ge|lt|le)\("
_ANY = re.compile(rf"{_SIGN}|{_CALL}")
_WITH_HALF = re.compile(rf"{_SIGN}\s*{_HALF}|{_HALF}\s*{_SIGN}|{_CALL}[^()]*{_HALF}")


def givers(step: Step) -> set[str]:
    """The layers whose output a training step's loss takes for logits, as it is but for its shape.

    A module of one's own may put out something else in eval mode.
    """
    calls = [call for number in _logits(step) if (call := giver(step, number)) is not None]
    return {call.name for call in calls if type(call.module).__module__.startswith("torch.nn.")}


def on_logits(step: Step, module: nn.Module, trained: Collection[str] = ()) -> Outcome | None:
    """A `warning` if a tensor that a loss takes for logits is rounded, or compared with a half.

    Args:
        step: Of validation, with its wiring and losses.
        module: Whose code the step is; where it can't be read, nothing is found.
        trained: The modules that give logits to the loss of training, where validation may compute none.

    """
    logits = _logits(step)
    for event in step.events:
        of_logits = event.kind == "function" and len(event.inputs) == 1 and event.inputs[0] in logits
        if (event.module is not None and event.name in trained) or (of_logits and event.name in RESHAPED):
            logits |= {*event.outputs}
        elif of_logits:
            compared = event.name in COMPARISONS and with_half(_with_numbers(_code(event.where, module), module))
            if compared or event.name == "round":
                done = "rounds" if event.name == "round" else "compares with 0.5"
                return Outcome(
                    Status.WARNING,
                    "thresholds_on_logits",
                    f"{event.where} {done} what the loss takes for logits, where a probability of 0.5 is a logit of 0",
                    "logits > 0, or logits.sigmoid() > 0.5",
                )
    return None


def by_trial(reported: Callable[[Mapping[str, Answer]], Mapping[str, float]], givers: Collection[str]) -> list[str]:
    """The numbers that change when logits pass a half, and stay as they are on either side, also around 0.

    Args:
        reported: What is logged when modules put out something else.
        givers: The modules that put out logits.

    Example:
        >>> y = torch.arange(8) % 3 == 0
        >>> def cut_at(threshold):
        ...     return lambda answers: {"acc": float(((answers["net"](torch.zeros(8)) > threshold) == y).sum())}
        >>> by_trial(cut_at(0.5), ["net"]), by_trial(cut_at(0.0), ["net"])
        (['acc'], [])

    """
    if not givers:
        return []
    try:
        values = [reported(dict.fromkeys(givers, partial(_between_strong, weak=weak))) for weak in (*BELOW, *ABOVE)]
    except CannotRehearseError:
        return []
    found = []
    for name in values[0]:
        below, above = (
            {of.get(name, math.nan) for of in some} for some in (values[: len(BELOW)], values[len(BELOW) :])
        )
        if len(below) == len(above) == 1 and not any(map(math.isnan, below | above)) and below != above:
            found.append(name)
    return found


def _between_strong(output: Tensor, weak: float) -> Tensor:
    """Of the shape of logits: more than half, at random, are weak, and those between are a strong yes or no."""
    drawn = torch.rand(output.shape, generator=torch.Generator().manual_seed(0)).to(output.device)
    strong = torch.where(drawn < 0.2, STRONG, -STRONG)  # noqa: PLR2004 - as many as of the other sign
    return torch.where(drawn > 0.4, weak, strong).to(output.dtype)  # noqa: PLR2004


def cut_at_a_half(name: str) -> Outcome:
    """What to say of a number that takes logits for yes from a half on.

    Example:
        >>> cut_at_a_half("val_f1").status
        <Status.WARNING: 'warning'>

    """
    return Outcome(
        Status.WARNING,
        "thresholds_on_logits",
        f'"{name}" takes what the loss takes for logits for yes from 0.5 on, and not from 0, which is a probability of '
        "0.5: a logit of 0.5 is one of 0.62",
        "logits > 0, or logits.sigmoid() > 0.5",
    )


def _logits(step: Step) -> set[int]:
    """The tensors that losses take for logits, of which some are below zero."""
    values = [call.arguments["input"] for call in step.loss_calls if call.name == BCE_WITH_LOGITS]
    if not any(bool((value < 0).any()) for value in values):
        return set()
    losses = [event for event in step.events if event.kind == "loss" and event.name == BCE_WITH_LOGITS]
    return {event.inputs[0] for event in losses if event.inputs}


def with_half(code: str) -> bool:
    """Whether all that is compared in a line is compared with a half; of others nobody knows which it is.

    Example:
        >>> with_half("((o > 0.5) == (y > .5)).float()"), with_half("(o > 0) == (y > 0.5)"), with_half("o.gt(0.5)")
        (True, False, True)

    """
    return 0 < len(_WITH_HALF.findall(code)) == len(_ANY.findall(code))


def _with_numbers(code: str, module: nn.Module) -> str:
    """A line of code with the values of its named constants, such as ``self.threshold``, in their places.

    Nothing is computed for it: a property may be a parametrised weight, which changes when it is read.
    """
    known = dict(vars(sys.modules.get(type(module).__module__, sys)), self=module)

    def value(name: re.Match[str]) -> str:
        root, *path = name[0].split(".")
        found = reduce(lambda holder, part: inspect.getattr_static(holder, part, None), path, known.get(root))
        return repr(found) if isinstance(found, float) else name[0]

    return re.sub(r"(?<![\w.])[A-Za-z_][\w.]*", value, code)


def _code(where: str, module: nn.Module) -> str:
    """The line of code at ``"file.py:42"``, if that is where the module's class is written."""
    name, _, number = where.partition(":")
    files = {Path(file) for kind in type(module).mro()[:-1] if (file := _file(kind))}
    return next((linecache.getline(str(file), int(number)) for file in files if file.name == name), "")


def _file(kind: type) -> str | None:
    try:
        return inspect.getsourcefile(kind)
    except TypeError:  # built in
        return None
