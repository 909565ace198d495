"""Weights that validation changes: legitimate practice first, then the mistakes."""

import patients
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, StochasticWeightAveraging
from patients import Healthy
from torch.utils.data import DataLoader

from lightning_recipe import EvaluationCheck, Status


def found(fit, module, callbacks=(), **settings):
    check = EvaluationCheck()
    fit(module, [*callbacks, check], **{"logger": False, "max_epochs": 3, "limit_train_batches": 4, **settings})
    assert not [f for f in check.findings if f.code.endswith("internal_error")], check.findings
    return [f for f in check.findings if f.code.endswith("weights_not_put_back")]


# -- what is legitimate


class Restores(patients.AverageLeftIn):
    """Puts back what was there, in a hook that the test names."""

    def __init__(self, hook):
        super().__init__()
        self.stored = None
        setattr(self, hook, self.restore)

    def put(self, values):
        self.stored = [p.detach().clone() for p in self.parameters()]
        super().put(values)

    def restore(self, *_):
        if self.stored is not None:
            super().put(self.stored)
            self.stored = None


HOOKS = ["on_validation_epoch_end", "on_validation_end", "on_train_epoch_start", "on_train_batch_start"]


@pytest.mark.parametrize("hook", HOOKS)
def test_an_average_that_is_taken_out_again(fit, hook):
    assert found(fit, Restores(hook), num_sanity_val_steps=0) == []


class Swap(Callback):
    """Has its turn before the check."""

    def on_validation_start(self, trainer, pl_module):
        self.stored = [p.detach().clone() for p in pl_module.parameters()]
        with torch.no_grad():
            for p in pl_module.parameters():
                p.mul_(0.9)

    def on_validation_end(self, trainer, pl_module):
        with torch.no_grad():
            for p, value in zip(pl_module.parameters(), self.stored, strict=True):
                p.copy_(value)


class ToTheBest(Callback):
    """Goes back to better weights, which are none that validation runs with."""

    def on_train_start(self, trainer, pl_module):
        self.best = [p.detach().clone() for p in pl_module.parameters()]

    def on_validation_end(self, trainer, pl_module):
        if trainer.global_step:
            with torch.no_grad():
                for p, value in zip(pl_module.parameters(), self.best, strict=True):
                    p.copy_(value)


@pytest.mark.parametrize(
    "callback",
    [
        Swap,
        ToTheBest,
        EMAWeightAveraging,
        lambda: StochasticWeightAveraging(swa_lrs=1e-3, swa_epoch_start=1, annealing_epochs=1),
    ],
)
def test_callbacks_that_average(fit, callback):
    assert found(fit, Healthy(), [callback()]) == []


class AtTestTime(Healthy):
    """Is trained on each batch of validation, by itself."""

    def validation_step(self, batch, batch_idx):
        before = {name: value.clone() for name, value in self.state_dict().items()}
        self.train_on(batch)
        super().validation_step(batch, batch_idx)
        if not self.trainer.sanity_checking:
            self.after(before)

    @torch.inference_mode(mode=False)
    @torch.enable_grad()
    def train_on(self, batch):
        optimizer = torch.optim.SGD(self.net.parameters(), 0.5)
        x, y = (tensor.clone() for tensor in batch)
        self.loss(self(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    def after(self, before):
        self.load_state_dict(before)

    def val_dataloader(self):
        return DataLoader(self.data(64, 2), 16)


def test_training_that_is_undone(fit):
    assert found(fit, AtTestTime(), inference_mode=False) == []


def test_resting_weights(fit):
    class Resting(patients.AverageLeftIn):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    assert found(fit, Resting()) == []


@pytest.mark.parametrize("settings", [{"val_check_interval": 2}, {}])
def test_what_is_trained_is_the_same_with_the_check_and_without(fit, settings):
    def trained(*checks):
        torch.manual_seed(0)
        module = patients.AverageLeftIn()
        fit(module, list(checks), logger=False, max_epochs=2, limit_train_batches=4, **settings)
        return module.state_dict()

    with_it, without = trained(EvaluationCheck()), trained()
    assert all(torch.equal(with_it[name], value) for name, value in without.items())


def test_samples_are_taken_around_two_validations(fit):
    class Counting(EvaluationCheck):
        asked = 0

        def every_batch(self, run, stage, batch):
            super().every_batch(run, stage, batch)
            self.asked += stage == "train"

    check = Counting()
    fit(Healthy(), [check], logger=False, max_epochs=8, limit_train_batches=6)
    assert check.asked <= 2 * 3


def test_weights_without_a_sample_are_left_out(fit):
    class Complex(Healthy):
        def __init__(self):
            super().__init__()
            self.phase = torch.nn.Parameter(torch.ones(1, dtype=torch.complex64))

        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) + self.phase.abs().sum()

    assert found(fit, Complex()) == []


# -- the mistakes


class AtTheStart(patients.AverageLeftIn):
    def on_validation_epoch_start(self):
        pass

    def on_validation_start(self):
        super().on_validation_epoch_start()


@pytest.mark.parametrize("module", [patients.AverageLeftIn, AtTheStart])
@pytest.mark.parametrize(
    "settings", [{}, {"val_check_interval": 4, "limit_train_batches": 8}, {"num_sanity_val_steps": 0, "max_epochs": 2}]
)
def test_an_average_that_is_left_in(fit, module, settings):
    (finding,) = found(fit, module(), **settings)
    assert finding.status is Status.FAILED
    assert finding.evidence["parameters"] == finding.evidence["of"] == len(list(module().parameters()))


def test_a_few_weights_are_a_warning(fit):
    class One(patients.AverageLeftIn):
        def put(self, values):
            super().put([*list(self.parameters())[:-1], values[-1]])

    (finding,) = found(fit, One())
    assert (finding.status, finding.evidence["parameters"]) == (Status.WARNING, 1)


def test_validation_that_trains_is_a_warning(fit):
    class Trains(AtTestTime):
        def after(self, before):
            pass

    (finding,) = found(fit, Trains(), inference_mode=False)
    assert finding.status is Status.WARNING
