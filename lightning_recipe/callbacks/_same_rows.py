"""Ids that share one row of an embedding which is not trained, as words do that have no pretrained vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_recipe.callbacks._padding import padding
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.trial.entries import entered
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run
    from lightning_recipe.trial.entries import Entered

FEW = 8
"""Different ids that share a row, at least: words that are special are fewer. As many have rows of their own."""
SHARE, MUCH = 0.05, 0.2
"""Share of the tokens that have such a row, from which on it is `advice`, and a `warning`: a few words are in no list
of vectors, which many accept who freeze one; each fifth is more than rare names and typos are."""
UNLIKE = 0.9
"""Share of the other ids that have a row of their own, at least: a table of attributes gives many the same."""
STEPS = 1000
"""Steps that stand for an epoch where that is longer: after it, what is frozen at first may be trained."""


class Shared(NamedTuple):
    """What was found of one embedding.

    Attributes:
        ids: How many different ones share a row.
        share: Of the tokens; padding and the commonest of these ids are left out on both sides.
        zero: Whether the row is 0.

    """

    ids: int
    share: float
    zero: bool


class SameRows:
    """Looks for them once, after an epoch, where an embedding is still not trained."""

    def __init__(self) -> None:
        self._found: dict[str, Shared] | None = None

    def look(self, run: Run, step: Step, held: Collection[int]) -> Iterator[tuple[Outcome, str]]:
        """Embeddings with such rows, which no optimiser in `held`, ids of parameters, trains."""
        several = run.horizon > run.batches_per_epoch
        if run.step < (min(run.batches_per_epoch, STEPS) if several else 0):
            return
        fixed = {name: module for name, module in _embeddings(run.module) if not _is_trained(module, held)}
        if self._found is None:
            self._found = {}
            if any(may_share(module.weight.detach()) for module in fixed.values()):
                try:
                    with torch.enable_grad(), rehearsal(run) as again:
                        self._found = shared_rows(entered(again, step.batch), fixed)
                except CannotRehearseError:
                    return
        yield from ((_told(name, found), name) for name, found in self._found.items() if name in fixed)


def _embeddings(root: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, m) for name, m in root.named_modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag))


def _is_trained(module: Any, held: Collection[int]) -> bool:
    return bool(module.weight.requires_grad) and id(module.weight) in held


def may_share(table: Tensor) -> bool:
    """Whether enough rows begin with the same number.

    Example:
        >>> may_share(torch.randn(100, 3)), may_share(torch.randn(100, 3) * (torch.arange(100) > 20)[:, None])
        (False, True)

    """
    return len(table) > FEW and int(table[:, 0].unique(return_counts=True)[1].max()) >= FEW


def shared_rows(seen: Entered, fixed: dict[str, Any]) -> dict[str, Shared]:
    """Of each embedding in `fixed` what :func:`shared_row` finds, where nothing else tells its tokens apart."""
    found: dict[str, Shared] = {}
    others = [e for e in (*seen.entries, *seen.indices) if e.name not in fixed and _differs(e.values)]
    for entry in seen.indices:
        ids = entry.values
        beside = any(other.values.shape[: ids.ndim] == ids.shape for other in others)
        beside |= any(len(other.values) == ids.numel() > len(ids) for other in others)
        if entry.name in fixed and not beside and ids.numel():
            told = shared_row(ids, fixed[entry.name].weight.detach(), _padded(ids, entry.module))
            found |= {} if told is None else {entry.name: told}
    return found


def _differs(values: Tensor) -> bool:
    """Whether examples have something of their own, unlike places."""
    return values.ndim > 0 and not bool((values == values[:1]).all())


def _padded(ids: Tensor, module: nn.Module) -> Tensor:
    padded = torch.zeros_like(ids, dtype=torch.bool)
    for pad in padding(ids, module):
        padded |= pad
    own = getattr(module, "padding_idx", None)
    return padded if own is None else padded | (ids == own)


def shared_row(ids: Tensor, table: Tensor, padded: Tensor) -> Shared | None:
    """The row that many ids share, while all others have rows of their own; None without one.

    Args:
        ids: That are looked up.
        table: Of the embedding.
        padded: Where ids are padding, of their shape.

    Example:
        >>> ids, table = torch.arange(40), torch.randn(40, 3)
        >>> shared_row(ids, table, ids < 0)
        >>> shared_row(ids, table * (ids < 20)[:, None], ids < 0)
        Shared(ids=20, share=0.48..., zero=True)

    """
    known, counts = ids[~padded].unique(return_counts=True)
    if len(known) <= FEW:
        return None
    rows, which, times = table[known].unique(dim=0, return_inverse=True, return_counts=True)
    commonest = int(times.argmax())
    same = which == commonest
    own = len(rows) - 1
    if min(int(times[commonest]), own) < FEW or own < UNLIKE * int((~same).sum()):
        return None
    left = int(counts[same].max())  # it may be the sign of an unknown word, or padding
    share = int(counts[same].sum() - left) / max(1, int(counts.sum()) - left)
    return Shared(int(same.sum()), share, not bool(rows[commonest].any())) if share >= SHARE else None


def _told(name: str, found: Shared) -> Outcome:
    return Outcome(
        Status.WARNING if found.share >= MUCH else Status.ADVICE,
        "ids_share_a_row",
        f"{found.share:.0%} of what is looked up in {name} has the same row{' of zeros' * found.zero}, for {found.ids} "
        "different ids in a batch, and the embedding is not trained: they are never told apart",
        "train it: from_pretrained(..., freeze=False), and its weight in the optimiser; or draw rows for what has no "
        "vector, or add an embedding that is trained",
        {"share": found.share, "ids": found.ids},
    )
