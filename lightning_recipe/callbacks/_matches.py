"""Examples of training and of validation that are the same, or nearly: which they are, and how they look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from lightning_recipe.figures.examples import pairs_card
from lightning_recipe.finding import Outcome
from lightning_recipe.trial.reread import CannotRereadError, read_again
from lightning_recipe.trial.stored import Part, columns, leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from lightning_recipe.figures.picture import Picture

SHOWN = 3
"""Pairs that are kept: as many fit on a card."""


@dataclass(frozen=True)
class Place:
    """Where an example stands.

    Attributes:
        source: The data set itself, behind any ``Subset``.
        index: There.

    """

    source: Any
    index: int


class Match(NamedTuple):
    """An example of validation, and that of training which it is, or is like."""

    train: Place
    val: Place


@dataclass(frozen=True)
class OfMatches(Outcome):
    """An outcome, and some of the pairs that it is about."""

    matches: tuple[Match, ...] = ()


def some(found: Sequence[Any] | NDArray[Any]) -> list[Any]:
    """A few, evenly spaced.

    Example:
        >>> some(range(9)), some("ab")
        ([0, 3, 6], ['a', 'b'])

    """
    return [found[i] for i in sorted({i * len(found) // SHOWN for i in range(SHOWN)})] if len(found) else []


def place(parts: list[Part], position: int) -> Place:
    """Where the example stands that comes at a position among all that the parts have.

    Example:
        >>> place([Part("abc", [2, 0]), Part("xyz", range(3))], 3)
        Place(source='xyz', index=1)

    """
    for part in parts:
        if position < len(part.indices):
            return Place(part.source, int(part.indices[position]))
        position -= len(part.indices)
    raise IndexError(position)


def card(matches: Sequence[Match], decode: Callable[..., Any] | None) -> Picture | None:
    """The pairs: as they are stored, which is what was compared, or else as the data sets give them.

    Args:
        matches: As many as are to be seen.
        decode: Makes text of a list of token ids.

    Returns:
        None if the examples hold nothing of one shape, or can't be read without trace.

    Example:
        >>> digits = [torch.rand(1, 8, 8) for _ in range(4)]
        >>> card([Match(Place(digits, 0), Place(digits, 3))], None).words
        ['train', 'val', '#0, #3']

    """
    places = [one for match in matches for one in match]
    kept = {id(one.source): columns(one.source) for one in places}
    stored = [{name: values[one.index] for name, values in kept[id(one.source)].items()} for one in places]
    rows: Tensor | list[str] | None = _largest([_arrays(row) for row in stored])
    rows = _read(places) if rows is None else rows
    rows = _texts(stored) if rows is None else rows
    indices = [(match.train.index, match.val.index) for match in matches]
    return None if rows is None else pairs_card("validation that is in training", rows, indices, decode)


def _arrays(row: dict[str, Any]) -> dict[str, Tensor]:
    arrays = {name: value for name, value in row.items() if isinstance(value, np.ndarray)}
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items() if array.dtype.kind in "biuf"}


def _texts(rows: list[dict[str, Any]]) -> list[str] | None:
    """The longest texts, of all examples."""
    names = [name for name in rows[0] if all(isinstance(row.get(name), str) for row in rows)]
    name = max(names, key=lambda name: len(rows[0][name]), default=None)
    return None if name is None else [row[name] for row in rows]


def _read(places: list[Place]) -> Tensor | None:
    """The largest that all examples hold; each data set is copied once."""
    found: dict[tuple[int, int], dict[str, Tensor]] = {}
    try:
        for source in {id(one.source): one.source for one in places}.values():
            indices = sorted({one.index for one in places if one.source is source})
            examples = [leaves(one) for (one,) in read_again(source, indices)]
            found |= {(id(source), index): of for index, of in zip(indices, examples, strict=True)}
    except CannotRereadError:
        return None
    return _largest([found[id(one.source), one.index] for one in places])


def _largest(examples: list[dict[str, Tensor]]) -> Tensor | None:
    """What has most numbers, of all examples."""
    first = examples[0]
    alike = [
        name
        for name, leaf in first.items()
        if leaf.numel() > 1 and all(name in of and of[name].shape == leaf.shape for of in examples)
    ]
    name = max(alike, key=lambda name: first[name].numel(), default=None)
    return None if name is None else torch.stack([of[name].to(first[name]) for of in examples])
