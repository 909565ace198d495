import math

import pytest
import torch
from patients import CLASSES, FEATURES, Healthy, InitTooLarge
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe import InitLossCheck, Status

# -- healthy: false alarms come first


class Variant(Healthy):
    """A healthy module with another batch size, target, output and loss."""

    outputs, batch_size, n = CLASSES, 32, 256

    def __init__(self):
        super().__init__()
        self.net[-1] = nn.Linear(32, self.outputs)
        self.accuracy = None

    def forward(self, x):
        out = self.net(x)
        return out.squeeze(1) if self.outputs == 1 else out

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])

    def target(self, x, y):
        return y

    def train_dataloader(self):
        x, y = self.data(self.n, 1).tensors
        return DataLoader(TensorDataset(x, self.target(x, y)), self.batch_size, shuffle=True)


class Regression(Variant):
    outputs = 1
    mean, std = 0.0, 1.0

    def loss(self, out, y):
        return F.mse_loss(out, y)

    def target(self, x, y):
        return self.mean + self.std * x[:, 0]


class Imbalanced(Variant):
    outputs, share = 1, 0.1

    def loss(self, out, y):
        return F.binary_cross_entropy_with_logits(out, y)

    def target(self, x, y):
        return (torch.arange(len(x)) % round(1 / self.share) == 0).float()

    def train_dataloader(self):
        x, y = self.data(200, 1).tensors
        return DataLoader(TensorDataset(x, self.target(x, y)), 100)


class ImbalancedWithBias(Imbalanced):
    def __init__(self):
        super().__init__()
        nn.init.constant_(self.net[-1].bias, math.log(self.share / (1 - self.share)))


class Positives(Variant):
    def loss(self, out, y):
        return F.nll_loss(out.log_softmax(1), y)


class Counts(Regression):
    def loss(self, out, y):
        return F.poisson_nll_loss(out, y.clamp(-1, 1).exp().round())


def only(check):
    assert len(check.findings) == 1, check.findings
    return check.findings[0]


def judged(fit, module, **settings):
    check = InitLossCheck()
    fit(module, [check], max_steps=2, limit_val_batches=0, **settings)
    return only(check)


def test_healthy_passes_with_the_numbers(fit):
    finding = judged(fit, Healthy())
    assert finding.status is Status.PASSED
    assert finding.evidence["know_nothing"] == pytest.approx(math.log(CLASSES), rel=1e-4)
    assert finding.evidence["measured"] == pytest.approx(math.log(CLASSES), rel=0.2)
    assert finding.evidence["best_constant"] <= finding.evidence["know_nothing"]
    assert "patients.py" in finding.message


@pytest.mark.parametrize("module", [Regression, Positives, Counts, ImbalancedWithBias])
def test_other_losses_pass(fit, module):
    assert judged(fit, module()).status is Status.PASSED


@pytest.mark.parametrize("module", [Variant, Regression, Positives])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_small_batches_never_alarm(fit, module, batch_size):
    for seed in range(20):
        torch.manual_seed(seed)
        healthy = module()
        healthy.batch_size = batch_size
        if batch_size == 1:
            healthy.net[1] = nn.Identity()
        finding = judged(fit, healthy, seed=seed)
        unknowable = module is Regression and batch_size < 8
        assert finding.status is (Status.SKIPPED if unknowable else Status.PASSED), (seed, finding)
        assert not unknowable or f"{batch_size} targets" in finding.message


@pytest.mark.parametrize("accumulate", [1, 4])
def test_accumulation_does_not_divide_the_measured_loss(fit, accumulate):
    finding = judged(fit, Healthy(), accumulate_grad_batches=accumulate)
    assert finding.evidence["measured"] == pytest.approx(math.log(CLASSES), rel=0.2)


def test_contrastive_and_adversarial_losses_are_no_leak(fit):
    class Contrastive(Variant):
        def loss(self, out, y):
            z = F.normalize(self.net[0](self.x), dim=1)
            return F.cross_entropy(z @ z.T / 0.02, torch.arange(len(z)))  # each example finds itself at once

        def training_step(self, batch, batch_idx):
            self.x = batch[0]
            return super().training_step(batch, batch_idx)

    assert judged(fit, Contrastive()).status is Status.PASSED


