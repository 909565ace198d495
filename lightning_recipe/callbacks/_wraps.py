"""Integers of 8 or 16 bits that wrap around before they become floating-point numbers: 3 - 5 is 254 in uint8."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.wrapped import Wrapping

SHARE = 0.01
"""Of the numbers, from which on it is told: a few may be accepted, as a sum that hardly ever is above 255."""


def wraps(wrapping: Wrapping) -> Iterator[tuple[Outcome, str]]:
    """Lines at which numbers wrap around that the network, or its loss, is given.

    Args:
        wrapping: That stood by a step.

    """
    for where, found in wrapping.found.items():
        if found.share > SHARE:
            yield (
                Outcome(
                    Status.WARNING,
                    "integers_wrap",
                    f"{found.share:.0%} of the numbers that {where} computes in {found.kind} wrap around, since that "
                    "type has no room for them, and the network is given what is left",
                    "convert to floating point before any arithmetic: x.float()",
                    {"share": found.share},
                ),
                where,
            )
