"""RNG objects other than the global streams: find, save, restore."""

from __future__ import annotations

import operator
import os
import pickle
import random
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GENERATORS = {random.Random, torch.Generator, np.random.Generator, np.random.RandomState}
"""Exactly these types: a ``random.SystemRandom`` has no state."""


class _Searched(NamedTuple):
    """A module's global variables; how many there were, and the names of those that may hold an RNG object."""

    names: dict[str, Any]
    size: int
    places: list[str]


_MODULES: list[Any] = []
"""What was imported when it was last searched."""
_SEARCHED: dict[int, _Searched] = {}
"""Global variables of those of them that are installed, by the id of their dictionary."""
_OWN: list[dict[str, Any]] = []
"""Global variables of all others."""
_INSTALLED = (
    *(f"{os.sep}{folder}{os.sep}" for folder in ("site-packages", "dist-packages")),
    *(os.path.dirname(file) + os.sep for file in (os.__file__, os.path.dirname(__file__))),  # noqa: PTH120 - the package
)


def state(generator: Any) -> bytes:
    """The state of an RNG object, of one of the types in `GENERATORS`: equal bytes, equal numbers to come.

    Example:
        >>> generator = random.Random(1)
        >>> before = state(generator)
        >>> _ = generator.random()
        >>> state(generator) == before
        False

    """
    if isinstance(generator, random.Random):
        return pickle.dumps(generator.getstate())
    if isinstance(generator, torch.Generator):
        return generator.get_state().numpy().tobytes()
    is_old = isinstance(generator, np.random.RandomState)
    return pickle.dumps(generator.get_state() if is_old else generator.bit_generator.state)


def restore(generator: Any, before: bytes) -> None:
    """Put an RNG object back into a `state`.

    Example:
        >>> generator = random.Random(1)
        >>> before = state(generator)
        >>> first = generator.random()
        >>> restore(generator, before)
        >>> generator.random() == first
        True

    """
    if isinstance(generator, random.Random):
        generator.setstate(pickle.loads(before))  # noqa: S301 - our own, here and below
    elif isinstance(generator, torch.Generator):
        generator.set_state(torch.frombuffer(bytearray(before), dtype=torch.uint8))
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(pickle.loads(before))  # noqa: S301
    else:
        generator.bit_generator.state = pickle.loads(before)  # noqa: S301


def skip(generator: Any, numbers: int) -> None:
    """Have an RNG object go on by some numbers.

    Example:
        >>> one, other = random.Random(1), random.Random(1)
        >>> skip(one, 2)
        >>> _ = other.random(), other.random()
        >>> one.random() == other.random()
        True

    """
    if isinstance(generator, random.Random):
        for _ in range(numbers):
            generator.random()
    elif isinstance(generator, torch.Generator):
        torch.rand(numbers, generator=generator, device=generator.device)
    else:
        generator.random(numbers)


def seed_torch(seed: int) -> None:
    """Seed the global streams of torch.

    As ``torch.manual_seed``, which would also seed accelerators that are not in use yet, once they are: a trace, and to
    note it takes long.

    Example:
        >>> before = torch.get_rng_state()
        >>> seed_torch(1)
        >>> first = torch.rand(1)
        >>> seed_torch(1)
        >>> torch.equal(torch.rand(1), first)
        True
        >>> torch.set_rng_state(before)

    """
    torch.default_generator.manual_seed(seed)
    for device in (torch.cuda, torch.mps, torch.xpu):
        if getattr(device, "is_initialized", device.is_available)():
            getattr(device, "manual_seed_all", device.manual_seed)(seed)


def held_by(module: nn.Module) -> list[Any]:
    """The RNG objects that are attributes of a module, or of one inside of it.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> net.noise = random.Random(1)
        >>> held_by(net) == [net.noise]
        True

    """
    return [value for part in module.modules() for value in vars(part).values() if type(value) in GENERATORS]


def named() -> list[Any]:
    """The RNG objects that are global variables of any imported module, such as ``rng`` at the top of a script.

    Installed packages are searched once, which takes longer than many a step; from then on only names are looked at
    that held None or an RNG object, and modules that are new or got other names.
    """
    modules = list(sys.modules.values())
    if len(modules) != len(_MODULES) or not all(map(operator.is_, modules, _MODULES)):
        _sort(modules)
    values = [value for names in _OWN for value in list(names.values()) if type(value) in GENERATORS]
    for names, size, places in list(_SEARCHED.values()):
        if len(names) != size:
            values += names.values()
            _SEARCHED[id(names)] = _search(names)
        elif places:
            values += [names.get(place) for place in places]
    return list({id(value): value for value in values if type(value) in GENERATORS}.values())


def _sort(modules: list[Any]) -> None:
    """Tell installed modules from the user's; what was searched already is not searched again."""
    known = dict(_SEARCHED)
    _MODULES[:] = modules
    _OWN.clear()
    _SEARCHED.clear()
    for module in modules:
        names = getattr(module, "__dict__", {})
        if _is_installed(names):
            _SEARCHED[id(names)] = known.get(id(names)) or _search(names)
        else:
            _OWN.append(names)


def _is_installed(names: dict[str, Any]) -> bool:
    """Whether these are the global variables of a package that somebody installed, not of code of the user's."""
    file = names.get("__file__")
    return isinstance(file, str) and any(folder in file for folder in _INSTALLED)


def _search(names: dict[str, Any]) -> _Searched:
    kinds = {type(None), *GENERATORS}
    places = [name for name, value in list(names.items()) if type(value) in kinds and not name.startswith("__")]
    return _Searched(names, len(names), places)


@contextmanager
def untouched_generators(generators: Sequence[Any] | None = None) -> Iterator[list[Any]]:
    """Restore the states of RNG objects, by default of those that are `named`.

    Yields:
        A list; once the body is left, it holds those that were drawn from.

    Example:
        >>> rng = random.Random(1)
        >>> sys.modules["script"] = type(sys)("script")
        >>> sys.modules["script"].rng = rng
        >>> with untouched_generators() as drawn:
        ...     first = rng.random()
        >>> drawn == [rng], rng.random() == first
        (True, True)
        >>> del sys.modules["script"]

    """
    before = [(generator, state(generator)) for generator in (named() if generators is None else generators)]
    drawn: list[Any] = []
    try:
        yield drawn
    finally:
        for generator, was in before:
            if state(generator) != was:
                drawn.append(generator)
                restore(generator, was)
