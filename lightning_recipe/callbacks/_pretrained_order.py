"""Whether images enter a pretrained network with their first and third channel exchanged, as BGR for RGB."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from lightning_recipe.callbacks._channels import PUBLISHED
from lightning_recipe.callbacks._statistics import has_seen_data
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.trial.entries import entered
from lightning_recipe.trial.rehearsal import rehearsal

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_recipe.run import Run
    from lightning_recipe.trial.entries import Entered

UNLIKE = 0.2
"""Divergence of what enters a BatchNorm from what it saw, a mean over channels, from which on it is another kind of
images; or the same in another order."""
ALIKE = 0.05
"""The same of images of its own kind: of 16 it is some 0.01. Another kind of images does not come as near by chance."""


def exchanged(run: Run, train: Entered) -> tuple[str, Outcome] | None:
    """Run a step with the channels the other way round, if they are not what the first BatchNorm saw when it learnt.

    They may have been normalised in the right order, after they were read in the wrong one: by the numbers of ImageNet,
    or by others, which are known as far as a batch has black and white.

    Args:
        run: The run, at its first batch.
        train: What entered of it, as it is.

    Returns:
        The BatchNorm's name and what to say; None if the other order is not what it knows, either.

    Raises:
        CannotRehearseError: As ``entered``.

    """
    images = [entry for entry in train.entries if entry.values.ndim == 4 and entry.values.shape[1] == 3]  # noqa: PLR2004
    norm = next((norm for norm in train.norms if has_seen_data(norm.module)), None)
    if len(images) != 1 or norm is None or (now := divergence(norm.module, norm.values)) < UNLIKE:
        return None
    (name, _, values), then = images[0], math.inf
    none = torch.zeros(3), torch.ones(3)
    for mean, std in (none, tuple(map(torch.tensor, PUBLISHED)), _of_range(values)):
        with rehearsal(run) as again:
            again.module.get_submodule(name).register_forward_pre_hook(partial(_turn, mean, std))
            turned = next((n for n in entered(again, run.batch).norms if n.name == norm.name), None)
            then = min(then, math.inf if turned is None else divergence(turned.module, turned.values))
    if then > ALIKE:
        return None
    return norm.name, Outcome(
        Status.WARNING,
        "channel_order",
        f"{norm.name} gets other numbers than it saw when it was trained (divergence {now:.2g}); with the first and "
        f"the third channel of what enters {name} exchanged, it gets the same ({then:.2g})",
        "read images in the order that the weights were trained on: mostly RGB, as by PIL and torchvision; cv2 has BGR",
        {"divergence": now, "exchanged": then},
    )


def _turn(mean: Tensor, std: Tensor, _: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Exchange channels as if they had been before they were normalised."""
    images = given[0]
    mean, std = (numbers.to(images)[:, None, None] for numbers in (mean, std))
    return ((images * std + mean).flip(1) - mean) / std, *given[1:]


def _of_range(images: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers that images from 0 to 1 were normalised by, if each channel has both."""
    low, high = (of(images.detach().float().transpose(0, 1).flatten(1), 1) for of in (torch.amin, torch.amax))
    std = 1 / (high - low).clamp(min=1e-6)
    return -low * std, std


def divergence(norm: Any, values: Tensor) -> float:
    """How far what enters a BatchNorm is from what it saw, as twice the Kullback-Leibler divergence of two normals.

    Args:
        norm: With running statistics of C channels.
        values: Of shape (N, C, ...).

    Returns:
        The mean over channels.

    Example:
        >>> from torch import nn
        >>> x = torch.tensor([[-1.0], [1.0]])
        >>> divergence(nn.BatchNorm1d(1), x), divergence(nn.BatchNorm1d(1), x + 2)
        (0.0, 4.0)

    """
    dims = [dim for dim in range(values.ndim) if dim != 1]
    values = values.detach().double()
    seen, expected = norm.running_var.double().clamp(min=1e-8), norm.running_mean.double()
    ratio = (values.var(dims, unbiased=False) / seen).clamp(min=1e-8)
    return float(((values.mean(dims) - expected).square() / seen + ratio - 1 - ratio.log()).mean())
