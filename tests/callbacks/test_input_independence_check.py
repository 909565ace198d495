"""What the network sees: models that have no input to use, or use it in their own way, first; then the mistakes."""

import math
from types import SimpleNamespace

import lightning.pytorch as L
import pytest
import torch
from patients import FEATURES as WIDTH
from patients import GivesAway, Healthy, KeepsPadding, Padded, PositionsInVain, SoftmaxOfOneGate
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_recipe import InputIndependenceCheck, Status

N, FEATURES = 64, 8
DRAWN = torch.Generator().manual_seed(0)
X = torch.randn(N, FEATURES, generator=DRAWN)
Y = (X @ torch.randn(FEATURES, 3, generator=DRAWN)).argmax(1)
VALUE = X[:, :2].sum(1) + 0.5


class Program(L.LightningModule):
    """A step that a subclass writes, on given data."""

    data = (X, Y)

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, 3))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val", self.training_step(batch, batch_idx), batch_size=len(batch[0]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-2)

    def train_dataloader(self):
        return DataLoader(TensorDataset(*self.data), 16, shuffle=True)

    def val_dataloader(self):
        return DataLoader(TensorDataset(*self.data), 32)


def found(fit, module, **settings):
    check = InputIndependenceCheck()
    fit(module, [check], logger=False, **settings)
    return [(f.status, f.code.partition("/")[2], f.subject) for f in check.findings]


PASSED, SKIPPED = [(Status.PASSED, "passed", "")], [(Status.SKIPPED, "skipped", "")]


# -- legitimate


class Formula(Program):
    """Of all columns together."""

    data = (X, X.sum(1))

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self.net(batch[0])[:, 0], batch[1])


class OneColumn(Formula):
    """There is nothing else to learn from."""

    data = (X[:, :1], X[:, 0].exp())

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1)


class FewExamples(Formula):
    """A column may have the order of three classes by chance."""

    data = (torch.cat([X[:6, 1:], torch.tensor([[0.0], [0], [1], [1], [2], [2]])], 1), torch.arange(6.0) // 2)


class Conditional(Program):
    """What is generated is another thing than the label, which enters."""

    def __init__(self):
        super().__init__()
        self.label, self.net = nn.Embedding(3, 4), nn.Linear(4 + FEATURES, FEATURES)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self.net(torch.cat([self.label(y), torch.randn_like(x)], 1)), x)


class Rolling(Program):
    """Numbers of the latest days, and a mean of several, to forecast the next one."""

    series = torch.randn(300, generator=torch.Generator().manual_seed(1)).cumsum(0) / 20
    ends = 1

    def __init__(self):
        super().__init__()
        days, last = self.series.unfold(0, 8, 1)[:-1], self.series[8:]
        mean = (days if self.ends else self.series.unfold(0, 8, 1)[1:])[:, -3:].mean(1)
        noise = torch.randn(len(days), 4, generator=torch.Generator().manual_seed(2))
        self.data = torch.cat([days, mean[:, None], noise], 1), last
        self.net = nn.Linear(13, 1)

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self.net(batch[0])[:, 0], batch[1])

    def train_dataloader(self):
        return DataLoader(TensorDataset(*self.data), 64, shuffle=True)

    val_dataloader = train_dataloader


class HalfAFormula(Formula):
    """A sum of columns and noise of a tenth."""

    data = (X, X[:, :2].sum(1) + 0.1 * torch.randn(len(X), generator=torch.Generator().manual_seed(3)))


def coded(share, seed=0):
    """The class as one of three codes of its own, in a share of the examples, in others as any code."""
    rng = torch.Generator().manual_seed(seed)
    known = torch.rand(len(Y), generator=rng) < share
    codes = 3 * Y + torch.randint(3, Y.shape, generator=rng)
    return torch.stack([torch.randint(5, Y.shape, generator=rng), codes.where(known, codes[torch.randperm(len(Y))])], 1)


class WithIds(Program):
    """Columns of ids beside those of numbers."""

    data = (X, coded(0.7), Y)

    def __init__(self):
        super().__init__()
        self.ids = nn.Embedding(200, 4)
        self.net = nn.Linear(FEATURES + 4 * self.data[1][0].numel(), 3)

    def training_step(self, batch, batch_idx):
        x, ids, y = batch
        return F.cross_entropy(self.net(torch.cat([x, self.ids(ids).flatten(1)], 1)), y)


class OfUsers(WithIds):
    """There are few examples of each."""

    data = (X, torch.stack([torch.arange(len(Y)) * 3 + Y, Y * 0], 1) % 200, Y)


class Words(WithIds):
    """Of a text, the first of which hints at what it is about."""

    words = torch.randint(200, (len(Y), 10), generator=torch.Generator().manual_seed(0))
    data = (X, torch.cat([Y[:, None] + (words[:, :1] < 60), words[:, 1:]], 1), Y)


class Margins(WithIds):
    """The label enters, too, as for a loss with margins, or an auxiliary one."""

    data = (X, Y.clone(), Y)


class Numbered(Program):
    """Rows are counted in an order that has nothing to do with the class; and a column says it nearly."""

    data = (torch.cat([X, torch.randperm(len(Y)).float()[:, None] / len(Y), Y[:, None] + 0.1 * X[:, :1]], 1), Y)

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(FEATURES + 2, 3)


class Amounts(Numbered):
    """Mostly 0, and else of either class; and of one class, but seldom."""

    seldom = torch.where(torch.arange(N) % 6 < Y % 2, X[:, 0], 0)
    data = (torch.cat([X, torch.where(X[:, 1] > 0, X[:, 2], 0)[:, None], seldom[:, None]], 1), Y)


class TopicWords(Numbered):
    """Words that only one kind of text has, and many of them."""

    own = torch.stack([torch.where(i % 3 == Y, X[:, i].abs(), 0) for i in range(6)], 1)
    data = (torch.cat([X[:, :4], own], 1), Y)


class Placed(Program):
    """Beside the columns the place in a list that is sorted by the target comes as an entry of its own."""

    y = X[:, 0] + 0.1 * torch.randn(len(X), generator=torch.Generator().manual_seed(1))
    data = (X, (-y).argsort().argsort().float() / len(X), y)

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(FEATURES + 1, 1)

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self.net(torch.cat([batch[0], batch[1][:, None]], 1))[:, 0], batch[2])


class Guided(Placed):
    """The target itself, on purpose: what is generated is judged by it."""

    data = (X, Placed.y.clone(), Placed.y)


class OneNumber(Placed):
    """There is nothing else to learn from."""

    data = (Placed.y.exp(), Placed.y)

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self.net(batch[0][:, None])[:, 0], batch[1])


