"""Why a copy can't be fitted, or a fit would tell nothing: as code and sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lightning_recipe.finding import in_short
from lightning_recipe.record.tensors import holds
from lightning_recipe.trial.isolation import is_out_of_memory, obstacle

if TYPE_CHECKING:
    from lightning_recipe.run import Run


def known_before(run: Run) -> tuple[str, str] | None:
    """Why no fit could tell anything, or None."""
    optimizers = run.trainer.optimizers
    if run.resumed:
        return "resumed", f"the run resumes at step {run.trainer.global_step}; what it starts from has been trained"
    if reason := obstacle(run.trainer):
        return "sharded", reason
    if not optimizers or not any(group["params"] for group in optimizers[0].param_groups):
        return "no_optimiser", "there is no optimiser"
    if any(group.get("maximize") for group in optimizers[0].param_groups):
        return "maximises", "the optimiser maximises"
    if holds(run.batch, Iterator):
        return "iterator_in_batch", "the batch holds an iterator, which a trial would use up"
    return None


def of_error(error: Exception) -> tuple[str, str]:
    """What an error in a fit says; one of a kind that nobody expects is raised again.

    Example:
        >>> of_error(ValueError("3 examples expected"))
        ('not_copied', 'a copy of the module could not be trained: ValueError: 3 examples expected')

    """
    if is_out_of_memory(error):
        return "out_of_memory", "not enough memory for a second copy of the module and its optimiser's state"
    if isinstance(error, RuntimeError | TypeError | AttributeError | ValueError | KeyError | IndexError):
        return "not_copied", f"a copy of the module could not be trained: {in_short(error)}"
    raise error
