"""Predictions on one fixed batch over time: how little of each look has to be kept, and the picture of each kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lightning_recipe.figures.axes import Axes, Axis, around, axes, ends, short
from lightning_recipe.figures.canvas import COLOURS, GREY, LINE, WRONG, heat, text_width
from lightning_recipe.figures.captions import Caption
from lightning_recipe.figures.grid import GAP, layout, mosaic, resized
from lightning_recipe.figures.images import hatching, one_or_three, paint, paint_classes
from lightning_recipe.figures.inputs import size_of
from lightning_recipe.figures.kinds import Kind, recognise
from lightning_recipe.figures.picture import BODY, Box, Picture
from lightning_recipe.figures.sequences import (
    EARLIER,
    MAX_FAN,
    MAX_LINES,
    SAID,
    TRUE,
    forecast,
    legend,
    panels,
)  # fmt: skip
from lightning_recipe.figures.shapes import are_boxes, draw_shapes, shapes
from lightning_recipe.figures.tokens import aligned, blocks
from lightning_recipe.losses.measures import CLASSES, NUMBER_MAPS, NUMBERS, TOKENS
from lightning_recipe.losses.targets import Answers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from lightning_recipe.callbacks._fixed_batch import FixedBatch
    from lightning_recipe.losses.reading import Reading

    Array = NDArray[Any]

ROWS = 8
"""Examples, or labels of examples, in a picture over time; as many trajectories as there are colours."""
SENTENCES, WORDS = 2, 32
PANELS, SHORTEST, LONGEST = 4, 4, 512  # forecasts; their steps
MAPS, IMAGES = 3, 4  # examples; dimensions of a batch of images
THUMBNAIL = 128
"""Pixels of a side of a map that are kept."""
MOMENTS = 4
"""Looks in a film strip."""


def keep(fixed: FixedBatch, values: Tensor) -> Array:
    """The part of `values` that pictures show, on the CPU.

    Returns:
        Shape (N, 2) for classes and labels: the probability of what is true, and the answer; (N,) for numbers;
        (N, ...) for forecasts, boxes and keypoints; (N, T) for tokens: the answers; (N, H, W) for maps of classes,
        (N, H, W, C) for other maps, C at most 3, not much larger than they are drawn.

    """
    how = fixed.how
    if how.of_maps:
        shown = thinned(values[:MAPS])  # all looks are in memory until the end
        return _array(shown.argmax(-1).to(torch.int16) if how.of_classes else one_or_three(shown).contiguous())
    if how.kind == NUMBERS:
        if is_forecast(fixed) or are_shapes(fixed):
            return _array(values[:PANELS].reshape(-1, *how.positions))
        outputs = max(1, min(values.shape[1], ROWS // 2))
        return _array(values[: ROWS // outputs, :outputs].flatten())
    if how.kind == TOKENS:
        return _array(values[:SENTENCES, :WORDS].argmax(-1))
    answers = how.answers(values)
    parts = [part.flatten()[:ROWS].float() for part in (how.of_the_truth(values), answers) if part is not None]
    return np.stack([_array(part) for part in parts], axis=-1)


def is_forecast(fixed: FixedBatch) -> bool:
    """Whether sequences of numbers enter, and come out."""
    positions, inputs = fixed.how.positions, fixed.inputs
    length, columns = (*positions, 1, 1)[:2]
    long = SHORTEST <= length <= LONGEST and columns <= MAX_FAN and len(positions) <= 2  # noqa: PLR2004
    return long and inputs is not None and recognise(inputs).kind is Kind.SEQUENCE


def are_shapes(fixed: FixedBatch) -> bool:
    """Whether images enter, and boxes or keypoints come out."""
    positions, inputs, target = fixed.how.positions, fixed.inputs, fixed.how.target
    if inputs is None or target is None or (positions != (4,) and (len(positions) != 2 or positions[1] not in {2, 4})):  # noqa: PLR2004
        return False
    found, reading = shapes(target.reshape(-1, *positions)), recognise(inputs)
    pictured = reading.kind is Kind.IMAGE and found is not None
    return pictured and found is not None and (len(positions) > 1 or are_boxes(found, size_of(inputs, reading)))


def _array(values: Tensor) -> Array:
    """On the CPU; half precision as float32, NumPy has no bfloat16."""
    return np.asarray((values.float() if values.is_floating_point() else values).cpu())


def draw(fixed: FixedBatch, decode: Callable[..., Any] | None = None) -> Picture:
    """The picture of all looks so far; of tokens, maps, forecasts and boxes, four moments.

    Args:
        fixed: With at least one look, whose pictures come from :func:`keep`.
        decode: Makes text of a list of token ids; it gets one at a time.

    """
    how, looks = fixed.how, fixed.looks
    steps, kept = [look.step for look in looks], [look.picture for look in looks]
    kind = "forecasts" if how.kind == NUMBERS and is_forecast(fixed) else how.kind
    picture = Picture(f"{fixed.name or kind}, step {steps[-1]:,}")
    film = {f"step {short(steps[i])}": kept[i] for i in moments(len(looks))}
    if how.of_maps:
        _maps(picture, how, film, fixed.inputs)
    elif how.kind == TOKENS:
        _tokens(picture, how, film, decode)
    elif kind == "forecasts" and fixed.inputs is not None:
        _forecasts(picture, how, film, fixed.inputs)
    elif fixed.inputs is not None and how.kind == NUMBERS and are_shapes(fixed):
        _shapes(picture, how, film, fixed.inputs)
    else:
        (_numbers if how.kind == NUMBERS else _answers)(picture, fixed, steps, kept)
    if fixed.last is not None and how.alike(fixed.last):
        picture.note = f"all {len(fixed.last)} examples get the same prediction"
    return picture


def _forecasts(picture: Picture, how: Reading, film: dict[str, Array], inputs: Tensor) -> None:
    """History, true continuation, and what was said of it: now dashed, before pale."""
    reading = recognise(inputs)
    series = inputs[..., None] if reading.axes == "NT" else inputs.movedim(reading.axes.index("T"), 1)
    history = _array(series[:PANELS, :, :MAX_LINES]).astype(float)
    said = [row if row.ndim == 3 else row[..., None] for row in film.values()]  # noqa: PLR2004
    target = None
    if how.target is not None:
        target = _array(how.target[:PANELS].reshape(-1, *how.positions)).reshape(said[-1].shape).astype(float)
        target = target[..., :1] if bool((target == target[..., :1]).all()) else target  # one for all quantiles
    length, ahead = history.shape[1], said[-1].shape[1]
    total = length if ahead == length else length + ahead
    y = around(np.concatenate([part.ravel() for part in (history, said[-1], target) if part is not None]))
    for i, box in enumerate(panels(picture, [Caption()] * len(said[-1]))):
        frame = Axes(box, Axis(0, max(1, total - 1)), y)
        forecast(picture, frame, history[i], None if target is None else target[i], [row[i] for row in said])
    names = [("input", COLOURS[0]), *([] if target is None else [("true", TRUE)]), ("said", SAID)]
    legend(picture, names + ([("before", EARLIER[0])] if len(film) > 1 else []), total)


def _shapes(picture: Picture, how: Reading, film: dict[str, Array], inputs: Tensor) -> None:
    """Boxes or keypoints in their images at four moments, side by side."""
    stack = inputs[:SENTENCES].float()
    reading = recognise(stack)
    image = one_or_three(stack.movedim(1, -1) if reading.axes == "NCHW" else stack.reshape(*stack.shape[:3], -1))
    height, width = image.shape[1:3]
    _, cell = layout(1, height, width, len(image), room=((BODY.width + GAP) / len(film) - GAP, BODY.height))
    drawn = resized(torch.from_numpy(paint(image, _extremes(_array(image)))), cell).numpy()
    rows = [("", np.stack([part] * len(film))) for part in drawn]
    places = mosaic(picture, rows, len(film), [Caption(name) for name in film])
    target = _target(how)[:SENTENCES].reshape(-1, *how.positions)
    for boxes, said in zip(places, film.values(), strict=True):
        picture.title = picture.title.replace(NUMBERS, "boxes" if how.positions[-1] == 4 else "keypoints")  # noqa: PLR2004
        draw_shapes(picture, boxes, Answers(target, torch.from_numpy(said[:SENTENCES])), (height, width))


def moments(count: int) -> list[int]:
    """The looks of a film strip, evenly in their order from the first after the untrained one to the last.

    Example:
        >>> moments(1), moments(3), moments(14)
        ([0], [0, 1, 2], [1, 5, 9, 13])

    """
    first = 0 if count <= MOMENTS else 1
    return sorted({round(i) for i in np.linspace(first, count - 1, min(MOMENTS, count))})


def _numbers(picture: Picture, fixed: FixedBatch, steps: Sequence[int], kept: Sequence[Array]) -> None:
    """A line for each number predicted, and where it should end: a mark at the right edge."""
    values = np.stack(kept)
    target = None if fixed.how.target is None else keep(fixed, fixed.how.target)
    everything = values if target is None or not np.isfinite(target).all() else np.concatenate([values, target[None]])
    names = ("step", "prediction" if target is None else "prediction, and target at the right")
    box = Box(BODY.left, BODY.top, BODY.right - 26, BODY.bottom)
    frame = axes(picture, _time(steps), around(everything), box=box, names=names)
    for i in range(values.shape[1]):
        colour = COLOURS[i % len(COLOURS)]
        points = frame.points(np.asarray(steps, np.float64), values[:, i])
        picture.draw(points, colour, 3)
        if len(steps) == 1 and np.isfinite(points).all():
            picture.cross(float(points[0, 0]), float(points[0, 1]), colour, arm=4)
        if target is not None and np.isfinite(target[i]):
            x, y = frame.points(steps[-1], target[i])
            x = frame.box.right + 4
            picture.draw([(x + 18, y - 8), (x, y), (x + 18, y + 8), (x + 18, y - 8)], colour, 3)


def _time(steps: Sequence[int]) -> Axis:
    return Axis(steps[0], max(steps[-1], steps[0] + 1), "from zero")


def _answers(picture: Picture, fixed: FixedBatch, steps: Sequence[int], kept: Sequence[Array]) -> None:
    """A row for each example, bright where what is true is probable; dots where the answer changed."""
    how = fixed.how
    truth, answers = np.stack(kept)[..., 0], np.stack(kept)[..., 1].astype(int)
    target = _array(_target(how).flatten()[: answers.shape[1]])
    labels = 1 if how.kind == CLASSES else _target(how).shape[1]

    def text(row: int, answer: float) -> str:
        place = f"{row // labels}.{row % labels} " if labels > 1 else ""
        return place + (str(int(answer)) if how.kind == CLASSES else "yes" if answer > 0.5 else "no")  # noqa: PLR2004

    true = [text(i, value) for i, value in enumerate(target)]
    now = [text(i, value) for i, value in enumerate(answers[-1])]
    left = min(0.3 * BODY.width, max(text_width("true"), *map(text_width, true)) + 10)
    right = min(0.3 * BODY.width, max(text_width("said"), *map(text_width, now)) + 34)
    inner = Box(round(BODY.left + left), BODY.top + LINE, round(BODY.right - right), BODY.bottom - LINE)
    picture.note = "probability of true: dark 0, bright 1"
    picture.write(BODY.left, inner.top - 8, "true", GREY)
    picture.write(BODY.right, inner.top - 8, "said", GREY, anchor="rs")
    row, column = inner.height / len(true), inner.width / len(steps)
    down = (np.arange(int(inner.height)) * len(true) / int(inner.height)).astype(int)
    across = (np.arange(int(inner.width)) * len(steps) / int(inner.width)).astype(int)
    picture.paste(inner.left, inner.top, heat(truth.T[down][:, across], (0, 1)))
    for i in range(len(true)):
        y = inner.top + (i + 0.5) * row
        wrong = target[i] >= 0 and true[i] != now[i]
        picture.write(BODY.left, y + 7, true[i], width=left - 8)
        picture.write(BODY.right, y + 7, now[i], WRONG if wrong else "black", anchor="rs")
        if wrong:
            picture.cross(inner.right + 14, y)
        if i:
            picture.fill(Box(inner.left, y - row / 2 - 1, inner.right, y - row / 2 + 1), 255)
        for t in (np.flatnonzero(np.diff(answers[:, i])) + 1).tolist():
            x, arm = inner.left + (t + 0.5) * column, float(np.clip(column / 3, 2, 6))
            picture.fill(Box(x - arm, y - arm, x + arm, y + arm), 255)
            picture.frame(Box(x - arm, y - arm, x + arm, y + arm), "black", 1)
    last = -np.inf
    for t in range(len(steps)):
        x, number = inner.left + (t + 0.5) * column, short(steps[t])
        if x - last > text_width(number) + 24:
            picture.write(x, BODY.bottom - 4, number, GREY, anchor="ms")
            last = x
    picture.write(BODY.right, BODY.bottom - 4, "step", GREY, anchor="rs")


def _tokens(picture: Picture, how: Reading, film: dict[str, Array], decode: Callable[..., Any] | None) -> None:
    """What should be said, and below it what was said at four moments; what is wrong is underlined."""
    said = next(iter(film.values()))
    target = _array(_target(how)[: said.shape[0], : said.shape[1]])
    for i, box in enumerate(blocks(len(said), len(film) + 1)):
        rows = {"true": target[i].tolist()} | {name: ids[i].tolist() for name, ids in film.items()}
        aligned(picture, box, rows, {}, decode)


def _maps(picture: Picture, how: Reading, film: dict[str, Array], inputs: Tensor | None) -> None:
    """Side by side: input, what is true, and what was said at four moments; a row for each example."""
    (low, high), strips = _range(how, film), {}
    if inputs is not None and inputs.ndim == IMAGES and inputs.shape[1] <= min(inputs.shape[2:]):
        image = one_or_three(thinned(inputs[:MAPS].movedim(1, -1).float()))
        strips["input"] = paint(image, _extremes(_array(image)))
    true = None if how.target is None else thinned(how.target[:MAPS])
    maps = ({} if true is None else {"true": _array(true if how.of_classes else one_or_three(true))}) | film
    for name, values in maps.items():
        strips[name] = paint_classes(values.astype(np.int64), None) if how.of_classes else _shades(values, (low, high))
    count, height, width = next(iter(film.values())).shape[:3]
    _, cell = layout(1, height, width, count, room=((BODY.width + GAP) / len(strips) - GAP, BODY.height))
    drawn = {name: resized(torch.from_numpy(part), cell).numpy() for name, part in strips.items()}
    if how.of_classes and true is not None:
        truth = resized(torch.from_numpy(maps["true"].astype(np.int64)), cell).numpy()
        for name, values in film.items():
            said = resized(torch.from_numpy(values.astype(np.int64)), cell).numpy()
            drawn[name][(said != truth) & (truth >= 0) & hatching(cell)] = 0
        picture.note = "hatched: wrong"
    elif not how.of_classes:
        picture.note = "black {}, white {}".format(*ends(low, high))
    rows = [("", np.stack([part[i] for part in drawn.values()])) for i in range(count)]
    mosaic(picture, rows, len(drawn), [Caption(name) for name in drawn])


def thinned(maps: Tensor) -> Tensor:
    """Maps (n, h, w, ...) at not much more than the pixels that are drawn."""
    every = max(1, max(maps.shape[1:3]) // THUMBNAIL)
    return maps[:, ::every, ::every]


def _shades(values: Array, span: tuple[float, float]) -> Array:
    return paint(torch.from_numpy(np.asarray(values, np.float32)), span)


def _target(how: Reading) -> Tensor:
    """The target of those kinds that always have one.

    Raises:
        ValueError: If there is none.

    """
    if how.target is None:
        msg = f"{how.kind} without a target"
        raise ValueError(msg)
    return how.target


def _range(how: Reading, film: dict[str, Array]) -> tuple[float, float]:
    """What black and white stand for: the range of the targets, so that it is the same at every step."""
    if how.kind != NUMBER_MAPS:
        return 0.0, 1.0
    return _extremes(np.stack(list(film.values())) if how.target is None else _array(how.target))


def _extremes(values: Array) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
