"""Comparisons of losses and errors with constants, by which elements may be left out afterwards."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from lightning_recipe.losses.table import LOSSES
from lightning_recipe.record.caller import line

if TYPE_CHECKING:
    from collections.abc import Callable

_BELOW, _ABOVE = {"lt", "le", "less", "less_equal"}, {"gt", "ge", "greater", "greater_equal"}
_COMPARES = _BELOW | _ABOVE
_MAGNITUDES = {"abs", "absolute", "square", "pow", "norm", "linalg_norm", "linalg_vector_norm"}
_ONWARD = {"detach", "mean", "sum", "sqrt", "squeeze", "view", "reshape", "flatten", "float", "clone", "max", "amax"}
"""Functions after which a difference is still one, and an error still an error."""
NAMES = _COMPARES | _MAGNITUDES | _ONWARD | {"sub", "rsub", "mul"}
"""Functions that matter here, besides losses."""


class Bound(NamedTuple):
    """A comparison of computed values with a constant.

    Attributes:
        below: Where the values are the smaller ones.
        value: The constant.
        node: What the values came out of in the autograd graph, if anything.
        of_error: Whether they are a loss, or the magnitude of a difference.
        where: The line that compared, such as ``"model.py:42"``.

    """

    below: Tensor
    value: float
    node: Any
    of_error: bool
    where: str


class Bounds:
    """The comparisons of a step.

    Example:
        >>> import torch
        >>> bounds, error = Bounds(), torch.tensor([1.0, 4.0])
        >>> bounds.note(torch.Tensor.__lt__, "lt", (error, 3), error < 3, computed=[error])
        >>> bounds.matching(torch.tensor([True, False])).value
        3.0

    """

    def __init__(self) -> None:
        self._found: list[Bound] = []
        self._nodes: dict[weakref.ref[Tensor], Any] = {}  # of what was detached
        self._differences: set[weakref.ref[Tensor]] = set()
        self._errors: set[weakref.ref[Tensor]] = set()

    def note(
        self, function: Callable[..., Any], name: str, args: tuple[Any, ...], output: Any, computed: list[Tensor]
    ) -> None:
        """Take note of a function, of those in `NAMES` and losses.

        Args:
            function: The function.
            name: Its name.
            args: Its positional arguments.
            output: What it gave.
            computed: The tensors among its arguments that came out of the network.

        """
        if not isinstance(output, Tensor) or not computed:
            return
        made, source = weakref.ref(output), weakref.ref(computed[0])
        if name in _COMPARES:
            if len(computed) == 1 and args[0] is computed[0] and _is_number(args[1]):
                below = output if name in _BELOW else ~output
                node = self._nodes.get(source, computed[0].grad_fn)
                self._found.append(Bound(below, float(args[1]), node, source in self._errors, line()))
            return
        squared = name == "mul" and args[0] is args[-1]
        if name in {"sub", "rsub"}:
            self._differences.add(made)
        elif function in LOSSES or ((name in _MAGNITUDES or squared) and source in self._differences):
            self._errors.add(made)
        elif name in _ONWARD:
            self._differences |= {made} if source in self._differences else set()
            self._errors |= {made} if source in self._errors else set()
        if name == "detach":
            self._nodes[made] = computed[0].grad_fn

    @property
    def shapes(self) -> set[tuple[int, ...]]:
        """Those of the comparisons."""
        return {tuple(bound.below.shape) for bound in self._found}

    def matching(self, kept: Tensor) -> Bound | None:
        """The comparison by which exactly these elements are the smaller ones, and others are not."""
        alike = (bound for bound in self._found if bound.below.shape == kept.shape)
        return next((bound for bound in alike if bound.below.equal(kept) and not bool(kept.all())), None)


def _is_number(bound: Any) -> bool:
    constant = isinstance(bound, Tensor) and bound.numel() == 1 and not bound.requires_grad
    return isinstance(bound, int | float) or constant
