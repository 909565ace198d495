import copy
from functools import lru_cache

import lightning.pytorch as L
import pytest
import torch
from patients import CLASSES, FEATURES
from programs import Offset, healthy_data, mlp
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adadelta, Adafactor, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe import Status, UpdateRatioMonitor


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(1, 16), nn.Linear(16, CLASSES)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, x):
        return self.leave(self.layer(self.enter(x[..., None])).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.leave = nn.GRU(1, 24, batch_first=True), nn.Linear(24, CLASSES)

    def forward(self, x):
        return self.leave(self.rnn(x[..., None])[0][:, -1])


class Adapted(nn.Module):
    """A frozen layer with an addition of low rank that begins at zero."""

    def __init__(self):
        super().__init__()
        self.frozen, self.leave = nn.Linear(FEATURES, 32).requires_grad_(requires_grad=False), nn.Linear(32, CLASSES)
        self.down, self.up = nn.Linear(FEATURES, 4, bias=False), nn.Linear(4, 32, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.leave((self.frozen(x) + self.up(self.down(x))).relu())


class Lit(L.LightningModule):
    def __init__(self, net, optimizer, schedule=None, *, by_hand=False):
        super().__init__()
        self.net, self.optimizer, self.schedule = net, optimizer, schedule
        self.automatic_optimization = not by_hand

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        if self.automatic_optimization:
            return loss
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        return None

    def configure_optimizers(self):
        optimizer = self.optimizer([p for p in self.net.parameters() if p.requires_grad])
        schedules = [{"scheduler": LambdaLR(optimizer, self.schedule), "interval": "step"}] if self.schedule else []
        return [optimizer], schedules


def judged(fit, module, *, steps=208, train=None, **settings):
    """All findings, after enough looks."""
    monitor = UpdateRatioMonitor()
    settings = {"max_steps": steps, "max_epochs": -1, "logger": False, **settings}
    fit(module, [monitor], train=train or healthy_data(), **settings)
    return monitor.findings


def only_passed(findings):
    return [(f.status, f.code) for f in findings] == [(Status.PASSED, "UpdateRatioMonitor/passed")]


# -- false alarms


def zero_head():
    net = mlp()
    nn.init.zeros_(net[-1].weight)
    return net


def tiny():
    net = mlp(depth=3)
    for p in net.parameters():
        nn.init.normal_(p, std=1e-4)
    return net


@pytest.mark.parametrize(
    ("net", "optimizer"),
    {
        "Adam": (mlp, lambda p: Adam(p, 1e-3)),
        "Adam, a high rate": (mlp, lambda p: Adam(p, 0.03)),
        "SGD, a low rate": (mlp, lambda p: SGD(p, 0.01)),
        "weight decay": (mlp, lambda p: AdamW(p, 3e-3, weight_decay=0.5)),
        "weight decay, momentum": (mlp, lambda p: SGD(p, 0.1, momentum=0.9, weight_decay=1e-2)),
        "Adafactor has no rate": (mlp, Adafactor),
        "Adadelta": (mlp, Adadelta),
        "a head of zeros": (zero_head, lambda p: Adam(p, 1e-3)),
        "tiny weights": (tiny, lambda p: Adam(p, 1e-3)),
        "low rank": (Adapted, lambda p: Adam(p, 1e-3)),
        "transformer": (Transformer, lambda p: AdamW(p, 3e-3)),
        "recurrent": (Recurrent, lambda p: Adam(p, 3e-3)),
    }.values(),
    ids=lambda thing: thing.__name__,
)
def test_what_trains_passes(fit, net, optimizer):
    assert only_passed(judged(fit, Lit(net(), optimizer)))


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: RMSprop(p, 0.5, eps=1.0, momentum=0.9),
        lambda p: RMSprop(p, 1e-3, eps=1e-3),
        lambda p: Adam(p, 1.0, eps=1.0),
        lambda p: Adam(p, 3e-3, eps=1e-3),
        lambda p: AdamW(p, 1e-3, eps=1e-6),
    ],
)
@pytest.mark.parametrize("random_labels", [False, True])
def test_an_eps_with_a_rate_to_go_with_it_passes(fit, optimizer, random_labels):
    findings = judged(fit, Lit(mlp(), optimizer), train=healthy_data(random_labels=random_labels))
    assert "UpdateRatioMonitor/eps_outweighs" not in [f.code for f in findings]


