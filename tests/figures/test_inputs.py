import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_recipe.figures.canvas import pixels
from lightning_recipe.figures.captions import WRONG, captions
from lightning_recipe.figures.images import BROKEN, IGNORED, PAINTS, layout
from lightning_recipe.figures.inputs import input_card
from lightning_recipe.figures.kinds import Kind, recognise
from lightning_recipe.figures.picture import FONT_SIZE, WIDTH, shortened, text_width, title_of, wrapped
from lightning_recipe.figures.scale import Statistics, span_of, statistics
from lightning_recipe.figures.tokens import padding_id
from lightning_recipe.losses.targets import Answers

NOTHING = Answers()


def card(tensor, answers=NOTHING, **arguments):
    return input_card("train net.x", tensor, recognise(tensor), answers, **arguments)


def raster(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


def labels(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def lines(figure):
    return [path.vertices for collection in figure.axes[0].collections for path in collection.get_paths()]


def shades(values, low=0.0, high=1.0):
    """What black to white make of values."""
    return np.rint(255 * (np.asarray(values, np.float64) - low) / (high - low)).clip(0, 255).astype(np.uint8)


def cell(figure, shape, index=0, count=1, *, parts=1):
    """The pixels of an example, one for each pixel of the tensor."""
    gap = 4
    columns, (height, width) = layout(count, *shape, parts)
    zoom = height // shape[0]
    below = next((15 for text in labels(figure) if text != "class" and parts == 1), 0)
    y, x = (index // columns) * (height + below + gap), (index % columns) * (parts * width + (parts - 1) * 2 + gap)
    return raster(figure)[y : y + height, x : x + width][zoom // 2 :: zoom, zoom // 2 :: zoom]


# -- the pixels drawn are the tensor's pixels


@pytest.mark.parametrize("to", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_grey_images(to):
    images = torch.rand(4, 1, 8, 8).to(to)
    figure = card(images, Answers(torch.arange(4)))
    for i in range(4):
        drawn = cell(figure, (8, 8), i, 4)
        assert (drawn == shades(images[i, 0].double())[..., None]).all()


@pytest.mark.parametrize("layout_", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colour_images_in_either_order(layout_, channels):
    images = torch.rand(4, channels, 12, 12)
    given = images if layout_ == "NCHW" else images.movedim(1, -1)
    figure = card(given)
    for i in range(4):
        assert (cell(figure, (12, 12), i, 4) == shades(images[i, :3].movedim(0, -1))).all()
    assert ("channels 0, 1, 2 of 4 as red, green, blue" in title_of(figure)) == (channels == 4)


def test_bytes_are_drawn_as_they_are():
    images = torch.randint(256, (4, 3, 12, 12), dtype=torch.uint8)
    images[0, 0, 0, 0] = 255
    assert (cell(card(images), (12, 12), 0, 4) == images[0].movedim(0, -1).numpy()).all()


def test_no_sample_is_rescaled_by_itself():
    images = torch.zeros(2, 1, 8, 8)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = 0.1, 1.0
    figure = card(images)
    assert cell(figure, (8, 8), 0, 2)[0, 0, 0] == 26
    assert cell(figure, (8, 8), 1, 2)[0, 0, 0] == 255
    assert "black 0, white 1" in title_of(figure)


def test_what_was_divided_by_255_twice_looks_black():
    figure = card(torch.rand(4, 1, 8, 8) / 255)
    assert cell(figure, (8, 8), 0, 4).max() <= 1


def test_normalised_images_say_what_black_and_white_stand_for():
    images = torch.linspace(-2.117, 2.64, 256).reshape(4, 1, 8, 8)
    figure = card(images)
    assert "black -2.2, white 2.7" in title_of(figure)
    assert (cell(figure, (8, 8), 2, 4)[..., 0] == shades(images[2, 0], -2.2, 2.7)).all()


def test_a_normalisation_is_undone():
    images = torch.rand(4, 3, 8, 8)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    normalised = (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    figure = card(normalised, mean=mean, std=std)
    assert (cell(figure, (8, 8), 1, 4) == shades(images[1].movedim(0, -1))).all()
    assert "black 0, white 1; normalisation undone" in title_of(figure)
    assert f"mean {normalised.mean():.3g}" in title_of(figure), "the numbers are those of what entered the network"
    assert "not undone" in title_of(card(images[:, :1], mean=mean, std=std))
    assert "not undone" not in title_of(card(images[:, :1], mean=[0.5]))


def test_values_beyond_a_given_span_are_said_to_be_clipped():
    assert "beyond is clipped" in title_of(card(torch.rand(4, 1, 8, 8) * 3, span=(0.0, 1.0)))
    assert "clipped" not in title_of(card(torch.rand(4, 1, 8, 8), span=(0.0, 1.0)))


def test_nan_is_seen():
    images = torch.zeros(1, 1, 8, 8)
    images[0, 0, 2, 3] = math.nan
    figure = card(images)
    drawn = cell(figure, (8, 8))
    assert (drawn[2, 3] == BROKEN).all()
    assert (np.delete(drawn.reshape(64, 3), 2 * 8 + 3, axis=0) == 0).all()
    assert "NaN in orange" in title_of(figure)
    assert "NaN 2%" in title_of(figure)


def test_large_images_are_thinned_not_averaged():
    images = (torch.arange(4000)[:, None] % 2 == torch.arange(4000) % 2).float()[None, None]
    figure = card(images)
    assert raster(figure).shape == (350, 350, 3)
    assert set(np.unique(raster(figure))) == {0, 255}, "an average would be grey"
    assert "4000 x 4000 drawn as 350 x 350" in title_of(figure)


def test_flat_images_are_folded_and_that_is_said():
    x = torch.arange(16)
    images = torch.stack([torch.exp(-((x - 4 - i) ** 2) / 20) for i in range(4)])
    images = images[:, :, None] * images.flip(0)[:, None, :]
    figure = card(images.flatten(1))
    assert "flat, read as 16 x 16" in title_of(figure)
    assert (cell(figure, (16, 16), 3, 4)[..., 0] == shades(images[3])).all()


def test_many_channels_name_the_ones_drawn():
    images = torch.rand(4, 13, 12, 12)
    figure = card(images)
    assert "channels 0, 6, 12 of 13 as red, green, blue" in title_of(figure)
    assert (cell(figure, (12, 12), 0, 4) == shades(images[0, [0, 6, 12]].movedim(0, -1))).all()


def test_volumes_name_the_slices_drawn():
    volumes = torch.rand(2, 1, 16, 20, 20)
    figure = card(volumes)
    assert "slices 4, 8, 12 of 16 in dimension 2" in title_of(figure)
    assert (cell(figure, (20, 20), 0, 2, parts=3)[..., 0] == shades(volumes[0, 0, 4])).all()


def test_masks_in_the_colours_of_their_classes():
    masks = torch.randint(4, (4, 16, 16))
    figure = card(masks)
    drawn = cell(figure, (16, 16), 0, 4, parts=1)
    columns, (height, _) = layout(4, 16, 16)
    drawn = raster(figure)[:height, :height][height // 32 :: height // 16, height // 32 :: height // 16]
    for k in range(1, 4):
        assert (drawn[masks[0].numpy() == k] == PAINTS[k - 1]).all()
    assert (drawn[masks[0].numpy() == 0] == 255).all()
    assert labels(figure) == ["class", "0", "1", "2", "3"]
    assert columns == 2


# -- targets


def test_dense_targets_and_predictions_lie_beside_the_image():
    image = torch.zeros(4, 1, 10, 10)
    target, said = torch.zeros(4, 10, 10).long(), torch.zeros(4, 10, 10).long()
    target[:, 2, 3], target[:, 9, 9], said[:, 5, 5] = 1, 255, 2
    figure = card(image, Answers(target, said, ignored=255))
    columns, (height, width) = layout(4, 10, 10, 3)
    zoom = height // 10
    part = [
        raster(figure)[:height, k * (width + 2) : k * (width + 2) + width][zoom // 2 :: zoom, zoom // 2 :: zoom]
        for k in range(3)
    ]
    assert (part[0] == 0).all(), "the input stays as it is"
    assert (part[1][2, 3] == (0.6 * PAINTS[0]).astype(np.uint8)).all()
    assert (part[1][9, 9] == (0.6 * IGNORED).astype(np.uint8)).all()
    assert (part[2][5, 5] == (0.6 * PAINTS[1]).astype(np.uint8)).all()
    assert (part[2] != 0).any(-1).sum() == 1
    assert "left to right: input, target, prediction" in title_of(figure)
    assert labels(figure) == ["class", "0", "1", "ignored"]
    assert columns >= 1


def test_masks_flattened_for_the_loss_are_found():
    target = torch.randint(3, (4, 100))
    assert "input, target" in title_of(card(torch.rand(4, 1, 10, 10), Answers(target)))


def test_images_as_targets_are_images():
    images = torch.rand(4, 1, 10, 10)
    figure = card(images, Answers(1 - images, images))
    _, (height, width) = layout(4, 10, 10, 3)
    zoom = height // 10
    target = raster(figure)[:height, width + 2 : 2 * width + 2][zoom // 2 :: zoom, zoom // 2 :: zoom, 0]
    assert (target == shades(1 - images[0, 0])).all()


def test_labels_below_and_what_is_wrong_stands_out():
    found = captions(Answers(torch.tensor([3, 5]), torch.tensor([3, 8])), 3)
    assert [c.text for c in found] == ["3 | 3", "5 | 8", ""]
    assert [c.colour for c in found] == ["black", WRONG, "black"]


@pytest.mark.parametrize(
    ("target", "prediction", "text"),
    [
        (torch.tensor([0.5]), torch.tensor([0.25]), "0.5 | 0.25"),
        (torch.tensor([[0.5]]), None, "0.5"),
        (torch.tensor([[1.0, 2.0]]), None, "1 2"),
        (torch.tensor([[0, 1, 0, 0, 1]]), torch.tensor([[0, 1, 0, 0, 0]]), "{1,4} | {1}"),
        (torch.tensor([True]), None, "1"),
        (torch.rand(1, 30), None, ""),
        (torch.tensor(3), None, ""),
        (None, None, ""),
        (torch.zeros(1, 0), None, ""),
        (torch.tensor([math.nan]), None, "nan"),
    ],
)
def test_captions(target, prediction, text):
    assert captions(Answers(target, prediction), 1)[0].text == text


# -- what is no picture


def test_lines_run_through_the_values():
    waves = torch.rand(1, 2, 50).cumsum(2)
    figure = card(waves)
    drawn = lines(figure)
    low, high = span_of(statistics(waves), waves.dtype, Kind.SEQUENCE)
    assert len(drawn) == 2
    for feature in range(2):
        down = drawn[feature][:, 1]
        values = low + (high - low) * (down.max() - down) / np.ptp(down) * 1  # up to scale and offset
        assert np.corrcoef(values, waves[0, feature])[0, 1] == pytest.approx(1)
        assert (np.diff(drawn[feature][:, 0]) > 0).all()
    assert f"bottom {low:.4g}, top {high:.4g}" in title_of(figure)
    top, bottom = 15 + 2, 15 + 44 - 2
    first = drawn[0][0, 1]
    assert first == pytest.approx(bottom - (bottom - top) * (float(waves[0, 0, 0]) - low) / (high - low))


def test_a_gap_in_a_line_is_a_gap():
    waves = torch.rand(1, 2, 50)
    waves[0, 0, 20] = math.nan
    assert np.isnan(lines(card(waves))[0][:, 1]).sum() == 1


def test_forecasts_go_on_where_the_input_ends():
    history, future = torch.rand(2, 100).cumsum(1), torch.rand(2, 20)
    figure = card(history, Answers(future, future))
    past, target, said = lines(figure)[:3]
    assert past[-1, 0] < target[0, 0]
    assert len(target) == len(said) == 20
    assert "target black, prediction orange" in title_of(figure)


def test_many_features_are_a_heat_map():
    figure = card(torch.randn(2, 100, 20).cumsum(1))
    assert "20 features downwards, 100 steps rightwards" in title_of(figure)
    assert lines(figure) == []


def test_waveforms_have_their_extremes_and_spectrograms_their_frequency():
    time = torch.arange(8000) / 8000
    sound = 0.5 * torch.sin(2 * math.pi * 1000 * time)[None]
    drawn = raster(card(sound))
    wave, spectrogram = drawn[:44], drawn[44:100]
    inked = np.flatnonzero((wave == (0, 114, 178)).all(-1).any(1))
    assert (inked.min(), inked.max()) == (pytest.approx(11, abs=1), pytest.approx(32, abs=1)), "half of -1 to 1"
    brightest = spectrogram[:, 176].sum(-1).argmax()
    assert brightest == pytest.approx(42, abs=2), "1000 of 4000 Hz is a quarter of the way up"


def test_token_ids_padding_and_labels():
    ids = torch.tensor([[5, 6, 0, 0], [7, 8, 9, 0], [7, 1, 1, 2]])
    figure = card(ids, Answers(torch.tensor([1, 0, 1]), torch.tensor([1, 1, 1])))
    assert labels(figure) == ["1 | 1", "5 6", "0 0", "0 | 1", "7 8 9", "0", "1 | 1", "7 1 1 2"]
    assert "padding 0 in grey, 25%" in title_of(figure)


def test_tokens_are_decoded():
    words = ["<pad>", "the", "cat", "sat", "$x_1$"]
    figure = card(torch.tensor([[1, 2, 3, 4, 4]]), decode=lambda ids: " ".join(words[i] for i in ids))
    assert labels(figure) == ["the cat sat $x_1$ $x_1$"]
    pixels(figure)  # and no formula is made of it

    def broken(ids):
        raise KeyError(ids[0])

    assert "KeyError in decode: 1 2 3 4 4" in labels(card(torch.tensor([[1, 2, 3, 4, 4]]), decode=broken))[0]


def test_token_targets_lie_below_their_inputs():
    ids = torch.tensor([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]])
    figure = card(ids[:, :-1], Answers(ids[:, 1:], ids[:, 1:]))
    assert labels(figure)[:6] == ["input", "1 2 3 4", "target", "2 3 4 5", "said", "2 3 4 5"]


def test_padding():
    assert padding_id(torch.tensor([[5, 1, 1], [2, 3, 4], [7, 8, 1]])) == 1
    assert padding_id(torch.tensor([[1, 1], [1, 1]])) is None, "nothing but one value is no padding"
    assert padding_id(torch.tensor([[1]])) is None
    assert padding_id(torch.tensor([[1, 1, 5, 6, 1], [1, 5, 6, 7, 8]])) is None, "a run at the front only"
    assert padding_id(torch.tensor([[1, 5, 6, 1, 1], [1, 1, 5, 6, 1]])) == 1, "on both sides"
    assert padding_id(torch.tensor([[5, 1, 6, 7, 8], [5, 6, 7, 1, 1]])) is None, "the space of a text that ends in two"


def test_rows_are_a_heat_map_above_the_range_of_each_feature():
    rows = torch.rand(40, 8)
    rows[:, 3] *= 100
    rows[30, 5] = math.nan
    figure = card(rows, Answers(torch.arange(40)))
    bars = lines(figure)
    assert len(bars) == 8
    heights = [np.ptp(bar[:, 1]) for bar in bars]
    assert np.argmax(heights) == 3
    assert labels(figure)[:3] == ["0", "1", "2"]
    assert labels(figure)[-8:] == [str(i) for i in range(8)]
    drawn = raster(figure)
    assert drawn[8, 10].tolist() == drawn[8, 20].tolist(), "one feature, one colour"
    ticks = [round(text.get_position()[0]) + 3 for text in figure.axes[0].texts[-8:]]
    brightest = drawn[:256:16, ticks].astype(int).sum((0, 2)).argmax()
    assert brightest == 3


def test_anything_else_is_a_histogram():
    figure = card(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    assert "histogram of 4 values, peak 3" in title_of(figure)
    drawn = (raster(figure) == (0, 114, 178)).all(-1)
    assert drawn[:160, 3].sum() == 158
    assert drawn[:160, 31 * (WIDTH // 32) + 3].sum() == pytest.approx(158 / 3, abs=1)


# -- titles


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


def test_the_title_carries_it_all():
    images = torch.rand(32, 1, 8, 8)
    title = title_of(card(images, Answers(torch.arange(32))))
    numbers = (
        f"mean {images.mean():.3g}, std {images.std(correction=0):.3g}, min {images.min():.4g}, max {images.max():.4g}"
    )
    assert title.startswith(f"train net.x (32, 1, 8, 8) float32 {numbers}, NaN 0% black 0, white 1; ")
    assert title.endswith("16 of 32 shown; label: target")


def test_a_doubt_is_said():
    assert "also reads as channels-last" in title_of(card(torch.rand(4, 3, 30, 3)))


@pytest.mark.parametrize(
    "name", ["train net.x", "val encoder.blocks[3].attention.query_projection_with_a_long_name" * 3]
)
def test_nothing_is_clipped(name):
    tensor = torch.rand(32, 13, 20, 20) * 1e-7
    figure = input_card(name, tensor, recognise(tensor), Answers(torch.rand(32) * 1e-9, torch.rand(32)))
    image = pixels(figure)
    title = image[: image.shape[0] - raster(figure).shape[0] - 4]
    assert (title[:, :1] == 255).all()
    assert (title[:, -1:] == 255).all()
    assert (title[:3] == 255).all()
    assert (title[-3:] == 255).all()
    assert all(text.get_fontsize() >= 8 for text in figure.axes[0].texts)
    assert all(text.get_fontsize() >= 11 for text in figure.texts)
    assert name.split()[1][-10:] in title_of(figure).replace(" ", "")


@given(st.text(max_size=60), st.integers(30, 350))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_text_fits(text, width):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs that the font lacks
        for line in wrapped(text, width):
            assert text_width(line, FONT_SIZE) <= width or len(line) == 1
        assert "".join("".join(wrapped(text, width)).split(" ")) == "".join(text.split(" "))
        short = shortened(text, width)
        assert text_width(short) <= width or len(short) <= 3


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
        figure = card(HOSTILE[name], ODD["classes"])
        image = pixels(figure)
    assert "not drawn as" not in title_of(figure)
    assert image.shape[1] == WIDTH
    assert image.shape[0] < 900


@pytest.mark.parametrize("answer", ODD)
@pytest.mark.parametrize("shape", [(4, 3, 9, 9), (4, 9), (4, 50, 2), (4, 1, 3000), (4, 9, 9), (4, 1, 4, 9, 9)])
def test_hostile_targets(answer, shape):
    for tensor in (torch.randn(shape), torch.randint(1000, shape)):
        figure = card(tensor, ODD[answer])
        assert "not drawn as" not in title_of(figure)


def test_what_can_not_be_drawn_still_has_values(monkeypatch):
    def crash(*_):
        msg = "boom"
        raise RuntimeError(msg)

    monkeypatch.setattr("lightning_recipe.figures.inputs.images", crash)
    assert "not drawn as images: RuntimeError: boom; histogram of 36 values" in title_of(card(torch.rand(1, 1, 6, 6)))


def test_the_tensor_is_left_as_it_is():
    for tensor in (torch.randn(4, 3, 9, 9), torch.randint(9, (4, 30)), torch.randn(4, 9), torch.randn(4, 1, 3000)):
        before = tensor.clone()
        card(tensor, mean=[0.5], std=[0.5])
        assert torch.equal(tensor, before)
