"""A short fit of a copy of the module on repeats of one batch, by an inner trainer of the outer trainer's own class.

What the user's module sees of it: ``training_step`` with everything around the step (gradient clipping, the hooks
of batch, backward, optimiser and zero_grad, precision), on a trainer whose loggers swallow everything, with a
``self.log`` that does nothing. Left out are the hooks that prepare data, set up, configure and move batches, and those
at the beginning and the end of a fit and of an epoch: the copy is set up already, and they may download or write
files. The data module is there to be read; none of its hooks is called. Gradients accumulated over repeats of one
batch are the gradient of that batch, so every step of the short fit is a step of the optimiser.
"""

from __future__ import annotations

import copy
import importlib
import itertools
import logging
import math
import os
import tempfile
import time
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lightning_recipe.record.copies import snapshot
from lightning_recipe.record.probe import Probe
from lightning_recipe.trial.compiled import with_unseen_losses
from lightning_recipe.trial.copies import calmed, copied_optimizer, copied_with, eager, isolated, untouched
from lightning_recipe.trial.generators import untouched_generators

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightning.pytorch import LightningModule, Trainer
    from torch.optim import Optimizer

    from lightning_recipe.record.step import Step

LEFT_OUT = (
    "prepare_data",
    "setup",
    "teardown",
    "configure_model",
    "configure_callbacks",
    "on_before_batch_transfer",
    "on_after_batch_transfer",
    "on_fit_start",
    "on_fit_end",
    "on_train_start",
    "on_train_end",
    "on_train_epoch_start",
    "on_train_epoch_end",
)
"""Hooks of the module that the short fit does not call."""
PROBE_EVERY = 10
"""Steps between those that are looked into."""
RAMP = 20
"""Steps in which the learning rate rises to its peak. The first is taken at 0: two equal steps tell about noise."""
LONGER = 3
"""Times as many steps as were allowed, if something good is to be expected of them."""
LONGEST_SCHEDULE = 10_000
"""Steps of a schedule that are tried in search of its peak."""


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
        out_of_time: Whether the time was over before the steps were.
        seconds: How long it took.

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
    out_of_time: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class Budget:
    """`steps` and `seconds` that a short fit may take; if it goes on, `LONGER` times the steps and `most` seconds."""

    steps: int
    seconds: float
    most: float


