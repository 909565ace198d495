"""Evaluation that can be trusted: legitimate practice first, then the mistakes."""

import copy
import logging
from functools import partial

import lightning.pytorch as L
import numpy as np
import patients
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from patients import CLASSES, Healthy
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchmetrics import MaxMetric, MeanMetric, MetricCollection
from torchmetrics.classification import (
    BinaryAUROC,
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassF1Score,
    MulticlassRecall,
)
from torchmetrics.functional import r2_score
from torchmetrics.functional.classification import multiclass_f1_score
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError, R2Score

from lightning_recipe import EvaluationCheck, Status, UpdateRatioMonitor
from lightning_recipe.callbacks._thresholds import _with_numbers


def found(fit, module, **settings):
    check = EvaluationCheck()
    fit(module, [check], **{"logger": False, "max_epochs": 2, "limit_train_batches": 3, **settings})
    assert not [f for f in check.findings if f.code.endswith("internal_error")], check.findings
    return check.findings


def codes(findings):
    return [f.code.partition("/")[2] for f in findings if f.is_alarm]


# -- what is legitimate


class Logs(Healthy):
    """What validation logs is the test's own."""

    def __init__(self, **metrics):
        super().__init__()
        for name, metric in metrics.items():
            setattr(self, name, metric)

    def val_dataloader(self):
        return DataLoader(self.data(64, 2), 16)

    def validation_step(self, batch, batch_idx):
        self.report(self(batch[0]), batch[1])


class Objects(Logs):
    def report(self, logits, y):
        self.f1(logits, y)
        self.log("val_f1", self.f1)
        self.auroc.update(logits, y)
        self.log("val_auroc", self.auroc, on_step=False, on_epoch=True)


class Collection(Logs):
    def report(self, logits, y):
        self.scores(logits, y)
        self.log_dict(self.scores)


class Values(Logs):
    def report(self, logits, y):
        self.log("val_score", self.score(logits, y))


class Regressions(Logs):
    def report(self, logits, y):
        self.log("val_score", self.score(logits[:, 0], y.float()))


class ByHand(Logs):
    def report(self, logits, y):
        self.f1.update(logits, y)

    def on_validation_epoch_end(self):
        self.log("val_f1", self.f1.compute())
        self.f1.reset()


class ResetBefore(ByHand):
    def on_validation_epoch_start(self):
        self.f1.reset()

    def on_validation_epoch_end(self):
        self.log("val_f1", self.f1.compute())


class ValuesToo(ByHand):
    """The progress bar shows the batches' values, and the epoch's is computed."""

    def report(self, logits, y):
        self.log("val_f1_batch", self.f1(logits, y), prog_bar=True)


class Best(Logs):
    """The best value so far is kept on purpose."""

    def report(self, logits, y):
        self.acc(logits, y)
        self.log("val_acc", self.acc)

    def on_validation_epoch_end(self):
        self.best(self.acc.compute())
        self.log("val_acc_best", self.best.compute())


class OfSteps(Logs):
    def report(self, logits, y):
        self.log("val_f1", self.f1(logits, y), on_step=True, on_epoch=False)
        self.log("val_f1_max", multiclass_f1_score(logits, y, CLASSES), reduce_fx=max)


class InBatch(Logs):
    """A contrastive loss, and one that is weighted within the batch."""

    def report(self, logits, y):
        self.log("val_loss", F.cross_entropy(logits @ logits.T, torch.arange(len(y))))
        self.log("val_weighted", F.cross_entropy(logits, y, torch.arange(1.0, 1 + CLASSES)))


class OfExamples(Logs):
    """The mean over the examples of an RMSE and an F1 of each."""

    def report(self, logits, y):
        apart = logits - F.one_hot(y, CLASSES)
        self.log("val_rmse", apart.square().mean(1).sqrt().mean())
        self.log("val_f1", (apart.abs() < 0.5).float().mean())


class Codes(Logs):
    """How many codes of a codebook a batch uses, as is customary."""

    def report(self, logits, y):
        shares = F.one_hot(torch.arange(len(y))).float().mean(0)
        self.log("val_perplexity", torch.special.entr(shares).sum().exp())


class Shared(Logs):
    """Both stages use one object, for the values of single batches only, which are means."""

    def report(self, logits, y):
        self.log("val_accuracy", self.accuracy(logits, y))

    def __init__(self):
        super().__init__()
        self.accuracy = MulticlassAccuracy(CLASSES, average="micro")


class SharedAndReset(Logs):
    def on_validation_epoch_start(self):
        self.accuracy.reset()

    def report(self, logits, y):
        self.accuracy(logits, y)
        self.log("val_accuracy", self.accuracy)


class Thresholds(Logs):
    """Of probabilities, and of logits at 0."""

    def report(self, logits, y):
        target = F.one_hot(y, CLASSES).float()
        self.log("val_loss", F.binary_cross_entropy_with_logits(logits, target))
        self.log("val_hits", ((logits.sigmoid() > 0.5) == target).float().mean())
        self.log("val_acc", ((logits > 0) == (target > 0.5)).float().mean())
        self.log("val_rounded", (logits.sigmoid().round() == target).float().mean())


class Collects(Logs):
    """Predictions are kept, and forgotten; what all epochs said is drawn."""

    def __init__(self):
        super().__init__()
        self.outputs, self.losses, self.classes = {"said": [], "true": []}, [], [torch.arange(CLASSES)]

    def report(self, logits, y):
        self.outputs["said"].append(logits.argmax(1))
        self.outputs["true"].append(y)
        self.losses.append(self.loss(logits, y))

    def on_validation_epoch_end(self):
        self.draw()
        said, true = (torch.cat(values) for values in self.outputs.values())
        self.log("val_acc", (said == true).float().mean())
        self.forget()

    def draw(self):
        assert len(self.classes) <= len(self.losses)

    def forget(self):
        for values in self.outputs.values():
            values.clear()


