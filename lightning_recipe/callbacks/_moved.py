"""Images and spectrograms that random augmentation moves, and targets with a place that stay where they are."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.callbacks import _flips as flips
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.callbacks._augmentation import Draws

FAR = 0.1
"""Share of the width or height by which two draws are apart, at least: less is a jitter that labels may stand."""
SHARED = 0.5
"""Share of the width and height that both hold, at least."""
PLACES = 64
"""Places at which a mask is tried, of at least 64."""
EQUAL = 1e-4
"""Difference of what both hold, over its standard deviation, that is rounding."""
RUN = 3.0
"""Frames that follow one another with the same label, on average: a class among as many as there are frames has one."""


Leaves = dict[str, Tensor]


class Shift(NamedTuple):
    """How far one draw is from another.

    Attributes:
        down: Rows.
        right: Columns.

    """

    down: int
    right: int

    def of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The parts of a tensor (..., H, W) that both draws hold: in the first one, and in the second."""
        first = second = x
        for axis, step in ((-2, self.down), (-1, self.right)):
            size = x.shape[axis] - abs(step)
            first = first.narrow(axis, max(0, -step), size)
            second = second.narrow(axis, max(0, step), size)
        return first, second


def shift(one: Tensor, other: Tensor) -> Shift | None:
    """By how much the one image, of shape (C, H, W), was moved to become the other; None if it was not, or not far.

    What left at an edge may have come back at the other, as of ``torch.roll``. The place is that of the highest phase
    correlation (C. Kuglin, D. Hines, The Phase Correlation Image Alignment Method, 1975), and is then tried.

    Example:
        >>> x = torch.rand(1, 12, 16, generator=torch.Generator().manual_seed(0))
        >>> shift(x, x.roll(5, -1)), shift(x, x), shift(x, x.flip(-1))
        (Shift(down=0, right=5), None, None)

    """
    one, other = one.double(), other.double()
    if one.shape != other.shape or torch.equal(one, other) or not bool((one + other).isfinite().all()):
        return None
    a, b = (torch.fft.rfft2((x - x.mean()).sum(0)) for x in (one, other))
    product = b * a.conj()
    height, width = one.shape[-2:]
    correlation = torch.fft.irfft2(product / product.abs().clamp(min=1e-12), s=(height, width))
    down, right = divmod(int(correlation.argmax()), width)
    found = Shift(down - height * (down > height / 2), right - width * (right > width / 2))
    apart = max(abs(found.down) / height, abs(found.right) / width)
    if not FAR <= apart <= 1 - SHARED:
        return None
    before, now = found.of(one)[0], found.of(other)[1]
    return found if before.std() > 0 and (before - now).abs().max() <= EQUAL * before.std() else None


def left_where_they_are(draws: Draws) -> Iterator[Outcome]:
    """A `warning` for each target with a place that is the same in draws between which its image was moved."""
    for name in draws[0][0]:
        pairs = [found for times in draws if (found := pair(times, name)) is not None]
        if len(pairs) < 2:  # noqa: PLR2004
            continue
        for target in draws[0][0]:
            leaves = [(times[0].get(target), now.get(target)) for times, now, _ in pairs]
            if target == name or any(a is None or b is None or not same(a, b) for a, b in leaves):
                continue
            firsts = [a for a, _ in leaves if a is not None]
            told = [
                has_place(leaf, flips.as_image(times[0][name]), by)  # type: ignore[arg-type]
                for leaf, (times, _, by) in zip(firsts, pairs, strict=True)
            ]
            if sum(told) > 1 and not all(same(firsts[0], other) for other in firsts):
                far = max(max(abs(by.down), abs(by.right)) for _, _, by in pairs)
                yield Outcome(
                    Status.WARNING,
                    "target_not_moved",
                    f"draws of an example are moved by up to {far} places, and the target{named(target)} is the same "
                    "in all",
                    "move, roll or crop masks and labels of frames by the same random numbers as the input",
                    {"examples": len(pairs), "places": far},
                )


