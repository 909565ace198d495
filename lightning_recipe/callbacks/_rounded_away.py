"""Weights of 16 bits that steps are too small to change."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from lightning_recipe.callbacks._update_ratios import HALF
from lightning_recipe.finding import Outcome, Status, listed

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from lightning_recipe.callbacks._loss_course import Course
    from lightning_recipe.callbacks._untrained import Unmoved
    from lightning_recipe.callbacks._update_ratios import Layer, Look

ROUNDED = 0.9
"""Share of elements that a step leaves as they were, though they have a gradient."""
STUCK = 0.5
"""Share of elements that no step of many moves. The loss of a small network in bfloat16, with Adam and SGD at sixteen
rates, falls much more slowly than in 32 bits where it is above this, and nearly as fast where it is below."""
BEYOND = 0.75
"""Share of elements that no step of many moves, and that are so large that none can. Of a network that was trained
before, and is tuned to other data by Adam at seven rates, the loss after 300 steps is eight times that of 32 bits where
it is 0.82, twice at 0.66, and 1.2 times at 0.37. Where all is learnt, they hardly move, either, and need not."""
MANY = 0.5
"""The same, of the elements of all weights together, from which on it is told that they could be in 32 bits."""
LITTLE = 0.1
"""Of the first loss, below which there is little left to learn."""
QUARTER = 0.25
"""Of embeddings that are drawn and not trained before, the share that is so large that no step can move them: of
numbers with a standard deviation of 1, as ``nn.Embedding`` draws them, 0.32 are above 1, which a rate of 0.003 can't
move in bfloat16."""
FIX = "keep the weights in 32 bits: precision='bf16-mixed' in place of 'bf16-true'; or stochastic rounding"


def rounded_away(looks: Sequence[Look], course: Course, unmoved: Unmoved | None = None) -> Outcome | None:
    """The weights are in 16 bits, and most of what the steps should change is too small for that.

    Where the loss has fallen to less than half, it is `advice` after two such looks in a row, while there is more than
    a little left to learn.

    Args:
        looks: All until now.
        course: Of the loss.
        unmoved: Elements that stay what they are over many steps; of weights that learnt something before, None: to
            change few of them can be enough.

    """
    layers, short = _short(looks[-1])
    slow = {
        name: share
        for name, share in (unmoved.shares if unmoved is not None else {}).items()
        if share > STUCK and name in layers and layers[name].rounded > STUCK
    }
    stuck = bool(course.points) and 2 * len(slow) > len(layers)
    learnt, again = course.is_below(HALF), all(map(_is_short, looks[-2:])) and len(looks) > 1
    if not (stuck or _is_short(looks[-1])) or (learnt and (course.is_below(LITTLE) or not again)):
        return None  # where much was learnt, there is little left to change
    stuck = stuck and not learnt
    hit = slow if stuck else short
    share = statistics.median(hit.values())
    since = f"what they were {unmoved.since} steps before" if stuck and unmoved is not None else "the same after a step"
    return Outcome(
        Status.WARNING if stuck or (course.stands_still and not learnt) else Status.ADVICE,
        "rounded_away",
        f"{100 * share:.0f} % of the elements of {listed(hit)} are exactly {since}, although they have a gradient: "
        f"16 bits are too few for so small a change (loss {course})",
        FIX,
        {"share": share, "layers": len(hit), **course.evidence},
    )


def _short(look: Look) -> tuple[dict[str, Layer], dict[str, float]]:
    """The layers that a step at a full rate should change, and those of them that stay nearly what they were."""
    layers = {name: layer for name, layer in look.layers.items() if layer.on_plateau and layer.gradient > 0}
    return layers, {name: layer.rounded for name, layer in layers.items() if layer.rounded > ROUNDED}


def _is_short(look: Look) -> bool:
    layers, short = _short(look)
    return bool(short) and 2 * len(short) >= len(layers)


def out_of_reach(looks: Sequence[Look], course: Course, unmoved: Unmoved) -> Outcome | None:
    """Most elements of 16 bits are so large that no step of the run can move them, while there is much to learn.

    This asks neither for a network that is trained from scratch nor for a loss that stands still: what can be moved,
    such as biases and small weights, brings it down slowly.

    Args:
        looks: All until now.
        course: Of the loss.
        unmoved: Elements that stay what they are over many steps.

    """
    layers = {name for name, layer in looks[-1].layers.items() if layer.on_plateau and layer.gradient > 0}
    hit = {
        name: share
        for name, share in unmoved.shares.items()
        if name in layers and min(share, unmoved.beyond.get(name, 0.0)) > BEYOND
    }
    if 2 * len(hit) <= len(layers) or not course.falls(unmoved.since):
        return None
    share, beyond = statistics.median(hit.values()), statistics.median(unmoved.beyond[name] for name in hit)
    rate = max(looks[-1].layers[name].rate for name in hit)
    return Outcome(
        Status.WARNING,
        "rounded_away",
        f"{100 * share:.0f} % of the elements of {listed(hit)} are exactly what they were {unmoved.since} steps "
        f"before, although they have a gradient, and {100 * beyond:.0f} % are so large that a step at a rate of "
        f"{rate:.1g} is rounded away in 16 bits (loss {course}, still falling)",
        FIX,
        {"share": share, "beyond": beyond, "layers": len(hit), **course.evidence},
    )


def partly_out_of_reach(looks: Sequence[Look], course: Course, unmoved: Unmoved) -> Outcome | None:
    """Half of all elements of 16 bits are so large that no step of the run can move them; the others learn meanwhile.

    As of embeddings, which begin with numbers of about 1, beside layers with small weights.

    Args:
        looks: All until now.
        course: Of the loss.
        unmoved: Elements that stay what they are over many steps.

    """
    hit = {name: min(unmoved.shares[name], share) for name, share in unmoved.beyond.items()}
    elements = sum(unmoved.elements.values())
    still = sum(share * unmoved.elements[name] for name, share in hit.items())
    if not elements or still <= MANY * elements or course.is_below(LITTLE) or not looks[-1].moved:
        return None
    most = max(hit, key=lambda name: hit[name] * unmoved.elements[name])
    rate = max(layer.rate for layer in looks[-1].moved)
    return Outcome(
        Status.ADVICE,
        "rounded_away",
        f"{still / elements:.0%} of all elements of the weights in 16 bits are exactly what they were {unmoved.since} "
        f"steps before, although they have a gradient: they are so large that a step at a rate of {rate:.1g} is "
        f"rounded away, most of them in {most}",
        FIX,
        {"share": still / elements, "rate": rate, **course.evidence},
    )


def tables_out_of_reach(course: Course, unmoved: Unmoved, tables: Collection[str]) -> Outcome | None:
    """Most elements of embeddings that were just drawn stay what they are, and many are too large for any step.

    Args:
        course: Of the loss, which other weights bring down.
        unmoved: Elements that stay what they are over many steps.
        tables: Names of the embeddings.

    """
    known = [name for name in tables if name in unmoved.beyond and unmoved.elements.get(name)]
    elements = sum(unmoved.elements[name] for name in known)
    still, beyond = (
        sum(shares[name] * unmoved.elements[name] for name in known) / max(1, elements)
        for shares in (unmoved.shares, unmoved.beyond)
    )
    if still <= STUCK or beyond <= QUARTER or course.is_below(LITTLE):
        return None
    return Outcome(
        Status.ADVICE,
        "rounded_away",
        f"{still:.0%} of the elements of {listed(known)} are exactly what they were {unmoved.since} steps before, "
        f"although they have a gradient, and {beyond:.0%} are so large that any step is rounded away in 16 bits",
        FIX,
        {"share": still, "beyond": beyond, **course.evidence},
    )
