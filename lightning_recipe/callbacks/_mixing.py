"""Examples that a step mixes with others, as mixup and CutMix do, and whether their labels go with them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.finding import Outcome, Status
from lightning_recipe.losses.by_hand import likely
from lightning_recipe.record.loss_graph import nodes, weights
from lightning_recipe.record.tensors import tensors

if TYPE_CHECKING:
    from lightning_recipe.record.step import Step

EXAMPLES = 64
"""Mixed examples that are looked at, and their partners are looked for among four times as many."""
VALUES = 1024
"""Values of each that are compared, evenly spaced."""
EXACT = 1e-4
"""Squared distance, over that of the partner, of what is a mixture of two, in 16 bits too."""
PURE = 0.02
"""Share of a partner below which an example is not mixed."""
APART = 0.1
"""Difference of the shares of inputs and labels from which on they do not match: CutMix's box may be cut at an edge."""
ALIKE = 0.2
"""Difference of two losses, over their size, without which their weights can't be told: an untrained network loses as
much by any label, and a penalty may be added."""
OTHER = 0.3
"""Share of a partner whose label is left out, from which on it is no noise in the background."""
SAME = 0.7
"""Labels that are mixed in, of those of the examples that are, without which they were permuted in another way."""
NEEDED = 4
"""Mixed examples whose partner has another label."""


class Mixed(NamedTuple):
    """A batch that was mixed.

    Attributes:
        own: Share of an example in what the network is given, shape (N,).
        partner: Row of the other one, shape (N,); its own where that is not known.

    """

    own: Tensor
    partner: Tensor


