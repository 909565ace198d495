"""Small training programs, one for each combination of what people combine."""

import copy
import random
from collections import namedtuple
from dataclasses import dataclass, field

import lightning.pytorch as L
import numpy as np
import patients
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, TensorDataset
from torchmetrics import MeanMetric

EXAMPLES, BATCH, WIDTH, LENGTH, CLASSES, WORDS = 22, 5, 8, 4, 3, 7  # the last batch holds two examples
SHAPES = {
    "mlp": (6,), "conv": (2, 6, 6), "recurrent": (LENGTH, WIDTH), "transformer": (LENGTH, WIDTH),
    "embeddings": (LENGTH,),
}  # fmt: skip


@dataclass(frozen=True)
class Program:
    """The first of each choice is the plain one."""

    net: str = "mlp"  # conv, recurrent, transformer, embeddings
    head: str = "classes"  # numbers, tokens, several, by hand
    norm: str = "none"  # batch, layer, group
    dropout: float = 0.0
    tied: bool = False
    optimizer: str = "sgd"  # adam, adamw, rmsprop, lbfgs, adagrad
    groups: int = 1
    schedule: str = "none"  # step, epoch, one cycle, plateau
    manual: bool = False
    data: str = "map"  # shuffled, sampler, stream
    batch: str = "tuple"  # named, dict, dataclass
    workers: str = "0"  # 1, 2, 2 persistent
    augmented: bool = False
    accumulate: int = 1
    clip: str = "none"  # norm, value
    precision: str = "32-true"  # bf16-mixed, 64-true, bf16-true
    averaging: str = "none"  # by hand, ema, swa
    validate: str = "epoch"  # every 2, never
    sanity: int = 2
    first: bool = True  # the recipe comes before other callbacks


Named = namedtuple("Named", "x y i")  # noqa: PYI024 - data for collate


@dataclass
class Batch:
    x: torch.Tensor
    y: torch.Tensor
    i: torch.Tensor
    note: str = "an example"
    more: list = field(default_factory=list)


class Examples(Dataset):
    """Draws from three random streams for each example, if asked to."""

    def __init__(self, program, seed):
        numbers = torch.Generator().manual_seed(seed)
        shape = (EXAMPLES, *SHAPES[program.net])
        self.x = torch.randn(shape, generator=numbers)
        if program.net == "embeddings":
            self.x = torch.randint(WORDS, shape, generator=numbers)
        positions = shape[1:2] if program.head == "tokens" and len(shape) <= 3 and program.net != "mlp" else ()
        self.y = torch.randint(CLASSES, (EXAMPLES, *positions), generator=numbers)
        self.augmented = program.augmented

    def __len__(self):
        return EXAMPLES

    def __getitem__(self, i):
        x = self.x[i]
        if self.augmented and x.is_floating_point():
            x = x + 0.1 * torch.randn_like(x) + 0.1 * np.random.rand() + 0.1 * random.random()  # noqa: NPY002
        elif self.augmented:
            x = x.roll(int(torch.randint(2, ())) + np.random.randint(2) + random.randrange(2))  # noqa: NPY002
        return x, self.y[i], torch.tensor(i)


class Stream(IterableDataset):
    """Of unknown length, in an order of its own."""

    def __init__(self, examples):
        self.examples = examples

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        start, step = (worker.id, worker.num_workers) if worker else (0, 1)
        order = np.random.permutation(EXAMPLES)[start::step]  # noqa: NPY002
        return (self.examples[int(i)] for i in order)


class Halves(Sampler):
    """The second half first, and a few at random again: drawn from Python's stream."""

    def __init__(self):
        pass

    def __len__(self):
        return EXAMPLES

    def __iter__(self):
        half = EXAMPLES // 2
        return iter([*range(half, EXAMPLES), *random.choices(range(half), k=half)])


@dataclass
class Collate:
    kind: str

    def __call__(self, items):
        x, y, i = (torch.stack(column) for column in zip(*items, strict=True))
        kinds = {"tuple": tuple, "named": Named._make, "dict": lambda v: Named._make(v)._asdict()}
        return kinds.get(self.kind, lambda v: Batch(*v))((x, y, i))


