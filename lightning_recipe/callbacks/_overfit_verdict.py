"""How far short fits on one batch came towards the lowest loss, and why they came no further."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightning_recipe.losses.floor import Floor, floor
from lightning_recipe.losses.table import TABLE, Family, Takes

if TYPE_CHECKING:
    from lightning_recipe.record.step import Step
    from lightning_recipe.trial.short_fit import Fit

NOISE = 1e-4
"""Share of the loss by which two steps with equal weights may differ by rounding."""
STUCK = 0.02
"""Share of what is left that the last quarter of a fit must gain over the third to count as falling: less, and a
fit of 600 steps would have to be ten times as long to get rid of two thirds of it."""
NEARLY = 0.25
"""Share of the way that may be left where the rest is a matter of more steps."""
HALF = 0.5
"""Share of the way that may be left to a fit that is still falling, for more steps to be worth while: the user's
optimiser is left alone, if Adam gets there; without Adam it gets more steps."""
FEW_STEPS = 100
"""Steps that tell too little when the time was over after them: 20 go by until the learning rate is at its peak, and
healthy small nets need 50 to 150 to memorise 8 examples at 1e-3."""
UNKNOWN_STEPS = 300
"""Steps for a loss whose floor isn't known: enough to see whether it all but vanishes."""
_QUARTERS = 8  # probed steps from which on a fit is looked at by quarters
_EQUAL = 1e-3  # relative; half precision
_ROUNDING = 1e-5  # relative; what batch statistics leave of a constant in single precision


