"""Findings to read: in the terminal, as markdown, as JSON. Knows no check."""

from __future__ import annotations

import json
import os
import re
import textwrap
import time
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from lightning_recipe.finding import Finding, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lightning.pytorch import Trainer
    from rich.console import Console, RenderableType

FILE_NAME = "recipe.json"
TAG = "0 report"
"""Of the table in TensorBoard's Text tab: it sorts by the alphabet."""
SCHEMA_VERSION = 1
LINE = 64
"""Characters in a line of the table in TensorBoard, which breaks words where columns are wider than its card."""
STYLES = {Status.PASSED: "green", Status.WARNING: "yellow", Status.FAILED: "bold red", Status.SKIPPED: "dim"}


def by_urgency(findings: Sequence[Finding]) -> list[Finding]:
    """What failed first, then warnings, then what passed, then what was skipped; else the order of the recipe.

    Example:
        >>> a, b = Finding("A", Status.PASSED, "fine"), Finding("B", Status.FAILED, "not fine")
        >>> [finding.check for finding in by_urgency([a, b])]
        ['B', 'A']

    """
    order = list(Status)
    return sorted(findings, key=lambda finding: order.index(finding.status))


def summary(findings: Sequence[Finding]) -> str:
    """How many findings there are of each status.

    Example:
        >>> summary([Finding("A", Status.PASSED, "fine"), Finding("B", Status.FAILED, "not fine")])
        '1 failed, 1 passed'

    """
    counts = {status: sum(finding.status is status for finding in findings) for status in Status}
    return ", ".join(f"{count} {status.value}" for status, count in counts.items() if count)


# -- terminal


def show(trainer: Trainer, *renderables: RenderableType) -> None:
    """Print above a running progress bar, or simply print."""
    live = getattr(trainer.progress_bar_callback, "progress", None)  # of a RichProgressBar
    if live is not None:
        _print(live.console, renderables)
    else:
        with tqdm.external_write_mode():
            _print(rich.get_console(), renderables)


def show_finding(trainer: Trainer, finding: Finding) -> None:
    """Print a finding as it arrives."""
    live = getattr(trainer.progress_bar_callback, "progress", None)
    console = rich.get_console() if live is None else live.console
    on_screen = console.is_terminal or console.is_jupyter
    show(trainer, *([on_a_screen(finding)] if on_screen else in_a_log(finding)))


def close(trainer: Trainer, findings: Sequence[Finding], *footer: str) -> None:
    """Print the table of all findings, below the last state of a progress bar."""
    live = getattr(trainer.progress_bar_callback, "progress", None)
    if live is not None:
        live.stop()  # Lightning does so too, but only after the last callback
    _print(rich.get_console() if live is None else live.console, [table(findings), *footer])


def _print(console: Console, renderables: Sequence[RenderableType]) -> None:
    for renderable in renderables:  # plain strings are paths and commands to copy: never broken over lines
        plain = isinstance(renderable, str)  # and no markup, whatever brackets there are
        console.print(renderable, soft_wrap=plain, highlight=not plain, markup=not plain)


def in_a_log(finding: Finding) -> list[str]:
    """A finding as it arrives: one line; why and fix below it only when something is wrong.

    Example:
        >>> in_a_log(Finding("A", Status.FAILED, "5, not 2", why="2 is right", fix="make it 2"))
        ['failed   A: 5, not 2', '         why: 2 is right', '         fix: make it 2']

    """
    details = [f"{'':9}{name}: {text}" for name, text in _reasons(finding).items()]
    return [f"{finding.status.value:8} {finding.check}: {finding.message}", *details]


