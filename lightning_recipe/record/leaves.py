"""The calls of leaves, modules without children: for the wiring, and to reduce what they put out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lightning_recipe.record.compiled import is_traced
from lightning_recipe.record.hooks import Watch

if TYPE_CHECKING:
    from lightning_recipe.record.functions import Functions
    from lightning_recipe.record.hooks import Hooks
    from lightning_recipe.record.reductions import Reductions
    from lightning_recipe.record.wiring import Wiring

_OPEN = (nn.TransformerEncoder, nn.TransformerEncoderLayer)
"""Are leaves if they were in eval mode when the step began."""
_BOUNDED = (nn.Tanh, nn.Sigmoid, nn.RNNCellBase)
"""May be those of a cell."""
_CUT_OFF = (nn.ReLU, nn.ReLU6, nn.Threshold)
"""Have units that may be off."""


class Leaves:
    """Sees the calls of leaves.

    Args:
        functions: The function mode, out of sight within leaves that are closed.
        hooks: Know the names of the leaves, and which are closed.
        wiring: Takes note of them.
        reductions: Reduces what they put out.

    Example:
        >>> from lightning_recipe.record.functions import Functions
        >>> from lightning_recipe.record.hooks import Hooks
        >>> from lightning_recipe.record.wiring import Wiring
        >>> import torch
        >>> net, x = nn.Linear(2, 1), torch.ones(3, 2)
        >>> wiring = Wiring(net)
        >>> hooks = Hooks(print)
        >>> hooks.names[id(net)] = "net"
        >>> leaves = Leaves(Functions(print), hooks, wiring, None)
        >>> leaves.before(net, (x,), {})
        >>> leaves.after(net, (x,), net(x))
        >>> [event.name for event in wiring.events()]
        ['net']

    """

    def __init__(
        self,
        functions: Functions,
        hooks: Hooks,
        wiring: Wiring | None,
        reductions: Reductions | None,
    ) -> None:
        self._functions, self._hooks, self._wiring, self._reductions = functions, hooks, wiring, reductions
        self._within: list[nn.Module] = []

    def watch(self) -> Watch:
        """What is to be done before and after calls."""
        return Watch(self.before, self.after, (self.before_closed, self.after_closed))

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take note of what goes in."""
        functions, within = self._functions, self._within
        if functions.in_backward or is_traced() or (isinstance(module, _OPEN) and self._is_open(module)):
            return
        within.append(module)
        functions.pause()
        if self._wiring is not None and len(within) == 1:
            self._wiring.enter((*args, *kwargs.values()) if kwargs else args)
        if id(module) not in self._hooks.closed:
            functions.resume()

    def before_closed(self, given: Tensor) -> int | None:
        """Of a closed leaf that is given one tensor: its version, None if the call is one for `before`."""
        functions = self._functions
        if self._within or self._wiring is None or functions.in_backward or is_traced():
            return None
        functions.pause()
        try:
            return given._version  # noqa: SLF001
        except RuntimeError:  # made in inference mode
            functions.resume()
            return None

    def after_closed(self, module: nn.Module, given: Tensor, version: int, output: Any) -> None:
        """Take note of its call."""
        try:
            name = self._hooks.names[id(module)]
            if self._wiring is not None:
                self._wiring.passed(name, module, given, version, output)
            self._reduce(name, module, output)
        finally:
            self._functions.resume()

    def _reduce(self, name: str, module: nn.Module, output: Any) -> None:
        if self._reductions is not None:
            bounded, cut_off = isinstance(module, _BOUNDED), isinstance(module, _CUT_OFF)
            self._reductions.output(name, output, recurs=bounded, units=cut_off)

    def _is_open(self, module: nn.Module) -> bool:
        return module.training and any(id(child) in self._hooks.names for child in module.children())

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG002
        """Take note of what came out."""
        if not self._within or self._within[-1] is not module:
            return
        self._within.pop()
        if id(module) not in self._hooks.closed:
            self._functions.pause()
        try:
            if not self._within:
                name = self._hooks.names[id(module)]
                if self._wiring is not None:
                    self._wiring.leave(name, module, output)
                self._reduce(name, module, output)
        finally:
            self._functions.resume()
