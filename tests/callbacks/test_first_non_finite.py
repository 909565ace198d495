import json
import pickle

import numpy as np
import pytest
import torch
from patients import (
    CLASSES,
    FEATURES,
    EmptyMask,
    FarTooFast,
    Healthy,
    MissingInput,
    NormAtZero,
    ZeroProbability,
)
from programs import ByHand
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe import FirstNonFinite, InitLossCheck, Status
from lightning_recipe.callbacks import first_non_finite
from lightning_recipe.callbacks._arriving import RING, Arriving
from lightning_recipe.callbacks._non_finite import cause
from lightning_recipe.callbacks._recent import Recent
from lightning_recipe.callbacks.first_non_finite import RECENT
from lightning_recipe.record.origin import Origin, tracing


def judged(fit, module, check=None, **settings):
    check = check or FirstNonFinite()
    fit(module, [check], limit_val_batches=0, **{"logger": False, **settings})
    return check.findings


# -- an accelerator, simulated


class Device:
    """One whose numbers come some steps later.

    Attributes:
        lag: Steps.
        done: Steps that were sent.
        waits: Times that the host has waited, and of these at looks, which wait anyway.

    """

    def __init__(self, lag):
        self.lag, self.done, self.waits, self.waits_of_looks = lag, 0, 0, 0


class Event:
    def __init__(self, device):
        self.device = device

    def record(self):
        self.at = self.device.done

    def query(self):
        return self.device.done - self.at >= self.device.lag

    def synchronize(self):
        self.device.waits += 1


class Elsewhere(FirstNonFinite):
    """On a device that tells nothing of what it has done."""

    device = None

    def before_training(self, run):
        yield from super().before_training(run)
        self._on_cpu = False
        self._recent = Recent(first_non_finite.RECENT, first_non_finite.RECENT_BYTES)
        self.reads, self.most_kept = [], 0
        if self.device is not None:
            like = [torch.zeros(1)] * (1 + len(self._sentinels))
            self._arriving = Arriving(like, lambda: Event(self.device))

    def every_loss(self, run, loss, batch):
        if self.device is not None:
            self.device.done += 1
        told = super().every_loss(run, loss, batch)
        if self._arriving is not None and not self._arriving._under_way:
            self.reads.append(run.batches_begun.ready)
        self.most_kept = max(self.most_kept, len(list(self._recent.backwards())))
        return told

    def sampled_step(self, run, step):
        before = 0 if self.device is None else self.device.waits
        yield from super().sampled_step(run, step)
        if self.device is not None:
            self.device.waits_of_looks += self.device.waits - before


Elsewhere.__name__ = "FirstNonFinite"


def on_device(lag):
    """A check on a device that tells what it has done."""
    check = Elsewhere()
    check.device = Device(lag)
    return check


# -- false alarms first


class PassesOver(Healthy):
    """Leaves out the gradients of steps that are not finite, as a GradScaler does."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (torch.inf if batch_idx % 3 == 1 else 1)

    def on_before_optimizer_step(self, optimizer):
        if not all(torch.isfinite(p.grad).all() for p in self.parameters()):
            optimizer.zero_grad()


class MetricOfNothing(Healthy):
    def training_step(self, batch, batch_idx):
        self.log("ratio", torch.tensor(torch.nan))
        loss = super().training_step(batch, batch_idx)
        return {"loss": loss, "spread": torch.tensor(torch.nan)}


class MissingTargets(Healthy):
    """NaN stands for what is not labelled."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        x = torch.where(y[:, None] > 2, torch.nan, x)
        known = ~x.isnan().any(1)
        return self.loss(self(x[known]), y[known])


class MaskedAttention(Healthy):
    def forward(self, x):
        h = self.net[:3](x)
        scores = (h[:, None, :8] * h[:, :8, None]).masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf)
        return self.net[4](h * scores.softmax(-1).sum(1).repeat(1, 4))


class BufferOfInfinities(Healthy):
    def __init__(self):
        super().__init__()
        self.register_buffer("lowest", torch.full((3,), torch.inf))


class Unused(Healthy):
    """A frozen parameter that nobody has filled."""

    def __init__(self):
        super().__init__()
        self.extra = nn.Parameter(torch.full((3,), torch.nan), requires_grad=False)


