"""Findings over time: told once, escalated, patient, silenced; and which of them explains which."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from lightning_recipe.finding import Finding, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HEURISTICS = {Status.WARNING, Status.ADVICE}
"""Need patience; hard evidence does not."""


class Ledger:
    """What one callback has found in a run.

    The same finding again (of the same code and subject) counts up `times` and says nothing, unless it has become
    worse. Repetition alone never makes a `failed`.

    Args:
        patience: Looks in a row at which a heuristic has to find the same before it is kept.
        skip: Keys of findings, with wildcards, that are silenced.

    Attributes:
        findings: Those kept, in the order in which they were found first.
        silenced: How often each key that `skip` names was found.

    Example:
        >>> ledger = Ledger()
        >>> dead = Finding("A", Status.WARNING, "dead", code="A/dead", subject="net.2")
        >>> ledger.look([dead]), ledger.look([dead])
        ([Finding(check='A', ...)], [])
        >>> ledger.findings[0].times
        2

    """

    def __init__(self, patience: int = 1, skip: Iterable[str] = ()) -> None:
        self.patience, self.skip = patience, tuple(skip)
        self.findings: list[Finding] = []
        self.silenced: Counter[str] = Counter()
        self._in_a_row: Counter[str] = Counter()

    def look(self, found: Sequence[Finding]) -> list[Finding]:
        """Enter everything that one look found.

        Returns:
            What is new or worse, to be told.

        """
        seen = {finding.key for finding in found}
        self._in_a_row = Counter({key: count for key, count in self._in_a_row.items() if key in seen})
        return [kept for finding in found if (kept := self.add(finding)) is not None]

    def add(self, finding: Finding) -> Finding | None:
        """Enter one finding; returns what is to be told, if anything."""
        if is_named(finding, self.skip):
            self.silenced[finding.key] += 1
            return None
        known = next((i for i, other in enumerate(self.findings) if other.key == finding.key), None)
        if known is None:
            self._in_a_row[finding.key] += 1
            count = self._in_a_row[finding.key]
            if finding.status in HEURISTICS and count < self.patience:
                return None
            self.findings.append(replace(finding, times=max(finding.times, count)))
            return self.findings[-1]
        before = self.findings[known]
        worse = _urgency(finding) < _urgency(before)
        told = finding if worse else before
        self.findings[known] = replace(told, times=before.times + 1, step=finding.step)
        return self.findings[known] if worse else None

    def unite(self, each: Sequence[Sequence[Finding]]) -> list[Finding]:
        """Take in what all ranks have found: of each key the worst, of the lowest rank that has it.

        What is no alarm and no advice is that of the first rank, and gives way to an alarm of another.

        Args:
            each: The findings of each rank; of one rank alone they are left as they are.

        Returns:
            What this rank did not have, to be told.

        Example:
            >>> ledger, dead = Ledger(), Finding("A", Status.WARNING, "dead", code="A/dead")
            >>> [finding.message for finding in ledger.unite([[Finding("A", Status.PASSED, "alive")], [dead]])]
            ['dead (seen on rank 1)']
            >>> len(ledger.findings)
            1

        """
        if len(each) == 1:
            return []
        first, kept = next(filter(None, each), ()), dict[str, Finding]()
        for rank, found in enumerate(each):
            for finding in found:
                before = kept.get(finding.key)
                new = finding.status in {Status.FAILED, *HEURISTICS} or found is first
                if is_named(finding, self.skip) or not new or (before and _urgency(before) <= _urgency(finding)):
                    continue
                seen = f"{finding.message} (seen on rank {rank})" if rank else finding.message
                kept[finding.key] = replace(finding, message=seen)
        known = {finding.key for finding in first if finding.is_alarm}
        if any(finding.is_alarm and key not in known for key, finding in kept.items()):
            kept = {key: one for key, one in kept.items() if one.status not in {Status.PASSED, Status.SKIPPED}}
        own = {finding.key: finding.status for finding in self.findings}
        self.findings = list(kept.values())
        return [one for one in self.findings if one.key not in own or _urgency(one) < list(Status).index(own[one.key])]

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"findings": [finding.to_dict() for finding in self.findings], "in_a_row": dict(self._in_a_row)}

    def load_state_dict(self, state: dict[str, Any], check: str) -> None:
        """Go on with what `check` had found; what another check found is left out."""
        found = [Finding.from_dict(values) for values in state["findings"]]
        if all(finding.check == check for finding in found):
            self.findings, self._in_a_row = found, Counter(state["in_a_row"])


def _urgency(finding: Finding) -> int:
    return list(Status).index(finding.status)


def is_named(finding: Finding, keys: Iterable[str]) -> bool:
    """Whether one of `keys` means this finding: a check, a code, or a code and a subject, with wildcards.

    Example:
        >>> dead = Finding("A", Status.WARNING, "dead", code="A/dead", subject="decoder.2")
        >>> [is_named(dead, [key]) for key in ("A", "A/dead", "A/dead@decoder.*", "A/dead@encoder.*", "B")]
        [True, True, True, False, False]

    """
    names = (finding.check, finding.code, finding.key)
    return any(fnmatchcase(name, key) for key in keys for name in names)


def causes(findings: Sequence[Finding]) -> dict[int, list[Finding]]:
    """Which alarms explain which, and which pieces of advice.

    Returns:
        For the index of each finding that nothing explains, the findings that it explains, in their order. Of one that
        several explain, the first of them is the cause; two that explain each other are both left alone.

    Example:
        >>> clipped = Finding("A", Status.FAILED, "clipped", code="A/clipped", explains=("B/*",))
        >>> stuck = Finding("B", Status.WARNING, "stuck", code="B/stuck")
        >>> causes([stuck, clipped])
        {1: [Finding(check='B', ...)]}

    """
    told = [i for i, finding in enumerate(findings) if finding.is_alarm or finding.status is Status.ADVICE]
    explained: dict[int, int] = {}
    for i in told:
        for j in told:
            mutual = _explains(findings[i], findings[j])
            if findings[i].is_alarm <= findings[j].is_alarm and _explains(findings[j], findings[i]) and not mutual:
                explained.setdefault(i, j)
    roots = {i: _root(i, explained) for i in range(len(findings))}
    return {root: [findings[i] for i in explained if roots[i] == root != i] for root in roots if roots[root] == root}


def _root(index: int, explained: dict[int, int]) -> int:
    """The cause of the cause of ...; of a circle, each is its own."""
    passed = [index]
    while passed[-1] in explained:
        passed.append(explained[passed[-1]])
        if passed[-1] in passed[:-1]:
            return index
    return passed[-1]


def _explains(cause: Finding, symptom: Finding) -> bool:
    return cause is not symptom and is_named(symptom, cause.explains)
