"""Logged numbers that Lightning averages over batches, though they are no means: seen on a copy of the step."""

from __future__ import annotations

import copy
import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from operator import mul
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_recipe.callbacks._metric_names import OVERLAPS, is_no_mean, words
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.step import Need, Step
from lightning_recipe.record.tensors import leading_size
from lightning_recipe.trial.first_examples import examples_between
from lightning_recipe.trial.rehearsal import CannotRehearseError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import nn

    from lightning_recipe.trial.rehearsal import Answer, Rehearsal
    from lightning_recipe.trial.stand_ins import Logged

PARTS = 4
"""Into which a batch is divided; a smaller one than of eight examples into two."""
NOISE = 0.005
"""Relative difference of the mean over parts and of the whole, from which on it is none of rounding."""
ROUNDING = 1e-5
"""Up to which it is."""
MATERIAL = 0.05
"""From which on a number that is averaged wrongly misleads."""
ROWS = 32
"""Of random examples."""
LARGE = 10**5
"""Elements of an example, above which no random ones are drawn."""
JUDGED = ("torchmetrics.classification.", "torchmetrics.regression.")
"""Where metrics of predictions and targets are; others mean over images, queries or texts on purpose."""
MILD = ("Accuracy", "Error")
"""In the name of a metric that is nearly a mean: with macro averages over classes, or below a root."""
MILD_NAMES = {"rmse", "rmsle", "perplexity", "ppl"}
"""The same, of what is computed by hand."""


@dataclass
class Use:
    """What one step did with a metric.

    Attributes:
        metric: The metric, of the copy.
        before: Updates that it held before.
        updates: How often it was updated.
        args: Of its latest call.
        output: Of its latest call, which is the value for the batch alone.

    """

    metric: Metric
    before: int = 0
    updates: int = 0
    args: tuple[Any, ...] = ()
    output: Any = None


@dataclass
class Seen:
    """One validation step.

    Attributes:
        step: What was recorded, with its wiring and losses.
        logged: What it logged.
        uses: Of metrics, by name.

    """

    step: Step
    logged: list[Logged] = field(default_factory=list)
    uses: dict[str, Use] = field(default_factory=dict)

    def in_the_object(self, metric: Metric) -> bool:
        """Whether the metric itself was logged, which Lightning computes at the end of the epoch, and resets."""
        return any(one.value is metric for one in self.logged)

    def release(self) -> None:
        """Keep who was logged and how often updated, and nothing of the batch."""
        self.step = Step(None)
        self.logged = [one for one in self.logged if isinstance(one.value, Metric)]
        for use in self.uses.values():
            use.args, use.output = (), None


class Suspect(NamedTuple):
    """A logged number that the epoch's mean is taken of.

    Attributes:
        name: Its key.
        owner: Name of the metric that gave it, or "" if only its own name says what it is.
        kind: The class of that metric.
        mild: Whether its mean over batches is near to the truth as a rule.

    """

    name: str
    owner: str
    kind: str
    mild: bool


def metrics_of(module: nn.Module) -> dict[str, Metric]:
    """The torchmetrics in a module, by name."""
    return {name: child for name, child in module.named_modules() if isinstance(child, Metric)}


def rehearsed(again: Rehearsal, batch: Any, answers: Mapping[str, Answer] | None = None) -> Seen:
    """Run the validation step on the copy, with answers of some modules, and see what becomes of its metrics."""
    again.module.requires_grad_(requires_grad=False)  # validation takes its results to numpy
    with _watched(metrics_of(again.module)) as uses:
        step = again.step(batch, method="validation_step", needs=Need.WIRING | Need.LOSSES, answers=answers)
    return Seen(step, list(again.logged), uses)


def logged(again: Rehearsal, batch: Any, answers: Mapping[str, Answer] | None = None) -> dict[str, float]:
    """The numbers that a validation step logs where some modules put out something else."""
    again.step(batch, method="validation_step", answers=answers)
    return scalars(again.logged)


