import contextlib
import io
import itertools
import math

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from patients import CLASSES, FEATURES, Healthy
from PIL import Image
from torch import nn
from torch.distributions import Normal, StudentT
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe import Status
from lightning_recipe.callbacks import _fixed_outputs
from lightning_recipe.callbacks._dynamics_verdict import LATE_LOOKS
from lightning_recipe.callbacks._fixed_batch import KEPT
from lightning_recipe.callbacks.prediction_dynamics_logger import PredictionDynamicsLogger
from lightning_recipe.figures import dynamics
from lightning_recipe.figures.sequences import FAN
from lightning_recipe.looks import frames, next_step
from lightning_recipe.losses.measures import ALIKE
from lightning_recipe.watch import WINDOW

LONG = {"max_epochs": 6, "limit_val_batches": 1, "check_val_every_n_epoch": 100}  # 48 steps


def impatient(**arguments):
    """Judges runs of 48 steps."""
    return PredictionDynamicsLogger(every_n_steps=5, min_steps=40, **arguments)


def run(fit, module, callback=None, *, pictures=False, **settings):
    callback = callback or PredictionDynamicsLogger()
    trainer = fit(module, [callback], **({} if pictures else {"logger": False}), **settings)
    assert len(callback.findings) == 1
    return callback.findings[0], trainer


def test_no_batch_is_kept_if_none_is_to_be(fit):
    logger = PredictionDynamicsLogger(keep_examples=False)
    finding, _ = run(fit, Healthy(), logger)
    assert finding.status is Status.SKIPPED
    assert not logger._steps


# -- false alarms first


def test_healthy_passes_and_is_measured(fit):
    finding, _ = run(fit, Healthy(), impatient(), **LONG)
    assert finding.status is Status.PASSED
    assert finding.step == 48
    assert finding.evidence["moved"] > 0.3
    assert finding.evidence["late_moved"] < 0.1
    assert finding.evidence["error"] < 0.5


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_short_runs_are_not_accused(fit, steps):
    class Slow(Healthy):
        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-7)

    finding, _ = run(fit, Slow(), max_steps=steps)
    assert finding.status in {Status.PASSED, Status.SKIPPED}


class NoNorm(Healthy):
    """Without running statistics, which move predictions even at a learning rate of 0."""

    rate = 3e-3

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, 4))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.rate)


class RandomLabels(NoNorm):
    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(x, y[torch.randperm(n, generator=torch.Generator().manual_seed(seed))])


@pytest.mark.parametrize("rate", [1e-4, 1e-3, 1e-2])
def test_what_can_not_be_learnt_is_not_accused(fit, rate):
    class Module(RandomLabels):
        pass

    Module.rate = rate
    finding, _ = run(fit, Module(), impatient(), **LONG)
    assert finding.status in {Status.PASSED, Status.SKIPPED}


def test_good_from_the_start_needs_not_move(fit):
    class Pretrained(NoNorm):
        rate = 1e-9

    module = Pretrained()
    centres = module.data(4, 0).tensors[0]
    module.net = nn.Linear(FEATURES, 4)  # the right answer is the nearest centre
    with torch.no_grad():
        module.net.weight.copy_(centres)
        module.net.bias.copy_(-centres.square().sum(1) / 2)
    finding, _ = run(fit, module, impatient(), **LONG)
    assert finding.status is Status.PASSED
    assert finding.evidence["moved"] < 0.01


def test_a_rate_that_still_rises_is_not_accused(fit):
    class WarmUp(NoNorm):
        rate = 1.0

        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step * 1e-8)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    finding, _ = run(fit, WarmUp(), impatient(), **LONG)
    assert finding.status is Status.SKIPPED
    assert "still rises" in finding.message


def test_unknown_targets_are_not_accused(fit):
    class ByHand(NoNorm):
        rate = 1e-9

        def loss(self, logits, y):
            return (logits.exp().sum(1).log() - logits[range(len(y)), y]).mean()

    finding, _ = run(fit, ByHand(), impatient(), **LONG)
    assert finding.status is Status.SKIPPED
    assert "no loss tells" in finding.message


