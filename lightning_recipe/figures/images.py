"""Images, volumes and masks as thumbnails: every pixel drawn is a value of the tensor."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from lightning_recipe.figures.axes import Axis, around
from lightning_recipe.figures.canvas import COLOURS, GREY, LINE, WIDTH, WRONG, rgb, text_width
from lightning_recipe.figures.captions import Caption, captions, notes
from lightning_recipe.figures.grid import layout, lines_of, mosaic, names_width, resized
from lightning_recipe.figures.kinds import Kind, Reading, present
from lightning_recipe.figures.picture import BODY, Box, Picture
from lightning_recipe.figures.scale import plain, span_of, statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from lightning_recipe.losses.targets import Answers

BROKEN = rgb(WRONG)
"""The colour of NaN."""
PAINTS = np.stack([rgb(colour) for colour in COLOURS[:7]])
"""The colours of classes 1, 2, ...; class 0 is left clear, or `BACKGROUND` where nothing is below it."""
BACKGROUND = np.array([217, 217, 217], np.uint8)
IGNORED = np.array([128, 128, 128], np.uint8)
"""The colour of what the loss leaves out."""
SQUARE = 18
"""Pixels of a side of a legend's square."""
BINS, BARS = 64, 56
"""Bars in a histogram of pixels, and their height in pixels."""
MAX_COUNTED = 2**16
"""Values in it; of larger images every second, third, ... row and column is taken."""
DENSE_ROOM = (BODY.width, BODY.height - LINE)
"""Where examples with class maps lie: above the legend."""


def images(
    picture: Picture,
    tensor: Tensor,
    reading: Reading,
    answers: Answers,
    span: tuple[float, float],
) -> list[list[Box]]:
    """Examples as thumbnails; dense targets and predictions painted over copies below them.

    Args:
        picture: To draw on.
        tensor: Images, many-channel images, volumes or masks, on any device.
        reading: How to read it.
        answers: What belongs to the examples.
        span: The values that black and white stand for.

    Returns:
        Where the thumbnails of each example lie.

    Example:
        >>> from lightning_recipe.losses.targets import Answers
        >>> from lightning_recipe.figures.kinds import recognise
        >>> grey, picture = torch.rand(4, 1, 8, 8), Picture("train image")
        >>> boxes = images(picture, grey, recognise(grey), Answers(torch.arange(4)), (0.0, 1.0))
        >>> picture.words[:4], boxes[0][0].width
        (['0', '1', '2', '3'], 152)

    """
    stack, names = _stack(tensor, reading)
    inputs = dict(zip(names, stack.unbind(1), strict=True))
    noted = [Caption(note=note) for note in notes(answers, len(stack))]
    if reading.kind is Kind.MASK:
        masks = {name: values[..., 0].long() for name, values in inputs.items()}
        return class_maps(picture, None, masks, None, made=noted)
    target, said = (_maps_like(answer, stack) for answer in (answers.target, answers.prediction))
    if target is not None or said is not None:
        maps = {name: values for name, values in (("true", target), ("said", said)) if values is not None}
        classes = {name: labels for name, values in maps.items() if (labels := classes_of(values)) is not None}
        if "true" in classes or (target is None and classes):
            return class_maps(picture, paint(stack[:, 0], span), classes, answers.ignored, made=noted)
        if target is not None and target.shape == stack[:, 0].shape and torch.equal(target.to(stack), stack[:, 0]):
            maps.pop("true")  # an autoencoder's
        return thumbnails(picture, {"input": stack[:, 0]} | maps, span, noted)
    return thumbnails(picture, inputs, span, captions(answers, len(stack)))


