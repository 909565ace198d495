"""The time that may be spent on showing: a small share of the run's."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Allowance:
    """Says whether there is time for something of the kind that was done before.

    The first time is free: what it costs is known only afterwards. Then what was spent, and would be, must be at most
    `share` of the time that has passed.

    Args:
        share: Share of the run's time, 0 to 1; 1 is no limit.

    Example:
        >>> allowance = Allowance(0.01)
        >>> allowance.is_enough()
        True
        >>> with allowance.spent():
        ...     time.sleep(0.01)
        >>> allowance.is_enough()  # not before 1 s has passed
        False

    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._began = time.monotonic()
        self._spent = 0.0
        self._latest = 0.0

    def is_enough(self) -> bool:
        """Whether what was done last may be done again now."""
        passed = time.monotonic() - self._began
        return self._share == 1 or self._latest == 0 or self._spent + self._latest <= self._share * passed

    @contextmanager
    def spent(self) -> Iterator[None]:
        """Count the time that the body takes."""
        start, first = time.monotonic(), self._latest == 0
        try:
            yield
        finally:
            self._latest = time.monotonic() - start
            self._spent += 0.0 if first else self._latest
