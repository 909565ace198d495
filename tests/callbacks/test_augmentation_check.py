"""Augmentation, seen by reading examples again: legitimate ways first, then the mistakes."""

import random

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from numpy.random import default_rng
from patients import Blobs, Forgets, Healthy, Noisy, TargetNotFlipped, jitter
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from lightning_recipe import AugmentationCheck, Status
from lightning_recipe.callbacks._constant_seed import seeded_alike
from lightning_recipe.callbacks._flips import turns_sign
from lightning_recipe.callbacks._lost_transform import lost
from lightning_recipe.callbacks._several_draws import card
from lightning_recipe.trial.reread import CannotRereadError, read_again, rewritten

RNG = torch.Generator().manual_seed(0)
IMAGES = torch.rand(64, 3, 12, 12, generator=RNG)
POINTS = torch.rand(64, 5, 2, generator=RNG)
BOXES = torch.cat([POINTS * 5, POINTS * 5 + 3], -1)
MASKS = (torch.rand(64, 12, 12, generator=RNG) * 3).long()
CLASSES = torch.arange(64) % 4


class Sees(Healthy):
    """Trains on something else."""

    def training_step(self, batch, batch_idx):
        return self(torch.randn(32, 12)).square().mean()

    def validation_step(self, batch, batch_idx):
        pass


def found(fit, train, val=None, collate=(list, list)):
    """Look at data that nobody trains on."""
    check, module = AugmentationCheck(), Sees()
    loaders = [
        None if data is None else DataLoader(data, 16, collate_fn=how)
        for data, how in zip((train, val), collate, strict=True)
    ]
    settings = {} if val is not None else {"limit_val_batches": 0}
    fit(module, [check], train=loaders[0], val=loaders[1], logger=False, max_steps=1, **settings)
    assert not [f for f in check.findings if f.code.endswith("internal_error")], check.findings
    return check.findings


class Flipped(Dataset):
    """Images that are flipped at random, and what `target` says of them: by index and whether it was flipped."""

    def __init__(self, target, noise=0.0, flip=lambda x: x.flip(-1)):
        self.target, self.noise, self.flip = target, noise, flip

    def __len__(self):
        return 64

    def __getitem__(self, index):
        flipped, image = bool(torch.rand(()) < 0.5), IMAGES[index]
        if flipped:
            image = self.flip(image)
        return {"image": image + self.noise * torch.randn_like(image), **self.target(index, flipped)}


def test_examples_that_are_lists_of_any_length(fit):
    words = [([1, 2, 3, 4, 5][n % 4 :], [float(n)] * (3 - n % 3), n % 4) for n in range(64)]
    assert not [f for f in found(fit, words, words) if f.is_alarm]


@pytest.mark.parametrize(
    ("random", "keep_examples", "cards"),
    [(True, True, ["2.09 AugmentationCheck/draws"]), (True, False, []), (False, True, [])],
)
def test_an_example_is_drawn_several_times_if_it_differs(fit, events, random, keep_examples, cards):
    data = Flipped(lambda i, _: {"label": CLASSES[i]}, flip=(lambda x: x.flip(-1)) if random else (lambda x: x))
    check = AugmentationCheck(keep_examples=keep_examples)
    loader = DataLoader(data, 16, collate_fn=list)
    trainer = fit(Sees(), [check], train=loader, max_steps=1, limit_val_batches=0)
    assert [tag for tag in events(trainer).Tags()["images"] if "Augmentation" in tag] == cards
    assert [finding.status for finding in check.findings] == [Status.PASSED]


def draws(*times):
    return [[{name: torch.as_tensor(leaf) for name, leaf in leaves.items()} for leaves in times]]


def test_draws_that_are_least_like_the_first_are_shown_with_their_targets():
    image, noise = IMAGES[0], [IMAGES[0] + 0.01 * torch.randn(3, 12, 12, generator=RNG) for _ in range(4)]
    times = [{"image": x, "label": i} for i, x in enumerate([image, *noise, image.flip(-1)])]
    assert card([5], draws(*times), None).words[:2] == ["0", "5"]
    assert card([5], draws(*times[:1] * 3), None) is None
    moved = card([5], draws(*({**one, "mask": MASKS[0]} for one in times)), None)
    assert moved.words[:2] == ["input", "true"]


def test_boxes_that_crops_have_left_out_are_not_missed():
    times = [{"image": IMAGES[0] + i / 9, "boxes": BOXES[0, : 3 - i], "labels": torch.zeros(3 - i)} for i in range(3)]
    picture = card([5], draws(*times), None)
    assert picture.note == "boxes xyxy, pixels"


def test_crops_of_all_sizes_and_numbers_have_no_picture():
    assert card([5], draws(*({"image": IMAGES[0][:, : 12 - i]} for i in range(3))), None) is None
    assert card([5], draws({"x": 1.0}, {"x": 2.0}), None) is None


