"""In which mode modules were called, and whether it made a difference, read off the events of a step."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.events import Event
    from lightning_recipe.record.step import Step


def matters(module: nn.Module | None) -> bool:
    """Whether the mode makes a difference to what a module does: dropout, and a BatchNorm with running statistics.

    Example:
        >>> [matters(m) for m in (nn.Dropout(0.1), nn.Dropout(0.0), nn.BatchNorm1d(2), nn.LayerNorm(2))]
        [True, False, True, False]

    """
    if isinstance(module, _DropoutNd):
        return module.p > 0
    return isinstance(module, _BatchNorm) and module.running_mean is not None and module.momentum != 0


def is_untouched(norm: nn.Module) -> bool:
    """Whether the running statistics of a BatchNorm are exactly those that it began with.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> is_untouched(norm), is_untouched(nn.Dropout())
        (True, False)

    """
    if not (isinstance(norm, _BatchNorm) and matters(norm)) or norm.running_mean is None or norm.running_var is None:
        return False
    return nn.parameter.is_lazy(norm.running_mean) or (not norm.running_mean.any() and not (norm.running_var - 1).any())


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
        layers = [e for e in called if not isinstance(e.module, _BatchNorm) and _has_parameters(e.module)]
        if any(event.training for event in called) or not layers or not (name in at_start or network is root):
            continue
        felt = [e for e in called if matters(e.module) and (e.name in fresh or not isinstance(e.module, _BatchNorm))]
        if names := [event.name for event in felt if _learns(step, root, event)]:
            found[name] = list(dict.fromkeys(names))
    return found


def _in_eval(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The largest modules all of which are in eval mode."""
    if not any(inside.training for inside in module.modules()):
        yield name, module
    else:
        for child_name, child in module.named_children():
            yield from _in_eval(f"{name}.{child_name}" if name else child_name, child)


def _has_parameters(module: nn.Module | None) -> bool:
    return module is not None and next(module.parameters(), None) is not None


def _learns(step: Step, root: nn.Module, event: Event) -> bool:
    """Whether a gradient reached the module called, or if it has no parameters, the nearest around it that has."""
    name = event.name
    while name and not _has_parameters(root.get_submodule(name)):
        name = name.rpartition(".")[0]
    within = f"{name}." if name else ""
    return any(norm > 0 for parameter, norm in step.gradients.items() if parameter.startswith(within))


def train_in_validation(step: Step, root: nn.Module) -> list[str]:
    """Names of dropouts and BatchNorms that were called in training mode in validation, and left so.

    Not of those that only were switched on themselves, as for Monte Carlo dropout or to adapt statistics, or were
    called several times. A network that is in training mode while the LightningModule is not counts if it has
    BatchNorms, which learn from the validation data, and nothing else that feels the mode is in eval mode: generators
    that are meant to stay in training mode stand beside discriminators.
    """
    felt = [(m, around) for around in root.modules() for m in around.children() if matters(m)]
    whole = root.training or all(module.training and around.training for module, around in felt)
    times = Counter(id(event.module) for event in step.events if event.kind == "module")
    called = [e for e in calls(step, root) if matters(e.module) and times[id(e.module)] == 1]
    if not whole or not all(event.training for event in called):
        return []
    if not root.training and not any(isinstance(event.module, _BatchNorm) for event in called):
        return []
    return [event.name for event in called if event.module is not None and event.module.training]


def dropping_functions(step: Step, root: nn.Module) -> list[str]:
    """Places where a function drops what a network has computed, called once with all modules in eval mode."""
    times = Counter(id(event.module) for event in step.events if _has_parameters(event.module))
    if any(module.training for module in root.modules()) or any(count > 1 for count in times.values()):
        return []
    return list(dict.fromkeys(event.where for event in step.events if event.kind == "function" and event.training))


def without_statistics(step: Step, before: dict[nn.Module, Tensor]) -> list[Event]:
    """Calls of BatchNorms in eval mode whose weights have changed since `before`, but never their statistics.

    Args:
        step: A validation step.
        before: The weights of those without statistics, as at the first look; new ones are entered.

    """
    found = []
    for event in step.events:
        norm = event.module
        if isinstance(norm, _BatchNorm) and norm.affine and not event.training and is_untouched(norm):
            weights = before.setdefault(norm, norm.weight.detach().clone())
            folded = norm.weight.requires_grad and bool((weights != 1).any())  # statistics, into the weights
            if not folded and not weights.equal(norm.weight.detach()):
                found.append(event)
    return found
