"""What a forward leaves behind, down to what only Python knows: tried on a copy before the real module is looked at."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import replace
from types import GeneratorType, MethodType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_recipe.trial.copies import copied
from lightning_recipe.trial.isolation import isolated
from lightning_recipe.trial.replay import CannotReplayError, Replay
from lightning_recipe.trial.rng import GENERATORS, state, untouched_generators
from lightning_recipe.trial.shared_code import foreign_hooks, shares_code

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_PLAIN = int | float | complex | str | bytes | None
_ITERATORS = (itertools.count, itertools.cycle, itertools.chain, itertools.islice)
_LEFT_OUT = {"_trainer", "_fabric", "_metric_attributes", "_compiler_ctx"}
"""Attributes of a LightningModule that a copy does not get."""


def refuse_side_effects(replay: Replay, trainer: Trainer, pl_module: LightningModule) -> None:
    """Run the calls on a copy of the module, and see that all is as before once `replay` has put back what it can.

    Modules that can't be copied are taken to leave nothing behind.

    Raises:
        CannotReplayError: If a look would leave something behind; says what. Or as :meth:`Replay.run`.

    """
    try:
        with isolated():
            duplicate = copied(pl_module)
        calls = {i: replace(call, module=duplicate.get_submodule(call.name)) for i, call in replay.calls.items()}
    except Exception as error:
        if any(isinstance(value, GeneratorType) for module in pl_module.modules() for value in vars(module).values()):
            msg = "the module holds a Python generator, which a look might use up"
            raise CannotReplayError(msg) from error
        return
    if any(foreign_hooks(call.module) for call in calls.values()):
        msg = "it has a forward hook that works on something else, and would see more calls than there are"
        raise CannotReplayError(msg)
    if shares_code(duplicate):
        return  # the copy would run what belongs to the original
    before = differences(pl_module, duplicate)
    with untouched_generators() as drawn:
        Replay(calls).run(trainer, duplicate)
    changed = sorted(differences(pl_module, duplicate) - before)
    changed += [f"a {type(generator).__name__} of its own" for generator in drawn]
    if changed:
        msg = f"its forward changes {', '.join(changed[:3])}, so that one more would change the training"
        raise CannotReplayError(msg)


def differences(a: Any, b: Any) -> set[str]:
    """Where two things, one a deep copy of the other, differ in value: paths of attributes, keys and indices.

    What it does not know, such as handles, is taken to be equal.

    Example:
        >>> net = nn.Sequential(nn.BatchNorm1d(2))
        >>> net.seen = deque([1])
        >>> import copy
        >>> twin = copy.deepcopy(net)
        >>> twin.seen.append(2)
        >>> _ = twin(torch.randn(4, 2))
        >>> sorted(differences(net, twin))
        ['0.num_batches_tracked', '0.running_mean', '0.running_var', 'seen']

    """
    found: set[str] = set()
    _compare(a, b, "", found, set())
    return found


def _compare(a: Any, b: Any, path: str, found: set[str], known: set[int]) -> None:
    if a is b or id(a) in known:
        return
    ours, theirs = _parts(a, path), _parts(b, path)
    known |= {id(a)} if ours else set()  # numbers may be one object in many places
    if type(a) is not type(b) or ours.keys() != theirs.keys() or not _equal(a, b):
        found.add(path)
    else:
        for part, value in ours.items():
            _compare(value, theirs[part], part, found, known)


def _parts(value: Any, path: str) -> dict[str, Any]:
    """What lies directly in `value`, by path."""
    if isinstance(value, list | tuple | deque):
        return {f"{path}[{i}]": part for i, part in enumerate(value)}
    if isinstance(value, MethodType):
        return {path: value.__self__}
    if isinstance(value, nn.Module):
        parts = {name: part for name, part in vars(value).items() if name not in _LEFT_OUT}
        for registered in ("_parameters", "_buffers", "_modules"):
            parts |= parts.pop(registered)
    elif isinstance(value, dict):
        parts = {str(key): part for key, part in value.items()}
    elif isinstance(value, Tensor | type):
        return {}
    else:
        parts = getattr(value, "__dict__", {})
    return {f"{path}.{name}" if path else name: part for name, part in parts.items()}


def _equal(a: Any, b: Any) -> bool:
    """Of two things of one type that hold no others."""
    if isinstance(a, Tensor):
        if a.layout is not torch.strided or a.is_nested or a.is_quantized or is_lazy(a):
            return True
        return a.shape == b.shape and (torch.equal(a, b) or bool(torch.allclose(a, b, 0, 0, equal_nan=True)))
    if isinstance(a, np.ndarray):
        return bool(a.dtype == object or np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))
    if isinstance(a, _PLAIN | set | frozenset):
        return bool(a == b or a != a)  # noqa: PLR0124 - NaN
    if type(a) in GENERATORS:
        return state(a) == state(b)
    return not isinstance(a, _ITERATORS) or repr(a.__reduce__()) == repr(b.__reduce__())
