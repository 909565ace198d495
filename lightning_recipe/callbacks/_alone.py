"""BatchNorms that keep no running statistics: what becomes of an example that comes alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_recipe.callbacks._factor import loss_of
from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.record.tensors import leading_size
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from lightning_recipe.run import Run

CLEARLY = 2.0
"""Times the loss of a whole batch, from which on that of its examples, each by itself, is clearly another one."""


class Alone(NamedTuple):
    """A validation batch, as it is, and as if each of its examples had come alone.

    Attributes:
        norms: Names of the BatchNorms that take the statistics of the batch in validation.
        examples: In the batch.
        together: Its loss; None where nobody knows.
        apart: Its loss by the statistics of each example; None where a layer has no more than one number of each.

    """

    norms: list[str]
    examples: int
    together: float | None = None
    apart: float | None = None


def has_no_statistics(module: nn.Module) -> bool:
    """Whether it is a BatchNorm that keeps no running statistics.

    Example:
        >>> from torch import nn
        >>> has_no_statistics(nn.BatchNorm1d(2, track_running_stats=False)), has_no_statistics(nn.BatchNorm1d(2))
        (True, False)

    """
    return isinstance(module, _BatchNorm) and module.running_mean is None and module.running_var is None


def each_alone(run: Run, batch: Any) -> Alone | None:
    """Try a validation batch on a copy; None where no such layer is called once, with all examples of the batch."""
    examples = leading_size(batch) or 0
    if examples < 2:  # noqa: PLR2004 - it is alone
        return None
    try:
        with rehearsal(run) as again:
            again.module.requires_grad_(requires_grad=False)  # validation takes its results to numpy
            norms = {name: module for name, module in again.module.named_modules() if has_no_statistics(module)}
            given: dict[str, list[tuple[int, ...]]] = {name: [] for name in norms}
            handles = [norm.register_forward_hook(_noting(given[name])) for name, norm in norms.items()]
            together = loss_of(again, batch)
            for handle in handles:
                handle.remove()
            shapes = {name: calls[0] for name, calls in given.items() if len(calls) == 1 and calls[0][0] == examples}
            if not shapes or any(given[name] for name in given.keys() - shapes.keys()):
                return None
            if together is None or any(math.prod(shape[2:]) < 2 for shape in shapes.values()):  # noqa: PLR2004
                return Alone(list(shapes), examples, together)
            for name in shapes:
                norms[name].register_forward_hook(_of_each)
            return Alone(list(shapes), examples, together, loss_of(again, batch))
    except CannotRehearseError:
        return None


def _noting(shapes: list[tuple[int, ...]]) -> Callable[..., None]:
    def note(_: nn.Module, __: Any, output: Tensor) -> None:
        shapes.append(tuple(output.shape))

    return note


def _of_each(norm: nn.Module, args: tuple[Tensor, ...], _: Tensor) -> Tensor:
    """What a BatchNorm would have put out for each example alone."""
    return F.instance_norm(args[0], weight=norm.weight, bias=norm.bias, eps=norm.eps)  # type: ignore[arg-type]


def of_alone(alone: Alone) -> Outcome:
    """What is to be said of layers that take their statistics of the batch in validation, too.

    Example:
        >>> [of_alone(Alone(["norm"], 32, 0.1, apart)).status.value for apart in (0.12, 1.9, None)]
        ['advice', 'warning', 'advice']

    """
    together, apart = alone.together, alone.apart
    clearly = together is not None and apart is not None and 0 < CLEARLY * together < apart
    told = "in eval mode, too, what becomes of an example depends on the others in its batch"
    evidence: dict[str, float] = {"norms": len(alone.norms), "examples": alone.examples}
    if together is not None and apart is not None:
        told = f"the loss of {alone.examples} examples in validation is {together:.3g}, {apart:.3g} if each comes alone"
        evidence |= {"loss": together, "alone": apart}
    return Outcome(
        Status.WARNING if clearly else Status.ADVICE,
        "statistics_of_the_batch",
        f"{listed(alone.norms)} {'keep' if len(alone.norms) > 1 else 'keeps'} no running statistics: {told}",
        "track_running_stats=True, the default; where running statistics do not fit, see why, or take GroupNorm, which "
        "needs no batch",
        evidence,
    )
