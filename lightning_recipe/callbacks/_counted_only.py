"""The elements of a loss with ``reduction="none"`` that count, where a mask leaves the others out afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_recipe.record.loss_graph import nodes, weights
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from lightning_recipe.record.step import LossCall, Step
    from lightning_recipe.run import Run


def counted_only(run: Run, step: Step) -> list[LossCall]:
    """The calls of a step, of those elements that count, if the step can be run again and some do not.

    Args:
        run: The run.
        step: The first one.

    """
    masks: dict[str, Tensor] = {}
    if any(_is_cut(call) for call in step.loss_calls):
        try:
            with rehearsal(run) as again, torch.autograd.set_detect_anomaly(mode=True, check_nan=False):
                loss = again.step(step.batch).loss
                if loss is not None and loss.requires_grad:
                    for node in nodes(loss):
                        if "Loss" in node.kind and node.where and (counts := weights(loss, node)) is not None:
                            masks.setdefault(node.where, counts != 0)
        except CannotRehearseError:
            return step.loss_calls
    return [_of(call, masks[call.where]) if call.where in masks else call for call in step.loss_calls]


def _is_cut(call: LossCall) -> bool:
    """Whether it gives a number for each element."""
    given, target = call.arguments["input"], call.arguments.get("target")
    return isinstance(target, Tensor) and call.value.numel() > 1 and call.value.shape == given.shape == target.shape


def _of(call: LossCall, counts: Tensor) -> LossCall:
    """The call, of the elements that count."""
    if not _is_cut(call) or counts.shape != call.value.shape or bool(counts.all()) or not bool(counts.any()):
        return call
    kept = {name: call.arguments[name][counts] for name in ("input", "target")}
    if any(isinstance(call.arguments.get(name), Tensor) for name in ("weight", "pos_weight")):
        return call
    return replace(call, arguments=call.arguments | kept, value=call.value[counts], examples=int(counts.sum()))
