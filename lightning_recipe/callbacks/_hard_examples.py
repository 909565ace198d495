"""The worst of many examples, a batch at a time, and where a person finds them again."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.utilities.data import sized_len
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import BatchSampler, Subset

from lightning_recipe.callbacks._example_scores import oddness, scored
from lightning_recipe.figures.kinds import Reading, recognise
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.losses.targets import Answers, is_target
from lightning_recipe.record.tensors import leading_size, tensors
from lightning_recipe.trial.stored import index_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

KEPT = 8
"""Examples kept by each axis."""
TOLD = 4
"""Of the highest loss that the finding tells of."""
LOSS, MISTAKES, INPUTS = "highest loss", "surest mistakes", "oddest inputs"
ELEMENTS = 2**21
"""Of a tensor of one example, up to which it is kept."""


@dataclass(frozen=True)
class Example:
    """One that is kept.

    Attributes:
        score: By which it is among the worst.
        loss: Its loss.
        batch: Index of its batch.
        row: Its row there.
        index: In the data set of the loader; None if nobody knows.
        target: What is right, in the units of the target; None if it is not kept.
        said: What the network said.
        entered: What entered the network; None if it is not kept.
        rank: The process that saw it.

    """

    score: float
    loss: float
    batch: int
    row: int
    index: int | None
    target: Tensor | None = None
    said: Tensor | None = None
    entered: Tensor | None = None
    rank: int = 0

    @property
    def place(self) -> str:
        """Where a person finds it: ``"#1204"``, or its batch and row, ``"3:7"``, on rank 0 if nothing else is said."""
        place = f"{self.batch}:{self.row}" + (f" of rank {self.rank}" if self.rank else "")
        return place if self.index is None else f"#{self.index}"

    @property
    def is_from(self) -> tuple[int, int, int]:
        """Its rank, batch and row."""
        return self.rank, self.batch, self.row

    @property
    def without_tensors(self) -> Example:
        """The same, of which single numbers are kept only."""
        return replace(self, target=_alone(self.target), said=_alone(self.said), entered=None)

    @property
    def numbers(self) -> dict[str, float]:
        """What is known of it, as numbers."""
        known = {"loss": self.loss, "index": self.index, "target": _alone(self.target), "said": _alone(self.said)}
        return {name: float(value) for name, value in known.items() if value is not None}


class Worst:
    """The examples of the highest scores so far, the highest first.

    Example:
        >>> worst = Worst(2)
        >>> for batch, scores in enumerate([[1.0, 5.0, -math.inf], [3.0, 0.0, 2.0]]):
        ...     worst.offer(torch.tensor(scores), lambda score, row: Example(score, score, batch, row, None))
        >>> [(example.score, example.place) for example in worst.examples]
        [(5.0, '0:1'), (3.0, '1:0')]

    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.examples: list[Example] = []

    def offer(self, scores: Tensor, made: Callable[[float, int], Example]) -> None:
        """Take those of a batch that are among the worst.

        Args:
            scores: Of shape (N,). Those of minus infinity don't take part; NaN is the worst of all.
            made: The example of a score and a row.

        """
        values, rows = scores.float().nan_to_num(math.inf, math.inf, -math.inf).topk(min(self.most, len(scores)))
        for score, row in zip(values.tolist(), rows.tolist(), strict=True):
            full = len(self.examples) == self.most
            if score > -math.inf and not (full and score <= self.examples[-1].score):
                kept = [*self.examples, made(score, row)]
                self.examples = sorted(kept, key=lambda example: -example.score)[: self.most]


