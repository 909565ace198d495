"""Whether random numbers will be the same in another run."""

from __future__ import annotations

import dis
import os
import random
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch

LARGEST = 2**32
"""Seeds that people give are smaller; those that torch draws for itself have 64 bits."""
SEEDING = {"seed", "manual_seed", "manual_seed_all", "seed_everything"}
TELLS_APART = {"initial_seed", "get_worker_info", "worker_info", "getpid", "urandom", "time", "time_ns", "environ"}
"""Names of what differs between workers."""


def is_seeded() -> bool:
    """Whether ``seed_everything`` or ``torch.manual_seed`` was called.

    Example:
        >>> _ = torch.manual_seed(1)
        >>> is_seeded()
        True

    """
    return "PL_GLOBAL_SEED" in os.environ or torch.initial_seed() < LARGEST


def streams() -> dict[str, bytes]:
    """Where the random streams that all draw from stand, by their owners.

    Example:
        >>> before = streams()
        >>> _ = torch.rand(1)
        >>> [name for name, state in streams().items() if state != before[name]]
        ['torch']

    """
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - the stream that all draw from
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": np.asarray(keys).tobytes() + repr((kind, *rest)).encode(),
        "random": repr(random.getstate()).encode(),
    }


def seeds_all_alike(worker_init: Any) -> bool:
    """Whether a ``worker_init_fn`` calls for seeds, and knows nothing that differs between workers: told by its code.

    Example:
        >>> import numpy as np
        >>> seeds_all_alike(lambda worker: np.random.seed(0)), seeds_all_alike(lambda worker: np.random.seed(worker))
        (True, False)

    """
    function = worker_init.__func__ if isinstance(worker_init, MethodType) else worker_init
    if not isinstance(function, FunctionType) or function.__code__.co_argcount != 1 + isinstance(
        worker_init, MethodType
    ):
        return False
    code = function.__code__
    names, argument = set(code.co_names), code.co_varnames[code.co_argcount - 1]
    used = argument in code.co_cellvars or any(
        i.opname.startswith("LOAD_FAST") and argument in str(i.argval) for i in dis.get_instructions(code)
    )
    return bool(names & SEEDING) and not names & TELLS_APART and not used


def tells_workers_apart(source: Any) -> bool:
    """Whether the code of a data set, or of what it holds, knows something that differs between workers.

    Example:
        >>> tells_workers_apart([1, 2]), tells_workers_apart(_OfAWorker())
        (False, True)

    """
    kinds = {type(value) for value in (source, *getattr(source, "__dict__", {}).values())}
    functions = [f for kind in kinds for above in kind.__mro__ for f in vars(above).values()]
    codes = [f.__code__ for f in functions if isinstance(f, FunctionType)]
    return any(not TELLS_APART.isdisjoint(code.co_names) for code in codes)


class _OfAWorker:
    def __getitem__(self, index: int) -> Any:
        return torch.utils.data.get_worker_info()


def apart(one: float, other: float) -> float:
    """How far two losses are apart, over the larger; 0 where both are no numbers.

    Example:
        >>> apart(2.0, 2.0), apart(1.0, 2.0), apart(float("nan"), float("nan"))
        (0.0, 0.5, 0.0)

    """
    largest = max(abs(one), abs(other))
    return abs(one - other) / largest if one != other and 0 < largest < float("inf") else 0.0
