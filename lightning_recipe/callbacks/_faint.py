"""Whether what tells examples apart gets lost on its way through a network, as of weights that are too small."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.tensors import tensors
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning_recipe.callbacks._loss_course import Course
    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

LAYERS = 4
"""Layers in a row, at least: of few, the last may be drawn near zero on purpose."""
EXAMPLES = 4
"""That differ, or not."""
SMALL = 0.3
"""Standard deviation of weights, over 1 / sqrt(inputs), which keeps a signal, from which on they are too small. That of
torch's own layers is 0.58, and 1.4 keeps it through ReLUs."""


class Layer(NamedTuple):
    """A layer with a weight, and what it puts out for different examples.

    Attributes:
        name: Of the module.
        spread: Standard deviation over the examples, over all that it puts out.
        std: Of the weight.
        inputs: Numbers that each of its outputs is made of.

    """

    name: str
    spread: float
    std: float
    inputs: int


def drawn_small(run: Run, step: Step, names: Sequence[str]) -> bool:
    """Whether most of the layers between the first and the last have weights that are too small, by their norms."""
    sizes = []
    for name in names[1:-1]:
        for key, weight in run.module.get_submodule(name).named_parameters(name, recurse=False):
            if weight.ndim > 1 and key in step.updates:
                sizes.append(step.updates[key].before * math.sqrt(weight[0].numel() / weight.numel()))
    return 2 * sum(size < SMALL for size in sizes) > len(sizes)


def spreads(run: Run, step: Step, names: Sequence[str]) -> list[Layer]:
    """What layers put out when the step is run again on a copy, in the order of their calls; empty if it can't be."""
    found: dict[str, Layer] = {}
    try:
        with rehearsal(run) as again, ExitStack() as stack:
            for name in names:
                module = again.module.get_submodule(name)
                stack.callback(module.register_forward_hook(_Looking(name, found)).remove)
            again.step(step.batch)
    except CannotRehearseError:
        return []
    return list(found.values())


class _Looking:
    def __init__(self, name: str, found: dict[str, Layer]) -> None:
        self.name, self.found = name, found

    @torch.no_grad()
    def __call__(self, module: nn.Module, _: Any, output: Any) -> None:
        value = next((t for _, t in tensors(output) if t.is_floating_point() and t.ndim > 1), None)
        weight = next((p for p in module.parameters(recurse=False) if p.ndim > 1), None)
        if self.name in self.found or value is None or weight is None or len(value) < EXAMPLES:
            return
        apart = value.detach().float()
        spread = float((apart - apart.mean(0)).square().mean().sqrt())
        inputs = weight[0].numel()
        self.found[self.name] = Layer(self.name, spread, float(weight.float().std()), inputs)


def faint(layers: Sequence[Layer], course: Course, factor: float, *, late: bool) -> Outcome | None:
    """Different examples look all the same to the last layer, more from layer to layer, and nothing is learnt.

    Args:
        layers: In the order of their calls.
        course: Of the loss, which has not fallen.
        factor: Between the first layer and the last.
        late: Whether it should have. Before, it is told of weights that are too small: they may grow, in a long time.

    """
    if len(layers) < LAYERS:
        return None
    first, middle, last = layers[0], layers[len(layers) // 2], layers[-1]
    lost = 0 <= last.spread < first.spread / factor and last.spread <= middle.spread < first.spread / math.sqrt(factor)
    if not lost:
        return None
    small = [layer for layer in layers[1:-1] if layer.std * math.sqrt(layer.inputs) < SMALL]
    why = ""
    if not late and 2 * len(small) <= len(layers) - 2:
        return None
    if 2 * len(small) > len(layers) - 2:
        one = small[len(small) // 2]
        why = (
            f": weights such as those of {one.name} have a standard deviation of {one.std:.2g}, where "
            f"{math.sqrt(2 / one.inputs):.2g} keeps a signal through a ReLU"
        )
    ratio = last.spread / first.spread
    return Outcome(
        Status.WARNING,
        "vanishing",
        f"what {last.name} puts out differs between examples by {ratio:.2g}x what {first.name} does (at least "
        f"{1 / factor:g} expected): the network can't tell them apart, and the loss did not fall ({course}){why}",
        "an initialisation that keeps the standard deviation, such as torch's own or nn.init.kaiming_normal_; else "
        "normalisation layers, or residual connections",
        {"ratio": ratio, "layers": len(layers), **course.evidence},
    )
