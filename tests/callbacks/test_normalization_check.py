"""What enters a network: legitimate inputs of odd scales first, then the mistakes."""

import types

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe import NormalizationCheck, Status
from lightning_recipe.callbacks._factor import times

RNG = torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def _the_same_numbers_in_any_order():
    RNG.manual_seed(0)


def images(n=64, channels=1, size=8):
    """Bytes, as floats, brighter where the label is 1."""
    y = torch.arange(n) % 2
    return (torch.rand(n, channels, size, size, generator=RNG) * (155 + 100 * y[:, None, None, None])).round(), y


def table(n=64):
    x = torch.randn(n, 6, generator=RNG)
    return x, (x[:, 0] > 0).long()


def sounds(n=64):
    """A hundredth of full scale."""
    return (torch.randn(n, 64, generator=RNG) * 300).short()


class Program(L.LightningModule):
    """A network on given data; what a subclass does to the batch is its own."""

    batch_size = 16

    def __init__(self, net, train, val=None):
        super().__init__()
        self.net, self.train_data, self.val_data = net, train, val or train

    def prepare(self, x):
        return x

    def loss(self, x, y):
        return F.cross_entropy(self.net(self.prepare(x)), y)

    def training_step(self, batch, batch_idx):
        return self.loss(*batch)

    def validation_step(self, batch, batch_idx):
        self.log("val", self.loss(*batch))

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=1e-6)

    def train_dataloader(self):
        return DataLoader(TensorDataset(*self.train_data), self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(TensorDataset(*self.val_data), self.batch_size)


def mlp(features, *first):
    return nn.Sequential(nn.Flatten(), *first, nn.Linear(features, 8), nn.ReLU(), nn.Linear(8, 2))


class Last(nn.Module):
    """The output of the last step."""

    def forward(self, states):
        return states[0][:, -1]


def recurrent():
    return nn.Sequential(nn.GRU(4, 8, batch_first=True), Last(), nn.Linear(8, 2))


def steps(scales):
    """Sequences of 12 steps, each of 4 features."""
    x = torch.randn(64, 12, 4, generator=RNG)
    return x * scales, (x[:, -1, 0] > 0).long()


def conv(*after, channels=1):
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), *after, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )


def pretrained(scale=1.0, *, frozen=True):
    """A convolution and a BatchNorm that has seen normalised images, or others."""
    net = conv(nn.BatchNorm2d(4))
    x = (images()[0] - 90) / 60 * scale
    net.train()
    for _ in range(50):
        net(x)
    net[:2].requires_grad_(not frozen)
    return net


def found(fit, module):
    check = NormalizationCheck()
    fit(module, [check], logger=False, max_epochs=1)
    assert not [f for f in check.findings if f.code.endswith("internal_error")], check.findings
    return check.findings


def codes(findings):
    return [f.code.partition("/")[2] for f in findings if f.is_alarm]


def normalised(data, mean=90.0, std=60.0):
    return (data[0] - mean) / std, data[1]


class Inside(Program):
    """The forward normalises."""

    def prepare(self, x):
        return x / 255 - 0.4


class Twice(Program):
    """What the data set has scaled is scaled once more, before it is normalised."""

    def prepare(self, x):
        return (x / 255 - 0.45) / 0.3


class Truly(Program):
    def prepare(self, x):
        return x / 255**2


class InLargeBatches(Program):
    batch_size = 64


class Quiet(Program):
    def prepare(self, x):
        return x.float() / 32768


class Ids(Program):
    """A table whose first column is an id, with an embedding of its own."""

    rows = 40

    def __init__(self, train):
        super().__init__(nn.Sequential(nn.Linear(5 + 4, 8), nn.ReLU(), nn.Linear(8, 2)), train)
        self.who = nn.Embedding(self.rows, 4)

    def ids(self, x):
        return x[:, 0].long()

    def prepare(self, x):
        return torch.cat([self.who(self.ids(x)), x[:, 1:]], 1)


class Yes(Ids):
    """Whether a share is 1, of two rows."""

    rows = 2


class Binned(Ids):
    """A share, in tenths."""

    def ids(self, x):
        return (10 * x[:, 0]).long()


def with_ids(change=lambda x: x):
    x, y = table()
    ids = torch.randint(40, (64, 1), generator=RNG).float()
    return torch.cat([change(ids), x[:, 1:]], 1), y


def scaled_ids(ids):
    return ids / 39


class EachByItself(Program):
    def prepare(self, x):
        x = x.flatten(1)
        return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)


class Augmented(Program):
    def prepare(self, x):
        return x * (1 + 0.3 * torch.rand(len(x), 1, 1, 1)) + 0.5 * torch.randn_like(x) if self.training else x


class Denoiser(Program):
    """Learns to take noise away that is stronger than the images, and is asked without."""

    def prepare(self, x):
        return x + torch.randn_like(x) if self.training else x


class OfManyNoises(Program):
    """Noise from a hundredth to twenty times the data in training, of one strength in validation."""

    def prepare(self, x):
        return x + (torch.exp(6 * torch.rand(len(x), 1) - 3) if self.training else 0.05) * torch.randn_like(x)


class Counts(Program):
    def prepare(self, x):
        return x.log1p()


class Tokens(Program):
    def loss(self, x, y):
        return F.cross_entropy(self.net[1](self.net[0](x).mean(1)), y)


class Unconditional(Program):
    """Learns one distribution: what enters is the same for all, and nothing tells the examples apart."""

    def loss(self, x, y):
        return self.net(torch.ones(len(x), 4)).square().mean()


def one_hot(n=64):
    y = torch.arange(n) % 2
    return torch.cat([F.one_hot(torch.arange(n) % 20, 20).float() * 500, torch.randn(n, 4, generator=RNG)], 1), y


