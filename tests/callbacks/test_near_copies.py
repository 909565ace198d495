"""Slightly changed copies on both sides of a split: legitimate data first, then the mistake in several forms."""

import pytest
import torch
from patients import AugmentedBeforeTheSplit, Healthy
from torch.utils.data import TensorDataset

from lightning_recipe import SplitCheck, Status
from lightning_recipe.callbacks._near_copies import near_copies
from lightning_recipe.callbacks._oversampled import oversampled
from lightning_recipe.demo import loaders
from lightning_recipe.trial.stored import Part, parts_of

RNG = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=RNG)


def judged(*tensors, order=None, train=0.8):
    data = TensorDataset(*tensors)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(1)).tolist() if order is None else order
    cut = int(train * len(order))
    return near_copies([Part(data, order[:cut])], [Part(data, order[cut:])])


def line(points, features=16):
    """Examples on a curve."""
    return torch.sin(points[:, None] * torch.linspace(0.3, 2, features) + normal(features))


LEGITIMATE = {
    "patterns": lambda: Healthy().data(400, 1).tensors,
    "noise": lambda: (normal(400, 30),),
    "one class each, of four": lambda: ((normal(100, 16).repeat_interleave(4, 0) + 0.01 * normal(400, 16)),
                                        torch.arange(100).repeat_interleave(4)),
    "few prototypes": lambda: (normal(10, 16).repeat(40, 1) + 0.01 * normal(400, 16), torch.arange(400) % 10),
    "a curve, evenly": lambda: (line(torch.linspace(0, 3, 400)),),
    "a curve, at random": lambda: (line(torch.rand(400, generator=RNG) * 3),),
    "a plane": lambda: (torch.rand(400, 2, generator=RNG) @ normal(2, 20),),
    "a walk": lambda: (normal(400, 12).cumsum(0),),
    "heavy tails": lambda: (normal(400, 20) ** 5,),
    "categories and two numbers": lambda: (torch.cat([(normal(400, 12) > 0).float(), normal(400, 2)], 1),),
    "many categories and eight numbers": lambda: (torch.cat([(normal(400, 40) > 0).float(), normal(400, 8)], 1),),
    "the same image, several captions": lambda: (torch.rand(100, 3, 8, 8, generator=RNG).repeat(4, 1, 1, 1),
                                                 normal(400)),
    "dark images": lambda: (torch.zeros(400, 1, 8, 8) + 0.001 * torch.rand(400, 1, 8, 8, generator=RNG),),
    "constant rows": lambda: (normal(400, 1).expand(400, 20).contiguous(),),
    "short": lambda: (normal(100, 3).repeat(4, 1) + 0.001 * normal(400, 3),),
    "tokens": lambda: (torch.randint(100, (400, 20), generator=RNG),),
    "not finite": lambda: (normal(400, 20) / 0,),
    "few": lambda: (normal(10, 20).repeat(4, 1) + 0.001 * normal(40, 20),),
}  # fmt: skip


@pytest.mark.parametrize("name", LEGITIMATE)
def test_legitimate(name):
    assert judged(*LEGITIMATE[name]()) is None


def test_pairs_are_of_one_example():
    kinds = torch.randperm(200, generator=RNG).repeat_interleave(4)
    x = normal(200, 20)[kinds] + 0.01 * normal(800, 20)
    matches = judged(x).matches
    assert len({match.val.index for match in matches}) == 3
    assert all(kinds[match.train.index] == kinds[match.val.index] for match in matches)


def test_copies_within_training_are_legitimate():
    x = normal(100, 20)
    copies = torch.cat([x[:80].repeat(4, 1) + 0.01 * normal(320, 20), x[80:].repeat(4, 1)])
    assert judged(copies, order=list(range(400))) is None


def test_digits_are_legitimate():
    train, val = loaders()
    assert near_copies(parts_of(train), parts_of(val)) is None


def rare(multiplied, *, before):
    """Two classes, one of them rare, of which rows are made, before or after a split."""
    x, y = normal(1200, 12), torch.zeros(1200).long()
    x[:100] += 1
    y[:100] = 1
    order = torch.randperm(1200, generator=RNG)
    x, y = x[order], y[order]
    held_out = torch.arange(1200) >= 900
    if before:
        new = multiplied(x[y == 1], 1000)
        x, y = torch.cat([x, new]), torch.cat([y, torch.ones(1000).long()])
        held_out = torch.rand(len(x), generator=RNG) < 0.25
    else:
        new = multiplied(x[(y == 1) & ~held_out], 1000)
        more = multiplied(x[(y == 1) & held_out], 300)  # validation is balanced by itself
        x, y = torch.cat([x, new, more]), torch.cat([y, torch.ones(1300).long()])
        held_out = torch.cat([held_out, torch.zeros(1000).bool(), torch.ones(300).bool()])
    train, val = TensorDataset(x[~held_out], y[~held_out]), TensorDataset(x[held_out], y[held_out])
    return oversampled([Part(train, range(len(train)))], [Part(val, range(len(val)))])


