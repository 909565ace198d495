"""Functions of torch whose result a step throws away, such as ``x.masked_fill(mask, 0)`` on a line of its own."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import textwrap
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.caller import place
from lightning_recipe.record.step import Need
from lightning_recipe.trial.rehearsal import CannotRehearseError, rehearsal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_recipe.record.step import Step
    from lightning_recipe.run import Run

_INSTALLED = ("site-packages", "dist-packages")
CHANGED = {
    "view",
    "reshape",
    "permute",
    "flatten",
    "expand",
    "repeat",
    "dropout",
    "softmax",
    "log_softmax",
    "normalize",
}
"""Functions that give a changed tensor and have no form that works in place, which is an underscore away."""
OPERATORS = {"add", "sub", "mul", "div", "pow", "remainder", "floor_divide"}
"""Functions that operators stand for."""


def thrown_away(run: Run, step: Step) -> Iterator[tuple[Outcome, str]]:
    """Statements in the code of the modules that are nothing but such a call, if the step comes by them.

    Args:
        run: Of whose module the code is read.
        step: That is run again on a copy, where there are such statements: what is called on the batch counts, too.

    """
    found = statements(run.module)
    if not found:
        return
    try:
        with torch.enable_grad(), rehearsal(run) as again:
            events = again.step(step.batch, needs=Need.WIRING | Need.BATCH | Need.PARAMETERS | Need.INSIDE).events
    except CannotRehearseError:
        events = step.events
    used = {number for event in events for number in event.inputs}  # as what was given by an inplace=True
    new = [event for event in events if event.kind == "function" and event.outputs and used.isdisjoint(event.outputs)]
    for where, name in dict.fromkeys((event.where, event.name) for event in new):
        if found.get(where) == name:
            in_place = hasattr(Tensor, f"{name}_")
            yield (
                Outcome(
                    Status.WARNING,
                    "result_thrown_away",
                    f"the result of {name} ({where}) is thrown away: it returns a new tensor, and leaves the one it is "
                    "given as it is",
                    f"assign what it returns{f', or call {name}_, which works in place' * in_place}",
                ),
                f"{name} ({where})",
            )


def statements(root: nn.Module) -> dict[str, str]:
    """The lines on which a function that returns a changed tensor is all that is called, in the files of modules."""
    kinds = {type(module) for module in root.modules()}
    classes = {c for kind in kinds for c in kind.__mro__ if not c.__module__.startswith(("torch.", "builtins"))}
    found: dict[str, str] = {}
    for c in sorted(classes, key=lambda c: c.__qualname__):
        try:
            file = inspect.getsourcefile(c) or ""
            code: object = sys.modules.get(c.__module__, c)
            try:
                text, first = inspect.getsource(code), 1  # type: ignore[arg-type]
            except (OSError, TypeError):  # a notebook
                lines, first = inspect.getsourcelines(c)
                text = "".join(lines)
        except (OSError, TypeError):
            continue
        if not any(part in file for part in _INSTALLED):
            for line, last, name in calls(text):
                found |= {place(file, at + first - 1): name for at in range(line, last + 1)}
    return found


@functools.lru_cache(maxsize=64)  # a file is asked for each class in it, and in each fit of a process
def calls(code: str) -> tuple[tuple[int, int, str], ...]:
    """The first and last line of such statements in some code, and the name of the function.

    Example:
        >>> calls("x.masked_fill(mask, 0)")
        ((1, 1, 'masked_fill'),)
        >>> calls("y = x.masked_fill(mask, 0); x.masked_fill_(mask, 0); F.relu(x, inplace=True); x.sum()")
        ()
        >>> calls("self.log('surprise', p.log())")
        ()

    """
    found = []
    for node in ast.walk(ast.parse(textwrap.dedent(code))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            call = node.value
            name = _name(call)
            given = [part for part in ast.walk(call) if part is not call and isinstance(part, ast.Call)]
            if name in map(_name, given):
                continue  # as of self.log, which is given x.log()
            changes = name in CHANGED or hasattr(Tensor, f"{name}_")
            if name in OPERATORS and any(isinstance(part, ast.BinOp) for part in ast.walk(call)):
                continue  # as of a set to which a sum is added
            if changes and not {keyword.arg for keyword in call.keywords} & {"inplace", "out"}:
                found.append((node.lineno, node.end_lineno or node.lineno, name))
    return tuple(found)


def _name(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]
