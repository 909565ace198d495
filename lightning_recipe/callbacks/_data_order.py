"""Whether the data come in an order: by class, by number, the same in each epoch, or only a few: pure decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.fabric.utilities.data import sized_len
from torch.utils.data import WeightedRandomSampler

from lightning_recipe.callbacks._data_verdict import ENOUGH
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from lightning_recipe.callbacks._data_verdict import Examples

BATCHES = 8
"""Batches without which nothing is said of their order."""
SORTED = 0.8
"""How much of the way from chance to certainty neighbours of the same class are in sorted data."""
FEW = 2
"""Classes that may come once each in what is a stream of scenes or sessions."""
IMBALANCED = 0.9
"""What neighbours are of the same class by chance from which on there is nothing to tell."""
SERIES = 0.5
"""Correlation of features with those of the next example, on average, from which on they are a series."""
ONCE = 1.5
"""Times what an example's place varies within its class if each class came once, up to which it practically does."""
DRIFT, LONG, CHANCE = 0.7, 16, 0.5
"""Share of the variance of places, beyond chance, that classes explain where they pass one after another, the batches
that takes, and what it may be by chance. In 20,000 simulations shuffled data reached 0.3, batches of two classes 0.75
in one; sorted data 0.7 by a buffer of a fifth of them, 0.94 by one of 7 %."""