class FilledByTheFirstStep(Healthy):
    """A scale that is measured on the first batch, as in ActNorm."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), torch.nan))

    def forward(self, x):
        if self.scale.isnan():
            self.scale.data.copy_(x.std())
        return self.net(x / self.scale)


class NeverUsed(Healthy):
    def __init__(self):
        super().__init__()
        self.extra = nn.Parameter(torch.full((1,), torch.nan))


class Lossless(Healthy):
    def training_step(self, batch, batch_idx):
        return None


@pytest.mark.parametrize("check", [FirstNonFinite, Elsewhere, lambda: on_device(1)])
@pytest.mark.parametrize(
    "module",
    [
        Healthy,
        PassesOver,
        MetricOfNothing,
        MissingTargets,
        MaskedAttention,
        BufferOfInfinities,
        Unused,
        FilledByTheFirstStep,
        NeverUsed,
        Lossless,
    ],
)
def test_what_reaches_no_weight_passes(fit, module, check):
    findings = judged(fit, module(), check())
    assert [f.status for f in findings] == [Status.PASSED], findings


def test_by_hand(fit):
    class Module(ByHand, Healthy):
        """A healthy one."""

    assert [f.status for f in judged(fit, Module())] == [Status.PASSED]


def test_bf16_and_accumulation(fit):
    findings = judged(fit, Healthy(), precision="bf16-mixed", accumulate_grad_batches=2)
    assert [f.status for f in findings] == [Status.PASSED]


# -- patients


def of_loss(of, at=5):
    """A module whose loss is computed in another way from step `at` on."""

    class Module(Healthy):
        def training_step(self, batch, batch_idx):
            x, y = batch
            return of(self(x), y) if self.global_step >= at else self.loss(self(x), y)

    return Module()


def test_data_that_are_missing(fit):
    (finding,) = judged(fit, MissingInput())
    assert (finding.status, finding.code) == (Status.FAILED, "FirstNonFinite/inputs")
    assert (finding.evidence["at"], finding.step) == (0, 1)


class MissingAtFive(Healthy):
    def train_dataloader(self):
        x, y = self.data(256, 1).tensors
        x[5 * 32 + 3, 2] = torch.inf
        return DataLoader(TensorDataset(x, y), 32)


def test_data_that_are_missing_later(fit):
    (finding,) = judged(fit, MissingAtFive())
    assert (finding.code, finding.evidence["at"]) == ("FirstNonFinite/inputs", 5)


def test_accumulated_gradients_are_those_of_the_batch_before(fit):
    (finding,) = judged(fit, MissingAtFive(), accumulate_grad_batches=4)
    assert (finding.code, finding.evidence["at"]) == ("FirstNonFinite/inputs", 5)


@pytest.mark.parametrize("patient", [ZeroProbability, EmptyMask])
def test_an_operation(fit, patient):
    (finding,) = judged(fit, patient(), **patient.steps)
    assert (finding.status, finding.code) == (Status.FAILED, patient.code)
    assert "patients.py:" in finding.message


def test_a_gradient(fit):
    (finding,) = judged(fit, NormAtZero())
    assert (finding.status, finding.code, finding.subject) == (Status.FAILED, NormAtZero.code, "")
    assert finding.evidence["at"] == 0


def test_weights_that_have_diverged(fit):
    (finding,) = judged(fit, FarTooFast(), **FarTooFast.steps)
    assert (finding.status, finding.code) == (Status.FAILED, FarTooFast.code)


class Approaches(Healthy):
    """An angle that becomes ever smaller, until rounding takes its cosine beyond 1."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return torch.acos(1 - 5e-4 + self.w)

    def configure_optimizers(self):
        return torch.optim.SGD([self.w], lr=3e-7)


class RoundsUp(Approaches):
    """A probability that comes near 1, in a precision that has no number between 0.996 and 1."""

    def training_step(self, batch, batch_idx):
        return torch.log(1 - (0.9905 + self.w).bfloat16()).float()

    def configure_optimizers(self):
        return torch.optim.SGD([self.w], lr=5e-6)


