"""Modules all of whose outputs become numbers, as of numpy: whatever is made of these, they learn nothing from it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from lightning_recipe.callbacks._untrained import is_as_drawn
from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from lightning_recipe.callbacks._untrained import Marks
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

LEAVING = {"item", "tolist", "numpy", "array"}
"""Functions that make numbers of tensors."""


class Numbers:
    """Follows them over looks.

    Args:
        patience: Looks at which they were as they are, before it is tried whether the loss depends on them.

    """

    def __init__(self, patience: int) -> None:
        self._patience, self._times, self._depends = patience, dict[str, int](), dict[str, bool]()

    def look(
        self, run: Run, step: Step, parameters: Mapping[str, Tensor], marks: Marks
    ) -> Iterator[tuple[Outcome, str]]:
        """Those whose parameters an optimiser stepped without a gradient.

        `failed` if these are as they were drawn, have stayed so, and the loss is another one with others: then there is
        something to learn, and no way on which it could be.
        """
        names = [name for name, norm in step.gradients.items() if math.isnan(norm) and name in parameters]
        waiting = {id(parameters[name]) for name in names}
        left = _left(step) if waiting else set()
        found: dict[str, dict[str, Tensor]] = {}
        for call in step.events:
            own: dict[str, Tensor] = {}
            if call.module is not None and not call.where:
                own.update(call.module.named_parameters())
            if own and left.issuperset(call.outputs) and waiting.issuperset(map(id, own.values())):
                found[call.name] = own
        all_own = {f"{name}.{key}": parameter for name, own in found.items() for key, parameter in own.items()}
        if not found or not marks.stay(all_own):
            self._times.clear()
            return
        subject = ", ".join(found)
        self._times[subject] = self._times.get(subject, 0) + 1
        drawn = self._times[subject] >= self._patience and all(map(is_as_drawn, all_own.values()))
        if drawn and subject not in self._depends:
            ids = set(map(id, all_own.values()))
            own_names = {n for n, p in parameters.items() if id(p) in ids}
            self._depends |= dependence(run, step, [own_names], [subject])
        sure = drawn and self._depends[subject]
        leaving = next(event for event in step.events if event.name in LEAVING and left.intersection(event.inputs))
        yield (
            Outcome(
                Status.FAILED if sure else Status.ADVICE,
                "no_gradient",
                f"no gradient reaches {listed(found)}: all that is made of it leaves the graph by {leaving.name} "
                f"({leaving.where}){', though the loss depends on it' * sure}",
                "stay in torch between it and the loss; if it is to stay as it is, requires_grad_(False) says so",
                {"parameters": sum(parameter.numel() for parameter in all_own.values())},
            ),
            subject,
        )


def dependence(run: Run, step: Step, groups: list[set[str]], subjects: list[str]) -> dict[str, bool]:
    """Whether the loss of a step is another one with other parameters, and the same with the same.

    Args:
        run: Whose module is copied.
        step: That is run again.
        groups: Names of the parameters that are moved together, one group after the other.
        subjects: What to call each group.

    """
    depends = dict.fromkeys(subjects, False)
    try:
        with torch.enable_grad(), rehearsal(run) as again:
            before, same = (again.step(step.batch).loss for _ in range(2))
            if before is None or same is None or not torch.equal(before, same):
                return depends
            for subject, names in zip(subjects, groups, strict=True):
                again.move_weights(names)
                other = again.step(step.batch).loss
                depends[subject] = other is not None and not torch.allclose(before, other, rtol=1e-4)
                before = before if other is None else other
    except CannotRehearseError:
        pass
    return depends


def _left(step: Step) -> set[int]:
    """The tensors of which all that is made leaves torch as numbers, seen from the end of the step."""
    left: dict[int, bool] = {}
    for event in reversed(step.events):
        ends = all(left.get(number, False) for number in event.outputs) if event.outputs else event.name in LEAVING
        left |= {number: left.get(number, True) and ends for number in event.inputs}
    return {number for number, leaves in left.items() if leaves}
