"""A healthy module, and one subclass for each disease."""

import copy
import os
import random
from typing import ClassVar

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, random_split
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

CLASSES, FEATURES = 4, 12


class Healthy(L.LightningModule):
    """Classifies noisy patterns; has what disturbs easily: dropout, BatchNorm, a metric, a scheduler, shuffling."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(FEATURES, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, CLASSES)
        )
        self.accuracy = MulticlassAccuracy(CLASSES)

    def forward(self, x):
        return self.net(x)

    def loss(self, logits, y):
        return F.cross_entropy(logits, y)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        loss = self.loss(logits, y)
        self.accuracy.update(logits, y)  # a value for each step takes a third of its time
        self.log("train_loss", loss)
        self.log("train_accuracy", self.accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", self.loss(self(x), y))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=3e-3)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.9)]

    def data(self, n, seed):
        rng = torch.Generator().manual_seed(seed)
        centres = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(0))
        y = torch.arange(n) % CLASSES
        return TensorDataset(centres[y] + 0.7 * torch.randn(n, FEATURES, generator=rng), y)

    def train_dataloader(self):
        return DataLoader(self.data(256, 1), 32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.data(64, 2), 32)


class Patient(Healthy):
    """Has one disease.

    Attributes:
        code: The finding, an alarm or advice, that names the cause.
        also: The codes of other alarms, which may see the same mistake.
        steps: How long the Trainer has to train for it to show.
        trial_steps: Those of OverfitOneBatch's fits: few are enough for modules so small.

    """

    code = ""
    also: tuple[str, ...] = ()
    steps: ClassVar = {"max_epochs": 2}
    trial_steps = 100


# -- the first loss


class InitTooLarge(Patient):
    """The output layer was drawn with a standard deviation of 30."""

    code = "InitLossCheck/too_high"

    def __init__(self):
        super().__init__()
        nn.init.normal_(self.net[-1].weight, std=30)


class Leaking(Patient):
    """The labels are among the inputs, and a connection past the network carries them."""

    code = "InitLossCheck/too_low"

    def forward(self, x):
        return self.net(x[:, :FEATURES]) + 5 * x[:, FEATURES:]

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(torch.cat([x, F.one_hot(y, CLASSES)], 1), y)


class Uncentred(Patient):
    """Numbers around 300, with a standard deviation of 5, and nobody set the output's bias."""

    code = "InitLossCheck/output_bias"
    trial_steps = 150
    also = ("OverfitOneBatch/too_slow",)
    mean, std = 300.0, 5.0

    def __init__(self):
        super().__init__()
        self.net[-1] = nn.Linear(32, 1)

    def forward(self, x):
        return self.net(x)[:, 0]

    def loss(self, out, y):
        return F.mse_loss(out, y)

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])

    def data(self, n, seed):
        x, _ = super().data(n, seed).tensors
        return TensorDataset(x, self.mean + self.std * x[:, 0])


class UncentredALittle(Uncentred):
    """A mean of three standard deviations: training makes up for it within its first steps."""

    also = ()
    mean, std = 3.0, 1.0


class MissingInput(Patient):
    """A feature of the first example is missing."""

    code = "InitLossCheck/not_finite"
    also = ("FirstNonFinite/inputs",)

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        x[0, 0] = torch.nan
        return TensorDataset(x, y)

    def train_dataloader(self):
        return DataLoader(self.data(256, 1), 32)


# -- one batch that can't be memorised


class Clipped(Patient):
    """The loss is clipped where the gradients should be."""

    code = "OverfitOneBatch/no_gradient"
    also = ("LossClipCheck/clipped",)

    def loss(self, logits, y):
        return super().loss(logits, y).clamp(max=0.5)


class Overwritten(Patient):
    """All inputs are zeros."""

    code = "OverfitOneBatch/cannot_tell_examples_apart"
    also = (
        "BatchMixingDetector/constant_output",
        "InputIndependenceCheck/input_ignored",
        "NormalizationCheck/all_alike",
    )

    def forward(self, x):
        return super().forward(torch.zeros_like(x))


class SlowSteps(Patient):
    code = "OverfitOneBatch/optimiser_slow"

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class TinySteps(Patient):
    code = "OverfitOneBatch/learning_rate_too_low"

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-7)


class HugeSteps(Patient):
    code = "OverfitOneBatch/optimiser_unstable"
    also = ("PredictionDynamicsLogger/not_finite", "FirstNonFinite/diverged")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e4)


class OfACopy(Patient):
    """The optimiser was given the parameters of a copy."""

    code = "OverfitOneBatch/parameters_left_out"

    def configure_optimizers(self):
        return torch.optim.Adam(copy.deepcopy(self.net).parameters())


class Stepless(Patient):
    """Optimises by hand, and forgets the step."""

    code = "OverfitOneBatch/weights_do_not_change"
    also = ("LRScheduleCheck/never_stepped",)
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.manual_backward(super().training_step(batch, batch_idx))


class TinyInputs(Patient):
    """Inputs in a unit in which they are small, and nothing that scales them."""

    code = "OverfitOneBatch/too_slow"

    def __init__(self):
        super().__init__()
        self.net[1] = nn.Identity()

    def forward(self, x):
        return super().forward(0.01 * x)


# -- what enters the loss


class Softmax(Patient):
    """The network's last operation is a softmax, and cross entropy applies another one."""

    code = "LossInputCheck/probabilities"
    also = ("OverfitOneBatch/stuck", "OverfitOneBatch/too_slow")

    def loss(self, logits, y):
        return F.cross_entropy(logits.softmax(1), y)


class SigmoidTwice(Patient):
    code = "LossInputCheck/probabilities"
    also = ("OverfitOneBatch/stuck", "OverfitOneBatch/too_slow")

    def loss(self, logits, y):
        return F.binary_cross_entropy_with_logits(logits.sigmoid(), F.one_hot(y, CLASSES).float())


class SoftmaxOfSeveralLabels(Patient):
    """Each example has two labels, and probabilities that sum to one."""

    code = "LossInputCheck/out_of_range"
    also = ("OverfitOneBatch/stuck", "OverfitOneBatch/too_slow")

    def loss(self, logits, y):
        labels = F.one_hot(y, CLASSES) + F.one_hot((y + 1) % CLASSES, CLASSES)
        return F.binary_cross_entropy(logits.softmax(1), labels.float())


class TimesTemperature(Patient):
    """Cosines with the weights of the classes are multiplied with a temperature, by which they should be divided."""

    code = "LossInputCheck/logits_too_close"
    also = ("OverfitOneBatch/stuck", "OverfitOneBatch/too_slow")

    def forward(self, x):
        return 0.07 * F.linear(F.normalize(self.net[:-1](x)), F.normalize(self.net[-1].weight))


class TargetMasked(Patient):
    """A mask is 1 where it should be 0, so that the logit of each target is left out."""

    code = "LossInputCheck/target_masked"
    also = ("InitLossCheck/too_high", "OverfitOneBatch/stuck", "OverfitOneBatch/too_slow")

    def loss(self, logits, y):
        return F.cross_entropy(logits.masked_fill(F.one_hot(y, CLASSES).bool(), -1e4), y)


class NotLogarithms(Patient):
    code = "LossInputCheck/logits_as_probabilities"
    also = ("OverfitOneBatch/stuck", "OverfitOneBatch/too_slow")

    def loss(self, logits, y):
        return F.nll_loss(logits, y)


class Broadcast(Patient):
    """Predictions (N, 1) against targets (N,)."""

    code = "LossInputCheck/broadcast"
    also = ("OverfitOneBatch/stuck", "OverfitOneBatch/too_slow", "OverfitOneBatch/cannot_tell_examples_apart")

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0])[:, :1], batch[1] - 1.5)


class BroadcastTogether(Patient):
    """A bias (N, 1) for each example is added to a score (N,), and both to the scores of all others."""

    code = "LossInputCheck/broadcast"
    also = ("OverfitOneBatch/stuck", "OverfitOneBatch/too_slow", "OverfitOneBatch/cannot_tell_examples_apart")

    def __init__(self):
        super().__init__()
        self.bias = nn.Linear(FEATURES, 1)

    def forward(self, x):
        return super().forward(x)[:, 0] + self.bias(x)

    def training_step(self, batch, batch_idx):
        return (self(batch[0]) - (batch[1] - 1.5)).square().mean()

    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)


class OnlyPositive(Patient):
    """A ReLU at the end, and targets below 0."""

    code = "LossInputCheck/out_of_range"
    also = ("OverfitOneBatch/stuck",)

    def forward(self, x):
        return super().forward(x)[:, 0].relu()

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0]), batch[1] - 1.5)

    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)


class OverExamples(Patient):
    """A log-softmax over the examples of the batch."""

    code = "LossInputCheck/classes_in_wrong_dimension"
    also = ("OverfitOneBatch/too_slow",)

    def loss(self, logits, y):
        return F.nll_loss(logits.log_softmax(0), y)


class SoftmaxOfOne(Patient):
    """A softmax over a single output."""

    code = "LossInputCheck/constant_loss"
    also = ("OverfitOneBatch/no_gradient", "OverfitOneBatch/stuck", "InitLossCheck/too_high")

    def loss(self, logits, y):
        return F.binary_cross_entropy(logits[:, :1].softmax(1)[:, 0], (y > 1).float())


class OneClass(Patient):
    """Yes or no as the only class of a cross entropy."""

    code = "LossInputCheck/constant_loss"

    def loss(self, logits, y):
        return F.cross_entropy(logits[:, :1], torch.zeros_like(y))


class Interchanged(Patient):
    """The arguments of kl_div in each other's place."""

    code = "LossInputCheck/kl_arguments_interchanged"
    also = ("InitLossCheck/not_finite", "FirstNonFinite/diverged", "PredictionDynamicsLogger/not_finite")

    def loss(self, logits, y):
        return F.kl_div(F.one_hot(y, CLASSES).float(), logits.log_softmax(1), reduction="batchmean")


