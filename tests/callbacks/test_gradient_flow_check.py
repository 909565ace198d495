import copy

import pytest
import torch
from patients import (
    CLASSES,
    FEATURES,
    Affine,
    Constant,
    Detached,
    Healthy,
    HeldTwice,
    MadeAnew,
    MultipliedList,
    ReplacedHead,
)
from programs import ByHand
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe import GradientFlowCheck, Status

NOT_HELD, NO_GRADIENT, ONE = (patient.code for patient in (ReplacedHead, Detached, MultipliedList))
AFFINE, COPIES, ANEW, TWICE = (patient.code for patient in (Affine, Constant, MadeAnew, HeldTwice))


def judged(fit, module, **settings):
    check = GradientFlowCheck()
    fit(module, [check], limit_val_batches=0, logger=False, **{"max_steps": 8, **settings})
    return check.findings


class Net(Healthy):
    """A body and a head, of which the head alone is small."""

    width = 64

    def __init__(self):
        super().__init__()
        self.net = None
        self.body = nn.Sequential(nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, self.width), nn.ReLU())
        self.head = nn.Linear(self.width, CLASSES)

    def forward(self, x):
        return self.head(self.body(x))

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])

    def trained(self):
        return self.parameters()

    def configure_optimizers(self):
        return torch.optim.Adam(self.trained(), lr=3e-3)


# -- false alarms first


class Frozen(Net):
    def __init__(self):
        super().__init__()
        self.body.requires_grad_(requires_grad=False)


class Tied(Net):
    def __init__(self):
        super().__init__()
        self.body[2].weight = nn.Parameter(torch.eye(64))
        self.again = nn.Linear(64, 64)
        self.again.weight = self.body[2].weight

    def forward(self, x):
        return self.head(self.again(self.body(x)))


class ZeroOutput(Net):
    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.head.weight)


class UnusedHead(Net):
    """Called, and its output is thrown away: as BERT's pooler."""

    def __init__(self):
        super().__init__()
        self.pooler = nn.Linear(64, 64)

    def forward(self, x):
        h = self.body(x)
        self.pooler(h)
        return self.head(h)


class Teacher(Net):
    """Follows by averaging; it requires gradients, and the optimiser has it."""

    def __init__(self):
        super().__init__()
        self.teacher = copy.deepcopy(self.body)

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            for own, other in zip(self.teacher.parameters(), self.body.parameters(), strict=True):
                own.lerp_(other, 0.1)
            target = self.teacher(batch[0])
        return super().training_step(batch, batch_idx) + F.mse_loss(self.body(batch[0]), target)


class TeacherOfAHead(Teacher):
    """The student's head is tried on what the teacher puts out."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        with torch.no_grad():
            h = self.teacher(batch[0])
        return loss + self.loss(self.head(h), batch[1])


class StopGradient(Net):
    """SimSiam: each view is the target of the other."""

    def training_step(self, batch, batch_idx):
        a, b = self.body(batch[0]), self.body(batch[0].flip(1))
        p, q = (F.pad(self.head(h), (0, 60)) for h in (a, b))
        return -F.cosine_similarity(p, b.detach()).mean() - F.cosine_similarity(q, a.detach()).mean()


class RandomTarget(Net):
    """Network distillation: a random network that stays as it is is the target."""

    def __init__(self):
        super().__init__()
        self.target = copy.deepcopy(self.body)

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self.body(batch[0]), self.target(batch[0]).detach()) + super().training_step(batch, batch_idx)


class RandomTargetThatCounts(RandomTarget):
    """The same with a learnt weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            target = self.target(batch[0])
        return self.weight * (self.body(batch[0]) - target).square().mean() + Net.training_step(self, batch, batch_idx)


class Momentum(Net):
    """A copy that follows is the target of a product; the optimiser holds it, and gets no gradient for it."""

    def __init__(self):
        super().__init__()
        self.follower = copy.deepcopy(self.body)

    def training_step(self, batch, batch_idx):
        keys = F.normalize(self.follower(batch[0])).detach()
        return -(F.normalize(self.body(batch[0])) * keys).sum(1).mean() + super().training_step(batch, batch_idx)

    def on_train_batch_end(self, *_):
        with torch.no_grad():
            for ours, theirs in zip(self.follower.parameters(), self.body.parameters(), strict=True):
                ours.lerp_(theirs, 0.1)


class StraightThrough(Net):
    def forward(self, x):
        h = self.body(x)
        return self.head(h + (h.round() - h).detach())


class DetachedProbe(Net):
    """A probe looks at features that another loss trains."""

    def __init__(self):
        super().__init__()
        self.probe = nn.Linear(64, CLASSES)

    def training_step(self, batch, batch_idx):
        h = self.body(batch[0])
        return self.loss(self.head(h), batch[1]) + self.loss(self.probe(h.detach()), batch[1])


class Switched(Net):
    """Of two blocks one is left out by chance."""

    def forward(self, x):
        return super().forward(x) if torch.rand(()) < 0.5 else self.head(self.body[:2](x))


class TakingTurns(Net):
    """Two networks and two optimisers, by hand; one is made here, of a network that is registered nowhere."""

    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.lists = [nn.Linear(CLASSES, CLASSES)]
        self.of_lists = torch.optim.SGD(self.lists[0].parameters(), lr=0.1)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        self.zero_grad()
        self.of_lists.zero_grad()
        self.manual_backward(self.loss(self.lists[0](self(batch[0])), batch[1]))
        optimizer.step()
        self.of_lists.step()


class Turns(Net):
    """Adversaries: what one of them does is detached when the other learns."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        body, head = self.optimizers()
        self.toggle_optimizer(head)
        self.manual_backward(self.loss(self.head(self.body(batch[0]).detach()), batch[1]))
        head.step()
        head.zero_grad()
        self.untoggle_optimizer(head)
        if batch_idx % 5 == 2:
            self.toggle_optimizer(body)
            self.manual_backward(-self.loss(self(batch[0]), batch[1]))
            body.step()
            body.zero_grad()
            self.untoggle_optimizer(body)

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.01) for part in (self.body, self.head)]


class HiddenCritic(Net):
    """A fixed network that measures the distance, hidden in a list from checkpoints."""

    def __init__(self):
        super().__init__()
        self.critic = [nn.Sequential(nn.Linear(CLASSES, 8), nn.ReLU()).eval()]

    def training_step(self, batch, batch_idx):
        out = self(batch[0])
        return F.mse_loss(self.critic[0](out), self.critic[0](F.one_hot(batch[1], CLASSES).float()))


class NothingButZero(Net):
    """All parameters take part in the loss, so that no process waits for one."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(4, 4)

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + 0 * sum(p.sum() for p in self.unused.parameters())

    def trained(self):
        return [*self.body.parameters(), *self.head.parameters()]


class Points(Net):
    """The gradient of the output with regard to points that are kept, as for differential equations."""

    def __init__(self):
        super().__init__()
        self.points = torch.randn(8, FEATURES, requires_grad=True)

    def training_step(self, batch, batch_idx):
        (slope,) = torch.autograd.grad(self(self.points).sum(), self.points, create_graph=True)
        return super().training_step(batch, batch_idx) + 0.1 * slope.square().mean()