LEGITIMATE = {
    "classes": lambda i, _: {"label": CLASSES[i]},
    "one-hot": lambda i, _: {"label": torch.eye(4)[CLASSES[i]]},
    "a size": lambda i, _: {"size": IMAGES[i].mean()},
    "masks that go with them": lambda i, flipped: {"mask": MASKS[i].flip(-1) if flipped else MASKS[i]},
    "boxes that go with them": lambda i, flipped: {"boxes": 12 - BOXES[i][:, [2, 1, 0, 3]] if flipped else BOXES[i]},
    "the image itself": lambda i, _: {"target": IMAGES[i]},
    "the image itself, in few values": lambda i, _: {"target": (IMAGES[i].mean(0) * 30).round()},
    "a grid": lambda *_: {"grid": torch.arange(144).view(12, 12) % 7},
    "an empty mask": lambda *_: {"mask": torch.zeros(12, 12)},
    "masks that are symmetric": lambda i, _: {"mask": torch.full((12, 12), int(i))},
    "no target": lambda *_: {},
    "text": lambda i, _: {"text": f"image {i}"},
}


@pytest.mark.parametrize("target", LEGITIMATE)
def test_flipped_images_with_legitimate_targets(fit, target):
    data = Flipped(LEGITIMATE[target])
    (finding,) = found(fit, data)
    assert finding.status is Status.PASSED, finding
    assert finding.evidence["random"] >= 1


SOUNDS = torch.rand(64, 12, 32, generator=RNG)
ONSETS = torch.randint(4, 20, (64,), generator=RNG)
FRAMES = torch.stack([(torch.arange(32) >= on) & (torch.arange(32) < on + 8) for on in ONSETS]).float()
DISCS = [
    ((torch.arange(24)[:, None] - 9 - i % 7).square() + (torch.arange(24) - 8 - i % 5).square() < 16).long()
    for i in range(64)
]
WIDE = torch.nn.functional.pad(torch.rand(64, 3, 12, 12, generator=RNG), (6, 6, 6, 6))


class Rolled(Dataset):
    """Spectrograms that are rolled in time, and what `target` says of them: by index and how far."""

    def __init__(self, target, most=32):
        self.target, self.most = target, most

    def __len__(self):
        return 64

    def __getitem__(self, index):
        by = int(torch.randint(self.most, ()))
        return {"mel": SOUNDS[index].roll(by, -1), **self.target(index, by)}


class Cropped(Rolled):
    """Crops of images with a margin."""

    def __getitem__(self, index):
        x, y = torch.randint(12, (2,)).tolist()
        return {"image": WIDE[index, :, y : y + 12, x : x + 12], **self.target(index, (y, x))}


STAYS = {
    "classes": lambda i, _: {"label": CLASSES[i]},
    "frames that go with them": lambda i, by: {"frames": FRAMES[i].roll(by)},
    "one of as many classes as frames": lambda i, _: {"label": torch.eye(32)[i % 32]},
    "an embedding of as many numbers": lambda i, _: {"voice": SOUNDS[i, 0]},
    "weights of all frames": lambda *_: {"weights": FRAMES[0]},
    "as many frames, all alike": lambda i, _: {"frames": torch.full((32,), int(i % 4))},
    "rows, not frames": lambda i, _: {"bands": FRAMES[i, :12]},
    "where it is": lambda _, by: {"place": by},
}


@pytest.mark.parametrize("target", STAYS)
def test_moved_sounds_with_legitimate_targets(fit, target):
    assert found(fit, Rolled(STAYS[target]))[0].status is Status.PASSED


def test_a_jitter_that_labels_may_stand(fit):
    assert found(fit, Rolled(lambda i, _: {"frames": FRAMES[i]}, 3))[0].status is Status.PASSED


def test_crops_with_legitimate_targets(fit):
    def of(i, at):
        return {"mask": WIDE[i, 0, at[0] : at[0] + 12, at[1] : at[1] + 12] > 0.5, "label": CLASSES[i]}

    assert found(fit, Cropped(of))[0].status is Status.PASSED
    assert found(fit, Cropped(lambda i, _: {"whole": (WIDE[i, 0, :13, :13] > 0.5).long()}))[0].status is Status.PASSED


class Spots(Dataset):
    """Noisy images of a spot, of which a crop is taken, in the middle or anywhere, and what `target` says of them."""

    def __init__(self, target, *, anywhere):
        rng = torch.Generator().manual_seed(3)
        self.target, self.anywhere = target, anywhere
        self.at = 9 + 6 * torch.rand(200, 2, generator=rng)
        self.turned = torch.randn(200, generator=rng)
        y, x = torch.arange(24.0)[:, None], torch.arange(24.0)
        down, right = (y - self.at[:, 0, None, None]), (x - self.at[:, 1, None, None])
        spot = (-(down**2 + right**2) / 6).exp()
        self.images = (
            spot + self.turned[:, None, None] * right * spot / 4 + 0.1 * torch.randn(200, 24, 24, generator=rng)
        )

    def __len__(self):
        return 200

    def __getitem__(self, index):
        y, x = torch.randint(9, (2,)).tolist() if self.anywhere else (4, 4)
        return {"image": self.images[index, None, y : y + 16, x : x + 16], **self.target(self, index, (y, x))}


FIXED = {
    "a place that goes with it": lambda data, i, at: {"at": data.at[i] - torch.tensor(at)},
    "which way it is turned": lambda data, i, _: {"angle": data.turned[i]},
    "how bright it is": lambda data, i, _: {"light": data.images[i].mean()},
    "two classes": lambda data, i, _: {"label": (data.turned[i] > 0).float()},
    "joints, from the middle of the body": lambda data, i, _: {"joints": torch.stack([data.turned[i]] * 4)},
}


