"""What ``trainer.test`` and ``trainer.validate`` begin with: legitimate practice first, then the mistakes."""

import copy
import warnings

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from patients import CLASSES, Healthy
from torch.utils.data import DataLoader, DistributedSampler
from torchmetrics import MaxMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from lightning_recipe import EvaluationCheck, Status
from lightning_recipe.callbacks._outside_of_fit import padded

ROWS = 64


class Net(Healthy):
    """Training puts examples into a metric, and logs what each batch gives."""

    def __init__(self):
        super().__init__()
        self.acc = MulticlassAccuracy(CLASSES)

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.log("train_acc", self.acc(logits, batch[1]))
        return self.loss(logits, batch[1])

    def val_dataloader(self):
        return DataLoader(self.data(ROWS, 2), 16)

    def test_dataloader(self):
        return DataLoader(self.data(ROWS, 3), 16)

    def test_step(self, batch, batch_idx):
        self.report(self(batch[0]), batch[1])

    def report(self, logits, y):
        self.log("test_acc", self.acc(logits, y))


def alarms(check):
    assert not [f for f in check.findings if f.code.endswith("internal_error")], check.findings
    return [f.code.partition("/")[2] for f in check.findings if f.is_alarm]


def advice(check):
    return {f.code.partition("/")[2]: f for f in check.findings if f.status is Status.ADVICE}


