"""What ``trainer.test`` and ``trainer.validate`` begin with, as far as no step is needed to see it."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from lightning.fabric.utilities.data import sized_len
from torch.utils.data import DistributedSampler

from lightning_recipe.callbacks._averaged import metrics_of
from lightning_recipe.callbacks._kept_metrics import is_of_an_epoch
from lightning_recipe.callbacks._monitored import cut_short, left_out
from lightning_recipe.callbacks._shared_transform import trees
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

    from lightning_recipe.run import Run

MATTERS = 0.01
"""Share of the examples that count twice, from which on it is told: an accuracy may be off by a whole point, which
passes for progress. Lightning pads by default, thousands of examples by a few: nobody would see that in any number."""
DEEP = 2
"""Calls of the module's own methods that are followed."""


def found(run: Run, stage: str, loaders: Sequence[Any]) -> Iterator[tuple[Outcome, str]]:
    """What is seen of loaders and metrics, and whose it is.

    Args:
        run: The run that evaluates.
        stage: "test" or "validation".
        loaders: Its loaders.

    """
    read = run.trainer.num_test_batches if stage == "test" else run.trainer.num_val_batches
    for i, loader in enumerate(loaders):
        subject = f"{stage} loader {i}" if len(loaders) > 1 else stage
        for outcome in (cut_short(loader, read[i], stage), padded(loader, stage), left_out(loader, stage)):
            if outcome is not None:
                yield outcome, subject
    yield from held(run.module, stage)


def padded(loader: Any, what: str) -> Outcome | None:
    """Advice if a DistributedSampler repeats many examples, so that all ranks have as many.

    Args:
        loader: Of one rank.
        what: Of which stage.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> samplers = [DistributedSampler(range(n), 8, 0) for n in (97, 96, 9997)]
        >>> found = [padded(DataLoader(range(97), sampler=sampler), "test") for sampler in samplers]
        >>> found[0].evidence, found[1:]
        ({'repeated': 7, 'examples': 97, 'ranks': 8}, [None, None])

    """
    batches = getattr(loader, "batch_sampler", None)
    sampler = getattr(batches if batches is not None else loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        return None
    examples = sized_len(sampler.dataset) or 0
    repeated = sampler.total_size - examples
    if not examples or repeated < MATTERS * examples:
        return None
    return Outcome(
        Status.ADVICE,
        "padded_sampler",
        f"{repeated} of {examples} {what} examples count twice: a DistributedSampler repeats them, so that all "
        f"{sampler.num_replicas} ranks have as many",
        f"for results that are reported, run trainer.{'test' if what == 'test' else 'validate'} on one device: "
        "Trainer(devices=1, num_nodes=1)",
        {"repeated": repeated, "examples": examples, "ranks": sampler.num_replicas},
    )


def held(module: nn.Module, stage: str) -> Iterator[tuple[Outcome, str]]:
    """A `warning` for each metric that holds updates from before, and that the module's code reports as a whole.

    That is: the object is logged, or computed, not the value of a batch; and no hook that begins the stage resets any.

    Args:
        module: The LightningModule.
        stage: "test" or "validation".

    """
    metrics = metrics_of(module)
    full = {name: metric.update_count for name, metric in metrics.items() if metric.update_count}
    if not full:
        return
    methods = methods_of(module)
    begins = [node for when in ("start", "epoch_start") for node in _nodes(methods, f"on_{stage}_{when}")]
    if any(_called(node) == "reset" for node in begins):
        return
    steps = list(_nodes(methods, f"{stage}_step"))
    ends = [node for when in ("epoch_end", "end") for node in _nodes(methods, f"on_{stage}_{when}")]
    used = {name for node in steps if (name := _attribute(node))}
    whole = {name for node in [*steps, *ends] for name in _reported(node)}
    for name, updates in full.items():
        if name.partition(".")[0] in used & whole and is_of_an_epoch(metrics[name]):
            yield _outcome(name, updates, stage), name


def _outcome(name: str, updates: int, stage: str) -> Outcome:
    return Outcome(
        Status.WARNING,
        "one_metric_two_stages",
        f"self.{name} holds {updates} updates from before as {stage} begins, which reports it as a whole: other "
        "examples are among those that it is computed of",
        f"a metric for each stage: self.{stage}_metric = metric.clone(); or self.{name.partition('.')[0]}.reset() in "
        f"on_{stage}_epoch_start",
        {"updates": updates},
    )


def methods_of(module: nn.Module) -> dict[str, ast.FunctionDef]:
    """The module's methods, parsed, by name; those of its most derived class."""
    classes = {node.name: node for tree in trees(module) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    found = {}
    for kind in reversed(type(module).__mro__):
        body = classes[kind.__name__].body if kind.__name__ in classes else []
        found.update({node.name: node for node in body if isinstance(node, ast.FunctionDef)})
    return found


def _nodes(methods: dict[str, ast.FunctionDef], name: str, depth: int = DEEP) -> Iterator[ast.AST]:
    """All parts of a method, and of those that it calls."""
    if name not in methods:
        return
    for node in ast.walk(methods[name]):
        yield node
        called = _attribute(node.func) if isinstance(node, ast.Call) else ""
        if called and depth:
            yield from _nodes(methods, called, depth - 1)


def _attribute(node: ast.AST) -> str:
    """The name in ``self.name``."""
    own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return node.attr if own and isinstance(node, ast.Attribute) else ""


def _called(node: ast.AST) -> str:
    """The name in ``anything.name()``."""
    return node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""


def _reported(node: ast.AST) -> Iterator[str]:
    """The attributes that a call logs as they are, or computes.

    Example:
        >>> calls = ("self.log('f1', self.f1)", "self.f1.compute()", "self.log('f1', self.f1(x, y))")
        >>> [list(_reported(ast.parse(call).body[0].value)) for call in calls]
        [['f1'], ['f1'], []]

    """
    if isinstance(node, ast.Call) and _called(node) in {"log", "log_dict"}:
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        given += [value for one in given if isinstance(one, ast.Dict) for value in one.values]
        yield from filter(None, map(_attribute, given))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "compute":
        yield from filter(None, [_attribute(node.func.value)])
