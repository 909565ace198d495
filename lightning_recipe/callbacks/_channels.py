"""Whether the channels of images come in another order in validation than in training, as BGR and RGB."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ENOUGH, MOST = 16, 256
"""Images of both that are compared, at least and at most."""
PIXELS = 4096
"""Of an image that are measured, evenly spaced."""
APART = 40.0
"""Sum of four squared standard scores that is no chance: of four normal ones it is above 33 once in a million times,
those of few images have wider tails."""
CLOSE = 12.0
"""The same of what may well be equal: above it is one in sixty."""
ONE = 3.0
"""A standard score of one of them: more than one has to tell the orders apart."""
PUBLISHED = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of the photographs of ImageNet, by which images are normalised in the order RGB."""


class Measured(NamedTuple):
    """Of each of N images of 3 channels, what changes its sign with their order, and what does not, shape (N, 4).

    Attributes:
        odd: First against third channel: mean, deviation, skewness, and which is more like the second one.
        even: Mean of all, mean of the second one, deviation of all, how alike the first and the third are.

    Example:
        >>> Measured.of(torch.zeros(5, 3, 8, 8)).odd.shape
        torch.Size([5, 4])

    """

    odd: Tensor
    even: Tensor

    @classmethod
    def of(cls, images: Tensor) -> Measured:
        """Measure images of shape (N, 3, H, W)."""
        values = images.flatten(2)
        values = values[..., :: -(-values.shape[2] // PIXELS)].double().cpu()
        mean, std = values.mean(2), values.std(2).clamp(min=1e-6)
        unit = (values - mean[..., None]) / std[..., None]
        skewness, alike = unit.pow(3).mean(2), (unit * unit.roll(1, 1)).mean(2)  # 0 with 2, 1 with 0, 2 with 1
        odd = [mean[:, 0] - mean[:, 2], std[:, 0].log() - std[:, 2].log(), skewness[:, 0] - skewness[:, 2]]
        even = [mean.mean(1), mean[:, 1], std.mean(1), alike[:, 0]]
        return cls(torch.stack([*odd, alike[:, 1] - alike[:, 2]], 1), torch.stack(even, 1))

    def with_more(self, other: Measured) -> Measured:
        """These, and those of another batch."""
        return Measured(torch.cat([self.odd, other.odd]), torch.cat([self.even, other.even]))


class Channels:
    """Images that entered the network, in training at several looks and in validation at one.

    Example:
        >>> noise = torch.Generator().manual_seed(0)
        >>> hues = torch.tensor([0.8, 0.4, 0.1])[:, None, None]
        >>> x, y = (hues * torch.rand(32, 3, 8, 8, generator=noise) for _ in range(2))
        >>> seen = Channels()
        >>> seen.look({"net.input": x}, training=True)
        >>> seen.look({"net.input": y.flip(1)}, training=False)
        >>> [outcome.code for _, outcome in seen.verdicts()]
        ['channel_order']

    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, bool], list[Measured]] = {}

    def look(self, inputs: Mapping[str, Tensor], *, training: bool) -> None:
        """Measure what entered by name, as it is, and as it was if it was normalised by `PUBLISHED`."""
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in PUBLISHED)
        for name, images in inputs.items():
            if images.ndim == 4 and images.shape[1] == 3 and images.layout is torch.strided:  # noqa: PLR2004 - (N, 3, H, W)
                now = [Measured.of(some := images[:MOST]), Measured.of(some.float() * std.to(some) + mean.to(some))]
                before = self._seen.get((name, training))
                if before is None or (training and len(before[0].odd) < MOST):
                    more = now if before is None else [a.with_more(b) for a, b in zip(before, now, strict=True)]
                    self._seen[name, training] = more

    @property
    def waits(self) -> bool:
        """Whether more images of training may tell something."""
        return any(training and len(measured[0].odd) < MOST for (_, training), measured in self._seen.items())

    def verdicts(self) -> Iterator[tuple[str, Outcome]]:
        """By the name of what entered, whether validation has the first channel in the place of the third."""
        for (name, training), val in self._seen.items():
            train = None if training else self._seen.get((name, True))
            if train is not None and are_interchanged(train, val):
                before, now = (float(measured[0].odd[:, 0].mean()) for measured in (train, val))
                yield (
                    name,
                    Outcome(
                        Status.WARNING,
                        "channel_order",
                        f"the first and the third channel of {name} have changed places in validation: their means "
                        f"differ by {before:.3g} in training and by {now:.3g} in validation, and so does what else "
                        "tells them apart",
                        "read both in the same order: RGB, as PIL and torchvision do; cv2 reads BGR",
                        {"training": before, "validation": now},
                    ),
                )


def are_interchanged(train: list[Measured], val: list[Measured]) -> bool:
    """Whether what tells the first channel from the third has the opposite sign, and all else is the same.

    Images that were read in another order and normalised in the right one are known by the numbers of ImageNet, or by
    what no normalisation changes.

    Args:
        train: As it is, and as it was before it was normalised.
        val: Likewise.

    """
    if min(len(train[0].odd), len(val[0].odd)) < ENOUGH:
        return False
    unchanged = [Measured(measured[0].odd[:, 2:], measured[0].even[:, 3:]) for measured in (train, val)]
    return any(_told(one, other) for one, other in [*zip(train, val, strict=True), unchanged])


def _told(train: Measured, val: Measured) -> bool:
    equal, opposite = _scores(train.odd, val.odd), _scores(train.odd, -val.odd)
    several = int((equal.abs() > ONE).sum()) > 1
    apart = float(equal.square().sum()) > APART and float(opposite.square().sum()) < CLOSE
    return apart and several and float(_scores(train.even, val.even).square().sum()) < APART


def _scores(one: Tensor, other: Tensor) -> Tensor:
    error = (one.var(0) / len(one) + other.var(0) / len(other)).sqrt()
    return (one.mean(0) - other.mean(0)) / error.clamp(min=1e-9)
