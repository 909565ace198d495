"""Products of vectors in the graph of a loss: of which they are, and whether these have a length of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_recipe.record.loss_graph import RESHAPES, Node, nodes

if TYPE_CHECKING:
    from collections.abc import Iterable

NORMS = {"LinalgVectorNorm", "Norm", "Sqrt"}


def of_unit_vectors(loss: Tensor) -> bool:
    """Whether a loss is computed from products, or distances, of unit vectors: cosines, times a scale.

    Example:
        >>> layer, x = torch.nn.Linear(2, 3), torch.ones(4, 2)
        >>> unit = torch.nn.functional.normalize
        >>> logits = 30 * unit(layer(x)) @ unit(torch.ones(3, 5, requires_grad=True), dim=0)
        >>> of_unit_vectors(logits.sum()), of_unit_vectors(layer(x).sum())
        (True, False)

    """
    return any(sum(is_unit(node.source(i)) for i in range(len(node.parents))) > 1 for node in nodes(loss))


def is_unit(node: Node | None) -> bool:
    """Whether something was divided by its norm, as by ``normalize``, and at most multiplied by a number."""
    if node is not None and node.kind == "Mul" and None in node.parents:
        node = node.source(node.parents.index(None) ^ 1)
    by = node.source(1) if node is not None and node.kind == "Div" else None
    by = by.source() if by is not None and by.kind in {"ClampMin", "Clamp", "Add"} else by
    return by is not None and by.kind in NORMS


def is_weight(node: Node | None) -> bool:
    """Whether something is a parameter, divided by its norm or not."""
    while node is not None and node.kind in {"Div", "Mul"} | RESHAPES:
        node = node.source()
    return node is not None and node.kind == "AccumulateGrad"


def sides(node: Node) -> tuple[list[Node | None], list[Tensor | None]]:
    """The two sides of a product of vectors, by ``matmul`` or by hand, and their values, vectors in the last dimension.

    Returns:
        For each side what made it, None if it is a constant; nothing if it is no such product, or a sparse one.

    Example:
        >>> layer, x = torch.nn.Linear(2, 3), torch.ones(4, 2)
        >>> made_by, values = sides(Node((layer(x) @ layer(x).detach().T).grad_fn))
        >>> [node and node.kind for node in made_by], [tuple(value.shape) for value in values if value is not None]
        (['Addmm', None], [(4, 3)])

    """
    if node.kind in {"Mm", "Bmm"}:
        values = [node.saved("self"), node.saved("mat2")]
        if any(isinstance(value, Tensor) and value.layout is not torch.strided for value in values):
            return [], []
        one, other = values
        return [node.source(i) for i in range(2)], [one, other.mT if isinstance(other, Tensor) else None]
    product, dims = node.parents[0] if node.kind == "Sum" else None, node.saved("dim")
    if product is None or product.kind != "Mul" or not dims or len(dims) != 1 or len({*product.parents}) == 1:
        return [], []
    dim = dims[0] % len(product.shape) - len(product.shape)
    return [product.source(i) for i in range(2)], list(_moved((product.saved("self"), product.saved("other")), dim))


def _moved(values: Iterable[object], dim: int) -> Iterable[Tensor | None]:
    for value in values:
        yield value.transpose(dim, -1) if isinstance(value, Tensor) and value.ndim >= -dim else None
