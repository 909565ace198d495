"""Weights that are kept as the best ones, and go on with the module: ``self.best = self.state_dict()`` is no copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import Parameter

from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.tensors import storage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.run import Run

MOST = 0.9
"""Share of the kept tensors that lie where the weights do, at least."""


def by_reference(run: Run) -> Iterator[tuple[Outcome, str]]:
    """A `warning` for each attribute that keeps the module's own weights under their names, detached, as a state does.

    Those that autograd knows are for functional calls, and meant to be the same.

    Args:
        run: The run.

    """
    learnt = {storage(p) for p in run.module.parameters() if p.requires_grad and p.numel()}
    callbacks = run.trainer.callbacks  # type: ignore[attr-defined]
    holders = [("self", run.module), *((type(one).__name__, one) for one in callbacks)]
    for holder, of in holders:
        for name, value in vars(of).items():
            if name[0] != "_" and (count := kept(value, learnt)):
                place = f"{holder}.{name}"
                yield (
                    Outcome(
                        Status.WARNING,
                        "kept_by_reference",
                        f"{place} keeps {count} tensors of a state_dict(), which are the weights themselves, and have "
                        "changed with each step since (expected: a copy)",
                        f"{place} = copy.deepcopy(self.state_dict()), or let ModelCheckpoint keep the best",
                        {"tensors": count},
                    ),
                    place,
                )


def kept(value: Any, learnt: set[int]) -> int:
    """How many tensors of a state a value holds that share the memory of weights; 0 unless nearly all do.

    Example:
        >>> from torch import nn
        >>> net = nn.Linear(2, 2)
        >>> learnt = {storage(p) for p in net.parameters()}
        >>> kept(net.state_dict(), learnt), kept(dict(net.named_parameters()), learnt)
        (2, 0)

    """
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        return 0
    tensors = [one for one in value.values() if isinstance(one, Tensor) and one.is_floating_point() and one.numel()]
    if len(tensors) < len(value) / 2 or any(isinstance(one, Parameter) or one.requires_grad for one in tensors):
        return 0
    count = sum(storage(one) in learnt for one in tensors)
    return count if count and count >= MOST * min(len(tensors), len(learnt)) else 0
