"""Images, volumes and masks as an array of thumbnails: every pixel drawn is a value of the tensor."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.colors import to_rgb

from lightning_recipe.figures.canvas import COLOURS
from lightning_recipe.figures.captions import Caption, captions, legend
from lightning_recipe.figures.kinds import Kind, Reading, present
from lightning_recipe.figures.picture import WIDTH, Picture, Text, blank, shortened, text_width

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from lightning_recipe.losses.targets import Answers

GAP = 4
"""Pixels between thumbnails."""
CAPTION = 15
"""Pixels of the line below one."""
MAX_HEIGHT = 480
"""Pixels of all rows of thumbnails together."""
MAX_PARTED = 4
"""Examples shown when each takes several thumbnails: slices, or maps of target and prediction beside it."""
BROKEN = np.array([round(255 * part) for part in to_rgb(COLOURS[3])], np.uint8)
"""The colour of NaN."""
PAINTS = np.array([[round(255 * part) for part in to_rgb(colour)] for colour in COLOURS[:7]], np.uint8)
"""The colours of classes 1, 2, ...; class 0 is left clear."""
IGNORED = np.array([128, 128, 128], np.uint8)
"""The colour of what the loss leaves out."""
SQUARE = 10
"""Pixels of a side of a legend's square."""


def images(tensor: Tensor, reading: Reading, answers: Answers, span: tuple[float, float], max_examples: int) -> Picture:
    """Examples as thumbnails; dense targets and predictions painted over copies beside them.

    Args:
        tensor: Images, many-channel images, volumes or masks, on any device.
        reading: How to read it.
        answers: What belongs to the examples.
        span: The values that black and white stand for.
        max_examples: Examples drawn at most.

    Example:
        >>> from lightning_recipe.losses.targets import Answers
        >>> from lightning_recipe.figures.kinds import recognise
        >>> grey = torch.rand(4, 1, 8, 8)
        >>> picture = images(grey, recognise(grey), Answers(torch.arange(4)), (0.0, 1.0), 16)
        >>> picture.raster.shape[1], [text.text for text in picture.texts]
        (350, ['0', '1', '2', '3'])

    """
    stack, notes = _stack(tensor[:max_examples], reading)
    is_mask = reading.kind is Kind.MASK
    target = None if is_mask else _map_like(answers.target, stack)
    if stack.shape[1] > 1 or target is not None:
        stack = stack[:MAX_PARTED]
    maps = [m for m in (target, None if target is None else _map_like(answers.prediction, stack)) if m is not None]
    count, slices, height, width, _ = stack.shape
    columns, cell = layout(count, height, width, slices + len(maps))
    if cell[0] < height or cell[1] < width:
        notes.append(f"{height} x {width} drawn as {cell[0]} x {cell[1]}")
    if count < tensor.shape[0]:
        notes.append(f"{count} of {tensor.shape[0]} shown")
    small = resized(stack, cell)
    drawn = paint_mask(small, answers.ignored) if is_mask else paint(small, span)
    strips = [drawn[:, i] for i in range(slices)]
    labels = stack[..., 0] if is_mask else _labels(maps[0][:count]) if maps else None
    for answer in maps:
        part = resized(answer[:count], cell)[:, 0]
        classes = _labels(part) if labels is not None else None
        strip = over(strips[0], classes, answers.ignored) if classes is not None else paint(_one_or_three(part), span)
        strips.append(np.concatenate([strip, np.full((count - len(strip), *strip.shape[1:]), 255, np.uint8)]))
    made = [Caption()] * count if maps else captions(answers, count)
    picture = mosaic(side_by_side(strips), columns, made)
    if labels is not None:
        add_legend(picture, labels, answers.ignored)
    if small.is_floating_point() and bool(small.isnan().any()):
        notes.append("NaN in orange")
    beside = "left to right: input, target" + (", prediction" if len(maps) > 1 else "")
    picture.notes = [*notes, beside if maps else legend(answers, made)]
    return picture


def layout(count: int, height: int, width: int, parts: int = 1) -> tuple[int, tuple[int, int]]:
    """Columns of examples, and the pixels (height, width) of a thumbnail; whole multiples if it grows.

    Example:
        >>> layout(16, 28, 28)
        (4, (84, 84))

    """
    best = (0.0, 1)
    for columns in range(1, max(1, count) + 1):
        room_x = ((WIDTH + GAP) / columns - GAP * parts) / parts
        room_y = MAX_HEIGHT / math.ceil(max(1, count) / columns) - CAPTION
        zoom = min(room_x / max(1, width), room_y / max(1, height))
        best = max(best, (math.floor(zoom) if zoom >= 1 else zoom, columns))
    zoom, columns = best
    return columns, (max(1, int(height * zoom)), max(1, int(width * zoom)))


def resized(stack: Tensor, cell: tuple[int, int]) -> Tensor:
    """Dimensions 2 and 3 at the size of `cell`, by picking and repeating values: none is made up."""
    rows, columns = (
        (torch.arange(new, device=stack.device) * old).div(new, rounding_mode="floor")
        for new, old in zip(cell, stack.shape[2:4], strict=True)
    )
    return stack.index_select(2, rows).index_select(3, columns)


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


