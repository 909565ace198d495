"""Whether numbers have the scale that a network expects."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.losses.table import TABLE, Family

if TYPE_CHECKING:
    from lightning_recipe.record.step import LossCall

BYTE = 255
"""The largest value of a byte."""
VARIANCE = 8.0
"""Times as large a variance as a BatchNorm has seen, from which the input is another one: of photographs of another
kind it is within a factor of 3, of raw bytes in place of normalised ones it is 60 squared."""
SCALED = 1e-4
"""Times the variance from which down inputs were divided once too often, as by 255: no image is as dark."""
SCALES = 100.0
"""Times as large a standard deviation of one feature as of another, where the larger is above `LARGE`: minutes of a day
beside standardised features have 400."""
SHARE, DROWNED = 0.01, 1e-4
"""Shares of a sum of losses: what may be of others than the one that is all of it, and what is nothing next to it."""
LARGE = 100.0
"""A standard deviation from which on weights of the usual size answer with numbers that no activation is made for."""
UNSCALED = 1000.0
"""A standard deviation of all that enters, from which on weights that were just drawn can make nothing of it: samples
of 16 bits have 3,000 and more."""
TINY = 1000.0
"""Times as large predictions as their targets vary, before anything is learnt."""
LEFT = 2.0
"""Mean square of an error, as a multiple of the best constant's, above which predictions are far from their targets."""
ROUNDING = 1e-6
"""Standard deviation of numbers that are all the same, as a share of them."""
NARROW = 0.02
"""Spread between examples, as a share of the mean and by itself, of what is practically the same for all: the pixels of
images that were divided by 255 twice, and then normalised, have a share of 0.005."""
DARK = 2 / BYTE
"""Largest value of images that were divided by 255 twice: two grey levels."""
SHRUNK = 50.0
"""Times as far apart the examples of a batch are as what enters of them, once it was divided twice."""
APART = 10.0
"""Times as large a standard deviation in validation as in training, or the reverse."""
NEAR = 0.1
"""Share of the largest value below which the smallest is about 0; and how far a mean may be from 0, and a standard
deviation from 1, of what was standardised."""
BRIGHT = 4.0
"""Times as large a standard deviation of standardised images as of others that lie between 0 and 1, from which on these
are not standardised ones of little contrast: some of their pixels would be below the mean."""
IMAGES = 4
"""Dimensions of a batch of images, at least."""
FEW = 4
"""Examples that a batch must have to be judged by its statistics."""


def is_raw_bytes(values: Tensor, batch: list[Tensor]) -> bool:
    """Whether `values` are images from 0 to 255: none negative, the largest between 128 and 255.

    Resized ones are no whole numbers.

    Args:
        values: What enters a layer, of shape (N, ...).
        batch: The batch's tensors, by which a flattened image is known.

    Example:
        >>> image = torch.arange(256.0).reshape(1, 1, 16, 16)
        >>> is_raw_bytes(image, []), is_raw_bytes(image / 255, []), is_raw_bytes(image.flatten(1), [image])
        (True, False, True)

    """
    image = values.ndim > 3 or any(t.ndim > 3 and t.numel() == values.numel() for t in batch)  # noqa: PLR2004 - N, C, H, W
    low, high = float(values.min()), float(values.max())
    return image and low >= 0 and BYTE / 2 < high <= BYTE


def shrunk(values: Tensor, batch: list[Tensor]) -> tuple[float, float]:
    """How far apart examples are as they enter, and in the batch, if they are practically the same when they enter.

    Args:
        values: What enters a layer, of shape (N, ...).
        batch: The batch's tensors; the one that enters is known by its size.

    Returns:
        Root mean squares of the differences to the mean over the examples, if what enters are images as dark as those
        divided by 255 twice, or numbers that hardly differ though the batch's do; else zeros.

    Example:
        >>> image = torch.rand(8, 1, 4, 4)
        >>> shrunk(image, [image])
        (0.0, 0.0)
        >>> shrunk((image / 255 - 0.5) / 0.25, [image])[0] < NARROW
        True

    """
    given = next((t for t in batch if t.shape[:1] == values.shape[:1] and t.numel() == values.numel()), None)
    if given is None or len(values) < FEW or not is_finite(given):
        return 0.0, 0.0
    spread, whole = (float((t.double() - t.double().mean(0)).square().mean().sqrt()) for t in (values, given))
    dark = given.ndim > 3 and float(values.min()) >= 0 and float(values.max()) < DARK  # noqa: PLR2004 - N, C, H, W
    same = spread < NARROW * min(1.0, abs(float(values.double().mean()))) and SHRUNK * spread < whole
    return (spread, whole) if spread > 0 and (dark or same) else (0.0, 0.0)


