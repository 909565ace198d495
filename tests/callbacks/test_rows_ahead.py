"""Tables in the order of time: columns that know the target of their row."""

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_recipe import CausalityCheck, Status
from lightning_recipe.callbacks._rows_ahead import rows_ahead

RNG = torch.Generator().manual_seed(0)
N = 400
Y = torch.randn(N, generator=RNG).cumsum(0)
HOUR = 2 * torch.pi * torch.arange(N) / 24
NOISE = torch.randn(N, generator=RNG)


def mean(y, begin, end):
    """Of the rows from `begin` before to `end` after each."""
    return torch.stack([y.roll(-k) for k in range(-begin, end + 1)]).mean(0)


def lags(y, *steps):
    return [y.roll(k) for k in steps]


LEGITIMATE = {
    "lags and a mean of what was": ([*lags(Y, 1, 2, 24), mean(Y, 7, -1), HOUR.sin()], Y),
    "the target is of two rows later": ([Y, mean(Y, 3, 0)], Y.roll(-2)),
    "what the past tells": ([HOUR.sin().roll(-3), HOUR.cos()], HOUR.sin()),
    "a gap to be filled": ([*lags(Y, 1, 2, -1, -2)], Y),
    "a forecast of another's": ([*lags(Y, 1), Y.roll(-1) + 0.3 * NOISE], Y),
    "rows that are not in order": ([Y[torch.randperm(N, generator=RNG)], NOISE], Y),
    "the target is a column": ([*lags(Y, 1), Y], Y),
    "a column that never changes": ([*lags(Y, 1), torch.ones(N)], Y),
    "few rows": ([mean(Y, 1, 1)[:60]], Y[:60]),
    "missing values": ([torch.where(NOISE > 1, torch.nan, mean(Y, 1, 1))], Y),
}
LEAKS = {
    "a centred mean": ([*lags(Y, 1, 2), mean(Y, 2, 2)], (2, 2)),
    "a mean that ends with its own row": ([*lags(Y, 1), mean(Y, 4, 0)], (1, 0)),
    "shifts the wrong way": (lags(Y, -1, -2, -24), (2, 24)),
    "a difference to what comes": ([*lags(Y, 1), 3 * (Y.roll(-1) - Y) + 5], (1, 1)),
}


def loader(columns, y=Y):
    return DataLoader(TensorDataset(torch.stack(columns, 1), y[:, None]), 16, shuffle=True)


@pytest.mark.parametrize("name", LEGITIMATE)
def test_columns_that_know_nothing(name):
    assert rows_ahead(loader(*LEGITIMATE[name])) is None


@pytest.mark.parametrize("name", LEAKS)
def test_columns_that_know_the_target(name):
    columns, (column, steps) = LEAKS[name]
    ahead = rows_ahead(loader(columns))
    assert (ahead.column, ahead.steps) == (column, steps)


@pytest.mark.parametrize("kind", [list, lambda rows: Subset(rows, torch.randperm(N, generator=RNG).tolist()[:300])])
def test_rows_in_a_list_of_dictionaries(kind):
    x = torch.stack(LEAKS["a centred mean"][0], 1)
    rows = [{"x": one, "y": y} for one, y in zip(x, Y, strict=True)]
    assert rows_ahead(DataLoader(kind(rows), 16)).column == 2


class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


@pytest.mark.parametrize(
    ("name", "status"), [("a centred mean", Status.WARNING), ("lags", Status.SKIPPED)], ids=["leak", "lags"]
)
def test_it_is_told(fit, name, status):
    check = CausalityCheck()
    columns = LEAKS[name][0] if name in LEAKS else lags(Y, 1, 2, 3)
    fit(Net(), [check], train=loader(columns), logger=False, max_steps=1)
    (finding,) = check.findings
    assert finding.status is status
    assert ("row_holds_target" in finding.code) == (status is Status.WARNING)
