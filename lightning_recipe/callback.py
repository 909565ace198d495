"""The two kinds of callbacks: those that show (RecipeCallback) and those that judge (Check)."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from lightning.pytorch.callbacks import Callback

from lightning_recipe.figures.canvas import pixels
from lightning_recipe.finding import Finding, Section, Status, in_short
from lightning_recipe.show import loggers, report, terminal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lightning.pytorch import LightningModule, Trainer
    from matplotlib.figure import Figure


STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_batch_start",
    "on_validation_batch_end",
)
"""What Lightning enters at each step: for five callbacks that do nothing, it takes a fiftieth of a step of 5 ms."""


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


class RecipeCallback(Callback):
    """Keeps findings and shows them.

    Attributes:
        section: The part of the recipe that the callback makes executable.
        sentence: The number of the recipe's sentence in that section; callbacks from elsewhere come last.
        why: The recipe's reason.
        findings: What it found in the latest ``fit``.

    """

    section: ClassVar[Section]
    sentence: ClassVar[int] = 99
    why: ClassVar[str]

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.unwritten = False  # the report could not be written, and the user has been told

    # -- making findings

    def passed(self, message: str, **evidence: float) -> Finding:
        """A finding that all is well."""
        return self._finding(Status.PASSED, message, evidence)

    def warning(self, message: str, *, fix: str, **evidence: float) -> Finding:
        """A finding that a heuristic is worried."""
        return self._finding(Status.WARNING, message, evidence, fix)

    def failed(self, message: str, *, fix: str, **evidence: float) -> Finding:
        """A finding with hard evidence of a mistake."""
        return self._finding(Status.FAILED, message, evidence, fix)

    def skipped(self, message: str) -> Finding:
        """A finding that nothing could be judged, and why."""
        return self._finding(Status.SKIPPED, message, {})

    def _finding(self, status: Status, message: str, evidence: dict[str, float], fix: str = "") -> Finding:
        numbers = {name: float(value) for name, value in evidence.items()}
        return Finding(type(self).__name__, status, message, numbers, self.why, fix, self.section)

    # -- publishing them

    @contextmanager
    def guarded(self, trainer: Trainer) -> Iterator[None]:
        """Turn whatever goes wrong inside into a `skipped` finding: the user's run goes on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a check must never end the run by accident
            self.publish(trainer, self.skipped(f"the check itself failed: {in_short(error)}"))

    def publish(self, trainer: Trainer, finding: Finding) -> None:
        """Keep a finding; print it, and rewrite the report in the logger's folder, on rank zero."""
        finding = replace(finding, step=loggers.batches_that_stepped(trainer))
        self.findings.append(finding)
        if not trainer.is_global_zero:
            return
        with self._reporting(trainer):
            terminal.show_finding(trainer, finding)
        if _writes(trainer):
            with self._reporting(trainer):
                self._write(trainer, finding)

    def _write(self, trainer: Trainer, finding: Finding) -> None:
        everything = findings(trainer)
        report.write_json(everything, report.folder(trainer) / report.FILE_NAME)
        with loggers.writing(trainer) as writers:
            for writer in writers:
                writer.add_text(report.TAG, report.markdown(everything), finding.step)
                writer.add_text(self.tag("findings"), report.details(self.findings), finding.step)

    def tell(self, trainer: Trainer, line: str) -> None:
        """Print a line that is no finding, such as what takes the time."""
        if trainer.is_global_zero:
            with self._reporting(trainer):
                terminal.show(trainer, line)

    def draw(self, trainer: Trainer, name: str, figure: Figure, step: int | None = None) -> None:
        """Write a picture to TensorBoard under the callback's own name, at the present step unless `step` is given."""
        image = pixels(figure)
        step = loggers.batches_that_stepped(trainer) if step is None else step
        with self._reporting(trainer), loggers.writing(trainer) as writers:
            for writer in writers:
                writer.add_image(self.tag(name), image, step, dataformats="HWC")

    def tag(self, name: str) -> str:
        """Where TensorBoard shows `name`: it sorts by the alphabet, so the recipe's numbers come first.

        Args:
            name: Of a picture or a curve, with its unit.

        Example:
            >>> from lightning_recipe import OverfitOneBatch
            >>> OverfitOneBatch().tag("loss")
            '2.08 OverfitOneBatch/loss'

        """
        return f"{list(Section).index(self.section) + 1}.{self.sentence:02} {type(self).__name__}/{name}"

    @contextmanager
    def _reporting(self, trainer: Trainer) -> Iterator[None]:
        """A closed terminal, a full disk or a broken logger is no reason to lose training: the user is told once."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            if not any(callback.unwritten for callback in _of_the_recipe(trainer)):
                warnings.warn(f"lightning_recipe could not write its report: {error!r}", stacklevel=1)
            self.unwritten = True

    # -- Lightning's hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Begin with no findings."""
        if stage == "fit":
            self.findings = []
            self.unwritten = False
            self.wake()

    def wake(self) -> None:
        """Have Lightning enter the hooks of steps again."""
        for name in STEP_HOOKS:
            if vars(self).get(name, ...) is None:
                del vars(self)[name]

    def rest(self, trainer: Trainer, kind: type[Callback], *hooks: str) -> None:
        """Have Lightning pass over the hooks of steps that are those of `kind`, until `wake` or the next fit.

        It enters what is callable only. Hooks of a user's subclass stay, and all do if something other than Lightning
        calls them. Called in the first step or later, when whoever wraps hooks has done so.

        Args:
            trainer: Its callbacks are those that Lightning calls.
            kind: A class that has nothing to do at the next steps.
            hooks: Those in which it has nothing to do; by default all.

        Example:
            >>> from lightning.pytorch import Trainer
            >>> from lightning_recipe import OverfitOneBatch
            >>> callback = OverfitOneBatch()
            >>> callback.rest(Trainer(callbacks=[callback], barebones=True), OverfitOneBatch)
            >>> callable(callback.on_train_batch_start)
            False

        """
        if any(callback is self for callback in trainer.callbacks):  # type: ignore[attr-defined]
            for name in hooks or STEP_HOOKS:
                if name not in vars(self) and getattr(type(self), name) is getattr(kind, name):
                    vars(self)[name] = None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Print the closing table; there is no silence."""
        if not self.findings:
            self.publish(trainer, self.skipped("no training step was run"))
        self._close(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Print the closing table of a run that was stopped, too."""
        if not self.findings and loggers.batches_that_stepped(trainer):
            self.publish(trainer, self.skipped(f"the run was stopped by {type(exception).__name__} before a verdict"))
        self._close(trainer)

    def _close(self, trainer: Trainer) -> None:
        """The last of the recipe's callbacks prints the table of all, and where to look."""
        if not trainer.is_global_zero or _of_the_recipe(trainer)[-1:] != [self] or not findings(trainer):
            return
        with self._reporting(trainer):
            footer = []
            if _writes(trainer):
                look = loggers.how_to_look(trainer) or ["no TensorBoard logger: numbers and pictures are left out"]
                footer = [f"report      {report.folder(trainer) / report.FILE_NAME}", f"TensorBoard {look[0]}"]
                footer += [f"{'':12}{line}" for line in look[1:]]
            terminal.close(trainer, findings(trainer), *footer)


