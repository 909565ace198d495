"""Any loss, also one written by hand: what the step's own code makes of answers of ours.

Asked is at the frontier: the outputs of modules with parameters that reach the loss without passing another such
module. What follows there is the loss, wherever it is computed: in the step, inside of the network, in several terms.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_recipe.record.modules import observable
from lightning_recipe.record.tensors import mapped
from lightning_recipe.trial.descent import SECONDS, descended
from lightning_recipe.trial.rehearsal import CannotRehearseError
from lightning_recipe.trial.trunk import Trunk, has_parameters
from lightning_recipe.trial.work import NET

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lightning_recipe.trial.rehearsal import Rehearsal

DRAWS = 3
"""Draws over which the loss of a step that draws random numbers is averaged; always the same ones."""
_NOISE = 1e-5  # relative difference between two draws that rounding may leave
_FREE_STEPS, _CONSTANT_STEPS = 100, 60  # of a descent with free answers, and with one row for all
_FEWEST = 40  # with free answers, where steps are expensive


class Place(NamedTuple):
    """Where an answer can be given.

    Attributes:
        module: The module's name.
        call: Which of its calls in the step, from 0 on.
        part: Which of the tensors in its output.

    Example:
        >>> Place("head", 0, 0).module
        'head'

    """

    module: str
    call: int
    part: int


class Answers:
    """What the loss of a step is for answers of ours.

    Args:
        again: Runs the step.
        batch: As ``training_step`` receives it.

    Attributes:
        own: The network's own outputs at the frontier, detached.
        draws: Seeds over which losses are averaged: one, or `DRAWS` where the step draws random numbers.

    Raises:
        CannotRehearseError: If the step can't be run again, no output of a module reaches its loss, or it is slow.

    Example:
        >>> import contextlib, io
        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> from lightning_recipe import Check, Section
        >>> from lightning_recipe.trial.rehearsal import rehearsal
        >>> class Best(Check):
        ...     section, why = Section.SKELETON, "an example"
        ...     def first_step(self, run, step):
        ...         with rehearsal(run) as again:
        ...             answers = Answers(again, step.batch)
        ...             yield self.passed(f"{answers.modules} reach {answers.constant():.2f} with a constant")
        >>> check = Best()
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     Trainer(barebones=True, max_steps=1, callbacks=[check]).fit(BoringModel())  # its targets are all 1
        >>> check.findings[0].message
        "['layer'] reach 0.00 with a constant"

    """

    def __init__(self, again: Rehearsal, batch: Any) -> None:
        self._again, self._batch = again, batch
        self._ends = time.monotonic() + NET * SECONDS
        self._modules = {
            seen.name: seen.module
            for seen in observable(again.module, inside_fast=True)
            if seen.name and _answers_alone(seen.module, leaf=seen.leaf)
        }
        self._trunk: Trunk | None = None
        self.own = self._frontier()
        again.module.requires_grad_(requires_grad=False)  # the graph ends at the answers
        self._leave_penalties()
        self._trunk = Trunk(again.module, self.modules)
        first, again_, second = (float(self._mean(lambda _, own: own, [seed])) for seed in (0, 0, 1))
        if not math.isclose(first, again_, rel_tol=_NOISE):  # what the trunk leaves behind takes part in the loss
            self._trunk.forget()
        self.draws: Sequence[int] = range(1 if math.isclose(first, second, rel_tol=_NOISE) else DRAWS)

    def _leave_penalties(self) -> None:
        """Leave out outputs that the step itself goes back from, as for a gradient penalty."""
        asked: set[Place] = set()  # parameters need no gradient now: what needs one is none of theirs

        def noted(place: Place, own: Tensor) -> Tensor:
            asked.update([place] * own.requires_grad)
            return own

        with torch.inference_mode(mode=False), torch.enable_grad():
            self._loss(0, noted)
        self.own = {place: own for place, own in self.own.items() if place not in asked}
        if not self.own:
            msg = "the step itself asks how its outputs depend on its inputs"
            raise CannotRehearseError(msg)

    @property
    def modules(self) -> list[str]:
        """Names of the modules at the frontier, in the order of their calls."""
        return list(dict.fromkeys(place.module for place in self.own))

    def lowest(self) -> float:
        """The lowest loss found with answers that are free at each place and for each example.

        The descent starts at the network's own outputs.
        """

        def cost(values: dict[Any, Tensor]) -> Tensor:
            return self._mean(lambda place, _: values[place], self.draws)

        return descended(cost, dict(self.own), _FREE_STEPS, _FEWEST)[0]

    def cost(self, answer: Callable[[Place, Tensor], Tensor]) -> float:
        """The loss of other answers.

        Args:
            answer: Makes the answer at a place from the network's own output there.

        """
        return float(self._mean(answer, self.draws))

    def constant(self) -> float:
        """The lowest loss found with one row for all examples and positions.

        That is what the layers at the frontier would put out with weights of 0 and the best biases. A module gives
        the same row at each of its calls. It is a proof that a constant reaches this, not that none reaches less.
        The descent starts at the network's own mean output.
        """
        sums: dict[Any, list[Tensor]] = {}
        for place, own in self.own.items():
            sums.setdefault(self._row_of(place, own), []).append(self._row(place, own))
        rows = {key: torch.stack(found).mean(0) for key, found in sums.items()}

        def cost(rows: dict[Any, Tensor], draws: Sequence[int]) -> Tensor:
            return self._mean(lambda place, own: self._spread(place, own, rows), draws)

        _, best = descended(lambda rows: cost(rows, self.draws[:1]), rows, _CONSTANT_STEPS)
        if self._trunk is not None:
            self._trunk.forget()  # what was found is told of the step as it is
        return float(cost(best, self.draws))

    # -- the frontier

    def _frontier(self) -> dict[Place, Tensor]:
        nodes: dict[Any, Place] = {}
        seen: dict[Place, Tensor] = {}
        teachers: set[str] = set()

        def note(place: Place, own: Tensor) -> Tensor:
            if own.grad_fn is None and own.is_floating_point():
                teachers.add(place.module)
            if own.grad_fn is not None and own.ndim:  # a module that returns a scalar computes the loss itself
                nodes.setdefault(own.grad_fn, place)
                seen[place] = own.detach().nan_to_num(0.0, 0.0, 0.0)
            return own

        loss = self._loss(0, note)
        places: set[Place] = set()
        known: set[Any] = set()
        waiting = [loss.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is None or node in known:
                continue
            known.add(node)
            if node in nodes:
                places.add(nodes[node])
            else:
                waiting.extend(parent for parent, _ in node.next_functions)
        if not places:
            msg = "no output of a module with parameters is seen to reach the loss"
            raise CannotRehearseError(msg)
        if any(place.module in teachers for place in places):
            msg = "the network computes its own targets"
            raise CannotRehearseError(msg)
        return {place: own for place, own in seen.items() if place in places}

    # -- running the step

    def _loss(self, seed: int, answer: Callable[[Place, Tensor], Tensor]) -> Tensor:
        if time.monotonic() > self._ends:
            raise _too_slow()
        if self._trunk is not None:
            self._trunk.begins(seed)
        calls: Counter[str] = Counter()

        def answering(name: str) -> Callable[[Any], Any]:
            def made(output: Any) -> Any:
                parts, call = itertools.count(), calls[name]
                calls[name] += 1

                def one(tensor: Tensor) -> Tensor:
                    return answer(Place(name, call, next(parts)), tensor)

                return mapped(output, Tensor, one)

            return made

        loss = self._again.step(self._batch, seed=seed, answers={name: answering(name) for name in self._modules}).loss
        if loss is None or not loss.is_floating_point():
            msg = "the step, run again on a copy, has no loss"
            raise CannotRehearseError(msg)
        return loss.mean()

    def _mean(self, answer: Callable[[Place, Tensor], Tensor], draws: Sequence[int]) -> Tensor:
        def cast(place: Place, own: Tensor) -> Tensor:
            if place not in self.own:
                return own
            given = answer(place, own.nan_to_num(0.0, 0.0, 0.0)).to(own.dtype)  # the first update may have broken it
            return given if given.requires_grad else given.detach().requires_grad_()  # or `Trunk` took it for its own

        with torch.inference_mode(mode=False), torch.enable_grad():
            return torch.stack([self._loss(seed, cast) for seed in draws]).mean()

    # -- rows

    def _dim(self, module: str, own: Tensor) -> int:
        """Where the features of an output lie: behind the examples for convolutions and the like, else last."""
        layer = self._modules[module]
        second = isinstance(layer, nn.modules.conv._ConvNd | nn.modules.batchnorm._NormBase | nn.GroupNorm)  # noqa: SLF001
        return 1 if second and own.ndim > 2 else own.ndim - 1  # noqa: PLR2004

    def _row_of(self, place: Place, own: Tensor) -> tuple[str, int, int]:
        """What two places share if they give the same row."""
        return place.module, place.part, own.shape[self._dim(place.module, own)] if own.ndim > 1 else 1

    def _spread(self, place: Place, own: Tensor, rows: dict[Any, Tensor]) -> Tensor:
        shape = [1] * own.ndim
        if own.ndim > 1:
            shape[self._dim(place.module, own)] = -1
        return rows[self._row_of(place, own)].view(shape).expand_as(own).contiguous()

    def _row(self, place: Place, own: Tensor) -> Tensor:
        if own.ndim <= 1:
            return own.float().mean().reshape(1)
        return own.float().transpose(0, self._dim(place.module, own)).flatten(1).mean(1)


def _too_slow() -> CannotRehearseError:
    return CannotRehearseError(f"its steps could not be run again within {NET * SECONDS:g} s, on a busy machine")


def _answers_alone(module: nn.Module, *, leaf: bool) -> bool:
    """Whether a module has parameters, and none of those inside of it that answer for themselves has."""
    inside = () if leaf else module.children()
    return has_parameters(module) and not any(map(has_parameters, inside))