class Recurrent(Net):
    """One layer, called many times, and activations that are entries of many lists."""

    def __init__(self):
        super().__init__()
        act = nn.ReLU()
        self.more = nn.Sequential(act, self.body[2], act, nn.Dropout(0.1), act)

    def forward(self, x):
        h = self.body(x)
        for _ in range(3):
            h = self.more(h)
        return self.head(h)


class Adapted(Net):
    """LoRA: what is added to a frozen layer begins at zero."""

    def __init__(self):
        super().__init__()
        self.body.requires_grad_(requires_grad=False)
        self.down, self.up = nn.Linear(64, 4, bias=False), nn.Linear(4, 64, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        h = self.body[:2](x)
        return self.head((self.body[2](h) + self.up(self.down(h))).relu())


class WithoutBody(Net):
    """Inputs go where `way` has them go, and nothing is nonlinear."""

    def __init__(self):
        super().__init__()
        self.body = self.head = None
        self.build()

    def forward(self, x):
        return self.way(x)


class SideBySide(WithoutBody):
    """DLinear: a layer for the trend, and one for what is left."""

    def build(self):
        self.trend, self.rest = nn.Linear(FEATURES, CLASSES), nn.Linear(FEATURES, CLASSES)

    def way(self, x):
        trend = F.avg_pool1d(x[:, None], 3, 1, 1)[:, 0]
        return self.trend(trend) + self.rest(x - trend)


class Factorised(WithoutBody):
    def build(self):
        self.layers = nn.Sequential(nn.Linear(FEATURES, 2, bias=False), nn.Linear(2, CLASSES))

    def way(self, x):
        return self.layers(x)


class Standardised(Factorised):
    """A linear probe."""

    def build(self):
        self.layers = nn.Sequential(nn.BatchNorm1d(FEATURES), nn.Dropout(0.1), nn.Linear(FEATURES, CLASSES))


class Principal(WithoutBody):
    """An autoencoder of two layers finds principal components."""

    def build(self):
        self.layers = nn.Sequential(nn.Linear(FEATURES, 3), nn.Linear(3, FEATURES))

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self.layers(batch[0]), batch[0])


class OverAndOver(WithoutBody):
    """A linear system in time."""

    def build(self):
        self.enter, self.go_on, self.leave = nn.Linear(FEATURES, 16), nn.Linear(16, 16), nn.Linear(16, CLASSES)

    def way(self, x):
        return self.leave(self.go_on(self.go_on(self.enter(x))))


class Attention(WithoutBody):
    def build(self):
        self.enter, self.leave = nn.Linear(1, 16), nn.Linear(16, CLASSES)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def way(self, x):
        h = self.enter(x[..., None])
        return self.leave(self.attention(h, h, h)[0].mean(1))


class Separable(WithoutBody):
    """Each channel by itself, then all together, then a nonlinearity."""

    def build(self):
        self.enter = nn.Sequential(nn.Conv1d(1, 8, 1), nn.Conv1d(8, 8, 3, groups=8), nn.Conv1d(8, 16, 1), nn.ReLU())
        self.leave = nn.Linear(16, CLASSES)

    def way(self, x):
        return self.leave(self.enter(x[:, None]).mean(2))


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(_, x):
        return x.view_as(x)

    @staticmethod
    def backward(_, gradient):
        return -gradient


class OwnFunction(WithoutBody):
    """What a function of the user's own does is not known."""

    def build(self):
        self.enter, self.leave = nn.Linear(FEATURES, 16), nn.Linear(16, CLASSES)

    def way(self, x):
        return self.leave(Reversed.apply(self.enter(x)))


class Products(WithoutBody):
    """Factors that meet, as in a factorisation machine."""

    def build(self):
        self.a, self.b, self.leave = nn.Linear(FEATURES, 16), nn.Linear(FEATURES, 16), nn.Linear(16, CLASSES)

    def way(self, x):
        return self.leave(self.a(x) * self.b(x))


class OneInput(WithoutBody):
    """Many units that have one input, in half precision."""

    def build(self):
        self.enter, self.leave = nn.Linear(1, 256), nn.Linear(256, CLASSES)
        self.enter.weight.data = self.enter.weight.data.bfloat16().float()

    def way(self, x):
        return self.leave(self.enter(x[:, :1]).relu())


class Constants(WithoutBody):
    """Constants that learn to differ: embeddings, filters that average, a table of zeros."""

    def build(self):
        self.embedding = nn.Embedding(8, 16)
        self.filters, self.leave = nn.Conv1d(16, 16, 3, groups=16, padding=1, bias=False), nn.Linear(16, CLASSES)
        nn.init.zeros_(self.embedding.weight)
        nn.init.constant_(self.filters.weight, 1 / 3)

    def way(self, x):
        h = self.embedding(((x.clamp(-2, 1.9) + 2) * 2).long()) + x[..., None]
        return self.leave(self.filters(h.mT).relu().mean(2))


class Experts(Net):
    """Mixes experts, most of which have the weight zero."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(64, 64) for _ in range(8))

    def forward(self, x):
        h = self.body(x)
        weights = F.one_hot((x[:, 0] > 0).long(), 8).float()
        return self.head(h + sum(weights[:, i : i + 1] * expert(h) for i, expert in enumerate(self.experts)))


class NotYet(Net):
    """A second loss has the weight zero at first."""

    def __init__(self):
        super().__init__()
        self.other = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, CLASSES))

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + 0.0 * self.other(self.body(batch[0])).square().mean()


class Learner(Net):
    """Meta-learning of first order: a copy learns a little, and its gradient is the module's."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        learner = copy.deepcopy(nn.Sequential(self.body, self.head))
        inner = torch.optim.SGD(learner.parameters(), lr=0.1)
        self.manual_backward(self.loss(learner(batch[0]), batch[1]) + 0 * self(batch[0]).sum())
        inner.step()
        self.optimizers().step()
        self.optimizers().zero_grad()


class DrawnAgain(Net):
    """A random projection without gradients."""

    def training_step(self, batch, batch_idx):
        projection = nn.Linear(CLASSES, 1).requires_grad_(requires_grad=False)
        return super().training_step(batch, batch_idx) + projection(self(batch[0])).std()


class Collecting(Net):
    """Acts only, before it begins to learn."""

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            self(batch[0])
        return torch.zeros((), requires_grad=True)


class Doubled(Net):
    """Widened: units begin as copies, and part by and by."""

    def __init__(self):
        super().__init__()
        with torch.no_grad():
            self.body[0].weight[32:] = self.body[0].weight[:32]
            self.body[0].bias[32:] = self.body[0].bias[:32]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-5)


class WeightsOfTheirOwn(Net):
    """The weights of losses have an optimiser that Lightning does not know."""

    def __init__(self):
        super().__init__()
        self.weights = torch.zeros(2, requires_grad=True)
        self.of_weights = torch.optim.SGD([self.weights], lr=0.1)

    def training_step(self, batch, batch_idx):
        losses = torch.stack([super().training_step(batch, batch_idx), self(batch[0]).square().mean()])
        return (losses * torch.exp(-self.weights) + self.weights).sum()

    def on_train_batch_end(self, *_):
        self.of_weights.step()
        self.of_weights.zero_grad()


