"""What a step adds to vectors at places, the same in all examples: positions, learnt or computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_recipe.record.caller import line

if TYPE_CHECKING:
    from collections.abc import Callable

SUMS = {"add", "add_", "__add__", "__iadd__", "__radd__"}


class Added(TorchFunctionMode):
    """Sees what has a row for each place and is added to vectors of shape (N, places, D) that have a gradient.

    Args:
        examples: N.
        fewest: Places, at least.

    Attributes:
        places: How many there are, by the line that adds. What is 0 everywhere is none of them.

    Example:
        >>> import torch
        >>> tokens = torch.zeros(8, 5, 3, requires_grad=True)
        >>> with Added(8, 4) as added:
        ...     _ = tokens + torch.ones(5, 3), tokens + torch.ones(3)
        >>> list(added.places.values())
        [5]

    """

    def __init__(self, examples: int, fewest: int) -> None:
        super().__init__()
        self.examples, self.fewest = examples, fewest
        self.places: dict[str, int] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in SUMS and all(isinstance(value, Tensor) for value in args[:2]):
            rows, vectors = sorted(args[:2], key=lambda tensor: tensor.numel())
            shape = vectors.shape if vectors.ndim == 3 and vectors.requires_grad else (0, 0, 0)  # noqa: PLR2004
            known = shape[0] == self.examples and shape[1] >= self.fewest and rows.shape[-2:] == shape[1:]
            if known and rows.numel() == shape[1] * shape[2] and bool(rows.any()):
                self.places[line()] = shape[1]
        return func(*args, **(kwargs or {}))