def dark(n=64):
    """Mostly empty, normalised as other images are."""
    x, y = images(n)
    return (x * (torch.rand(x.shape, generator=RNG) < 0.05) - 90) / 60, y


def sunsets(n=64):
    """Red more than green, and green more than blue, in the range from 0 to 1."""
    y = torch.arange(n) % 2
    hue = torch.tensor([0.8, 0.5, 0.3])[:, None, None] + 0.05 * torch.randn(n, 3, 1, 1, generator=RNG)
    light = 0.5 + 0.5 * torch.rand(n, 1, 1, 1, generator=RNG)
    return (hue * light * torch.rand(n, 3, 8, 8, generator=RNG) ** (1 + y[:, None, None, None])).clamp(0, 1), y


def thermal(n=64):
    """Counts around 7,600 divided by the largest of 14 bits, with a few hot spots."""
    x, y = images(n)
    hot = (torch.rand(x.shape, generator=RNG) < 0.01) * 2000
    return (7300 + 3 * x + hot) / 16383, y


def as_published(images):
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images - mean[:, None, None]) / std[:, None, None]


def seen(change, read=lambda images: images):
    """Sunsets in training, and in validation others that were read in another way."""
    (x, y), (val, val_y) = sunsets(), sunsets()
    return Program(conv(channels=3), (read(x), y), (read(change(val)), val_y))


def knows_sunsets(change=lambda x: x):
    """A network that was trained on sunsets, given others that were read in another way."""
    net = conv(nn.BatchNorm2d(4), channels=3)
    for _ in range(50):
        net(as_published(sunsets()[0]))
    net[:2].requires_grad_(False)  # noqa: FBT003 - that of PyTorch
    x, y = sunsets()
    return Program(net, (as_published(change(x)), y))


def knows_one_channel():
    """Of which a factor and an offset make anything what it knows."""
    net = nn.Sequential(nn.BatchNorm2d(1), *conv())
    for _ in range(50):
        net(normalised(images())[0])
    return Program(net, normalised(images(), std=600.0))


class AllHues(Program):
    """Augmented in training, with channels in any order."""

    def prepare(self, x):
        return torch.stack([image[torch.randperm(3)] for image in x]) if self.training else x


class Padded(Program):
    """Short histories are filled up with zeros, and normalised by the few numbers that are there, in training only."""

    def prepare(self, x):
        if not self.training:
            return x
        short = torch.arange(len(x)) % 8 == 0
        return torch.where(short[:, None], torch.full_like(x, -2000.0), x)


def spectra(n=64):
    """Standardised decibels, in six channels of 20 frames."""
    return torch.randn(n, 6, 20, generator=RNG), torch.arange(n) % 2


def conv1d():
    return nn.Sequential(nn.Conv1d(6, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2))


def shops(n=64):
    x, y = table(n)
    return x.exp() / 2 - 1, y


def events(n=64):
    x, y = table(n)
    return torch.where(torch.rand(x.shape, generator=RNG) < 0.05, 60 * x, x), y


def counted(low, high):
    x, y = table()
    rows = torch.linspace(low, high, len(x))[torch.randperm(len(x), generator=RNG)]
    return torch.cat([x[:, :5], (rows[:, None] - 1000) / 580], 1), y


def years(first, n):
    x, y = table()
    return torch.cat([x[:, :5], first + (torch.arange(len(x)) % n)[:, None] - 2017.0], 1), y


def silent():
    """Short recordings, filled up."""
    x, y = spectra()
    return torch.where(torch.arange(20) < 8, x, torch.tensor(-5.0)), y


class Gains(Program):
    def prepare(self, x):
        return x * (0.5 + torch.rand(len(x), 1, 1)) if self.training else x


class Named(Program):
    """Two inputs, in a dictionary, each with a layer of its own."""

    def __init__(self, first, second):
        super().__init__(None, table())
        self.first, self.second = nn.Linear(6, 4), nn.Conv1d(6, 4, 3)
        self.of_val = first, second

    def loss(self, x, y):
        batch = {"table": x, "spectrum": x[..., None] * torch.ones(20) + torch.linspace(-1, 1, 20)}
        if not self.training:
            batch = {"table": self.of_val[0](batch["table"]), "spectrum": self.of_val[1](batch["spectrum"])}
        return F.cross_entropy(self.first(batch["table"]) + self.second(batch["spectrum"]).mean(2), y)


def column(change, i=3):
    """Of a table in validation, one that is not standardised."""
    x, y = table()
    return torch.cat([x[:, :i], change(x[:, i : i + 1]), x[:, i + 1 :]], 1), y


