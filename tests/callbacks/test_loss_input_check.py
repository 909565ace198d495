import math

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from lightning_recipe import LossInputCheck, Status

ROWS, WIDTH, CLASSES, LENGTH, WORDS = 16, 6, 5, 9, 11


class Program(L.LightningModule):
    """A network and a function from its output and the batch to a loss."""

    def __init__(self, net, loss, *, manual=False):
        super().__init__()
        self.net, self.loss, self.automatic_optimization = net, loss, not manual

    def forward(self, batch):
        return self.net(batch["x"])

    def training_step(self, batch, batch_idx):
        loss = self.loss(self(batch), batch)
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def mlp(outputs=CLASSES, *after):
    return nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, outputs), *after)


def conv(outputs=CLASSES, *after):
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, outputs, 1), *after)


class Sequence(nn.Module):
    """Tokens (N, T) to (N, T, outputs)."""

    def __init__(self, outputs=WORDS, *after):
        super().__init__()
        self.embed, self.rnn = nn.Embedding(WORDS, 8), nn.GRU(8, 8, batch_first=True)
        self.head = nn.Sequential(nn.Linear(8, outputs), *after)

    def forward(self, x):
        return self.head(self.rnn(self.embed(x))[0])


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(**targets):
    return {"x": torch.randn(4 * ROWS, WIDTH, generator=drawn())} | targets


def images(**targets):
    return {"x": torch.randn(2 * ROWS, 3, 6, 7, generator=drawn())} | targets


def tokens(**targets):
    return {"x": torch.randint(1, WORDS, (4 * ROWS, LENGTH), generator=drawn())} | targets


def ids(*shape, classes=CLASSES):
    return torch.randint(classes, (4 * ROWS, *shape), generator=drawn(1))


def numbers(*shape):
    return torch.randn(4 * ROWS, *shape, generator=drawn(2))


@pytest.fixture
def found(fit):
    """What the check finds, apart from a pass, by the last part of its code."""

    def run(net, loss, data, *, manual=False, steps=4, **settings):
        check = LossInputCheck()
        count = min(len(tensor) for tensor in data.values())
        examples = [{name: tensor[i] for name, tensor in data.items()} for i in range(count)]
        module = net if isinstance(net, L.LightningModule) else Program(net, loss, manual=manual)
        settings = {"logger": False, "max_steps": steps, "max_epochs": 99, "limit_val_batches": 0} | settings
        fit(module, [check], train=DataLoader(examples, ROWS), **settings)
        assert check.findings
        return {f.code.partition("/")[2]: f for f in check.findings if f.status is not Status.PASSED}

    return run


# -- what people do, and is right


def soft(batch):
    return F.one_hot(batch["y"], CLASSES).float() * 0.8 + 0.2 / CLASSES


def focal(out, batch):
    p = out.log_softmax(1).gather(1, batch["y"][:, None])
    return -((1 - p.exp()) ** 2 * p).mean()


def distilled(out, batch):
    teacher = (batch["x"][:, :CLASSES] / 2).softmax(1)
    return F.kl_div(F.log_softmax(out / 2, 1), teacher, reduction="batchmean")


def reverse_kl(out, batch):
    teacher = batch["x"][:, :CLASSES].log_softmax(1)
    return F.kl_div(teacher, out.log_softmax(1), reduction="batchmean", log_target=True)


def info_nce(out, batch):
    z = F.normalize(out, dim=1)
    return F.cross_entropy(z @ z.roll(1, 0).T / 0.1, torch.arange(len(z)))


def symmetric(out, batch):
    logits = out @ out.detach().T
    own = torch.arange(len(out))
    return F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)


def cox(out, batch):
    risk = out[:, 0]
    at_risk = batch["time"][:, None] <= batch["time"][None, :]
    return (torch.logsumexp(risk[None] + at_risk.float().clamp(min=1e-9).log(), 1) - risk).mean()


def ranking(out, batch):
    difference = out[:, :1] - out[:, :1].T
    order = batch["time"][:, None] > batch["time"][None, :]
    return F.softplus(-difference[order]).mean()


def kernel(out, batch):
    return torch.exp(-((out[:, :1].unsqueeze(1) - batch["time"].unsqueeze(0)) ** 2)).mean()


def of_draws(out, batch):
    """Codes are compared with draws of a prior, all with all, and draws with draws."""

    def alike(a, b):
        return torch.exp(-(a[:, None] - b[None]).square().sum(-1) / 4).mean()

    prior = torch.randn_like(out)
    return alike(out, out) + alike(prior, prior) - 2 * alike(out, prior) + out.square().mean()


def crps(out, batch):
    apart = (out[:, :, None] - out[:, None, :]).abs().mean()
    return (out - batch["time"][:, None]).abs().mean() - apart / 2


def confident(out, batch):
    uniform = torch.full_like(out, 1 / CLASSES).log()
    return F.cross_entropy(out, batch["y"]) + F.kl_div(uniform, out.softmax(1), reduction="batchmean")


def policy(out, batch):
    chosen = torch.distributions.Categorical(logits=out).log_prob(batch["y"])
    return -((chosen - chosen.detach()).exp() * (batch["time"] - batch["time"].mean())).mean()


def gaussian(out, batch):
    mean, scale = out[:, 0], F.softplus(out[:, 1])
    return (torch.log(scale) + ((batch["time"] - mean) / scale) ** 2 / 2).mean()


def unnormalised_mixture(out, batch):
    weights = out.log_softmax(1)
    return -torch.logsumexp(weights - (batch["time"][:, None] - out) ** 2, 1).mean()


def several_instances(out, batch):
    """A bag of four is what its likeliest member is."""
    bags = out.softmax(1).view(-1, 4, CLASSES).logsumexp(1)
    return F.cross_entropy(30 * bags, batch["y"][::4])


def chosen_experts(out, batch):
    weights = out.softmax(1).topk(2).values
    return (weights.softmax(1)[:, 0] - batch["time"]).square().mean()


def boxes(out, batch):
    """Centres by a sigmoid, sizes as logarithms, joined."""
    return F.smooth_l1_loss(torch.cat([out[:, :2].sigmoid(), out[:, 2:]], 1), batch["y"])


LEGITIMATE = {
    "several instances": (mlp(), several_instances),
    "chosen experts": (mlp(), chosen_experts),
    "logits": (mlp(), lambda out, b: F.cross_entropy(out, b["y"])),
    "log-softmax into cross entropy": (mlp(CLASSES, nn.LogSoftmax(1)), lambda out, b: F.cross_entropy(out, b["y"])),
    "log-softmax and nll": (mlp(CLASSES, nn.LogSoftmax(1)), lambda out, b: F.nll_loss(out, b["y"])),
    "log of softmax": (mlp(CLASSES, nn.Softmax(1)), lambda out, b: F.nll_loss((out + 1e-8).log(), b["y"])),
    "log of softmax into cross entropy": (mlp(), lambda out, b: F.cross_entropy(out.softmax(1).log(), b["y"])),
    "softmax with a temperature": (mlp(), lambda out, b: F.cross_entropy(out.softmax(1) / 0.1, b["y"])),
    "soft-capped": (mlp(), lambda out, b: F.cross_entropy(30 * torch.tanh(out / 30), b["y"])),
    "cosine": (mlp(), lambda out, b: F.cross_entropy(16 * F.normalize(out, dim=1), b["y"])),
    "smoothing": (mlp(), lambda out, b: F.cross_entropy(out, b["y"], label_smoothing=0.1)),
    "soft labels": (mlp(), lambda out, b: F.cross_entropy(out, soft(b))),
    "sigmoid and bce": (mlp(1, nn.Sigmoid()), lambda out, b: F.binary_cross_entropy(out[:, 0], b["yes"])),
    "clamped sigmoid": (mlp(1, nn.Sigmoid()), lambda out, b: -(out.clamp(1e-6, 1 - 1e-6).log()).mean()),
    "bce with logits": (mlp(1), lambda out, b: F.binary_cross_entropy_with_logits(out[:, 0], b["yes"])),
    "softmax against one-hot": (mlp(CLASSES, nn.Softmax(1)), lambda out, b: F.mse_loss(out, soft(b))),
    "focal": (mlp(), focal),
    "distillation": (mlp(), distilled),
    "reverse kl": (mlp(), reverse_kl),
    "contrastive": (mlp(), info_nce),
    "symmetric contrastive": (mlp(), symmetric),
    "cox": (mlp(), cox),
    "ranking": (mlp(), ranking),
    "kernel": (mlp(), kernel),
    "kernel of draws": (mlp(), of_draws),
    "crps": (mlp(), crps),
    "policy": (mlp(), policy),
    "not too sure": (mlp(), confident),
    "grades by hand": (mlp(1), lambda out, b: (out[:, 0] - b["count"]).square().mean()),
    "likelihood": (mlp(2), gaussian),
    "mixture": (mlp(), unnormalised_mixture),
    "residual": (mlp(), lambda out, b: (b["x"][:, 0] + out[:, 0] - b["time"]).square().mean()),
    "reconstruction": (mlp(WIDTH), lambda out, b: F.mse_loss(out, b["x"])),
    "target of the network": (mlp(), lambda out, b: F.mse_loss(out, (out.detach() * 3))),
    "relu against counts": (mlp(1, nn.ReLU()), lambda out, b: F.mse_loss(out[:, 0], b["count"].float())),
    "poisson": (mlp(1), lambda out, b: F.poisson_nll_loss(out[:, 0], b["count"].float())),
    "tanh and scaled targets": (mlp(1, nn.Tanh()), lambda out, b: F.mse_loss(out[:, 0], b["time"] / 3)),
    "scaled tanh": (mlp(1, nn.Tanh()), lambda out, b: F.mse_loss(3 * out[:, 0], b["time"])),
    "masked, sigmoid": (
        mlp(1, nn.Sigmoid()),
        lambda out, b: (F.mse_loss(out[:, 0], b["some"], reduction="none") * (b["some"] >= 0)).sum(),
    ),
    "one target for all": (mlp(1), lambda out, b: F.mse_loss(out, torch.ones(1))),
    "weights of examples": (mlp(1), lambda out, b: ((out - b["time"][:, None]) ** 2 * b["w"][:, None]).mean()),
    "class weights": (mlp(), lambda out, b: F.cross_entropy(out, b["rare"], weight=torch.tensor([1, 3, 9, 9, 9.0]))),
    "pos_weight": (
        mlp(1),
        lambda out, b: F.binary_cross_entropy_with_logits(out[:, 0], b["few"], pos_weight=torch.tensor(9.0)),
    ),
    "annealing": (mlp(), lambda out, b: F.cross_entropy(out, b["y"]) + 0.0 * out.square().mean()),
    "weights only": (mlp(), lambda out, b: F.cross_entropy(out, b["y"]) + 1e-3 * sum(p.norm() for p in [out])),
    "a gan's labels": (mlp(1), lambda out, b: F.binary_cross_entropy_with_logits(out, torch.ones_like(out))),
}