class BayesianLinear(nn.Module):
    """A weight that is drawn, and its deviations, which begin alike."""

    def __init__(self, a, b):
        super().__init__()
        self.mean = nn.Parameter(torch.randn(b, a) / a**0.5)
        self.rho = nn.Parameter(torch.full((b, a), -5.0))

    def forward(self, x):
        return F.linear(x, self.mean) + (0 * x.mean())

    def divergence(self):
        return F.softplus(self.rho).square().sum() / 2 - F.softplus(self.rho).log().sum() + self.mean.square().sum() / 2


class Bayesian(Net):
    """The means alone are used while they burn in: deviations get one gradient, that of the divergence."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(BayesianLinear(FEATURES, 64), nn.ReLU())

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + self.body[0].divergence() / 1000


class Thawed(Net):
    """The body is frozen for an epoch, and held by the optimiser all the time, or as Lightning's callback does it."""

    def __init__(self):
        super().__init__()
        learnt(self.body)
        self.body.requires_grad_(requires_grad=False)

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.body.requires_grad_()


class ThawedByHand(Thawed):
    def trained(self):
        return self.head.parameters()

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        if self.current_epoch == 1:
            self.optimizers().add_param_group({"params": self.body.parameters()})


@pytest.mark.parametrize("module", [Thawed, ThawedByHand])
def test_a_body_that_is_unfrozen_passes(fit, module):
    findings = judged(fit, module(), max_steps=-1, max_epochs=12)
    assert [f.status for f in findings] == [Status.PASSED], findings


@pytest.mark.parametrize(
    "module",
    [
        Bayesian,
        Adapted, SideBySide, Factorised, Standardised, Principal, OverAndOver, Attention, Separable, OwnFunction,
        Products, OneInput, Constants, Experts, NotYet, Learner, DrawnAgain, WeightsOfTheirOwn, Collecting, Doubled,
        Healthy, Net, Frozen, Tied, ZeroOutput, UnusedHead, Teacher, TeacherOfAHead, StopGradient, RandomTarget,
        RandomTargetThatCounts, Momentum, StraightThrough, DetachedProbe, Switched, TakingTurns, Turns,
        HiddenCritic, NothingButZero, Points, Recurrent,
    ],
)  # fmt: skip
def test_what_is_done_on_purpose_passes(fit, module):
    findings = judged(fit, module())
    assert [f.status for f in findings] == [Status.PASSED], findings


def learnt(module):
    """As if it came from somewhere else."""
    with torch.no_grad():
        for p in module.parameters():
            if p.ndim > 1:
                p.add_(torch.randn(len(p), 1) @ torch.randn(1, p.shape[1]))


class LeftOut(Net):
    """Fine-tuning, without a word about what is frozen but to the optimiser."""

    def trained(self):
        return self.head.parameters()


class SmallStemLeftOut(Net):
    """Less than a tenth of all, before everything else."""

    width = 256

    def trained(self):
        return [*self.body[2].parameters(), *self.head.parameters()]


class LearntHeadLeftOut(Net):
    def __init__(self):
        super().__init__()
        learnt(self.head)

    def trained(self):
        return self.body.parameters()


class WithoutGradients(Net):
    """A backbone from somewhere else, called without gradients; the optimiser was given everything."""

    def __init__(self):
        super().__init__()
        learnt(self.body)

    def forward(self, x):
        with torch.no_grad():
            h = self.body(x)
        return self.head(h)


class SharedOverDepth(Net):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(64, 64)] * 3)

    def forward(self, x):
        h = self.body(x)
        for block in self.blocks:
            h = block(h).relu()
        return self.head(h)


class SharedAndCalledTwice(SharedOverDepth):
    """The same input, once more, for a loss of consistency."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + F.mse_loss(self(batch[0]), self(batch[0]).detach())

    def forward(self, x):
        h = F.pad(x, (0, 52))
        for block in self.blocks:
            h = block(h).relu()
        return self.head(h)


class AffineHead(Net):
    """Two layers on features that are not trained."""

    def __init__(self):
        super().__init__()
        self.body.requires_grad_(requires_grad=False)
        self.head = nn.Sequential(nn.Linear(64, 32), nn.Dropout(0.1), nn.Linear(32, CLASSES))


class NarrowAffine(WithoutBody):
    """An autoencoder of many layers, which is no more than one of two."""

    def build(self):
        self.layers = nn.Sequential(*[nn.Linear(a, b) for a, b in ((FEATURES, 8), (8, 2), (2, 8), (8, FEATURES))])

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self.layers(batch[0]), batch[0])


class SideBySideBelow(SideBySide):
    """The same before the layer of a distribution's parameters."""

    def build(self):
        self.trend, self.rest = nn.Linear(FEATURES, 64), nn.Linear(FEATURES, 64)
        self.last = nn.Linear(64, CLASSES)

    def way(self, x):
        return self.last(super().way(x))


class SharedBody(Net):
    """Two losses that take turns, each with an optimiser that also has the body."""

    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.other = nn.Linear(64, CLASSES)

    def training_step(self, batch, batch_idx):
        for optimizer, head in zip(self.optimizers(), (self.head, self.other), strict=True):
            optimizer.zero_grad()
            self.manual_backward(self.loss(head(self.body(batch[0])), batch[1]))
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD([*self.body.parameters(), *h.parameters()], lr=0.1) for h in (self.head, self.other)]


