"""What the run is steered by: the quantities that callbacks and schedulers monitor, and how."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.fabric.utilities.data import sized_len
from torchmetrics.functional.regression import spearman_corrcoef

from lightning_recipe.callbacks._metric_names import SCORES, better, is_of_training, words
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from lightning.pytorch import Trainer

WIDE = 0.1
"""Width of the interval around an accuracy in which nobody can tell a good model from a fair one."""
LOST, MUCH = 0.02, 0.1
"""Share of the examples to be evaluated that a last batch holds, from which on it is told that it is left out: a whole
number of points of an accuracy; and from which on that may be a kind of examples by itself."""
SMALL = 0.02
"""Share of the examples in training from which on a validation set is large enough, or as large as it can be."""
FEWEST, TOGETHER = 5, 0.9
"""Epochs, at least, and rank correlation with a loss from which on a number goes its way, or the other: the ranks of
five reach 0.9 by chance four times in 100."""
TRAINING = "the training loss"
"""What its mean is called beside what was logged."""
CHOOSING = {"EarlyStopping", "ModelCheckpoint"}
"""Callbacks, also derived ones, that monitor what was logged; others may monitor what they know themselves."""


class Monitored(NamedTuple):
    """Who monitors what.

    Attributes:
        who: The class of a callback.
        name: The key.
        mode: ``"min"`` or ``"max"``.

    """

    who: str
    name: str
    mode: str


def monitored(trainer: Trainer) -> list[Monitored]:
    """All that callbacks monitor of what was logged; of schedulers LRScheduleCheck knows."""
    return [
        Monitored(type(callback).__name__, callback.monitor, callback.mode)
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if not CHOOSING.isdisjoint(kind.__name__ for kind in type(callback).mro())
        if isinstance(callback.monitor, str) and callback.monitor not in {"step", "epoch"}  # which Lightning adds
    ]


def wrong_mode(one: Monitored) -> Outcome | None:
    """A `warning` if the name says that the other mode is meant.

    Example:
        >>> wrong_mode(Monitored("EarlyStopping", "val_acc", "min")).status
        <Status.WARNING: 'warning'>
        >>> wrong_mode(Monitored("EarlyStopping", "val_loss", "min")) is None
        True

    """
    wanted = better(one.name)
    if not wanted or one.mode not in {"min", "max"} or wanted == one.mode:
        return None
    return Outcome(
        Status.WARNING,
        "monitors_wrong",
        f'{one.who} monitors "{one.name}" with mode="{one.mode}": the worst counts as the best',
        f'{one.who}(monitor="{one.name}", mode="{wanted}")',
    )


def against_the_loss(one: Monitored, course: Sequence[Mapping[str, float]]) -> Outcome | None:
    """What is seen of a name that says nothing: that it rises while a loss falls, or the other way.

    `warning` if it is a score by its name, too, and the loss is one of validation, else `advice`.

    Args:
        one: What is monitored.
        course: What was logged, by the epochs with validation that were looked at; and `TRAINING`, which counts where
            no loss of validation was logged.

    Example:
        >>> course = [{"val_dice": 0.1 * i, "val_loss": 1 / (1 + i)} for i in range(8)]
        >>> against_the_loss(Monitored("ModelCheckpoint", "val_dice", "min"), course).status
        <Status.WARNING: 'warning'>
        >>> against_the_loss(Monitored("ModelCheckpoint", "val_dice", "max"), course) is None
        True
        >>> course = [{"val_gap": 0.1 * i, "val_loss": (-1) ** i, TRAINING: 1 / (1 + i)} for i in range(8)]
        >>> against_the_loss(Monitored("ModelCheckpoint", "val_gap", "min"), course) is None
        True

    """
    wanted = {"min": "max", "max": "min"}.get(one.mode, "")
    if better(one.name) or not wanted:
        return None
    losses = {name for seen in course for name in seen if better(name) == "min" and not is_of_training(name)}
    for loss in sorted(losses - {one.name, TRAINING}) or [TRAINING]:
        pairs = [(seen[one.name], seen[loss]) for seen in course if {one.name, loss} <= seen.keys()]
        if len(pairs) < FEWEST or not all(map(math.isfinite, (number for pair in pairs for number in pair))):
            continue
        together = float(spearman_corrcoef(*torch.tensor(pairs, dtype=torch.float64).T.contiguous()))
        quoted = loss if loss == TRAINING else f'"{loss}"'
        if (together < -TOGETHER and wanted == "max") or (together > TOGETHER and wanted == "min"):
            known = wanted == "max" and loss != TRAINING and not SCORES.isdisjoint(words(one.name))
            return Outcome(
                Status.WARNING if known else Status.ADVICE,
                "monitors_wrong",
                f'{one.who} monitors "{one.name}" with mode="{one.mode}", which goes '
                f"{'the other way than' if wanted == 'max' else 'up and down with'} {quoted} (rank correlation "
                f"{together:.2f} over {len(pairs)} epochs)",
                f'{one.who}(monitor="{one.name}", mode="{wanted}"), if it is the better the '
                f"{'higher' if wanted == 'max' else 'lower'} it is",
                {"correlation": together, "epochs": len(pairs)},
            )
    return None


def at_the_end(one: Monitored, logged: Collection[str]) -> Outcome | None:
    """What is seen of a name once everything was logged: that it never was, or that validation has something better.

    Args:
        one: What is monitored.
        logged: All names that were logged in the run.

    Example:
        >>> at_the_end(Monitored("EarlyStopping", "val_los", "min"), ["val_loss"]).status
        <Status.WARNING: 'warning'>
        >>> at_the_end(Monitored("ModelCheckpoint", "train_loss", "min"), ["train_loss", "val_loss"]).status
        <Status.ADVICE: 'advice'>

    """
    if one.name not in logged:
        there = ", ".join(sorted(logged)) or "nothing"
        return Outcome(
            Status.WARNING,
            "never_logged",
            f'{one.who} monitors "{one.name}", which was never logged (logged: {there}), so it did nothing',
            f'self.log("{one.name}", ...), or monitor one of those that are logged',
        )
    others = [name for name in sorted(logged) if better(name) == better(one.name) and name.startswith("val")]
    if is_of_training(one.name) and others:
        return Outcome(
            Status.ADVICE,
            "monitors_training",
            f'{one.who} monitors "{one.name}", which falls also while the model overfits; "{others[0]}" is logged, too',
            f'monitor="{others[0]}"',
        )
    return None


def overfitted(trainer: Trainer) -> float:
    """The batches, or the share of them, that ``overfit_batches`` leaves; 0 if it is off."""
    return float(getattr(trainer, "overfit_batches", 0.0))


def left_on(trainer: Trainer) -> Iterator[Outcome]:
    """Settings for trials: a `warning` if they are on while somebody chooses by what comes out."""
    if share := overfitted(trainer):
        choosing = [one.who for one in monitored(trainer)]
        yield Outcome(
            Status.WARNING if choosing else Status.ADVICE,
            "overfit_batches",
            f"overfit_batches={share:g}: training and validation are cut to the same few batches, in "
            f"order{'; ' + choosing[0] + ' chooses by them' if choosing else ''}",
            "leave out overfit_batches once the model has memorised them",
            {"overfit_batches": share},
        )


def of_one_example(loader: Any) -> bool:
    """Whether batches hold one example, or what the data set calls one: each is then scored by itself.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> [of_one_example(DataLoader(range(8), batch_size=size)) for size in (4, 1, None)]
        [False, True, True]

    """
    together = getattr(loader, "batch_sampler", None)
    return getattr(loader, "batch_size", 0) == 1 or (together is None and getattr(loader, "batch_size", 0) is None)


def cut_short(loader: Any, read: float, stage: str = "validation") -> Outcome | None:
    """Advice if a loader is not read to its end.

    Args:
        loader: The loader.
        read: How many batches of it are.
        stage: "validation" or "test".

    Example:
        >>> cut_short([1, 2, 3], 2, "test").message, cut_short([1, 2, 3], 3)
        ('test reads 2 of 3 batches', None)

    """
    there = sized_len(loader)
    if there is None or not 0 < read < there:
        return None
    return Outcome(
        Status.ADVICE,
        "limited_batches",
        f"{stage} reads {read:g} of {there} batches",
        f"leave out limit_{'test' if stage == 'test' else 'val'}_batches and fast_dev_run for results that are "
        "reported",
        {"read": read, "batches": there},
    )


def left_out(loader: Any, stage: str = "validation") -> Outcome | None:
    """What to say of a last batch that is left out, of what is to be evaluated: a `warning` if it is much of all.

    Args:
        loader: The loader.
        stage: "validation" or "test".

    Example:
        >>> from torch.utils.data import DataLoader
        >>> [left_out(DataLoader(range(n), 32, drop_last=True)) is None for n in (90, 96, 3203)]
        [False, True, True]

    """
    batches = getattr(loader, "batch_sampler", None)
    examples, size = sized_len(getattr(batches, "sampler", None)) or 0, getattr(batches, "batch_size", None) or 1
    lost = examples % size if getattr(batches, "drop_last", False) is True else 0
    if lost < max(1, LOST * examples):
        return None
    return Outcome(
        Status.WARNING if lost >= MUCH * examples else Status.ADVICE,
        "drops_last",
        f"{stage} leaves out the last {lost} of its {examples} examples, which fill no batch of {size}",
        f"drop_last=False in the DataLoader of {stage}: it is for training",
        {"left_out": lost, "examples": examples},
    )


def too_few(name: str, values: list[float], examples: int) -> Outcome | None:
    """Advice if an accuracy has improved by less than its standard error, which is that of a binomial share.

    Args:
        name: Its key.
        values: One for each validation looked at, in order.
        examples: In the validation set.

    Example:
        >>> too_few("val_acc", [0.70, 0.72], 100).evidence
        {'improvement': 0.02..., 'standard_error': 0.04..., 'examples': 100}
        >>> too_few("val_acc", [0.70, 0.72], 10_000) is None
        True

    """
    if len(values) < 2 or not all(0 <= value <= 1 for value in values):  # noqa: PLR2004
        return None
    best = max(values)
    improvement, error = best - values[0], math.sqrt(best * (1 - best) / examples)
    if not 0 < improvement < error:
        return None
    return Outcome(
        Status.ADVICE,
        "too_few_examples",
        f'"{name}" has improved by {improvement:.2g}, from {values[0]:.3g} to {best:.3g}, which is less than its '
        f"standard error of {error:.2g} on {examples} examples",
        "validate on more examples, or compare means over several seeds or folds",
        {"improvement": improvement, "standard_error": error, "examples": examples},
    )


def of_few(name: str, value: float, examples: int, in_training: int) -> Outcome | None:
    """Advice if an accuracy is of few examples while training has many: by Wilson's interval (1927), of 95 %.

    Args:
        name: Its key.
        value: The latest.
        examples: In the validation set.
        in_training: In the training set.

    Example:
        >>> of_few("val_acc", 1.0, 14, 1400).evidence
        {'lowest': 0.78..., 'highest': 1.0, 'examples': 14, 'in_training': 1400}
        >>> of_few("val_acc", 1.0, 14, 100) is None
        True

    """
    if not 0 <= value <= 1 or examples >= SMALL * in_training:
        return None
    z = 1.96**2 / examples
    middle, half = value + z / 2, math.sqrt(z * value * (1 - value) + z * z / 4)
    lowest, highest = ((middle + side * half) / (1 + z) for side in (-1, 1))
    if highest - lowest <= WIDE:
        return None
    return Outcome(
        Status.ADVICE,
        "too_few_examples",
        f'"{name}" is {value:.3g} on {examples} examples, which a model has by chance that is right in {lowest:.0%} to '
        f"{highest:.0%} of all; training has {in_training}",
        "keep more examples for validation, a tenth say, or cross-validate",
        {"lowest": lowest, "highest": highest, "examples": examples, "in_training": in_training},
    )
