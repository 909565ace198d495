"""Token ids, or the text that they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_recipe.figures.captions import Caption, captions, legend
from lightning_recipe.figures.picture import WIDTH, Picture, Text, blank, shortened, text_width

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from lightning_recipe.losses.targets import Answers

MAX_ROWS = 21
"""Lines of a card."""
LINE = 15
"""Pixels from one of them to the next."""
GAP = 4
"""Pixels between examples."""
MAX_IDS = 512
"""Ids of an example that are looked at; less than a line holds of the shortest."""
GREY = "#767676"
"""The colour of padding, as light as WCAG 2.1 allows for text on white."""


def tokens(tensor: Tensor, answers: Answers, decode: Callable[..., Any] | None, max_examples: int) -> Picture:
    """Token ids, or what `decode` makes of them, an example in a row, padding in grey; targets that are tokens below.

    Args:
        tensor: Ids of shape (example, time).
        answers: What belongs to the examples.
        decode: Makes text of a list of ids. None to show the ids.
        max_examples: Examples drawn at most.

    Example:
        >>> from lightning_recipe.losses.targets import Answers
        >>> import torch
        >>> picture = tokens(torch.tensor([[5, 6, 0, 0], [7, 8, 9, 0]]), Answers(torch.tensor([1, 0])), None, 16)
        >>> [text.text for text in picture.texts]
        ['1', '5 6', '0 0', '0', '7 8 9', '0']

    """
    rows = [("", tensor)]
    for name, answer in (("target", answers.target), ("said", answers.prediction)):
        if answer is not None and answer.ndim == 2 and not answer.is_floating_point() and answer.shape[1] > 1:  # noqa: PLR2004
            rows.append((name, answer))
    count = min(max_examples, tensor.shape[0], MAX_ROWS // len(rows))
    made = [Caption()] * count if len(rows) > 1 else captions(answers, count)
    padding = padding_id(tensor)
    labels = [name or "input" for name, _ in rows] if len(rows) > 1 else [caption.text for caption in made]
    left = max(text_width(label) for label in labels) + 8 if any(labels) else 0
    left = min(left, WIDTH / 3)
    picture = Picture(blank(max(1, count * len(rows) * LINE + count * GAP)))
    for i in range(count):
        for j, (name, ids) in enumerate(rows):
            y = i * (len(rows) * LINE + GAP) + (j + 1) * LINE - 3
            label = (name or "input") if len(rows) > 1 else made[i].text
            if label:
                picture.texts.append(Text(0, y, shortened(label, left), made[i].colour))
            row = ids[i, :MAX_IDS].tolist() if i < len(ids) else []
            _write(picture, left, y, row, padding, answers.ignored if name == "target" else None, decode)
    notes = [f"{tensor.shape[1]} tokens"]
    notes += [f"{count} of {tensor.shape[0]} shown"] if count < tensor.shape[0] else []
    if padding is not None:
        notes.append(f"padding {padding} in grey, {float((tensor == padding).float().mean()):.0%}")
    picture.notes = [*notes, "input above target" if len(rows) > 1 else legend(answers, made)]
    return picture


def _write(  # noqa: PLR0913, PLR0917
    picture: Picture,
    left: float,
    y: float,
    row: list[int],
    padding: int | None,
    ignored: int | None,
    decode: Callable[..., Any] | None,
) -> None:
    end = len(row)
    while end and row[end - 1] in {padding, ignored}:
        end -= 1
    words = " ".join(map(str, row[:end]))
    if decode is not None:
        try:
            words = " ".join(str(decode([value for value in row[:end] if value != ignored])).split())
        except Exception as error:  # noqa: BLE001 - it is the user's; ids are better than nothing
            words = f"{type(error).__name__} in decode: {words}"
    x = left
    for text, colour in ((words, "black"), (" ".join(map(str, row[end:])), GREY)):
        if text and x < WIDTH - 10:  # room for a letter
            picture.texts.append(Text(x, y, shortened(text, WIDTH - x), colour))
            x += text_width(text[:100] + " ")


def padding_id(ids: Tensor) -> int | None:
    """The id that fills up the rows, or None: the most frequent last one, if a row ends in a run of it.

    A run is two of them; four if there is a single row. Padding surrounds the content: an id that also stands within
    it is none, such as that of the space in characters.

    Example:
        >>> import torch
        >>> padding_id(torch.tensor([[5, 6, 0, 0], [7, 8, 9, 0], [1, 0, 0, 0]]))
        0
        >>> padding_id(torch.tensor([[5, 6, 7], [7, 8, 9]])) is None
        True
        >>> padding_id(torch.tensor([[5, 0, 6, 0], [7, 8, 0, 0]])) is None
        True

    """
    run = 2 if len(ids) > 1 else 4
    if ids.shape[1] <= run:
        return None
    last = int(ids[:, -1].cpu().mode().values)
    content = ids != last
    runs = ~content[:, -run:].any(dim=1)
    begun = content.cumsum(dim=1)
    within = ~content & (begun > 0) & (begun < begun[:, -1:])
    return last if bool(runs.any()) and bool(content.any()) and not bool(within.any()) else None
