"""Findings to read elsewhere: as markdown, as JSON. Knows no check."""

from __future__ import annotations

import json
import os
import re
import textwrap
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_recipe.finding import Finding, Status
from lightning_recipe.ledger import causes
from lightning_recipe.show import loggers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch import Trainer

FILE_NAME = "recipe.json"
TAG = "0 report"
"""Of the table in TensorBoard's Text tab: it sorts by the alphabet."""
SCHEMA_VERSION = 2
BRIEF = 120
"""Characters of what another finding explains."""
LINE = 64
"""Characters in a line of the table in TensorBoard, which breaks words where columns are wider than its card."""


def in_order(findings: Sequence[Finding]) -> list[tuple[Finding, list[Finding]]]:
    """Every finding that no other explains, with those that it explains; what failed first, skipped last.

    A cause comes where the worst of what it explains would.

    Example:
        >>> a, b = Finding("A", Status.PASSED, "fine"), Finding("B", Status.FAILED, "not fine")
        >>> [finding.check for finding, _ in in_order([a, b])]
        ['B', 'A']

    """
    order = list(Status)
    roots = [(findings[i], explained) for i, explained in causes(findings).items()]
    return sorted(roots, key=lambda pair: min(order.index(finding.status) for finding in [pair[0], *pair[1]]))


def in_brief(finding: Finding) -> str:
    """A finding as one of those that another explains: what is to be done is said of that.

    Example:
        >>> in_brief(Finding("A", Status.FAILED, "5, not 2", fix="make it 2"))
        'A (failed): 5, not 2'

    """
    return textwrap.shorten(f"{finding.check} ({finding.status.value}): {finding.message}", BRIEF, placeholder=" ...")


def repeated(finding: Finding) -> str:
    """At how many looks it was found, to be added to a message; nothing for once.

    Example:
        >>> repeated(Finding("A", Status.WARNING, "dead", times=3, step=80))
        ' (at 3 looks, the last at step 80)'

    """
    return f" (at {finding.times} looks, the last at step {finding.step})" if finding.times > 1 else ""


def summary(findings: Sequence[Finding]) -> str:
    """How many findings there are of each status.

    Example:
        >>> summary([Finding("A", Status.PASSED, "fine"), Finding("B", Status.FAILED, "not fine")])
        '1 failed, 1 passed'

    """
    counts = {status: sum(finding.status is status for finding in findings) for status in Status}
    return ", ".join(f"{count} {status.value}" for status, count in counts.items() if count)


def markdown(findings: Sequence[Finding]) -> str:
    r"""The same table for TensorBoard's Text tab and for pull requests, below a line that sums it up.

    Example:
        >>> print(markdown([Finding("A", Status.FAILED, "5 | 6", fix="x"), Finding("B", Status.PASSED, "fine")]))
        **1 failed, 1 passed**
        <BLANKLINE>
        | status | check | found, and what to do |
        |---|---|---|
        | **failed** | A | 5 \| 6<br>**fix:** x |
        | passed | B | fine |

    """
    rows = ["| status | check | found, and what to do |", "|---|---|---|"]
    for finding, explained in in_order(findings):
        status = finding.status.value
        parts = [_cell(finding.message + repeated(finding))]
        parts += [f"**fix:** {_cell(finding.fix)}"] if finding.fix else []
        parts += [f"**explains:** {_cell(in_brief(f))}" for f in explained]
        rows.append(
            f"| {f'**{status}**' if finding.is_alarm else status} | {_cell(finding.check)} | {'<br>'.join(parts)} |"
        )
    return "\n".join([f"**{summary(findings)}**", "", *rows])


def details(findings: Sequence[Finding]) -> str:
    """What a callback found with all its evidence, and the recipe's reason, for TensorBoard's Text tab.

    Example:
        >>> print(details([Finding("A", Status.FAILED, "5, not 2", {"measured": 5.0}, why="so", fix="halve it")]))
        **failed:** 5, not 2
        <BLANKLINE>
        **why:** so
        <BLANKLINE>
        **fix:** halve it
        <BLANKLINE>
        | measured |
        |---|
        | 5 |

    """
    parts = []
    for finding in findings:
        said = {finding.status.value: finding.message, "why": finding.why, "fix": finding.fix}
        said |= {"key": finding.key} if finding.is_alarm else {}
        parts += [f"**{name}:** {_cell(text)}" for name, text in said.items() if text]
        if finding.evidence:
            names, values = zip(
                *((_cell(name), f"{value:.4g}") for name, value in finding.evidence.items()), strict=True
            )
            parts.append(f"| {' | '.join(names)} |\n|{'---|' * len(names)}\n| {' | '.join(values)} |")
    return "\n\n".join(parts)


def _cell(text: str) -> str:
    """Text that markdown takes for nothing else, in lines short enough for a column of TensorBoard's."""
    escaped = re.sub(r"([\\`*_|\[\]])", r"\\\1", " ".join(text.split())).replace("<", "&lt;")
    return "<br>".join(textwrap.wrap(escaped, LINE, break_long_words=False, break_on_hyphens=False))


def to_json(findings: Sequence[Finding]) -> str:
    """All findings as strict JSON: ``{"version": 2, "lightning_recipe": "...", "findings": [...]}``.

    Example:
        >>> json.loads(to_json([Finding("A", Status.PASSED, "fine")]))["findings"][0]["status"]
        'passed'

    """
    content: dict[str, Any] = {
        "version": SCHEMA_VERSION,
        "lightning_recipe": installed_version(),
        "findings": [finding.to_dict() for finding in findings],
    }
    return json.dumps(content, indent=2, allow_nan=False)


def installed_version() -> str:
    """The version of this package, or ``"unknown"`` when it runs from a folder that was never installed."""
    try:
        return version("lightning-recipe")
    except PackageNotFoundError:
        return "unknown"


def write_json(findings: Sequence[Finding], path: Path) -> None:
    """Replace the file at `path` in one move, so that a reader never sees half of it.

    Raises:
        OSError: If the folder can't be written.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(to_json(findings), encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def folder(trainer: Trainer) -> Path:
    """Where the run keeps its files: the first TensorBoard logger's folder, else any logger's, else the root.

    Asks the loggers, not ``trainer.log_dir``, which talks to the other ranks. With a logger that keeps its own files
    elsewhere it is the folder into which ModelCheckpoint puts those of the run.
    """
    for logger in [*loggers.of(trainer), *trainer.loggers]:
        if isinstance(log_dir := getattr(logger, "log_dir", None), str | os.PathLike) and str(log_dir):
            return Path(log_dir)
    for logger in loggers.others(trainer):
        return Path(logger.save_dir or trainer.default_root_dir) / str(logger.name) / str(logger.version)
    return Path(trainer.default_root_dir)
