import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_recipe.figures.canvas import HEIGHT, SIZE, TOP, WIDTH, WRONG, pixels, shortened, text_width, wrapped
from lightning_recipe.figures.captions import captions
from lightning_recipe.figures.images import BACKGROUND, BROKEN, IGNORED, PAINTS, images
from lightning_recipe.figures.inputs import input_card, summary
from lightning_recipe.figures.kinds import Kind, recognise
from lightning_recipe.figures.picture import Picture
from lightning_recipe.figures.scale import Statistics, span_of, statistics
from lightning_recipe.figures.sequences import SAID, TRUE
from lightning_recipe.figures.tokens import PALE, padding_id
from lightning_recipe.losses.targets import Answers

NOTHING = Answers()


def card(tensor, answers=NOTHING, **arguments):
    return input_card("train x", tensor, recognise(tensor), answers, **arguments)


def drawn(tensor, answers=NOTHING, span=None):
    """A picture of images, and where they lie."""
    reading, picture = recognise(tensor), Picture("")
    span = span or span_of(statistics(tensor), tensor.dtype, reading.kind)
    return picture, images(picture, tensor, reading, answers, span)


def thumbnail(picture, box, side):
    """The pixels of a thumbnail, one for each pixel of the tensor; marks lie over the raster."""
    left, top, right, bottom = map(round, box)
    part = picture.raster[top:bottom, left:right]
    rows, columns = (((np.arange(side) + 0.5) * n / side).astype(int) for n in part.shape[:2])
    return part[rows][:, columns]


def shades(values, low=0.0, high=1.0):
    """What black to white make of values."""
    return np.rint(255 * (np.asarray(values, np.float64) - low) / (high - low)).clip(0, 255).astype(np.uint8)


def lines(picture, colour):
    return [line.points for line in picture.lines if line.colour == colour]


def is_marked(picture, box):
    """Whether a part of the card is framed as wrong, and crossed."""
    inside = [
        line for line in picture.lines
        if line.colour == WRONG and (line.points >= box[:2]).all() and (line.points <= box[2:]).all()
    ]  # fmt: skip
    return sorted(len(line.points) for line in inside) == [2, 2, 5]


# -- the pixels drawn are the tensor's pixels


