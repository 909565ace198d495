"""Shifted, mirrored and turned images on both sides of a split: legitimate data first, then the mistake."""

import numpy as np
import pytest
import torch
from patients import FEATURES, Healthy
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate, pad
from torch.utils.data import DataLoader, TensorDataset, random_split

from lightning_recipe import SplitCheck, Status
from lightning_recipe.callbacks._shifted_copies import shifted_copies
from lightning_recipe.trial.stored import Part

DIGITS, LABELS = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
DIGITS = DIGITS.float().reshape(-1, 1, 8, 8) / 16


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed))


def drawn(high, count, seed=1):
    return torch.randint(high, (count,), generator=rng(seed))


def judged(*tensors, order=None, train=0.75):
    data = TensorDataset(*tensors)
    order = torch.randperm(len(data), generator=rng(1)).tolist() if order is None else order
    cut = int(train * len(order))
    return shifted_copies([Part(data, order[:cut])], [Part(data, order[cut:])])


def smooth(count, size=16, channels=1):
    """As photographs are."""
    return interpolate(normal(count, channels, 6, 6, seed=3), (size, size), mode="bicubic")


def placed(shapes, count, *, size=24, within=None, noise=0.0, bright=False):  # noqa: PLR0913
    """Shapes, each at a random place of an image."""
    within = size - shapes.shape[-1] if within is None else within
    kinds, rows, columns = drawn(len(shapes), count), drawn(within, count, 2), drawn(within, count, 3)
    images = torch.zeros(count, 1, size, size)
    for image, kind, row, column in zip(images, kinds, rows, columns, strict=True):
        image[:, row : row + shapes.shape[-2], column : column + shapes.shape[-1]] = shapes[kind]
    images *= 1 + torch.rand(count, 1, 1, 1, generator=rng(4)) * bright
    return images + noise * normal(*images.shape, seed=5), kinds


def gratings(count, phases):
    """Waves of eight directions and five lengths."""
    place = torch.arange(16.0)
    angle, length, phase = drawn(8, count) * np.pi / 8, 3 + drawn(5, count, 2), drawn(phases, count, 3) / phases
    along = angle.cos()[:, None, None] * place + angle.sin()[:, None, None] * place[:, None]
    return torch.sin(2 * np.pi * (along / length[:, None, None] + phase[:, None, None]))[:, None], drawn(8, count)


def blobs(count):
    """One each, at any place."""
    centre, place = 4 + 16 * torch.rand(count, 2, generator=rng()), torch.arange(24.0)
    rows, columns = (torch.exp(-((place - centre[:, i, None]) ** 2) / 8) for i in range(2))
    return (rows[:, None, :, None] * columns[:, None, None],)


def cut(texture, count, size=16):
    """Pieces of a picture."""
    rows, columns = (drawn(texture.shape[-1] - size, count, seed) for seed in (1, 2))
    return torch.stack([texture[..., i : i + size, j : j + size] for i, j in zip(rows, columns, strict=True)])


