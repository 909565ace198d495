import gc
import os
import warnings

import lightning.pytorch as L
import pytest
import torch
from hypothesis import Phase, settings
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.connectors import callback_connector
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# The same examples in every run. HYPOTHESIS_PROFILE=long takes ten times as many, others each time, and shrinks.
settings.register_profile("same", derandomize=True, deadline=None, phases=[Phase.explicit, Phase.generate])
settings.register_profile("long", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

LONG = ("test_types", "test_notebooks", "test_no_harm", "test_benchmarks")
"""Files whose tests take half a minute each: begun last, one of them would run alone on its core."""

gc.disable()  # until all is collected: to search a million objects that stay takes a quarter of a second
callback_connector._load_external_callbacks = lambda group: []  # to ask all installed packages takes 8 ms a Trainer
for device in (torch.cuda, torch.xpu, torch.mtia):
    if not device.is_available():
        device.manual_seed_all = lambda seed: None  # it notes for later who called it, which takes a millisecond

QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}


def pytest_collectstart(collector):
    """What a file draws as it is imported is the same in every run, too."""
    if isinstance(collector, pytest.Module):
        L.seed_everything(0, verbose=False)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in LONG)


def pytest_collection_finish():
    """Garbage is searched for among what tests make; what was imported stays."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _reproducible():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=False)  # a Trainer(deterministic=True) leaves it on
    L.seed_everything(0, verbose=False)


@pytest.fixture
def fit(tmp_path):
    """Fit a module for two epochs, quietly, on the CPU; returns its trainer."""

    def run(module, callbacks=(), *, train=None, val=None, seed=0, **settings):
        settings = {"accelerator": "cpu", "max_epochs": 2, "logger": TensorBoardLogger(tmp_path), **QUIET, **settings}
        trainer = L.Trainer(default_root_dir=tmp_path, callbacks=list(callbacks), **settings)
        L.seed_everything(seed, verbose=False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*(does not have many workers|smaller than the logging).*")
            trainer.fit(module, train, val)
        return trainer

    return run


@pytest.fixture
def events():
    """The events that a trainer's TensorBoard loggers wrote, all of them."""

    def read(trainer):
        everything = dict.fromkeys(("scalars", "images", "tensors", "histograms"), 0)
        return EventAccumulator(trainer.logger.log_dir, size_guidance=everything).Reload()

    return read
