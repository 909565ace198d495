"""What the last step of a short fit shows about why it came no further."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from lightning_recipe.callbacks._overfit_progress import FEW_STEPS
from lightning_recipe.losses.floor import floor
from lightning_recipe.losses.table import TABLE, Family, Takes

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import nn

    from lightning_recipe.callbacks._overfit_progress import Trial
    from lightning_recipe.trial.short_fit import Fit

EQUAL = 1e-3
"""Relative difference up to which predictions count as equal: half precision."""
ROUNDING = 1e-5
"""Relative difference that batch statistics leave of a constant in single precision."""
WILD = 30.0
"""Root mean square of inputs or targets, or one over it, from which on common initialisations, made for values of a
standard deviation of 1 (Glorot and Bengio, 2010; He et al., 2015), need many steps to make it good."""
SATURATED = 1e-3
"""Distance from a bound within which the lowest or highest prediction is taken to be held there."""


def wrong_kind(trial: Trial) -> tuple[str, str]:
    """What is wrong with the predictions by their kind, if a fit ended where such predictions have to.

    What a loss of log-probabilities makes of anything else has no lowest value: reaching it means nothing.

    Returns:
        A code and a sentence; both are empty if nothing is wrong.

    """
    for fit in trial.fits:
        for call in fit.last.loss_calls if fit.last is not None else []:
            found, loss = floor(call), TABLE[call.name]
            means_something = loss.takes is not Takes.LOG_PROBABILITIES
            if found is None or not found.trap_reason or (trial.is_reached(fit) and means_something):
                continue
            above = float(call.value.double().mean()) - found.trap
            certain = loss.of_classes or loss.takes is Takes.PROBABILITIES  # no chance: rows sum to 1
            if certain or above <= trial.tolerance * max(found.ignorant - found.value, abs(found.trap)):
                low, high = _range(call.arguments["input"])
                entered = f"the predictions that enter {call.name} ({call.where}) go from {low:.3g} to {high:.3g}"
                return found.trap_code, f"{entered}: {found.trap_reason}"
    return "", ""


def is_constant(fit: Fit) -> bool:
    """Whether after many steps the predictions were still the same for all examples, whose targets differ."""
    if fit.last is None or len(fit.losses) < FEW_STEPS:
        return False
    if not fit.last.loss_calls:  # by hand: what the network put out last
        output = fit.last.net_calls[-1].output if fit.last.net_calls else None
        if not isinstance(output, Tensor) or not output.ndim or len(output) != fit.last.batch_size:
            return False
        prediction, several = output.double(), len(output) > 1
    else:
        call = fit.last.loss_calls[0]
        prediction, target = call.arguments["input"].double(), call.arguments["target"]
        several = prediction.ndim > 0 and len(prediction) > 1 and bool((target != target[:1]).any())
    return several and _spread(prediction) <= ROUNDING * _size(prediction) < math.inf


def _spread(prediction: Tensor) -> float:
    return float((prediction.amax(0) - prediction.amin(0)).max())


def _size(prediction: Tensor) -> float:
    return max(float(prediction.abs().max()), 1e-12)


def symptoms(fit: Fit, pl_module: nn.Module) -> list[str]:
    """What the last step of a fit that is stuck says about why."""
    found = []
    if fit.last is not None and fit.last.loss_calls:
        call = fit.last.loss_calls[0]
        prediction, target = call.arguments["input"].double(), call.arguments["target"]
        if prediction.ndim and len(prediction) > 1 and _spread(prediction) <= EQUAL * _size(prediction):
            differ = f"(they differ by {_spread(prediction):.2g})"
            found.append(f"the predictions are the same for all {len(prediction)} examples {differ}")
        if target.is_floating_point() and TABLE[call.name].family is Family.NUMBERS:
            found.append(_out_of_range(prediction, target.double()))
    dead = [name for name, grad in fit.grads.items() if grad == 0]
    if dead and len(dead) < len(fit.grads):
        found.append(f"no gradient reaches {modules(dead)}")
    if fit.left_out:
        found.append(f"the optimiser does not hold the parameters of {modules(fit.left_out)}")
    if not fit.weights_moved:
        found.append("the optimiser changed no weight")
    everything = sum(p.numel() for p in pl_module.parameters())
    trainable = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
    frozen = f" ({everything - trainable} more are frozen)" if everything > trainable else ""
    found.append(f"{trainable} trainable parameters in all{frozen}")
    return found


def cause(fit: Fit, pl_module: nn.Module) -> str:
    """What to change, of a fit that is stuck: the one cause that the first and the last step speak for."""
    if dead := [name for name, grad in fit.grads.items() if grad == 0]:
        return f"find out why no gradient reaches {modules(dead)}: detach(), no_grad(), or units that are always zero"
    first = fit.first
    entered = {f"the input {path}": tensor for path, tensor in first.inputs.items()} if first is not None else {}
    calls = first.loss_calls if first is not None else []
    numbers = [call for call in calls if TABLE[call.name].family is Family.NUMBERS]
    compared = {f"the target of {call.name}": call.arguments["target"] for call in numbers}
    for name, tensor in (entered | compared).items():
        values = tensor.double() if tensor.is_floating_point() and tensor.numel() > 1 else tensor.new_zeros(0)
        size = float(values.square().mean().sqrt()) if values.numel() else 1.0
        if not 1 / WILD < size < WILD and size > 0:
            return f"scale {name} to a standard deviation of 1: it is of the size of {size:.3g}"
    targets = sum(call.arguments["target"].numel() for call in calls)
    trainable = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
    if trainable < targets:
        return f"enlarge the model: it has {trainable} trainable parameters for {targets} targets"
    return "enlarge the model; if that does not help, see in the picture of labels and predictions what is compared"


def modules(names: list[str]) -> str:
    """The modules of parameters of these names, or the first four."""
    found = list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
    return ", ".join(found[:4]) + (" and others" if len(found) > 4 else "")  # noqa: PLR2004


def _out_of_range(prediction: Tensor, target: Tensor) -> str:
    (low, high), (lowest, highest) = _range(prediction), _range(target)
    for limit in (-1.0, 0.0):
        if low >= limit > lowest and low - limit < SATURATED:
            return f"no prediction is below {limit:g}, but targets go down to {lowest:.3g}"
    if high <= 1 < highest and 1 - high < SATURATED:
        return f"no prediction is above 1, but targets go up to {highest:.3g}"
    return f"predictions go from {low:.3g} to {high:.3g}, targets from {lowest:.3g} to {highest:.3g}"


def _range(tensor: Tensor) -> tuple[float, float]:
    return float(tensor.min()), float(tensor.max())


def is_linear(pl_module: nn.Module, left_out: Collection[str] = ()) -> bool:
    """Whether there is but one layer to train: by design such models can't memorise everything.

    Args:
        pl_module: The module.
        left_out: Names of parameters that the optimiser does not hold: a linear probe need not freeze its body.

    Example:
        >>> from torch import nn
        >>> is_linear(nn.Sequential(nn.Linear(3, 2), nn.Softmax(1)))
        True

    """
    weights = [n for n, p in pl_module.named_parameters() if p.requires_grad and p.ndim > 1 and n not in left_out]
    layers = {name.rpartition(".")[0] for name in weights}
    return len(layers) <= 1 and (bool(layers) or not left_out)


def knows_examples(fit: Fit) -> bool:
    """Whether it can be seen which inputs belong to which target; not for graphs, whose inputs are nodes and edges."""
    if fit.first is None:
        return False
    inputs = list(fit.first.inputs.values())
    examples = {call.examples for call in fit.first.loss_calls}
    # the second dimension where time comes first
    return any(t.ndim > 0 and examples & {t.shape[0], t.shape[:2].numel(), *t.shape[1:2]} for t in inputs)


def has_many_targets(fit: Fit) -> bool:
    """Whether there are several targets for each example: pixels, positions, columns."""
    if fit.first is None:
        return False
    size = fit.first.batch_size or 1
    for call in fit.first.loss_calls:
        target, prediction = call.arguments["target"], call.arguments["input"]
        targets = target.numel()
        if TABLE[call.name].of_classes and target.is_floating_point() and prediction.ndim > 1:
            targets //= prediction.shape[1]
        if targets > size:
            return True
    return False