@pytest.mark.parametrize("target", FIXED)
def test_crops_with_numbers_that_have_no_place(fit, target):
    data = [Spots(FIXED[target], anywhere=anywhere) for anywhere in (True, False)]
    assert found(fit, *data)[0].status is Status.PASSED


@pytest.mark.parametrize("name", ["at", "keypoints"])
def test_coordinates_that_stay_where_they_are(fit, name):
    data = [Spots(lambda d, i, _: {name: d.at[i] - 4}, anywhere=anywhere) for anywhere in (True, False)]
    (finding,) = found(fit, *data)
    assert (finding.status, finding.code) == (Status.WARNING, "AugmentationCheck/target_not_moved")
    assert f"`{name}`" in finding.message


def test_boxes_that_stay_where_they_are(fit):
    (finding,) = found(fit, Cropped(lambda i, _: {"boxes": BOXES[i]}))
    assert (finding.status, finding.code) == (Status.WARNING, "AugmentationCheck/target_not_moved")


def test_a_class_that_is_odd_in_a_mirror_has_no_place():
    y = (torch.arange(100) % 2).float()
    images = torch.rand(100, 1, 8, 8, generator=RNG) + y[:, None, None, None] * torch.linspace(-1, 1, 8)
    assert turns_sign(images, y, "mirrored left to right") == 0


def test_a_number_without_a_place(fit):
    class Brightness(Blobs):
        def __getitem__(self, index):
            x, _ = super().__getitem__(index)
            return x * (1 + index / 100), torch.tensor(index / 100)

    assert found(fit, Brightness(200, 1), Brightness(150, 2, mirrored=False))[0].status is Status.PASSED


def test_noise_in_training_only(fit):
    x, y = Healthy().data(64, 1).tensors
    assert found(fit, Noisy(x, y, jitter), Noisy(x, y))[0].status is Status.PASSED


class Denoising(Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, index):
        return jitter(IMAGES[index]), IMAGES[index]


class Masked(Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, index):
        tokens, hidden = torch.arange(20) + index, torch.rand(20) < 0.2
        return torch.where(hidden, 0, tokens), torch.where(hidden, tokens, -100)


@pytest.mark.parametrize("data", [Denoising(), Masked()], ids=["denoising", "masked tokens"])
def test_noise_is_the_task(fit, data):
    assert found(fit, data, data)[0].status is Status.PASSED


STORED = [
    {"image": image, "points": points, "label": i % 4}
    for i, (image, points) in enumerate(zip(IMAGES, POINTS, strict=True))
]


def stacked(examples):
    return torch.stack([one["image"] for one in examples]), torch.tensor([one["label"] for one in examples])


def with_noise(examples):
    """Noise is the task."""
    images, _ = stacked(examples)
    return images + torch.randn_like(images), images


def with_words_hidden(examples):
    words = torch.stack([one["image"] for one in examples]).flatten(1).mul(9).long()
    hidden = torch.rand(words.shape) < 0.2
    return {"words": words.masked_fill(hidden, 0), "labels": words.where(hidden, -100), "mask": torch.ones_like(words)}


def with_negatives(examples):
    images, labels = stacked(examples)
    return images, labels, torch.randint(64, (len(labels), 20))


def with_latents(examples):
    """A generator is given other random numbers each time."""
    _, labels = stacked(examples)
    return torch.randn(len(labels), 32), labels


def cut_out(examples):
    """One quarter of each image is hidden."""
    images, labels = stacked(examples)
    images = images.clone()
    for image in images:
        row, column = torch.randint(7, (2,)).tolist()
        image[:, row : row + 6, column : column + 6] = 0
    return images, labels


def turned(examples, points):
    """Images are mirrored at random, and their points with them, or not."""
    images = torch.stack([one["image"] for one in examples])
    places = torch.stack([one["points"] for one in examples])
    coins = torch.rand(len(images)) < 0.5
    images = torch.where(coins[:, None, None, None], images.flip(-1), images)
    if points:
        places = torch.where((coins[:, None] & torch.tensor([True, False]))[:, None], 1 - places, places)
    return images, {"keypoints": places}


@pytest.mark.parametrize("both", [with_noise, with_words_hidden, with_negatives, with_latents, stacked])
def test_batches_that_are_made_with_chance_by_design(fit, both):
    (finding,) = found(fit, STORED, STORED, (both, both))
    assert finding.status is Status.PASSED


class Unhashable:
    __hash__ = None

    def __call__(self, examples):
        return stacked(examples)


@pytest.mark.parametrize("train", [cut_out, Unhashable(), lambda examples: turned(examples, points=True)])
def test_training_batches_that_are_augmented(fit, train):
    (finding,) = found(fit, STORED, STORED, (train, stacked))
    assert finding.status is Status.PASSED


def test_test_time_augmentation_is_advice(fit):
    x, y = Healthy().data(64, 1).tensors
    (finding,) = found(fit, Noisy(x, y, jitter), Noisy(x, y, lambda x: jitter(x) + 0))
    assert (finding.status, finding.code) == (Status.ADVICE, "AugmentationCheck/validation_augmented")


