"""Validation examples whose slightly changed copies came by in training, in constant memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lightning_recipe.callbacks._data_seen import fingerprints
from lightning_recipe.callbacks._near_copies import are_compared, gathered
from lightning_recipe.callbacks._near_prints import Prints
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from lightning_recipe.trial.stored import Part

WAITING = 64
"""Batches whose fingerprints stay on their device, at most."""
BITS = 16
"""Zero bits, at most: as of 2^31 examples."""
KEPT = 2**15
"""Examples that are kept of each side: if there are more, those whose fingerprint ends in one zero bit more."""
PROBES = 512
"""Examples of either side that are compared with all of it."""
BATCH = 256
"""Stored examples that are read at once."""
COMPARED = 256
"""Of their values that are compared."""
READABLE = {np.dtype(kind) for kind in ("f4", "f8", "f2", "u1", "i1", "i2", "i4", "i8", "?")}
"""Of which tensors are made."""
SHARE = 0.05
"""Of stored validation examples, from which on copies are a warning, as of those that are the same."""
BLOCK = 2**13
"""Examples that they are compared with at once."""
RADII = (0, 2, 4, 6, 8, 10)
"""Bits of 64 in which copies may differ; noise of a tenth of an image's contrast changes 2, a shift by a pixel in 32
up to 10. Others of real images that differ in no more are rare, and how rare is measured."""
FEWEST, LEAST = 10, 0.01
"""Validation examples with a copy, at least, and the share of those looked at."""
CROWD = 4
"""Near ones of an example, at most: what has more is blank, a phrase, or a frame of a scene."""
TIMES = 3.0
"""As many as there may be by chance, at least."""
UNSEEN = 3.0
"""Pairs that there may be by chance where none was seen, with 95 % certainty."""
MOST = 0.9
"""Share of validation in training, and of its size over that of training, from which on it is meant to be the same."""


class NearBy:
    """The examples of the first epoch and of the first validation, by fingerprints that small changes leave.

    Attributes:
        open: Whether batches hold what has such fingerprints.

    Example:
        >>> import torch
        >>> seen, rng = NearBy(), torch.Generator().manual_seed(0)
        >>> image = torch.nn.functional.interpolate(torch.rand(256, 3, 6, 6, generator=rng), (32, 32), mode="bicubic")
        >>> seen.note("train", image[:200].flip(-1), 0)
        >>> seen.note("validation", image[150:] * 2 - 1, 1)
        >>> seen.verdict().evidence["copies"]
        50.0

    """

    def __init__(self) -> None:
        self.open = True
        self._prints = Prints()
        self._kept = {"train": _NONE, "validation": _NONE}
        self._zeros = {"train": 0, "validation": 0}
        self._waiting: list[tuple[str, Tensor]] = []
        self._validated: int | None = None  # after so many steps

    def note(self, stage: str, batch: Any, step: int) -> None:
        """Look at a batch, without waiting for an accelerator but now and then."""
        if stage == "validation":
            self._validated = step if self._validated is None else self._validated
        if not self.open or (stage == "validation" and step != self._validated):
            return
        prints = self._prints(batch)
        self.open = prints is not None
        if prints is not None:
            self._waiting.append((stage, prints))
        if len(self._waiting) == WAITING:
            self._fetch()

    @property
    def is_complete(self) -> bool:
        """Whether nothing more is needed, once the first epoch is over."""
        return not self.open or self._validated is not None

    def condense(self, most: int) -> None:
        """Keep no more than so many of each, on the host, for other ranks."""
        self._fetch(most)
        self._prints = Prints()  # which holds what is on a device

    def join(self, other: NearBy) -> None:
        """Take in what came by on another rank."""
        self.open &= other.open
        for stage, rows in other._kept.items():
            self._add(stage, rows, other._zeros[stage])

    def verdict(self, share: float = SHARE) -> Outcome | None:
        """What to say of it: a warning from so large a share of validation on."""
        self._fetch()
        for stage in self._kept if self.open else ():
            self._add(stage, _NONE, max(self._zeros.values()))
        train, val = self._kept.values()
        found = copies(train, val) if self.open else None
        if found is None:
            return None
        count, looked, chance = found
        part = count / looked
        same = part > MOST and len(val) > MOST * len(train)
        return Outcome(
            Status.WARNING if part > share and not same else Status.ADVICE,
            "near_copies",
            f"{count} of {looked} validation examples ({part:.0%}) have a copy in training, or a slightly changed one, "
            f"with the same label; by chance {chance:.1%} at most have",
            "split before you augment, and keep the copies, frames and views of one example on one side; remove "
            "duplicates by a perceptual hash",
            {"share": part, "copies": float(count), "looked_at": float(looked), "by_chance": chance},
        )

    def _fetch(self, most: int | None = None) -> None:
        for stage in self._kept:
            new = [prints.cpu().numpy() for one, prints in self._waiting if one == stage]
            self._add(stage, np.concatenate([_NONE, *new]), 0, most)
        self._waiting.clear()

    def _add(self, stage: str, rows: NDArray[np.int64], zeros: int, most: int | None = None) -> None:
        """Take in more, and keep no more than there is room for."""
        zeros = max(self._zeros[stage], zeros)
        rows = np.concatenate([self._kept[stage], rows[rows.any(1)]])
        rows, room = rows[_ends(rows, zeros)], KEPT if most is None else most
        while len(rows) > room and zeros < BITS:
            zeros += 1
            rows = rows[_ends(rows, zeros)]
        self._kept[stage], self._zeros[stage] = rows[:room], zeros


def near_stored(train: list[Part], val: list[Part]) -> Outcome | None:
    """The same of what data sets store, as arrays: as many examples as are kept.

    Where some are the very same on both sides, what is stored is only a part of an example, as it is to be told by now.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from lightning_recipe.trial.stored import Part
        >>> rng = torch.Generator().manual_seed(0)
        >>> x = torch.nn.functional.interpolate(torch.rand(300, 1, 6, 6, generator=rng), (16, 16), mode="bicubic")
        >>> one, other = TensorDataset(x[:220]), TensorDataset(x[200:] + 1)
        >>> near_stored([Part(one, range(220))], [Part(other, range(100))]).evidence["copies"]
        20.0

    """
    if not are_compared(train, val):
        return None
    one, other, seen = gathered(train), gathered(val), NearBy()
    names = [n for n in one if n in other and one[n].dtype == other[n].dtype and one[n].dtype in READABLE]
    name = max(names, key=lambda name: one[name][0].size, default="")
    if not name or one[name].ndim == 1 or _meet(one[name], other[name]):
        return None
    for stage, held in (("train", one), ("validation", other)):
        size = min(KEPT, len(held[names[0]]))
        for i in range(0, size, BATCH):
            seen.note(stage, {name: torch.from_numpy(held[name][i : min(i + BATCH, size)]) for name in names}, 0)
    return seen.verdict()


def _meet(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether some rows have the same values, of which some are compared."""
    rows = [torch.from_numpy(array[:KEPT]).flatten(1) for array in (one, other)]
    a, b = (fingerprints(row[:, :: math.ceil(row.shape[1] / COMPARED)]).numpy() for row in rows)
    return bool(np.isin(b, a).any())


