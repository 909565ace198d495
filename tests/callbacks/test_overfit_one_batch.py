import copy
import gc
import json
import random
import time
import types
from dataclasses import dataclass
from itertools import pairwise

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, LambdaCallback
from patients import CLASSES, FEATURES, Healthy
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe.callbacks._overfit_progress import Trial
from lightning_recipe.callbacks.overfit_one_batch import OverfitOneBatch
from lightning_recipe.figures.canvas import pixels
from lightning_recipe.figures.experiments import labels_and_predictions
from lightning_recipe.reporter import FailedCheckError
from lightning_recipe.trial.short_fit import Fit


def judged(fit, module, check=None, **settings):
    check = check or OverfitOneBatch(max_steps=110, tolerance=0.05, max_seconds=600)  # the machine may be busy
    fit(module, [check], **{"max_epochs": -1, "max_steps": 1, "limit_val_batches": 0, "logger": False, **settings})
    (finding,) = check.findings
    return finding


# -- healthy modules of many kinds


class Any(L.LightningModule):
    """A net, a loss, a batch."""

    def __init__(self, net, loss, batch, optimizer=None):
        super().__init__()
        self.net, self.loss, self.batch = net, loss, batch
        self.optimizer = optimizer or (lambda p: torch.optim.Adam(p, 1e-2))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self.net(x), y)

    def configure_optimizers(self):
        return self.optimizer(self.parameters())

    def train_dataloader(self):
        return DataLoader(TensorDataset(*self.batch), len(self.batch[0]))


def mlp(n_in, n_out):
    return nn.Sequential(nn.Linear(n_in, 64), nn.ReLU(), nn.Linear(64, n_out))


class RNN(nn.Module):
    def __init__(self, vocabulary, out, *, all_positions):
        super().__init__()
        self.embed, self.rnn = nn.Embedding(vocabulary, 24), nn.GRU(24, 48, 2, batch_first=True, dropout=0.3)
        self.head, self.all_positions = nn.Linear(48, out), all_positions

    def forward(self, x):
        h = self.rnn(self.embed(x))[0]
        return self.head(h if self.all_positions else h[:, -1])


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.2, batch_first=True)
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        return self.head(self.layer(self.embed(x)).mean(1))


def x(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def classes(n, k):
    return torch.randint(k, (n,), generator=torch.Generator().manual_seed(2))


def token_loss(out, y):
    return F.cross_entropy(out.flatten(0, 1), y.flatten())


def conv():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout2d(0.3),
        nn.Flatten(),
        nn.Linear(288, 10),
    )


