"""Labels that stand beside the inputs of other rows: whether they can be told once they are put in another order."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from lightning.fabric.utilities.data import sized_len
from torch.nn import functional as F

from lightning_recipe.callbacks._baselines import WIDE, narrow
from lightning_recipe.callbacks._measured import Estimate
from lightning_recipe.callbacks._simple_models import CLASSES, nearest, ridge
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.trial.reread import CannotRereadError, read_again
from lightning_recipe.trial.stored import arrays, leaves

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from numpy.typing import NDArray
    from torch import Tensor

FEWEST, ROWS, MOST = 200, 1000, 200_000
"""Rows, at least; of which simple models are fitted, and on which they are tried, each; and that are put in order."""
READ, WIDEST = 4000, 20_000
"""Examples that are read from a data set that keeps no arrays, at most, and numbers of each."""
SURE, NONE = 6.0, 2.0
"""Standard errors of what is gained over a constant: in another order, of eight; and, at most, as rows stand."""
MATTERS = 0.1
"""What is gained, at least, as a share of the answers, or of the variance of numbers."""
ALIKE = 0.1
"""How far the share of a class may be from that in a few hundred targets of training, at most."""
ALONE = 0.25
"""Correlation of any numbers in neighbouring rows, up to which they are no series: of one, the label of another time
may be among the inputs."""
STEPS = (1, -1, 2, -2)
PART = 80
"""Rows before and behind a place, at least."""


class Stored(NamedTuple):
    """What a data set keeps in its rows: arrays of inputs, and labels (N,), classes or numbers."""

    inputs: list[NDArray[Any]]
    labels: NDArray[Any]

    def features(self, rows: Tensor) -> Tensor:
        """Some of the inputs, brought down to a few numbers each."""
        taken = [narrow(torch.from_numpy(one[rows.numpy()]).float()) for one in self.inputs]
        return torch.cat(taken, 1)[:, :WIDE].nan_to_num(0, 0, 0)


def stored(source: Any, shares: Tensor, *, classes: bool, read: bool = True) -> Stored | None:
    """The inputs and the labels that a data set keeps as arrays, if it is plain which are which; else it is read.

    Args:
        source: The data set.
        shares: Of each class in training.
        classes: Whether labels are classes.
        read: Whether it may be read.

    Example:
        >>> x, y = torch.zeros(300, 2), torch.arange(300) % 2
        >>> stored(torch.utils.data.TensorDataset(x, y), torch.tensor([0.5, 0.5]), classes=True).labels[:4]
        array([0, 1, 0, 1])
        >>> rows = list(zip(x, y.tolist()))
        >>> stored(rows, torch.tensor([0.5, 0.5]), classes=True).inputs[0].shape
        (300, 2)

    """
    known = _told_apart(arrays(source), shares, classes=classes)
    return known or (_told_apart(_read(source), shares, classes=classes) if read else None)


def _told_apart(kept: dict[str, NDArray[Any]], shares: Tensor, *, classes: bool) -> Stored | None:
    kept = {name: one for name, one in kept.items() if one.dtype.kind in "fiu"}
    labels = {name: one.reshape(-1) for name, one in kept.items() if one.size == len(one)}
    if classes:
        labels = {name: one for name, one in labels.items() if _has_shares(one, shares)}
    elif len(labels) > 1:
        labels = {name: one for name, one in labels.items() if one.dtype.kind == "f"}
    if len(labels) != 1:
        return None
    ((name, label),) = labels.items()
    inputs = [one for other, one in kept.items() if other != name and (one.ndim > 1 or one.dtype.kind == "f")]
    return Stored(inputs, label) if inputs and FEWEST <= len(label) <= MOST else None


def _read(source: Any) -> dict[str, NDArray[Any]]:
    """What comes out of a data set that keeps its examples in another way, one after another; of a small one."""
    size = sized_len(source) or 0
    if not FEWEST <= size <= READ:
        return {}
    try:
        examples = [leaves(one) for (one,) in read_again(source, range(size))]
    except CannotRereadError:
        return {}
    shapes = {name: leaf.shape for name, leaf in examples[0].items() if leaf.numel() <= WIDEST}
    same = [n for n, shape in shapes.items() if all(n in one and one[n].shape == shape for one in examples)]
    stacked = {name: torch.stack([one[name] for one in examples]) for name in same}
    return {n: (one.float() if one.is_floating_point() else one).numpy() for n, one in stacked.items()}


def _has_shares(values: NDArray[Any], shares: Tensor) -> bool:
    if len(shares) > CLASSES or not set(np.unique(values)) <= set(range(len(shares))):
        return False
    own = np.bincount(values.astype(np.int64), minlength=len(shares)) / len(values)
    return bool(np.abs(own - shares.numpy()).max() < ALIKE)


def in_other_order(rows: Stored, *, classes: int) -> Outcome | None:
    """`warning` if simple models tell labels in another order, and gain nothing over a constant as they stand.

    Args:
        rows: Inputs and labels as they are kept.
        classes: How many; 0 of numbers.

    Example:
        >>> x = torch.randn(600, 4, generator=torch.Generator().manual_seed(0))
        >>> in_other_order(Stored([x.numpy()], x[:, 0].flip(0).numpy()), classes=0).code
        'labels_of_others'
        >>> in_other_order(Stored([x.numpy()], x[:, 0].numpy()), classes=0)

    """
    count, labels = len(rows.labels), torch.from_numpy(np.array(rows.labels))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    chosen = torch.cat([order[: count // 2][:ROWS], order[count // 2 :][:ROWS]])
    x = _standardised(rows.features(chosen))
    y = _aims(labels, classes)
    as_it_is = _gain(x, y[chosen])
    if as_it_is.mean > NONE * as_it_is.error:
        return None
    for said, other in _orders(count, alone=_are_alone(_standardised(rows.features(torch.arange(min(count, ROWS)))))):
        gain = _gain(x, y[torch.from_numpy(other)[chosen]])
        if gain.mean > max(SURE * gain.error, MATTERS):
            return Outcome(
                Status.WARNING,
                "labels_of_others",
                f"inputs and labels do not belong together: nothing tells the labels as they stand, and a simple model "
                f"does once they are put in another order ({said}): {gain.mean:.0%} {_gain_of(classes)}",
                "put inputs and labels together by an id, not by their place in two files or lists",
                {"gain": gain.mean, "error": gain.error, "as_they_stand": as_it_is.mean},
            )
    return None


def no_labels_from(rows: Stored, *, classes: int) -> Outcome | None:
    """`advice` if simple models tell the labels of the rows before a place, and nothing those behind it, or reversed.

    As where rows are left out of one list and not of the other: from the first of them on, labels are those of others.
    The place is where what is gained over a constant changes most. Nor does a model of the others tell them: few rows
    may be too few to fit one.

    Args:
        rows: Inputs and labels as they are kept.
        classes: How many; 0 of numbers.

    Example:
        >>> x = torch.randn(800, 4, generator=torch.Generator().manual_seed(0)).numpy()
        >>> y = np.where(np.arange(800) < 300, x[:, 0], np.roll(x[:, 0], -1))
        >>> abs(no_labels_from(Stored([x], y), classes=0).evidence["row"] - 300) < 20
        True
        >>> no_labels_from(Stored([x], x[:, 0]), classes=0)

    """
    count = min(len(rows.labels), 2 * ROWS)
    y = _aims(torch.from_numpy(np.array(rows.labels[:count])), classes)
    x = _standardised(rows.features(torch.arange(count)))
    gained = _by_half(x, y)[0]
    apart = (gained - gained.mean()).cumsum(0).abs()
    apart[: PART - 1] = apart[count - PART :] = 0
    place = int(apart.argmax()) + 1
    if place < PART:
        return None
    gains = [_best(_by_half(x[part], y[part])) for part in (slice(place), slice(place, count))]
    known = gains[0].mean > gains[1].mean
    some, none = gains if known else gains[::-1]
    told, untold = ((0, place), (place, count))[:: 1 if known else -1]
    of_told, of_untold = slice(*told), slice(*untold)
    none = max(none, _best(_gained(x[of_told], y[of_told], x[of_untold], y[of_untold])), key=lambda gain: gain.mean)
    sure = some.mean > max(SURE * some.error, SURE * none.error, MATTERS)
    if not sure or none.mean > NONE * none.error:
        return None
    return Outcome(
        Status.ADVICE,
        "labels_of_others_in_part",
        f"labels of the rows {untold[0]} to {untold[1] - 1} have nothing to do with their inputs: a simple model tells "
        f"none of them, and gains {some.mean:.0%} {_gain_of(classes)} on the rows {told[0]} to {told[1] - 1}",
        "see whether rows were left out of the inputs there and not of the labels; put both together by an id",
        {"row": place, "gain": some.mean, "gain_there": none.mean, "error_there": none.error},
    )


def _by_half(x: Tensor, y: Tensor) -> Tensor:
    """What each of two simple models of every other row gains over a constant on those between, shape (2, N)."""
    even, found = torch.arange(len(x)) % 2 == 0, torch.zeros(2, len(x))
    for fit in (even, ~even):
        found[:, ~fit] = torch.stack(_gained(x[fit], y[fit], x[~fit], y[~fit]))
    return found


def _standardised(rows: Tensor) -> Tensor:
    std = rows.std(0)
    return (rows - rows.mean(0)) / torch.where(std > 0, std, 1.0)


def _gain(x: Tensor, y: Tensor) -> Estimate:
    """What the better of two simple models of the first half gains over a constant on the second.

    Right answers, or squares over the variance.
    """
    half = len(x) // 2
    return _best(_gained(x[:half], y[:half], x[half:], y[half:]))


def _best(gained: Iterable[Tensor]) -> Estimate:
    return max(map(Estimate.of, gained), key=lambda gain: gain.mean)


def _gained(x: Tensor, y: Tensor, others: Tensor, aims: Tensor) -> list[Tensor]:
    """What a linear model of some rows, and their neighbours, gain over a constant on each of the others."""
    middle = y.mean(0)
    linear = others @ ridge(x.double(), y.double()).float() + middle
    neighbours = y[nearest(x, others)].mean(1)
    wrong = [_wrong(said, aims) for said in (middle.expand_as(aims), linear, neighbours)]
    return [wrong[0] - one for one in wrong[1:]]


def _aims(labels: Tensor, classes: int) -> Tensor:
    if classes:
        return F.one_hot(labels.long(), classes).float()
    y = labels.float()[:, None]
    return (y - y.mean()) / y.std().clamp(min=1e-12)


def _gain_of(classes: int) -> str:
    return "more answers are right than with a constant" if classes else "of the variance"


def _wrong(said: Tensor, y: Tensor) -> Tensor:
    if y.shape[1] == 1:
        return (said - y).square()[:, 0]
    return (said.argmax(1) != y.argmax(1)).float()


def _are_alone(x: Tensor) -> bool:
    """Whether rows have nothing to do with their neighbours."""
    return float((x[:-1].T @ x[1:]).abs().max()) / len(x) < ALONE


def _orders(count: int, *, alone: bool) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Usual ways in which two lists of the same things differ: for each row, whose label is taken."""
    rows = np.arange(count)
    yield "from last to first", rows[::-1].copy()
    for first in (0, 1):
        as_text = np.array(sorted(range(count), key=lambda row: str(row + first)))
        yield "of numbers as text, 10 before 2", as_text
        yield "of numbers as text, 10 before 2", as_text.argsort()
    for by in STEPS if alone else ():
        yield f"of {abs(by)} row{'s' * (abs(by) > 1)} {'later' if by > 0 else 'earlier'}", np.roll(rows, -by)
