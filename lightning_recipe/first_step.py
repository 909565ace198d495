"""Checks that look once: at the first training step of a run, before any update."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from lightning_recipe.callback import Check
from lightning_recipe.record.probe import Probe
from lightning_recipe.trial.compiled import with_unseen_losses

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import LightningModule, Trainer

    from lightning_recipe.finding import Finding
    from lightning_recipe.record.step import Step


class FirstStepCheck(Check):
    """Watches the first step and judges what it did, once it is over.

    Resumed runs are `skipped`: start-up work is not repeated.

    Args:
        strict: Stop the run when something failed.

    """

    def __init__(self, *, strict: bool = False) -> None:
        super().__init__(strict=strict)
        self._probe: Probe | None = None
        self._over = False

    @abstractmethod
    def check(self, trainer: Trainer, pl_module: LightningModule, step: Step) -> Iterator[Finding]:
        """Judge the first step."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew with each fit."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._probe, self._over = None, False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Watch the first step."""
        if self._over:
            return
        if trainer.global_step > 0:
            self._over = True
            self.rest(trainer, FirstStepCheck)
            self.conclude(trainer, [self.skipped(f"the run resumes at step {trainer.global_step}, past its beginning")])
            return
        with self.guarded(trainer):
            self._over = True  # also if attaching fails
            self._probe = Probe.attach(pl_module, "training_step", complete=with_unseen_losses)
            self._over = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Judge what was seen."""
        if self._probe is None or not self._probe.ran:
            return
        probe, self._probe, self._over = self._probe, None, True
        self.rest(trainer, FirstStepCheck)
        self.conclude(trainer, self._judge_step(trainer, pl_module, probe))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop waiting for a step that never came."""
        self._let_go()
        super().on_fit_end(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop waiting for a step that never came."""
        self._let_go()
        super().on_exception(trainer, pl_module, exception)

    def _let_go(self) -> None:
        if self._probe is not None:
            self._probe.detach()
            self._probe = None

    def _judge_step(self, trainer: Trainer, pl_module: LightningModule, probe: Probe) -> Iterator[Finding]:
        step = probe.result()
        if step is not None:
            yield from self.check(trainer, pl_module, step)
