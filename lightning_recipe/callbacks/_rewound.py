"""Random streams that a run sets back in every epoch, or around every validation: told by where they stand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch.utils.data import RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from lightning_recipe.finding import Outcome, Status, listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lightning_recipe.run import Run

TWICE = 2
"""Epochs in a row that begin where the one before them began: once may be a new beginning, as after a trial."""
EPOCHS = 4
"""That are looked at after the first."""
SAMPLERS = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


def period(run: Run) -> float:
    """The steps from one epoch that is followed by a validation to the next; infinity where nobody knows.

    Of a loop that validates every so many batches, whatever the epoch, the steps between two validations.
    """
    trainer = run.trainer
    every = trainer.check_val_every_n_epoch
    if every is None:
        return float(trainer.val_check_batch or math.inf) // trainer.accumulate_grad_batches
    return run.steps_per_epoch * (every if trainer.enable_validation else 1)


def shuffled(loaders: Iterable[Any]) -> bool:
    """Whether the order of an epoch is drawn from the stream that all draw from.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader
        >>> own = DataLoader([1, 2], shuffle=True, generator=torch.Generator())
        >>> [shuffled([loader]) for loader in (DataLoader([1, 2]), DataLoader([1, 2], shuffle=True), own)]
        [False, True, False]

    """
    samplers = [getattr(loader, "sampler", None) for loader in loaders]
    return any(isinstance(sampler, SAMPLERS) and sampler.generator is None for sampler in samplers)


class Rewound:
    """Where random streams stand after the first two steps of some epochs.

    Args:
        start: The step of the first look.
        period: Steps from one epoch that is looked at to the next.
        drawn: Streams of which it is known that training draws from them in each epoch, as for the order.

    Example:
        >>> looks = Rewound(1, 10, ())
        >>> for step, state in [(1, b"a"), (2, b"b"), (11, b"a"), (12, b"b"), (21, b"a")]:
        ...     looks.note(step, {"torch": state})
        >>> looks.next(12), looks.verdict().code
        (21, 'rewound')

    """

    def __init__(self, start: int, period: float, drawn: Iterable[str]) -> None:
        self._start, self._period, self._drawn = start, period, set(drawn)
        self._firsts: list[dict[str, int]] = []  # hashes

    @property
    def open(self) -> bool:
        """Whether there is more to look at."""
        return self._period > TWICE and not math.isinf(self._period) and len(self._firsts) <= EPOCHS

    def next(self, step: int) -> float:
        """The step to look at after this one."""
        if not self.open:
            return math.inf
        epoch, place = divmod(step - self._start, int(self._period))
        return step + 1 if place == 0 else self._start + (epoch + 1) * int(self._period)

    def note(self, step: int, streams: Mapping[str, bytes]) -> None:
        """Take in where streams stand after a step; others than those planned tell nothing."""
        place, now = (step - self._start) % max(int(self._period), 1), {n: hash(state) for n, state in streams.items()}
        if place == 0:
            self._firsts.append(now)
        elif place == 1 and self._firsts:
            self._drawn |= {name for name, state in now.items() if state != self._firsts[-1].get(name)}

    def verdict(self) -> Outcome | None:
        """A `warning` if streams that training draws from stood in the same place in three epochs in a row."""
        latest = self._firsts[-1 - TWICE :]
        again = [name for name in sorted(self._drawn) if len({of.get(name) for of in latest}) == 1]
        if len(latest) <= TWICE or not again:
            return None
        return Outcome(
            Status.WARNING,
            "rewound",
            f"the random numbers of {listed(again)} begin anew in each epoch: their state is the same as "
            f"{self._period:g} steps before, though training has drawn from it. Each epoch sees the same noise, "
            "dropout, augmentation or order",
            "seed once, before the model is made. What validation is to draw each time: from a torch.Generator of its "
            "own, or within lightning.fabric.utilities.seed.isolate_rng()",
            {"steps": self._period, "epochs": len(self._firsts)},
        )
