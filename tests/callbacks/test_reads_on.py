"""CausalityCheck on forecasts of the end of a window that entered as a whole."""

import lightning.pytorch as L
import pytest
import torch
from patients import SeesFuture, WindowTooLong
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe import CausalityCheck, Status
from lightning_recipe.callbacks._reads_on import ends_with

PAST, AHEAD, WIDTH = 12, 4, 16
N = 32


class Forecast(L.LightningModule):
    """Encoder and decoder, of a room's temperature and of another series, of which the encoder is given the past.

    Args:
        wrong: Whether the encoder is given what is to be forecast as well.

    """

    channels = 2

    def __init__(self, *, wrong=False):
        super().__init__()
        self.wrong = wrong
        self.encoder, self.decoder = nn.GRU(self.channels, WIDTH, batch_first=True), nn.GRUCell(1, WIDTH)
        self.out = nn.Linear(WIDTH, 1)

    def forward(self, window):
        last, h, outs = window[:, PAST - 1, :1], self.encode(window), []
        for _ in range(AHEAD):
            h = self.decoder(last, h)
            last = last + self.out(h)
            outs.append(last)
        return torch.cat(outs, 1)

    def encode(self, window):
        return self.encoder(window)[1][0]

    def loss(self, said, future):
        return F.smooth_l1_loss(said, future)

    def seen(self, window):
        return window if self.wrong else window[:, :PAST]

    def training_step(self, batch, batch_idx):
        return self.loss(self(self.seen(batch[0])), batch[0][:, PAST:, 0])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)

    def train_dataloader(self):
        return DataLoader(TensorDataset(self.data()), N)

    def data(self):
        steps = torch.randn(2 * N, PAST + AHEAD, self.channels, generator=torch.Generator().manual_seed(7))
        return 0.3 * steps.cumsum(1) + steps


def judged(fit, module):
    check = CausalityCheck()
    fit(module, [check], train=module.train_dataloader(), logger=False, max_steps=1, limit_val_batches=0)
    (finding,) = check.findings
    assert "raises" not in finding.message
    assert "error" not in finding.message
    return finding


# -- false alarms first


class KnownInTheFuture(Forecast):
    """The whole window enters; of the target only the past is looked at, of the other series all."""

    def encode(self, window):
        known = torch.cat([window[:, :PAST, :1], torch.zeros(len(window), AHEAD, 1)], 1)
        return super().encode(torch.cat([known, window[..., 1:]], 2))

    def seen(self, window):
        return window


class TeacherForcing(Forecast):
    """Each output is told what was before it."""

    def forward(self, window):
        before, h, outs = window[:, PAST - 1 : -1, :1], super().encode(window[:, :PAST]), []
        for x in before.unbind(1):
            h = self.decoder(x, h)
            outs.append(x + self.out(h))
        return torch.cat(outs, 1)

    def seen(self, window):
        return window


class ByItsStatistics(Forecast):
    """The window is scaled by mean and standard deviation of all that enters, and its past is read."""

    def forward(self, window):
        mean, std = window.mean(1, keepdim=True), window.std(1, keepdim=True)
        scaled = (window - mean) / std
        return super().forward(scaled[:, :PAST]) * std[:, 0, :1] + mean[:, 0, :1]

    def seen(self, window):
        return window


class Posterior(Forecast):
    """A conditional VAE: in training, what is drawn may be told by what is to come."""

    def encode(self, window):
        drawn = self.encoder(window)[1][0]
        return super().encode(window[:, :PAST]) + drawn + 0.1 * torch.randn_like(drawn)

    def seen(self, window):
        return window


class TwoHeads(Forecast):
    """Another head restores what is to come, by an encoder of its own."""

    def __init__(self):
        super().__init__()
        self.future, self.back = nn.GRU(1, WIDTH, batch_first=True), nn.Linear(WIDTH, AHEAD)

    def forward(self, window):
        restored = self.back(self.future(window[:, PAST:, :1])[1][0])
        return super().forward(window[:, :PAST]), restored

    def training_step(self, batch, batch_idx):
        window = batch[0]
        return sum(self.loss(said, window[:, PAST:, 0]) for said in self(window))


