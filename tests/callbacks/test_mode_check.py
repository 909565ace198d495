import copy

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from patients import (
    CLASSES,
    FEATURES,
    AlwaysDropping,
    AveragedWithoutBuffers,
    EvaluatesByHand,
    FrozenButTraining,
    HastyStatistics,
    Healthy,
    MostlyDropped,
    NotRescaled,
    StatisticsOfOthers,
    StaysInEval,
    TrainsInValidation,
)
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from lightning_recipe import ModeCheck, Status


def judged(fit, module, callbacks=(), **settings):
    check = ModeCheck()
    fit(module, [check, *callbacks], logger=False, **settings)
    return check.findings


# -- false alarms first


class FrozenBackbone(Healthy):
    """A head is trained on a network in eval mode, which the optimiser holds or not."""

    def __init__(self, head=None):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(FEATURES, 32), nn.BatchNorm1d(32), nn.Dropout(0.3))
        self.net = head or nn.Linear(32, CLASSES)

    def forward(self, x):
        with torch.no_grad():
            h = self.backbone(x)
        return self.net(h)

    def on_train_epoch_start(self):
        self.backbone.eval()

    def forward_with_grad(self, x):
        return self.net(self.backbone(x))


class FrozenParameters(FrozenBackbone):
    forward = FrozenBackbone.forward_with_grad

    def __init__(self):
        super().__init__()
        self.backbone.requires_grad_(requires_grad=False)


class Pretrained(FrozenBackbone):
    """Statistics are kept, weights are not: fine-tuning."""

    forward = FrozenBackbone.forward_with_grad

    def __init__(self):
        super().__init__()
        del self.backbone[2]
        self.backbone(torch.randn(64, FEATURES) + 1)


class LoadedInEval(FrozenBackbone):
    """As ``from_pretrained`` gives it."""

    forward = FrozenBackbone.forward_with_grad

    def __init__(self):
        super().__init__()
        self.backbone(torch.randn(64, FEATURES) + 1)
        self.backbone.eval()


class NormsInEval(Healthy):
    """Statistics are frozen after the first epoch, as is usual for segmentation."""

    def on_train_epoch_start(self):
        self.net[1].train(self.current_epoch < 1)


class NormAlone(Healthy):
    """``train()`` that leaves a loaded BatchNorm as it is."""

    def __init__(self):
        super().__init__()
        self.net[1](torch.randn(64, 32))

    def on_train_epoch_start(self):
        self.net[1].eval()


class NoDropoutAtTheEnd(Healthy):
    def on_train_epoch_start(self):
        self.net[3].train(self.current_epoch < 1)


class SwitchedForACall(Healthy):
    """Pseudo-labels in eval mode."""

    def training_step(self, batch, batch_idx):
        self.eval()
        with torch.no_grad():
            goal = self(batch[0]).softmax(1)
        self.train()
        return F.cross_entropy(self(batch[0]), goal) + super().training_step(batch, batch_idx)


class EvalAtTheEnd(Healthy):
    """Each step begins in training mode and ends in eval mode."""

    def training_step(self, batch, batch_idx):
        self.train()
        loss = super().training_step(batch, batch_idx)
        self.eval()
        return loss


class Teacher(Healthy):
    """Mean teacher, with its buffers, in eval mode everywhere."""

    def __init__(self):
        super().__init__()
        self.teacher = copy.deepcopy(self.net).requires_grad_(requires_grad=False).eval()

    def training_step(self, batch, batch_idx):
        self.teacher.eval()
        return super().training_step(batch, batch_idx) + F.mse_loss(self(batch[0]), self.teacher(batch[0]))

    def on_train_batch_end(self, *_):
        for mine, theirs in zip(self.teacher.state_dict().values(), self.net.state_dict().values(), strict=True):
            mine.copy_(mine.lerp(theirs, 0.1) if mine.is_floating_point() else theirs)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(self.teacher(batch[0]), batch[1]))