def on_a_screen(finding: Finding) -> Group | Table:
    """The same in lines as wide as the screen: what is not wrong gets one of them, the closing table has the rest.

    Example:
        >>> rich.print(on_a_screen(Finding("A", Status.PASSED, "fine")))
        passed   A: fine

    """
    status = Text(f"{finding.status.value:8}", STYLES[finding.status])
    found = Text.assemble((finding.check, "bold"), f": {finding.message}")
    if not _is_wrong(finding):
        return Group(Text.assemble(status, " ", found, no_wrap=True, overflow="ellipsis"))  # a bare text is wrapped
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_row(status, found)
    for name, text in _reasons(finding).items():
        grid.add_row("", Text.assemble((f"{name}: ", "bold"), text))
    return grid


def table(findings: Sequence[Finding]) -> Table:
    """All findings of a run, what failed on top.

    Example:
        >>> table([Finding("A", Status.PASSED, "fine")]).row_count
        1

    """
    title = f"lightning_recipe: {summary(findings)}"
    grid = Table(title=title, title_justify="left", box=SIMPLE_HEAD, expand=False)
    for column in ("status", "check", "found, and what to do"):
        grid.add_column(column, overflow="fold", no_wrap=column in {"status", "check"})
    for finding in by_urgency(findings):
        found = Text(finding.message)
        if finding.fix:
            found.append("\nfix: ", "bold").append(finding.fix)
        grid.add_row(Text(finding.status.value, STYLES[finding.status]), finding.check, found)
    return grid


def _is_wrong(finding: Finding) -> bool:
    return finding.status in {Status.FAILED, Status.WARNING}


def _reasons(finding: Finding) -> dict[str, str]:
    """What to tell of something that is wrong."""
    told = {"why": finding.why, "fix": finding.fix} if _is_wrong(finding) else {}
    return {name: text for name, text in told.items() if text}


# -- files


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
    for finding in by_urgency(findings):
        status = finding.status.value
        found = _cell(finding.message) + (f"<br>**fix:** {_cell(finding.fix)}" if finding.fix else "")
        rows.append(f"| {f'**{status}**' if _is_wrong(finding) else status} | {_cell(finding.check)} | {found} |")
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
    """All findings as strict JSON: ``{"version": 1, "lightning_recipe": "...", "findings": [...]}``.

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

    Asks the loggers, not ``trainer.log_dir``, which talks to the other ranks.
    """
    from lightning_recipe import tensorboard  # noqa: PLC0415

    for logger in [*tensorboard.loggers(trainer), *trainer.loggers]:
        if isinstance(log_dir := getattr(logger, "log_dir", None), str | os.PathLike) and str(log_dir):
            return Path(log_dir)
    return Path(trainer.default_root_dir)


@contextmanager
def progress(trainer: Trainer, description: str, total: int) -> Iterator[Callable[[], None]]:
    """One line that says how far something slow has come, gone at the end; none for what takes less than a second.

    Nothing is shown where nobody looks: not in files, and not on ranks other than zero. While a `RichProgressBar` is
    on the screen, the line is printed once and stays, since rich shows one moving line at a time.

    Args:
        trainer: The trainer of the run.
        description: What is going on.
        total: Steps that it takes at most.

    Yields:
        A function to call after each step.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> with progress(Trainer(barebones=True), "trying", total=3) as advance:
        ...     advance()

    """
    live = getattr(trainer.progress_bar_callback, "progress", None)
    console = live.console if live is not None else rich.get_console()
    bar = Progress(console=console, transient=True, auto_refresh=False)
    task = bar.add_task(description, total=total)
    visible = trainer.is_global_zero and console.is_terminal
    due, shown = time.monotonic() + 1, False

    with ExitStack() as stack:

        def advance() -> None:
            nonlocal due, shown
            bar.advance(task)
            if not visible or time.monotonic() < due:
                return
            due = time.monotonic() + 0.1  # seconds; drawing takes time
            if live is not None:
                if not shown:
                    console.print(f"{description} ...")
            elif shown:
                bar.refresh()
            else:
                stack.enter_context(tqdm.external_write_mode())
                stack.enter_context(bar)
            shown = True

        yield advance