LEGITIMATE = [
    Guided,
    OneNumber,
    Numbered,
    Amounts,
    TopicWords,
    Formula,
    OneColumn,
    FewExamples,
    Conditional,
    Rolling,
    HalfAFormula,
    WithIds,
    OfUsers,
    Words,
    Margins,
]


@pytest.mark.parametrize("program", LEGITIMATE)
def test_columns_that_give_nothing_away(fit, program):
    assert not [code for _, code, _ in found(fit, program(), max_epochs=2) if code == "target_given_away"]


class Autoencoder(Program):
    data = (X,)

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 3), nn.Tanh(), nn.Linear(3, FEATURES))

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self.net(batch[0]), batch[0])


class Variational(Autoencoder):
    """Draws its codes, and has hardly learnt anything yet."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(FEATURES, 4), nn.Linear(2, FEATURES)

    def training_step(self, batch, batch_idx):
        mean, log_var = self.encoder(batch[0]).chunk(2, 1)
        code = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1).mean()
        return F.mse_loss(self.decoder(code), batch[0]) + kl


class Collapsed(Variational):
    """The weight of the second term is far too large."""

    data = (X.repeat(25, 1),)

    def training_step(self, batch, batch_idx):
        mean, log_var = self.encoder(batch[0]).chunk(2, 1)
        code = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1).mean()
        return F.mse_loss(self.decoder(code), batch[0]) + 500 * kl

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)


class Says(Program):
    """A decoder that sees the places before its own, and a code that is drawn for each sequence."""

    steps = 12
    data = (
        ((X[:, 0].repeat(8) > 0).long() + torch.arange(12)[:, None] * (X[:, 1].repeat(8) > 0).long()).T % 6,
        torch.zeros(8 * N),
    )

    def __init__(self, weight):
        super().__init__()
        self.weight = weight
        self.word, self.encoder = nn.Embedding(7, 8), nn.GRU(8, 8, batch_first=True)
        self.posterior, self.decoder = nn.Linear(8, 8), nn.GRU(12, 16, batch_first=True)
        self.head = nn.Linear(16, 6)

    def training_step(self, batch, batch_idx):
        mean, log_var = self.posterior(self.encoder(self.word(batch[0]))[1][0]).chunk(2, 1)
        code = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        before = self.word(F.pad(batch[0][:, :-1], (1, 0), value=6))
        said = self.head(self.decoder(torch.cat([before, code[:, None].expand(-1, self.steps, -1)], 2))[0])
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean(0)
        return F.cross_entropy(said.mT, batch[0]) + self.weight * kl.sum()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def test_codes_that_are_of_use_beside_what_a_decoder_sees(fit):
    assert found(fit, Says(weight=0.01), max_epochs=8) == PASSED


def test_codes_that_are_of_no_use_beside_what_a_decoder_sees(fit):
    assert found(fit, Says(weight=10.0), max_epochs=8) == [(Status.ADVICE, "code_unused", "posterior")]


class Quantised(Program):
    """All examples have one code, until the encoder has moved far enough."""

    moves_at = 2

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(FEATURES, 4)
        nn.init.zeros_(self.encoder.weight)
        self.net = nn.Linear(4, 3)

    def on_train_epoch_start(self):
        if self.current_epoch == self.moves_at:
            nn.init.eye_(self.encoder.weight)

    def training_step(self, batch, batch_idx):
        code = F.one_hot(self.encoder(batch[0]).argmax(1), 4).float()
        return F.cross_entropy(self.net(code), batch[1])


def test_a_codebook_that_begins_with_one_code_is_given_time(fit):
    assert found(fit, Quantised(), max_epochs=8) == PASSED


def test_a_codebook_that_ends_with_one_code_is_not(fit):
    program = Quantised()
    program.moves_at = None
    ((status, code, _),) = found(fit, program, max_epochs=8)
    assert (status, code) == (Status.FAILED, "input_ignored")


class PastACodebook(Autoencoder):
    """Straight through a codebook that begins far from all codes, so that the same is the nearest to each."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(FEATURES, 4), nn.Linear(4, FEATURES)
        self.register_buffer("codes", 1e3 + torch.randn(8, 4))

    def on_train_epoch_start(self):
        if self.current_epoch == 2:
            self.codes.sub_(1e3)

    def training_step(self, batch, batch_idx):
        z = self.encoder(batch[0])
        chosen = self.codes[torch.cdist(z, self.codes).argmin(1)]
        return F.mse_loss(self.decoder(z + (chosen - z).detach()), batch[0])


def test_what_learns_past_a_codebook_is_given_time(fit):
    assert found(fit, PastACodebook(), max_epochs=8) == PASSED


class Contrastive(Program):
    """Two views of each example: to interchange both changes nothing."""

    data = (X, X + 0.1 * torch.randn(N, FEATURES, generator=DRAWN))

    def training_step(self, batch, batch_idx):
        a, b = (F.normalize(self.net(view)) for view in batch)
        return F.cross_entropy(a @ b.T / 0.1, torch.arange(len(a)))


class SaysNext(Program):
    """Whole sequences are interchanged together with what comes next."""

    data = (torch.randint(10, (N, 6), generator=DRAWN),)

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 10))

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        return F.cross_entropy(self.net(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


class Unconditional(Program):
    """A generator whose samples are to have the moments of the data, which enter no module."""

    data = (X,)

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, FEATURES)

    def training_step(self, batch, batch_idx):
        made = self.net(torch.randn(len(batch[0]), 4))
        return (made.mean(0) - batch[0].mean(0)).square().sum()


class StartsAtZero(Program):
    """The output layer is zero, and a warm-up has not begun."""

    data = (X, VALUE)

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, 1))
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self.net(batch[0])[:, 0], batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class SmallBesideTheTarget(StartsAtZero):
    """Outputs of 1e-5 where targets are thousands: the loss is that of the target."""

    data = (X, 1e4 * VALUE)

    def __init__(self):
        super().__init__()
        nn.init.normal_(self.net[-1].weight, std=1e-5)