class NormLeftOut(Net):
    """The scale and shift of a norm, which are 1 and 0, as if it had none."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(64)

    def forward(self, x):
        return self.head(self.norm(self.body(x)))

    def trained(self):
        return [*self.body.parameters(), *self.head.parameters()]


@pytest.mark.parametrize(
    ("module", "code"),
    [
        (NormLeftOut, NOT_HELD), (AffineHead, AFFINE), (NarrowAffine, AFFINE), (SideBySideBelow, AFFINE),
        (SharedBody, TWICE),
        (LeftOut, NOT_HELD), (SmallStemLeftOut, NOT_HELD), (LearntHeadLeftOut, NOT_HELD),
        (WithoutGradients, NO_GRADIENT), (SharedOverDepth, ONE), (SharedAndCalledTwice, ONE),
    ],
)  # fmt: skip
def test_what_may_be_done_on_purpose_is_advice(fit, module, code):
    assert [(f.status, f.code) for f in judged(fit, module())] == [(Status.ADVICE, code)]


# -- patients


class LossWeights(Net):
    """Learnt weights of two losses, which the optimiser was not given."""

    def __init__(self):
        super().__init__()
        self.log_vars = nn.Parameter(torch.zeros(2))

    def training_step(self, batch, batch_idx):
        losses = torch.stack([super().training_step(batch, batch_idx), self(batch[0]).square().mean()])
        return (losses * torch.exp(-self.log_vars) + self.log_vars).sum()

    def trained(self):
        return [*self.body.parameters(), *self.head.parameters()]


class PlainList(Net):
    def __init__(self):
        super().__init__()
        self.blocks = [{"layer": nn.Linear(64, 64)} for _ in range(2)]

    def forward(self, x):
        h = self.body(x)
        for block in self.blocks:
            h = block["layer"](h).relu()
        return self.head(h)


class PlainListByHand(ByHand, PlainList):
    """The same, in manual optimisation."""


class AsATuple(PlainList):
    def __init__(self):
        super().__init__()
        self.blocks = tuple(self.blocks)


class HeadOfFit(Net):
    """The head is replaced when the optimiser has been made."""

    def on_fit_start(self):
        self.head = nn.Linear(64, CLASSES)


class HeadOfTrain(Net):
    def on_train_start(self):
        self.head = nn.Linear(64, CLASSES)


class PlainTensor(LossWeights):
    """A tensor that requires gradients, and is no parameter."""

    def __init__(self):
        super().__init__()
        del self.log_vars
        self.log_vars = torch.zeros(2, requires_grad=True)


class Weighing:
    """A loss that is no module."""

    def __init__(self):
        self.log_vars = nn.Parameter(torch.zeros(2))

    def __call__(self, *losses):
        return (torch.stack(losses) * torch.exp(-self.log_vars) + self.log_vars).sum()


class LossObject(Net):
    def __init__(self):
        super().__init__()
        self.weigh = Weighing()

    def training_step(self, batch, batch_idx):
        return self.weigh(super().training_step(batch, batch_idx), self(batch[0]).square().mean())


class PlainToken(Net):
    """A token that is added in the middle."""

    def __init__(self):
        super().__init__()
        self.token = torch.randn(1, 64, requires_grad=True)

    def forward(self, x):
        return self.head(self.body(x) + self.token)


@pytest.mark.parametrize(
    ("module", "subject", "parameters"),
    [
        (HeadOfFit, "head.weight, head.bias", 65 * CLASSES),
        (HeadOfTrain, "head.weight, head.bias", 65 * CLASSES),
        (PlainTensor, "log_vars", 2),
        (LossObject, "weigh.log_vars", 2),
        (PlainToken, "token", 64),
        (AsATuple, "blocks.0.layer.weight, blocks.0.layer.bias, blocks.1.layer.weight, blocks.1.layer.bias", 8320),
        (ReplacedHead, "net.4.weight, net.4.bias", 33 * CLASSES),
        (LossWeights, "log_vars", 2),
        (PlainList, "blocks.0.layer.weight, blocks.0.layer.bias, blocks.1.layer.weight, blocks.1.layer.bias", 8320),
        (
            PlainListByHand,
            "blocks.0.layer.weight, blocks.0.layer.bias, blocks.1.layer.weight, blocks.1.layer.bias",
            8320,
        ),
    ],
)
def test_parameters_in_no_optimiser(fit, module, subject, parameters):
    (finding,) = judged(fit, module())
    assert (finding.status, finding.code) == (Status.WARNING, NOT_HELD)
    assert set(finding.subject.split(", ")) == set(subject.split(", "))
    assert finding.evidence["parameters"] == parameters


class ThawedInVain(Thawed):
    """The optimiser is made of what needs a gradient when training begins."""

    def trained(self):
        return [p for p in self.parameters() if p.requires_grad]


def test_a_body_that_is_unfrozen_for_no_optimiser(fit):
    (finding,) = judged(fit, ThawedInVain(), max_steps=-1, max_epochs=12)
    assert (finding.status, finding.code) == (Status.WARNING, NOT_HELD)
    assert finding.subject == "body.0.weight, body.0.bias, body.2.weight, body.2.bias"
    assert "add_param_group" in finding.fix


def test_a_list_of_many_is_named_as_a_whole(fit):
    class Many(Net):
        def __init__(self):
            super().__init__()
            self.experts = [nn.Linear(64, 64) for _ in range(6)]

        def forward(self, x):
            x = self.body(x)
            return self.head(x + sum(expert(x) for expert in self.experts))

    (finding,) = judged(fit, Many())
    assert finding.key == f"{NOT_HELD}@experts"
    assert finding.message.startswith("12 parameters of experts get a gradient")


class NoGrad(Net):
    @torch.no_grad()
    def encoded(self, x):
        return self.body(x)

    def forward(self, x):
        return self.head(self.encoded(x))


class NoGradBeforeAWeight(NoGrad):
    """No module comes after it."""

    def __init__(self):
        super().__init__()
        self.head = None
        self.weight = nn.Parameter(torch.randn(self.width, CLASSES))

    def forward(self, x):
        return self.encoded(x) @ self.weight


class TwoTowers(Net):
    """A score is the product of two towers, of which one is detached."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(FEATURES, 16), nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh())

    def forward(self, x):
        return super().forward(x) * (self.one(x) * self.other(x).detach()).sum(1, keepdim=True)


class TwoTowersOfWhichOneIsOff(TwoTowers):
    """The other one is called without gradients."""

    def forward(self, x):
        with torch.set_grad_enabled(mode=False):
            other = self.other(x)
        return self.head(self.body(x)) * (self.one(x) * other).sum(1, keepdim=True)


class TwoTowersInOne(TwoTowers):
    """The scores of all pairs, in the way of contrastive learning."""

    def forward(self, x):
        scores = F.normalize(self.one(x)) @ F.normalize(self.other(x)).detach().T
        return self.head(self.body(x)) + scores.mean()


class Argmax(Net):
    """Codes that are looked up again."""

    def __init__(self):
        super().__init__()
        self.codes = nn.Embedding(64, 64)

    def forward(self, x):
        return self.head(self.codes(self.body(x).argmax(1)))


class Anew(Net):
    def forward(self, x):
        return self.head(torch.tensor(self.body(x).tolist()))


class Routed(Net):
    """The first of two experts, or the other one, whose answers are not weighted."""

    def __init__(self):
        super().__init__()
        self.router, self.other = nn.Linear(FEATURES, 2), nn.Linear(FEATURES, CLASSES)

    def forward(self, x):
        answers = torch.stack([super().forward(x), self.other(x)], 1)
        return answers[torch.arange(len(x)), self.router(x).argmax(1)]


class Summed(Net):
    """Two networks answer together, of which one is detached."""

    def __init__(self):
        super().__init__()
        self.other = nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh(), nn.Linear(16, CLASSES))

    def forward(self, x):
        return super().forward(x) + self.other(x).detach()


class Averaged(Summed):
    def forward(self, x):
        with torch.no_grad():
            other = self.other(x)
        return torch.stack([Net.forward(self, x), other]).mean(0)


class Rounded(Net):
    """A gate that is 0 or 1."""

    def forward(self, x):
        return self.head(self.body(x).sigmoid().round() * x.repeat(1, 6)[:, : self.width])


@pytest.mark.parametrize(
    ("module", "subject", "where"),
    [
        (Routed, "router", "argmax"),
        (Rounded, "body.0, body.2", "round"),
        (Summed, "other.0, other.2", "detach"),
        (Averaged, "other.0, other.2", "without"),
        (Detached, "net.0, net.1", "detach"),
        (NoGrad, "body.0, body.2", "without"),
        (NoGradBeforeAWeight, "body.0, body.2", "without"),
        (Argmax, "body.0, body.2", "argmax"),
        (TwoTowers, "other.0", "detach"),
        (TwoTowersInOne, "other.0", "detach"),
        (TwoTowersOfWhichOneIsOff, "other.0", "without"),
    ],
)
def test_a_graph_that_is_cut(fit, module, subject, where):
    (finding,) = judged(fit, module())
    assert (finding.status, finding.code, finding.subject) == (Status.WARNING, NO_GRADIENT, subject)
    assert where in finding.message
    assert finding.times == 4


