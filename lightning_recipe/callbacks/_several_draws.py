"""One example as it is drawn again and again, with its target: what random augmentation makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lightning_recipe.callbacks._flips import as_image, correlation
from lightning_recipe.figures.examples import LARGE, LISTED, examples_card
from lightning_recipe.figures.kinds import recognise
from lightning_recipe.losses.targets import Answers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from lightning_recipe.callbacks._augmentation import Draws
    from lightning_recipe.figures.picture import Picture

WRITTEN = 3
"""Numbers of a target that are written below an example, at most."""


def card(chosen: Sequence[int], draws: Draws, decode: Callable[..., Any] | None) -> Picture | None:
    """The first example whose draws differ: the first draw, and those that are least like it.

    Args:
        chosen: Indices of the examples.
        draws: Of these.
        decode: Makes text of a list of token ids.

    Returns:
        None if all are the same, or no two are of one shape.

    Example:
        >>> image = torch.arange(64.0).view(1, 8, 8) / 64
        >>> draws = [{"0": image, "1": torch.tensor(3)}, {"0": image.flip(-1), "1": torch.tensor(3)}]
        >>> picture = card([17], [draws], None)
        >>> picture.title, picture.words[:2]
        ('draws of training #17', ['3', '3'])

    """
    for index, times in zip(chosen, draws, strict=True):
        sizes = sorted(times[0], key=lambda name: -times[0][name].numel())
        for name in sizes:
            shown = _apart([leaves for leaves in times if name in leaves], name)
            if len(shown) > 1:
                rows = torch.stack([leaves[name] for leaves in shown])
                reading = recognise(rows)
                notes = tuple(f"draw {i + 1}" for i in range(len(rows))) if reading.kind in LISTED else ()
                title = f"draws of training #{index}"
                return examples_card(title, rows, reading, Answers(_target(shown, name), notes=notes), decode)
    return None


def _apart(times: list[dict[str, Tensor]], name: str) -> list[dict[str, Tensor]]:
    """The first of some draws, and those that are least like it."""
    first, apart = times[0][name], times[:1]
    if not first.ndim or first.is_complex():
        return apart
    for leaves in times[1:]:
        alike = leaves[name].shape == first.shape
        if alike and not any(torch.equal(leaves[name], other[name]) for other in apart):
            apart.append(leaves)
    return [times[0], *sorted(apart[1:], key=lambda leaves: correlation(leaves[name], first))[: LARGE - 1]]


def _target(shown: list[dict[str, Tensor]], name: str) -> Tensor | None:
    """What a picture of a draw can hold besides its input: a mask or boxes or points, else a label or a few numbers."""
    image, others = as_image(shown[0][name]), [other for other in shown[0] if other != name]
    found = [[leaves[other] for leaves in shown] for other in others if all(other in leaves for leaves in shown)]
    masks = [of for of in found if image is not None and _size(of[0]) == image.shape[-2:]]
    shapes = [of for of in found if all(leaf.ndim == 2 and leaf.shape[1] in {2, 4} for leaf in of)]  # noqa: PLR2004
    rest = [of for of in found if of[0].numel() == 1 or (of[0].ndim == 1 and of[0].numel() <= WRITTEN)]
    for of in (*masks, *(shapes if image is not None else []), *rest, *found):
        if filled := _stacked(of):
            return filled[0]
    return None


def _size(leaf: Tensor) -> Any:
    dense = as_image(leaf)
    return None if dense is None else dense.shape[-2:]


def _stacked(leaves: list[Tensor]) -> list[Tensor]:
    """All draws of a target in one; boxes and points that a crop has left out are filled up with NaN."""
    if all(leaf.shape == leaves[0].shape for leaf in leaves):
        return [torch.stack(leaves)]
    if any(leaf.ndim != leaves[0].ndim or leaf.shape[1:] != leaves[0].shape[1:] for leaf in leaves):
        return []
    most = max(map(len, leaves))
    floats = [leaf.float() for leaf in leaves]
    return [torch.stack([torch.cat([x, x.new_full((most - len(x), *x.shape[1:]), torch.nan)]) for x in floats])]
