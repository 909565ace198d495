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
LEAST, ROUNDING = 4, 1e-3
"""Draws between which an image was moved, and the share by which a number may miss its step by rounding."""
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


def moved_otherwise(draws: Draws, probe: Callable[[str, str, int], tuple[float, float]]) -> Iterator[Outcome]:
    """A `warning` for each target whose numbers move with an image, but along the other side of it, or the other way.

    Args:
        draws: Of training.
        probe: How a number of the target, by paths and its place, changes when images of validation are moved down,
            and when they are moved to the right; 0 where that is not known.

    """
    for name in draws[0][0]:
        pairs = [(times[0], now, by) for times in draws for now in times[1:] if (by := _shift(times[0], now, name))]
        for target, first in draws[0][0].items() if len(pairs) >= LEAST else ():
            numbers = first.is_floating_point() and 0 < first.ndim < 3 and first.numel() <= FEW  # noqa: PLR2004
            known = all(target in a and a[target].shape == b[target].shape == first.shape for a, b, _ in pairs)
            if target == name or not numbers or not known:
                continue
            steps = torch.tensor([[by.down, by.right] for _, _, by in pairs], dtype=torch.double)
            changes = torch.stack([(b[target] - a[target]).flatten().double() for a, b, _ in pairs])
            told = [
                _differ(follows, torch.tensor(wanted, dtype=torch.double))
                for place, follows in enumerate(_followed(steps, changes))
                if follows is not None and any(wanted := probe(name, target, place))
            ]
            if told and sum(told) > len(told) / 2:
                yield Outcome(
                    Status.WARNING,
                    "target_not_moved",
                    f"numbers of the target{moved.named(target)} do not move as their image does, between "
                    f"{len(pairs)} draws of examples: along its other side, or the other way",
                    "see which offset is that of rows and which that of columns, and what is added where",
                    {"draws": len(pairs), "numbers": len(told)},
                )


def _differ(follows: Tensor, wanted: Tensor) -> bool:
    """Whether two directions are at right angles, or opposite, and not by rounding.

    Example:
        >>> one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> _differ(one, one), _differ(one, other), _differ(one, -one)
        (False, True, True)

    """
    return bool(follows @ wanted < follows.norm() * wanted.norm() / 2)


def _shift(first: dict[str, Tensor], other: dict[str, Tensor], name: str) -> Shift | None:
    if name not in first or first.keys() != other.keys():  # examples may be lists of any length
        return None
    one, image = flips.as_image(first[name]), flips.as_image(other[name])
    return None if one is None or image is None else moved.shift(one, image)


def _followed(steps: Tensor, changes: Tensor) -> Iterator[Tensor | None]:
    """By how much each number changes with a step down and one to the right; None unless it follows one, to the digit.

    Example:
        >>> steps = torch.tensor([[1.0, 2], [3, -1], [0, 4], [2, 2]], dtype=torch.double)
        >>> changes = torch.stack([steps[:, 1] / 4, steps.sum(1), torch.zeros(4)], 1)
        >>> [None if one is None else [round(abs(x), 2) for x in one.tolist()] for one in _followed(steps, changes)]
        [[0.0, 0.25], None, None]

    """
    known = torch.linalg.matrix_rank(steps) == 2  # noqa: PLR2004
    for change in changes.T:
        follows = torch.linalg.lstsq(steps, change[:, None]).solution[:, 0] if known else torch.zeros(2)
        small, large = sorted(follows.abs().tolist())
        exact = large > 0 and (steps @ follows.double() - change).norm() <= ROUNDING * change.norm()
        yield follows.double() if exact and small <= ROUNDING * large else None


def change_along(images: Tensor, targets: Tensor, by: Shift) -> float:
    """By how much moving images would change a target, if for all of them by about as much; else 0.

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
        >>> [change_along(images, at, by) > 1 for by in (Shift(0, 3), Shift(3, 0), Shift(0, -3))]
        [True, False, False]

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
        return 0.0
    moved_by = change @ (x.T @ weights)
    steady = moved_by.mean().abs() > max(STEADY * moved_by.std(), FAR * y.std())
    return float(moved_by.mean()) if steady else 0.0