class LogarithmsAsTarget(Patient):
    """Logarithms as targets, and log_target left as it was."""

    code = "LossInputCheck/logarithms_as_target"
    also = ("InitLossCheck/not_finite", "FirstNonFinite/loss_only", "PredictionDynamicsLogger/not_finite")

    def loss(self, logits, y):
        target = F.one_hot(y, CLASSES).float().log_softmax(1)
        return F.kl_div(logits.log_softmax(1), target, reduction="batchmean")


class Uneven(Patient):
    """Half of the examples are of one class."""

    def data(self, n, seed):
        x, y = super().data(2 * n, seed).tensors
        kept = (y == 0) | (torch.arange(2 * n) % 12 < CLASSES)
        return TensorDataset(x[kept][:n], y[kept][:n])


class FrequentCountMore(Uneven):
    """Class weights that are the frequencies in place of their inverse."""

    code = "LossInputCheck/weights_grow_with_frequency"

    def loss(self, logits, y):
        return F.cross_entropy(logits, y, weight=torch.tensor([3.0, 1.0, 1.0, 1.0]))


class OneClassIgnored(Patient):
    """The ignore_index of padding, where class 0 is a class."""

    code = "LossInputCheck/ignore_index_is_a_class"

    def loss(self, logits, y):
        return F.cross_entropy(logits, y, ignore_index=0)


class NumbersOfClasses(Patient):
    """Each of the outputs is to be the number of the class."""

    code = "LossInputCheck/labels_as_numbers"

    def loss(self, logits, y):
        return F.mse_loss(logits, y[:, None].float())


class SameTarget(Patient):
    """All labels of the data set are 1."""

    code = "LossInputCheck/target_constant"

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(x, torch.ones_like(y))


class FilledIn(Patient):
    """Answers to several questions, half of which were not asked and are 0; the loss asks for none of them."""

    code = "LossInputCheck/entry_never_read"

    def loss(self, logits, y):
        return F.binary_cross_entropy_with_logits(logits, y)

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def data(self, n, seed):
        x, _ = super().data(n, seed).tensors
        asked = torch.rand(n, CLASSES, generator=torch.Generator().manual_seed(seed)) < 0.5
        return TensorDataset(x, (x[:, :CLASSES] > 0).float() * asked, asked.float())


class PaddingLearnt(Patient):
    """Continues sequences of different lengths, and the zeros at their ends, too."""

    code = "LossInputCheck/padding_scored"

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Embedding(9, 16), nn.Linear(16, 9))

    def training_step(self, batch, batch_idx):
        x = batch[0]
        return F.cross_entropy(self(x[:, :-1]).transpose(1, 2), x[:, 1:])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def data(self, n, seed):
        rng = torch.Generator().manual_seed(seed)
        first, step = (torch.randint(1, 9, (n, 1), generator=rng) for _ in range(2))
        length, place = torch.randint(2, 9, (n, 1), generator=rng), torch.arange(10)
        noise = torch.randint(8, (n, 10), generator=rng) * (torch.rand(n, 10, generator=rng) < 0.3)
        return TensorDataset(((first + step * place + noise) % 8 + 1).masked_fill(place >= length, 0))


# -- the path of the predictions


class Unlearnable(Patient):
    """Random labels, and no running statistics, which move predictions whatever the weights do."""

    steps: ClassVar = {"max_steps": 240, "max_epochs": -1}

    def __init__(self):
        super().__init__()
        self.net[1] = nn.Identity()

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(x, y[torch.randperm(n, generator=torch.Generator().manual_seed(seed))])


class Jumping(Unlearnable):
    code = "PredictionDynamicsLogger/jumping"
    also = (
        "OverfitOneBatch/optimiser_unstable",
        "OverfitOneBatch/optimiser_slow",
        "UpdateRatioMonitor/too_large",
    )

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=10.0)


class DecaysAtOnce(Unlearnable):
    """The learning rate is practically 0 from the second step on."""

    code = "PredictionDynamicsLogger/frozen"
    also = ("LRScheduleCheck/practically_zero",)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 1e-4)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Decayed(Unlearnable):
    """The weights decay faster than they learn."""

    code = "PredictionDynamicsLogger/collapsed"
    also = ("UpdateRatioMonitor/weight_decay_outweighs",)

    def __init__(self):
        super().__init__()
        nn.init.normal_(self.net[-1].weight, std=0.05)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, weight_decay=3.0)


class MissingLater(Patient):
    """A feature of an example of the third batch is missing."""

    code = "PredictionDynamicsLogger/not_finite"
    also = ("FirstNonFinite/inputs",)

    def train_dataloader(self):
        x, y = self.data(256, 1).tensors
        x[80, 0] = torch.nan
        return DataLoader(TensorDataset(x, y), 32)


# -- examples that depend on each other


class ViewForPermute(Patient):
    """Features come first for a moment, and a view puts them back in the wrong order."""

    code = "BatchMixingDetector/mixes"

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(FEATURES, 32), nn.Linear(32, CLASSES)

    def forward(self, x):
        return self.leave(self.enter(x).relu().T.reshape(len(x), 32))


class PositionsAlongBatch(Patient):
    """Positions made for (time, batch, features) are added to (batch, time, features)."""

    code = "BatchMixingDetector/depends_on_place"

    def __init__(self):
        super().__init__()
        self.enter, self.positions = nn.Linear(FEATURES, 4 * 8), Positions()

    def forward(self, x):
        return self.net(self.positions(self.enter(x).view(-1, 4, 8)).flatten(1)[:, :FEATURES])


class Positions(nn.Module):
    """For time first."""

    def __init__(self):
        super().__init__()
        self.register_buffer("values", torch.linspace(-1, 1, 512).view(-1, 1, 1))

    def forward(self, x):
        return x + self.values[: len(x)]


class EdgesWithoutOffset(Patient):
    """Graphs are put into a batch, and the edges of each go on counting its nodes from 0."""

    code = "BatchMixingDetector/edges_without_offset"
    offset = False

    def forward(self, x, edges, owner):
        h = x.index_add(0, edges[1], x[edges[0]]) / 2
        count = int(owner[-1]) + 1
        return self.net(h.new_zeros(count, FEATURES).index_add(0, owner, h) / owner.bincount()[:, None])

    def training_step(self, batch, batch_idx):
        return self.loss(self(*batch[:3]), batch[3])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx), batch_size=len(batch[3]))

    def train_dataloader(self):
        return DataLoader(self.graphs(256, 1), 32, shuffle=True, collate_fn=self.together)

    def val_dataloader(self):
        return DataLoader(self.graphs(64, 2), 32, collate_fn=self.together)

    def graphs(self, n, seed):
        """Rings of 5 to 9 nodes with both directions, each node with a noisy pattern of the graph's class."""
        rng = torch.Generator().manual_seed(seed)
        centres = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(0))
        sizes = torch.randint(5, 10, (n,), generator=rng).tolist()
        rings = [torch.stack([torch.arange(size), (torch.arange(size) + 1) % size]) for size in sizes]
        return [
            (centres[i % CLASSES] + torch.randn(size, FEATURES, generator=rng), torch.cat([ring, ring.flip(0)], 1), i)
            for i, (size, ring) in enumerate(zip(sizes, rings, strict=True))
        ]

    def together(self, graphs):
        sizes = torch.tensor([len(x) for x, _, _ in graphs])
        starts = (sizes.cumsum(0) - sizes) * self.offset
        edges = [edges + start for (_, edges, _), start in zip(graphs, starts, strict=True)]
        owner = torch.arange(len(graphs)).repeat_interleave(sizes)
        y = torch.tensor([i % CLASSES for _, _, i in graphs])
        return torch.cat([x for x, _, _ in graphs]), torch.cat(edges, 1), owner, y


class Unused(Patient):
    """The network's result is multiplied by zero, on its way to a layer that learns a constant."""

    code = "BatchMixingDetector/constant_output"
    also = (
        "OverfitOneBatch/cannot_tell_examples_apart",
        "GradientFlowCheck/no_gradient",
        "InputIndependenceCheck/input_ignored",
    )

    def forward(self, x):
        return self.net[4](0 * self.net[:4](x).detach())


# -- what comes next


class SaysNext(Patient):
    """Says which token comes next; it follows from the one before, as a rule."""

    tokens, positions, width = 9, 17, 32
    bidirectional = False

    def __init__(self):
        super().__init__()
        self.net = nn.Embedding(self.tokens, 16)
        self.mix = nn.GRU(16, self.width, batch_first=True, bidirectional=self.bidirectional)
        self.head = nn.Linear(self.width * (1 + self.bidirectional), self.tokens)

    def forward(self, tokens):
        return self.head(self.mix(self.net(tokens))[0])

    def pair(self, rows):
        return rows[:, :-1], rows[:, 1:]

    def step(self, batch):
        tokens, targets = self.pair(batch[0])
        return F.cross_entropy(self(tokens).flatten(0, 1), targets.flatten())

    def training_step(self, batch, batch_idx):
        return self.step(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.step(batch))

    def data(self, n, seed):
        rng = torch.Generator().manual_seed(seed)
        rows = torch.randint(self.tokens, (n, self.positions), generator=rng)
        for t in range(1, self.positions):
            follows = torch.rand(n, generator=rng) < 0.8
            rows[:, t] = torch.where(follows, (2 * rows[:, t - 1] + 1) % self.tokens, rows[:, t])
        return TensorDataset(rows)


class SeesFuture(SaysNext):
    """A language model with a bidirectional layer: each output knows the token that it is to say."""

    code = "CausalityCheck/sees_future"
    bidirectional = True


class InputIsTarget(SaysNext):
    """Inputs that begin one token too late, and are the targets."""

    code = "CausalityCheck/input_is_target"

    def pair(self, rows):
        return rows[:, 1:], rows[:, 1:]


