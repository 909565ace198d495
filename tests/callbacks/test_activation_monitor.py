from typing import ClassVar

import lightning.pytorch as L
import patients
import pytest
import torch
from patients import CLASSES, FEATURES
from programs import Offset, healthy_data, mlp
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.utils.data import TensorDataset

from lightning_recipe import ActivationMonitor, Status
from lightning_recipe.callbacks._attention import largest_weights, weights_of
from lightning_recipe.figures.canvas import pixels
from lightning_recipe.figures.depth import across_depth


class Functional(nn.Module):
    """Its activations are no modules."""

    def __init__(self, function, depth=3):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(FEATURES if i == 0 else 32, 32) for i in range(depth))
        self.leave, self.function = nn.Linear(32, CLASSES), function

    def forward(self, x):
        for layer in self.layers:
            x = self.function(layer(x))
        return self.leave(x)


class Gated(nn.Module):
    """A gate that is closed at first, beside a way past it."""

    def __init__(self):
        super().__init__()
        self.enter, self.open, self.leave = nn.Linear(FEATURES, 32), nn.Linear(FEATURES, 32), nn.Linear(32, CLASSES)
        self.sigmoid = nn.Sigmoid()
        nn.init.constant_(self.open.bias, -10)

    def forward(self, x):
        h = self.enter(x)
        return self.leave(h + h * self.sigmoid(self.open(x)))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(FEATURES, 32), nn.Linear(32, CLASSES)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)) for _ in range(8)
        )

    def forward(self, x):
        x = self.enter(x)
        for block in self.blocks:
            x = x + block(x)
        return self.leave(x)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.leave = nn.LSTM(1, 24, 2, batch_first=True), nn.Linear(24, CLASSES)

    def forward(self, x):
        return self.leave(self.rnn(x[..., None])[0][:, -1])


class Lit(L.LightningModule):
    def __init__(self, net, optimizer=lambda p: Adam(p, 1e-3)):
        super().__init__()
        self.net, self.optimizer = net, optimizer

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return self.optimizer(self.net.parameters())


def judged(fit, module, *, steps=128, random_labels=False, **settings):
    """All findings, after enough looks."""
    monitor = ActivationMonitor()
    settings = {"max_steps": steps, "max_epochs": -1, "logger": False, **settings}
    fit(module, [monitor], train=healthy_data(random_labels=random_labels), **settings)
    return monitor.findings


def only_passed(findings):
    return [(f.status, f.code) for f in findings] == [(Status.PASSED, "ActivationMonitor/passed")]


# -- false alarms


@pytest.mark.parametrize("random_labels", [False, True])
@pytest.mark.parametrize(
    "net",
    [
        lambda: mlp(depth=6),
        lambda: mlp(nn.Tanh, depth=4),
        lambda: mlp(nn.GELU),
        lambda: mlp(nn.Sigmoid),
        Gated,
        Residual,
        Recurrent,
        lambda: Functional(torch.relu),
    ],
    ids=["relu", "tanh", "gelu", "sigmoid", "gate", "residual", "recurrent", "function"],
)
def test_usual_networks_pass_whether_they_learn_or_not(fit, net, random_labels):
    assert only_passed(judged(fit, Lit(net()), steps=208 if random_labels else 80, random_labels=random_labels))


