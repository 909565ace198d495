"""Metrics with their standard errors: where nothing is known nothing is drawn; else what resampling would give."""

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from patients import CLASSES, Healthy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

from lightning_recipe import EvaluationCheck
from lightning_recipe.callbacks._error_bars import Logged, Spread, of_all

EXAMPLES = 96


class Logs(Healthy):
    """Logs a loss and an accuracy of validation, of which a batch has eight examples."""

    size = 8

    def __init__(self):
        super().__init__()
        self.accurate = MulticlassAccuracy(CLASSES, average="micro")
        self.seen = []

    def val_dataloader(self):
        return DataLoader(self.data(EXAMPLES, 2), self.size)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        logits = self(batch[0])
        self.log("val_loss", F.cross_entropy(logits, batch[1]))
        self.seen.append((logits.detach(), batch[1]))


class Accurate(Logs):
    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.accurate(self(batch[0]), batch[1])
        self.log("val_acc", self.accurate)


class FewBatches(Logs):
    size = 32


class TwoSets(Logs):
    def val_dataloader(self):
        return [super(TwoSets, self).val_dataloader() for _ in range(2)]


class OfTraining(Logs):
    """An accuracy of training under a name that doesn't say so."""

    size = 32

    def training_step(self, batch, batch_idx):
        self.log("acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())
        return super().training_step(batch, batch_idx)


def drawn(tmp_path, module, callbacks=(), **settings):
    check = EvaluationCheck()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": bool(callbacks)}
    settings |= {"callbacks": [check, *callbacks], "logger": TensorBoardLogger(tmp_path), "limit_train_batches": 3}
    trainer = L.Trainer(accelerator="cpu", max_epochs=3, **quiet, **settings)
    bars = {}
    check._draw_metrics, draw = (
        lambda run, ranks: (bars.update(of_all(check._bars.logged, ranks, EXAMPLES)), draw(run, ranks)),
        check._draw_metrics,
    )
    trainer.fit(module)
    assert not [f for f in check.findings if f.is_alarm], check.findings
    events = EventAccumulator(trainer.logger.log_dir, size_guidance={"images": 0})
    events.Reload()
    return bars, [tag.partition("/")[2] for tag in events.Tags()["images"]]


@pytest.mark.parametrize("module", [FewBatches, TwoSets, OfTraining], ids=lambda m: m.__name__)
def test_where_nobody_knows_the_error_nothing_is_drawn(tmp_path, module):
    assert drawn(tmp_path, module()) == ({}, [])


def test_one_validation_is_no_curve(tmp_path):
    bars, cards = drawn(tmp_path, Logs(), check_val_every_n_epoch=3)
    assert len(bars["val_loss"]) == 1
    assert cards == []


def test_a_loss_of_many_batches_has_the_error_that_resampling_them_gives(tmp_path):
    module = Logs()
    bars, cards = drawn(tmp_path, module, num_sanity_val_steps=0)
    assert cards == ["val_loss"]
    points, batches = bars["val_loss"], EXAMPLES // module.size
    assert [point.step for point in points] == [2, 5, 8]  # as Lightning logs them
    losses = torch.stack([F.cross_entropy(*one) for one in module.seen]).reshape(3, batches)
    for point, own in zip(points, losses, strict=True):
        again = own[torch.randint(batches, (4000, batches), generator=torch.Generator().manual_seed(0))].mean(1)
        assert point.value == pytest.approx(float(own.mean()))
        assert point.error == pytest.approx(float(again.std()), rel=0.25)  # the last batch is not among those it is of


def test_an_accuracy_has_that_of_a_share_of_the_examples_and_is_drawn_first(tmp_path):
    bars, cards = drawn(tmp_path, Accurate())
    assert cards == ["val_acc", "val_loss"]
    for point in bars["val_acc"]:
        assert point.error == pytest.approx((point.value * (1 - point.value) / EXAMPLES) ** 0.5)


def test_what_somebody_chooses_by_is_drawn_before(tmp_path):
    assert drawn(tmp_path, Accurate(), [ModelCheckpoint(tmp_path, monitor="val_loss")])[1] == ["val_loss", "val_acc"]


def test_batches_that_weigh_more_count_more():
    values, weights = torch.tensor([1.0, 0.0] * 8), torch.tensor([3, 1] * 8)
    sums = list(zip((values * weights).cumsum(0), weights.cumsum(0), strict=True))
    again = torch.randint(16, (20_000, 16), generator=torch.Generator().manual_seed(0))
    resampled = (values * weights)[again].sum(1) / weights[again].sum(1)
    assert Spread.of(sums).error == pytest.approx(float(resampled.std()), rel=0.1)


def test_batches_of_two_ranks_have_the_error_that_one_would_have():
    values = torch.rand(64, generator=torch.Generator().manual_seed(0))
    whole, *dealt = (
        Spread.of(list(zip(own.cumsum(0), torch.arange(1, len(own) + 1), strict=True)))
        for own in (values, values[::2], values[1::2])
    )
    mean = float(values.mean())
    ranks = [{"val_loss": [Logged(9, mean, spread)]} for spread in dealt]
    ((point,),) = of_all(ranks[0], ranks, 64).values()
    assert point.error == pytest.approx(whole.error, rel=0.05)
    alone = [{"val_loss": [Logged(9, mean + i, spread)]} for i, spread in enumerate(dealt)]  # each logs its own
    ((point,),) = of_all(alone[0], alone, 64).values()
    assert point.error == pytest.approx(2**0.5 * whole.error, rel=0.2)
