"""Recipe, section 2: "visualize just before the net"."""

from __future__ import annotations

from collections.abc import Callable  # noqa: TC003 - LightningCLI reads the types of arguments at run time
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_recipe.callback import RecipeCallback
from lightning_recipe.figures.inputs import input_card, input_span, summary
from lightning_recipe.figures.kinds import recognise
from lightning_recipe.figures.scale import statistics
from lightning_recipe.finding import Section
from lightning_recipe.losses.targets import answers
from lightning_recipe.record.probe import Probe
from lightning_recipe.record.tensors import leading_size
from lightning_recipe.show import loggers
from lightning_recipe.trial.compiled import with_unseen_losses
from lightning_recipe.trial.copies import isolated
from lightning_recipe.trial.time_budget import Allowance

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from lightning_recipe.finding import Finding
    from lightning_recipe.record.step import Step

MAX_FRAMES = 10
"""Pictures of a tag over a run: TensorBoard keeps ten, and drops others by chance."""
MAX_CARDS = 8
"""Inputs of a network that are drawn; some have dozens."""
LOOP = 5
"""Calls of a module in a step from which on only the first is drawn: it is called in a loop, such as one over time."""


class VisualizeInputs(RecipeCallback):
    """Draws the tensors that entered the network, as they entered it, each example with its target and prediction.

    Seen in the real step: after transfer, precision and any augmentation in ``training_step``. Images, volumes, masks,
    sequences, audio, token ids, tables and anything else are told apart by shape, dtype and values; where a tensor has
    a second reading, the title names it. The title also gives shape, dtype, mean, std, min, max, share of NaN, and the
    values that black and white stand for. Training and validation share these, so that a difference in scale is seen:
    the range only ever widens over a run. Their cards lie side by side, ``<input> train`` and ``<input> val``: do they
    look alike? Of a module that is called up to four times in a step, such as an encoder of two views, the inputs of
    each call are drawn.

    The first training batch and the first validation batch (the one of the sanity check) are drawn, then the first
    batch of at most nine more epochs up to the last, ever further apart, as long as that takes no more than `max_share`
    of the run's time.

    Args:
        max_examples: Examples drawn at most.
        every_n_epochs: Epochs in between are never drawn.
        max_share: Share of the run's time, 0 to 1, that pictures after the first may take; 1 is no limit.
        mean: Mean that the images were normalised with, one value or one for each channel: draws ``x * std + mean``.
        std: Standard deviation, likewise.
        decode: Makes text of a list of token ids, such as the ``decode`` of a tokenizer.

    Source:
        A. Karpathy, A Recipe for Training Neural Networks (2019): "the unambiguously correct place to visualize your
        data is immediately before your y_hat = model(x) ... this is the only source of truth".

    Raises:
        ValueError: If `max_examples` or `every_n_epochs` is less than 1, or `max_share` not between 0 and 1.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> from lightning.pytorch.loggers import TensorBoardLogger
        >>> look = VisualizeInputs()
        >>> with TemporaryDirectory() as folder:
        ...     Trainer(max_steps=1, logger=TensorBoardLogger(folder), default_root_dir=folder, callbacks=[look],
        ...             enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        ...             ).fit(BoringModel())
        passed   VisualizeInputs: drew ...
        >>> look.findings[0].message
        'drew x: rows (1, 32), float32, mean ..., std ...'

    """

    section = Section.SKELETON
    sentence = 10
    why = "what enters the network is the only source of truth: mistakes in loading and augmenting show here or nowhere"

    def __init__(  # noqa: PLR0913 - three say how much to draw, three are escape hatches
        self,
        *,
        max_examples: int = 16,
        every_n_epochs: int = 1,
        max_share: float = 0.0025,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        decode: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__()
        if max_examples < 1 or every_n_epochs < 1:
            msg = f"max_examples and every_n_epochs must be at least 1, not {max_examples} and {every_n_epochs}"
            raise ValueError(msg)
        if not 0 <= max_share <= 1:
            msg = f"max_share must lie between 0 and 1, got {max_share}"
            raise ValueError(msg)
        self.max_examples = max_examples
        self.every_n_epochs = every_n_epochs
        self.max_share = max_share
        self.mean = mean
        self.std = std
        self.decode = decode
        self._epochs: set[int] | None = None  # to be drawn; None outside of fit, and after something went wrong
        self._drawn: dict[str, int] = {}  # the epoch that was drawn last, for training and each validation loader
        self._spans: dict[tuple[str, str], tuple[float, float]] = {}  # black and white of an input of a kind
        self._watched: tuple[str, Probe] | None = None
        self._time = Allowance(max_share)

    # -- when

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Plan the epochs to draw."""
        super().setup(trainer, pl_module, stage)
        self._epochs = frames(self.every_n_epochs, trainer.max_epochs) if stage == "fit" else None
        self._drawn, self._spans = {}, {}
        self._time = Allowance(self.max_share)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Attend to the next steps."""
        self.wake()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Attend to the next steps."""
        self.wake()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Watch the first training step of an epoch that is to be drawn."""
        if self._epochs is not None and self._drawn.get("train") != trainer.current_epoch:
            self._watch(trainer, pl_module, "training_step", "train")
        if self._watched is None:
            self.rest(trainer, VisualizeInputs)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:  # noqa: ARG002
        """Draw what was seen, and say once what that was."""
        if self._watched is None:
            return
        with self.guarded(trainer):
            finding = self._draw(trainer)
            if finding is not None and not self.findings:
                self.publish(trainer, finding)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
        dataloader_idx: int = 0,
    ) -> None:
        """Watch the first validation step, in the sanity check too: so both cards are there within seconds."""
        self._watch(trainer, pl_module, "validation_step", f"val {dataloader_idx}" if dataloader_idx else "val")

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:  # noqa: ARG002
        """Draw what was seen."""
        with self.guarded(trainer):
            self._draw(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so when there was nothing to draw."""
        self._finish(trainer)
        super().on_fit_end(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave nothing behind in a run that was stopped, too."""
        self._finish(trainer)
        super().on_exception(trainer, pl_module, exception)

    def _finish(self, trainer: Trainer) -> None:
        if self._watched is not None:
            self._watched[1].detach()
            self._watched = None
        if self._epochs is not None and not self.findings:
            self.publish(trainer, self.skipped("no training step was completed"))
        self._epochs = None

    def _watch(self, trainer: Trainer, pl_module: LightningModule, method: str, stage: str) -> None:
        epoch = -1 if trainer.sanity_checking else trainer.current_epoch
        last = self._drawn.get(stage)
        epochs = self._epochs
        if epochs is None or not (last is None or (epoch in epochs and epoch != last and self._time.is_enough())):
            return
        self._drawn[stage] = epoch
        with self.guarded(trainer):
            self._epochs = None  # whatever goes wrong is said once, not at every epoch
            if loggers.of(trainer):
                self._watched = (stage, Probe.attach(pl_module, method, complete=with_unseen_losses))
                self._epochs = epochs
            elif trainer.fast_dev_run:  # type: ignore[attr-defined]
                self.publish(trainer, self.skipped("fast_dev_run writes no pictures"))
            else:
                self.publish(trainer, self.skipped("pictures need a TensorBoardLogger, and the trainer has none"))

    # -- what

    def _draw(self, trainer: Trainer) -> Finding | None:
        """Write a card for each input; the finding that tells of them."""
        if self._watched is None or not self._watched[1].ran:
            return None
        (stage, probe), self._watched = self._watched, None
        epochs, self._epochs = self._epochs, None
        with self._time.spent():  # a compiled network runs once more, to see its loss
            step = probe.result()
            if step is None or not step.net_calls:
                finding = self.skipped(f"no call of a module with parameters was seen in the first {stage} step")
            elif not step.inputs:
                finding = self.skipped(
                    f"no tensor of one shape entered {step.net_calls[0].name or 'the network'} from outside"
                )
            else:
                finding = self._cards(trainer, stage, step)
        self._epochs = epochs
        return finding

    def _cards(self, trainer: Trainer, stage: str, step: Step) -> Finding:
        sizes = {tensor.shape[0] for tensor in step.inputs.values() if tensor.ndim}
        in_batch = leading_size(step.batch)  # not outvoted by hidden states, which have layers in front
        examples = in_batch if in_batch in sizes else leading_size(step.inputs)
        told = []
        filled = {name: tensor for name, tensor in step.inputs.items() if tensor.numel()} or step.inputs
        filled |= step.views(LOOP)
        for name, tensor in list(filled.items())[:MAX_CARDS]:
            reading = recognise(tensor, examples)
            measured = statistics(tensor)
            key = (name, reading.kind)
            low, high = input_span(tensor, reading, measured, self.mean, self.std)
            before = self._spans.get(key, (low, high))
            self._spans[key] = (min(low, before[0]), max(high, before[1]))
            told.append(summary(name, tensor, reading, measured))
            if not loggers.is_written(trainer):
                continue
            with isolated():
                figure = input_card(
                    f"{stage} {name}",
                    tensor,
                    reading,
                    answers(step, tensor.shape[0] if tensor.ndim else 0),
                    measured=measured,
                    max_examples=self.max_examples,
                    span=self._spans[key],
                    mean=self.mean,
                    std=self.std,
                    decode=self.decode,
                )
            self.draw(trainer, f"{name} {stage}", figure)
        left = len(filled) - MAX_CARDS
        more = f"; {left} more inputs are not drawn" if left > 0 else ""
        more += f"; {empty} are empty" if (empty := sum(not x.numel() for x in step.inputs.values())) else ""
        return self.passed(f"drew {'; '.join(told)}{more}", inputs=len(step.inputs), examples=examples or 0)


def frames(every_n_epochs: int, max_epochs: int | None) -> set[int]:
    """The epochs to draw: the first and the last, and others ever further apart, one less than `MAX_FRAMES` in all.

    The one left is for a first batch outside of the plan: that of the sanity check, or of a run that was resumed.

    Example:
        >>> sorted(frames(1, 5)), sorted(frames(10, 1000))
        ([0, 1, 2, 3, 4], [0, 10, 20, 40, 70, 140, 270, 510, 990])

    """
    last = (max_epochs - 1) // every_n_epochs if max_epochs is not None and max_epochs > 0 else 2 ** (MAX_FRAMES - 3)
    if last == 0:
        return {0}
    return {0, *(round(frame) * every_n_epochs for frame in np.geomspace(1, last, MAX_FRAMES - 2))}
