"""What a tensor is, told from its shape, dtype and values: images, sequences, token ids, rows of a table, ...

Nothing but the tensor is known, so some shapes have two readings. Then the likelier one is taken, and the other is
named as a doubt for the reader to see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

PIXELS = (1, 3, 4)
"""Numbers of channels that are taken for grey, RGB, and RGB with one more."""
SMOOTH = 0.75
"""Neighbours in an image or a signal differ by less than this, in units of what independent values differ by.
Measured: 8 x 8 digits 0.54 to 0.84, noisy sines 0.1 to 0.5; independent features 1.0."""
SQUARE_SMOOTH = 0.95
"""The same, for what is square as well."""
AUDIO_LENGTH = 2000
"""Samples; a quarter of a second at 8 kHz, the lowest rate in common use."""
MIN_SIDE = 8
"""Pixels; anything smaller is not taken for an image that has no channel dimension."""
COORDINATES = (3, 6)
"""Numbers of a point in space, perhaps with its normal or colour."""
MIN_POINTS = 64
"""Points of a cloud at least; they are in no order, so neighbours differ as independent values do."""
MASK_CLASSES = 64
"""Integer maps with fewer values are class maps; ADE20K's 150 classes seldom all meet in one batch."""
_EXAMPLES, _LENGTH = 16, 4096  # what the values are judged by


class Kind(StrEnum):
    """What a person of the field would call the tensor, in the plural."""

    IMAGE = "images"
    BANDS = "many-channel images"
    VOLUME = "volumes"
    MASK = "masks"
    SEQUENCE = "sequences"
    AUDIO = "audio signals"
    POINTS = "point clouds"
    GRAPH = "edges of a graph"
    TOKENS = "rows of token ids"
    TABULAR = "rows"
    OTHER = "values"


@dataclass(frozen=True)
class Reading:
    """How a tensor is read.

    Attributes:
        kind: What it is.
        axes: A letter for each dimension: N example, C channel, D depth (or time of a clip), H height, W width,
            T time, F feature. Empty when the kind is `OTHER`.
        doubt: The other reading that fits as well, or nothing.
        fold: The shape in which an example is to be viewed first; for images that came flattened.

    """

    kind: Kind
    axes: str = ""
    doubt: str = ""
    fold: tuple[int, ...] = ()


def recognise(tensor: Tensor, examples: int | None = None) -> Reading:
    """The likeliest reading of `tensor`.

    Args:
        tensor: Any tensor, of any shape and dtype.
        examples: Examples in the batch. A tensor of another leading size holds something else (edges of a graph,
            one vector for all), and is not read further.

    Example:
        >>> recognise(torch.rand(16, 3, 32, 32)).axes, recognise(torch.rand(16, 32, 32, 3)).axes
        ('NCHW', 'NHWC')
        >>> recognise(torch.randint(5000, (16, 40))).kind
        <Kind.TOKENS: 'rows of token ids'>
        >>> recognise(torch.rand(8, 3, 32, 3)).doubt
        'also reads as channels-last'

    """
    plain = tensor.layout is torch.strided and not (tensor.is_complex() or tensor.is_quantized or tensor.is_nested)
    if plain and examples is not None and _are_edges(tensor, examples):
        return Reading(Kind.GRAPH)
    if not plain or tensor.numel() == 0 or examples not in {None, tensor.shape[0] if tensor.ndim else None}:
        return Reading(Kind.OTHER)
    read = {2: _two, 3: _three, 4: _four, 5: _five}.get(tensor.ndim)
    return read(tensor) if read else Reading(Kind.OTHER)


def _are_edges(tensor: Tensor, nodes: int) -> bool:
    """Whether these are pairs of numbers of nodes, as graph libraries give them: two rows."""
    pairs = tensor.dtype is torch.int64 and tensor.ndim == 2 and tensor.shape[0] == 2 != nodes and tensor.numel() > 0  # noqa: PLR2004
    return pairs and int(tensor.min()) >= 0 and int(tensor.max()) < nodes


def _five(tensor: Tensor) -> Reading:
    _, one, two, _, last = tensor.shape
    if one not in PIXELS and two in PIXELS:
        return Reading(Kind.VOLUME, "NDCHW")
    if one not in PIXELS and last in PIXELS:
        return Reading(Kind.VOLUME, "NDHWC")
    doubt = "also reads as (N, D, C, H, W)" if one in PIXELS and two in PIXELS else ""
    return Reading(Kind.VOLUME, "NCDHW", doubt)


def _four(tensor: Tensor) -> Reading:
    _, one, two, last = tensor.shape
    last_is_channels = last in PIXELS and one not in PIXELS
    if one in PIXELS or last_is_channels:
        axes = "NHWC" if last_is_channels else "NCHW"
        doubt = "also reads as channels-last" if one in PIXELS and last in PIXELS and two > 1 else ""
        channels = last if last_is_channels else one
        if tensor.dtype is torch.bool or (channels == 1 and _is_class_map(tensor)):
            return Reading(Kind.MASK, axes, doubt)
        return Reading(Kind.IMAGE, axes, doubt)
    if last < one == two:
        return Reading(Kind.BANDS, "NHWC", f"also reads as images of {one} channels, channels first")
    if max(two, last) <= 2 * one and one >= 2 * MIN_SIDE and last >= MIN_SIDE:
        return Reading(Kind.VOLUME, "NDHW", f"also reads as images of {one} channels")
    return Reading(Kind.BANDS, "NCHW")


