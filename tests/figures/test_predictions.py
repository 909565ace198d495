import types

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lightning_recipe.callbacks._fixed_batch import FixedBatch
from lightning_recipe.figures import dynamics
from lightning_recipe.figures.canvas import COLOURS, HEIGHT, WIDTH, WRONG, heat, pixels, text_width
from lightning_recipe.figures.dynamics import draw, moments
from lightning_recipe.figures.images import BACKGROUND, PAINTS
from lightning_recipe.figures.sequences import EARLIER
from lightning_recipe.losses.reading import reading, unread
from lightning_recipe.record.step import LossCall


def watched(function, target, *outputs, inputs=None, steps=None):
    """A fixed batch that gave `outputs`, one after the other."""
    given = {"input": outputs[0], "target": target}
    call = LossCall(function.__name__, function, given, torch.tensor(0.0), 0, "", target_from_net=False)
    fixed = FixedBatch(reading(outputs[0], call, 16), None, inputs)
    for i, output in enumerate(outputs):
        values = fixed.how.read({"": output})
        fixed.look(i if steps is None else steps[i], values, dynamics.keep(fixed, values))
    return fixed


def fits(picture):
    """All text lies within the card."""
    assert pixels(picture).shape == (HEIGHT, WIDTH, 3)
    for text in picture.texts:
        wide = text_width(text.text)
        left = text.x - {"l": 0, "m": wide / 2, "r": wide}[text.anchor[0]]
        assert left >= 0, text
        assert left + wide <= WIDTH, text
        assert 0 <= text.y <= HEIGHT, text


def crosses(picture):
    """Where crosses are drawn."""
    found = [line.points.mean(0) for line in picture.lines if line.colour == WRONG and len(line.points) == 2]
    return {tuple(centre.round().tolist()) for centre in found}


# -- classes and labels: the probability of what is true


def test_classes():
    before, after = torch.tensor([[2.0, 0, 0], [0, 2, 0]]), torch.tensor([[0.0, 2, 0], [0, 2, 0]])
    picture = draw(watched(F.cross_entropy, torch.tensor([0, 1]), before, after, steps=[0, 16]))
    expected = torch.stack([before.softmax(1), after.softmax(1)])[:, [0, 1], [0, 1]].T
    rows, columns = (110, 230), (180, 470)
    for y, row in zip(rows, expected, strict=True):
        for x, value in zip(columns, row, strict=True):
            assert (picture.raster[y, x] == heat(value, (0, 1))).all()
    assert picture.words == ["true", "said", "0", "1", "1", "1", "0", "16", "step"]
    (flip,) = [line for line in picture.lines if line.colour == "black"]
    assert flip.points.mean(0)[0] > WIDTH / 2, "of the first example, at the second look"
    ((_, y),) = crosses(picture)
    assert y < HEIGHT / 2, "the first is wrong"
    assert picture.title == "classes, step 16"
    fits(picture)


def test_labels_have_a_row_each():
    logits = torch.tensor([[3.0, -3], [-3, 3]])
    picture = draw(watched(F.binary_cross_entropy_with_logits, torch.tensor([[1.0, 1], [0, 0]]), logits, logits))
    assert picture.words[2:10] == [
        "0.0 yes", "0.0 yes", "0.1 yes", "0.1 no", "1.0 no", "1.0 no", "1.1 no", "1.1 yes",
    ]  # fmt: skip
    assert len(crosses(picture)) == 2
    fits(picture)


def test_a_million_classes_and_many_looks_fit():
    logits = torch.zeros(2, 10**6)
    logits[:, 999_999] = 1
    fixed = watched(F.cross_entropy, torch.tensor([999_999, 5]), *[logits] * 3, steps=[0, 10, 1_234_567])
    for step in range(1_300_000, 9_000_000, 100_000):
        values = fixed.last
        fixed.look(step, values, dynamics.keep(fixed, values))
    fits(draw(fixed))


@pytest.mark.parametrize("alike", [False, True])
def test_one_answer_to_everything_is_seen_and_said(alike):
    logits = torch.randn(1, 3).repeat(8, 1) if alike else torch.randn(8, 3)
    picture = draw(watched(F.cross_entropy, torch.arange(8) % 3, logits, logits))
    assert ("all 8 examples get the same prediction" in picture.note) == alike
    assert (len({text.text for text in picture.texts if text.anchor == "rs" and len(text.text) == 1}) == 1) >= alike


# -- numbers


def test_trajectories():
    outputs = [torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [-1.0]])]
    picture = draw(watched(F.mse_loss, torch.tensor([[5.0], [-2.0]]), *outputs, steps=[0, 100]))
    for i, (values, target) in enumerate((([0, 3], 5), ([1, -1], -2))):
        line, mark = (line.points for line in picture.lines if line.colour == COLOURS[i])
        assert len(line) == 2
        ends = np.array([*line[:, 1], mark[1, 1]])
        assert np.corrcoef(-ends, [*values, target])[0, 1] == pytest.approx(1)
    fits(picture)


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e12, float("nan"), float("inf")])
def test_any_number(value):
    outputs = [torch.full((20, 1), value)] * 2
    fits(draw(watched(F.mse_loss, torch.zeros(20, 1), *outputs)))


def test_without_targets():
    how = unread(torch.randn(4, 3), 4, 4)
    fixed = FixedBatch(how, None)
    for step in range(3):
        fixed.look(step, torch.randn(4, 3), np.zeros(8))
    assert not any("target" in word for word in draw(fixed).words)


# -- tokens


