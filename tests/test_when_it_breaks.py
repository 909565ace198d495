"""Whatever breaks in the middle of a check: the run is the user's, and as it would have been."""

import hashlib
import multiprocessing
import resource
import sys
import warnings

import lightning.pytorch as L
import pytest
import torch
from conftest import QUIET
from ends import assert_same, module_state, process, quick, streams, traces
from lightning.pytorch.loggers import TensorBoardLogger
from patients import Healthy
from PIL import ImageDraw
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_recipe import Status, recipe

PLACES = {  # a file of the package, in the midst of whose work the user's forward raises
    "a trial": "trial/short_fit.py",
    "the copy of a batch": "dependencies/rerun.py",
    "a look at the predictions": "trial/replay.py",
}


class Shared:
    """The same in all copies of a module."""

    def __init__(self, place, error):
        self.place, self.error, self.times = place, error, 0

    def __deepcopy__(self, memo):
        return self


class Raises(Healthy):
    """From the second forward on that some file of the package asks for, directly or not."""

    def __init__(self, place, error):
        super().__init__()
        self.shared = Shared(place, error)

    def forward(self, x):
        if self.is_asked_by(self.shared.place):
            self.shared.times += 1
            if self.shared.times >= 2:
                raise self.shared.error
        return super().forward(x)

    @staticmethod
    def is_asked_by(place):
        frame = sys._getframe()
        while frame is not None:
            if frame.f_code.co_filename.endswith(f"lightning_recipe/{place}"):
                return True
            frame = frame.f_back
        return False


class Before(L.Callback):
    """First in the list: keeps what the module was before each of the recipe's hooks."""

    def __init__(self):
        self.before = self.error = None

    def keep(self, trainer, pl_module, *_):
        self.before = {**module_state(pl_module), "streams": streams()}

    on_validation_batch_end = on_train_batch_start = on_train_batch_end = on_train_end = keep

    def on_exception(self, trainer, pl_module, exception):
        self.error = exception


def interrupted(fit, module, error):
    around, before = process(), Before()
    with pytest.raises(SystemExit if isinstance(error, KeyboardInterrupt) else type(error)):  # Lightning's way
        fit(module, [before, *quick()])
    assert before.error is error, "the user's own exception arrives"
    assert_same(before.before, {**module_state(module), "streams": streams()})
    assert_same(around, process())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_interrupted_in_the_middle_of(fit, place, error):
    interrupted(fit, Raises(place, error), error)


@pytest.mark.parametrize("nth", [1, 3, 6])
def test_interrupted_while_drawing(fit, monkeypatch, nth):
    error, count, draw = KeyboardInterrupt(), [0], ImageDraw.Draw

    def raises(*args, **kwargs):
        count[0] += 1
        if count[0] == nth:
            raise error
        return draw(*args, **kwargs)

    monkeypatch.setattr(ImageDraw, "Draw", raises)
    interrupted(fit, Healthy(), error)


class OddError(Exception):
    """Of a kind that nobody expects."""


@pytest.mark.parametrize("error", [OddError("mine"), torch.OutOfMemoryError("CUDA out of memory")], ids=repr)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_an_error_in_the_middle_of(fit, place, error):
    ends = []
    for callbacks in ([], quick()):
        torch.manual_seed(3)
        module = Raises(place, error)
        around = process()
        ends.append(traces(fit(module, callbacks), module))
        assert_same(around, process())
    assert module.shared.times >= 2, "it was raised"
    assert_same(*ends)
    assert Status.SKIPPED in {f.status for c in callbacks for f in c.findings}
    assert Status.FAILED not in {f.status for c in callbacks for f in c.findings}


def test_an_error_while_drawing(fit, monkeypatch):
    ends = []
    for callbacks in ([], quick()):
        torch.manual_seed(3)
        module = Healthy()
        if callbacks:
            monkeypatch.setattr(ImageDraw, "Draw", lambda *_: 1 / 0)
        ends.append(traces(fit(module, callbacks), module))
    assert_same(*ends)
    assert Status.FAILED not in {f.status for c in callbacks for f in c.findings}


# -- a disk that is full, a folder that can't be written


@pytest.mark.parametrize("callbacks", [[], quick()], ids=["bare", "recipe()"])
def test_a_folder_that_can_not_be_written_is_lightnings_to_refuse(fit, tmp_path, callbacks):
    """Permissions would not stop root; a file in the place of the folder does."""
    (tmp_path / "logs").touch()
    with pytest.raises((FileExistsError, NotADirectoryError)):
        fit(Healthy(), callbacks, logger=TensorBoardLogger(tmp_path / "logs"))


def fit_with_little_room(folder, callbacks, answer):
    """Where a file may have 8 KB, which is room for curves, not for pictures."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
    L.seed_everything(3, verbose=False)
    module = Healthy()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = L.Trainer(
            max_epochs=3, accelerator="cpu", logger=TensorBoardLogger(folder), log_every_n_steps=1,
            default_root_dir=folder, callbacks=callbacks, **QUIET,
        )  # fmt: skip
        trainer.fit(module)
    end = traces(trainer, module)
    end.pop("loops")
    seen = hashlib.sha256(repr(end).encode()).hexdigest(), sum("lightning_recipe" in str(w.message) for w in caught)
    answer.send(seen)


def test_a_full_disk_costs_one_warning(tmp_path):
    """The user's curves still find room; the thread that writes TensorBoard's files dies of a picture that does not."""
    ends, counts = [], []
    fork = multiprocessing.get_context("fork")  # the limit holds to the end of a process
    for name, callbacks in (("bare", []), ("recipe", quick())):
        here, there = fork.Pipe(duplex=False)
        fitting = fork.Process(target=fit_with_little_room, args=(tmp_path / name, callbacks, there))
        fitting.start()
        there.close()
        end, count = here.recv()
        fitting.join()
        ends.append(end)
        counts.append(count)
        curves = EventAccumulator(str(next(tmp_path.glob(f"{name}/*/*"))), {"scalars": 0}).Reload()
        assert len(curves.Scalars("train_loss")) > 1
    assert ends[0] == ends[1]
    assert counts == [0, 1]


def test_a_run_that_ends_before_its_first_batch(fit):
    class Stops(Healthy):
        def validation_step(self, batch, batch_idx):
            msg = "in the sanity check"
            raise ValueError(msg)

    callbacks = recipe()
    with pytest.raises(ValueError, match="in the sanity check"):
        fit(Stops(), callbacks)
    findings = [finding for callback in callbacks for finding in callback.findings]
    assert {finding.status for finding in findings} == {Status.SKIPPED}
    assert not [finding for finding in findings if finding.code.endswith("internal_error")]
