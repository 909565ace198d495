"""What comes through a network, forward and back, layer by layer: the decisions of ActivationMonitor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from lightning_recipe.finding import Outcome, Status, listed

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from lightning_recipe.callbacks._loss_course import Course
    from lightning_recipe.record.step import Reduced

CUT_OFF = (nn.ReLU, nn.ReLU6, nn.Threshold)
"""Put out zeros, and give no gradient for them."""
BOUNDED = (nn.Tanh, nn.Sigmoid)
"""Have a slope that goes to zero on both sides."""
OFF, SPARSE = 0.5, 0.9
"""Share of the units that are off, and zeros among the others, below which these are not just rarely on, too."""
STATES = 3.0
"""Times as steep as others have to be are the states of a loop that are flat from the beginning: slopes multiply."""
DRAWN = 0.2
"""Share of the steepest slope, below which a hidden activation is flat by the weights that were drawn: with those of
nn.Linear, or xavier's, it is above a half."""
LOOP = 8
"""Calls in a step that make a loop."""
LARGE = 100.0
"""Standard deviation of what a layer puts out that is none that a network wants."""
AT_LEAST = 25
"""Steps before which nothing is said."""
LEARNT = 0.7
"""Of the first loss, below which a network learns, whatever its units do."""
SLOWLY = 0.95
"""The same, below which it learns slowly: the units that are left may be as many as it needs."""
NOTHING = 0.8
"""The same, above which it learnt nothing."""
TENTH = 0.1
"""The same, below which the first loss was far too high for weights that were drawn."""
LONG = 100
"""Steps after which a network that learnt nothing does not just take its time."""
EXTREME = 100.0
"""Times the factor, from which on it need not have taken so many steps: seven sigmoids in a row have 300, twelve
layers of convolutions without a skip 30,000."""
DEPTH = 4
"""Layers from which on gradients are compared across depth."""
REVIVE = (
    "initialise biases at 0, centre what enters, or lower the learning rate, whose steps throw units out of reach; "
    "LeakyReLU or GELU let a gradient through"
)


class State(nn.Tanh):
    """What a loop, or a recurrent layer, puts out at each of its steps."""


class Depth(NamedTuple):
    """A layer with a weight, at one look.

    Attributes:
        name: Of the module.
        std: Standard deviation of what it puts out; NaN where that is not seen.
        gradient: Norm of the gradient of its weight, in norms of the weight; NaN without one.

    """

    name: str
    std: float
    gradient: float


Activations = Mapping[str, tuple[nn.Module, "Reduced"]]
"""Modules with what they put out, by name, in the order of their calls."""


def extremes(activations: Activations, zeros: float, least: float) -> set[str]:
    """Those that are off or flat, by either limit."""
    off = {name for name, (kind, numbers) in activations.items() if isinstance(kind, CUT_OFF) and numbers.zeros > zeros}
    return off | {
        name for name, (kind, n) in activations.items() if isinstance(kind, BOUNDED) and slope(kind, n) < least
    }


def dead(activations: Activations, course: Course, zeros: float) -> Outcome | None:
    """Activations that put out zeros only, or hardly anything else; `advice` if something is learnt nevertheless."""
    shares = {name: numbers.zeros for name, (kind, numbers) in activations.items() if isinstance(kind, CUT_OFF)}
    learns = course.is_below(LEARNT) or not course.points
    off = {name: share for name, share in shares.items() if share == 1 or (share > zeros and not learns)}
    if not off:
        return None
    worst = max(off.values())
    return Outcome(
        Status.ADVICE if worst < 1 and course.fell_to(SLOWLY) else Status.WARNING,
        "dead",
        f"{100 * worst:.4g} % of the output of {listed(off)} is 0 (about 50 % expected), and no gradient comes back "
        f"through that (loss {course})",
        REVIVE,
        {"zeros": worst, "activations": len(off), **course.evidence},
    )