def moved_otherwise(draws: Draws) -> Iterator[Outcome]:
    """A `warning` for each mask that moves between draws by another way than its image, to the last value."""
    for name, target in permutations(draws[0][0], 2):
        if flips.as_image(draws[0][0][name]) is None or flips.as_image(draws[0][0][target]) is None:
            continue
        ways = [way for times in draws for now in times[1:] if (way := _ways(times[0], now, name, target)) is not None]
        if len(ways) > 1:
            (image, mask), *_ = ways
            yield Outcome(
                Status.WARNING,
                "target_not_moved",
                f"draws of an example move by other ways than their target{named(target)}: by {image.down} down "
                f"and {image.right} to the right, and by {mask.down} and {mask.right}",
                "draw the place of a crop once, and cut both by it",
                {"draws": len(ways), "places": max(abs(image.down), abs(image.right))},
            )


def _ways(first: Leaves, other: Leaves, name: str, target: str) -> tuple[Shift, Shift] | None:
    """How an image was moved between two draws, and how its mask, if by another way: at one of the likeliest places."""
    if any(path not in leaves for path in (name, target) for leaves in (first, other)):
        return None
    one, image = (flips.as_image(leaves[name]) for leaves in (first, other))
    before, now = (flips.as_image(leaves[target]) for leaves in (first, other))
    if one is None or image is None or before is None or now is None or len(before) > 1 or before.shape != now.shape:
        return None
    if len(before.unique()) > flips.CLASSES or one.shape[1:] != before.shape[1:] or not (by := shift(one, image)):
        return None
    moved = not torch.equal(before, now) and not torch.equal(by.of(before)[0], by.of(now)[1])
    if not moved:
        return None
    height, width = before.shape[-2:]
    size = (2 * height, 2 * width)
    a, b = (torch.fft.rfft2((x.double() - x.double().mean())[0], s=size) for x in (before, now))
    places = torch.fft.irfft2(b * a.conj(), s=size).flatten().topk(PLACES).indices.tolist()
    for down, right in (divmod(place, 2 * width) for place in places):
        found = Shift(down - 2 * height * (down > height), right - 2 * width * (right > width))
        if max(abs(found.down) / height, abs(found.right) / width) <= 1 - SHARED:
            both = found.of(before)[0], found.of(now)[1]
            if torch.equal(*both) and bool((both[0] != both[0].flatten()[0]).any()):
                return by, found
    return None


def pair(times: list[dict[str, Tensor]], name: str) -> tuple[list[dict[str, Tensor]], dict[str, Tensor], Shift] | None:
    """All draws of an example, one of them that was moved from the first, and by how much."""
    images = [flips.as_image(leaves[name]) if name in leaves else None for leaves in times]
    for now, image in zip(times[1:], images[1:], strict=True):
        if images[0] is not None and image is not None and (by := shift(images[0], image)):
            return times, now, by
    return None


def named(target: str) -> str:
    """The name of a target in a sentence; a place in a tuple has none."""
    return f" `{target}`" if target and not target.isdigit() else ""


def has_place(leaf: Tensor, image: Tensor, by: Shift) -> bool:
    """Whether a target should have moved with its image: a mask, or labels of frames, that is another one elsewhere.

    Args:
        leaf: The target.
        image: The image, of shape (C, H, W).
        by: How it was moved.

    Example:
        >>> x, labels = torch.rand(1, 12, 32), torch.arange(32) // 8
        >>> has_place(labels, x, Shift(0, 5)), has_place(labels, x, Shift(3, 0)), has_place(labels[:4], x, Shift(0, 5))
        (True, False, False)

    """
    if len(leaf.unique()) > flips.CLASSES or not leaf.ndim:
        return False
    dense = flips.as_image(leaf)
    if dense is not None and len(dense) == 1 and dense.shape[-2:] == image.shape[-2:]:
        before, now = by.of(dense)
        pixels = image.double().mean(0)
        alike = flips.correlation(dense[0], pixels) > flips.ITSELF and len(leaf.unique()) > flips.FEW
        return not alike and not torch.equal(before, now)
    rows = leaf.reshape(-1, leaf.shape[-1])
    if by.down or leaf.ndim > 2 or leaf.shape[-1] != image.shape[-1]:  # noqa: PLR2004
        return False
    before, now = by.of(rows[None])
    changes = (rows[:, 1:] != rows[:, :-1]).sum(1)
    varied = rows[changes > 0]
    return bool(len(varied)) and _run(varied) >= RUN and not torch.equal(before, now)


def _run(rows: Tensor) -> float:
    """How many frames in a row have the same label, and are not empty, on average."""
    there = rows != 0
    begins = there & torch.cat([torch.ones_like(there[:, :1]), rows[:, 1:] != rows[:, :-1]], 1)
    return float(there.sum()) / max(1, int(begins.sum()))


def same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())
