"""The last few batches, kept by reference."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

from lightning_recipe.record.tensors import storage, tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_NOTHING: dict[int, int] = {}


class Recent:
    """The last few batches, as many as both bounds allow.

    Args:
        most: Batches, at most.
        most_bytes: Of what they hold together, where views of one tensor count once, and as all of it. By default
            nothing is counted.

    Example:
        >>> import torch
        >>> recent = Recent(2, most_bytes=20)
        >>> for step in range(3):
        ...     recent.add(step, torch.ones(2))
        >>> recent.of(0) is None, recent.of(1), [step for step, _ in recent.backwards()]
        (True, tensor([1., 1.]), [2, 1])
        >>> recent.add(2, torch.zeros(2))
        >>> [step for step, _ in recent.backwards()]
        [2, 1]
        >>> recent.add(3, torch.ones(100))
        >>> recent.of(3) is None
        True

    """

    def __init__(self, most: int, most_bytes: float = math.inf) -> None:
        self._most_bytes, self._counts = most_bytes, math.isfinite(most_bytes)
        self._batches: deque[tuple[int, Any, dict[int, int]]] = deque(maxlen=most)

    def add(self, step: int, batch: Any) -> None:
        """Keep the batch of a step, unless it alone is too large."""
        if self._batches and self._batches[-1][0] == step:  # LBFGS runs the step several times
            self._batches.pop()
        if not self._counts:
            self._batches.append((step, batch, _NOTHING))
            return
        self._batches.append((step, batch, {storage(t): _bytes(t) for _, t in tensors(batch)}))
        while self._bytes > self._most_bytes:
            self._batches.popleft()

    @property
    def _bytes(self) -> int:
        return sum({place: size for _, _, held in self._batches for place, size in held.items()}.values())

    def of(self, step: int) -> Any:
        """The batch of a step; None if it is not kept any more."""
        return next((batch for number, batch, _ in self._batches if number == step), None)

    def backwards(self) -> Iterator[tuple[int, Any]]:
        """Steps and their batches, the latest first."""
        return ((step, batch) for step, batch, _ in reversed(self._batches))

    def clear(self) -> None:
        """Keep none."""
        self._batches.clear()


def _bytes(tensor: Tensor) -> int:
    """Of memory that stays in use as long as the tensor does."""
    try:
        return tensor.untyped_storage().nbytes()
    except (NotImplementedError, RuntimeError):  # sparse and wrapped tensors have none
        return tensor.numel() * tensor.element_size()
