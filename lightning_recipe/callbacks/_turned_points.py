"""Points that random augmentation turns, such as tracks and clouds, and vectors to predict that it leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_recipe.callbacks._moved import named, same
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightning_recipe.callbacks._augmentation import Draws

PLANE, SPACE = 2, 3
"""Coordinates of a point."""
RIGID = 0.1
"""Share by which turned points may be off, as by a jitter; and a turn from one that keeps lengths."""
TURNED = 0.2
"""Share of their size by which points must have moved."""
KNOWN = 0.5
"""Share of the target's squares that sums of the points explain, with a number for each point that is the same for all
coordinates: such sums turn with the points. Sizes and properties, which do not turn, are none."""
ENOUGH = 32
"""Examples of validation that tell."""


def left_as_they_are(draws: Draws, held_out: Callable[[], list[dict[str, Tensor]]]) -> Iterator[Outcome]:
    """A `warning` for each target of vectors that is the same in draws between which points were turned.

    Args:
        draws: Of training.
        held_out: Gives examples of validation, as they are.

    """
    for name in draws[0][0]:
        pairs = [
            (times[0], now) for times in draws for now in times[1:] if _are_turned(times[0].get(name), now.get(name))
        ]
        if len(pairs) < 2:  # noqa: PLR2004
            continue
        for target in draws[0][0]:
            size = pairs[0][0][name].shape[-1]
            leaves = [(a.get(target), b.get(target)) for a, b in pairs]
            if target == name or any(a is None or b is None or not same(a, b) for a, b in leaves):
                continue
            first = leaves[0][0]
            vectors = first is not None and first.is_floating_point() and first.ndim > 0 and first.shape[-1] == size
            if vectors and turns_along(held_out(), name, target):
                yield Outcome(
                    Status.WARNING,
                    "target_not_turned",
                    f"points{named(name)} are turned or mirrored between draws of an example, and the target"
                    f"{named(target)}, whose vectors turn with them in validation, is the same in all",
                    "turn positions, velocities and directions to predict by the same matrix as the input",
                    {"draws": len(pairs)},
                )


def _are_turned(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether points became others by a turn or a mirror, of all of them and around any place.

    Example:
        >>> x = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
        >>> _are_turned(x, x.flip(-1)), _are_turned(x, x + 1), _are_turned(x, 2 * x)
        (True, False, False)

    """
    if one is None or other is None or one.shape != other.shape or one.ndim != 2 or not one.is_floating_point():  # noqa: PLR2004
        return False
    if one.shape[1] not in {PLANE, SPACE} or len(one) <= one.shape[1] or not bool((one + other).isfinite().all()):
        return False
    a, b = (x.double() - x.double().mean(0) for x in (one, other))
    if (a - b).norm() <= TURNED * a.norm() or torch.linalg.matrix_rank(a) < a.shape[1]:
        return False
    turn = torch.linalg.lstsq(a, b).solution
    keeps = turn.T @ turn - torch.eye(len(turn), dtype=turn.dtype)
    return bool((a @ turn - b).norm() <= RIGID * b.norm() and keeps.abs().max() <= RIGID)


def turns_along(examples: list[dict[str, Tensor]], name: str, target: str) -> bool:
    """Whether vectors to predict are made of points so that they turn with them: half of the examples tell of the rest.

    Args:
        examples: As they are.
        name: Of the points, of shape (P, D).
        target: Of shape (..., D).

    Example:
        >>> x = torch.randn(64, 5, 2, generator=torch.Generator().manual_seed(0))
        >>> examples = [{"x": p, "next": 2 * p[-1:] - p[-2:-1], "size": p.amax(0) - p.amin(0)} for p in x]
        >>> turns_along(examples, "x", "next"), turns_along(examples, "x", "size")
        (True, False)

    """
    both = [(one[name], one[target]) for one in examples if name in one and target in one]
    if len(both) < ENOUGH or any(a.shape != both[0][0].shape or b.shape != both[0][1].shape for a, b in both):
        return False
    points = torch.stack([a for a, _ in both]).double().transpose(1, 2)  # (N, D, P)
    vectors = torch.stack([b for _, b in both]).double()
    vectors = vectors.reshape(len(vectors), -1, vectors.shape[-1]).transpose(1, 2)  # (N, D, F)
    x, y = (part.reshape(-1, part.shape[-1]) for part in (points[::2], vectors[::2]))
    ridge = 1e-3 * x.square().sum() / len(x.T) * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(x.T @ x + ridge, x.T @ y)
    error = (points[1::2] @ weights - vectors[1::2]).square().sum()
    return bool(error < (1 - KNOWN) * vectors[1::2].square().sum())
