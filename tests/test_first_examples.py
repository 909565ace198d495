from collections import UserDict
from dataclasses import dataclass

import pytest
import torch

from lightning_recipe.trial.first_examples import first_examples, first_of


@dataclass(frozen=True, slots=True)
class Window:
    past: torch.Tensor
    names: list
    weight: torch.Tensor | None = None


@dataclass
class Counted:
    x: torch.Tensor
    batch_size: int


class Encoding(UserDict):
    """As tokenizers return."""


class Table(UserDict):
    """Copies and slices itself, and knows its size, as a TensorDict does."""

    def __init__(self, data, size):
        super().__init__(data)
        self.size = size

    def clone(self):
        return Table({name: value.clone() for name, value in self.items()}, self.size)

    def __getitem__(self, key):
        if isinstance(key, slice):
            return Table({name: value[key] for name, value in self.items()}, len(range(self.size)[key]))
        return super().__getitem__(key)


class Graph:
    """Copies itself, and has a row for each node."""

    def __init__(self, x):
        self.x = x

    def to_dict(self):
        return {"x": self.x}

    def clone(self):
        return Graph(self.x.clone())


def test_first_examples_of_nested_batches():
    batch = ({"x": torch.arange(20), "n": torch.tensor(3)}, [{"id": i} for i in range(20)], None)
    x, ids, _ = first_examples(batch, 2)
    assert x["x"].tolist() == [0, 1]
    assert ids == [{"id": 0}, {"id": 1}]
    assert x["n"] == 3


def test_containers_of_other_classes_stay_what_they_are():
    x, names = torch.arange(20), [str(i) for i in range(20)]
    batch = {"window": Window(x, names), "encoding": Encoding(ids=x), "table": Table({"x": x}, 20)}
    few = first_examples(batch, 2)
    assert few["window"] == Window(few["window"].past, ["0", "1"])
    assert type(few["encoding"]) is Encoding
    assert (type(few["table"]), few["table"].size) == (Table, 2)
    for part in (few["window"].past, few["encoding"]["ids"], few["table"]["x"]):
        assert part.tolist() == [0, 1]
    assert len(batch["window"].past) == len(batch["encoding"]["ids"]) == batch["table"].size == 20


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(4, 3),  # as few already
        (torch.zeros(20, 3), torch.zeros(2, 64)),  # nodes and edges
        [torch.zeros(20, 3), Graph(torch.zeros(20))],
        type("Mapped", (UserDict,), {})({"graph": Graph(torch.zeros(20))}),
        Counted(torch.zeros(20), 20),
        type("Refuses", (Table,), {"__getitem__": UserDict.__getitem__})({"x": torch.zeros(20)}, 20),
        "no tensors",
        None,
    ],
)
def test_what_has_no_examples_is_left_whole(batch):
    assert first_examples(batch, 8) is batch


def test_only_tensors_with_a_row_for_each_example_are_cut():
    rows, scale = torch.zeros(20, 3), torch.ones(3)
    assert first_of(rows, 8, 20).shape == (8, 3)
    assert first_of(rows.to_sparse(), 8, 20).shape == (8, 3)
    assert first_of(scale, 8, 20) is scale