OF_FIVE = torch.tensor([1.0, 1, 1, 1, 1, 0])
HEALTHY = {
    "extremes of all data": lambda: ExtremesOfAll(mlp(6), table(256)),
    "answers from 1 to 5": lambda: RanksOfFew(mlp(6), table(256)),
    "two inputs": lambda: Named(lambda x: x * 1.2, lambda x: x + 0.5),
    "normalised images": lambda: Program(conv(), normalised(images())),
    "normalised inside": lambda: Inside(conv(), images()),
    "a BatchNorm first": lambda: Program(nn.Sequential(nn.BatchNorm2d(1), conv()), images()),
    "a BatchNorm second": lambda: Program(conv(nn.BatchNorm2d(4)), images()),
    "a BatchNorm first, without parameters": lambda: Program(
        mlp(6, nn.BatchNorm1d(6, affine=False)), (table()[0] * torch.logspace(-3, 3, 6), table()[1])
    ),
    "a LayerNorm first": lambda: Program(mlp(64, nn.LayerNorm(64)), images()),
    "each example by itself": lambda: EachByItself(mlp(64), images()),
    "augmented in training": lambda: Augmented(conv(), normalised(images())),
    "freed of noise": lambda: Denoiser(conv(), (images()[0] / 255, images()[1])),
    "freed of much noise": lambda: OfManyNoises(mlp(6), (table()[0] / 10, table()[1])),
    "between 0 and 1": lambda: Program(conv(), (images()[0] / 255, images()[1])),
    "ids in a table": lambda: Ids(with_ids()),
    "a share that is cut to yes or no": lambda: Yes(with_ids(scaled_ids)),
    "a share in tenths": lambda: Binned(with_ids(scaled_ids)),
    "large numbers before a norm": lambda: Program(mlp(64, nn.LayerNorm(64)), (sounds().float() * 20, images()[1])),
    "under-exposed images": lambda: Program(conv(), (images()[0] / 255 / 20, images()[1])),
    "quiet sounds, as integers": lambda: Quiet(mlp(64), (sounds(), images()[1])),
    "a feature that is always 1": lambda: Program(mlp(6), (table()[0] * OF_FIVE + 1 - OF_FIVE, table()[1])),
    "bright images": lambda: Program(conv(), ((images()[0] / 255 + 1) / 2, images()[1])),
    "binary images": lambda: Program(conv(), ((images()[0] > 128).float(), images()[1])),
    "images of little contrast in validation": lambda: Program(
        conv(), normalised(bright(), 0.62, 0.11), normalised((bright()[0] / 4 + 0.5, images()[1]), 0.62, 0.11)
    ),
    "binary images, normalised": lambda: Program(conv(), normalised(two_shades(0.3), 0.3, 0.46)),
    "binary images, normalised as grey ones": lambda: Program(conv(), normalised(two_shades(0.25), 0.3, 0.38)),
    "binary images, -1 and 1": lambda: Program(conv(), normalised(two_shades(0.1), 0.5, 0.5)),
    "counts with a logarithm": lambda: Counts(mlp(64), images()),
    "counts": lambda: Program(mlp(6), (torch.poisson(torch.full((64, 6), 20.0), generator=RNG), table()[1])),
    "one-hot and sparse": lambda: Program(mlp(24), one_hot()),
    "tokens": lambda: Tokens(
        nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)), (torch.randint(9, (64, 5), generator=RNG), table()[1])
    ),
    "pretrained, normalised": lambda: Program(pretrained(), normalised(images())),
    "pretrained, dark images": lambda: Program(pretrained(), dark()),
    "pretrained on twice the contrast": lambda: Program(pretrained(2.0), normalised(images())),
    "a small table": lambda: Program(mlp(6), table()),
    "columns that differ by ten": lambda: Program(mlp(6), (table()[0] * torch.tensor([1, 10, 1, 1, 1, 1]), table()[1])),
    "a tiny column": lambda: Program(mlp(6), (table()[0] * torch.tensor([1, 1e-5, 1, 1, 1, 1]), table()[1])),
    "unconditional": lambda: Unconditional(mlp(4), (torch.zeros(64, 1), torch.zeros(64))),
    "colours": lambda: seen(lambda x: x, as_published),
    "colours of another light": lambda: seen(lambda x: x * torch.tensor([0.5, 0.9, 1.2])[:, None, None]),
    "colours of the other kind": lambda: seen(lambda x: 1 - x, as_published),
    "colours without a colour": lambda: seen(lambda x: x[:, :1].expand(-1, 3, -1, -1).clone()),
    "another channel moved": lambda: seen(lambda x: x[:, [0, 2, 1]]),
    "one channel, pretrained": knows_one_channel,
    "colours as a network knows them": knows_sunsets,
    "colours that it does not know": lambda: knows_sunsets(lambda x: 0.7 * x.flip(1) ** 0.7),
    "colours that it knows by their negative": lambda: knows_sunsets(lambda x: 1 - x),
    "shades of grey, to one that knows colours": lambda: knows_sunsets(lambda x: x.mean(1, keepdim=True) + 0 * x),
    "all hues in training": lambda: AllHues(conv(channels=3), sunsets(), sunsets()),
    "histories filled up in training": lambda: Padded(mlp(6), table()),
    "a trend, split in time": lambda: Program(mlp(6), table(), (table()[0].abs() / 4 + 0.8, table()[1])),
    "the first hours of a later year": lambda: Program(conv1d(), spectra(), (spectra()[0] / 8 + 4, table()[1])),
    "a shop that sells ten times as much": lambda: Program(mlp(6), shops(), (shops()[0] * 6 + 1, table()[1])),
    "rare events of large size": lambda: Program(mlp(6), table(), events()),
    "a column of counters": lambda: Program(mlp(6), counted(0, 2000), counted(2000, 2064)),
    "years": lambda: Program(mlp(6), years(2015, 5), years(2020, 1)),
    "another gain in training": lambda: Gains(conv1d(), spectra(), (spectra()[0] * 1.6, table()[1])),
    "padded with silence": lambda: Program(conv1d(), spectra(), silent()),
    "another season in validation": lambda: Program(mlp(6), table(), (table()[0] * 1.5 + 1, table()[1])),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_says_nothing_against(fit, name):
    findings = found(fit, HEALTHY[name]())
    assert not codes(findings), findings
    assert findings[0].status in {Status.PASSED, Status.SKIPPED}


