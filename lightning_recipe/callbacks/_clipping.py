"""What clipping does to the gradients: whether it has any to clip, and how much of them it leaves."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import torch
from torch.optim import SGD, Adagrad, Adam, RMSprop

from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.record.modules import parameters_of
from lightning_recipe.schedule import highest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.optim import Optimizer

    from lightning_recipe.callbacks._moments import Moment
    from lightning_recipe.run import Run

NONE, USED = "has no gradient to clip", "comes after the step that used the gradients"
TIMES = 3
"""Steps that have to show the same."""
TIGHT = 100.0
"""Times that gradients are larger before clipping than after: tight limits in use, 0.25 for the language models of S.
Merity et al., Regularizing and Optimizing LSTM Language Models (2017), cut them by about ten."""
NO_WAY, LITTLE = 0.03, 0.3
"""Share of the weights' norm that the run could move them by at most, up to which next to nothing can be learnt; the
latter where next to nothing was."""


class Clippings:
    """Follows each clipping of gradients, by hand or by Lightning.

    Attributes:
        idle: How often one had nothing that a step would use, by reason.
        useful: How often one had.
        idle_of: The parameters that idle ones were given.
        where: The line of the last idle one.
        cuts: By the parameters, how many times larger their gradient was before each clipping than after.
        left: The norm that the last clipping left of it.

    Example:
        >>> from lightning_recipe.callbacks._moments import Moment
        >>> clippings = Clippings()
        >>> clippings.enter(Moment("clip", ("w",), {"w": 3.0}))
        >>> clippings.enter(Moment("optimizer step", ("w",), {"w": 1.0}))
        >>> clippings.enter(Moment("clip", ("w",), {"w": 1.0}, "net.py:3"))
        >>> dict(clippings.cuts), clippings.idle[USED], clippings.where
        ({('w',): [3.0]}, 1, 'net.py:3')

    """

    def __init__(self) -> None:
        self.idle: Counter[str] = Counter()
        self.useful = 0
        self.idle_of: set[str] = set()
        self.where = ""
        self.cuts: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
        self.left: dict[tuple[str, ...], float] = {}
        self._used: set[str] = set()  # by a step, with no backward since
        self._open: tuple[str, tuple[str, ...], float] | None = None  # kind, parameters and norm of the moment before

    def enter(self, moment: Moment) -> None:
        """Go on with another moment."""
        kind, parameters, norms, where = moment
        opened, self._open = self._open, None
        if kind == "zero_grad":
            return
        if opened is not None:
            before, own, after = opened[2], opened[1], _total(norms, opened[1])
            if opened[0] == "clip" or 0 < after < before:  # Lightning tells of a step before it clips
                self.cuts[own].append(before / after if after > 0 else 1.0)
                self.left[own] = after
        if kind in {"clip", "optimizer step"}:
            self._open = kind, parameters, _total(norms, parameters)
        if kind == "clip":
            there = {name for name in parameters if norms.get(name, 0) > 0}
            if there <= self._used:
                self.idle[USED if there else NONE] += 1
                self.idle_of |= set(parameters)
                self.where, self._open = where, None
            else:
                self.useful += 1
        elif kind == "backward":
            self._used = set()
        elif kind == "optimizer step":
            self._used |= set(parameters)


def _total(norms: dict[str, float], names: tuple[str, ...]) -> float:
    return math.hypot(*(norms.get(name, 0) for name in names))


def reach(optimizer: Optimizer, norm: float, rate: float, steps: float) -> float | None:
    """How far an optimiser can move its parameters altogether, by steps with gradients of a norm; None if not known.

    Args:
        optimizer: Only of SGD, Adam, RMSprop, Adagrad and what derives from them it is known.
        norm: Of all gradients together.
        rate: The largest learning rate of the run.
        steps: That the run will take.

    Example:
        >>> import torch
        >>> w = torch.zeros(100)
        >>> round(reach(torch.optim.SGD([w]), norm=1e-6, rate=0.1, steps=1000), 6)
        0.0001
        >>> round(reach(torch.optim.Adam([w]), norm=1e-6, rate=0.1, steps=1000))
        909

    """
    group = optimizer.param_groups[0]
    if isinstance(optimizer, SGD):
        return rate * norm * steps / (1 - min(float(group["momentum"]), 0.999))
    if isinstance(optimizer, Adam | RMSprop | Adagrad):  # divides by the size of the gradients, if eps allows
        root = math.sqrt(sum(p.numel() for g in optimizer.param_groups for p in g["params"]))
        size = norm / root
        return rate * root * steps * size / (size + float(group["eps"]))
    return None


def idle(clippings: Clippings, run: Run) -> Iterator[Outcome]:
    """Clipping that never had anything to clip. Of batches between two looks it is not known."""
    times = sum(clippings.idle.values())
    if times >= TIMES and not clippings.useful and run.trainer.accumulate_grad_batches == 1:
        reason = clippings.idle.most_common(1)[0][0]
        what = f"of {listed(sorted(clippings.idle_of))}" if clippings.idle_of else "of no parameter of this module"
        yield Outcome(
            Status.FAILED,
            "clips_nothing",
            f"no gradient is clipped: clipping {what} ({clippings.where}) {reason}, at {times} of {times} times",
            "Trainer(gradient_clip_val=...)"
            if run.module.automatic_optimization
            else "clip after backward and before the optimiser's step, the parameters that it steps",
            {"times": times},
        )


def is_tight(clippings: Clippings) -> bool:
    """Whether some clipping cut all that it was seen to."""
    return any(len(cuts) >= TIMES and min(cuts) >= TIGHT for cuts in clippings.cuts.values())


def too_tight(clippings: Clippings, run: Run, course: str = "") -> Iterator[Outcome]:
    """Clipping that leaves so little that the run can't move the weights.

    Args:
        clippings: What was seen of the first steps.
        run: With its optimisers.
        course: How the loss went, if it has not fallen.

    """
    for index, optimizer in enumerate(run.trainer.optimizers):
        own = parameters_of(optimizer, run.module)
        for names, cuts in clippings.cuts.items():
            if len(cuts) < TIMES or min(cuts) < TIGHT or not own.keys() & set(names):
                continue
            way = reach(optimizer, clippings.left[names], highest(run.peak_rates[index]), run.horizon)
            size = math.hypot(*(float(torch.linalg.vector_norm(p.detach().float())) for p in own.values()))
            if way is not None and way < (LITTLE if course else NO_WAY) * size:
                yield Outcome(
                    Status.WARNING,
                    "clipped_to_nothing",
                    f"clipping cuts each step at least {min(cuts):.3g}-fold: in {run.horizon:.0f} steps "
                    f"{type(optimizer).__name__} can move its weights by {way / size:.2g} of their norm at most"
                    f"{course}",
                    "a limit near the usual norm of the gradients, such as 1: it is for those that stand out",
                    {"cut": min(cuts), "reach": way / size},
                )
                break
