"""CausalityCheck on features of a series that hold the target of the same step."""

import lightning.pytorch as L
import pytest
import torch
from patients import InputIsTarget
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_recipe import CausalityCheck, Status

DAYS, WIDTH, N = 20, 16, 16


class Sales(L.LightningModule):
    """Mean and spread of each day's sales, told by some days before.

    Args:
        lags: By how many days the features are late.

    """

    bidirectional = False

    def __init__(self, *lags):
        super().__init__()
        self.lags = lags or (1, 2, 7)
        self.rnn = nn.LSTM(len(self.lags) + 2, WIDTH, 2, batch_first=True, bidirectional=self.bidirectional)
        self.mean, self.spread = (nn.Linear(WIDTH * (1 + self.bidirectional), 1) for _ in range(2))

    def forward(self, lags, calendar):
        h = self.rnn(torch.cat([lags, calendar], -1))[0]
        return torch.distributions.Normal(self.mean(h).squeeze(-1), F.softplus(self.spread(h).squeeze(-1)) + 0.1)

    def training_step(self, batch, batch_idx):
        return -self(batch["lags"], batch["calendar"]).log_prob(batch["target"]).mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)

    def train_dataloader(self):
        z = torch.randn(2 * N, DAYS + 8, generator=torch.Generator().manual_seed(3))
        z = z + 0.4 * z.cumsum(1)
        lags = torch.stack([z[:, 8 - lag : 8 - lag + DAYS] for lag in self.lags], -1)
        day = torch.arange(DAYS) * 0.9
        calendar = torch.stack([day.sin(), day.cos()], -1).expand(2 * N, -1, -1)
        parts = zip(lags, calendar, z[:, 8:], strict=True)
        return DataLoader([dict(zip(("lags", "calendar", "target"), part, strict=True)) for part in parts], N)


class Squared(Sales):
    """Numbers, with a loss function, of one tensor of features."""

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(torch.cat([batch["lags"], batch["calendar"]], 2)), self.target(batch))

    def forward(self, x):
        return self.mean(self.rnn(x)[0])

    def target(self, batch):
        return batch["target"][..., None]


def judged(fit, module):
    check = CausalityCheck()
    fit(module, [check], train=module.train_dataloader(), logger=False, max_steps=1, limit_val_batches=0)
    (finding,) = check.findings
    assert "raises" not in finding.message
    assert "error" not in finding.message
    return finding


# -- false alarms first


class Shifted(Squared):
    """The network itself shifts what it is given."""

    def forward(self, x):
        return super().forward(F.pad(x, (0, 0, 1, 0))[:, :-1])


class Restored(Squared):
    """An autoencoder of all that enters."""

    def __init__(self):
        super().__init__(0, 1)
        self.mean = nn.Linear(WIDTH, 4)

    def training_step(self, batch, batch_idx):
        x = torch.cat([batch["lags"], batch["calendar"]], 2)
        return F.mse_loss(self(x), x)


class OneSeries(Squared):
    """Restored by a causal network; the data set holds it twice."""

    def __init__(self):
        super().__init__(0)
        self.rnn = nn.LSTM(1, WIDTH, batch_first=True)

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch["lags"]), self.target(batch))


class Hidden(Squared):
    """Some days are hidden within the network, and all are to be said."""

    def forward(self, x):
        hidden = x.clone()
        hidden[:, ::2, 0] = 0
        return super().forward(hidden)


class ShiftedInTheLoss(Squared):
    """What is known of a day is there to say the next; by hand."""

    def training_step(self, batch, batch_idx):
        said = self(torch.cat([batch["lags"], batch["calendar"]], 2))[..., 0]
        return (said[:, :-1] - batch["target"][:, 1:]).square().mean()


class Drawn(Squared):
    """A VAE with covariates."""

    def forward(self, x):
        h = self.rnn(x)[0]
        return self.mean(h + 0.1 * torch.randn_like(h))