@pytest.mark.parametrize("to", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_grey_images(to):
    values = torch.rand(4, 1, 8, 8).to(to)
    picture, boxes = drawn(values, Answers(torch.arange(4)))
    for i, (box,) in enumerate(boxes):
        assert (thumbnail(picture, box, 8) == shades(values[i, 0].double())[..., None]).all()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colour_images_in_either_order(layout, channels):
    values = torch.rand(4, channels, 12, 12)
    picture, boxes = drawn(values if layout == "NCHW" else values.movedim(1, -1))
    for i, (box,) in enumerate(boxes):
        assert (thumbnail(picture, box, 12) == shades(values[i, :3].movedim(0, -1))).all()


def test_exchanged_colours_look_exchanged():
    red = torch.zeros(4, 3, 12, 12)
    red[:, 0] = 1
    for values, colour in ((red, (255, 0, 0)), (red.flip(1), (0, 0, 255))):
        picture, ((box,), *_) = drawn(values)
        assert (thumbnail(picture, box, 12) == colour).all()


def test_bytes_are_drawn_as_they_are():
    values = torch.randint(256, (4, 3, 12, 12), dtype=torch.uint8)
    values[0, 0, 0, 0] = 255
    picture, ((box,), *_) = drawn(values)
    assert (thumbnail(picture, box, 12) == values[0].movedim(0, -1).numpy()).all()


def test_no_example_is_rescaled_by_itself():
    values = torch.zeros(2, 1, 8, 8)
    values[0, 0, 0, 0], values[1, 0, 0, 0] = 0.1, 1.0
    picture, boxes = drawn(values)
    assert [thumbnail(picture, box, 8)[0, 0, 0] for (box,) in boxes] == [26, 255]
    assert card(values).note == "black 0, white 1"


def test_what_was_divided_by_255_twice_looks_black():
    picture, ((box,), *_) = drawn(torch.rand(4, 1, 8, 8) / 255)
    assert thumbnail(picture, box, 8).max() <= 1


def test_normalised_images_say_what_black_and_white_stand_for():
    values = torch.linspace(-2.117, 2.64, 256).reshape(4, 1, 8, 8)
    picture, boxes = drawn(values)
    assert card(values).note == "black -2.2, white 2.7"
    assert {"-2.2", "0", "2.7"} <= set(picture.words), "at the ends of the bar, and where zero is"
    assert (thumbnail(picture, boxes[2][0], 8)[..., 0] == shades(values[2, 0], -2.2, 2.7)).all()


def test_pixels_that_were_normalised_and_those_that_were_not_are_told_apart_by_their_histogram():
    values = torch.rand(4, 1, 8, 8)
    assert {"0", "255"} <= set(drawn(values * 255)[0].words)
    assert {"-2", "0", "1.9"} & set(drawn(values * 3.8 - 1.95)[0].words)


def test_a_normalisation_is_undone():
    values = torch.rand(4, 3, 8, 8)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    normalised = (values - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    undone, expected = card(normalised, mean=mean, std=std), card(values)
    assert np.abs(undone.raster.astype(int) - expected.raster).max() <= 1
    assert undone.note == "black 0, white 1, undone"
    assert "undone" not in card(normalised[:, :1], mean=mean, std=std).note, "their numbers do not fit"
    assert "undone" in card(values[:, :1], mean=[0.5]).note


def test_nan_is_seen():
    values = torch.zeros(1, 1, 8, 8)
    values[0, 0, 2, 3] = math.nan
    picture, ((box,),) = drawn(values)
    shown = thumbnail(picture, box, 8)
    assert (shown[2, 3] == BROKEN).all()
    assert (np.delete(shown.reshape(64, 3), 2 * 8 + 3, axis=0) == 0).all()


def test_large_images_are_thinned_not_averaged():
    values = (torch.arange(4000)[:, None] % 2 == torch.arange(4000) % 2).float()[None, None]
    picture, ((box,),) = drawn(values)
    left, top, right, bottom = map(round, box)
    assert set(np.unique(picture.raster[top:bottom, left:right])) == {0, 255}, "an average would be grey"


def test_flat_images_are_folded():
    x = torch.arange(16)
    values = torch.stack([torch.exp(-((x - 4 - i) ** 2) / 20) for i in range(4)])
    values = values[:, :, None] * values.flip(0)[:, None, :]
    picture, boxes = drawn(values.flatten(1))
    assert (thumbnail(picture, boxes[3][0], 16)[..., 0] == shades(values[3])).all()


def test_of_many_channels_three_are_drawn():
    values = torch.rand(4, 13, 12, 12)
    picture, ((box,), *_) = drawn(values)
    assert (thumbnail(picture, box, 12) == shades(values[0, [0, 6, 12]].movedim(0, -1))).all()


def test_volumes_name_the_slices_drawn():
    volumes = torch.rand(2, 1, 16, 20, 20)
    picture, boxes = drawn(volumes, Answers(torch.tensor([3, 5])))
    assert [word for word in picture.words if "slice" in word] == ["slice 4", "slice 8", "slice 12"]
    assert {"3", "5"} <= set(picture.words)
    for box, depth in zip(boxes[1], (4, 8, 12), strict=True):
        assert (thumbnail(picture, box, 20)[..., 0] == shades(volumes[1, 0, depth])).all()


def test_masks_in_the_colours_of_their_classes():
    masks = torch.randint(4, (4, 16, 16))
    picture, boxes = drawn(masks)
    for i, (box,) in enumerate(boxes):
        shown = thumbnail(picture, box, 16)
        for k, colour in enumerate((BACKGROUND, *PAINTS[:3])):
            assert (shown[masks[i].numpy() == k] == colour).all()
    assert picture.words == ["0", "1", "2", "3"]


def test_a_label_that_is_wrong_is_framed_and_crossed():
    picture, boxes = drawn(torch.rand(4, 1, 8, 8), Answers(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 8, 3])))
    assert [is_marked(picture, box) for (box,) in boxes] == [False, False, True, False]
    assert picture.words[:4] == ["0 ✓", "1 ✓", "2, said 8", "3 ✓"]


# -- targets


def dense(said=None):
    image, target = torch.zeros(4, 1, 10, 10), torch.zeros(4, 10, 10).long()
    target[:, 2, 3], target[:, 9, 9] = 1, 255
    return drawn(image, Answers(target, said, ignored=255))


