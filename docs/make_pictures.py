"""What the callbacks show of small broken programs: ``python docs/make_pictures.py [folder]``.

Each program is the demo's net for handwritten digits with one mistake. What the callback said is written to
``<callback>.txt``, as in the terminal; the cards that it wrote for TensorBoard to ``<callback>_<card>.png``.
One picture is no card: the loss curve of the net that InitLossCheck is about.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe import (
    BatchMixingDetector,
    InitLossCheck,
    OverfitOneBatch,
    PredictionDynamicsLogger,
    RecipeCallback,
    VisualizeInputs,
)
from lightning_recipe.demo import CLASSES, DigitsNet, loaders
from lightning_recipe.figures.canvas import COLOURS, card, pixels
from lightning_recipe.show import terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim import Optimizer

WIDTH = 84
"""Characters of a line."""
PALETTE = 64
"""Colours of a picture; more are not told apart in a plot, and cost space."""


class LargeHead(DigitsNet):
    """An output layer with a standard deviation of 8, whatever the width."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.normal_(self.head.weight, std=8)


class TinySteps(DigitsNet):
    """Adam, a thousand times too slow."""

    def configure_optimizers(self) -> Optimizer:
        """A rate of one in a million."""
        return torch.optim.Adam(self.parameters(), lr=1e-6)


class HugeSteps(DigitsNet):
    """Adam, a thousand times too fast."""

    def configure_optimizers(self) -> Optimizer:
        """A rate of one."""
        return torch.optim.Adam(self.parameters(), lr=1.0)


class Reshaped(DigitsNet):
    """A reshape where a permutation was meant."""

    def forward(self, image: Tensor) -> Tensor:
        """Images to logits that mix the examples of the batch."""
        features = self.features(image).movedim(0, -1)
        logits: Tensor = self.head(features.reshape(len(image), -1))
        return logits


def forgotten_scaling() -> tuple[DataLoader[tuple[Tensor, ...]], DataLoader[tuple[Tensor, ...]]]:
    """The demo's loaders, but nobody scaled the validation images."""
    train, val = loaders()
    images, labels = (torch.stack(column) for column in zip(*val.dataset, strict=True))
    return train, DataLoader(TensorDataset((6 * images + 5).clamp(0, 16).round(), labels), 200)


PROGRAMS = [
    (InitLossCheck(), LargeHead, loaders, 1),
    (OverfitOneBatch(max_seconds=60), TinySteps, loaders, 1),  # the same picture on a busy machine
    (VisualizeInputs(), DigitsNet, forgotten_scaling, 1),
    (PredictionDynamicsLogger(), HugeSteps, loaders, 308),
    (BatchMixingDetector(max_seconds=60), Reshaped, loaders, 1),
]


def run(
    callback: RecipeCallback | None,
    net: type[DigitsNet],
    data: Callable[[], tuple[DataLoader[tuple[Tensor, ...]], DataLoader[tuple[Tensor, ...]]]],
    steps: int,
) -> EventAccumulator:
    """Train quietly; the events that were written."""
    seed_everything(0, verbose=False)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        trainer = Trainer(
            max_steps=steps,
            accelerator="cpu",
            callbacks=callback,
            logger=TensorBoardLogger(folder),
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.fit(net(), *data())
        return EventAccumulator(trainer.logger.log_dir, {"images": 0, "scalars": 0}).Reload()


def file_name(callback: RecipeCallback, tag: str = "") -> str:
    """The callback's module, and the last part of a card's tag."""
    module = type(callback).__module__.rpartition(".")[-1]
    return "_".join([module, *re.findall(r"\w+", tag.rpartition("/")[-1])])


def text(callback: RecipeCallback) -> str:
    """The findings as the terminal shows them."""
    console = Console(file=io.StringIO(), width=WIDTH)
    for finding in callback.findings:
        console.print(terminal.on_a_screen(finding))
    return re.sub(r" +$", "", console.file.getvalue(), flags=re.MULTILINE)


def hockey_stick() -> Image.Image:
    """The training loss with an output layer that is too large, and with torch's own."""
    figure = card("Training loss on digits")
    axes = figure.add_subplot(xlabel="step", ylabel="loss")
    names = ("LargeHead", "initialised by torch")
    for net, name, colour in zip((LargeHead, DigitsNet), names, COLOURS, strict=False):
        curve = run(None, net, loaders, 66).Scalars("train_loss")
        axes.plot([point.step for point in curve], [point.value for point in curve], label=name, color=colour)
    axes.axhline(math.log(CLASSES), color="black", linestyle="--", label="knowing nothing: ln 10")
    axes.legend(fontsize=9)
    return Image.fromarray(pixels(figure))


def save(image: Image.Image, path: Path) -> None:
    """A small file."""
    image.convert("RGB").quantize(PALETTE, dither=Image.Dither.NONE).save(path, optimize=True)


def main(folder: Path) -> None:
    """Run each program, and keep what was said and drawn."""
    warnings.filterwarnings("ignore", message=".*(does not have many workers|LeafSpec).*")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    for callback, net, data, steps in PROGRAMS:
        events = run(callback, net, data, steps)
        (folder / f"{file_name(callback)}.txt").write_text(text(callback), encoding="utf-8")
        for tag in events.Tags()["images"]:
            image = Image.open(io.BytesIO(events.Images(tag)[-1].encoded_image_string))
            save(image, folder / f"{file_name(callback, tag)}.png")
    save(hockey_stick(), folder / "init_loss_check_loss.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