class AveragedInAList(AveragedWithoutBuffers):
    def on_train_batch_end(self, *_):
        super().on_train_batch_end()
        for mine, theirs in zip(self.average[0].buffers(), self.net.buffers(), strict=True):
            mine.copy_(theirs)


class RandomTarget(Healthy):
    """Random network distillation: a target that nobody ever trains."""

    def __init__(self):
        super().__init__()
        self.target = copy.deepcopy(self.net).requires_grad_(requires_grad=False).eval()

    def validation_step(self, batch, batch_idx):
        self.log("surprise", F.mse_loss(self(batch[0]), self.target(batch[0])))


class CopyNeverCalled(AveragedWithoutBuffers):
    validation_step = Healthy.validation_step


class MonteCarlo(Healthy):
    def validation_step(self, batch, batch_idx):
        self.net[3].train()
        super().validation_step(batch, batch_idx)


class MonteCarloOfAll(Healthy):
    """Without BatchNorm the whole network can be in training mode."""

    def __init__(self):
        super().__init__()
        self.net[1] = nn.LayerNorm(32)

    def validation_step(self, batch, batch_idx):
        self.train()
        self.log("spread", torch.stack([self(batch[0]) for _ in range(8)]).std())


class MonteCarloAsFunction(Healthy):
    def forward(self, x):
        return self.net[4](F.dropout(self.net[:3](x), 0.2))

    def validation_step(self, batch, batch_idx):
        self.log("spread", torch.stack([self(batch[0]) for _ in range(8)]).std())


class Adapted(Healthy):
    """AdaBN: statistics follow the validation data."""

    def validation_step(self, batch, batch_idx):
        self.net[1].train()
        super().validation_step(batch, batch_idx)


class Detector(Healthy):
    """Returns losses in training mode only."""

    def validation_step(self, batch, batch_idx):
        self.net.train()
        super().validation_step(batch, batch_idx)
        self.net.eval()


class Generator(Healthy):
    """Stays in training mode beside a discriminator in eval mode, as in pix2pix."""

    def __init__(self):
        super().__init__()
        self.discriminator = copy.deepcopy(self.net)

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + self.loss(self.discriminator(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.net.train()
        super().validation_step(batch, batch_idx)


class NoStatistics(TrainsInValidation):
    """Nothing feels the mode."""

    def __init__(self):
        super().__init__()
        self.net[1], self.net[3] = nn.BatchNorm1d(32, track_running_stats=False), nn.Dropout(0)


class Corrupted(Healthy):
    """A denoising network, which is given corrupted inputs in validation, too; and a function that knows the mode."""

    def forward(self, x):
        return self.net[4](F.dropout(self.net[:3](F.dropout(x, 0.1)), 0.2, self.training))


class CumulativeAverage(Healthy):
    def __init__(self):
        super().__init__()
        self.net[1].momentum = None


class Reparametrised(Healthy):
    """A VAE samples in validation, too."""

    def forward(self, x):
        mean = self.net[:3](x)
        return self.net[4](mean + torch.randn_like(mean))


class AffineFrozen(Healthy):
    """The layers around it learn, so that its statistics have to follow."""

    def __init__(self):
        super().__init__()
        self.net(3 * torch.randn(64, FEATURES))
        self.net[1].requires_grad_(requires_grad=False)


class FrozenOnTheSameData(FrozenButTraining):
    def __init__(self):
        super().__init__()
        x, _ = self.data(256, 1).tensors
        self.backbone[1].reset_running_stats()
        self.backbone[1].momentum = None
        self.backbone(x)
        self.backbone[1].momentum = 0.1


class FrozenInEval(FrozenButTraining):
    def on_train_epoch_start(self):
        self.backbone.eval()


class MaskedInside(Healthy):
    """Predicts what it has masked, in validation, too."""

    def __init__(self):
        super().__init__()
        self.back = nn.Linear(CLASSES, 32)

    def training_step(self, batch, batch_idx):
        h = self.net[:3](batch[0])
        masked = torch.rand_like(h) < 0.3
        return ((self.back(self.net[3:](h * masked.logical_not())) - h.detach()) ** 2 * masked).mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))


