"""What dropout and running statistics add to the loss of a batch, tried on a copy."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from lightning_recipe.callbacks._modes import matters
from lightning_recipe.trial.calming import without_dropout
from lightning_recipe.trial.rehearsal import CannotRehearseError, Rehearsal, rehearsal

if TYPE_CHECKING:
    from typing import Any

    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

LATE = (0.5, 0.75)
"""Shares of a run, or of the first `LONG` steps of a longer one, at which to compare."""
YOUNG, LONG = 50, 2000
"""Running statistics have followed after the former."""
STRONG = 0.75
"""Probability of a dropout that is no mistake yet (N. Srivastava et al., Dropout, 2014: 0.5 for hidden units; up to 0.7
is seen in graph networks)."""
DROPPED, MISTAKEN = 0.15, 0.5
"""Shares of what was learnt that strong dropout, and running statistics, may take away; from small networks dropout of
0.5 takes 0.05 to 0.1, and 0.9 takes 0.2."""
LEARNT = 0.1
"""Share of the first loss that must have been learnt."""
DRAWS = 3


class Gap(NamedTuple):
    """Mean losses of one batch, by the same weights.

    Attributes:
        calm: Without dropout, by the statistics of the batch.
        dropping: With dropout.
        running: Without dropout, by running statistics.

    """

    calm: float
    dropping: float
    running: float

    def lost(self, first: float) -> tuple[float, float]:
        """Shares of what was learnt since the `first` loss that dropout, and running statistics, take away.

        Returns:
            0 for both if hardly anything was learnt.

        Example:
            >>> Gap(calm=1.0, dropping=1.8, running=1.0).lost(2.0)
            (0.8, 0.0)

        """
        learnt = first - self.calm
        if not learnt > LEARNT * abs(first):
            return 0.0, 0.0
        return tuple(round((loss - self.calm) / learnt, 6) for loss in (self.dropping, self.running))  # type: ignore[return-value]


def due(run: Run, compared: int) -> bool:
    """Whether to compare now, after so many times."""
    return compared < len(LATE) and run.step >= max(YOUNG, LATE[compared] * min(run.horizon, LONG))


def strong_dropouts(step: Step) -> list[str]:
    """Names of the dropouts called in training mode that drop more than `STRONG` of what a network has computed."""
    dropping = [event for event in step.events if isinstance(event.module, _DropoutNd) and event.training]
    hidden = [event for event in dropping if event.inputs and step.producer(event.inputs[0]) is not None]
    return [event.name for event in hidden if event.module.p > STRONG]  # type: ignore[union-attr, operator]


def norms_called_once(step: Step) -> list[str]:
    """Names of the BatchNorms that take statistics, all of them once; of several calls each would see a mixture."""
    names = [e.name for e in step.events if isinstance(e.module, _BatchNorm) and e.training and matters(e.module)]
    return names if names and max(Counter(names).values()) == 1 else []


def gap(run: Run, batch: Any) -> Gap | None:
    """Run the step again on a copy, with dropout, without, and by running statistics; None if that can't be done."""
    try:
        with rehearsal(run) as again:
            dropping = sum(_loss(again, batch, seed) for seed in range(DRAWS)) / DRAWS
            without_dropout(again.module)
            calm = _loss(again, batch)
            for module in again.module.modules():
                if isinstance(module, _BatchNorm):
                    module.training = False
            return Gap(calm, dropping, _loss(again, batch))
    except CannotRehearseError:
        return None


def _loss(again: Rehearsal, batch: Any, seed: int = 0) -> float:
    loss = again.step(batch, seed=seed).loss
    return math.nan if loss is None else float(loss.mean())
