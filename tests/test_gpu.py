"""The same promises on a GPU: ``pytest -m gpu``."""

import gc
import warnings

import lightning.pytorch as L
import pytest
import torch
from conftest import QUIET
from ends import assert_judged, assert_same, process, quick, traces
from lightning.pytorch.loggers import TensorBoardLogger
from patients import Healthy
from programs import ByHand
from torch.utils.data import DataLoader

from lightning_recipe import FirstNonFinite, Status
from lightning_recipe.callbacks.first_non_finite import RECENT

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="NOTHING IS TESTED ON A GPU: torch finds no CUDA here"),
]


class OnGpu(Healthy):
    """Draws from the stream of the GPU in each step, and comes from pinned memory."""

    def training_step(self, batch, batch_idx):
        assert batch[0].is_cuda
        noise = 0.01 * torch.randn_like(batch[0])
        return super().training_step((batch[0] + noise, batch[1]), batch_idx)

    def train_dataloader(self):
        return DataLoader(self.data(256, 1), 32, shuffle=True, pin_memory=True, num_workers=1)


class Compiled(OnGpu):
    def __init__(self):
        super().__init__()
        self.net = torch.compile(self.net)


class OnGpuByHand(ByHand, OnGpu):
    """The same, in manual optimisation."""


@pytest.fixture
def end(tmp_path):
    """All that a run on the GPU leaves behind, the state of a GradScaler and the CUDA streams among it."""

    def run(make, callbacks=(), **settings):
        L.seed_everything(3, verbose=False)
        torch.backends.cudnn.deterministic = True
        module = make()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = L.Trainer(
                accelerator="gpu", devices=1, max_epochs=2, default_root_dir=tmp_path,
                logger=TensorBoardLogger(tmp_path), callbacks=list(callbacks), **QUIET, **settings,
            )  # fmt: skip
            trainer.fit(module)
        return traces(trainer, module) | {"process": process()}  # torch itself sets variables of the environment

    run(OnGpu)  # a process's first fit may end differently from its second
    return run


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"])
@pytest.mark.parametrize("make", [OnGpu, OnGpuByHand])
def test_nothing_is_changed(end, make, precision):
    callbacks = quick()
    bare, full = end(make, precision=precision), end(make, callbacks, precision=precision)
    assert bool(bare["scaler"]) == (precision == "16-mixed")
    assert_same(bare, full)
    assert_judged(callbacks)
    assert Status.FAILED not in {finding.status for callback in callbacks for finding in callback.findings}


@pytest.mark.parametrize("settings", [{"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}, {"benchmark": False}])
def test_settings(end, settings):
    assert_same(end(OnGpu, **settings), end(OnGpu, quick(), **settings))


def test_compiled_as_often_as_without(end):
    counted, ends = [], []
    for callbacks in ([], quick()):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        ends.append(end(Compiled, callbacks))
        counted.append(dict(torch._dynamo.utils.counters["stats"]))
    assert_same(*ends)
    assert counted[0] == counted[1]


def test_memory_is_given_back_after_the_start(end):
    class Memory(L.Callback):
        """Bytes allocated after the tenth step, last in the list."""

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 10:
                gc.collect()
                torch.cuda.synchronize()
                self.allocated = torch.cuda.memory_allocated()

    bare, full = Memory(), Memory()
    end(OnGpu, [bare])
    end(OnGpu, [*quick(), full])
    kept = 64 * 2**10  # the fixed batch whose predictions are watched, and the network's call on it
    kept += RECENT * sum(2**9 * -(-rows.nbytes // 2**9) for rows in Healthy().data(32, 1).tensors)  # the last batches
    assert full.allocated - bare.allocated < kept


BAD = 9


class BadGradient(OnGpu):
    """Looks are after 8 and 16 steps."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss + (loss * 0).abs().pow(0.5) if self.global_step == BAD else loss


class NeverWaits(FirstNonFinite):
    """An error if the host waits for the device before there is anything to tell."""

    def every_loss(self, run, loss, batch):
        torch.cuda.set_sync_debug_mode("error" if run.trainer.global_step < BAD else "default")
        try:
            return super().every_loss(run, loss, batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")


NeverWaits.__name__ = "FirstNonFinite"


def test_a_bad_gradient_is_told_of_its_step_without_waiting(end):
    check = NeverWaits(keep_examples=False)
    end(BadGradient, [check])
    (finding,) = check.findings
    assert (finding.code, finding.evidence["at"]) == ("FirstNonFinite/gradient", BAD), finding
    assert "pow" in finding.message
    assert BAD < finding.step < 16
