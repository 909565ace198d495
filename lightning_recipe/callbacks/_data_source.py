"""Where data come from: how a loader draws them, and which entry of a batch is the label."""

from __future__ import annotations

import dis
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
)

from lightning_recipe.losses.by_hand import EQUAL, likely
from lightning_recipe.losses.table import TABLE, Family
from lightning_recipe.losses.targets import of_loss, outputs_of, target_of_batch
from lightning_recipe.record.tensors import dense, plain, same, tensors
from lightning_recipe.trial.stored import Part, by_source, distinct, parts_of

if TYPE_CHECKING:
    from lightning_recipe.record.step import LossCall, Step
    from lightning_recipe.run import Run

DRAWS = re.compile("rand|choice|^_?sample$|shuffle|rng|generator|^integers$", re.IGNORECASE)
"""Names in the code of a data set that draws."""

FEWEST = 8
"""Examples by which columns are told to be the same."""
WIDE, TOLD = 4096, 16
"""Columns of what enters, and of an entry of the batch, that are compared."""
ALIKE = 1 - 1e-4
"""Correlation of columns that are the same, but for rounding and scale."""


def label_of(step: Step, examples: int) -> tuple[str | None, int]:
    """The entry of the batch that a loss compares with, an integer for each example, and how many classes it takes.

    Example:
        >>> from lightning_recipe.record.step import Step
        >>> label_of(Step(None), 4)
        (None, 0)

    """
    path, call = _compared(step, examples, numbers=False)
    return path, 0 if call is None else _classes(call)


def number_of(step: Step, examples: int) -> str | None:
    """The same of a number for each example, which may be an integer.

    Example:
        >>> from lightning_recipe.record.step import Step
        >>> number_of(Step(None), 4)

    """
    return _compared(step, examples, numbers=True)[0]


def _compared(step: Step, examples: int, *, numbers: bool) -> tuple[str | None, LossCall | None]:
    entries = {
        path: tensor.detach()
        for path, tensor in tensors(step.batch, "batch")
        if tensor.numel() == examples and tensor.ndim and (numbers or _holds_classes(tensor))
    }
    if not entries:
        return None, None
    compared = likely(step)
    calls = step.loss_calls or ([compared] if compared else [])
    answers = [(call, of_loss(call, examples)) for call in calls]
    targets = [(found.target, call) for call, found in answers if found is not None]
    for target, call in [*targets, (target_of_batch(step, examples), None)]:
        if not isinstance(target, Tensor) or target.numel() != examples:
            continue
        kind = torch.float32 if numbers else torch.int64
        for path, tensor in entries.items():
            if torch.equal(tensor.flatten().to(kind), target.detach().flatten().to(tensor.device, kind)):
                return path, call
    return None, None


def _holds_classes(tensor: Tensor) -> bool:
    """Whether numbers are integers, or yes and no as a binary cross entropy wants them."""
    if tensor.is_floating_point():
        return bool(((tensor == 0) | (tensor == 1)).all())
    return not tensor.is_complex()


def _classes(call: LossCall) -> int:
    """How many classes the input of a loss has; 0 if it has none."""
    given = call.arguments.get("input")
    if not isinstance(given, Tensor) or given.ndim != 2 or TABLE[call.name].answers is not Family.CLASSES:  # noqa: PLR2004
        return 0
    return int(given.shape[1])


def target_of(step: Step) -> str:
    """The entry of the batch that the whole loss compares with what the network puts out; empty if nobody knows."""
    call = next((one for one in step.loss_calls[:1] if _is_of_outputs(step, one)), None) or likely(step)
    if call is None:
        return ""
    target = call.arguments["target"].flatten()
    entries = ((path, t.detach().flatten()) for path, t in dense(step.batch, "batch"))
    return next((path for path, t in entries if same(t.to(target), target)), "")


def _is_of_outputs(step: Step, call: LossCall) -> bool:
    """Whether a call is the whole loss, and its input what the network puts out, as it is but for its shape."""
    given, target = call.arguments.get("input"), call.arguments.get("target")
    if len(step.loss_calls) > 1 or step.loss is None or not isinstance(given, Tensor) or not isinstance(target, Tensor):
        return False
    outputs = [output.detach().flatten() for output in outputs_of(step)]
    whole = torch.isclose(step.loss.detach().double().mean(), call.value.double().mean(), rtol=EQUAL)
    return bool(whole) and any(same(output, given.flatten()) for output in outputs)