def loader(program, seed, *, training):
    examples = Examples(program, seed)
    order = {}
    if training and program.data == "stream":
        examples = Stream(examples)
    elif training and program.data == "sampler":
        order = {"sampler": Halves()}
    elif training and program.data == "shuffled":
        order = {"shuffle": True}
    workers = int(program.workers[0])
    more = {"num_workers": workers, "persistent_workers": "persistent" in program.workers}
    return DataLoader(examples, BATCH, collate_fn=Collate(program.batch), **order, **more)


class Norm(nn.Module):
    """Over features, which are last in sequences and second in images."""

    def __init__(self, kind, width):
        super().__init__()
        makers = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "group": lambda w: nn.GroupNorm(2, w)}
        self.norm = makers.get(kind, lambda _: nn.Identity())(width)

    def forward(self, x):
        last = x.movedim(1, -1) if x.ndim == 4 else x
        out = self.norm(last.reshape(-1, last.shape[-1])).view(last.shape)
        return out.movedim(-1, 1) if x.ndim == 4 else out


class Net(nn.Module):
    def __init__(self, program):
        super().__init__()
        self.program, width = program, WIDTH
        if program.net == "mlp":
            self.enter = nn.Linear(6, width)
        elif program.net == "conv":
            self.enter = nn.Conv2d(2, width, 3)
        else:
            self.enter = nn.Embedding(WORDS, width) if program.net == "embeddings" else nn.Linear(width, width)
        self.norm = Norm(program.norm, width)
        self.dropout = nn.Dropout(program.dropout)
        if program.net == "recurrent":
            self.body = nn.GRU(width, width, 2, batch_first=True, dropout=program.dropout)
        elif program.net == "transformer":
            layer = nn.TransformerEncoderLayer(width, 2, 16, program.dropout, batch_first=True)
            self.body = nn.TransformerEncoder(layer, 1)
        elif program.net == "conv":
            self.body = nn.Sequential(nn.Conv2d(width, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        else:
            self.body = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.leave = nn.Linear(width, WORDS if program.head == "tokens" else CLASSES)
        if program.head == "several":
            self.scale = nn.Linear(width, 1)
        if program.tied and program.net == "embeddings" and program.head == "tokens":
            self.leave.weight = self.enter.weight
        elif program.tied and program.net == "mlp":
            self.again = nn.Linear(width, width)
            self.again.weight = self.body[0].weight

    def forward(self, x):
        h = self.body(self.dropout(F.gelu(self.norm(self.enter(x)))))
        h = h[0] if isinstance(h, tuple) else h
        h = self.again(h) if hasattr(self, "again") else h
        if self.program.head != "tokens" and h.ndim == 3:
            h = h.mean(1)
        return {"out": self.leave(h), "scale": self.scale(h)} if self.program.head == "several" else self.leave(h)


class Trained(L.LightningModule):
    """Runs a program."""

    def __init__(self, program):
        super().__init__()
        self.program = program
        self.automatic_optimization = not program.manual
        self.net = Net(program)
        self.mean = MeanMetric()
        self.seen = []  # indices of the examples, in order
        if program.averaging == "by hand":
            self.ema = copy.deepcopy(self.net).requires_grad_(requires_grad=False)

    def forward(self, x):
        return self.net(x)

    def loss(self, out, y):
        kind, width = self.program.head, CLASSES
        if kind == "several":
            target = y.to(out["scale"].dtype)[:, None]
            return F.cross_entropy(out["out"], y) + 0.1 * F.mse_loss(out["scale"], target)
        if kind == "tokens":
            return F.cross_entropy(out.flatten(0, -2), y.flatten())
        if kind == "numbers":
            return F.mse_loss(out, F.one_hot(y, width).to(out.dtype))
        if kind == "by hand":
            return (out.logsumexp(1) - out.gather(1, y[:, None])[:, 0]).mean()
        return F.cross_entropy(out, y)

    def training_step(self, batch, batch_idx):
        x, y, i = self.parts(batch)
        self.seen.append(i.tolist())
        loss = self.loss(self(x), y)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.mean(loss.detach())
        self.log("mean", self.mean, on_step=False, on_epoch=True)
        self.log_dict({"noise": torch.rand(())})
        return self.by_hand(loss, batch_idx) if self.program.manual else loss

    def by_hand(self, loss, batch_idx):
        optimizer = self.optimizers()
        self.manual_backward(loss / self.program.accumulate)
        if (batch_idx + 1) % self.program.accumulate == 0:
            if self.program.clip != "none":
                self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm=self.program.clip)
            optimizer.step()
            optimizer.zero_grad()
            if self.program.schedule in {"step", "one cycle"}:
                self.lr_schedulers().step()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.program.averaging == "by hand":
            for average, now in zip(self.ema.parameters(), self.net.parameters(), strict=True):
                average.lerp_(now.detach(), 0.1)

    def on_train_epoch_end(self):
        if self.program.manual and self.program.schedule == "epoch":
            self.lr_schedulers().step()
        elif self.program.manual and self.program.schedule == "plateau":
            self.lr_schedulers().step(self.trainer.callback_metrics["loss"])

    def validation_step(self, batch, batch_idx):
        x, y, _ = self.parts(batch)
        self.log("val_loss", self.loss(self(x), y))

    @staticmethod
    def parts(batch):
        if isinstance(batch, dict):
            return batch["x"], batch["y"], batch["i"]
        return (batch.x, batch.y, batch.i) if isinstance(batch, Batch) else tuple(batch)

    def configure_optimizers(self):
        program, parameters = self.program, list(self.net.parameters())
        if program.groups == 2 and program.optimizer != "lbfgs":
            parameters = [{"params": parameters[:2], "lr": 5e-3, "weight_decay": 0.01}, {"params": parameters[2:]}]
        make, more = {
            "sgd": (torch.optim.SGD, {"momentum": 0.9}),
            "adam": (torch.optim.Adam, {"amsgrad": True}),
            "adamw": (torch.optim.AdamW, {}),
            "rmsprop": (torch.optim.RMSprop, {"momentum": 0.5, "centered": True}),
            "adagrad": (torch.optim.Adagrad, {}),
            "lbfgs": (torch.optim.LBFGS, {"max_iter": 2}),
        }[program.optimizer]
        optimizer = make(parameters, lr=1e-2, **more)
        schedulers = torch.optim.lr_scheduler
        cycled = {"cycle_momentum": program.optimizer not in {"adagrad", "lbfgs"}}
        make = {
            "step": lambda: schedulers.LambdaLR(optimizer, lambda n: min(1, (n + 1) / 4)),
            "epoch": lambda: schedulers.StepLR(optimizer, 1, gamma=0.5),
            "one cycle": lambda: schedulers.OneCycleLR(optimizer, 0.02, total_steps=60, **cycled),
            "plateau": lambda: schedulers.ReduceLROnPlateau(optimizer, patience=0),
        }.get(program.schedule)
        if make is None:
            return optimizer
        interval = "step" if program.schedule in {"step", "one cycle"} else "epoch"
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": make(), "interval": interval, "monitor": "loss"},
        }

    def train_dataloader(self):
        return loader(self.program, 1, training=True)

    def val_dataloader(self):
        return [] if self.program.validate == "never" else loader(self.program, 2, training=False)