def test_dense_targets_lie_below_the_image():
    picture, ((above, below), *_) = dense()
    assert (thumbnail(picture, above, 10) == 0).all(), "the input stays as it is"
    assert (thumbnail(picture, below, 10)[2, 3] == (0.6 * PAINTS[0]).astype(np.uint8)).all()
    assert (thumbnail(picture, below, 10)[9, 9] == (0.6 * IGNORED).astype(np.uint8)).all()
    assert picture.words == ["input", "true", "0", "1", "ignored"]


def test_dense_predictions_lie_below_the_targets_and_are_hatched_where_they_are_wrong():
    said = torch.zeros(4, 10, 10).long()
    said[:, 2, 3], said[:, 5, 5] = 1, 2
    picture, ((true, below), *_) = dense(said)
    assert picture.words[:2] == ["true", "said"]
    zoom = round(true.width) // 10
    at = {
        (y, x): picture.raster[round(below.top) + y * zoom :, round(below.left) + x * zoom :][:zoom, :zoom]
        for y, x in ((2, 3), (5, 5), (9, 9))
    }
    orange, blue = (0.6 * PAINTS[1]).astype(np.uint8), (0.6 * PAINTS[0]).astype(np.uint8)
    assert {tuple(p) for p in at[5, 5].reshape(-1, 3)} == {tuple(orange), (0, 0, 0)}, "wrong: every other diagonal"
    assert {tuple(p) for p in at[2, 3].reshape(-1, 3)} == {tuple(blue)}, "right"
    assert {tuple(p) for p in at[9, 9].reshape(-1, 3)} == {(0, 0, 0)}, "ignored: not marked"


def test_masks_flattened_for_the_loss_are_found():
    assert "true" in card(torch.rand(4, 1, 10, 10), Answers(torch.randint(3, (4, 100)))).words


def test_images_as_targets_are_images():
    values = torch.rand(4, 1, 10, 10)
    picture, ((above, true, said), *_) = drawn(values, Answers(1 - values, values))
    assert (thumbnail(picture, above, 10)[..., 0] == shades(values[0, 0])).all()
    assert (thumbnail(picture, true, 10)[..., 0] == shades(1 - values[0, 0])).all()
    assert (thumbnail(picture, said, 10)[..., 0] == shades(values[0, 0])).all()


def test_of_an_autoencoder_input_and_reconstruction_are_drawn():
    values = torch.rand(4, 1, 10, 10)
    picture, ((_, said), *_) = drawn(values, Answers(values, values / 2))
    assert picture.words[:2] == ["input", "said"]
    assert (thumbnail(picture, said, 10)[..., 0] == shades(values[0, 0] / 2)).all()


def test_a_depth_has_a_range_of_its_own():
    depth = torch.rand(4, 1, 10, 10) * 80
    depth[0, 0, 0, :2] = torch.tensor([0.0, 80.0])
    picture, ((_, true), *_) = drawn(torch.rand(4, 1, 10, 10), Answers(depth))
    assert (thumbnail(picture, true, 10)[..., 0] == shades(depth[0, 0], 0, 80)).all()


def test_labels_below_and_what_is_wrong_stands_out():
    found = captions(Answers(torch.tensor([3, 5]), torch.tensor([3, 8])), 3)
    assert [c.text for c in found] == ["3 ✓", "5, said 8", ""]
    assert [c.wrong for c in found] == [False, True, False]
    (ignored,) = captions(Answers(torch.tensor([-100]), torch.tensor([3]), ignored=-100), 1)
    assert (ignored.text, ignored.wrong) == ("-100", False)


@pytest.mark.parametrize(
    ("target", "prediction", "text"),
    [
        (torch.tensor([0.5]), torch.tensor([0.25]), "0.5, said 0.25"),
        (torch.tensor([[0.5]]), None, "0.5"),
        (torch.tensor([[1.0, 2.0]]), None, "1 2"),
        (torch.tensor([[0, 1, 0, 0, 1]]), torch.tensor([[0, 1, 0, 0, 0]]), "{1,4}, said {1}"),
        (torch.tensor([True]), None, "1"),
        (torch.rand(1, 30), None, ""),
        (torch.tensor(3), None, ""),
        (None, None, ""),
        (None, torch.tensor([2]), "said 2"),
        (torch.zeros(1, 0), None, ""),
        (torch.tensor([math.nan]), None, "nan"),
    ],
)
def test_captions(target, prediction, text):
    assert captions(Answers(target, prediction), 1)[0].text == text


