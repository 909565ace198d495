"""What came by in the batches of the first epoch and of the first validation, of all that tells how they were split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_recipe.callbacks import _groups as groups
from lightning_recipe.callbacks import _times as times
from lightning_recipe.callbacks._came_by import CameBy, common
from lightning_recipe.callbacks._groups_in_batches import Passing, ids_in
from lightning_recipe.callbacks._near_by import NearBy
from lightning_recipe.callbacks._reversed import Reversed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.callbacks._groups import Known
    from lightning_recipe.callbacks._overlap import Overlap
    from lightning_recipe.finding import Outcome
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

SHARED = 2**17
"""Examples of which ranks tell each other what came by, in all."""


class PassedBy:
    """Fingerprints of examples, exact ones and such as small changes leave alone, ids, times and pairs.

    Args:
        keep: Whether ids, times and pairs are kept, which are data and no sums of them.

    Attributes:
        exact: Whether exact fingerprints are still taken.
        target: The entry of the batch that holds the targets; empty if nobody knows.

    """

    def __init__(self, *, keep: bool) -> None:
        self._train, self._val = CameBy(), CameBy()
        self._ids, self._times, self._pairs, self._near = Passing(ids_in), Passing(times.numbers), Reversed(), NearBy()
        self._ids.open = self._times.open = self._pairs.open = keep
        self.exact, self.target, self._forecast = True, "", False

    @property
    def _others(self) -> tuple[Any, ...]:
        return self._ids, self._times, self._pairs, self._near

    def note(self, run: Run, stage: str, batch: Any) -> None:
        """Look at a batch."""
        if self.exact:
            (self._val if stage == "validation" else self._train).note(batch)
        if not run.trainer.sanity_checking:
            for one in self._others:
                one.note(stage, batch, run.batches_that_stepped)

    def know(self, step: Step, target: str) -> None:
        """Where the targets of a step are, and whether they are a forecast."""
        self.target = self._pairs.target = target
        self._forecast = self._times.open and bool(target) and times.is_forecast(step, target)

    def close(self, *, ids: bool, others: bool, near: bool) -> None:
        """What need not be looked at any more, for it is known by what is stored."""
        self._ids.open &= not (ids or others)
        self._times.open &= bool(self.target) and not others
        self._pairs.open &= not others
        self._near.open &= not (others or near)

    @property
    def waits(self) -> bool:
        """Whether there is more to see."""
        return any(one.open for one in self._others)

    @property
    def is_complete(self) -> bool:
        """Whether nothing more is needed, once the first epoch is over."""
        return all(one.is_complete for one in self._others)

    @property
    def counts(self) -> tuple[int, int]:
        """Examples of training and of validation whose exact fingerprints were taken."""
        return self._train.count, self._val.count

    def unite(self, run: Run, name: str) -> None:
        """Put together what came by on all ranks."""
        own, (_, count) = (self._train, self._val, *self._others), run.shard
        if count == 1:
            return
        for one in own:
            one.condense(SHARED // count)
        first, *others = run.gather(name, own)
        self._train, self._val, self._ids, self._times, self._pairs, self._near = first
        for one, *same in zip(first, *others, strict=True):
            for other in same:
                one.join(other)

    def common(self) -> Overlap | None:
        """How many examples came by on both sides; None if it can't be told."""
        return common(self._train, self._val)

    def outcomes(self, known: Known) -> Iterator[tuple[Outcome, str]]:
        """What ids tell, else times, else pairs, and of what."""
        ids = groups.one_of_each(self._ids.shared())
        told = [(outcome, name) for name in ids if (outcome := groups.verdict(ids[name], name, known))]
        outcome = None if told else times.verdict(self._times.shared(), self.target, forecast=self._forecast)
        if not told and (outcome := outcome or self._pairs.verdict()):
            told.append((outcome, ""))
        yield from told

    def near(self, share: float) -> Outcome | None:
        """What nearly equal examples tell."""
        return self._near.verdict(share)
