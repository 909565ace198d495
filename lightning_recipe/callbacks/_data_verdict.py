"""What is to be said of the data, from what was kept of them: pure decisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lightning_recipe.callbacks._by_chance import are_copies
from lightning_recipe.finding import Outcome, Status, listed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from numpy.typing import NDArray

    from lightning_recipe.callbacks._data_seen import Range

DUPLICATES = 0.05
"""Share of examples that came before, from which on it is told: a few are in most public data sets."""
MEANT = 0.95
"""Share of copies in rare classes, from which on they are there to balance the classes."""
FEW, TELLING = 0.1, 0.8
"""Different inputs as a share of the examples, at most, and share of the labels that they can tell, at least."""
OTHER_LABEL = 0.01
"""Share of examples with another label than their twin, from which on it is no slip of an annotator."""
SPREAD, ANYTHING = 0.25, 0.6
"""Variance within inputs that are the same, as a share of all: below the first, measurements were repeated; from the
second on a number may be anything."""
ENOUGH = 64
"""Examples without which nothing is said of them."""
MANY = 10
"""Examples for each class without which a class may be missing by chance."""
ALIKE = 0.25
"""Spread of the classes' sizes, over their mean, up to which they are of one size; of 16 examples each it is chance."""
OTHERS = 3
"""Classes of one size at least, by which another one is told to be two in one."""
TABLE = 64
"""Columns of a table; what has more is a flattened image, whose edges never change."""


@dataclass(frozen=True)
class Examples:
    """Examples in the order in which they came.

    Attributes:
        inputs: A fingerprint of all but the label, shape (N,).
        labels: Class of each, shape (N,); None where it is not known.
        batch: Number of the batch of each, shape (N,).
        rich: Whether an example does not come twice by chance, shape (N,).
        numbers: What is to be predicted of each, shape (N,), where that is no class; None where it is not known.

    """

    inputs: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    batch: NDArray[np.int64]
    rich: NDArray[np.bool_]
    numbers: NDArray[np.float64] | None = None


def other_target(examples: Examples) -> Iterator[Outcome]:
    """Inputs that are identical with another label, or another number to predict."""
    yield from other_label(examples) if examples.numbers is None else other_number(examples)


def other_label(examples: Examples) -> Iterator[Outcome]:
    """Inputs that are identical with different labels; `advice` where twins agree as those of several annotators do.

    Example:
        >>> x, y = np.arange(100) // 2, np.arange(100) % 2
        >>> [o.code for o in other_label(Examples(x, y, x, np.ones(100, bool)))]
        ['same_input_other_label']

    """
    if examples.labels is None or examples.rich.sum() < ENOUGH:
        yield from _few_inputs(examples)
        return
    inputs, labels = examples.inputs[examples.rich], examples.labels[examples.rich]
    if len(np.unique(inputs)) == len(inputs):  # as nearly always, in a tenth of the time
        return
    both, together = np.unique(np.stack([inputs, labels]), axis=1, return_counts=True)
    values, where, kinds = np.unique(both[0], return_inverse=True, return_counts=True)
    twice = np.isin(inputs, values[kinds > 1])
    count, share = int(twice.sum()), float(twice.mean())
    if not count:
        return
    times = np.bincount(where.ravel(), together)
    agreement = float((together * (together - 1)).sum() / (times * (times - 1)).sum())
    chance = float(((np.unique(labels, return_counts=True)[1] / len(labels)) ** 2).sum())
    yield Outcome(
        Status.WARNING if share >= OTHER_LABEL and agreement < (1 + chance) / 2 else Status.ADVICE,
        "same_input_other_label",
        f"{count} of {len(inputs)} training examples have an identical twin with another label: a network that sees "
        "nothing but the inputs can't tell which is right",
        "look at how inputs and labels are put together: an index that is off, a join that repeats rows, labels that "
        "were shuffled; else remove these examples, or make their labels soft",
        {"examples": len(inputs), "contradicting": count, "share": share, "agreement": agreement},
    )


