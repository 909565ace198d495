"""Axes with numbers on them, for what is drawn as lines and points."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_recipe.figures.canvas import FAINT, GREY, LINE, PAPER, text_width
from lightning_recipe.figures.picture import BODY, Box

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lightning_recipe.figures.picture import Picture

TICKS = 5
"""Numbers on an axis, about."""
MARGIN = 0.06
"""Of an axis around values, as a share of their range."""

SCALES: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "linear": lambda values: values,
    "log": np.log10,
    "from zero": np.log1p,  # logarithmic, with a place for zero
}


@dataclass(frozen=True)
class Axis:
    """Values from one end to the other.

    Args:
        low: What is at the left or bottom.
        high: What is at the right or top.
        scale: One of `SCALES`.

    Example:
        >>> Axis(0, 100).share([0, 25]), Axis(1, 100, "log").ticks()
        (array([0.  , 0.25]), [1.0, 10.0, 100.0])

    """

    low: float
    high: float
    scale: str = "linear"

    def share(self, values: Any) -> NDArray[np.float64]:
        """How far along values lie, 0 to 1."""
        forward = SCALES[self.scale]
        with np.errstate(all="ignore"):
            low, high = forward(np.array([self.low, self.high], np.float64))
            along: NDArray[np.float64] = (forward(np.asarray(values, np.float64)) - low) / ((high - low) or 1.0)
        return along

    def ticks(self) -> list[float]:
        """A few round values."""
        if self.scale == "linear":
            step = _round_step((self.high - self.low) / TICKS)
            first = math.ceil(self.low / step - 1e-9)
            return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)][: 3 * TICKS]
        least = 0 if self.scale == "from zero" else -30  # powers of ten
        powers = [10.0**i for i in range(least, 30) if self.low <= 10.0**i <= self.high * (1 + 1e-9)]
        found = ([0.0] if self.low <= 0 else []) + powers[:: math.ceil(len(powers) / (TICKS + 1)) or 1]
        return found if len(found) > 1 else [self.low, self.high]


def around(values: Any) -> Axis:
    """An axis that holds all finite values, and something around them.

    Example:
        >>> around([0, 10, float("nan")])
        Axis(low=-0.6, high=10.6, scale='linear')

    """
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    apart = (high - low) or abs(high) or 1.0
    return Axis(low - MARGIN * apart, high + MARGIN * apart)


@dataclass(frozen=True)
class Axes:
    """A part of a card, with an axis to the right and one upwards."""

    box: Box
    x: Axis
    y: Axis

    def points(self, x: Any, y: Any) -> NDArray[np.float64]:
        """Where values lie on the card, shape (n, 2); what is beyond the axes lies just outside of them."""
        left, top, right, bottom = self.box
        across = self.x.share(x).clip(-0.02, 1.02)
        up = self.y.share(y).clip(-0.02, 1.02)
        return np.stack(np.broadcast_arrays(left + across * (right - left), bottom - up * (bottom - top)), axis=-1)


def axes(picture: Picture, x: Axis, y: Axis, *, box: Box = BODY, names: tuple[str, str] = ("", "")) -> Axes:
    """Draw axes in a part of a card, numbers and names outside of what they leave for the data.

    Args:
        picture: To draw on.
        x: To the right.
        y: Upwards.
        box: The part of the card.
        names: Of `x`, written at the right below, and of `y`, written at the top.

    """
    numbers = [short(value) for value in y.ticks()]
    wide = max(map(text_width, numbers), default=0)
    inner = Box(box.left + wide + 8, box.top + (LINE if names[1] else 8), box.right - 12, box.bottom - LINE)
    made = Axes(inner, x, y)
    picture.fill(inner, PAPER)
    for value, number in zip(y.ticks(), numbers, strict=True):
        height = float(made.points(x.low, value)[1])
        picture.draw([(inner.left, height), (inner.right, height)], FAINT, 1)
        picture.write(inner.left - 6, height + 7, number, GREY, anchor="rs")
    picture.write(box.left, box.top + 18, names[1], GREY)
    end = inner.right - (text_width(names[0]) + 16 if names[0] else 0)
    for value in x.ticks():
        across = float(made.points(value, y.low)[0])
        if across + text_width(short(value)) / 2 <= end:
            picture.draw([(across, inner.bottom), (across, inner.bottom + 5)], GREY, 2)
            picture.write(across, box.bottom - 4, short(value), GREY, anchor="ms")
    picture.write(inner.right, box.bottom - 4, names[0], GREY, anchor="rs")
    return made


def short(value: float) -> str:
    """A number in few characters.

    Example:
        >>> [short(value) for value in (0, 0.25, 20, 1500, 2e6, 1e-5)]
        ['0', '0.25', '20', '1.5k', '2M', '1e-05']

    """
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if factor <= abs(value) < 1000 * factor:
            return f"{value / factor:.3g}{letter}"
    return f"{value:.3g}"


def ends(low: float, high: float) -> tuple[str, str]:
    """The ends of a range, each as exactly as tells them apart.

    Example:
        >>> ends(2e-6, 0.804), ends(0, 255), ends(-2.2, 2.7)
        (('0', '0.804'), ('0', '255'), ('-2.2', '2.7'))

    """
    apart = abs(high - low)
    if not (math.isfinite(apart) and apart > 0):
        return short(low), short(high)
    digits = 2 - math.floor(math.log10(apart))
    return short(round(low, digits) + 0.0), short(round(high, digits) + 0.0)


def _round_step(rough: float) -> float:
    if not (rough > 0 and math.isfinite(rough)):
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