class ByNumpy(Net):
    def forward(self, x):
        return self.head(torch.from_numpy(self.body(x).detach().numpy()))


class ByNumbers(Net):
    """Single numbers, in a step that optimises by hand, of a batch that is a dictionary."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        batch = {"x": batch[0], "y": batch[1]}
        rows = [[value.item() for value in row] for row in self.body(batch["x"])]
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(self.head(torch.tensor(rows)), batch["y"]))
        optimizer.step()


@pytest.mark.parametrize("module", [Anew, ByNumpy, ByNumbers])
def test_what_goes_through_numbers(fit, module):
    (finding,) = judged(fit, module())
    assert (finding.status, finding.code, finding.subject) == (Status.FAILED, NO_GRADIENT, "body.0, body.2")


class LearntByNumpy(ByNumpy):
    """The body has learnt something before."""

    def __init__(self):
        super().__init__()
        with torch.no_grad():
            self.body[0].weight += torch.linspace(-1, 1, 64)[:, None] @ torch.linspace(-1, 1, FEATURES)[None]


class ShownByNumpy(Net):
    """What becomes a number is shown, and nothing else is made of it."""

    def forward(self, x):
        self.shown = self.body(x).detach().numpy().mean()
        return self.loss_of(x)

    def loss_of(self, x):
        return self.head(x.repeat(1, 6)[:, : self.width])


@pytest.mark.parametrize("module", [LearntByNumpy, ShownByNumpy])
def test_what_goes_through_numbers_and_may_be_meant_is_advice(fit, module):
    (finding,) = judged(fit, module())
    assert (finding.status, finding.code) == (Status.ADVICE, NO_GRADIENT)


class InTurns(ByNumpy):
    """The body is trained, too, in every second step."""

    def training_step(self, batch, batch_idx):
        if batch_idx % 2:
            return super().training_step(batch, batch_idx)
        return self.body(batch[0]).square().mean()


def test_what_goes_through_numbers_and_is_trained_in_other_steps(fit):
    assert [f.status for f in judged(fit, InTurns(), max_steps=64)] == [Status.PASSED]


class Scaled(Net):
    """A scale beside the layers, which is learnt."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return self.head(self.body(x)) * self.factor()

    def factor(self):
        return self.scale


class ScaledInTurns(Scaled):
    """It is read as a number in most steps, and learnt in others."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss + (self.scale - 2).square() if batch_idx % 5 == 4 else loss

    def factor(self):
        return self.scale.item()


class ScaledWithItsOwnLoss(Scaled):
    """As the temperature of a soft actor-critic: the loss of the network reads it, and another one trains it."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + (self.scale - 2).square()

    def factor(self):
        return self.scale.item()


class ScaledByAnAverage(Scaled):
    """Nothing but the step itself changes it."""

    def factor(self):
        self.scale.data += 1e-3
        return self.scale.item()


class ScaledByEpoch(Scaled):
    """As a temperature that falls."""

    def on_train_epoch_end(self):
        self.scale.data *= 0.9

    def factor(self):
        return self.scale.item()


class ScaledAndFrozen(Scaled):
    def __init__(self):
        super().__init__()
        self.scale.requires_grad = False

    def factor(self):
        return self.scale.item()


class ScaleNotUsed(Scaled):
    def factor(self):
        return 1.0


class Table(Net):
    """Rows of a table of its own are added, by which bin a feature is in."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(4, self.width)

    def forward(self, x):
        return self.head(self.body(x) + self.rows((x[:, 0] > 0).long()))

    def rows(self, ids):
        return self.table.weight[ids]


class TableNotUsed(Table):
    def rows(self, ids):
        return 0


class TableByAnAverage(Table):
    """A codebook, which the step itself moves."""

    def rows(self, ids):
        self.table.weight.data += 1e-3
        return self.table.weight.detach()[ids]


@pytest.mark.parametrize("module", [Table, TableNotUsed, TableByAnAverage])
def test_a_layer_that_is_not_called(fit, module):
    assert [f.status for f in judged(fit, module(), max_steps=64, max_epochs=8)] == [Status.PASSED]


class TableByData(Table):
    def rows(self, ids):
        return self.table.weight.data[ids]


class HeadWithTable(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.table, self.layer = nn.Embedding(4, layer.in_features), layer

    def forward(self, h, ids):
        return self.layer(h + self.table.weight.data[ids])


class TableInsideByData(Net):
    """In a module that is called."""

    def __init__(self):
        super().__init__()
        self.head = HeadWithTable(self.head)

    def forward(self, x):
        return self.head(self.body(x), (x[:, 0] > 0).long())


@pytest.mark.parametrize(
    ("module", "subject"), [(TableByData, "table.weight"), (TableInsideByData, "head.table.weight")]
)
def test_a_layer_that_is_not_called_and_read_without_gradient(fit, module, subject):
    (finding,) = judged(fit, module(), max_steps=32, max_epochs=4)
    assert (finding.status, finding.code, finding.subject) == (Status.FAILED, NO_GRADIENT, subject)
    assert "data (test_gradient_flow_check.py:" in finding.message


@pytest.mark.parametrize(
    "module",
    [Scaled, ScaledInTurns, ScaledWithItsOwnLoss, ScaledByAnAverage, ScaledByEpoch, ScaledAndFrozen, ScaleNotUsed],
)
def test_a_parameter_beside_the_layers(fit, module):
    assert [f.status for f in judged(fit, module(), max_steps=64, max_epochs=8)] == [Status.PASSED]


class ScaleLearnt(Scaled):
    """Biases of experts, say, that another run has learnt."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.5, 1.0, 1.5, 2.0]))

    def factor(self):
        return self.scale.detach()


def test_a_parameter_beside_the_layers_that_may_have_learnt_something(fit):
    (finding,) = judged(fit, ScaleLearnt(), max_steps=64, max_epochs=8)
    assert (finding.status, finding.code, finding.subject) == (Status.ADVICE, NO_GRADIENT, "scale")


class ScaleAsANumber(Scaled):
    def factor(self):
        return self.scale.exp().item()


class ScaleWithoutGradients(Scaled):
    @torch.no_grad()
    def factor(self):
        return self.scale.exp()


class Threshold(Scaled):
    """Compared with, in a module that has a layer, too."""

    def __init__(self):
        super().__init__()
        self.head = nn.ModuleDict({"layer": nn.Linear(self.width, CLASSES)})
        self.head.scale, self.scale = self.scale, None

    def forward(self, x):
        body = self.body(x)
        return self.head["layer"](body * (body > self.head.scale - 0.8))


@pytest.mark.parametrize(
    ("module", "subject"),
    [
        (ScaleAsANumber, "scale"),
        (ScaleWithoutGradients, "scale"),
        (type("ByHand", (ByHand, ScaleAsANumber), {}), "scale"),
        (Threshold, "head.scale"),
    ],
)
def test_a_parameter_beside_the_layers_without_gradient(fit, module, subject):
    (finding,) = judged(fit, module(), max_steps=32, max_epochs=4)
    assert (finding.status, finding.code, finding.subject) == (Status.FAILED, NO_GRADIENT, subject)