def of_feature(column, factor, offset):
    x, y = table()
    x[:, column] = x[:, column] * factor + offset
    return x, y


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (lambda: Program(mlp(6), (table()[0] * 8 + 290, table()[1])), "all numbers that enter net.1"),  # kelvin
        (lambda: Program(mlp(6), (table()[0] * 250 + 200, table()[1])), "drawn for a standard deviation of about 1"),
        (lambda: Program(mlp(6), of_feature(2, 5, 2010)), "all numbers of feature 2 that enter net.1"),  # years
        (lambda: Program(conv(), (images()[0] / 255 / 8 - 1, images()[1])), "lie between -1 and"),
        (lambda: Program(conv(), thermal()), "26 times as large as what tells them apart"),
    ],
)
def test_a_narrow_band_far_from_zero_is_advice(fit, program, said):
    (finding,) = found(fit, program())
    code = "unscaled" if "drawn for" in said else "far_off"
    assert (finding.status, finding.code) == (Status.ADVICE, f"NormalizationCheck/{code}")
    assert said in finding.message


def test_shades_that_were_cut_before_they_were_normalised_are_advice(fit):
    (finding,) = found(fit, Program(conv(), normalised(two_shades(0.06), 0.3, 0.38)))
    assert (finding.status, finding.code) == (Status.ADVICE, "NormalizationCheck/shades_cut_off")
    assert finding.evidence == pytest.approx({"mean": 0.3, "std": 0.38, "share": 0.06}, rel=0.2)


class Decoder(Program):
    """Is given zeros first, and then what it has said."""

    def __init__(self):
        super().__init__(nn.Linear(3, 3), images())

    def loss(self, x, y):
        said = torch.zeros(len(x), 3)
        for row in x.flatten(1)[:, :4].unbind(1):
            said = self.net(said).tanh() + row[:, None] / 255
        return F.cross_entropy(said, y)


def test_a_decoder_begins_with_zeros(fit):
    assert not codes(found(fit, Decoder()))


class BatchStatistics(Program):
    def prepare(self, x):
        return (x - x.mean()) / x.std()


class BatchStatisticsOfColumns(Program):
    def prepare(self, x):
        return (x - x.mean(0)) / x.std(0)


class ExtremesOfTheBatch(Program):
    batch_size = 64

    def prepare(self, x):
        return (x - x.amin(0)) / (x.amax(0) - x.amin(0))


class ExtremesOfAll(ExtremesOfTheBatch):
    def prepare(self, x):
        low, high = (end(self.train_data[0], 0) for end in (torch.amin, torch.amax))
        return (x - low) / (high - low)


class RanksOfFew(ExtremesOfTheBatch):
    """Answers from 1 to 5, of which each batch has both ends."""

    def prepare(self, x):
        return (2 * x).round().clamp(-2, 2) / 2


