"""What a model and dumb baselines cost on the same validation examples, each by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.callbacks._baselines import Known
from lightning_recipe.callbacks._interchanged import interchanged
from lightning_recipe.losses.each import by_example, unreduced
from lightning_recipe.losses.table import TABLE, Family, Takes

if TYPE_CHECKING:
    from lightning_recipe.callbacks._simple_models import Simple
    from lightning_recipe.losses.each import Sums
    from lightning_recipe.record.step import LossCall

ERRORS = 3.0
"""Standard errors of a difference that are no chance."""
EASIER = 0.7
"""Share of a constant's loss in training below which validation examples are too easy for it to be compared."""
OTHER = 0.2
"""Share of the examples that are of other classes than in training, from which on they are not compared."""
RENUMBERED = 0.8
"""Share of answers that is right once classes are renumbered, from which on nothing else is wrong."""
SLIGHT = 0.02
"""Share of the constant's loss up to which another constant may be better: it is known from a few hundred targets."""
OTHERS = "answers to others"
GUESS = "uniform guess"
NAMES = {
    Family.CLASSES: {"constant": "majority"},
    Family.YES_NO: {"constant": "majority"},
    Family.NUMBERS: {"constant": "same for all"},
}
"""What people call the constant."""
MATTERS = {True: 0.02, False: 0.05}
"""Share of the answers, and of a loss of numbers, by which something simple has to be better to be told."""


class Measured(NamedTuple):
    """What a prediction costs, by example: the loss, and what people read, shape (n,) each.

    Attributes:
        loss: As the loss function has it, without reduction.
        error: Of classes and yes or no the share that is wrong, else the loss, as of shares between no and yes.

    """

    loss: Tensor
    error: Tensor


@torch.no_grad()
def measured(call: LossCall, prediction: Tensor, examples: int) -> Measured:
    """What a prediction costs in the place of the loss's input.

    Args:
        call: In validation.
        prediction: Of the shape of its input, or one number for each class or output.
        examples: In the batch: more than one row may belong to each.

    Example:
        >>> from torch.nn import functional as F
        >>> from lightning_recipe.record.step import LossCall
        >>> arguments = {"input": torch.tensor([0.0, 1.0]), "target": torch.tensor([0.0, 3.0])}
        >>> call = LossCall("mse_loss", F.mse_loss, arguments, torch.tensor(2.0), 2, "a.py:1", False)
        >>> measured(call, arguments["input"], 2).loss
        tensor([0., 4.], dtype=torch.float64)

    """
    arguments = {name: _double(value) for name, value in call.arguments.items()}
    given, target = arguments["input"], arguments["target"]
    prediction = _expanded(_double(prediction), given, of_classes=TABLE[call.name].answers is Family.CLASSES)
    values, counted = unreduced(call, arguments | {"input": prediction})
    kind, wrong = TABLE[call.name].answers, values
    if kind is Family.CLASSES:
        wrong = (prediction.argmax(1) != (target.argmax(1) if target.is_floating_point() else target)).double()
    elif kind is Family.YES_NO and not is_graded(call):
        half = 0.0 if TABLE[call.name].takes is Takes.LOGITS else 0.5
        wrong = ((prediction > half) != (target > 0.5)).double()  # noqa: PLR2004
    return Measured(*(_means(by_example(part, counted, call, examples)) for part in (values, wrong)))


def is_graded(call: LossCall) -> bool:
    """Whether the answer is neither yes nor no, but a share, as the grey values of images: nothing is right or wrong.

    Two values are those of smoothed labels.
    """
    target = call.arguments["target"]
    of_yes_no = TABLE[call.name].answers is Family.YES_NO and target.is_floating_point()
    return of_yes_no and len(target.unique()) > 2  # noqa: PLR2004


def _means(sums: Sums) -> Tensor:
    """Of the examples of which anything counts."""
    some = sums.counts > 0
    return sums.totals[some] / sums.counts[some]


