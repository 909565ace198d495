import copy

import pytest
import torch
from patients import CLASSES, FEATURES, Detached, Healthy, MultipliedList, ReplacedHead
from torch import nn
from torch.nn import functional as F

from lightning_recipe import GradientFlowCheck, Status

NOT_HELD, NO_GRADIENT, ONE = (patient.code for patient in (ReplacedHead, Detached, MultipliedList))


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


@pytest.mark.parametrize(
    "module",
    [
        Healthy, Net, Frozen, Tied, ZeroOutput, UnusedHead, Teacher, TeacherOfAHead, StopGradient, RandomTarget,
        StraightThrough, DetachedProbe, Switched, TakingTurns, Turns, HiddenCritic, NothingButZero, Points, Recurrent,
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


@pytest.mark.parametrize(
    ("module", "code"),
    [
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


class ByHand(PlainList):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


@pytest.mark.parametrize(
    ("module", "subject", "parameters"),
    [
        (ReplacedHead, "net.4.weight, net.4.bias", 33 * CLASSES),
        (LossWeights, "log_vars", 2),
        (PlainList, "blocks.0.layer.weight, blocks.0.layer.bias, blocks.1.layer.weight, blocks.1.layer.bias", 8320),
        (ByHand, "blocks.0.layer.weight, blocks.0.layer.bias, blocks.1.layer.weight, blocks.1.layer.bias", 8320),
    ],
)
def test_parameters_in_no_optimiser(fit, module, subject, parameters):
    (finding,) = judged(fit, module())
    assert (finding.status, finding.code) == (Status.WARNING, NOT_HELD)
    assert set(finding.subject.split(", ")) == set(subject.split(", "))
    assert finding.evidence["parameters"] == parameters


class NoGrad(Net):
    @torch.no_grad()
    def encoded(self, x):
        return self.body(x)

    def forward(self, x):
        return self.head(self.encoded(x))


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


@pytest.mark.parametrize(
    ("module", "subject", "where"),
    [(Detached, "net.0, net.1", "detach"), (NoGrad, "body.0, body.2", "without"), (Argmax, "body.0, body.2", "argmax")],
)
def test_a_graph_that_is_cut(fit, module, subject, where):
    (finding,) = judged(fit, module())
    assert (finding.status, finding.code, finding.subject) == (Status.WARNING, NO_GRADIENT, subject)
    assert where in finding.message
    assert finding.times == 4


def test_what_goes_through_numbers_is_not_seen(fit):
    assert [f.status for f in judged(fit, Anew())] == [Status.PASSED]


def test_one_head_three_times(fit):
    (finding,) = judged(fit, MultipliedList())
    assert (finding.status, finding.code, finding.subject) == (Status.WARNING, ONE, "heads")
    assert finding.evidence == {"entries": 3}


def test_two_looks_are_not_enough(fit):
    assert [f.status for f in judged(fit, Detached(), max_steps=3)] == [Status.PASSED]


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
