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
from lightning_recipe.show.report import in_brief, in_order, repeated, summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from lightning.pytorch import Trainer
    from rich.console import Console, RenderableType

STYLES = {
    Status.FAILED: "bold red",
    Status.WARNING: "yellow",
    Status.ADVICE: "cyan",
    Status.PASSED: "green",
    Status.SKIPPED: "dim",
}


def show(trainer: Trainer, *renderables: RenderableType) -> None:
    """Print above a running progress bar, or simply print."""
    live = getattr(trainer.progress_bar_callback, "progress", None)  # of a RichProgressBar
    if live is not None:
        _print(live.console, renderables)
    else:
        with tqdm.external_write_mode():
            _print(rich.get_console(), renderables)


def show_finding(
    trainer: Trainer, finding: Finding, explained: Sequence[Finding] = (), cause: Finding | None = None
) -> None:
    """Print a finding as it arrives; `explained` are those that it is the cause of, `cause` is its own."""
    live = getattr(trainer.progress_bar_callback, "progress", None)
    console = rich.get_console() if live is None else live.console
    on_screen = console.is_terminal or console.is_jupyter
    show(trainer, *([on_a_screen(finding, explained, cause)] if on_screen else in_a_log(finding, explained, cause)))


def close(trainer: Trainer, findings: Table, *footer: str) -> None:
    """Print the table of all findings, below the last state of a progress bar."""
    live = getattr(trainer.progress_bar_callback, "progress", None)
    if live is not None:
        live.stop()  # Lightning does so too, but only after the last callback
    _print(rich.get_console() if live is None else live.console, [findings, *footer])


def _print(console: Console, renderables: Sequence[RenderableType]) -> None:
    for renderable in renderables:  # plain strings are paths and commands to copy: never broken over lines
        plain = isinstance(renderable, str)  # and no markup, whatever brackets there are
        console.print(renderable, soft_wrap=plain, highlight=not plain, markup=not plain)


def in_a_log(finding: Finding, explained: Sequence[Finding] = (), cause: Finding | None = None) -> list[str]:
    """A finding as it arrives: one line; why, fix and the key that silences it below, if something is wrong.

    Of what has a cause that is known, its key and the cause's: what is to be done was said of that.

    Example:
        >>> for line in in_a_log(Finding("A", Status.FAILED, "5, not 2", fix="make it 2", code="A/five")):
        ...     print(line)
        failed   A: 5, not 2
                 fix: make it 2
                 key: A/five

    """
    details = [f"{'':9}{name}: {text}" for name, text in _reasons(finding, explained, cause).items()]
    return [f"{finding.status.value:8} {finding.check}: {finding.message}", *details]


def on_a_screen(finding: Finding, explained: Sequence[Finding] = (), cause: Finding | None = None) -> Group | Table:
    """The same in lines as wide as the screen: what is not wrong gets one of them, the closing table has the rest.

    Example:
        >>> rich.print(on_a_screen(Finding("A", Status.PASSED, "fine")))
        passed   A: fine

    """
    status = Text(f"{finding.status.value:8}", STYLES[finding.status])
    found = Text.assemble((finding.check, "bold"), f": {finding.message}")
    if not finding.is_alarm:
        return Group(Text.assemble(status, " ", found, no_wrap=True, overflow="ellipsis"))  # a bare text is wrapped
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_row(status, found)
    for name, text in _reasons(finding, explained, cause).items():
        grid.add_row("", Text.assemble((f"{name}: ", "bold"), text))
    return grid


def table(findings: Sequence[Finding], silenced: Mapping[str, int] | None = None, *, verbose: bool = False) -> Table:
    """All findings of a run: causes on top, each with what it explains; what is well in one row.

    Args:
        findings: In the order of the recipe.
        silenced: How often each silenced key was found.
        verbose: A row for each check that passed.

    Example:
        >>> table([Finding("A", Status.PASSED, "fine"), Finding("B", Status.PASSED, "fine")]).row_count
        1

    """
    title = f"lightning_recipe: {summary(findings)}"
    grid = Table(title=title, title_justify="left", box=SIMPLE_HEAD, expand=False)
    for column in ("status", "check", "found, and what to do"):
        grid.add_column(column, overflow="fold", no_wrap=column in {"status", "check"})
    for finding, explained in in_order(findings):
        if finding.status is Status.PASSED and not verbose:
            continue
        found = Text(finding.message + repeated(finding))
        for name, text in {"fix": finding.fix, **_explained(explained)}.items():
            if text:
                found.append(f"\n{name}: ", "bold").append(text)
        grid.add_row(Text(finding.status.value, STYLES[finding.status]), finding.check, found)
    well = list(dict.fromkeys(finding.check for finding in findings if finding.status is Status.PASSED))
    if well and not verbose:
        grid.add_row(Text("passed", STYLES[Status.PASSED]), "", ", ".join(well))
    for key, count in (silenced or {}).items():
        grid.add_row(Text("silenced", "dim"), key, f"found {count} time{'s' * (count > 1)}" if count else "left out")
    return grid


def _reasons(finding: Finding, explained: Sequence[Finding], cause: Finding | None) -> dict[str, str]:
    """What to tell of something that is wrong."""
    told = {"why": finding.why, "fix": finding.fix, **_explained(explained), "key": finding.key}
    if cause is not None:
        told = {"explained by": cause.key, "key": finding.key}
    return {name: text for name, text in told.items() if text and finding.is_alarm}


def _explained(findings: Sequence[Finding]) -> dict[str, str]:
    return {"explains": "; ".join(map(in_brief, findings))} if findings else {}


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