# -- diseases


def test_output_layer_too_large(fit):
    finding = judged(fit, InitTooLarge())
    assert finding.status is Status.FAILED
    assert finding.evidence["measured"] > 10 * finding.evidence["know_nothing"]
    assert "net.4" in finding.fix


def test_inputs_not_scaled(fit):
    class Unscaled(Healthy):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, CLASSES))

        def data(self, n, seed):
            x, y = super().data(n, seed).tensors
            return TensorDataset(200 * x, y)

    finding = judged(fit, Unscaled())
    assert finding.status in {Status.WARNING, Status.FAILED}
    assert "input x 2" in finding.fix  # its standard deviation of about 200


def test_an_offset_is_named(fit):
    class Offset(Regression):
        def __init__(self):
            super().__init__()
            with torch.no_grad():
                list(self.modules())[-1].bias.fill_(-50)

    finding = judged(fit, Offset())
    assert finding.status is Status.FAILED
    assert "around -50" in finding.fix
    assert "shift its bias by 5" in finding.fix


def test_losses_from_one_line_are_counted(fit):
    class Twice(Regression):
        def training_step(self, batch, batch_idx):
            out = self(batch[0])
            return sum(self.loss(out, batch[1]) for _ in range(2))

    assert ", the first of 2, starts at" in judged(fit, Twice()).message


def test_targets_not_scaled(fit):
    class Tiny(Regression):
        std = 0.001

    assert judged(fit, Tiny()).status is Status.FAILED


def test_a_mean_of_fifty_suggests_a_bias_of_fifty(fit):
    class Fifty(Regression):
        mean, std = 50.0, 10.0

    finding = judged(fit, Fifty())
    assert (finding.status, finding.code) == (Status.ADVICE, "InitLossCheck/output_bias")
    assert finding.evidence["measured"] > 10 * finding.evidence["best_constant"]
    assert float(finding.fix.rsplit(": ", 1)[1]) == pytest.approx(50, abs=6)
    assert "net.4" in finding.fix


def test_a_mean_that_training_can_not_make_up_for_is_a_warning(fit):
    class Far(Regression):
        mean, std = 300.0, 5.0

    finding = judged(fit, Far())
    assert (finding.status, finding.code) == (Status.WARNING, "InitLossCheck/output_bias")
    assert float(finding.fix.rsplit(": ", 1)[1]) == pytest.approx(300, abs=6)


def test_targets_in_other_units_are_to_be_scaled(fit):
    class Prices(Regression):
        mean, std = 3e5, 1e5

    assert "scale them to 1" in judged(fit, Prices()).fix


def test_an_output_layer_without_bias_is_named(fit):
    class NoBias(Regression):
        mean, std = 50.0, 10.0

        def __init__(self):
            super().__init__()
            self.net[-1] = nn.Linear(32, 1, bias=False)

    assert "net.4 has no bias" in judged(fit, NoBias()).fix


def test_of_two_heads_that_is_named_which_the_loss_is_given(fit):
    class Heads(Regression):
        mean, std = 50.0, 10.0

        def __init__(self):
            super().__init__()
            self.net[-1] = nn.Identity()
            self.heads = nn.ModuleDict({name: nn.Linear(32, 1, bias=False) for name in ("height", "weight")})

        def forward(self, x):
            h = self.net(x)
            return {name: head(h)[:, 0] for name, head in self.heads.items()}

        def training_step(self, batch, batch_idx):
            out = self(batch[0])
            return F.mse_loss(out["height"], batch[1]) + F.mse_loss(out["weight"], torch.zeros(len(batch[1])))

    check = InitLossCheck()
    fit(Heads(), [check], logger=False, max_steps=1, limit_val_batches=0)
    assert any("heads.height has no bias" in finding.fix for finding in check.findings)


def test_one_positive_in_ten_suggests_its_log_odds(fit):
    finding = judged(fit, Imbalanced())
    assert (finding.status, finding.code) == (Status.ADVICE, "InitLossCheck/output_bias")
    assert finding.fix.endswith("-2.197")