def paint_mask(labels: Tensor, ignored: int | None) -> NDArray[np.uint8]:
    """Class maps of shape (..., 1) in the colours of their classes; class 0 is white."""
    classes = labels[..., 0].detach().cpu().numpy().astype(np.int64)
    return np.where((classes == 0)[..., None], np.uint8(255), _colours(classes, ignored))


def over(under: NDArray[np.uint8], labels: Tensor, ignored: int | None) -> NDArray[np.uint8]:
    """Classes (n, h, w) painted over thumbnails, which shine through in grey; class 0 is left clear."""
    classes = labels.cpu().numpy()
    under = under[: len(classes)].mean(axis=-1, keepdims=True).astype(np.uint8).repeat(3, axis=-1)
    mixed = (0.4 * under + 0.6 * _colours(classes, ignored)).astype(np.uint8)
    return np.where((classes == 0)[..., None], under, mixed)


def side_by_side(strips: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Thumbnails (n, h, w, 3) of the same examples in one row each, with a gap between them."""
    count, height = strips[0].shape[:2]
    gap = np.full((count, height, GAP // 2, 3), 255, np.uint8)
    joined = [piece for strip in strips for piece in (strip, gap)][:-1]
    return np.concatenate(joined, axis=2)


def mosaic(cells: NDArray[np.uint8], columns: int, labels: list[Caption]) -> Picture:
    """Thumbnails (n, h, w, 3) in rows, each with its label below."""
    count, height, width = cells.shape[:3]
    below = CAPTION if any(label.text for label in labels) else 0
    rows = math.ceil(count / columns)
    raster = blank(max(1, rows * (height + below + GAP) - GAP), max(WIDTH, columns * (width + GAP) - GAP))[:, :WIDTH]
    texts = []
    for i, (cell, label) in enumerate(zip(cells, labels, strict=True)):
        y, x = (i // columns) * (height + below + GAP), (i % columns) * (width + GAP)
        place = raster[y : y + height, x : x + width]
        place[...] = cell[: place.shape[0], : place.shape[1]]
        if label.text:
            texts.append(Text(x, y + height + below - 3, shortened(label.text, max(width, 20)), label.colour))
    return Picture(raster, texts)


def _stack(tensor: Tensor, reading: Reading) -> tuple[Tensor, list[str]]:
    """The tensor as (example, slice, height, width, channel), the channels cut to those that are drawn."""
    notes: list[str] = []
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
    if "D" in reading.axes:
        picked = sorted({depth // 4, depth // 2, 3 * depth // 4})
        tensor = tensor[:, picked]
        notes.append(f"slices {', '.join(map(str, picked))} of {depth} in dimension {reading.axes.index('D')}")
    if channels not in {1, 3}:
        bands = [0, 1, 1] if channels == 2 else [0, 1, 2] if channels == 4 else [0, channels // 2, channels - 1]  # noqa: PLR2004
        tensor = tensor[..., bands]
        notes.append(f"channels {', '.join(map(str, bands))} of {channels} as red, green, blue")
    return tensor, notes


def _map_like(answer: Tensor | None, stack: Tensor) -> Tensor | None:
    """An answer with a value for each pixel as (example, 1, height, width, channel), or nothing."""
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
    return maps[:count, None]


def _one_or_three(values: Tensor) -> Tensor:
    return values[..., :3] if values.shape[-1] >= 3 else values[..., :1]  # noqa: PLR2004


def _labels(maps: Tensor) -> Tensor | None:
    """A class for each pixel, from integers or from zeros and ones; None if these are not classes."""
    if not maps.is_floating_point() or bool(((maps == 0) | (maps == 1)).all()):
        if maps.shape[-1] == 1:
            return maps[..., 0].long()
        if maps.is_floating_point() or maps.dtype is torch.bool:  # a channel for each class
            return torch.where(maps.amax(-1) > 0, maps.argmax(-1) + 1, 0)
    return None


def _colours(classes: NDArray[np.int64], ignored: int | None) -> NDArray[np.uint8]:
    left_out = (classes < 0) | (classes == ignored)
    return np.where(left_out[..., None], IGNORED, PAINTS[(classes - 1) % len(PAINTS)])


def add_legend(picture: Picture, labels: Tensor, ignored: int | None) -> None:
    """Rows of coloured squares below the picture, with the classes that they stand for."""
    found = present(labels)
    entries = [(f"{value}", value) for value in found if value >= 0 and value != ignored][: 2 * len(PAINTS)]
    if any(value < 0 or value == ignored for value in found):
        entries.append(("ignored", -1))
    more = len(found) - len(entries)
    x, y = 0, picture.raster.shape[0] + CAPTION - 3
    picture.raster = np.concatenate([picture.raster, blank(CAPTION + GAP)])
    for name, value in [("class", 0), *entries, *([(f"and {more} more", 0)] if more > 0 else [])]:
        wide = round(text_width(name)) + 3 * GAP + SQUARE
        if x + wide > WIDTH:
            x, y = 0, y + CAPTION
            picture.raster = np.concatenate([picture.raster, blank(CAPTION)])
        if name[0] in "0123456789i":
            square = picture.raster[y - SQUARE : y, x : x + SQUARE]
            square[...] = 0 if value == 0 else _colours(np.array(value), ignored)
            if value == 0:
                square[1:-1, 1:-1] = 255
            x, wide = x + SQUARE + GAP, wide - SQUARE - GAP
        picture.texts.append(Text(x, y, name))
        x += wide
