"""Where the thresholds of PredictionDynamicsLogger come from, and what its pictures cost.

    python benchmarks/prediction_dynamics.py calibrate 0 1    small programs, learning rates 1e-6 to 10, two seeds
    python benchmarks/prediction_dynamics.py draw             milliseconds of one core for a picture

Runs that learn must not be accused, nor those on random labels with a learning rate of 1e-4 to 1e-2 (Adam).
"""

# A script, not a library:
# ruff: noqa: ANN001, ANN002, ANN201, ANN204, D101, D102, D103, PLR2004

from __future__ import annotations

import logging
import sys
import tempfile
import time
import warnings
from itertools import pairwise

import lightning.pytorch as L
import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe.callbacks import prediction_dynamics_logger
from lightning_recipe.callbacks._fixed_batch import FixedBatch
from lightning_recipe.figures import dynamics
from lightning_recipe.figures.canvas import pixels
from lightning_recipe.losses.reading import reading
from lightning_recipe.record.step import LossCall

RATES = [10.0**exponent for exponent in range(-6, 2)]
STEPS = 300


class Program(L.LightningModule):
    """A network, a loss function, an optimiser."""

    def __init__(self, net, loss, optimizer, rate):
        super().__init__()
        self.net, self.loss, self.optimizer, self.rate = net, loss, optimizer, rate

    def training_step(self, batch, _):
        return self.loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), lr=self.rate)


def mlp(*sizes):
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def digits():
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return ((torch.tensor(x).float() - 4.88) / 6.02)[order], torch.tensor(y)[order]


def random_labels(classes):
    x, y = digits()
    return x, y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))] % classes


def sums():
    x, y = digits()
    return x, (y % 2).float()


def progression():
    x, y = load_diabetes(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return torch.tensor(x / x.std(0)).float()[order], torch.tensor((y - y.mean()) / y.std()).float()[order, None]


def random_numbers():
    x, _ = digits()
    return x, torch.randn(len(x), 1, generator=torch.Generator().manual_seed(1))


def sequences():
    """Each token is the one before plus one or two, by chance: half of it can be known."""
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 3, (1500, 17), generator=rng).cumsum(1) % 12
    return ids[:, :-1], ids[:, 1:]


def discs():
    rng, grid = torch.Generator().manual_seed(0), torch.arange(16).float()
    x, y = (torch.rand(2, 600, generator=rng) * 10 + 3).unbind()
    mask = ((grid - x[:, None, None]) ** 2 + (grid[:, None] - y[:, None, None]) ** 2 < 9).long()
    return (mask + 0.4 * torch.randn(mask.shape, generator=rng)).unsqueeze(1), mask


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(12, 16), nn.GRU(16, 48, batch_first=True), nn.Linear(48, 12)

    def forward(self, ids):
        return self.head(self.rnn(self.embed(ids))[0])


def by_token(logits, ids):
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten())


def normed():
    return nn.Sequential(
        nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10)
    )


def segmenter():
    return nn.Sequential(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 2, 5, padding=2))


def momentum(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


bce = F.binary_cross_entropy_with_logits
PROGRAMS = {
    "digits": (digits, lambda: mlp(64, 64, 64, 10), F.cross_entropy),
    "digits, BatchNorm": (digits, normed, F.cross_entropy),
    "odd digits": (sums, lambda: nn.Sequential(*mlp(64, 64, 1), nn.Flatten(0)), bce),
    "diabetes": (progression, lambda: mlp(10, 32, 1), F.mse_loss),
    "sequences": (sequences, Reader, by_token),
    "discs": (discs, segmenter, F.cross_entropy),
    "random labels": (lambda: random_labels(10), lambda: mlp(64, 64, 64, 10), F.cross_entropy),
    "random numbers": (random_numbers, lambda: mlp(64, 64, 64, 1), F.mse_loss),
    "two random labels": (lambda: random_labels(2), lambda: mlp(64, 256, 2), F.cross_entropy),
}


class Measuring(prediction_dynamics_logger.PredictionDynamicsLogger):
    """Keeps what is judged."""

    def judge(self, fixed):
        self.measured = fixed.measure()
        return super().judge(fixed)


def train(name, optimizer, rate, seed, steps=STEPS):
    data, net, loss = PROGRAMS[name]
    x, y = data()
    L.seed_everything(seed, verbose=False)
    n = len(x) // 4
    callback = Measuring()
    trainer = L.Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=-1, logger=False, callbacks=[callback],
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        default_root_dir=tempfile.gettempdir(),
    )  # fmt: skip
    program = Program(net(), loss, optimizer, rate)
    trainer.fit(
        program, DataLoader(TensorDataset(x[n:], y[n:]), 32, shuffle=True), DataLoader(TensorDataset(x[:n], y[:n]), 64)
    )
    return callback


def calibrate(seeds):
    heading = True
    for name in PROGRAMS:
        for optimizer in (torch.optim.Adam, momentum):
            for rate in RATES:
                for seed in seeds:
                    callback = train(name, optimizer, rate, seed)
                    if heading:
                        print("program | optimiser | rate | seed", *callback.measured, "verdict", sep=" | ")
                        heading = False
                    numbers = " | ".join(f"{value:.3g}" for value in callback.measured.values())
                    print(
                        name,
                        optimizer.__name__,
                        f"{rate:g}",
                        seed,
                        numbers,
                        callback.findings[-1].status,
                        sep=" | ",
                        flush=True,
                    )


def drawing():
    """The pictures of a run of 100,000 steps, drawn as often as it takes to see the scatter."""
    print("kind | milliseconds, median of 9 | worst")
    for name, (how, looks) in examples().items():
        fixed = FixedBatch(how, lambda *_: {}, torch.rand(16, 3, 224, 224) if how.of_maps else None)
        for step, values in zip([0, 1, 2, 4, 8, 16, *range(25, 1500, 25)], looks, strict=False):
            fixed.look(step, values, dynamics.keep(fixed, values))
        times = []
        for _ in range(9):
            start = time.process_time()
            pixels(dynamics.draw(fixed))
            times.append(1000 * (time.process_time() - start))
        print(name, f"{sorted(times)[4]:.0f}", f"{max(times):.0f}", sep=" | ")


def examples():
    """Of each kind, how to read it and 64 looks at it."""
    cases = {
        "classes": ("cross_entropy", torch.randn(64, 16, 10), torch.arange(16) % 10),
        "labels": ("binary_cross_entropy_with_logits", torch.randn(64, 16, 5), torch.ones(16, 5)),
        "numbers": ("mse_loss", torch.randn(64, 16, 1).cumsum(0), torch.randn(16, 1)),
        "tokens": ("cross_entropy", torch.randn(64, 16, 100, 32), torch.randint(100, (16, 32))),
        "maps of classes": ("cross_entropy", torch.randn(2, 16, 21, 224, 224), torch.randint(21, (16, 224, 224))),
        "images": ("mse_loss", torch.rand(2, 16, 3, 224, 224), torch.rand(16, 3, 224, 224)),
    }
    found = {}
    for name, (function, outputs, target) in cases.items():
        arguments = {"input": outputs[0], "target": target}
        loss = LossCall(
            function, getattr(F, function), arguments, torch.tensor(1.0), 16, "a.py:1", target_from_net=False
        )
        how = reading(outputs[0], loss, 16)
        found[name] = (how, [how.read({"": output}) for output in outputs])
    return found


def main():
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if sys.argv[1:2] == ["draw"]:
        drawing()
    else:
        calibrate([int(seed) for seed in sys.argv[2:]] or [0])


if __name__ == "__main__":
    main()