def test_tokens():
    target = torch.tensor([[1, 2, -100]])
    before, after = (torch.eye(4)[torch.tensor([line])] for line in ([1, 1, 0], [1, 3, 1]))
    fixed = watched(F.cross_entropy, target, before.mT, after.mT)
    picture = draw(fixed, decode=lambda ids: "".join("abcdefgh"[i] for i in ids))
    assert picture.words == ["true", "step 0", "step 1", "b", "b", "b", "c", "b", "d", "-", "a", "b"]
    wrong = [text.text for text in picture.texts if text.colour == WRONG]
    assert wrong == ["b", "d"], "what has no target is not wrong"
    assert len(picture.lines) == 2
    fits(picture)


def test_tokens_that_the_font_lacks():
    fixed = watched(F.cross_entropy, torch.tensor([[0, 1, 0, 2]]), torch.zeros(1, 3, 4))
    fits(draw(fixed, decode=lambda ids: "\n你 "[ids[0]]))


def test_long_and_odd_tokens_are_cut():
    logits = torch.randn(6, 5, 30)
    fixed = watched(F.cross_entropy, torch.zeros(6, 30).long(), logits, logits)
    fits(draw(fixed, decode=lambda token: f"$\\mathbf{{{token}}}\n" * 20))


@pytest.mark.parametrize("length", range(8, 24))
def test_dots_at_the_end_of_a_row_stand_alone(length):
    target = torch.arange(100_000, 100_000 + length)[None] * 7 % 999
    picture = draw(watched(F.cross_entropy, target, torch.zeros(1, 1000, length)))
    left = [text for text in picture.texts if text.text == ".."]
    row = [text for text in picture.texts if text.y == picture.texts[0].y and text not in left]
    assert len(left) == (len(row) < 1 + length)
    for dots in left:
        assert max(text.x + text_width(text.text) for text in row) < dots.x - text_width(dots.text)


# -- forecasts


def test_what_was_said_before_is_ever_paler_and_stays_in_its_panel():
    inputs = torch.sin(torch.arange(40) / 4.0)[None].repeat(2, 1)
    target = torch.sin(torch.arange(40, 52) / 4.0)[None].repeat(2, 1)
    outputs = [target * scale for scale in (0.1, 5.0, 0.5, 0.8, 1.0)]
    picture = draw(watched(F.mse_loss, target, *outputs, inputs=inputs))
    earlier = {line.colour: line for line in picture.lines if line.colour in EARLIER and len(line.points) == 12}
    assert set(earlier) == set(EARLIER)
    panel = np.concatenate([line.points for line in picture.lines if line.colour == COLOURS[0]])[:, 1]
    for line in earlier.values():
        seen = line.points[np.isfinite(line.points).all(1), 1]
        assert panel.min() - 60 < seen.min()
        assert seen.max() < panel.max() + 60
    assert np.isnan(earlier[EARLIER[-1]].points).any()
    assert not np.isnan(earlier[EARLIER[0]].points).any()
    fits(picture)


# -- maps: input, what is true, and what was said at four moments


def column(picture, name):
    """The first thumbnail above a caption."""
    text = next(text for text in picture.texts if text.text == name)
    return picture.raster[60:140, round(text.x) : round(text.x) + 60]


def test_a_film_strip_from_the_first_to_the_last():
    outputs = [torch.rand(3, 1, 16, 16) for _ in range(20)]
    picture = draw(watched(F.mse_loss, outputs[-1], *outputs, inputs=torch.rand(3, 3, 16, 16)))
    assert picture.words == ["input", "true", "step 1", "step 7", "step 13", "step 19"]
    assert np.array_equal(column(picture, "true"), column(picture, "step 19"))
    assert not np.array_equal(column(picture, "true"), column(picture, "step 13"))
    assert picture.note == "black 0, white 1"
    fits(picture)


def test_moments_are_four_without_the_untrained_one():
    assert moments(1) == [0]
    assert moments(4) == [0, 1, 2, 3]
    assert moments(5) == [1, 2, 3, 4]
    assert moments(64) == [1, 22, 42, 63]


def test_classes_of_pixels_that_are_wrong_are_hatched():
    target = torch.zeros(2, 16, 8).long()
    target[0, :8], target[1, :6] = 2, 2
    right, wrong = (F.one_hot(t, 3).movedim(-1, 1).float() for t in (target, target.flip(1)))
    picture = draw(watched(F.cross_entropy, target, wrong, right))
    assert picture.words == ["true", "step 0", "step 1"]
    colours = [{tuple(p) for p in column(picture, name).reshape(-1, 3)} for name in picture.words]
    assert {tuple(BACKGROUND), tuple(PAINTS[1])} <= colours[0]
    assert (0, 0, 0) in colours[1]
    assert colours[2] == colours[0]
    assert picture.note == "hatched: wrong"
    fits(picture)


def test_large_images_are_thinned():
    image = torch.rand(1, 1, 1000, 400)
    fixed = watched(F.binary_cross_entropy, (image > 0.5).float(), image, inputs=torch.rand(1, 3, 4000, 4000))
    assert fixed.looks[0].picture.shape == (1, 63, 58, 1)
    fits(draw(fixed))


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
    assert pixels(draw(fixed)).std() > 0


@pytest.mark.parametrize(("classes", "bytes_at_most"), [(True, 2 * 3 * 200 * 200), (False, 4 * 3 * 200 * 200)])
def test_of_large_maps_little_is_kept(classes, bytes_at_most):
    """All looks are in memory until the run ends."""
    values = torch.rand(4, 1000, 900, 2 if classes else 1)
    fixed = types.SimpleNamespace(how=types.SimpleNamespace(of_maps=True, of_classes=classes))
    kept = dynamics.keep(fixed, values)
    assert kept.nbytes <= bytes_at_most
    assert kept.base is None or kept.base.nbytes <= bytes_at_most