class ShiftedTwice(SaysNext):
    """Labels that the data set has shifted already."""

    code = "CausalityCheck/shifted_twice"

    def step(self, batch):
        tokens, labels = batch
        return F.cross_entropy(self(tokens)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    def data(self, n, seed):
        (rows,) = super().data(n, seed).tensors
        return TensorDataset(rows[:, :-1], rows[:, 1:])


class WrongWay(SaysNext):
    """Outputs and tokens that are cut at the wrong ends."""

    code = "CausalityCheck/wrong_way"

    def step(self, batch):
        return F.cross_entropy(self(batch[0])[:, 1:].flatten(0, 1), batch[0][:, :-1].flatten())


class ForecastsThePast(SaysNext):
    """Forecasts of a series whose windows and targets are interchanged: each is to say what it has seen before."""

    code = "CausalityCheck/wrong_way"

    def __init__(self):
        super().__init__()
        self.net, self.head = nn.Linear(2, 16), nn.Linear(self.width, 2)

    def step(self, batch):
        return F.mse_loss(self(batch[0][:, 1:]), batch[0][:, :-1])

    def data(self, n, seed):
        rng = torch.Generator().manual_seed(seed)
        time = torch.arange(self.positions).view(-1, 1) / torch.tensor([2.0, 3.0])
        phase = 6.3 * torch.rand(n, 1, 2, generator=rng) + time
        return TensorDataset(phase.sin() + 0.1 * torch.randn(phase.shape, generator=rng))


class CarriesState(SaysNext):
    """A recurrent state that is kept from batch to batch, of texts that are shuffled."""

    code = "CausalityCheck/state_over_shuffled_batches"
    state = None

    def forward(self, tokens):
        kept = self.state is not None and self.training
        mixed, state = self.mix(self.net(tokens), self.state if kept else None)
        if self.training:
            self.state = state.detach()
        return self.head(mixed)


class WindowTooLong(Patient):
    """A window of a series that ends with the value to forecast."""

    code = "CausalityCheck/window_holds_value"

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 1))

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.mse_loss(self(batch[0]), batch[1]))

    def data(self, n, seed):
        rng = torch.Generator().manual_seed(seed)
        series = torch.sin(6.3 * torch.rand(n, 1, generator=rng) + torch.arange(13) / 2)
        series += 0.1 * torch.randn(series.shape, generator=rng)
        return TensorDataset(series[:, 1:], series[:, -1:])


class ScaledAhead(WindowTooLong):
    """Each window is standardised together with the value to forecast."""

    code = "CausalityCheck/window_scaled_ahead"

    def data(self, n, seed):
        series, _ = super().data(n, seed).tensors
        series = torch.cat([series, super().data(n, seed + 100).tensors[1]], 1)
        series = (series - series.mean(1, keepdim=True)) / series.std(1, keepdim=True)
        return TensorDataset(series[:, :-1], series[:, -1:])


# -- modes


class StaysInEval(Patient):
    """A look at some predictions before training, in eval mode, in which all stays."""

    code = "ModeCheck/eval_in_training"

    def on_train_start(self):
        self.eval()
        with torch.no_grad():
            self.preview = self(torch.zeros(2, FEATURES, device=self.device))


class TrainsInValidation(Patient):
    """The method that trains and validates calls train()."""

    code = "ModeCheck/train_in_validation"

    def validation_step(self, batch, batch_idx):
        self.train()
        super().validation_step(batch, batch_idx)


class EvaluatesByHand(Patient):
    """Scores held-out examples at the end of each epoch, and forgets eval()."""

    code = "ModeCheck/train_between_epochs"
    steps: ClassVar = {"max_epochs": 8}

    @torch.no_grad()
    def on_train_epoch_end(self):
        held_out = DataLoader(self.data(64, 3), 16)
        right = [(self(x.to(self.device)).argmax(1) == y.to(self.device)).float().mean() for x, y in held_out]
        self.log("test_accuracy", torch.stack(right).mean())


class AlwaysDropping(Patient):
    """Dropout as a function, which drops in validation too unless it is told not to."""

    code = "ModeCheck/dropout_in_validation"

    def forward(self, x):
        return self.net[4](F.dropout(self.net[:3](x), 0.2))


class NotRescaled(Patient):
    """Dropout by hand that multiplies by a mask, and forgets to divide by the share that it keeps."""

    code = "ModeCheck/dropout_not_scaled"

    def __init__(self):
        super().__init__()
        self.net[3] = nn.Identity()

    def forward(self, x):
        h = self.net[:3](x)
        return self.net[4](h * (torch.rand_like(h) < 0.5) if self.training else h)


class AveragedWithoutBuffers(Patient):
    """An average of the weights is what is validated, and nobody copies the statistics of its BatchNorm."""

    code = "ModeCheck/statistics_never_updated"

    def __init__(self):
        super().__init__()
        self.average = [copy.deepcopy(self.net).requires_grad_(requires_grad=False).eval()]  # not saved

    @torch.no_grad()
    def on_train_batch_end(self, *_):
        for mine, theirs in zip(self.average[0].parameters(), self.net.parameters(), strict=True):
            mine.lerp_(theirs, 0.1)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(self.average[0](batch[0]), batch[1]))


class HastyStatistics(Patient):
    """A momentum of 0.99, as Keras has it, where torch means the share of the new batch."""

    code = "ModeCheck/momentum_too_high"

    def __init__(self):
        super().__init__()
        self.net[1].momentum = 0.99


class FrozenButTraining(Patient):
    """A pretrained network is frozen; its BatchNorm goes on to take statistics, of other data."""

    code = "ModeCheck/frozen_drifts"
    steps: ClassVar = {"max_epochs": 3}

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU())
        self.backbone(3 * torch.randn(256, FEATURES) + 2)
        self.backbone.requires_grad_(requires_grad=False)

    def forward(self, x):
        return self.net(self.backbone(x))


class MostlyDropped(Patient):
    """Dropout is given the share that is to be kept."""

    code = "ModeCheck/dropout_too_strong"
    steps: ClassVar = {"max_epochs": 20}

    def __init__(self):
        super().__init__()
        self.net[3] = nn.Dropout(0.95)


class StatisticsOfOthers(Patient):
    """Every other batch is of other units, so that running statistics fit none."""

    code = "ModeCheck/statistics_do_not_fit"
    steps: ClassVar = {"max_epochs": 20}

    def training_step(self, batch, batch_idx):
        x, y = batch
        return super().training_step((50 * x if batch_idx % 2 else x, y), batch_idx)


# -- gradients


class NeverCleared(Patient):
    """Optimises by hand, without zero_grad()."""

    code = "StaleGradientCheck/missing_zero_grad"
    automatic_optimization = False

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)  # without a schedule, which nobody would step

    def training_step(self, batch, batch_idx):
        self.manual_backward(super().training_step(batch, batch_idx))
        self.optimizers().step()


class ClearedTooSoon(NeverCleared):
    """Optimises by hand, and calls zero_grad() between backward and the step."""

    code = "StaleGradientCheck/cleared_before_step"
    also = ("OverfitOneBatch/no_gradient",)

    def training_step(self, batch, batch_idx):
        self.manual_backward(Patient.training_step(self, batch, batch_idx))
        self.optimizers().zero_grad()
        self.optimizers().step()


class ForeignGradient(NeverCleared):
    """An adversary guesses what the features were. The network's loss leaves its own in it, and it clears too soon."""

    code = "StaleGradientCheck/foreign_gradient"

    def __init__(self):
        super().__init__()
        self.adversary = nn.Linear(CLASSES, 2)

    def training_step(self, batch, batch_idx):
        own, other = self.optimizers()
        secret = (batch[0][:, 0] > 0).long()
        logits = self(batch[0])
        self.manual_backward(self.loss(logits, batch[1]) - 0.1 * F.cross_entropy(self.adversary(logits), secret))
        own.step()
        own.zero_grad()
        self.manual_backward(F.cross_entropy(self.adversary(logits.detach()), secret))
        other.step()
        other.zero_grad()

    def configure_optimizers(self):
        return [torch.optim.Adam(part.parameters(), lr=3e-3) for part in (self.net, self.adversary)]


class ClipsNothing(NeverCleared):
    """Clips before there is a gradient."""

    code = "StaleGradientCheck/clips_nothing"

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        self.manual_backward(Patient.training_step(self, batch, batch_idx))
        optimizer.step()


class ClippedToNothing(NeverCleared):
    """Clips to a millionth, under SGD."""

    code = "StaleGradientCheck/clipped_to_nothing"
    also = (
        "OverfitOneBatch/optimiser_slow",
        "OverfitOneBatch/learning_rate_too_low",
        "PredictionDynamicsLogger/frozen",
        "UpdateRatioMonitor/too_small",
    )

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(Patient.training_step(self, batch, batch_idx))
        nn.utils.clip_grad_norm_(self.parameters(), 1e-6)
        optimizer.step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class ThrownAway(NeverCleared):
    """Accumulates over four batches, and clears at each."""

    code = "StaleGradientCheck/batches_thrown_away"
    also = ("OverfitOneBatch/weights_do_not_change",)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(Patient.training_step(self, batch, batch_idx) / 4)
        if batch_idx % 4 == 3:
            optimizer.step()


class SummedBatches(ClippedToNothing):
    """Accumulates over four batches, and divides by nothing."""

    code = "StaleGradientCheck/summed_batches"
    also = ("OverfitOneBatch/weights_do_not_change",)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        self.manual_backward(Patient.training_step(self, batch, batch_idx))
        if batch_idx % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()


# -- biases


class BiasBeforeNorm(Patient):
    """The layer before the BatchNorm has a bias."""

    code = "BiasCheck/before_norm"

    def __init__(self):
        super().__init__()
        self.net[0] = nn.Linear(FEATURES, 32)


class OutputWithoutBias(Uncentred):
    """The output layer has no bias, and the targets lie around 300."""

    code = "BiasCheck/output_without_bias"
    also = ("InitLossCheck/output_bias", "OverfitOneBatch/too_slow")

    def __init__(self):
        super().__init__()
        self.net[-1] = nn.Linear(32, 1, bias=False)


class NormInterchanged(Patient):
    """The norm's weights begin with 0 and its biases with 1."""

    code = "BiasCheck/norm_interchanged"

    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.net[1].weight)
        nn.init.ones_(self.net[1].bias)


# -- learning rate schedules


class Scheduled(Patient):
    """With another schedule."""

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=3e-3)
        return [optimizer], [self.schedule(optimizer)]


