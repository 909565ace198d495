"""The training data in words, and on cards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lightning_recipe.callbacks._data_targets import Positives, Tally
from lightning_recipe.callbacks._histogram import Histogram
from lightning_recipe.figures.profile import ROWS, Bars, Bins, lengths_card, percent, profile_card

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lightning_recipe.callbacks._data_counted import Counted
    from lightning_recipe.callbacks._data_seen import Range
    from lightning_recipe.callbacks._data_verdict import Examples
    from lightning_recipe.figures.picture import Picture


@dataclass
class Said:
    """What is said of the data.

    Attributes:
        text: For the message; of a part of it, with a comma before it.
        numbers: For the evidence.
        chart: Of what is to be predicted.
        cards: To be drawn, by name.

    """

    text: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    chart: Bars | Bins | None = None
    cards: dict[str, Picture] = field(default_factory=dict)


def describe(
    examples: Examples, counted: Counted, ranges: Mapping[str, Range], names: list[str], *, drawn: bool = True
) -> Said:
    """Put what was seen into words, and on cards.

    Args:
        examples: Their classes, where each has one.
        counted: Other targets, and lengths.
        ranges: Of each entry, by path.
        names: Of the classes; none where nobody knows.
        drawn: Whether cards are asked for, which take the most time.

    Example:
        >>> from lightning_recipe.callbacks._data_counted import Counted
        >>> from lightning_recipe.callbacks._data_verdict import Examples
        >>> x, counts = np.arange(8), Positives(np.array([6.0, 1.0]), np.full(2, 8.0))
        >>> said = describe(Examples(x, None, x, x < 0), Counted(counts), {}, ["red", "round"])
        >>> said.text.partition(", ")[2]
        '2 labels, positive in 12% (label round) to 75% (label red)'

    """
    target, lengths = _of_target(examples, counted, names), _of_lengths(counted.lengths)
    text = f"looked at {len(examples.inputs)} training examples of the first epoch{target.text}{lengths.text}"
    numbers = {"examples": len(examples.inputs), **target.numbers, **lengths.numbers}
    if examples.rich.any():
        rich = examples.inputs[examples.rich]
        numbers["duplicates"] = len(rich) - len(np.unique(rich))
        text += f", {numbers['duplicates']:.0f} duplicates"
    for path, of in list(ranges.items())[:2]:
        spread = f"{of.low.min():.3g} to {of.high.max():.3g}, mean {of.mean.mean():.3g}"
        text += f"; {path} {spread}, std {of.std.mean():.3g}"
    if not drawn:
        return Said(text, numbers)
    charted = {} if target.chart is None else {counted.path}
    features = {path: of for path, of in ranges.items() if path not in charted or of.missing}
    cards = {"data": profile_card(target.chart, features)} if target.chart or features else {}
    return Said(text, numbers, cards=cards | lengths.cards)


def _of_target(examples: Examples, counted: Counted, names: list[str]) -> Said:
    of = counted.target
    said = _of_classes(examples.labels, names) if examples.labels is not None else Said()
    if isinstance(of, Positives) and len(of.known):
        return _of_shares(dict(enumerate(of.shares)), names, "label")
    if isinstance(of, Tally) and of.shares:
        said = _of_shares(of.shares, names, "class")
        if of.left_out:
            left_out = of.left_out / (of.left_out + of.counts.total())
            said.text += f", {percent(left_out)} of the targets are class {of.ignored}, which the loss leaves out"
            said.numbers["left_out"] = left_out
    elif (
        isinstance(of, Histogram) and of.count and not (isinstance(said.chart, Bars) and len(said.chart.names) <= ROWS)
    ):
        median = of.quantile(0.5)
        return Said(
            f", targets {of.low:.3g} to {of.high:.3g}, half of them up to {median:.3g}",
            {"lowest": of.low, "highest": of.high, "median": median},
            Bins(*of.bars(), median, of.whole),
        )
    return said


def _of_classes(labels: NDArray[np.int64], names: list[str]) -> Said:
    values, counts = np.unique(labels, return_counts=True)
    largest = counts.max() / counts.sum()
    return Said(
        f", {len(values)} classes, the largest {largest:.0%} and the smallest {counts.min()} examples",
        {"classes": len(values), "largest": largest, "smallest": counts.min()},
        Bars(_named(values.tolist(), names), counts, f"{counts.sum()} labels"),
    )


def _of_shares(shares: dict[int, float], names: list[str], what: str) -> Said:
    least, most = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    of = dict(zip(shares, _named(list(shares), names), strict=True))
    plural, note = ("classes", "share of the targets") if what == "class" else ("labels", "share of positives")
    low, high = (f"{percent(shares[i])} ({what} {of[i]})" for i in (least, most))
    return Said(
        f", {len(shares)} {plural}, {'positive in' if what == 'label' else 'which are'} {low} to {high}"
        f"{' of the targets' if what == 'class' else ''}",
        {"classes": len(shares), "largest": shares[most], "smallest": shares[least]},
        Bars(list(of.values()), np.array(list(shares.values())), note, plural, shares=True),
    )


def _of_lengths(of: Histogram | None) -> Said:
    """Where all have one length, they need no card."""
    if of is None or not of.count:
        return Said()
    if of.low == of.high:
        return Said(f", sequences of {of.low:.0f} tokens")
    piled = 1 - float(of.below(np.array([of.high]))[0]) / of.count if of.exponent == 0 else 0.0
    median = of.quantile(0.5)
    return Said(
        f", sequences of {of.low:.0f} to {of.high:.0f} tokens, half of them up to {median:.0f}",
        {"shortest": of.low, "longest": of.high, "median_length": median},
        cards={"lengths": lengths_card(Bins(*of.bars(), median, of.whole, at_the_end=piled))},
    )


def _named(values: list[int], names: list[str]) -> list[str]:
    return [names[value] if 0 <= value < len(names) else str(value) for value in values]
