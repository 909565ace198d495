"""What a module is: which modules can be watched, which are leaves, their switches, their forward's parameters."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_recipe.record.compiled import was_compiled

if TYPE_CHECKING:
    from torch.optim import Optimizer

_UNSEEN = (Metric, nn.modules.loss._Loss, torch.jit.ScriptModule)  # noqa: SLF001 - the only common base of losses
FAST = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
"""In eval mode they run other code, which rounds differently and zeroes what is padded, unless they see a hook on
themselves or within, or a function mode: they must see none."""


def is_leaf(module: nn.Module) -> bool:
    """Whether a call of `module` is one event: nothing inside is called as a module, or nothing inside can be watched.

    The children of attention are used by their weights, those of a parametrised layer make its weights, and replicas
    are copies in other threads.

    Example:
        >>> is_leaf(nn.ReLU()), is_leaf(nn.MultiheadAttention(4, 1)), is_leaf(nn.Sequential(nn.ReLU()))
        (True, True, False)
        >>> is_leaf(nn.utils.parametrizations.weight_norm(nn.Linear(2, 1)))
        True

    """
    if not module._modules:  # noqa: SLF001 - children() makes a set of each
        return True
    return (
        isinstance(module, nn.MultiheadAttention | nn.DataParallel)
        or was_compiled(module)
        or module._modules.keys() == {"parametrizations"}  # noqa: SLF001
    )


def within_unseen(module: nn.Module, root: nn.Module) -> bool:
    """Whether `module` lies within a metric, a loss or a scripted module of `root`, whose calls are not watched.

    Example:
        >>> loss = nn.MSELoss()
        >>> loss.net = nn.Linear(1, 1)
        >>> within_unseen(loss.net, nn.Sequential(loss)), within_unseen(loss.net, loss.net)
        (True, False)

    """
    return any(module in set(unseen.modules()) for unseen in root.modules() if isinstance(unseen, _UNSEEN))


class Observable(NamedTuple):
    """A module whose calls can be seen.

    Attributes:
        name: Its path in the LightningModule.
        module: The module.
        leaf: Whether its call is one event, and it is not itself inside of a leaf.
        inside_fast: Whether it is inside of a transformer layer, which must not see hooks in eval mode.

    Example:
        >>> Observable("net", nn.Linear(1, 1), leaf=True, inside_fast=False).name
        'net'

    """

    name: str
    module: nn.Module
    leaf: bool
    inside_fast: bool


def observable(root: nn.Module, *, inside_fast: bool) -> list[Observable]:
    """Modules whose calls can be seen: no scripted ones, nothing in compiled ones and attention, no metrics or losses.

    Args:
        root: A LightningModule.
        inside_fast: Also the modules inside of transformer layers that are in training mode.

    Example:
        >>> net = nn.ModuleDict({"layer": nn.TransformerEncoderLayer(4, 1, 4), "loss": nn.MSELoss()})
        >>> [seen.name for seen in observable(net, inside_fast=False)]
        ['', 'layer']
        >>> [seen.name for seen in observable(net, inside_fast=True) if seen.leaf][:2]
        ['layer.self_attn', 'layer.linear1']

    """
    found: list[Observable] = []
    known: set[int] = set()
    unseen: dict[type, bool] = {}  # asking abstract classes takes long

    waiting = [("", root, False, False)]
    while waiting:
        name, module, in_leaf, in_fast = waiting.pop()
        kind, children = type(module), module._modules  # noqa: SLF001
        if kind not in unseen:
            unseen[kind] = issubclass(kind, _UNSEEN)
        if id(module) in known or unseen[kind]:
            continue
        known.add(id(module))
        leaf = not children or is_leaf(module)
        found.append(Observable(name, module, leaf and not in_leaf, in_fast))
        if not children:
            continue
        layer = isinstance(module, nn.TransformerEncoderLayer)
        closed = layer and not (inside_fast and module.training)
        if closed or (leaf and children.keys() != {"parametrizations"}):
            continue
        for child_name, child in reversed(children.items()):
            if child is not None:
                path = f"{name}.{child_name}" if name else child_name
                waiting.append((path, child, in_leaf or leaf, in_fast or layer))
    return found


def switches(module: nn.Module) -> dict[str, bool | str]:
    """Public attributes of `module` and of those inside that are true, false or a text, but for the mode, by path.

    Example:
        >>> layer = nn.Sequential(nn.GELU())
        >>> {name: value for name, value in switches(layer).items() if "approximate" in name}
        {'0.approximate': 'none'}

    """
    return {
        f"{path}.{name}" if path else name: value
        for path, inside in module.named_modules()
        for name, value in vars(inside).items()
        if isinstance(value, bool | str) and name != "training" and not name.startswith("_")
    }


def by_parameter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of `module` under the names of forward's parameters.

    Example:
        >>> list(by_parameter(nn.Linear(2, 1), (torch.ones(2),), {}))
        ['input']

    """
    try:
        forward = getattr(module, "_orig_mod", module).forward
        bound = inspect.signature(forward).bind(*args, **kwargs)
    except (TypeError, ValueError, AttributeError):
        return {**{f"arg{i}": value for i, value in enumerate(args)}, **kwargs}
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        else:
            named[name] = value
    return named


def parameters_of(optimizer: Optimizer, root: nn.Module) -> dict[str, Tensor]:
    """The parameters of `root` that an optimiser holds, by name, in the order of `root`.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> list(parameters_of(torch.optim.SGD([net.bias], lr=0.1), net))
        ['bias']

    """
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return {name: parameter for name, parameter in root.named_parameters() if id(parameter) in held}


def registered(module: nn.Module, name: str) -> nn.Parameter | None:
    """A parameter of a module that is one; None if it is computed, which may change a state, as in spectral norms.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> normed = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2))
        >>> registered(layer, "weight") is layer.weight, registered(normed, "weight")
        (True, None)

    """
    return dict(module.named_parameters(recurse=False)).get(name)
