"""Sounds as spectrograms, below their waveforms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import adaptive_max_pool1d

from lightning_recipe.figures.axes import ends, short
from lightning_recipe.figures.canvas import COLOURS, GREY, LINE, PAPER, heat, rgb
from lightning_recipe.figures.captions import captions
from lightning_recipe.figures.grid import resized
from lightning_recipe.figures.sequences import panels

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from lightning_recipe.figures.picture import Picture
    from lightning_recipe.losses.targets import Answers

WAVE = 0.3
"""Share of the height that the waveform takes."""
DYNAMIC_RANGE = 80.0
"""Decibels below the loudest that are still told apart in a spectrogram; what audio tools show by default."""
IN_VIEW = 0.99
"""Share of the energy that lies below the highest frequency shown."""
WINDOW = 512
"""Samples of which a spectrum is taken."""


def audio(
    picture: Picture,
    tensor: Tensor,
    answers: Answers,
    span: tuple[float, float],
    rate: float | None = None,
) -> None:
    """Signals as waveforms (the extremes in each column of pixels) above their spectrograms.

    Args:
        picture: To draw on.
        tensor: Signals of shape (example, time) or (example, channel, time); the first channel is drawn.
        answers: What belongs to the examples.
        span: The values at the bottom and the top of the waveforms.
        rate: Samples per second. Without it, time is in samples and frequency in shares of the rate.

    Example:
        >>> from lightning_recipe.losses.targets import Answers
        >>> from lightning_recipe.figures.picture import Picture
        >>> picture = Picture("train sound")
        >>> audio(picture, torch.rand(2, 4000) - 0.5, Answers(), (-1.0, 1.0), rate=8000)
        >>> picture.words[-1]
        '0.5 s'

    """
    signal = (tensor[:, 0] if tensor.ndim == 3 else tensor).float().nan_to_num(0)  # noqa: PLR2004
    loudness, highest = spectrogram(signal)
    top = float(loudness.max())
    boxes = panels(picture, captions(answers, len(signal)))
    for i, box in enumerate(boxes):
        width, height = int(box.width), int(box.height)
        tall = round(WAVE * height)
        picture.paste(box.left, box.top, waveform(signal[i], span, (tall, width)))
        small = resized(loudness[i : i + 1].flip(1), (height - tall - 2, width))[0]
        picture.paste(box.left, box.top + tall + 2, heat(small.cpu().double().numpy(), (top - DYNAMIC_RANGE, top)))
    picture.note = "wave {} to {}".format(*ends(*span))
    y = boxes[-1].bottom + LINE - 4
    heard = f"0 to {short(highest * rate)} Hz upwards" if rate else f"0 to {highest:.2g} of the rate upwards"
    picture.write(boxes[0].left, y, heard, GREY)
    length = signal.shape[1]
    picture.write(boxes[-1].right, y, f"{length / rate:.3g} s" if rate else f"{length} samples", GREY, anchor="rs")


def waveform(signal: Tensor, span: tuple[float, float], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The extremes of each column of pixels, as an image of that size (height, width)."""
    height, width = size
    largest, least = (factor * adaptive_max_pool1d(factor * signal[None], width)[0] for factor in (1, -1))
    low, high = span
    levels = torch.linspace(high, low, height, device=signal.device)[:, None]
    half = (high - low) / (2 * height)
    inside = (levels <= largest + half) & (levels >= least - half)
    return np.where(inside.cpu().numpy()[..., None], rgb(COLOURS[0]), np.uint8(PAPER))


def spectrogram(signal: Tensor) -> tuple[Tensor, float]:
    """Loudness in decibels of signals (n, time), shape (n, frequency, time), and the highest frequency.

    What lies a quarter above the frequency below which `IN_VIEW` of the energy is, is left out.

    Returns:
        The loudness, and the highest frequency in it as a share of the sampling rate, at most 0.5.

    """
    window = min(WINDOW, signal.shape[1])
    spectrum = torch.stft(
        signal,
        window,
        hop_length=max(1, signal.shape[1] // 640),
        window=torch.hann_window(window, device=signal.device),
        center=False,
        return_complex=True,
    ).abs()
    energy = spectrum.square().sum((0, 2))
    rows = len(energy)
    within = int((energy.cumsum(0) < IN_VIEW * energy.sum()).sum()) + 1
    shown = max(min(rows, 16), min(rows, round(1.25 * within)))
    return 20 * spectrum[:, :shown].clamp(min=1e-10).log10(), 0.5 * shown / rows