class LossInside(Program):
    """The network is called with the target, and computes the loss by hand."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(FEATURES, 3)

        def forward(self, x, answer):
            return -self.layer(x).log_softmax(1).gather(1, answer[:, None]).mean()

    def __init__(self):
        super().__init__()
        self.net = self.Net()

    def training_step(self, batch, batch_idx):
        return self.net(*batch)


class Adversarial(Program):
    """By hand; the first loss is that of the generator, which no example has an effect on."""

    data = (X,)
    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.generator, self.net = nn.Linear(4, FEATURES), nn.Linear(FEATURES, 1)

    def training_step(self, batch, batch_idx):
        made = self.generator(torch.randn(len(batch[0]), 4))
        first, second = self.optimizers()
        for loss, optimizer in (
            (lambda: -self.net(made).mean(), first),
            (lambda: self.net(made.detach()).mean() - self.net(batch[0]).mean(), second),
        ):
            optimizer.zero_grad()
            self.manual_backward(loss())
            optimizer.step()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), 1e-3) for part in (self.generator, self.net)]


class TwoNetsByHand(Program):
    """Each network has its input, its loss and its optimiser: the first loss knows the first input only."""

    data = (X, X.flip(1), VALUE)
    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.net, self.other = nn.Linear(FEATURES, 1), nn.Linear(FEATURES, 1)

    def training_step(self, batch, batch_idx):
        a, b, y = batch
        for net, x, optimizer in zip((self.net, self.other), (a, b), self.optimizers(), strict=True):
            optimizer.zero_grad()
            self.manual_backward(F.mse_loss(net(x)[:, 0], y))
            optimizer.step()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), 1e-3) for part in (self.net, self.other)]


class Masked(Program):
    """All is observed: a mask that is the same for all can't be judged."""

    data = (X, torch.ones(N, FEATURES), Y)

    def training_step(self, batch, batch_idx):
        x, mask, y = batch
        return F.cross_entropy(self.net(x * mask), y)


class LabelsUnused(Autoencoder):
    """Learns without labels, which its data has."""

    data = (X, Y)


class OneExampleEach(Program):
    def val_dataloader(self):
        return DataLoader(TensorDataset(*self.data), 1)


class Bags(Program):
    """Words of all examples in one row; the network is given the whole batch, and leaves the label alone."""

    def __init__(self):
        super().__init__()
        self.bag, self.net = nn.EmbeddingBag(FEATURES, 16), nn.Linear(16, 1)

    def forward(self, batch):
        return self.net(self.bag(batch["words"], batch["offsets"])).squeeze(1)

    def training_step(self, batch, batch_idx):
        return F.binary_cross_entropy_with_logits(self(batch), batch["toxic"])

    def validation_step(self, batch, batch_idx):
        self.log("val", self.training_step(batch, batch_idx), batch_size=len(batch["toxic"]))

    def train_dataloader(self):
        return DataLoader(TensorDataset(*self.data), 16, collate_fn=self.together)

    def val_dataloader(self):
        return self.train_dataloader()

    @staticmethod
    def together(examples):
        words = [x.argsort()[: 2 + int(y)] for x, y in examples]
        offsets = torch.tensor([0, *map(len, words[:-1])]).cumsum(0)
        return {
            "words": torch.cat(words),
            "offsets": offsets,
            "toxic": torch.stack([(y > 0).float() for _, y in examples]),
        }


class Diffusion(Program):
    """Takes noise away, of which the time, drawn in the step, says how much there is."""

    data = (X,)

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES + 1, 16), nn.ReLU(), nn.Linear(16, FEATURES))

    def forward(self, x, time):
        return self.net(torch.cat([x, self.scaled(time)[:, None]], 1))

    def scaled(self, time):
        return time / 100

    def training_step(self, batch, batch_idx):
        time, noise = torch.randint(100, (len(batch[0]),)), torch.randn_like(batch[0])
        share = time[:, None] / 100
        return F.mse_loss(self((1 - share).sqrt() * batch[0] + share.sqrt() * noise, time), noise)


