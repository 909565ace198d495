"""All that stands by one step: hooks, the function mode, and those who record.

They are entered and left together, last in, first out, and run nothing of the step's own, so that it computes exactly
what it would without them.

Compiled modules are observed from outside only: code that was compiled with an observer in it would be compiled once
more without.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from lightning_recipe.record.calls import Calls
from lightning_recipe.record.copies import cloned
from lightning_recipe.record.functions import Functions
from lightning_recipe.record.graph import graph
from lightning_recipe.record.hooks import Hooks, Watch
from lightning_recipe.record.leaves import Leaves
from lightning_recipe.record.loss_calls import LossCalls
from lightning_recipe.record.modules import observable, parameters_of
from lightning_recipe.record.provenance import FromNet
from lightning_recipe.record.reductions import Reductions
from lightning_recipe.record.step import Need, Step
from lightning_recipe.record.wiring import Wiring

if TYPE_CHECKING:
    from types import TracebackType

    from torch.optim import Optimizer

    from lightning_recipe.record.events import Kind

_CALLS = Need.INPUTS | Need.LOSSES
_LEAVES = Need.WIRING | Need.OUTPUTS
_MODE = _CALLS | Need.WIRING
_STEPPING = Need.WIRING | Need.GRADIENTS | Need.UPDATES
_NUMBERS = Need.OUTPUTS | Need.GRADIENTS | Need.UPDATES | Need.HELD


class Observers:
    """The observers of one step.

    Args:
        pl_module: The module whose step it is.
        needs: What is to be known.

    Example:
        >>> import torch
        >>> net = nn.Linear(2, 1)
        >>> observers = Observers(net)
        >>> with observers:
        ...     loss = torch.nn.functional.mse_loss(net(torch.ones(3, 2)), torch.zeros(3, 1))
        >>> observers.conclude(None, loss, training=True).loss_calls[0].name
        'mse_loss'

    """

    def __init__(self, pl_module: nn.Module, needs: Need = _CALLS) -> None:
        self._errors: list[Exception] = []
        self._pl_module, self._needs = pl_module, needs
        self._compiled = getattr(pl_module, "_compiler_ctx", None) is not None
        self._functions = Functions(self._errors.append)
        self._hooks = Hooks(self._errors.append)
        from_net = FromNet()
        self._wiring = Wiring(pl_module, self._hooks.names, clips=Need.GRAPH in needs) if Need.WIRING in needs else None
        self._reductions = Reductions() if needs & _NUMBERS else None
        self._losses = LossCalls(from_net) if Need.LOSSES in needs else None
        self._calls = self._leaves = None
        if needs & _CALLS:
            self._calls = Calls(
                self._functions,
                from_net,
                self._hooks,
                copies=Need.INPUTS in needs,
                open_fast=bool(needs & _LEAVES),
            )
        if needs & _LEAVES:
            outputs = self._reductions if Need.OUTPUTS in needs else None
            self._leaves = Leaves(self._functions, self._hooks, self._wiring, outputs)
        self._functions.losses, self._functions.calls = self._losses, self._calls
        self._functions.wiring, self._functions.before_backward = self._wiring, self._hold
        if self._wiring is not None:
            self._wiring.before_clipping = self._hold
            self._wiring.reductions = self._reductions if Need.OUTPUTS in needs else None
        self._entered = ExitStack()

    def __enter__(self) -> Self:
        if self._needs & _STEPPING:
            hook = register_optimizer_step_pre_hook(lambda optimizer, *_: self.note("optimizer step", optimizer))
            self._entered.callback(hook.remove)
        if self._needs & _MODE:
            for register, stepping in (
                (register_optimizer_step_pre_hook, True),
                (register_optimizer_step_post_hook, False),
            ):
                hook = register(lambda *_, stepping=stepping: setattr(self._functions, "in_step", stepping))
                self._entered.callback(hook.remove)
        if not self._compiled:  # hooks and the mode would become part of a compiled step
            self._entered.callback(self._hooks.remove)
            self._lay()
            if self._needs & _MODE:
                self._entered.enter_context(self._functions.watching())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered.close()
        self._functions.before_backward = lambda: None  # cut the cycle: a copy that is watched is freed at once
        if self._wiring is not None:
            self._wiring.before_clipping = lambda: None

    def _lay(self) -> None:
        outer = Watch(self._calls.before, self._calls.after) if self._calls is not None else None
        inner = self._leaves.watch() if self._leaves is not None else None
        for seen in observable(self._pl_module, inside_fast=inner is not None):
            inside = Need.INSIDE in self._needs and not type(seen.module).__module__.startswith("torch.")
            try:
                self._hooks.lay(seen._replace(leaf=seen.leaf and not inside), outer, inner)
            except Exception as failure:  # noqa: BLE001 - the user's step must go on
                self._errors.append(failure)

    @property
    def error(self) -> Exception | None:
        """The first failure of an observer. The step itself is not disturbed."""
        return self._errors[0] if self._errors else None

    def follow(self, given: Any) -> None:
        """Have functions of nothing but these tensors, such as those of the batch, be events, too."""
        if self._wiring is not None:
            self._wiring.follow(given)

    def note(self, kind: Kind, optimizer: Optimizer | None = None) -> None:
        """Take note of what follows on the step, or of an optimiser that the step itself is about to use.

        Args:
            kind: ``"backward"``, ``"optimizer step"`` or ``"zero_grad"``, which comes next.
            optimizer: The optimiser of the latter two.

        """
        if kind != "zero_grad":
            self._hold()
        try:
            held = parameters_of(optimizer, self._pl_module) if optimizer is not None else {}
            if self._wiring is not None:
                self._wiring.note(kind, type(optimizer).__name__ if optimizer is not None else kind, held)
            if kind == "optimizer step" and self._reductions is not None:
                with torch._C.DisableTorchFunction():  # noqa: SLF001 - what we compute is no function of the step
                    if Need.GRADIENTS in self._needs:
                        self._reductions.gradients(held)
                    if Need.UPDATES in self._needs:
                        self._reductions.weights(held)
        except Exception as error:  # noqa: BLE001
            self._errors.append(error)

    def _hold(self) -> None:
        if Need.HELD in self._needs and self._reductions is not None:
            try:
                with torch._C.DisableTorchFunction():  # noqa: SLF001
                    self._reductions.hold(self._pl_module.named_parameters())
            except Exception as error:  # noqa: BLE001
                self._errors.append(error)

    def conclude(self, batch: Any, output: Any, *, training: bool) -> Step:
        """What the step did; in training without the losses that it did not learn from.

        Args:
            batch: What it was called with.
            output: What it returned.
            training: Whether it is a training step.

        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            returned = output.get("loss") if isinstance(output, Mapping) else output
            roots = [*self._functions.roots, *([returned] if isinstance(returned, Tensor) else [])]
            step = Step(batch, cloned(roots[0]) if roots else None, compiled=["the LightningModule"] * self._compiled)
            if self._losses is not None:
                for call in self._functions.traced:
                    self._losses.record(*call)
                step.loss_calls.extend(self._losses.concluded(roots if training else None))
            if self._calls is not None:
                step.net_calls.extend(self._calls.found)
                step.compiled.extend(self._calls.compiled)
        if self._wiring is not None:
            if isinstance(returned, Tensor):
                self._wiring.returned(returned)
            step.events.extend(self._wiring.events())
            step.unlisted.extend(self._wiring.unlisted)
        if self._wiring is not None and Need.GRAPH in self._needs:
            step.graph.extend(graph(roots))
            step.leaves.extend(node.leaf for node in step.graph if node.leaf is not None)
            step.clips.extend(self._wiring.clips if self._functions.roots else self._wiring.clips_of(roots))
        self._functions.losses = self._functions.calls = self._functions.wiring = None  # who know it in turn
        self._functions = Functions(self._errors.append)  # the tensors of the step are let go of
        self._losses = self._calls = self._leaves = None
        return step

    def measure(self, step: Step) -> None:
        """Complete `step` by what was noted since, and by numbers, for which it waits for the device."""
        if self._wiring is not None:
            step.events.extend(self._wiring.events())
            self._wiring = None
        self._hold()
        if self._reductions is not None:
            reductions, self._reductions = self._reductions, None
            outputs, gradients, updates, held = reductions.read()
            step.outputs.update(outputs)
            step.gradients.update(gradients)
            step.updates.update(updates)
            step.held.extend(held)
