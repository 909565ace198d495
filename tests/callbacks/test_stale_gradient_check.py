import pytest
import torch
from patients import (
    CLASSES,
    FEATURES,
    ClearedTooSoon,
    ClippedToNothing,
    ClipsNothing,
    ForeignGradient,
    Healthy,
    NeverCleared,
    SummedBatches,
    ThrownAway,
)
from torch import nn
from torch.nn import functional as F

from lightning_recipe import StaleGradientCheck, Status


def judged(fit, module, **settings):
    check = StaleGradientCheck()
    fit(module, [check], logger=False, **{"max_epochs": 3, **settings})
    return check.findings


class ByHand(Healthy):
    """Optimises by hand."""

    automatic_optimization = False
    optimizer = staticmethod(lambda parameters: torch.optim.SGD(parameters, lr=0.01))

    def training_step(self, batch, batch_idx):
        self.optimise(self.optimizers(), batch, batch_idx)

    def computed(self, batch):
        return self.loss(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return self.optimizer(self.net.parameters())


# -- false alarms first


class ClearedFirst(ByHand):
    to_none = True

    def optimise(self, optimizer, batch, batch_idx):
        optimizer.zero_grad(set_to_none=self.to_none)
        self.manual_backward(self.computed(batch))
        optimizer.step()


class SetToZero(ClearedFirst):
    to_none = False


class ClearedLast(ByHand):
    def optimise(self, optimizer, batch, batch_idx):
        self.manual_backward(self.computed(batch))
        optimizer.step()
        optimizer.zero_grad()


class ClearedAsData(ByHand):
    """As it was done long ago, which no version of a tensor tells of."""

    def optimise(self, optimizer, batch, batch_idx):
        for parameter in self.net.parameters():
            if parameter.grad is not None:
                parameter.grad.data.zero_()
        self.computed(batch).backward()
        optimizer.step()


class ClearedInAHook(ClearedLast):
    def optimise(self, optimizer, batch, batch_idx):
        self.manual_backward(self.computed(batch))
        optimizer.step()

    def on_train_batch_start(self, *_):
        self.zero_grad()


class Accumulating(ByHand):
    every = 4

    def optimise(self, optimizer, batch, batch_idx):
        self.manual_backward(self.computed(batch) / self.every)
        if (batch_idx + 1) % self.every == 0:
            optimizer.step()
            optimizer.zero_grad()


class ClearedAtEverySecond(ByHand):
    """Steps at each batch, and means it."""

    def optimise(self, optimizer, batch, batch_idx):
        if batch_idx % 2 == 0:
            optimizer.zero_grad()
        self.manual_backward(self.computed(batch))
        optimizer.step()


class TwoHeads(ByHand):
    """One backward for each of two heads; the second one is trained now and then."""

    def __init__(self):
        super().__init__()
        self.other = nn.Linear(FEATURES, CLASSES)

    def configure_optimizers(self):
        return self.optimizer(self.parameters())

    def optimise(self, optimizer, batch, batch_idx):
        optimizer.zero_grad()
        if batch_idx % 2:
            self.manual_backward(self.loss(self.other(batch[0]), batch[1]))
        self.between(optimizer)
        self.manual_backward(self.computed(batch))
        optimizer.step()

    def between(self, optimizer):
        pass


class ClearedBetween(TwoHeads):
    def optimise(self, optimizer, batch, batch_idx):
        super().optimise(optimizer, batch, 1)

    def between(self, optimizer):
        optimizer.zero_grad()


def test_gradients_cleared_between_two_backwards(fit):
    assert [f.status for f in judged(fit, TwoHeads())] == [Status.PASSED]
    (finding,) = judged(fit, ClearedBetween())
    assert (finding.status, finding.code) == (Status.WARNING, "StaleGradientCheck/cleared_before_step")
    assert "other.weight" in finding.message


class Twice(ByHand):
    def optimise(self, optimizer, batch, batch_idx):
        optimizer.zero_grad()
        for _ in range(2):
            self.manual_backward(self.computed(batch))
        optimizer.step()


class Penalised(ByHand):
    """A penalty on gradients, which are made a graph for it."""

    def optimise(self, optimizer, batch, batch_idx):
        optimizer.zero_grad()
        x = batch[0].requires_grad_()
        loss = self.loss(self(x), batch[1])
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        self.manual_backward(loss + slope.square().sum())
        optimizer.step()


class Perturbed(ByHand):
    """SAM: up along the gradient, and down from there."""

    def optimise(self, optimizer, batch, batch_idx):
        self.manual_backward(self.computed(batch))
        up = [0.01 * parameter.grad for parameter in self.net.parameters()]
        self._move(up, 1)
        optimizer.zero_grad()
        self.manual_backward(self.computed(batch))
        self._move(up, -1)
        optimizer.step()
        optimizer.zero_grad()

    def _move(self, steps, sign):
        with torch.no_grad():
            for parameter, step in zip(self.net.parameters(), steps, strict=True):
                parameter.add_(step, alpha=sign)


class Closure(ByHand):
    optimizer = staticmethod(lambda parameters: torch.optim.LBFGS(parameters, max_iter=3))

    def optimise(self, optimizer, batch, batch_idx):
        def closure():
            optimizer.zero_grad()
            loss = self.computed(batch)
            self.manual_backward(loss)
            return loss

        optimizer.step(closure)


class ClosureAndCleared(Closure):
    def optimise(self, optimizer, batch, batch_idx):
        super().optimise(optimizer, batch, batch_idx)
        optimizer.zero_grad()


class StepsInBackward(ByHand):
    """Each parameter is stepped as soon as it has its gradient."""

    def optimise(self, optimizer, batch, batch_idx):
        self.manual_backward(self.computed(batch))

    def on_train_start(self):
        for parameter in self.net.parameters():
            own = torch.optim.SGD([parameter], lr=0.01)
            parameter.register_post_accumulate_grad_hook(lambda _, own=own: (own.step(), own.zero_grad())[0])


class WithoutLastLayer(ByHand):
    """As DINO begins: the last layer's gradients are thrown away."""

    def optimise(self, optimizer, batch, batch_idx):
        optimizer.zero_grad()
        self.manual_backward(self.computed(batch))
        for parameter in self.net[-1].parameters():
            parameter.grad = None
        optimizer.step()


class Decaying(ByHand):
    """Momentum by hand: a part of the gradients is kept."""

    def optimise(self, optimizer, batch, batch_idx):
        for parameter in self.net.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(0.5)
        self.manual_backward(self.computed(batch))
        optimizer.step()


class Adversaries(Healthy):
    """DCGAN's order: what the generator's backward leaves in the discriminator is cleared before that is used."""

    automatic_optimization = False
    toggles, clears, every = False, ("d", "g"), 1

    def __init__(self):
        super().__init__()
        self.other = nn.Linear(CLASSES, 1)

    def training_step(self, batch, batch_idx):
        d, g = self.optimizers()
        fake = self(batch[0])
        self._step(d, "d", lambda: F.softplus(self.other(fake.detach())).mean())
        if batch_idx % self.every == 0:
            self._step(g, "g", lambda: F.softplus(-self.other(fake)).mean())

    def _step(self, optimizer, name, loss):
        if self.toggles:
            self.toggle_optimizer(optimizer)
        if name in self.clears:
            optimizer.zero_grad()
        self.manual_backward(loss())
        optimizer.step()
        if self.toggles:
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.01) for part in (self.other, self.net)]