class TwoHeadsByHand(TwoHeads):
    def loss(self, said, future):
        return (said - future).square().mean()


class Hidden(Forecast):
    """What is to be said is hidden within the network, as in infilling."""

    def forward(self, window):
        hidden = window.clone()
        hidden[:, PAST:] = 0
        return super().forward(hidden)

    def seen(self, window):
        return window


class HiddenBefore(Forecast):
    def seen(self, window):
        hidden = window.clone()
        hidden[:, PAST:, 0] = 0
        return hidden


class Autoencoder(Forecast):
    """Restores its window, through one state."""

    target = slice(None)

    def __init__(self):
        super().__init__()
        self.back = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, self.channels)

    def forward(self, window):
        state = self.encoder(window)[1][0]
        return self.head(self.back(state[:, None].expand(-1, window.shape[1], -1))[0])

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0])[:, self.target], batch[0][:, self.target])


class LossOnTheEnd(Autoencoder):
    """As where the first steps are to warm up."""

    target = slice(PAST, None)


class CutWithin(LossOnTheEnd):
    """The network itself cuts off what was to warm up."""

    def forward(self, window):
        return super().forward(window)[:, PAST:]

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0]), batch[0][:, PAST:])


class Shortened(Autoencoder):
    """Convolutions that leave out where they begin: more is restored than is left out."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(self.channels, self.channels, 5)

    def forward(self, window):
        return self.conv(window.mT).mT

    def training_step(self, batch, batch_idx):
        said = self(batch[0])
        return F.mse_loss(said, batch[0][:, -said.shape[1] :])


class InTwoParts(Forecast):
    """Restores its window by two decoders, one for each part."""

    def __init__(self):
        super().__init__()
        self.before = nn.Linear(WIDTH, PAST)

    def training_step(self, batch, batch_idx):
        before = self.before(self.encode(batch[0]))
        return self.loss(self(batch[0]), batch[0][:, PAST:, 0]) + self.loss(before, batch[0][:, :PAST, 0])


class InTwoPartsByHand(InTwoParts):
    def loss(self, said, future):
        return (said - future).square().mean()


class LastChannels(Autoencoder):
    """Restores two of its channels, with others beside them: (N, C, T), as many as a forecast would have steps."""

    def __init__(self):
        super().__init__()
        self.net = nn.Conv1d(8, 2, 3, padding=1)

    def training_step(self, batch, batch_idx):
        x = torch.cat([batch[0].mT, batch[0].mT.flip(2), batch[0].mT.sin(), batch[0].mT.cos()], 1)
        return F.mse_loss(self.net(x), x[:, -2:])


class Denoised(Forecast):
    def seen(self, window):
        return window + 0.3 * torch.randn_like(window)


class Table(Forecast):
    """No window: the last columns of rows are to be told, and enter."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(PAST + AHEAD, WIDTH), nn.ReLU(), nn.Linear(WIDTH, AHEAD))

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self.net(batch[0]), batch[0][:, PAST:])

    def data(self):
        return torch.randn(2 * N, PAST + AHEAD, generator=torch.Generator().manual_seed(7))


