"""The classic mistake of each kind of data and its healthy twin: what is drawn tells them apart."""

import math

import numpy as np
import pytest
import torch

from lightning_recipe.figures.canvas import COLOURS, GREY, WRONG, pixels
from lightning_recipe.figures.images import images
from lightning_recipe.figures.inputs import input_card
from lightning_recipe.figures.kinds import recognise
from lightning_recipe.figures.picture import Picture
from lightning_recipe.figures.shapes import TRUE, likeliest
from lightning_recipe.losses.targets import Answers


def card(tensor, answers, **arguments):
    picture = input_card("train x", tensor, recognise(tensor), answers, **arguments)
    assert "not drawn as" not in picture.note
    assert pixels(picture).std() > 0
    return picture


SIDE = 32
CENTRES = torch.tensor([[8.0, 10.0], [20.0, 12.0], [12.0, 22.0], [24.0, 24.0]])  # x, y
GRID = torch.arange(SIDE).float()
DISCS = ((GRID[:, None] - CENTRES[:, 1, None, None]) ** 2 + (GRID - CENTRES[:, 0, None, None]) ** 2 < 16).float()
IMAGES = DISCS[:, None].repeat(1, 3, 1, 1) * 0.8
BOXES = torch.cat([CENTRES - 4, CENTRES + 4], 1)


def places():
    picture = Picture("")
    return [parts[0] for parts in images(picture, IMAGES, recognise(IMAGES), Answers(), (0.0, 1.0))]


def framed(picture, colour=TRUE):
    """The frames of targets, in pixels of their images."""
    found = []
    for line in picture.lines:
        if line.colour == colour and len(line.points) == 5:
            place = next(p for p in places() if p.left <= line.points[0, 0] <= p.right)
            x = (line.points[[0, 2], 0] - place.left) / place.width * SIDE
            y = (line.points[[0, 2], 1] - place.top) / place.height * SIDE
            found.append([x[0], y[0], x[1], y[1]])
    return np.array(found)


def crosses(picture):
    return sum(line.colour == WRONG and len(line.points) == 2 and line.width == 3 for line in picture.lines) // 2


# -- boxes and keypoints


@pytest.mark.parametrize(
    ("targets", "note"),
    [
        (BOXES, "boxes xyxy, pixels"),
        (BOXES / SIDE, "boxes xyxy, 0 to 1"),
        (torch.cat([CENTRES - 4, torch.full((4, 2), 8.0)], 1), "boxes xywh, pixels"),
        (torch.cat([CENTRES, torch.full((4, 2), 8.0)], 1) / SIDE, "boxes cxcywh, 0 to 1"),
        (BOXES[:, None], "boxes xyxy, pixels"),
        (torch.stack([BOXES, torch.zeros(4, 4)], 1), "boxes xyxy, pixels"),
        (torch.stack([BOXES, torch.full((4, 4), -1.0)], 1), "boxes xyxy, pixels"),
        (torch.stack([BOXES, torch.full((4, 4), torch.nan)], 1), "boxes xyxy, pixels"),
    ],
    ids=["xyxy", "shares", "xywh", "cxcywh", "(N, 1, 4)", "padded with 0", "padded with -1", "padded with NaN"],
)
def test_boxes_lie_around_what_they_mark(targets, note):
    box_format = note.split()[1].rstrip(",")
    picture = card(IMAGES, Answers(targets), box_format=None if box_format == "xyxy" else box_format)
    assert picture.note == note
    assert framed(picture) == pytest.approx(BOXES.numpy(), abs=0.5)
    assert not crosses(picture)


def test_boxes_that_were_not_scaled_after_a_resize_leave_the_image():
    picture = card(IMAGES, Answers(BOXES[:, None] * 4))
    assert crosses(picture) == 4
    assert framed(picture).max() <= SIDE + 1, "they end at its edge"


def test_a_flip_of_the_image_alone_puts_boxes_elsewhere():
    flipped = card(IMAGES.flip(3), Answers(BOXES))
    healthy = card(IMAGES, Answers(BOXES))
    for picture, inside in ((healthy, 1), (flipped, 0)):
        place, box = places()[0], framed(picture)[0]
        x, y = (box[:2] + box[2:]) / 2 / SIDE
        at = picture.raster[round(place.top + y * place.height), round(place.left + x * place.width)]
        assert (at > 100).all() == inside