class Stream(IterableDataset):
    def __iter__(self):
        return iter([1] * 32)


class Large(Noisy):
    def __init__(self):
        super().__init__(torch.empty(2**27), CLASSES)


class OpenFile(Noisy):
    def __init__(self):
        super().__init__(IMAGES, CLASSES)
        self.file = open(__file__)  # noqa: PTH123, SIM115


class SharedGenerator(Noisy):
    def __init__(self):
        rng = np.random.default_rng(0)
        super().__init__(IMAGES, CLASSES, lambda x: x + rng.random())


@pytest.mark.parametrize("data", [Stream, Large, OpenFile, SharedGenerator])
def test_what_can_not_be_copied_is_not_read(data):
    with pytest.raises(CannotRereadError):
        read_again(data(), [0])


def test_reading_again_leaves_no_trace():
    class Counting(Dataset):
        def __init__(self):
            self.cache, self.count, self.rng, self.paths = {}, 0, np.random.default_rng(0), ["a"] * 300
            self.x = torch.zeros(4)

        def __len__(self):
            return 4

        def __getitem__(self, index):
            self.count += 1
            self.cache[index] = self.rng.random() + torch.rand(()) + np.random.rand()  # noqa: NPY002
            self.paths[index] = "b"
            return self.x.add_(1)[index]

    data, before = Counting(), torch.get_rng_state()
    state = data.rng.bit_generator.state
    assert float(read_again(Subset(data, [2]), [0], 3)[0][-1]) == 3
    assert (data.cache, data.count, float(data.x.sum()), set(data.paths)) == ({}, 0, 0, {"a"})
    assert data.rng.bit_generator.state == state
    assert torch.equal(before, torch.get_rng_state())


def test_a_sparse_tensor_is_copied_too():
    class Graph(Dataset):
        def __init__(self):
            self.edges = torch.eye(300).to_sparse()

        def __len__(self):
            return 300

        def __getitem__(self, index):
            return self.edges.coalesce().indices()[:, index]

    assert read_again(Graph(), [5])[0][0].tolist() == [5, 5]
    assert rewritten(Graph(), [5]) == []


class Keeps(Dataset):
    """Does something to an image that it keeps, in place."""

    def __init__(self, change, images=IMAGES):
        self.change = change
        self.images = images.clone() if isinstance(images, torch.Tensor) else [image.copy() for image in images]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.change(self.images[index])
        return {"image": self.images[index], "label": CLASSES[index]}


class Lazy(Dataset):
    """Keeps what it read once, by index, and does something with it."""

    def __init__(self, cache, use):
        self.cache, self.use = cache, use

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        if isinstance(self.cache, dict) and index not in self.cache:
            self.cache[index] = IMAGES[index].clone(), CLASSES[index]
        elif isinstance(self.cache, list) and self.cache[index] is None:
            self.cache[index] = IMAGES[index].numpy().copy()
        return {"image": self.use(self, index), "label": CLASSES[index]}


def writes_back(data, index):
    image, label = data.cache[index]
    data.cache[index] = image + 0.1 * torch.randn(image.shape), label
    return data.cache[index][0]


class Remembers(Lazy):
    """Keeps the last view of each image, to show it."""

    def __init__(self):
        super().__init__({}, None)
        self.last = {}

    def __getitem__(self, index):
        self.last[index] = IMAGES[index] + 0.1 * torch.randn(IMAGES[index].shape)
        return {"image": self.last[index], "label": CLASSES[index]}


class Caches(Keeps):
    """What was drawn once stays."""

    def __init__(self):
        super().__init__(None, torch.zeros_like(IMAGES))

    def __getitem__(self, index):
        if not self.images[index].any():
            self.images[index] = torch.rand(3, 12, 12)
        return {"image": self.images[index], "label": CLASSES[index]}


class AugmentedOnce(Lazy):
    """The cache keeps what was augmented."""

    def __init__(self, draw=torch.randn):
        super().__init__({}, None)
        self.draw = draw

    def __getitem__(self, index):
        if index not in self.cache:
            self.cache[index] = IMAGES[index] + 0.1 * torch.as_tensor(self.draw(*IMAGES[index].shape))
        return {"image": self.cache[index], "label": CLASSES[index]}


def by_numpy(*shape):
    return np.random.normal(size=shape)  # noqa: NPY002 - as data sets do


@pytest.mark.parametrize("draw", [torch.randn, by_numpy])
def test_what_a_cache_keeps_augmented(fit, draw):
    (finding,) = found(fit, AugmentedOnce(draw))
    assert (finding.status, finding.code) == (Status.ADVICE, "AugmentationCheck/augmented_once")


@pytest.mark.parametrize(
    "data",
    [
        AugmentedOnce(torch.ones),
        Caches(),
        Keeps(lambda x: x.clamp_(max=0.5)),
        Keeps(lambda x: x.copy_(x.flip(-1))),
        Keeps(lambda x: x + torch.rand(())),
        Lazy({}, lambda self, i: self.cache[i][0] + torch.rand(3, 12, 12)),
        Lazy({}, lambda self, i: self.cache[i][0].clamp_(max=0.5)),
        Lazy([None] * 64, lambda self, i: 2 * self.cache[i]),
        Remembers(),
    ],
)
def test_what_data_sets_may_do_to_what_they_keep(fit, data):
    assert {f.code for f in found(fit, data)} == {"AugmentationCheck/passed"}


