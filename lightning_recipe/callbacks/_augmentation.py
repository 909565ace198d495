"""What draws of the same examples tell of their augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.callbacks import _flips as flips
from lightning_recipe.callbacks._moved import named
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST = 8
"""Numbers of an input, more than which tell whether two are alike."""
ALIKE = 0.3
"""Correlation of two inputs that are made of the same example."""

Draws = list[list[dict[str, Tensor]]]
"""Leaves of examples, by index and draw."""


class Turned(NamedTuple):
    """An image that its augmentation mirrored.

    Attributes:
        name: Path of the image in an example.
        how: One of ``flips.MIRRORED``.
        pairs: By index, two draws of it that are mirror images.

    """

    name: str
    how: str
    pairs: dict[int, tuple[int, int]]


def turned(draws: Draws, only: str = "") -> Turned | None:
    """The image that is mirrored in some draws of at least two examples, and how; None if there is none.

    Args:
        draws: Of training.
        only: One of ``flips.MIRRORED`` to look for.

    """
    for name in draws[0][0]:
        found: dict[str, dict[int, tuple[int, int]]] = {}
        for index, times in enumerate(draws):
            images = [flips.as_image(leaves[name]) if name in leaves else None for leaves in times]
            for other in range(1, len(images)):
                one, now = images[0], images[other]
                if one is None or now is None:
                    break
                how = flips.mirroring(one, now)
                if how and (not only or how == only):
                    found.setdefault(how, {}).setdefault(index, (0, other))
        for how, pairs in found.items():
            if len(pairs) > 1:
                return Turned(name, how, pairs)
    return None


def left_behind(draws: Draws, image: Turned, probe: Callable[[str], float]) -> list[Outcome]:
    """The targets that have a place, and are the same whichever way the image is turned.

    Args:
        draws: Of training.
        image: What is turned.
        probe: How well a single number is predicted by what changes its sign in a mirror, by its path.

    """
    found = []
    for name in draws[0][0]:
        pairs = [(draws[i][a], draws[i][b]) for i, (a, b) in image.pairs.items()]
        if name == image.name or any(name not in leaves for pair in pairs for leaves in pair):
            continue
        if not all(_same(a[name], b[name]) for a, b in pairs):
            continue
        firsts = [a[name] for a, _ in pairs]
        if all(_same(firsts[0], other) for other in firsts[1:]) and len(firsts[0].shape) > 0:
            continue  # a grid of coordinates, which all examples share
        shown = [flips.as_image(a[image.name]) for a, _ in pairs]
        sides = [(a, b) for a, b in zip(firsts, shown, strict=True) if not flips.is_symmetric(a, image.how)]
        sure = bool(sides) and all(
            pixels is not None and flips.has_place(name, leaf, pixels, image.how) for leaf, pixels in sides
        )
        correlation = 0.0
        if not sure and firsts[0].numel() <= 4 and firsts[0].is_floating_point():  # noqa: PLR2004
            correlation = probe(name)
        if sure or correlation > flips.PREDICTED:
            told = f", which its mirrored part predicts (correlation {correlation:.2f})" if not sure else ""
            found.append(
                Outcome(
                    Status.WARNING,
                    "target_not_flipped",
                    f"images are {image.how} in some draws of an example, and the target{named(name)}{told} is the "
                    "same in all",
                    "change the target with the image: mirror masks, boxes and points, change the sign of positions",
                    {"examples": len(pairs), "correlation": correlation},
                )
            )
    return found


def differing(draws: Draws) -> list[str]:
    """Paths of what is not the same each time that an example is read."""
    return [
        name
        for name in draws[0][0]
        if any(name not in b or not _same(times[0].get(name, b[name]), b[name]) for times in draws for b in times[1:])
    ]


def drawn_once(draws: Draws, others: Draws) -> Outcome | None:
    """What to say where all draws of an example are equal, and another copy of the data set draws it otherwise, once.

    Its label is the same, and the two are alike: of synthetic data that are made when they are first read all is new.

    Args:
        draws: Of training.
        others: Of another copy, in other random streams.

    """
    found = 0
    for (times, *_), (elsewhere, *_) in zip(draws, others, strict=True):
        same = {name for name, leaf in times.items() if name in elsewhere and _same(leaf, elsewhere[name])}
        changed = [name for name, leaf in times.items() if name not in same and leaf.numel() > LEAST]
        pairs = [(times[name], elsewhere[name]) for name in changed if name in elsewhere]
        alike = [a.shape == b.shape and flips.correlation(a, b) > ALIKE for a, b in pairs]
        found += bool(same) and bool(alike) and all(alike)
    if found < len(draws) / 2:  # the data set may have been read by now
        return None
    return Outcome(
        Status.ADVICE,
        "augmented_once",
        "training examples are the same each time that they are read, and others in another copy of the data set: they "
        "are augmented when they are first read, and kept like that",
        "keep what was read, and augment it each time that it is asked for",
        {"examples": found},
    )


def of_validation(draws: Draws, *, shared: bool, what: str = "transform") -> Outcome | None:
    """What to say of validation whose inputs are others each time, while a label stays.

    Where targets change as well, or a target is as large as the input, noise is the task: denoising, masked tokens.

    Args:
        draws: Of validation.
        shared: Whether training and validation have the same transform.
        what: That is called.

    """
    first, changed = draws[0][0], differing(draws)
    labels = [name for name in first if name not in changed]
    if not changed or not labels:
        return None
    size = max(first[name].numel() for name in changed)
    if len(changed) > 1 or size < 2 or any(first[name].numel() >= size / 4 for name in labels):  # noqa: PLR2004
        return None
    return Outcome(
        Status.WARNING if shared else Status.ADVICE,
        "validation_augmented",
        f"validation examples{named(changed[0])} differ each time that they are read, while their labels stay"
        + (f": training and validation have the same {what}" if shared else ""),
        "validate on examples without random augmentation, or scores go up and down with it",
        {"examples": len(draws)},
    )


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())