def other_number(examples: Examples) -> Iterator[Outcome]:
    """Inputs that are identical with different numbers to predict; nothing where they differ as measurements do.

    Example:
        >>> x, rich = np.arange(120) // 3, np.ones(120, bool)
        >>> noise = np.random.default_rng(0).normal(size=120)
        >>> [[o.code for o in other_number(Examples(x, None, x, rich, y))] for y in (noise, x + 0.1 * noise)]
        [['same_input_other_label'], []]

    """
    if examples.numbers is None or examples.rich.sum() < ENOUGH:
        return
    inputs, numbers = examples.inputs[examples.rich], examples.numbers[examples.rich]
    _, which, times = np.unique(inputs, return_inverse=True, return_counts=True)
    mean = np.bincount(which, numbers) / times
    apart = np.bincount(which, (numbers - mean[which]) ** 2)
    twice = (times > 1) & (apart > 0)
    count, whole = int(times[twice].sum()), float(numbers.var())
    share = count / len(inputs)
    if share < OTHER_LABEL or not np.isfinite(whole) or not whole:
        return
    spread = float(apart[twice].sum() / (times[twice] - 1).sum()) / whole
    if spread < SPREAD:
        return
    yield Outcome(
        Status.WARNING if spread > ANYTHING else Status.ADVICE,
        "same_input_other_label",
        f"{count} of {len(inputs)} training examples have an identical twin with another number to predict, and within "
        f"twins these vary by {spread:.0%} of their variance in all: nobody can tell which is right",
        "look at how inputs and targets are put together: a join that repeats rows, or lacks a part of the key, an "
        "index that is off; else the inputs lack what tells the targets",
        {"examples": len(inputs), "contradicting": count, "share": share, "spread": spread},
    )


def _few_inputs(examples: Examples) -> Iterator[Outcome]:
    """`advice` where inputs are so few that they can't tell the labels, as texts that were cut to what all begin with.

    Example:
        >>> x, y = np.arange(200) % 6, np.arange(200) % 5
        >>> [[o.code for o in _few_inputs(Examples(x, y, x, np.zeros(200, bool)))] for y in (y, x // 2)]
        [['same_input_other_label'], []]

    """
    if examples.labels is None or len(examples.labels) < ENOUGH:
        return
    pairs, together = np.unique(np.stack([examples.inputs, examples.labels]), axis=1, return_counts=True)
    values, which = np.unique(pairs[0], return_inverse=True)
    most = np.zeros(len(values), np.int64)
    np.maximum.at(most, which.ravel(), together)
    right = float(most.sum() / together.sum())
    if len(values) <= FEW * len(examples.labels) and right < TELLING:
        yield Outcome(
            Status.ADVICE,
            "same_input_other_label",
            f"{len(examples.labels)} training examples have {len(values)} different inputs in all: no network can get "
            f"more than {right:.0%} of their labels right",
            "see whether something was cut off or left out before they differ: the length of texts, the columns",
            {"examples": len(examples.labels), "inputs": len(values), "right": right},
        )


def duplicates(examples: Examples, *, sure: bool) -> Iterator[Outcome]:
    """Examples that came before in the same epoch, although each is drawn once.

    Args:
        examples: Those of an epoch, or of its beginning.
        sure: Whether the data set gives what lies at an index; one that draws by itself may give it again.

    Example:
        >>> x = np.arange(100) % 90
        >>> [o.evidence["share"] for o in duplicates(Examples(x, None, x, np.ones(100, bool)), sure=True)]
        [0.1]

        What may be the same by chance, as phrases are, counts where half of it comes twice and nothing three times.

        >>> x = np.arange(900) % 600
        >>> [o.status.value for o in duplicates(Examples(x, None, x, np.zeros(900, bool)), sure=True)]
        ['advice']

    """
    rich = examples.rich if examples.rich.sum() >= ENOUGH else np.ones_like(examples.rich)
    inputs = examples.inputs[rich]
    whole = inputs if examples.labels is None else inputs * 1000003 + examples.labels[rich]
    _, times = np.unique(whole, return_counts=True)
    share = (len(whole) - len(times)) / max(1, len(whole))
    if share < DUPLICATES or not (rich is examples.rich or are_copies(times)):
        return
    sure &= rich is examples.rich
    evenly = bool((times > 1).mean() > 0.5)  # noqa: PLR2004 - a data set that says it is longer than it is
    balanced = rich is examples.rich and _of_rare_classes(examples)
    meant = evenly or balanced
    yield Outcome(
        Status.WARNING if sure and not meant else Status.ADVICE,
        "duplicates",
        f"{share:.0%} of {len(whole)} training examples of the first epoch are exact duplicates of earlier ones, one "
        f"comes {times.max()} times; each index was drawn once",
        "a WeightedRandomSampler balances classes without copies; if they were made before the split, validation holds "
        "them, too"
        if balanced
        else "remove them before data are split, or validation holds copies of training examples; if some are to count "
        "more, use a WeightedRandomSampler",
        {"examples": len(whole), "share": share, "most": int(times.max())},
    )


