"""Which examples came by in batches, in constant memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lightning_recipe.callbacks._by_chance import are_copies
from lightning_recipe.callbacks._data_seen import BITS, CHANGES, ENTRIES, fingerprints, information
from lightning_recipe.callbacks._overlap import BY_CHANCE, SHORT, Overlap
from lightning_recipe.record.tensors import holds, plain, tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

VALUES = 2**13
"""Values of an entry of an example that are read, evenly spaced."""
WAITING = 64
"""Batches whose fingerprints stay on their device, at most."""
KEPT = 2**17
"""Fingerprints that are kept: if there are more, those that end in one zero bit more."""
MOST = 0.9
"""Of the training examples, from which on validation is on them by intention: the rest may be of a short last batch."""
MEASURED = 64
"""Examples, and their columns, that information is measured on."""


class CameBy:
    """The examples that came by in batches of one kind, by the fingerprints of all their entries.

    Only examples that are not equal by chance count: with values that change, in an entry that holds information.

    Attributes:
        kept: The fingerprints that end in so many zero bits, sorted.
        times: How often each of them came.
        zeros: How many.
        count: Examples that came by, or batches of which that is not known.
        readable: Whether all batches held rows of their examples, and nothing else.
        short: Whether examples are a few integers each, such as phrases, which come again in any text.

    Example:
        >>> train, val = CameBy(), CameBy()
        >>> x = torch.rand(96, 20)
        >>> train.note(x[:64])
        >>> val.note(x[32:])
        >>> common(train, val)
        Overlap(common=32, looked=64, same=False, matches=())

    """

    def __init__(self) -> None:
        self.kept: NDArray[np.int64] = np.zeros(0, np.int64)
        self.times: NDArray[np.int64] = np.zeros(0, np.int64)
        self.zeros = self.count = 0
        self.readable = self.short = True
        self._bits: dict[int, float] = {}
        self._waiting: list[tuple[Tensor, list[Tensor]]] = []

    @torch.no_grad()
    def note(self, batch: Any) -> None:
        """Look at a batch without changing anything in it, and without waiting for an accelerator but now and then."""
        found = [plain(tensor.detach()) for _, tensor in tensors(batch)]
        rows = [tensor for tensor in found if tensor.ndim and tensor.layout is torch.strided and tensor.numel()]
        examples = len(rows[0]) if rows else 0
        whole = len(rows) == len(found) <= ENTRIES and all(len(t) == examples and not t.is_complex() for t in rows)
        self.readable &= whole and not holds(batch, str, np.ndarray)
        self.count += examples or 1
        if not self.readable or not examples:
            return
        total, changes = torch.zeros(examples, dtype=torch.long, device=rows[0].device), []
        for entry, tensor in enumerate(rows):
            flat = tensor.reshape(examples, -1)
            flat = flat[:, :: math.ceil(flat.shape[1] / VALUES)]
            total = total * 6364136223846793005 + fingerprints(flat).to(total.device)
            self.short &= flat.shape[1] <= SHORT and not (flat.is_floating_point() or flat.dtype is torch.uint8)
            changes.append((flat[:, 1:] != flat[:, :-1]).sum(1))
            if entry not in self._bits and examples > 1:
                sample = flat[:MEASURED, :: math.ceil(flat.shape[1] / MEASURED)]
                self._bits[entry] = information(sample.float().cpu().numpy())
        self._waiting.append((total, changes))
        if len(self._waiting) == WAITING:
            self.fetch()

    def fetch(self) -> None:
        """Take in what waits on its device."""
        found = []
        for total, changes in self._waiting:
            telling = [change for entry, change in enumerate(changes) if self._bits.get(entry, 0.0) >= BITS]
            if telling:
                rich = torch.stack([change.to(total.device) for change in telling]).amax(0) >= CHANGES
                found.append(total[rich].cpu().numpy())
        self._waiting.clear()
        new = np.concatenate([one[one & ((1 << self.zeros) - 1) == 0] for one in found] or [self.kept[:0]])
        self._add(new, np.ones_like(new))
        while len(self.kept) > KEPT:
            self.thin(self.zeros + 1)

    def condense(self, most: int) -> None:
        """Keep no more than so many, for other ranks."""
        self.fetch()
        while len(self.kept) > most:
            self.thin(self.zeros + 1)

    def join(self, other: CameBy) -> None:
        """Take in what came by on another rank."""
        for one in (self, other):
            one.thin(max(self.zeros, other.zeros))
        self._add(other.kept, other.times)
        self.count, self.readable, self.short = (
            self.count + other.count, self.readable and other.readable, self.short and other.short
        )  # fmt: skip

    @property
    def repeats(self) -> float:
        """Share of the examples that came before."""
        return 1 - len(self.kept) / max(1, int(self.times.sum()))

    def thin(self, zeros: int) -> None:
        """Keep those that end in at least so many zero bits."""
        self.zeros = max(self.zeros, zeros)
        ends = self.kept & ((1 << self.zeros) - 1) == 0
        self.kept, self.times = self.kept[ends], self.times[ends]

    def _add(self, prints: NDArray[np.int64], times: NDArray[np.int64]) -> None:
        together, counts = np.concatenate([self.kept, prints]), np.concatenate([self.times, times])
        self.kept, where = np.unique(together, return_inverse=True)
        self.times = np.bincount(where.ravel(), counts, len(self.kept)).astype(np.int64)


def common(train: CameBy, val: CameBy) -> Overlap | None:
    """How many of the examples that came by in validation came by in training; None where they can't be told apart."""
    for one in (train, val):
        one.fetch()
    zeros = max(train.zeros, val.zeros)
    for one in (train, val):
        one.thin(zeros)
    if not (train.readable and val.readable and len(train.kept) and len(val.kept)):
        return None
    both = len(np.intersect1d(train.kept, val.kept, assume_unique=True))
    if train.short and train.repeats > BY_CHANCE * both / len(val.kept) and not are_copies(train.times):
        return None
    return Overlap(both, len(val.kept), same=both == len(val.kept) > MOST * len(train.kept))
