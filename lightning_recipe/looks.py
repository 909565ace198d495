"""When to look: at steps, and at epochs. The same on all ranks, whatever the machine."""

from __future__ import annotations

import math

import numpy as np

PER_DOUBLING = 2
"""Looks, at least, whenever the number of steps doubles, in a short run; in a long one, one."""
LONG = 1000
"""Steps of a run that is long: at two looks a doubling, those of its first 400 steps would take 1 % of it."""
WIDEST = 0.02
"""Share of the run between two looks at most: what goes wrong late is then seen by several in a row."""
CHEAP = 800
"""Steps between two looks that are never too many: a look takes as long as two or three steps of 4 ms (10 ms were
measured), and all are to take 0.5 %."""
STRIPS = 4
"""Pictures of a run, besides that of its end, that each show all of it so far."""
FRAMES = 10
"""Epochs that are looked at in a run: TensorBoard keeps ten pictures of a tag, and drops others by chance."""


def next_step(step: int, every: int, horizon: float = math.inf, dense: int | None = None) -> int:
    """The look after the one at `step`: 1, 2, 4, 8, ..., every `every` steps, and ever rarer.

    Args:
        step: Batches trained on.
        every: Steps between looks once there were as many.
        horizon: Length of the run.
        dense: Looks whenever the number of steps doubles; by default as many as the length of the run allows.

    Example:
        >>> step, looks = 0, []
        >>> while (step := next_step(step, 25)) < 400:
        ...     looks.append(step)
        >>> looks
        [1, 2, 4, 8, 16, 25, 50, 75, 100, 150, 200, 300]

    """
    if step < every:
        return min(1 << step.bit_length(), every)
    dense = dense or (1 if LONG <= horizon < math.inf else PER_DOUBLING)
    doublings = max(0, (step // (dense * every)).bit_length() - 1)
    gap = min(every << doublings, max(every, CHEAP, horizon * WIDEST))
    gap = every << max(0, int(gap / every).bit_length() - 1)
    return (step // gap + 1) * gap


def epochs(every: int, most: int | None) -> set[int]:
    """The epochs to look at: the first and the last, and others ever further apart, one less than `FRAMES` in all.

    The one left is for a first batch outside of the plan: that of the sanity check, or of a run that was resumed.

    Example:
        >>> sorted(epochs(1, 5)), sorted(epochs(10, 1000))
        ([0, 1, 2, 3, 4], [0, 10, 20, 40, 70, 140, 270, 510, 990])

    """
    last = (most - 1) // every if most is not None and most > 0 else 2 ** (FRAMES - 3)
    if last == 0:
        return {0}
    return {0, *(round(epoch) * every for epoch in np.geomspace(1, last, FRAMES - 2))}


def is_among(batch: int, batches: float, most: int) -> bool:
    """Whether a batch is one of at most `most` that lie evenly among all; the first of them, where nobody knows all.

    Args:
        batch: Its index.
        batches: How many there are.
        most: How many are looked at.

    Example:
        >>> [i for i in range(10) if is_among(i, 10, 4)], [i for i in range(10) if is_among(i, math.inf, 4)]
        ([0, 3, 6, 9], [0, 1, 2, 3])

    """
    gap = 1 if math.isinf(batches) else max(1, math.ceil(batches / most))
    return batch % gap == 0 and batch // gap < most


def frames(expected: float) -> list[int]:
    """Steps at which to draw what has happened so far, evenly on a logarithmic scale; the last is not among them.

    Nothing has happened at step 0.

    Example:
        >>> frames(250)
        [1, 4, 16, 63]

    """
    ratio = 16.0 if math.isinf(expected) else max(1.0, expected) ** (1 / STRIPS)
    return sorted({round(ratio**i) for i in range(STRIPS)})
