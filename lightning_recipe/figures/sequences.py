"""What runs over time: lines, forecasts and heat maps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lightning_recipe.figures.axes import Axes, Axis, ends
from lightning_recipe.figures.canvas import COLOURS, GREY, LINE, PAPER, WRONG, heat, text_width
from lightning_recipe.figures.captions import captions
from lightning_recipe.figures.grid import layout, mosaic, resized
from lightning_recipe.figures.picture import BODY, Box

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from lightning_recipe.figures.captions import Caption
    from lightning_recipe.figures.kinds import Reading
    from lightning_recipe.figures.picture import Picture
    from lightning_recipe.losses.targets import Answers

MAX_LINES = 6
"""Features drawn as lines; more are drawn as a heat map."""
MAX_FAN = 9
"""Columns of a forecast that are taken for quantiles or a mean and a scale, and not for features."""
GAP = 16
"""Pixels between panels."""
TRUE, SAID = "black", WRONG
EARLIER = ("#E39A68", "#EBC0A0", "#F3DCCB")
"""What was said before, ever paler."""
FAN = (247, 222, 203)


def sequences(picture: Picture, tensor: Tensor, reading: Reading, answers: Answers, span: tuple[float, float]) -> None:
    """Examples as lines over time, a colour for each feature; many features as a heat map.

    A target that is a sequence itself is drawn in black: over the input if it is as long, else behind it. What was
    said of it is dashed; of several columns, such as quantiles, the area between the outermost is filled.

    Args:
        picture: To draw on.
        tensor: Sequences, on any device.
        reading: How to read it.
        answers: What belongs to the examples.
        span: The values at the bottom and the top of each panel.

    Example:
        >>> import torch
        >>> from lightning_recipe.losses.targets import Answers
        >>> from lightning_recipe.figures.kinds import Kind, Reading
        >>> from lightning_recipe.figures.picture import Picture
        >>> picture = Picture("train net.x")
        >>> sequences(picture, torch.rand(3, 50, 2), Reading(Kind.SEQUENCE, "NTF"), Answers(), (0.0, 1.0))
        >>> len(picture.lines)  # two of each example, and two in the legend
        8

    """
    series = tensor[..., None] if reading.axes == "NT" else tensor.movedim(reading.axes.index("T"), 1)
    count, length, features = series.shape
    made = captions(answers, count)
    if features > MAX_LINES:
        columns, cell = layout(count, features, min(length, 4 * features))
        cells = heat(resized(series.movedim(1, 2), cell).cpu().double().numpy(), span)
        mosaic(picture, [("", cells)], columns, made)
        picture.note = "{} features down; dark {}, bright {}".format(features, *ends(*span))
        return
    target, said = (as_series(answer, length) for answer in (answers.target, answers.prediction))
    ahead = max((part.shape[1] for part in (target, said) if part is not None and part.shape[1] != length), default=0)
    low, high = reach(span, target)
    picture.note = "{} to {}".format(*ends(low, high))
    history = series.detach().cpu().double().numpy()
    for i, box in enumerate(panels(picture, made)):
        frame = Axes(box, Axis(0, max(1, length + ahead - 1)), Axis(low, high))
        forecast(picture, frame, history[i], _row(target, i), [] if (row := _row(said, i)) is None else [row])
    names = [(str(i), COLOURS[i]) for i in range(features)] if features > 1 else [("input", COLOURS[0])]
    names += [("true", TRUE)] if target is not None else []
    legend(picture, names + ([("said", SAID)] if said is not None else []), length + ahead)


def forecast(
    picture: Picture,
    frame: Axes,
    history: NDArray[np.float64],
    target: NDArray[np.float64] | None,
    said: Sequence[NDArray[np.float64]],
) -> None:
    """One example: history (T, F), the true continuation (H, F), and what was said of it, the latest last."""
    length = len(history)
    for feature in range(history.shape[1]):
        line(picture, frame, history[:, feature], 0, COLOURS[feature])
    if target is not None:
        for column in target.T[:MAX_LINES]:
            line(picture, frame, column, 0 if len(target) == length else length, TRUE)
    for age, row in enumerate(reversed(said[-1 - len(EARLIER) :])):
        start = 0 if len(row) == length else length
        if row.shape[1] > 1 and (target is None or target.shape[1] == 1) and not age:
            fan(picture, frame, row, start)
        columns = row.T if target is not None and target.shape[1] > 1 else [np.sort(row, axis=1)[:, row.shape[1] // 2]]
        for column in columns[:MAX_LINES]:
            line(picture, frame, column, start, EARLIER[age - 1] if age else SAID)


def fan(picture: Picture, frame: Axes, columns: NDArray[np.float64], start: int) -> None:
    """Fill what lies between the lowest and the highest of several columns, (T, Q)."""
    if not np.isfinite(columns).all():
        return
    steps = start + np.arange(len(columns))
    low, high = frame.points(steps, columns.min(axis=1)), frame.points(steps, columns.max(axis=1))
    across = np.arange(math.ceil(low[0, 0]), math.floor(low[-1, 0]) + 1)
    for x, top, bottom in zip(
        across, np.interp(across, high[:, 0], high[:, 1]), np.interp(across, low[:, 0], low[:, 1]), strict=True
    ):
        picture.fill(Box(x, max(top, frame.box.top), x + 1, min(bottom, frame.box.bottom)), FAN)


def line(picture: Picture, frame: Axes, values: NDArray[np.float64], start: int, colour: str) -> None:
    """Values over steps, thinned to two for each pixel; what is said is dashed.

    What is beyond the frame runs along its edge; of what was said before it is left out.
    """
    every = max(1, len(values) // round(2 * frame.box.width))
    steps = start + np.arange(len(values))
    said = colour in {SAID, *EARLIER}
    points = frame.points(steps[::every], values[::every])
    within = points.clip((-np.inf, frame.box.top), (np.inf, frame.box.bottom))
    if colour in EARLIER:
        within[within[:, 1] != points[:, 1]] = np.nan
    picture.draw(within, colour, 3 if said else 2, dashed=said)


def panels(picture: Picture, made: Sequence[Caption]) -> list[Box]:
    """Where examples are drawn, each below its caption; the last line of the card is left for a legend."""
    columns = 1 if len(made) <= 2 else math.ceil(len(made) / max(2, round(len(made) ** 0.5)))  # noqa: PLR2004
    rows = math.ceil(len(made) / columns)
    above = LINE if any(caption.line for caption in made) else 6
    width = (BODY.width + GAP) / columns - GAP
    height = (BODY.height - LINE) / rows
    boxes = []
    for i, caption in enumerate(made):
        x, y = BODY.left + (i % columns) * (width + GAP), BODY.top + (i // columns) * height
        boxes.append(Box(round(x), round(y + above), round(x + width), round(y + height - 4)))
        picture.fill(boxes[-1], PAPER)
        picture.write(x, y + above - 7, caption.line, caption.colour, width=width)
        if caption.wrong:
            picture.cross(x + width - 10, y + above / 2)
    return boxes


def legend(picture: Picture, names: Sequence[tuple[str, str]], length: int = 0) -> None:
    """A line of names in their colours at the bottom, and how many steps there are."""
    x, y = BODY.left, BODY.bottom - 4
    for name, colour in names:
        dashed = colour in {SAID, *EARLIER}
        picture.draw([(x, y - 6), (x + 26, y - 6)], colour, 4, dashed=dashed)
        picture.write(x + 32, y, name)
        x += 32 + text_width(name) + 18
    if length:
        picture.write(BODY.right, y, f"{length} steps", GREY, anchor="rs")


def as_series(answer: Tensor | None, length: int) -> NDArray[np.float64] | None:
    """An answer that is a sequence of numbers as (example, time, column), or nothing."""
    if answer is None or not answer.is_floating_point() or answer.ndim not in {2, 3} or answer.shape[1] < 2:  # noqa: PLR2004
        return None
    columns = answer[..., None] if answer.ndim == 2 else answer  # noqa: PLR2004
    if columns.shape[2] > MAX_FAN and columns.shape[1] <= MAX_FAN:
        columns = columns.movedim(1, 2)  # features first
    if columns.shape[2] > MAX_FAN or columns.shape[1] > 4 * max(length, 100):
        return None
    array: NDArray[np.float64] = columns.detach().cpu().double().numpy()
    return array


def reach(span: tuple[float, float], target: NDArray[np.float64] | None) -> tuple[float, float]:
    """`span`, widened to hold the finite values of a target."""
    finite = np.array([]) if target is None else target[np.isfinite(target)]
    return (min(span[0], float(finite.min())), max(span[1], float(finite.max()))) if finite.size else span


def _row(values: NDArray[np.float64] | None, i: int) -> NDArray[np.float64] | None:
    return values[i] if values is not None and i < len(values) else None