class Truncated(Program):
    """Bytes are divided as integers."""

    def prepare(self, x):
        return (x.byte() // 255).float()


class OnlyInTraining(Program):
    def prepare(self, x):
        return (x - 90) / 60 if self.training else x / 255


class OnlyInTrainingWithNoise(Program):
    """Some noise explains no other scale."""

    def prepare(self, x):
        return (x / 255 - 0.5) / 0.25 + 0.3 * torch.randn_like(x) if self.training else x / 255


class Bytes(Program):
    """Another name for the batch, and uint8."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        batch = {"pixels": x.byte(), "label": y}
        return F.cross_entropy(self.net(batch["pixels"].float()), batch["label"])


class ByHand(Program):
    """The loss, and the optimisation."""

    def __init__(self, *args):
        super().__init__(*args)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        x, y = batch
        p = self.net(x).softmax(1)
        loss = -(p[torch.arange(len(y)), y] + 1e-6).log().mean()
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


def income():
    x, y = table()
    return x * torch.tensor([1, 1, 40000.0, 1, 1, 1]), y


def bright():
    """From 0 to 1, none of them dark."""
    return (0.62 + 0.11 * torch.randn(64, 1, 8, 8, generator=RNG)).clamp(0, 1), images()[1]


def two_shades(share):
    """Of which the brighter one takes this share."""
    x, y = images()
    return (x > x.quantile(1 - share)).float(), y


def dim():
    """All but the brightest pixels are lost in a division of integers, and these are few."""
    x, y = images()
    return x.clamp(max=254), y


class WithoutGradient(Program):
    """What enters first is not seen: it is called without gradients."""

    def loss(self, x, y):
        with torch.no_grad():
            x = self.net[:-1](x / 255**2)
        return F.cross_entropy(self.net[-1](x), y)


class Learns(Program):
    """Tells two patterns in the logarithms of 20 bands apart."""

    batch_size = 32

    def __init__(self, net, change=lambda x: x, n=320):
        super().__init__(net, bands(n), (change(bands(64)[0]), bands(64)[1]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def bands(n):
    y = torch.arange(n) % 2
    pattern = torch.linspace(-1, 1, 20).mul(3).sin() * (2 * y[:, None] - 1)
    return pattern + 1.5 * torch.randn(n, 20, generator=RNG) - 1, y


class Dropped(Learns):
    def prepare(self, x):
        return F.dropout(x, 0.4, training=self.training)


class AnyGain(Learns):
    def prepare(self, x):
        return x * torch.rand(len(x), 1).mul(1.5).add(0.25) if self.training else x


class Mixed(Learns):
    def loss(self, x, y):
        if not self.training:
            return super().loss(x, y)
        share, other = float(torch.rand(())), torch.randperm(len(x))
        out = self.net(share * x + (1 - share) * x[other])
        return share * F.cross_entropy(out, y) + (1 - share) * F.cross_entropy(out, y[other])


class Reversible(Learns):
    """Each example is standardised, and its own scale may be put back."""

    def prepare(self, x):
        return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)


class LossByHand(Learns):
    def loss(self, x, y):
        return -self.net(x).softmax(1)[torch.arange(len(y)), y].clamp(min=1e-6).log().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(*batch))


def learnt(fit, module):
    check = NormalizationCheck()
    fit(module, [check], logger=False, max_epochs=8)
    assert not [f for f in check.findings if f.code.endswith("internal_error")], check.findings
    return check.findings


LEARNT = {
    "the same": lambda: Learns(mlp(20)),
    "dropped in training": lambda: Dropped(mlp(20)),
    "any gain in training": lambda: AnyGain(mlp(20), lambda x: x * 1.6),
    "mixed in training": lambda: Mixed(mlp(20)),
    "reversible": lambda: Reversible(mlp(20), lambda x: x * 0.434),
    "a norm first": lambda: Learns(mlp(20, nn.LayerNorm(20)), lambda x: x * 0.434),
    "quieter": lambda: Learns(mlp(20), lambda x: x - 2),
    "noisier": lambda: Learns(mlp(20), lambda x: x + 2 * torch.randn(x.shape)),
    "around 0": lambda: Learns(mlp(20), lambda x: (x + 1) * 0.434 - 1),
    "of one class": lambda: Learns(mlp(20), lambda x: x[::2].repeat_interleave(2, 0)),
    "a smaller loss": lambda: Learns(mlp(20), lambda x: x * 3),
    "nothing learnt": lambda: Program(mlp(20), bands(320), (bands(64)[0] * 0.434, bands(64)[1])),
}


@pytest.mark.parametrize("name", LEARNT)
def test_says_nothing_against_what_was_learnt(fit, name):
    findings = learnt(fit, LEARNT[name]())
    assert not codes(findings), findings


def test_dark_images_have_no_factor():
    x, _ = normalised(images(320))
    darker, _ = normalised((images(64)[0] / 2, None))
    assert times(x, darker) == 1
    assert times(images(64)[0], images(64)[0] / 2) == 1


def test_few_examples_have_no_factor():
    x, _ = bands(15)
    assert times(x, x / 2) == 1
    assert times(bands(64)[0], bands(64)[0] / 2) == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("module", [Learns, LossByHand])
def test_logarithms_to_another_base(fit, module):
    (finding,) = learnt(fit, module(mlp(20), lambda x: x * 0.434))
    assert (finding.status, finding.code) == (Status.WARNING, "NormalizationCheck/validation_differs")
    assert finding.evidence["ratio"] == pytest.approx(0.434, rel=0.1)
    assert "log10 and log" in finding.message


DISEASED = {
    "raw bytes, convolution": (lambda: Program(conv(), images()), "raw_bytes"),
    "raw bytes, MLP": (lambda: Program(mlp(64), images()), "raw_bytes"),
    "raw bytes, three channels": (lambda: Bytes(conv(channels=3), images(channels=3)), "raw_bytes"),
    "raw bytes, by hand": (lambda: ByHand(mlp(64), images()), "raw_bytes"),
    "pretrained, a tenth as large": (
        lambda: Program(pretrained(), ((images()[0] - 90) / 600 - 0.4, images()[1])),
        "unlike_pretraining",
    ),
    "pretrained, raw bytes": (lambda: Program(pretrained(), images()), "unlike_pretraining"),
    "pretrained, 0 to 1": (
        lambda: Program(pretrained(), (images()[0] / 2550 + 0.4, images()[1])),
        "unlike_pretraining",
    ),
    "pretrained, scaled twice, in no_grad": (lambda: WithoutGradient(pretrained(), images()), "unlike_pretraining"),
    "pretrained, fine-tuned": (lambda: Program(pretrained(frozen=False), images()), "unlike_pretraining"),
    "ids that were scaled": (lambda: Ids(with_ids(scaled_ids)), "ids_cut_off"),
    "samples of 16 bits": (lambda: Program(mlp(64), (sounds().float() * 20, images()[1])), "unscaled"),
    "pressures in steps": (lambda: Program(recurrent(), steps(torch.full((4,), 3e4))), "unscaled"),
    "one sensor in steps": (lambda: Program(recurrent(), steps(torch.tensor([1, 1e-2, 1, 4e3]))), "scales_differ"),
    "prices in all columns": (lambda: ByHand(mlp(6), (table()[0] * 3000 + 9000, table()[1])), "unscaled"),
    "divided twice, then normalised": (lambda: Twice(conv(), (images()[0] / 255, images()[1])), "scaled_twice"),
    "divided twice, then normalised, MLP": (lambda: Twice(mlp(64), (images()[0] / 255, images()[1])), "scaled_twice"),
    "divided twice in the data set": (lambda: Program(conv(), (images()[0] / 255**2, images()[1])), "scaled_twice"),
    "divided twice, of bytes": (lambda: Truly(mlp(64), images()), "scaled_twice"),
    "a column of amounts": (lambda: Program(mlp(6), income()), "scales_differ"),
    "training only, with noise": (lambda: OnlyInTrainingWithNoise(conv(), images()), "validation_differs"),
    "training only": (lambda: OnlyInTraining(conv(), images()), "validation_differs"),
    "another order of channels": (lambda: seen(lambda x: x.flip(1)), "channel_order"),
    "another order than a network knows": (lambda: knows_sunsets(lambda x: x.flip(1)), "channel_order"),
    "another order, normalised": (lambda: seen(lambda x: x.flip(1), as_published), "channel_order"),
    "another scale in validation": (
        lambda: Program(mlp(6), table(), (table()[0] * 100, table()[1])),
        "validation_differs",
    ),
    "bright images, normalised in training only": (
        lambda: Program(conv(), normalised(bright(), 0.62, 0.11), bright()),
        "validation_differs",
    ),
    "decibels in validation": (
        lambda: Program(conv1d(), spectra(), (spectra()[0] * 8 - 38, table()[1])),
        "validation_differs",
    ),
    "decibels in training": (
        lambda: Program(conv1d(), (spectra()[0] * 8 - 38, table()[1]), spectra()),
        "validation_differs",
    ),
    "one image channel, not between 0 and 1": (
        lambda: Program(conv(), normalised(images()), normalised(images(), -300.0, 12.0)),
        "validation_differs",
    ),
    "ages in validation": (lambda: Program(mlp(6), table(), column(lambda x: 12 * x + 40)), "validation_differs"),
    "incomes in validation": (
        lambda: Program(mlp(6), table(), column(lambda x: 3e4 * x.exp())),
        "validation_differs",
    ),
    "temperatures in training": (
        lambda: InLargeBatches(mlp(6), column(lambda x: 20 * x + 9), table()),
        "validation_differs",
    ),
    "one of six channels": (
        lambda: Program(
            conv1d(),
            spectra(),
            (spectra()[0] * torch.tensor([1, 1, 20, 1, 1, 1])[:, None], table()[1]),
        ),
        "validation_differs",
    ),
    "the first of two inputs": (lambda: Named(lambda x: 5 * x + 30, lambda x: x), "validation_differs"),
    "the second of two inputs": (lambda: Named(lambda x: x, lambda x: 5 * x + 30), "validation_differs"),
    "divided twice in validation": (
        lambda: Program(conv(), (images()[0] / 255, images()[1]), (images()[0] / 255**2, images()[1])),
        "validation_differs",
    ),
    "statistics of the batch": (lambda: BatchStatistics(conv(), images()), "statistics_of_the_batch"),
    "statistics of its columns": (lambda: BatchStatisticsOfColumns(mlp(6), table()), "statistics_of_the_batch"),
    "extremes of its columns": (lambda: ExtremesOfTheBatch(mlp(6), table(256)), "statistics_of_the_batch"),
    "divided as integers": (lambda: Truncated(conv(), dim()), "all_alike"),
}


@pytest.mark.parametrize("name", DISEASED)
def test_finds(fit, name):
    module, code = DISEASED[name]
    assert codes(found(fit, module())) == [code]


class Timm(Program):
    """A network without norms that says what it was trained on."""

    def __init__(self, *, learnt=True, mean=(0.485, 0.456, 0.406), normalised=False):
        x, y = images(channels=3)
        super().__init__(nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(), nn.Linear(32, 2)), (x / 255, y))
        self.net.pretrained_cfg = {"mean": mean, "std": (0.229, 0.224, 0.225)}
        self.normalised = normalised
        if learnt:
            with torch.no_grad():
                self.net[0].weight.add_(torch.randn(8, 1, 1, 1) * torch.randn(1, 3, 4, 4))

    def prepare(self, x):
        return (x - 0.45) / 0.225 if self.normalised else x


def test_what_a_network_publishes(fit):
    (finding,) = found(fit, Timm())
    assert (finding.status, finding.code) == (Status.WARNING, "NormalizationCheck/unlike_pretraining")
    assert "0.485" in finding.fix
    for program in (Timm(learnt=False), Timm(mean=(0.0, 0.0, 0.0)), Timm(normalised=True)):
        assert [f.status for f in found(fit, program)] == [Status.PASSED]


def of(package, *layers, config=None):
    """A network of a package that need not be installed, whose first weights have learnt something."""
    net = type("Net", (nn.Sequential,), {"__module__": package})(*layers)
    net.config = config
    with torch.no_grad():
        net[0].weight.add_(torch.randn(8, 1, 1, 1) * torch.randn(1, 3, 4, 4))
    return net


def patches(head=2):
    return nn.Conv2d(3, 8, 4, 4), nn.Flatten(), nn.Linear(32, head)


def config_of(kind, name):
    return types.SimpleNamespace(model_type=kind, _name_or_path=name)


def loaded(kind, name):
    """By transformers; the head is the user's own."""
    first, *rest = patches()
    return nn.Sequential(of(f"transformers.models.{kind}.modeling", first, config=config_of(kind, name)), *rest)


def within(kind, outer):
    """A part of a larger network, which alone knows the name that it was loaded by."""
    first, *rest = patches()
    inner = of("transformers.models.clip.modeling", first, config=config_of(kind, ""))
    net = of("transformers.models.clip.modeling", nn.Conv2d(3, 8, 4, 4), config=config_of("clip", outer))
    net[0] = inner
    return nn.Sequential(net, *rest)


def learnt_all(net):
    with torch.no_grad():
        net[-1].weight.add_(0.05 * torch.randn(2, 32))
    return net


def sure(net):
    """With a BatchNorm that has seen what enters now."""
    net.insert(1, nn.BatchNorm2d(8))
    x = images(channels=3)[0] / 255
    for _ in range(50):
        net[:2](x)
    return net


UNNORMALISED = {
    "torchvision": (lambda: of("torchvision.models.vision_transformer", *patches()), "0.485"),
    "torchvision, all of it": (lambda: of("torchvision.models.vgg", *patches(1000)), "0.485"),
    "segmentation": (lambda: of("torchvision.models.segmentation.fcn", *patches()), "0.485"),
    "ViT": (lambda: loaded("vit", "google/vit-base-patch16-224"), "mean=(0.5, 0.5, 0.5)"),
    "BEiT": (lambda: loaded("beit", "microsoft/beit-base-patch16-224"), "mean=(0.5, 0.5, 0.5)"),
    "DINOv2": (lambda: loaded("dinov2", "facebook/dinov2-small"), "mean=(0.485, 0.456, 0.406)"),
    "CLIP": (lambda: within("clip_vision_model", "openai/clip-vit-base-patch32"), "std=(0.269, 0.261, 0.276)"),
}
NOTHING_KNOWN = {
    "nobody's": lambda: of("nets", *patches()),
    "a user's own of that name": lambda: of("torchvision_models", *patches()),
    "detection": lambda: of("torchvision.models.detection.ssd", *patches()),
    "trained before, head and all": lambda: learnt_all(of("torchvision.models.swin_transformer", *patches())),
    "BatchNorms that are used to it": lambda: sure(of("torchvision.models.resnet", *patches())),
    "a local path": lambda: loaded("vit", "/home/me/vit-base"),
    "a user's": lambda: loaded("vit", "me/vit-base"),
    "DINO, a vit": lambda: loaded("vit", "facebook/dino-vits16"),
    "never loaded": lambda: loaded("vit", ""),
    "no vision": lambda: loaded("bert", "google/bert"),
}


class Scaled(Program):
    """Photographs from 0 to 1."""

    def __init__(self, net, change=lambda x: x):
        x, y = images(channels=3)
        super().__init__(net, (change(x / 255), y))


@pytest.mark.parametrize("name", UNNORMALISED)
def test_what_is_known_of_a_network(fit, name):
    net, said = UNNORMALISED[name]
    (finding,) = found(fit, Scaled(net()))
    assert (finding.status, finding.code) == (Status.WARNING, "NormalizationCheck/unlike_pretraining")
    assert said in finding.fix
    assert [f.status for f in found(fit, Scaled(net(), as_published))] == [Status.PASSED]


@pytest.mark.parametrize("name", NOTHING_KNOWN)
def test_where_nothing_is_known_nothing_is_said(fit, name):
    assert [f.status for f in found(fit, Scaled(NOTHING_KNOWN[name]()))] == [Status.PASSED]


def test_a_network_that_was_just_drawn_expects_nothing(fit):
    net = type("ViT", (nn.Sequential,), {"__module__": "torchvision.models.vision_transformer"})(*patches())
    assert [f.status for f in found(fit, Scaled(net))] == [Status.PASSED]


def test_advises_on_targets_of_a_wild_scale(fit):
    class Prices(Program):
        def loss(self, x, y):
            return F.mse_loss(self.net(x)[:, 0], y)

    x, _ = table()
    findings = found(fit, Prices(mlp(6), (x, 3e4 * x[:, 0])))
    assert [(f.status, f.code) for f in findings] == [(Status.ADVICE, "NormalizationCheck/target_scale")]
    assert findings[0].evidence["std"] > 1e4


@pytest.mark.parametrize(("weight", "status"), [(1.0, Status.WARNING), (1e-8, Status.ADVICE)])
def test_targets_of_a_wild_scale_beside_another_loss(fit, weight, status):
    class TwoTasks(Program):
        def loss(self, x, y):
            out = self.net(x)[:, 0]
            return weight * F.mse_loss(out, y) + F.binary_cross_entropy_with_logits(out, (y > 0).float())

    x, _ = table()
    findings = found(fit, TwoTasks(mlp(6), (x, 3e4 * x[:, 0])))
    assert [(f.status, f.code) for f in findings] == [(status, "NormalizationCheck/target_scale")]
    assert ("binary_cross_entropy_with_logits" in findings[0].message) == (status is Status.WARNING)


class Prices(Program):
    """Large numbers; what they have to do with the input is drowned in noise."""

    def __init__(self, mean, lr):
        x, _ = table()
        y = mean + 3e4 * torch.randn(64, generator=torch.Generator().manual_seed(1))
        super().__init__(mlp(6), (x, y))
        self.lr = lr

    def loss(self, x, y):
        return F.mse_loss(self.net(x)[:, 0], y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.lr)


@pytest.mark.parametrize(("mean", "lr", "status"), [(0, 1e-3, "advice"), (3e5, 10.0, "advice"), (3e5, 1e-3, "warning")])
def test_prices_that_predictions_never_reach(fit, mean, lr, status):
    check = NormalizationCheck()
    fit(Prices(mean, lr), [check], logger=False, max_epochs=51)
    told = [finding for finding in check.findings if finding.code == "NormalizationCheck/target_scale"]
    assert [finding.status for finding in told] == [status]


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize(("scale", "told"), [(1e-5, ["target_scale"]), (1e-2, []), (0.0, [])])
def test_tiny_targets_are_an_alarm(fit, by_hand, scale, told):
    class Farads(Program):
        def loss(self, x, y):
            error = self.net(x)[:, 0] - y
            return (error**2).mean() if by_hand else F.mse_loss(self.net(x)[:, 0], y)

    x, _ = table()
    assert (
        codes(found(fit, Farads(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)), (x, scale * x[:, 0]))))
        == told
    )


