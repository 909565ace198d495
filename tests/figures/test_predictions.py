import types

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.text import Text
from torch.nn import functional as F

from lightning_recipe.callbacks._fixed_batch import FixedBatch
from lightning_recipe.figures import dynamics, predictions
from lightning_recipe.figures.canvas import pixels
from lightning_recipe.losses.reading import reading, unread
from lightning_recipe.record.step import LossCall


def watched(function, target, *outputs, inputs=None, steps=None):
    """A fixed batch that gave `outputs`, one after the other."""
    call = LossCall(
        "", function, {"input": outputs[0], "target": target}, torch.tensor(0.0), 0, "", target_from_net=False
    )
    call = LossCall(**vars(call) | {"name": function.__name__})
    fixed = FixedBatch(reading(outputs[0], call, 16), None, inputs)
    for i, output in enumerate(outputs):
        values = fixed.how.read({"": output})
        fixed.look(i if steps is None else steps[i], values, dynamics.keep(fixed.how, values))
    return fixed


def texts(axes):
    return [text.get_text() for text in axes.texts]


def fits(figure):
    """All text lies within the card, and none is smaller than a tick label may be."""
    image = pixels(figure)
    assert image.shape == (350, 350, 3)
    renderer = figure.canvas.get_renderer()
    for text in figure.findobj(Text):
        if text.get_text() and text.get_window_extent(renderer).width:
            box = text.get_window_extent(renderer)
            assert box.x0 >= -1, text
            assert box.x1 <= 361, text
            assert box.y0 >= -1, text
            assert box.y1 <= 361, text
            assert text.get_fontsize() >= 8
    assert figure._suptitle.get_fontsize() >= 11


# -- classes and labels: the probability of what is true


def test_classes():
    before, after = torch.tensor([[2.0, 0, 0], [0, 2, 0]]), torch.tensor([[0.0, 2, 0], [0, 2, 0]])
    fixed = watched(F.cross_entropy, torch.tensor([0, 1]), before, after, steps=[0, 16])
    figure = dynamics.draw(fixed)["predictions"]
    axes = figure.axes[0]
    expected = torch.stack([before.softmax(1), after.softmax(1)])[:, [0, 1], [0, 1]]
    assert np.allclose(axes.images[0].get_array(), expected.T)
    assert axes.images[0].get_clim() == (0, 1)
    assert axes.images[0].get_cmap().name == "cividis"
    assert axes.collections[0].get_offsets().tolist() == [[1.0, 0.0]], "the one flip"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1"]
    assert texts(axes) == ["1", "1"]
    assert "steps 0 to 16" in figure.get_suptitle()
    fits(figure)


def test_labels_have_a_row_each():
    logits = torch.tensor([[3.0, -3], [-3, 3]])
    fixed = watched(F.binary_cross_entropy_with_logits, torch.tensor([[1.0, 1], [0, 0]]), logits, logits)
    figure = dynamics.draw(fixed)["predictions"]
    rows = figure.axes[0].images[0].get_array()[:, 0]
    assert np.allclose(rows, [0.953, 0.047, 0.953, 0.047], atol=1e-3)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "0.0 yes",
        "0.1 yes",
        "1.0 no",
        "1.1 no",
    ]
    assert texts(figure.axes[0]) == ["0.0 yes", "0.1 no", "1.0 no", "1.1 yes"]
    fits(figure)


def test_a_million_classes_and_many_looks_fit():
    logits = torch.zeros(2, 10**6)
    logits[:, 999_999] = 1
    fixed = watched(F.cross_entropy, torch.tensor([999_999, 5]), *[logits] * 3, steps=[0, 10, 1_234_567])
    for step in range(1_300_000, 9_000_000, 100_000):
        values = fixed.last
        fixed.look(step, values, dynamics.keep(fixed.how, values))
    figure = dynamics.draw(fixed)["predictions"]
    assert "1 look in 2 kept" in figure.get_suptitle()
    fits(figure)


# -- numbers


def test_trajectories():
    outputs = [torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [-1.0]])]
    fixed = watched(F.mse_loss, torch.tensor([[5.0], [-2.0]]), *outputs, steps=[0, 100])
    figure = dynamics.draw(fixed)["predictions"]
    lines = figure.axes[0].lines
    assert [line.get_ydata().tolist() for line in lines[::2]] == [[0, 3], [1, -1]]
    assert [line.get_ydata()[0] for line in lines[1::2]] == [5, -2]
    low, high = figure.axes[0].get_ylim()
    assert low < -2 < 5 < high
    fits(figure)


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e12, float("nan"), float("inf")])
def test_any_number(value):
    outputs = [torch.full((20, 1), value)] * 2
    fits(dynamics.draw(watched(F.mse_loss, torch.zeros(20, 1), *outputs))["predictions"])


def test_without_targets():
    how = unread(torch.randn(4, 3), 4, 4)
    fixed = FixedBatch(how, None)
    for step in range(3):
        fixed.look(step, torch.randn(4, 3), np.zeros(8))
    assert "target" not in dynamics.draw(fixed)["predictions"].get_suptitle()


# -- tokens


