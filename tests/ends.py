"""Where a run ended, and the state of the process around it: comparable bit by bit."""

import copy
import logging
import os
import random
import signal
import warnings
from collections import deque
from dataclasses import fields, is_dataclass
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.loggers.logger import Logger

from lightning_recipe import OverfitOneBatch, recipe
from lightning_recipe.callback import STATE


def frozen(value, folder=""):
    """Optimiser states and the like as plain values; tensors as their bytes, so that NaN is NaN and -0 is not 0."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        content = (value.to_dense() if value.layout is not torch.strided else value).contiguous()
        return str(value.dtype), tuple(value.shape), content.reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: frozen(content, folder) for key, content in value.items()}
    if isinstance(value, list | tuple | deque):
        return [frozen(content, folder) for content in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: frozen(getattr(value, field.name), folder) for field in fields(value)}
    if isinstance(value, str | Path):
        return str(value).replace(str(folder), "") if folder else str(value)
    return repr(value)


def streams():
    """Where the random streams stand."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return frozen(
        {
            "torch": torch.get_rng_state(),
            "cuda": cuda,
            "numpy": np.random.get_state(),  # noqa: NPY002 - the global stream is the point
            "python": random.getstate(),
        }
    )


def process():
    """What a run shares with everything else in the process."""
    return {
        "function modes": torch.overrides._get_current_function_mode(),
        "dispatch modes": torch.utils._python_dispatch._get_current_dispatch_mode(),
        "grad modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark),
        "precision": torch.get_float32_matmul_precision(),
        "signals": {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)},
        "warnings": list(warnings.filters),
        "log levels": {name: logging.getLogger(name).level for name in ("lightning.pytorch", "pytorch_lightning")},
        "environment": dict(os.environ),
        "group": torch.distributed.GroupMember.WORLD if torch.distributed.is_available() else None,
    }


def module_state(module):
    """A module, down to its hooks and modes."""
    hooks = [name for name, value in vars(torch.nn.Module()).items() if name.endswith("hooks")]
    return {
        "weights and buffers": frozen(module.state_dict()),
        "gradients": frozen([p.grad for p in module.parameters()]),
        "gradients wanted": [p.requires_grad for p in module.parameters()],
        "modes": [m.training for m in module.modules()],
        "hooks": [[len(getattr(m, name)) for name in hooks] for m in module.modules()],
        "attributes": [sorted(m.__dict__) for m in module.modules()],
    }


def traces(trainer, module):
    """All that a run leaves behind in its trainer and its module."""
    return {
        **module_state(module),
        "optimiser": frozen([o.state_dict() for o in trainer.optimizers]),
        "scheduler": frozen([c.scheduler.state_dict() for c in trainer.lr_scheduler_configs]),
        "scaler": frozen(getattr(getattr(trainer.precision_plugin, "scaler", None), "state_dict", dict)()),
        "streams": streams(),
        "logged": frozen(trainer.logged_metrics),
        "callback metrics": frozen(trainer.callback_metrics),
        "progress": (trainer.global_step, trainer.current_epoch, trainer.fit_loop.epoch_loop._batches_that_stepped),
        "loops": frozen(trainer.fit_loop.state_dict()),
    }


def checkpoint(trainer, folder=""):
    """What a checkpoint of now holds, apart from the recipe's findings; paths below `folder` made equal."""
    content = trainer._checkpoint_connector.dump_checkpoint()
    content.pop(STATE, None)
    return frozen(content, folder)


def assert_same(bare, full):
    """Names what differs."""
    assert bare.keys() == full.keys()
    different = [name for name in bare if bare[name] != full[name]]
    assert not different, {name: (bare[name], full[name]) for name in different}


def assert_judged(callbacks):
    """All said something, and none that it broke."""
    assert all(callback.findings for callback in callbacks), "no silence"
    broke = [f.message for callback in callbacks for f in callback.findings if f.code.endswith("/internal_error")]
    assert not broke, broke


def quick():
    """The recipe; a trial takes steps enough to train by each optimiser, not to get anywhere."""
    callbacks = recipe()
    for callback in callbacks:
        if isinstance(callback, OverfitOneBatch):
            callback.max_steps = 15
    return callbacks


class Recording(Logger):
    """Keeps what is logged, in order."""

    name, version = "recording", 0

    def __init__(self):
        super().__init__()
        self.calls = []

    def log_metrics(self, metrics, step=None):
        self.calls.append(("metrics", copy.deepcopy(metrics), step))

    def log_hyperparams(self, params, *args, **kwargs):
        self.calls.append(("hyperparams", repr(params)))

    def finalize(self, status):
        self.calls.append(("finalize", status))


class Witness(L.Callback):
    """Keeps what the checkpoints hold and where the random streams stand, throughout a run; put it last."""

    def __init__(self, folder=""):
        self.folder = folder
        self.kept = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.kept.append(("step", frozen(outputs), streams(), frozen(pl_module.state_dict())))

    def on_validation_end(self, trainer, pl_module):
        self.kept.append(("validation", frozen(trainer.callback_metrics), streams()))
        if not trainer.sanity_checking:
            self.kept.append(("checkpoint", checkpoint(trainer, self.folder)))

    def on_train_epoch_end(self, trainer, pl_module):
        self.kept.append(("epoch", checkpoint(trainer, self.folder), streams()))
