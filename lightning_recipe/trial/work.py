"""What code costs, counted in place of timed: the same on every machine, however busy it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, ops
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lightning_recipe.record.tensors import tensors

if TYPE_CHECKING:
    from collections.abc import Callable

OPERATION = 10e-6
"""Nominal seconds of any operation: small ones take 3 to 10 microseconds on a CPU, their share of Python included."""
FLOP = 1 / 40e9
"""Nominal seconds of a floating-point operation in products and convolutions: 40 GFLOP/s on one core of a CPU. With
these numbers steps of a U-Net, a transformer, an LSTM, a VAE and an audio net came within a third of what they took."""
ELEMENT = 1e-9
"""Nominal seconds for an element of what any other operation writes: single precision at 4 GB/s."""
ACCELERATOR = 1000
"""Times as fast an accelerator does the arithmetic; it takes as long to launch an operation."""
NET = 20
"""Real seconds for each nominal one after which an experiment gives up: an idle machine needs about one."""

_aten: Any = ops.aten
_flash, _flash_back = _aten._scaled_dot_product_flash_attention, _aten._scaled_dot_product_flash_attention_backward  # noqa: SLF001
_FORMULAS: dict[Any, Callable[..., int]] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[_flash],  # noqa: SLF001
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[_flash_back],  # noqa: SLF001
    **flop_registry,
}


class Work(TorchDispatchMode):
    """Counts the operations run inside of it, backward's and an optimiser's too.

    Attributes:
        seconds: What they would take on a nominal machine.

    Source:
        The formulas of ``torch.utils.flop_counter``.

    Example:
        >>> import torch
        >>> a = torch.ones(1000, 1000)
        >>> with Work() as work:
        ...     b = a @ a + 1
        >>> round(work.seconds, 3)  # 2e9 floating-point operations, and a million elements
        0.051

    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seconds = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, and count it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.seconds += OPERATION + _arithmetic(func, args, kwargs, result)
        return result


def _arithmetic(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> float:
    written = [tensor for _, tensor in tensors(result)] or [tensor for _, tensor in tensors(args[:1])]  # in place
    if not written or getattr(func, "is_view", False):
        return 0.0
    formula = _FORMULAS.get(getattr(func, "overloadpacket", None))
    seconds = FLOP * formula(*args, **kwargs, out_val=result) if formula else ELEMENT * sum(map(Tensor.numel, written))
    return seconds / (1 if written[0].device.type == "cpu" else ACCELERATOR)