class TimeInVain(Diffusion):
    def scaled(self, time):
        return (time // 100).float()


class Flow(Autoencoder):
    """The likelihood of what enters: each example has its own."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(FEATURES, FEATURES)

    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).square().mean() / 2 - self.net.weight.slogdet().logabsdet / FEATURES


class Residual(Autoencoder):
    """Adds little to what it was given, and is better for it."""

    def training_step(self, batch, batch_idx):
        given = batch[0] + 0.3 * torch.randn_like(batch[0])
        return F.mse_loss(given + self.net(given), batch[0])


class Reconstructs(Autoencoder):
    """Parts of the input are left out."""

    data = (X.repeat(25, 1),)

    def training_step(self, batch, batch_idx):
        kept = torch.rand_like(batch[0]) < 0.5
        return (self.net(batch[0] * kept) - batch[0]).square()[~kept].mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class LearnsLate(Autoencoder):
    """Its answers begin as good as equal."""

    data = (X.repeat(25, 1),)

    def __init__(self):
        super().__init__()
        with torch.no_grad():
            self.net[2].weight.mul_(1e-3)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.3)


class Annealed(Variational):
    """The weight of the second term is small."""

    data = (X.repeat(25, 1),)

    def training_step(self, batch, batch_idx):
        mean, log_var = self.encoder(batch[0]).chunk(2, 1)
        code = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1).mean()
        return F.mse_loss(self.decoder(code), batch[0]) + 0.01 * min(1, self.global_step / 100) * kl


class FromNoise(Autoencoder):
    """What has as many numbers as the input is made of noise; a critic sees both."""

    def __init__(self):
        super().__init__()
        self.critic = nn.Linear(FEATURES, 1)

    def training_step(self, batch, batch_idx):
        return self.critic(self.net(torch.randn_like(batch[0]))).mean() - self.critic(batch[0]).square().mean()


@pytest.mark.parametrize("program", [FromNoise, Flow, Residual, Reconstructs, LearnsLate, Annealed])
def test_what_is_made_of_the_input_differs(fit, program):
    assert found(fit, program(), max_epochs=5) == PASSED


class CodeOfNothing(Autoencoder):
    """Reconstruction is a mean over the numbers of an example, the other term a sum; validation draws nothing."""

    data = (X.repeat(25, 1),)

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(FEATURES, 8), nn.Linear(4, FEATURES)

    def distance(self, made, x):
        return F.mse_loss(made, x)

    def training_step(self, batch, batch_idx):
        mean, log_var = self.encoder(batch[0]).chunk(2, 1)
        code = mean + (0.5 * log_var).exp() * torch.randn_like(mean) if self.training else mean
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1).mean()
        return self.distance(self.decoder(code), batch[0]) + 4 * kl

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-2)


class CodeOfNothingByHand(CodeOfNothing):
    def distance(self, made, x):
        return ((made - x) ** 2 + 1e-6).sqrt().mean()


class CodeOfNothingInside(CodeOfNothing):
    """Images, one module for all, which computes its loss; and their labels, which are not read."""

    data = (X.repeat(25, 1).reshape(-1, 1, 2, 4).sigmoid(), Y.repeat(25))

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8))
            self.decoder = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8), nn.Unflatten(1, (1, 2, 4)))

        def forward(self, x):
            mean, log_var = self.encoder(x).chunk(2, 1)
            code = mean + (0.5 * log_var).exp() * torch.randn_like(mean) if self.training else mean
            kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1).mean()
            made = self.decoder(code)
            return made, F.binary_cross_entropy_with_logits(made, x) + 4 * kl

    def __init__(self):
        super().__init__()
        self.whole = self.Whole()

    def training_step(self, batch, batch_idx):
        return self.whole(batch[0])[1]


@pytest.mark.parametrize("program", [CodeOfNothing, CodeOfNothingByHand, CodeOfNothingInside])
def test_the_same_is_made_of_all(fit, program):
    (told,) = found(fit, program(), max_epochs=8)
    assert told[:2] in {(Status.WARNING, "same_for_all"), (Status.FAILED, "input_ignored")}  # to the last digit


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (Diffusion, PASSED),
        (Healthy, PASSED),
        (Program, PASSED),
        (Autoencoder, PASSED),
        (Variational, PASSED),
        (Contrastive, PASSED),
        (SaysNext, PASSED),
        (Unconditional, SKIPPED),
        (StartsAtZero, PASSED),
        (SmallBesideTheTarget, PASSED),
        (LossInside, PASSED),
        (Adversarial, PASSED),
        (TwoNetsByHand, PASSED),
        (Masked, PASSED),
        (LabelsUnused, PASSED),
        (OneExampleEach, SKIPPED),
        (Bags, SKIPPED),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_no_mistake(fit, program, expected):
    assert found(fit, program()) == expected


def test_without_validation_there_is_no_verdict(fit):
    assert found(fit, KeepsPadding(), limit_val_batches=0) == SKIPPED


def test_rounding_in_16_bits_is_no_evidence(fit):
    """Around 300, bfloat16 numbers are 2 apart."""

    class FarOff(StartsAtZero):
        data = (X, VALUE + 300)

        def __init__(self):
            super().__init__()
            nn.init.normal_(self.net[-1].weight, std=1e-3)
            nn.init.constant_(self.net[-1].bias, 300.0)

    assert found(fit, FarOff(), precision="bf16-mixed") == PASSED


# -- mistakes


def test_codes_that_hold_nothing_of_the_input(fit):
    check = InputIndependenceCheck()
    fit(Collapsed(), [check], logger=False, max_epochs=2)
    assert [(f.status, f.code) for f in check.findings] == [(Status.WARNING, "InputIndependenceCheck/same_for_all")]
    assert check.findings[0].evidence["share"] < 0.05


def test_what_an_input_is_worth(fit):
    check = InputIndependenceCheck()
    fit(Healthy(), [check], logger=False)
    assert check.findings[0].evidence["worth batch[0]"] > 0.1
    assert check.findings[0].evidence["zeros batch[0]"] > 0.1


def test_0_is_a_word_like_any_other(fit):
    check = InputIndependenceCheck()
    fit(WordsInVain(), [check], logger=False, max_epochs=4)
    assert [name for name in check.findings[0].evidence if name.startswith("zeros")] == ["zeros batch[0]"]


def test_only_padding_is_read(fit):
    check = InputIndependenceCheck()
    fit(KeepsPadding(), [check], logger=False)
    (finding,) = check.findings
    assert (finding.status, finding.code) == (Status.FAILED, KeepsPadding.code)
    assert finding.evidence["loss_change"] < 1e-6
    assert finding.evidence["output_change"] < 1e-5


class OnZeros(Program):
    """What the network makes of its inputs does not reach its answers."""

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net[1:](self.net[0](batch[0]) * 0.0), batch[1])


def test_a_fit_on_zeros_is_made_if_asked_for(fit, events):
    check = InputIndependenceCheck(fit_steps=60)
    trainer = fit(Healthy(), [check], max_epochs=1)
    zeros, _ = check.findings
    assert (zeros.status, zeros.subject) == (Status.PASSED, "zeros")
    assert zeros.evidence["inputs"] < 0.5 * zeros.evidence["zeros"]
    assert [tag for tag in events(trainer).Tags()["images"] if tag.endswith("zeros")]
    check = InputIndependenceCheck(fit_steps=20)
    fit(OnZeros(), [check], logger=False, limit_val_batches=0)
    assert [f.code for f in check.findings if f.is_alarm] == ["InputIndependenceCheck/no_better_than_zeros"]
    with pytest.raises(ValueError, match="fit_steps"):
        InputIndependenceCheck(fit_steps=-1)


class Reads(Program):
    """An encoder with a mask of padding."""

    right = True
    data = (
        torch.randint(1, 20, (N, 10), generator=DRAWN).masked_fill(
            torch.arange(10) >= 3 + torch.arange(N)[:, None] % 7, 0
        ),
        Y,
    )

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 16)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1, enable_nested_tensor=False
        )
        self.net = nn.Linear(16, 3)

    def training_step(self, batch, batch_idx):
        mask = (batch[0] == 0) == self.right
        return F.cross_entropy(
            self.net(self.encoder(self.words(batch[0]), src_key_padding_mask=mask).mean(1)), batch[1]
        )


class Attends(Reads):
    """Attention alone, its mask positional and of numbers; the values come padded with zeros."""

    data = (X[:, :, None] * (torch.arange(FEATURES) < 3 + torch.arange(N)[:, None] % 4)[..., None], Y)

    def __init__(self):
        super().__init__()
        self.words, self.encoder = nn.Linear(1, 16), nn.MultiheadAttention(16, 2, batch_first=True)

    def training_step(self, batch, batch_idx):
        x = self.words(batch[0])
        mask = torch.zeros(x.shape[:2]).masked_fill((batch[0][..., 0] == 0) == self.right, -torch.inf)
        return F.cross_entropy(self.net(self.encoder(x, x, x, mask)[0].mean(1)), batch[1])


class Bert(Reads):
    """Its mask is 1 where there is something to read."""

    class Encoder(nn.Module):
        def forward(self, x, attention_mask=None):
            return x * attention_mask[..., None]

    def __init__(self):
        super().__init__()
        self.encoder = self.Encoder()

    def training_step(self, batch, batch_idx):
        mask = ((batch[0] != 0) == self.right).long()
        return F.cross_entropy(self.net(self.encoder(self.words(batch[0]), attention_mask=mask).mean(1)), batch[1])


class BehindAToken(Reads):
    """A token of its own, which all see, stands before the words."""

    def training_step(self, batch, batch_idx):
        mask = F.pad((batch[0] == 0) == self.right, (1, 0))
        words = F.pad(self.words(batch[0]), (0, 0, 1, 0), value=0.1)
        return F.cross_entropy(self.net(self.encoder(words, src_key_padding_mask=mask)[:, 0]), batch[1])


@pytest.mark.parametrize("program", [Reads, Attends, Bert, BehindAToken])
@pytest.mark.parametrize("validated", [True, False])
def test_a_mask_of_padding(fit, program, validated):
    module = program()
    limits = {} if validated else {"limit_val_batches": 0}
    assert found(fit, module, **limits) == (PASSED if validated else SKIPPED)
    module = program()
    module.right = False
    ((status, code, subject),) = found(fit, module, **limits)
    assert (status, code, subject) == (Status.FAILED, "mask_inverted", "encoder")


def test_a_single_validation_is_enough(fit):
    assert found(fit, KeepsPadding(), max_epochs=1)[0][1] == "input_ignored"


class Overwritten(Program):
    """Outermost modules one after another, in a batch that is a dictionary; what they said of x is lost."""

    def training_step(self, batch, batch_idx):
        hidden = self.net[0](batch[0])
        hidden = self.net[1](hidden * 0)
        return F.cross_entropy(self.net[2](hidden), batch[1])


class DictOverwritten(Overwritten):
    def training_step(self, batch, batch_idx):
        return super().training_step((batch["x"], batch["y"]), batch_idx)

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return {"x": batch[0], "y": batch[1]} if isinstance(batch, list) else batch

    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)


class ByHand(Overwritten):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()

    def validation_step(self, batch, batch_idx):
        pass


class AutoencoderOfNothing(Autoencoder):
    def training_step(self, batch, batch_idx):
        (x,) = batch
        return F.mse_loss(self(x), x)

    def forward(self, x):
        return self.net(torch.zeros_like(x)) if x is not None else x


class LossByHand(Overwritten):
    data = (X, VALUE)

    def training_step(self, batch, batch_idx):
        object_ = SimpleNamespace(x=batch[0], y=batch[1])
        return (self.net[2](self.net[1](self.net[0](object_.x) - 1e9))[:, 0] - object_.y).abs().mean()


@pytest.mark.parametrize("program", [Overwritten, DictOverwritten, ByHand, AutoencoderOfNothing, LossByHand])
def test_the_input_is_ignored(fit, program):
    assert found(fit, program()) == [(Status.FAILED, "input_ignored", "")]


def test_whose_an_example_is_may_be_in_the_batch(fit):
    class Dicts(Dataset):
        def __init__(self):
            self.x, self.y = Healthy().data(128, 1).tensors

        def __len__(self):
            return len(self.x)

        def __getitem__(self, index):
            return {"x": self.x[index], "session_id": index // 5, "y": self.y[index]}

    class OfDicts(Healthy):
        def forward(self, batch):
            return super().forward(batch["x"])

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch), batch["y"])

        def train_dataloader(self):
            return DataLoader(Dicts(), 32, shuffle=True)

        val_dataloader = train_dataloader

        def validation_step(self, batch, batch_idx):
            self.training_step(batch, batch_idx)

    assert found(fit, OfDicts()) == PASSED


class TwoInputs(Program):
    """An image, say, and a question, each with layers of its own."""

    data = (X, X.roll(1, 1), Y)

    def __init__(self):
        super().__init__()
        self.other, self.gate = nn.Linear(FEATURES, 3), nn.Parameter(torch.zeros(()))

    def mixed(self, a, b):
        return a + self.gate * b

    def training_step(self, batch, batch_idx):
        self.number = batch_idx
        return F.cross_entropy(self.mixed(self.net(batch[0]), self.other(batch[1])), batch[2])


class OneOrTheOther(TwoInputs):
    def mixed(self, a, b):
        return b if torch.rand(()) > 0.5 else a


class InTurns(TwoInputs):
    def mixed(self, a, b):
        return b if self.number % 2 else a


class ComesLater(TwoInputs):
    def mixed(self, a, b):
        return a + b * (self.current_epoch > 2)


class TaughtByAnother(TwoInputs):
    def training_step(self, batch, batch_idx):
        told = self.other(batch[1])
        return F.cross_entropy(self.net(batch[0]), batch[2]) + (told - told.detach()).sum()


class FrozenBeside(TwoInputs):
    def __init__(self):
        super().__init__()
        self.other.requires_grad_(requires_grad=False)

    def mixed(self, a, b):
        return a + 0 * b


class Unused(TwoInputs):
    def forward(self, a, b):
        return self.net(a)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(*batch[:2]), batch[2])


class ByHandBeside(TwoInputs):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        for loss in (F.cross_entropy(self.net(batch[0]), batch[2]), F.cross_entropy(self.other(batch[1]), batch[2])):
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def validation_step(self, batch, batch_idx):
        self.log("val", F.cross_entropy(self.net(batch[0]), batch[2]))


@pytest.mark.parametrize(
    "program", [TwoInputs, OneOrTheOther, InTurns, ComesLater, TaughtByAnother, FrozenBeside, Unused, ByHandBeside]
)
def test_an_input_that_may_come_into_play_is_advice_at_most(fit, program):
    assert not {Status.WARNING, Status.FAILED} & {status for status, *_ in found(fit, program(), max_epochs=8)}


def test_an_input_without_effect_is_given_time(fit):
    assert found(fit, ComesLater(), max_epochs=8) == PASSED


class NeverMixed(TwoInputs):
    def mixed(self, a, b):
        return a + 0 * b


class AskedTwice(TwoInputs):
    """Attention whose values are of the question, too: softmax over places sums up to one."""

    def mixed(self, a, b):
        return torch.einsum("nk,nd->nd", b.softmax(1), a)


class WordsInVain(NeverMixed):
    data = (X, torch.arange(N) % 5, Y)

    def __init__(self):
        super().__init__()
        self.other = nn.Embedding(5, 3)


@pytest.mark.parametrize("program", [NeverMixed, AskedTwice, WordsInVain])
def test_layers_that_learn_nothing_from_their_input(fit, program):
    assert found(fit, program(), max_epochs=4) == [(Status.WARNING, "one_input_ignored", "batch[1]")]


def test_one_of_several_is_ignored(fit):
    check = InputIndependenceCheck()
    fit(SoftmaxOfOneGate(), [check], logger=False)
    (finding,) = check.findings
    assert (finding.status, finding.code, finding.subject) == (Status.WARNING, SoftmaxOfOneGate.code, "batch[1]")
    assert finding.evidence["worth batch[0]"] > 0.01
    assert math.isclose(finding.evidence["worth batch[1]"], 0, abs_tol=1e-6)


# -- features that have no row for each example


class Bonded(Program):
    """Examples are tied to one another by edges, with three features each."""

    def tied(self, rows):
        x, y = (torch.stack(part) for part in zip(*rows, strict=True))
        draw = torch.Generator().manual_seed(len(x))
        edges = {"ends": torch.randint(len(x), (2, 40), generator=draw), "kind": torch.randn(40, 3, generator=draw)}
        return {"x": x, "y": y, **edges}

    def __init__(self):
        super().__init__()
        self.layer = Bonds(used=self.used)

    used = True

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.layer(self.net(batch["x"]), batch["ends"], batch["kind"]), batch["y"])

    def train_dataloader(self):
        return DataLoader(TensorDataset(*self.data), 16, shuffle=True, collate_fn=self.tied)

    val_dataloader = train_dataloader

    def validation_step(self, batch, batch_idx):
        self.log("val", self.training_step(batch, batch_idx), batch_size=len(batch["x"]))


class Bonds(nn.Module):
    def __init__(self, *, used):
        super().__init__()
        self.weigh, self.used = nn.Linear(3, 1), used

    def forward(self, h, ends, kind):
        weights = self.weigh(kind) if self.used else h.new_ones(len(kind), 1)
        return h.index_add(0, ends[1], weights * h[ends[0]])


class BondsAlike(Bonded):
    used = False

    def tied(self, rows):
        batch = super().tied(rows)
        return batch | {"kind": torch.ones_like(batch["kind"])}


class BondsLeftOut(Bonded):
    """They are in the batch, and nobody is given them."""

    used = False

    def training_step(self, batch, batch_idx):
        given = torch.ones_like(batch["kind"])
        return F.cross_entropy(self.layer(self.net(batch["x"]), batch["ends"], given), batch["y"])


class BondsUnread(Bonded):
    used = False


@pytest.mark.parametrize("program", [Bonded, BondsAlike, BondsLeftOut])
def test_features_of_edges_are_used_or_nobody_asks_for_them(fit, program):
    assert not {Status.ADVICE, Status.WARNING, Status.FAILED} & {status for status, *_ in found(fit, program())}


def test_features_of_edges_that_are_given_and_not_read(fit):
    assert found(fit, BondsUnread()) == [(Status.ADVICE, "one_input_ignored", "batch.kind")]


# -- what is made of an entry before a layer sees it


class Clock(Program):
    """The hour enters as points on circles, beside other features."""

    data = (X, torch.arange(N) % 24, Y)

    def __init__(self):
        super().__init__()
        self.clock, self.net = nn.Linear(4, 8), nn.Linear(FEATURES + 8, 3)

    def encoded(self, hour):
        angle = 2 * math.pi * self.part(hour)[:, None] * torch.tensor([1.0, 2.0])
        return torch.cat([angle.sin(), angle.cos()], 1)

    def part(self, hour):
        return hour / 24

    def forward(self, x, hour):
        return self.net(torch.cat([x, self.clock(self.encoded(hour))], 1))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(*batch[:2]), batch[2])


class HalfDays(Clock):
    """Coarse, but not the same for all."""

    def part(self, hour):
        return hour // 12


class DayByDay(Clock):
    """Data in order: each batch is of one day, and each day is another."""

    data = (X, torch.arange(N) * 3 // 2, Y)

    def part(self, hour):
        return hour // 24 / 7

    def train_dataloader(self):
        return DataLoader(TensorDataset(*self.data), 16)

    def val_dataloader(self):
        return DataLoader(TensorDataset(*(entry[48:] for entry in self.data)), 16)


class Blended(Clock):
    """Comes into play by and by."""

    def part(self, hour):
        return hour * min(1.0, self.current_epoch / 4)


class LearntWeight(Clock):
    """A weight that begins at zero."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def part(self, hour):
        return hour / 24 * self.weight


class Diffused(Clock):
    """The level of noise is an entry, and is only used in training mode."""

    data = (X, torch.rand(N, generator=DRAWN), Y)

    def forward(self, x, level):
        return self.net(
            torch.cat([x + level[:, None] * self.training * torch.randn_like(x), torch.zeros(len(x), 8)], 1)
        )


class Lengths(Program):
    """Texts are cut to four places: none is padded any more, and all masks are ones."""

    data = (torch.randint(1, 9, (N, 4), generator=DRAWN), 4 + torch.arange(N) % 9, Y)

    def __init__(self):
        super().__init__()
        self.words, self.rnn, self.net = nn.Embedding(9, 6), nn.GRU(7, 6, batch_first=True), nn.Linear(6, 3)

    def training_step(self, batch, batch_idx):
        words, lengths, y = batch
        mask = (torch.arange(4) < lengths[:, None])[..., None].float()
        there = lengths.clamp(max=4)
        h = self.rnn(torch.cat([self.words(words) * mask, mask], 2))[0]
        return F.cross_entropy(self.net(h.sum(1) / there[:, None]), y)


class ForTheLoss(Clock):
    """What is the same for all is made of an entry that weighs the losses."""

    data = (X, 1 + torch.arange(N) % 24, Y)

    def training_step(self, batch, batch_idx):
        x, weight, y = batch
        loss = F.cross_entropy(self(x, weight.clamp(max=1)), y, reduction="none")
        return (loss * weight).mean()


class OnlyItsShape(Clock):
    """Types of tokens, all of one kind, take their shape from an entry; which is only measured by."""

    def encoded(self, hour):
        return torch.zeros_like(hour)[:, None].expand(-1, 4).float()


@pytest.mark.parametrize(
    "program", [Clock, HalfDays, DayByDay, Blended, LearntWeight, Diffused, Lengths, ForTheLoss, OnlyItsShape]
)
def test_what_is_made_of_an_entry_may_be_coarse_or_come_later(fit, program):
    assert not {Status.WARNING, Status.FAILED} & {status for status, *_ in found(fit, program(), max_epochs=4)}


class Whole(Clock):
    def part(self, hour):
        return (hour / 100).long()


class Clamped(Clock):
    def part(self, hour):
        return hour.clamp(min=24)


class Bucketed(Clock):
    """Asks a table of buckets, and in the step itself."""

    def __init__(self):
        super().__init__()
        self.clock = nn.Embedding(4, 8)

    def encoded(self, hour):
        return torch.bucketize(hour, torch.tensor([24, 48, 72]) - 200).clamp(max=3)


class ArgmaxOfOne(Clock):
    def encoded(self, hour):
        return F.one_hot(hour[:, None].argmax(1), 4).float()


class SideBySide(Clock):
    """Enters the same layer as other features."""

    def __init__(self):
        super().__init__()
        self.clock = nn.Identity()
        self.net = nn.Linear(FEATURES + 4, 3)

    def part(self, hour):
        return hour // 24


class ImagesOfBytes(Program):
    """All there is to see is between 0 and 1, and cut off."""

    data = (X.sigmoid(), Y)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0].to(torch.uint8).float()), batch[1])


