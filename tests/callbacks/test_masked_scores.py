"""Masks before a softmax: those that hide what they should, or something else, first."""

import pytest
import torch
from torch.nn import functional as F

from lightning_recipe.callbacks._masked_scores import without_effect

N, H, L, D = 6, 2, 10, 8
VALID = torch.arange(L) < torch.tensor([[3], [10], [5], [7], [4], [6]])
LATER = torch.ones(L, L).triu(1).bool()
OTHER = torch.rand(N, L, generator=torch.Generator().manual_seed(1)) < 0.4


def told(masked, *, batch=VALID, places=L):
    """What is said of scores that a function masks."""
    drawn = torch.Generator().manual_seed(0)
    q, k = (torch.randn(N, H, n, D, generator=drawn).requires_grad_() for n in (places, L))
    scores = (q @ k.mT) / D**0.5
    found = without_effect((masked(scores).softmax(-1) @ k).sum(), (k.detach(), batch), [])
    return None if found is None else found.code


NEGATIVE = {
    "infinite": lambda s: s.masked_fill(~VALID[:, None, None], -torch.inf),
    "large": lambda s: s.masked_fill(~VALID[:, None, None], -1e4),
    "where": lambda s: torch.where(VALID[:, None, None], s, torch.tensor(-1e9)),
    "causal": lambda s: s.masked_fill(LATER, -torch.inf),
    "added": lambda s: s + (1 - VALID[:, None, None].float()) * -1e9,
    "added after zeros": lambda s: s * VALID[:, None, None].float() + (1 - VALID[:, None, None].float()) * -1e9,
    "a threshold": lambda s: s.masked_fill(s < 0, 0.0),
    "another mask": lambda s: s.masked_fill(OTHER[:, None, None], 0.0),
    "none": lambda s: s,
    "rows that are padding": lambda s: s.masked_fill(~VALID[:, None, :, None], 0.0),
}


@pytest.mark.parametrize("name", NEGATIVE)
def test_what_hides_or_may_be_meant(name):
    assert told(NEGATIVE[name]) is None


NOTHING = {
    "about 0": lambda s: s.masked_fill(~VALID[:, None, None], -1e-9),
    "0": lambda s: s.masked_fill(~VALID[:, None, None].expand(N, H, L, L), 0.0),
    "where": lambda s: torch.where(VALID[:, None, None], s, torch.zeros(())),
    "where not": lambda s: torch.where(~VALID[:, None, None], torch.zeros(()), s),
    "a product": lambda s: s * VALID[:, None, None].float(),
    "a later temperature": lambda s: s.masked_fill(~VALID[:, None, None], 0.0) / 2,
    "causal": lambda s: s.masked_fill(LATER, 0.0),
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_hides_nothing(name):
    assert told(NOTHING[name]) == "mask_without_effect"
    assert told(NOTHING[name], batch=~VALID) == "mask_without_effect"
    assert told(NOTHING[name], batch=VALID.long()) == "mask_without_effect"


def test_pooling_over_places():
    h = torch.randn(N, L, D, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for fill, code in ((-1e-9, "mask_without_effect"), (-1e9, None)):
        weights = F.softmax(h[..., :1].masked_fill(~VALID[..., None], fill), 1)
        found = without_effect((weights * h).sum(1).sum(), {"mask": VALID, "x": h.detach()}, [])
        assert (found.code if found else None) == code


def test_a_row_that_is_masked_entirely_is_another_matter():
    valid = VALID.clone()
    valid[0] = False
    h = torch.randn(N, L, D, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = F.softmax(h[..., :1].masked_fill(~valid[..., None], -torch.inf), 1)
    assert without_effect((weights * h).sum(1).sum(), {"mask": valid}, []) is None
