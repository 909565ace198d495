"""A short last batch of validation that weighs as much as the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from lightning.fabric.utilities.data import sized_len
from torchmetrics import Metric

from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.tensors import leading_size
from lightning_recipe.trial.first_examples import examples_between
from lightning_recipe.trial.rehearsal import CannotRehearseError

if TYPE_CHECKING:
    from lightning_recipe.callbacks._averaged import Seen
    from lightning_recipe.run import Run
    from lightning_recipe.trial.rehearsal import Rehearsal

MATTERS = 0.05
"""Share of an epoch's mean that the last batch has too much, from which on it is told."""


class Short(NamedTuple):
    """The batches of validation.

    Attributes:
        size: Of all but the last.
        last: Examples in the last.

    Example:
        >>> Short(400, 40).last
        40

    """

    size: int
    last: int

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
        return cls(size, last) if every and last > 0 and (1 - last / size) / batches >= MATTERS else None


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


def mean_of_means(name: str, short: Short, weight: int | None = None) -> Outcome:
    """`advice`: all batches weigh as much, as their numbers are kept in a list, or logged with one weight.

    Example:
        >>> mean_of_means("losses", Short(400, 40)).evidence
        {'batch_size': 400, 'last': 40}

    """
    said = f"self.{name} keeps one number for each validation batch, and their mean is logged"
    fix = "keep the numbers of examples, weigh batches by their size, or self.log in validation_step, which does"
    if weight is not None:
        said = f'"{name}" is logged with batch_size={weight}, whatever the size of the batch'
        fix = "batch_size is the number of examples, such as len(y); len(batch) is the number of its entries"
    said += f": the {short.last} examples of the last batch weigh as much as {short.size} others"
    return Outcome(Status.ADVICE, "mean_of_means", said, fix, {"batch_size": short.size, "last": short.last})