def _of_rare_classes(examples: Examples) -> bool:
    """Whether it is classes with fewer examples than others that come several times: oversampled, to balance them."""
    if examples.labels is None:
        return False
    labels = examples.labels[examples.rich]
    _, first = np.unique(np.stack([examples.inputs[examples.rich], labels]), axis=1, return_index=True)
    copies = np.delete(labels, first)
    classes, counts = np.unique(labels[first], return_counts=True)
    rare = classes[counts < counts.mean()]
    return bool(np.isin(copies, rare).mean() > MEANT)


def never(labels: NDArray[np.int64], classes: int, *, whole: bool = True) -> Iterator[Outcome]:
    """Classes that the network can say and that never came; `warning` if it seems that they were added to others.

    Args:
        labels: Of the examples.
        classes: How many the network can say.
        whole: Whether these are all examples of an epoch; else they were drawn at random, and a class that is as
            frequent as others must be missing.

    Example:
        >>> [o.evidence["missing"] for o in never(np.arange(100) % 3, 4)]
        [1]

    """
    counts = np.bincount(labels[(labels >= 0) & (labels < classes)], minlength=classes)
    missing, seen = np.flatnonzero(counts == 0), counts[counts > 0]
    if not len(missing) or not len(seen) or len(labels) < MANY * classes or not (whole or seen.min() >= MANY):
        return
    double = _two_in_one(counts)
    added = "" if double is None else f"; {double} comes {counts[double]} times, about as often as two others together"
    yield Outcome(
        Status.ADVICE if double is None else Status.WARNING,
        "label_never_occurs",
        f"{len(missing)} of {classes} classes never occur among {len(labels)} training examples"
        f"{' of a whole epoch' if whole else ''}: {listed(map(str, missing))}{added}",
        "see whether labels begin with 1, a class got lost in a split, or the network has more outputs than needed"
        if double is None
        else "see where labels are made: shifted by one and held to their range (clamp, clip), two classes become one",
        {"missing": len(missing), "classes": classes, "examples": len(labels)},
    )


def _two_in_one(counts: NDArray[np.int64]) -> int | None:
    """The first or last class that occurs, if it is twice as large as all others, and the one at an end is missing.

    Example:
        >>> _two_in_one(np.array([40, 20, 20, 20, 0])), _two_in_one(np.array([0, 20, 20, 20, 20]))
        (0, None)

    """
    last = len(counts) - 1
    missing, seen = np.flatnonzero(counts == 0), np.flatnonzero(counts)
    if len(missing) != 1 or missing[0] not in (0, last):
        return None
    for end in (seen[0], seen[-1]):
        others = counts[seen[seen != end]]
        even = len(others) >= OTHERS and others.min() >= MANY and others.std() <= ALIKE * others.mean()
        if even and abs(counts[end] / others.mean() - 2) < 2 * ALIKE and counts[end] > others.max():
            return int(end)
    return None


def of_ranges(ranges: Mapping[str, Range], entered: Collection[str]) -> Iterator[tuple[Outcome, str]]:
    """Missing values, and features that never change of what enters the network, by entry of the batch."""
    for path, seen in ranges.items():
        if seen.missing:
            yield (
                Outcome(
                    Status.ADVICE,
                    "not_finite",
                    f"{seen.missing:.0f} values of {path} are NaN or infinite in the training batches",
                    "see whether the step masks them; else replace them where data are read",
                    {"values": seen.missing},
                ),
                path,
            )
        columns, known = len(seen.mean), seen.count >= ENOUGH
        same = np.flatnonzero(known & (seen.low == seen.high) & (seen.low != 1))  # ones are a bias
        if path in entered and 1 < columns <= TABLE and len(same):
            yield (
                Outcome(
                    Status.ADVICE,
                    "constant_features",
                    f"{len(same)} of {columns} features of {path} have the same value in all "
                    f"{seen.count.max():.0f} rows: {listed(f'{i} (always {seen.low[i]:.3g})' for i in same)}",
                    "leave them out, or see where their values got lost",
                    {"constant": len(same), "features": columns},
                ),
                path,
            )
