"""Forecasts of the end of a window that entered as a whole: whether the first value to forecast was seen."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lightning_recipe.callbacks._compared import SCALED, SHIFTED
from lightning_recipe.callbacks._next_step import STEPS, WIDE, as_sequences, shift_of
from lightning_recipe.callbacks._window import VARIED, is_table
from lightning_recipe.dependencies.over_time import Chart
from lightning_recipe.dependencies.sequences import Layout, layouts
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.losses.table import TABLE, Family
from lightning_recipe.record.loss_graph import RESHAPES, Node, nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightning_recipe.dependencies.sequences import Passage, Passed
    from lightning_recipe.record.step import Step

NEAR = 200
"""Operations before the loss among which a prediction is looked for."""
COMPARED = 4
"""Predictions, at most, or errors, all of which have to depend on it where there is one target for several."""
ASKED = 32
"""Last outputs of modules that are asked where no target is known."""
EXAMPLES = 8
"""That agree, at least: all of a batch."""
CHANGED = 1e-5
"""Share of the largest output by which one differs, at least, where what is to come is in another order: what takes
only statistics of a window differs by rounding."""
HALF = 0.5
"""Of a window may be to forecast, at most: of more, an autoencoder may leave out where its layers begin. And share of
the examples, at least, whose forecast changes."""


class Forecast(NamedTuple):
    """Outputs that are to say the last steps of what entered.

    Attributes:
        horizon: How many steps.
        channels: Of what entered.
        out: Where sequences and steps lie in the outputs.
        read: From a passage to all outputs of which that may be wanted, or to their errors.

    """

    horizon: int
    channels: slice
    out: Layout
    read: Callable[[Passage], list[Tensor]]


def reads_on(look: Callable[..., Passage], base: Passage, step: Step) -> tuple[Outcome, str] | None:
    """Whether the first step of a forecast depends on what it is to say, or on what follows.

    Later ones may be given what is before them, as in teacher forcing; another head may restore what is to come. What
    puts out the steps before, too, restores its window; where something is drawn, what is to come may be there for a
    posterior, as in a conditional VAE.

    Args:
        look: Runs the step with other values of some leaves, and with another ``seed``.
        base: The step as it is.
        step: Its losses are read.

    Returns:
        The verdict, and the module in which it begins; None if there is nothing to tell.

    """
    for number, entered in enumerate(base.entered):
        for into, values in as_sequences(entered.given) if entered.given.is_floating_point() else ():
            windows = values.ndim == 3 and len(values) >= EXAMPLES  # noqa: PLR2004 - no one-hot vectors
            if windows and not (entered.given.ndim == 2 and is_table(values[..., 0])):  # noqa: PLR2004
                for forecast in _forecasts(base, values, step):
                    if told := _judged(look, base, number, into, forecast):
                        return told
    return None


def _judged(
    look: Callable[..., Passage], base: Passage, number: int, into: Layout, forecast: Forecast
) -> tuple[Outcome, str] | None:
    horizon, leaf, results = forecast.horizon, base.entered[number].leaf, forecast.read(base)
    examples, length, _ = into.of(leaf).shape
    if not results or any(_restores(base, result, (examples, length), horizon) for result in results):
        return None
    charts = [Chart(leaf, into, result, forecast.out, forecast.channels) for result in results]
    seen = [chart.row(torch.zeros(examples, dtype=torch.long))[:, length - horizon :] > 0 for chart in charts]
    if min(float(rows.any(1).double().mean()) for rows in seen) < HALF:
        return None
    if not all(are_same(forecast.read(again), results) for again in (look({}), look({}, seed=1))):
        return None
    value = leaf.detach().clone()
    future = into.of(value)[:, length - horizon :, forecast.channels]
    future.copy_(future.flip(1))
    other = look({number: value})
    result, then = results[0].detach(), forecast.read(other)
    if not then or then[0].shape != result.shape:
        return None
    apart = forecast.out.of(result - then[0].detach())[:, 0].abs().amax(-1)
    differs = apart > CHANGED * float(result.abs().max())
    if differs.double().mean() < HALF:
        return None
    begins, reach, told = _first_changed(base, other), int(seen[0].any(0).sum()), int(seen[0].any(1).sum())
    text = (
        f"the last {horizon} of the {length} steps that enter are to be forecast, and the first of them is told from "
        f"what enters at {reach} of these, in {told} of {examples} examples (expected: from none)"
    )
    text += f". It begins {begins.where}" if begins else ""
    fix = f"cut them off before the network: x[:, :-{horizon}] along time"
    evidence: dict[str, float] = {"horizon": horizon, "seen": reach, "examples": told}
    return Outcome(Status.FAILED, "sees_future", text, fix, evidence), begins.name if begins else ""


def are_same(some: list[Tensor], others: list[Tensor]) -> bool:
    """Whether there are as many, with the same values."""
    return len(some) == len(others) and all(map(torch.equal, some, others))


def _first_changed(base: Passage, other: Passage) -> Passed | None:
    """The first that a module with parameters put out and that is another."""
    for a, b in zip(base.passed, other.passed, strict=False):
        learning = a.leaves and next(a.module.parameters(), None) is not None
        if learning and a.value.shape == b.value.shape and not torch.equal(a.value, b.value):
            return a
    return None


def _restores(base: Passage, result: Tensor, window: tuple[int, int], horizon: int) -> bool:
    """Whether a network has outputs for a whole window, though the loss asks for its end only."""
    node: Node | None = Node(result.grad_fn) if result.grad_fn is not None else None
    while node is not None and len(before := [parent for parent in node.parents if parent is not None]) == 1:
        node = before[0] if node.kind in RESHAPES | SHIFTED | SCALED else None
        if node is not None and layouts(node.shape, *window):
            return True
    passed = [p.value for p in base.passed if p.leaves and layouts(tuple(p.value.shape), *window)]
    gradients = gradients_of(base, passed)
    for value, gradient in zip(passed, gradients, strict=True):
        if gradient is not None:
            for out in layouts(tuple(value.shape), *window):
                counted = (out.of(gradient) != 0).any(-1).any(0)
                if not counted[:-horizon].any() and counted[-horizon:].all():
                    return True
    return False


def gradients_of(base: Passage, values: list[Tensor]) -> tuple[Tensor | None, ...]:
    """Of the loss, with respect to some values in its graph."""
    if not values or base.loss is None:
        return ()
    return torch.autograd.grad(base.loss.sum(), values, retain_graph=True, allow_unused=True)


# -- what is to be forecast


def _forecasts(base: Passage, values: Tensor, step: Step) -> Iterator[Forecast]:
    """Outputs for which the loss wants the last steps of (N, T, C) numbers: by its targets, or by its gradient."""
    calls = [call for call in step.loss_calls if TABLE[call.name].answers]
    if any(call.target_from_net for call in calls) or base.loss is None or not base.loss.requires_grad:
        return
    if not calls:
        yield from _by_gradient(base, values)
        return
    numbers = [call for call in calls if TABLE[call.name].answers is Family.NUMBERS]
    targets = [t.detach() for call in numbers if isinstance(t := call.arguments.get("target"), Tensor)]
    if any(_is_begin(values, target) for target in targets):
        return
    for target in targets:
        for horizon, channels, order in ends_with(values, target):
            shape = (*target.shape, 1)[:3] if order[0] else (len(values), *target.shape[1:], 1)[:3]
            whole = shape[: target.ndim]
            yield Forecast(horizon, channels, Layout(shape, order), partial(compared_of, shape=whole))


def _by_gradient(base: Passage, values: Tensor) -> Iterator[Forecast]:
    """Of losses by hand, of which nothing else is known."""
    examples, length, width = values.shape
    found: list[tuple[int, int, Layout]] = []
    for i, passed in enumerate(base.passed):
        shape = tuple(passed.value.shape)
        steps = {n for n in shape[:3] if STEPS <= n <= length} if passed.leaves else set()
        found += [(i, n, out) for n in steps for out in layouts(shape, examples, n)]
    found = found[-ASKED:]
    gradients = gradients_of(base, [base.passed[i].value for i, _, _ in found])
    asked = [
        (i, n, out, out.of(base.passed[i].value.detach()), out.of(gradient))
        for (i, n, out), gradient in zip(found, gradients, strict=True)
        if gradient is not None
    ]
    ends = [a for a in asked if a[1] <= HALF * length and is_said(*a[3:], values[:, length - a[1] :])]
    if not ends or any(is_said(state, gradient, values[:, :n]) for _, n, _, state, gradient in asked):
        return  # or restored, as a whole or in parts
    _, horizon, out, state, gradient = ends[-1]
    each = [slice(c, c + 1) for c in range(min(width, WIDE))]
    future = values[:, length - horizon :]
    some = next((c for c in each if is_said(state, gradient, future[..., c])), slice(None))
    if all(n == horizon and way == out for _, n, way, _, _ in ends):
        yield Forecast(horizon, some, out, partial(passed_at, numbers=[i for i, *_ in ends]))


def is_said(state: Tensor, gradient: Tensor, given: Tensor) -> bool:
    """Whether the loss wants of outputs what is given at the same steps, see `shift_of`."""
    fit = shift_of(state, gradient, given)
    return fit is not None and fit[0] == 0


def passed_at(passage: Passage, numbers: list[int]) -> list[Tensor]:
    """What passed as these numbers."""
    return [passage.passed[i].value for i in numbers] if numbers[-1] < len(passage.passed) else []


def compared_of(passage: Passage, shape: tuple[int, ...]) -> list[Tensor]:
    """What operations near the loss were given, of a shape, with its graph: predictions, or their errors."""
    found = []
    for _, node in zip(range(NEAR), nodes(passage.loss) if passage.loss is not None else (), strict=False):
        try:
            value = getattr(node.raw, "_saved_self", None)
        except RuntimeError:  # overwritten
            continue
        if isinstance(value, Tensor) and value.requires_grad and tuple(value.shape) == shape:
            found.append(value)
    return found[:COMPARED]


def ends_with(values: Tensor, target: Tensor) -> Iterator[tuple[int, slice, tuple[int, int, int]]]:
    """The last steps of windows that are targets: how many, of which channels, and the order of the target.

    Of all channels they may as well be channels of all steps, unless there are fewer, and less alike than steps are.

    Args:
        values: Windows, of shape (N, T, C).
        target: Of the first examples, with dimensions in any order.

    Example:
        >>> x = torch.randn(8, 9, 2).cumsum(1)
        >>> list(ends_with(x, x[:, 6:, 1])), list(ends_with(x, x[:, 5:8, 1])), list(ends_with(x, x[:, 1:, 1]))
        ([(3, slice(1, 2, None), (0, 1, 2))], [], [])

    """
    length, width = values.shape[1:]
    for order, wanted in _in_any_order(values, target):
        n, horizon, channels = wanted.shape
        if not 2 <= horizon <= HALF * length or (wanted == wanted.flatten().mode().values).double().mean() > VARIED:  # noqa: PLR2004
            continue
        if channels == width > 1 and not _steps_first(values):
            continue
        for first in range(min(width - channels + 1, WIDE)):
            some = slice(first, first + channels)
            if torch.equal(values[:n, length - horizon :, some].to(wanted), wanted):
                yield horizon, some, order


def _is_begin(values: Tensor, target: Tensor) -> bool:
    """Whether the first steps of windows are targets, as where they are restored in parts."""
    width = values.shape[2]
    return any(
        torch.equal(values[: len(wanted), : wanted.shape[1], first : first + wanted.shape[2]].to(wanted), wanted)
        for _, wanted in _in_any_order(values, target)
        for first in range(min(width - wanted.shape[2] + 1, WIDE))
    )


def _in_any_order(values: Tensor, target: Tensor) -> Iterator[tuple[tuple[int, int, int], Tensor]]:
    """The target as (n, H, c) numbers that may be those of n windows, with the orders of its dimensions."""
    whole = target.unsqueeze(-1) if target.ndim == 2 else target  # noqa: PLR2004
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2)) if whole.ndim == 3 and whole.is_floating_point() else ():  # noqa: PLR2004
        wanted = whole.permute(order)
        n, steps, channels = wanted.shape
        fits = n == len(values) if order[0] else EXAMPLES <= n <= len(values)
        if fits and 1 < steps <= values.shape[1] and 0 < channels <= values.shape[2]:
            yield order, wanted


def _steps_first(values: Tensor) -> bool:
    """Whether (N, T, C) numbers have more steps than channels, and steps are more alike."""
    steps, channels = values.diff(dim=1).abs().mean(), values.diff(dim=2).abs().mean()
    return values.shape[1] > values.shape[2] and bool(steps < channels)
