import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_recipe.losses.references import NotComparableError, references
from lightning_recipe.losses.table import TABLE
from lightning_recipe.record.probe import Probe

RNG = torch.Generator().manual_seed(0)
N = 40
CLASS = torch.randint(3, (N,), generator=RNG)
COUNTS = CLASS.bincount().double()
PRIOR = COUNTS / N
RATE = 0.1
BINARY = (torch.arange(N) < RATE * N).float()
Y = 50 + 7 * torch.randn(N, generator=RNG)
COUNT = torch.poisson(torch.full((N,), 4.0), generator=RNG)
SOFT = torch.rand(N, 3, generator=RNG).softmax(1)


def entropy(p):
    p = torch.as_tensor(p, dtype=torch.double)
    return float(-torch.special.xlogy(p, p).sum())


def binary_entropy(p):
    return entropy([p, 1 - p])


def seen(function, prediction, *args, **kwargs):
    """The probe's record of one call on a prediction that has a gradient."""

    class Step(nn.Module):
        def training_step(self, batch):
            return function(prediction.clone().requires_grad_() * 1, *args, **kwargs).sum()

    module = Step()
    probe = Probe.attach(module, "training_step")
    module.training_step(None)
    return probe.result().loss_calls[0]


def logits(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


WEIGHT = torch.tensor([1.0, 2.0, 5.0])
WEIGHTED = WEIGHT.double() * COUNTS / (WEIGHT.double() * COUNTS).sum()
SMOOTH = 0.9 * PRIOR + 0.1 / 3
IGNORED = torch.where(torch.arange(N) < 10, torch.tensor(-100), CLASS)
KEPT = CLASS[10:].bincount() / 30
MEAN, VAR = Y.double().mean(), Y.double().var(correction=0)
MEDIAN = Y.double().median()
SIGN = BINARY * 2 - 1
LABELS = (torch.rand(N, 3, generator=RNG) < torch.tensor([0.1, 0.3, 0.6])).float()
RATES = LABELS.double().mean(0)

CLOSED_FORMS = {  # function, arguments, know-nothing, best constant
    "cross_entropy": (F.cross_entropy, (logits(N, 3), CLASS), {}, math.log(3), entropy(PRIOR)),
    "cross_entropy, weights": (
        F.cross_entropy, (logits(N, 3), CLASS), {"weight": WEIGHT}, math.log(3), entropy(WEIGHTED),
    ),
    "cross_entropy, smoothing": (
        F.cross_entropy, (logits(N, 3), CLASS), {"label_smoothing": 0.1}, math.log(3), entropy(SMOOTH),
    ),
    "cross_entropy, ignored": (F.cross_entropy, (logits(N, 3), IGNORED), {}, math.log(3), entropy(KEPT)),
    "cross_entropy, summed": (
        F.cross_entropy, (logits(N, 3), CLASS), {"reduction": "sum"}, N * math.log(3), N * entropy(PRIOR),
    ),
    "cross_entropy, each": (F.cross_entropy, (logits(N, 3), CLASS), {"reduction": "none"}, math.log(3), entropy(PRIOR)),
    "cross_entropy, soft": (F.cross_entropy, (logits(N, 3), SOFT), {}, math.log(3), entropy(SOFT.double().mean(0))),
    "cross_entropy, dense": (
        F.cross_entropy, (logits(4, 3, 10), CLASS.view(4, 10)), {}, math.log(3), entropy(PRIOR),
    ),
    "cross_entropy, half": (F.cross_entropy, (logits(N, 3).bfloat16(), CLASS), {}, math.log(3), entropy(PRIOR)),
    "nll_loss": (F.nll_loss, (logits(N, 3).log_softmax(1), CLASS), {}, math.log(3), entropy(PRIOR)),
    "kl_div": (
        F.kl_div, (logits(N, 3).log_softmax(1), SOFT), {"reduction": "batchmean"},
        math.log(3) - sum(map(entropy, SOFT)) / N, entropy(SOFT.double().mean(0)) - sum(map(entropy, SOFT)) / N,
    ),
    "bce": (F.binary_cross_entropy, (logits(N).sigmoid(), BINARY), {}, math.log(2), binary_entropy(RATE)),
    "bce with logits": (
        F.binary_cross_entropy_with_logits, (logits(N), BINARY), {}, math.log(2), binary_entropy(RATE),
    ),
    "bce with logits, columns": (
        F.binary_cross_entropy_with_logits, (logits(N, 3), LABELS), {},
        math.log(2), sum(binary_entropy(float(r)) for r in RATES) / 3,
    ),
    "bce with logits, pos_weight 9": (  # balances one in ten: both classes weigh 0.9
        F.binary_cross_entropy_with_logits, (logits(N), BINARY), {"pos_weight": torch.tensor(9.0)},
        1.8 * math.log(2), 1.8 * math.log(2),
    ),
    "multilabel soft margin": (
        F.multilabel_soft_margin_loss, (logits(N, 3), LABELS), {},
        math.log(2), sum(binary_entropy(float(r)) for r in RATES) / 3,
    ),
    "soft margin": (F.soft_margin_loss, (logits(N), SIGN), {}, math.log(2), binary_entropy(RATE)),
    "mse": (F.mse_loss, (logits(N), Y), {}, float(MEAN**2 + VAR), float(VAR)),
    "mse, column": (F.mse_loss, (logits(N, 1), Y[:, None]), {}, float(MEAN**2 + VAR), float(VAR)),
    "l1": (F.l1_loss, (logits(N), Y), {}, float(MEAN), float((Y.double() - MEDIAN).abs().mean())),
    "huber, wide": (F.huber_loss, (logits(N), Y), {"delta": 1e3}, float(MEAN**2 + VAR) / 2, float(VAR) / 2),
    "smooth l1, wide": (F.smooth_l1_loss, (logits(N), Y), {"beta": 1e3}, float(MEAN**2 + VAR) / 2e3, float(VAR) / 2e3),
    "poisson": (
        F.poisson_nll_loss, (logits(N), COUNT), {}, 1.0, float(COUNT.mean() * (1 - COUNT.double().mean().log())),
    ),
    "poisson, rates": (
        F.poisson_nll_loss, (logits(N).exp(), COUNT), {"log_input": False},
        1.0, float(COUNT.mean() * (1 - COUNT.double().mean().log())),
    ),
    "gaussian": (
        F.gaussian_nll_loss, (logits(N), Y, torch.ones(N)), {}, float(MEAN**2 + VAR) / 2, float(VAR.log() + 1) / 2,
    ),
    "multi margin": (F.multi_margin_loss, (logits(N, 2), BINARY.long()), {}, 0.5, RATE),
    "multilabel margin": (
        F.multilabel_margin_loss, (logits(N, 2), torch.stack([BINARY.long(), torch.full((N,), -1)], 1)), {}, 0.5, RATE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CLOSED_FORMS)
def test_closed_forms(case):
    function, args, options, know_nothing, best = CLOSED_FORMS[case]
    found = references(seen(function, *args, **options))
    assert found.know_nothing == pytest.approx(know_nothing, rel=1e-4)
    assert found.best_constant == pytest.approx(best, rel=1e-4)
    assert found.measured == pytest.approx(float(function(*args, **options).double().mean()), rel=1e-2)


def test_every_supported_function_has_a_closed_form_test():
    tested = {function.__name__ for function, *_ in CLOSED_FORMS.values()}
    assert tested == {loss.name for loss in TABLE.values() if loss.constant}


@pytest.mark.parametrize(
    ("case", "constant"),
    [
        ("mse", float(MEAN)),
        ("bce with logits", math.log(RATE / (1 - RATE))),
        ("bce", RATE),
        ("poisson", math.log(float(COUNT.mean()))),
    ],
)
def test_the_constant_itself(case, constant):
    function, args, options, *_ = CLOSED_FORMS[case]
    assert float(references(seen(function, *args, **options)).constant) == pytest.approx(constant, rel=1e-4)


def test_the_constant_of_l1_is_a_median():
    constant = float(references(seen(F.l1_loss, logits(N), Y)).constant)
    assert max((constant > Y).sum(), (constant < Y).sum()) <= N // 2


@settings(max_examples=40, deadline=None)
@given(case=st.sampled_from(sorted(CLOSED_FORMS)), seed=st.integers(0, 1000), size=st.floats(0.01, 3))
def test_no_other_constant_is_better(case, seed, size):
    function, args, options, *_ = CLOSED_FORMS[case]
    if case == "gaussian":
        return  # has two parameters
    found = references(seen(function, *args, **options))
    shift = size * torch.randn(found.constant.shape, generator=torch.Generator().manual_seed(seed)).double()
    other = found.constant + shift
    if case in {"bce", "poisson, rates"}:
        other = other.clamp(1e-3, 1 - 1e-3 if case == "bce" else None)
    if "nll" in case or "kl" in case:
        other = other.log_softmax(0)
    shape = [1, -1, 1][: args[0].ndim] if args[0].ndim > 1 else [-1]
    tensors = [a.double() if a.is_floating_point() else a for a in args[1:]]
    options = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    loss = function(other.view(shape).expand(args[0].shape), *tensors, **options).mean()
    assert float(loss) >= found.best_constant - 1e-9


def test_what_counts():
    function, args, *_ = CLOSED_FORMS["cross_entropy, ignored"]
    found = references(seen(function, *args))
    assert (found.examples, found.classes, found.dense) == (30, 3, False)
    function, args, *_ = CLOSED_FORMS["cross_entropy, dense"]
    found = references(seen(function, *args), batch_size=4)
    assert (found.examples, found.dense) == (40, True)
    flat = references(seen(F.cross_entropy, logits(N, 3), CLASS), batch_size=4)  # tokens of 4 texts, flattened
    assert flat.dense


def test_no_reference():
    with pytest.raises(NotComparableError, match="cosine_embedding_loss"):
        references(seen(F.cosine_embedding_loss, logits(N, 3), logits(N, 3), torch.ones(N)))
    with pytest.raises(NotComparableError, match="log-probabilities"):
        references(seen(F.nll_loss, logits(N, 3).softmax(1), CLASS))


def test_classes_that_do_not_occur_have_no_probability():
    found = references(seen(F.cross_entropy, logits(50, 10), torch.arange(50) % 2))
    assert found.constant[2:].max() < math.log(1e-20)  # rounding leaves 1e-17
