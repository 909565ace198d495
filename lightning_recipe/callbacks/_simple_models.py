"""The dumb baselines themselves: a constant, the previous value, the nearest neighbours, a linear model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_recipe.losses.table import TABLE, Constant, Family, Takes

if TYPE_CHECKING:
    from lightning_recipe.callbacks._baselines import Known, Pairs
    from lightning_recipe.record.step import LossCall

Model = Callable[[Tensor, Tensor], Tensor]
"""From features and last values to shares of classes, probabilities or numbers, of shape (N, K)."""

FEWEST = 50
"""Examples that simple models are fitted on, at least."""
WEIGHTS = ("weight", "pos_weight")
"""Arguments of loss functions by which some answers count more than others."""
PREVIOUS = "previous value"
CLASSES = 100
"""Classes that they tell apart, at most."""
NEIGHBOURS = 5
"""As scikit-learn's default."""
RIDGES = tuple(10.0**power for power in range(-1, 5))
"""Strengths of the linear model's penalty, of which that with the lowest error on examples left out is taken."""
GOES_ON = 0.5
"""Share of the targets' variance that is left after the previous value, below which it is a forecast."""
OTHER_UNIT = 0.1
"""The same where it is in another unit than the targets, which is fitted: a loss may be of what was scaled."""


def constant(known: Known, call: LossCall) -> Tensor:
    """The prediction that is the same for all examples, one number for each class or output; in the loss's units.

    Of classes their frequencies, one more of each than there were (Laplace), times their weights in the loss.

    Args:
        known: Of training.
        call: Of training, too: what weights make best there is what is learnt, also if validation has none.

    Example:
        >>> from lightning_recipe.callbacks._baselines import Known
        >>> from lightning_recipe.record.step import LossCall
        >>> arguments = {"input": torch.zeros(4, 2), "target": torch.tensor([0, 0, 0, 1])}
        >>> call = LossCall("cross_entropy", F.cross_entropy, arguments, torch.tensor(0.7), 4, "a.py:1", False)
        >>> constant(Known(torch.tensor([5.0, 1.0]), 6), call).exp()
        tensor([0.7500, 0.2500])

    """
    loss = TABLE[call.name]
    if loss.answers is Family.CLASSES:
        shares = (known.total + 1) * _weight(call, "weight", len(known.total))
        return (shares / shares.sum()).log()
    if loss.answers is Family.YES_NO:
        odds = (known.total + 1) / (known.count - known.total + 1) * _weight(call, "pos_weight", len(known.total))
        return odds.log() if loss.takes is Takes.LOGITS else odds / (1 + odds)
    if loss.constant is Constant.MEAN or not known.rows:
        return known.total / known.count
    return torch.cat(known.rows).median(0).values


def _weight(call: LossCall, name: str, outputs: int) -> Tensor | float:
    weight = call.arguments.get(name)
    if not isinstance(weight, Tensor):
        return 1.0
    weight = weight.detach().cpu().double()
    return weight.flatten() if weight.numel() == outputs else weight.mean()


def is_weighted(call: LossCall) -> bool:
    """Whether some answers count more than others, which simple models do not know."""
    return any(isinstance(call.arguments.get(name), Tensor) for name in WEIGHTS)


class Simple(NamedTuple):
    """Models that were fitted on training examples.

    Attributes:
        models: From features and last values to shares of classes, probabilities or numbers, of shape (N, K).
        width: Features of an example.
        fitted_on: Examples.

    """

    models: dict[str, Model]
    width: int
    fitted_on: int


def simple_models(pairs: Pairs | None, call: LossCall) -> Simple | None:
    """The nearest neighbours, a linear model, and the previous value where that is a forecast.

    Args:
        pairs: What they are fitted on, if there is anything.
        call: Of the loss, whose family tells what there is to predict.

    """
    kind = TABLE[call.name].answers
    classes = call.arguments["input"].shape[1] if kind is Family.CLASSES else 0
    if pairs is None or len(pairs.features) < FEWEST or classes > CLASSES:
        return None
    aims = F.one_hot(pairs.targets[:, 0].long().clamp(0, classes - 1), classes).float() if classes else pairs.targets
    mean, std = pairs.features.mean(0), pairs.features.std(0, correction=0)
    std = torch.where(std > 0, std, 1.0)
    rows, middle = (pairs.features - mean) / std, aims.mean(0)
    weights = ridge(rows.double(), aims.double()).float()
    models: dict[str, Model] = {
        "nearest neighbours": lambda x, _: aims[nearest(rows, (x - mean) / std)].mean(1),
        "linear model": lambda x, _: (x - mean) / std @ weights + middle,
    }
    if kind is Family.NUMBERS and (found := goes_on(pairs)) is not None:
        columns, slopes, offsets = found
        models[PREVIOUS] = lambda _, last: last[:, columns] * slopes + offsets
    return Simple(models, *rows.shape[::-1])


