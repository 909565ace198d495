import pytest
import torch

from lightning_recipe.figures.kinds import Kind, recognise, roughness

TIME = torch.linspace(0, 12, 200)
WAVES = torch.stack([torch.sin(TIME * (1 + i / 3)) for i in range(8)])


def digits(n=16, side=8):
    """Blobs: smooth in both directions, like handwriting."""
    x = torch.arange(side) - torch.rand(n, 1) * side / 2 - side / 4
    bump = torch.exp(-(x**2) / side)
    return bump[:, :, None] * bump[:, None, :]


@pytest.mark.parametrize(
    ("shape", "kind", "axes"),
    [
        ((16, 1, 28, 28), Kind.IMAGE, "NCHW"),
        ((16, 3, 32, 32), Kind.IMAGE, "NCHW"),
        ((16, 4, 32, 32), Kind.IMAGE, "NCHW"),
        ((16, 32, 32, 3), Kind.IMAGE, "NHWC"),
        ((16, 28, 28), Kind.IMAGE, "NHW"),
        ((16, 13, 64, 64), Kind.BANDS, "NCHW"),
        ((16, 64, 64, 13), Kind.BANDS, "NHWC"),
        ((16, 2, 64, 64), Kind.BANDS, "NCHW"),
        ((2, 1, 16, 32, 32), Kind.VOLUME, "NCDHW"),
        ((2, 16, 3, 32, 32), Kind.VOLUME, "NDCHW"),
        ((2, 16, 32, 32, 3), Kind.VOLUME, "NDHWC"),
        ((2, 32, 32, 32), Kind.VOLUME, "NDHW"),
        ((16, 100, 1), Kind.SEQUENCE, "NTF"),
        ((16, 1, 100), Kind.SEQUENCE, "NFT"),
        ((16, 30), Kind.TABULAR, "NF"),
        ((16, 64), Kind.TABULAR, "NF"),
        ((16, 5000), Kind.TABULAR, "NF"),
        ((16,), Kind.OTHER, ""),
        ((), Kind.OTHER, ""),
        ((2, 2, 2, 2, 2, 2), Kind.OTHER, ""),
        ((0, 3, 8, 8), Kind.OTHER, ""),
        ((4, 3, 0, 8), Kind.OTHER, ""),
    ],
)
def test_noise_is_read_by_its_shape(shape, kind, axes):
    reading = recognise(torch.randn(shape))
    assert (reading.kind, reading.axes) == (kind, axes)


def test_axes_name_every_dimension():
    for shape in [(4, 3, 9, 9), (4, 9, 9, 3), (4, 5, 9, 9), (4, 1, 9, 9, 9), (4, 50, 2), (4, 30), (4, 9, 16, 16)]:
        reading = recognise(torch.randn(shape))
        assert len(reading.axes) == len(shape), reading


def test_time_runs_where_values_are_smooth():
    several = torch.stack([WAVES, WAVES + 3, -WAVES], 1)
    assert recognise(several.repeat(1, 2, 1)).axes == "NFT"
    assert recognise(several.repeat(1, 2, 1).movedim(1, 2)).axes == "NTF"
    assert recognise(torch.randn(8, 50, 60)).doubt == "also reads as (N, feature, time)"


def test_signals_are_no_rows_of_features():
    assert recognise(WAVES).kind is Kind.SEQUENCE
    assert recognise(WAVES[:, torch.randperm(200)]).kind is Kind.TABULAR
    assert recognise(WAVES[:, :64] + 0.05 * torch.randn(8, 64)).kind is Kind.SEQUENCE, "8 x 8, but no image"


def test_flat_images_are_found_by_the_pixels_below():
    flat = digits().flatten(1)
    assert recognise(flat).fold == (8, 8)
    assert "8 x 8" in recognise(flat).doubt
    assert recognise(flat[:, torch.randperm(64)]).fold == ()
    colour = digits(side=16)[:, None].repeat(1, 3, 1, 1).flatten(1)
    assert recognise(colour).fold == (3, 16, 16)
    assert recognise(colour).axes == "NCHW"