# -- what is no picture


def test_lines_run_through_the_values():
    waves = torch.rand(1, 2, 50).cumsum(2)
    picture = card(waves)
    low, high = span_of(statistics(waves), waves.dtype, Kind.SEQUENCE)
    first, second = picture.lines[:2]
    for line, feature in ((first, 0), (second, 1)):
        assert np.corrcoef(-line.points[:, 1], waves[0, feature])[0, 1] == pytest.approx(1)
        assert (np.diff(line.points[:, 0]) > 0).all()
    assert first.colour != second.colour
    assert {"0", "1", "50 steps"} <= set(picture.words)
    assert picture.note == f"{low:.3g} to {high:.3g}"


def test_a_gap_in_a_line_is_a_gap():
    waves = torch.rand(1, 2, 50)
    waves[0, 0, 20] = math.nan
    assert np.isnan(card(waves).lines[0].points[:, 1]).sum() == 1


def test_forecasts_go_on_where_the_input_ends():
    history, future = torch.rand(2, 100).cumsum(1), torch.rand(2, 20)
    picture = card(history, Answers(future, future + 0.1))
    (true, *_), (said, *_) = lines(picture, TRUE), lines(picture, SAID)
    past = picture.lines[0].points
    assert past[-1, 0] < true[0, 0] == said[0, 0]
    assert len(true) == len(said) == 20
    assert {"input", "true", "said"} <= set(picture.words)


def test_a_forecast_from_the_future_is_seen():
    """The classic mistake: the target is the input once more, so the lines lie over each other."""
    history = torch.rand(2, 100).cumsum(1)
    for target, apart in ((history[:, 1:], True), (history.clone(), False)):
        picture = card(history[:, :-1] if apart else history, Answers(target))
        (true, *_) = lines(picture, TRUE)
        past = picture.lines[0].points
        assert (np.abs(true - past[: len(true)]).max() > 1) == apart


