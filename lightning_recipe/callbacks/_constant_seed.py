"""A random part that is the same in every training example, because the generator is seeded anew for each."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from lightning_recipe.callbacks import _flips as flips
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.trial.reread import CannotRereadError, read_again
from lightning_recipe.trial.seeding import seeding, users_of
from lightning_recipe.trial.stored import leaves

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lightning_recipe.trial.seeding import Seed

    Leaves = dict[str, Tensor]

MOVES = (1, 2, 3)
"""What is added to seeds: one that decides about a flip decides the other way with a chance of 88 %."""
VALUES = 16
"""Different values of noise, at least, or all that there are: what is drawn from few may be a mask by design."""
SMALLEST = 4
"""Values of an example, in which fewer may agree by chance."""
AGREE = 0.2
"""Share of an example's noise that is the same in the next: of two draws in two images, many are cut off somewhere."""
PRECISION = 1e-4
"""Of the largest noise, by which it differs from example to example by rounding; whole numbers differ by 1."""


def seeded_alike(source: Any, indices: Sequence[int]) -> list[Outcome]:
    """Whether reading gives the same seeds for each example, and the same numbers are then drawn into all of them.

    With other seeds examples must change. A permutation or projection that is the same for all examples is meant to
    be, if a generator of its own draws it: the change must be noise that is added, or a flip. Whoever seeds the stream
    that all draw from meant their augmentation.

    Args:
        source: A data set of the map style, of training.
        indices: Examples that are read, from a copy.

    Example:
        >>> seeded_alike([1.0, 2.0, 3.0], [0, 1, 2])
        []

    """
    try:
        outcome = _judged(source, indices)
    except CannotRereadError:  # as when a generator is asked whether it is one of torch's own
        return []
    return [outcome] if outcome else []


def _judged(source: Any, indices: Sequence[int]) -> Outcome | None:
    examples, seeds = _read(source, indices)
    each = len(seeds) // max(1, len(indices))
    alike = each > 0 and len(indices) > 1 and seeds == seeds[:each] * len(indices)
    if not alike or any(seed.value is None for seed in seeds) or not _same(_read(source, indices)[0], examples):
        return None
    shared = any(seed.is_global for seed in seeds)
    moved = [_read(source, indices, by)[0] for by in MOVES]
    names = [name for name in examples[0] if all(name in one for other in [examples, *moved] for one in other)]
    hit = [
        name
        for name in names
        if any(_drawn([e[name] for e in examples], [e[name] for e in other], shared=shared) for other in moved)
    ]
    if not hit:
        return None
    given = ", ".join(dict.fromkeys(map(str, seeds[:each])))
    return Outcome(
        Status.WARNING,
        "seeded_alike",
        f"reading a training example calls {given} each time: the same random numbers go into every example",
        "make the generator once, in __init__, or leave the seed to the workers; to draw the same again for an example "
        "seed with its index, as default_rng((seed, index)) does",
        {"examples": len(indices)},
    )


def _read(source: Any, indices: Sequence[int], moved: int = 0) -> tuple[list[Leaves], list[Seed]]:
    seeds: list[Seed] = []
    examples = read_again(source, indices, within=seeding(seeds, moved, users_of(source)))
    return [leaves(one) for (one,) in examples], seeds


def _same(one: list[Leaves], other: list[Leaves]) -> bool:
    return all(a.keys() == b.keys() and all(_equal(a[n], b[n]) for n in a) for a, b in zip(one, other, strict=True))


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def _drawn(before: list[Tensor], after: list[Tensor], *, shared: bool) -> bool:
    """Whether something that should differ from example to example was drawn anew with another seed."""
    if any(_equal(a, b) for a, b in zip(before, after, strict=True)):
        return False
    images = [(flips.as_image(a), flips.as_image(b)) for a, b in zip(before, after, strict=True)]
    if all(a is not None and b is not None and flips.mirroring(a, b) for a, b in images):
        return True
    if any(a.shape != b.shape for a, b in zip(before, after, strict=True)):
        return shared
    if shared:
        return not all(_equal(*(x.flatten().sort().values for x in pair)) for pair in zip(before, after, strict=True))
    noise = [a.double() - b.double() for a, b in zip(before, after, strict=True)]
    return (
        not all(_equal(before[0], other) for other in before[1:])
        and all(one.numel() >= SMALLEST and len(one.unique()) > min(VALUES, one.numel() - 1) for one in noise)
        and all(one.shape == other.shape and _agree(one, other) for one, other in pairwise(noise))
    )


def _agree(one: Tensor, other: Tensor) -> bool:
    there = (one != 0) | (other != 0)
    largest = float(one.abs().max())
    whole = largest > VALUES and bool((one == one.round()).all())
    rounding = 1.0 if whole else PRECISION * largest
    near = (one - other).abs() <= rounding
    return float(near[there].double().mean()) > AGREE
