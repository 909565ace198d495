"""Watches one real step of training or validation, without changing it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from lightning_recipe.finding import in_short
from lightning_recipe.record.copies import cloned
from lightning_recipe.record.observers import Observers
from lightning_recipe.record.step import Need, Step
from lightning_recipe.record.tensors import COPIED, mapped

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from lightning_recipe.record.events import Kind

Complete = Callable[["Step", Any, str, tuple[Any, ...], dict[str, Any]], "Step"]


def original(step: Any) -> Any:
    """What a module has in place of its own step method, when no probe waits for it; None for nothing.

    Args:
        step: What its ``__dict__`` holds.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> module = BoringModel()
        >>> probe = Probe.attach(module, "training_step")
        >>> original(vars(module)["training_step"]) is None, original(print) is print
        (True, True)

    """
    probe = probe_of(step)
    return step if probe is None else probe._was_own  # noqa: SLF001


def probe_of(step: Any) -> Probe | None:
    """The probe that stands in place of a step method, if one does.

    Example:
        >>> probe_of(print) is None
        True

    """
    return step.probe if isinstance(step, _Observed) else None


class Probe:
    """Watches the next call of a step method, then takes itself away.

    The module is as before from the moment that the step begins, also when it raises. Several callbacks that watch
    the same step share one probe, see :meth:`attach`.

    Attributes:
        step: What the step did; None until it ran.

    Example:
        >>> import torch
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> module = BoringModel()
        >>> probe = Probe.attach(module, "training_step")
        >>> _ = module.training_step(torch.ones(4, 32), 0)
        >>> step = probe.result()
        >>> step.inputs["x"].shape, step.loss_calls[0].name
        (torch.Size([4, 32]), 'mse_loss')

    """

    def __init__(self, pl_module: nn.Module, method: str) -> None:
        self._pl_module = pl_module
        self._method = method
        self._original = getattr(pl_module, method)
        self._was_own = pl_module.__dict__.get(method)
        self._needs = Need(0)
        self._complete: Complete | None = None
        self._observers: Observers | None = None
        self._running = False
        self._error: Exception | None = None
        self.step: Step | None = None

        self._observed = _Observed(self)
        pl_module.__dict__[method] = self._observed

    @classmethod
    def attach(
        cls,
        pl_module: nn.Module,
        method: str,
        needs: Need = Need.INPUTS | Need.LOSSES,
        complete: Complete | None = None,
    ) -> Probe:
        """The probe of the next call of `method`: a new one, or the one that already waits for it.

        Args:
            pl_module: The module whose step is watched.
            method: Such as ``"training_step"``.
            needs: What is to be known of the step; a probe that is shared finds out what any of its users needs.
            complete: Called with the step, `pl_module`, `method`, and the positional and keyword arguments, as soon as
                the step is over; gives the step, completed. Its errors are passed over.

        """
        waiting = probe_of(pl_module.__dict__.get(method))
        probe = waiting if waiting is not None else cls(pl_module, method)
        probe._add(needs, complete)  # noqa: SLF001
        return probe

    def _add(self, needs: Need, complete: Complete | None) -> None:
        self._needs |= needs
        self._complete = self._complete or complete

    def detach(self) -> None:
        """Leave the module as it was found. Harmless when repeated."""
        if self._pl_module.__dict__.get(self._method) is self._observed:
            del self._pl_module.__dict__[self._method]
            if self._was_own is not None:
                self._pl_module.__dict__[self._method] = self._was_own

    @property
    def ran(self) -> bool:
        """Whether the step has been run."""
        return self.step is not None or self._error is not None

    def note(self, kind: Kind, optimizer: Optimizer | None = None) -> None:
        """Take note of what follows on the step in automatic optimisation: the record stays open until `result`.

        Ignored while the step itself runs, as in manual optimisation, where the same is seen without being told.

        Args:
            kind: ``"backward"``, ``"optimizer step"`` or ``"zero_grad"``, which comes next. Gradients are to be
                unscaled before an optimiser's step.
            optimizer: The optimiser of the latter two.

        Example:
            >>> import torch
            >>> from lightning.pytorch.demos.boring_classes import BoringModel
            >>> module = BoringModel()
            >>> probe = Probe.attach(module, "training_step", Need.WIRING)
            >>> loss = module.training_step(torch.ones(4, 32), 0)["loss"]
            >>> probe.note("backward")
            >>> loss.backward()
            >>> [event.kind for event in probe.result().events]
            ['module', 'function', 'loss', 'returned', 'backward']

        """
        if self._observers is not None and not self._running:
            self._observers.note(kind, optimizer)

    def result(self) -> Step | None:
        """What the step did, or None if it has not run. Ends the record: numbers are fetched from the device once.

        Raises:
            RuntimeError: If the observation failed. The step itself was not disturbed.

        """
        if self._observers is not None and self.step is not None:
            observers, self._observers = self._observers, None
            try:
                observers.measure(self.step)
            except Exception as error:  # noqa: BLE001 - reported below
                self._error = error
            self._error = self._error or observers.error
        if self._error is not None:
            msg = f"the step could not be observed: {in_short(self._error)}"
            raise RuntimeError(msg) from self._error
        return self.step

    def _observe(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.detach()
        if self.ran:  # someone kept the wrapper
            return self._original(*args, **kwargs)
        self._observers = observers = Observers(self._pl_module, self._needs)
        batch = args[0] if args else next(iter(kwargs.values()), None)
        with suppress(Exception):
            batch = mapped(batch, COPIED, _kept)  # a step may put something else into the container
        start = time.monotonic()
        self._running = True
        try:
            with observers:
                output = self._original(*args, **kwargs)
        except BaseException:
            self._observers = None
            raise
        finally:
            self._running = False
        seconds = time.monotonic() - start
        try:
            step = observers.conclude(batch, output, training=self._method == "training_step")
            self.step = replace(step, seconds=seconds)
            if self._complete is not None:
                with suppress(Exception):
                    self.step = self._complete(self.step, self._pl_module, self._method, args, kwargs)
        except Exception as error:  # noqa: BLE001 - reported by result(), where it can do no harm
            self._error = error
        self._error = self._error or observers.error
        return output


class _Observed:
    """Stands in for a step method until it is called; a copy of the module, also a pickled one, gets its own method."""

    def __init__(self, probe: Probe) -> None:
        functools.update_wrapper(self, probe._original)  # noqa: SLF001 - Lightning reads the signature
        self.probe = probe

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.probe._observe(args, kwargs)  # noqa: SLF001

    def __reduce__(self) -> tuple[Any, ...]:
        was_own = self.probe._was_own  # noqa: SLF001
        if was_own is not None:
            return _itself, (was_own,)
        return getattr, (self.probe._pl_module, self.probe._method)  # noqa: SLF001


def _kept(value: Any) -> Any:
    """A tensor or an array itself; a copy of a container that copies itself, such as a graph."""
    return value if isinstance(value, Tensor | np.ndarray) else cloned(value)


def _itself(value: Any) -> Any:
    return value
