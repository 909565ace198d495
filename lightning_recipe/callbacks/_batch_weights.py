"""What each batch weighs in a mean over validation, where Lightning guesses its number of examples."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_recipe.callbacks._averaged import differ, scalars
from lightning_recipe.callbacks._metric_names import is_a_share
from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.losses.by_hand import likely
from lightning_recipe.record.tensors import dense, same

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lightning_recipe.callbacks._averaged import Seen
    from lightning_recipe.record.step import LossCall
    from lightning_recipe.run import Run

BATCHES = 256
"""That are looked at."""
UNEVEN = 0.05
"""Share of the whole weight that lies on other batches than it should, from which on it is told."""
MATERIAL = 0.02
"""Relative difference of the two means from which on the logged one misleads."""
ROUNDING = 1e-5
"""Relative difference of a logged number and a loss that are the same."""


class Weighed:
    """Takes note of the sums that Lightning keeps of what is logged, batch by batch, and of the batches' examples.

    Nothing is computed before the verdict: Lightning makes new tensors of its sums, and those of before are kept.

    Args:
        seen: What the step did with the first batch.

    Attributes:
        names: Numbers that are means over the examples, and were logged without ``batch_size=``.

    """

    def __init__(self, seen: Seen) -> None:
        self._target, examples = target_of(seen)
        self._shape: tuple[int, ...] | None = None
        self._sums: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._examples: list[int] = []
        self.names = means(seen, examples) if examples else []

    def note(self, run: Run, batch: Any) -> bool:
        """See what the batches before have added up to, and how many examples come next.

        Returns:
            Whether there is more to see.

        """
        target = dict(dense(batch, "batch")).get(self._target)
        if target is None or self._shape not in {None, target.shape[1:]}:  # of tokens, of which each batch has others
            self.names = []
            return False
        if self._examples:
            results: Any = run.trainer._results or {}  # noqa: SLF001 - they are nowhere else, batch by batch
            for name in self.names:
                if (sums := results.get(f"validation_step.{name}")) is not None:
                    self._sums.setdefault(name, []).append((sums.value, sums.cumulated_batch_size))
        self._shape = tuple(target.shape[1:])
        self._examples.append(len(target))
        return len(self._examples) <= BATCHES

    def verdict(self) -> Outcome | None:
        """What the worst of the numbers comes to."""
        series = {}
        for name, sums in self._sums.items():
            values, weights = [0.0, *(float(v) for v, _ in sums)], [0, *(int(w) for _, w in sums)]
            each = [b - a for a, b in pairwise(weights)]
            added = [b - a for a, b in pairwise(values)]
            if min(each) > 0:
                own = self._examples[: len(each)]
                series[name] = Series(each, own, [v / w for v, w in zip(added, each, strict=True)])
        return judge(series)


class Series(NamedTuple):
    """A number that was logged for each batch of a validation.

    Attributes:
        weights: What each batch weighs in its mean.
        examples: How many examples each has.
        values: Of each batch.

    """

    weights: Sequence[int]
    examples: Sequence[int]
    values: Sequence[float]

    @property
    def uneven(self) -> float:
        """Share of the whole weight that lies on other batches than it should.

        Example:
            >>> Series([10, 30], [20, 20], [0.0, 1.0]).uneven
            0.25

        """
        pairs = zip(self.weights, self.examples, strict=True)
        return sum(abs(w / sum(self.weights) - n / sum(self.examples)) for w, n in pairs) / 2

    @property
    def means(self) -> tuple[float, float]:
        """The mean as it is logged, and that over the examples.

        Example:
            >>> Series([10, 30], [20, 20], [0.0, 1.0]).means
            (0.75, 0.5)

        """
        logged, true = (
            sum(n * value for n, value in zip(of, self.values, strict=True)) / sum(of)
            for of in (self.weights, self.examples)
        )
        return logged, true


def judge(series: dict[str, Series]) -> Outcome | None:
    """What the numbers of a validation come to, by name; `advice` if their means hardly differ.

    Example:
        >>> judge({"val_acc": Series([4, 90], [160, 7], [0.6, 0.9])}).status
        <Status.WARNING: 'warning'>
        >>> judge({"val_acc": Series([4, 4], [8, 8], [0.6, 0.9])})  # all weigh the same, as they should

    """
    uneven = {name: differ(*one.means) for name, one in series.items() if one.uneven >= UNEVEN}
    uneven = {name: apart for name, apart in uneven.items() if apart == apart}  # noqa: PLR0124 - no NaN
    if not uneven:
        return None
    worst = max(uneven, key=lambda name: uneven[name])
    (weights, examples, values), (logged, true) = series[worst], series[worst].means
    names = listed([f'"{name}"' for name in uneven])
    return Outcome(
        Status.WARNING if uneven[worst] >= MATERIAL else Status.ADVICE,
        "weighed_by_another_size",
        f"the mean of {names} over validation weighs batches of {_between(examples)} "
        f"examples by {_between(weights)}, the size of the first tensor in the batch, which is not their number of "
        f'examples: over {len(values)} batches "{worst}" is {logged:.3g}, and the mean over their examples {true:.3g}',
        "say how many examples there are: self.log(..., batch_size=len(y)), with the targets y",
        {"logged": logged, "mean": true, "uneven": series[worst].uneven, "batches": len(values)},
    )


def _between(numbers: Sequence[int]) -> str:
    return f"{min(numbers)} to {max(numbers)}" if min(numbers) < max(numbers) else f"{numbers[0]}"


def target_of(seen: Seen) -> tuple[str, int]:
    """The entry of the batch that all losses compare with, one row for each example, and how many there are.

    Returns:
        An empty path if one loss has another number of rows, as of tokens or nodes, or is of what nobody knows.

    """
    entries = [(path, tensor) for path, tensor in dense(seen.step.batch, "batch") if tensor.ndim]
    found = [_entry(call, entries) for call in _calls(seen)]
    sizes = {size for _, size in found}
    return found[0] if len(sizes) == 1 else ("", 0)


def _calls(seen: Seen) -> list[LossCall]:
    by_hand = None if seen.step.loss_calls else likely(seen.step)
    return [by_hand] if by_hand is not None else seen.step.loss_calls


def _entry(call: LossCall, entries: list[tuple[str, Tensor]]) -> tuple[str, int]:
    target: Any = call.arguments.get("target")
    for path, tensor in entries:
        if getattr(target, "ndim", 0) and len(tensor) == call.examples and call.times == 1:
            rows = tensor[: len(target)].flatten()
            if same(rows.to(target), target.flatten()):
                return path, call.examples
    return "", 0


def means(seen: Seen, examples: int) -> list[str]:
    """Names of what is logged that are means over the examples: the losses, and shares of them."""
    losses = [float(call.value) for call in _calls(seen) if call.value.numel() == 1 and call.examples == examples]
    values = scalars(seen.logged)
    return [
        one.name
        for one in seen.logged
        if one.mean and one.on_epoch is not False and one.batch_size is None and one.name in values
        if is_a_share(one.name) or any(differ(values[one.name], loss) < ROUNDING for loss in losses)
    ]
