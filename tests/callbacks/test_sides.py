"""Left and right, first and second: what is exchanged at random, and what should go with it."""

import lightning.pytorch as L
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_recipe import AugmentationCheck, Status
from lightning_recipe.callbacks import _swapped as swapped

RNG = torch.Generator().manual_seed(0)
N, WIDTH = 150, 12
IMAGES = torch.rand(N, 3, WIDTH, WIDTH, generator=RNG)
CENTRE = 0.3 + 0.4 * torch.rand(N, generator=RNG)
HALF = 0.05 + 0.2 * torch.rand(N, generator=RNG)
HEIGHT = torch.rand(N, 4, generator=RNG)
FACES = torch.stack([torch.stack([CENTRE - HALF, CENTRE + HALF, CENTRE, CENTRE], 1), HEIGHT], -1)
"""Left ear, right ear, nose, chin, in shares of the width and height."""
CROWD = torch.rand(N, 5, 2, generator=RNG)
CORNERS = torch.cat([CROWD * 0.6, CROWD * 0.6 + 0.1 + 0.2 * torch.rand(N, 5, 2, generator=RNG)], -1)
ITEMS = torch.randn(2, N, 8, generator=RNG)
WORTH = ITEMS @ torch.linspace(-1, 1, 8)
BETTER = (WORTH[0] > WORTH[1]).long()


class Drawn(Dataset):
    """What `draw` makes of an index and of a coin, which training throws."""

    def __init__(self, draw, *, random):
        self.draw, self.random = draw, random

    def __len__(self):
        return N

    def __getitem__(self, index):
        return self.draw(index, self.random and bool(torch.rand(()) < 0.5))


