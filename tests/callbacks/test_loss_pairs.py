"""Examples that meet one another before they meet their targets."""

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_recipe import LossInputCheck, Status

ROWS, WIDTH = 16, 6


class TwoHeads(L.LightningModule):
    """A column, a number for each example, and a function of both and the batch that is the loss."""

    def __init__(self, loss):
        super().__init__()
        self.loss, self.column, self.number = loss, nn.Linear(WIDTH, 1), nn.Linear(WIDTH, 3)
        self.cutpoints = nn.Parameter(torch.linspace(-1, 1, ROWS))
        self.register_buffer("mean", torch.zeros(ROWS))

    def training_step(self, batch, batch_idx):
        return self.loss(self, self.column(batch["x"]), self.number(batch["x"]).sum(1), batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


@pytest.fixture
def alarms(fit):
    def run(loss):
        check, drawn = LossInputCheck(), torch.Generator().manual_seed(0)
        data = [{"x": x, "y": x.sum(), "w": x[0].exp()} for x in torch.randn(4 * ROWS, WIDTH, generator=drawn)]
        train = DataLoader(data, ROWS)
        fit(TwoHeads(loss), [check], train=train, logger=False, max_steps=4, limit_val_batches=0)
        return [(f.code.partition("/")[2], f.status) for f in check.findings if f.is_alarm]

    return run


def differences(number, batch):
    return (number[:, None] - number - (batch["y"][:, None] - batch["y"])).square().mean()


LEGITIMATE = {
    "the same shape": lambda m, c, n, b: (c.squeeze(1) + n - b["y"]).square().mean(),
    "columns": lambda m, c, n, b: (c + n[:, None] - b["y"][:, None]).square().mean(),
    "all with all, in a softmax": lambda m, c, n, b: F.cross_entropy(c + n - b["w"].log(), torch.arange(ROWS)),
    "all with all, in a softmax by hand": lambda m, c, n, b: -(c + n - b["w"].log()).log_softmax(1).diagonal().mean(),
    "a table of targets": lambda m, c, n, b: F.mse_loss(c + n, torch.outer(b["y"], b["w"])),
    "a table of targets by hand": lambda m, c, n, b: (c + n - b["y"][:, None] * b["w"]).square().mean(),
    "differences": lambda m, c, n, b: differences(n, b),
    "differences, one after the other": lambda m, c, n, b: (
        (c - c.squeeze(1) - b["y"][:, None] + b["y"]).square().mean()
    ),
    "differences of errors": lambda m, c, n, b: ((e := c - b["y"][:, None]) - e.squeeze(1)).square().mean(),
    "each pair's margin": lambda m, c, n, b: (b["w"] - (c - c.squeeze(1))).relu().square().mean(),
    "pairs of positives and negatives": lambda m, c, n, b: -F.logsigmoid(c - n).mean() + (n - b["y"]).square().mean(),
    "kernel": lambda m, c, n, b: ((-(c - c.squeeze(1)).square()).exp() * b["y"]).mean(),
    "made ready": lambda m, c, n, b: (n.unsqueeze(1) + c.squeeze(1) - b["y"]).square().mean(),
    "grades": lambda m, c, n, b: F.binary_cross_entropy_with_logits(
        c - m.cutpoints, (b["y"][:, None] > torch.linspace(-1, 1, ROWS)).float()
    ),
    "shifted by a buffer": lambda m, c, n, b: F.softplus(c + n - m.mean).mean(),
    "a spread of its own": lambda m, c, n, b: ((n - b["y"]) / c.squeeze(1).exp()).square().mean() + c.mean(),
    "a term beside the error": lambda m, c, n, b: ((n - b["y"]).square() + c.square()).mean(),
    "a kernel's weights": lambda m, c, n, b: (
        (-(b["x"][:, None] - b["x"]).square().sum(2)).exp() * (n - b["y"]).square()
    ).mean(),
}


@pytest.mark.parametrize("name", LEGITIMATE)
def test_all_with_all_on_purpose(alarms, name):
    assert [code for code, _ in alarms(LEGITIMATE[name]) if code == "broadcast"] == []


DISEASES = {
    "a sum": lambda m, c, n, b: (c + n - b["y"]).square().mean(),
    "a sum, the other way round": lambda m, c, n, b: (b["y"] - (n + c)).abs().mean(),
    "a sum, squeezed into a range": lambda m, c, n, b: ((4 * (n + c).sigmoid() + 1 - b["y"]) ** 2).mean(),
    "a sum, by a function": lambda m, c, n, b: F.mse_loss(n + c, b["y"]),
    "a sum, against a column": lambda m, c, n, b: F.l1_loss(b["y"][:, None], n - c),
    "a gate": lambda m, c, n, b: (e := c.sigmoid() * n - b["y"]).mul(e).mean(),
    "what the other one leaves": lambda m, c, n, b: (b["y"] - n - c).square().mean(),
    "a spread": lambda m, c, n, b: ((n - b["y"]) / c.exp()).square().mean() + c.mean(),
    "a precision": lambda m, c, n, b: (c.exp() * (n - b["y"]).square()).mean() - c.mean(),
}


@pytest.mark.parametrize("name", DISEASES)
def test_examples_that_meet_one_another(alarms, name):
    status = Status.WARNING if name in {"a spread", "a precision"} else Status.FAILED
    assert alarms(DISEASES[name]) == [("broadcast", status)]