class Pools(Logs):
    """Keeps what was said of each batch, and computes what is no mean of all of it; with an own object, or a list."""

    kept, threshold = list, 0.5

    def on_validation_epoch_start(self):
        self.outputs = self.kept()

    def training_step(self, batch, batch_idx):
        return F.binary_cross_entropy_with_logits(self(batch[0]), F.one_hot(batch[1], CLASSES).float())

    def report(self, logits, y):
        self.outputs.append((logits.sigmoid(), y))

    def on_validation_epoch_end(self):
        said, true = (torch.cat(values) for values in zip(*self.outputs, strict=True))
        yes, true = said > self.threshold, F.one_hot(true, CLASSES)
        self.log("val_f1", 2 * (yes & (true == 1)).sum() / (yes.sum() + true.sum()))
        self.log("val_hits", (yes == true).float().mean())
        self.log("val_sure", ((said - 0.5).abs() > 0.4).float().mean())


class TunedThreshold(Pools):
    threshold = 0.3


class MeansOfBatches(Pools):
    """What is a mean may be averaged, and has a name of its own."""

    def report(self, logits, y):
        self.outputs.append((logits.argmax(1) == y).float().mean())

    def on_validation_epoch_end(self):
        self.log("val_r2_of_hits", torch.stack(self.outputs).mean())


class InOneBatch(Pools):
    def val_dataloader(self):
        return DataLoader(self.data(64, 2), 64)


class Begins(Collects):
    """Empties lists before, which may be of any length."""

    def forget(self):
        pass

    def on_validation_start(self):
        self.outputs = {"said": [], "true": []}
        self.log_to = len(self.losses)

    def report(self, logits, y):
        super().report(logits, y)
        self.outputs["said"].extend([logits.argmax(1)[:0]] * self.log_to)


class Forgets(Collects):
    """Keeps them, and has no need of a sanity check to be seen."""

    def forget(self):
        pass


class MeanByHand(Logs):
    """Keeps a number for each batch, of which the last may be short."""

    examples = 40

    def __init__(self):
        super().__init__()
        self.losses = []

    def val_dataloader(self):
        return DataLoader(self.data(self.examples, 2), 16)

    def report(self, logits, y):
        self.losses.append(self.loss(logits, y))

    def on_validation_epoch_end(self):
        self.log("val_loss", torch.stack(self.losses).mean())
        self.losses.clear()


class EvenByHand(MeanByHand):
    examples = 48


class ManyByHand(MeanByHand):
    examples = 16 * 20 + 1


class Weighted(MeanByHand):
    """Keeps the losses of examples."""

    def report(self, logits, y):
        self.losses.append(F.cross_entropy(logits, y, reduction="none"))

    def on_validation_epoch_end(self):
        self.log("val_loss", torch.cat(self.losses).mean())
        self.losses.clear()


class OneBatch(Values):
    def val_dataloader(self):
        return DataLoader(self.data(64, 2), 64)


class OneByOne(Values):
    def val_dataloader(self):
        return DataLoader(self.data(8, 2), 1)


class OfUsers(Values):
    """The data set gives the items of one user each, whose metric is averaged over the users."""

    def val_dataloader(self):
        users = [[part[i : i + 8] for part in self.data(64, 2).tensors] for i in range(0, 64, 8)]
        return DataLoader(users, batch_size=None)


class TwoLoaders(Objects):
    def val_dataloader(self):
        loader = super().val_dataloader()
        return [loader, loader]

    def validation_step(self, batch, batch_idx, dataloader_idx):
        if dataloader_idx == 0:
            super().validation_step(batch, batch_idx)


class OneEach(TwoLoaders):
    """Two sets, a metric for each; a third one for both together."""

    def __init__(self):
        super().__init__(f1=micro(), auroc=MulticlassAUROC(CLASSES))
        self.accs = torch.nn.ModuleList([micro(), micro()])
        self.all = micro()

    def validation_step(self, batch, batch_idx, dataloader_idx):
        logits, y = self(batch[0]), batch[1]
        self.accs[dataloader_idx](logits, y)
        self.log("val_acc", self.accs[dataloader_idx])
        self.all.update(logits, y)

    def on_validation_epoch_end(self):
        self.log("val_acc_all", self.all.compute())
        self.all.reset()


class OneTwice(OneEach):
    def __init__(self):
        super().__init__()
        self.accs = torch.nn.ModuleList([micro()] * 2)

    def validation_step(self, batch, batch_idx, dataloader_idx):
        self.accs[dataloader_idx].update(self(batch[0]), batch[1])

    def on_validation_epoch_end(self):
        for i, acc in enumerate(self.accs):
            self.log(f"val_acc_{i}", acc.compute())
        self.accs[0].reset()


def micro(kind=MulticlassAccuracy):
    return kind(CLASSES, average="micro")


def f1():
    return MulticlassF1Score(CLASSES)


