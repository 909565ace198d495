"""A transform that a data set holds, and whose result is in none of its examples."""

from __future__ import annotations

import ast
import copy
import re
import sys
from typing import TYPE_CHECKING, Any, Generic

import torch
from torch.utils.data import Dataset, Subset

from lightning_recipe.callbacks._shared_transform import trees
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.trial.reread import CannotRereadError, read_again
from lightning_recipe.trial.stored import leaves

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

_NAMES = re.compile(r"_?(input_|image_|x_|train_)?(transforms?|augment(ations?|er)?)", re.IGNORECASE)


class Spied:
    """Calls a transform on a copy of what it is given, and hands on what it was given instead of the result.

    Random numbers are drawn as before, and what is changed in place is lost as well.
    """

    def __init__(self, transform: Any) -> None:
        self.transform, self.calls, self.changes = transform, 0, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Count the calls, and those that make a difference."""
        given = copy.deepcopy((args, kwargs))
        result = self.transform(*given[0], **given[1])
        before, after = leaves(args), leaves(result)
        self.calls += 1
        self.changes += bool(before) and bool(after) and not _same(list(before.values())[:1], list(after.values())[:1])
        return args[0] if args else result


def lost(source: Any, indices: Sequence[int], *others: Any) -> Iterator[tuple[Outcome, str]]:
    """The transforms whose result is thrown away, or that nobody calls though they would change an example.

    Args:
        source: The data set of training.
        indices: Examples that are read, twice, from a copy.
        others: What else the program's own code belongs to, which might call a transform.

    """
    own: Any = source
    inside = list(indices)
    while type(own) is Subset:
        yield from _of_subset(own)
        own, inside = own.dataset, [int(own.indices[index]) for index in inside]
    held = getattr(own, "__dict__", {})
    for name in [name for name, value in held.items() if _NAMES.fullmatch(name) and callable(value)]:
        spied, spy = copy.copy(own), Spied(held[name])
        setattr(spied, name, spy)
        try:
            plain, counted = read_again(own, inside, 2), read_again(_Reporting(spied, spy), inside, 2)
        except CannotRereadError:  # or it looks into its transform
            continue
        _, calls, changes = counted[-1][-1]
        same = all(
            _same(list(leaves(a).values()), list(leaves(b).values()))
            for one, other in zip(plain, counted, strict=True)
            for a, (b, _, _) in zip(one, other, strict=True)
        )
        if calls and same and 2 * changes > calls:
            yield _told(name, f"is called, and what it returns is in none of {len(inside)} examples", calls), name
        elif not calls and _is_of_the_program(type(own)) and _changes(held[name], plain[0][0]):
            code = trees(own, *others)
            if code and not any(_is_read(tree, name) for tree in code):
                yield _told(name, "is stored, and nothing calls it", 0), name


def _of_subset(subset: Subset[Any]) -> Iterator[tuple[Outcome, str]]:
    """A transform that was set on a Subset, whose own code calls none."""
    below = {id(value) for value in getattr(subset.dataset, "__dict__", {}).values()}
    for name, value in vars(subset).items():
        if name != "dataset" and _NAMES.fullmatch(name) and callable(value) and id(value) not in below:
            yield (
                Outcome(
                    Status.WARNING,
                    "transform_without_effect",
                    f"`{name}` was set on the Subset of the training data, which does not call it: examples are those "
                    "of its data set, as they are",
                    f"subset.dataset.{name} = {name}, on a data set that validation does not share; or a data set of "
                    "your own around the Subset that calls it",
                    {"calls": 0},
                ),
                name,
            )


class _Reporting:
    """A data set that gives what a spy counted, beside each example."""

    def __init__(self, source: Any, spy: Spied) -> None:
        self.source, self.spy = source, spy

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Any, int, int]:
        return self.source[index], self.spy.calls, self.spy.changes


def _told(name: str, what: str, calls: int) -> Outcome:
    return Outcome(
        Status.WARNING,
        "transform_without_effect",
        f"`{name}` of the training data {what}",
        f"use its result: x = self.{name}(x)",
        {"calls": calls},
    )


def _is_of_the_program(kind: type) -> bool:
    """Whether a class, with all that it inherits, is no package's, whose other files might call a transform."""
    above = [one for one in kind.__mro__ if one not in {object, Generic, Dataset}]
    files = [getattr(sys.modules.get(one.__module__), "__file__", None) or "" for one in above]
    return not any("site-packages" in file or "dist-packages" in file for file in files)


def _is_read(tree: ast.Module, name: str) -> bool:
    """Whether code reads an attribute of this name, or names it in a text."""
    return any(
        (isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Load))
        or (isinstance(node, ast.Constant) and node.value == name)
        for node in ast.walk(tree)
    )


class _Applied:
    """A transform as a data set of one example."""

    def __init__(self, transform: Any, example: Tensor) -> None:
        self.transform, self.example = transform, example

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _: int) -> Any:
        return self.transform(self.example.clone())


def _changes(transform: Any, example: Any) -> bool:
    """Whether it would change the input of an example, on copies."""
    first = next(iter(leaves(example).values()), None)
    if first is None or not first.ndim:
        return False
    try:
        (times,) = read_again(_Applied(transform, first), [0], 4)
    except CannotRereadError:  # or it wants something else
        return False
    return any(found and not _same([first], found[:1]) for found in (list(leaves(one).values()) for one in times))


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.equal(a.double().nan_to_num(), b.double().nan_to_num())
        for a, b in zip(one, other, strict=True)
    )