def mixed(batch: Tensor, given: Tensor) -> Mixed | None:
    """How each example of a batch was mixed with another one.

    Args:
        batch: As the loader gave it, shape (B, ...).
        given: What the network was given, of the same shape.

    Returns:
        None if it was not.

    Example:
        >>> x = torch.rand(8, 20, generator=torch.Generator().manual_seed(0))
        >>> mixed(x, 0.7 * x + 0.3 * x.flip(0))
        Mixed(own=tensor([0.7000, 0.7000, 0.7000, 0.7000, 0.7000, 0.7000, 0.7000, 0.7000], dtype=torch.float64), \
partner=tensor([7, 6, 5, 4, 3, 2, 1, 0]))

    """
    x, z = (t.detach().flatten(1)[: 4 * EXAMPLES] for t in (batch, given))
    x, z = (t[:, :: max(1, t.shape[1] // VALUES)].double().cpu() for t in (x, z))
    z = z[:EXAMPLES]
    if len(x) < NEEDED or torch.equal(x[: len(z)], z) or not bool(x.isfinite().all() and z.isfinite().all()):
        return None
    return _blended(x, z) or _pasted(x, z)


def _blended(x: Tensor, z: Tensor) -> Mixed | None:
    """Every value is a mean of two: z = own x_i + (1 - own) x_j."""
    own, partner = [], []
    for i, now in enumerate(z):
        apart, left = x[i] - x, now - x
        share = (apart * left).sum(1) / apart.square().sum(1).clamp(min=1e-12)
        distance = (left - share[:, None] * apart).square().sum(1) / left.square().sum(1).clamp(min=1e-12)
        distance[(share < -PURE) | (share > 1 + PURE)] = 1
        distance[i] = 1
        j = int(distance.argmin())
        if distance[j] > EXACT:
            return None
        own.append(float(share[j]))
        partner.append(j)
    return Mixed(torch.tensor(own, dtype=torch.double), torch.tensor(partner))


def _pasted(x: Tensor, z: Tensor) -> Mixed | None:
    """Values in one box are those of another example."""
    changed = z != x[: len(z)]
    box = changed.any(0)
    if not 0 < changed.sum() < changed.numel() or bool(box.all()):
        return None
    partner = []
    for i, now in enumerate(z):
        alike = (x[:, box] == now[box]).double().mean(1)
        alike[i] = 0
        j = int(alike.argmax())
        if alike[j] < 1 and bool(changed[i].any()):
            return None
        partner.append(j if alike[j] == 1 and int((alike == 1).sum()) == 1 else i)  # what is blank may be anybody's
    return Mixed(torch.full((len(z),), 1 - float(box.double().mean()), dtype=torch.double), torch.tensor(partner))


class Share(NamedTuple):
    """Of a look: the part of an example in its input, and in its label.

    Attributes:
        inputs: On average.
        labels: 1 if they were not mixed at all; NaN where nobody knows.
        partners: Of the labels that are mixed in, those of the examples that are.

    """

    inputs: float
    labels: float
    partners: float = 1.0

    @property
    def tells(self) -> bool:
        """Whether a label with the weight of the other one would be seen to be wrong."""
        return not math.isnan(self.labels) and abs(2 * self.inputs - 1) > APART

    @property
    def is_wrong(self) -> bool:
        """Whether labels are mixed in another way, or left out although the other one is no background."""
        if self.labels == 1:
            return 1 - self.inputs >= OTHER
        return abs(self.inputs - self.labels) > APART or self.partners < SAME


def share_of(step: Step, given: Any = None) -> Share | None:
    """How a step mixed its inputs and its labels; None if it did not, or it can't be told how.

    Args:
        step: With its batch as it was before anything was mixed.
        given: The batch that was mixed before the step, which may hold a distribution for each example.

    Example:
        >>> from lightning_recipe.record.step import Step
        >>> share_of(Step(None)) is None
        True

    """
    entries = [t for _, t in tensors(step.batch) if t.ndim and t.layout is torch.strided]
    enters = next(iter(step.inputs.values()), None)
    if enters is None or enters.layout is not torch.strided or not enters.is_floating_point() or enters.ndim < 2:  # noqa: PLR2004
        return None
    rows = [t for t in entries if len(t) == len(enters) and t.numel() == enters.numel() and t.is_floating_point()]
    found = mixed(rows[0], enters) if rows else None  # with a dimension of channels, it may be
    labels = [t for t in entries if t.ndim == 1 and len(t) == len(enters) and not t.is_floating_point()]
    if found is None or len(labels) != 1:
        return None
    soft = [t for _, t in tensors(given) if t.ndim == 2 and len(t) == len(enters) and _are_shares(t)]  # noqa: PLR2004
    share = _labels(step, found, labels[0].detach().cpu().long(), soft[0] if len(soft) == 1 else None)
    return share or Share(float(found.own.mean()), math.nan)


def _are_shares(rows: Tensor) -> bool:
    """Whether each row is a distribution."""
    if not rows.is_floating_point() or rows.shape[1] < 2:  # noqa: PLR2004
        return False
    return bool((rows >= 0).all()) and bool(((rows.float().sum(1) - 1).abs() < PURE).all())


def _labels(step: Step, found: Mixed, y: Tensor, soft: Tensor | None) -> Share | None:
    own, other = y[: len(found.own)], y[found.partner]
    told = (own != other) & (found.own > PURE) & (found.own < 1 - PURE)
    if int(told.sum()) < NEEDED:
        return None
    inputs = float(found.own[told].mean())
    calls = step.loss_calls or [call for call in (likely(step),) if call is not None]
    targets = [call.arguments.get("target") for call in calls if call.times == 1]
    known = [t.detach().cpu() for t in targets if isinstance(t, Tensor) and t.ndim and len(t) == len(y)]
    if not known and soft is not None:
        known = [soft.detach().cpu()]
    elif not known or len(known) < len(calls):
        return None
    if len(known) == 1 and known[0].is_floating_point():
        return _soft(known[0][: len(own)].double(), own, other, told, inputs)
    if any(t.is_floating_point() or t.ndim > 1 for t in known) or not any(torch.equal(t, y) for t in known):
        return None
    if len(known) == 1:
        return Share(inputs, 1.0)
    first = 0 if torch.equal(known[0], y) else 1
    weight = _weight(step, first) if len(known) == 2 else None  # noqa: PLR2004
    others = known[1 - first]
    if weight is None and (len(known) > 2 or not torch.equal(others.sort().values, y.sort().values)):  # noqa: PLR2004
        return None  # it may be of another task
    agree = (others[: len(own)] == other)[told]
    return Share(inputs, math.nan if weight is None else weight, float(agree.double().mean()))


def _soft(targets: Tensor, own: Tensor, other: Tensor, told: Tensor, inputs: float) -> Share | None:
    """From a distribution for each example, smoothed or not."""
    if targets.ndim != 2 or targets.shape[1] <= int(max(own.max(), other.max())):  # noqa: PLR2004
        return None
    above = (targets - targets.amin(1, keepdim=True))[told]
    whole = above.sum(1).clamp(min=1e-9)
    mine, others = (above.gather(1, labels[told][:, None])[:, 0] / whole for labels in (own, other))
    return Share(inputs, round(float(mine.mean()), 6), float((mine + others > 1 - PURE).double().mean()))


def _weight(step: Step, first: int) -> float | None:
    """The weight of the one of two losses in their weighted mean; None if the loss is none, or they are too alike.

    Where the step was run again, and its graph is there, it is read from that.
    """
    targets = [step.loss_calls[i].arguments["target"] for i in (first, 1 - first)]
    if (known := _derivatives(step.loss, targets)) is not None:
        return known[0] if abs(sum(known) - 1) < PURE else None
    mine, others = (
        call.value.detach().double().mean().cpu() for call in (step.loss_calls[first], step.loss_calls[1 - first])
    )
    if step.loss is None or step.loss.numel() != 1 or abs(mine - others) < ALIKE * abs(mine):
        return None
    weight = float((step.loss.detach().double().cpu() - others) / (mine - others))
    return weight if -PURE <= weight <= 1 + PURE else None


def _derivatives(loss: Tensor | None, targets: list[Tensor]) -> list[float] | None:
    """Of a loss with respect to the two cross entropies that compare with these targets; None if they are not known."""
    if loss is None or not loss.requires_grad:
        return None
    picking = [(node, node.picked) for node in nodes(loss) if node.kind.startswith("NllLoss")]
    found = []
    for target in targets:
        own = [node for node, picked in picking if picked is not None and torch.equal(picked[0].cpu(), target.cpu())]
        slope = weights(loss, own[0]) if len(own) == 1 else None
        found.append(math.nan if slope is None else float(slope.sum()))
    return found if not any(map(math.isnan, found)) else None


def verdict(shares: list[Share]) -> Outcome | None:
    """What to say of the looks at which inputs were mixed: two have to agree.

    Example:
        >>> verdict([Share(0.3, 0.7), Share(0.8, 0.2)]).evidence["looks"]
        2
        >>> verdict([Share(0.3, 0.3), Share(0.8, 0.2)]) is None
        True

    """
    wrong = [share for share in shares if share.is_wrong]
    if len(wrong) < 2:  # noqa: PLR2004
        return None
    last = wrong[-1]
    labels = "the label is its own alone" if last.labels == 1 else f"its label has a weight of {last.labels:.2f}"
    labels = "labels are mixed, too" if math.isnan(last.labels) else labels
    if last.partners < SAME:
        labels += f", and only {last.partners:.0%} of the other labels are those of the other examples"
    return Outcome(
        Status.WARNING,
        "labels_not_mixed",
        f"inputs are mixed with other examples, {last.inputs:.2f} of each is its own, while {labels}",
        "mix labels, or the losses of both labels, by the same share and the same permutation as the inputs",
        {"inputs": last.inputs, "labels": last.labels, "looks": len(wrong)},
    )
