"""Findings to read in the terminal: as they arrive, and in a table at the end. Knows no check."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import rich
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from lightning_recipe.finding import Finding, Status
from lightning_recipe.show.report import by_urgency, is_wrong, summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lightning.pytorch import Trainer
    from rich.console import Console, RenderableType

STYLES = {Status.PASSED: "green", Status.WARNING: "yellow", Status.FAILED: "bold red", Status.SKIPPED: "dim"}


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
    if not is_wrong(finding):
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


def _reasons(finding: Finding) -> dict[str, str]:
    """What to tell of something that is wrong."""
    told = {"why": finding.why, "fix": finding.fix} if is_wrong(finding) else {}
    return {name: text for name, text in told.items() if text}


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
