"""Which parameters a gradient reaches, which it does not, and which modules are one, read off a step."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.events import Event
    from lightning_recipe.record.step import Step

CUTS = {"detach", "detach_", "data", "argmax", "argmin", "argsort", "round", "floor", "ceil", "sign", "tensor", "long"}
CUTS |= {"int", "gt", "lt", "ge", "le", "eq", "bool", "multinomial", "bernoulli"}
"""Functions that no gradient comes back from."""
STANDS_OUT = 1.2
"""Largest singular value of a weight, in those of random numbers, from which on it has learnt something. That of an
(m, n) matrix of random numbers tends to std * (sqrt(m) + sqrt(n)), Y. Q. Yin, Z. D. Bai and P. R. Krishnaiah, On the
limit of the largest eigenvalue of the large dimensional sample covariance matrix (1988)."""
_DEEPEST = 4
_REGISTRIES = {"_parameters", "_buffers", "_modules"}


def hidden(root: nn.Module, wanted: set[int]) -> dict[str, tuple[Tensor, bool]]:
    """Parameters that lie in attributes of modules without being registered, as in plain lists.

    Args:
        root: The LightningModule.
        wanted: The ids of the parameters that are looked for.

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
                if key not in _REGISTRIES and isinstance(value, nn.Module | list | tuple | dict):
                    path = f"{name}.{key}".removeprefix(".")
                    for inner, parameter, training in _within(value, path, module.training, _DEEPEST):
                        if id(parameter) in wanted:
                            found.setdefault(inner, (parameter, training))
    return found


def _within(value: Any, path: str, training: bool, depth: int) -> Iterator[tuple[str, Tensor, bool]]:  # noqa: FBT001
    if isinstance(value, nn.Parameter):
        yield path, value, training
    elif isinstance(value, nn.Module):
        for name, module in value.named_modules(prefix=path):
            for key, parameter in module.named_parameters(recurse=False):
                yield f"{name}.{key}", parameter, module.training
    elif isinstance(value, list | tuple | dict) and depth:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _within(item, f"{path}.{key}", training, depth - 1)


def is_as_drawn(parameter: Tensor) -> bool:
    """Whether a parameter may be as it was initialised: constant, or random numbers of which no direction stands out.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> drawn, learnt = torch.randn(64, 32), torch.randn(64, 1) @ torch.randn(1, 32)
        >>> is_as_drawn(drawn), is_as_drawn(torch.ones(4)), is_as_drawn(drawn + 0.5 * learnt)
        (True, True, False)

    """
    values = parameter.detach()
    if (
        values.ndim <= 1
        or not values.numel()
        or not values.is_floating_point()
        or bool((values == values.flatten()[0]).all())
    ):
        return True
    matrix = values.flatten(1).float()
    rows, columns = matrix.shape
    direction = torch.randn(columns, generator=torch.Generator().manual_seed(0)).to(matrix.device)
    for _ in range(10):
        direction = torch.nn.functional.normalize(matrix.T @ (matrix @ direction), dim=0)
    largest, std = float((matrix @ direction).norm()), float(matrix.square().mean().sqrt())
    return largest <= STANDS_OUT * std * (math.sqrt(rows) + math.sqrt(columns))


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


def cut_off(step: Step, waiting: set[int]) -> tuple[list[Event], str]:
    """Calls of modules that a module which gets a gradient builds on, while all of their own parameters get none.

    Args:
        step: What was recorded.
        waiting: The ids of the parameters that an optimiser stepped without a gradient.

    Returns:
        The first call of each such module, and the function that cuts the graph behind them, with its line.

    """
    reached = {id(leaf) for leaf in step.leaves}
    calls: dict[int, Event] = {}
    after: dict[int, list[Event]] = {}
    for event in step.events:
        for number in event.inputs:
            after.setdefault(number, []).append(event)
        own = [id(p) for p in event.module.parameters() if p.requires_grad] if event.module is not None else []
        if own and waiting.issuperset(own) and reached.isdisjoint(own):
            calls.setdefault(id(event.module), event)
    found, where = [], ""
    for call in calls.values():
        seen, queue, cut = set(call.outputs), list(call.outputs), ""
        while queue:
            for event in after.get(queue.pop(), ()):
                if event.module is not None and reached & {id(p) for p in event.module.parameters()}:
                    found.append(call)
                    where = where or cut
                    queue = []
                    break
                if event.name in CUTS:
                    cut = cut or f"{event.name} ({event.where})"
                queue += [number for number in event.outputs if number not in seen]
                seen.update(event.outputs)
    return found, where


def copies(root: nn.Module, step: Step) -> list[tuple[str, list[str], bool]]:
    """Modules with parameters that are several entries of one list, and are called several times.

    Returns:
        For each the list's name, the keys of its entries, and whether all of them are given the same inputs, so that
        they put out the same.

    """
    found = []
    calls: dict[int, list[tuple[int, ...]]] = {}
    for event in step.events:
        if event.module is not None and event.inputs:
            calls.setdefault(id(event.module), []).append(event.inputs)
    for name, container in root.named_modules():
        if not isinstance(container, nn.ModuleList | nn.ModuleDict | nn.Sequential):
            continue
        entries: dict[int, list[str]] = {}
        for key, module in container._modules.items():  # noqa: SLF001 - what is public leaves out repetitions
            entries.setdefault(id(module), []).append(key)
        for keys in entries.values():
            module = container._modules[keys[0]]  # noqa: SLF001
            if len(keys) == 1 or module is None or not any(p.requires_grad for p in module.parameters()):
                continue
            inner = [m for m in module.modules() if next(m.parameters(recurse=False), None) is not None]
            inputs = [calls[id(m)] for m in inner if len(calls.get(id(m), ())) >= len(keys)]
            if inputs:
                same = any(all(n % len(keys) == 0 for n in Counter(given).values()) for given in inputs)
                found.append((name, keys, same))
    return found
