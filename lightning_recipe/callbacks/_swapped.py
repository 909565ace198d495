"""Two inputs of an example that change places at random, such as the items of a preference, while the label stays."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_recipe.callbacks import _flips as flips
from lightning_recipe.callbacks._moved import same
from lightning_recipe.finding import Outcome, Status, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lightning_recipe.callbacks._augmentation import Draws

Leaves = dict[str, Tensor]
ODD = 0.6
"""Correlation of a label, of examples left out, with what changes its sign when the inputs change places. Of labels
that are the same both ways it was at most 0.51 in 1,900 trials of 60 examples; a linear preference has up to 0.8."""
BOTH = 0.5
"""How far the sign goes with the label: the mean of the lower half is below 0 by this share of that of the upper half,
and each of the inputs alone has at least this share of the other's correlation."""
ORDERED = 0.5
"""How well the same model tells which input is the first, from 0 to 1 for always: more, and they come in an order, such
as the larger one first, in which what is the same both ways may be told by a sign."""
LABEL = 4
"""Numbers of a label at most."""
WIDE = 4096
"""Numbers of an input at most that a linear model sees; more are averaged."""


class Swap(NamedTuple):
    """Two inputs that change places.

    Attributes:
        places: Their paths; the same one twice for the two halves of one tensor.
        pairs: By index, two draws of an example between which they do.

    """

    places: tuple[tuple[str, str], ...]
    pairs: dict[int, tuple[int, int]]


def swapped(draws: Draws) -> Swap | None:
    """What changes places in some draws of at least two examples; None if nothing does."""
    found: dict[int, tuple[int, set[tuple[str, str]]]] = {}
    for index, times in enumerate(draws):
        for other in range(1, len(times)):
            if both := _exchanged(times[0], times[other]):
                found[index] = other, both
                break
    places = set.intersection(*(both for _, both in found.values())) if len(found) > 1 else set()
    return Swap(tuple(sorted(places)), {i: (0, other) for i, (other, _) in found.items()}) if places else None


def _exchanged(one: Leaves, other: Leaves) -> set[tuple[str, str]]:
    """The pairs of leaves of the one draw that are one another in the other draw, and the leaves whose halves are."""
    changed = [name for name, x in one.items() if name in other and not same(x, other[name]) and _is_input(x)]
    found = {(a, b) for a, b in combinations(changed, 2) if same(one[a], other[b]) and same(one[b], other[a])}
    for name in changed:
        x, y = one[name], other[name]
        if x.ndim and x.shape == y.shape and (x.ndim == 1 or len(x) == 2) and x.numel() % 2 == 0:  # noqa: PLR2004
            one_hot = set(x.flatten().tolist()) == {0, 1} and x.numel() == 2  # noqa: PLR2004 - a label
            if not one_hot and same(x.reshape(2, -1).flip(0), y.reshape(2, -1)):
                found.add((name, name))
    return found


def _is_input(x: Tensor) -> bool:
    return x.numel() > 0 and not x.is_complex() and bool(x.isfinite().all())


def left_as_it_was(draws: Draws, swap: Swap, probe: Callable[[str], float]) -> Iterator[Outcome]:
    """A `warning` if a label is the same whichever comes first, and should not be.

    Args:
        draws: Of training.
        swap: What changes places.
        probe: How well what changes its sign with that predicts a label, by its path.

    """
    inputs = {name for both in swap.places for name in both}
    for name in draws[0][0]:
        pairs = [(draws[i][a].get(name), draws[i][b].get(name)) for i, (a, b) in swap.pairs.items()]
        labels = [a for a, b in pairs if a is not None and b is not None and same(a, b) and a.numel() <= LABEL]
        if name in inputs or len(labels) < len(pairs) or all(same(labels[0], other) for other in labels):
            continue  # one value alone may be that of a draw, which is the same both ways
        if (correlation := probe(name)) > ODD:
            both = sorted(inputs)
            what = f"the inputs {listed(both)}" if len(both) > 1 else f"the two parts of {both[0] or 'the input'}"
            yield Outcome(
                Status.WARNING,
                "target_not_exchanged",
                f"{what} change places in some draws of an example, and the target `{name}` is the same in all, though "
                f"which of them comes first predicts it on validation examples (correlation {correlation:.2f})",
                "change the label with the order: 1 - label of a preference, -label of a difference",
                {"examples": len(pairs), "correlation": correlation},
            )
            return


