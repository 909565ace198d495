from collections import UserDict, namedtuple
from collections.abc import MutableMapping
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from lightning_recipe.record.copies import snapshot
from lightning_recipe.record.modules import by_parameter
from lightning_recipe.record.tensors import leading_size, mapped, tensors

X = torch.arange(6.0).view(3, 2)


@dataclass
class Pair:
    first: torch.Tensor
    name: str = "pair"


@dataclass(slots=True)
class Slots:
    x: torch.Tensor


@dataclass(frozen=True)
class Frozen:
    x: torch.Tensor


@dataclass
class Made:
    """As chemprop's molecules: its tensor is made by itself."""

    x: torch.Tensor = field(init=False)

    def __post_init__(self):
        self.x = X.clone()


class BareSlots:
    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


class OwnMapping(dict):
    """Its constructor takes no mapping."""

    def __init__(self, x):
        super().__init__(x=x)

    @property
    def x(self):
        return self["x"]


class Locked:
    """Can't be copied."""

    def __init__(self, x):
        self.x = x

    def __copy__(self):
        raise TypeError


class Graph:
    """As PyTorch Geometric's batches: knows its tensors, and copies itself."""

    def __init__(self, x):
        self.x, self._store = x, {"hidden": x}

    def to_dict(self):
        return {"x": self.x}

    def clone(self):
        return Graph(self.x.clone())


class Custom:
    def __init__(self, x):
        self.x = x
        self.me = self


Named = namedtuple("Named", "left right")  # noqa: PYI024


def test_every_kind_of_container_is_entered():
    batch = {
        "a": [X, (X, None)],
        "b": Pair(X),
        "c": Graph(X),
        "d": UserDict(e=X),
        "f": Named(X, "text"),
        "g": Slots(X),
        1: X,
    }
    paths = [path for path, _ in tensors(batch)]
    assert paths == ["a[0]", "a[1][0]", "b.first", "c.x", "d.e", "f.left", "g.x", "[1]"]


def test_cyclic_objects_end():
    assert {path for path, _ in tensors(Custom(X))} >= {"x"}


def test_what_holds_no_tensors_gives_none():
    assert [list(tensors(value)) for value in (None, "x", 3, int, nn.Linear(1, 1), [])] == [[]] * 6


def test_snapshots_do_not_change_later():
    for make in (lambda x: [x], lambda x: {"x": x}, Pair, Slots, Graph, lambda x: Named(x, 1)):
        x = X.clone()
        original = make(x)
        copy = snapshot(original)
        x.zero_()
        assert type(copy) is type(original)
        (kept,) = [tensor for _, tensor in tensors(copy)]
        assert torch.equal(kept, X)


def test_snapshots_of_inference_tensors_can_learn():
    with torch.inference_mode():
        copy = snapshot(X * 2)
    assert (copy.requires_grad_() * 2).sum().requires_grad


class Labelled(torch.Tensor):
    """Names its columns, and copies itself with them; operations give it without, and then it can't."""

    def clone(self, *args, **kwargs):
        copy = super().clone(*args, **kwargs)
        copy.labels = list(self.labels)
        return copy


def test_tensors_that_can_not_copy_themselves_are_copied_as_plain_ones():
    x = X.clone().as_subclass(Labelled)
    x.labels = ["a", "b"]
    copy = snapshot([x, 2 * x])
    assert type(copy[1]) is torch.Tensor
    x.zero_()
    assert torch.equal(copy[1], 2 * X)