class Check(RecipeCallback):
    """A callback that judges.

    Args:
        strict: Stop the run with ``FailedCheckError`` when something failed; for continuous integration.

    """

    def __init__(self, *, strict: bool = False) -> None:
        super().__init__()
        self.strict = strict

    def conclude(self, trainer: Trainer, verdicts: Iterable[Finding]) -> None:
        """Publish all verdicts; then, if strict, stop the run on all ranks when any rank has a failure.

        Raises:
            FailedCheckError: If `strict` and any verdict is `failed`.

        """
        before = len(self.findings)
        with self.guarded(trainer):
            for finding in verdicts:
                self.publish(trainer, finding)
        if not self.strict:
            return
        failed = [finding for finding in self.findings[before:] if finding.status is Status.FAILED]
        if trainer.strategy.reduce_boolean_decision(bool(failed), all=False):
            raise FailedCheckError(failed)


def _writes(trainer: Trainer) -> bool:
    """Whether the run may leave files: not with ``fast_dev_run`` and ``barebones``, which promise none."""
    return not (trainer.fast_dev_run or trainer.barebones)  # type: ignore[attr-defined]


def _of_the_recipe(trainer: Trainer) -> list[Any]:
    return [callback for callback in trainer.callbacks if isinstance(callback, RecipeCallback)]  # type: ignore[attr-defined]


def findings(trainer: Trainer) -> list[Finding]:
    """The findings of all of the recipe's callbacks in `trainer`, in the order of its callbacks.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> findings(Trainer(barebones=True))
        []

    """
    return [finding for callback in _of_the_recipe(trainer) for finding in callback.findings]
