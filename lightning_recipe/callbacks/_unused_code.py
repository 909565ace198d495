"""Whether a code that is drawn around what the network makes of its input is of any use, beside what else it sees."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.callbacks._interchanged import differing, interchanged
from lightning_recipe.callbacks._only_penalised import MOST, pairs
from lightning_recipe.finding import Outcome, Status, listed
from lightning_recipe.record.step import Need
from lightning_recipe.record.tensors import leading_size
from lightning_recipe.trial.rehearsal import CannotRehearseError

if TYPE_CHECKING:
    from lightning_recipe.record.step import Step
    from lightning_recipe.trial.rehearsal import Rehearsal

SPREADS = {"exp", "softplus", "exp_"}
"""Functions that make a standard deviation of a number."""
ON_THE_WAY = {"chunk", "split", "tensor_split", "getitem", "mul", "rmul", "div", "clamp", "truediv", "unbind", "tanh"}
"""Functions between a layer and that."""
WORTH = 0.03
"""Share of the loss that the codes of other examples add, below which they tell nothing; of a recurrent autoencoder of
melodies it was 0.01 to 0.02 once its posterior had collapsed, and 1.8 where it had not."""


class Code(NamedTuple):
    """A code that is drawn around what layers put out.

    Attributes:
        layers: Their names.
        worth: How much the loss changes with the codes of other examples, as a share of it.

    """

    layers: tuple[str, ...]
    worth: float

    @property
    def unused(self) -> tuple[Outcome, str] | None:
        """An `advice` if it is of no use, and where it comes from.

        Example:
            >>> Code(("posterior",), 1.7).unused is None, Code(("posterior",), 0.01).unused[0].code
            (True, 'code_unused')

        """
        if self.worth >= WORTH:
            return None
        outcome = Outcome(
            Status.ADVICE,
            "code_unused",
            f"the code that is drawn around what {listed(self.layers)} puts out is of no use: with those of other "
            f"examples the loss changes by {self.worth:.2g} of it (posterior collapse)",
            "a smaller weight of the KL term, one that grows from 0, or free bits; or show the decoder less of what it "
            "is to say",
            {"worth": self.worth},
        )
        return outcome, ", ".join(self.layers)


def code_of(again: Rehearsal, batch: Any) -> Code | None:
    """What the codes of a variational autoencoder are worth; None if there are none, or that can't be tried.

    A decoder that sees what it is to say, up to its own place, hides that from what a network makes of its input.

    Args:
        again: The copy; in eval mode, to which it is put back: a code may be drawn in training only.
        batch: As the training step receives it.

    """
    size = leading_size(batch) or 0
    if size < MOST or not differing(batch):
        return None
    again.module.train()
    try:
        with torch.inference_mode(mode=False), torch.enable_grad():
            for names in _drawn_around(again, batch, size)[:1]:
                losses = [_loss(again, batch), _loss(again, batch, seed=1), _loss(again, batch, names)]
                plain, redrawn, other = losses
                if plain > 0 and redrawn != plain and math.isfinite(other):
                    return Code(names, abs(other - plain) / plain)
    except CannotRehearseError:
        return None
    finally:
        again.module.eval()
    return None


def _loss(again: Rehearsal, batch: Any, names: tuple[str, ...] = (), seed: int = 0) -> float:
    answers = dict.fromkeys(names, _of_others)
    loss = again.step(batch, seed=seed, answers=answers).loss
    return math.nan if loss is None else float(loss.detach().sum())


def _of_others(output: Any) -> Any:
    return interchanged(output) if isinstance(output, Tensor) else output


def _drawn_around(again: Rehearsal, batch: Any, size: int) -> list[tuple[str, ...]]:
    """Layers of which one half, or one of two, becomes a standard deviation."""
    step = again.step(batch, needs=Need.WIRING)
    made_by = {number: event.name for event in step.events if event.kind == "module" for number in event.outputs}
    spreads = {made_by.get(number) for event in step.events if event.name in SPREADS for number in _behind(step, event)}
    found = []
    for pair in pairs(again, batch, size) if any(spreads) else ():
        names = tuple(dict.fromkeys(head.name for head in pair))
        if spreads.intersection(names) and names not in found:
            found.append(names)
    return found


def _behind(step: Step, event: Any) -> set[int]:
    """What a function was given, and what that was made of on the way from a layer."""
    waiting, seen = list(event.inputs), set()
    while waiting:
        number = waiting.pop()
        maker = step.producer(number)
        seen.add(number)
        if maker is not None and maker.name in ON_THE_WAY:
            waiting += [given for given in maker.inputs if given not in seen]
    return seen