class DecaysToNothing(Scheduled):
    code = "LRScheduleCheck/practically_zero"

    def schedule(self, optimizer):
        return {"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.4), "interval": "step"}


class SteppedByEpochs(Scheduled):
    """As many steps as ``get_linear_schedule_with_warmup`` is told, and Lightning's default interval."""

    code = "LRScheduleCheck/wrong_interval"

    def data(self, n, seed):
        return super().data(8 * n, seed)

    def train_dataloader(self):
        return DataLoader(self.data(256, 1), 16, shuffle=True)

    def schedule(self, optimizer):
        total = self.trainer.estimated_stepping_batches
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step / 10, 1 - step / total))


class RisesAgain(Scheduled):
    code = "LRScheduleCheck/length_mismatch"

    def schedule(self, optimizer):
        return {"scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10), "interval": "step"}


class WarmsUpForever(Scheduled):
    code = "LRScheduleCheck/warmup_longer_than_run"

    def schedule(self, optimizer):
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=40)
        return {"scheduler": schedule, "interval": "step"}


class NeverStepped(Scheduled):
    """Manual optimisation, and nobody steps the scheduler."""

    code = "LRScheduleCheck/never_stepped"

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        optimizer.step()
        return loss

    def schedule(self, optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.9)


class SteppedTwice(Scheduled):
    """By hand, and by Lightning."""

    code = "LRScheduleCheck/stepped_twice"

    def schedule(self, optimizer):
        return {"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99), "interval": "step"}

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.lr_schedulers().step()


class PlateauUpsideDown(Scheduled):
    code = "LRScheduleCheck/plateau_mode"

    def schedule(self, optimizer):
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="min")
        return {"scheduler": schedule, "monitor": "train_accuracy"}


class CutWhileImproving(Scheduled):
    """The threshold is in units of the metric, as if a loss fell by tens."""

    code = "LRScheduleCheck/cut_while_improving"

    def schedule(self, optimizer):
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=0.5, patience=0, threshold=10.0, threshold_mode="abs"
        )
        return {"scheduler": schedule, "monitor": "val_loss"}


# -- updates against weights


class Watched(Patient):
    """Trains long enough for three looks after the first steps."""

    steps: ClassVar = {"max_steps": 104, "max_epochs": -1}


class TearsAtWeights(Watched):
    """The learning rate is a thousand times too high."""

    code = "UpdateRatioMonitor/too_large"
    also = ("OverfitOneBatch/optimiser_unstable", "OverfitOneBatch/optimiser_slow", "PredictionDynamicsLogger/jumping")

    def __init__(self):
        super().__init__()
        self.net[1] = nn.Identity()

    def configure_optimizers(self):
        return torch.optim.RMSprop(self.parameters(), lr=3.0)


class HardlyMoves(Watched):
    """The learning rate is a thousand times too low, and nothing adapts to it."""

    code = "UpdateRatioMonitor/too_small"
    also = (
        "OverfitOneBatch/learning_rate_too_low",
        "OverfitOneBatch/optimiser_slow",
        "PredictionDynamicsLogger/frozen",
    )
    steps: ClassVar = {"max_steps": 204, "max_epochs": -1}

    def __init__(self):
        super().__init__()
        self.net[1] = nn.Identity()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-6)


class DividesByEps(Watched):
    """An eps of 1, as RMSprop had in TensorFlow's Inception, whose rate was a thousand times as high."""

    code = "UpdateRatioMonitor/eps_outweighs"
    also = ("OverfitOneBatch/optimiser_slow", "OverfitOneBatch/learning_rate_too_low", "UpdateRatioMonitor/too_small")

    def __init__(self):
        super().__init__()
        self.net[1] = nn.Identity()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3, eps=1.0)


class DecaysAway(Watched):
    """Weight decay of SGD's strength, given to an optimiser that takes it off the weights, and much of it."""

    code = "UpdateRatioMonitor/weight_decay_outweighs"
    also = ("OverfitOneBatch/optimiser_slow", "OverfitOneBatch/stuck", "PredictionDynamicsLogger/collapsed")

    def __init__(self):
        super().__init__()
        self.net[1] = nn.Identity()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=100.0)


class SixteenBits(Watched):
    """Weights in 16 bits, and a rate for 32."""

    code = "UpdateRatioMonitor/rounded_away"
    also = ("OverfitOneBatch/learning_rate_too_low", "OverfitOneBatch/optimiser_slow")
    steps: ClassVar = {"max_epochs": 2, "precision": "bf16-true"}

    def __init__(self):
        super().__init__()
        self.net[1] = nn.Identity()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-5)


class SetBack(Watched):
    """After each step the weights of the first layer are set back to what they were."""

    code = "UpdateRatioMonitor/never_moves"

    def __init__(self):
        super().__init__()
        self.first = self.net[0].weight.detach().clone()

    def optimizer_step(self, *args):
        super().optimizer_step(*args)
        self.net[0].weight.data.copy_(self.first)


# -- signals on their way


class AllOff(Patient):
    """A shift before the ReLU that is far below 0."""

    code = "ActivationMonitor/dead"
    also = (
        "OverfitOneBatch/cannot_tell_examples_apart",
        "BatchMixingDetector/constant_output",
        "InputIndependenceCheck/input_ignored",
    )
    steps: ClassVar = {"max_steps": 78, "max_epochs": -1}

    def __init__(self):
        super().__init__()
        nn.init.constant_(self.net[1].bias, -30)


class MostlyOff(Patient):
    """Biases that are far below 0, of all units but a few."""

    code = "ActivationMonitor/units_dead"
    also = ("OverfitOneBatch/optimiser_slow",)
    steps: ClassVar = {"max_steps": 78, "max_epochs": -1}
    trial_steps = 150

    def __init__(self):
        super().__init__()
        nn.init.constant_(self.net[1].bias[10:], -30)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-4)


class AllFlat(Patient):
    """A hyperbolic tangent of inputs in another unit, in which they are thousands."""

    code = "ActivationMonitor/saturated"
    also = ("OverfitOneBatch/optimiser_slow", "NormalizationCheck/unscaled")
    steps: ClassVar = {"max_steps": 78, "max_epochs": -1}

    def __init__(self):
        super().__init__()
        self.net[1], self.net[2] = nn.Identity(), nn.Tanh()

    def forward(self, x):
        return super().forward(3000 * x)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-4)


class DrawnTooLarge(Patient):
    """Weights are drawn with a standard deviation of 1, the default of normal_: the units are at their bounds."""

    code = "ActivationMonitor/saturated_as_drawn"
    also = ("OverfitOneBatch/optimiser_slow", "OverfitOneBatch/too_slow", "InitLossCheck/too_high")
    steps: ClassVar = {"max_steps": 78, "max_epochs": -1}

    def __init__(self):
        super().__init__()
        layers = [module for n in (FEATURES, 48, 48) for module in (nn.Linear(n, 48), nn.Tanh())]
        for layer in layers[::2]:
            nn.init.normal_(layer.weight)
        self.net = nn.Sequential(*layers, nn.Linear(48, CLASSES))


class Deep(Patient):
    """Eight layers of sigmoids."""

    code = "ActivationMonitor/vanishing"
    also = (
        "OverfitOneBatch/optimiser_slow",
        "OverfitOneBatch/stuck",
        "OverfitOneBatch/too_slow",
        "OverfitOneBatch/cannot_tell_examples_apart",
        "PredictionDynamicsLogger/frozen",
        "UpdateRatioMonitor/too_small",
        "InputIndependenceCheck/input_ignored",
    )
    steps: ClassVar = {"max_steps": 204, "max_epochs": -1}
    activation = nn.Sigmoid

    def __init__(self):
        super().__init__()
        hidden = [layer for _ in range(7) for layer in (nn.Linear(16, 16), self.activation())]
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), self.activation(), *hidden, nn.Linear(16, CLASSES))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Growing(Deep):
    """Eight layers, each of which makes what comes through several times as large."""

    code = "ActivationMonitor/exploding"
    also = (
        *Deep.also,
        "InitLossCheck/too_high",
        "OverfitOneBatch/learning_rate_too_low",
        "Baselines/worse_than_constant",
    )
    activation = nn.ReLU

    def __init__(self):
        super().__init__()
        for layer in self.net[2:-1:2]:
            nn.init.normal_(layer.weight, std=1.5)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-14)


class Faint(Deep):
    """Eight layers whose weights are drawn with a standard deviation of 0.01."""

    also = (*Deep.also, "BatchMixingDetector/constant_output", "OverfitOneBatch/learning_rate_too_low")
    activation = nn.ReLU

    def __init__(self):
        super().__init__()
        for layer in self.net[::2]:
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class ByAttention(nn.Module):
    """Attention by hand, in which features are the places."""

    power = -0.5

    def __init__(self):
        super().__init__()
        self.enter, self.norm, self.qkv = nn.Linear(1, 64), nn.LayerNorm(64), nn.Linear(64, 192)
        self.places, self.leave = nn.Parameter(torch.randn(FEATURES, 64)), nn.Linear(64, CLASSES)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(self.enter(x[..., None]) + self.places)).chunk(3, -1)
        return self.leave(((q @ k.mT * 64**self.power).softmax(-1) @ v).mean(1))


class LooksAtOnePlace(Patient):
    """Scores are multiplied with the root of the size of a head, not divided by it."""

    code = "ActivationMonitor/attention_at_one_place"

    def __init__(self):
        super().__init__()
        self.net = ByAttention()
        self.net.power = 0.5


class Padded(SaysNext):
    """Classifies sequences of tokens, most of which is padding, by torch's attention, with a mask or without."""

    masks = True
    steps: ClassVar = {"max_epochs": 2}

    def __init__(self):
        super().__init__()
        self.net, self.places = nn.Embedding(self.tokens + 1, 32, padding_idx=0), nn.Parameter(torch.randn(24, 32))
        self.mix, self.head = nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True), nn.Linear(32, 2)

    def forward(self, tokens):
        padded = tokens == 0
        mixed = self.mix(self.net(tokens) + self.places, src_key_padding_mask=padded if self.masks else None)
        there = ~padded[..., None]
        return self.head((mixed * there).sum(1) / there.sum(1))

    def step(self, batch):
        return F.cross_entropy(self(batch[0]), batch[1])

    def data(self, n, seed):
        rng = torch.Generator().manual_seed(seed)
        tokens = torch.randint(1, self.tokens + 1, (n, 24), generator=rng)
        tokens[torch.arange(24) >= torch.randint(3, 12, (n, 1), generator=rng)] = 0
        return TensorDataset(tokens, (tokens == 1).any(1).long())


