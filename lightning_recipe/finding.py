"""What a check says: a value that never prints, writes or raises."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

NAMED = 4
"""Modules or parameters named in a message."""


class Status(StrEnum):
    """The verdicts, the most urgent first; a check always reports one.

    Attributes:
        FAILED: Hard evidence of a mistake.
        WARNING: A heuristic says that something is off.
        ADVICE: Nothing is wrong; something could be better.
        PASSED: Looked at, and as it should be.
        SKIPPED: Could not be judged; the message says why.

    """

    FAILED = "failed"
    WARNING = "warning"
    ADVICE = "advice"
    PASSED = "passed"
    SKIPPED = "skipped"


class Section(StrEnum):
    """The sections of "A Recipe for Training Neural Networks" (A. Karpathy, 2019)."""

    DATA = "1. Become one with the data"
    SKELETON = "2. Set up the skeleton and get dumb baselines"
    OVERFIT = "3. Overfit"
    REGULARISE = "4. Regularise"
    TUNE = "5. Tune"
    JUICE = "6. Squeeze out the juice"
    MISTAKES = "Common mistakes"


@dataclass(frozen=True)
class Finding:
    """One verdict with its evidence, and what to do about it.

    Attributes:
        check: Name of the callback that found it.
        status: The verdict.
        message: What was found, with the number measured and the number expected in it.
        evidence: The same numbers under short names.
        why: Why a user should care: the recipe's sentence behind the check.
        fix: What to change. Empty when there is nothing to change.
        section: Where in the recipe the check belongs.
        step: Batches that had been trained on when it was found last (the x axis of Lightning's loggers).
        code: The kind of finding: the check and a name, such as ``"InitLossCheck/too_high"``.
        subject: The module, tensor or call that it is about; empty if it is the whole run.
        times: At how many looks it was found.
        explains: Codes of other findings, with wildcards, that this one is the cause of.

    Example:
        >>> finding = Finding("InitLossCheck", Status.PASSED, "starts at 2.31", {"measured": 2.31})
        >>> finding.status == "passed"
        True
        >>> Finding("A", Status.WARNING, "dead", code="A/dead", subject="decoder.2").key
        'A/dead@decoder.2'
        >>> Finding.from_dict(finding.to_dict()) == finding
        True

    """

    check: str
    status: Status
    message: str
    evidence: dict[str, float] = field(default_factory=dict)
    why: str = ""
    fix: str = ""
    section: Section = Section.SKELETON
    step: int = 0
    code: str = ""
    subject: str = ""
    times: int = 1
    explains: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What makes it the same finding at another look: its code, and its subject if it has one."""
        return f"{self.code}@{self.subject}" if self.subject else self.code

    @property
    def is_alarm(self) -> bool:
        """Whether something is wrong, or seems to be."""
        return self.status in {Status.FAILED, Status.WARNING}

    def to_dict(self) -> dict[str, Any]:
        """Plain values that strict JSON can hold: NaN and infinities become strings.

        Example:
            >>> Finding("A", Status.FAILED, "no number", {"loss": float("nan")}).to_dict()["evidence"]
            {'loss': 'nan'}

        """
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {"status": self.status.value, "section": self.section.value}
        values["evidence"] = {k: v if math.isfinite(v) else str(v) for k, v in self.evidence.items()}
        values["explains"] = list(self.explains)
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Finding:
        """The inverse of ``to_dict``.

        Raises:
            TypeError: If `values` has a key that is no field of a finding, or lacks one that has no default.
            ValueError: If the status or the section is unknown.

        Example:
            >>> Finding.from_dict({"check": "A", "status": "skipped", "message": "no batch"}).status
            <Status.SKIPPED: 'skipped'>

        """
        known = dict(values)
        known["status"] = Status(known["status"])
        if "section" in known:
            known["section"] = Section(known["section"])
        known["evidence"] = {k: float(v) for k, v in known.get("evidence", {}).items()}
        known["explains"] = tuple(known.get("explains", ()))
        return cls(**known)


@dataclass(frozen=True)
class Outcome:
    """What a pure decision comes to, before a callback makes a finding of it.

    Attributes:
        status: The verdict.
        code: A name for the kind of finding.
        message: What was found, with its numbers.
        fix: What to change; empty if nothing.
        evidence: The numbers under short names.

    Example:
        >>> Outcome(Status.PASSED, "memorised", "reaches 0.01").fix
        ''

    """

    status: Status
    code: str
    message: str
    fix: str = ""
    evidence: dict[str, float] = field(default_factory=dict)


def in_short(error: BaseException) -> str:
    r"""An exception in one line of at most 250 characters: some of torch's list each of its backends.

    Example:
        >>> in_short(RuntimeError("no such operator\nCPU: registered at " + "a.cpp " * 100))
        'RuntimeError: no such operator'
        >>> in_short(KeyError("x"))
        "KeyError: 'x'"

    """
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return textwrap.shorten(f"{type(error).__name__}: {first}" if first else type(error).__name__, 250)


def listed(names: Iterable[str]) -> str:
    """Names in a message: the first `NAMED`, and how many more there are.

    Example:
        >>> listed("ab"), listed("abcdef")
        ('a, b', 'a, b, c, d and 2 more')

    """
    names = list(names)
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def owners(names: Iterable[str]) -> list[str]:
    """Few names that stand for many dotted ones: those of what holds them.

    Example:
        >>> owners(["net.weight", "net.bias"]), owners(f"blocks.{i}.weight" for i in range(24))
        (['net.weight', 'net.bias'], ['blocks'])

    """
    few = list(names)
    while len(few) > NAMED and any("." in name for name in few):
        few = list(dict.fromkeys(name.rpartition(".")[0] or name for name in few))
    return few
