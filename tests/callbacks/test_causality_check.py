import pytest
import torch
from patients import (
    CarriesState,
    ForecastsThePast,
    InputIsTarget,
    SaysNext,
    SeesFuture,
    ShiftedTwice,
    WindowTooLong,
    WrongWay,
)
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lightning_recipe import CausalityCheck, Status

TOKENS, WIDTH = SaysNext.tokens, 16


def judged(fit, module, check=None, **settings):
    check = check or CausalityCheck()
    fit(module, [check], logger=False, **{"max_steps": 1, "limit_val_batches": 0, **settings})
    (finding,) = check.findings
    return finding


# -- networks: from embeddings (N, T, WIDTH) to features (N, T, WIDTH); each causal, and with its mistake


class Recurrent(nn.Module):
    begins = "rnn"

    def __init__(self, wrong):
        super().__init__()
        self.rnn = nn.LSTM(WIDTH, WIDTH // (1 + wrong), batch_first=True, bidirectional=wrong)

    def forward(self, x):
        return self.rnn(x)[0]


class Packed(Recurrent):
    """Sequences of different lengths, without their padding."""

    def forward(self, x):
        lengths = [x.shape[1], *[x.shape[1] - 1 - i % 3 for i in range(len(x) - 1)]]
        rows = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.rnn(rows)[0], batch_first=True)[0]


class Encoder(nn.Module):
    """PyTorch's own, without its mask."""

    begins = "encoder.layers.0.self_attn"

    def __init__(self, wrong):
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, dropout=0.1, batch_first=True)
        self.encoder, self.wrong = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), wrong

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.encoder(x, mask=None if self.wrong else mask)


class TimeFirst(Encoder):
    def __init__(self, wrong):
        super().__init__(wrong)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 32)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.encoder(x.transpose(0, 1), mask=None if self.wrong else mask).transpose(0, 1)


class ByHand(nn.Module):
    """Attention by hand, whose mask begins one too late; and a gate that starts at zero."""

    begins = ""

    def __init__(self, wrong):
        super().__init__()
        self.qkv, self.out, self.wrong = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), wrong
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        hidden = torch.ones(x.shape[1], x.shape[1]).triu(2 if self.wrong else 1).bool()
        weights = (q @ k.mT / 4).masked_fill(hidden, -torch.inf).softmax(-1)
        return x + self.gate * self.out(weights @ v)


class Convolution(nn.Module):
    begins = "conv"

    def __init__(self, wrong):
        super().__init__()
        self.conv, self.wrong = nn.Conv1d(WIDTH, WIDTH, 3, padding=1 if wrong else 0), wrong
        self.norm = nn.BatchNorm1d(WIDTH)

    def forward(self, x):
        x = x.transpose(1, 2)
        return self.norm(self.conv(x if self.wrong else F.pad(x, (2, 0)))).transpose(1, 2)


class TokenMixing(nn.Module):
    begins = "mix"

    def __init__(self, wrong):
        super().__init__()
        self.mix, self.wrong = nn.Linear(16, 16, bias=False), wrong

    def forward(self, x):
        mixed = self.mix(x.mT).mT if self.wrong else torch.einsum("ts,bsd->btd", self.mix.weight.tril(), x)
        return x + mixed.relu()


class Dilated(Convolution):
    """Sees the second next, but not the next."""

    def __init__(self, wrong):
        super().__init__(wrong)
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, dilation=2, padding=2 if wrong else 0)

    def forward(self, x):
        x = x.transpose(1, 2)
        return self.norm(self.conv(x if self.wrong else F.pad(x, (4, 0)))).transpose(1, 2)


class NormOverTime(nn.Module):
    """Statistics of the whole sequence, of each channel."""

    begins = "norm"

    def __init__(self, wrong):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(WIDTH, WIDTH, 1), self.over_time() if wrong else nn.BatchNorm1d(WIDTH)

    def over_time(self):
        return nn.InstanceNorm1d(WIDTH)

    def forward(self, x):
        return self.norm(self.conv(x.mT)).mT


class GroupNormOverTime(NormOverTime):
    def over_time(self):
        return nn.GroupNorm(1, WIDTH)


NETWORKS = [Recurrent, Packed, Encoder, TimeFirst, ByHand, Convolution, Dilated, TokenMixing]
NETWORKS += [NormOverTime, GroupNormOverTime]