def units_off(activations: Activations, course: Course) -> Outcome | None:
    """Most units of a ReLU are off for whole batches, while the others are not; `warning` if nothing is learnt."""
    shares = {
        name: n.off
        for name, (kind, n) in activations.items()
        if isinstance(kind, CUT_OFF) and OFF < n.off < 1 and n.zeros - n.off < SPARSE * (1 - n.off)
    }
    if not shares or not course.points or course.is_below(LEARNT):
        return None
    worst = max(shares.values())
    return Outcome(
        Status.ADVICE if course.fell_to(SLOWLY) else Status.WARNING,
        "units_dead",
        f"{worst:.0%} of the units of {listed(shares)} put out nothing but 0 for all examples of a batch, and get no "
        f"gradient (loss {course})",
        REVIVE,
        {"units": worst, "activations": len(shares), **course.evidence},
    )


def cut(layers: Sequence[Depth], *, others: bool, course: Course) -> Outcome | None:
    """No gradient comes to most weights, though one comes to other parameters: as a rule, units on the way are off."""
    none = [layer.name for layer in layers if layer.gradient == 0]
    if not none or 2 * len(none) <= len(layers) or not others or not course.points or course.is_below(LEARNT):
        return None
    return Outcome(
        Status.WARNING,
        "cut",
        f"the gradient of {listed(none)} is exactly 0, while others get one: something on the way to the loss is 0 for "
        f"all examples (loss {course})",
        "see what: units that are off (lower the learning rate, or LeakyReLU), a mask, a weight of the loss",
        {"layers": len(none), **course.evidence},
    )


def slope(kind: nn.Module, numbers: Reduced) -> float:
    """Mean slope of a bounded activation over what it put out, in its steepest.

    Example:
        >>> from lightning_recipe.record.step import Reduced
        >>> round(slope(nn.Tanh(), Reduced(0.0, mean=0.0, std=0.99)), 3)
        0.02
        >>> slope(nn.Sigmoid(), Reduced(0.0, mean=0.5, std=0.0))
        1.0

    """
    square = numbers.mean**2 + numbers.std**2
    return 1 - square if isinstance(kind, nn.Tanh) else 4 * (numbers.mean - square)


def flat_states(activations: Activations, least: float) -> set[str]:
    """States of loops that are rather flat."""
    return {name for name, (kind, n) in activations.items() if isinstance(kind, State) and slope(kind, n) < least}


def saturated(activations: Activations, course: Course, least: float, states: Collection[str] = ()) -> Outcome | None:
    """Hidden tanh and sigmoid of which nearly all put out their bounds, while nothing is learnt.

    Args:
        activations: At this look.
        course: The loss.
        least: Slope, in the steepest.
        states: Those that were rather flat from the beginning.

    """
    slopes = {name: slope(kind, n) for name, (kind, n) in activations.items() if isinstance(kind, BOUNDED)}
    flat = {name: value for name, value in slopes.items() if value < least * (STATES if name in states else 1)}
    if not flat or not course.points or course.is_below(LEARNT):
        return None
    lowest, least = max(min(flat.values()), 0.0), least * (STATES if flat.keys() <= set(states) else 1)
    return Outcome(
        Status.WARNING,
        "saturated",
        f"{listed(flat)} puts out its bounds: the mean slope is {lowest:.2g} of the steepest (at least {least:g} "
        f"expected), which is what comes back of a gradient (loss {course})",
        "scale what enters to a standard deviation of about 1, and initialise the layer before it smaller",
        {"slope": lowest, "activations": len(flat), **course.evidence},
    )


def drawn_flat(activations: Activations, step: int, layers: Mapping[str, int]) -> Outcome | None:
    """Hidden tanh and sigmoid, two at least and most of all, that are rather flat: of a network that was just drawn.

    One may be so by what enters. States of loops are not meant.

    Args:
        activations: At a look.
        step: Of it.
        layers: After how many each is called.

    """
    bounded = {n: slope(kind, seen) for n, (kind, seen) in activations.items() if type(kind) in BOUNDED}
    flat = {name: value for name, value in bounded.items() if value < DRAWN}
    count, every = (sum(layers[name] for name in names) for names in (flat, bounded))
    if count < 2 or 2 * count <= every:  # noqa: PLR2004
        return None
    mean = sum(flat.values()) / len(flat)
    return Outcome(
        Status.WARNING,
        "saturated_as_drawn",
        f"{listed(flat)} put out their bounds from the beginning, and still do at step {step}: the mean slope is "
        f"{mean:.2g} of the steepest (above 0.5 expected of weights that were just drawn)",
        "draw the weights before them smaller, with a standard deviation of about 1/sqrt(inputs), as "
        "nn.init.xavier_normal_ does; nn.init.normal_ alone has 1",
        {"slope": mean, "activations": count},
    )


