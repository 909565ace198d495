"""The loss of each example: a loss function without its reduction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning_recipe.record.step import LossCall


class Sums(NamedTuple):
    """Of each example, shape (N,): what its elements come to, and how many of them count."""

    totals: Tensor
    counts: Tensor


@torch.no_grad()
def unreduced(call: LossCall, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """The values of a loss function without reduction, and which of them count: all but those of an ignored target.

    Args:
        call: Of the function.
        arguments: Those of the call, or others in their place.

    Example:
        >>> from torch.nn import functional as F
        >>> from lightning_recipe.record.step import LossCall
        >>> arguments = {"input": torch.zeros(2, 3), "target": torch.tensor([1, -100]), "ignore_index": -100}
        >>> unreduced(LossCall("cross_entropy", F.cross_entropy, arguments, None, 2, "a.py:1", False), arguments)
        (tensor([1.0986, 0.0000]), tensor([ True, False]))

    """
    legacy = dict.fromkeys({"size_average", "reduce"} & arguments.keys())  # they would outdo the reduction
    values = call.function(**{**arguments, **legacy, "reduction": "none"})
    target, ignored = arguments["target"], arguments.get("ignore_index")
    if ignored is None or target.shape != values.shape:
        return values, torch.ones_like(values, dtype=torch.bool)
    return values, target != ignored


def by_example(values: Tensor, counted: Tensor, call: LossCall, examples: int) -> Sums:
    """What belongs to each example taken together; there is more if time or pixels were flattened into the examples.

    Example:
        >>> from types import SimpleNamespace
        >>> total, count = by_example(torch.ones(6), torch.arange(6) > 0, SimpleNamespace(examples=6), 3)
        >>> total, count
        (tensor([1., 2., 2.]), tensor([1, 2, 2]))

    """
    if values.shape != counted.shape:  # already reduced over the columns, as by multilabel losses
        counted = torch.ones_like(values, dtype=torch.bool)
    each = call.examples // examples if examples and call.examples % examples == 0 else 1
    whole = len(values) // each
    rows, counts = (part[: whole * each].reshape(whole, -1) for part in (values * counted, counted))
    return Sums(rows.sum(1), counts.sum(1))