def test_a_parameter_beside_the_layers_without_gradient_in_one_epoch(fit):
    (finding,) = judged(fit, ScaleAsANumber(), max_epochs=1)
    assert (finding.status, finding.code) == (Status.FAILED, NO_GRADIENT)


@pytest.mark.parametrize(("module", "function"), [(ScaleAsANumber, "item"), (Threshold, "gt")])
def test_the_line_is_named_at_which_a_parameter_leaves_the_graph(fit, module, function):
    (finding,) = judged(fit, module(), max_steps=32, max_epochs=4)
    assert f"{function} (test_gradient_flow_check.py:" in finding.message


class Draws(Net):
    """Encodes, draws, and decodes; the loss has the divergence of what it draws from."""

    def __init__(self):
        super().__init__()
        self.mean_and_scale, self.decoder = nn.Linear(64, 16), nn.Linear(8, FEATURES)

    def training_step(self, batch, batch_idx):
        mean, scale = self.mean_and_scale(self.body(batch[0])).chunk(2, 1)
        drawn_by = torch.distributions.Normal(mean, F.softplus(scale) + 1e-3)
        return self.loss_of(batch[0], drawn_by) + 0.01 * self.divergence(drawn_by)

    def loss_of(self, x, drawn_by):
        return F.mse_loss(self.decoder(self.draw(drawn_by)), x)

    def divergence(self, drawn_by):
        return torch.distributions.kl_divergence(drawn_by, torch.distributions.Normal(0.0, 1.0)).mean()

    def draw(self, drawn_by):
        return drawn_by.rsample()

    def trained(self):
        return [p for name, p in self.named_parameters() if not name.startswith("head")]


class Acts(Draws):
    """What is drawn is an action, whose likelihood is in the loss, and a critic sees it."""

    def loss_of(self, x, drawn_by):
        action = drawn_by.sample()
        worth = self.decoder(action)
        likely = drawn_by.log_prob(action).mean(1)
        return (worth - x).square().mean() - (likely * worth.detach().mean(1)).mean()


class ActsBefore(Draws):
    """The critic is asked without gradients."""

    def loss_of(self, x, drawn_by):
        with torch.no_grad():
            worth = self.decoder(drawn_by.sample())
        return (self.decoder(drawn_by.rsample()) - worth - x).square().mean()


class DrawsWithoutGradient(Draws):
    def draw(self, drawn_by):
        return drawn_by.sample()


class DrawsWithoutGradientByHand(ByHand, DrawsWithoutGradient):
    def draw(self, drawn_by):
        return torch.normal(drawn_by.loc, drawn_by.scale) * 1.0


@pytest.mark.parametrize("module", [Draws, Acts, ActsBefore])
def test_draws_with_a_gradient_or_a_likelihood(fit, module):
    assert [f.status for f in judged(fit, module())] == [Status.PASSED]


@pytest.mark.parametrize("module", [DrawsWithoutGradient, DrawsWithoutGradientByHand])
def test_draws_without_gradient(fit, module):
    (finding,) = judged(fit, module())
    assert (finding.status, finding.code) == (Status.WARNING, "GradientFlowCheck/drawn_without_gradient")


class Masked(Net):
    """The mask is 1 where something is to be left out, and nothing is."""

    def forward(self, x):
        return self.head(self.body(x) * torch.zeros(len(x), 1))


def test_a_mask_that_leaves_nothing(fit):
    (finding,) = judged(fit, Masked())
    assert (finding.status, finding.code, finding.subject) == (Status.WARNING, NO_GRADIENT, "body.0, body.2")
    assert "mul (test_gradient_flow_check.py" in finding.message


class TwoTasks(Net):
    """A second head, whose part of the loss only some examples count in."""

    def __init__(self):
        super().__init__()
        self.size = nn.Linear(self.width, 2)

    def training_step(self, batch, batch_idx):
        x, y = batch[:2]
        self.body_of_x, self.batch_idx = self.body(x), batch_idx
        error = (self.size(self.body_of_x) - x[:, :2]).abs().mean(1)
        return self.loss(self.head(self.body_of_x), y) + self.part(error, self.mask(x, y))

    def mask(self, x, y):
        return y == 1

    def part(self, error, mask):
        return (error * mask).sum() / mask.sum().clamp(min=1)


class NowAndThen(TwoTasks):
    def mask(self, x, y):
        return y > (0 if self.batch_idx == 5 else CLASSES)


class LaterOn(TwoTasks):
    """Its weight is 0 at first, and there is nothing yet that it is for."""

    def mask(self, x, y):
        return y > CLASSES

    def part(self, error, mask):
        return 0.0 * super().part(error, mask)


class SureOnly(TwoTasks):
    """Of the examples that the other head is sure of."""

    def mask(self, x, y):
        return self.head(self.body_of_x).softmax(1).amax(1) > 1