class Look:
    """One validation.

    Args:
        step: Batches that had been trained on.
        keep: Whether examples are kept, and not numbers only.
        rank: The process that looks.

    Attributes:
        worst: The examples of the highest scores, by what they are worst in.
        examples: How many were looked at.
        mean: Of their losses.
        reading: How to read what entered the network; None if it isn't known.
        below: Whether indices are those of the data set below a ``Subset``.

    """

    def __init__(self, step: int, *, keep: bool, rank: int = 0) -> None:
        self.step, self.keep, self.rank = step, keep, rank
        self.worst = {name: Worst(KEPT) for name in (LOSS, MISTAKES, INPUTS)}
        self.examples, self.mean = 0, 0.0
        self.reading: Reading | None = None
        self.below = False

    def take(self, step: Step, loader: Any, number: int, fetched: Sequence[Any] | None = None) -> None:
        """Look at a batch.

        Args:
            step: What its validation step did.
            loader: Its DataLoader.
            number: Its index.
            fetched: The indices of its examples, if they were seen.

        """
        self.below |= type(getattr(loader, "dataset", None)) is Subset
        examples = examples_of(loader, step.batch, number, fetched)
        scores = scored(step, examples) if examples else None
        if examples is None or scores is None:
            return
        dense = {name: t for name, t in step.inputs.items() if t.layout is torch.strided and t.ndim}
        shown = (t for name, t in dense.items() if len(t) == examples and not is_target(name, t, step))
        entered, count = next(shown, None), len(scores.losses)
        if entered is not None and self.reading is None:
            self.reading = recognise(entered, examples)
        self.examples += count
        self.mean += (float(scores.losses.mean()) - self.mean) * count / self.examples

        def made(score: float, row: int) -> Example:
            index = index_of(loader, number, row, fetched)
            rows = [row_of(tensor, row) for tensor in (scores.answers.target, scores.answers.prediction, entered)]
            target, said, shown = rows if self.keep else (*map(_alone, rows[:2]), None)
            return Example(score, float(scores.losses[row]), number, row, index, target, said, shown, self.rank)

        self.worst[LOSS].offer(scores.losses, made)
        if scores.mistakes is not None:
            self.worst[MISTAKES].offer(scores.mistakes, made)
        if entered is not None and (odd := oddness(entered[:count])) is not None:
            self.worst[INPUTS].offer(odd, made)

    @property
    def numbers(self) -> Look:
        """The same without examples' tensors, for other ranks."""
        made = Look(self.step, keep=False, rank=self.rank)
        made.examples, made.mean, made.below = self.examples, self.mean, self.below
        for name, worst in self.worst.items():
            made.worst[name].examples = [one.without_tensors for one in worst.examples]
        return made

    def join(self, other: Look) -> None:
        """Take in what another rank saw; the same example may be on both, so that all have as many."""
        if self.examples + other.examples:
            self.mean += (other.mean - self.mean) * other.examples / (self.examples + other.examples)
        self.examples += other.examples
        for name, worst in self.worst.items():
            known = {one.index for one in worst.examples} - {None}
            both = worst.examples + [one for one in other.worst[name].examples if one.index not in known]
            worst.examples = sorted(both, key=lambda one: -one.score)[: worst.most]

    def show(self, worst: Look, kept: Mapping[tuple[int, int, int], Example]) -> None:
        """Become what is worst of all ranks, with the tensors of the examples, by where they are from."""
        for name, theirs in worst.worst.items():
            found = [(one, kept[one.is_from]) for one in theirs.examples if one.is_from in kept]
            self.worst[name].examples = [
                replace(one, target=full.target, said=full.said, entered=full.entered) for one, full in found
            ]

    def outcome(self) -> Outcome:
        """What there is to tell: where the highest losses are."""
        hardest = self.worst[LOSS].examples[:TOLD]
        places = ", ".join(f"{one.place} ({one.loss:.3g})" for one in hardest)
        unknown = any(one.index is None for one in hardest)
        of = "#index in the data set below its Subset" if self.below else "#index in the data set"
        how = "batch:row, where the sampler alone knows the index" if unknown else of
        evidence = {"examples": float(self.examples), "mean_loss": self.mean}
        for i, one in enumerate(hardest, 1):
            evidence |= {f"{name}_{i}": value for name, value in one.numbers.items()}
        return Outcome(
            Status.PASSED,
            "",
            f"highest losses in validation: {places} ({how}); mean of {self.examples} {self.mean:.3g}, "
            f"after {self.step + 1} steps",  # Lightning validates before it counts the last one
            evidence=evidence,
        )


def of_all_ranks(run: Run, look: Look, name: str, *, drawn: bool) -> Look:
    """The worst that any rank saw, in numbers; on rank zero, if that draws, `look` comes to be of them, too."""
    both: list[tuple[Look, bool]] = run.gather(name, (look.numbers, drawn))
    (worst, drawn), *others = both
    for other, _ in others:
        worst.join(other)
    if others and look.keep and drawn:
        wanted = {one.is_from for kept in worst.worst.values() for one in kept.examples}
        own = {one.is_from: one for kept in look.worst.values() for one in kept.examples if one.is_from in wanted}
        look.show(worst, {place: one for seen in run.gather(name, own, first=True) for place, one in seen.items()})
    return worst


def stacked(examples: Sequence[Example]) -> tuple[Tensor | None, Answers]:
    """What entered of examples, the worst first, and what belongs to them; shorter rows are filled up with zeros.

    Example:
        >>> one = Example(2.5, 2.5, 0, 3, 17, torch.tensor(5), torch.tensor(8), torch.ones(2))
        >>> from dataclasses import replace
        >>> stacked([one, replace(one, entered=torch.ones(3))])
        (tensor([[1., 1., 0.],
                [1., 1., 1.]]), Answers(target=tensor([5, 5]), ..., notes=('#17: 2.5', '#17: 2.5')))

    """
    columns = [_together([getattr(one, name) for one in examples]) for name in ("entered", "target", "said")]
    notes = tuple(f"{one.place}: {one.loss:.3g}" for one in examples)
    return columns[0], Answers(columns[1], columns[2], notes=notes)


def _together(rows: list[Tensor | None]) -> Tensor | None:
    known = [row for row in rows if row is not None]
    if len(known) < len(rows) or len({row.shape[1:] for row in known}) != 1 or len({row.ndim for row in known}) != 1:
        return None
    return pad_sequence(known, batch_first=True) if known[0].ndim else torch.stack(known)


def examples_of(loader: Any, batch: Any, number: int, fetched: Sequence[Any] | None = None) -> int | None:
    """How many examples a batch holds; None if its tensors contradict its DataLoader.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> loader = DataLoader(range(9), 4)
        >>> [examples_of(loader, torch.zeros(rows), number) for rows, number in ((4, 0), (1, 2), (3, 0))]
        [4, 1, None]

    """
    together = getattr(loader, "batch_sampler", None)
    drawn = sized_len(getattr(loader, "sampler", None))
    if fetched is not None:
        count = len(fetched)
    elif type(together) is not BatchSampler or drawn is None:
        return leading_size(batch)
    else:
        count = min(together.batch_size, drawn - number * together.batch_size)
    return count if any(t.ndim and len(t) == count for _, t in tensors(batch)) else None


def row_of(tensor: Tensor | None, row: int) -> Tensor | None:
    """A copy of a row, on the host; None where there is none, and of very large ones."""
    if tensor is None or row >= len(tensor) or tensor[row].numel() > ELEMENTS:
        return None
    return tensor[row].detach().to("cpu", copy=True)


def _alone(row: Tensor | None) -> Tensor | None:
    """A single number; None of anything else."""
    return row if row is not None and row.numel() == 1 else None
