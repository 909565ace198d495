"""Attentions with weights as they are drawn, whose scores are multiplied with good reason, or not, first."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_recipe.callbacks._attention import largest_weights, weights_of
from lightning_recipe.callbacks._attention_scale import multiplied

WIDTH, HEADS, PLACES = 64, 2, 32
ROOT = (WIDTH // HEADS) ** 0.5
FUTURE = torch.ones(PLACES, PLACES).triu(1).bool()


def told(attend):
    """What is said of an attention of vectors that were normalised, by the layers of torch."""
    torch.manual_seed(0)
    x = F.layer_norm(torch.randn(4, PLACES, WIDTH), [WIDTH])
    q, k, v = (t.unflatten(2, (HEADS, -1)).transpose(1, 2) for t in nn.Linear(WIDTH, 3 * WIDTH)(x).chunk(3, -1))
    attentions = weights_of(attend(q, k, v).sum())
    return multiplied(attentions, largest_weights(attentions))


def by_hand(q, k, v, scale=1.0):
    return (q @ k.mT * scale).softmax(-1) @ v


def divided(q, k, v):
    return by_hand(q, k, v, 1 / ROOT)


def not_scaled(q, k, v):
    return by_hand(q, k, v)


def cosines(q, k, v):
    """Of queries and keys that are normalised."""
    return by_hand(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, ROOT)


def sharpened(q, k, v):
    """By a number of one's own."""
    return by_hand(q, k, v, 2.0)


def small(q, k, v):
    """Weights are drawn so that it is well."""
    return by_hand(q / WIDTH, k, v, ROOT)


def torchs(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize("attend", [divided, not_scaled, cosines, sharpened, small, torchs])
def test_no_mistake(attend):
    assert told(attend) is None


def times(q, k, v):
    return by_hand(q, k, v, ROOT)


def by_its_inverse(q, k, v):
    return (q @ k.mT / ROOT**-1).softmax(-1) @ v


def of_all_heads(q, k, v):
    return by_hand(q, k, v, WIDTH**0.5)


def of_queries(q, k, v):
    return by_hand(q * ROOT, k, v)


def of_both(q, k, v):
    return by_hand(q * ROOT**0.5, k * ROOT**0.5, v)


def masked(q, k, v):
    return F.dropout((q @ k.mT * ROOT).masked_fill(FUTURE, -torch.inf).softmax(-1), 0.1) @ v


def with_positions(q, k, v):
    bias = torch.zeros(PLACES, PLACES, requires_grad=True)
    return (bias + torch.einsum("bhid,bhjd->bhij", q, k) * ROOT).softmax(-1) @ v


def by_torch(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, scale=ROOT)


@pytest.mark.parametrize(
    "attend", [times, by_its_inverse, of_all_heads, of_queries, of_both, masked, with_positions, by_torch]
)
def test_multiplied_by_the_root(attend):
    outcome = told(attend)
    assert outcome is not None
    assert outcome.code == "attention_at_one_place"
    assert outcome.evidence["largest"] > 3 * outcome.evidence["divided"]