def entered(step: Step, examples: int) -> set[str]:
    """The entries of the batch that the network is given: a feature of theirs enters, as it is or scaled.

    What is masked, compared with, or a target by hand is left out, and what entered in a form that is not known.

    Example:
        >>> from torch import nn
        >>> from lightning_recipe.record.step import NetCall, Step
        >>> x, y = torch.arange(16.0).view(8, 2).cos(), torch.arange(16.0).view(8, 2).sin()
        >>> call = NetCall("net", nn.Linear(2, 2), (), {}, {"net.x": x * 2 + 1})
        >>> entered(Step({"x": x, "y": y}, net_calls=[call]), 8)
        {'batch.x'}

    """
    given = [_standardised(plain(tensor), WIDE) for tensor in step.inputs.values() if _has_rows(tensor, examples)]
    found = set()
    for path, tensor in dense(step.batch, "batch"):
        if _has_rows(tensor, examples):
            columns = _standardised(tensor.detach(), TOLD)
            alike = (abs(columns.T @ other.to(columns.device)) > ALIKE for other in given)
            if any(bool(one.any()) for one in alike):
                found.add(path)
    return found


def _has_rows(tensor: Tensor, examples: int) -> bool:
    rows = tensor.layout is torch.strided and tensor.ndim and len(tensor) == examples >= FEWEST
    return bool(rows) and tensor.numel() > 0 and not tensor.is_complex() and not tensor.is_quantized


def _standardised(tensor: Tensor, most: int) -> Tensor:
    """The first columns that vary, of norm 1 around their means."""
    columns = tensor.reshape(len(tensor), -1)
    columns = columns[:, (columns != columns[:1]).any(0)][:, :most].float()
    columns -= columns.mean(0)
    return F.normalize(columns, dim=0)


def drawn(run: Run) -> tuple[bool, bool, bool, bool]:
    """How the data are drawn, as far as can be seen.

    Returns:
        Whether by index, from a data set that is no stream; whether each index once an epoch, by whichever rank;
        whether in order; whether one after another, not a batch at a time.

    Example:
        >>> from types import SimpleNamespace
        >>> from torch.utils.data import DataLoader
        >>> drawn(SimpleNamespace(loaders=[DataLoader(range(8))])), drawn(SimpleNamespace(loaders=[]))
        ((True, True, True, True), (False, False, False, False))

    """
    data = getattr(run.loaders[0], "dataset", None) if len(run.loaders) == 1 else None
    if data is None or isinstance(data, IterableDataset) or not hasattr(data, "__getitem__"):
        return False, False, False, False
    loader = run.loaders[0]
    sampler = loader.sampler if type(getattr(loader, "batch_sampler", None)) is BatchSampler else None
    unshuffled = type(sampler) is SequentialSampler
    at_random = type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples <= len(data)
    if type(sampler) is DistributedSampler:
        unshuffled, at_random = not sampler.shuffle, sampler.shuffle
    return True, (unshuffled or at_random) and not _repeats(loader), unshuffled, sampler is not None


def is_stream(run: Run) -> bool:
    """Whether the data come from one stream, which shuffles by itself or not at all."""
    return len(run.loaders) == 1 and isinstance(getattr(run.loaders[0], "dataset", None), IterableDataset)


def by_index(data: Any) -> bool:
    """Whether a data set gives what lies at an index, and draws nothing by itself, by the code of its ``__getitem__``.

    Example:
        >>> class Bootstrap(torch.utils.data.Dataset):
        ...     def __getitem__(self, _):
        ...         return self.items[torch.randint(10, ())]
        >>> by_index(torch.utils.data.TensorDataset(torch.ones(2))), by_index(Bootstrap())
        (True, False)

    """
    if isinstance(data, ConcatDataset):
        return all(map(by_index, data.datasets))
    if isinstance(data, Subset):
        return by_index(data.dataset)
    code = getattr(getattr(type(data), "__getitem__", None), "__code__", None)
    if code is None or code.co_argcount < 2:  # noqa: PLR2004
        return isinstance(data, list)
    used = {step.argval for step in dis.get_instructions(code) if "LOAD" in step.opname}
    names = {name for argval in used for name in (argval if isinstance(argval, tuple) else (argval,))}
    return code.co_varnames[1] in {*names, *code.co_cellvars} and not any(DRAWS.search(str(name)) for name in names)


def _repeats(loader: Any) -> bool:
    """Whether a data set was made to give some examples several times."""
    parts = parts_of(loader) or []
    subclassed = [part.source for part in parts if isinstance(part.source, Subset)]
    parts += [Part(subset.dataset, subset.indices) for subset in subclassed]
    return any(len(distinct(same)) < sum(len(part.indices) for part in same) for same in by_source(parts).values())


def class_names(loader: Any) -> list[str]:
    """What a data set calls its classes, in an attribute ``classes`` as torchvision's do; none where it does not.

    Example:
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> data = TensorDataset(torch.ones(4))
        >>> data.classes = ["cat", "dog"]
        >>> class_names(DataLoader(Subset(data, [0, 1]))), class_names(None)
        (['cat', 'dog'], [])

    """
    data = getattr(loader, "dataset", None)
    while isinstance(data, Subset):
        data = data.dataset
    names = getattr(data, "classes", None)
    return list(names) if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names) else []
