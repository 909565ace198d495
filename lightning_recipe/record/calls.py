"""The calls of outermost modules in a step, with their arguments, and what came out of the network by them."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lightning_recipe.record.copies import cut, snapshot
from lightning_recipe.record.modules import FAST, by_parameter, switches
from lightning_recipe.record.outputs import returned
from lightning_recipe.record.step import NetCall
from lightning_recipe.record.tensors import storage, tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from lightning_recipe.record.functions import Functions
    from lightning_recipe.record.hooks import Hooks
    from lightning_recipe.record.provenance import FromNet

_CASTS = ("to", "type_as")
"""Take only the type and the device of their second argument."""


class Calls:
    """Records the outermost calls of modules with parameters, and marks what comes out of them.

    Args:
        functions: The function mode, which sees nothing of compiled networks and of transformers.
        from_net: Where to mark what comes out.
        hooks: Know the names of the modules, and which are compiled networks.
        copies: Keep arguments and outputs.
        open_fast: Transformers in training mode are looked into.

    Attributes:
        found: The calls, in order.
        compiled: Names of compiled modules called.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lightning_recipe.record.functions import Functions
        >>> from lightning_recipe.record.hooks import Hooks
        >>> from lightning_recipe.record.provenance import FromNet
        >>> net, x, known = nn.Linear(2, 1), torch.ones(3, 2), FromNet()
        >>> hooks = Hooks(print)
        >>> hooks.names[id(net)] = "net"
        >>> calls = Calls(Functions(print), known, hooks, copies=True, open_fast=False)
        >>> calls.before(net, (x,), {})
        >>> y = net(x)
        >>> calls.after(net, (x,), y)
        >>> list(calls.found[0].inputs), y in known
        (['net.input'], True)

    """

    def __init__(
        self,
        functions: Functions,
        from_net: FromNet,
        hooks: Hooks,
        *,
        copies: bool,
        open_fast: bool,
    ) -> None:
        self.found: list[NetCall] = []
        self.compiled: list[str] = []
        self._functions, self._from_net, self._hooks = functions, from_net, hooks
        self._copies, self._open_fast = copies, open_fast
        self._running: list[tuple[nn.Module, bool]] = []  # and whether the function mode is paused for it
        self._entered: dict[int, Tensor] = {}  # arguments of the outermost module being called, by place
        self._recording = False  # the outermost module being called has parameters
        self._continues = False  # the outermost module being called works on what came out of the network

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take note that a module is called."""
        name = self._hooks.names.get(id(module))
        if name is None or self._functions.blind:
            return
        opaque = isinstance(module, FAST) and not (self._open_fast and module.training)
        if id(module) in self._hooks.networks:
            self.compiled.append(name or "the LightningModule")
            opaque = True
        self._running.append((module, opaque))
        try:
            if len(self._running) == 1:
                with self._unseen():
                    self._enter(name, module, args, kwargs)
        finally:
            if opaque:
                self._functions.pause()

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG002
        """Take note of what it returned; None if it raised."""
        if not self._running or self._running[-1][0] is not module or self._functions.blind:
            return
        _, opaque = self._running.pop()
        if opaque:
            self._functions.resume()
        if not self._running:
            with self._unseen():
                self._leave(output)

    @contextmanager
    def _unseen(self) -> Iterator[None]:
        """What is computed for the record is no function of the step, and warns nobody."""
        self._functions.pause()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            self._functions.resume()

    def _enter(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._entered = {storage(tensor): tensor for _, tensor in tensors((args, kwargs))}  # kept, or the module
        # could let go of one, and what it returns could be stored in its place
        self._continues = any(tensor in self._from_net for _, tensor in tensors((args, kwargs)))
        self._recording = next(module.parameters(), None) is not None
        if self._recording and self._copies:
            self._record_call(name, module, args, kwargs)

    def _leave(self, output: Any) -> None:
        if self._recording or self._continues:
            passed_through = self._entered if not self._continues else {}  # labels handed on, in graph networks
            self._from_net.mark(output, passed_through)
        self._entered = {}
        if self._recording and self._copies:
            kept = {path: cut(tensor) for path, tensor in returned(output).items()}
            call = self.found[-1]
            output = kept[""] if kept.keys() == {""} else kept or output
            self.found[-1] = replace(call, output=output, switches=switches(call.module))

    def _record_call(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        frozen_args, frozen_kwargs = snapshot(args), snapshot(kwargs)
        copies = dict(tensors(by_parameter(module, frozen_args, frozen_kwargs)))
        inputs = {
            (f"{name}.{path}" if name else path): copies[path]
            for path, tensor in tensors(by_parameter(module, args, kwargs))
            if path in copies and tensor not in self._from_net
        }
        self.found.append(NetCall(name, module, frozen_args, frozen_kwargs, inputs))

    def follow(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Mark what a function outside of modules made of something that came out of the network."""
        if self._running:
            return
        name = getattr(function, "__name__", "")
        if takes_shape_only(name):
            return
        given = [tensor for _, tensor in tensors(args[:1] if name in _CASTS else (args, kwargs))]
        outside = [tensor for tensor in given if tensor not in self._from_net]
        if len(outside) < len(given):
            views = [] if name.endswith("_") else [storage(tensor) for tensor in outside]  # as of y.view_as(logits)
            self._from_net.mark(output, views)


def takes_shape_only(name: str) -> bool:
    """Whether a function takes nothing but the shape of its argument.

    Example:
        >>> takes_shape_only("randn_like"), takes_shape_only("new_zeros"), takes_shape_only("relu")
        (True, True, False)

    """
    return name.endswith("_like") or name.startswith("new_")
