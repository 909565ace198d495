"""Why numbers stopped being finite, and what to do: by the function in which they did."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lightning_recipe.losses.table import CROSS_ENTROPY, CTC, NLL
from lightning_recipe.record.origin import ATTENTION, INVERSES

if TYPE_CHECKING:
    from lightning_recipe.record.origin import Origin

LOGARITHMS = {"log", "log2", "log10", "log1p", "xlogy"}
SQUARE_ROOTS = {"sqrt", "rsqrt"}
ROOTS = {"sqrt", "rsqrt", "norm", "linalg_norm", "linalg_vector_norm", "linalgvectornorm", "cdist", "std"}
DIVISIONS = {"div", "truediv", "rdiv", "rtruediv", "reciprocal", "divide", "true_divide"}
EXPONENTIALS = {"exp", "exp2", "expm1", "pow", "sinh", "cosh"}
ANY: set[str] = set()


class Rule(NamedTuple):
    """A usual cause.

    Attributes:
        functions: In which it shows; `ANY` for all.
        fact: The attribute of the origin that has to be true, if one has to.
        cause: What happened.
        fix: What to do.

    """

    functions: set[str]
    fact: str
    cause: str
    fix: str


TOO_LARGE = "numbers too large for the precision"
STABLE = "log(x + 1e-8), or log_softmax and logsigmoid of the logits"
UNUSED = ("it is infinite where the value isn't used, too", "choose with where() what goes in, not what comes out")
FORWARD = (
    Rule(ANY, "empty", "the mean of nothing, as where a mask leaves none", "divide the sum by count.clamp(min=1)"),
    Rule(LOGARITHMS, "negative", "the logarithm of a negative number", STABLE),
    Rule(LOGARITHMS, "", "the logarithm of 0", STABLE),
    Rule(DIVISIONS, "by_norm", "a vector of zeros, divided by its norm", "F.normalize(x), which has an eps"),
    Rule(
        DIVISIONS,
        "zeros",
        "a division by 0, as by the count of an empty mask",
        "clamp(min=1) a count, add 1e-8 to a scale",
    ),
    Rule(
        ATTENTION, "infinite", "a row that is masked entirely", "let each position see at least one, itself for example"
    ),
    Rule(
        {"mul", "rmul", "multiply"},
        "infinite",
        "0 times infinity, as of a masked entry and its logarithm",
        "fill with -1e9 in place of -inf, or choose with where() before they are multiplied",
    ),
    Rule(SQUARE_ROOTS, "negative", "the root of a negative number", "x.clamp(min=1e-8).sqrt()"),
    Rule(SQUARE_ROOTS, "zeros", "a division by the root of 0", "x.clamp(min=1e-8).rsqrt()"),
    Rule({CROSS_ENTROPY, NLL}, "", "the mean over targets all of which are ignored", "leave such batches out"),
    Rule({"std", "var", "std_mean", "var_mean"}, "", "the deviation of one value", "correction=0, or larger batches"),
    Rule(INVERSES, "", "a number outside of its domain", "x.clamp(-1 + 1e-6, 1 - 1e-6)"),
    Rule(ANY, "half", "an overflow in half precision (float16 ends at 65504)", 'this part in float32, or "bf16-mixed"'),
    Rule(
        EXPONENTIALS,
        "",
        "an exponential that is too large",
        "softmax() or logsumexp() in place of its own formula, or clamp what goes in",
    ),
    Rule(
        {CTC},
        "",
        "sequences that are too short for their target",
        "leave out what has fewer time steps than labels and repeats, or CTCLoss(zero_infinity=True)",
    ),
    Rule(ANY, "", TOO_LARGE, "a lower learning rate, or Trainer(gradient_clip_val=...)"),
)
BACKWARD = (
    Rule(ROOTS, "", "it is infinite at 0", "(x + 1e-8).sqrt(); of a norm (x.square().sum() + 1e-8).sqrt()"),
    Rule({"pow"}, "", "of a power below 1 it is infinite at 0", "add 1e-8 to what goes in"),
    Rule(LOGARITHMS | DIVISIONS | {"atan2"}, "", *UNUSED),
    Rule(INVERSES, "unused", *UNUSED),
    Rule(INVERSES, "", "it is infinite at -1 and 1", "x.clamp(-1 + 1e-6, 1 - 1e-6)"),
    Rule(ANY, "half", "an overflow in half precision", 'precision="16-mixed" scales the loss; "bf16-mixed" need not'),
    Rule(ANY, "", "it is too large, or 0 times infinity", "look at what goes in; where() hides values, not gradients"),
)


def cause(origin: Origin) -> tuple[str, str]:
    """The usual cause of an origin, and its fix.

    Example:
        >>> from lightning_recipe.record.origin import Origin
        >>> cause(Origin("log", "net", "model.py:3", zeros=True))[0]
        'the logarithm of 0'

    """
    rules = BACKWARD if origin.backward else FORWARD
    fitting = (r for r in rules if not r.functions or origin.function in r.functions)
    rule = next(r for r in fitting if not r.fact or getattr(origin, r.fact))
    return rule.cause, rule.fix