class PastOnly(Squared):
    """The target is known up to a day, and is zero from there on."""

    def training_step(self, batch, batch_idx):
        x = torch.cat([batch["lags"], batch["calendar"]], 2)
        x[:, DAYS // 2 :, 0] = 0
        return F.mse_loss(self(x), self.target(batch))


LEGITIMATE = {
    "lags by hand": Sales,
    "lags": Squared,
    "one lag": lambda: Squared(1),
    "shifted within": lambda: Shifted(0, 1, 6),
    "restored": Restored,
    "one series": OneSeries,
    "hidden": lambda: Hidden(0, 1, 6),
    "shifted in the loss": lambda: ShiftedInTheLoss(0, 1, 6),
    "without lags": lambda: ShiftedInTheLoss(0),
    "drawn": lambda: Drawn(0, 1, 6),
    "past only": lambda: PastOnly(0, 1, 6),
}


@pytest.mark.parametrize("name", LEGITIMATE)
def test_features_of_before_are_not_accused(fit, name):
    finding = judged(fit, LEGITIMATE[name]())
    assert finding.status in {Status.PASSED, Status.SKIPPED}, finding


# -- the target of the same day


class Causal(nn.Conv1d):
    def forward(self, x):
        return super().forward(F.pad(x, (2, 0)))


class ChannelsFirst(Squared):
    def __init__(self, *lags):
        super().__init__(*lags)
        self.net, self.head = Causal(len(lags) + 2, WIDTH, 3), nn.Conv1d(WIDTH, 1, 1)

    def training_step(self, batch, batch_idx):
        x = torch.cat([batch["lags"], batch["calendar"]], 2).mT
        return F.l1_loss(self(x)[:, 0], batch["target"])

    def forward(self, x):
        return self.head(self.net(x).relu())


class FromBothSides(Squared):
    bidirectional = True


class CutWithin(Squared):
    """The target is one of the features."""

    def target(self, batch):
        return batch["lags"][..., :1]

    def train_dataloader(self):
        loader = super().train_dataloader()
        return DataLoader([{k: v for k, v in row.items() if k != "target"} for row in loader.dataset], N)


class Apart(Squared):
    """Each feature enters by itself."""

    def __init__(self, *lags):
        super().__init__(*lags)
        self.nets = nn.ModuleList(nn.Linear(1, WIDTH) for _ in lags)
        self.rnn = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def training_step(self, batch, batch_idx):
        rows = [batch["lags"][..., i : i + 1] for i in range(len(self.lags))]
        return F.mse_loss(self(sum(net(x) for net, x in zip(self.nets, rows, strict=True))), self.target(batch))


FOUND = {
    "a likelihood by hand": (lambda: Sales(0, 1, 6), Status.FAILED, 0),
    "numbers": (lambda: Squared(1, 6, 0), Status.FAILED, 2),
    "channels first": (lambda: ChannelsFirst(1, 0), Status.FAILED, 1),
    "apart": (lambda: Apart(1, 0), Status.FAILED, 0),
    "both sides": (lambda: FromBothSides(0, 5), Status.WARNING, 0),
    "cut within": (lambda: CutWithin(0, 1), Status.WARNING, 0),
    "no other lag": (lambda: Squared(0), Status.WARNING, 0),
    "restored from both sides, with a calendar": (lambda: FromBothSides(0), Status.ADVICE, 0),
    "restored with a calendar": (lambda: CutWithin(0), Status.ADVICE, 0),
}


@pytest.mark.parametrize("name", FOUND)
def test_a_feature_that_is_the_target_is_told(fit, name):
    module, status, column = FOUND[name]
    finding = judged(fit, module())
    assert (finding.status, finding.code) == (status, InputIsTarget.code)
    assert finding.evidence["column"] == column


def test_the_column_and_the_lags_are_named(fit):
    finding = judged(fit, Sales(1, 0, 3, 7))
    assert finding.subject == "lags[..., 1]"
    assert finding.evidence["lags"] == 3