def grown(layers: Sequence[Depth], factor: float) -> Depth | None:
    """The layer that puts out most, if that is more than the first does by the factor, and more than is of use."""
    if len(layers) < DEPTH:
        return None
    first, middle = layers[0], layers[len(layers) // 2]
    most = max((layer for layer in layers if math.isfinite(layer.std)), key=lambda layer: layer.std, default=first)
    return most if most.std > max(LARGE, factor * first.std) and 0 < first.std <= middle.std else None


def learnt_nothing(layers: Sequence[Depth], course: Course) -> bool:
    """Whether the loss of a deep network did not fall in many steps."""
    late = bool(course.points) and course.points[-1][0] - course.points[0][0] >= LONG - 1
    return len(layers) >= DEPTH and late and not course.fell_to(NOTHING)


def across(layers: Sequence[Depth], course: Course, factor: float, *, drawn: bool = False) -> Outcome | None:
    """Gradients shrink on their way back, or outputs grow on their way, by a large factor, and nothing is learnt.

    Args:
        layers: At this look.
        course: The loss.
        factor: Between the first layer and another.
        drawn: Whether outputs grew by as much with the weights that were drawn: a loss that has fallen to a tenth only
            shows then how much too high it was.

    """
    if drawn and course.is_below(TENTH) and (most := grown(layers, factor)) is not None:
        return _exploding(layers, most, factor, f"and the loss began far too high ({course})", course)
    if not learnt_nothing(layers, course):
        return None
    if (gradients := vanishing(layers, course, factor)) is not None:
        return gradients
    first, middle = layers[0], layers[len(layers) // 2]
    most = max((layer for layer in layers if math.isfinite(layer.std)), key=lambda layer: layer.std, default=first)
    if most.std > factor * first.std > 0 and first.std <= middle.std:
        return _exploding(layers, most, factor, f"and the loss did not fall ({course})", course)
    return None


def vanishing(layers: Sequence[Depth], course: Course, factor: float) -> Outcome | None:
    """Gradients shrink on their way back by a factor, while the loss does not fall."""
    if len(layers) < DEPTH or not course.points or course.fell_to(NOTHING):
        return None
    first, middle, last = layers[0], layers[len(layers) // 2], layers[-1]
    if not (0 < first.gradient < last.gradient / factor and first.gradient <= middle.gradient <= last.gradient):
        return None
    ratio = first.gradient / last.gradient
    return Outcome(
        Status.WARNING,
        "vanishing",
        f"the gradient of {first.name} is {ratio:.2g}x that of {last.name}, in norms of the weights (at least "
        f"{1 / factor:g} expected), and the loss did not fall ({course})",
        "normalisation layers, residual connections, ReLU or GELU in place of sigmoid, and an initialisation that "
        "keeps the standard deviation",
        {"ratio": ratio, "layers": len(layers), **course.evidence},
    )


def _exploding(layers: Sequence[Depth], most: Depth, factor: float, loss: str, course: Course) -> Outcome:
    ratio = most.std / layers[0].std
    return Outcome(
        Status.WARNING,
        "exploding",
        f"what {most.name} puts out is {ratio:.2g}x what {layers[0].name} does, by standard deviation (at most "
        f"{factor:g} expected), {loss}",
        "normalisation layers, or an initialisation that keeps the standard deviation; in residual blocks, of a branch "
        "that adds little",
        {"ratio": ratio, "layers": len(layers), **course.evidence},
    )


def is_bounded(recurrent: nn.Module) -> bool:
    """Whether a state is a hyperbolic tangent, or a share of one.

    Example:
        >>> is_bounded(nn.GRU(1, 1)), is_bounded(nn.RNN(1, 1, nonlinearity="relu"))
        (True, False)

    """
    relu = "RELU" in getattr(recurrent, "mode", "") or getattr(recurrent, "nonlinearity", "tanh") == "relu"
    return not relu and not getattr(recurrent, "proj_size", 0)
