"""Each mistake inside a step in other networks than the patients', one of them with losses written by hand."""

import copy
from typing import ClassVar

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lightning_recipe
from lightning_recipe import Status
from lightning_recipe.trial.calming import without_dropout

CLASSES, WIDTH, LENGTH, WORDS = 4, 32, 8, 20


class Convolutions(nn.Sequential):
    def __init__(self):
        first = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(16, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.Dropout2d(0.1)]
        super().__init__(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.place = nn.Embedding(WORDS, WIDTH), nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 64, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        return self.encoder(self.embed(x) + self.place).mean(1)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.norm = nn.Linear(3, WIDTH), nn.BatchNorm1d(WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDTH, 2, dropout=0.1, batch_first=True)

    def forward(self, x):
        return self.norm(self.lstm(self.enter(x).tanh())[0][:, -1])


BODIES = {"convolutions": Convolutions, "transformer": Transformer, "recurrent, by hand": Recurrent}
NORMED = ["convolutions", "recurrent, by hand"]


class Program(L.LightningModule):
    """A body and a head that tell classes apart; of the recurrent one all losses are written by hand."""

    outputs, steps = CLASSES, 16
    settings: ClassVar = {}

    def __init__(self, kind):
        super().__init__()
        self.kind, self.hand = kind, kind.endswith("by hand")
        self.body, self.head = BODIES[kind](), nn.Linear(WIDTH, self.outputs)

    def forward(self, x):
        return self.head(self.body(x))

    def cross_entropy(self, out, y, weight=None):
        if not self.hand:
            return F.cross_entropy(out, y, weight=weight)
        if weight is None:
            return self.each(out, y).mean()
        return (weight[y] * self.each(out, y)).sum() / weight[y].sum()

    def each(self, out, y):
        own = out.logsumexp(1) - out.gather(1, y[:, None])[:, 0]
        return own if self.hand else F.cross_entropy(out, y, reduction="none")

    def likelihood(self, out, y):
        return -out[torch.arange(len(y)), y].mean() if self.hand else F.nll_loss(out, y)

    def squared(self, out, y):
        return (out - y).pow(2).mean() if self.hand else F.mse_loss(out, y)

    def yes_no(self, p, y):
        by_hand = -(y * torch.log(p + 1e-8) + (1 - y) * torch.log(1 - p + 1e-8))
        return by_hand.mean() if self.hand else F.binary_cross_entropy(p, y)

    def of_logits(self, out, y):
        by_hand = -(y * F.logsigmoid(out) + (1 - y) * F.logsigmoid(-out))
        return by_hand.mean() if self.hand else F.binary_cross_entropy_with_logits(out, y)

    def loss(self, out, batch):
        return self.cross_entropy(out, batch[1])

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(self(batch[0]), batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)

    def data(self, n, seed):
        drawn, centres = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(0)
        y = torch.randint(CLASSES, (n,), generator=drawn)
        if self.kind == "transformer":
            likely = torch.randn(CLASSES, WORDS, generator=centres).softmax(1)
            return torch.multinomial(likely[y], LENGTH, replacement=True, generator=drawn), y
        shape = (3, 8, 8) if self.kind == "convolutions" else (LENGTH, 3)
        return 0.7 * torch.randn(CLASSES, *shape, generator=centres)[y] + torch.randn(n, *shape, generator=drawn), y

    def train_dataloader(self):
        return DataLoader(TensorDataset(*self.data(256, 1)), 32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(TensorDataset(*self.data(64, 2)), 32)


class Steps(Program):
    """Optimises by hand."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.optimizers().zero_grad()
        self.backward_of(batch)
        self.optimizers().step()

    def backward_of(self, batch):
        self.manual_backward(self.loss(self(batch[0]), batch))


class Numbers(Program):
    outputs = 1

    def data(self, n, seed):
        x, y = super().data(n, seed)
        return x, 3 * (y - 1.5) + 0.3 * torch.randn(n, generator=torch.Generator().manual_seed(seed + 9))

    def loss(self, out, batch):
        return self.squared(out[:, 0], batch[1])


class YesNo(Numbers):
    def data(self, n, seed):
        x, y = super().data(n, seed)
        return x, (y > 0).float()

    def loss(self, out, batch):
        return self.of_logits(out[:, 0], batch[1])


class Weighted(Program):
    """Half of the examples are of one class, which counts less."""

    weights = (1.0, 3.0, 3.0, 3.0)

    def data(self, n, seed):
        x, y = super().data(2 * n, seed)
        kept = (y == 0) | (torch.arange(2 * n) % 12 < CLASSES)
        return x[kept][:n], y[kept][:n]

    def loss(self, out, batch):
        return self.cross_entropy(out, batch[1], torch.tensor(self.weights))


class Values(Program):
    """Picks the value of an action, as in Q-learning, and nothing makes probabilities of values."""

    def loss(self, out, batch):
        return (out[torch.arange(len(out)), batch[1]] - 1).square().mean()


class Scored(Steps):
    """A network that is trained to get a high score for its class from an adversary, as in hinge GANs."""

    def configure_optimizers(self):
        return [torch.optim.Adam(part.parameters(), lr=3e-3) for part in (self.body, self.head)]

    def training_step(self, batch, batch_idx):
        for optimizer, sign in zip(self.optimizers(), (-1, 1), strict=True):
            score = self(batch[0])[torch.arange(len(batch[1])), batch[1]]
            self.zero_grad()
            self.manual_backward(score.neg().mean() if sign < 0 else F.relu(1 + score).mean())
            optimizer.step()


# -- what enters the loss


class Softmax(Program):
    def loss(self, out, batch):
        return self.cross_entropy(out.softmax(1), batch[1])


class NoLogarithm(Program):
    def loss(self, out, batch):
        return self.likelihood(out, batch[1])


class ClampedToShares(YesNo):
    def loss(self, out, batch):
        return self.yes_no(out[:, 0].clamp(1e-6, 1 - 1e-6), batch[1])


class Column(Numbers):
    def loss(self, out, batch):
        return self.squared(out, batch[1])


class Tanh(Numbers):
    def forward(self, x):
        return super().forward(x).tanh()


class TimesTemperature(Program):
    def forward(self, x):
        return 0.07 * F.linear(F.normalize(self.body(x)), F.normalize(self.head.weight))


class TargetMasked(Program):
    def loss(self, out, batch):
        return self.cross_entropy(out.masked_fill(F.one_hot(batch[1], CLASSES).bool(), -1e4), batch[1])


class OverExamples(Program):
    def loss(self, out, batch):
        return self.likelihood(out.log_softmax(0), batch[1])


class SoftmaxOfOne(YesNo):
    def loss(self, out, batch):
        return self.yes_no(out.softmax(1)[:, 0].clamp(1e-6, 1 - 1e-6), batch[1])


class Interchanged(Program):
    def loss(self, out, batch):
        return F.kl_div(F.one_hot(batch[1], CLASSES) * 0.9 + 0.025, out.log_softmax(1), reduction="batchmean")


class LogarithmsAsTarget(Program):
    def loss(self, out, batch):
        target = (F.one_hot(batch[1], CLASSES) * 0.9 + 0.025).log()
        return F.kl_div(out.log_softmax(1), target, reduction="batchmean")


class Frequent(Weighted):
    weights = (3.0, 1.0, 1.0, 1.0)


class Ignored(Program):
    def loss(self, out, batch):
        return F.cross_entropy(out, batch[1], ignore_index=0)


class LabelsAsNumbers(Program):
    def loss(self, out, batch):
        return self.squared(out, batch[1][:, None].float())


class OneTarget(Program):
    def data(self, n, seed):
        x, y = super().data(n, seed)
        return x, torch.ones_like(y)


class NeverRead(Numbers):
    """40 % of the targets are missing, and 0."""

    def data(self, n, seed):
        x, y = super().data(n, seed)
        there = torch.rand(n, generator=torch.Generator().manual_seed(seed)) < 0.6
        return x, y * there, there


class Decided(Program):
    def loss(self, out, batch):
        return self.cross_entropy(out, batch[1]) + 0.5 * (out.argmax(1) - batch[1]).abs().float().mean()


class OneView(Program):
    """Without dropout, by which two views of one example may differ on purpose."""

    def __init__(self, kind):
        super().__init__(kind)
        without_dropout(self)

    def loss(self, out, batch):
        return self.cross_entropy(out, batch[1]) + 0.5 * (out - self(batch[0])).square().mean()


class Padded(Program):
    """Says something of each word, the padding included."""

    outputs = WORDS

    def __init__(self, kind):
        super().__init__(kind)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 64, batch_first=True)
        between = {
            "convolutions": nn.Sequential(nn.Unflatten(2, (WIDTH, 1)), nn.Conv2d(LENGTH, LENGTH, 1), nn.Flatten(2)),
            "transformer": nn.TransformerEncoder(layer, 1),
        }.get(kind, nn.GRU(WIDTH, WIDTH, batch_first=True))
        self.body = nn.Sequential(nn.Embedding(WORDS, WIDTH), between)

    def forward(self, x):
        h = self.body(x)
        return self.head(h[0] if isinstance(h, tuple) else h)

    def data(self, n, seed):
        drawn = torch.Generator().manual_seed(seed)
        x = torch.randint(1, WORDS, (n, LENGTH), generator=drawn)
        x *= torch.arange(LENGTH) < torch.randint(3, LENGTH + 1, (n, 1), generator=drawn)
        return x, x * 7 % WORDS

    def loss(self, out, batch):
        return self.cross_entropy(out.flatten(0, 1), batch[1].flatten())


class Clipped(Program):
    def loss(self, out, batch):
        return self.each(out, batch[1]).clamp(max=1.2).mean()


# -- what gets a gradient


class Replaced(Program):
    def __init__(self, kind):
        super().__init__(kind)
        self.made = super().configure_optimizers()
        self.head = nn.Linear(WIDTH, CLASSES)

    def configure_optimizers(self):
        return self.made


class Anew(Program):
    def forward(self, x):
        return self.head(nn.Linear(WIDTH, WIDTH)(self.body(x)).relu())


class Cut(Program):
    def forward(self, x):
        return self.head(self.body(x).detach())


class Quantised(Program):
    def __init__(self, kind):
        super().__init__(kind)
        self.codes = nn.Embedding(WIDTH, WIDTH)

    def forward(self, x):
        return self.head(self.codes(self.body(x).argmax(1)))


class Twice(Steps):
    def configure_optimizers(self):
        return [torch.optim.Adam(part.parameters(), lr=3e-3) for part in (self, self.head)]

    def training_step(self, batch, batch_idx):
        self.zero_grad()
        self.backward_of(batch)
        for optimizer in self.optimizers():
            optimizer.step()


class Multiplied(Program):
    def __init__(self, kind):
        super().__init__(kind)
        self.experts, self.gate = nn.ModuleList([nn.Linear(WIDTH, WIDTH)] * 4), nn.Linear(WIDTH, 4)

    def forward(self, x):
        h = self.body(x)
        gates = self.gate(h).softmax(1).T
        return self.head(sum(g[:, None] * expert(h).relu() for g, expert in zip(gates, self.experts, strict=True)))


class Constants(Program):
    def __init__(self, kind):
        super().__init__(kind)
        self.head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))
        for parameter in self.head.parameters():
            nn.init.constant_(parameter, 0.05)


class Affine(Program):
    def __init__(self, kind):
        super().__init__(kind)
        norm, pool = nn.BatchNorm2d(16), [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3), norm, nn.AvgPool2d(2), nn.Conv2d(16, WIDTH, 3), *pool)


# -- steps


class NeverCleared(Steps):
    def training_step(self, batch, batch_idx):
        self.backward_of(batch)
        self.optimizers().step()


class ClearedTooSoon(Steps):
    def training_step(self, batch, batch_idx):
        self.backward_of(batch)
        self.optimizers().zero_grad()
        self.optimizers().step()


class Foreign(Steps):
    def __init__(self, kind):
        super().__init__(kind)
        self.adversary = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, 2))

    def configure_optimizers(self):
        own = [*self.body.parameters(), *self.head.parameters()]
        return [torch.optim.Adam(part, lr=3e-3) for part in (own, self.adversary.parameters())]

    def training_step(self, batch, batch_idx):
        h, secret = self.body(batch[0]), batch[1] % 2
        hiding = self.cross_entropy(self.head(h), batch[1]) - 0.1 * self.cross_entropy(self.adversary(h), secret)
        losses = (hiding, self.cross_entropy(self.adversary(h.detach()), secret))
        for optimizer, loss in zip(self.optimizers(), losses, strict=True):
            self.manual_backward(loss)
            optimizer.step()
            optimizer.zero_grad()


class ClipsNothing(Steps):
    def training_step(self, batch, batch_idx):
        self.optimizers().zero_grad()
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        self.backward_of(batch)
        self.optimizers().step()


class ClippedToNothing(Program):
    settings: ClassVar = {"gradient_clip_val": 1e-5}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Summed(Steps):
    steps = 4

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)

    def training_step(self, batch, batch_idx):
        self.backward_of(batch)
        if batch_idx % 4 == 3:
            self.optimizers().step()
            self.optimizers().zero_grad()


class ThrownAway(Steps):
    steps = 4

    def training_step(self, batch, batch_idx):
        self.optimizers().zero_grad()
        self.backward_of(batch)
        if batch_idx % 4 == 3:
            self.optimizers().step()


# -- modes


class PreviewInEval(Program):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        if batch_idx == 2:
            self.body.eval()
            with torch.no_grad():
                self(batch[0])


class TrainsInValidation(Program):
    def validation_step(self, batch, batch_idx):
        self.train()
        super().validation_step(batch, batch_idx)


class NotRescaled(Program):
    def forward(self, x):
        h = self.body(x)
        return self.head(h * (torch.rand_like(h) > 0.4) if self.training else h)


class EvaluatedByHand(Program):
    steps = 60

    @torch.no_grad()
    def on_train_epoch_end(self):
        for _ in range(5):
            self(self.data(32, 7)[0])


class Dropping(Program):
    def forward(self, x):
        h = self.body(x)
        return self.head(h * (torch.rand_like(h) > 0.2) / 0.8 if self.hand else F.dropout(h, 0.3))


class WithoutBuffers(Program):
    def __init__(self, kind):
        super().__init__(kind)
        self.mean = copy.deepcopy(self.body).requires_grad_(requires_grad=False)

    @torch.no_grad()
    def on_train_batch_end(self, *_):
        for mine, theirs in zip(self.mean.parameters(), self.body.parameters(), strict=True):
            mine.lerp_(theirs, 0.1)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(self.head(self.mean(batch[0])), batch))


class Hasty(Program):
    def __init__(self, kind):
        super().__init__(kind)
        for module in self.modules():
            module.momentum = 0.99


class Drifting(Program):
    steps = 40

    def __init__(self, kind):
        super().__init__(kind)
        with torch.no_grad():
            for _ in range(30):
                self.body(3 * self.data(256, 7)[0] + 2)
        self.body.requires_grad_(requires_grad=False)


class MostlyDropped(Program):
    steps = 80

    def __init__(self, kind):
        super().__init__(kind)
        self.head = nn.Sequential(nn.Dropout(0.95), self.head)


class OtherUnits(Program):
    steps = 80

    def training_step(self, batch, batch_idx):
        x, y = batch
        return super().training_step((20 * x + 30 if batch_idx % 2 else x, y), batch_idx)


class Noisy(Program):
    def forward(self, x):
        h = self.body(x)
        return self.head(h + 3 * torch.randn_like(h))


DISEASES = {
    "LossInputCheck": {
        "probabilities": (Softmax,), "logits_as_probabilities": (NoLogarithm, ClampedToShares), "broadcast": (Column,),
        "out_of_range": (Tanh,), "classes_in_wrong_dimension": (OverExamples,), "constant_loss": (SoftmaxOfOne,),
        "kl_arguments_interchanged": (Interchanged,), "logarithms_as_target": (LogarithmsAsTarget,),
        "weights_grow_with_frequency": (Frequent,), "ignore_index_is_a_class": (Ignored,),
        "labels_as_numbers": (LabelsAsNumbers,), "target_constant": (OneTarget,), "entry_never_read": (NeverRead,),
        "compared_with_itself": (OneView,), "term_without_gradient": (Decided,),
        "padding_scored": (Padded,), "logits_too_close": (TimesTemperature,),
        "target_masked": (TargetMasked,),
    },
    "LossClipCheck": {"clipped": (Clipped,)},
    "GradientFlowCheck": {
        "not_in_optimiser": (Replaced,), "made_anew": (Anew,), "no_gradient": (Cut, Quantised),
        "in_two_optimisers": (Twice,), "one_module_many_times": (Multiplied,), "identical_units": (Constants,),
        "affine": (Affine,),
    },
    "StaleGradientCheck": {
        "missing_zero_grad": (NeverCleared,), "cleared_before_step": (ClearedTooSoon,), "foreign_gradient": (Foreign,),
        "clips_nothing": (ClipsNothing,), "clipped_to_nothing": (ClippedToNothing,), "summed_batches": (Summed,),
        "batches_thrown_away": (ThrownAway,),
    },
    "ModeCheck": {
        "eval_in_training": (PreviewInEval,), "train_in_validation": (TrainsInValidation,),
        "train_between_epochs": (EvaluatedByHand,), "dropout_in_validation": (Dropping,),
        "dropout_not_scaled": (NotRescaled,), "statistics_never_updated": (WithoutBuffers,),
        "momentum_too_high": (Hasty,), "frozen_drifts": (Drifting,), "dropout_too_strong": (MostlyDropped,),
        "statistics_do_not_fit": (OtherUnits,), "noise_in_validation": (Noisy,),
    },
}  # fmt: skip
ONLY = dict.fromkeys([WithoutBuffers, Hasty, Drifting, EvaluatedByHand], NORMED) | dict.fromkeys(
    [Affine, OtherUnits], NORMED[:1]
)
HEALTHY = [Program, Steps, Numbers, YesNo, Weighted, Values]
CASES = [
    pytest.param(check, code, program, kind, id=f"{check} {code} {program.__name__} {kind}")
    for check, codes in DISEASES.items()
    for code, programs in codes.items()
    for program in programs
    for kind in ONLY.get(program, BODIES)
]


@pytest.fixture
def told(fit):
    """What checks tell of a program in an architecture, but for what is as it should be."""

    def findings(checks, program, kind):
        made = [getattr(lightning_recipe, check)() for check in checks]
        fit(program(kind), made, logger=False, max_steps=program.steps, max_epochs=-1, **program.settings)
        found = [finding for check in made for finding in check.findings]
        return [f.code for f in found if f.status not in {Status.PASSED, Status.SKIPPED}]

    return findings


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("program", HEALTHY)
def test_healthy_programs_are_left_alone(told, program, kind):
    assert told(DISEASES, program, kind) == []


def test_the_score_of_an_adversary_is_no_likelihood(told):
    assert told(["LossInputCheck"], Scored, "recurrent, by hand") == []


@pytest.mark.parametrize(("check", "code", "program", "kind"), CASES)
def test_a_mistake_is_found_in_each_architecture(told, check, code, program, kind):
    assert told([check], program, kind) == [f"{check}/{code}"]
