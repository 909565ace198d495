"""The default list of callbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_recipe.callbacks.init_loss_check import InitLossCheck

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback


def recipe(*, strict: bool = False) -> list[Callback]:
    """All callbacks with their defaults, in the order of the recipe: ``Trainer(callbacks=recipe())``.

    Args:
        strict: Stop the run when a check fails; for continuous integration.

    Example:
        >>> [type(callback).__name__ for callback in recipe()]
        ['InitLossCheck']

    """
    return [InitLossCheck(strict=strict)]