HEALTHY = {
    "a loss": Healthy,
    "objects": lambda: Objects(f1=f1(), auroc=MulticlassAUROC(CLASSES)),
    "a collection": lambda: Collection(scores=MetricCollection({"val_f1": f1(), "val_recall": MulticlassRecall(4)})),
    "the accuracy of batches": lambda: Values(score=micro()),
    "a mean": lambda: Regressions(score=MeanMetric()),
    "errors of batches": lambda: Regressions(score=MeanAbsoluteError()),
    "squared errors of batches": lambda: Regressions(score=MeanSquaredError()),
    "computed and reset": lambda: ByHand(f1=f1()),
    "reset before": lambda: ResetBefore(f1=f1()),
    "values, too": lambda: ValuesToo(f1=f1()),
    "the best so far": lambda: Best(acc=micro(), best=MaxMetric()),
    "steps": lambda: OfSteps(f1=f1()),
    "in the batch": InBatch,
    "means of examples": OfExamples,
    "thresholds": Thresholds,
    "batches of one size": EvenByHand,
    "many batches": ManyByHand,
    "means over examples": Weighted,
    "codes": Codes,
    "lists that are emptied": Collects,
    "lists that begin anew": Begins,
    "all that was said": Pools,
    "a threshold of one's own": TunedThreshold,
    "means of batches": MeansOfBatches,
    "all in one batch": InOneBatch,
    "one object for values": Shared,
    "one object, reset": SharedAndReset,
    "one batch": lambda: OneBatch(score=f1()),
    "one by one": lambda: OneByOne(score=f1()),
    "of users": lambda: OfUsers(score=f1()),
    "one for each loader": OneEach,
    "two loaders": lambda: TwoLoaders(f1=f1(), auroc=MulticlassAUROC(CLASSES)),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_legitimate_practice_passes(fit, name):
    findings = found(fit, HEALTHY[name]())
    assert [f.status for f in findings] == [Status.PASSED], findings


class Names(Logs):
    def report(self, logits, y):
        for name in ("val_loss", "val_acc", "neg_loss", "score", "val/F1"):
            self.log(name, F.mse_loss(logits, torch.zeros_like(logits)))


class Stopping(EarlyStopping):
    state_key = property(lambda self: f"stopping {self.monitor}")


class OwnMonitor(L.Callback):
    monitor, mode = "loss of the gradients' norm", "max"


class Keeping(ModelCheckpoint):
    state_key = property(lambda self: f"keeping {self.monitor}")


def test_monitors_that_say_what_they_mean(fit):
    class Monitoring(Names):
        def configure_callbacks(self):
            means = {"val_loss": "min", "val_acc": "max", "neg_loss": "max", "score": "min", "val/F1": "max"}
            both = [kind(monitor=name, mode=mode) for name, mode in means.items() for kind in (Stopping, Keeping)]
            return [*both, Keeping(monitor="step", mode="max"), OwnMonitor()]

    assert codes(found(fit, Monitoring(), enable_checkpointing=True)) == []


def test_training_that_is_monitored_where_nothing_else_is_logged(fit):
    class Only(Healthy):
        def configure_callbacks(self):
            return [EarlyStopping("train_loss")]

    assert codes(found(fit, Only(), limit_val_batches=0)) == []


def test_memorising_a_few_batches_on_purpose_is_no_alarm(fit):
    (finding,) = found(fit, Healthy(), overfit_batches=1)
    assert (finding.status, finding.code) == (Status.ADVICE, "EvaluationCheck/overfit_batches")


def test_a_trial_run_is_no_alarm(fit):
    assert codes(found(fit, Healthy(), fast_dev_run=True)) == []


def test_no_validation_is_skipped(fit):
    assert [f.status for f in found(fit, Healthy(), limit_val_batches=0)] == [Status.SKIPPED]


# -- mistakes


class FromSklearn(Logs):
    def report(self, logits, y):
        self.log("val_f1", float(multiclass_f1_score(logits.cpu(), torch.tensor(y.numpy()), CLASSES)))


class Rooted(Logs):
    """Of examples that are in order."""

    def report(self, logits, y):
        self.log("val_rmse", F.mse_loss(logits, 3.0 * y[:, None].expand_as(logits)).sqrt())

    def val_dataloader(self):
        data = self.data(64, 2)
        return DataLoader(Subset(data, data.tensors[1].argsort().tolist()), 32)


class AllAtOnce(Logs):
    def report(self, logits, y):
        self.log_dict(self.scores(logits, y))


class Binary(Logs):
    def report(self, logits, y):
        self.log("val_ranking", self.score(logits[:, 0], (y == 0).long()))


AVERAGED = {
    "a forward value": (lambda: Values(score=f1()), Status.WARNING),
    "AUROC": (lambda: Binary(score=BinaryAUROC()), Status.WARNING),
    "R2": (lambda: Regressions(score=R2Score()), Status.WARNING),
    "numbers": (FromSklearn, Status.WARNING),
    "macro accuracy": (lambda: Values(score=MulticlassAccuracy(CLASSES)), Status.ADVICE),
    "a collection": (lambda: AllAtOnce(scores=MetricCollection({"a": f1(), "b": micro()})), Status.WARNING),
}


@pytest.mark.parametrize("name", AVERAGED)
def test_metrics_that_are_averaged(fit, name):
    module, status = AVERAGED[name]
    findings = found(fit, module())
    assert [(f.status, f.code) for f in findings] == [(status, "EvaluationCheck/averaged_over_batches")], findings


class Meter:
    """Averages what it is given, by the size of the batch."""

    def __init__(self):
        self.sum, self.count = 0.0, 0

    def add(self, value, n):
        self.sum, self.count = self.sum + float(value) * n, self.count + n


class MeterOfR2(Pools):
    """The R2 of each batch, averaged by hand."""

    kept = Meter

    def val_dataloader(self):
        data = self.data(64, 2)
        return DataLoader(Subset(data, torch.randperm(64, generator=torch.Generator().manual_seed(0)).tolist()), 16)

    def report(self, logits, y):
        self.outputs.add(r2_score(logits[:, 0], y.float()), len(y))

    def on_validation_epoch_end(self):
        self.log("val_r2", self.outputs.sum / self.outputs.count)


class ListOfF1(Pools):
    def on_validation_epoch_start(self):
        pass

    def __init__(self):
        super().__init__()
        self.f1s = []

    def report(self, logits, y):
        self.f1s.append(multiclass_f1_score(logits, y, CLASSES, average="macro").item())

    def on_validation_epoch_end(self):
        self.log("val_f1", sum(self.f1s) / len(self.f1s))
        self.f1s.clear()


@pytest.mark.parametrize("module", [MeterOfR2, ListOfF1])
def test_metrics_that_are_averaged_by_hand_at_the_end(fit, module):
    (finding,) = [f for f in found(fit, module(), max_epochs=3) if f.is_alarm]
    assert (finding.status, finding.code) == (Status.WARNING, "EvaluationCheck/averaged_over_batches")
    assert abs(finding.evidence["mean_of_parts"] - finding.evidence["whole"]) > 0.05 * abs(finding.evidence["whole"])


def test_a_hook_that_writes_files_is_not_run_again(fit, tmp_path):
    class Writes(ListOfF1):
        def on_validation_epoch_end(self):
            super().on_validation_epoch_end()
            with (tmp_path / "scores.txt").open("a") as file:
                file.write("once\n")

    assert codes(found(fit, Writes(), max_epochs=3, num_sanity_val_steps=0)) == []
    assert (tmp_path / "scores.txt").read_text() == 3 * "once\n"


HISTORY = []


class KeepsHistory(ListOfF1):
    def on_validation_epoch_end(self):
        HISTORY.append(max(self.f1s))
        super().on_validation_epoch_end()


class WritesALog(ListOfF1):
    def on_validation_epoch_end(self):
        self.tell()
        super().on_validation_epoch_end()

    def tell(self):
        [logging.getLogger("epochs").warning("an epoch is over") for _ in self.f1s[:1]]


def test_a_hook_that_others_know_of_is_not_run_again(fit, caplog):
    HISTORY.clear()
    assert codes(found(fit, KeepsHistory(), max_epochs=3, num_sanity_val_steps=0)) == []
    assert len(HISTORY) == 3
    assert codes(found(fit, WritesALog(), max_epochs=3, num_sanity_val_steps=0)) == []
    assert [record.message for record in caplog.records if record.name == "epochs"] == 3 * ["an epoch is over"]


class WantsWholeBatches(Logs):
    def report(self, logits, y):
        if len(y) != 16:
            raise ValueError(len(y))
        self.log("val_score", self.score(logits, y))


def test_a_step_that_takes_no_parts_of_a_batch_is_judged_all_the_same(fit):
    (finding,) = found(fit, WantsWholeBatches(score=MulticlassF1Score(CLASSES, average="macro")))
    assert (finding.status, finding.code) == (Status.WARNING, "EvaluationCheck/averaged_over_batches")
    assert not finding.evidence


def test_nothing_of_the_batch_is_kept_after_a_look(fit):
    class Looking(EvaluationCheck):
        def validation(self, run, step):
            yield from super().validation(run, step)
            seen = self._seen
            assert (seen.step.batch, seen.logged, seen.uses["score"].updates) == (None, [], 1)
            assert not any(use.args or use.output is not None for use in seen.uses.values())

    check = Looking()
    module = Values(score=MulticlassF1Score(CLASSES, average="macro"))
    fit(module, [check], logger=False, max_epochs=2, limit_train_batches=3, num_sanity_val_steps=0)
    assert [f.code for f in check.findings] == ["Looking/averaged_over_batches"]


def test_a_root_is_advice_or_more(fit):
    (finding,) = found(fit, Rooted())
    assert finding.code == "EvaluationCheck/averaged_over_batches"
    assert finding.evidence["mean_of_parts"] < finding.evidence["whole"]


def test_one_metric_for_two_stages(fit):
    finding = found(fit, patients.OneMetric())[0]
    assert (finding.status, finding.code) == (Status.FAILED, patients.OneMetric.code)
    assert finding.evidence == {"updates": 3}


class OneByHand(Logs):
    def report(self, logits, y):
        self.accuracy.update(logits, y)

    def on_validation_epoch_end(self):
        self.log("val_accuracy", self.accuracy.compute())
        self.accuracy.reset()

    def on_train_epoch_end(self):
        self.accuracy.reset()


def test_one_metric_under_two_names(fit):
    class TwoNames(Healthy):
        def __init__(self):
            super().__init__()
            self.train_accuracy = self.val_accuracy = self.accuracy
            del self.accuracy

        def training_step(self, batch, batch_idx):
            logits = self(batch[0])
            self.train_accuracy.update(logits, batch[1])
            return self.loss(logits, batch[1])

        def on_train_epoch_end(self):
            self.log("train_accuracy", self.train_accuracy.compute())
            self.train_accuracy.reset()

        def validation_step(self, batch, batch_idx):
            self.val_accuracy.update(self(batch[0]), batch[1])

        def on_validation_epoch_end(self):
            self.log("val_accuracy", self.val_accuracy.compute())

    assert codes(found(fit, TwoNames())) == ["one_metric_two_stages"]


def test_one_metric_by_hand(fit):
    assert codes(found(fit, OneByHand())) == ["one_metric_two_stages"]


@pytest.mark.parametrize("module", [patients.OneForBoth, OneTwice])
def test_one_metric_for_two_loaders(fit, module):
    assert codes(found(fit, module())) == ["one_metric_two_loaders"]


def test_a_metric_that_is_never_reset(fit):
    (finding,) = found(fit, patients.NeverReset())
    assert (finding.status, finding.code) == (Status.WARNING, patients.NeverReset.code)
    assert finding.evidence["updates"] >= 2


def test_lists_that_are_never_emptied(fit):
    (finding,) = found(fit, Forgets(), max_epochs=3)
    assert (finding.status, finding.code) == (Status.WARNING, "EvaluationCheck/never_reset")
    assert finding.subject == "outputs"
    assert finding.evidence == {"entries": 16}


def test_a_short_batch_that_weighs_as_much_is_advice(fit):
    (finding,) = found(fit, MeanByHand())
    assert (finding.status, finding.code) == (Status.ADVICE, "EvaluationCheck/mean_of_means")
    assert finding.evidence == {"batch_size": 16, "last": 8}


class OneWeight(MeanByHand):
    """Says that all batches are as large."""

    weight = staticmethod(len)  # of a pair

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", self.loss(self(x), y), batch_size=self.weight(batch))

    def on_validation_epoch_end(self):
        pass


def test_a_weight_that_is_no_number_of_examples_is_advice(fit):
    (finding,) = found(fit, OneWeight())
    assert (finding.status, finding.code) == (Status.ADVICE, "EvaluationCheck/mean_of_means")
    assert finding.subject == "val_loss"
    right, even, alone = OneWeight(), OneWeight(), OneWeight()
    right.weight, even.examples, alone.examples = lambda batch: 3 * len(batch[1]), 48, 12
    assert [f.status for module in (right, even, alone) for f in found(fit, module)] == [Status.PASSED] * 3


def test_the_worst_that_counts_as_the_best(fit):
    finding = next(f for f in found(fit, patients.WorstIsBest()) if f.is_alarm)
    assert (finding.status, finding.code, finding.subject) == (
        Status.WARNING,
        patients.WorstIsBest.code,
        "EarlyStopping",
    )


@pytest.mark.parametrize(
    ("patient", "status"),
    [
        (patients.NeverLogged, Status.WARNING), (patients.MonitorsTraining, Status.ADVICE),
        (patients.OverfitLeftOn, Status.WARNING), (patients.CutShort, Status.ADVICE),
    ],
)  # fmt: skip
def test_settings(fit, patient, status):
    findings = found(fit, patient(), **patient.steps)
    assert [(f.status, f.code) for f in findings] == [(status, patient.code)], findings


class Rounded(Logs):
    def report(self, logits, y):
        target = F.one_hot(y, CLASSES).float()
        self.log("val_loss", F.binary_cross_entropy_with_logits(logits, target))
        self.log("val_hits", (logits.round() == target).float().mean())


class NoLoss(Logs):
    """The network as it is at hand; validation computes no loss."""

    def training_step(self, batch, batch_idx):
        return F.binary_cross_entropy_with_logits(self.net(batch[0])[:, 0], (batch[1] > 1).float())

    def report(self, logits, y):
        true = y > 1
        self.log("val_hits", ((logits[:, 0] > 0.5) == true).float().mean())


class Named(NoLoss):
    """The threshold has a name."""

    threshold = 0.5

    def report(self, logits, y):
        true = y > 1
        self.log("val_hits", ((logits[:, 0] > self.threshold) == true).float().mean())


class NamedZero(Named):
    threshold = 0.0


class Squashed(NoLoss):
    def report(self, logits, y):
        super().report(logits.sigmoid(), y)


class Own(torch.nn.Linear):
    """Puts out probabilities when it is not trained."""

    def forward(self, x):
        return super().forward(x) if self.training else super().forward(x).sigmoid()


class SquashedInside(NoLoss):
    def __init__(self):
        super().__init__()
        self.net[-1] = Own(32, CLASSES)


class OwnZero(NoLoss):
    """In a function of its own, whose code is not read."""

    cut = staticmethod(partial(torch.gt, other=0.0))

    def report(self, logits, y):
        self.log("val_hits", (self.cut(logits[:, 0]) == (y > 1)).float().mean())


class OwnHalf(OwnZero):
    cut = staticmethod(partial(torch.gt, other=0.5))


class PooledLogits(Pools):
    def report(self, logits, y):
        self.outputs.append((logits, y))


def test_logits_that_are_cut_elsewhere_than_in_the_code_of_the_step(fit):
    (finding,) = found(fit, OwnHalf())
    assert (finding.code, finding.subject) == ("EvaluationCheck/thresholds_on_logits", "val_hits")
    pooled = found(fit, PooledLogits())
    assert {(f.code, f.subject) for f in pooled} == {
        ("EvaluationCheck/thresholds_on_logits", "val_hits"), ("EvaluationCheck/thresholds_on_logits", "val_f1"),
    }  # fmt: skip


@pytest.mark.parametrize("module", [OwnZero, Squashed, SquashedInside, NamedZero])
def test_probabilities_of_a_network_that_is_trained_on_logits(fit, module):
    assert [f.status for f in found(fit, module())] == [Status.PASSED]


@pytest.mark.parametrize("module", [patients.HalfOfLogits, Rounded, NoLoss, Named])
def test_thresholds_on_logits(fit, module):
    (finding,) = found(fit, module())
    assert (finding.status, finding.code) == (Status.WARNING, "EvaluationCheck/thresholds_on_logits")
    assert ".py:" in finding.message


def test_a_threshold_that_is_computed_is_not_read():
    class Computes(torch.nn.Module):
        own, kind = 0.5, "a text"

        @property
        def weight(self):
            pytest.fail("a parametrised weight changes when it is read")

    Computes.__module__ = "of a file that was not imported"
    assert _with_numbers("x > self.weight or y > self.own or self.kind", Computes()) == (
        "x > self.weight or y > 0.5 or self.kind"
    )


class Scaled(patients.ScaledBackAlone):
    """Errors in the unit that people know."""

    unit = 75.0

    def __init__(self):
        super().__init__()
        self.mae, self.mse = MeanAbsoluteError(), MeanSquaredError()

    def back(self, y):
        return 150 + self.unit * y

    def validation_step(self, batch, batch_idx):
        said, true = self.back(self(batch[0])), self.true(batch[1])
        self.log("val_mae", (said - true).abs().mean())
        self.mse(said, true)
        self.log("val_mse", self.mse)
        self.mae.update(said, true)
        self.log("val/MAE", self.mae)

    def true(self, y):
        return self.back(y)


class NotScaled(Scaled):
    def back(self, y):
        return y


class RawValidation(Scaled):
    """The targets of validation are as they were."""

    def val_dataloader(self):
        x, y = self.data(64, 2).tensors
        return DataLoader(TensorDataset(x, 150 + self.unit * y), 16)

    def true(self, y):
        return y


class NearlyRaw(RawValidation):
    unit = 1.8

    def back(self, y):
        return 0.5 + self.unit * y

    def val_dataloader(self):
        x, y = self.data(64, 2).tensors
        return DataLoader(TensorDataset(x, self.back(y)), 16)


class ResidualMean(Scaled):
    """The error of a forecast of the mean, whatever it says: it says little."""

    def true(self, y):
        return self.back(self(torch.zeros(len(y), patients.FEATURES)))


class TargetAlone(Scaled):
    def validation_step(self, batch, batch_idx):
        self.mae(self(batch[0]), self.back(batch[1]))
        self.log("val_mae", self.mae)


class InTwoUnits(patients.Healthy):
    """Two numbers, which the step standardises; those of validation are compared as people know them."""

    code = "EvaluationCheck/mixed_units"
    mean, std = torch.tensor([124.0, 78.0]), torch.tensor([14.0, 6.0])

    def __init__(self):
        super().__init__()
        self.head, self.mae = torch.nn.Linear(CLASSES, 2), MeanAbsoluteError()

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(x, self.mean + self.std * (x[:, :2] + y[:, None] - 1.5))

    def forward(self, x):
        return self.head(super().forward(x))

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0]), (batch[1] - self.mean) / self.std)

    def validation_step(self, batch, batch_idx):
        self.mae(self(batch[0]), batch[1])
        self.log("val_mae", self.mae)


