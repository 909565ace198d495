"""Whether attention looks at the padding of token sequences, where that can be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_recipe.finding import Outcome, Status
from lightning_recipe.record.tensors import tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lightning_recipe.callbacks._attention import Weights

LENGTH, EXAMPLES = 4, 4
"""Of sequences, and how many, at least."""
PADDED = 0.5
"""Share of the sequences that are padded, at least; all of them may be."""
ALL, MOST, MUCH = 0.99, 0.5, 0.1
"""Share of the weight that goes to padding, from which on a mask is inverted, it is a `warning`, and `advice`."""


def padding(batch: Any, module: nn.Module) -> Iterator[Tensor]:
    """Where sequences of tokens are padded, of shape (N, L), by the ``padding_idx`` of an embedding, or by their ends.

    Example:
        >>> tokens = torch.tensor([[5, 3, 0, 0], [1, 2, 3, 0], [4, 1, 0, 0], [2, 2, 1, 3]])
        >>> [pad.int().tolist() for pad in padding({"tokens": tokens}, nn.Embedding(6, 2))]
        [[[0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0]]]

    """
    told = {m.padding_idx for m in module.modules() if isinstance(m, nn.Embedding) and m.padding_idx is not None}
    for _, tokens in tensors(batch):
        whole = not tokens.is_floating_point() and not tokens.is_complex() and tokens.dtype is not torch.bool
        if not whole or tokens.ndim != 2 or len(tokens) < EXAMPLES or tokens.shape[1] < LENGTH:  # noqa: PLR2004
            continue
        for value in told | {int(tokens[:, -1].mode().values)}:
            pad = tokens == value
            at_end = pad.flip(1).long().cumprod(1).bool().flip(1)
            at_begin = pad.long().cumprod(1).bool()
            ends = torch.equal(pad, at_end) or (value in told and torch.equal(pad, at_begin))
            lengths = pad.sum(1)
            if ends and (lengths > 0).float().mean() >= PADDED and len(lengths.unique()) > 1 and lengths.max() > 1:
                yield pad
                break


def on_padding(attentions: Sequence[Weights], pad: Tensor) -> Outcome | None:
    """Attentions that spend much of their weight, of what is no padding itself, on padding.

    Args:
        attentions: Of one step.
        pad: Where its sequences are padded, shape (N, L).

    """
    shares = [share for one in attentions if (share := _share(one, pad.to(one.rows.device))) is not None]
    hit = [share for share in shares if share > MUCH]
    if not hit or 2 * len(hit) < len(shares):
        return None
    padded = float(pad[pad.any(1)].float().mean())
    return Outcome(
        Status.WARNING if max(hit) > MOST else Status.ADVICE,
        "attention_on_padding",
        f"{len(hit)} of {len(shares)} attentions spend {max(hit):.0%} of their weight on padding, {padded:.0%} of the "
        "padded sequences",
        "invert the mask: it leaves out what there is to read, and keeps the padding"
        if max(hit) > ALL
        else "give it a mask of the padding: key_padding_mask=tokens == pad, or minus infinity added to those scores",
        {"share": max(hit), "padded": padded, "attentions": len(hit)},
    )


def _share(attention: Weights, pad: Tensor) -> float | None:
    """Of the weight of rows that are no padding, in padded sequences; None of what has other sequences."""
    rows, keys = attention.rows, attention.rows.shape[-1]
    before = keys - pad.shape[1]  # a token that was put before all
    if not attention.whole or not 0 <= before <= 1:
        return None
    heads, rest = divmod(attention.sequences, len(pad))
    if rest or len(rows) % heads:
        return None
    examples = len(rows) // heads
    weights = rows.reshape(examples, -1, *rows.shape[-2:]).float()
    hidden = torch.cat([pad.new_zeros(len(pad), before), pad], 1)[:examples]
    asks = hidden.any(1)[:, None].expand(-1, len(attention.looking))
    if attention.length == keys:
        asks = asks & ~hidden[:, attention.looking]
    spent = (weights * hidden[:, None, None]).sum(-1).mean(1)
    return float(spent[asks].mean()) if bool(asks.any()) else None