tokens = torch.randint(11, (32, 9), generator=torch.Generator().manual_seed(3))
HEALTHY = {
    "classifier": Healthy,
    "conv": lambda: Any(conv(), F.cross_entropy, (x(32, 1, 8, 8), classes(32, 10))),
    "regression": lambda: Any(mlp(6, 1), lambda o, y: F.mse_loss(o[:, 0], y), (x(32, 6), x(32))),
    "l1": lambda: Any(mlp(6, 2), F.l1_loss, (x(32, 6), x(32, 2))),
    "huber": lambda: Any(mlp(6, 2), F.smooth_l1_loss, (x(32, 6), x(32, 2))),
    "multilabel": lambda: Any(mlp(6, 4), F.binary_cross_entropy_with_logits, (x(32, 6), (x(32, 4) > 0).float())),
    "probabilities": lambda: Any(
        nn.Sequential(mlp(6, 1), nn.Sigmoid(), nn.Flatten(0)), F.binary_cross_entropy, (x(32, 6), (x(32) > 0).float())
    ),
    "soft_labels": lambda: Any(mlp(6, 3), F.cross_entropy, (x(32, 6), x(32, 3).softmax(1))),
    "bce_soft": lambda: Any(mlp(6, 3), F.binary_cross_entropy_with_logits, (x(32, 6), x(32, 3).sigmoid())),
    "smoothing": lambda: Any(
        mlp(6, 5), lambda o, y: F.cross_entropy(o, y, label_smoothing=0.2), (x(32, 6), classes(32, 5))
    ),
    "log_softmax": lambda: Any(nn.Sequential(mlp(6, 5), nn.LogSoftmax(1)), F.nll_loss, (x(32, 6), classes(32, 5))),
    "kl": lambda: Any(
        nn.Sequential(mlp(6, 3), nn.LogSoftmax(1)),
        lambda o, y: F.kl_div(o, y, reduction="batchmean"),
        (x(32, 6), x(32, 3).softmax(1)),
    ),
    "poisson": lambda: Any(mlp(6, 1), lambda o, y: F.poisson_nll_loss(o[:, 0], y), (x(32, 6), classes(32, 6).float())),
    "segmentation": lambda: Any(
        nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 2, 1)
        ),
        F.cross_entropy,
        (x(32, 1, 6, 6), (x(32, 1, 6, 6)[:, 0] > 0).long()),
    ),
    "sequence": lambda: Any(RNN(11, 3, all_positions=False), F.cross_entropy, (tokens, classes(32, 3))),
    "language": lambda: Any(RNN(11, 11, all_positions=True), token_loss, (tokens[:, :-1], tokens[:, 1:])),
    "transformer": lambda: Any(Transformer(), F.cross_entropy, (x(32, 7, 5), classes(32, 3))),
    "speech": lambda: Any(
        nn.Sequential(mlp(6, 36), nn.Unflatten(1, (9, 4)), nn.LogSoftmax(2)),
        lambda o, y: F.ctc_loss(o.transpose(0, 1), y[:, None] + 1, torch.full((len(y),), 9), torch.ones_like(y)),
        (x(32, 6), classes(32, 3)),
    ),
    "autoencoder": lambda: Any(mlp(6, 6), F.mse_loss, (x(32, 6), x(32, 6))),
    "sgd": lambda: Any(
        mlp(6, 3), F.cross_entropy, (x(32, 6), classes(32, 3)), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)
    ),
    "lbfgs": lambda: Any(mlp(6, 3), F.cross_entropy, (x(32, 6), classes(32, 3)), lambda p: torch.optim.LBFGS(p, 0.5)),
    "by_hand": lambda: Any(mlp(6, 1), lambda o, y: ((o[:, 0] - y) ** 2).mean(), (x(32, 6), x(32))),
    "summed": lambda: Any(
        mlp(6, 2), lambda o, y: F.mse_loss(o, y, reduction="none").sum(1).mean(), (x(32, 6), x(32, 2))
    ),
    "equal_labels": lambda: Any(mlp(6, 3), F.cross_entropy, (x(32, 6), torch.ones(32, dtype=torch.long))),
    "duplicates": lambda: Any(mlp(6, 3), F.cross_entropy, (x(16, 6).repeat_interleave(2, 0), classes(32, 3))),
}


@pytest.mark.parametrize("kind", HEALTHY)
def test_healthy_modules_memorise(fit, kind):
    finding = judged(fit, HEALTHY[kind]())
    assert finding.status == "passed", finding.message
    assert finding.evidence["measured"] < finding.evidence["start"]


# -- faults, and what they are called


class Softmax(Healthy):
    def loss(self, logits, y):
        return F.cross_entropy(logits.softmax(1), y)


class TooLow(Healthy):
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-7)


class TooHigh(Healthy):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e4)


class Clipped(Healthy):
    def loss(self, logits, y):
        return super().loss(logits, y).clamp(max=0.5)


class Detached(Healthy):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x).detach() + 0 * next(self.parameters()).sum(), y)


class Constant(Healthy):
    def forward(self, x):
        return super().forward(torch.zeros_like(x))


class OnlyPositive(Healthy):
    def forward(self, x):
        return super().forward(x)[:, 0].relu()

    def loss(self, out, y):
        return F.mse_loss(out, -1.0 - y.float())

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])