def test_zeros_at_first_are_no_tiny_targets(fit):
    class FromZero(Program):
        def loss(self, x, y):
            return F.mse_loss(self.net(x)[:, 0], y)

    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    nn.init.zeros_(net[-1].weight), nn.init.zeros_(net[-1].bias)
    x, _ = table()
    assert codes(found(fit, FromZero(net, (x, 1e-5 * x[:, 0])))) == []


def test_a_run_that_goes_on_is_not_judged(fit, tmp_path):
    trainer = fit(Program(conv(), normalised(images())), logger=False, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    check = NormalizationCheck()
    settings = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    again = L.Trainer(callbacks=[check], max_epochs=2, default_root_dir=tmp_path, **settings)
    again.fit(Program(conv(), images()), ckpt_path=tmp_path / "last.ckpt", weights_only=False)
    assert check.findings[0].status is Status.SKIPPED


def test_no_copy_of_the_module_is_kept_for_validation(fit):
    class Looking(NormalizationCheck):
        def validation(self, run, step):
            assert {type(values) for values in self._train.values()} == {torch.Tensor}
            yield from super().validation(run, step)

    check = Looking()
    fit(Program(mlp(6), table()), [check], max_epochs=1, num_sanity_val_steps=0)
    assert [f.status for f in check.findings] == [Status.PASSED]


class Spoken(nn.Module):
    """Words, their places and their kind; the last is the same for all."""

    def __init__(self, *, places):
        super().__init__()
        self.word, self.place, self.kind = nn.Embedding(9, 8), nn.Embedding(12, 8), nn.Embedding(2, 8)
        self.speaker, self.leave = nn.Embedding(40, 8), nn.Linear(8, 2)
        self.places = places

    def forward(self, x):
        places = torch.arange(x.shape[1]) if self.places else torch.zeros_like(x)
        h = self.word(x) + self.place(places) + self.kind(torch.zeros_like(x))
        return self.leave((h + self.speaker(torch.zeros(len(x)).long())[:, None]).tanh().mean(1))


def words(n=64):
    return torch.randint(9, (n, 10), generator=RNG), torch.arange(n) % 2


def test_kinds_and_speakers_may_be_all_alike(fit):
    check = NormalizationCheck()
    fit(Program(Spoken(places=True), words()), [check], logger=False, max_steps=1)
    assert [f.status for f in check.findings] == [Status.PASSED]


class OfOneLanguage(nn.Module):
    """Of twelve languages, only the first one is in the data; places are known in one of several ways."""

    def __init__(self, way):
        super().__init__()
        self.word, self.language, self.leave = nn.Embedding(9, 8), nn.Embedding(12, 8), nn.Linear(8, 2)
        self.rnn, self.place = nn.GRU(8, 8, batch_first=True), nn.Embedding(10, 8)
        self.table, self.way = nn.Parameter(torch.randn(10, 8)), way
        self.register_buffer("waves", torch.randn(1, 10, 8))

    def forward(self, x):
        h, way = self.word(x), self.way
        if way == "learnt":
            h = h + self.place(torch.arange(10).expand_as(x))
        elif way != "recurrent":
            h = h * 8**0.5 + (self.table if way == "table" else self.waves)
        h = h + self.language(torch.zeros_like(x))
        return self.leave((self.rnn(h)[0] if way == "recurrent" else h).tanh().mean(1))


@pytest.mark.parametrize("way", ["learnt", "recurrent", "table", "waves"])
def test_one_language_for_all_tokens_whose_places_are_known(fit, way):
    assert codes(found(fit, Program(OfOneLanguage(way), words()))) == []


def test_one_place_for_all_tokens(fit):
    check = NormalizationCheck()
    fit(Program(Spoken(places=False), words()), [check], logger=False, max_steps=1)
    (finding,) = check.findings
    assert (finding.status, finding.code, finding.subject) == (
        Status.WARNING,
        "NormalizationCheck/all_alike",
        "net.place",
    )


# -- BatchNorms without running statistics


class OfTheBatch(Program):
    """Images that are told apart by their mean; all norms take the statistics of the batch."""

    def __init__(self, *after):
        x, y = images()
        super().__init__(nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), *after), (x / 255, y))

    def told_by_brightness(self):
        head = nn.Linear(64, 2)
        with torch.no_grad():
            head.weight.copy_(torch.tensor([[-0.2], [0.2]]))
        self.net.extend([nn.Flatten(), head])
        return self


