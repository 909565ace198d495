"""Token ids, or the text that they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_recipe.figures.canvas import GREY, LINE, WRONG, text_width, wrapped
from lightning_recipe.figures.captions import captions, notes
from lightning_recipe.figures.picture import BODY, Box

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from lightning_recipe.figures.picture import Picture
    from lightning_recipe.losses.targets import Answers

MAX_IDS = 512
"""Ids of an example that are looked at; less than a card holds of the shortest."""
PALE = "#9A9A9A"
"""The colour of what is left out: padding, and targets that the loss ignores."""
WIDEST = 110
"""Pixels of a token at most, where tokens stand in columns."""


def tokens(
    picture: Picture, tensor: Tensor, answers: Answers, decode: Callable[..., Any] | None, max_examples: int
) -> None:
    """Token ids, or what `decode` makes of them; targets that are tokens below, in columns, so that a shift is seen.

    Args:
        picture: To draw on.
        tensor: Ids of shape (example, time).
        answers: What belongs to the examples.
        decode: Makes text of a list of ids. None to show the ids.
        max_examples: Examples drawn at most.

    Example:
        >>> import torch
        >>> from lightning_recipe.figures.picture import Picture
        >>> from lightning_recipe.losses.targets import Answers
        >>> ids, picture = torch.tensor([[5, 6, 7]]), Picture("train ids")
        >>> tokens(picture, ids[:, :-1], Answers(ids[:, 1:]), None, 4)
        >>> picture.words
        ['input', 'true', '5', '6', '6', '7']

    """
    padding = padding_id(tensor)
    rows = {"input": tensor}
    rows |= {
        name: answer
        for name, answer in (("true", answers.target), ("said", answers.prediction))
        if answer is not None and answer.ndim == 2 and not answer.is_floating_point() and answer.shape[1] > 1  # noqa: PLR2004
    }
    ids = {name: row[:max_examples, :MAX_IDS].tolist() for name, row in rows.items()}
    if padding is not None:
        picture.note = f"grey: padding ({padding})"
    if len(rows) > 1:
        ignored = {"input": padding, "true": answers.ignored}
        examples = [{name: row[i] for name, row in ids.items() if i < len(row)} for i in range(len(ids["input"]))]
        noted = notes(answers, len(examples))
        above = LINE if any(noted) else 0
        boxes = blocks(len(examples), len(rows) + bool(above))
        for box, example, note in zip(boxes, examples, noted, strict=False):
            picture.write(box.left, box.top + LINE - 7, note)
            aligned(picture, box._replace(top=box.top + above), example, ignored, decode)
        return
    texts(picture, ids["input"], captions(answers, len(ids["input"])), padding, decode)


def blocks(count: int, lines: int) -> list[Box]:
    """As many parts of the card, each of so many lines, as there are examples or fit."""
    height = lines * LINE + 8
    fit = max(1, min(count, int((BODY.height + 8) // height)))
    return [Box(BODY.left, BODY.top + i * height, BODY.right, BODY.top + i * height + lines * LINE) for i in range(fit)]


def aligned(
    picture: Picture,
    box: Box,
    example: dict[str, list[int]],
    ignored: dict[str, int | None],
    decode: Callable[..., Any] | None,
) -> None:
    """Rows of tokens by name, position below position; after "true", what differs from it is underlined in orange.

    Args:
        picture: To draw on.
        box: Where.
        example: Rows of ids by name.
        ignored: By name, the id that is left out of that row, and drawn pale; negative ones always are.
        decode: Makes text of a list of ids.

    """
    left = max(map(text_width, example)) + 14
    order = list(example)
    after = order[order.index("true") + 1 :] if "true" in example else []
    for j, name in enumerate(order):
        picture.write(box.left, box.top + (j + 1) * LINE - 7, name, GREY)
    x, last = box.left + left, max(map(len, example.values())) - 1
    for t in range(last + 1):
        words = {name: token(row[t], decode) for name, row in example.items() if t < len(row)}
        width = min(WIDEST, max(map(text_width, words.values())))
        if x + width > box.right - (text_width("..") + 12 if t < last else 0):
            picture.write(box.right, box.top + LINE - 7, "..", GREY, anchor="rs")
            break
        for name, word in words.items():
            y = box.top + (order.index(name) + 1) * LINE - 7
            pale = example[name][t] < 0 or example[name][t] == ignored.get(name)
            truth = example["true"][t] if "true" in words else None
            counts = truth is not None and truth >= 0 and truth != ignored.get("true")
            differs = name in after and counts and example[name][t] != truth
            picture.write(x, y, word, PALE if pale else WRONG if differs else "black", width=WIDEST)
            if differs:
                picture.draw([(x, y + 4), (x + min(width, text_width(word)), y + 4)], WRONG, 3)
        x += width + 12


def token(number: int, decode: Callable[..., Any] | None) -> str:
    """One token as text; spaces are visible. Ids without a text, such as those that a loss ignores, as numbers."""
    if decode is None or number < 0:
        return str(number) if number >= 0 else "-"
    try:
        word = str(decode([number]))
    except Exception:  # noqa: BLE001 - it is the user's; ids are better than nothing
        return str(number)
    return word if word.strip() else word.replace(" ", "␣") or "␣"


def texts(
    picture: Picture,
    rows: Sequence[Sequence[int]],
    made: Sequence[Any],
    padding: int | None,
    decode: Callable[..., Any] | None,
) -> None:
    """Whole rows as running text, each below its caption."""
    lines = max(1, int(BODY.height // LINE // max(1, len(rows))))
    above = 1 if any(caption.line for caption in made) and lines > 1 else 0
    for i, (row, caption) in enumerate(zip(rows, made, strict=True)):
        y = BODY.top + i * lines * LINE + LINE - 7
        if y > BODY.bottom:
            break
        if above:
            picture.write(BODY.left, y, caption.line, GREY if not caption.wrong else WRONG)
            if caption.wrong:
                picture.cross(BODY.right - 12, y - 7)
        end = len(row)
        while end and row[end - 1] == padding:
            end -= 1
        words = " ".join(map(str, row[:end]))
        if decode is not None:
            try:
                words = " ".join(str(decode(list(row[:end]))).split())
            except Exception as error:  # noqa: BLE001 - it is the user's; ids are better than nothing
                words = f"{type(error).__name__} in decode: {words}"
        written = wrapped(words, BODY.width, lines - above)
        for j, line in enumerate(written):
            picture.write(BODY.left, y + (above + j) * LINE, line)
        rest = BODY.width - (text_width(written[-1]) + 10 if written else 0)
        if end < len(row) and rest > 60:  # noqa: PLR2004 - room for an id
            picture.write(BODY.right - rest, y + (above + max(0, len(written) - 1)) * LINE,
                          " ".join(map(str, row[end:])), PALE, width=rest)  # fmt: skip


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