class Looks(L.LightningModule):
    """Reads data, and learns nothing of them."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(2, 2)

    def training_step(self, batch, batch_idx):
        return self.net(torch.randn(4, 2)).square().mean()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def found(fit, draw):
    check = AugmentationCheck()
    train, val = (DataLoader(Drawn(draw, random=random), 16, collate_fn=list) for random in (True, False))
    fit(Looks(), [check], train=train, val=val, logger=False, max_steps=1)
    return check.findings


def mirrored(target):
    return lambda i, coin: {"image": IMAGES[i].flip(-1) if coin else IMAGES[i], **target(i, coin)}


def in_place(points, width=1.0):
    return torch.cat([width - points[..., :1], points[..., 1:]], -1)


def faces(i, coin, order=(0, 1, 2, 3)):
    return in_place(FACES[i])[list(order)] if coin else FACES[i]


def crowd(i, coin):
    return in_place(CROWD[i]) if coin else CROWD[i]


def boxes(i, coin, columns):
    x = CORNERS[i].clone()
    if coin:
        x[:, [0, 2]] = 1 - x[:, columns]
    return x


def seen(points):
    """Every third point is out of sight: 0, whichever way."""
    return torch.where((torch.arange(len(points)) % 3 == 2)[:, None], 0.0, points)


MIRRORED_RIGHTLY = {
    "sides that are exchanged": lambda i, coin: {"points": faces(i, coin, (1, 0, 2, 3))},
    "in pixels": lambda i, coin: {"points": faces(i, coin, (1, 0, 2, 3)) * (WIDTH - 1)},
    "in a row": lambda i, coin: {"points": faces(i, coin, (1, 0, 2, 3)).T.flatten()},
    "aligned faces": lambda i, coin: {"points": FACES[i] - FACES[i, 2:3] + 0.5},
    "faces of one size": lambda i, coin: {"points": sized(i, coin, (1, 0, 2, 3))},
    "no points of the middle": lambda i, coin: {"points": faces(i, coin, (1, 0, 2, 3))[:2]},
    "points without an order": lambda i, coin: {"points": in_place(CROWD[i]) if coin else CROWD[i]},
    "as many as there are": lambda i, coin: {"points": (in_place(CROWD[i]) if coin else CROWD[i])[: 2 + i % 3]},
    "boxes": lambda i, coin: {"boxes": boxes(i, coin, [2, 0])},
    "the middle and size of boxes": lambda i, coin: {"boxes": boxes(i, coin, [0, 2])[:, [0, 1, 1, 3]] * 1.0},
    "one number": lambda i, coin: {"at": 1 - CENTRE[i] if coin else CENTRE[i]},
    "the other draw's": lambda i, coin: {"points": FACES[i], "wind": torch.tensor([1.0, -1.0]) * (-1 if coin else 1)},
}


FRONT = torch.arange(N) % 3 > 0
HANDS = torch.stack([CENTRE, CENTRE + torch.where(FRONT, HALF, -HALF), CENTRE - torch.where(FRONT, HALF, -HALF)], 1)
HANDS = torch.stack([HANDS, HEIGHT[:, :3]], -1)
"""Head, left and right hand, of people who are seen from the front, or from behind: then their faces are dark."""
EAST = torch.where(FRONT, 1.0, -1.0)[:, None] * torch.linspace(-1, 1, WIDTH)
ANIMALS = torch.stack([CENTRE + torch.where(FRONT, HALF, -HALF), CENTRE - torch.where(FRONT, HALF, -HALF)], 1)
ANIMALS = torch.stack([ANIMALS, HEIGHT[:, :2]], -1)
"""Nose and tail, of animals that look to one side or the other."""


def people(i, coin, order):
    image = IMAGES[i] + torch.where(FRONT[i], 1.0, 0.0)
    points = in_place(HANDS[i])[list(order)] if coin else HANDS[i]
    return {"image": image.flip(-1) if coin else image, "points": points}


def animals(i, coin):
    image = IMAGES[i] + EAST[i]
    return {"image": image.flip(-1) if coin else image, "points": in_place(ANIMALS[i]) if coin else ANIMALS[i]}


@pytest.mark.parametrize("draw", [animals, lambda i, coin: people(i, coin, (0, 2, 1))])
def test_sides_that_are_seen(fit, draw):
    assert alarms(found(fit, draw)) == []


def sized(i, coin, order):
    x = FACES[i].clone()
    x[:2, 0] = x[2, 0] + torch.tensor([-0.1, 0.1])
    return in_place(x)[list(order)] if coin else x


def alarms(findings):
    return [f for f in findings if f.is_alarm or f.status is Status.ADVICE]


@pytest.mark.parametrize("target", MIRRORED_RIGHTLY)
def test_mirrored_targets_that_are_right(fit, target):
    told = [f for f in alarms(found(fit, mirrored(MIRRORED_RIGHTLY[target]))) if not f.code.endswith("not_flipped")]
    assert told == []


HEADING, SIZE = 6.28 * torch.rand(N, generator=RNG), 0.15 + 0.1 * torch.rand(N, generator=RNG)
TURN = torch.stack([torch.stack([HEADING.cos(), -HEADING.sin()], 1), torch.stack([HEADING.sin(), HEADING.cos()], 1)], 1)
SIDE = torch.where(torch.rand(N, generator=RNG) < 0.5, 1.0, -1.0)
MOUSE = ((1.0, 0.0), (0.5, 0.4), (0.5, -0.4), (-1.0, 0.0))
"""Nose, left ear, right ear and tail, seen from above."""
HAND = ((0.0, -1.0), (-0.8, -0.1), (-0.3, 0.9), (0.0, 1.0), (0.3, 0.85), (0.6, 0.5))
"""Wrist, and the five fingers of a left one."""
PROFILE = ((1.0, 0.3), (0.4, -0.8), (-0.7, -0.8), (-1.0, 0.2), (0.3, 0.4))
"""Nose, front hoof, hind hoof, tail and withers of what walks to the right."""


def anywhere(shape, *, flat=False):
    """Points of all examples, any way round, and seen from either side; with a little movement."""
    points = torch.tensor(shape) + 0.03 * torch.randn(N, len(shape), 2, generator=torch.Generator().manual_seed(1))
    if flat:
        points[..., 1] *= SIDE[:, None]
    return 0.5 + SIZE[:, None, None] * (points @ TURN.transpose(1, 2))


def lying(shape, order=None, *, to=lambda points: points, flat=False):
    points = anywhere(shape, flat=flat)

    def target(i, coin):
        placed = in_place(points[i])[list(order or range(len(shape)))] if coin else points[i]
        return {"points": to(placed)}

    return target


def hidden(fill, of=3):
    """One of so many points is out of sight, the same ones in the mirror."""

    def some(points):
        rng = torch.Generator().manual_seed(int(points[:, 1].sum() * 1e4))
        return torch.where((torch.rand(len(points), generator=rng) * of < 1)[:, None], fill, points)

    return some


LYING_RIGHTLY = {
    "ears that are exchanged": lying(MOUSE, (0, 2, 1, 3)),
    "exchanged, some out of sight": lying(MOUSE, (0, 2, 1, 3), to=hidden(0.0)),
    "left hands, and mirrored ones": lying(HAND),
    "the wrist and two tips": lying((HAND[0], HAND[2], HAND[4])),
    "all walk to the right": lying(PROFILE),
    "seen from both sides": lying(MOUSE, flat=True),
    "without a tail and nose": lying(MOUSE[1:3]),
    "points in a row": lying(((1.0, 0.0), (0.0, 0.0), (-1.0, 0.0), (0.5, 0.0))),
    "one point": lambda i, coin: {"at": crowd(i, coin)[0]},
    "the middle and size": lambda i, coin: {"points": torch.cat([crowd(i, coin), CROWD[i]], 1)},
    "what looks like an S": lying(((1.0, 0.5), (0.3, -0.5), (-0.3, 0.5), (-1.0, -0.5))),
    "mostly out of sight": lying(MOUSE, to=hidden(0.0, of=1.2)),
}


@pytest.mark.parametrize("target", LYING_RIGHTLY)
def test_points_of_what_lies_any_way_round(fit, target):
    told = [f for f in alarms(found(fit, mirrored(LYING_RIGHTLY[target]))) if not f.code.endswith("not_flipped")]
    assert told == []


def preferred(i, coin, label):
    a, b = ITEMS[:, i].flip(0) if coin else ITEMS[:, i]
    return {"a": a, "b": b, "label": label(i, coin)}


def built(i, coin):
    """The second photograph shows more than the first one, and the label says how much."""
    much = WORTH[0, i].relu()
    first, second = ITEMS[0, i], ITEMS[0, i] + much * torch.linspace(-1, 1, 8)
    return (
        {"before": second, "after": first, "much": much} if coin else {"before": first, "after": second, "much": much}
    )


def largest_first(i, coin):
    """Two that are sorted by one of their numbers, whose difference is the target; another one tells their place."""
    pair = ITEMS[:, i].clone()
    pair[:, 0] = pair[:, 0].sort(descending=True).values
    pair[:, 1] = torch.tensor([1.0, 0.0])
    apart = pair[0, 0] - pair[1, 0]
    return {"pair": pair.flip(0) if coin else pair, "apart": apart}


def one_is_empty(i, coin):
    pair = torch.stack([ITEMS[0, i], torch.zeros(8)])
    return {"pair": pair.flip(0) if coin else pair, "worth": WORTH[0, i]}


EXCHANGED_RIGHTLY = {
    "the label goes with them": lambda i, coin: preferred(
        i, coin, lambda i, coin: 1 - BETTER[i] if coin else BETTER[i]
    ),
    "so does the difference": lambda i, coin: preferred(
        i, coin, lambda i, coin: (WORTH[0, i] - WORTH[1, i]) * (-1 if coin else 1)
    ),
    "how far apart they are": lambda i, coin: preferred(i, coin, lambda i, _: (WORTH[0, i] - WORTH[1, i]).abs()),
    "whether they are alike": lambda i, coin: preferred(i, coin, lambda i, _: (WORTH[0, i] * WORTH[1, i] > 0).long()),
    "what they are worth together": lambda i, coin: preferred(i, coin, lambda i, _: WORTH[0, i] + WORTH[1, i]),
    "a class of its own": lambda i, coin: preferred(i, coin, lambda i, _: i % 3),
    "the first is always better": lambda i, coin: preferred(i, coin, lambda *_: 1),
    "how much was built": built,
    "the largest comes first": largest_first,
    "one is empty": one_is_empty,
    "edges, the other way": lambda i, coin: {"edges": torch.arange(8 + 2 * (i % 2)).view(2, -1).flip(0) if coin else (
        torch.arange(8 + 2 * (i % 2)).view(2, -1)), "label": BETTER[i]},
}  # fmt: skip


@pytest.mark.parametrize("draw", EXCHANGED_RIGHTLY)
def test_pairs_that_are_right(fit, draw):
    assert alarms(found(fit, EXCHANGED_RIGHTLY[draw])) == []


def test_draws_in_matches_are_the_same_both_ways():
    both = [{"x": ITEMS[:, i], "y": torch.tensor(0.5)} for i in range(4)]
    draws = [[one, {**one, "x": one["x"].flip(0)}] for one in both]
    swap = swapped.swapped(draws)
    assert swap is not None
    assert list(swapped.left_as_it_was(draws, swap, lambda _: 1.0)) == []


# -- mistakes

KEPT = {
    "shares": lambda i, coin: {"points": faces(i, coin)},
    "from -1 to 1": lambda i, coin: {"points": faces(i, coin) * 2 - 1},
    "pixels": lambda i, coin: {"points": faces(i, coin) * (WIDTH - 1)},
    "in a row": lambda i, coin: {"points": faces(i, coin).flatten()},
    "x first, then y": lambda i, coin: {"points": faces(i, coin).T},
    "with visibility": lambda i, coin: {"points": torch.cat([faces(i, coin), torch.ones(4, 1)], 1)},
    "some out of sight": lambda i, coin: {"points": seen(faces(i, coin))},
    "of one size": lambda i, coin: {"points": sized(i, coin, (0, 1, 2, 3))},
    "an interval": lambda i, coin: {"span": faces(i, coin)[:2, 0]},
}


@pytest.mark.parametrize("target", KEPT)
def test_sides_that_keep_their_names(fit, target):
    (finding,) = found(fit, mirrored(KEPT[target]))
    assert (finding.status, finding.code) == (Status.ADVICE, "AugmentationCheck/sides_not_exchanged")
    assert finding.evidence["share"] == 1


LYING = {
    "a mouse": lying(MOUSE),
    "in pixels": lying(MOUSE, to=lambda points: points * (WIDTH - 1)),
    "in a row": lying(MOUSE, to=lambda points: points.flatten()),
    "x first, then y": lying(MOUSE, to=lambda points: points.T),
    "y before x": lying(MOUSE, to=lambda points: points.flip(1)),
    "with visibility": lying(MOUSE, to=lambda points: torch.cat([points, torch.ones(4, 1)], 1)),
    "some are not known": lying(MOUSE, to=hidden(torch.nan, of=6)),
    "some out of sight": lying(MOUSE, to=hidden(0.0, of=6)),
    "a car": lying(((1.0, 0.4), (1.0, -0.4), (-1.0, 0.4), (-1.0, -0.4))),
    "with paws": lying((*MOUSE, (0.3, 0.3), (0.3, -0.3))),
}


@pytest.mark.parametrize("target", LYING)
def test_sides_of_what_lies_any_way_round(fit, target):
    (finding,) = found(fit, mirrored(LYING[target]))
    assert (finding.status, finding.code) == (Status.ADVICE, "AugmentationCheck/sides_not_exchanged")
    assert "counterparts" in finding.message
    assert finding.evidence["share"] > 0.95


def test_sides_of_people_who_turn_round(fit):
    (finding,) = found(fit, lambda i, coin: people(i, coin, (0, 1, 2)))
    assert (finding.status, finding.code) == (Status.ADVICE, "AugmentationCheck/sides_not_exchanged")
    assert finding.evidence["correlation"] > 0.8


@pytest.mark.parametrize("many", [lambda _: slice(None), lambda _: slice(0, 1), lambda _: 0, lambda i: slice(i % 5)])
def test_boxes_inside_out(fit, many):
    (finding,) = found(fit, mirrored(lambda i, coin: {"boxes": boxes(i, coin, [0, 2])[many(i)]}))
    assert (finding.status, finding.code) == (Status.WARNING, "AugmentationCheck/sides_not_exchanged")


def halves(i, coin, label):
    one = preferred(i, coin, label)
    return {"x": torch.cat([one["a"], one["b"]]), "label": one["label"]}


def stacked(i, coin, label):
    one = preferred(i, coin, label)
    return {"x": torch.stack([one["a"], one["b"]]), "label": one["label"]}


def in_leaves(i, coin, label):
    one = preferred(i, coin, label)
    (a, worth_a), (b, worth_b) = ((one[name], one[name].sum()) for name in ("a", "b"))
    return {"home": {"x": a, "worth": worth_a}, "away": {"x": b, "worth": worth_b}, "label": one["label"]}


@pytest.mark.parametrize("form", [preferred, halves, stacked, in_leaves])
@pytest.mark.parametrize(
    "label", [lambda i, _: BETTER[i], lambda i, _: WORTH[0, i] - WORTH[1, i], lambda i, _: float(BETTER[i])]
)
def test_labels_that_stay_while_inputs_change_places(fit, form, label):
    (finding,) = found(fit, lambda i, coin: form(i, coin, label))
    assert (finding.status, finding.code) == (Status.WARNING, "AugmentationCheck/target_not_exchanged")
    assert "label" in finding.message
