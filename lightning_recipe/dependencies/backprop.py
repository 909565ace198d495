"""Which examples' outputs depend on which examples' inputs, charted by backprop."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


SEED = 20190425
"""Of everything drawn here. Not 0: where users seed with that too, the draw may be equal to their data."""


class UndecidedError(Exception):
    """Whether examples mix can't be told; the message says why.

    Example:
        >>> raise UndecidedError("two calls with the same input differ")
        Traceback (most recent call last):
        lightning_recipe.dependencies.backprop.UndecidedError: two calls with the same input differ

    """


# -- rows of tensors and the examples they belong to


@dataclass(frozen=True)
class Rows:
    """The example that each row of a tensor belongs to.

    Attributes:
        dim: The dimension along which rows are counted.
        owner: Example of each row, shape (size of `dim`,), int64.

    """

    dim: int
    owner: Tensor

    def of(self, examples: Tensor, tensor: Tensor) -> Tensor:
        """Marks the rows of the examples marked in `examples`, shape (B,), ready to broadcast over `tensor`."""
        shape = [1] * tensor.ndim
        shape[self.dim] = -1
        return examples[self.owner].to(tensor.device).view(shape)

    def largest(self, tensor: Tensor, batch_size: int) -> Tensor:
        """Each example's largest magnitude in `tensor`, shape (B,), float64 on the CPU."""
        rest = [d for d in range(tensor.ndim) if d != self.dim]
        rows = (tensor.abs().amax(rest) if rest else tensor.abs()).double().cpu()
        return torch.zeros(batch_size, dtype=torch.float64).scatter_reduce(0, self.owner, rows, "amax")

    def reordered(self, tensor: Tensor, order: Tensor, batch_size: int) -> Tensor:
        """`tensor` with the rows of example ``order[i]`` where those of example ``i`` were."""
        rows = torch.argsort(self.owner, stable=True).view(batch_size, -1)
        index = torch.empty_like(self.owner)
        index[rows.flatten()] = rows[order].flatten()
        return tensor.index_select(self.dim, index.to(tensor.device))


