"""Whether the task is to say what comes next, as the gradient of the loss tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lightning_recipe.dependencies.over_time import Chart
from lightning_recipe.dependencies.sequences import Layout, layouts
from lightning_recipe.record.tensors import dense

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_recipe.dependencies.sequences import Passage

SHIFTS = (-2, -1, 0, 1, 2, 3)
"""Steps from an output to the input that it is to say; 1 is the next."""
ENOUGH = 32
"""Outputs that have to fit: by chance, half of the signs of numbers do, so that 32 do in one of 4e9 draws."""
STEPS = 3
"""Positions among them: at one or two, it may be another task."""
APART = 8
"""Outputs that must not fit any other shift: a constant sequence fits all."""
EQUAL = 1e-4
"""Share of a gradient by which it may differ from its error times a constant, as that of a squared error is."""
NARROW = 4
"""Features of outputs up to which each is tried for each of the inputs: parameters of a distribution."""
WIDE = 64
"""Features of inputs that are tried then."""
CLASSES = 8
"""Intervals of a number, at least, of which outputs may say one: fewer may be a tag of it."""
STATES = 8
"""Last outputs of modules that are asked."""


@dataclass(frozen=True)
class Reading:
    """What the loss wants of some outputs: what entered, some steps later.

    Attributes:
        entered: Number of what entered, in ``Passage.entered``.
        into: Where its sequences and positions lie.
        passed: Number of the outputs, in ``Passage.passed``.
        out: Where their sequences and positions lie.
        shift: Steps by which the target is ahead of the output.
        given: What entered, as tokens of shape (N, T) or numbers of shape (N, T, C).
        counted: The outputs that the loss depends on, of shape (N, T).
        fitting: How many of those were compared, and all fit.

    """

    entered: int
    into: Layout
    passed: int
    out: Layout
    shift: int
    given: Tensor
    counted: Tensor
    fitting: int

    @property
    def tokens(self) -> bool:
        """Whether integers entered, not numbers."""
        return self.given.ndim == 2  # noqa: PLR2004

    @property
    def classes(self) -> bool:
        """Whether outputs are to say the interval in which a number lies."""
        return not self.tokens and self.given.shape[-1] == 1 and self.out.shape[self.out.order[2]] >= CLASSES

    @property
    def places(self) -> Tensor:
        """The outputs that count and whose target entered, mask of shape (N, T)."""
        at = torch.arange(self.counted.shape[1], device=self.counted.device) + self.shift
        return self.counted & (at >= 0) & (at < self.counted.shape[1])

    def chart(self, passage: Passage) -> Chart:
        """What those outputs depend on."""
        return Chart(passage.entered[self.entered].leaf, self.into, passage.passed[self.passed].value, self.out)


def readings(passage: Passage) -> list[Reading]:
    """Each pair of something that entered and of outputs for which the loss wants it, shifted.

    A loss falls towards its target: of cross entropy alone the logit of the target has a negative gradient, and the
    sign of a number's gradient is that of its error, in whatever way the loss is written. Of a squared error it is in
    proportion, which tells steps apart between which a series hardly changes. Classes may be intervals of a number.

    Example:
        >>> from lightning_recipe.dependencies.sequences import Passage
        >>> tokens = torch.randint(9, (8, 10), generator=torch.Generator().manual_seed(0))
        >>> passage, net = Passage(), torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 9))
        >>> with passage.through(net):
        ...     logits = net(tokens[:, :-1])
        >>> passage.loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        >>> {reading.shift for reading in readings(passage)}
        {1}

    """
    series = [(i, *option) for i, entered in enumerate(passage.entered) for option in as_sequences(entered.given)]
    shapes = {values.shape[:2] for _, _, values in series}
    outputs = [(i, tuple(passed.value.shape)) for i, passed in enumerate(passage.passed) if passed.leaves]
    fits = [i for i, shape in outputs if any(layouts(shape, *sequence) for sequence in shapes)]
    last = list({id(passage.passed[i].value): i for i in fits}.values())[-STATES:]
    if not last or passage.loss is None or not passage.loss.requires_grad:
        return []
    values = [passage.passed[i].value for i in last]
    gradients = torch.autograd.grad(passage.loss, values, retain_graph=True, allow_unused=True)
    found = []
    for i, state, gradient in zip(last, values, gradients, strict=True):
        for number, into, given in series if gradient is not None else []:
            for out in layouts(tuple(state.shape), *given.shape[:2]):
                counted = (out.of(gradient) != 0).any(-1)
                if fit := shift_of(out.of(state.detach()), out.of(gradient), given):
                    found.append(Reading(number, into, i, out, fit[0], given, counted, fit[1]))
    return found


def as_sequences(given: Tensor) -> list[tuple[Layout, Tensor]]:
    """What entered as tokens of shape (N, T), or numbers of shape (N, T, C), with the dimensions in any order."""
    if not given.is_floating_point():
        found = [(Layout((*given.shape, -1), order), given.permute(order[:2])) for order in ((0, 1, 2), (1, 0, 2))]
        return [(layout, tokens) for layout, tokens in found if tokens.shape[1] > 1]
    shape = (*given.shape, 1)[:3]
    orders = ((0, 1, 2), (1, 0, 2), *[(0, 2, 1)] * (given.ndim == 3))  # noqa: PLR2004
    found = [(Layout(tuple(shape), order), given.reshape(shape).permute(order)) for order in orders]
    return [(layout, _undone(values)) for layout, values in found if values.shape[1] > 1]


def _undone(values: Tensor) -> Tensor:
    """The tokens of one-hot vectors, or the numbers that they are."""
    one_hot = values.shape[-1] > 1 and bool(((values == 0) | (values == 1)).all() and (values.sum(-1) == 1).all())
    return values.argmax(-1) if one_hot else values


def shift_of(state: Tensor, gradient: Tensor, given: Tensor) -> tuple[int, int] | None:
    """By how many steps what entered is ahead of the outputs for which the loss wants it, and how many outputs fit.

    Args:
        state: Outputs, shape (N, T, V).
        gradient: Of the loss with respect to them.
        given: Tokens of shape (N, T), or numbers of shape (N, T, C).

    Returns:
        None if it is none of `SHIFTS`, or several would fit.

    """
    length, padded = given.shape[1], ends(given)
    misses: dict[str, dict[int, int]] = {}
    compared = dict.fromkeys((shift for shift in SHIFTS if abs(shift) < length), 0)
    steps = dict.fromkeys(compared, 0)
    for shift in compared:
        here = slice(max(0, -shift), length - max(0, shift))
        there = slice(max(0, shift), length + min(0, shift))
        counted = (gradient[:, here] != 0).any(-1) & ~padded[:, there]
        if counted.sum() >= ENOUGH:
            compared[shift], steps[shift] = int(counted.sum()), int(counted.any(0).sum())
            for way, wrong in _wrong(state[:, here], gradient[:, here], given[:, there], counted).items():
                misses.setdefault(way, {})[shift] = int((wrong & counted).sum())
    found = [only for missed in misses.values() if (only := _only(missed)) is not None and steps[only] >= STEPS]
    fitting = 1 if 1 in found else next(iter(found), None)
    return None if fitting is None else (fitting, compared[fitting])


def _only(misses: dict[int, int]) -> int | None:
    """The one shift that fits, if all others clearly don't.

    Example:
        >>> _only({0: 40, 1: 0, 2: 50}), _only({0: 0, 1: 0, 2: 50}), _only({0: 1, 1: 0, 2: 50})
        (1, None, None)

    """
    best, *others = sorted(misses, key=misses.__getitem__)
    return best if others and misses[best] == 0 and misses[others[0]] >= APART else None


def ends(given: Tensor) -> Tensor:
    """Where a sequence is the same up to its end, as if padded: what is padded may be cut and shifted anyhow.

    Of what is the same at a single place, the last, only the commonest value may be padding.

    Example:
        >>> ends(torch.tensor([[5, 3, 0, 0], [1, 2, 3, 4], [7, 5, 2, 0]])).int().tolist()
        [[0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]]

    """
    values = given if given.ndim == 3 else given.unsqueeze(-1)  # noqa: PLR2004 - numbers have features
    same = (values == values[:, -1:]).all(-1)
    padded = same.flip(1).long().cumprod(1).bool().flip(1)
    last, several = values[:, -1], padded.sum(1) > 1
    kinds, counts = (last[several] if several.any() else last).cpu().unique(dim=0, return_counts=True)
    padded[:, -1] &= several | (last == kinds[counts.argmax()].to(last.device)).all(-1)
    return padded


def _wrong(state: Tensor, gradient: Tensor, target: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """Masks of the outputs that don't fit, shape (N, T), by how they are read."""
    if target.ndim == 2:  # noqa: PLR2004 - tokens
        return {"tokens": gradient.argmin(-1) != target} if state.shape[-1] > int(target.max()) else {}
    width, features = state.shape[-1], target.shape[-1]
    state, gradient, target = state.double(), gradient.double(), target.double()
    pairs = {"all": (slice(None), slice(None))} if width == features else {}
    if width <= NARROW and features <= WIDE:
        pairs |= {f"{v} of {c}": (slice(v, v + 1), slice(c, c + 1)) for v in range(width) for c in range(features)}
    binary = bool(((target == 0) | (target == 1)).all())
    wrong = {}
    if width >= CLASSES and features == 1:
        wrong["classes"] = _unordered(gradient.argmin(-1), target[..., 0], counted)
    for name, (v, c) in pairs.items():
        error, slope = state[..., v] - target[..., c], gradient[..., v]
        wrong[f"{name}, by sign"] = ((slope * error <= 0) & (slope != 0)).any(-1)
        steepness = (slope * error)[counted].sum() / error[counted].square().sum()
        alike = (slope - steepness * error).abs() <= EQUAL * slope.abs()  # not of what entered itself, without an error
        wrong[f"{name}, squared"] = ~alike.all(-1)
        if binary:  # logits of yes and no
            wrong[f"{name}, yes or no"] = ((slope * (0.5 - target[..., c]) <= 0) & (slope != 0)).any(-1)
    return wrong


