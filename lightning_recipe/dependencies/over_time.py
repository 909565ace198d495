"""Which position of a sequence an output depends on, charted by backprop and confirmed by changing what entered."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from lightning_recipe.dependencies.backprop import SEED, UndecidedError
from lightning_recipe.dependencies.sequences import Layout, Passage, Passed, layouts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

PASSES = 16
"""Backward passes at most; each looks at another position of every sequence, so that as a rule two are enough."""

ROUNDING = 16 * torch.finfo(torch.float32).eps
"""Share of the largest value up to which a change is none; as a rule, what does not depend on a position stays the same
to the last bit."""


@dataclass(frozen=True)
class Chart:
    """How outputs at the positions of some sequences depend on what entered at the positions of the same.

    Attributes:
        source: The tensor that entered, a leaf.
        into: Where sequences and positions lie in it.
        result: The outputs, computed from it.
        out: Where sequences and positions lie in them.
        features: Of what entered, those that are looked at.

    Example:
        >>> x = torch.randn(2, 3, 4, requires_grad=True)
        >>> (layout,) = layouts(x.shape, 2, 3)
        >>> Chart(x, layout, x.cumsum(1), layout).row(torch.tensor([0, 1])) > 0
        tensor([[ True, False, False],
                [ True,  True, False]])

    """

    source: Tensor
    into: Layout
    result: Tensor
    out: Layout
    features: slice = field(default_factory=lambda: slice(None))

    @property
    def shape(self) -> tuple[int, int]:
        """The number of sequences N and of their positions T."""
        sequences, positions, _ = self.into.of(self.source).shape
        return sequences, positions

    def row(self, positions: Tensor) -> Tensor:
        """How strongly the output at one position of each sequence depends on each position of that sequence.

        Gradient starts as a random draw, since the sum of softmax or layer-normed outputs has none.

        Args:
            positions: One of each sequence, shape (N,); -1 for none.

        Returns:
            Largest gradients, shape (N, T), float64 on the CPU.

        Raises:
            UndecidedError: If a gradient is not finite.

        """
        start = torch.zeros(self.result.shape, dtype=self.result.dtype, device=self.result.device)
        view, asks = self.out.of(start), positions >= 0
        noise = torch.randn(view.shape[-1], generator=torch.Generator().manual_seed(SEED))
        view[asks.nonzero().flatten(), positions[asks]] = noise.to(start)
        (gradient,) = torch.autograd.grad(self.result, self.source, start, retain_graph=True, allow_unused=True)
        if gradient is None:
            return torch.zeros(self.shape, dtype=torch.float64)
        strength = self.into.of(gradient)[..., self.features].abs().amax(-1).cpu().double()
        if not strength.isfinite().all():
            msg = "gradients with respect to the inputs hold NaN or infinity"
            raise UndecidedError(msg)
        return strength

    def keeps_apart(self, sequence: int, position: int) -> bool:
        """Whether an output depends on no other sequence: else it is along these that it looks."""
        reached = self.row(self._only(sequence, position))
        return not reached.index_fill(0, torch.tensor([sequence]), 0).any()

    def _only(self, sequence: int, position: int) -> Tensor:
        return torch.full((self.shape[0],), -1).index_fill(0, torch.tensor([sequence]), position)

    def rows(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of many places, a different position of each sequence at a time.

        Args:
            places: The places asked about, mask of shape (N, T); in every sequence with any, one is asked in each pass.

        Returns:
            Sequence and position of each row, shape (R, 2), and the rows, shape (R, T).

        """
        each = [mask.nonzero().flatten() for mask in places.cpu()]
        longest = max(map(len, each))
        passes = min(PASSES, max(2, math.ceil(longest / len(each))))
        order = torch.randperm(longest, generator=torch.Generator().manual_seed(SEED)).tolist()
        asked, found = [], []
        for first in range(0, passes * len(each), len(each)):
            turns = [order[(first + n) % longest] for n in range(len(each))]
            positions = torch.tensor([int(p[i % len(p)]) if len(p) else -1 for p, i in zip(each, turns, strict=True)])
            asks = positions >= 0
            asked.append(torch.stack([asks.nonzero().flatten(), positions[asks]], 1))
            found.append(self.row(positions)[asks])
        return torch.cat(asked), torch.cat(found)

    def matrix(self, sequence: int, positions: Sequence[int]) -> Tensor:
        """Entry (i, j): how strongly the output at position i of a sequence depends on its position j.

        Returns:
            Largest gradients, shape (n, n), float64; a backward pass for each row.

        """
        rows = [self.row(self._only(sequence, i))[sequence] for i in positions]
        return torch.stack(rows)[:, list(positions)]


def first_changed(
    run: Callable[[Mapping[int, Tensor]], Passage],
    base: Passage,
    chart: Chart,
    numbers: tuple[int, int],
    place: tuple[int, int],
) -> Passed | None:
    """Where something before a position of a sequence begins to depend on it: something else is put there.

    Args:
        run: Runs the step with other values of some leaves, by their number in ``Passage.entered``.
        base: The step as it is.
        chart: Of what is to be confirmed.
        numbers: Those of its source in ``Passage.entered``, and of its result in ``Passage.passed``.
        place: The sequence in which something is changed, and the position.

    Returns:
        The first tensor that is changed before that position; None if the result is not.

    Raises:
        UndecidedError: If two runs with the same input differ.

    """
    (entered, result), (sequence, position) = numbers, place
    again = run({})
    value = base.entered[entered].leaf.detach().clone()
    view = chart.into.of(value)
    distance = (view - view[sequence, position]).abs().sum(-1)
    view[sequence, position] = view.flatten(0, 1)[distance.argmax()].clone()
    other = run({entered: value})
    same = all(torch.equal(a.value, b.value) for a, b in zip(base.passed, again.passed, strict=False))
    if not same or len(base.passed) != len(other.passed):
        msg = "two runs with the same input differ"
        raise UndecidedError(msg)

    def differs(a: Tensor, b: Tensor, way: Layout) -> bool:
        least = ROUNDING * a.abs().max().item()
        return (way.of(a)[sequence, :position] - way.of(b)[sequence, :position]).abs().max().item() > least

    def changed(i: int) -> bool:
        a, b = base.passed[i].value.detach(), other.passed[i].value.detach()
        ways = layouts(tuple(a.shape), *chart.shape) if a.shape == b.shape else []
        if i == result:
            ways = [chart.out]
        # where there are as many sequences as positions, what differs is before the position whichever is which
        features = {way.order[2] for way in ways}
        return bool(ways) and all(any(differs(a, b, way) for way in ways if way.order[2] == f) for f in features)

    return next((base.passed[i] for i in range(len(base.passed)) if changed(i)), None) if changed(result) else None
