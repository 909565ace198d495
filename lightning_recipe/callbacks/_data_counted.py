"""Targets and lengths of the batches that pass, counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_recipe.callbacks._data_seen import as_array
from lightning_recipe.callbacks._data_targets import Counts, Kind, Target, target
from lightning_recipe.callbacks._histogram import Histogram
from lightning_recipe.callbacks._padding import padding
from lightning_recipe.figures.kinds import Kind as Kinds
from lightning_recipe.figures.kinds import recognise
from lightning_recipe.record.tensors import dense

if TYPE_CHECKING:
    from lightning_recipe.record.step import Step


@dataclass
class Counted:
    """What was counted on a rank.

    Attributes:
        target: Of what is to be predicted; None if that is one class for each example, or nobody knows.
        path: Of the target in the batch.
        lengths: Of sequences of tokens.

    """

    target: Counts | None = None
    path: str = ""
    lengths: Histogram | None = None

    def add(self, other: Counted) -> None:
        """Take in what another rank has counted of the same."""
        self.path = self.path or other.path
        for name in ("target", "lengths"):
            own, more = getattr(self, name), getattr(other, name)
            if own is None:
                setattr(self, name, more)
            elif type(own) is type(more):
                own.add(more)


class Passing:
    """Looks at batches once it is known where the target is, and which entry holds tokens."""

    def __init__(self) -> None:
        self.counted = Counted()
        self._target: Target | None = None
        self._tokens, self._pad = "", -1
        self._waiting: list[tuple[Tensor | None, Tensor | None]] = []

    def begin(self, step: Step, examples: int, module: nn.Module, label: str | None) -> None:
        """Find them in the first step, and look at its batch."""
        found = target(step, examples)
        if found is not None and not (found.path == label and found.kind is Kind.CLASSES):
            self._target = found
            entry = dict(dense(step.batch, "batch"))[found.path]
            self.counted.path, self.counted.target = found.path, found.counts(whole=not entry.is_floating_point())
        for path, tensor in dense(step.batch, "batch"):
            of_tokens = recognise(tensor, examples).kind is Kinds.TOKENS
            if of_tokens and not (self._tokens or (self._target and path == self._target.path)):
                self._tokens, self._pad = path, _pad(tensor, module)
                self.counted.lengths = Histogram(whole=True)
        self.note(step.batch)

    def note(self, batch: Any) -> None:
        """Look at a batch; what comes out stays where it is."""
        if self._target is None and not self._tokens:
            return
        entries = dict(dense(batch, "batch"))
        wanted = None if self._target is None else entries.get(self._target.path)
        tokens = entries.get(self._tokens)
        self._waiting.append(
            (
                None if wanted is None or self._target is None else self._target.look(wanted),
                None if tokens is None or tokens.ndim != 2 else lengths(tokens, self._pad),  # noqa: PLR2004
            )
        )

    def fetch(self) -> None:
        """Take in what waits; this waits for an accelerator."""
        for looks in self._waiting:
            for counts, look in zip((self.counted.target, self.counted.lengths), looks, strict=True):
                if counts is not None and look is not None:
                    counts.take(as_array(look.cpu()))
        self._waiting.clear()


def _pad(tokens: Tensor, module: nn.Module) -> int:
    """The token that sequences are padded with; -1 if nobody knows."""
    known = {m.padding_idx for m in module.modules() if isinstance(m, nn.Embedding) and m.padding_idx is not None}
    if len(known) == 1:
        return known.pop()
    found = next(padding(tokens, module), None)
    return -1 if found is None else int(tokens[found][0])


def lengths(tokens: Tensor, pad: int) -> Tensor:
    """Of sequences of shape (N, L), without the padding at either end.

    Example:
        >>> lengths(torch.tensor([[5, 3, 0, 0], [0, 0, 2, 3], [0, 0, 0, 0], [4, 0, 3, 1]]), 0).tolist()
        [2, 2, 0, 4]

    """
    real, length = tokens != pad, tokens.shape[1]
    places = torch.arange(1, length + 1, device=tokens.device)
    return ((real * places).amax(1) + (real * places.flip(0)).amax(1) - length).clamp(min=0)