def test_weights_that_are_known_by_two_names(fit):
    class Wrapped(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.weight, self.layer = layer.weight, layer

        def forward(self, x):
            return self.layer(x)

    net = nn.Sequential(*[Wrapped(one) if isinstance(one, nn.Linear) else one for one in mlp(depth=4)])
    (finding,) = judged(fit, Lit(net), steps=40)
    assert finding.message.startswith("5 layers")


def test_units_that_are_sparse_while_the_loss_falls_pass(fit):
    net = mlp(width=512, depth=1)
    nn.init.constant_(net[0].bias, -2)
    assert only_passed(judged(fit, Lit(net, lambda p: Adam(p, 3e-3))))


def test_a_network_that_was_trained_before_may_be_sparse(fit):
    net = mlp(width=512, depth=1)
    with torch.no_grad():
        net[0].weight += 0.5 * torch.randn(512, 1) @ torch.randn(1, FEATURES)  # no longer as drawn
        net[0].bias.fill_(-9)
    findings = judged(fit, Lit(net, lambda p: Adam(p, 1e-5)), random_labels=True)
    assert not [f for f in findings if f.is_alarm]


def test_a_sigmoid_at_the_output_may_be_sure(fit):
    class Sure(Lit):
        def training_step(self, batch, batch_idx):
            return F.binary_cross_entropy(self.net(100 * batch[0])[:, 0], (batch[1] > 1).float())

    net = nn.Sequential(nn.Linear(FEATURES, 1), nn.Sigmoid())
    assert only_passed(judged(fit, Sure(net, lambda p: Adam(p, 1e-5))))


def test_a_hinge_in_the_loss_is_no_activation_of_the_network(fit):
    class Margin(Lit):
        def __init__(self, net):
            super().__init__(net)
            self.hinge = nn.ReLU()

        def training_step(self, batch, batch_idx):
            x, y = batch[0], 2.0 * (batch[1] > 1) - 1
            return self.hinge(1 - y * (self.net(x)[:, 0] + 9 * y)).mean() + 1e-3 * self.net(x).square().mean()

    assert only_passed(judged(fit, Margin(mlp())))


def test_what_dropout_and_padding_make_zero_is_no_activation(fit):
    net = nn.Sequential(nn.Linear(FEATURES, 64), nn.GELU(), nn.Dropout(0.95), nn.Linear(64, CLASSES))
    assert only_passed(judged(fit, Lit(net), random_labels=True))


def test_gradients_that_overflow_under_a_scaler_are_no_looks(fit):
    class Overflows(Lit):
        def on_before_optimizer_step(self, optimizer):
            for p in self.net.parameters():
                p.grad.fill_(torch.inf)

        def optimizer_step(self, epoch, batch_idx, optimizer, closure):
            closure()

    assert not [f for f in judged(fit, Overflows(mlp())) if f.is_alarm]


def test_networks_that_take_turns_are_not_compared_across_depth(fit):
    class Two(Lit):
        def configure_optimizers(self):
            return [SGD(self.net[:4].parameters(), 0.01), SGD(self.net[4:].parameters(), 0.01)]

        def __init__(self):
            super().__init__(mlp(nn.Sigmoid, depth=8))
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()

    assert not [f for f in judged(fit, Two()) if f.is_alarm]


def test_without_a_layer_there_is_nothing_to_judge(fit):
    (finding,) = judged(fit, Lit(Offset()), steps=8)
    assert finding.status is Status.SKIPPED


# -- diseases, in other forms than the patients'


def found(findings, code):
    alarms = [f for f in findings if f.is_alarm]
    assert [f.code for f in alarms] == [f"ActivationMonitor/{code}"]
    assert alarms[0].times >= 3
    return alarms[0]


def test_units_that_a_large_step_put_out(fit):
    finding = found(judged(fit, Lit(mlp(), lambda p: SGD(p, 10.0))), "dead")
    assert finding.evidence["zeros"] > 0.9


def with_units_off(net, first):
    """All units of the first layer with a bias, from one on."""
    layer = next(m for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.Linear))
    nn.init.constant_(layer.bias[first:], -40)
    return net


def units_dead(findings):
    return [f for f in findings if f.code == "ActivationMonitor/units_dead"]


@pytest.mark.parametrize(("net", "first"), [(mlp, 10), (lambda: Convolutions(nn.BatchNorm1d), 6)])
def test_units_that_are_off_one_by_one(fit, net, first):
    (finding,) = units_dead(judged(fit, Lit(with_units_off(net(), first)), random_labels=True))
    assert finding.status is Status.WARNING
    assert finding.evidence["units"] >= 0.6


def test_a_few_units_may_be_off(fit):
    assert not units_dead(judged(fit, Lit(with_units_off(mlp(), 20)), random_labels=True))
    assert not units_dead(judged(fit, Lit(with_units_off(mlp(), 6), lambda p: Adam(p, 3e-3))))  # learns nevertheless