class Identity(Noisy):
    """Has a transform that it does not call."""

    def __getitem__(self, index):
        return self.x[index], self.y[index]


class CalledByTheLoader(Identity):
    def collated(self, batch):
        return self.transform(torch.stack([x for x, _ in batch]))


class Decides(Noisy):
    """A transform that fails tells what to leave out, and what it draws is drawn."""

    def __getitem__(self, index):
        return self.x[index], self.transform(self.x[index]).mean()


class Switched(Noisy):
    augmented = False

    def __getitem__(self, index):
        return super().__getitem__(index) if self.augmented else (self.x[index], self.y[index])


def in_place(x):
    return x.add_(0)


WITH_A_TRANSFORM = {
    "random": lambda x, y: Noisy(x, y, jitter),
    "the same": lambda x, y: Noisy(x, y, lambda x: x),
    "in place": lambda x, y: Forgets(x.clone(), y, lambda x: x.clamp_(max=0.5)),
    "nothing to do": lambda x, y: Forgets(x, y, in_place),
    "called by others": lambda x, y: CalledByTheLoader(x, y, jitter),
    "switched off": lambda x, y: Switched(x, y, jitter),
    "part of the target": lambda x, y: Decides(x, y, jitter),
    "stored, and does nothing": lambda x, y: Identity(x, y, lambda x: x),
}


@pytest.mark.parametrize("name", WITH_A_TRANSFORM)
def test_transforms_that_are_legitimate(name):
    x, y = Healthy().data(64, 1).tensors
    assert list(lost(WITH_A_TRANSFORM[name](x, y), range(4))) == []


class Seeded(Dataset):
    """What `draw` makes of an image; it is called anew for each."""

    def __init__(self, draw):
        self.draw = draw
        self.rng, self.mask = np.random.RandomState(0), np.random.RandomState(0).rand(12, 12) < 0.5

    def __len__(self):
        return 64

    def __getitem__(self, index):
        image = IMAGES[index].numpy()
        return {"image": self.draw(self, image, index), "clean": image}


def noise(rng, image):
    return image + rng.normal(0, 0.3, image.shape)


def in_both(draw):
    """The trick that image and mask are flipped by: a seed is drawn, and given twice."""

    def drawn(self, image, index):
        seed = random.randint(0, 2**31)
        for _ in range(2):
            random.seed(seed)
            image = draw(image, random.random())
        return image

    return drawn


def drawn_by_torch(image, seed):
    torch.manual_seed(seed)
    return image + torch.randn(image.shape).numpy()


SEEDED_RIGHTLY = {
    "by the index": lambda self, image, i: noise(np.random.RandomState(i), image),
    "by the index, new": lambda self, image, i: noise(np.random.default_rng([7, i]), image),
    "by the index, globally": lambda self, image, i: drawn_by_torch(image, i),
    "by nothing": lambda self, image, i: noise(np.random.default_rng(), image),
    "once": lambda self, image, i: noise(self.rng, image),
    "once, for a mask": lambda self, image, i: image * self.mask,
    "a mask by design": lambda self, image, i: image * (np.random.RandomState(0).rand(12, 12) < 0.5),
    "a permutation by design": lambda self, image, i: image[..., np.random.default_rng(0).permutation(12)],
    "a permutation, globally": lambda self, image, i: torch.manual_seed(0) and image[..., torch.randperm(12).numpy()],
    "a projection into whole numbers": lambda self, image, i: (
        100 * image @ np.random.RandomState(0).normal(size=(12, 12))
    ).astype(int),
    "a projection by design": lambda self, image, i: image @ np.random.RandomState(0).normal(size=(12, 5)),
    "and draws nothing": lambda self, image, i: random.seed(0) or image,
    "and draws for nothing": lambda self, image, i: np.random.RandomState(0).normal() and image,
    "for both": in_both(lambda image, number: image[..., ::-1].copy() if number < 0.5 else image),
}


@pytest.mark.parametrize("draw", SEEDED_RIGHTLY)
def test_seeds_that_are_legitimate(draw):
    assert seeded_alike(Seeded(SEEDED_RIGHTLY[draw]), range(0, 64, 16)) == []


def test_validation_may_be_drawn_from_one_seed(fit):
    (finding,) = found(fit, Flipped(LEGITIMATE["classes"]), Seeded(SEEDED_ALIKE["RandomState"]))
    assert finding.status is Status.PASSED


def test_seeds_leave_no_trace():
    before = [random.seed, np.random.default_rng, torch.Generator, random.getstate(), torch.get_rng_state()]
    names = dict(globals())
    assert seeded_alike(Seeded(SEEDED_ALIKE["imported by name"]), range(4))
    after = [random.seed, np.random.default_rng, torch.Generator, random.getstate()]
    assert before[:-1] == after
    assert torch.equal(before[-1], torch.get_rng_state())
    assert names == globals()