class Broadcast(Healthy):
    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0])[:, :1], batch[1].float())


class NotLogarithms(Healthy):
    def loss(self, logits, y):
        return F.nll_loss(logits, y)


class OfACopy(Healthy):
    def configure_optimizers(self):
        return torch.optim.Adam(copy.deepcopy(self.net).parameters())


class Stepless(Healthy):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.manual_backward(super().training_step(batch, batch_idx))


@pytest.mark.parametrize(
    ("disease", "said"),
    [
        (OfACopy, "the optimiser does not hold the parameters of net"),
        (TooLow, "raise the learning rate"),
        (TooHigh, "lower the learning rate"),
        (Clipped, "no parameter gets any gradient"),
        (Detached, "no parameter gets any gradient"),
        (Constant, "the same for all 8 examples"),
    ],
)
def test_faults_are_found_and_named(fit, disease, said):
    finding = judged(fit, disease())
    assert finding.status == "failed", finding.message
    assert said in finding.message + finding.fix


@pytest.mark.parametrize("disease", [Softmax, OnlyPositive, Broadcast])
def test_what_enters_the_loss_keeps_it_above_its_floor(fit, disease):
    finding = judged(fit, disease())
    assert finding.is_alarm
    assert finding.code in {"OverfitOneBatch/stuck", "OverfitOneBatch/too_slow"}
    assert finding.evidence["measured"] > finding.evidence["floor"] + 0.1


def test_a_loss_of_logarithms_has_no_floor_for_anything_else(fit):
    assert judged(fit, NotLogarithms()).code != "OverfitOneBatch/memorised"


def test_a_step_that_is_not_taken_is_named(fit):
    finding = judged(fit, Stepless(), max_epochs=1)  # its steps are never counted
    assert finding.status == "failed", finding.message
    assert "is step() called?" in finding.fix


def test_no_gradient_from_a_loss_by_hand_is_a_warning(fit):
    class Item(Healthy):
        def loss(self, logits, y):
            return torch.tensor(super().loss(logits, y).item(), requires_grad=True)

    finding = judged(fit, Item())
    assert finding.status == "warning", finding.message
    assert "no parameter gets any gradient" in finding.message


def test_only_adam_reaching_it_is_an_optimiser_problem(fit):
    evidence = judged(fit, TooLow()).evidence
    assert evidence["left"] > 0.9
    assert evidence["measured_with_adam"] < 0.3
    assert evidence["floor"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 5, 12])
def test_falling_when_the_steps_are_over_is_never_failed(fit, steps):
    finding = judged(fit, Healthy(), OverfitOneBatch(max_steps=steps))
    assert finding.status in {"warning", "skipped"} if steps <= 2 else finding.status == "warning", finding
    assert steps <= 2 or "in the last" in finding.message


def test_strict_stops_the_run(fit):
    with pytest.raises(FailedCheckError, match="gradient"):
        judged(fit, Clipped(), OverfitOneBatch(max_steps=120, strict=True))


# -- what can't be judged


class Noisy(Healthy):
    def forward(self, x):
        return super().forward(x + 20 * torch.randn_like(x))


class Penalised(Healthy):
    def loss(self, logits, y):
        return super().loss(logits, y) + 30 * logits.square().mean()


class TwoOptimizers(Healthy):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.Adam(self.net[0].parameters()), torch.optim.Adam(self.net[-1].parameters())]


class OneLossForTwo(TwoOptimizers):
    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()


class Policy(Healthy):
    def loss(self, logits, y):
        log_p = logits.log_softmax(1)
        action = torch.distributions.Categorical(logits=logits.detach()).sample()
        return -(log_p.gather(1, action[:, None])[:, 0] * (action == y).float().sub(0.5)).mean()


class Distilled(Healthy):
    def loss(self, logits, y):
        return F.mse_loss(logits, logits.detach() + 5)


class Contrastive(Healthy):
    def loss(self, logits, y):
        z = F.normalize(logits, dim=1)
        return F.cross_entropy(z @ z.flip(0).T, torch.arange(len(z)))