def test_targets_that_are_all_the_same_are_not_judged(fit):
    class Constant(NoNorm):
        rate = 1e-9

        def loss(self, logits, y):
            return F.mse_loss(logits[:, 0], torch.ones(len(y)))

    finding, _ = run(fit, Constant(), impatient(), **LONG)
    assert finding.status is Status.SKIPPED


# -- diseases


def test_frozen(fit):
    class Slow(NoNorm):
        rate = 1e-7

    finding, _ = run(fit, Slow(), impatient(), **LONG)
    assert finding.status is Status.WARNING
    assert "raise the learning rate" in finding.fix
    assert finding.evidence["moved"] < 0.001


def test_frozen_parameters(fit):
    class Frozen(NoNorm):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx).detach().requires_grad_()

    finding, _ = run(fit, Frozen(), impatient(), **LONG)
    assert finding.status is Status.WARNING
    assert finding.evidence["moved"] == 0


def test_an_adversary_may_change_its_mind(fit):
    class Matched(RandomLabels):
        rate = 10.0
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()
            return loss

        def configure_optimizers(self):
            return [torch.optim.Adam([p], lr=self.rate) for p in self.parameters()]

    finding, _ = run(fit, Matched(), impatient(), **LONG)
    assert (finding.status, finding.code) == (Status.SKIPPED, "PredictionDynamicsLogger/adversaries")


def test_jumping(fit):
    class Fast(RandomLabels):
        rate = 10.0

    finding, _ = run(fit, Fast(), impatient(), **LONG)
    assert finding.status is Status.WARNING
    assert "lower the learning rate" in finding.fix
    assert finding.evidence["late_moved"] > 0.15
    assert finding.evidence["late_flips"] > 0.3


def test_collapsed(fit):
    class Decayed(NoNorm):
        def __init__(self):
            super().__init__()
            nn.init.normal_(self.net[-1].weight, std=0.05)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1, weight_decay=3.0)

    finding, _ = run(fit, Decayed(), impatient(), **LONG)
    assert finding.status is Status.WARNING
    assert "weight decay" in finding.fix
    assert finding.evidence["spread"] < 0.001


def test_not_finite(fit):
    class Broken(NoNorm):
        def on_train_batch_start(self, batch, batch_idx):
            if self.global_step == 3:
                nn.init.constant_(self.net[0].bias, math.nan)

    finding, _ = run(fit, Broken())
    assert finding.status is Status.WARNING
    assert "NaN" in finding.message


# -- when it looks


class Looks(PredictionDynamicsLogger):
    """Remembers the steps at which it looked."""

    def _look(self, run, fixed):
        super()._look(run, fixed)
        self.at = [*getattr(self, "at", []), fixed.latest]
        self.fixed = fixed


def test_looks_get_rarer_and_stay_enough_for_a_verdict():
    due = [0]
    while (step := next_step(due[-1], PredictionDynamicsLogger().every_n_steps, dense=LATE_LOOKS)) < 10_000:
        due.append(step)
    assert due[:8] == [0, 1, 2, 4, 8, 16, 25, 50]
    assert due[-3:] == [6400, 8000, 9600]
    for end in range(200, 10_000, 10):
        assert LATE_LOOKS <= len([end, *(step for step in due if end / 2 < step < end)]) <= 8


def test_steps_and_scalars(fit, events):
    callback = Looks(every_n_steps=10)
    _, trainer = run(fit, Healthy(), callback, pictures=True, max_epochs=5)
    assert callback.at == [0, 1, 2, 4, 8, 10, 20, 30, 40]
    read = events(trainer)
    for curve in ("jitter (share per step)", "flips (share per look)"):
        assert [e.step for e in read.Scalars(callback.tag(curve))] == callback.at[1:]
    right = read.Scalars(callback.tag("right (share)"))
    assert [e.step for e in right] == callback.at
    fixed = callback.fixed
    assert right[-1].value == pytest.approx(float((fixed.last.argmax(1) == fixed.how.target).float().mean()))


