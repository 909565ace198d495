"""What to say of the numbers that enter a network."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_recipe.callbacks import _normalization as scale
from lightning_recipe.callbacks._by_the_batch import scaled_by
from lightning_recipe.callbacks._far_off import far_off, told
from lightning_recipe.callbacks._published import published
from lightning_recipe.callbacks._statistics import has_seen_data
from lightning_recipe.callbacks._untrained import is_as_drawn
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.tensors import dense

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from lightning_recipe.trial.entries import Entered, Entry

NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)  # noqa: SLF001
"""Layers behind which the scale of what enters makes no difference."""
BY_FEATURE = (nn.Linear, nn.RNNBase, nn.modules.rnn.RNNCellBase)
"""Layers with a weight of its own for each feature, the last dimension of what enters."""


def of_scale(train: Entered, batch: Any) -> Iterator[tuple[Outcome, str]]:
    """What is wrong with a training batch when it enters, with the layer that it enters.

    Args:
        train: What entered, recorded before any update.
        batch: What the step was given.

    """
    given = [tensor for _, tensor in dense(batch)]
    entries = [entry for entry in train.entries if scale.is_finite(entry.values)]
    calls = Counter(event.name for event in train.step.events if event.kind == "module")  # a decoder begins with zeros
    alike = [entry for entry in entries if scale.are_all_alike(entry.values) and calls[entry.name] == 1]
    if entries and len(alike) == len(entries) and not _alike(given):
        yield _all_alike(entries[0]), entries[0].name
        return
    for entry in entries:
        if isinstance(entry.module, NORMS) or isinstance(train.step.sole_consumer(entry.module), NORMS):
            continue
        if scale.is_raw_bytes(entry.values, given):
            yield _raw_bytes(entry), entry.name
            return
        spread, whole = scale.shrunk(entry.values, given)
        if spread:
            yield _shrunk(entry, spread, whole), entry.name
            return
        if isinstance(entry.module, BY_FEATURE) and entry.values.ndim in {2, 3}:
            table = entry.values.flatten(0, -2)  # of all steps of sequences, too
            large, small, ratio = scale.scales(table)
            if ratio > scale.SCALES and float(table[:, large].std()) > scale.LARGE:
                yield _scales_differ(entry, large, small, ratio), entry.name
                continue
        if (weight := _first_weight(entry.module)) is not None and is_as_drawn(weight):
            yield from ((outcome, entry.name) for outcome in _of_drawn(entry, given))
    trained = [n for n in train.norms if has_seen_data(n.module) and scale.is_finite(n.values)]
    if trained and entries and (outcome := _pretrained(trained[0], entries[0])) is not None:
        yield outcome, trained[0].name


def of_targets(
    found: scale.Targets, drowned: list[str] | None = None, *, left: float = 0.0
) -> Iterator[tuple[Outcome, str]]:
    """Targets of numbers that are far larger than what a network puts out at first, or far smaller.

    Args:
        found: Those of the first step.
        drowned: Other losses that they leave no weight to.
        left: The mean square of the error at the end of training, as a multiple of the targets' variance.

    """
    tiny, never = found.times > scale.TINY, left > scale.LEFT
    if tiny or found.std > scale.LARGE:
        said = "and so have its first gradients"
        said += f", which leave no weight to {' and '.join(drowned)}" if drowned else ""
        if tiny:
            said = (
                f"predictions are {found.times:.2g}x as large at first: any step of the last layer moves them further"
            )
        elif never:
            said = f"and predictions never get near them: the error is {left:.2g}x that of one number for all"
        yield (
            Outcome(
                Status.WARNING if tiny or never or drowned else Status.ADVICE,
                "target_scale",
                f"targets of {found.where} have a standard deviation of {found.std:.3g}, {said}",
                "standardise the targets, and scale predictions back for what is reported",
                {"std": found.std, "times": found.times, "left": left},
            ),
            found.where,
        )


def of_published(train: Entered, root: nn.Module) -> Iterator[tuple[Outcome, str]]:
    """Images from 0 to 1 that enter a trained network of which it is known what it was trained on.

    What BatchNorms have seen says more than a network's class: where there are some, that alone judges.

    Args:
        train: What entered.
        root: The LightningModule, in which the network may be anywhere.

    """
    by_class = not any(has_seen_data(norm.module) for norm in train.norms)
    for entry in train.entries:
        channels = entry.values.shape[1] if entry.values.ndim == 4 else 0  # noqa: PLR2004 - (N, C, H, W)
        mean, std, by = published(root, entry.name, by_class=by_class)
        low, high = float(entry.values.min()), float(entry.values.max())
        weight = getattr(entry.module, "weight", None)
        trained = isinstance(weight, nn.Parameter) and not is_as_drawn(weight)
        if trained and len(mean) == channels and any(mean) and low >= 0 and high <= 1:
            yield (
                Outcome(
                    Status.WARNING,
                    "unlike_pretraining",
                    f"images enter {entry.name} as they are, {_described(entry.values)}; the network was trained on "
                    "images that were normalised",
                    f"normalise with mean={_listed(mean)} and std={_listed(std)}, {by}",
                    {"mean": float(entry.values.mean()), "max": high},
                ),
                entry.name,
            )


def of_both(name: str, train: Tensor, val: Tensor, *, whole: bool) -> Iterator[Outcome]:
    """What is wrong between a layer's inputs in training and in validation.

    Args:
        name: Of the layer.
        train: What entered it in training.
        val: What entered it in validation.
        whole: Whether a batch is the whole training set, whose statistics are right.

    """
    ratio = scale.apart(train, val)
    if ratio > 1:
        yield Outcome(
            Status.WARNING,
            "validation_differs",
            f"{name} gets {_described(train)} in training, {_described(val)} in validation",
            "normalise both with the same numbers, those of the training set",
            {"ratio": ratio},
        )
    elif not whole and (to := scaled_by(train, val)):
        yield Outcome(
            Status.WARNING,
            "statistics_of_the_batch",
            f"each batch that enters {name} has {to} by itself: what becomes of an example depends on the others in "
            "its batch",
            "scale by the statistics of the training set, kept as buffers or in the data set",
            {"examples": len(train)},
        )


def _first_weight(module: nn.Module) -> Tensor | None:
    """By which a layer multiplies what enters it: of recurrent ones, and of attention, too."""
    names = ("weight", "weight_ih_l0", "weight_ih", "in_proj_weight")
    return next((weight for name in names if isinstance(weight := getattr(module, name, None), nn.Parameter)), None)


def _of_drawn(entry: Entry, given: list[Tensor]) -> Iterator[Outcome]:
    """What is wrong with what enters a layer whose weights were just drawn."""
    deviation = float(entry.values.float().std())
    if deviation > scale.UNSCALED:
        yield _unscaled(entry)
        return
    features = entry.values.movedim(-1 if isinstance(entry.module, BY_FEATURE) else min(1, entry.values.ndim - 1), 0)
    if entry.values.ndim > 1 and deviation > scale.LARGE and median(map(scale.middle, features)) > 2 * scale.LARGE:
        yield replace(_unscaled(entry), status=Status.ADVICE)
    elif any(tensor.numel() == entry.values.numel() for tensor in given):  # it is not made of embeddings
        by_feature = isinstance(entry.module, BY_FEATURE) and entry.values.ndim > 1
        if band := far_off(entry.values, by_feature=by_feature):
            yield told(band, entry.name)


def _all_alike(entry: Entry) -> Outcome:
    return Outcome(
        Status.WARNING,
        "all_alike",
        f"all {len(entry.values)} examples of the first batch are the same when they enter {entry.name}, each "
        f"{_described(entry.values[0])}",
        "see what makes them the same on their way into the network: integer division, a cast, a forgotten index",
        {"examples": len(entry.values)},
    )


def _raw_bytes(entry: Entry) -> Outcome:
    mean, high = float(entry.values.float().mean()), float(entry.values.max())
    return Outcome(
        Status.WARNING,
        "raw_bytes",
        f"images enter {entry.name} as raw bytes, 0 to {high:.0f} with a mean of {mean:.3g}; a mean near 0 and a "
        "standard deviation near 1 are expected",
        "divide by 255, subtract the mean, divide by the standard deviation: those of the data that pretrained weights "
        "were trained on, else of the training set",
        {"mean": mean, "max": high},
    )


def _unscaled(entry: Entry) -> Outcome:
    deviation = float(entry.values.float().std())
    return Outcome(
        Status.WARNING,
        "unscaled",
        f"{entry.name} gets {_described(entry.values)}: its weights were drawn for a standard deviation of about 1",
        f"divide by {deviation:.2g}, or by the largest value that is possible, such as 32768 for samples of 16 bits",
        {"std": deviation},
    )


def _shrunk(entry: Entry, spread: float, whole: float) -> Outcome:
    return Outcome(
        Status.WARNING,
        "scaled_twice",
        f"examples enter {entry.name} all but the same: {_described(entry.values)}; from one another they differ by "
        f"{spread:.2g}, in the batch by {whole:.2g}",
        "scale once, where the data are read or in the network, such as by 255; and normalise with the mean and "
        "standard deviation of what was scaled",
        {"spread": spread, "of_batch": whole},
    )


def _scales_differ(entry: Entry, large: int, small: int, ratio: float) -> Outcome:
    deviation = float(entry.values[..., large].float().std())
    return Outcome(
        Status.WARNING,
        "scales_differ",
        f"feature {large} enters {entry.name} with a standard deviation of {deviation:.3g}, {ratio:.2g}x that of "
        f"feature {small}",
        "standardise each feature with its mean and standard deviation over the training set; take the logarithm of "
        "amounts",
        {"ratio": ratio, "std": deviation},
    )


def _pretrained(norm: Entry, first: Entry) -> Outcome | None:
    ratio, distance = scale.surprise(norm.module, norm.values)
    unscaled = float(first.values.min()) >= 0 and float(first.values.max()) <= 1
    tiny = ratio < scale.SCALED or (ratio < 1 / scale.VARIANCE and unscaled)
    if ratio <= scale.VARIANCE and not tiny:
        return None
    who, values = ("the network", first.values) if unscaled or not tiny else ("it", norm.values)
    return Outcome(
        Status.WARNING,
        "unlike_pretraining",
        f"{norm.name} gets {ratio:.2g}x the variance that it saw when it was trained; {who} gets {_described(values)}",
        "normalise the inputs as those were that the weights were trained on",
        {"variance_ratio": ratio, "mean_distance": distance},
    )


def _listed(numbers: tuple[float, ...]) -> str:
    return f"({', '.join(f'{number:.3g}' for number in numbers)})"


def _alike(batch: list[Tensor]) -> bool:
    """Whether nothing in a batch tells its examples apart."""
    return not any(t.ndim and len(t) > 1 and not bool((t == t[:1]).all()) for t in batch if t.layout is torch.strided)


def _described(values: Tensor) -> str:
    values = values.float()
    deviation = float(values.std()) if values.numel() > 1 else 0.0
    return (
        f"{float(values.min()):.3g} to {float(values.max()):.3g} (mean {float(values.mean()):.3g}, std {deviation:.3g})"
    )
