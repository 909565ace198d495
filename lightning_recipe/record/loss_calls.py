"""The calls of loss functions in a step, with their arguments."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_recipe.losses.table import LOSSES, TABLE
from lightning_recipe.record.caller import caller
from lightning_recipe.record.copies import cut, cut_arguments
from lightning_recipe.record.provenance import ancestors
from lightning_recipe.record.step import LossCall

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning_recipe.record.provenance import FromNet


class LossCalls:
    """Records losses, those that one place calls in a loop as one.

    Args:
        from_net: What came out of the network.

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> from lightning_recipe.record.provenance import FromNet
        >>> calls, x = LossCalls(FromNet()), torch.ones(2, 1)
        >>> calls.record(F.mse_loss, (x, x), {}, F.mse_loss(x, x))
        >>> [call.name for call in calls.concluded(None)]
        ['mse_loss']

    """

    def __init__(self, from_net: FromNet) -> None:
        self._from_net = from_net
        self._found: list[tuple[LossCall, Tensor]] = []
        self._stacks: list[tuple[Any, ...]] = []  # of each loss, where it was called from

    def record(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], value: Tensor
    ) -> None:
        """Take note of one call of a function in `LOSSES`, which gave `value`."""
        if any(value is known for _, known in self._found):  # seen twice: by the tracer, and by an eager backend
            return
        where, stack = caller()
        if stack in self._stacks:  # a loop
            i = self._stacks.index(stack)
            call, first = self._found[i]
            self._found[i] = (replace(call, times=call.times + 1), first)
            return
        self._stacks.append(stack)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._found.append((self._call(function, args, kwargs, value, where), value))

    def _call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], value: Tensor, where: str
    ) -> LossCall:
        bound = inspect.signature(function).bind(*args, **kwargs)
        bound.apply_defaults()
        prediction, target = bound.arguments.get("input"), bound.arguments.get("target")
        learnt = self._from_net.is_learnt
        if TABLE[LOSSES[function]].symmetric and learnt(target) and not learnt(prediction):
            prediction, target = target, prediction
            bound.arguments |= {"input": prediction, "target": target}
        examples = prediction.shape[0] if isinstance(prediction, Tensor) and prediction.ndim else 1
        kept = cut_arguments(bound.arguments)
        return LossCall(LOSSES[function], function, kept, cut(value), examples, where, learnt(target))

    def concluded(self, roots: list[Tensor] | None) -> list[LossCall]:
        """The losses that `roots` were computed from; all of them for None."""
        if roots is None:
            return [call for call, _ in self._found]
        reached = ancestors(roots)
        return [call for call, value in self._found if value.grad_fn in reached]
