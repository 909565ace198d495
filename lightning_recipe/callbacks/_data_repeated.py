"""Batches that come again within an epoch: of workers that all give the same, or of a loop that keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

PAIRS = 8
"""Pairs of equal batches without which nothing is told."""
ROUNDS = 3
"""Rounds of all workers, in each of which all give the same, and each time others: of a short epoch there are few."""


def repeated(
    batches: Sequence[NDArray[np.int64]], rich: Sequence[NDArray[np.bool_]], workers: int
) -> Iterator[Outcome]:
    """What there is to say of the first batches of an epoch, all of which were looked at.

    Args:
        batches: A fingerprint of each example, by batch.
        rich: Whether an example is one that does not come twice by chance.
        workers: Processes that read a stream; 0 of what is read by index.

    Example:
        >>> import numpy as np
        >>> batches = [np.arange(4) + 4 * i for i in range(16)]
        >>> rich = [np.ones(4, bool)] * 32
        >>> twice, again = [b for b in batches for _ in range(2)], batches + batches
        >>> [[o.code for o in repeated(b, rich, 2)] for b in (batches, twice, again)]
        [[], ['workers_alike'], ['same_batches']]

    """
    told = [
        batch.tobytes() if len(batch) > 1 and known.all() else None for batch, known in zip(batches, rich, strict=False)
    ]
    rounds = [told[i : i + workers] for i in range(0, len(told) - workers + 1, workers)] if workers > 1 else []
    if len(rounds) >= ROUNDS and all(len({*each}) == 1 and each[0] for each in rounds) and _differ(told[::workers]):
        yield Outcome(
            Status.WARNING,
            "workers_alike",
            f"all {workers} workers give the same batches: each of the first {len(rounds)} came {workers} times, one "
            "after another",
            "have __iter__ ask torch.utils.data.get_worker_info(): draw from a generator that is made there, of the "
            "worker's seed, or give each worker a part of the data",
            {"workers": workers, "batches": len(rounds)},
        )
        return
    period = told.index(told[0], 1) if told and told[0] and told[0] in told[1:] else 0
    pairs = list(zip(told, told[period:], strict=False))
    if (
        period > 1
        and len(pairs) >= PAIRS
        and all(a is not None and a == b for a, b in pairs)
        and _differ(told[:period])
    ):
        yield Outcome(
            Status.ADVICE,
            "same_batches",
            f"the same {period} batches come again and again within the epoch, to the last number: neither their order "
            "nor any augmentation is drawn anew",
            "itertools.cycle keeps what came in its first pass: while True: yield from loader draws anew",
            {"batches": period},
        )


def _differ(batches: Sequence[bytes | None]) -> bool:
    return len({*batches}) == len(batches)
