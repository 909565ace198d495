"""What all pictures share: size, type, colours, and the way to pixels."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, cast

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from numpy.typing import NDArray

CARD = 3.5
"""Inches of a card: at 100 dots per inch the 350 pixels at which TensorBoard shows an image unscaled."""
DPI = 100
FONT_SIZE = 11
"""Points; smaller is not legible on a card."""
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
"""Okabe and Ito (2008), Color Universal Design: told apart with any kind of colour vision."""


def card(title: str, *, width: float = CARD, height: float = CARD) -> Figure:
    """An empty figure with a title, white so that it reads in TensorBoard's dark theme too.

    Args:
        title: One or more lines.
        width: Inches.
        height: Inches.

    Example:
        >>> card("Inputs").get_suptitle()
        'Inputs'

    """
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=FONT_SIZE)
    return figure


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """The figure as an image, for TensorBoard.

    Returns:
        Array of shape (height, width, 3), 0 to 255.

    Example:
        >>> pixels(card("Inputs")).shape
        (350, 350, 3)

    """
    canvas = cast("FigureCanvasAgg", figure.canvas)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs that a font lacks
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
