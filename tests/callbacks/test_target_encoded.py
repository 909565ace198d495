"""SplitCheck on columns that are made of the labels: as they should be first."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from lightning_recipe.callbacks._target_encoded import target_encoded
from lightning_recipe.trial.stored import Part

N, SPLIT, STREETS = 2400, 1800, 900


def told(code, y, *, apart=False):
    """What is said of a table in which a column stands beside others, of one data set or of two."""
    rng = np.random.default_rng(9)
    x = np.stack([rng.normal(size=N), code, rng.integers(0, 5, N)], 1)
    sides = [slice(0, SPLIT), slice(SPLIT, N)]
    if apart:
        for side in sides:
            x[side] = (x[side] - x[side].mean(0)) / x[side].std(0)
    data = [TensorDataset(torch.tensor(x[s]).float(), torch.tensor(y[s]).float()) for s in sides]
    found = target_encoded(*([Part(one, range(len(one)))] for one in data))
    return None if found is None else (found.code, found.evidence["column"])


def world(*, classes=False, streets=STREETS):
    rng = np.random.default_rng(3)
    street = rng.integers(0, streets, N)
    y = 0.5 * rng.normal(size=streets)[street] + rng.normal(size=N)
    return street, (y > 0).astype(float) if classes else y


def encoded(keys, y, to, weight):
    """The mean of the labels of each category, drawn to that of all."""
    count, total = (np.bincount(keys, of, minlength=STREETS) for of in (None, y))
    return ((total + weight * y.mean()) / np.maximum(count + weight, 1e-9))[to]


def whole(street, y, weight):
    return encoded(street, y, street, weight)


def of_training(street, y, weight):
    return encoded(street[:SPLIT], y[:SPLIT], street, weight)


def out_of_fold(street, y, weight):
    code, fold = of_training(street, y, weight), np.arange(SPLIT) % 5
    for k in range(5):
        rest = np.flatnonzero(fold != k)
        mine = np.flatnonzero(fold == k)
        code[mine] = encoded(street[rest], y[rest], street[mine], weight)
    return code


def known_before(street, y, weight):
    """What categories are like, of other data."""
    del y, weight
    return np.random.default_rng(3).normal(size=STREETS)[street]


def number(street, y, weight):
    del y, weight
    return street.astype(float)


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("code", [of_training, out_of_fold, known_before, number])
def test_no_labels_of_validation(code, apart, classes):
    for streets in (STREETS, 60):
        for weight in (0.0, 0.5):
            street, y = world(classes=classes, streets=streets)
            assert told(code(street, y, weight), y, apart=apart) is None


def test_the_same_label_for_a_category_or_as_many_of_each_class():
    street, _ = world(streets=60)
    assert told(street.astype(float), (street * 7919 % 61).astype(float)) is None
    pairs = np.arange(N) // 40
    assert (
        told(pairs[order := np.random.default_rng(0).permutation(N)].astype(float), (order % 2).astype(float)) is None
    )


@pytest.mark.parametrize("weight", [0.0, 0.2, 3.0])
@pytest.mark.parametrize(("classes", "streets"), [(False, STREETS), (False, 60), (True, STREETS)])
def test_labels_of_validation(weight, classes, streets):
    street, y = world(classes=classes, streets=streets)
    assert told(whole(street, y, weight), y) == ("labels_in_column", 1)


@pytest.mark.parametrize("weight", [0.0, 0.2])
def test_each_side_standardised_by_itself(weight):
    street, y = world()
    assert told(whole(street, y, weight), y, apart=True) == ("labels_in_column", 1)