class DropoutOfItsOwn(Healthy):
    class Dropping(nn.Module):
        def forward(self, h):
            return F.dropout(h, 0.2, self.training)

    def __init__(self):
        super().__init__()
        self.net[3] = self.Dropping()


class BySWA(Healthy):
    """Averages the weights, and takes the statistics of the network as they are."""

    def __init__(self):
        super().__init__()
        self.average = torch.optim.swa_utils.AveragedModel(self.net, use_buffers=False)

    def on_train_batch_end(self, *_):
        self.average.update_parameters(self.net)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(self.average(batch[0]), batch[1]))


class AveragedOfFrozenStatistics(Healthy):
    """Neither the network nor its average takes statistics any more."""

    def __init__(self):
        super().__init__()
        self.net(torch.randn(64, FEATURES))
        self.average = torch.optim.swa_utils.AveragedModel(self.net)

    def on_train_epoch_start(self):
        self.net[1].eval()

    def on_train_batch_end(self, *_):
        self.average.update_parameters(self.net)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(self.average(batch[0]), batch[1]))


class Evaluates(EvaluatesByHand):
    def on_train_epoch_end(self):
        self.eval()
        super().on_train_epoch_end()
        self.train()


class Previews(Healthy):
    """As a generator draws a picture of the same noise after each epoch."""

    def on_train_epoch_end(self):
        with torch.no_grad():
            self(torch.zeros(4, FEATURES, device=self.device))


class TakesStatisticsAnew(Healthy):
    """Precise statistics: those of the moving average are replaced by those of all examples."""

    def on_train_epoch_end(self):
        update_bn(self.train_dataloader(), self, self.device)


class TwoViews(Healthy):
    """From the second epoch on each batch is seen twice."""

    def training_step(self, batch, batch_idx):
        if self.current_epoch:
            self(batch[0] + 0.1)
        return super().training_step(batch, batch_idx)


class NowAndThen(Healthy):
    """Labels a batch in training mode at some steps."""

    def training_step(self, batch, batch_idx):
        if batch_idx % 3 == 0:
            self(batch[0] + 0.1)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("module", [Evaluates, Previews, TakesStatisticsAnew, TwoViews, NowAndThen])
def test_what_goes_on_between_epochs_may_be_meant(fit, module):
    findings = judged(fit, module(), max_epochs=6)
    assert [f.status for f in findings] == [Status.PASSED], findings


@pytest.mark.parametrize(
    "module",
    [
        Healthy, FrozenBackbone, FrozenParameters, Pretrained, LoadedInEval, NormsInEval, NormAlone, NoDropoutAtTheEnd,
        SwitchedForACall, EvalAtTheEnd, Teacher, AveragedInAList, RandomTarget, CopyNeverCalled, MonteCarlo,
        MonteCarloOfAll, MonteCarloAsFunction, Adapted, Detector, Generator, NoStatistics,
        CumulativeAverage, AffineFrozen, FrozenOnTheSameData, FrozenInEval,
        DropoutOfItsOwn, BySWA, AveragedOfFrozenStatistics,
    ],
)  # fmt: skip
def test_a_mode_that_is_meant_is_left_alone(fit, module):
    findings = judged(fit, module(), max_epochs=3)
    assert [f.status for f in findings] == [Status.PASSED], findings


def test_averages_of_lightning_have_statistics(fit):
    averages = [EMAWeightAveraging()], [StochasticWeightAveraging(1e-3, swa_epoch_start=1)]
    told = [judged(fit, Healthy(), callbacks, max_epochs=4) for callbacks in averages]
    assert [[f.status for f in findings] for findings in told] == [[Status.PASSED]] * 2, told


