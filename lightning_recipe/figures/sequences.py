"""What runs over time: lines and heat maps, and waveforms with their spectrograms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import torch

from lightning_recipe.figures.canvas import COLOURS
from lightning_recipe.figures.captions import WRONG, captions, legend
from lightning_recipe.figures.images import BROKEN, GAP, layout, mosaic, resized
from lightning_recipe.figures.picture import WIDTH, Picture, Text, blank, shortened

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from lightning_recipe.figures.kinds import Reading
    from lightning_recipe.losses.targets import Answers

NAMES = ("blue", "amber", "green", "orange", "pink", "sky")
"""The colours of features, in words."""
MAX_LINES = 6
"""Features drawn as lines; more are drawn as a heat map."""
STRIP = 44
"""Pixels of height of an example's lines."""
LABEL = 15
"""Pixels of the line above them."""
SPECTROGRAM = 56
"""Pixels of height of a spectrogram."""
MAX_SIGNALS = 6
"""Audio signals shown at most."""
PEN = np.array([0, 114, 178], np.uint8)
"""The first of the colours, for waveforms."""
DYNAMIC_RANGE = 80.0
"""Decibels below the loudest that are still told apart in a spectrogram; what audio tools show by default."""


def sequences(
    tensor: Tensor, reading: Reading, answers: Answers, span: tuple[float, float], max_examples: int
) -> Picture:
    """Examples as lines over time, a colour for each feature; many features as a heat map.

    A target that is a sequence itself is drawn in black over the input if it is as long, else behind it.

    Args:
        tensor: Sequences, on any device.
        reading: How to read it.
        answers: What belongs to the examples.
        span: The values at the bottom and the top of each strip.
        max_examples: Examples drawn at most.

    Example:
        >>> from lightning_recipe.losses.targets import Answers
        >>> from lightning_recipe.figures.kinds import Kind, Reading
        >>> waves = torch.rand(3, 50, 2)
        >>> picture = sequences(waves, Reading(Kind.SEQUENCE, "NTF"), Answers(), (0.0, 1.0), 16)
        >>> len(picture.lines)
        6

    """
    series = tensor[:max_examples]
    series = series[..., None] if reading.axes == "NT" else series.movedim(reading.axes.index("T"), 1)
    count, length, features = series.shape
    made = captions(answers, count)
    notes = [f"{count} of {tensor.shape[0]} shown"] if count < tensor.shape[0] else []
    if features > MAX_LINES:
        columns, cell = layout(count, features, min(length, 4 * features))
        if cell[0] < features or cell[1] < length:
            notes.append(f"{features} features x {length} steps drawn as {cell[0]} x {cell[1]}")
        drawn = heat(resized(series.movedim(1, 2)[:, None, ..., None], cell)[:, 0, ..., 0], span)
        picture = mosaic(drawn, columns, made)
        picture.notes = [f"{features} features downwards, {length} steps rightwards", *notes, legend(answers, made)]
        return picture
    later = [_series(answer, count, length) for answer in (answers.target, answers.prediction)]
    ahead = max((len(values[0]) for values in later if values is not None and values.shape[1] != length), default=0)
    columns = 1 if count <= 4 else 2  # noqa: PLR2004 - as many as fit below each other
    width = (WIDTH + GAP) // columns - GAP
    step = max(1, math.ceil((length + ahead) / (2 * width)))
    picture = Picture(blank(math.ceil(count / columns) * (LABEL + STRIP + GAP)))
    values = series[:, ::step].detach().cpu().double().numpy()
    for i in range(count):
        x, y = (i % columns) * (width + GAP), (i // columns) * (LABEL + STRIP + GAP) + LABEL
        picture.raster[y : y + STRIP, x : x + width] = 245
        picture.texts.append(Text(x, y - 3, shortened(made[i].text, width), made[i].colour))
        box = (x, y, width, length + ahead)
        for feature in range(features):
            picture.lines.append((_points(values[i, :, feature], 0, step, box, span), COLOURS[feature]))
        for answer, colour in zip(later, ("black", WRONG), strict=True):
            if answer is not None and i < len(answer):
                start = 0 if answer.shape[1] == length else length
                picture.lines.append((_points(answer[i, ::step], start, step, box, span), colour))
    picture.notes = [f"{length} steps" + (f", every {step}th drawn" if step > 1 else ""), *notes]
    picture.notes += ["lines: " + ", ".join(f"{i} {NAMES[i]}" for i in range(features))] if features > 1 else []
    if any(answer is not None for answer in later):
        picture.notes.append("target black" + (", prediction orange" if later[1] is not None else ""))
    else:
        picture.notes.append(legend(answers, made))
    return picture


def _series(answer: Tensor | None, count: int, length: int) -> NDArray[np.float64] | None:
    """An answer that is a sequence of numbers as (example, time), or nothing."""
    if answer is None or not answer.is_floating_point() or answer.ndim not in {2, 3}:
        return None
    single = answer if answer.ndim == 2 else answer[..., 0] if answer.shape[2] == 1 else answer[:, 0]  # noqa: PLR2004
    if single.shape[1] < 2 or (answer.ndim == 3 and 1 not in answer.shape[1:]):  # noqa: PLR2004
        return None
    if single.shape[1] > length and single.shape[1] > 4 * WIDTH:
        return None
    array: NDArray[np.float64] = single[:count].detach().cpu().double().numpy()
    return array


def _points(
    values: NDArray[np.float64], start: int, step: int, box: tuple[int, int, int, int], span: tuple[float, float]
) -> NDArray[np.float64]:
    """Pixels of a line over time within `box`: left, top, width, steps that fill the width."""
    x, y, width, steps = box
    low, high = span
    across = x + 1 + (width - 2) * (start + step * np.arange(len(values))) / max(1, steps - 1)
    up = np.clip((np.where(np.isfinite(values), values, np.nan) - low) / ((high - low) or 1.0), -0.05, 1.05)
    return np.stack([across, y + STRIP - 2 - (STRIP - 4) * up], axis=1)


def heat(values: Tensor, span: tuple[float, float]) -> NDArray[np.uint8]:
    """Values as colours from dark blue to yellow, told apart with any kind of colour vision; NaN in orange.

    Example:
        >>> heat(torch.zeros(2, 5), (0.0, 1.0)).shape
        (2, 5, 3)

    """
    array = values.detach().cpu().double().numpy()
    low, high = span
    scaled = np.clip(np.nan_to_num((array - low) / ((high - low) or 1.0), nan=0.0, posinf=1.0, neginf=0.0), 0, 1)
    colours = (255 * mpl.colormaps["cividis"](scaled)[..., :3]).round().astype(np.uint8)
    colours[np.isnan(array)] = BROKEN
    return colours


def audio(tensor: Tensor, answers: Answers, span: tuple[float, float], max_examples: int) -> Picture:
    """Signals as waveforms (the extremes in each column of pixels) above their spectrograms.

    Args:
        tensor: Signals of shape (example, time) or (example, channel, time); the first channel is drawn.
        answers: What belongs to the examples.
        span: The values at the bottom and the top of the waveforms.
        max_examples: Examples drawn at most.

    Example:
        >>> from lightning_recipe.losses.targets import Answers
        >>> audio(torch.rand(2, 4000) - 0.5, Answers(), (-1.0, 1.0), 16).raster.shape[1]
        350

    """
    signal = tensor[: min(max_examples, MAX_SIGNALS)]
    channels = signal.shape[1] if signal.ndim == 3 else 1  # noqa: PLR2004
    signal = (signal[:, 0] if signal.ndim == 3 else signal).float()  # noqa: PLR2004
    count, length = signal.shape
    columns = 1 if count <= 2 else 2  # noqa: PLR2004 - as many as fit below each other
    width = (WIDTH + GAP) // columns - GAP
    sides = math.ceil(length / width)
    padded = torch.nn.functional.pad(signal.nan_to_num(0), (0, sides * width - length)).reshape(count, width, sides)
    low, high = span
    levels = torch.linspace(high, low, STRIP, device=signal.device)[:, None]
    half = (high - low) / (2 * STRIP)
    inside = (levels <= padded.amax(2)[:, None] + half) & (levels >= padded.amin(2)[:, None] - half)
    waves = np.where(inside.cpu().numpy()[..., None], PEN, np.uint8(245))
    window = min(512, length)
    spectrum = torch.stft(
        signal.nan_to_num(0),
        window,
        hop_length=max(1, length // width),
        window=torch.hann_window(window, device=signal.device),
        center=False,
        return_complex=True,
    )
    loudness = 20 * spectrum.abs().clamp(min=1e-10).log10().flip(1)
    top = float(loudness.max())
    small = resized(loudness[:, None, ..., None], (SPECTROGRAM, width))[:, 0, ..., 0]
    cells = np.concatenate([waves, heat(small, (top - DYNAMIC_RANGE, top))], axis=1)
    made = captions(answers, count)
    picture = mosaic(cells, columns, made)
    picture.notes = [f"{length} samples" + (f", channel 0 of {channels}" if channels > 1 else "")]
    picture.notes += [f"{count} of {tensor.shape[0]} shown"] if count < tensor.shape[0] else []
    picture.notes += [
        f"spectrogram: {DYNAMIC_RANGE:.0f} dB below the loudest, frequency upwards",
        legend(answers, made),
    ]
    return picture
