"""A data set at a glance: what is to be predicted, the range of each feature, how long sequences are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lightning_recipe.figures.axes import ends, short
from lightning_recipe.figures.canvas import COLOURS, FAINT, GREY, LINE, PAPER, WRONG, rgb, text_width
from lightning_recipe.figures.picture import BODY, Box, Picture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROWS = 11
"""Classes, and features, that get a row of their own."""
RAREST, RARE = 3, 0.5
"""Classes that are named where there are many, and share of the middle one's count from which down they are rare."""
PILED = 0.05
"""Share of the sequences that have the greatest length, from which on they were likely cut to it."""


class Bars(NamedTuple):
    """Counts of classes, or shares.

    Attributes:
        names: Of the classes.
        counts: Of each, shape (C,).
        note: Of what they are counts.
        what: "classes" or "labels".
        shares: Whether these are shares, of 1.

    """

    names: Sequence[str]
    counts: Any
    note: str = ""
    what: str = "classes"
    shares: bool = False

    def number(self, count: float) -> str:
        """How one of the counts is written."""
        return percent(count) if self.shares else short(count)


class Bins(NamedTuple):
    """A distribution of numbers.

    Attributes:
        edges: Of the bars, shape (B + 1,).
        counts: How many numbers are in each, shape (B,).
        median: The one in the middle.
        whole: Whether the numbers are integers: each bar holds those from its left edge to before its right one.
        at_the_end: Share of those that are exactly the highest.

    """

    edges: Any
    counts: Any
    median: float
    whole: bool = False
    at_the_end: float = 0.0


def percent(share: float) -> str:
    """A share in few characters.

    Example:
        >>> [percent(share) for share in (0, 0.00031, 0.024, 0.5, 0.996, 1)]
        ['0%', '0.031%', '2.4%', '50%', '99.6%', '100%']

    """
    digits = 2 if share < 0.99 or share == 1 else 3  # noqa: PLR2004 - nearly all is not all
    return f"{float(f'{100 * share:.{digits}g}'):g}%"


def profile_card(chart: Bars | Bins | None, ranges: Mapping[str, Any]) -> Picture:
    """What is to be predicted at the left; features at the right: from lowest to highest, mean and standard deviation.

    Args:
        chart: Classes, labels or numbers; None where nobody knows.
        ranges: By the name of an entry of the batch: `low`, `high`, `mean`, `std` and `lost`, the share of what is
            missing, of its features, shape (D,).

    Example:
        >>> profile_card(Bars(["cat", "dog"], [30, 10]), {}).words
        ['cat', '30', 'dog', '10']

    """
    rows = [
        (name if len(r.mean) == 1 else str(i) if len(ranges) == 1 else f"{name} {i}", low, high, mean, std, lost)
        for name, r in ranges.items()
        for i, (low, high, mean, std, lost) in enumerate(zip(r.low, r.high, r.mean, r.std, r.lost, strict=True))
        if np.isfinite(low) or lost == 1
    ]
    note = chart.note if isinstance(chart, Bars) else "" if chart is None else "targets, | median"
    picture = Picture("data", note)
    middle = BODY.left + (0.45 * BODY.width if rows and chart else BODY.width if chart else 0)
    left = Box(BODY.left, BODY.top, middle - 16, BODY.bottom)
    if isinstance(chart, Bars):
        _classes(picture, left, chart)
    elif chart is not None:
        _distribution(picture, left, chart)
    if rows:
        _features(picture, Box(middle, BODY.top, BODY.right, BODY.bottom), rows)
    return picture


def lengths_card(lengths: Bins) -> Picture:
    """How long sequences are.

    Example:
        >>> lengths_card(Bins([3, 4, 5], [1, 9], 4, whole=True, at_the_end=0.9)).words
        ['3', '4', '90% have the greatest length']

    """
    picture = Picture("lengths", f"tokens without padding, | median {short(lengths.median)}")
    _distribution(picture, BODY, lengths)
    if lengths.at_the_end >= PILED:
        text = f"{percent(lengths.at_the_end)} have the greatest length"
        picture.write(BODY.right - 8, BODY.top + 18, text, GREY, anchor="rs")
    return picture


def _distribution(picture: Picture, box: Box, bins: Bins) -> None:
    """A bar for each bin, the lowest and the highest number below, and a black line at the median."""
    edges, counts = np.asarray(bins.edges, np.float64), np.asarray(bins.counts, np.float64)
    inner = Box(box.left, box.top + LINE, box.right - 8, box.bottom - LINE)
    across = inner.left + (edges - edges[0]) / ((edges[-1] - edges[0]) or 1.0) * inner.width
    picture.fill(inner, PAPER)
    for left, right, count in zip(across, across[1:], counts, strict=False):
        if count:
            top = min(inner.bottom - 2, inner.bottom - inner.height * count / counts.max())
            picture.fill(Box(left, top, max(left + 1, right - 1), inner.bottom), rgb(COLOURS[0]))
    middle = float(np.interp(bins.median + (0.5 if bins.whole else 0), edges, across))
    picture.draw([(middle, inner.top), (middle, inner.bottom)], "black", 3)
    low, high = ends(edges[0], edges[-1] - bins.whole)
    picture.write(inner.left, box.bottom - 4, low, GREY)
    picture.write(inner.right, box.bottom - 4, high, GREY, anchor="rs")


