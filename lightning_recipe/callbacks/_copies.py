"""What is there several times, and is one: modules, units of a layer, and parameters in optimisers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lightning_recipe.finding import Outcome, Status, listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.optim import Optimizer

    from lightning_recipe.record.step import Step

EQUAL = 1e-5
"""Difference of two units' weights, as a share of the layer's largest, up to which they are copies: rounding."""
FURTHER = 10.0
"""Times that copies have to change more than they differ: what has begun to part changes about as much."""
HALF = 0.5
"""Share of the units that have a copy from which on it is no chance."""
FEWEST = 4
"""Inputs of a unit from which on two drawn at random can't be equal, also in half precision."""
_KNOWN = (nn.Linear, _ConvNd, nn.RNNBase, nn.MultiheadAttention)
_OTHER = (nn.Embedding, nn.EmbeddingBag)


def same_modules(root: nn.Module, step: Step) -> Iterator[tuple[Outcome, str]]:
    """Modules with parameters that are several entries of one list, and are called several times."""
    calls: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for event in step.events:
        if event.module is not None and event.inputs:
            calls.setdefault(_weights(event.module), []).append(event.inputs)
    for name, entries in _lists(root):
        several: dict[tuple[int, int], list[str]] = {}
        for key, module in entries.items():  # a shallow copy holds the same parts; several may use another one
            several.setdefault((id(module._parameters), id(module._modules)), []).append(key)  # noqa: SLF001
        for keys in several.values():
            module = entries[keys[0]]
            if len(keys) == 1 or not any(p.requires_grad for p in module.parameters()):
                continue
            inner = {_weights(m) for m in module.modules() if next(m.parameters(recurse=False), None) is not None}
            inputs = [calls[own] for own in inner if len(calls.get(own, ())) >= len(keys)]
            if inputs:
                same = any(all(n % len(keys) == 0 for n in Counter(given).values()) for given in inputs)
                yield _one_module(name, keys, same=same)


def _weights(module: nn.Module) -> tuple[int, ...]:
    return tuple(map(id, module.parameters()))


def _lists(root: nn.Module) -> Iterator[tuple[str, dict[str, nn.Module]]]:
    """Lists of modules, registered or plain, and their entries, also those that are there twice."""
    for name, module in root.named_modules():
        if isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Sequential):
            yield name, {key: m for key, m in module._modules.items() if m is not None}  # noqa: SLF001 - repetitions
        for key, value in vars(module).items():
            items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
            entries = {str(k): m for k, m in items if isinstance(m, nn.Module)} if key[:1] != "_" else {}
            if entries:
                yield f"{name}.{key}".removeprefix("."), entries


def _one_module(name: str, keys: list[str], *, same: bool) -> tuple[Outcome, str]:
    return (
        Outcome(
            Status.WARNING if same else Status.ADVICE,
            "one_module_many_times",
            f"the entries {', '.join(keys)} of {name} are one and the same module"
            + (", called with the same input: what they put out is equal" if same else ", with one set of weights"),
            "nn.ModuleList(make_layer() for _ in range(n)): [layer] * n is one layer n times; "
            "if it is to be shared, one attribute that is called n times says so",
            {"entries": len(keys)},
        ),
        name,
    )


class Units:
    """Follows the weights of each layer over looks: units that begin as copies, and change together.

    Args:
        root: The module, before any step. Recurrent units that begin as copies are told even if what comes after them
            makes them differ: they part no further than that one layer tells them apart.

    """

    def __init__(self, root: nn.Module) -> None:
        self._before: dict[tuple[str, int], Tensor] = {}
        self._begin = {name: module for name, module in root.named_modules() if begins_as_copies(module)}

    def look(self, step: Step, weights: dict[str, Tensor]) -> Iterator[tuple[Outcome, str]]:
        """Layers half of whose units are copies of others, and have changed since the look before.

        Zeros everywhere never change: all layers, if they are several, need not.
        """
        copied: dict[str, bool] = {}
        called = {id(event.module) for event in step.events}
        trained = {name.rpartition(".")[0] for name in weights}
        alike = [name for name, module in self._begin.items() if id(module) in called and name in trained]
        for event in step.events:
            for key, weight in event.module.named_parameters() if event.module is not None else ():
                name = f"{event.name}.{key}"
                if weights.pop(name, None) is not weight or _has_companion(event.module, weight):
                    continue
                if dims := _unit_dims(event.module, weight):
                    copied[name] = self._are_copies(name, weight, dims)
        still = {name for name, _ in self._before}
        found = (
            list(copied)
            if len(copied) > 1 and copied.keys() <= still
            else [name for name, changed in copied.items() if changed]
        )
        layers = [name.removesuffix(".weight") for name in found]
        if layers:
            yield (
                Outcome(
                    Status.WARNING,
                    "identical_units",
                    f"units of {listed(layers)} have equal weights, and stay equal in training: as good as one",
                    "draw the weights at random, as torch's layers do; constants are for biases and norm layers",
                    {"layers": len(layers)},
                ),
                ", ".join(layers),
            )
        elif alike:
            yield (
                Outcome(
                    Status.WARNING,
                    "identical_units",
                    f"all units of {listed(alike)} begin with equal weights: only the layer after tells them apart",
                    "draw the weights at random, as torch's layers do: orthogonal between states, Xavier for what "
                    "enters; constants are for biases",
                    {"layers": len(alike)},
                ),
                ", ".join(alike),
            )

    def _are_copies(self, name: str, weight: Tensor, dims: tuple[int, ...]) -> bool:
        """Whether units are copies and have changed; what they are is kept, what they were is forgotten."""
        changed = False
        for dim in dims:
            units, before = weight.detach().movedim(dim, 0).flatten(1).float(), self._before.pop((name, dim), None)
            found = a_copy(units) if len(units) > 1 and units.shape[1] >= FEWEST else None
            if found is not None:
                self._before[name, dim], apart = found
                changed |= before is not None and bool((found[0] - before).abs().max() > FURTHER * apart)
        return changed


