"""In which mode modules were called, and whether it made a difference, read off the events of a step."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from lightning_recipe.trial.calming import DROPOUTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.events import Event
    from lightning_recipe.record.step import Step

COMPARISONS = {"gt", "ge", "lt", "le"}
CONVERSIONS = {"float", "half", "bfloat16", "to", "type", "type_as", "div", "truediv", "mul", "invert", "logical_not"}
PRODUCTS = {"mul", "mul_", "masked_fill"}
"""What a dropout written by hand consists of, between the draw and the product."""


def matters(module: nn.Module | None) -> bool:
    """Whether the mode makes a difference to what a module does: dropout, and a BatchNorm with running statistics.

    Example:
        >>> from torch import nn
        >>> [matters(m) for m in (nn.Dropout(0.1), nn.Dropout(0.0), nn.BatchNorm1d(2), nn.LayerNorm(2))]
        [True, False, True, False]

    """
    if isinstance(module, _DropoutNd) or type(module).__name__ in DROPOUTS:
        return any(vars(module).get(name) for name in ("p", "drop_prob"))
    return isinstance(module, _BatchNorm) and module.running_mean is not None and module.momentum != 0


def feels(module: nn.Module | None) -> bool:
    """The same of a module that is called as a whole, such as a layer of a transformer in eval mode.

    Example:
        >>> from torch import nn
        >>> [feels(nn.MultiheadAttention(4, 2, dropout=p)) for p in (0.0, 0.1)]
        [False, True]

    """
    inside = module.modules() if module is not None else ()
    return any(matters(m) or (isinstance(m, nn.MultiheadAttention | nn.RNNBase) and m.dropout > 0) for m in inside)


def calls(step: Step, within: nn.Module) -> list[Event]:
    """Calls of the modules within a module."""
    inside = {id(module) for module in within.modules()}
    return [event for event in step.events if event.kind == "module" and id(event.module) in inside]


def eval_in_training(step: Step, root: nn.Module, fresh: set[str], at_start: set[str]) -> dict[str, list[str]]:
    """Networks that learn, all of which is in eval mode, and was at all calls.

    Args:
        step: A training step.
        root: The LightningModule.
        fresh: Names of the BatchNorms that had no statistics yet when training began.
        at_start: Names of the modules that were in training mode when the fit was set up.

    Returns:
        By the name of the network, ``""`` for `root`, the names of the modules within to which it makes a difference.

    """
    found = {}
    for name, network in _in_eval("", root):
        called = calls(step, network)
        layers = [e for e in called if not isinstance(e.module, _BatchNorm) and has_parameters(e.module)]
        if any(event.training for event in called) or not layers or not (name in at_start or network is root):
            continue
        felt = [e for e in called if feels(e.module) and (e.name in fresh or not isinstance(e.module, _BatchNorm))]
        if names := [event.name for event in felt if learns(step, _learner(root, event.name))]:
            found[name] = list(dict.fromkeys(names))
    return found


def _in_eval(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The largest modules all of which are in eval mode."""
    if not any(inside.training for inside in module.modules()):
        yield name, module
    else:
        for child_name, child in module.named_children():
            yield from _in_eval(f"{name}.{child_name}" if name else child_name, child)


def has_parameters(module: nn.Module | None) -> bool:
    """Whether a module holds parameters, in itself or within."""
    return module is not None and next(module.parameters(), None) is not None


def learns(step: Step, name: str) -> bool:
    """Whether a gradient reached a parameter within the module of this name."""
    within = f"{name}." if name else ""
    return any(norm > 0 for parameter, norm in step.gradients.items() if parameter.startswith(within))


def _learner(root: nn.Module, name: str) -> str:
    """The module of this name, or if it has no parameters, the nearest around it that has."""
    while name and not has_parameters(root.get_submodule(name)):
        name = name.rpartition(".")[0]
    return name


def train_in_validation(step: Step, root: nn.Module) -> list[str]:
    """Names of what feels the mode, was called in training mode in validation, and left so.

    Not of those that only were switched on themselves, as for Monte Carlo dropout or to adapt statistics, or were
    called several times. A network that is in training mode while the LightningModule is not counts if it has
    BatchNorms, which learn from the validation data, and nothing else that feels the mode is in eval mode: generators
    that are meant to stay in training mode stand beside discriminators.
    """
    felt = [(m, around) for around in root.modules() for m in around.children() if matters(m)]
    whole = root.training or all(module.training and around.training for module, around in felt)
    times = Counter(id(event.module) for event in step.events if event.kind == "module")
    called = [e for e in calls(step, root) if feels(e.module) and times[id(e.module)] == 1]
    if not whole or not all(event.training for event in called):
        return []
    if not root.training and not any(isinstance(event.module, _BatchNorm) for event in called):
        return []
    return [event.name for event in called if event.module is not None and event.module.training]


def dropping_functions(step: Step, root: nn.Module) -> list[str]:
    """Places where a function drops what a network has computed, called once with all modules in eval mode.

    Also where dropout is written by hand: noise of the shape of what was computed, or filled with a probability, is
    compared with a constant, or drawn as zeros and ones, and multiplied with it.
    """
    times = Counter(id(event.module) for event in step.events if has_parameters(event.module))
    if any(module.training for module in root.modules()) or any(count > 1 for count in times.values()):
        return []
    functions = [event for event in step.events if event.kind == "function"]
    dropping = [event for event in functions if event.training or _by_hand(step, event)]
    return list(dict.fromkeys(event.where for event in dropping))


def drops(step: Step) -> bool:
    """Whether a dropout is active, as for Monte Carlo dropout."""
    called = [event for event in step.events if event.training and not isinstance(event.module, _BatchNorm)]
    return any(event.module is None or feels(event.module) for event in called)


def _by_hand(step: Step, product: Event) -> bool:
    """Whether one factor is a mask, used for nothing else, that was drawn by a constant probability."""
    for number in product.inputs if product.name in PRODUCTS else ():
        drawn, compared = _drawn(step, number), False
        while drawn is not None and drawn.name in CONVERSIONS | COMPARISONS and len(drawn.inputs) == 1:
            compared = compared or drawn.name in COMPARISONS
            drawn = _drawn(step, drawn.inputs[0])
        if drawn is None:
            continue
        filled = drawn.name == "bernoulli" and (made := step.producer(drawn.inputs[0])) and made.name == "full_like"
        if filled or drawn.name == "bernoulli_" or (compared and drawn.name == "rand_like"):
            return len(product.inputs) > 1 or product.name == "masked_fill"
    return False


def _drawn(step: Step, number: int) -> Event | None:
    """What a tensor comes from that is used once."""
    return step.producer(number) if len(step.consumers(number)) == 1 else None
