"""Time budget for optional work: a fixed share of the run so far."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class TimeBudget:
    """Says whether the work may be done again: all of it together takes at most `share` of the run so far.

    The first time is free, since its cost is not known before; later times are taken to cost what the last did.

    Args:
        share: Share of the run's time, 0 to 1; 1 is no limit.

    Example:
        >>> budget = TimeBudget(0.01)
        >>> budget.is_enough()
        True
        >>> with budget.spent():
        ...     time.sleep(0.01)
        >>> budget.is_enough()  # not before 1 s has passed
        False

    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._began = time.monotonic()
        self._spent = 0.0
        self._latest = 0.0

    def is_enough(self) -> bool:
        """Whether the work may be done now."""
        passed = time.monotonic() - self._began
        return self._share == 1 or self._latest == 0 or self._spent + self._latest <= self._share * passed

    @contextmanager
    def spent(self) -> Iterator[None]:
        """Count the time that the body takes, unless it is the first."""
        start, first = time.monotonic(), self._latest == 0
        try:
            yield
        finally:
            self._latest = time.monotonic() - start
            self._spent += 0.0 if first else self._latest
