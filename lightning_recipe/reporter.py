"""Asks the callbacks of a fit what they find, keeps it, and tells what is new."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

from lightning_recipe.finding import Finding, Status
from lightning_recipe.ledger import causes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning_recipe.callback import RecipeCallback
    from lightning_recipe.run import Run
    from lightning_recipe.show.publisher import Publisher


SECONDS = 1.0
"""From one writing of the report to the next, unless there is an alarm: to replace a file takes 5 ms on some disks."""


class FailedCheckError(Exception):
    """Raised by a check with ``strict=True``: the run would go on with a mistake in it.

    Example:
        >>> str(FailedCheckError([Finding("InitLossCheck", Status.FAILED, "starts at 300", fix="scale down")]))
        'InitLossCheck: starts at 300 Fix: scale down'

    """

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings
        said = [f"{f.check}: {f.message}" + (f" Fix: {f.fix}" if f.fix else "") for f in findings]
        super().__init__("\n".join(said) or "a check failed in another process")


class Reporter:
    """What the callbacks of one fit find, on its way to people.

    Attributes:
        run: What the run will be.
        publisher: The door to people.
        members: The callbacks, in the trainer's order.

    """

    def __init__(self, run: Run, publisher: Publisher, members: list[RecipeCallback]) -> None:
        self.run, self.publisher, self.members = run, publisher, members
        self._news: list[RecipeCallback] = []  # whose findings are not in the report yet
        self._next = 0.0  # value of ``time.monotonic()`` from which on they are written

    @property
    def findings(self) -> list[Finding]:
        """All of the run so far, in the order of the callbacks."""
        return [finding for callback in self.members for finding in callback.findings]

    def ask(self, moment: str, callbacks: Sequence[RecipeCallback], *step: Any) -> None:
        """Collect what callbacks find at a moment; if strict, stop on all ranks when any rank has a failure.

        Raises:
            FailedCheckError: If a strict check failed.

        """
        failed: list[Finding] = []
        for callback in callbacks:
            found: list[Finding] = []
            try:
                found.extend(getattr(callback, moment)(self.run, *step))
            except Exception as error:  # noqa: BLE001 - a check must never end the run by accident
                found.append(callback.internal_error(error))
            callback.done |= moment == "end"
            told = self._keep(callback, found)
            if any(finding.is_alarm for finding in told):
                self._write(now=True)  # nothing that comes after it can lose it
            failed += [f for f in told if f.status is Status.FAILED and callback.strict]
        self._write()
        if any(callback.strict for callback in callbacks):
            elsewhere = self.run.trainer.strategy.reduce_boolean_decision(bool(failed), all=False)
            if elsewhere:
                raise FailedCheckError(failed)

    def enter(self, callback: RecipeCallback, found: Sequence[Finding]) -> list[Finding]:
        """Keep what a callback has found at one look, tell what is new, and have it written to the report."""
        told = self._keep(callback, found)
        self._write()
        return told

    def join(self) -> None:
        """Tell the other ranks who takes part on this one."""
        self.run.ranks.join("findings", *(type(callback).__name__ for callback in self.members))

    def unite(self) -> None:
        """Have all ranks hold what any of them has found, once all have had their last word."""
        ranks, names = self.run.ranks, [type(callback).__name__ for callback in self.members]
        names = [f"{name} {names[:i].count(name)}" for i, name in enumerate(names)]
        own = {name: callback.findings for name, callback in zip(names, self.members, strict=True)}
        each = ranks.gather("findings", self.run.step, own)
        for name, callback in zip(names, self.members, strict=True):
            self._tell(callback, callback.ledger.unite([of_rank.get(name, []) for of_rank in each]))
        if ranks.silent:
            self.publisher.tell("the other ranks did not answer: what is found is of this rank's examples alone")
        ranks.close("findings")
        self._write()

    def _keep(self, callback: RecipeCallback, found: Sequence[Finding]) -> list[Finding]:
        told = callback.ledger.look([replace(finding, step=self.run.step) for finding in found])
        if callback.done:
            self.run.ranks.leave(type(callback).__name__)
        return self._tell(callback, told)

    def _tell(self, callback: RecipeCallback, told: list[Finding]) -> list[Finding]:
        explained = causes(everything := self.findings)
        for finding in told:
            if finding.is_alarm or callback.verbose:
                i = next(i for i, other in enumerate(everything) if other is finding)
                roots = [everything[j] for j, symptoms in explained.items() if any(one is finding for one in symptoms)]
                self.publisher.arrived(finding, explained.get(i, []), roots[0] if roots else None)
        if told:
            self._news.append(callback)
        return told

    def _write(self, *, now: bool = False) -> None:
        """Write what is new, at the latest at the end; `now` that is, even if nothing is."""
        if now or (self._news and time.monotonic() >= self._next):
            self._next = time.monotonic() + SECONDS
            cards = {callback.tag("findings"): callback.findings for callback in self._news}
            self._news = []
            self.publisher.write(self.findings, cards, self.run.step)

    def close(self, error: BaseException | None = None) -> None:
        """Print the closing table; there is no silence."""
        reason = "no training step was run"
        if error is not None:
            reason = f"the run was stopped by {type(error).__name__} before a verdict"
        for callback in self.members:
            if not (callback.findings or callback.ledger.silenced) and (error is None or self.run.step):
                self.enter(callback, [callback.skipped(reason)])
        silenced = reduce(add, (callback.ledger.silenced for callback in self.members))
        verbose = any(callback.verbose for callback in self.members)
        self._write(now=True)
        self.publisher.close(self.findings, silenced, verbose=verbose)
