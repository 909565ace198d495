"""The loss functions of ``torch.nn.functional`` and what is known about each: the only place that names them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable


class Family(StrEnum):
    """What a loss is about."""

    CLASSES = "classes"
    DISTRIBUTIONS = "distributions"
    YES_NO = "yes or no"
    NUMBERS = "numbers"
    COUNTS = "counts"
    MARGINS = "margins"
    DISTANCES = "distances"
    SEQUENCES = "sequences"


class Takes(StrEnum):
    """What a loss wants as its input."""

    LOGITS = "logits"
    LOG_PROBABILITIES = "log-probabilities"
    PROBABILITIES = "probabilities"
    NUMBERS = "numbers"
    RATES = "rates, or their logarithms"
    SCORES = "scores"
    FEATURES = "features"


class Constant(StrEnum):
    """Which one prediction for all examples has the lowest loss; the texts say what to set an output bias to."""

    LOG_PRIOR = "the logarithm of the class frequencies"
    LOG_ODDS = "log(p / (1 - p)) of the positives' share p"
    SHARE = "log(p / (1 - p)) of the positives' share p, before the sigmoid"
    MEAN = "the mean of the targets"
    MEDIAN = "the median of the targets"
    SEARCHED = "the value with the lowest loss"
    LOG_MEAN = "the logarithm of the mean"
    CORNER = "the scores with the lowest loss"
    NONE = ""


@dataclass(frozen=True)
class Loss:
    """One loss function.

    Attributes:
        name: In ``torch.nn.functional``.
        family: What it is about.
        takes: What it wants as `input`.
        constant: Its best constant prediction.
        answers: What a prediction says: one of the classes, yes or no, a number; None if nobody can tell.
        symmetric: Whether prediction and target may be interchanged, as they often are.

    """

    name: str
    family: Family
    takes: Takes
    constant: Constant = Constant.NONE
    answers: Family | None = None
    symmetric: bool = False

    @property
    def of_classes(self) -> bool:
        """Whether `input` stands for distributions over classes."""
        return self.constant is Constant.LOG_PRIOR

    @property
    def has_classes(self) -> bool:
        """Whether `input` has a dimension of classes."""
        return self.constant in {Constant.LOG_PRIOR, Constant.CORNER}

    @property
    def is_certain(self) -> bool:
        """Whether knowing nothing costs the same whatever the targets; numbers have a scale, which few don't tell."""
        return self.family in {Family.CLASSES, Family.DISTRIBUTIONS, Family.YES_NO, Family.MARGINS}


_CLASSES, _YES_NO, _NUMBERS = Family.CLASSES, Family.YES_NO, Family.NUMBERS
_MARGINS, _DISTANCES = Family.MARGINS, Family.DISTANCES
TABLE: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss("cross_entropy", _CLASSES, Takes.LOGITS, Constant.LOG_PRIOR, _CLASSES),
        Loss("nll_loss", _CLASSES, Takes.LOG_PROBABILITIES, Constant.LOG_PRIOR, _CLASSES),
        Loss("linear_cross_entropy", _CLASSES, Takes.FEATURES),
        Loss("kl_div", Family.DISTRIBUTIONS, Takes.LOG_PROBABILITIES, Constant.LOG_PRIOR),
        Loss("binary_cross_entropy", _YES_NO, Takes.PROBABILITIES, Constant.SHARE, _YES_NO),
        Loss("binary_cross_entropy_with_logits", _YES_NO, Takes.LOGITS, Constant.LOG_ODDS, _YES_NO),
        Loss("multilabel_soft_margin_loss", _YES_NO, Takes.LOGITS, Constant.LOG_ODDS, _YES_NO),
        Loss("mse_loss", _NUMBERS, Takes.NUMBERS, Constant.MEAN, _NUMBERS, symmetric=True),
        Loss("l1_loss", _NUMBERS, Takes.NUMBERS, Constant.MEDIAN, _NUMBERS, symmetric=True),
        Loss("smooth_l1_loss", _NUMBERS, Takes.NUMBERS, Constant.SEARCHED, _NUMBERS, symmetric=True),
        Loss("huber_loss", _NUMBERS, Takes.NUMBERS, Constant.SEARCHED, _NUMBERS, symmetric=True),
        Loss("gaussian_nll_loss", _NUMBERS, Takes.NUMBERS, Constant.MEAN, _NUMBERS),
        Loss("poisson_nll_loss", Family.COUNTS, Takes.RATES, Constant.LOG_MEAN),
        Loss("soft_margin_loss", _MARGINS, Takes.LOGITS, Constant.LOG_ODDS),
        Loss("multi_margin_loss", _MARGINS, Takes.SCORES, Constant.CORNER, _CLASSES),
        Loss("multilabel_margin_loss", _MARGINS, Takes.SCORES, Constant.CORNER),
        Loss("margin_ranking_loss", _MARGINS, Takes.SCORES),
        Loss("cosine_embedding_loss", _DISTANCES, Takes.FEATURES),
        Loss("hinge_embedding_loss", _DISTANCES, Takes.NUMBERS),
        Loss("triplet_margin_loss", _DISTANCES, Takes.FEATURES),
        Loss("triplet_margin_with_distance_loss", _DISTANCES, Takes.FEATURES),
        Loss("ctc_loss", Family.SEQUENCES, Takes.LOG_PROBABILITIES),
    )
}
CROSS_ENTROPY, NLL, KL, MSE, L1 = "cross_entropy", "nll_loss", "kl_div", "mse_loss", "l1_loss"
CTC = "ctc_loss"
BCE_WITH_LOGITS = "binary_cross_entropy_with_logits"
"""Names, for those who tell single losses apart."""
OF_SIGNS = frozenset({"soft_margin_loss", "margin_ranking_loss", "cosine_embedding_loss", "hinge_embedding_loss"})
"""Those whose targets are -1 and 1."""
LOSSES: dict[Callable[..., Any], str] = {
    getattr(F, name): name
    for name in TABLE
    if hasattr(F, name)  # linear_cross_entropy is new in torch 2.13
}
"""The functions that are observed, and their names."""
