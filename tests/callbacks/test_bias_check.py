import pytest
import torch
from patients import CLASSES, FEATURES, Healthy
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe import BiasCheck, InitLossCheck, Status, recipe

BEFORE, WITHOUT = "BiasCheck/before_norm", "BiasCheck/output_without_bias"


def judged(fit, module, **settings):
    check = BiasCheck()
    fit(module, [check], max_steps=1, limit_val_batches=0, logger=False, **settings)
    return check.findings


class Net(Healthy):
    """Any network for rows of 12 features."""

    def __init__(self, *layers):
        super().__init__()
        self.net = nn.Sequential(*layers)


def norm(width=8, **arguments):
    return nn.BatchNorm1d(width, **arguments)


# -- false alarms first


class Residual(nn.Module):
    """What enters the BatchNorm is used elsewhere, too."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(8, 8), norm()

    def forward(self, x):
        h = self.layer(x)
        return h + self.norm(h)


class Between(nn.Module):
    """Something stands between layer and BatchNorm, and no module does it."""

    def __init__(self, between):
        super().__init__()
        self.layer, self.norm, self.between = nn.Linear(8, 8), norm(), between

    def forward(self, x):
        return self.norm(self.between(self.layer(x)))


class Twice(nn.Module):
    """One layer, two ways to go on."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.other = nn.Linear(8, 8), norm(), nn.Linear(8, 8)

    def forward(self, x):
        return self.norm(self.layer(x)) + self.other(self.layer(x + 1))


class SharedNorm(nn.Module):
    """Of one BatchNorm for two layers the statistics are those of both."""

    def __init__(self):
        super().__init__()
        self.layer, self.other, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), norm()

    def forward(self, x):
        return self.norm(self.layer(x)) + self.norm(self.other(x))


def frozen_bias():
    layer = nn.Linear(8, 8)
    layer.bias.requires_grad_(requires_grad=False)
    return nn.Sequential(layer, norm())


def pretrained():
    block = nn.Sequential(nn.Linear(8, 8), norm())
    for _ in range(3):
        block(torch.randn(16, 8))
    return block


def in_eval():
    block = nn.Sequential(nn.Linear(8, 8), norm())
    block[1].train = lambda mode=True: block[1]
    block[1].training = False
    return block


@pytest.mark.parametrize(
    "block",
    [
        lambda: nn.Sequential(nn.Linear(8, 8, bias=False), norm()),
        lambda: nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)),
        lambda: nn.Sequential(nn.Linear(8, 8), nn.GroupNorm(2, 8)),
        lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), norm()),
        lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), norm()),
        lambda: nn.Sequential(norm(), nn.Linear(8, 8)),
        lambda: Between(F.relu),
        lambda: Between(lambda h: h * h.sigmoid()),
        lambda: Between(torch.relu_),
        Residual,
        Twice,
        SharedNorm,
        frozen_bias,
        pretrained,
        in_eval,
    ],
    ids=[
        "no bias", "layer norm", "group norm", "activation", "in place", "norm first", "function", "swish by hand",
        "function in place", "residual", "twice", "shared norm", "frozen", "pretrained", "eval",
    ],
)  # fmt: skip
def test_a_bias_that_has_an_effect_is_left_alone(fit, block):
    findings = judged(fit, Net(nn.Linear(FEATURES, 8), nn.ReLU(), block(), nn.ReLU(), nn.Linear(8, CLASSES)))
    assert [f.status for f in findings] == [Status.PASSED], findings


def test_of_another_dimension_than_that_of_the_bias(fit):
    """Over positions, (N, L, C), as ``BatchNorm1d(L)`` takes it: the bias has C numbers, one for each feature."""

    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.Linear(4, 6), norm(3)

        def forward(self, x):
            return self.norm(self.layer(x.view(-1, 3, 4))).flatten(1)

    assert judged(fit, Net(Positions(), nn.ReLU(), nn.Linear(18, CLASSES)))[0].status is Status.PASSED


class Targets(Net):
    """A regression whose output layer has no bias."""

    mean, std = 0.0, 1.0

    def __init__(self, head=None):
        super().__init__(nn.Linear(FEATURES, 16), nn.Tanh(), head or nn.Linear(16, 1, bias=False))

    def loss(self, out, y):
        return F.mse_loss(out.squeeze(1), y)

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])

    def train_dataloader(self):
        x = self.data(256, 1).tensors[0]
        return DataLoader(TensorDataset(x, self.mean + self.std * x[:, 0]), 64)


class Centred(Targets):
    pass


class Mean(Targets):
    mean, std = 50.0, 10.0


class Far(Targets):
    mean, std = 300.0, 5.0


class AddedByHand(Mean):
    """A parameter of its own shifts the output."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.net(x) + self.shift


class Frozen(Mean):
    def __init__(self):
        super().__init__()
        self.net[2].weight.requires_grad_(requires_grad=False)


class TiedTokens(Healthy):
    """Output embeddings are input embeddings, and have no bias by custom."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
        self.head.weight = self.embedding.weight

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.head(self.embedding(batch[0])).flatten(0, 1), batch[1].flatten())

    def train_dataloader(self):
        tokens = (torch.randint(0, 20, (64, 5)) * (torch.rand(64, 5) < 0.2)).long()  # mostly one of them
        return DataLoader(TensorDataset(tokens, tokens.roll(-1, 1)), 64)


