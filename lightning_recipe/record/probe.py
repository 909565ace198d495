"""Watches one real step of training or validation, without changing it."""

from __future__ import annotations

import functools
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from lightning_recipe.finding import in_short
from lightning_recipe.record.observers import Observers
from lightning_recipe.record.step import Need
from lightning_recipe.trial.compiled import losses_in_step, losses_inside

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule
    from torch import nn

    from lightning_recipe.record.step import LossCall, Step


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
        self._error: Exception | None = None
        self.step: Step | None = None

        self._observed = _Observed(self)
        pl_module.__dict__[method] = self._observed

    @classmethod
    def attach(cls, pl_module: nn.Module, method: str, needs: Need = Need.INPUTS | Need.LOSSES) -> Probe:  # noqa: ARG003
        """The probe of the next call of `method`: a new one, or the one that already waits for it."""
        waiting = getattr(pl_module.__dict__.get(method), "probe", None)
        return waiting if isinstance(waiting, Probe) else cls(pl_module, method)

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

    def result(self) -> Step | None:
        """What the step did, or None if it has not run.

        Raises:
            RuntimeError: If the observation failed. The step itself was not disturbed.

        """
        if self._error is not None:
            msg = f"the step could not be observed: {in_short(self._error)}"
            raise RuntimeError(msg) from self._error
        return self.step

    def note(self, event: str, about: Any) -> None:
        """Temporary."""

    def _observe(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.detach()
        if self.step is not None:  # someone kept the wrapper
            return self._original(*args, **kwargs)
        observers = Observers(self._pl_module)
        start = time.monotonic()
        with observers:
            output = self._original(*args, **kwargs)
        seconds = time.monotonic() - start
        try:
            batch = args[0] if args else next(iter(kwargs.values()), None)
            step = observers.conclude(batch, output, training=self._method == "training_step")
            self.step = replace(step, seconds=seconds)
            if self.step.compiled and not self.step.loss_calls:
                with suppress(Exception):  # then they stay unseen, and the checks say so
                    self.step.loss_calls.extend(self._losses_unseen(self.step, args, kwargs))
        except Exception as error:  # noqa: BLE001 - reported by result(), where it can do no harm
            self._error = error
        self._error = self._error or observers.error
        return output

    def _losses_unseen(self, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[LossCall]:
        if getattr(self._pl_module, "_compiler_ctx", None) is not None:
            return losses_in_step(cast("LightningModule", self._pl_module), self._method, args, kwargs)
        return losses_inside(step.net_calls)


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


def _itself(value: Any) -> Any:
    return value