class Toggled(Adversaries):
    toggles = True


class Critic(Adversaries):
    """The generator steps at every third batch."""

    every = 3


class Automatic(Healthy):
    optimizer = staticmethod(lambda parameters: torch.optim.Adam(parameters, lr=0.01))

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


class Lbfgs(Automatic):
    optimizer = staticmethod(lambda parameters: torch.optim.LBFGS(parameters, max_iter=3))


class OwnZeroGrad(Automatic):
    def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
        optimizer.zero_grad(set_to_none=False)


class EverySecond(Automatic):
    """Accumulates on purpose, without telling Lightning."""

    def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
        if batch_idx % 2 == 0:
            optimizer.zero_grad()


class EverySecondStep(EverySecond):
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        if batch_idx % 2:
            optimizer.step(closure=optimizer_closure)
        else:
            optimizer_closure()


class LossOfBoth(Adversaries):
    """One backward, after which two optimisers step; one of them at every third batch."""

    first = "g"

    def training_step(self, batch, batch_idx):
        optimizers = dict(zip("dg", self.optimizers(), strict=True))
        self.manual_backward(F.softplus(-self.other(self(batch[0]))).mean())
        for name in (self.first, *{"d", "g"} - {self.first}):
            if name == "g" or batch_idx % 3 == 2:
                optimizers[name].step()
                optimizers[name].zero_grad()


class LossOfBothInTheOtherOrder(LossOfBoth):
    first = "d"


