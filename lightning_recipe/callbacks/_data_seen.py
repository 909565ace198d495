"""What is kept of batches that pass: fingerprints of examples, classes, and the range of each feature."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_recipe.record.tensors import MAX_DEPTH, children, holds, plain, tensors
from lightning_recipe.trial.stored import digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

ENTRIES = 8
"""Tensors of a batch that are looked at."""
COLUMNS = 256
"""Features of a table that are measured one by one."""
CHANNELS = 12
"""Channels, of what is no table, that are measured one by one."""
CHANGES = 8
"""Values of an example that differ from the one before, at least, in what is no blank image, silence, or short code."""
NARROW = 5
"""Columns of a table, at least, of which all may tell."""
UNSEEN = 3.0
"""Pairs that there may be by chance where none was seen, with 95 % certainty."""
COMPARED = 2**10
"""Values that are compared with the next, evenly spaced."""
CHARACTERS, LETTERS = 2**16, 8
"""Of a text that are read, and of a word and the space behind it, at least, where there are no spaces."""
BITS = 40.0
"""Information in the features of an example from which on two are not equal by chance, taken one by one."""
VALUES = 2**15
"""Values of an example that are read, evenly spaced: of images up to 104 x 104 in colour all, since frames of a game
may differ in a few pixels; larger ones that agree in all of these are taken to be equal."""
MEASURED = 2**16
"""Pixels or time steps of a batch that ranges are measured on, evenly spaced."""
LOOKED = 64
"""Columns that this is measured on, and examples that columns are compared on."""
GOLDEN = 0.61803
"""Share of all rows between two that are looked at: no multiple of a series' length, so that all its steps are."""