class InOneUnit(InTwoUnits):
    def validation_step(self, batch, batch_idx):
        self.mae(self.mean + self.std * self(batch[0]), batch[1])
        self.log("val_mae", self.mae)


class AtTheEnd(Scaled):
    """Errors of what was kept, by hand and by a metric; that of a naive forecast is in the unit that people know."""

    code = "EvaluationCheck/mixed_units"

    def on_validation_epoch_start(self):
        self.kept = []

    def validation_step(self, batch, batch_idx):
        said, true = self.back(self(batch[0])), self.true(batch[1])
        self.kept.append((said.detach(), true))
        self.mae.update(said, true)

    def on_validation_epoch_end(self):
        said, true = map(torch.cat, zip(*self.kept, strict=True))
        self.log("val_rmse", (said - true).square().mean().sqrt())
        self.log("val_naive_mae", (4 * self.back(true) - true).abs().mean())
        self.log("val/mean_absolute_error", self.mae)


class NaiveInTheStep(Scaled):
    def validation_step(self, batch, batch_idx):
        true = self.true(batch[1])
        self.log("val_naive_mae", (true - true.roll(1)).abs().mean() + 1000)


class WithWhatItWas(Scaled):
    """Batches hold the target as it was, too."""

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(x, y, self.back(y))

    def validation_step(self, batch, batch_idx):
        self.log("val_mae", (self.back(self(batch[0])) - batch[2]).abs().mean())