def surprise(norm: Any, values: Tensor) -> tuple[float, float]:
    """How far what enters a BatchNorm is from what it saw before.

    Args:
        norm: With running statistics of C channels.
        values: Of shape (N, C, ...).

    Returns:
        The medians over channels of: variance over running variance, and distance of means in running standard
        deviations.

    Example:
        >>> from torch import nn
        >>> surprise(nn.BatchNorm1d(1), torch.tensor([[-3.0], [5.0]]))
        (16.0, 1.0)

    """
    mean, variance = moments(values)
    seen, expected = norm.running_var.double().clamp(min=1e-8), norm.running_mean.double()
    return float((variance / seen).median()), float(((mean - expected).abs() / seen.sqrt()).median())


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel of (N, C, ...).

    Example:
        >>> moments(torch.tensor([[-3.0], [5.0]]))
        (tensor([1.], dtype=torch.float64), tensor([16.], dtype=torch.float64))

    """
    dims = [dim for dim in range(values.ndim) if dim != 1]
    values = values.detach().double()
    return values.mean(dims), values.var(dims, unbiased=False)


def scales(values: Tensor) -> tuple[int, int, float]:
    """The features of the largest and the smallest standard deviation, and how many times larger the one is.

    Args:
        values: A table of shape (N, F). Features with two values, and tables that are mostly zeros, are not judged.

    Example:
        >>> scales(torch.tensor([[0.1, 1000.0], [0.2, 5000.0], [0.3, 9000.0], [0.1, 0.0]]))[:2]
        (1, 0)

    """
    numbers = [i for i in range(values.shape[1]) if len(values[:, i].unique()) > 2]  # noqa: PLR2004
    if len(numbers) < 2 or float((values == 0).float().mean()) > 1 / 2:  # noqa: PLR2004
        return 0, 0, 1.0
    deviations = values[:, numbers].float().std(0)
    large, small = int(deviations.argmax()), int(deviations.argmin())
    return numbers[large], numbers[small], float(deviations[large] / deviations[small])


def apart(train: Tensor, val: Tensor) -> float:
    """How many times larger the standard deviation of the one is; 1 where the difference may be meant.

    Less than `APART` may be augmentation, or another season, and twice as much of 16 examples with a few large
    numbers, by chance; but not if one of both is between 0 and 1, or a byte, and
    the other one has negative numbers; or if images between 0 and 1 are bright, and the other ones have a mean of 0 and
    a standard deviation of 1. Nor may it come from a few numbers far off, such as filled-in ones that were
    normalised with the rest: the middle two thirds are apart, too.

    Example:
        >>> x = torch.rand(8, 100)
        >>> round(apart(x, x * 255)), apart(x, x * 2), apart((x - 0.5) / 0.25, x) > 3
        (255, 1.0, True)
        >>> apart(torch.cat([x, torch.full((1, 100), -1000.0)]), x)
        1.0

    """
    deviations = [float(values.float().std()) for values in (train, val)]
    if not min(deviations) > 0:
        return 1.0
    ratio = max(deviations) / min(deviations)
    middles = [middle(values) for values in (train, val)]
    allowed = APART * (1 + 4 / math.sqrt(min(len(train), len(val))))
    if min(middles) > 0 and max(middles) < allowed * min(middles):
        ratio = min(ratio, max(middles) / min(middles))
    lower, upper = sorted((train, val), key=lambda values: float(values.min()))
    shifted = float(lower.min()) < 0 and _is_raw(upper) and ratio > 2  # noqa: PLR2004
    only_one = train.ndim >= IMAGES and ratio > BRIGHT and _is_standardised(lower) and float(upper.min()) >= 0
    only_one = only_one and float(upper.max()) <= 1
    return ratio if ratio > allowed or shifted or only_one else 1.0


def middle(values: Tensor) -> float:
    """How far the middle two thirds of some numbers lie apart: two standard deviations of normal ones.

    Example:
        >>> middle(torch.arange(12.0))
        8.0

    """
    ordered = values.detach().flatten().float().sort().values
    return float(ordered[len(ordered) * 5 // 6] - ordered[len(ordered) // 6])


def _is_raw(values: Tensor) -> bool:
    """Whether numbers begin at 0, and end at 1 or at 255, as where nobody has normalised them."""
    low, high = float(values.min()), float(values.max())
    return 0 <= low < NEAR * high and (high <= 1 or BYTE / 2 < high <= BYTE)


def _is_standardised(values: Tensor) -> bool:
    """Whether numbers have a mean of about 0 and a standard deviation of about 1."""
    numbers = values.float()
    return abs(float(numbers.mean())) < NEAR and abs(float(numbers.std()) - 1) < NEAR


def is_drawn(values: Tensor, again: Tensor) -> bool:
    """Whether half of what enters, by standard deviation, is another one when the same step is run again.

    Example:
        >>> x = torch.randn(8, 100)
        >>> is_drawn(x, x), is_drawn(x, x + 0.1 * torch.randn(8, 100)), is_drawn(x, torch.randn(8, 100))
        (False, False, True)

    """
    if values.shape != again.shape:
        return True
    drawn = float((values.float() - again.float()).std()) / math.sqrt(2)
    return drawn > float(values.float().std()) / 2


def are_all_alike(values: Tensor) -> bool:
    """Whether all examples are equal, without being one that was expanded.

    Example:
        >>> are_all_alike(torch.zeros(8, 3)), are_all_alike(torch.zeros(1, 3).expand(8, 3))
        (True, False)

    """
    return values.ndim > 1 and len(values) >= FEW and values.stride(0) != 0 and bool((values == values[:1]).all())


class Targets(NamedTuple):
    """Those of a loss of numbers.

    Attributes:
        where: Which.
        std: Their standard deviation.
        times: How many times larger predictions are; 0 where targets are few, or all the same.
        left: The mean square of the error, as a multiple of the targets' variance.

    Example:
        >>> Targets().where
        ''

    """

    where: str = ""
    std: float = 0.0
    times: float = 0.0
    left: float = 0.0


def target_scale(calls: list[LossCall]) -> Targets:
    """The loss of numbers whose targets have the largest standard deviation.

    Example:
        >>> target_scale([]).std
        0.0

    """
    found = Targets()
    for call in calls:
        target, given = call.arguments.get("target"), call.arguments.get("input")
        if TABLE[call.name].family is Family.NUMBERS and isinstance(target, Tensor) and target.numel() > 1:
            deviation, most = float(target.double().std()), float(target.double().abs().max())
            if math.isfinite(deviation) and deviation > found.std:
                vary = target.numel() >= FEW and deviation > ROUNDING * most and not call.target_from_net
                size = float(given.double().square().mean().sqrt()) if vary and isinstance(given, Tensor) else 0.0
                found = Targets(_named(call), deviation, size / deviation, _left(given, target))
    return found


def drowned(calls: list[LossCall], where: str, loss: Tensor | None) -> list[str]:
    """Other losses, with their values, beside one that is all of the sum: of which they are not a hundredth together.

    Args:
        calls: Of loss functions.
        where: The one, as `target_scale` calls it.
        loss: The sum.

    Example:
        >>> drowned([], "mse_loss", torch.tensor(1.0))
        []

    """
    values = {_named(call): float(call.value.double().mean()) for call in calls if not call.target_from_net}
    if loss is None or loss.numel() != 1 or not abs(float(loss) - values.get(where, 0.0)) < SHARE * abs(float(loss)):
        return []
    return [f"{name} ({v:.3g})" for name, v in values.items() if name != where and 0 < v < DROWNED * float(loss)]


def _named(call: LossCall) -> str:
    return f"{call.name} in {call.where}" if call.where else call.name


def _left(given: Any, target: Tensor) -> float:
    if not isinstance(given, Tensor) or given.shape != target.shape:
        return 0.0
    return float((given.double() - target).square().mean() / target.double().var().clamp(min=1e-30))


def is_finite(values: Tensor) -> bool:
    """Whether there is anything to judge.

    Example:
        >>> is_finite(torch.tensor([torch.nan]))
        False

    """
    return bool(torch.isfinite(values).all())