class ActorAndCritic(Adversaries):
    """What the actor's loss leaves in the critic is cleared at the beginning of the next batch."""

    def training_step(self, batch, batch_idx):
        d, g = self.optimizers()
        for optimizer, sign in ((d, -1), (g, 1)):
            self.zero_grad()
            self.manual_backward(F.softplus(sign * self.other(self(batch[0]))).mean())
            optimizer.step()


class ClippedByHand(ByHand):
    limit = 0.25

    def optimise(self, optimizer, batch, batch_idx):
        optimizer.zero_grad()
        self.manual_backward(self.computed(batch))
        nn.utils.clip_grad_norm_(self.parameters(), self.limit)
        optimizer.step()


class ClippedByLightning(ByHand):
    def optimise(self, optimizer, batch, batch_idx):
        optimizer.zero_grad()
        self.manual_backward(self.computed(batch))
        self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="value")
        optimizer.step()


class ClippedTwice(ByHand):
    """Each loss by itself."""

    def optimise(self, optimizer, batch, batch_idx):
        optimizer.zero_grad()
        for _ in range(2):
            self.manual_backward(self.computed(batch))
            nn.utils.clip_grad_norm_(self.parameters(), 0.1)
        optimizer.step()


class Private(ByHand):
    """DP-SGD by hand: the gradient of each example is clipped, and noise is added to their sum."""

    optimizer = staticmethod(lambda parameters: torch.optim.SGD(parameters, lr=1.0))

    def optimise(self, optimizer, batch, batch_idx):
        total = [torch.zeros_like(p) for p in self.net.parameters()]
        for i in range(0, 8, 2):
            optimizer.zero_grad()
            self.manual_backward(self.computed([part[i : i + 2] for part in batch]))
            nn.utils.clip_grad_norm_(self.net.parameters(), 0.01)
            for whole, p in zip(total, self.net.parameters(), strict=True):
                whole.add_(p.grad)
        for whole, p in zip(total, self.net.parameters(), strict=True):
            p.grad = whole / 4 + 0.001 * torch.randn_like(whole)
        optimizer.step()


class TightUnderAdam(ClippedByHand):
    limit = 1e-6
    optimizer = staticmethod(lambda parameters: torch.optim.Adam(parameters, lr=0.01))


class SummedUnderAdam(Accumulating):
    optimizer = staticmethod(TightUnderAdam.optimizer)

    def computed(self, batch):
        return super().computed(batch) * self.every


@pytest.mark.parametrize(
    "module",
    [
        LossOfBoth, LossOfBothInTheOtherOrder, ActorAndCritic, ClippedByHand, ClippedByLightning, ClippedTwice, Private,
        TightUnderAdam, SummedUnderAdam,
        Healthy, ClearedFirst, SetToZero, ClearedLast, ClearedAsData, ClearedInAHook, Accumulating,
        ClearedAtEverySecond, Twice, Penalised, Perturbed, Closure, ClosureAndCleared, WithoutLastLayer,
        Decaying, Adversaries, Toggled, Critic, Automatic, Lbfgs, OwnZeroGrad, EverySecond, EverySecondStep,
        StepsInBackward,
    ],
)  # fmt: skip
def test_gradients_that_are_cleared_in_time_pass(fit, module):
    findings = judged(fit, module())
    assert [f.status for f in findings] == [Status.PASSED], findings


@pytest.mark.parametrize(
    "settings",
    [
        {"accumulate_grad_batches": 3}, {"gradient_clip_val": 0.1}, {"precision": "bf16-mixed"}, {"overfit_batches": 1},
        {"val_check_interval": 1},
    ],
)  # fmt: skip
def test_whatever_lightning_does(fit, settings):
    findings = judged(fit, Healthy(), **settings, max_epochs=8)
    assert [f.status for f in findings] == [Status.PASSED], findings


# -- patients


def test_missing_zero_grad_is_found_at_the_third_step(fit):
    (finding,) = judged(fit, NeverCleared())
    assert (finding.status, finding.code, finding.step) == (Status.FAILED, NeverCleared.code, 3)
    assert finding.evidence == {"parameters": 5}


class Forgotten(ByHand):
    def optimise(self, optimizer, batch, batch_idx):
        self.manual_backward(self.computed(batch))
        optimizer.step()


class ForgottenInClosure(ByHand):
    def optimise(self, optimizer, batch, batch_idx):
        def closure():
            loss = self.computed(batch)
            self.manual_backward(loss)
            return loss

        optimizer.step(closure)


class Clipping(ByHand):
    def optimise(self, optimizer, batch, batch_idx):
        self.manual_backward(self.computed(batch))
        nn.utils.clip_grad_norm_(self.parameters(), 0.1)
        optimizer.step()


