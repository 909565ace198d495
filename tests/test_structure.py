from collections import UserDict, namedtuple
from dataclasses import dataclass

import torch
from torch import nn

from lightning_recipe.structure import by_parameter, leading_size, snapshot, tensors

X = torch.arange(6.0).view(3, 2)


@dataclass
class Pair:
    first: torch.Tensor
    name: str = "pair"


@dataclass(slots=True)
class Slots:
    x: torch.Tensor


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


def test_leading_size():
    assert leading_size([torch.zeros(4, 2), torch.zeros(4), torch.zeros(7)]) == 4
    assert leading_size(torch.tensor(1.0)) is None


def test_arguments_by_the_names_of_forward():
    class Net(nn.Module):
        def forward(self, x, *rest, scale=1, **more):
            pass

    assert by_parameter(Net(), (1, 2, 3), {"extra": 4}) == {"x": 1, "rest": (2, 3), "extra": 4}
    assert by_parameter(Net(), (), {}) == {}  # a call that forward itself will refuse