LEGITIMATE |= {
    "signs": (mlp(1), lambda out, b: F.soft_margin_loss(out[:, 0], b["time"].sign())),
    "missing labels, without weight": (
        mlp(1),
        lambda out, b: F.binary_cross_entropy_with_logits(out[:, 0], b["some"], weight=(b["some"] >= 0).float()),
    ),
    "missing labels, masked": (
        mlp(1),
        lambda out, b: F.binary_cross_entropy_with_logits(out[b["some"] >= 0, 0], b["some"][b["some"] >= 0]),
    ),
    "attention over gates": (
        mlp(),
        lambda out, b: ((out.sigmoid().softmax(1) * b["x"][:, :CLASSES]).sum(1) - b["time"]).square().mean(),
    ),
    "gated logits": (
        mlp(),
        lambda out, b: F.binary_cross_entropy_with_logits((out.sigmoid() * out).mean(1), b["yes"]),
    ),
    "mean of probabilities": (mlp(CLASSES, nn.Sigmoid()), lambda out, b: F.binary_cross_entropy(out.mean(1), b["yes"])),
    "examples without a label, masked": (
        mlp(CLASSES, nn.Softmax(1)),
        lambda out, b: (
            F.binary_cross_entropy(out, soft(b).round() * b["yes"][:, None], reduction="none") * b["yes"][:, None]
        ).sum(),
    ),
    "examples without a label, without weight": (
        mlp(CLASSES, nn.Softmax(1)),
        lambda out, b: F.binary_cross_entropy(out, soft(b).round() * b["yes"][:, None], weight=b["yes"][:, None]),
    ),
    "grades": (
        mlp(4),
        lambda out, b: F.binary_cross_entropy_with_logits(out, (b["y"][:, None] > torch.arange(4)).float()),
    ),
    "retrieval": (mlp(1), lambda out, b: (out[:, 0][:, None] - b["time"]).square().min(1).values.mean()),
    "a prior": (
        mlp(),
        lambda out, b: F.kl_div(torch.full_like(out, 0.2).log(), out.log_softmax(1), log_target=True, reduction="sum"),
    ),
    "focal, with a share of the positives": (
        mlp(1),
        lambda out, b: (
            F.binary_cross_entropy_with_logits(out[:, 0], b["few"], reduction="none")
            * (b["few"] - out[:, 0].sigmoid()).square()
            * torch.where(b["few"] > 0, 0.25, 0.75)
        ).mean(),
    ),
}


def with_another_value(out, batch):
    surrogate = F.cross_entropy(out, batch["y"])
    return surrogate + ((out.argmax(1) != batch["y"]).float().mean() - surrogate).detach()


def quantised(out, batch):
    """A codebook that is a parameter, chosen by argmin."""
    codes = torch.ones(CLASSES, CLASSES, requires_grad=True)
    chosen = codes[(out[:, None] - codes[None]).square().sum(2).argmin(1)]
    return (chosen - out.detach()).square().mean() + 0.25 * (chosen.detach() - out).square().mean()


LEGITIMATE |= {
    "counts by log rates": (mlp(1), lambda out, b: F.poisson_nll_loss(out[:, 0], b["count"].float())),
    "counts by rates": (
        mlp(1, nn.Softplus()),
        lambda out, b: F.poisson_nll_loss(out[:, 0], b["count"].float(), log_input=False),
    ),
    "large counts by roots of rates": (
        mlp(1, nn.Softplus()),
        lambda out, b: F.poisson_nll_loss(out[:, 0], b["count"].float() + 9),
    ),
    "better than a reference": (
        mlp(1),
        lambda out, b: F.mse_loss(out[:, 0], b["time"]) - F.mse_loss(b["w"], b["time"]),
    ),
    "squares of the target": (
        mlp(1),
        lambda out, b: (out[:, 0].square() - 2 * out[:, 0] * b["time"]).mean() + (b["time"] * b["time"]).mean(),
    ),
    "what targets have by themselves": (
        mlp(),
        lambda out, b: sum([torch.zeros(()), -(soft(b) * out.log_softmax(1)).mean(), (soft(b) * soft(b).log()).mean()]),
    ),
    "surrogate": (mlp(), with_another_value),
    "quantised": (mlp(), quantised),
    "temporal difference": (mlp(2), lambda out, b: (out[:, 0] - b["time"] - 0.9 * out[:, 1].detach()).square().mean()),
    "weights by confidence": (
        mlp(),
        lambda out, b: F.cross_entropy(out, b["y"]) * (out.detach().softmax(1).amax() > 0.2) + 1.0,
    ),
    "own labels": (
        mlp(),
        lambda out, b: F.cross_entropy(out, b["y"]) + 0.1 * F.cross_entropy(out, out.detach().argmax(1)),
    ),
    "a constant of the data": (mlp(), lambda out, b: F.cross_entropy(out, b["y"]) + b["time"].square().mean()),
}


LEGITIMATE |= {
    "hinge by hand": (mlp(1), lambda out, b: (1 - out[:, 0] * (2 * b["yes"] - 1)).relu().mean()),
    "masked hinge by hand": (
        mlp(1),
        lambda out, b: ((1 - out[:, 0] * (2 * b["yes"] - 1)).relu() * (b["some"] >= 0)).mean(),
    ),
    "a mask before an activation": (mlp(1), lambda out, b: ((out[:, 0] * b["few"]).relu() - b["w"]).square().mean()),
    "triplets": (mlp(), lambda out, b: F.triplet_margin_loss(out, out.roll(1, 0), out.roll(2, 0))),
    "how rough the output is": (
        mlp(),
        lambda out, b: F.cross_entropy(out, b["y"]) + 0.1 * (out[:, 1:] - out[:, :-1]).abs().mean(),
    ),
    "in units of how rough the target is": (
        mlp(WIDTH),
        lambda out, b: (out - b["x"]).abs().mean() / (b["x"][:, 1:] - b["x"][:, :-1]).abs().mean(),
    ),
    "few of the answers are no": (
        mlp(1, nn.ReLU()),
        lambda out, b: F.binary_cross_entropy_with_logits(out[:, 0], 1 - b["few"] * b["yes"]),
    ),
}


def everything():
    some = torch.where(numbers() > 0, numbers().sigmoid(), -1.0)
    rare = torch.where(torch.rand(4 * ROWS, generator=drawn()) < 0.7, 0, ids())
    counts = torch.poisson(torch.full((4 * ROWS,), 1.5), generator=drawn()).long()
    few = (torch.arange(4 * ROWS) % 10 == 0).float()
    yes = (torch.arange(4 * ROWS) % 2).float()
    return rows(y=ids(), time=numbers(), yes=yes, few=few, some=some, rare=rare, count=counts, w=numbers().exp())


@pytest.mark.parametrize("name", LEGITIMATE)
@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "by hand"])
def test_legitimate(found, name, manual):
    assert found(*LEGITIMATE[name], everything(), manual=manual) == {}


def padded(pad=0):
    """Tokens whose rows end in padding from the fifth place on, at the latest."""
    lengths = torch.randint(2, LENGTH, (4 * ROWS, 1), generator=drawn(3))
    x = torch.randint(1, WORDS, (4 * ROWS, LENGTH), generator=drawn(4))
    return x.masked_fill(torch.arange(LENGTH) >= lengths, pad)


def ended(end=9):
    """The same, with a word before the padding that says where a row ends."""
    x = padded()
    return x.where((x == 0) | (x.roll(-1, 1) != 0), end)


def all_next(out, batch):
    return F.cross_entropy(out[:, :-1].flatten(0, 1), batch["x"][:, 1:].flatten())


def test_padding_that_says_where_a_row_ends_is_advice(found):
    told = found(Sequence(), all_next, {"x": padded()})
    assert {code: finding.status for code, finding in told.items()} == {"padding_scored": Status.ADVICE}


def test_a_sigmoid_of_some_outputs_only(found):
    data = rows(y=torch.cat([numbers(2).sigmoid(), numbers(2) - 1], 1))
    assert found(mlp(4), boxes, data) == {}
    assert set(found(mlp(4), lambda out, b: F.smooth_l1_loss(out.sigmoid(), b["y"]), data)) == {"out_of_range"}


def test_padding_that_is_ignored(found):
    data = {"x": padded()}
    loss = lambda out, b: F.cross_entropy(out[:, :-1].flatten(0, 1), b["x"][:, 1:].flatten(), ignore_index=0)  # noqa: E731
    assert found(Sequence(), loss, data) == {}


def test_padding_that_is_masked(found):
    def loss(out, batch):
        mask = batch["x"][:, 1:] != 0
        each = F.cross_entropy(out[:, :-1].transpose(1, 2), batch["x"][:, 1:], reduction="none")
        return (each * mask).sum() / mask.sum()

    assert found(Sequence(), loss, {"x": padded()}) == {}


def test_rows_of_one_length_and_values_that_are_everywhere(found):
    data = tokens(y=ids(LENGTH, classes=2))
    assert found(Sequence(2), lambda out, b: F.cross_entropy(out.transpose(1, 2), b["y"]), data) == {}


def test_labels_that_stay_what_they_became(found):
    data = tokens(y=ids(LENGTH, classes=2).cumsum(1).clamp(max=3))
    assert found(Sequence(4), lambda out, b: F.cross_entropy(out.transpose(1, 2), b["y"]), data) == {}


