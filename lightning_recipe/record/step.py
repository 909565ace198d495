"""What one step did: values, recorded by the observers, judged by the checks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from lightning_recipe.record.tensors import leading_size, same

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from lightning_recipe.record.clips import Clip
    from lightning_recipe.record.events import Event
    from lightning_recipe.record.graph import Node


class Need(Flag):
    """What is to be known of a step; nothing else is paid for.

    Attributes:
        INPUTS: `Step.net_calls`; each argument is copied.
        LOSSES: `Step.loss_calls`; arguments of losses are copied, up to ``copies.MAX_ELEMENTS``.
        WIRING: `Step.events`, `Step.unlisted`.
        GRAPH: `Step.graph`, `Step.leaves`, `Step.clips`, which go with `WIRING`.
        OUTPUTS: `Step.outputs`.
        GRADIENTS: `Step.gradients`.
        UPDATES: `Step.updates`; the weights are copied when an optimiser is about to step.
        HELD: `Step.held`, which goes with `WIRING`.
        BATCH: What is made of nothing but the batch is among `Step.events`, too; of a step that is run again.
        PARAMETERS: So is what is made of nothing but parameters.
        INSIDE: What functions do within leaves that are not torch's own is, in place of these.

    Example:
        >>> Need.INPUTS in (Need.INPUTS | Need.LOSSES)
        True

    """

    INPUTS = auto()
    LOSSES = auto()
    WIRING = auto()
    GRAPH = auto()
    OUTPUTS = auto()
    GRADIENTS = auto()
    UPDATES = auto()
    HELD = auto()
    BATCH = auto()
    PARAMETERS = auto()
    INSIDE = auto()


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
        output: The tensors in what it returned, see ``outputs.returned``, detached and cloned, cut to whole examples of
            at most ``copies.MAX_ELEMENTS``.
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
            Tensors are detached, and cut to the first whole examples of at most ``copies.MAX_ELEMENTS``.
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


class Reduced(NamedTuple):
    """What is kept of a tensor.

    Attributes:
        zeros: Share of its elements that are exactly 0.
        mean: Over all elements.
        std: Standard deviation of all elements, without Bessel's correction.
        largest: Of all elements; NaN where nobody knows.
        off: Share of the units, features or channels, of which all elements are 0, where there are many of each; 0 of
            what is no ReLU. No NaN: looks are compared.

    Example:
        >>> Reduced(zeros=0.5, mean=0.1, std=1.0).zeros
        0.5

    """

    zeros: float
    mean: float
    std: float
    largest: float = math.nan
    off: float = 0.0


class Change(NamedTuple):
    """What the optimisers' steps did to a parameter.

    Attributes:
        norm: Of what they changed.
        before: Norm of the parameter before.
        rounded: Share of its elements with a gradient that are the same as before, in parameters of less than 32 bits,
            where a small change is rounded away; 0 in others.

    Example:
        >>> Change(norm=0.001, before=1.0).rounded
        0.0

    """

    norm: float
    before: float
    rounded: float = 0.0


@dataclass(frozen=True)
class Step:
    """What one step did.

    Attributes:
        batch: The step's first argument as the step was given it; its tensors by reference.
        loss: The loss: what the step returned, or the first tensor that ``backward`` was called on.
        net_calls: Calls of outermost modules with parameters, in order.
        loss_calls: Loss functions that `loss` was computed from, in order; all of them in a validation step.
        compiled: Names of compiled modules, within which loss functions are not seen.
        seconds: How long it took; on an accelerator, until all was queued.
        events: What happened, in order; see :class:`Event` and :meth:`producer`, :meth:`consumers`. Unseen are scripted
            modules, functions compiled on their own, and what goes on in ``torch.func`` but for its inputs.
        leaves: The tensors that gradients of the loss end up in, such as parameters, by reference.
        graph: The autograd graph of what ``backward`` was called on, or of what the step returned, see
            :class:`~lightning_recipe.record.graph.Node`.
        unlisted: Modules with parameters that were called, and are none of the LightningModule's, with the line that
            called each first.
        clips: The clamps from above that a loss has come through, see :func:`~lightning_recipe.record.clips.clips`.
        outputs: The first floating tensor that each leaf put out in its first call, by its name; of a tanh,
            sigmoid or cell in one of the last: a cell begins with a state of zeros. The functions ``tanh`` and
            ``sigmoid``, with `WIRING`, by name and line, see `key_of`.
        gradients: Norm of each parameter's gradient when its optimiser is about to step, unscaled, NaN without one.
        updates: What the optimisers' steps changed in each parameter.
        held: Norm of each gradient that was there, by parameter, when each backward, clipping and optimiser's step of
            `events` began, in order, and at last when all was over.

    """

    batch: Any
    loss: Tensor | None = None
    net_calls: list[NetCall] = field(default_factory=list)
    loss_calls: list[LossCall] = field(default_factory=list)
    compiled: list[str] = field(default_factory=list)
    seconds: float = 0.0
    events: list[Event] = field(default_factory=list)
    leaves: list[Tensor] = field(default_factory=list)
    graph: list[Node] = field(default_factory=list)
    unlisted: list[tuple[nn.Module, str]] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)
    outputs: dict[str, Reduced] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)
    updates: dict[str, Change] = field(default_factory=dict)
    held: list[dict[str, float]] = field(default_factory=list)

    def producer(self, number: int) -> Event | None:
        """The event that a tensor came out of; None if it came from outside, or by a way that is not seen.

        Example:
            >>> from lightning_recipe.record.events import Event
            >>> layer = Event("module", "layer", (1,), (2,))
            >>> Step(None, events=[layer]).producer(2) is layer, Step(None, events=[layer]).producer(1)
            (True, None)

        """
        return next((e for e in self.events if number in e.outputs and number not in e.inputs), None)

    def consumers(self, number: int) -> list[Event]:
        """The events that a tensor went into, but for those that only handed it on, such as dropout in eval mode.

        Example:
            >>> from lightning_recipe.record.events import Event
            >>> add = Event("function", "add", (1, 2), (3,))
            >>> Step(None, events=[Event("module", "dropout", (1,), (1,)), add]).consumers(1) == [add]
            True

        """
        return [e for e in self.events if number in e.inputs and number not in e.outputs]

    @staticmethod
    def key_of(event: Event) -> str:
        """What an event's numbers are found by in `outputs`.

        Example:
            >>> from lightning_recipe.record.events import Event
            >>> Step.key_of(Event("function", "tanh", where="model.py:42"))
            'tanh (model.py:42)'

        """
        return event.name if event.kind == "module" else f"{event.name} ({event.where})"

    def repeated(self) -> dict[str, list[Event]]:
        """The calls of each module and function, by `key_of`, up to the one that `outputs` are of, if it is bounded.

        Example:
            >>> from lightning_recipe.record.events import Event
            >>> step = Step(None, events=[Event("module", "act", (i,), (i + 1,)) for i in (1, 2, 3)])
            >>> [event.inputs for event in step.repeated()["act"]]
            [(1,), (2,)]

        """
        found: dict[str, list[Event]] = {}
        for event in self.events:
            if event.kind in {"module", "function"}:
                found.setdefault(self.key_of(event), []).append(event)
        return {key: calls[: 1 << len(calls).bit_length() - 1] for key, calls in found.items()}

    def sole_consumer(self, module: nn.Module) -> nn.Module | None:
        """The module that all outputs of `module` went to, at each of its calls, and nothing else did.

        Returns:
            None if anything else was done to an output, if a call has several outputs or none, or there was no call.

        Example:
            >>> from lightning_recipe.record.events import Event
            >>> linear, norm = nn.Linear(2, 2), nn.BatchNorm1d(2)
            >>> events = [Event("module", "0", (1,), (2,), linear), Event("module", "1", (2,), (3,), norm)]
            >>> Step(None, events=events).sole_consumer(linear) is norm
            True
            >>> Step(None, events=[*events, Event("function", "add", (2, 3), (4,))]).sole_consumer(linear) is None
            True

        """
        found: list[nn.Module | None] = []
        for call in self.events:
            if call.module is module:
                takers = self.consumers(call.outputs[0]) if len(call.outputs) == 1 else []
                found.append(takers[0].module if len(takers) == 1 else None)
        return found[0] if found and all(taker is found[0] for taker in found) else None

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
            >>> calls = [NetCall("net", nn.Linear(1, 1), (), {}, {"net.x": torch.full((1, 2), i)}) for i in (1, 2, 2)]
            >>> Step(None, net_calls=calls).views(3)
            {'net.x, call 2': tensor([[2, 2]])}

        """
        entered: dict[str, list[Tensor]] = {}
        for call in self.net_calls:
            for name, tensor in call.inputs.items():
                before = entered.setdefault(name, [])
                if not any(_again(tensor, other) for other in before[:most]):
                    before.append(tensor)
        few = {name: different for name, different in entered.items() if len(different) < most}
        return {
            f"{name}, call {i}": tensor for name, different in few.items() for i, tensor in enumerate(different[1:], 2)
        }

    @property
    def batch_size(self) -> int | None:
        """Number of examples: the size that most of the network's inputs (else the batch's tensors) share."""
        return leading_size(self.inputs) or leading_size(self.batch)


def _again(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same input again; those that can't be compared are taken to be."""
    dense = a.layout is b.layout is torch.strided
    return not dense or (a.dtype == b.dtype and same(a, b))