def quietly(evaluate, *args, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return evaluate(*args, verbose=False, **settings)


@pytest.fixture
def tested(fit):
    """Fit a module, and test it with the same trainer."""

    def run(module, **settings):
        check = EvaluationCheck()
        trainer = fit(module, [check], **{"logger": False, "max_epochs": 1, **settings})
        before = len(check.findings)
        quietly(trainer.test, module)
        assert len(check.findings) >= before, "what the fit has found is kept"
        return check

    return run


def alone(tmp_path, **settings):
    check = EvaluationCheck()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    quiet |= {"accelerator": "cpu", "logger": False, "default_root_dir": tmp_path}
    trainer = L.Trainer(callbacks=[check], **quiet, **settings)
    return check, trainer


# -- legitimate


class Resets(Net):
    """As a whole, from an empty metric on."""

    def on_test_epoch_start(self):
        for metric in (self.acc,):
            metric.reset()

    def report(self, logits, y):
        self.acc(logits, y)
        self.log("test_acc", self.acc)


class OneEach(Net):
    """A metric of its own for each stage, in a dictionary or not."""

    def __init__(self):
        super().__init__()
        self.accs = torch.nn.ModuleDict({"fit": self.acc, "test": self.acc.clone()})
        self.test_acc = MulticlassAccuracy(CLASSES)
        del self.acc

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.log("train_acc", self.accs["fit"](logits, batch[1]))
        return self.loss(logits, batch[1])

    def report(self, logits, y):
        self.accs["test"](logits, y)
        self.log("test_accs", self.accs["test"])
        self.test_acc.update(logits, y)
        self.log("test_acc", self.test_acc)


class Best(Net):
    """The best so far is kept on purpose."""

    def __init__(self):
        super().__init__()
        self.best = MaxMetric()

    def training_step(self, batch, batch_idx):
        self.best(batch[0].mean())
        return super().training_step(batch, batch_idx)

    def report(self, logits, y):
        self.best(logits.mean())
        self.log("best", self.best.compute())


class TwoLoaders(Net):
    def test_dataloader(self):
        return [super().test_dataloader()] * 2

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.report(self(batch[0]), batch[1])


@pytest.mark.parametrize("make", [Net, Resets, OneEach, Best, TwoLoaders])
def test_a_test_after_a_fit(tested, make):
    check = tested(make())
    assert not alarms(check)
    assert not advice(check)


def test_a_trial_says_nothing(tested):
    check = tested(Net(), fast_dev_run=True)
    assert not alarms(check)
    assert [f.subject for f in advice(check).values()] == [""], "of validation in the fit only"


def test_a_test_of_a_pretrained_net(tmp_path):
    check, trainer = alone(tmp_path)
    quietly(trainer.test, Net())
    quietly(trainer.validate, Net())
    assert not check.findings


def test_checks_of_sanity_and_validation_cut_on_purpose_are_told_once(fit):
    check = EvaluationCheck()
    module = Net()
    trainer = fit(module, [check], logger=False, max_epochs=1, num_sanity_val_steps=1, limit_val_batches=2)
    told = len(check.findings)
    quietly(trainer.validate, module)
    quietly(trainer.test, module)
    assert len(check.findings) == told


def test_what_training_began_with_beside_what_it_has_come_to(fit, tmp_path):
    check, module = EvaluationCheck(), Net()
    before = copy.deepcopy(module)
    keep = ModelCheckpoint(tmp_path / "kept", monitor=None)
    settings = {"logger": False, "max_epochs": 1, "enable_checkpointing": True}
    trainer = fit(module, [check, keep], **settings)
    path = str(tmp_path / "begin.ckpt")
    torch.save({**torch.load(keep.best_model_path, weights_only=False), "state_dict": before.state_dict()}, path)
    for tested, given in ((module, path), (module, "best"), (before, None)):
        quietly(trainer.test, tested, ckpt_path=given)
        assert not alarms(check)


class Frozen(Net):
    """All but the last layer."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.net[-1].parameters(), lr=0.1)


class Still(Net):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.parametrize("make", [Frozen, Still])
def test_what_training_does_not_change(tested, make):
    assert "weights_of_the_beginning" not in alarms(tested(make()))


@pytest.mark.parametrize(("count", "ranks"), [(64, 8), (65, 1), (9999, 2), (1000, 8), (10**6 + 1, 64)])
def test_samplers_that_pad_little(count, ranks):
    sampler = DistributedSampler(range(count), ranks, 0)
    assert padded(DataLoader(range(count), 8, sampler=sampler), "test") is None


def test_loaders_without_a_sampler():
    assert padded([1, 2], "test") is None
    assert padded(DataLoader(range(65), 8), "test") is None
    dropped = DistributedSampler(range(65), 8, 0, drop_last=True)
    assert padded(DataLoader(range(65), 8, sampler=dropped), "test") is None


# -- patients


class AsAWhole(Net):
    def report(self, logits, y):
        self.acc(logits, y)
        self.log("test_acc", self.acc)


class ByHand(Net):
    def report(self, logits, y):
        self.acc.update(logits, y)

    def on_test_epoch_end(self):
        self.log("test_acc", self.acc.compute())


class Collected(Net):
    def __init__(self):
        super().__init__()
        self.acc = MetricCollection([MulticlassAccuracy(CLASSES), MulticlassF1Score(CLASSES)])

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.acc.update(logits, batch[1])
        return self.loss(logits, batch[1])

    def report(self, logits, y):
        self.acc.update(logits, y)
        self.log_dict(self.acc)


@pytest.mark.parametrize("make", [AsAWhole, ByHand, Collected])
def test_metrics_that_hold_what_training_put_there(tested, make):
    check = tested(make())
    assert set(alarms(check)) == {"one_metric_two_stages"}
    finding = next(f for f in check.findings if f.is_alarm)
    assert finding.subject.startswith("acc")
    assert finding.evidence["updates"] > 0


def test_a_copy_was_trained(fit):
    check, module = EvaluationCheck(), Net()
    trainer = fit(copy.deepcopy(module), [check], logger=False, max_epochs=1)
    quietly(trainer.test, module)
    assert alarms(check) == ["weights_of_the_beginning"]
    assert check.findings[-1].evidence["steps"] == trainer.global_step


def test_a_test_that_is_cut_short(tested, tmp_path):
    check = tested(TwoLoaders(), limit_test_batches=3)
    cut = [f for f in check.findings if f.code.endswith("limited_batches")]
    assert [f.evidence for f in cut] == [{"read": 3, "batches": 4}] * 2
    assert [f.subject for f in cut] == ["test loader 0", "test loader 1"]
    check, trainer = alone(tmp_path, limit_val_batches=1)
    quietly(trainer.validate, Healthy())
    assert "limit_val_batches" in advice(check)["limited_batches"].fix


def test_samplers_that_repeat_examples(fit, tmp_path):
    module = Healthy()
    loader = DataLoader(module.data(65, 2), 8, sampler=DistributedSampler(range(65), 4, 0))
    check, trainer = alone(tmp_path)
    module.test_step = module.validation_step
    quietly(trainer.test, module, loader)
    assert advice(check)["padded_sampler"].evidence == {"repeated": 3, "examples": 65, "ranks": 4}
    check = EvaluationCheck()
    trainer = fit(module, [check], val=loader, logger=False, max_epochs=1)
    assert advice(check)["padded_sampler"].subject == ""
    quietly(trainer.validate, module, loader)
    assert not alarms(check)
    assert len([f for f in check.findings if f.code.endswith("padded_sampler")]) == 1