def in_order(examples: Examples) -> Iterator[Outcome]:
    """Neighbours of the same class, where no sampler put them together; `advice` if classes come again, as in time.

    Example:
        >>> from lightning_recipe.callbacks._data_verdict import Examples
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
    chance, alike = _alike(labels, examples.batch)
    if chance > IMBALANCED or alike < chance + SORTED * (1 - chance):
        return
    blocks = int((np.diff(labels) != 0).sum()) + 1
    once = blocks == len(classes) or (
        len(classes) > FEW and 1 - explained(examples)[0] < ONCE * float(((counts / len(labels)) ** 3).sum())
    )
    yield Outcome(
        Status.WARNING if once else Status.ADVICE,
        "sorted",
        f"{alike:.0%} of the training examples that follow one another in a batch have the same label, {chance:.0%} "
        f"would by chance: {len(classes)} classes come in {blocks} blocks, and are not shuffled",
        "shuffle=True in the training DataLoader, or shuffle data that can't be drawn at random",
        {"alike": alike, "by_chance": chance, "classes": len(classes), "blocks": blocks},
    )


def _alike(labels: NDArray[np.int64], batch: NDArray[np.int64]) -> tuple[float, float]:
    """How often neighbours in a batch are of the same class by chance, and how often they are."""
    counts = np.unique(labels, return_counts=True)[1]
    within = np.diff(batch) == 0
    alike = float((np.diff(labels) == 0)[within].mean()) if within.any() else 0.0
    return float(((counts / len(labels)) ** 2).sum()), alike


def by_class(examples: Examples) -> Iterator[Outcome]:
    """The same of a whole epoch of a stream, which may hold scenes or sessions of one class: only if none comes again.

    Example:
        >>> from lightning_recipe.callbacks._data_verdict import Examples
        >>> x, batch = np.arange(100), np.arange(100) // 10
        >>> [[o.code for o in by_class(Examples(x, y, batch, x > 0))] for y in (x // 30, x // 30 % 3)]
        [['sorted'], []]

    """
    return (o for o in in_order(examples) if o.status is Status.WARNING and o.evidence["classes"] > FEW)


def drifting(examples: Examples, alike: float) -> Iterator[Outcome]:
    """Classes that pass one after another, several at a time, as sorted data behind a shuffle buffer that is too small.

    Args:
        examples: Of an epoch, in their order.
        alike: Correlation of an example's features with those of the next one: `advice` along a series, whose states
            may pass like that.

    Example:
        >>> from lightning_recipe.callbacks._data_verdict import Examples
        >>> x, batch, noise = np.arange(640), np.arange(640) // 20, np.arange(640) * 389 % 640
        >>> [[o.code for o in drifting(Examples(x, y // 128, batch, x > 0), 0)] for y in ((x + noise / 4) // 2, noise)]
        [['sorted'], []]

    """
    labels = examples.labels
    if labels is None or examples.batch[-1] + 1 < LONG or len(labels) < ENOUGH:
        return
    classes = len(np.unique(labels))
    share, chance, held, shuffled = explained(examples)
    if classes <= FEW or share < DRIFT or chance > CHANCE:
        return
    yield Outcome(
        Status.WARNING if alike < SERIES else Status.ADVICE,
        "sorted",
        f"{classes} classes pass one after another: a batch holds {held:.3g} of them, {shuffled:.3g} if it were drawn "
        f"at random; which class it is explains {share:.0%} of where in the epoch an example comes",
        "a shuffle buffer that holds far more than the examples of a class, or examples that are shuffled before they "
        "are written to files",
        {"explained": share, "by_chance": chance, "classes": classes, "in_batch": held, "if_shuffled": shuffled},
    )


def explained(examples: Examples) -> tuple[float, float, float, float]:
    """How much of the variance of examples' places is that of the means of their classes.

    Places are numbers of batches, and chance is that of the same batches in any order, so that batches which are made
    of a few classes each do not count. Variances of permutations by E. Pitman (1937).

    Returns:
        Of the variance that is not explained by chance, the share that is explained; the share by chance; how many
        classes a batch holds, on average, and how many it would hold if its examples were drawn one by one.

    Example:
        >>> from lightning_recipe.callbacks._data_verdict import Examples
        >>> x = np.arange(80)
        >>> [round(n, 2) for n in explained(Examples(x, x // 20, x // 10, x > 0))]
        [0.92, 0.43, 1.0, 3.77]

    """
    labels = np.zeros(len(examples.batch)) if examples.labels is None else examples.labels
    label = np.unique(labels, return_inverse=True)[1]
    counts = np.zeros((examples.batch[-1] + 1, label.max() + 1))
    np.add.at(counts, (examples.batch, label), 1)
    sizes, of_class = counts.sum(1), counts.sum(0)
    place = np.arange(len(counts)) - examples.batch.mean()
    total = float((sizes * place**2).sum())
    between = float(((place @ counts) ** 2 / of_class).sum())
    varies = ((counts - counts.mean(0)) ** 2).sum(0)
    chance = float((place**2).sum() / (len(counts) - 1) * (varies / of_class).sum())
    shuffled = float((1 - (1 - of_class / len(label)) ** sizes.mean()).sum())
    share = (between - chance) / (total - chance) if chance < total else 0.0
    return share, chance / total, float((counts > 0).sum(1).mean()), shuffled


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


def in_groups(
    examples: Examples, first: Sequence[NDArray[np.int64]], second: Sequence[NDArray[np.int64]]
) -> Iterator[Outcome]:
    """Batches of one class each, which are the same in each epoch: neighbours in sorted data.

    `warning` if they come in another order each time, and `advice` if not: whoever makes batches may mean it.

    Args:
        examples: Of the first epoch.
        first: Its batches.
        second: Batches of the next.

    Example:
        >>> from lightning_recipe.callbacks._data_verdict import Examples
        >>> x, batches = np.arange(100), np.split(np.arange(100), 10)
        >>> labels = x // 30, x % 2
        >>> [len([*in_groups(Examples(x, y, x // 10, x > 0), batches, batches[::-1])]) for y in labels]
        [1, 0]

    """
    known = {np.sort(batch).tobytes() for batch in first}
    found = sum(len(np.unique(batch)) > 1 and np.sort(batch).tobytes() in known for batch in second)
    if examples.labels is None or len(examples.labels) < ENOUGH or found < BATCHES:
        return
    chance, alike = _alike(examples.labels, examples.batch)
    if chance <= IMBALANCED and alike >= chance + SORTED * (1 - chance):
        moved = any(not np.array_equal(a, b) for a, b in zip(first, second, strict=False))
        yield Outcome(
            Status.WARNING if moved else Status.ADVICE,
            "sorted",
            f"batches are the same groups of examples in each epoch, and {alike:.0%} of those that follow one another "
            f"in a batch have the same label, {chance:.0%} would by chance: "
            + ("batches are shuffled, examples are not" if moved else "nothing is shuffled"),
            "draw the examples of each batch at random, or shuffle the data before they are cut into batches",
            {"alike": alike, "by_chance": chance, "batches": found},
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
            "shuffle=True in the training DataLoader, unless a state is carried from batch to batch; in a sampler of "
            "your own, don't seed the generator anew where an epoch begins",
            {"batches": len(pairs)},
        )


def too_few_weights(loader: Any) -> Iterator[Outcome]:
    """A WeightedRandomSampler with fewer weights than there are examples, as one for each class.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> loaders = [DataLoader(range(9), sampler=WeightedRandomSampler([1.0] * n, 9)) for n in (3, 9)]
        >>> [[outcome.evidence for outcome in too_few_weights(loader)] for loader in loaders]
        [[{'weights': 3, 'examples': 9}], []]

    """
    sampler, examples = getattr(loader, "sampler", None), sized_len(getattr(loader, "dataset", None))
    if isinstance(sampler, WeightedRandomSampler) and examples and (weights := len(sampler.weights)) < examples:
        yield Outcome(
            Status.WARNING,
            "weights_of_classes",
            f"the WeightedRandomSampler has {weights} weights for {examples} examples: only the first {weights} "
            "are ever drawn",
            "a weight for each example: weight_of_class[labels]",
            {"weights": weights, "examples": examples},
        )