@pytest.mark.parametrize(
    ("program", "subject"),
    [
        *((one, "batch[1]") for one in (Whole, Clamped, Bucketed, ArgmaxOfOne, SideBySide)),
        (ImagesOfBytes, "batch[0]"),
    ],
)
def test_what_is_made_of_an_entry_is_the_same_for_all(fit, program, subject):
    assert found(fit, program(), max_epochs=4) == [(Status.WARNING, "one_input_ignored", subject)]


def test_what_is_drawn_for_the_network_is_ignored(fit):
    assert found(fit, TimeInVain()) == [(Status.ADVICE, "one_input_ignored", "time")]


# -- what gives the target away


def with_column(column):
    return torch.cat([X[:, :3], column[:, None], X[:, 4:]], 1)


class Encoded(Program):
    """The label, as another number, is among the features."""

    data = (with_column(5.0 - 2 * Y), Y)


class Encoded2(Formula):
    """Computed from the target, in other units."""

    data = (with_column(X.sum(1).exp()), X.sum(1))


class EncodedByHand(Encoded2):
    def training_step(self, batch, batch_idx):
        return (self.net(batch[0])[:, 0] - batch[1]).abs().mean()


class RowNumber(Program):
    """Of a table that was written class by class, standardised."""

    data = (with_column((Y.argsort().argsort() - len(Y) / 2) / len(Y)), Y)