class Empty(Healthy):
    def on_train_batch_start(self, batch, batch_idx):
        return -1


class NotANumber(Healthy):
    def loss(self, logits, y):
        return super().loss(logits, y) * float("nan")


class Graph(Healthy):
    """Gets nodes, three for each graph; four of the graphs are equal and have different targets."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        nodes = torch.cat([x[:1].repeat(4, 1), x[1:5]]).repeat(3, 1)
        return F.cross_entropy(self.net(nodes).unflatten(0, (3, 8)).sum(0), torch.cat([torch.arange(4), y[1:5]]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.03)


class Linear(Healthy):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1)

    def forward(self, x):
        return self.net(x[:, :1])

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0])[:, 0], batch[0][:, 1])


class LinearProbe(Linear):
    """Its body is not frozen, but no optimiser holds it."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1))

    def configure_optimizers(self):
        return torch.optim.Adam(self.net[2].parameters(), lr=0.01)


class PrincipalComponents(Healthy):
    """Reproduces its input through two linear layers and a narrow code."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 2, bias=False), nn.Linear(2, FEATURES, bias=False))

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0]), batch[0])


class NoCopy(Healthy):
    def __init__(self):
        super().__init__()
        self.lock = types.SimpleNamespace(generator=(i for i in range(3)))


class OutOfMemory(Healthy):
    def training_step(self, batch, batch_idx):
        if len(self.trainer.callbacks) == 1 and type(self.trainer.callbacks[0]).__name__ == "_Recorder":
            raise torch.OutOfMemoryError
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Noisy, "random"),
        (Policy, "policy"),
        (Distilled, "not known"),
        (Linear, "one layer"),
        (LinearProbe, "one layer"),
        (PrincipalComponents, "one affine map"),
        (Graph, "equal ones with different targets"),
        (Empty, "no step"),
        (NotANumber, "no loss to begin with"),
        (NoCopy, "could not be trained"),
        (OutOfMemory, "memory"),
    ],
)
def test_what_has_no_known_floor_is_skipped(fit, kind, said):
    finding = judged(fit, kind(), max_epochs=1)
    assert finding.status == "skipped", finding.message
    assert said in finding.message


class Blind(Penalised):
    def forward(self, x):
        return super().forward(0 * x)


def test_other_terms_and_losses_of_many_calls_are_asked(fit):
    assert judged(fit, Contrastive(), max_epochs=1).status == "passed"
    penalised = judged(fit, Penalised(), max_epochs=1)
    assert penalised.status == "passed", penalised.message
    assert penalised.evidence["measured"] < penalised.evidence["constant"]
    assert judged(fit, Blind(), max_epochs=1).status == "failed"


class Queue(Healthy):
    """Compares each example with those of earlier steps, as MoCo does: of repeats, with itself."""

    detached, rate = False, 0.1

    def __init__(self):
        super().__init__()
        self.register_buffer("queue", F.normalize(torch.randn(64, CLASSES), dim=1))

    def training_step(self, batch, batch_idx):
        out = F.normalize(self(batch[0] if not self.detached else 0 * batch[0]), dim=1)
        key = F.normalize(batch[0][:, :CLASSES], dim=1)
        negatives = self.queue.clone()
        self.queue = torch.cat([self.queue[len(key) :], key])
        logits = torch.cat([(out * key).sum(1, keepdim=True), out @ negatives.T], 1) / 0.2
        return F.cross_entropy(logits, torch.zeros(len(out), dtype=torch.long))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.rate, momentum=0.9)


class BlindQueue(Queue):
    detached = True


def test_what_a_step_keeps_is_held(fit):
    found = judged(fit, Queue(), OverfitOneBatch(max_seconds=600))
    assert found.status == "passed", found.message
    assert found.evidence["measured"] < found.evidence["constant"] < found.evidence["start"]
    assert judged(fit, BlindQueue(), OverfitOneBatch(max_seconds=600)).status == "skipped"


def test_a_resumed_run_is_skipped(fit, tmp_path):
    trainer = fit(Healthy(), max_steps=3)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    check = OverfitOneBatch()
    module = Healthy()
    trainer = L.Trainer(accelerator="cpu", max_steps=5, callbacks=[check], logger=False, enable_checkpointing=False,
                        enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(module, ckpt_path=tmp_path / "last.ckpt", weights_only=False)
    assert [finding.status for finding in check.findings] == ["skipped"]


def test_the_seconds_are_a_safety_net(fit):
    class Slow(Healthy):
        def training_step(self, batch, batch_idx):
            time.sleep(0.2)
            return super().training_step(batch, batch_idx)

    began = time.monotonic()
    finding = judged(fit, Slow(), OverfitOneBatch(max_steps=20, max_seconds=2))  # its work alone takes 0.1
    assert time.monotonic() - began < 10
    assert (finding.status, finding.code) == ("skipped", "OverfitOneBatch/time_over")


def test_a_step_is_too_expensive_by_its_work(fit):
    finding = judged(fit, Healthy(), OverfitOneBatch(max_seconds=0.5))
    assert (finding.code, finding.evidence["steps"]) == ("OverfitOneBatch/too_expensive", 4)
    assert finding.status == "skipped"
    assert 1e-3 < finding.evidence["step_seconds"] < 1e-2


def test_two_examples_are_enough_where_steps_are_expensive(fit):
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.Flatten(), nn.Linear(32 * 784, 5))
    module = Any(net, F.cross_entropy, (x(32, 3, 32, 32), classes(32, 5)), lambda p: torch.optim.Adam(p, 1e-3))
    finding = judged(fit, module, OverfitOneBatch(max_seconds=25))
    assert (finding.status, finding.evidence["examples"]) == ("passed", 2), finding


class OneUnit(Healthy):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 1), nn.ReLU(), nn.Linear(1, CLASSES))


class FarTooLow(Healthy):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-6)


class Clock:
    """Each look at it takes as long."""

    def __init__(self, seconds):
        self.seconds, self.looks = seconds, 0

    def __call__(self):
        self.looks += 1
        return self.seconds * self.looks


ON_ANY_MACHINE = [(Healthy, "memorised"), (OneUnit, "too_slow"), (FarTooLow, "learning_rate_too_low")]


@pytest.mark.parametrize(("kind", "code"), ON_ANY_MACHINE)
def test_verdicts_do_not_depend_on_the_clock(fit, kind, code, monkeypatch):
    found = []
    for seconds in (1e-3, 4e-2):  # for a step
        with monkeypatch.context() as patch:
            patch.setattr(time, "monotonic", Clock(seconds))
            torch.manual_seed(0)
            finding = judged(fit, kind(), OverfitOneBatch(max_steps=110, tolerance=0.05))
        found.append((finding.code, finding.evidence))
    assert found[0][0] == f"OverfitOneBatch/{code}"
    assert found[0] == found[1]


# -- manual optimisation, schedules, batches that can't be sliced


class Manual(Healthy):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
        optimizer.step()
        self.lr_schedulers().step()


class WarmUp(Healthy):
    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1.0)  # times at most 0.003
        noam = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 0.005 * min((i + 1) / 20, (20 / (i + 1)) ** 0.5))
        return [optimizer], [{"scheduler": noam, "interval": "step"}]


class OneCycle(Healthy):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=self.trainer.estimated_stepping_batches)
        return [optimizer], [{"scheduler": cycle, "interval": "step"}]


class WholeBatch(Healthy):
    def forward(self, x):
        return self.net(x.view(32, FEATURES))


class Compiled(Healthy):
    def __init__(self):
        super().__init__()
        self.net = torch.compile(self.net, backend="eager")


class Mapping(Healthy):
    def training_step(self, batch, batch_idx):
        return super().training_step((batch.pop("x"), batch.pop("y")), batch_idx)

    def train_dataloader(self):
        return DataLoader([{"x": a, "y": b} for a, b in self.data(64, 1)], 32)


@dataclass(frozen=True)
class Fixed:
    """Lightning's own functions refuse to move or to copy it."""

    x: torch.Tensor
    y: torch.Tensor


