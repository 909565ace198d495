"""Whether validation runs with weights that training has moved, or with a copy from the beginning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.parameter import is_lazy

from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.record.reductions import norm_of

if TYPE_CHECKING:
    from torch import nn

    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run


class Weights:
    """Knows by their norms which parameters are as they were when training began.

    Args:
        module: The LightningModule, before the first step.

    """

    def __init__(self, module: nn.Module) -> None:
        self._begin = norms(module)
        self._same: dict[str, bool] = {}

    def validated(self, run: Run, step: Step) -> None:
        """See which of the networks that validation calls, ``""`` for the LightningModule, are as in the beginning."""
        now = norms(run.module)
        for name in {call.name for call in step.net_calls}:
            within = {key: value for key, value in now.items() if key.startswith(f"{name}." if name else "")}
            same = bool(within) and all(self._begin.get(key) == value for key, value in within.items())
            self._same[name] = same and self._same.get(name, True)

    def verdict(self, run: Run) -> Outcome | None:
        """A `warning` if all that validation called stayed the same, while what is trained in its place moved.

        What is trained in its place is itself, with other weights for validation, or a network of the same shapes.
        """
        shapes = {name: tuple(p.shape) for name, p in run.module.named_parameters()}
        moved = {name for name, value in norms(run.module).items() if value != self._begin.get(name)}
        copies = [
            name
            for name in self._same
            if (own := [key for key in shapes if key.startswith(f"{name}." if name else "")])
            and (moved & set(own) or _has_twin([shapes[key] for key in own], shapes, moved))
        ]
        if not moved or not self._same or not all(self._same.values()) or len(copies) < len(self._same):
            return None
        where = listed([name or "the LightningModule" for name in copies])
        return Outcome(
            Status.WARNING,
            "weights_of_the_beginning",
            f"validation runs with weights that have not changed since training began: {where}, after {run.step} steps "
            "that have changed those that are trained",
            "update the average or the copy after each step, in on_train_batch_end, or validate what is trained",
            {"steps": run.step},
        )


def norms(module: nn.Module) -> dict[str, float]:
    """The norm of each parameter, by name; waits for the device once.

    Example:
        >>> from torch import nn
        >>> norms(nn.LayerNorm(4))
        {'weight': 2.0, 'bias': 0.0}

    """
    parameters = {
        n: p for n, p in module.named_parameters() if not is_lazy(p) and (p.is_floating_point() or p.is_complex())
    }
    each = [norm_of(parameter) for parameter in parameters.values()]
    return (
        dict(zip(parameters, torch.stack([one.to(each[0].device) for one in each]).tolist(), strict=True))
        if each
        else {}
    )


def _has_twin(own: list[tuple[int, ...]], shapes: dict[str, tuple[int, ...]], moved: set[str]) -> bool:
    """Whether parameters of all these shapes moved, in this order."""
    theirs = iter([shape for name, shape in shapes.items() if name in moved])
    return all(shape in theirs for shape in own)