class InTwoCalls(OfTheBatch):
    """Two views, each with its own statistics."""

    def loss(self, x, y):
        return super().loss(x, y) + super().loss(x.flip(3), y)


def of_single_examples():
    program = OfTheBatch().told_by_brightness()
    program.batch_size = 1
    return program


def of_columns():
    norm = nn.BatchNorm1d(6, track_running_stats=False)
    return Program(nn.Sequential(norm, nn.Linear(6, 2)), table())


@pytest.mark.parametrize(
    ("module", "status"),
    [
        (lambda: Program(conv(nn.BatchNorm2d(4)), normalised(images())), Status.PASSED),
        (lambda: Program(conv(nn.InstanceNorm2d(4)), normalised(images())), Status.PASSED),
        (of_single_examples, Status.PASSED),
        (lambda: InTwoCalls().told_by_brightness(), Status.PASSED),
        (lambda: Program(conv(nn.BatchNorm2d(4, track_running_stats=False)), normalised(images())), Status.ADVICE),
        (of_columns, Status.ADVICE),
    ],
    ids=["running statistics", "of each example", "one at a time", "two views", "little is lost", "columns"],
)
def test_norms_without_running_statistics_may_be_meant(fit, module, status):
    (finding,) = found(fit, module())
    assert finding.status is status
    assert finding.code.endswith("statistics_of_the_batch") == (status is Status.ADVICE)


