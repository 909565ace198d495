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


def leave_one_out(street, y, weight):
    code, mine = of_training(street, y, weight), street[:SPLIT]
    count, total = (np.bincount(mine, of) for of in (None, y[:SPLIT]))
    code[:SPLIT] = (total[mine] - y[:SPLIT] + weight * y.mean()) / np.maximum(count[mine] - 1 + weight, 1)
    return code


def frequency(street, y, weight):
    del y, weight
    return np.bincount(street[:SPLIT], minlength=STREETS)[street].astype(float)


def other_period(street, y, weight):
    """Means of as many labels as training has, drawn again."""
    again = y + np.random.default_rng(5).normal(size=N)
    again = (again > 0.5).astype(float) if len(np.unique(y)) == 2 else again
    return of_training(street, again, weight)


def ordinal(street, y, weight):
    """Grades that go with the label."""
    del street, weight
    return np.rint(10 * y + 4 * np.random.default_rng(5).normal(size=N))


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
@pytest.mark.parametrize("code", [out_of_fold, frequency, other_period, ordinal, known_before, number])
def test_neither_own_labels_nor_those_of_validation(code, apart, classes):
    for streets in (STREETS, 60):
        for weight in (0.0, 0.5):
            street, y = world(classes=classes, streets=streets)
            assert told(code(street, y, weight), y, apart=apart) is None


@pytest.mark.parametrize("classes", [False, True])
def test_means_without_the_own_label(classes):
    street, y = world(classes=classes)
    assert told(leave_one_out(street, y, 0.5), y) is None


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_means_over_many(classes, weight):
    street, y = world(classes=classes, streets=60)
    assert told(of_training(street, y, weight), y) is None


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


def sigmoid(street, y, weight):
    """The more of the category's own the more examples it has, as category_encoders does."""
    del weight
    mine, prior = street[:SPLIT], y[:SPLIT].mean()
    count, total = (np.bincount(mine, of, minlength=STREETS) for of in (None, y[:SPLIT]))
    trust = (count > 1) / (1 + np.exp(-(count - 20) / 10))
    return (trust * total / np.maximum(count, 1) + (1 - trust) * prior)[street]


def automatic(street, y, weight):
    """As scikit-learn does where it is fitted and then transforms the same examples."""
    del weight
    mine, of = street[:SPLIT], y[:SPLIT]
    count, total, squares = (np.bincount(mine, one, minlength=STREETS) for one in (None, of, of**2))
    mean, many = total / np.maximum(count, 1), np.maximum(count, 1)
    trust = of.var() * count / (of.var() * count + np.maximum(squares / many - mean**2, 0) + 1e-12)
    return (trust * mean + (1 - trust) * of.mean())[street]


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize(("code", "weight"), [(of_training, 0.0), (of_training, 2.0), (sigmoid, 0), (automatic, 0)])
def test_own_labels(code, weight, classes, apart):
    street, y = world(classes=classes)
    assert told(code(street, y, weight), y, apart=apart) == ("own_label_in_column", 1)


@pytest.mark.parametrize("streets", [250, 450])
def test_own_labels_of_two_classes_and_more_examples(streets):
    street, y = world(classes=True, streets=streets)
    assert told(of_training(street, y, 1.0), y) == ("own_label_in_column", 1)


def test_own_label_of_one_of_several_classes():
    street, y = world()
    y = np.digitize(y, [-0.5, 0.5])
    assert stored(code=of_training(street, (y == 1) * 1.0, 1.0), label=torch.tensor(y)) == "own_label_in_column"


def stored(**columns):
    """What is said of examples with one number of each kind."""
    columns = {name: torch.as_tensor(values) for name, values in columns.items()}
    rows = [{name: values[i] for name, values in columns.items()} for i in range(N)]
    found = target_encoded([Part(rows, range(SPLIT))], [Part(rows, range(SPLIT, N))])
    return found and found.code


def test_what_the_mean_is_of():
    street, y = world()
    code = of_training(street, y, 1.0)
    assert stored(code=code, label=y) == "own_label_in_column"
    assert stored(code=code[:, None], target=y[:, None]) == "own_label_in_column"
    assert stored(code=code, price=y, label=np.random.default_rng(2).normal(size=N)) is None  # both are inputs


def test_totals_whose_parts_are_predicted():
    parts = np.random.default_rng(0).normal(size=(N // 4, 4))
    assert told(np.repeat(parts.sum(1), 4), parts.reshape(-1)) is None
