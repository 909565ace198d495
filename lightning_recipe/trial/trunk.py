"""The part of a network before those modules that are asked: what depends on no answer is computed once."""

from __future__ import annotations

import functools
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_recipe.record.copies import snapshot
from lightning_recipe.record.tensors import tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Trunk:
    """The modules before the frontier: what depends on no answer is computed once for each draw.

    Args:
        root: What is run again and again, without gradients of its own.
        frontier: Names of modules that are run each time, as is what contains them.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)).requires_grad_(False)
        >>> trunk = Trunk(net, ["1"])
        >>> first = net[0](torch.zeros(1))
        >>> trunk.begins(seed=0)
        >>> net[0](torch.ones(1)) == first
        tensor([True])

    """

    def __init__(self, root: nn.Module, frontier: Sequence[str]) -> None:
        self._known: dict[tuple[str, int, int], tuple[Any, Tensor]] = {}
        self._seed, self._calls = 0, Counter[str]()
        self._modules: list[nn.Module] = []
        open_ = {"", *(name.rsplit(".", i)[0] for name in frontier for i in range(name.count(".") + 1))}
        for name, module in root.named_modules():
            before = name.rpartition(".")[0]
            closed = name not in open_ and before in open_
            if closed and "forward" not in vars(module) and has_parameters(module):
                self._modules.append(module)
                module.forward = functools.partial(self._remembered, name, module.forward)

    def begins(self, seed: int) -> None:
        """Take note that the step begins."""
        self._seed = seed
        self._calls.clear()

    def forget(self) -> None:
        """Have everything computed each time."""
        for module in self._modules:
            vars(module).pop("forward", None)

    def _remembered(self, name: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        key = name, self._seed, self._calls[name]
        self._calls[name] += 1
        if key in self._known:
            output, state = self._known[key]
            torch.set_rng_state(state)
            return snapshot(output)
        output = forward(*args, **kwargs)
        if not any(tensor.requires_grad for _, tensor in tensors(output)):
            self._known[key] = snapshot(output), torch.get_rng_state()
        return output


def has_parameters(module: nn.Module) -> bool:
    """Whether there is any parameter in a module, or inside of it.

    Example:
        >>> has_parameters(nn.Linear(1, 1)), has_parameters(nn.ReLU())
        (True, False)

    """
    return next(module.parameters(), None) is not None
