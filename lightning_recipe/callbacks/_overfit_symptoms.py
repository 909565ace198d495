"""What the last step of a short fit shows about why it came no further."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_recipe.callbacks._affine import layers
from lightning_recipe.callbacks._overfit_progress import FEW_STEPS
from lightning_recipe.losses.table import TABLE, Family
from lightning_recipe.record.step import Need
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import nn

    from lightning_recipe.losses.floor import Floor
    from lightning_recipe.run import Run
    from lightning_recipe.trial.short_fit import Fit

EQUAL = 1e-3
"""Relative difference up to which predictions count as equal: half precision."""
ROUNDING = 1e-5
"""Relative difference that batch statistics leave of a constant in single precision."""
WILD = 30.0
"""Root mean square of inputs or targets, or one over it, from which on common initialisations, made for values of a
standard deviation of 1 (Glorot and Bengio, 2010; He et al., 2015), need many steps to make it good."""


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
            (low, high), (lowest, highest) = prediction.aminmax(), target.aminmax()
            found.append(f"predictions go from {low:.3g} to {high:.3g}, targets from {lowest:.3g} to {highest:.3g}")
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
        told = tensor.layout is torch.strided and tensor.is_floating_point() and tensor.numel() > 1
        size = float(tensor.double().square().mean().sqrt()) if told else 1.0
        if not 1 / WILD < size < WILD and size > 0:
            return f"scale {name} to a standard deviation of 1: it is of the size of {size:.3g}"
    targets = sum(call.arguments["target"].numel() for call in calls)
    trainable = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
    if trainable < targets:
        return f"enlarge the model: it has {trainable} trainable parameters for {targets} targets"
    see = "LossInputCheck tells what enters the loss, the picture of labels and predictions what is compared"
    return f"enlarge the model; if that does not help: {see}"


def held(fit: Fit, asked: Floor | None) -> str:
    """A layer that the loss comes from, and that the module's own code keeps as it is for now, as DINO's last one."""
    for layer in asked.layers if asked is not None else ():
        own = [gradient for name, gradient in fit.grads.items() if name.startswith(f"{layer}.")]
        if own and not any(own) and any(fit.grads.values()):
            return layer
    return ""


def modules(names: list[str]) -> str:
    """The modules of parameters of these names, or the first four."""
    found = list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
    return ", ".join(found[:4]) + (" and others" if len(found) > 4 else "")  # noqa: PLR2004


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


def is_affine(run: Run) -> bool:
    """Whether all layers together are one affine map, as for principal components; which may be meant."""
    try:
        with rehearsal(run) as again:
            found = layers(again.step(run.batch, needs=Need.WIRING | Need.GRAPH).graph)
    except CannotRehearseError:
        return False
    return found is not None and any(found)


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