def test_units_that_are_off_are_no_alarm_while_the_loss_falls(fit):
    (finding,) = units_dead(judged(fit, Lit(with_units_off(mlp(), 6), lambda p: Adam(p, 1e-3))))
    assert finding.status is Status.ADVICE
    assert 0.7 < finding.evidence["loss"] / finding.evidence["loss_first"] < 0.95


def test_an_output_that_is_off_is_no_hinge(fit):
    class Positive(Lit):
        """Puts out numbers that are not negative, from a start of its own."""

        def __init__(self, net):
            super().__init__(net)
            self.relu = nn.ReLU()

        def training_step(self, batch, batch_idx):
            return F.mse_loss(self.relu(self.net(batch[0])[:, 0] - 50), batch[1].float())

    assert found(judged(fit, Positive(mlp())), "dead")


def test_units_that_are_off_where_the_activation_is_a_function(fit):
    net = Functional(torch.relu)
    nn.init.constant_(net.layers[1].bias, -50)
    finding = found(judged(fit, Lit(net)), "dead")
    assert finding.evidence["activations"] == 1
    assert "the ReLU after net.layers.1" in finding.message


def test_what_a_layer_puts_out_may_be_negative_where_other_things_take_it(fit):
    """Logarithms of probabilities, and what a residual is added to."""

    class Negative(Functional):
        def forward(self, x):
            for layer in self.layers:
                h = layer(x)
                x = torch.relu(h) - 0.1 * h
            return self.leave(x)

    net = Negative(None)
    nn.init.constant_(net.layers[1].bias, -50)
    assert "ActivationMonitor/dead" not in {f.code for f in judged(fit, Lit(net))}


def test_gradients_that_are_cut_off_by_another_function(fit):
    net = Functional(lambda x: x.clamp(min=0))
    nn.init.constant_(net.layers[1].bias, -50)
    assert found(judged(fit, Lit(net)), "cut").evidence["layers"] == 3


def test_units_at_their_bounds(fit):
    class Unscaled(Lit):
        def training_step(self, batch, batch_idx):
            return super().training_step((3000 * batch[0], batch[1]), batch_idx)

    net = mlp(nn.Sigmoid, depth=3)
    finding = found(judged(fit, Unscaled(net, lambda p: Adam(p, 1e-5))), "saturated")
    assert finding.evidence["slope"] < 0.05


def wide(net, std=1.0, skip=0):
    for layer in [module for module in net.modules() if isinstance(module, nn.Linear)][skip:-1]:
        nn.init.normal_(layer.weight, std=std)
    return net


