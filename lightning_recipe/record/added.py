"""What a step adds to vectors at places, the same in all examples or at all places: positions, learnt or computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_recipe.record.caller import line
from lightning_recipe.record.tensors import storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

SUMS = {"add", "add_", "__add__", "__iadd__", "__radd__"}


class Shared(NamedTuple):
    """Rows of a table that a module keeps, which are added at all places alike.

    Attributes:
        table: Where it is stored.
        row: The only one that is added, or the first.
        each: Whether each example gets a row of its own, from the first of the table on.
        rows: The table has.
        places: At which they are added.

    """

    table: int
    row: int
    each: bool
    rows: int
    places: int


class Added(TorchFunctionMode):
    """Sees what has a row for each place and is added to vectors of shape (N, places, D) that have a gradient.

    Args:
        examples: N.
        fewest: Places, at least.
        tables: Gives parameters and other tensors that modules keep, when something is added: a copy may renew them
            before its step.

    Attributes:
        places: How many there are, by the line that adds. What is 0 everywhere is none of them.
        shared: What is cut from one of `tables`, and is added to vectors of shape (N, places, D) or (places, N, D)
            without a row for each place; by the line that adds.

    Example:
        >>> import torch
        >>> tokens = torch.zeros(8, 5, 3, requires_grad=True)
        >>> with Added(8, 4) as added:
        ...     _ = tokens + torch.ones(5, 3), tokens + torch.ones(3)
        >>> list(added.places.values())
        [5]
        >>> table = torch.randn(9, 3)
        >>> with Added(8, 4, lambda: [table]) as added:
        ...     _ = tokens + table[5], tokens + table[:5]
        >>> [(shared.row, shared.rows) for (shared,) in added.shared.values()]
        [(5, 9)]

    """

    def __init__(self, examples: int, fewest: int, tables: Callable[[], Iterable[Tensor]] = tuple) -> None:
        super().__init__()
        self.examples, self.fewest = examples, fewest
        self.tables = tables
        self.places: dict[str, int] = {}
        self.shared: dict[str, list[Shared]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        two = [value for value in args[:2] if isinstance(value, Tensor)]
        if getattr(func, "__name__", "") in SUMS and len(two) == 2 and max(v.ndim for v in two) == 3:  # noqa: PLR2004
            tables = {storage(table): table for table in self.tables() if table.layout is torch.strided}
            rows, vectors = sorted(two, key=lambda tensor: (tensor.numel(), storage(tensor) not in tables))
            shape = vectors.shape if vectors.ndim == 3 and vectors.requires_grad else (0, 0, 0)  # noqa: PLR2004
            known = shape[0] == self.examples and shape[1] >= self.fewest and rows.shape[-2:] == shape[1:]
            if known and rows.numel() == shape[1] * shape[2] and bool(rows.any()):
                self.places[line()] = shape[1]
            elif storage(rows) in tables and self.examples in shape[:2]:
                self._note(rows, shape, tables[storage(rows)])
        return func(*args, **(kwargs or {}))

    def _note(self, added: Tensor, shape: Sequence[int], table: Tensor) -> None:
        """Take note of what is cut from a table that has more rows than there are places, and has none for each."""
        missing, width = (0,) * (3 - added.ndim), shape[2]
        sizes, strides = (*missing, *added.shape), (*missing, *added.stride())
        if not table.is_contiguous() or table.shape[-1:] != (width,) or (sizes[2], strides[2]) != (width, 1):
            return
        examples = 0 if shape[0] == self.examples else 1
        places, rows = shape[1 - examples], table.numel() // width
        row, rest = divmod(int(added.storage_offset()) - int(table.storage_offset()), width)
        alike = [sizes[d] <= 1 or strides[d] == 0 for d in (0, 1)]
        each = sizes[examples] == self.examples and strides[examples] == width and not alike[examples]
        enough = places >= self.fewest and rows > max(places, self.examples if each else 0)
        if rest == 0 and alike[1 - examples] and (each or alike[examples]) and enough:
            self.shared.setdefault(line(), []).append(Shared(storage(table), row, each, rows, places))
