"""Which biases have no effect, and which layers a loss gets its predictions from, read off the events of a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lightning_recipe.record.modules import registered

if TYPE_CHECKING:
    from lightning_recipe.record.events import Event
    from lightning_recipe.record.step import LossCall, Step

Layer = nn.Linear | _ConvNd
RESHAPED = {"view", "reshape", "squeeze", "unsqueeze", "flatten", "permute", "transpose", "movedim", "T", "mT"}
RESHAPED |= {"getitem", "__getitem__", "contiguous", "float", "double", "to", "detach", "cpu"}
"""Functions that leave the values of a tensor, or some of them, as they are."""
HANDED_ON = RESHAPED | {"sigmoid", "softmax", "log_softmax", "logsigmoid"}
"""Functions that leave a constant which was added before them one for all examples."""


def cancelled(step: Step) -> list[tuple[str, str, int]]:
    """Layers whose bias the next BatchNorm subtracts again.

    Returns:
        For each the name of the layer, that of the BatchNorm, and the size of the bias.

    """
    calls: dict[int, list[Event]] = {}
    for event in step.events:
        if event.module is not None:
            calls.setdefault(id(event.module), []).append(event)
    found = []
    for own in calls.values():
        layer = own[0].module
        if not isinstance(layer, Layer) or layer.bias is None or not layer.bias.requires_grad:
            continue
        norm = step.sole_consumer(layer)
        if not isinstance(norm, _BatchNorm) or layer.bias.numel() != norm.num_features:  # of another dimension
            continue
        if len(calls[id(norm)]) == len(own) and _is_new(norm, len(own)):
            found.append((own[0].name, calls[id(norm)][0].name, layer.bias.numel()))
    return found


def _is_new(norm: _BatchNorm, calls: int) -> bool:
    """Whether a BatchNorm takes the batch's statistics, and has not been trained before this step."""
    if norm.running_mean is None:
        return True
    return norm.training and (norm.num_batches_tracked is None or int(norm.num_batches_tracked) <= calls)


def output_layers(step: Step) -> list[tuple[LossCall, str, Layer]]:
    """The layer that each loss got its prediction from, with its name.

    Left out are losses between whose prediction and the nearest layer more was done than to change its shape, or to
    squash it.
    """
    found = []
    events = [event for event in step.events if event.kind == "loss"]
    for call in step.loss_calls:
        own = next((e for e in events if e.name == call.name and e.where in {"", call.where}), None)
        layers = [layer for number in (own.inputs if own else ()) if (layer := _layer(step, number)) is not None]
        if len(layers) == 1:
            found.append((call, *layers[0]))
    return found


def _layer(step: Step, number: int) -> tuple[str, Layer] | None:
    while (event := step.producer(number)) is not None:
        if isinstance(event.module, Layer):
            return event.name, event.module
        squashing = event.module is not None and next(event.module.parameters(), None) is None
        if not (squashing or event.name in HANDED_ON) or len(event.inputs) != 1:
            return None
        number = event.inputs[0]
    return None


def giver(step: Step, number: int) -> Event | None:
    """The call of a module whose only output a tensor is, but for its shape; None if it is anything else."""
    made = step.producer(number)
    while made is not None and made.module is None and made.name in RESHAPED and len(made.inputs) == 1:
        made = step.producer(made.inputs[0])
    return made if made is not None and made.module is not None and len(made.outputs) == 1 else None


def is_tied(layer: Layer, pl_module: nn.Module) -> bool:
    """Whether another module works with the same weights."""
    weight = registered(layer, "weight")
    others = (registered(module, "weight") for module in pl_module.modules() if module is not layer)
    return weight is not None and any(other is weight for other in others)


def is_interchanged(module: nn.Module) -> bool:
    """Whether the weights of a norm, which are to begin with 1, are 0, and its biases, which are to be 0, are 1.

    Example:
        >>> norm = nn.LayerNorm(4)
        >>> first = is_interchanged(norm)
        >>> _ = nn.init.zeros_(norm.weight), nn.init.ones_(norm.bias)
        >>> first, is_interchanged(norm)
        (False, True)

    """
    if "norm" not in type(module).__name__.lower():
        return False
    weight, bias = registered(module, "weight"), registered(module, "bias")
    if weight is None or bias is None or not bias.requires_grad:
        return False
    return bool((weight == 0).all()) and bool((bias == 1).all())