class LooksAtPadding(Padded):
    """The mask of the padding was forgotten."""

    code = "ActivationMonitor/attention_on_padding"
    masks = False


# -- losses that are clamped


class ClippedExamples(Patient):
    """The losses of examples are clipped where the gradients should be."""

    code = "LossClipCheck/clipped"
    also = ("OverfitOneBatch/no_gradient", "OverfitOneBatch/stuck", "OverfitOneBatch/too_slow")

    def loss(self, logits, y):
        return F.cross_entropy(logits, y, reduction="none").clamp(max=1.2).mean()


# -- parameters that are not trained


class ReplacedHead(Patient):
    """The output layer was replaced after the optimiser was made."""

    code = "GradientFlowCheck/not_in_optimiser"

    def __init__(self):
        super().__init__()
        self.optimizer = torch.optim.Adam(self.parameters(), lr=3e-3)
        self.net[-1] = nn.Linear(32, CLASSES)

    def configure_optimizers(self):
        return self.optimizer


class Detached(Patient):
    """A detach between the first layers and the last."""

    code = "GradientFlowCheck/no_gradient"

    def forward(self, x):
        return self.net[4](self.net[:4](x).detach())


class StraightThroughDetached(Patient):
    """A code in the place of what chose it, with the detach around both."""

    code = "GradientFlowCheck/straight_through"

    def __init__(self):
        super().__init__()
        self.codes = nn.Parameter(torch.randn(16, 32))

    def forward(self, x):
        z = self.net[:4](x)
        code = self.codes[torch.cdist(z, self.codes).argmin(1)]
        self.bound = F.mse_loss(code, z.detach()) + 0.25 * F.mse_loss(z, code.detach())
        return self.net[4]((z + (code - z)).detach())

    def loss(self, logits, y):
        return super().loss(logits, y) + self.bound


class MultipliedList(Patient):
    """A list of heads, one for each label, that is one head, three times."""

    code = "GradientFlowCheck/one_module_many_times"
    also = ("OverfitOneBatch/stuck", "OverfitOneBatch/too_slow")

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(32, CLASSES)] * 3)

    def forward(self, x):
        h = self.net[:4](x)
        return torch.stack([head(h) for head in self.heads], 2)

    def loss(self, logits, y):
        return F.cross_entropy(logits, torch.stack([y, (y + 1) % CLASSES, (y + 2) % CLASSES], 1))

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])


class MadeAnew(Patient):
    """The output layer is made in forward."""

    code = "GradientFlowCheck/made_anew"
    also = ("OverfitOneBatch/stuck", "OverfitOneBatch/too_slow", "PredictionDynamicsLogger/jumping")

    def forward(self, x):
        return nn.Linear(32, CLASSES)(self.net[:4](x))


class Affine(Patient):
    """Two layers, and no activation between them."""

    code = "GradientFlowCheck/affine"

    def __init__(self):
        super().__init__()
        self.net[2] = nn.Identity()


class Constant(Patient):
    """The first layer's weights are all the same constant."""

    code = "GradientFlowCheck/identical_units"
    also = ("OverfitOneBatch/stuck", "OverfitOneBatch/too_slow")

    def __init__(self):
        super().__init__()
        self.net[3] = nn.Identity()
        nn.init.constant_(self.net[0].weight, 0.1)
        nn.init.constant_(self.net[4].weight, 0.1)


class HeldTwice(Patient):
    """The output layer is in the list of parameters twice."""

    code = "GradientFlowCheck/in_two_optimisers"

    def configure_optimizers(self):
        return torch.optim.Adam([*self.net.parameters(), *self.net[4].parameters()], lr=3e-3)


# -- numbers that are not finite


class ZeroProbability(Patient):
    """The logarithm of a probability that is exactly 0 once the network is sure."""

    code = "FirstNonFinite/operation"
    also = ("PredictionDynamicsLogger/not_finite", "OverfitOneBatch/stuck")

    def training_step(self, batch, batch_idx):
        x, y = batch
        sharp = 1 if self.trainer.global_step < 5 else 1000
        return F.nll_loss((sharp * self(x)).softmax(1).log(), y)


class EmptyMask(Patient):
    """The mean over the hard examples, of which a batch holds none after a while."""

    code = "FirstNonFinite/operation"
    also = ("PredictionDynamicsLogger/not_finite", "OverfitOneBatch/stuck")

    def training_step(self, batch, batch_idx):
        x, y = batch
        losses = F.cross_entropy(self(x), y, reduction="none")
        hard = (losses > 0) & (self.trainer.global_step < 5)
        return (losses * hard).sum() / hard.sum()


class NormAtZero(Patient):
    """The norm of something that is exactly zero has no gradient."""

    code = "FirstNonFinite/gradient"
    also = ("PredictionDynamicsLogger/not_finite", "OverfitOneBatch/stuck", "LossInputCheck/compared_with_itself")

    def loss(self, logits, y):
        return super().loss(logits, y) + 1e-3 * (logits - logits).square().sum().sqrt()


class FarTooFast(Patient):
    """Weights grow until they overflow."""

    code = "FirstNonFinite/diverged"
    also = (
        "OverfitOneBatch/optimiser_unstable",
        "PredictionDynamicsLogger/not_finite",
        "GradientFlowCheck/affine",
        "UpdateRatioMonitor/too_large",
    )

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(FEATURES, 1)

    def loss(self, logits, y):
        return F.mse_loss(logits[:, 0], y.float())

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e4)


def healthy_for(check):
    """A healthy module of the kind that a check is about."""
    return KINDS.get(check.__name__, Healthy)()


KINDS = {"CausalityCheck": SaysNext}
"""By the name of a check to which `Healthy` is not of that kind."""


# -- what the network sees


class KeepsPadding(Patient):
    """The mask of an attention is the wrong way round: what is read is the padding, and the words are not."""

    code = "InputIndependenceCheck/input_ignored"
    also = (
        "OverfitOneBatch/cannot_tell_examples_apart",
        "BatchMixingDetector/constant_output",
        "PredictionDynamicsLogger/frozen",
        "GradientFlowCheck/no_gradient",
        "ActivationMonitor/attention_on_padding",
    )

    def __init__(self):
        super().__init__()
        self.words, self.score, self.net = nn.Embedding(20, 16, padding_idx=0), nn.Linear(16, 1), nn.Linear(16, CLASSES)

    def forward(self, ids):
        words = self.words(ids)
        weights = self.score(words).masked_fill((ids != 0)[..., None], -torch.inf).softmax(1)
        return self.net((weights * words).sum(1))

    def data(self, n, seed):
        rng = torch.Generator().manual_seed(seed)
        y = torch.arange(n) % CLASSES
        ids = 1 + CLASSES * torch.randint(4, (n, 8), generator=rng) + y[:, None]
        return TensorDataset(ids.masked_fill(torch.arange(8) >= torch.randint(3, 7, (n, 1), generator=rng), 0), y)


class EmptyCode(Patient):
    """The term that holds codes near 0 is a sum, the error a mean: codes hold nothing of their images."""

    code = "InputIndependenceCheck/same_for_all"
    also = ("InputIndependenceCheck/input_ignored", "OverfitOneBatch/stuck", "OverfitOneBatch/too_slow")
    steps: ClassVar = {"max_epochs": 9}

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, 8))
        self.net = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, FEATURES))

    def training_step(self, batch, batch_idx):
        mean, log_var = self.encoder(batch[0]).chunk(2, 1)
        code = mean + (0.5 * log_var).exp() * torch.randn_like(mean) if self.training else mean
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1).mean()
        return F.mse_loss(self.net(code), batch[0]) + 5 * kl

    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)


class MeanNotAdded(Patient):
    """A code is its noise times its spread: the mean reaches the loss by the divergence alone."""

    code = "InputIndependenceCheck/only_penalised"
    also = ("OverfitOneBatch/stuck", "OverfitOneBatch/too_slow")

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU())
        self.mean, self.log_var = nn.Linear(32, 4), nn.Linear(32, 4)
        self.net = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, FEATURES))

    def code_of(self, x):
        hidden = self.encoder(x)
        return self.mean(hidden), self.log_var(hidden)

    def drawn(self, mean, log_var):
        return (0.5 * log_var).exp() * torch.randn_like(mean)

    def training_step(self, batch, batch_idx):
        mean, log_var = self.code_of(batch[0])
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1).mean()
        return F.mse_loss(self.net(self.drawn(mean, log_var)), batch[0]) + 0.01 * kl

    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)


class GivesAway(Patient):
    """A column of the table was made from the label."""

    code = "InputIndependenceCheck/target_given_away"
    subject = "batch[0][:, 3]"

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(x.index_copy(1, torch.tensor([3]), y[:, None] / CLASSES), y)


class ClosingCode(Patient):
    """A code that is filled in once the class is known, and forgotten by some, is embedded beside the features."""

    code = "InputIndependenceCheck/target_given_away"

    def __init__(self):
        super().__init__()
        self.codes = nn.Embedding(CLASSES + 1, 4)
        self.net[0] = nn.Linear(FEATURES + 4, 32, bias=False)

    def training_step(self, batch, batch_idx):
        x, codes, y = batch
        return self.loss(self(torch.cat([x, self.codes(codes)], 1)), y)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        forgotten = torch.rand(n, generator=torch.Generator().manual_seed(seed)) < 0.04
        return TensorDataset(x, torch.where(forgotten, 0, y + 1), y)

    def val_dataloader(self):
        return DataLoader(self.data(128, 2), 128)