@pytest.mark.parametrize("optimizer", [lambda p: Adam(p, 1e-3), lambda p: SGD(p, 0.03), lambda p: AdamW(p, 0.01)])
def test_a_loss_that_can_not_fall_is_not_the_fault_of_the_updates(fit, optimizer):
    assert only_passed(judged(fit, Lit(mlp(), optimizer), train=healthy_data(random_labels=True)))


@pytest.mark.parametrize("schedule", [lambda step: step / 1e6 + 1e-7, lambda step: 1.0 if step < 20 else 1e-6])
def test_a_warm_up_and_the_end_of_a_schedule_tell_nothing(fit, schedule):
    findings = judged(fit, Lit(mlp(), lambda p: Adam(p, 1e-3), schedule), train=healthy_data(random_labels=True))
    assert not [f for f in findings if f.is_alarm]


def test_fine_tuning_moves_little_and_needs_to(fit):
    net = mlp()
    fit(Lit(net, lambda p: Adam(p, 1e-3)), train=healthy_data(), logger=False, max_epochs=20)
    assert only_passed(judged(fit, Lit(net, lambda p: AdamW(p, 1e-6))))


def in_groups(rate):
    def optimizer(parameters):
        return AdamW([{"params": parameters[:-2], "lr": rate}, {"params": parameters[-2:]}], 3e-3)

    return optimizer


def test_layers_that_learnt_before_may_move_a_thousandth_of_a_new_head(fit):
    net = mlp(depth=3)
    fit(Lit(net, lambda p: Adam(p, 0.01)), train=healthy_data(), logger=False, max_epochs=40)
    nn.init.normal_(net[-1].weight, std=0.1)
    assert only_passed(judged(fit, Lit(net, in_groups(1e-7))))


def test_rates_that_differ_by_a_hundred_pass(fit):
    assert only_passed(judged(fit, Lit(mlp(), in_groups(3e-5))))


def test_a_rate_of_zero_freezes_on_purpose(fit):
    def frozen(parameters):
        first, *rest = parameters
        return Adam([{"params": [first], "lr": 0.0}, {"params": rest}], 1e-3)

    assert only_passed(judged(fit, Lit(mlp(), frozen)))


def test_networks_that_take_turns_pass(fit):
    class Adversaries(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.g, self.d = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, FEATURES)), mlp(nn.Tanh)

        def training_step(self, batch, batch_idx):
            g, d = self.optimizers()
            for optimizer in (d, g):
                fake = self.g(torch.randn(len(batch[0]), 4))
                real = F.softplus(-self.d(batch[0])).mean()
                loss = real + F.softplus(self.d(fake)).mean() if optimizer is d else F.softplus(-self.d(fake)).mean()
                self.toggle_optimizer(optimizer)
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
                self.untoggle_optimizer(optimizer)

        def configure_optimizers(self):
            return [Adam(net.parameters(), 5e-4, betas=(0.5, 0.999)) for net in (self.g, self.d)], []

    assert only_passed(judged(fit, Adversaries()))


def test_steps_that_a_scaler_leaves_out_are_no_looks(fit):
    class Overflows(Lit):
        def on_before_optimizer_step(self, optimizer):
            if self.global_step % 2:
                for p in self.net.parameters():
                    p.grad.fill_(torch.inf)

        def optimizer_step(self, epoch, batch_idx, optimizer, closure):
            closure()
            if all(p.grad.isfinite().all() for p in self.net.parameters()):
                optimizer.step()

    assert not [f for f in judged(fit, Overflows(mlp(), lambda p: Adam(p, 1e-3))) if f.is_alarm]


