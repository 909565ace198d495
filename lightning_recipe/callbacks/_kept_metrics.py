"""Metrics that hold more than the epoch that they are reported for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_recipe.callbacks._averaged import metrics_of
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from torch import nn
    from torchmetrics import Metric

HOOKS = ("on_validation_epoch_end", "on_validation_end")
RUNNING = ("torchmetrics.aggregation", "torchmetrics.wrappers")
"""Where metrics are that are kept over epochs on purpose, such as the best value so far."""


def updates(module: nn.Module) -> dict[str, int]:
    """How often each metric was updated since it was reset, by name.

    Example:
        >>> from torch import nn
        >>> from torchmetrics import MeanMetric
        >>> metric = MeanMetric()
        >>> metric.update(1.0)
        >>> updates(nn.ModuleDict({"mean": metric}))
        {'mean': 1}

    """
    return {name: metric.update_count for name, metric in metrics_of(module).items()}


def computes(module: nn.Module, name: str) -> bool:
    """Whether the module computes a metric by hand at the end of validation, as far as the code of its hook says.

    Args:
        module: The LightningModule.
        name: One of the names of the metric, which may have several.

    """
    codes = [getattr(getattr(type(module), hook, None), "__code__", None) for hook in HOOKS]
    called = [set(code.co_names) for code in codes if code is not None]
    metric = metrics_of(module).get(name)
    names = [other for other, one in module.named_modules(remove_duplicate=False) if one is metric]
    return any({"compute", other.partition(".")[0]} <= names_called for other in names for names_called in called)


def is_of_an_epoch(metric: Metric) -> bool:
    """Whether it is none of those that are kept over epochs on purpose."""
    return not type(metric).__module__.startswith(RUNNING)


def was_computed(metric: Metric) -> bool:
    """Whether it was computed after its latest update, and not reset since."""
    return metric._computed is not None  # noqa: SLF001 - there is no public way to know


def two_stages(name: str, before: int) -> Outcome:
    """Validation reports what training has put into a metric.

    Args:
        name: Of the metric.
        before: Updates that it held when validation began.

    Example:
        >>> two_stages("train_acc", 8).fix.partition(": ")[2]
        'self.train_acc, self.val_acc = metric.clone(), metric.clone()'

    """
    own = name.removeprefix("train_").removeprefix("val_")
    return Outcome(
        Status.FAILED,
        "one_metric_two_stages",
        f"self.{name} held {before} updates of training when validation began, and validation reports it: training "
        "examples are among those that it is computed of",
        f"give each stage a metric of its own: self.train_{own}, self.val_{own} = metric.clone(), metric.clone()",
        {"updates": before},
    )


def never_reset(name: str, before: int) -> Outcome:
    """A metric mixes the epochs.

    Args:
        name: Of the metric.
        before: Updates that it held when the latest validation looked at began.

    Example:
        >>> never_reset("accuracy", 8).status
        <Status.WARNING: 'warning'>

    """
    return Outcome(
        Status.WARNING,
        "never_reset",
        f"self.{name} held {before} updates of earlier epochs when validation began, and is computed by hand: it is "
        "the mean over all epochs so far",
        f"self.{name}.reset() after self.{name}.compute()",
        {"updates": before},
    )