# -- mistakes


def flip_or_not(image, number):
    return image[..., ::-1].copy() if number < 0.5 else image


def crop(image, left):
    return image[..., left : left + 8]


SEEDED_ALIKE = {
    "RandomState": lambda self, image, i: noise(np.random.RandomState(0), image),
    "default_rng": lambda self, image, i: noise(np.random.default_rng(seed=42), image),
    "imported by name": lambda self, image, i: noise(default_rng(42), image),
    "cut off": lambda self, image, i: noise(np.random.RandomState(0), image).clip(0, 1),
    "in bytes": lambda self, image, i: (noise(np.random.RandomState(0), image).clip(0, 1) * 255).astype("uint8"),
    "numpy": lambda self, image, i: np.random.seed(0) or noise(np.random, image),  # noqa: NPY002
    "torch": lambda self, image, i: drawn_by_torch(image, 3),
    "torch.Generator": lambda self, image, i: (
        image + torch.randn(image.shape, generator=torch.Generator().manual_seed(1)).numpy()
    ),
    "random": lambda self, image, i: random.seed(0) or flip_or_not(image, random.random()),
    "random.Random": lambda self, image, i: flip_or_not(image, random.Random(0).random()),
    "a crop": lambda self, image, i: random.seed(1) or crop(image, random.randint(0, 4)),
    "everything": lambda self, image, i: L.seed_everything(0, verbose=False) or noise(np.random, image),
}


@pytest.mark.parametrize("draw", SEEDED_ALIKE)
@pytest.mark.parametrize("part", [lambda data: data, lambda data: Subset(data, range(8, 40))], ids=["all", "a subset"])
def test_the_same_numbers_for_every_example(fit, draw, part):
    told = {f.code: f for f in found(fit, part(Seeded(SEEDED_ALIKE[draw])))}
    assert told["AugmentationCheck/seeded_alike"].status is Status.WARNING
    assert len(told) == 1


class Unused(Dataset):
    def __init__(self, x, y, transform):
        self.x, self.y, self.augment = x, y, transform

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