def test_weights_in_16_bits_that_move_pass(fit):
    assert only_passed(judged(fit, Lit(mlp(), lambda p: Adam(p, 3e-3)), precision="bf16-true"))


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    {
        "half of the changes of a step are lost, those of many steps are not": (lambda p: Adam(p, 1e-3), None),
        "with momentum": (lambda p: SGD(p, 0.1, momentum=0.9), None),
        "a warm-up": (lambda p: Adam(p, 3e-3), lambda step: (step + 1) / 1e4),
        "the end of a schedule": (lambda p: Adam(p, 3e-3), lambda step: 1.0 if step < 40 else 1e-3),
    }.values(),
    ids=lambda thing: thing.__name__ if thing else "",
)
@pytest.mark.parametrize("random_labels", [False, True])
def test_weights_in_16_bits_pass_where_most_of_them_move(fit, optimizer, schedule, random_labels):
    module = Lit(mlp(), optimizer, schedule)
    findings = judged(fit, module, train=healthy_data(random_labels=random_labels), precision="bf16-true")
    assert all(f.status in {Status.PASSED, Status.SKIPPED} for f in findings)


def test_fine_tuning_in_16_bits_may_change_a_few_of_the_weights(fit):
    net = mlp()
    fit(Lit(net, lambda p: Adam(p, 1e-2)), train=healthy_data(), logger=False, max_epochs=20)
    findings = judged(fit, Lit(net, lambda p: AdamW(p, 1e-4)), precision="bf16-true")
    assert not [f for f in findings if f.is_alarm]


ARM, OTHER_ARM = (0.5, 0.5, 0.4, 0.2), (0.3, 0.7, 0.3, 0.4)


def arm(links):
    """The angles of an arm's joints, and where its hand is, measured with an error."""
    drawn = torch.Generator().manual_seed(0)
    angles = 3 * torch.rand(2048, 4, generator=drawn) - 1.5
    heading = angles.cumsum(1)
    hand = (torch.tensor(links) * torch.stack([heading.cos(), heading.sin()], 1)).sum(-1)
    return TensorDataset(angles, hand + 0.02 * torch.randn(2048, 2, generator=drawn))


@lru_cache
def trained():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 2))
    (x, y), optimizer = arm(ARM).tensors, Adam(net.parameters(), 1e-2)
    for i in range(400):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - i / 400)
        optimizer.zero_grad()
        F.mse_loss(net(x[i % 16 :: 16]), y[i % 16 :: 16]).backward()
        optimizer.step()
    return net


class Tuned(Lit):
    """A network that was trained before, on the same data or on others."""

    def __init__(self, optimizer, schedule=None):
        super().__init__(copy.deepcopy(trained()), optimizer, schedule)

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self.net(batch[0]).float(), batch[1].float())


def tuned(fit, module, links, precision="bf16-true", steps=240):
    train = DataLoader(arm(links), 64, shuffle=True)
    return judged(fit, module, train=train, precision=precision, steps=steps)


@pytest.mark.parametrize("rate", [4e-5, 1e-4])
def test_what_was_learnt_may_stay_as_it_is_in_16_bits(fit, rate):
    findings = tuned(fit, Tuned(lambda p: AdamW(p, rate)), ARM)
    assert "beyond" not in {name for f in findings for name in f.evidence}


