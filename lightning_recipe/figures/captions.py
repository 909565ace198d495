"""What belongs to an example, its target and its prediction, in a few characters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_recipe.figures.canvas import COLOURS

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_recipe.losses.targets import Answers

WRONG = COLOURS[3]
"""The colour of a prediction that is not its target."""
MAX_VALUES = 3
"""Values of a target that are written out; of more, only the shape is."""


@dataclass(frozen=True)
class Caption:
    """The line below an example."""

    text: str = ""
    colour: str = "black"


def captions(answers: Answers, count: int) -> list[Caption]:
    """The captions of the first `count` examples: target, a bar, prediction.

    Example:
        >>> import torch
        >>> from lightning_recipe.losses.targets import Answers
        >>> digits = Answers(torch.tensor([3, 5]), torch.tensor([3, 8]))
        >>> [caption.text for caption in captions(digits, 2)]
        ['3 | 3', '5 | 8']

    """
    targets, predictions = _written(answers.target, count), _written(answers.prediction, count)
    exact = answers.target is not None and not answers.target.is_floating_point()
    made = []
    for target, prediction in zip(targets, predictions, strict=True):
        wrong = exact and "" not in {target, prediction} and target != prediction and target != str(answers.ignored)
        made.append(Caption(f"{target} | {prediction}" if prediction else target, WRONG if wrong else "black"))
    return made


def legend(answers: Answers, made: list[Caption]) -> str:
    """How to read the captions; or that there are none, and why.

    Example:
        >>> import torch
        >>> from lightning_recipe.losses.targets import Answers
        >>> legend(Answers(torch.zeros(8, 100)), [Caption()])
        'target (8, 100) not shown'

    """
    if answers.target is None and answers.prediction is None:
        return "no target found"
    if not any(caption.text for caption in made):
        tensor = answers.target if answers.target is not None else answers.prediction
        return f"target {tuple(tensor.shape)} not shown" if tensor is not None else ""
    reads = "label: target | prediction" if any("|" in caption.text for caption in made) else "label: target"
    return reads + (", orange if they differ" if any(caption.colour == WRONG for caption in made) else "")


def _written(tensor: Tensor | None, count: int) -> list[str]:
    if tensor is None or tensor.ndim == 0:
        return [""] * count
    rows = tensor[:count].detach().flatten(1) if tensor.ndim > 1 else tensor[:count].detach()[:, None]
    width = rows.shape[1]
    values = rows.cpu().tolist() if 0 < width <= MAX_VALUES or _is_many_hot(rows) else []
    texts = [_text(row) for row in values]
    return (texts + [""] * count)[:count]


def _is_many_hot(rows: Tensor) -> bool:
    return MAX_VALUES < rows.shape[1] <= 1000 and bool(((rows == 0) | (rows == 1)).all())  # noqa: PLR2004


def _text(row: list[float]) -> str:
    if len(row) > MAX_VALUES:
        return "{" + ",".join(str(i) for i, value in enumerate(row) if value) + "}"
    return " ".join(str(int(value)) if isinstance(value, int) else f"{value:.3g}" for value in row)
