"""A short fit of a copy of the module on repeats of one batch, by an inner trainer of the outer trainer's own class."""

from __future__ import annotations

import math
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lightning_recipe.record.probe import Probe
from lightning_recipe.run import Run
from lightning_recipe.trial.calming import with_local_statistics, without_dropout
from lightning_recipe.trial.compiled import with_unseen_losses
from lightning_recipe.trial.copies import copied_with, without_steps
from lightning_recipe.trial.course import LONGER, LOOP, Budget, Ramp, State, Stopping
from lightning_recipe.trial.inner_trainer import Repeats, adopt, inner_trainer, interrupts_passed_on, quiet
from lightning_recipe.trial.isolation import eager, isolated, untouched
from lightning_recipe.trial.rng import untouched_generators
from lightning_recipe.trial.stand_ins import backward_noted
from lightning_recipe.trial.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lightning.pytorch import LightningModule, Trainer
    from torch.optim import Optimizer

    from lightning_recipe.record.step import Step

PROBE_EVERY = 10
"""Steps from one that is probed to the next."""


@dataclass
class Fit:
    """What happened in a short fit.

    Attributes:
        optimizer: In words.
        losses: What the module minimised, by step.
        calls: The values of the loss functions in a probed step, by step: one for each of `first.loss_calls`.
        first: The first step, before any weight changed.
        last: The last probed step.
        grads: At the last probed step the largest absolute gradient, by name of the parameter; 0 where there is none.
        noise: By how much the loss differed between two steps with the same weights; it should be 0.
        weights_moved: Whether the optimiser changed any weight.
        left_out: Names of the trainable parameters that the optimiser does not hold.
        lr_overridden: Whether the module's own code set another learning rate than the short fit did.
        longer: Whether it was given more steps.
        work: Of a step, in nominal seconds, see ``trial/work.py``; 0 before it has been counted.
        rate: The highest learning rate.
        state_moved: Whether steps changed a state that they keep: buffers but running statistics, weights that follow.
        cut_short: Whether the work allowed was done before the steps were over.
        out_of_time: Whether the safety net ended it: nothing is known of what is not seen by then.

    """

    optimizer: str
    losses: list[float] = field(default_factory=list)
    calls: dict[int, list[float]] = field(default_factory=dict)
    first: Step | None = None
    last: Step | None = None
    grads: dict[str, float] = field(default_factory=dict)
    noise: float = 0.0
    weights_moved: bool = False
    left_out: list[str] = field(default_factory=list)
    lr_overridden: bool = False
    longer: bool = False
    work: float = 0.0
    rate: float = 0.0
    state_moved: bool = False
    cut_short: bool = False
    out_of_time: bool = False


def short_fit(  # noqa: PLR0913 - an experiment has these parts
    trainer: Trainer,
    pl_module: LightningModule,
    batch: Any,
    budget: Budget,
    *,
    adam: float | None = None,
    slower: float = 1.0,
    held: bool = False,
    advance: Callable[[], object] = lambda: None,
) -> Fit:
    """Fit a copy of `pl_module` on repeats of `batch`: dropout, weight decay and schedules off, the peak learning rate.

    The module, its optimisers, the trainer and the random streams are as before afterwards, also when it raises.

    Args:
        trainer: The trainer of the run, in the middle of its fit.
        pl_module: Its module.
        batch: As ``training_step`` receives it.
        budget: When to stop.
        adam: Train by Adam with this learning rate; by default, with the user's own optimiser.
        slower: Times smaller its rates are.
        held: Put back before each step what it keeps: each finds the state that the first did.
        advance: Called after each step.

    Returns:
        What happened.

    Raises:
        RuntimeError: If the module can't be copied.
        Exception: Whatever the module's own code raises.

    """
    with isolated(), untouched_generators(), untouched(pl_module), quiet(), tempfile.TemporaryDirectory() as folder:
        configs = [] if pl_module.automatic_optimization else trainer.lr_scheduler_configs
        module, optimizers, schedulers = copied_with(
            pl_module, trainer.optimizers, [config.scheduler for config in configs]
        )
        without_steps(schedulers)
        originals = dict(zip(map(id, _held(optimizers)), _held(trainer.optimizers), strict=True))
        peaks = [[rate / slower for rate in rates] for rates in Run(trainer).peak_rates]
        if adam is not None:
            optimizers = [adam_like(optimizer, adam) for optimizer in optimizers]
            peaks = [[adam] * len(optimizer.param_groups) for optimizer in optimizers]
            for scheduler in schedulers:
                scheduler.optimizer = optimizers[0]
        fit = Fit(in_words(optimizers[0], peaks[0]), rate=max(peaks[0]))
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            if isinstance(group.get("weight_decay"), int | float):
                group["weight_decay"] = 0.0
        inner = inner_trainer(trainer, folder)
        ramp = Ramp(optimizers, peaks, budget.steps, force=adam is not None)
        data = trainer.datamodule  # type: ignore[attr-defined]
        state = State(with_local_statistics(without_dropout(module)), ramp.parameters, held=held)
        inner.callbacks = [_Recorder(fit, ramp, Stopping(fit, budget), data, advance, originals, state)]  # type: ignore[attr-defined]
        adopt(module, (optimizers, schedulers) if schedulers else optimizers)
        with eager(module), interrupts_passed_on():
            inner.fit(module, train_dataloaders=Repeats(batch, LONGER * budget.steps))
    return fit


