"""What the checks of the data hold while ten million examples pass.

Run ``python benchmarks/streams.py``; ``--short`` only proves that it runs. A stream of rows of 20 numbers with a label
is trained on once, by itself and with the checks that stream, each in a process of its own. Printed is what each
process holds after a tenth, a third and all of the stream. Aim: the same at the end as after a tenth.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import subprocess
import sys
import warnings
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import psutil
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from lightning_recipe import Baselines, DataProfile, EvaluationCheck, HardExamples, SplitCheck

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH = 8192
FEATURES = 20
MEGABYTE = 2**20
ATTACHED = {
    "bare": list,
    "checks": lambda: [DataProfile(), SplitCheck(), HardExamples(), EvaluationCheck(), Baselines()],
}


class Rows(IterableDataset):
    """Batches that are drawn as they are asked for."""

    def __init__(self, examples: int, seed: int) -> None:
        self.batches, self.seed = max(1, examples // BATCH), seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Numbers and classes."""
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.batches):
            x = torch.randn(BATCH, FEATURES, generator=generator)
            yield x, (x[:, 0] > 0).long() + (x[:, 1] > 1).long()


class Net(LightningModule):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, 3))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        """Cross entropy."""
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        """Cross entropy."""
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), 1e-3)


class Held(Callback):
    """Notes what the process holds after some steps."""

    def __init__(self, steps: list[int]) -> None:
        self.megabytes = dict.fromkeys(steps, 0.0)

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        """After the step."""
        if trainer.global_step in self.megabytes:
            self.megabytes[trainer.global_step] = psutil.Process().memory_info().rss / MEGABYTE


def measure(attached: str, examples: int) -> list[float]:
    """Megabytes after a tenth, a third and all of the stream."""
    steps = max(1, examples // BATCH)
    held = Held(sorted({max(1, steps // 10), max(1, steps // 3), steps}))
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        trainer = Trainer(
            max_epochs=1, accelerator="cpu", callbacks=[*ATTACHED[attached](), held], default_root_dir=folder,
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, logger=False,
        )  # fmt: skip
        train, val = Rows(examples, 0), Rows(examples // 10, 1)
        trainer.fit(Net(), DataLoader(train, batch_size=None), DataLoader(val, batch_size=None))
    return list(held.megabytes.values())


def main() -> None:
    """Print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="only prove that it runs")
    parser.add_argument("--examples", type=int, default=10**7)
    parser.add_argument("--measure", choices=ATTACHED, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    examples = 20 * BATCH if options.short else options.examples
    if options.measure:
        print(json.dumps(measure(options.measure, examples)))
        return
    for attached in ATTACHED:
        command = [sys.executable, __file__, "--measure", attached, "--examples", str(examples)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        held = json.loads(done.stdout.splitlines()[-1])
        said = ", ".join(f"{one:.0f}" for one in held)
        print(f"{attached:7} holds {said} MB after 1/10, 1/3 and all of {examples:,} examples")


if __name__ == "__main__":
    main()