def test_tokens():
    target = torch.tensor([[1, 2, -100]])
    before, after = (torch.eye(4)[torch.tensor([line])] for line in ([1, 1, 0], [1, 3, 1]))
    fixed = watched(F.cross_entropy, target, before.mT, after.mT)
    figure = dynamics.draw(fixed, decode=lambda ids: "".join("abcdefgh"[i] for i in ids))["predictions"]
    axes = figure.axes[0]
    assert texts(axes) == ["b", "b", "c", "d", "-", "b"]
    row = axes.images[0].get_array()[1]
    colours = [predictions.RIGHT, predictions.CHANGED]
    for cell, colour in zip(row, colours, strict=False):
        assert np.allclose(cell, [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    fits(figure)


@pytest.mark.filterwarnings("error")
def test_tokens_that_the_font_lacks():
    logits = torch.zeros(1, 3, 4)
    fixed = watched(F.cross_entropy, torch.tensor([[0, 1, 0, 2]]), logits)
    figure = dynamics.draw(fixed, decode=lambda ids: "\n你 "[ids[0]])["predictions"]
    assert texts(figure.axes[0])[::2] == ["\\n", "\\u4f60", "\\n", "␣"]
    fits(figure)


def test_long_and_odd_tokens_are_cut():
    logits = torch.randn(6, 5, 30)
    fixed = watched(F.cross_entropy, torch.zeros(6, 30).long(), logits, logits)
    figure = dynamics.draw(fixed, decode=lambda token: f"$\\mathbf{{{token}}}\n" * 20)["predictions"]
    assert max(map(len, texts(figure.axes[0]))) <= 8
    fits(figure)


# -- maps


def mosaic(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


def thumbnail(figure, row, column):
    side = predictions.THUMBNAIL
    return mosaic(figure)[row * (side + 4) :, column * (side + 4) :][:side, :side]


def test_the_pixels_drawn_are_the_tensors_pixels():
    images, target = torch.rand(2, 3, 12, 12), torch.rand(2, 3, 12, 12)
    target[0, 0, 0, 0], target[0, 0, 0, 1] = 0, 1
    fixed = watched(F.mse_loss, target, images, inputs=torch.rand(2, 1, 12, 12))
    figure = dynamics.draw(fixed)["predictions"]
    every = predictions.THUMBNAIL // 12
    for row in range(2):
        assert np.allclose(thumbnail(figure, row, 1)[::every, ::every], target[row].movedim(0, -1))
        assert np.allclose(thumbnail(figure, row, 2)[::every, ::every], images[row].movedim(0, -1))
    low, high = fixed.inputs.min(), fixed.inputs.max()
    shown = colormaps["cividis"](((fixed.inputs[0, 0] - low) / (high - low)).numpy())[..., :3]
    assert np.allclose(thumbnail(figure, 0, 0)[::every, ::every], shown, atol=0.01)
    assert "dark 0, bright 1" in figure.get_suptitle()
    fits(figure)


def test_classes_of_pixels_with_a_legend():
    target = torch.zeros(2, 16, 8).long()
    target[:, :4] = 2
    logits = F.one_hot(target, 3).movedim(-1, 1).float()
    figure = dynamics.draw(watched(F.cross_entropy, target, logits))["predictions"]
    assert np.array_equal(thumbnail(figure, 0, 0), thumbnail(figure, 0, 1)), "target and prediction agree"
    assert len(np.unique(thumbnail(figure, 0, 1).reshape(-1, 3), axis=0)) == 3, "grey, a class, and white at the sides"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0", "1", "2"]
    fits(figure)


def test_large_images_are_thinned():
    image = torch.rand(1, 1, 1000, 400)
    fixed = watched(F.binary_cross_entropy, (image > 0.5).float(), image, inputs=torch.rand(1, 3, 4000, 4000))
    assert fixed.looks[0].picture.shape == (1, 63, 58, 1)
    fits(dynamics.draw(fixed)["predictions"])


def test_a_film_strip_from_the_first_to_the_last():
    outputs = [torch.rand(3, 1, 16, 16) for _ in range(20)]
    fixed = watched(F.mse_loss, outputs[-1], *outputs)
    figures = dynamics.draw(fixed, last=True)
    labels = [label.get_text() for label in figures["over time"].axes[0].get_xticklabels()]
    assert (labels[0], labels[-2], labels[-1]) == ("0", "19", "target")
    assert np.array_equal(
        thumbnail(figures["over time"], 1, len(labels) - 2), thumbnail(figures["over time"], 1, len(labels) - 1)
    )
    fits(figures["over time"])


# -- half precision, which NumPy does not know


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("function", "output", "target"),
    [
        (F.cross_entropy, torch.eye(3), torch.arange(3)),
        (F.cross_entropy, torch.randn(2, 5, 4), torch.randint(4, (2, 4))),
        (F.cross_entropy, torch.randn(2, 3, 8, 8), torch.randint(3, (2, 8, 8))),
        (F.binary_cross_entropy_with_logits, torch.randn(3, 2), torch.ones(3, 2)),
        (F.mse_loss, torch.randn(3, 2), torch.randn(3, 2)),
        (F.mse_loss, torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)),
    ],
    ids=["classes", "tokens", "maps of classes", "labels", "numbers", "maps of numbers"],
)
def test_half_precision(function, output, target, dtype):
    output, target = (t.to(dtype) if t.is_floating_point() else t for t in (output, target))
    inputs = torch.randn(len(output), 1, 8, 8, dtype=dtype)
    fixed = watched(function, target, output, output + 1, inputs=inputs)
    figures = dynamics.draw(fixed, last=True)
    assert all(pixels(figure).std() > 0 for figure in figures.values())


@pytest.mark.parametrize(("classes", "bytes_at_most"), [(True, 2 * 3 * 200 * 200), (False, 4 * 3 * 200 * 200)])
def test_of_large_maps_little_is_kept(classes, bytes_at_most):
    """All looks are in memory until the run ends."""
    values = torch.rand(4, 1000, 900, 2 if classes else 1)
    how = types.SimpleNamespace(of_maps=True, of_classes=classes)
    kept = dynamics.keep(how, values)
    assert kept.nbytes <= bytes_at_most
    assert kept.base is None or kept.base.nbytes <= bytes_at_most