def _has_companion(module: nn.Module | None, weight: Tensor) -> bool:
    """Whether a layer has a second weight of the same shape that is drawn, as a mean beside constant deviations."""
    others = [] if module is None else [p for p in module.parameters() if p is not weight and p.shape == weight.shape]
    return any(other.ndim > 1 and a_copy(other.detach().flatten(1).float()) is None for other in others)


def _unit_dims(module: nn.Module | None, weight: Tensor) -> tuple[int, ...]:
    if weight.ndim < 2 or isinstance(module, _OTHER):  # noqa: PLR2004 - a matrix
        return ()
    if isinstance(module, _ConvTransposeNd):
        return (1,)
    return (0,) if isinstance(module, _KNOWN) or weight.ndim > 2 else (0, 1)  # noqa: PLR2004


def begins_as_copies(module: nn.Module) -> bool:
    """Whether all units of a recurrent layer have equal weights and biases, gate by gate, that are not all zero.

    Example:
        >>> lstm = nn.LSTM(2, 8)
        >>> begins_as_copies(lstm)
        False
        >>> for parameter in lstm.parameters():
        ...     _ = nn.init.constant_(parameter, 0.1)
        >>> begins_as_copies(lstm)
        True

    """
    if not isinstance(module, nn.RNNBase | nn.RNNCellBase) or module.hidden_size < FEWEST:
        return False
    own = [p.detach() for name, p in module.named_parameters() if name.startswith(("weight_ih", "weight_hh", "bias_"))]
    gates = [p.view(-1, module.hidden_size, *p.shape[1:]) for p in own]
    return any(bool(p.any()) for p in own if p.ndim > 1) and all(bool((gate == gate[:, :1]).all()) for gate in gates)


def a_copy(units: Tensor) -> tuple[Tensor, Tensor] | None:
    """One of the rows that are there more than once, if half of them are, and how far apart copies are at most.

    Example:
        >>> a_copy(torch.randn(8, 8)) is None, a_copy(torch.ones(8, 8)) is None
        (True, False)

    """
    draws = torch.rand(units.shape[1], generator=torch.Generator().manual_seed(0)).to(units.device)
    ordered = units[(units @ draws).argsort()]  # copies are neighbours
    apart = (ordered[1:] - ordered[:-1]).abs().amax(1)
    equal = apart <= EQUAL * units.abs().max()
    return (ordered[:-1][equal][0].clone(), apart[equal].max()) if float(equal.float().mean()) >= HALF else None


def stepped_twice(optimizers: list[Optimizer], step: Step, names: dict[int, str]) -> Iterator[tuple[Outcome, str]]:
    """Parameters that two steps move along the same gradient, or that one optimiser holds twice."""
    held = [[id(p) for group in o.param_groups for p in group["params"]] for o in optimizers]
    twice = {names.get(one, "a parameter") for own in held for one, count in Counter(own).items() if count > 1}
    holders = Counter(one for own in held for one in set(own))
    shared = {names[one] for one, count in holders.items() if count > 1 and one in names}
    stepped: Counter[str] = Counter()
    both: set[str] = set()
    for event in step.events:
        if event.kind in {"backward", "zero_grad"}:
            stepped.clear()
        elif event.kind == "optimizer step":
            stepped.update(event.parameters)
            both |= {name for name in event.parameters if stepped[name] > 1}
    if twice or both & shared:
        told, how = twice or both & shared, "hold twice" if twice else "step twice for one backward"
        yield _in_two(sorted(told), f"the optimisers {how}: {listed(sorted(told))}", Status.WARNING)
    elif shared:
        yield _in_two(sorted(shared), f"two optimisers step {listed(sorted(shared))}, each for its loss", Status.ADVICE)


def _in_two(names: list[str], message: str, status: Status) -> tuple[Outcome, str]:
    fix = "give each parameter to one optimiser, once"
    return Outcome(status, "in_two_optimisers", message, fix, {"parameters": len(names)}), ", ".join(names)
