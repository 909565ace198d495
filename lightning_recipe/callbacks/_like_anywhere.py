"""Images that are like a given one once they are moved to any place: the same shape, glyph, or piece of a pattern."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIXELS = 2**19
"""Of images among which they are looked for, at most."""
LIKE, BORDER = 4.0, 0.01
"""Squared distance of the same shape at another place, at most: over that of a copy, as noise has it, up to twice the
distance; and over the variance of the image, as borders cut shapes."""


def like_anywhere(
    images: NDArray[Any], probes: NDArray[Any], own: list[NDArray[np.int64]], squares: NDArray[np.float64]
) -> float:
    """How many images each probe is like, about: all of it, moved around the borders, or its middle, within them.

    Patterns go on beyond the borders, and shapes may be beside the middle. The larger number is taken, of the middle
    its median, as the middle may be empty.

    Args:
        images: Of shape (N, rows, columns, ...).
        probes: Likewise.
        own: Those that are known to be like each.
        squares: Mean squared difference from the nearest of them.

    Example:
        >>> shape, images = np.random.default_rng(0).random((3, 3)), np.zeros((100, 12, 12))
        >>> for i, image in enumerate(images):
        ...     image[i % 10 : i % 10 + 3, i // 10 : i // 10 + 3] = shape
        >>> like_anywhere(images, images[55:56], [np.array([55])], np.array([1e-4])) > 90
        True

    """
    each = max(1, PIXELS // (images.shape[1] * images.shape[2]))
    chosen = np.linspace(0, len(images) - 1, min(len(images), each)).astype(int)
    a, b = (x.reshape(*x.shape[:3], -1).mean(3, dtype=float) for x in (images[chosen], probes))
    a, b = a - b.mean(), b - b.mean()
    whole, middle = np.ones(a.shape[1:]), np.zeros(a.shape[1:])
    i, j = (size // 4 for size in middle.shape)
    middle[i : len(middle) - i, j : middle.shape[1] - j] = 1
    limits = np.maximum(LIKE * squares, BORDER * b.var((1, 2)))
    within = [range(-i, i + 1), range(-j, j + 1)]
    apart = [_apart(a, b, whole, [range(size) for size in whole.shape]), _apart(a, b, middle, within)]
    like = [(one <= limits[:, None]) & ~np.stack([np.isin(chosen, mine) for mine in own]) for one in apart]
    counts = [one.mean(1) * len(images) + [len(mine) for mine in own] for one in like]
    return max(float(counts[0].mean()), float(np.median(counts[1])))


def _apart(
    images: NDArray[np.float64], probes: NDArray[np.float64], window: NDArray[np.float64], places: list[range]
) -> NDArray[np.float64]:
    """Mean squared difference of what a window shows of each probe and each image, at the place where it is least."""
    seen, waves = np.ix_(range(len(images)), *places), np.fft.rfft2(images)
    powers = np.fft.irfft2(np.fft.rfft2(images**2) * np.fft.rfft2(window).conj(), window.shape)
    found = []
    for part in probes * window:
        products = np.fft.irfft2(waves * np.fft.rfft2(part).conj(), window.shape)
        found.append(((powers - 2 * products)[seen].min((1, 2)) + (part**2).sum()) / window.sum())
    return np.stack(found)
