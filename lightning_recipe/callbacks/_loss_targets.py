"""What the targets of a loss look like in a step: padding that is scored, classes that are left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_recipe.finding import Outcome, Status
from lightning_recipe.losses.targets import NAMES
from lightning_recipe.record.tensors import dense

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.loss_graph import Node, WeightsOf
    from lightning_recipe.record.step import Step

ROWS = 8
"""Rows of a batch, at least, for their ends to tell something."""
LENGTHS = 3
"""Different lengths, at least: what ends at one place in all rows is no padding."""
PADDED = 0.25
"""Share of the counted targets that is padding."""
AMID = 5
"""Words amid others, at least, that are left out though they are given."""
VOCABULARY = 2
"""Times as many words as classes there are, at least, where classes are no words themselves."""


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
        is_the_end = _says_the_end(target.reshape(rows, -1), at_ends, entered)
        if is_the_end:
            at_ends = at_ends & (at_ends.long().cumsum(1) > 1)
        share = float((at_ends & counts.reshape(rows, -1)).sum() / counts.sum().clamp(min=1))
        if share > PADDED:
            yield (
                node,
                Outcome(
                    Status.ADVICE if is_the_end else Status.WARNING,
                    "padding_scored",
                    f"{share:.0%} of the targets that count are {value:g} at the ends of rows, where the input is "
                    f"padded: padding is learnt{', behind the first that says where a row ends' if is_the_end else ''}",
                    f"ignore_index={value:g}, or a mask" if ignored is not None else "leave it out with a mask",
                    {"share": share, "value": value},
                ),
            )


def _says_the_end(target: Tensor, at_ends: Tensor, entered: list[Tensor]) -> bool:
    """Whether what rows are padded with tells where each of them ends, in a task to say the next word.

    All have one, and nothing else always comes before it.

    Example:
        >>> words = torch.tensor([[5, 3, 1, 1], [4, 1, 1, 1], [7, 2, 6, 1]])
        >>> ended = torch.tensor([[5, 2, 1, 1], [2, 1, 1, 1], [7, 4, 2, 1]])
        >>> [_says_the_end(x, x == 1, [torch.cat([x[:, :1], x[:, :-1]], 1)]) for x in (words, ended)]
        [True, False]

    """
    lengths = (~at_ends).sum(1)
    size = target.shape[1]
    words = [t for t in entered if t.ndim == 2 and len(t) == len(target) and t.shape[1] in {size, size + 1}]  # noqa: PLR2004
    is_next = any(bool((tensor[:, 1:size] == target[:, :-1]).all()) for tensor in words)
    if not is_next or not bool(at_ends.any(1).all()) or int(lengths.min()) == 0:
        return False
    before = target.gather(1, (lengths - 1)[:, None])
    return not bool((before == before[0]).all())


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
