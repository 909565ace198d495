"""Features that are standardised in the one of training and validation, and as they were measured in the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from torch import Tensor

ABOUT_ONE = (0.3, 3.0)
"""Standard deviations of what may have been standardised: a batch, and a part of a table, are not all there is."""
WIDER = 10.0
"""Times as large a standard deviation, from which the other one was not standardised: other examples vary by less. Of
`FEW` values twice as much comes by chance, and four times as much of those with a long tail: in tables of
six log-normal ones that vary 6 times as much, it was told of one in 200, and of one in 3 without this."""
TAILED = 0.65
"""Standard deviation, as a share of the range of the middle two thirds, from which values have a long tail: 0.52 of
normal ones, 1 of log-normal ones."""
SHIFTED = 2.5
"""Distance of the means, in the larger of both standard deviations, from which twice as large a deviation will do."""
FEW = 16
"""Values of a feature by which nothing is said."""


def feature_dim(layer: nn.Module, values: Tensor) -> int:
    """The dimension of features: channels of convolutions and norms, the last one of all other layers.

    Example:
        >>> feature_dim(nn.Conv1d(3, 8, 5), torch.zeros(4, 3, 9)), feature_dim(nn.Linear(3, 8), torch.zeros(4, 9, 3))
        (1, 2)

    """
    return 1 if values.ndim > 1 and isinstance(layer, _ConvNd | _NormBase) else values.ndim - 1


def unstandardised(train: Tensor, val: Tensor, dim: int) -> dict[int, float]:
    """By feature, how many times wider it is where it is not standardised.

    What is narrower may be a part of the same: the first examples of what is in order of time. So the narrower one has
    to be around 0, with a standard deviation of about 1, and it is not a few values that are far off.

    Args:
        train: What entered in training.
        val: What entered in validation.
        dim: Of features.

    Example:
        >>> x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
        >>> decibels, later = x * torch.tensor([1.0, 8]) - torch.tensor([0.0, 38]), x / 20 + 3
        >>> list(unstandardised(x, decibels, 1)), unstandardised(x, later, 1)
        ([1], {})

    """
    if train.ndim <= dim or val.ndim <= dim or train.shape[dim] != val.shape[dim]:
        return {}
    one, other = (values.detach().float().movedim(dim, 0).flatten(1) for values in (train, val))
    if min(one.shape[1], other.shape[1]) < FEW:
        return {}
    deviations = torch.stack([one.std(1), other.std(1)])
    means = torch.stack([one.mean(1), other.mean(1)])
    middles = torch.stack([_middle(one), _middle(other)])
    narrow = deviations.argmin(0, keepdim=True)
    std, mean, middle = (of.gather(0, narrow)[0] for of in (deviations, means, middles))
    wide, far, wide_middle = (of.gather(0, 1 - narrow)[0] for of in (deviations, means, middles))
    around = (std > ABOUT_ONE[0]) & (std < ABOUT_ONE[1]) & (mean.abs() < std) & (middle > 0)
    ratio = torch.minimum(wide / std, wide_middle / middle)
    by_chance = (FEW / min(one.shape[1], other.shape[1])) ** 0.5 * (1 + 2 * (wide > TAILED * wide_middle))
    apart = (ratio > WIDER * (1 + by_chance)) | ((ratio > 2) & ((far - mean).abs() > SHIFTED * wide))  # noqa: PLR2004
    return {int(i): float(ratio[i]) for i in (around & apart).nonzero().flatten()}


def of_features(name: str, train: Tensor, val: Tensor, layer: nn.Module) -> Outcome | None:
    """What is to be said of the features that enter a layer, if some are standardised in one of both only."""
    dim = feature_dim(layer, train)
    found = unstandardised(train, val, dim)
    if not found:
        return None
    worst = max(found, key=lambda feature: found[feature])
    which = "" if train.shape[dim] == 1 else f" in feature {worst}, the farthest of {len(found)}"
    before, now = (_described(values.select(dim, worst)) for values in (train, val))
    return Outcome(
        Status.WARNING,
        "validation_differs",
        f"{name} gets{which} {before} in training, {now} in validation: only one of them is standardised",
        "normalise both with the same numbers, those of the training set",
        {"ratio": found[worst], "features": len(found)},
    )


def _described(values: Tensor) -> str:
    return f"a mean of {float(values.float().mean()):.3g} and a standard deviation of {float(values.float().std()):.3g}"


def _middle(values: Tensor) -> Tensor:
    """How far the middle two thirds of each row lie apart."""
    ordered = values.sort(1).values
    return ordered[:, values.shape[1] * 5 // 6] - ordered[:, values.shape[1] // 6]
