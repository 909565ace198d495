"""What all ranks know of training, and measured on validation, put together: they judge the same numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from lightning_recipe.callbacks._baselines import EXAMPLES, SPREAD, Known, Pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning_recipe.callbacks._measured import Look


@dataclass(frozen=True)
class Share:
    """What a rank has seen.

    Attributes:
        known: Of training.
        costs: Of the constant in training, at the latest steps looked at.
        look: At the latest validation; None if none was looked at, or the others know it.

    """

    known: Known = field(default_factory=Known)
    costs: list[float] = field(default_factory=list)
    look: Look | None = None

    def bounded(self, ranks: int) -> Share:
        """What the others are told: as many examples as each of so many ranks may give, and no fitted models."""
        look = self.look
        if look is not None:
            simple = look.simple and look.simple._replace(models={})
            look = replace(look, simple=simple, seen=_bounded(look.seen, ranks))
        return Share(_bounded(self.known, ranks), self.costs, look)


def together(shares: Sequence[Share]) -> Share:
    """Those of all ranks as one.

    Example:
        >>> x = torch.arange(6.0, dtype=torch.float64).reshape(3, 2)
        >>> shares = [Share(Known(x.sum(0), 3, x[0], varied, [x]), [cost]) for varied, cost in ((False, 1), (True, 2))]
        >>> both = together(shares)
        >>> both.known.total.tolist(), both.known.count, both.known.varied, both.costs
        ([12.0, 18.0], 6, True, [1, 2])

    """
    if len(shares) == 1:
        return shares[0]
    looks = [share.look for share in shares if share.look is not None]
    costs = [cost for share in shares for cost in share.costs]
    return Share(_known([share.known for share in shares]), costs, _look(looks) if looks else None)


def _known(parts: Sequence[Known]) -> Known:
    """Of targets with as many classes or outputs as the first have."""
    some = [one for one in parts if one.count]
    some = [one for one in some if one.total.shape == some[0].total.shape]
    if not some:
        return parts[0]
    first = some[0].first
    return Known(
        torch.stack([one.total for one in some]).sum(0),
        sum(one.count for one in some),
        first,
        any(one.varied or not _equal(one.first, first) for one in some),
        [rows for one in some for rows in one.rows],
        [pairs for one in some for pairs in one.pairs],
        sum(one.seen for one in some),
        sum(one.kept for one in some),
    )


def _equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))


def _look(looks: Sequence[Look]) -> Look:
    """A look at the examples of all; as the first has it, if they tell errors of another kind."""
    of_all = replace(looks[0], losses={}, errors={}, pairs=[])
    looks = [look for look in looks if look.kind is of_all.kind]
    for look in looks:
        for mine, theirs in ((of_all.losses, look.losses), (of_all.errors, look.errors)):
            for name, batches in theirs.items():
                mine.setdefault(name, []).extend(batches)
        of_all.pairs += look.pairs
    return replace(of_all, seen=_known([look.seen for look in looks]))


def _bounded(known: Known, ranks: int) -> Known:
    """With copies: a view would be told with all that it is a view of."""
    most, pairs = EXAMPLES // ranks, list[Pairs]()
    for some in known.pairs:
        room = most - sum(len(pair.targets) for pair in pairs)
        pairs += [Pairs(*(part[:room].clone() for part in some))] if room > 0 else []
    apart = max(1, math.ceil(sum(map(len, known.rows)) * ranks / SPREAD))
    return replace(
        known,
        first=None if known.first is None else known.first.clone(),
        rows=[rows[::apart].clone() for rows in known.rows],
        pairs=pairs,
        kept=min(known.kept, most),
    )