def test_pixels_that_are_ignored_are_advice_at_most(found):
    data = images(y=ids(6, 7, classes=3)[: 2 * ROWS])
    told = found(conv(3), lambda out, b: F.cross_entropy(out, b["y"], ignore_index=0), data, steps=8)
    assert [(code, finding.status) for code, finding in told.items()] == [("ignore_index_is_a_class", Status.ADVICE)]
    assert found(conv(3), lambda out, b: F.cross_entropy(out, b["y"] - 1, ignore_index=-1), data, steps=8) == {}


def tagged(ignored, vocabulary, at_ends=-100):
    """Words (N, T) of a vocabulary, padded with 0, and a tag of each, of which every third is `ignored`."""
    x = padded()
    y = (x % CLASSES).where(x % 3 > 0, ignored).where(x > 0, at_ends)
    return {"x": x * (vocabulary // WORDS), "y": y}


def tags(ignored):
    return lambda out, b: F.cross_entropy(out.transpose(1, 2), b["y"], ignore_index=ignored)


class Words(Sequence):
    """Of a large vocabulary."""

    def __init__(self, outputs=CLASSES):
        super().__init__(outputs)
        self.embed = nn.Embedding(10 * WORDS, 8)


@pytest.mark.parametrize("ignored", [0, CLASSES - 1])
def test_words_without_a_label_may_have_the_first_or_last_number(found, ignored):
    told = found(Words(), tags(ignored), tagged(ignored, 10 * WORDS, at_ends=ignored))
    assert [(code, finding.status) for code, finding in told.items()] == [("ignore_index_is_a_class", Status.ADVICE)]


def test_a_few_words_out_of_their_own_vocabulary(found):
    assert found(Words(10 * WORDS), tags(1), tagged(1, 10 * WORDS, at_ends=1)) == {}


def test_padding_between_no_labels(found):
    data = tagged(2, 10 * WORDS, at_ends=1)  # 1 is the padding of the labels, and nothing else
    data["y"] = data["y"].where((data["y"] != 1) | (data["x"] == 0), 3)
    assert found(Words(), tags(1), data) == {}


def test_batches_of_a_generator_that_leaves_gradients_off(fit):
    class Stream(IterableDataset):
        def __iter__(self):
            while True:
                with torch.no_grad():
                    yield {"x": torch.randn(ROWS, WIDTH), "y": torch.randint(CLASSES, (ROWS,))}

    check = LossInputCheck()
    loader = DataLoader(Stream(), batch_size=None)
    fit(Program(mlp(), lambda out, b: F.cross_entropy(out, b["y"])), [check], train=loader, max_steps=8, logger=False)
    assert [f.status for f in check.findings] == [Status.PASSED]


def test_values_of_actions_are_no_likelihood(found):
    def loss(out, batch):
        chosen = out[torch.arange(len(out)), batch["a"]]
        return (chosen - batch["r"] - 0.9 * out.detach().max(1).values).square().mean()

    assert found(mlp(), loss, rows(a=ids(), r=numbers())) == {}


def test_words_that_were_not_asked_for(found):
    def loss(out, batch):
        asked = torch.rand(batch["x"].shape) < 0.3
        return F.cross_entropy(out.transpose(1, 2), batch["x"].masked_fill(~asked, 0), ignore_index=0)

    assert found(Sequence(), loss, {"x": padded()}) == {}


def test_a_mask_that_the_loss_reads(found):
    w = torch.rand(4 * ROWS, CLASSES, generator=drawn()) < 0.5
    data = rows(y=(numbers(CLASSES) > 0).float() * w, w=w)
    loss = lambda out, b: (F.binary_cross_entropy_with_logits(out, b["y"], reduction="none") * b["w"]).sum()  # noqa: E731
    assert found(mlp(), loss, data) == {}


def weibull(out, batch, observed):
    scaled = batch["time"] * (-out[:, 0]).exp()
    return (scaled.square() - observed * (2 * scaled.log() - batch["time"].log())).mean()


def survival():
    return rows(time=numbers().exp(), event=(ids() > 1).float(), hour=numbers().exp())


def test_times_with_what_has_happened(found):
    assert found(mlp(1), lambda out, b: weibull(out, b, b["event"]), survival()) == {}


def test_events_of_another_kind_beside_numbers(found):
    assert found(mlp(1), lambda out, b: F.mse_loss(out[:, 0], b["y"]), survival() | {"y": numbers()}) == {}


def test_a_flag_that_is_made_of_the_targets(found):
    rain = numbers().clamp(min=0)
    assert found(mlp(1), lambda out, b: F.mse_loss(out[:, 0], b["y"]), rows(y=rain, rained=rain > 0)) == {}


def test_a_mask_beside_a_loss_that_knows_what_is_missing(found):
    depth = numbers(3).exp() * (ids(3) > 1)
    loss = lambda out, b: (out - b["y"])[b["y"] > 0].abs().mean()  # noqa: E731
    assert found(mlp(3), loss, rows(y=depth, valid=ids(3) > 1)) == {}


def test_a_mask_of_targets_that_are_ignored(found):
    data = {"x": padded()}
    data |= {"mask": data["x"] != 0, "labels": data["x"].masked_fill(data["x"] == 0, -100)}
    loss = lambda out, b: F.cross_entropy(out.flatten(0, 1), b["labels"].flatten())  # noqa: E731
    assert found(Sequence(), loss, data) == {}


def test_grades_are_advice_at_most(found):
    data = rows(y=(torch.arange(4 * ROWS) % CLASSES))
    (finding,) = found(mlp(1), lambda out, b: F.mse_loss(out[:, 0], b["y"].float()), data, steps=16).values()
    assert finding.status is Status.ADVICE


# -- the diseases


def by_hand(out, batch):
    return -(F.one_hot(batch["y"], CLASSES) * out.log_softmax(1)).sum(1).mean()


def binary_by_hand(out, batch):
    p, y = out.clamp(1e-6, 1 - 1e-6), batch["y"]
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean()


DISEASES = {
    "probabilities": {
        "softmax": (mlp(CLASSES, nn.Softmax(1)), lambda out, b: F.cross_entropy(out, b["y"]), rows(y=ids())),
        "sigmoid": (mlp(), lambda out, b: F.cross_entropy(out.sigmoid(), b["y"]), rows(y=ids())),
        "by hand": (mlp(CLASSES, nn.Softmax(-1)), by_hand, rows(y=ids())),
        "pixels": (conv(CLASSES, nn.Softmax(1)), lambda out, b: F.cross_entropy(out, b["y"]), images(y=ids(6, 7))),
        "logsumexp by hand": (
            Sequence(WORDS, nn.Softmax(-1)),
            lambda out, b: -(out - out.logsumexp(-1, keepdim=True)).gather(2, b["x"][..., None]).mean(),
            tokens(),
        ),
        "softplus by hand": (
            mlp(1, nn.Sigmoid()),
            lambda out, b: (b["y"] * F.softplus(-out) + (1 - b["y"]) * F.softplus(out)).mean(),
            rows(y=ids(1, classes=2).float()),
        ),
        "words": (
            Sequence(WORDS, nn.Softmax(-1)),
            lambda out, b: F.cross_entropy(out.flatten(0, 1), b["x"].flatten()),
            tokens(),
        ),
        "bce": (
            conv(1, nn.Sigmoid()),
            lambda out, b: F.binary_cross_entropy_with_logits(out[:, 0], b["y"]),
            images(y=ids(6, 7, classes=2).float()),
        ),
        "pooled": (
            conv(1, nn.Hardsigmoid()),
            lambda out, b: F.binary_cross_entropy_with_logits(out.amax((1, 2, 3)), b["y"]),
            images(y=ids(classes=2)[: 2 * ROWS].float()),
        ),
        "sigmoid twice": (
            mlp(1, nn.Sigmoid()),
            lambda out, b: F.binary_cross_entropy(out[:, 0].sigmoid(), b["y"]),
            rows(y=ids(classes=2).float()),
        ),
        "sigmoid twice, by hand": (
            mlp(1, nn.Sigmoid()),
            lambda out, b: (
                -(b["y"] * (out.sigmoid() + 1e-7).log() + (1 - b["y"]) * (1 - out.sigmoid() + 1e-7).log()).mean()
            ),
            rows(y=ids(1, classes=2).float()),
        ),
        "sigmoid twice, squared": (
            mlp(1, nn.Sigmoid()),
            lambda out, b: (b["y"] - out.sigmoid()).square().mean(),
            rows(y=ids(1, classes=2).float()),
        ),
        "sigmoid by hand": (
            mlp(1),
            lambda out, b: F.binary_cross_entropy_with_logits(1 / (1 + torch.exp(-out[:, 0])), b["y"]),
            rows(y=ids(classes=2).float()),
        ),
        "softmax by hand": (
            mlp(),
            lambda out, b: F.cross_entropy(out.exp() / out.exp().sum(1, keepdim=True), b["y"]),
            rows(y=ids()),
        ),
        "dice of a sigmoid twice": (
            mlp(1, nn.Sigmoid()),
            lambda out, b: 1 - (out[:, 0].sigmoid() * b["y"]).sum() / (out[:, 0].sigmoid() + b["y"]).sum(),
            rows(y=ids(classes=2).float()),
        ),
        "softmax twice": (
            Sequence(WORDS, nn.Softmax(-1)),
            lambda out, b: F.nll_loss(out.softmax(-1).clamp(1e-8).log().flatten(0, 1), b["x"].flatten()),
            tokens(),
        ),
        "nll": (mlp(CLASSES, nn.Softmax(1)), lambda out, b: F.nll_loss(out, b["y"]), rows(y=ids())),
        "kl": (
            mlp(CLASSES, nn.Softmax(1)),
            lambda out, b: F.kl_div(out, b["y"], reduction="batchmean"),
            rows(y=numbers(CLASSES).softmax(1)),
        ),
    },
    "logits_as_probabilities": {
        "nll": (mlp(), lambda out, b: F.nll_loss(out, b["y"]), rows(y=ids())),
        "pixels": (conv(), lambda out, b: F.nll_loss(out, b["y"]), images(y=ids(6, 7))),
        "kl": (
            mlp(),
            lambda out, b: F.kl_div(out, b["y"], reduction="batchmean"),
            rows(y=numbers(CLASSES).softmax(1)),
        ),
        "ctc": (
            Sequence(),
            lambda out, b: F.ctc_loss(out.transpose(0, 1), b["y"], [LENGTH] * len(out), [2] * len(out)),
            tokens(y=1 + ids(2)),
        ),
        "clamped": (
            mlp(1),
            lambda out, b: F.binary_cross_entropy(out[:, 0].clamp(0, 1), b["y"]),
            rows(y=ids(classes=2).float()),
        ),
        "clamped by hand": (mlp(1), binary_by_hand, rows(y=ids(1, classes=2).float())),
    },
    "kl_arguments_interchanged": {
        "kl": (
            mlp(CLASSES, nn.LogSoftmax(1)),
            lambda out, b: F.kl_div(b["y"], out, reduction="batchmean"),
            rows(y=numbers(CLASSES).softmax(1)),
        ),
        "logarithms": (
            conv(CLASSES, nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
            lambda out, b: F.kl_div(b["y"].log(), out.softmax(1), reduction="batchmean"),
            images(y=numbers(CLASSES).softmax(1)[: 2 * ROWS]),
        ),
    },
    "constant_loss": {
        "bce": (
            mlp(1, nn.Softmax(1)),
            lambda out, b: F.binary_cross_entropy(out[:, 0], b["y"]),
            rows(y=ids(classes=2).float()),
        ),
        "one class": (mlp(1), lambda out, b: F.cross_entropy(out, b["y"]), rows(y=ids(classes=1))),
        "sum of probabilities": (mlp(), lambda out, b: (1 - out.softmax(1).sum(1)).square().mean(), rows(y=ids())),
        "no signs": (mlp(1), lambda out, b: F.soft_margin_loss(out[:, 0], b["y"]), rows(y=ids(classes=2).float())),
        "mse": (mlp(1, nn.Softmax(-1)), lambda out, b: F.mse_loss(out[:, 0], b["y"]), rows(y=numbers().sigmoid())),
        "pixels": (
            conv(1, nn.Softmax(1)),
            lambda out, b: -(b["y"] * out.clamp(1e-6).log()).mean(),
            images(y=ids(1, 6, 7, classes=2).float()),
        ),
    },
    "logarithms_as_target": {
        "kl": (
            mlp(CLASSES, nn.LogSoftmax(1)),
            lambda out, b: F.kl_div(out, b["y"].log_softmax(1), reduction="batchmean"),
            rows(y=numbers(CLASSES)),
        )
    },
    "broadcast": {
        "mse": (mlp(1), lambda out, b: F.mse_loss(out, b["y"]), rows(y=numbers())),
        "by hand": (mlp(1), lambda out, b: (out - b["y"]).pow(2).mean(), rows(y=numbers())),
        "likelihood": (mlp(2), lambda out, b: ((b["y"] - out[:, :1]) ** 2 / 2).mean(), rows(y=numbers())),
        "targets of one column": (
            mlp(1),
            lambda out, b: F.smooth_l1_loss(out.squeeze(1), b["y"]),
            rows(y=numbers(1)),
        ),
        "cross entropy by hand": (
            mlp(1, nn.Sigmoid()),
            lambda out, b: -(b["y"] * out.log() + (1 - b["y"]) * (1 - out).log()).mean(),
            rows(y=ids(classes=2).float()),
        ),
        "pixels": (conv(1), lambda out, b: (out - b["y"]).abs().mean(), images(y=numbers(6, 7)[: 2 * ROWS])),
        "not reduced": (
            mlp(1),
            lambda out, b: (F.mse_loss(out, b["y"], reduction="none") * b["w"]).mean(),
            rows(y=numbers(), w=numbers().exp()),
        ),
        "a column": (mlp(1), lambda out, b: (out - b["y"][:, 2]).square().mean(), rows(y=numbers(3))),
        "last word": (
            Sequence(1),
            lambda out, b: (out[:, -1] - b["y"]).abs().mean(),
            tokens(y=numbers()),
        ),
    },
    "classes_in_wrong_dimension": {
        "nll": (mlp(CLASSES, nn.LogSoftmax(0)), lambda out, b: F.nll_loss(out, b["y"]), rows(y=ids())),
        "by hand": (mlp(), lambda out, b: -(soft(b) * out.log_softmax(0)).sum(1).mean(), rows(y=ids())),
        "gathered": (
            mlp(),
            lambda out, b: -out.log_softmax(0).gather(1, b["y"][:, None]).mean(),
            rows(y=ids()),
        ),
        "pixels": (
            conv(),
            lambda out, b: F.cross_entropy(out.reshape(-1, CLASSES), b["y"].flatten()),
            images(y=ids(6, 7)[: 2 * ROWS]),
        ),
        "words": (
            Sequence(),
            lambda out, b: F.cross_entropy(out.reshape(len(out), WORDS, LENGTH), b["x"]),
            tokens(),
        ),
        "pixels after log_softmax": (
            conv(),
            lambda out, b: F.nll_loss(out.log_softmax(1).reshape(-1, CLASSES), b["y"].flatten()),
            images(y=ids(6, 7)[: 2 * ROWS]),
        ),
    },
    "out_of_range": {
        "sigmoid": (mlp(1, nn.Sigmoid()), lambda out, b: F.mse_loss(out[:, 0], b["y"]), rows(y=numbers())),
        "relu": (mlp(1, nn.ReLU()), lambda out, b: F.l1_loss(out[:, 0], b["y"]), rows(y=numbers())),
        "by hand": (
            mlp(1, nn.Tanh()),
            lambda out, b: (b["y"] - out.squeeze(-1)).square().mean(),
            rows(y=3 * numbers()),
        ),
        "images": (conv(3, nn.Sigmoid()), lambda out, b: F.smooth_l1_loss(out, b["x"]), images()),
        "several labels or none": (
            mlp(CLASSES, nn.Softmax(1)),
            lambda out, b: F.binary_cross_entropy(out, b["y"]),
            rows(y=ids(CLASSES, classes=2).float()),
        ),
        "one label or none": (
            mlp(CLASSES, nn.Softmax(1)),
            lambda out, b: F.binary_cross_entropy(out, soft(b).round() * b["has"]),
            rows(y=ids(), has=ids(1, classes=2)),
        ),
        "series": (
            Sequence(1, nn.Tanh()),
            lambda out, b: F.mse_loss(out[..., 0], b["y"]),
            tokens(y=9 + numbers(LENGTH)),
        ),
    },
    "padding_scored": {
        "words": (
            Sequence(),
            all_next,
            {"x": ended()},
        ),
        "by hand": (
            Sequence(WORDS, nn.LogSoftmax(-1)),
            lambda out, b: -out[:, :-1].gather(2, b["x"][:, 1:, None]).mean(),
            {"x": ended()},
        ),
        "a class that words have, too": (
            Sequence(4),
            lambda out, b: F.cross_entropy(out.transpose(1, 2), b["y"]),
            {"x": padded(), "y": padded() % 4},
        ),
        "ignoring another value": (
            Sequence(),
            lambda out, b: F.cross_entropy(out.transpose(1, 2), b["x"], ignore_index=9),
            {"x": padded()},
        ),
        "numbers": (
            Sequence(1),
            lambda out, b: F.mse_loss(out[..., 0], b["y"]),
            {"x": padded(), "y": numbers(LENGTH) * (padded() != 0)},
        ),
    },
    "ignore_index_is_a_class": {
        "mlp": (mlp(), lambda out, b: F.cross_entropy(out, b["y"], ignore_index=0), rows(y=ids())),
    },
    "entry_never_read": {
        "regression": (
            mlp(3),
            lambda out, b: (out - b["y"]).square().mean(),
            rows(y=numbers(3) * (ids(3) > 1), measured=(ids(3) > 1).float()),
        ),
        "amounts": (
            mlp(3),
            lambda out, b: (out - b["y"]).abs().mean(),
            rows(y=numbers(3).exp() * (ids(3) > 1), observed=ids(3) > 1),
        ),
        "pixels": (
            conv(2),
            lambda out, b: F.cross_entropy(out, b["y"]),
            images(y=ids(6, 7, classes=2) * (numbers(6, 7) > 0), valid=numbers(6, 7) > 0),
        ),
    },
}
DISEASES["out_of_range"] |= {
    "rates for their logarithms": (
        mlp(1, nn.Softplus()),
        lambda out, b: nn.PoissonNLLLoss()(out[:, 0], b["n"]),
        rows(n=torch.poisson(torch.full((4 * ROWS,), 0.7), generator=drawn())),
    ),
    "rates for their logarithms, by hand": (
        mlp(1, nn.ReLU()),
        lambda out, b: (out[:, 0].exp() - b["n"] * out[:, 0]).mean(),
        rows(n=torch.poisson(torch.full((4 * ROWS,), 0.7), generator=drawn())),
    ),
}
DISEASES["out_of_range"] |= {
    "pseudo-Huber by hand": (
        mlp(1, nn.Tanh()),
        lambda out, b: (0.25 * ((1 + ((out[:, 0] - b["y"]) / 0.5) ** 2).sqrt() - 1)).mean(),
        rows(y=2 * numbers()),
    ),
    "a squared error of what softplus gives": (
        mlp(1, nn.Softplus()),
        lambda out, b: (out[:, 0] - b["y"]).square().sum() / ROWS,
        rows(y=numbers()),
    ),
    "clamped": (
        mlp(1),
        lambda out, b: ((b["y"] - out[:, 0].clamp(0, 1)) ** 2 + 1e-6).sqrt().mean(),
        rows(y=2 * numbers()),
    ),
    "shares of one": (
        mlp(CLASSES, nn.Softmax(1)),
        lambda out, b: ((out - b["y"]) * 3).abs().mean(),
        rows(y=numbers(CLASSES)),
    ),
}
DISEASES["out_of_range"] |= {  # ratings of 1 to 5
    "times 4, by hand": (
        mlp(1, nn.Sigmoid()),
        lambda out, b: ((4 * out[:, 0] - b["r"]) ** 2).mean(),
        rows(r=1 + ids(classes=5)),
    ),
    "times 3.0 and plus 1, by hand": (
        mlp(1, nn.Sigmoid()),
        lambda out, b: (b["r"] - (1 + (4.0 - 1.0) * out).squeeze(1)).abs().mean(),
        rows(r=1.0 + ids(classes=5)),
    ),
    "halved tanh": (
        mlp(1, nn.Tanh()),
        lambda out, b: F.mse_loss(1 - out[:, 0] / 2, b["y"]),
        rows(y=1 + numbers()),
    ),
    "as pixels": (conv(3, nn.Tanh()), lambda out, b: F.l1_loss(127.5 * out + 127.5, b["x"]), images()),
    "softplus plus 1": (mlp(1, nn.Softplus()), lambda out, b: F.mse_loss(out[:, 0] + 1, b["y"]), rows(y=numbers())),
    "clamped and shifted": (
        mlp(1),
        lambda out, b: F.smooth_l1_loss(b["y"], out[:, 0].clamp(0, 1) - 2),
        rows(y=numbers()),
    ),
}
BY_ANOTHER_ERROR = {
    "log-cosh": (mlp(1, nn.Tanh()), lambda out, b: (out[:, 0] - b["y"]).cosh().log().mean(), rows(y=2 * numbers())),
    "pinball": (
        mlp(1, nn.ReLU()),
        lambda out, b: torch.maximum(0.9 * (b["y"] - out[:, 0]), -0.1 * (b["y"] - out[:, 0])).mean(),
        rows(y=numbers()),
    ),
    "a norm": (
        Sequence(1, nn.Sigmoid()),
        lambda out, b: torch.linalg.vector_norm(out[..., 0] - b["y"], dim=1).mean(),
        tokens(y=numbers(LENGTH)),
    ),
    "at one standard deviation": (
        mlp(1, nn.Tanh()),
        lambda out, b: F.mse_loss(out[:, 0], b["y"]),
        rows(y=1.25 * (numbers() / numbers().std()).clamp(-1.5, 1.5)),
    ),
}


@pytest.mark.parametrize("name", BY_ANOTHER_ERROR)
def test_what_is_out_of_range_by_another_error(found, name):
    told = found(*BY_ANOTHER_ERROR[name])
    assert list(told) == ["out_of_range"]
    assert told["out_of_range"].is_alarm


IN_RANGE = {
    "counts by hand": (mlp(1, nn.Softplus()), lambda out, b: (out[:, 0] - b["y"]).cosh().log().mean(), "exp"),
    "shares": (mlp(1, nn.Sigmoid()), lambda out, b: ((out[:, 0] - b["y"]) ** 2 + 1e-6).sqrt().mean(), "sigmoid"),
    "scaled to fit": (mlp(1, nn.Tanh()), lambda out, b: (out[:, 0] - b["y"] / 1.5).cosh().log().mean(), "clone"),
    "scaled up": (mlp(1, nn.Tanh()), lambda out, b: (4 * out[:, 0] - b["y"]).cosh().log().mean(), "clone"),
    "weighed by a gate": (mlp(1, nn.Sigmoid()), lambda out, b: ((out[:, 0] - 0.5) * b["y"]).mean(), "clone"),
    "beside it": (mlp(1), lambda out, b: (out[:, 0] + out[:, 0].tanh() - b["y"]).cosh().log().mean(), "clone"),
    "left out": (
        mlp(1, nn.ReLU()),
        lambda out, b: ((out[:, 0] - b["y"]).cosh().log() * (b["y"] > 0)).sum() / (b["y"] > 0).sum(),
        "clone",
    ),
    "one-sided": (mlp(1, nn.ReLU()), lambda out, b: (b["y"] - out[:, 0]).relu().square().mean(), "clone"),
}


def _with(value, *, learnt):
    """A network whose last layer is followed by a scale that is a tensor."""
    net = mlp(1, nn.Tanh())
    scale = torch.tensor(value)
    net.register_parameter("scale", nn.Parameter(scale)) if learnt else net.register_buffer("scale", scale)
    net.register_forward_hook(lambda module, _, out: 2 + module.scale * out)
    return net


SCALED = {  # ratings of 1 to 5, but for the last ones
    "sigmoid": (mlp(1, nn.Sigmoid()), lambda out, b: ((1 + 4 * out[:, 0] - b["r"]) ** 2).mean(), {}),
    "tanh": (mlp(1, nn.Tanh()), lambda out, b: F.mse_loss(3 - 2 * out[:, 0], b["r"].float()), {}),
    "clamp": (mlp(1), lambda out, b: ((out[:, 0].clamp(0, 1) * 4 + 1 - b["r"]) ** 2).mean(), {}),
    "in the step": (mlp(1, nn.Sigmoid()), lambda out, b: ((4 * out[:, 0] - (b["r"] - 1)) ** 2).mean(), {}),
    "standardised in the step": (
        mlp(1, nn.Tanh()),
        lambda out, b: ((2 * out[:, 0] + 1 - (b["r"] - 1) / 2) ** 2).mean(),
        {},
    ),
    "learnt": (_with(0.5, learnt=True), lambda out, b: ((out[:, 0] - b["r"]) ** 2).mean(), {}),
    "a tensor": (_with(0.5, learnt=False), lambda out, b: ((out[:, 0] - b["r"]) ** 2).mean(), {}),
    "a little noise": (
        mlp(1, nn.Sigmoid()),
        lambda out, b: ((1 + 4 * out[:, 0] - b["y"]) ** 2).mean(),
        {"y": 1.0 + ids(classes=5) + 0.1 * numbers()},
    ),
    "a few outside": (
        mlp(1, nn.Sigmoid()),
        lambda out, b: F.mse_loss(4 * out[:, 0] - 2, b["y"]),
        {"y": numbers()},
    ),
    "added to the input": (
        mlp(1, nn.Tanh()),
        lambda out, b: ((b["x"][:, 0] + 0.1 * out[:, 0] - b["r"]) ** 2).mean(),
        {},
    ),
}


@pytest.mark.parametrize("name", SCALED)
def test_what_is_in_range_times_a_constant(found, name):
    net, loss, more = SCALED[name]
    assert "out_of_range" not in found(net, loss, rows(r=1 + ids(classes=5), **more))


@pytest.mark.parametrize("name", IN_RANGE)
def test_what_is_in_range_by_another_error(found, name):
    net, loss, change = IN_RANGE[name]
    assert "out_of_range" not in found(net, loss, rows(y=getattr(numbers(), change)()))


DISEASES["term_without_gradient"] = {
    "decisions": (
        mlp(1),
        lambda out, b: (
            F.binary_cross_entropy_with_logits(out[:, 0], b["y"])
            + 1
            - 2 * ((out[:, 0] > 0).float() * b["y"]).sum() / ((out[:, 0] > 0).float() + b["y"]).sum()
        ),
        rows(y=ids(classes=2).float()),
    ),
    "costs of the classes": (
        mlp(),
        lambda out, b: F.cross_entropy(out, b["y"]) + 0.5 * (out.argmax(1) - b["y"]).abs().float().mean(),
        rows(y=ids()),
    ),
    "a copy": (
        Sequence(),
        lambda out, b: sum([F.cross_entropy(out.flatten(0, 1), b["x"].flatten()), out.detach().square().mean()]) / 2,
        tokens(),
    ),
    "the target beside itself": (
        mlp(),
        lambda out, b: F.cross_entropy(out, b["y"]) + 2 * F.smooth_l1_loss(b["time"], b["time"]),
        rows(y=ids(), time=numbers()),
    ),
    "the target beside itself, by hand": (
        conv(3),
        lambda out, b: sum([F.cross_entropy(out, b["y"]), (b["x"][:, 0] - b["x"][:, 0].clone()).square().mean()]),
        images(y=ids(6, 7, classes=3)[: 2 * ROWS]),
    ),
    "the target in the place of the prediction": (
        Sequence(4),
        lambda out, b: (
            F.cross_entropy(out.transpose(1, 2), b["y"])
            + 0.3 * nn.CrossEntropyLoss()(F.one_hot(b["y"][:, 0], 4).float(), b["y"][:, 0])
        ),
        tokens(y=ids(LENGTH, classes=4)),
    ),
}
DISEASES["term_without_gradient"] |= {
    "a tensor made anew of numbers": (
        mlp(),
        lambda out, b: (
            F.cross_entropy(out, b["y"]) + torch.tensor([o.square().mean() for o in out], requires_grad=True).mean()
        ),
        rows(y=ids()),
    )
}
DISEASES["term_without_gradient"] |= {
    "how rough the target is": (
        mlp(WIDTH),
        lambda out, b: (out - b["y"]).square().mean() + 0.3 * (b["y"][:, 1:] - b["y"][:, :-1]).abs().mean(),
        rows(y=numbers(WIDTH)),
    ),
    "how rough the target is, over time": (
        Sequence(1),
        lambda out, b: sum([F.l1_loss(out[..., 0], b["y"]), b["y"].diff(dim=1).square().mean()]),
        tokens(y=numbers(LENGTH)),
    ),
}
DISEASES["constant_loss"] |= {
    "no signs, by hand": (
        mlp(1),
        lambda out, b: (1 - out[:, 0] * b["y"]).relu().mean(),
        rows(y=ids(classes=2).float()),
    ),
    "no signs, logistic": (
        Sequence(1),
        lambda out, b: -F.logsigmoid(b["y"] * out[:, -1, 0]).mean(),
        tokens(y=ids(classes=2).float()),
    ),
    "the other one twice": (
        conv(5, nn.Flatten()),
        lambda out, b: F.triplet_margin_loss(out, out.roll(1, 0), out.roll(1, 0)),
        images(),
    ),
}
DISEASES["logits_as_probabilities"] |= {
    "of a teacher": (mlp(), lambda out, b: F.cross_entropy(out, 2 * b["x"][:, :CLASSES]), rows()),
    "of a teacher, kl": (
        mlp(CLASSES, nn.LogSoftmax(1)),
        lambda out, b: F.kl_div(out, 1 + b["x"][:, :CLASSES], reduction="batchmean").nan_to_num() + out.mean(),
        rows(),
    ),
}
CASES = [(code, name) for code, cases in DISEASES.items() for name in cases]


@pytest.mark.parametrize(("code", "name"), CASES, ids=[" ".join(case) for case in CASES])
def test_disease(found, code, name):
    told = found(*DISEASES[code][name])
    assert list(told) == [code]
    if name == "logarithms":  # may be meant
        assert told[code].status is Status.WARNING
        return
    hard = code not in {"padding_scored", "ignore_index_is_a_class", "entry_never_read", "term_without_gradient"}
    assert told[code].status is (Status.FAILED if hard else Status.WARNING)
    assert told[code].fix


@pytest.mark.parametrize(("code", "name"), [*CASES[:3], ("broadcast", "by hand"), ("out_of_range", "by hand")])
def test_disease_in_manual_optimisation(found, code, name):
    told = found(*DISEASES[code][name], manual=True)
    assert list(told) == [code]


@pytest.mark.parametrize(("code", "name"), [("probabilities", "softmax"), ("broadcast", "by hand")])
def test_the_line_is_named(found, code, name):
    assert found(*DISEASES[code][name])[code].subject.startswith("test_loss_input_check.py:")


def test_the_lowest_loss_of_probabilities(found):
    told = found(*DISEASES["probabilities"]["softmax"])["probabilities"]
    assert told.evidence == {"lowest": pytest.approx(math.log(1 + (CLASSES - 1) / math.e)), "classes": CLASSES}


@pytest.mark.parametrize(
    "net", [mlp(3), nn.Sequential(nn.Unflatten(1, (1, WIDTH)), nn.Conv1d(1, 3, WIDTH), nn.Flatten())]
)
def test_weights_that_grow_with_the_frequency(found, net):
    y = torch.tensor([0, 0, 0, 0, 0, 0, 1, 2] * ROWS)
    weight = torch.tensor([6.0, 1.0, 1.0])
    data = {"x": torch.randn(len(y), WIDTH, generator=drawn()), "y": y}
    told = found(net, lambda out, b: F.cross_entropy(out, b["y"], weight=weight), data, steps=8)
    assert list(told) == ["weights_grow_with_frequency"]
    assert found(net, lambda out, b: F.cross_entropy(out, b["y"], weight=1 / weight), data, steps=8) == {}


@pytest.mark.parametrize("by_function", [True, False])
def test_weights_by_hand_that_grow_with_the_frequency(found, by_function):
    y = torch.tensor([0, 0, 0, 0, 0, 0, 0, 1] * 2 * ROWS)
    data = {"x": torch.randn(len(y), WIDTH, generator=drawn()), "y": y}
    weight = torch.tensor([7.0, 1.0])

    def loss(out, b):
        if by_function:
            return (F.cross_entropy(out, b["y"], reduction="none") * weight[b["y"]]).mean()
        own = weight[b["y"]]
        return -(own * out.log_softmax(1).gather(1, b["y"][:, None])[:, 0]).sum() / own.sum()

    class Whole(Program):
        def training_step(self, batch, batch_idx):
            return super().training_step({"x": data["x"], "y": data["y"]}, batch_idx)

    assert list(found(Whole(mlp(2), loss), None, data, steps=1)) == ["weights_grow_with_frequency"]
    weight = 1 / weight
    assert found(Whole(mlp(2), loss), None, data, steps=1) == {}


def test_pos_weight_the_other_way_round(found):
    y = (torch.arange(8 * ROWS) % 8 == 0).float()
    data = {"x": torch.randn(len(y), WIDTH, generator=drawn()), "y": y}
    weight = torch.tensor(1 / 7)
    loss = lambda out, b: F.binary_cross_entropy_with_logits(out[:, 0], b["y"], pos_weight=weight)  # noqa: E731
    assert list(found(mlp(1), loss, data, steps=8)) == ["weights_grow_with_frequency"]


CLAMPED = {
    "in the middle": (lambda out: (out / 10 + 0.5).clamp(0, 1), []),
    "by wide bounds": (lambda out: out.clamp(-5, 5), []),
    "for what is reported": (lambda out: out + 0 * out.detach().clamp(0, 1), []),
    "at 0": (lambda out: out.clamp(0, 1), ["stuck_at_bounds"]),
    "by another function": (lambda out: F.hardtanh(out, 0.0, 1.0), ["stuck_at_bounds"]),
}


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("name", CLAMPED)
def test_clamped_outputs(found, name, by_hand):
    clamp, told = CLAMPED[name]
    data = {"x": torch.randn(8 * ROWS, WIDTH, generator=drawn()), "y": torch.rand(8 * ROWS, 6, generator=drawn())}

    def loss(out, b):
        out = clamp(out)
        return (out - b["y"]).square().mean() if by_hand else F.mse_loss(out, b["y"])

    assert list(found(mlp(6), loss, data, steps=8)) == told


SHARES = torch.tensor([0.1, 0.15, 0.5, 0.9])
OF_LABELS = {
    "negatives by positives": ((1 - SHARES) / SHARES, []),
    "its root": (((1 - SHARES) / SHARES).sqrt(), []),
    "one for all": (torch.tensor(3.0), []),
    "ones": (torch.ones(4), []),
    "precision before recall": (torch.full((4,), 0.5), []),
    "positives by negatives": (SHARES / (1 - SHARES), ["weights_grow_with_frequency"]),
}


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("name", OF_LABELS)
def test_pos_weights_of_several_labels(found, name, pixels):
    weight, told = OF_LABELS[name]
    y = (torch.rand(8 * ROWS, 4, generator=drawn()) < SHARES).float()
    data = {"x": torch.randn(len(y), WIDTH, generator=drawn()), "y": y}
    if pixels:
        weight = weight.reshape(-1, 1, 1)
        data["y"] = y[:, :, None, None].expand(-1, -1, 2, 2).clone()

    def loss(out, b):
        out = out[:, :, None, None].expand_as(b["y"]) if pixels else out
        return F.binary_cross_entropy_with_logits(out, b["y"], pos_weight=weight)

    assert list(found(mlp(4), loss, data, steps=8)) == told


@pytest.mark.parametrize(("weigh", "told"), [(lambda y: y, ["negatives_left_out"]), (lambda y: 1 + y, [])])
def test_a_weight_that_is_the_target(found, weigh, told):
    y = (torch.arange(8 * ROWS) % 3 == 0).float()
    data = {"x": torch.randn(len(y), WIDTH, generator=drawn()), "y": y}

    def loss(out, b):
        return F.binary_cross_entropy_with_logits(out[:, 0], b["y"], weigh(b["y"]))

    assert list(found(mlp(1), loss, data, steps=8)) == told


def test_fakes_beside_labels_that_are_all_zero(found):
    """A GAN on normal examples alone, for anomalies: the batch's labels are all 0, as the targets of fakes are."""
    data = {"x": torch.randn(8 * ROWS, WIDTH, generator=drawn()), "label": torch.zeros(8 * ROWS)}

    class Fakes(Program):
        def training_step(self, batch, batch_idx):
            real, fake = (self.net(x)[:, 0] for x in (batch["x"], torch.randn_like(batch["x"])))
            of_real = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
            of_fakes = F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
            return of_real + of_fakes

    assert found(Fakes(mlp(1), None), None, data, steps=8) == {}


def test_a_constant_target(found):
    data = {"x": torch.randn(8 * ROWS, WIDTH, generator=drawn()), "y": torch.ones(8 * ROWS)}
    loss = lambda out, b: F.mse_loss(out[:, 0], b["y"])  # noqa: E731
    assert list(found(mlp(1), loss, data, steps=8)) == ["target_constant"]


def test_one_of_two_classes_of_pixels_is_ignored(found):
    data = images(y=ids(6, 7, classes=2)[: 2 * ROWS])
    told = found(conv(2), lambda out, b: F.cross_entropy(out, b["y"], ignore_index=0), data, steps=8)
    assert list(told) == ["ignore_index_is_a_class"]
    assert told["ignore_index_is_a_class"].evidence["value"] == 1


@pytest.mark.parametrize("flat", [False, True])
def test_a_tag_that_is_the_padding_of_tags_too(found, flat):
    def loss(out, batch):
        y = batch["y"].masked_fill(batch["y"] == -100, 1)
        return F.cross_entropy(out.flatten(0, 1), y.flatten(), ignore_index=1) if flat else tags(1)(out, {"y": y})

    told = found(Words(), loss, tagged(1, 10 * WORDS))
    assert [(code, finding.status) for code, finding in told.items()] == [("ignore_index_is_a_class", Status.WARNING)]
    assert 0.1 < told["ignore_index_is_a_class"].evidence["share"] < 0.4
    assert "of the words amid others" in told["ignore_index_is_a_class"].message


def test_steps_of_a_signal_are_no_words(found):
    rows = tagged(1, 10 * WORDS)
    rows["x"] = torch.randn(*rows["x"].shape, WIDTH, generator=drawn())
    told = found(mlp(), tags(1), {**rows, "y": rows["y"].masked_fill(rows["y"] == -100, 1)})
    assert "of the steps amid others" in told["ignore_index_is_a_class"].message


def spoken(place):
    """Words and the next ones; 0 is one of them, and the padding, or padding alone."""
    x = (
        padded()
        if place == "at the ends"
        else tokens(x=torch.randint(WORDS, (4 * ROWS, LENGTH), generator=drawn()))["x"]
    )
    return {"x": x.where(torch.arange(LENGTH) < LENGTH - 1, 0) if place == "both" else x}


def next_word(out, batch):
    return F.cross_entropy(out[:, :-1].flatten(0, 1), batch["x"][:, 1:].flatten(), ignore_index=0)


def next_word_along_time(out, batch):
    return F.cross_entropy(out[:, :-1].transpose(1, 2), batch["x"][:, 1:], ignore_index=0)


@pytest.mark.parametrize("loss", [next_word, next_word_along_time])
@pytest.mark.parametrize(("place", "told"), [("at the ends", []), ("amid others", [True]), ("both", [True])])
def test_the_first_word_may_be_one_of_the_language(found, loss, place, told):
    found_here = found(Sequence(), loss, spoken(place))
    assert list(found_here) == ["ignore_index_is_a_class"] * len(told)
    assert [finding.is_alarm for finding in found_here.values()] == told


def test_words_that_are_asked_for_by_their_own_number(found):
    """What is to be guessed is replaced with the number of padding, which labels of all others have."""

    def loss(out, batch):
        return F.cross_entropy(out.transpose(1, 2), batch["y"], ignore_index=0)

    x, asked = tokens()["x"], torch.rand(4 * ROWS, LENGTH, generator=drawn()) < 0.3
    assert found(Sequence(), loss, {"x": x.masked_fill(asked, 0), "y": x.masked_fill(~asked, 0)}) == {}


def test_times_without_what_has_happened(found):
    assert list(found(mlp(1), lambda out, b: weibull(out, b, 1.0), survival())) == ["entry_never_read"]

    def cox(out, batch):
        order = batch["time"].argsort(descending=True)
        return (out[order, 0].logcumsumexp(0) - out[order, 0]).mean()

    assert list(found(mlp(1), cox, survival())) == ["entry_never_read"]


class ActorCritic(Program):
    """Two heads; what is done is drawn from the one, and the other one says what that is worth."""

    def __init__(self, advantage):
        super().__init__(nn.ModuleList([mlp(4), mlp(1)]), None)
        self.advantage = advantage

    def training_step(self, batch, batch_idx):
        policy = torch.distributions.Categorical(logits=self.net[0](batch["x"]))
        action, value = policy.sample(), self.net[1](batch["x"])
        reward = batch["x"].gather(1, action[:, None])[:, 0]
        advantage = self.advantage(reward, value, self.net[1])
        return advantage.square().mean() - (policy.log_prob(action) * advantage.detach()).mean()


@pytest.mark.parametrize(
    ("advantage", "told"),
    [
        (lambda r, v, net: r - v, ["broadcast"]),
        (lambda r, v, net: v - (r + 0.9 * net(torch.ones(len(r), WIDTH)).detach().squeeze(1)), ["broadcast"]),
        (lambda r, v, net: r - v.squeeze(1), []),
        (lambda r, v, net: v - v.detach().squeeze(1), []),
        (lambda r, v, net: v - v.squeeze(1), []),
        (lambda r, v, net: r[:, None] - v.squeeze(1)[None], []),
    ],
)
def test_what_is_worth_how_much(fit, advantage, told):
    check = LossInputCheck()
    data = [{"x": x} for x in torch.randn(4 * ROWS, WIDTH, generator=drawn())]
    fit(ActorCritic(advantage), [check], train=DataLoader(data, ROWS), logger=False, max_steps=4, limit_val_batches=0)
    alarms = [finding for finding in check.findings if finding.is_alarm]
    assert [finding.code.partition("/")[2] for finding in alarms] == told
    assert all(finding.status is Status.WARNING for finding in alarms)


def test_targets_over_the_examples(found):
    teacher = torch.randn(WIDTH, CLASSES, generator=drawn(1))
    loss = lambda out, b: F.kl_div(out.log_softmax(1), (b["x"] @ teacher).softmax(0), reduction="batchmean")  # noqa: E731
    assert "targets" in found(mlp(), loss, rows())["classes_in_wrong_dimension"].message


@pytest.mark.parametrize(("classes", "code"), [(3, []), (4, ["class_never_occurs"])])
def test_a_class_that_no_pixel_has(found, classes, code):
    y = ids(24, 24, classes=3)[: 2 * ROWS]
    x = torch.randn(2 * ROWS, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    told = found(conv(classes), lambda out, b: F.cross_entropy(out, b["y"]), {"x": x, "y": y})
    assert [*told] == code
    assert all(finding.status is Status.ADVICE for finding in told.values())


@pytest.mark.parametrize("error", [lambda e: e.pow(2), lambda e: e.abs(), lambda e: e * e])
@pytest.mark.parametrize("difference", [lambda a, b: a - b, lambda a, b: b - a])
def test_classes_that_are_taken_for_numbers_by_hand(fit, error, difference):
    loss, check = lambda out, b: error(difference(out[:, 0], b["y"])).mean(), LossInputCheck()
    examples = [{"x": x, "y": i % 7} for i, x in enumerate(torch.randn(256, WIDTH, generator=drawn()))]
    fit(Program(mlp(1), loss), [check], train=DataLoader(examples, 128), logger=False, max_steps=1, limit_val_batches=0)
    told = [(finding.code, finding.status) for finding in check.findings]
    assert told == [("LossInputCheck/labels_as_numbers", Status.ADVICE)]


def test_the_probabilities_of_a_teacher_in_the_place_of_the_input(found):
    def loss(out, batch):
        with torch.no_grad():
            teacher = (batch["x"] @ torch.ones(WIDTH, CLASSES)).mul(torch.arange(CLASSES)).log_softmax(1)
        return F.kl_div(teacher, out.softmax(1), reduction="batchmean")

    told = found(mlp(), loss, rows())
    assert [(code, finding.status) for code, finding in told.items()] == [("kl_arguments_interchanged", Status.ADVICE)]


class Distilled(Program):
    """A student, and a teacher that is left alone."""

    def __init__(self, loss, *, manual=False):
        super().__init__(nn.ModuleDict({"student": mlp(), "teacher": mlp()}), loss, manual=manual)
        self.net["teacher"].requires_grad_(requires_grad=False)
        self.weights = nn.Parameter(torch.zeros(2))

    def forward(self, batch):
        return self.net["student"](batch["x"]), self.net["teacher"](batch["x"])


def divergence(student, teacher):
    return F.kl_div((student / 4).log_softmax(1), (teacher / 4).softmax(1), reduction="batchmean") * 16


def hard(out, batch):
    return F.cross_entropy(out[0], batch["y"])


def by_terms(make):
    """A loss of the labels, and one of the teacher's answers, which are put together in different ways."""
    return lambda out, batch: make(hard(out, batch), divergence(out[0].detach(), out[1]))


def without_gradients(out, batch):
    with torch.no_grad():
        soft = divergence(*out)
    return hard(out, batch) + soft


FROM_TEACHER = {
    "divergence": lambda out, b: 0.3 * hard(out, b) + 0.7 * divergence(*out),
    "of the teacher": lambda out, b: 0.3 * hard(out, b) + 0.7 * divergence(out[0], out[1].detach()),
    "weights by how sure it is": lambda out, b: (
        hard(out, b) + divergence(*out) * (out[0].detach().softmax(1).amax() / 2 + out[1].softmax(1).amax().item())
    ),
    "a balance of both": lambda out, b: hard(out, b) * divergence(*out).detach() + divergence(*out),
    "a number that is logged": lambda out, b: [hard(out, b), divergence(out[0].detach(), out[1])][0],
    "beside its entropy": lambda out, b: (
        (out[1].softmax(1) * out[1].log_softmax(1)).sum(1).mean()
        - (out[1].softmax(1) * out[0].log_softmax(1)).sum(1).mean()
    ),
    "how much likelier": lambda out, b: out[0].logsumexp(1).mean() - out[1].logsumexp(1).mean() - out[0].mean(),
}
TEACHER_IN_VAIN = {
    "sum": by_terms(lambda hard, soft: 0.3 * hard + 0.7 * soft),
    "squares": lambda out, b: hard(out, b) + F.mse_loss(out[1], out[0].data),
    "without gradients": without_gradients,
    "stacked, with weights": by_terms(lambda hard, soft: torch.stack([hard, soft]) @ torch.tensor([0.3, 0.7])),
    "itself": lambda out, b: hard(out, b) + 0.7 * divergence(out[1], out[1]),
    "itself, by hand": lambda out, b: (
        0.1 * hard(out, b) - (out[1].softmax(1) * out[1].log_softmax(1)).sum(1).mean() * 9
    ),
    "between the two": by_terms(lambda hard, soft: torch.lerp(hard, soft, 0.5)),
    "one after the other": by_terms(lambda hard, soft: torch.cat([hard.view(1), soft.view(1)]).mean()),
}


@pytest.mark.parametrize("name", FROM_TEACHER)
def test_what_is_learnt_from_a_teacher(found, name):
    assert found(Distilled(FROM_TEACHER[name]), None, rows(y=ids())) == {}


@pytest.mark.parametrize("name", TEACHER_IN_VAIN)
@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "by hand"])
def test_a_student_that_is_detached(found, name, manual):
    told = found(Distilled(TEACHER_IN_VAIN[name], manual=manual), None, rows(y=ids()))
    assert [(code, finding.status) for code, finding in told.items()] == [("term_without_gradient", Status.WARNING)]


def test_a_student_that_is_detached_with_learnt_weights(found):
    class Weighed(Distilled):
        def training_step(self, batch, batch_idx):
            out = self(batch)
            losses = torch.stack([hard(out, batch), divergence(out[0].detach(), out[1])])
            return (losses * torch.exp(-self.weights) + self.weights).sum()

    assert list(found(Weighed(None), None, rows(y=ids()))) == ["term_without_gradient"]


def test_a_loss_of_very_many_terms(found):
    def loss(out, batch):
        total, error = torch.zeros(()), (out[:, 0] - batch["time"]).square().mean()
        for _ in range(1100):
            total = total + error
        return total + out[:, 0].detach().square().mean()

    assert list(found(mlp(1), loss, rows(time=numbers()), steps=1)) == ["term_without_gradient"]


def test_a_multiplier_that_is_learnt(found):
    class Constrained(Distilled):
        def training_step(self, batch, batch_idx):
            out, weight = self(batch), self.weights[0].exp()
            soft = divergence(*out)
            return hard(out, batch) + weight.detach() * soft - weight * (soft - 0.1).detach()

    assert found(Constrained(None), None, rows(y=ids())) == {}


def test_a_teacher_that_gets_the_gradient_of_the_student(found):
    class Changed(Distilled):
        def __init__(self, loss):
            super().__init__(loss)
            self.net["teacher"].requires_grad_(requires_grad=True)

        def configure_optimizers(self):
            return torch.optim.SGD(self.net["student"].parameters(), lr=1e-3)

    assert "term_without_gradient" in found(Changed(TEACHER_IN_VAIN["sum"]), None, rows(y=ids()))


class Pairs(Program):
    """Two encoders, whose outputs of the same place in the batch belong together."""

    def __init__(self, loss):
        super().__init__(nn.ModuleList([mlp(8), mlp(8)]), loss)
        self.log_scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("queue", F.normalize(torch.randn(8, 4 * ROWS), dim=0))

    def training_step(self, batch, batch_idx):
        return self.loss(self, *(F.normalize(net(batch["x"]), dim=1) for net in self.net))


OWN = torch.eye(ROWS, dtype=torch.bool)
OF_TWO = torch.eye(2 * ROWS, dtype=torch.bool)


def both_ways(logits):
    return F.cross_entropy(logits, torch.arange(ROWS)) + F.cross_entropy(logits.T, torch.arange(ROWS))


def of_two_views(u, v, scale=10.0, targets=None):
    both = torch.cat([u, v])
    logits = (scale * both @ both.T).masked_fill(OF_TWO, -1e9)
    return F.cross_entropy(logits, torch.arange(2 * ROWS).roll(ROWS) if targets is None else targets)


def with_queue(u, v, queue, scale):
    logits = scale * torch.cat([(u * v.detach()).sum(1, keepdim=True), u @ queue], 1)
    return F.cross_entropy(logits, torch.zeros(ROWS, dtype=torch.long))


def supervised(u, v, scale):
    logits = scale * torch.cat([u, v]) @ torch.cat([u, v]).T
    logits = logits - logits.max(1, keepdim=True).values.detach()
    others, same = (~OF_TWO).float(), OWN.float().repeat(2, 2) * ~OF_TWO
    return -(same * (logits - (logits.exp() * others).sum(1, keepdim=True).log())).sum(1).mean()


def by_exponentials(u, v, mask):
    each = (10 * u @ v.T).exp() * mask
    return (each.sum(1).log() - each.diag().clamp(min=1e-9).log()).mean()


def by_sigmoids(u, v, scale, shift=None):
    logits = scale * (u @ v.T)
    return F.binary_cross_entropy_with_logits(logits if shift is None else logits + shift, OWN.float())


OF_PAIRS = {
    "divided": lambda m, u, v: both_ways(u @ v.T / 0.07),
    "a large temperature": lambda m, u, v: both_ways(u @ v.T),
    "learnt": lambda m, u, v: both_ways(m.log_scale.exp() * u @ v.T),
    "learnt, from a small one on": lambda m, u, v: both_ways((m.log_scale - 6).exp() * u @ v.T),
    "not of unit length": lambda m, u, v: both_ways(0.07 * (u * m.log_scale) @ v.T),
    "two views": lambda m, u, v: of_two_views(u, v),
    "queue": lambda m, u, v: with_queue(u, v, m.queue, 14),
    "supervised": lambda m, u, v: supervised(u, v, 10),
    "exponentials": lambda m, u, v: by_exponentials(u, v, 1.0),
    "sigmoids": lambda m, u, v: by_sigmoids(u, v, 10, -10),
    "true pairs left out of the denominator": lambda m, u, v: (
        (10 * u @ v.T).masked_fill(OWN, -1e9).logsumexp(1) - 10 * (u @ v.T).diag()
    ).mean(),
    "true pairs elsewhere": lambda m, u, v: (
        (10 * u @ v.T).masked_fill(OWN, -1e9).logsumexp(1) - 10 * (u * v).sum(1)
    ).mean(),
    "true pairs by their distance": lambda m, u, v: (u - v).square().sum(1).mean() + (10 * u @ v.T)[~OWN].logsumexp(0),
    "some others left out": lambda m, u, v: both_ways((10 * u @ v.T).masked_fill(OWN.roll(1, 0), -1e9)),
    "orthogonal": lambda m, u, v: ((u @ v.T).square() * ~OWN).mean() + (1 - (u * v).sum(1)).mean(),
}
TOO_CLOSE = {
    "both ways": lambda m, u, v: both_ways(u @ v.T * 0.07),
    "before the product": lambda m, u, v: both_ways(0.07 * u @ v.T),
    "divided by the scale": lambda m, u, v: both_ways(u @ v.T / 14),
    "two views": lambda m, u, v: of_two_views(u, v, 0.07),
    "queue": lambda m, u, v: with_queue(u, v, m.queue, 0.07),
    "supervised": lambda m, u, v: supervised(u, v, 0.07),
    "cosine similarity": lambda m, u, v: both_ways(0.07 * F.cosine_similarity(u[:, None], v[None], dim=2)),
    "by hand": lambda m, u, v: ((0.07 * u @ v.T).logsumexp(1) - 0.07 * (u @ v.T).diag()).mean(),
    "by hand, with exponentials": lambda m, u, v: (
        -((u @ v.T * 0.1).exp().diag() / (u @ v.T * 0.1).exp().sum(1)).log().mean()
    ),
    "einsum": lambda m, u, v: both_ways(torch.einsum("nd,md->nm", u, v) * 0.07),
    "sigmoids": lambda m, u, v: by_sigmoids(u, v, 0.07),
}
MASKED = {
    "both ways": lambda m, u, v: both_ways((u @ v.T / 0.07).masked_fill(OWN, -1e9)),
    "infinite": lambda m, u, v: both_ways((u @ v.T / 0.07).masked_fill(OWN, -torch.inf)),
    "times zero": lambda m, u, v: both_ways(u @ v.T / 0.07 * ~OWN),
    "where": lambda m, u, v: both_ways(torch.where(OWN, torch.tensor(-1e4), m.log_scale.exp() * u @ v.T)),
    "each view with itself": lambda m, u, v: of_two_views(u, v, targets=torch.arange(2 * ROWS)),
    "queue": lambda m, u, v: with_queue(u, u * 1, m.queue, 14),
    "a diagonal": lambda m, u, v: -(u @ v.T / 0.1).masked_fill(OWN, -1e4).log_softmax(1).diag().mean(),
    "one-hot": lambda m, u, v: -((u @ v.T / 0.1).masked_fill(OWN, -1e4).log_softmax(1) * OWN.float()).sum(1).mean(),
    "exponentials": lambda m, u, v: by_exponentials(u, v, ~OWN),
    "sigmoids": lambda m, u, v: by_sigmoids(u, v, (~OWN).float() * 10),
}


@pytest.mark.parametrize("name", OF_PAIRS)
def test_pairs_that_belong_together(found, name):
    assert found(Pairs(OF_PAIRS[name]), None, rows()) == {}


@pytest.mark.parametrize("name", TOO_CLOSE)
def test_cosines_times_a_temperature(found, name):
    told = found(Pairs(TOO_CLOSE[name]), None, rows())
    assert [(code, finding.status) for code, finding in told.items()] == [("logits_too_close", Status.FAILED)]
    assert told["logits_too_close"].evidence["apart"] == pytest.approx(2 * (0.1 if "expo" in name else 0.07), rel=0.05)


@pytest.mark.parametrize("name", MASKED)
def test_true_pairs_behind_a_mask(found, name):
    told = found(Pairs(MASKED[name]), None, rows())
    assert list(told) == ["target_masked"]
    assert told["target_masked"].is_alarm


def test_a_sparse_entry_beside_labels(fit):
    class Graph(Program):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(batch["graph"] @ self.net(batch["x"]), batch["y"])

    check = LossInputCheck()
    graph = {"graph": torch.eye(4 * ROWS).to_sparse(), "known": (ids() > 1).float(), **rows(y=ids())}
    data = DataLoader([graph] * 4, batch_size=None)
    module = Graph(mlp(), None)
    fit(module, [check], train=data, logger=False, max_steps=4, limit_val_batches=0)
    assert [finding.status for finding in check.findings] == [Status.PASSED]


class OfUnitWeights(nn.Module):
    """Cosines with the weights of the classes."""

    def __init__(self, scale):
        super().__init__()
        self.body, self.weight, self.scale = mlp(8), nn.Parameter(torch.randn(CLASSES, 8)), scale

    def forward(self, x):
        return self.scale * F.linear(F.normalize(self.body(x)), F.normalize(self.weight))


@pytest.mark.parametrize(
    ("net", "told"),
    [
        (OfUnitWeights(16), None),
        (OfUnitWeights(1), Status.WARNING),
        (OfUnitWeights(1 / 16), Status.FAILED),
        (mlp(CLASSES, nn.Tanh()), Status.WARNING),
        (mlp(CLASSES, nn.Hardtanh()), Status.WARNING),
        (mlp(CLASSES, nn.Hardtanh(-20, 20)), None),
    ],
)
@pytest.mark.parametrize(
    "loss",
    [
        lambda out, b: F.cross_entropy(out, b["y"]),
        lambda out, b: F.cross_entropy(out, b["y"], label_smoothing=0.1),
        lambda out, b: -(F.one_hot(b["y"], CLASSES) * out.log_softmax(1)).sum(1).mean(),
    ],
)
def test_bounded_logits(found, net, told, loss):
    assert [finding.status for finding in found(net, loss, rows(y=ids())).values()] == ([told] if told else [])


def test_logits_that_never_say_no(found):
    loss = lambda out, b: F.binary_cross_entropy_with_logits(out, b["y"])  # noqa: E731
    told = found(mlp(1, nn.ReLU()), loss, rows(y=ids(1, classes=2).float()))
    assert [(code, finding.status) for code, finding in told.items()] == [("logits_too_close", Status.WARNING)]


def test_bounded_logits_of_targets_that_ask_for_no_more(found):
    loss = lambda out, b: F.cross_entropy(out, soft(b) / 4 + 0.75 / CLASSES)  # noqa: E731
    assert found(mlp(CLASSES, nn.Tanh()), loss, rows(y=ids())) == {}
    yes = lambda out, b: F.binary_cross_entropy_with_logits(out, 0.3 + 0.4 * b["y"])  # noqa: E731
    assert found(mlp(1, nn.Tanh()), yes, rows(y=ids(1, classes=2))) == {}
