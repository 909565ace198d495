"""Targets that are numbers of a place, such as key points, and stay where they are when their image is moved."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_recipe.callbacks import _flips as flips
from lightning_recipe.callbacks import _moved as moved
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightning_recipe.callbacks._augmentation import Draws
    from lightning_recipe.callbacks._moved import Shift

FEW = 16
"""Numbers of a target that may be coordinates, at most, where its name doesn't say so."""
MIRROR = "mirrored left to right"
RELATIVE = re.compile(r"pose|joint", re.IGNORECASE)
"""Names of what changes in a mirror, and may be told from the body's own middle."""
COARSE = 16
"""Pixels along each side of the images that a linear model sees."""
KNOWN = 0.5
"""Share of a target's variance that the linear model has to explain, of each example by all others."""
STEADY = 0.75
"""Mean change of what it predicts when images are moved, in standard deviations of it: 1.2 for points in noise; a
direction, which is told by the same pixels, changes one way or the other, and by chance less than 0.2."""
FAR = 0.25
"""The same in standard deviations of the target, at least; for a tenth of the width or height 0.6 was measured."""
STEP = 0.1
"""Share of the width or height by which images are moved."""


def left_behind(draws: Draws, probe: Callable[[str, str, Shift], bool]) -> Iterator[Outcome]:
    """A `warning` for each target of numbers with a place that is the same in draws between which its image was moved.

    Args:
        draws: Of training.
        probe: Whether moving images, by their path, would change the target, by its own, as validation shows.

    """
    for name in draws[0][0]:
        pairs = [pair for times in draws if (pair := moved.pair(times, name)) is not None]
        for target in draws[0][0] if len(pairs) > 1 else ():
            both = [(times[0].get(target), now.get(target)) for times, now, _ in pairs]
            if target == name or any(a is None or b is None or not moved.same(a, b) for a, b in both):
                continue
            firsts, by = [a for a, _ in both if a is not None], pairs[0][2]
            image = flips.as_image(pairs[0][0][0][name])
            numbers = all(a.is_floating_point() and a.ndim < 3 and a.numel() > 0 for a in firsts)  # noqa: PLR2004
            if image is None or not numbers or all(moved.same(firsts[0], other) for other in firsts):
                continue
            sure = all(flips.has_place(target, a, image, MIRROR) for a in firsts) and not RELATIVE.search(target)
            if flips.as_image(firsts[0]) is None and (sure or (firsts[0].numel() <= FEW and probe(name, target, by))):
                yield Outcome(
                    Status.WARNING,
                    "target_not_moved",
                    f"draws of an example are moved by up to {max(abs(by.down), abs(by.right))} places, and the target"
                    f"{moved.named(target)}, which tells a place, is the same in all",
                    "subtract from coordinates where the crop begins, and move them with the image",
                    {"examples": len(pairs), "places": max(abs(by.down), abs(by.right))},
                )


def moves_along(images: Tensor, targets: Tensor, by: Shift) -> bool:
    """Whether moving images would change a target, for all of them by about as much.

    Told by a linear model of the coarse images, once it predicts the target of examples that were left out.

    Args:
        images: Of shape (N, C, H, W), as they are.
        targets: Of shape (N,).
        by: In which direction.

    Example:
        >>> from lightning_recipe.callbacks._moved import Shift
        >>> at = 3 + torch.arange(100) % 10
        >>> stripes = (-(torch.arange(16) - at[:, None]).square() / 8).exp()
        >>> images = stripes[:, None, None].expand(-1, 1, 16, -1)
        >>> moves_along(images, at, Shift(0, 3)), moves_along(images, at, Shift(3, 0))
        (True, False)

    """
    x = F.adaptive_avg_pool2d(images.double().mean(1, keepdim=True), COARSE)
    far = [round(STEP * COARSE) * ((step > 0) - (step < 0)) for step in by]
    change = (x.roll(far, (-2, -1)) - x).flatten(1)
    x = x.flatten(1) - x.flatten(1).mean(0)
    y = targets.double() - targets.double().mean()
    gram = x @ x.T
    inverse = torch.linalg.inv(gram + 0.1 * gram.diagonal().mean() * torch.eye(len(x), dtype=x.dtype))
    weights = inverse @ y
    left_out = (weights / inverse.diagonal()).square().mean()
    if not bool(y.any()) or left_out > (1 - KNOWN) * y.square().mean():
        return False
    moved_by = change @ (x.T @ weights)
    return bool(moved_by.mean().abs() > max(STEADY * moved_by.std(), FAR * y.std()))
