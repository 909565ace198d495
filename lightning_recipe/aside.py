"""Takes callbacks that rest to the end of a fit out of the trainer's list for as long."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import Callback


class Aside:
    """Callbacks that are out of a trainer's list: Lightning asks each in it for each hook of a step.

    That 25 callbacks do nothing costs 1.4 % of a step of 3.5 ms. Lightning goes through the list at this moment, so the
    shorter one is another.

    Args:
        trainer: Whose list it is.
        resting: Who leaves it; those that are not in it stay away.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_recipe import BiasCheck, SeedCheck
        >>> trainer = Trainer(callbacks=[SeedCheck(), BiasCheck()], barebones=True)
        >>> aside = Aside(trainer, trainer.callbacks[1:])
        >>> len(trainer.callbacks)
        1
        >>> aside.put_back()
        >>> [type(callback).__name__ for callback in trainer.callbacks]
        ['SeedCheck', 'BiasCheck']

    """

    def __init__(self, trainer: Trainer, resting: Sequence[Callback]) -> None:
        self._trainer, self._list = trainer, trainer.callbacks  # type: ignore[attr-defined]
        self._ids = {id(callback) for callback in resting}
        trainer.callbacks = [c for c in self._list if id(c) not in self._ids]  # type: ignore[attr-defined]

    def put_back(self) -> None:
        """Make the list what it was, but for what others have added or taken out."""
        trainer, known = self._trainer, {id(callback) for callback in self._list}
        left = self._ids | {id(callback) for callback in trainer.callbacks}  # type: ignore[attr-defined]
        added = [c for c in trainer.callbacks if id(c) not in known]  # type: ignore[attr-defined]
        self._list[:] = [*(callback for callback in self._list if id(callback) in left), *added]
        trainer.callbacks = self._list  # type: ignore[attr-defined]