class ByHand:
    """Manual optimisation with the training step of the module that it is mixed into; stands first among the bases."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


class Offset(nn.Module):
    """A parameter, and no layer."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(patients.CLASSES))

    def forward(self, x):
        return self.bias.expand(len(x), patients.CLASSES)


def mlp(activation=nn.ReLU, width=32, depth=2):
    """For the data of a healthy module."""
    layers = [nn.Linear(patients.FEATURES, width), activation()]
    layers += [layer for _ in range(depth - 1) for layer in (nn.Linear(width, width), activation())]
    return nn.Sequential(*layers, nn.Linear(width, patients.CLASSES))


def healthy_data(*, random_labels=False):
    """The data of a healthy module, with their labels or with labels that have nothing to do with them."""
    x, y = patients.Healthy().data(512, 1).tensors
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, y[order] if random_labels else y), 32, shuffle=True)


def settings(program):
    """What the Trainer is told, callbacks left out."""
    told = {"max_epochs": 2, "num_sanity_val_steps": program.sanity, "precision": program.precision}
    if program.validate == "every 2":
        told |= {"val_check_interval": 2}
    if not program.manual:
        clip = None if program.clip == "none" else 0.5
        told |= {"accumulate_grad_batches": program.accumulate, "gradient_clip_val": clip}
        told |= {"gradient_clip_algorithm": program.clip} if clip else {}
    return told


def callbacks(program):
    """Those that a program brings along."""
    return {
        "ema": lambda: [EMAWeightAveraging(decay=0.8)],
        "swa": lambda: [StochasticWeightAveraging(swa_lrs=1e-3, swa_epoch_start=1, annealing_epochs=1)],
    }.get(program.averaging, list)()