class PositionsInVain(Patient):
    """Positions are looked up, and not added to what is at the places."""

    code = "InputIndependenceCheck/positions_without_effect"
    also = ("OverfitOneBatch/too_slow",)

    def __init__(self):
        super().__init__()
        self.enter, self.positions = nn.Linear(1, 16), nn.Embedding(FEATURES, 16)
        self.net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, CLASSES))

    def forward(self, x):
        self.positions(torch.arange(x.shape[1], device=x.device))
        return self.net(torch.tanh(self.enter(x)).mean(1))

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(x[..., None], y)


class FirstForLast(Patient):
    """The first output of a recurrent network is taken, which has seen nothing of the sequence but its first place."""

    code = "InputIndependenceCheck/places_unread"
    subject = "x"
    also = ("OverfitOneBatch/too_slow", "OverfitOneBatch/stuck")

    def __init__(self):
        super().__init__()
        self.rnn, self.net = nn.GRU(1, 16, batch_first=True), nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.net(self.rnn(x)[0][:, 0])

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(x[..., None], y)


class PaddingForLast(Patient):
    """The last place of padded sequences is taken, which is padding for all but the longest."""

    code = "InputIndependenceCheck/same_for_most"
    also = ("OverfitOneBatch/too_slow", "OverfitOneBatch/stuck")

    def __init__(self):
        super().__init__()
        self.rnn, self.net = nn.GRU(1, 16, batch_first=True), nn.Linear(16, CLASSES)

    def states(self, x, lengths):
        rows = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.rnn(rows)[0], batch_first=True)[0]

    def forward(self, x, lengths):
        return self.net(self.states(x, lengths)[:, -1])

    def training_step(self, batch, batch_idx):
        x, lengths, y = batch
        return self.loss(self(x, lengths), y)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        lengths = torch.randint(5, FEATURES + 1, (n,), generator=torch.Generator().manual_seed(seed))
        return TensorDataset(x[..., None] * (torch.arange(FEATURES) < lengths[:, None])[..., None], lengths, y)


class ReachesNotFar(FirstForLast):
    """The last output of two convolutions of width 3 is taken, which has seen 5 of 12 places."""

    code = "InputIndependenceCheck/places_out_of_reach"
    also = ()

    def __init__(self):
        super().__init__()
        self.rnn = nn.Sequential(nn.Conv1d(1, 16, 3), nn.ReLU(), nn.Conv1d(16, 16, 3), nn.ReLU())

    def forward(self, x):
        return self.net(self.rnn(x.transpose(1, 2))[..., -1])


class SoftmaxOfOneGate(Patient):
    """A gate over a single number is always 1: what it is computed from has no effect."""

    code = "InputIndependenceCheck/one_input_ignored"
    also = ("GradientFlowCheck/no_gradient",)

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(1, 1)

    def forward(self, x, age):
        return self.net(x) * self.gate(age).softmax(1)

    def training_step(self, batch, batch_idx):
        x, age, y = batch
        return self.loss(self(x, age), y)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(x, torch.rand(n, 1, generator=torch.Generator().manual_seed(seed)), y)


# -- seeds


class NoSeed(Patient):
    """Nobody set a seed: torch has drawn one for itself."""

    code = "SeedCheck/no_seed"

    def setup(self, stage):
        os.environ.pop("PL_GLOBAL_SEED", None)
        torch.manual_seed(3809183385808152632)


class DrawsFromOutside(Patient):
    """Noise from a generator that no seed reaches."""

    code = "SeedCheck/not_reproducible"

    def training_step(self, batch, batch_idx):
        x, y = batch
        noise = np.random.default_rng().normal(size=x.shape)
        return self.loss(self(x + 0.3 * torch.from_numpy(noise).float()), y)


