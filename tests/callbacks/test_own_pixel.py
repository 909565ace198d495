"""CausalityCheck on images whose pixels are said one after the other."""

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe import CausalityCheck, Status

WIDTH, SIDE = 12, 10


class Masked(nn.Conv2d):
    """Sees the places before in raster order, and its own if it is of type B; of colours, those before its own."""

    def __init__(self, kind, enter, leave, size=3, colours=1):
        super().__init__(enter, leave, size, padding=size // 2)
        middle = size // 2
        mask = torch.ones_like(self.weight)
        mask[:, :, middle, middle + 1 :] = 0
        mask[:, :, middle + 1 :] = 0
        into, of = (torch.arange(n) * colours // n for n in (leave, enter))
        before, same = of[None] < into[:, None], of[None] == into[:, None]
        mask[:, :, middle, middle] = (before | (same if kind == "B" else torch.zeros_like(same))).float()
        self.register_buffer("mask", mask)

    def forward(self, x):
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


def pixelcnn(kind, enter=1, leave=1, colours=1):
    width = WIDTH * colours
    first = Masked(kind, enter, width, 5, colours)
    rest = [nn.BatchNorm2d(width), nn.ReLU(), Masked("B", width, width, 3, colours), nn.ReLU()]
    return nn.Sequential(first, *rest, Masked("B", width, leave, 1, colours))


class Program(L.LightningModule):
    """Says whether each pixel is black."""

    channels = 1

    def __init__(self, kind="A"):
        super().__init__()
        self.net = self.network(kind)

    def network(self, kind):
        return pixelcnn(kind)

    def forward(self, x):
        return self.net(2 * x - 1)

    def loss(self, x):
        return F.binary_cross_entropy_with_logits(self(x), x)

    def training_step(self, batch, batch_idx):
        return self.loss(batch[0])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-3)

    def data(self):
        rng = torch.Generator().manual_seed(0)
        x = F.avg_pool2d(torch.rand(32, self.channels, SIDE, SIDE, generator=rng), 3, 1, 1)
        return TensorDataset(self.pixels(x))

    def pixels(self, x):
        return (x > x.mean()).float()

    def train_dataloader(self):
        return DataLoader(self.data(), 16, shuffle=True)


def judged(fit, module):
    check = CausalityCheck()
    fit(module, [check], logger=False, max_steps=1, limit_val_batches=0)
    (finding,) = check.findings
    return finding


class DrawnYes(Program):
    """Whether a pixel is black is drawn in the step."""

    def loss(self, x):
        return super().loss(torch.bernoulli(x))

    def pixels(self, x):
        return x


class Levels(Program):
    """Each of 16 values of a pixel is a class."""

    def network(self, kind):
        return pixelcnn(kind, 1, 16)

    def loss(self, x):
        return F.cross_entropy(self(x / 15), x[:, 0])

    def pixels(self, x):
        return (16 * (x - x.min()) / (x.max() - x.min())).long().clamp(max=15)


class Codes(Levels):
    """Codes of a quantiser enter as one-hot vectors."""

    def network(self, kind):
        return pixelcnn(kind, 16, 16)

    def loss(self, x):
        return F.cross_entropy(self.net(F.one_hot(x, 16).movedim(-1, 1).float()), x)

    def pixels(self, x):
        return super().pixels(x)[:, 0]


class Mixture(Program):
    """A mixture of three densities, by hand."""

    def network(self, kind):
        return pixelcnn(kind, 1, 9)

    def loss(self, x):
        share, mean, log_std = self(x).chunk(3, 1)
        density = torch.distributions.Normal(mean, log_std.exp()).log_prob(x)
        return -(share.log_softmax(1) + density).logsumexp(1).mean()

    def pixels(self, x):
        return x


class Colours(Levels):
    """Red is said first, then green, which sees it, then blue."""

    channels = 3

    def network(self, kind):
        return pixelcnn(kind, 3, 3 * 16, colours=3)

    def loss(self, x):
        return F.cross_entropy(self(x / 15).unflatten(1, (3, 16)).movedim(2, 1), x)


class ColoursAtOnce(Colours):
    def network(self, kind):
        return pixelcnn(kind, 3, 3 * 16)


class ByColumns(Program):
    def forward(self, x):
        return super().forward(x.mT).mT


class FromTheEnd(Program):
    def forward(self, x):
        return super().forward(x.flip(2, 3)).flip(2, 3)


class Gated(nn.Module):
    """What is above, and what is to the left."""

    def __init__(self, kind):
        super().__init__()
        self.above = nn.Conv2d(1, WIDTH, (2, 5))
        self.left = nn.Conv2d(1, WIDTH, (1, 3))
        self.down, self.out = nn.Conv2d(WIDTH, WIDTH, 1), nn.Conv2d(WIDTH, 1, 1)
        self.hides = kind == "A"

    def forward(self, x):
        above = self.above(F.pad(x, (2, 2, 2, 0)))[:, :, :-1]
        left = self.left(F.pad(x, (3, 0, 0, 0)))[..., :-1] if self.hides else self.left(F.pad(x, (2, 0, 0, 0)))
        return self.out(torch.tanh(left + self.down(above)))


class GatedProgram(Program):
    def network(self, kind):
        return Gated(kind)


PROGRAMS = [*(Program, DrawnYes, Levels, Codes, Mixture, Colours, ColoursAtOnce, ByColumns, FromTheEnd, GatedProgram)]


# -- false alarms first


@pytest.mark.parametrize("program", PROGRAMS)
def test_pixels_that_are_said_from_those_before_pass(fit, program):
    finding = judged(fit, program("A"))
    assert finding.status is Status.PASSED, finding
    assert finding.evidence["outputs"] >= 16


class Autoencoder(Program):
    def network(self, kind):
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 8, 2, 2), nn.ReLU(), nn.Conv2d(8, 1, 3, 1, 1)
        )


