"""What stands in the place of logging, backward and optimisers while a step is run again on a copy."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_recipe.record.graph import graph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lightning.pytorch import LightningModule


class Logged(NamedTuple):
    """A value that a step gave to ``self.log`` or ``self.log_dict``.

    Attributes:
        name: Its key.
        value: As it was given: a tensor, a number, a metric.
        on_epoch: Whether it was asked to be reduced over the epoch; None is Lightning's default.
        mean: Whether the batches' values are averaged, which is the default.
        batch_size: What a batch was said to weigh in this mean; None if Lightning is to see.

    Example:
        >>> Logged("val_loss", 0.5, on_epoch=None, mean=True).name
        'val_loss'

    """

    name: str
    value: Any
    on_epoch: bool | None
    mean: bool
    batch_size: int | None = None


class Heard(NamedTuple):
    """What a step was about to do to gradients.

    Attributes:
        kind: What.
        number: Which of the losses backward was called on, from 0 on; the index of the optimiser of the others.

    Example:
        >>> Heard("step", 1).kind
        'step'

    """

    kind: Literal["backward", "step", "zero_grad"]
    number: int


def log(  # noqa: PLR0913, PLR0917 - those of Lightning, in its order
    logged: list[Logged],
    name: str,
    value: Any,
    prog_bar: bool = False,  # noqa: ARG001, FBT001, FBT002
    logger: bool | None = None,  # noqa: ARG001, FBT001
    on_step: bool | None = None,  # noqa: ARG001, FBT001
    on_epoch: bool | None = None,  # noqa: FBT001
    reduce_fx: Any = "mean",
    *_: Any,
    batch_size: int | None = None,
    **__: Any,
) -> None:
    """In the place of ``self.log``."""
    logged.append(Logged(name, value, on_epoch, reduce_fx in {"mean", "avg", torch.mean}, batch_size))


def log_dict(logged: list[Logged], values: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
    """In the place of ``self.log_dict``, which also takes a collection of metrics."""
    for name, value in values.items():
        log(logged, name, value, *args, **kwargs)


def step(heard: list[Heard], what: Heard, closure: Callable[[], Any] | None = None, **_: Any) -> Any:
    """In the place of an optimiser's ``step``."""
    result = closure() if callable(closure) else None
    heard.append(what)
    return result


def zero_grad(heard: list[Heard], what: Heard, *_: Any, **__: Any) -> None:
    """In the place of its ``zero_grad``."""
    heard.append(what)


@contextmanager
def backward_noted() -> Iterator[list[Tensor]]:
    """What backward is called on, in order, while it goes back as ever.

    Example:
        >>> weight = torch.ones(1, requires_grad=True)
        >>> with backward_noted() as losses:
        ...     (3 * weight).sum().backward()
        >>> losses, weight.grad
        ([tensor(3.)], tensor([3.]))

    """
    original, noted = torch.autograd.backward, list[Tensor]()

    def backward(tensors: Any, *args: Any, **more: Any) -> None:
        noted.extend(tensor.detach() for tensor in ([tensors] if isinstance(tensors, Tensor) else tensors))
        original(tensors, *args, **more)

    torch.autograd.backward = backward
    try:
        yield noted
    finally:
        torch.autograd.backward = original


@contextmanager
def without_backward(
    module: LightningModule, held_back: list[Tensor], heard: list[Heard], *, climbs: bool
) -> Iterator[None]:
    """Note what backward is called on, in place of going back: the graph stays, and no parameter gets a gradient.

    If it `climbs`, tensors of the step's own get theirs: it goes up a slope of its inputs, as for adversarial examples,
    or for samples of an energy, where no parameter takes part. And parameters have gradients of 0 until the step ends,
    since a step by hand may clip them, or log their norm.
    """
    original = torch.autograd.backward
    own = {id(parameter) for parameter in module.parameters()}
    without = (
        [p for p in module.parameters() if p.requires_grad and p.grad is None and not is_lazy(p)] if climbs else []
    )

    def noted(tensors: Any, *args: Any, **more: Any) -> None:
        roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        ends = [node.leaf for node in graph(roots) if node.leaf is not None] if climbs else []
        if others := [leaf for leaf in ends if id(leaf) not in own]:
            original(tensors, more.get("grad_tensors", next(iter(args), None)), retain_graph=True, inputs=others)
        for tensor in roots if len(others) < len(ends) or not ends else ():
            heard.append(Heard("backward", len(held_back)))
            held_back.append(tensor)
        for parameter in without:
            parameter.grad = torch.zeros_like(parameter)

    torch.autograd.backward = noted
    module.__dict__["manual_backward"] = lambda loss, *_, **__: loss.backward()
    try:
        yield
    finally:
        torch.autograd.backward = original
        del module.__dict__["manual_backward"]
        for parameter in without:
            parameter.grad = None
