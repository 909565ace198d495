"""Running statistics of BatchNorms over a run: never given, left behind, adrift, or those of the last batch only."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from lightning_recipe.callbacks._modes import has_parameters, learns

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeGuard

    from torch.optim import Optimizer

    from lightning_recipe.record.events import Event
    from lightning_recipe.record.step import Step

    class _Tracking(_BatchNorm):
        running_mean: Tensor
        running_var: Tensor


LAST_BATCH_ONLY = 0.9
"""Momentum from which on the last batch is nine tenths of a running statistic; in Keras and JAX this is the share that
is kept, and 0.99 the usual value."""
DRIFT = 0.1
"""Standard deviations by which the running means of a frozen network may move, and share by which these may change."""


class Seen(NamedTuple):
    """A BatchNorm as it was at the first look: its weights and its running statistics."""

    weight: Tensor
    mean: Tensor
    var: Tensor


def has_seen_data(norm: nn.Module) -> bool:
    """Whether a BatchNorm has running statistics, and they are not those that it began with.

    Example:
        >>> has_seen_data(nn.BatchNorm1d(2)), has_seen_data(nn.BatchNorm1d(2, track_running_stats=False))
        (False, False)

    """
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
        return False
    if nn.parameter.is_lazy(norm.running_mean):
        return False
    return bool(norm.running_mean.any()) or bool((norm.running_var - 1).any())


def is_untouched(norm: nn.Module) -> bool:
    """Whether the running statistics of a BatchNorm are exactly those that it began with.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> is_untouched(norm), is_untouched(nn.Dropout())
        (True, False)

    """
    return isinstance(norm, _BatchNorm) and norm.running_var is not None and not has_seen_data(norm)


class Statistics:
    """What becomes of the BatchNorms that are called."""

    def __init__(self) -> None:
        self._optimised: set[int] = set()
        self._first: dict[nn.Module, Seen] = {}
        self._in_training: set[int] = set()  # sizes of those that take statistics in training

    def begin(self, root: nn.Module, optimizers: Iterable[Optimizer]) -> None:
        """See BatchNorms before training, and which parameters an optimiser holds."""
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self._optimised = {id(parameter) for group in groups for parameter in group["params"]}
        for norm in filter(_is_judged, root.modules()):
            self._first.setdefault(norm, _seen(norm))

    def note(self, step: Step) -> None:
        """See others at their first look, and which take statistics in training."""
        for norm, event in _called(step):
            self._first.setdefault(norm, _seen(norm))
            if event.training:
                self._in_training.add(norm.num_features)

    def left_behind(self, step: Step) -> tuple[list[Event], list[Event]]:
        """Calls of BatchNorms in eval mode whose weights have changed since the first look, but not their statistics.

        Returns:
            Those whose statistics are the initial ones; and those that hold older ones, have their weights from
            elsewhere than an optimiser, while BatchNorms of their size take statistics: averages of weights.

        """
        never, old = [], []
        for norm, event in _called(step):
            first = self._first.get(norm)
            if event.training or first is None or first.weight.equal(norm.weight.detach()):
                continue
            folded = norm.weight.requires_grad and bool((first.weight != 1).any())  # statistics, into the weights
            if is_untouched(norm):
                never += [event] * (not folded)
            elif id(norm.weight) not in self._optimised and norm.num_features in self._in_training:
                old += [event] * first.mean.equal(norm.running_mean)
        return never, old

    def adrift(self, step: Step, root: nn.Module, fresh: set[str]) -> dict[str, tuple[float, bool]]:
        """BatchNorms in training mode in a network that doesn't learn, and how far their statistics have moved.

        Args:
            step: A training step.
            root: The LightningModule.
            fresh: Names of the BatchNorms that had no statistics when training began.

        Returns:
            By name, the median over the channels in standard deviations, and whether the network drops anything, too;
            if it is more than `DRIFT`, or it does.

        """
        found: dict[str, tuple[float, bool]] = {}
        told: set[str] = set()  # networks that drop
        drops = [e.name for e in step.events if isinstance(e.module, _DropoutNd) and e.training and e.module.p > 0]
        for norm, event in _called(step):
            first = self._first.get(norm)
            if not event.training or not event.name or event.name in fresh or first is None:
                continue
            network = _around(root, event.name)
            if first.weight.equal(norm.weight.detach()) and not learns(step, network):
                noisy = any(name.startswith(f"{network}.") for name in drops)
                scale = (first.var + norm.eps).sqrt()
                moved = (norm.running_mean - first.mean).abs() / scale
                grown = ((norm.running_var + norm.eps).sqrt() / scale - 1).abs()
                drift = max(float(moved.median()), float(grown.median()))
                if drift > DRIFT or (noisy and network not in told):
                    found[event.name] = drift, noisy
                    told |= {network} if noisy else set()
        return found


def of_last_batch(step: Step) -> dict[str, float]:
    """BatchNorms that take statistics with a momentum of `LAST_BATCH_ONLY` or more, and their momentum, by name."""
    return {
        event.name: float(norm.momentum)
        for norm, event in _called(step)
        if event.training and event.name and norm.momentum and norm.momentum >= LAST_BATCH_ONLY
    }


def _is_judged(norm: nn.Module | None) -> TypeGuard[_Tracking]:
    """Whether it is a BatchNorm with weights and statistics."""
    if not isinstance(norm, _BatchNorm) or not norm.affine:
        return False
    return norm.running_mean is not None and not nn.parameter.is_lazy(norm.running_mean)


def _called(step: Step) -> list[tuple[_Tracking, Event]]:
    return [(event.module, event) for event in step.events if _is_judged(event.module)]


def _seen(norm: _Tracking) -> Seen:
    return Seen(*(tensor.detach().clone() for tensor in (norm.weight, norm.running_mean, norm.running_var)))


def _around(root: nn.Module, name: str) -> str:
    """The nearest module around one that has parameters beside those of it."""
    while name := name.rpartition(".")[0]:
        if any(has_parameters(m) and not isinstance(m, _BatchNorm) for m in root.get_submodule(name).children()):
            return name
    return name
