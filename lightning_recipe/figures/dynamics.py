"""Which picture suits which kind of prediction, and how little of each look has to be kept to draw it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lightning_recipe.figures import predictions
from lightning_recipe.losses.measures import CLASSES, NUMBER_MAPS, NUMBERS, TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from torch import Tensor

    from lightning_recipe.callbacks._fixed_batch import FixedBatch
    from lightning_recipe.losses.reading import Reading

    Array = NDArray[Any]

ROWS = 16
"""Examples, or labels of examples, in a picture over time."""
LINES = 8
"""Trajectories in a picture, as many as there are colours."""
SENTENCES, WORDS = 5, 7
MAPS, IMAGES = 3, 4  # examples; dimensions of a batch of images
FILM = 5
"""Looks in a film strip."""


def keep(how: Reading, values: Tensor) -> Array:
    """The part of `values` that pictures show, on the CPU.

    Returns:
        Shape (N, 2) for classes and labels: the probability of what is true, and the answer; (N,) for numbers;
        (N, T) for tokens: the answers; (N, H, W) for maps of classes, (N, H, W, C) for other maps, C at most 3,
        not much larger than they are drawn.

    """
    if how.of_maps:
        channels = 3 if values.shape[-1] == 3 else 1  # noqa: PLR2004
        every = max(1, max(values.shape[1:3]) // predictions.THUMBNAIL)  # all looks are in memory until the end
        shown = values[:MAPS, ::every, ::every]
        return _array(shown.argmax(-1).to(torch.int16) if how.of_classes else shown[..., :channels].contiguous())
    if how.kind == NUMBERS:
        outputs = max(1, min(values.shape[1], LINES // 2))
        return _array(values[: LINES // outputs, :outputs].flatten())
    if how.kind == TOKENS:
        return _array(values[:SENTENCES, :WORDS].argmax(-1))
    answers = how.answers(values)
    parts = [part.flatten()[:ROWS].float() for part in (how.of_the_truth(values), answers) if part is not None]
    return np.stack([_array(part) for part in parts], axis=-1)


def _array(values: Tensor) -> Array:
    """On the CPU; half precision as float32, NumPy has no bfloat16."""
    return np.asarray((values.float() if values.is_floating_point() else values).cpu())


def draw(fixed: FixedBatch, decode: Callable[..., Any] | None = None, *, last: bool = False) -> dict[str, Figure]:
    """The pictures to show now, by name: of all looks so far, or for tokens and maps of the latest one.

    Args:
        fixed: With at least one look, whose pictures come from :func:`keep`.
        decode: Makes text of a list of token ids; it gets one at a time.
        last: Training has ended: maps get a film strip, too.

    """
    how, looks = fixed.how, fixed.looks
    steps, kept = [look.step for look in looks], [look.picture for look in looks]
    if how.of_maps:
        figures = {"predictions": _maps(how, steps[-1], kept[-1], fixed.inputs)}
        return figures | ({"over time": _film(how, steps, kept)} if last and len(steps) > 1 else {})
    if how.kind == TOKENS:
        return {"predictions": _tokens(how, steps[-1], kept, decode)}
    span = f"steps {steps[0]:,} to {steps[-1]:,}" + (f", 1 look in {fixed.stride} kept" if fixed.stride > 1 else "")
    return {"predictions": (_numbers if how.kind == NUMBERS else _answers)(how, steps, kept, span)}


def _numbers(how: Reading, steps: Sequence[int], kept: Sequence[Array], span: str) -> Figure:
    targets = None if how.target is None else keep(how, how.target)
    heading = f"{kept[-1].size} predictions" + ("" if targets is None else ", triangles: targets")
    return predictions.trajectories(f"{heading}\n{span}", steps, np.stack(kept), targets)


def _answers(how: Reading, steps: Sequence[int], kept: Sequence[Array], span: str) -> Figure:
    truth, answers = np.stack(kept)[..., 0], np.stack(kept)[..., 1].astype(int)
    flips = np.zeros(answers.shape, dtype=bool)
    flips[1:] = answers[1:] != answers[:-1]
    target = _array(_target(how).flatten()[: answers.shape[1]])
    labels = 1 if how.kind == CLASSES else _target(how).shape[1]

    def text(row: int, answer: float) -> str:
        place = f"{row // labels}.{row % labels} " if labels > 1 else ""
        return place + (str(int(answer)) if how.kind == CLASSES else "yes" if answer > 0.5 else "no")  # noqa: PLR2004

    rows = [(text(i, true), text(i, now)) for i, (true, now) in enumerate(zip(target, answers[-1], strict=True))]
    what = "class" if how.kind == CLASSES else "answer"
    return predictions.probabilities(f"probability of the true {what}\n{span}", steps, truth, flips, rows)


def _tokens(how: Reading, step: int, kept: Sequence[Array], decode: Callable[..., Any] | None) -> Figure:
    now, before = kept[-1], kept[max(0, len(kept) - 2)]
    target = _array(_target(how)[: now.shape[0], : now.shape[1]])

    def text(token: int) -> str:
        return "-" if token < 0 else str(token) if decode is None else str(decode([token]))

    said = [[[text(int(token)) for token in line] for line in lines] for lines in (target, now)]
    title = f"tokens predicted at step {step:,}\n{now.shape[1]} of {how.positions[0]} positions, {len(now)} examples"
    return predictions.tokens(title, said[0], said[1], (now != before) & (target >= 0))


def _maps(how: Reading, step: int, maps: Array, inputs: Tensor | None) -> Figure:
    columns = {}
    if inputs is not None and inputs.ndim == IMAGES and inputs.shape[1] <= min(inputs.shape[2:]):
        every = math.ceil(max(inputs.shape[2:]) / predictions.THUMBNAIL)
        images = _array(inputs[:MAPS, :, ::every, ::every].movedim(1, -1))
        images = images[..., : 3 if images.shape[-1] == 3 else 1]  # noqa: PLR2004
        columns["input"] = predictions.number_colours(images, *_extremes(images))
    if how.target is not None:
        columns["target"] = _coloured(how, _target_maps(how))
    columns["prediction"] = _coloured(how, maps)
    (low, high), (least, most) = _range(how, maps), _extremes(maps)
    scale = "" if how.of_classes else f"\ndark {low:.3g}, bright {high:.3g}; now {least:.3g} to {most:.3g}"
    height, width = how.positions[-2:]
    return predictions.maps(f"{how.kind}, step {step:,} ({height} x {width}){scale}", columns, _classes(how))


def _film(how: Reading, steps: Sequence[int], kept: Sequence[Array]) -> Figure:
    """Maps at a few steps from the first to the last, side by side, the target at the end."""
    chosen = sorted({round(i) for i in np.geomspace(1, len(steps), min(FILM, len(steps)))})
    columns = {f"{steps[i - 1]:,}": _coloured(how, kept[i - 1]) for i in chosen}
    if how.target is not None:
        columns["target"] = _coloured(how, _target_maps(how))
    return predictions.maps(f"{how.kind} over time\nsteps {steps[0]:,} to {steps[-1]:,}", columns, _classes(how))


def _target(how: Reading) -> Tensor:
    """The target of those kinds that always have one.

    Raises:
        ValueError: If there is none.

    """
    if how.target is None:
        msg = f"{how.kind} without a target"
        raise ValueError(msg)
    return how.target


def _classes(how: Reading) -> int:
    """How many classes there are at most among the targets, for the legend."""
    return int(how.target.max()) + 1 if how.of_classes and how.target is not None else 0


def _target_maps(how: Reading) -> Array:
    target = _target(how)[:MAPS]
    return _array(target if how.of_classes else target[..., : 3 if target.shape[-1] == 3 else 1])  # noqa: PLR2004


def _range(how: Reading, maps: Array) -> tuple[float, float]:
    """What dark and bright stand for: the range of the targets, so that it is the same at every step."""
    if how.kind != NUMBER_MAPS:
        return 0.0, 1.0
    return _extremes(maps if how.target is None else _array(how.target))


def _extremes(values: Array) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def _coloured(how: Reading, maps: Array) -> Array:
    if how.of_classes:
        return predictions.class_colours(maps, max(_classes(how), int(maps.max()) + 1))
    return predictions.number_colours(maps.astype(float), *_range(how, maps))