def suspects(seen: Seen) -> Iterator[Suspect]:
    """The numbers that are averaged over batches, of metrics that random examples prove to be no means, or by name."""
    for one in seen.logged:
        if one.on_epoch is False or not one.mean or not _is_scalar(one.value):
            continue
        owner = next((name for name, use in seen.uses.items() if use.output is one.value), "")
        if not owner:
            if is_no_mean(one.name):
                yield Suspect(one.name, "", "", not MILD_NAMES.isdisjoint(words(one.name)))
        elif not seen.in_the_object(seen.uses[owner].metric) and is_proved(seen.uses[owner]):
            kind = type(seen.uses[owner].metric).__name__
            yield Suspect(one.name, owner, kind, kind.endswith(MILD))


def is_proved(use: Use) -> bool:
    """Whether the metric's mean over parts of random examples is another number than that of all of them."""
    preds, target = use.args if len(use.args) == 2 else (None, None)  # noqa: PLR2004
    if not type(use.metric).__module__.startswith(JUDGED) or not isinstance(preds, Tensor):
        return False
    if not isinstance(target, Tensor) or not preds.ndim or preds.numel() > LARGE * len(preds):
        return False
    metric = copy.deepcopy(use.metric)
    classes = getattr(metric, "num_classes", None) or 2
    rng = torch.Generator().manual_seed(0)
    drawn = [_drawn(given, classes, rng) for given in (preds, target)]
    try:
        metric.reset()
        values = [float(metric(*parts)) for parts in zip(*(d.split(ROWS // PARTS) for d in drawn), strict=True)]
        return differ(sum(values) / PARTS, float(metric.compute())) > NOISE
    except Exception:  # noqa: BLE001 - a metric that wants something else than random numbers
        return False


class Parts(NamedTuple):
    """A logged number of the parts of a batch, and of the whole.

    Attributes:
        shares: The parts' sizes, relative to that of the batch.
        values: The number of each part.
        whole: That of the batch.

    """

    shares: list[float]
    values: list[float]
    whole: float

    @property
    def mean(self) -> float:
        """What Lightning would make of the parts."""
        return sum(map(mul, self.shares, self.values), 0.0)

    @property
    def is_made_of_a_mean(self) -> bool:
        """Whether the number is the root or the exponential of a mean; the perplexity of a codebook isn't, say.

        Example:
            >>> Parts([0.5, 0.5], [1.0, 7.0], 5.0).is_made_of_a_mean  # the root of (1 + 49) / 2
            True
            >>> Parts([0.5, 0.5], [2.0, 2.0], 4.0).is_made_of_a_mean  # two codes here, and two others there
            False

        """
        if min(*self.values, self.whole) <= 0:
            return False
        squares = sum(share * value**2 for share, value in zip(self.shares, self.values, strict=True))
        product = math.prod(value**share for share, value in zip(self.shares, self.values, strict=True))
        return min(differ(squares, self.whole**2), differ(product, self.whole)) < NOISE


def parted(batch: Any) -> tuple[list[Any], list[float]]:
    """A batch in parts, and the share of its examples that each has; none if it can't be parted.

    Example:
        >>> parted(torch.arange(5))
        ([tensor([0, 1]), tensor([2, 3, 4])], [0.4, 0.6])

    """
    size = leading_size(batch) or 0
    count = PARTS if size >= 2 * PARTS else 2
    ends = [size * i // count for i in range(count + 1)]
    parts = [examples_between(batch, *between) for between in pairwise(ends)]
    if size < count or any(part is batch for part in parts):
        return [], []
    return parts, [(stop - start) / size for start, stop in pairwise(ends)]


def in_parts(again: Rehearsal, batch: Any, seen: Seen) -> dict[str, Parts]:
    """By name, what is logged of the parts of a batch, and of the whole; of what other draws don't change."""
    parts, shares = parted(batch)
    if not parts:
        return {}
    of_parts = []
    try:
        again.step(batch, method="validation_step", seed=1)
        redrawn = scalars(again.logged)
        for part in parts:
            again.step(part, method="validation_step")
            of_parts.append(scalars(again.logged))
    except CannotRehearseError:  # a step may want whole batches
        return {}
    return {
        name: Parts(shares, [values[name] for values in of_parts], whole)
        for name, whole in scalars(seen.logged).items()
        if all(name in values for values in of_parts) and differ(redrawn.get(name, math.nan), whole) < ROUNDING
    }


def judge(suspect: Suspect, parts: Parts | None) -> Outcome | None:
    """What a suspect comes to.

    Args:
        suspect: The number.
        parts: The number of the parts of a batch and of the whole; None if that could not be tried.

    Returns:
        None if nothing proves that it is no mean.

    Example:
        >>> f1 = Suspect("val_f1", "", "", mild=False)
        >>> judge(f1, Parts([0.5, 0.5], [0.0, 0.4], 0.4)).status, judge(f1, Parts([0.5, 0.5], [0.0, 0.8], 0.4))
        (<Status.WARNING: 'warning'>, None)

    """
    apart = differ(parts.mean, parts.whole) if parts else 0.0
    told = parts if apart > NOISE else None
    if not suspect.kind and (told is None or (suspect.mild and not told.is_made_of_a_mean)):
        return None
    near = suspect.mild or not OVERLAPS.isdisjoint(words(suspect.name))
    evidence = {"mean_of_parts": told.mean, "whole": told.whole} if told else {}
    parted = "quarters" if told and len(told.values) == PARTS else "halves"
    shown = f": a batch has {told.whole:.3g}, the mean of its {parted} is {told.mean:.3g}" if told else ""
    of = f" of {suspect.kind}" if suspect.kind else ""
    return Outcome(
        Status.ADVICE if near and apart < MATERIAL else Status.WARNING,
        "averaged_over_batches",
        f'"{suspect.name}" is the mean of the values{of} of single batches, which is not its value over all of '
        f"validation{shown}",
        f'log the metric object: self.log("{suspect.name}", metric) after metric(preds, target); or keep predictions '
        "and targets, and compute it in on_validation_epoch_end",
        evidence,
    )


def differ(mean: float, whole: float) -> float:
    """Their difference, relative to the larger; NaN stays NaN.

    Example:
        >>> differ(0.2, 0.4), differ(0.0, 0.0)
        (0.5, 0.0)

    """
    return abs(mean - whole) / max(abs(mean), abs(whole), 1e-12)


@contextmanager
def _watched(metrics: dict[str, Metric]) -> Iterator[dict[str, Use]]:
    uses = {name: Use(metric) for name, metric in metrics.items()}
    originals = [(metric, metric.update) for metric in metrics.values()]
    handles = []
    for use in uses.values():
        use.before = use.metric.update_count
        handles.append(use.metric.register_forward_hook(partial(_note, use), with_kwargs=True))
        use.metric.update = partial(_counted, use, use.metric.update)  # type: ignore[method-assign]
    try:
        yield uses
    finally:
        for handle in handles:
            handle.remove()
        for metric, update in originals:
            metric.update = update  # type: ignore[method-assign]


def _note(use: Use, metric: Metric, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    use.updates, use.args, use.output = metric.update_count - use.before, (*args, *kwargs.values()), output


def _counted(use: Use, update: Any, *args: Any, **kwargs: Any) -> Any:
    returned = update(*args, **kwargs)
    use.args = (*args, *kwargs.values())
    use.updates = use.metric.update_count - use.before  # within a forward, which updates twice, the hook corrects it
    return returned


def _drawn(like: Tensor, classes: int, rng: torch.Generator) -> Tensor:
    shape = (ROWS, *like.shape[1:])
    if like.is_floating_point():
        return (3 * torch.randn(shape, generator=rng)).to(like)
    return torch.randint(classes, shape, generator=rng).to(like)


def scalars(given: Sequence[Logged]) -> dict[str, float]:
    """The numbers that a step logged, by name."""
    values = {one.name: one.value for one in given if _is_scalar(one.value)}
    return {name: float(value.detach() if isinstance(value, Tensor) else value) for name, value in values.items()}


def _is_scalar(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1
    return not isinstance(value, bool) and hasattr(value, "__float__") and not isinstance(value, Metric)