@pytest.mark.parametrize(
    ("module", "function", "fix"), [(Approaches, "acos", "clamp"), (RoundsUp, "log", "logsigmoid of the logits")]
)
def test_what_comes_next_to_its_end_is_named(fit, module, function, fix):
    (finding,) = judged(fit, module(), max_epochs=12)
    assert (finding.status, finding.code) == (Status.FAILED, "FirstNonFinite/operation")
    assert f"most likely it begins with {function}" in finding.message
    assert fix in finding.fix


class OutOfNowhere(Healthy):
    """A weight is set to NaN, while the loss falls."""

    def on_before_optimizer_step(self, optimizer):
        if self.global_step == 5:
            self.net[0].weight.grad[0, 0] = torch.nan


def test_it_is_not_said_that_training_diverged_where_the_loss_fell(fit):
    (finding,) = judged(fit, OutOfNowhere())
    assert (finding.status, finding.code) == (Status.FAILED, "FirstNonFinite/origin_unknown")
    assert "not known" in finding.message


def squares(logits, y):
    return (logits.square().sum(1) * 1e30).exp().mean()


class Attending(nn.Module):
    def forward(self, h):
        scores = (h[:, None, :4] * h[:, :4, None]).masked_fill(torch.ones(4, 4, dtype=torch.bool), -torch.inf)
        return h + scores.softmax(-1).mean()


def attending():
    module = Healthy()
    module.net.insert(3, Attending())
    return module


def too_short(logits, y):
    lengths = torch.full((len(y),), 2)
    steps = logits.log_softmax(1).expand(2, *logits.shape)
    return F.ctc_loss(steps, torch.ones(len(y), 2, dtype=torch.long), lengths, lengths)  # a blank has to part the two


def entropy(logits, y):
    logs = logits.masked_fill(F.one_hot(y, CLASSES) > 0, -torch.inf).log_softmax(1)
    return (logs.exp() * logs).sum(1).mean()


FORMS = {
    "log of a softmax": (lambda: of_loss(lambda logits, y: -(logits * 500).softmax(1).log().mean()), "log"),
    "an exponential": (lambda: of_loss(squares), "exp"),
    "standard deviation of one": (
        lambda: of_loss(lambda logits, y: (logits[:1] - 9).std(0).sum()),
        "the deviation of one value",
    ),
    "a division": (
        lambda: of_loss(lambda logits, y: logits.sum() / (y > CLASSES).sum()),
        "by the count of an empty mask",
    ),
    "an entropy of what is masked": (lambda: of_loss(entropy), "0 times infinity"),
    "a vector of zeros": (lambda: of_loss(lambda logits, y: (0 * logits / (0 * logits).norm()).sum()), "by its norm"),
    "speech that is too short": (lambda: of_loss(too_short), "ctc_loss"),
    "attention to nothing": (attending, "softmax"),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_function_is_named(fit, name):
    module, function = FORMS[name]
    (finding,) = judged(fit, module())
    assert (finding.status, finding.code) == (Status.FAILED, "FirstNonFinite/operation"), finding
    assert function in finding.message
    assert "test_first_non_finite.py:" in finding.message
    assert finding.subject == ("net.3" if name == "attention to nothing" else "")


def softmax_by_hand(x):
    return x.exp() / x.exp().sum(1, keepdim=True)


GRADIENTS = {
    "where after a root": (lambda logits, y: torch.where(logits > 1e9, logits.mul(0).sqrt(), logits).mean(), "at 0"),
    "power": (lambda logits, y: (logits * 0).abs().pow(0.5).sum(), "at 0"),
    "arc cosine of 1": (lambda logits, y: (logits * 0 + 1).acos().sum(), "at -1 and 1"),
    "arc cosine under where": (
        lambda logits, y: torch.where(logits > 1e9, (logits * 0 + 1).acos(), logits).mean(),
        "isn't used",
    ),
    "softmax by hand": (lambda logits, y: -(softmax_by_hand(logits * 1000)[:, 0] + 1e-8).log().mean(), "exponential"),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_gradient_is_named(fit, name):
    loss, said = GRADIENTS[name]
    (finding,) = judged(fit, of_loss(loss))
    kind = "operation" if said == "exponential" else "gradient"
    assert (finding.status, finding.code) == (Status.FAILED, f"FirstNonFinite/{kind}"), finding
    assert said in finding.message
    assert finding.evidence["at"] == 5
    assert "test_first_non_finite.py:" in finding.message


def test_an_exponential_that_overflows_as_the_network_becomes_surer(fit):
    class Surer(Healthy):
        """The weights of the last look are finite, and so is what comes of them."""

        def training_step(self, batch, batch_idx):
            scale = 50 + 1.5 * self.scale
            logits = self(batch[0])
            p = softmax_by_hand(scale * nn.functional.normalize(logits, dim=1))
            return -p[torch.arange(len(p)), batch[1]].log().mean() - self.scale * 1e3

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))

        def configure_optimizers(self):
            rest = [p for p in self.parameters() if p is not self.scale]
            return torch.optim.Adam([{"params": rest, "lr": 1e-3}, {"params": [self.scale], "lr": 1.0}])

    (finding,) = judged(fit, Surer(), max_epochs=8)
    assert (finding.status, finding.code) == (Status.FAILED, "FirstNonFinite/operation"), finding
    assert "exp in" in finding.message