class OfLogarithms(patients.ScaledBackAlone):
    """The step takes logarithms of what is stored."""

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(x, (8 + 0.2 * y).exp())

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0]), batch[1].log())

    def validation_step(self, batch, batch_idx):
        self.log("val_mae", (self(batch[0]).exp() - batch[1]).abs().mean())


@pytest.mark.parametrize(
    "module",
    [
        *(Scaled, NotScaled, RawValidation, NearlyRaw, ResidualMean, InOneUnit),
        *(AtTheEnd, NaiveInTheStep, WithWhatItWas, OfLogarithms),
    ],
)
def test_errors_in_one_unit(fit, module):
    assert codes(found(fit, module())) == []


class WithTheScaled(WithWhatItWas):
    def validation_step(self, batch, batch_idx):
        self.log("val_mae", (self(batch[0]) - batch[2]).abs().mean())


class LogarithmsAlone(OfLogarithms):
    def validation_step(self, batch, batch_idx):
        self.log("val_mae", (self(batch[0]).exp() - batch[1].log()).abs().mean())


class OfStoredLogarithms(patients.ScaledBackAlone):
    """What is stored are logarithms; numpy scales the prediction back."""

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(x, 5 + y)

    def validation_step(self, batch, batch_idx):
        said, true = (one.cpu().numpy() for one in (self(batch[0]), batch[1]))
        self.log("val_mae", np.abs(np.exp(said) - true).mean())


