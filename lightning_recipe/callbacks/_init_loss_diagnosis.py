"""What to tell about a loss that starts wrong: who carries the NaN, which layer to change, and to what."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_recipe.callbacks._bias_wiring import output_layers
from lightning_recipe.finding import Status
from lightning_recipe.losses.table import TABLE, Family, Takes
from lightning_recipe.record.modules import registered
from lightning_recipe.record.scalar_products import of_unit_vectors
from lightning_recipe.record.tensors import tensors
from lightning_recipe.trial.calming import without_dropout
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

MILD = 5.0
"""Times the guess up to which a start costs the first steps only: healthy networks of residual blocks, or with a new
head on what was trained before, were seen to begin at 3.3 and 3.7 times it."""
USUAL = 1.0
"""Root mean square of numbers that layers give at their initialisation, for inputs of about 1, at most."""

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning_recipe.losses.references import References
    from lightning_recipe.record.step import LossCall, Step
    from lightning_recipe.run import Run
    from lightning_recipe.trial.rehearsal import Rehearsal


def carriers(step: Step, arguments: dict[str, Any]) -> str:
    """Which of the tensors hold NaN or Inf, nearest to the data first."""
    places = {f"input {name}": tensor for name, tensor in step.inputs.items()}
    if isinstance(target := arguments.get("target"), Tensor):
        places["the target"] = target
    if isinstance(prediction := arguments.get("input"), Tensor):
        places["the prediction"] = prediction
    for i, call in enumerate(step.net_calls):
        for path, tensor in tensors(call.output, f"output of {call.name or 'forward'}"):
            places.setdefault(path if i or path else f"output {i}", tensor)
    found = [
        f"{place} ({int((~tensor.isfinite()).sum())} of {tensor.numel()} values)"
        for place, tensor in places.items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if found:
        return f"NaN or Inf in {found[0]}" + (f", then in {', '.join(found[1:])}" if found[1:] else "")
    if not isinstance(target, Tensor) or not target.numel():
        return "inputs and outputs are finite, so the loss computation makes it"
    ignored = arguments.get("ignore_index")
    if ignored is not None and bool((target == ignored).all()):
        return f"all {target.numel()} targets are {ignored}, the ignore_index: nothing is left to average"
    return "inputs, targets and predictions are finite, so the loss computation makes it"


def output_layer(pl_module: nn.Module, outputs: int, call: LossCall, step: Step) -> tuple[str, nn.Module] | None:
    """The layer that a loss got its prediction from, with its name; else the last one with as many outputs."""
    for seen, name, layer in output_layers(step):
        if seen is call:
            return name, layer
    layers = [
        (name, module)
        for name, module in pl_module.named_modules()
        if getattr(module, "out_features", getattr(module, "out_channels", None)) == outputs and hasattr(module, "bias")
    ]
    return layers[-1] if layers else None


def untrained(layer: nn.Module) -> bool:
    """Whether the weights lie within the bounds of torch's default initialisation, 1 / sqrt(fan in) around 0.

    A quarter more is allowed for the first update. Training takes some of the weights far beyond.

    Example:
        >>> untrained(nn.Linear(16, 4))
        True

    """
    weight = registered(layer, "weight")
    if weight is None or not weight.numel():
        return False
    fan_in = weight.numel() / weight.shape[0]
    return float(weight.detach().abs().max()) <= 1.25 / math.sqrt(fan_in)


def is_frozen(layer: tuple[str, nn.Module] | None) -> bool:
    """Whether an output layer is known, and none that this run initialises.

    Example:
        >>> layer = nn.Linear(16, 4)
        >>> is_frozen(("head", layer)), is_frozen(("head", layer.requires_grad_(False))), is_frozen(None)
        (False, True, False)

    """
    weight = registered(layer[1], "weight") if layer is not None else None
    return weight is not None and not weight.requires_grad


def on_purpose(evidence: Mapping[str, float], share: float, most: float, *, cosines: bool) -> str:
    """What speaks for a loss that starts high, or nothing: cosines, or dropout.

    Args:
        evidence: The loss, and that of knowing nothing.
        share: Of the loss that is left without dropout.
        most: Times that of knowing nothing from which on a loss is too high.
        cosines: Whether logits are cosines times a scale.

    Example:
        >>> on_purpose({"measured": 5.0, "know_nothing": 2.3}, 0.5, 1.5, cosines=False)
        'without dropout it starts at 2.5'

    """
    if cosines:
        return "its logits are cosines times a scale, which start high on purpose"
    calm = evidence["measured"] * share
    return f"without dropout it starts at {calm:.4g}" if calm <= most * evidence["know_nothing"] else ""


def too_high(call: LossCall, found: References, layer: tuple[str, nn.Module] | None, fail_ratio: float) -> Status:
    """How bad a start is that is too high.

    Args:
        call: The loss.
        found: What it should be.
        layer: The output layer, if one is known.
        fail_ratio: Times the guess, from which on the layer is to blame.

    """
    usual = not TABLE[call.name].is_certain and _rms(call.arguments["input"]) <= USUAL
    far = found.ratio > fail_ratio * band(found.examples)
    if is_frozen(layer) or (usual and not far) or found.ratio <= min(MILD, fail_ratio) * band(found.examples):
        return Status.ADVICE
    return Status.FAILED if far and layer is not None else Status.WARNING


def scale_fix(call: LossCall, step: Step, layer: tuple[str, nn.Module] | None) -> str:
    """What to scale down, with the sizes of what there is to scale."""
    if layer is not None and is_frozen(layer):
        return f"{layer[0]} is frozen: for other classes or units it wants a new one"
    prediction, target = call.arguments["input"], call.arguments["target"]
    parts = [f"predictions have a standard deviation of {_std(prediction):.3g}"]
    bias = ""
    if target.is_floating_point() and not TABLE[call.name].is_certain:
        parts.append(f"targets {_std(target):.3g}")
        shift = float(target.double().mean() - prediction.double().mean())
        if abs(shift) > _std(prediction):
            parts[0] += f" around {float(prediction.double().mean()):.3g}"
            parts[1] += f" around {float(target.double().mean()):.3g}"
            bias = f", or shift its bias by {shift:.3g}"
    parts += [f"input {name} {_std(x):.3g}" for name, x in step.inputs.items() if x.is_floating_point() and x.numel()]
    where = f"the output layer {layer[0]}" if layer else "the output layer"
    scale = "bring inputs and targets to about 1, and " if len(parts) > 1 else ""
    return f"{', '.join(parts)}: {scale}initialise {where} smaller{bias}"


def _rms(tensor: Tensor) -> float:
    return float(tensor.double().square().mean().sqrt())


def _std(tensor: Tensor) -> float:
    return float(tensor.double().std(correction=0))


def bias_fix(call: LossCall, found: References, layer: tuple[str, nn.Module] | None) -> str:
    """The bias that makes the network start at the best constant prediction."""
    loss, constant = TABLE[call.name], found.constant
    missing = int((constant < math.log(1e-20)).sum()) if loss.of_classes else 0
    if missing:  # such a class may well be one in 2n; with a bias of -69 it would never be learnt
        constant = constant.clamp(min=-math.log(2 * found.examples))
    if loss.takes is Takes.PROBABILITIES:
        constant = torch.logit(constant, eps=1e-6)
    values = ", ".join(f"{value:.4g}" for value in constant.flatten()[:10].tolist())
    values = f"[{values}{', ...' if constant.numel() > 10 else ''}]" if constant.numel() > 1 else values  # noqa: PLR2004
    name = f"the output layer {layer[0]}" if layer else "the output layer"
    bias = f"set the bias of {name} to {loss.constant}: {values}"
    if layer is not None and getattr(layer[1], "bias", None) is None:
        bias = f"{name} has no bias: give it one, and set it to {loss.constant}: {values}"
    if missing:
        bias += (
            f"; {missing} of {found.classes} classes do not occur in this batch: take the frequencies from all the "
            "training data, and see that it is shuffled"
        )
    if loss.family is Family.YES_NO and (missing := int((constant.abs() > 13).sum())):  # noqa: PLR2004
        bias += f"; {missing} of {constant.numel()} have one answer only in this batch: take p from all training data"
    if loss.family is Family.NUMBERS and not 0.1 < (spread := _std(call.arguments["target"])) < 10:  # noqa: PLR2004
        bias = f"the targets have a standard deviation of {spread:.3g}: scale them to 1, with mean 0; else {bias}"
    return bias


def band(n: int) -> float:
    """How much wider a limit is for `n` targets: four standard errors of a mean of unit variance.

    Example:
        >>> band(64)
        1.5

    """
    return 1 + 4 / math.sqrt(n)


def judge(found: References, *, certain: bool, warn_ratio: float, bias_share: float) -> str:
    """The decision, see `InitLossCheck`.

    Args:
        found: The measured loss and its references.
        certain: Whether know-nothing costs the same whatever the targets, as in classification.
        warn_ratio: Times know-nothing.
        bias_share: Share of know-nothing that a constant removes.

    Returns:
        "no scale", "too high", "too low", "needs bias", or "good".

    """
    n = found.examples
    measured, know_nothing, best = (
        value - found.floor for value in (found.measured, found.know_nothing, found.best_constant)
    )
    if know_nothing <= 0:
        return "no scale"
    if measured > warn_ratio * band(n) * know_nothing:
        return "too high"
    if found.has_prior and measured < best * min(0.5 if certain else 0.01, 1 - 16 / n):
        return "too low"
    if found.needs_bias(bias_share):
        return "needs bias"
    return "good"


def once_more(run: Run, step: Step) -> tuple[bool, float]:
    """The step run again on a copy: whether its loss is of products of unit vectors, and the share without dropout."""
    try:
        with rehearsal(run) as again:
            loss = again.step(step.batch).loss
            return loss is not None and of_unit_vectors(loss), calmer(again, step.batch)
    except CannotRehearseError:
        return False, 1.0


def calmer(again: Rehearsal, batch: Any) -> float:
    """The loss of a step without dropout, as a share of the one with it; the copy is without from then on."""
    noisy = again.step(batch).loss
    without_dropout(again.module)
    calm = again.step(batch).loss
    if noisy is None or calm is None or not float(noisy.mean()) > 0:
        return 1.0
    return max(0.0, min(1.0, float(calm.mean() / noisy.mean())))