def test_adversaries_that_toggle(fit):
    class Adversaries(Healthy):
        automatic_optimization = False

        def __init__(self):
            super().__init__()
            self.other = nn.Sequential(nn.Linear(CLASSES, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 1))

        def training_step(self, batch, batch_idx):
            for optimizer, sign in zip(self.optimizers(), (1, -1), strict=True):
                self.toggle_optimizer(optimizer)
                self.other.train(sign < 0)
                optimizer.zero_grad()
                self.manual_backward(F.softplus(sign * self.other(self(batch[0]))).mean())
                optimizer.step()
                self.untoggle_optimizer(optimizer)

        def configure_optimizers(self):
            return [torch.optim.Adam(part.parameters(), lr=1e-3) for part in (self.net, self.other)]

    assert [f.status for f in judged(fit, Adversaries())] == [Status.PASSED]


def test_all_data_are_one_batch(fit):
    findings = judged(fit, HastyStatistics(), limit_train_batches=1, max_epochs=20)
    assert [f.status for f in findings] == [Status.PASSED]


class Rescaled(NotRescaled):
    """By hand, and scaled in training."""

    def mask(self, h):
        return (torch.rand_like(h) < 0.5) / 0.5

    def forward(self, x):
        h = self.net[:3](x)
        return self.net[4](h * self.mask(h) if self.training else h)


class RescaledInUse(Rescaled):
    """As it was first described: by the share that is kept, in evaluation."""

    def forward(self, x):
        h = self.net[:3](x)
        return self.net[4](h * (torch.rand_like(h) < 0.5) if self.training else h * 0.5)


class PlacesMasked(Rescaled):
    """Whole vectors are masked, as those of time steps of speech."""

    def mask(self, h):
        return torch.rand(len(h), 1) < 0.7


class BranchDropped(Rescaled):
    """Stochastic depth."""

    def forward(self, x):
        h = self.net[:3](x)
        return self.net[4](h + h.tanh() * (torch.rand(len(h), 1) < 0.8) if self.training else h + h.tanh())


class NoiseInTraining(Rescaled):
    def forward(self, x):
        h = self.net[:3](x)
        return self.net[4](h + 0.1 * torch.randn_like(h) if self.training else h)


class InputsMasked(Rescaled):
    """Inputs are masked, to be robust to those that are missing."""

    def forward(self, x):
        return self.net(x * (torch.rand_like(x) < 0.8) if self.training else x)


class ClippedInTraining(Rescaled):
    """Activations are held below a bound in training only; nothing is dropped."""

    def forward(self, x):
        h = self.net[:3](x)
        return self.net[4](h.clamp(max=1.0) if self.training else h)


@pytest.mark.parametrize(
    "module",
    [Rescaled, RescaledInUse, PlacesMasked, BranchDropped, NoiseInTraining, InputsMasked, ClippedInTraining],
)
def test_what_is_done_in_training_only_may_be_meant(fit, module):
    assert NotRescaled.code not in code(judged(fit, module()))


class AsAModule(NotRescaled):
    """A module of its own, after a first layer without a norm, and before another dropout of the same kind."""

    class Drop(nn.Module):
        def forward(self, h):
            return h * torch.bernoulli(torch.full_like(h, 0.8)) if self.training else h

    def __init__(self):
        super().__init__()
        middle = nn.Linear(32, 32)
        self.net = nn.Sequential(
            nn.Linear(FEATURES, 32), nn.ReLU(), self.Drop(), middle, nn.ReLU(), self.Drop(), nn.Linear(32, CLASSES)
        )

    def forward(self, x):
        return self.net(x)


class Zeroed(NotRescaled):
    def forward(self, x):
        h = self.net[:3](x)
        return self.net[4](h.masked_fill(torch.rand(h.shape) < 0.3, 0) if self.training else h)