def test_predictions_are_those_of_the_module_in_eval_mode(fit):
    class Last(PredictionDynamicsLogger):
        def judge(self, fixed):
            self.last, self.first = fixed.last, fixed.first
            return super().judge(fixed)

    module, callback = Healthy(), Last()
    x = next(iter(module.val_dataloader()))[0][:16]
    before = module.eval()(x).softmax(1).detach()
    fit(module.train(), [callback])
    assert torch.allclose(callback.first, before, atol=1e-6)
    assert torch.allclose(callback.last, module.eval()(x).softmax(1), atol=1e-6)


def test_the_loss_of_a_look_is_that_of_the_steps_shortly_before(fit):
    class Counting(Healthy):
        def training_step(self, batch, batch_idx):
            return 0 * super().training_step(batch, batch_idx) + self.trainer.global_step

    class Looks(PredictionDynamicsLogger):
        def judge(self, fixed):
            self.losses = {look.step: look.numbers["loss"] for look in fixed.looks}
            return super().judge(fixed)

    callback = Looks(every_n_steps=30)
    run(fit, Counting(), callback, max_steps=100, max_epochs=-1)
    gaps = {step: step - before for before, step in itertools.pairwise(callback.losses)}
    assert list(gaps.items())[-3:] == [(60, 30), (90, 30), (100, 10)]
    for step, gap in gaps.items():
        assert callback.losses[step] == step - (min(gap, WINDOW) + 1) / 2


def test_losses_of_several_shapes_are_added_up(fit):
    class Shapes(Healthy):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss.reshape([(), (1,), (1, 1)][batch_idx % 3])

    finding, _ = run(fit, Shapes(), impatient(), **LONG)
    plain, _ = run(fit, Healthy(), impatient(), **LONG)
    assert finding.status is Status.PASSED
    assert finding.evidence["loss_late"] == pytest.approx(plain.evidence["loss_late"], rel=0.3)


def test_what_can_t_be_added_up_is_left_out(fit):
    class Imaginary(Healthy):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            self.manual_backward(super().training_step(batch, batch_idx))
            self.optimizers().step()
            return torch.tensor(1j)

    finding, trainer = run(fit, Imaginary(), impatient(), **LONG)
    assert trainer.global_step == 48
    assert finding.status is Status.PASSED
    assert "loss_late" not in finding.evidence


def test_accumulated_steps_count_once(fit):
    callback = Looks(every_n_steps=2)
    run(fit, Healthy(), callback, accumulate_grad_batches=4, max_epochs=2)
    assert callback.at == [0, 1, 2, 4]


@pytest.mark.parametrize("settings", [{"num_sanity_val_steps": 0}, {"limit_val_batches": 0}])
def test_without_a_sanity_check_the_first_training_batch(fit, settings):
    callback = Looks()
    finding, _ = run(fit, Healthy(), callback, **settings)
    assert finding.status is Status.PASSED
    assert callback.at == [1, 2, 3, 5, 9, 16]


def test_a_validation_step_without_a_loss_gives_way_to_training(fit):
    class NoLoss(Healthy):
        def validation_step(self, batch, batch_idx):
            self.accuracy(self(batch[0]), batch[1])

    callback = Looks()
    finding, _ = run(fit, NoLoss(), callback)
    assert finding.status is Status.PASSED
    assert callback.at[0] == 1
    assert callback.fixed.how.kind == "classes"


def test_a_first_step_that_is_left_out_is_waited_for(fit):
    class LeavesOut(Healthy):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if self.current_epoch == 0 else None

    callback, module = Looks(), LeavesOut()
    finding, _ = run(fit, module, callback, limit_val_batches=0)
    assert finding.status is Status.PASSED
    assert callback.at[0] == 1
    assert "training_step" not in module.__dict__


def test_resumed_runs_go_on_counting(fit, tmp_path):
    fit(Healthy(), max_epochs=1).save_checkpoint(tmp_path / "last.ckpt")
    callback = Looks()
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=2, callbacks=[callback], logger=False, default_root_dir=tmp_path,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Healthy(), ckpt_path=tmp_path / "last.ckpt")
    assert callback.at == [8, 9, 10, 12, 16]


def test_memory_is_bounded_and_nothing_is_kept_after_the_fit(fit):
    class Always(Looks):
        def next_look(self, run):
            return run.step + 1

    callback = Always()
    run(fit, NoNorm(), callback, max_epochs=10)
    assert len(callback.at) == 81
    looks = callback.fixed.looks
    assert len(looks) <= KEPT
    assert [look.step for look in looks] == [*range(0, 81, 2)]
    assert callback._fixed is None
    assert callback._steps == []