LEGITIMATE = {
    "noise": lambda: (normal(400, 1, 12, 12),),
    "photographs": lambda: (smooth(400, channels=3), drawn(4, 400)),
    "digits": lambda: (DIGITS, LABELS),
    "digits, and noise": lambda: (DIGITS + 0.05 * normal(*DIGITS.shape), LABELS),
    "larger digits": lambda: (interpolate(DIGITS, (20, 20), mode="bilinear"), LABELS),
    "binary": lambda: ((normal(400, 1, 12, 12) > 0).float(),),
    "a square, anywhere": lambda: placed(torch.ones(1, 6, 6), 600),
    "digits of one form, anywhere": lambda: placed(DIGITS[:10, 0], 600),
    "digits of one form, with noise": lambda: placed(DIGITS[:10, 0], 600, noise=0.02),
    "digits of one form, a few places": lambda: placed(DIGITS[:10, 0], 600, size=16, noise=0.02),
    "digits of one form, fewer places": lambda: placed(DIGITS[:10, 0], 600, size=12, noise=0.02),
    "many forms, with noise": lambda: placed(DIGITS[:40, 0], 1200, size=16, noise=0.02),
    "grey patches of one form": lambda: placed(torch.rand(10, 8, 8, generator=rng()), 600, size=16, noise=0.02),
    "grey patches, anywhere": lambda: placed(torch.rand(10, 8, 8, generator=rng()), 600, noise=0.02),
    "grey patches, without noise": lambda: placed(torch.rand(10, 8, 8, generator=rng()), 600),
    "more grey patches": lambda: placed(torch.rand(60, 8, 8, generator=rng()), 1500, size=20, noise=0.02),
    "of any brightness": lambda: placed(DIGITS[:10, 0], 600, bright=True),
    "digits, moved": lambda: placed(DIGITS[:, 0], 1000, size=32, noise=0.02),
    "blobs": lambda: blobs(600),
    "black": lambda: (torch.zeros(400, 1, 12, 12),),
    "dark": lambda: (0.001 * torch.rand(400, 1, 12, 12, generator=rng()),),
    "black, but a few": lambda: (smooth(400) * (drawn(10, 400) == 0)[:, None, None, None],),
    "constant": lambda: (normal(400, 1, 1, 1).expand(400, 1, 12, 12).contiguous(),),
    "stripes": lambda: (normal(400, 1, 1, 12).expand(400, 1, 12, 12).contiguous(),),
    "one texture": lambda: (cut(normal(1, 200, 200), 400),),
    "a repeated texture": lambda: (cut(normal(1, 8, 8).repeat(1, 8, 8), 400),),
    "repeated textures": lambda: (torch.cat([cut(normal(1, 4, 4, seed=i).repeat(1, 8, 8), 20) for i in range(30)]),),
    "repeated textures, and noise": lambda: (
        torch.cat([cut(normal(1, 4, 4, seed=i).repeat(1, 8, 8), 20) for i in range(30)])
        + 0.01 * normal(600, 1, 16, 16),
    ),
    "pieces of other textures": lambda: (
        torch.cat([cut(normal(1, 12, 12, seed=i).repeat(1, 4, 4), 25) for i in range(30)])
        + 0.01 * normal(750, 1, 16, 16),
    ),
    "waves": lambda: gratings(600, 8),
    "waves of any phase": lambda: gratings(600, 10**6),
    "symmetrical": lambda: (smooth(400) + smooth(400).flip(-1),),
    "frames of a class": lambda: (smooth(8).repeat(50, 1, 1, 1) + 0.05 * normal(400, 1, 16, 16), torch.arange(400) % 8),
    "the same, moved": lambda: placed(smooth(8)[:, 0], 400, size=18, within=3, noise=0.02),
    "a video": lambda: (smooth(2)[:1] + normal(400, 1, 1, 1).cumsum(0) * smooth(2)[1:],),
    "copies of another class": lambda: (torch.cat([smooth(200), smooth(200).flip(-1)]), torch.arange(400) // 200),
    "the very same": lambda: (smooth(100).repeat(4, 1, 1, 1),),
    "series": lambda: (normal(400, 30).cumsum(1),),
    "small": lambda: (normal(100, 1, 6, 6).repeat(4, 1, 1, 1) + 0.001 * normal(400, 1, 6, 6),),
    "few": lambda: (torch.cat([smooth(20), smooth(20).flip(-1)]),),
    "not finite": lambda: (normal(400, 1, 12, 12) / 0,),
    "no numbers": lambda: (torch.randint(100, (400, 12, 12), generator=rng()),),
}


@pytest.mark.parametrize("name", LEGITIMATE)
def test_legitimate(name):
    assert judged(*LEGITIMATE[name]()) is None


def noisy_shifts(x):
    shifts = [(0, 0), (1, 0), (-1, 1), (0, -1)]
    return torch.cat([x.roll(by, (2, 3)) + 0.02 * normal(*x.shape, seed=i) for i, by in enumerate(shifts)])


MISTAKES = {
    "shifts and noise": noisy_shifts,
    "shifts": lambda x: torch.cat([x, x.roll((1, -2), (2, 3)), x.roll(-1, 2)]),
    "shifts with black borders": lambda x: torch.cat(
        [x, pad(x[..., :-1, :-2], (2, 0, 1, 0)), pad(x[..., 1:, :], (0, 0, 0, 1))]
    ),
    "mirrored": lambda x: torch.cat([x, x.flip(-1)]),
    "upside down": lambda x: torch.cat([x, x.flip(-2)]),
    "turned by a quarter": lambda x: torch.cat([x, x.rot90(1, (2, 3))]),
    "turned by a half": lambda x: torch.cat([x, x.rot90(2, (2, 3))]),
    "all eight": lambda x: torch.cat([one.rot90(i, (2, 3)) for one in (x, x.flip(-1)) for i in range(4)]),
    "mirrored, with noise": lambda x: torch.cat([x, x.flip(-1) + 0.03 * normal(*x.shape)]),
    "transposed": lambda x: torch.cat([x, x.mT]),
    "bytes": lambda x: (noisy_shifts(x) * 40 + 128).clamp(0, 255).byte(),
    "colours last": lambda x: noisy_shifts(torch.cat([x, x**2, x**3], 1)).movedim(1, -1),
    "not square": lambda x: torch.cat([x, x.flip(-1)])[..., 2:, :],
    "no channels": lambda x: noisy_shifts(x)[:, 0],
}  # fmt: skip


def images(kind):
    return {"noise": normal(200, 1, 16, 16), "photographs": smooth(200), "digits": pad(DIGITS[:200], (2, 2, 2, 2))}[
        kind
    ]


@pytest.mark.parametrize("form", MISTAKES)
@pytest.mark.parametrize("kind", ["noise", "photographs", "digits"])
def test_made_after_the_split_is_legitimate(form, kind):
    x = images(kind)
    train, val = (TensorDataset(MISTAKES[form](part)) for part in (x[:150], x[150:]))
    assert shifted_copies([Part(train, range(len(train)))], [Part(val, range(len(val)))]) is None


# -- the mistake


@pytest.mark.parametrize("form", MISTAKES)
@pytest.mark.parametrize("kind", ["noise", "photographs"])
@pytest.mark.parametrize("labelled", [True, False])
def test_copies_in_both(form, kind, labelled):
    x = MISTAKES[form](images(kind))
    found = judged(x, *([(torch.arange(200) % 5).repeat(len(x) // 200)] if labelled else []))
    assert (found.status, found.code) == (Status.WARNING, "near_copies")
    assert found.evidence["share"] >= 0.5


def test_pairs_are_of_one_image():
    found = judged(MISTAKES["shifts and noise"](smooth(200)))
    assert all(match.train.index % 200 == match.val.index % 200 for match in found.matches)


class ShiftedBeforeTheSplit(Healthy):
    """Each image is there four times, shifted and with a little noise, and then the whole is split."""

    def forward(self, x):
        return super().forward(x.flatten(1)[:, :FEATURES])

    def setup(self, stage):
        x = noisy_shifts(normal(100, 1, 12, 12))
        self.train_set, self.val_set = random_split(
            TensorDataset(x, (torch.arange(100) % 4).repeat(4)), [300, 100], rng()
        )

    def train_dataloader(self):
        return DataLoader(self.train_set, 32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val_set, 32)


def test_it_is_told_once(fit):
    check = SplitCheck()
    fit(ShiftedBeforeTheSplit(), [check], logger=False, max_epochs=1)
    (finding,) = check.findings
    assert (finding.status, finding.code) == (Status.WARNING, "SplitCheck/near_copies")
