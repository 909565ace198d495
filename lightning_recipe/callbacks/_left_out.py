"""Leaves of the graph that get a gradient, while no optimiser holds them."""

from __future__ import annotations

import weakref
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lightning_recipe.callbacks._untrained import is_as_drawn
from lightning_recipe.finding import Outcome, Status, listed, owners
from lightning_recipe.trial.calming import NORMS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from lightning_recipe.callbacks._untrained import Marks
    from lightning_recipe.record.graph import Node
    from lightning_recipe.record.step import Step

FEW = 0.1
"""Share of what gets a gradient up to which parameters without optimiser were forgotten rather than frozen: heads,
tokens, positions and weights of losses are less in the usual architectures, frozen backbones are more."""
ALIKE = 0.5
"""Cosine of a new weight with one of the module's from which on it is a copy of it, as meta-learning makes."""
_DEEPEST, _LONGEST = 4, 1000
_REGISTRIES = {"_parameters", "_buffers", "_modules"}
_FOREIGN = {"lightning", "pytorch_lightning", "torch", "torchmetrics", "numpy", "builtins", "functools", "collections"}
_TURNED = {"T", "Transpose", "ToCopy"}


def without_optimiser(  # noqa: PLR0913, PLR0917 - what is known of parameters
    root: nn.Module,
    step: Step,
    registered: dict[int, str],
    held: set[int],
    marks: Marks,
    frozen: Collection[str] = (),
) -> Iterator[tuple[Outcome, str]]:
    """Those that are not registered, as in plain lists, and those that are.

    Args:
        root: The LightningModule.
        step: A training step.
        registered: Its parameters, names by id.
        held: The ids of those that an optimiser holds.
        marks: Knows which stay as they are.
        frozen: Names of those that needed no gradient when training began: who unfreezes them wants them to learn.

    """
    left = {id(p): p for p in step.leaves if id(p) not in held and _has_gradient(p) and _is_weight(p, step.graph)}
    modules = dict(root.named_modules())
    known = {name: left[key] for key, name in registered.items() if key in left}
    lists = hidden(root, left.keys() - registered.keys())
    lists = {name: found for name, found in lists.items() if found[1]}
    if lists and marks.stay({name: p for name, (p, _) in lists.items()}):
        yield (
            Outcome(
                Status.WARNING,
                "not_in_optimiser",
                f"{_said(lists)} get a gradient, and belong to no module and no optimiser",
                "nn.ModuleList, nn.ModuleDict or nn.ParameterList in place of the plain container, nn.Parameter in "
                "place of a tensor, nn.Module in place of a plain class",
                {"parameters": sum(p.numel() for p, _ in lists.values())},
            ),
            ", ".join(owners(lists)),
        )
    if not known or not marks.stay(known):
        return
    if thawed := {name: p for name, p in known.items() if name in frozen}:
        yield (
            Outcome(
                Status.WARNING,
                "not_in_optimiser",
                f"{_said(thawed)} were frozen when training began, get a gradient now, and are in no optimiser: they "
                "stay as they are",
                "optimizer.add_param_group when they are unfrozen, as BaseFinetuning does, or give all parameters to "
                "the optimiser in the beginning: it passes over those without a gradient",
                {"parameters": sum(p.numel() for p in thawed.values())},
            ),
            ", ".join(owners(thawed)),
        )
        return
    size = sum(p.numel() for p in known.values())
    total = sum(leaf.numel() for leaf in step.leaves if id(leaf) in registered)
    replaced = held - registered.keys() - {id(leaf) for leaf in step.leaves}  # parameters that are no more
    owning = {name: modules.get(name.rpartition(".")[0], root) for name in known}
    forgotten = (size < FEW * total or replaced) and all(
        owning[name].training and is_called_after(step, p, held) and is_as_drawn(p) for name, p in known.items()
    )
    neutral = all(isinstance(module, NORMS) for module in owning.values())  # 1 and 0: a norm without any
    yield (
        Outcome(
            Status.WARNING if forgotten and not neutral else Status.ADVICE,
            "not_in_optimiser",
            f"{_said(known)} get a gradient, and no optimiser holds them: {size} numbers that stay as they are",
            "give them to the optimiser in configure_optimizers, after the last module was replaced; "
            "if they are to stay, requires_grad_(False) saves their gradients",
            {"parameters": size, "share": size / total},
        ),
        ", ".join(owners(known)),
    )


def _said(parameters: Collection[str]) -> str:
    few = owners(parameters)
    return listed(few) if len(few) == len(parameters) else f"{len(parameters)} parameters of {listed(few)}"


def _has_gradient(leaf: Tensor) -> bool:
    return leaf.is_leaf and leaf.grad is not None and bool(leaf.grad.detach().abs().sum() > 0)