def test_an_example_that_comes_alone_is_another(fit):
    (finding,) = found(fit, OfTheBatch().told_by_brightness())
    assert (finding.status, finding.code) == (Status.WARNING, "NormalizationCheck/statistics_of_the_batch")
    assert finding.subject == "net.0"
    assert finding.evidence["alone"] > 2 * finding.evidence["loss"]


class Codes(nn.Module):
    """Three codes of a contract, each with a table, beside numbers."""

    def __init__(self):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(9, 4) for _ in range(3))
        self.numbers, self.leave = nn.Linear(6, 4), nn.Linear(16, 2)

    def forward(self, x):
        codes, numbers = x[:, :3].long(), x[:, 3:]
        words = [table(codes[:, i]) for i, table in enumerate(self.tables)]
        return self.leave(torch.cat([*words, self.numbers(numbers)], 1))


@pytest.mark.parametrize(("known", "said"), [(3, []), (1, []), (0, ["one_id"])])
def test_codes_of_which_none_is_known(fit, known, said):
    codes = torch.randint(9, (64, 3), generator=RNG) * (torch.arange(3) < known)
    batch = torch.cat([codes.float(), torch.randn(64, 6, generator=RNG)], 1), torch.arange(64) % 2
    findings = found(fit, Program(Codes(), batch))
    assert [f.code.partition("/")[2] for f in findings if f.status is Status.ADVICE] == said
