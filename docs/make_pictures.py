"""What a callback says and draws of a broken program.

The program is the first one with the callback's name in its `code`, of those below and of the patients in ``tests``.
What the callback said is written to ``<callback>.txt``, as in the terminal; the cards that it wrote for TensorBoard to
``<callback>_<card>.png``. One picture is no card: the loss curve of the net that InitLossCheck is about.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import math
import re
import tempfile
import warnings
from typing import TYPE_CHECKING, Any, ClassVar

import patients
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe.demo import CLASSES, DigitsNet, loaders
from lightning_recipe.figures.axes import Axis, around, axes
from lightning_recipe.figures.canvas import COLOURS, LINE, pixels
from lightning_recipe.figures.experiments import key
from lightning_recipe.figures.picture import BODY, Box, Picture
from lightning_recipe.show import terminal

if TYPE_CHECKING:
    from pathlib import Path

    from torch.optim import Optimizer

    from lightning_recipe import RecipeCallback

WIDTH = 84
"""Characters of a line."""
PALETTE = 64
"""Colours of a picture; more are not told apart in a plot, and cost space."""


class Digits(DigitsNet):
    """The demo's net for handwritten digits."""

    code = ""
    length: ClassVar[dict[str, int]] = {"max_steps": 1}

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """The demo's batches."""
        return loaders()[0]

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """The same, held out."""
        return loaders()[1]


class LargeHead(Digits):
    """The demo's net for handwritten digits, its output layer initialised with a standard deviation of 8."""

    code = "InitLossCheck/too_high"

    def __init__(self) -> None:
        super().__init__()
        nn.init.normal_(self.head.weight, std=8)


class TinySteps(Digits):
    """The demo's net for handwritten digits, with a learning rate a thousand times too low."""

    code = "OverfitOneBatch/learning_rate_too_low"

    def configure_optimizers(self) -> Optimizer:
        """A rate of one in a million."""
        return torch.optim.Adam(self.parameters(), lr=1e-6)


class Unscaled(Digits):
    """The demo's net for handwritten digits; nobody scaled the validation images. No error is raised."""

    code = "VisualizeInputs/passed"

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Pixels from 0 to 16, as they are stored."""
        images, labels = (torch.stack(column) for column in zip(*loaders()[1].dataset, strict=True))
        return DataLoader(TensorDataset((6 * images + 5).clamp(0, 16).round(), labels), 200)


class Mislabelled(Digits):
    """The demo's net for handwritten digits; three of 400 validation labels are wrong: those of 33, 123 and 250."""

    code = "HardExamples/passed"
    length: ClassVar[dict[str, int]] = {"max_epochs": 20}

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Labels that are one too high."""
        images, labels = (torch.stack(column) for column in zip(*loaders()[1].dataset, strict=True))
        wrong = torch.tensor([33, 123, 250])
        labels[wrong] = (labels[wrong] + 1) % CLASSES
        return DataLoader(TensorDataset(images, labels), 200)


class HugeSteps(Digits):
    """The demo's net for handwritten digits, with a learning rate a thousand times too high."""

    code = "PredictionDynamicsLogger/jumping"
    length: ClassVar[dict[str, int]] = {"max_steps": 308}

    def configure_optimizers(self) -> Optimizer:
        """A rate of one."""
        return torch.optim.Adam(self.parameters(), lr=1.0)


class Reshaped(Digits):
    """The demo's net for handwritten digits, with a ``reshape`` where a permutation was meant."""

    code = "BatchMixingDetector/mixes"

    def forward(self, image: Tensor) -> Tensor:
        """Images to logits that mix the examples of the batch."""
        features = self.features(image).movedim(0, -1)
        logits: Tensor = self.head(features.reshape(len(image), -1))
        return logits


class OneWay(patients.TargetNotFlipped):
    """Images of a bright bar are mirrored at random, and its place, which is to be predicted, is not."""


def program_for(check: type[RecipeCallback]) -> type[LightningModule]:
    """The first program that `check` is about.

    Raises:
        LookupError: If there is none.

    """
    for program in [*globals().values(), *vars(patients).values()]:
        if inspect.isclass(program) and getattr(program, "code", "").startswith(f"{check.__name__}/"):
            return program
    msg = f"no patient in tests/patients.py has a code that begins with {check.__name__}/"
    raise LookupError(msg)


def unhurried(check: type[RecipeCallback]) -> RecipeCallback:
    """With its defaults, and on a busy machine too with enough time to find the same."""
    seconds: dict[str, Any] = {"max_seconds": 600} if "max_seconds" in inspect.signature(check).parameters else {}
    return check(**seconds)


def run(callback: RecipeCallback | None, program: type[LightningModule], **length: int) -> EventAccumulator:
    """Train quietly, for two epochs unless the program or `length` says otherwise; the events that were written."""
    seed_everything(0, verbose=False)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        trainer = Trainer(
            **(length or getattr(program, "length", getattr(program, "steps", {"max_epochs": 2}))),
            accelerator="cpu",
            callbacks=callback,
            logger=TensorBoardLogger(folder),
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.fit(program())
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
    curves = [
        [point.value for point in run(None, net, max_steps=66).Scalars("train_loss")] for net in (LargeHead, Digits)
    ]
    picture = Picture("training loss on digits")
    box = Box(BODY.left, BODY.top, BODY.right, BODY.bottom - 3 * LINE)
    frame = axes(picture, Axis(0, 66), around([0, *curves[0]]), box=box, names=("step", ""))
    for curve, colour in zip(curves, COLOURS, strict=False):
        picture.draw(frame.points(range(len(curve)), curve), colour, 3)
    picture.draw(frame.points([0, 66], math.log(CLASSES)), "black", dashed=True)
    names = ("LargeHead", "initialised by torch", "uniform guess: ln 10")
    key(picture, list(zip(names, (*COLOURS[:2], "black"), strict=True)), box.bottom)
    return Image.fromarray(pixels(picture))


def save(image: Image.Image, path: Path) -> None:
    """A small file."""
    image.convert("RGB").quantize(PALETTE, dither=Image.Dither.NONE).save(path, optimize=True)


def make(check: type[RecipeCallback], folder: Path) -> None:
    """Keep what `check` says and draws of its program."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    callback = unhurried(check)
    events = run(callback, program_for(check))
    (folder / f"{file_name(callback)}.txt").write_text(text(callback), encoding="utf-8")
    for tag in events.Tags()["images"]:
        image = Image.open(io.BytesIO(events.Images(tag)[-1].encoded_image_string))
        save(image, folder / f"{file_name(callback, tag)}.png")
    if check.__name__ == "InitLossCheck":
        save(hockey_stick(), folder / "init_loss_check_loss.png")
