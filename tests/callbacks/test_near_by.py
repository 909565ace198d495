"""Slightly changed copies of validation examples among what comes by, or is stored: legitimate data first."""

import numpy as np
import pytest
import torch
from patients import CLASSES, FEATURES, Healthy
from sklearn.datasets import load_digits
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from lightning_recipe import SplitCheck, Status
from lightning_recipe.callbacks import _near_by
from lightning_recipe.callbacks._near_by import NearBy, near_stored
from lightning_recipe.trial.stored import Part


def rng(seed):
    return torch.Generator().manual_seed(seed)


def scenes(n, seed, size=32):
    """Blurred noise in three channels: no two alike."""
    return F.interpolate(torch.rand(n, 3, 7, 7, generator=rng(seed)), (size, size), mode="bicubic")


def flipped(x, seed):
    return torch.where(torch.rand(len(x), 1, 1, 1, generator=rng(seed)) < 0.5, x.flip(-1), x)


def shifted(x, by, seed):
    steps = torch.randint(-by, by + 1, (len(x), 2), generator=rng(seed)).tolist()
    return torch.stack([image.roll((i, j), (1, 2)) for image, (i, j) in zip(x, steps, strict=True)])


def noisy(x, share, seed):
    return x + share * x.std() * torch.randn(x.shape, generator=rng(seed))


def judged(train, val, size=64):
    seen = NearBy()
    for stage, entries in (("train", train), ("validation", val)):
        for batch in zip(*(entry.split(size) for entry in entries), strict=True):
            seen.note(stage, batch, 0)
    return seen.verdict()


def digits():
    order = torch.randperm(1797, generator=rng(0))
    images, labels = (torch.tensor(array)[order] for array in load_digits(return_X_y=True))
    images = images.view(-1, 1, 8, 8).float()
    return (images[:1400], labels[:1400]), (images[1400:], labels[1400:])


def digits_augmented():
    (x, y), val = digits()
    return (torch.cat([noisy(x, 0.1, seed) for seed in range(3)]), y.repeat(3)), val


def prototypes(count, one, other):
    """Images made of a few, on both sides, with noise of their own."""
    known = scenes(count, 0)
    a, b = (torch.randint(count, (n,), generator=rng(n)) for n in (1000, 300))
    return (noisy(known[a], one, 1), a % 10), (noisy(known[b], other, 2), b % 10)


def frames():
    """Of films, dealt out by chance."""
    cuts = scenes(12, 0)
    weight = torch.linspace(0, 1, 60).view(-1, 1, 1, 1)
    film = torch.cat([a * (1 - weight) + b * weight for a, b in zip(cuts, cuts.roll(1, 0), strict=True)])
    order = torch.randperm(len(film), generator=rng(0))
    return (film[order[:560]],), (film[order[560:]],)


def discrete(values):
    x = torch.randint(values, (1500, 10), generator=rng(0)).float()
    return (x[:1200], x[:1200, 0].long()), (x[1200:], x[1200:, 0].long())


def one_hot():
    x = F.one_hot(torch.randint(40, (900,), generator=rng(0)), 40).float()
    return (x[:600],), (x[600:],)


def windows():
    series = torch.sin(torch.arange(3000) / 4) + 0.01 * torch.randn(3000, generator=rng(0))
    rows = series.unfold(0, 24, 1)[torch.randperm(2977, generator=rng(1))]
    return (rows[:2400],), (rows[2400:],)


def of_each_year():
    """One row of each house in either year, most of whose features stay."""
    now = torch.randn(600, 20, generator=rng(0))
    later = now.clone()
    later[:, :3] += 0.3 * torch.randn(600, 3, generator=rng(1))
    kind = (now[:, 5] > 0).long()
    return (now, kind), (later, kind)


def texts(n, seed, length):
    words = np.random.default_rng(seed).zipf(1.3, (n, length)) % 3000
    return torch.from_numpy(words)