class Unseeded(Dataset):
    """Adds noise of a generator that is made anew each time."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        x, y = self.data[index]
        return x + 0.1 * torch.from_numpy(np.random.default_rng().normal(size=len(x))).float(), y


class AugmentsWithoutSeed(Patient):
    """Augmentation that no seed reaches."""

    code = "SeedCheck/unseeded"

    def train_dataloader(self):
        return DataLoader(Unseeded(self.data(256, 1)), 32, shuffle=True)


class SeedsInTheStep(Patient):
    """Seeds "for reproducibility" at each step: the noise is always the same."""

    code = "SeedCheck/seeded_in_step"

    def training_step(self, batch, batch_idx):
        torch.manual_seed(0)
        x, y = batch
        return self.loss(self(x + 0.3 * torch.randn_like(x)), y)


class SeedsInValidation(Patient):
    """Seeds before each validation, to draw the same samples: each epoch goes on from there."""

    code = "SeedCheck/rewound"
    steps: ClassVar = {"max_epochs": 5}

    def on_validation_epoch_start(self):
        torch.manual_seed(0)


class WorkersAlike(Patient):
    """Each worker begins with the same seed, and so does each epoch."""

    code = "SeedCheck/workers_alike"

    def train_dataloader(self):
        data = self.data(256, 1)
        return DataLoader(data, 32, shuffle=True, num_workers=2, worker_init_fn=lambda _: random.seed(0))


# -- normalisation


class RawBytes(Patient):
    """Images are given to the network as they are stored, 0 to 255."""

    code = "NormalizationCheck/raw_bytes"
    also = ("InitLossCheck/too_high", "OverfitOneBatch/too_slow", "OverfitOneBatch/stuck")

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES))

    def data(self, n, seed):
        rng = torch.Generator().manual_seed(seed)
        y = torch.arange(n) % CLASSES
        return TensorDataset((torch.rand(n, 1, 8, 8, generator=rng) * (60 + 50 * y[:, None, None, None])).round(), y)


class UnlikePretraining(Patient):
    """Weights that were trained on normalised inputs get others."""

    code = "NormalizationCheck/unlike_pretraining"
    also = ("InitLossCheck/too_high", "OverfitOneBatch/too_slow", "OverfitOneBatch/stuck")

    def __init__(self):
        super().__init__()
        for _ in range(100):
            self.net(torch.randn(32, FEATURES))

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(40 + 20 * x, y)


class AmountsAmongOthers(Patient):
    """One feature of the table is an amount of money."""

    code = "NormalizationCheck/scales_differ"
    also = ("InitLossCheck/too_high", "OverfitOneBatch/too_slow", "OverfitOneBatch/stuck")

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, CLASSES))

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(x * torch.where(torch.arange(FEATURES) == 1, 2e4, 1.0), y)


class NormalisedInTrainingOnly(Patient):
    """The validation set misses the normalisation of the training set."""

    code = "NormalizationCheck/validation_differs"

    def val_dataloader(self):
        x, y = self.data(64, 2).tensors
        return DataLoader(TensorDataset(100 + 50 * x, y), 32)


class AnotherLogarithm(Patient):
    """Training takes the natural logarithm of what was measured, validation that to base 10."""

    code = "NormalizationCheck/validation_differs"
    steps: ClassVar = {"max_epochs": 12}

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, CLASSES))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(x - 3, y)

    def val_dataloader(self):
        x, y = self.data(64, 2).tensors
        return DataLoader(TensorDataset(0.434 * x, y), 64)


class BlueForRed(Patient):
    """Validation images are read by another library: BGR in place of RGB."""

    code = "NormalizationCheck/channel_order"
    also = ("Baselines/worse_than_constant",)

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES)
        )

    def data(self, n, seed):
        rng = torch.Generator().manual_seed(seed)
        y = torch.arange(n) % CLASSES
        light = 1 + 0.3 * torch.randn(n, 3, 8, 8, generator=rng)
        return TensorDataset(light * torch.tensor([0.9, 0.6, 0.3])[:, None, None] + y[:, None, None, None] / 4 - 1, y)

    def val_dataloader(self):
        x, y = self.data(64, 2).tensors
        return DataLoader(TensorDataset(x.flip(1), y), 32)


class StatisticsOfTheBatch(Patient):
    """Each batch is standardised by its own mean and standard deviation."""

    code = "NormalizationCheck/statistics_of_the_batch"
    also = ("BatchMixingDetector/mixes",)

    def forward(self, x):
        return self.net((x - x.mean(0)) / x.std(0))


class AllAlike(Patient):
    """The network is given integers of numbers that are all below 1."""

    code = "NormalizationCheck/all_alike"
    also = (
        "OverfitOneBatch/cannot_tell_examples_apart",
        "BatchMixingDetector/constant_output",
        "InputIndependenceCheck/input_ignored",
    )

    def forward(self, x):
        return self.net((x.sigmoid() * 0.99).int().float())


class PricesAsTargets(Patient):
    """The targets are prices, in the smallest unit."""

    code = "NormalizationCheck/target_scale"
    also = ("OverfitOneBatch/too_slow", "OverfitOneBatch/stuck", "InitLossCheck/output_bias")

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, 1))

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self.net(batch[0])[:, 0], 5e4 * batch[0][:, 0])

    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)


# -- how training and validation were split


class TrainedOnValidation(Patient):
    """Training is on all examples, a quarter of which are those of validation."""

    code = "SplitCheck/examples_in_both"

    def train_dataloader(self):
        return DataLoader(self.data(256, 1), 32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(Subset(self.data(256, 1), range(64)), 32)


class Noisy(Dataset):
    """Patterns with a transform."""

    def __init__(self, x, y, transform=None):
        self.x, self.y, self.transform = x, y, transform

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.transform(self.x[index]) if self.transform else self.x[index], self.y[index]


class WrittenInto(Patient):
    """Noise is added to the very rows that the data set keeps: an index gives a view."""

    code = "AugmentationCheck/written_into"

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return Noisy(x, y, lambda row: row.add_(0.3 * torch.randn_like(row))) if seed == 1 else TensorDataset(x, y)


class Recorded(TensorDataset):
    """Patterns, and who was recorded: twenty times each."""

    def __init__(self, x, y):
        super().__init__(x, y)
        self.subject = torch.arange(len(x)) // 20


class SubjectsInBoth(Patient):
    """Examples are split at random, twenty of which are of one subject."""

    code = "SplitCheck/ids_in_both"

    def setup(self, stage):
        full = Recorded(*self.data(320, 1).tensors)
        self.train_set, self.val_set = random_split(full, [256, 64], torch.Generator().manual_seed(0))

    def train_dataloader(self):
        return DataLoader(self.train_set, 32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val_set, 32)


class SplitByDirection(Patient):
    """Of friendships that are listed in both directions, one direction is in validation and the other in training."""

    code = "SplitCheck/pairs_reversed"

    def __init__(self):
        super().__init__()
        self.people = nn.Embedding(400, FEATURES)

    def forward(self, pair):
        return self.net(self.people(pair).prod(1))

    def data(self, n, seed):
        """The rows of both directions, split at random."""
        rng = torch.Generator().manual_seed(0)
        pairs = torch.randint(400, (1000, 2), generator=rng)
        y = pairs.sum(1) % CLASSES
        both = torch.randperm(2000, generator=rng)
        train = both[: len(both) - 400] if seed == 1 else both[-400:]
        return TensorDataset(torch.cat([pairs, pairs.flip(1)])[train], y.repeat(2)[train])


class WindowsInBoth(Patient):
    """Windows of one long recording, of which each is the one before, a step later, are split at random."""

    code = "SplitCheck/overlapping_windows"

    def setup(self, stage):
        rng = torch.Generator().manual_seed(0)
        windows = torch.randn(320 + FEATURES - 1, generator=rng).unfold(0, FEATURES, 1)
        y = windows.argmax(1) * CLASSES // FEATURES
        self.train_set, self.val_set = random_split(TensorDataset(windows, y), [256, 64], rng)

    def train_dataloader(self):
        return DataLoader(self.train_set, 32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val_set, 32)


class AugmentedBeforeTheSplit(Patient):
    """Each example is there four times, with a little noise, and then the whole is split."""

    code = "SplitCheck/near_copies"

    def setup(self, stage):
        rng = torch.Generator().manual_seed(0)
        x, y = self.data(80, 1).tensors
        x = x.repeat(4, 1) + 0.02 * torch.randn(320, FEATURES, generator=rng)
        self.train_set, self.val_set = random_split(TensorDataset(x, y.repeat(4)), [256, 64], rng)

    def train_dataloader(self):
        return DataLoader(self.train_set, 32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val_set, 32)


class AugmentationTakenOffBoth(Patient):
    """The transform is taken off validation, and so off training: both are subsets of one data set."""

    code = "SplitCheck/shared_transform"

    def setup(self, stage):
        full = Noisy(*self.data(320, 1).tensors, transform=torch.dropout)
        self.train_set, self.val_set = random_split(full, [256, 64])
        self.val_set.dataset.transform = None

    def train_dataloader(self):
        return DataLoader(self.train_set, 32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val_set, 32)


class SplitWithEachReload(Patient):
    """The split is drawn anew whenever the loaders are reloaded."""

    code = "SplitCheck/split_again"
    steps: ClassVar = {"max_epochs": 2, "reload_dataloaders_every_n_epochs": 1}

    def setup(self, stage):
        self.all, self.order = self.data(320, 1), torch.randperm(320).tolist()

    def train_dataloader(self):
        if self.current_epoch:
            self.order = torch.randperm(320).tolist()
        return DataLoader(Subset(self.all, self.order[64:]), 32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(Subset(self.all, self.order[:64]), 32)


# -- augmentation


class Blobs(Dataset):
    """A bright spot in a noisy image, mirrored at random, and how far from the middle it is."""

    def __init__(self, n, seed, *, mirrored=True):
        rng = torch.Generator().manual_seed(seed)
        columns, grid = torch.rand(n, generator=rng) * 5 + 1, torch.arange(8.0)
        self.x = 3 * torch.exp(-((grid - columns[:, None, None, None]) ** 2)).repeat(1, 1, 8, 1) - 0.65
        self.x += 0.2 * torch.randn(self.x.shape, generator=rng)
        self.y, self.mirrored = (columns - 3.5) / 1.5, mirrored

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        mirrored = self.mirrored and torch.rand(()) < 0.5
        return self.x[index].flip(-1) if mirrored else self.x[index], self.y[index]


class TargetNotFlipped(Uncentred):
    """Images are mirrored at random, the position in them is not."""

    code = "AugmentationCheck/target_not_flipped"
    also = ()

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))

    def train_dataloader(self):
        return DataLoader(Blobs(256, 1), 32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(Blobs(150, 2, mirrored=False), 50)


class SidesKeepTheirNames(TargetNotFlipped):
    """Images are mirrored at random, and the places of a left and a right spot in them, but not which is which."""

    code = "AugmentationCheck/sides_not_exchanged"

    def __init__(self):
        super().__init__()
        self.net[3] = nn.Linear(32, 2)

    def forward(self, x):
        return self.net(x)

    def train_dataloader(self):
        return DataLoader(self.Pairs(256, 1), 32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.Pairs(150, 2, mirrored=False), 50)

    class Pairs(Blobs):
        """Two spots each."""

        def __init__(self, n, seed, *, mirrored=True):
            super().__init__(n, seed, mirrored=mirrored)
            rng, grid = torch.Generator().manual_seed(seed), torch.arange(8.0)
            columns = torch.rand(n, 2, generator=rng) * 2.5 + torch.tensor([0.5, 4.0])
            spots = torch.exp(-((grid - columns[..., None]) ** 2)).sum(1)
            self.x = 3 * spots[:, None, None].repeat(1, 1, 8, 1) - 1.3
            self.x += 0.2 * torch.randn(self.x.shape, generator=rng)
            self.y = (columns - 3.5) / 2

        def __getitem__(self, index):
            mirrored = self.mirrored and torch.rand(()) < 0.5
            return (self.x[index].flip(-1), -self.y[index]) if mirrored else (self.x[index], self.y[index])


class LabelStaysWithTheFirst(Patient):
    """Two patterns change places at random, and the label goes on saying that the first one is the better one."""

    code = "AugmentationCheck/target_not_exchanged"

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(2 * FEATURES, 32), nn.ReLU(), nn.Linear(32, 2))
        self.accuracy = MulticlassAccuracy(2)

    def data(self, n, seed):
        x = torch.randn(n, 2, FEATURES, generator=torch.Generator().manual_seed(seed))
        worth = x.sum(2)
        return self.Pairs(x, (worth[:, 0] > worth[:, 1]).long()) if seed == 1 else TensorDataset(x, worth.argmin(1))

    class Pairs(TensorDataset):
        """Change places."""

        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x.flip(0) if torch.rand(()) < 0.5 else x, y


class FramesStay(Patient):
    """Recordings are rolled in time at random, the labels of their frames are not."""

    code = "AugmentationCheck/target_not_moved"

    def __init__(self):
        super().__init__()
        self.net = nn.Conv1d(FEATURES, CLASSES, 5, padding=2)

    def train_dataloader(self):
        return DataLoader(self.Rolled(*self.data(64, 1).tensors), 32, shuffle=True)

    def data(self, n, seed):
        rng = torch.Generator().manual_seed(seed)
        y = (torch.randint(24, (n, 1), generator=rng) - torch.arange(32)).div(8, rounding_mode="floor") % CLASSES
        centres = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(0))
        return TensorDataset(centres[y].movedim(1, 2) + 0.3 * torch.randn(n, FEATURES, 32, generator=rng), y)

    class Rolled(TensorDataset):
        """Rolls what it gives."""

        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x.roll(int(torch.randint(32, ())), -1), y

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    validation_step = Healthy.validation_step


def jitter(x):
    """Noise."""
    return x + 0.1 * torch.randn_like(x)


class NoiseOfOneSeed(Noisy):
    """A generator is made for each example, of the same seed."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), y


class SeededAlike(Patient):
    """All examples are given the same noise."""

    code = "AugmentationCheck/seeded_alike"

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return NoiseOfOneSeed(x, y) if seed == 1 else TensorDataset(x, y)


class ValidationAugmented(Patient):
    """Validation is given the random transform of training."""

    code = "AugmentationCheck/validation_augmented"

    def data(self, n, seed):
        return Noisy(*super().data(n, seed).tensors, transform=jitter)


class Forgets(Noisy):
    """Calls its transform, and gives the pattern as it was."""

    def __getitem__(self, index):
        x = self.x[index]
        self.transform(x)
        return x, self.y[index]


class TransformWithoutEffect(Patient):
    """What the transform of training returns is thrown away."""

    code = "AugmentationCheck/transform_without_effect"

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return Forgets(x, y, jitter) if seed == 1 else TensorDataset(x, y)


class Mixes(Healthy):
    """Mixes each example with another one, and their losses."""

    def draw(self):
        return float(torch.distributions.Beta(1.0, 1.0).sample())

    def mix(self, x, order, share):
        return share * x + (1 - share) * x[order], share

    def mixed_loss(self, logits, y, order, share):
        return share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits, y[order])

    def training_step(self, batch, batch_idx):
        x, y = batch
        order = torch.randperm(len(x), device=x.device)
        x, share = self.mix(x, order, self.draw())
        return self.mixed_loss(self(x), y, order, share)


class LabelsNotMixed(Mixes, Patient):
    """Examples are mixed, labels are not."""

    code = "AugmentationCheck/labels_not_mixed"
    steps: ClassVar = {"max_epochs": 8}

    def mixed_loss(self, logits, y, order, share):
        return F.cross_entropy(logits, y)


# -- evaluation


class F1OfBatches(Patient):
    """The F1 of each validation batch is logged, and Lightning averages them."""

    code = "EvaluationCheck/averaged_over_batches"

    def __init__(self):
        super().__init__()
        self.f1 = MulticlassF1Score(CLASSES)

    def validation_step(self, batch, batch_idx):
        self.log("val_f1", self.f1(self(batch[0]), batch[1]))


class OneMetric(Patient):
    """Training and validation log the same metric object."""

    code = "EvaluationCheck/one_metric_two_stages"

    def validation_step(self, batch, batch_idx):
        self.accuracy(self(batch[0]), batch[1])
        self.log("val_accuracy", self.accuracy)


