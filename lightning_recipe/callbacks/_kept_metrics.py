"""Metrics that hold more than the epoch that they are reported for."""

from __future__ import annotations

import inspect
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn
from torchmetrics import Metric

from lightning_recipe.callbacks._averaged import metrics_of
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.tensors import tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from lightning_recipe.run import Run

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
    called = [names for hook in HOOKS for names in names_in(type(module), hook, 0)]
    metric = metrics_of(module).get(name)
    names = [other for other, one in module.named_modules(remove_duplicate=False) if one is metric]
    return any({"compute", other.partition(".")[0]} <= names_called for other in names for names_called in called)


def names_in(kind: type, method: str, depth: int = 2) -> Iterator[set[str]]:
    """The names in the code of a method, and of each method that it calls.

    Args:
        kind: Class that has it.
        method: Its name.
        depth: Calls that are followed.

    Example:
        >>> from torch.nn import Module
        >>> "named_parameters" in next(names_in(Module, "parameters"))
        True

    """
    function = getattr(kind, method, None)
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    if code is not None:
        yield set(code.co_names)
        for name in code.co_names if depth else ():
            yield from names_in(kind, name, depth - 1)


class Kept(NamedTuple):
    """A list of the module's, or several in a dictionary.

    Attributes:
        first: The first tensor in it.
        size: Of all of them.
        single: Whether it holds one number, after one batch a mean of it.

    """

    first: weakref.ref[Tensor]
    size: int
    single: bool


def lists(module: nn.Module) -> dict[str, Kept]:
    """The lists that hold tensors, by attribute.

    Example:
        >>> from torch import ones
        >>> from torch.nn import Module
        >>> module = Module()
        >>> module.outputs = {"said": [ones(2), ones(2)], "true": []}
        >>> {name: kept.size for name, kept in lists(module).items()}
        {'outputs': 2}

    """
    found = {}
    for name, value in vars(module).items():
        inside = [one for one in (value.values() if isinstance(value, dict) else [value]) if isinstance(one, list)]
        first = next((tensor for one in inside for _, tensor in tensors(one)), None)
        if first is not None:
            entries = [entry for one in inside for entry in one]
            size = sum(len(e) if isinstance(e, list) else 1 for e in entries)
            found[name] = Kept(weakref.ref(first), size, size == first.numel() == 1)
    return found


def grown(before: dict[str, Kept], now: dict[str, Kept], module: nn.Module) -> dict[str, int]:
    """Lists that still hold what an earlier validation put there, and more, and what is reported is computed of.

    As far as the code says: a step of validation adds to them, and the method after it that logs reads them.

    Returns:
        How much they held more.

    """
    more = {n: now[n].size - kept.size for n, kept in before.items() if n in now and kept.first() is now[n].first()}
    return {name: count for name, count in more.items() if count > 0 and _reported(module, name)}


def _reported(module: nn.Module, name: str, *words: str) -> bool:
    """Whether a step of validation adds to a list, and the method after it that logs reads it, by their names."""
    kind = type(module)
    added = set[str]().union(*names_in(kind, "validation_step"))
    logging = [names for hook in HOOKS for names in names_in(kind, hook) if names & {"log", "log_dict"}]
    adds = name in added and bool(added & {"append", "extend"})
    return adds and any(name in names and names.issuperset(words) for names in logging)


def unweighted(lists: dict[str, Kept], module: nn.Module) -> list[str]:
    """Lists of one number for each batch whose mean is logged.

    Args:
        lists: After the first batch of a validation.
        module: Whose they are.

    """
    return [name for name, kept in lists.items() if kept.single and _reported(module, name, "mean")]


def is_of_an_epoch(metric: Metric) -> bool:
    """Whether it is none of those that are kept over epochs on purpose."""
    return not type(metric).__module__.startswith(RUNNING)


def was_computed(metric: Metric) -> bool:
    """Whether it was computed after its latest update, and not reset since."""
    return metric._computed is not None  # noqa: SLF001 - there is no public way to know


def of_two_loaders(run: Run) -> Iterator[str]:
    """Metrics that two validation sets are put into: logged as an object for both, or several entries of one list."""
    loaders: dict[int, set[Any]] = {}
    for result in (run.trainer._results or {}).values():  # noqa: SLF001 - what was logged, and for which loader
        if isinstance(result.value, Metric):
            loaders.setdefault(id(result.value), set()).add(result.meta.dataloader_idx)
    names: dict[tuple[int, str], list[str]] = {}
    for name, metric in run.module.named_modules(remove_duplicate=False):
        if isinstance(metric, Metric) and metric.update_count:
            names.setdefault((id(metric), name.rpartition(".")[0]), []).append(name)
    for (metric_id, parent), own in names.items():
        listed = isinstance(run.module.get_submodule(parent), nn.ModuleList | nn.ModuleDict)
        if len(loaders.get(metric_id, ())) > 1 or (listed and len(own) == len(run.val_loaders)):
            yield " and ".join(own)


def two_loaders(name: str) -> Outcome:
    """The value of a second validation set is one of the first, too.

    Example:
        >>> two_loaders("val_acc").status
        <Status.WARNING: 'warning'>

    """
    return Outcome(
        Status.WARNING,
        "one_metric_two_loaders",
        f"{name}: one object that the examples of several validation sets are put into, so that what is logged of the "
        "one is computed of the other, too",
        "a metric for each loader: nn.ModuleList(metric.clone() for _ in loaders), and self.accs[dataloader_idx]",
    )


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


def never_reset(name: str, before: int, *, metric: bool = True) -> Outcome:
    """A metric, or a list that one is computed of, mixes the epochs.

    Args:
        name: Of the metric or the list.
        before: Updates or entries that it held when the latest validation looked at began.
        metric: Whether it is a metric.

    Example:
        >>> never_reset("accuracy", 8).status
        <Status.WARNING: 'warning'>

    """
    held, clear = ("updates", "reset") if metric else ("entries", "clear")
    return Outcome(
        Status.WARNING,
        "never_reset",
        f"self.{name} held {before} {held} of earlier epochs when validation began, and what is logged is computed of "
        "all epochs so far",
        f"self.{name}.{clear}() at the end of on_validation_epoch_end",
        {held: before},
    )
