"""Inputs that a step mixes, and their labels: legitimate ways first, then the mistakes."""

import pytest
import torch
from patients import CLASSES, Healthy, LabelsNotMixed, Mixes
from torch.nn import functional as F
from torch.utils.data import DataLoader, default_collate

from lightning_recipe import AugmentationCheck, Status
from lightning_recipe.callbacks._mixing import mixed


def found(fit, module):
    check = AugmentationCheck()
    fit(module, [check], logger=False, max_epochs=8)
    assert not [f for f in check.findings if f.code.endswith("internal_error")], check.findings
    return check.findings


class AsOne(Mixes):
    """Mixes labels, not losses."""

    def mixed_loss(self, logits, y, order, share):
        one, other = (F.one_hot(labels, CLASSES).float() for labels in (y, y[order]))
        return F.cross_entropy(logits, share * one + (1 - share) * other, label_smoothing=self.smoothing)

    smoothing = 0.0


class Smoothed(AsOne):
    smoothing = 0.1


class Pastes(Mixes):
    """Puts some features of others in the place of its own."""

    def mix(self, x, order, share):
        count = int((1 - share) * x.shape[1])
        x = x.clone()
        x[:, :count] = x[order, :count]
        return x, 1 - count / x.shape[1]


class PastesBlanks(Pastes):
    """Much of what is put in its place is the same in most examples."""

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        x[torch.arange(n) % 4 > 0, : x.shape[1] // 2] = 0
        return torch.utils.data.TensorDataset(x, y[torch.randperm(n)])

    def draw(self):
        return 0.7


class Background(Mixes):
    """Others are heard from afar."""

    def draw(self):
        return 0.8

    def mixed_loss(self, logits, y, order, share):
        return F.cross_entropy(logits, y)


class Noise(Background):
    def mix(self, x, order, share):
        return x + torch.randn_like(x), 1.0


class Seldom(LabelsNotMixed):
    """Most are hardly mixed."""

    def draw(self):
        return 0.99


class AfterTransfer(Healthy):
    """Mixes before its step is given the batch."""

    def of_labels(self, share):
        return share

    def mix(self, x, y):
        share, order = float(torch.distributions.Beta(1.0, 1.0).sample()), torch.randperm(len(x))
        y, of_labels = F.one_hot(y, CLASSES).float(), self.of_labels(share)
        return share * x + (1 - share) * x[order], of_labels * y + (1 - of_labels) * y[order]

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return self.mix(*batch) if self.trainer.training else batch

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])


class ByHandAfterTransfer(AfterTransfer):
    """Its loss is no function of PyTorch, and its inputs get one more dimension."""

    def forward(self, x):
        return super().forward(x.unsqueeze(1).flatten(1))

    def loss(self, logits, y):
        return -(y * logits.log_softmax(1)).sum(1).mean() if y.ndim > 1 else super().loss(logits, y)


class InCollate(AfterTransfer):
    """Mixes where examples are put together."""

    on_after_batch_transfer = Healthy.on_after_batch_transfer

    def train_dataloader(self):
        return DataLoader(self.data(256, 1), 32, shuffle=True, collate_fn=lambda rows: self.mix(*default_collate(rows)))


class Rarely(InCollate):
    """Most batches are mixed by a share of which nobody can tell whether labels have it."""

    def mix(self, x, y):
        share, order = 0.2 if torch.rand(()) < 0.25 else 0.5, torch.randperm(len(x))
        y, of_labels = F.one_hot(y, CLASSES).float(), self.of_labels(share)
        return share * x + (1 - share) * x[order], of_labels * y + (1 - of_labels) * y[order]


class Cutting(AfterTransfer):
    """Does something else with a batch before its step."""

    def mix(self, x, y):
        return x + 0.1 * torch.randn_like(x), y


class OtherTask(Mixes):
    """The second label is not that of another example."""

    def mixed_loss(self, logits, y, order, share):
        return F.cross_entropy(logits, y) + F.cross_entropy(logits, (y * 0 + 1))


class Penalised(Mixes):
    """Has hardly learnt anything, and another term."""

    def mixed_loss(self, logits, y, order, share):
        return super().mixed_loss(logits, y, order, share) + 1e-2 * self.net[-1].weight.square().sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-5)


