"""Of which loss functions the loss of a short fit is a sum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from lightning_recipe.trial.short_fit import Fit

_EQUAL = 1e-3  # relative; half precision


def has_only_known_terms(fit: Fit) -> bool:
    """Whether the loss is a sum of the loss functions seen, each with a constant positive weight.

    What else is in it (a penalty, a divergence) may keep them from their floors.
    """
    return _weighted(fit)[0]


def weights(fit: Fit) -> list[float]:
    """By what the values of the loss functions are multiplied before the step adds them; empty if that isn't known."""
    known, found = _weighted(fit)
    return found if known else []


def _weighted(fit: Fit) -> tuple[bool, list[float]]:
    """Whether weights explain the losses, and the weights if they are the only ones that do."""
    values = torch.tensor([v for v in fit.calls.values() if len(v) == len(next(iter(fit.calls.values())))]).double()
    total = torch.tensor([fit.losses[step] for step in fit.calls]).double()
    if values.shape[0] != total.shape[0] or values.shape[1] == 0:
        return False, []
    finite = values.isfinite().all(1) & total.isfinite()
    values, total = values[finite], total[finite]
    if not len(total):
        return True, []
    found = torch.linalg.lstsq(values, total[:, None], driver="gelsd")
    residual = (values @ found.solution)[:, 0] - total
    known = bool((residual.abs() <= _EQUAL * total.abs().max()).all() and (found.solution >= -_EQUAL).all())
    unique = int(torch.linalg.matrix_rank(values, rtol=_EQUAL)) == values.shape[1]
    return known, found.solution[:, 0].tolist() if unique else []