def layouts(shape: Sequence[int], batch_size: int, owners: Sequence[Tensor] = ()) -> list[Rows]:
    """Where the examples of a batch may lie in a tensor, the likeliest first.

    A dimension of the size of the batch; or, if that is not dimension 0, several rows for each example there, those of
    one side by side (as ``reshape(B * T, -1)`` leaves them), far apart (as from time first, or two views in one), or
    both (as from (T, B, heads)).

    Args:
        shape: Of the tensor.
        batch_size: Number of examples B.
        owners: Of a batch of graphs, the graph of each node and of each edge: what has as many rows belongs to them.

    Example:
        >>> [(rows.dim, rows.owner.tolist()) for rows in layouts((5, 2), 2)]
        [(1, [0, 1])]
        >>> [(rows.dim, rows.owner.tolist()) for rows in layouts((4, 3), 2)]
        [(0, [0, 0, 1, 1]), (0, [0, 1, 0, 1])]
        >>> layouts((5, 3), 2)
        []

    """
    if owners and shape:
        known = [owner for owner in owners if len(owner) == shape[0]] + [torch.arange(batch_size)]
        return [Rows(0, owner) for owner in known if len(owner) == shape[0]][:1]
    index = torch.arange(batch_size)
    found = [Rows(dim, index) for dim, size in enumerate(shape) if size == batch_size]
    times, rest = divmod(shape[0], batch_size) if shape else (0, 0)
    if times > 1 and rest == 0:
        apart = [1, times, *(n for n in range(2, times) if times % n == 0)]
        found += [Rows(0, index.repeat_interleave(times // n).repeat(n)) for n in apart]
    return found


Part = tuple[Tensor, Rows]


def halves(batch_size: int) -> Iterator[Tensor]:
    """Halves of a batch, such that for any two examples, both ways round, one half has the first but not the second.

    Each example has a binary code, its index; a half has the examples with one bit set, or with it not set.

    Yields:
        2 * ceil(log2(B)) masks of shape (B,).

    Example:
        >>> for half in halves(3):
        ...     print(half.int().tolist())
        [0, 1, 0]
        [1, 0, 1]
        [0, 0, 1]
        [1, 1, 0]

    """
    index = torch.arange(batch_size)
    for bit in range(max(batch_size - 1, 0).bit_length()):
        has_bit = (index >> bit) & 1 == 1
        yield has_bit
        yield ~has_bit


# -- by backprop


class Dependencies:
    """How gradient travels from the examples' outputs back to the examples' inputs.

    Gradient starts as one random draw for all passes, not as ones: the sum of softmax or layer-normed outputs has none.

    Args:
        outputs: Results of one forward, and their rows.
        inputs: Tensors that require a gradient, and their rows.
        batch_size: Number of examples B.
        name: Of the output, if it is one.
        deadline: Value of ``time.monotonic()`` at which to give up; seconds.

    Example:
        >>> x = torch.randn(4, 3, requires_grad=True)
        >>> y = x.cumsum(0)  # mixes
        >>> chart = Dependencies([(y, layouts(y.shape, 4)[0])], [(x, layouts(x.shape, 4)[0])], 4)
        >>> chart.spread()[1] > 0
        tensor([ True,  True,  True, False])
        >>> chart.matrix([0, 1, 2, 3]) > 0
        tensor([[ True, False, False, False],
                [ True,  True, False, False],
                [ True,  True,  True, False],
                [ True,  True,  True,  True]])

    """

    def __init__(
        self,
        outputs: Sequence[Part],
        inputs: Sequence[Part],
        batch_size: int,
        *,
        name: str = "",
        deadline: float = math.inf,
    ) -> None:
        self.name = name
        generator = torch.Generator().manual_seed(SEED)
        self.outputs = [(tensor, rows) for tensor, rows in outputs if tensor.requires_grad]
        self.inputs, self.batch_size, self.deadline = list(inputs), batch_size, deadline
        self._start = [torch.randn(t.shape, generator=generator, dtype=t.dtype).to(t.device) for t, _ in self.outputs]
        self._spread: tuple[Tensor, Tensor] | None = None

    def reached(self, senders: Tensor) -> Tensor:
        """Largest gradient at each example's inputs when only the outputs of `senders` send any.

        Args:
            senders: Mask of shape (B,).

        Returns:
            Shape (B,), float64.

        Raises:
            TimeoutError: If the deadline has passed.
            UndecidedError: If a gradient is not finite.

        """
        if time.monotonic() > self.deadline:
            raise TimeoutError
        found = torch.zeros(self.batch_size, dtype=torch.float64)
        if not self.outputs:
            return found
        gradients = torch.autograd.grad(  # not backward(), which could reach parameters of the user's own
            [tensor for tensor, _ in self.outputs],
            [leaf for leaf, _ in self.inputs],
            [start * rows.of(senders, start) for start, (_, rows) in zip(self._start, self.outputs, strict=True)],
            retain_graph=True,
            allow_unused=True,
        )
        for gradient, (_, rows) in zip(gradients, self.inputs, strict=True):
            if gradient is not None:
                found = found.maximum(rows.largest(gradient.to_dense(), self.batch_size))
        if not found.isfinite().all():
            msg = "gradients with respect to the inputs hold NaN or infinity"
            raise UndecidedError(msg)
        return found

    def spread(self) -> tuple[Tensor, Tensor]:
        """What all examples send to themselves and to each other.

        Costs 2 * ceil(log2(B)) backward passes, once, and misses no pair, see `halves`.

        Returns:
            Largest gradient that reached each example while its own output sent, and while only others sent; shapes
            (B,). If the second is 0 for all, no two examples mix, and the first is from its own output alone.

        """
        if self._spread is None:
            own, leaks = torch.zeros(2, self.batch_size, dtype=torch.float64)
            for senders in halves(self.batch_size):
                reached = self.reached(senders)
                own, leaks = own.maximum(reached.where(senders, 0)), leaks.maximum(reached.where(~senders, 0))
            self._spread = own, leaks
        return self._spread

    def source(self, victim: int) -> int:
        """An example whose output depends on the input of `victim`, by halving; ceil(log2(B)) passes."""
        suspects = [i for i in range(self.batch_size) if i != victim]
        while len(suspects) > 1:
            half = torch.zeros(self.batch_size, dtype=torch.bool)
            half[suspects[: len(suspects) // 2]] = True
            middle = len(suspects) // 2
            suspects = suspects[:middle] if self.reached(half)[victim] > 0 else suspects[middle:]
        return suspects[0]

    def matrix(self, examples: Sequence[int]) -> Tensor:
        """Entry (i, j): how strongly the output of example i depends on the input of example j; a pass for each row.

        Returns:
            Largest gradients, shape (n, n), float64.

        """
        one_hot = torch.eye(self.batch_size, dtype=torch.bool)
        return torch.stack([self.reached(one_hot[i])[list(examples)] for i in examples])
