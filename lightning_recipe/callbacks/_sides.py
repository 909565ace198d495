"""Targets with a left and a right side that were mirrored in place, and kept their names."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_recipe.callbacks import _flips as flips
from lightning_recipe.callbacks._moved import named
from lightning_recipe.callbacks._winding import counterparts
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lightning_recipe.callbacks._augmentation import Draws, Turned

SIDEWAYS = "mirrored left to right"
EXACT = 1e-3
"""Difference over the largest value that is rounding."""
ALWAYS = 0.95
"""Share of validation examples in which the one number is smaller than the other: it lies to the left."""
BOXES = 8
"""In the examples read, from which on it is told by them alone that these are boxes of two corners; so does a name."""
LOOK = 0.6
"""Correlation, on examples left out, of an order with what a mirror leaves as it is: of 75, 0.6 comes by no chance."""
POINTS = 24
"""Numbers that are compared with one another for that, at most."""
COLUMNS = 512
"""Numbers of a target at most; faces have 98 points, hands 21."""


def not_exchanged(
    draws: Draws, image: Turned, examples: Callable[[str], tuple[Tensor, Tensor] | None]
) -> Iterator[Outcome]:
    """What to say of targets that are mirrored with their image, and whose left side then lies on the right.

    Boxes of two corners that are inside out are a `warning`. Points are `advice`: where all objects look one way, the
    order of nose and tail is no name, and tells nothing.

    Args:
        draws: Of training.
        image: What is mirrored from left to right.
        examples: Images of validation as they are, of shape (N, C, H, W), and a target of theirs, of shape (N, D), by
            its path; None if they are too few.

    """
    for name in draws[0][0]:
        pairs = [(draws[i][a].get(name), draws[i][b].get(name)) for i, (a, b) in image.pairs.items()]
        both = [(a.double(), b.double()) for a, b in pairs if a is not None and b is not None and a.shape == b.shape]
        if name == image.name or len(both) < len(pairs) or any(a.is_complex() or a.ndim > 2 for a, _ in both):  # noqa: PLR2004
            continue
        if (boxes := inside_out(both)) >= (2 if "box" in name.lower() else BOXES):
            yield _boxes(name, boxes)
            continue
        if any(a.shape != both[0][0].shape or not 1 < a.numel() <= COLUMNS for a, _ in both):
            continue
        columns = in_place(*(torch.stack([pair[i].flatten() for pair in both]) for i in (0, 1)))
        images, known = (examples(name) if len(columns) > 1 else None) or (None, None)
        if images is None or known is None or known.shape[1] != both[0][0].numel():
            continue
        shape = both[0][0].shape
        if boxes and known.shape[1] == 4 and columns == [0, 2] and _share(known[:, 1], known[:, 3]) >= ALWAYS:  # noqa: PLR2004
            yield _boxes(name, boxes)
        elif (found := in_order(known, columns)) is not None:
            left, right, share = found
            yield Outcome(
                Status.ADVICE,
                "sides_not_exchanged",
                f"images are {SIDEWAYS} in some draws of an example, and all numbers of the target{named(name)} that "
                f"move with them stay in their places: {_at(left, shape)} is smaller than {_at(right, shape)} in "
                f"{share:.0%} of {len(known)} validation examples, and larger in mirrored ones",
                "exchange left and right after mirroring, as in points[:, [1, 0, 2]]; nothing if these are no sides, "
                "and all objects only look the same way",
                {"share": share, "examples": len(known), "columns": len(columns)},
            )
        elif (told := by_the_look(images, known, columns)) is not None:
            one, other, correlation = told
            yield Outcome(
                Status.ADVICE,
                "sides_not_exchanged",
                f"images are {SIDEWAYS} in some draws of an example, and all numbers of the target{named(name)} that "
                f"move with them stay in their places: which of {_at(one, shape)} and {_at(other, shape)} is further "
                f"left is told by what a mirror does not change (correlation {correlation:.2f} on {len(known)} "
                "validation examples), and changes in mirrored ones",
                "exchange left and right after mirroring, as in points[:, [1, 0, 2]]",
                {"correlation": correlation, "examples": len(known), "columns": len(columns)},
            )
        elif (pair := counterparts(known, columns)) is not None:
            yield Outcome(
                Status.ADVICE,
                "sides_not_exchanged",
                f"images are {SIDEWAYS} in some draws of an example, and all numbers of the target{named(name)} that "
                f"move with them stay in their places: those at {_at(pair.one, shape)} and {_at(pair.other, shape)} "
                f"belong to counterparts, and seen from these, that at {_at(pair.beside, shape)} is on the same side "
                f"in {pair.share:.0%} of {pair.examples} validation examples, and on the other in mirrored ones",
                "exchange left and right after mirroring, as in points[:, [1, 0, 2]]; nothing if these two look "
                "different, whichever side they are on",
                {"share": pair.share, "examples": pair.examples, "columns": len(columns)},
            )


def in_place(a: Tensor, b: Tensor) -> list[int]:
    """The numbers of a target that are mirrored in place: the sum before and after is the same one for all of them.

    Empty if any other number changes as well: sides that were exchanged, noise, angles.

    Args:
        a: Draws, of shape (N, D).
        b: Their mirror images.

    Example:
        >>> a = torch.tensor([[0.1, 0.5, 0.6], [0.2, 0.5, 0.5]])
        >>> in_place(a, torch.stack([1 - a[:, 0], a[:, 1], 1 - a[:, 2]], 1))
        [0, 2]
        >>> in_place(a, torch.stack([1 - a[:, 2], a[:, 1], 1 - a[:, 0]], 1))
        []

    """
    close = EXACT * max(float(a.nan_to_num().abs().max()), float(b.nan_to_num().abs().max()))
    known = ((a - b).abs() > close) & (a + b).isfinite()  # what is out of sight stays as it is, at 0 or -1
    columns = known.any(0).nonzero().flatten().tolist()
    sums = (a + b)[known]
    return columns if len(columns) > 1 and float(sums.max() - sums.min()) <= close else []


def in_order(values: Tensor, columns: Sequence[int]) -> tuple[int, int, float] | None:
    """Two of these columns whose order is nearly always the same, the smaller one first, and in which share.

    Args:
        values: Of shape (N, D).
        columns: Which are compared.

    Example:
        >>> x = torch.rand(100, 3, generator=torch.Generator().manual_seed(0))
        >>> x[:, 2] += 1
        >>> in_order(x, [0, 1]), in_order(x, [1, 2])
        (None, (1, 2, 1.0))

    """
    varied = [c for c in columns if values[:, c].unique().numel() >= flips.NUMBERS]  # the others are no places
    found = []
    for i, j in combinations(varied, 2):
        share = _share(values[:, i], values[:, j])
        apart = float((values[:, j] - values[:, i]).nanmean().abs())
        if max(share, 1 - share) >= ALWAYS:
            found.append((apart, i, j, share) if share >= ALWAYS else (apart, j, i, 1 - share))
    return max(found)[1:] if found else None


def by_the_look(images: Tensor, values: Tensor, columns: Sequence[int]) -> tuple[int, int, float] | None:
    """Two of these columns whose order follows from what a mirror leaves as it is, and the correlation.

    Of a person seen from behind, or from the front, the left hand is on one side or the other; the tail of an animal is
    opposite its nose, whose side changes in the mirror.

    Args:
        images: Of shape (N, C, H, W).
        values: Of shape (N, D).
        columns: Which are compared.

    Example:
        >>> rng = torch.Generator().manual_seed(0)
        >>> images, middle = torch.rand(100, 1, 8, 8, generator=rng), torch.rand(100, 2, generator=rng)
        >>> bright = images[:, 0].mean((1, 2)).argsort().argsort() >= 50
        >>> images[bright] += 1
        >>> middle[:, 1] = middle[:, 0] + torch.where(bright, 0.3, -0.3)
        >>> by_the_look(images, middle, [0, 1])[:2]
        (0, 1)

    """
    varied = [c for c in columns if values[:, c].unique().numel() > flips.FEW][:POINTS]
    found = []
    for i, j in combinations(varied, 2):
        order = (values[:, j] - values[:, i]).sign()
        if bool(order.isfinite().all()) and min(int((order > 0).sum()), int((order < 0).sum())) >= flips.NUMBERS:
            even = flips.keeps_sign(images, order, SIDEWAYS)
            if even >= LOOK and flips.turns_sign(images, order, SIDEWAYS, numbers=2) < even / 2:
                found.append((even, i, j))
    return (max(found)[1], max(found)[2], max(found)[0]) if found else None


def inside_out(pairs: Sequence[tuple[Tensor, Tensor]]) -> int:
    """How many boxes, as two corners (x1, y1, x2, y2), have x1 > x2 once they are mirrored; 0 unless all of them do.

    Args:
        pairs: Boxes of shape (..., 4), before and after.

    Example:
        >>> boxes = torch.tensor([[0.1, 0.2, 0.3, 0.9], [0.4, 0.1, 0.6, 0.3]])
        >>> turned = torch.stack([1 - boxes[:, 0], boxes[:, 1], 1 - boxes[:, 2], boxes[:, 3]], 1)
        >>> inside_out([(boxes, turned)]), inside_out([(boxes, turned[:, [2, 1, 0, 3]])])
        (2, 0)

    """
    count = 0
    for pair in pairs:
        if pair[0].ndim == 0 or pair[0].shape[-1] != 4:  # noqa: PLR2004
            return 0
        a, b = (x.reshape(-1, 4) for x in pair)
        there = (a != b).any(1)  # the others fill up
        a, b = (a[there], b[there]) if bool((a[:, 0] <= a[:, 2]).all()) else (b[there], a[there])
        if not len(a):
            continue
        upright = bool((a[:, :2] < a[:, 2:]).all()) and torch.equal(a[:, 1::2], b[:, 1::2])
        width = (a + b)[:, ::2]  # one number for both corners of all boxes
        if not upright or bool((width - width[0, 0]).abs().max() > EXACT * width.abs().max()):
            return 0
        if not bool((b[:, 0] > b[:, 2]).all()):
            return 0
        count += len(a)
    return count


def _boxes(name: str, count: int) -> Outcome:
    return Outcome(
        Status.WARNING,
        "sides_not_exchanged",
        f"boxes of the target{named(name)} are inside out once their image is {SIDEWAYS}: their left side x1 lies to "
        f"the right of x2 in {count} of {count} (expected: 0)",
        "the mirrored left side was the right one: boxes[:, [0, 2]] = width - boxes[:, [2, 0]]",
        {"boxes": count},
    )


def _share(one: Tensor, other: Tensor) -> float:
    """In which share of examples the one number is smaller, of those that differ; 0.5 if they are too few."""
    known = (one - other).isfinite() & (one != other)
    return float((one < other)[known].double().mean()) if int(known.sum()) >= flips.ENOUGH else 0.5


def _at(column: int, shape: Sequence[int]) -> str:
    """The place of a number in its target."""
    return str([int(i) for i in torch.unravel_index(torch.tensor(column), tuple(shape))])