class AccumulatingForEver(Accumulating):
    def optimise(self, optimizer, batch, batch_idx):
        self.manual_backward(self.computed(batch) / self.every)
        if (batch_idx + 1) % self.every == 0:
            optimizer.step()


class ClearsTheOther(Adversaries):
    clears = ("g",)


class OneOfTwoHeads(ByHand):
    """Some of the parameters are cleared only."""

    def optimise(self, optimizer, batch, batch_idx):
        self.net[:4].zero_grad()
        self.manual_backward(self.computed(batch))
        optimizer.step()


class NeverInAutomatic(Automatic):
    def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
        pass


@pytest.mark.parametrize(
    ("module", "parameters"),
    [
        (Forgotten, 5), (ForgottenInClosure, 5), (Clipping, 5), (AccumulatingForEver, 5), (ClearsTheOther, 2),
        (OneOfTwoHeads, 2), (NeverInAutomatic, 5),
    ],
)  # fmt: skip
def test_gradients_that_survive_are_found(fit, module, parameters):
    (finding,) = judged(fit, module(), limit_val_batches=0)
    assert (finding.code, finding.evidence["parameters"]) == (NeverCleared.code, parameters)


@pytest.mark.parametrize("settings", [{"gradient_clip_val": 0.1}, {"precision": "bf16-mixed"}])
def test_in_automatic_optimisation_clipped_or_of_mixed_precision(fit, settings):
    (finding,) = judged(fit, NeverInAutomatic(), **settings)
    assert (finding.code, finding.step) == (NeverCleared.code, 3)


def test_cleared_between_backward_and_step(fit):
    (finding,) = judged(fit, ClearedTooSoon())
    assert (finding.status, finding.code) == (Status.FAILED, ClearedTooSoon.code)


class ClearedAfterItsStepOnly(Adversaries):
    """What the generator's backward leaves in the discriminator is there when that has its turn."""

    def _step(self, optimizer, name, loss):
        self.manual_backward(loss())
        optimizer.step()
        optimizer.zero_grad()


class FromTheDiscriminator(Adversaries):
    """Without detach: the discriminator's loss goes on into the generator, which clears only after its step."""

    def training_step(self, batch, batch_idx):
        d, g = self.optimizers()
        for optimizer, sign in ((d, -1), (g, 1)):
            self.manual_backward((sign * self.other(self(batch[0]))).sigmoid().mean())
            optimizer.step()
            optimizer.zero_grad()


class CriticOfFive(ClearedAfterItsStepOnly):
    every = 5


@pytest.mark.parametrize(
    ("module", "parameters"), [(ClearedAfterItsStepOnly, 2), (FromTheDiscriminator, 2), (CriticOfFive, 2)]
)
def test_gradients_of_an_adversary_are_found(fit, module, parameters):
    finding = judged(fit, module(), limit_val_batches=0)[0]
    assert (finding.status, finding.code) == (Status.WARNING, ForeignGradient.code)
    assert finding.evidence["parameters"] == parameters


class ClippedBeforeBackward(ByHand):
    def optimise(self, optimizer, batch, batch_idx):
        optimizer.zero_grad()
        loss = self.computed(batch)
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        self.manual_backward(loss)
        optimizer.step()


class ClippedAfterTheStep(ByHand):
    def optimise(self, optimizer, batch, batch_idx):
        optimizer.zero_grad(set_to_none=False)
        self.manual_backward(self.computed(batch))
        optimizer.step()
        nn.utils.clip_grad_value_(self.parameters(), 0.5)


class ClippedExhausted(ByHand):
    """A generator that the optimiser has used up."""

    def optimise(self, optimizer, batch, batch_idx):
        optimizer.zero_grad()
        self.manual_backward(self.computed(batch))
        nn.utils.clip_grad_norm_(self.given, 1.0)
        optimizer.step()

    def configure_optimizers(self):
        self.given = self.net.parameters()
        return torch.optim.SGD(self.given, lr=0.01)


