"""Rows of numbers as a heat map, and any numbers as a histogram."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from lightning_recipe.figures.canvas import COLOURS
from lightning_recipe.figures.captions import captions, legend
from lightning_recipe.figures.picture import WIDTH, Picture, Text, blank, shortened, text_width
from lightning_recipe.figures.scale import plain
from lightning_recipe.figures.sequences import heat

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_recipe.losses.targets import Answers

ROW = 16
"""Pixels of a row of a table."""
GAP = 6
"""Pixels between the rows and the ranges."""
RANGES = 60
"""Pixels of height of the ranges."""
BINS = 32
MAX_COUNTED = 2**18
"""Elements in a histogram; of more, every second, third, ... is taken."""
BARS = 160
"""Pixels of height of a histogram."""
BLUE = np.array([0, 114, 178], np.uint8)
"""The first of the colours."""


def table(tensor: Tensor, answers: Answers, span: tuple[float, float], max_examples: int) -> Picture:
    """Rows of a table as a heat map, above the range of each feature (of all rows, a bar from min to max).

    Args:
        tensor: Shape (example, feature).
        answers: What belongs to the examples.
        span: The values of the darkest and the brightest colour.
        max_examples: Rows drawn at most.

    Example:
        >>> from lightning_recipe.losses.targets import Answers
        >>> picture = table(torch.rand(40, 5), Answers(torch.arange(40)), (0.0, 1.0), 16)
        >>> [text.text for text in picture.texts][-5:]
        ['0', '1', '2', '3', '4']

    """
    rows = tensor[:max_examples]
    made = captions(answers, len(rows))
    right = min(WIDTH / 2, max((text_width(caption.text) for caption in made), default=0) + 6)
    features = tensor.shape[1]
    width = round(WIDTH - right)
    columns = np.arange(width) * features // width
    picked = torch.from_numpy(np.unique(columns)).to(tensor.device)
    squeezed = np.unique(columns, return_inverse=True)[1]
    drawn = heat(rows.index_select(1, picked), span)[:, squeezed]
    top, bars = ROW * len(rows), RANGES
    picture = Picture(blank(top + GAP + bars + ROW))
    picture.raster[:top, :width] = drawn.repeat(ROW, axis=0)
    picture.raster[top + GAP : top + GAP + bars, :width] = 245
    values = plain(tensor).index_select(1, picked).cpu().double()
    values = torch.where(values.isfinite(), values, torch.nan)
    lows = values.nan_to_num(nan=math.inf).amin(0).numpy()
    highs = values.nan_to_num(nan=-math.inf).amax(0).numpy()
    low, high = span
    x = (np.arange(len(picked)) + 0.5) * width / len(picked)
    for i in np.flatnonzero(np.isfinite(lows)).tolist():
        up = np.clip((np.array([lows[i], highs[i]]) - low) / ((high - low) or 1.0), 0, 1)
        y = top + GAP + bars - 2 - (bars - 4) * up + np.array([1, -1])
        picture.lines.append((np.stack([[x[i], x[i]], y], axis=1), COLOURS[0]))
    for row, caption in enumerate(made):
        if caption.text:
            text = shortened(caption.text, WIDTH - width - 4)
            picture.texts.append(Text(width + 5, ROW * (row + 1) - 3, text, caption.colour))
    apart = features * text_width(f"{features}  ") / width  # features from one number to the next
    step = next(s * 10**power for power in range(9) for s in (1, 2, 5) if s * 10**power >= apart)
    for feature in range(0, features, step):
        middle = (feature + 0.5) * width / features
        label = str(feature)
        picture.texts.append(Text(middle - text_width(label) / 2, picture.raster.shape[0] - 3, label))
    notes = [f"{len(rows)} of {len(tensor)} shown"] if len(rows) < len(tensor) else []
    notes += [f"{len(picked)} of {features} features drawn"] if len(picked) < features else []
    picture.notes = [*notes, "bars: range of each feature", legend(answers, made)]
    return picture


def histogram(tensor: Tensor) -> Picture:
    """How often values occur, for whatever has no picture of its own.

    Example:
        >>> histogram(torch.tensor([1.0, 1.0, 2.0])).notes
        ['histogram of 3 values, peak 2']

    """
    values = plain(tensor).flatten()
    every = max(1, math.ceil(values.numel() / MAX_COUNTED))
    sample = values[::every].cpu().double().numpy()
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return Picture(blank(ROW), notes=["no finite value"] if tensor.numel() else ["empty"])
    low, high = float(sample.min()), float(sample.max())
    counts = np.histogram(sample, BINS, (low, high))[0] if high > low else np.array([0, sample.size, 0])
    height, width = BARS, WIDTH // len(counts)
    picture = Picture(blank(height + ROW))
    for i, count in enumerate(counts):
        bar = max(1, round((height - 2) * float(count) / float(counts.max()))) if count else 0
        picture.raster[height - bar : height, i * width : (i + 1) * width - 1] = BLUE
    for x, number in ((0.0, low), (1.0, high)):
        label = f"{number:.4g}"
        picture.texts.append(Text(x * (len(counts) * width - text_width(label)), height + ROW - 3, label))
    of = f"every {every}th of " if every > 1 else ""
    picture.notes = [f"histogram of {of}{values.numel()} values, peak {int(counts.max())}"]
    return picture
