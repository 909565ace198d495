"""Attach to anything, change nothing: random programs, each run with the recipe and without."""

import tempfile
import warnings
from dataclasses import fields

import lightning.pytorch as L
import programs
import pytest
import torch
from conftest import QUIET
from ends import Recording, Witness, assert_judged, assert_same, process, quick, traces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch.loggers import TensorBoardLogger
from programs import Program, Trained

CHOICES = {
    "net": ("mlp", "conv", "recurrent", "transformer", "embeddings"),
    "head": ("classes", "numbers", "tokens", "several", "by hand"),
    "norm": ("none", "batch", "layer", "group"),
    "dropout": (0.0, 0.3),
    "tied": (False, True),
    "optimizer": ("sgd", "adam", "adamw", "rmsprop", "lbfgs", "adagrad"),
    "groups": (1, 2),
    "schedule": ("none", "step", "epoch", "one cycle", "plateau"),
    "manual": (False, True),
    "data": ("map", "shuffled", "sampler", "stream"),
    "batch": ("tuple", "named", "dict", "dataclass"),
    "workers": ("0", "0", "0", "1", "2", "2 persistent"),  # processes take time
    "augmented": (False, True),
    "accumulate": (1, 2, 3),
    "clip": ("none", "norm", "value"),
    "precision": ("32-true", "bf16-mixed", "64-true", "bf16-true"),
    "averaging": ("none", "by hand", "ema", "swa"),
    "validate": ("epoch", "every 2", "never"),
    "sanity": (2, 0),
    "first": (True, False),
}


def test_every_choice_is_drawn():
    assert list(CHOICES) == [field.name for field in fields(Program)]
    assert Program() == Program(**{name: values[0] for name, values in CHOICES.items()})


def is_possible(program):
    """Whether Lightning and torch do this at all."""
    if program.optimizer == "lbfgs" and (program.manual or program.averaging == "swa" or program.clip != "none"):
        return False  # needs a closure
    if program.averaging == "swa" and (program.manual or program.schedule == "plateau"):
        return False
    if program.averaging == "swa" and program.norm == "batch" and program.clip != "none":
        return False  # clips in an epoch that is for statistics only, without gradients
    if program.averaging == "swa" and program.norm == "batch" and program.data == "stream":
        return False  # adds such an epoch to a length that must be known
    return not (program.averaging == "ema" and program.precision == "bf16-true")


PROGRAMS = st.builds(Program, **{name: st.sampled_from(values) for name, values in CHOICES.items()}).filter(is_possible)


def run(program, ours=()):
    """What a run of `program` leaves behind, and what was found."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        L.seed_everything(3, verbose=False)
        recorded, witness = Recording(), Witness(folder)
        others = programs.callbacks(program)
        ours = list(ours)
        callbacks = [*ours, *others, witness] if program.first else [*others, *ours, witness]
        trainer = L.Trainer(
            accelerator="cpu", default_root_dir=folder, logger=[recorded, TensorBoardLogger(folder)],
            callbacks=callbacks, log_every_n_steps=1, **QUIET, **programs.settings(program),
        )  # fmt: skip
        module = Trained(program)
        before = process()
        trainer.fit(module)
        assert_same(before, process())
        assert trainer.state.finished
        end = traces(trainer, module)
        end |= {"on the way": witness.kept, "records": repr(recorded.calls), "data": module.seen}
        return end


@pytest.fixture(scope="module", autouse=True)
def _warm_up():
    """A process's first fit may end differently from its second."""
    torch.set_num_threads(1)
    run(Program(), quick())


@settings(max_examples=settings().max_examples * 3 // 10, suppress_health_check=HealthCheck)
@given(PROGRAMS)
def test_nothing_is_changed(program):
    callbacks = quick()
    bare, full = run(program), run(program, callbacks)
    assert bare["data"], "trained on something"
    assert_same(bare, full)
    assert_judged(callbacks)
