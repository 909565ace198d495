"""Images and masks that are each turned or mirrored by a draw of their own."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import torch

from lightning_recipe.callbacks import _flips as flips
from lightning_recipe.callbacks._moved import named
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from lightning_recipe.callbacks._augmentation import Draws

    Leaves = dict[str, Tensor]

WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "as it was": lambda x: x,
    **flips.MIRRORED,
    "mirrored along a diagonal": lambda x: x.transpose(-2, -1),
    "mirrored along the other diagonal": lambda x: x.flip(-1, -2).transpose(-2, -1),
}
"""All ways in which a square can lie."""
IS_IT = 0.999
"""Correlation of an image with itself, so that rounding is no difference."""


def turned_apart(draws: Draws) -> Iterator[Outcome]:
    """A `warning` for each mask that lies in another way than its image in some draws of at least two examples.

    Two views of the same image are no image and mask, nor is what has a number of its own that goes with the two, as
    where it is to be said how far the one is turned against the other.

    Args:
        draws: Of training.

    """
    first = draws[0][0]
    numbers = [name for name, leaf in first.items() if leaf.numel() == 1]
    if any(name in now and not now[name].equal(times[0][name]) for times in draws for now in times for name in numbers):
        return
    for name, target in permutations(first, 2):
        told = [found for times in draws if (found := _apart(times, name, target))]
        if len(told) > 1:
            image, mask = told[0]
            yield Outcome(
                Status.WARNING,
                "target_not_flipped",
                f"images and their target{named(target)} are turned by draws of their own: between two draws of an "
                f"example its image is {image}, and its target {mask}",
                "draw once for both: turn and mirror image and target by the same numbers",
                {"examples": len(told)},
            )


def _apart(times: list[Leaves], name: str, target: str) -> tuple[str, str] | None:
    """How an image lies against its first draw, and how its mask does, where these differ; None if they go together.

    The mask's way is exact, to the last value, and that of the image known from what it is most like.
    """
    if any(path not in leaves for path in (name, target) for leaves in times):
        return None
    images, masks = ([flips.as_image(leaves[path]) for leaves in times] for path in (name, target))
    if images[0] is None or masks[0] is None or not _is_mask(masks[0], images[0]):
        return None
    for image, mask in zip(images[1:], masks[1:], strict=True):
        if image is None or mask is None or image.shape != images[0].shape or torch.equal(mask, masks[0]):
            continue  # what is never turned is told of where images are
        by = _way(images[0], image)
        lies = [way for way, turn in WAYS.items() if torch.equal(turn(masks[0]), mask)]
        if by is not None and lies and by not in lies:
            return by, lies[0]
    return None


def _is_mask(mask: Tensor, image: Tensor) -> bool:
    """Whether it is as large as the image, has few values and is no view of the image itself, whichever way."""
    values = len(mask.unique())
    if mask.shape[-2:] != image.shape[-2:] or not 1 < values <= flips.CLASSES:
        return False
    pixels, flat = image.double().mean(0), mask.double().mean(0)
    views = [turn(flat) for turn in WAYS.values()]
    alike = max(flips.correlation(view, pixels) for view in views if view.shape == pixels.shape)
    return alike < (flips.ITSELF if values > flips.FEW else IS_IT)


def _way(one: Tensor, other: Tensor) -> str | None:
    """How the second image lies against the first, if it is like that one way and clearly less like any other."""
    turned = {way: turn(one) for way, turn in WAYS.items()}
    alike = {way: flips.correlation(image, other) for way, image in turned.items() if image.shape == other.shape}
    best = max(alike, key=alike.__getitem__)
    others = [value for way, value in alike.items() if way != best]
    return best if alike[best] >= flips.ALIKE and alike[best] - max(others, default=0.0) >= flips.APART else None
