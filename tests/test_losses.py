import ast
import math
import re
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import lightning_recipe
from lightning_recipe.losses.constants import is_contrastive
from lightning_recipe.losses.floor import floor
from lightning_recipe.losses.references import references
from lightning_recipe.losses.table import LOSSES, TABLE, Takes
from lightning_recipe.record.step import LossCall

PACKAGE = Path(lightning_recipe.__file__).parent


def names_outside_the_table():
    """Strings of the package that are the name of a loss function, or its end; texts and docstrings may hold some."""
    named = (*TABLE, "with_logits", "_loss", "cross_entropy")
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in named:
                yield f"{path.relative_to(PACKAGE).as_posix()}:{node.lineno}"


def test_the_names_of_loss_functions_are_in_one_file_only():
    assert {place.partition(":")[0] for place in names_outside_the_table()} == {"losses/table.py"}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("losses/*.py")), ids=lambda path: path.stem)
def test_the_room_knows_the_record_only_and_the_table_nothing(path):
    imported = re.findall(r"^ *from lightning_recipe\.(\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(imported) <= (set() if path.stem == "table" else {"losses", "record", "finding"})


def test_the_table_holds_every_loss_function_of_torch():
    names = {n for n in dir(F) if n.endswith(("_loss", "cross_entropy", "kl_div", "with_logits")) and n[0] != "_"}
    assert names == set(LOSSES.values()) <= TABLE.keys()
    assert all(function is getattr(F, name) for function, name in LOSSES.items())


# -- the best constant, and the floor


def call(name, prediction, target, **options):
    function = getattr(F, name)
    arguments = {"input": prediction, "target": target, **options}
    arguments |= {"ignore_index": -100} if name in {"cross_entropy", "nll_loss"} else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = function(**arguments)
    return LossCall(name, function, arguments, value, len(prediction), "a.py:1", target_from_net=False)


def normal(rng, *shape):
    return torch.randn(*shape, generator=rng)


def uniform(rng, *shape):
    return torch.rand(*shape, generator=rng)


def labels(rng, *shape, of=3):
    return torch.randint(of, shape, generator=rng)


def soft(rng, *shape):
    return (2 * normal(rng, *shape)).softmax(1)


CALLS = {  # six examples each; of generator, the width of a loss's bend and a reduction
    "cross_entropy": lambda g, w, r: (normal(g, 6, 3), labels(g, 6), {"reduction": r}),
    "cross_entropy, weights, smoothing": lambda g, w, r: (
        normal(g, 6, 3), labels(g, 6), {"weight": uniform(g, 3), "label_smoothing": 0.2, "reduction": r},
    ),
    "cross_entropy, ignored": lambda g, w, r: (
        normal(g, 6, 3), torch.where(torch.arange(6) < 2, -100, labels(g, 6)), {"reduction": r},
    ),
    "cross_entropy, soft": lambda g, w, r: (normal(g, 6, 3), soft(g, 6, 3), {"weight": uniform(g, 3), "reduction": r}),
    "cross_entropy, maps": lambda g, w, r: (normal(g, 6, 3, 2, 2), labels(g, 6, 2, 2), {"reduction": r}),
    "nll_loss": lambda g, w, r: (normal(g, 6, 3).log_softmax(1), labels(g, 6), {"weight": uniform(g, 3)}),
    "kl_div": lambda g, w, r: (normal(g, 6, 3).log_softmax(1), soft(g, 6, 3), {"reduction": "batchmean"}),
    "binary_cross_entropy": lambda g, w, r: (
        uniform(g, 6, 2), uniform(g, 6, 2), {"weight": uniform(g, 6, 2), "reduction": r},
    ),
    "binary_cross_entropy_with_logits": lambda g, w, r: (
        normal(g, 6, 2), uniform(g, 6, 2).round(), {"pos_weight": 3 * uniform(g, 2), "reduction": r},
    ),
    "binary_cross_entropy_with_logits, maps": lambda g, w, r: (
        normal(g, 6, 1, 3, 3), uniform(g, 6, 1, 3, 3).round(), {"reduction": r},
    ),
    "multilabel_soft_margin_loss": lambda g, w, r: (normal(g, 6, 2), uniform(g, 6, 2).round(), {"reduction": r}),
    "mse_loss": lambda g, w, r: (normal(g, 6, 2), normal(g, 6, 2), {"reduction": r}),
    "mse_loss, maps": lambda g, w, r: (normal(g, 6, 2, 3, 3), normal(g, 6, 2, 3, 3), {"reduction": r}),
    "l1_loss": lambda g, w, r: (normal(g, 6), normal(g, 6) ** 3, {"reduction": r}),
    "l1_loss, maps": lambda g, w, r: (normal(g, 6, 3, 3, 1), normal(g, 6, 3, 3, 1), {"reduction": r}),
    "huber_loss": lambda g, w, r: (normal(g, 6, 2), normal(g, 6, 2) ** 3, {"delta": w, "reduction": r}),
    "huber_loss, maps": lambda g, w, r: (normal(g, 6, 1, 3, 3), normal(g, 6, 1, 3, 3) ** 3, {"delta": w}),
    "smooth_l1_loss": lambda g, w, r: (normal(g, 6), 10 * normal(g, 6) ** 3, {"beta": w, "reduction": r}),
    "poisson_nll_loss": lambda g, w, r: (normal(g, 6), labels(g, 6, of=9).float(), {"log_input": True, "reduction": r}),
    "poisson_nll_loss, rates": lambda g, w, r: (
        uniform(g, 6, 2), labels(g, 6, 2, of=9).float(), {"log_input": False, "reduction": r},
    ),
}  # fmt: skip
LISTS = [case for case in CALLS if "maps" not in case]
ONE_FOR_ALL_POSITIONS = [case for case in CALLS if "cross_entropy, maps" in case and "binary" not in case]
made = st.builds(
    lambda case, seed, width, reduction: (
        case,
        call(case.split(",")[0], *(parts := CALLS[case](torch.Generator().manual_seed(seed), width, reduction))[:2],
             **parts[2]),
        torch.Generator().manual_seed(seed + 1),
    ),
    st.sampled_from(sorted(CALLS)), st.integers(0, 10_000), st.sampled_from([0.05, 0.5, 1.0, 4.0]),
    st.sampled_from(["mean", "sum", "none"]),
)  # fmt: skip


def valid(loss_call, values):
    """Any numbers, made a prediction of the kind that the loss takes."""
    match TABLE[loss_call.name].takes:
        case Takes.LOG_PROBABILITIES:
            return values.log_softmax(1)
        case Takes.PROBABILITIES:
            return values.sigmoid()
        case Takes.RATES:
            return values if loss_call.arguments["log_input"] else values.exp()
    return values


def value(loss_call, prediction):
    arguments = {
        k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in loss_call.arguments.items()
    }
    return float(loss_call.function(**arguments | {"input": prediction}).mean())


@settings(max_examples=80, deadline=None)
@given(made, st.floats(0.01, 4))
def test_no_constant_is_better_than_the_best(given_call, size):
    _, loss_call, rng = given_call
    found = references(loss_call)
    lowest = found.best_constant - 1e-9 * max(1, abs(found.best_constant))
    like = loss_call.arguments["input"].double()
    shape = [1] * like.ndim
    if like.ndim > 1:  # one value for each output, along the dimension of the classes or channels
        shape[list(like.shape).index(found.constant.numel(), 1)] = -1
    for centre in (found.constant, torch.zeros_like(found.constant)):
        other = (centre + size * torch.randn(centre.shape, generator=rng)).view(shape).expand(like.shape)
        assert value(loss_call, valid(loss_call, other)) >= lowest
    best = found.constant.view(shape).expand(like.shape)
    assert value(loss_call, best) == pytest.approx(found.best_constant, rel=1e-9, abs=1e-9)


@settings(max_examples=80, deadline=None)
@given(made, st.floats(0.01, 4), st.booleans())
def test_no_prediction_is_better_than_the_floor(given_call, size, doubles):
    _, loss_call, rng = given_call
    like = loss_call.arguments["input"].double()
    numbers = torch.arange(6) % 3 if doubles else torch.arange(6)
    found = floor(loss_call, {"x": numbers[:, None].float()})
    lowest = found.value - 1e-9 * max(1, abs(found.value))
    target = loss_call.arguments["target"]
    for centre in (torch.zeros(()), target if target.shape == like.shape else torch.zeros(())):
        for _ in range(5):
            other = centre + size * torch.randn(like.shape, generator=rng, dtype=torch.double)
            assert value(loss_call, valid(loss_call, other[numbers])) >= lowest
    assert found.ignorant >= found.value


@settings(max_examples=40, deadline=None)
@given(made)
def test_floor_and_references_agree_on_the_best_constant(given_call):
    case, loss_call, _ = given_call
    ignorant, best = floor(loss_call).ignorant, references(loss_call).best_constant
    if case in LISTS + ONE_FOR_ALL_POSITIONS:
        assert ignorant == pytest.approx(best, rel=1e-9, abs=1e-9)
    else:  # of numbers each place of a map has its own, where a bias has one for each channel
        assert ignorant <= best + 1e-9 * max(1, abs(best))


@pytest.mark.parametrize("case", [case for case in CALLS if "loss, maps" in case or "logits, maps" in case])
def test_for_maps_the_constant_is_one_for_each_channel_and_for_the_floor_one_for_each_place(case):
    loss_call = call(case.split(",")[0], *(parts := CALLS[case](torch.Generator().manual_seed(3), 1.0, "mean"))[:2])
    prediction, target = parts[:2]
    channel = 1 if prediction.shape[1] < 3 else 3
    lists = {
        "constant": (prediction, target.movedim(channel, -1).reshape(-1, prediction.shape[channel])),
        "place": (prediction, target.flatten(1)),
    }
    expected = {
        name: references(call(loss_call.name, torch.zeros_like(flat), flat)).best_constant
        for name, (_, flat) in lists.items()
    }
    assert references(loss_call).best_constant == pytest.approx(expected["constant"], rel=1e-6)
    assert floor(loss_call).ignorant == pytest.approx(expected["place"], rel=1e-6)


def test_large_numbers_leave_no_reason_behind():
    y = 1e7 * torch.randn(6, generator=torch.Generator().manual_seed(0))
    found = floor(call("l1_loss", torch.zeros(6), y))
    assert (found.value, found.reason) == (0, "")


# -- classes that are the examples


@pytest.mark.parametrize(
    ("prediction", "target", "is_one"),
    [
        (torch.randn(5, 5), torch.arange(5), True),
        (torch.randn(5, 5), torch.eye(5), True),  # soft targets of a square
        (torch.randn(6, 5), torch.tensor([3, 4, 5, 0, 1, 2]), True),  # without the diagonal
        (torch.randn(5, 5), torch.tensor([0, 1, 2, 3, 3]), False),
        (torch.randn(2, 2), torch.arange(2), False),  # two examples of two classes
        (torch.randn(5, 7), torch.arange(5), False),
        (torch.randn(5, 5, 2), torch.arange(10).view(5, 2) % 5, False),
    ],
)
def test_classes_that_are_the_examples(prediction, target, is_one):
    loss_call = LossCall(
        "cross_entropy", F.cross_entropy, {"input": prediction, "target": target, "ignore_index": -100},
        torch.tensor(math.log(5)), len(prediction), "a.py:1", target_from_net=False,
    )  # fmt: skip
    assert is_contrastive(loss_call) is is_one
    if target.is_floating_point() or prediction.shape[1] > int(target.max()):
        assert (floor(loss_call) is None) is is_one
        assert not (is_one and references(loss_call).has_prior)