class Around(Subset):
    """A Subset that knows of transforms."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return self.transform(x), y

    def __getitems__(self, indices):
        return [self[index] for index in indices]


def with_transform(kind, *, below=None):
    data = kind(Augments(*Healthy().data(64, 1).tensors, below), range(9, 60))
    data.transform = jitter
    return data


class Augments(Unused):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return (self.augment(x) if self.augment else x), y


@pytest.mark.parametrize("data", [with_transform(Around), with_transform(Subset, below=jitter)], ids=["own", "both"])
def test_a_subset_that_is_augmented(fit, data):
    assert not [f for f in found(fit, data) if f.code == "AugmentationCheck/transform_without_effect"]


@pytest.mark.parametrize(
    "data", [Forgets, Unused, lambda *a: Subset(Forgets(*a), range(9, 40)), lambda *_: with_transform(Subset)]
)
def test_a_transform_without_effect(fit, data):
    (finding,) = found(fit, data(*Healthy().data(64, 1).tensors, jitter))
    assert (finding.status, finding.code) == (Status.WARNING, "AugmentationCheck/transform_without_effect")


@pytest.mark.parametrize(
    "data",
    [
        Keeps(lambda x: x.add_(0.1 * torch.randn_like(x))),
        Keeps(lambda x: x.div_(255)),
        Keeps(lambda x: x.__imul__(0.5), list(IMAGES.numpy())),
        Subset(Keeps(lambda x: x.sub_(0.5)), range(8, 40)),
        Lazy({}, lambda self, i: self.cache[i][0].add_(0.1 * torch.randn(3, 12, 12))),
        Lazy([None] * 64, lambda self, i: self.cache[i].__imul__(0.9)),
        Lazy({}, writes_back),
    ],
)
def test_a_data_set_that_changes_with_each_reading(fit, data):
    (finding,) = found(fit, data)
    assert (finding.status, finding.code) == (Status.WARNING, "AugmentationCheck/written_into")
    assert finding.subject == (
        "cache" if isinstance(data, Lazy) else "dataset.images" if isinstance(data, Subset) else "images"
    )


def test_workers_read_copies(fit):
    check = AugmentationCheck()
    x, y = Healthy().data(64, 1).tensors
    data = Noisy(x.clone(), y, lambda x: x.add_(torch.randn_like(x)))
    fit(Healthy(), [check], train=DataLoader(data, 16, num_workers=1), logger=False, max_steps=1)
    assert [(f.status, f.code) for f in check.findings] == [(Status.ADVICE, "AugmentationCheck/written_into")]


LEFT_BEHIND = {
    "mask": lambda i, _: {"mask": MASKS[i]},
    "mask with a channel": lambda i, _: {"mask": (MASKS[i] > 0).float()[None]},
    "masks, most of them empty": lambda i, _: {"mask": MASKS[i] * (i < 16)},
    "boxes": lambda i, _: {"target": {"boxes": BOXES[i], "labels": CLASSES[:5]}},
    "points": lambda i, _: {"keypoints": POINTS[i]},
}


@pytest.mark.parametrize("target", LEFT_BEHIND)
@pytest.mark.parametrize("flip", [lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.rot90(1, (-2, -1))])
def test_targets_left_behind(fit, target, flip):
    (finding,) = found(fit, Flipped(LEFT_BEHIND[target], 0.02, flip))
    assert (finding.status, finding.code) == (Status.WARNING, "AugmentationCheck/target_not_flipped")


@pytest.mark.parametrize(
    "data",
    [
        Rolled(lambda i, _: {"frames": FRAMES[i]}),
        Rolled(lambda i, _: {"frames": FRAMES[[i, 63 - i]]}),
        Cropped(lambda i, _: {"mask": MASKS[i]}),
    ],
)
def test_targets_that_stay_where_they_are(fit, data):
    (finding,) = found(fit, data)
    assert (finding.status, finding.code) == (Status.WARNING, "AugmentationCheck/target_not_moved")


@pytest.mark.parametrize(("train", "status"), [(cut_out, Status.WARNING), (stacked, Status.ADVICE)])
def test_validation_batches_that_are_augmented(fit, train, status):
    (finding,) = found(fit, STORED, STORED, (train, cut_out))
    assert (finding.status, finding.code) == (status, "AugmentationCheck/validation_augmented")


def test_batches_whose_images_are_mirrored_alone(fit):
    (finding,) = found(fit, STORED, STORED, (lambda examples: turned(examples, points=False), stacked))
    assert (finding.status, finding.code) == (Status.WARNING, "AugmentationCheck/target_not_flipped")


class OnTheDevice(L.LightningModule):
    """Turns images and masks in the hook for that, or within the step."""

    hook, masks, inputs = True, True, True

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Conv2d(3, 3, 3, padding=1)

    def turned(self, batch):
        quarters = int(torch.randint(4, ()))
        image, mask = (x.rot90(quarters, (-2, -1)) for x in (batch["image"], batch["mask"]))
        return {"image": image if self.inputs else batch["image"], "mask": mask if self.masks else batch["mask"]}

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return self.turned(batch) if self.hook and self.trainer.training else batch

    def training_step(self, batch, batch_idx):
        batch = batch if self.hook else self.turned(batch)
        return torch.nn.functional.cross_entropy(self.net(batch["image"]), batch["mask"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def train_dataloader(self):
        return DataLoader([{"image": IMAGES[i], "mask": MASKS[i]} for i in range(64)], 8)


@pytest.mark.parametrize("hook", [True, False])
@pytest.mark.parametrize("inputs", [True, False])
@pytest.mark.parametrize("masks", [True, False])
def test_images_that_the_module_turns(fit, hook, inputs, masks):
    module, check = OnTheDevice(), AugmentationCheck()
    module.hook, module.inputs, module.masks = hook, inputs, masks
    fit(module, [check], logger=False, max_steps=2, limit_val_batches=0)
    alarms = [f.code.partition("/")[2] for f in check.findings if f.is_alarm]
    alone = (inputs and not masks) or (masks and not inputs and hook)
    assert alarms == (["target_not_flipped"] if alone else [])


def elsewhere(i, _):
    y, x = torch.randint(12, (2,)).tolist()
    return {"mask": DISCS[i][y : y + 12, x : x + 12]}


def test_targets_that_are_cropped_elsewhere(fit):
    (finding,) = found(fit, Cropped(elsewhere))
    assert (finding.status, finding.code) == (Status.WARNING, "AugmentationCheck/target_not_moved")
    with_it = Cropped(lambda i, at: {"mask": DISCS[i][at[0] : at[0] + 12, at[1] : at[1] + 12]})
    assert found(fit, with_it)[0].status is Status.PASSED


def test_pictures_with_channels_last(fit):
    class Arrays(Flipped):
        def __getitem__(self, index):
            return {
                name: np.asarray(x.movedim(0, -1) if x.ndim == 3 else x)
                for name, x in super().__getitem__(index).items()
            }

    (finding,) = found(fit, Arrays(LEFT_BEHIND["mask"]))
    assert finding.code == "AugmentationCheck/target_not_flipped"


def test_a_number_with_a_place(fit):
    check = AugmentationCheck()
    fit(TargetNotFlipped(), [check], logger=False, num_sanity_val_steps=0, max_epochs=1)
    (finding,) = check.findings
    assert (finding.status, finding.code) == (Status.WARNING, "AugmentationCheck/target_not_flipped")
    assert finding.evidence["correlation"] > 0.8


def test_validation_with_the_transform_of_training(fit):
    x, y = Healthy().data(64, 1).tensors
    (finding,) = found(fit, Noisy(x, y, jitter), Noisy(x, y, jitter))
    assert (finding.status, finding.code) == (Status.WARNING, "AugmentationCheck/validation_augmented")


def test_a_data_set_that_is_copied_once_is_judged_by_what_was_read(fit):
    class Once(Keeps):
        copies = 0

        def __deepcopy__(self, memo):
            Once.copies += 1
            if Once.copies > 1:
                msg = "one copy only"
                raise RuntimeError(msg)
            return Keeps(self.change, self.images)

    (finding,) = found(fit, Once(lambda x: None))
    assert finding.status is Status.PASSED, finding


class TurnedPairs(Dataset):
    """Images, and what lies upon them, each turned by `turn`."""

    def __init__(self, turn, second=lambda image, mask: mask):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(40, 1, 8, 8, generator=generator)
        self.masks = (torch.randn(40, 1, 8, 8, generator=generator) > 0).float()
        self.turn, self.second = turn, second

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.turn(self.images[index], self.second(self.images[index], self.masks[index]))


def quarter(x):
    return torch.rot90(x, int(torch.randint(4, ())), (-2, -1))


def together(image, mask):
    return tuple(quarter(torch.cat([image, mask])).split(1))


def apart(image, mask):
    return quarter(image), quarter(mask)


def how_far(image, mask):
    """Two pictures, and by how much the one is turned against the other."""
    one, other = (int(torch.randint(4, ())) for _ in range(2))
    return torch.rot90(image, one, (-2, -1)), torch.rot90(mask, other, (-2, -1)), torch.tensor((one - other) % 4)


@pytest.mark.parametrize(
    ("turn", "second"),
    [
        (together, lambda image, mask: mask),
        (apart, lambda image, mask: image.round(decimals=1)),  # two views of an image
        (apart, lambda image, mask: mask[..., :4]),  # of another size
        (apart, lambda image, mask: torch.zeros_like(mask)),  # nobody can tell
        (how_far, lambda image, mask: mask),
    ],
)
def test_images_that_are_turned_with_their_masks_or_need_none(fit, turn, second):
    assert not [f for f in found(fit, TurnedPairs(turn, second)) if f.is_alarm]


def test_masks_that_are_turned_by_a_draw_of_their_own(fit):
    (finding,) = found(fit, TurnedPairs(apart))
    assert (finding.status, finding.code) == (Status.WARNING, "AugmentationCheck/target_not_flipped")


class Tracks(Dataset):
    """Where something was, and where it goes, seen from its last place; turned at random."""

    def __init__(self, target=lambda past, future, turn: future @ turn, *, turned=True):
        generator = torch.Generator().manual_seed(0)
        speed = torch.randn(80, 1, 2, generator=generator)
        self.tracks = speed * (torch.arange(-7, 5)[:, None] + 0.1 * torch.randn(80, 12, 2, generator=generator))
        self.target, self.turned = target, turned

    def __len__(self):
        return len(self.tracks)

    def __getitem__(self, index):
        angle = torch.rand(()) * 6.28 * self.turned
        turn = torch.stack([torch.stack([angle.cos(), angle.sin()]), torch.stack([-angle.sin(), angle.cos()])])
        past, future = self.tracks[index].split((8, 4))
        return {"past": past @ turn, "future": self.target(past, future, turn)}


@pytest.mark.parametrize(
    ("target", "codes"),
    [
        (lambda past, future, turn: future @ turn, []),
        (lambda past, future, turn: future.amax(0) - future.amin(0), []),  # its size
        (lambda past, future, turn: (past @ turn).norm(dim=1), []),
        (lambda past, future, turn: future, ["AugmentationCheck/target_not_turned"]),
        (lambda past, future, turn: future[-1], ["AugmentationCheck/target_not_turned"]),
    ],
)
def test_tracks_that_are_turned(fit, target, codes):
    assert [f.code for f in found(fit, Tracks(target), Tracks(target, turned=False)) if f.is_alarm] == codes


class HidesRows(Healthy):
    """A hook hides numbers of a batch at random: of training, or by mistake of validation, too."""

    hides = staticmethod(lambda module: module.trainer.training)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return (x * (torch.rand_like(x) > 0.3) if self.hides(self) else x.sub(0.1).clamp(-3, 3)), y


@pytest.mark.parametrize(
    ("hides", "codes"),
    [
        (lambda module: module.trainer.training, ["passed"]),
        (lambda module: module.training, ["passed"]),
        (lambda module: False, ["passed"]),
        (lambda module: True, ["validation_augmented"]),
    ],
)
def test_hooks_that_augment_what_is_validated(fit, hides, codes):
    module, check = HidesRows(), AugmentationCheck()
    module.hides = hides
    fit(module, [check], logger=False)
    assert [f.code.partition("/")[2] for f in check.findings] == codes


def with_offset(change):
    """The place in a crop, counted from where `change` says that it begins: (row, column)."""
    return lambda data, i, at: {"at": data.at[i] - change(torch.tensor(at, dtype=torch.float32))}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda at: at, False),
        (lambda at: 2 * at - 4, False),  # another unit
        (lambda at: at + torch.randn(2), False),
        (lambda at: at.flip(0), True),
        (lambda at: 8 - at, True),
    ],
)
def test_coordinates_that_move_along_the_other_side(fit, change, told):
    data = [Spots(with_offset(one), anywhere=anywhere) for one, anywhere in ((change, True), (lambda at: at, False))]
    alarms = [f.code for f in found(fit, *data) if f.is_alarm]
    assert alarms == ["AugmentationCheck/target_not_moved"] * told


def test_coordinates_in_the_order_of_x_and_y_move_with_their_image(fit):
    data = [
        Spots(lambda d, i, at: {"at": (d.at[i] - torch.tensor(at)).flip(0)}, anywhere=anywhere)
        for anywhere in (True, False)
    ]
    assert found(fit, *data)[0].status is Status.PASSED