class FrozenBatch(Healthy):
    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch.x), batch.y)

    def train_dataloader(self):
        data = self.data(64, 1)
        return DataLoader(data, 32, collate_fn=lambda items: Fixed(*map(torch.stack, zip(*items, strict=True))))


@pytest.mark.parametrize("kind", [Manual, OneLossForTwo, WarmUp, OneCycle, WholeBatch, Mapping, Compiled, FrozenBatch])
def test_it_works_out(fit, kind):
    check = OverfitOneBatch(max_seconds=600, tolerance=0.05)
    finding = judged(fit, kind(), check, **({"max_epochs": 8, "max_steps": -1} if kind in {OneCycle, WarmUp} else {}))
    assert finding.status == "passed", finding.message
    assert finding.evidence["examples"] == (32 if kind is WholeBatch else 8)


class OwnWarmUp(Healthy):
    """Sets its learning rate before each update, as Lightning's documentation shows."""

    def optimizer_step(self, epoch, batch_idx, optimizer, closure):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (self.trainer.global_step + 1) / 20)
        optimizer.step(closure=closure)


def test_a_warm_up_of_ones_own_is_no_noise(fit):
    class Check(OverfitOneBatch):
        def attempt(self, run):
            trial = super().attempt(run)
            self.noise = trial.fits[0].noise
            return trial

    check = Check(max_seconds=600, tolerance=0.05)
    finding = judged(fit, OwnWarmUp(), check)
    assert (finding.status, check.noise) == ("passed", 0), finding.message


