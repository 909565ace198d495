"""Examples whose random part comes from a generator that no seed reaches."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from torch.utils.data import Subset, TensorDataset

from lightning_recipe.callbacks._moved import same
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.trial.reread import drawn_from, generators_of, read_again
from lightning_recipe.trial.seeding import users_of, without_entropy
from lightning_recipe.trial.stored import leaves

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

CHANCE = 2**64
"""Numbers from here on are no seeds that people write: the system gives numpy 128 bits where none is given."""
READ = 8
"""Examples: those that are mirrored half of the time come out alike in two readings with a chance of 0.4 %."""


def unseeded(source: Any, *, seeded: bool) -> Outcome | None:
    """Whether examples differ when they are read again from the same state of all random streams.

    And whether they no longer do once a generator without a seed is given one: what else may differ is a clock, a
    counter, or a cache that all copies share.

    Args:
        source: A data set of the map style.
        seeded: Whether the user has set a seed for the whole run.

    Raises:
        CannotRereadError: If it can't be read again without trace.

    Example:
        >>> unseeded([1.0, 2.0], seeded=True)

    """
    inner = source
    while isinstance(inner, Subset):
        inner = inner.dataset
    if type(inner) is TensorDataset:  # it draws nothing, and takes long to copy
        return None
    size = len(source) if hasattr(source, "__len__") else 0
    indices = sorted({i * size // READ for i in range(READ)}) if size else []
    changed = _differing(source, indices)
    if not changed or _differing(source, indices, fixed=True) or not _differing(source, indices):
        return None
    name = next((f" `{path}`" for path in changed if path and not path.isdigit()), "")
    return Outcome(
        Status.WARNING if seeded else Status.ADVICE,
        "unseeded",
        f"what the data set draws for training examples{name} comes from a generator without a seed: read again with "
        "all random streams in the same state, they differ" + (", in spite of seed_everything" if seeded else ""),
        "draw from torch, random or np.random, which a seed reaches and torch seeds in each worker; or make the "
        "generator of a number that torch draws: np.random.default_rng(torch.randint(2**31, ()).item())",
        {"examples": len(indices)},
    )


def by_chance(generator: Any) -> bool:
    """Whether a generator of numpy was made without a seed; of others nobody can tell.

    Example:
        >>> import numpy as np
        >>> by_chance(np.random.default_rng()), by_chance(np.random.RandomState()), by_chance(np.random.default_rng(1))
        (True, True, False)

    """
    bits = getattr(generator, "bit_generator", None) or getattr(generator, "_bit_generator", None)
    entropy = getattr(getattr(bits, "seed_seq", None), "entropy", None)
    return isinstance(entropy, int) and entropy >= CHANCE


def kept_without_seed(source: Any) -> Outcome | None:
    """Whether a data set draws from a generator that it keeps, and that was made without a seed.

    Raises:
        CannotRereadError: If it can't be read again without trace.

    Example:
        >>> kept_without_seed([1.0, 2.0])

    """
    paths = [path for path, generator in generators_of(source).items() if by_chance(generator)]
    drawn = [path for path in drawn_from(source, 0) if path in paths] if paths else []
    return made_by_chance(f"reading an example draws from {type(source).__name__}.{drawn[0]}") if drawn else None


def made_by_chance(who: str) -> Outcome:
    """What to say of a generator without a seed, which somebody draws from."""
    return Outcome(
        Status.ADVICE,
        "own_generator",
        f"{who}, a generator of numpy that was made without a seed: seed_everything does not reach it, and another run "
        "draws other numbers",
        "make it of a number that torch draws: np.random.default_rng(torch.randint(2**31, ()).item())",
    )


def _differing(source: Any, indices: Sequence[int], *, fixed: bool = False) -> list[str]:
    """Paths of what two copies give otherwise, each read in the same random streams."""
    one, other = (_read(source, indices, without_entropy(users_of(source)) if fixed else nullcontext()) for _ in "ab")
    pairs = list(zip(one, other, strict=True))
    if any(a.keys() != b.keys() for a, b in pairs):
        return [""]
    return sorted({path for a, b in pairs for path in a if not same(a[path], b[path])})


def _read(source: Any, indices: Sequence[int], within: AbstractContextManager[Any]) -> list[dict[str, Tensor]]:
    return [leaves(example) for (example,) in read_again(source, indices, within=within)]
