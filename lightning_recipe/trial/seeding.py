"""Seeds that a program gives to random numbers while something else is done, noted, and given as others."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


_END = 2**32  # of numpy's seeds


class Seed(NamedTuple):
    """A seed that was given.

    Attributes:
        to: What it was given to, such as ``"np.random.seed"``.
        value: The seed; None where there was none, or one that is no integer.

    Example:
        >>> str(Seed("np.random.seed", 0))
        'np.random.seed(0)'

    """

    to: str
    value: int | None

    @property
    def is_global(self) -> bool:
        """Whether it was given to a stream that all of the program draws from."""
        return self.to in {"random.seed", "np.random.seed", "torch.manual_seed"}

    def __str__(self) -> str:
        return f"{self.to}({self.value})"


@contextmanager
def seeding(
    seeds: list[Seed], moved: int = 0, users: Iterable[Any] = (), missing: random.Random | None = None
) -> Iterator[None]:
    """Note seeds, and give others in their place.

    Args:
        seeds: Where to, in order, as the program wants them.
        moved: Added to each.
        users: Objects whose classes' files may have imported functions by their own name.
        missing: Gives seeds where the program gives none.

    Example:
        >>> seeds = []
        >>> with seeding(seeds, 1):
        ...     number = random.Random(0).random()
        >>> seeds, number == random.Random(1).random()
        ([Seed(to='random.Random', value=0)], True)

    """

    def other(to: str, seed: Any) -> Any:
        known = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
        seeds.append(Seed(to, int(seed) if known else None))
        if seed is None and missing:
            return missing.getrandbits(32)
        return (int(seed) + moved) % _END if known and moved else seed

    names = {kind.__module__ for user in users for kind in [*type(user).__mro__, user] if hasattr(kind, "__module__")}
    files = [file for file in map(sys.modules.get, names) if file is not None]
    with ExitStack() as stack:
        for (owner, name), stand_in in _stand_ins(other).items():
            original = getattr(owner, name)
            own = [(file, known) for file in files for known, v in list(vars(file).items()) if v is original]
            for place, known in {(owner, name), *own}:
                stack.enter_context(mock.patch.object(place, known, stand_in))
        yield


@contextmanager
def without_entropy(users: Iterable[Any] = ()) -> Iterator[None]:
    """Have generators without a seed draw the same each time: what this thread gets of the system's chance is fixed.

    Args:
        users: As of :func:`seeding`.

    Example:
        >>> drawn = []
        >>> for _ in range(2):
        ...     with without_entropy():
        ...         drawn.append((np.random.default_rng().random(), random.SystemRandom().random()))
        >>> drawn[0] == drawn[1]
        True

    """
    fixed, real, here = random.Random(0), os.urandom, threading.get_ident()

    def urandom(size: int) -> bytes:
        return fixed.randbytes(size) if threading.get_ident() == here else real(size)

    with (
        seeding([], users=users, missing=fixed),
        mock.patch.object(os, "urandom", urandom),
        mock.patch.object(random, "_urandom", urandom),  # which secrets and numpy draw from
    ):
        yield


@contextmanager
def at_another_time(seconds: float = 1e5) -> Iterator[None]:
    """Have this thread read the clock so many seconds later, by ``time.time`` and ``time.time_ns``.

    Example:
        >>> before = time.time()
        >>> with at_another_time(1e6):
        ...     time.time() - before > 1e5
        True

    """
    real, here = time.time, threading.get_ident()

    def later() -> float:
        return real() + (seconds if threading.get_ident() == here else 0.0)

    def later_ns() -> int:
        return int(later() * 1e9)

    with (
        mock.patch.object(time, "time", later),
        mock.patch.object(time, "time_ns", later_ns),
    ):
        yield


def users_of(source: Any) -> list[Any]:
    """A data set, those inside of it, and what they hold: objects whose files may draw random numbers.

    Example:
        >>> data = torch.utils.data.Subset([1, 2], [0])
        >>> users_of(data)[:2] == [data, [1, 2]]
        True

    """
    sets = [source]
    while hasattr(sets[-1], "dataset"):
        sets.append(sets[-1].dataset)
    return sets + [value for one in sets for value in getattr(one, "__dict__", {}).values()]


def _stand_ins(other: Callable[[str, Any], Any]) -> dict[tuple[Any, str], Any]:
    """What takes the place of functions and classes that take seeds."""
    seed, np_seed, manual_seed, default_rng = random.seed, np.random.seed, torch.manual_seed, np.random.default_rng

    class Random(random.Random):
        def seed(self, a: Any = None, version: int = 2) -> None:
            super().seed(other("random.Random", a), version)

    class RandomState(np.random.RandomState):
        def __init__(self, seed: Any = None) -> None:
            super().__init__(other("np.random.RandomState", seed))

    class Generator(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            return super().manual_seed(other("torch.Generator().manual_seed", seed))

    return {
        (random, "seed"): lambda a=None, version=2: seed(other("random.seed", a), version),
        (random, "Random"): Random,
        (np.random, "seed"): lambda seed=None: np_seed(other("np.random.seed", seed)),
        (np.random, "RandomState"): RandomState,
        (np.random, "default_rng"): lambda seed=None: default_rng(other("np.random.default_rng", seed)),
        (torch, "manual_seed"): lambda seed: manual_seed(other("torch.manual_seed", seed)),
        (torch, "Generator"): Generator,
    }
