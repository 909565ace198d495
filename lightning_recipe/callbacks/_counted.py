"""What the targets of a loss look like over several looks: constants, class ids as numbers, classes that never come."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_recipe.callbacks import _loss_weights as weights
from lightning_recipe.callbacks._loss_weights import TARGETS
from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.losses.table import CROSS_ENTROPY, NLL, TABLE, Family
from lightning_recipe.record.tensors import dense

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.step import LossCall

PIXELS, FEW_CLASSES, FEW_LOOKS = 2000, 20, 3
"""Pixels for each class by which one is missed, classes of which each is in some of them, and looks, at least."""


class Targets:
    """What is known of the targets of each loss function over several looks.

    Example:
        >>> from torch.nn import functional as F
        >>> from lightning_recipe.record.step import LossCall
        >>> seen, y = Targets(), torch.tensor([0, 0, 0, 1])
        >>> arguments = {"input": torch.zeros(4, 2), "target": y, "weight": torch.tensor([3.0, 1.0])}
        >>> call = LossCall("cross_entropy", F.cross_entropy, arguments, torch.tensor(0.0), 4, "a.py:1", False)
        >>> for _ in range(50):
        ...     seen.look(call, [y])
        >>> [outcome.code for _, outcome in seen.verdicts()]
        ['weights_grow_with_frequency']

    """

    def __init__(self) -> None:
        self._counts: defaultdict[str, Counter[float]] = defaultdict(Counter)
        self._latest: dict[str, LossCall] = {}
        self._integers: dict[str, bool] = {}
        self._looks: Counter[str] = Counter()
        self._from_batch: dict[str, bool] = {}
        self._positives: dict[str, tuple[Tensor, int]] = {}

    def look(self, call: LossCall, batch: object) -> None:
        """Go on with what another look saw of a loss function."""
        target = call.arguments.get("target")
        if not isinstance(target, Tensor) or call.target_from_net or not target.numel():
            return
        self._counts[call.where].update(counted(target))
        if (found := weights.positives(call)) is not None:
            yes, targets = self._positives.get(call.where, (0, 0))
            self._positives[call.where] = found[0] + yes, found[1] + targets
        same = [t for _, t in dense(batch) if t.numel() == target.numel() and equal(t, target)]
        self._from_batch[call.where] = bool(same) and self._from_batch.get(call.where, True)
        self._integers[call.where] = any(not t.is_floating_point() for t in same)
        self._latest[call.where], self._looks[call.where] = call, self._looks[call.where] + 1

    def _made(self) -> bool:
        """Whether a target is one number that the step has made, as of what is real: then zeros are those of fakes."""
        return any(len(self._counts[where]) == 1 and not given for where, given in self._from_batch.items())

    def verdicts(self) -> Iterator[tuple[str, Outcome]]:
        """What is worth telling, by the line of the loss function."""
        for where, call in self._latest.items():
            counts = self._counts[where]
            if call.name in {CROSS_ENTROPY, NLL} and (found := weights.of_classes(call, counts)) is not None:
                yield where, found
            if (
                call.name in {CROSS_ENTROPY, NLL}
                and self._looks[where] >= FEW_LOOKS
                and (found := absent(call, counts))
            ):
                yield where, found
            if where in self._positives and (found := weights.of_positives(call, *self._positives[where])) is not None:
                yield where, found
            if len(self._latest) == 1 and (found := weights.negatives_left_out(call)) is not None:
                yield where, found
            of_integers = TABLE[call.name].family is Family.NUMBERS and self._integers[where]
            width = call.arguments["input"].numel() // call.arguments["target"].numel() if of_integers else 0
            if of_integers and (found := ids(call.name, width, counts)) is not None:
                yield where, found
            ignored = call.arguments.get("ignore_index", -100)
            kept = Counter({value: n for value, n in counts.items() if value != float(ignored)})
            if len(kept) == 1 and kept.total() >= TARGETS and self._from_batch[where] and not self._made():
                left_out = ignored if counts.total() > kept.total() else None
                yield where, constant(next(iter(kept)), self._looks[where], left_out)


def absent(call: LossCall, counts: Counter[float]) -> Outcome | None:
    """`advice` where pixels never have some of a few classes; of words some are never said, as that for the start.

    Example:
        >>> from torch.nn import functional as F
        >>> from lightning_recipe.record.step import LossCall
        >>> arguments = {"input": torch.zeros(4, 3, 9, 9), "target": torch.zeros(4, 9, 9), "ignore_index": 255}
        >>> call = LossCall("cross_entropy", F.cross_entropy, arguments, torch.tensor(0.0), 4, "a.py:1", False)
        >>> absent(call, Counter({0.0: 9000, 1.0: 40})).evidence, absent(call, Counter({0.0: 9000, 1.0: 9, 2.0: 1}))
        ({'missing': 1, 'classes': 3, 'targets': 9040}, None)

    """
    scores = call.arguments["input"]
    classes = scores.shape[1] if scores.ndim > 1 else 0
    missing = [i for i in range(classes) if float(i) not in counts and i != call.arguments.get("ignore_index", -100)]
    if not missing or scores.ndim < 4 or classes > FEW_CLASSES or counts.total() < PIXELS * classes:  # noqa: PLR2004
        return None
    return Outcome(
        Status.ADVICE,
        "class_never_occurs",
        f"none of {counts.total()} pixels has class {listed(map(str, missing))}, of {classes} that the network can say",
        "see how masks are read: grey values that were scaled or rounded, or a class that was lost",
        {"missing": len(missing), "classes": classes, "targets": counts.total()},
    )


def counted(values: Tensor) -> Counter[float]:
    """How often each value occurs; nothing of numbers, of which each occurs once."""
    found, counts = values.flatten().float().unique(return_counts=True)
    return Counter(dict(zip(found.tolist(), counts.tolist(), strict=True))) if len(found) <= 1000 else Counter()  # noqa: PLR2004


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether all elements are the same, whatever their shapes."""
    return torch.allclose(one.detach().flatten().float(), other.flatten().float(), atol=1e-4)