@pytest.mark.parametrize(
    ("optimizer", "schedule", "precision"),
    {
        "half of the elements can move": (lambda p: AdamW(p, 4e-4), None, "bf16-true"),
        "a long warm-up": (lambda p: AdamW(p, 4e-4), lambda step: min(1.0, (step + 1) / 100), "bf16-true"),
        "the end of a schedule": (lambda p: AdamW(p, 1e-3), lambda step: 1.0 if step < 60 else 0.03, "bf16-true"),
        "with momentum": (lambda p: SGD(p, 0.03, momentum=0.9), None, "bf16-true"),
        "32 bits": (lambda p: AdamW(p, 1e-4), None, "bf16-mixed"),
    }.values(),
    ids=lambda thing: thing if isinstance(thing, str) else "",
)
def test_tuning_in_16_bits_passes_where_weights_can_move(fit, optimizer, schedule, precision):
    findings = tuned(fit, Tuned(optimizer, schedule), OTHER_ARM, precision)
    assert not [f for f in findings if f.is_alarm]


class WithMasters(Tuned):
    """The optimiser works on copies in 32 bits, which add up what 16 bits would lose."""

    def configure_optimizers(self):
        self.masters = [p.detach().float().requires_grad_() for p in self.net.parameters()]
        return self.optimizer(self.masters)

    def optimizer_step(self, epoch, batch_idx, optimizer, closure):
        closure()
        for master, p in zip(self.masters, self.net.parameters(), strict=True):
            master.grad = p.grad.float()
        optimizer.step()
        for master, p in zip(self.masters, self.net.parameters(), strict=True):
            p.data.copy_(master)


def test_copies_in_32_bits_add_up_what_16_would_lose(fit):
    findings = tuned(fit, WithMasters(lambda p: AdamW(p, 1e-4)), OTHER_ARM)
    assert "UpdateRatioMonitor/rounded_away" not in {f.code for f in findings}


def test_inputs_that_hardly_ever_occur_do_not_move(fit):
    """Nine tenths of the elements of the first layer have no gradient."""

    class Sparse(Tuned):
        def __init__(self, optimizer):
            super().__init__(optimizer)
            wide = nn.Linear(40, 64)
            wide.weight.data[:, :4] = self.net[0].weight.data
            self.net[0] = wide

        def training_step(self, batch, batch_idx):
            return super().training_step((F.pad(batch[0], (0, 36)), batch[1]), batch_idx)

    findings = tuned(fit, Sparse(lambda p: AdamW(p, 4e-4)), OTHER_ARM)
    assert not [f for f in findings if f.is_alarm]


class Compensated(Adam):
    """Keeps what is rounded away, and takes it off with the next step."""

    def step(self, closure=None):
        before = [p.detach().clone() for p in self.param_groups[0]["params"]]
        loss = super().step(closure)
        for p, was in zip(self.param_groups[0]["params"], before, strict=True):
            p.data.copy_(was)
        return loss


def test_an_optimiser_of_others_may_keep_what_is_rounded_away(fit):
    findings = judged(fit, Lit(mlp(), lambda p: Compensated(p, 1e-4)), precision="bf16-true")
    assert "UpdateRatioMonitor/rounded_away" not in {f.code for f in findings}


def test_without_a_weight_there_is_nothing_to_compare(fit):
    (finding,) = judged(fit, Lit(Offset(), lambda p: Adam(p, 1e-3)), steps=8)
    assert finding.status is Status.SKIPPED


# -- diseases, in other forms than the patients'


def found(findings, code):
    alarms = [f for f in findings if f.is_alarm]
    assert [f.code for f in alarms] == [f"UpdateRatioMonitor/{code}"]
    assert alarms[0].times >= 3
    return alarms[0]


@pytest.mark.parametrize(
    ("net", "optimizer"),
    [(Transformer, lambda p: AdamW(p, 1.0)), (mlp, lambda p: SGD(p, 10.0)), (Recurrent, lambda p: RMSprop(p, 3.0))],
    ids=["transformer", "mlp", "recurrent"],
)
@pytest.mark.parametrize("by_hand", [False, True])
def test_updates_that_tear_at_the_weights(fit, net, optimizer, by_hand):
    finding = found(judged(fit, Lit(net(), optimizer, by_hand=by_hand), steps=128), "too_large")
    assert finding.evidence["ratio"] > 1