def test_a_gradient_that_goes_back_to_the_first_layer_only(fit):
    class Distances(Healthy):
        """Of rows to one another; in one batch two rows are the same."""

        def __init__(self):
            super().__init__()
            self.net.insert(0, nn.Linear(FEATURES, FEATURES, bias=False))

        def forward(self, x):
            h = self.net[0](x)
            return self.net[1:](h * (h - h.roll(1, 0)).square().sum(1, keepdim=True).sqrt())

        def train_dataloader(self):
            x, y = self.data(256, 1).tensors
            x[97] = x[96]
            return DataLoader(TensorDataset(x, y), 32)

    (finding,) = judged(fit, Distances())
    assert finding.code == "FirstNonFinite/gradient"
    assert finding.evidence["at"] == 3
    assert "sqrt" in finding.message


MARK = 3.0


class Pairs(Healthy):
    """Distances between places that are learnt, and registered last; a point and itself are masked afterwards."""

    zero_at = 0

    def train_dataloader(self):
        x, y = self.data(256, 1).tensors
        x[32 * self.zero_at, 0] = MARK
        return DataLoader(TensorDataset(x, y), 32)

    def __init__(self):
        super().__init__()
        self.places, self.last = nn.Linear(FEATURES, 3), nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        p = self.places(batch[0]) + 0.1 * torch.rand(len(batch[0]), 3)
        distance = (p[:, None] - p[None]).square().sum(-1)
        if batch[0][0, 0] != MARK:
            distance = distance + 1e-6
        pairs = (distance.sqrt() * ~torch.eye(len(p), dtype=torch.bool)).mean()
        return super().training_step(batch, batch_idx) + pairs + self.last(pairs.detach().view(1, 1)).square().sum()


@pytest.mark.parametrize("step", [0, 1, 2, 5, 6])
def test_a_gradient_that_goes_back_to_weights_in_the_middle_only(fit, step):
    class Once(Pairs):
        zero_at = step

    (finding,) = judged(fit, Once())
    assert (finding.status, finding.code) == (Status.FAILED, "FirstNonFinite/gradient"), finding
    assert finding.evidence["at"] == step
    assert "sqrt" in finding.message
    assert "test_first_non_finite.py:" in finding.message


def test_by_hand_it_is_found_by_the_weights(fit):
    class Module(Healthy):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            loss = self.loss(self(batch[0]), batch[1])
            optimizer.zero_grad()
            self.manual_backward(loss.sub(9).sqrt() if self.global_step >= 5 else loss)
            optimizer.step()

    (finding,) = judged(fit, Module())
    assert (finding.status, finding.evidence["at"]) == (Status.FAILED, 5)
    assert finding.code == "FirstNonFinite/operation"


def test_weights_that_are_not_finite_from_the_beginning(fit):
    module = Healthy()
    module.net[4].bias.data[0] = torch.nan
    (finding,) = judged(fit, module)
    assert (finding.status, finding.code, finding.subject) == (Status.FAILED, "FirstNonFinite/weights", "net.4.bias")


