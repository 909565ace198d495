"""The door to loggers: TensorBoard's event files, and what Lightning's other loggers can take."""

from __future__ import annotations

import re
import shlex
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from lightning.pytorch import Trainer
    from torch.utils.tensorboard import SummaryWriter

PICTURES = ("WandbLogger", "MLFlowLogger", "CometLogger")
"""Loggers of Lightning that take pictures and texts, but TensorBoard's."""
CURVES = (*PICTURES, "CSVLogger")
"""Those that take curves. Loggers of other people's may be recording for a purpose, and get nothing."""


def of(trainer: Trainer) -> list[Any]:
    """The TensorBoard loggers of `trainer`, wherever they stand in its list.

    Told by their names, since ``lightning`` and ``pytorch_lightning`` each have a class of their own, and the dummy
    that ``fast_dev_run`` puts in their place answers to every attribute.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> of(Trainer(logger=False, barebones=True))
        []

    """
    return _named(trainer, ("TensorBoardLogger",))


def others(trainer: Trainer, kinds: tuple[str, ...] = CURVES) -> list[Any]:
    """The loggers that are no TensorBoard, of some kinds; none on ranks other than zero.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.loggers import CSVLogger
        >>> trainer = Trainer(logger=CSVLogger("."), accelerator="cpu")
        >>> len(others(trainer)), others(trainer, PICTURES)
        (1, [])

    """
    return _named(trainer, kinds) if trainer.is_global_zero else []


def _named(trainer: Trainer, kinds: tuple[str, ...]) -> list[Any]:
    return [logger for logger in trainer.loggers if any(c.__name__ in kinds for c in type(logger).__mro__)]


def give_numbers(logger: Any, values: Mapping[str, float], step: int) -> None:
    """Write a point of each curve to a logger that is no TensorBoard."""
    logger.log_metrics({_plain(tag): value for tag, value in values.items()}, step)


def give_picture(logger: Any, tag: str, image: np.ndarray, step: int) -> None:
    """Write a picture of shape (H, W, C), uint8, to one of `PICTURES`."""
    if hasattr(logger, "log_image"):  # Weights & Biases
        logger.log_image(tag, [image], step=step)
    elif hasattr(logger, "run_id"):  # MLflow
        logger.experiment.log_image(logger.run_id, image, key=_plain(tag), step=step)
    else:
        logger.experiment.log_image(image, name=tag, step=step)


def give_text(logger: Any, tag: str, text: str, step: int) -> None:
    """Write a text in markdown to one of `PICTURES`."""
    if hasattr(logger, "log_text"):
        logger.log_text(tag, columns=["markdown"], data=[[text]], step=step)
    elif hasattr(logger, "run_id"):
        logger.experiment.log_text(logger.run_id, text, f"{_plain(tag)}.md")
    else:
        logger.experiment.log_text(text, step=step, metadata={"name": tag})


def _plain(tag: str) -> str:
    """What MLflow allows in a name."""
    return re.sub(r"[^\w/. -]+", "", tag)


def writers(trainer: Trainer) -> list[SummaryWriter]:
    """The event file writers of `trainer`; none on ranks other than zero.

    Raises:
        OSError: If the folder can't be written.

    """
    return [logger.experiment for logger in of(trainer)] if trainer.is_global_zero else []


@contextmanager
def writing(trainer: Trainer) -> Iterator[list[SummaryWriter]]:
    """The event file writers, to write something that may find no room; the user's next curve still may.

    A writer whose thread died of a full disk raises at all that it is given later, the user's curves included. It is
    then made to begin a new file, as it does after ``close()``. So the thread is waited for.

    Raises:
        OSError: If it can't be written.

    """
    opened = writers(trainer)
    try:
        yield opened
        for writer in opened:
            writer.flush()
    except OSError:
        for writer in opened:
            writer.file_writer = writer.all_writers = None
        raise


def take_pictures(trainer: Trainer) -> bool:
    """Whether `trainer` has a logger that takes pictures, which the process of rank zero writes.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.loggers import CSVLogger
        >>> take_pictures(Trainer(logger=CSVLogger("."), accelerator="cpu"))
        False

    """
    return bool(_named(trainer, ("TensorBoardLogger", *PICTURES)))


def is_written(trainer: Trainer) -> bool:
    """Whether this process writes to a logger that takes pictures, so that one is worth drawing.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> is_written(Trainer(logger=False, barebones=True))
        False

    """
    return trainer.is_global_zero and take_pictures(trainer)


def how_to_look(trainer: Trainer) -> list[str]:
    """What to type to look at the run, and the pages to open then; nothing if no TensorBoard logger writes it.

    TensorBoard keeps ten images of a tag by default, by chance; the option keeps them all.
    """
    folders = [shlex.quote(str(logger.log_dir)) for logger in of(trainer)]
    if not folders:
        return []
    page = "http://localhost:6006/"  # what is filtered by tag is shown unfolded: the recipe's begin with a number
    return [
        f"tensorboard --logdir {folders[0]} --samples_per_plugin images=100",
        f"{page}#text   this table",
        f"{page}?tagFilter=%5E%5Cd&smoothing=0#timeseries   pictures and curves",
    ]