def test_updates_after_which_nothing_is_finite(fit):
    finding = found(judged(fit, Lit(mlp(), lambda p: SGD(p, 100.0)), steps=40), "too_large")
    assert finding.evidence["ratio"] > 100


@pytest.mark.parametrize(
    ("net", "optimizer"),
    [(Transformer, lambda p: SGD(p, 1e-5)), (mlp, lambda p: RMSprop(p, 1e-7)), (Recurrent, lambda p: Adam(p, 1e-7))],
    ids=["transformer", "mlp", "recurrent"],
)
def test_updates_that_hardly_move_the_weights(fit, net, optimizer):
    finding = found(judged(fit, Lit(net(), optimizer)), "too_small")
    assert 0 < finding.evidence["ratio"] < 1e-4
    assert finding.evidence["loss"] == pytest.approx(finding.evidence["loss_first"], rel=0.2)


@pytest.mark.parametrize(
    "optimizer",
    [lambda p: Adam(p, 1e-3, eps=1.0), lambda p: AdamW(p, 1e-3, eps=10), lambda p: RMSprop(p, 1e-3, eps=1.0)],
)
@pytest.mark.parametrize("net", [mlp, Transformer])
def test_an_eps_that_outweighs_the_gradients(fit, net, optimizer):
    (finding,) = [f for f in judged(fit, Lit(net(), optimizer)) if f.is_alarm]
    assert finding.code == "UpdateRatioMonitor/eps_outweighs"
    assert finding.evidence["slower"] > 10


@pytest.mark.parametrize(
    ("net", "optimizer"),
    [
        (mlp, lambda p: SGD(p, 0.1, momentum=0.9, weight_decay=0.5)),
        (Recurrent, lambda p: Adam(p, 3e-3, weight_decay=3.0)),
        (Transformer, lambda p: AdamW(p, 1e-3, weight_decay=50.0)),
    ],
    ids=["mlp", "recurrent", "transformer"],
)
def test_weights_that_decay_faster_than_they_learn(fit, net, optimizer):
    finding = found(judged(fit, Lit(net(), optimizer)), "weight_decay_outweighs")
    assert finding.evidence["share"] > 0.6
    assert finding.evidence["norm"] < 0.3 * finding.evidence["norm_first"]


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: AdamW(p, 3e-3, weight_decay=0.1),
        lambda p: Adam(p, 3e-3, weight_decay=5e-4),
        lambda p: Adam(p, 3e-3, weight_decay=0.1, decoupled_weight_decay=True),
        lambda p: SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    ],
)
def test_decay_that_goes_with_its_optimiser(fit, optimizer):
    assert only_passed(judged(fit, Lit(mlp(depth=3), optimizer)))


def test_a_decay_for_adamw_in_adam(fit):
    (finding,) = judged(fit, Lit(mlp(depth=3), lambda p: Adam(p, 3e-3, weight_decay=0.1)))
    assert (finding.status, finding.code) == (Status.ADVICE, "UpdateRatioMonitor/decay_in_adam")
    assert finding.evidence["norm"] < 0.5 * finding.evidence["norm_first"]


class Factors(nn.Module):
    """The product of two embeddings; of 4,000 rows a few hundred occur."""

    def __init__(self):
        super().__init__()
        self.users, self.items, self.leave = nn.Embedding(4000, 8), nn.Embedding(64, 8), nn.Linear(8, CLASSES)

    def forward(self, pairs):
        return self.leave(self.users(pairs[:, 0]) * self.items(pairs[:, 1]))


def _pairs():
    rng = torch.Generator().manual_seed(0)
    pairs = torch.stack([torch.randint(n, (512,), generator=rng) for n in (400, 64)], 1)
    return DataLoader(TensorDataset(pairs, pairs.sum(1) % CLASSES), 32)


