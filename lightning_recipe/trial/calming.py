"""Copies without what makes two equal steps differ: dropout, statistics of the batch or of other processes."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torchmetrics import Metric

M = TypeVar("M", bound=nn.Module)
NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)
DROPOUTS = ("StochasticDepth", "DropPath", "StableDropout")
"""Classes of torchvision, timm and transformers that drop out, by name."""


def without_dropout(module: M) -> M:
    """`module` itself, with dropout off, whatever mode it is in.

    Known are the dropout modules of torch, those of `DROPOUTS`, and the probability that attention and recurrent
    layers keep as ``dropout``.

    Example:
        >>> without_dropout(nn.Sequential(nn.Dropout(0.5)))[0].p
        0.0

    """
    for child in module.modules():
        if isinstance(child, _DropoutNd) or type(child).__name__ in DROPOUTS:
            for name in {"p", "drop_prob"} & vars(child).keys():
                setattr(child, name, 0.0)
        if isinstance(vars(child).get("dropout", getattr(type(child), "dropout", None)), float):
            child.dropout = 0.0  # type: ignore[assignment]
    return module


def without_zeros(module: M) -> M:
    """`module` itself, in which parameters that are all zero are small random numbers: gates that let nothing through.

    Example:
        >>> layer = without_zeros(nn.Linear(2, 1).requires_grad_(False).apply(lambda m: m.bias.zero_()))
        >>> bool(layer.bias != 0)
        True

    """
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point() and not parameter.any():
                parameter.normal_(std=0.02)
    return module


def with_local_statistics(module: M) -> M:
    """`module` itself, in which SyncBatchNorm and metrics work alone: ranks do not try the same number of steps.

    Example:
        >>> with_local_statistics(nn.Sequential(nn.SyncBatchNorm(3)))(torch.zeros(2, 3)).shape  # also on the CPU
        torch.Size([2, 3])

    """
    for child in module.modules():
        if isinstance(child, nn.SyncBatchNorm):
            child.__class__ = _LocalBatchNorm  # type: ignore[assignment]
        elif isinstance(child, Metric):
            child.distributed_available_fn = _never
    return module


def use_running_statistics(module: nn.Module) -> int:
    """Put norm layers into eval mode, and with them what is named like a norm layer or dropout.

    Returns:
        Number of BatchNorm layers. Those without running statistics get means of 0 and variances of 1.

    Example:
        >>> use_running_statistics(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)))
        1

    """
    count = 0
    for child in module.modules():
        name, childless = type(child).__name__.lower(), next(child.children(), None) is None
        named = "norm" in name or "drop" in name or name.startswith("bn") or name.endswith("bn")
        custom = named and childless and child is not module
        if isinstance(child, (*NORMS, _DropoutNd)) or (custom and not isinstance(child, nn.RNNBase)):
            child.training = False  # not of recurrent layers, for which cuDNN has no backward in eval mode
        if isinstance(child, _BatchNorm):
            count += 1
            if child.running_mean is None:  # would use the batch's statistics even in eval mode
                like = next(module.parameters(), torch.empty(0))
                child.running_mean = torch.zeros(child.num_features, dtype=like.dtype, device=like.device)
                child.running_var = torch.ones_like(child.running_mean)
    return count


class _LocalBatchNorm(_BatchNorm):
    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        """Any number of dimensions, as ``SyncBatchNorm`` takes."""


def _never() -> bool:
    return False