class States(Forecast):
    """The state of each of the last steps, seen from both sides: nothing is forecast."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(WIDTH, 3)

    def training_step(self, batch, batch_idx):
        said = self.out(self.encoder(batch[0])[0][:, PAST:])
        return F.cross_entropy(said.mT, (batch[0][:, PAST:, 0] > 0).long())


LEGITIMATE = [
    *(
        Forecast,
        KnownInTheFuture,
        TeacherForcing,
        ByItsStatistics,
        Posterior,
        TwoHeads,
        TwoHeadsByHand,
        Hidden,
        HiddenBefore,
        Autoencoder,
    ),
    *(LossOnTheEnd, CutWithin, Shortened, InTwoParts, InTwoPartsByHand, LastChannels, Denoised, Table, States),
]


@pytest.mark.parametrize("program", LEGITIMATE)
def test_what_may_be_seen_is_not_accused(fit, program):
    finding = judged(fit, program())
    assert finding.status in {Status.PASSED, Status.SKIPPED}, finding


def test_all_channels_of_the_last_steps_are_not_the_last_channels():
    x = torch.randn(8, 12, 3, generator=torch.Generator().manual_seed(0)).cumsum(1)
    assert [found[0] for found in ends_with(x, x[:, 8:])] == [4]
    assert not list(ends_with(x.mT, x[..., 1:].mT))
    assert not list(ends_with(x, x[:, 2:]))  # more than half


# -- what is to be said enters


class ByHand(Forecast):
    def loss(self, said, future):
        return (said - future).square().mean()


class Absolute(Forecast):
    def loss(self, said, future):
        return F.l1_loss(said, future)


class Weighted(Forecast):
    def loss(self, said, future):
        return (F.mse_loss(said, future, reduction="none") * torch.arange(1.0, AHEAD + 1)).mean()


class Likelihood(Forecast):
    """Mean and spread, with a likelihood by hand."""

    def forward(self, window):
        return torch.distributions.Normal(super().forward(window), 1.0)

    def loss(self, said, future):
        return -said.log_prob(future).mean()


class InTheStep(Forecast):
    """No module puts out all steps."""

    def training_step(self, batch, batch_idx):
        return self.loss(Forecast.forward(self, self.seen(batch[0])), batch[0][:, PAST:, 0])


class ChannelsFirst(Forecast):
    """Convolutions, over (N, C, T), and a forecast of all channels."""

    def __init__(self, *, wrong=False):
        super().__init__()
        self.wrong = wrong
        length = PAST + AHEAD if wrong else PAST
        self.net = nn.Sequential(nn.Conv1d(2, WIDTH, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2 * AHEAD))
        self.net(torch.zeros(1, 2, length))

    def forward(self, window):
        return self.net(window.mT).view(-1, 2, AHEAD)

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(self.seen(batch[0])), batch[0][:, PAST:].mT)

    def data(self):
        steps = torch.randn(2 * N, PAST + AHEAD, 2, generator=torch.Generator().manual_seed(7))
        return 0.3 * steps.cumsum(1) + torch.tensor([2.0, -2.0])


class OneSeries(Forecast):
    """Windows of (N, T) numbers, and a linear layer."""

    def __init__(self, *, wrong=False):
        super().__init__()
        self.wrong = wrong
        self.net = nn.Linear(PAST + AHEAD if wrong else PAST, AHEAD)

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self.net(self.seen(batch[0])), batch[0][:, PAST:])

    def data(self):
        return super().data()[..., 0].cumsum(1)


class Forced(TeacherForcing):
    """Teacher forcing, by an encoder that has read on."""

    def __init__(self, *, wrong=True):
        super().__init__()
        self.wrong = wrong

    def forward(self, window):
        before, h, outs = window[:, PAST - 1 : -1, :1], self.encode(window if self.wrong else window[:, :PAST]), []
        for x in before.unbind(1):
            h = self.decoder(x, h)
            outs.append(x + self.out(h))
        return torch.cat(outs, 1)


class GivenTwice(Forecast):
    """The data set holds windows and targets, and windows that do not end before these."""

    def training_step(self, batch, batch_idx):
        return self.loss(self(self.seen(batch[0])), batch[1])

    def train_dataloader(self):
        return DataLoader(TensorDataset(self.data(), self.data()[:, PAST:, 0]), N)


PROGRAMS = [Forecast, ByHand, Absolute, Weighted, Likelihood, InTheStep, ChannelsFirst, OneSeries, Forced]


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_ends_before_its_forecast_is_not_accused(fit, program):
    assert judged(fit, program(wrong=False)).status in {Status.PASSED, Status.SKIPPED}


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_is_given_its_own_future_fails(fit, program):
    finding = judged(fit, program(wrong=True))
    assert (finding.status, finding.code) == (Status.FAILED, SeesFuture.code)
    assert finding.subject == {"ChannelsFirst": "net.0", "OneSeries": "net"}.get(program.__name__, "encoder")
    assert finding.evidence["horizon"] == finding.evidence["seen"] == AHEAD


@pytest.mark.parametrize("wrong", [False, True])
def test_targets_of_their_own_are_told_by_the_batch(fit, wrong):
    finding = judged(fit, GivenTwice(wrong=wrong))
    assert (finding.code == WindowTooLong.code, finding.is_alarm) == (wrong, wrong)
