"""Whether examples that come several times do so by chance, as phrases and clicks do, or are copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENOUGH = 8.0
"""Examples that would come three times, without which nobody can tell."""
FEW = 0.25
"""Share of these that come, up to which those that come twice are copies."""


def are_copies(times: NDArray[np.int64]) -> bool:
    """Whether examples that come twice were copied: of what comes by chance, some comes three times and more.

    Of as many different examples as one likes, all equally likely, the times are distributed as S. Poisson has it: with
    n once and m twice, (2/3) m²/n come three times. If some are likelier than others it is more.

    Args:
        times: How often each example comes, shape (N,).

    Example:
        >>> import numpy as np
        >>> drawn = np.unique(np.random.default_rng(0).integers(2000, size=2000), return_counts=True)[1]
        >>> copied = np.random.default_rng(0).integers(1, 3, size=2000)
        >>> are_copies(drawn), are_copies(copied)
        (False, True)

    """
    once, twice, more = (times == 1).sum(), (times == 2).sum(), (times > 2).sum()  # noqa: PLR2004
    expected = 2 / 3 * twice**2 / max(1, once)
    return bool(expected >= ENOUGH and more <= FEW * expected)
