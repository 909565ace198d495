"""What a change of some examples changes, module by module: where examples begin to mix."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_recipe.dependencies.backprop import SEED, Part, UndecidedError, halves
from lightning_recipe.record.copies import cloned
from lightning_recipe.record.tensors import tensors

if TYPE_CHECKING:
    from lightning_recipe.dependencies.rerun import Rerun


@dataclass(frozen=True)
class Event:
    """The tensors that entered or left one module.

    Attributes:
        where: What computed them, in words.
        name: The name of the module in which they were computed.
        module: That module.
        values: Tensors with rows of examples; of integers, as floating-point numbers.
        in_step: Whether the step itself computed them, outside of modules.

    """

    where: str
    name: str
    module: nn.Module
    values: list[Tensor]
    in_step: bool = False


def trace(rerun: Rerun, leaves: list[Tensor] | None = None, order: Tensor | None = None) -> list[Event]:
    """What enters and leaves each module, in order; what the network, or the step's modules, put out is last."""
    names = {id(m): f"{rerun.name}.{n}".strip(".") or type(m).__name__ for n, m in rerun.module.named_modules()}
    events: list[Event] = []
    calls: list[tuple[nn.Module | None, str]] = []  # being run: the module, None for the step, and the last it called
    if rerun.again is not None:
        calls.append((None, ""))

    def note(where: str, module: nn.Module | None, content: Any) -> None:
        values = [cloned(t) for _, t in tensors(content) if not t.is_complex() and rerun.layouts(t.shape)]
        values = [t if t.is_floating_point() else t.float() for t in values]
        inside = module or rerun.module
        events.append(Event(where, names[id(inside)], inside, values, in_step=module is None))

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        if calls:
            parent, previous = calls[-1]
            between = f"between `{previous}` and" if previous else "before"
            inside = f"the forward of `{names[id(parent)]}`" if parent is not None else "the step"
            note(f"{between} `{names[id(module)]}` in {inside}", parent, (args, kwargs))
        calls.append((module, ""))

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:  # noqa: ARG001
        _, last = calls.pop()
        name = names[id(module)]
        note(
            f"after `{last}` in the forward of `{name}`" if last else f"in `{name}` ({type(module).__name__})",
            module,
            output,
        )
        if calls:
            calls[-1] = (calls[-1][0], name)

    handles = []
    for module in rerun.module.modules():
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        with torch.no_grad():
            _, outputs = rerun.run(leaves, order=order)
    finally:
        for handle in handles:
            handle.remove()
    if rerun.again is not None:
        note("in the step", None, outputs)
    return events


def first_mixed(rerun: Rerun, leaves: list[Part], *, deadline: float = math.inf) -> Event | None:
    """Where examples first depend on others: half of the examples are changed at a time, see `halves`.

    Args:
        rerun: The call, in the precision to use.
        leaves: As `run` returns them; in higher precision if the module has been converted.
        deadline: Value of ``time.monotonic()`` at which to give up; seconds.

    Returns:
        The first event with mixed examples in every possible layout; None if the output has none.

    Raises:
        TimeoutError: If the deadline has passed.
        UndecidedError: If two calls with the same input differ.

    """
    values = [leaf.detach() for leaf, _ in leaves]
    base, again = trace(rerun, values), trace(rerun, values)
    if any(not torch.equal(a, b) for x, y in zip(base, again, strict=True) for a, b in zip(x.values, y.values)):  # noqa: B905
        msg = "two calls with the same input differ"
        raise UndecidedError(msg)
    mixed: set[tuple[int, int, int]] = set()  # event, value, layout
    for senders in halves(rerun.batch_size):
        if time.monotonic() > deadline:
            raise TimeoutError
        for i, (event, other) in enumerate(zip(base, trace(rerun, _disturbed(leaves, senders)), strict=False)):
            for j, (a, b) in enumerate(zip(event.values, other.values, strict=False)):
                if a.shape == b.shape:
                    mixed |= {(i, j, k) for k in _changed(a, b, ~senders, rerun)}

    def is_mixed(i: int) -> bool:
        return any(
            all((i, j, k) in mixed for k in range(len(rerun.layouts(value.shape))))
            for j, value in enumerate(base[i].values)
        )

    if not is_mixed(len(base) - 1):
        return None
    return next(event for i, event in enumerate(base) if is_mixed(i))


def _disturbed(leaves: list[Part], senders: Tensor) -> list[Tensor]:
    """Noise of a tenth of each leaf's standard deviation, for the examples marked in `senders`."""
    generator = torch.Generator().manual_seed(SEED)
    disturbed = []
    for leaf, rows in leaves:
        value = leaf.detach()
        noise = torch.randn(value.shape, generator=generator, dtype=value.dtype).to(value.device)
        scale = value.abs().double().square().mean().sqrt().item() or 1.0
        disturbed.append(value + 0.1 * scale * noise * rows.of(senders, value))
    return disturbed


def _changed(a: Tensor, b: Tensor, examples: Tensor, rerun: Rerun) -> list[int]:
    """The layouts in which rows of `examples` differ by more than rounding."""
    least = 1e3 * torch.finfo(a.dtype).eps * a.abs().nan_to_num(0, 0, 0).max().item() if a.numel() else 0.0
    difference = (a - b).nan_to_num(0, 0, 0)
    return [
        k
        for k, rows in enumerate(rerun.layouts(a.shape))
        if (rows.largest(difference, rerun.batch_size)[examples] > least).any()
    ]