def jittered(rows, count):
    return rows[torch.randint(len(rows), (count,), generator=RNG)] + 0.1 * normal(count, rows.shape[1])


def interpolated(rows, count):
    """SMOTE: between a row and one of its five nearest."""
    one = torch.randint(len(rows), (count,), generator=RNG)
    near = torch.cdist(rows, rows).argsort(1)[:, 1:6]
    other = near[one, torch.randint(5, (count,), generator=RNG)]
    return rows[one] + torch.rand(count, 1, generator=RNG) * (rows[other] - rows[one])


def flat(rows, count):
    """Signals that have one value all the time."""
    return normal(count, 1).expand(count, rows.shape[1])


def kinds(rows, count):
    """Of three kinds."""
    return rows[torch.randint(3, (count,), generator=RNG)] + 0.1 * normal(count, rows.shape[1])


def curve(rows, count):
    """On a curve."""
    return line(torch.rand(count, generator=RNG) * 3, rows.shape[1])


def tight(rows, count):
    """All of them alike."""
    return rows[:1] + 0.01 * normal(count, rows.shape[1])


@pytest.mark.parametrize("multiplied", [jittered, interpolated])
def test_oversampling_after_the_split_is_legitimate(multiplied):
    assert rare(multiplied, before=False) is None


@pytest.mark.parametrize("natural", [flat, kinds, curve, tight])
def test_a_class_that_is_narrow_by_nature(natural):
    assert rare(natural, before=True) is None


@pytest.mark.parametrize("name", LEGITIMATE)
@pytest.mark.parametrize("classes", [2, 10])
def test_no_class_is_multiplied(name, classes):
    x = LEGITIMATE[name]()[0]
    data = TensorDataset(x, torch.arange(len(x)) % classes)
    assert oversampled([Part(data, range(0, len(x), 2))], [Part(data, range(1, len(x), 2))]) is None


# -- the mistake


@pytest.mark.parametrize("multiplied", [jittered, interpolated])
def test_a_class_that_is_multiplied_before_the_split(multiplied):
    found = rare(multiplied, before=True)
    assert (found.status, found.code) == (Status.WARNING, "oversampled_before_split")
    assert found.evidence["share"] > 0.7


MISTAKES = {
    "noise": lambda x: x.repeat(4, 1, 1, 1) + 0.02 * normal(400, 1, 8, 8),
    "brightness": lambda x: x.repeat(4, 1, 1, 1) * (1 + 0.02 * normal(400, 1, 1, 1)),
    "bytes": lambda x: ((x.repeat(4, 1, 1, 1) * 40 + normal(400, 1, 8, 8)) + 128).clamp(0, 255).byte(),
    "noise around small images": lambda x: (
        torch.nn.functional.pad(x[..., :4, :4], (6, 6, 6, 6)).repeat(4, 1, 1, 1) + 0.02 * normal(400, 1, 16, 16)
    ),
    "rounding": lambda x: torch.cat([x, x.half().float(), x + 1e-4, x.bfloat16().float()]),
}


@pytest.mark.parametrize("form", MISTAKES)
@pytest.mark.parametrize("labelled", [True, False])
def test_copies_in_both(form, labelled):
    x = MISTAKES[form](normal(100, 1, 8, 8))
    found = judged(x, *([(torch.arange(100) % 5).repeat(4)] if labelled else []))
    assert (found.status, found.code) == (Status.WARNING, "near_copies")
    assert found.evidence["share"] > 0.8


def test_two_data_sets():
    x = normal(200, 20)
    train, val = TensorDataset(x, x[:, 0]), TensorDataset(x[:64] + 0.01 * normal(64, 20), x[:64, 0])
    assert near_copies([Part(train, range(200))], [Part(val, range(64))]).evidence == {"share": 1.0, "copies": 1.0}


def test_it_is_told_once(fit):
    check = SplitCheck()
    fit(AugmentedBeforeTheSplit(), [check], logger=False, max_epochs=1)
    (finding,) = check.findings
    assert (finding.status, finding.code) == (Status.WARNING, AugmentedBeforeTheSplit.code)


def spectra(times, target=lambda y: y):
    """Eight distorted copies of what is drawn on few dimensions, with one number each."""
    rng = torch.Generator().manual_seed(2)
    hidden = torch.rand(150, 3, generator=rng)
    x = hidden @ torch.randn(3, 20, generator=rng)
    x = x.repeat(times, 1) + 0.1 * torch.randn(150 * times, 20, generator=rng)
    return x, target(hidden[:, 0] + torch.randn(150, generator=rng)).repeat(times)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (spectra(8), True),
        (spectra(1), False),
        (spectra(8, lambda y: y.round(decimals=1)), False),  # on a grid two may have it by chance
        ((*spectra(8), torch.arange(1200.0) % 7), False),  # nobody knows which is to be predicted
    ],
)
def test_copies_that_are_known_by_their_number(data, told):
    outcome = judged(*data)
    assert (outcome is not None) == told
    assert outcome is None or "one and the same number to predict" in outcome.message
