"""Data that a network is shown beside what another one makes, and that this can never look like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.events import Event
    from lightning_recipe.record.step import Step

BOUNDS = {"Tanh": (-1.0, 1.0), "Hardtanh": (-1.0, 1.0), "Sigmoid": (0.0, 1.0), "Hardsigmoid": (0.0, 1.0)}
"""What comes out of modules and functions of these names, whatever goes in."""
HANDED_ON = {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "contiguous"}
HANDED_ON |= {"detach", "clone", "requires_grad_", "view_as", "reshape_as", "cat", "getitem"}
RESHAPING = (nn.Flatten, nn.Unflatten, nn.Identity)
BEYOND = 0.05
"""Share of the numbers of real data that lie outside of it, from which on nothing that is made looks like them."""
DOUBT = 3.0
"""Standard errors by which that share must lie above it: a few outliers may meet in one small batch."""
MARGIN = 0.05
"""How far outside, of the width of the range: by interpolation, or noise that is added."""


def beyond_what_is_made(step: Step) -> Iterator[tuple[str, Outcome]]:
    """A `warning` where one network judges both, as the discriminator of a GAN or one that measures how alike they are.

    Args:
        step: Its wiring and inputs are read.

    Yields:
        The name of the network, and the verdict.

    """
    made = dict[str, tuple[str, str, tuple[float, float]]]()
    for net in {call.name for call in step.net_calls if call.name}:
        for event in step.events:
            entered = event.inputs and _is_in(event.name, net)
            if entered and (found := _bounded(step, event.inputs[0], net)) is not None:
                made.setdefault(net, found)
    for call in step.net_calls:
        real = next((t for t in call.args if isinstance(t, Tensor)), None)
        if call.name not in made or real is None or not any(real is given for given in call.inputs.values()):
            continue
        name, maker, (low, high) = made.pop(call.name)
        if not real.is_floating_point() or real.layout is not torch.strided or real.numel() < 2:  # noqa: PLR2004
            continue
        far = MARGIN * (high - low)
        rows = ((real < low - far) | (real > high + far)).double().reshape(len(real), -1).mean(1)
        outside = float(rows.mean())
        if outside - DOUBT * (float(rows.std()) / len(rows) ** 0.5 if len(rows) > 1 else 0) > BEYOND:
            yield (
                call.name,
                Outcome(
                    Status.WARNING,
                    "out_of_range",
                    f"{call.name} is shown what {maker} makes, which ends in a {name.lower()} and lies between {low:g} "
                    f"and {high:g}, and data of which {outside:.0%} lie outside, from {float(real.min()):.3g} to "
                    f"{float(real.max()):.3g}: it can tell them apart for ever",
                    f"scale the data to the range of the {name.lower()}, such as 2 * x / x.max() - 1 for a tanh",
                    {"outside": outside, "low": float(real.min()), "high": float(real.max())},
                ),
            )


def _is_in(name: str, net: str) -> bool:
    return name == net or name.startswith(f"{net}.")


def _bounded(step: Step, number: int, net: str) -> tuple[str, str, tuple[float, float]] | None:
    """The function that another network ends with, the name of its last layer, and the range, if it made this."""
    seen = 0
    while (maker := step.producer(number)) is not None and seen < len(step.events):
        kind = (type(maker.module).__name__ if maker.module is not None else maker.name).capitalize()
        if _is_in(maker.name, net):
            return None
        if kind in BOUNDS:
            names = _behind(step, maker)
            return (kind, names[0], BOUNDS[kind]) if names and not any(_is_in(name, net) for name in names) else None
        if maker.name not in HANDED_ON and not isinstance(maker.module, RESHAPING):
            return None
        number, seen = maker.inputs[0], seen + 1
    return None


def _behind(step: Step, event: Event) -> list[str]:
    """Names of the modules with parameters that something was computed by, the nearest first."""
    waiting, seen, found = list(event.inputs), set(), list[str]()
    while waiting:
        number = waiting.pop(0)
        maker = step.producer(number)
        if maker is None or number in seen:
            continue
        seen.add(number)
        if maker.module is not None and next(maker.module.parameters(), None) is not None:
            found.append(maker.name)
        waiting += maker.inputs
    return list(dict.fromkeys(found))