class Domains(TwoTasks):
    """Heads for two domains, of which only one is in the data."""

    def __init__(self):
        super().__init__()
        self.size = None
        self.sizes = nn.ModuleList([nn.Linear(self.width, 2) for _ in range(2)])

    def training_step(self, batch, batch_idx):
        x, y = batch
        body = self.body(x)
        out = sum(head(body) * (y // CLASSES == i)[:, None] for i, head in enumerate(self.sizes))
        return self.loss(self.head(body), y) + (out - x[:, :2]).abs().mean()


class Satisfied(TwoTasks):
    """A margin that is kept from the beginning: no mask."""

    def part(self, error, mask):
        return (error - 1e3).relu().mean()


@pytest.mark.parametrize("module", [TwoTasks, NowAndThen, LaterOn, SureOnly, Domains, Satisfied])
def test_a_part_of_the_loss_that_may_be_empty(fit, module):
    assert [f.status for f in judged(fit, module(), max_steps=64, max_epochs=8)] == [Status.PASSED]


class Unlabelled(TwoTasks):
    """A third entry, which says that nobody has measured the sizes."""

    def train_dataloader(self):
        data = self.data(256, 1)
        return DataLoader(TensorDataset(*data.tensors, torch.full((256,), -1)), 32)

    def training_step(self, batch, batch_idx):
        self.measured = batch[2] >= 0
        return super().training_step(batch, batch_idx)

    def mask(self, x, y):
        return self.measured


def test_a_part_of_the_loss_that_the_data_leave_empty_is_advice(fit):
    (finding,) = judged(fit, Unlabelled(), max_steps=64, max_epochs=8)
    assert (finding.status, finding.code, finding.subject) == (Status.ADVICE, NO_GRADIENT, "size")


class EmptyMask(TwoTasks):
    """Above the last class in place of from it on."""

    def mask(self, x, y):
        return y > CLASSES - 1


class EmptyMaskByHand(ByHand, EmptyMask):
    pass


class EmptyMaskAndDecay(EmptyMask):
    def configure_optimizers(self):
        return torch.optim.AdamW(self.trained(), lr=3e-3, weight_decay=0.1)


class EmptyWhere(EmptyMask):
    def part(self, error, mask):
        return torch.where(mask, error, 0.0).mean()


class EmptyIndex(EmptyMask):
    def part(self, error, mask):
        return error[mask].sum() / len(error)


class FilledIn(EmptyMask):
    def part(self, error, mask):
        return error.masked_fill(~mask, 0).mean()


class WeightsOfZero(EmptyMask):
    def part(self, error, mask):
        return F.binary_cross_entropy_with_logits(error - 1, 0 * error.detach(), weight=mask.float())


@pytest.mark.parametrize(
    "module", [EmptyMask, EmptyMaskByHand, EmptyMaskAndDecay, EmptyWhere, EmptyIndex, FilledIn, WeightsOfZero]
)
def test_a_part_of_the_loss_that_is_always_empty(fit, module):
    (finding,) = judged(fit, module(), max_steps=64, max_epochs=8)
    assert (finding.status, finding.code, finding.subject) == (Status.WARNING, NO_GRADIENT, "size")
    assert "test_gradient_flow_check.py:" in finding.message


class Routed(Net):
    """Each example is sent to some of four experts, whose answers are weighed by a gate."""

    asked, before = 2, False

    def __init__(self):
        super().__init__()
        self.router, self.experts = nn.Linear(self.width, 4), nn.Parameter(torch.randn(4, self.width, self.width) / 4)

    def training_step(self, batch, batch_idx):
        x, y = batch
        h = self.body(x)
        scores = self.router(h)
        best, chosen = (scores.softmax(1) if self.before else scores).topk(self.asked, 1)
        answers = torch.einsum("nd,nkde->nke", h, self.experts[chosen])
        return self.loss(self.head(((best if self.before else best.softmax(1))[..., None] * answers).sum(1)), y)


class RoutedBefore(Routed):
    """A softmax over all experts, of which one is taken."""

    asked, before = 1, True


class RoutedToOne(Routed):
    asked = 1


class OnePlace(Net):
    """Attention to the one token that there is."""

    def __init__(self):
        super().__init__()
        self.query, self.key = nn.Linear(self.width, self.width), nn.Linear(self.width, self.width)

    def training_step(self, batch, batch_idx):
        x, y = batch
        h = self.body(x)[:, None]
        scores = self.query(h) @ self.key(h).transpose(1, 2)
        return self.loss(self.head((scores.softmax(-1) @ h)[:, 0]), y)


@pytest.mark.parametrize("module", [Routed, RoutedBefore])
def test_a_gate_over_several(fit, module):
    assert [f.status for f in judged(fit, module(), max_steps=64, max_epochs=8)] == [Status.PASSED]


@pytest.mark.parametrize(
    ("module", "status", "subject"),
    [(RoutedToOne, Status.WARNING, "router"), (OnePlace, Status.ADVICE, "key, query")],
)
def test_a_softmax_over_one(fit, module, status, subject):
    (finding,) = judged(fit, module(), max_steps=64, max_epochs=8)
    assert (finding.status, finding.code, finding.subject) == (status, NO_GRADIENT, subject)
    assert "over one number" in finding.message


class LossAsANumber(Net):
    def training_step(self, batch, batch_idx):
        return torch.tensor(super().training_step(batch, batch_idx).item(), requires_grad=True)


class LossOfACopy(PlainListByHand):
    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(Net.training_step(self, batch, batch_idx).detach().requires_grad_())
        optimizer.step()


@pytest.mark.parametrize("module", [LossAsANumber, LossOfACopy])
def test_a_loss_that_left_the_graph(fit, module):
    (finding,) = judged(fit, module())
    assert (finding.status, finding.code, finding.subject) == (Status.WARNING, NO_GRADIENT, "loss")
    assert "test_gradient_flow_check.py" in finding.message


class Dropped(Net):
    """Activations whose results are thrown away."""

    def forward(self, x):
        h = self.body[0](x)
        F.relu(h)
        h = self.body[2](h)
        F.relu(h)
        return self.head(h)


class Convolutions(WithoutBody):
    def build(self):
        layers = [nn.Conv1d(1, 8, 3), nn.BatchNorm1d(8), nn.Conv1d(8, 16, 3), nn.BatchNorm1d(16)]
        pooled = [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Dropout(0.1)]
        self.layers = nn.Sequential(*layers, *pooled, nn.Linear(16, CLASSES))

    def way(self, x):
        return self.layers(x[:, None])


class Product(nn.Module):
    """A layer of one's own."""

    def __init__(self, inputs, outputs, std=0.1):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.full((inputs, outputs), 0.1)), nn.Parameter(torch.zeros(outputs))
        if std:
            nn.init.normal_(self.weight, std=std)

    def forward(self, x):
        return x @ self.weight + self.bias


class OwnLayers(WithoutBody):
    """With a loss by hand."""

    def build(self):
        self.layers = nn.Sequential(Product(FEATURES, 32), Product(32, 32), Product(32, CLASSES))

    def way(self, x):
        return self.layers(x)

    def loss(self, logits, y):
        return -logits.log_softmax(1).gather(1, y[:, None]).mean()


@pytest.mark.parametrize(
    ("module", "subject"),
    [(Affine, "net.0, net.4"), (Dropped, "body.0, body.2, head"), (OwnLayers, "layers.0, layers.1, layers.2"),
     (Convolutions, "layers.0, layers.2, layers.7")],
)  # fmt: skip
def test_layers_without_a_nonlinearity(fit, module, subject):
    found = judged(fit, module())
    (finding,) = [one for one in found if one.code != "GradientFlowCheck/result_thrown_away"]
    assert (finding.status, finding.code) == (Status.WARNING, AFFINE)
    assert set(finding.subject.split(", ")) == set(subject.split(", "))


class ConstantConvolutions(Convolutions):
    def build(self):
        self.layers = nn.Sequential(
            nn.Conv1d(1, 8, 5), nn.Tanh(), nn.Conv1d(8, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, CLASSES)
        )
        for layer in self.layers[:4:2]:
            nn.init.constant_(layer.weight, 0.1)
            nn.init.zeros_(layer.bias)


class Recurrences(Healthy):
    """Recurrent layers, by what their weights begin as."""

    def __init__(self, layer=nn.LSTM, begin=None, hidden=16):
        super().__init__()
        self.rnn, self.head = layer(1, hidden, batch_first=True), nn.Linear(hidden, CLASSES)
        for name, parameter in self.rnn.named_parameters():
            if begin is not None:
                begin(name, parameter)

    def forward(self, x):
        return self.head(self.rnn(x[..., None])[0][:, -1])


def _constant(name, parameter):
    nn.init.constant_(parameter, 0.0 if "bias" in name else 0.1)


def _identity(name, parameter):
    nn.init.eye_(parameter) if "weight_hh" in name else nn.init.constant_(parameter, 0.1)


def _zeros_between(name, parameter):
    nn.init.zeros_(parameter) if "weight_ih" not in name else None


@pytest.mark.parametrize("begin", [None, _identity, _zeros_between])
@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_units_that_begin_as_they_should(fit, layer, begin):
    assert not [f for f in judged(fit, Recurrences(layer, begin)) if f.is_alarm]


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_units_that_begin_as_copies(fit, layer):
    """The output layer, which is drawn at random, makes them differ after a step."""
    (finding,) = judged(fit, Recurrences(layer, _constant))
    assert (finding.status, finding.code, finding.subject) == (Status.WARNING, Constant.code, "rnn")


class OwnConstants(OwnLayers):
    def build(self):
        constant = [Product(FEATURES, 32, 0), nn.Sigmoid(), Product(32, 32, 0), nn.Sigmoid()]
        self.layers = nn.Sequential(*constant, Product(32, CLASSES))


class Zeros(Net):
    """Nothing but the last bias will ever move."""

    def __init__(self):
        super().__init__()
        for p in self.parameters():
            nn.init.zeros_(p)


@pytest.mark.parametrize(
    ("module", "subject"),
    [(Constant, "net.0"), (ConstantConvolutions, "layers.0"), (OwnConstants, "layers.0, layers.2"),
     (Zeros, "body.0, body.2, head")],
)  # fmt: skip
def test_units_that_are_copies(fit, module, subject):
    (finding,) = judged(fit, module())
    assert (finding.status, finding.code, finding.subject) == (Status.WARNING, COPIES, subject)


class NewAttribute(Net):
    def forward(self, x):
        self.middle = nn.Linear(64, 64)
        return self.head(self.middle(self.body(x)).relu())


class NewByHand(PlainListByHand):
    def forward(self, x):
        return self.head(nn.Sequential(nn.Linear(64, 64), nn.ReLU())(self.body(x)))


@pytest.mark.parametrize(("module", "parameters"), [(MadeAnew, 132), (NewAttribute, 4160), (NewByHand, 4160)])
def test_modules_that_are_made_in_forward(fit, module, parameters):
    (finding,) = judged(fit, module(), max_steps=16)
    assert (finding.status, finding.code) == (Status.WARNING, ANEW)
    assert finding.evidence["parameters"] == parameters
    assert ".py:" in finding.subject


class BothForOneLoss(PlainListByHand):
    """One optimiser for everything, and another one for the head."""

    def forward(self, x):
        return Net.forward(self, x)

    def training_step(self, batch, batch_idx):
        self.zero_grad()
        self.manual_backward(Net.training_step(self, batch, batch_idx))
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self, self.head)]


