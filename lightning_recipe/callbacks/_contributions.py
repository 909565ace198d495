"""Whose backward an optimiser's step takes its gradients from, where networks take turns."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.record.modules import parameters_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.callbacks._moments import Moment
    from lightning_recipe.run import Run

TIMES = 3
"""Steps that have to take what is foreign: the first of all never does, and an adversary may step more rarely."""


class Contributions:
    """Follows the gradients that a backward leaves in networks which its optimiser does not step.

    A step takes what is foreign if a backward that another optimiser has stepped for was followed by one that adds to
    the same gradients, after which this optimiser alone steps. Where two optimisers step after one backward it is a
    loss of both, and accumulation where one of them steps more rarely.

    Attributes:
        foreign: How many steps of each parameter took what another's backward had left.

    Example:
        >>> from lightning_recipe.callbacks._moments import Moment
        >>> follow = Contributions()
        >>> follow.enter(Moment("backward", (), {}))
        >>> follow.enter(Moment("optimizer step", ("g",), {"g": 1.0, "d": 0.5}))
        >>> follow.enter(Moment("backward", (), {"d": 0.5}))
        >>> follow.enter(Moment("optimizer step", ("d",), {"d": 0.7}))
        >>> follow.enter(Moment("end", (), {}))
        >>> follow.foreign
        Counter({'d': 1})

    """

    def __init__(self) -> None:
        self.foreign: Counter[str] = Counter()
        self._began: dict[str, float] | None = None  # the norms when a backward began, until the next moment
        self._reached: set[str] = set()  # by a backward since the last step
        self._left: set[str] = set()  # by a backward for which another optimiser has stepped
        self._mixed: set[str] = set()  # to which another backward has added
        self._taken: set[str] = set()  # what the first step after a backward took
        self._stepped = False  # since the last backward

    def enter(self, moment: Moment) -> None:
        """Go on with another moment."""
        own = set(moment.parameters)
        if moment.kind == "zero_grad":
            self._forget(own)
            return
        norms, began = moment.norms, self._began
        if began is not None:
            reached = {name for name, norm in norms.items() if norm > 0 and norm != began.get(name, 0)}
            self._mixed |= reached & self._left
            self._reached |= reached
        self._began = None
        self._forget({name for name in self._reached | self._left if not norms.get(name, 0) > 0})
        if moment.kind in {"backward", "end"}:
            self.foreign.update(self._taken)
            self._taken = set()
        if moment.kind == "backward":
            self._began, self._stepped = norms, False
        elif moment.kind == "optimizer step":
            if self._stepped:  # a loss of both
                self._taken = set()
            else:
                self._taken = own & self._mixed
                self._left |= self._reached - own
            self._stepped, self._reached = True, set()
            self._forget(own)

    def _forget(self, names: set[str]) -> None:
        self._reached, self._left, self._mixed = self._reached - names, self._left - names, self._mixed - names


def of_others(contributions: Contributions, run: Run) -> Iterator[Outcome]:
    """Optimisers all of whose gradients were mixed with those of another's backward."""
    for optimizer in run.trainer.optimizers:
        own = [name for name, p in parameters_of(optimizer, run.module).items() if p.requires_grad]
        times = min((contributions.foreign[name] for name in own), default=0)
        if times >= TIMES:
            yield Outcome(
                Status.WARNING,
                "foreign_gradient",
                f"{times} steps of the optimiser of {listed(own)} took gradients of two losses: another network's "
                "backward, whose optimiser had stepped, left its own in them",
                "call zero_grad() of this optimiser between the two calls of backward, or detach what this network "
                "should not learn from",
                {"steps": times, "parameters": len(own)},
            )
