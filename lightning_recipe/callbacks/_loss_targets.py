"""What the targets of a loss look like: padding, classes left out, constants, class ids as numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_recipe.callbacks import _loss_weights as weights
from lightning_recipe.callbacks._loss_weights import TARGETS
from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.losses.table import CROSS_ENTROPY, NLL, TABLE, Family
from lightning_recipe.losses.targets import NAMES
from lightning_recipe.record.tensors import dense

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.loss_graph import Node, WeightsOf
    from lightning_recipe.record.step import LossCall, Step

ROWS = 8
"""Rows of a batch, at least, for their ends to tell something."""
LENGTHS = 3
"""Different lengths, at least: what ends at one place in all rows is no padding."""
PADDED = 0.25
"""Share of the counted targets that is padding."""
MOST = 100
"""Classes, at most: what has more values are numbers."""
AMID = 5
"""Words amid others, at least, that are left out though they are given."""
VOCABULARY = 2
"""Times as many words as classes there are, at least, where classes are no words themselves."""

PIXELS, FEW_CLASSES, FEW_LOOKS = 2000, 20, 3
"""Pixels for each class by which one is missed, classes of which each is in some of them, and looks, at least."""


def padding(weights_of: WeightsOf, graph: list[Node], step: Step) -> Iterator[tuple[Node, Outcome]]:
    """Losses much of whose counted targets are one value at the ends of rows, where the inputs are one value, too.

    Args:
        weights_of: How much each element of what a node gave counts in the loss.
        graph: The nodes of the loss, from what the last layers put out.
        step: What the step did, with what entered the network.

    Yields:
        The node of the loss, and the verdict.

    """
    rows = step.batch_size or 0
    dense = {name: tensor for name, tensor in step.inputs.items() if tensor.layout is torch.strided}
    entered = [tensor for name, tensor in dense.items() if not NAMES.search(name)]  # a forward may be given all
    for node in graph:
        picked = node.picked
        target = picked[0] if picked is not None else node.saved("target")
        if not isinstance(target, Tensor) or rows < ROWS or not target.numel() or target.numel() % rows:
            continue
        found = _padded(target.reshape(rows, -1), entered)
        if found is None:
            continue
        value, at_ends = found
        weight = weights_of(node)  # goes back through the graph: what is cheap to see comes first
        if weight is None or not weight.any():
            continue
        counts = weight != 0 if weight.shape == target.shape else torch.ones_like(target, dtype=torch.bool)
        if (ignored := node.saved("ignore_index")) is not None:
            counts = counts & (target != ignored)
        share = float((at_ends & counts.reshape(rows, -1)).sum() / counts.sum().clamp(min=1))
        if share > PADDED:
            yield (
                node,
                Outcome(
                    Status.WARNING,
                    "padding_scored",
                    f"{share:.0%} of the targets that count are {value:g} at the ends of rows, where the input is "
                    "padded: padding is learnt",
                    f"ignore_index={value:g}, or a mask" if ignored is not None else "leave it out with a mask",
                    {"share": share, "value": value},
                ),
            )


def _padded(target: Tensor, entered: list[Tensor]) -> tuple[float, Tensor] | None:
    """The value of the targets, and where, at the ends of rows at which an input is one value as well.

    It is nowhere else in the targets, or the value of the input is nowhere else.
    """
    value, at_ends = ends(target)
    if any(_constant_at(at_ends, tensor) for tensor in entered):
        return value, at_ends
    for tensor in entered:
        if tensor.ndim == 2 and len(tensor) == len(target) and tensor.shape[1] >= target.shape[1]:  # noqa: PLR2004
            _, at_ends = ends(tensor[:, -target.shape[1] :])
            values = target[at_ends]
            if values.numel() and (values == values[0]).all():
                return float(values[0]), at_ends
    return None


def ends(target: Tensor) -> tuple[float, Tensor]:
    """The value at the ends of rows that is nowhere else, and where that is: nowhere, if it is no padding.

    Rows that are one value before and another after, such as grades and survival up to a time, are none.

    Args:
        target: Of shape (N, T).

    Example:
        >>> rows = torch.tensor([[5, 3, 1, 0], [4, 0, 0, 0], [7, 2, 0, 0], [9, 8, 7, 6]] * 2)
        >>> value, at_ends = ends(rows)
        >>> value, at_ends[:4].sum(1)
        (0.0, tensor([1, 3, 2, 0]))

    """
    value = target[:, -1].mode().values
    from_end = (target == value).flip(1).long().cumprod(1)
    at_ends, lengths = from_end.flip(1).bool(), set(from_end.sum(1).tolist())
    inside = bool(((target == value) & ~at_ends).any())
    if inside or len(lengths) < LENGTHS or len(target[~at_ends].unique()) < 2:  # noqa: PLR2004
        return 0.0, torch.zeros_like(at_ends)
    return float(value), at_ends


def _constant_at(at_ends: Tensor, entered: Tensor) -> bool:
    """Whether what entered is a single value at these places, but for the first of each row: the end was still seen."""
    rows, places = at_ends.shape
    if entered.ndim < 2 or entered.shape[0] != rows or entered.shape[1] < places:  # noqa: PLR2004
        return False
    later = at_ends.clone()
    later[:, 1:] &= at_ends[:, :-1]
    later[:, 0] = False
    values = entered[:, -places:][later]
    return bool(values.numel() and (values == values[:1]).all() and (entered != values.flatten()[0]).any())


def left_out(graph: list[Node], step: Step) -> Iterator[tuple[Node, Outcome]]:
    """Losses that leave out a class which occurs: of examples, of words amid others, and as `advice` of pixels.

    Pixels may have no label. Nor may words: the first and the last class may stand for none, unless the network is
    given that word as well, amid others; and what is to be said of a few words only, out of the vocabulary that they
    are from, is left alone.
    """
    for node in graph:
        ignored, target = node.saved("ignore_index"), node.saved("target")
        if not isinstance(ignored, int) or not isinstance(target, Tensor):
            continue
        classes, what, heard = node.saved("self").shape[1], "examples", 0.0
        share = float((target == ignored).double().mean())
        if target.ndim > 2 and min(target.shape[1:]) > 1:  # noqa: PLR2004 - words are (N, 1, T) to torch
            what = "pixels"
        elif target.ndim != 1 or len(target) != step.batch_size:
            heard = _also_given(target, ignored, step)
            what, share = "words", max(heard, _amid_others(target, ignored, classes, step))
        if 0 <= ignored < classes and share > 1 / (4 * classes):
            sure = what == "examples" or heard > 0 or (what == "words" and 0 < ignored < classes - 1)
            called = f"{what if heard or _has_words(step) else 'steps'} amid others" if what == "words" else what
            yield (
                node,
                Outcome(
                    Status.WARNING if sure else Status.ADVICE,
                    "ignore_index_is_a_class",
                    f"ignore_index={ignored} leaves out {share:.0%} of the {called}: "
                    f"it {'is' if sure else 'may be'} a class",
                    "give padding a number that is no class, such as -100, and ignore that"
                    if what == "words"
                    else "take the ignore_index away, or number the classes from 0 on without it",
                    {"share": share, "ignored": ignored},
                ),
            )


def _has_words(step: Step) -> bool:
    """Whether rows of integers enter that are no masks or positions; else each step has numbers, as of a signal."""
    return any(
        entered.ndim == 2 and not entered.is_floating_point() and not NAMES.search(name)  # noqa: PLR2004
        for name, entered in step.inputs.items()
    )


def _amid_others(target: Tensor, ignored: int, classes: int, step: Step) -> float:
    """Share of the words that are left out, though others before and after them count; 0 where these are no labels.

    The rows are those of an entry of the batch, which has the same labels wherever they count.
    """
    counts = target.flatten() != ignored
    for _, entry in dense(step.batch):
        if entry.ndim != 2 or entry.numel() != target.numel() or len(entry) != step.batch_size:  # noqa: PLR2004
            continue
        entered = [t for name, t in step.inputs.items() if t.shape[:2] == entry.shape and not NAMES.search(name)]
        labels = any(t.is_floating_point() or int(t.max()) >= VOCABULARY * classes for t in entered)
        if labels and torch.equal(entry.flatten()[counts], target.flatten()[counts]):
            within = counts.view(entry.shape).long()
            within = (within.cumsum(1) > 0) & (within.flip(1).cumsum(1) > 0).flip(1)
            return float((within & ~counts.view(entry.shape)).sum() / within.sum().clamp(min=1))
    return 0.0


def _also_given(target: Tensor, ignored: int, step: Step) -> float:
    """Share of the words amid others that are left out, though the network is given them, as the next one or the same.

    Of words that were not asked for it is given others, which are no target.
    """
    rows = step.batch_size or 0
    if rows < ROWS or target.numel() % rows or (length := target.numel() // rows) < 3:  # noqa: PLR2004
        return 0.0
    words = target.reshape(rows, length)
    counts = (words != ignored).long()
    within = (counts.cumsum(1) > 0) & (counts.flip(1).cumsum(1) > 0).flip(1)
    left = within & (words == ignored)
    for name, entered in step.inputs.items():
        if NAMES.search(name) or entered.is_floating_point() or entered.ndim != 2 or len(entered) != rows:  # noqa: PLR2004
            continue
        for shift in (0, 1):
            given = entered[:, shift : shift + length]
            same = given == words[:, : given.shape[1]]
            asked = within[:, : given.shape[1]]
            if int(left[:, : given.shape[1]].sum()) >= AMID and bool(same[asked].all()):
                return float(left.sum() / within.sum())
    return 0.0


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
