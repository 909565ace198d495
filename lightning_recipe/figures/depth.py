"""What comes through a network, forward and back, across its depth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_recipe.figures.axes import Axis, axes
from lightning_recipe.figures.canvas import COLOURS, LINE
from lightning_recipe.figures.experiments import key
from lightning_recipe.figures.picture import BODY, Box, Picture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def across_depth(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Picture:
    """A panel for each quantity, on a logarithmic scale over the number of the layer, with a line for each look.

    Args:
        panels: By title: by the name of the look, one value for each layer, from the first to the last. What is not
            positive is left out.

    Example:
        >>> looks = {"step 1": [1.0, 0.9, 1.1], "step 100": [1.0, 0.1, 0.01]}
        >>> across_depth({"std of outputs": looks, "gradient": looks}).title
        'layer by layer'

    """
    picture = Picture("layer by layer")
    names = list(next(iter(panels.values())))
    width, bottom = BODY.width / len(panels), BODY.bottom - LINE * len(names)
    for i, (title, looks) in enumerate(panels.items()):
        values = [np.asarray(look, np.float64) for look in looks.values()]
        known = np.concatenate([look[np.isfinite(look) & (look > 0)] for look in values])
        low, high = (float(known.min()), float(known.max())) if len(known) else (1.0, 1.0)
        x, y = Axis(1, max(2, *map(len, values))), Axis(min(low / 2, high / 20), 2 * high, "log")
        box = Box(BODY.left + i * width, BODY.top, BODY.left + (i + 1) * width - 8, bottom)
        frame = axes(picture, x, y, box=box, names=("layer", title))
        for look, colour in zip(values, COLOURS, strict=False):
            points = frame.points(np.arange(1, len(look) + 1), np.where(look > 0, look, np.nan))
            picture.draw(points, colour, 4)
            for across, up in points[np.isfinite(points).all(axis=1)]:
                picture.fill(Box(across - 4, up - 4, across + 4, up + 4), 0)
    key(picture, list(zip(names, COLOURS, strict=False)), bottom)
    return picture
