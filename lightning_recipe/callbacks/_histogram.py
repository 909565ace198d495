"""How numbers are distributed, added up batch by batch in bounded memory."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CELLS = 2**10
"""Cells that numbers are counted in, at most: about twenty for each bar that is drawn."""
NEAR = 2**16
"""Cells from the first to the last of a batch, up to which they are counted in an array."""
BARS = 40
"""Bars that are drawn, at most: 4 pixels each on half a card that is shown 185 pixels high."""


@dataclass
class Histogram:
    """Counts in cells whose width is a power of two, and which are joined by twos where they get too many.

    Cells of any two histograms have common edges: added up in any order, they are the same.

    Attributes:
        whole: Whether the numbers are integers, which get a bar each where there is room.
        exponent: Of the cells' width; None before the first number.
        cells: How many numbers are in each, by its place.
        low: The lowest number.
        high: The highest.
        missing: How many were NaN or infinite.

    Example:
        >>> seen = Histogram()
        >>> for part in (np.arange(1000.0), np.arange(9000.0)):
        ...     seen.take(part)
        >>> seen.count, seen.low, seen.high, round(seen.quantile(0.5), -2), len(seen.cells) <= CELLS
        (10000, 0.0, 8999.0, 4000.0, True)

    """

    whole: bool = False
    exponent: int | None = None
    cells: Counter[int] = field(default_factory=Counter)
    low: float = math.inf
    high: float = -math.inf
    missing: int = 0

    def take(self, numbers: NDArray[Any]) -> None:
        """Take in numbers of any dtype."""
        values = numbers.astype(np.float64)
        finite = values[np.isfinite(values)]
        self.missing += len(values) - len(finite)
        if not len(finite):
            return
        low, high = float(finite.min()), float(finite.max())
        if self.exponent is None:
            apart = (high - low) / CELLS or abs(high) / CELLS or 1.0
            self.exponent = max(math.ceil(math.log2(apart)), 0 if self.whole else -1000)
        self.low, self.high = min(self.low, low), max(self.high, high)
        places = np.floor(np.ldexp(finite, -self.exponent))
        first = places.min()
        if places.max() - first < NEAR:  # counting takes a tenth of the time of sorting
            counts = np.bincount((places - first).astype(np.int64))
            found = np.flatnonzero(counts)
            places, counts = first + found, counts[found]
        else:
            places, counts = np.unique(places, return_counts=True)
        self.cells.update({int(place): int(count) for place, count in zip(places, counts, strict=True)})
        self._coarsen(self.exponent)

    def add(self, other: Histogram) -> None:
        """Take in what another one has counted."""
        self.missing += other.missing
        if other.exponent is None:
            return
        wider = other.exponent if self.exponent is None else max(self.exponent, other.exponent)
        self._coarsen(wider)
        for place, count in other.cells.items():
            self.cells[place >> (wider - other.exponent)] += count
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self._coarsen(wider)

    def _coarsen(self, exponent: int) -> None:
        """Join cells until they are as wide as that, and few enough."""
        self.exponent = exponent if self.exponent is None else self.exponent
        while self.exponent < exponent or len(self.cells) > CELLS:
            joined = Counter[int]()
            for place, count in self.cells.items():
                joined[place >> 1] += count
            self.cells, self.exponent = joined, self.exponent + 1

    @property
    def count(self) -> int:
        """How many finite numbers there were."""
        return self.cells.total()

    def below(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """How many numbers are less than each of these; within a cell they are taken to be spread evenly."""
        places = np.array(sorted(self.cells), np.float64)
        counts = np.array([self.cells[int(place)] for place in places], np.float64)
        edges = np.ldexp(np.stack([places, places + 1], 1).ravel(), self.exponent or 0)
        ends = np.cumsum(counts)
        return np.interp(values, edges, np.stack([ends - counts, ends], 1).ravel())

    def quantile(self, share: float) -> float:
        """The number that this share lies below, as exactly as the cells are narrow."""
        reached, place = 0, 0
        for place in sorted(self.cells):
            reached += self.cells[place]
            if reached >= share * self.count:
                break
        return min(max(math.ldexp(place, self.exponent or 0), self.low), self.high)

    def bars(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Edges and heights of bars of one width that hold all numbers; of integers, of a whole width.

        Example:
            >>> seen = Histogram(whole=True)
            >>> seen.take(np.array([2.0, 3.0, 3.0, 4.0]))
            >>> [part.tolist() for part in seen.bars()]
            [[2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 1.0]]

        """
        if self.whole:
            width = math.ceil((self.high - self.low + 1) / BARS)
            edges = np.append(np.arange(self.low, self.high + 1, width), self.high + 1)
        else:
            apart = (self.high - self.low) or abs(self.high) / CELLS or 1.0
            edges = np.linspace(self.low, self.low + apart, BARS + 1)
        below = self.below(edges)
        below[0], below[-1] = 0, self.count  # a cell may begin before the lowest number, and end behind the highest
        return edges, np.diff(below)