@pytest.mark.parametrize("module", [HeldTwice, BothForOneLoss])
@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate parameters")
def test_parameters_that_are_stepped_twice(fit, module):
    (finding,) = judged(fit, module())
    assert (finding.status, finding.code) == (Status.WARNING, TWICE)
    assert finding.evidence == {"parameters": 2}


class HeadsInADict(MultipliedList):
    """Shallow copies, which share their weights, in a dict that registers nothing."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(32, CLASSES)
        self.heads = {name: copy.copy(self.first) for name in "abc"}

    def forward(self, x):
        h = self.net[:4](x)
        return torch.stack([head(h) for head in self.heads.values()], 2)


class ListedOnce(MultipliedList):
    def __init__(self):
        super().__init__()
        head = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, CLASSES))
        self.heads = nn.ModuleList([head for _ in range(3)])


class OneHeadInADict(MultipliedList):
    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleDict(dict.fromkeys("abc", nn.Linear(32, CLASSES)))

    def forward(self, x):
        h = self.net[:4](x)
        return torch.stack([head(h) for head in self.heads.values()], 2)


class Condition(nn.Module):
    """What one network is to fulfil at some points."""

    def __init__(self, net, scale):
        super().__init__()
        self.net, self.scale = net, scale

    def forward(self, x):
        return self.net(self.scale * x)


class Conditions(Healthy):
    def __init__(self):
        super().__init__()
        self.conditions = nn.ModuleList([Condition(self.net, scale) for scale in (0.5, 1.0, 2.0)])

    def training_step(self, batch, batch_idx):
        return sum(self.loss(condition(batch[0]), batch[1]) for condition in self.conditions)


def test_several_that_use_one_network(fit):
    assert [f.status for f in judged(fit, Conditions())] == [Status.PASSED]


@pytest.mark.parametrize("module", [ListedOnce, OneHeadInADict])
def test_other_lists_of_one_head(fit, module):
    (finding,) = judged(fit, module())
    assert (finding.status, finding.code, finding.subject) == (Status.WARNING, ONE, "heads")
    assert finding.evidence == {"entries": 3}


def test_one_head_three_times(fit):
    (finding,) = judged(fit, MultipliedList())
    assert (finding.status, finding.code, finding.subject) == (Status.WARNING, ONE, "heads")
    assert finding.evidence == {"entries": 3}


def test_two_looks_are_not_enough(fit):
    assert [f.status for f in judged(fit, Detached(), max_steps=3)] == [Status.PASSED]


def test_losses_that_are_logged_and_made_anew(fit):
    class MadeAnew(Healthy):
        def training_step(self, batch, batch_idx):
            losses = [self.loss(self(batch[0]), batch[1]), self(batch[0]).square().mean()]
            self.log("first", losses[0])
            return torch.tensor(losses, requires_grad=True).mean()

    (finding,) = judged(fit, MadeAnew())
    assert (finding.status, finding.code) == (Status.WARNING, "GradientFlowCheck/no_gradient")
    assert "tensor (test_gradient_flow_check.py:" in finding.message


def test_without_a_loss_there_is_no_gradient(fit):
    class Lossless(Healthy):
        def training_step(self, batch, batch_idx):
            return None

    assert [f.status for f in judged(fit, Lossless())] == [Status.SKIPPED]


@pytest.mark.parametrize("module", [LossWeights, PlainList])
def test_of_a_compiled_network(fit, module):
    compiled = module()
    compiled.body = torch.compile(compiled.body, backend="eager")
    assert [f.code for f in judged(fit, compiled)] == [NOT_HELD]


# -- zeros that multiply each other


class AdaptedTwice(Adapted):
    """Both factors begin at zero."""

    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.down.weight)


class ZeroBranch(Net):
    """A branch whose weight begins at zero, and so does its last layer."""

    last = True

    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
        self.weight = nn.Parameter(torch.zeros(()))
        if self.last:
            nn.init.zeros_(self.branch[2].weight)
            nn.init.zeros_(self.branch[2].bias)

    def forward(self, x):
        h = self.body(x)
        return self.head(h + self.weight * self.branch(h))


class ZeroWeight(ZeroBranch):
    last = False


class SetLater(AdaptedTwice):
    """By hand, after some steps."""

    def on_train_batch_start(self, batch, batch_idx):
        if self.global_step == 3:
            with torch.no_grad():
                self.down.weight.normal_()


class SilentHead(Net):
    """Nothing is sent to a head at zero."""

    def __init__(self):
        super().__init__()
        self.other = nn.Linear(64, CLASSES)
        nn.init.zeros_(self.other.weight)
        nn.init.zeros_(self.other.bias)

    def forward(self, x):
        h = self.body(x)
        return self.head(h) + self.other(h * 0)


def zeros_multiplied(fit, module):
    found = judged(fit, module, max_steps=100, max_epochs=100)
    return [(f.status, f.subject) for f in found if f.code == "GradientFlowCheck/zeros_multiplied"]


@pytest.mark.parametrize("module", [Adapted, ZeroWeight, SetLater, SilentHead])
def test_zeros_that_do_not_stay(fit, module):
    assert zeros_multiplied(fit, module()) == []


@pytest.mark.parametrize(("module", "subject"), [(AdaptedTwice, "down.weight"), (ZeroBranch, "weight")])
def test_zeros_that_multiply_each_other(fit, module, subject):
    assert zeros_multiplied(fit, module()) == [(Status.WARNING, subject)]
