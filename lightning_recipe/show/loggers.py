"""The door to TensorBoard: which of a trainer's loggers writes event files, and what is written to it."""

from __future__ import annotations

import shlex
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import Trainer
    from torch.utils.tensorboard import SummaryWriter


def of(trainer: Trainer) -> list[Any]:
    """The TensorBoard loggers of `trainer`, wherever they stand in its list.

    Told by their names, since ``lightning`` and ``pytorch_lightning`` each have a class of their own, and the dummy
    that ``fast_dev_run`` puts in their place answers to every attribute.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> of(Trainer(logger=False, barebones=True))
        []

    """
    return [
        logger for logger in trainer.loggers if any(c.__name__ == "TensorBoardLogger" for c in type(logger).__mro__)
    ]


def writers(trainer: Trainer) -> list[SummaryWriter]:
    """The event file writers of `trainer`; none on ranks other than zero.

    Raises:
        OSError: If the folder can't be written.

    """
    return [logger.experiment for logger in of(trainer)] if trainer.is_global_zero else []


@contextmanager
def writing(trainer: Trainer, *, wait: bool = True) -> Iterator[list[SummaryWriter]]:
    """The event file writers, to write something that may find no room; the user's next curve still may.

    A writer whose thread died of a full disk raises at all that it is given later, the user's curves included. It is
    then made to begin a new file, as it does after ``close()``.

    Args:
        trainer: Its loggers write.
        wait: Until the thread has written. Whoever does not has to come back before the user logs something, and wait
            then, with nothing to write.

    Raises:
        OSError: If it can't be written.

    """
    opened = writers(trainer)
    try:
        yield opened
        for writer in opened if wait else []:
            writer.flush()
    except OSError:
        for writer in opened:
            writer.file_writer = writer.all_writers = None
        raise


def is_written(trainer: Trainer) -> bool:
    """Whether this process writes event files, so that a picture is worth drawing.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> is_written(Trainer(logger=False, barebones=True))
        False

    """
    return trainer.is_global_zero and bool(of(trainer))


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