def ids(name: str, width: int, counts: Counter[float]) -> Outcome | None:
    """Class ids that a loss for numbers takes for numbers, of so many outputs for each."""
    values, classes, total = sorted(counts), len(counts), sum(counts.values())
    if classes < 3 or values != [float(i) for i in range(classes)] or total < TARGETS:  # noqa: PLR2004
        return None
    if width == classes:
        return Outcome(
            Status.WARNING,
            "labels_as_numbers",
            f"{name} compares each of {classes} outputs with the number of the class",
            "cross_entropy, or one-hot targets",
            {"classes": classes},
        )
    even = sum((count - total / classes) ** 2 for count in counts.values()) * classes / total
    if width != 1 or even > 2 * classes:
        return None
    return Outcome(
        Status.ADVICE,
        "labels_as_numbers",
        f"{name} takes integers from 0 to {classes - 1}, all about as frequent, for numbers: if they are names of "
        "classes, their order means nothing",
        f"cross_entropy over {classes} outputs, unless they are grades or counts",
        {"classes": classes},
    )


def constant(value: float, looks: int, ignored: int | None = None) -> Outcome:
    """All targets are the same, but for a class that `ignore_index` leaves out."""
    if ignored is not None and ignored >= 0:
        return Outcome(
            Status.WARNING,
            "ignore_index_is_a_class",
            f"all targets that count are {value:g} at {looks} looks: ignore_index={ignored} leaves out the other class",
            "take the ignore_index away",
            {"value": value, "ignored": ignored, "looks": looks},
        )
    return Outcome(
        Status.WARNING,
        "target_constant",
        f"all targets are {value:g} at {looks} looks",
        "see what the data set returns as its target, and whether it is shuffled",
        {"value": value, "looks": looks},
    )
