"""Whether validation runs with weights that training has moved, or with a copy from the beginning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lightning_recipe.finding import Outcome, Status, listed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run


class Weights:
    """Knows by their sums which parameters are as they were when training began.

    Args:
        module: The LightningModule, before the first step.

    """

    def __init__(self, module: nn.Module) -> None:
        self._begin = sums(module)
        self._same: dict[str, bool] = {}

    def validated(self, run: Run, step: Step) -> None:
        """See which of the networks that validation calls, ``""`` for the LightningModule, are as in the beginning."""
        now = sums(run.module)
        for name in {call.name for call in step.net_calls}:
            within = {key: value for key, value in now.items() if key.startswith(f"{name}." if name else "")}
            same = bool(within) and all(self._begin.get(key) == value for key, value in within.items())
            self._same[name] = same and self._same.get(name, True)

    def verdict(self, run: Run) -> Outcome | None:
        """A `warning` if all that validation called stayed the same, while what is trained in its place moved.

        What is trained in its place is itself, with other weights for validation, or a network of the same shapes.
        """
        shapes = {name: tuple(p.shape) for name, p in run.module.named_parameters()}
        moved = {name for name, value in sums(run.module).items() if value != self._begin.get(name)}
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


def sums(module: nn.Module) -> dict[str, float]:
    """The sum of each parameter, by name.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> torch.nn.init.ones_(layer.weight)
        Parameter containing:
        tensor([[1., 1.]], requires_grad=True)
        >>> sums(layer)["weight"]
        2.0

    """
    with torch.no_grad():
        return {name: float(parameter.sum(dtype=torch.float64)) for name, parameter in _initialised(module)}


def _initialised(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    return ((n, p) for n, p in module.named_parameters() if not isinstance(p, torch.nn.UninitializedParameter))


def _has_twin(own: list[tuple[int, ...]], shapes: dict[str, tuple[int, ...]], moved: set[str]) -> bool:
    """Whether parameters of all these shapes moved, in this order."""
    theirs = iter([shape for name, shape in shapes.items() if name in moved])
    return all(shape in theirs for shape in own)