@pytest.mark.parametrize("module", [Centred, AddedByHand, Frozen, TiedTokens, Healthy])
def test_an_output_layer_that_needs_no_bias_is_left_alone(fit, module):
    findings = judged(fit, module())
    assert [f.status for f in findings] == [Status.PASSED], findings


# -- patients


class Convolutions(Healthy):
    """Two convolutions with a bias before a BatchNorm, and one without."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Unflatten(1, (3, 2, 2)),
            *(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.ReLU()),
            *(nn.Conv2d(5, 7, 1), nn.BatchNorm2d(7), nn.ReLU()),
            *(nn.Conv2d(7, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, CLASSES)),
        )


def test_biases_before_a_batchnorm_are_counted_and_named(fit):
    (finding,) = judged(fit, Convolutions())
    assert (finding.status, finding.code, finding.subject) == (Status.ADVICE, BEFORE, "net.1, net.4")
    assert finding.evidence == {"layers": 2, "parameters": 12}
    assert "net.1 (before net.2)" in finding.message


def test_a_block_called_for_two_views_is_found(fit):
    class Views(Healthy):
        def __init__(self):
            super().__init__()
            self.block, self.head = nn.Sequential(nn.Linear(FEATURES, 8), norm()), nn.Linear(8, CLASSES)

        def forward(self, x):
            return self.head(self.block(x) - self.block(x.flip(1)))

    (finding,) = judged(fit, Views())
    assert (finding.code, finding.evidence["layers"]) == (BEFORE, 1)


def test_a_loss_written_by_hand_hides_no_bias(fit):
    class ByHand(Convolutions):
        def loss(self, logits, y):
            return -logits.log_softmax(1).gather(1, y[:, None]).mean()

    assert judged(fit, ByHand())[0].code == BEFORE


def test_in_manual_optimisation(fit):
    class ByHand(Convolutions):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(self(batch[0]), batch[1]))
            optimizer.step()

    assert judged(fit, ByHand())[0].code == BEFORE


@pytest.mark.parametrize(("module", "status"), [(Mean, Status.ADVICE), (Far, Status.WARNING)])
def test_an_output_layer_without_bias(fit, module, status):
    (finding,) = judged(fit, module())
    assert (finding.status, finding.code, finding.subject) == (status, WITHOUT, "net.2")
    assert finding.evidence["measured"] > 10 * finding.evidence["best_constant"]


def test_it_explains_what_the_loss_shows(fit, capsys):
    fit(Far(), [InitLossCheck(), BiasCheck()], max_steps=1, limit_val_batches=0)
    table = capsys.readouterr().out.partition("lightning_recipe: ")[2]
    assert table.index("BiasCheck") < table.index("InitLossCheck")
    assert "explains: InitLossCheck (warning)" in " ".join(table.split())


def test_one_class_in_ten_without_bias_is_advice(fit):
    class Rare(Targets):
        def loss(self, out, y):
            return F.binary_cross_entropy_with_logits(out.squeeze(1), (y > 1.3).float())

    (finding,) = judged(fit, Rare())
    assert (finding.status, finding.code) == (Status.ADVICE, WITHOUT)


# -- what can't be judged


def test_what_is_compiled_is_not_looked_into(fit):
    class Compiled(Convolutions):
        def __init__(self):
            super().__init__()
            self.net = torch.compile(self.net, backend="eager")

    (finding,) = judged(fit, Compiled())
    assert finding.status is not Status.ADVICE


@pytest.mark.parametrize("share", [0, 1, -0.5])
def test_a_share_lies_between_0_and_1(share):
    with pytest.raises(ValueError, match="bias_share"):
        BiasCheck(bias_share=share)


def test_silenced_by_module(fit, capsys):
    fit(Convolutions(), recipe(skip=["BiasCheck/before_norm@net.*", "OverfitOneBatch"]), max_steps=1)
    printed = capsys.readouterr().out
    assert "subtracts again" not in printed
    assert "silenced" in printed


class Begun(nn.Module):
    """Layers of which some begin with other numbers."""

    def __init__(self, weight, bias, layer):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(FEATURES, 8), layer, nn.Linear(8, CLASSES)
        nn.init.constant_(self.norm.weight, weight)
        nn.init.constant_(self.norm.bias, bias)

    def forward(self, x):
        return self.last(self.first(x) + self.norm(self.first(x)).relu())


@pytest.mark.parametrize(("weight", "bias"), [(1, 0), (0, 0), (0, -1), (1, 1)])
def test_norms_that_begin_in_a_usual_way(fit, weight, bias):
    findings = judged(fit, Net(Begun(weight, bias, nn.LayerNorm(8))))
    assert [finding.code for finding in findings] == ["BiasCheck/passed"]


@pytest.mark.parametrize("layer", [nn.LayerNorm(8), norm(), nn.GroupNorm(2, 8)])
def test_norms_whose_weights_and_biases_are_interchanged(fit, layer):
    findings = judged(fit, Net(Begun(0, 1, layer)))
    assert [(f.status, f.code, f.subject) for f in findings if f.is_alarm] == [
        (Status.WARNING, "BiasCheck/norm_interchanged", "net.0.norm")
    ]