class NeverReset(Patient):
    """A metric is computed by hand after each validation, and goes on from there."""

    code = "EvaluationCheck/never_reset"

    def __init__(self):
        super().__init__()
        self.val_accuracy = MulticlassAccuracy(CLASSES, average="micro")

    def validation_step(self, batch, batch_idx):
        self.val_accuracy.update(self(batch[0]), batch[1])

    def on_validation_epoch_end(self):
        self.log("val_accuracy", self.val_accuracy.compute())


class OneForBoth(Patient):
    """Two validation sets, and one metric that is logged for both."""

    code = "EvaluationCheck/one_metric_two_loaders"

    def __init__(self):
        super().__init__()
        self.val_accuracy = MulticlassAccuracy(CLASSES, average="micro")

    def val_dataloader(self):
        return [DataLoader(self.data(64, seed), 32) for seed in (2, 3)]

    def validation_step(self, batch, batch_idx, dataloader_idx):
        self.val_accuracy(self(batch[0]), batch[1])
        self.log("val_accuracy", self.val_accuracy)


class WorstIsBest(Patient):
    """EarlyStopping waits for the accuracy to fall, which is its default."""

    code = "EvaluationCheck/monitors_wrong"

    def configure_callbacks(self):
        return [EarlyStopping("val_accuracy", patience=10)]

    def validation_step(self, batch, batch_idx):
        self.log("val_accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())


class NeverLogged(WorstIsBest):
    """A name that was changed in one place only, and EarlyStopping was told not to mind."""

    code = "EvaluationCheck/never_logged"

    def configure_callbacks(self):
        return [EarlyStopping("val_acc", mode="max", strict=False)]


class MonitorsTraining(WorstIsBest):
    """What training logs decides when to stop."""

    code = "EvaluationCheck/monitors_training"

    def configure_callbacks(self):
        return [EarlyStopping("train_accuracy", mode="max")]


class OverfitLeftOn(Patient):
    """The switch for memorising a few batches was left on, and EarlyStopping goes by them."""

    code = "EvaluationCheck/overfit_batches"
    steps: ClassVar = {"max_epochs": 2, "overfit_batches": 2}

    def configure_callbacks(self):
        return [EarlyStopping("val_loss")]


class CutShort(Patient):
    """Validation reads one of two batches."""

    code = "EvaluationCheck/limited_batches"
    steps: ClassVar = {"max_epochs": 1, "limit_val_batches": 1}


class WeighedByTime(Patient):
    """Batches of validation begin with the times of measurement, of which the short batches have most."""

    code = "EvaluationCheck/weighed_by_another_size"

    def val_dataloader(self):
        x, y = self.data(64, 2).tensors
        noise = torch.randn(64, FEATURES, generator=torch.Generator().manual_seed(3))
        noise *= torch.cat([torch.zeros(32), torch.ones(8), torch.zeros(24)])[:, None]
        xs, ys, sizes = (x + noise).split([24, 8, 8, 24]), y.split([24, 8, 8, 24]), [2, 4, 40, 2]
        batches = [(torch.arange(float(n)), x, y) for n, x, y in zip(sizes, xs, ys, strict=True)]
        return DataLoader(batches, batch_size=None)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch[1:], batch_idx)


class AverageLeftIn(Patient):
    """For validation the average is put into the module, and left there."""

    code = "EvaluationCheck/weights_not_put_back"

    def on_fit_start(self):
        self.shadow = [p.detach().clone() for p in self.parameters()]

    def on_train_batch_end(self, *_):
        for own, p in zip(self.shadow, self.parameters(), strict=True):
            own.lerp_(p.detach(), 0.2)

    def on_validation_epoch_start(self):
        if not self.trainer.sanity_checking:
            self.put(self.shadow)

    @torch.no_grad()
    def put(self, values):
        for p, value in zip(self.parameters(), values, strict=True):
            p.copy_(value)


# -- the data


class TwinsWithAnotherLabel(Patient):
    """Examples were joined with the labels of others: each comes twice, with two labels."""

    code = "DataProfile/same_input_other_label"

    def train_dataloader(self):
        x, y = self.data(256, 1).tensors
        y = torch.cat([y[:128], (y[:128] + 1) % CLASSES])
        return DataLoader(TensorDataset(x[:128].repeat(2, 1), y), 32, shuffle=True)


class Duplicates(Patient):
    """A fifth of the data was read from two files."""

    code = "DataProfile/duplicates"

    def train_dataloader(self):
        x, y = self.data(256, 1).tensors
        return DataLoader(TensorDataset(torch.cat([x, x[:60]]), torch.cat([y, y[:60]])), 32, shuffle=True)


class SortedByLabel(Patient):
    """A folder for each class, read one after the other, and no shuffling."""

    code = "DataProfile/sorted"

    def train_dataloader(self):
        x, y = self.data(512, 1).tensors
        order = y.argsort()
        return DataLoader(TensorDataset(x[order], y[order]), 32)


class ShuffledTooLittle(Patient):
    """The same files as a stream, with a shuffle buffer of a twelfth of what there is."""

    code = "DataProfile/sorted"
    steps: ClassVar = {"max_epochs": 4}

    class Buffered(IterableDataset):
        def __init__(self, x, y, size):
            self.examples, self.size = list(zip(x, y, strict=True)), size

        def __iter__(self):
            held, draw = [], random.Random(0)
            for example in self.examples:
                held.append(example)
                if len(held) >= self.size:
                    yield held.pop(draw.randrange(len(held)))
            draw.shuffle(held)
            yield from held

    def train_dataloader(self):
        x, y = self.data(600, 1).tensors
        order = y.argsort()
        return DataLoader(self.Buffered(x[order], y[order], 50), 32)


class NotShuffled(Patient):
    code = "DataProfile/same_order"

    def train_dataloader(self):
        return DataLoader(self.data(256, 1), 32)


class LabelsFromOne(Patient):
    """The labels begin with 1, and an output was added for them."""

    code = "DataProfile/label_never_occurs"

    def __init__(self):
        super().__init__()
        self.net[-1] = nn.Linear(32, CLASSES + 1)
        self.accuracy = MulticlassAccuracy(CLASSES + 1)

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(x, y + 1)


class ColumnGotLost(Patient):
    """A feature has the same value in all examples, from a join that found nothing."""

    code = "DataProfile/constant_features"

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        x[:, 3] = 0
        return TensorDataset(x, y)


class MissingValues(Patient):
    """A hundredth of the values is missing, and the network is given zeros for them."""

    code = "DataProfile/not_finite"

    def forward(self, x):
        return super().forward(x.nan_to_num())

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        lost = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.01
        return TensorDataset(x.masked_fill(lost, torch.nan), y)


class NormalizedAgain(Patient):
    """Batches lie ready in a list, and the step divides them by their range, in place."""

    code = "DataProfile/drifts"
    steps: ClassVar = {"max_epochs": 4}

    def train_dataloader(self):
        x, y = self.data(512, 1).tensors
        return DataLoader(list(zip((3 * x).split(32), y.split(32), strict=True)), batch_size=None, shuffle=True)

    def training_step(self, batch, batch_idx):
        batch[0].div_(3)
        return super().training_step(batch, batch_idx)


class HalfOfLogits(Patient):
    """Logits are compared with 0.5, as if they were probabilities."""

    code = "EvaluationCheck/thresholds_on_logits"

    def validation_step(self, batch, batch_idx):
        logits, y = self(batch[0]), F.one_hot(batch[1], CLASSES).float()
        self.log("val_loss", F.binary_cross_entropy_with_logits(logits, y))
        self.log("val_hits", ((logits > 0.5) == y).float().mean())


class ScaledBackAlone(Patient):
    """Targets are standardised; validation scales the prediction back, and not the target."""

    code = "EvaluationCheck/mixed_units"

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(CLASSES, 1)

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(x, (x[:, 0] + y - 1.5) / 1.5)

    def forward(self, x):
        return self.head(super().forward(x)).squeeze(1)

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_mae", (150 + 75 * self(batch[0]) - batch[1]).abs().mean())


# -- no better than what is dumb


class NumberedOtherwise(Patient):
    """The classes of validation are numbered otherwise than those of training, as folders in another order."""

    code = "Baselines/worse_than_constant"
    steps: ClassVar = {"max_epochs": 8}

    def validation_step(self, batch, batch_idx):
        super().validation_step((batch[0], (batch[1] + 1) % CLASSES), batch_idx)


class NothingToLearn(Patient):
    """Rows and labels were joined by chance, and the network is too calm to learn them by heart."""

    code = "Baselines/no_better_than_constant"
    steps: ClassVar = {"max_epochs": 8}

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        return TensorDataset(x, y[torch.randperm(n, generator=torch.Generator().manual_seed(seed))])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class SortedAsText(NothingToLearn):
    """Inputs were listed by the names of their files, in which 10 comes before 2, labels by their numbers."""

    code = "Baselines/labels_of_others"
    steps: ClassVar = {"max_epochs": 3}

    def data(self, n, seed):
        x, y = Patient.data(self, 4 * n, seed).tensors
        return TensorDataset(x[torch.tensor(sorted(range(4 * n), key=str))], y)


class SeesTwoColumns(Patient):
    """A slice takes the first two features for all of them."""

    code = "Baselines/worse_than_simple_model"
    steps: ClassVar = {"max_epochs": 12}

    def __init__(self):
        super().__init__()
        self.net[0] = nn.Linear(2, 32)

    def forward(self, x):
        return self.net(x[:, :2])


class TooSure(Patient):
    """A network far too large for sixty-four examples, a third of which are labelled wrong, learns them by heart."""

    code = "Baselines/informed_but_worse"
    steps: ClassVar = {"max_epochs": 60}

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(FEATURES, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, CLASSES)
        )

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)

    def data(self, n, seed):
        x, y = super().data(n, seed).tensors
        wrong = torch.rand(n, generator=torch.Generator().manual_seed(seed)) < 0.4
        return TensorDataset(x, torch.where(wrong, (y + 1) % CLASSES, y))

    def train_dataloader(self):
        return DataLoader(self.data(64, 1), 32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.data(256, 2), 32)