def test_one_class_of_several_in_unshuffled_batches(fit):
    class Sorted(Variant):
        outputs = 10

        def train_dataloader(self):
            x, _ = self.data(256, 1).tensors
            return DataLoader(TensorDataset(x, (torch.arange(256) % 20) // 18), 64)

    finding = judged(fit, Sorted())
    assert (finding.status, finding.code) == (Status.ADVICE, "InitLossCheck/output_bias")
    assert "8 of 10 classes do not occur" in finding.fix
    bias = [float(value) for value in finding.fix.split("[")[1].split("]")[0].split(", ")]
    assert min(bias) == pytest.approx(-math.log(2 * 64), abs=0.01)  # not so low that they could never be learnt


def test_a_network_that_corrects_a_forecast_is_no_leak(fit):
    class FromYesterday(Regression):
        by_hand, scale = False, 1.0

        def training_step(self, batch, batch_idx):
            x, y = batch
            yesterday = y + 0.1 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
            return F.mse_loss(yesterday + 0.1 * self.net(x).reshape(y.shape), y)

    finding = judged(fit, FromYesterday())
    assert finding.status is Status.PASSED
    assert finding.evidence["measured"] < 0.5 * finding.evidence["best_constant"]


class Masked(Regression):
    """Boxes: numbers that are asked for in one cell of ten, and zeros that do not count in the others."""

    by_hand, scale, outputs = False, 1.0, 10

    def training_step(self, batch, batch_idx):
        x, _ = batch
        mask = F.one_hot(torch.arange(len(x)) % 10, 10).float()
        target = mask * (0.3 + 0.1 * x[:, :1])
        each = F.smooth_l1_loss(self.net(x).sigmoid() + self.far, target, reduction="none")
        return (each * mask).sum() / mask.sum()


@pytest.mark.parametrize(("far", "code"), [(0.0, "passed"), (4.0, "too_high")])
def test_elements_that_a_mask_leaves_out_are_left_out(fit, far, code):
    module = Masked()
    module.far = far
    finding = judged(fit, module)
    assert finding.code == f"InitLossCheck/{code}", finding


def test_target_leaks_into_the_input(fit):
    class Leak(Variant):
        def training_step(self, batch, batch_idx):
            x, y = batch
            return self.loss(self(x) + 8 * F.one_hot(y, CLASSES), y)

    finding = judged(fit, Leak())
    assert finding.status is Status.WARNING
    assert finding.evidence["measured"] < 0.5 * finding.evidence["best_constant"]


def test_a_network_that_was_trained_before_is_no_leak(fit):
    module = Variant()
    fit(module, max_epochs=20, limit_val_batches=0)
    finding = judged(fit, module)
    assert finding.evidence["measured"] < 0.5 * finding.evidence["best_constant"]
    assert finding.status is Status.PASSED
    assert "trained before" in finding.message


class MuchDropout(Regression):
    """A mixer's residual branch under the dropout of 0.9 that it is published with."""

    by_hand, scale = False, 1.0

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Dropout(0.9), nn.Linear(32, 1))
        nn.init.normal_(self.net[-1].weight, std=0.25 * self.scale)

    def loss(self, out, y):
        return ((out - y) ** 2).mean() if self.by_hand else F.mse_loss(out, y)


@pytest.mark.parametrize("by_hand", [False, True])
def test_much_dropout_starts_high(fit, by_hand):
    module = MuchDropout()
    module.by_hand = by_hand
    finding = judged(fit, module)
    assert finding.status is Status.PASSED
    assert finding.evidence["measured"] > 3 * finding.evidence["know_nothing"]
    assert "without dropout" in finding.message


@pytest.mark.parametrize("by_hand", [False, True])
def test_an_output_layer_that_is_too_large_under_much_dropout(fit, by_hand):
    class Large(MuchDropout):
        scale = 10.0

    module = Large()
    module.by_hand = by_hand
    assert judged(fit, module).code == "InitLossCheck/too_high"


def test_cosines_scaled_on_purpose_start_high(fit):
    class ArcFace(Variant):
        def __init__(self):
            super().__init__()
            self.net[-1] = nn.Identity()
            self.centres = nn.Parameter(torch.randn(CLASSES, 32))

        def loss(self, out, y):
            cosine = F.linear(F.normalize(out), F.normalize(self.centres))
            return F.cross_entropy(64 * torch.cos(cosine.acos() + 0.5 * F.one_hot(y, CLASSES)), y)

    finding = judged(fit, ArcFace())
    assert finding.evidence["measured"] > 10 * finding.evidence["know_nothing"]
    assert finding.status is Status.PASSED


@pytest.mark.parametrize("where", ["input", "target", "prediction", "nowhere"])
def test_nan_is_traced_to_its_carrier(fit, where):
    class Broken(Regression):
        def training_step(self, batch, batch_idx):
            x, y = batch
            out = self(torch.where(x > 1, torch.nan, x) if where == "input" else x)
            if where == "prediction":
                out = out.clamp(max=0).sqrt()
            return self.loss(out, y / 0 if where == "target" else y)

        def loss(self, out, y):
            return super().loss(out, y) * (0 * out.sum() / 0 if where == "nowhere" else 1)

    finding = judged(fit, Broken())
    if where == "nowhere":  # mse_loss itself is finite here
        assert finding.status is Status.PASSED
        return
    assert finding.status is Status.FAILED
    expected = {"input": "NaN or Inf in input x", "target": "NaN or Inf in the target", "prediction": "the prediction"}
    assert expected[where] in finding.message
    assert math.isnan(finding.evidence["measured"]) or math.isinf(finding.evidence["measured"])


def test_all_targets_ignored(fit):
    class Ignored(Variant):
        def target(self, x, y):
            return torch.full_like(y, -100)

    finding = judged(fit, Ignored())
    assert finding.status is Status.FAILED
    assert "ignore_index" in finding.message


# -- several losses, and none


def test_several_losses_are_each_judged(fit):
    class MultiTask(Regression):
        outputs = CLASSES

        def loss(self, out, y):
            return F.mse_loss(out[:, 0], y) + F.cross_entropy(1000 * out, (y > 0).long())

    check = InitLossCheck()
    fit(MultiTask(), [check], max_steps=2, limit_val_batches=0)
    assert [f.status for f in check.findings] == [Status.PASSED, Status.FAILED]
    assert all({"measured", "know_nothing", "best_constant"} <= f.evidence.keys() for f in check.findings)


def test_the_same_is_said_once_of_losses_of_one_line(fit):
    class Halves(Regression):
        outputs = CLASSES

        def loss(self, out, y):
            return sum(F.mse_loss(out[half, :1], y[half, None]) for half in (slice(0, 4), slice(4, 8)))

    finding = judged(fit, Halves())
    assert finding.status is Status.SKIPPED
    assert "4 targets" in finding.message


def test_skipped_with_the_reason(fit):
    class Distilled(Regression):
        def training_step(self, batch, batch_idx):
            with torch.no_grad():
                teacher = self(batch[0])
            return F.mse_loss(self(batch[0]), 2 * teacher)

    class Triplet(Variant):
        def loss(self, out, y):
            return F.triplet_margin_loss(out, out.roll(1, 0), out.roll(2, 0))

    class Zeros(Regression):
        std = 0.0

    for module, reason in [
        (Distilled, "computed by the network"),
        (Triplet, "triplet_margin_loss"),
        (Zeros, "no scale"),
    ]:
        finding = judged(fit, module())
        assert finding.status is Status.SKIPPED
        assert reason in finding.message


def test_a_loss_by_hand_that_is_nan_fails(fit):
    class NanByHand(Regression):
        def loss(self, out, y):
            return (out - y).sum() * torch.nan

    assert judged(fit, NanByHand()).status is Status.FAILED


def test_resumed_runs_are_skipped(fit, tmp_path):
    trainer = fit(Healthy(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    check = InitLossCheck()
    from lightning.pytorch import Trainer  # noqa: PLC0415

    again = Trainer(max_epochs=2, callbacks=[check], logger=False, accelerator="cpu", enable_checkpointing=False,
                    enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path)  # fmt: skip
    again.fit(Healthy(), ckpt_path=tmp_path / "last.ckpt", weights_only=False)
    assert only(check).status is Status.SKIPPED
    assert "resumes at step 8" in only(check).message


@pytest.mark.parametrize(
    "arguments", [{"warn_ratio": 0.5}, {"warn_ratio": 5, "fail_ratio": 2}, {"bias_share": 0}, {"bias_share": 1.5}]
)
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match=r"ratio|share"):
        InitLossCheck(**arguments)


class Cosines(Healthy):
    """A margin softmax: unit vectors, a scale, and a margin for the right class."""

    scale, margin = 30.0, 0.35

    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(CLASSES, CLASSES))

    def loss(self, out, y):
        cosines = F.normalize(out) @ F.normalize(self.centres).T
        return F.cross_entropy(self.scale * (cosines - self.margin * F.one_hot(y, CLASSES)), y)


class Distances(Cosines):
    """To proxies on the unit sphere."""

    def loss(self, out, y):
        return F.cross_entropy(-30 * torch.cdist(F.normalize(out), F.normalize(self.centres)).square(), y)


@pytest.mark.parametrize("program", [Cosines, Distances])
def test_cosines_times_a_scale_start_high_on_purpose(fit, program):
    check = InitLossCheck()
    fit(program(), [check], logger=False, max_steps=1)
    (finding,) = check.findings
    assert finding.status is Status.PASSED, finding
    assert finding.evidence["measured"] > 2 * finding.evidence["know_nothing"]


def test_a_scale_alone_is_no_purpose(fit):
    class Scaled(Healthy):
        def loss(self, out, y):
            return F.cross_entropy(300 * out, y)

    check = InitLossCheck()
    fit(Scaled(), [check], logger=False, max_steps=1)
    assert check.findings[0].code == "InitLossCheck/too_high"


class Adapted(Healthy):
    """A network that was trained on other data, sure of what is no longer right."""

    def __init__(self, *, frozen):
        super().__init__()
        with torch.no_grad():
            self.net[-1].weight.mul_(30)
        self.net[-1].requires_grad_(requires_grad=not frozen)


@pytest.mark.parametrize(("frozen", "status"), [(True, Status.ADVICE), (False, Status.WARNING)])
def test_an_output_layer_that_is_frozen_is_advice(fit, frozen, status):
    check = InitLossCheck()
    fit(Adapted(frozen=frozen), [check], logger=False, max_steps=1)
    (finding,) = check.findings
    assert (finding.status, finding.code) == (status, "InitLossCheck/too_high")


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize(("times", "status"), [(20, Status.ADVICE), (40, Status.WARNING), (400, Status.FAILED)])
def test_a_start_that_costs_the_first_steps_only_is_advice(fit, times, status, by_hand):
    class Large(Variant):
        def __init__(self):
            super().__init__()
            with torch.no_grad():
                self.net[-1].weight.mul_(times)

        def loss(self, logits, y):
            return -logits.log_softmax(1)[torch.arange(len(y)), y].mean() if by_hand else super().loss(logits, y)

    finding = judged(fit, Large())
    assert (finding.status, finding.code) == (status, "InitLossCheck/too_high")


def test_numbers_as_layers_give_them_against_smaller_targets_are_advice(fit):
    class Small(Regression):
        std = 0.15

    finding = judged(fit, Small())
    assert (finding.status, finding.code) == (Status.ADVICE, "InitLossCheck/too_high")


class DividesByExamples(Healthy):
    """Its loss is a mean, or a sum, divided by the examples of the batch."""

    reduction, by, optimizer = "mean", staticmethod(len), torch.optim.SGD

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), 0.01)

    def loss(self, logits, y):
        return F.cross_entropy(logits, y, reduction=self.reduction) / self.by(y)


@pytest.mark.parametrize(
    ("reduction", "by", "codes"),
    [
        ("sum", len, ["passed"]),
        ("mean", lambda y: 4, ["passed"]),  # batches whose gradients are added up
        ("mean", lambda y: 0.5, ["passed"]),
        ("mean", len, ["passed", "divided_again"]),
    ],
)
def test_a_mean_that_is_divided_by_the_examples_again(fit, reduction, by, codes):
    for optimizer, status in ((torch.optim.SGD, Status.WARNING), (torch.optim.Adam, Status.ADVICE)):
        module, check = DividesByExamples(), InitLossCheck()
        module.reduction, module.by, module.optimizer = reduction, by, optimizer
        fit(module, [check], logger=False, max_steps=1, limit_val_batches=0)
        assert [f.code.partition("/")[2] for f in check.findings] == codes
        assert [f.status for f in check.findings if f.code.endswith("again")] == [status] * (len(codes) - 1)
