"""Inputs that were scaled by the statistics of whatever batch they came in: of its moments, or of its extremes."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_recipe.callbacks._normalization import FEW

MANY = 32
"""Examples of which none has the lowest and none the highest value of all features by chance."""
FEATURES = 3
"""Features of which one example each has the lowest and the highest value, at least, and half of all, since others are
often 0: one alone may be a time from 0 to 1."""
MEAN, DEVIATION = 1e-4, 1e-3
"""How far from 0 and 1 the moments of a batch are that it was scaled by: rounding."""


def scaled_by(train: Tensor, val: Tensor) -> str:
    """What each of two batches was scaled to by itself, as a part of a sentence; empty where neither was, or one only.

    Args:
        train: What enters a layer in training, of shape (N, ...).
        val: What enters it in validation, of another number of examples, it may be.

    Example:
        >>> a, b = torch.randn(64, 5), torch.randn(40, 5)
        >>> scaled_by(a, b), scaled_by((a - a.mean(0)) / a.std(0), (b - b.mean(0)) / b.std(0))
        ('', 'mean 0 and standard deviation 1')
        >>> a, b = ((x - x.amin(0)) / (x.amax(0) - x.amin(0)) for x in (a, b))
        >>> scaled_by(a, b), scaled_by(a[:16], b)
        ('each feature from exactly 0 to exactly 1', '')

    """
    if is_standardised_alone(train) and is_standardised_alone(val):
        return "mean 0 and standard deviation 1"
    if train.ndim != 2 or val.shape[1:] != train.shape[1:] or min(len(train), len(val)) < MANY:  # noqa: PLR2004
        return ""
    sorted_ = [values.double().sort(0).values for values in (train, val)]
    low, high = ([values[end] for values in sorted_] for end in (0, -1))
    alone = torch.stack([(s[0] < s[1]) & (s[-1] > s[-2]) for s in sorted_]).all(0)  # one example has each of them
    varied = torch.stack([(s.diff(dim=0) > 0).double().mean(0) > 1 / 2 for s in sorted_]).all(0)  # numbers, no codes
    if int(alone[varied].sum()) < max(FEATURES, int(varied.sum()) / 2):
        return ""
    ends = [torch.stack(pair)[:, varied] for pair in (low, high)]
    if all(bool((end - end[0, 0]).abs().max() < MEAN) for end in ends):
        return f"each feature from exactly {ends[0][0, 0]:.3g} to exactly {ends[1][0, 0]:.3g}"
    return ""


def is_standardised_alone(values: Tensor) -> bool:
    """Whether a batch has mean 0 and standard deviation 1 by itself, in all or in each channel, its examples not.

    Example:
        >>> x = torch.randn(16, 3)
        >>> is_standardised_alone(x), is_standardised_alone((x - x.mean(0)) / x.std(0))
        (False, True)

    """
    if values.ndim < 2 or len(values) < FEW:  # noqa: PLR2004
        return False
    values = values.double()
    if values.flatten(1).shape[1] > 1 and float(values.flatten(1).mean(1).abs().max()) < DEVIATION:
        return False  # of each example: it is its own
    channel = [dim for dim in range(values.ndim) if dim != 1]
    for dims in (list(range(values.ndim)), channel, [0]):
        mean = values.mean(dims)
        for unbiased in (True, False):
            if mean.abs().max() < MEAN and (values.std(dims, unbiased=unbiased) - 1).abs().max() < DEVIATION:
                return True
    return False