@pytest.mark.parametrize("program", [Encoded, Encoded2, EncodedByHand, GivesAway, RowNumber])
def test_a_column_that_gives_the_target_away(fit, program):
    assert found(fit, program(), max_epochs=2) == [(Status.ADVICE, "target_given_away", GivesAway.subject)]


def test_an_entry_that_gives_the_target_away(fit):
    assert found(fit, Placed(), max_epochs=2) == [(Status.ADVICE, "target_given_away", "batch[1]")]


class Captions(Program):
    """Words of which each is to be said by those before, beside features that nothing is made of."""

    words = torch.cat([Y[:, None], (Y[:, None] + torch.arange(1, 5)) % 3], 1)
    data = (X, words)

    def __init__(self):
        super().__init__()
        self.see, self.word, self.net = nn.Linear(FEATURES, 8), nn.Embedding(3, 8), nn.Linear(8, 3)

    def training_step(self, batch, batch_idx):
        x, words = batch
        said = self.net(self.word(words[:, :-1]) + self.seen(x))
        return F.cross_entropy(said.flatten(0, 1), words[:, 1:].flatten())

    def seen(self, x):
        return 0 * self.see(x)[:, None]


class SeenCaptions(Captions):
    def seen(self, x):
        return self.see(x)[:, None]