class Model(nn.Module):
    """Returns a dictionary, as those of the hub do, and shifts labels itself if it is given any."""

    def __init__(self, mixer):
        super().__init__()
        self.embed, self.mixer, self.head = nn.Embedding(TOKENS, WIDTH), mixer, nn.Linear(WIDTH, TOKENS)
        self.places = nn.Parameter(torch.randn(17, WIDTH))

    def forward(self, input_ids, labels=None):
        out = {"logits": self.head(self.mixer(self.embed(input_ids) + self.places[: input_ids.shape[1]]))}
        if labels is not None:
            out["loss"] = F.cross_entropy(
                out["logits"][:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
            )
        return out


class Program(SaysNext):
    """A language model with a network of its own."""

    def __init__(self, mixer):
        super().__init__()
        self.net, self.mix, self.head = Model(mixer), None, None

    def forward(self, tokens):
        return self.net(tokens)["logits"]


class ModulesInTheStep(Program):
    """No module holds all: the step calls one after the other, and the loss is written by hand."""

    def step(self, batch):
        tokens, targets = self.pair(batch[0])
        x = self.net.embed(tokens)
        said = self.net.head(self.net.mixer(x)).log_softmax(-1)
        return -said.gather(-1, targets.unsqueeze(-1)).mean()


class Labelled(Program):
    """A dictionary of tokens and labels, the last of which are not counted."""

    def step(self, batch):
        return self.net(**batch)["loss"]

    def loader(self, n):
        (rows,) = self.data(n, 1).tensors
        rows = rows[:, :16]

        def collate(rows):
            tokens = torch.stack(rows)
            return {"input_ids": tokens, "labels": self.labels(tokens)}

        return DataLoader(list(rows), 32, shuffle=True, collate_fn=collate)

    def train_dataloader(self):
        return self.loader(64)

    def labels(self, tokens):
        return tokens.masked_fill(torch.arange(16) > 12, -100)


class Padded(Program):
    """Inputs and targets are cut first, then padded: the last target of each text did not enter."""

    def step(self, batch):
        tokens, targets = self.pair(batch[0] % (TOKENS - 1) + 1)
        over = torch.arange(16) >= torch.arange(len(tokens)).view(-1, 1) % 8 + 8
        return F.cross_entropy(self(tokens.masked_fill(over, 0)).mT, targets.masked_fill(over, 0), ignore_index=0)


class Compiled(Program):
    def __init__(self, mixer):
        super().__init__(mixer)
        self.net = torch.compile(self.net, backend="eager")


class TransposedLogits(Program):
    def step(self, batch):
        tokens, targets = self.pair(batch[0])
        return F.cross_entropy(self(tokens).transpose(1, 2), targets, label_smoothing=0.1)


class OfAColumn(Program):
    """Sequences are columns, as text in time first is cut."""

    def step(self, batch):
        rows = batch[0].T
        return F.cross_entropy(self(rows[:-1].T).transpose(0, 1).flatten(0, 1), rows[1:].flatten())


class AsManySequencesAsPositions(Program):
    def train_dataloader(self):
        return DataLoader(self.data(64, 1), self.positions - 1)


PROGRAMS = [
    *(Program, ModulesInTheStep, Labelled, Padded, Compiled, TransposedLogits, OfAColumn, AsManySequencesAsPositions)
]


# -- false alarms first


@pytest.mark.parametrize("network", NETWORKS)
def test_causal_networks_pass(fit, network):
    finding = judged(fit, Program(network(wrong=False)))
    assert finding.status is Status.PASSED
    assert finding.evidence["outputs"] >= 32


@pytest.mark.parametrize("program", PROGRAMS)
def test_causal_programs_pass(fit, program):
    assert judged(fit, program(Encoder(wrong=False))).status is Status.PASSED


class Masked(Labelled):
    """Tokens are hidden, and only hidden ones are to be said; nearly all others stay."""

    def step(self, batch):
        tokens = batch["input_ids"]
        chosen = torch.rand(tokens.shape) < 0.3
        shown = tokens.masked_fill(chosen & (torch.rand(tokens.shape) < 0.8), 0)
        return F.cross_entropy(self(shown).transpose(1, 2), tokens.masked_fill(~chosen, -100))


class MaskedAndAllCounted(Labelled):
    def step(self, batch):
        tokens = batch["input_ids"]
        shown = tokens.masked_fill(torch.rand(tokens.shape) < 0.2, 0)
        return F.cross_entropy(self(shown).transpose(1, 2), tokens)


class MaskedOneBefore(Labelled):
    """A hidden token is to be said by the output before it."""

    def step(self, batch):
        tokens = batch["input_ids"]
        chosen = torch.rand(tokens.shape) < 0.3
        targets = tokens.masked_fill(~chosen, -100)
        return F.cross_entropy(self(tokens.masked_fill(chosen, 0))[:, :-1].transpose(1, 2), targets[:, 1:])


class Restoring(Program):
    """An autoencoder of tokens, which sees all of them."""

    def pair(self, rows):
        return rows[:, :16], rows[:, :16]


class Tagging(Program):
    """A tag for each token, which depends on the next one."""

    def pair(self, rows):
        return rows[:, :-1], (rows[:, :-1] + rows[:, 1:]) % TOKENS


class Constant(Program):
    """Sequences of one token each, which fit at any shift."""

    def pair(self, rows):
        rows = rows[:, :1].expand(-1, 17)
        return rows[:, :-1], rows[:, 1:]


class Periodic(Program):
    def pair(self, rows):
        rows = rows[:, :2].repeat(1, 9)[:, :17]
        return rows[:, :-1], rows[:, 1:]


class Prefix(Program):
    """Sees its first half as a whole; only the second half counts."""

    def step(self, batch):
        tokens, targets = self.pair(batch[0])
        hidden = torch.ones(16, 16).triu(1).bool()
        hidden[:8, :8] = False
        x = self.net.mixer.encoder(self.net.embed(tokens), mask=hidden)
        return F.cross_entropy(self.net.head(x)[:, 7:].transpose(1, 2), targets[:, 7:])


class FromBothSides(Program):
    """Sees what is before and what is after the token that it is to say, not that itself."""

    def forward(self, tokens):
        x = self.net.embed(tokens)
        before, _ = self.net.mixer.rnn(x)
        after, _ = self.net.mixer.rnn(F.pad(x[:, 2:], (0, 0, 0, 2)).flip(1))
        return self.net.head(before + after.flip(1))


class Backwards(Program):
    """Reads from right to left."""

    def step(self, batch):
        x = self.net.embed(batch[0][:, 1:]).flip(1)
        return F.cross_entropy(self.net.head(self.net.mixer(x)).flip(1).transpose(1, 2), batch[0][:, :-1])


class Translating(Program):
    """Encoder and decoder: the source is seen as a whole, what was said as far as it was said."""

    def __init__(self, mixer):
        super().__init__(mixer)
        self.transformer = nn.Transformer(WIDTH, 2, 1, 1, 32, batch_first=True)

    def source(self, rows):
        return rows[:, :16].flip(1)

    def step(self, batch):
        said, targets = self.pair(batch[0])
        mask = nn.Transformer.generate_square_subsequent_mask(16)
        source, said = self.net.embed(self.source(batch[0])), self.net.embed(said)
        return F.cross_entropy(self.net.head(self.transformer(source, said, tgt_mask=mask)).mT, targets)


class ThreePlaces(Translating):
    """What is said has three places; what was said before enters with a start before it."""

    shown = -1

    def __init__(self, mixer):
        super().__init__(mixer)
        self.decoder = nn.GRU(WIDTH, WIDTH, batch_first=True)

    def step(self, batch):
        answers = batch[0][:, 3:6]
        said = F.pad(answers, (1, 0), value=0)[:, :-1] if self.shown else answers
        state = self.net.embed(batch[0][:, :3]).mean(1)[None]
        return F.cross_entropy(self.net.head(self.decoder(self.net.embed(said), state)[0]).mT, answers)


class SayingAgain(Translating):
    """The source is what is to be said."""

    def source(self, rows):
        return rows[:, 1:]


class Echo(Program):
    """Says each token of the data set again, one later."""

    def step(self, batch):
        return F.cross_entropy(self(batch[0]).mT, batch[1])

    def data(self, n, seed):
        rows = super().data(n, seed).tensors[0][:, :16]
        return TensorDataset(rows, F.pad(rows, (1, 0))[:, :-1])


class SeveralAhead(Program):
    """Besides the next token, another head says the one after it."""

    def __init__(self, mixer):
        super().__init__(mixer)
        self.further = nn.Linear(WIDTH, TOKENS)

    def step(self, batch):
        rows = batch[0]
        x = self.net.mixer(self.net.embed(rows[:, :-2]))
        return F.cross_entropy(self.net.head(x).mT, rows[:, 1:-1]) + F.cross_entropy(self.further(x).mT, rows[:, 2:])


@pytest.mark.parametrize(
    ("program", "mixer"),
    [
        (Masked, Encoder(wrong=True)),
        (MaskedAndAllCounted, Encoder(wrong=True)),
        (MaskedOneBefore, Encoder(wrong=True)),
        (Restoring, Recurrent(wrong=True)),
        (Tagging, Convolution(wrong=True)),
        (Constant, Encoder(wrong=False)),
        (Periodic, Recurrent(wrong=False)),
        (Prefix, Encoder(wrong=False)),
        (FromBothSides, Recurrent(wrong=False)),
        (Backwards, Recurrent(wrong=False)),
        (Translating, Recurrent(wrong=False)),
        (ThreePlaces, Recurrent(wrong=False)),
        (SayingAgain, Recurrent(wrong=False)),
        (Echo, Recurrent(wrong=False)),
        (SeveralAhead, Recurrent(wrong=False)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_other_tasks_are_not_accused(fit, program, mixer):
    finding = judged(fit, program(mixer))
    assert finding.status in {Status.PASSED, Status.SKIPPED}, finding
    assert "raises" not in finding.message
    assert "error" not in finding.message


# -- numbers


class Series(SaysNext):
    """Says the next value of a series with two features, at each step."""

    out = 2

    def __init__(self, *, wrong=False):
        super().__init__()
        self.net, self.head = nn.Linear(2, WIDTH), nn.Linear(WIDTH, self.out)
        self.mix = Recurrent(wrong=wrong)

    def forward(self, x):
        return self.head(self.mix(self.net(x)))

    def step(self, batch):
        series, targets = self.pair(batch[0])
        return F.mse_loss(self(series), targets)

    def data(self, n, seed):
        rng = torch.Generator().manual_seed(seed)
        phase = 6.3 * torch.rand(n, 1, 2, generator=rng) + torch.arange(17).view(-1, 1) / torch.tensor([2.0, 3.0])
        return TensorDataset(phase.sin() + 0.1 * torch.randn(phase.shape, generator=rng))


class Likelihood(Series):
    """Mean and logarithm of the standard deviation of the first feature, with a loss by hand."""

    def step(self, batch):
        mean, log_std = self(batch[0][:, :-1]).unbind(-1)
        return -torch.distributions.Normal(mean, log_std.exp()).log_prob(batch[0][:, 1:, 0]).mean()


class Standardised(Series):
    """Each series is normalised by itself before the first layer; that is undone at the end."""

    def __init__(self):
        super().__init__()
        self.norm, self.kind = nn.InstanceNorm1d(2, affine=True), nn.Embedding(3, 2)

    def forward(self, x):
        of_its_kind = self.kind(x[:, 0, 0].long() % 3)[:, None]
        mean, std = x.mean(1, keepdim=True), x.std(1, keepdim=True)
        return super().forward(self.norm(x.mT).mT + of_its_kind) * std + mean


class InnerNorm(Standardised):
    """It is what the first layer makes of the series that is normalised."""

    def forward(self, x):
        return self.head(self.mix(F.pad(self.norm(self.net(x)[..., :2].mT).mT, (0, WIDTH - 2))))


def test_statistics_of_a_series(fit):
    assert judged(fit, Standardised()).status is Status.SKIPPED
    finding = judged(fit, InnerNorm())
    assert (finding.status, finding.code, finding.subject) == (Status.FAILED, "CausalityCheck/sees_future", "norm")


class ChannelsFirst(Series):
    """A convolution in time, over (N, C, T), and the absolute error."""

    def __init__(self, *, wrong=False):
        super().__init__()
        self.mix, self.head = None, nn.Conv1d(WIDTH, 2, 1)
        self.net = nn.Conv1d(2, WIDTH, 3, padding=1) if wrong else Causal(2, WIDTH, 3)

    def forward(self, x):
        return self.head(self.net(x).relu())

    def step(self, batch):
        x = batch[0].transpose(1, 2)
        return F.l1_loss(self(x[..., :-1]), x[..., 1:])


class Causal(nn.Conv1d):
    def forward(self, x):
        return super().forward(F.pad(x, (self.kernel_size[0] - 1, 0)))


class OneChannel(ChannelsFirst):
    """One number at each step, in (N, 1, T)."""

    def __init__(self, *, wrong=False):
        super().__init__()
        self.head = nn.Conv1d(WIDTH, 1, 1)
        self.net = nn.Conv1d(1, WIDTH, 3, padding=1) if wrong else Causal(1, WIDTH, 3)

    def step(self, batch):
        x = batch[0][:, None, :, 0]
        return F.l1_loss(self(x[..., :-1]), x[..., 1:])


class Chomps(OneChannel):
    """Pads on both sides, with a weight made of two, and cuts off one end: the last, or by mistake the first."""

    class Chomp(nn.Module):
        def __init__(self, wrong):
            super().__init__()
            self.kept = slice(2, None) if wrong else slice(None, -2)

        def forward(self, x):
            return x[..., self.kept]

    def __init__(self, *, wrong=False):
        super().__init__(wrong=wrong)
        conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(1, WIDTH, 3, padding=2))
        self.net = nn.Sequential(conv, self.Chomp(wrong))


def test_the_wrong_end_of_a_padded_convolution_is_cut_off(fit):
    assert judged(fit, Chomps()).status is Status.PASSED
    finding = judged(fit, Chomps(wrong=True))
    assert (finding.status, finding.code) == (Status.FAILED, "CausalityCheck/sees_future")


class Intervals(OneChannel):
    """Says in which interval the next number lies, as WaveNet does of sound."""

    def __init__(self, *, wrong=False):
        super().__init__(wrong=wrong)
        self.head = nn.Conv1d(WIDTH, 32, 1)

    def step(self, batch):
        x = batch[0][:, None, :, 0]
        return F.cross_entropy(self(x[..., :-1]), self.classes(x[:, 0, 1:]))

    def classes(self, x):
        return (16 + 12 * x.tanh()).long()


class OneHot(SaysNext):
    """Tokens that enter as one-hot vectors."""

    def __init__(self, *, wrong=False):
        super().__init__()
        self.net, self.mix = nn.Linear(TOKENS, WIDTH), Recurrent(wrong=wrong)
        self.head = nn.Linear(WIDTH, TOKENS)

    def forward(self, tokens):
        return self.head(self.mix(self.net(F.one_hot(tokens, TOKENS).float())))


class Yes(Series):
    """Says which notes are played next."""

    def step(self, batch):
        notes = (batch[0] > 0.5).float()
        return F.binary_cross_entropy_with_logits(self(notes[:, :-1]), notes[:, 1:])


class Slow(Series):
    """Hardly changes from step to step, far away from what is said at first."""

    def data(self, n, seed):
        steps = torch.randn(n, 17, 2, generator=torch.Generator().manual_seed(seed))
        return TensorDataset(10 + 0.02 * steps.cumsum(1))


NUMBERS = [Series, Likelihood, ChannelsFirst, OneChannel, Intervals, OneHot, Yes, Slow]


@pytest.mark.parametrize("program", NUMBERS)
def test_numbers_that_are_said_from_what_was_pass(fit, program):
    assert judged(fit, program()).status is Status.PASSED


@pytest.mark.parametrize("program", NUMBERS)
def test_numbers_that_are_said_from_what_comes_fail(fit, program):
    finding = judged(fit, program(wrong=True))
    assert (finding.status, finding.code) == (Status.FAILED, SeesFuture.code)
    assert finding.subject == ("net" if issubclass(program, ChannelsFirst) else "mix.rnn")


class Restored(Series):
    def pair(self, series):
        return series, series


class Denoised(Series):
    def pair(self, series):
        return series + 0.1 * torch.randn_like(series), series


class ScaledByItsWindow(Series):
    """The mean of all that enters is taken off within the network, before any layer."""

    def __init__(self, *, wrong):
        super().__init__()
        self.net = Centred(self.net, self.mix, self.head)

    def forward(self, x):
        return self.net(x)


class Centred(nn.Sequential):
    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        return super().forward(x - mean) + mean


class TwoAhead(Series):
    def step(self, batch):
        return F.mse_loss(self(batch[0][:, :-2]), batch[0][:, 2:])


class ShiftedByTheDataToo(Series):
    """Numbers, of which the data set already pairs each with the next."""

    out = 1

    def forward(self, x):
        return super().forward(torch.stack([x, x], 2))[..., 0]

    def step(self, batch):
        return F.mse_loss(self(batch[0])[:, :-1], batch[1][:, 1:])

    def data(self, n, seed):
        series = super().data(n, seed).tensors[0][..., 0]
        return TensorDataset(series[:, :-1], series[:, 1:])


@pytest.mark.parametrize("program", [Restored, Denoised, TwoAhead, ScaledByItsWindow])
def test_other_tasks_of_numbers_are_not_accused(fit, program):
    assert judged(fit, program(wrong=True)).status is Status.SKIPPED


class OneBehind(Intervals):
    """Of what enters, the last is cut within the network: nothing needs to be shifted outside."""

    def forward(self, x):
        return super().forward(F.pad(x, (1, 0))[..., :-1])

    def step(self, batch):
        x = batch[0][:, None, :, 0]
        return F.cross_entropy(self(x), self.classes(x[:, 0]))


class IntervalsOfClean(Intervals):
    """What enters is noisy."""

    def step(self, batch):
        x = batch[0][:, None, :, 0]
        return F.cross_entropy(self(x + 0.1 * torch.randn_like(x)), self.classes(x[:, 0]))


class TagOfTheNumber(OneChannel):
    """One of two tags, which the number tells."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv1d(WIDTH, 2, 1)

    def step(self, batch):
        x = batch[0][:, None, :, 0]
        return F.cross_entropy(self(x), (x[:, 0] > 0).long())


@pytest.mark.parametrize("program", [OneBehind, IntervalsOfClean, TagOfTheNumber])
def test_other_classes_of_numbers_are_not_accused(fit, program):
    assert judged(fit, program()).status is Status.SKIPPED


def test_a_causal_codec_of_whole_series_is_not_accused(fit):
    assert judged(fit, Restored(wrong=False)).status is Status.SKIPPED


class Unshifted(Series):
    """Both are cut from the same end."""

    def pair(self, series):
        return series[:, 1:], series[:, 1:]


class UnshiftedLikelihood(Likelihood):
    def step(self, batch):
        mean, log_std = self(batch[0][:, 1:]).unbind(-1)
        return -torch.distributions.Normal(mean, log_std.exp()).log_prob(batch[0][:, 1:, 0]).mean()


class UnshiftedChannels(ChannelsFirst):
    def step(self, batch):
        x = batch[0].transpose(1, 2)
        return F.l1_loss(self(x[..., :-1]), x[..., :-1])


class UnshiftedIntervals(Intervals):
    def step(self, batch):
        x = batch[0][:, None, :, 0]
        return F.cross_entropy(self(x), self.classes(x[:, 0]))


@pytest.mark.parametrize("program", [Unshifted, UnshiftedLikelihood, UnshiftedChannels, UnshiftedIntervals])
def test_numbers_that_are_said_again(fit, program):
    finding = judged(fit, program())
    assert (finding.status, finding.code) == (Status.WARNING, "CausalityCheck/input_is_target")


class Delayed(Series):
    """The data set asks for what was, from zeros on."""

    def step(self, batch):
        return F.mse_loss(self(batch[0]), batch[1])

    def data(self, n, seed):
        series = super().data(n, seed).tensors[0]
        return TensorDataset(series, F.pad(series, (0, 0, 1, 0))[:, :-1])


class Memory(Series):
    """Numbers without a rule, to be kept for a step."""

    def pair(self, series):
        return series[:, 1:], series[:, :-1]

    def data(self, n, seed):
        return TensorDataset(torch.randn(n, 17, 2, generator=torch.Generator().manual_seed(seed)))


class Latency(Series):
    """A codec that is given one more step before it answers."""

    def step(self, batch):
        return F.mse_loss(self(batch[0])[:, 1:], batch[0][:, :-1])


class Changes(Series):
    """How much it has changed."""

    def pair(self, series):
        return series[:, 1:], series[:, 1:] - series[:, :-1]


class DelayedClean(Series):
    def pair(self, series):
        return series[:, 1:] + 0.1 * torch.randn_like(series[:, 1:]), series[:, :-1]


class FromLater(Series):
    """Says what was from what comes, in reversed time, as the other half of two language models."""

    def pair(self, series):
        return series.flip(1)[:, :-1], series.flip(1)[:, 1:]


@pytest.mark.parametrize("program", [Delayed, Memory, Latency, Changes, DelayedClean])
def test_numbers_of_before_that_are_meant(fit, program):
    assert judged(fit, program()).status is Status.SKIPPED


def test_time_may_be_reversed(fit):
    assert judged(fit, FromLater()).status is Status.PASSED


class PairedBackwards(Series):
    """By the data set."""

    def step(self, batch):
        return F.mse_loss(self(batch[0]), batch[1])

    def data(self, n, seed):
        series = super().data(n, seed).tensors[0]
        return TensorDataset(series[:, 1:], series[:, :-1])


class BackwardsLikelihood(Likelihood):
    def step(self, batch):
        mean, log_std = self(batch[0][:, 1:]).unbind(-1)
        return -torch.distributions.Normal(mean, log_std.exp()).log_prob(batch[0][:, :-1, 0]).mean()


class BackwardsChannels(ChannelsFirst):
    def step(self, batch):
        x = batch[0].transpose(1, 2)
        return F.l1_loss(self(x[..., 1:]), x[..., :-1])


@pytest.mark.parametrize("program", [ForecastsThePast, PairedBackwards, BackwardsLikelihood, BackwardsChannels])
def test_numbers_that_were_paired_backwards(fit, program):
    finding = judged(fit, program())
    assert (finding.status, finding.code) == (Status.WARNING, ForecastsThePast.code)


# -- windows


class Window(WindowTooLong):
    """Forecasts the value after its window, or several."""

    horizon = 1

    def data(self, n, seed):
        (longer, _) = super().data(n, seed).tensors
        return TensorDataset(longer, self.targets(longer))

    def targets(self, longer):
        return torch.cat([longer[:, -1:] + 0.3 * torch.randn(len(longer), 1), *[longer[:, :1]] * (self.horizon - 1)], 1)


class LagOfTheTarget(Window):
    """The target of the step before is known, and in the window."""

    def data(self, n, seed):
        series = torch.randn(n, 14, generator=torch.Generator().manual_seed(seed))
        return TensorDataset(series[:, 1:13], series[:, 13:])


class LastOfItsInput(Window):
    """Restores the last value of its window, as detectors of anomalies do: the batch holds nothing else."""

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0]), batch[0][:, -1:])


class EndOfText(Window):
    """Nearly all are of class 0, which is also the token that each text ends with."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(48, 2))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def data(self, n, seed):
        tokens = torch.randint(1, 9, (n, 12), generator=torch.Generator().manual_seed(seed))
        tokens[:, -1] = 0
        return TensorDataset(tokens, torch.zeros(n).long())


class Table(Window):
    """No window: its columns are features, of which the last gives the target away."""

    def data(self, n, seed):
        features = torch.randn(n, 12, generator=torch.Generator().manual_seed(seed))
        return TensorDataset(features, features[:, -1:])


@pytest.mark.parametrize("program", [Window, LagOfTheTarget, LastOfItsInput, EndOfText, Table])
def test_windows_before_their_target_are_not_accused(fit, program):
    assert judged(fit, program()).status is Status.SKIPPED


class ByHandTooLong(WindowTooLong):
    def training_step(self, batch, batch_idx):
        return (self(batch[0]) - batch[1]).square().mean()


class CutTooLong(WindowTooLong):
    """The step cuts the window from a longer series."""

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0][:, 1:]), batch[0][:, -1:])

    def data(self, n, seed):
        return TensorDataset(torch.randn(n, 13, generator=torch.Generator().manual_seed(seed)).cumsum(1))


