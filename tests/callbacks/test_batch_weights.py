"""What a batch weighs in the mean over validation: legitimate practice first, then the mistakes."""

import patients
import pytest
import torch
from patients import CLASSES, FEATURES
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from lightning_recipe import EvaluationCheck, Status
from lightning_recipe.callbacks._batch_weights import Series, judge


def found(fit, module, **settings):
    check = EvaluationCheck()
    fit(module, [check], **{"logger": False, "max_epochs": 2, **settings})
    assert not [f for f in check.findings if f.code.endswith("internal_error")], check.findings
    return [f for f in check.findings if f.is_alarm or f.status is Status.ADVICE]


# -- what is legitimate


class Batches(patients.WeighedByTime):
    """Batches of a test's own, the first tensor of which is something else; all values differ."""

    sizes = 24, 8, 8, 24
    first = 2, 4, 40, 2

    def val_dataloader(self):
        x, y = self.data(sum(self.sizes), 2).tensors
        scale = torch.cat([torch.full((n,), float(i > 0)) for i, n in enumerate(self.sizes)])[:, None]
        parts = zip(self.first, (x * scale).split(list(self.sizes)), y.split(list(self.sizes)), strict=True)
        return DataLoader([self.batch(*part) for part in parts], batch_size=None)

    def batch(self, n, x, y):
        return torch.arange(float(n)), x, y

    def validation_step(self, batch, batch_idx):
        self.report(self(batch[1]), batch[2])

    def report(self, logits, y):
        self.log("val_loss", self.loss(logits, y))


class Said(Batches):
    def report(self, logits, y):
        self.log("val_loss", self.loss(logits, y), batch_size=len(y))


class ExamplesFirst(Batches):
    """The first is of the examples; others are not."""

    def batch(self, n, x, y):
        return torch.zeros(len(y)), x, y, torch.arange(float(n))


class AsLong(Batches):
    """Batches are all as large, and as long."""

    sizes = first = 16, 16, 16, 16


class InProportion(Batches):
    """As of graphs that have four nodes each."""

    first = 96, 32, 32, 96


class Alike(Batches):
    """The first is as long in all batches, which have as many examples."""

    sizes = 16, 16, 16, 16
    first = 3, 3, 3, 3


class OfSteps(Batches):
    def report(self, logits, y):
        self.log("val_loss", self.loss(logits, y), on_step=True, on_epoch=False)


class Objects(Batches):
    def __init__(self):
        super().__init__()
        self.mean, self.score = MeanMetric(), MulticlassAccuracy(CLASSES, average="micro")

    def report(self, logits, y):
        self.mean(self.loss(logits, y), weight=len(y))
        self.score(logits, y)
        self.log_dict({"val_loss": self.mean, "val_acc": self.score})


class OfNodes(Batches):
    """Each row of the first tensor has a target, and there is a target for each graph, too."""

    def batch(self, n, x, y):
        return torch.randn(n, FEATURES), x, y, torch.arange(n) % CLASSES

    def validation_step(self, batch, batch_idx):
        nodes, x, y, own = batch
        self.log_dict({"val_nodes": self.loss(self(nodes), own), "val_graphs": self.loss(self(x), y)})


class OfTokens(Batches):
    """Places of sequences have targets, of which each batch has as many as its longest."""

    def batch(self, n, x, y):
        return torch.arange(float(n)), x[:, None].expand(-1, n, -1), y[:, None].expand(-1, n)

    def validation_step(self, batch, batch_idx):
        logits = self(batch[1].flatten(0, 1)).unflatten(0, batch[2].shape)
        self.log("val_loss", F.cross_entropy(logits.transpose(1, 2), batch[2]))


class Accuracies(Batches):
    """A number that is no mean over the examples, beside a loss that is weighed as it should be."""

    def report(self, logits, y):
        self.log("val_loss", self.loss(logits, y), batch_size=len(y))
        self.log("val_spread", logits.std())


@pytest.mark.parametrize(
    "module", [Said, ExamplesFirst, AsLong, InProportion, Alike, OfSteps, Objects, OfNodes, OfTokens, Accuracies]
)
def test_weights_that_are_right(fit, module):
    assert found(fit, module()) == []


def test_two_loaders_are_left_out(fit):
    class Two(Batches):
        def val_dataloader(self):
            loader = super().val_dataloader()
            return [loader, loader]

        def validation_step(self, batch, batch_idx, dataloader_idx):
            super().validation_step(batch, batch_idx)

    assert found(fit, Two()) == []


def test_no_more_is_asked_for_than_one_validation(fit):
    class Counting(EvaluationCheck):
        asked = 0

        def every_batch(self, run, stage, batch):
            super().every_batch(run, stage, batch)
            self.asked += 1

    for module, most in ((Batches, 16), (Said, 12)):  # weights are looked at around two validations
        check = Counting()
        fit(module(), [check], logger=False, max_epochs=6)
        assert check.asked <= most


# -- the mistakes


class Shares(Batches):
    """An accuracy by hand, with a loss that is weighed as it should be."""

    def report(self, logits, y):
        self.log("val_loss", self.loss(logits, y), batch_size=len(y))
        self.log("val_acc", (logits.argmax(1) == y).float().mean())


class Graphs(Batches):
    """Nodes are first."""

    def batch(self, n, x, y):
        return {"nodes": torch.randn(n, 3), "graphs": x, "y": y}

    def validation_step(self, batch, batch_idx):
        self.report(self(batch["graphs"]), batch["y"])


class AlwaysOne(Batches):
    """The first tensor is a number: all batches weigh one."""

    def batch(self, n, x, y):
        return torch.tensor(0.5), x, y


@pytest.mark.parametrize("module", [Batches, Shares, Graphs, AlwaysOne])
@pytest.mark.parametrize("sanity", [0, 2])
def test_another_size_is_the_weight(fit, module, sanity):
    (finding,) = found(fit, module(), num_sanity_val_steps=sanity)
    assert (finding.status, finding.code) == (Status.WARNING, patients.WeighedByTime.code)
    assert finding.evidence["batches"] == 3
    assert finding.evidence["logged"] != finding.evidence["mean"]


def test_it_is_seen_in_one_validation_and_in_the_last(fit):
    (finding,) = found(fit, Batches(), max_epochs=1)
    assert finding.code == patients.WeighedByTime.code


def test_values_that_hardly_differ_are_advice():
    uneven = Series([10, 30], [20, 20], [0.70, 0.72])
    assert judge({"val_acc": uneven}).status is Status.ADVICE
    assert judge({"val_acc": uneven._replace(values=[0.6, 0.8])}).status is Status.WARNING
    assert judge({"val_acc": uneven._replace(values=[0.6, float("nan")])}) is None
    assert judge({}) is None