def _unordered(classes: Tensor, numbers: Tensor, counted: Tensor) -> Tensor:
    """Where classes are less than that of a lower number: intervals have its order, whatever their widths.

    Args:
        classes: Shape (N, T).
        numbers: Shape (N, T).
        counted: Mask of those that are compared, shape (N, T).

    Example:
        >>> numbers, all_of_them = torch.linspace(-1, 1, 40).view(1, -1), torch.ones(1, 40, dtype=torch.bool)
        >>> int(_unordered((10 * numbers.exp()).long(), numbers, all_of_them).sum())
        0
        >>> bool(_unordered((10 * numbers.cos()).long(), numbers, all_of_them).any())
        True

    """
    wrong, order = counted.clone(), numbers[counted].argsort()
    in_order = classes[counted][order]
    if len(in_order.unique()) >= CLASSES:
        least = in_order.cummax(0).values
        wrong[counted] = torch.zeros_like(in_order, dtype=torch.bool).index_put((order,), in_order < least)
    return wrong


def presumed(passage: Passage, sequences: int | None) -> list[Reading]:
    """The last outputs that have a position for each of what entered, where nothing tells what the loss wants of them.

    Args:
        passage: What passed.
        sequences: How many sequences there are.

    """
    for i, passed in reversed(list(enumerate(passage.passed))):
        for number, entered in enumerate(passage.entered):
            for into, given in as_sequences(entered.given):
                ways = layouts(tuple(passed.value.shape), *given.shape[:2])
                if given.shape[0] == sequences and ways and passed.leaves:
                    every = torch.ones(given.shape[:2], dtype=torch.bool)
                    return [Reading(number, into, i, ways[0], 1, given, every, 0)]
    return []


def is_in(batch: Any, given: Tensor, shift: int) -> bool:
    """Whether the batch holds the tokens, or the numbers, of some steps later; tokens that the loss ignores may differ.

    Args:
        batch: Any.
        given: What entered, of shape (N, T) or (N, T, 1).
        shift: The steps.

    Example:
        >>> tokens = torch.randint(9, (8, 10), generator=torch.Generator().manual_seed(0))
        >>> is_in({"labels": tokens.roll(-1, 1)}, tokens, 1), is_in({"labels": tokens}, tokens, 1)
        (True, False)

    """
    given = given.squeeze(-1) if given.ndim == 3 else given  # noqa: PLR2004 - one number at each step
    length = given.shape[1] - abs(shift)
    there = given[:, max(0, shift) :][:, :length]
    for _, tensor in dense(batch):
        for values in (tensor, tensor.mT) if tensor.shape in {given.shape, given.mT.shape} else ():
            if values.shape == given.shape and values.device == given.device:
                here = values[:, max(0, -shift) :][:, :length]
                ignored = (here < 0) & (not here.is_floating_point())
                if ((here == there) | ignored).all() and not ignored.all():
                    return True
    return False