@pytest.mark.parametrize("channels", [1, 2])
def test_audio(channels):
    sound = (0.3 * torch.randn(4, channels, 8000)).clamp(-1, 1)
    assert recognise(sound).kind is Kind.AUDIO
    assert recognise(sound[:, 0]).kind is Kind.AUDIO
    assert recognise((sound[:, 0] * 32767).to(torch.int16)).kind is Kind.AUDIO


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.randint(5000, (16, 40)), Kind.TOKENS),
        (torch.randint(5000, (1, 40), dtype=torch.int32), Kind.TOKENS),
        (torch.randint(2, (16, 40)), Kind.TABULAR),  # an attention mask
        (torch.randint(9, (16, 3)), Kind.TABULAR),
        (torch.rand(16, 40) > 0.5, Kind.TABULAR),
        (torch.randint(255, (16, 40, 40)).byte(), Kind.IMAGE),
        (torch.randint(255, (16, 3, 40, 40)), Kind.IMAGE),
        (torch.randint(5, (16, 40, 40)), Kind.MASK),
        (torch.randint(5, (16, 1, 40, 40)), Kind.MASK),
        (torch.rand(16, 1, 40, 40) > 0.5, Kind.MASK),
    ],
)
def test_integers(tensor, kind):
    assert recognise(tensor).kind is kind


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_precision_does_not_matter(dtype):
    assert recognise(digits(side=16)[:, None].to(dtype)).kind is Kind.IMAGE
    assert recognise(WAVES.to(dtype)).kind is Kind.SEQUENCE


@pytest.mark.parametrize(
    ("tensor", "doubt"),
    [
        (torch.rand(16, 3, 32, 3), "channels-last"),
        (torch.rand(3, 32, 32), "one image of 3 channels"),
        (torch.rand(16, 28, 28), "(time, feature)"),
        (torch.rand(2, 32, 32, 32), "images of 32 channels"),
        (torch.randint(50, (16, 6)), "categorical"),
    ],
)
def test_a_second_reading_is_named(tensor, doubt):
    assert doubt in recognise(tensor).doubt


@pytest.mark.parametrize("shape", [(16, 3, 32, 32), (16, 1, 28, 28), (16, 30), (16, 32, 32, 3)])
def test_no_doubt_where_there_is_none(shape):
    assert recognise(torch.rand(shape)).doubt == ""


def test_what_is_not_one_per_example_is_not_read_further():
    edges = torch.randint(30, (2, 100))
    assert recognise(edges, examples=2).kind is Kind.TOKENS
    assert recognise(edges, examples=30).kind is Kind.GRAPH
    assert recognise(edges, examples=20).kind is Kind.OTHER
    assert recognise(edges.float(), examples=30).kind is Kind.OTHER


def test_points_in_space_are_in_no_order():
    points = torch.randn(8, 100, 3)
    assert (recognise(points).kind, recognise(points.mT).axes) == (Kind.POINTS, "NFT")
    assert recognise(points.cumsum(1)).kind is Kind.SEQUENCE
    assert recognise(torch.randn(8, 100, 4)).kind is Kind.SEQUENCE
    assert recognise(torch.randn(8, 30, 3)).kind is Kind.SEQUENCE


@pytest.mark.parametrize(
    "tensor",
    [
        torch.full((4, 1, 8, 8), torch.nan),
        torch.full((4, 20), torch.inf),
        torch.zeros(4, 8, 8),
        torch.zeros(1, 1, 1, 1),
        torch.eye(9).to_sparse(),
        torch.complex(torch.rand(4, 9), torch.rand(4, 9)),
        torch.nested.nested_tensor([torch.rand(3), torch.rand(4)]),
        torch.quantize_per_tensor(torch.rand(4, 8), 0.1, 0, torch.quint8),
        torch.zeros(1, 1),
        torch.full((2, 5), torch.iinfo(torch.int64).max),
    ],
    ids=str,
)
def test_anything_is_read(tensor):
    assert recognise(tensor).kind in set(Kind)


def test_roughness_of_independent_values_is_one():
    assert roughness(torch.randn(16, 500), 1) == pytest.approx(1, abs=0.05)
    assert roughness(TIME[None], 1) < 0.05
    assert roughness(torch.ones(4, 50), 1) == 1
    assert roughness(torch.randn(4, 2), 1) == 1