class HardlyLearnt(Mixes):
    configure_optimizers = Penalised.configure_optimizers


LEGITIMATE = [
    Penalised,
    HardlyLearnt,
    OtherTask,
    Mixes,
    AsOne,
    Smoothed,
    Pastes,
    PastesBlanks,
    Background,
    Noise,
    Seldom,
]
LEGITIMATE += [AfterTransfer, ByHandAfterTransfer, InCollate, Rarely, Cutting]


@pytest.mark.parametrize("module", LEGITIMATE)
def test_legitimate(fit, module):
    assert [f.status for f in found(fit, module())] == [Status.PASSED]


class Interchanged(Mixes):
    def mixed_loss(self, logits, y, order, share):
        return super().mixed_loss(logits, y, order, 1 - share)


class LateLearner(Interchanged):
    """Whatever the label, it costs the same in the beginning."""

    def __init__(self):
        Mixes.__init__(self)
        torch.nn.init.zeros_(self.net[-1].weight)
        torch.nn.init.zeros_(self.net[-1].bias)

    def draw(self):
        return 0.2


class NeverLearns(LateLearner):
    """It costs the same to the end."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-9)


class NeverLearnsRightly(NeverLearns):
    mixed_loss = Mixes.mixed_loss


class DrawnAgain(Mixes):
    def mixed_loss(self, logits, y, order, share):
        return super().mixed_loss(logits, y, torch.randperm(len(y)), share)


class DrawnAgainLate(DrawnAgain):
    __init__ = LateLearner.__init__


class SoftAgain(AsOne):
    def mixed_loss(self, logits, y, order, share):
        return super().mixed_loss(logits, y, torch.randperm(len(y)), share)


class SoftOtherShare(AsOne):
    def mixed_loss(self, logits, y, order, share):
        return super().mixed_loss(logits, y, order, self.draw())


class PastesWithoutLabels(Pastes):
    def mixed_loss(self, logits, y, order, share):
        return F.cross_entropy(logits, y)


class InterchangedAfterTransfer(AfterTransfer):
    def of_labels(self, share):
        return 1 - share


class DrawnAgainAfterTransfer(ByHandAfterTransfer):
    def mix(self, x, y):
        return super().mix(x, y)[0], super().mix(x, y)[1]


class InterchangedInCollate(InCollate):
    of_labels = InterchangedAfterTransfer.of_labels


class RarelyInterchanged(Rarely):
    of_labels = InterchangedAfterTransfer.of_labels


class LeftOutByHand(Mixes):
    def mixed_loss(self, logits, y, order, share):
        own = logits.log_softmax(1).gather(1, y[:, None])
        return -own.mean()


MISTAKES = [
    LabelsNotMixed,
    LeftOutByHand,
    Interchanged,
    LateLearner,
    NeverLearns,
    DrawnAgain,
    DrawnAgainLate,
    SoftAgain,
    SoftOtherShare,
    PastesWithoutLabels,
]
MISTAKES += [InterchangedAfterTransfer, DrawnAgainAfterTransfer, InterchangedInCollate, RarelyInterchanged]


def test_weights_of_losses_that_cost_the_same(fit):
    assert [f.status for f in found(fit, NeverLearnsRightly())] == [Status.PASSED]


@pytest.mark.parametrize("module", MISTAKES)
def test_mistakes(fit, module):
    (finding,) = found(fit, module())
    assert (finding.status, finding.code) == (Status.WARNING, LabelsNotMixed.code)
    assert finding.evidence["looks"] >= 2


def test_what_was_mixed_is_found_again():
    x = torch.rand(40, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    share = torch.linspace(0.1, 0.9, 40)[:, None, None, None]
    found = mixed(x, share * x + (1 - share) * x.roll(1, 0))
    assert torch.allclose(found.own.float(), share.flatten(), atol=1e-4)
    assert found.partner.tolist() == [39, *range(39)]
    pasted = x.clone()
    pasted[:, :, :3, :2] = x.roll(3, 0)[:, :, :3, :2]
    found = mixed(x, pasted)
    assert found.own.unique().tolist() == pytest.approx([1 - 6 / 36])
    assert mixed(x, x.flip(-1)) is mixed(x, x) is mixed(x, x + torch.randn_like(x)) is None