def templates():
    known = torch.randint(500, (60, 20), generator=rng(0))
    made = []
    for n in (1500, 400):
        x = known[torch.randint(60, (n,), generator=rng(n))].clone()
        x[:, 7] = torch.randint(500, (n,), generator=rng(n + 1))
        made.append((x,))
    return made


def padded():
    return [(texts(n, n, 32) * (torch.arange(32) < torch.randint(3, 32, (n, 1))),) for n in (1500, 400)]


def questions():
    """Several of each image, some of them in validation."""
    x, asked = scenes(200, 0).repeat_interleave(3, 0), torch.randint(500, (600, 12), generator=rng(1))
    held_out = torch.arange(600) % 3 == 2
    return (x[~held_out], asked[~held_out]), (x[held_out], asked[held_out])


LEGITIMATE = {
    "other images": lambda: ((scenes(800, 0),), (scenes(300, 1),)),
    "augmented against clean": lambda: ((noisy(flipped(scenes(800, 0), 2), 0.1, 3),), (scenes(300, 1),)),
    "crops in training only": lambda: ((shifted(scenes(100, 0).repeat(8, 1, 1, 1), 3, 2),), (scenes(300, 1),)),
    "digits": digits,
    "digits, several times with noise": digits_augmented,
    "blank": lambda: tuple((torch.rand(n, 1, 1, 1).expand(-1, 3, 16, 16),) for n in (300, 100)),
    "many blank": lambda: tuple(
        (torch.cat([torch.zeros(60, 3, 32, 32), scenes(n, n)]),) for n in (600, 200)
    ),
    "noise": lambda: tuple((torch.rand(n, 1, 16, 16, generator=rng(n)),) for n in (600, 200)),
    "10 prototypes": lambda: prototypes(10, 0.3, 0),
    "300 prototypes": lambda: prototypes(300, 0.5, 0),
    "300 prototypes, the same noise": lambda: prototypes(300, 0.2, 0.2),
    "frames": frames,
    "questions": questions,
    "zeros and ones": lambda: discrete(2),
    "five values": lambda: discrete(5),
    "one-hot": one_hot,
    "windows": windows,
    "each year": of_each_year,
    "short texts": lambda: ((texts(1500, 0, 12),), (texts(400, 1, 12),)),
    "templates": templates,
    "padded": padded,
    "one beginning": lambda: tuple(
        (torch.cat([torch.arange(20).expand(n, -1), texts(n, n, 20)], 1),) for n in (900, 300)
    ),
    "letters": lambda: tuple((torch.randint(4, (n, 50), generator=rng(n)),) for n in (1500, 400)),
}  # fmt: skip


@pytest.mark.parametrize("name", LEGITIMATE)
def test_legitimate(name):
    train, val = LEGITIMATE[name]()
    assert judged(train, val) is None


X, Y = scenes(1000, 0), torch.arange(1000) % CLASSES


def some_in_both(share, x=X, n=700):
    """Training, and validation of which so much is in training."""
    val = torch.cat([torch.arange(int(share * 300)), torch.arange(n, n + 300 - int(share * 300))])
    return (x[:n], Y[:n]), (x[val], Y[val])