def test_losses_that_are_passed_over_again_and_again(fit):
    class Always(PassesOver):
        def training_step(self, batch, batch_idx):
            return Healthy.training_step(self, batch, batch_idx) * torch.inf

    (finding,) = judged(fit, Always())
    assert (finding.status, finding.code) == (Status.WARNING, "FirstNonFinite/loss_only")


NO_GRADIENT = {
    "nothing but ignored targets": lambda logits, y: F.cross_entropy(logits, torch.full_like(y, -100)),
    "an index of none": lambda logits, y: logits[y > CLASSES].mean(),
}


@pytest.mark.parametrize("name", NO_GRADIENT)
def test_a_mean_of_nothing_moves_no_weight(fit, name):
    (finding,) = judged(fit, of_loss(NO_GRADIENT[name]))
    assert (finding.status, finding.code, finding.evidence["at"]) == (Status.WARNING, "FirstNonFinite/loss_only", 14)
    assert "test_first_non_finite.py:" in finding.message


def test_with_many_weights_none_are_kept(fit, monkeypatch):
    monkeypatch.setattr("lightning_recipe.callbacks.first_non_finite.KEPT", 10)
    (finding,) = judged(fit, ZeroProbability(), **ZeroProbability.steps)
    assert (finding.status, finding.code) == (Status.FAILED, "FirstNonFinite/origin_unknown")


@pytest.mark.parametrize("bad", [1, 6, 9, 12])
@pytest.mark.parametrize("lag", [0, 1, 3])
def test_a_bad_loss_on_an_accelerator_is_known_without_waiting(fit, bad, lag):
    check = on_device(lag)
    (finding,) = judged(fit, of_loss(squares, at=bad), check, max_epochs=2)
    assert (finding.code, finding.evidence["at"]) == ("FirstNonFinite/operation", bad)
    assert "exp" in finding.message
    assert finding.step <= bad + 1 + lag, "looks are after 1, 2, 4, 8, 16 steps, and read what is under way"
    assert check.device.waits == check.device.waits_of_looks


@pytest.mark.parametrize("lag", [0, 2])
def test_a_bad_gradient_on_an_accelerator_is_told_as_of_its_own_step(fit, lag):
    check = on_device(lag)
    (finding,) = judged(fit, of_loss(GRADIENTS["power"][0], at=9), check, max_epochs=2)
    assert (finding.code, finding.evidence["at"]) == ("FirstNonFinite/gradient", 9)
    assert finding.message.startswith("gradients are NaN or infinite at step 9")
    assert finding.step == 10 + lag


def test_one_that_comes_to_other_weights_is_found_by_the_batch_before(fit):
    class Once(Pairs):
        zero_at = 6

    (finding,) = judged(fit, Once(), on_device(2), max_epochs=2)
    assert (finding.code, finding.evidence["at"]) == ("FirstNonFinite/gradient", 6)


def test_accumulated_on_an_accelerator(fit):
    (finding,) = judged(fit, MissingAtFive(), on_device(2), accumulate_grad_batches=4)
    assert (finding.code, finding.evidence["at"]) == ("FirstNonFinite/inputs", 5)


def test_where_the_device_tells_nothing_it_is_read_now_and_then(fit):
    """The step is exact, and the batch is at hand."""
    check = Elsewhere()
    (finding,) = judged(fit, of_loss(GRADIENTS["power"][0], at=9), check, max_epochs=3)
    assert (finding.code, finding.evidence["at"]) == ("FirstNonFinite/gradient", 9)
    assert finding.step == 16
    assert check.reads == [1, 2, 4, 8, 16]


def test_a_batch_that_is_not_at_hand_any_more(fit, monkeypatch):
    monkeypatch.setattr("lightning_recipe.callbacks.first_non_finite.RECENT", 2)
    (finding,) = judged(fit, of_loss(squares, at=9), Elsewhere(), max_epochs=3)
    assert (finding.code, finding.evidence["at"]) == ("FirstNonFinite/origin_unknown", 9)
    assert "not at hand" in finding.message


