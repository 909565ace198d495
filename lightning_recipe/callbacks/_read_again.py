"""What reading the same examples of a data set again and again tells of their augmentation."""

from __future__ import annotations

import random
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from lightning_recipe.callbacks import _augmentation as draws_of
from lightning_recipe.callbacks import _flips as flips
from lightning_recipe.callbacks import _moved as moved
from lightning_recipe.callbacks import _sides as sides
from lightning_recipe.callbacks import _swapped as swapped
from lightning_recipe.callbacks._collated import Collated, is_augmented
from lightning_recipe.callbacks._constant_seed import seeded_alike
from lightning_recipe.callbacks._coordinates import change_along, left_behind, moved_otherwise
from lightning_recipe.callbacks._handed import exchanged
from lightning_recipe.callbacks._lost_transform import lost
from lightning_recipe.callbacks._turned_apart import turned_apart
from lightning_recipe.callbacks._turned_points import left_as_they_are
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.trial.reread import CannotRereadError, read_again, rewritten
from lightning_recipe.trial.stored import leaves, parts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from lightning_recipe.run import Run

TIMES = 6
"""Draws of each example: one that is mirrored half of the time is both ways with a chance of 97 %."""
PROBED = 150
"""Validation examples that tell whether a number has a place."""
MORE = 16
"""Training examples that tell whether a label stays while inputs change places: four may all have the same."""


class Reading(NamedTuple):
    """A few examples of training and of validation, each drawn several times.

    Attributes:
        train: The data set of training.
        val: That of validation, if there is one.
        chosen: Indices of the training examples.
        draws: Of these.
        held_out: Of validation; none where they can't be read.

    """

    train: Any
    val: Any
    chosen: Sequence[int]
    draws: draws_of.Draws
    held_out: draws_of.Draws

    @classmethod
    def of(cls, run: Run, examples: int) -> Reading:
        """Read so many examples of each.

        Raises:
            CannotRereadError: If those of training can't be read again without trace.

        """
        train, val = (
            next((getattr(loader, "dataset", None) for loader in loaders), None)
            for loaders in (run.loaders, run.val_loaders)
        )
        chosen, draws = _draws(train, examples)
        try:
            held_out = _draws(val, examples)[1]
        except CannotRereadError:
            held_out = []
        return cls(train, val, chosen, draws, held_out)

    @property
    def random(self) -> list[str]:
        """Paths of what is not the same each time that a training example is read."""
        return draws_of.differing(self.draws)

    @property
    def calm(self) -> Any:
        """The data set of validation, if its examples are the same each time that they are read."""
        return self.val if self.held_out and not draws_of.differing(self.held_out) else None

    def outcomes(self, run: Run) -> list[tuple[Outcome, str]]:
        """What there is to tell, and of what."""
        found = [(outcome, "") for outcome in self._of_places()]
        if self.held_out and (outcome := draws_of.of_validation(self.held_out, shared=_same_transform(run))):
            found.append((outcome, ""))
        others = (run.module, getattr(run.trainer, "datamodule", None))
        with suppress(CannotRereadError):  # what was read once may raise when it is read in another way
            found += _rewritten(run, self.train, self.chosen)
            found += [(outcome, "") for outcome in seeded_alike(self.train, self.chosen)]
            found += lost(self.train, self.chosen, *others)
            elsewhere = [] if found or self.random else _draws(self.train, len(self.chosen), 1, _other_streams())[1]
            if elsewhere and (outcome := draws_of.drawn_once(self.draws, elsewhere)):
                found.append((outcome, ""))
        return found or [(outcome, "") for outcome in self._of_collate(run)]

    def _of_collate(self, run: Run) -> Iterator[Outcome]:
        """What a ``collate_fn`` does to examples that are read without chance."""
        train, val = (Collated.of(next(iter(loaders), None)) for loaders in (run.loaders, run.val_loaders))
        with suppress(CannotRereadError):
            held_out = _draws(val or self.val, len(self.chosen))[1] if self.val is not None else []
            if train is not None and not self.random:
                reading = Reading(train, val or self.val, *_draws(train, len(self.chosen)), held_out)
                yield from reading._of_places() if reading.random else ()
            if val is not None and held_out and self.calm is not None and is_augmented(held_out):
                shared = train is not None and train.calls_the_same(val)
                if outcome := draws_of.of_validation(held_out, shared=shared, what="collate_fn"):
                    yield outcome

    def _of_places(self) -> Iterator[Outcome]:
        """Targets with a place, and images that are mirrored or moved."""
        draws, calm = self.draws, self.calm
        if image := draws_of.turned(draws):
            yield from draws_of.left_behind(draws, image, partial(_turns_sign, calm, image))
            if calm is not None:
                yield from exchanged(draws, image, partial(_told_apart, calm, image.name))
        yield from _of_sides(draws, calm)
        if calm is not None:
            yield from _of_order(draws, self.train, calm)
        yield from moved.left_where_they_are(draws)
        yield from moved.moved_otherwise(draws)
        yield from turned_apart(draws)
        yield from left_behind(draws, partial(_follows, calm))
        yield from moved_otherwise(draws, _follows_by(calm))
        if calm is not None:
            yield from left_as_they_are(draws, partial(_held_out, calm))


