"""Draws of a batch that the module augments itself: in ``on_after_batch_transfer``, or in its step."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_recipe.callbacks import _augmentation as draws_of
from lightning_recipe.callbacks import _moved as moved
from lightning_recipe.callbacks._mixed_before import HOOKS, hooks_first
from lightning_recipe.callbacks._turned_apart import turned_apart
from lightning_recipe.losses.by_hand import likely
from lightning_recipe.record.copies import snapshot
from lightning_recipe.record.step import Need
from lightning_recipe.record.tensors import same, tensors
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.callbacks._augmentation import Draws
    from lightning_recipe.finding import Outcome
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run
    from lightning_recipe.trial.rehearsal import Rehearsal

TIMES = 6
"""Draws; the probability that one of four quarter turns is all that comes is 1 in 1,000."""
SAME = 3
"""Draws that are all the same where nothing is drawn."""
FEW = 4
"""Examples that are looked at."""
HOOK = "on_after_batch_transfer"


def may_be_augmented(run: Run, step: Step) -> bool:
    """Whether images entered, and there is a hook, or a target of their size."""
    sizes = {t.shape[-2:] for t in step.inputs.values() if t.ndim == 4 and len(t) >= FEW}  # noqa: PLR2004
    target = _target(step)
    return bool(sizes) and target is not None and (run.overrides(HOOK) or target.shape[-2:] in sizes)


def left_behind(again: Rehearsal, run: Run, batch: Any) -> Iterator[Outcome]:
    """Targets with a place that do not go with images that the module turns, mirrors or moves.

    The hook is called on a batch that it was called on before: draws are compared with one another.
    """
    hooks = [HOOK] if run.overrides(HOOK) else []
    draws = _draws(again, batch, hooks_first(again.module, run, lambda: snapshot(batch), hooks))
    if not draws:
        return
    if image := draws_of.turned(draws):
        yield from draws_of.left_behind(draws, image, lambda _: 0.0)
    yield from moved.left_where_they_are(draws)
    yield from moved.moved_otherwise(draws)
    yield from turned_apart(draws)


def has_hooks(run: Run) -> bool:
    """Whether hooks of the module change a batch before the step."""
    return any(run.overrides(hook) for hook in HOOKS)


def in_validation(run: Run, batch: Any) -> Outcome | None:
    """What to say of hooks that draw anew what the validation step is given, while labels stay.

    They are called on a batch that they were called on before, twice with the same random numbers and once with others.
    """
    made, hooks = [], [hook for hook in HOOKS if run.overrides(hook)]
    with suppress(CannotRehearseError), rehearsal(run) as again:
        given = hooks_first(again.module, run, lambda: snapshot(batch), hooks, "validation_step")
        for seed in (0, 0, 1):
            again.step(batch, method="validation_step", seed=seed)
            made.append({path: tensor.detach().cpu() for path, tensor in tensors(given[0], "batch")})
    rows = [{path: t[:FEW] for path, t in one.items() if t.ndim and len(t) >= FEW} for one in made]
    if len(rows) < 3 or not _are_same(*rows[:2]) or rows[2].keys() != rows[0].keys():  # noqa: PLR2004
        return None
    each = [[{path: t[i] for path, t in one.items()} for one in rows[1:]] for i in range(FEW)]
    return draws_of.of_validation(each, shared=False, what=" and ".join(hooks)) if rows[0] else None


def _draws(again: Rehearsal, batch: Any, given: list[Any]) -> Draws:
    draws: Draws = [[] for _ in range(FEW)]
    for seed in range(TIMES):
        step = again.step(batch, needs=Need.INPUTS | Need.LOSSES, seed=seed)
        target = _target(step)
        if target is None:
            return []
        known = (path for path, tensor in tensors(given[0], "batch") if same(tensor, target))
        found = {name: t for name, t in step.inputs.items() if t.ndim == 4 and len(t) >= FEW}  # noqa: PLR2004
        found[next(known, "of the loss")] = target
        for times, i in zip(draws, range(FEW), strict=True):
            times.append({name: tensor[i].detach().cpu() for name, tensor in found.items()})
        if seed == SAME - 1 and all(_are_same(times[0], other) for times in draws for other in times):
            return []
    return draws


def _are_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two draws are the same."""
    return one.keys() == other.keys() and all(same(tensor, other[name]) for name, tensor in one.items())


def _target(step: Step) -> Tensor | None:
    """What the loss compares with, a row for each example."""
    call = step.loss_calls[0] if step.loss_calls else likely(step)
    target = None if call is None else call.arguments.get("target")
    return target if isinstance(target, Tensor) and target.ndim and len(target) >= FEW else None