@dataclass
class Range:
    """Of each feature or channel: how many values and finite ones, and of these mean, squares, lowest and highest.

    `squares` are those of the deviations, summed up; `missing` is how many of all the entry's values are not finite.
    Added up batch by batch, by the update of Chan, Golub and LeVeque (1979).
    """

    total: NDArray[np.float64]
    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    missing: float = 0.0

    @classmethod
    def of(cls, rows: NDArray[np.float64], missing: float) -> Range:
        """From rows of (total, count, mean, variance, low, high)."""
        total, count, mean, variance, low, high = rows
        return cls(total, count, mean, variance * count, low, high, missing)

    def add(self, other: Range) -> None:
        """Take in another batch."""
        total = np.maximum(self.count + other.count, 1)
        apart = other.mean - self.mean
        self.squares += other.squares + apart**2 * self.count * other.count / total
        self.mean += apart * other.count / total
        self.count += other.count
        self.total += other.total
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        self.missing += other.missing

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation of each."""
        return np.sqrt(self.squares / np.maximum(self.count, 1))

    @property
    def lost(self) -> NDArray[np.float64]:
        """Share of each that is NaN or infinite."""
        return 1 - self.count / np.maximum(self.total, 1)


@dataclass
class Seen:
    """Of the examples that were looked at, in their order.

    Attributes:
        prints: Of the entries of each example, shape (N,), by path, a batch an array.
        values: Of entries with one number for each example, likewise.
        rich: Whether an example is one that does not come twice by chance, shape (N,).
        epochs: The epoch of each batch.
        sizes: Examples in each batch.
        ranges: By path, of the entries with real numbers.
        bits: Information in the features of an example, by path.
        least: Values of an example that differ from the one before, at least, in a table of few columns, by path.
        alike: Correlation of an example's features with those of the next one, by path, a batch a number.
        apart: Whether a batch held anything besides rows of its examples, such as edges between them or texts.
        rows: Of tables, and steps of series, some of a batch, by path.

    """

    prints: list[dict[str, NDArray[np.int64]]] = field(default_factory=list)
    values: list[dict[str, NDArray[Any]]] = field(default_factory=list)
    rich: list[NDArray[np.bool_]] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    ranges: dict[str, Range] = field(default_factory=dict)
    bits: dict[str, float] = field(default_factory=dict)
    least: dict[str, int] = field(default_factory=dict)
    alike: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    apart: bool = False
    rows: defaultdict[str, list[NDArray[np.float32]]] = field(default_factory=lambda: defaultdict(list))


@dataclass
class Glance:
    """The same of one batch, where the batch is: nothing waits for an accelerator."""

    epoch: int
    size: int
    prints: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)
    changes: dict[str, Tensor] = field(default_factory=dict)
    columns: dict[str, Tensor] = field(default_factory=dict)
    sample: dict[str, Tensor] = field(default_factory=dict)
    steps: dict[str, Tensor] = field(default_factory=dict)
    missing: dict[str, Tensor] = field(default_factory=dict)
    texts: set[str] = field(default_factory=set)
    apart: bool = False


@torch.no_grad()
def glance(batch: Any, examples: int, epoch: int, *, measured: bool) -> Glance:
    """Look at a batch without changing anything in it.

    Args:
        batch: As ``training_step`` will receive it.
        examples: Size of dimension 0 of what holds a row for each example; all else is left alone.
        epoch: The present epoch, from 0 on; of later ones only what tells the examples apart is of use.
        measured: Whether ranges are measured, too.

    Example:
        >>> seen = glance({"x": torch.ones(4, 3), "y": torch.arange(4)}, 4, 0, measured=True)
        >>> list(seen.prints), seen.values, seen.columns["batch.x"].shape
        (['batch.x', 'batch.y'], {'batch.y': tensor([0, 1, 2, 3])}, torch.Size([6, 3]))

    """
    made = Glance(epoch, examples)
    found = [(path, plain(tensor.detach())) for path, tensor in tensors(batch, "batch")]
    rows = [(path, t) for path, t in found if t.ndim and len(t) == examples and t.layout is torch.strided]
    made.apart = len(rows) < len(found) or len(rows) > ENTRIES or holds(batch, str, np.ndarray)
    for path, tensor in rows[:ENTRIES]:
        if tensor.is_complex() or tensor.is_quantized or not tensor.numel():
            continue
        flat = tensor.reshape(examples, -1)
        flat = flat[:, :: math.ceil(flat.shape[1] / VALUES)]
        real = tensor.is_floating_point()
        if epoch == 0 and (real or tensor.dtype is torch.uint8):
            gap = math.ceil(flat.shape[1] / COMPARED)
            made.changes[path] = (flat[:, 1::gap] != flat[:, :-1:gap]).sum(1)
            if measured:
                _measure(made, path, tensor, flat)
        if flat.shape[1] == 1 and tensor.dtype is not torch.uint8:
            made.values[path] = flat[:, 0] if real else flat[:, 0].long()
        made.prints[path] = made.values[path] if path in made.values and not real else fingerprints(flat)
    if made.apart and (read := list(texts(batch, examples))):
        for path, lines in read[:ENTRIES]:
            made.prints[path] = torch.tensor([int.from_bytes(_of_text(line), signed=True) for line in lines])
            made.changes[path] = torch.tensor([max(len(line.split()) - 1, len(line) // LETTERS) for line in lines])
            made.texts.add(path)
        others = strings(batch) > len(read) * examples or holds(batch, np.ndarray)
        made.apart = others or len(rows) < len(found) or len(rows) > ENTRIES
    return made


def _of_text(line: str) -> bytes:
    return digest(line[:CHARACTERS].encode(errors="replace"))


def texts(structure: Any, examples: int, path: str = "batch", depth: int = 0) -> Iterator[tuple[str, list[str]]]:
    """The lists that hold a text for each example.

    Example:
        >>> list(texts({"text": ["a", "b"], "label": torch.ones(2), "split": "train"}, 2))
        [('batch.text', ['a', 'b'])]

    """
    if isinstance(structure, list | tuple) and structure and all(isinstance(one, str) for one in structure):
        if len(structure) == examples:
            yield path, list(structure)
    elif depth < MAX_DEPTH:
        for key, value in children(structure):
            yield from texts(value, examples, path + (f"[{key}]" if isinstance(key, int) else f".{key}"), depth + 1)


def strings(structure: Any, depth: int = 0) -> int:
    """How many texts there are in all.

    Example:
        >>> strings({"text": ["a", "b"], "split": "train"})
        3

    """
    if isinstance(structure, str):
        return 1
    return sum(strings(value, depth + 1) for _, value in children(structure)) if depth < MAX_DEPTH else 0


def _measure(made: Glance, path: str, tensor: Tensor, flat: Tensor) -> None:
    made.sample[path] = flat[:LOOKED, :: max(1, flat.shape[1] // LOOKED)][:, :LOOKED].float()
    columns = by_channel(tensor).float()
    if tensor.ndim == 3 and tensor.shape[1] > 4 and columns.shape[1] == tensor.shape[2]:  # noqa: PLR2004 - series
        spread = (torch.arange(LOOKED, device=columns.device) * GOLDEN % 1 * len(columns)).long()
        made.steps[path] = columns[spread]
    finite = columns.isfinite()
    count = finite.sum(0)
    known = columns.where(finite, columns.new_zeros(()))
    mean = known.sum(0) / count.clamp(min=1)
    variance = ((columns - mean).square().where(finite, columns.new_zeros(()))).sum(0) / count.clamp(min=1)
    low = columns.where(finite, columns.new_full((), math.inf)).amin(0)
    high = columns.where(finite, columns.new_full((), -math.inf)).amax(0)
    made.columns[path] = torch.stack([torch.full_like(mean, len(columns)), count.to(mean), mean, variance, low, high])
    made.missing[path] = (~flat.isfinite()).sum()


def by_channel(tensor: Tensor) -> Tensor:
    """Rows of the features or channels of a tensor that starts with its examples; all as one if they are many.

    Example:
        >>> [tuple(by_channel(torch.zeros(shape)).shape) for shape in ((4, 30), (4, 3, 8, 8), (4, 50, 5), (4,))]
        [(4, 30), (256, 3), (200, 5), (4, 1)]

    """
    if tensor.ndim <= 2:  # noqa: PLR2004
        return tensor.reshape(len(tensor), -1)[:, :COLUMNS]
    images = tensor.shape[1] <= 4  # noqa: PLR2004 - channels of images, or features of time steps
    places = tensor.flatten(2).movedim(1, 2) if images else tensor.flatten(1, -2)
    places = places[:, :: math.ceil(len(tensor) * places.shape[1] / MEASURED)]
    size = places.shape[2]
    return places.reshape(-1, size if size <= CHANNELS else 1)


def fingerprints(rows: Tensor) -> Tensor:
    """A number of 64 bits for each row of shape (N, D): equal for equal rows, and for hardly any others.

    Example:
        >>> a, b, c = fingerprints(torch.tensor([[0.5, 1.0], [1.0, 0.5], [0.5, 1.0]])).tolist()
        >>> a == c, a == b
        (True, False)

    """
    if rows.dtype is torch.uint8:  # eight at a time: one by one it takes 30 times as long
        rows = F.pad(rows, (0, -rows.shape[1] % 8)).contiguous().view(torch.int64)
    elif rows.is_floating_point():
        rows = rows.contiguous().view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[rows.itemsize])
    words = rows.long()
    if rows.dtype is torch.int64:  # what differs in the highest bits only would have hardly any left in a product
        words = _folded(_folded(words) * -7046029254386353131)
    return _folded((words * _places(rows.shape[1], rows.device)).sum(1))


@lru_cache(maxsize=2 * ENTRIES)  # else half of what a label or a short row costs
def _places(count: int, device: torch.device) -> Tensor:
    place = torch.arange(1, count + 1, device=device) * -7046029254386353131
    place = (place ^ (place >> 29)) * -4658895280553007687
    return (place ^ (place >> 32)) | 1


def _folded(words: Tensor) -> Tensor:
    """The upper half on the lower one, which is reversible."""
    return words ^ ((words >> 32) & 0xFFFFFFFF)


def add(seen: Seen, one: Glance) -> None:
    """Take in a batch, from where it is: this waits for an accelerator."""
    seen.prints.append({path: values.cpu().numpy() for path, values in one.prints.items()})
    seen.values.append({path: as_array(values.cpu()) for path, values in one.values.items()})
    seen.epochs.append(one.epoch)
    seen.sizes.append(one.size)
    seen.apart |= one.apart
    for path, columns in one.columns.items():
        part = Range.of(columns.double().cpu().numpy(), float(one.missing[path]))
        if path not in seen.ranges:
            seen.ranges[path] = part
        elif seen.ranges[path].mean.shape == part.mean.shape:
            seen.ranges[path].add(part)
        sample = one.sample[path].cpu().numpy()
        seen.alike[path].append(alike(sample))
        if sample.shape[1] == part.mean.size:  # a table, with all its columns
            if not seen.rows[path] or seen.rows[path][0].shape[1] == sample.shape[1]:  # not of as many nodes each time
                seen.rows[path].append(sample)
            seen.least[path] = min(CHANGES, max(NARROW, sample.shape[1]) - 1)
        elif path in one.steps:
            steps = one.steps[path].cpu().numpy()
            filled = (steps != steps[:, :1]).any(1) if steps.shape[1] > 1 else steps[:, 0] != 0
            seen.rows[path].append(steps[filled])  # the others are padding, it may be
        if path not in seen.bits:
            seen.bits[path] = information(sample)
    rich = [
        changes.cpu().numpy() >= seen.least.get(path, CHANGES)
        for path, changes in one.changes.items()
        if seen.bits.get(path, 0) >= BITS or path in one.texts
    ]
    seen.rich.append(np.any(rich, axis=0) if rich else np.zeros(one.size, bool))


def as_array(values: Tensor) -> NDArray[Any]:
    """Numbers of any dtype on the host, real ones in double precision."""
    return (values.double() if values.is_floating_point() else values).numpy()


def alike(sample: NDArray[np.float32]) -> float:
    """Correlation of features of shape (N, D) with those of the next example, on average: near 1 along a series.

    Example:
        >>> alike(np.arange(100.0)[:, None]) > 0.9, alike(np.cos(np.arange(100.0) ** 2)[:, None]) > 0.5
        (True, False)

    """
    centred = sample - sample.mean(0)
    squares = (centred**2).sum(0)
    centred, squares = centred[:, squares > 0], squares[squares > 0]
    return float(((centred[1:] * centred[:-1]).sum(0) / squares).mean()) if len(squares) else 0.0


def information(sample: NDArray[np.float32]) -> float:
    """Bits in the features of shape (N, D), taken one by one: of each, how rarely two examples have the same value.

    Of many examples by the pairs of them that have, and three more, which there may be where none is seen.

    Example:
        >>> information(np.array([[0.0, 1.0], [1.0, 1.0]], np.float32))
        1.0
        >>> information(np.arange(64.0)[:, None]) > 9
        True

    """
    bits, pairs = 0.0, len(sample) * (len(sample) - 1) / 2
    for column in sample.T:
        counts = np.unique(column, return_counts=True)[1]
        same = float(((counts / len(column)) ** 2).sum())
        seen = (float((counts * (counts - 1)).sum() / 2) + UNSEEN) / max(pairs, 1.0)
        bits -= math.log2(min(same, seen))
    return bits
