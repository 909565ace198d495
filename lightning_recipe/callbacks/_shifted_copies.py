"""Validation images of which training holds copies that were shifted, mirrored or turned before the split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_recipe.callbacks import _near_copies as copies
from lightning_recipe.callbacks._like_anywhere import like_anywhere
from lightning_recipe.callbacks._matches import Match, OfMatches, place, some
from lightning_recipe.finding import Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightning_recipe.trial.stored import Part

PROBES = 32
"""Validation images that are moved, at most."""
SHIFT = 2
"""Pixels by which they are, in each direction, at most; borders of as many pixels are not compared."""
SMALLEST = 8
"""Rows and columns of an image, at least."""
COLOURS = (1, 3, 4)
"""Sizes of a last dimension that is no column of an image, but its colours."""
VALUES = 2**22
"""Numbers of training that each move is compared with, at most; of larger images fewer pixels."""
SAME = 1e-3
"""Distance, over the median distance, of images that are the same once they are moved: within, there is no gap."""
ASKED = 8
"""Images with a copy of which it is asked how many are like them anywhere."""


def shifted_copies(train: list[Part], val: list[Part]) -> OfMatches | None:
    """Look for copies of some validation images, moved in 32 ways, among what data sets store as arrays.

    What has more copies in training than augmentation makes, at any place, is a shape, a glyph or a pattern.
    The cost is bounded: 2^32 products of numbers, and where there seem to be copies, Fourier transforms of 2^23 pixels;
    half a second each at most, beside what reading the stored arrays takes.

    Returns:
        None if most of validation has none, or there are no such arrays.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from lightning_recipe.trial.stored import Part
        >>> x = torch.rand(200, 1, 12, 12, generator=torch.Generator().manual_seed(0))
        >>> one, other = TensorDataset(x), TensorDataset(x[:50].roll((1, -1), (2, 3)))
        >>> shifted_copies([Part(one, range(200))], [Part(other, range(50))]).evidence
        {'share': 1.0, 'copies': 1.0}

    """
    if not copies.are_compared(train, val):
        return None
    one, other = copies.gathered(train), copies.gathered(val)
    name = copies.largest_input(one, other)
    if name is None or len(one[name]) <= copies.COPIES or (axes := _axes(one[name])) is None:
        return None
    a, b = (x.reshape(len(x), -1) for x in (one[name], other[name]))
    (grid,) = np.moveaxis(np.arange(a.shape[1]).reshape(1, *one[name].shape[1:]), axes, (1, 2))
    sample = np.linspace(0, len(b) - 1, min(copies.PROBES, len(b))).astype(int)
    chosen, inside = sample[:: len(sample) // PROBES][:PROBES], grid[SHIFT:-SHIFT, SHIFT:-SHIFT].ravel()
    wide = max(copies.FEWEST, min(copies.WIDE, VALUES // len(a)))
    kept = np.isin(grid, inside[copies.varied(b[sample][:, inside], wide)])
    rows, probes = a[:, grid[kept]].astype(np.float32), b[chosen].astype(np.float32)
    if kept.sum() < copies.FEWEST or not (np.isfinite(rows).all() and np.isfinite(probes).all()):
        return None
    mean, std = rows.mean(), rows.std() + 1e-12
    moved = np.stack([probes[:, way[kept]] for way in _ways(grid)])
    near, apart, median = _nearest((rows - mean) / std, (moved - mean) / std)
    count = copies.of_a_class(copies.before_a_gap(apart, median), near, one, other, chosen)
    share, has = float((count > 0).mean()), np.flatnonzero(count)
    if share < copies.MOST:
        return None
    asked = has[:: -(-len(has) // ASKED)]
    squares, own = (apart[asked, 0] * std) ** 2 / kept.sum(), [near[i, : count[i]] for i in asked]
    held, held_out = (np.moveaxis(x, axes, (1, 2)) for x in (one[name], other[name][chosen[asked]]))
    if like_anywhere(held, held_out, own, squares) > copies.COPIES:
        return None
    matches = [Match(place(train, near[i, 0]), place(val, chosen[i])) for i in some(has)]
    return OfMatches(
        Status.WARNING,
        "near_copies",
        f"{share:.0%} of {len(chosen)} validation images have a copy in training, shifted by up to {SHIFT} pixels, "
        f"mirrored or turned, at least {copies.GAP:g}x nearer than any other image (for example validation "
        f"{matches[0].val.index} has training {matches[0].train.index})",
        copies.FIX,
        {"share": share, "copies": float(np.median(count[has]))},
        tuple(matches),
    )


def _axes(images: NDArray[Any]) -> tuple[int, int] | None:
    """Where rows and columns are, if these are images."""
    last = images.ndim > 3 and images.shape[-1] in COLOURS  # noqa: PLR2004 - images, rows, columns and colours
    axes = (-3, -2) if last else (-2, -1)
    return axes if images.ndim >= 3 and min(images.shape[i] for i in axes) >= SMALLEST else None  # noqa: PLR2004


def _ways(grid: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The grid as it is, shifted, mirrored and turned."""
    shifts = range(-SHIFT, SHIFT + 1)
    ways = [grid, *(np.roll(grid, (i, j), (0, 1)) for i in shifts for j in shifts if i or j)]
    turned = [np.rot90(grid, i) for i in range(4)]
    turned = [*turned[1:], *(one[::-1] for one in turned)]
    return ways + [way for way in turned if way.shape == grid.shape]


def _nearest(
    train: NDArray[np.float32], moved: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """As `nearest` of _near_copies, by the way that is nearest; 0 apart if an image is there as it is."""
    sides = np.concatenate([-2 * train.T, (train**2).sum(1)[None]])
    best = np.full((moved.shape[1], len(train)), np.inf, np.float32)
    for way in moved:
        squares = np.concatenate([way, np.ones((len(way), 1), np.float32)], 1) @ sides
        np.minimum(best, squares + (way**2).sum(1)[:, None], out=best)
    median = np.sqrt(np.median(best, axis=1).clip(0)).astype(float)
    found = np.argpartition(best, copies.COPIES, axis=1)[:, : copies.COPIES + 1]
    exact = np.stack([np.linalg.norm(train[found].astype(float) - way[:, None], axis=2) for way in moved])
    exact[1:] = np.maximum(exact[1:], SAME * median[:, None])
    apart = exact.min(0)
    order = np.argsort(apart, axis=1)
    return np.take_along_axis(found, order, 1), np.take_along_axis(apart, order, 1), median
