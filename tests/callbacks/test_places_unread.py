"""Networks that make use of what stands at the places of a sequence, or leave it out on purpose, first."""

import pytest
import torch
from patients import CLASSES, FEATURES, FirstForLast, ReachesNotFar
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe import InputIndependenceCheck, Status

LONG = FEATURES


def found(fit, module):
    check = InputIndependenceCheck()
    fit(module, [check], logger=False, max_epochs=2)
    return [(f.status, f.code, f.subject) for f in check.findings]


class Last(FirstForLast):
    def forward(self, x):
        return self.net(self.rnn(x)[0][:, -1])


class BothWays(FirstForLast):
    """The first place has seen the others by what comes back."""

    def __init__(self):
        super().__init__()
        self.rnn, self.net = nn.GRU(1, 8, batch_first=True, bidirectional=True), nn.Linear(16, CLASSES)


class Attending(FirstForLast):
    """The first token looks at all."""

    def __init__(self):
        super().__init__()
        self.enter, self.places = nn.Linear(1, 16), nn.Parameter(torch.randn(LONG, 16))
        self.mix = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)

    def forward(self, x):
        return self.net(self.mix(self.enter(x) + self.places)[:, 0])


class Cut(FirstForLast):
    """What comes later is left out before anything is computed."""

    def forward(self, x):
        return self.net(self.rnn(x[:, :3])[0][:, -1])


class Context(FirstForLast):
    """The first places are told, those that come later are to be said, and are hidden by the network itself."""

    told = 4

    def __init__(self):
        super().__init__()
        self.enter, self.net = nn.Linear(2, 16), nn.Linear(17, 1)

    def forward(self, x):
        at = torch.linspace(0, 1, x.shape[1])[:, None].expand(len(x), -1, 1)
        told = torch.arange(x.shape[1])[:, None] < self.told
        code = (self.enter(torch.cat([at, x.where(told, 0)], 2)).relu() * told).sum(1, keepdim=True)
        return self.net(torch.cat([code.expand(-1, x.shape[1], -1), at], 2))

    def training_step(self, batch, batch_idx):
        return (self(batch[0]) - batch[0])[:, self.told :].square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))


class OfAnother(FirstForLast):
    """Vectors of tokens that another network made: the first stands for the text."""

    def __init__(self):
        super().__init__()
        self.rnn, self.net = nn.Identity(), nn.Linear(1, CLASSES)

    def forward(self, x):
        return self.net(x[:, 0])


class Hidden(FirstForLast):
    """A mask in the batch says what is known, as of the past where the future is to be told."""

    def forward(self, x, known):
        return self.net(self.rnn(x * known)[0].mul(known).sum(1))

    def training_step(self, batch, batch_idx):
        x, known, y = batch
        return self.loss(self(x, known), y)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(x, (torch.arange(LONG) < 5).float()[:, None].expand(n, LONG, 1), y)