@pytest.mark.parametrize(
    "module",
    [
        *(patients.ScaledBackAlone, TargetAlone, InTwoUnits, WithTheScaled),
        *(LogarithmsAlone, OfStoredLogarithms),
    ],
)
def test_errors_in_two_units(fit, module):
    (finding,) = found(fit, module())
    assert (finding.status, finding.code, finding.subject) == (Status.WARNING, module.code, "val_mae")


class AtTheEndAlone(AtTheEnd):
    def true(self, y):
        return y


def test_errors_in_two_units_at_the_end(fit):
    findings = found(fit, AtTheEndAlone(), max_epochs=3)
    assert {finding.subject for finding in findings} == {"val_rmse", "val/mean_absolute_error"}
    assert {finding.code for finding in findings} == {AtTheEnd.code}


class Overlap(Healthy):
    """The share that predicted and true pixels have in common, of small batches."""

    def val_dataloader(self):
        return DataLoader(self.data(64, 2), 4)

    def validation_step(self, batch, batch_idx):
        said, true = self(batch[0]).argmax(1) > 2, batch[1] > 1
        self.log("val_iou", ((said & true).sum() + 1e-6) / ((said | true).sum() + 1e-6))


def test_overlaps_are_no_means(fit):
    (finding,) = found(fit, Overlap())
    assert (finding.status, finding.code) == (Status.WARNING, "EvaluationCheck/averaged_over_batches")


class OfAnUnknownName(Healthy):
    """What is monitored rises while the loss falls."""

    name, mode, sign = "val_dice", "min", -1.0

    def configure_callbacks(self):
        return [ModelCheckpoint(monitor=self.name, mode=self.mode)]

    def validation_step(self, batch, batch_idx):
        loss = self.loss(self(batch[0]), batch[1])
        self.log_dict({"val_loss": loss, self.name: self.sign * loss})


class Maximised(OfAnUnknownName):
    mode = "max"


class DiceLoss(OfAnUnknownName):
    sign = 1.0


class Nameless(OfAnUnknownName):
    name = "val_q"


class Alone(OfAnUnknownName):
    """Beside which no loss of validation is logged."""

    def validation_step(self, batch, batch_idx):
        self.log(self.name, self.sign * self.loss(self(batch[0]), batch[1]))


@pytest.mark.parametrize(
    ("module", "status"),
    [
        (Maximised, None),
        (DiceLoss, None),
        (Nameless, Status.ADVICE),
        (OfAnUnknownName, Status.WARNING),
    ],
)
def test_what_is_monitored_and_goes_the_other_way_than_the_loss(fit, module, status):
    told = {f.code: f.status for f in found(fit, module(), max_epochs=7, enable_checkpointing=True)}
    assert told.get("EvaluationCheck/monitors_wrong") == status


@pytest.mark.parametrize(("sign", "told"), [(-1.0, {Status.ADVICE}), (1.0, set())])
def test_what_is_monitored_alone_and_rises_while_training_learns(fit, sign, told):
    check, module = EvaluationCheck(), Alone()
    module.sign = sign
    fit(module, [check, UpdateRatioMonitor()], max_epochs=12, enable_checkpointing=True)
    assert {f.status for f in check.findings if f.code == "EvaluationCheck/monitors_wrong"} == told


