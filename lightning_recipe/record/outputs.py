"""What a network returned: its tensors, and of a likelihood what it says of its numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from lightning_recipe.record.copies import snapshot
from lightning_recipe.record.tensors import holds, mapped, tensors

LEVELS = (0.1, 0.5, 0.9)
"""Of the quantiles: between the outer ones lie four of five."""
DEVIATIONS = 1.2816
"""Standard deviations of a normal distribution from its middle to the outer levels."""
_SERIES = 2  # dimensions of a number for each example and time


def returned(output: Any) -> dict[str, Tensor]:
    """The tensors in what a network returned, by path; a distribution's quantiles before its parameters.

    Args:
        output: Anything. Of distributions over several numbers for each example, shape (N, T), there are the quantiles
            at `LEVELS`, (N, T, 3); of one that knows its mean and variance only, those of the normal one; of any other
            shape the mean. Nothing is drawn at random, and of classes, yes and no there are the parameters only.

    Example:
        >>> normal = torch.distributions.Normal(torch.zeros(2, 5), torch.ones(2, 5))
        >>> {path: tuple(tensor.shape) for path, tensor in returned({"ahead": normal}).items()}
        {'ahead': (2, 5, 3), 'ahead.loc': (2, 5), 'ahead.scale': (2, 5)}

    """
    found = dict(tensors(output))
    return dict(tensors(mapped(output, Distribution, _said))) | found if holds(output, Distribution) else found


def without_parameters(output: Any) -> list[Tensor]:
    """The tensors in a record of what a network returned; of a distribution what it says, not its parameters.

    Example:
        >>> without_parameters(returned(torch.distributions.Normal(torch.zeros(2), torch.ones(2))))
        [tensor([0., 0.])]

    """
    found = dict(tensors(output))

    def is_parameter(path: str) -> bool:  # lies inside of what is a tensor
        return any(path != other and path.startswith(f"{other}." if other else "") for other in found)

    return [tensor for path, tensor in found.items() if not is_parameter(path)]


def _said(distribution: Distribution) -> Distribution | Tensor:
    if distribution.has_enumerate_support:  # classes, yes or no
        return distribution
    shape = distribution.batch_shape + distribution.event_shape
    try:
        with torch.no_grad():
            apart = snapshot(distribution)  # some keep what they were asked
            said = _quantiles(apart, shape) if len(shape) == _SERIES and shape[1] > 1 else apart.mean
    except Exception:  # noqa: BLE001 - it may be a class of the user's, or one without a mean
        return distribution
    return said if bool(said.isfinite().all()) else distribution


def _quantiles(distribution: Distribution, shape: torch.Size) -> Tensor:
    try:
        return torch.stack([distribution.icdf(torch.tensor(level)).expand(shape) for level in LEVELS], -1)
    except NotImplementedError:
        mean, away = distribution.mean, DEVIATIONS * distribution.stddev
        return torch.stack([mean - away, mean, mean + away], -1)