def test_no_large_batches_are_kept(fit, monkeypatch):
    monkeypatch.setattr("lightning_recipe.callbacks.first_non_finite.RECENT_BYTES", 100)
    check = on_device(1)
    (finding,) = judged(fit, of_loss(squares, at=5), check)
    assert (finding.code, finding.evidence["at"]) == ("FirstNonFinite/origin_unknown", 5)
    assert check.most_kept == 0


def test_few_batches_are_kept_and_none_afterwards(fit):
    check = on_device(1)
    judged(fit, Healthy(), check, max_epochs=2)
    assert check.most_kept == RECENT
    assert not list(check._recent.backwards())
    assert pickle.loads(pickle.dumps(check)).findings == check.findings  # noqa: S301


def test_a_device_far_behind_is_waited_for_once_there_is_no_room():
    device = Device(lag=2**30)
    arriving = Arriving([torch.zeros(1)], lambda: Event(device))
    come = []
    for step in range(RING + 3):
        arriving.put(step, [torch.full((1,), float(step))], has_loss=True)
        come += arriving.arrived()
    assert [(one.step, one.values) for one in come] == [(i, [float(i)]) for i in range(4)]
    assert device.waits == 4
    assert [one.step for one in arriving.arrived(wait=True)] == list(range(4, RING + 3))


# -- what it leaves behind


def test_the_batch_is_kept_for_inspection(fit, tmp_path):
    trainer = fit(MissingInput(), [FirstNonFinite()], logger=True, limit_val_batches=0)
    (path,) = tmp_path.rglob("first_non_finite.*")
    assert path.suffix in {".npz", ".safetensors"}
    assert str(path).startswith(trainer.log_dir)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as kept:
            assert kept["0"].shape == (32, FEATURES)
            assert np.isnan(kept["0"]).sum() == 1


def test_or_not(fit, tmp_path):
    fit(MissingInput(), [FirstNonFinite(keep_examples=False)], logger=True, limit_val_batches=0)
    assert not list(tmp_path.rglob("first_non_finite.*"))


def test_it_explains_what_others_see(fit, tmp_path):
    trainer = fit(MissingInput(), [InitLossCheck(), FirstNonFinite()], limit_val_batches=0)
    (path,) = tmp_path.rglob("recipe.json")
    assert trainer.log_dir in str(path)
    found = {f["code"]: f for f in json.loads(path.read_text())["findings"]}
    assert "*/not_finite" in found["FirstNonFinite/inputs"]["explains"]


def test_an_exception_of_the_users_own_is_no_finding(fit):
    check = FirstNonFinite()
    with pytest.raises(RuntimeError, match="nan"):
        fit(of_loss(GRADIENTS["power"][0]), [check], detect_anomaly=True, limit_val_batches=0, logger=False)
    assert not [f for f in check.findings if f.is_alarm]


# -- origins


def origin(function, *args):
    net = nn.Identity()
    with tracing(net) as trace:
        function(*args)
    return trace.first


@pytest.mark.parametrize(
    ("function", "name", "said"),
    [
        (lambda: torch.zeros(2).log(), "log", "logarithm of 0"),
        (lambda: -torch.ones(2).mul(-1).log(), "log", "negative"),
        (lambda: torch.ones(2) / torch.zeros(2), "truediv", "division"),
        (lambda: torch.ones(0).mean(), "mean", "nothing"),
        (lambda: torch.full((2,), 200.0).half().square().sub(torch.inf), "square", None),
        (lambda: torch.full((2,), 300.0).half() * 300, "mul", "half precision"),
        (lambda: torch.full((2,), 2.0).acos(), "acos", "domain"),
    ],
)
def test_usual_causes(function, name, said):
    found = origin(function)
    if said is None:
        assert found is None or found.function != "sub"
    else:
        assert found.function.removeprefix("true") == name.removeprefix("true")
        assert said in cause(found)[0]


def test_infinities_on_purpose_are_no_origin():
    assert origin(lambda: torch.ones(2).masked_fill(torch.ones(2).bool(), -torch.inf).exp()) is None


def test_every_origin_has_a_cause():
    for backward in (False, True):
        assert all(cause(Origin("anything", "", "", backward=backward)))
