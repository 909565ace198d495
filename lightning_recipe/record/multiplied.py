"""What a step multiplies vectors with that has no gradient and may be angles: tables of rotary positions."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_recipe.record.caller import line
from lightning_recipe.record.compiled import is_traced

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

PRODUCTS = {"mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__"}
LARGEST = 2.0
"""Size of a sine or cosine; some are scaled a little, for sequences that are longer than before."""
ROUNDED = 1e-2
"""What the squares of a sine and a cosine differ by, over their sum: in bfloat16, which has 8 bits."""
VARIES = 0.1
"""What sines differ by, over the largest, at least; and from -1, 0 and 1 some of them: masks do not."""
MOST_TABLES = 64
"""That are kept, of a step."""
MOST_NUMBERS = 2**22
"""Of one of them, such as 32,000 places of 128 numbers."""


class Multiplied(TorchFunctionMode):
    """Sees tables without a gradient that are multiplied with vectors that have one, and may change both.

    A table has at least two dimensions, such as places and frequencies, and no large numbers.

    Args:
        lines: Where something else is computed.
        table_as: What is made of tables there.
        product_as: What is made of the products there.

    Attributes:
        tables: By the line that multiplies, those that differ.
        shapes: Of the vectors, likewise.

    Example:
        >>> angles = torch.arange(4)[:, None] * torch.tensor([1.0, 0.1, 0.01])
        >>> vectors = torch.ones(8, 4, 3, requires_grad=True)
        >>> turned = lambda: (vectors * angles.cos(), vectors * angles.sin(), vectors * 2, vectors * torch.ones(3))
        >>> with Multiplied() as multiplied:
        ...     _ = turned()
        >>> [len(tables) for tables in multiplied.tables.values()], list(multiplied.shapes.values())
        ([2], [{(8, 4, 3)}])
        >>> with Multiplied(multiplied.tables, table_as=torch.zeros_like):
        ...     [bool(product.any()) for product in turned()]
        [False, False, True, True]

    """

    def __init__(
        self,
        lines: Collection[str] = (),
        *,
        table_as: Callable[[Tensor], Tensor] = lambda table: table,
        product_as: Callable[[Tensor], Tensor] = lambda product: product,
    ) -> None:
        super().__init__()
        self.lines, self.table_as, self.product_as = set(lines), table_as, product_as
        self.tables: dict[str, list[Tensor]] = {}
        self.shapes: dict[str, set[tuple[int, ...]]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        two = [value for value in args[:2] if isinstance(value, Tensor)]
        if getattr(func, "__name__", "") in PRODUCTS and len(two) == 2 and not is_traced():  # noqa: PLR2004
            table, vectors = sorted(two, key=lambda tensor: tensor.requires_grad)
            if vectors.requires_grad and not table.requires_grad and _may_be_table(table, vectors):
                where = line()
                self._note(where, table, vectors)
                if where in self.lines:
                    changed = tuple(self.table_as(value) if value is table else value for value in args)
                    return self.product_as(func(*changed, **(kwargs or {})))
        return func(*args, **(kwargs or {}))

    def _note(self, where: str, table: Tensor, vectors: Tensor) -> None:
        known = self.tables.get(where, [])
        new = not any(same_numbers(table, other) for other in known)
        if new and sum(map(len, self.tables.values())) < MOST_TABLES:
            self.tables.setdefault(where, []).append(table.detach().clone())
        if where in self.tables:
            self.shapes.setdefault(where, set()).add(tuple(vectors.shape))


def same_numbers(table: Tensor, other: Tensor) -> bool:
    """Whether two tables are the same.

    Example:
        >>> same_numbers(torch.ones(2), torch.ones(2)), same_numbers(torch.ones(2), torch.ones(1))
        (True, False)

    """
    return table.shape == other.shape and table.device == other.device and bool((table == other).all())


def _may_be_table(table: Tensor, vectors: Tensor) -> bool:
    if table.layout is not torch.strided or vectors.layout is not torch.strided or not table.numel():
        return False
    numbers = (table.is_floating_point() or table.is_complex()) and sum(size > 1 for size in table.shape) > 1
    fits = numbers and table.ndim <= vectors.ndim and table.numel() <= min(vectors.numel(), MOST_NUMBERS)
    return fits and bool(table.detach().abs().amax() <= LARGEST)


def angles(tables: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Tables of cosines and sines of the same angles, or of complex numbers with these: one for each line.

    Args:
        tables: With their lines.

    Example:
        >>> angle = torch.arange(4)[:, None] * torch.tensor([1.0, 0.1, 0.01])
        >>> list(angles([("a.py:1", angle.cos()), ("a.py:2", angle.sin()), ("a.py:3", torch.rand(4, 3))]))
        ['a.py:1', 'a.py:2']
        >>> list(angles([("a.py:1", torch.polar(torch.ones(4, 3), angle))]))
        ['a.py:1']
        >>> mask = torch.eye(4)
        >>> list(angles([("a.py:1", mask), ("a.py:2", 1 - mask)]))
        []

    """
    known, found = list(tables), dict[str, Tensor]()
    for where, table in known:
        if table.is_complex() and _on_a_circle(table.real, table.imag):
            found.setdefault(where, table)
    for (where, one), (there, other) in combinations(known, 2):
        real = not one.is_complex() and not other.is_complex()
        if real and one.shape == other.shape and one.device == other.device and _on_a_circle(one, other):
            found.setdefault(where, one)
            found.setdefault(there, other)
    return found


def _on_a_circle(one: Tensor, other: Tensor) -> bool:
    """Whether two tables are the cosine and the sine of angles that differ from one another."""
    one, other = one.double(), other.double()
    squares = one.square() + other.square()
    if not bool(squares.amin() > 0) or not bool(squares.amax() - squares.amin() <= ROUNDED * squares.amax()):
        return False
    size = squares.mean().sqrt()
    between = ((one / size).abs() - 0.5).abs() < 0.5 - VARIES / 2
    both = all(bool(table.amax() - table.amin() > VARIES * size) for table in (one, other))
    return both and bool(between.any())