def test_quantiles_are_a_fan():
    history, future = torch.rand(2, 100).cumsum(1), torch.rand(2, 20).cumsum(1) + 50
    picture = card(history, Answers(future, future[..., None] + torch.tensor([-8.0, 0.0, 8.0])))
    (said, *_) = lines(picture, SAID)
    x, y = said[10].round().astype(int)
    filled = np.flatnonzero((picture.raster[: HEIGHT // 2, x] == (247, 222, 203)).all(-1))
    assert filled.min() < y < filled.max()
    assert y == pytest.approx((filled.min() + filled.max()) / 2, abs=3)


def test_many_features_are_a_heat_map():
    picture = card(torch.randn(2, 100, 20).cumsum(1))
    assert picture.lines == []
    assert picture.note.startswith("20 features down")


@pytest.mark.parametrize("rate", [None, 8000])
def test_waveforms_have_their_extremes_and_spectrograms_their_frequency(rate):
    time = torch.arange(8000) / 8000
    sound = 0.5 * torch.sin(2 * math.pi * 1000 * time)[None] + 0.1 * torch.sin(2 * math.pi * 2500 * time)
    picture = card(sound, rate=rate)
    inked = np.flatnonzero((picture.raster == (0, 114, 178)).all(-1).any(1))
    paper = (picture.raster[:, 10] == 245).all(-1).sum()
    assert len(inked) / (len(inked) + paper) == pytest.approx(0.6, abs=0.1), "of -1 to 1"
    spectrum = picture.raster[inked.max() + 30 : HEIGHT - 30, WIDTH // 2].sum(-1)
    assert spectrum.max() > 2 * np.median(spectrum)
    assert ("1 s" if rate else "8000 samples") in picture.words
    assert any(("Hz" if rate else "of the rate") in word for word in picture.words)


def test_most_of_a_spectrogram_is_where_the_energy_is():
    time = torch.arange(16000) / 16000
    low = card(torch.sin(2 * math.pi * 300 * time)[None], rate=16000)
    high = card(torch.sin(2 * math.pi * 6000 * time)[None], rate=16000)
    assert any("0 to 498 Hz" in word for word in low.words)
    assert any("0 to 7.5" in word for word in high.words)


def test_token_ids_padding_and_labels():
    ids = torch.tensor([[5, 6, 0, 0], [7, 8, 9, 0], [7, 1, 1, 2]])
    picture = card(ids, Answers(torch.tensor([1, 0, 1]), torch.tensor([1, 1, 1])))
    assert picture.words == ["1 ✓", "5 6", "0 0", "0, said 1", "7 8 9", "0", "1 ✓", "7 1 1 2"]
    assert [text.text for text in picture.texts if text.colour == PALE] == ["0 0", "0"]
    assert picture.note == "grey: padding (0)"


def test_tokens_are_decoded():
    words = ["<pad>", "the", "cat", "sat", "$x_1$"]
    picture = card(torch.tensor([[1, 2, 3, 4, 4]]), decode=lambda ids: " ".join(words[i] for i in ids))
    assert picture.words == ["the cat sat $x_1$ $x_1$"]

    def broken(ids):
        raise KeyError(ids[0])

    assert "KeyError in decode: 1 2 3 4 4" in card(torch.tensor([[1, 2, 3, 4, 4]]), decode=broken).words[0]


def columns(picture, name):
    """Words of the row with that name, by where they begin."""
    row = next(text for text in picture.texts if text.text == name)
    return {text.x: text.text for text in picture.texts if text.y == row.y and text is not row}


@pytest.mark.parametrize("shift", [0, 1])
def test_token_targets_lie_below_their_inputs_so_that_a_shift_is_seen(shift):
    ids = torch.arange(10, 18).repeat(2, 1)
    picture = card(ids[:, :6], Answers(ids[:, shift : 6 + shift]))
    above, below = columns(picture, "input"), columns(picture, "true")
    assert list(above) == list(below), "position below position"
    assert [int(b) - int(a) for a, b in zip(above.values(), below.values(), strict=True)] == [shift] * 6


def test_ignored_targets_are_grey_and_wrong_words_underlined():
    ids, target = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[-100, -100, 3, 4, 5]])
    picture = card(ids, Answers(target, torch.tensor([[1, 7, 3, 9, 5]]), ignored=-100))
    assert [text.text for text in picture.texts if text.colour == PALE] == ["-", "-"]
    assert [text.text for text in picture.texts if text.colour == WRONG] == ["9"]
    (below,) = picture.lines
    wrong = next(text for text in picture.texts if text.text == "9")
    assert below.points[0, 0] == wrong.x


def test_padding():
    assert padding_id(torch.tensor([[5, 1, 1], [2, 3, 4], [7, 8, 1]])) == 1
    assert padding_id(torch.tensor([[1, 1], [1, 1]])) is None, "nothing but one value is no padding"
    assert padding_id(torch.tensor([[1]])) is None
    assert padding_id(torch.tensor([[1, 1, 5, 6, 1], [1, 5, 6, 7, 8]])) is None, "a run at the front only"
    assert padding_id(torch.tensor([[1, 5, 6, 1, 1], [1, 1, 5, 6, 1]])) == 1, "on both sides"
    assert padding_id(torch.tensor([[5, 1, 6, 7, 8], [5, 6, 7, 1, 1]])) is None, "the space of a text that ends in two"


def test_a_column_that_is_not_scaled_makes_all_others_narrow():
    rows = torch.rand(40, 5)
    for scale in (1, 100):
        picture = card(torch.cat([rows, scale * torch.rand(40, 1)], 1))
        ticks = [line.points[0] for line in picture.lines]
        width = {y: max(x for x, top in ticks if top == y) - min(x for x, top in ticks if top == y) for _, y in ticks}
        narrow = min(width.values()) / max(width.values())
        assert (narrow < 0.05) == (scale == 100)


def test_columns_have_their_names_and_constants_and_nan_are_said():
    rows = torch.rand(40, 3)
    rows[:, 1], rows[:10, 2] = 2, math.nan
    picture = card(rows, Answers(torch.rand(40)), names=["age", "country"])
    assert picture.words[0] == "age"
    assert {"country", "always 2", "2", "25% NaN", "true"} <= set(picture.words)


def test_many_columns_are_bars():
    rows = torch.rand(40, 64)
    rows[:, 30] *= 100
    inked = (card(rows).raster != 245).any(-1) & (card(rows).raster != 255).any(-1)
    assert inked.any(0).sum() > WIDTH / 2
    assert inked.sum(0).argmax() == pytest.approx(30.5 / 64 * WIDTH, abs=40)


def test_anything_else_is_a_histogram():
    picture = card(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    assert picture.note == "4 values"
    blue = (picture.raster == (0, 114, 178)).all(-1).sum(0)
    first, last = blue[blue > 0][[0, -1]]
    assert first / last == pytest.approx(3, rel=0.05)


# -- numbers


def test_statistics_against_numpy():
    values = np.random.default_rng(0).normal(3, 2, (16, 3, 9, 9)).astype(np.float32)
    found = statistics(torch.from_numpy(values))
    assert found.mean == pytest.approx(values.mean(), rel=1e-4)
    assert found.std == pytest.approx(values.std(), rel=1e-4)
    assert (found.low, found.high) == (values.min(), values.max())
    values[0, 0, 0, :5], values[0, 0, 1, 0] = np.nan, np.inf
    found = statistics(torch.from_numpy(values))
    finite = values[np.isfinite(values)]
    assert found.mean == pytest.approx(finite.mean(), rel=1e-4)
    assert found.high == finite.max()
    assert (found.nan, found.inf) == (pytest.approx(5 / values.size), pytest.approx(1 / values.size))


def test_statistics_of_a_mask_are_finite():
    found = statistics(torch.full((4, 8, 8), torch.finfo(torch.float32).min).triu(1))
    assert -math.inf < found.mean < 0 < found.std < math.inf


def test_the_summary_carries_it_all():
    values = torch.rand(32, 1, 8, 8)
    values[0, 0, 0, 0] = math.nan
    told = summary("net.x", values, recognise(values), statistics(values))
    assert told.startswith("net.x: images (32, 1, 8, 8), float32, mean 0.")
    assert told.endswith(", NaN below 1%")
    strange = torch.rand(4, 3, 30, 3)
    assert "also reads as channels-last" in summary("x", strange, recognise(strange), statistics(strange))


def test_spans():
    def span(low, high, kind=Kind.IMAGE, dtype=torch.float32):
        return span_of(Statistics(0.0, 1.0, low, high), dtype, kind)

    assert span(0, 0.3) == (0, 1)
    assert span(-0.9, 0.3) == (-1, 1)
    assert span(0, 250) == (0, 255)
    assert span(3, 9, dtype=torch.uint8) == (0, 255)
    assert span(0, 1, dtype=torch.uint8) == (0, 1)
    assert span(0, 16) == (0, 16)
    assert span(0.1, 0.2, Kind.TABULAR) == (0.1, 0.2)
    assert span(-0.2, 0.2, Kind.AUDIO) == (-1, 1)
    assert span(math.nan, math.nan) == (0, 1)


# -- the form


def test_letters_are_legible_where_tensorboard_draws_them():
    """At 185 pixels of height; on a page that is dark, too: white lies behind all."""
    assert SIZE * 185 / HEIGHT >= 9
    assert pytest.approx(16 / 9) == WIDTH / HEIGHT
    image = pixels(card(torch.rand(4, 1, 8, 8), Answers(torch.arange(4))))
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert (image[:, :2] == 255).all()


@pytest.mark.parametrize(
    "name", ["train net.x", "val encoder.blocks[3].attention.query_projection_with_a_long_name" * 3]
)
def test_nothing_is_clipped(name):
    for tensor in (torch.rand(32, 13, 20, 20) * 1e-7, torch.randn(9, 60).cumsum(1), torch.rand(32, 4) * 1e9):
        picture = input_card(name, tensor, recognise(tensor), Answers(torch.rand(32) * 1e-9, torch.rand(32)))
        image = pixels(picture)
        assert (image[:, :1] == 255).all()
        assert (image[:, -2:] == 255).all()
        assert (image[:3] == 255).all()
        assert (image[TOP - 4 : TOP - 2] == 255).all()
        for text in picture.texts:
            wide = text_width(text.text)
            left = text.x - {"l": 0, "m": wide / 2, "r": wide}[text.anchor[0]]
            assert left >= 0, text
            assert left + wide <= WIDTH, text
            assert TOP <= text.y <= HEIGHT, text


@given(st.text(max_size=60), st.integers(30, 350), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_text_fits(text, width, most):
    short = shortened(text, width)
    assert text_width(short) <= width or len(short) <= 3
    made = wrapped(text, width, most)
    assert len(made) <= most
    assert all(text_width(line) <= width or len(line) <= 3 for line in made)


def test_what_the_font_lacks_is_written_as_in_source():
    assert text_width("你") == text_width("\\u4f60")
    assert text_width("é") < text_width("ee")
    assert text_width("\n") == text_width("\\n")


# -- whatever comes


HOSTILE = {
    "one pixel": torch.rand(1, 1, 1, 1),
    "all NaN": torch.full((4, 3, 8, 8), math.nan),
    "all infinite": torch.full((4, 30), math.inf),
    "huge": torch.full((4, 3, 8, 8), 3e38),
    "huge ids": torch.full((4, 9), torch.iinfo(torch.int64).max),
    "negative ids": torch.full((4, 9), -100),
    "no examples": torch.rand(0, 3, 8, 8),
    "no pixels": torch.rand(4, 3, 0, 8),
    "a scalar": torch.tensor(1.0),
    "one row": torch.rand(1, 5),
    "one column": torch.rand(9, 1),
    "very tall": torch.rand(2, 1, 5000, 1),
    "very wide": torch.rand(2, 3, 1, 5000),
    "many rows": torch.rand(3000, 2),
    "a million features": torch.rand(2, 10**6),
    "one step": torch.rand(4, 1, 2),
    "long": torch.rand(2, 3, 50_000).cumsum(2),
    "many channels": torch.rand(2, 3000, 4, 4),
    "sparse": torch.eye(9).to_sparse(),
    "sparse rows": torch.eye(9).to_sparse_csr(),
    "complex": torch.complex(torch.rand(4, 1, 9, 9), torch.rand(4, 1, 9, 9)),
    "nested": torch.nested.nested_tensor([torch.rand(3), torch.rand(4)], layout=torch.jagged),
    "bool": torch.rand(4, 9) > 0.5,
    "bool mask": torch.rand(4, 1, 9, 9) > 0.5,
    "float8": torch.rand(4, 1, 9, 9).to(torch.float8_e4m3fn),
    "6 dimensions": torch.rand(2, 2, 2, 2, 2, 2),
    "expanded": torch.rand(1, 1, 1, 1).expand(4, 3, 9, 9),
    "mask far apart": torch.tensor([0, 10**12]).repeat(4, 8, 4)[:, :, :8],
    "short audio": (torch.rand(2, 2000) - 0.5),
    "empty clip": torch.rand(2, 0, 3, 8, 8),
    "flipped": torch.rand(4, 3, 9, 9).movedim(1, 3),
    "wants gradients": torch.rand(4, 3, 9, 9, requires_grad=True),
}
ODD = {
    "nothing": NOTHING,
    "classes": Answers(torch.arange(4), torch.arange(4)),
    "a million classes": Answers(torch.full((4,), 10**6)),
    "maps": Answers(torch.randint(3, (4, 9, 9)), torch.rand(4, 1, 9, 9)),
    "logits": Answers(torch.rand(4, 1000), torch.rand(2, 1000)),
    "empty": Answers(torch.rand(0), torch.rand(4, 0)),
    "scalar": Answers(torch.tensor(1.0)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tensors(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture = card(HOSTILE[name], ODD["classes"])
        assert pixels(picture).shape == (HEIGHT, WIDTH, 3)
    assert "not drawn as" not in picture.note


@pytest.mark.parametrize("answer", ODD)
@pytest.mark.parametrize("shape", [(4, 3, 9, 9), (4, 9), (4, 50, 2), (4, 1, 3000), (4, 9, 9), (4, 1, 4, 9, 9)])
def test_hostile_targets(answer, shape):
    for tensor in (torch.randn(shape), torch.randint(1000, shape)):
        picture = card(tensor, ODD[answer])
        pixels(picture)
        assert "not drawn as" not in picture.note


def test_what_can_not_be_drawn_still_has_values(monkeypatch):
    def crash(*_):
        msg = "boom"
        raise RuntimeError(msg)

    monkeypatch.setattr("lightning_recipe.figures.inputs.images", crash)
    assert card(torch.rand(1, 1, 6, 6)).note == "not drawn as images: RuntimeError: boom"


def test_the_tensor_is_left_as_it_is():
    for tensor in (torch.randn(4, 3, 9, 9), torch.randint(9, (4, 30)), torch.randn(4, 9), torch.randn(4, 1, 3000)):
        before = tensor.clone()
        card(tensor, mean=[0.5], std=[0.5])
        assert torch.equal(tensor, before)
