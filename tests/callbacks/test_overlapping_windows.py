"""Windows of a series on both sides of a split: legitimate ways first, then the mistake in several forms."""

import numpy as np
import pytest
import torch
from patients import Healthy, WindowsInBoth
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset, random_split

from lightning_recipe import SplitCheck, Status
from lightning_recipe.callbacks._overlapping import neighbours, overlapping
from lightning_recipe.trial.stored import Part

RNG = torch.Generator().manual_seed(0)
SERIES = torch.randn(500, generator=RNG).cumsum(0)
SEVERAL = torch.randn(500, 3, generator=RNG).cumsum(0)
DAY = torch.sin(torch.arange(500) * 2 * torch.pi / 24) + torch.randn(500, generator=RNG)
TOKENS = torch.randint(50, (500,), generator=RNG)


class Windows(Dataset):
    """Cuts windows out of a series, and the value that follows."""

    def __init__(self, series, *, starts=None, every=1, size=24, change=lambda x: x):
        self.series, self.every, self.size, self.change = series, every, size, change
        self.starts = list(range(0, len(series) - size, every)) if starts is None else starts

    def __len__(self):
        return len(self.starts)

    def __getitem__(self, index):
        start = self.starts[index]
        return self.change(self.series[start : start + self.size]), self.series[start + self.size]


class Any(Healthy):
    """Trains on something else."""

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(torch.randn(8, 12)), torch.randn(8, 4))

    def validation_step(self, batch, batch_idx):
        pass


def found(fit, train, val):
    check = SplitCheck()
    fit(Any(), [check], train=DataLoader(train, 8, shuffle=True), val=DataLoader(val, 8), logger=False, max_steps=2)
    assert not [f for f in check.findings if f.code.endswith("internal_error")], check.findings
    return check.findings


def at_random(data):
    return random_split(data, [0.8, 0.2], torch.Generator().manual_seed(0))


def by_time(data):
    cut = int(0.8 * len(data))
    return Subset(data, range(cut)), Subset(data, range(cut, len(data)))


def stored(series, *, size=24):
    windows = series.unfold(0, size + 1, 1)
    return TensorDataset(windows[..., :-1], windows[..., -1])


def waves(n, size=24):
    """Examples of their own, of one period, with phases of their own."""
    phase = torch.rand(n, 1, generator=torch.Generator().manual_seed(0)) * 6.28
    return TensorDataset(torch.sin(torch.arange(size) * 0.3 + phase), phase)


LEGITIMATE = {
    "by time": lambda: by_time(Windows(SERIES)),
    "by time, stored": lambda: by_time(stored(SERIES)),
    "by time, in two data sets": lambda: [Windows(SERIES[:400]), Windows(SERIES[400:])],
    "by time, two data sets of windows": lambda: [stored(SERIES[:400]), stored(SERIES[400:])],
    "windows that do not overlap": lambda: at_random(Windows(SERIES, every=24, size=23)),
    "windows that hardly overlap": lambda: at_random(Windows(SERIES, every=16)),
    "series of their own": lambda: at_random(TensorDataset(torch.randn(200, 24), torch.randn(200))),
    "waves of their own": lambda: at_random(waves(300)),
    "lines": lambda: at_random(TensorDataset(torch.randn(200, 1) * torch.arange(24) + torch.randn(200, 1))),
    "decays": lambda: at_random(TensorDataset(torch.rand(200, 1) * 0.9 ** torch.arange(24))),
    "silence": lambda: at_random(TensorDataset(torch.zeros(200, 24), torch.randn(200))),
    "images": lambda: at_random(TensorDataset(torch.rand(200, 1, 8, 8), torch.arange(200) % 4)),
    "whole series": lambda: [ConcatDataset([Windows(torch.randn(100)) for _ in range(n)]) for n in (4, 2)],
}


@pytest.mark.parametrize("name", LEGITIMATE)
def test_legitimate(fit, name):
    assert {f.status for f in found(fit, *LEGITIMATE[name]())} <= {Status.PASSED, Status.SKIPPED}


def test_text_is_cut_as_one_likes(fit):
    assert {f.status for f in found(fit, Windows(TOKENS[:400]), Windows(TOKENS[400:]))} <= {
        Status.PASSED,
        Status.SKIPPED,
    }
    assert {(f.code, f.status) for f in found(fit, *at_random(Windows(TOKENS)))} == {
        ("SplitCheck/overlapping_windows", Status.ADVICE)
    }


def shuffled(windows):
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    x, y = windows.tensors
    return [TensorDataset(x[part], y[part]) for part in (order[:380], order[380:])]


def starts():
    order = torch.randperm(476, generator=torch.Generator().manual_seed(0)).tolist()
    return [Windows(DAY, starts=part) for part in (order[:380], order[380:])]


FORMS = {
    "cut when read": lambda: at_random(Windows(SERIES)),
    "every fourth": lambda: at_random(Windows(SERIES, every=4)),
    "several channels": lambda: at_random(Windows(SEVERAL)),
    "channels first": lambda: at_random(Windows(SEVERAL, change=lambda x: x.T)),
    "seasonal": lambda: at_random(Windows(DAY)),
    "standardised by themselves": lambda: at_random(Windows(SERIES, change=lambda x: (x - x.mean()) / x.std())),
    "arrays": lambda: at_random(Windows(SERIES.numpy().astype(np.float32))),
    "stored": lambda: at_random(stored(SERIES)),
    "several series": lambda: at_random(ConcatDataset([Windows(SERIES), Windows(DAY)])),
    "shuffled, then split": lambda: shuffled(stored(SERIES)),
    "shuffled, several channels": lambda: shuffled(stored(SEVERAL)),
    "where they begin": starts,
}


@pytest.mark.parametrize("form", FORMS)
def test_windows_in_both(fit, form):
    (finding,) = found(fit, *FORMS[form]())
    assert (finding.status, finding.code) == (Status.WARNING, WindowsInBoth.code), finding
    assert finding.evidence["share"] > 0.6
    assert finding.evidence["overlap"] == pytest.approx(20 / 24 if form == "every fourth" else 23 / 24)


@pytest.mark.parametrize(("features", "told"), [(6, True), (1, False)])
def test_short_windows_of_several_features(features, told):
    series = torch.randn(400, features, generator=torch.Generator().manual_seed(0)).cumsum(0)
    windows = list(series.unfold(0, 2, 1).transpose(1, 2))
    order = torch.randperm(399, generator=torch.Generator().manual_seed(1)).tolist()
    parts = [Part(windows, order[100:])], [Part(windows, order[:100])]
    assert (overlapping(neighbours(*parts)) is not None) == told
    apart = [Part(windows, range(300))], [Part(windows, range(310, 399))]
    assert neighbours(*apart) is None
