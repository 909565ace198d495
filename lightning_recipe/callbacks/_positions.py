"""Positions that are embedded, and have no effect: the order of the places makes no difference."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from torch import Tensor, nn

from lightning_recipe.callbacks._interchanged import NEEDS
from lightning_recipe.callbacks._padding import padding
from lightning_recipe.callbacks._reordered import FEWEST, SAME, change, reordered, reordering, sequences
from lightning_recipe.callbacks._rotary import idle_angles
from lightning_recipe.dependencies.sequences import kept_by
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.added import Added, Shared
from lightning_recipe.record.multiplied import Multiplied
from lightning_recipe.record.tensors import leading_size
from lightning_recipe.trial.rehearsal import CannotRehearseError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lightning_recipe.record.step import Step
    from lightning_recipe.trial.rehearsal import Rehearsal

Kind = Literal["examples", "places", "padding", "added", "one row", "rows of examples"]


class Table(NamedTuple):
    """An embedding that is given ids that count the examples, places or padding; or what is added to all at a place.

    Attributes:
        name: Of the module, or the line.
        kind: Which.
        rows: It has.
        places: That it is asked for.
        row: The one that is added at all places alike.

    """

    name: str
    kind: Kind
    rows: int
    places: int
    row: int = 0


def idle(again: Rehearsal, batch: Any) -> tuple[Outcome, str] | None:
    """A `warning` for a table of positions without effect, with its name.

    Ids that count the places of a sequence, or the examples, are those of positions; and what is added to the vectors
    at a place, the same in all examples, is a table of them, learnt or computed. A row of a table that is added at all
    places alike is meant for one of them if its number is the length of a sequence or of the batch: an index where a
    slice was due. Examples in which the places are put into another order must lead to the same outputs and the same
    loss: queries that are counted, too, are not meant to tell an order. That all places are given one id is seen by
    NormalizationCheck. For positions that turn vectors see ``_rotary.py``.

    Args:
        again: The copy, in eval mode.
        batch: As the step receives it.

    """
    try:
        before, found, multiplied = _tables(again, batch, method := "training_step")
    except CannotRehearseError:
        before, found, multiplied = _tables(again, batch, method := "validation_step")
    size = leading_size(batch)
    for table in found:
        if table.kind == "padding":
            return _told(table), table.name
        lengths = {t.shape[1] for t in sequences(batch, size)} & {table.places, table.places - 1}
        if table.kind == "examples":
            lengths = {t.shape[1] for t in sequences(batch, size)}
        if len(lengths) == 1 and _is_free(again, batch, before, method, lengths.pop()):
            return _told(table), table.name
    return idle_angles(again, batch, before, method, multiplied)


def _tables(again: Rehearsal, batch: Any, method: str) -> tuple[Step, list[Table], Multiplied]:
    given: dict[str, list[Tensor]] = {}
    with ExitStack() as stack:
        for name, module in again.module.named_modules():
            if isinstance(module, nn.Embedding):

                def note(_: nn.Module, args: Any, __: Any, name: str = name) -> None:
                    given.setdefault(name, []).extend(t.detach() for t in args[:1] if isinstance(t, Tensor))

                stack.callback(module.register_forward_hook(note).remove)
        added = stack.enter_context(Added(leading_size(batch) or 0, FEWEST, lambda: _kept(again.module)))
        multiplied = stack.enter_context(Multiplied())
        step = again.step(batch, needs=NEEDS, method=method)
    size, found = leading_size(batch) or 0, []
    pads = list(padding(batch, again.module))
    for name, ids in given.items():
        rows = again.module.get_submodule(name).num_embeddings
        if ids and all(i.ndim for i in ids):
            kinds = {_kind(i, size, int(rows)) for i in ids}  # type: ignore[arg-type]
            if len(kinds) == 1 and (kind := kinds.pop()) is not None:
                found.append(Table(name, kind, int(rows), ids[0].shape[-1]))  # type: ignore[arg-type]
            elif all(any(_counts_padding(i, pad) for pad in pads) for i in ids):
                found.append(Table(name, "padding", int(rows), ids[0].shape[-1]))  # type: ignore[arg-type]
    found += [Table(where, "added", places, places) for where, places in added.places.items()]
    return step, found + list(_alike(added.shared, size)), multiplied


def _kept(module: nn.Module) -> list[Tensor]:
    return [*kept_by(module).values(), *module.parameters()]


def _alike(shared: Mapping[str, Sequence[Shared]], size: int) -> Iterator[Table]:
    """Tables of which the same is added at all places, and was meant for some of them.

    Args:
        shared: What was added so, by line.
        size: Of the batch.

    Example:
        >>> language, place = Shared(1, 3, False, 64, 20), Shared(2, 20, False, 64, 20)
        >>> [table.name for table in _alike({"a.py:1": [language], "a.py:2": [place]}, 8)]
        ['a.py:2']

    """
    every = [one for several in shared.values() for one in several]
    for where, several in shared.items():
        one = several[0]
        if len({(other.row, other.each) for other in every if other.table == one.table}) > 1:
            continue  # such as one for each layer, or each round
        if one.each and one.row == 0:
            yield Table(where, "rows of examples", one.rows, one.places)
        elif not one.each and one.row in {one.places, one.places - 1, size}:
            yield Table(where, "one row", one.rows, one.places, one.row)


def _kind(ids: Tensor, size: int, rows: int) -> Kind | None:
    """What a table is asked for.

    Example:
        >>> import torch
        >>> _kind(torch.zeros(8, 4, dtype=torch.long), 8, 16), _kind(torch.arange(4).expand(8, 4), 8, 16)
        (None, 'places')
        >>> _kind(torch.arange(8), 8, 16), _kind(torch.tensor([3, 1, 2, 0]), 8, 16)
        ('examples', None)

    """
    if ids.numel() == size >= FEWEST and bool((ids.flatten().diff() == 1).all()):
        return "examples"
    counts = FEWEST <= ids.shape[-1] <= rows and bool((ids.diff() == 1).all())
    return "places" if counts else None


def _counts_padding(ids: Tensor, pad: Tensor) -> bool:
    """Whether ids count on through the padding, and are the same at all other places.

    Example:
        >>> import torch
        >>> pad = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 1, 1]]).bool()
        >>> _counts_padding(pad.cumsum(1) + 1, pad), _counts_padding(pad.long(), pad)
        (True, False)
        >>> _counts_padding((~pad).cumsum(1) * ~pad, pad)
        False

    """
    if ids.shape != pad.shape:
        return False
    pad = pad.to(ids.device)
    both = pad[:, 1:] & pad[:, :-1]
    return bool(both.any()) and bool((ids.diff()[both] == 1).all()) and len(ids[~pad].unique()) == 1


def _is_free(again: Rehearsal, batch: Any, before: Step, method: str, places: int) -> bool:
    """Whether outputs and loss are as before if the places are in another order, in all that has them."""
    if (other := reordered(batch, places)) is None:
        return False
    try:
        after = again.step(other, needs=NEEDS, method=method)
    except CannotRehearseError:
        return False
    return change(before, after, reordering(places)) <= SAME


def _told(table: Table) -> Outcome:
    code, evidence = "positions_without_effect", {"places": float(table.places), "rows": float(table.rows)}
    if table.kind == "one row":
        return Outcome(
            Status.WARNING,
            code,
            f"positions have no effect: in {table.name} row {table.row} of a table of {table.rows} is added at all "
            f"{table.places} places (expected: a row for each), and their order makes no difference to what is put out",
            "take as many rows as there are places, [: length], not the one at [length]",
            evidence,
        )
    if table.kind == "rows of examples":
        return Outcome(
            Status.WARNING,
            code,
            f"positions have no effect: in {table.name} the rows of a table of {table.rows} count the examples of a "
            f"batch, not their {table.places} places, and the order of the places makes no difference to what is put "
            "out",
            "take [: x.shape[1]], with examples in the first dimension of x, or give x with places in the first",
            evidence,
        )
    if table.kind == "added":
        return Outcome(
            Status.WARNING,
            code,
            f"positions have no effect: in {table.name} something is added at each of {table.places} places, and the "
            "order of the places makes no difference to what is put out",
            "see that its rows differ from one another: the sine of 2 pi times a whole number is always 0",
            evidence,
        )
    if table.kind == "padding":
        return Outcome(
            Status.WARNING,
            code,
            f"the positions of {table.name} have no effect: its ids count the places of the padding, and are the same "
            "at all others (expected: the other way round)",
            "invert the mask of which ids are made: (tokens != pad).cumsum(1)",
            evidence,
        )
    counted = "the places of a sequence" if table.kind == "places" else "the examples of a batch, not the places"
    return Outcome(
        Status.WARNING,
        code,
        f"the positions of {table.name} have no effect: its rows are looked up by ids that count {counted}, and the "
        "order of the places makes no difference to what is put out",
        "torch.arange(length) for ids; see that what is looked up is added to the tokens, along the places",
        evidence,
    )
