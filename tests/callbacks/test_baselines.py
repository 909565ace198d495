"""Legitimate practice first; then each verdict, in several forms; then the baselines themselves."""

import math

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from patients import (
    CLASSES,
    FEATURES,
    Healthy,
    NothingToLearn,
    NumberedOtherwise,
    SeesTwoColumns,
    SortedAsText,
    TooSure,
)
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

from lightning_recipe import Baselines, Status
from lightning_recipe.callbacks import _baselines_verdict
from lightning_recipe.callbacks._measured import Estimate, Look
from lightning_recipe.callbacks._other_order import Stored, in_other_order, no_labels_from, stored
from lightning_recipe.record.step import LossCall

LONG = {"max_epochs": 8}


def found(fit, module, check=None, **settings):
    check = check or Baselines()
    fit(module, [check], **{"logger": False, **LONG, **settings})
    return check.findings


def quiet(fit, module, **settings):
    (finding,) = found(fit, module, **settings)
    assert finding.status in {Status.PASSED, Status.SKIPPED}, finding
    assert finding.code != "Baselines/internal_error", finding
    return finding


def numbers(n, seed, noise=0.3, shift=0.0):
    x = torch.randn(n, FEATURES, generator=torch.Generator().manual_seed(seed))
    weights = torch.linspace(-1, 1, FEATURES)
    return TensorDataset(x, x @ weights + noise * torch.randn(n, generator=torch.Generator().manual_seed(seed)) + shift)


class Regression(Healthy):
    """Numbers, standardised; `unit` of validation and `bias` are for the sick."""

    unit, rate = 1.0, 1e-2

    def __init__(self, outputs=1):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, outputs))

    def forward(self, x):
        return self.net(x)[:, 0]

    def loss(self, out, y):
        return F.mse_loss(out, y)

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(self(self.unit * batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.rate)

    def data(self, n, seed):
        return numbers(n, seed)


class Imbalanced(Healthy):
    """One class in ten is positive."""

    def __init__(self, weight=None):
        super().__init__()
        self.net[-1] = nn.Linear(32, 2)
        self.weight = weight

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])

    def loss(self, logits, y):
        return F.cross_entropy(logits, y, self.weight)

    def data(self, n, seed):
        x, _ = numbers(n, seed).tensors
        return TensorDataset(x, (x[:, 0] > 1.3).long())


# -- false alarms first


def test_a_healthy_classifier_beats_them(fit):
    finding = quiet(fit, Healthy())
    assert finding.status is Status.PASSED
    evidence = finding.evidence
    assert evidence["constant"] == pytest.approx(0.25, abs=0.01)
    assert evidence["model"] > 0.8
    assert evidence["loss"] < evidence["constant_loss"] == pytest.approx(math.log(CLASSES), abs=0.01)
    assert evidence["examples"] == 64
    assert {"nearest_neighbours", "linear_model"} <= set(evidence)


def test_a_healthy_regression(fit):
    finding = quiet(fit, Regression())
    assert finding.evidence["loss"] < 0.5 * finding.evidence["constant_loss"]
    assert finding.evidence["linear_model"] < finding.evidence["constant"]


def test_the_first_epochs_are_nobodys_fault(fit):
    class Far(Regression):  # 300 away from where it begins, and on its way
        rate = 1e-4

        def data(self, n, seed):
            return numbers(n, seed, shift=300.0)

    assert quiet(fit, Far(), max_epochs=2).evidence["difference"] > 1000


def test_a_model_on_its_way_is_not_accused(fit):
    class OnItsWay(Regression):
        rate = 0.05

        def data(self, n, seed):
            return numbers(n, seed, shift=30.0)

    quiet(fit, OnItsWay(), max_epochs=7)


def test_a_balanced_sampler_is_compared_with_what_it_draws(fit):
    class Balanced(Imbalanced):
        def train_dataloader(self):
            data = self.data(256, 1)
            y = data.tensors[1]
            weights = torch.where(y == 1, 1 / (y == 1).sum(), 1 / (y == 0).sum())
            return DataLoader(data, 32, sampler=WeightedRandomSampler(weights, 256))

        def val_dataloader(self):
            return DataLoader(self.data(256, 2), 32)

    quiet(fit, Balanced())


