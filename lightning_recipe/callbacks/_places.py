"""Tokens that are all embedded at one place, so that their order has no effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.conv import _ConvNd

from lightning_recipe.finding import Outcome, Status, listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from lightning_recipe.record.events import Event
    from lightning_recipe.trial.entries import Entered

EXAMPLES, FEW = 16, 2
"""Examples of a batch, at least, and rows of an embedding, more than which are no mark of a kind."""
PLACES = 4
"""Tokens of an example, at least. Kinds of tokens, which may all be the same, are fewer than tokens."""


def of_places(train: Entered) -> Iterator[tuple[Outcome, str]]:
    """An embedding of places that is given the same place for all tokens, so that their order has no effect.

    One with as many rows may be of something else, such as languages, where the order comes in by another way.

    Args:
        train: What entered, recorded before any update.

    """
    tokens = [entry.values for entry in train.indices if entry.values.ndim == 2 and len(entry.values.unique()) > 1]  # noqa: PLR2004
    lengths = {values.shape[1] for values in tokens if values.shape[1] >= PLACES}
    if _have_order(train):
        return
    for entry in train.indices:
        length = entry.values.shape[-1] if entry.values.ndim else 0
        if length in lengths and len(next(entry.module.parameters())) >= length and len(entry.values.unique()) == 1:
            place = int(entry.values.flatten()[0])
            yield (
                Outcome(
                    Status.WARNING,
                    "all_alike",
                    f"all {length} tokens of each example are at place {place} when places enter {entry.name}: their "
                    "order has no effect",
                    f"torch.arange({length}) as the places",
                    {"places": length},
                ),
                entry.name,
            )


def of_one_id(train: Entered) -> Iterator[tuple[Outcome, str]]:
    """`advice` where no embedding is given more than one id: where codes were looked up, none may have been found.

    Where some ids differ, as of words, others may be all the same, as of a speaker, or of a kind.

    Args:
        train: What entered, recorded before any update.

    """
    tables = [entry for entry in train.indices if isinstance(entry.module, nn.Embedding) and entry.values.ndim]
    if not tables or any(len(entry.values) < EXAMPLES or len(entry.values.unique()) > 1 for entry in tables):
        return
    rows = [len(next(entry.module.parameters())) for entry in tables]
    if min(rows) > FEW:
        ids = sorted({int(entry.values.flatten()[0]) for entry in tables})
        which = listed(entry.name for entry in tables)
        yield (
            Outcome(
                Status.ADVICE,
                "one_id",
                f"all {len(tables[0].values)} examples of the first batch have the same id where {which} look it up: "
                f"{' and '.join(map(str, ids))} of {rows[0]}",
                "see how codes become ids: keys that are texts are not found among numbers, and all become unknown",
                {"embeddings": len(tables)},
            ),
            tables[0].name,
        )


def _have_order(train: Entered) -> bool:
    """Whether layers work along the tokens, or something else is embedded or added that differs at each place."""
    if any(isinstance(event.module, nn.RNNBase | _ConvNd) for event in train.step.events):
        return True
    for entry in train.indices:
        values = entry.values.flatten(0, -2) if entry.values.ndim > 1 else entry.values[None]
        ordered = values.sort(1).values
        if values.shape[1] >= PLACES and bool((ordered[:, 1:] != ordered[:, :-1]).all()) and _is_same(values):
            return True
    made = {number: event for event in train.step.events for number in set(event.outputs) - set(event.inputs)}
    for event in train.step.events:
        known = [made[number] for number in event.inputs if number in made]
        of_tokens = any(isinstance(_unscaled(before, made).module, nn.Embedding) for before in known)
        if event.name in {"add", "iadd", "add_", "radd"} and of_tokens and len(known) < len(event.inputs):
            return True  # a table that is a parameter or a buffer
    return False


def _is_same(values: Tensor) -> bool:
    return bool((values == values[:1]).all())


def _unscaled(event: Event, made: dict[int, Event]) -> Event:
    """What was multiplied, of embeddings that are scaled before places are added."""
    return made.get(event.inputs[0], event) if event.name in {"mul", "imul", "rmul"} and event.inputs else event