def test_captions_that_see_nothing(fit):
    (told,) = found(fit, Captions(), max_epochs=4)
    assert told[1:] == ("one_input_ignored", "batch[0]")
    assert found(fit, SeenCaptions(), max_epochs=4) == [(Status.PASSED, "passed", "")]


class EndsTooLate(Rolling):
    """The mean takes in the day to be forecast."""

    ends = 0


def test_a_column_that_is_filled_in_for_one_class(fit):
    class Recovered(Numbered):
        """Which is known once it was lost; not of all that were."""

        many = torch.randn(4 * N, FEATURES, generator=torch.Generator().manual_seed(3))
        lost = (many[:, 0] > 0.5).long()
        amount = torch.where((lost == 1) & (torch.arange(4 * N) % 8 > 0), many[:, 1].exp(), 0)
        data = (torch.cat([many, amount[:, None], many[:, :1]], 1), lost)

        def val_dataloader(self):
            return DataLoader(TensorDataset(*self.data), 4 * N)

    subject = f"batch[0][:, {FEATURES}]"
    assert found(fit, Recovered(), max_epochs=2) == [(Status.ADVICE, "target_given_away", subject)]


def test_columns_whose_sum_is_the_target(fit):
    told = found(fit, EndsTooLate(), max_epochs=2)
    assert told == [(Status.ADVICE, "target_given_away", "batch[0][:, [6, 7, 8]]")]


class Closed(WithIds):
    """Why a contract was closed is filled in when it is."""

    data = (X, coded(0.97), Y)


class ClosedByItself(WithIds):
    """The same, as an entry of its own."""

    data = (X, coded(0.97)[:, 1], Y)


@pytest.mark.parametrize(("program", "subject"), [(Closed, "batch[1][:, 1]"), (ClosedByItself, "batch[1]")])
def test_ids_that_give_the_target_away(fit, program, subject):
    assert found(fit, program(), max_epochs=2) == [(Status.ADVICE, "target_given_away", subject)]


# -- positions


class Places(PositionsInVain):
    """Looks up something for each place."""

    table = WIDTH

    def __init__(self):
        super().__init__()
        self.positions = nn.Embedding(self.table, 16)

    def forward(self, x):
        return self.net(self.mixed(torch.tanh(self.enter(x) + self.looked_up(x))))

    def looked_up(self, x):
        return self.positions(torch.arange(x.shape[1]))

    def mixed(self, h):
        return h.mean(1)


class OfOneKind(Places):
    """Segments, of which there is one, in a network that knows no order."""

    table = 2

    def looked_up(self, x):
        return self.positions(torch.zeros(x.shape[:2], dtype=torch.long))


class OfManyKinds(Places):
    """A table of tags, that differ."""

    def looked_up(self, x):
        return self.positions((x[..., 0] > 0).long())


class Queries(Places):
    """A set is asked by rows of a table, as many as there are queries."""

    table = 6

    def looked_up(self, x):
        return self.positions(torch.arange(6)).mean(0)


class ByTime(Places):
    """The order is told by what goes from place to place, and all texts are of one language."""

    def __init__(self):
        super().__init__()
        self.language, self.rnn = nn.Embedding(32, 16), nn.GRU(16, 16, batch_first=True)

    def looked_up(self, x):
        return self.language(torch.full(x.shape[:2], 3))

    def mixed(self, h):
        return self.rnn(h)[0][:, -1]


class Answering(nn.Module):
    """Answers with outputs, and a loss that has no dimension."""

    def __init__(self, width):
        super().__init__()
        self.positions, self.leave = nn.Embedding(WIDTH, width), nn.Linear(width, 4)

    def forward(self, x, y):
        logits = self.leave(torch.tanh(x + self.positions(torch.arange(x.shape[1]))).mean(1))
        return logits, F.cross_entropy(logits, y)


