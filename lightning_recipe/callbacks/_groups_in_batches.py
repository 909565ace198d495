"""What comes by in batches of each example, such as ids of subjects, patients or sessions under such a name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from lightning_recipe.callbacks._groups import ROWS, Ids, is_named, is_strong, is_timed
from lightning_recipe.record.tensors import MAX_DEPTH, children

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray


class Passing:
    """What is found of the examples of the first epoch of training, and of the first validation after training began.

    Args:
        found: In a batch, by name.

    Example:
        >>> passing = Passing(ids_in)
        >>> passing.note("train", {"x": np.zeros((3, 2)), "patient": ["a", "b", "a"]}, 0)
        >>> passing.note("validation", {"x": np.zeros((1, 2)), "patient": ["b"]}, 1)
        >>> {name: (ids.train.tolist(), ids.val.tolist()) for name, ids in passing.shared().items()}
        {'patient': (['a', 'b', 'a'], ['b'])}

    """

    def __init__(self, found: Callable[[Any], dict[str, Any]]) -> None:
        self.found, self.open = found, True  # until a batch has none
        self._parts: dict[str, dict[str, list[Any]]] = {"train": {}, "validation": {}}
        self._validated: int | None = None  # after so many steps

    def note(self, stage: str, batch: Any, step: int) -> None:
        """Keep what a batch holds, where it is: nothing waits for an accelerator."""
        if stage == "validation":
            self._validated = step if self._validated is None else self._validated
        if not self.open or (stage == "validation" and step != self._validated):
            return
        found = self.found(batch)
        self.open = bool(found)
        parts = self._parts[stage]
        for name, values in found.items():
            own = parts.setdefault(name, [])
            if sum(map(len, own)) < ROWS:
                own.append(values)

    def condense(self, most: int) -> None:
        """Keep no more than the first so many, on the host, for other ranks."""
        self._parts = {
            stage: {name: [_together(values)[:most]] for name, values in parts.items() if self.open}
            for stage, parts in self._parts.items()
        }

    def join(self, other: Passing) -> None:
        """Take in what was found on another rank, of what was found on both."""
        self.open &= other.open
        for stage, theirs in other._parts.items():
            own = self._parts[stage]
            self._parts[stage] = {name: values + theirs[name] for name, values in own.items() if name in theirs}

    @property
    def is_complete(self) -> bool:
        """Whether nothing more is needed, once the first epoch is over."""
        return not self.open or self._validated is not None

    def shared(self) -> dict[str, Ids]:
        """What was found of both, by name."""
        train, val = self._parts["train"], self._parts["validation"]
        both = train.keys() & val.keys() if self.open else set()
        return {name: Ids(_together(train[name]), _together(val[name]), None) for name in sorted(both)}


def ids_in(batch: Any) -> dict[str, Any]:
    """The ids in a batch, by name; none if it has times, by which it may be split."""
    found = dict(_entries(batch))
    return {} if any(map(is_timed, found)) else found


def _entries(structure: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Entries that are called as ids are, with one for each example; of what is called as times are the name, too."""
    if is_named(name) and is_strong(name):
        if isinstance(structure, Tensor):
            whole = not (structure.is_floating_point() or structure.is_complex())
            if whole and structure.ndim and structure.numel() == len(structure):
                yield name, structure.detach().flatten().clone()
        elif isinstance(structure, (list, tuple, np.ndarray)) and all(isinstance(one, (str, int)) for one in structure):
            yield name, structure
    elif is_timed(name):
        yield name, ()
    elif depth < MAX_DEPTH:
        for key, value in children(structure):
            yield from _entries(value, key if isinstance(key, str) else "", depth + 1)


def _together(parts: list[Any]) -> NDArray[Any]:
    return np.concatenate([np.asarray(part.cpu() if isinstance(part, Tensor) else part) for part in parts])