@pytest.mark.parametrize(
    "optimizer", [lambda p: Adam(p, 0.03), lambda p: Adam(p, 0.03, weight_decay=1e-6), lambda p: AdamW(p, 0.03)]
)
def test_embeddings_that_learn_pass(fit, optimizer):
    assert only_passed(judged(fit, Lit(Factors(), optimizer), train=_pairs()))


def test_embeddings_of_which_nothing_is_left(fit):
    def optimizer(p):
        return Adam([{"params": p[:2], "weight_decay": 0.1}, {"params": p[2:]}], 0.03)

    module = Lit(Factors(), optimizer)
    finding = found(judged(fit, module, train=_pairs(), steps=400), "weight_decay_outweighs")
    assert "net.users.weight" in finding.message
    assert finding.evidence["norm"] < 0.01 * finding.evidence["norm_first"]


class Penalised(Lit):
    """A penalty on the weights is a part of the loss."""

    factor = 0.3

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + self.factor * sum(p.square().sum() for p in self.parameters())


@pytest.mark.parametrize("net", [mlp, Recurrent])
def test_a_penalty_that_outweighs_the_data(fit, net):
    finding = found(judged(fit, Penalised(net(), lambda p: Adam(p, 5e-3))), "weight_decay_outweighs")
    assert finding.evidence["norm"] < 0.05 * finding.evidence["norm_first"]


def test_a_small_penalty(fit):
    module = Penalised(mlp(), lambda p: Adam(p, 5e-3))
    module.factor = 1e-3
    assert only_passed(judged(fit, module))


class Partly(Lit):
    """A penalty of some kind on some of the weights."""

    def __init__(self, net, of, optimizer=lambda p: Adam(p, 0.01), *, by_hand=False):
        super().__init__(net, optimizer)
        self.of, self.by_hand = of, by_hand
        self.automatic_optimization = not by_hand

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self.net(batch[0]), batch[1]) + self.of(self.net, batch[0])
        if not self.by_hand:
            return loss
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        return None


def squared(factor, *names):
    """A penalty on weights whose names begin like these."""

    def of(net, _):
        return factor * sum(p.square().sum() for n, p in net.named_parameters() if n.startswith(names or ""))

    return of


def by_groups(factor, least=0.0, eps=1e-12):
    """A group lasso on the rows of the first layer, that leaves the first ones alone."""
    return lambda net, _: factor * (net[0].weight[int(least * len(net[0].weight)) :].square().sum(1) + eps).sqrt().sum()


def with_unused():
    net = mlp()
    net.unused = nn.Linear(16, 16)
    net.forward = lambda x: nn.Sequential(*net[:5])(x) + 0 * net.unused.weight.sum()
    return net


def dead():
    net = mlp(depth=3)
    nn.init.constant_(net[0].bias, -100)
    return net


def normed():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, CLASSES))


class Residual(nn.Module):
    """A branch that is drawn large, and has to become small."""

    def __init__(self):
        super().__init__()
        self.branch, self.leave = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, CLASSES)
        nn.init.normal_(self.branch.weight, std=3.0)

    def forward(self, x):
        return self.leave(x + self.branch(x).tanh())


class Rated(Factors):
    """Users and items, and what each is worth by itself; few of the users occur."""

    def __init__(self):
        super().__init__()
        self.worth = nn.Embedding(64, CLASSES)
        nn.init.normal_(self.users.weight, std=0.3)
        nn.init.normal_(self.items.weight, std=0.3)
        nn.init.zeros_(self.worth.weight)

    def forward(self, pairs):
        return super().forward(pairs) + self.worth(pairs[:, 1])


def of_the_batch(factor):
    def of(net, pairs):
        rows = net.users(pairs[:, 0]).square().sum(1) + net.items(pairs[:, 1]).square().sum(1)
        return factor * rows.mean()

    return of


class Zero(Lit):
    """The target is 0, whatever the input, so that weights of zero are right."""

    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).square().mean()


