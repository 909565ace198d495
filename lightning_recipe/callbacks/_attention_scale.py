"""What scores of an attention are multiplied by: the root of the size of a head, which they should be divided by."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from lightning_recipe.callbacks._attention import Weights
    from lightning_recipe.record.loss_graph import Node

EXACT = 0.01
"""By which the factor may be off, as a share: epsilons, and 16 bits."""
LEAST, TIMES = 0.3, 3.0
"""Largest weight of a row, on average, from which on an attention is sharp for weights that were just drawn; and how
much larger it is at least than with scores that are divided. Of cosines, which may be multiplied so, it is 0.1."""
SMALLEST = 4
"""Size of a head, at least: of one number, to multiply is to divide."""
BETWEEN = {"MaskedFill", "Where", "Add", "Sub", "NativeDropout"}
"""What may come between the product and the softmax: masks, positions."""
DEEPEST = 8
"""Operations between them, at most."""


def factor_of(node: Node | None, depth: int = 0) -> tuple[float, int] | None:
    """What scores are multiplied by before the softmax, and the size of a head; None if they are no such product.

    Args:
        node: That made what enters the softmax.
        depth: Operations since.

    Example:
        >>> import torch
        >>> from lightning_recipe.record.loss_graph import Node
        >>> q = torch.ones(2, 5, 16, requires_grad=True)
        >>> factor_of(Node(((q * 2) @ q.mT / 16**-0.5).grad_fn))
        (8.0, 16)

    """
    if node is None or depth > DEEPEST:
        return None
    if node.kind in {"Bmm", "Mm"}:
        left, right = node.saved("self"), node.saved("mat2")
        size = left.shape[-1] if left is not None else right.shape[-2] if right is not None else 0
        return math.prod(_scalar(node.source(i)) for i in range(2)), size
    if node.kind in {"Mul", "Div"}:
        found = factor_of(node.source(), depth + 1)
        return None if found is None else (found[0] * _scalar(node), found[1])
    if node.kind not in BETWEEN:
        return None
    return next((f for i in range(len(node.parents)) if (f := factor_of(node.source(i), depth + 1)) is not None), None)


def _scalar(node: Node | None) -> float:
    """By what one number all is multiplied; 1 if by none.

    Example:
        >>> import torch
        >>> from lightning_recipe.record.loss_graph import Node
        >>> x = torch.ones(3, requires_grad=True)
        >>> made = x * 2, x / 4, x * torch.ones(3), torch.ops.aten.mul.Scalar(x, 8.0), torch.ops.aten.div.Scalar(x, 8.0)
        >>> [_scalar(Node(result.grad_fn)) for result in made]
        [2.0, 0.25, 1.0, 8.0, 0.125]

    """
    other = node.saved("other") if node is not None and node.kind in {"Mul", "Div"} else None
    if node is None or other is None or (isinstance(other, torch.Tensor) and other.numel() != 1):
        return 1.0
    return 1 / float(other) if node.kind == "Div" and float(other) else float(other)


def multiplied(attentions: Iterable[Weights], largest: Iterable[float]) -> Outcome | None:
    """Whether half of the attentions multiply, and look at few places by that.

    Args:
        attentions: Those of which enough rows are known, with weights that were just drawn.
        largest: The largest weight of a row, on average, of each.

    """
    seen = list(zip(attentions, largest, strict=True))
    sharp = [(one, most, of_divided(one)) for one, most in seen if is_root(one)]
    sharp = [(one, most, soft) for one, most, soft in sharp if most > max(LEAST, TIMES * soft)]
    if not sharp or 2 * len(sharp) < len(seen):
        return None
    one, most, soft = max(sharp, key=lambda found: found[1])
    return Outcome(
        Status.WARNING,
        "attention_at_one_place",
        f"the scores of {len(sharp)} of {len(seen)} attentions are multiplied by {one.factor:.3g}, where heads of "
        f"{one.size} numbers ask to divide by {math.sqrt(one.size):.3g}: the largest weight of a row is {most:.2f} on "
        f"average from the beginning, where it would be {soft:.2f}",
        "divide the scores by the square root of the size of a head before the softmax",
        {"largest": most, "divided": soft, "factor": one.factor, "attentions": len(sharp)},
    )


def is_root(attention: Weights) -> bool:
    """Whether scores are multiplied by the square root of the size of a head, or of all heads together."""
    heads = attention.rows.shape[1] if attention.rows.ndim == 4 else 1  # noqa: PLR2004
    roots = [math.sqrt(size) for size in (attention.size, attention.size * heads) if attention.size >= SMALLEST]
    return any(abs(attention.factor / root - 1) < EXACT for root in roots)


def of_divided(attention: Weights) -> float:
    """The largest weight of a row, on average, if scores were divided by what they are multiplied with."""
    rows: Tensor = attention.rows.flatten(0, -2).float()
    return float((rows.log() / attention.factor**2).softmax(-1).nan_to_num().amax(1).mean())
