"""A trainer like the user's, for a short fit inside theirs: one device, nothing written, nothing said.

What the user's module sees of it: ``training_step`` with everything around the step (gradient clipping, the hooks
of batch, backward, optimiser and zero_grad, precision), on a trainer whose loggers swallow everything, with a
``self.log`` that does nothing. Left out are the hooks that prepare data, set up, configure and move batches, and those
at the beginning and the end of a fit and of an epoch: the copy is set up already, and they may download or write
files. The data module is there to be read; none of its hooks is called. Gradients accumulated over repeats of one
batch are the gradient of that batch, so every step of the short fit is a step of the optimiser.
"""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from contextlib import contextmanager
from types import MethodType
from typing import TYPE_CHECKING, Any

from lightning_recipe.record.copies import snapshot
from lightning_recipe.trial.isolation import mute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import LightningModule, Trainer

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

ASKING = "_load_external_callbacks"
"""What Lightning asks installed packages by."""


class Repeats:
    """One batch again and again, a fresh copy each time: steps may change it in place."""

    def __init__(self, batch: Any, times: int) -> None:
        self.batch, self.times = batch, times

    def __len__(self) -> int:
        return self.times

    def __iter__(self) -> Iterator[Any]:
        return (snapshot(self.batch) for _ in range(self.times))


def inner_trainer(trainer: Trainer, folder: str) -> Trainer:
    """A trainer of the class of `trainer`, with its precision and clipping; `folder` is its root directory."""
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
    with _no_defaults(importlib.import_module(f"{root}.trainer.connectors.callback_connector")):
        try:
            return type(trainer)(**settings)
        except TypeError:  # a subclass with arguments of its own
            inner: Trainer = theirs(**settings)
            return inner


@contextmanager
def _no_defaults(connector: Any) -> Iterator[None]:
    """Trainers take arguments from the environment, and callbacks from packages: those were meant for the run.

    To ask all that is installed for callbacks takes longer than everything else about a Trainer.
    """
    taken = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("PL_TRAINER_")}
    ask = getattr(connector, ASKING, None)
    try:
        if ask is not None:
            setattr(connector, ASKING, lambda _: [])
        yield
    finally:
        os.environ.update(taken)
        if ask is not None:
            setattr(connector, ASKING, ask)


def adopt(module: LightningModule, optimizers: Any) -> None:
    """Give the module the optimisers, and take from it what a second fit should not do again."""
    plain = next(c for c in type(module).__mro__ if c.__name__ == "LightningModule" and "core.module" in c.__module__)
    for name in LEFT_OUT:
        setattr(module, name, MethodType(getattr(plain, name), module))
    module.transfer_batch_to_device = lambda batch, *_: batch  # type: ignore[method-assign] # it is there
    module.configure_optimizers = lambda: optimizers  # type: ignore[method-assign]
    mute(module)


@contextmanager
def quiet() -> Iterator[None]:
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
def interrupts_passed_on() -> Iterator[None]:
    """The outer trainer is to have the user's Ctrl+C, which the inner one turns into an exit."""
    try:
        yield
    except SystemExit as end:
        if isinstance(interrupt := end.__context__, KeyboardInterrupt):
            raise interrupt from None
        raise