@pytest.mark.parametrize(
    ("cut_short", "rate", "status"),
    [(False, 1e-2, "warning"), (True, 1e-2, "skipped"), (False, 0.3, "passed")],
)
def test_only_steps_that_lead_nowhere_near_are_accused(fit, cut_short, rate, status):
    class Slow(OverfitOneBatch):
        def attempt(self, *arguments):
            trial = super().attempt(*arguments)
            for one in trial.fits:
                one.cut_short = cut_short
            return trial

    class Falling(Healthy):
        def __init__(self):
            super().__init__()
            self.net = mlp(FEATURES, CLASSES)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=rate)

    batch = torch.randn(96, FEATURES), torch.arange(96) % CLASSES
    check = Slow(max_steps=110, max_seconds=600, max_examples=96)
    finding = judged(fit, Falling(), check, train=DataLoader(TensorDataset(*batch), 96))
    assert finding.status == status, finding.message
    assert (finding.evidence.get("steps", 0) > 110) == (status == "passed")


def test_the_pace_of_few_steps_is_known():
    few = Fit("SGD (lr 1)", losses=[2.0, 0.9, 0.5], calls={0: [], 1: [], 2: []}, longer=True)
    assert Trial(0.02).is_nearly_there(few)


# -- no trace


class Hostile(Healthy):
    """Watches who calls it, and draws random numbers of all kinds."""

    def __init__(self, calls):
        super().__init__()
        self.calls, self.data_set = calls, TensorDataset(torch.zeros(1))
        self.register_buffer("steps", torch.zeros(()))
        self.last = None

    def __deepcopy__(self, memo):
        duplicate = type(self).__new__(type(self))
        memo[id(self)] = duplicate
        import copy  # noqa: PLC0415

        calls = self.__dict__.pop("calls")
        duplicate.__dict__.update(copy.deepcopy(self.__dict__, memo) | {"calls": calls, "is_copy": True})
        self.__dict__["calls"] = calls
        return duplicate

    def training_step(self, batch, batch_idx):
        self.steps += 1
        batch[0].add_(0.01 * random.random() + 0.01 * np.random.rand())  # noqa: NPY002
        if getattr(self, "is_copy", False):
            self.calls.append("step of the copy")
        self.logger.experiment.add_scalar("mine", 1.0, batch_idx)
        self.last = self(batch[0])
        return super().training_step(batch, batch_idx)

    def _seen(self, name):
        if getattr(self, "is_copy", False):
            self.calls.append(name)

    def prepare_data(self):
        self._seen("prepare_data")

    def setup(self, stage):
        self._seen("setup")

    def teardown(self, stage):
        self._seen("teardown")

    def configure_callbacks(self):
        self._seen("configure_callbacks")
        return []

    def on_train_start(self):
        self._seen("on_train_start")

    def on_train_epoch_end(self):
        self._seen("on_train_epoch_end")

    def on_train_end(self):
        self._seen("on_train_end")

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self._seen("on_after_batch_transfer")
        return batch


