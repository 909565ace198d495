"""Integers that wrap around: legitimate uses, tricks that put right what wrapped, and marks first."""

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe import NormalizationCheck, Status

RNG = torch.Generator().manual_seed(0)
A, B = torch.randint(256, (2, 32, 3, 4, 4), generator=RNG, dtype=torch.uint8)
SOUND = torch.randint(-3000, 3000, (32, 3, 4, 4), generator=RNG, dtype=torch.int16)


class Program(L.LightningModule):
    """A network on two images; what is made of them before is given."""

    def __init__(self, change, b=B, loss=None):
        super().__init__()
        self.change, self.b, self.own = change, b, loss
        self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 2))
        self.ids = nn.Embedding(256, 4)
        self.net(self.enter(A[:2], b[:2]))

    def enter(self, a, b):
        x = self.change(a, b)
        return x if x.is_floating_point() else self.ids(x.long())

    def training_step(self, batch, batch_idx):
        a, b, y = batch
        out = self.net(self.enter(a, b))
        self.log("contrast", (a - b).float().mean())
        return F.cross_entropy(out, y) if self.own is None else self.own(out, a, b)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)

    def train_dataloader(self):
        return DataLoader(TensorDataset(A, self.b, torch.arange(32) % 2), 16)


def found(fit, module):
    check = NormalizationCheck()
    fit(module, [check], logger=False, max_steps=1)
    assert not any("internal error" in f.message for f in check.findings)
    return [(f.status, round(f.evidence["share"], 1)) for f in check.findings if f.code.endswith("/integers_wrap")]


def saturated(a, b):
    c = a - b
    c[a < b] = 0
    return c / 255


def saturated_sum(a, b):
    c = a + b
    c[c < a] = 255
    return c / 255


def painted(a, b):
    c = torch.zeros(len(a), 3, 4, 4)
    c[:, :3] = a - b
    return c / 255


def written_into(a, b):
    a = a.clone()
    a -= b
    return a / 255


def by_name(a, b):
    c = a - b
    torch.gather(input=a, dim=1, index=torch.zeros_like(b, dtype=torch.long))
    return c / 255


HEALTHY = {
    "converted before": lambda a, b: (a.float() - b.float()) / 255,
    "inverted": lambda a, b: (255 - a) / 255,
    "a wider type": lambda a, b: (a.short() - b) / 255,
    "masks": lambda a, b: (a // 2 * (b > 99).byte() + (1 - (b > 99).byte()) * 3) / 255,
    "the larger less the smaller": lambda a, b: torch.where(a > b, a - b, b - a) / 255,
    "the maximum less the minimum": lambda a, b: (torch.maximum(a, b) - torch.minimum(a, b)) / 255,
    "read as a signed number": lambda a, b: (a // 2 - b // 2).view(torch.int8) / 255,
    "cast to a signed number": lambda a, b: (a // 2 - b // 2).to(torch.int8) / 255,
    "there and back": lambda a, b: (a - b + b) / 255,
    "saturated": saturated,
    "a saturated sum": saturated_sum,
    "filled": lambda a, b: (a - b).masked_fill(a < b, 0) / 255,
    "bits": lambda a, b: ((a * 7 + b) & 1) / 1.0,
    "dropout of bits": lambda a, b: (a ^ b) / 255,
    "a range in one comparison": lambda a, b: (a - 20 < 50).float(),
    "hashed ids": lambda a, b: a * 31 + b * 7,
    "hashed ids, read in a table": lambda a, b: torch.linspace(-1, 1, 256)[(a * 31 + b).long()],
    "a mark": lambda a, b: ((a > 99).byte() - 1) / 255,
    "few": lambda a, b: (a + (b > 99).byte()) / 255,
}


@pytest.mark.parametrize("name", HEALTHY)
def test_says_nothing_against(fit, name):
    assert not found(fit, Program(HEALTHY[name]))


def test_labels_from_1_on_are_marked(fit):
    """0 becomes 255, as of ADE20K."""
    labels = Program(
        lambda a, b: a / 255,
        loss=lambda out, a, b: F.cross_entropy(out, (a[:, 0, 0, 0] % 3 - 1).long(), ignore_index=255),
    )
    assert not found(fit, labels)


DISEASED = {
    "difference": (lambda a, b: (a - b).float() / 255, 0.5),
    "the other way round": (lambda a, b: (b - a) / 255, 0.5),
    "absolute difference": (lambda a, b: (a - b).abs() / 255, 0.5),
    "sum": (lambda a, b: (a + b) / 510, 0.5),
    "mean": (lambda a, b: (a + b) // 2 * 0.004, 0.5),
    "clamped too late": (lambda a, b: (a + b).clamp(0, 255) / 255, 0.5),
    "contrast": (lambda a, b: a * 2 / 255, 0.5),
    "centred": (lambda a, b: (a - 128) / 128, 0.5),
    "negative": (lambda a, b: -a / 255, 1.0),
    "energy": (lambda a, b: (a**2).sum(1) / 65025, 1.0),
    "written into": (written_into, 0.5),
    "painted": (painted, 0.5),
    "beside arguments by name": (by_name, 0.5),
    "stacked": (lambda a, b: torch.cat([a, a - b], 1).permute(0, 2, 3, 1) / 255, 0.2),
    "differences of neighbours": (lambda a, b: a.diff(dim=-1).to(torch.float32) / 255, 0.5),
    "between masks": (lambda a, b: ((a > 99).byte() - (b > 99).byte()).float(), 0.2),
    "converted twice": (lambda a, b: (a - b).long().float() / 255, 0.5),
}


@pytest.mark.parametrize("name", DISEASED)
def test_finds(fit, name):
    change, share = DISEASED[name]
    assert found(fit, Program(change)) == [(Status.WARNING, pytest.approx(share, abs=0.11))]


def test_finds_what_a_sound_is_multiplied_by(fit):
    assert found(fit, Program(lambda a, b: b * 40 / 32768, b=SOUND))
    assert not found(fit, Program(lambda a, b: b * 10 / 32768, b=SOUND))


def test_finds_it_in_a_target(fit):
    far = Program(lambda a, b: a / 255, loss=lambda out, a, b: F.mse_loss(out[:, 0], (a - b)[:, 0, 0, 0] / 255))
    assert found(fit, far) == [(Status.WARNING, pytest.approx(0.5, abs=0.2))]
