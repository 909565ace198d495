"""A few numbers of each output, gradient and update, computed where the tensors are, and fetched all at once."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_recipe.record.step import Change, Reduced
from lightning_recipe.record.tensors import plain, tensors

if TYPE_CHECKING:
    from collections.abc import Iterable

SHORT = 4
"""Bytes; numbers of fewer are short: their sums overflow, and small changes of them are rounded away."""
EACH = 32
"""Elements of a unit, by which it is told whether it is off."""

_Numbers = tuple[dict[str, Reduced], dict[str, float], dict[str, Change], list[dict[str, float]]]


class Reductions:
    """Numbers of one step. Nothing waits for the device before they are read.

    Example:
        >>> reductions, weight = Reductions(), torch.ones(4, requires_grad=True)
        >>> reductions.output("relu", torch.tensor([0.0, 2.0]))
        >>> reductions.gradients({"weight": weight})
        >>> reductions.weights({"weight": weight})
        >>> _ = weight.data.sub_(0.5)
        >>> outputs, gradients, updates, _ = reductions.read()
        >>> outputs
        {'relu': Reduced(zeros=0.5, mean=1.0, std=1.0, largest=2.0, off=0.0)}
        >>> gradients, updates
        ({'weight': nan}, {'weight': Change(norm=1.0, before=2.0, rounded=0.0)})

    """

    def __init__(self) -> None:
        self._outputs: dict[str, Tensor] = {}
        self._called: Counter[str] = Counter()
        self._gradients: dict[str, Tensor | None] = {}
        self._weights: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {}
        self._held: list[dict[str, Tensor]] = []

    @torch.no_grad()
    def output(self, name: str, output: Any, *, recurs: bool = False, units: bool = False) -> None:
        """Reduce the first floating tensor in what a leaf called `name` put out when it was first called.

        Args:
            name: The leaf.
            output: What it put out.
            recurs: Begin anew at its 2nd, 4th, 8th, ... call: a cell begins with a state of zeros, which says little.
            units: Count those that are off.

        """
        self._called[name] += 1
        calls = self._called[name]
        if calls > 1 and not (recurs and calls & (calls - 1) == 0):
            return
        value = next((t for _, t in tensors(output) if t.is_floating_point() and t.numel()), None)
        if value is not None and value.layout is torch.strided:
            self._outputs[name] = _reduced(value, units=units)

    @torch.no_grad()
    def gradients(self, parameters: dict[str, Tensor]) -> None:
        """Take the norms of gradients, which are about to be used; unscaled, where they are scaled."""
        for name, parameter in parameters.items():
            self._gradients[name] = None if parameter.grad is None else norm_of(parameter.grad)

    @torch.no_grad()
    def weights(self, parameters: dict[str, Tensor]) -> None:
        """Keep copies of weights that are about to be changed; those that were kept already are the older ones."""
        for name, parameter in parameters.items():
            if name not in self._weights:
                short, gradient = parameter.dtype.itemsize < SHORT, parameter.grad
                moving = gradient != 0 if short and gradient is not None else None
                self._weights[name] = (parameter, parameter.detach().clone(), moving)

    @torch.no_grad()
    def hold(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Take the norms of the gradients that are there."""
        self._held.append({name: norm_of(p.grad) for name, p in parameters if p.is_leaf and p.grad is not None})

    @torch.no_grad()
    def read(self) -> _Numbers:
        """All numbers, by one transfer from each device. Copies of weights are let go."""
        weights = self._weights.values()
        fetched = _fetched(
            [
                *self._outputs.values(),
                *(norm for norm in self._gradients.values() if norm is not None),
                *(norm for norms in self._held for norm in norms.values()),
                *(torch.stack([norm_of(w.detach() - was), norm_of(was), _rounded(w, was, m)]) for w, was, m in weights),
            ]
        )
        outputs = {name: Reduced(*next(fetched)) for name in self._outputs}
        gradients = {n: math.nan if norm is None else next(fetched)[0] for n, norm in self._gradients.items()}
        held = [{name: next(fetched)[0] for name in norms} for norms in self._held]
        updates = {name: Change(*numbers) for name, numbers in zip(self._weights, fetched, strict=True)}
        self._weights = {}
        return outputs, gradients, updates, held


def _reduced(value: Tensor, *, units: bool) -> Tensor:
    value = plain(value.detach())
    if value.dtype.itemsize < SHORT:
        value = value.float()
    mean = value.mean()
    std = torch.linalg.vector_norm(value - mean) / math.sqrt(value.numel())  # std_mean takes ten times as long on a CPU
    zero, off = value == 0, [mean.new_zeros(())]
    for dim in range(1, min(value.ndim, 2 + (value.ndim == 3)) if units else 1):  # noqa: PLR2004 - (N, T, C) or (N, C, T)
        by_unit = zero.movedim(dim, 0).flatten(1)
        if by_unit.shape[1] >= EACH:
            off.append(by_unit.all(1).to(mean).mean())
    zeros = torch.count_nonzero(zero) / value.numel()
    return torch.stack([zeros.to(mean), mean, std, value.max(), torch.stack(off[1:] or off).max()]).float()


def _rounded(now: Tensor, before: Tensor, moving: Tensor | None) -> Tensor:
    """Share of the elements that had a gradient, and are as before."""
    if moving is None:
        return torch.zeros((), device=now.device)
    return ((now == before) & moving).sum().float() / moving.sum().clamp(min=1)


def norm_of(value: Tensor) -> Tensor:
    """The norm of a tensor in 32 bits, on its device; of short numbers, too, whose squares overflow.

    Example:
        >>> norm_of(torch.tensor([3e4, 4e4], dtype=torch.float16))
        tensor(50000.)

    """
    value = value.detach()
    if value.layout is not torch.strided:
        value = value.coalesce().values()  # a sparse gradient, of an embedding
    if value.dtype.itemsize < SHORT:
        value = value.float()
    norm: Tensor = torch.linalg.vector_norm(value)
    return norm.float()


def _fetched(numbers: Iterable[Tensor]) -> Any:
    """Each tensor's numbers, in order."""
    numbers = list(numbers)
    found: dict[int, list[float]] = {}
    for device in {number.device for number in numbers}:
        here = [(i, number.flatten()) for i, number in enumerate(numbers) if number.device == device]
        values = torch.cat([number for _, number in here]).tolist()
        for i, number in here:
            found[i], values = values[: len(number)], values[len(number) :]
    return iter([found[i] for i in range(len(numbers))])
