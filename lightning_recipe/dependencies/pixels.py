"""Which places of an image that entered an output at a place depends on, charted by backprop."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_recipe.dependencies.backprop import SEED
from lightning_recipe.record.tensors import mapped, tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FEWEST = 4
"""Rows and columns of an image, at least."""
MOST = 0.75
"""Share of outputs in which an order must show; in some, units are off."""


class Image(NamedTuple):
    """Images that entered the network from outside.

    Attributes:
        given: As they entered, shape (N, C, H, W).
        leaf: The same, or what was put in their place, to follow gradients to.

    """

    given: Tensor
    leaf: Tensor


class Map(NamedTuple):
    """What a module put out, with as many rows and columns as an image that entered.

    Attributes:
        where: Name and class of the module.
        name: Of the module.
        value: Shape (N, K, H, W).

    """

    where: str
    name: str
    value: Tensor


@dataclass
class Pixels:
    """Images that pass through the modules of a network in a step, in order.

    Attributes:
        images: What came from outside.
        maps: What modules put out.

    Example:
        >>> pixels, net = Pixels(), nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(128, 5))
        >>> with pixels.through(net):
        ...     _ = net(torch.zeros(4, 1, 8, 8))
        >>> [image.given.shape for image in pixels.images], [map.where for map in pixels.maps]
        ([torch.Size([4, 1, 8, 8])], ['0 (Conv2d)'])

    """

    images: list[Image] = field(default_factory=list)
    maps: list[Map] = field(default_factory=list)

    @contextmanager
    def through(
        self, root: nn.Module, changed: Mapping[int, Tensor] | None = None, held: Mapping[int, Tensor] | None = None
    ) -> Iterator[None]:
        """Watch the modules of `root`, a copy.

        Args:
            root: The images that enter it are made leaves.
            changed: By their place in `images`, others instead of those that entered.
            held: By their place in `maps`, what is put out instead.

        """
        changed, held = changed or {}, held or {}
        names = {id(m): name.replace("_orig_mod.", "") for name, m in root.named_modules()}

        def enter(tensor: Tensor) -> Tensor:
            if not _is_image(tensor):
                return tensor
            leaf = changed.get(len(self.images), tensor).detach().clone().requires_grad_()
            self.images.append(Image(tensor, leaf))
            return leaf.clone()  # code that works in place may do so on a clone

        def before(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
            outside = not any(tensor.requires_grad for _, tensor in tensors((args, kwargs)))
            if outside and torch.is_grad_enabled() and next(module.parameters(), None) is not None:
                args, kwargs = mapped((args, kwargs), Tensor, enter)
            return args, kwargs

        def after(module: nn.Module, _: Any, output: Any) -> Any:
            def note(tensor: Tensor) -> Tensor:
                if not (_is_image(tensor) and tensor.requires_grad):
                    return tensor
                if all(tensor.shape[-2:] != image.given.shape[-2:] for image in self.images):
                    return tensor
                tensor = held.get(len(self.maps), tensor)
                name = names[id(module)]
                self.maps.append(Map(f"{name} ({type(module).__name__})" if name else "the network", name, tensor))
                return tensor

            return mapped(output, Tensor, note)

        with ExitStack() as stack:
            for module in root.modules():
                stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(after).remove)
            yield


def _is_image(tensor: Tensor) -> bool:
    strided = tensor.is_floating_point() and tensor.layout is torch.strided
    return strided and tensor.ndim == 4 and min(tensor.shape[-2:]) >= FEWEST and tensor.shape[0] > 0  # noqa: PLR2004


def may_hold_images(batch: Any) -> bool:
    """Whether some tensor of a batch has the shape of images, with channels or without.

    Example:
        >>> may_hold_images([torch.zeros(8, 3, 32, 32), torch.zeros(8).long()]), may_hold_images(torch.zeros(8, 64))
        (True, False)

    """
    return any(tensor.ndim in {3, 4} and min(tensor.shape[-2:]) >= FEWEST for _, tensor in tensors(batch))


def places(image: Tensor, draw: int = 0) -> Tensor:
    """A row and a column of each image, within its margins, drawn; shape (N, 2)."""
    generator = torch.Generator().manual_seed(SEED + draw)
    n, _, height, width = image.shape
    ranges = ((1, height - 1), (1, width - 1))
    return torch.stack([torch.randint(*ends, (n,), generator=generator) for ends in ranges], 1)


def strengths(source: Tensor, result: Tensor, at: Tensor) -> Tensor:
    """How strongly the output at a place of each image depends on each number of that image.

    Gradient starts as a random draw, since the sum of softmax or layer-normed outputs has none.

    Args:
        source: A leaf, shape (N, C, H, W).
        result: Computed from it, shape (N, K, H, W).
        at: The place of each, shape (N, 2).

    Returns:
        Magnitude of gradients, shape (N, C, H, W), on the CPU.

    """
    start = torch.zeros_like(result)
    noise = torch.randn(result.shape[1], generator=torch.Generator().manual_seed(SEED))
    start[torch.arange(len(at)), :, at[:, 0], at[:, 1]] = noise.to(start)
    (gradient,) = torch.autograd.grad(result, source, start, retain_graph=True, allow_unused=True)
    return torch.zeros(source.shape) if gradient is None else gradient.detach().abs().float().cpu()


def in_an_order(seen: Tensor, at: Tensor, most: float = MOST) -> bool:
    """Whether outputs depend on places before their own only, row by row or column by column, from either end.

    It shows in what is seen of a row before beyond the own column; what is causal along one dimension, or along each,
    as in time, sees nothing of that.

    Args:
        seen: Whether an output depends on each place, shape (R, H, W).
        at: The place of each output, shape (R, 2).
        most: Share of the outputs in which it shows, at least.

    Example:
        >>> at, place = torch.tensor([[2, 2]]), torch.arange(25).view(1, 5, 5)
        >>> in_an_order(place <= 12, at), in_an_order(place >= 12, at), in_an_order(place != 12, at)
        (True, True, False)

    """
    row, column = torch.meshgrid(*map(torch.arange, seen.shape[1:]), indexing="ij")
    ahead = (row - at[:, 0, None, None], column - at[:, 1, None, None])
    for first, ways in product((0, 1), product((1, -1), repeat=2)):
        main, minor = ahead[first] * ways[0], ahead[1 - first] * ways[1]
        later = (main > 0) | ((main == 0) & (minor > 0))
        marks = [(main == 0) & (minor < 0), (main < 0) & (minor > 0)]
        shows = [(seen & mark).flatten(1).any(1).float().mean() >= most for mark in marks]
        if not (seen & later).any() and all(shows):
            return True
    return False
