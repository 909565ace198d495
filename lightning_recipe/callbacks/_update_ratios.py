"""What the optimiser's steps do to the weights, compared with the weights: the decisions of UpdateRatioMonitor."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from lightning_recipe.finding import Outcome, Status, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lightning_recipe.callbacks._loss_course import Course

ADAMS = {"Adam", "AdamW", "NAdam", "RAdam", "Adamax"}
"""Optimisers whose steps move an element by no more than about the rate."""
PLATEAU = 0.5
"""Share of its highest rate from which on the rate is not that of a warm-up or of the end of a schedule."""
AT_LEAST = 50
"""Steps before which nothing is said: the first are large with Adam, as its averages are still empty."""
OFTEN = 3
"""Looks that must have seen large updates, or strong decay."""
SHRUNK = 0.3
"""Norm of all weights, in that of the first look, below which they have shrunk: without decay they grow as a rule."""
GONE = 0.05
"""The same, below which next to nothing is left of them; all is lost unless the loss is as far down."""
BACK, HALF = 0.9, 0.5
"""Of the first loss, above which nothing was learnt, or all was lost again; after a spike, little."""
SPIKE = 2.0
"""Of the first loss, above which it rose much."""
DECAY = 0.6
"""Share of decay in what moves a weight. Where a penalised loss is at its minimum, decay equals the mean gradient, and
gradients of batches are larger than that: the share stays below 0.5."""
PRECISION = 1e-7
"""Half of the distance between two neighbouring numbers of 32 bits, in those numbers."""
SEVERAL_ORDERS = 1e-3
"""Of the highest rate of the run, below which the rate of some layers is of another order: 0.65 from layer to layer, a
usual decay, gives 6e-3 over twelve."""
NOTHING = 0.01
"""The way below, where it leaves random numbers as they were drawn."""
SHORT = 0.1
"""Way that all steps of the run together go, in norms of the weight, below which they are too small to train it."""


class Layer(NamedTuple):
    """One weight at one look.

    Attributes:
        change: Norm of what the step changed.
        weight: Norm of the weight before.
        usual: Norm that torch's own initialisation gives a weight of this shape.
        gradient: Norm of the gradient.
        rate: Learning rate; NaN where it has none.
        decay: Share of weight decay in what moves the weight, 0 to 1.
        rounded: See `Change`.
        on_plateau: Whether the rate is at least `PLATEAU` of the highest of the run.

    """

    change: float
    weight: float
    usual: float
    gradient: float
    rate: float
    decay: float
    rounded: float
    on_plateau: bool

    @property
    def ratio(self) -> float:
        """Update to weight; infinite for a weight that was zero."""
        return self.change / self.weight if self.weight else math.inf

    @property
    def jump(self) -> float:
        """The same, of weights that are nearly zero to what they would usually be: those may grow quickly."""
        return self.change / max(self.weight, self.usual)


@dataclass(frozen=True)
class Look:
    """All weights at one look, by name."""

    step: int
    layers: dict[str, Layer]

    @property
    def moved(self) -> list[Layer]:
        """Weights with a gradient, at the rate that the run is trained at."""
        return [layer for layer in self.layers.values() if layer.gradient > 0 and layer.on_plateau]

    @property
    def ratio(self) -> float:
        """The median of the ratios; NaN if there are none."""
        return statistics.median_low([layer.ratio for layer in self.moved] or [math.nan])

    @property
    def jump(self) -> float:
        """The median of the jumps; 0 if there are none."""
        return statistics.median_low([layer.jump for layer in self.layers.values()] or [0.0])

    @property
    def decay(self) -> float:
        """The median share of decay, of weights that decay."""
        return statistics.median_low([layer.decay for layer in self.layers.values() if layer.decay] or [0.0])

    @property
    def norm(self) -> float:
        """Of all weights that decay."""
        return math.hypot(*(layer.weight for layer in self.layers.values() if layer.decay))


def too_large(looks: Sequence[Look], course: Course, largest: float, *, broken: bool = False) -> Outcome | None:
    """Updates tore at the weights, and the loss is no lower than at first, or rose and did not come down far.

    Args:
        looks: All until now.
        course: Of the loss.
        largest: See :class:`UpdateRatioMonitor`.
        broken: Whether the weights are not finite any more, which needs no loss to see.

    """
    large = [look for look in looks if look.jump > largest]
    often = len(large) >= OFTEN or sum(look.jump > 1 for look in large) > 1
    rose = course.was_above(SPIKE) and not course.is_below(HALF)
    late = looks[-1:] and looks[-1].step >= AT_LEAST and course.points
    if not often or not (broken or (late and (rose or not course.is_below(BACK)))):
        return None
    most = max(large, key=lambda look: look.jump if math.isfinite(look.jump) else 0.0)
    outcome = "the weights are not finite any more" if broken else f"the loss did not recover ({course})"
    return Outcome(
        Status.WARNING,
        "too_large",
        f"updates were up to {most.jump:.2g}x the weights (step {most.step}; about 0.001 expected), above {largest:g}x "
        f"at {len(large)} looks, and {outcome}",
        "lower the learning rate tenfold, and again until the loss falls; a warm-up helps where only the first steps "
        "are too large",
        {"ratio": most.jump, "looks": len(large), **course.evidence},
    )


def too_small(looks: Sequence[Look], course: Course, smallest: float, horizon: float) -> Outcome | None:
    """Updates are so small that the weights will hardly have moved at the end of the run, and the loss stands still."""
    look = looks[-1]
    enough = len(look.moved) * 2 >= len(look.layers)
    tiny = look.ratio < smallest and look.ratio * max(horizon, look.step) < SHORT
    if not (enough and tiny and course.stands_still) or math.isinf(horizon):
        return None
    return Outcome(
        Status.WARNING,
        "too_small",
        f"an update is {look.ratio:.1g}x the weights (median of {len(look.moved)}; about 0.001 expected), and the loss "
        f"stands still ({course}): {horizon:.0f} such steps hardly change the weights",
        "raise the learning rate tenfold; if the gradients are what is small, see which layer makes them so",
        {"ratio": look.ratio, **course.evidence},
    )


def group_too_small(
    looks: Sequence[Look], course: Course, is_as_drawn: Callable[[str], bool], horizon: float
) -> Outcome | None:
    """Some layers keep what they were drawn with to the end, because their rate is a tiny share of that of others.

    Args:
        looks: All until now.
        course: Of the loss, which others may bring down.
        is_as_drawn: Whether the weight of a name has learnt nothing yet; asked of those that hardly move.
        horizon: Steps of the run.

    """
    last, layers = looks[-1], looks[-1].layers
    highest = max((layer.rate for layer in layers.values() if not math.isnan(layer.rate)), default=0.0)
    hardly = [
        name
        for name in layers
        if all(
            name in look.layers and look.layers[name].gradient > 0 and look.layers[name].on_plateau
            for look in looks[-OFTEN:]
        )
        and 0 < layers[name].rate < SEVERAL_ORDERS * highest
        and all(look.layers[name].ratio * max(horizon, last.step) < NOTHING for look in looks[-OFTEN:])
    ]
    if len(looks) <= OFTEN or not hardly or not all(map(is_as_drawn, hardly)):
        return None
    way = max(layers[name].ratio for name in hardly) * max(horizon, last.step)
    rate = max(layers[name].rate for name in hardly)
    return Outcome(
        Status.WARNING if course.stands_still else Status.ADVICE,
        "too_small",
        f"{listed(hardly)} stay as they were drawn: at a rate of {rate:.1g}, while others are "
        f"trained at {highest:.1g}, all steps of the run move them by {way:.1g}x",
        "raise the rate of their parameter group; rates this low are for weights that were trained before",
        {"ratio": way / max(horizon, last.step), "layers": len(hardly), "rate": rate, "highest_rate": highest},
    )


def decay_outweighs(looks: Sequence[Look], course: Course) -> Outcome | None:
    """Decay moved the weights more than the gradient did, so that they shrank, and with them all that was learnt."""
    strong = [look for look in looks if look.decay > DECAY]
    first, last = looks[0].norm, looks[-1].norm
    lost = (last < SHRUNK * first and not course.is_below(BACK)) or (last < GONE * first and not course.is_below(GONE))
    if looks[-1].step < AT_LEAST or len(strong) < OFTEN or not course.points or not lost:
        return None
    share = statistics.median(look.decay for look in strong)
    return Outcome(
        Status.WARNING,
        "weight_decay_outweighs",
        f"weight decay is {100 * share:.0f} % of what moves the weights, whose norm shrank from {first:.3g} to "
        f"{last:.2g} (loss {course})",
        "lower weight_decay a hundredfold; 1e-4 to 5e-4 are usual with SGD, 0.01 to 0.1 with AdamW",
        {"share": share, "norm_first": first, "norm": last, **course.evidence},
    )


def shrunk(looks: Sequence[Look], course: Course) -> Outcome | None:
    """Next to nothing is left of the weights, though the optimiser does not decay them: the loss has them small."""
    first, last = (math.hypot(*(layer.weight for layer in looks[i].layers.values())) for i in (0, -1))
    if looks[-1].step < AT_LEAST or not last < GONE * first or looks[-1].layers.keys() != looks[0].layers.keys():
        return None
    return Outcome(
        Status.WARNING,
        "weight_decay_outweighs",
        f"the norm of the weights shrank from {first:.3g} to {last:.2g}, and not by the optimiser's weight decay "
        f"(loss {course}): a penalty on them outweighs the data",
        "a smaller factor of the penalty in the loss, a thousandth; or weight_decay of the optimiser in its place",
        {"norm_first": first, "norm": last, **course.evidence},
    )


def never_moves(looks: Sequence[Look]) -> Outcome | None:
    """Some weights have a gradient and a rate, and are the same after each step, while others move."""
    if looks[-1].step < AT_LEAST or len(looks) <= OFTEN:
        return None
    still = [
        name
        for name in looks[-1].layers
        if all(name in look.layers and _should_move(look.layers[name]) for look in looks)
        and not any(look.layers[name].change for look in looks)
    ]
    if not still or len(still) == len(looks[-1].layers):
        return None
    return Outcome(
        Status.WARNING,
        "never_moves",
        f"{listed(still)} had a gradient and a learning rate at {len(looks)} looks, and no step changed them",
        "see what sets them back: a hook or callback that writes weights, or an optimiser that works on copies",
        {"layers": len(still), "looks": len(looks)},
    )


def _should_move(layer: Layer) -> bool:
    return not layer.rounded and layer.rate * layer.gradient > PRECISION * layer.weight