def pairs(picture: Picture, tensor: Tensor, reading: Reading, span: tuple[float, float], made: list[Caption]) -> None:
    """Images that come two by two, of training and of validation, below each other; of volumes the middle slice."""
    stack, _ = _stack(tensor, reading)
    middle = stack[:, stack.shape[1] // 2]
    thumbnails(picture, {"train": middle[::2], "val": middle[1::2]}, span, made)


def thumbnails(
    picture: Picture, strips: dict[str, Tensor], span: tuple[float, float], made: list[Caption]
) -> list[list[Box]]:
    """Images (n, h, w, c) below each other; maps with values beyond those of the first have their own range."""
    first = next(iter(strips.values()))
    count, height, width = first.shape[:3]
    plot = 0 if len(strips) > 1 else BARS + LINE
    room = (BODY.width - names_width(list(strips)), BODY.height)
    columns, cell = layout(count, height, width, len(strips), room=room, lines=lines_of(made))
    answer = strips.get("true", strips.get("said"))
    answer_span = span if answer is None else _span_within(answer, span)
    drawn = {}
    for name, values in strips.items():
        part = paint(resized(one_or_three(values), cell), answer_span if name in {"true", "said"} else span)
        drawn[name] = np.concatenate([part, np.full((count - len(part), *part.shape[1:]), 255, np.uint8)])
    boxes = mosaic(picture, list(drawn.items()), columns, made)
    if plot and boxes and BODY.bottom - max(row[-1].bottom for row in boxes) - LINE > plot:
        histogram_of_pixels(picture, first, span)
    return boxes


def _span_within(values: Tensor, span: tuple[float, float]) -> tuple[float, float]:
    measured = statistics(values)
    within = span[0] <= measured.low and measured.high <= span[1]
    return span if within else span_of(measured, values.dtype, Kind.IMAGE)


def class_maps(
    picture: Picture,
    under: NDArray[np.uint8] | None,
    strips: dict[str, Tensor],
    ignored: int | None,
    *,
    made: list[Caption] | None = None,
) -> list[list[Box]]:
    """Maps of classes (n, h, w) in their colours, over the images that they belong to if these are known.

    Where what is said differs from what is true, every other diagonal is black; not where the target is ignored.
    """
    count, height, width = next(iter(strips.values())).shape
    inputs = {"input": under} if under is not None and len(strips) == 1 else {}
    names = [*inputs, *strips]
    made = made or [Caption()] * count
    room = (BODY.width - names_width(names), DENSE_ROOM[1] - LINE * any(caption.note for caption in made))
    columns, cell = layout(count, height, width, len(names), room=room, lines=lines_of(made))
    small = None if under is None else resized(torch.from_numpy(under), cell).numpy()
    drawn: dict[str, NDArray[np.uint8]] = {"input": small} if inputs and small is not None else {}
    for name, labels in strips.items():
        classes = resized(labels, cell).cpu().numpy()
        drawn[name] = paint_classes(classes, ignored) if small is None else over(small, classes, ignored)
        if name == "said" and "true" in strips:
            true = resized(strips["true"], cell).cpu().numpy()[: len(classes)]
            drawn[name][(classes != true) & (true >= 0) & (true != ignored) & hatching(cell)] = 0
            picture.note = "hatched: wrong"
        short = count - len(drawn[name])
        drawn[name] = np.concatenate([drawn[name], np.full((short, *cell, 3), 255, np.uint8)])
    boxes = mosaic(picture, list(drawn.items()), columns, made)
    add_legend(picture, torch.cat([labels.flatten() for labels in strips.values()]), ignored)
    return boxes


def hatching(cell: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixels of a thumbnail lie on diagonals."""
    rows, columns = np.indices(cell)
    return (rows + columns) % 6 < 2  # noqa: PLR2004 - two of six pixels


def paint(values: Tensor, span: tuple[float, float]) -> NDArray[np.uint8]:
    """Values with 1 or 3 channels in the last dimension as RGB, from black to white; NaN in colour.

    Example:
        >>> paint(torch.tensor([[0.0], [0.5], [1.0], [9.0]]), (0.0, 1.0))[:, 0]
        array([  0, 128, 255, 255], dtype=uint8)

    """
    array = values.detach().cpu().double().numpy()
    low, high = span
    scaled = (array - low) / ((high - low) or 1.0)
    grey = np.rint(255 * np.clip(np.nan_to_num(scaled, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)).astype(np.uint8)
    colour = np.broadcast_to(grey, (*grey.shape[:-1], 3)).copy()
    colour[np.isnan(array).any(-1)] = BROKEN
    return colour


def paint_classes(classes: NDArray[np.int64], ignored: int | None) -> NDArray[np.uint8]:
    """Classes in their colours, shape (..., 3); class 0 is light grey."""
    left_out = (classes < 0) | (classes == ignored)
    coloured = np.where(left_out[..., None], IGNORED, PAINTS[(classes - 1) % len(PAINTS)])
    return np.where((classes == 0)[..., None], BACKGROUND, coloured)


def over(under: NDArray[np.uint8], classes: NDArray[np.int64], ignored: int | None) -> NDArray[np.uint8]:
    """Classes (n, h, w) painted over thumbnails, which shine through in grey; class 0 is left clear."""
    under = under[: len(classes)].mean(axis=-1, keepdims=True).astype(np.uint8).repeat(3, axis=-1)
    mixed = (0.4 * under + 0.6 * paint_classes(classes, ignored)).astype(np.uint8)
    return np.where((classes == 0)[..., None], under, mixed)


def histogram_of_pixels(picture: Picture, values: Tensor, span: tuple[float, float]) -> None:
    """How often shades occur, above a bar from black to white with the values that these stand for."""
    every = math.ceil((values.numel() / MAX_COUNTED) ** 0.5)
    flat = plain(values[:, ::every, ::every]).flatten().cpu().double().numpy()
    low, high = span
    x = Axis(low, high) if high > low else around([low])
    counts = np.histogram(flat[np.isfinite(flat)], BINS, (x.low, x.high))[0]
    bottom = BODY.bottom - LINE
    wide = BODY.width / BINS
    for i, count in enumerate(counts):
        up = 0 if not count else max(2, (BARS - 12) * (count / counts.max()) ** 0.5)
        bar = Box(BODY.left + i * wide, bottom - 10 - up, BODY.left + (i + 1) * wide - 1, bottom - 10)
        picture.fill(bar, rgb(COLOURS[0]))
    shades = np.linspace(0, 255, round(BODY.width)).astype(np.uint8)
    picture.paste(BODY.left, bottom - 8, np.broadcast_to(shades[None, :, None], (10, len(shades), 3)))
    if low < 0 < high:
        zero = BODY.left - low / (high - low) * BODY.width
        picture.draw([(zero, bottom - 10), (zero, bottom + 4)], WRONG, 2)
        if BODY.left + text_width("-0.00") < zero < BODY.right - text_width("0.00"):
            picture.write(zero, BODY.bottom - 2, "0", anchor="ms")
    picture.write(BODY.left, BODY.bottom - 2, f"{low:.4g}")
    picture.write(BODY.right, BODY.bottom - 2, f"{high:.4g}", anchor="rs")


def _stack(tensor: Tensor, reading: Reading) -> tuple[Tensor, list[str]]:
    """The tensor as (example, slice, height, width, channel) and the names of the slices; few channels are left."""
    if reading.fold:
        tensor = tensor.reshape(tensor.shape[0], *reading.fold)
    order = reading.axes
    for letter, place in (("N", 0), ("D", 1), ("H", 2), ("W", 3), ("C", 4)):
        if letter not in order:
            tensor, order = tensor.unsqueeze(-1), order + letter
        tensor = tensor.movedim(order.index(letter), place)
        order = order.replace(letter, "")
        order = order[:place] + letter + order[place:]
    depth, channels = tensor.shape[1], tensor.shape[4]
    names = [""]
    if "D" in reading.axes:
        picked = sorted({depth // 4, depth // 2, 3 * depth // 4})
        tensor = tensor[:, picked]
        names = [f"slice {i}" for i in picked]
    if channels not in {1, 3}:
        tensor = tensor[..., bands(channels)]
    return tensor, names


def bands(channels: int) -> list[int]:
    """The channels that are drawn as red, green and blue."""
    return {2: [0, 1, 1], 4: [0, 1, 2]}.get(channels, [0, channels // 2, channels - 1])


def _maps_like(answer: Tensor | None, stack: Tensor) -> Tensor | None:
    """An answer with a value for each pixel as (example, height, width, channel), or nothing."""
    count, slices, height, width, _ = stack.shape
    if answer is None or slices > 1 or height * width == 1:
        return None
    if answer.ndim == 2 and answer.shape[1] == height * width:  # noqa: PLR2004 - flattened for the loss
        answer = answer.reshape(-1, height, width)
    if answer.ndim == 3 and answer.shape[1:] == (height, width):  # noqa: PLR2004
        maps = answer[..., None]
    elif answer.ndim == 4 and answer.shape[2:] == (height, width):  # noqa: PLR2004
        maps = answer.movedim(1, -1)
    elif answer.ndim == 4 and answer.shape[1:3] == (height, width):  # noqa: PLR2004
        maps = answer
    else:
        return None
    return maps[:count]


def one_or_three(values: Tensor) -> Tensor:
    """The first three channels, or the first."""
    return values[..., :3] if values.shape[-1] >= 3 else values[..., :1]  # noqa: PLR2004


def classes_of(maps: Tensor) -> Tensor | None:
    """A class for each pixel, from integers or from zeros and ones; None if these are not classes."""
    if not maps.is_floating_point() or bool(((maps == 0) | (maps == 1)).all()):
        if maps.shape[-1] == 1:
            return maps[..., 0].long()
        if maps.is_floating_point() or maps.dtype is torch.bool:  # a channel for each class
            return torch.where(maps.amax(-1) > 0, maps.argmax(-1) + 1, 0)
    return None


def add_legend(picture: Picture, labels: Tensor, ignored: int | None) -> None:
    """A row of coloured squares at the bottom, with the classes that they stand for."""
    found = present(labels)
    entries = [(str(value), value) for value in found if value >= 0 and value != ignored][: 2 * len(PAINTS)]
    if any(value < 0 or value == ignored for value in found):
        entries.append(("ignored", -1))
    x, y = BODY.left, BODY.bottom - 4
    for name, value in entries:
        if x + SQUARE + text_width(name) + 40 > WIDTH:
            picture.write(x, y, "...", GREY)
            break
        square = Box(x, y - SQUARE, x + SQUARE, y)
        picture.fill(square, paint_classes(np.array(value), ignored))
        picture.write(x + SQUARE + 5, y - 2, name)
        x += SQUARE + text_width(name) + 20
