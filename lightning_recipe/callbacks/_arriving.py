"""Numbers of each step that lie on an accelerator, told once they have come to the host, without waiting for them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RING = 256
"""Steps that may be under way before the host waits for the first of them; the queue of CUDA itself holds some 1,000
calls, those of far fewer steps."""


class Arrived(NamedTuple):
    """The numbers of a step.

    Attributes:
        step: Of which.
        values: The loss, or the first watched weight where the step returned none, and all watched weights.
        has_loss: Whether it returned one.

    """

    step: int
    values: list[float]
    has_loss: bool


class Arriving:
    """Numbers under way from a device.

    With events, as on CUDA, those of a step are copied to pinned memory of the host, and an event behind them in the
    stream tells when they are there: it is asked at the next steps, and never waited for. Without, they stay on the
    device and are read, for which the host waits, when `RING` steps have come together or ``arrived(wait=True)``.

    Args:
        like: Numbers of a step, of shape (1,) each.
        event: Makes an event to be recorded on the device; by default that of CUDA, if this is one.

    Example:
        >>> arriving = Arriving([torch.ones(1)])
        >>> arriving.put(0, [torch.tensor([2.5])], has_loss=True)
        >>> list(arriving.arrived()), list(arriving.arrived(wait=True))
        ([], [Arrived(step=0, values=[2.5], has_loss=True)])

    """

    def __init__(self, like: list[Tensor], event: Callable[[], Any] | None = None) -> None:
        self.device = next((n.device for n in like if n.device.type != "cpu"), like[0].device)
        on_cuda = self.device.type == "cuda"
        self._event = event or (torch.cuda.Event if on_cuda else None)
        long = any(number.dtype is torch.float64 for number in like)
        place = "cpu" if self._event else self.device
        kept = torch.zeros(RING, len(like), dtype=torch.float64 if long else torch.float32, device=place)
        self._rows = (kept.pin_memory() if on_cuda else kept).unbind()
        self._spare: list[Any] = []  # events that have come, used again
        self._under_way: deque[tuple[int, bool, Tensor, Any]] = deque()
        self._put = 0

    @property
    def comes(self) -> bool:
        """Whether numbers come by themselves."""
        return self._event is not None

    def put(self, step: int, numbers: list[Tensor], *, has_loss: bool) -> None:
        """Send the numbers of a step on their way; there must be room, which ``arrived`` makes."""
        row = self._rows[self._put % RING]
        self._put += 1
        row.copy_(torch.cat([number.to(self.device, non_blocking=True) for number in numbers]), non_blocking=True)
        event = None
        if self._event is not None:
            event = self._spare.pop() if self._spare else self._event()
            event.record(*([torch.cuda.current_stream(self.device)] if self.device.type == "cuda" else []))
        self._under_way.append((step, has_loss, row, event))

    def arrived(self, *, wait: bool = False) -> Iterator[Arrived]:
        """The numbers that have come since, in order.

        Args:
            wait: Whether to wait for all of them.

        """
        under_way = self._under_way
        if self._event is None:
            if under_way and (wait or len(under_way) == RING):
                values = torch.stack([row for _, _, row, _ in under_way]).tolist()
                come = [
                    Arrived(step, numbers, has) for (step, has, _, _), numbers in zip(under_way, values, strict=True)
                ]
                under_way.clear()
                yield from come
            return
        while under_way:
            step, has_loss, row, event = under_way[0]
            if not event.query():
                if not wait and len(under_way) < RING:
                    return
                event.synchronize()
            under_way.popleft()
            self._spare.append(event)
            yield Arrived(step, row.tolist(), has_loss)