def test_predicted_boxes_are_dashed():
    picture = card(IMAGES, Answers(BOXES, BOXES + 2))
    dashed = [line for line in picture.lines if line.dashed]
    assert len(dashed) == 4
    assert {line.colour for line in dashed} == {WRONG}


def test_predicted_boxes_of_no_size_are_seen():
    said = torch.cat([CENTRES, CENTRES + 0.05], 1)
    assert crosses(card(IMAGES, Answers(BOXES, said))) == 4
    assert not crosses(card(IMAGES, Answers(BOXES, BOXES + 2)))


def test_four_numbers_that_are_no_box_stay_numbers():
    picture = card(IMAGES, Answers(torch.randn(4, 4)))
    assert "boxes" not in picture.note
    assert framed(picture).size == 0


def test_the_format_is_told_by_what_lies_within_the_image():
    random = np.random.default_rng(0)
    corner, size = random.uniform(0, 0.6, (50, 2)), random.uniform(0.05, 0.35, (50, 2))
    assert likeliest(np.concatenate([corner, corner + size], 1) * 64, (64, 64)) == "xyxy"
    assert likeliest(np.concatenate([corner + 0.3, size / 2], 1) * 64, (64, 64)) in {"xywh", "cxcywh"}


@pytest.mark.parametrize(("scale", "unit"), [(1, "pixels"), (4, "pixels"), (1 / SIDE, "0 to 1"), (2 / SIDE, "-1 to 1")])
def test_keypoints_lie_where_they_are_or_beyond_the_image(scale, unit):
    points = torch.stack([CENTRES - 4, CENTRES, CENTRES + 4], 1)
    picture = card(IMAGES, Answers(points * scale - int(unit == "-1 to 1")))
    assert picture.note == f"keypoints, {unit}"
    assert (crosses(picture) > 3) == (scale > 1)
    if scale <= 1:
        first = [line for line in picture.lines if line.colour == COLOURS[1] and len(line.points) == 5]
        centres = [line.points[:4].mean(0) for line in first]
        expected = [
            (p.left + x / SIDE * p.width, p.top + y / SIDE * p.height)
            for p, (x, y) in zip(places(), CENTRES.tolist(), strict=True)
        ]
        assert np.array(centres) == pytest.approx(np.array(expected), abs=0.5)


def test_keypoints_of_two_sides_exchanged_cross_their_line():
    """A horizontal flip without exchanging left and right: colours and the order along the line tell."""
    points = torch.stack([CENTRES - 4, CENTRES, CENTRES + 4], 1)
    colours = []
    for swapped in (points, points.flip(1)):
        picture = card(IMAGES, Answers(swapped))
        dots = [line for line in picture.lines if len(line.points) == 5 and line.colour in COLOURS[:3]]
        colours.append([dot.colour for dot in sorted(dots[:3], key=lambda dot: dot.points[0, 0])])
    assert colours[0] == colours[1][::-1]


# -- the rest, by kind


def lit(picture):
    """Where points of the first cloud are drawn."""
    part = picture.raster[60:180, :300].astype(int)
    return np.argwhere(part.max(-1) < 195)


def test_a_cloud_that_is_not_centred_leaves_the_axes_middle():
    sphere = torch.nn.functional.normalize(torch.randn(4, 600, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    centred, moved = (
        card(points, Answers(), span=(-4.0, 4.0)) for points in (sphere, sphere + torch.tensor([0.0, 0, 3]))
    )
    assert lit(moved)[:, 0].mean() < lit(centred)[:, 0].mean() - 10


def test_a_cloud_viewed_instead_of_transposed_is_no_longer_flat():
    """A disc in x and y; what ``view`` makes of it fills space."""
    disc = torch.randn(4, 300, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1.0, 0.01])
    heights = [np.ptp(lit(card(points, Answers()))[:, 0]) for points in (disc.transpose(1, 2), disc.reshape(4, 3, 300))]
    assert heights[1] > 1.15 * heights[0]


@pytest.mark.parametrize("offset", [0, 1])
def test_edges_are_drawn_between_their_nodes(offset):
    """The classic mistake: edges numbered from 1 connect other nodes, and the last is beyond all."""
    edges = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]) + offset
    reading = recognise(edges, examples=5)
    picture = input_card("train edges", edges, reading, Answers(torch.tensor([0, 1, 0, 1, 2])), nodes=5)
    dots = [line.points.mean(0) for line in picture.lines if line.width == 22]
    lines = [line.points for line in picture.lines if line.colour == GREY and line.width == 2]
    ends = [[int(np.argmin([np.abs(end - dot).sum() for dot in dots])) for end in line] for line in lines]
    assert ends == edges.T.tolist()
    assert picture.words == ["0", "1", "0", "1", "2"]
    assert recognise(edges, examples=4 + offset - 1).kind == "values"