def short_fit(  # noqa: PLR0913 - an experiment has these parts
    trainer: Trainer,
    pl_module: LightningModule,
    batch: Any,
    budget: Budget,
    *,
    adam: float | None = None,
    over: Callable[[Fit], bool] = lambda fit: False,  # noqa: ARG005
    goes_on: Callable[[Fit], bool] = lambda fit: False,  # noqa: ARG005
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
        over: Asked after each probed step whether to stop.
        goes_on: Asked when the steps are over, and after each probed step from then on, whether to go on.
        advance: Called after each step.

    Returns:
        What happened.

    Raises:
        RuntimeError: If the module can't be copied.
        Exception: Whatever the module's own code raises.

    """
    started = time.monotonic()
    with isolated(), untouched_generators(), untouched(pl_module), _quiet(), tempfile.TemporaryDirectory() as folder:
        configs = [] if pl_module.automatic_optimization else trainer.lr_scheduler_configs
        module, optimizers, schedulers = copied_with(
            pl_module, trainer.optimizers, [config.scheduler for config in configs]
        )
        peaks = peak_learning_rates(trainer)
        name = _in_words(optimizers[0], peaks[0])
        if adam is not None:
            optimizers = [_adam(optimizer, adam) for optimizer in optimizers]
            peaks = [[adam] * len(optimizer.param_groups) for optimizer in optimizers]
            for scheduler in schedulers:
                scheduler.optimizer = optimizers[0]
            name = f"Adam (lr {adam:g})"
        for group in itertools.chain.from_iterable(optimizer.param_groups for optimizer in optimizers):
            if isinstance(group.get("weight_decay"), int | float):
                group["weight_decay"] = 0.0
        inner = _inner_trainer(trainer, folder)
        recorder = _Recorder(
            Fit(name), trainer, optimizers, peaks, budget, over, goes_on, advance, force=adam is not None
        )
        inner.callbacks = [recorder]  # type: ignore[attr-defined]
        _adopt(calmed(module), (optimizers, schedulers) if schedulers else optimizers)
        with eager(module), _interrupts_passed_on():
            inner.fit(module, train_dataloaders=_Repeats(batch, LONGER * budget.steps))
    recorder.fit.seconds = time.monotonic() - started
    return recorder.fit


def peak_learning_rates(trainer: Trainer) -> list[list[float]]:
    """The highest learning rate that the schedules of the run will give to each parameter group of each optimiser.

    Schedules are stepped on a copy, as often as the run will step them, up to `LONGEST_SCHEDULE` times.
    """
    # parameters are shared: schedules don't touch them
    memo: dict[int, Any] = {id(p): p for o in trainer.optimizers for g in o.param_groups for p in g["params"]}
    with isolated(), _quiet():
        for optimizer in trainer.optimizers:
            memo |= {id(optimizer.state): {}}
            copied_optimizer(optimizer, memo)
        duplicates = [memo[id(optimizer)] for optimizer in trainer.optimizers]
        peaks = [[_lr(group) for group in optimizer.param_groups] for optimizer in duplicates]
        for config in trainer.lr_scheduler_configs:
            with suppress(Exception):  # it takes arguments, or was stepped past its end
                scheduler = copy.deepcopy(config.scheduler, memo)
                for _ in range(_schedule_length(trainer, config.interval)):
                    vars(scheduler.optimizer)["_opt_called"] = True  # or it warns that nothing was trained
                    scheduler.step()
                    peaks = [
                        [max(peak, _lr(group)) for peak, group in zip(known, optimizer.param_groups, strict=True)]
                        for known, optimizer in zip(peaks, duplicates, strict=True)
                    ]
    return peaks


def _schedule_length(trainer: Trainer, interval: str) -> int:
    length = trainer.estimated_stepping_batches if interval == "step" else trainer.max_epochs or -1
    return int(min(length, LONGEST_SCHEDULE)) if length >= 0 else LONGEST_SCHEDULE


def _lr(group: dict[str, Any]) -> float:
    try:
        return float(group["lr"])
    except (KeyError, TypeError):  # relative steps, as of Adafactor
        return math.nan


def _largest(gradient: Tensor) -> float:
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    return float(values.abs().max()) if values.numel() else 0.0


def _in_words(optimizer: Optimizer, peaks: list[float]) -> str:
    return f"{type(optimizer).__name__} (lr {max(peaks):g})"


def _adam(optimizer: Optimizer, lr: float) -> Optimizer:
    """Adam on the same parameters, in the same groups, so that code which looks into them finds what it expects."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    defaults = torch.optim.Adam(parameters, lr=lr).defaults
    return torch.optim.Adam([{**group, **defaults} for group in optimizer.param_groups])


# -- the inner trainer


class _Repeats:
    """One batch again and again, a fresh copy each time: steps may change it in place."""

    def __init__(self, batch: Any, times: int) -> None:
        self.batch, self.times = batch, times

    def __len__(self) -> int:
        return self.times

    def __iter__(self) -> Iterator[Any]:
        return (snapshot(self.batch) for _ in range(self.times))


def _inner_trainer(trainer: Trainer, folder: str) -> Trainer:
    theirs = next(
        c for c in type(trainer).__mro__ if c.__name__ == "Trainer" and c.__module__.endswith("trainer.trainer")
    )
    root = theirs.__module__.removesuffix(".trainer.trainer")  # lightning.pytorch or pytorch_lightning

    def find(module: str, name: str) -> Any:
        return getattr(importlib.import_module(f"{root}.{module}"), name)

    device = trainer.strategy.root_device
    settings: dict[str, Any] = {
        "accelerator": {"cuda": "gpu"}.get(device.type, device.type),
        "devices": 1 if device.index is None or device.type == "cpu" else [device.index],
        "strategy": find("strategies", "SingleDeviceStrategy")(device),
        "plugins": [find("plugins.environments", "LightningEnvironment")()],
        "precision": trainer.precision,
        "logger": [find("loggers.logger", "DummyLogger")() for _ in trainer.loggers] or False,
        "default_root_dir": folder,
        "max_epochs": trainer.max_epochs,
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    settings |= {"inference_mode": False, "use_distributed_sampler": False}
    if trainer.gradient_clip_val is not None:  # Lightning refuses any value where the module optimises by hand
        settings |= {
            "gradient_clip_val": trainer.gradient_clip_val,
            "gradient_clip_algorithm": trainer.gradient_clip_algorithm,
        }
    with _no_defaults():
        try:
            return type(trainer)(**settings)
        except TypeError:  # a subclass with arguments of its own
            inner: Trainer = theirs(**settings)
            return inner


@contextmanager
def _no_defaults() -> Iterator[None]:
    """Trainers take the arguments that they are not given from the environment: those were meant for the run."""
    taken = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("PL_TRAINER_")}
    try:
        yield
    finally:
        os.environ.update(taken)


def _adopt(module: LightningModule, optimizers: Any) -> None:
    """Give the module the optimisers, and take from it what a second fit should not do again."""
    plain = next(c for c in type(module).__mro__ if c.__name__ == "LightningModule" and "core.module" in c.__module__)
    for name in LEFT_OUT:
        setattr(module, name, MethodType(getattr(plain, name), module))
    module.transfer_batch_to_device = lambda batch, *_: batch  # type: ignore[method-assign] # it is there
    module.configure_optimizers = lambda: optimizers  # type: ignore[method-assign]
    module.log = module.log_dict = _nowhere  # type: ignore[method-assign]


def _nowhere(*_: Any, **__: Any) -> None:
    """In the place of ``self.log``: nobody would see it, and it takes a third of the time."""


@contextmanager
def _quiet() -> Iterator[None]:
    """No word from Lightning, no warning, and no trace of the inner trainer in its loggers' levels."""
    levels = {logging.getLogger(name): 0 for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning")}
    levels = {logger: logger.level for logger in levels}
    try:
        for logger in levels:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


@contextmanager
def _interrupts_passed_on() -> Iterator[None]:
    """The outer trainer is to have the user's Ctrl+C, which the inner one turns into an exit."""
    try:
        yield
    except SystemExit as end:
        if isinstance(interrupt := end.__context__, KeyboardInterrupt):
            raise interrupt from None
        raise


class _Recorder(Callback):
    """Keeps the books of a short fit, and ends it."""

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        fit: Fit,
        outer: Trainer,
        optimizers: list[Optimizer],
        peaks: list[list[float]],
        budget: Budget,
        over: Callable[[Fit], bool],
        goes_on: Callable[[Fit], bool],
        advance: Callable[[], object],
        *,
        force: bool,
    ) -> None:
        self.fit = fit
        self._outer, self._optimizers, self._peaks = outer, optimizers, peaks
        self._budget, self._over, self._goes_on, self._advance, self._force = budget, over, goes_on, advance, force
        self._probe: Probe | None = None
        self._started, self._seconds = time.monotonic(), budget.seconds
        self._ending = False
        self._step_seconds = 0.0
        self._began = 0.0
        self._factor = 1.0
        self._before: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.datamodule = self._outer.datamodule  # type: ignore[attr-defined] # for steps that read from it
        self._before = [parameter.detach().clone() for parameter in self._parameters()]
        held = {id(parameter) for parameter in self._parameters()}
        self.fit.left_out = [n for n, p in pl_module.named_parameters() if p.requires_grad and id(p) not in held]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        trainer.should_stop = True  # the repeats are one epoch, also when a hook of the module ends it early

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        trainer.datamodule = None  # type: ignore[attr-defined]
        self.fit.weights_moved = any(
            not torch.equal(before, parameter)
            for before, parameter in zip(self._before, self._parameters(), strict=True)
        )
        self._before = []

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        trainer.datamodule = None  # type: ignore[attr-defined] # or its own hook would be called

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        self._began = time.monotonic()
        closures = any(
            c.__name__ == "LBFGS" for o in self._optimizers for c in type(o).__mro__
        )  # a line search from 0 fails
        self._factor = 1.0 if closures else min(1.0, batch_idx / min(RAMP, max(1, self._budget.steps // 4)))
        self._set_learning_rates()
        often = self._step_seconds > 0.05 or not pl_module.automatic_optimization  # noqa: PLR2004 - then a probe costs nothing
        last = self._ending or batch_idx + 1 in {self._budget.steps, LONGER * self._budget.steps}
        if last or often or batch_idx < 2 or batch_idx % PROBE_EVERY == 0:  # noqa: PLR2004 - two equal steps, see RAMP
            self._probe = Probe.attach(pl_module, "training_step", complete=with_unseen_losses)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:  # noqa: ARG002
        if self._force or self._factor == 0:  # the module may have set its own since
            self._set_learning_rates()
        elif self._factor == 1.0:
            wanted = itertools.chain.from_iterable(self._peaks)
            groups = itertools.chain.from_iterable(o.param_groups for o in self._optimizers)
            self.fit.lr_overridden |= any(
                abs(_lr(group) - peak) > 1e-6 * abs(peak) for group, peak in zip(groups, wanted, strict=True)
            )
        if self._probe is not None:
            self.fit.grads = {
                name: 0.0 if parameter.grad is None else _largest(parameter.grad.detach())
                for name, parameter in pl_module.named_parameters()
                if parameter.requires_grad and parameter.numel()
            }

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,
        batch: Any,  # noqa: ARG002
        batch_idx: int,
    ) -> None:
        step = self._probe.result() if self._probe is not None else None
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if step is not None and step.loss is not None:
            loss = step.loss
        self.fit.losses.append(float(loss) if isinstance(loss, Tensor) and loss.numel() == 1 else math.nan)
        if batch_idx == 1:
            self.fit.noise = abs(self.fit.losses[1] - self.fit.losses[0])
        over = self._ending
        if step is not None:
            self.fit.first = self.fit.first or step
            self.fit.last = step
            self.fit.calls[batch_idx] = [float(call.value.double().mean()) for call in step.loss_calls]
            over |= self._over(self.fit) or not math.isfinite(self.fit.losses[-1])
        if batch_idx + 1 >= self._budget.steps and self._probe is not None:
            over |= batch_idx + 1 == LONGER * self._budget.steps or not self._goes_on(self.fit)
            if not over:
                self.fit.longer, self._seconds = True, self._budget.most
        self._probe = None
        self._ending = time.monotonic() > self._started + self._seconds
        self.fit.out_of_time |= self._ending and not over
        trainer.should_stop = over
        self._step_seconds = time.monotonic() - self._began
        self._advance()

    def _parameters(self) -> list[Tensor]:
        return [p for o in self._optimizers for group in o.param_groups for p in group["params"]]

    def _set_learning_rates(self) -> None:
        for optimizer, peaks in zip(self._optimizers, self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                if not math.isnan(peak):
                    group["lr"] = (
                        torch.full_like(lr, peak * self._factor)
                        if isinstance(lr := group["lr"], Tensor)
                        else peak * self._factor
                    )
