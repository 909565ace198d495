"""Whether a mask of padding leaves out what it should keep: compared with what the batch holds where it keeps."""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.tensors import dense

if TYPE_CHECKING:
    from torch import nn

    from lightning_recipe.trial.rehearsal import Rehearsal

LEAVES_OUT = "key_padding_mask"
"""How the names of torch's masks end, which are true, or minus infinity, where nobody is to look."""
KEEPS = "attention_mask"
"""The name of a mask of shape (N, S) that is 1 where somebody is to look, and 0 at padding, as in transformers."""
FEW = 8
"""Places that are kept, at least, and left out."""


class Mask(NamedTuple):
    """What a module was given.

    Attributes:
        module: Its name.
        name: The argument's.
        left_out: Shape (N, S).

    """

    module: str
    name: str
    left_out: Tensor


def takers(module: nn.Module) -> dict[str, inspect.Signature]:
    """The modules whose forward takes a mask of padding, by name.

    Example:
        >>> list(takers(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.TransformerEncoderLayer(8, 2))))
        ['1', '1.self_attn']

    """
    signatures = {name: inspect.signature(part.forward) for name, part in module.named_modules()}
    return {name: s for name, s in signatures.items() if any(map(_is_mask, s.parameters))}


def inverted(again: Rehearsal, batch: Any) -> tuple[str, Outcome] | None:
    """The module that is given a mask the wrong way round, and the verdict: what it keeps is one value, the padding.

    Args:
        again: Runs the step.
        batch: Its batch.

    """
    seen: list[Mask] = []
    with ExitStack() as stack:
        for name, signature in takers(again.module).items():
            module = again.module.get_submodule(name)
            hook = _Taking(name, signature, seen)
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        again.step(batch)
    for mask in seen:
        for path, tensor in dense(batch, "batch"):
            left_out = _of_places(mask.left_out, tensor)
            if left_out is not None and (value := _only_value(left_out, tensor)) is not None:
                kept = float((~left_out).double().mean())
                keeps = "is true where nobody is to look" if mask.name.endswith(LEAVES_OUT) else "is 0 at padding"
                return mask.module or "the LightningModule", Outcome(
                    Status.FAILED,
                    "mask_inverted",
                    f"the {mask.name} of {mask.module or 'the LightningModule'} leaves out what there is to read, and "
                    f"keeps the padding: {path} is {value:g} at all of the {kept:.0%} of the places that it keeps",
                    f"invert the mask: {mask.name} {keeps}",
                    {"kept": kept},
                )
    return None


class _Taking:
    def __init__(self, name: str, signature: inspect.Signature, seen: list[Mask]) -> None:
        self.name, self.signature, self.seen = name, signature, seen

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            given = self.signature.bind(*args, **kwargs).arguments
        except TypeError:  # the call itself raises in a moment
            return
        for name, value in given.items():
            if _is_mask(name) and isinstance(value, Tensor) and value.ndim == 2:  # noqa: PLR2004 - (N, S)
                self.seen.append(Mask(self.name, name, _left_out(name, value.detach())))


def _is_mask(name: str) -> bool:
    return name == KEEPS or name.endswith(LEAVES_OUT)


def _left_out(name: str, mask: Tensor) -> Tensor:
    if name == KEEPS:
        return mask == 0
    return mask if mask.dtype is torch.bool else mask < 0


def _of_places(left_out: Tensor, tensor: Tensor) -> Tensor | None:
    """The part of a mask that goes with a tensor of shape (N, S, ...): a token may have been put before each row."""
    rows, places = left_out.shape
    if tensor.ndim < 2 or len(tensor) != rows or not places - 1 <= tensor.shape[1] <= places:  # noqa: PLR2004
        return None
    return left_out[:, places - tensor.shape[1] :]


def _only_value(left_out: Tensor, tensor: Tensor) -> float | None:
    """The value of a tensor at all places that are kept, if there is one, and several at those that are left out."""
    kept, out = tensor[~left_out], tensor[left_out]
    if len(kept) < FEW or len(out) < FEW or not bool((kept == kept.flatten()[0]).all()):
        return None
    return float(kept.flatten()[0]) if len(out.unique()) > 2 else None  # noqa: PLR2004 - more than a mask has
