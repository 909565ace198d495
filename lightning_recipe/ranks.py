"""The processes that train together: what each of them has seen, told to all without a collective."""

from __future__ import annotations

import itertools
import pickle
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from torch import distributed

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

SECONDS = 60.0
"""For which the others are waited for: at a look they are in the same step, and end together."""
PAUSE = 0.002
"""Seconds between two looks whether they have answered; a look takes 0.4 ms."""
CHUNK = 2**22
"""Bytes of a value under one key, at most: the store of a TCP port takes twice as many."""

FITS = itertools.count(1)
"""Numbers of the fits of this process, which are the same on all ranks."""


class Ranks:
    """The ranks of one fit.

    They write to the key-value store by which they found one another, and read what the others wrote. Nothing goes
    through a device, no random state moves, and who does not answer is not waited for twice.

    Args:
        fit: Number of the fit in this process; 0 for who talks to nobody.

    Attributes:
        silent: Whether nobody is asked any more: one has not answered in time, or the fit was interrupted.

    Example:
        >>> Ranks().gather("DataProfile", 50, {"classes": 10})
        [{'classes': 10}]

    """

    def __init__(self, fit: int = 0) -> None:
        self.silent = False
        self._root = f"lightning_recipe/{fit}" if fit else ""
        self._asked: Counter[str] = Counter()
        self._here: set[str] = set()

    def gather(self, name: str, step: int, mine: Any, *, first: bool = False) -> list[Any]:
        """What each rank has under a name at a step, in the order of the ranks; only `mine` where nobody else answers.

        All ranks are to ask for the same; those that have not joined, or have left, are left out.

        Args:
            name: Of what is asked for.
            step: At which all ask.
            mine: What this rank has; tensors on the host.
            first: Whether only rank zero wants to know: the others don't wait, and get what they have.

        """
        group = self._group()
        if group is None:
            return [mine]
        store, rank, count = group
        self._asked[name] += 1
        place = f"{self._root}/{name}/{step}/{self._asked[name]}"
        try:
            if rank or not first:
                _write(store, f"{place}/{rank}", pickle.dumps(mine))
            if rank and first:
                return [mine]
            found = self._wait(store, name, place, {rank: mine}, count)
            if first or store.add(f"{place}/read", 1) == len(found):  # the last to read clears away
                for other in found if not first else [one for one in found if one != rank]:
                    _delete(store, f"{place}/{other}")
                store.delete_key(f"{place}/read")
        except TimeoutError:
            self.leave(*self._here)
            self.silent = True
            return [mine]
        except Exception:  # noqa: BLE001 - the store is gone with its process
            self.silent = True
            return [mine]
        return [found[other] for other in sorted(found)]

    def join(self, *names: str) -> None:
        """Have the others wait for this rank's answers under some names."""
        if group := self._group():
            self._here |= set(names)
            with suppress(Exception):
                for name in names:
                    group[0].set(f"{self._root}/here/{name}/{group[1]}", "")

    def leave(self, *names: str) -> None:
        """Have nobody wait for them any more."""
        if group := self._group():
            with suppress(Exception):
                for name in self._here & set(names):
                    group[0].delete_key(f"{self._root}/here/{name}/{group[1]}")
        self._here -= set(names)

    def close(self, name: str) -> None:
        """Clear away: nobody asks for anything any more; rank zero, whose store it may be, waits until all have left.

        Args:
            name: Of what was asked for last.

        """
        self.leave(*self._here)
        group, deadline = self._group(), time.monotonic() + SECONDS
        if group is not None and group[1] == 0:
            store, _, count = group
            with suppress(Exception):
                for other in range(1, count):
                    while store.check([f"{self._root}/here/{name}/{other}"]) and time.monotonic() < deadline:
                        time.sleep(PAUSE)

    def _wait(self, store: Store, name: str, place: str, found: dict[int, Any], count: int) -> dict[int, Any]:
        deadline = time.monotonic() + SECONDS
        for other in range(count):
            while other not in found:
                here = store.check([f"{self._root}/here/{name}/{other}"])  # asked first: it writes before it leaves
                if store.check([f"{place}/{other}"]):
                    found[other] = pickle.loads(_read(store, f"{place}/{other}"))  # noqa: S301 - of this very run
                elif not here:
                    break
                elif time.monotonic() > deadline:
                    raise TimeoutError
                else:
                    time.sleep(PAUSE)  # not `wait`, during which no other thread could use the store
        return found

    def _group(self) -> tuple[Store, int, int] | None:
        """The store, this rank, and how many there are; None where there is nobody else, or they are out of sight."""
        if not self._root or self.silent:
            return None
        if not (distributed.is_available() and distributed.is_initialized()):
            return None
        try:
            store = distributed.distributed_c10d._get_default_store()  # noqa: SLF001 - there is no public way to it
        except Exception:  # noqa: BLE001
            return None
        count = distributed.get_world_size()
        return None if store is None or count == 1 else (store, distributed.get_rank(), count)


def _write(store: Store, key: str, value: bytes) -> None:
    """In pieces; their number comes last, by which it is there."""
    pieces = [value[begin : begin + CHUNK] for begin in range(0, len(value), CHUNK)]
    for i, piece in enumerate(pieces):
        store.set(f"{key}/{i}", piece)  # type: ignore[arg-type] # bytes will do
    store.set(key, str(len(pieces)))


def _read(store: Store, key: str) -> bytes:
    return b"".join(store.get(f"{key}/{i}") for i in range(int(store.get(key))))


def _delete(store: Store, key: str) -> None:
    for i in range(int(store.get(key))):
        store.delete_key(f"{key}/{i}")
    store.delete_key(key)
