"""One tensor that entered a network as a card, and in a line of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lightning_recipe.figures.audio import audio
from lightning_recipe.figures.axes import ends
from lightning_recipe.figures.images import images
from lightning_recipe.figures.kinds import Kind
from lightning_recipe.figures.picture import Picture
from lightning_recipe.figures.points import clouds, graph
from lightning_recipe.figures.scale import PICTURED, Statistics, share, span_of, statistics
from lightning_recipe.figures.sequences import sequences
from lightning_recipe.figures.shapes import draw_shapes
from lightning_recipe.figures.tables import histogram, table
from lightning_recipe.figures.tokens import tokens
from lightning_recipe.finding import in_short

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from lightning_recipe.figures.kinds import Reading
    from lightning_recipe.figures.shapes import Format
    from lightning_recipe.losses.targets import Answers


def input_card(  # noqa: PLR0913
    name: str,
    tensor: Tensor,
    reading: Reading,
    answers: Answers,
    *,
    max_examples: int = 4,
    span: tuple[float, float] | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    decode: Callable[..., Any] | None = None,
    rate: float | None = None,
    names: Sequence[str] = (),
    box_format: Format | None = None,
    nodes: int = 0,
) -> Picture:
    """A tensor as a person of the field expects to see it.

    Args:
        name: What it is: the title.
        tensor: What entered the network, whole, on any device. Only what is drawn is copied from there.
        reading: How to read it.
        answers: Target and prediction of its examples.
        max_examples: Examples drawn at most.
        span: The values that black and white stand for, :func:`span_of` the tensor by default.
        mean: With `std`, undoes a normalisation of images: a value for each channel, or one for all.
        std: See `mean`.
        decode: Makes text of a list of token ids.
        rate: Samples per second, of sounds.
        names: Of the columns of a table.
        box_format: How boxes are written: ``"xyxy"``, ``"xywh"`` or ``"cxcywh"``; without it, as they fit.
        nodes: Of a graph whose edges `tensor` are.

    Example:
        >>> from lightning_recipe.losses.targets import Answers
        >>> from lightning_recipe.figures.kinds import recognise
        >>> batch = torch.zeros(2, 1, 8, 8)
        >>> card = input_card("train image", batch, recognise(batch), Answers())
        >>> card.title, card.note
        ('train image', 'black 0, white 1')

    """
    undone = undo(tensor, reading, mean, std)
    tensor = tensor if undone is None else undone
    span = span or span_of(statistics(tensor), tensor.dtype, reading.kind)
    picture = Picture(name)
    if reading.kind in PICTURED:
        picture.note = "black {}, white {}".format(*ends(*span)) + (", undone" if undone is not None else "")
    try:
        if reading.kind in {*PICTURED, Kind.MASK}:
            places = images(picture, tensor[:max_examples], reading, answers, span)
            draw_shapes(picture, [parts[0] for parts in places], answers, size_of(tensor, reading), box_format)
        elif reading.kind is Kind.SEQUENCE:
            sequences(picture, tensor[:max_examples], reading, answers, span)
        elif reading.kind is Kind.POINTS:
            clouds(picture, tensor[:max_examples], reading, answers, span)
        elif reading.kind is Kind.GRAPH:
            graph(picture, tensor, nodes, answers)
        elif reading.kind is Kind.AUDIO:
            audio(picture, tensor[:max_examples], answers, span, rate)
        elif reading.kind is Kind.TOKENS:
            tokens(picture, tensor, answers, decode, max_examples)
        elif reading.kind is Kind.TABULAR:
            table(picture, tensor, answers, span, names)
        else:
            histogram(picture, tensor)
    except Exception as error:  # noqa: BLE001 - a tensor that defies its kind still has values
        picture = Picture(name)
        histogram(picture, tensor)
        picture.note = f"not drawn as {reading.kind}: {in_short(error)}"
    return picture


def size_of(tensor: Tensor, reading: Reading) -> tuple[int, int]:
    """Height and width of images.

    Example:
        >>> from lightning_recipe.figures.kinds import recognise
        >>> photos = torch.zeros(2, 3, 20, 30)
        >>> size_of(photos, recognise(photos))
        (20, 30)

    """
    shape = (tensor.shape[0], *reading.fold) if reading.fold else tensor.shape
    return shape[reading.axes.index("H")], shape[reading.axes.index("W")]


def summary(name: str, tensor: Tensor, reading: Reading, measured: Statistics) -> str:
    """What a card shows, in one line.

    Example:
        >>> from lightning_recipe.figures.kinds import Reading
        >>> ones = torch.ones(32, 1, 8, 8)
        >>> summary("net.x", ones, Reading(Kind.IMAGE, "NCHW"), statistics(ones))
        'net.x: images (32, 1, 8, 8), float32, mean 1.00, std 0.00, 1 to 1'
        >>> ids = torch.tensor([[3, 1, 4, 1, 5]])
        >>> summary("net.x", ids, Reading(Kind.TOKENS, "NT"), statistics(ids))
        'net.x: rows of token ids (1, 5), int64, 1 to 5'

    """
    doubt = f" ({reading.doubt})" if reading.doubt else ""
    dtype = str(tensor.dtype).removeprefix("torch.")
    text = f"{name}: {reading.kind} {tuple(tensor.shape)}{doubt}, {dtype}"
    if reading.kind in {Kind.TOKENS, Kind.MASK}:  # names, not amounts
        text += f", {measured.low:.0f} to {measured.high:.0f}"
    else:
        form = ".2f" if abs(measured.mean) + measured.std < 1e6 else ".2g"  # noqa: PLR2004 - seven digits
        text += f", mean {measured.mean:{form}}, std {measured.std:{form}}, {measured.low:.3g} to {measured.high:.3g}"
    text += f", NaN {share(measured.nan)}" if measured.nan else ""
    return text + (f", inf {share(measured.inf)}" if measured.inf else "")


def input_span(
    tensor: Tensor, reading: Reading, measured: Statistics, mean: list[float] | None, std: list[float] | None
) -> tuple[float, float]:
    """The values that black and white are to stand for when `tensor` is drawn with these arguments.

    Example:
        >>> from lightning_recipe.figures.kinds import Reading
        >>> dark = torch.full((2, 1, 8, 8), -1.0)
        >>> input_span(dark, Reading(Kind.IMAGE, "NCHW"), statistics(dark), [0.5], [0.5])
        (0.0, 1.0)

    """
    undone = undo(tensor, reading, mean, std)
    if undone is not None:
        return span_of(statistics(undone), undone.dtype, reading.kind)
    return span_of(measured, tensor.dtype, reading.kind)


def undo(tensor: Tensor, reading: Reading, mean: list[float] | None, std: list[float] | None) -> Tensor | None:
    """``tensor * std + mean`` for each channel, or None if there is nothing to undo, or does not fit the channels.

    Example:
        >>> from lightning_recipe.figures.kinds import Reading
        >>> undo(torch.ones(1, 3, 8, 8), Reading(Kind.IMAGE, "NCHW"), [0.5], [0.25]).mean()
        tensor(0.7500)

    """
    if reading.kind not in PICTURED or (mean is None and std is None):
        return None
    values = tensor.float()
    if reading.fold:
        values = values.reshape(values.shape[0], *reading.fold)
    place = reading.axes.index("C") if "C" in reading.axes else None
    channels = values.shape[place] if place is not None else 1
    factors = []
    for numbers, neutral in ((std, 1.0), (mean, 0.0)):
        if numbers is not None and len(numbers) not in {1, channels}:
            return None
        shape = [1] * values.ndim
        if place is not None and numbers is not None:
            shape[place] = len(numbers)
        factors.append(torch.tensor([neutral] if numbers is None else numbers, device=values.device).reshape(shape))
    return (values * factors[0] + factors[1]).reshape(tensor.shape)