def _three(tensor: Tensor) -> Reading:
    count, one, two = tensor.shape
    sides = min(one, two) >= MIN_SIDE
    if one <= PIXELS[1] and _is_audio(tensor.flatten(0, 1)):
        return Reading(Kind.AUDIO, "NCT")
    if sides and (tensor.dtype is torch.bool or _is_class_map(tensor)):
        return Reading(Kind.MASK, "NHW")
    along_one, along_two = roughness(tensor, 1), roughness(tensor, 2)
    rougher = max(along_one, along_two)
    square = one == two and (one >= 2 * MIN_SIDE or rougher < SQUARE_SMOOTH)
    if sides and (tensor.dtype is torch.uint8 or rougher < SMOOTH or square):
        doubt = "also reads as (time, feature)"
        if count in PIXELS:
            doubt = f"also reads as one image of {count} channels" if count > 1 else "perhaps one image without a batch"
        return Reading(Kind.IMAGE, "NHW", "" if tensor.dtype is torch.uint8 and count not in PIXELS else doubt)
    if tensor.is_floating_point() and max(one, two) >= MIN_POINTS and {one, two} & {*COORDINATES}:
        axes, rough = ("NTF", along_one) if two in COORDINATES else ("NFT", along_two)
        if rough > SQUARE_SMOOTH:
            return Reading(Kind.POINTS, axes, "also reads as sequences")
    if along_one < SMOOTH * along_two or (two < MIN_SIDE // 2 and one > two):
        return Reading(Kind.SEQUENCE, "NTF")
    if along_two < SMOOTH * along_one or (one < MIN_SIDE // 2 and two > one):
        return Reading(Kind.SEQUENCE, "NFT")
    return Reading(Kind.SEQUENCE, "NTF", "also reads as (N, feature, time)")


def _two(tensor: Tensor) -> Reading:
    _, width = tensor.shape
    if _is_audio(tensor):
        return Reading(Kind.AUDIO, "NT")
    if tensor.dtype is torch.bool:
        return Reading(Kind.TABULAR, "NF")
    fold = _folded(tensor)
    if fold:
        shape = " x ".join(map(str, fold))
        return Reading(Kind.IMAGE, "NCHW"[: 1 + len(fold)] if len(fold) > 2 else "NHW", f"flat, read as {shape}", fold)  # noqa: PLR2004
    if not tensor.is_floating_point() and tensor.dtype is not torch.uint8:
        low, high = (int(value) for value in tensor.aminmax())
        if width >= MIN_SIDE // 2 and high > 1 and low >= -100:  # noqa: PLR2004 - -100 is torch's ignore_index
            return Reading(Kind.TOKENS, "NT", "also reads as categorical columns" if width < 2 * MIN_SIDE else "")
        return Reading(Kind.TABULAR, "NF")
    if width >= 2 * MIN_SIDE and roughness(tensor, 1) < SMOOTH:
        return Reading(Kind.SEQUENCE, "NT", "also reads as rows of features")
    return Reading(Kind.TABULAR, "NF")


def roughness(tensor: Tensor, dim: int, lag: int = 1) -> float:
    """How much values `lag` apart along `dim` differ, in units of what independent values would differ by.

    Returns:
        About 1 for independent values, near 0 for smooth ones; 1 where there is too little to tell.

    Example:
        >>> time = torch.linspace(0, 6.28, 100)
        >>> roughness(time.sin()[None], 1) < 0.1
        True

    """
    values = tensor[:_EXAMPLES].narrow(dim, 0, min(tensor.shape[dim], _LENGTH)).float().nan_to_num(0, 0, 0)
    length = values.shape[dim]
    if length < lag + 3:  # too few pairs
        return 1.0
    apart = (values.narrow(dim, lag, length - lag) - values.narrow(dim, 0, length - lag)).square().mean()
    independent = 2 * values.var(dim).mean()
    return float((apart / independent).sqrt()) if independent > 0 else 1.0


def _folded(tensor: Tensor) -> tuple[int, ...]:
    """The shape of the square image that rows of `tensor` are when unrolled, or nothing.

    The pixel below lies one image row further on, and resembles more than what lies half a row beyond that, about
    as much as the next pixel does. In a signal the next value resembles far more.
    """
    width = tensor.shape[1]
    for channels in (1, 3):
        side = math.isqrt(width // channels)
        if side >= MIN_SIDE and side * side * channels == width:
            next_to, below, between = (roughness(tensor, 1, lag) for lag in (1, side, side + side // 2))
            if below < SMOOTH * between and next_to > below / 2:
                return (side, side) if channels == 1 else (channels, side, side)
    return ()


def _is_audio(signal: Tensor) -> bool:
    if signal.shape[1] < AUDIO_LENGTH or signal.dtype in {torch.bool, torch.uint8}:
        return False
    values = signal[:_EXAMPLES, :_LENGTH].float()
    low, high, mean, deviation = values.min(), values.max(), values.mean(), values.std()
    centred = bool(low < 0 < high and mean.abs() < 0.2 * deviation)
    return centred and (float(max(-low, high)) <= 1 or signal.dtype is torch.int16 or roughness(signal, 1) < SMOOTH)


def _is_class_map(tensor: Tensor) -> bool:
    """Whether these are integers of few values, other than pixels of 8 bits."""
    if tensor.is_floating_point() or tensor.dtype is torch.uint8:
        return False
    return len(present(tensor[:_EXAMPLES])) < MASK_CLASSES


def present(integers: Tensor) -> list[int]:
    """The values that occur, in order; at most 4096 of values that lie far apart.

    Example:
        >>> present(torch.tensor([3, 255, 3, -100]))
        [-100, 3, 255]

    """
    low, high = (int(value) for value in integers.long().aminmax()) if integers.numel() else (0, 0)
    if high - low >= _LENGTH:  # sorting takes ten times as long as counting
        return [int(value) for value in integers.unique()[:_LENGTH]]
    counts = torch.bincount((integers.long() - low).flatten())
    return [low + int(value) for value in counts.nonzero().flatten()]