@pytest.mark.parametrize(
    ("net", "of"),
    {
        "on all": (mlp, squared(1e-3)),
        "a head of zeros": (zero_head, squared(1e-2)),
        "low rank": (Adapted, squared(1e-3)),
        "what nothing uses": (with_unused, squared(1e-4)),
        "units that are dead": (dead, squared(1e-3)),
        "before a norm": (normed, squared(0.1, "0")),
        "a large branch": (Residual, squared(3e-3)),
        "some groups": (mlp, by_groups(0.3, 0.5)),
    }.values(),
    ids=lambda thing: getattr(thing, "__name__", ""),
)
@pytest.mark.parametrize("random_labels", [False, True])
def test_penalties_that_leave_something(fit, net, of, random_labels):
    findings = judged(fit, Partly(net(), of), train=healthy_data(random_labels=random_labels), steps=600)
    assert "along" not in {name for f in findings for name in f.evidence}


@pytest.mark.parametrize("of", [of_the_batch(3e-3), of_the_batch(0.03), squared(1e-5, "users", "items")])
def test_embeddings_with_a_penalty(fit, of):
    assert not [f for f in judged(fit, Partly(Rated(), of), train=_pairs(), steps=600) if f.is_alarm]


@pytest.mark.parametrize("width", [1, 32])
def test_zeros_that_are_right(fit, width):
    findings = judged(fit, Zero(nn.Linear(FEATURES, width), lambda p: SGD(p, 1.0)), steps=400)
    assert "along" not in {name for f in findings for name in f.evidence}


@pytest.mark.parametrize("rate", [1e-4, 1e-3])
@pytest.mark.parametrize("eps", [1e-12, 1e-6])
def test_a_norm_takes_weights_to_zero_on_purpose(fit, rate, eps):
    findings = judged(fit, Partly(mlp(depth=3), by_groups(3.0, eps=eps), lambda p: SGD(p, rate)), steps=1200)
    assert not [f for f in findings if f.is_alarm]


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("optimizer", [lambda p: Adam(p, 0.01), lambda p: SGD(p, 1.0)])
def test_embeddings_of_which_a_penalty_leaves_nothing(fit, optimizer, by_hand):
    module = Partly(Rated(), squared(0.02, "users", "items"), optimizer, by_hand=by_hand)
    finding = found(judged(fit, module, train=_pairs(), steps=600), "weight_decay_outweighs")
    assert "net.users.weight, net.items.weight" in finding.message
    assert finding.evidence["along"] > 0.5


@pytest.mark.parametrize(("factor", "rate"), [(3, 0.03), (10, 0.01)])
def test_a_layer_of_which_a_penalty_leaves_nothing(fit, factor, rate):
    module = Partly(mlp(depth=3), squared(factor, "2"), lambda p: SGD(p, rate))
    finding = found(judged(fit, module, steps=600), "weight_decay_outweighs")
    assert "net.2.weight" in finding.message
    assert "net.0.weight" not in finding.message


@pytest.mark.parametrize("net", [mlp, Recurrent])
def test_a_group_that_stays_as_it_was_drawn(fit, net):
    (finding,) = judged(fit, Lit(net(), in_groups(1e-8)))
    assert (finding.status, finding.code) == (Status.ADVICE, "UpdateRatioMonitor/too_small")
    assert finding.evidence["rate"] == 1e-8


def test_a_group_that_stays_as_it_was_drawn_while_nothing_is_learnt(fit):
    (finding,) = judged(fit, Lit(mlp(), lambda p: SGD([{"params": p[:2], "lr": 1e-9}, {"params": p[2:], "lr": 1e-5}])))
    assert (finding.status, finding.code) == (Status.WARNING, "UpdateRatioMonitor/too_small")


def test_updates_too_small_for_16_bits(fit):
    finding = found(judged(fit, Lit(mlp(), lambda p: SGD(p, 1e-4)), precision="bf16-true"), "rounded_away")
    assert finding.evidence["share"] > 0.9