def test_class_weights_weigh_the_constant(fit):
    finding = quiet(fit, Imbalanced(torch.tensor([0.1, 0.9])), val=DataLoader(Imbalanced().data(256, 2), 32))
    assert finding.status is Status.PASSED


def test_weights_of_training_alone_weigh_the_constant_too(fit):
    class OnlyTraining(Imbalanced):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

        def data(self, n, seed):
            x, y = super().data(n, seed).tensors
            return TensorDataset(torch.randn(x.shape, generator=torch.Generator().manual_seed(seed + 9)), y)

    module = OnlyTraining(torch.tensor([0.1, 0.9]))
    assert not any(f.is_alarm for f in found(fit, module, val=DataLoader(module.data(256, 2), 32)))


@pytest.mark.parametrize("name", ["l1_loss", "huber_loss", "smooth_l1_loss"])
def test_steps_of_one_size_take_their_time(fit, name):
    class Walks(Regression):
        rate = 3e-3

        def __init__(self):
            super().__init__()
            self.net = nn.Linear(FEATURES, 1)

        def loss(self, out, y):
            return getattr(F, name)(out, y)

        def data(self, n, seed):
            return numbers(n, seed, shift=5.0)

    assert quiet(fit, Walks()).evidence["difference"] > 0.5


def test_rare_positives_without_skill_are_advice_at_most(fit):
    class Rare(Imbalanced):
        def data(self, n, seed):
            x, y = super().data(n, seed).tensors
            return TensorDataset(torch.randn(x.shape, generator=torch.Generator().manual_seed(seed + 9)), y)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-4)

    assert not any(f.is_alarm for f in found(fit, Rare(), val=DataLoader(Rare().data(256, 2), 32)))


def test_validation_in_the_order_of_its_classes_is_not_compared(fit):
    class InOrder(NumberedOtherwise):
        def val_dataloader(self):
            x, y = self.data(1024, 2).tensors
            return DataLoader(TensorDataset(x[y.argsort()], y.sort().values), 32)

    assert quiet(fit, InOrder(), limit_val_batches=8).status is Status.SKIPPED, "one class only"


def test_a_language_model_is_compared_with_the_frequencies_of_tokens(fit):
    class Says(Healthy):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Embedding(5, 16), nn.Linear(16, 5))

        def step(self, batch):
            tokens = batch[0]
            return F.cross_entropy(self(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=4)

        def training_step(self, batch, batch_idx):
            return self.step(batch)

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self.step(batch))

        def data(self, n, seed):
            start = torch.randint(4, (n, 1), generator=torch.Generator().manual_seed(seed))
            tokens = (start + torch.arange(12)) % 4
            tokens[:, 10:] = 4
            return TensorDataset(tokens)

    finding = quiet(fit, Says())
    assert finding.evidence["constant_loss"] == pytest.approx(math.log(4), abs=0.02)
    assert finding.evidence["examples"] == 64, "sequences, not tokens"


def test_several_labels(fit):
    class Labels(Healthy):
        def loss(self, logits, y):
            return F.binary_cross_entropy_with_logits(logits, F.one_hot(y, CLASSES).float())

        def training_step(self, batch, batch_idx):
            return self.loss(self(batch[0]), batch[1])

    finding = quiet(fit, Labels(), max_epochs=10)
    assert finding.evidence["constant"] == pytest.approx(0.75)
    assert finding.evidence["linear_model"] > 0.75


class Forecast(Regression):
    """A random walk: the last value is the best forecast."""

    ahead = 3

    def __init__(self):
        super().__init__(self.ahead)

    def forward(self, x):
        return x[:, -1:] + self.net(x)

    def data(self, n, seed):
        walk = torch.randn(n, FEATURES + self.ahead, generator=torch.Generator().manual_seed(seed)).cumsum(1)
        return TensorDataset(walk[:, :FEATURES], walk[:, FEATURES:])


def test_what_goes_on_is_compared_with_the_previous_value(fit):
    finding = quiet(fit, Forecast(), max_epochs=10)
    assert finding.evidence["previous_value"] < 0.5 * finding.evidence["constant"]
    assert "previous_value" not in quiet(fit, Regression()).evidence


class Adversarial(Healthy):
    """The targets of each step are all the same."""

    def training_step(self, batch, batch_idx):
        return F.binary_cross_entropy_with_logits(self(batch[0])[:, 0], torch.ones(len(batch[0])))

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.binary_cross_entropy_with_logits(-self(batch[0])[:, 0], torch.ones(len(batch[0]))))