class TooFew(patients.WorstIsBest):
    """An accuracy that rises by one of 64 examples."""

    def configure_callbacks(self):
        return [EarlyStopping("val_accuracy", mode="max")]

    def validation_step(self, batch, batch_idx):
        self.log("val_accuracy", 0.5 + 0.01 * self.current_epoch)


class Averaged(Healthy):
    """Validation runs with an average, which follows or not."""

    follows = True

    def __init__(self):
        super().__init__()
        self.average = torch.optim.swa_utils.AveragedModel(self.net, use_buffers=True)

    def on_train_batch_end(self, *_):
        if self.follows:
            self.average.update_parameters(self.net)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(self.average(batch[0]), batch[1]))


class Shadows(Averaged):
    """The same, by weights that take the place of those that are trained."""

    def __init__(self):
        super().__init__()
        self.shadow = {name: p.detach().clone() for name, p in self.net.named_parameters()}
        del self.average

    def on_train_batch_end(self, *_):
        for name, p in self.net.named_parameters() if self.follows else ():
            self.shadow[name].lerp_(p.detach(), 0.01)

    def _swap(self):
        for name, p in self.net.named_parameters():
            p.data, self.shadow[name] = self.shadow[name], p.data

    on_validation_start = on_validation_end = _swap

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(self(batch[0]), batch[1]))


class Reference(Averaged):
    """A copy from the beginning is what the network is compared with."""

    follows = False

    def validation_step(self, batch, batch_idx):
        self.log("val_gain", self.loss(self.average(batch[0]), batch[1]) - self.loss(self.net(batch[0]), batch[1]))


class FrozenBody(Healthy):
    """Validation looks at features that another network learns from."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(patients.FEATURES, patients.FEATURES).requires_grad_(requires_grad=False)

    def forward(self, x):
        return self.net(self.body(x))

    def validation_step(self, batch, batch_idx):
        self.log("val_spread", self.body(batch[0]).std())


@pytest.mark.parametrize("module", [Averaged, Shadows, Reference, FrozenBody])
def test_weights_that_validation_may_use(fit, module):
    assert codes(found(fit, module())) == []


@pytest.mark.parametrize("module", [Averaged, Shadows])
def test_weights_of_the_beginning(fit, module):
    program = module()
    program.follows = False
    assert codes(found(fit, program)) == ["weights_of_the_beginning"]


class Slow(Averaged):
    """An average of a given decay, which answers in the place of the network."""

    decay = 0.9999

    def forward(self, x):
        return self.net(x) if self.training else self.average(x)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(self(batch[0]), batch[1]))

    def on_train_batch_end(self, *_):
        for own, p in zip(self.average.parameters(), self.net.parameters(), strict=True):
            own.data.lerp_(p.detach(), 1 - self.decay)


@pytest.mark.parametrize(
    ("decay", "settings", "told"),
    [(0.98, {}, False), (0.9999, {"limit_train_batches": 60}, False), (0.9999, {}, True)],
)
def test_an_average_that_stays_behind_is_advice(fit, decay, settings, told):
    program = Slow()
    program.decay = decay
    settings = {"limit_train_batches": 1.0, "max_epochs": 8, **settings}
    findings = [f for f in found(fit, program, **settings) if f.code.endswith("weights_far_behind")]
    assert [f.status for f in findings] == [Status.ADVICE] * told
    assert not told or findings[0].evidence["share"] < 0.01


def test_weights_that_stay_as_they_are_everywhere(fit):
    class Resting(Healthy):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    assert codes(found(fit, Resting())) == []


def test_an_improvement_below_the_standard_error_is_advice(fit):
    (finding,) = found(fit, TooFew())
    assert (finding.status, finding.code) == (Status.ADVICE, "EvaluationCheck/too_few_examples")
    assert finding.evidence["standard_error"] == pytest.approx(0.0625, rel=0.01)


@pytest.mark.parametrize(("size", "said"), [(14, ["too_few_examples"]), (64, [])])
def test_an_accuracy_of_few_examples_though_there_are_many(fit, size, said):
    class Split(TooFew):
        def configure_callbacks(self):
            return []

        def train_dataloader(self):
            return DataLoader(self.data(1600, 1), 128)

        def val_dataloader(self):
            return DataLoader(self.data(size, 2), 32)

    assert [f.code.partition("/")[2] for f in found(fit, Split()) if f.status is Status.ADVICE] == said


def test_a_number_that_is_drawn_is_not_judged_by_its_parts(fit):
    class AgainstNoise(Healthy):
        """The share of pairs of an example and noise that are told apart."""

        def validation_step(self, batch, batch_idx):
            energies = [self(x).logsumexp(1) for x in (batch[0], torch.randn_like(batch[0]))]
            self.log("val_auc", (energies[0][:, None] < energies[1][None]).float().mean())

    assert codes(found(fit, AgainstNoise())) == []


# -- the best weights


class KeepsBest(Healthy):
    """Keeps something of its weights after each validation."""

    def __init__(self, keep):
        super().__init__()
        self.keep = keep

    def on_validation_epoch_end(self):
        self.best = self.keep(self)


@pytest.mark.parametrize(
    "keep",
    [
        lambda module: copy.deepcopy(module.state_dict()),
        lambda module: {name: value.clone() for name, value in module.state_dict().items()},
        lambda module: dict(module.named_parameters()),  # for torch.func.functional_call
        lambda module: dict(module.net.named_buffers()),
        lambda module: {"loss": 0.1},
    ],
    ids=["a copy", "clones", "parameters", "buffers", "numbers"],
)
def test_what_may_be_kept(fit, keep):
    assert codes(found(fit, KeepsBest(keep))) == []


@pytest.mark.parametrize("keep", [lambda m: m.state_dict(), lambda m: dict(m.net.state_dict())], ids=["all", "net"])
def test_the_best_weights_kept_without_a_copy(fit, keep):
    assert codes(found(fit, KeepsBest(keep))) == ["kept_by_reference"]


# -- batches that count alike at the end of validation


class Numbers(MeanByHand):
    """Keeps a number of each batch, and its size; what is made of them is the test's own."""

    def __init__(self):
        super().__init__()
        self.errors, self.counts = [], []

    def report(self, logits, y):
        self.errors.append(self.of(logits, y).item())
        self.counts.append(len(y))

    def of(self, logits, y):
        return self.loss(logits, y)

    def on_validation_epoch_end(self):
        self.conclude(np.array(self.errors), np.array(self.counts))
        self.errors.clear()
        self.counts.clear()

    def conclude(self, errors, counts):
        self.log("val_loss", float(np.average(errors)))


