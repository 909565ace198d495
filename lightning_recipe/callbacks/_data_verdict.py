"""What is to be said of the data, from what was kept of them: pure decisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lightning_recipe.finding import Outcome, Status, listed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from lightning_recipe.callbacks._data_seen import Range

DUPLICATES = 0.05
"""Share of examples that came before, from which on it is told: a few are in most public data sets."""
MEANT = 0.95
"""Share of copies in rare classes, from which on they are there to balance the classes."""
OTHER_LABEL = 0.01
"""Share of examples with another label than their twin, from which on it is no slip of an annotator."""
ENOUGH = 64
"""Examples without which nothing is said of them."""
BATCHES = 8
"""Batches without which nothing is said of their order."""
SORTED = 0.8
"""How much of the way from chance to certainty neighbours of the same class are in sorted data."""
IMBALANCED = 0.9
"""What neighbours are of the same class by chance from which on there is nothing to tell."""
SERIES = 0.5
"""Correlation of features with those of the next example, on average, from which on they are a series."""
MANY = 10
"""Examples for each class without which a class may be missing by chance."""
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

    """

    inputs: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    batch: NDArray[np.int64]
    rich: NDArray[np.bool_]


def other_label(examples: Examples) -> Iterator[Outcome]:
    """Inputs that are identical with different labels; `advice` where twins agree as those of several annotators do.

    Example:
        >>> x, y = np.arange(100) // 2, np.arange(100) % 2
        >>> [o.code for o in other_label(Examples(x, y, x, np.ones(100, bool)))]
        ['same_input_other_label']

    """
    if examples.labels is None or examples.rich.sum() < ENOUGH:
        return
    inputs, labels = examples.inputs[examples.rich], examples.labels[examples.rich]
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


def duplicates(examples: Examples, *, sure: bool) -> Iterator[Outcome]:
    """Examples that came before in the same epoch, although each is drawn once.

    Args:
        examples: Those of an epoch, or of its beginning.
        sure: Whether the data set gives what lies at an index; one that draws by itself may give it again.

    Example:
        >>> x = np.arange(100) % 90
        >>> [o.evidence["share"] for o in duplicates(Examples(x, None, x, np.ones(100, bool)), sure=True)]
        [0.1]

    """
    if examples.rich.sum() < ENOUGH:
        return
    inputs = examples.inputs[examples.rich]
    whole = inputs if examples.labels is None else inputs * 1000003 + examples.labels[examples.rich]
    _, times = np.unique(whole, return_counts=True)
    share = (len(whole) - len(times)) / len(whole)
    if share < DUPLICATES:
        return
    evenly = bool((times > 1).mean() > 0.5)  # noqa: PLR2004 - a data set that says it is longer than it is
    balanced = _of_rare_classes(examples)
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


def in_order(examples: Examples) -> Iterator[Outcome]:
    """Neighbours of the same class, where no sampler put them together; `advice` if classes come again, as in time.

    Example:
        >>> x, batch = np.arange(100), np.arange(100) // 10
        >>> [o.status.value for o in in_order(Examples(x, x // 30, batch, x > 0))]
        ['warning']
        >>> list(in_order(Examples(x, x % 2, batch, x > 0)))
        []

    """
    labels = examples.labels
    if labels is None or examples.batch[-1] + 1 < BATCHES or len(labels) < ENOUGH:
        return
    classes, counts = np.unique(labels, return_counts=True)
    chance = float(((counts / len(labels)) ** 2).sum())
    within = np.diff(examples.batch) == 0
    alike = float((np.diff(labels) == 0)[within].mean()) if within.any() else 0.0
    if chance > IMBALANCED or alike < chance + SORTED * (1 - chance):
        return
    blocks = int((np.diff(labels) != 0).sum()) + 1
    yield Outcome(
        Status.WARNING if blocks == len(classes) else Status.ADVICE,
        "sorted",
        f"{alike:.0%} of the training examples that follow one another in a batch have the same label, {chance:.0%} "
        f"would by chance: {len(classes)} classes come in {blocks} blocks, and are not shuffled",
        "shuffle=True in the training DataLoader, or shuffle data that can't be drawn at random",
        {"alike": alike, "by_chance": chance, "classes": len(classes), "blocks": blocks},
    )


def by_class(examples: Examples) -> Iterator[Outcome]:
    """The same of a whole epoch of a stream, which may hold scenes or sessions of one class: only if none comes again.

    Example:
        >>> x, batch = np.arange(100), np.arange(100) // 10
        >>> [[o.code for o in by_class(Examples(x, y, batch, x > 0))] for y in (x // 30, x // 30 % 3)]
        [['sorted'], []]

    """
    return (o for o in in_order(examples) if o.status is Status.WARNING and o.evidence["classes"] > 2)  # noqa: PLR2004


def by_number(numbers: Sequence[NDArray[np.float64]], alike: float) -> Iterator[Outcome]:
    """Targets that only rise, or only fall; `advice` along a series, whose neighbours are alike in all they have.

    Args:
        numbers: The targets of each batch, in their order.
        alike: Correlation of an example's features with those of the next one.

    Example:
        >>> rising = list(np.arange(160.0).reshape(16, 10))
        >>> [o.status.value for alike in (0.1, 0.9) for o in by_number(rising, alike)]
        ['warning', 'advice']
        >>> list(by_number([*rising, np.zeros(10)], 0.1))
        []

    """
    if len(numbers) < BATCHES:
        return
    every = np.concatenate(numbers)
    steps = np.diff(every)
    if len(np.unique(every)) < ENOUGH // 2 or not (bool((steps >= 0).all()) or bool((steps <= 0).all())):
        return
    within = float(np.mean([batch.std() for batch in numbers]) / every.std())
    yield Outcome(
        Status.WARNING if alike < SERIES else Status.ADVICE,
        "sorted",
        f"the {len(every)} training examples come in the order of their targets, from {every[0]:.3g} to "
        f"{every[-1]:.3g}, and are not shuffled: those of a batch differ by {within:.2g} of what all do",
        "shuffle=True in the training DataLoader, or a sampler that draws at random",
        {"examples": len(every), "within": within, "alike": alike},
    )


def again(first: Sequence[NDArray[np.int64]], second: Sequence[NDArray[np.int64]]) -> Iterator[Outcome]:
    """The first batches of two epochs, the same in the same order."""
    pairs = list(zip(first, second, strict=False))
    if len(pairs) < BATCHES or len({batch.tobytes() for batch, _ in pairs}) < BATCHES:
        return
    if all(np.array_equal(a, b) for a, b in pairs):
        yield Outcome(
            Status.ADVICE,
            "same_order",
            f"the first {len(pairs)} training batches of an epoch hold the same examples in the same order as in the "
            "epoch before",
            "shuffle=True in the training DataLoader, unless a state is carried from batch to batch",
            {"batches": len(pairs)},
        )


def never(labels: NDArray[np.int64], classes: int) -> Iterator[Outcome]:
    """Classes that the network can say and that never came in a whole epoch.

    Example:
        >>> [o.evidence["missing"] for o in never(np.arange(100) % 3, 4)]
        [1]

    """
    missing = sorted(set(range(classes)) - set(np.unique(labels).tolist()))
    if missing and len(labels) >= MANY * classes:
        yield Outcome(
            Status.ADVICE,
            "label_never_occurs",
            f"{len(missing)} of {classes} classes never occur among the {len(labels)} examples of a whole epoch: "
            f"{listed(map(str, missing))}",
            "see whether labels begin with 1, a class got lost in a split, or the network has more outputs than needed",
            {"missing": len(missing), "classes": classes, "examples": len(labels)},
        )


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
