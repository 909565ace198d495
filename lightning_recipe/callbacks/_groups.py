"""Subjects, patients or sessions whose examples were dealt out to training and validation, by ids that can be seen."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from lightning.fabric.utilities.data import sized_len
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.outputs import without_parameters
from lightning_recipe.record.tensors import dense
from lightning_recipe.trial.stored import Part, columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from lightning_recipe.record.step import Step

_STRONG = "subject|patient|participant|session|speaker|person|recording|pid|sid"
_WEAK = "user|record|group"
"""What time, a sensitive attribute or a recommender may be behind: these have to be many, in one data set."""
_ID = re.compile(
    rf"_*(train_|val_|all_)?({_STRONG}|{_WEAK})s?(_?(ids?|idx|index|indices|keys?|codes?|names?|no|nr|numbers?))?"
)
_TIME = re.compile("time|date|day|hour|year", re.IGNORECASE)
MANY = {True: 5, False: 20}
"""Ids, from which on a split by id would have been possible; of weak names."""
ROWS = 2**20
"""Examples of which ids are compared at most: a second."""
EACH = 3
"""Training examples of an id, on average."""
SHARED = 0.5
"""Validation examples whose id is in training, from which on nobody split by id: a split by time shares some."""
MIXED = 0.85
"""How often neighbours of an id change sides, over what chance would make it, from which on it is no split by time."""
SLACK = 2.6
"""Standard deviations of what chance makes of the ids' shares: 1 %. Shares that are more alike were stratified by id,
those that are less were made by day or session."""


class Ids(NamedTuple):
    """The id of each example that a loader draws, by column.

    Attributes:
        train: Of training, shape (N,).
        val: Of validation, shape (M,).
        order: Place of each in the one data set that both are of, training first, shape (N + M,); None of two.

    """

    train: NDArray[Any]
    val: NDArray[Any]
    order: NDArray[Any] | None


class Known(NamedTuple):
    """What the network knows.

    Attributes:
        entered: Values of each tensor with an integer for each example that is given to it.
        spare: Those of the batch, where no loss is known that tells what they are for.
        sizes: Rows of its embeddings, and how many outputs it has.

    """

    entered: list[set[int]]
    spare: list[set[int]]
    sizes: set[int]

    @classmethod
    def of(cls, module: nn.Module, step: Step) -> Known:
        """From the first step."""
        inputs = [call.arguments.get("input") for call in step.loss_calls]
        sizes = {said.shape[-1] for said in inputs if isinstance(said, Tensor) and said.ndim > 1}
        sizes |= {t.shape[-1] for call in step.net_calls for t in without_parameters(call.output) if t.ndim > 1}
        own = (p for one in module.modules() for p in one.parameters(recurse=False) if not _is_layer(one))
        answered = any(isinstance(call.arguments.get("target"), Tensor) for call in step.loss_calls)
        spare = [] if answered else [tensor for _, tensor in dense(step.batch)]
        return cls(_integers(step.inputs.values()), _integers(spare), sizes | {len(p) for p in own if p.ndim})

    def uses(self, ids: set[Any]) -> bool:
        """Whether examples are told apart by these ids: they enter the network, or are what it is to say."""
        if any(size - len(ids) in {0, 1, 2} for size in self.sizes):
            return True
        plain = all(isinstance(one, int) for one in ids)
        return any(not plain or values <= ids for values in (*self.entered, *self.spare))


def _integers(found: Iterable[Tensor]) -> list[set[int]]:
    """The values of each tensor that has an integer for each example."""
    whole = (t for t in found if t.ndim and t.numel() == len(t) and not t.is_floating_point() and not t.is_complex())
    return [set(tensor.flatten().tolist()) for tensor in whole]


def _is_layer(module: nn.Module) -> bool:
    """Whether it is a layer of PyTorch that has no row for each of something."""
    return type(module).__module__.startswith("torch.nn") and not isinstance(module, (nn.Embedding, nn.EmbeddingBag))


def shared(train: list[Part], val: list[Part]) -> dict[str, Ids]:
    """The columns of ids that training and validation both have, where no other one separates them.

    Example:
        >>> data = [{"x": 0.5, "subject": i // 10} for i in range(100)]
        >>> found = shared([Part(data, range(0, 100, 2))], [Part(data, range(1, 100, 2))])
        >>> list(found), found["subject"].val[:6].tolist()
        (['subject'], [0, 0, 0, 0, 0, 1])

    """
    if sum(len(part.indices) for part in (*train, *val)) > ROWS:
        return {}
    one, other = _gathered(train), _gathered(val)
    places = None
    if len({id(part.source) for part in (*train, *val)}) == 1:
        places = np.concatenate([np.asarray(part.indices) for part in (*train, *val)])
    found = {name: Ids(one[name], other[name], places) for name in one if name in other}
    if any(not np.isin(ids.val, ids.train).any() for ids in found.values()):
        return {}
    if places is None:
        timed = any(is_timed(name) for part in (*train, *val) for name in names_in(part.source))
        return one_of_each({name: ids for name, ids in found.items() if not timed and is_strong(name)})
    return one_of_each(found)


def one_of_each(found: dict[str, Ids]) -> dict[str, Ids]:
    """Of columns that put the same examples together one, of a strong name if there is one: there is one thing to tell.

    Example:
        >>> one, other = np.array([3, 3, 5]), np.array(["a", "a", "b"])
        >>> list(one_of_each({"user": Ids(one, one, None), "subjects": Ids(other, other, None)}))
        ['subjects']

    """
    kept: dict[bytes, str] = {}
    for name in sorted(found, key=lambda name: not is_strong(name)):
        _, first, which = np.unique(np.concatenate(found[name][:2]), return_index=True, return_inverse=True)
        kept.setdefault(first[which.ravel()].tobytes(), name)  # by its first example
    return {name: ids for name, ids in found.items() if name in kept.values()}


def _gathered(parts: list[Part]) -> dict[str, NDArray[Any]]:
    """The ids of all examples, of columns that all parts have."""
    each = [{name: values[np.asarray(part.indices)] for name, values in _columns(part.source)} for part in parts]
    return {name: np.concatenate([one[name] for one in each]) for name in each[0] if all(name in one for one in each)}


def names_in(source: Any) -> set[str]:
    """What a data set calls what it stores of its examples."""
    rows = [value[0] for value in columns(source).values() if isinstance(value, list) and isinstance(value[0], dict)]
    tables = [value.columns for value in getattr(source, "__dict__", {}).values() if hasattr(value, "columns")]
    return {str(name) for names in (columns(source), *rows, *tables) for name in names}


def _columns(source: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    """Columns of ids: attributes, keys of a list of dicts, columns of a table, those of a data set inside."""
    size = sized_len(source)
    found: dict[str, Any] = {}
    for value in getattr(source, "__dict__", {}).values():
        if hasattr(value, "columns") and hasattr(value, "iloc") and sized_len(value) == size:
            found |= {str(column): value[column].to_numpy() for column in value.columns if is_named(column)}
        elif isinstance(value, Subset) and len(value) == size:
            found |= {name: values[np.asarray(value.indices)] for name, values in _columns(value.dataset)}
        elif isinstance(value, Dataset) and sized_len(value) == size:
            found |= dict(_columns(value))
    for name, values in columns(source).items():
        found[name.rpartition(".")[2]] = values
        if isinstance(values, list) and isinstance(values[0], dict):
            found |= {str(key): [one.get(key) for one in values] for key in values[0] if is_named(key)}
    for name, values in found.items():
        if is_named(name) and len(values) == size and _is_plain(values[0]):
            array = np.asarray(list(values))
            if array.ndim == 1 and array.dtype.kind in "iuUS":
                yield name, array


def has_ids(parts: list[Part]) -> bool:
    """Whether ids are stored of the examples."""
    return any(True for part in parts for _ in _columns(part.source))


def is_timed(name: str) -> bool:
    """Whether it is called as times are."""
    return _TIME.search(name) is not None


def is_named(name: Any) -> bool:
    """Whether it is called as ids are."""
    return isinstance(name, str) and _ID.fullmatch(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()) is not None


def is_strong(name: str) -> bool:
    """Whether nothing else is called so."""
    return re.search(_STRONG, name, re.IGNORECASE) is not None


def _is_plain(value: Any) -> bool:
    return isinstance(value, (int, str, np.integer)) and not isinstance(value, bool)


def verdict(ids: Ids, name: str, known: Known) -> Outcome | None:
    """What to say of ids that are on both sides: nothing unless examples were dealt out by chance.

    Args:
        ids: Of all examples.
        name: Of their column.
        known: What the network knows.

    Example:
        >>> subject = np.arange(400) // 20
        >>> order = np.random.default_rng(0).permutation(400)
        >>> verdict(Ids(subject[order[:300]], subject[order[300:]], order), "subject", Known([], [], set())).evidence
        {'share': 1.0, 'ids': 20, 'common': 20}

    """
    values, both = np.unique(np.concatenate([ids.train, ids.val]), return_inverse=True)
    kinds, common = np.unique(ids.train), np.intersect1d(ids.train, ids.val)
    share = float(np.isin(ids.val, kinds).mean())
    few = len(kinds) < MANY[is_strong(name)] or len(ids.train) < EACH * len(kinds)
    if few or share < SHARED or known.uses(set(values.tolist())) or not _by_chance(ids, both.ravel()):
        return None
    return Outcome(
        Status.WARNING,
        "ids_in_both",
        f"{share:.0%} of the validation examples have a `{name}` that training sees, too: {len(common)} of "
        f"{len(values)} are in both, as if nobody had looked at it",
        f"split by `{name}`, as sklearn's GroupShuffleSplit does; else the score is that of known ones only",
        {"share": share, "ids": len(values), "common": len(common)},
    )


def _by_chance(ids: Ids, both: NDArray[np.int64]) -> bool:
    """Whether examples were dealt out by chance: shares differ as chance has it, and neighbours change sides."""
    held_out = np.arange(len(both)) >= len(ids.train)
    count, val = np.bincount(both), np.bincount(both, held_out)
    rate = held_out.mean()
    spread = ((val - count * rate) ** 2 / (count * rate * (1 - rate))).sum()
    free = len(count) - 1
    cube = (spread / free) ** (1 / 3)  # E. Wilson, M. Hilferty, The Distribution of Chi-Square (1931): normal
    if abs(cube - (1 - 2 / (9 * free))) > SLACK * (2 / (9 * free)) ** 0.5:
        return False
    if ids.order is None:
        return True
    order = np.lexsort((ids.order, both))
    changes = ((held_out[order][1:] != held_out[order][:-1]) & (both[order][1:] == both[order][:-1])).sum()
    return bool(changes >= MIXED * (2 * val * (count - val) / count).sum())