def parts(leaves: Leaves, swap: Swap) -> tuple[Tensor, Tensor] | None:
    """What comes first in an example, and what comes second, both of shape (D,); None if something is missing.

    Example:
        >>> parts({"a": torch.ones(2), "b": torch.zeros(2)}, Swap((("a", "b"),), {}))
        (tensor([1., 1.], dtype=torch.float64), tensor([0., 0.], dtype=torch.float64))

    """
    first: list[Tensor] = []
    second: list[Tensor] = []
    for a, b in swap.places:
        if a not in leaves or b not in leaves or leaves[a].numel() % 2 * (a == b):
            return None
        whole = leaves[a].double().reshape(2, -1) if a == b else None
        for found, x in zip((first, second), (leaves[a], leaves[b]) if whole is None else whole, strict=True):
            flat = x.double().flatten()
            found.append(F.adaptive_avg_pool1d(flat[None], WIDE)[0] if len(flat) > WIDE else flat)
    return torch.cat(first), torch.cat(second)


def predicts(examples: Sequence[Leaves], swap: Swap, name: str) -> float:
    """How well which of two inputs comes first predicts a label.

    Args:
        examples: Of validation, as they are.
        swap: What changes places.
        name: Path of the label.

    """
    both = [(found, one[name].flatten()) for one in examples if name in one and (found := parts(one, swap))]
    if len(both) < max(flips.ENOUGH, len(examples)):
        return 0.0
    first, second, y = [a for (a, _), _ in both], [b for (_, b), _ in both], [label for _, label in both]
    if any(x.shape != several[0].shape for several in (first, second, y) for x in several):
        return 0.0
    columns = torch.stack(y).T
    return max(odd_part_predicts(torch.stack(first), torch.stack(second), column) for column in columns)


def odd_part_predicts(first: Tensor, second: Tensor, y: Tensor) -> float:
    """How well a label is predicted by what changes its sign when the inputs change places, and by that alone.

    A linear model without intercept of their difference, of each example by all others. It is 0 unless the sign goes
    with the label, both inputs tell something of it, and neither is known by itself: a second photograph that always
    shows more tells how much was built whichever comes first, and so do the larger of two, and the one that is empty.

    Args:
        first: Of shape (N, D).
        second: Of shape (N, D).
        y: Labels, of shape (N,).

    Example:
        >>> a, b = torch.randn(2, 100, 4, generator=torch.Generator().manual_seed(0))
        >>> better = (a.sum(1) > b.sum(1)).double()
        >>> alike = (a.sum(1) - b.sum(1)).abs()
        >>> odd_part_predicts(a, b, better) > ODD, odd_part_predicts(a, b, alike) > ODD
        (True, False)

    """
    first, second, y = first.double(), second.double(), y.double() - y.double().mean()
    x = first - second
    size = x.square().mean(0).sqrt()
    kept = size > 0
    if not bool(kept.any()) or not bool(y.any()):
        return 0.0
    first, second, x = (part[:, kept] / size[kept] for part in (first, second, x))
    gram = x @ x.T
    inverse = torch.linalg.inv(gram + 0.1 * gram.diagonal().mean() * torch.eye(len(x), dtype=x.dtype))
    weights = inverse @ y
    told = y - weights / inverse.diagonal()  # of each example, by the model of all others
    comes_first = 1 - inverse.sum(1) / inverse.diagonal()
    upper = y > y.median() if bool((y > y.median()).any()) else y == y.median()
    high, low = float(told[upper].mean()), float(told[~upper].mean())
    alone = [flips.correlation(part @ (x.T @ weights), y) for part in (first, -second)]
    if float(comes_first.mean()) > ORDERED or low > -BOTH * high or high <= 0 or min(alone) < BOTH * max(alone):
        return 0.0
    return flips.correlation(told, y)