class Autoencoder(Regression):
    def __init__(self):
        super().__init__(FEATURES)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[0])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(self(batch[0]), batch[0]))


def test_an_autoencoder_is_compared_with_a_constant_only(fit):
    finding = quiet(fit, Autoencoder())
    assert finding.status is Status.PASSED
    assert "linear_model" not in finding.evidence


class Parts(Healthy):
    def loss(self, logits, y):
        return F.cross_entropy(logits, y) + F.mse_loss(logits, torch.zeros_like(logits))


class ByHand(Healthy):
    def loss(self, logits, y):
        return -logits.log_softmax(-1).gather(1, y[:, None]).mean()


class FocalByHand(Healthy):
    def loss(self, logits, y):
        right = logits.softmax(-1).gather(1, y[:, None])
        return -((1 - right).square() * right.log()).mean()


class SquaresByHand(Regression):
    def loss(self, out, y):
        return (out - y).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_mae", (self(self.unit * batch[0]) - batch[1]).abs().mean())


class ScaledByHand(SquaresByHand):
    """The targets of validation are in another unit, as its error is."""

    def val_dataloader(self):
        x, y = super().val_dataloader().dataset.tensors
        return DataLoader(TensorDataset(x, 50 + 10 * y), 32)

    def validation_step(self, batch, batch_idx):
        self.log("val_mae", (50 + 10 * self(batch[0]) - batch[1]).abs().mean())


class NoisyByHand(Autoencoder):
    """A diffusion model says the noise that was added."""

    def loss(self, out, x):
        noise = torch.randn_like(x)
        return (self.net(x + noise) - noise).square().mean()


@pytest.mark.parametrize("module", [ByHand, SquaresByHand])
def test_losses_by_hand_are_compared_where_a_function_is_the_same(fit, module):
    assert quiet(fit, module()).status is Status.PASSED


def test_validation_without_a_loss_is_compared(fit):
    class Accuracy(Healthy):
        def validation_step(self, batch, batch_idx):
            self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    assert quiet(fit, Accuracy()).evidence["model"] > 0.5


class Similar(Healthy):
    """Each example is a class of its own."""

    def loss(self, logits, y):
        z = F.normalize(logits, dim=1)
        return F.cross_entropy(z @ z.roll(1, 1).T, torch.arange(len(z)))


class MasksByHand(Healthy):
    def loss(self, logits, y):
        return (F.cross_entropy(logits, y, reduction="none") * (y > 1)).mean()


class Taught(Healthy):
    def loss(self, logits, y):
        return F.cross_entropy(logits, self.net[-1](torch.ones(len(y), 32)).softmax(1))


@pytest.mark.parametrize(
    "module", [Adversarial, Parts, FocalByHand, ScaledByHand, Similar, MasksByHand, Taught, NoisyByHand]
)
def test_what_has_no_baseline_is_skipped_with_the_reason(fit, module):
    finding = quiet(fit, module(), max_epochs=3)
    assert finding.status is Status.SKIPPED


@pytest.mark.parametrize(
    "settings", [{"limit_val_batches": 0}, {"limit_train_batches": 2}, {"overfit_batches": 1}, {"fast_dev_run": True}]
)
def test_trials_and_runs_without_validation_are_skipped(fit, settings):
    assert quiet(fit, NumberedOtherwise(), **settings).status is Status.SKIPPED


def test_few_validation_examples_are_skipped(fit):
    assert quiet(fit, NumberedOtherwise(), val=DataLoader(Healthy().data(12, 2), 4)).status is Status.SKIPPED


ROWS = torch.randn(600, FEATURES, generator=torch.Generator().manual_seed(3))
TOLD = (ROWS @ torch.linspace(-1, 1, FEATURES)).numpy()
NOISE = torch.randn(700, generator=torch.Generator().manual_seed(4))
AS_THEY_ARE = {
    "told": (ROWS, TOLD),
    "told a little": (ROWS, TOLD + 20 * NOISE[:600].numpy()),
    "told by nobody": (ROWS, NOISE[:600].numpy()),
    "by chance": (ROWS, np.random.default_rng(0).permutation(TOLD)),
    "returns of a series": (NOISE.unfold(0, FEATURES, 1)[:600], NOISE[FEATURES : FEATURES + 600].numpy()),
    "sorted": (ROWS, np.sort(TOLD)),
}


