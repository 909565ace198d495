"""How targets and sequences' lengths are distributed: what is none of them first, then each kind."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from patients import FEATURES, Healthy
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe import DataProfile
from lightning_recipe.callbacks._data_counted import Counted, lengths
from lightning_recipe.callbacks._data_described import describe
from lightning_recipe.callbacks._data_ranks import Share, together
from lightning_recipe.callbacks._data_targets import READ, Kind, Positives, Tally, Target, spaced
from lightning_recipe.callbacks._data_verdict import Examples
from lightning_recipe.callbacks._histogram import CELLS, Histogram
from lightning_recipe.figures.canvas import HEIGHT, WIDTH, text_width
from lightning_recipe.figures.profile import Bars, Bins, lengths_card, profile_card

N = 128
X = torch.arange(N * FEATURES).float().view(N, FEATURES).cos()
IMAGES = torch.arange(N * 3 * 64).float().view(N, 3, 8, 8).cos()
TOKENS = torch.arange(N * 12).view(N, 12) % 37 + 1
LENGTHS = torch.arange(N) % 9 + 4


class Net(Healthy):
    def __init__(self, net, loss):
        super().__init__()
        self.net, self.loss = net, loss

    def training_step(self, batch, batch_idx):
        return self.loss(self.net(batch[0]), batch[1])


def profile(fit, net, loss, *data, **settings):
    """What is said of the data, the evidence, and the names of the cards."""
    check, drawn = DataProfile(), []
    check.draw = lambda run, name, image: drawn.append(name)
    loader = DataLoader(TensorDataset(*data), 16, shuffle=True)
    fit(Net(net, loss), [check], train=loader, limit_val_batches=0, max_epochs=1, **settings)
    (said,) = [finding for finding in check.findings if finding.code == "DataProfile/passed"]
    return said.message, said.evidence, drawn


def none_of(evidence):
    return not evidence.keys() & {"classes", "largest", "smallest", "median", "left_out", "median_length"}


# -- legitimate


def test_what_entered_is_no_target(fit):
    message, evidence, drawn = profile(fit, nn.Linear(FEATURES, FEATURES), F.mse_loss, X, X)
    assert none_of(evidence), message
    assert drawn == ["data"]


def test_ids_and_what_is_made_of_the_input_are_no_classes(fit):
    def shifted(logits, tokens):
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())

    full = TOKENS + torch.zeros(N, 1).long()
    message, evidence, drawn = profile(fit, nn.Embedding(40, 40), shifted, full, full)
    assert none_of(evidence)
    assert "sequences of 12 tokens" in message
    assert drawn == [], "all are as long, and nothing else is known"


def test_columns_of_numbers_are_told_apart_by_their_ranges(fit):
    assert none_of(profile(fit, nn.Linear(FEATURES, 3), F.mse_loss, X, X[:, :3] * torch.tensor([1.0, 50.0, 2.0]))[1])


def test_targets_that_the_step_makes_are_left_alone(fit):
    def denoised(out, _):
        return F.mse_loss(out, torch.randn_like(out))

    message, evidence, _ = profile(fit, nn.Linear(FEATURES, FEATURES), denoised, X, X)
    assert none_of(evidence), message


def test_one_class_for_each_example_is_as_before(fit):
    y = torch.arange(N) % 3
    _, evidence, drawn = profile(fit, nn.Linear(FEATURES, 3), F.cross_entropy, X, y)
    assert (evidence["classes"], evidence["smallest"]) == (3, 42)
    assert drawn == ["data"]


# -- targets


def test_several_labels(fit):
    y = (torch.arange(N)[:, None] % torch.tensor([2, 4, 64]) == 0).float()
    for loss in (F.binary_cross_entropy_with_logits, lambda out, y: ((out.sigmoid() - y) ** 2).mean()):
        message, evidence, _ = profile(fit, nn.Linear(FEATURES, 3), loss, X, y)
        assert (evidence["classes"], evidence["smallest"], evidence["largest"]) == (3, 2 / N, 0.5)
        assert "3 labels, positive in 1.6% (label 2) to 50% (label 0)" in message


def test_labels_that_nobody_knows_do_not_count():
    y, counts = torch.tensor([[1.0, -1.0], [0.0, 1.0], [1.0, torch.nan]]), Positives()
    counts.take(Target("y", Kind.LABELS).look(y).numpy())
    np.testing.assert_allclose(counts.shares, [2 / 3, 1])


def test_one_hot_and_soft_classes(fit):
    y = F.one_hot(torch.arange(N) % 4, 4).float()
    for soft in (y, 0.9 * y + 0.025):
        evidence = profile(fit, nn.Linear(FEATURES, 4), F.cross_entropy, X, soft)[1]
        assert (evidence["classes"], evidence["largest"]) == (4, pytest.approx(0.25))


def test_pixels(fit):
    y = torch.zeros(N, 8, 8).long()
    y[:, 0], y[:, 1, :4], y[::2, 2, 0] = 255, 1, 2

    def loss(out, y):
        return F.cross_entropy(out, y, ignore_index=255)

    message, evidence, drawn = profile(fit, nn.Conv2d(3, 3, 1), loss, IMAGES, y)
    assert evidence["left_out"] == pytest.approx(1 / 8)
    assert evidence["smallest"] == pytest.approx(0.5 / 56)
    assert evidence["largest"] == pytest.approx(51.5 / 56)
    assert "12% of the targets are class 255" in message
    assert drawn == ["data"]


def test_pixels_of_yes_and_no(fit):
    y = torch.zeros(N, 1, 8, 8)
    y[:, :, 0, 0] = 1
    evidence = profile(fit, nn.Conv2d(3, 1, 1), F.binary_cross_entropy_with_logits, IMAGES, y)[1]
    assert (evidence["classes"], evidence["smallest"]) == (2, 1 / 64)


def test_numbers(fit):
    y = torch.arange(N).float().square()
    for given, loss in (
        (y[:, None], F.l1_loss),
        (y, lambda out, y: ((out.squeeze(1) - y) ** 2).mean()),
        (y.long(), lambda out, y: F.smooth_l1_loss(out.squeeze(1), y.float())),
    ):
        message, evidence, drawn = profile(fit, nn.Linear(FEATURES, 1), loss, X, given)
        assert (evidence["lowest"], evidence["highest"]) == (0, (N - 1) ** 2), message
        assert evidence["median"] == pytest.approx(63**2, abs=32)
        assert drawn == ["data"]


def test_forecasts(fit):
    y = torch.arange(N * 20).float().view(N, 20)
    evidence = profile(fit, nn.Linear(FEATURES, 20), F.mse_loss, X, y)[1]
    assert (evidence["lowest"], evidence["highest"]) == (0, 20 * N - 1)


def test_few_ratings_are_classes(fit):
    y = torch.arange(N) % 5

    def loss(out, y):
        return F.mse_loss(out.squeeze(1), y.float())

    assert profile(fit, nn.Linear(FEATURES, 1), loss, X, y)[1]["classes"] == 5


# -- lengths


@pytest.mark.parametrize("told", [True, False])
def test_lengths_without_padding(fit, told):
    tokens = torch.where(torch.arange(12) < LENGTHS[:, None], TOKENS, 0)
    net = nn.Sequential(nn.Embedding(40, 4, padding_idx=0 if told else None), nn.Flatten(), nn.Linear(48, 3))
    message, evidence, drawn = profile(fit, net, F.cross_entropy, tokens, torch.arange(N) % 3)
    assert (evidence["shortest"], evidence["longest"], evidence["median_length"]) == (4, 12, 8)
    assert "sequences of 4 to 12 tokens" in message
    assert drawn == ["data", "lengths"]


def test_sequences_of_several_widths():
    counts = Histogram(whole=True)
    for width in (5, 9):
        counts.take(lengths(torch.ones(4, width).long(), 0).numpy())
    assert counts.cells == {5: 4, 9: 4}


# -- counting


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e30])
def test_histograms_are_the_same_in_any_order(scale):
    values = np.random.default_rng(0).normal(size=3000).cumsum() * scale
    parts = []
    for some in np.array_split(values, 7):
        parts.append(Histogram())
        parts[-1].take(some)
    one, other = Histogram(), Histogram()
    for part in parts:
        one.add(part)
    for part in parts[::-1]:
        other.add(part)
    assert one == other
    assert one.count == len(values)
    assert len(one.cells) <= CELLS
    assert (one.low, one.high) == (values.min(), values.max())
    assert abs(one.quantile(0.5) - np.median(values)) < np.ptp(values) / 100
    edges, counts = one.bars()
    np.testing.assert_allclose(counts, np.histogram(values, edges)[0], atol=0.02 * len(values))
    assert counts.sum() == pytest.approx(len(values))


@pytest.mark.parametrize(
    "values", [[], [np.nan], [3.0], [True, False], [0.0], [1e300, -1e300], [5e-324, 0.0], [np.inf, 2.0]]
)
def test_histograms_of_odd_numbers(values):
    seen = Histogram()
    seen.take(np.array(values))
    seen.add(Histogram())
    finite = np.isfinite(values).sum()
    assert (seen.count, seen.missing) == (finite, len(values) - finite)
    if finite:
        assert seen.bars()[1].sum() == pytest.approx(finite)


def test_ranks_add_up():
    shares = []
    for half in (TOKENS[:64], TOKENS[64:]):
        counts = Tally()
        counts.take(half.numpy())
        x = np.arange(len(half))
        shares.append(Share(Examples(x, None, x, x < 0), counted=Counted(counts, "batch.y")))
    both = together(shares).counted
    assert shares[0].counted.target.counts.total() == TOKENS.numel() / 2, "what a rank has is left as it is"
    assert both.path == "batch.y"
    assert both.target.counts == dict(zip(*np.unique(TOKENS, return_counts=True), strict=True))
    both.add(Counted(Histogram(), "batch.y"))  # of another kind, as of a batch that differs
    assert both.target.counts.total() == TOKENS.numel()


def test_what_is_read_is_bounded_and_meets_all_columns():
    rows = torch.arange(512).expand(4, 3, 512, 512).flatten(2)
    read = spaced(rows)
    assert read.numel() <= READ
    assert len(read.unique()) > 500


def test_of_ids_nothing_is_kept():
    counts = Tally()
    for start in range(0, 10**6, 10**4):
        counts.take(np.arange(start, start + 10**4))
    assert len(counts.counts) < 20000
    assert counts.shares == {}


# -- cards


def inside(picture):
    """Whether all texts lie on the card, and none of a line over another."""
    spans = {}
    for text in picture.texts:
        wide = text_width(text.text)
        left = text.x - {"l": 0, "m": wide / 2, "r": wide}[text.anchor[0]]
        spans.setdefault(round(text.y), []).append((left, left + wide))
    lines = [sorted(line) for line in spans.values()]
    apart = all(right <= left for line in lines for (_, right), (left, _) in pairwise(line))
    ends = [end for line in lines for span in line for end in span]
    return apart and min(ends) >= 0 and max(ends) <= WIDTH and max(spans) <= HEIGHT


class Ranges:
    def __init__(self, count, lost=0.0):
        self.mean, self.std = np.zeros(count), np.ones(count)
        self.low, self.high, self.lost = np.full(count, -1.0), np.full(count, 2.0), np.zeros(count)
        self.lost[-1] = lost
        if lost == 1:
            self.low[-1], self.high[-1] = np.inf, -np.inf


def test_missing_values_are_on_the_card():
    assert not [word for word in profile_card(None, {"batch.x": Ranges(4)}).words if "NaN" in word]
    for lost, word in ((0.123, "12% NaN"), (0.002, "0.2% NaN"), (1, "100% NaN")):
        card = profile_card(Bars(["a", "b"], [1, 2]), {"batch.x": Ranges(40, lost)})
        assert word in card.words, "also of the last of many features"
        assert inside(card)


@pytest.mark.parametrize("shares", [True, False])
def test_rare_classes_are_named(shares):
    counts = np.full(50, 0.02 if shares else 1000)
    names = [f"a rather long name of class {i}" for i in range(50)]
    assert not any("name" in word for word in profile_card(Bars(names, counts, shares=shares), {}).words)
    counts[7] = counts[7] / 100
    card = profile_card(Bars(names, counts, shares=shares), {"batch.x": Ranges(3)})
    assert [word for word in card.words if word.startswith("a ra")]
    assert inside(card)
    assert "class 7" in " ".join(profile_card(Bars([f"class {i}" for i in range(50)], counts), {}).words)


def test_sequences_that_were_cut():
    edges, counts = np.arange(3, 66), np.ones(62)
    assert lengths_card(Bins(edges, counts, 30, whole=True)).words == ["3", "64"]
    cut = lengths_card(Bins(edges, counts, 30, whole=True, at_the_end=0.4))
    assert "40% have the greatest length" in cut.words
    assert inside(cut)


def test_names_are_those_of_the_data_set():
    x = np.arange(4)
    said = describe(Examples(x, x % 2, x, x < 0), Counted(), {}, ["cat"])
    assert said.cards["data"].words == ["cat", "2", "1", "2"]