def test_masks_that_were_not_flipped_with_their_image():
    for target, alike in ((DISCS, True), (DISCS.flip(2), False)):
        picture, answers = Picture(""), Answers(target.long())
        ((above, below), *_) = images(picture, IMAGES, recognise(IMAGES), answers, (0.0, 1.0))
        shown, mask = (
            picture.raster[round(b.top) : round(b.bottom), round(b.left) : round(b.right)] for b in (above, below)
        )
        bright, painted = shown[..., 0] > 100, np.ptp(mask.astype(int), axis=-1) > 20
        assert ((bright == painted).mean() > 0.99) == alike


def test_train_and_validation_in_other_units_share_a_scale():
    train, val = IMAGES * 255, IMAGES
    left, top, right, bottom = map(round, places()[0])
    shades = [
        card(values, Answers(), span=(0.0, 255.0)).raster[top:bottom, left:right].max() for values in (train, val)
    ]
    assert shades == [204, 1]


def test_a_sound_at_the_wrong_rate_is_as_long_or_short():
    time = torch.arange(16000) / 16000
    sound = torch.sin(2 * math.pi * 400 * time)[None].repeat(4, 1)
    words = [card(sound, Answers(torch.arange(4)), rate=rate).words for rate in (16000, 48000)]
    assert "1 s" in words[0]
    assert "0.333 s" in words[1]


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_language_model_targets_by_their_shift(shift):
    letters = "the quick brown fox jumps over the lazy dog"
    ids = torch.tensor([[ord(c) for c in letters]])
    target = ids.roll(-shift, 1)
    picture = card(ids[:, :30], Answers(target[:, :30]), decode=bytes_of)
    rows = {name: next(text.y for text in picture.texts if text.text == name) for name in ("input", "true")}
    read = {name: "".join(t.text for t in picture.texts if t.y == y and t.colour != GREY) for name, y in rows.items()}
    clean = {name: text.replace("␣", " ") for name, text in read.items()}
    assert clean["true"].startswith(letters[shift : shift + 9])
    assert clean["input"].startswith(letters[:9])


def bytes_of(ids):
    return bytes(ids).decode()


def test_a_target_among_the_features_is_seen():
    rows, target = torch.rand(40, 3), torch.randn(40) * 3
    picture = card(torch.cat([rows, target[:, None]], 1), Answers(target))
    ticks = {}
    for line in picture.lines:
        ticks.setdefault(round(line.points[0, 1]), set()).add(round(float(line.points[0, 0]), 3))
    (_, *_, leak, true) = (ticks[y] for y in sorted(ticks))
    assert leak == true
    assert picture.words[:5] == ["0", "1", "2", "3 = true", "true"]
    assert "= true" not in " ".join(card(torch.cat([rows, target[:, None] + 1], 1), Answers(target)).words)
    yes = (target > 0).float()
    assert "= true" not in " ".join(card(torch.cat([rows, yes[:, None]], 1), Answers(yes)).words)


def test_the_forecast_that_repeats_the_last_value():
    history = torch.sin(torch.arange(60) / 5.0)[None].repeat(2, 1)
    future = torch.sin(torch.arange(60, 80) / 5.0)[None].repeat(2, 1)
    apart = []
    for said in (history[:, -1:].repeat(1, 20), future):
        picture = card(history, Answers(future, said))
        true, dashed = (
            next(one.points for one in picture.lines if one.colour == c and len(one.points) == 20)
            for c in ("black", WRONG)
        )
        apart.append(np.abs(true - dashed).max())
    assert apart[0] > 20
    assert apart[1] == 0