class _Recorder(Callback):
    """Keeps the books of a short fit; the only callback of the inner trainer."""

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        fit: Fit,
        ramp: Ramp,
        stopping: Stopping,
        data: Any,
        advance: Callable[[], object],
        originals: dict[int, Tensor],
        state: State,
    ) -> None:
        self._originals, self._state = originals, state
        self._fit, self._ramp, self._stopping, self._data, self._advance = fit, ramp, stopping, data, advance
        self._probe: Probe | None = None
        self._around = ExitStack()
        self._counted: Work | None = None
        self._backward: list[Tensor] = []  # what it is called on in manual optimisation

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.datamodule = self._data  # type: ignore[attr-defined] # for steps that read from it
        held = {id(parameter) for parameter in self._ramp.parameters}
        self._fit.left_out = [n for n, p in pl_module.named_parameters() if p.requires_grad and id(p) not in held]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        self._state.put_back()
        self._ramp.begin(batch_idx)
        due = batch_idx < 2 or batch_idx % PROBE_EVERY == 0  # noqa: PLR2004 - two equal steps, see RAMP
        if self._stopping.looks_at(batch_idx) or due:
            self._probe = Probe.attach(pl_module, "training_step", complete=with_unseen_losses)
        if not pl_module.automatic_optimization:
            self._backward = self._around.enter_context(backward_noted())
        self._counted = self._around.enter_context(Work()) if self._stopping.counts(batch_idx) else None

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:  # noqa: ARG002
        self._ramp.before_update()
        if self._probe is not None:
            self._fit.grads = {
                name: 0.0 if parameter.grad is None else _largest(parameter.grad.detach())
                for name, parameter in pl_module.named_parameters()
                if parameter.requires_grad and parameter.numel()
            }

    def on_train_batch_end(self, trainer: Trainer, _: Any, outputs: Any, __: Any, batch_idx: int) -> None:
        self._around.close()
        fit, step = self._fit, self._probe.result() if self._probe is not None else None
        if self._counted is not None:
            fit.work = LOOP + self._counted.seconds
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if step is not None and step.loss is not None:
            loss = step.loss
        elif self._backward:
            loss = self._backward[0]
        fit.losses.append(float(loss) if isinstance(loss, Tensor) and loss.numel() == 1 else math.nan)
        if batch_idx == 1:
            fit.noise = abs(fit.losses[1] - fit.losses[0])
        if step is not None:
            fit.first, fit.last = fit.first or step, step
            fit.calls[batch_idx] = [float(call.value.double().mean()) for call in step.loss_calls]
        self._probe = None
        trainer.should_stop = self._stopping.is_over(batch_idx, probed=step is not None)
        self._advance()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        trainer.should_stop = True  # the repeats are one epoch, also when a hook of the module ends it early

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._around.close()
        trainer.datamodule = None  # type: ignore[attr-defined]
        self._fit.weights_moved = any(not torch.equal(self._originals[id(p)], p) for p in self._ramp.parameters)
        self._fit.lr_overridden, self._fit.state_moved = self._ramp.overridden, self._state.end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        self._around.close()
        trainer.datamodule = None  # type: ignore[attr-defined] # or its own hook would be called


def _held(optimizers: Sequence[Optimizer]) -> list[Tensor]:
    return [parameter for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"]]


def _largest(gradient: Tensor) -> float:
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    return float(values.abs().max()) if values.numel() else 0.0


def in_words(optimizer: Optimizer, peaks: list[float]) -> str:
    """What an optimiser is called in messages.

    Example:
        >>> in_words(torch.optim.SGD([torch.zeros(1)], lr=1.0), [0.1])
        'SGD (lr 0.1)'

    """
    return f"{type(optimizer).__name__} (lr {max(peaks):g})"


def adam_like(optimizer: Optimizer, lr: float) -> Optimizer:
    """Adam on the same parameters, in the same groups, so that code which looks into them finds what it expects.

    Example:
        >>> adam_like(torch.optim.SGD([torch.zeros(1)], lr=1.0), 3e-4).param_groups[0]["lr"]
        0.0003

    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    defaults = torch.optim.Adam(parameters, lr=lr).defaults
    return torch.optim.Adam([{**group, **defaults} for group in optimizer.param_groups])