def _classes(picture: Picture, box: Box, bars: Bars) -> None:
    """A bar for each class; of many those in the order of their counts, with the names of the rarest."""
    counts = np.asarray(bars.counts, np.float64)
    if len(counts) > ROWS:
        _many(picture, box, bars, counts)
        return
    left = box.left + min(0.45 * box.width, max(map(text_width, bars.names)) + 10)
    wide = max(text_width(bars.number(count)) for count in counts) + 10
    height = min(box.height / len(counts), 2 * LINE)
    for i, (name, count) in enumerate(zip(bars.names, counts, strict=True)):
        top = box.top + i * height
        right = left + (box.right - wide - left) * count / (counts.max() or 1.0)
        picture.write(box.left, top + height / 2 + 7, name, width=left - box.left - 8)
        picture.fill(Box(left, top + 3, max(left + 2, right), top + height - 3), rgb(COLOURS[0]))
        picture.write(right + 8, top + height / 2 + 7, bars.number(count), GREY)


def _many(picture: Picture, box: Box, bars: Bars, counts: Any) -> None:
    order = np.argsort(-counts, kind="stable")
    across = np.linspace(box.left, box.right, len(counts) + 1)
    for left, right, count in zip(across, across[1:], counts[order], strict=False):
        top = box.bottom - LINE - (box.height - 2 * LINE) * count / (counts.max() or 1.0)
        picture.fill(Box(left, top, max(left + 1, right - 1), box.bottom - LINE), rgb(COLOURS[0]))
    picture.write(box.left, box.bottom - 4, f"{len(counts)} {bars.what}", GREY)
    most, least = bars.number(counts.max()), bars.number(counts.min())
    picture.write(box.right, box.top + 18, f"{most} to {least}", GREY, anchor="rs")
    rare = [i for i in order[::-1][:RAREST] if counts[i] <= RARE * np.median(counts)]
    for line, i in enumerate(rare):
        number = bars.number(counts[i])
        name, end = bars.names[i], box.right - text_width(number) - 10
        across_to = box.right - min(0.6 * box.width, text_width(name) + 10 + text_width(number))
        picture.write(across_to, box.top + 18 + (line + 1) * LINE, name, width=end - across_to)
        picture.write(box.right, box.top + 18 + (line + 1) * LINE, number, GREY, anchor="rs")


def _features(picture: Picture, box: Box, rows: list[tuple[str, float, float, float, float, float]]) -> None:
    """A grey bar from lowest to highest on one scale, the mean as a black tick, a standard deviation around it blue.

    What has missing values comes first where not all have a row, and the share of them stands at its end.
    """
    known = [row for row in rows if np.isfinite(row[1])]
    low, high = min((row[1] for row in known), default=0.0), max((row[2] for row in known), default=1.0)
    shown = rows if len(rows) <= ROWS else sorted(rows, key=lambda row: -row[5])[: ROWS - 1]
    left = box.left + min(0.4 * box.width, max(text_width(row[0]) for row in shown) + 10)
    notes = [f"{percent(row[5])} NaN" if row[5] else "" for row in shown]
    wide = max(map(text_width, notes))
    right, apart = box.right - 8 - (wide + 8 if wide else 0), (high - low) or 1.0
    height = min((box.height - LINE) / ROWS, 2 * LINE)

    def place(value: float) -> float:
        return left + (right - left) * min(1.0, max(0.0, (value - low) / apart))

    for i, ((name, least, most, mean, std, _), note) in enumerate(zip(shown, notes, strict=True)):
        top = box.top + i * height
        picture.write(box.left, top + height / 2 + 7, name, width=left - box.left - 8)
        picture.write(box.right - 8, top + height / 2 + 7, note, WRONG, anchor="rs")
        picture.fill(Box(left, top + 3, right, top + height - 3), PAPER)
        if np.isfinite(least):
            picture.fill(Box(place(least), top + 3, place(most) + 1, top + height - 3), rgb(FAINT))
            picture.fill(Box(place(mean - std), top + 8, place(mean + std) + 1, top + height - 8), rgb(COLOURS[0]))
            picture.draw([(place(mean), top + 4), (place(mean), top + height - 4)], "black", 3)
    if len(shown) < len(rows):
        picture.write(box.left, box.top + len(shown) * height + 20, f"and {len(rows) - len(shown)} more", GREY)
    first, last = ends(low, high)
    picture.write(left, box.bottom - 4, first, GREY)
    picture.write(right, box.bottom - 4, last, GREY, anchor="rs")