_NONE: NDArray[np.int64] = np.zeros((0, 2), np.int64)


def _ends(rows: NDArray[np.int64], zeros: int) -> NDArray[np.bool_]:
    ends: NDArray[np.bool_] = rows[:, 0] & ((1 << zeros) - 1) == 0
    return ends


def copies(train: NDArray[np.int64], val: NDArray[np.int64]) -> tuple[int, int, float] | None:
    """How many of some validation examples have a copy in training, of how many, and what share may by chance.

    Two examples of different sides that were drawn apart are no more alike than the geometric mean of what two of the
    one and two of the other are (Cauchy and Schwarz): blank or low-resolution images, frames and templates have as many
    near ones within training, or within validation.

    Args:
        train: Fingerprints as `Prints` gives them, shape (N, 2).
        val: Likewise.

    Returns:
        None if that may be chance.

    """
    if min(len(train), len(val)) < FEWEST:
        return None
    probes, own = _some(val), _some(train)
    alike = probes[:, 1:] == train[:, 1]
    across, among = _distances(probes, train), _distances(probes, val)
    within, back = _distances(own, train), _distances(own, val)
    found = None
    for radius in RADII:
        a, v, t, b = (near <= radius for near in (across, among, within, back))
        few = a.sum(1) + v.sum(1) - 1 <= CROWD
        alone = t.sum(1) + b.sum(1) - 1 <= CROWD
        count = int(((a & alike).any(1) & few).sum())
        pairs = [(near[kept].sum() - kept.sum() + UNSEEN) / near.size for near, kept in ((v, few), (t, alone))]
        chance = len(train) * math.sqrt(pairs[0] * pairs[1])
        if count >= FEWEST and count / len(probes) >= max(LEAST, TIMES * chance):
            found = max(found or (0, 0, 0.0), (count, len(probes), chance))
    return found


def _some(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    chosen: NDArray[np.int64] = rows[np.linspace(0, len(rows) - 1, min(PROBES, len(rows))).astype(int)]
    return chosen


def _distances(probes: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """In how many bits they differ, shape (probes, rows)."""
    one = _signs(probes)
    blocks = [64 - one @ _signs(rows[i : i + BLOCK]).T for i in range(0, len(rows), BLOCK)]
    return np.concatenate([(block / 2).astype(np.uint8) for block in blocks], 1)


def _signs(rows: NDArray[np.int64]) -> NDArray[np.float32]:
    bits = np.unpackbits(np.ascontiguousarray(rows[:, :1]).view(np.uint8), axis=1)
    return bits.astype(np.float32) * 2 - 1