class Squashed(nn.Module):
    """Tanh as a gate of a residual path, and over scores: what they go into is no layer."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(FEATURES, 32), nn.Linear(32, CLASSES)
        self.gates = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
        self.tanh = nn.Tanh()

    def forward(self, x):
        x = self.enter(x)
        for gate in self.gates:
            x = x + 0.1 * x * self.tanh(gate(x))
        return self.leave(x)


class Bounds(nn.Module):
    """One hidden layer is made binary, the others are as usual."""

    def __init__(self):
        super().__init__()
        self.net = mlp(nn.Tanh, depth=4)

    def forward(self, x):
        for i, module in enumerate(self.net):
            x = module(30 * x if i == 3 else x)
        return x


class TwoViews(nn.Module):
    """One hidden layer sees two halves of the input."""

    def __init__(self):
        super().__init__()
        self.look, self.leave = nn.Linear(FEATURES // 2, 32), nn.Linear(32, CLASSES)
        nn.init.normal_(self.look.weight, std=9.0)

    def forward(self, x):
        return sum(self.leave(torch.tanh(self.look(half))) for half in x.chunk(2, 1))


USUAL = {
    "torch's own": lambda: mlp(nn.Tanh, depth=5),
    "xavier with the gain of tanh": lambda: wide(mlp(nn.Tanh, depth=5), (5 / 3) * 32**-0.5),
    "normalised before": lambda: nn.Sequential(
        *(m for _ in range(3) for m in (nn.Linear(FEATURES, FEATURES), nn.LayerNorm(FEATURES), nn.Tanh())),
        nn.Linear(FEATURES, CLASSES),
    ),
    "a single hidden layer": lambda: wide(mlp(nn.Tanh, depth=1)),
    "a single one, twice": TwoViews,
    "the first of four": lambda: wide(mlp(nn.Tanh, depth=5), 9.0, skip=3),
    "binary codes": Bounds,
    "gates": lambda: wide(Squashed()),
    "ReLU": lambda: wide(mlp(nn.ReLU, depth=4), 0.3),
    "states of a loop": lambda: Loop("module", 30.0),
}


@pytest.mark.parametrize("name", USUAL)
def test_weights_that_are_drawn_as_usual(fit, name):
    assert "ActivationMonitor/saturated_as_drawn" not in {f.code for f in judged(fit, Lit(USUAL[name]()))}


LARGE = {
    "tanh": lambda: wide(mlp(nn.Tanh, depth=5)),
    "functions": lambda: wide(Functional(torch.tanh, 3)),
    "sigmoid": lambda: wide(mlp(nn.Sigmoid, depth=5), 4.0),
    "uniform": lambda: mlp(nn.Tanh, depth=4).apply(
        lambda m: nn.init.uniform_(m.weight, -2, 2) if isinstance(m, nn.Linear) else None
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_weights_that_are_drawn_too_large(fit, name):
    finding = found(judged(fit, Lit(LARGE[name]())), "saturated_as_drawn")
    assert finding.status is Status.WARNING
    assert finding.evidence["slope"] < 0.2


@pytest.mark.parametrize("net", [lambda: Functional(torch.sigmoid, 8), lambda: mlp(nn.Sigmoid, depth=7)])
def test_gradients_that_vanish_on_their_way_back(fit, net):
    finding = found(judged(fit, Lit(net(), lambda p: SGD(p, 0.01)), steps=208), "vanishing")
    assert 0 < finding.evidence["ratio"] < 1e-3


def test_gradients_that_vanish_by_far_are_seen_soon(fit):
    """At looks 25 to 75, as long as the loss stands still."""
    few = {"steps": 80}
    assert found(judged(fit, Lit(mlp(nn.Sigmoid, depth=9), lambda p: SGD(p, 0.01)), **few), "vanishing")
    findings = judged(fit, Lit(mlp(nn.Sigmoid, depth=5), lambda p: SGD(p, 0.01)), **few)
    assert "ActivationMonitor/vanishing" not in [f.code for f in findings], "by less it may be on its way"


def with_weights(draw, net):
    for layer in net:
        if isinstance(layer, nn.Linear):
            draw(layer.weight)
    return net


def test_gradients_that_vanished_on_a_plateau(fit):
    """They come back once it is over."""
    module = Lit(with_weights(nn.init.xavier_uniform_, mlp(nn.Sigmoid, depth=7)), lambda p: Adam(p, 1e-3))
    finding = found(judged(fit, module, steps=258), "vanishing")
    assert 0 < finding.evidence["ratio"] < 1e-3


def with_a_small_head(depth=6):
    net = mlp(depth=depth)
    nn.init.normal_(net[-1].weight, std=1e-5)
    return net


@pytest.mark.parametrize(
    ("net", "rate"),
    [
        (with_a_small_head, 1e-3),
        (lambda: with_weights(nn.init.xavier_uniform_, mlp(nn.Tanh, depth=9)), 1e-7),
        (lambda: with_weights(nn.init.kaiming_normal_, mlp(depth=12)), 1e-7),
        (lambda: with_weights(nn.init.xavier_uniform_, mlp(nn.Sigmoid, depth=3)), 1e-7),
    ],
    ids=["small head", "tanh", "relu", "three sigmoids"],
)
def test_networks_whose_loss_stands_still_for_another_reason(fit, net, rate):
    findings = judged(fit, Lit(net(), lambda p: Adam(p, rate)), steps=208, random_labels=True)
    assert "ActivationMonitor/vanishing" not in [f.code for f in findings]


def drawn_small(net, std=0.01):
    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d):
            nn.init.normal_(layer.weight, std=std)
    return net


class Convolutions(nn.Sequential):
    def __init__(self, norm=nn.Identity):
        blocks = [layer for _ in range(5) for layer in (nn.Conv1d(16, 16, 3, padding=1), norm(16), nn.ReLU())]
        ends = nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, CLASSES)
        super().__init__(nn.Unflatten(1, (1, -1)), nn.Conv1d(1, 16, 3, padding=1), nn.ReLU(), *blocks, *ends)


@pytest.mark.parametrize(
    "net", [lambda: mlp(depth=8), lambda: mlp(nn.GELU, depth=8), Convolutions], ids=["mlp", "gelu", "convolutions"]
)
def test_weights_that_are_drawn_too_small(fit, net):
    finding = found(judged(fit, Lit(drawn_small(net()), lambda p: Adam(p, 3e-4)), steps=108), "vanishing")
    assert finding.evidence["ratio"] < 1e-3
    assert "have a standard deviation of 0.0" in finding.message


def with_a_head_of_zeros():
    net = mlp(depth=5)
    nn.init.zeros_(net[-1].weight)
    return net


@pytest.mark.parametrize(
    "net",
    [
        lambda: drawn_small(mlp()),
        lambda: drawn_small(Residual()),
        lambda: drawn_small(Convolutions(nn.BatchNorm1d)),
        with_a_head_of_zeros,
        lambda: drawn_small(mlp(depth=4), 0.1),
    ],
    ids=["shallow", "residual", "norm layers", "a head of zeros", "a little"],
)
def test_weights_that_may_be_small(fit, net):
    findings = judged(fit, Lit(net()), steps=208, random_labels=True)
    assert "ActivationMonitor/vanishing" not in [f.code for f in findings]


def test_outputs_that_explode_on_their_way(fit):
    net = mlp(nn.GELU, depth=8)
    for layer in net[2:-1:2]:
        nn.init.normal_(layer.weight, std=2.0)
    finding = found(judged(fit, Lit(net, lambda p: SGD(p, 1e-20)), steps=208), "exploding")
    assert finding.evidence["ratio"] > 1000


class Loop(nn.Module):
    """A recurrent cell by hand, whose states are tanh modules or functions, or a layer of torch."""

    def __init__(self, kind, gain):
        super().__init__()
        self.enter, self.again, self.leave = nn.Linear(1, 32), nn.Linear(32, 32), nn.Linear(32, CLASSES)
        nn.init.orthogonal_(self.again.weight, gain)
        self.act = nn.Tanh() if kind == "module" else torch.tanh
        self.rnn = kind(1, 32, batch_first=True) if isinstance(kind, type) else None
        if self.rnn is not None:
            nn.init.orthogonal_(self.rnn.weight_hh_l0, gain)

    def forward(self, x):
        if self.rnn is not None:
            return self.leave(self.rnn(x[..., None])[0][:, -1])
        states = [x.new_zeros(len(x), 32)]
        for t in range(x.shape[1]):
            states.append(self.act(self.enter(x[:, t, None]) + self.again(states[-1])))
        return self.leave(torch.stack(states, 1)[:, -1])


KINDS = ["module", "function", nn.RNN]


@pytest.mark.parametrize("kind", [*KINDS, nn.LSTM, nn.GRU])
def test_states_of_a_loop_that_learns_nothing_need_not_be_flat(fit, kind):
    (finding,) = judged(fit, Lit(Loop(kind, 1.0), lambda p: SGD(p, 1e-6)))
    assert finding.status is Status.PASSED


@pytest.mark.parametrize("kind", KINDS)
def test_states_of_a_loop_at_their_bounds(fit, kind):
    finding = found(judged(fit, Lit(Loop(kind, 30.0), lambda p: SGD(p, 1e-6))), "saturated")
    assert finding.evidence["slope"] < 0.15


def test_outputs_that_exploded_at_first(fit):
    """The loss falls from thousands, and tells no more than that."""
    net = Residual()
    for block in net.blocks:
        block[0] = nn.Identity()
        nn.init.normal_(block[1].weight, std=1.0)
    finding = found(judged(fit, Lit(net)), "exploding")
    assert finding.evidence["loss_first"] > 10 * finding.evidence["loss"]


def test_what_a_norm_layer_makes_small_again_may_grow(fit):
    net = Residual()
    for block in net.blocks:
        block[0] = nn.Identity()
        nn.init.normal_(block[1].weight, std=1.0)
    net.leave = nn.Sequential(nn.LayerNorm(32), net.leave)
    assert "ActivationMonitor/exploding" not in {f.code for f in judged(fit, Lit(net))}


# -- the picture


def test_one_picture_for_each_run(fit, events):
    tags = events(fit(patients.Healthy(), [ActivationMonitor()])).Tags()["images"]
    assert [tag.rpartition("/")[2] for tag in tags] == ["depth"]


def test_the_picture_has_the_shape_of_a_screen():
    looks = {"step 1": [1.0, 0.0, float("nan")], "step 9": [1.0, 0.1, 0.01]}
    assert pixels(across_depth({"std of outputs": looks, "gradient / weight": looks})).shape == (360, 640, 3)


@pytest.mark.parametrize("wrong", [{"zeros": 1.5}, {"slope": 0.0}, {"factor": 0.5}])
def test_arguments_in_range(wrong):
    with pytest.raises(ValueError, match="between 0 and 1"):
        ActivationMonitor(**wrong)


class Hidden(patients.ByAttention):
    """Most places are hidden by a mask, so that rows look at few."""

    def forward(self, x):
        q, k, v = self.qkv(self.norm(self.enter(x[..., None]) + self.places)).chunk(3, -1)
        hidden = torch.ones(FEATURES, FEATURES).triu(1).bool()
        return self.leave(((q @ k.mT / 8).masked_fill(hidden, float("-inf")).softmax(-1) @ v).mean(1))


class ByTorch(patients.ByAttention):
    """The same by ``scaled_dot_product_attention``."""

    scale: float | None = None
    settings: ClassVar = {}

    def forward(self, x):
        q, k, v = self.qkv(self.norm(self.enter(x[..., None]) + self.places))[:, None].chunk(3, -1)
        seen = F.scaled_dot_product_attention(q, k, v, scale=self.scale, **self.settings)
        return self.leave(seen[:, 0].mean(1))


class Multihead(nn.Module):
    """In one of torch's layers, with dropout or without."""

    def __init__(self, dropout=0.1):
        super().__init__()
        self.enter, self.leave = nn.Linear(1, 64), nn.Linear(64, CLASSES)
        self.places = nn.Parameter(torch.randn(FEATURES, 64))
        self.attend = nn.TransformerEncoderLayer(64, 1, 64, dropout, batch_first=True)

    def forward(self, x):
        return self.leave(self.attend(self.enter(x[..., None]) + self.places).mean(1))