def nearest(rows: Tensor, others: Tensor) -> Tensor:
    """Indices, of shape (n, `NEIGHBOURS`), of the rows that are nearest to each of the others.

    Example:
        >>> nearest(torch.arange(9.0).unsqueeze(1), torch.tensor([[0.0], [8.0]])).sort().values.tolist()
        [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]

    """
    return torch.cdist(others, rows).topk(min(NEIGHBOURS, len(rows)), largest=False).indices


def ridge(rows: Tensor, aims: Tensor) -> Tensor:
    """Weights of shape (D, K) of a ridge regression of centred rows (N, D) on targets (N, K).

    Its penalty is the one with the lowest mean squared error on examples left out, which the diagonal of the hat matrix
    gives without fitting again (G. Golub, M. Heath and G. Wahba, 1979).

    Example:
        >>> x = torch.linspace(-1, 1, 50, dtype=torch.float64).unsqueeze(1)
        >>> ridge(x, 3 * x + 7).round(decimals=1)
        tensor([[3.]], dtype=torch.float64)

    """
    squares, v = torch.linalg.eigh(rows.T @ rows)
    squares, centred = squares.clamp(min=0), aims - aims.mean(0)
    along, turned = rows @ v, v.T @ (rows.T @ centred)
    best, found = float("inf"), rows.new_zeros(rows.shape[1], aims.shape[1])
    for strength in RIDGES:
        shrunk = turned / (squares + strength).unsqueeze(1)
        hat = (along.square() / (squares + strength)).sum(1, keepdim=True) + 1 / len(rows)
        left_out = (centred - along @ shrunk) / (1 - hat).clamp(min=1e-3)
        if (error := float(left_out.square().mean())) < best:
            best, found = error, v @ shrunk
    return found


def goes_on(pairs: Pairs) -> tuple[list[int], Tensor, Tensor] | None:
    """For each target the feature of a window whose last value forecasts it, and its unit: a factor and an offset.

    Returns:
        None if targets do not go on where windows end.

    Example:
        >>> from lightning_recipe.callbacks._baselines import Pairs
        >>> walk = torch.arange(50.0).reshape(25, 2)
        >>> goes_on(Pairs(walk, walk, walk.flip(1) + 0.1))
        ([1, 0], tensor([1., 1.]), tensor([0., 0.]))
        >>> goes_on(Pairs(walk, walk[:, :1], 3 + walk[:, :1] / 10))
        ([0], tensor([0.1000]), tensor([3.]))
        >>> goes_on(Pairs(walk, walk, -walk)) is None
        True

    """
    aims, last = pairs.targets, pairs.last
    if not last.shape[1]:
        return None
    spread = (aims - aims.mean(0)).square().mean(0)
    errors = torch.stack([(aims - value.unsqueeze(1)).square().mean(0) for value in last.T])
    least, columns = errors.min(0)
    if least.mean() < GOES_ON * spread.mean():
        return columns.tolist(), torch.ones(len(columns)), torch.zeros(len(columns))
    middle, centred = last.mean(0), (last - last.mean(0)).double()
    slopes = centred.T @ (aims - aims.mean(0)).double() / centred.square().sum(0).clamp(min=1e-12).unsqueeze(1)
    errors = _left(centred, slopes, aims)
    least, columns = errors.min(0)
    chosen = slopes[columns, torch.arange(len(columns))].float()
    if float(least.mean()) < OTHER_UNIT * float(spread.mean()) and bool((chosen > 0).all()):
        return columns.tolist(), chosen, aims.mean(0) - chosen * middle[columns]
    return None


def _left(centred: Tensor, slopes: Tensor, aims: Tensor) -> Tensor:
    """Mean squares that are left of targets after each value times its slope, of shape (F, K)."""
    above = (aims - aims.mean(0)).double()
    return torch.stack(
        [(above - value.unsqueeze(1) * slope).square().mean(0) for value, slope in zip(centred.T, slopes, strict=True)]
    )
