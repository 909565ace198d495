"""What one step did: values, recorded by the observers, judged by the checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Flag, auto
from typing import TYPE_CHECKING, Any

import torch

from lightning_recipe.record.structure import leading_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


class Need(Flag):
    """What of a step is read."""

    INPUTS = auto()
    LOSSES = auto()
    WIRING = auto()
    OUTPUTS = auto()
    GRADIENTS = auto()
    UPDATES = auto()


@dataclass(frozen=True)
class NetCall:
    """One call of an outermost module that has parameters, as it was when it happened.

    Attributes:
        name: The module's name in the LightningModule, ``""`` for the LightningModule itself.
        module: The module called.
        args: Positional arguments, tensors detached and cloned.
        kwargs: Keyword arguments, likewise.
        inputs: The tensors among the arguments that came from outside the network, by where they entered
            (``"net.x"``); those computed by an earlier call are left out.
        output: What it returned, tensors detached and cloned, cut to whole examples of at most
            ``structure.MAX_ELEMENTS``.
        switches: Attributes of the modules inside that are true, false or a text, as they were at its end.

    """

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: dict[str, Tensor]
    output: Any = None
    switches: dict[str, bool | str] = field(default_factory=dict)


@dataclass(frozen=True)
class LossCall:
    """The calls of a loss function of ``torch.nn.functional`` from one place in the code.

    Attributes:
        name: The function's name, such as ``"cross_entropy"``.
        function: The function itself.
        arguments: Its arguments by name, defaults included, as they were: ``function(**arguments)`` is the loss again.
            Tensors are detached, and cut to the first whole examples of at most ``structure.MAX_ELEMENTS``.
        value: The loss of all examples: a scalar, or what ``reduction="none"`` gives.
        examples: Size of dimension 0 of the prediction, before cutting.
        where: The line that called it, such as ``"model.py:42"``.
        target_from_net: Whether the target was itself computed by the network (self-distillation, codebooks).
        times: How often that place called it in the step; all else describes the first call.

    """

    name: str
    function: Callable[..., Tensor]
    arguments: dict[str, Any]
    value: Tensor
    examples: int
    where: str
    target_from_net: bool
    times: int = 1


@dataclass(frozen=True)
class Step:
    """What one step did.

    Attributes:
        batch: The step's first argument, by reference.
        loss: The loss: what the step returned, or the first tensor that ``backward`` was called on.
        net_calls: Calls of outermost modules with parameters, in order.
        loss_calls: Loss functions that `loss` was computed from, in order; all of them in a validation step.
        compiled: Names of compiled modules, within which loss functions are not seen.
        seconds: How long it took; on an accelerator, until all was queued.

    """

    batch: Any
    loss: Tensor | None = None
    net_calls: list[NetCall] = field(default_factory=list)
    loss_calls: list[LossCall] = field(default_factory=list)
    compiled: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The tensors that entered the network from outside, by where they first entered."""
        found: dict[str, Tensor] = {}
        for call in self.net_calls:
            for name, tensor in call.inputs.items():
                found.setdefault(name, tensor)
        return found

    def views(self, most: int) -> dict[str, Tensor]:
        """What entered by later calls at the places of `inputs`: the second augmentation of an image, for example.

        Args:
            most: Calls of a place from which on it is a loop, such as one over time, and left out.

        Example:
            >>> from torch import nn
            >>> calls = [NetCall("net", nn.Linear(1, 1), (), {}, {"net.x": torch.full((1, 2), i)}) for i in (1, 2, 2)]
            >>> Step(None, net_calls=calls).views(3)
            {'net.x, call 2': tensor([[2, 2]])}

        """
        entered: dict[str, list[Tensor]] = {}
        for call in self.net_calls:
            for name, tensor in call.inputs.items():
                before = entered.setdefault(name, [])
                if not any(_equal(tensor, other) for other in before[:most]):
                    before.append(tensor)
        few = {name: different for name, different in entered.items() if len(different) < most}
        return {
            f"{name}, call {i}": tensor for name, different in few.items() for i, tensor in enumerate(different[1:], 2)
        }

    @property
    def batch_size(self) -> int | None:
        """Number of examples: the size that most of the network's inputs (else the batch's tensors) share."""
        return leading_size(self.inputs) or leading_size(self.batch)


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same input again; those that can't be compared are taken to be."""
    if a.layout is not torch.strided or b.layout is not torch.strided:
        return True
    return (a.dtype, a.device, a.shape) == (b.dtype, b.device, b.shape) and torch.equal(a, b)