class Pooled(nn.Module):
    """A softmax that weighs nothing, but is sharp: of what is classified."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(FEATURES, 32), nn.Linear(32, CLASSES)

    def forward(self, x):
        return self.leave((50 * self.enter(x)).softmax(1))


@pytest.mark.parametrize("net", [patients.ByAttention, Hidden, Pooled, ByTorch, Multihead, lambda: Multihead(0.0)])
def test_attention_that_looks_at_several_places(fit, net):
    assert not [f for f in judged(fit, Lit(net()), steps=16) if f.code == patients.LooksAtOnePlace.code]


def test_attention_that_was_trained_before_may_be_sharp(fit):
    module = patients.LooksAtOnePlace()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(len(p), 1) @ torch.randn(1, p[0].numel()).view(1, -1) if p.ndim > 1 else 0)
    assert not [f for f in judged(fit, module, steps=16) if f.code == patients.LooksAtOnePlace.code]


def test_attention_that_looks_at_one_place(fit):
    (finding,) = judged(fit, patients.LooksAtOnePlace(), steps=16)
    assert (finding.status, finding.code) == (Status.WARNING, patients.LooksAtOnePlace.code)
    assert finding.evidence["largest"] > 0.9


@pytest.mark.parametrize("settings", [{}, {"is_causal": True}, {"attn_mask": torch.ones(FEATURES, FEATURES).bool()}])
def test_torchs_attention_that_looks_at_one_place(fit, settings):
    net = ByTorch()
    net.scale, net.settings = 8.0, settings
    (finding,) = judged(fit, Lit(net), steps=16)
    assert (finding.status, finding.code) == (Status.WARNING, patients.LooksAtOnePlace.code)


@pytest.mark.parametrize("settings", [{}, {"is_causal": True}, {"attn_mask": torch.ones(300, 300).tril().bool()}])
def test_some_rows_of_a_long_attention_tell(settings):
    q = torch.randn(1, 2, 300, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for scale, at_one_place in ((8.0, True), (None, False)):
        seen = F.scaled_dot_product_attention(q, q.detach().flip(2), q, scale=scale, **settings)
        (largest,) = largest_weights(weights_of(seen.sum()))
        assert (largest > 0.9) is at_one_place


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_layer_of_torch_that_is_given_large_numbers_is_advice(fit, dropout):
    net = Multihead(dropout)

    def sharpen(module, given):
        return (8 * given[0],)

    net.attend.register_forward_pre_hook(sharpen)
    (finding,) = judged(fit, Lit(net), steps=16)
    assert (finding.status, finding.code) == (Status.ADVICE, patients.LooksAtOnePlace.code)


class Cell(nn.Module):
    """A recurrent network by hand, whose state is far from 0 after a few steps, or not."""

    def __init__(self, gain):
        super().__init__()
        self.enter, self.go_on, self.leave = nn.Linear(1, 32), nn.Linear(32, 32), nn.Linear(32, CLASSES)
        self.tanh = nn.Tanh()
        nn.init.orthogonal_(self.go_on.weight, gain)

    def forward(self, x):
        state = x.new_zeros(len(x), 32)
        for value in x.T:
            state = self.tanh(self.enter(value[:, None]) + self.go_on(state))
        return self.leave(state)


def test_a_cell_by_hand(fit):
    assert not [f for f in judged(fit, Lit(Cell(1.0)), random_labels=True) if f.code == "ActivationMonitor/saturated"]
    told = [f.code for f in judged(fit, Lit(Cell(30.0)), random_labels=True)]
    assert "ActivationMonitor/saturated" in told


class ByHand(patients.Padded):
    """The same by hand, or by a function of torch."""

    causal, function = False, False

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(32, 96)

    def forward(self, tokens):
        padded = tokens == 0
        parts = self.mix(self.net(tokens) + self.places).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (2, 16)).transpose(1, 2) for part in parts)
        seen = torch.ones(24, 24).bool().tril() if self.causal else torch.ones(24, 24).bool()
        seen = seen & ~(padded[:, None, None] & torch.tensor(self.masks))
        if self.function:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        else:
            mixed = (q @ k.mT / 4).masked_fill(~seen, -1e9).softmax(-1) @ v
        there = ~padded[..., None]
        return self.head((mixed.transpose(1, 2).flatten(2) * there).sum(1) / there.sum(1))


def on_padding(fit, kind, **attributes):
    """Alarms and advice on what attention looks at."""
    made = type("Made", (kind,), attributes)()
    monitor = ActivationMonitor()
    fit(made, [monitor], train=made.train_dataloader(), max_steps=8, max_epochs=-1, logger=False, limit_val_batches=0)
    return [f for f in monitor.findings if f.code == patients.LooksAtPadding.code]


@pytest.mark.parametrize("kind", [patients.Padded, ByHand])
@pytest.mark.parametrize("function", [False, True])
def test_padding_that_is_masked(fit, kind, function):
    assert not on_padding(fit, kind, function=function)


@pytest.mark.parametrize("function", [False, True])
def test_what_comes_before_the_padding_need_not_be_masked(fit, function):
    assert not on_padding(fit, ByHand, causal=True, masks=False, function=function)


def short(self, n, seed):
    """A little padding, and sequences of which none is padded."""
    x, y = patients.Padded.data(self, n, seed).tensors
    x = torch.where(x == 0, 1 + torch.arange(24) % 9, x)
    if seed == 1:
        x[::2, -1] = 0
    return TensorDataset(x, y)


def of_one_length(self, n, seed):
    """All end with the same token, which may be a separator."""
    x, y = short(self, n, 0).tensors
    x[:, -1] = 9
    return TensorDataset(x, y)


@pytest.mark.parametrize("data", [short, of_one_length])
def test_sequences_with_little_padding(fit, data):
    assert not on_padding(fit, ByHand, masks=False, data=data)


@pytest.mark.parametrize(
    ("kind", "function"), [(patients.Padded, False), (ByHand, False), (ByHand, True)], ids=["torch", "hand", "function"]
)
def test_padding_that_is_not_masked(fit, kind, function):
    (finding,) = on_padding(fit, kind, masks=False, function=function)
    assert finding.status is Status.WARNING
    assert finding.evidence["share"] == pytest.approx(finding.evidence["padded"], abs=0.15)


def test_a_mask_that_is_the_wrong_way_round(fit):
    class Inverted(ByHand):
        def forward(self, tokens):
            (q, k, v), padded = self.mix(self.net(tokens) + self.places).chunk(3, -1), tokens == 0
            mixed = (q @ k.mT / 4).masked_fill(~padded[:, None], -1e9).softmax(-1) @ v
            return self.head((mixed * ~padded[..., None]).sum(1))

    (finding,) = on_padding(fit, Inverted)
    assert finding.evidence["share"] > 0.99
    assert finding.fix.startswith("invert")


POOLS = {
    "a number for each": lambda s, h: (s.softmax(1)[..., None] * h).sum(1),
    "a column": lambda s, h: (h * s[..., None].softmax(1)).sum(1),
    "a product": lambda s, h: (s[:, None].softmax(-1) @ h)[:, 0],
    "einsum": lambda s, h: torch.einsum("nl,nld->nd", s.softmax(-1), h),
    "einsum, two heads": lambda s, h: torch.einsum("nlh,nld->nhd", torch.stack([s, 2 * s], 2).softmax(1), h).sum(1),
}


class Pooled(patients.Padded):
    """One score for each token, by which they are averaged."""

    pool, way = staticmethod(POOLS["a column"]), "right"

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(32, 1)

    def forward(self, tokens):
        h = torch.tanh(self.net(tokens) + self.places)
        hidden = {"right": tokens == 0, "inverted": tokens != 0, "none": tokens < 0}[self.way]
        return self.head(self.pool(self.mix(h)[..., 0].masked_fill(hidden, -1e9), h))


@pytest.mark.parametrize("pool", POOLS)
def test_pooling_by_attention(fit, pool):
    assert not on_padding(fit, Pooled, pool=staticmethod(POOLS[pool]))
    (inverted,) = on_padding(fit, Pooled, pool=staticmethod(POOLS[pool]), way="inverted")
    assert (inverted.status, inverted.fix[:6]) == (Status.WARNING, "invert")
    (unmasked,) = on_padding(fit, Pooled, pool=staticmethod(POOLS[pool]), way="none")
    assert unmasked.evidence["share"] == pytest.approx(unmasked.evidence["padded"], abs=0.15)


def test_a_softmax_that_pools_no_places(fit):
    class Gates(Pooled):
        """Of 24 features."""

        def __init__(self):
            super().__init__()
            self.gates = nn.Linear(32, 24)

        def forward(self, tokens):
            there = (tokens != 0)[..., None]
            h = (torch.tanh(self.net(tokens) + self.places) * there).sum(1) / there.sum(1)
            return self.head(nn.functional.pad(self.gates(h).softmax(1) * h[:, :24], (0, 8)))

    assert not on_padding(fit, Gates)


def test_padding_that_no_embedding_tells_of(fit):
    class Plain(ByHand):
        def __init__(self):
            super().__init__()
            self.net = nn.Embedding(10, 32)

    assert on_padding(fit, Plain, masks=False)
    assert not on_padding(fit, Plain, masks=True)
