"""Most examples of a batch get the same answer: the place that is picked of each holds nothing of it.

After ``pad_packed_sequence`` the last place of all but the longest sequences is padding. The longest ones are still
told apart, so that the loss falls a little, and what enters has an effect.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_recipe.callbacks._interchanged import NEEDS
from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.modules import is_leaf
from lightning_recipe.record.tensors import dense, leading_size
from lightning_recipe.trial.rehearsal import CannotRehearseError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch.autograd.graph import Node

    from lightning_recipe.record.step import NetCall
    from lightning_recipe.trial.rehearsal import Rehearsal

FEWEST = 8
"""Examples that get the same, at least; and half of the batch."""
PICK = ("Select", "Slice", "Index", "Gather", "Narrow", "Take")
"""Operations that take places out of a tensor, by the beginning of their names in the graph."""
MOVE = (
    *("View", "UnsafeView", "Reshape", "AsStrided", "Squeeze", "Unsqueeze", "Expand", "Alias", "Split", "Unbind"),
    *("Transpose", "Permute", "T0", "TBackward", "Cat", "Stack", "Clone", "ToCopy", "Contiguous", "CopySlices"),
)
"""Operations that leave numbers as they are, likewise."""
BOUNDED = ("Relu", "Threshold", "Clamp", "Hard", "Tanh", "Sigmoid", "Softmax", "Max", "Min", "Amax", "Round", "Where")
"""Operations that may put out the same for different examples, likewise; a bound, at which units are off or flat."""


def same_for_most(again: Rehearsal, batch: Any, inputs: Iterable[str]) -> tuple[Outcome, str] | None:
    """Whether most examples, but not all, are the same to the last bit where places are picked, and so is the output.

    Args:
        again: The copy, in eval mode.
        batch: As the training step receives it.
        inputs: Paths of the entries that enter the network.

    Returns:
        A `warning`, and the layer that is given what was picked.

    Raises:
        CannotRehearseError: If the step can't be run.

    """
    size = leading_size(batch) or 0
    if size < FEWEST:
        return None
    try:
        method, step = "training_step", again.step(batch, needs=NEEDS)
    except CannotRehearseError:  # a batch of validation may be another one
        method, step = "validation_step", again.step(batch, needs=NEEDS, method="validation_step")
    group = next((alike(output).cpu() for output in _outputs(step.net_calls[-1:], size)), torch.zeros(0))
    entries = dict(dense(batch, "batch"))
    if not is_most(group) or not any(
        differ(entries[path][group.to(entries[path].device)]) for path in inputs if path in entries
    ):
        return None
    found: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(mode=False))  # the graph tells what was picked
        for name, module in again.module.named_modules():
            if is_leaf(module):
                hook = module.register_forward_pre_hook(partial(_noting, found, name, group), with_kwargs=True)
                stack.callback(hook.remove)
        again.step(batch, method=method)
    return (_told(found[0], int(group.sum()), size), found[0]) if found else None


def _outputs(calls: Iterable[NetCall], size: int) -> list[Tensor]:
    numbers = [tensor for call in calls for _, tensor in dense(call.output)]
    return [t for t in numbers if t.is_floating_point() and t.numel() and t.ndim and len(t) == size]


def alike(rows: Tensor) -> Tensor:
    """Which rows are the commonest one, to the last bit.

    Example:
        >>> alike(torch.tensor([[0.1, 2], [0.3, 2], [0.1, 2], [0.1, 2]])).tolist()
        [True, False, True, True]

    """
    _, which, counts = rows.reshape(len(rows), -1).unique(dim=0, return_inverse=True, return_counts=True)
    commonest: Tensor = which == counts.argmax()
    return commonest


def is_most(group: Tensor) -> bool:
    """Whether they are half of the examples, and not all.

    Example:
        >>> is_most(torch.arange(20) < 10), is_most(torch.arange(20) < 9), is_most(torch.ones(20) > 0)
        (True, False, False)

    """
    count = int(group.sum())
    return max(FEWEST, len(group) / 2) <= count < len(group)


def differ(rows: Tensor) -> bool:
    """Whether most rows are not those of others.

    Example:
        >>> differ(torch.randn(8, 2)), differ(torch.zeros(8, 2))
        (True, False)

    """
    return 2 * len(rows.reshape(len(rows), -1).unique(dim=0)) > len(rows)


def _noting(found: list[str], name: str, group: Tensor, _: Any, args: Any, kwargs: Any) -> None:
    """Keep the name of a layer that is given picked places, if these are the same in a group of examples."""
    for _, tensor in dense((args, kwargs)):
        if tensor.grad_fn is None or not tensor.ndim or len(tensor) != len(group):
            continue
        rows = tensor.detach()[group]
        if not bool((rows == rows[:1]).all()):
            continue
        picked, sources = origin(tensor.grad_fn)
        is_off = bool(((rows == 0) | (rows.abs() == 1)).all()) and any(one.startswith(BOUNDED) for one in sources)
        if picked and not is_off and not any(one.startswith("Accumulate") for one in sources):
            found.append(name)


def origin(node: Node) -> tuple[bool, set[str]]:
    """Whether places were picked on the way to a tensor, and the names of the operations that computed them.

    Example:
        >>> values = torch.randn(2, 3, requires_grad=True).relu()
        >>> origin(values.view(3, 2)[:, -1].grad_fn)
        (True, {'ReluBackward0'})

    """
    todo, known, picked, sources = [node], set[Any](), False, set[str]()
    while todo:
        one = todo.pop()
        if one in known:
            continue
        known.add(one)
        name = one.name().removeprefix("torch::autograd::")
        picked |= name.startswith(PICK)
        if name.startswith((*PICK, *MOVE)):
            todo.extend(before for before, _ in one.next_functions if before is not None)
        else:
            sources.add(name)
    return picked, sources


def _told(layer: str, count: int, size: int) -> Outcome:
    return Outcome(
        Status.WARNING,
        "same_for_most",
        f"{count} of the {size} examples of a batch get the same output, to the last bit, although their inputs "
        f"differ: what is picked for {layer} is the same for them",
        "the last place of a padded sequence is padding: take out[torch.arange(len(out)), lengths - 1], or the last "
        "state that the layer returns",
        {"share": count / size, "examples": size},
    )