@pytest.mark.parametrize("net", [mlp, lambda: mlp(depth=3)])
@pytest.mark.parametrize("rate", [1e-4, 1.8e-4])
def test_most_of_the_weights_stay_in_16_bits_while_the_loss_falls_a_little(fit, net, rate):
    finding = found(judged(fit, Lit(net(), lambda p: Adam(p, rate)), precision="bf16-true"), "rounded_away")
    assert 0.5 < finding.evidence["share"] < 1


@pytest.mark.parametrize("optimizer", [Adam, AdamW])
def test_tuning_with_weights_that_can_not_move(fit, optimizer):
    finding = found(tuned(fit, Tuned(lambda p: optimizer(p, 1e-4)), OTHER_ARM, steps=420), "rounded_away")
    assert finding.evidence["beyond"] > 0.75
    assert finding.evidence["loss"] < finding.evidence["loss_first"]


def test_tuning_that_is_half_done_although_most_is_rounded_away(fit):
    (finding,) = tuned(fit, Tuned(lambda p: AdamW(p, 2e-4)), OTHER_ARM)
    assert (finding.status, finding.code) == (Status.ADVICE, "UpdateRatioMonitor/rounded_away")
    assert finding.evidence["loss"] < 0.5 * finding.evidence["loss_first"]


class Words(L.LightningModule):
    """Tells the topic of a bag of words, whose vectors begin as numbers of about 1."""

    def __init__(self, *, dtype=torch.bfloat16, std=1.0):
        super().__init__()
        self.words, self.head = nn.EmbeddingBag(60, 16), nn.Linear(16, 4)
        nn.init.normal_(self.words.weight, std=std)
        self.to(dtype)

    def train_dataloader(self):
        rng = torch.Generator().manual_seed(0)
        y = torch.randint(4, (640,), generator=rng)
        words = 15 * y[:, None] + torch.randint(15, (640, 5), generator=rng)
        other = torch.randint(60, (640, 5), generator=rng)
        return DataLoader(TensorDataset(torch.cat([words, other], 1), y), 32)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.head(self.words(batch[0])).float(), batch[1])

    def configure_optimizers(self):
        return Adam(self.parameters(), 1e-3)


@pytest.mark.parametrize(("settings", "told"), [({}, True), ({"dtype": torch.float32}, False), ({"std": 0.05}, False)])
def test_words_that_can_not_move_in_16_bits(fit, settings, told):
    check = UpdateRatioMonitor()
    fit(Words(**settings), [check], logger=False, max_epochs=10)
    told_of = [f for f in check.findings if f.code == "UpdateRatioMonitor/rounded_away"]
    assert [f.status for f in told_of] == [Status.ADVICE] * told
    assert all(f.evidence["share"] > 0.5 and "words.weight" in f.message for f in told_of)


class FewWords(Words):
    """Its vectors are a small part of all weights."""

    rate = 1e-3

    def __init__(self, **settings):
        super().__init__(**settings)
        hidden = nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4)
        self.head = nn.Sequential(*hidden).to(self.words.weight.dtype)

    def configure_optimizers(self):
        return Adam(self.parameters(), self.rate)


class FewWordsThatMove(FewWords):
    rate = 1e-2


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (FewWords(), True),
        (FewWords(dtype=torch.float32), False),
        (FewWords(std=0.05), False),
        (FewWordsThatMove(), False),
    ],
    ids=["drawn from 1", "32 bits", "small", "a higher rate"],
)
def test_words_that_can_not_move_beside_weights_that_can(fit, module, told):
    check = UpdateRatioMonitor()
    fit(module, [check], logger=False, max_epochs=10)
    told_of = [f for f in check.findings if f.code == "UpdateRatioMonitor/rounded_away"]
    assert [f.status for f in told_of] == [Status.ADVICE] * told, check.findings


def test_arguments_in_order():
    with pytest.raises(ValueError, match="smallest < largest"):
        UpdateRatioMonitor(smallest=0.1, largest=0.01)
