"""What belongs to an example, its target and its prediction, in a few characters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_recipe.figures.canvas import WRONG

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_recipe.losses.targets import Answers

MAX_VALUES = 3
"""Values of a target that are written out; of more, nothing is."""
MAX_LABELS = 1000
"""Columns of zeros and ones that are read as labels."""


@dataclass(frozen=True)
class Caption:
    """The line below an example, what is noted in a second one, and whether the prediction is wrong."""

    text: str = ""
    wrong: bool = False
    note: str = ""

    @property
    def line(self) -> str:
        """Both in one line."""
        return f"{self.text}   {self.note}".strip()

    @property
    def colour(self) -> str:
        """Of the letters."""
        return WRONG if self.wrong else "black"


def captions(answers: Answers, count: int) -> list[Caption]:
    """The captions of the first `count` examples: the target, and what was said.

    Example:
        >>> import torch
        >>> from lightning_recipe.losses.targets import Answers
        >>> digits = Answers(torch.tensor([3, 5]), torch.tensor([3, 8]))
        >>> [caption.text for caption in captions(digits, 2)]
        ['3 ✓', '5, said 8']

    """
    targets, predictions = _written(answers.target, count), _written(answers.prediction, count)
    exact = answers.target is not None and not answers.target.is_floating_point()
    made = []
    for target, said, note in zip(targets, predictions, notes(answers, count), strict=True):
        if not said or target == str(answers.ignored):
            made.append(Caption(target, note=note))
        elif exact and said == target:
            made.append(Caption(f"{target} ✓", note=note))
        else:
            text = f"{target}, said {said}" if target else f"said {said}"
            made.append(Caption(text, wrong=exact and bool(target), note=note))
    return made


def notes(answers: Answers, count: int) -> list[str]:
    """What is noted of the first `count` examples."""
    return [*answers.notes, *[""] * count][:count]


def _written(tensor: Tensor | None, count: int) -> list[str]:
    if tensor is None or tensor.ndim == 0:
        return [""] * count
    rows = tensor[:count].detach().flatten(1) if tensor.ndim > 1 else tensor[:count].detach()[:, None]
    width = rows.shape[1]
    values = rows.cpu().tolist() if 0 < width <= MAX_VALUES or _is_many_hot(rows) else []
    texts = [_text(row) for row in values]
    return (texts + [""] * count)[:count]


def _is_many_hot(rows: Tensor) -> bool:
    return MAX_VALUES < rows.shape[1] <= MAX_LABELS and bool(((rows == 0) | (rows == 1)).all())


def _text(row: list[float]) -> str:
    if len(row) > MAX_VALUES:
        return "{" + ",".join(str(i) for i, value in enumerate(row) if value) + "}"
    return " ".join(str(int(value)) if isinstance(value, int) else f"{value:.3g}" for value in row)
