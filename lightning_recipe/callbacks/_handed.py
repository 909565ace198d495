"""Classes that become one another in a mirror, as left and right hands do, or 6 and 9 when they are turned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_recipe.callbacks import _flips as flips
from lightning_recipe.callbacks._moved import named
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightning_recipe.callbacks._augmentation import Draws, Turned

FEWEST = 8
"""Examples of a class that are mirrored, at least: of two classes as alike as can be, 8 of 8 come once in 256."""
CALLED = 0.9
"""Share of them whose nearest neighbour is of their own class as they are, and of one other once they are mirrored."""


def exchanged(
    draws: Draws, image: Turned, examples: Callable[[str], tuple[Tensor, Tensor] | None]
) -> Iterator[Outcome]:
    """A `warning` for classes that stay what they were though their mirror image is another class.

    Args:
        draws: Of training.
        image: What is mirrored.
        examples: Images of validation as they are, of shape (N, C, H, W), and a target of theirs, of shape (N, D), by
            its path; None if they are too few.

    """
    for name, leaf in draws[0][0].items():
        pairs = [(draws[i][a].get(name), draws[i][b].get(name)) for i, (a, b) in image.pairs.items()]
        kept = all(a is not None and b is not None and torch.equal(a, b) for a, b in pairs)
        known = examples(name) if name != image.name and leaf.numel() == 1 and kept else None
        becomes = partners(*known, image.how) if known is not None and known[1].shape[1] == 1 else {}
        if becomes:
            one, (other, share) = next(iter(becomes.items()))
            yield Outcome(
                Status.WARNING,
                "class_not_exchanged",
                f"images are {image.how} in some draws of an example, and the class{named(name)} stays what it was: "
                f"{share:.0%} of the validation examples of class {one:g} look like class {other:g} then, and the "
                "other way round",
                "give the mirrored example the other class, or leave the mirror out",
                {"share": share, "classes": len(becomes)},
            )


def partners(images: Tensor, classes: Tensor, how: str) -> dict[float, tuple[float, float]]:
    """Which class each becomes, of those that change places, and in which share of its examples.

    By the nearest neighbour among the other half of the examples, as they are, coarse.

    Args:
        images: Of shape (N, C, H, W).
        classes: Of shape (N, 1).
        how: One of ``flips.MIRRORED``.

    Example:
        >>> images, classes = torch.zeros(80, 1, 8, 8), torch.arange(80)[:, None] // 2 % 2
        >>> images[classes[:, 0] == 0, :, :, :3] = 1
        >>> images[classes[:, 0] == 1, :, :, 5:] = 1
        >>> partners(images, classes, "mirrored left to right")
        {0.0: (1.0, 1.0), 1.0: (0.0, 1.0)}

    """
    coarse, labels = flips.coarse(images), classes[:, 0].double()
    known = torch.arange(len(labels)) % 2 == 0

    def called(views: Tensor) -> Tensor:
        return labels[known][torch.cdist(views[~known].flatten(1), coarse[known].flatten(1)).argmin(1)]

    as_they_are, mirrored, asked = called(coarse), called(flips.MIRRORED[how](coarse)), labels[~known]
    found: dict[float, tuple[float, float]] = {}
    for one in asked.unique().tolist():
        own = asked == one
        other = float(mirrored[own].mode().values)
        share = float((mirrored[own] == other).double().mean())
        sure = min(share, float((as_they_are[own] == one).double().mean())) >= CALLED
        if other != one and sure and int(own.sum()) >= FEWEST:
            found[one] = (other, share)
    places = {other for other, _ in found.values()}
    return {one: becomes for one, becomes in found.items() if becomes[0] in found and one in places}