class WeighedByCounts(Numbers):
    def conclude(self, errors, counts):
        self.log("val_loss", float(np.average(errors, weights=counts)))
        self.log("val_perplexity", float(np.exp((errors * counts).sum() / counts.sum())))
        self.log("val_lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        self.log("val_batches", float(len(errors)))
        self.log("val_beta", 0.1 * self.current_epoch)


class ByIndex(Numbers):
    """Knows how many examples the last batch has."""

    def validation_step(self, batch, batch_idx):
        self.errors.append(self.loss(self(batch[0]), batch[1]).item())
        self.counts.append(8 if batch_idx == 2 else 16)

    conclude = WeighedByCounts.conclude


class OfSums(Numbers):
    def of(self, logits, y):
        return F.cross_entropy(logits, y, reduction="sum")

    def conclude(self, errors, counts):
        self.log("val_loss", errors.sum() / counts.sum())


class InTheMiddle(Numbers):
    def conclude(self, errors, counts):
        self.log_dict({"val_median": float(np.median(errors)), "val_worst": errors.max(), "val_best": errors.min()})


class OfPairs(Numbers):
    """A contrastive loss, which no weights make that of all examples."""

    def of(self, logits, y):
        return F.cross_entropy(logits @ logits.T, torch.arange(len(y)))


class ByClass(Numbers):
    """A mean that counts some examples more."""

    def of(self, logits, y):
        return F.cross_entropy(logits, y, torch.arange(1.0, 1 + CLASSES))


class DropsLast(Numbers):
    def val_dataloader(self):
        return DataLoader(self.data(47, 2), 16, drop_last=True)


class AllAsLarge(Numbers):
    examples = 48


class OfManyBatches(Numbers):
    examples = 16 * 20 + 1


class OfTwoLoaders(Numbers):
    def val_dataloader(self):
        return [super().val_dataloader()] * 2

    def validation_step(self, batch, batch_idx, dataloader_idx):
        super().validation_step(batch, batch_idx)


class Computed(Numbers):
    """Metrics count the examples themselves."""

    def __init__(self):
        super().__init__()
        self.acc, self.mean = micro(), MeanMetric()

    def report(self, logits, y):
        self.acc.update(logits, y)
        self.mean.update(self.loss(logits, y), weight=len(y))

    def on_validation_epoch_end(self):
        self.log_dict({"val_acc": self.acc.compute(), "val_loss": self.mean.compute()})
        self.acc.reset()
        self.mean.reset()


class NoMeans(Numbers):
    """What is no mean is told as that."""

    def of(self, logits, y):
        return multiclass_f1_score(logits, y, CLASSES, average="macro")

    def conclude(self, errors, counts):
        self.log("val_f1", errors.mean())


class Alike(Numbers):
    """All batches have the same number."""

    def of(self, logits, y):
        return torch.tensor(0.5)


@pytest.mark.parametrize(
    "module",
    [
        *(WeighedByCounts, ByIndex, OfSums, InTheMiddle, OfPairs, ByClass, Computed, NoMeans, Alike),
        *(DropsLast, AllAsLarge, OfManyBatches, OfTwoLoaders),
    ],
)
def test_batches_that_count_as_they_should(fit, module):
    findings = found(fit, module(), max_epochs=3)
    told = {f.code.partition("/")[2] for f in findings if f.status is not Status.PASSED}
    assert told == {NoMeans: {"averaged_over_batches"}, DropsLast: {"drops_last"}}.get(module, set())


class Counted(Numbers):
    """Adds them up."""

    def on_validation_epoch_start(self):
        self.sum, self.batches = 0.0, 0

    def report(self, logits, y):
        self.sum += float((logits - F.one_hot(y, CLASSES)).abs().mean())
        self.batches += 1

    def on_validation_epoch_end(self):
        self.log("val_loss", self.sum / self.batches)


class OfRoots(Numbers):
    def conclude(self, errors, counts):
        self.log("val_loss", np.sqrt(errors.mean()))


class OfExponentials(Numbers):
    def conclude(self, errors, counts):
        self.log("val_loss", np.exp(sum(errors) / len(errors)))


class MetricOfMeans(Computed):
    """A metric that is not told how many examples there are."""

    def report(self, logits, y):
        self.mean.update(self.loss(logits, y))

    def on_validation_epoch_end(self):
        self.log("val_loss", self.mean.compute())
        self.mean.reset()


class Twice(Numbers):
    def conclude(self, errors, counts):
        self.log_dict({"val_loss": errors.mean(), "val_gap": errors.mean() - 0.1, "val_true": errors @ counts / 40})


@pytest.mark.parametrize("module", [Numbers, MeanByHand, Counted, OfRoots, OfExponentials, MetricOfMeans, Twice])
def test_batches_that_count_alike_at_the_end_are_advice(fit, module):
    (finding,) = found(fit, module(), max_epochs=3)
    assert (finding.status, finding.code) == (Status.ADVICE, "EvaluationCheck/mean_of_means")
    assert finding.subject == "val_loss"
    assert finding.evidence == {"batch_size": 16, "last": 8}
    assert ('"val_gap"' in finding.message, "val_true" in finding.message) == (module is Twice, False)


# -- the last batch


@pytest.mark.parametrize(
    ("examples", "size", "status"), [(64, 16, None), (970, 10, None), (66, 16, "advice"), (79, 16, "warning")]
)
def test_a_last_batch_that_is_left_out(fit, examples, size, status):
    val = DataLoader(Healthy().data(examples, 2), size, drop_last=True)
    told = [f for f in found(fit, Healthy(), val=val) if f.code.endswith("drops_last")]
    assert [f.status.value for f in told] == [status] * bool(status)
