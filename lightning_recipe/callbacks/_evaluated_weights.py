"""Whether validation runs with weights that training has moved, or with a copy that stayed at the beginning."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.record.reductions import norm_of
from lightning_recipe.record.tensors import same

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from lightning_recipe.run import Run

SAMPLE = 1024
"""Numbers of each parameter that are kept, evenly spaced."""
BEHIND = 0.1
"""Share of the way of the weights that are trained, below which a copy is not where they are."""
STEPS = 50
"""Of training, before which no average has come far."""


class Weights:
    """Knows by their norms which parameters are as they were when training began, and by a sample how far they came.

    Args:
        module: The LightningModule, before the first step.

    """

    def __init__(self, module: nn.Module) -> None:
        self._begin, self._sample = norms(module), sampled(module)
        self._same: dict[str, bool] = {}
        self._modules: dict[str, set[str]] = {}
        self._end: dict[str, Tensor] = {}
        self._steps, self._evaluated = 0, False  # whether anything but the beginning was evaluated since

    def ended(self, run: Run) -> None:
        """Keep a sample of the weights after training, too; of a run that goes on, nobody knows where it began."""
        self._end, self._steps = {} if run.resumed else sampled(run.module), run.step

    def tested(self, run: Run, stage: str) -> Outcome | None:
        """A `warning` if all that training has changed is, in the module that is evaluated now, as it was before.

        Not if what was trained was evaluated before, to be compared, or a checkpoint was asked for.

        Args:
            run: The run that evaluates.
            stage: "test" or "validation".

        """
        now, begin, end = (
            {name: values.cpu() for name, values in of.items()} for of in (sampled(run.module), self._sample, self._end)
        )
        moved = [name for name, values in end.items() if name in begin and not same(values, begin[name])]
        untrained = bool(moved) and all(name in now and same(now[name], begin[name]) for name in moved)
        self._evaluated |= not untrained
        if not untrained or self._evaluated or run.trainer.ckpt_path:
            return None
        return Outcome(
            Status.WARNING,
            "weights_of_the_beginning",
            f"{stage} runs with the weights that training began with, to the last digit: of its {self._steps} steps "
            "nothing is in them",
            f"give trainer.{'test' if stage == 'test' else 'validate'} the module that trainer.fit was given, not one "
            "that it was copied from, or a checkpoint by ckpt_path",
            {"steps": self._steps},
        )

    def validated(self, run: Run, modules: Iterable[str]) -> None:
        """See which of the networks that validation calls are as in the beginning.

        Args:
            run: The run, while it validates.
            modules: Those whose weights it uses, ``""`` for all of the LightningModule.

        """
        for module in modules:
            self._modules.setdefault(module.partition(".")[0], set()).add(module)
        now = norms(run.module)
        for network in self._modules:
            own = self._own(network, now)
            same = bool(own) and all(self._begin.get(name) == now[name] for name in own)
            self._same[network] = same and self._same.get(network, True)

    def _own(self, network: str, parameters: Iterable[str]) -> list[str]:
        """The parameters of a network that validation uses."""
        begins = tuple(f"{module}." if module else "" for module in self._modules[network])
        return [name for name in parameters if name.startswith(begins)]

    def verdict(self, run: Run) -> Outcome | None:
        """A `warning` if all that validation called stayed the same, while what is trained in its place moved.

        What is trained in its place is itself, with other weights for validation, or a network of the same shapes.
        """
        shapes = {name: tuple(p.shape) for name, p in run.module.named_parameters()}
        moved = {name for name, value in norms(run.module).items() if value != self._begin.get(name)}
        networks = [name for name in self._same if self._own(name, shapes)]
        copies = [
            name
            for name in networks
            if (own := self._own(name, shapes))
            and (moved & set(own) or _has_twin([shapes[key] for key in own], shapes, moved))
        ]
        if not moved or not copies or not all(self._same[name] for name in networks) or len(copies) < len(networks):
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

    def behind(self, run: Run) -> Outcome | None:
        """`advice` if all that validation called are copies of trained networks, which have hardly followed them."""
        optimised = {id(p) for one in run.trainer.optimizers for group in one.param_groups for p in group["params"]}
        trained = [name for name, p in run.module.named_parameters() if id(p) in optimised and name in self._sample]
        now, shares = sampled(run.module), []
        networks = [name for name in self._same if self._own(name, now)]
        for network in networks:
            own = self._own(network, now)
            twins = self._twins(own, trained)
            theirs = _apart(self._sample, now, twins)
            if not theirs or run.step < STEPS:
                return None
            shares.append(_apart(self._sample, now, own) / theirs)
        if not shares or max(shares) > BEHIND:
            return None
        return Outcome(
            Status.ADVICE,
            "weights_far_behind",
            f"validation runs with an average of the weights, {listed(networks)}, that has come {max(shares):.1%} "
            f"of the way of those that are trained, in {run.step} steps: it is still near their initialisation",
            "let it follow faster, or let the decay rise with the step, such as min(decay, (1 + step) / (10 + step))",
            {"share": max(shares), "steps": run.step},
        )

    def _twins(self, own: list[str], trained: list[str]) -> list[str]:
        """Other parameters that are trained, and began as these, in their order; empty if some have none."""
        theirs = iter([name for name in trained if name not in set(own)])
        found = [next((n for n in theirs if self._began_alike(name, n)), "") for name in own if name in self._sample]
        return found if all(found) else []

    def _began_alike(self, one: str, other: str) -> bool:
        return self._begin.get(one) == self._begin.get(other) and same(self._sample[one], self._sample[other])


def sampled(module: nn.Module) -> dict[str, Tensor]:
    """Some numbers of each parameter that is no shard of one, by name, where they are.

    Example:
        >>> from torch import nn
        >>> sampled(nn.LayerNorm(2))["weight"]
        tensor([1., 1.])

    """
    whole = {n: p.data for n, p in module.named_parameters() if not is_lazy(p) and type(p.data) is Tensor}
    dense = {n: p for n, p in whole.items() if p.layout is torch.strided and p.is_floating_point() and p.numel()}
    return {n: p.flatten()[:: -(-p.numel() // SAMPLE)].float().clone() for n, p in dense.items()}


def _apart(before: dict[str, Tensor], now: dict[str, Tensor], names: list[str]) -> float:
    """How far parameters have come, by their samples."""
    both = [(before[name], now[name]) for name in names if name in before and name in now]
    return math.sqrt(sum(float((one - other).square().sum()) for one, other in both))


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
