"""The events that a step is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["module", "function", "loss", "returned", "backward", "optimizer step", "zero_grad", "clip"]


class Event(NamedTuple):
    """One thing that happened in a step.

    Attributes:
        kind: A call of a module without children (or of one that can't be looked into: compiled, attention, a
            transformer layer in eval mode); a torch function applied, outside of these, to what came out of one; a
            loss function; what the step returned as its loss; backward; an optimiser's step; gradients set to None or
            zero (those that were None already are not noticed); ``clip_grad_norm_`` or ``clip_grad_value_`` of the
            step's own.
        name: The module's path, the function's name (``"relu"``, ``"getitem"``, ``"T"``), the optimiser's class.
        inputs: Numbers of the tensors that went in; none for what is dropped or chosen within a module. A number stands
            for one tensor object with one content: what is changed in place gets a new one.
        outputs: Numbers of the tensors that came out or were written into.
        module: The module called; a BatchNorm without a name is one that the LightningModule doesn't list.
        where: The line that called a function, such as ``"model.py:42"``; of a module called without gradients, the
            line that switched them off.
        parameters: Names of the parameters that are about to be stepped, or whose gradients are cleared or clipped; of
            those that a function was given.
        training: Whether the module called was in training mode; of a function, whether it drops anything.
        spread: Of a difference, product and the like, and of a loss function, of two tensors: their shapes, if these
            are not the same.
        same: Whether the first two tensors that went in are equal; of a step whose batch is followed.

    Example:
        >>> Event("module", "net.0", (1,), (2,)).outputs
        (2,)

    """

    kind: Kind
    name: str
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    module: nn.Module | None = None
    where: str = ""
    parameters: tuple[str, ...] = ()
    training: bool = False
    spread: tuple[tuple[int, ...], ...] = ()
    same: bool = False
