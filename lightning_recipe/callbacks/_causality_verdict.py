"""What outputs see of their inputs along time, and what to say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from lightning_recipe.callbacks._next_step import is_in
from lightning_recipe.callbacks._turned import along, turned
from lightning_recipe.dependencies.operations import (
    attention_over_batch,
    cuts_convolution,
    operations,
    softmax_over_queries,
)
from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from typing import Any

    from torch import Tensor

    from lightning_recipe.callbacks._next_step import Reading
    from lightning_recipe.dependencies.sequences import Passed

FEW = 6
"""Steps ahead, in a longer sequence, that are seen through as many layers whose masks are off by one."""


@dataclass(frozen=True)
class Sight:
    """What outputs depend on, of what entered.

    Attributes:
        outputs: How many were looked at.
        blind: How many depend on nothing.
        target: How many depend on what they are to say.
        later: How many depend on something later than their own position.
        earlier: How many depend on something before it.
        strength: The strongest dependence on a target, as a multiple of the strongest on the own position and before.
        reach: The most steps ahead that something is seen.
        worst: Sequence and position of the output that depends on its target most.
        seen_at: The position of that target.

    """

    outputs: int
    blind: int
    target: int
    later: int
    earlier: int
    strength: float
    reach: int
    worst: tuple[int, int]
    seen_at: int


def sight(asked: Tensor, rows: Tensor, shift: int, *, any_later: bool = False) -> Sight:
    """What outputs depend on.

    Where none depends on the next input, its target, anything later is taken for that, unless they depend on all of
    what is later: then the target was left out on purpose.

    Args:
        asked: Sequence and position of each output, shape (R, 2).
        rows: How strongly each depends on each position, shape (R, T).
        shift: Steps by which the target is ahead.
        any_later: Take all that comes later for the target, as if the outputs were not for one step only.

    Example:
        >>> sight(torch.tensor([[0, 0], [0, 1]]), torch.tensor([[1.0, 0.5, 0.0], [1.0, 1.0, 0.0]]), 1)
        Sight(outputs=2, blind=0, target=1, later=1, earlier=1, strength=0.5, reach=1, worst=(0, 0), seen_at=1)

    """
    ahead = torch.arange(rows.shape[1]) - asked[:, 1:]
    until_now = rows.where(ahead <= 0, 0).amax(1)
    seen_later = (rows > 0) & (ahead > 0)
    if shift == 1 and not seen_later[ahead == 1].any():
        any_later = any_later or not bool(seen_later[ahead > 1].all())
    target, seen_at = rows.where(ahead > 0 if any_later else ahead == shift, 0).max(1)
    worst = int(target.argmax())
    return Sight(
        len(rows),
        int((rows == 0).all(1).sum()),
        int((target > 0).sum()),
        int(seen_later.any(1).sum()),
        int((rows.where(ahead < 0, 0) > 0).any(1).sum()),
        (target[worst] / until_now[worst]).item() if until_now[worst] else float("inf"),
        int(ahead[seen_later].max()) if seen_later.any() else 0,
        (int(asked[worst, 0]), int(asked[worst, 1])),
        int(seen_at[worst]),
    )


def likely_cause(begins: Passed, reach: int, positions: int) -> tuple[str, str]:
    """The likely cause, and what to do about it.

    Args:
        begins: Where outputs begin to depend on what comes later.
        reach: The most steps ahead that something is seen.
        positions: How many positions there are.

    Example:
        >>> from lightning_recipe.dependencies.sequences import Passed
        >>> layer = nn.MultiheadAttention(4, 1)
        >>> likely_cause(Passed("net", "in net", layer, True, True, torch.ones(1)), 1, 9)[0]
        'a causal mask that is off by one'

    """
    module, kind = begins.module, type(begins.module).__name__.lower()
    named = isinstance(module, nn.MultiheadAttention | nn.Transformer) or "att" in kind or "transformer" in kind
    attention = named or attention_over_batch([begins.value], positions)[0]
    if "norm" in kind and next(module.children(), None) is None:
        fix = "take them over the features of each position by itself, as nn.LayerNorm(features) does"
        return "its mean and variance are those of all positions", fix
    if isinstance(module, nn.RNNBase):
        return "a bidirectional layer", "bidirectional=False"
    if isinstance(module, nn.modules.conv._ConvNd) or "conv" in kind:  # noqa: SLF001 - the only common base
        return "padding on both sides", "pad (kernel_size - 1) * dilation on the left only, and nothing on the right"
    if next(module.parameters(), None) is None and cuts_convolution(begins.value):
        return "the end of a padded convolution that is cut off is the first", "keep the first T of T + padding outputs"
    if softmax_over_queries([begins.value], positions):
        return "a softmax over the queries, which are later positions, too", "softmax(dim=-1), over the keys"
    if reach == 1 or (attention and reach <= FEW < positions - 1):  # one more in each layer
        fix = "hide all after the diagonal: tril(ones(T, T)) keeps, triu(ones(T, T), diagonal=1) hides"
        return "a causal mask that is off by one" if attention else "something that is off by one", fix
    if attention:
        fix = "give it a causal mask, such as nn.Transformer.generate_square_subsequent_mask(T), or is_causal=True"
        return "attention without a causal mask", fix
    return "it mixes all positions", "let each position take from itself and those before it only"


def scales_inputs(begins: Passed, *, tokens: bool) -> bool:
    """Whether statistics of a window are those of what entered: before any layer, or by a norm that comes first.

    Args:
        begins: What was computed of the window.
        tokens: Whether embedded tokens entered, which nobody has to scale.

    Example:
        >>> from lightning_recipe.dependencies.sequences import Passed
        >>> conv, norm, x = nn.Conv1d(2, 2, 1), nn.InstanceNorm1d(2, affine=True), torch.randn(1, 2, 9)
        >>> for value in norm(x), norm(conv(x)):
        ...     print(scales_inputs(Passed("norm", "in norm", norm, True, True, value), tokens=False))
        True
        False

    """
    if not begins.learnt:
        return True
    if tokens or "norm" not in type(begins.module).__name__.lower():
        return False
    own = {id(parameter) for parameter in begins.module.parameters()}
    on_the_way = (getattr(node, "variable", None) for node in operations([begins.value]))
    return not any(isinstance(p, nn.Parameter) and p.ndim > 1 and id(p) not in own for p in on_the_way)


def of_sight(sees: Sight, begins: Passed | None, positions: int, *, tokens: bool = False) -> Outcome:
    """The verdict on outputs that are to say the next input.

    Args:
        sees: What they depend on.
        begins: The first tensor that a change of it changes; None if the outputs stay the same.
        positions: How many positions there are.
        tokens: Whether embedded tokens entered.

    """
    if not sees.target:
        text = f"none of {sees.outputs} outputs depends on the input that it is to say"
        return Outcome(Status.PASSED, "", text, evidence={"outputs": sees.outputs})
    if begins is None:
        return Outcome(Status.SKIPPED, "", "gradients reach later positions, but changing those changes no output")
    if scales_inputs(begins, tokens=tokens):
        text = f"outputs depend on statistics of the whole sequence, taken {begins.where}, which may be meant"
        return Outcome(Status.SKIPPED, "", text)
    what, fix = likely_cause(begins, sees.reach, positions)
    steps = f"{sees.reach} step{'s' * (sees.reach > 1)}"
    text = (
        f"{sees.target} of {sees.outputs} outputs depend on later inputs, up to {steps} ahead and "
        f"{sees.strength:.2g} times as strongly as on those until then (expected: 0). It begins {begins.where}; "
        f"likely cause: {what}"
    )
    evidence = {"outputs": sees.target, "strength": sees.strength, "reach": sees.reach}
    return Outcome(Status.FAILED, "sees_future", text, fix, evidence)


def of_shift(reading: Reading, sees: Sight, batch: Any) -> Outcome:
    """The verdict on targets that are what entered, but not one step later.

    Args:
        reading: What the loss wants.
        sees: What the outputs depend on.
        batch: In which labels may have been shifted before.

    """
    causal, fits, evidence = not sees.later and sees.earlier > 0, reading.fitting, {"outputs": float(reading.fitting)}
    copies = reading.shift == 0 and causal and sees.target == sees.outputs
    if copies and (reading.tokens or reading.classes or is_cut(batch, reading.given)):
        what = "token" if reading.tokens else "number"  # which a codec is to say, too, of whole sequences
        text = f"each of {fits} outputs is to say the {what} that enters at its own position (expected: the next one)"
        fix = f"pair {what}s[:, :-1] as inputs with {what}s[:, 1:] as targets, once"
        return Outcome(Status.FAILED if reading.tokens else Status.WARNING, "input_is_target", text, fix, evidence)
    shifted_before = is_in(batch, reading.given, 1) and not is_in(batch, reading.given, 2)
    if reading.shift == 2 and (reading.tokens or shifted_before):  # noqa: PLR2004 - twice
        status = Status.FAILED if shifted_before else Status.WARNING
        text = f"each of {fits} outputs is to say what comes two steps later (expected: one step)"
        fix = "shift the labels in one place only: in the data or in the model"
        return Outcome(status, "shifted_twice", text, fix, evidence)
    if reading.tokens and reading.shift == -1 and causal and not echoes(batch, reading.given):
        text = f"each of {fits} outputs is to say the token of one step before (expected: of one step later)"
        fix = "pair outputs[:, :-1] with tokens[:, 1:]; to the left is torch.roll(tokens, -1, dims=1)"
        return Outcome(Status.WARNING, "wrong_way", text, fix, evidence)
    seen = not reading.tokens and reading.shift == -1 and causal and sees.target == sees.outputs
    if seen and turned(batch, reading.given):
        text = f"each of {fits} outputs is to say the number of one step before, which it has seen (expected: the next)"
        fix = "pair series[:, :-1] as inputs with series[:, 1:] as targets, not the other way round"
        return Outcome(Status.WARNING, "wrong_way", text, fix, evidence)
    what = "tokens" if reading.tokens else "numbers"
    where = f"of {reading.shift} steps later" if reading.shift else "that enter at the same positions"
    text = f"the {what} to be said are those {where}: the task is not to say what comes next"
    return Outcome(Status.SKIPPED, "", text)


def is_cut(batch: Any, given: Tensor) -> bool:
    """Whether what entered is a sequence of the batch without its first or last steps, up to `_turned.CUT`.

    Args:
        batch: Any.
        given: Numbers of shape (N, T, C).

    Example:
        >>> series = torch.randn(4, 9)
        >>> is_cut(series, series[:, 1:, None]), is_cut(series, series[..., None])
        (True, False)

    """
    for values in along(batch, given):
        starts = range(values.shape[1] - given.shape[1] + 1)
        if len(starts) > 1 and any(torch.equal(values[:, first:][:, : given.shape[1]], given) for first in starts):
            return True
    return False


def echoes(batch: Any, given: Tensor) -> bool:
    """Whether the data set itself asks for the token before, as in a task of memory; not if it rolled them around.

    Example:
        >>> tokens = torch.arange(12).view(2, 6)
        >>> echoes(nn.functional.pad(tokens, (1, 0))[:, :-1], tokens), echoes(tokens.roll(1, 1), tokens)
        (True, False)

    """
    return is_in(batch, given, -1) and not is_in(batch, given.roll(1, 1), 0)