class ClippedWhereTheLossIs(Automatic):
    """In automatic optimisation, whose backward comes later."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        return loss


@pytest.mark.parametrize(
    "module", [ClippedBeforeBackward, ClippedAfterTheStep, ClippedExhausted, ClippedWhereTheLossIs]
)
@pytest.mark.filterwarnings("ignore:.*empty generator")
def test_clipping_that_has_nothing_to_clip(fit, module):
    (finding,) = judged(fit, module(), limit_val_batches=0)
    assert (finding.status, finding.code) == (Status.FAILED, ClipsNothing.code)
    assert finding.evidence["times"] >= 3
    assert "test_stale_gradient_check.py" in finding.message


class Sgd(Automatic):
    optimizer = staticmethod(lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9))


class TightByHand(ClippedByHand):
    limit = 1e-5


class TightByValue(ByHand):
    def optimise(self, optimizer, batch, batch_idx):
        optimizer.zero_grad()
        self.manual_backward(self.computed(batch))
        nn.utils.clip_grad_value_(self.net.parameters(), 1e-6)
        optimizer.step()


@pytest.mark.parametrize(
    ("module", "settings"),
    [(Sgd, {"gradient_clip_val": 1e-6}), (TightByHand, {}), (TightByValue, {}),
     (Sgd, {"gradient_clip_val": 1e-7, "gradient_clip_algorithm": "value"})],
)  # fmt: skip
def test_clipping_that_leaves_nothing(fit, module, settings):
    (finding,) = judged(fit, module(), **settings)
    assert (finding.status, finding.code) == (Status.WARNING, ClippedToNothing.code)
    assert finding.evidence["cut"] > 100
    assert finding.evidence["reach"] < 0.01


@pytest.mark.parametrize("settings", [{"gradient_clip_val": 0.25}, {"gradient_clip_val": 1e-3, "max_epochs": 200}])
def test_clipping_under_sgd_that_leaves_enough(fit, settings):
    assert [f.status for f in judged(fit, Sgd(), limit_train_batches=4, **settings)] == [Status.PASSED]


class ClearedAtEachBatch(Accumulating):
    def optimise(self, optimizer, batch, batch_idx):
        optimizer.zero_grad()
        super().optimise(optimizer, batch, batch_idx)


def test_batches_that_count_for_nothing(fit):
    (finding,) = judged(fit, ClearedAtEachBatch(), limit_val_batches=0)
    assert (finding.status, finding.code) == (Status.WARNING, ThrownAway.code)
    assert finding.evidence == {"thrown": 12, "batches": 16}


class Summed(Accumulating):
    def computed(self, batch):
        return F.cross_entropy(self(batch[0]), batch[1])

    def manual_backward(self, loss):
        self.computed(self.batch).backward()

    def optimise(self, optimizer, batch, batch_idx):
        self.batch = batch
        super().optimise(optimizer, batch, batch_idx)


def test_sums_over_batches_are_advice(fit):
    (finding,) = judged(fit, Summed(), limit_val_batches=0)
    assert (finding.status, finding.code) == (Status.ADVICE, SummedBatches.code)
    assert finding.evidence == {"batches": 4}


class InParts(ByHand):
    """Several backwards of one batch, for lack of memory."""

    divide = False

    def optimise(self, optimizer, batch, batch_idx):
        optimizer.zero_grad()
        for x, y in zip(batch[0].chunk(8), batch[1].chunk(8), strict=True):
            loss = F.cross_entropy(self.net(x), y)
            self.manual_backward(loss / 8 if self.divide else loss)
        optimizer.step()


class InPartsOfTheWhole(InParts):
    divide = True


class InPartsTooFast(InParts):
    """With eight times as much the loss does not fall."""

    optimizer = staticmethod(lambda parameters: torch.optim.SGD(parameters, lr=300.0))


@pytest.mark.parametrize(
    ("module", "statuses"),
    [(InPartsOfTheWhole, [Status.PASSED]), (InParts, [Status.ADVICE]), (InPartsTooFast, [Status.WARNING])],
)
def test_several_backwards_for_a_step(fit, module, statuses):
    findings = judged(fit, module(), max_epochs=10)
    assert [f.status for f in findings] == statuses
    assert findings[0].evidence.get("batches", 8) == 8


def test_clipping_under_sgd_that_leaves_too_little_is_known_by_the_loss(fit):
    (finding,) = judged(fit, Sgd(), gradient_clip_val=1e-3, max_epochs=36)
    assert (finding.status, finding.code) == (Status.WARNING, ClippedToNothing.code)
    assert 0.03 < finding.evidence["reach"] < 0.3


# -- what can't be judged


def test_between_looks_nothing_is_known(fit):
    assert [f.status for f in judged(fit, NeverInAutomatic(), accumulate_grad_batches=2)] == [Status.SKIPPED]


def test_gradients_cleared_after_the_look(fit):
    class Before(NeverInAutomatic):
        def on_before_backward(self, loss):
            self.zero_grad()

    assert [f.status for f in judged(fit, Before())] == [Status.SKIPPED]


def test_one_step_is_none_in_a_row(fit):
    assert [f.status for f in judged(fit, Healthy(), max_steps=1)] == [Status.SKIPPED]
