"""Loaders that are reloaded: legitimate ways first, then splits that are drawn anew."""

import patients
import pytest
import torch
from patients import Healthy
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_recipe import SplitCheck, Status


def found(fit, module, **settings):
    check = SplitCheck()
    settings = {"max_epochs": 3, "limit_train_batches": 1.0, "reload_dataloaders_every_n_epochs": 1, **settings}
    fit(module, [check], logger=False, **settings)
    assert not [f for f in check.findings if f.code.endswith("internal_error")], check.findings
    return check.findings


class Reloads(Healthy):
    """Makes data sets anew with each reload; which examples they hold is the test's own."""

    def __init__(self):
        super().__init__()
        self.all, self.rng = self.data(320, 1).tensors, torch.Generator().manual_seed(5)
        self.reloads = 0
        self.split()

    def split(self):
        order = torch.randperm(320, generator=self.rng)
        self.train_rows, self.val_rows = order[64:], order[:64]

    def made(self, rows):
        return TensorDataset(*(tensor[rows] for tensor in self.all))

    def train_dataloader(self):
        self.reload()
        return DataLoader(self.made(self.train_rows), 32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.made(self.val_rows), 32)

    def reload(self):
        self.reloads += 1


# -- what is legitimate


class Shuffled(Reloads):
    def reload(self):
        self.train_rows = self.train_rows[torch.randperm(256, generator=self.rng)]


class OneSet(Reloads):
    """Subsets of one data set, the same ones each time."""

    def made(self, rows):
        self.whole = getattr(self, "whole", None) or TensorDataset(*self.all)
        return Subset(self.whole, rows.tolist())


class Rolling(Reloads):
    """What was validated on is trained on later."""

    def split(self):
        self.train_rows, self.val_rows = torch.arange(128), torch.arange(128, 192)

    def reload(self):
        end = 128 + 64 * (self.reloads > 0) + 64 * (self.reloads > 1)
        self.train_rows, self.val_rows = torch.arange(end), torch.arange(end, end + 64)
        super().reload()


class Short(Reloads):
    """Pairs of few numbers, negatives drawn at random for both with each reload: some meet by chance."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(2, patients.CLASSES)

    def made(self, rows):
        x = torch.randint(8, (len(rows), 2), generator=self.rng).float()
        return TensorDataset(x, torch.zeros(len(rows), dtype=torch.long))


@pytest.mark.parametrize("module", [Reloads, Shuffled, OneSet, Rolling, Short])
@pytest.mark.parametrize("sanity", [0, 2])
def test_splits_that_stay(fit, module, sanity):
    findings = found(fit, module(), num_sanity_val_steps=sanity)
    assert not [f for f in findings if f.is_alarm or f.status is Status.ADVICE], findings
    assert len(findings) == 1


class DrawnAnew(Reloads):
    def reload(self):
        self.split()


class OfOneSet(DrawnAnew, OneSet):
    pass


class NewShort(DrawnAnew):
    """Pairs of numbers, all different."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(2, patients.CLASSES)
        self.all = torch.cartesian_prod(torch.arange(20.0), torch.arange(16.0)), self.all[1]


def test_without_reload_the_first_split_is_the_only_one(fit):
    findings = found(fit, DrawnAnew(), num_sanity_val_steps=0, reload_dataloaders_every_n_epochs=0)
    assert {f.status for f in findings} == {Status.PASSED}


def test_a_trial_is_not_judged(fit):
    findings = found(fit, DrawnAnew(), num_sanity_val_steps=0, limit_train_batches=2)
    assert not [f for f in findings if f.is_alarm]


# -- the mistakes


@pytest.mark.parametrize("module", [DrawnAnew, OfOneSet, NewShort])
@pytest.mark.parametrize("every", [1, 2])
def test_splits_that_are_drawn_anew(fit, module, every):
    findings = found(fit, module(), num_sanity_val_steps=0, reload_dataloaders_every_n_epochs=every)
    assert [(f.status, f.code) for f in findings] == [(Status.WARNING, "SplitCheck/split_again")]
    assert findings[0].evidence["share"] > 0.6
    assert findings[0].evidence["epoch"] == every
