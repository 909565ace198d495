"""The one door from a fit to people: terminal, report, loggers. What can't be written costs a warning, not the run."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lightning_recipe.show import batches, loggers, report, terminal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from lightning.pytorch import Trainer
    from torch import Tensor

    from lightning_recipe.finding import Finding


class Publisher:
    """Shows what a fit has found, on rank zero.

    A closed terminal, a full disk or a broken logger is no reason to lose training: the user is told once.

    Args:
        trainer: Of the fit.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> Publisher(Trainer(barebones=True)).tell("OverfitOneBatch takes a few seconds")
        OverfitOneBatch takes a few seconds

    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._warned = False
        self._written: Path | None = None
        self._step = 0

    @contextmanager
    def _safely(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001
            if not self._warned:
                warnings.warn(f"lightning_recipe could not write its report: {error!r}", stacklevel=1)
            self._warned = True

    def tell(self, line: str) -> None:
        """Print a line that is no finding, such as what takes the time."""
        if self.trainer.is_global_zero:
            with self._safely():
                terminal.show(self.trainer, line)

    def arrived(self, finding: Finding, explained: Sequence[Finding] = (), cause: Finding | None = None) -> None:
        """Print a finding; `explained` are those that it is the cause of, and `cause` is its own, if that is known."""
        if self.trainer.is_global_zero:
            with self._safely():
                terminal.show_finding(self.trainer, finding, explained, cause)

    def write(self, findings: Sequence[Finding], cards: Mapping[str, Sequence[Finding]], step: int) -> None:
        """Rewrite the report, and the text card of each callback with news.

        Args:
            findings: All of the run.
            cards: Findings of a callback, by the tag of its card.
            step: Batches that have been trained on.

        """
        if not (self.trainer.is_global_zero and self.leaves_files):
            return
        self._step = step
        with self._safely():
            path = report.folder(self.trainer) / report.FILE_NAME
            report.write_json(findings, path)
            self._written = path
            with loggers.writing(self.trainer) as writers:
                for writer in writers:
                    writer.add_text(report.TAG, report.markdown(findings), step)
                    for tag, own in cards.items():
                        writer.add_text(tag, report.details(own), step)

    def picture(self, tag: str, image: np.ndarray, step: int) -> None:
        """Write a picture of shape (H, W, C), uint8."""
        with self._safely(), loggers.writing(self.trainer) as writers:
            for writer in writers:
                writer.add_image(tag, image, step, dataformats="HWC")
        for logger in loggers.others(self.trainer, loggers.PICTURES):
            with self._safely():
                loggers.give_picture(logger, tag, image, step)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Write a point of each curve."""
        with self._safely(), loggers.writing(self.trainer) as writers:
            for writer in writers:
                for tag, value in values.items():
                    writer.add_scalar(tag, value, step)
        for logger in loggers.others(self.trainer):
            with self._safely():
                loggers.give_numbers(logger, values, step)

    def tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors to a file in the run's folder."""
        if self.trainer.is_global_zero and self.leaves_files:
            with self._safely():
                batches.write(tensors, report.folder(self.trainer) / name)

    def close(self, findings: Sequence[Finding], silenced: Mapping[str, int], *, verbose: bool) -> None:
        """Print the closing table of all findings, and where to look."""
        if not (self.trainer.is_global_zero and findings):
            return
        for logger in loggers.others(self.trainer, loggers.PICTURES):
            with self._safely():
                loggers.give_text(logger, report.TAG, report.markdown(findings), self._step)
        with self._safely():
            footer = []
            if self._written is not None:
                footer = [f"report      {self._written}"]
                look = loggers.how_to_look(self.trainer)
                look = look or ["no TensorBoard logger: numbers and pictures are left out"]
                if not loggers.others(self.trainer, loggers.PICTURES) or loggers.of(self.trainer):
                    footer += [f"TensorBoard {look[0]}", *(f"{'':12}{line}" for line in look[1:])]
            terminal.close(self.trainer, terminal.table(findings, silenced, verbose=verbose), *footer)

    @property
    def leaves_files(self) -> bool:
        """Whether the run may leave files: not with ``fast_dev_run`` and ``barebones``, which promise none."""
        return not (self.trainer.fast_dev_run or self.trainer.barebones)  # type: ignore[attr-defined]