@pytest.mark.parametrize(("module", "kept"), [(NotRescaled, 0.5), (AsAModule, 0.8), (Zeroed, 0.7)])
def test_dropout_by_hand_that_is_not_rescaled(fit, module, kept):
    (finding,) = [f for f in judged(fit, module()) if f.is_alarm]
    assert (finding.status, finding.code) == (Status.WARNING, NotRescaled.code)
    assert finding.subject == ("net.3" if module is AsAModule else "net.4")
    assert finding.evidence["kept"] == pytest.approx(kept, abs=0.1)


class StrongDropout(Healthy):
    """A wide network that is dropped by half, at two places."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(FEATURES, 64), nn.ReLU(), nn.Dropout(0.6), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.6),
            nn.Linear(64, CLASSES),
        )  # fmt: skip


class Denoising(Healthy):
    """Half of the inputs are dropped on purpose."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Dropout(0.8), nn.Linear(FEATURES, 64), nn.BatchNorm1d(64), nn.Linear(64, CLASSES))


class TeacherForcing(Healthy):
    """Is told the labels in training only."""

    def training_step(self, batch, batch_idx):
        self.labels = batch[1]
        return super().training_step(batch, batch_idx)

    def forward(self, x):
        return self.net(x) + (5 * F.one_hot(self.labels, CLASSES) if self.training else 0)