def _is_weight(leaf: Tensor, graph: Sequence[Node]) -> bool:
    """Whether a leaf is a parameter, or a tensor that joins what the network computes rather than enters it.

    Points at which a network is to be differentiated enter it: the first that they meet are the weights of a layer.
    """
    if isinstance(leaf, nn.Parameter):
        return True
    above: dict[int, list[int]] = {}
    for place, node in enumerate(graph):
        for below in node.below:
            above.setdefault(below, []).append(place)
    waiting = [place for place, node in enumerate(graph) if node.leaf is leaf]
    seen = set(waiting)
    while waiting:
        place = waiting.pop()
        for upper in above.get(place, ()):
            others = [below for below in graph[upper].below if below not in seen]
            if any(_ends_in_a_parameter(graph, below) for below in others):
                return False
            if not others and upper not in seen:
                seen.add(upper)
                waiting.append(upper)
    return True


def _ends_in_a_parameter(graph: Sequence[Node], place: int) -> bool:
    while graph[place].kind in _TURNED and len(graph[place].below) == 1:
        place = graph[place].below[0]
    leaf = graph[place].leaf
    return isinstance(leaf, nn.Parameter) and leaf.ndim > 1


def hidden(root: nn.Module, wanted: set[int]) -> dict[str, tuple[Tensor, bool]]:
    """Parameters that lie in attributes of modules without being registered, as in plain lists and objects.

    Args:
        root: The LightningModule.
        wanted: The ids of the tensors that are looked for.

    Returns:
        For each path the parameter, and whether the module that it belongs to is in train mode.

    Example:
        >>> root = nn.Module()
        >>> root.blocks = [nn.Linear(1, 1)]
        >>> list(hidden(root, {id(root.blocks[0].weight)}))
        ['blocks.0.weight']

    """
    found: dict[str, tuple[Tensor, bool]] = {}
    if wanted:
        for name, module in root.named_modules():
            for key, value in vars(module).items():
                if key not in _REGISTRIES:
                    path = f"{name}.{key}".removeprefix(".")
                    for inner, parameter, training in _within(value, path, module.training, _DEEPEST):
                        if id(parameter) in wanted:
                            found.setdefault(inner, (parameter, training))
    return found


def _within(value: Any, path: str, training: bool, depth: int) -> Iterator[tuple[str, Tensor, bool]]:  # noqa: FBT001
    if isinstance(value, Tensor):
        yield path, value, training
    elif isinstance(value, nn.Module):
        for name, module in value.named_modules(prefix=path):
            for key, parameter in module.named_parameters(recurse=False):
                yield f"{name}.{key}", parameter, module.training
    elif depth and len(items := _items(value)) <= _LONGEST:
        for key, item in items.items():
            yield from _within(item, f"{path}.{key}", training, depth - 1)


def _items(value: Any) -> dict[Any, Any]:
    """What lies in a container, or in an object of a class that nobody publishes, such as a loss that is no module."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    plain = not isinstance(value, type | FunctionType | MethodType | ModuleType) and hasattr(value, "__dict__")
    return vars(value) if plain and type(value).__module__.partition(".")[0] not in _FOREIGN else {}


def is_called_after(step: Step, parameter: Tensor, others: set[int]) -> bool:
    """Whether a parameter is used at a place that comes after one of `others`: what is frozen, as a rule, comes before.

    True of those that no module calls with: those of the loss, or ones that are added.
    """
    for event in step.events:
        own = {id(p) for p in event.module.parameters()} if event.module is not None else set()
        if id(parameter) in own:
            return False
        if own & others:
            break
    return True


class MadeAnew:
    """Follows modules that the LightningModule does not list, or did not when the step began, over looks."""

    def __init__(self) -> None:
        self._before: list[weakref.ref[nn.Module]] | None = None

    def look(self, root: nn.Module, step: Step, held: set[int]) -> Iterator[tuple[Outcome, str]]:
        """Modules that get a gradient, are in no optimiser, and were not there at the look before.

        Not copies of the module's own, as meta-learning makes, and nothing if an optimiser that Lightning does not know
        takes a step, as one that is made with them.
        """
        known = [module for reference in self._before or () if (module := reference()) is not None]
        first, self._before = self._before is None, [weakref.ref(module) for module, _ in step.unlisted]
        leaves = {id(leaf) for leaf in step.leaves}
        foreign = any(event.kind == "optimizer step" and not event.parameters for event in step.events)
        new: dict[str, int] = {}
        for module, where in step.unlisted:
            own = list(module.parameters())
            if first or foreign or any(module is other for other in known) or held & {id(p) for p in own}:
                continue
            if leaves.issuperset(map(id, own)) and not any(_is_copy(p, root) for p in own):
                new[f"{type(module).__name__} ({where})"] = sum(p.numel() for p in own)
        if new:
            yield (
                Outcome(
                    Status.WARNING,
                    "made_anew",
                    f"{listed(new)} made anew in each step: the weights are drawn again, and no optimiser has them",
                    "make modules in __init__, once, and call them in forward",
                    {"parameters": sum(new.values())},
                ),
                ", ".join(new),
            )


def _is_copy(parameter: Tensor, root: nn.Module) -> bool:
    if parameter.ndim < 2:  # noqa: PLR2004 - a vector may be constant
        return False
    own = parameter.detach().flatten()
    same = [p.detach().flatten() for p in root.parameters() if p.shape == parameter.shape and p is not parameter]
    return any(float(nn.functional.cosine_similarity(own, other, dim=0)) > ALIKE for other in same)