@pytest.mark.parametrize("rows", AS_THEY_ARE.values(), ids=AS_THEY_ARE)
@pytest.mark.parametrize("classes", [0, 2])
def test_no_other_order_of_the_labels_is_better(rows, classes):
    x, y = rows
    assert not in_other_order(Stored([x.numpy()], (y > 0).astype(int) if classes else y), classes=classes)


class Made(Dataset):
    """Examples that are made when they are read."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return ROWS[index % 600], index % 3


def test_labels_that_are_not_known_among_what_is_kept():
    x, y = ROWS, torch.arange(600) % 3
    shares = torch.full((3,), 1 / 3)
    assert stored(TensorDataset(x, y), shares, classes=True)
    for data in (TensorDataset(x, y, y.roll(1)), TensorDataset(y), TensorDataset(x), TensorDataset(x[:99], y[:99])):
        assert stored(data, shares, classes=True) is None
    assert stored(TensorDataset(x, y), torch.tensor([0.5, 0.25, 0.25]), classes=True) is None
    assert stored(Made(4200), shares, classes=True) is None  # too many to be read one after another
    assert stored(Made(600), shares, classes=True)
    assert stored(Made(600), shares, classes=True, read=False) is None
    assert stored([(a[: 2 + int(b)], b) for a, b in zip(x, y, strict=True)], shares, classes=True) is None


PARTS = {
    "all told": lambda x, y: y,
    "all noise": lambda x, y: y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))],
    "harder from the middle on": lambda x, y: torch.where(torch.arange(600) < 300, y, (x[:, 0] + x[:, 1] > 0).long()),
}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("classes", [2, 0])
def test_parts_whose_labels_can_be_told(name, classes):
    labels = PARTS[name](ROWS, (ROWS[:, 0] > 0).long())
    assert (
        no_labels_from(Stored([ROWS.numpy()], (labels if classes else labels.float()).numpy()), classes=classes) is None
    )


def test_few_rows_of_many_features_may_be_too_few_to_fit_a_model():
    told = []
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        x = torch.randn(800, 150, generator=draw)
        y = (x[:, :10].sum(1) + torch.randn(800, generator=draw) > 0).long()
        told.append(no_labels_from(Stored([x.numpy()], y.numpy()), classes=2))
    assert told == [None] * 20


@pytest.mark.parametrize("classes", [2, 0])
@pytest.mark.parametrize("behind", [True, False])
def test_rows_from_which_on_labels_are_of_others(classes, behind):
    y = (ROWS[:, 0] > 0).long()
    labels = torch.cat([y[:250], y[250:].roll(1)] if behind else [y[:250].roll(1), y[250:]])
    outcome = no_labels_from(Stored([ROWS.numpy()], (labels if classes else labels.float()).numpy()), classes=classes)
    assert (outcome.status, outcome.code) == (Status.ADVICE, "labels_of_others_in_part")
    assert abs(outcome.evidence["row"] - 250) < 30
    assert ("rows 0 to" in outcome.message.partition("have nothing")[0]) == (not behind)


def test_it_is_told_beside_a_model_that_learns_from_the_rest(fit):
    class Dropped(Healthy):
        """Rows are left out of the inputs, and not of the labels."""

        def train_dataloader(self):
            x, y = self.data(600, 1).tensors
            order = torch.randperm(600, generator=torch.Generator().manual_seed(0))
            x, y = x[order], y[order]
            return DataLoader(TensorDataset(x, torch.cat([y[:300], y[300:].roll(1)])), 32, shuffle=True)

    findings = found(fit, Dropped(), max_epochs=3)
    assert [f.code for f in findings] == ["Baselines/labels_of_others_in_part"]


def test_rows_are_read_where_no_arrays_are_kept():
    x, y = ROWS, torch.arange(600) % 3
    rows = stored([(a.bfloat16(), int(b)) for a, b in zip(x, y, strict=True)], torch.full((3,), 1 / 3), classes=True)
    assert torch.equal(torch.from_numpy(rows.labels), y)
    assert rows.inputs[0].shape == x.shape


@pytest.mark.parametrize(("weight", "ahead"), [(0.0, False), (0.2, True)])
def test_a_constant_that_is_known_from_few_targets_is_no_proof_of_knowledge(weight, ahead):
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 10
    scores = 0.03 * torch.randn(400, 10, generator=rng) + weight * F.one_hot(y, 10)
    call = LossCall(
        "cross_entropy",
        F.cross_entropy,
        {"input": scores, "target": y},
        torch.tensor(2.3),
        400,
        "a:1",
        target_from_net=False,
    )
    look = Look(100, 5, 0.4 * torch.linspace(-1, 1, 10), Estimate(2.3, 0.01), torch.full((10,), 0.1))
    look.add(call, torch.zeros(400, 1), torch.zeros(400), 400)
    assert look.behind("constant", loss=True).is_better
    assert (look.is_informed or look.is_ahead) is ahead


# -- what is told


class Photos(Dataset):
    """Images as bytes, whose brightness tells their class, and labels in the order of another list."""

    def __init__(self, n, order):
        rng = torch.Generator().manual_seed(n)
        labels = torch.randint(3, (n,), generator=rng)
        self.images = (torch.rand(n, 3, 8, 8, generator=rng) * (100 + 50 * labels[:, None, None, None])).byte()
        self.kinds = labels[torch.from_numpy(order(n))]

    def __len__(self):
        return len(self.kinds)

    def __getitem__(self, index):
        return {"image": self.images[index] / 255, "kind": self.kinds[index]}


class Folder(Photos):
    """The same by the names of files, and a list of labels."""

    def __init__(self, n, order):
        super().__init__(n, order)
        self.files = {f"{i}.png": image for i, image in enumerate(self.images)}
        self.names, self.labels = list(self.files), self.kinds.tolist()
        del self.images, self.kinds

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        return {"image": self.files[self.names[index]] / 255, "kind": self.labels[index]}


class Brightness(Healthy):
    """A loss by hand."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))

    def training_step(self, batch, batch_idx):
        return -self.net(batch["image"]).log_softmax(1).gather(1, batch["kind"][:, None]).mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