@dataclass
class Trial:
    """The fits of one batch: by the user's optimiser first, then by Adam.

    Example:
        >>> from lightning_recipe.trial.short_fit import Fit
        >>> by_hand = Fit("SGD (lr 0.1)", losses=[2.0, 0.5, 0.02], calls={0: [], 1: [], 2: []})
        >>> Trial(0.02).distances(by_hand)
        [1.0, 0.25, 0.01]

    Attributes:
        tolerance: Share of the way to the floor that may be left.
        fits: In their order.
        warms_up: Whether the learning rate of the run begins far below its peak.
        examples: How many there are to memorise; None if that isn't known.

    """

    tolerance: float
    fits: list[Fit] = field(default_factory=list)
    warms_up: bool = False
    examples: int | None = None
    _floors: list[Floor] | None = None

    def floors(self, first: Step | None) -> list[Floor]:
        """The floor of each loss function of a step; empty if one isn't known, or if there is none."""
        if self._floors is None:
            calls = [] if first is None else first.loss_calls
            found = [floor(call, first.inputs) if first and call.times == 1 else None for call in calls]
            self._floors = [f for f in found if f is not None] if all(f is not None for f in found) else []
        return self._floors

    # -- how far

    def distances(self, fit: Fit) -> list[float]:
        """At each probed step what is left of the way to the floor: 1 for knowing the targets only, 0 at the floor.

        Of several losses, that of the one that has most left. Where the floor isn't known, the loss itself, in units
        of the first.
        """
        floors = self.floors(fit.first)
        if not floors:
            start = fit.losses[0] if fit.losses and fit.losses[0] > 0 else math.nan
            return [fit.losses[step] / start for step in fit.calls]
        starts = next(iter(fit.calls.values()))
        scales = [_scale(f, start) for f, start in zip(floors, starts, strict=True)]
        return [
            max((v - f.value) / scale for v, f, scale in zip(values, floors, scales, strict=True))
            if len(values) == len(floors) and all(map(math.isfinite, values))
            else math.inf
            for values in fit.calls.values()
        ]

    def is_over(self, fit: Fit) -> bool:
        """Whether more steps could tell nothing more: the floor is reached, or not known and not near either."""
        return self.is_reached(fit) or (len(fit.losses) >= UNKNOWN_STEPS and not self.floors(fit.first))

    def is_reached(self, fit: Fit) -> bool:
        """Whether the last two probed steps were at the floor."""
        last = self.distances(fit)[-2:]
        at_floor = all(distance <= self.tolerance for distance in last)
        return at_floor and (bool(self.floors(fit.first)) or min(last, default=-1) >= 0)

    def is_falling(self, fit: Fit) -> bool:
        """Whether the fit was still getting nearer when it ended."""
        left = self.distances(fit)
        if not all(map(math.isfinite, left)):
            return False
        if len(left) < _QUARTERS:
            return left[-1] < left[0]
        quarter = len(left) // 4
        second, third, fourth = (sum(left[-(i + 1) * quarter : len(left) - i * quarter]) / quarter for i in (2, 1, 0))
        return fourth < (1 - STUCK) * third < (1 - STUCK) * second and fourth < left[0]

    def is_nearly_there(self, fit: Fit) -> bool:
        """Whether the fit was still getting nearer, with little left; if it went on, with as many steps again to go.

        Pykeen's MuRE, which gets there, was 1.2 times its steps away after 600 of them, and 0.5 after 1,800; two
        hidden units for ten classes, which do not, 1.4 to 1.9 and 1.4 to 4.8.
        """
        left = self.distances(fit)
        if fit.longer:
            quarter = max(1, len(left) // 4)
            return self.is_falling(fit) and left[-1] <= (left[-1 - quarter] - left[-1]) * len(left) / quarter
        return self.is_falling(fit) and left[-1] <= NEARLY * left[0]

    def goes_on(self, fit: Fit) -> bool:
        """Whether the fit is on its way, and needs more steps to tell whether it gets there."""
        left = self.distances(fit)
        near = self.is_reached(fit) if fit.longer else self.is_nearly_there(fit)
        return bool(self.floors(fit.first)) and self.is_falling(fit) and not near and left[-1] < HALF * left[0]

    def is_too_short(self, fit: Fit) -> bool:
        """Whether the fit had too few steps to tell anything."""
        few = len(fit.losses) < FEW_STEPS and math.isfinite(fit.losses[-1])
        return few and not self.is_nearly_there(fit) and (fit.out_of_time or not self.is_falling(fit))

    def is_settled(self) -> bool:
        """Whether another optimiser could tell nothing more."""
        fit = self.fits[-1]
        return (
            not fit.losses
            or not math.isfinite(fit.losses[0])
            or self.is_reached(fit)
            or (len(self.fits) == 1 and self.is_nearly_there(fit))
            or not self.floors(fit.first)
            or is_noisy(fit)
            or has_no_gradient(fit)
            or not has_only_known_terms(fit)
            or self.is_too_short(fit)
        )


def _scale(found: Floor, start: float) -> float:
    """The way from knowing the targets only to the floor; where there is none (all targets are equal), from the start.

    Never less than a hundredth of the way from the start: targets may be all but equal.
    """
    way = found.ignorant - found.value
    whole = max(start - found.value, 1e-12)
    return max(way, 0.01 * whole) if way > 1e-9 else whole  # noqa: PLR2004 - what rounding leaves


def is_noisy(fit: Fit) -> bool:
    """Whether two steps with equal weights had different losses."""
    return fit.noise > NOISE * max(abs(fit.losses[0]), 1e-12)


def has_no_gradient(fit: Fit) -> bool:
    """Whether no parameter got any gradient, from the first step to the last."""
    return bool(fit.grads) and not any(fit.grads.values()) and not fit.weights_moved


def has_only_known_terms(fit: Fit) -> bool:
    """Whether the loss is a sum of the loss functions seen, each with a constant positive weight.

    What else is in it (a penalty, a divergence) may keep them from their floors.
    """
    values = torch.tensor([v for v in fit.calls.values() if len(v) == len(next(iter(fit.calls.values())))]).double()
    total = torch.tensor([fit.losses[step] for step in fit.calls]).double()
    if values.shape[0] != total.shape[0] or values.shape[1] == 0:
        return False
    finite = values.isfinite().all(1) & total.isfinite()
    values, total = values[finite], total[finite]
    if not len(total):
        return True
    weights = torch.linalg.lstsq(values, total[:, None], driver="gelsd").solution
    residual = (values @ weights)[:, 0] - total
    return bool((residual.abs() <= _EQUAL * total.abs().max()).all() and (weights >= -_EQUAL).all())


# -- why no further


def wrong_kind(trial: Trial) -> str:
    """What is wrong with the predictions by their kind, if a fit ended where such predictions have to; or nothing.

    What a loss of log-probabilities makes of anything else has no lowest value: reaching it means nothing.
    """
    for fit in trial.fits:
        for call in fit.last.loss_calls if fit.last is not None else []:
            found, loss = floor(call), TABLE[call.name]
            means_something = loss.takes is not Takes.LOG_PROBABILITIES
            if found is None or not found.trap_reason or (trial.is_reached(fit) and means_something):
                continue
            above = float(call.value.double().mean()) - found.trap
            certain = loss.of_classes or loss.takes is Takes.PROBABILITIES  # no chance: rows sum to 1
            if certain or above <= trial.tolerance * max(found.ignorant - found.value, abs(found.trap)):
                low, high = _low(call.arguments["input"]), _high(call.arguments["input"])
                entered = f"the predictions that enter {call.name} ({call.where}) go from {low:.3g} to {high:.3g}"
                return f"{entered}: {found.trap_reason}"
    return ""


def is_constant(fit: Fit) -> bool:
    """Whether after many steps the predictions were still the same for all examples, whose targets differ."""
    if fit.last is None or len(fit.losses) < FEW_STEPS:
        return False
    call = fit.last.loss_calls[0]
    prediction, target = call.arguments["input"].double(), call.arguments["target"]
    return (
        prediction.ndim > 0
        and len(prediction) > 1
        and _spread(prediction) <= _ROUNDING * _size(prediction) < math.inf
        and (bool((target != target[:1]).any()))
    )


def _spread(prediction: Tensor) -> float:
    return float((prediction.amax(0) - prediction.amin(0)).max())


def _size(prediction: Tensor) -> float:
    return max(float(prediction.abs().max()), 1e-12)


def symptoms(fit: Fit, pl_module: nn.Module) -> list[str]:
    """What the last step of a fit that is stuck says about why."""
    found = []
    if fit.last is not None and fit.last.loss_calls:
        call = fit.last.loss_calls[0]
        prediction, target = call.arguments["input"].double(), call.arguments["target"]
        if prediction.ndim and len(prediction) > 1:
            spread = _spread(prediction)
            if spread <= _EQUAL * _size(prediction):
                found.append(
                    f"the predictions are the same for all {len(prediction)} examples (they differ by {spread:.2g})"
                )
        if target.is_floating_point() and TABLE[call.name].family is Family.NUMBERS:
            found += _out_of_range(prediction, target.double())
    dead = [name for name, grad in fit.grads.items() if grad == 0]
    if dead and len(dead) < len(fit.grads):
        found.append(f"no gradient reaches {_modules(dead)}")
    if fit.left_out:
        found.append(f"the optimiser does not hold the parameters of {_modules(fit.left_out)}")
    if not fit.weights_moved:
        found.append("the optimiser changed no weight")
    everything = sum(p.numel() for p in pl_module.parameters())
    trainable = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
    frozen = f" ({everything - trainable} more are frozen)" if everything > trainable else ""
    found.append(f"{trainable} trainable parameters in all{frozen}")
    return found


def _modules(names: list[str]) -> str:
    """The modules of these parameters, or those of the first four."""
    modules = list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
    return ", ".join(modules[:4]) + (" and others" if len(modules) > 4 else "")  # noqa: PLR2004


def _out_of_range(prediction: Tensor, target: Tensor) -> list[str]:
    low, high = _low(prediction), _high(prediction)
    for limit in (-1.0, 0.0):
        if low >= limit > _low(target) and low - limit < 1e-3:  # noqa: PLR2004 - saturated
            return [f"no prediction is below {limit:g}, but targets go down to {_low(target):.3g}"]
    if high <= 1 < _high(target) and 1 - high < 1e-3:  # noqa: PLR2004
        return [f"no prediction is above 1, but targets go up to {_high(target):.3g}"]
    return [f"predictions go from {low:.3g} to {high:.3g}, targets from {_low(target):.3g} to {_high(target):.3g}"]


def _low(tensor: Tensor) -> float:
    return float(tensor.min())


def _high(tensor: Tensor) -> float:
    return float(tensor.max())


def is_linear(pl_module: nn.Module) -> bool:
    """Whether there is but one layer to train: by design such models can't memorise everything.

    Example:
        >>> is_linear(nn.Sequential(nn.Linear(3, 2), nn.Softmax(1)))
        True

    """
    layers = [
        module
        for module in pl_module.modules()
        if any(p.requires_grad and p.ndim > 1 for p in module.parameters(recurse=False))
    ]
    return len(layers) <= 1


def knows_examples(fit: Fit) -> bool:
    """Whether it can be seen which inputs belong to which target; not for graphs, whose inputs are nodes and edges."""
    if fit.first is None:
        return False
    inputs = list(fit.first.inputs.values())
    examples = {call.examples for call in fit.first.loss_calls}
    return any(
        t.ndim > 0 and examples & {t.shape[0], t.shape[:2].numel(), *t.shape[1:2]} for t in inputs
    )  # the second dimension where time comes first


def has_many_targets(fit: Fit) -> bool:
    """Whether there are several targets for each example: pixels, positions, columns."""
    if fit.first is None:
        return False
    size = fit.first.batch_size or 1
    for call in fit.first.loss_calls:
        target, prediction = call.arguments["target"], call.arguments["input"]
        targets = target.numel()
        if TABLE[call.name].of_classes and target.is_floating_point() and prediction.ndim > 1:
            targets //= prediction.shape[1]
        if targets > size:
            return True
    return False