def _expanded(prediction: Tensor, given: Tensor, *, of_classes: bool) -> Tensor:
    if prediction.numel() == given.numel():
        return prediction.reshape(given.shape)
    if of_classes:
        return prediction.view(1, -1, *[1] * (given.ndim - 2)).expand(given.shape)
    return prediction.reshape(given.shape[1:] if len(prediction) > 1 else ()).expand(given.shape)


def _double(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    value = value.detach().cpu()
    return value.double() if value.is_floating_point() else value


class Estimate(NamedTuple):
    """A mean over examples, such as of how much worse a model is than a baseline, and its standard error.

    Example:
        >>> Estimate(0.5, 0.1).is_worse, Estimate(0.2, 0.1).is_worse
        (True, False)

    """

    mean: float
    error: float

    @classmethod
    def of(cls, values: Tensor) -> Estimate:
        """From a value for each example, shape (n,)."""
        error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(float(values.mean()), error)

    @property
    def is_worse(self) -> bool:
        """Whether chance can't explain that the difference is positive."""
        return self.mean > ERRORS * self.error

    @property
    def is_better(self) -> bool:
        """Whether the difference is negative by more than the standard error."""
        return -self.mean > self.error


@dataclass
class Look:
    """What was seen at one validation, on its first examples.

    Attributes:
        step: Batches trained on.
        epochs: Epochs trained for, the present one included.
        constant: The prediction that is the same for all.
        easy: Its loss in training.
        shares: How often each class, or a yes, comes in training.
        simple: Simple models, if there are any.
        rate: The learning rate.
        kind: Family of the answers.
        losses: Per example, of "model" and "constant", batch by batch.
        errors: Likewise, and of the simple models: the share that is wrong, or the loss of numbers.
        seen: The targets.
        pairs: Classes that were said, with those that are true, shape (n, 2), batch by batch.

    """

    step: int
    epochs: int
    constant: Tensor
    easy: Estimate
    shares: Tensor
    simple: Simple | None = None
    rate: float = math.nan
    kind: Family = Family.NUMBERS
    losses: dict[str, list[Tensor]] = field(default_factory=dict)
    errors: dict[str, list[Tensor]] = field(default_factory=dict)
    seen: Known = field(default_factory=Known)
    pairs: list[Tensor] = field(default_factory=list)

    def add(self, call: LossCall, features: Tensor, last: Tensor, examples: int) -> None:
        """Measure a batch."""
        graded = is_graded(call)
        given, self.kind = call.arguments["input"], TABLE[call.name].answers or self.kind
        self.kind = Family.NUMBERS if graded else self.kind
        self.seen.add(call, examples)
        target = call.arguments["target"]
        if self.kind is Family.CLASSES and given.ndim == 2 and target.ndim == 1:  # noqa: PLR2004
            there = (target >= 0) & (target != call.arguments.get("ignore_index"))
            self.pairs.append(torch.stack([given.argmax(1), target], 1)[there].cpu())
        for name, prediction in (("model", given), ("constant", self.constant), (OTHERS, interchanged(given))):
            costs = measured(call, prediction, examples)
            self.losses.setdefault(name, []).append(costs.loss)
            if name != OTHERS:
                self.errors.setdefault(name, []).append(costs.error)
        if self.simple is not None and not graded and features.shape == (len(given), self.simple.width):
            for name, model in self.simple.models.items():
                answers = _as_prediction(call, model(features, last))
                self.errors.setdefault(name, []).append(measured(call, answers, examples).error)

    def renumbered(self) -> tuple[dict[int, int], float]:
        """The class that is true where another one is said, each for one, and the share that would be right then.

        Empty if classes are not interchanged with one another.
        """
        if not self.pairs:
            return {}, 0.0
        pairs, counts = torch.cat(self.pairs).unique(dim=0, return_counts=True)
        order = counts.argsort(descending=True)
        found: dict[int, int] = {}
        for said, true in pairs[order].tolist():
            found.setdefault(said, true)
        right = sum(int(n) for (a, b), n in zip(pairs.tolist(), counts, strict=True) if found[a] == b)
        share = right / int(counts.sum())
        one_each = len(set(found.values())) == len(found) > 1
        return (found, share) if one_each and share >= RENUMBERED else ({}, 0.0)

    def loss(self, name: str) -> float:
        """Of the model or the constant, on average over examples."""
        return float(torch.cat(self.losses[name]).mean())

    def score(self, name: str) -> float:
        """What people read: the share of answers that is right, or the loss of numbers."""
        error = float(torch.cat(self.errors[name]).mean())
        return 1 - error if self.of_answers else error

    def written(self, name: str) -> str:
        """The score as text."""
        return f"{self.score(name):.1%}" if self.of_answers else f"{self.score(name):.4g}"

    @property
    def rows(self) -> dict[str, tuple[float, float]]:
        """What is drawn: the scores, and their standard errors."""
        made = {name: (self.score(name), Estimate.of(torch.cat(self.errors[name])).error) for name in self.shown}
        if self.of_answers:
            made[GUESS] = (1 / (len(self.shares) if self.kind is Family.CLASSES else 2), 0.0)
        return {NAMES[self.kind].get(name, name): row for name, row in made.items()}

    @property
    def examples(self) -> int:
        """How many there are."""
        return sum(map(len, self.losses.get("model", ())))

    @property
    def of_answers(self) -> bool:
        """Whether answers are right or wrong."""
        return self.kind is not Family.NUMBERS

    def behind(self, name: str, *, loss: bool = False) -> Estimate:
        """How much worse the model's errors are, or its loss, than something simple's."""
        of = self.losses if loss else self.errors
        return Estimate.of(torch.cat(of["model"]) - torch.cat(of[name]))

    @property
    def is_informed(self) -> bool:
        """Whether answers have to do with targets: those to other examples cost more, or more are right."""
        by_others = self.behind(OTHERS, loss=True)
        return -by_others.mean > ERRORS * by_others.error or (self.of_answers and self.behind("constant").is_better)

    @property
    def is_ahead(self) -> bool:
        """Whether more answers are right than the constant's, or the loss is lower.

        By a little it is also that of another constant, as of validation's own frequencies: then answers to others cost
        no more.
        """
        lead = self.behind("constant", loss=True)
        by_little = -lead.mean < SLIGHT * abs(self.loss("constant"))
        by_loss = lead.is_better and not (by_little and not self.behind(OTHERS, loss=True).is_better)
        return self.behind("constant").is_better or by_loss

    @property
    def is_other(self) -> bool:
        """Whether these examples are not like those of training: other classes are frequent, or a constant does better.

        As where data are in order, so that the first are of one class or one site, or where training is balanced.
        """
        allowed = OTHER + math.sqrt(len(self.shares) / self.seen.count) / 2
        apart = (self.seen.total / self.seen.count - self.shares).abs()
        moved = apart.sum() / 2 if self.kind is Family.CLASSES else apart.max() if self.of_answers else 0.0
        constant = Estimate.of(torch.cat(self.losses["constant"]))
        by_chance = 2 * math.hypot(constant.error, self.easy.error)
        easier = constant.mean < min(EASIER * self.easy.mean, self.easy.mean - by_chance)
        return float(moved) > allowed or easier

    @property
    def shown(self) -> list[str]:
        """The model, the constant, and the simple models that were measured on all batches."""
        return [name for name, errors in self.errors.items() if len(errors) == len(self.losses["model"])]

    @property
    def best_simple(self) -> str:
        """The simple model that is furthest ahead of the model; empty if none is clearly."""
        best = max(self.shown[2:], key=lambda name: self.behind(name).mean, default="")
        return best if self.is_behind(best) else ""

    def is_behind(self, name: str) -> bool:
        """Whether a simple model is clearly ahead, and by more than a little."""
        if name not in self.shown:
            return False
        behind = self.behind(name)
        matters = MATTERS[self.of_answers] * (1.0 if self.of_answers else self.score("model"))
        return behind.is_worse and behind.mean > matters


def _as_prediction(call: LossCall, answers: Tensor) -> Tensor:
    """What a simple model says, in the place of the loss's input: the same answer, or the same numbers."""
    loss = TABLE[call.name]
    if loss.answers is Family.YES_NO:
        return answers - 0.5 if loss.takes is Takes.LOGITS else answers.clamp(0, 1)
    return answers
