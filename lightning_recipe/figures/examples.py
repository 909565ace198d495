"""A few examples, each told by where it is found: as pictures, or else as rows of a list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_recipe.figures.canvas import GREY, LINE, wrapped
from lightning_recipe.figures.captions import Caption, captions
from lightning_recipe.figures.images import pairs
from lightning_recipe.figures.inputs import input_card
from lightning_recipe.figures.kinds import Kind, recognise
from lightning_recipe.figures.picture import BODY, Picture
from lightning_recipe.figures.scale import PICTURED, span_of, statistics
from lightning_recipe.losses.targets import Answers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from lightning_recipe.figures.kinds import Reading

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


def pairs_card(
    title: str, rows: Tensor | list[str], indices: Sequence[tuple[int, int]], decode: Callable[..., Any] | None
) -> Picture:
    """Examples of training, each with one of validation: images below each other, all else one after the other.

    Args:
        title: What they have in common.
        rows: Two for each pair, that of training first: of shape (2 * N, ...), or texts.
        indices: Of the two of each pair, in their data sets.
        decode: Makes text of a list of token ids.

    Example:
        >>> import torch
        >>> pairs_card("in both", torch.rand(4, 1, 8, 8), [(4, 1), (7, 2)], None).words
        ['train', 'val', '#4, #1', '#7, #2']
        >>> pairs_card("in both", ["a text", "a text"], [(4, 1)], None).words
        ['train #4', 'a text', 'val #1', 'a text']

    """
    notes = tuple(note for train, val in indices for note in (f"train #{train}", f"val #{val}"))
    if isinstance(rows, list):
        return _written(title, rows[:LARGE], notes)
    reading = recognise(rows)
    if reading.kind not in PICTURED:
        kept = len(rows) if reading.kind in LISTED else LARGE
        return examples_card(title, rows[:kept], reading, Answers(notes=notes[:kept]), decode)
    picture = Picture(title)
    span = span_of(statistics(rows), rows.dtype, reading.kind)
    pairs(picture, rows, reading, span, [Caption(f"#{train}, #{val}") for train, val in indices])
    return picture


def _written(title: str, texts: list[str], notes: Sequence[str]) -> Picture:
    picture, each = Picture(title), BODY.height / LARGE
    for i, (text, note) in enumerate(zip(texts, notes, strict=False)):
        y = BODY.top + i * each + LINE - 7
        picture.write(BODY.left, y, note, GREY)
        for j, line in enumerate(wrapped(text, BODY.width, int(each / LINE) - 1)):
            picture.write(BODY.left, y + (j + 1) * LINE, line)
    return picture
