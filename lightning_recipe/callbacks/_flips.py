"""Which leaves of an example are images, targets with a place, and which draws of an image are mirrored."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

SMALLEST = 6
"""Pixels along the sides of an image."""
ALIKE = 0.95
"""Correlation of two images from which on the one is taken for the other, mirrored, with a little noise or colour."""
APART = 0.2
"""How much less the one must correlate with the other as it is."""
PLACED = re.compile(r"box|key_?points?|kpts?|landmark|coord|joint|pose|corner|polygon|centre|center", re.IGNORECASE)
"""Names of targets with a place."""
CLASSES = 64
"""Values of a dense target at most that is a mask."""
FEW = 8
"""And with more than so many it must not be the image itself."""
ITSELF = 0.8
"""Correlation of the image, as it is or mirrored, with itself as a target."""
PREDICTED = 0.8
"""Correlation, on examples left out, of a target with what changes its sign when the image is mirrored."""
NUMBERS = 20
"""Values of a target from which on it is a number, and no class: a 7 differs from a 1 by what is odd."""
ENOUGH = 60
"""Examples for that."""

MIRRORED: dict[str, Callable[[Tensor], Tensor]] = {
    "mirrored left to right": lambda x: x.flip(-1),
    "mirrored top to bottom": lambda x: x.flip(-2),
    "turned by 180 degrees": lambda x: x.flip(-1, -2),
    "turned by 90 degrees": lambda x: x.rot90(1, (-2, -1)),
    "turned by 270 degrees": lambda x: x.rot90(3, (-2, -1)),
}
"""What augmentation does to places."""


def as_image(leaf: Tensor) -> Tensor | None:
    """An image with height and width last, of shape (C, H, W); None of what is no image."""
    if leaf.ndim == 2:  # noqa: PLR2004
        leaf = leaf[None]
    elif leaf.ndim == 3 and leaf.shape[-1] in {1, 3, 4} and leaf.shape[0] not in {1, 3, 4}:  # noqa: PLR2004
        leaf = leaf.movedim(-1, 0)
    if leaf.ndim != 3 or min(leaf.shape[-2:]) < SMALLEST or leaf.is_complex():  # noqa: PLR2004
        return None
    return leaf


def mirroring(one: Tensor, other: Tensor) -> str | None:
    """How two draws of an image, of shape (C, H, W), are mirror images of one another; None if they are not.

    Example:
        >>> image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> mirroring(image, image.flip(-1)), mirroring(image, image)
        ('mirrored left to right', None)

    """
    if one.shape != other.shape:
        return None
    as_it_is = correlation(one, other)
    alike = {
        name: correlation(turned, other)
        for name, turn in MIRRORED.items()
        if (turned := turn(one)).shape == other.shape
    }
    best = max(alike, key=alike.__getitem__)
    return best if alike[best] >= ALIKE and alike[best] - as_it_is >= APART else None


def is_symmetric(leaf: Tensor, how: str) -> bool:
    """Whether a mask is its own mirror image, as one that is empty is: it can't tell whether it was mirrored.

    Example:
        >>> is_symmetric(torch.zeros(8, 8), "mirrored left to right")
        True

    """
    dense = as_image(leaf)
    return dense is not None and torch.equal(MIRRORED[how](dense), dense)


def has_place(name: str, leaf: Tensor, image: Tensor, how: str) -> bool:
    """Whether a target, equal in all draws of an image, should have changed with it: masks, boxes and points.

    Args:
        name: Path of the target.
        leaf: The target.
        image: The image, of shape (C, H, W).
        how: One of `MIRRORED`.

    Example:
        >>> mask = torch.arange(8).expand(8, 8)
        >>> has_place("1", mask, torch.rand(1, 8, 8), "mirrored left to right")
        True

    """
    dense = as_image(leaf)
    if dense is not None:
        values = len(dense.unique())
        if dense.shape[-2:] != image.shape[-2:] or len(dense) > 1 or values > CLASSES:
            return False
        pixels, ways = image.double().mean(0, keepdim=True), (dense, MIRRORED[how](dense))
        itself = max(abs(correlation(x, pixels)) for x in ways if x.shape == pixels.shape) > ITSELF
        return not (values > FEW and itself) and not is_symmetric(leaf, how)
    if not leaf.numel() or leaf.dtype is torch.bool or bool(leaf.isnan().any()):
        return False
    if leaf.ndim == 2 and leaf.shape[1] == 4:  # noqa: PLR2004
        ordered = (leaf[:, 2:] > leaf[:, :2]).all() and leaf.min() >= 0 and leaf.max() <= max(image.shape[-2:])
        if bool(ordered):  # boxes as two corners
            return True
    return leaf.numel() > 1 and bool(PLACED.search(name))


def turns_sign(images: Tensor, targets: Tensor, how: str, numbers: int = NUMBERS) -> float:
    """How well a target is predicted by what changes its sign when the image is mirrored, and by that alone.

    A linear model of the odd part of the image, coarse, fitted to one half of the examples.

    Args:
        images: Of shape (N, C, H, W), as they are.
        targets: Of shape (N,).
        how: One of `MIRRORED`.
        numbers: Values without which 0 is returned.

    Returns:
        The correlation on the other half. Near 1, the target has a place: mirrored, it changes its sign.

    Example:
        >>> images = torch.rand(100, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> right = images[:, 0, :, 4:].sum((1, 2)) - images[:, 0, :, :4].sum((1, 2))
        >>> turns_sign(images, right, "mirrored left to right") > 0.9
        True

    """
    small = coarse(images)
    return _predicted(small - MIRRORED[how](small), targets) if len(targets.unique()) >= numbers else 0.0


def keeps_sign(images: Tensor, targets: Tensor, how: str) -> float:
    """The same of what stays as it is when the image is mirrored: its even part.

    Example:
        >>> images = torch.rand(100, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> middle = images[:, 0, :, 3:5].sum((1, 2))
        >>> keeps_sign(images, middle, "mirrored left to right") > 0.9
        True

    """
    small = coarse(images)
    return _predicted(small + MIRRORED[how](small), targets)


def coarse(images: Tensor) -> Tensor:
    """Images in grey, of shape (N, 1, 8, 8)."""
    return F.adaptive_avg_pool2d(images.double().mean(1, keepdim=True), 8)


def _predicted(part: Tensor, targets: Tensor) -> float:
    """The correlation of a target, on half of the examples, with a linear model of the others."""
    x, y = part.flatten(1), targets.double()
    x = x - x.mean(0)
    x = x / (x.std() + 1e-12)
    y = (y - y.mean()) / (y.std() + 1e-12)
    fit = torch.arange(len(y)) % 2 == 0
    a, b = x[fit], y[fit]
    ridge = torch.linalg.solve(a.T @ a + len(a) * 0.1 * torch.eye(a.shape[1], dtype=a.dtype), a.T @ b)
    return correlation(x[~fit] @ ridge, y[~fit])


def correlation(one: Tensor, other: Tensor) -> float:
    """That of all values of two tensors of one shape; 0 where one of them is constant."""
    a, b = (x.double().flatten() - x.double().mean() for x in (one, other))
    norm = float(a.norm() * b.norm())
    return float(a @ b) / norm if norm > 0 else 0.0
