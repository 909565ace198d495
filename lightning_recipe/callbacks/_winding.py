"""Points of objects that may lie any way round: which of two counterparts is the left one is told by their winding."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch

from lightning_recipe.callbacks import _flips as flips

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

ALIKE = 0.1
"""Distance of a point from where another one's mirror image is, in its distance from the middle, below which they are
counterparts. A tail that swings by half of its length is on average within 5 % of it, over 100 examples."""
OTHERS = 2
"""Points besides, at least: two finger tips may happen to be as far from one."""
SAME_WAY = 0.95
"""Share of examples in which a point lies on the same side. Of what is seen from both sides it does in half."""
FLAT = 0.1
"""Height over the line through two points, in the distance from their middle, below which three points are a line."""
POINTS, PAIRS = 100, 300
"""Points and pairs that are compared, at most; faces have 98."""


class Counterparts(NamedTuple):
    """A left and a right one.

    Attributes:
        one: The column of its x.
        other: The same of the other one.
        beside: The same of a third one, which always lies on the same side of the way from the one to the other.
        share: Of examples in which it does.
        examples: In which all three are known.

    """

    one: int
    other: int
    beside: int
    share: float
    examples: int


def counterparts(values: Tensor, columns: Sequence[int]) -> Counterparts | None:
    """Two points that can be exchanged in a mirror between them, by which each other one becomes another or itself.

    From the left ear to the right one, the nose is always on the same side, whichever way an animal lies; in a mirror
    it is on the other, and what was the left ear looks like a right one. Of what has no counterpart, as the thumb of a
    hand, the mirror makes another object.

    Args:
        values: Of shape (N, D), as they are; points out of sight are NaN, (0, 0) or (-1, -1).
        columns: Those of the coordinate that the mirror changes.

    Returns:
        The first that are found; None without such points, or where they are no points.

    Example:
        >>> angle = torch.linspace(0, 6, 100)[:, None] + torch.tensor([0.0, 0.8, -0.8, 3.1])
        >>> points = torch.stack([angle.cos(), angle.sin()], -1)
        >>> counterparts(points.flatten(1), [0, 2, 4, 6])
        Counterparts(one=2, other=4, beside=0, share=1.0, examples=100)
        >>> counterparts(points[..., :1].repeat(1, 1, 2).flatten(1), [0, 2, 4, 6]) is None
        True

    """
    pairs = in_pairs(values, columns)[:POINTS]
    if len(pairs) < 2 + OTHERS:
        return None
    x, y = (values[:, [pair[i] for pair in pairs]].double() for i in (0, 1))
    points = torch.complex(x, y).masked_fill((x == y) & ((x == 0) | (x == -1)), complex(torch.nan, torch.nan))
    for i, j in _likely(points):
        way = points[:, j] - points[:, i]
        places = (points - (points[:, i] + points[:, j])[:, None] / 2) * (way.conj() / way.abs())[:, None]
        known = places.isfinite()
        count = known.sum(0)
        others = [k for k in range(len(pairs)) if k not in {i, j} and count[k] >= flips.ENOUGH]
        if len(others) < OTHERS:
            continue
        mean = places.nan_to_num().sum(0)[others] / count[others]
        away = places.abs().nan_to_num().sum(0)[others] / count[others]
        if bool((((-mean.conj())[:, None] - mean[None]).abs().amin(1) > ALIKE * away).any()):
            continue
        sides = places.imag.sign().nan_to_num().sum(0)[others].abs() / count[others]
        share = ((1 + sides) / 2).masked_fill(mean.imag.abs() < FLAT * away, 0.0)
        if float(share.max()) >= SAME_WAY:
            k = others[int(share.argmax())]
            return Counterparts(pairs[i][0], pairs[j][0], pairs[k][0], float(share.max()), int(count[k]))
    return None


def _likely(points: Tensor) -> list[tuple[int, int]]:
    """Pairs whose distances from all points are the same, in order; the most likely first."""
    far = (points[:, :, None] - points[:, None]).abs().nanmean(0).nan_to_num().sort(1).values
    apart = (far[:, None] - far).abs().amax(-1) / far.max()
    pairs = combinations(range(len(far)), 2)
    return sorted((pair for pair in pairs if apart[pair] <= 2 * ALIKE), key=lambda pair: float(apart[pair]))[:PAIRS]


def in_pairs(values: Tensor, columns: Sequence[int]) -> list[tuple[int, int]]:
    """The columns of both coordinates of each point, the mirrored one first; none if they are in no such order.

    Args:
        values: Of shape (N, D); the other coordinate takes many values, other than whether a point can be seen.
        columns: Those of the coordinate that the mirror changes.

    Example:
        >>> values = torch.rand(100, 6, generator=torch.Generator().manual_seed(0))
        >>> in_pairs(values, [0, 2, 4]), in_pairs(values, [1, 3, 5])
        ([(0, 1), (2, 3), (4, 5)], [(1, 0), (3, 2), (5, 4)])
        >>> in_pairs(values, [0, 1, 2]), in_pairs(values, [1, 2])
        ([(0, 3), (1, 4), (2, 5)], [])

    """
    size, gaps = values.shape[1], {b - a for a, b in pairwise(columns)}
    every = min(gaps, default=0)
    if every == 1:  # all x, then all y, or the other way round; then whether they can be seen
        ways = [len(columns), -len(columns)] if gaps == {1} and columns[0] % len(columns) == 0 else []
    else:
        ways = [1, -1] if every and all(gap % every == 0 for gap in gaps) else []
    for way in ways:
        others = [column + way for column in columns]
        inside = others[0] >= 0 and others[-1] < size
        if inside and all(values[:, other].unique().numel() >= flips.NUMBERS for other in others):
            return list(zip(columns, others, strict=True))
    return []
