"""Recipe, section 1: "visualize their distributions and the outliers along any axis"."""

from __future__ import annotations

from collections.abc import Callable  # noqa: TC003 - LightningCLI reads the types of arguments at run time
from typing import TYPE_CHECKING, Any

from lightning_recipe.callback import RecipeCallback
from lightning_recipe.callbacks._hard_examples import Look, of_all_ranks, stacked
from lightning_recipe.figures.canvas import pixels
from lightning_recipe.figures.examples import examples_card
from lightning_recipe.finding import Section
from lightning_recipe.show import loggers
from lightning_recipe.trial.fetched import Fetched, noted
from lightning_recipe.trial.isolation import isolated
from lightning_recipe.trial.time_budget import TimeBudget

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import LightningModule, Trainer

    from lightning_recipe.finding import Finding
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run


FEW, ALL = 32, 256
"""Batches of a validation that are looked at, at most: between, and in the last epoch."""


class HardExamples(RecipeCallback):
    """Shows the most extreme validation examples: those of the highest loss, the surest mistakes, the oddest inputs.

    Seen in the real validation steps of the first loader: at few epochs in 32 batches at most, evenly over the set,
    and in the last epoch in 256. What is told at the end is the worst of all ranks, and so is the last picture; those
    before are of rank zero. The loss of each example is that of the function that compares its prediction with its
    target, without reduction; where a step calls none of ``torch.nn.functional``, that of the one which compares such
    an output with such a target. How sure a mistake is, is the probability of what was said. How odd an input is, is
    its distance from the others of its batch, in standard deviations of each feature.

    An example is told by its index in the data set of the DataLoader (``#17`` is ``loader.dataset[17]``), or in the one
    below it if that is a ``Subset``, as long as ``collate_fn`` keeps the order. Indices are noted on their way from the
    sampler to the data set, whatever the sampler. Nobody knows them of streams, nor, where a sampler shuffles, of the
    batches that workers are sent before validation begins, two for each: such an example is told by its batch and row
    (``3:7``), and its rank if that is not zero.

    Args:
        keep_examples: Whether examples are kept and drawn; without, the finding has their indices and losses.
        max_share: Share of the run's time, 0 to 1, that pictures but the first and the last may take; 1 is no limit.
        decode: Makes text of a list of token ids, such as the ``decode`` of a tokenizer.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "the outliers especially almost always uncover some
        bugs in data quality or preprocessing", and of the network's mispredictions: "understand where they might be
        coming from".

    Raises:
        ValueError: If `max_share` does not lie between 0 and 1.

    Legitimate:
        - Every data set has examples that are harder than others. Nothing here is an alarm.

    Cost:
        The loss of a batch once more, and the record of its step, in the validations of at most ten epochs; a card of
        each axis, for at most `max_share` of the run's time. Other validations are not looked at.

    Pictures:
        - `highest loss`: Look for wrong labels, examples that nobody could tell, broken inputs.
        - `surest mistakes`: What the network says, and is sure of. If it is right, the label is wrong.
        - `oddest inputs`: What is unlike the rest: broken, cut off, differently scaled, of another kind.

    Example:
        >>> import contextlib, io
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe.demo import DigitsNet, loaders
        >>> hardest = HardExamples()
        >>> trainer = Trainer(callbacks=[hardest], logger=False, enable_checkpointing=False, max_epochs=1)
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     trainer.fit(DigitsNet(), *loaders())
        >>> sorted(hardest.findings[0].evidence)[:4]
        ['examples', 'index_1', 'index_2', 'index_3']

    """

    section = Section.DATA
    sentence = 4
    why = "outliers almost always uncover a mistake in the data, and mistakes show what the network has understood"
    val_batches = FEW

    def __init__(
        self, *, keep_examples: bool = True, max_share: float = 0.0003, decode: Callable[..., Any] | None = None
    ) -> None:
        super().__init__()
        if not 0 <= max_share <= 1:
            msg = f"max_share must lie between 0 and 1, got {max_share}"
            raise ValueError(msg)
        self.keep_examples, self.max_share, self.decode = keep_examples, max_share, decode

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew with each fit."""
        super().setup(trainer, pl_module, stage)
        self._time = TimeBudget(self.max_share)
        self._look: Look | None = None
        self._fetched: Fetched | None = None

    def before_validation(self, run: Run) -> Iterator[Finding]:
        """Note which examples the first loader fetches."""
        iterator = next(iter(run.val_iterators), None)
        self._fetched = None if iterator is None else noted(run.val_loaders[0], iterator)
        yield from ()

    def validation(self, run: Run, step: Step) -> Iterator[Finding]:
        """Keep the worst of a batch; draw those of the look before when the next begins."""
        if run.trainer.sanity_checking or run.loader:
            return
        if self._look is None or self._look.step != run.step:
            if self._look is not None and self._time.is_enough():
                self._draw(run, self._look)
            self._look = Look(run.step, keep=self.keep_examples, rank=run.shard[0])
            self.val_batches = ALL if run.step + run.steps_per_epoch >= run.horizon else FEW
        fetched = None if self._fetched is None else self._fetched.of(run.val_batch)
        self._look.take(step, run.val_loaders[0], run.val_batch, fetched)
        yield from ()

    def end(self, run: Run) -> Iterator[Finding]:
        """Draw the last look, and tell of it."""
        look, self._look = self._look, None
        self._fetched = None
        if look is None:
            yield self.skipped("there was no validation after training began")
            return
        worst = of_all_ranks(run, look, type(self).__name__, drawn=loggers.is_written(run.trainer))
        if not worst.examples:
            yield self.skipped("no output with a row for each example is seen to be compared with a target")
        else:
            yield self.found(worst.outcome())
            self._draw(run, look)

    def _draw(self, run: Run, look: Look) -> None:
        if not self.keep_examples or not loggers.is_written(run.trainer):
            return
        with self._time.spent(), isolated():
            for name, worst in look.worst.items():
                if worst.examples:
                    entered, answers = stacked(worst.examples)
                    picture = examples_card(f"val: {name} (#index: loss)", entered, look.reading, answers, self.decode)
                    self.draw(run, name, pixels(picture), look.step)
