"""A few examples, each told by where it is found: as pictures, or else as rows of a list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_recipe.figures.canvas import GREY, LINE
from lightning_recipe.figures.captions import captions
from lightning_recipe.figures.inputs import input_card
from lightning_recipe.figures.kinds import Kind
from lightning_recipe.figures.picture import BODY, Picture

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from lightning_recipe.figures.kinds import Reading
    from lightning_recipe.losses.targets import Answers

LARGE = 4
"""Examples drawn as pictures."""
LISTED = {Kind.TABULAR, Kind.GRAPH, Kind.OTHER}
"""Kinds of which single examples have no picture."""
NUMBERS = 12
"""Of an example in a list, at most."""


def examples_card(
    title: str, entered: Tensor | None, reading: Reading | None, answers: Answers, decode: Callable[..., Any] | None
) -> Picture:
    """Examples with target, prediction and what is noted of each.

    Args:
        title: What they have in common.
        entered: What entered the network, of shape (N, ...); None if nobody knows.
        reading: How to read it.
        answers: What belongs to the examples, with notes.
        decode: Makes text of a list of token ids.

    Example:
        >>> import torch
        >>> from lightning_recipe.losses.targets import Answers
        >>> answers = Answers(torch.tensor([5]), torch.tensor([8]), notes=("#17: 2.5",))
        >>> examples_card("val: highest loss", None, None, answers, None).words
        ['#17: 2.5', '5, said 8']

    """
    if entered is not None and reading is not None and reading.kind not in LISTED:
        return input_card(title, entered, reading, answers, max_examples=LARGE, decode=decode)
    return listed(title, entered, answers)


def listed(title: str, entered: Tensor | None, answers: Answers) -> Picture:
    """Examples in lines: what is noted, target and prediction, and the first numbers that entered."""
    picture, made = Picture(title), captions(answers, len(answers.notes))
    for i, caption in enumerate(made):
        y = BODY.top + (i + 1) * LINE
        picture.write(BODY.left, y, caption.note, width=0.24 * BODY.width)
        picture.write(BODY.left + 0.26 * BODY.width, y, caption.text, caption.colour, width=0.2 * BODY.width)
        if entered is not None:
            numbers = " ".join(f"{value:.2g}" for value in entered[i].flatten()[:NUMBERS].tolist())
            picture.write(BODY.left + 0.48 * BODY.width, y, numbers, GREY, width=0.52 * BODY.width)
    return picture
