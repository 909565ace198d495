"""Pairs of validation that are in training the other way round, as after listing each in both directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from lightning_recipe.callbacks._pairs import labels_in, pairs_in
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

LABELS = 32
"""Labels whose pairs are looked at by themselves, at most."""
WAITING = 64
"""Batches that stay on their device, at most."""
KEPT = 2**17
"""Pairs that are kept: if there are more, those whose fingerprint ends in one zero bit more."""
FEWEST = 50
"""Validation pairs, at least."""
OFTEN = 0.3
"""Share of them that is in training the other way round, from which on it is told: e-mails and follows on Twitter are
returned by about a fifth (H. Kwak et al., What is Twitter, 2010)."""
MOST = 0.5
"""The same, from which on it worries, if hardly any other has no counterpart."""
ALL = 0.85
"""Share with a counterpart, in training or validation: directed relations that are returned most often have up to 0.8
(A. Mislove et al., Measurement and Analysis of Online Social Networks, 2007), and the rest may be for a test."""
AS_THEY_ARE = 0.1
"""Share that is in training as it is, up to which pairs do not come again by themselves."""
BY_CHANCE = 4.0
"""Times as many as of pairs that are drawn at random from the same ids, at least."""
AGREE, BY_LABEL = 0.95, 0.8
"""Share of those that are there the other way round that have the same label, from which on it is no chance, unless so
many have the same anyway."""
MORE = 1.2
"""Times as many as of random pairs, then: of most pairs that there are, most are there by chance; of all, as of sums in
a table, no more than that."""
DRAWN = 8
"""Random pairs for each."""


class Reversed:
    """The pairs that came by in the first epoch and the first validation, in constant memory.

    Attributes:
        open: Whether batches hold any.
        target: The path of the label in a batch, empty if there is none; None until it is known.

    Example:
        >>> seen, pairs = Reversed(), torch.randint(10**6, (200, 2), generator=torch.Generator().manual_seed(0))
        >>> seen.target = "batch.label"
        >>> seen.note("train", {"pair": torch.cat([pairs[:60].flip(1), pairs[60:]]), "label": torch.ones(200)}, 0)
        >>> seen.note("validation", {"pair": pairs[:60], "label": torch.ones(60)}, 1)
        >>> seen.verdict().code
        'pairs_reversed'

    """

    def __init__(self) -> None:
        self.open = True
        self.target: str | None = None
        self._kept: dict[str, dict[str, Kept]] = {"train": {}, "validation": {}}
        self._waiting: list[tuple[str, dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]] = []
        self._validated: int | None = None  # after so many steps

    @torch.no_grad()
    def note(self, stage: str, batch: Any, step: int) -> None:
        """Look at a batch, without waiting for an accelerator but now and then."""
        if stage == "validation":
            self._validated = step if self._validated is None else self._validated
        if not self.open or (stage == "validation" and step != self._validated):
            return
        found = pairs_in(batch, self.target)
        self.open = bool(found)
        if self.open:
            self._waiting.append((stage, labels_in(batch), found))
        if self.target is not None and len(self._waiting) >= WAITING:
            self._fetch()

    def condense(self, most: int) -> None:
        """Keep no more than so many of each, on the host, for other ranks."""
        self._fetch()
        for kept in (one for of_stage in self._kept.values() for one in of_stage.values()):
            kept.thin(most=most)

    def join(self, other: Reversed) -> None:
        """Take in the pairs that came by on another rank."""
        self.open &= other.open
        for stage, theirs in other._kept.items():
            for name, kept in theirs.items():
                own = self._kept[stage].setdefault(name, Kept())
                own.add(kept.rows)
                own.thin(kept.zeros)

    @property
    def is_complete(self) -> bool:
        """Whether nothing more is needed, once the first epoch is over."""
        return not self.open or self._validated is not None

    def verdict(self) -> Outcome | None:
        """What to say of the pairs that have come by."""
        self._fetch()
        train, val = self._kept["train"], self._kept["validation"]
        both = [name for name in train if name in val and self.open]
        told = (verdict(train[name], val[name], name.removeprefix("batch.")) for name in both)
        return next(filter(None, told), None)

    def _fetch(self) -> None:
        for stage, labels, found in self._waiting:
            for name, (a, b) in found.items():
                label = labels.get(self.target or "")
                if self.target in name.split(", ") or (label is not None and len(label) != len(a)):
                    continue
                rows = torch.stack([a, b, torch.zeros_like(a) if label is None else label.to(a.device)], 1)
                self._kept[stage].setdefault(name, Kept()).add(rows.cpu().numpy())
        self._waiting.clear()
        for kept in (one for of_stage in self._kept.values() for one in of_stage.values()):
            kept.thin()


class Kept:
    """Pairs with their label, each once: all, or those whose fingerprint ends in so many zero bits.

    The fingerprint is the same both ways round.

    Attributes:
        rows: The two and their label, shape (N, 3).
        zeros: How many.

    Example:
        >>> kept = Kept()
        >>> kept.add(np.array([[3, 5, 1], [5, 3, 1], [3, 5, 1]]))
        >>> kept.thin()
        >>> kept.rows.tolist()
        [[3, 5, 1], [5, 3, 1]]

    """

    def __init__(self) -> None:
        self.rows: NDArray[np.int64] = np.zeros((0, 3), np.int64)
        self.zeros = 0
        self._new: list[NDArray[np.int64]] = []

    def add(self, rows: NDArray[np.int64]) -> None:
        """Take in more, until it is thinned."""
        self._new.append(rows)

    def thin(self, zeros: int = 0, most: int | None = None) -> None:
        """Keep each once, and no more than there is room for."""
        rows = np.concatenate([self.rows, *self._new])
        self._new.clear()
        self.zeros = max(self.zeros, zeros)
        rows = rows[_ends(rows[:, 0], rows[:, 1], self.zeros)]
        rows = rows[np.sort(np.unique(_key(*rows.T), return_index=True)[1])]
        while len(rows) > (KEPT if most is None else most):
            self.zeros += 1
            rows = rows[_ends(rows[:, 0], rows[:, 1], self.zeros)]
        self.rows = rows


def _mixed(numbers: NDArray[Any]) -> NDArray[np.uint64]:
    mixed = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _key(*columns: NDArray[Any]) -> NDArray[np.uint64]:
    key = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        key = _mixed(key + column.astype(np.uint64))
    return key


def _ends(a: NDArray[Any], b: NDArray[Any], zeros: int) -> NDArray[np.bool_]:
    """Which pairs have a fingerprint that ends in so many zero bits, whichever comes first."""
    ends: NDArray[np.bool_] = _mixed(_mixed(a) + _mixed(b)) & np.uint64((1 << zeros) - 1) == 0
    return ends


class Shares(NamedTuple):
    """Of validation's pairs, 0 to 1.

    Attributes:
        turned: In training the other way round, with the same label.
        mirrored: The same, in training or in validation.
        same: In training as they are, with any label.
        chance: Pairs drawn at random from the same ids that are in training the other way round, with any label.
        agree: Of those that are in training the other way round, with any label, those with the same one.
        alike: The same, by chance.
        pairs: How many there are.

    """

    turned: float
    mirrored: float
    same: float
    chance: float
    agree: float
    alike: float
    pairs: int

    @property
    def is_told(self) -> bool:
        """Whether they are there more often than by chance, and not as they are."""
        agree = self.agree >= AGREE > BY_LABEL >= self.alike
        likelier = self.turned >= (MORE if agree else BY_CHANCE) * self.chance
        return self.turned >= OFTEN and self.same <= AS_THEY_ARE and likelier


def verdict(train: Kept, val: Kept, name: str) -> Outcome | None:
    """`warning` where most of validation's pairs with one label are in training the other way round, else `advice`.

    Args:
        train: Pairs of training.
        val: Those of validation.
        name: What they are called.

    Example:
        >>> train, val, pairs = Kept(), Kept(), np.random.default_rng(0).integers(10**6, size=(400, 3)) // [1, 1, 10**6]
        >>> train.add(pairs[:, [1, 0, 2]])
        >>> val.add(pairs)
        >>> verdict(train, val, "pair").evidence["share"], verdict(train, train, "pair")
        (1.0, None)

    """
    zeros = max(train.zeros, val.zeros)
    for one in (train, val):
        one.thin(zeros)
    rows = val.rows[val.rows[:, 0] != val.rows[:, 1]]
    labels, counts = np.unique(rows[:, 2], return_counts=True)
    groups = [rows, *(rows[rows[:, 2] == label] for label in labels[counts >= FEWEST][:LABELS])]
    each = [_shares(train.rows, group, zeros) for group in groups if len(group) >= FEWEST]
    told = [shares for shares in each if shares.is_told]
    if not told:
        return None
    found = max(told, key=lambda s: s.turned)
    worried = found.turned >= MOST and found.mirrored >= ALL
    label = " with one label" if found.pairs < len(rows) else ""
    return Outcome(
        Status.WARNING if worried else Status.ADVICE,
        "pairs_reversed",
        f"{found.turned:.0%} of {found.pairs} validation pairs{label} are in training the other way round ({name}), "
        f"and {found.same:.0%} as they are; of random pairs {found.chance:.0%} are",
        "split first, and list pairs in both directions afterwards: (a, b) and (b, a) belong on one side, unless the "
        "direction matters",
        {"share": found.turned, "mirrored": found.mirrored, "as_they_are": found.same, "by_chance": found.chance},
    )


def _shares(train: NDArray[np.int64], val: NDArray[np.int64], zeros: int) -> Shares:
    a, b, label = val.T
    trained, of_any = _key(*train.T), _key(*train[:, :2].T)
    turned = np.isin(_key(b, a, label), trained)
    mirrored = turned | np.isin(_key(b, a, label), _key(a, b, label))
    rng, hits, tried = np.random.default_rng(0), 0, 0
    for _ in range(DRAWN << zeros):
        other = rng.permutation(b)
        there = _ends(a, other, zeros) & (a != other) & (b != other)
        hits += int(np.isin(_key(other[there], a[there]), of_any).sum())
        tried += int(there.sum())
    same = np.isin(_key(a, b), of_any).mean()
    back = np.isin(_key(b, a), of_any).mean()
    alike = float(((np.unique(label, return_counts=True)[1] / len(label)) ** 2).sum())
    shares = float(turned.mean()), float(mirrored.mean()), float(same)
    return Shares(*shares, hits / max(1, tried), float(turned.mean() / max(back, 1e-12)), alike, len(val))