class Data(L.LightningDataModule):
    def __init__(self):
        super().__init__()
        self.calls = []

    def setup(self, stage):
        self.calls.append("setup")

    def teardown(self, stage):
        self.calls.append("teardown")

    def train_dataloader(self):
        self.calls.append("train_dataloader")
        return Healthy().train_dataloader()


class Streams(Callback):
    """The random streams at the start of every batch, and the modes."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(
            (torch.rand(1).item(), random.random(), np.random.rand(), float(batch[0].sum()), pl_module.training)  # noqa: NPY002
        )


def test_the_run_is_bit_identical(fit):
    runs = []
    for callbacks in ([], [OverfitOneBatch(max_steps=10)]):
        calls, streams = [], Streams()
        torch.manual_seed(0)
        module = Hostile(calls)
        trainer = fit(module, [*callbacks, streams])
        state = module.state_dict() | {
            f"o{i}{k}": v for i, s in enumerate(trainer.optimizers[0].state.values()) for k, v in s.items()
        }
        metrics = {k: float(v) for k, v in trainer.logged_metrics.items()}
        runs.append((state, metrics, streams.seen, calls))
    (bare, metrics, seen, _), (watched, metrics_too, seen_too, calls) = runs
    assert bare.keys() == watched.keys()
    assert all(torch.equal(bare[name], watched[name]) for name in bare)
    assert (metrics, seen) == (metrics_too, seen_too)
    assert set(calls) == {"step of the copy"}


def test_the_data_module_is_left_alone(fit):
    data = Data()
    check = OverfitOneBatch(max_steps=5)
    fit(Healthy(), [check], train=data, max_steps=1)
    assert data.calls == ["setup", "train_dataloader", "teardown"]
    assert data.trainer.max_steps == 1


def test_pictures_are_in_tensorboard(fit, events):
    trainer = fit(TooLow(), [OverfitOneBatch(max_steps=20)], max_steps=1)
    tags = events(trainer).Tags()
    assert set(tags["images"]) == {"2.08 OverfitOneBatch/loss", "2.08 OverfitOneBatch/labels and predictions"}


def test_a_loss_of_sequences_has_no_picture_of_labels(fit, events):
    trainer = fit(HEALTHY["speech"](), [OverfitOneBatch(max_steps=20)], max_steps=1)
    assert events(trainer).Tags()["images"] == ["2.08 OverfitOneBatch/loss"]


@pytest.mark.parametrize(
    ("name", "prediction", "target"),
    [
        ("cross_entropy", torch.randn(8, 100), torch.arange(8)),
        ("cross_entropy", torch.randn(8, 5), torch.rand(8, 5).softmax(1)),
        ("cross_entropy", torch.randn(2, 5, 4, 4), torch.randint(5, (2, 4, 4))),
        ("nll_loss", torch.randn(3, 5).log_softmax(1), torch.tensor([1, -100, 2])),
        ("multi_margin_loss", torch.randn(8, 5), torch.arange(8) % 5),
        ("binary_cross_entropy_with_logits", torch.randn(8), torch.ones(8)),
        ("mse_loss", torch.ones(8, 3), torch.ones(8, 3)),
    ],
)
def test_labels_and_predictions_of_all_kinds_are_drawn(name, prediction, target):
    image = pixels(labels_and_predictions(name, {"input": prediction, "target": target}))
    assert image.shape == (360, 640, 3)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 10


def test_nothing_of_the_inner_trainer_is_said(fit, capfd, recwarn):
    fit(Healthy(), [OverfitOneBatch(max_steps=3)], max_steps=1)
    out, err = capfd.readouterr()
    assert "max_steps=3" not in out + err
    assert out.count("OverfitOneBatch: ") == 1
    assert not [w for w in recwarn if "lightning_recipe" in str(w.filename)]


def test_processes_try_each_for_itself(fit, tmp_path):
    class Tells(LambdaCallback):
        def on_train_epoch_end(self, trainer, pl_module):  # after it, all have what the first one found
            (finding,) = check.findings
            told = finding.to_dict()["evidence"] | {"status": finding.status.value, "code": finding.code}
            (tmp_path / f"{trainer.global_rank}.json").write_text(json.dumps(told), encoding="utf-8")

    check = OverfitOneBatch(max_steps=110, tolerance=0.05, max_seconds=600)
    settings = {"strategy": "ddp_fork", "devices": 2, "max_steps": 1, "limit_val_batches": 0}
    fit(Healthy(), [check, Tells()], **settings)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2))
    assert first["status"] == second["status"] == "passed"
    assert first["start"] != second["start"], "on the batch of each"


@pytest.mark.parametrize("wrong", [{"max_examples": 0}, {"max_steps": -1}, {"max_seconds": 0}, {"tolerance": 1.5}])
def test_senseless_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        OverfitOneBatch(**wrong)


assert CLASSES == 4  # the floors above are for four classes


def test_nothing_of_the_copies_is_left(fit):
    """Not even in reference cycles, which would hold a copy of the network and its optimiser for a while."""

    class Counted(Healthy):
        pass

    seen = []

    def count(*_):
        seen.append(sum(type(thing) is Counted for thing in gc.get_objects()))

    gc.collect()
    fit(Counted(), [OverfitOneBatch(max_steps=5), LambdaCallback(on_train_batch_start=count)], max_steps=1)
    assert seen == [1]


class Deep(Healthy):
    """Without norms, by SGD with momentum: 8 examples are steeper than 32."""

    rate = 0.05

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        widths = [FEATURES] + [48] * 7
        layers = [part for pair in pairwise(widths) for part in (nn.Linear(*pair), nn.ReLU())]
        self.net = nn.Sequential(*layers, nn.Linear(48, CLASSES))
        for layer in self.net[::2]:
            nn.init.kaiming_normal_(layer.weight)

    def train_dataloader(self):
        return DataLoader(self.data(256, 1), 32)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.rate, momentum=0.9)


def test_a_rate_at_its_edge_is_advice_and_one_beyond_it_failed(fit):
    finding = judged(fit, Deep(), OverfitOneBatch(max_seconds=600))
    assert (finding.status, finding.code) == ("advice", "OverfitOneBatch/optimiser_at_its_edge")
    program = Deep()
    program.rate = 1.0
    finding = judged(fit, program, OverfitOneBatch(max_seconds=600))
    assert (finding.status, finding.code) == ("failed", "OverfitOneBatch/optimiser_unstable")


def test_a_schedule_that_lightning_is_not_told_of(fit):
    """As of a published transformer, which warms up from 0 in ``optimizer_step``."""

    class WarmsUp(Healthy):
        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), 3e-3)
            self.schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 50))
            return optimizer

        def optimizer_step(self, *args, **kwargs):
            super().optimizer_step(*args, **kwargs)
            self.schedule.step()

    finding = judged(fit, WarmsUp())
    assert finding.code == "OverfitOneBatch/memorised", finding
    assert "lr 0.003" in finding.message
