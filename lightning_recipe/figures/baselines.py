"""A model beside dumb baselines, as bars."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning_recipe.figures.axes import short
from lightning_recipe.figures.canvas import COLOURS, FAINT, GREY, rgb, text_width
from lightning_recipe.figures.picture import BODY, Box, Picture

if TYPE_CHECKING:
    from collections.abc import Mapping

TALLEST = 48
"""Pixels of a row, at most."""


def baselines_card(
    title: str, scores: Mapping[str, tuple[float, float]], humans: Mapping[str, tuple[float, float]], *, share: bool
) -> Picture:
    """A bar for each score, with its standard error; below, what a human reaches.

    Args:
        title: What the scores are.
        scores: Scores and their standard errors; that of "model" is set off.
        humans: By the name of a metric, what the model reaches, and a human.
        share: Whether the scores are shares, 0 to 1, not losses.

    Example:
        >>> card = baselines_card("answers right", {"model": (0.9, 0.02), "constant": (0.1, 0.02)}, {}, share=True)
        >>> card.words
        ['model', '0.9', 'constant', '0.1']

    """
    picture = Picture(title, "larger is better" if share else "smaller is better")
    rows = [(name, value, error, name == "model") for name, (value, error) in scores.items()]
    groups = [(rows, 1.0 if share else max(value + error for _, value, error, _ in rows))]
    for name, (reached, human) in humans.items():
        pair = [(name, reached, 0.0, True), ("human", human, 0.0, False)]
        groups.append((pair, max(abs(reached), abs(human), 1.0 if share else 0.0)))
    height = min(TALLEST, BODY.height / (sum(len(group) for group, _ in groups) + 0.4 * (len(groups) - 1)))
    left = BODY.left + 12 + max(text_width(name) for group, _ in groups for name, *_ in group)
    right = BODY.right - 12 - max(text_width(short(value)) for group, _ in groups for _, value, *_ in group)
    top = BODY.top
    for group, most in groups:
        for row in group:
            _row(picture, Box(left, top, right, top + height), row, most)
            top += height
        top += 0.4 * height
    return picture


def _row(picture: Picture, box: Box, row: tuple[str, float, float, bool], most: float) -> None:
    """Name at the left, the bar from zero, a line as long as two standard errors, and the number at the right."""
    name, value, error, own = row
    middle = box.top + box.height / 2

    def place(number: float) -> float:
        share = number / most if most and math.isfinite(number) else 0.0
        return box.left + box.width * min(1.0, max(0.0, share))

    picture.write(box.left - 10, middle + 7, name, anchor="rs")
    colour = rgb(COLOURS[0] if own else FAINT)
    picture.fill(Box(box.left, box.top + 4, max(box.left + 2, place(value)), box.bottom - 4), colour)
    if error:
        picture.draw([(place(value - error), middle), (place(value + error), middle)], "black", 3)
    picture.write(box.right + 10, middle + 7, short(value), "black" if own else GREY)
