"""What would make the input of a pretrained network what it knows: other channels first, or a factor and an offset."""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from lightning_recipe.callbacks._channels import PUBLISHED
from lightning_recipe.callbacks._normalization import VARIANCE, moments
from lightning_recipe.callbacks._statistics import has_seen_data
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from lightning_recipe.run import Run
    from lightning_recipe.trial.entries import Entered, Entry
    from lightning_recipe.trial.rehearsal import Rehearsal

    Change = Callable[[Tensor], Tensor]
    """Makes something else of what enters."""
    After = Callable[[Change], Tensor]
    """Gives what then enters the BatchNorm."""

UNLIKE = 0.2
"""Divergence of what enters a BatchNorm from what it saw, a mean over channels, from which on it is another kind of
images; or the same in another order."""
ALIKE = 0.05
"""The same of images of its own kind: of 16 it is some 0.01. Another kind of images does not come as near by chance."""
FACTOR = math.sqrt(VARIANCE)
"""Times as large, or as small, from which on inputs are in another unit, and not just of another light."""
SEVERAL = 4
"""Channels that a factor and an offset have to fit at once: of one they always do."""


def would_fit(run: Run, train: Entered) -> tuple[str, Outcome] | None:
    """Run a step with other inputs, up to its first BatchNorm, if they are not what that saw when it learnt.

    Args:
        run: The run, at its first batch.
        train: What entered of it, as it is.

    Returns:
        The BatchNorm's name and what to say; None if it does not know what was tried, either.

    Raises:
        CannotRehearseError: If the module can't be copied.

    """
    norm = next((norm for norm in train.norms if has_seen_data(norm.module)), None)
    if norm is None or not (now := divergence(norm.module, norm.values)) >= UNLIKE:
        return None
    images = [e for e in train.entries if e.values.ndim == 4 and e.values.shape[1] == 3]  # noqa: PLR2004 - (N, 3, H, W)
    outcome = None
    with rehearsal(run) as again:
        if len(images) == 1:
            outcome = _exchanged(images[0], norm, now, partial(_with, again, run.batch, images[0], norm))
        if outcome is None and len(train.entries) == 1 and norm.values.shape[1] >= SEVERAL:
            entry = train.entries[0]
            outcome = _in_another_unit(entry, norm, now, partial(_with, again, run.batch, entry, norm))
    return None if outcome is None else (norm.name, outcome)


def _exchanged(entry: Entry, norm: Entry, now: float, after: After) -> Outcome | None:
    """Whether images of three channels are what it knows the other way round.

    They may have been normalised in the right order, after they were read in the wrong one: by the numbers of ImageNet,
    or by others, which are known as far as a batch has black and white.
    """
    none = torch.zeros(3), torch.ones(3)
    numbers = none, tuple(map(torch.tensor, PUBLISHED)), _of_range(entry.values)
    then = min(divergence(norm.module, after(partial(_turned, *pair))) for pair in numbers)
    if not then <= ALIKE:
        return None
    return Outcome(
        Status.WARNING,
        "channel_order",
        f"{norm.name} gets other numbers than it saw when it was trained (divergence {now:.2g}); with the first and "
        f"the third channel of what enters {entry.name} exchanged, it gets the same ({then:.2g})",
        "read images in the order that the weights were trained on: mostly RGB, as by PIL and torchvision; cv2 has BGR",
        {"divergence": now, "exchanged": then},
    )


def _in_another_unit(entry: Entry, norm: Entry, now: float, after: After) -> Outcome | None:
    """Whether they are what it knows times a factor, plus an offset; that of channels answers to both linearly."""
    means, given = moments(norm.values)
    module: Any = norm.module
    seen, variance = module.running_mean.double(), module.running_var.double().clamp(min=1e-8)
    factor = float((variance / given.clamp(min=1e-12)).median().sqrt())
    if 1 / FACTOR < factor < FACTOR:
        return None
    at_zero = moments(after(torch.zeros_like))[0]
    slope = moments(after(lambda x: x + 1))[0] - means
    left = seen - at_zero - factor * (means - at_zero)
    offset = float((slope * left / variance).sum() / (slope.square() / variance).sum().clamp(min=1e-12))
    then = divergence(norm.module, after(lambda x: factor * x + offset))
    if not then <= ALIKE:
        return None
    return Outcome(
        Status.WARNING,
        "unlike_pretraining",
        f"{norm.name} gets other numbers than it saw when it was trained (divergence {now:.2g}); with what enters "
        f"{entry.name} times {factor:.3g}, plus {offset:.2g}, it gets the same ({then:.2g})",
        "make inputs as they were when the weights were trained: their unit, such as decibels, 0 to 255 or 0 to 1, and "
        "the mean and standard deviation that they were normalised by",
        {"divergence": now, "factor": factor, "offset": offset},
    )


class _EnoughError(Exception):
    """Ends a step whose rest nobody needs."""


def _with(again: Rehearsal, batch: Any, entry: Entry, norm: Entry, change: Change) -> Tensor:
    """What enters the BatchNorm if something else enters its first layer: the same, if it comes not as far."""
    seen = [norm.values]

    def stop(_: nn.Module, given: tuple[Any, ...]) -> None:
        seen.append(given[0].detach())
        raise _EnoughError

    layer, end = (again.module.get_submodule(one.name) for one in (entry, norm))
    handles = [layer.register_forward_pre_hook(lambda _, given: (change(given[0]), *given[1:]))]
    handles.append(end.register_forward_pre_hook(stop))
    with suppress(CannotRehearseError):
        again.step(batch)
    for handle in handles:
        handle.remove()
    return seen[-1]


def _turned(mean: Tensor, std: Tensor, images: Tensor) -> Tensor:
    """Exchange channels as if they had been before they were normalised."""
    mean, std = (numbers.to(images)[:, None, None] for numbers in (mean, std))
    return ((images * std + mean).flip(1) - mean) / std


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
    mean, variance = moments(values)
    seen, expected = norm.running_var.double().clamp(min=1e-8), norm.running_mean.double()
    ratio = (variance / seen).clamp(min=1e-8)
    return float(((mean - expected).square() / seen + ratio - 1 - ratio.log()).mean())