ORDERS = {
    "text from 0": lambda n: np.array(sorted(range(n), key=str)),
    "text from 1, of labels": lambda n: np.argsort(sorted(range(n), key=lambda row: str(row + 1))),
    "reversed": lambda n: np.arange(n)[::-1].copy(),
    "a row late": lambda n: np.roll(np.arange(n), 1),
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("kept", [Photos, Folder])
def test_labels_in_the_order_of_another_list(fit, order, kept):
    train, val = (DataLoader(kept(n, order), 32, shuffle=n == 640) for n in (640, 256))
    (finding,) = found(fit, Brightness(), train=train, val=val)
    assert (finding.status, finding.code) == (Status.WARNING, SortedAsText.code)
    assert finding.evidence["gain"] > 0.2


def test_numbers_in_the_order_of_another_list(fit):
    class Late(Regression):
        rate = 1e-3

        def data(self, n, seed):
            x, y = numbers(n, seed).tensors
            return TensorDataset(x, y.roll(-1))

    findings = found(fit, Late(), train=DataLoader(Late().data(640, 1), 32, shuffle=True))
    assert SortedAsText.code in {finding.code for finding in findings if finding.is_alarm}


def the_alarm(fit, module, **settings):
    findings = found(fit, module, **settings)
    (alarm,) = [f for f in findings if f.is_alarm]
    assert alarm.status is Status.WARNING
    assert alarm.fix
    assert alarm.code == "Baselines/worse_than_constant"
    assert alarm.evidence["difference"] > 3 * alarm.evidence["error"] > 0
    return alarm


def test_classes_numbered_otherwise_in_validation(fit):
    alarm = the_alarm(fit, NumberedOtherwise())
    assert alarm.evidence["model"] < alarm.evidence["constant"]
    assert "renumbered" in alarm.message


def test_other_preprocessing_in_validation(fit):
    class SignLost(Regression):
        unit = -1.0

    alarm = the_alarm(fit, SignLost(), max_epochs=12)
    assert alarm.evidence["loss"] > 2 * alarm.evidence["constant_loss"]


def test_other_preprocessing_in_validation_of_a_loss_by_hand(fit):
    class SignLost(SquaresByHand):
        unit = -1.0

    the_alarm(fit, SignLost(), max_epochs=12)


def test_a_run_that_never_learns_where_the_targets_are(fit):
    class Stands(Regression):
        rate = 3e-6

        def data(self, n, seed):
            return numbers(n, seed, shift=30.0)

    assert the_alarm(fit, Stands()).evidence["loss"] > 500


def test_it_is_told_before_the_end(fit):
    class Told(L.Callback):
        at = None

        def on_train_epoch_start(self, trainer, pl_module):
            if self.at is None and any(f.is_alarm for f in check.findings):
                self.at = trainer.current_epoch

    check, told = Baselines(), Told()
    fit(NumberedOtherwise(), [check, told], logger=False, max_epochs=20)
    assert 8 <= told.at < 20


@pytest.mark.parametrize("patient", [NothingToLearn, SeesTwoColumns, TooSure])
def test_what_could_be_better_is_advice(fit, patient):
    (finding,) = found(fit, patient(), **patient.steps)
    assert (finding.status, finding.code) == (Status.ADVICE, patient.code)


def test_a_forecast_behind_the_previous_value(fit):
    class Behind(Forecast):
        def forward(self, x):
            return 0.5 * x[:, -1:] + 0.0 * self.net(x)

    (finding,) = found(fit, Behind(), val=DataLoader(Forecast().data(256, 2), 64))
    assert finding.code == "Baselines/worse_than_simple_model"
    assert finding.evidence["model"] > finding.evidence["previous_value"]


class Grows(Forecast):
    """Levels of validation were never met in training."""

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(x + 20 * (seed == 2), y + 20 * (seed == 2))


def test_levels_beyond_those_of_training_are_compared_with_the_value_before(fit):
    class Behind(Grows):
        def forward(self, x):
            return x[:, -1:].clamp(max=5) + 0.0 * self.net(x)

    (finding,) = found(fit, Behind(), val=DataLoader(Grows().data(256, 2), 64))
    assert finding.code == "Baselines/worse_than_simple_model"
    assert "the previous value is better by" in finding.message

    class AtPar(Grows):
        def forward(self, x):
            return x[:, -1:] + 0.0 * self.net(x)

    assert quiet(fit, AtPar(), val=DataLoader(Grows().data(256, 2), 64))


class AsksTwice(Forecast):
    """Validation asks the module itself, too, which gives what enters another name."""

    def training_step(self, batch, batch_idx):
        return self.loss(batch[0][:, -1:] + self.net(batch[0] * 1), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_mae", (self(batch[0]) - batch[1]).abs().mean())
        self.log("val_loss", self.training_step(batch, batch_idx))


def test_simple_models_are_given_what_they_were_fitted_on(fit):
    finding = quiet(fit, AsksTwice(), max_epochs=10)
    assert {"linear_model", "previous_value"} <= finding.evidence.keys()


class InOtherUnits(Forecast):
    """The network is given what was standardised, and its loss is of levels over their scale."""

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        level = 9 * torch.randn(n, 1, generator=torch.Generator().manual_seed(seed + 1))
        return TensorDataset((x + level) / 3 - 7, y + level)


def test_a_forecast_in_another_unit_than_its_window(fit):
    class Behind(InOtherUnits):
        def forward(self, x):
            return 0.5 * 3 * (x[:, -1:] + 7) + 0.0 * self.net(x)

    class AtPar(InOtherUnits):
        def forward(self, x):
            return 3 * (x[:, -1:] + 7) + 0.0 * self.net(x)

    (finding,) = found(fit, Behind(), val=DataLoader(InOtherUnits().data(256, 2), 64))
    assert finding.code == "Baselines/worse_than_simple_model"
    assert "the previous value is better by" in finding.message
    at_par = quiet(fit, AtPar(), val=DataLoader(InOtherUnits().data(256, 2), 64))
    assert at_par.evidence["previous_value"] == pytest.approx(at_par.evidence["model"], rel=0.1)


def test_a_forecast_that_comes_nearer_to_the_previous_value_is_told_at_the_end(fit):
    class Nearer(Forecast):
        rate = 3e-5

        def forward(self, x):
            return self.net(x) + 0.3 * x[:, -1:]

    (finding,) = found(fit, Nearer(), val=DataLoader(Forecast().data(512, 2), 64))
    assert (finding.status, finding.code) == (Status.ADVICE, "Baselines/worse_than_simple_model")
    assert "the previous value is better by" in finding.message


def test_a_loss_that_falls_must_come_nearer_to_what_is_far_ahead(fit, monkeypatch):
    monkeypatch.setattr(_baselines_verdict, "PREVIOUS", "")  # which is told of at the end in any case

    class Slow(Forecast):
        rate = 3e-6

        def forward(self, x):
            return self.net(x) + 0.3 * x[:, -1:]

    settings = {"train": DataLoader(Forecast().data(256, 1), 8), "val": DataLoader(Forecast().data(512, 2), 64)}
    (finding,) = found(fit, Slow(), **settings)
    assert finding.code == "Baselines/worse_than_simple_model"
    monkeypatch.setattr(_baselines_verdict, "BEYOND_CHANCE", torch.inf)
    assert quiet(fit, Slow(), **settings).evidence["model"] > 2 * finding.evidence["previous_value"]


def test_many_times_the_loss_of_a_simple_model_is_told_even_if_it_comes_nearer(fit, monkeypatch):
    monkeypatch.setattr(_baselines_verdict, "PREVIOUS", "")  # which is told of at the end in any case

    class Closing(Forecast):
        rate = 3e-5

        def forward(self, x):
            return self.net(x) + 0.3 * x[:, -1:]

    settings = {"train": DataLoader(Forecast().data(256, 1), 8), "val": DataLoader(Forecast().data(512, 2), 64)}
    assert quiet(fit, Closing(), **settings)
    monkeypatch.setattr(_baselines_verdict, "TIMES", 2)
    (finding,) = found(fit, Closing(), **settings)
    assert (finding.status, finding.code) == (Status.ADVICE, "Baselines/worse_than_simple_model")


def test_what_is_far_behind_at_the_end_is_told_even_if_it_comes_nearer(fit, monkeypatch):
    class Slow(Healthy):
        """As with two units of a recurrent network for many classes."""

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=2e-3)

    settings = {"max_epochs": 8}
    (finding,) = found(fit, Slow(), **settings)
    assert (finding.status, finding.code) == (Status.ADVICE, "Baselines/worse_than_simple_model")
    monkeypatch.setattr(_baselines_verdict, "FAR", torch.inf)
    assert quiet(fit, Slow(), **settings)


# -- a human's score, people's data, pictures


def test_a_humans_score_stands_beside_the_metric(fit):
    check = Baselines(human={"val_loss": 0.1, "val_acc": 0.98})
    reached, missing, compared = found(fit, Healthy(), check, max_epochs=3)
    assert reached.evidence["human"] == 0.1
    assert reached.evidence["model"] > 0
    assert (missing.status, missing.subject) == (Status.SKIPPED, "val_acc")
    assert compared.status is Status.PASSED


@pytest.mark.parametrize("human", [0.98, {1: 0.98}, {"val_acc": "98 %"}, {"val_acc": True}, ["val_acc"]])
def test_a_humans_score_is_a_number_by_name(human):
    with pytest.raises(TypeError, match="numbers by the names"):
        Baselines(human=human)


def test_a_humans_score_is_finite():
    with pytest.raises(ValueError, match="finite"):
        Baselines(human={"val_acc": math.nan})


@pytest.mark.parametrize("module", [Healthy, Regression])
def test_nothing_of_people_is_kept_if_it_must_not_be(fit, module):
    class Sees(Baselines):
        def end(self, run):
            self.kept = [*self._known.rows, *self._known.pairs]
            return super().end(run)

    check = Sees(keep_examples=False)
    (finding,) = found(fit, module(), check)
    assert not check.kept
    assert "linear_model" not in finding.evidence
    assert "constant" in finding.evidence


def test_the_picture_is_drawn_once(fit, events):
    trainer = fit(Healthy(), [Baselines(human={"val_loss": 0.1})], max_epochs=3)
    images = events(trainer).Images("2.06 Baselines/baselines")
    assert len(images) == 1
    assert (images[0].width, images[0].height) == (640, 360)


@pytest.mark.parametrize("ends", [False, True])
def test_where_a_schedule_has_come_to_its_end_nothing_comes_nearer_any_more(fit, monkeypatch, ends):
    monkeypatch.setattr(_baselines_verdict, "FAR", torch.inf)

    class Annealed(Healthy):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=2e-3)
            rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.01 if ends and epoch > 24 else 1.0)
            return [optimizer], [rates]

    findings = found(fit, Annealed(), max_epochs=27)
    assert [f.code for f in findings if f.status is Status.ADVICE] == ["Baselines/worse_than_simple_model"] * ends
