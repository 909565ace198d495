"""Outputs at the places of an image that are to say the pixel there, from those before: whether they see it."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_recipe.dependencies.pixels import Pixels, in_an_order, places, strengths
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.tensors import dense, mapped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lightning_recipe.dependencies.pixels import Image
    from lightning_recipe.trial.rehearsal import Rehearsal

ASKED = 16
"""Outputs, at least."""
PASSES = 16
"""Backward passes, at most."""
FAINT = 1e-4
"""Share of the strongest dependence up to which it may be rounding, or a difference to be rounding."""
HALF = 0.5
"""Share of outputs that depend on their own pixel, or of targets that are compared with them, at least."""
CANDIDATES = 4096
"""Pixels of which one is put in the place of another."""
COMPARED = 2**18
"""Pixels that are compared with those of the batch."""
LEVEL = 8
"""Pixels of each value, on average, that say what others of it are made into."""


def own_pixel(again: Rehearsal, batch: Any) -> tuple[Outcome, str] | None:
    """Whether a network that says each pixel from those before has seen it, and the module in which that begins.

    An autoencoder sees what is before and after; what sees nothing after in raster order was made to say what comes
    next. Whether its target is the pixel that entered at the same place is asked of the loss: the outputs are held, and
    something else is put at one place of each image. Of yes and no, which a step may draw, the sign of its gradient
    tells.

    Args:
        again: A copy, norm layers on running statistics and dropout off.
        batch: As the step receives it.

    Returns:
        None if that is not the task.

    """
    base, loss = _look(again, batch)
    if loss is None or not loss.requires_grad:
        return None
    for number, image in enumerate(base.images):
        out, gradient = _asked(base, image, loss)
        sources = [tensor for _, tensor in dense(batch) if is_made_of(tensor, image.given)]
        yes_or_no = gradient is not None and is_yes_or_no(gradient, image.given)
        if gradient is None or not (sources or yes_or_no):
            continue
        charted = _chart(image, base.maps[out].value)
        if charted is None:
            continue
        at, rows = charted
        first = at[: len(image.given)]
        if not yes_or_no:
            other = mapped(batch, Tensor, functools.partial(_put, sources=sources, at=first, image=image.given))
            held = base.maps[out].value.detach().clone().requires_grad_()
            _, then = _look(again, other, held={out: held})
            if then is None or not then.requires_grad:
                continue
            (changed,) = torch.autograd.grad(then.sum(), held, allow_unused=True)
            if changed is None or not is_asked_there(gradient, changed, first):
                continue
        own = rows[torch.arange(len(at)), :, at[:, 0], at[:, 1]] > FAINT * rows.flatten(1).amax(1)[:, None]
        if not own.any(0).all():  # of the last colour nothing is seen where the first are said before
            text = f"none of {len(at)} outputs depends on the pixel that it is to say, or on later ones"
            return Outcome(Status.PASSED, "", text, evidence={"outputs": len(at)}), ""
        begins = _begins(again, batch, base, number, out, first)
        if begins is not None and bool((own.float().mean(0) >= HALF).all()):
            return _told(int(own.all(1).sum()), len(at), base.maps[begins].where), base.maps[begins].name
    return None


def _asked(base: Pixels, image: Image, loss: Tensor) -> tuple[int, Tensor | None]:
    """The last map with a place for each of an image that the loss depends on, and the gradient there."""
    fits = [i for i, other in enumerate(base.maps) if _same_places(other.value, image.given)]
    values = [base.maps[i].value for i in fits]
    gradients = torch.autograd.grad(loss.sum(), values, retain_graph=True, allow_unused=True) if fits else ()
    found = [(i, g) for i, g in zip(fits, gradients, strict=True) if g is not None and bool(g.any())]
    return found[-1] if found else (-1, None)


def _same_places(a: Tensor, b: Tensor) -> bool:
    return (a.shape[0], *a.shape[2:]) == (b.shape[0], *b.shape[2:])


def _chart(image: Image, result: Tensor) -> tuple[Tensor, Tensor] | None:
    """Places of outputs, and what these depend on; None if it is not what comes before in some order."""
    asked, rows = torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, *image.given.shape[1:])
    for draw in range(min(PASSES, max(2, math.ceil(ASKED / len(image.given))))):
        at = places(image.given, draw)
        asked, rows = torch.cat([asked, at]), torch.cat([rows, strengths(image.leaf, result, at)])
        if not rows.isfinite().all() or not in_an_order((rows > 0).any(1), asked, most=0):
            return None
    return (asked, rows) if in_an_order((rows > 0).any(1), asked) else None


def _told(seeing: int, asked: int, begins: str) -> Outcome:
    return Outcome(
        Status.FAILED,
        "input_is_target",
        f"{seeing} of {asked} outputs depend on the very pixel that they are to say, besides those before it "
        f"(expected: on those before only). It begins in {begins}",
        "hide the pixel itself in the first layer: a mask of type A there, of type B in the layers after it",
        {"outputs": seeing},
    )


def _look(
    again: Rehearsal, batch: Any, changed: Mapping[int, Tensor] | None = None, held: Mapping[int, Tensor] | None = None
) -> tuple[Pixels, Tensor | None]:
    pixels = Pixels()
    with pixels.through(again.module, changed, held):
        loss = again.step(batch).loss
    return pixels, loss


def is_made_of(values: Tensor, given: Tensor) -> bool:
    """Whether images are some values, shifted and scaled, or one for each level of them, or one-hot vectors of these.

    Args:
        values: Anything.
        given: Shape (N, C, H, W).

    Example:
        >>> x = torch.randint(9, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0))
        >>> is_made_of(x, x / 4 - 1), is_made_of(x, (x > 4).float()), is_made_of(x, x + torch.randn(x.shape))
        (True, True, False)

    """
    n, channels, height, width = given.shape
    size, few = values.numel(), max(1, COMPARED // (height * width))
    if (
        not values.ndim
        or values.is_complex()
        or len(values) != n
        or size not in {given.numel(), given.numel() // channels}
    ):
        return False
    if size != given.numel():  # as where a class is made a vector
        if not bool(((given == 0) | (given == 1)).all() and (given.sum(1) == 1).all()):
            return False
        given, channels = given.argmax(1, keepdim=True), 1
    values, given = values.reshape(given.shape)[:few], given[:few]
    values, given = values.cpu().double(), given.cpu().double()
    return all(_is_function(values[:, c].flatten(), given[:, c].flatten()) for c in range(channels))


def _is_function(x: Tensor, y: Tensor) -> bool:
    if not (x.isfinite().all() and y.isfinite().all()) or (spread := y.max() - y.min()) == 0:
        return False
    centred = x - x.mean()
    line = centred * ((centred * y).sum() / centred.square().sum().clamp(min=1e-300)) + y.mean()
    if (y - line).abs().max() <= FAINT * spread:
        return True
    levels, which = x.unique(return_inverse=True)
    if len(levels) > len(x) // LEVEL:
        return False
    ends = [torch.zeros_like(levels).scatter_reduce(0, which, y, way, include_self=False) for way in ("amin", "amax")]
    return torch.equal(*ends)


def is_yes_or_no(gradient: Tensor, given: Tensor) -> bool:
    """Whether images are zeros and ones, and a loss wants outputs to grow where ones are, and to fall elsewhere.

    Example:
        >>> x = torch.eye(8).view(1, 1, 8, 8)
        >>> is_yes_or_no(0.5 - x, x), is_yes_or_no(0.5 - x.roll(1), x)
        (True, False)

    """
    binary = gradient.shape == given.shape and bool(((given == 0) | (given == 1)).all())
    counted = [int(((given == value) & (gradient != 0)).sum()) for value in (0, 1)] if binary else [0]
    return min(counted) >= LEVEL and bool(((gradient * (0.5 - given) > 0) | (gradient == 0)).all())


def _put(tensor: Tensor, sources: Sequence[Tensor], at: Tensor, image: Tensor) -> Tensor:
    """At one place of each image what is farthest from it of what is anywhere in them."""
    if not any(tensor is source for source in sources):
        return tensor
    n, _, height, width = image.shape
    changed = tensor.detach().clone().reshape(n, -1, height, width)
    pixels = changed[torch.arange(n), :, at[:, 0], at[:, 1]].cpu().double()
    every = changed.permute(0, 2, 3, 1).flatten(0, 2)
    others = every[:: math.ceil(len(every) / CANDIDATES)].cpu().double()
    far = [others[(others - pixel).abs().sum(1).argmax()] for pixel in pixels]
    changed[torch.arange(n), :, at[:, 0], at[:, 1]] = torch.stack(far).to(changed)
    return changed.view(tensor.shape)


def is_asked_there(before: Tensor, after: Tensor, at: Tensor) -> bool:
    """Whether the loss wants something else of outputs at places that were changed, and of no others.

    Args:
        before: Gradient of the loss with respect to outputs, shape (N, K, H, W).
        after: The same, with a change in what entered.
        at: Where, shape (N, 2).

    Example:
        >>> before, at = torch.zeros(1, 1, 4, 4), torch.tensor([[1, 2]])
        >>> after = before.index_put((torch.tensor(0), torch.tensor(0), *at.T), torch.tensor(1.0))
        >>> is_asked_there(before, after, at), is_asked_there(before, after, at + 1)
        (True, False)

    """
    differs = ((after - before).abs() > FAINT * before.abs().max()).any(1)
    there = torch.zeros_like(differs)
    there[torch.arange(len(at)), at[:, 0], at[:, 1]] = True
    return not bool((differs & ~there).any()) and bool(differs[there].float().mean() >= HALF)


def _begins(again: Rehearsal, batch: Any, base: Pixels, number: int, out: int, at: Tensor) -> int | None:  # noqa: PLR0913, PLR0917
    """The first of the maps that changes at places at which something else entered; None if the output does not."""
    leaf = base.images[number].leaf
    other, _ = _look(again, batch, changed={number: _put(leaf, [leaf], at, leaf)})
    if len(other.maps) != len(base.maps):
        return None

    def differs(i: int) -> bool:
        a, b = base.maps[i].value.detach(), other.maps[i].value.detach()
        if a.shape != b.shape or not _same_places(a, leaf):
            return False
        change = ((a - b).abs() > FAINT * a.abs().max()).any(1).cpu()
        there = change[torch.arange(len(at)), at[:, 0], at[:, 1]]
        return bool(there.any()) and in_an_order(change, at, most=0)  # else rows or columns may be turned around

    return next((i for i in range(len(base.maps)) if differs(i)), None) if differs(out) else None
