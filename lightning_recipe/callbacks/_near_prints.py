"""Fingerprints of examples that small changes leave as they are: of images, texts and rows of numbers."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from lightning_recipe.callbacks._data_seen import fingerprints
from lightning_recipe.callbacks._near_texts import FEWEST, GRAM
from lightning_recipe.record.tensors import leading_size, plain, tensors

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 8
"""Height and width to which an image is reduced: what is as large in all copies of it."""
READ = 32
"""Rows and columns of an image that are read, evenly spaced: of large ones all would take milliseconds."""
IMAGES = 3
"""Images of an example that are looked at."""
FLAT = 0.05
"""Contrast of a reduced image, over the usual one of the batch, up to which it is blank."""
WORDS = 128
"""Of a text that are read: a copy begins as it does."""
COLUMNS = 64
"""Of a row of numbers that are read, evenly spaced."""
FEATURES = 8
"""Numbers of a row without which it may come again by chance."""
FACTOR = 6364136223846793005
"""Of a linear congruential generator (D. Knuth)."""
CELL = 0.125
"""To what numbers are rounded, in standard deviations, which are taken as powers of two: the same on all ranks."""


class Prints:
    """Fingerprints of batches, all of them made alike.

    Example:
        >>> rng = torch.Generator().manual_seed(0)
        >>> image, prints = F.interpolate(torch.rand(16, 3, 4, 4, generator=rng), (32, 32), mode="bicubic"), Prints()
        >>> (one, _), (other, _) = prints({"x": image}).T, prints({"x": 2 + 3 * image.flip(-1)}).T
        >>> bool((one == other).all()), len(set(one.tolist()))
        (True, 16)

    """

    def __init__(self) -> None:
        self._cells: Tensor | None = None  # for rows of numbers, by those of the first batch

    @torch.no_grad()
    def __call__(self, batch: Any) -> Tensor | None:
        """Of each example a number that its copies share, and one of its labels, shape (N, 2).

        Returns:
            None if there is nothing of that kind. What is blank, or too short, has zeros.

        """
        found = [plain(tensor.detach()) for _, tensor in tensors(batch)]
        size = leading_size(found)
        rows = [t for t in found if t.layout is torch.strided and t.ndim and len(t) == size and t.numel()]
        rows = [tensor for tensor in rows if not tensor.is_complex()]
        images = [image for tensor in rows if (image := _as_image(tensor)) is not None][:IMAGES]
        made = _of_images(images) if images else self._of_others(rows)
        if made is None:
            return None
        near, told = made
        labels = told.long()
        for tensor in rows:
            if tensor.numel() == size:
                flat = tensor.reshape(-1)
                one = flat.float().view(torch.int32) if flat.is_floating_point() else flat
                labels = labels * FACTOR + one.to(labels)
            elif images and tensor.ndim == 2 and not tensor.is_floating_point():  # noqa: PLR2004 - a question
                labels = labels * FACTOR + fingerprints(tensor).to(labels)
        return torch.stack([near, labels], 1) * told[:, None]

    def _of_others(self, rows: list[Tensor]) -> tuple[Tensor, Tensor] | None:
        texts = [tensor for tensor in rows if _is_text(tensor)]
        if texts:
            return _of_text(max(texts, key=lambda tensor: tensor.shape[1]))
        tables = [t for t in rows if t.is_floating_point() and t.numel() >= FEATURES * len(t)]
        if not tables:
            return None
        flat = max(tables, key=lambda tensor: tensor.numel()).flatten(1)
        flat = flat[:, :: math.ceil(flat.shape[1] / COLUMNS)].float()
        if self._cells is None or len(self._cells) != flat.shape[1]:
            std = flat.std(0, correction=0)
            self._cells = 1 / (torch.exp2(torch.where(std > 0, std, 1).log2().round()) * CELL)
        rounded = (flat * self._cells.to(flat.device)).round()
        return fingerprints(rounded + 0.0), rounded.isfinite().all(1)  # no -0


def _of_images(images: list[Tensor]) -> tuple[Tensor, Tensor]:
    thumbs = [_reduced(image) for image in images]
    if len(thumbs) > 1:  # each counts as much
        thumbs = [t / (t - t.mean(1, keepdim=True)).norm(dim=1, keepdim=True).clamp(min=1e-12) for t in thumbs]
    ways, powers = _fixed(len(images), thumbs[0].device)
    seen, mirrored, side = (torch.cat(thumbs, 1) @ ways).split([64, 64, 1], 1)
    contrast = seen.square().sum(1).sqrt()
    signs = torch.where(side < 0, mirrored, seen) > 0
    return (signs * powers).sum(1), contrast > FLAT * contrast.mean()


def _as_image(tensor: Tensor) -> Tensor | None:
    """The channel, or frame, in the middle, shape (N, H, W): blind to how each is normalised."""
    if tensor.ndim == 3 and tensor.dtype is torch.uint8:  # noqa: PLR2004 - as MNIST is stored
        tensor = tensor[:, None]
    if tensor.ndim < 4 or not (tensor.is_floating_point() or tensor.dtype is torch.uint8):  # noqa: PLR2004
        return None
    if tensor.shape[-1] <= 4 < tensor.shape[1]:  # noqa: PLR2004 - channels come last
        tensor = tensor.movedim(-1, 1)
    planes = tensor.flatten(1, -3)
    return planes[:, planes.shape[1] // 2] if min(tensor.shape[-2:]) >= SIDE else None


def _reduced(image: Tensor) -> Tensor:
    _, height, width = image.shape
    seen = image[:, :: max(1, height // READ), :: max(1, width // READ)].float()
    rows, columns = (_means(size, image.device) for size in seen.shape[1:])
    return (rows @ seen @ columns.T).flatten(1)


@lru_cache(maxsize=2 * IMAGES)  # as a product with a matrix it takes half of what the pooling does
def _means(size: int, device: torch.device) -> Tensor:
    one = torch.eye(size, dtype=torch.float32, device=torch.device("cpu"))
    return F.adaptive_avg_pool1d(one, SIDE).T.to(device)


@lru_cache(maxsize=2 * IMAGES)
def _fixed(images: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random projections of the differences between neighbours, whose signs tell images apart (M. Charikar, 2002).

    The same of the mirrored image follow, and on which side the first image is brighter, shape (D, 64 + 64 + 1). Of two
    images that mirror each other one is brighter on the left: both have the fingerprint of the other.
    """
    real, host = torch.float32, torch.device("cpu")  # whatever the defaults are
    one = torch.eye(SIDE * SIDE, dtype=real, device=host).view(-1, SIDE, SIDE)
    apart = torch.cat([one.diff(dim=2).flatten(1), one.diff(dim=1).flatten(1)], 1)
    rng = torch.Generator().manual_seed(0)
    ways = [apart @ torch.randn(apart.shape[1], 64, generator=rng, dtype=real, device=host) for _ in range(images)]
    mirrored = [way.view(SIDE, SIDE, -1).flip(1).flatten(0, 1) for way in ways]
    sides = torch.zeros(images, SIDE, SIDE, 1, dtype=real, device=host)
    sides[0] = torch.linspace(-1, 1, SIDE, dtype=real, device=host)[:, None]
    powers = torch.tensor([1 << i for i in range(63)] + [-(1 << 63)], device=device)
    return torch.cat([torch.cat(ways), torch.cat(mirrored), sides.view(-1, 1)], 1).to(device), powers


def _is_text(tensor: Tensor) -> bool:
    words = tensor.dtype in {torch.int16, torch.int32, torch.int64}
    return words and tensor.ndim == 2 and tensor.shape[1] >= FEWEST + GRAM  # noqa: PLR2004


def _of_text(words: Tensor) -> tuple[Tensor, Tensor]:
    """The two smallest of hashes of all words in a row (A. Broder, 1997): a changed word leaves them most times."""
    words = words[:, :WORDS].long()
    again = words[:, 1:] == words[:, :-1]
    padding = again[:, 1:] & again[:, :-1]
    made = words[:, :-2] * FACTOR + words[:, 1:-1]
    made = (made ^ (made >> 29)) * FACTOR + words[:, 2:]
    made = (made ^ (made >> 32)) * FACTOR
    two = made.masked_fill(padding, torch.iinfo(torch.long).max).topk(2, largest=False).values
    return (two[:, 0] ^ (two[:, 0] >> 32)) * FACTOR + two[:, 1], padding.shape[1] - padding.sum(1) >= FEWEST
