"""Boxes and keypoints, drawn in the images that they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lightning_recipe.figures.canvas import COLOURS, WRONG
from lightning_recipe.figures.picture import Box

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from lightning_recipe.figures.picture import Picture
    from lightning_recipe.losses.targets import Answers

Format = Literal["xyxy", "xywh", "cxcywh"]
FORMATS: tuple[Format, ...] = ("xyxy", "xywh", "cxcywh")
"""Two corners; the upper left corner and the size; the centre and the size."""
TRUE = COLOURS[6]
"""The colour of targets in an image, and its black edge: seen on any ground."""
MOST = 20
"""Boxes, or keypoints, drawn in an image."""
NEGATIVE = 0.1
"""Share of the points with a negative coordinate from which on these do not lie beyond the image."""
LIKELY = 0.8
"""Share of rows of four numbers that have to look like boxes."""
SLACK = 0.02
"""Share of the image that a box may leave it by, from rounding."""
SMALLEST = 8
"""Pixels on the card below which nobody sees a frame: a dash of it."""


def draw_shapes(
    picture: Picture, places: Sequence[Box], answers: Answers, size: tuple[int, int], box_format: Format | None = None
) -> None:
    """Draw targets that are boxes or keypoints where images lie, and what was said of them dashed.

    Args:
        picture: To draw on.
        places: Where the images of the examples lie on it.
        answers: Targets of shape (N, 4), (N, K, 4) or, keypoints, (N, K, 2); anything else is left alone. Rows without
            a size, or of negative numbers only, fill up and are not drawn.
        size: Height and width of the images, in their own pixels.
        box_format: How boxes are written; without it, as what most of them lie within the image.

    """
    target = shapes(answers.target)
    if target is None or not (target.shape[1] > 1 or are_boxes(target, size)):
        return
    said = shapes(answers.prediction)
    said = said if said is not None and said.shape[1:] == target.shape[1:] else None
    scale, unit = scale_of(target, size)
    if target.shape[-1] == 4:  # noqa: PLR2004
        used = box_format or likeliest(target * scale, size)
        picture.note = f"boxes {used}, {unit}"
        for name, boxes in (("true", target), ("said", said)):
            for place, row in zip(places, corners(boxes * scale, used) if boxes is not None else (), strict=False):
                for box in row[:MOST]:
                    _box(picture, place, box / (size[1], size[0], size[1], size[0]), said=name == "said")
        return
    if around_the_middle(target):
        target, said, unit = (target + 1) / 2, None if said is None else (said + 1) / 2, "-1 to 1"
    picture.note = f"keypoints, {unit}"
    for name, points in (("true", target), ("said", said)):
        for place, row in zip(places, points * scale if points is not None else (), strict=False):
            _points(picture, place, row[:MOST] / (size[1], size[0]), said=name == "said")


def shapes(values: Tensor | None) -> NDArray[np.float64] | None:
    """Boxes as (N, K, 4) or keypoints as (N, K, 2), NaN where a row only fills up; None if these are neither."""
    if values is None or values.is_complex() or not (values.is_floating_point() or values.ndim == 3):  # noqa: PLR2004
        return None
    array = values.detach().cpu().double().numpy()
    if array.ndim == 2 and array.shape[1] == 4:  # noqa: PLR2004
        array = array[:, None]
    if array.ndim != 3 or array.shape[-1] not in {2, 4} or not array.size:  # noqa: PLR2004
        return None
    fills = (array == array[..., :1]).all(-1) & (array[..., 0] <= 0)
    return np.where(fills[..., None], np.nan, array)


def are_boxes(values: NDArray[np.float64], size: tuple[int, int]) -> bool:
    """Whether four numbers for each image are likely a box: most have a size, or lie within the image."""
    pixels = values.reshape(-1, 4) * scale_of(values, size)[0]
    finite = pixels[np.isfinite(pixels).all(-1)]
    proper = [(b >= 0).all() and (inside(corners(b, "xywh"), size) or (b[2:] > b[:2]).all()) for b in finite]
    return float(np.mean(proper or [0])) > LIKELY


def around_the_middle(points: NDArray[np.float64]) -> bool:
    """Whether the middle of an image is 0, and its edges are at -1 and 1, as ``grid_sample`` counts them.

    Example:
        >>> around_the_middle(np.array([[[-0.5, 0.2], [0.3, 0.1]]])), around_the_middle(np.array([[[0.5, 0.2]]]))
        (True, False)

    """
    known = points[np.isfinite(points).all(-1)].reshape(-1, points.shape[-1])
    within = np.abs(known).max(initial=0) <= 1 + SLACK
    return bool(within and len(known) and (known < -SLACK).any(1).mean() > NEGATIVE)


def scale_of(values: NDArray[np.float64], size: tuple[int, int]) -> tuple[NDArray[np.float64], str]:
    """What makes pixels of coordinates, and the unit that they are in: pixels, or shares of the image."""
    height, width = size
    if np.nanmax(np.abs(values), initial=0) <= 1 + SLACK:
        return np.resize([width, height], values.shape[-1]).astype(float), "0 to 1"
    return np.ones(values.shape[-1]), "pixels"


def likeliest(boxes: NDArray[np.float64], size: tuple[int, int]) -> Format:
    """The format by which most boxes (..., 4), in pixels, lie within the image.

    Example:
        >>> likeliest(np.array([[[30.0, 30, 20, 20]]]), (64, 64)), likeliest(np.array([[[5.0, 5, 20, 20]]]), (64, 64))
        ('xywh', 'xyxy')

    """
    flat = boxes.reshape(-1, 4)
    flat = flat[np.isfinite(flat).all(-1)]
    share = {used: np.mean([inside(box, size) for box in corners(flat, used)]) if len(flat) else 0 for used in FORMATS}
    proper = np.mean((flat[:, 2:] > flat[:, :2]).all(-1)) if len(flat) else 1
    return "xyxy" if proper == 1 else max(FORMATS, key=lambda used: share[used])


def corners(boxes: NDArray[np.float64], box_format: Format) -> NDArray[np.float64]:
    """Boxes (..., 4) as left, top, right, bottom.

    Example:
        >>> corners(np.array([30.0, 30, 20, 10]), "cxcywh")
        array([20., 25., 40., 35.])

    """
    first, second = boxes[..., :2], boxes[..., 2:]
    if box_format == "xyxy":
        return boxes
    start = first if box_format == "xywh" else first - second / 2
    return np.concatenate([start, start + second], axis=-1)


def inside(box: NDArray[np.float64], size: tuple[int, int]) -> bool:
    """Whether a box of corners lies in the image, and has a size."""
    height, width = size
    slack = SLACK * max(size)
    within = (box >= -slack).all() and box[2] <= width + slack and box[3] <= height + slack
    return bool(within and box[2] > box[0] and box[3] > box[1])


def _box(picture: Picture, place: Box, box: Any, *, said: bool) -> None:
    """A box in shares of the image; what lies beyond the image ends at its edge, and has a cross there.

    So has what was said and is too small to be seen.
    """
    if not np.isfinite(box).all():
        return
    x, y = place.left + box[::2].clip(0, 1) * place.width, place.top + box[1::2].clip(0, 1) * place.height
    drawn = Box(float(x[0]), float(y[0]), float(x[1]), float(y[1]))
    if not said:
        picture.frame(drawn, "black", 5)
    picture.frame(drawn, WRONG if said else TRUE, 3, dashed=said)
    unseen = said and (abs(drawn.width) < SMALLEST or abs(drawn.height) < SMALLEST)
    if unseen or (box < -SLACK).any() or (box > 1 + SLACK).any():
        picture.cross(float(x.mean()), float(y.mean()))


def _points(picture: Picture, place: Box, points: Any, *, said: bool) -> None:
    """Keypoints in shares of the image, in order along a line, each in a colour of its own."""
    at = np.stack([place.left + points[:, 0] * place.width, place.top + points[:, 1] * place.height], axis=-1)
    seen = ((points > -SLACK) & (points < 1 + SLACK)).all(-1)
    picture.draw(np.where(seen[:, None], at, np.nan), WRONG if said else TRUE, 2, dashed=said)
    for i, (x, y) in enumerate(at):
        if seen[i] and said:
            picture.cross(float(x), float(y), WRONG, 5)
        elif seen[i]:
            picture.frame(Box(x - 4, y - 4, x + 4, y + 4), "black", 6)
            picture.frame(Box(x - 3, y - 3, x + 3, y + 3), COLOURS[i % 7], 4)
        elif np.isfinite(at[i]).all():  # beyond the image: at its edge
            edge = np.clip(points[i], 0, 1)
            picture.cross(place.left + float(edge[0]) * place.width, place.top + float(edge[1]) * place.height)
