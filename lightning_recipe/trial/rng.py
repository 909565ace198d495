"""RNG objects other than the global streams: find, save, restore."""

from __future__ import annotations

import random
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator

GENERATORS = {random.Random, torch.Generator, np.random.Generator, np.random.RandomState}
"""Exactly these types: a ``random.SystemRandom`` has no state."""


def state(generator: Any) -> Any:
    """The state of an RNG object, of one of the types in `GENERATORS`; two states are compared by ``repr``.

    Example:
        >>> generator = random.Random(1)
        >>> before = state(generator)
        >>> _ = generator.random()
        >>> repr(state(generator)) == repr(before)
        False

    """
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, torch.Generator):
        return generator.get_state().tolist()
    return generator.get_state() if isinstance(generator, np.random.RandomState) else generator.bit_generator.state


def restore(generator: Any, before: Any) -> None:
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
        generator.setstate(before)
    elif isinstance(generator, torch.Generator):
        generator.set_state(torch.tensor(before, dtype=torch.uint8))
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(before)
    else:
        generator.bit_generator.state = before


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
    """The RNG objects that are global variables of any imported module, such as ``rng`` at the top of a script."""
    files = [getattr(module, "__dict__", {}) for module in list(sys.modules.values())]
    values = (value for names in files for value in list(names.values()))
    return list({id(value): value for value in values if type(value) in GENERATORS}.values())


@contextmanager
def untouched_generators() -> Iterator[list[Any]]:
    """Restore the states of the `named` RNG objects.

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
    before = [(generator, state(generator)) for generator in named()]
    drawn: list[Any] = []
    try:
        yield drawn
    finally:
        for generator, was in before:
            if repr(state(generator)) != repr(was):
                drawn.append(generator)
                restore(generator, was)