class OneNormForTwo(Healthy):
    """Real and false examples go through the same BatchNorm, each with its own statistics."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self(x), y) + self.loss(self(x * 20 + 10), (y + 1) % CLASSES)


@pytest.mark.parametrize("module", [Healthy, StrongDropout, Denoising, TeacherForcing, OneNormForTwo])
def test_what_the_mode_is_worth_is_as_usual(fit, module):
    findings = judged(fit, module(), max_epochs=20, limit_val_batches=0)
    assert [f.status for f in findings] == [Status.PASSED], findings


def test_small_batches_and_young_statistics(fit):
    module = Healthy()
    findings = judged(fit, module, train=DataLoader(module.data(128, 1), 4, shuffle=True), max_epochs=4)
    assert [f.status for f in findings] == [Status.PASSED]


# -- patients


def code(findings):
    return [f.code for f in findings]


def test_all_in_eval_mode(fit):
    (finding,) = judged(fit, StaysInEval())
    assert (finding.status, finding.code, finding.subject) == (Status.WARNING, StaysInEval.code, "")
    assert finding.evidence == {"modules": 2}
    assert finding.step > 2, "told at the second look, and seen since"


def test_in_eval_mode_before_the_fit(fit):
    assert code(judged(fit, Healthy().eval())) == [StaysInEval.code]


@pytest.mark.parametrize("hook", ["on_train_start", "on_train_epoch_start", "on_train_epoch_end"])
def test_one_network_in_eval_mode(fit, hook):
    class Previewing(Healthy):
        pass

    setattr(Previewing, hook, lambda self: self.net.eval())
    (finding,) = judged(fit, Previewing(), max_epochs=6)
    assert (finding.code, finding.subject) == (StaysInEval.code, "net")


def test_a_network_within_a_network(fit):
    class Nested(Healthy):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(self.net[:4], self.net[4])

        def on_train_start(self):
            self.net[0].eval()

    (finding,) = judged(fit, Nested())
    assert (finding.code, finding.subject) == (StaysInEval.code, "net.0")


def test_layers_of_the_module_itself(fit):
    class Flat(Healthy):
        def __init__(self):
            super().__init__()
            self.enter, self.norm, self.drop, self.leave = *self.net[:2], self.net[3], self.net[4]
            del self.net

        def forward(self, x):
            return self.leave(self.drop(self.norm(self.enter(x)).relu()))

    (finding,) = judged(fit, Flat().eval())
    assert (finding.code, finding.evidence) == (StaysInEval.code, {"modules": 2})


class Transformer(Healthy):
    def __init__(self, dropout=0.1):
        super().__init__()
        layer = nn.TransformerEncoderLayer(CLASSES, 2, 8, dropout=dropout, batch_first=True)
        self.net = nn.Sequential(nn.Linear(FEATURES, CLASSES), layer, nn.Linear(CLASSES, CLASSES))


class Recurrent(Healthy):
    class LSTM(nn.LSTM):
        def forward(self, x):
            return super().forward(x[:, None])[0][:, 0]

    def __init__(self, dropout=0.1):
        super().__init__()
        self.net = nn.Sequential(self.LSTM(FEATURES, 8, 2, dropout=dropout), nn.Linear(8, CLASSES))


@pytest.mark.parametrize("module", [Transformer, Recurrent])
def test_layers_that_drop_inside(fit, module):
    (finding,) = judged(fit, module().eval())
    assert (finding.status, finding.code) == (Status.WARNING, StaysInEval.code)
    told = judged(fit, module(dropout=0).eval(), limit_val_batches=0)
    assert [f.status for f in told] == [Status.PASSED]


def test_validation_in_training_mode(fit):
    (finding,) = judged(fit, TrainsInValidation())
    assert (finding.status, finding.code) == (Status.WARNING, TrainsInValidation.code)
    assert finding.evidence == {"modules": 2}


@pytest.mark.parametrize("accumulate", [1, 3])
def test_an_evaluation_by_hand_in_training_mode(fit, accumulate):
    findings = judged(fit, EvaluatesByHand(), max_epochs=8, accumulate_grad_batches=accumulate)
    assert [(f.status, f.code, f.subject) for f in findings] == [(Status.WARNING, EvaluatesByHand.code, "net.1")]
    assert findings[0].evidence == {"batches": 4}


@pytest.mark.parametrize("part", ["all", "net"])
def test_a_hook_that_sets_the_mode(fit, part):
    class Hooked(Healthy):
        def on_validation_start(self):
            (self if part == "all" else self.net).train()

    assert code(judged(fit, Hooked())) == [TrainsInValidation.code]


def test_dropout_as_a_function(fit):
    (finding,) = judged(fit, AlwaysDropping())
    assert (finding.status, finding.code) == (Status.WARNING, AlwaysDropping.code)
    assert finding.subject.startswith("patients.py:")


def test_attention_that_drops_whatever_the_mode(fit):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.leave = nn.Linear(32, 96), nn.Linear(32, 32)

        def forward(self, h):
            q, k, v = self.enter(h).view(len(h), 3, 4, 8).unbind(1)
            return self.leave(F.scaled_dot_product_attention(q, k, v, dropout_p=0.1).flatten(1))

    module = Healthy()
    module.net = nn.Sequential(nn.Linear(FEATURES, 32), Attention(), Attention(), nn.Linear(32, CLASSES))
    assert code(judged(fit, module)) == [AlwaysDropping.code]


def test_a_copy_in_a_list_without_statistics(fit):
    (finding,) = judged(fit, AveragedWithoutBuffers())
    assert (finding.status, finding.code) == (Status.FAILED, AveragedWithoutBuffers.code)
    assert finding.evidence == {"modules": 1}


def test_a_copy_that_is_a_module_without_statistics(fit):
    class Listed(AveragedWithoutBuffers):
        def __init__(self):
            super().__init__()
            self.average = nn.ModuleList(self.average)

    (finding,) = judged(fit, Listed(), num_sanity_val_steps=0)
    assert (finding.status, finding.code) == (Status.FAILED, AveragedWithoutBuffers.code)
    assert "average.0.1" in finding.message


def test_a_network_in_eval_mode_that_never_was_trained(fit):
    class Untrained(LoadedInEval):
        def __init__(self):
            FrozenBackbone.__init__(self)
            self.backbone.eval()

    assert code(judged(fit, Untrained())) == [AveragedWithoutBuffers.code]


class InADict(AveragedWithoutBuffers):
    def __init__(self):
        super().__init__()
        self.copies = {"ema": self.average[0]}

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(self.copies["ema"](batch[0]), batch[1]))


class TeachesInTraining(AveragedWithoutBuffers):
    """Its predictions are what the student is to agree with; nobody validates it."""

    validation_step = Healthy.validation_step

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + F.mse_loss(self(batch[0]), self.average[0](batch[0]))


@pytest.mark.parametrize("module", [InADict, TeachesInTraining])
def test_an_average_without_statistics(fit, module):
    (finding,) = judged(fit, module())
    assert (finding.status, finding.code) == (Status.FAILED, AveragedWithoutBuffers.code)


def test_an_average_with_statistics_from_before(fit):
    class Pretrained(AveragedWithoutBuffers):
        def __init__(self):
            super().__init__()
            self.net(torch.randn(64, FEATURES))
            self.average = [copy.deepcopy(self.net).requires_grad_(requires_grad=False).eval()]

    (finding,) = judged(fit, Pretrained())
    assert (finding.status, finding.code) == (Status.WARNING, AveragedWithoutBuffers.code)


def test_a_momentum_of_the_other_kind(fit):
    (finding,) = judged(fit, HastyStatistics())
    assert (finding.status, finding.code) == (Status.WARNING, HastyStatistics.code)
    assert finding.evidence == {"momentum": 0.99}


class NotInOptimiser(FrozenButTraining):
    """Frozen in that nobody trains it."""

    def __init__(self):
        super().__init__()
        self.backbone.requires_grad_()

    def configure_optimizers(self):
        return torch.optim.Adam(self.net.parameters())


class WithoutGradient(NotInOptimiser):
    def forward(self, x):
        with torch.no_grad():
            x = self.backbone(x)
        return self.net(x)


class FrozenBehindNoise(FrozenOnTheSameData):
    """The means stay where they are, and only the spread grows."""

    def forward(self, x):
        return super().forward(x + 1.5 * torch.randn_like(x) if self.training else x)


@pytest.mark.parametrize("module", [FrozenButTraining, NotInOptimiser, WithoutGradient, FrozenBehindNoise])
def test_a_frozen_network_takes_statistics(fit, module):
    (finding,) = judged(fit, module())
    assert (finding.status, finding.code, finding.subject) == (Status.ADVICE, FrozenButTraining.code, "backbone.1")
    assert finding.evidence["drift"] > 0.1


def test_a_momentum_of_zero(fit):
    class Zero(Healthy):
        def __init__(self):
            super().__init__()
            self.net[1].momentum = 0.0

    assert isinstance(Zero().net[1], nn.BatchNorm1d)
    found = [f for f in judged(fit, Zero(), max_epochs=8) if f.is_alarm]
    assert [(f.status, f.code) for f in found] == [(Status.FAILED, "ModeCheck/statistics_never_updated")]
    assert "momentum=0.1" in found[0].fix


def test_a_frozen_network_that_drops(fit):
    class Dropping(FrozenButTraining):
        """Its statistics hardly move."""

        def __init__(self):
            super().__init__()
            self.backbone.append(nn.Dropout(0.2))
            self.backbone[1].momentum = 1e-4

    (finding,) = judged(fit, Dropping())
    assert (finding.status, finding.code, finding.subject) == (Status.ADVICE, FrozenButTraining.code, "backbone.1")
    assert "dropout is active" in finding.message
    assert finding.evidence["drift"] < 0.1


class Bernoulli(Healthy):
    def forward(self, x):
        h = self.net[:3](x)
        return self.net[4](h * torch.bernoulli(torch.full_like(h, 0.8)) / 0.8)


class Compared(Healthy):
    def forward(self, x):
        h = self.net[:3](x)
        mask = (torch.rand_like(h) > 0.2).float() / 0.8
        return self.net[4](mask * h)


class InALeaf(Healthy):
    class Dropping(nn.Module):
        def forward(self, h):
            return F.dropout(h, 0.2)

    def __init__(self):
        super().__init__()
        self.net[3] = self.Dropping()


@pytest.mark.parametrize("module", [Bernoulli, Compared, InALeaf])
def test_dropout_of_ones_own(fit, module):
    (finding,) = judged(fit, module())
    assert (finding.status, finding.code) == (Status.WARNING, AlwaysDropping.code)
    assert finding.subject.startswith("test_mode_check.py:")


@pytest.mark.parametrize("patient", [MostlyDropped, StatisticsOfOthers])
def test_what_was_learnt_is_lost(fit, patient):
    (finding,) = judged(fit, patient(), limit_val_batches=0, **patient.steps)
    assert (finding.status, finding.code) == (Status.WARNING, patient.code)
    assert finding.evidence["lost"] > 0.15


class KeepsATenth(MostlyDropped):
    """In each of three places dropout is given the share that is to be kept."""

    def __init__(self):
        super().__init__()
        layers = [(nn.Linear(width, 64), nn.ReLU(), nn.Dropout(0.9)) for width in (FEATURES, 64, 64)]
        self.net = nn.Sequential(*(one for layer in layers for one in layer), nn.Linear(64, CLASSES))


class NothingToLearn(StrongDropout):
    """Labels have to do with the last digits of the inputs only: a batch can be memorised, with strong dropout, too."""

    def __init__(self, p=0.6):
        super().__init__()
        self.net[2], self.net[5] = nn.Dropout(p), nn.Dropout(0.1)

    def training_step(self, batch, batch_idx):
        return super().training_step((batch[0], (1e4 * batch[0][:, 0].abs()).long() % CLASSES), batch_idx)


@pytest.mark.parametrize("p", [0.6, 0.8])
def test_that_nothing_can_be_learnt_is_no_fault_of_dropout(fit, p):
    (finding,) = judged(fit, NothingToLearn(p), limit_val_batches=0, max_epochs=20)
    assert finding.status is Status.PASSED


def test_dropout_that_lets_nothing_be_learnt(fit):
    (finding,) = judged(fit, KeepsATenth(), limit_val_batches=0, **KeepsATenth.steps)
    assert (finding.status, finding.code) == (Status.WARNING, KeepsATenth.code)
    assert finding.evidence["calm"] < finding.evidence["dropping"] - 0.5


class Jittered(Healthy):
    """Its inputs are given noise, in validation, too."""

    def forward(self, x):
        return super().forward(x + 2 * torch.randn_like(x))


class JitteredByHand(Jittered):
    def loss(self, logits, y):
        return -logits.log_softmax(1)[torch.arange(len(y)), y].mean()


@pytest.mark.parametrize("module", [Jittered, JitteredByHand, Reparametrised, Corrupted, MaskedInside])
def test_noise_in_validation_is_advice(fit, module):
    (finding,) = judged(fit, module())
    assert (finding.status, finding.code) == (Status.ADVICE, "ModeCheck/noise_in_validation")
    assert finding.evidence["share"] > 0.01


class JitteredInTraining(Healthy):
    def forward(self, x):
        return super().forward(x + 2 * torch.randn_like(x) if self.training else x)


class DrawnAlike(Healthy):
    """Each validation draws the same."""

    def forward(self, x):
        same = torch.Generator().manual_seed(0)
        return super().forward(x + torch.randn(x.shape, generator=same))


class MonteCarlo(Healthy):
    def on_validation_epoch_start(self):
        self.net[3].train()


class Hardly(Healthy):
    def forward(self, x):
        return super().forward(x + 1e-4 * torch.randn_like(x))


@pytest.mark.parametrize("module", [Healthy, JitteredInTraining, DrawnAlike, MonteCarlo, Hardly])
def test_no_noise_in_validation(fit, module):
    assert [f.status for f in judged(fit, module())] == [Status.PASSED]


# -- what can't be judged


def test_what_is_compiled_is_not_looked_into(fit):
    class Compiled(Healthy):
        def __init__(self):
            super().__init__()
            self.net = torch.compile(self.net, backend="eager")

    assert [f.status for f in judged(fit, Compiled())] == [Status.SKIPPED]