class AsItIs(Program):
    """Sees the same pixel alone."""

    def network(self, kind):
        return nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Conv2d(8, 1, 1))


class Denoiser(Mixture):
    """Sees a noisy image as far as it has come, and takes the noise away."""

    def network(self, kind):
        return pixelcnn("B")

    def loss(self, x):
        return F.mse_loss(self(x + 0.1 * torch.randn_like(x)), x)


class Flipped(Denoiser):
    """Some yes are no."""

    def loss(self, x):
        x = (x > 0.5).float()
        flipped = torch.where(torch.rand_like(x) < 0.1, 1 - x, x)
        return F.binary_cross_entropy_with_logits(self(flipped), x)


class PairsOfNoise(Denoiser):
    """The data set gives both."""

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0]), batch[1])

    def data(self):
        (x,) = super().data().tensors
        return TensorDataset(x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)), x)


class Inpainting(Denoiser):
    def loss(self, x):
        hole = torch.ones_like(x).index_fill(3, torch.tensor([4, 5]), 0)
        return F.mse_loss(self(x * hole), x)


class Segments(Denoiser):
    """Says of each pixel whether it is bright, line by line as a scanner gives them."""

    def training_step(self, batch, batch_idx):
        return F.binary_cross_entropy_with_logits(self(batch[0]), batch[1])

    def data(self):
        (x,) = super().data().tensors
        return TensorDataset(x, (F.avg_pool2d(x, 3, 1, 1) > x.mean()).float())


class Flow(Denoiser):
    """What a pixel is scaled by depends on those before; it itself is part of what is put out."""

    def network(self, kind):
        return pixelcnn("A", 1, 2)

    def forward(self, x):
        mean, log_std = self.net(x).chunk(2, 1)
        return (x - mean) * torch.exp(-log_std), -log_std

    def loss(self, x):
        z, log_det = self(x)
        return (0.5 * z.square() - log_det).mean()


class InTime(Denoiser):
    """An autoencoder of series that never looks ahead, of each sensor by itself."""

    def network(self, kind):
        return Causal(1)

    def loss(self, x):
        return F.mse_loss(self(x), x)


class InBoth(InTime):
    """Likewise, of each two sensors."""

    def network(self, kind):
        return Causal(3)


class Causal(nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.rows = rows
        self.first, self.last = nn.Conv2d(1, 8, (rows, 3)), nn.Conv2d(8, 1, 1)

    def forward(self, x):
        return self.last(torch.relu(self.first(F.pad(x, (2, 0, self.rows - 1, 0)))))


class Shifted(Program):
    """What enters is one place behind, so that nothing needs to be hidden."""

    def network(self, kind):
        return pixelcnn("B")

    def forward(self, x):
        return self.net(F.pad(x, (1, 0))[..., :-1])


class Classifier(Program):
    def network(self, kind):
        return nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * SIDE**2, 2))

    def loss(self, x):
        return F.cross_entropy(self(x), (x.sum((1, 2, 3)) > 50).long())


class LargePrediction(InTime):
    """Each place says the next of its row, from what is above and before."""

    def network(self, kind):
        return pixelcnn("B")

    def loss(self, x):
        return F.mse_loss(self(x)[..., :-1], x[..., 1:])


@pytest.mark.parametrize(
    "program",
    [
        *(Autoencoder, AsItIs, Denoiser, Flipped, PairsOfNoise, Inpainting, Segments, Flow, InTime, InBoth, Shifted),
        *(Classifier, LargePrediction),
    ],
)
def test_other_tasks_are_not_accused(fit, program):
    finding = judged(fit, program())
    assert finding.status is (Status.PASSED if program is Shifted else Status.SKIPPED), finding
    assert "raises" not in finding.message
    assert "error" not in finding.message


# -- what is found


@pytest.mark.parametrize("program", PROGRAMS)
def test_pixels_that_see_themselves_fail(fit, program):
    finding = judged(fit, program("B"))
    assert (finding.status, finding.code) == (Status.FAILED, "CausalityCheck/input_is_target"), finding
    turned = program in {ByColumns, FromTheEnd}  # within the network, places are others
    assert finding.subject == ("" if turned else "net.left" if program is GatedProgram else "net.0")