def _draws(
    source: Any, examples: int, times: int = TIMES, within: AbstractContextManager[None] | None = None
) -> tuple[list[int], draws_of.Draws]:
    """Indices of so many examples, and what is drawn of them."""
    if source is None:
        msg = "there is no data set of the map style"
        raise CannotRereadError(msg)
    chosen = _evenly(len(source) if hasattr(source, "__len__") else 0, examples)
    read = [[leaves(one) for one in each] for each in read_again(source, chosen, times, within)]
    if not read or not read[0][0]:
        msg = "examples hold no numbers before they are put into a batch"
        raise CannotRereadError(msg)
    return chosen, read


def _rewritten(run: Run, source: Any, chosen: Sequence[int]) -> Iterator[tuple[Outcome, str]]:
    loader = run.loaders[0]
    ends = getattr(loader, "num_workers", 0) and not getattr(loader, "persistent_workers", False)
    for path in rewritten(source, chosen):
        said = (
            f"reading an example changes what {type(source).__name__}.{path} keeps of it, each time anew: the next "
            "epoch sees another data set"
        )
        fix = "change a copy: x = x.clone() or x.copy() before +=, mul_() and the like; an index gives a view"
        yield Outcome(Status.ADVICE if ends else Status.WARNING, "written_into", said, fix), path


def _follows(source: Any, name: str, target: str, by: moved.Shift) -> bool:
    """Whether moving images would change a target, as validation shows."""
    known = None if source is None else _told_apart(source, name, target)
    return known is not None and any(change_along(known[0], column, by) for column in known[1].T)


def _follows_by(source: Any) -> Callable[[str, str, int], tuple[float, float]]:
    """How numbers of a target change when images are moved down, and to the right, as validation shows."""

    @lru_cache
    def changes(name: str, target: str) -> list[tuple[float, float]]:
        known = None if source is None else _told_apart(source, name, target)
        ways = moved.Shift(1, 0), moved.Shift(0, 1)
        return [] if known is None else [tuple(change_along(known[0], c, by) for by in ways) for c in known[1].T]  # type: ignore[misc]

    return lambda name, target, place: (changes(name, target) or [(0.0, 0.0)] * (place + 1))[place]


@contextmanager
def _other_streams() -> Iterator[None]:
    """Go on from elsewhere in the borrowed streams."""
    torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002 - it is these that data sets draw from
    yield


def _turns_sign(source: Any, image: draws_of.Turned, name: str) -> float:
    """How well what changes its sign in the mirror predicts a target, on validation examples as they are."""
    known = None if source is None else _told_apart(source, image.name, name)
    return 0.0 if known is None else max(flips.turns_sign(known[0], column, image.how) for column in known[1].T)


def _of_sides(draws: draws_of.Draws, source: Any) -> Iterator[Outcome]:
    """Left and right of targets that are mirrored with their image."""
    if image := draws_of.turned(draws, sides.SIDEWAYS):

        def examples(name: str) -> tuple[Tensor, Tensor] | None:
            return None if source is None else _told_apart(source, image.name, name)

        yield from sides.not_exchanged(draws, image, examples)


def _of_order(draws: draws_of.Draws, train: Any, val: Any) -> Iterator[Outcome]:
    """Inputs that change places, and labels that should know: of more examples, as four may have one label."""
    if swapped.swapped(draws):
        with suppress(CannotRereadError):
            more = [[leaves(one) for one in times] for times in read_again(train, _evenly(len(train), MORE), TIMES)]
            if swap := swapped.swapped(more):
                yield from swapped.left_as_it_was(more, swap, partial(swapped.predicts, _held_out(val), swap))


def _held_out(source: Any) -> list[dict[str, Tensor]]:
    """Validation examples as they are; none where they can't be read."""
    try:
        return [leaves(one) for (one,) in read_again(source, _evenly(len(source), PROBED))]
    except CannotRereadError:
        return []


def _evenly(size: int, count: int) -> list[int]:
    """Indices of so many examples at most."""
    return sorted({i * size // count for i in range(count)})


def _told_apart(source: Any, name: str, target: str) -> tuple[Tensor, Tensor] | None:
    """Images of validation, of shape (N, C, H, W), and a target of each, of shape (N, D); None if they are too few."""
    examples = _held_out(source)
    both = [(flips.as_image(one[name]), one[target].flatten()) for one in examples if name in one and target in one]
    images, targets = [x for x, _ in both if x is not None], [y for _, y in both]
    if len(images) < flips.ENOUGH or len(images) < len(targets):
        return None
    if any(x.shape != images[0].shape for x in images) or any(y.shape != targets[0].shape for y in targets):
        return None
    return torch.stack(images), torch.stack(targets)


def _same_transform(run: Run) -> bool:
    """Whether the data sets of training and validation have a transform in common."""
    train, val = (
        [
            getattr(part.source, name, None)
            for loader in loaders
            for part in parts_of(loader) or []
            for name in ("transform", "transforms")
        ]
        for loaders in (run.loaders, run.val_loaders)
    )
    return any(a is b and a is not None for a in train for b in val)