class Features(WindowTooLong):
    """Several features, of which one is forecast for several steps."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))

    def data(self, n, seed):
        series = torch.randn(n, 14, 3, generator=torch.Generator().manual_seed(seed))
        return TensorDataset(series[:, :12], series[:, 11:14, 1])


class Computed(WindowTooLong):
    """A series, and a feature that is computed of it."""

    def __init__(self, of):
        super().__init__()
        self.of = of
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(24, 1))

    def data(self, n, seed):
        y = torch.randn(n, 15, generator=torch.Generator().manual_seed(seed)).cumsum(1)
        feature = self.of(y)
        return TensorDataset(torch.stack([y[:, 2:14], feature[:, 2:14]], 2), y[:, 14:])


class InRows(Computed):
    """Channels come before steps."""

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(x.mT.contiguous(), y)


class OfTheChange(Computed):
    """What is forecast is the next change, in another unit."""

    def data(self, n, seed):
        changes = torch.randn(n, 15, generator=torch.Generator().manual_seed(seed))
        for i in range(1, 15):
            changes[:, i] += 0.7 * changes[:, i - 1]
        y = changes.cumsum(1)
        feature = self.of(y)
        return TensorDataset(torch.stack([y[:, 2:14], feature[:, 2:14]], 2), (y[:, 14:] - y[:, 13:14]) / 3)


def rolled(by):
    return lambda y: y.roll(by, 1)


@pytest.mark.parametrize(
    ("of", "told"),
    [
        (lambda y: (rolled(-1)(y) + y + rolled(1)(y)) / 3, True),
        (lambda y: (rolled(-1)(y) - rolled(1)(y)) / 2, True),
        (lambda y: (rolled(2)(y) + y + rolled(1)(y)) / 3, False),
        (lambda y: y - rolled(1)(y), False),
        (rolled(1), False),
        (lambda y: 3 * y + 1, False),
        (torch.sign, False),
        (torch.randn_like, False),
    ],
    ids=["centred mean", "central difference", "trailing mean", "difference", "lag", "unit", "sign", "another"],
)
@pytest.mark.parametrize("program", [Computed, InRows, OfTheChange])
def test_features_that_look_ahead(fit, program, of, told):
    assert judged(fit, program(of)).code == (WindowTooLong.code if told else "CausalityCheck/skipped")


class StepsAhead(WindowTooLong):
    """A window, and features of the 7 steps to forecast, one of which is computed of the series.

    Args:
        of: From series (N, 36) to the feature of each of its steps.
        restored: Whether the past is another series.

    """

    def __init__(self, of, *, restored=False):
        super().__init__()
        self.of, self.restored = of, restored
        self.past, self.net = nn.Linear(24, 4), Given(nn.Linear(4 + 14, 7))

    def training_step(self, batch, batch_idx):
        past, ahead, target = batch
        return F.mse_loss(self.net(ahead, self.past(past)), target)

    def data(self, n, seed):
        rng = torch.Generator().manual_seed(seed)
        y = torch.randn(n, 36, generator=rng).cumsum(1)
        past = torch.randn(n, 24, generator=rng).cumsum(1) if self.restored else y[:, 5:29]
        ahead = torch.stack([self.of(y)[:, 29:], torch.randn(n, 7, generator=rng)], 2)
        return TensorDataset(past, ahead, y[:, 29:])


class Given(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, ahead, past):
        return self.net(torch.cat([past, ahead.flatten(1)], 1))


class StepsAheadByHand(StepsAhead):
    def training_step(self, batch, batch_idx):
        past, ahead, target = batch
        return (self.net(ahead, self.past(past)) - target).abs().mean()


def up_to(steps):
    """The mean of the latest steps, the own one included."""
    return lambda y: torch.stack([y.roll(i, 1) for i in range(steps)]).mean(0)


@pytest.mark.parametrize(
    ("of", "told"),
    [
        (lambda y: up_to(3)(y).roll(7, 1), False),
        (rolled(7), False),
        (rolled(1), False),
        (torch.randn_like, False),
        (lambda y: torch.arange(36.0).expand_as(y) % 7, False),
        (lambda y: (torch.arange(36) % 7 == 0).float().expand_as(y), False),
        (lambda y: y + torch.randn_like(y), False),
        (up_to(3), True),
        (up_to(7), True),
        (lambda y: y - y.roll(1, 1), True),
        (lambda y: 3 * y + 1, True),
        (lambda y: (rolled(-1)(y) + y + rolled(1)(y)) / 3, True),
    ],
    ids=[
        *("earlier mean", "a week ago", "yesterday", "noise", "weekday", "monday", "measured otherwise"),
        *("mean of three", "mean of a week", "change", "other unit", "centred mean"),
    ],
)
@pytest.mark.parametrize("module", [StepsAhead, StepsAheadByHand])
def test_features_of_the_steps_to_forecast(fit, module, of, told):
    assert judged(fit, module(of)).code == (WindowTooLong.code if told else "CausalityCheck/skipped")


def test_what_is_to_be_restored_from_its_mean_is_no_forecast(fit):
    assert judged(fit, StepsAhead(up_to(3), restored=True)).status is Status.SKIPPED


class Scaled(WindowTooLong):
    """Series of several features, scaled by statistics of some steps, of which the first is forecast for some steps.

    Args:
        by: From series (N, T, C) and the length of the window to series.
        horizon: Steps to forecast.
        forecast: From series after the window to the target.
        enter: From window to what enters.

    """

    def __init__(self, by, horizon=3, forecast=lambda future: future[..., 0], enter=lambda window: window):
        super().__init__()
        self.by, self.horizon, self.forecast, self.enter = by, horizon, forecast, enter
        self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(horizon))

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0]).reshape(batch[1].shape), batch[1])

    def data(self, n, seed):
        series = torch.randn(n, 12 + self.horizon, 2, generator=torch.Generator().manual_seed(seed)).cumsum(1)
        series = self.by(5 + series, 12)
        return TensorDataset(self.enter(series[:, :12]), self.forecast(series[:, 12:]))


def standardised(series, steps):
    some = series[:, :steps]
    return (series - some.mean(1, keepdim=True)) / (some.std(1, keepdim=True) + 1e-5)


def brought_to_range(series, steps):
    low, high = (end(series[:, :steps], 1, keepdim=True) for end in (torch.amin, torch.amax))
    return (series - low) / (high - low)


BY_THE_WINDOW = {
    "standardised": lambda: Scaled(standardised),
    "brought to a range": lambda: Scaled(brought_to_range),
    "one step": lambda: Scaled(standardised, 1),
    "not at all": lambda: Scaled(lambda series, _: series),
    "as a whole": lambda: Scaled(lambda series, _: (series - series.mean()) / series.std()),
    "on and off": lambda: Scaled(lambda series, _: (series > 5).float()),
    "the window comes back": lambda: Scaled(standardised, 12, lambda future: torch.zeros_like(future[..., 0])),
}


@pytest.mark.parametrize("scaled", BY_THE_WINDOW)
def test_windows_that_are_scaled_by_themselves(fit, scaled):
    assert judged(fit, BY_THE_WINDOW[scaled]()).status is Status.SKIPPED


class Restores(Scaled):
    """An autoencoder of standardised windows."""

    def __init__(self):
        super().__init__(standardised, 0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(24, 24))

    def data(self, n, seed):
        (x, _) = super().data(n, seed).tensors
        return TensorDataset(x, x.clone())


def test_a_window_that_is_to_be_restored_is_scaled_by_itself(fit):
    assert judged(fit, Restores()).status is Status.SKIPPED


def with_what_comes(by):
    return lambda series, _: by(series, series.shape[1])


AHEAD = {
    "standardised": lambda: Scaled(with_what_comes(standardised)),
    "one step": lambda: Scaled(with_what_comes(standardised), 1),
    "brought to a range": lambda: Scaled(with_what_comes(brought_to_range)),
    "all features": lambda: AllFeatures(with_what_comes(standardised), 4, lambda future: future),
    "channels first": lambda: Scaled(with_what_comes(standardised), enter=lambda window: window.mT),
    "a single feature": lambda: Scaled(with_what_comes(standardised), enter=lambda window: window[..., 0]),
}


class AllFeatures(Scaled):
    def __init__(self, *args):
        super().__init__(*args)
        self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(8))


@pytest.mark.parametrize("scaled", AHEAD)
def test_windows_that_are_scaled_with_what_comes(fit, scaled):
    finding = judged(fit, AHEAD[scaled]())
    assert (finding.status, finding.code) == (Status.WARNING, "CausalityCheck/window_scaled_ahead")


class LastToken(EndOfText):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(48, 9))

    def data(self, n, seed):
        tokens = torch.randint(9, (n, 12), generator=torch.Generator().manual_seed(seed))
        return TensorDataset(tokens, tokens[:, -1])


@pytest.mark.parametrize("program", [WindowTooLong, ByHandTooLong, CutTooLong, Features, LastToken])
def test_windows_that_hold_their_target_are_accused(fit, program):
    finding = judged(fit, program())
    assert (finding.status, finding.code) == (Status.WARNING, WindowTooLong.code)
    assert finding.evidence["steps"] == 1


# -- states


class InOrder(CarriesState):
    def train_dataloader(self):
        return DataLoader(self.data(64, 1), 32)


class ResetBetween(CarriesState):
    def on_train_batch_end(self, *_):
        self.state = None


class InPieces(CarriesState):
    """Truncated backpropagation through the time of one batch."""

    def forward(self, tokens):
        state, said = torch.zeros(1, len(tokens), self.width), []
        for piece in tokens.split(8, 1):
            mixed, state = self.mix(self.net(piece), state.detach())
            said.append(self.head(mixed))
        self.state = state.detach()
        return torch.cat(said, 1)


class LearntStart(CarriesState):
    def __init__(self):
        super().__init__()
        self.start = nn.Parameter(torch.randn(1, 1, self.width))

    def forward(self, tokens):
        return self.head(self.mix(self.net(tokens), self.start.expand(-1, len(tokens), -1).contiguous())[0])


class FromAnEncoder(CarriesState):
    """Weights that do not change yet make the same state again."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.GRU(16, self.width, batch_first=True)

    def forward(self, tokens):
        self.state = self.encoder(self.net(tokens.flip(1)))[1].detach()
        return self.head(self.mix(self.net(tokens), self.state)[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.parametrize("program", [InOrder, ResetBetween, InPieces, LearntStart, FromAnEncoder])
def test_states_of_the_same_sequences_are_not_accused(fit, program):
    assert judged(fit, program(), max_steps=2).code != CarriesState.code


class Memory(CarriesState):
    """Something is kept of each of 32 examples, in batches of 32, and read in the next step; here, a cell's state."""

    def __init__(self):
        super().__init__()
        self.cell = nn.Linear(16 + self.width, self.width)
        self.register_buffer("memory", torch.zeros(32, self.width))

    def forward(self, tokens):
        h, said = self.begin(tokens), []
        for x in self.net(tokens).unbind(1):
            h = 0.9 * h + 0.1 * torch.tanh(self.cell(torch.cat([x, h], 1)))
            said.append(self.head(h))
        self.memory = self.keep(h.detach(), tokens)
        return torch.stack(said, 1)

    def begin(self, tokens):
        return self.memory

    def keep(self, h, tokens):
        return h


class InPlace(Memory):
    def keep(self, h, tokens):
        return self.memory.copy_(h)


class Queue(Memory):
    """Of negatives, whose order makes no difference."""

    def begin(self, tokens):
        return self.memory.mean(0).expand(len(tokens), -1)


class Prototypes(Memory):
    """One for each of 32 classes, that follow by averaging."""

    def begin(self, tokens):
        return self.memory[tokens[:, 0]]

    def keep(self, h, tokens):
        return self.memory.index_copy(0, tokens[:, 0], h)


class Table(Memory):
    """One row for each place in a batch of 32, that no step changes."""

    def __init__(self):
        super().__init__()
        self.memory.normal_()

    def keep(self, h, tokens):
        return self.memory


class Unread(Memory):
    """For a picture."""

    def begin(self, tokens):
        return torch.zeros(len(tokens), self.width)


class MixedWithLast(Memory):
    """What was stored of the batch before is mixed into this one."""

    def begin(self, tokens):
        return 0.5 * self.memory

    def keep(self, h, tokens):
        return F.one_hot(tokens[:, 0], self.width).float()


@pytest.mark.parametrize("program", [Queue, Prototypes, Table, Unread, MixedWithLast])
def test_what_is_kept_and_is_no_state_of_an_example(fit, program):
    assert judged(fit, program(), max_steps=2).code != CarriesState.code


class OfEachStage(Memory):
    """In a dictionary, and anew with the first batch of an epoch."""

    def __init__(self):
        super().__init__()
        del self.memory
        self.memory = {"train": None, "val": None}

    def training_step(self, batch, batch_idx):
        self.number = batch_idx
        return super().training_step(batch, batch_idx)

    def begin(self, tokens):
        return torch.zeros(len(tokens), self.width) if self.number == 0 else self.memory["train"]

    def keep(self, h, tokens):
        return {**self.memory, "train": h}


class AnewWithEach(OfEachStage):
    """What is left is not used: it is for those who look at it."""

    def begin(self, tokens):
        return torch.zeros(len(tokens), self.width)


def test_a_state_that_is_left_for_somebody_to_look_at(fit):
    assert judged(fit, AnewWithEach(), max_steps=2).code != CarriesState.code


@pytest.mark.parametrize("program", [Memory, InPlace, OfEachStage])
def test_a_state_by_hand_that_is_carried_over_shuffled_batches(fit, program):
    check = CausalityCheck()
    fit(program(), [check], logger=False, max_steps=1, limit_val_batches=0)
    alarms = [f for f in check.findings if f.is_alarm]
    assert [(f.status, f.code, f.subject) for f in alarms] == [(Status.WARNING, CarriesState.code, "memory")]


class CarriesBoth(CarriesState):
    """Of an LSTM within a module, which keeps it in a list."""

    def __init__(self):
        super().__init__()
        self.mix = Keeping()

    def forward(self, tokens):
        return self.head(self.mix(self.net(tokens)))


class Keeping(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.kept = nn.LSTM(16, 32, batch_first=True), []

    def forward(self, x):
        x, state = self.rnn(x, *[tuple(self.kept)] * bool(self.kept))
        self.kept = [part.detach() for part in state]
        return x


class CarriesForCells(CarriesState):
    def __init__(self):
        super().__init__()
        self.mix = nn.GRUCell(16, 32)

    def forward(self, tokens):
        x, said = self.net(tokens), []
        state = torch.zeros(len(x), 32) if self.state is None else self.state
        for t in range(x.shape[1]):
            state = self.mix(x[:, t], state)
            said.append(self.head(state))
        self.state = state.detach()
        return torch.stack(said, 1)


@pytest.mark.parametrize("program", [CarriesState, CarriesBoth, CarriesForCells])
def test_states_of_other_sequences_are_accused(fit, program):
    check = CausalityCheck()
    fit(program(), [check], logger=False, max_steps=1, limit_val_batches=0)
    carried, causal = check.findings
    assert (carried.status, carried.code) == (Status.WARNING, CarriesState.code)
    assert carried.subject == ("mix.rnn" if program is CarriesBoth else "mix")
    assert causal.status is not Status.FAILED


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_distributed_sampler_says_whether_it_shuffles(fit, shuffle):
    data, check = CarriesState().data(128, 1), CausalityCheck()
    sampler = DistributedSampler(data, num_replicas=1, rank=0, shuffle=shuffle)
    loader = DataLoader(data, 32, sampler=sampler)
    fit(CarriesState(), [check], train=loader, logger=False, max_steps=1, limit_val_batches=0)
    assert any(finding.code == CarriesState.code for finding in check.findings) == shuffle


# -- shifts


class ShiftForgottenInTheModel(Labelled):
    def step(self, batch):
        return F.cross_entropy(self.net(batch["input_ids"])["logits"].mT, batch["labels"])


class ThreeShown(ThreePlaces):
    shown = 0


@pytest.mark.parametrize(
    "program",
    [
        InputIsTarget,
        lambda: ShiftForgottenInTheModel(Recurrent(wrong=False)),
        lambda: ThreeShown(Recurrent(wrong=False)),
    ],
)
def test_inputs_that_are_the_targets_fail(fit, program):
    finding = judged(fit, program())
    assert (finding.status, finding.code) == (Status.FAILED, InputIsTarget.code)


class ShiftedInTheCollator(Labelled):
    def labels(self, tokens):
        return F.pad(tokens[:, 1:], (0, 1), value=-100)


class ShiftedTwiceInTheStep(Program):
    def step(self, batch):
        return F.cross_entropy(self(batch[0][:, :-2]).mT, batch[0][:, 2:])


@pytest.mark.parametrize(
    ("program", "status"),
    [
        (ShiftedTwice, Status.FAILED),
        (ShiftedByTheDataToo, Status.FAILED),
        (lambda: ShiftedInTheCollator(Encoder(wrong=False)), Status.FAILED),
        (lambda: ShiftedTwiceInTheStep(Convolution(wrong=False)), Status.WARNING),
    ],
)
def test_labels_that_are_shifted_twice_are_accused(fit, program, status):
    finding = judged(fit, program())
    assert (finding.status, finding.code) == (status, ShiftedTwice.code)


class Rolled(Echo):
    """The data set rolls its labels to the right."""

    def data(self, n, seed):
        rows, _ = super().data(n, seed).tensors
        return TensorDataset(rows, rows.roll(1, 1))


@pytest.mark.parametrize("program", [WrongWay, lambda: Rolled(Encoder(wrong=False))])
def test_labels_that_are_shifted_the_wrong_way_are_accused(fit, program):
    finding = judged(fit, program())
    assert (finding.status, finding.code) == (Status.WARNING, WrongWay.code)


# -- what is found


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_that_see_what_comes_next_fail(fit, network):
    finding = judged(fit, Program(network(wrong=True)))
    assert (finding.status, finding.code) == (Status.FAILED, SeesFuture.code)
    assert finding.subject == f"net.mixer.{network.begins}".rstrip(".")


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_that_see_what_comes_next_fail(fit, program):
    finding = judged(fit, program(Encoder(wrong=True)))
    assert (finding.status, finding.code) == (Status.FAILED, SeesFuture.code)
    assert finding.subject == "net.mixer.encoder.layers.0.self_attn"
    assert finding.evidence["strength"] > 0.01


def test_a_mask_that_is_off_by_one_reaches_one_ahead(fit):
    assert judged(fit, Program(ByHand(wrong=True))).evidence["reach"] == 1
    assert judged(fit, Program(Encoder(wrong=True))).evidence["reach"] == 15


# -- by demand


@pytest.mark.parametrize(("program", "status"), [(Tagging, Status.FAILED), (Restored, Status.FAILED)])
def test_outputs_must_not_see_what_comes_later_where_that_is_asked_for(fit, program, status):
    module = program(wrong=True) if program is Restored else program(Encoder(wrong=True))
    assert judged(fit, module, CausalityCheck(causal=True)).status is status


def test_causal_outputs_pass_whatever_their_targets_are(fit):
    assert judged(fit, Tagging(Encoder(wrong=False)), CausalityCheck(causal=True)).status is Status.PASSED


def test_the_dependencies_are_drawn(fit, events):
    check = CausalityCheck()
    trainer = fit(Program(Encoder(wrong=True)), [check], max_steps=1)
    assert check.tag("dependencies over time") in events(trainer).Tags()["images"]
