"""What to tell about a batch whose examples mix, or do not: the decisions of BatchMixingDetector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_recipe.dependencies.causes import likely_cause
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from lightning_recipe.dependencies.judgement import Clean, Mixing
    from lightning_recipe.dependencies.places import Placed

SHOWN = 4
"""Calls named in a message."""


def leaks(found: Mixing, *, adversaries: bool = False) -> Outcome:
    """Examples reach the outputs of others.

    Args:
        found: How.
        adversaries: Whether networks work against each other: discriminators look at how much a batch varies.

    Raises:
        UndecidedError: If it may be meant.

    """
    cause = likely_cause(found)
    heuristic = Status.ADVICE if adversaries and not cause.certain else Status.WARNING
    return Outcome(
        Status.FAILED if cause.certain and found.batch.examples else heuristic,
        "mixes",
        f"outputs leak across the batch, first {found.event.where}: the inputs of {found.receivers} of "
        f"{found.batch.size} examples reach the outputs of others (expected: 0); likely {cause.what}",
        cause.fix,
        {"leak": found.strength, "receivers": found.receivers, "examples": found.batch.size},
    )


def placed(found: Placed) -> Outcome:
    """The answers for an example depend on its place."""
    return Outcome(
        Status.FAILED,
        "depends_on_place",
        f"{found.batch.size} copies of one example have {found.answers} different outputs (expected: 1), by their "
        f"place in the batch, first {found.event.where}; likely positions added along the batch, not the sequence",
        "index positions by the dimension of the sequence, with batch_first=True x.size(1); or transpose first",
        {"answers": found.answers, "examples": found.batch.size},
    )


def dead(name: str) -> Outcome:
    """The output of a module is the same for any input."""
    return Outcome(
        Status.WARNING,
        "constant_output",
        f"the output of {name} is the same for any input, to the bit, also with other weights: 0 gradient reaches its "
        "input",
        "look for a detach, an input overwritten or multiplied by zero, or a result that is not used",
        {"leak": 0},
    )


def clean(judged: str, note: str = "", place: float | None = None) -> Outcome:
    """No examples mix.

    Args:
        judged: What was judged.
        note: What was not, and why.
        place: How far outputs were from following the order of the examples, if that was tried.

    Example:
        >>> clean("net (8 examples, dimension 0)", place=0.0).message
        'no output depends on another example, nor on its place in the batch: net (8 examples, dimension 0)'

    """
    also = "" if place is None else ", nor on its place in the batch"
    evidence = {"leak": 0.0} | ({} if place is None else {"out_of_place": place})
    return Outcome(Status.PASSED, "", f"no output depends on another example{also}: {judged}{note}", "", evidence)


def described(found: Clean) -> str:
    """What was judged, in words."""
    layers = "layer, which mixes" if found.norms == 1 else "layers, which mix"
    norms = f"; {found.norms} BatchNorm {layers} by design, ran on running statistics" if found.norms else ""
    shapes = " and ".join(map(str, found.left_out[:2])) + (", ..." if len(found.left_out) > 2 else "")  # noqa: PLR2004
    rest = f"; what has no row for each of them was not varied: {shapes}" if found.left_out else ""
    rows = f" of {found.rows_each} rows each" if found.rows_each > 1 else ""
    dims = ("dimension " if len(found.dims) == 1 else "dimensions ") + " and ".join(map(str, found.dims))
    outputs = f", outputs of {few(list(found.outputs))}" if found.outputs else ""
    return f"{found.batch.size} examples{rows}, {dims}{outputs}{norms}{rest}"


def few(texts: list[str]) -> str:
    """The first `SHOWN`, and how many there are more.

    Example:
        >>> few(["a", "b", "c", "d", "e"])
        'a, b, c, d, and 1 more'

    """
    more = f", and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more
