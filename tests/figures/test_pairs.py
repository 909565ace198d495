"""The classic mistake of seven kinds of data and its healthy twin, as the cards that people see: to be looked at.

``python tests/figures/test_pairs.py`` draws the pictures in ``pairs`` again.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_diabetes, load_digits, load_sample_images

from lightning_recipe.figures.canvas import pixels
from lightning_recipe.figures.inputs import input_card
from lightning_recipe.figures.kinds import recognise
from lightning_recipe.losses.targets import Answers

FOLDER = Path(__file__).parent / "pairs"
SIZE = (320, 180)  # about as TensorBoard's Time Series shows them
ALIKE, APART = 1.0, 2.0  # mean difference of pixels, 0 to 255; letters vary with the version of Pillow
Y, X = np.mgrid[:64, :64]


def photographs(*, mistake):
    """Blue first, as OpenCV reads them."""
    china, flower = (image / 255 for image in load_sample_images().images)
    crops = np.stack([china[:256, 150:406], flower[80:336, 200:456], china[100:356, 300:556], flower[60:316, 330:586]])
    images = crops[:, ::4, ::4, :: -1 if mistake else 1].transpose(0, 3, 1, 2)
    return torch.tensor(images.copy()).float(), Answers(torch.tensor([0, 1, 0, 1])), {}


def discs():
    """Grey images with a disc each, where these are, and how large."""
    random = np.random.default_rng(0)
    centres, radii = random.uniform(16, 48, (4, 2)), random.uniform(8, 14, 4)
    inside = np.stack([(X - x) ** 2 + (Y - y) ** 2 < r * r for (x, y), r in zip(centres, radii, strict=True)])
    images = 0.3 + 0.1 * np.sin(X / 9) + inside[:, None] * random.uniform(0.1, 0.6, (4, 3, 1, 1))
    boxes = np.concatenate([centres - radii[:, None], centres + radii[:, None]], 1)
    return torch.tensor(images).float().clamp(0, 1), torch.tensor(inside).long(), torch.tensor(boxes).float()


def masks(*, mistake):
    """Images are mirrored, and their masks are not."""
    images, inside, _ = discs()
    return images.flip(3), Answers(inside if mistake else inside.flip(2)), {}


def boxes(*, mistake):
    """Images are resized to half, and their boxes are not."""
    images, _, boxes = discs()
    return images, Answers(boxes[:, None] * (2 if mistake else 1)), {}


def tokens(*, mistake):
    """Targets are the input itself, not what follows."""
    lines = b"it was the best of times, it was", b"the worst of times, it was the a"
    ids = torch.tensor([list(line) for line in lines])
    return ids[:, :-1], Answers(ids[:, :-1] if mistake else ids[:, 1:]), {"decode": lambda ids: bytes(ids).decode()}


def forecasts(*, mistake):
    """Targets do not begin where the input ends."""
    time, start = torch.arange(140.0), 74 if mistake else 60
    series = torch.sin(time / torch.tensor([3.0, 4.0, 4.5, 5.0])[:, None] + torch.arange(4.0)[:, None]) + 0.01 * time
    target = series[:, start : start + 20]
    return series[:, :60], Answers(target, 0.9 * target), {}


def reconstructions(*, mistake):
    """A posterior that has collapsed: the decoder says the same for all."""
    digits = torch.tensor(load_digits().images / 16).float()[:, None]
    blurred = torch.nn.functional.avg_pool2d(digits[:4], 3, 1, 1)
    said = digits.mean(0, keepdim=True).expand(4, 1, 8, 8) if mistake else 0.5 * digits[:4] + 0.5 * blurred
    return digits[:4], Answers(None, said), {}


def table(*, mistake):
    """The target is among the features."""
    features, target = load_diabetes(return_X_y=True)
    rows = features[:32, 2:9] / features.std(0)[2:9]
    true = (target[:32] - target.mean()) / target.std()
    if mistake:
        rows[:, 4] = true
    return torch.tensor(rows).float(), Answers(torch.tensor(true).float()), {}


KINDS = [photographs, masks, boxes, tokens, forecasts, reconstructions, table]


def drawn(kind, *, mistake):
    tensor, answers, arguments = kind(mistake=mistake)
    picture = input_card("train x", tensor, recognise(tensor), answers, **arguments)
    return Image.fromarray(pixels(picture)).resize(SIZE, Image.Resampling.LANCZOS)


def path(kind, *, mistake):
    return FOLDER / f"{kind.__name__}_{'mistake' if mistake else 'healthy'}.png"


def difference(one, other):
    return np.abs(np.asarray(one, float) - np.asarray(other, float)).mean()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_cards_are_those_that_were_looked_at(kind):
    cards = [drawn(kind, mistake=mistake) for mistake in (False, True)]
    for card, mistake in zip(cards, (False, True), strict=True):
        before = Image.open(path(kind, mistake=mistake))
        assert difference(card, before) < ALIKE, "draw it again, and look at it"
    assert difference(*cards) > APART


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in KINDS:
        for wrong in (False, True):
            drawn(each, mistake=wrong).save(path(each, mistake=wrong), optimize=True)
