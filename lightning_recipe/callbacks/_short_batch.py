"""A short last batch of validation that weighs as much as the others."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning.fabric.utilities.data import sized_len
from torchmetrics import Metric

from lightning_recipe.callbacks._at_the_end import reported
from lightning_recipe.callbacks._averaged import NOISE, ROUNDING, Parts, differ
from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.record.tensors import leading_size
from lightning_recipe.trial.first_examples import examples_between
from lightning_recipe.trial.rehearsal import CannotRehearseError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lightning_recipe.callbacks._averaged import Seen
    from lightning_recipe.run import Run
    from lightning_recipe.trial.rehearsal import Rehearsal

MATTERS = 0.05
"""Share of an epoch's mean that the last batch has too much, from which on it is told."""
MADE_OF_MEANS: tuple[Callable[[float], float], ...] = (lambda value: value * value, math.log)
"""What makes a mean of its root, such as an RMSE, and of its exponential, such as a perplexity."""
WEIGH = "keep the numbers of examples, weigh batches by their size, or self.log in validation_step, which does"
"""How a mean by hand is mended."""
PAIR = 2
"""Examples that a step can be given, which may squeeze a single one."""


class Short(NamedTuple):
    """The batches of validation.

    Attributes:
        size: Of all but the last.
        last: Examples in the last.
        batches: How many there are.

    Example:
        >>> Short(400, 40, 3).last
        40

    """

    size: int
    last: int
    batches: int

    @classmethod
    def of(cls, run: Run) -> Short | None:
        """Those of the one loader, if the last one is so short, of so few, that its weight matters."""
        loader = run.val_loaders[0]
        size, batches = getattr(loader, "batch_size", None), sized_len(loader)
        examples = sized_len(getattr(loader, "dataset", None))
        if not (size and examples and batches == run.trainer.num_val_batches[0] and len(run.val_loaders) == 1):
            return None
        last = examples - (batches - 1) * size
        every = sized_len(getattr(loader, "sampler", None)) == examples
        return cls(size, last, batches) if every and last > 0 and (1 - last / size) / batches >= MATTERS else None

    def in_small(self, examples: int) -> list[int]:
        """Sizes of as many batches that have these examples at most, of which the last is short, too; none if too few.

        Example:
            >>> Short(64, 5, 5).in_small(64), Short(16, 8, 3).in_small(16), Short(16, 1, 9).in_small(16)
            ([15, 15, 15, 15, 2], [5, 5, 2], [])

        """
        share = self.last / self.size
        size = int((examples - PAIR) / (self.batches - 1 + share))
        return [size] * (self.batches - 1) + [min(size - 1, max(PAIR, round(size * share)))] if size > 1 else []


def of_one_weight(again: Rehearsal, batch: Any, seen: Seen) -> dict[str, int]:
    """The numbers for which half a batch is said to weigh as much as the whole, by ``batch_size=``, and that weight.

    Args:
        again: Runs the validation step on half of the batch.
        batch: The batch.
        seen: What the step did with all of it.

    """
    averaged = [one for one in seen.logged if one.mean and one.on_epoch is not False]
    given = {one.name: one.batch_size for one in averaged if not isinstance(one.value, Metric)}  # they count themselves
    size = leading_size(batch) or 0
    part = examples_between(batch, 0, size // 2) if size > 1 and any(given.values()) else batch
    if part is batch:
        return {}
    try:
        again.step(part, method="validation_step")
    except CannotRehearseError:
        return {}
    return {
        one.name: one.batch_size for one in again.logged if one.batch_size and one.batch_size == given.get(one.name)
    }


def counted_alike(again: Rehearsal, batch: Any, short: Short) -> list[str]:
    """The numbers that are logged at the end of validation, and are means of those of its batches, whatever their size.

    Asked with as many batches as validation has, cut out of one. What these examples come to in one batch must be the
    mean over them: so it is none of a loss that compares the examples of a batch, nor of F1 and the like.

    Args:
        again: Concludes validations of parts of the batch.
        batch: The batch.
        short: The batches of validation.

    """
    ends = [0, *accumulate(short.in_small(leading_size(batch) or 0))]
    parts = [examples_between(batch, *between) for between in pairwise(ends)]
    if not parts or any(part is batch for part in parts):
        return []
    try:
        together, whole = reported(again, parts), reported(again, [examples_between(batch, 0, ends[-1])])
        single = [reported(again, [part]) for part in parts]
    except CannotRehearseError:  # a step may want whole batches
        return []
    shares = [(stop - start) / ends[-1] for start, stop in pairwise(ends)]
    return [
        name
        for name, value in together.items()
        if all(name in values for values in (whole, *single))
        and is_of_batches(value, Parts(shares, [values[name] for values in single], whole[name]))
    ]


def is_of_batches(value: float, parts: Parts) -> bool:
    """Whether the number of several batches is the mean of theirs, though that of one batch is the mean over examples.

    Args:
        value: Of the batches together.
        parts: The number of each alone, and of their examples in one batch.

    Example:
        >>> parts = Parts([0.8, 0.2], [1.0, 2.0], 1.2)
        >>> is_of_batches(1.5, parts), is_of_batches(1.2, parts), is_of_batches(1.5, parts._replace(whole=1.4))
        (True, False, False)

    """
    if _is_plain(value, parts):
        return True
    return min(value, parts.whole, *parts.values) > 0 and any(
        _is_plain(of(value), Parts(parts.shares, [of(one) for one in parts.values], of(parts.whole)))
        for of in MADE_OF_MEANS
    )


def _is_plain(value: float, parts: Parts) -> bool:
    plain = sum(parts.values) / len(parts.values)
    apart = differ(plain, parts.mean) > NOISE  # or nobody can tell
    return apart and differ(value, plain) < ROUNDING and differ(parts.whole, parts.mean) < ROUNDING


def mean_of_means(name: str, short: Short, weight: int | None = None) -> Outcome:
    """`advice`: all batches weigh as much, as their numbers are kept in a list, or logged with one weight.

    Example:
        >>> mean_of_means("losses", Short(400, 40, 3)).evidence
        {'batch_size': 400, 'last': 40}

    """
    said, fix = f"self.{name} keeps one number for each validation batch, and their mean is logged", WEIGH
    if weight is not None:
        said = f'"{name}" is logged with batch_size={weight}, whatever the size of the batch'
        fix = "batch_size is the number of examples, such as len(y); len(batch) is the number of its entries"
    return _told(said, fix, short)


def mean_at_the_end(names: Sequence[str], short: Short) -> Outcome:
    """The same of numbers that a copy has logged at the end of validation, for batches of two sizes.

    Example:
        >>> mean_at_the_end(["val_mae"], Short(400, 40, 3)).message.partition(":")[0]
        'at the end of validation "val_mae" is logged as the mean of what its batches come to, whatever their size'

    """
    those = listed(f'"{name}"' for name in names)
    means = "is logged as the mean" if len(names) == 1 else "are logged as means"
    said = f"at the end of validation {those} {means} of what its batches come to, whatever their size"
    return _told(said, WEIGH, short)


def _told(said: str, fix: str, short: Short) -> Outcome:
    said += f": the {short.last} examples of the last batch weigh as much as {short.size} others"
    return Outcome(Status.ADVICE, "mean_of_means", said, fix, {"batch_size": short.size, "last": short.last})