def test_only_as_many_examples_are_run_again_as_are_shown(fit):
    sizes = []

    class Counts(NoNorm):
        def forward(self, x):
            if not self.training:
                sizes.append(len(x))
            return super().forward(x)

    run(fit, Counts(), PredictionDynamicsLogger(max_examples=5), max_steps=4)
    assert sizes[-4:] == [5, 5, 5, 5]


# -- what it can't look at


def test_several_modules_without_a_loss_are_a_reason(fit):
    class GAN(Healthy):
        automatic_optimization = False

        def __init__(self):
            super().__init__()
            self.g, self.d = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, 1)

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(F.softplus(-self.d(self.g(batch[0]) + 1)).mean())
            optimizer.step()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-3)

        def validation_step(self, batch, batch_idx):
            pass

    finding, _ = run(fit, GAN())
    assert finding.status is Status.PASSED, "what d puts out is looked at, from the step run again"
    assert "error" not in finding.evidence, "nobody knows what it should be"

    class NotCopied(GAN):
        def __deepcopy__(self, memo):
            raise TypeError

    finding, _ = run(fit, NotCopied())
    assert finding.status is Status.SKIPPED
    assert "the step calls g, d" in finding.message
    assert "predict=" in finding.message


class TwoSteps(NoNorm):
    """Computes between two modules, so that its network can't be run again on its own."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.net(x) * 2)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.head(self.net(batch[0]) * 2), batch[1])

    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)


def test_code_between_modules_is_run_again_with_the_step(fit):
    finding, _ = run(fit, TwoSteps(), impatient(), **LONG)
    assert finding.status is Status.PASSED
    assert finding.evidence["error"] < 0.9, "its target is known"
    assert finding.evidence["moved"] > 0.1

    class Still(TwoSteps):
        rate = 1e-7

        def __init__(self):
            super().__init__()
            nn.init.zeros_(self.head.weight)  # begins with knowing nothing

    finding, _ = run(fit, Still(), impatient(), **LONG)
    assert finding.status is Status.WARNING, finding


class SelfDistilled(NoNorm):
    """Noise is added, a teacher follows, and no known loss compares: as BYOL."""

    def __init__(self):
        super().__init__()
        self.teacher, self.head = nn.Linear(FEATURES, 3).requires_grad_(requires_grad=False), nn.Linear(4, 3)

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            self.teacher.weight.lerp_(self.net[0].weight[:3], 0.01)
        said = F.normalize(self.head(F.normalize(self.net(batch[0] + torch.randn_like(batch[0])), dim=1)), dim=1)
        return -(said * F.normalize(self.teacher(batch[0]), dim=1)).sum(1).mean()

    def validation_step(self, batch, batch_idx):
        pass


def test_what_learns_is_looked_at_where_no_loss_compares(fit):
    finding, _ = run(fit, SelfDistilled(), impatient(), **LONG)
    assert finding.status is Status.PASSED
    assert finding.evidence["moved"] > 0.1

    class Still(SelfDistilled):
        rate = 1e-9

    still, _ = run(fit, Still(), impatient(), **LONG)
    assert still.evidence["moved"] < 0.01 * finding.evidence["moved"], "always the same random numbers"


def test_large_modules_are_not_copied_at_each_look(fit, monkeypatch):
    monkeypatch.setattr(_fixed_outputs, "WATCHED", 100)
    finding, _ = run(fit, TwoSteps())
    assert finding.status is Status.SKIPPED
    assert "code outside of modules" in finding.message


def test_predict_is_a_way_out(fit):
    finding, _ = run(
        fit, TwoSteps(), PredictionDynamicsLogger(predict=lambda module, batch: module(batch[0])), max_epochs=4
    )
    assert finding.status is Status.PASSED
    assert finding.evidence["error"] < 1


@pytest.mark.parametrize("predict", [lambda module, batch: None, lambda module, batch: batch["x"]])
def test_a_predict_that_does_not_work_is_a_reason(fit, predict):
    finding, _ = run(fit, Healthy(), PredictionDynamicsLogger(predict=predict))
    assert finding.status is Status.SKIPPED
    assert "predict" in finding.message


class Odd(NoNorm):
    """Batches that are dictionaries with strings, objects and Nones."""

    def collate(self, examples):
        x, y = (torch.stack(part) for part in zip(*examples, strict=True))
        return {"x": x, "y": y, "names": ["a"] * len(x), "none": None, "object": object()}

    def train_dataloader(self):
        return DataLoader(self.data(64, 1), 32, collate_fn=self.collate)

    def val_dataloader(self):
        return DataLoader(self.data(64, 1), 32, collate_fn=self.collate)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch["x"]), batch["y"])

    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)


class OneExample(NoNorm):
    def train_dataloader(self):
        return DataLoader(self.data(16, 1), 1)

    val_dataloader = train_dataloader


class EmptyValidation(Healthy):
    def val_dataloader(self):
        return DataLoader(self.data(0, 1), 32)


class BrokenInputs(NoNorm):
    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(torch.full_like(x, math.nan), y)


class ManyClasses(NoNorm):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(FEATURES, 200_000)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def train_dataloader(self):
        return DataLoader(self.data(8, 1), 4)

    val_dataloader = train_dataloader


class OtherInEval(NoNorm):
    """Returns all positions in training and the last one in eval mode, as recurrent forecasters do."""

    def forward(self, x):
        positions = super().forward(x).unsqueeze(1).repeat(1, 3, 1)
        return positions if self.training else positions[:, -1:]

    def training_step(self, batch, batch_idx):
        return (self(batch[0])[:, -1] - F.one_hot(batch[1], CLASSES).float()).square().mean()

    def validation_step(self, batch, batch_idx):
        pass


@pytest.mark.parametrize("module", [OtherInEval, Odd, OneExample, EmptyValidation, BrokenInputs, ManyClasses])
def test_hostile_inputs(fit, module):
    finding, _ = run(fit, module(), pictures=True, max_epochs=1)
    assert finding.status in {Status.PASSED, Status.SKIPPED}
    assert "Error" not in finding.message


# -- pictures


class Kinds(L.LightningModule):
    def __init__(self, net, loss, x, y):
        super().__init__()
        self.net, self.loss, self.x, self.y = net, loss, x, y

    def training_step(self, batch, _):
        return self.loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.loss(self.net(batch[0]), batch[1])

    def train_dataloader(self):
        return DataLoader(TensorDataset(self.x, self.y), 8)

    def val_dataloader(self):
        return DataLoader(TensorDataset(self.x, self.y), 8)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def by_token(logits, ids):
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten())


KINDS = {
    "classes": lambda: (nn.Linear(5, 3), F.cross_entropy, torch.randn(64, 5), torch.arange(64) % 3),
    "one label": lambda: (nn.Linear(5, 1), F.binary_cross_entropy_with_logits, torch.randn(64, 5), torch.ones(64, 1)),
    "labels": lambda: (nn.Linear(5, 3), F.binary_cross_entropy_with_logits, torch.randn(64, 5), torch.ones(64, 3)),
    "numbers": lambda: (nn.Linear(5, 1), F.mse_loss, torch.randn(64, 5), torch.randn(64, 1)),
    "tokens": lambda: (
        nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 11)), by_token, torch.arange(64 * 9).view(64, 9) % 11,
        torch.arange(1, 64 * 9 + 1).view(64, 9) % 11,
    ),
    "classes of pixels": lambda: (
        nn.Conv2d(1, 3, 3, padding=1), F.cross_entropy, torch.randn(64, 1, 16, 16), torch.ones(64, 16, 16).long(),
    ),
    "images": lambda: (
        nn.Conv2d(3, 3, 3, padding=1), F.mse_loss, torch.randn(64, 3, 16, 16), torch.rand(64, 3, 16, 16),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_each_kind(fit, events, kind):
    finding, trainer = run(fit, Kinds(*KINDS[kind]()), PredictionDynamicsLogger(decode=bytes), pictures=True)
    assert finding.status is Status.PASSED
    read = events(trainer)
    shown = read.Images("2.11 PredictionDynamicsLogger/predictions")
    assert [image.step for image in shown] == [1, 2, 4, 8, 16]
    pictures = [np.asarray(Image.open(io.BytesIO(image.encoded_image_string))) for image in shown]
    assert {picture.shape for picture in pictures} == {(360, 640, 3)}
    assert not np.array_equal(pictures[0], pictures[-1])


def drawn(fit, module, monkeypatch):
    """The last picture of each output, and the only finding."""
    pictures, draw = {}, dynamics.draw

    def keep(fixed, *args, **kwargs):
        pictures[fixed.name] = draw(fixed, *args, **kwargs)
        return pictures[fixed.name]

    monkeypatch.setattr(dynamics, "draw", keep)
    finding, _ = run(fit, module, pictures=True)
    return pictures, finding


def test_all_outputs_that_a_step_compares_are_drawn(fit, monkeypatch):
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 4)

        def forward(self, x):
            y = self.layer(x)
            return {"kind": y[:, :3], "size": y[:, 3:]}

    def both(out, y):
        return F.cross_entropy(out["kind"], y) + F.mse_loss(out["size"], y[:, None].float())

    pictures, finding = drawn(fit, Kinds(Heads(), both, torch.randn(64, 5), torch.arange(64) % 3), monkeypatch)
    assert set(pictures) == {"kind", "size"}
    assert pictures["kind"].title == "kind, step 16"
    assert "probability" in pictures["kind"].note
    assert any("target" in word for word in pictures["size"].words)
    assert finding.status is Status.PASSED


def test_heads_that_are_modules_of_their_own_are_drawn(fit, monkeypatch):
    class Heads(Kinds):
        def __init__(self):
            super().__init__(None, None, torch.randn(64, 5), torch.arange(64) % 3)
            self.body, self.kind, self.size = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 1)

        def training_step(self, batch, _):
            h = self.body(batch[0])
            return F.cross_entropy(self.kind(h), batch[1]) + F.mse_loss(self.size(h)[:, 0], batch[1].float())

        def validation_step(self, batch, _):
            self.training_step(batch, _)

    pictures, _ = drawn(fit, Heads(), monkeypatch)
    assert set(pictures) == {"kind", "size"}


class Adversaries(Kinds):
    """A generator of images, and a critic."""

    def __init__(self, objective):
        super().__init__(None, objective, torch.rand(64, 1, 8, 8), torch.arange(64))
        self.generator = nn.Sequential(nn.Linear(6, 64), nn.Unflatten(1, (1, 8, 8)))
        self.critic = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))

    def noise(self, batch):
        return torch.randn(len(batch[0]), 6)

    def training_step(self, batch, _):
        said = self.generator(self.noise(batch))
        return self.loss(self.critic(batch[0]), 1.0) + self.loss(self.critic(said), 0.0)

    def validation_step(self, batch, _):
        """None, as in most."""


def vanilla(said, real):
    return F.binary_cross_entropy_with_logits(said, torch.full_like(said, real))


def wasserstein(said, real):
    return said.mean() * (1 - 2 * real)


@pytest.mark.parametrize("loss", [vanilla, wasserstein])
def test_samples_of_fixed_noise_are_drawn(fit, monkeypatch, loss):
    given, generated = [], dynamics.keep

    def keep(fixed, values):
        if fixed.how.of_maps:
            given.append(values.clone())
        return generated(fixed, values)

    monkeypatch.setattr(dynamics, "keep", keep)

    class Untrained(Adversaries):
        def configure_optimizers(self):
            return torch.optim.SGD(self.critic.parameters(), lr=0.1)

    pictures, finding = drawn(fit, Untrained(loss), monkeypatch)
    assert set(pictures) == ({"critic 0", "critic 1", "generator"} if loss is vanilla else {""})
    assert finding.status in {Status.PASSED, Status.SKIPPED}
    assert len(given) > 3
    assert all(torch.equal(values, given[0]) for values in given), "the same noise"
    assert given[0].std(dim=0).mean() > 0.1, "of which each sample has its own"


def test_pictures_of_what_is_in_the_batch_or_a_picture_itself_are_no_samples(fit, monkeypatch):
    class OfBatch(Adversaries):
        def noise(self, batch):
            return batch[1]

        def train_dataloader(self):
            return DataLoader(TensorDataset(self.x, torch.randn(64, 6)), 8)

    class Denoises(Adversaries):
        def __init__(self, objective):
            super().__init__(objective)
            self.generator = nn.Conv2d(1, 1, 3, padding=1)

        def noise(self, batch):
            return torch.randn_like(batch[0])

    for module in (OfBatch(vanilla), Denoises(vanilla)):
        pictures, _ = drawn(fit, module, monkeypatch)
        assert set(pictures) == {"critic 0", "critic 1"}


def test_what_nobody_draws_is_not_kept(fit, monkeypatch):
    monkeypatch.setattr(dynamics, "keep", lambda *_: pytest.fail("nobody draws it"))
    finding, _ = run(fit, Healthy(), max_epochs=1)
    assert finding.status is Status.PASSED


def dice(logits, mask):
    p = logits.sigmoid()
    return 1 - 2 * (p * mask).sum() / (p + mask).sum()


def pinball(said, y):
    error = y[..., None] - said
    return torch.maximum(error * 0.1, error * -0.9).mean()


def apart(said, y):
    return (said - y).abs().mean()


class Likely(nn.Module):
    """Returns a distribution."""

    def __init__(self, make):
        super().__init__()
        self.net, self.make = nn.Linear(30, 20), make

    def forward(self, x):
        mean, scale = self.net(x).chunk(2, 1)
        return self.make(mean, F.softplus(scale) + 0.1)


def surprise(said, y):
    return -said.log_prob(y).mean()


def likelihood(logits, ids):
    return -logits.log_softmax(-1).gather(-1, ids[..., None]).mean()


WAVES = torch.sin(torch.arange(40) / 4.0 + torch.linspace(0, 6, 64)[:, None])
NOISE = torch.rand(64, 1, 16, 16)
BY_HAND = {
    "masks": (lambda: nn.Conv2d(1, 1, 3, padding=1), dice, NOISE, (NOISE > 0.5).float()),
    "tokens": (
        lambda: nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9)), likelihood, torch.randint(9, (64, 12)),
        torch.randint(9, (64, 12)),
    ),
    "forecasts": (lambda: nn.Linear(30, 10), apart, WAVES[:, :30], WAVES[:, 30:]),
    "quantiles": (
        lambda: nn.Sequential(nn.Linear(30, 30), nn.Unflatten(1, (10, 3))), pinball, WAVES[:, :30], WAVES[:, 30:],
    ),
    "normal": (lambda: Likely(Normal), surprise, WAVES[:, :30], WAVES[:, 30:]),
    "student": (lambda: Likely(lambda m, s: StudentT(s + 3, m, s)), surprise, WAVES[:, :30], WAVES[:, 30:]),
    "boxes": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(256, 4)), apart, NOISE,
        torch.tensor([2.0, 3, 9, 12]) + torch.rand(64, 4),
    ),
    "keypoints": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(256, 6), nn.Unflatten(1, (3, 2))), apart, NOISE,
        torch.rand(64, 3, 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BY_HAND)
def test_losses_by_hand_are_drawn_with_their_targets(fit, monkeypatch, kind):
    net, *rest = BY_HAND[kind]
    pictures, finding = drawn(fit, Kinds(net(), *rest), monkeypatch)
    assert finding.status in {Status.PASSED, Status.SKIPPED}
    words = " ".join([*pictures[""].words, pictures[""].title, pictures[""].note])
    fan = kind in {"quantiles", "normal", "student"}
    assert ("forecasts" if fan else "true" if kind == "masks" else kind) in words
    if fan:
        assert (pictures[""].raster == FAN).all(-1).sum() > 1000


def test_one_prediction_for_all_is_said(fit, monkeypatch):
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Linear(1, 3)

        def forward(self, x):
            return self.value(torch.ones(len(x), 1))

    pictures, finding = drawn(
        fit, Kinds(Constant(), F.cross_entropy, torch.randn(64, 5), torch.arange(64) % 3), monkeypatch
    )
    assert pictures[""].note == "all 8 examples get the same prediction"
    assert "the same for all of them" in finding.message
    assert finding.evidence["spread"] < ALIKE


def test_a_loss_by_hand_is_not_judged(fit):
    """Nobody knows what it wants."""
    y = torch.arange(64) % 3
    frozen = Kinds(nn.Linear(5, 3), lambda o, y: 1e-9 * likelihood(o, y), torch.randn(64, 5), y)
    finding, _ = run(fit, frozen, PredictionDynamicsLogger(min_steps=4), max_epochs=8)
    assert (finding.status, finding.code) == (Status.SKIPPED, "PredictionDynamicsLogger/too_little_known")


@pytest.mark.parametrize("ends", ["well", "in an error"])
def test_pictures_that_would_take_too_long_are_drawn_at_the_end(fit, monkeypatch, ends):
    """Each shows what was known at its step."""

    class Breaks(NoNorm):
        def on_train_epoch_end(self):
            if ends != "well" and self.current_epoch == 1:
                msg = "mine"
                raise RuntimeError(msg)

    drawn = []
    draw = dynamics.draw

    def keep(fixed, *args, **kwargs):
        drawn.append((fixed.latest, fixed.looks[-1].step))
        return draw(fixed, *args, **kwargs)

    monkeypatch.setattr(dynamics, "draw", keep)
    with contextlib.nullcontext() if ends == "well" else pytest.raises(RuntimeError, match="mine"):
        fit(Breaks(), [PredictionDynamicsLogger(max_share=0)], max_epochs=2)
    assert [step for step, _ in drawn] == [1, 2, 4, 8, *([16] if ends == "well" else [])]
    assert all(step == last for step, last in drawn)


def test_no_more_pictures_than_tensorboard_keeps(fit, events):
    _, trainer = run(fit, NoNorm(), PredictionDynamicsLogger(every_n_steps=1), pictures=True, **LONG)
    steps = [image.step for image in events(trainer).Images("2.11 PredictionDynamicsLogger/predictions")]
    assert len(steps) <= 10
    assert (steps[0], steps[-1]) == (1, 48)


@pytest.mark.parametrize("expected", [1, 2, 10, 250, 10**6, math.inf])
def test_frames_are_few(expected):
    chosen = frames(expected)
    assert chosen[0] == 1, "at first there is nothing to see"
    assert len(chosen) <= 4
    assert chosen == sorted(set(chosen))


@pytest.mark.parametrize("name", ["max_examples", "every_n_steps", "min_steps", "min_moved", "max_jitter"])
def test_numbers_must_be_positive(name):
    with pytest.raises(ValueError, match=name):
        PredictionDynamicsLogger(**{name: 0})


def test_a_manual_step_may_return_anything(fit):
    class PerExample(Healthy):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(self(batch[0]), batch[1]))
            optimizer.step()
            return torch.zeros(batch_idx + 2)  # another shape at every step

    logger = PredictionDynamicsLogger()
    trainer = fit(PerExample(), [logger])
    assert trainer.state.finished
    assert [f.status for f in logger.findings] == [Status.PASSED]


@pytest.mark.parametrize(("rate", "status"), [(3e-3, Status.PASSED), (1e-7, Status.SKIPPED)])
def test_a_short_run_has_to_move_at_the_same_pace(fit, rate, status):
    class Short(Healthy):
        def __init__(self):
            super().__init__()
            self.net[1] = nn.Identity()  # statistics would move

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), rate)

    check = PredictionDynamicsLogger()
    fit(Short(), [check], logger=False, max_steps=8, max_epochs=-1)
    (finding,) = check.findings
    assert finding.status is status, finding
    assert finding.evidence["moved"] < 0.01


def test_outputs_of_another_shape_at_each_look_are_not_compared(fit):
    class Drawn(Healthy):
        def forward(self, x):
            logits = super().forward(x)
            return logits if self.trainer.global_step < 8 else logits[0]

        def training_step(self, batch, batch_idx):
            logits = self(batch[0])
            return self.loss(logits.reshape(-1, CLASSES), batch[1][: logits.numel() // CLASSES])

        validation_step = training_step

    finding, _ = run(fit, Drawn(), impatient(), **LONG)
    assert finding.status is Status.SKIPPED
    assert "other shapes" in finding.message