class WithItsLoss(PositionsInVain):
    def __init__(self):
        super().__init__()
        self.net = Answering(1)
        del self.enter, self.positions

    def training_step(self, batch, batch_idx):
        return self.net(*batch)[1]

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.net(*batch)[1])


def test_a_network_that_answers_with_its_loss_is_judged(fit):
    check = InputIndependenceCheck()
    fit(WithItsLoss(), [check], logger=False, max_epochs=2)
    assert [f.status for f in check.findings] == [Status.PASSED], check.findings


class NothingKnown(Places):
    """The output layer begins with zeros, and has not moved."""

    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.net[2].weight)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Computed(PositionsInVain):
    """Waves of the place, as in the first transformer."""

    turns = 1 / WIDTH

    def forward(self, x):
        angle = 2 * math.pi * self.turns * torch.arange(x.shape[1])[:, None] * torch.arange(1, 9)
        places = torch.cat([angle.sin(), angle.cos()], 1)
        return self.net(torch.tanh(self.enter(x) + places).mean(1))


class AddedAsZeros(Computed):
    """As learnt positions begin."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1, WIDTH, 16), requires_grad=False)

    def forward(self, x):
        return self.net(torch.tanh(self.enter(x) + self.table).mean(1))


class AskedAsMany(Computed):
    """A set is asked as many questions as it has members, each with its own place."""

    def __init__(self):
        super().__init__()
        self.questions = nn.Parameter(torch.randn(WIDTH, 16))

    def forward(self, x):
        h = self.enter(x)
        asked = h.mean(1, keepdim=True) + self.questions
        return self.net(torch.tanh(asked @ h.transpose(1, 2) @ h).amax(1))


class Conditioned(PositionsInVain):
    """A set, to all members of which one row of a table is added, that says what it is about."""

    rows = 64

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(self.rows, 16))

    def forward(self, x):
        return self.net(torch.tanh(self.enter(x) + self.row(x)).mean(1))

    def row(self, x):
        return self.table[5]


class OfTheTime(Conditioned):
    """How far a diffusion has come, one time for the batch."""

    def row(self, x):
        return self.table[int(torch.randint(self.rows, ()))]


class InRounds(Conditioned):
    """Refined in as many rounds as there are members."""

    def forward(self, x):
        h = self.enter(x)
        for turn in range(WIDTH + 1):
            h = torch.tanh(h + self.table[turn])
        return self.net(h.mean(1))


class ABias(Conditioned):
    rows = 1

    def row(self, x):
        return self.table[0]


class OfAFewLevels(Conditioned):
    """A table with fewer rows than there are places."""

    rows = 4

    def row(self, x):
        return self.table[3].expand(len(x), 1, 16)


@pytest.mark.parametrize(
    "program",
    [
        *(Places, OfOneKind, OfManyKinds, Queries, ByTime, NothingKnown, Computed, AddedAsZeros, AskedAsMany),
        *(Conditioned, OfTheTime, InRounds, ABias, OfAFewLevels),
    ],
)
def test_what_is_looked_up_for_places_is_as_it_should_be(fit, program):
    check = InputIndependenceCheck()
    fit(program(), [check], logger=False, max_epochs=2)
    assert PositionsInVain.code not in {f.code for f in check.findings}


class Dropped(Places):
    """What is looked up is not used."""

    def looked_up(self, x):
        super().looked_up(x)
        return 0


class OfTheExample(Places):
    """The dimension of examples is taken for that of places."""

    table = 64

    def looked_up(self, x):
        return self.positions(torch.arange(len(x)))[:, None]


class WholeTurns(Computed):
    """The sine of whole turns is always 0."""

    turns = 1


class OnceForAll(Computed):
    """A table of which nothing but the first row was ever written."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 1, 16).repeat(1, WIDTH, 1), requires_grad=False)

    def forward(self, x):
        return self.net(torch.tanh(self.enter(x) + self.table).mean(1))


class AtOnePlace(Conditioned):
    """An index where a slice was due."""

    def row(self, x):
        return self.table[x.shape[1]]


class AtOnePlaceOfABuffer(Conditioned):
    def __init__(self):
        super().__init__()
        self.register_buffer("places", torch.randn(1, self.rows, 16))

    def row(self, x):
        return self.places[:, x.shape[1] - 1].expand(len(x), WIDTH, 16)


class RowsOfExamples(Conditioned):
    """A table for places in the first dimension, where examples are."""

    rows = 200

    def row(self, x):
        return self.table[:, None][: len(x)]


class PlacesFirst(AtOnePlace):
    def forward(self, x):
        h = self.enter(x).transpose(0, 1)
        return self.net(torch.tanh(h + self.table[h.shape[0]]).mean(0))


@pytest.mark.parametrize(
    "program", [WholeTurns, OnceForAll, AtOnePlace, AtOnePlaceOfABuffer, RowsOfExamples, PlacesFirst]
)
def test_positions_that_are_all_the_same(fit, program):
    check = InputIndependenceCheck()
    fit(program(), [check], logger=False, max_epochs=2)
    alarms = [f for f in check.findings if f.is_alarm]
    assert [(f.status, f.code) for f in alarms] == [(Status.WARNING, PositionsInVain.code)]
    assert alarms[0].subject.startswith("test_input_independence_check.py:")


class NumberedTokens(Padded):
    """Positions of what is no padding are counted from 1, those of padding are 0."""

    def __init__(self):
        super().__init__()
        self.numbers = nn.Embedding(32, 32)
        self.places = None

    def numbered(self, tokens):
        return tokens != 0

    def forward(self, tokens):
        mask = self.numbered(tokens).long()
        h = self.net(tokens) + self.numbers(mask.cumsum(1) * mask)
        there = (tokens != 0)[..., None]
        return self.head((self.mix(h, src_key_padding_mask=~there[..., 0]) * there).sum(1) / there.sum(1))


class NumberedPadding(NumberedTokens):
    def numbered(self, tokens):
        return tokens == 0


def test_positions_that_count_the_padding(fit):
    for program, expected in ((NumberedTokens, []), (NumberedPadding, [(Status.WARNING, "numbers")])):
        check = InputIndependenceCheck()
        fit(program(), [check], logger=False, max_epochs=2)
        assert [(f.status, f.subject) for f in check.findings if f.code == PositionsInVain.code] == expected


@pytest.mark.parametrize("program", [PositionsInVain, Dropped, OfTheExample])
def test_positions_that_have_no_effect(fit, program):
    check = InputIndependenceCheck()
    fit(program(), [check], logger=False, max_epochs=2)
    alarms = [f for f in check.findings if f.is_alarm]
    assert [(f.status, f.code, f.subject) for f in alarms] == [(Status.WARNING, PositionsInVain.code, "positions")]
