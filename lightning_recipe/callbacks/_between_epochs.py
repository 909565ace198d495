"""Batches that go through a BatchNorm in training mode between epochs: an evaluation by hand that forgot ``eval()``."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

PREVIEWS = 3
"""Batches below which it is a picture or two that is drawn at the end of an epoch, as by generators."""


class Seen(NamedTuple):
    """What a BatchNorm has counted at a look.

    Attributes:
        batches: Of training, since the run began.
        epoch: The present one.
        counted: By the BatchNorm.

    """

    batches: int
    epoch: int
    counted: int


def between(looks: list[Seen]) -> float:
    """How many batches a BatchNorm is given between two epochs, if it is the same number each time; else 0.

    How many it is given at each step is known from looks in the same epoch, and has to be the same at all.

    Args:
        looks: In the order of time.

    Example:
        >>> regular = [Seen(1, 0, 1), Seen(8, 0, 8), Seen(12, 1, 12), Seen(22, 2, 22)]
        >>> between(regular), between([seen._replace(counted=seen.counted + 50 * seen.epoch) for seen in regular])
        (0.0, 50.0)

    """
    pairs = [(a, b) for a, b in pairwise(looks) if b.batches > a.batches]
    each = {(b.counted - a.counted) / (b.batches - a.batches) for a, b in pairs if a.epoch == b.epoch}
    across = [(a, b) for a, b in pairs if a.epoch < b.epoch]
    if len(each) != 1 or len(across) < 2:  # noqa: PLR2004 - seen twice
        return 0.0
    of_steps = each.pop()
    more = {(b.counted - a.counted - of_steps * (b.batches - a.batches)) / (b.epoch - a.epoch) for a, b in across}
    return more.pop() if len(more) == 1 else 0.0


class BetweenEpochs:
    """Follows the first BatchNorm that takes statistics in training, at looks."""

    def __init__(self) -> None:
        self._norm: _BatchNorm | None = None
        self._looks: list[Seen] = []
        self.name = ""

    def note(self, run: Run, step: Step) -> float:
        """See a training step; how many batches the BatchNorm is given between epochs, if it is worth telling."""
        if self._norm is None:
            for event in step.events:
                if (
                    isinstance(event.module, _BatchNorm)
                    and event.training
                    and event.module.num_batches_tracked is not None
                ):
                    self._norm, self.name = event.module, event.name
                    break
            else:
                return 0.0
        epoch_loop = run.trainer.fit_loop.epoch_loop
        self._looks.append(
            Seen(epoch_loop.total_batch_idx, run.trainer.current_epoch, int(self._norm.num_batches_tracked or 0))
        )
        found = between(self._looks)
        return found if found >= PREVIEWS else 0.0

    def leave(self, step: Step) -> None:
        """Follow it no more if it takes statistics in validation, too: who does so may mean it, and is told of it."""
        if any(event.module is self._norm and event.training for event in step.events):
            self._looks = []
            self._norm = None