IDS = torch.zeros(40, dtype=torch.long)
LENGTHS = [2, 1, 2, 3, 2, 2, 1, 2]


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        ([torch.zeros(4, 2), torch.zeros(4), torch.zeros(7)], 4),
        ([IDS, IDS[:8], IDS[:8]], 8),  # words, where texts begin, labels
        ([torch.zeros(8, 3, 16, 16), torch.zeros(8, 3, 8, 8), torch.zeros(8, 3, 4, 4)], 8),  # a pyramid
        ([torch.zeros(8, 1, 96), {"heat": torch.zeros(8, 3), "peaks": [torch.zeros(k, 2) for k in LENGTHS]}], 8),
        ([[torch.zeros(3, 9, 9)] * 8, [{"boxes": torch.zeros(k, 4), "labels": IDS[:k]} for k in LENGTHS]], 8),
        ([{"image": torch.zeros(3, 9, 9), "boxes": torch.zeros(k, 4)} for k in LENGTHS[:3]], 3),
        ([torch.zeros(k, 5) for k in LENGTHS], 8),
        ([torch.zeros(30, 3), torch.zeros(2, 50), torch.zeros(4)], 30),  # a graph
    ],
)
def test_leading_size(batch, size):
    assert leading_size(batch) == size


def test_leading_size_of_nothing():
    assert leading_size(torch.tensor(1.0)) is None


def test_arguments_by_the_names_of_forward():
    class Net(nn.Module):
        def forward(self, x, *rest, scale=1, **more):
            pass

    assert by_parameter(Net(), (1, 2, 3), {"extra": 4}) == {"x": 1, "rest": (2, 3), "extra": 4}
    assert by_parameter(Net(), (), {}) == {}  # a call that forward itself will refuse


@pytest.mark.parametrize("make", [Custom, Frozen, Slots, BareSlots, OwnMapping, lambda _: Made()])
@pytest.mark.parametrize("nest", [lambda value: value, lambda value: [{"a": (value, "text")}]])
def test_a_snapshot_is_a_copy_whatever_the_tensors_lie_in(make, nest):
    original = make(X.clone())
    copy = snapshot(nest(original))
    copy = copy if nest(0) == 0 else copy[0]["a"][0]
    assert type(copy) is type(original)
    assert copy is not original
    original.x.add_(1)
    assert torch.equal(copy.x, X)


def test_cycles_and_shared_objects_stay_what_they_are():
    one = Custom(X)
    copy, again = mapped([one, one], torch.Tensor, lambda x: x + 1)
    assert copy is again
    assert copy.me is copy
    assert torch.equal(copy.x, X + 1)


def test_what_can_not_be_copied_or_holds_nothing_is_kept():
    locked, empty, frozen = Locked(X), Custom("text"), Frozen("text")
    assert [a is b for a, b in zip(snapshot([locked, empty]), [locked, empty], strict=True)] == [True, True]
    assert snapshot([X, frozen])[1] == frozen


class Keeps(MutableMapping):
    """A mapping of one's own, which keeps its items in an attribute."""

    def __init__(self, items):
        self.kept = items

    def __getitem__(self, key):
        return self.kept[key]

    def __setitem__(self, key, value):
        self.kept[key] = value

    def __delitem__(self, key):
        del self.kept[key]

    def __iter__(self):
        return iter(self.kept)

    def __len__(self):
        return len(self.kept)


class Table(Keeps):
    """Copies itself, and knows how many rows it has, as a TensorDict does."""

    def __init__(self, items, rows=0):
        super().__init__(items)
        self.rows = rows

    def clone(self):
        return Table({name: value.clone() for name, value in self.items()}, self.rows)


def test_a_mapping_that_copies_itself_keeps_what_else_it_knows():
    table = Table({"x": X}, 3)
    copy = mapped([table], torch.Tensor, lambda x: x + 1)[0]
    assert copy.rows == snapshot([table])[0].rows == 3
    assert torch.equal(copy["x"], X + 1)
    assert table["x"] is X


class Slotted:
    __slots__ = ("__weakref__", "x")

    def __init__(self, x):
        self.x = x


def test_a_mapping_of_ones_own_keeps_its_own_tensors():
    x = torch.ones(2, requires_grad=True) * 2
    batch = Keeps({"x": x})
    copied = snapshot(batch)
    assert batch["x"] is x
    assert copied["x"] is not x
    assert copied["x"].tolist() == [2, 2]


def test_slots_with_weak_references_are_copied():
    item = Slotted(torch.ones(2))
    copied = snapshot(item)
    item.x.add_(1)
    assert copied.x.tolist() == [1, 1]