class HiddenInside(FirstForLast):
    """The mask is a channel."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(2, 16, batch_first=True)

    def forward(self, x):
        known = x[..., 1:]
        return self.net(self.rnn(x * known)[0].mul(known).sum(1))

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        known = (torch.arange(LONG) < 5).float()[:, None].expand(n, LONG, 1)
        return TensorDataset(torch.cat([x, known], 2), y)


class Lengths(FirstForLast):
    """Behind the end stands whatever was in memory."""

    def forward(self, x, lengths):
        return self.net(self.rnn(x)[0][torch.arange(len(x)), lengths - 1])

    def training_step(self, batch, batch_idx):
        x, lengths, y = batch
        return self.loss(self(x, lengths), y)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(x, 3 + torch.arange(n) % 4, y)


class Padded(Last):
    """Most are short, and what follows is the same in all."""

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(torch.cat([x[:, :7], torch.zeros(n, 9, 1)], 1), y)

    def forward(self, x):
        return self.net(self.rnn(x)[0][:, 6])


class Window(FirstForLast):
    """What stands in the middle is to be told from its neighbours."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.Sequential(nn.Conv1d(1, 16, 3), nn.ReLU())

    def forward(self, x):
        return self.net(self.rnn(x.transpose(1, 2))[..., LONG // 2 - 1])


class Visible(FirstForLast):
    """A masked autoencoder: other places are seen in each step."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(1, 16)

    def forward(self, x):
        seen = torch.rand(x.shape[:2]).argsort(1)[:, :4]
        return self.net(self.enter(x).gather(1, seen[..., None].expand(-1, -1, 16)).mean(1))


class Table(FirstForLast):
    """Columns are no places."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(LONG, CLASSES)
        self.net.weight.data[:, 3:] = 0
        self.net.weight.register_hook(lambda gradient: gradient * (torch.arange(LONG) < 3))

    def forward(self, x):
        return self.net(x[..., 0])


class Untrained(FirstForLast):
    """Nothing comes out yet."""

    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.net.weight)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


HEALTHY = [
    Last,
    BothWays,
    Attending,
    Cut,
    Context,
    OfAnother,
    Hidden,
    HiddenInside,
    Lengths,
    Padded,
    Window,
    Visible,
    Table,
]


@pytest.mark.parametrize("program", [*HEALTHY, Untrained])
def test_what_is_used_or_left_out_on_purpose(fit, program):
    assert not [code for _, code, _ in found(fit, program()) if "places" in code]


class TimeFirst(FirstForLast):
    """The places come first."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(1, 16)

    def forward(self, x):
        return self.net(self.rnn(x)[0][0])

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self(x.transpose(0, 1)), y)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))


class Causal(Attending):
    """The first token looks at itself alone."""

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(LONG)
        return self.net(self.mix(self.enter(x) + self.places, mask, is_causal=True)[:, 0])


class Tokens(FirstForLast):
    def __init__(self):
        super().__init__()
        self.words, self.rnn = nn.Embedding(9, 16), nn.LSTM(16, 16, batch_first=True)

    def forward(self, x):
        return self.net(self.rnn(self.words(x))[0][:, 0])

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset((2 * x[..., 0]).round().clamp(-4, 4).long() + 4, y)


class EndsEarly(FirstForLast):
    """A loop over places that returns within it."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(1, 16)

    def forward(self, x):
        state = None
        for value in x.unbind(1):
            state = self.cell(value, state)
            break
        return self.net(state)


class Frames(FirstForLast):
    """Pictures go through a convolution one after the other."""

    def __init__(self):
        super().__init__()
        self.look, self.rnn = nn.Conv2d(1, 4, 3), nn.GRU(4, 16, batch_first=True)

    def forward(self, x):
        frames = self.look(x.flatten(0, 1)).mean((2, 3)).view(*x.shape[:2], 4)
        return self.net(self.rnn(frames)[0][:, 0])

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(x[..., None, None].expand(n, LONG, 1, 5, 5).clone(), y)


@pytest.mark.parametrize("program", [FirstForLast, TimeFirst, Causal, Tokens, EndsEarly, Frames])
def test_the_first_place_is_taken_for_the_last(fit, program):
    assert found(fit, program()) == [(Status.WARNING, FirstForLast.code, "x")]


def test_how_many_are_without_effect(fit):
    check = InputIndependenceCheck()
    fit(FirstForLast(), [check], logger=False, max_epochs=2)
    assert check.findings[0].evidence == {"places": LONG, "without_effect": LONG - 1}


def test_what_is_out_of_reach(fit):
    assert found(fit, ReachesNotFar()) == [(Status.ADVICE, ReachesNotFar.code, "x")]


def test_a_small_last_batch_is_no_obstacle(fit):
    class Few(FirstForLast):
        def val_dataloader(self):
            return DataLoader(self.data(3, 2), 3)

    assert not [code for _, code, _ in found(fit, Few()) if code == FirstForLast.code]