CHANGED = {
    "flipped": lambda x: flipped(x, 1),
    "normalised": lambda x: (x - x.mean((0, 2, 3), keepdim=True)) / torch.tensor([0.2, 0.3, 0.1]).view(3, 1, 1),
    "noise": lambda x: noisy(x, 0.1, 1),
    "contrast": lambda x: flipped(x, 1) * (0.6 + torch.rand(len(x), 1, 1, 1, generator=rng(1))),
    "enlarged": lambda x: F.interpolate(x, (48, 48), mode="bilinear"),
    "channels last": lambda x: x.movedim(1, -1),
    "bytes": lambda x: (x.clamp(0, 1) * 255).byte(),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_images_that_were_changed(name):
    (x, y), val = some_in_both(0.1)
    found = judged((CHANGED[name](x), y), val)
    assert (found.status, found.code) == (Status.WARNING, "near_copies")
    assert 0.08 < found.evidence["share"] < 0.12
    assert 3 * found.evidence["by_chance"] <= found.evidence["share"]


def test_another_label_is_no_copy():
    (x, y), (held_out, own) = some_in_both(0.1)
    assert judged((flipped(x, 1), (y + 1) % CLASSES), (held_out, own)) is None


def test_images_that_were_shifted_are_seen_in_part():
    (x, y), val = some_in_both(0.6)
    found = judged((shifted(flipped(x, 1), 2, 2), y), val)
    assert 0.05 < found.evidence["share"] < 0.6


def test_validation_on_the_training_set_is_meant():
    assert judged((flipped(X, 1), Y), (X, Y)).status is Status.ADVICE


def test_rows_and_texts_that_were_changed():
    table = torch.randn(1000, FEATURES, generator=rng(0))
    (x, y), val = some_in_both(0.2, table)
    assert judged((noisy(x, 0.003, 1), y), val).evidence["copies"] > 40
    (x, y), val = some_in_both(0.3, texts(1000, 0, 32))
    x = x.clone()
    x[:, 5] = 2999
    assert judged((x, y), val).evidence["copies"] > 40


def test_what_came_by_is_kept_in_constant_memory(monkeypatch):
    monkeypatch.setattr(_near_by, "KEPT", 300)
    (x, y), val = some_in_both(0.8)
    seen = NearBy()
    for batch in zip(x.split(50), y.split(50), strict=True):
        seen.note("train", (flipped(batch[0], 1), batch[1]), 0)
        seen.condense(300)
    seen.note("validation", val, 1)
    found = seen.verdict()
    assert max(map(len, seen._kept.values())) <= 300
    assert found.evidence["looked_at"] < 300
    assert found.evidence["share"] > 0.6


def test_ranks_see_together():
    (x, y), val = some_in_both(0.4)
    whole = [NearBy() for _ in range(2)]
    for one, seen in enumerate(whole):
        seen.note("train", (flipped(x, 1)[one::2], y[one::2]), 0)
        seen.note("validation", (val[0][1 - one :: 2], val[1][1 - one :: 2]), 1)
        seen.condense(1000)
    whole[0].join(whole[1])
    assert whole[0].verdict().evidence["copies"] == 120


def test_the_same_alike_on_both_sides_of_what_is_stored():
    class Stored(Dataset):
        def __init__(self, x, y):
            self.data, self.targets = (x.clamp(0, 1) * 255).byte().movedim(1, -1).numpy(), y.tolist()

        def __len__(self):
            return len(self.data)

    (x, y), (held_out, own) = some_in_both(0.1)
    one, other, same = Stored(flipped(x, 1).mul(0.9), y), Stored(held_out, own), Stored(x, y)
    assert near_stored([Part(one, range(700))], [Part(other, range(300))]).evidence["copies"] == 30
    assert near_stored([Part(same, range(700))], [Part(other, range(300))]) is None  # told as the very same


class Files(Dataset):
    """Names of files, of which some hold the same image."""

    def __init__(self, x, y, *, train):
        self.files = [f"{'train' if train else 'val'}/{i:04}_{i * 7919}.png" for i in range(len(x))]
        self._read, self.train = lambda i: (x[i], y[i]), train

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        x, y = self._read(index)
        return (x.flip(-1) if self.train else x) * 2 - 1, y


class OfImages(Healthy):
    def forward(self, x):
        return super().forward(F.adaptive_avg_pool2d(x.mean(1), (3, 4)).flatten(1))


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_files_of_two_folders(fit, share):
    train, val = some_in_both(share)
    loaders = [DataLoader(Files(*part, train=i == 0), 50, shuffle=i == 0) for i, part in enumerate((train, val))]
    check = SplitCheck()
    fit(OfImages(), [check], train=loaders[0], val=loaders[1], logger=False, max_epochs=1)
    (finding,) = check.findings
    assert (finding.status, finding.code) == (
        (Status.WARNING, "SplitCheck/near_copies") if share else (Status.PASSED, finding.code)
    )
