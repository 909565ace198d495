"""Whether numbers that are to be forecast were cut from a series the wrong way round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lightning_recipe.callbacks._looks_ahead import FEATURES, LAGS, told_by_what_was
from lightning_recipe.record.tensors import dense

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

CUT = 3
"""Steps by which a sequence is shorter when it enters than in the batch, from which inputs and targets are cut."""
TOLD = 0.8
"""Error, over the standard deviation, with which what was tells the next value of a series; 1 of noise, as tasks of
memory have it."""


def turned(batch: Any, given: Tensor) -> bool:
    """Whether what entered begins a step late in a series of the batch, of which the step before is to be said.

    The series is longer, and cut in the step; or the batch's targets begin one step earlier, with values of their own,
    where a delay that a data set asks for begins with zeros. What was tells some of its values: it is no noise.

    Args:
        batch: Any.
        given: Numbers of shape (N, T, C).

    Example:
        >>> series = torch.randn(8, 20, generator=torch.Generator().manual_seed(0)).cumsum(1)
        >>> turned(series, series[:, 1:, None]), turned([series[:, 1:], series[:, :-1]], series[:, 1:, None])
        (True, True)
        >>> turned(series, series[..., None]), turned(series, series[:, :-1, None])  # a codec; cut at the other end
        (False, False)
        >>> turned([series, torch.nn.functional.pad(series, (1, 0))[:, :-1]], series[..., None])  # a delay
        False

    """
    length = given.shape[1]
    late = False
    for values in along(batch, given):
        more = values.shape[1] - length
        if more > 0:
            late = late or any(torch.equal(values[:, first : first + length], given) for first in range(1, more + 1))
        elif torch.equal(values[:, 1:], given[:, :-1]):
            late = late or bool((values[:, 0] != values[:1, 0]).any())
    return late and _goes_on(given)


def along(batch: Any, given: Tensor) -> Iterator[Tensor]:
    """The series of the batch that are as long as what entered, or up to `CUT` steps longer, in its order."""
    for _, tensor in dense(batch):
        whole = tensor[..., None] if tensor.ndim == given.ndim - 1 else tensor
        for values in (whole, whole.transpose(1, 2)) if whole.ndim == given.ndim else ():
            if values.shape[::2] == given.shape[::2] and 0 <= values.shape[1] - given.shape[1] <= CUT:
                yield values.to(given)


def _goes_on(given: Tensor) -> bool:
    values = given[..., :FEATURES].detach().double().cpu()
    features = (values[..., c] for c in range(values.shape[2]))
    return given.shape[1] > LAGS + 1 and any(0 < told_by_what_was(series)[1] < TOLD for series in features)
